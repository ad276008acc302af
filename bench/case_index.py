"""Index: rows of check-ins in order of arrival to visits that can be asked for.

Ours takes groups as the journal gives them, some rows hours late, derives visits and keeps them by
place and by person. The peers take the same rows into memory and pair them by SQL that knows what
this workload promises, that everybody checks in and out; then they build the same two orders.
Every visit of everybody must be the true one.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

import numpy as np

from bench import peers
from bench.case_contacts import GROUP_ROWS, Group
from bench.harness import Case, Contender, Params, Place, Round
from bench.row_stores import chop
from bench.workload import FIRST_PLACE, Array, Province, people_for
from engine.colocation.index import CoLocationIndex
from engine.presence.visits import PlaceRules
from engine.scans.rows import Direction

PAIRED: Final = (
    "SELECT person, place, time_ms AS start_ms, end_ms FROM (SELECT person, place, time_ms,"
    " direction, LEAD(time_ms) OVER (PARTITION BY person ORDER BY time_ms) AS end_ms FROM rows)"
    f" WHERE direction = {int(Direction.IN)}"
)
Stay = tuple[bytes, int, int, int]  # person, place, start, end


class Ours(Contender):
    name = "chot"
    note = "CoLocationIndex in memory, groups of 4,000 rows, a snapshot after each"

    def __init__(self, groups: list[Group], places: range) -> None:
        self._groups, self._places = groups, places
        self._index = CoLocationIndex(PlaceRules({}))

    def work(self, repetition: int) -> None:
        self._index = index = CoLocationIndex(PlaceRules({}))
        for group in self._groups:
            index.apply(group)
            index.snapshot()

    def answer(self) -> bytes:
        snapshot = self._index.snapshot()
        stays: list[Stay] = []
        for place in self._places:
            found = snapshot.venue(place, -(1 << 60), 1 << 60)
            keys = found.persons[found.visits["person"]].tolist()
            columns = (found.visits[name].tolist() for name in ("place", "start_ms", "end_ms"))
            stays += zip(keys, *columns, strict=True)
        return to_answer(stays)


class Sqlite(Contender):
    name = "sqlite"
    note = "in memory, executemany, LEAD over each person, two covering indexes"

    def __init__(self, groups: list[Group]) -> None:
        self._groups = [
            list(
                zip(chop(group.rows["person"]),
                    *(group.rows[name].tolist() for name in ("place", "time_ms", "direction")),
                    strict=True)
            )
            for group in groups
        ]  # fmt: skip
        self._db = sqlite3.connect(":memory:")

    def work(self, repetition: int) -> None:
        self._db.close()
        self._db = db = sqlite3.connect(":memory:", isolation_level=None)
        db.execute("CREATE TABLE rows(person BLOB, place INT, time_ms INT, direction INT)")
        for rows in self._groups:
            db.execute("BEGIN")
            db.executemany("INSERT INTO rows VALUES (?,?,?,?)", rows)
            db.execute("COMMIT")
        db.execute(f"CREATE TABLE visits AS {PAIRED}")
        db.execute("CREATE INDEX by_place ON visits(place, start_ms, person, end_ms)")
        db.execute("CREATE INDEX by_person ON visits(person, start_ms, place, end_ms)")

    def answer(self) -> bytes:
        return to_answer(self._db.execute("SELECT * FROM visits").fetchall())

    def close(self) -> None:
        self._db.close()


class Duck(Contender):
    name = "duckdb"
    note = "in memory, Arrow tables, LEAD over each person, visits sorted by place and by person"

    def __init__(self, groups: list[Group]) -> None:
        arrow, self._duckdb = peers.load("pyarrow"), peers.load("duckdb")
        self._batches = [
            arrow.table(
                {
                    "person": arrow.array(chop(group.rows["person"])),
                    **{
                        name: np.ascontiguousarray(group.rows[name])
                        for name in ("place", "time_ms", "direction")
                    },
                }
            )
            for group in groups
        ]
        self._db: Any = None

    def work(self, repetition: int) -> None:
        self.close()
        self._db = db = self._duckdb.connect(config={"threads": 2})
        db.execute("CREATE TABLE rows(person BLOB, place INT, time_ms BIGINT, direction INT)")
        for batch in self._batches:
            db.register("batch", batch)
            db.execute("INSERT INTO rows SELECT * FROM batch")
            db.unregister("batch")
        db.execute(f"CREATE TABLE visits AS {PAIRED} ORDER BY place, start_ms")
        db.execute("CREATE TABLE by_person AS SELECT * FROM visits ORDER BY person, start_ms")

    def answer(self) -> bytes:
        return to_answer(self._db.execute("SELECT * FROM visits").fetchall())

    def close(self) -> None:
        if self._db is not None:
            self._db.close()


def to_answer(stays: list[Stay]) -> bytes:
    return repr(sorted(stays)).encode()


def truth(province: Province, visits: Array) -> bytes:
    keys = [key.tobytes() for key in province.keys[visits["person"]]]
    columns = (visits[name].tolist() for name in ("place", "start_ms", "end_ms"))
    return to_answer(list(zip(keys, *columns, strict=True)))


def set_up(params: Params, place: Place) -> Round:
    province = Province(people_for(params["visits"] // params["days"]), place.seed)
    days = [province.day(index) for index in range(params["days"])]
    groups: list[Group] = []
    for some in days:
        rows = province.rows(some)
        for at in range(0, len(rows), GROUP_ROWS):
            groups.append(Group(len(groups) + 1, rows[at : at + GROUP_ROWS]))
    visits = np.concatenate(days)
    came, skipped = peers.invite({"sqlite": lambda: Sqlite(groups), "duckdb": lambda: Duck(groups)})
    contenders: list[Contender] = [
        Ours(groups, range(FIRST_PLACE, FIRST_PLACE + province.venues)),
        *came,
    ]
    facts: dict[str, int | str] = {"visits": len(visits), "people": province.people}
    count = sum(len(group.rows) for group in groups)
    return Round(contenders, count, truth(province, visits), facts, skipped=skipped)


CASE: Final = Case(
    name="index",
    what="rows to visits by place and by person, derived as they arrive, against SQL",
    unit="row",
    params={
        "smoke": {"visits": 3_000, "days": 2, "repetitions": 2},
        "small": {"visits": 50_000, "days": 7, "repetitions": 5},
        "large": {"visits": 1_000_000, "days": 14, "repetitions": 5},
    },
    set_up=set_up,
)
