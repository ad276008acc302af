"""Contacts: who met this person, for how long, over days of visits (Q3).

Ours is the index as the engine feeds it: rows of groups applied in order of arrival, visits derived
from them, one question after the other on a warm snapshot. Peers (bench.visit_stores) get the true
visits of the workload ready-made, sorted by place and by person. The oracle walks them in plain
Python. All must name the same persons with the same milliseconds.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench import peers, visit_stores
from bench.harness import Case, Contender, Params, Place, Round
from bench.visit_stores import VisitStore
from bench.workload import FIRST_DAY, Array, Province, people_for
from engine.clock import DAY_MS, MINUTE_MS, day_to_ms
from engine.colocation.found import Met
from engine.colocation.index import CoLocationIndex
from engine.presence.contacts import Tier
from engine.presence.visits import PlaceRules

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
        self.index = to_index(world, days)

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


class Asked(Contender):
    """A store of whole visits, asked the same."""

    def __init__(self, store: VisitStore, world: World) -> None:
        self.name, self.note, self.is_elsewhere = store.name, store.note, store.is_elsewhere
        self._store, self._world, self._keys = store, world, world.keys()
        self._found: list[dict[bytes, int]] = []

    def work(self, repetition: int) -> None:
        ask, from_ms, to_ms = self._store.contacts, self._world.from_ms, self._world.to_ms
        self._found = [ask(key, from_ms, to_ms, MIN_TOGETHER_MS) for key in self._keys]

    def answer(self) -> bytes:
        return met_to_answer(self._found)

    def close(self) -> None:
        self._store.close()


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


def to_index(world: World, days: list[Array]) -> CoLocationIndex:
    """As live: the index is asked every now and then, not once at the end."""
    index, lsn = CoLocationIndex(PlaceRules({})), 0
    for visits in days:
        rows = world.province.rows(visits)
        for at in range(0, len(rows), GROUP_ROWS):
            lsn += 1
            index.apply(Group(lsn, rows[at : at + GROUP_ROWS]))
        index.snapshot()
    return index


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
    stores, skipped = invite_stores(world, place)
    contenders: list[Contender] = [Ours(world, days), *(Asked(store, world) for store in stores)]
    return Round(contenders, params["questions"], expected, facts, skipped=skipped)


def invite_stores(world: World, place: Place) -> tuple[list[VisitStore], dict[str, str]]:
    """The stores that are there, with the visits in them."""
    visits, keys = world.visits, world.province.keys
    scratch, servers = place.scratch, place.servers
    return peers.invite(
        {
            "sqlite": lambda: visit_stores.Sqlite(visits, keys, scratch / "sqlite"),
            "numpy": lambda: visit_stores.Numpy(visits, keys),
            "py-lmdb": lambda: visit_stores.Lmdb(visits, keys, scratch / "lmdb"),
            "duckdb": lambda: visit_stores.Duck(visits, keys),
            "rocksdb": lambda: visit_stores.Rocks(visits, keys, scratch / "rocksdb"),
            "postgresql": lambda: visit_stores.Postgres(visits, keys, servers),
            "redis": lambda: visit_stores.Redis(visits, keys, servers),
        }
    )


CASE: Final = Case(
    name="contacts",
    what="who met this person in 14 days (Q3), against stores of whole visits",
    unit="question",
    params={
        "smoke": {"visits": 6_000, "days": 3, "questions": 10, "repetitions": 2},
        "small": {"visits": 100_000, "days": 14, "questions": 50, "repetitions": 7},
        "large": {"visits": 1_000_000, "days": 14, "questions": 200, "repetitions": 11},
    },
    set_up=set_up,
)
