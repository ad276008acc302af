"""Corrections of stays: the same in any order of arrival, of corrections and of their undoing."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from engine.colocation.corrections import (
    Correction,
    CorrectionBook,
    Corrections,
    correction_to_body,
    persons_named,
    undo_to_body,
)
from engine.colocation.index import CoLocationIndex
from engine.errors import JournalCorrupt
from engine.identity.keys import FileKeyRing
from engine.presence.visits import EndRule, PlaceRule, PlaceRules, VisitFlag, VisitRules
from engine.scans.rows import ROW, Direction, Kind

POSTS = {1}
STAYS = {1: 5, 2: 9, 3: 6, 4: 12}
PLACES = PlaceRules({n: PlaceRule(n in POSTS, stay) for n, stay in STAYS.items()})
RULES = VisitRules(passage_window_ms=4, gap_ms=3, travel_ms=1, stay_max_ms=30, queue_ms=2)
PEOPLE = [bytes([n + 1]) * 16 for n in range(12)]
EVER = (-(1 << 60), 1 << 60)


class Group:
    def __init__(self, lsn: int, rows: np.ndarray) -> None:
        self.lsn = lsn
        self.rows = rows


def random_rows(rng: random.Random, count: int) -> np.ndarray:
    rows = np.zeros(count, ROW)
    rows["person"] = np.frombuffer(b"".join(rng.choices(PEOPLE, k=count)), "V16")
    rows["time_ms"] = [rng.randrange(300) for _ in range(count)]
    rows["place"] = [rng.choice(list(STAYS)) for _ in range(count)]
    rows["direction"] = [rng.choice([0, Direction.IN, Direction.OUT]) for _ in range(count)]
    rows["kind"] = Kind.CHECKIN
    return rows


def correction(
    number: int,
    person: bytes,
    place: int,
    inside: int,
    *,
    start: int | None = None,
    end: int | None = None,
) -> Correction:
    return Correction(
        number=number, persons=(person,), place=place, inside_ms=inside, start_ms=start,
        end_ms=end, reason="told", case="BN-1", who="an", role="tracer", unit="CDC", at_ms=0,
    )  # fmt: skip


def random_corrections(rng: random.Random, count: int) -> list[Correction]:
    found = []
    for number in range(1, count + 1):
        inside = rng.randrange(300)
        start = rng.choice([None, inside - rng.randrange(12)])
        end = inside + 1 + rng.randrange(12) if start is None or rng.random() < 0.5 else None
        place = rng.choice(list(STAYS))
        found.append(correction(number, rng.choice(PEOPLE), place, inside, start=start, end=end))
    return found


def visits_of(index: CoLocationIndex) -> list[tuple[object, ...]]:
    found = index.history(PEOPLE[:1], *EVER).visits[:0]
    whole = []
    for person in PEOPLE:
        found = index.history([person], *EVER).visits
        names = ("place", "start_ms", "end_ms", "rule", "flags", "scans")
        whole += [(person, *(int(visit[name]) for name in names)) for visit in found]
    return sorted(whole)


def expected(plain: list[tuple], corrections: list[Correction]) -> list[tuple]:
    """Rule E, by hand, over the visits without any correction."""
    found: dict[tuple, tuple] = {}
    for person, place, start, end, rule, flags, scans in plain:
        new_start, new_end, new_rule, new_flags = start, end, rule, flags
        for one in sorted(corrections, key=lambda c: c.number):
            is_it = one.persons[0] == person and one.place == place
            if not is_it or not start <= one.inside_ms < end or flags & VisitFlag.PASSAGE:
                continue
            if one.start_ms is not None:
                new_start = one.start_ms
                new_flags = new_flags & ~VisitFlag.START_INFERRED | VisitFlag.START_CORRECTED
            if one.end_ms is not None:
                new_end, new_rule = one.end_ms, int(EndRule.CORRECTED)
            if new_start >= new_end and one.start_ms is None:
                new_start, new_flags = start, flags
            elif new_start >= new_end:
                new_end, new_rule = end, rule
        visit = (person, place, new_start, new_end, new_rule, int(new_flags), scans)
        other = found.get(visit[:3])
        if other is None or other[3] < new_end:
            found[visit[:3]] = visit
    return sorted(found.values())


@pytest.mark.parametrize("seed", range(25))
def test_any_order_gives_the_same(seed: int) -> None:
    rng = random.Random(seed)
    rows = random_rows(rng, 250)
    made = random_corrections(rng, 150)
    undone = {one.number for one in made if rng.random() < 0.3}
    plain = CoLocationIndex(PLACES, RULES)
    plain.apply(Group(1, rows))
    wanted = expected(visits_of(plain), [one for one in made if one.number not in undone])
    assert wanted != visits_of(plain)
    for _ in range(3):
        index = CoLocationIndex(PLACES, RULES)
        shuffled = rows[rng.sample(range(len(rows)), len(rows))]
        steps: list[object] = [shuffled[at : at + 10] for at in range(0, len(rows), 10)]
        steps += rng.sample(made, len(made))
        rng.shuffle(steps)
        corrections, lsn = Corrections(), 0
        for step in steps:
            if isinstance(step, Correction):
                corrections = corrections.having(step)
                index.set_corrections(corrections)
            else:
                lsn += 1
                index.apply(Group(lsn, step))
            if rng.random() < 0.3:
                index.snapshot()
        index.set_corrections(corrections.without(undone))
        assert visits_of(index) == wanted
        index.compact()
        assert visits_of(index) == wanted


def test_contacts_and_venues_see_the_corrected_stay() -> None:
    rows = np.zeros(2, ROW)
    rows["person"] = np.frombuffer(PEOPLE[0] + PEOPLE[1], "V16")
    rows["time_ms"], rows["place"], rows["kind"] = [100, 115], 2, Kind.CHECKIN
    index = CoLocationIndex(PLACES, RULES)
    index.apply(Group(1, rows))
    assert len(index.contacts([PEOPLE[0]], *EVER).contacts) == 0
    one = correction(7, PEOPLE[0], 2, 103, end=120)
    index.set_corrections(Corrections([one]))
    (pair,) = index.contacts([PEOPLE[0]], *EVER).pairs
    assert (int(pair["overlap_ms"]), int(pair["case_rule"])) == (5, EndRule.CORRECTED)
    (pair,) = index.contacts([PEOPLE[1]], *EVER).pairs
    assert (int(pair["other_end_ms"]), int(pair["other_rule"])) == (120, EndRule.CORRECTED)
    assert len(index.venue(2, 110, 114).visits) == 1
    index.set_corrections(Corrections([one]).without({7}))
    assert len(index.contacts([PEOPLE[0]], *EVER).contacts) == 0
    assert len(index.venue(2, 110, 114).visits) == 0


def test_erasing_and_forgetting_leave_no_corrected_stay() -> None:
    rng = random.Random(5)
    index = CoLocationIndex(PLACES, RULES)
    index.apply(Group(1, random_rows(rng, 200)))
    index.set_corrections(Corrections(random_corrections(rng, 20)))
    before = visits_of(index)
    assert index.erase([PEOPLE[3]], 1000) > 0
    assert visits_of(index) == [visit for visit in before if visit[0] != PEOPLE[3]]
    assert index.history([PEOPLE[3]], *EVER).total == 0
    assert index.last_details_ref(PEOPLE[3]) is None
    index.compact()
    assert visits_of(index) == [visit for visit in before if visit[0] != PEOPLE[3]]
    index.expire(1000)
    assert visits_of(index) == []


@pytest.mark.parametrize("seed", range(6))
def test_an_index_without_the_erased_is_one_that_never_saw_them(seed: int) -> None:
    """But for what they did from the instant on."""
    rng = random.Random(seed)
    rows = random_rows(rng, 300)
    index = CoLocationIndex(PLACES, RULES)
    for lsn, at in enumerate(range(0, 300, 30), 1):
        index.apply(Group(lsn, rows[at : at + 30]))
        index.snapshot()
    gone = [PEOPLE[2], PEOPLE[7], bytes(16)]
    index.erase(gone, 150)
    is_gone = np.isin(rows["person"], np.frombuffer(b"".join(gone), "V16"))
    left = rows[~(is_gone & (rows["time_ms"] < 150))]
    other = CoLocationIndex(PLACES, RULES)
    other.apply(Group(1, left))
    assert visits_of(index) == visits_of(other)
    more = random_rows(rng, 60)
    index.apply(Group(11, more))
    other.apply(Group(2, more))
    assert visits_of(index) == visits_of(other)


def test_records_bring_corrections_back(tmp_path: Path) -> None:
    ring = FileKeyRing(tmp_path / "keys", create=True)
    one = correction(3, PEOPLE[0], 2, 103, end=120)
    body = correction_to_body(one, ring)
    assert PEOPLE[0] not in body and b"told" not in body

    class Record:
        lsn, kind, by, at_ms = 3, "correction.add", "an", 0

        def __init__(self, body: bytes) -> None:
            self.body = body

    book = CorrectionBook(ring)
    book.apply(Record(body))
    assert book.corrections.all() == [one]
    assert persons_named(Record(body), ring) == (PEOPLE[0],)
    undo = Record(undo_to_body(3, case="BN-1", role="tracer", unit="CDC"))
    undo.kind = "correction.undo"
    book.apply(undo)
    assert book.corrections.all() == []
    assert list(book.corrections.keys) == [PEOPLE[0]]
    with pytest.raises(JournalCorrupt):
        book.apply(Record(b"\xff"))
