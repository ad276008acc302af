"""native.scans and native.visits: runs, and what new scans change, against the slow rules."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import DAY_MS, HOUR_MS
from engine.presence.visits import SCAN, VISIT, PlaceRule, PlaceRules, VisitRules, rule_spans
from native.places import PlaceTable
from native.scans import ScanRun, merge_runs
from native.visits import derive_changes
from tests.reference.visits import Scan, reference_visits

STAYS = {1: 3, 2: 7, 3: 6, 4: 12, 5: 45}
POSTS = {1, 2}
PLACES = PlaceRules({n: PlaceRule(n in POSTS, stay) for n, stay in STAYS.items()})
ENDING = np.dtype([("start", "<i8"), ("person", "<u4"), ("place", "<u4")])
NAMES = ("time_ms", "place", "lane", "direction", "kind", "vehicle", "ref", "stay_ms")


def packed(scans: list[Scan]) -> memoryview:
    array = np.zeros(len(scans), SCAN)
    for at, s in enumerate(scans):
        array[at] = (
            s.time, s.ref, s.person, s.place, s.vehicle, s.stay, s.lane, s.direction, s.kind,
        )  # fmt: skip
    # numpy allocates no byte behind the last one, so ASan sees a step too far.
    return np.frombuffer(array.tobytes(), np.uint8).copy().data


def slow_visits(scans: list[Scan], rules: VisitRules) -> dict[tuple[int, int, int], tuple]:
    """By person, place and start all that a visit is."""
    return {
        (v.person, v.place, v.start): (
            v.end, v.rule, v.is_passage, v.is_start_inferred, v.room, v.direction, v.vehicle,
            v.scans, v.ref,
        )
        for v in reference_visits(scans, POSTS, STAYS, rules)
    }  # fmt: skip


def born_visits(data: bytes) -> dict[tuple[int, int, int], tuple]:
    return {
        (int(v["person"]), int(v["place"]), int(v["start_ms"])): (
            int(v["end_ms"]), int(v["rule"]), bool(v["flags"] & 1), bool(v["flags"] & 2),
            int(v["room"]), int(v["direction"]), int(v["vehicle"]), int(v["scans"]), int(v["ref"]),
        )
        for v in np.frombuffer(data, VISIT)
    }  # fmt: skip


scan = st.builds(
    Scan,
    person=st.integers(0, 2),
    time=st.integers(0, 400),
    place=st.sampled_from([*STAYS]),
    lane=st.integers(0, 2),
    direction=st.integers(0, 2),
    kind=st.integers(1, 3),
    vehicle=st.integers(0, 2),
    ref=st.integers(0, 9),
    stay=st.integers(1, 30) | st.just(0),
)
small_rules = st.builds(
    VisitRules,
    passage_window_ms=st.integers(0, 5),
    gap_ms=st.integers(0, 4),
    travel_ms=st.integers(0, 3),
    stay_max_ms=st.integers(1, 12) | st.integers(1, 40),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(scan, max_size=12), min_size=1, max_size=6), small_rules)
def test_changes_lead_from_what_was_to_what_is(parts: list[list[Scan]], rules: VisitRules) -> None:
    """Whatever came before: what ended was there, what came was not, and the rest is untouched."""
    runs: list[ScanRun] = []
    known: dict[tuple[int, int, int], tuple] = {}
    seen: list[Scan] = []
    for part in parts:
        run = ScanRun([packed(part)])
        changes = derive_changes(run, runs, PLACES.table, **rule_spans(rules))
        seen += part
        is_true = slow_visits(seen, rules)
        endings = np.frombuffer(changes.endings(), ENDING)
        ended = [(int(e["person"]), int(e["place"]), int(e["start"])) for e in endings]
        born = born_visits(changes.visits())
        assert len(changes.visits()) == VISIT.itemsize * len(born)
        assert set(ended) == {k for k, visit in known.items() if is_true.get(k) != visit}
        assert len(ended) == len(set(ended))
        assert born == {k: visit for k, visit in is_true.items() if known.get(k) != visit}
        assert [int(e["person"]) for e in endings] == sorted(int(e["person"]) for e in endings)
        known = is_true
        runs.append(run)
    once = derive_changes(merge_runs(runs), [], PLACES.table, **rule_spans(rules))
    assert born_visits(once.visits()) == known
    assert once.endings() == b""
    again = derive_changes(merge_runs(runs), runs, PLACES.table, **rule_spans(rules))
    assert (again.visits(), again.endings()) == (b"", b"")


def test_far_away_nothing_is_touched() -> None:
    days = [Scan(7, 1000 * day, 3, 0, 1, 2, ref=day) for day in range(500)]
    late = [Scan(7, 250_002, 3, 0, 1, 2, ref=900)]
    changes = derive_changes(
        ScanRun([packed(late)]), [ScanRun([packed(days)])], PLACES.table, **rule_spans(VisitRules(
            passage_window_ms=4, gap_ms=3, stay_max_ms=30
        )),
    )  # fmt: skip
    assert np.frombuffer(changes.endings(), ENDING)["start"].tolist() == [250_000]
    assert len(changes.visits()) == VISIT.itemsize


@settings(deadline=None)
@given(st.lists(st.lists(scan, max_size=15), max_size=5))
def test_a_run_is_the_set_of_its_scans(parts: list[list[Scan]]) -> None:
    whole = ScanRun([packed(part) for part in parts])
    merged = merge_runs([ScanRun([packed(part)]) for part in parts])
    found = np.frombuffer(whole.between(-1, 1000), SCAN)
    assert whole.between(-1, 1000) == merged.between(-1, 1000)
    scans = [scan for part in parts for scan in part]
    keys = {(s.person, s.time, s.place, s.direction != 2, s.lane, s.direction, s.kind)
            for s in scans}  # fmt: skip
    assert len(found) == len(whole) == len(merged) == len(keys)
    order = [(s["person"], s["time_ms"], s["place"], s["direction"] != 2, s["lane"],
              s["direction"], s["kind"]) for s in found]  # fmt: skip
    assert order == sorted(keys)
    for row in found:
        copies = [s for s in scans if (s.person, s.time, s.place, s.lane, s.direction, s.kind) ==
                  tuple(int(row[n]) for n in ("person", *NAMES[:5]))]  # fmt: skip
        vehicles = [s.vehicle for s in copies if s.vehicle]
        assert row["vehicle"] == min(vehicles, default=0)
        assert (row["ref"], row["stay_ms"]) == (
            min(s.ref for s in copies), max(s.stay for s in copies),
        )  # fmt: skip
    some = np.frombuffer(whole.between(20, 60), SCAN)
    assert some.tolist() == found[(found["time_ms"] >= 20) & (found["time_ms"] < 60)].tolist()
    assert whole.since(40).between(0, 1000) == whole.between(40, 1000)


@pytest.mark.parametrize("count", [63, 64, 65, 300])
def test_many_scans_of_one_person(count: int) -> None:
    """Beyond what is sorted by insertion, in no order, at one place and at many."""
    rng = random.Random(count)
    rules = VisitRules(passage_window_ms=4, gap_ms=3, travel_ms=1, stay_max_ms=30)
    scans = [
        Scan(5, rng.randrange(4 * count), rng.choice([*STAYS]), 0, rng.randrange(3), 2, ref=n + 1)
        for n in range(count)
    ]
    changes = derive_changes(ScanRun([packed(scans)]), [], PLACES.table, **rule_spans(rules))
    assert born_visits(changes.visits()) == slow_visits(scans, rules)


def test_the_ends_of_time() -> None:
    wide = VisitRules(2**60, 2**60, 2**60, 2**60, 2**60)
    places = PlaceTable(
        [(3, False, 2**70, 0, (), 0), (1, True, 2**62, 0, (), 0)], (False, 2**63 - 1)
    )
    ends = [Scan(1, at, place, 0, way, 2) for at in (-(2**61), 0, 2**61) for place in (1, 3, 9)
            for way in (0, 2)]  # fmt: skip
    found = derive_changes(ScanRun([packed(ends)]), [], places, **rule_spans(wide))
    visits = np.frombuffer(found.visits(), VISIT)
    length = visits["end_ms"] - visits["start_ms"]
    assert len(visits) > 5
    assert ((length > 0) & (length <= 2**60)).all()
    assert (np.abs(visits["end_ms"]) < 2**62).all()


def test_bad_input_is_refused() -> None:
    run = ScanRun([])
    for size in (1, 35, 37):
        with pytest.raises(ValueError, match=r"^scans has a broken size$"):
            ScanRun([bytes(36), bytes(size)])
    for instant in (-(2**61) - 1, 2**61 + 1, 2**63 - 1, -(2**63)):
        with pytest.raises(ValueError, match=r"^a scan is out of range$"):
            ScanRun([packed([Scan(1, instant, 1, 0, 0, 1)])])
    with pytest.raises(ValueError, match=r"^runs are too many$"):
        merge_runs([run] * 1025)
    spans = rule_spans(VisitRules())
    with pytest.raises(ValueError, match=r"^runs are too many$"):
        derive_changes(run, [run] * 1025, PLACES.table, **spans)
    for name in spans:
        for value in (-1, 2**60 + 1, 2**64):
            with pytest.raises(ValueError, match=rf"^{name} is out of range$"):
                derive_changes(run, [], PLACES.table, **{**spans, name: value})
    with pytest.raises(ValueError, match=r"^stay_max_ms is out of range$"):
        derive_changes(run, [], PLACES.table, **{**spans, "stay_max_ms": 0})
    for number in (-1, 2**32):
        with pytest.raises(ValueError, match=r"^place is out of range$"):
            PlaceTable([(number, False, 1, 0, (), 0)], (False, 1))
    for stay in (0, -1):
        with pytest.raises(ValueError, match=r"^default stay is out of range$"):
            PlaceTable([(1, False, stay, 0, (), 0)], (False, 1))
        with pytest.raises(ValueError, match=r"^default stay is out of range$"):
            PlaceTable([], (False, stay))
    for until in (-1, 3):
        with pytest.raises(ValueError, match=r"^until is out of range$"):
            PlaceTable([(1, False, 1, until, (), 0)], (False, 1))
    for begin in (-(2**63), 2**62 + 1):
        with pytest.raises(ValueError, match=r"^a rule's beginning is out of range$"):
            PlaceTable([(1, False, 1, 0, (), begin)], (False, 1))
    with pytest.raises(ValueError, match=r"^trips is out of range$"):
        PlaceTable([(1, False, 1, 2, (((0, 1),) * 7,) * 65, 0)], (False, 1))
    wrongs: list[Any] = [None, 1, b"run", [run]]
    for wrong in wrongs:
        with pytest.raises(TypeError):
            derive_changes(wrong, [], PLACES.table, **spans)
        with pytest.raises(TypeError):
            derive_changes(run, [wrong], PLACES.table, **spans)
        with pytest.raises(TypeError):
            derive_changes(run, [], wrong, **spans)
        with pytest.raises(TypeError):
            merge_runs([wrong])
    for made in (run, PLACES.table, derive_changes(run, [], PLACES.table, **spans)):
        with pytest.raises(TypeError, match=r"pickled"):
            made.__reduce__()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=36 * 12), st.binary(max_size=36 * 12))
def test_any_bytes_are_scans_or_refused(old: bytes, new: bytes) -> None:
    runs = []
    for data in (old[: len(old) // 36 * 36], new[: len(new) // 36 * 36]):
        array = np.frombuffer(data, SCAN).copy()
        array["time_ms"] >>= 2
        runs.append(ScanRun([np.frombuffer(array.tobytes(), np.uint8).copy().data]))
    changes = derive_changes(runs[1], runs[:1], PLACES.table, **rule_spans(VisitRules()))
    assert len(changes.visits()) % VISIT.itemsize == 0


def test_rules_by_number_are_found_among_many() -> None:
    rng = random.Random(4)
    numbers = rng.sample(range(2**32), 5000)
    places = PlaceTable([(n, False, 1 + n % 977, 0, (), 0) for n in numbers], (False, 1000))
    asked = [*numbers[:300], *rng.sample(range(2**32), 50)]
    scans = [Scan(person, 0, place, 0, 1, 2) for person, place in enumerate(asked)]
    changes = derive_changes(
        ScanRun([packed(scans)]), [], places, **rule_spans(VisitRules(stay_max_ms=5000))
    )
    known = set(numbers)
    for visit in np.frombuffer(changes.visits(), VISIT):
        place = int(visit["place"])
        assert visit["end_ms"] == (1 + place % 977 if place in known else 1000)


@pytest.mark.parametrize("top", [1, 7, 300, 2**31, 2**32 - 1])
def test_persons_are_found_in_runs_of_any_size(top: int) -> None:
    """Piecewise and all at once give the same, however the numbers lie."""
    rng = random.Random(top)
    people = sorted({rng.randrange(top + 1) for _ in range(200)} | {0, top})
    scans = [
        Scan(rng.choice(people), rng.randrange(10**9), rng.randrange(5), 0, 1, 2, ref=n + 1)
        for n in range(2200)
    ]
    spans = rule_spans(VisitRules())
    runs: list[ScanRun] = []
    known: dict[tuple[int, int, int], tuple] = {}
    for size in (1500, 500, 150, 49, 1):
        part, scans = scans[:size], scans[size:]
        run = ScanRun([packed(part)])
        changes = derive_changes(run, runs, PLACES.table, **spans)
        for ending in np.frombuffer(changes.endings(), ENDING):
            del known[int(ending["person"]), int(ending["place"]), int(ending["start"])]
        born = born_visits(changes.visits())
        assert not born.keys() & known.keys()
        known |= born
        runs.append(run)
    once = derive_changes(merge_runs(runs), [], PLACES.table, **spans)
    assert born_visits(once.visits()) == known


def test_piece_by_piece_where_rules_are_dated() -> None:
    """Guests until noon, trips and stays that change: what is new reaches as far as they do."""
    trips = tuple(((at, at + 1200),) * 7 for at in (300, 500))
    inn = PlaceRule(
        False, 18 * HOUR_MS, is_until_noon=True, from_ms=2 * DAY_MS,
        earlier=(PlaceRule(False, 20 * HOUR_MS),),
    )  # fmt: skip
    bus = PlaceRule(False, 4 * HOUR_MS, trips=trips, earlier=(PlaceRule(False, 1),), from_ms=DAY_MS)
    table = PlaceRules({1: PlaceRule(True, 600_000), 3: bus, 9: inn}).table
    rng = random.Random(31)
    for _ in range(40):
        scans = [
            Scan(rng.randrange(3), rng.randrange(6 * DAY_MS), rng.choice((1, 3, 9)), 0,
                 rng.randrange(3), 2, ref=n + 1)
            for n in range(rng.randrange(1, 40))
        ]  # fmt: skip
        spans = rule_spans(VisitRules(stay_max_ms=rng.choice((DAY_MS, 9 * HOUR_MS))))
        runs: list[ScanRun] = []
        known: dict[tuple[int, int, int], tuple] = {}
        for one in scans:
            run = ScanRun([packed([one])])
            changes = derive_changes(run, runs, table, **spans)
            for ending in np.frombuffer(changes.endings(), ENDING):
                del known[int(ending["person"]), int(ending["place"]), int(ending["start"])]
            known |= born_visits(changes.visits())
            runs.append(run)
        once = derive_changes(merge_runs(runs), [], table, **spans)
        assert born_visits(once.visits()) == known
