"""Questions between the API process and the engine, and what is answered.

Times are instants in ms, times spent are microseconds; the arrays in answers are packed, and
Python objects are made of them on the API's side only.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from engine import errors
from engine.desk.ask_bases import After, Ask, AskCase, AskPersons, AskRows, Instant, Word
from engine.desk.ask_bases import PersonRef as PersonRef
from engine.desk.ask_bases import PlaceRef as PlaceRef
from engine.desk.ask_parts import PlaceInfo as PlaceInfo
from engine.desk.keeping_questions import KeepingAsk, KeepingReply
from engine.desk.trace_questions import (
    AskCounts,
    AskPassed,
    AskRoll,
    AskTiers,
    AskVehicle,
    CountRows,
)
from engine.desk.venue_questions import VenueQuestion, VenueReply
from engine.errors import EngineError, QuestionInvalid, RegistryInvalid
from engine.identity.keys import KeyRing
from engine.payloads.outcome import Refusal
from engine.registry.registry import Change
from engine.scans.people import credential_to_identity, holder_to_identity
from engine.storage.group import SealedDetails
from engine.tracing.notice import MARKS_MAX
from engine.tracing.passed import PassedAnswer
from engine.tracing.riders import VehicleAnswer
from engine.tracing.roll import RollAnswer
from engine.tracing.tiers import TiersAnswer
from engine.tracing.tracer import ContactsAnswer, HistoryAnswer, NoticeAnswer, VenueAnswer
from engine.wire.frames import U64, Verdict

SUPPRESSED: Final = (1 << 32) - 1
_HANDLE_SIZE: Final = 26  # base32 letters of a 16-byte key, without padding
_LETTERS: Final = list(
    map("".join, itertools.product("abcdefghijklmnopqrstuvwxyz234567", repeat=2))
)

# ---- what is asked ------------------------------------------------------------------------------


class AskVenue(AskPersons, frozen=True, kw_only=True, tag="venue"):
    """Q1."""

    place: PlaceRef
    after: After = ""


class AskPerson(AskPersons, frozen=True, kw_only=True, tag="person"):
    """Q2. persons: documents of one and the same person."""

    persons: Annotated[tuple[PersonRef, ...], Meta(min_length=1, max_length=16)]


class AskContacts(AskPersons, frozen=True, kw_only=True, tag="contacts"):
    """Q3. The numbers override the profile's where they are given."""

    persons: Annotated[tuple[PersonRef, ...], Meta(min_length=1, max_length=16)]
    profile: Word = ""
    min_minutes: Annotated[int, Meta(ge=0, le=1440)] | None = None
    linger_minutes: Annotated[int, Meta(ge=0, le=1440)] | None = None
    risk_level: Annotated[int, Meta(ge=1, le=8)] = 5


class MarkRef(msgspec.Struct, frozen=True):
    """A place and a span."""

    place: PlaceRef
    from_ms: Instant
    to_ms: Instant


class AskNotice(AskRows, frozen=True, kw_only=True, tag="notice"):
    """Q5, Q8; the fields are those of engine.tracing.notice.NoticeQuestion."""

    marks: Annotated[tuple[MarkRef, ...], Meta(min_length=1, max_length=MARKS_MAX)]
    least: Annotated[int, Meta(ge=1, le=MARKS_MAX)] = 1
    since: Annotated[int, Meta(ge=0, le=1 << 60)] = 0


Traceable = (
    AskVenue | AskPerson | AskContacts | AskNotice | AskTiers | AskPassed | AskVehicle | AskRoll
)


class AskAlerts(AskPersons, frozen=True, kw_only=True, tag="alerts"):
    """Whom lanes were alarmed about."""


class WatchAdd(AskCase, frozen=True, kw_only=True, tag="watch_add"):
    """Puts one person on the watch list. persons: that one's documents. from_ms: None for now."""

    kind: Literal["watch", "quarantine"]
    persons: Annotated[tuple[PersonRef, ...], Meta(min_length=1, max_length=16)]
    reason: Annotated[str, Meta(max_length=120)] = ""
    from_ms: Instant | None = None
    to_ms: Instant


