"""`python -m bench questions`: p50 and p99 of each of a tracer's questions over so many visits.

Questions go to engine.tracing.tracer as the desk puts them, answers are packed as they leave the
engine; sockets, audit and JSON are not on the clock. Visits are those of bench.workload, each one
scan that tells its stay; the busiest places are posts, and whoever goes by bus names a plate. The
index has its days in files, as an engine's has, or with --memory is one layer. Tiers are asked for
in both ways of native.tiers: another answer is exit status 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench import results
from bench.case_contacts import Group
from bench.harness import SEED, commit, machine, path_to_file_system, versions
from bench.workload import CATEGORIES, FIRST_DAY, FIRST_PLACE, Province, people_for
from engine.api.csv_rows import rows_to_csv
from engine.clock import DAY_MS, HOUR_MS, MINUTE_MS, SystemClock, day_to_ms
from engine.colocation.index import CoLocationIndex, Snapshot
from engine.colocation.segmented import SegmentedIndex
from engine.colocation.segments_lmdb import LmdbSegments
from engine.identity.keys import FileKeyRing
from engine.presence.visits import Array, PlaceRule, PlaceRules
from engine.scans.rows import ROW, Direction, Kind
from engine.tracing import counts
from engine.tracing.notice import Mark, NoticeQuestion
from engine.tracing.pages import visits_at
from engine.tracing.passed import PassedQuestion
from engine.tracing.riders import VehicleQuestion
from engine.tracing.roll import Entry, RollQuestion
from engine.tracing.tiers import TiersQuestion
from engine.tracing.tracer import (
    ContactsQuestion,
    HistoryQuestion,
    Question,
    Tracer,
    VenueQuestion,
)
from native.tiers import find_tiers

GROUP_ROWS: Final = 1 << 16
POSTS: Final = 3
MARKS: Final = 50
ROLL_ROWS: Final = 10_000
CSV_ROWS: Final = 100_000
PROFILE: Final = "VN-2020-12"


@dataclass(frozen=True, slots=True)
class World:
    """A loaded index. busiest: places by visits, the first POSTS of them posts."""

    province: Province
    snapshot: Snapshot
    tracer: Tracer
    busiest: list[int]
    persons: list[bytes]
    plates: list[int]
    from_ms: int
    to_ms: int
    close: Callable[[], object]


def add_parser(actions: Any) -> None:
    words = actions.add_parser("questions", help="p50 and p99 of each of a tracer's questions")
    words.add_argument("--visits", type=int, default=1_000_000)
    words.add_argument("--days", type=int, default=14)
    words.add_argument("--reps", type=int, default=200, help="persons and places asked about")
    words.add_argument("--heavy", type=int, default=20, help="repetitions of what takes long")
    words.add_argument("--memory", action="store_true", help="one layer in memory, no files")


def run_words(chosen: argparse.Namespace) -> int:
    load = [round(value, 2) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory(prefix="chot-bench-") as scratch:
        folder = None if chosen.memory else Path(scratch)
        world = make_world(chosen.visits, chosen.days, chosen.reps, folder)
        gc.collect()
        figures = {
            name: measure(ask, count)
            for name, (ask, count) in questions(world, chosen.reps, chosen.heavy).items()
        }
        is_right = same_both_ways(world)
        line = {
            "bench": "questions", "visits": sum(len(t) for t in world.snapshot.tables),
            "people": world.province.people, "days": chosen.days,
            "in": "memory" if chosen.memory else "files",
            "us": {name: [round(p50, 1), round(p99, 1)] for name, (p50, p99) in figures.items()},
            "csv_rows_s": round(csv_rows_s(world)), "wrong": not is_right,
            "machine": {**machine(), "scratch": path_to_file_system(Path(scratch))},
            "versions": versions(), "commit": commit(), "load_average": load,
        }  # fmt: skip
        world.close()
    for name, (p50, p99) in figures.items():
        print(f"{name:<24} {p50 / 1e3:>12.3f} ms {p99 / 1e3:>12.3f} ms")
    print(json.dumps(line, ensure_ascii=False))
    if chosen.keep and is_right:
        results.keep(line)
    return 0 if is_right else 1


# ---- the world ----------------------------------------------------------------------------------


def make_world(visits: int, days: int, asked: int, folder: Path | None) -> World:
    province = Province(people_for(visits // days), SEED)
    r = np.random.Generator(np.random.PCG64([SEED, 7]))
    made = [province.day(day) for day in range(days)]
    count = np.bincount(np.concatenate([day["place"] for day in made]))
    busiest = np.argsort(-count)[: MARKS + POSTS].tolist()
    posts = {int(place): PlaceRule(True, 10 * MINUTE_MS) for place in busiest[:POSTS]}
    index, close = open_index(PlaceRules(posts), folder)
    lsn, plates = 0, []
    for day, some in enumerate(made):
        rows = to_rows(province, some, day)
        plates += np.unique(rows["vehicle"][rows["vehicle"] > 0])[:asked].tolist()
        for at in range(0, len(rows), GROUP_ROWS):
            lsn += 1
            index.apply(Group(lsn, rows[at : at + GROUP_ROWS]))
        index.snapshot()
        if isinstance(index, SegmentedIndex):
            index.catch_up()
    if isinstance(index, SegmentedIndex):
        index.write_down()
    else:
        index.compact()
    people = np.unique(np.concatenate([day["person"] for day in made]))
    keys = [province.keys[n].tobytes() for n in r.choice(people, min(asked, len(people)), False)]
    to_ms = day_to_ms(FIRST_DAY + days)
    return World(
        province, index.snapshot(), Tracer(index, SystemClock()), busiest, keys, plates,
        max(to_ms - 14 * DAY_MS, day_to_ms(FIRST_DAY)), to_ms, close,
    )  # fmt: skip


def open_index(
    places: PlaceRules, folder: Path | None
) -> tuple[CoLocationIndex, Callable[[], object]]:
    """An index in a folder, or in memory alone; what closes it."""
    if folder is None:
        return CoLocationIndex(places), lambda: None
    store = LmdbSegments(folder / "index", FileKeyRing(folder / "keys", create=True))
    index = SegmentedIndex(places, None, store)
    index.load()
    return index, store.close


def to_rows(province: Province, visits: Array, day: int) -> Array:
    """One check-in a visit, with its stay; a bus has another plate each hour."""
    rows = np.zeros(len(visits), ROW)
    rows["person"] = province.keys[visits["person"]]
    rows["time_ms"], rows["place"] = visits["start_ms"], visits["place"]
    rows["stay_ms"] = visits["end_ms"] - visits["start_ms"]
    rows["direction"], rows["kind"] = Direction.IN, Kind.CHECKIN
    rows["n"] = np.arange(len(rows)) % 4096
    is_bus = is_of(province, visits["place"], "bus")
    hour = (visits["start_ms"] - day_to_ms(FIRST_DAY + day)) // HOUR_MS
    plate = (visits["place"].astype(np.int64) * 24 + hour) % 1_000_003 + 1
    rows["vehicle"] = np.where(is_bus, plate, 0)
    return rows


def is_of(province: Province, places: Array, category: str) -> Array:
    at = list(CATEGORIES).index(category)
    low = FIRST_PLACE + int(province._venue_first[at])
    high = FIRST_PLACE + int(province._venue_end[at])
    mask: Array = (places >= low) & (places < high)
    return mask


# ---- asking -------------------------------------------------------------------------------------


def questions(world: World, reps: int, heavy: int) -> dict[str, tuple[Callable[[int], Any], int]]:
    """By name: what is asked the n-th time, and how often."""
    span: dict[str, Any] = {"from_ms": world.from_ms, "to_ms": world.to_ms}
    ask = world.tracer.ask

    def key(n: int) -> bytes:
        return world.persons[n % len(world.persons)]

    venues = world.busiest[POSTS:]

    def venue(n: int) -> Question:
        begun = world.from_ms + n * 7 % 24 * HOUR_MS
        return VenueQuestion(
            place=venues[n % len(venues)], from_ms=begun, to_ms=begun + 2 * HOUR_MS, limit=10_000
        )

    def notice(n: int, least: int) -> Question:
        marks = tuple(
            Mark(place, world.from_ms + (n + at) % 14 * DAY_MS, world.from_ms
                 + (n + at) % 14 * DAY_MS + 3 * HOUR_MS)
            for at, place in enumerate(venues[:MARKS])
        )  # fmt: skip
        return NoticeQuestion(marks=marks, least=least, limit=10_000)

    def tiers(n: int, depth: int) -> Question:
        return TiersQuestion(
            persons=[key(n)], profile=PROFILE, depth=depth, most=1 << 31, limit=1000, **span
        )

    entries = [Entry(sure=(world.province.keys[n % world.province.people].tobytes(),))
               for n in range(ROLL_ROWS)]  # fmt: skip
    area = frozenset(range(FIRST_PLACE, FIRST_PLACE + 1000))
    day: dict[str, Any] = {"from_ms": world.to_ms - DAY_MS, "to_ms": world.to_ms}
    return {
        "Q1 venue, 2 hours": (lambda n: ask(venue(n)), reps),
        "Q2 history": (
            lambda n: ask(HistoryQuestion(persons=[key(n)], limit=10_000, **span)),
            reps,
        ),
        "Q3 contacts": (
            lambda n: ask(ContactsQuestion(persons=[key(n)], profile=PROFILE, **span)),
            reps,
        ),
        "Q3 contacts, CWA": (
            lambda n: ask(ContactsQuestion(persons=[key(n)], profile="CWA", **span)),
            reps,
        ),
        "Q4 F1": (lambda n: ask(tiers(n, 1)), heavy),
        "Q4 F2": (lambda n: ask(tiers(n, 2)), heavy),
        "Q4 F3": (lambda n: ask(tiers(n, 3)), heavy),
        "Q4 F3, without links": (lambda n: find(world, n, 3, 0), heavy),
        "Q5 notice of 50 places": (lambda n: ask(notice(n, 1)), heavy),
        "Q6 passed, a day": (
            lambda n: ask(PassedQuestion(place=world.busiest[n % POSTS], limit=10_000, **day)),
            heavy,
        ),
        "Q6 came from an area": (
            lambda n: ask(
                PassedQuestion(place=world.busiest[n % POSTS], came_from=area, limit=10_000, **day)
            ),
            heavy,
        ),
        "Q7 vehicle, a day": (
            lambda n: ask(VehicleQuestion(vehicle=world.plates[n % len(world.plates)], **day)),
            heavy,
        ),
        "Q7 vehicle, 14 days": (
            lambda n: ask(VehicleQuestion(vehicle=world.plates[n % len(world.plates)], **span)),
            heavy,
        ),
        "Q8 at two of 50 places": (lambda n: ask(notice(n, 2)), heavy),
        "Q9 list of 10,000": (lambda n: ask(RollQuestion(lambda: entries, **span)), heavy),
        "Q12 counts of a day": (lambda n: count(world, n, 1), heavy),
        "Q12 counts of 14 days": (lambda n: count(world, n, 14), heavy),
    }


def find(world: World, n: int, depth: int, way: int) -> tuple[bytes, int]:
    """Tiers alone."""
    snapshot = world.snapshot
    case = np.array(snapshot.persons_of([world.persons[n % len(world.persons)]]), "<u4")
    return find_tiers(
        snapshot.tables, case.data, snapshot.count, snapshot.epoch, from_ms=world.from_ms,
        to_ms=world.to_ms, linger_ms=0, min_ms=15 * MINUTE_MS, window_ms=DAY_MS, latent_ms=0,
        depth=depth, most=1 << 31, way=way,
    )  # fmt: skip


def count(world: World, n: int, days: int) -> counts.Counted:
    end = world.to_ms - n % 2 * DAY_MS
    return counts.count(
        world.snapshot, end - days * DAY_MS, end, by="hour", limit=10_000_000,
        group=lambda places: places,
    )  # fmt: skip


def measure(ask: Callable[[int], Any], count: int) -> tuple[float, float]:
    """(p50, p99) in us; each question once to warm up."""
    for n in range(min(count, 20)):
        ask(n)
    took = []
    for n in range(count):
        begun_ns = time.perf_counter_ns()
        ask(n)
        took.append(time.perf_counter_ns() - begun_ns)
    p50, p99 = np.percentile(took, (50, 99))
    return float(p50) / 1e3, float(p99) / 1e3


def same_both_ways(world: World) -> bool:
    """Whether looking the infectious up and reading everything give the same tiers."""
    found = [sorted(np.frombuffer(find(world, 0, 3, way)[0], "V24").tolist()) for way in (1, 2)]
    return found[0] == found[1]


def csv_rows_s(world: World) -> float:
    """Rows of visits a second written down as CSV, what of persons and places is known once."""
    span = world.from_ms, world.to_ms
    found = [visits_at(world.snapshot, place, *span) for place in world.busiest]
    rows = np.concatenate(found)[:CSV_ROWS]
    rows["person"] %= 1000
    people = ["x" * 26 + ",Nguyễn Văn Bình,0912999001,cccd 045090999001"] * 1000
    places = {int(place): f"{place},Chợ Hồ Xá" for place in np.unique(rows["place"])}
    begun_s = time.perf_counter()
    rows_to_csv(rows, people, places, ("\r\n", "\r\n"))
    return len(rows) / (time.perf_counter() - begun_s)
