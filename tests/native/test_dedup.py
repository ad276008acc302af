"""native.dedup against its twin: spans, roads, any order, growth, collisions, limits, threads."""

from __future__ import annotations

import functools
import itertools
import operator
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import native
from native import cpu, dedup
from native.dedup import SeenRules, SeenTable
from tests.reference.native_dedup import HERE, LANES, PERSON_MAX, ROAD, Roads, Scan, SeenList

NO_KEY = bytes(16)
I64 = (-(2**63), 2**63 - 1)


def columns(scans: list[Scan]) -> tuple[bytes, bytes, bytes, bytes]:
    return (
        b"".join(person for person, _, _, _ in scans),
        b"".join(place.to_bytes(4, "little") for _, place, _, _ in scans),
        b"".join(lane.to_bytes(2, "little") for _, _, lane, _ in scans),
        b"".join(time_ms.to_bytes(8, "little", signed=True) for _, _, _, time_ms in scans),
    )


def see(
    table: SeenTable, scans: list[Scan], window_ms: int, lanes_ms: int = 0, roads: Roads = ()
) -> bytes:
    # numpy allocates no byte behind the last one, so ASan sees a step too far.
    packed = [np.array(memoryview(column)).data for column in columns(scans)]
    return table.see(*packed, SeenRules(window_ms, lanes_ms, roads))


def person(number: int) -> bytes:
    return number.to_bytes(16, "big")


def random_scans(seed: int, count: int, people: int, places: int, span_ms: int) -> list[Scan]:
    draw = random.Random(seed)
    return [
        (person(draw.randrange(people)), draw.randrange(places), draw.randrange(3),
         draw.randrange(span_ms))
        for _ in range(count)
    ]  # fmt: skip


# ---- what it answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times_ms", "window_ms", "answers"),
    [
        ([10, 11], 0, [0, 0]),
        ([10, 20, 30], 10, [0, 1, 1]),
        ([10, 21, 31], 10, [0, 0, 1]),
        ([100, 90], 10, [0, 1]),
        ([100, 89, 110], 10, [0, 0, 1]),
        ([100, 50, 101, 95], 5, [0, 0, 1, 1]),  # a late one meets its own time
        ([*I64, I64[0]], 0, [0, 0, 0]),
        ([*I64], 2**63 - 1, [0, 0]),  # 2**64 - 1 apart: no overflow into "near"
        ([0, I64[1]], 2**63 - 1, [0, 1]),
        ([-1, I64[1]], 2**63 - 1, [0, 0]),
    ],
)
def test_the_window(times_ms: list[int], window_ms: int, answers: list[int]) -> None:
    scans = [(person(1), 7, 1, time_ms) for time_ms in times_ms]
    assert list(see(SeenTable(), scans, window_ms)) == answers
    assert list(SeenList().see(scans, window_ms)) == answers
    table = SeenTable()
    assert [see(table, [scan], window_ms)[0] for scan in scans] == answers


def test_a_scan_that_comes_again_is_not_held_against_itself() -> None:
    scans = [(person(1), 7, 1, 100), (person(1), 7, 2, 101), (person(1), 8, 1, 500)]
    table, roads = SeenTable(), [(7, 8, 1000)]
    first = see(table, scans, 10, 2, roads)
    assert list(first) == [0, HERE | LANES, ROAD]
    for _ in range(3):
        again = see(table, scans, 10, 2, roads)
        # As before, but that the first two now find what came after them.
        assert list(again) == [HERE | LANES | ROAD, HERE | LANES | ROAD, ROAD]
    assert see(SeenTable(), scans[:1] * 5, 10, 2, roads) == bytes(5)
    assert len(table) == 3


@pytest.mark.parametrize(
    ("lane", "apart_ms", "answer"),
    [(2, 0, HERE | LANES), (2, 1999, HERE | LANES), (2, 2000, HERE), (1, 1, HERE), (2, -1999, 3)],
)
def test_two_lanes_at_once(lane: int, apart_ms: int, answer: int) -> None:
    scans = [(person(1), 7, 1, 5000), (person(1), 7, lane, 5000 + apart_ms)]
    assert list(see(SeenTable(), scans, 10_000, 2000)) == [0, answer]


