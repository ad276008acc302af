"""The card reader: payloads to persons, with what an engine knows: the day, whose signatures count,
and the parts of cards that wait for their others.

A lane that was shown one part of a card in several codes has nobody yet. It is told so, and the
part waits for the next one at the same lane.
"""

from __future__ import annotations

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


class CardReader:
    """Used from one thread, but for `prepare`."""

    def __init__(
        self, settings: Settings, clock: Clock, metrics: Metrics, trust: Trust | None = None
    ) -> None:
        self._venue_host = settings.venue_host
        self._clock = clock
        self._metrics = metrics
        self._trust = trust or NoTrust()
        self._chunks: OrderedDict[Hashable, dict[int, tuple[int, Chunk]]] = OrderedDict()

    def prepare(self, payload: bytes) -> None:
        """Has a pass's signature checked, so that `read` need not. For threads of the pool."""
        if payloads.is_signed(payload):
            payloads.parse(payload, trust=self._trust)

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
        """The whole card once all parts are there. They stay a while: a message whose commit failed
        comes again, and its part must find the others then too."""
        if lane is None:
            return _INCOMPLETE
        waiting = self._chunks.setdefault(lane, {})
        self._chunks.move_to_end(lane)
        if len(self._chunks) > LANES_MAX:
            self._chunks.popitem(last=False)
        for index, (since_ms, other) in list(waiting.items()):
            if other.total != chunk.total or abs(now_ms - since_ms) > CHUNK_WAIT_MS:
                del waiting[index]
        waiting[chunk.index] = now_ms, chunk
        if len(waiting) < chunk.total:
            return _INCOMPLETE
        parts = [part for _, part in waiting.values()]
        outcome = payloads.join_chunks(parts, now_s=now_ms / 1000, trust=self._trust)
        if isinstance(outcome, Refusal):
            # The one before may have left a part here: what it makes with this one is nobody's.
            self._chunks[lane] = {chunk.index: (now_ms, chunk)}
            return _INCOMPLETE if outcome.reason == "malformed" else outcome
        return outcome
