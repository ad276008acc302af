"""native.index and native.contacts against their slow twins, and under input nobody should send.

The kernels have one form for all CPU levels; the levels only prove that none changes an answer.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contacts import CONTACT, PAIR
from engine.visits import VISIT
from native.contacts import find_contacts
from native.index import VisitTable
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


def ask(
    layers: list[tuple[int, np.ndarray]],
    case: np.ndarray,
    persons: list[int],
    owner: list[int],
    **changes: int,
) -> tuple[bytes, bytes, bytes, int, int]:
    return find_contacts(
        [VisitTable(ident, tight(visits.tobytes())) for ident, visits in layers],
        tight(case.tobytes()),
        tight(np.array(persons, "<u4").tobytes()),
        tight(np.array(owner, "<i4").tobytes()),
        tight(b"".join(KEYS)),
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


# ---- what they answer ---------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.lists(rows, max_size=3),
    rows,
    st.sets(st.integers(0, PEOPLE)),
    st.lists(st.integers(0, 3), min_size=PEOPLE, max_size=PEOPLE),
    st.fixed_dictionaries(
        {
            "linger_ms": st.integers(0, 20),
            "queue_ms": st.integers(0, 5),
            "min_ms": st.integers(-1, 25),
            "window_ms": st.integers(0, 40),
            "limit": st.integers(0, PEOPLE + 1),
        }
    ),
)
def test_contacts_equal_the_twin(
    parts: list[list[dict[str, Any]]],
    case: list[dict[str, Any]],
    persons: set[int],
    owner: list[int],
    asked: dict[str, int],
) -> None:
    layers = [(ident, visits_of(part)) for ident, part in enumerate(parts)]
    expected = twin.find_contacts(
        [twin.Table(*layer) for layer in layers],
        visits_of(case), sorted(persons), np.array(owner), KEYS, **asked,
    )  # fmt: skip
    assert ask(layers, visits_of(case), sorted(persons), owner, **asked) == expected


@given(rows, st.integers(-15, 60), st.integers(0, 70), st.integers(-1, 1))
def test_visits_of_places_and_persons_equal_the_twin(
    part: list[dict[str, Any]], start: int, span: int, ident: int
) -> None:
    visits = visits_of(part)
    owner = np.array([0, 1, -1, 0, 1, 0], "<i4")
    table = VisitTable(ident, tight(visits.tobytes()))
    assert len(table) == len(visits)
    for place in (0, 1, 2, 3, 2**32 - 1):
        question = (place, start, start + span)
        found = table.at_place(*question, tight(owner.tobytes()))
        assert found == twin.Table(ident, visits).at_place(*question, owner)
    for person in (*range(PEOPLE + 2), 2**32 - 1):
        question = (person, start, start + span)
        assert table.of_person(*question) == twin.Table(ident, visits).of_person(*question)


@pytest.mark.parametrize("people", [1, 255, 256, 257, 70_000])
def test_numbers_of_every_width_are_told_apart(people: int) -> None:
    rng = random.Random(people)
    numbers = sorted({rng.randrange(1, people + 1) for _ in range(500)} | {people})
    rows = [
        {"start_ms": rng.randrange(50), "end_ms": 60, "person": number, "place": 3}
        for number in numbers * 2
    ]
    owner = np.zeros(people + 1, "<i4")
    keys = np.arange(2 * (people + 1), dtype=">u8")
    shown, contacts, pairs, total, below = find_contacts(
        [VisitTable(0, visits_of(rows).tobytes())],
        visits_of([{"start_ms": 0, "end_ms": 60, "place": 3}]).tobytes(),
        bytes(4), owner.data, keys.data, **{**ASKED, "limit": 10**6},
    )  # fmt: skip
    assert sorted(np.frombuffer(shown, "<u4").tolist()) == numbers
    assert (total, below) == (len(numbers), 0)
    found = np.frombuffer(contacts, CONTACT)
    assert (found["pairs"] == 2).all()
    assert (np.diff(found["overlap_ms"]) <= 0).all()
    table = VisitTable(0, visits_of(rows).tobytes())
    assert all(len(table.of_person(number, 0, 60)) == 2 * VISIT.itemsize for number in numbers)
    assert table.of_person(0, 0, 60) == b""
    assert np.frombuffer(pairs, PAIR)["contact"].tolist() == np.repeat(range(total), 2).tolist()


def test_a_crowd_equals_the_twin_from_many_threads() -> None:
    """More pairs than the first room holds, and enough visits to let go of the GIL."""
    rng = random.Random(11)
    crowd = [
        {"start_ms": at, "end_ms": at + rng.randrange(5), "person": rng.randrange(6), "place": 3}
        for at in (rng.randrange(40) for _ in range(500))
    ]
    case = visits_of([row for row in crowd if row["person"] == 0][:25])
    layers = [(0, visits_of(crowd))]
    expected = twin.find_contacts(
        [twin.Table(*layers[0])], case, [0], np.zeros(6, int), KEYS, **ASKED
    )
    assert len(expected[2]) > 256 * PAIR.itemsize
    table = VisitTable(0, layers[0][1].tobytes())
    many = visits_of([row for row in crowd if row["person"] == 0] * 2)
    several = [table] * 5  # as many tables, so that a question has thousands of visits near it

    def ask_much(_: int) -> tuple[bytes, bytes, bytes, int, int]:
        numbers, owner = bytes(4), bytes(24)
        return find_contacts(several, many.tobytes(), numbers, owner, b"".join(KEYS), **ASKED)

    assert ask(layers, case, [0], [0] * 6) == expected
    once = ask_much(0)
    assert once[3] == 5
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask_much, range(16))) == {once}


def test_a_tie_goes_by_the_key_and_a_limit_cuts_the_pairs() -> None:
    crowd = [{"start_ms": 0, "end_ms": 9, "person": n, "place": 3} for n in range(6)]
    visits = visits_of(crowd)
    shown, contacts, pairs, total, below = ask([(0, visits)], visits[:1], [0], [0] * 6, limit=3)
    assert np.frombuffer(shown, "<u4").tolist() == [5, 4, 3]
    assert (len(contacts), len(pairs)) == (3 * CONTACT.itemsize, 3 * PAIR.itemsize)
    assert (total, below) == (5, 0)
    everything = ask([(0, visits)], visits[:1], [0], [0] * 6, limit=2**63 - 1)
    assert everything[0][:12] == shown
    assert ask([(0, visits)], visits[:1], [0], [0] * 6, min_ms=10) == (b"", b"", b"", 0, 5)


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
        shown, contacts, _, _, _ = ask([(0, visits)], case, [0], [0] * 6, **changes)
        assert shown == b"\1\0\0\0"
        (contact,) = np.frombuffer(contacts, CONTACT)
        assert (contact["overlap_ms"], contact["linger_ms"]) == (TIME_MAX, 0)
        assert contact["best_ms"] == (TIME_MAX if changes else 3 * ASKED["window_ms"])
        assert (contact["first_ms"], contact["last_ms"]) == (*ends,)
    for place in (1, 2, 3):
        found = VisitTable(0, visits.tobytes()).at_place(place, *ends, bytes(24))
        assert len(found) == 2 * VISIT.itemsize


def test_no_table_and_no_case() -> None:
    nothing = (b"", b"", b"", 0, 0)
    visits = visits_of(meeting())
    assert ask([], visits, [0], [0] * 6) == nothing
    assert ask([(0, visits[:0])], visits, [0], [0] * 6) == nothing
    assert ask([(0, visits)], visits[:0], [0], [0] * 6) == nothing
    assert VisitTable(0, b"").at_place(3, 0, 10, b"") == b""
    assert VisitTable(0, b"").of_person(0, 0, 10) == b""


# ---- what they refuse ---------------------------------------------------------------------------


def changed(name: str, value: int) -> bytes:
    visits = visits_of(meeting())
    visits[name][1] = value
    return visits.tobytes()


@pytest.mark.parametrize(
    "visits",
    [
        changed("start_ms", -1),  # before the visit in front of it
        changed("place", 2),
        changed("start_ms", 11),  # after its own end
        changed("end_ms", 2**62),
        changed("start_ms", -(2**62)),
        changed("end_ms", -(2**63)),
    ],
)
def test_visits_in_no_order_or_out_of_range_are_refused(visits: bytes) -> None:
    with pytest.raises(ValueError, match=r"^visits are not sorted by place and start, or out of"):
        VisitTable(0, visits)


@pytest.mark.parametrize("size", [1, 47, 49, 95, 97])
def test_sizes_that_are_no_whole_number_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"^visits has a broken size$"):
        VisitTable(0, bytes(size))
    table = VisitTable(0, visits_of(meeting()).tobytes())
    good = [bytes(48), bytes(4), bytes(8), bytes(32)]
    for at, name in enumerate(["case", "persons", "owner", "keys"]):
        with pytest.raises(ValueError, match=rf"^{name} has a broken size$"):
            find_contacts([table], *good[:at], bytes(size), *good[at + 1 :], **ASKED)
    with pytest.raises(ValueError, match=r"^owner has a broken size$"):
        table.at_place(3, 0, 10, bytes(size))


def test_people_that_do_not_fit_are_refused() -> None:
    table = VisitTable(0, visits_of(meeting()).tobytes())
    with pytest.raises(ValueError, match=r"^owner and keys differ in length$"):
        find_contacts([table], b"", b"", bytes(12), bytes(32), **ASKED)
    for persons in ([1, 1], [2, 1], [0, 2**32 - 1, 5]):
        with pytest.raises(ValueError, match=r"^persons do not ascend$"):
            ask([], visits_of([]), persons, [0] * 6)
    for name in ("start_ms", "end_ms"):
        for value in (2**62, -(2**62), 2**63 - 1, -(2**63)):
            case = np.frombuffer(changed(name, value), VISIT)
            with pytest.raises(ValueError, match=r"^a visit of the case is out of range$"):
                ask([], case, [0], [0] * 6)


@pytest.mark.parametrize("name", [*ASKED])
def test_numbers_out_of_range_are_refused(name: str) -> None:
    for value in (-1 if name != "min_ms" else -(2**63) - 1, 2**63, 2**64, 2**200):
        with pytest.raises(ValueError, match=rf"^{name} is out of range$"):
            ask([], visits_of([]), [0], [0] * 6, **{name: value})
    for wrong in (1.0, "1", None):
        with pytest.raises(TypeError):
            ask([], visits_of([]), [0], [0] * 6, **{name: wrong})  # type: ignore[arg-type]


def test_numbers_of_a_table_out_of_range_are_refused() -> None:
    table = VisitTable(0, b"")
    for ident in (-(2**31) - 1, 2**31, 2**200):
        with pytest.raises(ValueError, match=r"^ident is out of range$"):
            VisitTable(ident, b"")
    for place in (-1, 2**32):
        with pytest.raises(ValueError, match=r"^place is out of range$"):
            table.at_place(place, 0, 1, b"")
        with pytest.raises(ValueError, match=r"^person is out of range$"):
            table.of_person(place, 0, 1)
    for instant in (-(2**62), 2**62):
        with pytest.raises(ValueError, match=r"^from_ms is out of range$"):
            table.at_place(0, instant, 0, b"")
        with pytest.raises(ValueError, match=r"^to_ms is out of range$"):
            table.at_place(0, 0, instant, b"")
        with pytest.raises(ValueError, match=r"^from_ms is out of range$"):
            table.of_person(0, instant, 0)
        with pytest.raises(ValueError, match=r"^to_ms is out of range$"):
            table.of_person(0, 0, instant)


def test_what_is_no_buffer_and_no_table_is_refused() -> None:
    wrongs: list[Any] = [None, 1, "visits", [b""], np.zeros((4, 48), np.uint8)[:, ::2]]
    for wrong in wrongs:
        with pytest.raises((TypeError, ValueError, BufferError)):
            VisitTable(0, wrong)
        with pytest.raises((TypeError, ValueError, BufferError)):
            find_contacts([], b"", b"", wrong, b"", **ASKED)
        with pytest.raises(TypeError):
            find_contacts([wrong], b"", b"", b"", b"", **ASKED)
    uninitialised: Any = object.__new__
    with pytest.raises(TypeError):
        uninitialised(VisitTable)
    with pytest.raises(TypeError, match=r"pickled"):
        VisitTable(0, b"").__reduce__()


# ---- hostile memory -----------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=4 * 48), st.binary(max_size=3 * 48), st.randoms(use_true_random=False))
def test_any_bytes_are_read_within_their_bounds(
    visits: bytes, case: bytes, rng: random.Random
) -> None:
    tables = []
    for packed in (visits, visits_of(meeting()).tobytes(), visits[: len(visits) // 48 * 48]):
        try:
            tables.append(VisitTable(rng.randrange(2), tight(packed)))
        except ValueError:
            continue
        tables[-1].at_place(rng.randrange(2**32), -TIME_MAX, TIME_MAX, tight(bytes(8)))
        tables[-1].of_person(rng.randrange(2**32), -TIME_MAX, TIME_MAX)
    people = [tight(rng.randbytes(4 * rng.randrange(3))), tight(bytes(8)), tight(bytes(32))]
    try:
        shown, contacts, pairs, total, _ = find_contacts(tables, tight(case), *people, **ASKED)
    except ValueError:
        return
    assert (len(shown), len(contacts)) == (4 * total, CONTACT.itemsize * total)
    assert len(pairs) % PAIR.itemsize == 0


def test_buffers_need_no_alignment() -> None:
    visits = visits_of(meeting(vehicle=7))
    expected = ask([(0, visits)], visits[:1], [0], [0] * 6)
    assert expected[3] == 1

    def shifted(data: bytes) -> memoryview:
        return tight(b"x" + data)[1:]

    found = find_contacts(
        [VisitTable(0, shifted(visits.tobytes()))],
        shifted(visits[:1].tobytes()), shifted(bytes(4)), shifted(bytes(24)),
        shifted(b"".join(KEYS)), **ASKED,
    )  # fmt: skip
    assert found == expected


def test_rows_changed_behind_its_back_do_no_harm() -> None:
    rng = random.Random(12)
    visits = visits_of(meeting() * 20)
    case = visits[:5].tobytes()
    memory = bytearray(visits.tobytes())
    table = VisitTable(0, memory)
    with pytest.raises(BufferError):
        memory.clear()
    for _ in range(50):
        memory[:] = rng.randbytes(len(memory))
        table.at_place(3, 0, 10, tight(bytes(24)))
        assert len(table.of_person(1, 0, 10)) == 20 * VISIT.itemsize
        find_contacts(
            [table], tight(case), tight(bytes(4)), tight(bytes(24)), tight(bytes(96)), **ASKED
        )


def test_a_person_beyond_the_owners_is_nobody() -> None:
    visits = visits_of([*meeting(), {"start_ms": 0, "end_ms": 9, "person": 2**32 - 1, "place": 3}])
    shown, _, _, total, below = ask([(0, visits)], visits[:1], [0], [0, 0])
    assert (shown, total, below) == (b"\1\0\0\0", 1, 0)
    assert ask([(0, visits)], visits[:1], [0], []) == (b"", b"", b"", 0, 0)
