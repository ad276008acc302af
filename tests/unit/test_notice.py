"""A notice against brute force: who was at which marks, in which order, and what is new."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import ManualClock
from engine.colocation.index import CoLocationIndex
from engine.errors import AccessDenied, NotFound, QuestionInvalid
from engine.tracing.notice import MARKS_MAX, Mark, NoticeQuestion, find_marked
from engine.tracing.rows import unpack, visit_rows
from engine.tracing.tracer import Tracer
from tests.reference.tracing import overlaps
from tests.reference.visits import Scan, reference_visits
from tests.unit.test_index import PLACES, POSTS, RULES, STAYS, Group, scan_lists, scans_to_rows

MARKS = st.lists(
    st.builds(
        lambda place, begin, size: Mark(place, begin, begin + size),
        st.sampled_from([*STAYS]), st.integers(-40, 80), st.integers(1, 60),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


def index_of(*groups):
    index = CoLocationIndex(PLACES, RULES)
    for lsn, scans in enumerate(groups, 1):
        index.apply(Group(lsn, scans_to_rows(scans)))
    return index


def at_marks(scans, marks):
    """(person, mark, start, place) of every visit at a mark."""
    return [
        (visit.person, n, visit.start, visit.place)
        for visit in reference_visits(scans, POSTS, STAYS, RULES)
        for n, mark in enumerate(marks)
        if visit.place == mark.place and overlaps(visit, mark.from_ms, mark.to_ms)
    ]


def listed(found):
    return [
        (found.persons[v["person"]].tobytes(), int(n), int(v["start_ms"]), int(v["place"]))
        for v, n in zip(found.visits, found.which, strict=True)
    ]


@settings(max_examples=150, deadline=None)
@given(scan_lists, MARKS, st.integers(1, 3), st.integers(1, 60))
def test_who_was_at_so_many_marks(scans, marks, least, limit):
    everybody = at_marks(scans, marks)
    counts = Counter(person for person, _ in {(row[0], row[1]) for row in everybody})
    begun = {p: min(row[2] for row in everybody if row[0] == p) for p in counts}
    expected = sorted(
        (row for row in everybody if counts[row[0]] >= least),
        key=lambda row: (-counts[row[0]], begun[row[0]], row[0], row[2], row[3], row[1]),
    )
    found = find_marked(index_of(scans).snapshot(), marks, least=least, since=0, limit=limit)
    assert listed(found) == expected[:limit]
    assert found.total == len(expected)
    assert len(found.persons) == len(found.newest) == len({row[0] for row in expected[:limit]})
    for n, figure in enumerate(found.figures):
        rows = [row for row in everybody if row[1] == n]
        assert (figure["persons"], figure["visits"]) == (len({r[0] for r in rows}), len(rows))


@settings(max_examples=150, deadline=None)
@given(scan_lists, scan_lists, MARKS, st.integers(1, 3))
def test_what_is_new_is_listed_and_who_did_not_move_is_not(before, after, marks, least):
    early, late = at_marks(before, marks), at_marks(before + after, marks)

    def enough(rows):
        counts = Counter(person for person, _ in {(row[0], row[1]) for row in rows})
        return {person for person, count in counts.items() if count >= least}

    index = index_of(before, after)
    found = find_marked(index.snapshot(), marks, least=least, since=1, limit=1000)
    shown = {key.tobytes() for key in found.persons}
    moved = {scan.person for scan in after}
    assert enough(late) - enough(early) <= shown <= enough(late) & moved
    # Of a person that is shown all rows are, also those of an earlier answer.
    assert sorted(listed(found)) == sorted(row for row in late if row[0] in shown)


def tracer_of(*groups, known=STAYS):
    index = index_of(*groups)
    return Tracer(index, ManualClock(0), lambda number: number if number in known else None)


SCANS = [
    Scan(person=b"a" * 16, time=10, place=3, lane=0, direction=0, kind=2, vehicle=0),
    Scan(person=b"b" * 16, time=11, place=3, lane=0, direction=0, kind=2, vehicle=0),
    Scan(person=b"a" * 16, time=40, place=5, lane=0, direction=0, kind=2, vehicle=0),
]
HERE = (Mark(3, 0, 30), Mark(5, 0, 100))


def test_marks_outside_of_the_area_are_said_and_show_nothing():
    tracer = tracer_of(SCANS)
    whole = tracer.ask(NoticeQuestion(marks=HERE))
    assert [(r.person, r.place) for r in visit_rows(whole.packed)] == [(0, 3), (0, 5), (1, 3)]
    assert whole.persons == b"a" * 16 + b"b" * 16 and whole.outside == ()
    part = tracer.ask(NoticeQuestion(marks=HERE), {5})
    assert [(r.person, r.place) for r in visit_rows(part.packed)] == [(0, 5)]
    assert part.outside == (0,) and part.persons == b"a" * 16
    assert unpack(part.packed, "which").tolist() == [1]
    assert unpack(part.packed, "figures").tolist() == [(0, 0), (1, 1)]
    with pytest.raises(AccessDenied):
        tracer.ask(NoticeQuestion(marks=HERE), {4})


def test_a_notice_that_cannot_be_asked():
    tracer = tracer_of(SCANS)
    for wrong in (
        {"marks": ()}, {"marks": HERE * MARKS_MAX}, {"marks": (Mark(3, 5, 5),)}, {"least": 3},
        {"least": 0}, {"since": -1}, {"limit": 0}, {"marks": (Mark(3, 0, 1 << 60),)},
    ):  # fmt: skip
        with pytest.raises(QuestionInvalid):
            tracer.ask(NoticeQuestion(**{"marks": HERE, **wrong}))
    with pytest.raises(NotFound, match="mark 2"):
        tracer.ask(NoticeQuestion(marks=(HERE[0], Mark(99, 0, 1))))


def test_many_people_at_many_marks_come_in_order():
    rng = random.Random(3)
    keys = [rng.randbytes(16) for _ in range(300)]
    scans = [
        Scan(
            person=rng.choice(keys), time=rng.randrange(200), place=rng.choice([3, 4, 5]), lane=0,
            direction=0, kind=2, vehicle=0,
        )
        for _ in range(3000)
    ]  # fmt: skip
    marks = [Mark(rng.choice([3, 4, 5]), t, t + 5) for t in range(0, 200, 10)]
    found = find_marked(index_of(scans).snapshot(), marks, least=2, since=0, limit=100_000)
    pairs = {(int(v["person"]), int(n)) for v, n in zip(found.visits, found.which, strict=True)}
    counts = np.bincount([person for person, _ in pairs])
    assert len(counts) == len(found.persons) > 200
    assert (np.diff(counts) <= 0).all() and counts.min() >= 2
