"""Lines of handheld readers: CR, LF or CRLF, in any chunks, bounded."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.gateway.gear.readers import LineSplitter

LINES = ["045190999001|..|Nguyễn Văn An".encode(), b"x", b"\x00\xff" * 9]


def feed_all(splitter: LineSplitter, data: bytes, size: int) -> list[bytes]:
    return [
        line for at in range(0, len(data), size) for line in splitter.feed(data[at : at + size])
    ]


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_every_end_in_any_chunks(end: bytes, size: int) -> None:
    splitter = LineSplitter()
    assert feed_all(splitter, end + end.join(LINES) + end, size) == LINES
    assert not splitter.has_rest


def test_what_has_no_end_is_no_line() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == [b"one"]
    assert splitter.has_rest
    assert splitter.feed(b"o\n") == [b"two"]


@given(
    st.lists(st.sampled_from([b"a", b"bb" * 9, b"c" * 40, b"\r", b"\n"]), max_size=60),
    st.integers(1, 50),
)
def test_overlong_lines_are_counted_and_memory_is_bounded(words: list[bytes], size: int) -> None:
    data = b"".join(words)
    splitter = LineSplitter(size_max=20)
    found = []
    for at in range(0, len(data), size):
        found += splitter.feed(data[at : at + size])
        assert len(splitter._kept) <= 20
    found += splitter.feed(b"\n")
    lines = [line for line in re.split(rb"[\r\n]", data) if line]
    assert found == [line for line in lines if len(line) <= 20]
    assert splitter.overlong == sum(len(line) > 20 for line in lines)
