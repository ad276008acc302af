"""Shared plumbing of the LMDB stores: one environment, its meta record, its room.

`Store` knows what a directory holds, what a full disk looks like, and how to come back after a
failed commit. Its one writer is a `CommitThread` (engine/storage/commit_thread.py).

LMDB's promise used here: a commit that returned under the default `sync=True` is on the disk; a
failed or unfinished one leaves no trace in what readers see. `writemap` is never used: on a full
disk it kills the process instead of failing the commit.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

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
from engine.storage.store_lock import StoreLock
from engine.storage.zero_fill import ZeroFill

SCHEMA = 1
LIB_VERSION = 0  # the 0.9 engine of py-lmdb 3; its files and those of 1.0 cannot be exchanged
META_KEY = bytes(8)  # LSN 0: no record has it
MIN_RESERVE_BYTES = 1 << 20
MIN_SPARE_BYTES = 256 << 10  # free pages inside the file, below which they do not count as room
SCAN_BYTES = 4 << 20  # of a running engine's store, in one read transaction
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
LMDB_MAGIC = (0xBEEFC0DE).to_bytes(4, "little")


class StoreMeta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a store says about itself, under LSN 0. `opened` counts openings for writing.

    header, oldest: of a generation of the scan log, see engine/storage/generations.py.
    """

    kind: str
    schema: int
    lib_version: int
    created_ms: int
    store_id: bytes
    opened: int
    header: bytes = b""
    oldest: int = 1


