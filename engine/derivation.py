"""What the engine derives from the scan log, live and at its start, by the same code.

The index keeps its days in files and commits with them how far they reach; tallies and lists of
flagged rows go with it as notes. A start therefore replays the log from there only, or from where
the last day's scans begin, which the lanes' window of sightings needs, whichever is first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from engine.clock import HOUR_MS, Clock, ms_to_day
from engine.colocation.alerts import Alerts
from engine.colocation.reviews import new_reviews
from engine.colocation.segmented import Notes, SegmentedIndex
from engine.colocation.tallies import Tallies
from engine.scans.dedup import KEPT_MS, SeenWindow
from engine.storage.group import Group
from engine.storage.journal import Journal
from engine.telemetry import Log, Sample

PROGRESS_S: Final = 5  # between two words on how far a replay is
HOURS_MAX: Final = 1 << 14

_log = Log("derivation")


class _Lights(Protocol):
    def note(self, group: Group, sightings: np.ndarray[Any, Any]) -> None: ...


class _Read(msgspec.Struct, frozen=True):
    """Of the log up to a group: how many rows it has, and where each hour of scans begins.

    hours: (hour, the first group that has a scan of it or of a later one), ascending.
    """

    lsn: int = 0
    rows: int = 0
    hours: tuple[tuple[int, int], ...] = ()


class Derivation:
    """Index, tallies, alerts and reviews of one log. Used from one thread, but for `notes`."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self.tallies = Tallies()
        self.alerts = Alerts()
        self.reviews = new_reviews()
        self._lists = {"alerts": self.alerts, "reviews": self.reviews}
        self._read = _Read()  # replaced as a whole: `notes` looks at it from another thread
        self.replayed_groups = 0

    def derive(self, group: Group, index: SegmentedIndex) -> None:
        """Takes in a group of the log; what has taken it before is not changed."""
        if group.lsn > self._read.lsn:
            self._read = _read_on(self._read, group)
        self.tallies.apply(group)
        self.alerts.apply(group)
        self.reviews.apply(group)
        # Last: what the index commits, the others have.
        index.apply(group)

    # ---- with the index ----------------------------------------------------------------------

    def notes(self) -> Notes:
        """What is committed with the index; any thread."""
        today = ms_to_day(self._clock.now_ms())
        read = msgspec.msgpack.encode(self._read)
        found = {"log": (today, read), "tallies": (today, self.tallies.dump())}
        for name, listed in self._lists.items():
            oldest_ms, data = listed.dump()
            day = today if oldest_ms is None else min(today, ms_to_day(oldest_ms))
            found[name] = (day, data)
        return found

    def take(self, notes: Notes) -> None:
        """Takes up what was committed. Whatever is missing is derived again."""
        if notes.keys() < {"log", "tallies", *self._lists}:
            return
        self._read = msgspec.msgpack.decode(notes["log"][1], type=_Read)
        self.tallies.load(notes["tallies"][1])
        for name, listed in self._lists.items():
            listed.load(notes[name][1])

    # ---- the start ---------------------------------------------------------------------------

    async def replay(
        self, index: SegmentedIndex, seen: SeenWindow, lights: _Lights, groups_kept: int
    ) -> None:
        """The log into everything, as far as it has not been there; before the doors open.

        groups_kept: of the log's end, from which `lights` are told.
        """
        last = self._journal.last_lsn()
        newest_ms = self._clock.now_ms() - KEPT_MS
        first = self._first_group(index, last, newest_ms, groups_kept)
        told_ns = self._clock.monotonic_ns()
        if first >= last:
            return
        _log.info("log replayed", groups=0, count=last - first)
        async for group in self._journal.read(first):
            self.derive(group, index)
            self._see(group, seen, lights, newest_ms, last - groups_kept)
            self.replayed_groups += 1
            if group.lsn >= last:
                break
            if index.is_behind:
                await asyncio.to_thread(index.catch_up)
            if self._clock.monotonic_ns() - told_ns > PROGRESS_S * 1_000_000_000:
                told_ns = self._clock.monotonic_ns()
                _log.info("log replayed", groups=group.lsn - first, count=last - first)
        await asyncio.to_thread(index.catch_up)

    def _first_group(
        self, index: SegmentedIndex, last: int, newest_ms: int, groups_kept: int
    ) -> int:
        """The group after which the log is to be read."""
        known = min(index.applied_lsn, self._read.lsn, self.tallies.applied_lsn)
        known = min(known, *(listed.applied_lsn for listed in self._lists.values()))
        recent = [lsn - 1 for hour, lsn in self._read.hours if hour >= newest_ms // HOUR_MS]
        return max(0, min([known, last - groups_kept, *recent[:1]]))

    def _see(
        self, group: Group, seen: SeenWindow, lights: _Lights, newest_ms: int, past: int
    ) -> None:
        sightings = np.zeros(len(group.rows), np.uint8)
        is_recent = group.rows["time_ms"] >= newest_ms
        if is_recent.any():
            sightings[is_recent] = seen.rebuild(group.rows[is_recent])
        if group.lsn > past:
            lights.note(group, sightings)

    def samples(self, index: SegmentedIndex, segment_bytes: int) -> Iterator[Sample]:
        yield "chot_index_rows", (), self._read.rows
        yield "chot_index_persons", (), index.person_count
        yield "chot_index_lag_groups", (), self._journal.last_lsn() - index.applied_lsn
        yield "chot_index_memory_scans", (), index.memory_scans
        yield "chot_index_segments", (), index.segment_count
        yield "chot_index_segment_days", (), index.day_count
        yield "chot_index_segment_bytes", (), segment_bytes
        yield "chot_index_replay_groups", (), self._journal.last_lsn() - index.covered_lsn
        yield "chot_index_replayed_groups", (), self.replayed_groups


def _read_on(read: _Read, group: Group) -> _Read:
    """With one more group."""
    hours = read.hours
    if len(group.rows):
        hour = int(group.rows["time_ms"].max()) // HOUR_MS
        if not hours or hour > hours[-1][0]:
            hours = (*hours[-HOURS_MAX:], (hour, group.lsn))
    return _Read(group.lsn, read.rows + len(group.rows), hours)
