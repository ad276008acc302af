"""Zeros ahead of a growing file: a commit then writes into blocks that the file has already.

A commit that makes its file grow waits for the journal of the file system, and that waits for
whatever else is written there. Blocks that hold zeros need nothing but the write itself; reserved
ones (fallocate) are not enough, since the first write to them is journalled too. The zeros cost
room and are worth little to a small file, so what is filled grows with the file.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

FROM_BYTES: Final = 64 << 10  # a file smaller than this is let alone
MIN_STEP_BYTES: Final = 512 << 10
MAX_STEP_BYTES: Final = 32 << 20
CHUNK_BYTES: Final = 256 << 10  # one write: a commit that comes meanwhile syncs this much more
PAUSE_S: Final = 5.0  # after a write that failed


class ZeroFill:
    """Fills one file in a thread of its own, which begins when there is something to do.

    limit_bytes: how long the file may become. floor_bytes: free space of the file system that is
    left alone; near it less is filled, then nothing, since zeros must not be what fills a disk.

    Zeros are appended (O_APPEND): the kernel chooses the place when it writes, so that they never
    fall on what the file's owner has written there meanwhile. A write that fails is no harm; what
    is wrong with the disk is told by the next commit.
    """

    def __init__(self, path: Path, limit_bytes: int, floor_bytes: int) -> None:
        self.size = path.stat().st_size
        self.path = path  # of the file, which its owner may rename
        self._limit_bytes = limit_bytes
        self._floor_bytes = floor_bytes
        self._end = 0
        self._idle_until_s = 0.0
        self._more = threading.Event()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def note(self, end: int) -> None:
        """The file's owner uses `end` bytes of it now. Called by one thread at every commit."""
        self._end = end
        if end < FROM_BYTES or self._is_far_enough() or self._more.is_set():
            return
        if time.monotonic() < self._idle_until_s or self._is_closed:
            return
        self._more.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="zero-fill", daemon=True)
            self._thread.start()

    def fill_now(self, size: int) -> None:
        """Makes the file `size` bytes longer than it is used, in the thread that calls; as far as
        there is room. Nobody writes to the file meanwhile."""
        with contextlib.suppress(OSError):
            self._fill(bytes(CHUNK_BYTES), lambda: self._end + size)

    def close(self) -> None:
        """Ends the thread; waits for one write at most. May be repeated."""
        self._is_closed = True
        if self._thread is not None:
            while self._thread.is_alive():  # it may have overheard the first call
                self._more.set()
                self._thread.join(0.05)

    def _step(self) -> int:
        return min(max(self._end, MIN_STEP_BYTES), MAX_STEP_BYTES)

    def _is_far_enough(self) -> bool:
        return self.size - self._end > self._step() // 2

    def _run(self) -> None:
        zeros = bytes(CHUNK_BYTES)
        while True:
            self._more.wait()
            if self._is_closed:
                return
            with contextlib.suppress(OSError):
                self._fill(zeros, lambda: self._end + self._step())
            if not self._is_far_enough():
                self._idle_until_s = time.monotonic() + PAUSE_S
            self._more.clear()

    def _fill(self, zeros: bytes, wanted_size: Callable[[], int]) -> None:
        """Until the file is as long as it should be, or may be. Raises OSError."""
        # O_DSYNC and no sync of the whole file: the owner's own writes are the owner's to sync.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_DSYNC | os.O_CLOEXEC)
        try:
            while not self._is_closed:
                self.size = os.fstat(file).st_size
                wanted = min(wanted_size(), self._limit_bytes) - self.size
                if wanted <= 0:
                    return
                status = os.statvfs(self.path)
                free_bytes = status.f_bavail * status.f_frsize - self._floor_bytes
                # An eighth of what is free at most, so that the last of it is left to others.
                if free_bytes // 8 < min(wanted, MIN_STEP_BYTES):
                    return
                os.write(file, zeros[: min(wanted, free_bytes // 8)])
        finally:
            os.close(file)
