"""CKP/1's session rules against a model that keeps sets instead of limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import WireGap, WireOverCredit
from engine.wire.session import DURABLE, VOLATILE, Stream, Window


def window(acked: int = 0, *, gapless: bool = True, credit: int = 8) -> Window:
    return Window(acked, credit=credit, credit_bytes=1000, is_gapless=gapless)


def test_receipts_are_cumulative_and_wait_for_the_slowest() -> None:
    w = window()
    assert [w.take(seq, 10) for seq in (1, 2, 3)] == [True] * 3
    assert not w.settle(2)
    assert w.acked == 0
    assert w.settle(1)
    assert w.acked == 2
    assert w.settle(3)
    assert w.acked == 3 and w.is_settled


def test_what_was_received_is_dropped_whether_durable_or_not() -> None:
    w = window()
    w.take(1, 10)
    assert not w.take(1, 10)
    w.settle(1)
    assert not w.take(1, 10)
    assert w.acked == 1


def test_class_0_has_no_gaps_and_class_1_may() -> None:
    with pytest.raises(WireGap):
        window().take(2, 10)
    frames = window(gapless=False)
    assert frames.take(5, 10)
    frames.settle(5)
    assert frames.acked == 5


def test_beyond_credit_is_refused_and_credit_never_falls() -> None:
    w = window(credit=2)
    w.take(1, 10)
    w.take(2, 10)
    with pytest.raises(WireOverCredit):
        w.take(3, 10)
    w.settle(1)
    assert w.limit == 3
    assert w.take(3, 10)


def test_bytes_are_credit_too() -> None:
    w = window()
    w.take(1, 600)
    with pytest.raises(WireOverCredit):
        w.take(2, 600)
    w = window()
    w.take(1, 600)
    w.settle(1)
    assert w.take(2, 600)


def test_a_lost_range_stays_within_the_credit_and_leaves_no_gap() -> None:
    w = window(credit=8)
    with pytest.raises(WireOverCredit):
        w.take(100, 0, first=1)
    assert w.take(6, 0, first=1)
    w.settle(6)
    assert w.acked == 6
    with pytest.raises(WireGap):
        w.take(12, 0, first=8)


def test_a_window_catches_up_with_the_log() -> None:
    w = window(credit=2)
    w.take(1, 10)
    w.forget(0)
    w.catch_up(1)  # its append came through after all
    assert (w.received, w.acked, w.limit) == (1, 1, 3)
    assert not w.take(1, 10)
    w.catch_up(0)
    assert w.acked == 1


def test_a_new_link_counts_bytes_anew_and_keeps_what_is_open() -> None:
    stream = Stream((4, 0), scan_credit=8, frame_credit=8, credit_bytes=1000)
    scans = stream.windows[DURABLE]
    scans.take(5, 900)
    stream.open_link()
    assert scans.take(6, 900)
    assert not stream.is_settled
    scans.settle(5)
    scans.settle(6)
    assert stream.is_settled and stream.windows[VOLATILE].acked == 0


def test_a_store_that_failed_takes_back_what_was_received() -> None:
    w = window()
    for seq in (1, 2, 3):
        w.take(seq, 10)
    w.settle(1)
    w.forget(1)
    assert w.received == w.acked == 1
    assert not w.settle(2)  # its append fails later; nobody is told
    assert w.take(2, 10)


@given(st.lists(st.tuples(st.sampled_from(["take", "settle", "resend"]), st.integers(0, 5))))
def test_acked_is_what_a_set_says(steps: list[tuple[str, int]]) -> None:
    w = window(credit=4)
    open_: list[int] = []
    settled: set[int] = set()
    newest = limit_before = 0
    for step, pick in steps:
        if step == "take":
            try:
                assert w.take(newest + 1, 1)
            except WireOverCredit:
                assert newest + 1 > w.limit
                continue
            newest += 1
            open_.append(newest)
        elif step == "settle" and open_:
            seq = open_.pop(pick % len(open_))
            w.settle(seq)
            settled.add(seq)
        elif step == "resend" and newest:
            assert not w.take(1 + pick % newest, 1)
        expected = 0
        while expected + 1 in settled:
            expected += 1
        assert w.acked == expected
        assert w.limit >= limit_before
        limit_before = w.limit
