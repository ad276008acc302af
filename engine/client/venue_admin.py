"""The owner's side of the engine's socket for venues: register, list, revoke, rotate, count."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.api.venue_answers import CoverageAnswer, coverage_to_answer
from engine.client import admin
from engine.client.admin import Owner
from engine.clock import SystemClock, day_to_date, ms_to_day, ms_to_iso
from engine.desk.questions import RegistryTaken
from engine.desk.venue_questions import (
    AddVenue,
    AskCodes,
    AskCoverage,
    AskHistory,
    AskVenueList,
    Codes,
    Coverage,
    History,
    KeyRotated,
    RotateKey,
    VenueAdded,
    VenueList,
)
from engine.errors import NotFound, RegistryInvalid
from engine.payloads.venue import ISSUE_MAX
from engine.registry.files import read_list
from engine.registry.records import Post, Venue
from engine.registry.tables import Line

LIST_COLUMNS: Final = (
    *("unit", "unit_name", "area", "area_name", "number", "name", "category", "address"),
    *("issue", "registered", "created_by"),
)
_FIRST_NUMBER: Final = 1001  # as engine.desk.venue_desk gives them
_NUMBER: Final = re.compile(r"[0-9]{1,9}")


async def resolve_area(owner: Owner, text: str) -> str:
    """The code of an area by code or name, of today or of old.

    Raises NotFound for a name that none or several have.
    """
    found = await admin.areas(owner, text)
    codes = list(dict.fromkeys(area.code for area in found))
    if text in codes or len(codes) == 1:
        return text if text in codes else codes[0]
    if not codes:
        raise NotFound("there is no area of that code or name", hint="chot registry find NAME")
    raise NotFound("several areas are called so", hint=f"give a code: {', '.join(codes[:8])}")


async def add_venue(owner: Owner, **fields: Any) -> VenueAdded:
    """fields: of AddVenue."""
    return await admin.ask(owner, AddVenue(**fields), VenueAdded)


async def codes(owner: Owner, wanted: Sequence[tuple[int, int, str]]) -> tuple[str, ...]:
    """Texts of posted codes by venue, room and direction ("", "in", "out")."""
    return (await admin.ask(owner, AskCodes(wanted=tuple(wanted)), Codes)).texts


async def coverage(owner: Owner, day: int | None, area: str) -> CoverageAnswer:
    """day: None for today, up to now."""
    ask = AskCoverage(day=_today() if day is None else day, area=area)
    return coverage_to_answer(await admin.ask(owner, ask, Coverage))


async def venue_rows(owner: Owner, day: int | None, area: str) -> list[tuple[str, ...]]:
    """The list of registered venues by unit and area, with its heading (VE-6)."""
    ask = AskVenueList(day=_today() if day is None else day, area=area)
    listed = (await admin.ask(owner, ask, VenueList)).venues
    rows = [
        (
            found.venue.unit, found.unit_name, found.area, found.area_name,
            str(found.venue.number), found.venue.name, str(found.venue.category),
            found.venue.address, str(found.venue.issue),
            day_to_date(ms_to_day(found.written_ms)) if found.written_ms else "",
            found.venue.created_by,
        )
        for found in listed
    ]  # fmt: skip
    return [LIST_COLUMNS, *sorted(rows, key=lambda row: (row[0], row[2], int(row[4])))]


async def listed_numbers(owner: Owner, area: str) -> set[int]:
    """Numbers of the venues that have a code now, in an area and what lies in it."""
    listed = await admin.ask(owner, AskVenueList(day=_today(), area=area), VenueList)
    return {found.venue.number for found in listed.venues}


async def venue_history(owner: Owner, number: int) -> list[dict[str, Any]]:
    """What each record of a venue said, when it was written and by whom. Raises NotFound."""
    found = (await admin.ask(owner, AskHistory(kind="venue", key=number), History)).entries
    if not found:
        raise NotFound(f"there is no venue {number}")
    return [
        {
            "written": ms_to_iso(entry.at_ms) if entry.at_ms else "",
            "by": entry.by,
            **msgspec.to_builtins(entry.change),
        }
        for entry in found
    ]


# ---- codes --------------------------------------------------------------------------------------


async def revoke_venues(owner: Owner, numbers: Collection[int]) -> RegistryTaken:
    """Their posted codes count no more from now on."""
    venues = await _newest(owner, numbers)
    changes = [
        msgspec.structs.replace(venue, is_revoked=True, valid_from_ms=_from_now(venue))
        for venue in venues
        if not venue.is_revoked
    ]
    taken = await admin.change(owner, changes) if changes else RegistryTaken(0, 0)
    return RegistryTaken(taken.written, len(venues) - taken.written)


async def rotate_venues(
    owner: Owner, numbers: Collection[int], old_to_ms: int | None
) -> list[Venue]:
    """A new issue of each; what hung before counts until old_to_ms, without it no more.

    Raises RegistryInvalid for a venue that had as many issues as a code has room for.
    """
    changes = []
    for venue in await _newest(owner, numbers):
        if venue.issue >= ISSUE_MAX:
            raise RegistryInvalid(
                f"venue {venue.number} had {ISSUE_MAX} issues",
                hint="register it under a new number",
            )
        changes.append(
            msgspec.structs.replace(
                venue,
                issue=venue.issue + 1,
                old_valid_to_ms=0 if old_to_ms is None or venue.is_revoked else old_to_ms,
                is_revoked=False,
                valid_from_ms=_from_now(venue),
            )
        )
    await admin.change(owner, changes)
    return changes


async def rotate_key(owner: Owner, old_to_ms: int) -> int:
    """Number of the new key."""
    return (await admin.ask(owner, RotateKey(old_to_ms=old_to_ms), KeyRotated)).number


async def _newest(owner: Owner, numbers: Collection[int]) -> list[Venue]:
    venues = {v.number: v for v in await admin.records(owner, "venue") if isinstance(v, Venue)}
    unknown = [str(number) for number in numbers if number not in venues]
    if unknown:
        raise NotFound(f"there is no venue {', '.join(unknown)}")
    return [venues[number] for number in dict.fromkeys(numbers)]


def _from_now(venue: Venue) -> int:
    return max(SystemClock().now_ms(), venue.valid_from_ms)


def _today() -> int:
    return ms_to_day(SystemClock().now_ms())


# ---- lists that were not written for us ---------------------------------------------------------


async def import_venues(owner: Owner, source: Path) -> RegistryTaken:
    """One list of venues; lines without a number get one. All of it is taken or nothing.

    A line without a number whose name and area a venue has changes nothing, so the same list may
    come again. Raises RegistryInvalid with every fault.
    """
    venues = [v for v in await admin.records(owner, "venue") if isinstance(v, Venue)]
    posts = [p for p in await admin.records(owner, "post") if isinstance(p, Post)]
    taken_numbers = [v.number for v in venues] + [p.number for p in posts]
    numbers = NumberGiver(venues, taken_numbers)
    read = await asyncio.to_thread(read_list, source, "venues", numbers.fill)
    taken = await admin.take(owner, read, numbers.fresh)
    return RegistryTaken(taken.written, taken.known + numbers.known_lines)


class NumberGiver:
    """Numbers for the lines of a list of venues that have none.

    fresh: those that are new. known_lines: how many lines were left out, being there already.
    """

    def __init__(self, venues: Iterable[Venue], taken: Iterable[int]) -> None:
        self._known = {(v.name.casefold(), v.area) for v in venues}
        self._last = max([*taken, _FIRST_NUMBER - 1])
        self.fresh: list[int] = []
        self.known_lines = 0

    def fill(self, lines: list[Line]) -> list[Line]:
        """The lines with numbers, without those that name a venue that is there."""
        if not lines:
            return lines
        columns = [cell.lower() for cell in lines[0][1]]
        if "number" not in columns:
            columns = ["number", *columns]
            lines = [(n, ["", *cells]) for n, cells in lines]
        if not {"name", "area"} <= set(columns):
            return [(lines[0][0], columns)]  # what is missing is said where columns are judged
        at, name, area = (columns.index(column) for column in ("number", "name", "area"))
        given = [cells[at] for _, cells in lines[1:] if at < len(cells)]
        self._last = max([self._last, *(int(g) for g in given if _NUMBER.fullmatch(g))])
        filled: list[Line] = [(lines[0][0], columns)]
        for n, cells in lines[1:]:
            if len(cells) == len(columns) and not cells[at]:
                if (cells[name].casefold(), cells[area]) in self._known:
                    self.known_lines += 1
                    continue
                self._last += 1
                self.fresh.append(self._last)
                cells = [*cells[:at], str(self._last), *cells[at + 1 :]]
            filled.append((n, cells))
        return filled
