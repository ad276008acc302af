"""Segments of the index on LMDB: a file a day and generation, written once, and a manifest.

    index/manifest.mdb          what is there and up to which LSN; persons, sealed; notes, sealed
    index/DAY.RANDOM.mdb        a column a value, read where it lies for as long as anybody asks

A file is written under another name, renamed, and synced while the next one is packed; when all
are, so is their folder, before the manifest names them or anybody asks them. What the manifest does
not name is deleted when the store opens. Files are derived from the scan log, so whatever is wrong
with them costs time and never an answer: nothing is used whose length and checksum are not those of
the manifest, and the index is then made anew from the log.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from engine import faults
from engine.colocation.layers import Packed, Persons, Segment, SegmentEntry, State
from engine.errors import EngineError, JournalCorrupt, StorageError, StorageFull, StorageUnavailable
from engine.identity.keys import KeyRing, decrypt, derive_key, encrypt
from engine.presence.visits import PlaceRule
from engine.telemetry import Log
from native.columns import COLUMNS, DayColumns

SCHEMA: Final = 2
MANIFEST: Final = "manifest.mdb"
MANIFEST_BYTES: Final = 1 << 36  # address space
CHECK_BYTES: Final = 1 << 20
CHECK_THREADS: Final = 2
COMMIT_BYTES: Final = 8 << 20  # columns written at once
PART_PERSONS: Final = 1 << 20
PARTS_MAX: Final = 48  # of the persons' keys; beyond, they are written as few
LIB_VERSION: Final = 0  # LMDB 0.9: the format of all our files
SEGMENT_KEY_SIZE: Final = 16
NONCE_SIZE: Final = 12

_HEAD = b"head"
_STATE = b"state"
_FILE = re.compile(r"-?\d+\.[0-9a-f]{16}\.mdb(\.tmp)?")

_log = Log("segments")


class _Part(msgspec.Struct, frozen=True):
    """Persons [first, first + count): sealed under the key of a day, stored under a name."""

    first: int
    count: int
    day: int
    name: str


class _Note(msgspec.Struct, frozen=True):
    day: int
    sealed: bytes


class _Manifest(msgspec.Struct, frozen=True):
    schema: int
    province: bytes  # what the province key makes of nobody: another key, other person keys
    lsn: int
    floor_day: int | None
    places: dict[int, PlaceRule]
    unknown: PlaceRule
    rules: dict[str, int]
    aliases: list[list[int]]
    segments: list[tuple[SegmentEntry, bytes]]
    persons: list[_Part]
    notes: dict[str, _Note]


class _Pinned:
    """A segment's file as it lies in memory, until nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self._env = _open(path, path.stat().st_size, readonly=True)
        self._txn = self._env.begin(buffers=True)

    def value(self, name: bytes) -> Any:
        found = self._txn.get(name)
        if found is None:
            raise ValueError(f"a day has no {name.decode()}")
        return found

    def __del__(self) -> None:
        if hasattr(self, "_txn"):
            self._txn.abort()
            self._env.close()


