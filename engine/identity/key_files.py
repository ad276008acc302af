"""Key files: 32 raw bytes each, for their owner alone, written whole or not at all, and wiped."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from engine.errors import KeyMissing

KEY_SIZE = 32


@contextlib.contextmanager
def as_key_missing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KeyMissing(f"key files under {path}: {error.strerror or 'input/output error'}") from (
            error
        )


def is_ours(directory: Path) -> bool:
    return directory.is_dir() and os.access(directory, os.R_OK | os.W_OK | os.X_OK)


def check_directory(path: Path, *, group: bool = False) -> int:
    """Mode of a key directory that others cannot enter. Raises KeyMissing."""
    with as_key_missing(path):
        status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise KeyMissing(f"{path} is not a directory")
    return _check_mode(path, status, group)


def _check_mode(path: Path, status: os.stat_result, group: bool) -> int:
    open_bits = status.st_mode & (0o007 if group else 0o077)
    if open_bits:
        raise KeyMissing(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others can reach the keys",
            hint=f"chmod go= {path}",
        )
    if not group and os.geteuid() not in (0, status.st_uid):
        raise KeyMissing(f"{path} belongs to another user", hint="run as the owner of the keys")
    return status.st_mode


def load_key(path: Path, *, group: bool = False) -> bytes:
    with as_key_missing(path):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            _check_mode(path, status, group)
            key = os.read(fd, KEY_SIZE + 1)
        finally:
            os.close(fd)
    if len(key) != KEY_SIZE:
        raise KeyMissing(f"{path} does not hold {KEY_SIZE} bytes", hint="restore it from escrow")
    return key


def write_key(path: Path, key: bytes, mode: int = 0o600) -> None:
    with as_key_missing(path):
        write_file(path, key, mode)


def write_file(path: Path, content: bytes, mode: int) -> None:
    """The whole file or nothing under its name, on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.tmp")
    # The desk's folder may be another user's, who could have put a link here to a file of ours.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o600)
    except FileExistsError:
        temporary.unlink()
        fd = os.open(temporary, flags, 0o600)
    try:
        os.fchmod(fd, mode)
        os.write(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    _sync_directory(path.parent)


def wipe(path: Path) -> None:
    """Write over, unlink, and make both last. A file that is not there is fine."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(fd, os.urandom(max(KEY_SIZE, os.fstat(fd).st_size)))
        os.fsync(fd)
    finally:
        os.close(fd)
    path.unlink()
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
