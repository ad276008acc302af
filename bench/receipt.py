"""`python -m bench receipt`: how long a receipt takes beside an event loop that has no time.

Batches come at a fixed rate and wait for their commit, while the loop that gave them is idle or
spins. A thread that wants the GIL beside a busy loop waits a switch interval each time, and a
commit wants it several times: the engine's own interval against the interpreter's shows what that
costs, and how many turns the spinning loop loses by it. The floor is pwrite and fdatasync of as
many bytes on the same disk, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from bench.harness import SEED, commit, machine, path_to_file_system, versions
from bench.workload import FIRST_DAY, busy_day
from engine.clock import SystemClock
from engine.commit_thread import SWITCH_INTERVAL_S
from engine.journal import Part, RecordBatch, Run
from engine.journal_lmdb import LmdbJournal
from engine.keys import FileKeyRing
from engine.rows import ROW_SIZE

ROWS: Final = 64  # of a batch, as gateways send them under load
TURN_NS: Final = 300_000  # what one callback of a busy loop takes
INTERPRETER_S: Final = 0.005  # sys.getswitchinterval() of CPython unless told otherwise


@dataclass(slots=True)
class Setting:
    """One way to run; what came of it."""

    name: str
    interval_s: float
    is_busy: bool
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
    return run(chosen.scans, chosen.seconds)


def run(scans_s: int, seconds: float) -> int:
    """Prints the table and a JSON line. Exit status 1 if a row is missing or there twice."""
    settings = [
        Setting("loop idle", SWITCH_INTERVAL_S, False),
        Setting("loop saturated", SWITCH_INTERVAL_S, True),
        Setting("loop saturated, interpreter's interval", INTERPRETER_S, True),
    ]
    load = [round(value, 2) for value in os.getloadavg()]
    before_s = sys.getswitchinterval()
    with tempfile.TemporaryDirectory(prefix="chot-bench-") as scratch:
        folder = Path(scratch)
        file_system = path_to_file_system(folder)
        floor_ns = floor(folder / "floor")
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
    return 0 if all(setting.stored == wanted for setting in settings) else 1


async def measure(setting: Setting, folder: Path, scans_s: int, seconds: float) -> None:
    """Appends at the rate, whatever the answers take; then counts what is stored."""
    ring = FileKeyRing(folder / "keys", create=True)
    journal = LmdbJournal(folder / "journal", ring, SystemClock(), floor_bytes=0)
    count = max(1, int(scans_s * seconds) // ROWS)
    province, visits = busy_day(ROWS * 8, SEED)
    rows = province.rows(visits)[:ROWS].tobytes()

    async def send(seq: int, due_ns: int) -> None:
        await journal.append(RecordBatch(Run(1, 7, 0, seq, seq), [Part(FIRST_DAY, rows)]))
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
    async for group in journal.read(0):
        setting.stored += len(group.rows)
        if group.lsn == journal.last_lsn():
            break
    await journal.close()


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
