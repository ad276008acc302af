"""Who passed, who rode along, who of a list was seen, how many came: each against brute force."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import DAY_MS, HOUR_MS, ManualClock
from engine.colocation.index import CoLocationIndex
from engine.errors import AccessDenied, NotFound, QuestionInvalid
from engine.presence.visits import VISIT
from engine.tracing import counts, riders
from engine.tracing.counts import CELL, COUNT
from engine.tracing.pages import page_of, text_to_position, visits_at
from engine.tracing.passed import PassedQuestion
from engine.tracing.riders import VehicleQuestion
from engine.tracing.roll import MATCH, NOBODY, Entry, RollQuestion, State, Why
from engine.tracing.rows import unpack
from engine.tracing.tracer import Tracer, VenueQuestion
from native.counts import count_begun
from native.walks import visits_in, visits_of_many
from tests.reference.tracing import in_order, overlaps
from tests.reference.visits import Scan, reference_visits
from tests.unit.test_index import (
    KEYS,
    PLACES,
    POSTS,
    RULES,
    STAYS,
    Group,
    groups_of,
    place_sets,
    scan_lists,
    scans_to_rows,
    spans,
)

randoms = st.randoms(use_true_random=False)


def tracer_of(scans, rng, known=STAYS):
    index = CoLocationIndex(PLACES, RULES)
    for group in groups_of(scans, rng):
        index.apply(group)
        if rng.random() < 0.4:
            index.snapshot()
    return Tracer(index, ManualClock(0), lambda number: number if number in known else None)


def shown(answer):
    """(person, place, start, end) of each visit of an answer."""
    keys = answer.persons
    return [
        (keys[16 * v["person"] :][:16], int(v["place"]), int(v["start_ms"]), int(v["end_ms"]))
        for v in unpack(answer.packed, "visits")
    ]


def expected_of(visits):
    return [(v.person, v.place, v.start, v.end) for v in in_order(visits)]


# ---- Q6 -----------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(scan_lists, spans, st.integers(0, 2), place_sets, st.integers(1, 60), randoms)
def test_who_passed_and_came_from_there(scans, span, direction, area, within, rng):
    visits = reference_visits(scans, POSTS, STAYS, RULES)

    def has_come(passage):
        return any(
            v.person == passage.person and v.place in area
            and v.start < passage.start and v.end > passage.start - within
            for v in visits
        )  # fmt: skip

    tracer = tracer_of(scans, rng)
    for post in POSTS:
        question = PassedQuestion(
            place=post, from_ms=span[0], to_ms=span[1], direction=direction,
            came_from=None if area is None else frozenset(area), within_ms=within,
        )  # fmt: skip
        found = tracer.ask(question)
        assert shown(found) == expected_of(
            v
            for v in visits
            if v.place == post and overlaps(v, *span)
            and (not direction or v.direction == direction)
            and (area is None or has_come(v))
        )  # fmt: skip
        assert found.total == len(shown(found)) and not found.limit_cut and not found.next


def test_roles_learn_of_their_own_area_alone():
    scans = [Scan(KEYS[1], 0, 3, 0, 1, 2), Scan(KEYS[1], 20, 1, 0, 1, 1)]
    tracer = tracer_of(scans, random.Random(1))
    span = {"from_ms": 0, "to_ms": 60, "within_ms": 60}
    whole = PassedQuestion(place=1, came_from=frozenset({3}), **span)
    assert len(shown(tracer.ask(whole))) == 1 and len(shown(tracer.ask(whole, {1, 3}))) == 1
    with pytest.raises(AccessDenied, match="came_from"):
        tracer.ask(whole, {1, 4})
    with pytest.raises(AccessDenied, match="place"):
        tracer.ask(whole, {3})
    with pytest.raises(NotFound, match="place"):
        tracer.ask(PassedQuestion(place=99, **span))
    for wrong in ({"direction": 3}, {"within_ms": 0}, {"within_ms": 61 * DAY_MS}, {"after": "x"}):
        with pytest.raises(QuestionInvalid, match=next(iter(wrong)).split("_")[0]):
            tracer.ask(PassedQuestion(**{"place": 1, **span, **wrong}))


# ---- Q7 -----------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(scan_lists, spans, st.sampled_from([7, 8, 9]), place_sets, randoms)
def test_who_was_in_the_vehicle(scans, span, vehicle, places, rng):
    visits = reference_visits(scans, POSTS, STAYS, RULES)
    answer = tracer_of(scans, rng).ask(
        VehicleQuestion(vehicle=vehicle, from_ms=span[0], to_ms=span[1]), places
    )
    assert shown(answer) == expected_of(
        v
        for v in visits
        if v.vehicle == vehicle and overlaps(v, *span) and (places is None or v.place in places)
    )
    assert isinstance(answer, riders.VehicleAnswer)


def test_no_vehicle_is_none():
    for vehicle in (0, 1 << 32):
        with pytest.raises(QuestionInvalid, match="plate"):
            tracer_of([], random.Random(1)).ask(
                VehicleQuestion(vehicle=vehicle, from_ms=0, to_ms=1)
            )


# ---- Q9 -----------------------------------------------------------------------------------------

UNKNOWN = b"u" * 16
entries = st.lists(
    st.builds(
        Entry,
        sure=st.lists(st.sampled_from([*KEYS, UNKNOWN]), max_size=3).map(tuple),
        unsure=st.lists(st.sampled_from([*KEYS, UNKNOWN]), max_size=1).map(tuple),
        is_malformed=st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(scan_lists, spans, entries, place_sets, randoms)
def test_a_roll_is_matched_row_by_row(scans, span, rows, places, rng):
    everything = reference_visits(scans, POSTS, STAYS, RULES)
    visits = [v for v in everything if overlaps(v, *span) and (places is None or v.place in places)]
    known = {scan.person for scan in scans}
    question = RollQuestion(lambda: rows, from_ms=span[0], to_ms=span[1])
    answer = tracer_of(scans, rng).ask(question, places)
    found = unpack(answer.packed, "matches")
    assert len(found) == answer.total == len(rows)
    for match, row in zip(found, rows, strict=True):
        sure = {k for k in row.sure if any(v.person == k for v in visits)}
        unsure = {k for k in row.unsure if any(v.person == k for v in visits)} - {
            k for k in row.sure if k in known
        }
        if sure:
            state, why = State.MATCHED, Why.DOCUMENT
            if len(sure) > 1:
                state, why = State.UNSURE, Why.SEVERAL
        elif unsure:
            state, why = State.UNSURE, Why.NAME
        elif places is None and known & {*row.sure, *row.unsure}:
            state, why = State.NONE, Why.ELSEWHEN
        elif row.is_malformed:
            state, why = State.NONE, Why.MALFORMED
        else:
            state = State.NONE
            why = Why.NOT_SEEN if row.sure or row.unsure else Why.EMPTY
        assert (match["state"], match["why"]) == (state, why)
        if state == State.NONE:
            assert match["person"] == NOBODY
            continue
        person = answer.persons[16 * match["person"] :][:16]
        assert person in (sure or unsure)
        mine = sorted((v.start, v.place) for v in visits if v.person == person)
        assert (match["first_ms"], match["visits"]) == (mine[0][0], len(mine))
        assert (match["last_ms"], match["place"]) == mine[-1]
        others = [v.start for v in visits if v.person in (sure or unsure)]
        assert match["last_ms"] == max(others)
    assert question.persons == list(dict.fromkeys(k for r in rows for k in r.sure + r.unsure))


def test_a_roll_has_so_many_rows():
    tracer = tracer_of([], random.Random(1))
    for rows in ([], [Entry()] * 10_001):
        with pytest.raises(QuestionInvalid, match="rows"):
            tracer.ask(RollQuestion(lambda rows=rows: rows, from_ms=0, to_ms=1))
    assert MATCH.itemsize == 32


# ---- Q12 ----------------------------------------------------------------------------------------

hours = st.integers(-3, 3).map(lambda n: n * HOUR_MS)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(
            Scan, person=st.sampled_from(KEYS),
            time=st.integers(-30, 60).map(lambda n: n * 400_000),
            place=st.sampled_from([*STAYS]), lane=st.integers(0, 1), direction=st.integers(0, 2),
            kind=st.integers(1, 2),
        ),
        max_size=40,
    ),
    hours, st.integers(1, 40), st.sampled_from(["hour", "day"]), st.booleans(), place_sets, randoms,
)  # fmt: skip
def test_counts_by_time_and_group(scans, begin, length, by, has_lanes, places, rng):
    visits = reference_visits(scans, POSTS, STAYS, RULES)
    tracer = tracer_of(scans, rng)
    width = {"hour": HOUR_MS, "day": DAY_MS}[by]
    end = begin + length * 900_000
    found = counts.count(
        tracer.snapshot(), begin, end, by=by, limit=1000, group=lambda places: places % 2,
        allowed=places, has_lanes=has_lanes,
    )  # fmt: skip
    offset = 7 * HOUR_MS
    low = (begin + offset) // width * width - offset
    high = -((-end - offset) // width) * width - offset
    assert (found.from_ms, found.to_ms, found.next_ms) == (low, high, None)
    expected = {}
    for visit in visits:
        if low <= visit.start < high and (places is None or visit.place in places):
            lane = (visit.room, visit.direction) if has_lanes and visit.is_passage else (0, 0)
            cell = (low + (visit.start - low) // width * width, visit.place % 2, *lane)
            sums = expected.setdefault(cell, [0, 0])
            sums[visit.is_passage] += 1
    rows = [tuple(row) for row in found.rows.tolist()]
    assert [(r[0], r[1], r[2], r[3], [r[5], r[6]]) for r in rows] == [
        (*cell, sums) for cell, sums in sorted(expected.items())
    ]


def test_counts_are_cut_at_a_whole_cell_and_go_on_there():
    scans = [Scan(KEYS[0], hour * HOUR_MS, place, 0, 0, 2) for hour in range(5) for place in (3, 4)]
    snapshot = tracer_of(scans, random.Random(3)).snapshot()

    def ask(begin, limit):
        return counts.count(
            snapshot, begin, 5 * HOUR_MS, by="hour", limit=limit, group=lambda places: places
        )

    first = ask(0, 5)
    assert len(first.rows) == 4 and first.next_ms == 2 * HOUR_MS
    rest = ask(first.next_ms, 100)
    assert rest.next_ms is None
    assert [*first.rows.tolist(), *rest.rows.tolist()] == ask(0, 100).rows.tolist()
    for wrong in ({"limit": 1}, {"by": "year"}, {"begin": 6 * HOUR_MS}):
        asked = {"begin": 0, "limit": 100, "by": "hour", **wrong}
        with pytest.raises(QuestionInvalid):
            counts.count(
                snapshot, asked["begin"], 5 * HOUR_MS, by=asked["by"], limit=asked["limit"],
                group=lambda places: places,
            )  # fmt: skip
    assert (CELL.itemsize, COUNT.itemsize) == (24, 24)


# ---- pages --------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(scan_lists, spans, st.integers(1, 7), randoms)
def test_pages_together_are_the_whole(scans, span, limit, rng):
    tracer = tracer_of(scans, rng)
    for place in STAYS:
        asked = {"place": place, "from_ms": span[0], "to_ms": span[1]}
        whole = tracer.ask(VenueQuestion(**asked))
        rows, after, pages = [], "", 0
        while pages == 0 or after:
            page = tracer.ask(VenueQuestion(**asked, limit=limit, after=after))
            assert page.total == whole.total and page.limit_cut == bool(page.next)
            assert 0 < len(shown(page)) <= limit or whole.total == 0
            rows += shown(page)
            after, pages = page.next, pages + 1
        assert rows == shown(whole)
        assert pages == max(1, -(-whole.total // limit))


def test_a_long_list_is_not_sorted_for_each_page(monkeypatch):
    rng = random.Random(7)
    keys = [rng.randbytes(16) for _ in range(3000)]
    scans = [Scan(key, rng.randrange(2000), 3, 0, 0, 2) for key in keys for _ in range(2)]
    index = CoLocationIndex(PLACES, RULES)
    index.apply(Group(1, scans_to_rows(scans)))
    snapshot = index.snapshot()
    visits = visits_at(snapshot, 3, -100, 3000)
    expected = snapshot.found(visits.tobytes(), None).visits
    monkeypatch.setattr("engine.tracing.pages._FEW", 50)
    rows, after = [], ""
    while True:
        page = page_of(snapshot, visits, 100, after)
        rows += page.found.visits["start_ms"].tolist()
        if not page.next:
            break
        after = page.next
        start, end, key, place = text_to_position(after)
        assert (start, place) == (rows[-1], 3) and end > start and len(key) == 16
    assert rows == expected["start_ms"].tolist() and len(rows) == len(visits) > 4000


def test_kernels_refuse_what_they_cannot_walk():
    for walk in (
        lambda: visits_of_many([], b"123", 0, 1, 0),
        lambda: visits_of_many([], b"", 0, 1, -1),
        lambda: visits_in([], 0, 0, 1, 0),
        lambda: count_begun([], 0, 1, 0, 0),
        lambda: count_begun([], 0, 1 << 63, 1, 0),
    ):
        with pytest.raises(ValueError, match=r".+"):
            walk()
    with pytest.raises(TypeError):
        visits_in([object()], 1, 0, 1, 0)
    assert visits_of_many([], np.zeros(3, "<u4").data, 0, 1, 0) == b"" and VISIT.itemsize == 48