class LmdbSegments:
    """A SegmentStore in one directory. floor_bytes: free space it leaves on the disk.

    Raises StorageUnavailable where it cannot be one.
    """

    def __init__(
        self, path: str | os.PathLike[str], ring: KeyRing, *, floor_bytes: int = 0
    ) -> None:
        self._path = Path(path)
        self._ring = ring
        self._floor_bytes = floor_bytes
        self._parts: list[_Part] = []
        self._persons = 0  # in the parts
        self._holes = 0
        self._days: list[int] = []  # whose keys parts and notes are sealed with
        self._syncer = ThreadPoolExecutor(1, "segments")
        self._syncs: dict[str, Future[None]] = {}  # by file, of those written since the last one
        self._is_doubtful = False  # a commit failed: what the manifest says is not known
        self.bytes = 0  # of all segments that the manifest names
        self.problem = ""  # why nothing could be loaded, or not all
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._env = _open(self._path / MANIFEST, MANIFEST_BYTES)
        except (OSError, lmdb.Error) as error:
            self._reset(error)

    def load(self) -> tuple[State, Persons] | None:
        self.problem = ""
        manifest = self._read_manifest()
        self._sweep({entry.name for entry, _ in manifest.segments} if manifest else set())
        if manifest is None:
            return None
        try:
            found = self._load(manifest)
        except (EngineError, ValueError, OSError, lmdb.Error) as error:
            # A message of LMDB or of ours: paths, days and numbers, never a person.
            self.problem = str(error)
            _log.error("the index is made anew from the log", problem=self.problem)
            self.clear()
            return None
        self._parts = list(manifest.persons)
        self._persons = sum(part.count for part in self._parts)
        self._holes = sum(found[1].holes)
        self._days = [part.day for part in self._parts]
        self._days += [note.day for note in manifest.notes.values()]
        self.bytes = sum(entry.size for entry, _ in manifest.segments)
        return found

    def _load(self, manifest: _Manifest) -> tuple[State, Persons]:
        if manifest.province != self._province():
            raise JournalCorrupt("the province key is another one")
        damaged = self._find_damaged([entry for entry, _ in manifest.segments], manifest.floor_day)
        segments = [
            (Segment(entry, self._columns(entry)), ended)
            for entry, ended in manifest.segments
            if entry.day not in damaged
        ]
        notes = {
            name: (note.day, self._unseal(note.day, name, note.sealed))
            for name, note in manifest.notes.items()
        }
        state = State(
            manifest.lsn, manifest.floor_day, manifest.places, manifest.unknown, manifest.rules,
            manifest.aliases, segments, notes, damaged,
        )  # fmt: skip
        keys, holes = [], []
        with self._env.begin() as txn:
            for part in manifest.persons:
                plain = self._unseal(part.day, part.name, txn.get(part.name.encode()) or b"")
                if len(plain) != 17 * part.count:
                    raise JournalCorrupt("the persons of the manifest are cut short")
                keys.append(plain[: 16 * part.count])
                holes.append(plain[16 * part.count :])
        return state, Persons(b"".join(keys), b"".join(holes))

    def _find_damaged(self, entries: list[SegmentEntry], floor_day: int | None) -> frozenset[int]:
        """Days of files that are not what was written; these files go.

        Raises JournalCorrupt where it is quicker to read the whole log, and for the floor day, in
        which lies what is held of days before it.
        """
        damaged: dict[int, str] = {}
        with ThreadPoolExecutor(CHECK_THREADS) as pool:
            for entry, problem in zip(entries, pool.map(self._check, entries), strict=True):
                if problem:
                    damaged[entry.day] = problem
                else:
                    _log.info("segment read", day=entry.day, rows=entry.visits, bytes=entry.size)
        if not damaged:
            return frozenset()
        self.problem = next(iter(damaged.values()))
        days = {entry.day for entry in entries}
        is_floor = floor_day is not None and min(damaged) <= floor_day
        if is_floor or 2 * len(damaged) > len(days):
            raise JournalCorrupt(self.problem)
        for day, problem in damaged.items():
            _log.error("a day of the index is made anew from its groups", day=day, problem=problem)
        for entry in entries:
            if entry.day in damaged:
                (self._path / entry.name).unlink(missing_ok=True)
        return frozenset(damaged)

    def write(self, day: int, pack: Callable[[bytes], Packed]) -> Segment:
        name = f"{day}.{_draw_number()}.mdb"
        path = self._path / name
        temporary = path.with_name(name + ".tmp")
        head, columns = pack(self._segment_key(day, name))
        try:
            self._check_room(sum(map(len, columns.values())))
            _write_values(temporary, head, columns)
            faults.reach("segments.written")
            size, crc = _measure(temporary)
            temporary.rename(path)
            faults.reach("segments.renamed")
            entry = SegmentEntry(day, name, size, crc, 0, 0)
            held = self._columns(entry)
        except (OSError, lmdb.Error) as error:
            for left in (temporary, path):
                with contextlib.suppress(OSError):
                    left.unlink()
            raise StorageUnavailable(f"{path}: {error}") from error
        self._syncs[name] = self._syncer.submit(_sync, path)
        entry = msgspec.structs.replace(entry, visits=len(held), scans=held.scan_count())
        return Segment(entry, held)

    def sync(self) -> None:
        syncs, self._syncs = self._syncs, {}
        try:
            for one in syncs.values():
                one.result()
            if syncs:
                _sync(self._path)
        except OSError as error:
            raise StorageUnavailable(f"{self._path}: {error}") from error

    def commit(self, state: State, persons: Persons, oldest_day: int) -> None:
        count = len(persons.holes)
        holes = sum(persons.holes)
        # Whoever was dropped is in the parts still, and a part must not outlive what it speaks of,
        # nor go before: then all of them are written anew.
        is_whole = holes != self._holes or len(self._parts) >= PARTS_MAX or self._is_doubtful
        is_whole |= any(
            not oldest_day >= part.day >= (state.floor_day or part.day) for part in self._parts
        )
        parts = [] if is_whole else list(self._parts)
        known = 0 if is_whole else self._persons
        for first in range(known, count, PART_PERSONS):
            few = min(PART_PERSONS, count - first)
            parts.append(_Part(first, few, oldest_day, f"persons.{_draw_number()}"))
        notes = {}
        for name, (day, data) in state.notes.items():
            day = min(day, oldest_day)
            notes[name] = _Note(day, self._seal(day, name, data))
        segments = [(segment.entry, ended) for segment, ended in state.segments]
        manifest = _Manifest(
            SCHEMA, self._province(), state.lsn, state.floor_day, state.places, state.unknown,
            state.rules, state.aliases, segments, parts, notes,
        )  # fmt: skip
        try:
            if self._is_doubtful:
                # After a failed write of its head LMDB refuses all others until it is opened anew.
                self._env.close()
                self._env = _open(self._path / MANIFEST, MANIFEST_BYTES)
            self._is_doubtful = True
            with self._env.begin(write=True) as txn:
                if is_whole:
                    txn.drop(self._env.open_db(txn=txn), delete=False)
                for part in parts:
                    if part.first >= known:
                        txn.put(part.name.encode(), self._sealed_part(part, persons))
                packed = msgspec.msgpack.encode(manifest)
                txn.put(_STATE, zlib.crc32(packed).to_bytes(4, "little") + packed)
        except lmdb.Error as error:
            raise StorageUnavailable(f"{self._path / MANIFEST}: {error}") from error
        self._is_doubtful = False
        self._parts, self._persons, self._holes = parts, count, holes
        self._days = [part.day for part in parts] + [note.day for note in notes.values()]
        self.bytes = sum(segment.entry.size for segment, _ in state.segments)
        faults.reach("segments.committed")

    def oldest_day(self) -> int | None:
        return min(self._days, default=None)

    def drop(self, segments: Iterable[Segment]) -> None:
        for segment in segments:
            self._syncs.pop(segment.entry.name, None)
            try:
                (self._path / segment.entry.name).unlink(missing_ok=True)
            except OSError as error:
                # Nothing names it: the next start tries again.
                _log.error("a file stays", name=segment.entry.name, problem=error.strerror)
        faults.reach("segments.dropped")

    def clear(self) -> None:
        try:
            with self._env.begin(write=True) as txn:
                txn.drop(self._env.open_db(txn=txn), delete=False)
        except lmdb.Error as error:  # even that takes room
            self._env.close()
            self._reset(error)
        self._parts, self._days, self._persons, self._holes, self.bytes = [], [], 0, 0, 0
        self._sweep(set())

    def close(self) -> None:
        self._syncer.shutdown()
        self._env.close()

    # ---- files --------------------------------------------------------------------------------

    def _columns(self, entry: SegmentEntry) -> DayColumns:
        pinned = _Pinned(self._path / entry.name)
        values = {name: pinned.value(name.encode()) for name in COLUMNS}
        key = self._segment_key(entry.day, entry.name, make=False)
        return DayColumns(bytes(pinned.value(_HEAD)), values, key, pinned)

    def _check_room(self, need_bytes: int) -> None:
        status = os.statvfs(self._path)
        if status.f_bavail * status.f_frsize < self._floor_bytes + need_bytes:
            raise StorageFull(f"{self._path}: less than {self._floor_bytes} bytes would be free")

    def _check(self, entry: SegmentEntry) -> str:
        return check_file(self._path, entry)

    def _sweep(self, names: set[str]) -> None:
        """Deletes what no manifest names."""
        for path in self._path.iterdir():
            if _FILE.fullmatch(path.name) and path.name not in names:
                path.unlink()

    def _province(self) -> bytes:
        return self._ring.person_key("index", "chot", "nobody")

    # ---- seals --------------------------------------------------------------------------------

    def _segment_key(self, day: int, name: str, *, make: bool = True) -> bytes:
        key = self._ring.log_key(day, make=make)
        return derive_key(key, name.encode(), b"chot/segment/1", SEGMENT_KEY_SIZE)

    def _sealed_part(self, part: _Part, persons: Persons) -> bytes:
        stop = part.first + part.count
        plain = bytes(persons.keys[16 * part.first : 16 * stop]) + persons.holes[part.first : stop]
        return self._seal(part.day, part.name, plain)

    def _seal(self, day: int, name: str, plain: bytes) -> bytes:
        key = derive_key(self._ring.log_key(day), name.encode(), b"chot/index/1", 32)
        nonce = os.urandom(NONCE_SIZE)
        return nonce + encrypt(key, nonce, plain, name.encode())

    def _unseal(self, day: int, name: str, sealed: bytes) -> bytes:
        key = derive_key(self._ring.log_key(day, make=False), name.encode(), b"chot/index/1", 32)
        return decrypt(key, sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], name.encode())

    # ---- the manifest -------------------------------------------------------------------------

    def _read_manifest(self) -> _Manifest | None:
        try:
            _check_length(self._env, self._path / MANIFEST)
            return read_manifest(self._env)
        except (EngineError, lmdb.Error) as error:
            self.problem = str(error)
            _log.error("the index is made anew from the log", problem=self.problem)
            self._env.close()
            self._reset(error)
            return None

    def _reset(self, error: Exception) -> None:
        """A manifest that cannot be read is put away: the log has all that it told."""
        path = self._path / MANIFEST
        try:
            path.unlink(missing_ok=True)
            path.with_name(MANIFEST + "-lock").unlink(missing_ok=True)
            self._env = _open(path, MANIFEST_BYTES)
        except (OSError, lmdb.Error):
            raise StorageUnavailable(f"{path}: {error}") from error


