"""Shared plumbing of the LMDB stores: one environment, its lock, its meta record, its one writer.

`Store` owns the directory: who may open it, what it is, what a full disk looks like, and how it
comes back after a failed commit. `CommitThread` is the group commit: it takes whatever has come
since the last commit returned and has no timer, so groups size themselves.

LMDB's promise used here: a commit that returned under the default `sync=True` is on the disk; a
failed or unfinished one leaves no trace in what readers see. `writemap` is never used: on a full
disk it kills the process instead of failing the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import resource
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar

import lmdb
import msgspec

from engine.errors import (
    EngineError,
    JournalCorrupt,
    StorageFull,
    StorageUnavailable,
    StoreLocked,
    StoreVersion,
)

SCHEMA = 1
LIB_VERSION = 0  # the 0.9 engine of py-lmdb 3; its files and those of 1.0 cannot be exchanged
META_KEY = bytes(8)  # LSN 0: no record has it
MIN_RESERVE_BYTES = 1 << 20
MIN_SPARE_BYTES = 256 << 10  # free pages inside the file, below which they do not count as room
SCAN_BYTES = 4 << 20  # of a running engine's store, in one read transaction
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
LMDB_MAGIC = (0xBEEFC0DE).to_bytes(4, "little")


class StoreMeta(msgspec.Struct, frozen=True):
    """What a store says about itself, under LSN 0. `opened` counts openings for writing."""

    kind: str
    schema: int
    lib_version: int
    created_ms: int
    store_id: bytes
    opened: int


class Store:
    """One LMDB environment in one directory, opened once in one process.

    kind: "journal" or "control"; a store of another kind is refused.
    limit_bytes: how large the data may grow; the map is a little larger, so that forgetting
        (which must rewrite) still has room when appending has none.
    floor_bytes: free space of the file system that appending leaves alone.
    is_offline: for checking; nothing is changed. A store that nobody holds is held meanwhile; one
        that an engine holds is read beside it, in short transactions (`is_shared`).
    Raises StoreLocked, StoreVersion, JournalCorrupt, StorageFull, StorageUnavailable.

    Writes come from one thread. Reads may come from any, and hold their transaction only for a
    few values: a pinned one would make the file grow.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kind: str,
        limit_bytes: int = 1 << 40,
        floor_bytes: int = 0,
        now_ms: int = 0,
        is_offline: bool = False,
    ) -> None:
        self.path = Path(path)
        self.is_proven = False
        self.is_shared = False
        self._kind = kind
        self._limit_bytes = limit_bytes
        self._floor_bytes = floor_bytes
        self._is_offline = is_offline
        self._guard = threading.Lock()  # held by reads, and by the writer while it reopens
        self._env: Any = None
        self._lock_fd = -1
        if not is_offline:
            _make_directory(self.path)
        self._take_lock()
        try:
            self._open()
            meta = self._read_meta()
            if meta is None:
                meta = self._create_meta(now_ms)
            self.meta = meta
        except BaseException:
            self.close()
            raise

    def read(self, first: int, last: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        """Records first..last, at least one if there is one, until limit_bytes are reached."""
        found: list[tuple[int, bytes]] = []
        size = 0
        with self._guard, _as_storage_error("read"), self._begin() as txn:
            cursor = txn.cursor()
            if not cursor.set_range(lsn_to_key(first)):
                return found
            for key, value in cursor:
                lsn = key_to_lsn(key)
                if lsn > last:
                    break
                found.append((lsn, value))
                size += len(value)
                if size >= limit_bytes:
                    break
        return found

    def scan(self, first: int) -> Iterator[tuple[int, memoryview]]:
        """Every record from `first` on, as views valid until the next step.

        For opening and for checking. Beside a running engine a new transaction begins every
        SCAN_BYTES, and what the engine appends meanwhile may come or not. Raises JournalCorrupt,
        also at the end when LMDB knows of more records than its tree led to.
        """
        last, is_done = max(first, 1) - 1, False
        while not is_done:
            size, is_done = 0, True
            with self._guard, _as_storage_error("read"), self._begin(buffers=True) as txn:
                cursor = txn.cursor()
                for key, value in cursor if cursor.set_range(lsn_to_key(last + 1)) else ():
                    if self.is_shared and size >= SCAN_BYTES:
                        is_done = False
                        break
                    last = key_to_lsn(bytes(key))
                    size += len(value)
                    yield last, value
                count = txn.stat(self._env.open_db(txn=txn))["entries"]
        if count > last + 1:  # the meta record is one
            raise JournalCorrupt(f"{self.path} holds {count - 1} records; {last} can be reached")

    def last_lsn(self) -> int:
        """LSN of the last record, 0 without one, as LMDB counts them: there are no gaps."""
        with self._guard, _as_storage_error("read"), self._begin() as txn:
            entries: int = txn.stat(self._env.open_db(txn=txn))["entries"]
            return max(0, entries - 1)

    def used_bytes(self) -> int:
        """Bytes of the pages that hold something; the file may be larger."""
        with self._guard, _as_storage_error("read"), self._begin() as txn:
            return self._used_pages(txn) * PAGE_SIZE

    def write(self, records: Sequence[tuple[int, bytes]], *, is_append: bool = True) -> None:
        """Commit the records in one transaction; durable when this returns.

        is_append: new records behind the last one, refused below the floor and above the limit.
        Otherwise existing records are replaced, out of the reserve if need be.
        Raises StorageFull or StorageUnavailable; then nothing of it is stored as far as the caller
        may tell, and `recover` must come before the next write.
        """
        need_bytes = sum(_pages(len(value)) for _, value in records) * PAGE_SIZE
        self.is_proven = False
        try:
            if not is_append:
                self._env.reader_check()  # a checker killed beside us would keep freed pages pinned
            with self._env.begin(write=True) as txn:
                if is_append:
                    self._check_room(txn, need_bytes)
                for lsn, value in records:
                    if not txn.put(lsn_to_key(lsn), value, append=is_append):
                        raise StorageUnavailable(f"{self.path} holds more than its writer knows of")
        except StorageFull:
            self.is_proven = True  # refused before anything was written
            raise
        except lmdb.Error as error:
            raise self._classify(error, need_bytes) from error
        self.is_proven = True

    def recover(self) -> None:
        """Open again after a failed commit and prove that commits work. Raises as `write`.

        A commit may fail after its meta page was written but before that was synced; whether it
        counts is then open. The proving commit settles it: once a later transaction is durable,
        so is every one before it, and what is found in the store may be acknowledged. A sync that
        failed is never repeated on the same pages, because the system may have dropped them.
        """
        if _free_bytes(self.path) < PAGE_SIZE * 8:
            raise StorageFull(f"{self.path}: the file system is full")
        with self._guard:
            self._close_env()
            self._open()
        self._prove()

    def prove(self) -> None:
        """First commit after opening: tells whether the store can be written and is in order."""
        with _as_storage_error("sync"):
            self._env.sync(True)  # what a killed process left in the page cache
        self._prove()

    def close(self) -> None:
        with self._guard:
            self._close_env()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _begin(self, buffers: bool = False) -> Any:
        if self._env is None:
            raise StorageUnavailable(f"the {self._kind} store is closed")
        return self._env.begin(buffers=buffers)

    def _prove(self) -> None:
        meta = self._read_meta() or self.meta
        self.meta = msgspec.structs.replace(meta, opened=meta.opened + 1)
        self._put_meta(self.meta)
        self.is_proven = True

    def _take_lock(self) -> None:
        """A whole-file lock: a second opener is told, instead of two writers' caches disagreeing.

        flock, not fcntl's record locks: those vanish when any descriptor of the file is closed.
        """
        flags = os.O_CLOEXEC | (os.O_RDONLY if self._is_offline else os.O_RDWR | os.O_CREAT)
        try:
            self._lock_fd = os.open(self.path / "store.lock", flags, 0o600)
        except FileNotFoundError:
            return  # a copy made for checking may come without the lock file
        except OSError as error:
            raise StorageUnavailable(f"{self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock_fd)
            self._lock_fd = -1
            if self._is_offline:
                self.is_shared = True
                return
            raise StoreLocked(
                f"{self.path} is open in another process", hint="stop the engine that holds it"
            ) from error

    def _open(self) -> None:
        data = self.path / "data.mdb"
        if self._is_offline and not data.exists():
            raise StorageUnavailable(f"{self.path} holds no store")
        options: dict[str, Any] = {}
        if self._is_offline:
            # Beside a writer, LMDB's own lock file says which pages are still being read.
            options = {"readonly": True, "lock": self.is_shared}
        reserve_bytes = max(MIN_RESERVE_BYTES, self._limit_bytes // 64)
        map_size = -(-(self._limit_bytes + reserve_bytes) // PAGE_SIZE) * PAGE_SIZE
        try:
            self._env = lmdb.open(
                os.fspath(self.path),
                map_size=map_size,
                mode=0o600,
                lib_version=LIB_VERSION,
                **options,
            )
        except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
            if LMDB_MAGIC in _first_bytes(data):
                raise StoreVersion(
                    f"{data} was written by another LMDB engine",
                    hint="open it with the version of chot that wrote it",
                ) from error
            raise JournalCorrupt(f"{data} is damaged, or no store at all") from error
        except lmdb.Error as error:
            if self.is_shared and "already open" in str(error):
                raise StoreLocked(f"{self.path} is open in this process") from error
            raise self._classify(error, PAGE_SIZE * 8) from error
        self._check_length(data)
        if not self._is_offline:
            _sync_directory(self.path)

    def _check_length(self, data: Path) -> None:
        """A file shorter than its own tree would end the process with SIGBUS at the first access.

        Made as long as it should be, the missing pages read as zeros, which LMDB and the checksums
        report as damage.
        """
        info = self._env.info()
        size = data.stat().st_size
        expected = (info["last_pgno"] + 1) * self._env.stat()["psize"] if info["last_txnid"] else 0
        if size < expected:
            if self._is_offline:
                raise JournalCorrupt(f"{data} is cut short: {size} of {expected} bytes")
            os.truncate(data, expected)

    def _close_env(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def _read_meta(self) -> StoreMeta | None:
        with self._guard, _as_storage_error("read"), self._begin() as txn:
            value = txn.get(META_KEY)
            is_empty = not txn.stat(self._env.open_db(txn=txn))["entries"]
        if value is None:
            if is_empty and not self._is_offline:
                return None
            raise StoreVersion(f"{self.path} holds no meta record: not a store of chot")
        try:
            meta = msgspec.msgpack.decode(value, type=StoreMeta)
        except msgspec.MsgspecError as error:
            raise StoreVersion(f"{self.path}: the meta record cannot be read") from error
        if meta.schema != SCHEMA or meta.lib_version != LIB_VERSION:
            raise StoreVersion(
                f"{self.path} has schema {meta.schema} on LMDB engine {meta.lib_version}; "
                f"this program knows schema {SCHEMA} on engine {LIB_VERSION}",
                hint="open it with the version of chot that wrote it",
            )
        if meta.kind != self._kind:
            raise StoreVersion(f"{self.path} is a {meta.kind} store, not a {self._kind} store")
        return meta

    def _create_meta(self, now_ms: int) -> StoreMeta:
        meta = StoreMeta(self._kind, SCHEMA, LIB_VERSION, now_ms, os.urandom(16), 0)
        self._put_meta(meta)
        return meta

    def _put_meta(self, meta: StoreMeta) -> None:
        try:
            with self._env.begin(write=True) as txn:
                txn.put(META_KEY, msgspec.msgpack.encode(meta))
        except lmdb.Error as error:
            raise self._classify(error, PAGE_SIZE * 8) from error

    def _check_room(self, txn: Any, need_bytes: int) -> None:
        """Raises StorageFull above the limit, or when the disk would sink below its floor.

        Pages that forgetting has freed inside the file are room too, when they are many: LMDB
        grows the file when the free ones lie scattered, and half of the floor is kept even then.
        """
        used = self._used_pages(txn)
        if used * PAGE_SIZE + need_bytes > self._limit_bytes:
            raise StorageFull(
                f"{self.path} has reached its limit of {self._limit_bytes} bytes",
                hint="raise the limit, or let retention forget old days",
            )
        file_bytes = (self._env.info()["last_pgno"] + 1) * PAGE_SIZE
        spare_bytes = file_bytes - used * PAGE_SIZE
        floor_bytes = self._floor_bytes
        if spare_bytes >= 2 * need_bytes + max(MIN_SPARE_BYTES, file_bytes // 16):
            floor_bytes //= 2
        elif floor_bytes:
            floor_bytes += need_bytes
        if _free_bytes(self.path) < floor_bytes:
            raise StorageFull(
                f"{self.path}: less than {floor_bytes} bytes are free on its file system",
                hint="make room there; what was acknowledged is safe",
            )

    def _used_pages(self, txn: Any) -> int:
        stat = txn.stat(self._env.open_db(txn=txn))
        used: int = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return used

    def _classify(self, error: Exception, need_bytes: int) -> EngineError:
        """Which of our errors a failed LMDB call is.

        LMDB reports a short write as a plain input/output error, so a full disk has to be
        recognised by looking at the disk.
        """
        is_full = isinstance(error, lmdb.MapFullError | lmdb.DiskError)
        soft_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        with contextlib.suppress(OSError):
            size = (self.path / "data.mdb").stat().st_size
            is_full |= soft_limit != resource.RLIM_INFINITY and size + need_bytes > soft_limit
            is_full |= _free_bytes(self.path) < self._floor_bytes + need_bytes
        if is_full:
            return StorageFull(f"{self.path}: no room for a commit")
        return StorageUnavailable(f"{self.path}: {error}")


class Job:
    """One piece of work for a CommitThread, and the place where its outcome lands.

    size: bytes it keeps in memory. The writer sets `error`, or leaves it None for success.
    """

    __slots__ = ("_event", "_future", "error", "number", "size")

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.number = 0
        self.error: Exception | None = None
        self._future: asyncio.Future[None] | None = None
        self._event: threading.Event | None = None


JobT = TypeVar("JobT", bound=Job)


# A thread that wants the GIL beside a busy event loop waits so long for it, and a commit wants it
# six times or so; with the interpreter's 5 ms receipts pile up behind one another.
# `python -m bench receipt` shows what it does to them, and to the loop.
SWITCH_INTERVAL_S: Final = 0.0001


class CommitThread(Generic[JobT]):
    """The one thread that writes a store: an LMDB write transaction belongs to one thread.

    work(jobs) gets what is waiting, in order, and sets the outcomes; jobs it returns are queued
    again behind what came meanwhile (long work in small steps). Above `pending_limit_bytes`
    further jobs wait outside the queue until a commit has made room.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[JobT]], Sequence[JobT]],
        *,
        pending_limit_bytes: int,
        commit_limit_bytes: int,
    ) -> None:
        self.pending_bytes = 0
        self.last_number = 0
        self._work = work
        self._pending_limit_bytes = pending_limit_bytes
        self._commit_limit_bytes = commit_limit_bytes
        self._queue: queue.SimpleQueue[JobT | None] = queue.SimpleQueue()
        self._outside: deque[JobT] = deque()
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, job: JobT) -> None:
        """Returns when the job is done; raises its error. Cancelling does not take it back."""
        job._future = asyncio.get_running_loop().create_future()
        self._submit(job)
        await job._future
        if job.error is not None:
            raise job.error

    def run_sync(self, job: JobT) -> None:
        """As `run`, blocking the thread that calls."""
        job._event = threading.Event()
        self._submit(job)
        job._event.wait()
        if job.error is not None:
            raise job.error

    @property
    def outside_count(self) -> int:
        """Jobs that wait for room in the queue."""
        return len(self._outside)

    def close(self) -> None:
        """Refuse new jobs, finish the accepted ones, end the thread. May be repeated."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)
        self._thread.join()

    def _submit(self, job: JobT) -> None:
        with self._lock:
            if self._is_closed:
                raise StorageUnavailable("the store is closed")
            self.last_number += 1
            job.number = self.last_number
            self._outside.append(job)
            self._admit()

    def _admit(self) -> None:
        """Move waiting jobs into the queue, in order, while they fit. The lock is held."""
        while self._outside:
            size = self._outside[0].size
            if self.pending_bytes and self.pending_bytes + size > self._pending_limit_bytes:
                break  # a job larger than the limit still goes, alone
            self.pending_bytes += size
            self._queue.put(self._outside.popleft())

    def _run(self) -> None:
        is_ending = False
        while True:
            jobs, ended = self._take(is_ending)
            is_ending |= ended
            if jobs:
                self._step(jobs)
            elif is_ending:
                with self._lock:
                    if not self._outside and self._queue.empty():
                        return

    def _take(self, is_ending: bool) -> tuple[list[JobT], bool]:
        """What is waiting, up to the commit limit; blocks for the first unless ending."""
        jobs: list[JobT] = []
        size = 0
        while size < self._commit_limit_bytes:
            try:
                job = self._queue.get(block=not jobs and not is_ending)
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
            size += job.size
        return jobs, False

    def _step(self, jobs: list[JobT]) -> None:
        again: Sequence[JobT] = ()
        try:
            again = self._work(jobs)
        except Exception as error:
            # `work` reports storage errors by itself; this is a fault of the program, and whoever
            # waits must hear of it rather than wait for ever.
            for job in jobs:
                job.error = job.error or StorageUnavailable(f"the writer failed: {error!r}")
        repeated = set(map(id, again))
        done = [job for job in jobs if id(job) not in repeated]
        with self._lock:
            self.pending_bytes -= sum(job.size for job in done)
            for job in again:
                self._queue.put(job)
            self._admit()
        _deliver(done)


def _deliver(jobs: Iterable[Job]) -> None:
    """Wake whoever waits: one callback per event loop, whatever the number of jobs."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for job in jobs:
        if job._future is not None:
            by_loop.setdefault(job._future.get_loop(), []).append(job._future)
        elif job._event is not None:
            job._event.set()
    for loop, futures in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop ended while its job was written
            loop.call_soon_threadsafe(_finish, futures)


def _finish(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():  # cancelled meanwhile
            future.set_result(None)


def library_version() -> str:
    """Version of the LMDB engine that the stores are written with."""
    major, minor, patch, *_ = lmdb.version(subpatch=True)
    return f"{major}.{minor}.{patch}"


def lsn_to_key(lsn: int) -> bytes:
    """Big-endian, so that the order of keys is the order of LSNs."""
    return lsn.to_bytes(8, "big")


def key_to_lsn(key: bytes) -> int:
    """Raises JournalCorrupt for a key that is not one of ours."""
    if len(key) != 8:
        raise JournalCorrupt(f"a key of {len(key)} bytes stands in the store")
    return int.from_bytes(key, "big")


@contextlib.contextmanager
def _as_storage_error(what: str) -> Iterator[None]:
    try:
        yield
    except lmdb.Error as error:
        damaged = lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.BadValsizeError
        if isinstance(error, damaged):
            raise JournalCorrupt(f"cannot {what}: {error}") from error
        raise StorageUnavailable(f"cannot {what}: {error}") from error


def _pages(size: int) -> int:
    """Pages a value takes at most, with its share of the tree above it."""
    return 2 + (size + 16) // PAGE_SIZE


def _free_bytes(path: Path) -> int:
    try:
        status = os.statvfs(path)
    except OSError as error:
        raise StorageUnavailable(f"{path}: {error.strerror}") from error
    return status.f_bavail * status.f_frsize


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_directory(path.parent)
    except OSError as error:
        raise StorageUnavailable(f"{path}: {error.strerror}") from error


def _sync_directory(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageUnavailable(f"{path}: {error.strerror}") from error
