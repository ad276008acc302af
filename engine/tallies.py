"""Tallies: how many codes and records were refused, by day, place, lane and reason.

Derived from the groups of the scan log like everything else, so that a restart does not forget that
something was turned away. No personal data: counts only, and they do not expire.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

import numpy as np

from engine.clock import ms_to_day
from engine.rows import REASONS


class _Group(Protocol):
    @property
    def lsn(self) -> int: ...
    @property
    def tallies(self) -> np.ndarray[Any, Any]: ...


class Tallies:
    """Used from one thread."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, int, int, str]] = Counter()
        self._applied = 0

    def apply(self, group: _Group) -> None:
        """Adds a journal group's; one applied before changes nothing."""
        if group.lsn <= self._applied:
            return
        self._applied = group.lsn
        for tally in group.tallies:
            day = ms_to_day(int(tally["time_ms"]))
            reason = REASONS[tally["reason"]] if tally["reason"] < len(REASONS) else "unknown"
            key = (day, int(tally["place"]), int(tally["lane"]), reason)
            self._counts[key] += int(tally["count"])

    def of_day(self, day: int) -> list[dict[str, int | str]]:
        """place, lane, reason and count of a civil day, in the order of places and lanes."""
        return [
            {"place": place, "lane": lane, "reason": reason, "count": count}
            for (at, place, lane, reason), count in sorted(self._counts.items())
            if at == day
        ]
