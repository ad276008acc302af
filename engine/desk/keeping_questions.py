"""Asks and replies about what is kept: holds, corrections, a person's own data, retention."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from engine.desk.ask_bases import Ask, AskCase, Instant, PersonRef, PlaceRef
from engine.desk.ask_parts import PlaceInfo

Persons = Annotated[tuple[PersonRef, ...], Meta(min_length=1, max_length=16)]
Reason = Annotated[str, Meta(max_length=120)]
RecordNumber = Annotated[int, Meta(ge=1)]


class HoldAdd(AskCase, frozen=True, kw_only=True, tag="hold_add"):
    """Keeps days until an instant: first_day to last_day, or those on which one person was seen."""

    first_day: int | None = None
    last_day: int | None = None
    persons: Annotated[tuple[PersonRef, ...], Meta(max_length=16)] = ()
    until_ms: Instant
    reason: Reason = ""


class HoldEnd(AskCase, frozen=True, kw_only=True, tag="hold_end"):
    number: RecordNumber


class AskHolds(AskCase, frozen=True, kw_only=True, tag="hold_list"):
    """All holds in force."""


class CorrectStay(AskCase, frozen=True, kw_only=True, tag="correction_add"):
    """One person's stay at a place that has an instant in it; engine.colocation.corrections."""

    persons: Persons
    place: PlaceRef
    inside_ms: Instant
    start_ms: Instant | None = None
    end_ms: Instant | None = None
    reason: Annotated[str, Meta(min_length=1, max_length=120)]


class UndoCorrection(AskCase, frozen=True, kw_only=True, tag="correction_undo"):
    number: RecordNumber


class AskCorrections(AskCase, frozen=True, kw_only=True, tag="correction_list"):
    """All that were made and not undone."""


class ExportPerson(AskCase, frozen=True, kw_only=True, tag="person_export"):
    """What is held about one person; details are fetched as of any answer."""

    persons: Persons


class FetchAsked(Ask, frozen=True, kw_only=True, tag="person_asked"):
    """Audit records behind `after`, for an export that this connection just got.

    audit: the number that the export carries.
    """

    audit: int
    after: Annotated[int, Meta(ge=0)] = 0


class ErasePerson(AskCase, frozen=True, kw_only=True, tag="person_erase"):
    """Everything up to now about one person goes."""

    persons: Persons


class AskRetention(msgspec.Struct, frozen=True, tag_field="ask", tag="retention"):
    """From the owner of the socket only."""


class RunRetention(msgspec.Struct, frozen=True, tag_field="ask", tag="retention_run"):
    """From the owner of the socket only."""


# ---- what is answered ----


class HoldInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A hold; engine.keeping.holds.Hold says what its fields mean. days: that it keeps now."""

    number: int
    case: str
    reason: str
    first_day: int | None
    last_day: int | None
    persons: tuple[bytes, ...]
    until_ms: int
    who: str
    unit: str
    at_ms: int
    days: tuple[int, ...] = ()


class HoldEntries(msgspec.Struct, frozen=True, tag_field="reply", tag="hold_entries"):
    holds: tuple[HoldInfo, ...]


class CorrectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A correction; engine.colocation.corrections.Correction says what its fields mean."""

    number: int
    persons: tuple[bytes, ...]
    place: int
    inside_ms: int
    start_ms: int | None
    end_ms: int | None
    reason: str
    case: str
    who: str
    unit: str
    at_ms: int


class CorrectionEntries(msgspec.Struct, frozen=True, tag_field="reply", tag="corrections"):
    corrections: tuple[CorrectionInfo, ...]
    places: tuple[PlaceInfo, ...]


class PersonData(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="person_data"):
    """rows: ROW, packed, by time; refs: of each (u64); visits: VISIT, packed."""

    persons: tuple[bytes, ...]
    rows: bytes
    refs: bytes
    visits: bytes
    corrections: tuple[CorrectionInfo, ...]
    places: tuple[PlaceInfo, ...]
    audit: int


class AuditPage(msgspec.Struct, frozen=True, tag_field="reply", tag="audit_page"):
    """(LSN, instant, body) of audit records; next: to ask for more behind it, else 0."""

    records: tuple[tuple[int, int, bytes], ...]
    next: int


class PersonErased(msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="erased"):
    """rows, groups: of the scan log; records: of the control log. number: the erasure's own."""

    number: int
    rows: int
    groups: int
    records: int
    until_ms: int


class RetentionState(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="retention_state"
):
    """held: civil day to numbers of the holds that keep it."""

    now_ms: int
    retention_days: int
    holds: tuple[HoldInfo, ...]
    held: dict[int, list[int]]


class RetentionDone(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="reply", tag="retention_done"
):
    """What engine.keeping.retention.Forgotten says."""

    groups: int
    days: list[int]
    held: list[int]


KeepingAsk = (
    HoldAdd
    | HoldEnd
    | AskHolds
    | CorrectStay
    | UndoCorrection
    | AskCorrections
    | ExportPerson
    | FetchAsked
    | ErasePerson
    | AskRetention
    | RunRetention
)
KeepingReply = (
    HoldEntries
    | CorrectionEntries
    | PersonData
    | AuditPage
    | PersonErased
    | RetentionState
    | RetentionDone
)
