"""`python -m bench receipt`: how long a receipt takes beside an event loop that has no time.

Batches come at a fixed rate and wait for their commit, while the loop that gave them is idle or
spins. A thread that wants the GIL beside a busy loop waits a switch interval each time, and a
commit wants it several times: the engine's own interval against the interpreter's shows what that
costs, and how many turns the spinning loop loses by it. The floor is pwrite and fdatasync of as
many bytes on the same disk, in the same run; `bare` is the same by a thread beside the saturated
loop, which nothing done in such a thread can beat.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import uvloop

from bench import results
from bench.harness import SEED, commit, machine, path_to_file_system, versions
from bench.workload import FIRST_DAY, busy_day
from engine.clock import SystemClock
from engine.identity.keys import FileKeyRing
from engine.scans.rows import ROW_SIZE
from engine.storage.commit_thread import SWITCH_INTERVAL_S, CommitThread, Job
from engine.storage.journal import Part, RecordBatch, Run
from engine.storage.journal_lmdb import LmdbJournal

ROWS: Final = 64  # of a batch, as gateways send them under load
TURN_NS: Final = 300_000  # what one callback of a busy loop takes
INTERPRETER_S: Final = 0.005  # sys.getswitchinterval() of CPython unless told otherwise


@dataclass(slots=True)
class Setting:
    """One way to run; what came of it."""

    name: str
    interval_s: float
    is_busy: bool
    is_bare: bool = False
    waits_ns: list[int] = field(default_factory=list)
    turns: int = 0
    seconds: float = 0.0
    stored: int = 0

    def cells(self, floor_ns: list[int]) -> list[str]:
        p50, p99 = (_ms(self.waits_ns, share) for share in (50, 99))
        over = [value - _ms(floor_ns, share) for value, share in ((p50, 50), (p99, 99))]
        turns = f"{self.turns / self.seconds:.0f}" if self.is_busy else ""
        return [self.name, *(f"{value:.2f}" for value in (p50, p99, *over)), turns]

    def facts(self) -> dict[str, float | int]:
        found = {f"p{share}_ms": round(_ms(self.waits_ns, share), 3) for share in (50, 99, 100)}
        return {**found, "turns_s": round(self.turns / self.seconds), "rows": self.stored}


def add_parser(actions: Any) -> None:
    words = actions.add_parser("receipt", help="receipts beside an idle and a saturated event loop")
    words.add_argument("--scans", type=int, default=50_000, help="a second")
    words.add_argument("--seconds", type=float, default=10.0, help="of each setting")


def run_words(chosen: argparse.Namespace) -> int:
    return run(chosen.scans, chosen.seconds, is_kept=chosen.keep)


def run(scans_s: int, seconds: float, *, is_kept: bool = False) -> int:
    """Prints the table and a JSON line. Exit status 1 if a row is missing or there twice."""
    settings = [
        Setting("loop idle", SWITCH_INTERVAL_S, False),
        Setting("loop saturated", SWITCH_INTERVAL_S, True),
        Setting("loop saturated, bare", SWITCH_INTERVAL_S, True, is_bare=True),
        Setting("loop saturated, interpreter's interval", INTERPRETER_S, True),
    ]
    load = [round(value, 2) for value in os.getloadavg()]
    before_s = sys.getswitchinterval()
    with tempfile.TemporaryDirectory(prefix="chot-bench-") as scratch:
        folder = Path(scratch)
        file_system = path_to_file_system(folder)
        floor_ns = floor(folder / "floor")
        gc.collect()
        gc.freeze()  # as the engine does when it has started
        for n, setting in enumerate(settings):
            sys.setswitchinterval(setting.interval_s)
            try:
                uvloop.run(measure(setting, folder / str(n), scans_s, seconds))
            finally:
                sys.setswitchinterval(before_s)
        floor_ns += floor(folder / "floor")
    print(f"| {scans_s} scans/s | p50 ms | p99 ms | over floor p50 | p99 | loop turns/s |")
    print("|---|---|---|---|---|---|")
    print(f"| pwrite + fdatasync | {_ms(floor_ns, 50):.2f} | {_ms(floor_ns, 99):.2f} | | | |")
    for setting in settings:
        print("| " + " | ".join(setting.cells(floor_ns)) + " |")
    wanted = ROWS * len(settings[0].waits_ns)
    line = {
        "bench": "receipt",
        "scans_s": scans_s,
        "floor": {"p50_ms": round(_ms(floor_ns, 50), 3), "p99_ms": round(_ms(floor_ns, 99), 3)},
        "settings": {setting.name: setting.facts() for setting in settings},
        "machine": {**machine(), "scratch": file_system},
        "versions": versions(),
        "commit": commit(),
        "load_average": load,
    }
    print(json.dumps(line, ensure_ascii=False))
    is_right = all(setting.stored == wanted for setting in settings)
    if is_kept and is_right:
        results.keep(line)
    return 0 if is_right else 1


class Sink(Protocol):
    """Where batches of rows become durable."""

    async def append(self, seq: int, rows: bytes) -> None: ...

    async def end(self) -> int:
        """Closes; how many rows there are."""


class Log:
    """The engine's journal."""

    def __init__(self, folder: Path) -> None:
        ring = FileKeyRing(folder / "keys", create=True)
        self._journal = LmdbJournal(folder / "journal", ring, SystemClock(), floor_bytes=0)

    async def append(self, seq: int, rows: bytes) -> None:
        await self._journal.append(RecordBatch(Run(1, 7, 0, seq, seq), [Part(FIRST_DAY, rows)]))

    async def end(self) -> int:
        stored = 0
        async for group in self._journal.read(0):
            stored += len(group.rows)
            if group.lsn == self._journal.last_lsn():
                break
        await self._journal.close()
        return stored