class WatchRemove(AskCase, frozen=True, kw_only=True, tag="watch_remove"):
    """Takes an entry off."""

    number: Annotated[int, Meta(ge=1)]


class AskWatched(AskCase, frozen=True, kw_only=True, tag="watch_list"):
    """All entries that the asker may see."""


class MergeAdd(AskCase, frozen=True, kw_only=True, tag="merge_add"):
    """Says that these documents are one person's. why: what was seen."""

    persons: Annotated[tuple[PersonRef, ...], Meta(min_length=2, max_length=16)]
    why: Annotated[str, Meta(max_length=120)]


class MergeUndo(AskCase, frozen=True, kw_only=True, tag="merge_undo"):
    """Takes a merge back."""

    number: Annotated[int, Meta(ge=1)]
    why: Annotated[str, Meta(max_length=120)]


class AskMerges(AskCase, frozen=True, kw_only=True, tag="merge_list"):
    """All merges that hold and that the asker may see."""


class AskReviews(AskPersons, frozen=True, kw_only=True, tag="review_list"):
    """Persons whose rows are flagged for review and were not looked at yet."""


class ReviewClose(AskCase, frozen=True, kw_only=True, tag="review_close"):
    """Somebody looked: these rows and later ones of this person stay as they are."""

    person: PersonRef
    why: Annotated[str, Meta(max_length=120)]
    is_reopened: bool = False


class FetchDetails(Ask, frozen=True, kw_only=True, tag="details"):
    """Sealed details behind refs of an answer that this connection just got.

    audit: the number that the answer carries.
    """

    audit: int
    refs: Annotated[tuple[int, ...], Meta(max_length=100_000)]


class AskFigures(Ask, frozen=True, kw_only=True, tag="figures"):
    """Counts of a civil day."""

    day: Annotated[int, Meta(ge=0, le=100_000)]


class AskPlaces(Ask, frozen=True, kw_only=True, tag="places"):
    """Places of the registry by number, code or part of a name; no persons."""

    text: Word = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50


class Whoami(Ask, frozen=True, kw_only=True, tag="whoami"):
    pass


class Deliver(Ask, frozen=True, kw_only=True, tag="deliver"):
    """Records of a gateway; token: the gateway's own. body: as of a SCANS message."""

    gateway: Word
    epoch: U64
    seq: Annotated[int, Meta(ge=1)]
    body: bytes


class AskMetrics(msgspec.Struct, frozen=True, tag_field="ask", tag="metrics"):
    pass


class AskHealth(msgspec.Struct, frozen=True, tag_field="ask", tag="health"):
    pass


class RegistryChange(msgspec.Struct, frozen=True, tag_field="ask", tag="registry_change"):
    """From the owner of the socket only; all of it is taken or nothing.

    fresh: place numbers that nothing may have by now. is_trial: only the faults are wanted.
    """

    changes: tuple[Change, ...]
    fresh: tuple[int, ...] = ()
    is_trial: bool = False


class RegistryList(msgspec.Struct, frozen=True, tag_field="ask", tag="registry_list"):
    """From the owner of the socket only. at_ms: None for the newest records."""

    kind: Word
    at_ms: Instant | None = None


class AskKit(msgspec.Struct, frozen=True, tag_field="ask", tag="kit"):
    """From the owner of the socket only."""


Question = (
    AskVenue
    | AskPerson
    | AskContacts
    | AskNotice
    | AskTiers
    | AskPassed
    | AskVehicle
    | AskRoll
    | AskAlerts
    | WatchAdd
    | WatchRemove
    | AskWatched
    | MergeAdd
    | MergeUndo
    | AskMerges
    | AskReviews
    | ReviewClose
    | KeepingAsk
    | FetchDetails
    | AskFigures
    | AskCounts
    | AskPlaces
    | Whoami
    | Deliver
    | AskMetrics
    | AskHealth
    | RegistryChange
    | RegistryList
    | AskKit
    | VenueQuestion
)

