"""Checks of a whole store: checksums, chains, runs against rows and details, keys against both.

Works on a stopped engine's store, on a copy, and beside a running engine; changes nothing, and
never shows persons: a report holds counts, sequence numbers, days and faults. What a fault means
and what to do is in docs/operations.md.
"""

from __future__ import annotations

import bisect
import contextlib
import faulthandler
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.clock import day_to_date, day_to_ms
from engine.colocation import segments_lmdb
from engine.errors import (
    EngineError,
    JournalCorrupt,
    KeyDestroyed,
    KeyMissing,
    SealBroken,
    StorageUnavailable,
)  # fmt: skip
from engine.identity.keys import DESK_DIR, DeskKeys, FileKeyRing, KeyRing
from engine.identity.watch import WatchList
from engine.keeping.verify_report import VerifyReport
from engine.registry.registry import Registry
from engine.storage import control_lmdb, generation, generations, group
from engine.storage.journal import Mark
from engine.storage.store_lmdb import Store
from engine.storage.store_lock import StoreLock

JOURNAL_DIR = "journal"
CONTROL_DIR = "control"
INDEX_DIR = "index"
RECORD_MIN_BYTES: Final = 16

Noted = Mapping[str, tuple[int, str]]  # log -> (lsn, first hex digits of its link then)


def verify_store(
    path: str | os.PathLike[str],
    ring: KeyRing | None = None,
    desk: DeskKeys | None = None,
    noted: Noted | None = None,
) -> VerifyReport:
    """Check the store under `path` (with `journal/` and `control/`, or one of them).

    With a key ring every group that is not forgotten must open, and every entry of the watch list;
    with the desk's keys details too. A store that no engine holds is locked meanwhile. Raises
    StoreLocked when this process has it open, StoreVersion, StorageUnavailable when there is no
    store. Damage is in the report, never an exception.
    """
    root = Path(path)
    report = VerifyReport()
    noted = noted or {}
    check = _JournalCheck(report, ring, desk, noted.get("scan"))
    _walk_generations(root / JOURNAL_DIR, report, check)
    check.finish()
    if (root / CONTROL_DIR).exists():
        with _opened(root / CONTROL_DIR, control_lmdb.KIND, report, "control") as store:
            if store is not None:
                _verify_control(store, report, noted.get("control"), ring)
                _check_amended(report)
    for problem in segments_lmdb.check_folder(root / INDEX_DIR):
        report.add("index.damaged", problem, log="index")
    return report


def verify_apart(path: Path, *, with_keys: bool = True, noted: Noted | None = None) -> VerifyReport:
    """`verify_store` in a process of its own, with the keys beside the store.

    A bit flipped in LMDB's own pages may kill whoever reads them; then the report says at which
    group. Raises KeyMissing too.
    """
    context = multiprocessing.get_context("fork")
    at = context.Value("Q", 0)
    with ProcessPoolExecutor(1, mp_context=context, initializer=_watch, initargs=(at,)) as pool:
        try:
            return pool.submit(_verify_with_keys, path, with_keys, dict(noted or {})).result()
        except BrokenProcessPool:
            report = VerifyReport()
            lsn = int(at.value)
            report.add("store.damaged", f"reading behind group {lsn} ended the reader", lsn)
            return report


_at: Any = None


def _watch(at: Any) -> None:
    global _at
    _at = at
    faulthandler.disable()  # what kills this process is told by the report


def _verify_with_keys(path: Path, with_keys: bool, noted: Noted) -> VerifyReport:
    if not with_keys:
        return verify_store(path, None, None, noted)
    ring, desk = FileKeyRing(path / "keys"), None
    with contextlib.suppress(KeyMissing):  # the private halves may be another user's
        desk = DeskKeys(path / "keys" / DESK_DIR)
    return verify_store(path, ring, desk, noted)


