"""A seeded province: days of venue visits from which rows for the journal and the index are made.

Model: households of one to five live in cells of 2,000 people. A household makes trips one after
the other through the day, never two at once and at least REST_MS apart; its members come along or
stay at home, and those who come scan within seconds of each other. A trip goes to a venue of some
category, mostly one of the household's own cell, picked by a Zipf law so that a few venues are very
busy. Everybody checks in and out, so that what is true needs no rule to be derived: a VISIT is
[start_ms, end_ms), visits of one person never touch, and each is two rows.

The same seed gives the same bytes on every machine: numpy promises that for PCG64's integers and
doubles, and nothing else is drawn.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from engine.clock import HOUR_MS, MINUTE_MS, date_to_day, day_to_ms
from engine.scans.rows import NO_TEMPERATURE, ROW, Direction, Kind, Source

Array: TypeAlias = npt.NDArray[Any]

VISIT: Final = np.dtype(
    [
        ("start_ms", "<i8"),
        ("end_ms", "<i8"),
        ("person", "<u4"),  # dense number; Province.keys has the key
        ("place", "<u4"),  # from FIRST_PLACE on
    ]
)
FIRST_DAY: Final = date_to_day("2021-07-01")
FIRST_PLACE: Final = 1000
# Longer than any gap that joins two scans to one visit (engine.presence.visits), so that none is
# joined.
REST_MS: Final = 20 * MINUTE_MS
CELL_PEOPLE: Final = 2000
PEOPLE_PER_VENUE: Final = 16
TRIPS_MAX: Final = 6
# Visits a person and day, measured; only how many people a day needs depends on it.
VISITS_PER_PERSON: Final = 1.8

# category -> (share of trips, shortest stay, longest stay in minutes); the shape is in _stays_ms
CATEGORIES: Final = {
    "market": (0.28, 8, 70),
    "shop": (0.24, 3, 35),
    "eatery": (0.16, 15, 90),
    "office": (0.14, 120, 300),
    "bus": (0.12, 8, 75),
    "clinic": (0.06, 20, 150),
}


class Province:
    """People, households and venues; the same for every day of a run.

    people: how many. keys: their person keys, V16, all different.
    """

    def __init__(self, people: int, seed: int) -> None:
        if people < 10:
            raise ValueError("a province has at least 10 people")
        self.people = people
        self._seed = seed
        r = np.random.Generator(np.random.PCG64([seed, 0]))
        sizes = r.integers(1, 6, people)
        ends = np.cumsum(sizes)
        self.households = int(np.searchsorted(ends, people)) + 1
        self._size = sizes[: self.households]
        self._size[-1] -= ends[self.households - 1] - people
        self._first = np.cumsum(self._size) - self._size
        self._cell = self._first // CELL_PEOPLE
        self.venues = max(12, people // PEOPLE_PER_VENUE)
        shares = np.array([share for share, _, _ in CATEGORIES.values()])
        borders = np.round(np.cumsum(shares) * self.venues).astype(np.int64)
        self._venue_end = np.maximum(borders, np.arange(1, len(shares) + 1))
        self._venue_first = np.append(0, self._venue_end[:-1])
        raw = r.integers(0, 1 << 63, (people, 2), dtype=np.uint64)
        # The person's number in the low half of the first word keeps all keys apart.
        raw[:, 0] = (raw[:, 0] << np.uint64(32)) | np.arange(people, dtype=np.uint64)
        self.keys: Array = raw.astype("<u8").view("V16").ravel()

    def day(self, index: int) -> Array:
        """VISIT of one day, sorted by start. index: 0 is FIRST_DAY."""
        r = np.random.Generator(np.random.PCG64([self._seed, 1 + index]))
        trips = r.integers(1, TRIPS_MAX + 1, self.households)
        house = np.repeat(np.arange(self.households), trips)
        turn = np.arange(len(house)) - np.repeat(np.cumsum(trips) - trips, trips)
        category = np.searchsorted(
            np.cumsum([share for share, _, _ in CATEGORIES.values()]) - 1e-9, r.random(len(house))
        ).clip(0, len(CATEGORIES) - 1)
        place = self._venues_of(r, category, self._cell[house])
        stay_ms = _stays_ms(r, category)
        start_ms = self._starts_ms(r, house, turn, stay_ms)
        in_day = start_ms + stay_ms < 23 * HOUR_MS
        visits = self._members(r, house, place, start_ms, stay_ms, in_day)
        visits["start_ms"] += day_to_ms(FIRST_DAY + index)
        visits["end_ms"] += day_to_ms(FIRST_DAY + index)
        return visits[np.lexsort((visits["person"], visits["start_ms"]))]

    def _venues_of(self, r: np.random.Generator, category: Array, cell: Array) -> Array:
        """A rank by Zipf within the category; seven of ten count from a start of their own cell."""
        first = self._venue_first[category]
        count = self._venue_end[category] - first
        # The inverse of a Zipf law with exponent 1: ranks grow as (count + 1) ** u.
        rank = np.floor((count + 1.0) ** r.random(len(cell))).astype(np.int64) - 1
        is_local = r.random(len(cell)) < 0.7
        shift = np.where(is_local, cell * 7919, 0)
        places: Array = FIRST_PLACE + first + (rank + shift) % count
        return places

    def _starts_ms(
        self, r: np.random.Generator, house: Array, turn: Array, stay_ms: Array
    ) -> Array:
        """Each trip after the one before: the household's morning, stays so far, rests between."""
        rest_ms = REST_MS + r.integers(0, 3 * HOUR_MS, len(house))
        rest_ms[turn == 0] = 0
        before_ms = np.cumsum(rest_ms) + np.cumsum(stay_ms) - stay_ms
        begin_ms = before_ms[turn == 0]
        morning_ms = 5 * HOUR_MS + r.integers(0, 5 * HOUR_MS, self.households)
        starts_ms: Array = before_ms - begin_ms[house] + morning_ms[house]
        return starts_ms

    def _members(
        self,
        r: np.random.Generator,
        house: Array,
        place: Array,
        start_ms: Array,
        stay_ms: Array,
        in_day: Array,
    ) -> Array:
        """A VISIT for each member who comes along: one who leads, others three times of ten."""
        size = self._size[house]
        trip = np.repeat(np.arange(len(house)), size)
        rank = np.arange(len(trip)) - np.repeat(np.cumsum(size) - size, size)
        leader = r.integers(0, 60, len(house)) % size
        comes = (rank == leader[trip]) | (r.random(len(trip)) < 0.3)
        trip, rank = trip[comes & in_day[trip]], rank[comes & in_day[trip]]
        visits = np.zeros(len(trip), VISIT)
        visits["person"] = self._first[house[trip]] + rank
        visits["place"] = place[trip]
        # Apart by seconds at both ends, and far less than REST_MS, so that trips stay apart.
        visits["start_ms"] = start_ms[trip] + r.integers(0, 20_000, len(trip))
        visits["end_ms"] = start_ms[trip] + stay_ms[trip] - r.integers(0, 20_000, len(trip))
        return visits

    def rows(self, visits: Array, *, shuffle: bool = True) -> Array:
        """Two ROW a visit, in and out, in order of arrival.

        shuffle: a row in ten arrives up to two hours late, as from a gateway that was away.
        """
        rows = np.zeros(2 * len(visits), ROW)
        rows["person"] = np.tile(self.keys[visits["person"]], 2)
        rows["time_ms"] = np.concatenate([visits["start_ms"], visits["end_ms"]])
        rows["place"] = np.tile(visits["place"], 2)
        rows["direction"] = np.repeat([Direction.IN, Direction.OUT], len(visits)).astype(np.uint8)
        rows["kind"] = Kind.CHECKIN
        rows["source"] = Source.QR1405
        rows["temperature_cc"] = NO_TEMPERATURE
        arrival_ms = rows["time_ms"].copy()
        if shuffle:
            r = np.random.Generator(np.random.PCG64([self._seed, 1 << 32, len(visits)]))
            late = r.random(len(rows)) < 0.1
            arrival_ms[late] += r.integers(0, 2 * HOUR_MS, int(late.sum()))
        rows = rows[np.lexsort((rows["person"], rows["time_ms"], arrival_ms))]
        rows["n"] = np.arange(len(rows)) % 4096
        return rows


def _stays_ms(r: np.random.Generator, category: Array) -> Array:
    """Between shortest and longest, squared so that short stays are the most."""
    low = np.array([low for _, low, _ in CATEGORIES.values()])[category]
    high = np.array([high for _, _, high in CATEGORIES.values()])[category]
    minutes: Array = low + (high - low) * r.random(len(category)) ** 2
    return (minutes * MINUTE_MS).astype(np.int64)


def people_for(visits: int) -> int:
    """How many people give about so many visits a day."""
    return max(10, round(visits / VISITS_PER_PERSON))


def busy_day(visits: int, seed: int, index: int = 0) -> tuple[Province, Array]:
    """A province and one day of it with about so many visits."""
    province = Province(people_for(visits), seed)
    return province, province.day(index)
