"""What the engine knows of each gateway beside its streams: newest scan, clock, absence.

By gateway name, over all of its links, since the engine opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from engine.clock import Clock
from engine.telemetry import Sample


class Gateways:
    """Used from one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._opened_ms = clock.now_ms()
        self._newest_ms: dict[str, int] = {}
        self._heard_ms: dict[str, int] = {}
        self._offsets_ms: dict[str, int] = {}

    def note_time(self, name: str, time_ms: int) -> None:
        """A scan came that was made at this time."""
        if time_ms > self._newest_ms.get(name, 0):
            self._newest_ms[name] = time_ms

    def note_offset(self, name: str, offset_ms: int) -> None:
        self._offsets_ms[name] = offset_ms

    def note_end(self, name: str) -> None:
        """A link of it ended."""
        self._heard_ms[name] = self._clock.now_ms()

    def states(
        self, known: Set[str], open_since_ms: Mapping[str, int]
    ) -> list[tuple[str, int, bool]]:
        """(name, how long it may hold back scans in ms, whether it is connected) by gateway.

        known: gateways that the log has something of. open_since_ms: of each that is connected,
        when its oldest message came that is not yet durable, 0 for none.

        One that is connected is behind by the age of that message; one that left, by the time
        since. What a gateway keeps that has not come since the engine opened nobody knows: it is
        behind by all that time.
        """
        now_ms = self._clock.now_ms()
        behind = dict.fromkeys(known, now_ms - self._opened_ms)
        behind |= {name: now_ms - heard_ms for name, heard_ms in self._heard_ms.items()}
        behind |= {name: now_ms - (since or now_ms) for name, since in open_since_ms.items()}
        return [(name, span_ms, name in open_since_ms) for name, span_ms in sorted(behind.items())]

    def samples(self) -> Iterator[Sample]:
        for name, time_ms in self._newest_ms.items():
            yield "chot_gateway_newest_scan_seconds", (name,), time_ms / 1000
        for name, offset_ms in self._offsets_ms.items():
            yield "chot_gateway_clock_offset_seconds", (name,), offset_ms / 1000
