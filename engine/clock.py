"""The clock seam, and the civil days of Việt Nam.

Every module that needs the time takes a Clock; nothing else calls `time`. Instants are whole
milliseconds since 1970-01-01 UTC (`_ms`), spans measured on the monotonic clock are nanoseconds.
A day is a civil day of Asia/Ho_Chi_Minh: UTC+7 all year, no summer time since 1975.
"""

from __future__ import annotations

import datetime
import functools
import time
from typing import Protocol

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MINUTE_MS = 60_000
TZ_OFFSET_MS = 7 * HOUR_MS
VIETNAM = datetime.timezone(datetime.timedelta(hours=7), "Asia/Ho_Chi_Minh")


class Clock(Protocol):
    def now_ms(self) -> int:
        """Wall clock, ms since the epoch."""

    def monotonic_ns(self) -> int:
        """Never goes back; differences only."""


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


class ManualClock:
    """A clock that tests move by hand."""

    def __init__(self, now_ms: int = 1_625_097_600_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_ns(self) -> int:
        return self._now_ms * 1_000_000

    def advance(self, span_ms: int) -> None:
        self._now_ms += span_ms


def ms_to_day(instant_ms: int) -> int:
    """Civil day number in Việt Nam: 0 is 1970-01-01."""
    return (instant_ms + TZ_OFFSET_MS) // DAY_MS


def day_to_ms(day: int) -> int:
    """First instant of a civil day, ms since the epoch."""
    return day * DAY_MS - TZ_OFFSET_MS


def day_to_date(day: int) -> str:
    """2021-07-01 for a day number."""
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()


def date_to_day(date: str) -> int:
    """Day number of 2021-07-01. Raises ValueError."""
    return (datetime.date.fromisoformat(date) - datetime.date(1970, 1, 1)).days


def ms_to_iso(instant_ms: int) -> str:
    """2021-07-01T08:30:00.000+07:00."""
    minute, ms = divmod(int(instant_ms) + TZ_OFFSET_MS, MINUTE_MS)  # it may be one of numpy's
    second, ms = divmod(ms, 1000)
    return f"{_minute_to_iso(minute)}:{second:02}.{ms:03}+07:00"


@functools.lru_cache(4096)  # answers name the same minutes again and again
def _minute_to_iso(minute: int) -> str:
    """2021-07-01T08:30, of local minutes since 1970."""
    day, of_day = divmod(minute, DAY_MS // MINUTE_MS)
    return f"{day_to_date(day)}T{of_day // 60:02}:{of_day % 60:02}"


def iso_to_ms(text: str) -> int:
    """Instant of an ISO 8601 time; without an offset it is local time in Việt Nam.

    Raises ValueError.
    """
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=VIETNAM)
    return round(moment.timestamp() * 1000)
