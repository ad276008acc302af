"""Commit: a group of rows made durable, against the same rows in other stores on the same disk.

Ours is LmdbJournal: one value a group, sealed under the day's key. Peers get the same packed rows
and keep every byte of them, queryable by place and by person where the store can: py-lmdb with a
row an entry in two indexes, SQLite with a primary key and an index. The floor is a file written
ahead, pwrite and fdatasync: no store can be faster. Afterwards each gives back all it holds.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np

from bench.harness import Case, Contender, Params, Place, Round
from bench.workload import FIRST_DAY, Array, busy_day
from engine.clock import SystemClock
from engine.journal import Part, RecordBatch, Run
from engine.journal_lmdb import LmdbJournal
from engine.keys import FileKeyRing
from engine.rows import ROW, ROW_SIZE

Facts = dict[str, int | str]

# Big-endian, so that the order of bytes is the order of values.
BY_PLACE: Final = np.dtype([("place", ">u4"), ("time_ms", ">i8"), ("person", "V16")])
BY_PERSON: Final = np.dtype([("person", "V16"), ("time_ms", ">i8"), ("place", ">u4")])
REST: Final = np.dtype([(name, ROW[name]) for name in (ROW.names or ())[3:]])


class Store(Contender):
    """Commits `commits` groups a repetition; groups[i] is never committed twice."""

    def __init__(self, groups: list[bytes], commits: int) -> None:
        self._groups = groups
        self._commits = commits

    def work(self, repetition: int) -> None:
        first = repetition * self._commits
        for i in range(first, first + self._commits):
            self.commit(i, self._groups[i])

    def commit(self, i: int, rows: bytes) -> None:
        """Durable when it returns."""
        raise NotImplementedError

    def stored(self) -> Array:
        """Everything the store holds, as ROW in any order."""
        raise NotImplementedError

    def answer(self) -> bytes:
        return rows_to_answer(self.stored())


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


class LmdbRows(Store):
    name = "py-lmdb rows"
    note = "an entry a row in two indexes, sorted, cursor.putmulti, sync on every commit"

    def __init__(self, groups: list[bytes], commits: int, folder: Path) -> None:
        super().__init__(groups, commits)
        folder.mkdir()
        self._env = lmdb.open(str(folder), map_size=1 << 36, max_dbs=2)
        self._by_place = self._env.open_db(b"place")
        self._by_person = self._env.open_db(b"person")

    def commit(self, i: int, rows: bytes) -> None:
        values = np.frombuffer(rows, ROW)
        rest = np.empty(len(values), REST)
        for name in REST.names or ():
            rest[name] = values[name]
        first, second = to_keys(values, BY_PLACE), to_keys(values, BY_PERSON)
        with self._env.begin(write=True) as txn:
            txn.cursor(self._by_place).putmulti(sorted(zip(first, chop(rest), strict=True)))
            txn.cursor(self._by_person).putmulti(sorted((key, b"") for key in second))

    def stored(self) -> Array:
        with self._env.begin() as txn:
            items = list(txn.cursor(self._by_place))
            if txn.stat(self._by_person)["entries"] != len(items):
                return np.zeros(0, ROW)
        return join(b"".join(key for key, _ in items), b"".join(value for _, value in items))

    def close(self) -> None:
        self._env.close()


class Sqlite(Store):
    name = "sqlite"
    note = "WAL, synchronous=FULL, WITHOUT ROWID by place and an index by person, executemany"

    def __init__(self, groups: list[bytes], commits: int, folder: Path) -> None:
        super().__init__(groups, commits)
        folder.mkdir()
        self._db = sqlite3.connect(folder / "rows.db", isolation_level=None)
        for pragma in (
            "journal_mode=WAL", "synchronous=FULL", "cache_size=-262144",
            "mmap_size=8000000000", "wal_autocheckpoint=20000",
        ):  # fmt: skip
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(
            "CREATE TABLE rows(place INT, time_ms INT, person BLOB, rest BLOB,"
            " PRIMARY KEY(place, time_ms, person)) WITHOUT ROWID"
        )
        self._db.execute("CREATE INDEX by_person ON rows(person, time_ms, place)")

    def commit(self, i: int, rows: bytes) -> None:
        values = np.frombuffer(rows, ROW)
        rest = np.empty(len(values), REST)
        for name in REST.names or ():
            rest[name] = values[name]
        persons = chop(values["person"])
        columns = (values["place"].tolist(), values["time_ms"].tolist(), persons, chop(rest))
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO rows VALUES(?,?,?,?)", zip(*columns, strict=True))
        self._db.execute("COMMIT")

    def stored(self) -> Array:
        found = self._db.execute("SELECT place, time_ms, person, rest FROM rows").fetchall()
        keys = np.zeros(len(found), BY_PLACE)
        keys["place"] = [place for place, _, _, _ in found]
        keys["time_ms"] = [time_ms for _, time_ms, _, _ in found]
        keys["person"] = np.frombuffer(b"".join(row[2] for row in found), "V16")
        return join(keys.tobytes(), b"".join(row[3] for row in found))

    def close(self) -> None:
        self._db.close()


class Floor(Store):
    name = "pwrite+fdatasync"
    note = "the floor: plain bytes into a file that was written ahead; no index, no seal"

    def __init__(self, groups: list[bytes], commits: int, folder: Path, facts: Facts) -> None:
        super().__init__(groups, commits)
        self._facts = facts
        self._commits_ns: list[int] = []
        self._size = sum(len(group) for group in groups)
        self._at = 0
        self._fd = os.open(folder, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._fd, bytes(self._size), 0)
        os.fsync(self._fd)

    def commit(self, i: int, rows: bytes) -> None:
        begun_ns = time.perf_counter_ns()
        self._at += os.pwrite(self._fd, rows, self._at)
        os.fdatasync(self._fd)
        self._commits_ns.append(time.perf_counter_ns() - begun_ns)

    def answer(self) -> bytes:
        self._facts["floor_ns"] = int(statistics.median(self._commits_ns))
        return super().answer()

    def stored(self) -> Array:
        return np.frombuffer(os.pread(self._fd, self._at, 0), ROW)

    def close(self) -> None:
        os.close(self._fd)


def chop(values: Array) -> list[bytes]:
    """The bytes of each item."""
    data, size = values.tobytes(), values.itemsize
    return [data[at : at + size] for at in range(0, len(data), size)]


def to_keys(rows: Array, layout: np.dtype[Any]) -> list[bytes]:
    keys = np.empty(len(rows), layout)
    for name in layout.names or ():
        keys[name] = rows[name]
    return chop(keys)


def join(keys: bytes, rest: bytes) -> Array:
    """ROW from the packed keys by place and the rest of each row."""
    head, tail = np.frombuffer(keys, BY_PLACE), np.frombuffer(rest, REST)
    rows = np.zeros(len(head), ROW)
    for part in (head, tail):
        for name in part.dtype.names or ():
            rows[name] = part[name]
    return rows


def rows_to_answer(rows: Array) -> bytes:
    return b"".join(sorted(chop(np.ascontiguousarray(rows))))


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
    folders = (place.scratch / str(n) for n in itertools.count())
    for_ours = next(folders)
    for_ours.mkdir()
    facts: dict[str, int | str] = {"bytes_per_group": step}
    contenders: list[Contender] = [
        Ours(groups, commits, for_ours, facts),
        LmdbRows(groups, commits, next(folders)),
        Sqlite(groups, commits, next(folders)),
        Floor(groups, commits, next(folders), facts),
    ]
    return Round(contenders, commits * size, rows_to_answer(rows), facts, floor=Floor.name)


def _case(name: str, group: int, commits: int, large: int) -> Case:
    rows = "a row" if group == 1 else f"{group} rows"
    return Case(
        name=name,
        what=f"groups of {rows} made durable, against py-lmdb rows, SQLite, pwrite + fdatasync",
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
