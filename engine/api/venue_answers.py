"""Bodies and answers about venues, areas and coverage over the HTTP API; no persons in them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.clock import day_to_date, ms_to_day, ms_to_iso
from engine.desk.venue_questions import AreaInfo, Coverage, Minutes
from engine.registry.records import Category, Code, CodeOrNone, Location, Name, Risk, Room, Text


class VenueAddBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A venue to register; its number is given here. area: code of its commune."""

    name: Name
    category: Category
    area: Code
    address: Text = ""
    default_stay_minutes: Minutes = 0
    rooms: Room = 0
    unit: CodeOrNone = ""
    hours: Text = ""
    risk: Risk = Risk.UNKNOWN
    location: Location = ""


class VenueAddAnswer(msgspec.Struct, frozen=True):
    """code: text to print as a QR code."""

    number: int
    code: str


class AreaAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An area by one of its names. until: last day on which it was called so, null for today.

    now, now_name: what holds today in its place, "" where several areas took it over.
    """

    code: str
    name: str
    kind: str
    parent: str
    until: str | None
    now: str
    now_name: str


class AreasAnswer(msgspec.Struct, frozen=True):
    areas: tuple[AreaAnswer, ...]


class CoverageCounts(msgspec.Struct, frozen=True, kw_only=True):
    """known: places that there are, null without a census. active: registered ones where somebody
    was scanned in the last seven days, null where that was forgotten. Shares in percent, to a
    tenth, rounded down; null where they cannot be told."""

    known: int | None
    registered: int
    active: int | None
    registered_share: float | None
    active_share: float | None


class CoverageRowAnswer(CoverageCounts, frozen=True, kw_only=True):
    """Of a commune and a category."""

    area: str
    area_name: str
    category: str


class CoverageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Coverage at the end of a day, or now. area: what bounds it, "" for the province.

    areas, categories: sums of the rows by commune and by category; all: of all of them. known of a
    sum is that of the rows which have one; its share counts those rows alone.
    """

    day: str
    at: str
    area: str
    all: CoverageCounts
    areas: dict[str, CoverageCounts]
    categories: dict[str, CoverageCounts]
    rows: tuple[CoverageRowAnswer, ...]


_Counts = tuple[int | None, int, int | None]


def coverage_to_answer(found: Coverage) -> CoverageAnswer:
    by_area: dict[str, list[_Counts]] = {}
    by_category: dict[str, list[_Counts]] = {}
    rows = []
    for row in found.rows:
        counts = (row.known, row.registered, row.active)
        by_area.setdefault(row.area, []).append(counts)
        by_category.setdefault(row.category, []).append(counts)
        made = msgspec.structs.asdict(_sum([counts]))
        rows.append(
            CoverageRowAnswer(area=row.area, area_name=row.area_name, category=row.category, **made)
        )
    return CoverageAnswer(
        day=day_to_date(found.day),
        at=ms_to_iso(found.at_ms),
        area=found.area,
        all=_sum([counts for several in by_area.values() for counts in several]),
        areas={area: _sum(counts) for area, counts in by_area.items()},
        categories={category: _sum(counts) for category, counts in by_category.items()},
        rows=tuple(rows),
    )


def _sum(counts: list[_Counts]) -> CoverageCounts:
    of_known = [(known, registered) for known, registered, _ in counts if known is not None]
    known = sum(known for known, _ in of_known) if of_known else None
    registered = sum(registered for _, registered, _ in counts)
    actives = [active for _, _, active in counts if active is not None]
    active = sum(actives) if len(actives) == len(counts) else None
    return CoverageCounts(
        known=known,
        registered=registered,
        active=active,
        registered_share=_share(sum(registered for _, registered in of_known), known),
        active_share=_share(active, registered),
    )


def _share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part * 1000 // whole / 10


def areas_to_answer(areas: Iterable[AreaInfo]) -> AreasAnswer:
    return AreasAnswer(
        tuple(
            AreaAnswer(
                code=area.code,
                name=area.name,
                kind=area.kind,
                parent=area.parent,
                until=None if area.valid_to_ms is None else last_day(area.valid_to_ms),
                now=area.now,
                now_name=area.now_name,
            )
            for area in areas
        )
    )


def last_day(valid_to_ms: int) -> str:
    """The day that ends at, or holds, the last instant before it."""
    return day_to_date(ms_to_day(valid_to_ms - 1))