def test_a_road_is_as_long_both_ways_and_in_any_order() -> None:
    roads = [(9, 4, 60), (4, 5, 30), (2**32 - 1, 0, 7)]
    cases = [
        (4, 9, 59, ROAD), (4, 9, 60, 0), (9, 4, 59, ROAD), (4, 9, -59, ROAD), (4, 9, -60, 0),
        (4, 5, 29, ROAD), (4, 5, 30, 0), (5, 9, 0, 0), (4, 4, 0, 0), (0, 2**32 - 1, 6, ROAD),
    ]  # fmt: skip
    for here, there, apart, answer in cases:
        scans = [(person(1), here, 1, 1000), (person(1), there, 1, 1000 + apart)]
        assert list(see(SeenTable(), scans, 0, 0, roads)) == [0, answer], (here, there, apart)


def test_every_road_of_many_is_found() -> None:
    pairs = list(itertools.combinations(range(0, 200, 7), 2))
    roads = [(one, two, 10 + i) for i, (one, two) in enumerate(pairs)]
    random.Random(1).shuffle(roads)
    for one, two, least in roads:
        scans = [(person(1), one, 1, 0), (person(1), two, 1, least - 1)]
        late = [(person(2), two, 1, 0), (person(2), one, 1, least)]
        assert list(see(SeenTable(), scans + late, 0, 0, roads)) == [0, ROAD, 0, 0]


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, 2).map(person), st.integers(0, 3), st.integers(0, 2),
                  st.integers(0, 60)),
        max_size=20, unique=True,
    ),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_of_two_that_contradict_the_later_to_come_is_told(scans: list[Scan], draw: Any) -> None:
    """Whatever the order: an answer is what the pairs with those before it say, no more, no less,
    and what the table then knows is the same."""
    roads = [(0, 1, 20), (1, 2, 9), (0, 3, 40)]

    def pair(one: Scan, two: Scan) -> int:
        return SeenList().see([one, two], 10, 3, roads)[1]

    def whole(scans: list[Scan]) -> bytes:
        """What each is told when all others are there."""
        told = [[pair(other, scan) for other in scans if other[0] == scan[0]] for scan in scans]
        return bytes(functools.reduce(operator.or_, answers, 0) for answers in told)

    finals = []
    for _ in range(3):
        draw.shuffle(scans)
        table = SeenTable(1)
        answers = see(table, scans, 10, 3, roads)
        for i, answer in enumerate(answers):
            expected = 0
            for other in scans[:i]:
                if other[0] == scans[i][0]:
                    expected |= pair(other, scans[i])
            assert answer == expected
        probes = [(who, place, 9, at) for who in map(person, range(3)) for place in range(4)
                  for at in range(0, 60, 7)]  # fmt: skip
        assert len(table) == len(scans)
        assert see(table, scans, 10, 3, roads) == whole(scans), "sent again: all of them are known"
        assert len(table) == len(scans), "and none is entered a second time"
        finals.append([see(table, [probe], 4, 3, roads) for probe in probes])
    assert finals[0] == finals[1] == finals[2]


def test_who_is_sighted_without_end_keeps_the_newest() -> None:
    scans = [(person(1), 7, 1, at) for at in range(0, 1000, 10)]
    for order in (scans, scans[::-1], random.Random(2).sample(scans, len(scans))):
        table, twin = SeenTable(1), SeenList()
        assert see(table, order, 10) == twin.see(order, 10)
        assert len(table) == PERSON_MAX == dedup.PERSON_MAX
        kept = [see(table, [(person(1), 7, 1, at + 1)], 1)[0] for at in range(990, -10, -10)]
        assert kept.count(1) >= PERSON_MAX // 2 and kept[-1] == 0
    many = [(person(1), i % 3, i % 5, i * 7919 % 5000) for i in range(20_000)]
    table, twin = SeenTable(1), SeenList()
    assert see(table, many, 40, 3, [(0, 1, 90)]) == twin.see(many, 40, 3, [(0, 1, 90)])
    assert len(table) == PERSON_MAX, "and costs no more memory"


