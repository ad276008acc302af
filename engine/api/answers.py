"""Bodies and answers of the HTTP API as structs, and the way from packed arrays to them.

The structs are the API: OpenAPI is generated from them (engine.api.openapi), and docs/api.md says
in words what they mean. A time stands twice, as ISO 8601 with +07:00 and as ms since the epoch.
Person handles are pseudonyms; names come from sealed details and are masked unless the question
asked otherwise and its role may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from engine.clock import day_to_date, iso_to_ms, ms_to_iso
from engine.colocation.figures import PASSAGE_FIGURE, PLACE_FIGURE
from engine.desk.questions import (
    SUPPRESSED,
    Delivered,
    Figures,
    PersonRef,
    PlaceInfo,
    Traced,
    key_to_handle,
)
from engine.errors import QuestionInvalid
from engine.presence.profiles import ContactProfile
from engine.scans import people
from engine.scans.people import Details
from engine.scans.record_lines import Line
from engine.tracing import tracer as tracing
from engine.tracing.rows import (
    DIRECTIONS,
    ContactRow,
    PairRow,
    VisitRow,
    contact_rows,
    visit_rows,
)
from engine.tracing.tracer import KEY_SIZE

LIMIT_DEFAULT: Final = 1000
RECORDS_MAX: Final = 256  # of one POST /v1/ingest
ROWS_MAX: Final = 10_000
WHEN_MAX_MS: Final = 1 << 45  # the years 855 to 3084: what ISO 8601 has four digits for

When = Annotated[
    int | str, Meta(description="ms since 1970, or ISO 8601; local time where no offset is given")
]
Limit = Annotated[int, Meta(ge=1, le=ROWS_MAX, description="rows at most; see limit_cut")]
CASE = Meta(max_length=64, description="number of the case or notice, for example BN-1234")
PURPOSE = Meta(max_length=64, description="why: case or notice")

# ---- bodies -------------------------------------------------------------------------------------


class TraceBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every question about persons carries. The span is half open, [from, to)."""

    purpose: Annotated[str, PURPOSE] = ""
    case: Annotated[str, CASE] = ""
    start: When = msgspec.field(name="from")
    end: When = msgspec.field(name="to")
    limit: Limit = LIMIT_DEFAULT
    unmasked: Annotated[bool, Meta(description="full names; for roles that call people")] = False
    all_rows: Annotated[
        bool, Meta(description="of an answer as text/csv every row in place of `limit`")
    ] = False


After = Annotated[
    str, Meta(max_length=64, description="`next` of an earlier answer: the rows behind it")
]


