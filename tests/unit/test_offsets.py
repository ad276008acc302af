"""Offsets of clocks from stamps, and the rule of what is taken off event times."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from engine.wire.offsets import ONE_WAY_MS, SAMPLES, ClockRule, OffsetFilter, Sample

HOUR_MS = 3_600_000.0


def stamps(
    offset_ms: float, there_ms: float, back_ms: float, at_ms: float = 1e12
) -> tuple[float, ...]:
    """Of a question at `at_ms` to a clock that is ahead by `offset_ms`; it thinks for 5 ms."""
    t1 = at_ms + there_ms + offset_ms
    return at_ms, t1, t1 + 5, at_ms + there_ms + 5 + back_ms


@given(
    st.floats(-1e9, 1e9),
    st.lists(st.tuples(st.floats(0, 3000), st.floats(0, 3000)), min_size=1, max_size=30),
)
def test_the_estimate_is_within_half_of_its_round_trip(
    offset_ms: float, ways: list[tuple[float, float]]
) -> None:
    found = OffsetFilter()
    for there_ms, back_ms in ways:
        best = found.add_stamps(*stamps(offset_ms, there_ms, back_ms))
        assert best is not None
        assert abs(best.offset_ms - offset_ms) <= best.round_trip_ms / 2 + 0.01
    recent = [there_ms + back_ms for there_ms, back_ms in ways[-SAMPLES:]]
    assert abs(best.round_trip_ms - min(recent)) < 0.01


def test_a_clock_that_was_set_is_seen_at_once() -> None:
    found = OffsetFilter()
    for _ in range(SAMPLES):
        found.add_stamps(*stamps(HOUR_MS, 1, 1))
    best = found.add_stamps(*stamps(0, 400, 100))
    assert best is not None and abs(best.offset_ms) <= 250
    # What agrees with the better sample does not replace it.
    for _ in range(3):
        found.add_stamps(*stamps(0, 2, 2))
    best = found.add_stamps(*stamps(0, 900, 0))
    assert best is not None and best.round_trip_ms < 5


def test_a_hello_that_was_held_up_moves_no_clock() -> None:
    """Everything on a bad link comes late, and HELLO alone cannot tell that from a slow clock."""
    found, made = OffsetFilter(), rule()
    for late_ms in (0, 9_900):
        assert not made.judge(found.add(-late_ms, ONE_WAY_MS))
    best = found.add_stamps(*stamps(0, 300, 900))
    assert best is not None and not made.judge(best)
    assert found.add(-9_900, ONE_WAY_MS) == best, "what is known better stays"


def test_stamps_that_cannot_be_are_no_sample() -> None:
    found = OffsetFilter()
    assert found.add_stamps(1000, 5000, 4000, 1010) is None, "the answer left before it came"
    assert found.add_stamps(1000, 5000, 9000, 1010) is None, "it thought longer than we waited"
    assert found.best is None


def rule(limit_ms: int = 2000) -> ClockRule:
    return ClockRule(limit_ms)


def test_within_the_limit_a_clock_is_believed() -> None:
    made = rule()
    for offset_ms in (0.0, 1999.0, -1999.0, 2400.0):
        assert not made.judge(Sample(offset_ms, 1000))
    assert made.correction_ms == 0


def test_beyond_the_limit_it_is_corrected_by_whole_seconds() -> None:
    for offset_ms, correction_ms in [(2501.0, 3000), (-7.2 * HOUR_MS, -25_920_000), (2e12, 2e12)]:
        made = rule()
        assert made.judge(Sample(offset_ms, 4))
        assert made.correction_ms == correction_ms


def test_a_stamp_that_may_be_late_says_less() -> None:
    made = rule()
    assert not made.judge(Sample(-11_900.0, ONE_WAY_MS))
    assert made.judge(Sample(-12_100.0, ONE_WAY_MS)) and made.correction_ms == -12_000
    assert not made.judge(Sample(-5000.0, ONE_WAY_MS)), "it may be the same clock"
    assert made.judge(Sample(-3000.0, 10)) and made.correction_ms == -3000


def test_a_correction_stays_while_it_is_nearly_right() -> None:
    """Jitter must not give records that were made alike times that are not."""
    made = rule()
    made.judge(Sample(HOUR_MS, 10))
    random = Random(1)
    for _ in range(1000):
        assert not made.judge(Sample(HOUR_MS + random.uniform(-990, 990), 10))
    assert made.judge(Sample(HOUR_MS + 1100, 10)) and made.correction_ms == HOUR_MS + 1000
    assert made.judge(Sample(1500.0, 10)) and made.correction_ms == 0


@given(st.lists(st.floats(-1e7, 1e7), max_size=20), st.integers(1, 100_000))
def test_what_is_left_is_never_beyond_the_limit(offsets_ms: list[float], limit_ms: int) -> None:
    made = rule(limit_ms)
    for offset_ms in offsets_ms:
        made.judge(Sample(offset_ms, 0))
        left_ms = abs(offset_ms - made.correction_ms)
        assert left_ms <= max(limit_ms, 500)


def test_what_is_older_than_the_link() -> None:
    made = rule()
    made.judge(Sample(HOUR_MS, 10))
    assert made.of_earlier(None) == HOUR_MS
    assert made.of_earlier(int(HOUR_MS) + 1000) == HOUR_MS
    assert made.of_earlier(0) is None
