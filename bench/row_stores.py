"""Stores beside ours that make the same rows durable, by place and by person where they can.

Each commits a group with one sync and keeps every byte of it; afterwards it gives back all that it
holds. The floor is a file that was written ahead: no store can be faster.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np

from bench import peers
from bench.harness import Contender
from bench.servers import PG_NOTE, REDIS_NOTE, Servers
from bench.workload import Array
from engine.scans.rows import ROW

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
        rest = to_rest(values)
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
        columns = zip(*to_columns(values), strict=True)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO rows VALUES(?,?,?,?)", columns)
        self._db.execute("COMMIT")

    def stored(self) -> Array:
        return from_table(
            self._db.execute("SELECT place, time_ms, person, rest FROM rows").fetchall()
        )

    def close(self) -> None:
        self._db.close()


class DuckRows(Store):
    name = "duckdb"
    note = "columns without an index, as it advises for loads; Arrow tables, a row by INSERT"

    # Below so many rows a prepared INSERT is the cheaper way.
    ARROW_LEAST = 8

    def __init__(self, groups: list[bytes], commits: int, folder: Path) -> None:
        super().__init__(groups, commits)
        self._arrow = peers.load("pyarrow")
        duckdb = peers.load("duckdb")
        folder.mkdir()
        config = {"threads": 2, "checkpoint_threshold": "256MB"}
        self._db = duckdb.connect(str(folder / "rows.duckdb"), config=config)
        self._db.execute(
            "CREATE TABLE rows(place UINTEGER, time_ms BIGINT, person BLOB, rest BLOB)"
        )

    def commit(self, i: int, rows: bytes) -> None:
        values = np.frombuffer(rows, ROW)
        if len(values) < self.ARROW_LEAST:
            some = zip(*to_columns(values), strict=True)
            self._db.execute("BEGIN")
            for row in some:
                self._db.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", row)
            self._db.execute("COMMIT")
            return
        arrow = self._arrow
        place, time_ms = (np.ascontiguousarray(values[name]) for name in ("place", "time_ms"))
        rest = to_rest(values).tobytes()
        persons = np.ascontiguousarray(values["person"]).tobytes()
        batch = arrow.table(
            {
                "place": place,
                "time_ms": time_ms,
                "person": _fixed(arrow, persons, len(values)),
                "rest": _fixed(arrow, rest, len(values)),
            }
        )
        self._db.register("batch", batch)
        self._db.execute("INSERT INTO rows SELECT * FROM batch")
        self._db.unregister("batch")

    def stored(self) -> Array:
        return from_table(
            self._db.execute("SELECT place, time_ms, person, rest FROM rows").fetchall()
        )

    def close(self) -> None:
        self._db.close()


class RocksRows(Store):
    name = "rocksdb"
    note = "two column families in order of place and person, one WriteBatch, WriteOptions.sync"

    def __init__(self, groups: list[bytes], commits: int, folder: Path) -> None:
        super().__init__(groups, commits)
        rocks = self._rocks = peers.load("rocksdict")
        options = rocks.Options(raw_mode=True)
        options.create_if_missing(True)
        options.increase_parallelism(2)
        self._db = rocks.Rdict(str(folder), options)
        names = ("place", "person")
        self._families = [
            self._db.create_column_family(name, rocks.Options(raw_mode=True)) for name in names
        ]
        self._handles = [self._db.get_column_family_handle(name) for name in names]
        self._durable = rocks.WriteOptions()
        self._durable.sync = True

    def commit(self, i: int, rows: bytes) -> None:
        values = np.frombuffer(rows, ROW)
        batch = self._rocks.WriteBatch(raw_mode=True)
        put, (by_place, by_person) = batch.put, self._handles
        first, second = to_keys(values, BY_PLACE), to_keys(values, BY_PERSON)
        for place, person, rest in zip(first, second, chop(to_rest(values)), strict=True):
            put(place, rest, by_place)
            put(person, b"", by_person)
        self._db.write(batch, self._durable)

    def stored(self) -> Array:
        by_place, by_person = self._families
        items = list(by_place.items())
        if len(list(by_person.keys())) != len(items):
            return np.zeros(0, ROW)
        return join(b"".join(key for key, _ in items), b"".join(value for _, value in items))

    def close(self) -> None:
        for family in self._families:
            family.close()
        self._db.close()


class PostgresRows(Store):
    name = "postgresql"
    note = f"primary key by place, an index by person, binary COPY, a row by INSERT; {PG_NOTE}"
    is_elsewhere = True

    COPY_LEAST = 8
    LAYOUT = np.dtype(
        [("fields", ">i2"), ("n0", ">i4"), ("place", ">i8"), ("n1", ">i4"), ("time_ms", ">i8"),
         ("n2", ">i4"), ("person", "V16"), ("n3", ">i4"), ("rest", f"V{REST.itemsize}")]
    )  # fmt: skip

    def __init__(self, groups: list[bytes], commits: int, servers: Servers) -> None:
        super().__init__(groups, commits)
        self._db = peers.load("psycopg").connect(servers.postgres(), autocommit=True)
        self._db.execute("DROP TABLE IF EXISTS rows")
        self._db.execute(
            "CREATE TABLE rows(place int8, time_ms int8, person bytea, rest bytea,"
            " PRIMARY KEY(place, time_ms, person))"
        )
        self._db.execute("CREATE INDEX by_person ON rows(person, time_ms, place)")

    def commit(self, i: int, rows: bytes) -> None:
        values = np.frombuffer(rows, ROW)
        if len(values) < self.COPY_LEAST:
            with self._db.transaction():
                for row in zip(*to_columns(values), strict=True):
                    self._db.execute("INSERT INTO rows VALUES (%b, %b, %b, %b)", row, prepare=True)
            return
        data = np.empty(len(values), self.LAYOUT)
        data["fields"], data["n0"], data["n1"], data["n2"] = 4, 8, 8, 16
        data["n3"] = REST.itemsize
        for name in ("place", "time_ms", "person"):
            data[name] = values[name]
        data["rest"] = to_rest(values).view(f"V{REST.itemsize}")
        with self._db.cursor().copy("COPY rows FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + data.tobytes() + b"\xff\xff")

    def stored(self) -> Array:
        cursor = self._db.cursor(binary=True)
        return from_table(
            cursor.execute("SELECT place, time_ms, person, rest FROM rows").fetchall()
        )

    def close(self) -> None:
        self._db.close()


class RedisRows(Store):
    name = "redis"
    note = f"a sorted set a place and a person, one MULTI a group; {REDIS_NOTE}"
    is_elsewhere = True

    def __init__(self, groups: list[bytes], commits: int, servers: Servers) -> None:
        super().__init__(groups, commits)
        self._db = peers.load("redis").Redis(unix_socket_path=servers.redis())
        self._db.flushall()

    def commit(self, i: int, rows: bytes) -> None:
        values = np.frombuffer(rows, ROW)
        places: dict[bytes, dict[bytes, int]] = defaultdict(dict)
        persons: dict[bytes, dict[bytes, int]] = defaultdict(dict)
        keys, times = to_keys(values, BY_PLACE), values["time_ms"].tolist()
        for key, time_ms, rest in zip(keys, times, chop(to_rest(values)), strict=True):
            places[b"l" + key[:4]][key[4:] + rest] = time_ms
            persons[b"p" + key[12:]][key[:12]] = time_ms
        with self._db.pipeline(transaction=True) as pipe:
            for name, members in (*places.items(), *persons.items()):
                pipe.zadd(name, members)
            pipe.execute()

    def stored(self) -> Array:
        keys, rests = [], []
        for name in self._db.scan_iter(match=b"l*", count=10_000):
            for member in self._db.zrange(name, 0, -1):
                keys.append(name[1:] + member[:24])
                rests.append(member[24:])
        return join(b"".join(keys), b"".join(rests))

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


def to_rest(rows: Array) -> Array:
    """REST: what the keys do not hold of a row."""
    rest = np.empty(len(rows), REST)
    for name in REST.names or ():
        rest[name] = rows[name]
    return rest


def to_columns(rows: Array) -> tuple[list[int], list[int], list[bytes], list[bytes]]:
    """Place, time, person and the rest, for SQL."""
    return (
        rows["place"].tolist(),
        rows["time_ms"].tolist(),
        chop(rows["person"]),
        chop(to_rest(rows)),
    )


def from_table(found: list[Any]) -> Array:
    """ROW of (place, time, person, rest)."""
    keys = np.zeros(len(found), BY_PLACE)
    keys["place"] = [row[0] for row in found]
    keys["time_ms"] = [row[1] for row in found]
    keys["person"] = np.frombuffer(b"".join(row[2] for row in found), "V16")
    return join(keys.tobytes(), b"".join(row[3] for row in found))


def _fixed(arrow: Any, data: bytes, count: int) -> Any:
    """An Arrow column of as many equal pieces, without a copy."""
    kind = arrow.binary(len(data) // count)
    return arrow.Array.from_buffers(kind, count, [None, arrow.py_buffer(data)])


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