class Store:
    """One LMDB environment in one directory, opened once in one process.

    kind: "journal" or "control"; a store of another kind is refused.
    limit_bytes: how large the data may grow. map_bytes: what of it may lie in this environment;
        the map is a little larger, so that forgetting (which must rewrite) still has room when
        appending has none.
    floor_bytes: free space of the file system that appending leaves alone.
    is_filled: zeros are written ahead of the data, for the sake of commits.
    is_offline: for checking; nothing is changed. A store that nobody holds is held meanwhile; one
        that an engine holds is read beside it, in short transactions (`is_shared`).
    lock: of who holds several environments in one folder; else the directory has its own.
    store_id: of a store that is to be made; b"" draws one.
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
        map_bytes: int | None = None,
        floor_bytes: int = 0,
        now_ms: int = 0,
        is_filled: bool = False,
        is_offline: bool = False,
        lock: StoreLock | None = None,
        store_id: bytes = b"",
    ) -> None:
        self.path = Path(path)
        self.is_proven = False
        self.before_lsn = 0  # LSN before that of the first record
        self.others_bytes = 0  # used in other environments, which the limit holds for as well
        self.end_bytes = 0  # no more of the file is in use; `measure` tells how much
        self._kind = kind
        self._limit_bytes = limit_bytes
        self._map_bytes = limit_bytes if map_bytes is None else map_bytes
        self._floor_bytes = floor_bytes
        self._is_offline = is_offline
        self._guard = threading.Lock()  # held by reads, and by the writer while it reopens
        self._writing = threading.Lock()  # held by a transaction, and while the file is cut
        self._env: Any = None
        self._table: Any = None  # the one database of the environment
        self._fill: ZeroFill | None = None
        self._room_bytes = 0  # that may be appended without another look at the disk
        if not is_offline:
            make_directory(self.path)
        self._own_lock: StoreLock | None = None
        if lock is None:
            lock = self._own_lock = StoreLock(self.path, is_offline=is_offline)
        self.is_shared = lock.is_shared
        try:
            self._open()
            self.meta = self._read_meta() or self._create_meta(now_ms, store_id)
            if is_filled and not is_offline:
                self._fill = ZeroFill(
                    self.path / "data.mdb", min(limit_bytes, self._map_bytes), floor_bytes
                )
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
                if size >= limit_bytes or lsn == last:  # a step further would read a record more
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
                count = txn.stat(self._table)["entries"]
        count += self.before_lsn - 1  # the meta record is one
        if count > last:
            raise JournalCorrupt(f"{self.path} holds records up to {count}; {last} can be reached")

    def copy(self, folder: Path) -> None:
        """Writes what is durable now as a store of its own, without pages that hold nothing.

        One read transaction: an engine may go on writing. Raises StorageFull, StorageUnavailable.
        """
        try:
            folder.mkdir(mode=0o700, parents=True)
            self._env.copy(os.fspath(folder), compact=True)
        except OSError as error:
            raise StorageUnavailable(f"{folder}: {error.strerror}") from error
        except lmdb.Error as error:
            if free_bytes(folder) < PAGE_SIZE * 8:
                raise StorageFull(f"{folder}: no room for a copy") from error
            raise StorageUnavailable(f"{folder}: {error}") from error

    def last_lsn(self) -> int:
        """LSN of the last record, 0 without one, as LMDB counts them: there are no gaps."""
        with self._guard, _as_storage_error("read"), self._begin() as txn:
            entries: int = txn.stat(self._table)["entries"]
            return self.before_lsn + max(0, entries - 1)

    def used_bytes(self) -> int:
        """Bytes of the pages that hold something; the file may be larger."""
        with self._guard, _as_storage_error("read"), self._begin() as txn:
            return self._used_pages(txn) * PAGE_SIZE

    def write(
        self,
        records: Sequence[tuple[int, bytes]],
        *,
        is_append: bool = True,
        meta: StoreMeta | None = None,
    ) -> None:
        """Commit the records in one transaction, with a new meta record if there is one; durable
        when this returns.

        is_append: new records behind the last one, refused below the floor and above the limit.
        Otherwise existing records are replaced, out of the reserve if need be.
        Raises StorageFull or StorageUnavailable; then nothing of it is stored as far as the caller
        may tell, and `recover` must come before the next write.
        """
        need_bytes = sum(pages(len(value)) for _, value in records) * PAGE_SIZE
        if meta is not None:
            need_bytes += pages(len(meta.header)) * PAGE_SIZE
        self.is_proven = False
        try:
            with self._writing:
                if not is_append and self._env is not None:
                    self._env.reader_check()  # a checker killed beside us would keep pages pinned
                with self._begin(is_write=True) as txn:
                    if is_append:
                        self._check_room(txn, need_bytes)
                    if meta is not None:
                        txn.put(META_KEY, msgspec.msgpack.encode(meta))
                    for lsn, value in records:
                        if not txn.put(lsn_to_key(lsn), value, append=is_append):
                            raise StorageUnavailable(
                                f"{self.path} holds more than its writer knows of"
                            )
        except StorageFull:
            self.is_proven = True  # refused before anything was written
            raise
        except lmdb.Error as error:
            self._room_bytes = 0
            raise self._classify(error, need_bytes) from error
        if not is_append:
            self._room_bytes = 0  # how much of the file this took was not counted
        self.end_bytes += need_bytes
        self.meta = meta or self.meta
        self.is_proven = True

    def recover(self) -> None:
        """Open again after a failed commit and prove that commits work. Raises as `write`.

        A commit may fail after its meta page was written but before that was synced; whether it
        counts is then open. The proving commit settles it: once a later transaction is durable,
        so is every one before it, and what is found in the store may be acknowledged. A sync that
        failed is never repeated on the same pages, because the system may have dropped them.
        """
        if free_bytes(self.path) < PAGE_SIZE * 8:
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

    def measure(self) -> int:
        """How much of the file is in use, in bytes; for the thread that writes."""
        if self._env is not None:
            self.end_bytes = (self._env.info()["last_pgno"] + 1) * PAGE_SIZE
        return self.end_bytes

    def rename(self, path: Path) -> None:
        """Gives the directory another name, which is durable when its parent is synced.

        LMDB goes on with the files it has open. Raises OSError.
        """
        self.path.rename(path)
        self.path = path
        if self._fill is not None:
            self._fill.path = path / "data.mdb"

    def fill_ahead(self, size: int) -> None:
        """As many zeros behind the data before the first commit, in the thread that calls."""
        if self._fill is not None:
            self._fill.fill_now(size)

    def finish(self) -> None:
        """Nothing is appended any more: ends the zeros and takes those away that are ahead."""
        self._end_fill()
        self._fill = None
        with self._writing, self._guard:
            if self._env is not None:
                end = self.measure()
                data = self.path / "data.mdb"
                with contextlib.suppress(OSError):
                    if data.stat().st_size > end:
                        os.truncate(data, end)

    def close(self) -> None:
        self._end_fill()
        with self._writing, self._guard:
            self._close_env()
        if self._own_lock is not None:
            self._own_lock.close()

    def _end_fill(self) -> None:
        fill = self._fill  # another thread may be finishing it
        if fill is not None:
            fill.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        return self._env is not None

    def _begin(self, *, buffers: bool = False, is_write: bool = False) -> Any:
        if self._env is None:
            raise StorageUnavailable(f"the {self._kind} store is closed")
        return self._env.begin(write=is_write, buffers=buffers)

    def _prove(self) -> None:
        meta = self._read_meta() or self.meta
        self.meta = msgspec.structs.replace(meta, opened=meta.opened + 1)
        self._put_meta(self.meta)
        self.is_proven = True

    def _open(self) -> None:
        data = self.path / "data.mdb"
        if self._is_offline and not data.exists():
            raise StorageUnavailable(f"{self.path} holds no store")
        options: dict[str, Any] = {}
        if self._is_offline:
            # Beside a writer, LMDB's own lock file says which pages are still being read.
            options = {"readonly": True, "lock": self.is_shared}
            map_size = 0  # as whoever writes it has it: the file says so
        else:
            size = data.stat().st_size if data.exists() else 0
            map_size = max(self._map_bytes, size)
            map_size += max(MIN_RESERVE_BYTES, map_size // 64)
            map_size = -(-map_size // PAGE_SIZE) * PAGE_SIZE
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
        self._table = self._env.open_db()
        self._check_length(data)
        self.measure()
        if not self._is_offline:
            sync_directory(self.path)

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
            is_empty = not txn.stat(self._table)["entries"]
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

    def _create_meta(self, now_ms: int, store_id: bytes) -> StoreMeta:
        store_id = store_id or os.urandom(16)
        meta = StoreMeta(self._kind, SCHEMA, LIB_VERSION, now_ms, store_id, 0)
        try:
            self._put_meta(meta)
        except BaseException:  # LMDB writes a head once: what is not durable now never will be
            (self.path / "data.mdb").unlink(missing_ok=True)
            raise
        return meta

    def _put_meta(self, meta: StoreMeta) -> None:
        try:
            with self._env.begin(write=True) as txn:
                txn.put(META_KEY, msgspec.msgpack.encode(meta))
        except lmdb.Error as error:
            raise self._classify(error, PAGE_SIZE * 8) from error

    def _check_room(self, txn: Any, need_bytes: int) -> None:
        """Raises StorageFull above the limit, or when the disk would sink below its floor.

        Commits that go into zeros take nothing from the disk. One look finds room for several of
        them: each of its calls gives the GIL up, which costs a commit more than they themselves.
        """
        if need_bytes > self._room_bytes:
            self._room_bytes = self._find_room(txn, need_bytes)
        self._room_bytes -= need_bytes

    def _find_room(self, txn: Any, need_bytes: int) -> int:
        """Bytes that may be appended before the next look, no less than those needed.

        Pages that forgetting has freed inside the file are room too, when they are many: LMDB
        grows the file when the free ones lie scattered, and half of the floor is kept even then.
        """
        used_bytes = self._used_pages(txn) * PAGE_SIZE + self.others_bytes
        if used_bytes + need_bytes > self._limit_bytes:
            raise StorageFull(
                f"{self.path} has reached its limit of {self._limit_bytes} bytes",
                hint="raise the limit, or let retention forget old days",
            )
        end = self.measure()
        if self._fill is not None:
            self._fill.note(end)
            room_bytes: int = min(self._fill.size - end, self._limit_bytes - used_bytes) // 4
            if need_bytes <= room_bytes:
                return room_bytes
        spare_bytes = end - used_bytes + self.others_bytes
        floor_bytes = self._floor_bytes
        if spare_bytes >= 2 * need_bytes + max(MIN_SPARE_BYTES, end // 16):
            floor_bytes //= 2
        elif floor_bytes:
            floor_bytes += need_bytes
        if free_bytes(self.path) < floor_bytes:
            raise StorageFull(
                f"{self.path}: less than {floor_bytes} bytes are free on its file system",
                hint="make room there; what was acknowledged is safe",
            )
        return need_bytes

    def _used_pages(self, txn: Any) -> int:
        stat = txn.stat(self._table)
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
            is_full |= free_bytes(self.path) < self._floor_bytes + need_bytes
        if is_full:
            return StorageFull(f"{self.path}: no room for a commit")
        return StorageUnavailable(f"{self.path}: {error}")


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


def pages(size: int) -> int:
    """Pages a value takes at most, with its share of the tree above it."""
    return 2 + (size + 16) // PAGE_SIZE


def free_bytes(path: Path) -> int:
    """Of its file system. Raises StorageUnavailable."""
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


def make_directory(path: Path) -> None:
    """Durably, with its parents. Raises StorageUnavailable."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageUnavailable(f"{path}: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Makes the names in it durable. Raises StorageUnavailable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageUnavailable(f"{path}: {error.strerror}") from error