# ---- what is answered ---------------------------------------------------------------------------


class Failure(msgspec.Struct, frozen=True, tag_field="reply", tag="failure"):
    """An EngineError on its way; code, message, status and hint are those of engine.errors."""

    code: str
    message: str
    status: int
    hint: str = ""
    rows: tuple[str, ...] = ()


# Answers of which the rows behind `next` can be asked for.
Pageable = AskVenue | AskPerson | AskPassed

TracedAnswer = (
    VenueAnswer
    | HistoryAnswer
    | ContactsAnswer
    | NoticeAnswer
    | TiersAnswer
    | PassedAnswer
    | VehicleAnswer
    | RollAnswer
)


class Traced(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="traced"):
    """Answer to a question about persons, as the tracer gave it, and what it takes to read it.

    area: what bounded the answer, "" for nothing. audit: number of its audit record. details: those
    that FetchDetails would give of all refs; None where there are so many that the asker asks.
    """

    answer: TracedAnswer
    places: tuple[PlaceInfo, ...]
    area: str
    audit: int
    details: Details | None = None


class Listed(msgspec.Struct, frozen=True):
    """Why a row of alerts was on the watch list. row: its position."""

    row: int
    number: int
    kind: str
    case: str


class Alarmed(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="alarmed"):
    """rows: engine.colocation.alerts.ALERT, packed, newest first; total: how many there are."""

    rows: bytes
    total: int
    listed: tuple[Listed, ...]
    places: tuple[PlaceInfo, ...]
    area: str
    audit: int


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the watch list; engine.identity.watch.WatchEntry says what its fields mean."""

    number: int
    kind: str
    persons: tuple[bytes, ...]
    reason: str
    case: str
    who: str
    unit: str
    from_ms: int
    to_ms: int
    at_ms: int


class WatchEntries(msgspec.Struct, frozen=True, tag_field="reply", tag="watch_entries"):
    entries: tuple[Watched, ...]


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """A merge, or a review that was closed; engine.identity.merges.Merge says what its fields
    mean."""

    number: int
    persons: tuple[bytes, ...]
    documents: tuple[str, ...]
    why: str
    case: str
    who: str
    unit: str
    at_ms: int


class MergeEntries(msgspec.Struct, frozen=True, tag_field="reply", tag="merge_entries"):
    entries: tuple[Merged, ...]


class Reviews(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="reviews"):
    """rows: engine.colocation.reviews.REVIEW, packed, newest first; total: how many there are."""

    rows: bytes
    total: int
    places: tuple[PlaceInfo, ...]
    area: str
    audit: int


class Details(msgspec.Struct, frozen=True, tag_field="reply", tag="details"):
    """Sealed details of the groups behind the refs, in order of lsn.

    rest: refs for which the message had no room, to be asked for again. Refs of a day that was
    forgotten are in neither.
    """

    groups: tuple[SealedDetails, ...]
    rest: tuple[int, ...] = ()


class Refusals(msgspec.Struct, frozen=True):
    """Codes and records turned away at one control point for one reason; place 0 for a back end."""

    place: int
    lane: int
    reason: str
    count: int


class Figures(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="figures"):
    """Counts of a civil day: PLACE_FIGURE and PASSAGE_FIGURE of engine.colocation.index, packed.

    SUPPRESSED stands where fewer than five persons would show to somebody outside health (DF-4).
    persons: different ones in all, None where an area bounds the answer.
    """

    day: int
    places: bytes
    passages: bytes
    persons: int | None
    refused: tuple[Refusals, ...]
    complete_lsn: int
    area: str
    known: tuple[PlaceInfo, ...]


class Places(msgspec.Struct, frozen=True, tag_field="reply", tag="places"):
    places: tuple[PlaceInfo, ...]


class Identity(msgspec.Struct, frozen=True, tag_field="reply", tag="whoami"):
    """The owner of a token and what the token may ask."""

    name: str
    role: str
    unit: str
    area: str
    may: tuple[str, ...]


class DeliveryFault(msgspec.Struct, frozen=True):
    """Record n was not taken, for a reason that its sender can mend."""

    n: int
    code: str
    message: str


class Delivered(msgspec.Struct, frozen=True, tag_field="reply", tag="delivered"):
    """A receipt: all of it is durable. is_repeat: it was before."""

    verdicts: tuple[Verdict, ...]
    faults: tuple[DeliveryFault, ...]
    is_repeat: bool = False


class MetricsText(msgspec.Struct, frozen=True, tag_field="reply", tag="metrics"):
    text: bytes


class Health(msgspec.Struct, frozen=True, tag_field="reply", tag="health"):
    state: dict[str, Any]


class RegistryTaken(msgspec.Struct, frozen=True, tag_field="reply", tag="registry_taken"):
    """How many records were written, how many were there already."""

    written: int
    known: int


class RegistryEntries(msgspec.Struct, frozen=True, tag_field="reply", tag="registry_entries"):
    entries: tuple[Change, ...]


class Kit(msgspec.Struct, frozen=True, tag_field="reply", tag="kit"):
    """What gateways and posters need of the engine.

    ingest: URL of CKP/1 on this machine. ingest_public: 32 bytes that spools are sealed to.
    venue_codes: text of the posted code by venue number, with the province's tag.
    """

    ingest: str
    ingest_public: bytes
    venue_codes: dict[int, str]


Reply = (
    Failure
    | Traced
    | Alarmed
    | WatchEntries
    | MergeEntries
    | Reviews
    | KeepingReply
    | Details
    | Figures
    | CountRows
    | Places
    | Identity
    | Delivered
    | MetricsText
    | Health
    | RegistryTaken
    | RegistryEntries
    | Kit
    | VenueReply
)


def key_to_handle(key: bytes) -> str:
    """What answers call a person: 26 letters of base32, lower case, for 16 bytes."""
    bits = int.from_bytes(key) << 2  # 130 bits are 13 pairs of letters
    return "".join([_LETTERS[bits >> shift & 1023] for shift in range(120, -1, -10)])


def handle_to_key(handle: str) -> bytes:
    """Raises QuestionInvalid."""
    try:
        if len(handle) == _HANDLE_SIZE:
            return base64.b32decode(handle.upper() + "======")
    except ValueError:
        pass
    raise QuestionInvalid("that is not the handle of a person")


def persons_to_keys(persons: Iterable[PersonRef], keyring: KeyRing) -> list[bytes]:
    """Person keys, each once. Raises QuestionInvalid without quoting anybody's number."""
    keys: dict[bytes, None] = {}
    for person in persons:
        if person.kind == "handle":
            keys[handle_to_key(person.value)] = None
            continue
        if person.kind in ("pass", "certificate"):
            named = person.value if person.kind == "pass" else ""
            number = "" if named else person.value
            identity = holder_to_identity(person.issuer, named, person.birth, number)
        else:
            identity = credential_to_identity([person.kind, person.value, person.issuer])
        if isinstance(identity, Refusal):
            raise QuestionInvalid(f"that is not a {person.kind}: {identity.detail}")
        keys[keyring.person_key(identity.kind, identity.issuer, identity.canonical)] = None
    return list(keys)


def error_to_failure(error: EngineError) -> Failure:
    rows = tuple(error.rows) if isinstance(error, RegistryInvalid) else ()
    return Failure(error.code, str(error), error.status, error.hint, rows)


def failure_to_error(failure: Failure) -> EngineError:
    """An error of the same class; of the root class where this version does not know the code."""
    cls = errors.leaves().get(failure.code, EngineError)
    if issubclass(cls, RegistryInvalid):
        return cls(failure.message, rows=list(failure.rows), hint=failure.hint)
    return cls(failure.message, hint=failure.hint)