def _verify_control(
    store: Store, report: VerifyReport, noted: tuple[int, str] | None, ring: KeyRing | None
) -> None:
    """An engine takes these records in at its start; what it would not take is a fault."""
    chain, last = control_lmdb.genesis(store.meta.store_id), 0
    registry = Registry()
    watch = WatchList(ring) if ring is not None else None
    for lsn, value in _values(store, report, "control"):
        report.control_records += 1
        if lsn != last + 1:
            report.add("record.missing", _missing("control record", last + 1, lsn - 1), lsn,
                       "control")  # fmt: skip
        last = lsn
        try:
            record = control_lmdb.bytes_to_record(lsn, bytes(value))
        except JournalCorrupt as error:
            report.add("record.damaged", str(error), lsn, "control")
            continue
        try:
            control_lmdb.check_record(record, lsn - 1, chain)
        except JournalCorrupt as error:
            report.add("chain.broken", str(error), lsn, "control")
        if record.amended:
            report.bodiless[lsn] = record.amended
        try:
            report.said.apply(lsn, record.kind, record.body)
            registry.apply(record)
        except EngineError as error:
            report.add("record.damaged", f"control record {lsn}: {error}", lsn, "control")
        try:
            if watch is not None:
                watch.apply(record)
        except JournalCorrupt as error:
            report.add("record.damaged", str(error), lsn, "control")
        chain = record.chain
        _check_noted(report, noted, lsn, chain, "control")
    _check_cut(report, noted, last, "control")
    report.control_last, report.control_head = last, chain


def _check_amended(report: VerifyReport) -> None:
    for lsn in report.said.strange(report.amended, report.said.groups):
        report.add("group.amended", f"group {lsn}: no erasure left it like that", lsn)
    for lsn in report.said.strange(report.bodiless, report.said.records):
        report.add("record.amended", f"control record {lsn}: no erasure said so", lsn, "control")


def _check_noted(
    report: VerifyReport, noted: tuple[int, str] | None, lsn: int, link: bytes, log: str
) -> None:
    if noted is not None and noted[0] == lsn and not link.hex().startswith(noted[1]):
        report.add("chain.noted", f"the {log} log was rewritten at or before {lsn}", lsn, log)


def _check_cut(report: VerifyReport, noted: tuple[int, str] | None, last: int, log: str) -> None:
    if noted is not None and last < noted[0]:
        text = f"the {log} log ends at {last}; {noted[0]} was noted: its tail is gone"
        report.add("chain.noted", text, last, log)


class Ranges:
    """A set of sequence numbers as sorted, separate ranges; neighbours are joined."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(first, last) of each range, ascending."""
        return zip(self._first, self._last, strict=True)

    def add(self, first: int, last: int) -> bool:
        """False, and no change, when some of first..last is in the set."""
        at = bisect.bisect_left(self._first, first)
        if at and self._last[at - 1] >= first:
            return False
        if at < len(self._first) and self._first[at] <= last:
            return False
        joins_before = at > 0 and self._last[at - 1] + 1 == first
        joins_after = at < len(self._first) and last + 1 == self._first[at]
        if joins_before and joins_after:
            del self._first[at]
            del self._last[at - 1]
        elif joins_before:
            self._last[at - 1] = last
        elif joins_after:
            self._first[at] = first
        else:
            self._first.insert(at, first)
            self._last.insert(at, last)
        return True

    def covers(self, first: int, last: int) -> bool:
        """Whether all of first..last is in the set."""
        at = bisect.bisect_right(self._first, first)
        return at > 0 and self._last[at - 1] >= last

    def gaps(self) -> Iterator[tuple[int, int]]:
        """(first, last) of what is missing from 1 up to the last number."""
        expected = 1
        for first, last in self:
            if first > expected:
                yield expected, first - 1
            expected = last + 1


