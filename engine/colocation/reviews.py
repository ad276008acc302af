"""Reviews: rows that a person should look at, by whom they name; derived, like everything else.

What was unclear about a code flags its row, and so does everybody who has no number of their own:
an officer's entry without papers (D-14), the holder of a health pass (D-20). They wait here until
somebody merges them with a card or says that they stay as they are.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

import numpy as np

from engine.colocation import alerts
from engine.colocation.alerts import Alerts
from engine.presence.visits import Array
from engine.scans.rows import Flag

# One person: first, last and number of the flagged rows; place, kind and ref are the newest one's.
REVIEW: Final = np.dtype(
    [
        ("person", "V16"),
        ("first_ms", "<i8"),
        ("last_ms", "<i8"),
        ("ref", "<u8"),
        ("place", "<u4"),
        ("rows", "<u4"),
        ("kind", "u1"),
    ]
)


def new_reviews() -> Alerts:
    """What keeps the flagged rows of the log."""
    return Alerts(Flag.REVIEW)


def find_reviews(
    parts: list[Array],
    from_ms: int,
    to_ms: int,
    places: frozenset[int] | None,
    done: Set[bytes],
) -> Array:
    """REVIEW of each person with flagged rows during [from_ms, to_ms), the newest first, but of
    those who are done. places: None for all. Any thread."""
    rows = alerts.find(parts, from_ms, to_ms, places)
    halves = np.frombuffer(rows["person"].tobytes(), ">u8").reshape(-1, 2)
    order = np.lexsort((rows["ref"], rows["time_ms"], halves[:, 1], halves[:, 0]))
    rows, halves = rows[order], halves[order]
    first = np.ones(len(rows), bool)
    first[1:] = (halves[1:] != halves[:-1]).any(axis=1)
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(rows))[: len(starts)]
    last = rows[ends - 1]
    found = np.zeros(len(starts), REVIEW)
    found["first_ms"], found["rows"] = rows["time_ms"][starts], ends - starts
    found["last_ms"] = last["time_ms"]
    for name in ("person", "ref", "place", "kind"):
        found[name] = last[name]
    is_open = np.array([key not in done for key in found["person"].tolist()], bool)
    found = found.compress(is_open)
    return found.take(np.lexsort((found["ref"], found["last_ms"]))[::-1])
