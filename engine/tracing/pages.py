"""Pages: long lists of visits a piece at a time, each asked for with where the last one ended.

Rows stand by start, end, person key and place, so a position is what the last row was, and not how
many there were: what has come in between moves nothing else. No state is kept between two pages.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.colocation.found import Found
from engine.colocation.index import Snapshot, clamped
from engine.errors import QuestionInvalid
from engine.presence.visits import VISIT, Array
from native.index import visits_at as native_visits_at

_POSITION: Final = struct.Struct(">qq16sI")  # start, end, key, place
_FEW: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class Page:
    """found: the rows, whose total is of all pages. behind: rows of later ones. next: where those
    begin, "" when there are none."""

    found: Found
    behind: int
    next: str


def visits_at(snapshot: Snapshot, place: int, from_ms: int, to_ms: int) -> Array:
    """VISIT at a place that overlap [from_ms, to_ms), in no order."""
    if not 0 <= place < 1 << 32:
        return np.zeros(0, VISIT)
    span = clamped(from_ms), clamped(to_ms)
    packed = native_visits_at(snapshot.tables, place, *span, snapshot.epoch)
    return np.frombuffer(packed, VISIT)


def page_of(snapshot: Snapshot, visits: Array, limit: int, after: str) -> Page:
    """The first `limit` of VISIT behind a position, "" for the beginning. Raises QuestionInvalid"""
    total = len(visits)
    if after:
        visits = visits.compress(_is_behind(snapshot, visits, *text_to_position(after)))
    left = len(visits)
    if left > limit + _FEW:
        # What begins later than so many others is on no page yet: only the rest is sorted.
        latest = np.partition(visits["start_ms"], limit)[limit]
        visits = visits.compress(visits["start_ms"] <= latest)
    found = snapshot.found(visits.tobytes(), limit)
    behind = left - len(found.visits)
    place_next = _last_position(found) if behind and len(found.visits) else ""
    shown = Found(found.visits, found.persons, found.newest, total, found.lsn)
    return Page(shown, behind, place_next)


def text_to_position(text: str) -> tuple[int, int, bytes, int]:
    """Raises QuestionInvalid."""
    try:
        packed = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
        start, end, key, place = _POSITION.unpack(packed)
    except (ValueError, struct.error):
        raise QuestionInvalid("after: that is not what an answer gave as next") from None
    return start, end, key, place


def _last_position(found: Found) -> str:
    row = found.visits[-1]
    key = found.persons[row["person"]].tobytes()
    packed = _POSITION.pack(int(row["start_ms"]), int(row["end_ms"]), key, int(row["place"]))
    return base64.b32encode(packed).decode().rstrip("=").lower()


def _is_behind(
    snapshot: Snapshot, visits: Array, start: int, end: int, key: bytes, place: int
) -> Array:
    """Mask of the visits that stand behind a position."""
    mask: Array = visits["start_ms"] > start
    for at in np.flatnonzero(visits["start_ms"] == start).tolist():
        visit = visits[at]
        mine = int(visit["end_ms"]), snapshot.keys[visit["person"]].tobytes(), int(visit["place"])
        mask[at] = mine > (end, key, place)
    return mask
