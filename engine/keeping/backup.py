"""Backups: a consistent copy of a store beside a running engine, and the way back.

The logs are copied each in one read transaction, the scan log first, so that the control log knows
all that the other one needs. Keys are never part of a backup; on request they are copied to a place
of their own. A manifest with a hash of each file is written last: a folder without one is no
backup. A restore checks the hashes, applies what was forgotten since, and only then is there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

import engine
from engine import faults
from engine.clock import Clock, ms_to_iso
from engine.errors import BackupInvalid, StorageUnavailable
from engine.keeping.forget_list import NAME, ForgetList
from engine.keeping.stopped import KEYS_DIR, opened
from engine.keeping.verify import CONTROL_DIR, JOURNAL_DIR
from engine.settings import Settings
from engine.storage import control_lmdb, generation, generations, group
from engine.storage.store_lmdb import Store
from engine.storage.store_lock import StoreLock

MANIFEST: Final = "manifest.json"
VERSION: Final = 1
_READ_SIZE: Final = 1 << 20
_LOCK_NAMES: Final = ("store.lock", "lock.mdb", "ring.lock")


class File(msgspec.Struct, frozen=True):
    """path: below the backup, with slashes. sha256: hex."""

    path: str
    bytes: int
    sha256: str


class Head(msgspec.Struct, frozen=True):
    """The last record of a log: its number, and the link that stands for all up to it, hex."""

    last: int
    link: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is made of. store_id: of the scan log, hex; made_ms: when it was begun."""

    version: int
    chot: str
    made: str
    made_ms: int
    store_id: str
    scan: Head
    control: Head
    files: tuple[File, ...]


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did. erased: persons whose rows were taken out again; days: forgotten."""

    manifest: Manifest
    erased: int
    days: Sequence[int]
    held: Sequence[int]


def make_backup(data: Path, to: Path, clock: Clock, *, keys: Path | None = None) -> Manifest:
    """A backup in the new folder `to`; the keys into the new folder `keys`, if one is given.

    Raises BackupInvalid for folders that are in use or lie in each other, StorageError.
    """
    made_ms = clock.now_ms()
    _check_new(to, "backup")
    _check_apart(to, data)
    if keys is not None:
        _check_new(keys, "folder of keys")
        _check_apart(keys, data)
        _check_apart(keys, to)
    draft = to.with_name(f".{to.name}.tmp")
    _remove(draft)
    _make(draft)
    journal = data / JOURNAL_DIR
    with StoreLock(journal, is_offline=True) as lock:
        for _, folder in generation.folders(journal):
            with Store(folder, kind=generations.KIND, is_offline=True, lock=lock) as store:
                store.copy(draft / JOURNAL_DIR / folder.relative_to(journal))
    faults.reach("backup.scans")
    with Store(data / CONTROL_DIR, kind=control_lmdb.KIND, is_offline=True) as store:
        store.copy(draft / CONTROL_DIR)
    store_id, scan, control = _heads(draft)
    manifest = Manifest(
        version=VERSION,
        chot=engine.__version__,
        made=ms_to_iso(made_ms),
        made_ms=made_ms,
        store_id=store_id,
        scan=scan,
        control=control,
        files=tuple(_file(draft, path) for path in _files(draft)),
    )
    faults.reach("backup.copied")
    _write(draft / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    _sync_tree(draft)
    if keys is not None:
        _copy_keys(data / KEYS_DIR, keys)
    _place(draft, to)
    return manifest


def read_manifest(backup: Path) -> Manifest:
    """Raises BackupInvalid."""
    try:
        data = (backup / MANIFEST).read_bytes()
        manifest = msgspec.json.decode(data, type=Manifest)
    except OSError:
        raise BackupInvalid(
            f"{backup} is no whole backup: it has no {MANIFEST}", hint="a backup ends with it"
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BackupInvalid(f"{backup}: {MANIFEST} cannot be read") from None
    if manifest.version != VERSION:
        raise BackupInvalid(f"{backup} was made by another version ({manifest.chot})")
    return manifest


def check_backup(backup: Path) -> Manifest:
    """Compares every file with the manifest. Raises BackupInvalid."""
    manifest = read_manifest(backup)
    known = {file.path: file for file in manifest.files}
    found = {str(path.relative_to(backup).as_posix()) for path in _files(backup)} - {MANIFEST}
    for path in sorted(found ^ known.keys()):
        word = "is not in its manifest" if path in found else "is missing"
        raise BackupInvalid(f"{backup}: {path} {word}")
    for path, file in known.items():
        if _file(backup, backup / path) != file:
            raise BackupInvalid(
                f"{backup}: {path} is not what was written", hint="take an older backup"
            )
    return manifest


async def restore(
    backup: Path,
    data: Path,
    keys: Path,
    settings: Settings,
    clock: Clock,
    *,
    forgotten: Sequence[Path] = (),
) -> Restored:
    """The store of a backup in the new folder `data`, with these keys, and without whom and what
    was forgotten since. forgotten: further forget lists than the one that lies with the keys.

    Raises BackupInvalid, ForgetListInvalid, KeyMissing, StorageError; nothing is at `data` then.
    """
    manifest = check_backup(backup)
    _check_new(data, "data folder")
    lists = [ForgetList(path) for path in forgotten]
    draft = data.with_name(f".{data.name}.restoring")
    _remove(draft)
    _make(draft)
    for name in (JOURNAL_DIR, CONTROL_DIR):
        _copy_tree(backup / name, draft / name)
    _copy_keys(keys, draft / KEYS_DIR)
    forget_list = ForgetList(draft / KEYS_DIR / NAME)
    for other in lists:
        forget_list.add(other.entries)
    faults.reach("restore.copied")
    async with opened(draft, settings, clock) as stopped:
        before = set(stopped.keyring.days())
        erased = await stopped.eraser.catch_up(again=True)
        faults.reach("restore.erased")
        done = await stopped.retention.run()
        days = sorted(before - set(stopped.keyring.days()))
    _sync_tree(draft)
    faults.reach("restore.applied")
    _place(draft, data)
    return Restored(manifest=manifest, erased=erased, days=days, held=done.held)


def _heads(folder: Path) -> tuple[str, Head, Head]:
    last, link, store_id = 0, b"", b""
    with StoreLock(folder / JOURNAL_DIR, is_offline=True) as lock:
        for _, path in generation.folders(folder / JOURNAL_DIR):
            with Store(path, kind=generations.KIND, is_offline=True, lock=lock) as store:
                store_id = store.meta.store_id
                link = link or group.genesis(store_id)
                for lsn, value in store.scan(1):
                    last, link = lsn, group.bytes_to_raw(value, is_head_only=True).link
    scan = Head(last, link.hex())
    with Store(folder / CONTROL_DIR, kind=control_lmdb.KIND, is_offline=True) as store:
        last, link = store.last_lsn(), control_lmdb.genesis(store.meta.store_id)
        for _, record in store.read(last, last, 1) if last else ():
            link = control_lmdb.bytes_to_record(last, record).chain
        return store_id.hex(), scan, Head(last, link.hex())


# ---- folders ------------------------------------------------------------------------------------


def _check_new(folder: Path, what: str) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise BackupInvalid(f"{folder} is in use", hint=f"a {what} is a new or empty folder")


def _check_apart(one: Path, other: Path) -> None:
    inner, outer = one.resolve(), other.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise BackupInvalid(f"{one} and {other} lie in each other")


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in _LOCK_NAMES:
            yield path


def _file(folder: Path, path: Path) -> File:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_SIZE):
            digest.update(chunk)
            size += len(chunk)
    return File(path.relative_to(folder).as_posix(), size, digest.hexdigest())


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise StorageUnavailable(f"{folder}: {error.strerror}") from error


def _remove(folder: Path) -> None:
    """A draft that an end of the process left."""
    if folder.exists():
        shutil.rmtree(folder)


def _copy_tree(source: Path, to: Path) -> None:
    for path in _files(source):
        target = to / path.relative_to(source)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o600)


def _copy_keys(source: Path, to: Path) -> None:
    """Key files, closed to others. A day that is forgotten meanwhile is left out."""
    if not source.is_dir():
        raise BackupInvalid(f"{source} holds no keys")
    draft = to.with_name(f".{to.name}.tmp")
    _remove(draft)
    _make(draft)
    for folder in ("days", "desk"):
        (draft / folder).mkdir(mode=0o700)
    for path in _files(source):
        target = draft / path.relative_to(source)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write(target, path.read_bytes())
        except FileNotFoundError:
            continue
    _sync_tree(draft)
    _place(draft, to)


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as stream:
        stream.write(data)


def _sync_tree(folder: Path) -> None:
    """Everything below it, and itself, is on the disk."""
    for path in [*folder.rglob("*"), folder]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _place(draft: Path, to: Path) -> None:
    """Under its name at once, all of it or nothing."""
    draft.rename(to)
    fd = os.open(to.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
