"""native.index, contacts and together against slow twins, and under input nobody should send.

The kernels have one form for all CPU levels; the levels only prove that none changes an answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.presence.contacts import CONTACT, PAIR
from engine.presence.visits import VISIT
from native.contacts import find_contacts
from native.index import VisitTable, born_table, end_visits, merge_tables
from native.together import people_at, time_together, times_of
from native.visits import Changes
from native.walks import visits_of_many
from tests.reference import native_index as twin

TIME_MAX = 2**62 - 1
PEOPLE = 6
# Keys that differ in their first, middle and last byte, against the order of the numbers.
KEYS = [b"\xff" * 16, b"k" + bytes(15), b"\0" * 7 + b"\2" + bytes(8), b"\0" * 15 + b"\2",
        b"\0" * 15 + b"\1", bytes(16)]  # fmt: skip
ASKED: dict[str, int] = {
    "linger_ms": 0, "queue_ms": 2, "min_ms": 0, "window_ms": 20, "limit": 100,
}  # fmt: skip


def visits_of(rows: list[dict[str, Any]]) -> np.ndarray:
    """VISIT, sorted as a layer has them; every row its own ref."""
    visits = np.zeros(len(rows), VISIT)
    for at, row in enumerate(rows):
        for name, value in row.items():
            visits[name][at] = value
    visits["ref"] = np.arange(len(rows))
    return visits[np.lexsort((visits["start_ms"], visits["place"]))]


def tight(data: np.ndarray | bytes) -> memoryview:
    # numpy allocates no byte behind the last one, so ASan sees a step too far.
    return np.frombuffer(bytes(data), np.uint8).copy().data


def of_person(tables: list[VisitTable], person: int, *question: int) -> bytes:
    return visits_of_many(tables, person.to_bytes(4, "little"), *question)


Ending = tuple[int, int, int]  # start, person, place


def packed_endings(endings: list[Ending]) -> memoryview:
    """In the order that end_visits wants: by person."""
    dtype = np.dtype([("start", "<i8"), ("person", "<u4"), ("place", "<u4")])
    return tight(np.array(sorted(endings, key=lambda e: e[1]), dtype).tobytes())


def build(
    layers: list[np.ndarray], endings: Sequence[tuple[int, list[Ending]]] = ()
) -> tuple[list[VisitTable], list[twin.Table]]:
    """Tables and their twins, of which some visits have ended. endings: by epoch."""
    tables = [VisitTable(tight(visits.tobytes())) for visits in layers]
    twins = [twin.Table(visits) for visits in layers]
    for epoch, ended in endings:
        by_person = sorted(ended, key=lambda e: e[1])
        count = end_visits(tables, packed_endings(ended), epoch)
        assert count == twin.end_visits(twins, by_person, epoch)
    assert [len(table) for table in tables] == [len(twin.alive(2**32 - 2)) for twin in twins]
    return tables, twins


def ask(
    layers: list[np.ndarray], case: np.ndarray, persons: list[int], **changes: int
) -> tuple[bytes, bytes, bytes, int, int]:
    return find_contacts(
        build(layers)[0],
        tight(case.tobytes()),
        tight(np.array(persons, "<u4").tobytes()),
        tight(b"".join(KEYS)),
        0,
        **{**ASKED, **changes},
    )


def meeting(minutes: int = 10, **more: int) -> list[dict[str, int]]:
    """Visits of persons 0 and 1 together at place 3."""
    return [
        {"start_ms": 0, "end_ms": minutes, "person": person, "place": 3, **more}
        for person in (0, 1)
    ]


rows = st.lists(
    st.builds(
        lambda start, length, **more: {"start_ms": start, "end_ms": start + length, **more},
        start=st.integers(-10, 50),
        length=st.integers(0, 12) | st.just(40),
        person=st.integers(0, PEOPLE + 1),
        place=st.sampled_from([1, 2, 3, 2**32 - 1]),
        vehicle=st.sampled_from([0, 0, 7]),
        room=st.integers(0, 1),
        flags=st.sampled_from([0, 0, 1, 2]),
        rule=st.integers(0, 3),
    ),
    max_size=25,
)


def endings_of(layers: list[np.ndarray], rng: random.Random) -> list[tuple[int, list[Ending]]]:
    """Some of the visits, and some that are not there, ended in epochs 1 to 3."""
    there = [
        (int(visit["start_ms"]), int(visit["person"]), int(visit["place"]))
        for visits in layers
        for visit in visits
    ]
    return [
        (epoch, [*rng.sample(there, len(there) // 4), (rng.randrange(50), 1, 3)])
        for epoch in (1, 2, 3)
    ]


# ---- what they answer ---------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.lists(rows, max_size=3),
    rows,
    st.sets(st.integers(0, PEOPLE)),
    st.integers(0, 3),
    st.fixed_dictionaries(
        {
            "linger_ms": st.integers(0, 20),
            "queue_ms": st.integers(0, 5),
            "min_ms": st.integers(-1, 25),
            "window_ms": st.integers(0, 40),
            "limit": st.integers(0, PEOPLE + 1),
        }
    ),
    st.randoms(use_true_random=False),
)
def test_contacts_equal_the_twin(
    parts: list[list[dict[str, Any]]],
    case: list[dict[str, Any]],
    persons: set[int],
    epoch: int,
    asked: dict[str, int],
    rng: random.Random,
) -> None:
    layers = [visits_of(part) for part in parts]
    tables, twins = build(layers, endings_of(layers, rng))
    who = sorted(persons)
    found = find_contacts(
        tables, tight(visits_of(case).tobytes()), tight(np.array(who, "<u4").tobytes()),
        tight(b"".join(KEYS)), epoch, **asked,
    )  # fmt: skip
    assert found == twin.find_contacts(twins, visits_of(case), who, KEYS, epoch, **asked)


@settings(deadline=None)
@given(
    st.lists(rows, min_size=1, max_size=3), st.integers(-15, 60), st.integers(0, 70),
    st.integers(0, 3), st.randoms(use_true_random=False),
)  # fmt: skip
def test_visits_of_places_and_persons_equal_the_twin(
    parts: list[list[dict[str, Any]]], start: int, span: int, epoch: int, rng: random.Random
) -> None:
    layers = [visits_of(part) for part in parts]
    tables, twins = build(layers, endings_of(layers, rng))
    for table, slow in zip(tables, twins, strict=True):
        assert table.begun(start, start + span, epoch) == slow.begun(start, start + span, epoch)
        for place in (0, 1, 2, 3, 2**32 - 1):
            question = (place, start, start + span, epoch)
            assert table.at_place(*question) == slow.at_place(*question)
        for person in (*range(PEOPLE + 2), 2**32 - 1):
            question = (person, start, start + span, epoch)
            assert of_person([table], *question) == slow.of_person(*question)
    merged = merge_tables(tables)
    alive = sorted(row.tobytes() for slow in twins for row, _ in slow.alive(2**32 - 2))
    found = merged.begun(-TIME_MAX, TIME_MAX, 0)
    assert len(merged) == len(alive)
    assert sorted(row.tobytes() for row in np.frombuffer(found, VISIT)) == alive
    assert of_person([merged], 1, -50, 90, 0) == of_person([VisitTable(found)], 1, -50, 90, 0)


@settings(deadline=None)
@given(
    st.lists(rows, min_size=1, max_size=3), st.integers(-15, 60), st.integers(0, 70),
    st.integers(0, 3), st.randoms(use_true_random=False),
)  # fmt: skip
def test_plain_answers_equal_the_slow_ones(
    parts: list[list[dict[str, Any]]], start: int, span: int, epoch: int, rng: random.Random
) -> None:
    layers = [visits_of(part) for part in parts]
    tables, twins = build(layers, endings_of(layers, rng))
    keys, asked = tight(b"".join(KEYS)), (start, start + span)
    alive = [visit for slow in twins for _, visit in slow.alive(epoch)]

    def is_asked(visit: dict[str, Any]) -> bool:
        return visit["start_ms"] < asked[1] and visit["end_ms"] > asked[0]

    for place in (0, 1, 3, 2**32 - 1):
        there = {v["person"] for v in alive if v["place"] == place and is_asked(v)}
        expected = {KEYS[person] for person in there if person < len(KEYS)}
        assert people_at(tables, place, *asked, keys, epoch) == expected
    for person in range(PEOPLE + 2):
        mine = [visit for visit in alive if visit["person"] == person and is_asked(visit)]
        times = [(v["start_ms"], v["end_ms"] - v["start_ms"], v["place"]) for v in mine]
        assert sorted(times_of(tables, person, *asked, epoch)) == sorted(times)
        sums: dict[bytes, int] = {}
        for other in alive:
            for visit in mine:
                if other["person"] in (person, PEOPLE, PEOPLE + 1):
                    continue
                if other["place"] != visit["place"] or other["start_ms"] >= visit["end_ms"]:
                    continue
                if other["end_ms"] > visit["start_ms"]:
                    key = KEYS[other["person"]]
                    together = twin.common(
                        (other["start_ms"], other["end_ms"]), (visit["start_ms"], visit["end_ms"])
                    )
                    sums[key] = sums.get(key, 0) + together
        assert time_together(tables, person, *asked, keys, epoch) == sums


@pytest.mark.parametrize("people", [1, 255, 256, 257, 70_000])
def test_numbers_of_every_width_are_told_apart(people: int) -> None:
    rng = random.Random(people)
    numbers = sorted({rng.randrange(1, people + 1) for _ in range(500)} | {people})
    rows = [
        {"start_ms": rng.randrange(50), "end_ms": 60, "person": number, "place": 3}
        for number in numbers * 2
    ]
    keys = np.arange(2 * (people + 1), dtype=">u8")
    shown, contacts, pairs, total, below = find_contacts(
        [VisitTable(visits_of(rows).tobytes())],
        visits_of([{"start_ms": 0, "end_ms": 60, "place": 3}]).tobytes(),
        bytes(4), keys.data, 0, **{**ASKED, "limit": 10**6},
    )  # fmt: skip
    assert sorted(np.frombuffer(shown, "<u4").tolist()) == numbers
    assert (total, below) == (len(numbers), 0)
    found = np.frombuffer(contacts, CONTACT)
    assert (found["pairs"] == 2).all()
    assert (np.diff(found["overlap_ms"]) <= 0).all()
    table = VisitTable(visits_of(rows).tobytes())
    trails = [of_person([table], number, 0, 60, 0) for number in numbers]
    assert {len(trail) for trail in trails} == {2 * VISIT.itemsize}
    assert of_person([table], 0, 0, 60, 0) == b""
    assert np.frombuffer(pairs, PAIR)["contact"].tolist() == np.repeat(range(total), 2).tolist()


def test_a_crowd_equals_the_twin_from_many_threads() -> None:
    """More pairs than the first room holds, and enough visits to let go of the GIL."""
    rng = random.Random(11)
    crowd = [
        {"start_ms": at, "end_ms": at + rng.randrange(5), "person": rng.randrange(6), "place": 3}
        for at in (rng.randrange(40) for _ in range(500))
    ]
    case = visits_of([row for row in crowd if row["person"] == 0][:25])
    layers = [visits_of(crowd)]
    expected = twin.find_contacts([twin.Table(layers[0])], case, [0], KEYS, 0, **ASKED)
    assert len(expected[2]) > 256 * PAIR.itemsize
    table = VisitTable(layers[0].tobytes())
    many = visits_of([row for row in crowd if row["person"] == 0] * 2)
    several = [table] * 5  # as many tables, so that a question has thousands of visits near it

    def ask_much(_: int) -> tuple[bytes, bytes, bytes, int, int]:
        return find_contacts(several, many.tobytes(), bytes(4), b"".join(KEYS), 0, **ASKED)

    assert ask(layers, case, [0]) == expected
    once = ask_much(0)
    assert once[3] == 5
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask_much, range(16))) == {once}


def test_a_tie_goes_by_the_key_and_a_limit_cuts_the_pairs() -> None:
    crowd = [{"start_ms": 0, "end_ms": 9, "person": n, "place": 3} for n in range(6)]
    visits = visits_of(crowd)
    shown, contacts, pairs, total, below = ask([visits], visits[:1], [0], limit=3)
    assert np.frombuffer(shown, "<u4").tolist() == [5, 4, 3]
    assert (len(contacts), len(pairs)) == (3 * CONTACT.itemsize, 3 * PAIR.itemsize)
    assert (total, below) == (5, 0)
    everything = ask([visits], visits[:1], [0], limit=2**63 - 1)
    assert everything[0][:12] == shown
    assert ask([visits], visits[:1], [0], min_ms=10) == (b"", b"", b"", 0, 5)


def test_the_ends_of_time() -> None:
    """Sums stay within bounds, though two places together are more than an i64 can hold."""
    ends = [-TIME_MAX, TIME_MAX]
    rows = [
        {"start_ms": ends[0], "end_ms": ends[1], "person": person, "place": place}
        for person in (0, 1)
        for place in (1, 2, 3)
    ]
    visits = visits_of(rows)
    case = visits[visits["person"] == 0]
    for changes in ({}, {"linger_ms": TIME_MAX, "queue_ms": TIME_MAX, "window_ms": TIME_MAX}):
        shown, contacts, _, _, _ = ask([visits], case, [0], **changes)
        assert shown == b"\1\0\0\0"
        (contact,) = np.frombuffer(contacts, CONTACT)
        assert (contact["overlap_ms"], contact["linger_ms"]) == (TIME_MAX, 0)
        assert contact["best_ms"] == (TIME_MAX if changes else 3 * ASKED["window_ms"])
        assert (contact["first_ms"], contact["last_ms"]) == (*ends,)
    for place in (1, 2, 3):
        found = VisitTable(visits.tobytes()).at_place(place, *ends, 0)
        assert len(found) == 2 * VISIT.itemsize


def test_no_table_and_no_case() -> None:
    nothing = (b"", b"", b"", 0, 0)
    visits = visits_of(meeting())
    assert ask([], visits, [0]) == nothing
    assert ask([visits[:0]], visits, [0]) == nothing
    assert ask([visits], visits[:0], [0]) == nothing
    table = VisitTable(b"")
    assert table.at_place(3, 0, 10, 0) == of_person([table], 0, 0, 10, 0) == b""
    assert table.begun(-TIME_MAX, TIME_MAX, 0) == b""
    assert len(merge_tables([])) == len(merge_tables([table, table])) == 0
    assert (people_at([], 3, 0, 10, b"", 0), times_of([], 3, 0, 10, 0)) == (set(), [])
    assert time_together([table], 3, 0, 10, b"", 0) == {}


# ---- what they refuse ---------------------------------------------------------------------------


def changed(name: str, value: int) -> bytes:
    visits = visits_of(meeting())
    visits[name][1] = value
    return visits.tobytes()


@pytest.mark.parametrize(
    "visits",
    [
        changed("start_ms", 11),  # after its own end
        changed("end_ms", 2**62),
        changed("start_ms", -(2**62)),
        changed("end_ms", -(2**63)),
    ],
)
def test_visits_out_of_range_are_refused(visits: bytes) -> None:
    with pytest.raises(ValueError, match=r"^a visit is out of range$"):
        VisitTable(visits)


def test_visits_come_in_any_order() -> None:
    visits = visits_of(
        [
            {"start_ms": at, "end_ms": at + 1, "person": person, "place": place}
            for at in (-TIME_MAX, -2, 0, 255, 256, 2**40, TIME_MAX - 2)
            for place in (0, 3, 256, 70_000, 2**32 - 1)
            for person in (0, 1)
        ]
    )
    shuffled = visits.copy()
    np.random.default_rng(5).shuffle(shuffled)
    for order in (visits, visits[::-1].copy(), shuffled):
        table = VisitTable(order.tobytes())
        for place in (0, 3, 256, 70_000, 2**32 - 1):
            found = np.frombuffer(table.at_place(place, -TIME_MAX, TIME_MAX, 0), VISIT)
            assert found["start_ms"].tolist() == sorted(visits["start_ms"][visits["place"] == 0])


@pytest.mark.parametrize("size", [1, 47, 49, 95, 97])
def test_sizes_that_are_no_whole_number_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"^visits has a broken size$"):
        VisitTable(bytes(size))
    table = VisitTable(visits_of(meeting()).tobytes())
    good = [bytes(48), bytes(4), bytes(32)]
    for at, name in enumerate(["case", "persons", "keys"]):
        with pytest.raises(ValueError, match=rf"^{name} has a broken size$"):
            find_contacts([table], *good[:at], bytes(size), *good[at + 1 :], 0, **ASKED)
    for ask_plain in (people_at, time_together):
        with pytest.raises(ValueError, match=r"^keys has a broken size$"):
            ask_plain([table], 3, 0, 10, bytes(size), 0)
    with pytest.raises(ValueError, match=r"^endings has a broken size$"):
        end_visits([table], bytes(size), 1)


def test_people_that_do_not_fit_are_refused() -> None:
    for persons in ([1, 1], [2, 1], [0, 2**32 - 1, 5]):
        with pytest.raises(ValueError, match=r"^persons do not ascend$"):
            ask([], visits_of([]), persons)
    for name in ("start_ms", "end_ms"):
        for value in (2**62, -(2**62), 2**63 - 1, -(2**63)):
            case = np.frombuffer(changed(name, value), VISIT)
            with pytest.raises(ValueError, match=r"^a visit of the case is out of range$"):
                ask([], case, [0])


@pytest.mark.parametrize("name", [*ASKED])
def test_numbers_out_of_range_are_refused(name: str) -> None:
    for value in (-1 if name != "min_ms" else -(2**63) - 1, 2**63, 2**64, 2**200):
        with pytest.raises(ValueError, match=rf"^{name} is out of range$"):
            ask([], visits_of([]), [0], **{name: value})
    for wrong in (1.0, "1", None):
        with pytest.raises(TypeError):
            ask([], visits_of([]), [0], **{name: wrong})  # type: ignore[arg-type]


def test_numbers_of_a_table_out_of_range_are_refused() -> None:
    table = VisitTable(b"")
    for place in (-1, 2**32):
        for ask_place in (
            lambda n: table.at_place(n, 0, 1, 0), lambda n: people_at([], n, 0, 1, b"", 0),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=r"^place is out of range$"):
                ask_place(place)
        for ask_person in (
            lambda n: times_of([], n, 0, 1, 0),
            lambda n: time_together([], n, 0, 1, b"", 0),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=r"^person is out of range$"):
                ask_person(place)
        with pytest.raises(ValueError, match=r"^epoch is out of range$"):
            table.begun(0, 1, place)
        with pytest.raises(ValueError, match=r"^epoch is out of range$"):
            find_contacts([], b"", b"", b"", place, **ASKED)
    for epoch in (0, 2**32 - 1):
        with pytest.raises(ValueError, match=r"^epoch is out of range$"):
            end_visits([], b"", epoch)
    for instant in (-(2**62), 2**62):
        for asked in (
            lambda *span: table.at_place(0, *span, 0), lambda *span: of_person([], 0, *span, 0),
            lambda *span: table.begun(*span, 0), lambda *span: times_of([], 0, *span, 0),
            lambda *span: people_at([], 0, *span, b"", 0),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=r"^from_ms is out of range$"):
                asked(instant, 0)
            with pytest.raises(ValueError, match=r"^to_ms is out of range$"):
                asked(0, instant)


def test_too_many_tables_are_refused() -> None:
    table = VisitTable(visits_of(meeting()).tobytes())
    assert people_at([table] * 1024, 3, 0, 9, bytes(32), 0) == {bytes(16)}
    for ask_all in (
        lambda tables: merge_tables(tables), lambda tables: end_visits(tables, b"", 1),
        lambda tables: people_at(tables, 3, 0, 9, bytes(32), 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^tables are too many$"):
            ask_all([table] * 1025)


def test_what_is_no_buffer_and_no_table_is_refused() -> None:
    wrongs: list[Any] = [None, 1, "visits", [b""], np.zeros((4, 48), np.uint8)[:, ::2]]
    for wrong in wrongs:
        with pytest.raises((TypeError, ValueError, BufferError)):
            VisitTable(wrong)
        with pytest.raises((TypeError, ValueError, BufferError)):
            find_contacts([], b"", wrong, b"", 0, **ASKED)
        with pytest.raises((TypeError, ValueError, BufferError)):
            end_visits([], wrong, 1)
        for ask_wrong in (
            lambda bad: find_contacts([bad], b"", b"", b"", 0, **ASKED),
            lambda bad: merge_tables([bad]), lambda bad: end_visits([bad], b"", 1),
            lambda bad: people_at([bad], 0, 0, 0, b"", 0), born_table,
        ):  # fmt: skip
            with pytest.raises(TypeError):
                ask_wrong(wrong)
    uninitialised: Any = object.__new__
    with pytest.raises(TypeError):
        uninitialised(VisitTable)
    with pytest.raises(TypeError, match=r"pickled"):
        VisitTable(b"").__reduce__()


def test_no_changes_make_an_empty_table() -> None:
    assert len(born_table(Changes())) == 0


# ---- hostile memory -----------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=4 * 48), st.binary(max_size=3 * 48), st.randoms(use_true_random=False))
def test_any_bytes_are_read_within_their_bounds(
    visits: bytes, case: bytes, rng: random.Random
) -> None:
    tables = []
    for packed in (visits, visits_of(meeting()).tobytes(), visits[: len(visits) // 48 * 48]):
        try:
            tables.append(VisitTable(tight(packed)))
        except ValueError:
            continue
        tables[-1].at_place(rng.randrange(2**32), -TIME_MAX, TIME_MAX, rng.randrange(2**32))
        of_person(tables[-1:], rng.randrange(2**32), -TIME_MAX, TIME_MAX, 0)
    end_visits(tables, tight(rng.randbytes(16 * rng.randrange(5))), 1)
    merge_tables(tables)
    people_at(tables, 3, -TIME_MAX, TIME_MAX, tight(bytes(16)), 0)
    for person in (0, 1, rng.randrange(2**32)):
        time_together(tables, person, -TIME_MAX, TIME_MAX, tight(bytes(16)), 0)
    people = [tight(rng.randbytes(4 * rng.randrange(3))), tight(bytes(32))]
    try:
        shown, contacts, pairs, total, _ = find_contacts(tables, tight(case), *people, 0, **ASKED)
    except ValueError:
        return
    assert (len(shown), len(contacts)) == (4 * total, CONTACT.itemsize * total)
    assert len(pairs) % PAIR.itemsize == 0


def test_buffers_need_no_alignment() -> None:
    visits = visits_of(meeting(vehicle=7))
    expected = ask([visits], visits[:1], [0])
    assert expected[3] == 1

    def shifted(data: bytes) -> memoryview:
        return tight(b"x" + data)[1:]

    found = find_contacts(
        [VisitTable(shifted(visits.tobytes()))],
        shifted(visits[:1].tobytes()), shifted(bytes(4)), shifted(b"".join(KEYS)), 0, **ASKED,
    )  # fmt: skip
    assert found == expected


def test_a_table_keeps_its_own_copy() -> None:
    memory = bytearray(visits_of(meeting() * 20).tobytes())
    table = VisitTable(memory)
    before = table.at_place(3, 0, 10, 0)
    memory[:] = bytes(len(memory))
    memory.clear()
    assert table.at_place(3, 0, 10, 0) == before


def test_a_person_without_a_key_is_nobody() -> None:
    visits = visits_of([*meeting(), {"start_ms": 0, "end_ms": 9, "person": 2**32 - 1, "place": 3}])
    shown, _, _, total, below = ask([visits], visits[:1], [0])
    assert (shown, total, below) == (b"\1\0\0\0", 1, 0)
    table = VisitTable(visits.tobytes())
    nobody = find_contacts([table], visits[:1].tobytes(), bytes(4), bytes(16), 0, **ASKED)
    assert nobody == (b"", b"", b"", 0, 0)
    assert people_at([table], 3, 0, 9, bytes(16), 0) == {bytes(16)}
    assert time_together([table], 0, 0, 9, bytes(16), 0) == {}


def test_visits_end_while_others_ask() -> None:
    """Whoever asks in an epoch sees that epoch, whatever ends meanwhile."""
    crowd = [{"start_ms": at, "end_ms": at + 5, "person": at % 6, "place": 3} for at in range(3000)]
    table = VisitTable(visits_of(crowd).tobytes())
    whole = table.at_place(3, 0, 4000, 0)

    def ask_on(_: int) -> bool:
        return all(table.at_place(3, 0, 4000, 0) == whole for _ in range(200))

    with ThreadPoolExecutor(2) as pool:
        asking = pool.map(ask_on, range(2))
        for epoch in range(1, 300):
            assert (
                end_visits([table], packed_endings([(10 * epoch, 10 * epoch % 6, 3)]), epoch) == 1
            )
        assert all(asking)
    assert len(table) == 3000 - 299
    assert len(table.at_place(3, 0, 4000, 299)) == 48 * (3000 - 299)
    assert len(table.at_place(3, 0, 4000, 100)) == 48 * (3000 - 100)
