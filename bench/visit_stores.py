"""Stores beside the index that answer a tracer's questions over whole visits, ready-made.

Each has the visits in order of place and of person, and answers from memory: warm caches, no
commits. Whole visits that overlap a span count. `longest` bounds how far back one may have begun.
"""

from __future__ import annotations

import sqlite3
import struct
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np

from bench import peers
from bench.row_stores import chop
from bench.servers import PG_NOTE, REDIS_NOTE, Servers
from bench.workload import Array

Visits = list[tuple[int, int, int]]  # start, end, place

BY_PLACE: Final = np.dtype(
    [("place", ">u4"), ("start_ms", ">i8"), ("person", "V16"), ("end_ms", ">i8")]
)
BY_PERSON: Final = np.dtype(
    [("person", "V16"), ("start_ms", ">i8"), ("place", ">u4"), ("end_ms", ">i8")]
)
_PLACE: Final = struct.Struct(">Iq")
_TAIL: Final = struct.Struct(">qIq")  # of a key by person, behind the person


class VisitStore:
    """Visits of persons by key; all answers in any order."""

    name = ""
    note = ""
    is_elsewhere = False

    def __init__(self, visits: Array) -> None:
        self.longest = int((visits["end_ms"] - visits["start_ms"]).max()) + 1

    def present(self, place: int, from_ms: int, to_ms: int) -> set[bytes]:
        """Persons with a visit there that overlaps [from_ms, to_ms)."""
        raise NotImplementedError

    def history(self, person: bytes, from_ms: int, to_ms: int) -> Visits:
        raise NotImplementedError

    def contacts(self, person: bytes, from_ms: int, to_ms: int, least_ms: int) -> dict[bytes, int]:
        """Persons who were at least so long at the same places as the visits of `history`."""
        raise NotImplementedError

    def close(self) -> None: ...


def to_table(visits: Array, keys: Array, layout: np.dtype[Any]) -> Array:
    """The visits in one of the two layouts, sorted as bytes."""
    table = np.zeros(len(visits), layout)
    table["person"] = keys[visits["person"]]
    for name in ("place", "start_ms", "end_ms"):
        table[name] = visits[name]
    order = np.argsort(np.frombuffer(table.tobytes(), f"S{table.itemsize}"), kind="stable")
    return table[order]


# ---- SQL ----------------------------------------------------------------------------------------


class Sql(VisitStore):
    """What is the same in every SQL: three questions with the longest stay as a bound."""

    LEAST, GREATEST = "LEAST", "GREATEST"

    def mark(self, name: str) -> str:
        """A parameter by name."""
        raise NotImplementedError

    def ask(self, question: str, parameters: dict[str, Any]) -> list[Any]:
        raise NotImplementedError

    def prepare(self) -> None:
        """The texts of the questions."""
        m = self.mark
        span = f"start_ms < {m('to_ms')} AND start_ms > {m('low_ms')} AND end_ms > {m('from_ms')}"
        self._present = f"SELECT DISTINCT person FROM visits WHERE place = {m('place')} AND {span}"
        self._history = (
            f"SELECT start_ms, end_ms, place FROM visits WHERE person = {m('person')} AND {span}"
        )
        together = (
            f"SUM({self.LEAST}(a.end_ms, b.end_ms) - {self.GREATEST}(a.start_ms, b.start_ms))"
        )
        mine = span.replace("start_ms <", "a.start_ms <").replace("start_ms >", "a.start_ms >")
        self._contacts = (
            f"SELECT b.person, {together} FROM visits a JOIN visits b ON b.place = a.place"
            f" AND b.start_ms < a.end_ms AND b.start_ms > a.start_ms - {m('longest')}"
            " AND b.end_ms > a.start_ms AND b.person <> a.person"
            f" WHERE a.person = {m('person')} AND {mine.replace('end_ms >', 'a.end_ms >')}"
            f" GROUP BY b.person HAVING {together} >= {m('least_ms')}"
        )

    def _span(self, from_ms: int, to_ms: int) -> dict[str, Any]:
        return {"from_ms": from_ms, "to_ms": to_ms, "low_ms": from_ms - self.longest}

    def present(self, place: int, from_ms: int, to_ms: int) -> set[bytes]:
        found = self.ask(self._present, {"place": place, **self._span(from_ms, to_ms)})
        return {row[0] for row in found}

    def history(self, person: bytes, from_ms: int, to_ms: int) -> Visits:
        return self.ask(self._history, {"person": person, **self._span(from_ms, to_ms)})

    def contacts(self, person: bytes, from_ms: int, to_ms: int, least_ms: int) -> dict[bytes, int]:
        asked = {"person": person, "longest": self.longest, "least_ms": least_ms}
        found = self.ask(self._contacts, {**asked, **self._span(from_ms, to_ms)})
        return {person: int(together) for person, together in found}


