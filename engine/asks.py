"""Asks: what somebody asked, as the tracer understands it and as the audit may keep it.

An ask names persons by documents and posts by codes; a question has keys and numbers. Both ways of
writing a question down, and what of its answer names places, stand here, away from who may ask.
"""

from __future__ import annotations

import numpy as np

from engine import access, tracing
from engine.errors import NotFound
from engine.keys import KeyRing
from engine.notice import Mark, NoticeQuestion
from engine.profiles import profile_at
from engine.questions import (
    AskContacts,
    AskNotice,
    AskPerson,
    AskRows,
    AskVenue,
    PlaceRef,
    Traceable,
    persons_to_keys,
)
from engine.registry import Registry
from engine.tracing import Answer
from engine.visits import Array


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
                place=place, from_ms=ask.from_ms, to_ms=ask.to_ms, limit=limit
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
    if isinstance(question, NoticeQuestion):
        found["marks"] = " ".join(f"{m.place}:{m.from_ms}-{m.to_ms}" for m in question.marks)
        found["least"], found["since"] = question.least, question.since
    if isinstance(ask, AskPerson | AskContacts):
        found["kinds"] = " ".join(person.kind for person in ask.persons)
    if isinstance(question, tracing.ContactsQuestion):
        found["profile"] = question.profile
        for name in ("min_minutes", "linger_minutes"):
            if (minutes := getattr(question, name)) is not None:
                found[name] = minutes
    return found


def rows_of(answer: Answer) -> Array:
    """The rows that name places: visits, or the evidence for contacts."""
    is_contacts = isinstance(answer, tracing.ContactsAnswer)
    return tracing.unpack(answer.packed, "pairs" if is_contacts else "visits")


def places_of(answer: Answer) -> Array:
    """Numbers of all places that the answer names."""
    if isinstance(answer, tracing.NoticeAnswer):
        return np.array([mark.place for mark in answer.marks], "<u4")
    places: Array = rows_of(answer)["place"]
    return places
