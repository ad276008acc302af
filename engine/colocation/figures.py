"""Figures: what one civil day counted, by place and by control point. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.presence.visits import Array, VisitFlag
from engine.scans.rows import Kind

PLACE_FIGURE = np.dtype(
    [("place", "<u4")]
    + [(name, "<u4") for name in ("scans", "checkins", "manuals", "persons", "visits", "passages")]
)
PASSAGE_FIGURE = np.dtype(
    [("place", "<u4"), ("lane", "<u2"), ("direction", "u1"), ("spare", "u1"), ("count", "<u4")]
)


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts of one civil day. places: PLACE_FIGURE; passages: PASSAGE_FIGURE; persons: in all."""

    day: int
    places: Array
    passages: Array
    persons: int
    lsn: int


def count_day(day: int, scans: Array, visits: Array, lsn: int) -> Figures:
    """scans: SCAN, distinct, by their time; visits: VISIT, by start."""
    is_passage = (visits["flags"] & VisitFlag.PASSAGE) > 0
    numbers = np.unique(np.concatenate([scans["place"], visits["place"]]))
    places = np.zeros(len(numbers), PLACE_FIGURE)
    places["place"] = numbers
    pair = scans["place"].astype(np.uint64) << np.uint64(32) | scans["person"]
    for name, column in (
        ("scans", scans["place"][scans["kind"] == Kind.SCAN]),
        ("checkins", scans["place"][scans["kind"] == Kind.CHECKIN]),
        ("manuals", scans["place"][scans["kind"] == Kind.MANUAL]),
        ("persons", np.unique(pair) >> np.uint64(32)),
        ("visits", visits["place"][~is_passage]),
        ("passages", visits["place"][is_passage]),
    ):
        places[name] = np.bincount(np.searchsorted(numbers, column), minlength=len(numbers))
    lanes = np.zeros(int(is_passage.sum()), PASSAGE_FIGURE)
    for name, field in (("place", "place"), ("lane", "room"), ("direction", "direction")):
        lanes[name] = visits[field][is_passage]
    if len(lanes):
        lanes = lanes[np.lexsort((lanes["direction"], lanes["lane"], lanes["place"]))]
        first = np.flatnonzero(_changes(lanes["place"], lanes["lane"], lanes["direction"]))
        size = np.diff(first, append=len(lanes))
        lanes = lanes[first]
        lanes["count"] = size
    return Figures(day, places, lanes, len(np.unique(scans["person"])), lsn)


def _changes(*columns: Array) -> Array:
    """Mask of the rows in which any column differs from the row before; the first row does."""
    mask = np.ones(len(columns[0]), bool)
    mask[1:] = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        mask[1:] |= column[1:] != column[:-1]
    return mask
