"""The inverse DCT of native.jpeg against its slow twin and against the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.jpeg.luma import _transform
from tests.reference.native_jpeg import Plane, inverse_dct, true_inverse_dct

ONES = np.ones((8, 8), np.int16)
# Rows and columns in the order of the standard (figure A.6).
ORDER = sorted(
    ((y, x) for y in range(8) for x in range(8)),
    key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]),
)


def kernel(
    left: npt.NDArray[Any],
    right: npt.NDArray[Any],
    quants: npt.NDArray[Any] = ONES,
    count: int = 64,
) -> list[Plane]:
    coefs = np.stack([left, right]).astype("<i2").tobytes()
    pixels = np.frombuffer(_transform(coefs, count, quants.astype("<i2").tobytes()), np.uint8)
    return list(pixels.reshape(2, 8, 8))


def check(left: Any, right: Any, quants: npt.NDArray[Any] = ONES, count: int = 64) -> None:
    for block, pixels in zip((left, right), kernel(left, right, quants, count), strict=True):
        assert np.array_equal(pixels, inverse_dct(block, quants))


def block_of(values: list[int]) -> npt.NDArray[np.int16]:
    block = np.zeros((8, 8), np.int16)
    for (y, x), value in zip(ORDER, values, strict=False):
        block[y, x] = value
    return block


def test_the_order_is_that_of_the_standard() -> None:
    assert ORDER[:10] == [
        (0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0),
    ]  # fmt: skip


values = st.one_of(
    st.integers(-0x8000, 0x7FFF), st.integers(-60, 60), st.sampled_from([0, -0x8000, 0x7FFF])
)


@given(st.lists(values, max_size=64), st.lists(values, max_size=64), st.integers(1, 0xFFFF))
@settings(max_examples=300)
def test_any_numbers_equal_the_twin(left: list[int], right: list[int], quant: int) -> None:
    quants = np.full((8, 8), quant, np.uint16).astype(np.int16)
    count = max(1, len(left), len(right))
    check(block_of(left), block_of(right), quants, count)


@pytest.mark.parametrize("count", range(1, 65))
def test_each_number_of_coefficients(count: int) -> None:
    rng = np.random.default_rng(count)
    for largest in (3, 100, 2000, 0x7FFF):
        left, right = (block_of(list(rng.integers(-largest, largest, count))) for _ in range(2))
        check(left, right, count=count)
        check(left, np.zeros((8, 8)), count=count)


@pytest.mark.parametrize("value", [8191, 8192, -8192, -8193, 0x7FFF, -0x8000, 16384])
def test_a_first_row_out_of_range_alone_wraps_and_with_others_saturates(value: int) -> None:
    alone = np.zeros((8, 8), np.int16)
    alone[0] = value
    among = alone.copy()
    among[5, 5] = 1
    check(alone, among)
    check(among, alone)
    check(alone, np.zeros((8, 8)))
    one = block_of([value])
    check(one, one, count=1)


def test_pictures_are_within_one_step_of_the_definition() -> None:
    rng = np.random.default_rng(7)
    for _ in range(200):
        block = np.round(rng.normal(0, 40, (8, 8)) / (1 + np.add.outer(range(8), range(8))))
        block[0, 0] = rng.integers(-900, 900)
        left, right = kernel(block, -block)
        assert np.abs(left - true_inverse_dct(block)).max() < 1
        assert np.abs(right - true_inverse_dct(-block)).max() < 1
