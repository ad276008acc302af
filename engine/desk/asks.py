"""Asks: what somebody asked, as the tracer understands it and as the audit may keep it.

An ask names persons by documents and posts by codes; a question has keys and numbers. Both ways of
writing a question down, and what of its answer names places, stand here, away from who may ask.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from engine.clock import DAY_MS
from engine.desk.ask_bases import AskRows
from engine.desk.questions import (
    AskContacts,
    AskNotice,
    AskPerson,
    AskVenue,
    PersonRef,
    PlaceRef,
    Traceable,
    persons_to_keys,
)
from engine.desk.trace_questions import AskPassed, AskRoll, AskTiers, AskVehicle, RollRow
from engine.errors import NotFound, QuestionInvalid
from engine.identity.keys import KeyRing
from engine.payloads.outcome import Refusal
from engine.presence.profiles import profile_at
from engine.presence.visits import Array
from engine.registry import access
from engine.registry.registry import Registry, Venue
from engine.scans.people import holder_to_identity, vehicle_to_canonical
from engine.scans.rows import Direction
from engine.tracing import tracer as tracing
from engine.tracing.notice import Mark, NoticeQuestion
from engine.tracing.passed import PassedQuestion
from engine.tracing.riders import VehicleAnswer, VehicleQuestion
from engine.tracing.roll import Entry, RollAnswer, RollQuestion
from engine.tracing.rows import unpack
from engine.tracing.tiers import TiersAnswer, TiersQuestion
from engine.tracing.tracer import Answer

_DIRECTIONS: Final = {"": Direction.NONE, "in": Direction.IN, "out": Direction.OUT}
_ROWS: Final[dict[type, str]] = {
    tracing.ContactsAnswer: "pairs",
    TiersAnswer: "links",
    RollAnswer: "matches",
}
_decode_rows = msgspec.msgpack.Decoder(tuple[RollRow, ...]).decode


def ask_to_kind(ask: AskRows) -> access.Question:
    return access.Question(str(ask.__struct_config__.tag))


def ask_to_question(
    ask: Traceable, limit: int, registry: Registry, keyring: KeyRing
) -> tracing.Question:
    """Raises QuestionInvalid for what is no number of its kind, NotFound for an unknown post."""
    match ask:
        case AskVenue():
            place = place_number(ask.place, registry)
            return tracing.VenueQuestion(
                place=place, from_ms=ask.from_ms, to_ms=ask.to_ms, after=ask.after, limit=limit
            )
        case AskPerson():
            return tracing.HistoryQuestion(
                persons=persons_to_keys(ask.persons, keyring),
                from_ms=ask.from_ms,
                to_ms=ask.to_ms,
                limit=limit,
            )
        case AskContacts():
            return tracing.ContactsQuestion(
                persons=persons_to_keys(ask.persons, keyring),
                from_ms=ask.from_ms,
                to_ms=ask.to_ms,
                profile=ask.profile or profile_at(ask.to_ms - 1).name,
                min_minutes=ask.min_minutes,
                linger_minutes=ask.linger_minutes,
                risk_level=ask.risk_level,
                limit=limit,
            )
        case AskNotice():
            return NoticeQuestion(
                marks=tuple(
                    Mark(place_number(mark.place, registry), mark.from_ms, mark.to_ms)
                    for mark in ask.marks
                ),
                least=ask.least,
                since=ask.since,
                limit=limit,
            )
        case _:
            return _further(ask, limit, registry, keyring)


def _further(
    ask: AskTiers | AskPassed | AskVehicle | AskRoll,
    limit: int,
    registry: Registry,
    keyring: KeyRing,
) -> tracing.Question:
    span = {"from_ms": ask.from_ms, "to_ms": ask.to_ms, "limit": limit}
    match ask:
        case AskTiers():
            return TiersQuestion(
                **span,
                persons=persons_to_keys(ask.persons, keyring),
                profile=ask.profile or profile_at(ask.to_ms - 1).name,
                min_minutes=ask.min_minutes,
                linger_minutes=ask.linger_minutes,
                latent_hours=ask.latent_hours,
                depth=ask.depth,
                most=ask.most,
            )
        case AskPassed():
            number = place_number(ask.place, registry)
            if isinstance(registry.place(number), Venue):
                raise QuestionInvalid("place: only posts are passed", hint="ask for the venue")
            if ask.came_from and registry.area(ask.came_from) is None:
                raise NotFound("came_from: there is no area of that code")
            area = registry.places_within(ask.came_from) if ask.came_from else None
            return PassedQuestion(
                **span,
                place=number,
                direction=_DIRECTIONS[ask.direction],
                came_from=area,
                within_ms=ask.within_days * DAY_MS,
                after=ask.after,
            )
        case AskVehicle():
            named = vehicle_to_canonical(ask.plate, ask.trip)
            if named is None:
                raise QuestionInvalid("plate, trip: one of both is needed")
            return VehicleQuestion(**span, vehicle=keyring.vehicle_number(*named), after=ask.after)
        case AskRoll():
            return RollQuestion(lambda: rows_to_entries(ask.rows, keyring), **span)


def rows_to_entries(packed: bytes, keyring: KeyRing) -> list[Entry]:
    """Raises QuestionInvalid, which names a row by its position and quotes nothing of it."""
    try:
        rows = _decode_rows(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise QuestionInvalid("rows cannot be read") from None
    return [_row_to_entry(row, keyring) for row in rows]


def _row_to_entry(row: RollRow, keyring: KeyRing) -> Entry:
    sure, is_malformed = [], False
    for document in row.documents:
        key = _document_to_key(document, keyring)
        is_malformed = is_malformed or key is None
        sure += [key] if key else []
    holder = holder_to_identity(row.country.upper(), row.name, row.birth, "")
    unsure: tuple[bytes, ...] = ()
    if not isinstance(holder, Refusal):
        unsure = (keyring.person_key(holder.kind, holder.issuer, holder.canonical),)
    return Entry(tuple(sure), unsure, is_malformed)


def _document_to_key(document: PersonRef, keyring: KeyRing) -> bytes | None:
    """None for what is no number of its kind."""
    try:
        return persons_to_keys([document], keyring)[0]
    except QuestionInvalid:
        return None


def place_number(place: PlaceRef, registry: Registry) -> int:
    """Raises NotFound for the code of no post."""
    if isinstance(place, int):
        return place
    post = registry.post(place)
    if post is None:
        raise NotFound("there is no post of that code")
    return post.number


def parameters(ask: AskRows, question: tracing.Question) -> dict[str, str | int]:
    """What of a question may stand in the audit for ever: never an identifier."""
    found: dict[str, str | int] = {
        "from_ms": question.from_ms,
        "to_ms": question.to_ms,
        "limit": question.limit,
    }
    if isinstance(question, tracing.VenueQuestion):
        found["place"] = question.place
    found |= _further_parameters(ask)
    if isinstance(question, NoticeQuestion):
        found["marks"] = " ".join(f"{m.place}:{m.from_ms}-{m.to_ms}" for m in question.marks)
        found["least"], found["since"] = question.least, question.since
    if isinstance(ask, AskPerson | AskContacts | AskTiers):
        found["kinds"] = " ".join(person.kind for person in ask.persons)
    if isinstance(question, tracing.ContactsQuestion | TiersQuestion):
        found["profile"] = question.profile
        for name in ("min_minutes", "linger_minutes"):
            if (minutes := getattr(question, name)) is not None:
                found[name] = minutes
    return found


def _further_parameters(ask: AskRows) -> dict[str, str | int]:
    """A plate is personal too, so nothing says which; of a page it is enough that it is one."""
    match ask:
        case AskTiers():
            return {"depth": ask.depth, "latent_hours": ask.latent_hours, "most": ask.most}
        case AskPassed():
            found: dict[str, str | int] = {
                "place": ask.place,
                "direction": ask.direction,
                "came_from": ask.came_from,
                "within_days": ask.within_days,
            }
            return {**found, "is_next_page": int(bool(ask.after))}
        case AskVehicle() | AskVenue():
            return {"is_next_page": int(bool(ask.after))}
    return {}


def rows_of(answer: Answer) -> Array:
    """The rows that name places: visits, the evidence for contacts, links, or matches."""
    return unpack(answer.packed, _ROWS.get(type(answer), "visits"))


def refs_of(answer: Answer) -> frozenset[int]:
    """Refs of rows whose details may be fetched for an answer."""
    refs = unpack(answer.packed, "newest").tolist()
    if isinstance(answer, VehicleAnswer):
        # Plate, trip and seat are those of the visits, not of the newest rows.
        refs += unpack(answer.packed, "visits")["ref"].tolist()
    return frozenset(refs)


def places_of(answer: Answer) -> Array:
    """Numbers of all places that the answer names."""
    if isinstance(answer, tracing.NoticeAnswer):
        return np.array([mark.place for mark in answer.marks], "<u4")
    places: Array = rows_of(answer)["place"]
    return places[places > 0]
