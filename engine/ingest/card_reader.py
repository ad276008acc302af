"""The card reader: payloads to persons, with what an engine knows: the day, whose signatures count,
and the parts of cards that wait for their others.

A lane that was shown one part of a card in several codes has nobody yet. It is told so, and the
part waits for the next one at the same lane. What has a signature is looked at twice: in a thread
of the pool, which checks it, and then on the event loop, which finds it checked.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from engine import payloads
from engine.clock import Clock, ms_to_day
from engine.payloads import Chunk, NoTrust, Outcome, Parsed, Refusal, Trust
from engine.settings import Settings
from engine.telemetry import Metrics

CHUNK_WAIT_MS: Final = 60_000
LANES_MAX: Final = 4_096

_NOBODY: Final = Refusal("unsupported_context", "a venue's code where a person's is due")
_INCOMPLETE: Final = Refusal("incomplete", "a part of a card; the others are still to be shown")


class Parts:
    """What was shown of cards in several codes, by lane; bounded in lanes and in time. For one
    thread at a time."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[Hashable, dict[int, tuple[int, Chunk]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lanes)

    def add(self, lane: Hashable, chunk: Chunk, now_ms: int) -> list[Chunk]:
        """All parts of the card when they are there, else none. They stay a while: a message whose
        commit failed comes again, and its part must find the others then too."""
        waiting = self._lanes.setdefault(lane, {})
        self._lanes.move_to_end(lane)
        if len(self._lanes) > LANES_MAX:
            self._lanes.popitem(last=False)
        for index, (since_ms, other) in list(waiting.items()):
            if other.total != chunk.total or abs(now_ms - since_ms) > CHUNK_WAIT_MS:
                del waiting[index]
        waiting[chunk.index] = now_ms, chunk
        return [part for _, part in waiting.values()] if len(waiting) == chunk.total else []

    def keep_only(self, lane: Hashable, chunk: Chunk, now_ms: int) -> None:
        """The one before may have left a part here: what it makes with this one is nobody's."""
        self._lanes[lane] = {chunk.index: (now_ms, chunk)}


class CardReader:
    """Used from one thread, but for `prepare`."""

    def __init__(
        self, settings: Settings, clock: Clock, metrics: Metrics, trust: Trust | None = None
    ) -> None:
        self._venue_host = settings.venue_host
        self._clock = clock
        self._metrics = metrics
        self._trust = trust or NoTrust()
        self._parts = Parts()
        self._seen = Parts()  # by threads, before the loop's
        self._lock = threading.Lock()  # of _seen

    def prepare(self, payload: bytes, lane: Hashable | None = None) -> None:
        """Has a pass's signature checked, so that `read` need not; of a card in parts, with the
        last of them. For threads of the pool."""
        if not payloads.is_signed(payload):
            return
        outcome = payloads.parse(payload, trust=self._trust)
        if not isinstance(outcome, Chunk) or lane is None:
            return
        now_ms = self._clock.now_ms()
        with self._lock:
            parts = self._seen.add(lane, outcome, now_ms)
        if parts and isinstance(payloads.join_chunks(parts, trust=self._trust), Refusal):
            with self._lock:
                self._seen.keep_only(lane, outcome, now_ms)

    def read(self, payload: bytes, lane: Hashable | None = None) -> Parsed | Refusal:
        """lane: where parts of a card wait for one another; None where nobody shows any."""
        now_ms = self._clock.now_ms()
        outcome: Outcome = payloads.parse(
            payload,
            venue_host=self._venue_host,
            today_day=ms_to_day(now_ms),
            now_s=now_ms / 1000,
            trust=self._trust,
        )
        if isinstance(outcome, Chunk):
            outcome = self._join(outcome, lane, now_ms)
        if isinstance(outcome, Refusal):
            if outcome.is_lookalike:
                self._metrics.count("chot_lookalike_links")
            return outcome
        if not isinstance(outcome, Parsed):
            return _NOBODY
        if outcome.signature:
            self._metrics.count("chot_passes", outcome.signature)
        return outcome

    def _join(self, chunk: Chunk, lane: Hashable | None, now_ms: int) -> Outcome:
        """The whole card once all parts are there."""
        if lane is None:
            return _INCOMPLETE
        parts = self._parts.add(lane, chunk, now_ms)
        if not parts:
            return _INCOMPLETE
        outcome = payloads.join_chunks(parts, now_s=now_ms / 1000, trust=self._trust)
        if isinstance(outcome, Refusal):
            self._parts.keep_only(lane, chunk, now_ms)
            return _INCOMPLETE if outcome.reason == "malformed" else outcome
        return outcome