class VenueBody(TraceBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who was at this place between these times?"""

    place: Annotated[
        int | Annotated[str, Meta(max_length=32)],
        Meta(description="number of a venue or post, or a post's code"),
    ]
    after: After = ""


class PersonBody(TraceBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where was this person between these times?"""

    person: PersonRef
    aliases: Annotated[
        tuple[PersonRef, ...], Meta(max_length=15, description="other documents of this person")
    ] = ()


class ContactsBody(PersonBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who met this person, for how many minutes, and where?"""

    profile: Annotated[str, Meta(max_length=64, description="contact profile; see docs")] = ""
    min_minutes: Annotated[int, Meta(ge=0, le=1440)] | None = None
    linger_minutes: Annotated[int, Meta(ge=0, le=1440)] | None = None
    risk_level: Annotated[int, Meta(ge=1, le=8, description="of the case, for the profile CWA")] = 5


class IngestBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Records as a gateway's JSON lines have them; none at all consumes the number alike."""

    records: Annotated[tuple[Line, ...], Meta(max_length=RECORDS_MAX)]


# ---- answers ------------------------------------------------------------------------------------


class ErrorInfo(msgspec.Struct, frozen=True):
    """code is stable and documented; message and hint are for people."""

    code: str
    message: str
    hint: str = ""


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The one shape of every failure."""

    error: ErrorInfo


class VerdictAnswer(msgspec.Struct, frozen=True):
    """What a lane shows of record n. reason: of refused and alert. name: masked."""

    n: int
    lane: int
    verdict: str
    reason: str = ""
    name: str = ""


class FaultAnswer(msgspec.Struct, frozen=True):
    """Record n was not taken and will not be: code as of a failure. The others were."""

    n: int
    code: str
    message: str


class IngestAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt: everything that came under this key is durable, once.

    verdicts: of each record at a post and of each refused one, as when it first came.
    """

    key: str
    verdicts: tuple[VerdictAnswer, ...]
    faults: tuple[FaultAnswer, ...]


class PlaceAnswer(msgspec.Struct, frozen=True):
    """kind: "post", or the venue's category. code: of a post. default_stay_until: "noon" or "trip"
    where that ends a stay and not the minutes, else ""."""

    number: int
    name: str
    kind: str
    area: str
    code: str
    default_stay_minutes: int
    default_stay_until: str


class PersonAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A person of an answer. Fields without a value are left empty; see `masked` of the answer.

    doc: kind and number of the document, only its end while masked. issuer, signature: of a health
    pass. Masked answers have neither address nor day of birth, nor health: what the pass says.
    """

    person: str
    name: str = ""
    phone: str = ""
    doc: str = ""
    birth: str = ""
    sex: str = ""
    address: str = ""
    issuer: str = ""
    signature: str = ""
    health: str = ""


class VisitAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A stay at a venue or a passage through a post, [start, end).

    end_rule says where the end comes from: observed (a check-out), inferred_next (the person
    appeared elsewhere), closing (the place closed), default (its usual stay) or capped (cut to the
    longest stay).
    """

    person: str
    name: str
    place: int
    place_name: str
    room: int
    start: str
    start_ms: int
    end: str
    end_ms: int
    minutes: float
    end_rule: str
    start_inferred: bool
    is_passage: bool
    direction: str
    scans: int


class MeetingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One place and time that the case and the contact shared: the evidence.

    minutes: together; linger_minutes: the contact there after the case had left.
    """

    place: int
    place_name: str
    minutes: float
    linger_minutes: float
    case_start: str
    case_start_ms: int
    case_end: str
    case_end_ms: int
    case_end_rule: str
    case_room: int
    other_start: str
    other_start_ms: int
    other_end: str
    other_end_ms: int
    other_end_rule: str
    other_room: int
    flags: tuple[str, ...]


class ContactAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who met the case; a person decides what that means.

    tier: candidate (enough minutes, or one vehicle) or queue (beside each other at a post).
    minutes: together at venues; best_minutes: the most within the profile's window.
    """

    person: str
    name: str
    tier: str
    minutes: float
    linger_minutes: float
    best_minutes: float
    queue_minutes: float
    venues: int
    first: str
    first_ms: int
    last: str
    last_ms: int
    flags: tuple[str, ...]
    meetings: tuple[MeetingAnswer, ...]


class Completeness(msgspec.Struct, frozen=True):
    """Every scan that had reached the engine before `up_to` is in the answer.

    group: the last group of the scan log in it. behind: gateways whose scans may still be on their
    way, because they are not connected or hold some back; seconds of the oldest known one.
    kept_from: days before it are forgotten, but for those under a hold; null where none are.
    """

    up_to: str
    up_to_ms: int
    group: int
    behind: dict[str, float]
    kept_from: str | None = None


class TraceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer about persons carries.

    total: rows that there are; limit_cut: some are not shown. area: what bounded the answer, empty
    for the whole province. audit: number of the audit record that was written before this was sent.
    elapsed_us: in the engine. next: where the rows that are not shown begin, if they can be asked
    for: "after" of the next question.
    """

    question: str
    persons: tuple[PersonAnswer, ...]
    masked: bool
    total: int
    limit_cut: bool
    area: str
    complete: Completeness
    audit: int
    elapsed_us: int
    next: str = ""


class VisitsAnswer(TraceAnswer, frozen=True, kw_only=True):
    """Answer to "venue" and "person", in order of time."""

    visits: tuple[VisitAnswer, ...]


class ContactsAnswer(TraceAnswer, frozen=True, kw_only=True):
    """Answer to "contacts", ranked.

    profile: as applied. below: how many persons were met for less than it asks.
    """

    profile: ContactProfile
    contacts: tuple[ContactAnswer, ...]
    below: int


class PlaceFigures(msgspec.Struct, frozen=True):
    """Counts of one place; null where fewer than five persons would show."""

    place: int
    place_name: str
    scans: int | None
    checkins: int | None
    manuals: int | None
    persons: int | None
    visits: int | None
    passages: int | None


class PassageFigures(msgspec.Struct, frozen=True):
    """Passages of one control point by direction; null where there are fewer than five."""

    place: int
    place_name: str
    lane: int
    direction: str
    count: int | None


class RefusedFigures(msgspec.Struct, frozen=True):
    """Codes and records turned away, by reason; place 0 for an app's back end."""

    place: int
    place_name: str
    lane: int
    reason: str
    count: int


class FiguresAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of a civil day of Viet Nam. persons: different ones; null for an area's share."""

    day: str
    persons: int | None
    places: tuple[PlaceFigures, ...]
    passages: tuple[PassageFigures, ...]
    refused: tuple[RefusedFigures, ...]
    area: str
    group: int


class PlacesAnswer(msgspec.Struct, frozen=True):
    places: tuple[PlaceAnswer, ...]


class WhoamiAnswer(msgspec.Struct, frozen=True):
    """Whom a token belongs to. may: the kinds of question it opens."""

    name: str
    role: str
    unit: str
    area: str
    may: tuple[str, ...]


class HealthAnswer(msgspec.Struct, frozen=True):
    """status: "ok". engine: what the engine says of itself; numbers, no persons."""

    status: Literal["ok"]
    engine: dict[str, Any]


# ---- from packed arrays -------------------------------------------------------------------------


def when_to_ms(when: int | str) -> int:
    """Raises QuestionInvalid."""
    if isinstance(when, int):
        found = when
    else:
        try:
            found = iso_to_ms(when)
        except (ValueError, OverflowError):
            raise QuestionInvalid(
                "that is not a time", hint="2021-07-01T08:30, or ms since 1970"
            ) from None
    if not -WHEN_MAX_MS < found < WHEN_MAX_MS:
        raise QuestionInvalid("that time is out of range")
    return found


def details_to_person(handle: str, details: Details | None, is_masked: bool) -> PersonAnswer:
    """What may be shown of a person; of one whose details are gone, the handle alone."""
    if details is None:
        return PersonAnswer(person=handle)
    documents = (
        (details.doc_kind or "document", details.doc_no),
        ("qid", details.qid),
        ("bhyt", details.bhyt),
        ("certificate", details.certificate_id),  # of a visitor who has nothing else
    )
    kind, number = next((pair for pair in documents if pair[1]), ("", ""))
    name, birth, address, health = details.name, details.birth, details.address, details.health
    # As it is dialled here; no other answer needs the country before it.
    phone = "0" + details.phone[3:] if details.phone.startswith("+84") else details.phone
    if is_masked:
        name = people.mask_name(name) if name else ""
        phone = people.mask_phone(phone) if phone else ""
        number = people.mask_doc(number) if number else ""
        birth, address, health = birth[:4], "", ""
    return PersonAnswer(
        person=handle,
        name=name,
        phone=phone,
        doc=f"{kind} {number}" if number else "",
        birth=birth,
        sex=details.sex,
        address=address,
        issuer=details.issuer,
        signature=details.signature,
        health=health,
    )


def traced_to_answer(
    traced: Traced, details: Sequence[Details | None], is_masked: bool
) -> VisitsAnswer | ContactsAnswer:
    """details: of each person of the answer, in the same order. Raises ServiceError."""
    answer = traced.answer
    common = trace_fields(traced, details, is_masked)
    persons, names = common["persons"], place_names(traced)
    if isinstance(answer, tracing.ContactsAnswer):
        contacts = contact_rows(answer.packed)
        return ContactsAnswer(
            **common,
            question="contacts",
            profile=answer.profile,
            contacts=tuple(_contact(row, persons[row.person], names) for row in contacts),
            below=answer.below,
        )
    visits = visit_rows(answer.packed)
    return VisitsAnswer(
        **common,
        question="venue" if isinstance(answer, tracing.VenueAnswer) else "person",
        visits=tuple(
            VisitAnswer(**visit_fields(row, persons[row.person], names)) for row in visits
        ),
    )


def trace_fields(
    traced: Traced, details: Sequence[Details | None], is_masked: bool
) -> dict[str, Any]:
    """What every TraceAnswer carries, but for its question."""
    answer = traced.answer
    keys = [answer.persons[i : i + KEY_SIZE] for i in range(0, len(answer.persons), KEY_SIZE)]
    persons = tuple(
        details_to_person(key_to_handle(key), found, is_masked)
        for key, found in zip(keys, details, strict=True)
    )
    return {
        "persons": persons,
        "masked": is_masked,
        "total": answer.total,
        "limit_cut": answer.limit_cut,
        "area": traced.area,
        "complete": complete(answer.completeness),
        "audit": traced.audit,
        "elapsed_us": answer.elapsed_us,
        "next": answer.next,
    }


def place_names(traced: Traced) -> dict[int, str]:
    return {place.number: place.name for place in traced.places}


def delivered_to_answer(key: str, found: Delivered) -> IngestAnswer:
    verdicts = sorted(found.verdicts, key=lambda verdict: verdict.n)
    return IngestAnswer(
        key=key,
        verdicts=tuple(
            VerdictAnswer(v.n, v.lane, v.verdict, v.reason or "", v.name or "") for v in verdicts
        ),
        faults=tuple(FaultAnswer(f.n, f.code, f.message) for f in found.faults),
    )


def figures_to_answer(figures: Figures) -> FiguresAnswer:
    names = {place.number: place.name for place in figures.known}
    places = tuple(
        PlaceFigures(int(row["place"]), names[int(row["place"])], *map(_count, list(row)[1:]))
        for row in np.frombuffer(figures.places, PLACE_FIGURE)
    )
    passages = tuple(
        PassageFigures(
            int(row["place"]),
            names[int(row["place"])],
            int(row["lane"]),
            DIRECTIONS.get(int(row["direction"]), "none"),
            _count(row["count"]),
        )
        for row in np.frombuffer(figures.passages, PASSAGE_FIGURE)
    )
    refused = tuple(
        RefusedFigures(row.place, names.get(row.place, ""), row.lane, row.reason, row.count)
        for row in figures.refused
    )
    return FiguresAnswer(
        day=day_to_date(figures.day),
        persons=figures.persons,
        places=places,
        passages=passages,
        refused=refused,
        area=figures.area,
        group=figures.complete_lsn,
    )


def places_to_answer(places: Sequence[PlaceInfo]) -> PlacesAnswer:
    return PlacesAnswer(tuple(PlaceAnswer(**msgspec.structs.asdict(place)) for place in places))


def complete(completeness: tracing.Completeness) -> Completeness:
    behind = {
        state.name: state.behind_ms // 100 / 10
        for state in completeness.gateways
        if state.behind_ms or not state.is_connected
    }
    as_of_ms = completeness.as_of_ms
    kept_from = ms_to_iso(completeness.kept_from_ms) if completeness.kept_from_ms > 0 else None
    return Completeness(ms_to_iso(as_of_ms), as_of_ms, completeness.applied_lsn, behind, kept_from)


def visit_fields(row: VisitRow, person: PersonAnswer, names: Mapping[int, str]) -> dict[str, Any]:
    """Those of VisitAnswer."""
    return {
        "person": person.person,
        "name": person.name,
        "place": row.place,
        "place_name": names[row.place],
        "room": row.room,
        "start": ms_to_iso(row.start_ms),
        "start_ms": row.start_ms,
        "end": ms_to_iso(row.end_ms),
        "end_ms": row.end_ms,
        "minutes": minutes(row.end_ms - row.start_ms),
        "end_rule": row.end_rule,
        "start_inferred": row.is_start_inferred,
        "is_passage": row.is_passage,
        "direction": row.direction,
        "scans": row.scans,
    }


def _contact(row: ContactRow, person: PersonAnswer, names: Mapping[int, str]) -> ContactAnswer:
    return ContactAnswer(
        person=person.person,
        name=person.name,
        tier=row.tier,
        minutes=minutes(row.overlap_ms),
        linger_minutes=minutes(row.linger_ms),
        best_minutes=minutes(row.best_ms),
        queue_minutes=minutes(row.queue_ms),
        venues=row.places,
        first=ms_to_iso(row.first_ms),
        first_ms=row.first_ms,
        last=ms_to_iso(row.last_ms),
        last_ms=row.last_ms,
        flags=row.flags,
        meetings=tuple(_meeting(pair, names) for pair in row.pairs),
    )


def _meeting(pair: PairRow, names: Mapping[int, str]) -> MeetingAnswer:
    return MeetingAnswer(
        place=pair.place,
        place_name=names[pair.place],
        minutes=minutes(pair.overlap_ms),
        linger_minutes=minutes(pair.linger_ms),
        case_start=ms_to_iso(pair.case_start_ms),
        case_start_ms=pair.case_start_ms,
        case_end=ms_to_iso(pair.case_end_ms),
        case_end_ms=pair.case_end_ms,
        case_end_rule=pair.case_end_rule,
        case_room=pair.case_room,
        other_start=ms_to_iso(pair.other_start_ms),
        other_start_ms=pair.other_start_ms,
        other_end=ms_to_iso(pair.other_end_ms),
        other_end_ms=pair.other_end_ms,
        other_end_rule=pair.other_end_rule,
        other_room=pair.other_room,
        flags=pair.flags,
    )


def minutes(span_ms: int) -> float:
    """To a tenth, rounded down: what is shown must not reach a threshold that was not reached."""
    return span_ms // 6000 / 10


def _count(number: Any) -> int | None:
    return None if int(number) == SUPPRESSED else int(number)
