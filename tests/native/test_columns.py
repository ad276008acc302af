"""native.packing and native.columns: a day in columns answers as the layers it was made of."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import DAY_MS
from engine.identity.aliases import ENDING
from engine.presence.visits import SCAN, VISIT, PlaceRule, PlaceRules, VisitRules, rule_spans
from native.columns import COLUMNS, DayColumns
from native.contacts import find_contacts
from native.days import count_days, split_days
from native.index import VisitTable, born_table, end_rows, end_visits, merge_tables, table_of
from native.packing import pack_day
from native.scans import ScanRun, merge_runs, run_of
from native.together import people_at, time_together, times_of
from native.visits import derive_changes
from native.walks import visits_of_many

STAYS = {1: 3, 2: 7, 3: 6, 4: 12, 5: 45}
PLACES = PlaceRules({n: PlaceRule(n in (1, 2), stay) for n, stay in STAYS.items()})
RULES = VisitRules(passage_window_ms=5, gap_ms=4, travel_ms=2, stay_max_ms=40)
KEY = bytes(range(16))
KEYS = np.arange(64, dtype=">u8").repeat(2).tobytes()
FAR = 1 << 40

scans = st.lists(
    st.tuples(
        st.integers(0, 5), st.integers(0, 120), st.sampled_from([*STAYS]), st.integers(0, 1),
        st.integers(0, 2), st.integers(1, 9), st.sampled_from([0, 0, 7]),
        st.sampled_from([0, 0, 5, 60]),
    ),
    max_size=25,
)  # fmt: skip


def run_from(rows: list[tuple[int, ...]], first_ref: int) -> ScanRun:
    array = np.zeros(len(rows), SCAN)
    for at, (person, time, place, lane, direction, kind, vehicle, stay) in enumerate(rows):
        ref = first_ref + at if kind < 8 else 1 << 50  # further apart than columns can tell
        array[at] = (time, ref, person, place, vehicle, stay, lane, direction, kind)
    return ScanRun([np.frombuffer(array.tobytes(), np.uint8).copy().data])


def aligned(made: dict[str, bytearray]) -> dict[str, memoryview]:
    """As in a file: eight bytes aligned, nothing behind."""
    return {name: np.frombuffer(bytes(column), "u1").copy().data for name, column in made.items()}


def opened(tables: list[VisitTable], runs: list[ScanRun], epoch: int, low: int, high: int,
           key: bytes = KEY) -> DayColumns:  # fmt: skip
    head, made = pack_day(tables, runs, epoch, low, high, key)
    assert set(made) == set(COLUMNS)
    return DayColumns(head, aligned(made), key, None)


def layers_of(parts: list[list[tuple[int, ...]]]) -> tuple[list[VisitTable], list[ScanRun]]:
    """What a live index makes of scans that come in parts; part i ends visits with epoch i."""
    tables: list[VisitTable] = []
    runs: list[ScanRun] = []
    for number, part in enumerate(parts):
        run = run_from(part, 100 * number)
        changes = derive_changes(run, runs, PLACES.table, **rule_spans(RULES))
        if number:
            end_visits(tables, changes.endings(), number)
        tables.append(born_table(changes))
        runs.append(run)
    return tables, runs


def sorted_visits(packed: bytes) -> list[Any]:
    return np.sort(np.frombuffer(packed, VISIT), order=["start_ms", "place", "person"]).tolist()


def of_person(tables: list[VisitTable], person: int, *question: int) -> bytes:
    return visits_of_many(tables, person.to_bytes(4, "little"), *question)


def answers(tables: list[VisitTable], epoch: int) -> list[Any]:
    found: list[Any] = []
    for low, high in ((0, 200), (20, 60), (-50, 30), (100, 101)):
        for place in (*STAYS, 99):
            packed = b"".join(table.at_place(place, low, high, epoch) for table in tables)
            found.append(sorted_visits(packed))
            found.append(sorted(people_at(tables, place, low, high, KEYS, epoch)))
        for person in range(7):
            packed = of_person(tables, person, low, high, epoch)
            found.append(sorted_visits(packed))
            found.append(sorted(times_of(tables, person, low, high, epoch)))
            found.append(time_together(tables, person, low, high, KEYS, epoch))
            case = np.frombuffer(packed, VISIT)
            found.append(
                find_contacts(
                    tables, case.tobytes(), np.array([person], "<u4").tobytes(), KEYS, epoch,
                    linger_ms=3, queue_ms=2, min_ms=4, window_ms=30, limit=99,
                )
            )  # fmt: skip
        found.append(sorted_visits(b"".join(t.begun(low, high, epoch) for t in tables)))
    return found


def scans_in(runs: list[ScanRun], low: int = -FAR, high: int = FAR) -> bytes:
    return merge_runs(runs).between(low, high)


@settings(max_examples=150, deadline=None)
@given(st.lists(scans, min_size=1, max_size=4), st.integers(0, 130), st.integers(0, 3))
def test_days_answer_as_the_layers(
    parts: list[list[tuple[int, ...]]], cut: int, epoch: int
) -> None:
    tables, runs = layers_of(parts)
    epoch = min(epoch, len(parts) - 1)
    days = [opened(tables, runs, epoch, -FAR, cut), opened(tables, runs, epoch, cut, FAR)]
    columns = [table_of(day) for day in days]
    # Visits that came after the epoch are in none of the older tables, so the last epoch is asked.
    if epoch == len(parts) - 1:
        assert answers(columns, epoch) == answers(tables, epoch)
        assert sorted_visits(merge_tables(columns).begun(-FAR, FAR, 0)) == sorted_visits(
            merge_tables(tables).begun(-FAR, FAR, 0)
        )
    day_runs = [run_of(day) for day in days]
    assert scans_in(day_runs) == scans_in(runs)
    assert [len(run) for run in day_runs] == [
        len(merge_runs(runs).between(low, high)) // SCAN.itemsize
        for low, high in ((-FAR, cut), (cut, FAR))
    ]
    for low, high in ((10, 50), (0, cut), (cut, FAR)):
        assert scans_in(day_runs, low, high) == scans_in(runs, low, high)
    assert scans_in([run.of_persons(1, 3, 0, 90) for run in day_runs]) == scans_in(
        [run.of_persons(1, 3, 0, 90) for run in runs]
    )
    # A day of days is the day of the layers, byte for byte.
    again = pack_day(columns, day_runs, epoch, -FAR, FAR, KEY)
    if epoch == len(parts) - 1:
        assert again == pack_day(tables, runs, epoch, -FAR, FAR, KEY)


@settings(max_examples=150, deadline=None)
@given(st.lists(scans, min_size=1, max_size=3), scans, st.integers(0, 130))
def test_late_scans_change_the_same_in_days(
    parts: list[list[tuple[int, ...]]], late: list[tuple[int, ...]], cut: int
) -> None:
    tables, runs = layers_of(parts)
    epoch = len(parts) - 1
    days = [opened(tables, runs, epoch, -FAR, cut), opened(tables, runs, epoch, cut, FAR)]
    columns, day_runs = [table_of(day) for day in days], [run_of(day) for day in days]
    fresh = run_from(late, 900)
    expected = derive_changes(fresh, runs, PLACES.table, **rule_spans(RULES))
    changes = derive_changes(fresh, day_runs, PLACES.table, **rule_spans(RULES))
    assert (changes.visits(), changes.endings()) == (expected.visits(), expected.endings())
    gone = np.frombuffer(changes.gone(), VISIT)
    assert len(changes.endings()) == 16 * len(gone)
    ended = end_visits(columns, changes.endings(), epoch + 1)
    assert ended == len(gone) == end_visits(tables, expected.endings(), epoch + 1)
    assert [len(table) for table in columns] == [
        len(day) - len(day.ended_rows(epoch + 1)) // 4 for day in days
    ]
    for when in (epoch, epoch + 1):
        newest = [born_table(changes)] if when > epoch else []
        assert answers([*columns, *newest], when) == answers([*tables, *newest], when)
    assert [day.ended_rows(epoch) for day in days] == [b"", b""]
    # What ended is told by its rows, and a day that is opened anew learns it.
    marks = [day.ended_rows(epoch + 1) for day in days]
    again = [opened(tables, runs, epoch, -FAR, cut), opened(tables, runs, epoch, cut, FAR)]
    anew = [table_of(day) for day in again]
    for table, rows in zip(anew, marks, strict=True):
        end_rows(table, rows, 1)
    assert answers(anew, 1) == answers(columns, epoch + 1)
    # The scans of a visit that has ended are scans still.
    whole = opened([*columns, born_table(changes)], [*day_runs, fresh], epoch + 1, -FAR, FAR)
    assert scans_in([run_of(whole)]) == scans_in([*runs, fresh])
    assert answers([table_of(whole)], epoch + 1) == answers(
        [*tables, born_table(changes)], epoch + 1
    )


def test_a_large_day() -> None:
    rng = random.Random(3)
    rows = [
        (rng.randrange(5000), rng.randrange(100_000), rng.randrange(1, 300), 0,
         rng.choice([1, 1, 1, 2]), 2, 0, rng.choice([0, 30, 30, 30]))
        for _ in range(30_000)
    ]  # fmt: skip
    tables, runs = layers_of([rows[:20_000], rows[20_000:25_000], rows[25_000:]])
    day = opened(tables, runs, 2, -FAR, FAR)
    table, run = table_of(day), run_of(day)
    assert scans_in([run]) == scans_in(runs)
    for number in rng.sample(range(5000), 200):
        packed = of_person(tables, number, 0, FAR, 2)
        assert sorted_visits(of_person([table], number, 0, FAR, 2)) == sorted_visits(packed)
    _, made = pack_day(tables, runs, 2, -FAR, FAR, KEY)
    told = sum(map(len, made.values())) / len(day)
    assert told < 60
    # What tells who was where looks like chance.
    sizes = {"whom": 8 * len(day), "seats": 4 * len(day), "doors": 1000, "scans": 10_000}
    for name, size in sizes.items():
        words = np.frombuffer(made[name], "<u4")[: size // 4]
        assert len(np.unique(words)) > 0.99 * len(words)
        assert abs(float(np.unpackbits(words.view("u1")).mean()) - 0.5) < 0.02


def test_check_ins_that_tell_their_stay_take_27_bytes() -> None:
    rows = [(at // 2, 1000 * at, at % 50 + 10, 0, 1, 2, 0, 30) for at in range(40_000)]
    tables, runs = layers_of([rows])
    head, made = pack_day(tables, runs, 0, 0, FAR, KEY)
    assert (len(head) + sum(map(len, made.values()))) / len(rows) < 27.5


def test_what_is_broken_is_refused() -> None:
    tables, runs = layers_of([[(1, 5, 3, 0, 1, 2, 0, 9), (2, 6, 3, 0, 1, 2, 7, 0)]])
    head, made = pack_day(tables, runs, 0, 0, 100, KEY)
    whole = aligned(made)
    assert len(DayColumns(head, whole, KEY, None)) == 2
    with pytest.raises(ValueError, match="another key"):
        DayColumns(head, whole, bytes(16), None)
    with pytest.raises(ValueError, match="broken size"):
        DayColumns(head[:-1], whole, KEY, None)
    for name in COLUMNS:
        if name == "scans":
            continue  # their visits are both
        with pytest.raises(ValueError, match=f"{name} are cut short"):
            DayColumns(head, {**whole, name: b""}, KEY, None)
    with pytest.raises(ValueError, match="no ranges"):
        DayColumns(head, {**whole, "places": np.zeros(512, "<u8").data}, KEY, None)
    with pytest.raises(ValueError, match="layers are too many"):
        pack_day(tables * 257, runs, 0, 0, 9, KEY)
    with pytest.raises(ValueError, match="key has a broken size"):
        pack_day(tables, runs, 0, 0, 9, b"short")
    with pytest.raises(ValueError, match="a row is out of range"):
        end_rows(table_of(opened(tables, runs, 0, 0, 100)), struct.pack("<I", 2), 1)
    far = layers_of([[(1, 0, 3, 0, 1, 2, 0, 9)], [(1, 1 << 33, 3, 0, 1, 2, 0, 9)]])
    with pytest.raises(ValueError, match="too far apart"):
        pack_day(*far, 1, 0, FAR, KEY)
    with pytest.raises(TypeError):
        opened(tables, runs, 0, 0, 9).__reduce__()


def test_sealing_is_siphash_2_4() -> None:
    """The vector of the paper's appendix, of eight bytes: 0 .. 7 under the key 0 .. 15."""
    head, _ = pack_day([], [], 0, 0, 9, KEY)
    (check,) = struct.unpack_from("<Q", head)
    assert check == siphash(KEY, struct.pack("<Q", 1 << 56))
    assert siphash(KEY, bytes(range(8))) == 0x93F5F5799A932462