class Bare:
    """A file written ahead: whatever waits is one pwrite and one fdatasync."""

    def __init__(self, path: Path, size: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._file, bytes(size), 0)
        os.fsync(self._file)
        self._at = 0
        self._thread: CommitThread[RowsJob] = CommitThread(
            "bare", self._work, pending_limit_bytes=1 << 26, commit_limit_bytes=1 << 20
        )

    def _work(self, jobs: list[RowsJob]) -> Sequence[RowsJob]:
        self._at += os.pwrite(self._file, b"".join(job.rows for job in jobs), self._at)
        os.fdatasync(self._file)
        return ()

    async def append(self, seq: int, rows: bytes) -> None:
        await self._thread.run(RowsJob(rows))

    async def end(self) -> int:
        self._thread.close()
        os.close(self._file)
        return self._at // ROW_SIZE


class RowsJob(Job):
    def __init__(self, rows: bytes) -> None:
        super().__init__(len(rows))
        self.rows = rows


async def measure(setting: Setting, folder: Path, scans_s: int, seconds: float) -> None:
    """Appends at the rate, whatever the answers take; then counts what is stored."""
    count = max(1, int(scans_s * seconds) // ROWS)
    sink: Sink = Bare(folder, count * ROWS * ROW_SIZE) if setting.is_bare else Log(folder)
    province, visits = busy_day(ROWS * 8, SEED)
    rows = province.rows(visits)[:ROWS].tobytes()

    async def send(seq: int, due_ns: int) -> None:
        await sink.append(seq, rows)
        setting.waits_ns.append(time.perf_counter_ns() - due_ns)

    async def spin() -> None:
        while True:
            until = time.perf_counter_ns() + TURN_NS
            while time.perf_counter_ns() < until:
                pass
            setting.turns += 1
            await asyncio.sleep(0)

    spinner = asyncio.create_task(spin()) if setting.is_busy else None
    begun_ns, sent, tasks = time.perf_counter_ns(), 0, []
    while sent < count:
        now_ns = time.perf_counter_ns()
        while sent < count and begun_ns + sent * ROWS * 1_000_000_000 // scans_s <= now_ns:
            sent += 1
            tasks.append(asyncio.create_task(send(sent, now_ns)))
        await asyncio.sleep(0 if setting.is_busy else 0.0005)
    await asyncio.gather(*tasks)
    setting.seconds = (time.perf_counter_ns() - begun_ns) / 1e9
    if spinner is not None:
        spinner.cancel()
        await asyncio.gather(spinner, return_exceptions=True)
    setting.stored = await sink.end()


def floor(path: Path, count: int = 300) -> list[int]:
    """Nanoseconds of pwrite and fdatasync of a batch's bytes in a file written ahead."""
    data, waits_ns = os.urandom(ROWS * ROW_SIZE), []
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(file, bytes(len(data) * count), 0)
        os.fsync(file)
        for n in range(count):
            begun_ns = time.perf_counter_ns()
            os.pwrite(file, data, n * len(data))
            os.fdatasync(file)
            waits_ns.append(time.perf_counter_ns() - begun_ns)
    finally:
        os.close(file)
    return waits_ns


def _ms(waits_ns: list[int], share: float) -> float:
    return float(np.percentile(waits_ns, share)) / 1e6
