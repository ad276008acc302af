"""bench.store_adapter against a brute-force oracle: whole visits, any arrival, re-sends."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.store_adapter import ChotStore
from engine.clock import DAY_MS, HOUR_MS, MINUTE_MS

START_MS = 1_625_072_400_000
GAP_MS = 15 * MINUTE_MS
SCAN = np.dtype(
    [("t0", "<i8"), ("ph", "<u8"), ("pl", "<u8"), ("venue", "<u4"), ("dur", "<u4"),
     ("temp", "<i2"), ("lane", "u1"), ("kind", "u1")]
)  # fmt: skip


def make_scans(rng: random.Random, count: int) -> np.ndarray:
    """Distinct in person, venue and time; some touch, some lie a gap apart, some go on for days."""
    scans = np.zeros(count, SCAN)
    taken = set()
    for at in range(count):
        while True:
            who, venue = rng.randrange(40), rng.randrange(6)
            begun = START_MS + rng.randrange(5 * DAY_MS // MINUTE_MS) * MINUTE_MS
            if (who, venue, begun) not in taken:
                break
        taken.add((who, venue, begun))
        stay = rng.choice([1, MINUTE_MS, 15 * MINUTE_MS, 90 * MINUTE_MS, 24 * HOUR_MS])
        # Keys that differ in one half only.
        half = who % 20 + (2**64 - 20)
        scans[at] = (begun, half, who // 20, venue, stay, 3650, at % 4, 1)
    return scans


def slow_visits(scans: np.ndarray) -> dict[tuple[bytes, int], list[tuple[int, int]]]:
    """(start, end) by person and venue: scans that overlap or lie GAP_MS apart or less are one."""
    found: dict[tuple[bytes, int], list[tuple[int, int]]] = defaultdict(list)
    for scan in sorted(scans, key=lambda s: int(s["t0"])):
        person = int(scan["ph"]).to_bytes(8, "big") + int(scan["pl"]).to_bytes(8, "big")
        visits = found[person, int(scan["venue"])]
        start, end = int(scan["t0"]), int(scan["t0"]) + int(scan["dur"])
        if visits and start - visits[-1][1] <= GAP_MS:
            visits[-1] = (visits[-1][0], max(visits[-1][1], end))
        else:
            visits.append((start, end))
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_equal_the_oracle(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    scans = make_scans(rng, 900)
    truth = slow_visits(scans)
    arriving = np.concatenate([scans, rng.choices(scans, k=80)])
    order = list(range(len(arriving)))
    rng.shuffle(order)
    store = ChotStore(str(tmp_path), SimpleNamespace(gap=GAP_MS))
    try:
        for at in range(0, len(order), 70):
            store.ingest(arriving[order[at : at + 70]])
        for is_finished in (False, True):
            if is_finished:
                store.finish()
            for venue in range(7):
                low = START_MS + rng.randrange(5 * DAY_MS)
                high = low + 2 * HOUR_MS
                expected = {
                    person
                    for (person, where), visits in truth.items()
                    if where == venue and any(s < high and e > low for s, e in visits)
                }
                assert store.present(venue, low, high) == expected
            for person in {person for person, _ in truth}:
                low, high = START_MS + DAY_MS, START_MS + 3 * DAY_MS
                mine = [
                    (s, e, where)
                    for (who, where), visits in truth.items()
                    for s, e in visits
                    if who == person and s < high and e > low
                ]
                assert sorted(store.visits(person, low, high)) == sorted(
                    (s, e - s, where) for s, e, where in mine
                )
                together: dict[bytes, int] = defaultdict(int)
                for (who, where), visits in truth.items():
                    for s, e, venue in mine if who != person else []:
                        for start, end in visits if venue == where else []:
                            if start < e and end > s:
                                together[who] += min(e, end) - max(s, start)
                assert store.contacts(person, low, high) == together
        assert store.visits(b"nobody is here !", 0, 2**50) == []
    finally:
        store.close()