def siphash(key: bytes, data: bytes) -> int:
    mask = 2**64 - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D,
         k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]  # fmt: skip

    def turn(word: int, bits: int) -> int:
        return (word << bits | word >> (64 - bits)) & mask

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[1] = turn(v[1], 13) ^ v[0]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = turn(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = turn(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = turn(v[1], 17) ^ v[2]
            v[2] = turn(v[2], 32)

    for word in (struct.unpack("<Q", data)[0], 8 << 56):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


times = st.lists(st.integers(-3 * DAY_MS, 3 * DAY_MS) | st.integers(-(1 << 61), 1 << 61))


@settings(max_examples=150, deadline=None)
@given(times, st.integers(-DAY_MS, DAY_MS), st.none() | st.integers(-3, 3))
def test_scans_and_visits_by_day(times: list[int], zero_ms: int, floor_day: int | None) -> None:
    scans, visits = np.zeros(len(times), SCAN), np.zeros(len(times), VISIT)
    scans["time_ms"] = visits["start_ms"] = visits["end_ms"] = times
    scans["person"] = scans["stay_ms"] = np.arange(len(times)) // 3
    visits["place"] = np.arange(len(times)) // 2 % 3
    run, table = ScanRun([scans.tobytes()]), VisitTable(visits.tobytes())
    ended = np.array([(times[0], 0, 0)], ENDING) if times else np.zeros(0, ENDING)
    assert end_visits([table], ended.tobytes(), 5) == min(len(times), 1)

    days: dict[int, list[int]] = {}
    for time in times:
        day = (time - zero_ms) // DAY_MS
        days.setdefault(day if floor_day is None else max(day, floor_day), []).append(time)
    found = split_days(run, zero_ms, floor_day)
    assert list(found) == sorted(days)
    packed = run.between(-(1 << 62), 1 << 62)
    for day, some in found.items():
        expected = [
            scan.tobytes() for scan in np.frombuffer(packed, SCAN) if scan["time_ms"] in days[day]
        ]
        assert some.between(-(1 << 62), 1 << 62) == b"".join(expected)
        assert some.first_ms() == min(days[day])
        for person in {scan["person"] for scan in np.frombuffer(packed, SCAN)}:
            assert set(some.of_person(int(person))) <= set(run.of_person(int(person)))
    counts = {day: len(of_day) for day, of_day in days.items()}
    assert count_days(table, 4, zero_ms, floor_day) == counts
    for day in list(days)[:1]:  # of the first time, whose visit has ended
        counts[day] -= 1
    assert count_days(table, 5, zero_ms, floor_day) == {d: n for d, n in counts.items() if n}


def test_what_is_no_layer_in_memory_is_not_split() -> None:
    tables, runs = layers_of([[(1, 5, 3, 0, 1, 2, 0, 9)]])
    with pytest.raises(ValueError, match="lies in a file"):
        split_days(run_of(opened(tables, runs, 0, 0, FAR)), 0, None)
    with pytest.raises(ValueError, match="zero_ms is out of range"):
        split_days(runs[0], DAY_MS + 1, None)
    with pytest.raises(ValueError, match="floor_day is out of range"):
        count_days(tables[0], 0, 0, 1 << 63)


@pytest.mark.parametrize("seed", range(4))
def test_waves_over_many_days_find_what_is_there(seed: int) -> None:
    """More searches than a wave has, persons with many visits and none, numbers far apart."""
    rng = random.Random(seed)
    numbers = np.array([0, 1, 2, 3, 900, 901, 2**31, 2**32 - 2, 2**32 - 1], "<u4")
    visits = np.zeros(1500, VISIT)
    for row in visits:
        row["start_ms"] = rng.randrange(4000)
        row["end_ms"] = row["start_ms"] + rng.choice([1, 5, 90])
        row["person"] = rng.choice([1, 1, 1, *numbers.tolist()])
        row["place"] = rng.choice([1, 2, 3, 500, 2**32 - 1])
    visits["ref"] = np.arange(1, len(visits) + 1)
    whole = VisitTable(visits.tobytes())
    days: list[VisitTable] = []
    for first in range(0, 4000, 100):
        run = ScanRun(())
        days.append(table_of(opened([whole], [run], 0, first, first + 100)))
        if rng.random() < 0.2:
            mine = visits[(visits["start_ms"] >= first) & (visits["start_ms"] < first + 100)]
            days[-1] = VisitTable(mine.tobytes())
    for low, high in ((-FAR, FAR), (1000, 1700), (3999, 5000)):
        meant = visits[(visits["start_ms"] < high) & (visits["end_ms"] > low)]
        for tables in ([whole], days):
            found = visits_of_many(tables, numbers.data, low, high, 0)
            assert sorted_visits(found) == sorted_visits(meant.tobytes())
            for person in numbers.tolist():
                mine = meant[meant["person"] == person]
                assert sorted_visits(of_person(tables, person, low, high, 0)) == sorted_visits(
                    mine.tobytes()
                )
                assert len(times_of(tables, person, low, high, 0)) == len(mine)
        for person in (1, 2**31 - 1, 900):
            keys = b"".join(number.to_bytes(16, "big") for number in range(902))
            assert time_together(days, person, low, high, keys, 0) == time_together(
                [whole], person, low, high, keys, 0
            )
