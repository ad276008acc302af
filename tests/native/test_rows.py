"""native.rows against its slow twin: layout, ranges, and a buffer that is emptied by take()."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scans.rows import ROW, ROW_SIZE
from engine.storage.group import pack_details, walk_details
from native.rows import RowBuffer, longest_details, split_entries
from tests.reference.native_rows import FIELDS, row_bytes

NUMBERS = [name for name in FIELDS if name != "person"]
PERSON = bytes(range(16))


def limits(name: str) -> tuple[int, int]:
    info = np.iinfo(ROW[name])
    return int(info.min), int(info.max)


def zeros() -> dict[str, Any]:
    return {"person": PERSON, **dict.fromkeys(NUMBERS, 0)}


numbers = st.fixed_dictionaries(
    {
        "person": st.binary(min_size=16, max_size=16),
        **{name: st.integers(*limits(name)) for name in NUMBERS},
    }
)


@given(st.lists(numbers, max_size=5))
def test_rows_equal_the_twin(batch: list[dict[str, Any]]) -> None:
    buffer = RowBuffer()
    for fields in batch:
        buffer.append(**fields)
    assert len(buffer) == len(batch)
    assert buffer.take() == b"".join(row_bytes(**fields) for fields in batch)


def test_arguments_may_stand_in_the_order_of_the_row() -> None:
    buffer = RowBuffer()
    buffer.append(PERSON, *range(1, 13))
    assert buffer.take() == row_bytes(
        person=PERSON, **dict(zip(NUMBERS, range(1, 13), strict=True))
    )


@pytest.mark.parametrize("name", NUMBERS)
def test_both_ends_of_a_field_fit_and_the_next_numbers_do_not(name: str) -> None:
    low, high = limits(name)
    buffer = RowBuffer()
    for value in (low, high):
        buffer.append(**{**zeros(), name: value})
        assert buffer.take() == row_bytes(**{**zeros(), name: value})
    for value in (low - 1, high + 1, -(2**63) - 1, 2**63, 2**64, -(2**200)):
        with pytest.raises(ValueError, match=f"^{name} is out of range$"):
            buffer.append(**{**zeros(), name: value})
    for wrong in (1.0, "1", None):
        with pytest.raises(TypeError):
            buffer.append(**{**zeros(), name: wrong})
    assert len(buffer) == 0


@pytest.mark.parametrize("person", [b"", b"p" * 15, b"p" * 17])
def test_a_person_key_has_16_bytes(person: bytes) -> None:
    with pytest.raises(ValueError, match="person is not 16 bytes"):
        RowBuffer().append(**{**zeros(), "person": person})


@given(st.lists(st.binary(max_size=40), max_size=6), st.binary(max_size=6), st.integers(-1, 1))
def test_details_are_one_entry_a_row(entries: list[bytes], more: bytes, off: int) -> None:
    packed = pack_details(entries)
    assert split_entries(packed, len(entries)) == entries
    assert longest_details(packed, len(entries)) == max(map(len, entries), default=0)
    for data, count in ((packed + more, len(entries) + off), (packed[: len(more)], len(entries))):
        try:
            expected = [bytes(entry) for entry in walk_details(data, count)] if count >= 0 else None
        except ValueError:
            expected = None
        if expected is None:
            for split in (split_entries, longest_details):
                with pytest.raises(ValueError):
                    split(data, count)
        else:
            assert split_entries(data, count) == expected
            assert longest_details(data, count) == max(map(len, expected), default=0)


@pytest.mark.parametrize("person", [None, "p" * 16, bytearray(16)])
def test_a_person_key_is_bytes(person: object) -> None:
    with pytest.raises(TypeError):
        RowBuffer().append(**{**zeros(), "person": person})


@pytest.mark.parametrize("count", [*range(131), 20_000])
def test_take_gives_all_rows_once(count: int) -> None:
    buffer = RowBuffer()
    for i in range(count):
        buffer.append(**{**zeros(), "time_ms": i})
    packed = buffer.take()
    assert len(packed) == count * ROW_SIZE
    assert np.array_equal(np.frombuffer(packed, ROW)["time_ms"], np.arange(count))
    assert (len(buffer), buffer.take()) == (0, b"")
    buffer.append(**zeros())
    assert buffer.take() == row_bytes(**zeros())


def test_a_number_that_takes_the_rows_itself_does_no_harm() -> None:
    buffer = RowBuffer()
    taken: list[bytes] = []

    class Sly:
        def __index__(self) -> int:
            taken.append(buffer.take())
            return 7

    for i in range(64):
        buffer.append(**{**zeros(), "time_ms": i})
    buffer.append(**{**zeros(), "area": Sly()})
    assert len(taken[0]) == 64 * ROW_SIZE
    assert buffer.take() == row_bytes(**{**zeros(), "area": 7})


@pytest.mark.full
def test_a_buffer_that_nobody_takes_stops_growing() -> None:
    buffer = RowBuffer()
    arguments: Any = (PERSON, *[0] * 12)
    for _ in range(2**20):
        buffer.append(*arguments)
    with pytest.raises(ValueError, match="take"):
        buffer.append(*arguments)
    assert len(buffer.take()) == 2**20 * ROW_SIZE
    buffer.append(*arguments)
    assert len(buffer) == 1


def test_it_is_not_pickled_by_mistake() -> None:
    with pytest.raises(TypeError, match="pickle"):
        RowBuffer().__reduce__()
