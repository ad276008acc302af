"""Contacts: who met this person, for how long, over days of visits (Q3).

Ours is the index as the engine feeds it: rows of groups applied in order of arrival, visits derived
from them, one question after the other on a warm snapshot. SQLite and plain numpy get the true
visits of the workload ready-made, sorted by place and by person. The oracle walks them in plain
Python. All must name the same persons with the same milliseconds.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.harness import Case, Contender, Params, Place, Round
from bench.workload import FIRST_DAY, Array, Province, people_for
from engine.clock import DAY_MS, MINUTE_MS, day_to_ms
from engine.contacts import Tier
from engine.found import Met
from engine.index import CoLocationIndex
from engine.visits import PlaceRules

MIN_TOGETHER_MS: Final = 15 * MINUTE_MS
GROUP_ROWS: Final = 4000


@dataclass(frozen=True, slots=True)
class Group:
    """What the index reads of a journal group."""

    lsn: int
    rows: Array


@dataclass(frozen=True, slots=True)
class World:
    """Visits of some days, and the questions: persons asked about, and one span for all."""

    province: Province
    visits: Array
    asked: list[int]
    from_ms: int
    to_ms: int

    def keys(self) -> list[bytes]:
        return [self.province.keys[person].tobytes() for person in self.asked]


class Ours(Contender):
    name = "chot"
    note = "CoLocationIndex.contacts, visits derived from rows, pairs and ranks included"

    def __init__(self, world: World, days: list[Array]) -> None:
        self._world = world
        self._keys = world.keys()
        self._met: list[Met] = []
        self.index = CoLocationIndex(PlaceRules({}))
        lsn = 0
        for visits in days:
            rows = world.province.rows(visits)
            for at in range(0, len(rows), GROUP_ROWS):
                lsn += 1
                self.index.apply(Group(lsn, rows[at : at + GROUP_ROWS]))
            # As live: the index is asked every now and then, not once at the end.
            self.index.snapshot()

    def work(self, repetition: int) -> None:
        world, snapshot = self._world, self.index.snapshot()
        self._met = [
            snapshot.contacts(
                [key],
                world.from_ms,
                world.to_ms,
                min_overlap_ms=MIN_TOGETHER_MS,
                window_ms=world.to_ms - world.from_ms + DAY_MS,
            )
            for key in self._keys
        ]

    def answer(self) -> bytes:
        found = []
        for met in self._met:
            is_candidate = met.contacts["tier"] == Tier.CANDIDATE
            keys = met.persons[is_candidate].tolist()
            times = met.contacts["overlap_ms"][is_candidate].tolist()
            found.append(dict(zip(keys, times, strict=True)))
        return met_to_answer(found)


class Sqlite(Contender):
    name = "sqlite"
    note = "two covering orders, longest stay as bound, mmap, warm, ANALYZE"

    QUESTION = (
        "SELECT b.person, SUM(MIN(a.end_ms, b.end_ms) - MAX(a.start_ms, b.start_ms)) AS together"
        " FROM visits a JOIN visits b ON b.place = a.place AND b.start_ms < a.end_ms"
        " AND b.start_ms > a.start_ms - :longest AND b.end_ms > a.start_ms AND b.person <> a.person"
        " WHERE a.person = :person AND a.start_ms < :to_ms AND a.start_ms > :from_ms - :longest"
        " AND a.end_ms > :from_ms GROUP BY b.person HAVING together >= :least"
    )

    def __init__(self, world: World, folder: Path) -> None:
        visits = world.visits
        self._parameters = {
            "from_ms": world.from_ms,
            "to_ms": world.to_ms,
            "longest": int((visits["end_ms"] - visits["start_ms"]).max()) + 1,
            "least": MIN_TOGETHER_MS,
        }
        self._keys = world.keys()
        self._found: list[list[Any]] = []
        folder.mkdir()
        self._db = sqlite3.connect(folder / "visits.db", isolation_level=None)
        for pragma in ("cache_size=-524288", "mmap_size=8000000000", "temp_store=MEMORY"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(
            "CREATE TABLE visits(place INT, start_ms INT, person BLOB, end_ms INT,"
            " PRIMARY KEY(place, start_ms, person)) WITHOUT ROWID"
        )
        keys = [key.tobytes() for key in world.province.keys[visits["person"]]]
        columns = (visits["place"].tolist(), visits["start_ms"].tolist(), keys,
                   visits["end_ms"].tolist())  # fmt: skip
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO visits VALUES(?,?,?,?)", zip(*columns, strict=True))
        self._db.execute("CREATE INDEX by_person ON visits(person, start_ms, place, end_ms)")
        self._db.execute("COMMIT")
        self._db.execute("ANALYZE")

    def work(self, repetition: int) -> None:
        ask, parameters = self._db.execute, self._parameters
        self._found = [
            ask(self.QUESTION, {**parameters, "person": key}).fetchall() for key in self._keys
        ]

    def answer(self) -> bytes:
        return met_to_answer([dict(rows) for rows in self._found])

    def close(self) -> None:
        self._db.close()


class Numpy(Contender):
    name = "numpy"
    note = "columns sorted by place and start, binary search a visit; no rows, no live inserts"

    def __init__(self, world: World) -> None:
        self._world = world
        visits = world.visits[np.lexsort((world.visits["start_ms"], world.visits["place"]))]
        self._start = np.ascontiguousarray(visits["start_ms"])
        self._end = np.ascontiguousarray(visits["end_ms"])
        self._person = np.ascontiguousarray(visits["person"])
        place = np.ascontiguousarray(visits["place"])
        self._places, self._first = np.unique(place, return_index=True)
        self._first = np.append(self._first, len(visits))
        self._place = place
        self._longest = int((self._end - self._start).max()) + 1
        self._order = np.argsort(self._person, kind="stable")
        self._sorted = self._person[self._order]
        self._found: list[tuple[Array, Array]] = []

    def work(self, repetition: int) -> None:
        self._found = [self._ask(person) for person in self._world.asked]

    def _ask(self, person: int) -> tuple[Array, Array]:
        low, high = np.searchsorted(self._sorted, [person, person + 1])
        who, together = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
        for mine in self._order[low:high].tolist():
            start, end = self._start[mine], self._end[mine]
            if start >= self._world.to_ms or end <= self._world.from_ms:
                continue
            at = int(np.searchsorted(self._places, self._place[mine]))
            begin, stop = self._first[at], self._first[at + 1]
            near = begin + np.searchsorted(
                self._start[begin:stop], [start - self._longest, end], "left"
            )
            span = slice(int(near[0]), int(near[1]))
            overlap = np.minimum(self._end[span], end) - np.maximum(self._start[span], start)
            hit = (overlap > 0) & (self._person[span] != person)
            who.append(self._person[span][hit])
            together.append(overlap[hit])
        people, inverse = np.unique(np.concatenate(who), return_inverse=True)
        total = np.zeros(len(people), np.int64)
        np.add.at(total, inverse, np.concatenate(together))
        keep = total >= MIN_TOGETHER_MS
        return people[keep], total[keep]

    def answer(self) -> bytes:
        keys = self._world.province.keys
        return met_to_answer(
            [
                dict(zip(keys[people].tolist(), total.tolist(), strict=True))
                for people, total in self._found
            ]
        )


def oracle(world: World) -> bytes:
    """The plain way: every visit of the person against every visit at its place."""
    by_place: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    by_person: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    asked = set(world.asked)
    columns = (world.visits[name].tolist() for name in ("person", "place", "start_ms", "end_ms"))
    for person, place, start, end in zip(*columns, strict=True):
        by_place[place].append((person, start, end))
        if person in asked:
            by_person[person].append((place, start, end))
    found = []
    for person in world.asked:
        together: dict[int, int] = defaultdict(int)
        for place, start, end in by_person[person]:
            if start < world.to_ms and end > world.from_ms:
                for other, begun, ended in by_place[place]:
                    overlap = min(end, ended) - max(start, begun)
                    if overlap > 0 and other != person:
                        together[other] += overlap
        keys = world.province.keys
        least = MIN_TOGETHER_MS
        found.append({keys[who].tobytes(): ms for who, ms in together.items() if ms >= least})
    return met_to_answer(found)


def met_to_answer(found: list[dict[bytes, int]]) -> bytes:
    """Of each question the persons by key with their milliseconds."""
    return json.dumps(
        [sorted((key.hex(), ms) for key, ms in met.items()) for met in found]
    ).encode()


def make_world(params: Params, seed: int) -> tuple[World, list[Array]]:
    """The world, and its visits by day."""
    province = Province(people_for(params["visits"] // params["days"]), seed)
    days = [province.day(index) for index in range(params["days"])]
    visits = np.concatenate(days)
    r = np.random.Generator(np.random.PCG64([seed, 1 << 40]))
    asked = r.choice(np.unique(visits["person"]), params["questions"], replace=False).tolist()
    span_days = min(14, params["days"])
    to_ms = day_to_ms(FIRST_DAY + params["days"])
    return World(province, visits, asked, to_ms - span_days * DAY_MS, to_ms), days


def set_up(params: Params, place: Place) -> Round:
    world, days = make_world(params, place.seed)
    expected = oracle(world)
    contacts = sum(len(met) for met in json.loads(expected))
    facts: dict[str, int | str] = {
        "visits": len(world.visits),
        "people": world.province.people,
        "places": world.province.venues,
        "contacts_per_question": round(contacts / params["questions"]),
    }
    contenders = [Ours(world, days), Sqlite(world, place.scratch / "sqlite"), Numpy(world)]
    return Round(contenders, params["questions"], expected, facts)


CASE: Final = Case(
    name="contacts",
    what="who met this person in 14 days (Q3), against SQLite and plain numpy",
    unit="question",
    params={
        "smoke": {"visits": 6_000, "days": 3, "questions": 10, "repetitions": 2},
        "small": {"visits": 100_000, "days": 14, "questions": 50, "repetitions": 7},
        "large": {"visits": 1_000_000, "days": 14, "questions": 200, "repetitions": 11},
    },
    set_up=set_up,
)
