"""Counts: visits and passages that began, by hour or day and by place, lane, area or kind (Q12).

Hours are counted when asked, in one walk that reads each visit of the span once. Of a segment the
days are counted once: its visits never change, and those that are no more are taken off by every
question, so sums are those of the walk. No persons: these cannot be added up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.clock import DAY_MS, HOUR_MS, TZ_OFFSET_MS, day_to_ms
from engine.colocation.index import Snapshot, clamped
from engine.colocation.layers import Layer, in_memory, in_segments
from engine.errors import QuestionInvalid
from engine.presence.visits import Array
from native.counts import add_cells, count_begun, places_of

WIDTHS: Final = {"hour": HOUR_MS, "day": DAY_MS}
SPAN_MAX_MS: Final = 366 * DAY_MS

CELL: Final = np.dtype(
    [
        ("start_ms", "<i8"),
        ("place", "<u4"),
        ("count", "<u4"),
        ("lane", "<u2"),
        ("direction", "u1"),
        ("is_passage", "u1"),
        ("spare", "V4"),
    ]
)
COUNT: Final = np.dtype(
    [
        ("start_ms", "<i8"),
        ("group", "<u4"),
        ("lane", "<u2"),
        ("direction", "u1"),
        ("spare", "u1"),
        ("visits", "<u4"),
        ("passages", "<u4"),
    ]
)


_EVER: Final = (day_to_ms(-1_000_000), day_to_ms(1_000_000))


class DayCells:
    """Cells by day of segments, each counted at the first question that needs it. Any thread."""

    def __init__(self) -> None:
        self._of: dict[str, Array] = {}  # by name of the file, which no other ever has

    def count(self, snapshot: Snapshot, low: int, high: int) -> Array:
        """CELL of days in [low, high), as `count_begun` of all layers; the counts of some are to
        be taken off: as i4 they are less than 0."""
        epoch = snapshot.epoch
        memory = [layer.visits for layer in in_memory(snapshot.layers)]
        parts = [np.frombuffer(count_begun(memory, low, high, DAY_MS, epoch), CELL)]
        known = self._of
        self._of = found = {}
        for layer in in_segments(snapshot.layers):
            segment = layer.segment
            assert segment is not None
            name = segment.entry.name
            cells = known.get(name)
            found[name] = cells = _cells_of(layer) if cells is None else cells
            parts.append(cells[(cells["start_ms"] >= low) & (cells["start_ms"] < high)])
            if len(layer.visits) < len(segment.columns):
                packed = count_begun([layer.visits], low, high, DAY_MS, epoch, True)
                ended = np.frombuffer(packed, CELL).copy()
                ended["count"] = -ended["count"].astype("<i4")
                parts.append(ended)
        return np.concatenate(parts)


def _cells_of(layer: Layer) -> Array:
    """CELL by day of all visits of a segment, also of those that are no more: none ended before
    epoch 1."""
    cells = np.frombuffer(count_begun([layer.visits], *_EVER, DAY_MS, 0), CELL)
    _, at, inverse = np.unique(_without_count(cells), return_index=True, return_inverse=True)
    added = cells[at]
    added["count"] = np.bincount(inverse, cells["count"], len(at))
    return added


def _without_count(cells: Array) -> Array:
    """What is the same of cells that are to be added."""
    plain = cells.copy()
    plain["count"] = 0
    return plain.view("V24")


@dataclass(frozen=True, slots=True)
class Counted:
    """Rows of COUNT by start, group, lane and direction, for the whole cells [from_ms, to_ms).

    next_ms: where to ask on when a limit kept some back, else None.
    """

    rows: Array
    from_ms: int
    to_ms: int
    next_ms: int | None
    lsn: int


def count(
    snapshot: Snapshot,
    from_ms: int,
    to_ms: int,
    *,
    by: str,
    limit: int,
    group: Callable[[Array], Array],
    allowed: Collection[int] | None = None,
    has_lanes: bool = False,
    days: DayCells | None = None,
) -> Counted:
    """Of visits that began in the cells of civil time which overlap [from_ms, to_ms).

    by: of WIDTHS. group: numbers under which places (u32, ascending) are counted together.
    allowed: places that count, None for all. has_lanes: posts by control point and direction. days:
    what is known of segments. Raises QuestionInvalid.
    """
    if by not in WIDTHS:
        raise QuestionInvalid("by must be " + " or ".join(WIDTHS))
    if not from_ms < to_ms <= from_ms + SPAN_MAX_MS:
        raise QuestionInvalid("from, to: the span begins before it ends and has at most 366 days")
    width_ms = WIDTHS[by]
    low = (from_ms + TZ_OFFSET_MS) // width_ms * width_ms - TZ_OFFSET_MS
    high = -((-to_ms - TZ_OFFSET_MS) // width_ms) * width_ms - TZ_OFFSET_MS
    span = clamped(low), clamped(high)
    if by == "day" and days is not None:
        cells = days.count(snapshot, *span).tobytes()
    else:
        cells = count_begun(snapshot.tables, *span, width_ms, snapshot.epoch)
    places = np.frombuffer(places_of(cells), "<u4")
    if allowed is not None:
        places = places.compress(np.isin(places, np.array(sorted(allowed), np.int64)))
    groups = group(places).astype("<u4").tobytes()
    packed = add_cells(cells, places.tobytes(), groups, span[0], width_ms, has_lanes)
    rows = np.frombuffer(packed, COUNT)
    next_ms = None
    if len(rows) > limit:
        # Only whole cells of time, so that what comes next begins with one.
        next_ms = int(rows["start_ms"][limit])
        rows = rows[: int(np.searchsorted(rows["start_ms"], next_ms))]
        if not len(rows):
            raise QuestionInvalid("limit: one hour or day alone has more rows than that")
    return Counted(rows, low, high, next_ms, snapshot.lsn)
