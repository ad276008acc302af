"""The forget list: what was forgotten for good, kept beside the keys and apart from every backup.

A restored backup knows nothing of what was forgotten since it was made. So each forgotten day and
each erased person (as a tag, engine.keeping.erasure) is a line here, on the disk before anything
else is done, and whoever restores applies all of them before the store serves. A line is JSON:

    {"at_ms": 1625072400000, "day": 18778}
    {"at_ms": 1625072400000, "tags": ["0f3a..."], "until_ms": 1625072400000}
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.errors import ForgetListInvalid, StorageUnavailable
from engine.keeping.erasure import Erasure

NAME: Final = "forgotten.jsonl"
SIZE_MAX: Final = 64 << 20

_Tag = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A forgotten day (number of the civil day), or a person up to an instant."""

    at_ms: int
    day: int | None = None
    tags: tuple[_Tag, ...] = ()
    until_ms: int = 0

    def to_erasure(self) -> Erasure:
        return Erasure(tags=tuple(map(bytes.fromhex, self.tags)), until_ms=self.until_ms)


_decode_entry = msgspec.json.Decoder(Entry).decode


def erasure_to_entry(erasure: Erasure, at_ms: int) -> Entry:
    tags = tuple(tag.hex() for tag in erasure.tags)
    return Entry(at_ms=at_ms, tags=tags, until_ms=erasure.until_ms)


class ForgetList:
    """One file; a missing one is empty. A last line that a crash cut short never counted.

    Raises ForgetListInvalid for a file that is none, StorageUnavailable.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._entries: dict[Entry, None] = {}
        self._is_torn = False
        try:
            data = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise StorageUnavailable(f"{self.path}: {error.strerror}") from error
        if len(data) > SIZE_MAX:
            raise ForgetListInvalid(f"{self.path} is too large for a forget list")
        *lines, rest = data.split(b"\n")
        self._is_torn = bool(rest)
        for number, line in enumerate(lines, 1):
            try:
                self._entries[_decode_entry(line)] = None
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise ForgetListInvalid(
                    f"{self.path}: line {number} is none of a forget list",
                    hint="bring the file back from a copy; without it what was erased comes back",
                ) from None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries)

    def days(self) -> set[int]:
        return {entry.day for entry in self._entries if entry.day is not None}

    def erasures(self) -> list[Erasure]:
        return [entry.to_erasure() for entry in self._entries if entry.tags]

    def add(self, entries: Iterable[Entry]) -> int:
        """How many of them are new; durable when it returns. Raises StorageUnavailable."""
        fresh = [entry for entry in dict.fromkeys(entries) if entry not in self._entries]
        if not fresh:
            return 0
        lines = b"".join(msgspec.json.encode(entry) + b"\n" for entry in fresh)
        try:
            self._write(lines)
        except OSError as error:
            raise StorageUnavailable(f"{self.path}: {error.strerror}") from error
        self._entries.update(dict.fromkeys(fresh))
        return len(fresh)

    def _write(self, lines: bytes) -> None:
        is_new = not self.path.exists()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, 0o600)
        try:
            if self._is_torn:
                os.ftruncate(fd, self.path.read_bytes().rfind(b"\n") + 1)
            self._is_torn = True  # until all of it is on the disk
            if os.write(fd, lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
            self._is_torn = False
        finally:
            os.close(fd)
        if is_new:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
