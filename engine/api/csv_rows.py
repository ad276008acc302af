"""Visits as CSV, a page at a time: what a person and a place say is made once for all rows.

UTF-8 with a byte order mark, so that spreadsheets see Vietnamese; no cell is a formula; times are
ISO 8601 with the offset. Columns are stable, new ones come last.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

import numpy as np

from engine.api.answers import details_to_person
from engine.clock import TZ_OFFSET_MS
from engine.desk.questions import Traced, key_to_handle
from engine.presence.visits import Array, VisitFlag
from engine.registry.csv_tables import neutralise
from engine.scans.people import Details
from engine.tracing.rows import DIRECTIONS, RULES, unpack
from engine.tracing.tracer import KEY_SIZE

VISIT_COLUMNS: Final = ("start", "end", "minutes", "end_rule", "place", "place_name", "room")
# By question. Of a person's history the last column tells passages; the others have one kind.
COLUMNS: Final = {
    "venue": ("person", "name", "phone", "doc", *VISIT_COLUMNS, "direction", "scans"),
    "person": ("person", "name", *VISIT_COLUMNS, "direction", "scans", "is_passage"),
    "passed": ("person", "name", "phone", "doc", *VISIT_COLUMNS, "direction", "scans"),
}
# Controls, formats, lone surrogates, code points without a letter; ends of lines and paragraphs.
_UNSHOWN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def head(question: str) -> bytes:
    return ("\ufeff" + ",".join(COLUMNS[question]) + "\r\n").encode()


def page_to_csv(
    question: str, traced: Traced, details: Sequence[Details | None], is_masked: bool
) -> bytes:
    """Rows of a page of visits. details: of each person of the answer, in the same order."""
    answer = traced.answer
    has_contact = "phone" in COLUMNS[question]
    keys = [answer.persons[i : i + KEY_SIZE] for i in range(0, len(answer.persons), KEY_SIZE)]
    people = []
    for key, found in zip(keys, details, strict=True):
        shown = details_to_person(key_to_handle(key), found, is_masked)
        contact = (shown.phone, shown.doc) if has_contact else ()
        people.append(",".join(map(cell, (shown.person, shown.name, *contact))))
    places = {place.number: f"{place.number},{cell(place.name)}" for place in traced.places}
    ends = (",no\r\n", ",yes\r\n") if "is_passage" in COLUMNS[question] else ("\r\n", "\r\n")
    return rows_to_csv(unpack(answer.packed, "visits"), people, places, ends)


def rows_to_csv(
    visits: Array, people: Sequence[str], places: dict[int, str], ends: tuple[str, str]
) -> bytes:
    """VISIT as lines. people: first cells of each person; places: cells of each place; ends: of
    the line of a stay and of a passage."""
    tenths = (visits["end_ms"] - visits["start_ms"]) // 6000
    columns = zip(
        visits["person"].tolist(),
        _times(visits["start_ms"]),
        _times(visits["end_ms"]),
        (tenths // 10).tolist(),
        (tenths % 10).tolist(),
        visits["rule"].tolist(),
        visits["place"].tolist(),
        visits["room"].tolist(),
        visits["direction"].tolist(),
        visits["scans"].tolist(),
        ((visits["flags"] & VisitFlag.PASSAGE) > 0).tolist(),
        strict=True,
    )
    lines = [
        f"{people[person]},{start}+07:00,{end}+07:00,{whole}.{tenth},{RULES[rule]},"
        f"{places[place]},{room},{DIRECTIONS.get(direction, 'none')},{scans}{ends[is_passage]}"
        for person, start, end, whole, tenth, rule, place, room, direction, scans, is_passage in (
            columns
        )
    ]
    return "".join(lines).encode()


def _times(instants: Array) -> list[str]:
    """Local times to the millisecond, without their offset."""
    local = (instants + TZ_OFFSET_MS).astype("M8[ms]")
    found: list[str] = np.datetime_as_string(local, unit="ms").tolist()
    return found


def cell(text: str) -> str:
    """A value as it may stand in a line, whatever it holds."""
    shown = neutralise("".join("·" if unicodedata.category(c) in _UNSHOWN else c for c in text))
    if any(c in shown for c in ',"\r\n'):
        return '"' + shown.replace('"', '""') + '"'
    return shown
