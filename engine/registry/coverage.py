"""Coverage: how many of the places that there are have a code, and how many of those are scanned.

Registered: the venue's record was written by then, holds at that instant and its code is not
revoked. Active: registered, and somebody was scanned there within the last seven days, because a
printed code that nobody scans is not coverage (VE-3). Known: what a census says, where there is
one. Venues are counted where their area belongs at that instant, whatever it was called before.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Container
from typing import Final, NamedTuple

from engine.registry.registry import Category, Census, Registry, Venue

ACTIVE_DAYS: Final = 7


class CoverageRow(NamedTuple):
    """Of one area and category. known, active: None where nobody knows."""

    area: str
    area_name: str
    category: Category
    known: int | None
    registered: int
    active: int | None


def registered_venues(registry: Registry, at_ms: int, within: str = "") -> list[Venue]:
    """Those with a code at the instant, in an area, in the order of their numbers."""
    lies_in = functools.cache(lambda area: registry.area_within(area, within, at_ms))
    found = [
        venue
        for venue in registry.entries("venue", at_ms)
        if isinstance(venue, Venue)
        and not venue.is_revoked
        and registry.written_ms("venue", venue.number) <= at_ms
        and lies_in(venue.area)
    ]
    return sorted(found, key=lambda venue: venue.number)


def cover(
    registry: Registry, at_ms: int, active: Container[int] | None, within: str = ""
) -> list[CoverageRow]:
    """Rows by area and category, in the order of the areas' codes.

    active: numbers of places with a scan in the last ACTIVE_DAYS; None where that was forgotten.
    """
    registered: Counter[tuple[str, Category]] = Counter()
    scanned: Counter[tuple[str, Category]] = Counter()
    known: Counter[tuple[str, Category]] = Counter()
    area_now = functools.cache(lambda area: _area_now(registry, area, at_ms))
    for venue in registered_venues(registry, at_ms, within):
        key = (area_now(venue.area), venue.category)
        registered[key] += 1
        scanned[key] += active is not None and venue.number in active
    for census in registry.entries("census", at_ms):
        assert isinstance(census, Census)
        if registry.area_within(census.area, within, at_ms):
            known[area_now(census.area), census.category] += census.count
    return [
        CoverageRow(
            area=area,
            area_name=_area_name(registry, area, at_ms),
            category=category,
            known=known.get((area, category)),
            registered=registered[area, category],
            active=None if active is None else scanned[area, category],
        )
        for area, category in sorted({*registered, *known})
    ]


def _area_now(registry: Registry, code: str, at_ms: int) -> str:
    area = registry.areas.now(code, at_ms)
    return area.code if area else code


def _area_name(registry: Registry, code: str, at_ms: int) -> str:
    area = registry.areas.last(code, at_ms)
    return area.name if area else ""
