"""The pipeline: the order of the stages of a scan, written once.

    record -> payload -> identity -> person key -> window -> verdict -> row -> batch

It runs on the event loop and touches neither sockets nor disk: what it returns is the verdict for
the lane's light (sent at once) and the batch for the journal (a receipt follows its commit). What
is refused is counted by reason and place and stored as a tally; the payload itself is dropped.

Records come in stretches. One of plain records goes through native.plain, without a Python object
for each; what is not plain goes through engine.ingest.candidates, one by one. Both end as pieces of
the same batch, in the order of the records.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec
import numpy as np

from engine.clock import Clock, day_to_date, day_to_ms, ms_to_day
from engine.errors import (
    ImageInvalid,
    ImageTooLarge,
    InputError,
    SealBroken,
    WireClock,
    WireMalformed,
)
from engine.identity.keys import KeyRing
from engine.ingest.candidates import CandidateReader, Entry, Refused, entry_at
from engine.ingest.candidates import Origin as Origin
from engine.ingest.card_reader import CardReader
from engine.ingest.judge import Candidate, Judge, Message
from engine.ingest.readings import note_report
from engine.payloads import is_signed
from engine.registry.registry import Registry
from engine.scans import people
from engine.scans.records import ENTRY, decode_scans, encode_scan, encode_scans
from engine.scans.rows import REASONS, ROW, Flag
from engine.settings import Settings
from engine.storage.group import TALLY, pack_details, split_details
from engine.storage.journal import Part, RecordBatch, Run
from engine.telemetry import Metrics
from engine.wire.frames import Report, Verdict
from native.plain import PlainReader, PlainRules
from native.rows import RowBuffer

_SIZE = struct.Struct("<I")
# What is done in one turn of the event loop: other lanes wait for some milliseconds at most,
# whatever a gateway sends (CP-3). A record that is not plain weighs as much as many that are.
STEP_RECORDS = 16
STEP_PLAIN = 512
_SLOW = STEP_PLAIN // STEP_RECORDS

# Payloads whose signatures are to be checked, with the gateway and lane that showed them.
Passes = Sequence[tuple[bytes, tuple[int, int]]]
Tallies = defaultdict[tuple[int, int, str, int], int]  # (place, lane, reason, instant) -> how many


@dataclass(slots=True)
class Fault:
    """A record that was not taken for a reason that its sender can mend (NACK)."""

    n: int
    error: InputError


@dataclass(slots=True)
class Outcome:
    """What one message came to.

    verdicts: of each record at a post, and of each refused one, in the order of the records. batch:
    None where nothing needs to be kept, which only a camera frame and a repeat may say: a number of
    class 0 is always consumed durably.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    batch: RecordBatch | None = None


