"""Bodies and answers about passages and vehicles over the HTTP API (Q6, Q7).

What only sealed details tell is looked at here: the address that somebody told, plate, trip and
seat of a scan. The engine cannot open them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta

from engine.api.answers import (
    After,
    TraceAnswer,
    TraceBody,
    VisitAnswer,
    VisitsAnswer,
    place_names,
    trace_fields,
    visit_fields,
)
from engine.desk.questions import Traced
from engine.scans.people import Details, vehicle_to_canonical
from engine.tracing.rows import visit_rows

_SEAT: Final = re.compile(r"\D*(\d{1,3})\D*")


class PassedBody(TraceBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who passed this post between these times, and who of them came from an area?"""

    place: Annotated[
        int | Annotated[str, Meta(max_length=32)], Meta(description="number or code of a post")
    ]
    direction: Annotated[Literal["", "in", "out"], Meta(description="both, if not given")] = ""
    came_from: Annotated[
        str, Meta(max_length=32, description="code of an area in which they were scanned before")
    ] = ""
    within_days: Annotated[int, Meta(ge=1, le=60, description="how long before")] = 14
    address: Annotated[
        str, Meta(max_length=64, description="part of the address that they told")
    ] = ""
    after: After = ""


class VehicleBody(TraceBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who was in the vehicle with this plate, or on this trip? Both: on this trip of it."""

    plate: Annotated[str, Meta(max_length=32)] = ""
    trip: Annotated[str, Meta(max_length=64)] = ""
    seat: Annotated[str, Meta(max_length=16, description="rows_apart counts from here")] = ""
    after: After = ""


class PassedAnswer(VisitsAnswer, frozen=True, kw_only=True):
    """Answer to "passed", in order of time.

    With an address `visits` are those of the `total` whose address holds it; of `unknown_address`
    others, as far as they were looked at, there is no address to compare.
    """

    unknown_address: int


class RideAnswer(VisitAnswer, frozen=True, kw_only=True):
    """A visit or passage in the vehicle. plate: empty while masked. seat: as told, empty if not.
    rows_apart: from the seat asked about, null where one of both is not known."""

    plate: str
    trip: str
    seat: str
    rows_apart: int | None


class VehicleAnswer(TraceAnswer, frozen=True, kw_only=True):
    """Answer to "vehicle", in order of time."""

    visits: tuple[RideAnswer, ...]


def passed_to_answer(
    traced: Traced, details: Sequence[Details | None], is_masked: bool, address: str
) -> PassedAnswer:
    """details: of each person of the answer, in the same order. Raises ServiceError."""
    common, names = trace_fields(traced, details, is_masked), place_names(traced)
    rows = visit_rows(traced.answer.packed)
    unknown = 0
    if needle := fold_address(address):
        told = [fold_address(found.address) if found else "" for found in details]
        unknown = sum(not told[row.person] for row in rows)
        rows = [row for row in rows if f" {needle} " in f" {told[row.person]} "]
        shown = {row.person for row in rows}
        handles = {common["persons"][number].person for number in shown}
        everybody = common["persons"]
        common["persons"] = tuple(p for p in everybody if p.person in handles)
    else:
        everybody = common["persons"]
    return PassedAnswer(
        **common,
        question="passed",
        visits=tuple(
            VisitAnswer(**visit_fields(row, everybody[row.person], names)) for row in rows
        ),
        unknown_address=unknown,
    )


def ridden_to_answer(
    traced: Traced,
    details: Sequence[Details | None],
    is_masked: bool,
    rides: Sequence[Details | None],
    seat: str,
    trip: str,
) -> VehicleAnswer:
    """rides: details of the first scan of each visit; of those that name a trip only the one asked
    about is shown, "" for all. Raises ServiceError."""
    common, names = trace_fields(traced, details, is_masked), place_names(traced)
    mine, named = seat_row(seat), vehicle_to_canonical("", trip)
    visits = []
    for row, found in zip(visit_rows(traced.answer.packed), rides, strict=True):
        told = found or Details()
        if named and told.trip and vehicle_to_canonical("", told.trip) != named:
            continue
        theirs = seat_row(told.seat)
        is_known = mine is not None and theirs is not None
        visits.append(
            RideAnswer(
                **visit_fields(row, common["persons"][row.person], names),
                plate="" if is_masked else told.plate,
                trip=told.trip,
                seat=told.seat,
                rows_apart=abs(mine - theirs) if is_known else None,  # type: ignore[operator]
            )
        )
    return VehicleAnswer(**common, question="vehicle", visits=tuple(visits))


def seat_row(seat: str) -> int | None:
    """12 of "12A", "A12" and "hàng 12"; None where there is no one number."""
    match = _SEAT.fullmatch(seat)
    return int(match[1]) if match else None


def fold_address(text: str) -> str:
    """Words without accents, in small letters, one blank apart."""
    plain = unicodedata.normalize("NFD", text.casefold().replace("đ", "d"))
    letters = (c if c.isalnum() else " " for c in plain if not unicodedata.combining(c))
    return " ".join("".join(letters).split())
