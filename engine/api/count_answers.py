"""Counts over the HTTP API: how many came where and when; no persons (Q12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from engine.api.answers import when_to_ms
from engine.clock import ms_to_iso
from engine.desk.trace_questions import AskCounts, CountRows
from engine.errors import QuestionInvalid
from engine.scans.rows import Direction
from engine.tracing.counts import COUNT

GROUPS: Final = ("place", "lane", "area", "kind")
LIMIT_MAX: Final = 100_000
_DIRECTIONS: Final = {int(Direction.IN): "in", int(Direction.OUT): "out"}


class CountAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Visits and passages of a group that began in [start, start + one hour or day).

    group: number of a place or area, 0 for none; name: what it is called. lane, direction: of a
    post's control point, where these are told apart.
    """

    start: str
    start_ms: int
    group: int
    name: str
    lane: int
    direction: str
    visits: int
    passages: int


class CountsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Rows by time and group; where nobody came there is none.

    start, end: the whole hours or days that were counted. limit_cut: rows are missing, from `next`
    on. rounded: counts are multiples of that; 1 where they are exact. log_group: the last group of
    the scan log that was counted.
    """

    start: str
    start_ms: int
    end: str
    end_ms: int
    by: str
    group: str
    rows: tuple[CountAnswer, ...]
    limit_cut: bool
    next: str
    rounded: int
    area: str
    log_group: int


def query_to_ask(token: str, query: Mapping[str, str]) -> AskCounts:
    """Raises QuestionInvalid, which names the parameter."""
    found: dict[str, Any] = {}
    for name, known in (("by", ("hour", "day")), ("group", GROUPS)):
        value = query.get(name, known[0])
        if value not in known:
            raise QuestionInvalid(f"{name} is one of {', '.join(known)}")
        found[name] = value
    for name in ("from", "to"):
        text = query.get(name, "")
        try:
            found[f"{name}_ms"] = when_to_ms(int(text) if text.lstrip("-").isdecimal() else text)
        except (QuestionInvalid, ValueError):
            raise QuestionInvalid(f"{name} is a time such as 2021-07-01T08:00") from None
    limit = query.get("limit", "10000")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= LIMIT_MAX:
        raise QuestionInvalid(f"limit is a number from 1 to {LIMIT_MAX}")
    return AskCounts(token=token, limit=int(limit), **found)


def counted_to_answer(found: CountRows) -> CountsAnswer:
    rows = np.frombuffer(found.rows, COUNT).tolist()
    return CountsAnswer(
        start=ms_to_iso(found.from_ms),
        start_ms=found.from_ms,
        end=ms_to_iso(found.to_ms),
        end_ms=found.to_ms,
        by=found.by,
        group=found.group,
        rows=tuple(
            CountAnswer(
                start=ms_to_iso(start_ms),
                start_ms=start_ms,
                group=group,
                name=found.names.get(group, ""),
                lane=lane,
                direction=_DIRECTIONS.get(direction, ""),
                visits=visits,
                passages=passages,
            )
            for start_ms, group, lane, direction, _, visits, passages in rows
        ),
        limit_cut=found.next_ms is not None,
        next="" if found.next_ms is None else ms_to_iso(found.next_ms),
        rounded=found.rounded,
        area=found.area,
        log_group=found.complete_lsn,
    )