class _Work:
    """A message while it is worked on: what it has come to so far."""

    def __init__(self, origin: Origin, now_ms: int, settings: Settings) -> None:
        self.origin = origin
        self.now_ms = now_ms
        self.newest_ms = now_ms + settings.clock_ahead_max_s * 1000  # later times are refused
        self.oldest_day = ms_to_day(now_ms) - settings.retention_days
        self.outcome = Outcome()
        self.tallies: Tallies = defaultdict(int)
        self.alarms: list[str] = []
        self.pieces: list[tuple[int, bytes, bytes]] = []  # (day, rows, details)
        self.waiting: list[Candidate] = []  # read, not yet judged
        self.is_mixed = False  # verdicts may not be in the order of the records
        self.times_unsure = 0
        self.times_corrected = 0

    @property
    def message(self) -> Message | None:
        """What readings name a scan by; frames have no such name."""
        origin = self.origin
        return None if origin.cls else (origin.gateway, origin.epoch, origin.seq)

    def event_time(self, time_ms: int) -> tuple[int, int]:
        """(time as corrected, flags). One that only its correction would put into the future was
        made after its clock was set, and before that was measured: it stays as it is."""
        corrected_ms = time_ms - self.origin.correction_ms
        if self.origin.correction_ms and corrected_ms > self.newest_ms >= time_ms:
            return time_ms, Flag.CLOCK_UNSURE
        return corrected_ms, 0

    def check_time(self, time_ms: int) -> None:
        """Raises WireClock and Refused."""
        if time_ms > self.newest_ms:
            raise WireClock("event time is ahead of the engine's clock")
        if ms_to_day(time_ms) < self.oldest_day:
            raise Refused("too_old")

    def refuse(self, refused: Refused, n: int, lane: int, time_ms: int) -> None:
        reason = refused.reason
        # Under the event's own time where that can be believed.
        at_ms = self.now_ms if reason == "too_old" else time_ms
        self.tallies[self.origin.post, lane, reason, at_ms] += 1
        verdict = Verdict(verdict="refused", reason=reason, lane=lane, n=n)
        self.outcome.verdicts.append(verdict)

    def fault(self, error: InputError, n: int, lane: int = 0, time_ms: int | None = None) -> None:
        """time_ms: of the event, where there is one that can be believed."""
        at_ms = self.now_ms if time_ms is None or isinstance(error, WireClock) else time_ms
        self.tallies[self.origin.post, lane, _reason(error), at_ms] += 1
        self.outcome.faults.append(Fault(n, error))

    def count_times(self, flags: Iterable[int]) -> None:
        """flags: of rows whose clock something was done about."""
        unsure = [flag & Flag.CLOCK_UNSURE > 0 for flag in flags]
        self.times_unsure += sum(unsure)
        self.times_corrected += len(unsure) - sum(unsure)


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
        cards: CardReader | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._judge = judge
        self._metrics = metrics
        cards = cards or CardReader(settings, clock, metrics)
        self._reader = CandidateReader(settings, registry, keyring, cards)
        person, vehicle = keyring.person_mac, keyring.vehicle_mac
        self._plain = PlainReader(person, vehicle, registry.venues) if person and vehicle else None
        self._rows = RowBuffer()

    # ---- doors ------------------------------------------------------------------------------

    def take_records(self, origin: Origin, entries: bytes, body: bytes, fault: int = -1) -> Outcome:
        """A SCANS message: packed entries (engine.scans.records.ENTRY) that point into body.

        fault: index of the first record that could not be read, -1 for none; what stands before it
        is taken, it and the rest are refused with one NACK.
        """
        *_, outcome = self.record_steps(origin, entries, body, fault)
        assert isinstance(outcome, Outcome)
        return outcome

    def record_steps(
        self, origin: Origin, entries: bytes, body: bytes, fault: int = -1
    ) -> Iterator[Outcome | Passes]:
        """As take_records, but a caller may do other things between the steps.

        Passes after every STEP_RECORDS records, or every STEP_PLAIN of those that are plain, and
        before passes are read; the outcome at the end. A caller who waits for
        `DecodePool.prepare` with them keeps their signatures away from its own thread.
        """
        work = self._begin(origin)
        if fault >= 0:
            work.fault(WireMalformed("this record and those behind it cannot be read"), fault)
        at, weight, rules = 0, 0, self._rules(work)
        size = len(entries) // ENTRY.itemsize
        looked = 0  # entries that were looked at for passes
        while at < size:
            if weight + _SLOW > STEP_PLAIN:
                self._judge_waiting(work)
                yield ()
                weight = 0
            last = min(size, at + STEP_PLAIN - weight)
            count = self._take_plain(work, entries, body, at, last, rules)
            if not count:
                if at >= looked:
                    looked = min(size, at + STEP_RECORDS)
                    if passes := _passes(origin, entries, body, at, looked):
                        self._judge_waiting(work)
                        yield passes
                self._take_entry(work, entry_at(entries, at), body)
            at += count or 1
            weight += count or _SLOW
        yield self._finish(work)

    def take_codes(self, origin: Origin, lane: int, time_ms: int, codes: list[bytes]) -> Outcome:
        """Codes that came into view in a camera frame; each is a scan of that lane."""
        body = encode_scans([encode_scan(time_ms, lane, code) for code in codes])
        packed, fault = decode_scans(body)
        return self.take_records(origin, packed, body, fault)

    def take_report(self, origin: Origin, lane: int, report: Report) -> Outcome:
        """An EVENT. A thermal one becomes a row; health and notes are counted."""
        self._metrics.count("chot_events", report.kind)
        work = self._begin(origin)
        if report.kind == "thermal":
            time_ms, unsure = work.event_time(report.ts_ms)
            report = msgspec.structs.replace(report, ts_ms=time_ms)
            try:
                work.check_time(time_ms)
                made = self._reader.read_report(origin, lane, report)
                made.flags |= unsure
                work.waiting.append(made)
            except Refused as refused:
                work.refuse(refused, 0, lane, time_ms)
            except InputError as error:
                work.fault(error, 0, lane, time_ms)
        return self._finish(work)

    def take_fault(self, origin: Origin, error: InputError) -> Outcome:
        """A message that is consumed although nothing of it can be read."""
        work = self._begin(origin)
        work.fault(error, 0)
        return self._finish(work)

    def take_lost(self, origin: Origin, count: int) -> Outcome:
        """Sequence numbers that the gateway lost: the hole is recorded with its size."""
        work = self._begin(origin)
        work.tallies[origin.post, 0, "lost", work.now_ms] += count
        return self._finish(work)

    # ---- stretches --------------------------------------------------------------------------

    def _begin(self, origin: Origin) -> _Work:
        return _Work(origin, self._clock.now_ms(), self._settings)

    def _rules(self, work: _Work) -> PlainRules:
        origin = work.origin
        today = _day_to_number(ms_to_day(work.now_ms))
        return PlainRules(
            origin.post, origin.lanes, day_to_ms(work.oldest_day), work.newest_ms,
            origin.correction_ms, origin.flags, today,
        )  # fmt: skip

    def _take_plain(
        self,
        work: _Work,
        entries: bytes,
        body: bytes,
        at: int,
        last: int,
        rules: PlainRules,
    ) -> int:
        """Takes plain records from `at` on, none from `last` on, of one day; how many they were."""
        if self._plain is None:
            return 0
        count, day, rows, details, names = self._plain.take(entries, body, at, last, rules)
        if not count:
            return 0
        self._judge_waiting(work)
        verdicts, alarms, reports = self._judge.judge_rows(rows, names, work.message)
        work.outcome.verdicts += verdicts
        work.alarms += alarms
        if reports:
            details = _note_reports(details, count, reports)
        work.pieces.append((day, bytes(rows), details))
        if work.origin.flags:
            work.count_times(np.frombuffer(rows, ROW)["flags"].tolist())
        return count

    def _take_entry(self, work: _Work, entry: Entry, body: bytes) -> None:
        """A record of any kind."""
        work.is_mixed = True
        time_ms, unsure = work.event_time(entry.time_ms)
        try:
            work.check_time(time_ms)
            made = self._reader.read(work.origin, entry._replace(time_ms=time_ms), body)
            made.flags |= unsure
            work.waiting.append(made)
        except Refused as refused:
            work.refuse(refused, entry.n, entry.lane, time_ms)
        except InputError as error:
            work.fault(error, entry.n, entry.lane, time_ms)

    def _judge_waiting(self, work: _Work) -> None:
        candidates, work.waiting = work.waiting, []
        if not candidates:
            return
        work.outcome.verdicts += self._judge.judge(candidates, work.message)
        for candidate in candidates:
            work.alarms += candidate.alarms
            if not candidate.flags & Flag.CLOCK_UNSURE:
                candidate.flags |= work.origin.flags
        if work.origin.flags:
            work.count_times(candidate.flags for candidate in candidates)
        by_day: dict[int, list[Candidate]] = {}
        for candidate in candidates:
            by_day.setdefault(ms_to_day(candidate.time_ms), []).append(candidate)
        work.pieces += [(day, *self._pack(some)) for day, some in by_day.items()]

    def _pack(self, candidates: list[Candidate]) -> tuple[bytes, bytes]:
        details = bytearray()
        for c in candidates:
            self._rows.append(
                c.person, c.time_ms, c.place, c.lane, c.n, c.direction, c.kind, c.source,
                c.flags, c.temperature_cc, 0, c.vehicle, c.stay_ms,
            )  # fmt: skip
            data = people.details_to_bytes(c.details)
            details += _SIZE.pack(len(data))
            details += data
        return self._rows.take(), bytes(details)

    # ---- the end ----------------------------------------------------------------------------

    def _finish(self, work: _Work) -> Outcome:
        self._judge_waiting(work)
        outcome, origin = work.outcome, work.origin
        if work.is_mixed:
            outcome.verdicts.sort(key=_by_n)
        if not origin.is_repeat:
            if work.pieces or work.tallies or not origin.cls:
                outcome.batch = _batch(work)
            self._count(work)
        return outcome

    def _count(self, work: _Work) -> None:
        count = self._metrics.count
        lights: dict[str, int] = {}
        for verdict in work.outcome.verdicts:
            lights[verdict.verdict] = lights.get(verdict.verdict, 0) + 1
        for light, times in lights.items():
            count("chot_verdicts", light, by=times)
        for reason in work.alarms:
            count("chot_alerts", reason)
        for (_, _, reason, _), times in work.tallies.items():
            count("chot_refused", reason, by=times)
        if work.times_unsure:
            count("chot_times_unsure", by=work.times_unsure)
        if work.times_corrected:
            count("chot_times_corrected", by=work.times_corrected)


