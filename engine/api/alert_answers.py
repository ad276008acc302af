"""Bodies and answers of the HTTP API about alerts and the watch list; docs/api.md has the words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from engine.api.answers import CASE, PURPOSE, Limit, PersonAnswer, When, details_to_person
from engine.clock import ms_to_iso
from engine.colocation.alerts import ALERT
from engine.desk.questions import Alarmed, PersonRef, Watched, WatchEntries, key_to_handle
from engine.scans.people import Details
from engine.scans.rows import NO_TEMPERATURE, NOBODY, Flag, Kind

_FLAGS: Final = {Flag.LISTED: "listed", Flag.FEVER: "fever", Flag.COPIED: "copied"}


class CaseBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What everything about persons carries."""

    purpose: Annotated[str, PURPOSE] = ""
    case: Annotated[str, CASE] = ""


class AlertsBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom were lanes alarmed about between these times? The span is half open, [from, to)."""

    start: When = msgspec.field(name="from")
    end: When = msgspec.field(name="to")
    limit: Limit = 100
    unmasked: Annotated[bool, Meta(description="full names; for roles that call people")] = False


class WatchAddBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody who is looked for, or must stay at home, until `to`."""

    list: Literal["watch", "quarantine"]
    person: PersonRef
    aliases: Annotated[
        tuple[PersonRef, ...], Meta(max_length=15, description="other documents of this person")
    ] = ()
    reason: Annotated[str, Meta(max_length=120, description="for the desk; no names")] = ""
    start: Annotated[When | None, Meta(description="without it: now")] = msgspec.field(
        name="from", default=None
    )
    end: When = msgspec.field(name="to")


class WatchRemoveBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: Annotated[int, Meta(ge=1, le=1 << 62)]


class AlertAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """flags: listed, fever, copied. entries: of the watch list, in force then and still on it.

    person: "" for a temperature whose scan is not known. temperature: degrees Celsius; reading: the
    terminal's own value and unit, its device and calibration, where the row is one of a terminal.
    """

    person: str
    name: str
    place: int
    place_name: str
    lane: int
    time: str
    time_ms: int
    kind: str
    flags: tuple[str, ...]
    temperature: float | None
    reading: str
    entries: tuple[int, ...]


class EntryAnswer(msgspec.Struct, frozen=True):
    """An entry of the watch list as an alert names it."""

    number: int
    list: str
    case: str


class AlertsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. The rest is as in other answers about persons."""

    alerts: tuple[AlertAnswer, ...]
    entries: tuple[EntryAnswer, ...]
    persons: tuple[PersonAnswer, ...]
    masked: bool
    total: int
    limit_cut: bool
    area: str
    audit: int


class WatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """persons: handles of the documents. who, unit: of the grant that put it there."""

    number: int
    list: str
    persons: tuple[str, ...]
    reason: str
    case: str
    who: str
    unit: str
    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    added: str


class WatchListAnswer(msgspec.Struct, frozen=True):
    entries: tuple[WatchAnswer, ...]


def alarmed_refs(found: Alarmed) -> list[int]:
    """Refs of the rows, in their order."""
    refs: list[int] = np.frombuffer(found.rows, ALERT)["ref"].tolist()
    return refs


def alarmed_to_answer(
    found: Alarmed, details: Sequence[Details | None], is_masked: bool
) -> AlertsAnswer:
    """details: of each row."""
    rows = np.frombuffer(found.rows, ALERT)
    names = {place.number: place.name for place in found.places}
    persons: dict[str, PersonAnswer] = {}
    entries: dict[int, list[int]] = {}
    for listed in found.listed:
        entries.setdefault(listed.row, []).append(listed.number)
    alerts = []
    for i, (row, known) in enumerate(zip(rows, details, strict=True)):
        key = row["person"].tobytes()
        person = details_to_person("" if key == NOBODY else key_to_handle(key), known, is_masked)
        if person.person and not persons.get(person.person, PersonAnswer(person="")).name:
            persons[person.person] = person
        time_ms, degrees_cc = int(row["time_ms"]), int(row["temperature_cc"])
        alerts.append(
            AlertAnswer(
                person=person.person,
                name=person.name,
                place=int(row["place"]),
                place_name=names[int(row["place"])],
                lane=int(row["lane"]),
                time=ms_to_iso(time_ms),
                time_ms=time_ms,
                kind=Kind(int(row["kind"])).name.lower(),
                flags=tuple(name for flag, name in _FLAGS.items() if row["flags"] & flag),
                temperature=None if degrees_cc == NO_TEMPERATURE else degrees_cc / 100,
                reading=_reading(known),
                entries=tuple(entries.get(i, ())),
            )
        )
    told = {entry.number: EntryAnswer(entry.number, entry.kind, entry.case)
            for entry in found.listed}  # fmt: skip
    return AlertsAnswer(
        alerts=tuple(alerts),
        entries=tuple(told.values()),
        persons=tuple(persons.values()),
        masked=is_masked,
        total=found.total,
        limit_cut=found.total > len(rows),
        area=found.area,
        audit=found.audit,
    )


def _reading(known: Details | None) -> str:
    """`37.9 C, device T-1, calibration 2021-06`, or nothing."""
    if known is None or not known.reading:
        return ""
    words = [f"{known.reading} {known.reading_unit}".strip(), f"device {known.device}"]
    return ", ".join([*words, *([f"calibration {known.calibration}"] * bool(known.calibration))])


def entries_to_answer(found: WatchEntries) -> WatchListAnswer:
    return WatchListAnswer(tuple(map(watched_to_answer, found.entries)))


def watched_to_answer(entry: Watched) -> WatchAnswer:
    return WatchAnswer(
        number=entry.number,
        list=entry.kind,
        persons=tuple(map(key_to_handle, entry.persons)),
        reason=entry.reason,
        case=entry.case,
        who=entry.who,
        unit=entry.unit,
        start=ms_to_iso(entry.from_ms),
        end=ms_to_iso(entry.to_ms),
        added=ms_to_iso(entry.at_ms),
    )
