"""Retention: days that are over long enough are forgotten, on schedule and without being asked.

The index drops what it derived from the day's groups; the journal destroys the day's keys and
empties the groups, even while the disk refuses the first. Both may be repeated. What arrives later
for such a day is refused by the pipeline.
"""

from __future__ import annotations

import asyncio

from engine.clock import Clock, day_to_ms, ms_to_day
from engine.index import CoLocationIndex
from engine.journal import Journal
from engine.telemetry import Log

_log = Log("retention")


class Retention:
    """keep_days: civil days that are kept besides today."""

    def __init__(
        self, journal: Journal, index: CoLocationIndex, clock: Clock, keep_days: int
    ) -> None:
        self._journal = journal
        self._index = index
        self._clock = clock
        self._keep_days = keep_days
        self._index_before_ms = 0  # what the index has forgotten already

    async def run(self) -> int:
        """Forgets what is due; the number of groups emptied. Raises StorageError.

        After an error the keys of those days may be gone while their groups are not yet empty;
        the next run goes on there.
        """
        before_ms = day_to_ms(ms_to_day(self._clock.now_ms()) - self._keep_days)
        try:
            # The index first: what it has in files is sealed with the keys that go.
            if before_ms > self._index_before_ms:
                await asyncio.to_thread(self._index.expire, before_ms)
                self._index_before_ms = before_ms
        finally:
            groups = await self._journal.expire(before_ms)
        if groups:
            _log.info("days forgotten", groups=groups)
        return groups
