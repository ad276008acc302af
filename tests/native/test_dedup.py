"""native.dedup against a dict: windows, growth, collisions, removal, limits, threads."""

from __future__ import annotations

import functools
import os
import random
import struct
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
from native.dedup import SeenTable
from tests.reference.native_dedup import SeenDict

Scan = tuple[bytes, int, int]
NO_KEY = bytes(16)
I64 = (-(2**63), 2**63 - 1)


def columns(scans: list[Scan]) -> tuple[bytes, bytes, bytes]:
    return (
        b"".join(person for person, _, _ in scans),
        b"".join(place.to_bytes(4, "little") for _, place, _ in scans),
        b"".join(time_ms.to_bytes(8, "little", signed=True) for _, _, time_ms in scans),
    )


def see(table: SeenTable, scans: list[Scan], window_ms: int) -> bytes:
    # numpy allocates no byte behind the last one, so ASan sees a step too far.
    people, places, times_ms = (np.array(memoryview(column)).data for column in columns(scans))
    return table.see(people, places, times_ms, window_ms)


def person(number: int) -> bytes:
    return number.to_bytes(16, "big")


def random_scans(seed: int, count: int, people: int, places: int, span_ms: int) -> list[Scan]:
    draw = random.Random(seed)
    return [
        (person(draw.randrange(people)), draw.randrange(places), draw.randrange(span_ms))
        for _ in range(count)
    ]


# ---- what it answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times_ms", "window_ms", "answers"),
    [
        ([10, 10], 0, [0, 1]),
        ([10, 11], 0, [0, 0]),
        ([10, 20, 30], 10, [0, 1, 1]),  # last moves on: each is 10 after the one before
        ([10, 21, 31], 10, [0, 0, 1]),
        ([100, 90], 10, [0, 1]),
        ([100, 89, 110], 10, [0, 0, 1]),  # a late one neither counts nor turns last back
        ([100, 50, 101, 95], 5, [0, 0, 1, 0]),
        ([*I64, I64[0]], 0, [0, 0, 0]),
        ([*I64], 2**63 - 1, [0, 0]),  # 2**64 - 1 apart: no overflow into "near"
        ([0, I64[1]], 2**63 - 1, [0, 1]),
        ([-1, I64[1]], 2**63 - 1, [0, 0]),
    ],
)
def test_the_window(times_ms: list[int], window_ms: int, answers: list[int]) -> None:
    scans = [(person(1), 7, time_ms) for time_ms in times_ms]
    assert list(see(SeenTable(), scans, window_ms)) == answers
    assert list(SeenDict().see(scans, window_ms)) == answers
    table = SeenTable()
    assert [see(table, [scan], window_ms)[0] for scan in scans] == answers


def test_person_and_place_both_count_in_full() -> None:
    keys = [bytes(i) + b"\1" + bytes(15 - i) for i in range(16)]
    places = (0, 1, 256, 2**24, 2**32 - 1)
    scans = [(key, place, 5) for key in [*keys, bytes(16)] for place in places]
    table = SeenTable()
    assert see(table, scans, 0) == bytes(len(scans))
    assert see(table, scans, 0) == b"\1" * len(scans)
    assert len(table) == len(scans)


steps: st.SearchStrategy[Any] = st.one_of(
    st.tuples(
        st.just("see"),
        st.lists(
            st.tuples(
                st.integers(0, 12).map(person),
                st.integers(0, 3) | st.integers(2**32 - 2, 2**32 - 1),
                st.integers(0, 100) | st.integers(*I64),
            ),
            max_size=40,
        ),
        st.integers(0, 60) | st.integers(0, 2**63 - 1),
    ),
    st.tuples(st.just("expire"), st.just([]), st.integers(0, 100) | st.integers(*I64)),
)


@settings(max_examples=120)
@given(st.lists(steps, max_size=12))
def test_any_history_equals_the_twin(history: list[tuple[str, list[Scan], int]]) -> None:
    table, twin = SeenTable(1), SeenDict()
    for step, scans, number in history:
        if step == "see":
            assert see(table, scans, number) == twin.see(scans, number)
        else:
            assert table.expire(number) == twin.expire(number)
        assert len(table) == len(twin)


