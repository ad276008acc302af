"""Lights: what each lane is shown, by the engine or, when it is silent, by the gateway itself.

Rule 10 of CKP/1: a gateway that hears nothing for 80 ms after a scan shows its own verdict, marked
as local: valid code or not, seen at this post or not. It knows no watch list, no other post and no
history from before its start, and it decides nothing of what is kept.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Literal

import msgspec
import numpy as np

from engine import payloads
from engine.clock import Clock, ms_to_day
from engine.errors import WireClock, WireMalformed
from engine.gateway.sources import Records
from engine.gateway.status import GatewayStats
from engine.scans import people
from engine.scans.dedup import HERE, SeenWindow, Spans
from engine.scans.people import Identity
from engine.scans.records import ENTRY, decode_manual, decode_scans
from engine.scans.rows import Kind
from engine.wire.frames import Nack, Result

SILENCE_S: Final = 0.08
LATE_MS: Final = 10_000  # a verdict that comes later belongs to nobody at the barrier any more
EXPECTED_MAX: Final = 4_096  # messages whose verdicts are awaited
_NACK_REASONS: Final = {WireClock.wire: "clock"}
EARLY_MAX: Final = 256  # messages judged whose number is not known yet, or never will be


class Light(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a lane shows for one scan, as JSON for whoever drives the lamp.

    seq: of the message at the engine, absent when the light is local and came before the spool's
    commit. local: the gateway's own. late: the person has long passed; not for a lamp.
    """

    seq: int = 0
    verdict: Literal["accepted", "seen", "refused", "alert"]
    lane: int
    n: int = 0
    reason: str | None = None
    name: str | None = None
    local: bool = False
    late: bool = False


class LocalJudge:
    """The gateway's own verdicts. window_ms: as the engine's passage window."""

    def __init__(self, clock: Clock, window_ms: int) -> None:
        self._clock = clock
        self._seen = SeenWindow([Spans(0, window_ms)], capacity=1 << 10)
        # Persons are compared only while this process runs, so their keys end with it.
        self._key = secrets.token_bytes(32)

    def scan(self, lane: int, n: int, ts_ms: int, payload: bytes) -> Light:
        parsed = payloads.parse(payload, today_day=ms_to_day(self._clock.now_ms()))
        if isinstance(parsed, payloads.VenueCode | payloads.VenueLink):
            return _refused(lane, n, "unsupported_context")
        if isinstance(parsed, payloads.Chunk):
            return _refused(lane, n, "incomplete")
        return self._person(lane, n, ts_ms, parsed)

    def manual(self, lane: int, n: int, ts_ms: int, fields: dict[str, str]) -> Light:
        return self._person(lane, n, ts_ms, people.fields_to_parsed(fields), is_manual=True)

    def _person(
        self,
        lane: int,
        n: int,
        ts_ms: int,
        parsed: payloads.Parsed | payloads.Refusal,
        *,
        is_manual: bool = False,
    ) -> Light:
        if isinstance(parsed, payloads.Refusal):
            return _refused(lane, n, parsed.reason)
        identity = people.identify(parsed)
        if identity is None and not is_manual:
            return _refused(lane, n, "malformed_id")
        is_seen = identity is not None and self._is_seen(identity, lane, ts_ms)
        name = people.mask_name(parsed.name_nfc)
        verdict: Literal["seen", "accepted"] = "seen" if is_seen else "accepted"
        return Light(verdict=verdict, lane=lane, n=n, name=name, local=True)

    def _is_seen(self, identity: Identity, lane: int, ts_ms: int) -> bool:
        words = "\0".join((identity.kind, identity.issuer, identity.canonical))
        person = blake2b(words.encode(), digest_size=16, key=self._key).digest()
        place = bytes(4)  # a box stands at one post
        flags = self._seen.see(
            person, place, lane.to_bytes(2, "little"), ts_ms.to_bytes(8, "little")
        )
        return bool(flags[0] & HERE)


def _refused(lane: int, n: int, reason: str) -> Light:
    return Light(verdict="refused", lane=lane, n=n, reason=reason, local=True)


class Expected:
    """A message whose verdicts are awaited: our own, by record, until they are answered."""

    __slots__ = ("begun_ms", "lights", "seq", "timer")

    def __init__(self, lights: Sequence[Light], begun_ms: int) -> None:
        self.lights = {light.n: light for light in lights}
        self.begun_ms = begun_ms
        self.seq = 0
        self.timer: asyncio.TimerHandle | None = None


