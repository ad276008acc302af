"""Readings: temperatures at a lane, and the scans they belong to (SY-4).

A terminal measures and a camera scans within seconds, in either order. A reading names its scan, or
it takes the nearest one of its lane that no other reading has; one that came first waits for the
scan. Both sides remember whom they took, so that what is sent again takes the same again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from engine.errors import WireMalformed
from engine.scans.people import Details
from engine.wire.frames import Report

KEPT_MAX: Final = 64  # of a lane, scans and readings each: far more than pass within a window
BODY_CC: Final = range(2000, 5001)  # of something alive, 0.01 degrees Celsius

T = TypeVar("T", "Sighted", "Reading")
Ref = tuple[int, int, int, int]  # gateway, epoch, seq, n


@dataclass(slots=True)
class Sighted:
    """A scan that a reading may belong to. name: masked. taken_by: (device, ts_ms) of a reading."""

    ref: Ref | None
    time_ms: int
    person: bytes
    name: str
    taken_by: tuple[str, int] | None = None


@dataclass(slots=True)
class Reading:
    """A temperature. taken_by: (person, time_ms) of the scan that took it."""

    report: Report
    temperature_cc: int
    taken_by: tuple[bytes, int] | None = None

    @property
    def time_ms(self) -> int:
        return self.report.ts_ms

    @property
    def mark(self) -> tuple[str, int]:
        """What it is told apart by from other readings of its lane."""
        return self.report.device, self.report.ts_ms


@dataclass(slots=True)
class _Lane:
    """Both in the order in which they came, the oldest first to go."""

    scans: dict[tuple[bytes, int, Ref | None], Sighted] = field(default_factory=dict)
    readings: dict[tuple[str, int], Reading] = field(default_factory=dict)


class Readings:
    """What lanes saw and measured lately; used from one thread."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[int, int], _Lane] = {}

    def note(self, place: int, lane: int, scan: Sighted) -> None:
        """A scan of a lane, for readings that come later."""
        scans = self._lane(place, lane).scans
        # Of what is sent again the first stays, and whoever took it keeps it.
        scans.setdefault((scan.person, scan.time_ms, scan.ref), scan)
        if len(scans) > KEPT_MAX:
            del scans[next(iter(scans))]

    def owner(
        self, place: int, lane: int, reading: Reading, window_ms: int, ref: Ref | None = None
    ) -> Sighted | None:
        """The scan that a reading belongs to. Without one it waits, but for one that is named."""
        at = self._lane(place, lane)
        mark = reading.mark
        if ref is not None:
            found = next((scan for scan in at.scans.values() if scan.ref == ref), None)
        else:
            free = (scan for scan in at.scans.values() if scan.taken_by in (None, mark))
            found = _nearest(free, reading.time_ms, window_ms)
        if found is not None:
            found.taken_by = mark
        elif ref is None:
            at.readings.setdefault(mark, reading)
            if len(at.readings) > KEPT_MAX:
                del at.readings[next(iter(at.readings))]
        return found

    def is_waiting(self, place: int, lane: int) -> bool:
        """Whether any reading may wait there; most lanes have no terminal."""
        at = self._lanes.get((place, lane))
        return at is not None and bool(at.readings)

    def take(
        self, place: int, lane: int, person: bytes, time_ms: int, window_ms: int
    ) -> Reading | None:
        """The reading that waits for this scan."""
        mark = (person, time_ms)
        waiting = self._lane(place, lane).readings.values()
        free = (reading for reading in waiting if reading.taken_by in (None, mark))
        found = _nearest(free, time_ms, window_ms)
        if found is not None:
            found.taken_by = mark
        return found

    def _lane(self, place: int, lane: int) -> _Lane:
        # Only lanes that the registry gave to a gateway come here, so there are few.
        found = self._lanes.get((place, lane))
        if found is None:
            found = self._lanes[place, lane] = _Lane()
        return found


def report_to_reading(report: Report) -> Reading:
    """Raises WireMalformed for what is no temperature of a body in a unit that we know."""
    unit = (report.unit or "C").strip().removeprefix("°").casefold()
    value = report.value
    if value is None or not -1000 < value < 1000:  # also what is no number
        raise WireMalformed("a thermal reading has a value")
    if unit in ("f", "fahrenheit"):
        value = (value - 32) * 5 / 9
    elif unit not in ("c", "celsius"):
        raise WireMalformed("a thermal reading is in C or F")
    temperature_cc = round(value * 100)
    if temperature_cc not in BODY_CC:
        raise WireMalformed("a thermal reading is not of a body")
    return Reading(report, temperature_cc)


def note_report(details: Details, report: Report) -> Details:
    """The details with what the terminal said, letter for letter."""
    return msgspec.structs.replace(
        details,
        reading=repr(report.value),
        reading_unit=report.unit or "",
        calibration=report.calibration or "",
        device=report.device,
    )


def _nearest(found: Iterable[T], time_ms: int, window_ms: int) -> T | None:
    near = [one for one in found if abs(one.time_ms - time_ms) <= window_ms]
    return min(near, key=lambda one: abs(one.time_ms - time_ms), default=None)
