"""Refusals are counted once, by the day they happened in Việt Nam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from engine.clock import date_to_day, iso_to_ms
from engine.colocation.tallies import Tallies
from engine.payloads.outcome import Reason
from engine.scans.rows import REASONS
from engine.storage.group import TALLY


@dataclass
class Group:
    lsn: int
    tallies: np.ndarray


def group(lsn: int, *rows: tuple[str, int, int, str, int]) -> Group:
    tallies = np.zeros(len(rows), TALLY)
    for slot, (at, place, lane, reason, count) in zip(tallies, rows, strict=True):
        slot["time_ms"], slot["place"], slot["lane"] = iso_to_ms(at), place, lane
        slot["reason"], slot["count"] = REASONS.index(reason), count
    return Group(lsn, tallies)


def test_counts_by_civil_day_place_lane_and_reason() -> None:
    tallies = Tallies()
    first = group(
        1,
        ("2026-03-01T23:59:59", 1, 2, "payment_qr", 2),
        ("2026-03-02T00:00:00", 1, 2, "payment_qr", 1),
    )
    tallies.apply(first)
    tallies.apply(first)
    tallies.apply(group(2, ("2026-03-01T12:00:00", 1, 2, "payment_qr", 3)))
    assert tallies.of_day(date_to_day("2026-03-01")) == [
        {"place": 1, "lane": 2, "reason": "payment_qr", "count": 5}
    ]
    assert [row["count"] for row in tallies.of_day(date_to_day("2026-03-02"))] == [1]


def test_a_reason_of_a_later_version_is_still_counted() -> None:
    later = group(1, ("2026-03-01T12:00:00", 1, 1, "wifi", 4))
    later.tallies["reason"] = 999
    tallies = Tallies()
    tallies.apply(later)
    assert [(r["reason"], r["count"]) for r in tallies.of_day(date_to_day("2026-03-01"))] == [
        ("unknown", 4)
    ]


def test_every_reason_of_a_payload_has_a_number() -> None:
    assert set(get_args(Reason)) <= set(REASONS)
    assert len(set(REASONS)) == len(REASONS)
