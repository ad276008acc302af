"""Commit: a group of rows made durable, against the same rows in other stores on the same disk.

Ours is LmdbJournal: one value a group, sealed under the day's key. Peers (bench.row_stores) get the
same packed rows and keep every byte of them. The floor is a file written ahead, pwrite and
fdatasync: no store can be faster. Afterwards each gives back all it holds.
"""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Final

import numpy as np

from bench import peers
from bench.harness import Case, Contender, Params, Place, Round
from bench.row_stores import (
    DuckRows,
    Facts,
    Floor,
    LmdbRows,
    PostgresRows,
    RedisRows,
    RocksRows,
    Sqlite,
    Store,
    rows_to_answer,
)
from bench.workload import FIRST_DAY, Array, busy_day
from engine.clock import SystemClock
from engine.identity.keys import FileKeyRing
from engine.scans.rows import ROW_SIZE
from engine.storage.journal import Part, RecordBatch, Run
from engine.storage.journal_lmdb import LmdbJournal


class Ours(Store):
    name = "chot"
    note = "LmdbJournal.append, one group at a time, rows sealed with AES-256-GCM"

    def __init__(self, groups: list[bytes], commits: int, folder: Path, facts: Facts) -> None:
        super().__init__(groups, commits)
        self._facts = facts
        self._commits_ns: list[int] = []  # without the way to the writer's thread and back
        clock = SystemClock()
        self._loop = asyncio.new_event_loop()
        ring = FileKeyRing(folder / "keys", create=True)
        self._journal = LmdbJournal(folder / "journal", ring, clock, floor_bytes=0)

    def commit(self, i: int, rows: bytes) -> None:
        batch = RecordBatch(Run(1, 7, 0, i + 1, i + 1), [Part(FIRST_DAY, rows)])
        self._loop.run_until_complete(self._journal.append(batch))
        self._commits_ns.append(self._journal.counters.last_commit_ns)

    def stored(self) -> Array:
        return self._loop.run_until_complete(self._read_all())

    def answer(self) -> bytes:
        self._facts["commit_ns"] = int(statistics.median(self._commits_ns))
        return super().answer()

    async def _read_all(self) -> Array:
        last = self._journal.last_lsn()
        found = []
        async for group in self._journal.read(0):
            found.append(group.rows)
            if group.lsn == last:
                break
        return np.concatenate(found)

    def close(self) -> None:
        self._loop.run_until_complete(self._journal.close())
        self._loop.close()


def set_up(params: Params, place: Place) -> Round:
    size, commits = params["group"], params["commits"]
    count = (params["repetitions"] + 1) * commits
    # Two rows a visit; a day gives a little more or less than asked for, so ask for a fifth more.
    province, visits = busy_day(count * size * 6 // 10 + 1000, place.seed)
    rows = province.rows(visits)[: count * size]
    assert len(rows) == count * size, "the day is too small for the groups"
    data = rows.tobytes()
    step = size * ROW_SIZE
    groups = [data[at : at + step] for at in range(0, len(data), step)]
    scratch, servers = place.scratch, place.servers
    (scratch / "ours").mkdir()
    facts: Facts = {"bytes_per_group": step}
    came, skipped = peers.invite(
        {
            "py-lmdb rows": lambda: LmdbRows(groups, commits, scratch / "lmdb"),
            "sqlite": lambda: Sqlite(groups, commits, scratch / "sqlite"),
            "duckdb": lambda: DuckRows(groups, commits, scratch / "duckdb"),
            "rocksdb": lambda: RocksRows(groups, commits, scratch / "rocksdb"),
            "postgresql": lambda: PostgresRows(groups, commits, servers),
            "redis": lambda: RedisRows(groups, commits, servers),
            "pwrite+fdatasync": lambda: Floor(groups, commits, scratch / "floor", facts),
        }
    )
    contenders: list[Contender] = [Ours(groups, commits, scratch / "ours", facts), *came]
    return Round(
        contenders, commits * size, rows_to_answer(rows), facts, floor=Floor.name, skipped=skipped
    )


def _case(name: str, group: int, commits: int, large: int) -> Case:
    rows = "a row" if group == 1 else f"{group} rows"
    return Case(
        name=name,
        what=f"groups of {rows} made durable, against other stores and pwrite + fdatasync",
        unit="row",
        params={
            "smoke": {"group": min(group, 100), "commits": 5, "repetitions": 2},
            "small": {"group": group, "commits": commits, "repetitions": 7},
            "large": {"group": group, "commits": large, "repetitions": 20},
        },
        set_up=set_up,
    )


CASES: Final = (
    _case("commit", 1000, 10, 50),
    _case("commit_100", 100, 40, 200),
    _case("commit_1", 1, 250, 1000),
)
