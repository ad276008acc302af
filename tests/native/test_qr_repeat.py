"""The exact repeat rule of native.qr.matrix: codewords of a frame against those that were sent."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.qr.matrix import decode, same, take
from tests.reference import qr

SIZES = [(1, "L"), (1, "M"), (1, "Q"), (1, "H"), (2, "L"), (3, "L"), (4, "M"), (5, "Q"), (7, "M"),
         (10, "H"), (16, "Q")]  # fmt: skip


def sent_by(content: bytes, version: int, level: str, mask: int = 3) -> bytes:
    grid = np.array(qr.encode(qr.byte(content, version), version, level, mask), np.uint8)
    raw, _ = take(grid.tobytes(), len(grid))
    return raw


def with_errors(sent: bytes, version: int, level: str, counts: list[int], seed: int) -> bytes:
    """counts[b] codewords of block b changed."""
    rng = random.Random(seed)
    order = qr.sending_order(version, level)
    raw = bytearray(sent)
    for block, count in enumerate(counts):
        places = [place for place, (owner, _) in enumerate(order) if owner == block]
        for place in rng.sample(places, count):
            raw[place] ^= rng.randint(1, 255)
    return bytes(raw)


@pytest.mark.parametrize(("version", "level"), SIZES)
def test_the_limit_is_the_levels_in_every_block(version: int, level: str) -> None:
    sent = sent_by(b"x1", version, level)
    strength = qr.LEVELS.index(level)
    limit = qr.limit(version, level)
    blocks = len(qr.block_sizes(version, level)[0])
    assert same(sent, sent, version, strength) == (True, 0)
    for seed in range(5):
        raw = with_errors(sent, version, level, [limit] * blocks, seed)
        assert same(raw, sent, version, strength) == (True, limit)
        for block in {0, blocks // 2, blocks - 1}:
            counts = [0] * blocks
            counts[block] = limit + 1
            raw = with_errors(sent, version, level, counts, seed)
            assert same(raw, sent, version, strength) == (False, limit + 1)


@pytest.mark.parametrize(("version", "level"), SIZES)
def test_contents_that_differ_in_one_character_are_never_the_same(version: int, level: str) -> None:
    strength = qr.LEVELS.index(level)
    check = qr.block_sizes(version, level)[1]
    room = min(qr.DATA_CODEWORDS[level][version - 1] - 3, 120)
    content = bytes(48 + i % 10 for i in range(room))
    sent = sent_by(content, version, level)
    for i in range(0, room, max(1, room // 12)):
        other = content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :]
        other_sent = sent_by(other, version, level)
        is_same, worst = same(other_sent, sent, version, strength)
        assert not is_same and worst > check // 2
        # Not even when as many codewords as may be wrong are wrong in its favour.
        order = qr.sending_order(version, level)
        raw = bytearray(other_sent)
        left = [qr.limit(version, level)] * len(qr.block_sizes(version, level)[0])
        for place, (block, _) in enumerate(order):
            if raw[place] != sent[place] and left[block]:
                raw[place] = sent[place]
                left[block] -= 1
        assert not same(bytes(raw), sent, version, strength)[0]
        assert same(bytes(raw), other_sent, version, strength)[0]


def test_another_mask_is_another_symbol() -> None:
    for mask in range(1, 8):
        assert not same(sent_by(b"x", 4, "M", mask), sent_by(b"x", 4, "M", 0), 4, 1)[0]


@given(st.integers(0, 2**32), st.floats(0, 0.2))
def test_a_frame_is_the_same_exactly_when_its_hard_bits_are_read_so(seed: int, rate: float) -> None:
    """The rule says what reading the frame would: the same content, or damaged."""
    clean = np.array(qr.encode(qr.byte(b"0459|same", 4), 4, "Q", 6), np.uint8)
    sent = sent_by(b"0459|same", 4, "Q", 6)
    rng = np.random.default_rng(seed)
    grid = clean.copy()
    for x, y in qr.data_modules(4):
        grid[y, x] ^= rng.random() < rate
    is_same, worst = same(take(grid.tobytes(), 33)[0], sent, 4, 2)
    found = decode(grid.tobytes(), 33)
    if is_same:
        assert not isinstance(found, str)
        assert (found["data"], found["sent"], found["erased"]) == (b"0459|same", sent, 0)
    else:
        assert worst > 13 and (isinstance(found, str) or found["erased"])


def test_arguments_that_make_no_sense() -> None:
    sent = sent_by(b"x", 1, "M")
    with pytest.raises(ValueError, match="version"):
        same(sent, sent, 0, 1)
    with pytest.raises(ValueError, match="level"):
        same(sent, sent, 1, 4)
    for raw in (b"", sent[:-1], sent + b"x"):
        with pytest.raises(ValueError, match="codewords"):
            same(raw, sent, 1, 1)
        with pytest.raises(ValueError, match="codewords"):
            same(sent, raw, 1, 1)
