"""The pipeline: the order of the stages of a scan, written once.

    record -> payload -> identity -> person key -> window -> verdict -> row -> batch

It runs on the event loop and touches neither sockets nor disk: what it returns is the verdict for
the lane's light (sent at once) and the batch for the journal (a receipt follows its commit). What
is refused is counted by reason and place and stored as a tally; the payload itself is dropped.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from engine import payloads, people
from engine.clock import Clock, ms_to_day
from engine.errors import (
    ImageInvalid,
    ImageTooLarge,
    InputError,
    SealBroken,
    WireClock,
    WireMalformed,
)
from engine.group import TALLY
from engine.journal import Part, RecordBatch, Run
from engine.judge import Candidate, Judge, Message
from engine.keys import KeyRing
from engine.people import Details, Identity
from engine.readings import note_report, report_to_reading
from engine.records import LOCAL_VERDICT, decode_credential, decode_extras, decode_manual
from engine.registry import Registry, Venue
from engine.rows import NOBODY, REASONS, Direction, Flag, Kind, Source
from engine.settings import Settings
from engine.telemetry import Metrics
from engine.wire import FORM_BIN, FORM_ID, Report, Verdict
from native.rows import RowBuffer

_SIZE = struct.Struct("<I")
# Records judged in one turn of the event loop: other lanes wait for a few milliseconds at most,
# whatever a gateway sends (CP-3).
STEP_RECORDS = 16

Tallies = Counter[tuple[int, int, str, int]]  # (place, lane, reason, instant) -> how many


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from: the registry's word for the gateway, never the gateway's own."""

    gateway: int
    epoch: int
    cls: int
    seq: int
    first: int  # where the run begins; seq itself but for LOST
    post: int  # place number of the gateway's post, 0 for a back end without one
    lanes: tuple[int, ...]  # of that post that the gateway serves
    correction_ms: int = 0  # taken off event times, because the gateway's clock is off by it
    flags: int = 0  # of every row: what was done about that clock
    is_repeat: bool = False  # stored and counted before: only the verdicts are wanted


@dataclass(slots=True)
class Fault:
    """A record that was not taken for a reason that its sender can mend (NACK)."""

    n: int
    error: InputError


