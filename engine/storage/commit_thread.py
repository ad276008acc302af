"""The one writer of a store: jobs wait for the commit that is under way, then go in together.

A group commit without a timer: the thread takes whatever has come since its last commit returned,
so groups size themselves. Whoever waits is woken when the commit that holds its job has returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, TypeVar

from engine.errors import StorageUnavailable


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
Calls = dict[asyncio.AbstractEventLoop, list[Callable[[], object]]]


# A thread that wants the GIL beside a busy event loop waits so long for it, and a commit wants it
# four times or so; with the interpreter's 5 ms receipts pile up behind one another.
# `python -m bench receipt` shows what it does to them, and to the loop.
SWITCH_INTERVAL_S: Final = 0.00005


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
        self._calls: Calls = {}
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

    def notify(self, loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
        """Of `work`: what is to be called in a loop before those who wait for its jobs go on.

        To wake a loop is a system call for which the GIL is given up: one does for all of them.
        """
        self._calls.setdefault(loop, []).append(call)

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
            # waits must hear of it rather than wait for ever. Its words may hold anything.
            problem = type(error).__name__
            for job in jobs:
                job.error = job.error or StorageUnavailable(f"the writer failed: {problem}")
        repeated = set(map(id, again))
        done = [job for job in jobs if id(job) not in repeated]
        with self._lock:
            self.pending_bytes -= sum(job.size for job in done)
            for job in again:
                self._queue.put(job)
            self._admit()
        calls, self._calls = self._calls, {}
        _deliver(done, calls)


def _deliver(jobs: Iterable[Job], calls: Calls) -> None:
    """Wake whoever waits: one callback per event loop, whatever the number of jobs."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {
        loop: [] for loop in calls
    }
    for job in jobs:
        if job._future is not None:
            by_loop.setdefault(job._future.get_loop(), []).append(job._future)
        elif job._event is not None:
            job._event.set()
    for loop, futures in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop ended while its job was written
            loop.call_soon_threadsafe(_finish, calls.get(loop, ()), futures)


def _finish(calls: Iterable[Callable[[], object]], futures: Iterable[asyncio.Future[None]]) -> None:
    for call in calls:
        call()
    for future in futures:
        if not future.done():  # cancelled meanwhile
            future.set_result(None)