class _JournalCheck:
    """Walks the groups once, in the order of their LSNs."""

    def __init__(
        self,
        report: VerifyReport,
        ring: KeyRing | None,
        desk: DeskKeys | None,
        noted: tuple[int, str] | None,
    ) -> None:
        self.is_cut = True  # nothing is known of what is before the next group
        self._report = report
        self._ring = ring
        self._desk = desk
        self._chain = b""
        self._noted = noted
        self._stored: dict[Mark, Ranges] = {}
        self._pieces: dict[tuple[Mark, int, int], set[int]] = {}
        self._lost_days: set[int] = set()  # without a key for rows
        self._nameless_days: set[int] = set()  # without a key for details
        self._has_holes = False  # groups that are not there may have held anything

    def begin(self, number: int, store_id: bytes, header: generation.Header | None) -> None:
        """The groups of a generation come. header: None for the first one of a log."""
        report = self._report
        report.generations += 1
        if header is None:
            self._chain, self.is_cut = group.genesis(store_id), False
            return
        before = header.first_lsn - 1
        if (header.number, header.store_id) != (number, store_id):
            text = f"the header of generation {number} is that of another one"
            report.add("generation.header", text, header.first_lsn)
        if self.is_cut:
            if not report.groups:
                report.first_lsn = header.first_lsn
            for mark, last in header.marks.items():
                self._stored[mark] = ranges = Ranges()
                ranges.add(1, last)
                report.watermarks[mark] = last
            _check_noted(report, self._noted, before, header.chain, "scan")
        elif before > report.last_lsn:
            self._has_holes = True
            report.add("group.missing", _missing("group", report.last_lsn + 1, before), before)
        elif not self._has_holes and (before, header.chain, header.marks) != (
            report.last_lsn, self._chain, report.watermarks,
        ):  # fmt: skip
            text = f"generation {number} does not follow the one before it"
            report.add("generation.header", text, header.first_lsn)
        report.last_lsn, self._chain, self.is_cut = before, header.link, False

    def take(self, lsn: int, value: memoryview) -> None:
        report = self._report
        report.groups += 1
        if lsn != report.last_lsn + 1:
            self._has_holes = True
            report.add("group.missing", _missing("group", report.last_lsn + 1, lsn - 1), lsn)
        report.last_lsn = lsn
        if _at is not None:
            _at.value = lsn
        try:
            raw = group.bytes_to_raw(value)
        except JournalCorrupt as error:
            self._has_holes = True
            report.add("group.damaged", f"at {lsn}: {error}", lsn)
            return
        if raw.lsn != lsn:
            report.add("group.misplaced", f"group {lsn} calls itself {raw.lsn}", lsn)
        if raw.chain != self._chain:
            text = f"group {lsn} does not follow the group before it"
            report.add("chain.broken", text, lsn)
        self._chain = raw.link
        _check_noted(report, self._noted, lsn, raw.link, "scan")
        report.groups_expired += raw.is_expired
        if raw.amended:
            report.amended[lsn] = raw.amended
        report.rows += raw.row_count
        if raw.row_count:
            report.days[raw.day] += raw.row_count
        self._take_runs(raw)
        self._open(raw)

    def _take_runs(self, raw: group.RawGroup) -> None:
        report = self._report
        rows_of_runs = 0
        for gateway, cls, piece, rows, epoch, first, last in raw.iter_runs():
            report.runs += 1
            rows_of_runs += rows
            mark = (gateway, epoch, cls)
            name = f"group {raw.lsn}: run {first}..{last} of gateway {gateway}, class {cls}"
            if not 0 < first <= last:
                report.add("run.invalid", f"{name} is not a range", raw.lsn)
                continue
            if not piece:
                is_new = self._stored.setdefault(mark, Ranges()).add(first, last)
            else:
                # One run in several groups. They may stand in any order: within a commit groups
                # follow their days.
                pieces = self._pieces.setdefault((mark, first, last), set())
                is_new = piece not in pieces or piece == group.LAST_PIECE
                pieces.add(piece)
            if not is_new:
                report.add("run.twice", f"{name} was stored before", raw.lsn)
            report.watermarks[mark] = max(report.watermarks.get(mark, 0), last)
        if rows_of_runs != raw.row_count:
            text = f"its runs brought {rows_of_runs} rows, it holds {raw.row_count}"
            report.add("rows.count", f"group {raw.lsn}: {text}", raw.lsn)

    def finish(self) -> None:
        """What can be said only when all was seen: split runs and numbers that are in no run."""
        report = self._report
        for (mark, first, last), pieces in self._pieces.items():
            name = f"run {first}..{last} of gateway {mark[0]}"
            stored = self._stored.get(mark, Ranges())
            if max(pieces) != len(pieces) or not stored.covers(first, last):
                report.add("run.incomplete", f"{name} is not complete")
        for mark, stored in self._stored.items():
            # Class 0 leaves nothing out, what a gateway lost is a run too. Where groups are missing
            # it has been said already.
            for first, last in stored.gaps() if mark[2] == 0 and not self._has_holes else ():
                text = f"{first}..{last} of gateway {mark[0]} epoch {mark[1]:016x} are in no run"
                report.add("run.gap", text)
        _check_cut(report, self._noted, report.last_lsn, "scan")
        report.chain_head = self._chain

    # ---- what the keys open ----

    def _open(self, raw: group.RawGroup) -> None:
        if self._ring is None or raw.is_expired or raw.day in self._lost_days:
            return
        report = self._report
        try:
            opened = group.open_group(raw, self._ring)
        except JournalCorrupt as error:
            report.add("group.sealed", str(error), raw.lsn)
        except KeyMissing as error:
            self._lost_days.add(raw.day)
            text = f"day {raw.day} ({day_to_date(raw.day)}) cannot be opened: {error}"
            report.add("key.missing", text, raw.lsn)
        else:
            report.rows_opened += len(opened.rows)
            if len(opened.rows):
                self._check_rows(opened)
                self._check_details(raw, opened)

    def _check_rows(self, opened: group.Group) -> None:
        lsn, rows, runs = opened.lsn, opened.rows, opened.runs
        begin_ms = day_to_ms(opened.day)
        times = rows["time_ms"]
        strange = int(((times < begin_ms) | (times >= day_to_ms(opened.day + 1))).sum())
        if strange:
            text = f"group {lsn}: {strange} rows are not of {day_to_date(opened.day)}"
            self._report.add("rows.day", text, lsn)
        if int(runs["rows"].sum()) != len(rows):
            return  # said already
        # A row's place n is unique within its sequence number, and a run of k numbers may hold it k
        # times at most.
        of_run = np.repeat(np.arange(len(runs)), runs["rows"])
        places, counts = np.unique((of_run << 16) | rows["n"], return_counts=True)
        spans = np.maximum(runs["last"], runs["first"]) - runs["first"] + np.uint64(1)
        for at in np.unique(places[counts.astype(np.uint64) > spans[places >> 16]] >> 16):
            run = runs[at]
            text = f"group {lsn}: run {run['first']}..{run['last']} of gateway {run['gateway']}"
            self._report.add("rows.twice", f"{text} has two rows in one place", lsn)

    def _check_details(self, raw: group.RawGroup, opened: group.Group) -> None:
        if self._desk is None or self._ring is None or not opened.details_sealed:
            return
        if raw.day in self._nameless_days:
            return
        lsn = raw.lsn
        try:
            sealed = group.raw_to_details(raw, self._ring)
            plain = self._desk.open_details(raw.day, sealed.sealed, sealed.aad)
            group.split_details(plain, raw.row_count)
        except KeyDestroyed:
            if raw.day not in self._ring.days():
                return  # forgotten while we looked
            self._nameless_days.add(raw.day)
            text = f"the details of day {raw.day} ({day_to_date(raw.day)}) have no key"
            self._report.add("key.missing", text, lsn)
        except (SealBroken, KeyMissing, ValueError) as error:
            text = str(error) if isinstance(error, ValueError) else "they do not open"
            self._report.add("details.damaged", f"group {lsn}: details: {text}", lsn)
        else:
            self._report.details_opened += 1


