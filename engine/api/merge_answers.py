"""Bodies and answers of the HTTP API about merges and reviews; docs/api.md has the words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from engine.api.alert_answers import AlertsBody, CaseBody
from engine.api.answers import PersonAnswer, details_to_person
from engine.clock import ms_to_iso
from engine.colocation.reviews import REVIEW
from engine.desk.questions import Merged, MergeEntries, PersonRef, Reviews, key_to_handle
from engine.scans.people import Details, fold_name
from engine.scans.rows import Kind

_WHY = Meta(min_length=1, max_length=120, description="what was seen; no names and numbers")


class MergeAddBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """These documents are one person's."""

    person: PersonRef
    others: Annotated[tuple[PersonRef, ...], Meta(min_length=1, max_length=15)]
    why: Annotated[str, _WHY]


class MergeUndoBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: Annotated[int, Meta(ge=1, le=1 << 62)]
    why: Annotated[str, _WHY]


class ReviewListBody(AlertsBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose rows between these times should somebody look at? The span is half open, [from, to)."""


class ReviewCloseBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody looked, and this person stays as they are."""

    person: PersonRef
    why: Annotated[str, _WHY]


class MergeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """persons: handles of the documents, documents: their kinds as they were named. who, unit: of
    the grant that said so."""

    number: int
    persons: tuple[str, ...]
    documents: tuple[str, ...]
    why: str
    case: str
    who: str
    unit: str
    at: str


class MergeListAnswer(msgspec.Struct, frozen=True):
    merges: tuple[MergeAnswer, ...]


class ReviewAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody whose rows are flagged, as the newest of them has it.

    warnings: what was unclear about the code; officer, why: of an entry by hand. alike: others of
    this list with the same name and birth, which only proposes a merge.
    """

    person: str
    name: str
    kind: str
    rows: int
    first: str
    first_ms: int
    last: str
    last_ms: int
    place: int
    place_name: str
    warnings: tuple[str, ...]
    officer: str
    why: str
    alike: tuple[str, ...]


class ReviewListAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. The rest is as in other answers about persons."""

    reviews: tuple[ReviewAnswer, ...]
    persons: tuple[PersonAnswer, ...]
    masked: bool
    total: int
    limit_cut: bool
    area: str
    audit: int


def merges_to_answer(found: MergeEntries) -> MergeListAnswer:
    return MergeListAnswer(tuple(map(merged_to_answer, found.entries)))


def merged_to_answer(entry: Merged) -> MergeAnswer:
    return MergeAnswer(
        number=entry.number,
        persons=tuple(map(key_to_handle, entry.persons)),
        documents=entry.documents,
        why=entry.why,
        case=entry.case,
        who=entry.who,
        unit=entry.unit,
        at=ms_to_iso(entry.at_ms),
    )


def review_refs(found: Reviews) -> list[int]:
    """Refs of the rows, in their order."""
    refs: list[int] = np.frombuffer(found.rows, REVIEW)["ref"].tolist()
    return refs


def reviews_to_answer(
    found: Reviews, details: Sequence[Details | None], is_masked: bool
) -> ReviewListAnswer:
    """details: of each row."""
    rows = np.frombuffer(found.rows, REVIEW)
    places = {place.number: place.name for place in found.places}
    handles = [key_to_handle(key) for key in rows["person"].tolist()]
    persons = [
        details_to_person(handle, known, is_masked)
        for handle, known in zip(handles, details, strict=True)
    ]
    same: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for handle, known in zip(handles, details, strict=True):
        if (who := _name_and_birth(known)) is not None:
            same[who].append(handle)
    reviews = []
    for row, person, known in zip(rows, persons, details, strict=True):
        first_ms, last_ms = int(row["first_ms"]), int(row["last_ms"])
        who = _name_and_birth(known)
        reviews.append(
            ReviewAnswer(
                person=person.person,
                name=person.name,
                kind=Kind(int(row["kind"])).name.lower(),
                rows=int(row["rows"]),
                first=ms_to_iso(first_ms),
                first_ms=first_ms,
                last=ms_to_iso(last_ms),
                last_ms=last_ms,
                place=int(row["place"]),
                place_name=places[int(row["place"])],
                warnings=known.warnings if known else (),
                officer=known.officer if known else "",
                why=known.why if known and not is_masked else "",
                alike=tuple(other for other in same[who] if other != person.person) if who else (),
            )
        )
    return ReviewListAnswer(
        reviews=tuple(reviews), persons=tuple(persons), masked=is_masked, total=found.total,
        limit_cut=found.total > len(rows), area=found.area, audit=found.audit,
    )  # fmt: skip


def _name_and_birth(known: Details | None) -> tuple[str, str] | None:
    """Folded; None unless both are whole: less would propose half the province."""
    if known is None or not known.name or len(known.birth) != 10:
        return None
    return fold_name(known.name), known.birth
