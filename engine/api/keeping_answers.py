"""Bodies and answers of the API about what is kept: holds, corrections, a person's own data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from engine.api.alert_answers import CaseBody
from engine.api.answers import When
from engine.clock import date_to_day, day_to_date, ms_to_iso
from engine.desk.keeping_questions import (
    CorrectionEntries,
    CorrectionInfo,
    HoldEntries,
    HoldInfo,
    PersonData,
    PersonErased,
)
from engine.desk.questions import PersonRef, key_to_handle
from engine.errors import QuestionInvalid
from engine.registry.access import AuditEntry
from engine.scans.people import Details
from engine.scans.rows import NO_TEMPERATURE, ROW, Direction, Flag, Kind, Source
from engine.tracing.rows import visit_rows

_Aliases = Annotated[
    tuple[PersonRef, ...], Meta(max_length=15, description="other documents of this person")
]
_Day = Annotated[str, Meta(max_length=10, description="a civil day such as 2021-07-01")]
_Number = Annotated[int, Meta(ge=1, le=1 << 62)]
_Reason = Annotated[str, Meta(max_length=120, description="no names, no numbers of persons")]
_DETAILS: Final = tuple(field.name for field in msgspec.structs.fields(Details))


# ---- bodies -------------------------------------------------------------------------------------


class HoldAddBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keeps days until `until`: first_day to last_day, or those on which the person was seen."""

    first_day: _Day | None = None
    last_day: _Day | None = None
    person: PersonRef | None = None
    aliases: _Aliases = ()
    until: When
    reason: _Reason = ""


class NumberBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hold that ends now, or a correction that is taken back."""

    number: _Number


class CorrectionBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The stay of a person at a venue that has `at` in it begins at `from`, or ends at `to`."""

    person: PersonRef
    aliases: _Aliases = ()
    place: Annotated[int, Meta(ge=1, le=0xFFFF_FFFF, description="number of the venue")]
    at: When
    start: Annotated[When | None, Meta(description="without it: as it is")] = msgspec.field(
        name="from", default=None
    )
    end: Annotated[When | None, Meta(description="without it: as it is")] = msgspec.field(
        name="to", default=None
    )
    reason: Annotated[str, Meta(min_length=1, max_length=120, description="how that is known")]


class RequestBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's own request; purpose is "request", case its number."""

    person: PersonRef
    aliases: _Aliases = ()


# ---- answers ------------------------------------------------------------------------------------


class HoldAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """persons: handles of the documents. days: that it keeps now. who, unit: of whoever set it."""

    number: int
    case: str
    reason: str
    first_day: str
    last_day: str
    persons: tuple[str, ...]
    days: tuple[str, ...]
    until: str
    until_ms: int
    who: str
    unit: str
    added: str


class HoldListAnswer(msgspec.Struct, frozen=True):
    holds: tuple[HoldAnswer, ...]


class CorrectionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """start, end: what the stay with `at` in it was given, "" where it was left."""

    number: int
    persons: tuple[str, ...]
    place: int
    place_name: str
    at: str
    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    reason: str
    case: str
    who: str
    unit: str
    added: str


class CorrectionListAnswer(msgspec.Struct, frozen=True):
    corrections: tuple[CorrectionAnswer, ...]


