"""Body and answer of a roll over the HTTP API: a list of persons against what was scanned (Q9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.api.alert_answers import CaseBody
from engine.api.answers import Completeness, When, complete, place_names
from engine.clock import ms_to_iso
from engine.desk.questions import Traced, key_to_handle
from engine.desk.trace_questions import RollRow
from engine.tracing.roll import NOBODY, ROWS_MAX, RollAnswer, State, Why
from engine.tracing.rows import unpack
from engine.tracing.tracer import KEY_SIZE

BODY_SIZE_MAX: Final = 6 << 20  # 10,000 rows with all their documents


class RollBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who of this list was scanned between these times? Rows of the answer come in its order."""

    start: When = msgspec.field(name="from")
    end: When = msgspec.field(name="to")
    rows: Annotated[tuple[RollRow, ...], Meta(min_length=1, max_length=ROWS_MAX)]


class MatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the list, from 1.

    state: matched, unsure or none; why: see docs/api.md. first, last: begin of the first and of the
    last visit in the span, which was at `place`.
    """

    row: int
    state: str
    why: str
    person: str
    visits: int
    first: str
    first_ms: int | None
    last: str
    last_ms: int | None
    place: int | None
    place_name: str


class RollTraceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to "roll". counts: rows by state. What else is common to answers about persons."""

    question: str
    rows: tuple[MatchAnswer, ...]
    counts: dict[str, int]
    total: int
    limit_cut: bool
    area: str
    complete: Completeness
    audit: int
    elapsed_us: int


def rolled_to_answer(traced: Traced) -> RollTraceAnswer:
    """Raises ServiceError."""
    answer, names = traced.answer, place_names(traced)
    assert isinstance(answer, RollAnswer)
    handles = [
        key_to_handle(answer.persons[i : i + KEY_SIZE])
        for i in range(0, len(answer.persons), KEY_SIZE)
    ]
    counts = dict.fromkeys((state.name.lower() for state in State), 0)
    rows = []
    for n, match in enumerate(unpack(answer.packed, "matches").tolist(), 1):
        first_ms, last_ms, visits, person, place, state, why, _ = match
        is_found = person != NOBODY
        name = State(state).name.lower()
        counts[name] += 1
        rows.append(
            MatchAnswer(
                row=n,
                state=name,
                why=Why(why).name.lower(),
                person=handles[person] if is_found else "",
                visits=visits,
                first=ms_to_iso(first_ms) if is_found else "",
                first_ms=first_ms if is_found else None,
                last=ms_to_iso(last_ms) if is_found else "",
                last_ms=last_ms if is_found else None,
                place=place if is_found else None,
                place_name=names[place] if is_found else "",
            )
        )
    return RollTraceAnswer(
        question="roll",
        rows=tuple(rows),
        counts=counts,
        total=answer.total,
        limit_cut=answer.limit_cut,
        area=traced.area,
        complete=complete(answer.completeness),
        audit=traced.audit,
        elapsed_us=answer.elapsed_us,
    )


def rows_to_packed(rows: Sequence[RollRow]) -> bytes:
    return msgspec.msgpack.encode(rows)