def test_the_whole_person_counts() -> None:
    keys = [bytes(i) + b"\1" + bytes(15 - i) for i in range(16)]
    places = (0, 1, 256, 2**24, 2**32 - 1)
    scans = [(key, place, lane, 5) for key in [*keys, bytes(16)] for place in places
             for lane in (0, 2**16 - 1)]  # fmt: skip
    table = SeenTable()
    assert see(table, scans, 0) == b"\0\1" * (len(scans) // 2)
    assert see(table, scans, 0) == b"\1" * len(scans)
    assert len(table) == len(scans)


steps: st.SearchStrategy[Any] = st.one_of(
    st.tuples(
        st.just("see"),
        st.lists(
            st.tuples(
                st.integers(0, 4).map(person),
                st.integers(0, 3) | st.integers(2**32 - 2, 2**32 - 1),
                st.integers(0, 2) | st.just(2**16 - 1),
                st.integers(0, 100) | st.integers(*I64),
            ),
            max_size=60,
        ),
        st.tuples(
            st.integers(0, 60) | st.integers(0, 2**63 - 1),
            st.integers(0, 9),
            st.sampled_from([[], [(0, 1, 30)], [(0, 1, 30), (3, 1, 2**63 - 1), (0, 2**32 - 1, 5)]]),
        ),
    ),
    st.tuples(st.just("expire"), st.just([]), st.integers(0, 100) | st.integers(*I64)),
)


@settings(max_examples=120)
@given(st.lists(steps, max_size=12))
def test_any_history_equals_the_twin(history: list[tuple[str, list[Scan], Any]]) -> None:
    table, twin = SeenTable(1), SeenList()
    for step, scans, value in history:
        if step == "see":
            assert see(table, scans, *value) == twin.see(scans, *value)
        else:
            assert table.expire(value) == twin.expire(value)
        assert len(table) == len(twin)


ROADS: Roads = [(0, 1, 300), (1, 2, 40)]


@pytest.mark.parametrize("count", [*range(131), 50_000])
def test_every_length_of_batch(count: int) -> None:
    scans = random_scans(count, count, people=count // 2 + 1, places=3, span_ms=1000)
    table, twin = SeenTable(1), SeenList()
    assert see(table, scans, 100, 50, ROADS) == twin.see(scans, 100, 50, ROADS)
    assert see(table, scans[::-1], 100, 50, ROADS) == twin.see(scans[::-1], 100, 50, ROADS)
    assert len(table) == len(twin)


def test_a_batch_is_as_good_as_its_parts() -> None:
    scans = random_scans(1, 3000, people=400, places=4, span_ms=500)
    whole = see(SeenTable(1), scans, 50, 20, ROADS)
    table = SeenTable(1)
    parts = [see(table, scans[i : i + 7], 50, 20, ROADS) for i in range(0, 3000, 7)]
    assert b"".join(parts) == whole


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("offset", range(9))
def test_any_buffer_at_any_address(kind: Any, offset: int) -> None:
    scans = random_scans(2, 70, people=20, places=4, span_ms=100)
    packed = [memoryview(kind(bytes(offset) + column))[offset:] for column in columns(scans)]
    assert SeenTable(1).see(*packed, SeenRules(10)) == SeenList().see(scans, 10)


# ---- the table itself ---------------------------------------------------------------------------


def test_growth_forgets_nothing() -> None:
    table, scans = SeenTable(1), [(person(i // 2), i % 2, 0, 1000 + i) for i in range(60_000)]
    sizes = set()
    for i in range(0, 60_000, 1000):
        assert see(table, scans[i : i + 1000], 0) == bytes(1000)
        sizes.add(table.capacity())
    assert sorted(sizes) == [28 << i for i in range(6, 13)], "it doubles"
    twice = [(who, place, 1, at) for who, place, _, at in scans]
    assert see(table, twice, 0) == b"\1" * 60_000
    assert len(table) == 120_000


@pytest.mark.parametrize("capacity", [1, 28, 29, 1000, 1 << 16])
def test_capacity_is_what_fits_without_growing(capacity: int) -> None:
    table = SeenTable(capacity)
    before = table.capacity(), table.memory_bytes()
    assert before[0] >= capacity
    see(table, [(person(i), 0, 0, 0) for i in range(before[0])], 0)
    assert (table.capacity(), table.memory_bytes()) == before
    see(table, [(person(-1 % 2**128), 0, 0, 0)], 0)
    assert table.capacity() == 2 * before[0]
    assert len(table) == before[0] + 1


@functools.cache
def colliding(count: int, groups: int) -> list[bytes]:
    """Persons with the same tag and the same first group of `groups`."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        value = dedup._hash(NO_KEY, person(number))  # type: ignore[attr-defined]
        if value >> 57 == 5 and value % groups == groups - 1:
            found.append(person(number))
        number += 1
    return found


def test_keys_that_all_collide_are_still_told_apart() -> None:
    keys = colliding(100, groups=16)
    table, twin = SeenTable(448, hash_key=NO_KEY), SeenList()
    for batch in (keys[:70], keys[::-1], keys):
        scans = [(key, 0, 0, i) for i, key in enumerate(batch)]
        assert see(table, scans, 3) == twin.see(scans, 3)
    assert (len(table), table.capacity()) == (len(twin), 448)


@pytest.mark.parametrize("seed", range(6))
def test_removal_keeps_the_probing_right_among_collisions(seed: int) -> None:
    """Full groups get gaps in the middle of probe sequences, again and again."""
    draw = random.Random(seed)
    keys = colliding(90, groups=16)
    table, twin = SeenTable(448, hash_key=NO_KEY), SeenList()
    for time_ms in range(0, 3000, 10):
        scans = [(draw.choice(keys), 0, draw.randrange(2), time_ms + draw.randrange(200))
                 for _ in range(12)]  # fmt: skip
        assert see(table, scans, 40) == twin.see(scans, 40)
        if draw.random() < 0.3:
            before_ms = time_ms + draw.randrange(-100, 150)
            assert table.expire(before_ms) == twin.expire(before_ms)
            # Nobody whom a removal left behind it is lost: sent again, none is entered anew.
            known = [(key, place, lane, at) for key, held in twin.known.items()
                     for at, place, lane in held]  # fmt: skip
            assert see(table, known, 40) == twin.see(known, 40)
        assert len(table) == len(twin)


def test_coming_and_going_for_ever_needs_no_more_memory() -> None:
    table, twin = SeenTable(1000), SeenList()
    memory = table.memory_bytes()
    for hour in range(200):
        scans = [(person(hour * 300 + i), i % 3, 0, hour) for i in range(300)]
        assert see(table, scans, 0) == twin.see(scans, 0)
        assert table.expire(hour - 1) == twin.expire(hour - 1)
        assert len(table) == len(twin)
    assert table.memory_bytes() == memory


def test_memory_is_given_back_after_a_rush() -> None:
    table = SeenTable(1000)
    before = table.memory_bytes()
    see(table, [(person(i), 0, 0, i) for i in range(50_000)], 0)
    assert table.memory_bytes() > 30 * before
    assert table.expire(49_990) == 49_990
    assert table.memory_bytes() == before
    late = [(person(i), 0, 1, i) for i in range(49_980, 50_000)]
    assert see(table, late, 0) == bytes(10) + b"\1" * 10


def test_expire_keeps_what_was_sighted_at_the_moment_itself() -> None:
    table = SeenTable()
    see(table, [(person(i), 0, 0, i) for i in range(10)], 0)
    assert (table.expire(4), len(table)) == (4, 6)
    assert (table.expire(4), len(table)) == (0, 6)
    assert (table.expire(I64[0]), len(table)) == (0, 6)
    assert (table.expire(I64[1]), len(table)) == (6, 0)


def test_a_table_does_not_mind_a_change_of_level(level: str) -> None:
    table, twin = SeenTable(1), SeenList()
    try:
        for i, name in enumerate(cpu.available() * 6):
            cpu.use(name)
            scans = random_scans(i, 500, people=900, places=2, span_ms=200)
            assert see(table, scans, 20) == twin.see(scans, 20)
            assert table.expire(i * 5) == twin.expire(i * 5)
    finally:
        cpu.use(level)


# ---- the hash -----------------------------------------------------------------------------------


def test_the_hash_is_siphash_1_3() -> None:
    """CPython hashes bytes by SipHash-1-3, with the key 0 when PYTHONHASHSEED is 0."""
    if sys.hash_info.algorithm != "siphash13":
        pytest.skip(reason="this Python hashes bytes by another algorithm")
    keys = [random.Random(i).randbytes(16) for i in range(50)]
    done = subprocess.run(
        [sys.executable, "-c", f"print([hash(b) for b in {keys!r}])"],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = [dedup._hash(NO_KEY, key) for key in keys]  # type: ignore[attr-defined]
    assert str([value - (value >> 63 << 64) for value in ours]) == done.stdout.strip()


def test_the_hash_depends_on_all_of_the_key() -> None:
    keys = [NO_KEY] + [bytes(i) + b"\x80" + bytes(15 - i) for i in range(16)]
    hashes = {dedup._hash(key, person(1)) for key in keys}  # type: ignore[attr-defined]
    assert len(hashes) == len(keys)


# ---- limits and mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, -1, 2**28 + 1, 2**64, -(2**70)])
def test_capacity_has_limits(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity is out of range"):
        SeenTable(capacity)


@pytest.mark.parametrize("key", [b"", bytes(15), bytes(17)])
def test_a_hash_key_has_16_bytes(key: bytes) -> None:
    with pytest.raises(ValueError, match="hash_key"):
        SeenTable(1, hash_key=key)


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("change", [-1, 1])
def test_columns_agree_in_length(at: int, change: int) -> None:
    table = SeenTable()
    for by in (1, (16, 4, 2, 8)[at]):
        sizes = [16, 4, 2, 8]
        sizes[at] += change * by
        with pytest.raises(ValueError, match="differ in length"):
            table.see(*map(bytes, sizes), SeenRules(1))  # type: ignore[arg-type]
    assert len(table) == 0


@pytest.mark.parametrize("span_ms", [-1, 2**63, 2**64, -(2**70)])
def test_spans_have_limits(span_ms: int) -> None:
    with pytest.raises(ValueError, match="window_ms"):
        SeenRules(span_ms)
    with pytest.raises(ValueError, match="lanes_ms"):
        SeenRules(1, span_ms)
    with pytest.raises(ValueError, match="least_ms"):
        SeenRules(1, 1, [(1, 2, span_ms)])


@pytest.mark.parametrize(
    "roads",
    [[(1, 1, 5)], [(1, 2, 5), (2, 1, 6)], [(1, 2, 5), (3, 4, 1), (1, 2, 5)], [(-1, 2, 5)],
     [(1, 2**32, 5)], [(i, i + 1, 1) for i in range(2**16 + 1)]],
)  # fmt: skip
def test_roads_that_are_none(roads: Roads) -> None:
    with pytest.raises(ValueError, match=r"road|place"):
        SeenRules(1, 1, roads)


@pytest.mark.parametrize("before_ms", [I64[0] - 1, I64[1] + 1])
def test_an_expiry_has_limits(before_ms: int) -> None:
    with pytest.raises(ValueError, match="before_ms"):
        SeenTable().expire(before_ms)


def test_wrong_kinds_are_mistakes_of_the_caller() -> None:
    table: Any = SeenTable()
    rules: Any = SeenRules(1)
    good = (bytes(16), bytes(4), bytes(2), bytes(8))
    for at, wrong in enumerate(("x" * 16, 4, None, [])):
        with pytest.raises(TypeError):
            table.see(*good[:at], wrong, *good[at + 1 :], rules)
    for wrong in (None, 600, table):
        with pytest.raises(TypeError):
            table.see(*good, wrong)
    for spans in ((1.5,), (1, "2"), (1, 1, [(1, 2)]), (1, 1, [5]), (1, 1, None)):
        with pytest.raises((TypeError, ValueError)):
            SeenRules(*spans)  # type: ignore[arg-type]
    for thing in (table, rules):
        with pytest.raises(TypeError, match="pickle"):
            thing.__reduce__()
    assert len(table) == 0


SHORT_OF_MEMORY = """
import resource
from native.dedup import SeenRules, SeenTable
count = 1 << 20
people = b"".join(i.to_bytes(16, "little") for i in range(count))
columns = people, bytes(4 * count), bytes(2 * count), bytes(8 * count)
table = SeenTable(16)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (16 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    table.see(*columns, SeenRules(0))
except MemoryError as fault:
    one = table.see(bytes(16), bytes(4), bytes(2), bytes(8), SeenRules(0))
    print(fault, 0, list(one), len(table))
try:
    SeenTable(1 << 28)
except MemoryError:
    print("no table")
"""


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="ASan needs the memory")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_short_memory_enters_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY],
        env={**os.environ, "PYTHONPATH": str(Path(native.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["the seen table cannot grow 0 [0] 1", "no table"]


# ---- threads ------------------------------------------------------------------------------------


def test_threads_share_a_table() -> None:
    """Each thread has a lane; in exactly one each person is new, while the table grows."""
    table, rules = SeenTable(1), SeenRules(0)

    def work(lane: int) -> int:
        scans = [(person(i), 0, lane, 5) for i in range(20_000)]
        batches = [columns(scans[i : i + 500]) for i in range(0, 20_000, 500)]
        news = 0
        for batch in random.Random(lane).sample(batches, len(batches)):
            news += table.see(*batch, rules).count(0)
            table.expire(5)
        return news

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 20_000
    assert len(table) == 80_000
