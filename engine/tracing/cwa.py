"""How the Corona-Warn-App counted check-ins: its own arithmetic, as a contact profile (CWA).

1  A stay of the case under 10 minutes is left out. 2  The air keeps aerosols: the stay lasts as
long again, by half an hour at most. 3  The whole is rounded to 10 minutes, half of one up. 4  It is
laid on the 10-minute grid: on its end, if the end reaches further into its last cell than the start
leaves of its first, else on its start. 5  Time together is what overlaps; touching is nothing.
6  Stays are split at midnight UTC. 7  Minutes are weighted with the risk of transmission and summed
by day: 10 or more are high (a candidate), fewer are low (below). 8  Stays that began more than 10
days before the end of the span do not count.

The app knew risk levels of each day of an infection; a tracer names one level for the case. Level 5
has the weight 1. docs/tracing.md has the ten vectors of the app's own tests.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.clock import DAY_MS, MINUTE_MS
from engine.colocation.found import Met
from engine.presence.contacts import Tier
from engine.presence.visits import VISIT, Array, VisitFlag

CELL_MS: Final = 10 * MINUTE_MS
STAY_LEAST_MS: Final = 10 * MINUTE_MS
DECAY_MAX_MS: Final = 30 * MINUTE_MS
HIGH_MINUTES: Final = 10
AGE_MAX_DAYS: Final = 10
LEVEL: Final = 5
# Tenths by level 1 to 8, so that sums stay whole numbers.
WEIGHTS: Final = (0, 0, 6, 8, 10, 12, 14, 16)


def derive_stay(start_ms: int, end_ms: int) -> tuple[int, int] | None:
    """The time in which others could be infected at the place, None for a short stay."""
    stay_ms = end_ms - start_ms
    if stay_ms < STAY_LEAST_MS:
        return None
    whole_ms = stay_ms + min(stay_ms, DECAY_MAX_MS)
    whole_ms = (whole_ms + CELL_MS // 2) // CELL_MS * CELL_MS
    reaches_ms = end_ms + min(stay_ms, DECAY_MAX_MS)
    # How much of its first cell the stay fills, and how much of its last.
    of_first = CELL_MS - start_ms % CELL_MS
    of_last = reaches_ms % CELL_MS
    if of_last > of_first:
        end = reaches_ms - of_last + CELL_MS
        return end - whole_ms, end
    start = start_ms - start_ms % CELL_MS
    return start, start + whole_ms


def derive_case(visits: Array, to_ms: int) -> Array:
    """Of VISIT of the case those that count, with the times that count, split at midnight UTC."""
    rows = []
    for visit in visits:
        if visit["flags"] & VisitFlag.PASSAGE or visit["start_ms"] < to_ms - AGE_MAX_DAYS * DAY_MS:
            continue
        stay = derive_stay(int(visit["start_ms"]), int(visit["end_ms"]))
        if stay is None:
            continue
        start, end = stay
        while start < end:
            until = min(end, start - start % DAY_MS + DAY_MS)
            row = visit.copy()
            row["start_ms"], row["end_ms"] = start, until
            rows.append(row)
            start = until
    return np.array(rows, VISIT)


def weighed(met: Met, *, least_minutes: int, level: int, limit: int) -> Met:
    """Of all who met a derived case those with a high risk by rule 7.

    best_ms: weighted minutes of the day that has most.
    """
    pairs, contacts = met.pairs, met.contacts.copy()
    # The case's times lie within one day each, so the instant at which both were there tells it.
    day = np.maximum(pairs["case_start_ms"], pairs["other_start_ms"]) // DAY_MS
    order = np.lexsort((day, pairs["contact"]))
    contact, day = pairs["contact"][order], day[order]
    best = np.zeros(len(contacts), np.int64)
    if len(order):
        is_first = np.ones(len(order), bool)
        is_first[1:] = (contact[1:] != contact[:-1]) | (day[1:] != day[:-1])
        first = np.flatnonzero(is_first)
        sums = np.add.reduceat(pairs["overlap_ms"][order], first) * WEIGHTS[level - 1] // 10
        np.maximum.at(best, contact[first], sums)
    contacts["best_ms"] = best
    contacts["tier"] = Tier.CANDIDATE
    high = np.flatnonzero(best >= max(least_minutes * MINUTE_MS, 1))
    shown = high[:limit]
    position = np.full(len(contacts), len(contacts), np.uint32)
    position[shown] = np.arange(len(shown))
    kept = pairs[position[pairs["contact"]] < len(contacts)]
    kept["contact"] = position[kept["contact"]]
    return Met(
        contacts[shown], kept, met.persons[shown], met.newest[shown], len(high),
        met.below + len(contacts) - len(high), met.lsn,
    )  # fmt: skip