@pytest.mark.parametrize("count", [*range(131), 50_000])
def test_every_length_of_batch(count: int) -> None:
    scans = random_scans(count, count, people=count // 2 + 1, places=3, span_ms=1000)
    table, twin = SeenTable(1), SeenDict()
    assert see(table, scans, 100) == twin.see(scans, 100)
    assert see(table, scans[::-1], 100) == twin.see(scans[::-1], 100)
    assert len(table) == len(twin)


def test_a_batch_is_as_good_as_its_parts() -> None:
    scans = random_scans(1, 3000, people=400, places=4, span_ms=500)
    whole = see(SeenTable(1), scans, 50)
    table = SeenTable(1)
    assert b"".join(see(table, scans[i : i + 7], 50) for i in range(0, 3000, 7)) == whole


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("offset", range(9))
def test_any_buffer_at_any_address(kind: Any, offset: int) -> None:
    scans = random_scans(2, 70, people=20, places=4, span_ms=100)
    people, places, times_ms = (
        memoryview(kind(bytes(offset) + column))[offset:] for column in columns(scans)
    )
    assert SeenTable(1).see(people, places, times_ms, 10) == SeenDict().see(scans, 10)


# ---- the table itself ---------------------------------------------------------------------------


def test_growth_forgets_nothing() -> None:
    table, scans = SeenTable(1), [(person(i), i % 5, 1000 + i) for i in range(60_000)]
    sizes = set()
    for i in range(0, 60_000, 1000):
        assert see(table, scans[i : i + 1000], 0) == bytes(1000)
        sizes.add(table.capacity())
    assert sorted(sizes) == [28 << i for i in range(6, 13)], "it doubles"
    assert see(table, scans, 0) == b"\1" * 60_000
    assert len(table) == 60_000


@pytest.mark.parametrize("capacity", [1, 28, 29, 1000, 1 << 16])
def test_capacity_is_what_fits_without_growing(capacity: int) -> None:
    table = SeenTable(capacity)
    before = table.capacity(), table.memory_bytes()
    assert before[0] >= capacity
    see(table, [(person(i), 0, 0) for i in range(before[0])], 0)
    assert (table.capacity(), table.memory_bytes()) == before
    see(table, [(person(-1 % 2**128), 0, 0)], 0)
    assert table.capacity() == 2 * before[0]
    assert len(table) == before[0] + 1


@functools.cache
def colliding(count: int, groups: int) -> list[bytes]:
    """Persons whose pair with place 0 has the same tag and the same first group of `groups`."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        value = dedup._hash(NO_KEY, person(number), 0)  # type: ignore[attr-defined]
        if value >> 57 == 5 and value % groups == groups - 1:
            found.append(person(number))
        number += 1
    return found


def test_keys_that_all_collide_are_still_told_apart() -> None:
    keys = colliding(100, groups=16)
    table, twin = SeenTable(448, hash_key=NO_KEY), SeenDict()
    for batch in (keys[:70], keys[::-1], keys):
        scans = [(key, 0, i) for i, key in enumerate(batch)]
        assert see(table, scans, 3) == twin.see(scans, 3)
    assert (len(table), table.capacity()) == (100, 448)


@pytest.mark.parametrize("seed", range(6))
def test_removal_keeps_the_probing_right_among_collisions(seed: int) -> None:
    """Full groups get gaps in the middle of probe sequences, again and again."""
    draw = random.Random(seed)
    keys = colliding(90, groups=16)
    table, twin = SeenTable(448, hash_key=NO_KEY), SeenDict()
    for time_ms in range(0, 3000, 10):
        scans = [(draw.choice(keys), 0, time_ms + draw.randrange(200)) for _ in range(12)]
        assert see(table, scans, 40) == twin.see(scans, 40)
        if draw.random() < 0.3:
            before_ms = time_ms + draw.randrange(-100, 150)
            assert table.expire(before_ms) == twin.expire(before_ms)
        assert len(table) == len(twin)
        known = [(key, 0, last) for (key, _), last in twin.last.items()]
        assert see(table, known, 0) == b"\1" * len(known)


def test_coming_and_going_for_ever_needs_no_more_memory() -> None:
    table, twin = SeenTable(1000), SeenDict()
    memory = table.memory_bytes()
    for hour in range(200):
        scans = [(person(hour * 300 + i), i % 3, hour) for i in range(300)]
        assert see(table, scans, 0) == twin.see(scans, 0)
        assert table.expire(hour - 1) == twin.expire(hour - 1)
        assert len(table) == len(twin)
    assert table.memory_bytes() == memory


def test_memory_is_given_back_after_a_rush() -> None:
    table = SeenTable(1000)
    before = table.memory_bytes()
    see(table, [(person(i), 0, i) for i in range(50_000)], 0)
    assert table.memory_bytes() > 30 * before
    assert table.expire(49_990) == 49_990
    assert table.memory_bytes() == before
    late = [(person(i), 0, i) for i in range(49_980, 50_000)]
    assert see(table, late, 0) == bytes(10) + b"\1" * 10


def test_expire_keeps_what_was_last_seen_at_the_moment_itself() -> None:
    table = SeenTable()
    see(table, [(person(i), 0, i) for i in range(10)], 0)
    assert (table.expire(4), len(table)) == (4, 6)
    assert (table.expire(4), len(table)) == (0, 6)
    assert (table.expire(I64[0]), len(table)) == (0, 6)
    assert (table.expire(I64[1]), len(table)) == (6, 0)


def test_a_table_does_not_mind_a_change_of_level(level: str) -> None:
    table, twin = SeenTable(1), SeenDict()
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
        pytest.skip("this Python hashes bytes by another algorithm")
    pairs = [(random.Random(i).randbytes(16), i * 0x01020304) for i in range(50)]
    packed = [key + struct.pack("<I", place) for key, place in pairs]
    done = subprocess.run(
        [sys.executable, "-c", f"print([hash(b) for b in {packed!r}])"],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = [dedup._hash(NO_KEY, *pair) for pair in pairs]  # type: ignore[attr-defined]
    assert str([value - (value >> 63 << 64) for value in ours]) == done.stdout.strip()


def test_the_hash_depends_on_all_of_the_key() -> None:
    keys = [NO_KEY] + [bytes(i) + b"\x80" + bytes(15 - i) for i in range(16)]
    hashes = {dedup._hash(key, person(1), 1) for key in keys}  # type: ignore[attr-defined]
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


@pytest.mark.parametrize("sizes", [(16, 4, 0), (16, 0, 8), (0, 4, 8), (15, 4, 8), (17, 4, 8),
                                   (16, 3, 8), (16, 5, 8), (16, 4, 7), (32, 4, 8), (16, 8, 8),
                                   (16, 4, 16), (0, 1, 0), (0, 3, 0)])  # fmt: skip
def test_columns_agree_in_length(sizes: tuple[int, int, int]) -> None:
    table = SeenTable()
    with pytest.raises(ValueError, match="differ in length"):
        table.see(bytes(sizes[0]), bytes(sizes[1]), bytes(sizes[2]), 1)
    assert len(table) == 0


@pytest.mark.parametrize("window_ms", [-1, 2**63, 2**64, -(2**70)])
def test_a_window_has_limits(window_ms: int) -> None:
    with pytest.raises(ValueError, match="window_ms"):
        SeenTable().see(bytes(16), bytes(4), bytes(8), window_ms)


@pytest.mark.parametrize("before_ms", [I64[0] - 1, I64[1] + 1])
def test_an_expiry_has_limits(before_ms: int) -> None:
    with pytest.raises(ValueError, match="before_ms"):
        SeenTable().expire(before_ms)


def test_wrong_kinds_are_mistakes_of_the_caller() -> None:
    table: Any = SeenTable()
    for wrong in (("x" * 16, bytes(4), bytes(8)), (bytes(16), 4, bytes(8)), (b"", b"", None)):
        with pytest.raises(TypeError):
            table.see(*wrong, 1)
    with pytest.raises(TypeError):
        table.see(bytes(16), bytes(4), bytes(8), 1.5)
    with pytest.raises(TypeError, match="pickle"):
        table.__reduce__()
    assert len(table) == 0


SHORT_OF_MEMORY = """
import resource
from native.dedup import SeenTable
count = 1 << 20
places = b"".join(i.to_bytes(4, "little") for i in range(count))
columns = bytes(16 * count), places, bytes(8 * count)
table = SeenTable(16)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (16 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    table.see(*columns, 0)
except MemoryError as fault:
    print(fault, len(table), list(table.see(bytes(16), bytes(4), bytes(8), 0)), len(table))
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
    """Each pair is new to exactly one of the threads, while the table grows under them."""
    table = SeenTable(1)
    scans = [(person(i), 0, 5) for i in range(20_500)]
    batches = [columns(scans[i : i + 1000]) for i in range(0, 20_000, 500)]

    def work(seed: int) -> int:
        order = random.Random(seed).sample(batches, len(batches))
        news = 0
        for batch in order:
            news += table.see(*batch, 0).count(0)
            table.expire(5)
        return news

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 20_500
    assert len(table) == 20_500
