"""Opening hours: what a person writes, and the span of each weekday that it means. Pure.

A part of the opening_hours of OpenStreetMap, with Vietnamese names of days as well:

    07:00-22:00                               every day
    Mo-Fr 07:00-11:30,13:30-17:00; Sa 07:00-11:30
    T2-T6 07:00-17:00; T7 07:00-11:30; CN off
    18:00-02:00                               past midnight
    24/7                                      never closed

A later part overrides an earlier one. Of several spans of a day only the first opening and the last
closing count: nobody is sent home over a lunch break. A vehicle's spans are its trips.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Final

DAY_MINUTES: Final = 1440
# (opening, closing) in minutes from the day's beginning, Monday first; closing is the later one and
# lies beyond 1440 where that is on the next day. CLOSED for a day without a closing time: not open
# at all, or open all day.
Week = tuple[tuple[int, int], ...]
CLOSED: Final = (0, 0)

_DAYS: Final = {
    name: day
    for names in (("mo", "tu", "we", "th", "fr", "sa", "su"), ("t2", "t3", "t4", "t5", "t6", "t7"))
    for day, name in enumerate(names)
} | {"cn": 6}
_TIME: Final = re.compile(r"([01]?\d|2[0-4])(?::|h)([0-5]\d)?")
_SIZE_MAX: Final = 200


def text_to_week(text: str) -> Week | None:
    """Seven spans; None for a place that says nothing of its hours or never closes.

    Raises ValueError with what is wrong in it.
    """
    week = [_around(spans) for spans in _read(text)]
    return tuple(week) if any(span != CLOSED for span in week) else None


def text_to_trips(text: str) -> tuple[Week, ...]:
    """Of a vehicle, whose spans are its trips: a week for the first of each day, for the second and
    so on; none where it says nothing of them. Raises ValueError."""
    days = [[span for span in spans if _around([span]) != CLOSED] for spans in _read(text)]
    return tuple(zip_longest(*days, fillvalue=CLOSED))


def _read(text: str) -> list[list[tuple[int, int]]]:
    """The spans of each weekday."""
    if len(text) > _SIZE_MAX:
        raise ValueError("hours are too long")
    week: list[list[tuple[int, int]]] = [[] for _ in range(7)]
    if not text.strip() or text.strip() == "24/7":
        return week
    for part in text.lower().split(";"):
        days, words = _split(part.split())
        spans = [] if words in ("off", "nghỉ") else _to_spans(words)
        for day in days:
            week[day] = spans
    return week


def _around(spans: list[tuple[int, int]]) -> tuple[int, int]:
    """From the first opening to the last closing."""
    if not spans or spans[-1][1] - spans[0][0] >= DAY_MINUTES:
        return CLOSED
    return spans[0][0], spans[-1][1]


def _split(words: list[str]) -> tuple[list[int], str]:
    """The days of a part and what it says of them."""
    if not words:
        raise ValueError("hours: a part is empty")
    if words[0][0].isdigit() or words[0] in ("off", "nghỉ"):
        return list(range(7)), "".join(words)
    return list(_to_days(words[0])), "".join(words[1:])


def _to_days(text: str) -> Iterator[int]:
    for piece in text.split(","):
        first, dash, last = piece.partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise ValueError(f"hours: {piece[:20]!r} is no day; days are Mo Tu We Th Fr Sa Su")
        end = _DAYS[last] if dash else _DAYS[first]
        for step in range((end - _DAYS[first]) % 7 + 1):
            yield (_DAYS[first] + step) % 7


def _to_spans(text: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for piece in text.split(","):
        begin, _, end = piece.partition("-")
        first, last = _to_minutes(begin), _to_minutes(end)
        if first < (found[-1][1] if found else 0) or first == DAY_MINUTES:
            raise ValueError(f"hours: {piece[:20]!r} begins before the span ahead of it ends")
        found.append((first, last if last > first else last + DAY_MINUTES))
    return found


def _to_minutes(text: str) -> int:
    found = _TIME.fullmatch(text)
    minutes = int(found[1]) * 60 + int(found[2] or 0) if found else DAY_MINUTES + 1
    if minutes > DAY_MINUTES:
        raise ValueError(f"hours: {text[:20]!r} is no time such as 07:30")
    return minutes