class Lights:
    """Verdicts of all lanes on their way to whoever shows them. Used from one event loop.

    show: called for every light, the engine's and ours. past: by epoch, the last number that an
    earlier process captured.
    """

    def __init__(
        self,
        judge: LocalJudge,
        clock: Clock,
        stats: GatewayStats,
        show: Callable[[Light], None],
        past: dict[int, int],
    ) -> None:
        self.is_linked = False  # a session with the engine stands
        self._judge = judge
        self._clock = clock
        self._stats = stats
        self._show = show
        self._is_overdue = False  # the last scan got no answer in time
        self._expected: OrderedDict[tuple[int, int], Expected] = OrderedDict()
        self._readings: OrderedDict[tuple[int, int], int] = OrderedDict()  # when they came
        # A message can be sent and judged before the spool's thread has told us its number.
        self._early: OrderedDict[tuple[int, int], set[int]] = OrderedDict()
        self._past = past  # up to these numbers nobody waits any more

    @property
    def is_silent(self) -> bool:
        """The engine would not answer now: lanes are shown our own verdict at once."""
        return self._is_overdue or not self.is_linked

    def expect(self, records: Records) -> Expected | None:
        """A message of a lane on its way to the spool; None when it has nobody for a lamp.

        With a silent engine our own verdict is shown now, else after SILENCE_S without an answer.
        Give `number` what this returned, once the message has its number.
        """
        lights = self._judge_records(records)
        if not lights:
            return None
        expected = Expected(lights, self._clock.now_ms())
        if self.is_silent:
            self._show_local(expected)
        else:
            loop = asyncio.get_running_loop()
            expected.timer = loop.call_later(SILENCE_S, self._give_up, expected)
        return expected

    def number(self, expected: Expected, epoch: int, seq: int) -> None:
        """The message is in the spool."""
        expected.seq = seq
        key = epoch, seq
        for n in self._early.pop(key, ()):
            expected.lights.pop(n, None)
        self._expected[key] = expected
        if not expected.lights:
            self._forget(key)
        elif len(self._expected) > EXPECTED_MAX:
            (epoch, seq), _ = self._expected.popitem(last=False)
            self._past[epoch] = max(seq, self._past.get(epoch, 0))

    def measured(self, epoch: int, seq: int, taken_ms: int) -> None:
        """A thermal reading is in the spool; the engine answers it when it is a fever."""
        self._readings[epoch, seq] = taken_ms
        if len(self._readings) > EXPECTED_MAX:
            (epoch, seq), _ = self._readings.popitem(last=False)
            self._past[epoch] = max(seq, self._past.get(epoch, 0))

    def answered(self, epoch: int, result: Result, taken_ms: int = 0) -> None:
        """A verdict of the engine. Of a camera frame epoch is 0; taken_ms: when it came to us."""
        self._is_overdue = False
        verdict = result.verdict
        if epoch:
            is_late = self._settle((epoch, result.seq), verdict.n)
        else:
            is_late = taken_ms > 0 and self._clock.now_ms() - taken_ms > LATE_MS
        self._show(
            Light(
                seq=result.seq,
                verdict=verdict.verdict,
                lane=verdict.lane,
                n=verdict.n,
                reason=verdict.reason,
                name=verdict.name,
                late=is_late,
            )
        )

    def not_taken(self, epoch: int, nack: Nack) -> None:
        """A record that the engine could not take, and will not keep: our own verdict would let by
        somebody of whom nothing is written down."""
        self._is_overdue = False
        key = epoch, nack.seq
        expected = self._expected.get(key)
        if expected is None or nack.index not in expected.lights:
            return  # of nobody who stands at a lane
        lane = expected.lights[nack.index].lane
        is_late = self._settle(key, nack.index)
        reason = _NACK_REASONS.get(nack.code, "malformed")
        self._show(
            Light(
                seq=nack.seq,
                verdict="refused",
                lane=lane,
                n=nack.index,
                reason=reason,
                late=is_late,
            )
        )

    def _settle(self, key: tuple[int, int], n: int) -> bool:
        """One record of a message is answered; whether too late for a lamp."""
        taken_ms = self._readings.pop(key, None)
        if taken_ms is not None:
            return self._clock.now_ms() - taken_ms > LATE_MS
        expected = self._expected.get(key)
        if expected is None:
            epoch, seq = key
            self._early.setdefault(key, set()).add(n)
            if len(self._early) > EARLY_MAX:
                self._early.popitem(last=False)
            return seq <= self._past.get(epoch, 0)
        expected.lights.pop(n, None)
        if not expected.lights:
            self._forget(key)
        return self._clock.now_ms() - expected.begun_ms > LATE_MS

    def _judge_records(self, records: Records) -> list[Light]:
        """Our own verdict on each who stands there now; what was recorded lights no lamp."""
        packed, _ = decode_scans(records.body)
        now_ms = self._clock.now_ms()
        lights = []
        for entry in np.frombuffer(packed, ENTRY):
            lane, n, ts_ms = int(entry["lane"]), int(entry["n"]), int(entry["time_ms"])
            who = records.body[entry["who_off"] :][: entry["who_len"]]
            if abs(now_ms - ts_ms) > LATE_MS:
                continue
            if entry["kind"] == Kind.SCAN:
                lights.append(self._judge.scan(lane, n, ts_ms, who))
            elif entry["kind"] == Kind.MANUAL:
                aux = records.body[entry["aux_off"] :][: entry["aux_len"]]
                try:
                    fields, _, _ = decode_manual(who, aux)
                except WireMalformed:
                    lights.append(_refused(lane, n, "malformed"))
                else:
                    lights.append(self._judge.manual(lane, n, ts_ms, fields))
        return lights

    def _give_up(self, expected: Expected) -> None:
        if expected.lights:
            self._is_overdue = True
            self._show_local(expected)

    def _show_local(self, expected: Expected) -> None:
        for light in expected.lights.values():
            self._stats.lights_local += 1
            self._show(msgspec.structs.replace(light, seq=expected.seq))

    def _forget(self, key: tuple[int, int]) -> None:
        timer = self._expected.pop(key).timer
        if timer is not None:
            timer.cancel()
