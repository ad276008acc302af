"""Retention: days that are over long enough are forgotten, on schedule and without being asked.

The journal destroys the day's keys and empties its groups; the index drops what it derived from
them. Both may be repeated. What arrives later for such a day is refused by the pipeline.
"""

from __future__ import annotations

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

    async def run(self) -> int:
        """Forgets what is due; the number of groups emptied. Raises StorageUnavailable."""
        before_ms = day_to_ms(ms_to_day(self._clock.now_ms()) - self._keep_days)
        groups = await self._journal.expire(before_ms)
        if groups:
            self._index.expire(before_ms)
            _log.info("days forgotten", groups=groups)
        return groups
