"""The passage window: what the lane's light says, and that it stays small."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.dedup import SeenWindow
from engine.rows import ROW

WINDOW_MS = 600_000
ANH, BINH = b"a" * 16, b"b" * 16


def see(window: SeenWindow, *scans: tuple[bytes, int, int]) -> list[bool]:
    """Scans as (person, place, time in ms)."""
    persons = b"".join(person for person, _, _ in scans)
    places = np.array([place for _, place, _ in scans], "<u4").tobytes()
    times = np.array([time for _, _, time in scans], "<i8").tobytes()
    return [bool(flag) for flag in window.see(persons, places, times)]


def test_the_same_person_at_the_same_post_within_the_window() -> None:
    window = SeenWindow(WINDOW_MS)
    assert see(window, (ANH, 1, 0), (ANH, 1, WINDOW_MS)) == [False, True]
    assert see(window, (ANH, 1, 2 * WINDOW_MS)) == [True]  # each sight extends it
    assert see(window, (ANH, 1, 3 * WINDOW_MS + 1)) == [False]


def test_another_person_or_another_post_is_another_passage() -> None:
    window = SeenWindow(WINDOW_MS)
    assert see(window, (ANH, 1, 0), (BINH, 1, 1), (ANH, 2, 2)) == [False] * 3


def test_a_late_scan_is_held_against_the_newest() -> None:
    window = SeenWindow(WINDOW_MS)
    see(window, (ANH, 1, WINDOW_MS))
    assert see(window, (ANH, 1, 0)) == [True]
    assert see(window, (ANH, 1, 2 * WINDOW_MS)) == [True]  # the late one did not set it back


def test_nothing_to_see() -> None:
    window = SeenWindow(WINDOW_MS)
    assert window.see(b"", b"", b"") == b""
    assert len(window) == 0


def test_it_stays_as_small_as_a_few_windows() -> None:
    window = SeenWindow(WINDOW_MS)
    for n in range(50):
        scans = [(bytes([n, i]) * 8, 1, n * WINDOW_MS // 4) for i in range(100)]
        assert not any(see(window, *scans))
        assert len(window) <= 1000
    assert see(window, (bytes([49, 7]) * 8, 1, 49 * WINDOW_MS // 4)) == [True]


def test_a_changed_window_holds_from_then_on() -> None:
    window = SeenWindow(WINDOW_MS)
    see(window, (ANH, 1, 0))
    window.window_ms = 1_000
    assert see(window, (ANH, 1, 5_000)) == [False]


def test_rows_of_the_log_bring_it_back() -> None:
    rng = random.Random(1)
    scans = [(rng.choice((ANH, BINH)), rng.choice((1, 2)), rng.randrange(10**7)) for _ in range(40)]
    live = SeenWindow(WINDOW_MS)
    see(live, *scans)
    rows = np.zeros(len(scans), ROW)
    for row, (person, place, time_ms) in zip(rows, scans, strict=True):
        row["person"], row["place"], row["time_ms"] = np.void(person), place, time_ms
    again = SeenWindow(WINDOW_MS)
    again.rebuild(rows)
    later = [(person, place, 10**7) for person in (ANH, BINH) for place in (1, 2)]
    assert see(again, *later) == see(live, *later)
    with pytest.raises(AssertionError):
        again.rebuild(np.zeros(1, "V48"))
