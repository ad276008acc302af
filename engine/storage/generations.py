"""The files of the scan log: a series of generations, of which only the newest is appended to.

    journal/  store.lock  000007/ 000008/ 000009/    each data.mdb lock.mdb

Another is begun when the newest is large enough, or when a civil day has begun since: then a file
holds little but the arrivals of one day, and goes as a whole when that day is forgotten. It is made
ahead, in a thread of its own: the commit that begins it only finds its header to write besides its
groups. Whatever ends the process between two steps, the next start finds a series that goes on.

One Store a generation; of the older ones some are open at a time. The lock is that of the folder.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from engine import faults
from engine.clock import ms_to_day
from engine.errors import EngineError, JournalCorrupt, StorageError, StorageFull, StorageUnavailable
from engine.storage import store_lmdb, zero_fill
from engine.storage.generation import (
    DATA_NAME,
    UNFINISHED,
    Header,
    bytes_to_header,
    folders,
    name_of,
    numbered_folders,
    unfinished,
)
from engine.storage.store_lmdb import Store, make_directory, sync_directory
from engine.storage.store_lock import StoreLock

KIND: Final = "journal"
OPEN_MAX: Final = 8  # older generations that are open at a time
PAUSE_S: Final = 5.0  # after a generation could not be made


@dataclass(slots=True)
class Generation:
    """One of the series. last_lsn: of a finished one. used_bytes: without zeros and free pages.

    begun_day, last_day: civil day on which the first group came, and the newest of its groups;
    None until a group was noted.
    """

    number: int
    path: Path
    first_lsn: int
    header: Header | None
    used_bytes: int = 0
    last_lsn: int = 0
    begun_day: int | None = None
    last_day: int | None = None

    def note(self, day: int, arrival_ms: int) -> None:
        """A group of that day stands in it."""
        self.last_day = day if self.last_day is None else max(day, self.last_day)
        if self.begun_day is None:
            self.begun_day = ms_to_day(arrival_ms if self.header is None else self.header.begun_ms)


class Generations:
    """The folder of a scan log, held and open for writing.

    size_bytes: how large a generation grows before another is begun; while none is ready it may
    grow to twice of that. limit_bytes: how large the data of all may grow. floor_bytes: as in
    Store. Raises StoreLocked, StoreVersion, JournalCorrupt, StorageFull, StorageUnavailable.

    One thread writes, any may read.
    """

    def __init__(
        self, path: Path, *, size_bytes: int, limit_bytes: int, floor_bytes: int, now_ms: int
    ) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._limit_bytes = limit_bytes
        self._floor_bytes = floor_bytes
        self._now_ms = now_ms
        self._guard = threading.Lock()  # the series, and which stores are open
        self._series: list[Generation] = []
        self._open: OrderedDict[int, Store] = OrderedDict()  # older ones, last used last
        self._newest: Store | None = None
        self._ready: Store | None = None  # made and not begun
        self._is_ready_doubtful = False  # its first commit failed
        self._ready_zeros = 0
        self._making = threading.Lock()
        self._finished: list[Store] = []  # no longer appended to, and not yet cut
        self._more = threading.Event()
        self._idle_until_s = 0.0
        self._is_closed = False
        self._thread: threading.Thread | None = None
        make_directory(path)
        self._lock = StoreLock(path)
        try:
            self._find()
        except BaseException:
            self.close()
            raise

    @property
    def series(self) -> Sequence[Generation]:
        """Those that were begun, oldest first; at least one."""
        return self._series

    @property
    def store_id(self) -> bytes:
        return self._last_store().meta.store_id

    @property
    def first_lsn(self) -> int:
        """Of the oldest group there is, or of the first that will be."""
        return self._series[0].first_lsn

    @property
    def is_proven(self) -> bool:
        """Every append is known to be durable, or not to be."""
        return self._last_store().is_proven and not self._is_ready_doubtful

    def used_bytes(self) -> int:
        """Bytes of the pages that hold something; the files may be larger."""
        return self._last_store().used_bytes() + sum(g.used_bytes for g in self._series[:-1])

    def disk_bytes(self) -> int:
        """Bytes that the files take on the disk, zeros ahead included."""
        size = 0
        for _, folder in numbered_folders(self._path):
            with contextlib.suppress(OSError):
                size += (folder / DATA_NAME).stat().st_blocks * 512
        return size

    # ---- reading --------------------------------------------------------------------------------

    def read(self, first: int, last: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        """Records first..last of the generation that holds the first; as `Store.read`."""
        while True:
            with self._guard:
                generation = self._holder(first)
            if generation is None:
                return []
            store = self._store_of(generation)
            try:
                return store.read(first, last, limit_bytes)
            except StorageUnavailable:
                if store is self._newest or store.is_open:
                    raise  # else it was closed to make room for another, or is gone

    def since(self, lsn: int) -> list[Generation]:
        """Those with anything from `lsn` on, and the newest."""
        older = [generation for generation in self._series[:-1] if generation.last_lsn >= lsn]
        return [*older, self._series[-1]]

    def scan(self, generation: Generation, lsn: int) -> Iterator[tuple[int, memoryview]]:
        """Its records from `lsn` on, as `Store.scan`; for the thread that writes."""
        return self._store_of(generation).scan(max(lsn, generation.first_lsn))

    def _holder(self, lsn: int) -> Generation | None:
        for generation in reversed(self._series):
            if generation.first_lsn <= lsn:
                return generation
        return None

    def _last_store(self) -> Store:
        if self._newest is None:
            raise StorageUnavailable("the journal store is closed")
        return self._newest

    def _store_of(self, generation: Generation) -> Store:
        with self._guard:
            newest = self._last_store()
            if generation is self._series[-1]:
                return newest
            store = self._open.get(generation.number)
            if store is None or not store.is_open:
                store = self._open[generation.number] = self._open_store(generation.path)
                store.before_lsn = generation.first_lsn - 1
            self._open.move_to_end(generation.number)
            while len(self._open) > OPEN_MAX:
                self._open.popitem(last=False)[1].close()
            return store

    # ---- writing --------------------------------------------------------------------------------

    def turn(self, need_bytes: int, now_ms: int) -> int:
        """Number of the generation that the next commit must begin; 0 when it must not.

        One that should be begun and is not ready is waited for only when the newest can take no
        more. Raises StorageError when it cannot be made then.
        """
        self._now_ms = now_ms
        store, newest = self._last_store(), self._series[-1]
        if newest.begun_day is None:
            return 0  # nothing in it
        end = store.end_bytes
        if end + need_bytes > self._size_bytes:
            end = store.measure()
        is_due = end >= self._size_bytes or ms_to_day(now_ms) > newest.begun_day
        if end + need_bytes > 2 * self._size_bytes:
            self._make_next()
            is_due = True
        if is_due and self._ready is not None:
            return newest.number + 1
        if is_due or end >= zero_fill.FROM_BYTES:
            self._prepare(end)
        return 0

    def write(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Append to the newest generation. Raises as `Store.write`."""
        self._last_store().write(records)

    def begin(self, header: bytes, records: Sequence[tuple[int, bytes]]) -> None:
        """Append to the generation that `turn` named, its header before its first records."""
        newest, store = self._last_store(), self._ready
        assert store is not None
        used_bytes = newest.used_bytes()
        store.before_lsn = records[0][0] - 1
        store.others_bytes = newest.others_bytes + used_bytes
        meta = msgspec.structs.replace(store.meta, header=header, oldest=newest.meta.oldest)
        try:
            store.write(records, meta=meta)
        except StorageError:
            self._is_ready_doubtful = not store.is_proven
            raise
        faults.reach("generation.begun")
        self._go_on(store)

    def prove_older(self, lsns: Sequence[int]) -> None:
        """See to it that what is found at these LSNs is durable. Raises as `Store.recover`.

        The newest proves itself; in an older one what a killed process or a failed commit left in
        the page cache would be believed.
        """
        for generation in self._series[:-1]:
            first, last = generation.first_lsn, generation.last_lsn
            if any(first <= lsn <= last for lsn in lsns):
                store = self._store_of(generation)
                if not store.is_proven:
                    store.recover()

    def replace(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Put others in the place of existing records, one commit for each generation."""
        start = 0
        while start < len(records):
            generation = self._holder(records[start][0])
            end = start + 1
            while end < len(records) and self._holder(records[end][0]) is generation:
                end += 1
            if generation is None:
                raise StorageUnavailable(f"group {records[start][0]} is gone")
            self._replace(generation, records[start:end])
            start = end

    def _replace(self, generation: Generation, records: Sequence[tuple[int, bytes]]) -> None:
        while True:
            store = self._store_of(generation)
            try:
                store.write(records, is_append=False)
            except StorageUnavailable:
                if store is self._newest or store.is_open:
                    raise
                continue  # a reader closed it to make room for another
            generation.used_bytes = store.used_bytes()
            self._count_others()
            return

    def release(self, count: int) -> None:
        """Unlink that many of the oldest generations, never the newest. Raises StorageError.

        The newest says first which is the oldest that must be there, so that one that was lost is
        told from one that was forgotten.
        """
        gone = self._series[: min(count, len(self._series) - 1)]
        if not gone:
            return
        store = self._last_store()
        oldest = gone[-1].number + 1
        store.write([], is_append=False, meta=msgspec.structs.replace(store.meta, oldest=oldest))
        faults.reach("generation.released")
        with self._guard:
            del self._series[: len(gone)]
            for generation in gone:
                if (opened := self._open.pop(generation.number, None)) is not None:
                    opened.close()
        self._count_others()
        self._remove_released()

    def _remove_released(self) -> None:
        """Take away what the newest generation says need not be there. Raises StorageError."""
        oldest = self._last_store().meta.oldest
        is_changed = False
        for number, folder in numbered_folders(self._path):
            if number < oldest:
                _remove_folder(folder)
                faults.reach("generation.unlinked")
                is_changed = True
        if is_changed:
            sync_directory(self._path)

    def _go_on(self, store: Store) -> None:
        """The generation that was ready is begun, and durably so: it is the newest."""
        header = bytes_to_header(store.meta.header)
        before = self._series[-1]
        newest = self._last_store()
        before.last_lsn = header.first_lsn - 1
        before.used_bytes = newest.used_bytes()
        store.before_lsn = before.last_lsn
        with self._guard:
            self._series.append(Generation(header.number, store.path, header.first_lsn, header))
            self._open[before.number] = newest
            self._newest = store
            self._ready = None
            self._ready_zeros = 0
            self._is_ready_doubtful = False
            self._finished.append(newest)
        self._count_others()
        self._wake()

    def _count_others(self) -> None:
        self._last_store().others_bytes = sum(g.used_bytes for g in self._series[:-1])

    # ---- coming back ----------------------------------------------------------------------------

    def prove(self) -> None:
        """First commit after opening: as `Store.prove`. Then what was released may go."""
        self._last_store().prove()
        self._remove_released()

    def recover(self) -> None:
        """Open what appends go to again and prove that commits work: as `Store.recover`.

        A generation whose first commit failed may have been begun all the same.
        """
        if self._is_ready_doubtful and self._ready is not None:
            store = self._ready
            store.recover()
            self._is_ready_doubtful = False
            if store.meta.header:
                self._go_on(store)
        if not self._last_store().is_proven:
            self._last_store().recover()

    def close(self) -> None:
        """May be repeated."""
        self._is_closed = True
        if self._thread is not None:
            while self._thread.is_alive():  # it may have overheard the first call
                self._more.set()
                self._thread.join(0.05)
        with self._guard:
            for store in (*self._open.values(), self._newest, self._ready):
                if store is not None:
                    store.close()
            self._open.clear()
            self._newest = self._ready = None
        self._lock.close()

    # ---- opening --------------------------------------------------------------------------------

    def _find(self) -> None:
        """Opens what is there, or makes the first generation."""
        for folder in unfinished(self._path):
            _remove_folder(folder)
        self._adopt_single_file()
        found = folders(self._path)
        if not found:
            self._newest = self._make(1, zeros=0, store_id=b"")
            self._series = [Generation(1, self._newest.path, 1, None)]
            return
        sync_directory(self._path)  # the last one may have got its name just before a kill
        number, folder = found.pop()
        store = self._open_store(folder, is_filled=True)
        try:
            if number > 1 and not store.meta.header:
                if not found or store.last_lsn():
                    raise JournalCorrupt(f"{folder} has no header")
                self._ready, store = store, self._open_store(found[-1][1], is_filled=True)
                number, folder = found.pop()
        except BaseException:
            store.close()
            raise
        self._newest = store
        oldest = store.meta.oldest
        self._check_oldest(oldest, [*(n for n, _ in found), number])
        for older, place in found:
            if older >= oldest:
                with self._open_store(place) as one:
                    one.finish()  # of zeros that a kill left
                    self._add(older, one)
        self._add(number, store)
        store.before_lsn = self._series[-1].first_lsn - 1
        if self._ready is not None and self._ready.meta.store_id != store.meta.store_id:
            raise JournalCorrupt(f"{self._ready.path} is of another log")
        self._count_others()

    def _check_oldest(self, oldest: int, numbers: Sequence[int]) -> None:
        if min(numbers) > oldest:
            raise JournalCorrupt(
                f"{self._path}: generation {oldest} is missing; {min(numbers)} is the oldest there"
            )

    def _add(self, number: int, store: Store) -> None:
        header = None
        if number > 1:
            header = bytes_to_header(store.meta.header)
            if header.number != number:
                raise JournalCorrupt(f"{store.path} calls itself generation {header.number}")
        if store.meta.store_id != self.store_id or (
            header is not None and header.store_id != self.store_id
        ):
            raise JournalCorrupt(f"{store.path} is of another log")
        first_lsn = 1 if header is None else header.first_lsn
        if self._series:
            self._series[-1].last_lsn = first_lsn - 1
            if first_lsn <= self._series[-1].first_lsn:
                raise JournalCorrupt(f"{store.path} begins with group {first_lsn}")
        self._series.append(Generation(number, store.path, first_lsn, header, store.used_bytes()))

    def _adopt_single_file(self) -> None:
        """A log from before there were generations becomes the first one: its file is renamed."""
        data = self._path / DATA_NAME
        if not data.exists():
            return
        folders(self._path)  # raises when there are generations besides
        Store(self._path, kind=KIND, is_offline=True, lock=self._lock).close()  # only what we know
        folder = self._path / name_of(1)
        make_directory(folder)
        try:
            data.rename(folder / DATA_NAME)
            sync_directory(folder)
            sync_directory(self._path)
            (self._path / "lock.mdb").unlink(missing_ok=True)
        except OSError as error:
            raise StorageUnavailable(f"{data}: {error.strerror}") from error

    def _open_store(self, folder: Path, *, is_filled: bool = False, store_id: bytes = b"") -> Store:
        return Store(
            folder,
            kind=KIND,
            limit_bytes=self._limit_bytes,
            map_bytes=2 * self._size_bytes,
            floor_bytes=self._floor_bytes,
            now_ms=self._now_ms,
            is_filled=is_filled,
            lock=self._lock,
            store_id=store_id,
        )

    # ---- the next one ---------------------------------------------------------------------------

    def _make(self, number: int, *, zeros: int, store_id: bytes) -> Store:
        """A new generation, durable and not begun. Raises StorageError, and leaves nothing."""
        folder = self._path / name_of(number)
        made = folder.with_suffix(UNFINISHED)
        store: Store | None = None
        try:
            _remove_folder(made)
            store = self._open_store(made, is_filled=True, store_id=store_id)
            faults.reach("generation.made")
            store.fill_ahead(zeros)
            faults.reach("generation.filled")
            store.rename(folder)
            faults.reach("generation.named")
            sync_directory(self._path)
            faults.reach("generation.ready")
        except BaseException as error:
            if store is not None:
                store.close()
            for place in (made, folder):
                with contextlib.suppress(EngineError):
                    _remove_folder(place)
            if isinstance(error, OSError):
                raise StorageUnavailable(f"{made}: {error.strerror}") from error
            raise
        return store

    def _make_next(self) -> None:
        """Raises StorageError."""
        with self._making:
            if self._ready is None:
                if store_lmdb.free_bytes(self._path) < self._floor_bytes:
                    raise StorageFull(f"{self._path}: no room for another generation")
                zeros = self._zeros(self._last_store().end_bytes)
                number = self._series[-1].number + 1
                self._ready = self._make(number, zeros=zeros, store_id=self.store_id)
                self._ready_zeros = zeros

    def _zeros(self, end: int) -> int:
        """How many zeros the next one should have: many when it will soon be begun in a hurry."""
        if end < self._size_bytes // 2:
            return zero_fill.MIN_STEP_BYTES
        step = max(zero_fill.MIN_STEP_BYTES, self._size_bytes // 8)
        return min(zero_fill.MAX_STEP_BYTES, step)

    def _prepare(self, end: int) -> None:
        """See to it that another is ready, and has zeros ahead."""
        if self._ready is None:
            if time.monotonic() >= self._idle_until_s:
                self._wake()
        elif self._ready_zeros < self._zeros(end):
            self._wake()

    def _wake(self) -> None:
        if self._more.is_set() or self._is_closed:
            return
        self._more.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="generations", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._more.wait()
            if self._is_closed:
                return
            self._more.clear()
            try:
                while self._finished:
                    self._finished.pop().finish()  # what a fault leaves, the next start does
                self._make_next()
                self._add_zeros()
            except StorageError:
                self._idle_until_s = time.monotonic() + PAUSE_S  # told when it is needed

    def _add_zeros(self) -> None:
        store, zeros = self._ready, self._zeros(self._last_store().end_bytes)
        if store is not None and self._ready_zeros < zeros:
            store.fill_ahead(zeros)
            self._ready_zeros = zeros


def _remove_folder(folder: Path) -> None:
    """With its files; nothing when it is not there. Raises StorageUnavailable."""
    try:
        if folder.is_dir():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    except OSError as error:
        raise StorageUnavailable(f"{folder}: {error.strerror}") from error
