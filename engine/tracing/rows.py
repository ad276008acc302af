"""Rows of answers: the packed arrays that the tracer gives, as objects for people.

Made a column at a time: an answer lists thousands, and a field of a structured array costs as much
to read as all of a row's objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec
import numpy as np

from engine.errors import ServiceError
from engine.presence.contacts import CONTACT, PAIR, PairFlag, Tier
from engine.presence.visits import VISIT, Array, EndRule, VisitFlag
from engine.scans.rows import Direction
from engine.tracing.notice import MARK_FIGURE

T = TypeVar("T")

# Packed arrays of an answer by name. `person` of a visit and the row of a contact are positions in
# the answer's `persons`; "newest" holds of each person the ref of the newest row, see `index`.
LAYOUTS: Final = {
    "visits": VISIT,
    "contacts": CONTACT,
    "pairs": PAIR,
    "newest": np.dtype("<u8"),
    "which": np.dtype("<u4"),
    "figures": MARK_FIGURE,
}
RULES: Final = [rule.name.lower() for rule in EndRule]
_TIERS: Final = [tier.name.lower() for tier in Tier]
DIRECTIONS: Final = {int(Direction.IN): "in", int(Direction.OUT): "out"}
_FLAG_BITS: Final = (1 << len(PairFlag)) - 1
_FLAGS: Final = [
    tuple(str(flag.name).lower() for flag in PairFlag if flag & n) for n in range(_FLAG_BITS + 1)
]


class VisitRow(msgspec.Struct, frozen=True):
    """One visit; person: position in the answer's persons; evidence: ref of the first scan."""

    person: int
    place: int
    room: int
    start_ms: int
    end_ms: int
    end_rule: str
    is_passage: bool
    is_start_inferred: bool
    direction: str
    vehicle: int
    scans: int
    evidence: int


class PairRow(msgspec.Struct, frozen=True):
    """A visit of the case beside one of the contact: the evidence for the minutes."""

    place: int
    case_room: int
    case_start_ms: int
    case_end_ms: int
    case_end_rule: str
    other_room: int
    other_start_ms: int
    other_end_ms: int
    other_end_rule: str
    overlap_ms: int
    linger_ms: int
    flags: tuple[str, ...]
    case_evidence: int
    other_evidence: int


class ContactRow(msgspec.Struct, frozen=True):
    """One contact; person: position in the answer's persons; tier: candidate or queue."""

    person: int
    tier: str
    flags: tuple[str, ...]
    overlap_ms: int
    linger_ms: int
    best_ms: int
    queue_ms: int
    first_ms: int
    last_ms: int
    places: int
    pairs: tuple[PairRow, ...]


def unpack(packed: dict[str, bytes], name: str) -> Array:
    """The array of that name. Raises ServiceError when it is missing or of a broken size."""
    data = packed.get(name)
    if data is None or len(data) % LAYOUTS[name].itemsize:
        raise ServiceError(f"the answer's {name} cannot be read")
    return np.frombuffer(data, LAYOUTS[name])


def visit_rows(packed: dict[str, bytes]) -> list[VisitRow]:
    """Rows of an answer to Q1, Q2 or a notice. Raises as `unpack`."""
    visits = unpack(packed, "visits")
    flags = visits["flags"]
    columns = (
        visits["person"].tolist(),
        visits["place"].tolist(),
        visits["room"].tolist(),
        visits["start_ms"].tolist(),
        visits["end_ms"].tolist(),
        _names(RULES, visits["rule"]),
        ((flags & VisitFlag.PASSAGE) > 0).tolist(),
        ((flags & VisitFlag.START_INFERRED) > 0).tolist(),
        [DIRECTIONS.get(direction, "none") for direction in visits["direction"].tolist()],
        visits["vehicle"].tolist(),
        visits["scans"].tolist(),
        visits["ref"].tolist(),
    )
    return list(map(VisitRow, *columns))


def contact_rows(packed: dict[str, bytes]) -> list[ContactRow]:
    """Rows of an answer to Q3, in rank order. Raises as `unpack`."""
    contacts, evidence = unpack(packed, "contacts"), unpack(packed, "pairs")
    pairs: list[list[PairRow]] = [[] for _ in contacts]
    for number, pair in zip(evidence["contact"].tolist(), _pair_rows(evidence), strict=True):
        pairs[number].append(pair)
    columns = (
        range(len(contacts)),
        _names(_TIERS, contacts["tier"]),
        _names(_FLAGS, contacts["flags"] & _FLAG_BITS),
        contacts["overlap_ms"].tolist(),
        contacts["linger_ms"].tolist(),
        contacts["best_ms"].tolist(),
        contacts["queue_ms"].tolist(),
        contacts["first_ms"].tolist(),
        contacts["last_ms"].tolist(),
        contacts["places"].tolist(),
        map(tuple, pairs),
    )
    return list(map(ContactRow, *columns))


def _pair_rows(pairs: Array) -> list[PairRow]:
    columns = (
        pairs["place"].tolist(),
        pairs["case_room"].tolist(),
        pairs["case_start_ms"].tolist(),
        pairs["case_end_ms"].tolist(),
        _names(RULES, pairs["case_rule"]),
        pairs["other_room"].tolist(),
        pairs["other_start_ms"].tolist(),
        pairs["other_end_ms"].tolist(),
        _names(RULES, pairs["other_rule"]),
        pairs["overlap_ms"].tolist(),
        pairs["linger_ms"].tolist(),
        _names(_FLAGS, pairs["flags"] & _FLAG_BITS),
        pairs["case_ref"].tolist(),
        pairs["other_ref"].tolist(),
    )
    return list(map(PairRow, *columns))


def _names(table: Sequence[T], column: Array) -> list[T]:
    return [table[value] for value in column.tolist()]
