"""The desk of counts: how many came where and when, by role; no persons (Q12, DF-3, DF-4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from engine.colocation.index import Snapshot
from engine.desk.trace_questions import AskCounts, CountRows
from engine.presence.visits import Array
from engine.registry.access import Grant, Role
from engine.registry.registry import Category, Registry, Venue
from engine.tracing import counts

HEALTH_ROLES: Final = frozenset({Role.TRACER, Role.CENTRE, Role.STATION})
# Outside health every count is a multiple of this, alone and in sums: what a sum of rounded counts
# lacks of the rounded sum tells nobody how many a hidden count was.
ROUNDED: Final = 5
_KINDS: Final = ("unknown", "post", *Category)


class CountDesk:
    """One instance an engine; any thread may ask."""

    def __init__(self, registry: Registry, snapshot: Callable[[], Snapshot]) -> None:
        self._registry = registry
        self._snapshot = snapshot
        self._days = counts.DayCells()

    def answer(self, ask: AskCounts, grant: Grant, area: str, within: frozenset[int]) -> CountRows:
        """area: what bounds the answer, "" for nothing; within: its places. Raises
        QuestionInvalid."""
        names: dict[int, str] = {}

        def group(places: Array) -> Array:
            groups = [self._group(ask.group, number, names) for number in places.tolist()]
            return np.array(groups, "<u4")

        found = counts.count(
            self._snapshot(),
            ask.from_ms,
            ask.to_ms,
            by=ask.by,
            limit=ask.limit,
            group=group,
            allowed=within if area else None,
            has_lanes=ask.group == "lane",
            days=self._days,
        )
        rounded = 1 if grant.role in HEALTH_ROLES else ROUNDED
        rows = found.rows
        for name in ("visits", "passages"):
            rows[name] = (rows[name] + rounded // 2) // rounded * rounded
        return CountRows(
            rows=rows.tobytes(),
            from_ms=found.from_ms,
            to_ms=found.to_ms,
            by=ask.by,
            group=ask.group,
            names={number: names[number] for number in np.unique(rows["group"]).tolist()},
            next_ms=found.next_ms,
            rounded=rounded,
            complete_lsn=found.lsn,
            area=area,
        )

    def _group(self, kind: str, number: int, names: dict[int, str]) -> int:
        """The number under which a place counts; its name comes into `names`."""
        place = self._registry.place(number)
        if kind in ("place", "lane"):
            names[number] = place.name if place else f"#{number}"
            return number
        if kind == "area":
            code = place.area if place else ""
            area = self._registry.area(code) if code else None
            found = area.number if area else 0
            names[found] = f"{code} {area.name}" if area else code
            return found
        word = place.category if isinstance(place, Venue) else "post" if place else "unknown"
        found = _KINDS.index(word)
        names[found] = str(word)
        return found