def _draw_number() -> str:
    """Never the same twice: keys are derived from names."""
    return os.urandom(8).hex()


def read_manifest(env: Any) -> _Manifest | None:
    """None where nothing was committed. Raises JournalCorrupt, lmdb.Error."""
    with env.begin() as txn:
        packed = txn.get(_STATE)
    if packed is None:
        return None
    if zlib.crc32(packed[4:]) != int.from_bytes(packed[:4], "little"):
        raise JournalCorrupt("the checksum of the index's manifest is wrong")
    try:
        manifest = msgspec.msgpack.decode(packed[4:], type=_Manifest)
    except msgspec.MsgspecError as error:
        raise JournalCorrupt("the index's manifest cannot be read") from error
    if manifest.schema != SCHEMA:
        raise JournalCorrupt(f"the index's manifest has schema {manifest.schema}, not {SCHEMA}")
    return manifest


def check_file(path: Path, entry: SegmentEntry) -> str:
    """What is wrong with a segment's file, "" where nothing is."""
    file = path / entry.name
    try:
        size = file.stat().st_size
        if size != entry.size:
            return f"{file} is of {size} bytes, not {entry.size}"
        return "" if _measure(file)[1] == entry.crc else f"the checksum of {file} is wrong"
    except OSError as error:
        return f"{file}: {error.strerror}"


