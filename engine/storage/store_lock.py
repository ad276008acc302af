"""The lock of a store's folder: one opener at a time, and checkers beside it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from engine.errors import StorageUnavailable, StoreLocked

LOCK_NAME = "store.lock"


class StoreLock:
    """A whole-file lock: a second opener is told, instead of two writers' caches disagreeing.

    is_offline: for checking. A store that nobody holds is held meanwhile; where an engine holds it
    `is_shared` says so, and nothing is held. Raises StoreLocked, StorageUnavailable.

    flock, not fcntl's record locks: those vanish when any descriptor of the file is closed.
    """

    def __init__(self, folder: Path, *, is_offline: bool = False) -> None:
        self.is_shared = False
        self._fd = -1
        flags = os.O_CLOEXEC | (os.O_RDONLY if is_offline else os.O_RDWR | os.O_CREAT)
        try:
            self._fd = os.open(folder / LOCK_NAME, flags, 0o600)
        except OSError as error:
            if is_offline and isinstance(error, FileNotFoundError):
                return  # a copy made for checking may come without the lock file
            raise StorageUnavailable(f"{folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            if is_offline:
                self.is_shared = True
                return
            raise StoreLocked(
                f"{folder} is open in another process", hint="stop the engine that holds it"
            ) from error

    def close(self) -> None:
        """May be repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()
