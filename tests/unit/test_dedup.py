"""Sightings: what the lane's light says, which spans hold when, and that they stay few."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.clock import HOUR_MS
from engine.scans import dedup
from engine.scans.dedup import HERE, KEPT_MS, LANES, ROAD, SeenWindow, Spans
from engine.scans.rows import ROW, Kind
from tests.reference.native_dedup import SeenList

WINDOW_MS = 600_000
ANH, BINH = b"a" * 16, b"b" * 16
ORDINARY = Spans(0, WINDOW_MS, 2001, ((1, 2, 45 * 60_000),))
Sighting = tuple[bytes, int, int, int]


def see(window: SeenWindow, *scans: Sighting) -> list[int]:
    """Scans as (person, place, lane, time in ms)."""
    persons = b"".join(person for person, _, _, _ in scans)
    places = np.array([place for _, place, _, _ in scans], "<u4").tobytes()
    lanes = np.array([lane for _, _, lane, _ in scans], "<u2").tobytes()
    times = np.array([time for _, _, _, time in scans], "<i8").tobytes()
    return list(window.see(persons, places, lanes, times))


def test_the_same_person_at_the_same_post_within_the_window() -> None:
    window = SeenWindow([ORDINARY])
    assert see(window, (ANH, 1, 1, 0), (ANH, 1, 2, WINDOW_MS)) == [0, HERE]
    assert see(window, (ANH, 1, 3, 2 * WINDOW_MS)) == [HERE]  # each sight extends it
    assert see(window, (ANH, 1, 1, 3 * WINDOW_MS + 1)) == [0]
    assert see(window, (BINH, 1, 1, 0)) == [0]


def test_a_copy_in_two_lanes_or_at_two_posts() -> None:
    window = SeenWindow([ORDINARY])
    assert see(window, (ANH, 1, 1, 0), (ANH, 1, 2, 2000)) == [0, HERE | LANES]
    assert see(window, (BINH, 1, 1, 0), (BINH, 1, 2, 2001)) == [0, HERE]
    assert see(window, (BINH, 2, 1, 45 * 60_000)) == [ROAD]  # from the one in lane 2
    assert see(window, (BINH, 2, 1, 45 * 60_000 + 2001)) == [HERE]
    assert see(window, (BINH, 3, 1, 0)) == [0], "no road is known to there"


def test_a_late_scan_meets_its_own_time() -> None:
    window = SeenWindow([ORDINARY])
    day_ms = 20 * HOUR_MS
    assert see(window, (ANH, 1, 1, 0), (ANH, 1, 1, day_ms)) == [0, 0]
    assert see(window, (ANH, 1, 1, 1000)) == [HERE]
    assert see(window, (ANH, 2, 1, HOUR_MS // 2)) == [ROAD]
    assert see(window, (ANH, 1, 1, day_ms + 1)) == [HERE]


def test_spans_hold_at_the_time_of_the_scan() -> None:
    spans = [Spans(0, 10, 0, ()), Spans(1000, 100, 5, ((1, 2, 50),)), Spans(2000, 0, 0, ())]
    window, twin = SeenWindow(spans), SeenList()
    draw = random.Random(3)
    scans = [
        (draw.choice((ANH, BINH)), draw.choice((1, 2)), draw.choice((1, 2)), draw.randrange(3000))
        for _ in range(25)
    ]
    expected = []
    for scan in scans:
        at = spans[min(scan[3] // 1000, 2)]
        expected += twin.see([scan], at.window_ms, at.lanes_ms, list(at.roads))
    assert see(window, *scans) == expected
    assert {0, HERE, ROAD} <= set(expected)
    alone = SeenWindow(spans)
    assert [see(alone, scan)[0] for scan in scans] == expected


def test_changed_spans_hold_from_then_on_and_forget_nobody() -> None:
    window = SeenWindow([ORDINARY])
    see(window, (ANH, 1, 1, 0))
    window.set_spans([Spans(0, 1_000)])
    assert see(window, (ANH, 1, 1, 5_000), (ANH, 1, 1, 5_500)) == [0, HERE]


def test_nothing_to_see() -> None:
    window = SeenWindow([ORDINARY])
    assert window.see(b"", b"", b"", b"") == b""
    assert len(window) == 0


def test_a_day_and_some_hours_are_kept() -> None:
    window = SeenWindow([ORDINARY])
    for hour in range(100):
        scans = [(bytes([hour, i]) * 8, 1, 1, hour * HOUR_MS) for i in range(100)]
        assert not any(see(window, *scans))
        assert len(window) <= (KEPT_MS // HOUR_MS + 2) * 100
    assert see(window, (bytes([99 - 25, 7]) * 8, 1, 1, 74 * HOUR_MS + 1)) == [HERE]


def test_a_flood_ends_where_the_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "ENTRIES_MAX", 1000)
    window = SeenWindow([ORDINARY])
    for n in range(40):
        see(window, *((bytes([n, i]) * 8, 1, 1, n * 60_000) for i in range(100)))
        assert len(window) <= 1000
    assert see(window, (bytes([39, 7]) * 8, 1, 1, 39 * 60_000 + 1)) == [HERE], "the newest stay"
    see(window, *((i.to_bytes(16, "big"), 1, 1, 39 * 60_000) for i in range(2000)))
    assert len(window) <= 1000, "even where all came at one instant"


def test_rows_of_the_log_bring_it_back() -> None:
    rng = random.Random(1)
    scans = [
        (rng.choice((ANH, BINH)), rng.choice((1, 2)), rng.choice((1, 2)), rng.randrange(10**7))
        for _ in range(14)
    ]
    live = SeenWindow([ORDINARY])
    answers = see(live, *scans)
    rows = np.zeros(len(scans) + 1, ROW)
    for row, (person, place, lane, time_ms) in zip(rows, scans, strict=False):
        row["person"], row["place"], row["time_ms"] = np.void(person), place, time_ms
        row["lane"], row["kind"] = lane, Kind.SCAN
    rows[-1]["person"], rows[-1]["place"], rows[-1]["kind"] = np.void(ANH), 1013, Kind.CHECKIN
    again = SeenWindow([ORDINARY])
    assert list(again.rebuild(rows)) == [*answers, 0], "as they were when they came"
    assert len(again) == len(live), "a check-in at a venue is no sighting"
    later = [(person, place, 1, at) for person in (ANH, BINH) for place in (1, 2)
             for at in range(0, 10**7, 300_000)]  # fmt: skip
    for scan in later:
        assert see(again, scan) == see(live, scan)
    with pytest.raises(AssertionError):
        again.rebuild(np.zeros(1, "V48"))
