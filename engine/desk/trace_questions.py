"""Questions about tiers, passages, vehicles, rolls and counts; part of engine.desk.questions."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.desk.ask_bases import After, Ask, AskPersons, Instant, PersonRef, PlaceRef, Word


class AskTiers(AskPersons, frozen=True, kw_only=True, tag="tiers"):
    """Q4, Q11; the fields are those of engine.tracing.tiers.TiersQuestion."""

    persons: Annotated[tuple[PersonRef, ...], Meta(min_length=1, max_length=16)]
    profile: Word = ""
    min_minutes: Annotated[int, Meta(ge=0, le=1440)] | None = None
    linger_minutes: Annotated[int, Meta(ge=0, le=1440)] | None = None
    latent_hours: Annotated[int, Meta(ge=0, le=1000)] = 0
    depth: Annotated[int, Meta(ge=1, le=5)] = 2
    most: Annotated[int, Meta(ge=1, le=1 << 32)] = 50_000


class AskPassed(AskPersons, frozen=True, kw_only=True, tag="passed"):
    """Q6. direction: "" for both. came_from: code of an area, "" for from wherever."""

    place: PlaceRef
    direction: Literal["", "in", "out"] = ""
    came_from: Word = ""
    within_days: Annotated[int, Meta(ge=1, le=60)] = 14
    after: After = ""


class AskVehicle(AskPersons, frozen=True, kw_only=True, tag="vehicle"):
    """Q7, by the plate or, where scans named none, the trip."""

    plate: Word = ""
    trip: Word = ""
    after: After = ""


class RollRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a list: documents of one person, and what a health pass says of its holder."""

    documents: Annotated[tuple[PersonRef, ...], Meta(max_length=8)] = ()
    name: Annotated[str, Meta(max_length=120)] = ""
    birth: Annotated[str, Meta(max_length=10)] = ""
    country: Annotated[str, Meta(max_length=3)] = ""


class AskRoll(AskPersons, frozen=True, kw_only=True, tag="roll"):
    """Q9. rows: RollRow each, as msgpack: whoever receives a question does not read them there."""

    rows: Annotated[bytes, Meta(max_length=8 << 20)]


class AskCounts(Ask, frozen=True, kw_only=True, tag="counts"):
    """Q12: visits and passages that began, in cells of time and by a kind of group."""

    from_ms: Instant
    to_ms: Instant
    by: Literal["hour", "day"] = "hour"
    group: Literal["place", "lane", "area", "kind"] = "place"
    limit: Annotated[int, Meta(ge=1, le=100_000)] = 10_000


class CountRows(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="counts"):
    """rows: COUNT of engine.tracing.counts, packed, for the whole cells [from_ms, to_ms).

    names: what the groups of the rows are, a place, the code of an area or a kind of place. next:
    instant from which to ask on, None when everything is there. rounded: counts are multiples of
    that, 1 for exact ones.
    """

    rows: bytes
    from_ms: int
    to_ms: int
    by: str
    group: str
    names: dict[int, str]
    next_ms: int | None
    rounded: int
    complete_lsn: int
    area: str
