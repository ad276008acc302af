"""Multipart streams of cameras: every make's boundaries, every cut, and nothing that breaks it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.gateway.gear.multipart import BOUNDARY_MAX, MultipartSplitter
from tests.reference.camera_peer import image, part

IMAGES = [image(n) for n in range(4)]


def split(data: bytes, sizes: list[int], boundary: bytes = b"b0") -> tuple[list[bytes], int]:
    """Images and damaged parts of data fed in chunks of the sizes, over and over."""
    splitter = MultipartSplitter(boundary)
    found: list[bytes] = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        found += splitter.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    return found, splitter.damaged


@pytest.mark.parametrize("eol", [b"\r\n", b"\n"])
@pytest.mark.parametrize("length", [-1, None])
@pytest.mark.parametrize("boundary", [b"b0", b"--b0"])
@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_any_chunks_give_the_same_images(
    sizes: list[int], eol: bytes, length: int | None, boundary: bytes
) -> None:
    data = b"preamble" + eol + b"".join(part(i, eol=eol, length=length) for i in IMAGES) + b"--b0--"
    assert split(data, sizes, boundary) == (IMAGES, 0)


def test_an_image_is_given_with_its_last_byte() -> None:
    """Waiting for the next part would be a frame's time later."""
    for length in (-1, None):
        splitter = MultipartSplitter(b"b0")
        data = part(IMAGES[0], length=length).removesuffix(b"\r\n")
        assert splitter.feed(data[:-1]) == []
        assert splitter.feed(data[-1:]) == IMAGES[:1]


def test_lengths_that_lie() -> None:
    good = part(IMAGES[1])
    for length, found, damaged in (
        (50, IMAGES[1:2], 1),
        (600, IMAGES[:2], 0),
        (10**8, IMAGES[:2], 0),
    ):
        assert split(part(IMAGES[0], length=length) + good, [100]) == (found, damaged), length


def test_what_is_no_image_is_counted_or_stepped_over() -> None:
    data = part(b"motion=1", kind="text/plain") + part(IMAGES[0][:90]) + part(b"", length=0)
    assert split(data + part(IMAGES[1]), [64]) == (IMAGES[1:2], 2)


def test_headers_without_an_end_and_parts_that_are_too_large() -> None:
    endless = b"--b0\r\n" + b"x" * 10_000 + b"\r\n"
    assert split(endless + part(IMAGES[0]), [1_000]) == (IMAGES[:1], 1)
    splitter = MultipartSplitter(b"b0", size_max=1_000)
    assert splitter.feed(part(image(1, 2_000)) + part(IMAGES[0])) == IMAGES[:1]
    assert splitter.damaged == 1


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from(
                [b"--b0", b"--b0\r\n", b"\r\n\r\n", b"Content-Length: 9\r\n", IMAGES[0]]
            ),
        ),
        max_size=40,
    )
)
def test_garbage_ends_and_stays_small(chunks: list[bytes]) -> None:
    splitter = MultipartSplitter(b"b0", size_max=500)
    for chunk in chunks:
        for found in splitter.feed(chunk):
            assert found.startswith(b"\xff\xd8") and found.endswith(b"\xff\xd9")
            assert len(found) <= 500
        assert len(splitter._kept) <= 5_000


@pytest.mark.parametrize("boundary", [b"", b"--", b"x" * (BOUNDARY_MAX + 1)])
def test_boundaries_that_cannot_be(boundary: bytes) -> None:
    with pytest.raises(ValueError):
        MultipartSplitter(boundary)
