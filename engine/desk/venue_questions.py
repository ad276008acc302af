"""Questions about venues, areas and coverage, and what is answered; part of engine.desk.questions.

A token is a grant's. Where it may be empty, the asker is the owner of the engine's socket.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from engine.registry.coverage import CoverageRow
from engine.registry.records import Change, Code, CodeOrNone, Name, Number, Risk, Room, Text, Venue

TokenOrNone = Annotated[str, Meta(max_length=256)]
Minutes = Annotated[int, Meta(ge=0, le=1440)]
Door = Annotated[str, Meta(pattern=r"^(in|out)?\Z")]
CODES_MAX = 200_000


class AskAreas(msgspec.Struct, frozen=True, kw_only=True, tag_field="ask", tag="areas"):
    """Areas by code or name, of today or of old; no persons."""

    token: TokenOrNone = ""
    text: Annotated[str, Meta(max_length=64)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50


class AskCoverage(msgspec.Struct, frozen=True, kw_only=True, tag_field="ask", tag="coverage"):
    """Coverage at the end of a civil day (engine.registry.coverage), of an area and what lies in
    it."""

    token: TokenOrNone = ""
    day: Annotated[int, Meta(ge=0, le=100_000)]
    area: CodeOrNone = ""


class AskVenueList(msgspec.Struct, frozen=True, kw_only=True, tag_field="ask", tag="venue_list"):
    """From the owner of the socket only: venues registered at the end of a civil day."""

    day: Annotated[int, Meta(ge=0, le=100_000)]
    area: CodeOrNone = ""


class AddVenue(msgspec.Struct, frozen=True, kw_only=True, tag_field="ask", tag="venue_add"):
    """A new venue, whose number the engine gives; the fields are those of the registry's Venue."""

    token: TokenOrNone = ""
    name: Name
    category: Annotated[str, Meta(max_length=32)]
    area: Code
    address: Text = ""
    default_stay_minutes: Minutes = 0
    rooms: Room = 0
    unit: CodeOrNone = ""
    hours: Text = ""
    risk: Risk = Risk.UNKNOWN
    location: Annotated[str, Meta(max_length=32)] = ""
    created_by: Text = ""


class AskCodes(msgspec.Struct, frozen=True, kw_only=True, tag_field="ask", tag="codes"):
    """From the owner of the socket only: posted codes by venue, room (0: none) and direction."""

    wanted: Annotated[tuple[tuple[Number, Room, Door], ...], Meta(max_length=CODES_MAX)]


class AskHistory(msgspec.Struct, frozen=True, kw_only=True, tag_field="ask", tag="history"):
    """From the owner of the socket only: all records of one thing."""

    kind: Annotated[str, Meta(max_length=32)]
    key: int | Annotated[str, Meta(max_length=512)]


class RotateKey(msgspec.Struct, frozen=True, kw_only=True, tag_field="ask", tag="rotate_key"):
    """From the owner of the socket only: a new key for venue codes; codes of the one before it
    count until old_to_ms."""

    old_to_ms: Annotated[int, Meta(ge=0, le=1 << 60)]


VenueQuestion = AskAreas | AskCoverage | AskVenueList | AddVenue | AskCodes | AskHistory | RotateKey


class AreaInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An area as a record of it says. now, now_name: what holds today in its place, "" for none."""

    code: str
    name: str
    kind: str
    parent: str
    valid_from_ms: int
    valid_to_ms: int | None
    now: str
    now_name: str


class Areas(msgspec.Struct, frozen=True, tag_field="reply", tag="areas"):
    areas: tuple[AreaInfo, ...]


class Coverage(msgspec.Struct, frozen=True, tag_field="reply", tag="coverage"):
    """area: what bounds the rows, "" for nothing. at_ms: the instant that was looked at."""

    day: int
    at_ms: int
    area: str
    rows: tuple[CoverageRow, ...]


class ListedVenue(msgspec.Struct, frozen=True, kw_only=True):
    """A venue and the names around it. area: code of what holds in place of its area then."""

    venue: Venue
    written_ms: int
    area: str
    area_name: str
    unit_name: str


class VenueList(msgspec.Struct, frozen=True, tag_field="reply", tag="venue_list"):
    """In the order of their numbers."""

    venues: tuple[ListedVenue, ...]


class VenueAdded(msgspec.Struct, frozen=True, tag_field="reply", tag="venue_added"):
    """code: text of the posted code."""

    number: int
    code: str


class Codes(msgspec.Struct, frozen=True, tag_field="reply", tag="codes"):
    """In the order in which they were asked for."""

    texts: tuple[str, ...]


class Written(msgspec.Struct, frozen=True):
    """A record of the registry, when it was written and by whom."""

    change: Change
    at_ms: int
    by: str


class History(msgspec.Struct, frozen=True, tag_field="reply", tag="history"):
    entries: tuple[Written, ...]


class KeyRotated(msgspec.Struct, frozen=True, tag_field="reply", tag="key_rotated"):
    """number: of the key that makes codes now."""

    number: int


VenueReply = Areas | Coverage | VenueList | VenueAdded | Codes | History | KeyRotated
