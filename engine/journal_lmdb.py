"""The scan log on LMDB: one value per group under its LSN, one writer thread, group commit.

The writer takes whatever has come since its last commit returned, merges it by day into groups,
and commits them in one transaction; there is no timer. Receipts go out after the commit. What is
kept in memory (watermarks, chain, which groups a day has) is derived from the heads of the groups
when the store opens, never stored beside them.

After a commit error nothing is acknowledged and the journal is read-only; the next append opens
the store again, proves with a commit of its own that the disk takes writes, and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from array import array
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from engine.clock import Clock
from engine.commit_thread import CommitThread, Job
from engine.errors import (
    EngineError,
    JournalCorrupt,
    NotFound,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from engine.group import (
    Group,
    RawGroup,
    SealedDetails,
    bytes_to_raw,
    expire_bytes,
    genesis,
    open_group,
    raw_to_details,
    seal_group,
)
from engine.journal import (
    Amend,
    Counters,
    Mark,
    Marks,
    Packer,
    Receipt,
    RecordBatch,
    check_amended,
    check_batch,
    check_overlap,
    is_day_over,
)
from engine.keys import KeyRing
from engine.store_lmdb import Store

KIND = "journal"
READ_BYTES = 1 << 20  # one short read transaction of a reader
READ_GROUPS = 256  # groups a reader takes from the tail at a time
EXPIRE_GROUPS = 256  # groups emptied in one commit: appends go between
AMEND_BYTES = 2 << 20  # of groups amended in one commit, likewise


class _Append(Job):
    __slots__ = ("arrival_ms", "batch", "is_duplicate", "lsn")

    def __init__(self, batch: RecordBatch, arrival_ms: int) -> None:
        super().__init__(batch.size())
        self.batch = batch
        self.arrival_ms = arrival_ms
        self.is_duplicate = False
        self.lsn = 0


class _Amend(Job):
    __slots__ = ("change", "count", "lsns", "position")

    def __init__(self, lsns: list[int], change: Amend) -> None:
        super().__init__()
        self.lsns = lsns
        self.change = change
        self.position = 0
        self.count = 0


class _Expire(Job):
    __slots__ = ("before_ms", "count", "days", "held", "is_begun", "lsns", "position")

    def __init__(self, before_ms: int, held: frozenset[int]) -> None:
        super().__init__()
        self.before_ms = before_ms
        self.held = held
        self.is_begun = False
        self.days: list[int] = []
        self.lsns: list[int] = []
        self.position = 0
        self.count = 0


@dataclass(slots=True)
class _Commit:
    """What one transaction is about to make true."""

    fresh: list[_Append] = field(default_factory=list)
    repeats: list[_Append] = field(default_factory=list)  # of something in the same transaction
    marks: dict[Mark, int] = field(default_factory=dict)


class LmdbJournal:
    """A Journal in one directory. Opening reads the heads of all groups.

    limit_bytes: how large the data may grow. floor_bytes: free space it leaves on the disk.
    pending_limit_bytes: what may wait in memory for a commit. commit_limit_bytes: the most one
    transaction takes. tail_bytes: recent groups kept open for readers that are close behind.
    Raises StoreLocked, StoreVersion, JournalCorrupt, StorageFull, StorageUnavailable.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        ring: KeyRing,
        clock: Clock,
        *,
        limit_bytes: int = 1 << 40,
        floor_bytes: int = 64 << 20,
        pending_limit_bytes: int = 32 << 20,
        commit_limit_bytes: int = 8 << 20,
        tail_bytes: int = 16 << 20,
    ) -> None:
        self.counters = Counters()
        self._ring = ring
        self._clock = clock
        self._tail_limit_bytes = tail_bytes
        self._tail: deque[tuple[Group, int]] = deque()
        self._tail_size = 0
        self._lock = threading.Lock()  # tail, last LSN and readers: writer against loops
        self._readers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._is_closed = False
        self._marks = Marks()
        self._days: dict[int, array[int]] = {}  # LSNs with rows, per day, not yet expired
        self._lost: dict[Mark, tuple[int, int]] = {}  # first seq that failed, jobs known then
        self._last_lsn = 0
        self._store = Store(
            path,
            kind=KIND,
            limit_bytes=limit_bytes,
            floor_bytes=floor_bytes,
            now_ms=clock.now_ms(),
            is_filled=True,
        )
        self._chain = genesis(self._store.meta.store_id)
        self._is_trusted = False
        try:
            with contextlib.suppress(StorageFull, StorageUnavailable):
                self._store.prove()  # on a full disk questions are still answered
            self._load()
        except BaseException:
            self._store.close()
            raise
        # Without the proving commit, the last group may stand in the page cache only, and a
        # repeat of it must not be acknowledged yet.
        self._is_trusted = self._store.is_proven
        self._writer: CommitThread[Job] = CommitThread(
            "journal",
            self._work,
            pending_limit_bytes=pending_limit_bytes,
            commit_limit_bytes=commit_limit_bytes,
        )

    @property
    def pending_bytes(self) -> int:
        """Bytes accepted and not yet durable; never above the limit by more than one batch."""
        return self._writer.pending_bytes

    async def append(self, batch: RecordBatch) -> Receipt:
        check_batch(batch)
        job = _Append(batch, self._clock.now_ms())
        await self._writer.run(job)
        return Receipt(batch.run, job.lsn, job.is_duplicate)

    async def read(self, after: int) -> AsyncIterator[Group]:
        more = asyncio.Event()
        with self._lock:
            self._readers[more] = asyncio.get_running_loop()
        try:
            while True:
                more.clear()
                is_closed = self._is_closed
                groups = self._next_groups(after)
                for group in groups:
                    yield group
                    after = group.lsn
                if groups:
                    await asyncio.sleep(0)  # opening old groups must not hold up the lanes
                elif is_closed:
                    return
                else:
                    await more.wait()
        finally:
            with self._lock:
                del self._readers[more]

    def read_details(self, lsn: int) -> SealedDetails:
        found = self._store.read(lsn, lsn, READ_BYTES) if 1 <= lsn <= self._last_lsn else []
        if not found:
            raise NotFound(f"there is no group {lsn}")
        return raw_to_details(_check_lsn(bytes_to_raw(found[0][1]), lsn), self._ring)

    async def settle(self) -> None:
        await self._writer.run(Job())

    async def expire(self, before_ms: int, held: Collection[int] = ()) -> int:
        job = _Expire(before_ms, frozenset(held))
        await self._writer.run(job)
        return job.count

    async def amend(self, lsns: Iterable[int], change: Amend) -> int:
        job = _Amend(sorted(set(lsns)), change)
        await self._writer.run(job)
        return job.count

    def watermarks(self) -> dict[Mark, int]:
        with self._lock:
            return self._marks.values()

    def watermark(self, mark: Mark) -> int:
        with self._lock:
            return self._marks.value(mark)

    def epochs(self) -> dict[int, int]:
        with self._lock:
            return self._marks.epochs()

    def last_lsn(self) -> int:
        return self._last_lsn

    def head(self) -> bytes:
        """Link of the last group: 32 bytes that stand for the whole log."""
        return self._chain

    async def close(self) -> None:
        if not self._is_closed:
            await asyncio.get_running_loop().run_in_executor(None, self._writer.close)
            self._is_closed = True
            self._wake_readers()
            self._store.close()

    # ---- readers ----

    def _next_groups(self, after: int) -> Sequence[Group]:
        """A few groups with lsn > after: from the tail, or from the store, or none."""
        with self._lock:
            last = self._last_lsn
            if self._tail and self._tail[0][0].lsn <= after + 1 <= last:
                start = after + 1 - self._tail[0][0].lsn
                part = itertools.islice(self._tail, start, start + READ_GROUPS)
                return [group for group, _ in part]
        if after >= last or self._is_closed:
            return ()
        found = self._store.read(after + 1, last, READ_BYTES)
        raws = [_check_lsn(bytes_to_raw(value), lsn) for lsn, value in found]
        if [raw.lsn for raw in raws] != list(range(after + 1, after + 1 + len(raws))) or not raws:
            raise JournalCorrupt(f"group {after + 1} is missing")
        return [open_group(raw, self._ring) for raw in raws]

    def _wake_readers(self) -> None:
        with self._lock:
            readers = list(self._readers.items())
        for more, loop in readers:
            with contextlib.suppress(RuntimeError):  # the reader's loop has ended
                loop.call_soon_threadsafe(more.set)

    # ---- derived state ----

    def _load(self) -> None:
        """Derive what is kept in memory from the heads of the groups behind `last_lsn`.

        Raises JournalCorrupt: a bad group below the last commit is damage, not the end of the log.
        """
        for lsn, view in self._store.scan(self._last_lsn + 1):
            raw = _check_lsn(bytes_to_raw(view, is_head_only=True), lsn)
            if lsn != self._last_lsn + 1:
                raise JournalCorrupt(f"group {self._last_lsn + 1} is missing")
            if raw.chain != self._chain:
                raise JournalCorrupt(f"group {lsn} does not follow the group before it")
            with self._lock:
                self._marks.add_group(raw)
                self._last_lsn = lsn
                self._clear_tail()  # the tail has no gaps: what was found here is not in it
            self._chain = raw.link
            if raw.row_count and not raw.is_expired:
                self._days.setdefault(raw.day, array("Q")).append(lsn)

    def _recover(self) -> None:
        """Come back after a failed commit. Raises StorageFull, StorageUnavailable."""
        if not self._store.is_proven:
            self._store.recover()
            self._load()  # the commit may have failed after its last write: then it counts
            self._wake_readers()
        self._is_trusted = True

    # ---- the writer thread ----

    def _work(self, jobs: list[Job]) -> Sequence[Job]:
        again: list[Job] = []
        for is_append, run in itertools.groupby(jobs, lambda job: isinstance(job, _Append)):
            if is_append:
                self._append_all([job for job in run if isinstance(job, _Append)])
                continue
            for job in run:
                if isinstance(job, _Expire) and not self._expire_some(job):
                    again.append(job)
                if isinstance(job, _Amend) and not self._amend_some(job):
                    again.append(job)
        return again

    def _append_all(self, jobs: list[_Append]) -> None:
        commit = _Commit(fresh=jobs)
        try:
            if not self._is_trusted:
                self._recover()
            commit = self._plan(jobs)
            if commit.fresh:
                if not self._store.is_proven:
                    self._recover()
                    commit = self._plan(jobs)  # some of it may have been found in the store
                if commit.fresh:
                    self._commit(commit)
        except Exception as error:
            # Whatever it was, nothing of this may be acknowledged, and nothing pass over it.
            self._fail(commit, _as_seam_error(error))
        self.counters.duplicates += sum(job.is_duplicate and not job.error for job in jobs)

    def _plan(self, jobs: list[_Append]) -> _Commit:
        """Sort out what is new; duplicates and faults get their outcome here."""
        commit = _Commit()
        for job in jobs:
            run = job.batch.run
            mark = (run.gateway, run.epoch, run.cls)
            durable, job.lsn = self._marks.find(run)
            watermark = commit.marks.get(mark, durable)
            job.error, job.is_duplicate = None, False
            try:
                job.is_duplicate = check_overlap(run, watermark)
                if job.is_duplicate:
                    if run.last > durable:
                        commit.repeats.append(job)
                    continue
                if mark not in commit.marks:
                    self._check_lost(job, mark)
            except (ValueError, StorageUnavailable) as error:
                job.error = error
                continue
            commit.marks[mark] = run.last
            commit.fresh.append(job)
        return commit

    def _check_lost(self, job: _Append, mark: Mark) -> None:
        """Nothing passes over a run that failed, or its rows would be lost without a trace.

        Durable sequences (class 0) wait until it came again. In volatile ones a sender may drop
        frames, so only what was already on its way when the run failed is refused.
        """
        lost = self._lost.get(mark)
        if lost is None:
            return
        # A failed commit that was found in the store after all has moved the watermark past it.
        first = max(lost[0], self._marks.find(job.batch.run)[0] + 1)
        if job.batch.run.first > first and (mark[2] == 0 or job.number <= lost[1]):
            raise StorageUnavailable(f"sequence number {first} was not stored and must come first")

    def _commit(self, commit: _Commit) -> None:
        started_ns = self._clock.monotonic_ns()
        packer = Packer(self._ring)
        for job in commit.fresh:
            packer.add(job.batch, job.arrival_ms)
        lsn, chain = self._last_lsn, self._chain
        records: list[tuple[int, bytes]] = []
        groups: list[tuple[Group, int]] = []
        for draft in packer.drafts:
            lsn += 1
            data, group, chain = seal_group(draft, lsn, chain, self._ring)
            records.append((lsn, data))
            groups.append((group, len(data) + group.rows.nbytes))
        self._store.write(records)
        self._chain = chain
        for job in itertools.chain(commit.fresh, commit.repeats):
            job.lsn = lsn
        with self._lock:
            for mark, last in commit.marks.items():
                self._marks.set(mark, last, lsn)
                self._lost.pop(mark, None)
            self._last_lsn = lsn
            self._extend_tail(groups)
        for group, _ in groups:
            if len(group.rows):
                self._days.setdefault(group.day, array("Q")).append(group.lsn)
        self._count(records, groups, packer.rows_forgotten, started_ns)
        self._wake_readers()

    def _count(
        self,
        records: list[tuple[int, bytes]],
        groups: list[tuple[Group, int]],
        rows_forgotten: int,
        started_ns: int,
    ) -> None:
        counters = self.counters
        counters.commits += 1
        counters.groups += len(groups)
        counters.rows += sum(len(group.rows) for group, _ in groups)
        counters.bytes += sum(len(value) for _, value in records)
        counters.rows_forgotten += rows_forgotten
        counters.last_commit_ns = self._clock.monotonic_ns() - started_ns
        counters.commit_ns_total += counters.last_commit_ns

    def _fail(self, commit: _Commit, error: StorageError) -> None:
        self.counters.failures += 1
        for job in itertools.chain(commit.fresh, commit.repeats):
            job.error = type(error)(*error.args, hint=error.hint)  # each waiter raises its own
        for job in commit.fresh:
            run = job.batch.run
            mark = (run.gateway, run.epoch, run.cls)
            first = min(run.first, self._lost.get(mark, (run.first, 0))[0])
            self._lost[mark] = (first, self._writer.last_number)

    def _extend_tail(self, groups: list[tuple[Group, int]]) -> None:
        """The lock is held. The newest group always stays: the reader close behind wants it."""
        for group, size in groups:
            self._tail.append((group, size))
            self._tail_size += size
        while self._tail_size > self._tail_limit_bytes and len(self._tail) > 1:
            self._tail_size -= self._tail.popleft()[1]

    def _clear_tail(self) -> None:
        """The lock is held."""
        self._tail.clear()
        self._tail_size = 0

    def _amend_some(self, job: _Amend) -> bool:
        """One step of it; True when it is done or has failed."""
        records: list[tuple[int, bytes]] = []
        try:
            self._recover()
            step = self._read_some(job.lsns[job.position :])
            for raw in step:
                data = job.change(raw)
                if data is not None:
                    records.append((raw.lsn, check_amended(raw, data)))
            if records:
                self._store.write(records, is_append=False)
        except Exception as error:
            job.error = error  # whoever gave `change` knows best what it raises
            return True
        with self._lock:
            # Open copies of the rows are in the tail; readers go to the store from here on.
            self._clear_tail()
        job.position += len(step)
        job.count += len(records)
        return job.position >= len(job.lsns)

    def _read_some(self, lsns: Sequence[int]) -> list[RawGroup]:
        """The first of these groups, up to AMEND_BYTES: appends go between."""
        found: list[RawGroup] = []
        size = 0
        for lsn in lsns[:EXPIRE_GROUPS]:
            for _, value in self._store.read(lsn, lsn, 1):
                found.append(_check_lsn(bytes_to_raw(value), lsn))
                size += len(value)
            if size >= AMEND_BYTES:
                break
        if len(found) < min(1, len(lsns)):
            raise NotFound(f"there is no group {lsns[0]}")
        return found

    def _expire_some(self, job: _Expire) -> bool:
        """One step of forgetting; True when it is done or has failed.

        The keys go first. From then on nothing of the day can be read, whatever happens to the
        rewriting, which a later call takes up again.
        """
        try:
            if not job.is_begun:
                self._forget_days(job)
            self._recover()
            step = job.lsns[job.position : job.position + EXPIRE_GROUPS]
            raws = [
                _check_lsn(bytes_to_raw(value, is_head_only=True), lsn)
                for first in step
                for lsn, value in self._store.read(first, first, 1)
            ]
            raws = [raw for raw in raws if not raw.is_expired]
            if raws:
                self._store.write([(r.lsn, expire_bytes(r)) for r in raws], is_append=False)
        except EngineError as error:
            job.error = _as_seam_error(error)
            return True
        job.position += len(step)
        job.count += len(raws)
        self.counters.groups_expired += len(raws)
        if job.position < len(job.lsns):
            return False
        for day in job.days:
            self._days.pop(day, None)
        return True

    def _forget_days(self, job: _Expire) -> None:
        """Destroy the keys of the days that are over, and note which groups to empty."""
        job.is_begun = True
        job.days = sorted(
            day for day in self._days if is_day_over(day, job.before_ms) and day not in job.held
        )
        with self._lock:
            # Open copies of the rows are in the tail; readers go to the store from here on.
            self._clear_tail()
        for day in {*job.days, *self._ring.days()} - job.held:
            if is_day_over(day, job.before_ms):
                self._ring.destroy_day(day)
        job.lsns = [lsn for day in job.days for lsn in self._days[day]]


def _check_lsn(raw: RawGroup, lsn: int) -> RawGroup:
    if raw.lsn != lsn:
        raise JournalCorrupt(f"group {lsn} calls itself {raw.lsn}")
    return raw


def _as_seam_error(error: Exception) -> StorageError:
    """The seam knows storage errors only; a day's key that cannot be had is one of them."""
    if isinstance(error, StorageError):
        return error
    unavailable = StorageUnavailable(f"the journal cannot write: {type(error).__name__}")
    unavailable.__cause__ = error
    return unavailable