def _missing(what: str, first: int, last: int) -> str:
    if first == last:
        return f"{what} {first} is missing"
    return f"{what}s {first} to {last} are missing"


# ---- opening, and reading past what cannot be read ----------------------------------------------


def _walk_generations(path: Path, report: VerifyReport, check: _JournalCheck) -> None:
    """Every generation that had been begun when this was called, oldest first."""
    with StoreLock(path, is_offline=True) as lock:
        report.is_live = lock.is_shared
        found = generation.folders(path, is_whole=False)
        if not found:
            raise StorageUnavailable(f"{path} holds no store")
        oldest = found[0][0]
        for at, (number, folder) in enumerate(found):
            if at and number != found[at - 1][0] + 1:
                check.is_cut = True
                text = f"generation {found[at - 1][0] + 1} is missing; {number} is there"
                report.add("generation.missing", text)
            is_last = at == len(found) - 1
            try:
                with _opened(folder, generations.KIND, report, "scan", lock) as store:
                    if store is None:
                        check.is_cut = True
                        continue
                    if _begin(number, store, report, check, is_last=is_last):
                        oldest = store.meta.oldest
                        for lsn, value in _values(store, report, "scan"):
                            check.take(lsn, value)
            except StorageUnavailable:
                if not lock.is_shared or folder.exists():
                    raise
                check.is_cut = True  # forgotten while we looked
        if found[0][0] > oldest:
            text = f"generation {oldest} is missing; {found[0][0]} is the oldest there"
            report.add("generation.missing", text)


