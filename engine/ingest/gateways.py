"""What the engine knows of each gateway beside its streams: newest scan, clock, absence.

By gateway name, over all of its links, since the engine opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from engine.clock import Clock
from engine.telemetry import Log, Sample
from engine.wire.offsets import ONE_WAY_MS, ClockRule, OffsetFilter

_log = Log("gateways")


class GatewayClock:
    """The clock of one gateway over all of its links: its offset, and what follows from it."""

    def __init__(self, name: str, limit_ms: int) -> None:
        self.offset = OffsetFilter()
        self.rule = ClockRule(limit_ms)
        self._name = name

    def note_hello(self, there_ms: float, here_ms: float) -> None:
        """One stamp, late by the way here: good enough to see a clock that is far off."""
        if there_ms:  # 0: a client without a clock
            self.offset.add(there_ms - here_ms, ONE_WAY_MS)
            self._judge()

    def note_pong(self, t0_ms: float, t1_ms: float, t2_ms: float, t3_ms: float) -> None:
        if t1_ms and self.offset.add_stamps(t0_ms, t1_ms, t2_ms, t3_ms) is not None:
            self._judge()

    def _judge(self) -> None:
        best = self.offset.best
        if best is not None and self.rule.judge(best):
            ms = self.rule.correction_ms
            _log.warning("clock of a gateway is corrected", gateway=self._name, ms=ms)


class CommitWait:
    """How long batches of a gateway waited to be durable, all of them together."""

    __slots__ = ("count", "span_ns")

    def __init__(self) -> None:
        self.count = self.span_ns = 0


class Gateways:
    """Used from one event loop; `states` from any thread."""

    def __init__(self, clock: Clock, offset_max_ms: int, ahead_max_ms: int) -> None:
        self._clock = clock
        self._offset_max_ms = offset_max_ms
        self._ahead_max_ms = ahead_max_ms
        self._opened_ms = self.monotonic_ms()
        self._newest_ms: dict[str, int] = {}
        self._heard_ms: dict[str, int] = {}
        self._clocks: dict[str, GatewayClock] = {}
        self.commits: dict[int, CommitWait] = {}  # by number of the gateway

    def monotonic_ms(self) -> int:
        """Absences are told by a clock that nobody sets."""
        return self._clock.monotonic_ns() // 1_000_000

    def note_commit(self, number: int, span_ns: int) -> None:
        """A batch is durable that was given to the journal so long ago."""
        wait = self.commits.get(number)
        if wait is None:
            wait = self.commits[number] = CommitWait()
        wait.count += 1
        wait.span_ns += span_ns

    def note_time(self, name: str, time_ms: int) -> None:
        """A scan came that was made at this time.

        One from the future is refused, and would hide for ever that a camera is dead.
        """
        if time_ms > self._clock.now_ms() + self._ahead_max_ms:
            return
        if time_ms > self._newest_ms.get(name, 0):
            self._newest_ms[name] = time_ms

    def clock(self, name: str) -> GatewayClock:
        """What is known of its clock."""
        found = self._clocks.get(name)
        if found is None:
            found = self._clocks[name] = GatewayClock(name, self._offset_max_ms)
        return found

    def note_end(self, name: str) -> None:
        """A link of it ended."""
        self._heard_ms[name] = self.monotonic_ms()

    def states(
        self, known: Set[str], open_since_ms: Mapping[str, int]
    ) -> list[tuple[str, int, bool]]:
        """(name, how long it may hold back scans in ms, whether it is connected) by gateway.

        known: gateways that the log has something of. open_since_ms: of each that is connected,
        monotonic ms when its oldest message came that is not yet durable, 0 for none.

        One that is connected is behind by the age of that message; one that left, by the time
        since. What a gateway keeps that has not come since the engine opened nobody knows: it is
        behind by all that time.
        """
        now_ms = self.monotonic_ms()
        behind = dict.fromkeys(known, now_ms - self._opened_ms)
        behind |= {name: now_ms - heard_ms for name, heard_ms in self._heard_ms.copy().items()}
        behind |= {name: now_ms - (since or now_ms) for name, since in open_since_ms.items()}
        return [(name, span_ms, name in open_since_ms) for name, span_ms in sorted(behind.items())]

    def samples(self) -> Iterator[Sample]:
        for name, time_ms in self._newest_ms.items():
            yield "chot_gateway_newest_scan_seconds", (name,), time_ms / 1000
        for name, clock in self._clocks.items():
            if clock.offset.best is not None:
                offset_s = clock.offset.best.offset_ms / 1000
                yield "chot_gateway_clock_offset_seconds", (name,), offset_s
                correction_s = clock.rule.correction_ms / 1000
                yield "chot_gateway_clock_correction_seconds", (name,), correction_s
