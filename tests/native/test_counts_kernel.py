"""native.counts against dictionaries, and under cells that no walk makes."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.presence.visits import VISIT
from engine.tracing.counts import CELL, COUNT
from native.counts import add_cells, count_begun, places_of
from native.index import VisitTable

FAR = 2**62 - 1
LAST = 2**32 - 1


def tight(data: bytes) -> memoryview:
    # numpy allocates no byte behind the last one, so ASan sees a step too far.
    return np.frombuffer(data, np.uint8).copy().data


def cells_of(rows: list[tuple[int, int, int, int, int, int]], width: int) -> np.ndarray:
    cells = np.zeros(len(rows), CELL)
    for at, (hour, place, count, lane, direction, is_passage) in enumerate(rows):
        cells[at] = (hour * width - 50, place, count & LAST, lane, direction, is_passage, b"")
    return cells


rows = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2, 300, LAST]),
        st.sampled_from([0, 1, 5, LAST]),
        st.integers(-2, 3),
        st.sampled_from([0, 1, 65535]),
        st.sampled_from([0, 1, 255]),
        st.integers(0, 1),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(
    rows, st.sampled_from([1, 7]), st.booleans(), st.dictionaries(
        st.sampled_from([0, 1, 2, 5, LAST]), st.sampled_from([0, 1, LAST])
    )
)  # fmt: skip
def test_rows_are_sums_of_cells(made, width, has_lanes, groups):
    cells = cells_of(made, width)
    assert np.frombuffer(places_of(tight(cells.tobytes())), "<u4").tolist() == sorted(
        {row[1] for row in made}
    )
    places = sorted(groups)
    packed = add_cells(
        tight(cells.tobytes()),
        tight(np.array(places, "<u4").tobytes()),
        tight(np.array([groups[place] for place in places], "<u4").tobytes()),
        -50,
        width,
        has_lanes,
    )
    sums: Counter[tuple[int, int, int, int, int]] = Counter()
    for hour, place, count, lane, direction, is_passage in made:
        if place in groups:
            what = (lane, direction) if has_lanes else (0, 0)
            sums[hour * width - 50, groups[place], *what, is_passage] += count
    expected = [
        (*key, 0, max(sums[*key, 0], 0), max(sums[*key, 1], 0))
        for key in sorted({key[:4] for key in sums})
        if sums[*key, 0] > 0 or sums[*key, 1] > 0
    ]
    found = np.frombuffer(packed, COUNT).tolist()
    # What was taken off more often than it was there says nothing beside the other.
    assert [row[:5] for row in found] == [row[:5] for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert all(a == b for a, b in zip(row[5:], wanted[5:], strict=True) if b > 0)


@pytest.mark.parametrize("width", [1, 60, 3600])
def test_walks_count_each_visit_once(width):
    rng = random.Random(width)
    visits = np.zeros(500, VISIT)
    visits["start_ms"] = [rng.randrange(-100, 9000) for _ in visits]
    visits["end_ms"] = visits["start_ms"] + [rng.choice([0, 1, 5000]) for _ in visits]
    visits["place"] = [rng.choice([1, 2, LAST]) for _ in visits]
    visits["flags"] = [rng.choice([0, 1]) for _ in visits]
    visits["room"] = [rng.randrange(2) for _ in visits]
    visits["direction"] = [rng.randrange(3) for _ in visits]
    tables = [VisitTable(visits[:300]), VisitTable(visits[300:])]
    for low, high in ((-100, 9000), (int(visits["start_ms"].max()), 9000), (17, 4000), (5, 5)):
        cells = np.frombuffer(count_begun(tables, low, high, width, 0), CELL)
        counted: Counter[tuple[int, ...]] = Counter()
        for start, place, count, lane, direction, is_passage, _ in cells.tolist():
            counted[start, place, lane, direction, is_passage] += count
        expected: Counter[tuple[int, ...]] = Counter()
        for visit in visits[(visits["start_ms"] >= low) & (visits["start_ms"] < high)]:
            start, is_passage = int(visit["start_ms"]), int(visit["flags"])
            what = (int(visit["room"]), int(visit["direction"])) if is_passage else (0, 0)
            at = start - (start - low) % width
            expected[at, int(visit["place"]), *what, is_passage] += 1
        assert counted == expected


def test_cells_that_cannot_be_added_are_refused():
    one = cells_of([(0, 1, 1, 0, 0, 0)], 7).tobytes()
    place = np.array([1], "<u4").tobytes()
    far = np.zeros(1, CELL)
    far["start_ms"] = 2**63 - 1
    for cells, places, groups, low, width in (
        (one[1:], place, place, -50, 7),
        (one, place[1:], place[1:], -50, 7),
        (one, place, b"", -50, 7),
        (one, place, place, -49, 7),
        (one, place, place, -FAR, 7),
        (far.tobytes(), place, place, -50, 7),
        (one, place, place, -50, 0),
    ):
        with pytest.raises(ValueError, match=r".+"):
            add_cells(cells, places, groups, low, width, False)
    with pytest.raises(ValueError, match="cells"):
        places_of(one[1:])
    assert add_cells(b"", b"", b"", 0, 1, True) == b"" and places_of(b"") == b""
