"""Dedup: was this person here a moment ago, at another post too soon, in two lanes at once?

Ours is native.dedup's table, a message of sightings at once. The peers keep the same sightings in
a dict of Python and in SQLite in memory, one scan after the other, and judge by the same spans.
Persons come again after seconds, minutes and hours, so that all three answers occur.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from typing import Final

import numpy as np

from bench.harness import Case, Contender, Params, Place, Round
from bench.workload import FIRST_DAY, Array
from engine.clock import HOUR_MS, MINUTE_MS, day_to_ms
from native.dedup import HERE, LANES, ROAD, SeenRules, SeenTable

WINDOW_MS: Final = 10 * MINUTE_MS
LANES_MS: Final = 2001
ROADS: Final = ((1, 2, 45 * MINUTE_MS),)
POSTS: Final = 4
NEAR_MS: Final = max(WINDOW_MS, *(least for _, _, least in ROADS))  # nothing older matters

SIGHTING: Final = np.dtype(
    [("person", "V16"), ("place", "<u4"), ("lane", "<u2"), ("time_ms", "<i8")]
)
Sighting = tuple[bytes, int, int, int]


def make_day(count: int, seed: int) -> Array:
    """SIGHTING by time over twelve hours: three of ten persons come again, at once or later."""
    r = np.random.Generator(np.random.PCG64([seed, 7]))
    first = np.zeros(count * 10 // 13, SIGHTING)
    first["person"] = r.integers(0, 1 << 63, (len(first), 2), dtype=np.uint64).view("V16").ravel()
    first["place"] = r.integers(1, POSTS + 1, len(first))
    first["lane"] = r.integers(1, 4, len(first))
    first["time_ms"] = day_to_ms(FIRST_DAY) + r.integers(0, 12 * HOUR_MS, len(first))
    again = first[r.choice(len(first), count - len(first), replace=False)]
    moves = r.integers(0, 3, len(again))
    again["lane"] = np.where(moves == 1, r.integers(1, 4, len(again)), again["lane"])
    again["place"] = np.where(moves == 2, r.integers(1, POSTS + 1, len(again)), again["place"])
    # A second, some minutes, an hour: the powers of sixty.
    again["time_ms"] += (1000 * 60.0 ** (2 * r.random(len(again)))).astype(np.int64)
    every = np.concatenate([first, again])
    return every[np.argsort(every["time_ms"], kind="stable")]


def judge(near: list[tuple[int, int, int]], place: int, lane: int, time_ms: int) -> int:
    """HERE, LANES and ROAD of a scan beside earlier ones, (place, lane, time) each."""
    flags = 0
    for other, other_lane, then_ms in near:
        apart = time_ms - then_ms
        if other == place:
            flags |= HERE if apart <= WINDOW_MS else 0
            flags |= LANES if other_lane != lane and apart < LANES_MS else 0
        else:
            pair = (min(place, other), max(place, other))
            flags |= ROAD if any(pair == (a, b) and apart < ms for a, b, ms in ROADS) else 0
    return flags


class Ours(Contender):
    name = "chot"
    note = "native.dedup, a table made anew each time, messages of sightings"

    def __init__(self, scans: Array, message: int) -> None:
        self._messages = [
            tuple(np.ascontiguousarray(some[name]).tobytes() for name in SIGHTING.names or ())
            for some in np.array_split(scans, max(1, len(scans) // message))
        ]
        self._answers: list[bytes] = []

    def work(self, repetition: int) -> None:
        rules = SeenRules(WINDOW_MS, LANES_MS, ROADS)
        table = SeenTable(hash_key=bytes(16))
        self._answers = [
            table.see(persons, places, lanes, times_ms, rules)
            for persons, places, lanes, times_ms in self._messages
        ]

    def answer(self) -> bytes:
        return b"".join(self._answers)


class Dict(Contender):
    name = "python dict"
    note = "a list of sightings a person, those out of reach dropped when it comes again"

    def __init__(self, scans: Array) -> None:
        self._scans: list[Sighting] = list(
            zip(*(scans[name].tolist() for name in SIGHTING.names or ()), strict=True)
        )
        self._answers = bytearray()

    def work(self, repetition: int) -> None:
        seen: dict[bytes, list[tuple[int, int, int]]] = defaultdict(list)
        self._answers = bytearray()
        for person, place, lane, time_ms in self._scans:
            near = [one for one in seen[person] if time_ms - one[2] <= NEAR_MS]
            self._answers.append(judge(near, place, lane, time_ms))
            near.append((place, lane, time_ms))
            seen[person] = near

    def answer(self) -> bytes:
        return bytes(self._answers)


class Sqlite(Dict):
    name = "sqlite"
    note = "in memory, one table WITHOUT ROWID by person and time, a SELECT and an INSERT a scan"

    def work(self, repetition: int) -> None:
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.execute(
            "CREATE TABLE seen(person BLOB, time_ms INT, place INT, lane INT, n INT,"
            " PRIMARY KEY(person, time_ms, n)) WITHOUT ROWID"
        )
        db.execute("BEGIN")
        self._answers = bytearray()
        near = "SELECT place, lane, time_ms FROM seen WHERE person = ? AND time_ms >= ?"
        for n, (person, place, lane, time_ms) in enumerate(self._scans):
            found = db.execute(near, (person, time_ms - NEAR_MS)).fetchall()
            self._answers.append(judge(found, place, lane, time_ms))
            db.execute("INSERT INTO seen VALUES (?,?,?,?,?)", (person, time_ms, place, lane, n))
        db.execute("COMMIT")
        db.close()


def set_up(params: Params, place: Place) -> Round:
    scans = make_day(params["scans"], place.seed)
    contenders: list[Contender] = [Ours(scans, params["message"]), Dict(scans), Sqlite(scans)]
    facts: dict[str, int | str] = {"persons": len(np.unique(scans["person"]))}
    return Round(contenders, len(scans), facts=facts)


CASE: Final = Case(
    name="dedup",
    what="sightings judged: seen here, in two lanes, faster than the road; against dict and SQLite",
    unit="scan",
    params={
        "smoke": {"scans": 3_000, "message": 64, "repetitions": 2},
        "small": {"scans": 50_000, "message": 64, "repetitions": 7},
        "large": {"scans": 500_000, "message": 64, "repetitions": 9},
    },
    set_up=set_up,
)