def _note_reports(details: bytes, count: int, reports: Mapping[int, Report]) -> bytes:
    """The details of so many rows with what a terminal said, by position."""
    entries = split_details(details, count)
    for i, report in reports.items():
        known = people.bytes_to_details(entries[i])
        entries[i] = people.details_to_bytes(note_report(known, report))
    return pack_details(entries)


def _passes(origin: Origin, entries: bytes, body: bytes, at: int, last: int) -> Passes:
    """The different payloads of entries [at, last) that look like passes."""
    shown = [entry_at(entries, i) for i in range(at, last)]
    found = [(entry.who(body), (origin.gateway, entry.lane)) for entry in shown]
    return list(dict.fromkeys(one for one in found if is_signed(one[0])))


@lru_cache(maxsize=1)
def _day_to_number(day: int) -> int:
    """20210701 of 2021-07-01."""
    return int(day_to_date(day).replace("-", ""))


def _batch(work: _Work) -> RecordBatch:
    """Rows and details, parted by civil day because each day has its own keys."""
    origin = work.origin
    by_day: dict[int, tuple[list[bytes], list[bytes]]] = {}
    for day, rows, details in work.pieces:
        of_day = by_day.setdefault(day, ([], []))
        of_day[0].append(rows)
        of_day[1].append(details)
    parts = [Part(day, b"".join(rows), b"".join(more)) for day, (rows, more) in by_day.items()]
    run = Run(origin.gateway, origin.epoch, origin.cls, origin.first, origin.seq)
    return RecordBatch(run, parts, _tallies_to_bytes(work.tallies) if work.tallies else b"")


def _tallies_to_bytes(tallies: Tallies) -> bytes:
    packed = np.zeros(len(tallies), TALLY)
    for slot, (key, count) in zip(packed, tallies.items(), strict=True):
        slot["place"], slot["lane"], reason, slot["time_ms"] = key
        slot["reason"], slot["count"] = REASONS.index(reason), min(count, 0xFFFF_FFFF)
    return packed.tobytes()


def _by_n(verdict: Verdict) -> int:
    return verdict.n


def _reason(error: InputError) -> str:
    """The reason under which a fault is tallied."""
    if isinstance(error, WireClock):
        return "clock"
    if isinstance(error, SealBroken):
        return "seal_broken"
    if isinstance(error, ImageInvalid | ImageTooLarge):
        return "frame"
    return "malformed"
