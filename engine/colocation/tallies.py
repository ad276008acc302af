"""Tallies: how many codes and records were refused, by day, place, lane and reason.

Derived from the groups of the scan log like everything else, so that a restart does not forget that
something was turned away. No personal data: counts only, and they do not expire.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, Protocol

import msgspec
import numpy as np

from engine.clock import ms_to_day
from engine.scans.rows import REASONS


class _Group(Protocol):
    @property
    def lsn(self) -> int: ...
    @property
    def tallies(self) -> np.ndarray[Any, Any]: ...


_Dumped = tuple[int, list[tuple[tuple[int, int, int, str], int]]]


class Tallies:
    """Used from one thread, but for `dump`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[int, int, int, str]] = Counter()
        self._applied = 0

    def apply(self, group: _Group) -> None:
        """Adds a journal group's; one applied before changes nothing."""
        if group.lsn <= self._applied:
            return
        with self._lock:
            self._applied = group.lsn
            for tally in group.tallies:
                day = ms_to_day(int(tally["time_ms"]))
                reason = REASONS[tally["reason"]] if tally["reason"] < len(REASONS) else "unknown"
                key = (day, int(tally["place"]), int(tally["lane"]), reason)
                self._counts[key] += int(tally["count"])

    @property
    def applied_lsn(self) -> int:
        return self._applied

    def dump(self) -> bytes:
        """All of it, for `load`; any thread."""
        with self._lock:
            return msgspec.msgpack.encode((self._applied, list(self._counts.items())))

    def load(self, dumped: bytes) -> None:
        """Takes up what was dumped, before any group."""
        self._applied, counts = msgspec.msgpack.decode(dumped, type=_Dumped)
        self._counts = Counter(dict(counts))

    def of_day(self, day: int) -> list[dict[str, int | str]]:
        """place, lane, reason and count of a civil day, in the order of places and lanes."""
        return [
            {"place": place, "lane": lane, "reason": reason, "count": count}
            for (at, place, lane, reason), count in sorted(self._counts.items())
            if at == day
        ]
