"""native.wire.split_frames against its slow twin, on whole, cut and hostile bytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.wire import split_frames
from tests.reference import native_wire as twin

HEADER = struct.Struct(">BBHIQ")
KINDS = sorted(twin.FRAME_TYPES)


def frame(kind: int, body: bytes = b"", flags: int = 0, channel: int = 0, seq: int = 0) -> bytes:
    return HEADER.pack(kind, flags, channel, len(body), seq) + body


def exact(data: bytes) -> memoryview:
    """The same bytes in a block of just their size: bytes and bytearray keep a zero behind theirs,
    which would hide a read one too far from ASan."""
    return np.array(memoryview(data)).data


frames = st.builds(
    frame,
    st.sampled_from(KINDS),
    st.binary(max_size=40),
    st.integers(0, 255),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**64 - 1),
)


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_any_bytes_equal_the_twin(data: bytes, max_body: int) -> None:
    assert split_frames(exact(data), max_body) == twin.split_frames(data, max_body)


@given(st.lists(frames, max_size=8), st.binary(max_size=20), st.integers(0, 45))
def test_frames_and_a_tail_equal_the_twin(whole: list[bytes], tail: bytes, max_body: int) -> None:
    data = b"".join(whole) + tail
    assert split_frames(exact(data), max_body) == twin.split_frames(data, max_body)


@given(st.lists(frames, min_size=1, max_size=6), st.data())
def test_a_cut_anywhere_loses_nothing(whole: list[bytes], draw: st.DataObject) -> None:
    data = b"".join(whole)
    cut = draw.draw(st.integers(0, len(data)))
    first, consumed, status = split_frames(exact(data[:cut]), 40)
    second, rest, status_rest = split_frames(exact(data[consumed:]), 40)
    assert (status, status_rest) == (0, 0)
    assert consumed <= cut
    assert consumed + rest == len(data)
    assert len(first) + len(second) == 32 * len(whole)


@pytest.mark.parametrize("size", [*range(131), 70_000])
def test_every_length_of_body(size: int) -> None:
    data = frame(2, bytes(size), flags=3, channel=9, seq=2**64 - 1)
    head = twin.HEAD.pack(2, 3, 9, size, 2**64 - 1, 16, 0)
    assert split_frames(data, size) == (head, 16 + size, 0)
    assert split_frames(data + b"\x02", size) == (head, 16 + size, 0)
    assert split_frames(exact(data[:-1]), size) == (b"", 0, 0)
    if size:
        assert split_frames(data, size - 1) == (b"", 0, 5)


@pytest.mark.parametrize("kind", range(256))
def test_only_known_types_pass(kind: int) -> None:
    good = frame(2, b"abc")
    heads, consumed, status = split_frames(good + frame(kind), 100)
    if kind in twin.FRAME_TYPES:
        assert (len(heads), consumed, status) == (64, 35, 0)
    else:
        assert (len(heads), consumed, status) == (32, 19, 7)


def test_a_lying_length_is_judged_by_the_header_alone() -> None:
    header = HEADER.pack(2, 0, 1, 2**32 - 1, 1)
    assert split_frames(header, 4_194_304) == (b"", 0, 5)
    assert split_frames(header[:15], 4_194_304) == (b"", 0, 0)
    assert split_frames(header, 2**32 - 1) == (b"", 0, 0)


def test_many_frames() -> None:
    data = b"".join(frame(5, b"x" * (i % 7), seq=i) for i in range(20_000))
    assert split_frames(data, 6) == twin.split_frames(data, 6)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_taken(kind: type) -> None:
    data = frame(1, b"abc") + frame(6)
    assert split_frames(kind(data), 3) == twin.split_frames(data, 3)


def test_a_slice_that_is_not_aligned_is_taken() -> None:
    data = b"".join(frame(1, bytes(i)) for i in range(9))
    for start in range(9):
        view = memoryview(bytes(start) + data)[start:]
        assert split_frames(view, 100) == twin.split_frames(data, 100)


@pytest.mark.parametrize("max_body", [-1, 2**32, 2**64, -(2**70)])
def test_max_body_has_four_bytes(max_body: int) -> None:
    with pytest.raises(ValueError, match="max_body"):
        split_frames(b"", max_body)


def test_what_is_no_buffer_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError):
        split_frames("text", 1)  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        split_frames(memoryview(bytes(64))[::2], 1)
