"""Visits: each rule by example, and the whole against the oracle on shuffled, doubled scans."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import DAY_MS, HOUR_MS, MINUTE_MS, iso_to_ms, ms_to_iso
from engine.presence.hours import text_to_trips, text_to_week
from engine.presence.visits import (
    SCAN,
    EndRule,
    PlaceRule,
    PlaceRules,
    VisitFlag,
    VisitRules,
    changed_places,
    derive,
)
from tests.reference.visits import PlaceRule as SlowRule
from tests.reference.visits import Scan, Visit, reference_visits

NONE, IN, OUT = 0, 1, 2
POST, OTHER_POST, MARKET, OFFICE, INN = 1, 2, 10, 11, 12
STAYS = {
    POST: 10 * MINUTE_MS,
    OTHER_POST: 10 * MINUTE_MS,
    MARKET: 45 * MINUTE_MS,
    OFFICE: 8 * HOUR_MS,
    INN: 30 * HOUR_MS,
}
POSTS = {POST, OTHER_POST}
PLACES = PlaceRules({n: PlaceRule(n in POSTS, stay) for n, stay in STAYS.items()})
RULES = VisitRules()


def scans_to_array(scans):
    array = np.zeros(len(scans), SCAN)
    for row, scan in zip(array, scans, strict=True):
        row["person"], row["time_ms"], row["place"] = scan.person, scan.time, scan.place
        row["lane"], row["direction"], row["kind"] = scan.lane, scan.direction, scan.kind
        row["vehicle"], row["ref"], row["stay_ms"] = scan.vehicle, scan.ref, scan.stay
    return array


def array_to_visits(array):
    return [
        Visit(
            int(v["person"]), int(v["place"]), int(v["start_ms"]), int(v["end_ms"]),
            int(v["rule"]), bool(v["flags"] & VisitFlag.PASSAGE),
            bool(v["flags"] & VisitFlag.START_INFERRED), int(v["room"]), int(v["direction"]),
            int(v["vehicle"]), int(v["scans"]), int(v["ref"]),
        )
        for v in array
    ]  # fmt: skip


def clock(text):
    hours, minutes = text.split(":")
    return (int(hours) * 60 + int(minutes)) * MINUTE_MS


def visits(*events, rules=RULES, places=PLACES):
    """events: (place, "08:30", direction[, lane[, vehicle]]) of one person."""
    scans = [
        Scan(1, clock(at), place, more[0] if more else 0, direction, 2, *more[1:])
        for place, at, direction, *more in events
    ]
    return array_to_visits(derive(scans_to_array(scans), places, rules))


def spans(found):
    def text(ms):
        return f"{ms // HOUR_MS:02}:{ms % HOUR_MS // MINUTE_MS:02}"

    return [(v.place, text(v.start), text(v.end), EndRule(v.rule).name) for v in found]


def test_check_out_is_the_end_even_with_a_scan_elsewhere_in_between():
    found = visits((INN, "14:00", IN), (MARKET, "19:00", IN), (INN, "35:00", OUT))
    assert spans(found) == [
        (MARKET, "19:00", "19:45", "DEFAULT"),
        (INN, "14:00", "35:00", "OBSERVED"),
    ]


def test_next_scan_elsewhere_shortens_but_never_prolongs_the_default_stay():
    found = visits((OFFICE, "08:00", IN), (MARKET, "12:00", NONE), (POST, "21:00", OUT))
    assert spans(found) == [
        (POST, "21:00", "21:10", "DEFAULT"),
        (MARKET, "12:00", "12:45", "DEFAULT"),
        (OFFICE, "08:00", "12:00", "INFERRED_NEXT"),
    ]


def test_travel_time_is_taken_off_but_leaves_a_presence():
    rules = VisitRules(travel_ms=30 * MINUTE_MS)
    found = visits((OFFICE, "08:00", IN), (MARKET, "09:00", IN), (POST, "09:10", IN), rules=rules)
    assert spans(found)[2] == (OFFICE, "08:00", "08:30", "INFERRED_NEXT")
    assert found[1].end - found[1].start == 1


def test_default_stay_counts_from_the_last_check_in():
    found = visits((MARKET, "08:00", IN), (MARKET, "08:40", IN), (MARKET, "09:40", IN))
    assert spans(found) == [(MARKET, "08:00", "10:25", "DEFAULT")]
    assert found[0].scans == 3


def test_a_repeated_check_in_does_not_outlive_the_check_out():
    found = visits((MARKET, "08:00", IN), (MARKET, "08:10", IN), (MARKET, "08:20", OUT))
    assert spans(found) == [(MARKET, "08:00", "08:20", "OBSERVED")]


def test_visits_join_up_to_the_gap_and_not_beyond():
    joined = visits((MARKET, "08:00", IN), (MARKET, "08:20", OUT), (MARKET, "08:35", IN))
    assert spans(joined) == [(MARKET, "08:00", "09:20", "DEFAULT")]
    apart = visits((MARKET, "08:00", IN), (MARKET, "08:20", OUT), (MARKET, "08:36", IN))
    assert len(apart) == 2


def test_check_out_alone_gives_a_stay_before_it_not_before_the_previous_scan():
    found = visits((MARKET, "10:00", OUT))
    assert spans(found) == [(MARKET, "09:15", "10:00", "OBSERVED")]
    assert found[0].is_start_inferred
    found = visits((POST, "09:40", IN), (MARKET, "10:00", OUT))
    assert spans(found)[1] == (MARKET, "09:40", "10:00", "OBSERVED")
    twice = visits((OFFICE, "16:00", IN), (OFFICE, "17:00", OUT), (OFFICE, "17:01", OUT))
    assert spans(twice) == [(OFFICE, "16:00", "17:01", "OBSERVED")]
    assert not twice[0].is_start_inferred


def test_a_check_out_days_later_does_not_stretch_the_stay():
    found = visits((MARKET, "08:00", IN), (MARKET, "80:00", OUT))
    assert spans(found) == [
        (MARKET, "08:00", "08:45", "DEFAULT"),
        (MARKET, "79:15", "80:00", "OBSERVED"),
    ]


def told(place, at, stay_min, direction=IN):
    return Scan(1, clock(at), place, 0, direction, 2, stay=stay_min * MINUTE_MS)


def test_a_told_stay_needs_no_check_out_and_nothing_shortens_it():
    scans = [told(OFFICE, "08:00", 540), told(MARKET, "12:00", 20), told(POST, "13:00", 600)]
    found = array_to_visits(derive(scans_to_array(scans), PLACES, RULES))
    assert spans(found) == [
        (POST, "13:00", "13:10", "DEFAULT"),
        (MARKET, "12:00", "12:20", "OBSERVED"),
        (OFFICE, "08:00", "17:00", "OBSERVED"),
    ]


def test_a_check_out_after_a_told_stay_prolongs_the_visit_and_never_shortens_it():
    for out, end in (("08:20", "08:30"), ("08:50", "08:50")):
        scans = [told(MARKET, "08:00", 30), told(MARKET, out, 5, OUT)]
        found = array_to_visits(derive(scans_to_array(scans), PLACES, RULES))
        assert spans(found) == [(MARKET, "08:00", end, "OBSERVED")]


def test_of_copies_the_longest_told_stay_holds():
    scans = [told(MARKET, "08:00", minutes) for minutes in (0, 30, 10)]
    for order in itertools.permutations(scans):
        (found,) = array_to_visits(derive(scans_to_array(order), PLACES, RULES))
        assert (found.end - found.start, found.scans) == (30 * MINUTE_MS, 1)


def test_caps():
    (long,) = array_to_visits(derive(scans_to_array([told(INN, "14:00", 1500)]), PLACES, RULES))
    assert spans([long]) == [(INN, "14:00", "38:00", "CAPPED")]
    assert spans(visits((INN, "14:00", IN))) == [(INN, "14:00", "38:00", "CAPPED")]
    guard = [(OFFICE, f"{hour:02}:00", IN) for hour in (0, 6, 12, 18, 23, 30)]
    assert spans(visits(*guard)) == [
        (OFFICE, "00:00", "18:00", "CAPPED"),
        (OFFICE, "18:00", "38:00", "DEFAULT"),
    ]

    # A presence may fill the 24 hours to the last millisecond without being split off.
    full = visits(*((OFFICE, f"{hour:02}:00", IN) for hour in (8, 16, 24, 30)))
    assert spans(full) == [
        (OFFICE, "08:00", "30:00", "CAPPED"),
        (OFFICE, "30:00", "38:00", "DEFAULT"),
    ]


def test_copies_keep_the_vehicle_and_the_smallest_ref():
    copies = [Scan(1, 0, POST, 1, IN, 1, vehicle, ref) for vehicle, ref in ((0, 9), (8, 5), (7, 6))]
    (found,) = array_to_visits(derive(scans_to_array(copies), PLACES, RULES))
    assert (found.vehicle, found.ref, found.scans) == (7, 5, 1)


def test_one_passage_whichever_lanes():
    found = visits((POST, "08:00", IN, 3), (POST, "08:04", IN, 1), (POST, "08:09", OUT, 2))
    assert spans(found) == [(POST, "08:00", "08:10", "DEFAULT")]
    assert (found[0].room, found[0].direction, found[0].is_passage) == (3, IN, True)
    assert spans(visits((POST, "08:00", IN))) == spans(found)
    two = visits((POST, "08:00", IN), (POST, "08:11", OUT), (OTHER_POST, "08:12", IN))
    assert [v.direction for v in two] == [IN, OUT, IN]


def test_a_long_hold_is_observed():
    hold = [(POST, f"08:{minute:02}", IN) for minute in range(0, 60, 5)]
    found = visits(*hold)
    assert len(found) == 1
    assert found[0].end - found[0].start == 55 * MINUTE_MS + 1
    assert found[0].rule == EndRule.OBSERVED


def test_vehicle_of_the_first_scan_that_names_one():
    found = visits((POST, "08:00", IN, 1), (POST, "08:01", IN, 1, 7), (POST, "08:02", IN, 1, 5))
    assert found[0].vehicle == 7


def test_unknown_place_is_a_venue_and_keeps_its_visitors():
    found = visits((999, "08:00", IN), places=PlaceRules({}))
    assert spans(found) == [(999, "08:00", "09:00", "DEFAULT")]


def test_nothing_gives_nothing():
    assert len(derive(np.zeros(0, SCAN), PLACES, RULES)) == 0


def test_rules_are_checked():
    with pytest.raises(ValueError):
        VisitRules(gap_ms=-1)
    with pytest.raises(ValueError):
        PlaceRules({1: PlaceRule(False, 0)})
    with pytest.raises(ValueError):
        PlaceRules({1 << 32: PlaceRule(False, 1)})


# A dense world: a few people, places and instants, so that ties, repeats and overlaps happen; its
# numbers are scaled down so that every rule, the cap too, is met within a few dozen units of time.
SMALL_STAYS = {1: 3, 2: 7, 3: 6, 4: 12, 5: 45}
small_rules = st.builds(
    VisitRules,
    passage_window_ms=st.integers(0, 5),
    gap_ms=st.integers(0, 4),
    travel_ms=st.integers(0, 3),
    stay_max_ms=st.integers(1, 40),
)
small_scans = st.lists(
    st.builds(
        Scan,
        person=st.integers(0, 2),
        time=st.integers(0, 80),
        place=st.sampled_from([1, 2, 3, 4, 5]),
        lane=st.integers(0, 2),
        direction=st.integers(0, 2),
        kind=st.integers(1, 3),
        vehicle=st.integers(0, 2),
        ref=st.integers(0, 9),
        stay=st.integers(1, 50) | st.just(0),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(small_scans, small_rules, st.randoms(use_true_random=False))
def test_equals_the_oracle_in_any_order_with_repeats(scans, rules, rng):
    places = PlaceRules({n: PlaceRule(n <= 2, stay) for n, stay in SMALL_STAYS.items()})
    shuffled = scans + rng.choices(scans, k=len(scans)) if scans else []
    rng.shuffle(shuffled)
    found = derive(scans_to_array(shuffled), places, rules)
    assert array_to_visits(found) == reference_visits(scans, {1, 2}, SMALL_STAYS, rules)
    for earlier, later in itertools.pairwise(found):
        if (earlier["person"], earlier["place"]) == (later["person"], later["place"]):
            assert earlier["end_ms"] <= later["start_ms"]
    length = found["end_ms"] - found["start_ms"]
    assert np.all((length >= 1) & (length <= rules.stay_max_ms))


def test_equals_the_oracle_on_ordinary_days():
    rng = random.Random(20210701)
    scans = [
        Scan(
            person, rng.randrange(3 * DAY_MS), rng.choice([*STAYS]), rng.randrange(3),
            rng.randrange(3), 2, rng.randrange(2), rng.randrange(1000),
            rng.choice((0, 0, 0, rng.randrange(2 * DAY_MS))),
        )
        for person in range(40)
        for _ in range(rng.randrange(40))
    ]  # fmt: skip
    expected = reference_visits(scans, POSTS, STAYS, RULES)
    rng.shuffle(scans)
    assert array_to_visits(derive(scans_to_array(scans), PLACES, RULES)) == expected
    assert {v.rule for v in expected} == {0, 1, 3, 4}


def test_equals_the_oracle_at_places_that_close():
    """Before 1970 too, past midnight, on days off, and with hours that reach into one another."""
    rng = random.Random(17)
    weeks = [
        tuple(
            (opening, opening + rng.randrange(1, 1440)) for opening in rng.choices(range(1440), k=7)
        )
        for _ in range(3)
    ]
    weeks[0] = (*weeks[0][:5], (0, 0), (0, 0))
    hours = {n: rng.choice(weeks) for n in STAYS if n not in POSTS}
    scans = [
        Scan(person, rng.randrange(-8 * DAY_MS, 8 * DAY_MS), rng.choice([*STAYS]), 1,
             rng.randrange(3), 2, 0, 0, rng.choice((0, 0, 0, rng.randrange(DAY_MS))))
        for person in range(60)
        for _ in range(rng.randrange(40))
    ]  # fmt: skip
    places = PlaceRules({n: PlaceRule(n in POSTS, stay, hours.get(n)) for n, stay in STAYS.items()})
    expected = reference_visits(scans, POSTS, STAYS, RULES, hours)
    assert array_to_visits(derive(scans_to_array(scans), places, RULES)) == expected
    assert {v.rule for v in expected} == set(range(5))


def test_a_stay_ends_when_the_place_closes():
    """Office hours to 17:00: after lunch nobody stays eight hours; a night market ends at two."""
    office, night = text_to_week("Mo-Su 07:00-17:00"), text_to_week("18:00-02:00")
    places = PlaceRules(
        {1: PlaceRule(False, 480 * 60_000, office), 2: PlaceRule(False, 240 * 60_000, night)}
    )

    def of(place, *times):
        scans = [Scan(9, iso_to_ms(f"2021-07-01T{t}"), place, 0, 1, 2, 0, 1) for t in times]
        found = derive(scans_to_array(scans), places, RULES)
        return [(ms_to_iso(v["end_ms"])[8:16], EndRule(v["rule"]).name) for v in found]

    assert of(1, "13:30") == [("01T17:00", "CLOSING")]
    assert of(1, "07:00") == [("01T15:00", "DEFAULT")]
    assert of(1, "09:00") == [("01T17:00", "CLOSING")], "of two rules at one instant the better one"
    assert of(1, "17:00") == [("02T01:00", "DEFAULT")], "closed then: somebody who works late"
    assert of(2, "23:30") == [("02T02:00", "CLOSING")]
    assert of(2, "01:59") == [("01T02:00", "CLOSING")]
    assert of(2, "02:00") == [("01T06:00", "DEFAULT")]
    with pytest.raises(ValueError):
        PlaceRules({1: PlaceRule(False, 1, ((0, 1),) * 6)})
    with pytest.raises(ValueError):
        PlaceRules({1: PlaceRule(False, 1, ((0, 2881),) * 7)})


def test_equals_the_oracle_where_rules_are_dated():
    """Stays, hours, noons and trips that change, some by the hour; before 1970 too."""
    rng = random.Random(23)
    texts = ("06:00-09:00,10:00-13:00,22:00-04:30", "Mo-Fr 19:00-05:00; Sa 07:00-08:00", "")
    weeks = [text_to_week(t) for t in ("07:00-17:00", "18:00-02:00", "T2-T6 08:00-12:00")]
    fast, slow = {}, {}
    for place in STAYS:
        begins = sorted(
            {0, *(rng.randrange(-8 * DAY_MS, 8 * DAY_MS) for _ in range(rng.randrange(6)))}
        )
        rules, slow[place] = [], {}
        for n, begin in enumerate(begins):
            stay = rng.choice((MINUTE_MS, 45 * MINUTE_MS, 8 * HOUR_MS, 30 * HOUR_MS))
            kind = 0 if place in POSTS else rng.randrange(4)
            week = rng.choice(weeks) if kind == 1 else None
            trips = text_to_trips(rng.choice(texts)) if kind == 3 else ()
            rules.append(PlaceRule(place in POSTS, stay, week, kind == 2, trips, begin if n else 0))
            slow[place][begin] = SlowRule(stay, week, kind == 2, trips)
        last = rules.pop()
        fast[place] = PlaceRule(
            last.is_post, last.default_stay_ms, last.hours, last.is_until_noon, last.trips,
            last.from_ms, tuple(rules),
        )  # fmt: skip
    scans = [
        Scan(person, rng.randrange(-8 * DAY_MS, 8 * DAY_MS), rng.choice([*STAYS]), 1,
             rng.randrange(3), 2, 0, 0, rng.choice((0, 0, 0, rng.randrange(DAY_MS))))
        for person in range(80)
        for _ in range(rng.randrange(40))
    ]  # fmt: skip
    for rules in (RULES, VisitRules(stay_max_ms=6 * HOUR_MS, travel_ms=20 * MINUTE_MS)):
        expected = reference_visits(scans, POSTS, STAYS, rules, dated=slow)
        found = array_to_visits(derive(scans_to_array(scans), PlaceRules(fast), rules))
        assert found == expected
        assert {v.rule for v in expected} == set(range(5))


def stay(rule, time, rules=RULES):
    """End and rule of a visit that begins then."""
    scan = Scan(9, iso_to_ms(time), 1, 0, IN, 2, 0, 1)
    (visit,) = derive(scans_to_array([scan]), PlaceRules({1: rule}), rules)
    return ms_to_iso(visit["end_ms"])[5:16], EndRule(visit["rule"]).name


def test_a_guest_stays_until_noon_of_the_next_day():
    inn = PlaceRule(False, 18 * HOUR_MS, is_until_noon=True)
    assert stay(inn, "2021-07-01T14:00") == ("07-02T12:00", "DEFAULT")
    assert stay(inn, "2021-07-01T23:59") == ("07-02T12:00", "DEFAULT")
    assert stay(inn, "2021-07-02T01:30") == ("07-02T12:00", "DEFAULT"), "who comes by night"
    assert stay(inn, "2021-07-02T05:00") == ("07-02T12:00", "DEFAULT")
    assert stay(inn, "2021-07-02T05:01") == ("07-03T05:01", "CAPPED"), "never over 24 hours"
    assert stay(inn, "2021-07-02T12:00") == ("07-03T12:00", "DEFAULT")


def test_a_passenger_stays_for_the_whole_trip():
    bus = PlaceRule(False, 4 * HOUR_MS, trips=text_to_trips("06:00-11:30,13:00-18:30,20:00-05:00"))
    assert stay(bus, "2021-07-01T06:00") == ("07-01T11:30", "CLOSING")
    assert stay(bus, "2021-07-01T11:29") == ("07-01T11:30", "CLOSING")
    assert stay(bus, "2021-07-01T13:05") == ("07-01T18:30", "CLOSING")
    assert stay(bus, "2021-07-02T00:10") == ("07-02T05:00", "CLOSING"), "over night"
    assert stay(bus, "2021-07-01T12:10") == ("07-01T16:10", "DEFAULT"), "no trip runs then"


def test_the_rule_of_the_day_counts():
    """A café that became a shop with other hours: old visits stay what they were."""
    turn = iso_to_ms("2021-07-02T00:00")
    before = PlaceRule(False, 60 * MINUTE_MS)
    place = PlaceRule(False, 30 * MINUTE_MS, text_to_week("08:00-17:00"), from_ms=turn,
                      earlier=(before,))  # fmt: skip
    assert stay(place, "2021-07-01T16:50") == ("07-01T17:50", "DEFAULT")
    assert stay(place, "2021-07-01T23:50") == ("07-02T00:50", "DEFAULT")
    assert stay(place, "2021-07-02T16:50") == ("07-02T17:00", "CLOSING")
    assert stay(place, "1969-07-02T16:50") == ("07-02T17:50", "DEFAULT"), "the first since ever"
    later = PlaceRule(False, 10 * MINUTE_MS, from_ms=turn + 5, earlier=(before,))
    as_was = PlaceRules({1: before, 7: before})
    assert changed_places(as_was, PlaceRules({1: place, 7: before})) == {1: turn}
    assert changed_places(PlaceRules({1: place, 7: before}), as_was) == {1: turn}
    assert changed_places(PlaceRules({1: place}), PlaceRules({1: later})) == {1: turn}
    other = changed_places(as_was, PlaceRules({1: PlaceRule(False, 1), 7: before}))
    assert other is not None and other[1] < -(10**15)
