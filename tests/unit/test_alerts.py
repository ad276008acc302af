"""Alerts: rows with a flag of alarm, newest first, bounded, forgotten with their day."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from engine.colocation import alerts as module
from engine.colocation.alerts import Alerts, find
from engine.scans.rows import NOBODY, ROW, Flag, Kind


@dataclass
class Group:
    lsn: int
    rows: np.ndarray[Any, Any]


def group(lsn: int, *rows: tuple[int, int, int]) -> Group:
    """Rows as (time, place, flags)."""
    found = np.zeros(len(rows), ROW)
    for row, (time_ms, place, flags) in zip(found, rows, strict=True):
        row["time_ms"], row["place"], row["flags"] = time_ms, place, flags
        row["person"], row["lane"], row["kind"] = np.void(bytes([lsn]) * 16), 2, Kind.SCAN
        row["temperature_cc"] = 3810
    return Group(lsn, found)


def told(found: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    return list(zip(found["time_ms"].tolist(), found["flags"].tolist(), strict=True))


def test_only_what_alarms_newest_first() -> None:
    alerts = Alerts()
    alerts.apply(group(1, (10, 1, Flag.REVIEW), (30, 1, Flag.COPIED), (20, 2, Flag.LISTED)))
    alerts.apply(group(2, (25, 1, Flag.FEVER | Flag.LOCAL_VERDICT)))
    alerts.apply(group(2, (26, 1, Flag.FEVER)))  # applied before: changes nothing
    assert told(find(alerts.parts(), 0, 100)) == [(30, 16), (25, 5), (20, 64)]
    assert told(find(alerts.parts(), 20, 30)) == [(25, 5), (20, 64)]
    assert told(find(alerts.parts(), 0, 100, frozenset({2}))) == [(20, 64)]
    (row,) = find(alerts.parts(), 20, 21)
    assert (row["ref"], row["lane"], row["temperature_cc"]) == (1 << 20 | 2, 2, 3810)
    assert row["person"].tobytes() == b"\1" * 16
    assert len(find(alerts.parts(), 40, 50)) == len(find(Alerts().parts(), 0, 100)) == 0


def test_a_fever_that_a_scan_took_over_is_listed_once() -> None:
    fever = Flag.FEVER
    first = group(
        1, (0, 1, fever), (1000, 1, fever), (2000, 2, fever), (3000, 1, fever), (0, 3, fever)
    )
    nobody = np.void(NOBODY)
    for i in (0, 2, 3, 4):
        first.rows[i]["person"] = nobody
    first.rows[3]["temperature_cc"] = 3900
    first.rows[4]["time_ms"] = -60_000
    alerts = Alerts()
    alerts.apply(first)
    found = find(alerts.parts(), -100_000, 100_000)
    left = [(int(r["place"]), int(r["time_ms"]), r["person"] == nobody) for r in found]
    assert left == [(1, 3000, True), (2, 2000, True), (1, 1000, False), (3, -60_000, True)]


def test_a_forgotten_day_takes_its_alerts_along() -> None:
    alerts = Alerts()
    for lsn in range(1, 5):
        alerts.apply(group(lsn, (lsn * 10, 1, Flag.COPIED), (lsn, 1, Flag.COPIED)))
    assert alerts.expire(20) == 5
    assert told(find(alerts.parts(), 0, 100)) == [(40, 16), (30, 16), (20, 16)]
    assert len(alerts) == 3


def test_a_flood_of_alerts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_MAX", 100)
    monkeypatch.setattr(module, "_PART_ROWS", 20)
    alerts = Alerts()
    for lsn in range(1, 200):
        alerts.apply(group(lsn, *[(lsn, 1, Flag.COPIED)] * 7))
        assert len(alerts) <= 100 and len(alerts.parts()) <= 6
    assert find(alerts.parts(), 0, 1000)["time_ms"].max() == 199


def test_a_broken_terminal_that_gives_one_temperature_all_day() -> None:
    """Every reading may be the echo of every scan: no reader waits minutes for that."""
    count = 20_000
    first = group(1, *[(i * 4000, 1, Flag.FEVER) for i in range(2 * count)])
    first.rows["person"][::2] = np.void(NOBODY)
    first.rows["time_ms"][1::2] -= 3000
    first.rows["time_ms"][-2] += 10 * 60_000  # the last reading is nobody's
    alerts = Alerts()
    alerts.apply(first)
    begun_s = time.monotonic()
    found = find(alerts.parts(), 0, 1 << 40)
    assert time.monotonic() - begun_s < 30
    assert len(found) == count + 1
    assert [row["person"] == np.void(NOBODY) for row in found[:2]] == [True, False]
