"""native.found against sorted(), and under input nobody should send."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.presence.visits import VISIT
from native.found import list_visits

# Against the order of the numbers; the last two differ behind the bytes that are sorted first.
KEYS = [b"\xff" * 16, b"k" + bytes(15), b"\0" * 7 + b"\2" + bytes(8), b"\0" * 15 + b"\2",
        b"\0" * 15 + b"\1", bytes(16)]  # fmt: skip
TIME_MAX = 2**62 - 1


def visits_of(rows: list[tuple[int, int, int, int]]) -> np.ndarray:
    """VISIT of (start, length, person, place); every row its own ref."""
    visits = np.zeros(len(rows), VISIT)
    for at, (start, length, person, place) in enumerate(rows):
        visits[at]["start_ms"], visits[at]["end_ms"] = start, start + length
        visits[at]["person"], visits[at]["place"] = person, place
    visits["ref"] = np.arange(len(rows))
    return visits


def slow_list(visits: np.ndarray, keys: list[bytes], limit: int | None) -> list[Any]:
    def rank(visit: np.void) -> tuple[int, int, bytes, int]:
        start, end = int(visit["start_ms"]), int(visit["end_ms"])
        return start, end, keys[visit["person"]], int(visit["place"])

    rows = sorted(visits, key=rank)[:limit]
    people = sorted({int(row["person"]) for row in rows}, key=lambda number: keys[number])
    shown = np.array(rows, VISIT)
    shown["person"] = [people.index(row["person"]) for row in rows]
    return [shown.tobytes(), people, [keys[number] for number in people]]


def ask(visits: np.ndarray, keys: list[bytes], limit: int | None) -> list[Any]:
    # numpy allocates no byte behind the last one, so ASan sees a step too far.
    room = np.frombuffer(b"".join(keys), np.uint8).copy()
    shown, numbers, named = list_visits(visits.tobytes(), room.data, limit)
    people = np.frombuffer(numbers, "<u4").tolist()
    return [shown, people, [named[16 * at :][:16] for at in range(len(named) // 16)]]


rows = st.lists(
    st.tuples(
        st.integers(-3, 3) | st.sampled_from([-(2**61), 2**61, 2**32, 2**32 + 1]),
        st.integers(0, 2),
        st.integers(0, len(KEYS) - 1),
        st.sampled_from([0, 1, 2**32 - 1]),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(rows, st.none() | st.integers(0, 90))
def test_visits_stand_as_sorted_by_hand(made, limit):
    visits = visits_of(made)
    assert ask(visits, KEYS, limit) == slow_list(visits, KEYS, limit)


@pytest.mark.parametrize("span_ms", [10, 2**31, 2**34])
@pytest.mark.parametrize("has_like_keys", [False, True])
def test_many_visits_of_many_persons(span_ms, has_like_keys):
    rng = random.Random(span_ms)
    keys = [n.to_bytes(16, "big") for n in rng.sample(range(5000), 400)]
    if not has_like_keys:
        keys = [rng.randbytes(16) for _ in keys]
    made = [
        (rng.randrange(span_ms), rng.randrange(3), rng.randrange(400), rng.randrange(2))
        for _ in range(3000)
    ]
    visits = visits_of(made)
    for limit in (None, 0, 1, 100, 2999, 3001):
        assert ask(visits, keys, limit) == slow_list(visits, keys, limit)


def test_what_no_answer_can_list_is_refused():
    one = visits_of([(0, 1, 0, 1)])
    late = visits_of([(TIME_MAX, 1, 0, 1)])
    for bad, keys, limit in (
        (one.tobytes()[1:], KEYS[0], None),
        (one.tobytes(), KEYS[0][1:], None),
        (one.tobytes(), b"", None),
        (one.tobytes(), KEYS[0], -1),
        (one.tobytes(), KEYS[0], 2**32),
        (late.tobytes(), KEYS[0], None),
    ):
        with pytest.raises(ValueError, match=r".+"):
            list_visits(bad, keys, limit)
    with pytest.raises(TypeError):
        list_visits(None, KEYS[0], None)  # type: ignore[arg-type]
    assert list_visits(b"", b"", None) == (b"", b"", b"")
