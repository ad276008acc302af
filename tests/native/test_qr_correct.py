"""native.qr.correct against polynomials on paper: what is mended, and what is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.qr.correct import correct
from tests.reference import qr

ALL_CHECKS = (7, 10, 13, 15, 16, 17, 18, 20, 22, 24, 26, 28, 30)


def block_of(rng: random.Random, size: int, ecc: int) -> bytes:
    data = rng.randbytes(size - ecc)
    return data + bytes(qr.check_codewords(data, ecc))


def is_codeword(block: bytes, ecc: int) -> bool:
    return list(block[-ecc:]) == qr.check_codewords(block[:-ecc], ecc)


def spoil(rng: random.Random, block: bytes, places: list[int]) -> bytes:
    spoilt = bytearray(block)
    for place in places:
        spoilt[place] ^= rng.randint(1, 255)
    return bytes(spoilt)


def test_the_example_of_the_standard() -> None:
    """ISO/IEC 18004:2015, annex I: 01234567 as version 1-M."""
    block = bytes.fromhex("10200c566180ec11ec11ec11ec11ec11 a524d4c1ed36c7872c55")
    assert is_codeword(block, 10)
    assert correct(block, 10) == (block, 0)
    assert correct(b"\0" + block[1:], 10) == (block, 1)


@pytest.mark.parametrize("ecc", ALL_CHECKS)
def test_as_many_errors_as_half_the_check_codewords_are_mended(ecc: int) -> None:
    rng = random.Random(ecc)
    for size in (ecc + 1, ecc + 9, 80, 153, 255):
        block = block_of(rng, size, ecc)
        assert correct(block, ecc) == (block, 0)
        for count in {1, 2, 3, ecc // 2 - 1, ecc // 2}:
            places = rng.sample(range(size), count)
            assert correct(spoil(rng, block, places), ecc) == (block, count)


@pytest.mark.parametrize("ecc", ALL_CHECKS)
def test_errors_at_both_ends_and_bursts_are_mended(ecc: int) -> None:
    rng = random.Random(ecc)
    block = block_of(rng, 60, ecc)
    for places in ([0], [59], [0, 59], list(range(ecc // 2)), list(range(60 - ecc // 2, 60))):
        assert correct(spoil(rng, block, places), ecc) == (block, len(places))


@pytest.mark.parametrize("ecc", ALL_CHECKS)
def test_one_error_more_is_refused_or_ends_at_another_codeword(ecc: int) -> None:
    """With an even ecc a word ecc/2 + 1 from its codeword may be ecc/2 from another one (their
    distance is ecc + 1), which no decoder can tell: some do, the fewer the larger ecc is. An odd
    ecc has a codeword to spare, and then none does."""
    rng = random.Random(ecc)
    misled = 0
    for _ in range(60):
        block = block_of(rng, 50, ecc)
        spoilt = spoil(rng, block, rng.sample(range(50), ecc // 2 + 1))
        found = correct(spoilt, ecc)
        if found is not None:
            misled += 1
            assert is_codeword(found[0], ecc)
            differences = sum(a != b for a, b in zip(found[0], spoilt, strict=True))
            assert found[0] != block and found[1] == differences <= ecc // 2
    assert misled == 0 if ecc % 2 or ecc >= 16 else misled <= 2


@given(st.data())
def test_two_for_an_error_and_one_for_an_erasure(data: st.DataObject) -> None:
    ecc = data.draw(st.sampled_from(ALL_CHECKS))
    size = data.draw(st.integers(ecc + 1, 255))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    block = block_of(rng, size, ecc)
    errors = data.draw(st.integers(0, ecc // 2))
    erased = data.draw(st.integers(0, 2 * (ecc // 2 - errors)))
    places = rng.sample(range(size), min(errors + erased, size))
    spoilt = bytearray(spoil(rng, block, places[:errors]))
    gone = places[errors:]
    for place in gone:
        spoilt[place] = rng.randrange(256)  # may be right by chance, or be left as it was
    wrong = sum(a != b for a, b in zip(block, spoilt, strict=True))
    assert correct(spoilt, ecc, bytes(gone)) == (block, wrong)


@pytest.mark.parametrize("ecc", ALL_CHECKS)
def test_one_erasure_more_is_refused(ecc: int) -> None:
    rng = random.Random(ecc)
    for errors in range(0, ecc // 2, 3):
        block = block_of(rng, 70, ecc)
        erased = 2 * (ecc // 2 - errors) + 1
        places = rng.sample(range(70), errors + erased)
        assert correct(spoil(rng, block, places), ecc, bytes(places[errors:])) is None


@given(st.binary(min_size=3, max_size=255), st.integers(2, 30), st.binary(max_size=40))
def test_any_bytes_are_mended_to_a_codeword_or_refused(
    block: bytes, ecc: int, erased: bytes
) -> None:
    gone = bytes({index for index in erased if index < len(block)})
    if ecc >= len(block):
        with pytest.raises(ValueError, match="more codewords than ecc"):
            correct(block, ecc, gone)
        return
    found = correct(block, ecc, gone)
    if found is None:
        assert not is_codeword(block, ecc)
        return
    mended, wrong = found
    assert is_codeword(mended, ecc)
    places = [i for i in range(len(block)) if mended[i] != block[i]]
    assert wrong == len(places)
    if wrong:
        assert 2 * len(set(places) - set(gone)) + len(gone) <= ecc


def test_a_block_of_noise_hardly_ever_passes() -> None:
    """C(50, 4) * 255**4 / 256**10 is 1 in 10**9 for errors; here more than t are spent on none."""
    noise = np.random.default_rng(1).integers(0, 256, (4000, 50), np.uint8)
    assert [row for row in noise if correct(row.tobytes(), 18)] == []


def test_arguments_that_make_no_sense() -> None:
    for ecc in (1, 31, -1):
        with pytest.raises(ValueError, match="ecc"):
            correct(bytes(60), ecc)
    for size in (0, 10, 256):
        with pytest.raises(ValueError, match="block"):
            correct(bytes(size), 10)
    for erased in (b"\x3c", b"\x01\x01"):
        with pytest.raises(ValueError, match="erased"):
            correct(bytes(60), 10, erased)
    with pytest.raises(TypeError):
        correct("text", 10)  # type: ignore[arg-type]
