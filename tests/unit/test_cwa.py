"""The Corona-Warn-App's arithmetic: its ten vectors, and whole questions against brute force."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import DAY_MS, HOUR_MS, MINUTE_MS, ManualClock
from engine.colocation.index import CoLocationIndex
from engine.errors import QuestionInvalid
from engine.presence.visits import PlaceRule, PlaceRules
from engine.tracing.cwa import CELL_MS, LEVEL, WEIGHTS, derive_stay
from engine.tracing.rows import contact_rows
from engine.tracing.tracer import ContactsQuestion, Tracer
from tests.reference.visits import Scan
from tests.unit.test_index import KEYS, Group, scans_to_rows

PAGE = Path(__file__).parents[2] / "docs/tracing.md"


def minutes(text):
    hour, minute = text.split(":")
    return (int(hour) * 60 + int(minute)) * MINUTE_MS


def test_the_ten_vectors():
    rows = re.findall(
        r"^\| (\d\d:\d\d)–(\d\d:\d\d) \| (?:(\d\d:\d\d)–(\d\d:\d\d)|–) \|$",
        PAGE.read_text(encoding="utf-8"),
        re.M,
    )
    assert len(rows) == 10
    for start, end, begun, ended in rows:
        expected = (minutes(begun), minutes(ended)) if begun else None
        assert derive_stay(minutes(start), minutes(end)) == expected, start


@given(st.integers(-(10**12), 10**12), st.integers(1, DAY_MS))
def test_what_counts_lies_on_the_grid_and_is_as_long_as_it_should(start, length):
    found = derive_stay(start, start + length)
    if length < 10 * MINUTE_MS:
        assert found is None
        return
    begun, ended = found
    whole = length + min(length, 30 * MINUTE_MS)
    assert begun % CELL_MS == ended % CELL_MS == 0
    assert abs(ended - begun - whole) <= CELL_MS // 2
    assert abs(begun - start) <= 1.5 * CELL_MS and abs(ended - start - whole) <= 1.5 * CELL_MS


NOW = 20 * DAY_MS
places = PlaceRules({3: PlaceRule(False, HOUR_MS), 4: PlaceRule(False, HOUR_MS)})
stays = st.lists(
    st.tuples(
        st.sampled_from(KEYS[:4]), st.sampled_from([3, 4]),
        st.integers(0, 60).map(lambda n: NOW - 11 * DAY_MS + n * 4 * HOUR_MS),
        st.integers(5, 100),
    ),
    min_size=2, max_size=14, unique_by=lambda stay: (stay[0], stay[2]),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(stays, st.integers(1, 8), st.sampled_from([None, 5, 60]), st.integers(1, 3))
def test_contacts_are_those_of_the_app(found, level, least, limit):
    """Stays are told and hours apart, so that each is a visit of its own."""
    scans = [
        Scan(person, start, place, 0, 1, 2, stay=length * MINUTE_MS)
        for person, place, start, length in found
    ]
    rows = scans_to_rows(scans)
    rows["stay_ms"] = [scan.stay for scan in scans]
    index = CoLocationIndex(places)
    index.apply(Group(1, rows))
    case = KEYS[0]
    weighted = defaultdict(int)
    for person, place, start, length in found:
        if person != case or start < NOW - 10 * DAY_MS:
            continue
        derived = derive_stay(start, start + length * MINUTE_MS)
        if derived is None:
            continue
        for other, where, begun, stay in found:
            if other == case or where != place:
                continue
            low = max(derived[0], begun)
            high = min(derived[1], begun + stay * MINUTE_MS)
            while low < high:
                until = min(high, low - low % DAY_MS + DAY_MS)
                weighted[other, low // DAY_MS] += until - low
                low = until
    best = defaultdict(int)
    for (person, _), time in weighted.items():
        best[person] = max(best[person], time * WEIGHTS[level - 1] // 10)
    threshold = (10 if least is None else least) * MINUTE_MS
    high = {person: time for person, time in best.items() if time >= threshold}
    answer = Tracer(index, ManualClock(0)).ask(
        ContactsQuestion(
            persons=[case], from_ms=0, to_ms=NOW, profile="CWA", risk_level=level,
            min_minutes=least, limit=limit,
        )
    )  # fmt: skip
    shown = {answer.persons[16 * row.person :][:16]: row for row in contact_rows(answer.packed)}
    assert (answer.total, answer.below) == (len(high), len(best) - len(high))
    assert len(shown) == min(limit, len(high)) and answer.limit_cut == (len(high) > limit)
    assert {person: row.best_ms for person, row in shown.items()} == {
        person: high[person] for person in shown
    }
    assert all(row.tier == "candidate" and row.pairs for row in shown.values())


def test_levels():
    assert WEIGHTS[LEVEL - 1] == 10 and len(WEIGHTS) == 8
    tracer = Tracer(CoLocationIndex(places), ManualClock(0))
    for level in (0, 9):
        with pytest.raises(QuestionInvalid, match="risk_level"):
            tracer.ask(
                ContactsQuestion(
                    persons=[KEYS[1]], from_ms=0, to_ms=1, profile="CWA", risk_level=level
                )
            )
