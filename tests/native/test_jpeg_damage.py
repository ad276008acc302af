"""native.jpeg.luma on damaged and hostile bytes: no crash, no leniency, no other pixels."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.jpeg.luma import DAMAGED, DONE, OTHER, UNSURE, Luma, _decode_exact
from tests.reference.native_jpeg import by_simplejpeg, jpeg, scene, segments, small_jpegs


def check(data: bytes, own: Luma) -> int:
    """DONE only with the pixels of libjpeg, DAMAGED only where that refuses too."""
    status = own.decode(data)
    expected = by_simplejpeg(data)
    if status == DONE:
        assert expected is not None, "libjpeg refuses this"
        assert np.array_equal(np.asarray(own), expected)
    elif status == DAMAGED:
        assert expected is None, "libjpeg reads this"
    else:
        assert status in (OTHER, UNSURE)
    return status


def damaged(data: bytes, kind: int, rng: random.Random) -> bytes:
    changed = bytearray(data)
    scan = segments(data)[-1][1]
    at = rng.randrange(len(data))
    if kind == 0:
        del changed[at:]
    elif kind == 1:
        changed[at] = rng.randrange(256)
    elif kind == 2:
        changed[rng.randrange(scan, len(data))] ^= 1 << rng.randrange(8)
    elif kind == 3:
        changed[rng.randrange(scan + 14)] ^= 1 << rng.randrange(8)
    elif kind == 4:
        at = rng.randrange(scan, len(data))
        changed[at:at] = bytes(rng.choice((0, 0xFF, 0xD0, 0xD9, 0x55)) for _ in range(at % 3 + 1))
    else:
        del changed[at : at + rng.randrange(1, 4)]
    return bytes(changed)


@pytest.mark.parametrize("kind", range(6))
def test_damage_of_many_kinds(kind: int) -> None:
    rng = random.Random(kind)
    own = Luma()
    seen = {check(damaged(rng.choice(small_jpegs()), kind, rng), own) for _ in range(1500)}
    assert DAMAGED in seen
    assert own.decode(jpeg(scene(40, 40))) == DONE


@given(st.data())
@settings(max_examples=150)
def test_bytes_changed_anywhere(data: st.DataObject) -> None:
    sound = data.draw(st.sampled_from(small_jpegs()))
    places = st.tuples(st.integers(0, len(sound) - 1), st.integers(0, 255))
    changed = bytearray(sound)
    for at, value in data.draw(st.lists(places, min_size=1, max_size=6)):
        changed[at] = value
    own = Luma()
    check(bytes(changed), own)
    own.decode_dc(bytes(changed))
    own.decode(bytes(changed), 8, 24, 0, 8)


@given(st.binary(max_size=300))
def test_bytes_behind_a_header(rest: bytes) -> None:
    sound = small_jpegs()[3]
    check(sound[: segments(sound)[-1][2]] + rest, Luma())


@given(st.binary(max_size=200))
def test_bytes_behind_the_magic(rest: bytes) -> None:
    check(b"\xff\xd8\xff" + rest, Luma())


@pytest.mark.parametrize("colour", ["grey", "4:2:0"])
@pytest.mark.parametrize("restart", [{}, {"restart_marker_rows": 1}], ids=str)
def test_cut_short_is_damaged_as_a_whole(colour: str, restart: dict[str, int]) -> None:
    data = jpeg(scene(160, 120, 20.0), colour, **restart)
    scan = segments(data)[-1][2]
    own = Luma()
    for end in (*range(2, len(data), 97), *range(len(data) - 12, len(data))):
        assert own.decode(data[:end]) == DAMAGED
        assert own.valid == (0, 0, 0, 0)
        assert own.decode_dc(data[:end]) == DAMAGED
        # With rows that are there all is well.
        if end < scan:
            assert own.decode(data[:end], 0, 8) == DAMAGED
    assert own.decode(data) == DONE


def test_no_byte_behind_the_last_is_read() -> None:
    """For the sanitizer: blocks of just the size of the data."""
    own = Luma()
    rng = random.Random(9)
    for sound in small_jpegs()[::5]:
        for end in range(0, len(sound) + 1, 23):
            _decode_exact(own, sound[:end], 0, 1 << 20)
            _decode_exact(own, sound[:end], 16, 24)
        for kind in range(6):
            _decode_exact(own, damaged(sound, kind, rng), rng.randrange(20), 30)


def test_restart_markers_that_are_wrong() -> None:
    data = jpeg(scene(64, 64), restart_marker_rows=1)
    second = data.index(b"\xff\xd1")
    own = Luma()
    swapped = data[: second + 1] + b"\xd2" + data[second + 2 :]
    assert own.decode(swapped) == DAMAGED
    assert own.decode(swapped, 40, 64) == DAMAGED
    missing = data[:second] + data[second + 2 :]
    assert check(missing, own) != DONE
    assert check(data[:second] + b"\0" + data[second:], own) != DONE
    # Rows above are sound.
    assert own.decode(swapped, 0, 16) == DONE


def test_a_tiny_file_that_says_it_is_large_is_refused_at_once() -> None:
    data = bytearray(jpeg(scene(8, 8)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = (4000).to_bytes(2, "big") * 2
    assert Luma().decode(bytes(data)) == DAMAGED


def test_garbage_between_the_scan_and_the_end() -> None:
    data = jpeg(scene(40, 40))
    own = Luma()
    for extra in (b"\0", b"abc", b"\xff\0\xff\0", b"\xff\x01", b"\xff\xd8"):
        assert check(data[:-2] + extra + data[-2:], own) != DONE