def _begin(
    number: int, store: Store, report: VerifyReport, check: _JournalCheck, *, is_last: bool
) -> bool:
    """Looks at the header; False for a generation that was made ahead and not begun."""
    header = None
    if number > 1:
        if is_last and not store.meta.header and not store.last_lsn():
            return False
        try:
            header = generation.bytes_to_header(store.meta.header)
        except JournalCorrupt as error:
            report.add("generation.header", f"{store.path}: {error}", report.last_lsn + 1)
            store.before_lsn = report.last_lsn
            return True
        store.before_lsn = header.first_lsn - 1
    check.begin(number, store.meta.store_id, header)
    return True


@contextlib.contextmanager
def _opened(
    path: Path, kind: str, report: VerifyReport, log: str, lock: StoreLock | None = None
) -> Iterator[Store | None]:
    """The store for reading, or None when it is too damaged to be read.

    Of a file that was cut short, what is left is read in a copy that is made whole with zeros.
    """
    with contextlib.ExitStack() as exits:
        store: Store | None = None
        try:
            store = exits.enter_context(Store(path, kind=kind, is_offline=True, lock=lock))
        except JournalCorrupt as error:
            report.add("store.damaged", str(error), 0, log)
            with contextlib.suppress(EngineError, OSError):
                copy = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="chot-verify-")))
                shutil.copyfile(path / "data.mdb", copy / "data.mdb")
                store = exits.enter_context(Store(copy, kind=kind))
        yield store


def _values(store: Store, report: VerifyReport, log: str) -> Iterator[tuple[int, memoryview]]:
    """Every record that can be read, up to the one that is last now."""
    # What LMDB counts may be damaged too; no group or record is smaller than this.
    most = (store.path / generation.DATA_NAME).stat().st_size // RECORD_MIN_BYTES
    last = min(store.last_lsn(), store.before_lsn + most)
    start = next_lsn = store.before_lsn + 1
    is_told = False
    while True:
        try:
            for lsn, value in store.scan(start):
                if store.is_shared and lsn > last:
                    return
                yield lsn, value
                next_lsn = start = lsn + 1
        except JournalCorrupt as error:
            if not is_told:
                report.add("store.damaged", f"{store.path}: {error}", next_lsn, log)
                is_told = True
            start += 1  # step over what cannot be read, one number at a time
            if start <= last:
                continue
        if next_lsn <= last:
            what = "group" if log == "scan" else "control record"
            code = "group.missing" if log == "scan" else "record.missing"
            report.add(code, _missing(what, next_lsn, last), next_lsn, log)
        return
