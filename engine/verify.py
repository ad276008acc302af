"""Offline checks of a store: checksums, chains, runs against content, and whether the keys open it.

Works on a stopped engine's store or on a copy of it, changes nothing, and never shows persons: a
report holds counts, sequence numbers, days and faults.
"""

from __future__ import annotations

import bisect
import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine import control_lmdb, group, journal_lmdb
from engine.errors import JournalCorrupt, KeyMissing
from engine.journal import Mark
from engine.keys import KeyRing
from engine.store_lmdb import Store

JOURNAL_DIR = "journal"
CONTROL_DIR = "control"
PROBLEM_LIMIT = 1000  # a store damaged throughout still gives a report one can read


@dataclass(slots=True)
class VerifyReport:
    """What was found. A store is sound when `problems` is empty.

    rows: rows stored, expired ones included; rows_opened: those a key ring opened.
    watermarks: (gateway, epoch, class) to last sequence number. days: civil day to rows.
    chain_head, control_head: 32 bytes each, to compare with what was noted elsewhere.
    """

    groups: int = 0
    groups_expired: int = 0
    rows: int = 0
    rows_opened: int = 0
    runs: int = 0
    last_lsn: int = 0
    chain_head: bytes = b""
    control_records: int = 0
    control_head: bytes = b""
    watermarks: dict[Mark, int] = field(default_factory=dict)
    days: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.problems

    def add(self, problem: str) -> None:
        if len(self.problems) < PROBLEM_LIMIT:
            self.problems.append(problem)


def verify_store(path: str | os.PathLike[str], ring: KeyRing | None = None) -> VerifyReport:
    """Check the store under `path` (with `journal/` and `control/`, or one of them).

    With a key ring every group that is not forgotten must open. The store is locked meanwhile.
    Raises StoreLocked while an engine runs on it, StoreVersion, StorageUnavailable when there is
    no store. Damage is in the report, never an exception.
    """
    root = Path(path)
    report = VerifyReport()
    _verify_journal(root / JOURNAL_DIR, ring, report)
    if (root / CONTROL_DIR).exists():
        _verify_control(root / CONTROL_DIR, report)
    return report


def _verify_journal(path: Path, ring: KeyRing | None, report: VerifyReport) -> None:
    with _opened(path, journal_lmdb.KIND, report) as store:
        if store is None:
            return
        check = _JournalCheck(report, ring, group.genesis(store.meta.store_id))
        for lsn, value in _values(store, report):
            check.take(lsn, value)
        check.finish()
        report.chain_head = check.chain
        report.watermarks = check.watermarks


def _verify_control(path: Path, report: VerifyReport) -> None:
    with _opened(path, control_lmdb.KIND, report) as store:
        if store is None:
            return
        chain, last = control_lmdb.genesis(store.meta.store_id), 0
        for lsn, value in _values(store, report):
            report.control_records += 1
            try:
                record = control_lmdb.bytes_to_record(lsn, bytes(value))
                control_lmdb.check_record(record, last, chain)
            except JournalCorrupt as error:
                report.add(str(error))
            else:
                chain = record.chain
            last = lsn
        report.control_head = chain


class Ranges:
    """A set of sequence numbers as sorted, separate ranges; neighbours are joined."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []

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


class _JournalCheck:
    """Walks the groups once, in the order of their LSNs."""

    def __init__(self, report: VerifyReport, ring: KeyRing | None, chain: bytes) -> None:
        self.chain = chain
        self.watermarks: dict[Mark, int] = {}
        self._report = report
        self._ring = ring
        self._stored: dict[Mark, Ranges] = {}
        self._pieces: dict[tuple[Mark, int, int], set[int]] = {}
        self._lost_days: set[int] = set()

    def take(self, lsn: int, value: memoryview) -> None:
        report = self._report
        report.groups += 1
        if lsn != report.last_lsn + 1:
            report.add(f"group {report.last_lsn + 1} is missing")
        report.last_lsn = lsn
        try:
            raw = group.bytes_to_raw(value)
        except JournalCorrupt as error:
            report.add(f"at {lsn}: {error}")
            return
        if raw.lsn != lsn:
            report.add(f"group {lsn} calls itself {raw.lsn}")
        if raw.chain != self.chain:
            report.add(f"group {lsn} does not follow the group before it")
        self.chain = raw.link
        report.groups_expired += raw.is_expired
        report.rows += raw.row_count
        if raw.row_count:
            report.days[raw.day] += raw.row_count
        self._take_runs(raw)
        self._open(raw)

    def _take_runs(self, raw: group.RawGroup) -> None:
        rows_of_runs = 0
        for gateway, cls, piece, rows, epoch, first, last in raw.iter_runs():
            self._report.runs += 1
            rows_of_runs += rows
            mark = (gateway, epoch, cls)
            name = f"group {raw.lsn}: run {first}..{last} of gateway {gateway}, class {cls}"
            if not 0 < first <= last:
                self._report.add(f"{name} is not a range")
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
                self._report.add(f"{name} was stored before")
            self.watermarks[mark] = max(self.watermarks.get(mark, 0), last)
        if rows_of_runs != raw.row_count:
            self._report.add(
                f"group {raw.lsn}: its runs brought {rows_of_runs} rows, it holds {raw.row_count}"
            )

    def finish(self) -> None:
        """Every run in pieces must have all of them, from the first on."""
        for (mark, first, last), pieces in self._pieces.items():
            stored = self._stored.get(mark, Ranges())
            if max(pieces) != len(pieces) or not stored.covers(first, last):
                self._report.add(f"run {first}..{last} of gateway {mark[0]} is not complete")

    def _open(self, raw: group.RawGroup) -> None:
        if self._ring is None or raw.is_expired or raw.day in self._lost_days:
            return
        try:
            opened = group.open_group(raw, self._ring)
        except JournalCorrupt as error:
            self._report.add(str(error))
        except KeyMissing as error:
            self._lost_days.add(raw.day)
            self._report.add(f"day {raw.day} cannot be opened: {error}")
        else:
            self._report.rows_opened += len(opened.rows)


@contextlib.contextmanager
def _opened(path: Path, kind: str, report: VerifyReport) -> Iterator[Store | None]:
    """The store for reading, or None when it is too damaged to be read."""
    try:
        store = Store(path, kind=kind, is_offline=True)
    except JournalCorrupt as error:
        report.add(str(error))
        yield None
        return
    with store:
        yield store


def _values(store: Store, report: VerifyReport) -> Iterator[tuple[int, memoryview]]:
    try:
        yield from store.scan(1)
    except JournalCorrupt as error:
        report.add(f"{store.path}: {error}")
