"""Alerts: rows of the log that carry a flag of alarm, for the desk; derived, like everything else.

A lane was told at once; this is the list of it afterwards, newest first, as long as the rows live.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from engine.clock import DAY_MS, MINUTE_MS, TZ_OFFSET_MS
from engine.presence.visits import REF_ROW_BITS
from engine.scans.rows import NOBODY, Flag

Array: TypeAlias = npt.NDArray[Any]

ALARMING: Final = Flag.FEVER | Flag.COPIED | Flag.LISTED
_PART_ROWS: Final = 1024  # so that there are few parts, however small groups are
_NEAR_MS: Final = MINUTE_MS
KEPT_MAX: Final = 1 << 18  # the newest of the log; some 12 MB
ALERT: Final = np.dtype(
    [
        ("person", "V16"),
        ("time_ms", "<i8"),
        ("ref", "<u8"),  # number of the log group << 20 | row within it
        ("place", "<u4"),
        ("lane", "<u2"),
        ("temperature_cc", "<i2"),
        ("flags", "u1"),
        ("kind", "u1"),
    ]
)


class _Group(Protocol):
    @property
    def lsn(self) -> int: ...
    @property
    def rows(self) -> Array: ...


class Alerts:
    """Used from one thread. flags: which rows are kept."""

    def __init__(self, flags: int = ALARMING) -> None:
        self._flags = flags
        self._parts: deque[Array] = deque()  # ALERT, in the order of the log
        self._count = 0
        self._applied = 0

    def __len__(self) -> int:
        return self._count

    def apply(self, group: _Group) -> None:
        """Takes a journal group's; one applied before changes nothing."""
        if group.lsn <= self._applied:
            return
        at = np.flatnonzero(group.rows["flags"] & self._flags)
        if len(at):
            self._keep(group, at)
        self._applied = group.lsn

    def _keep(self, group: _Group, at: Array) -> None:
        found = np.zeros(len(at), ALERT)
        for name in ("person", "time_ms", "place", "lane", "temperature_cc", "flags", "kind"):
            found[name] = group.rows[name][at]
        found["ref"] = group.lsn << REF_ROW_BITS | at
        self._count += len(found)
        if self._parts and len(self._parts[-1]) < _PART_ROWS:
            # In one step, for who looks from another thread.
            self._parts[-1] = np.concatenate([self._parts[-1], found])
        else:
            self._parts.append(found)
        while self._count > KEPT_MAX and len(self._parts) > 1:
            self._count -= len(self._parts.popleft())

    def parts(self) -> list[Array]:
        """ALERT of all rows that are kept, as `find` takes them; never changed afterwards."""
        return list(self._parts)

    @property
    def applied_lsn(self) -> int:
        return self._applied

    def dump(self) -> tuple[int | None, bytes]:
        """(time of the oldest row, all of it for `load`), as of some group; any thread."""
        applied = self._applied
        whole = np.concatenate([np.zeros(0, ALERT), *self.parts()])
        whole = whole[whole["ref"] >> REF_ROW_BITS <= applied]
        oldest_ms = int(whole["time_ms"].min()) if len(whole) else None
        return oldest_ms, applied.to_bytes(8, "little") + whole.tobytes()

    def load(self, dumped: bytes) -> None:
        """Takes up what was dumped, before any group."""
        self._applied = int.from_bytes(dumped[:8], "little")
        whole = np.frombuffer(dumped, ALERT, offset=8)
        self._parts = deque([whole] if len(whole) else [])
        self._count = len(whole)

    def expire(self, before_ms: int, held: Collection[int] = ()) -> int:
        """Forgets rows before the instant, but of civil days that are held; how many."""
        days = list(held)
        return self._filter(
            lambda part: (
                (part["time_ms"] >= before_ms)
                | np.isin((part["time_ms"] + TZ_OFFSET_MS) // DAY_MS, days)
            )
        )

    def erase(self, find: Callable[[Array], Array]) -> int:
        """Forgets the rows that `find` gives a mask of; how many."""
        return self._filter(lambda part: ~find(part))

    def _filter(self, is_kept: Callable[[Array], Array]) -> int:
        before = self._count
        parts = [part[is_kept(part)] for part in self._parts]
        self._parts = deque(part for part in parts if len(part))
        self._count = sum(map(len, self._parts))
        return before - self._count


def find(
    parts: list[Array], from_ms: int, to_ms: int, places: frozenset[int] | None = None
) -> Array:
    """ALERT of rows during [from_ms, to_ms), newest first. places: None for all. Any thread."""
    whole = np.concatenate(parts) if parts else np.zeros(0, ALERT)
    mask = (whole["time_ms"] >= from_ms) & (whole["time_ms"] < to_ms)
    if places is not None:
        mask &= np.isin(whole["place"], list(places))
    found = _without_echoes(whole[mask])
    return found[np.lexsort((found["ref"], found["time_ms"]))[::-1]]


def _without_echoes(found: Array) -> Array:
    """Without the fevers of nobody that a scan took over: its lane, its temperature, its minute."""
    nameless = found["person"] == np.void(NOBODY)
    if not nameless.any():
        return found
    keys = ("place", "lane", "temperature_cc")
    known: dict[tuple[int, ...], list[int]] = {}
    named = found[~nameless & (found["flags"] & Flag.FEVER > 0)]
    for row in named[np.argsort(named["time_ms"])]:
        known.setdefault(tuple(int(row[k]) for k in keys), []).append(int(row["time_ms"]))
    # A terminal that is broken gives the same temperature all day: each echo is looked up.
    echoes = []
    for i in np.flatnonzero(nameless).tolist():
        times = known.get(tuple(int(found[i][k]) for k in keys), [])
        at_ms = int(found[i]["time_ms"])
        at = bisect_left(times, at_ms - _NEAR_MS)
        if at < len(times) and times[at] <= at_ms + _NEAR_MS:
            echoes.append(i)
    return np.delete(found, echoes)
