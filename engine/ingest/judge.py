"""The judge: who stands at the barrier is accepted, seen or alarmed about; before the disk knows.

A candidate comes with its identity; it leaves with the flags of its row, and the lane gets a
verdict. A verdict never decides what is kept, and tells a lane no more than it needs.
docs/verdicts.md has the table.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from engine.identity.watch import WatchList
from engine.ingest.readings import Reading, Readings, Sighted, note_report
from engine.scans import people
from engine.scans.dedup import HERE, LANES, ROAD, SeenWindow
from engine.scans.people import Details
from engine.scans.rows import NO_TEMPERATURE, ROW, ROW_SIZE, Flag, Kind, Source
from engine.wire.frames import Report, Verdict

# Reasons of an alert as the lane sees them, the most urgent first.
ALERTS: Final = ("call_desk", "fever", "two_posts", "two_lanes")

# Of a ROW: person, time_ms, place, lane, n and flags; and its person alone.
_SCAN: Final = struct.Struct("<16sqIHH3xB12x")
_PERSON: Final = struct.Struct("16s32x")
_TEMPERATURE: Final = struct.Struct("<h")
_FLAGS_AT, _TEMPERATURE_AT = 35, 36
assert _SCAN.size == _PERSON.size == ROW_SIZE and ROW.fields is not None
assert [ROW.fields[name][1] for name in ("flags", "temperature_cc")] == [35, 36]

Light = Literal["accepted", "seen", "alert"]
Message = tuple[int, int, int]  # gateway, epoch, seq of class 0


@dataclass(slots=True)
class Candidate:
    """A record that names a person: everything that verdict and row need."""

    n: int
    kind: Kind
    lane: int
    time_ms: int
    place: int
    direction: int
    source: Source
    person: bytes
    details: Details
    flags: int = 0
    temperature_cc: int = NO_TEMPERATURE
    stay_ms: int = 0  # told length of a check-in's visit, 0 where none
    vehicle: int = 0  # number of a plate or trip (KeyRing.vehicle_number), 0 for none
    reading: Reading | None = None  # of a Kind.READING
    scan: tuple[int, int] | None = None  # (seq, n) of the record that it names
    alarms: tuple[str, ...] = ()  # every reason for an alert, of which the lane hears one


def light(flags: int, sighting: int) -> tuple[Light, str | None]:
    """Verdict and reason of a row at a post, by its flags and what engine.scans.dedup answered."""
    # A lane never learns why somebody is on the list: it may be their health.
    alarms = (flags & Flag.LISTED, flags & Flag.FEVER, sighting & ROAD, sighting & LANES)
    for reason, is_so in zip(ALERTS, alarms, strict=True):
        if is_so:
            return "alert", reason
    return ("seen" if sighting & HERE else "accepted"), None


class Judge:
    """One instance an engine, used from the event loop only. It never waits."""

    def __init__(
        self,
        seen: SeenWindow,
        watch: WatchList,
        rule: Callable[[str, int], int],
    ) -> None:
        """rule: value of a rule at an instant (Registry.rule)."""
        self._seen = seen
        self._watch = watch
        self._rule = rule
        self._readings = Readings()

    def judge(self, candidates: Sequence[Candidate], message: Message | None) -> list[Verdict]:
        """Verdicts of those who stand at a post; a check-in has no light. Sets flags and alarms.

        message: what they came in, None for a camera frame.
        """
        verdicts = []
        at_post = []
        for candidate in candidates:
            if candidate.kind == Kind.READING:
                verdicts += self._measured(candidate, message)
                continue
            if self._watch.find(candidate.person, candidate.time_ms):
                _alarm(candidate, Flag.LISTED, "call_desk")
            if candidate.kind != Kind.CHECKIN:
                at_post.append(candidate)
        if not at_post:
            return verdicts
        sightings = self._see(
            [c.person for c in at_post],
            [c.place for c in at_post],
            [c.lane for c in at_post],
            [c.time_ms for c in at_post],
        )
        for candidate, sighting in zip(at_post, sightings, strict=True):
            name = people.mask_name(candidate.details.name)
            self._tie(candidate, name, message)
            verdicts.append(self._verdict(candidate, sighting, name))
        return verdicts

    def judge_rows(
        self, rows: bytearray, names: Sequence[str], message: Message | None
    ) -> tuple[list[Verdict], list[str], dict[int, Report]]:
        """As judge, of packed ROW: check-ins, or scans. Sets flags and temperatures in the rows.

        names: masked, of each scan; none of check-ins. (verdicts, alarms, what a terminal said that
        belongs into the details of a row, by position).
        """
        alarms = []
        reports: dict[int, Report] = {}
        for i in self._listed(rows) if self._watch else ():
            rows[i * ROW_SIZE + _FLAGS_AT] |= Flag.LISTED
            alarms.append("call_desk")
        if not names:
            return [], alarms, reports
        scans = list(_SCAN.iter_unpack(rows))
        persons, times_ms, places, lanes, *_ = zip(*scans, strict=True)
        sightings = self._see(persons, places, lanes, times_ms)
        verdicts = []
        for i, (scan, sighting, name) in enumerate(zip(scans, sightings, names, strict=True)):
            person, time_ms, place, lane, n, flags = scan
            found = self._waiting(place, lane, person, time_ms)
            ref = (*message, n) if message else None
            mark = found.mark if found else None
            self._readings.note(place, lane, Sighted(ref, time_ms, person, name, mark))
            if found:
                _TEMPERATURE.pack_into(rows, i * ROW_SIZE + _TEMPERATURE_AT, found.temperature_cc)
                reports[i] = found.report
                if self._is_fever(found):
                    flags |= Flag.FEVER
                    alarms.append("fever")
            if sighting & (ROAD | LANES):
                flags |= Flag.COPIED
                alarms.append("two_posts" if sighting & ROAD else "two_lanes")
            rows[i * ROW_SIZE + _FLAGS_AT] = flags
            verdict, reason = light(flags, sighting) if flags or sighting else ("accepted", None)
            verdicts.append(Verdict(verdict=verdict, lane=lane, n=n, reason=reason, name=name))
        return verdicts, alarms, reports

    def _listed(self, rows: bytearray) -> list[int]:
        """Positions of those who are on the watch list at the time of their row."""
        persons = [person for (person,) in _PERSON.iter_unpack(rows)]
        if not self._watch.may_find(persons):
            return []
        times_ms = [scan[1] for scan in _SCAN.iter_unpack(rows)]
        return [i for i, person in enumerate(persons) if self._watch.find(person, times_ms[i])]

    def _see(
        self,
        persons: Iterable[bytes],
        places: Iterable[int],
        lanes: Iterable[int],
        times_ms: Iterable[int],
    ) -> bytes:
        columns = array("I", places), array("H", lanes), array("q", times_ms)
        return self._seen.see(b"".join(persons), *(column.tobytes() for column in columns))

    def _verdict(self, candidate: Candidate, sighting: int, name: str) -> Verdict:
        if sighting & (ROAD | LANES):
            _alarm(candidate, Flag.COPIED, "two_posts" if sighting & ROAD else "two_lanes")
        verdict, reason = light(candidate.flags, sighting)
        return Verdict(
            verdict=verdict, lane=candidate.lane, n=candidate.n, reason=reason, name=name
        )

    # ---- temperatures -----------------------------------------------------------------------

    def _tie(self, scan: Candidate, name: str, message: Message | None) -> None:
        """The temperature that waits for this scan goes on its row; one that comes later is a row
        of its own."""
        found = self._waiting(scan.place, scan.lane, scan.person, scan.time_ms)
        ref = (*message, scan.n) if message else None
        sighted = Sighted(ref, scan.time_ms, scan.person, name, found.mark if found else None)
        self._readings.note(scan.place, scan.lane, sighted)
        if found is None:
            return
        scan.temperature_cc = found.temperature_cc
        scan.details = note_report(scan.details, found.report)
        self._note_fever(scan, found)

    def _waiting(self, place: int, lane: int, person: bytes, time_ms: int) -> Reading | None:
        """The reading that waits for a scan; taken by it from now on."""
        if not self._readings.is_waiting(place, lane):
            return None
        window_ms = self._rule("thermal_window_s", time_ms) * 1000
        return self._readings.take(place, lane, person, time_ms, window_ms)

    def _measured(self, candidate: Candidate, message: Message | None) -> list[Verdict]:
        """Whose a temperature is, if the scan came before it. The lane hears of a fever only."""
        reading = candidate.reading
        assert reading is not None and message is not None
        ref = (message[0], message[1], *candidate.scan) if candidate.scan else None
        window_ms = self._rule("thermal_window_s", candidate.time_ms) * 1000
        scan = self._readings.owner(candidate.place, candidate.lane, reading, window_ms, ref)
        if scan is not None:
            candidate.person = scan.person
        self._note_fever(candidate, reading)
        if not candidate.flags & Flag.FEVER:
            return []
        name = scan.name if scan is not None else None
        return [Verdict(verdict="alert", lane=candidate.lane, reason="fever", name=name)]

    def _note_fever(self, candidate: Candidate, reading: Reading) -> None:
        if self._is_fever(reading):
            _alarm(candidate, Flag.FEVER, "fever")

    def _is_fever(self, reading: Reading) -> bool:
        return reading.temperature_cc >= self._rule("fever_threshold_cc", reading.time_ms)


def _alarm(candidate: Candidate, flag: Flag, reason: str) -> None:
    candidate.flags |= flag
    candidate.alarms += (reason,)
