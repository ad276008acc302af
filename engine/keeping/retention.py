"""Retention: days that are over long enough are forgotten, on schedule and without being asked.

What is due goes onto the forget list first; then the index drops what it derived from those days,
since what it has in files is sealed with keys that go; then the journal destroys the days' keys and
empties their groups, even while the disk refuses the index. All of it may be repeated. Days under a
hold are kept until it ends. What arrives later for a day that is past its time is refused by the
pipeline, also while a hold keeps that day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from engine import faults
from engine.clock import Clock, day_to_ms, ms_to_day
from engine.keeping.forget_list import Entry, ForgetList
from engine.keeping.holds import DaysOf, Holds, days_held
from engine.storage.journal import Journal, is_day_over
from engine.telemetry import Log

_log = Log("retention")


class IndexLike(Protocol):
    def expire(self, before_ms: int, held: Collection[int] = ()) -> int: ...


class Days(Protocol):
    """Of a key ring: days that have keys."""

    def days(self) -> list[int]: ...


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did. groups: emptied; days: forgotten; held: kept although they were due."""

    groups: int
    days: Sequence[int]
    held: Sequence[int]


class Retention:
    """keep_days: civil days that are kept besides today. days_of: see engine.keeping.holds; any
    thread."""

    def __init__(
        self,
        journal: Journal,
        index: IndexLike | None,
        clock: Clock,
        keep_days: int,
        *,
        ring: Days,
        holds: Holds,
        days_of: DaysOf,
        forget_list: ForgetList,
    ) -> None:
        self._journal = journal
        self._index = index
        self._clock = clock
        self._keep_days = keep_days
        self._ring = ring
        self._holds = holds
        self._days_of = days_of
        self._forget_list = forget_list
        self._running = asyncio.Lock()
        self._index_has: tuple[int, frozenset[int]] | None = None  # forgotten before, held

    def before_ms(self) -> int:
        """Days that ended at or before that instant are past their time."""
        return day_to_ms(ms_to_day(self._clock.now_ms()) - self._keep_days)

    async def held(self) -> dict[int, list[int]]:
        """Civil day to the numbers of the holds in force that keep it."""
        holds = self._holds.in_force(self._clock.now_ms())
        return await asyncio.to_thread(days_held, holds, self._days_of) if holds else {}

    async def run(self) -> Forgotten:
        """Forgets what is due. Raises StorageError.

        After an error the keys of those days may be gone while their groups are not yet empty;
        the next run goes on there.
        """
        async with self._running:
            before_ms = self.before_ms()
            held = frozenset(day for day in await self.held() if is_day_over(day, before_ms))
            over = [day for day in self._ring.days() if is_day_over(day, before_ms)]
            due = [day for day in over if day not in held]
            groups, is_noted = 0, False
            try:
                # A restored backup must not bring back what is destroyed from here on.
                now_ms = self._clock.now_ms()
                self._forget_list.add(Entry(at_ms=now_ms, day=day) for day in due)
                is_noted = True
                faults.reach("retention.noted")
            finally:
                try:
                    await self._expire_index(before_ms, held)
                finally:
                    if is_noted:
                        groups = await self._journal.expire(before_ms, held)
                        faults.reach("retention.emptied")
        if groups:
            _log.info("days forgotten", groups=groups)
        return Forgotten(groups=groups, days=due, held=[day for day in over if day in held])

    async def _expire_index(self, before_ms: int, held: frozenset[int]) -> None:
        if self._index is not None and self._index_has != (before_ms, held):
            # A month of scans is derived anew, and the lanes do not wait for that.
            await asyncio.to_thread(self._index.expire, before_ms, held)
            self._index_has = before_ms, held
