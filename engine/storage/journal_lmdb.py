"""The scan log on LMDB: one value per group under its LSN, one writer thread, group commit; the
files are those of `Generations`.

The writer takes whatever has come since its last commit returned, merges it by day into groups,
and commits them in one transaction; there is no timer. Receipts go out after the commit. What is
kept in memory (watermarks, chain, which groups a day has) is derived from the heads of the groups
when the store opens, and from the header of the oldest generation there is.

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
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from engine import faults
from engine.clock import Clock
from engine.errors import (
    EngineError,
    JournalCorrupt,
    NotFound,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from engine.identity.keys import KeyRing
from engine.storage.commit_thread import CommitThread, Job
from engine.storage.generation import bytes_to_header, pack_header
from engine.storage.generations import KIND, Generation, Generations
from engine.storage.group import (
    HEADER_SIZE,
    Group,
    RawGroup,
    SealedDetails,
    bytes_to_raw,
    expire_bytes,
    genesis,
    open_renewed,
    raw_to_details,
    seal_group,
)
from engine.storage.journal import (
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
from engine.storage.journal_jobs import AmendJob, AppendJob, ExpireJob, PlannedCommit
from engine.storage.store_lmdb import PAGE_SIZE, pages

__all__ = ["KIND", "LmdbJournal"]

READ_BYTES = 1 << 20  # one short read transaction of a reader
READ_GROUPS = 256  # groups a reader takes from the tail at a time
EXPIRE_GROUPS = 256  # groups emptied in one commit: appends go between
AMEND_BYTES = 2 << 20  # of groups amended in one commit, likewise


class LmdbJournal:
    """A Journal in one directory. Opening reads the heads of all groups.

    limit_bytes: how large the data may grow. floor_bytes: free space it leaves on the disk.
    generation_bytes: how large a file of it grows before another is begun.
    pending_limit_bytes: what may wait in memory for a commit. commit_limit_bytes: the most one
    transaction takes. tail_bytes: recent groups kept open for readers that are close behind.
    strip: takes from a batch what must not be stored, on the event loop that appends.
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
        generation_bytes: int = 512 << 20,
        pending_limit_bytes: int = 32 << 20,
        commit_limit_bytes: int = 8 << 20,
        tail_bytes: int = 16 << 20,
        strip: Callable[[RecordBatch], RecordBatch] = lambda batch: batch,
    ) -> None:
        self.counters = Counters()
        self._ring = ring
        self._clock = clock
        self._strip = strip
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
        self._log = Generations(
            Path(path),
            size_bytes=generation_bytes,
            limit_bytes=limit_bytes,
            floor_bytes=floor_bytes,
            now_ms=clock.now_ms(),
        )
        self._chain = genesis(self._log.store_id)
        self._is_trusted = False
        try:
            with contextlib.suppress(StorageFull, StorageUnavailable):
                self._log.prove()  # on a full disk questions are still answered
            self._load()
        except BaseException:
            self._log.close()
            raise
        # Without the proving commit, the last group may stand in the page cache only, and a
        # repeat of it must not be acknowledged yet.
        self._is_trusted = self._log.is_proven
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
        job = AppendJob(self._strip(batch), self._clock.now_ms())
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
        is_there = self._log.first_lsn <= lsn <= self._last_lsn
        found = self._log.read(lsn, lsn, READ_BYTES) if is_there else []
        if not found:
            raise NotFound(f"there is no group {lsn}")
        return raw_to_details(_check_lsn(bytes_to_raw(found[0][1]), lsn), self._ring)

    def read_days(self, days: Collection[int], last: int) -> Iterator[Group]:
        lsns = (lsn for day in days for lsn in self._days.get(day, ()) if lsn <= last)
        for lsn in sorted(lsns):
            found = self._log.read(lsn, lsn, READ_BYTES)
            if not found:
                raise JournalCorrupt(f"group {lsn} is missing")
            yield open_renewed(_check_lsn(bytes_to_raw(found[0][1]), lsn), self._ring)

    async def settle(self) -> None:
        await self._writer.run(Job())

    async def expire(self, before_ms: int, held: Collection[int] = ()) -> int:
        job = ExpireJob(before_ms, frozenset(held))
        await self._writer.run(job)
        return job.count

    async def amend(self, lsns: Iterable[int], change: Amend) -> int:
        job = AmendJob(sorted(set(lsns)), change)
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

    def first_lsn(self) -> int:
        return self._log.first_lsn

    def last_lsn(self) -> int:
        return self._last_lsn

    def file_count(self) -> int:
        """Generations there are; the one made ahead is not counted."""
        return len(self._log.series)

    def disk_bytes(self) -> int:
        """Bytes that its files take on the disk."""
        return self._log.disk_bytes()

    def head(self) -> bytes:
        """Link of the last group: 32 bytes that stand for the whole log."""
        return self._chain

    async def close(self) -> None:
        if not self._is_closed:
            await asyncio.get_running_loop().run_in_executor(None, self._writer.close)
            self._is_closed = True
            self._wake_readers()
            self._log.close()

    # ---- readers ----

    def _next_groups(self, after: int) -> Sequence[Group]:
        """A few groups with lsn > after: from the tail, or from the store, or none."""
        with self._lock:
            last = self._last_lsn
            if self._tail and self._tail[0][0].lsn <= after + 1 <= last:
                # By position, which a deque finds from its nearer end: an islice would pass all
                # that was read before, and small groups are many.
                start = after + 1 - self._tail[0][0].lsn
                stop = min(start + READ_GROUPS, len(self._tail))
                return [self._tail[at][0] for at in range(start, stop)]
        if after >= last or self._is_closed:
            return ()
        first = max(after + 1, self._log.first_lsn)
        found = self._log.read(first, last, READ_BYTES)
        raws = [_check_lsn(bytes_to_raw(value), lsn) for lsn, value in found]
        if [raw.lsn for raw in raws] != list(range(first, first + len(raws))) or not raws:
            if first < self._log.first_lsn:
                return self._next_groups(after)  # its generation went just now
            raise JournalCorrupt(f"group {first} is missing")
        return [open_renewed(raw, self._ring) for raw in raws]

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
        for generation in self._log.since(self._last_lsn + 1):
            self._take_header(generation)
            for lsn, view in self._log.scan(generation, self._last_lsn + 1):
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
                generation.note(raw.day, raw.first_arrival_ms)
                if raw.row_count and not raw.is_expired:
                    self._days.setdefault(raw.day, array("Q")).append(lsn)

    def _take_header(self, generation: Generation) -> None:
        """Of a generation that begins behind `last_lsn`: it must say what those before it ended
        with, and the oldest is believed what is no longer there."""
        header = generation.header
        if header is None or header.first_lsn <= self._last_lsn:
            return
        if generation is self._log.series[0]:
            with self._lock:
                self._last_lsn = header.first_lsn - 1
                for mark, last in header.marks.items():
                    self._marks.set(mark, last, self._last_lsn)
        elif header.first_lsn != self._last_lsn + 1:
            raise JournalCorrupt(f"group {self._last_lsn + 1} is missing")
        elif header.chain != self._chain or header.marks != self._marks.values():
            raise JournalCorrupt(f"generation {header.number} does not follow the one before it")
        self._chain = header.link

    def _recover(self) -> None:
        """Come back after a failed commit. Raises StorageFull, StorageUnavailable."""
        if not self._log.is_proven:
            self._log.recover()
            self._load()  # the commit may have failed after its last write: then it counts
            self._wake_readers()
        self._is_trusted = True

    # ---- the writer thread ----

    def _work(self, jobs: list[Job]) -> Sequence[Job]:
        again: list[Job] = []
        for is_append, run in itertools.groupby(jobs, lambda job: isinstance(job, AppendJob)):
            if is_append:
                self._append_all([job for job in run if isinstance(job, AppendJob)])
                continue
            for job in run:
                if isinstance(job, ExpireJob) and not self._expire_some(job):
                    again.append(job)
                if isinstance(job, AmendJob) and not self._amend_some(job):
                    again.append(job)
        return again

    def _append_all(self, jobs: list[AppendJob]) -> None:
        commit = PlannedCommit(fresh=jobs)
        try:
            if not self._is_trusted:
                self._recover()
            commit = self._plan(jobs)
            if commit.fresh:
                if not self._log.is_proven:
                    self._recover()
                    commit = self._plan(jobs)  # some of it may have been found in the store
                if commit.fresh:
                    self._commit(commit)
        except Exception as error:
            # Whatever it was, nothing of this may be acknowledged, and nothing pass over it.
            self._fail(commit, _as_seam_error(error))
        self.counters.duplicates += sum(job.is_duplicate and not job.error for job in jobs)

    def _plan(self, jobs: list[AppendJob]) -> PlannedCommit:
        """Sort out what is new; duplicates and faults get their outcome here."""
        commit = PlannedCommit()
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

    def _check_lost(self, job: AppendJob, mark: Mark) -> None:
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

    def _commit(self, commit: PlannedCommit) -> None:
        started_ns = self._clock.monotonic_ns()
        packer = Packer(self._ring)
        for job in commit.fresh:
            packer.add(job.batch, job.arrival_ms)
        lsn, chain = self._last_lsn, self._chain
        header = self._next_header(packer)
        if header:
            chain = bytes_to_header(header).link
        records: list[tuple[int, bytes]] = []
        groups: list[tuple[Group, int]] = []
        for draft in packer.drafts:
            lsn += 1
            data, group, chain = seal_group(draft, lsn, chain, self._ring)
            records.append((lsn, data))
            groups.append((group, len(data) + group.rows.nbytes))
        if header:
            self._log.begin(header, records)
        else:
            self._log.write(records)
        self._chain = chain
        for job in itertools.chain(commit.fresh, commit.repeats):
            job.lsn = lsn
        with self._lock:
            for mark, last in commit.marks.items():
                self._marks.set(mark, last, lsn)
                self._lost.pop(mark, None)
            self._last_lsn = lsn
            self._extend_tail(groups)
        newest = self._log.series[-1]
        for group, _ in groups:
            newest.note(group.day, group.first_arrival_ms)
            if len(group.rows):
                self._days.setdefault(group.day, array("Q")).append(group.lsn)
        self._count(records, groups, packer.rows_forgotten, started_ns)
        with self._lock:
            for more, loop in self._readers.items():
                self._writer.notify(loop, more.set)

    def _next_header(self, packer: Packer) -> bytes:
        """Header of the generation that these drafts begin; empty where they begin none."""
        need_bytes = sum(pages(HEADER_SIZE + draft.size) for draft in packer.drafts) * PAGE_SIZE
        now_ms = self._clock.now_ms()
        number = self._log.turn(need_bytes, now_ms)
        if not number:
            return b""
        first_lsn, marks = self._last_lsn + 1, self._marks.values()
        return pack_header(number, self._log.store_id, first_lsn, now_ms, self._chain, marks)

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

    def _fail(self, commit: PlannedCommit, error: StorageError) -> None:
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

    def _amend_some(self, job: AmendJob) -> bool:
        """One step of it; True when it is done or has failed."""
        records: list[tuple[int, bytes]] = []
        try:
            self._recover()
            self._log.prove_older(job.lsns[job.position : job.position + EXPIRE_GROUPS])
            step = self._read_some(job.lsns[job.position :])
            for raw in step:
                data = job.change(raw)
                if data is not None:
                    records.append((raw.lsn, check_amended(raw, data)))
            if records:
                self._log.replace(records)
                faults.reach("journal.amended")
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
            for _, value in self._log.read(lsn, lsn, 1):
                found.append(_check_lsn(bytes_to_raw(value), lsn))
                size += len(value)
            if size >= AMEND_BYTES:
                break
        if len(found) < min(1, len(lsns)):
            raise NotFound(f"there is no group {lsns[0]}")
        return found

    def _expire_some(self, job: ExpireJob) -> bool:
        """One step of forgetting; True when it is done or has failed.

        The keys go first. From then on nothing of the day can be read, whatever happens to the
        rewriting, which a later call takes up again.
        """
        try:
            if not job.is_begun:
                self._forget_days(job)
            self._recover()
            if not job.is_released:
                self._release(job)
            step = job.lsns[job.position : job.position + EXPIRE_GROUPS]
            self._log.prove_older(step)
            raws = [
                _check_lsn(bytes_to_raw(value, is_head_only=True), lsn)
                for first in step
                for lsn, value in self._log.read(first, first, 1)
            ]
            raws = [raw for raw in raws if not raw.is_expired]
            if raws:
                self._log.replace([(r.lsn, expire_bytes(r)) for r in raws])
                faults.reach("journal.emptied")
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

    def _release(self, job: ExpireJob) -> None:
        """Let the oldest generations go in which no day lives any more, as they are."""
        living = [lsns[0] for day, lsns in self._days.items() if lsns and day not in job.days]
        first_living = min(living, default=self._last_lsn + 1)
        count = 0
        for generation in self._log.series[:-1]:
            newest_day = generation.last_day
            if generation.last_lsn >= first_living or newest_day is None:
                break
            if not is_day_over(newest_day, job.before_ms):
                break
            count += 1
        self._log.release(count)
        job.is_released = True
        for day in job.days:
            lsns = self._days[day]
            del lsns[: bisect_left(lsns, self._log.first_lsn)]
        gone = bisect_left(job.lsns, self._log.first_lsn)
        del job.lsns[:gone]
        job.count += gone
        self.counters.groups_expired += gone

    def _forget_days(self, job: ExpireJob) -> None:
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
        faults.reach("journal.destroyed")
        job.lsns = sorted(lsn for day in job.days for lsn in self._days[day])


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