class Sqlite(Sql):
    name = "sqlite"
    note = "two covering orders, longest stay as bound, mmap, warm, ANALYZE"
    LEAST, GREATEST = "MIN", "MAX"

    def __init__(self, visits: Array, keys: Array, folder: Path) -> None:
        super().__init__(visits)
        folder.mkdir()
        self._db = sqlite3.connect(folder / "visits.db", isolation_level=None)
        for pragma in ("cache_size=-524288", "mmap_size=8000000000", "temp_store=MEMORY"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(
            "CREATE TABLE visits(place INT, start_ms INT, person BLOB, end_ms INT,"
            " PRIMARY KEY(place, start_ms, person)) WITHOUT ROWID"
        )
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO visits VALUES(?,?,?,?)", to_rows(visits, keys))
        self._db.execute("CREATE INDEX by_person ON visits(person, start_ms, place, end_ms)")
        self._db.execute("COMMIT")
        self._db.execute("ANALYZE")
        self.prepare()

    def mark(self, name: str) -> str:
        return f":{name}"

    def ask(self, question: str, parameters: dict[str, Any]) -> list[Any]:
        return self._db.execute(question, parameters).fetchall()

    def close(self) -> None:
        self._db.close()


class Duck(Sql):
    name = "duckdb"
    note = "one table sorted by place and start, an index by person, in memory, two threads"

    def __init__(self, visits: Array, keys: Array) -> None:
        super().__init__(visits)
        arrow = peers.load("pyarrow")
        self._db = peers.load("duckdb").connect(config={"threads": 2})
        table = to_table(visits, keys, BY_PLACE)
        columns = {
            name: table[name].astype(kind)
            for name, kind in (("place", "<u4"), ("start_ms", "<i8"), ("end_ms", "<i8"))
        }
        batch = arrow.table({**columns, "person": arrow.array(chop(table["person"]))})
        self._db.register("batch", batch)
        self._db.execute("CREATE TABLE visits AS SELECT * FROM batch")
        self._db.unregister("batch")
        self._db.execute("CREATE INDEX by_person ON visits(person)")
        self.prepare()

    def mark(self, name: str) -> str:
        return f"${name}"

    def ask(self, question: str, parameters: dict[str, Any]) -> list[Any]:
        found: list[Any] = self._db.execute(question, parameters).fetchall()
        return found

    def close(self) -> None:
        self._db.close()


class Postgres(Sql):
    name = "postgresql"
    note = f"two covering indexes, longest stay as bound, prepared, VACUUM ANALYZE; {PG_NOTE}"
    is_elsewhere = True

    def __init__(self, visits: Array, keys: Array, servers: Servers) -> None:
        super().__init__(visits)
        self._db = peers.load("psycopg").connect(servers.postgres(), autocommit=True)
        self._db.execute("DROP TABLE IF EXISTS visits")
        self._db.execute(
            "CREATE TABLE visits(place int8, start_ms int8, person bytea, end_ms int8)"
        )
        with self._db.cursor().copy("COPY visits FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "int8", "bytea", "int8"])
            for row in to_rows(visits, keys):
                copy.write_row(row)
        self._db.execute("CREATE INDEX ON visits(place, start_ms) INCLUDE (person, end_ms)")
        self._db.execute("CREATE INDEX ON visits(person, start_ms) INCLUDE (place, end_ms)")
        self._db.execute("VACUUM ANALYZE visits")
        self._cursor = self._db.cursor(binary=True)
        self.prepare()

    def mark(self, name: str) -> str:
        return f"%({name})s"

    def ask(self, question: str, parameters: dict[str, Any]) -> list[Any]:
        found: list[Any] = self._cursor.execute(question, parameters, prepare=True).fetchall()
        return found

    def close(self) -> None:
        self._db.close()


def to_rows(visits: Array, keys: Array) -> Iterable[tuple[int, int, bytes, int]]:
    persons = [key.tobytes() for key in keys[visits["person"]]]
    return zip(
        visits["place"].tolist(), visits["start_ms"].tolist(), persons,
        visits["end_ms"].tolist(), strict=True,
    )  # fmt: skip


# ---- keys and values ----------------------------------------------------------------------------


class Ordered(VisitStore):
    """What is the same in every store of ordered keys: spans of two orders, walked in Python."""

    def span(self, order: str, low: bytes, high: bytes) -> Iterable[bytes]:
        """Keys of `place` or `person` in [low, high)."""
        raise NotImplementedError

    def _at(self, place: int, from_ms: int, to_ms: int) -> Iterable[tuple[int, int, bytes]]:
        """(start, end, person) of visits overlapping a span."""
        low, high = _PLACE.pack(place, from_ms - self.longest), _PLACE.pack(place, to_ms)
        for key in self.span("place", low, high):
            end_ms = int.from_bytes(key[28:36], "big")
            if end_ms > from_ms:
                yield int.from_bytes(key[4:12], "big"), end_ms, key[12:28]

    def present(self, place: int, from_ms: int, to_ms: int) -> set[bytes]:
        return {person for _, _, person in self._at(place, from_ms, to_ms)}

    def history(self, person: bytes, from_ms: int, to_ms: int) -> Visits:
        low = person + (from_ms - self.longest).to_bytes(8, "big")
        found = []
        for key in self.span("person", low, person + to_ms.to_bytes(8, "big")):
            start_ms, place, end_ms = _TAIL.unpack_from(key, 16)
            if end_ms > from_ms:
                found.append((start_ms, end_ms, place))
        return found

    def contacts(self, person: bytes, from_ms: int, to_ms: int, least_ms: int) -> dict[bytes, int]:
        together: dict[bytes, int] = defaultdict(int)
        for start_ms, end_ms, place in self.history(person, from_ms, to_ms):
            for begun_ms, ended_ms, other in self._at(place, start_ms, end_ms):
                together[other] += min(end_ms, ended_ms) - max(start_ms, begun_ms)
        together.pop(person, None)
        return {other: ms for other, ms in together.items() if ms >= least_ms}


class Lmdb(Ordered):
    name = "py-lmdb"
    note = "an entry a visit in two orders, cursors, walked in Python"

    def __init__(self, visits: Array, keys: Array, folder: Path) -> None:
        super().__init__(visits)
        folder.mkdir()
        self._env = lmdb.open(str(folder), map_size=1 << 36, max_dbs=2, sync=False)
        self._orders = {}
        for order, layout in (("place", BY_PLACE), ("person", BY_PERSON)):
            self._orders[order] = self._env.open_db(order.encode())
            entries = ((key, b"") for key in chop(to_table(visits, keys, layout)))
            with self._env.begin(write=True) as txn:
                txn.cursor(self._orders[order]).putmulti(entries, append=True)

    def span(self, order: str, low: bytes, high: bytes) -> Iterable[bytes]:
        with self._env.begin() as txn:
            cursor = txn.cursor(self._orders[order])
            if cursor.set_range(low):
                for key in cursor.iternext(values=False):
                    if key >= high:
                        break
                    yield key

    def close(self) -> None:
        self._env.close()


class Rocks(Ordered):
    name = "rocksdb"
    note = "two column families, compacted, iterators, walked in Python"

    def __init__(self, visits: Array, keys: Array, folder: Path) -> None:
        super().__init__(visits)
        rocks = peers.load("rocksdict")
        options = rocks.Options(raw_mode=True)
        options.create_if_missing(True)
        self._db = rocks.Rdict(str(folder), options)
        self._orders = {}
        for order, layout in (("place", BY_PLACE), ("person", BY_PERSON)):
            family = self._db.create_column_family(order, rocks.Options(raw_mode=True))
            batch = rocks.WriteBatch(raw_mode=True)
            handle = self._db.get_column_family_handle(order)
            for key in chop(to_table(visits, keys, layout)):
                batch.put(key, b"", handle)
            self._db.write(batch)
            family.flush()
            family.compact_range(None, None)
            self._orders[order] = family

    def span(self, order: str, low: bytes, high: bytes) -> Iterable[bytes]:
        for key in self._orders[order].keys(from_key=low):
            if key >= high:
                break
            yield key

    def close(self) -> None:
        for family in self._orders.values():
            family.close()
        self._db.close()


class Redis(Ordered):
    name = "redis"
    note = f"a sorted set a place and a person, ZRANGE BYSCORE, walked in Python; {REDIS_NOTE}"
    is_elsewhere = True

    def __init__(self, visits: Array, keys: Array, servers: Servers) -> None:
        super().__init__(visits)
        self._db = peers.load("redis").Redis(unix_socket_path=servers.redis())
        self._db.flushall()
        heads = {"place": 4, "person": 16}
        for order, layout in (("place", BY_PLACE), ("person", BY_PERSON)):
            sets: dict[bytes, dict[bytes, int]] = defaultdict(dict)
            head = heads[order]
            for key in chop(to_table(visits, keys, layout)):
                sets[key[:head]][key[head:]] = int.from_bytes(key[head : head + 8], "big")
            with self._db.pipeline(transaction=False) as pipe:
                for name, members in sets.items():
                    pipe.zadd(order.encode() + name, members)
                pipe.execute()
        self._heads = heads

    def span(self, order: str, low: bytes, high: bytes) -> Iterable[bytes]:
        head = low[: self._heads[order]]
        first, last = (int.from_bytes(key[len(head) :], "big") for key in (low, high))
        found = self._db.zrange(order.encode() + head, first, f"({last}", byscore=True)
        return [head + member for member in found]

    def close(self) -> None:
        self._db.close()


# ---- columns ------------------------------------------------------------------------------------


class Numpy(VisitStore):
    name = "numpy"
    note = "columns sorted by place and start, binary search a visit; no rows, no live inserts"

    def __init__(self, visits: Array, keys: Array) -> None:
        super().__init__(visits)
        visits = visits[np.lexsort((visits["start_ms"], visits["place"]))]
        self._keys = keys
        self._numbers = {key: n for n, key in enumerate(keys.tolist())}
        names = ("start_ms", "end_ms", "person", "place")
        self._start, self._end, self._person, self._place = (
            np.ascontiguousarray(visits[name]) for name in names
        )
        self._places, self._first = np.unique(self._place, return_index=True)
        self._first = np.append(self._first, len(visits))
        self._order = np.argsort(self._person, kind="stable")
        self._sorted = self._person[self._order]

    def _near(self, place: int, from_ms: int, to_ms: int) -> tuple[slice, Array]:
        """Visits at a place that may overlap a span, and which of them do."""
        at = int(np.searchsorted(self._places, place))
        if at == len(self._places) or self._places[at] != place:
            return slice(0, 0), np.zeros(0, bool)
        begin, stop = self._first[at], self._first[at + 1]
        bounds = begin + np.searchsorted(
            self._start[begin:stop], [from_ms - self.longest, to_ms], "left"
        )
        span = slice(int(bounds[0]), int(bounds[1]))
        return span, self._end[span] > from_ms

    def _mine(self, person: bytes, from_ms: int, to_ms: int) -> Array:
        number = self._numbers.get(person, -1)
        low, high = np.searchsorted(self._sorted, [number, number + 1])
        mine = self._order[low:high]
        found: Array = mine[(self._start[mine] < to_ms) & (self._end[mine] > from_ms)]
        return found

    def present(self, place: int, from_ms: int, to_ms: int) -> set[bytes]:
        span, overlaps = self._near(place, from_ms, to_ms)
        return set(self._keys[self._person[span][overlaps]].tolist())

    def history(self, person: bytes, from_ms: int, to_ms: int) -> Visits:
        mine = self._mine(person, from_ms, to_ms)
        columns = (self._start[mine], self._end[mine], self._place[mine])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def contacts(self, person: bytes, from_ms: int, to_ms: int, least_ms: int) -> dict[bytes, int]:
        number = self._numbers.get(person, -1)
        who, together = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
        for mine in self._mine(person, from_ms, to_ms).tolist():
            start, end = self._start[mine], self._end[mine]
            span, overlaps = self._near(int(self._place[mine]), int(start), int(end))
            overlap = np.minimum(self._end[span], end) - np.maximum(self._start[span], start)
            hit = overlaps & (self._person[span] != number)
            who.append(self._person[span][hit])
            together.append(overlap[hit])
        people, inverse = np.unique(np.concatenate(who), return_inverse=True)
        total = np.zeros(len(people), np.int64)
        np.add.at(total, inverse, np.concatenate(together))
        keep = total >= least_ms
        keys = self._keys[people[keep]].tolist()
        return dict(zip(keys, total[keep].tolist(), strict=True))
