"""Body and answer of tiers over the HTTP API: whom a case can have infected, through whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from engine.api.answers import (
    PersonAnswer,
    PersonBody,
    TraceAnswer,
    minutes,
    place_names,
    trace_fields,
)
from engine.clock import ms_to_iso
from engine.desk.questions import Traced
from engine.presence.contacts import PairFlag
from engine.presence.profiles import ContactProfile
from engine.scans.people import Details
from engine.tracing.rows import unpack
from engine.tracing.tiers import EVER, MOST, TiersAnswer


class TiersBody(PersonBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom can this person have infected, directly or through others?"""

    profile: Annotated[str, Meta(max_length=64, description="contact profile; see docs")] = ""
    min_minutes: Annotated[int, Meta(ge=0, le=1440)] | None = None
    linger_minutes: Annotated[int, Meta(ge=0, le=1440)] | None = None
    latent_hours: Annotated[
        int, Meta(ge=0, le=336, description="from being infected to being infectious")
    ] = 0
    depth: Annotated[int, Meta(ge=1, le=5, description="how many tiers: 2 is F1 and F2")] = 2
    most: Annotated[
        int, Meta(ge=1, le=1 << 32, description="no tier behind one with more persons")
    ] = MOST


class TierAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A person of a tier, the case being tier 0.

    infected: when it can have been infected first by so few meetings; earliest: by any chain of at
    most as many meetings as were asked for. Empty for the case. via: the person of a lower tier
    that it spent most time with, and where they met first; empty for the case.
    """

    person: str
    name: str
    tier: int
    infected: str
    infected_ms: int | None
    earliest: str
    earliest_ms: int | None
    via: str
    via_name: str
    minutes: float
    place: int | None
    place_name: str


class LinkAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Meetings at which one person can have infected another. Handles stand in `people`.

    minutes: together, from when on the source was infectious. place: of the first of the meetings.
    """

    source: str
    target: str
    minutes: float
    meetings: int
    first: str
    first_ms: int
    last: str
    last_ms: int
    place: int
    place_name: str
    flags: tuple[str, ...]


class TiersTraceAnswer(TraceAnswer, frozen=True, kw_only=True):
    """Answer to "tiers": nodes (`people`) and edges (`links`) of the transmission graph.

    counts: how many persons each tier has, the case first, listed or not. reached: the last tier
    that was looked for; asked for more, but that one had more persons than `most`. links_cut: there
    are more links among those listed.
    """

    profile: ContactProfile
    counts: tuple[int, ...]
    reached: int
    people: tuple[TierAnswer, ...]
    links: tuple[LinkAnswer, ...]
    links_cut: bool


def tiers_to_answer(
    traced: Traced, details: Sequence[Details | None], is_masked: bool
) -> TiersTraceAnswer:
    """details: of each person of the answer, in the same order. Raises ServiceError."""
    answer = traced.answer
    assert isinstance(answer, TiersAnswer)
    common, names = trace_fields(traced, details, is_masked), place_names(traced)
    persons: Sequence[PersonAnswer] = common["persons"]
    tiers = unpack(answer.packed, "tiers").tolist()
    links = tuple(_link(link, persons, names) for link in unpack(answer.packed, "links"))
    best: dict[str, LinkAnswer] = {}
    for link in links:
        best.setdefault(link.target, link)
    by_handle = {person.person: person for person in persons}
    people = []
    for infected_ms, earliest_ms, position, tier, _ in tiers:
        person = persons[position]
        via = best.get(person.person)
        people.append(
            TierAnswer(
                person=person.person,
                name=person.name,
                tier=tier,
                infected=_iso(infected_ms),
                infected_ms=_ms(infected_ms),
                earliest=_iso(earliest_ms),
                earliest_ms=_ms(earliest_ms),
                via=via.source if via else "",
                via_name=by_handle[via.source].name if via else "",
                minutes=via.minutes if via else 0.0,
                place=via.place if via else None,
                place_name=via.place_name if via else "",
            )
        )
    return TiersTraceAnswer(
        **common,
        question="tiers",
        profile=answer.profile,
        counts=answer.counts,
        reached=answer.reached,
        people=tuple(people),
        links=links,
        links_cut=answer.links_cut,
    )


def _link(row: np.void, persons: Sequence[PersonAnswer], names: dict[int, str]) -> LinkAnswer:
    first_ms, last_ms, place = int(row["first_ms"]), int(row["last_ms"]), int(row["place"])
    flags = int(row["flags"])
    return LinkAnswer(
        source=persons[int(row["source"])].person,
        target=persons[int(row["target"])].person,
        minutes=minutes(int(row["time_ms"])),
        meetings=int(row["meetings"]),
        first=ms_to_iso(first_ms),
        first_ms=first_ms,
        last=ms_to_iso(last_ms),
        last_ms=last_ms,
        place=place,
        place_name=names[place],
        flags=("same_vehicle",) if flags & PairFlag.SAME_VEHICLE else (),
    )


def _iso(instant_ms: int) -> str:
    return "" if instant_ms == EVER else ms_to_iso(instant_ms)


def _ms(instant_ms: int) -> int | None:
    return None if instant_ms == EVER else instant_ms
