"""Body and answer of a notice over the HTTP API: who was at these marks?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from engine.api.alert_answers import CaseBody
from engine.api.answers import (
    LIMIT_DEFAULT,
    Limit,
    TraceAnswer,
    VisitAnswer,
    When,
    place_names,
    trace_fields,
    visit_fields,
    when_to_ms,
)
from engine.clock import ms_to_iso
from engine.desk.questions import MarkRef, Traced
from engine.presence.visits import REF_ROW_BITS
from engine.scans.people import Details
from engine.tracing import tracer as tracing
from engine.tracing.notice import MARKS_MAX
from engine.tracing.rows import unpack, visit_rows


class MarkBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place and a span, half open."""

    place: Annotated[
        int | Annotated[str, Meta(max_length=32)],
        Meta(description="number of a venue or post, or a post's code"),
    ]
    start: When = msgspec.field(name="from")
    end: When = msgspec.field(name="to")


class NoticeBody(CaseBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who was at these places at these times, at `least` so many of them?"""

    marks: Annotated[tuple[MarkBody, ...], Meta(min_length=1, max_length=MARKS_MAX)]
    least: Annotated[int, Meta(ge=1, le=MARKS_MAX)] = 1
    since: Annotated[
        int,
        Meta(ge=0, le=1 << 53, description="complete.group of an earlier answer: only what is new"),
    ] = 0
    limit: Limit = LIMIT_DEFAULT
    unmasked: Annotated[bool, Meta(description="full names; for roles that call people")] = False


class MarkAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A mark of a notice, from 1, and how many were there, listed or not.

    is_outside: beyond the area of the role, so that nothing of it is shown.
    """

    mark: int
    place: int
    place_name: str
    start: str
    start_ms: int
    end: str
    end_ms: int
    persons: int
    visits: int
    is_outside: bool


class MarkedVisitAnswer(VisitAnswer, frozen=True, kw_only=True):
    """A visit at a mark.

    marks: how many of them this person was at. is_new: its first scan came after `since`.
    """

    mark: int
    marks: int
    is_new: bool


class NoticeAnswer(TraceAnswer, frozen=True, kw_only=True):
    """Answer to "notice": persons with most marks first; a person's visits in order of time.

    since: as asked. What is complete now is in `complete`; its group is the next `since`.
    """

    marks: tuple[MarkAnswer, ...]
    visits: tuple[MarkedVisitAnswer, ...]
    since: int


def bodies_to_marks(marks: Sequence[MarkBody]) -> tuple[MarkRef, ...]:
    """Raises QuestionInvalid for what is no time."""
    return tuple(MarkRef(m.place, when_to_ms(m.start), when_to_ms(m.end)) for m in marks)


def noticed_to_answer(
    traced: Traced, details: Sequence[Details | None], is_masked: bool
) -> NoticeAnswer:
    """details: of each person of the answer, in the same order. Raises ServiceError."""
    answer = traced.answer
    assert isinstance(answer, tracing.NoticeAnswer)
    common, names = trace_fields(traced, details, is_masked), place_names(traced)
    rows = visit_rows(answer.packed)
    which = unpack(answer.packed, "which").tolist()
    counts = [0] * len(common["persons"])
    for person, _ in {(row.person, mark) for row, mark in zip(rows, which, strict=True)}:
        counts[person] += 1
    return NoticeAnswer(
        **common,
        question="notice",
        marks=tuple(_marks(answer, names)),
        visits=tuple(
            MarkedVisitAnswer(
                **visit_fields(row, common["persons"][row.person], names),
                mark=mark + 1,
                marks=counts[row.person],
                is_new=row.evidence >> REF_ROW_BITS > answer.since,
            )
            for row, mark in zip(rows, which, strict=True)
        ),
        since=answer.since,
    )


def _marks(answer: tracing.NoticeAnswer, names: dict[int, str]) -> list[MarkAnswer]:
    figures = unpack(answer.packed, "figures").tolist()
    return [
        MarkAnswer(
            mark=n + 1,
            place=mark.place,
            place_name=names[mark.place],
            start=ms_to_iso(mark.from_ms),
            start_ms=mark.from_ms,
            end=ms_to_iso(mark.to_ms),
            end_ms=mark.to_ms,
            persons=persons,
            visits=visits,
            is_outside=n in answer.outside,
        )
        for n, (mark, (persons, visits)) in enumerate(zip(answer.marks, figures, strict=True))
    ]
