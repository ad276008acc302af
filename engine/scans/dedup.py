"""Sightings: where was this person a moment ago? They decide the lane's light and flag a copy.

The same person at the same post is *seen*; at two posts faster than the road allows, or in two
lanes of a post at once, somebody copied a code. What is kept is never decided here: passages and
visits are a pure function of the journaled scans (engine.presence.visits). Comparing and
remembering is native.dedup's; this module holds the policy: which spans when, and how long a
sighting is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np

from engine.clock import DAY_MS, HOUR_MS
from engine.scans.rows import ROW, Kind
from native.dedup import HERE, LANES, ROAD, SeenRules, SeenTable

__all__ = ["HERE", "LANES", "ROAD", "SeenWindow", "Spans"]

# A gateway may come back with the scans of a day's outage, and they are compared like others.
KEPT_MS: Final = DAY_MS + 2 * HOUR_MS
ENTRIES_MAX: Final = 1 << 22  # some 160 MB; beyond, the oldest sightings go early
_SWEEP_MS: Final = HOUR_MS


class Spans(msgspec.Struct, frozen=True):
    """What is near in time, from an instant on until the next Spans.

    window_ms: at most so far apart is seen. lanes_ms: less than that apart in two lanes of a post
    is a copy. roads: (post, other post, least_ms): less than that apart at the two is a copy.
    """

    from_ms: int
    window_ms: int
    lanes_ms: int = 0
    roads: tuple[tuple[int, int, int], ...] = ()


class SeenWindow:
    """Sightings at posts of a day and some hours. Used from one thread.

    An answer compares a scan with those that came before it, whatever their times, under the spans
    in force at its own time; a scan that comes again is not compared with itself. So of two scans
    that contradict each other the one that comes later is flagged, in whichever order they come.
    """

    def __init__(self, spans: Sequence[Spans], capacity: int = 1 << 16) -> None:
        self._table = SeenTable(capacity)
        self._newest_ms = -(1 << 62)
        self._swept_ms = -(1 << 62)
        self.set_spans(spans)

    def set_spans(self, spans: Sequence[Spans]) -> None:
        """spans: by from_ms ascending, one at least; the first holds for all times before, too."""
        assert spans
        self._begins = [span.from_ms for span in spans[1:]]
        self._rules = [SeenRules(s.window_ms, s.lanes_ms, s.roads) for s in spans]

    def see(self, persons: bytes, places: bytes, lanes: bytes, times_ms: bytes) -> bytes:
        """A byte of HERE, LANES and ROAD a scan.

        n*16, n*4 (u32), n*2 (u16) and n*8 (i64) bytes, little-endian. Raises MemoryError.
        """
        if not times_ms:
            return b""
        times = memoryview(times_ms).cast("q")
        first, last = min(times), max(times)
        answers = b"".join(
            self._table.see(
                persons[16 * low : 16 * high],
                places[4 * low : 4 * high],
                lanes[2 * low : 2 * high],
                times_ms[8 * low : 8 * high],
                rules,
            )
            for low, high, rules in self._runs(times, first, last)
        )
        self._newest_ms = max(self._newest_ms, last)
        self._sweep()
        return answers

    def rebuild(self, rows: np.ndarray) -> np.ndarray:
        """Takes rows of the log in at start, so that a restart forgets nobody at the barrier.

        The answer of each row as it was when it came, for the log has the order of coming.
        """
        assert rows.dtype == ROW
        answers = np.zeros(len(rows), np.uint8)
        at_post = (rows["kind"] == Kind.SCAN) | (rows["kind"] == Kind.MANUAL)
        rows = rows[at_post]
        columns = (rows["person"], rows["place"], rows["lane"], rows["time_ms"])
        answers[at_post] = np.frombuffer(self.see(*(c.tobytes() for c in columns)), np.uint8)
        return answers

    def forget(self, persons: Iterable[bytes]) -> int:
        """Forgets every sighting of persons; how many there were."""
        return sum(self._table.forget(person) for person in persons)

    def _runs(
        self, times: memoryview, first_ms: int, last_ms: int
    ) -> Iterator[tuple[int, int, SeenRules]]:
        """(low, high, rules): scans that follow each other under the same rules."""
        first, last = bisect_right(self._begins, first_ms), bisect_right(self._begins, last_ms)
        if first == last:
            yield 0, len(times), self._rules[first]
            return
        which = np.searchsorted(self._begins, np.frombuffer(times, "<i8"), side="right")
        edges = [0, *(np.flatnonzero(np.diff(which)) + 1).tolist(), len(times)]
        for low, high in pairwise(edges):
            yield low, high, self._rules[which[low]]

    def _sweep(self) -> None:
        if self._newest_ms - self._swept_ms >= _SWEEP_MS:
            self._table.expire(self._newest_ms - KEPT_MS)
            self._swept_ms = self._newest_ms
        kept_ms = KEPT_MS
        while len(self._table) > ENTRIES_MAX:
            # Whoever sends without end must not have all the memory: the light may forget.
            kept_ms //= 2
            self._table.expire(self._newest_ms - kept_ms if kept_ms else 1 << 62)

    def __len__(self) -> int:
        return len(self._table)