def check_folder(path: Path) -> list[str]:
    """What is wrong with the index under `path`, a line each. Changes nothing.

    Beside an engine files may be replaced meanwhile: what the manifest names no more is no fault.
    """
    try:
        entries = _read_entries(path)
        problems = {entry.name: check_file(path, entry) for entry in entries}
        if any(problems.values()):
            still = {entry.name for entry in _read_entries(path)}
            return [p for name, p in problems.items() if p and name in still]
    except (OSError, StorageError, lmdb.Error) as error:
        return [f"{path / MANIFEST}: {error}"]
    return []


def _read_entries(path: Path) -> list[SegmentEntry]:
    manifest = path / MANIFEST
    if not manifest.exists():
        return []
    env = lmdb.open(
        os.fspath(manifest), map_size=max(manifest.stat().st_size, 1 << 16), subdir=False,
        readonly=True, lock=manifest.with_name(MANIFEST + "-lock").exists(), create=False,
        lib_version=LIB_VERSION,
    )  # fmt: skip
    try:
        _check_length(env, manifest)
        found = read_manifest(env)
    finally:
        env.close()
    return [entry for entry, _ in found.segments] if found else []


def _check_length(env: Any, path: Path) -> None:
    """A file shorter than its own tree would end the process with SIGBUS at the first access."""
    info = env.info()
    expected = (info["last_pgno"] + 1) * env.stat()["psize"] if info["last_txnid"] else 0
    if path.stat().st_size < expected:
        raise JournalCorrupt(f"{path} is cut short")


def _open(path: Path, size: int, *, readonly: bool = False) -> Any:
    return lmdb.open(
        os.fspath(path), map_size=max(size, 1 << 16), subdir=False, mode=0o600, readonly=readonly,
        lock=not readonly, create=not readonly, lib_version=LIB_VERSION,
    )  # fmt: skip


def _write_values(path: Path, head: bytes, columns: dict[str, bytearray]) -> None:
    """A file with these values, not synced yet; columns are taken out of the dict.

    In transactions of a few columns, so that LMDB never holds a whole large day.
    """
    path.unlink(missing_ok=True)
    size = len(head) + sum(map(len, columns.values()))
    env = lmdb.open(
        os.fspath(path), map_size=size + (size >> 3) + (1 << 20), subdir=False, mode=0o600,
        lock=False, lib_version=LIB_VERSION, sync=False,
    )  # fmt: skip
    try:
        names = sorted([_HEAD.decode(), *columns], reverse=True)
        while names:
            held = 0
            with env.begin(write=True) as txn:
                while names and held < COMMIT_BYTES:
                    name = names.pop()
                    value = columns.pop(name, head)
                    txn.put(name.encode(), value, append=True)
                    held += len(value)
    finally:
        env.close()


def _measure(path: Path) -> tuple[int, int]:
    """(bytes, CRC-32) of a file."""
    crc = size = 0
    buffer = bytearray(CHECK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = zlib.crc32(view[:count], crc)
            size += count
    return size, crc


def _sync(path: Path) -> None:
    """A file, or the names in a folder."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
