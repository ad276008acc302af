"""The index against the oracle: any order, any split into groups, questions asked in between."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.colocation.index
from engine.clock import DAY_MS, HOUR_MS, MINUTE_MS, day_to_ms, ms_to_day
from engine.colocation.found import ref_to_position
from engine.colocation.index import CoLocationIndex
from engine.presence.contacts import CONTACT, PAIR, PairFlag, Tier
from engine.presence.visits import PlaceRule, PlaceRules, VisitFlag, VisitRules
from engine.scans.rows import ROW, Kind
from tests.reference.tracing import (
    Contact,
    in_order,
    reference_contacts,
    reference_history,
    reference_venue,
)
from tests.reference.visits import Scan, Visit, reference_visits

# Keys that differ in their first, middle and last byte, and one that ends with zeros.
KEYS = [
    bytes(16),
    b"\0" * 15 + b"\1",
    b"\0" * 7 + b"\2" + b"\0" * 8,
    b"\xff" * 16,
    b"k" + bytes(15),
]
POSTS = {1, 2}
STAYS = {1: 5, 2: 9, 3: 6, 4: 12, 5: 45}
PLACES = PlaceRules({n: PlaceRule(n in POSTS, stay) for n, stay in STAYS.items()})
RULES = VisitRules(passage_window_ms=4, gap_ms=3, travel_ms=1, stay_max_ms=30, queue_ms=2)


@dataclass
class Group:
    lsn: int
    rows: np.ndarray


def scans_to_rows(scans):
    rows = np.zeros(len(scans), ROW)
    for row, scan in zip(rows, scans, strict=True):
        row["person"] = np.frombuffer(scan.person, "V16")[0]
        row["time_ms"], row["place"], row["lane"] = scan.time, scan.place, scan.lane
        row["direction"], row["kind"], row["vehicle"] = scan.direction, scan.kind, scan.vehicle
    return rows


def groups_of(scans, rng, first_lsn=1):
    """The scans in groups of random size, some of them empty, with gaps between the numbers."""
    groups, at, lsn = [], 0, first_lsn
    while at < len(scans):
        size = rng.choice([0, 1, 1, 2, 5, 20])
        groups.append(Group(lsn, scans_to_rows(scans[at : at + size])))
        at, lsn = at + size, lsn + rng.randrange(1, 4)
    return groups


def found_visits(found):
    return [
        Visit(
            found.persons[v["person"]].tobytes(), int(v["place"]), int(v["start_ms"]),
            int(v["end_ms"]), int(v["rule"]), bool(v["flags"] & VisitFlag.PASSAGE),
            bool(v["flags"] & VisitFlag.START_INFERRED), int(v["room"]), int(v["direction"]),
            int(v["vehicle"]), int(v["scans"]), 0,
        )
        for v in found.visits
    ]  # fmt: skip


def met_contacts(met):
    listed = []
    for row, (contact, key) in enumerate(zip(met.contacts, met.persons, strict=True)):
        pairs = met.pairs[met.pairs["contact"] == row]
        names = ("case_start_ms", "case_end_ms", "other_start_ms", "other_end_ms", "place")
        names += ("overlap_ms", "linger_ms")
        rows = sorted(tuple(int(pair[name]) for name in names) for pair in pairs)
        assert len(rows) == contact["pairs"]
        numbers = [
            int(contact[name])
            for name in ("overlap_ms", "linger_ms", "best_ms", "queue_ms", "first_ms", "last_ms")
        ]
        listed.append(
            Contact(
                key.tobytes(), Tier(contact["tier"]).name.lower(), *numbers,
                int(contact["places"]), bool(contact["flags"] & PairFlag.SAME_VEHICLE), tuple(rows),
            )
        )  # fmt: skip
    return listed


scan_lists = st.lists(
    st.builds(
        Scan,
        person=st.sampled_from(KEYS),
        time=st.integers(-20, 60),
        place=st.sampled_from([*STAYS]),
        lane=st.integers(0, 1),
        direction=st.integers(0, 2),
        kind=st.integers(1, 2),
        vehicle=st.sampled_from([0, 0, 7, 8]),
    ),
    max_size=40,
)
spans = st.tuples(st.integers(-40, 80), st.integers(1, 60)).map(lambda s: (s[0], s[0] + s[1]))
key_sets = st.lists(st.sampled_from([*KEYS, b"u" * 16]), min_size=1, max_size=3, unique=True)
place_sets = st.none() | st.sets(st.sampled_from([*STAYS, 99]), max_size=3)


@settings(max_examples=120, deadline=None)
@given(
    scan_lists, spans, key_sets, place_sets, st.integers(0, 6), st.integers(0, 20),
    st.integers(1, 40), st.randoms(use_true_random=False),
)  # fmt: skip
def test_answers_equal_the_oracle(scans, span, keys, places, linger, least, window, rng):
    arrived = scans + rng.choices(scans, k=len(scans) // 2) if scans else []
    rng.shuffle(arrived)
    index = CoLocationIndex(PLACES, RULES)
    for group in groups_of(arrived, rng):
        index.apply(group)
        if rng.random() < 0.3:
            index.snapshot()
    visits = reference_visits(scans, POSTS, STAYS, RULES)
    for place in (*STAYS, 99, -1, 1 << 40):
        assert found_visits(index.venue(place, *span)) == reference_venue(visits, place, *span)
    asked = index.snapshot().history(keys, *span, places=places)
    assert found_visits(asked) == reference_history(visits, keys, *span, places)
    met = index.snapshot().contacts(
        keys, *span, linger_ms=linger, min_overlap_ms=least, window_ms=window, places=places
    )
    listed, below = reference_contacts(
        visits, keys, *span, linger=linger, least=least, window=window,
        queue=RULES.queue_ms, places=places,
    )  # fmt: skip
    assert met_contacts(met) == listed
    assert met.below == below


@settings(max_examples=60, deadline=None)
@given(scan_lists, st.randoms(use_true_random=False))
def test_questions_in_between_see_what_was_applied(scans, rng):
    index = CoLocationIndex(PLACES, RULES)
    seen = []
    for group in groups_of(scans, rng):
        index.apply(group)
        seen += scans[len(seen) : len(seen) + len(group.rows)]
        found = index.history(KEYS, -1000, 1000)
        expected = in_order(reference_visits(seen, POSTS, STAYS, RULES))
        assert (found_visits(found), found.lsn) == (expected, group.lsn)
    once = CoLocationIndex(PLACES, RULES)
    for group in groups_of(scans, rng):
        once.apply(group)
    assert found_visits(once.history(KEYS, -1000, 1000)) == found_visits(
        index.history(KEYS, -1000, 1000)
    )


def random_scans(rng, count, persons=300, places=STAYS, span=50):
    return [
        Scan(
            rng.randrange(persons).to_bytes(2, "big") * 8, rng.randrange(span),
            rng.choice([*places]), rng.randrange(3), rng.randrange(3), rng.randrange(1, 4),
        )
        for _ in range(count)
    ]  # fmt: skip


def test_many_small_groups_stay_in_few_layers():
    rng = random.Random(7)
    scans = random_scans(rng, 3000)
    index = CoLocationIndex(PLACES, RULES)
    for number in range(150):
        index.apply(Group(number + 1, scans_to_rows(scans[number * 20 : number * 20 + 20])))
        assert len(index.snapshot().layers) <= 6
    # Again and again one person: the layer of the rest stays, with what it hides.
    for number in range(151, 156):
        scans.append(Scan(scans[0].person, number - 120, 3, 0, 1, 2))
        index.apply(Group(number, scans_to_rows(scans[-1:])))
        index.snapshot()
    snapshot = index.snapshot()
    assert len(snapshot.layers) > 1
    persons = {scan.person for scan in scans}
    visits = reference_visits(scans, POSTS, STAYS, RULES)
    assert found_visits(snapshot.history(persons, -1000, 1000)) == in_order(visits)
    assert index.expire(-1000) == 0
    for person in sorted(persons)[:3]:
        met = snapshot.contacts([person], 0, 60, window_ms=20)
        assert (met_contacts(met), met.below) == reference_contacts(
            visits, [person], 0, 60, window=20, queue=RULES.queue_ms
        )
    assert index.expire(1000) == len({(*vars(s).values(),) for s in scans})
    assert found_visits(snapshot.venue(3, 0, 60)) == reference_venue(visits, 3, 0, 60)
    assert snapshot.history(persons, -1000, 1000).total == 0


def test_a_vehicle_counts_only_together():
    scans = [Scan(KEYS[0], 0, 3, 0, 1, 2, 7), Scan(KEYS[0], 4, 3, 0, 2, 2, 7)]
    scans.append(Scan(KEYS[1], 6, 3, 0, 1, 2, 7))
    index = CoLocationIndex(PLACES, RULES)
    index.apply(Group(1, scans_to_rows(scans)))
    met = index.snapshot().contacts([KEYS[0]], 0, 100, linger_ms=10, min_overlap_ms=50)
    assert (len(met.contacts), met.below) == (0, 1)


def test_the_best_window_may_end_with_a_meeting():
    """Two places at once count double, so that the best window need not begin with a meeting."""
    both = [Scan(key, 0, 4, 0, 1, 2) for key in KEYS[:2]]
    both += [Scan(key, 10, place, 0, 1, 2) for key in KEYS[:2] for place in (3, 4)]
    both += [Scan(key, 20, place, 0, 2, 2) for key in KEYS[:2] for place in (3, 4)]
    index = CoLocationIndex(PLACES, RULES)
    index.apply(Group(1, scans_to_rows(both)))
    met = index.snapshot().contacts([KEYS[0]], 0, 100, window_ms=15)
    assert met.contacts["best_ms"].tolist() == [25]
    visits = reference_visits(both, POSTS, STAYS, RULES)
    expected, _ = reference_contacts(visits, [KEYS[0]], 0, 100, window=15, queue=2)
    assert met_contacts(met) == expected


def test_refs_lead_to_the_rows():
    rng = random.Random(8)
    scans = random_scans(rng, 400, persons=30)
    index = CoLocationIndex(PLACES, RULES)
    groups = {group.lsn: group for group in groups_of(scans, rng)}
    for group in groups.values():
        index.apply(group)
    found = index.history({scan.person for scan in scans}, -1000, 1000)
    for visit in found.visits:
        lsn, row = ref_to_position(int(visit["ref"]))
        evidence = groups[lsn].rows[row]
        assert evidence["person"] == found.persons[visit["person"]]
        assert evidence["place"] == visit["place"]
        assert visit["start_ms"] <= evidence["time_ms"] <= visit["end_ms"]
    for person, ref in zip(found.persons, found.newest, strict=True):
        lsn, row = ref_to_position(int(ref))
        assert index.last_details_ref(person.tobytes()) == (lsn, row)
        assert groups[lsn].rows[row]["person"] == person
        times = [scan.time for scan in scans if scan.person == person.tobytes()]
        assert groups[lsn].rows[row]["time_ms"] == max(times)
    assert index.last_details_ref(b"nobody is here !") is None


def test_a_group_counts_once_and_a_strange_one_is_refused():
    index = CoLocationIndex(PLACES, RULES)
    group = Group(5, scans_to_rows([Scan(KEYS[0], 1, 3, 0, 1, 2)]))
    index.apply(group)
    index.apply(group)
    index.apply(Group(4, scans_to_rows([Scan(KEYS[1], 1, 3, 0, 1, 2)])))
    assert index.applied_lsn == 5
    assert len(index.venue(3, 0, 100).visits) == 1
    for lsn in (0, 1 << 44):
        with pytest.raises(ValueError):
            index.apply(Group(lsn, group.rows))


def test_limits_cut_and_say_so():
    scans = [Scan(bytes([n]) * 16, n, 4, 0, 1, 2) for n in range(8)]
    index = CoLocationIndex(PLACES, RULES)
    index.apply(Group(1, scans_to_rows(scans)))
    found = index.snapshot().venue(4, 0, 100, limit=3)
    assert (found.visits["start_ms"].tolist(), found.total) == ([0, 1, 2], 8)
    assert [key[0] for key in (p.tobytes() for p in found.persons)] == [0, 1, 2]
    met = index.snapshot().contacts([bytes(16)], 0, 100, limit=2)
    assert [p.tobytes()[0] for p in met.persons] == [1, 2]
    assert (met.total, met.pairs["contact"].tolist()) == (7, [0, 1])


def test_other_rules_and_expiry():
    scans = [Scan(KEYS[0], 0, 3, 0, 1, 2), Scan(KEYS[1], 40, 3, 0, 1, 2)]
    index = CoLocationIndex(PLACES, RULES)
    index.apply(Group(1, scans_to_rows(scans)))
    before = index.snapshot()
    index.set_place_rules(PlaceRules({3: PlaceRule(False, 20)}))
    assert index.venue(3, 0, 100).visits["end_ms"].tolist() == [20, 60]
    index.set_place_rules(PLACES, VisitRules(stay_max_ms=2))
    assert index.venue(3, 0, 100).visits["end_ms"].tolist() == [2, 42]
    assert index.expire(30) == 1
    assert index.venue(3, 0, 100).visits["start_ms"].tolist() == [40]
    assert index.last_details_ref(KEYS[0]) is None
    assert index.expire(1000) == 1
    assert len(index.venue(3, 0, 100).visits) == 0
    index.apply(Group(2, scans_to_rows(scans)))
    assert len(index.venue(3, 0, 100).visits) == 2
    assert before.venue(3, 0, 100).visits["end_ms"].tolist() == [6, 46]


def test_a_wild_clock_neither_breaks_the_search_nor_hides_others():
    wild = [-(1 << 60), 0, 5, 1 << 60]
    scans = [Scan(KEYS[n], time, 4, 0, 1, 2) for n, time in enumerate(wild)]
    scans += [Scan(KEYS[4], 5, n, 0, 1, 2) for n in range(100, 3000)]
    index = CoLocationIndex(PLACES, RULES)
    index.apply(Group(1, scans_to_rows(scans)))
    assert index.venue(4, 0, 100).visits["start_ms"].tolist() == [0, 5]
    assert index.venue(4, -(1 << 62), 1 << 62).visits["start_ms"].tolist() == wild
    assert index.contacts([KEYS[1]], -(1 << 62), 1 << 62).contacts["overlap_ms"].tolist() == [7]


def test_figures_of_a_day():
    day = ms_to_day(1_625_097_600_000)
    begin = day_to_ms(day)
    rng = random.Random(9)
    rules = VisitRules()
    stays = {place: 10 * MINUTE_MS if place in POSTS else HOUR_MS for place in STAYS}
    places = PlaceRules({n: PlaceRule(n in POSTS, stay) for n, stay in stays.items()})
    scans = [
        Scan(
            bytes([rng.randrange(60)]) * 16, begin + rng.randrange(-DAY_MS, 2 * DAY_MS),
            rng.choice([*stays]), rng.randrange(3), rng.randrange(3), rng.randrange(1, 4),
        )
        for _ in range(600)
    ]  # fmt: skip
    index = CoLocationIndex(places, rules)
    for group in groups_of(scans + scans[:50], rng):
        index.apply(group)
        index.snapshot()
    figures = index.figures(day)
    visits = reference_visits(scans, POSTS, stays, rules)
    today = [scan for scan in set(scans) if ms_to_day(scan.time) == day]
    begun = [visit for visit in visits if ms_to_day(visit.start) == day]
    for row in figures.places:
        here = [scan for scan in today if scan.place == row["place"]]
        kinds = Counter(scan.kind for scan in here)
        assert (row["scans"], row["checkins"], row["manuals"]) == (kinds[1], kinds[2], kinds[3])
        assert row["persons"] == len({scan.person for scan in here})
        count = sum(visit.place == row["place"] for visit in begun)
        assert row["visits"] + row["passages"] == count
        assert (row["visits"] == 0) == (row["place"] in POSTS)
    assert figures.persons == len({scan.person for scan in today})
    passages = Counter((v.place, v.room, v.direction) for v in begun if v.is_passage)
    assert {
        (int(p["place"]), int(p["lane"]), int(p["direction"])): int(p["count"])
        for p in figures.passages
    } == passages
    empty = index.figures(day + 100)
    assert (len(empty.places), len(empty.passages), empty.persons) == (0, 0, 0)


def test_one_writer_and_many_readers():
    rng = random.Random(10)
    scans = random_scans(rng, 900, persons=60)
    groups = [Group(n + 1, scans_to_rows(scans[n * 10 : n * 10 + 10])) for n in range(90)]
    quiet = CoLocationIndex(PLACES, RULES)
    expected = {0: []}
    for group in groups:
        quiet.apply(group)
        expected[group.lsn] = found_visits(quiet.venue(3, 0, 1000))
    index = CoLocationIndex(PLACES, RULES)
    faults, done = [], threading.Event()

    def ask():
        lsn = 0
        while not (done.is_set() and lsn == 90):
            found = index.venue(3, 0, 1000)
            if found.lsn < lsn or found_visits(found) != expected[found.lsn]:
                faults.append(found.lsn)
                return
            lsn = found.lsn

    readers = [threading.Thread(target=ask) for _ in range(3)]
    for reader in readers:
        reader.start()
    for group in groups:
        index.apply(group)
    done.set()
    for reader in readers:
        reader.join(timeout=30)
    assert not faults
    assert index.snapshot().lsn == 90


def test_nobody_met_nobody():
    index = CoLocationIndex(PLACES, RULES)
    assert len(index.venue(3, 0, 10).visits) == 0
    for _ in range(2):
        met = index.contacts([KEYS[0]], 0, 10)
        assert (len(met.contacts), met.contacts.dtype) == (0, CONTACT)
        assert (len(met.pairs), met.pairs.dtype, met.total, met.below) == (0, PAIR, 0, 0)
        index.apply(Group(1, scans_to_rows([Scan(KEYS[0], 1, 3, 0, 1, 2)])))


def test_readings_are_no_presence_and_leave_refs_alone():
    index = CoLocationIndex(PlaceRules({}))
    rows = np.zeros(4, ROW)
    rows["person"] = [np.void(bytes(16)), np.void(KEYS[0]), np.void(KEYS[0]), np.void(KEYS[1])]
    rows["kind"] = [Kind.READING, Kind.SCAN, Kind.READING, Kind.SCAN]
    rows["place"], rows["time_ms"] = 5, [0, 1000, 2000, 3000]
    index.apply(Group(7, rows))
    found = index.venue(5, 0, 10_000)
    assert [int(visit["scans"]) for visit in found.visits] == [1, 1]
    assert [int(visit["ref"]) for visit in found.visits] == [7 << 20 | 1, 7 << 20 | 3]
    assert index.person_count == 2


def test_a_thread_keeps_up_while_others_apply_and_ask(monkeypatch):
    """Small layers, so that merges run beside refreshes; what ends meanwhile stays ended."""
    monkeypatch.setattr("engine.colocation.index.REFRESH_S", 0.001)
    monkeypatch.setattr("engine.colocation.index.INLINE_SCANS", 20)
    rng = random.Random(12)
    scans = random_scans(rng, 3000, persons=60, span=200)
    groups = groups_of(scans, rng)
    index = CoLocationIndex(PLACES, RULES)
    index.start()
    faults, done = [], threading.Event()

    def ask():
        lsn = 0
        while not done.is_set():
            found = index.venue(3, -1000, 1000)
            visits = found_visits(found)
            if found.lsn < lsn or len({(v.person, v.start) for v in visits}) != len(visits):
                faults.append(found.lsn)
            lsn = found.lsn

    readers = [threading.Thread(target=ask) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number, group in enumerate(groups):
        index.apply(group)
        if number % 20 == 0:
            index.snapshot()
    done.set()
    for reader in readers:
        reader.join(timeout=30)
    persons = {scan.person for scan in scans}
    expected = in_order(reference_visits(scans, POSTS, STAYS, RULES))
    assert found_visits(index.history(persons, -1000, 1000)) == expected
    index.stop()
    index.stop()
    assert not faults
    assert len(index.snapshot().layers) <= 32
    index.compact()
    assert len(index.snapshot().layers) == 1
    assert found_visits(index.history(persons, -1000, 1000)) == expected
    index.start()
    index.apply(Group(groups[-1].lsn + 1, groups[0].rows))
    deadline = time.monotonic() + 20
    while index._snapshot.lsn != index.applied_lsn:
        assert time.monotonic() < deadline, "nobody asked, and nobody kept up"
        time.sleep(0.005)
    index.stop()


def test_what_ends_during_a_merge_has_ended_in_what_it_gives(monkeypatch):
    index = CoLocationIndex(PLACES, RULES)
    monkeypatch.setattr("engine.colocation.layers.MERGE_RATIO", 0)
    for lsn, start in ((1, 0), (2, 20)):
        index.apply(Group(lsn, scans_to_rows([Scan(KEYS[0], start, 3, 0, 1, 2)])))
        index.snapshot()
    monkeypatch.undo()
    merge = engine.colocation.index.merge_layers

    def merge_slowly(layers):
        merged = merge(layers)
        monkeypatch.undo()
        # Two scans come while the merge is at work: each makes a visit another.
        for lsn, at in ((3, 21), (4, 22)):
            index.apply(Group(lsn, scans_to_rows([Scan(KEYS[0], at, 3, 0, 1, 2)])))
            index.snapshot()
        return merged

    monkeypatch.setattr("engine.colocation.index.merge_layers", merge_slowly)
    index._keeper = threading.current_thread()
    index._merge_due()
    found = index.snapshot()
    assert [len(layer.scans) for layer in found.layers] == [2, 2]
    assert found.venue(3, 0, 100).visits["end_ms"].tolist() == [6, 28]
    index._keeper = None
    index.compact()
    assert index.venue(3, 0, 100).visits["scans"].tolist() == [1, 3]


def test_what_pours_in_is_derived_before_layers_are_merged(monkeypatch):
    monkeypatch.setattr("engine.colocation.index.FLOOD_SCANS", 1)
    monkeypatch.setattr("engine.colocation.index.FLOOD_LAYERS", 4)
    index = CoLocationIndex(PLACES, RULES)
    index._keeper = threading.current_thread()
    sizes = []
    for lsn in range(1, 7):
        with monkeypatch.context() as patch:  # each a layer of its own until the thread merges
            patch.setattr("engine.colocation.layers.MERGE_RATIO", 0)
            index.snapshot()
        index.apply(Group(lsn, scans_to_rows([Scan(KEYS[0], 20 * lsn, 3, 0, 1, 2)])))
        index._merge_due()  # the newest group waits to be derived
        sizes.append([len(layer.scans) for layer in index._snapshot.layers])
    assert sizes == [[], [1], [1, 1], [1, 1, 1], [4], [4, 1]]
    with monkeypatch.context() as patch:
        patch.setattr("engine.colocation.layers.MERGE_RATIO", 0)
        index.snapshot()
    index._merge_due()  # nothing waits any more
    assert [len(layer.scans) for layer in index._snapshot.layers] == [6]
    assert index.venue(3, 0, 200).visits["start_ms"].tolist() == [20, 40, 60, 80, 100, 120]


def test_a_lost_visit_is_derived_anew(monkeypatch, caplog):
    index = CoLocationIndex(PLACES, RULES)
    index.apply(Group(1, scans_to_rows([Scan(key, 0, 3, 0, 1, 2) for key in KEYS])))
    before = index.snapshot()
    monkeypatch.setattr("engine.colocation.index.end_visits", lambda *_: 0)
    index.apply(Group(2, scans_to_rows([Scan(KEYS[0], 1, 3, 0, 1, 2)])))
    found = index.venue(3, 0, 100)
    assert sorted(found.visits["scans"].tolist()) == [1, 1, 1, 1, 2]
    assert "visits derived anew" in caplog.text
    assert len(before.venue(3, 0, 100).visits) == len(KEYS)


def test_plain_answers():
    scans = [
        Scan(KEYS[0], 0, 4, 0, 1, 2),
        Scan(KEYS[1], 5, 4, 0, 1, 2),
        Scan(KEYS[2], 1, 3, 0, 1, 2),
    ]
    index = CoLocationIndex(PLACES, RULES)
    index.apply(Group(1, scans_to_rows(scans)))
    found = index.snapshot()
    assert found.people_at(4, 0, 5) == {KEYS[0]}
    assert found.people_at(4, 0, 6) == {KEYS[0], KEYS[1]}
    assert found.times_of(KEYS[1], 0, 100) == [(5, 12, 4)]
    assert found.time_together(KEYS[0], -(1 << 63), 1 << 63) == {KEYS[1]: 7}
    later = index.snapshot()
    index.apply(Group(2, scans_to_rows([Scan(KEYS[3], 0, 4, 0, 1, 2)])))
    assert index.snapshot().times_of(KEYS[3], 0, 100) == [(0, 12, 4)]
    assert later.times_of(KEYS[3], 0, 100) == []
    assert later.time_together(KEYS[3], 0, 100) == {}


def test_a_stop_that_comes_while_it_goes_to_work_is_heard(monkeypatch):
    index = CoLocationIndex(PLACES, RULES)

    def look_too_early():
        index._stopping.set()
        index._has_come.set()
        return False

    monkeypatch.setattr(index, "_wait_for_more", look_too_early)
    index.start()
    index.apply(Group(1, scans_to_rows([Scan(KEYS[0], 1, 3, 0, 1, 2)])))
    index._keeper.join(timeout=20)
    assert not index._keeper.is_alive()


def test_a_new_place_has_its_rule_at_once_and_nothing_else_changes():
    places = PlaceRules({3: PlaceRule(False, 20)})
    index = CoLocationIndex(places)
    index.apply(Group(1, scans_to_rows([Scan(KEYS[0], 100, 3, 0, 1, 2)])))
    index.snapshot()
    places.extend({3: PlaceRule(False, 20), 7: PlaceRule(False, 55)})
    index.apply(Group(2, scans_to_rows([Scan(KEYS[0], 500, 7, 0, 1, 2)])))
    found = index.venue(7, 0, 1000).visits
    assert (found["start_ms"].tolist(), found["end_ms"].tolist()) == ([500], [555])
    assert index.venue(3, 0, 1000).visits["end_ms"].tolist() == [120]
