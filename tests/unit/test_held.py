"""HeldCodes: one scan a hold, whatever the frame rate and whatever the clock does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.decoding.held import HeldCodes


def test_code_held_for_75_frames_is_one_scan() -> None:
    held = HeldCodes(gap_ms=2_000)
    begun = [held.new([b"A"], n * 100) for n in range(75)]
    assert begun == [[b"A"]] + [[]] * 74


def test_gap_is_inclusive_and_counts_from_the_last_sight() -> None:
    held = HeldCodes(gap_ms=2_000)
    assert held.new([b"A"], 0) == [b"A"]
    assert held.new([], 1_000) == []
    assert held.new([b"A"], 2_000) == []
    assert held.new([b"A"], 4_000) == []
    assert held.new([b"A"], 6_001) == [b"A"]


def test_one_character_makes_another_code() -> None:
    held = HeldCodes()
    assert held.new([b"162999750000000071"], 0) == [b"162999750000000071"]
    assert held.new([b"162999750000000077"], 100) == [b"162999750000000077"]
    assert held.new([b"162999750000000071"], 200) == []


def test_codes_of_one_frame_come_once_each_and_in_order() -> None:
    held = HeldCodes()
    assert held.new([b"B", b"A", b"B"], 0) == [b"B", b"A"]
    assert held.new([b"C", b"A"], 10) == [b"C"]


def test_frame_slightly_out_of_order_extends_and_never_shortens_a_hold() -> None:
    held = HeldCodes(gap_ms=1_000)
    held.new([b"A"], 5_000)
    assert held.new([b"A"], 4_500) == []
    assert held.new([b"A"], 6_000) == []


def test_clock_set_back_counts_once_more_and_then_holds_again() -> None:
    held = HeldCodes(gap_ms=1_000)
    held.new([b"A"], 10_000_000)
    assert held.new([b"A"], 5_000) == [b"A"]
    assert held.new([b"A"], 5_100) == []


def test_memory_is_bounded_and_drops_what_was_seen_longest_ago() -> None:
    held = HeldCodes(gap_ms=10_000, size_max=3)
    held.new([b"A", b"B", b"C"], 0)
    held.new([b"A"], 1)
    assert held.new([b"D"], 2) == [b"D"]
    assert len(held) == 3
    assert held.new([b"A", b"C"], 3) == []
    assert held.new([b"B"], 4) == [b"B"]


def test_nothing_is_kept_longer_than_its_hold() -> None:
    held = HeldCodes(gap_ms=100)
    held.new([b"A", b"B"], 0)
    held.new([], 101)
    assert len(held) == 0


@pytest.mark.parametrize(("gap_ms", "size_max"), [(-1, 1), (0, 0)])
def test_unusable_limits_are_refused(gap_ms: int, size_max: int) -> None:
    with pytest.raises(ValueError, match="needed"):
        HeldCodes(gap_ms, size_max)


_frames = st.lists(
    st.tuples(st.integers(0, 400), st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=3)),
    max_size=60,
)


@given(_frames)
def test_forward_time_equals_the_definition(frames: list[tuple[int, list[bytes]]]) -> None:
    """Reference: a sight begins a hold unless the sight before of the same bytes is near."""
    held = HeldCodes(gap_ms=300)
    last_ms: dict[bytes, int] = {}
    now_ms = 0
    for step_ms, codes in frames:
        now_ms += step_ms
        expected = []
        for code in dict.fromkeys(codes):
            if code not in last_ms or now_ms - last_ms[code] > 300:
                expected.append(code)
            last_ms[code] = now_ms
        assert held.new(codes, now_ms) == expected


@given(st.lists(st.tuples(st.integers(-(2**62), 2**62), st.binary(max_size=2)), max_size=80))
def test_any_times_lose_no_code(frames: list[tuple[int, bytes]]) -> None:
    """Whatever the clock does, the first sight of every code begins a hold."""
    held = HeldCodes(gap_ms=50, size_max=8)
    begun: set[bytes] = set()
    for time_ms, code in frames:
        begun.update(held.new([code], time_ms))
        assert code in begun
        assert len(held) <= 8