@dataclass(slots=True)
class Outcome:
    """What one message came to.

    verdicts: of each record at a post, and of each refused one. batch: None where nothing needs to
    be kept, which only a camera frame and a repeat may say: a number of class 0 is always consumed
    durably.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    batch: RecordBatch | None = None


class Entry(NamedTuple):
    """One record of a SCANS body, in the order of engine.records.ENTRY."""

    kind: int
    direction: int
    who_form: int
    venue_form: int
    lane: int
    n: int
    time_ms: int
    who_off: int
    who_len: int
    venue_off: int
    venue_len: int
    aux_off: int
    aux_len: int
    flags: int
    source: int
    venue_id: int
    pad: bytes

    def who(self, body: bytes) -> bytes:
        return body[self.who_off : self.who_off + self.who_len]

    def venue(self, body: bytes) -> bytes:
        return body[self.venue_off : self.venue_off + self.venue_len]

    def aux(self, body: bytes) -> bytes:
        return body[self.aux_off : self.aux_off + self.aux_len]


class _Refused(Exception):
    """Ends the stages of one record early; never leaves this module."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Pipeline:
    """Holds the stages; one instance an engine, used from the event loop only."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        registry: Registry,
        keyring: KeyRing,
        judge: Judge,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._registry = registry
        self._keyring = keyring
        self._judge = judge
        self._metrics = metrics
        self._rows = RowBuffer()
        self._read = {
            Kind.SCAN: self._read_scan,
            Kind.CHECKIN: self._read_checkin,
            Kind.MANUAL: self._read_manual,
        }

    # ---- doors ------------------------------------------------------------------------------

    def take_records(
        self, origin: Origin, entries: np.ndarray, body: bytes, fault: int = -1
    ) -> Outcome:
        """A SCANS message: entries (engine.records.ENTRY) that point into body.

        fault: index of the first record that could not be read, -1 for none; what stands before it
        is taken, it and the rest are refused with one NACK.
        """
        return _last(self.record_steps(origin, entries, body, fault))

    def record_steps(
        self, origin: Origin, entries: np.ndarray, body: bytes, fault: int = -1
    ) -> Iterator[Outcome | None]:
        """As take_records, but a caller may do other things between the steps.

        None after every STEP_RECORDS records, and the outcome at the end.
        """
        records = [Entry._make(entry) for entry in entries.tolist()]
        unsure = [0] * len(records)
        if origin.correction_ms:
            for i, record in enumerate(records):
                time_ms, unsure[i] = self._event_time(origin, record.time_ms)
                records[i] = record._replace(time_ms=time_ms)
        heads = [(entry.n, entry.lane, entry.time_ms) for entry in records]
        error = WireMalformed("this record and those behind it cannot be read")
        faults = [Fault(fault, error)] if fault >= 0 else []

        def read(i: int) -> Candidate:
            made = self._read[Kind(records[i].kind)](origin, records[i], body)
            made.flags |= unsure[i]
            return made

        return self._steps(origin, heads, read, faults)

    def take_codes(self, origin: Origin, lane: int, time_ms: int, codes: list[bytes]) -> Outcome:
        """Codes that came into view in a camera frame; each is a scan of that lane."""
        time_ms, unsure = self._event_time(origin, time_ms)
        heads = [(n, lane, time_ms) for n in range(len(codes))]

        def read(i: int) -> Candidate:
            return self._scan(origin, heads[i], codes[i], unsure)

        return _last(self._steps(origin, heads, read, []))

    def take_report(self, origin: Origin, lane: int, report: Report) -> Outcome:
        """An EVENT. A thermal one becomes a row; health and notes are counted."""
        self._metrics.count("chot_events", report.kind)
        time_ms, unsure = self._event_time(origin, report.ts_ms)
        report = msgspec.structs.replace(report, ts_ms=time_ms)
        heads = [(0, lane, report.ts_ms)] if report.kind == "thermal" else []

        def read(i: int) -> Candidate:
            made = self._read_report(origin, lane, report)
            made.flags |= unsure
            return made

        return _last(self._steps(origin, heads, read, []))

    def take_fault(self, origin: Origin, error: InputError) -> Outcome:
        """A message that is consumed although nothing of it can be read."""
        return _last(self._steps(origin, [], _never, [Fault(0, error)]))

    def take_lost(self, origin: Origin, count: int) -> Outcome:
        """Sequence numbers that the gateway lost: the hole is recorded with its size."""
        tallies: Tallies = Counter({(origin.post, 0, "lost", self._clock.now_ms()): count})
        self._count([], [], tallies)
        return Outcome(batch=self._batch(origin, [], tallies))

    def _event_time(self, origin: Origin, time_ms: int) -> tuple[int, int]:
        """(time as corrected, flags). One that only its correction would put into the future was
        made after its clock was set, and before that was measured: it stays as it is."""
        corrected_ms = time_ms - origin.correction_ms
        if corrected_ms > self._newest_ms() >= time_ms:
            return time_ms, Flag.CLOCK_UNSURE
        return corrected_ms, 0

    def _newest_ms(self) -> int:
        """Later event times are refused."""
        return self._clock.now_ms() + self._settings.clock_ahead_max_s * 1000

    # ---- reading a record -------------------------------------------------------------------

    def _read_scan(self, origin: Origin, entry: Entry, body: bytes) -> Candidate:
        _check_lane(origin, entry.lane)
        flags = Flag.LOCAL_VERDICT if entry.flags & LOCAL_VERDICT else 0
        head = (entry.n, entry.lane, entry.time_ms)
        return self._scan(origin, head, entry.who(body), flags)

    def _scan(
        self, origin: Origin, head: tuple[int, int, int], payload: bytes, flags: int
    ) -> Candidate:
        parsed = self._parse_person(payload)
        return self._candidate(Kind.SCAN, head, _post(origin), Direction.NONE, parsed, flags)

    def _read_checkin(self, origin: Origin, entry: Entry, body: bytes) -> Candidate:
        if origin.post:
            # A lane's box that somebody opened must not be able to place people at a market.
            raise _Refused("unsupported_context")
        place = self._venue(entry, body)
        extras = decode_extras(entry.aux(body))
        head = (entry.n, extras.room, entry.time_ms)
        if entry.who_form == FORM_BIN:
            parsed = self._parse_person(entry.who(body))
            made = self._candidate(Kind.CHECKIN, head, place, entry.direction, parsed, 0)
        else:
            credential = decode_credential(entry.who(body))
            identity = people.credential_to_identity(
                [credential.kind, credential.value, credential.country]
            )
            if isinstance(identity, payloads.Refusal):
                raise _Refused(identity.reason)
            made = Candidate(
                entry.n, Kind.CHECKIN, extras.room, entry.time_ms, place, entry.direction,
                people.identity_to_source(identity), self._key(identity),
                people.identity_to_details(identity),
            )  # fmt: skip
        made.stay_ms = extras.stay_s * 1000
        if extras.plate or extras.trip or extras.seat:
            made.details = msgspec.structs.replace(
                made.details,
                plate=extras.plate or "",
                trip=extras.trip or "",
                seat=extras.seat or "",
            )
        return made

    def _read_report(self, origin: Origin, lane: int, report: Report) -> Candidate:
        """A temperature, nobody's yet: the judge finds whose it is."""
        _check_lane(origin, lane)
        reading = report_to_reading(report)
        return Candidate(
            0, Kind.READING, lane, report.ts_ms, _post(origin), Direction.NONE, Source.OTHER,
            NOBODY, note_report(Details(), report), temperature_cc=reading.temperature_cc,
            reading=reading, scan=report.scan,
        )  # fmt: skip

    def _read_manual(self, origin: Origin, entry: Entry, body: bytes) -> Candidate:
        _check_lane(origin, entry.lane)
        fields, officer, why = decode_manual(entry.who(body), entry.aux(body))
        parsed = people.fields_to_parsed(fields)
        if isinstance(parsed, payloads.Refusal):
            raise _Refused(parsed.reason)
        head = (entry.n, entry.lane, entry.time_ms)
        if people.identify(parsed) is None:
            made = self._nameless(origin, entry, parsed)
        else:
            made = self._candidate(Kind.MANUAL, head, _post(origin), Direction.NONE, parsed, 0)
        made.details = msgspec.structs.replace(made.details, officer=officer[:64], why=why[:256])
        return made

    def _nameless(self, origin: Origin, entry: Entry, parsed: payloads.Parsed) -> Candidate:
        """Somebody without papers, whom an officer wrote down (DE-5): nobody is missed.

        A name is no identity, so this entry is a person of its own until somebody merges it. The
        key comes from the delivery, which makes it the same when the entry is sent again.
        """
        canonical = f"{origin.gateway}/{origin.epoch}/{origin.seq}/{entry.n}"
        return Candidate(
            entry.n, Kind.MANUAL, entry.lane, entry.time_ms, _post(origin), Direction.NONE,
            Source.PAPER, self._keyring.person_key("entry", "", canonical),
            people.parsed_to_details(parsed), Flag.REVIEW,
        )  # fmt: skip

    def _parse_person(self, payload: bytes) -> payloads.Parsed:
        parsed = payloads.parse(
            payload,
            venue_host=self._settings.venue_host,
            today_day=ms_to_day(self._clock.now_ms()),
        )
        if isinstance(parsed, payloads.Refusal):
            raise _Refused(parsed.reason)
        if not isinstance(parsed, payloads.Parsed):
            raise _Refused("unsupported_context")  # a venue's code is nobody's
        return parsed

    def _candidate(
        self,
        kind: Kind,
        head: tuple[int, int, int],
        place: int,
        direction: int,
        parsed: payloads.Parsed,
        flags: int,
    ) -> Candidate:
        identity = people.identify(parsed)
        if identity is None:
            raise _Refused("malformed_id")
        if parsed.verdict == "review":
            flags |= Flag.REVIEW
        n, lane, time_ms = head
        return Candidate(
            n, kind, lane, time_ms, place, direction, people.parsed_to_source(parsed),
            self._key(identity), people.parsed_to_details(parsed), flags,
        )  # fmt: skip

    def _venue(self, entry: Entry, body: bytes) -> int:
        """Place number of a check-in's venue; our own posted code needs its keyed tag."""
        if entry.venue_form == FORM_ID:
            number, issue = entry.venue_id, None
        else:
            code = payloads.parse(entry.venue(body), venue_host=self._settings.venue_host)
            if isinstance(code, payloads.Refusal):
                raise _Refused(code.reason)
            if not isinstance(code, payloads.VenueCode):
                raise _Refused("unsupported_context")
            if not payloads.is_venue_tag(code, self._keyring.venue_tag):
                raise _Refused("forged")
            number, issue = code.number, code.issue
        venue = self._registry.place(number)
        if not isinstance(venue, Venue):
            raise _Refused("unknown_place")
        if issue is not None and issue != venue.issue:
            raise _Refused("revoked")  # VE-7: a reprint makes the old poster worthless
        return number

    def _key(self, identity: Identity) -> bytes:
        return self._keyring.person_key(identity.kind, identity.issuer, identity.canonical)

    # ---- judging ----------------------------------------------------------------------------

    def _steps(
        self,
        origin: Origin,
        heads: list[tuple[int, int, int]],
        read: Callable[[int], Candidate],
        faults: list[Fault],
    ) -> Iterator[Outcome | None]:
        """heads: (n, lane, time_ms) of each record; read: the record at an index, or raises."""
        outcome = Outcome(faults=faults)
        taken: list[Candidate] = []
        judged = 0
        now_ms = self._clock.now_ms()
        tallies: Tallies = Counter(
            (origin.post, 0, _reason(fault.error), now_ms) for fault in faults
        )
        newest_ms = self._newest_ms()
        oldest_day = ms_to_day(now_ms) - self._settings.retention_days
        for i, (n, lane, time_ms) in enumerate(heads):
            if i and not i % STEP_RECORDS:
                outcome.verdicts += self._judge.judge(taken[judged:], _message(origin))
                judged = len(taken)
                yield None
            try:
                if time_ms > newest_ms:
                    raise WireClock("event time is ahead of the engine's clock")
                if ms_to_day(time_ms) < oldest_day:
                    raise _Refused("too_old")
                taken.append(read(i))
            except _Refused as refused:
                reason = refused.reason
                # Under the event's own time where that can be believed.
                tallies[origin.post, lane, reason, now_ms if reason == "too_old" else time_ms] += 1
                outcome.verdicts.append(Verdict(verdict="refused", reason=reason, lane=lane, n=n))
            except InputError as error:
                is_clock = isinstance(error, WireClock)
                at_ms = now_ms if is_clock else time_ms
                tallies[origin.post, lane, _reason(error), at_ms] += 1
                outcome.faults.append(Fault(n, error))
        outcome.verdicts += self._judge.judge(taken[judged:], _message(origin))
        if not origin.is_repeat:
            if taken or tallies or not origin.cls:
                outcome.batch = self._batch(origin, taken, tallies)
            self._count(outcome.verdicts, taken, tallies)
        yield outcome

    def _count(self, verdicts: list[Verdict], taken: list[Candidate], tallies: Tallies) -> None:
        for verdict in verdicts:
            self._metrics.count("chot_verdicts", verdict.verdict)
        for candidate in taken:
            for reason in candidate.alarms:
                self._metrics.count("chot_alerts", reason)
        for (_, _, reason, _), count in tallies.items():
            self._metrics.count("chot_refused", reason, by=count)

    # ---- packing ----------------------------------------------------------------------------

    def _batch(self, origin: Origin, taken: list[Candidate], tallies: Tallies) -> RecordBatch:
        """Rows and details, parted by civil day because each day has its own keys."""
        by_day: dict[int, list[Candidate]] = {}
        for candidate in taken:
            by_day.setdefault(ms_to_day(candidate.time_ms), []).append(candidate)
        if origin.flags:
            self._mark_times(taken, origin.flags)
        parts = [Part(day, *self._pack(some)) for day, some in by_day.items()]
        packed = np.zeros(len(tallies), TALLY)
        for slot, (key, count) in zip(packed, tallies.items(), strict=True):
            slot["place"], slot["lane"], reason, slot["time_ms"] = key
            slot["reason"], slot["count"] = REASONS.index(reason), min(count, 0xFFFF_FFFF)
        run = Run(origin.gateway, origin.epoch, origin.cls, origin.first, origin.seq)
        return RecordBatch(run, parts, packed.tobytes())

    def _mark_times(self, candidates: list[Candidate], flags: int) -> None:
        """flags: what was done about the clock of all but those that bear CLOCK_UNSURE already."""
        unsure = 0
        for candidate in candidates:
            if not candidate.flags & Flag.CLOCK_UNSURE:
                candidate.flags |= flags
            unsure += candidate.flags & Flag.CLOCK_UNSURE > 0
        self._metrics.count("chot_times_unsure", by=unsure)
        self._metrics.count("chot_times_corrected", by=len(candidates) - unsure)

    def _pack(self, candidates: list[Candidate]) -> tuple[bytes, bytes]:
        details = bytearray()
        for c in candidates:
            self._rows.append(
                c.person, c.time_ms, c.place, c.lane, c.n, c.direction, c.kind, c.source,
                c.flags, c.temperature_cc, 0, 0, c.stay_ms,
            )  # fmt: skip
            data = people.details_to_bytes(c.details)
            details += _SIZE.pack(len(data))
            details += data
        return self._rows.take(), bytes(details)


def _post(origin: Origin) -> int:
    """A scan in a lane needs a post to be at; a back end has none."""
    if not origin.post:
        raise _Refused("unknown_place")
    return origin.post


def _message(origin: Origin) -> Message | None:
    """What readings name a scan by; frames have no such name."""
    return None if origin.cls else (origin.gateway, origin.epoch, origin.seq)


def _check_lane(origin: Origin, lane: int) -> None:
    """Raises WireMalformed: a gateway speaks for the lanes that the registry gave it."""
    if lane not in origin.lanes and _post(origin):
        raise WireMalformed("this gateway does not serve that lane")


def _last(steps: Iterator[Outcome | None]) -> Outcome:
    *_, outcome = steps
    assert outcome is not None
    return outcome


def _never(index: int) -> Candidate:
    raise AssertionError("a message without records has none to read")


def _reason(error: InputError) -> str:
    """The reason under which a fault is tallied."""
    if isinstance(error, WireClock):
        return "clock"
    if isinstance(error, SealBroken):
        return "seal_broken"
    if isinstance(error, ImageInvalid | ImageTooLarge):
        return "frame"
    return "malformed"
