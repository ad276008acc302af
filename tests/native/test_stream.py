"""native.stream against SipHash-2-4 step by step, and all that walks sealed rows by it."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from engine.presence.visits import VISIT, VisitFlag
from engine.tracing.tiers import TIERED
from native.columns import DayColumns
from native.contacts import find_contacts
from native.index import VisitTable, end_rows, end_visits, table_of
from native.links import find_links
from native.packing import pack_day
from native.stream import opened, opened_each
from native.tiers import find_tiers
from native.together import people_at, time_together, times_of
from native.walks import visits_in, visits_of_many
from tests.native.test_columns import aligned, siphash, sorted_visits

KEY = bytes(range(0xA0, 0xB0))
TOP = 0x7F << 56


def words_of(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(1 << 64) for _ in range(count)]


def packed(words: list[int]) -> bytes:
    return struct.pack(f"<{len(words)}Q", *words)


@pytest.mark.parametrize("count", [*range(20), 63, 64, 65, 200])
def test_words_are_opened_as_one_by_one(count: int) -> None:
    rng = random.Random(count)
    words = words_of(rng, count)
    for first in (0, 1, TOP, TOP + (1 << 32) - 2):
        numbers = range(first, first + count)
        expected = [
            word ^ siphash(KEY, struct.pack("<Q", number))
            for word, number in zip(words, numbers, strict=True)
        ]
        assert opened(KEY, first, packed(words)) == packed(expected)
        assert opened_each(KEY, packed([*numbers]), packed(words)) == packed(expected)
        assert opened(KEY, first, packed(expected)) == packed(words)
    numbers = words_of(rng, count)
    expected = [
        word ^ siphash(KEY, struct.pack("<Q", number))
        for word, number in zip(words, numbers, strict=True)
    ]
    assert opened_each(KEY, packed(numbers), packed(words)) == packed(expected)


def test_what_is_broken_is_refused() -> None:
    with pytest.raises(ValueError, match="broken size"):
        opened(b"short", 0, b"")
    with pytest.raises(ValueError, match="broken size"):
        opened(KEY, 0, bytes(9))
    with pytest.raises(ValueError, match="first is out of range"):
        opened(KEY, -1, b"")
    with pytest.raises(ValueError, match="not as many"):
        opened_each(KEY, bytes(8), bytes(16))


def random_visits(rng: random.Random, count: int, people: int) -> np.ndarray:
    """Many at one place, few at others; whoever has a vehicle, or stayed long, is odd."""
    visits = np.zeros(count, VISIT)
    odds = rng.choice([0, 2, 9])
    for at, row in enumerate(visits):
        start = at // people * 97 + rng.randrange(90)
        row["start_ms"] = start
        row["end_ms"] = start + rng.choice([0, 1, 30, 300])
        if odds and rng.randrange(10) < odds:
            row["vehicle"] = rng.choice([0, 7, 8])
            row["scans"] = rng.choice([0, 1, 31, 32])
            row["end_ms"] += rng.choice([0, 0, (1 << 32) - 300, (1 << 33)])
        else:
            row["scans"] = rng.randrange(1, 4)
        row["person"], row["ref"] = at % people, at + 1
        row["place"] = rng.choice([0, 1, 2, 2, 2, 2, 3])
        row["flags"] = VisitFlag.PASSAGE * (row["place"] == 0)
        row["room"] = rng.randrange(3)
    return visits


@pytest.mark.parametrize("seed", range(8))
def test_a_sealed_day_answers_as_its_visits_in_memory(seed: int) -> None:
    rng = random.Random(seed)
    people = 150
    visits = random_visits(rng, rng.choice([1, 64, 65, 700, 2000]), people)
    plain = VisitTable(visits)
    head, made = pack_day([plain], [], 0, -9, 1 << 32, KEY)
    day = DayColumns(head, aligned(made), KEY, None)
    sealed = table_of(day)
    ended = np.array(rng.sample(range(len(visits)), len(visits) // 9), "u4")
    endings = np.zeros(len(ended), [("start", "<i8"), ("person", "<u4"), ("place", "<u4")])
    for name, column in (("start", "start_ms"), ("person", "person"), ("place", "place")):
        endings[name] = visits[column][ended]
    endings = endings[np.lexsort((endings["start"], endings["place"], endings["person"]))]
    assert end_visits([plain], endings, 3) == len(ended)
    assert end_visits([sealed], endings, 3) == len(ended)
    keys = np.arange(people, dtype=">u8").repeat(2).tobytes()
    everyone = np.arange(people, dtype="<u4").data
    some = np.array([3, 77], "<u4").data
    span = {"from_ms": 50, "to_ms": 900, "linger_ms": 20, "latent_ms": 5}
    both = ([plain], [sealed])
    for epoch in (2, 3):
        for low, high in ((0, 1 << 40), (100, 101), (60, 500)):
            for place in range(5):
                assert plain.at_place(place, low, high, epoch) == sealed.at_place(
                    place, low, high, epoch
                )
                found = [people_at(one, place, low, high, keys, epoch) for one in both]
                assert found[0] == found[1]
            assert plain.begun(low, high, epoch) == sealed.begun(low, high, epoch)
            for vehicle in (7, 8):
                found = [sorted_visits(visits_in(one, vehicle, low, high, epoch)) for one in both]
                assert found[0] == found[1]
            found = [visits_of_many(one, everyone, low, high, epoch) for one in both]
            assert found[0] == found[1]
            for person in range(0, people, 31):
                found = [time_together(one, person, low, high, keys, epoch) for one in both]
                assert found[0] == found[1]
                found = [sorted(times_of(one, person, low, high, epoch)) for one in both]
                assert found[0] == found[1]
        case = visits_of_many([plain], some, 0, 900, epoch)
        found = [
            find_contacts(
                one, case, some, keys, epoch, linger_ms=9, queue_ms=2, min_ms=4, window_ms=300,
                limit=99,
            )
            for one in both
        ]  # fmt: skip
        assert found[0] == found[1]
        tiers = [
            find_tiers(
                one, some, people, epoch, **span, min_ms=25, window_ms=300, depth=3, most=999,
                way=way,
            )[0]
            for one in both
            for way in (1, 2)
        ]  # fmt: skip
        found = [sorted(np.frombuffer(one, TIERED).tolist()) for one in tiers]
        assert all(one == found[0] for one in found)
        found = [find_links(one, tiers[0], people, epoch, **span, most=1 << 20) for one in both]
        assert found[0] == found[1]
    marks = day.ended_rows(3)
    anew = table_of(DayColumns(head, aligned(made), KEY, None))
    end_rows(anew, marks, 3)
    assert anew.begun(0, 1 << 40, 3) == plain.begun(0, 1 << 40, 3)


@pytest.mark.parametrize("seed", range(12))
def test_a_person_is_found_wherever_among_the_others(seed: int) -> None:
    """Some have a visit and their neighbours hundreds; numbers are dense or far apart."""
    rng = random.Random(seed)
    spread = rng.choice([1, 3, 50, 1 << 20])
    people = [at * spread + rng.randrange(spread) for at in range(rng.choice([1, 7, 60, 400]))]
    heavy = rng.choice([2, 40, 300])
    rows = [n for n in people for _ in range(rng.choice([0, 1, 1, 2, rng.randrange(heavy)]))]
    rng.shuffle(rows)
    visits = np.zeros(len(rows), VISIT)
    visits["person"], visits["scans"] = rows, 1
    visits["start_ms"] = [rng.randrange(1000) for _ in rows]
    visits["end_ms"] = visits["start_ms"] + 5
    visits["place"], visits["ref"] = [rng.randrange(9) for _ in rows], np.arange(len(rows))
    plain = VisitTable(visits)
    head, made = pack_day([plain], [], 0, -9, 2000, KEY)
    sealed = table_of(DayColumns(head, aligned(made), KEY, None))
    asked = sorted({n + by for n in people for by in (-1, 0, 1) if n + by >= 0} | {(1 << 32) - 1})
    for person in asked:
        packed = np.array([person], "<u4").data
        found = visits_of_many([sealed], packed, 0, 2000, 0)
        assert found == visits_of_many([plain], packed, 0, 2000, 0)
        assert len(found) == VISIT.itemsize * rows.count(person)
    everyone = np.array(asked, "<u4").data
    assert visits_of_many([sealed, plain, sealed], everyone, 3, 900, 0) == visits_of_many(
        [plain, plain, plain], everyone, 3, 900, 0
    )


def test_odd_visits_have_to_be_as_many_as_the_rows_say() -> None:
    visits = random_visits(random.Random(1), 300, 40)
    visits["vehicle"][::7] = 9
    head, made = pack_day([VisitTable(visits)], [], 0, -9, 1 << 32, KEY)
    kinds = bytes(len(made["kinds"]))  # of rows that all are odd
    with pytest.raises(ValueError, match="not as many as its rows say"):
        DayColumns(head, aligned({**made, "kinds": kinds}), KEY, None)