class HeldScan(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the log. details: what was sealed with it, by name; empty values left out."""

    time: str
    time_ms: int
    place: int
    place_name: str
    lane: int
    kind: str
    direction: str
    source: str
    flags: tuple[str, ...]
    temperature: float | None
    details: dict[str, str]


class HeldStay(msgspec.Struct, frozen=True, kw_only=True):
    """A stay or a passage, derived from the scans."""

    start: str
    start_ms: int
    end: str
    end_ms: int
    end_rule: str
    place: int
    place_name: str
    room: int
    is_passage: bool


class AskedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody looked at this person. audit: number of the record."""

    audit: int
    time: str
    unit: str
    role: str
    purpose: str
    question: str


class PersonDataAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is held about a person. Whether they are looked for is not told here."""

    persons: tuple[str, ...]
    scans: tuple[HeldScan, ...]
    stays: tuple[HeldStay, ...]
    corrections: tuple[CorrectionAnswer, ...]
    asked: tuple[AskedAnswer, ...]
    made: str
    audit: int


class ErasedAnswer(msgspec.Struct, frozen=True):
    """rows: taken out of `groups` of the scan log; records: of the control log that named the
    person. until: scans from before it are refused from now on, later ones are kept as of anybody.
    """

    number: int
    rows: int
    groups: int
    records: int
    until: str
    until_ms: int


# ---- between them and questions -----------------------------------------------------------------


def text_to_day(text: str | None) -> int | None:
    """Raises QuestionInvalid."""
    if text is None:
        return None
    try:
        return date_to_day(text)
    except ValueError:
        raise QuestionInvalid("a day is a date such as 2021-07-01") from None


def holds_to_answer(found: HoldEntries) -> HoldListAnswer:
    return HoldListAnswer(tuple(map(hold_to_answer, found.holds)))


def hold_to_answer(hold: HoldInfo) -> HoldAnswer:
    return HoldAnswer(
        number=hold.number,
        case=hold.case,
        reason=hold.reason,
        first_day=_date(hold.first_day),
        last_day=_date(hold.last_day),
        persons=tuple(map(key_to_handle, hold.persons)),
        days=tuple(map(day_to_date, hold.days)),
        until=ms_to_iso(hold.until_ms),
        until_ms=hold.until_ms,
        who=hold.who,
        unit=hold.unit,
        added=ms_to_iso(hold.at_ms),
    )


def corrections_to_answer(found: CorrectionEntries) -> CorrectionListAnswer:
    names = {place.number: place.name for place in found.places}
    return CorrectionListAnswer(
        tuple(correction_to_answer(one, names[one.place]) for one in found.corrections)
    )


def correction_to_answer(one: CorrectionInfo, place_name: str) -> CorrectionAnswer:
    return CorrectionAnswer(
        number=one.number,
        persons=tuple(map(key_to_handle, one.persons)),
        place=one.place,
        place_name=place_name,
        at=ms_to_iso(one.inside_ms),
        start="" if one.start_ms is None else ms_to_iso(one.start_ms),
        end="" if one.end_ms is None else ms_to_iso(one.end_ms),
        reason=one.reason,
        case=one.case,
        who=one.who,
        unit=one.unit,
        added=ms_to_iso(one.at_ms),
    )


def erased_to_answer(found: PersonErased) -> ErasedAnswer:
    return ErasedAnswer(
        found.number, found.rows, found.groups, found.records, ms_to_iso(found.until_ms),
        found.until_ms,
    )  # fmt: skip


def entry_to_asked(lsn: int, at_ms: int, entry: AuditEntry) -> AskedAnswer:
    return AskedAnswer(
        audit=lsn, time=ms_to_iso(at_ms), unit=entry.unit, role=entry.role,
        purpose=entry.purpose, question=entry.question,
    )  # fmt: skip


def data_to_answer(
    found: PersonData,
    details: Sequence[Details | None],
    asked: Collection[AskedAnswer],
    now_ms: int,
) -> PersonDataAnswer:
    """details: of each row."""
    names = {place.number: place.name for place in found.places}
    rows = np.frombuffer(found.rows, ROW)
    return PersonDataAnswer(
        persons=tuple(map(key_to_handle, found.persons)),
        scans=tuple(_scan(row, known, names) for row, known in zip(rows, details, strict=True)),
        stays=tuple(
            HeldStay(
                start=ms_to_iso(visit.start_ms),
                start_ms=visit.start_ms,
                end=ms_to_iso(visit.end_ms),
                end_ms=visit.end_ms,
                end_rule=visit.end_rule,
                place=visit.place,
                place_name=names[visit.place],
                room=visit.room,
                is_passage=visit.is_passage,
            )
            for visit in visit_rows({"visits": found.visits})
        ),
        corrections=tuple(
            correction_to_answer(one, names.get(one.place, f"#{one.place}"))
            for one in found.corrections
        ),
        asked=tuple(asked),
        made=ms_to_iso(now_ms),
        audit=found.audit,
    )


def _scan(row: np.void, known: Details | None, names: dict[int, str]) -> HeldScan:
    time_ms, place, cc = int(row["time_ms"]), int(row["place"]), int(row["temperature_cc"])
    shown = {} if known is None else {name: getattr(known, name) for name in _DETAILS}
    return HeldScan(
        time=ms_to_iso(time_ms),
        time_ms=time_ms,
        place=place,
        place_name=names[place],
        lane=int(row["lane"]),
        kind=Kind(int(row["kind"])).name.lower(),
        direction=Direction(int(row["direction"])).name.lower(),
        source=Source(int(row["source"])).name.lower(),
        flags=tuple(
            flag.name.lower()
            for flag in Flag
            if int(row["flags"]) & flag and flag.name and flag != Flag.LISTED
        ),
        temperature=None if cc == NO_TEMPERATURE else cc / 100,
        details={name: _text(value) for name, value in shown.items() if value},
    )


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _date(day: int | None) -> str:
    return "" if day is None else day_to_date(day)
