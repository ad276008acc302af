"""A notice: marks, that is places with spans, where a case was; and who was at them (Q5, Q8, NO-1).

The answer can be asked for again: with the number of the log group that an earlier answer was
complete up to, it lists those only of whom something came since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from engine.colocation.found import Found
from engine.colocation.index import Snapshot
from engine.presence.visits import REF_ROW_BITS, VISIT, Array

MARKS_MAX: Final = 200

MARK_FIGURE: Final = np.dtype([("persons", "<u4"), ("visits", "<u4")])


class Mark(msgspec.Struct, frozen=True):
    """A place during [from_ms, to_ms)."""

    place: int
    from_ms: int
    to_ms: int


class NoticeQuestion(msgspec.Struct, frozen=True, kw_only=True, tag="notice"):
    """Who was at these marks?

    least: of different marks that a person was at. since: number of a log group; of whom nothing
    came after it is not listed, 0 lists everybody. limit: most rows, a row is a visit at a mark.
    """

    marks: tuple[Mark, ...]
    least: int = 1
    since: int = 0
    limit: int = 1000

    @property
    def from_ms(self) -> int:
        return min(mark.from_ms for mark in self.marks)

    @property
    def to_ms(self) -> int:
        return max(mark.to_ms for mark in self.marks)


@dataclass(frozen=True, slots=True)
class Marked:
    """Visits at marks, complete up to `lsn`; persons with most marks first, then by first start.

    visits: VISIT, `person` being the position in `persons`; which: of each visit the position of
    its mark; figures: MARK_FIGURE of each mark, of all who were there, listed or not; persons: V16;
    newest: ref of each person's newest row; total: rows found.
    """

    visits: Array
    which: Array
    figures: Array
    persons: Array
    newest: Array
    total: int
    lsn: int


def find_marked(
    snapshot: Snapshot, marks: Sequence[Mark], *, least: int, since: int, limit: int
) -> Marked:
    """A person whom an earlier answer could not show has a newer row than that answer or was merged
    since: visits are a function of the person's scans alone. So `since` may list somebody again,
    and misses nobody.
    """
    found = [snapshot.venue(mark.place, mark.from_ms, mark.to_ms) for mark in marks]
    figures = np.zeros(len(marks), MARK_FIGURE)
    figures["persons"] = [len(one.persons) for one in found]
    figures["visits"] = [len(one.visits) for one in found]
    which = np.repeat(np.arange(len(marks), dtype=np.uint32), figures["visits"])
    visits = np.frombuffer(b"".join(one.visits.tobytes() for one in found), VISIT).copy()
    persons, newest, position = _joined_persons(found)
    first = np.cumsum(figures["persons"]) - figures["persons"]
    visits["person"] = position[visits["person"] + first[which]]

    at = np.unique(visits["person"].astype(np.uint64) << np.uint64(32) | which) >> np.uint64(32)
    count = np.bincount(at.astype(np.int64), minlength=len(persons))
    is_new = newest >> np.uint64(REF_ROW_BITS) > since
    is_listed = (count >= least) & (is_new | snapshot.changed_after(persons, since))
    kept = is_listed[visits["person"]]
    visits, which = visits.compress(kept), which.compress(kept)

    begun = np.full(len(persons), np.iinfo(np.int64).max)
    np.minimum.at(begun, visits["person"], visits["start_ms"])
    people = np.flatnonzero(is_listed)
    # Persons come by ascending key, which decides where all else is equal.
    people = people[np.lexsort((people, begun[people], -count[people]))]
    rank = np.zeros(len(persons), np.uint32)
    rank[people] = np.arange(len(people))
    visits["person"] = rank[visits["person"]]
    order = np.lexsort((which, visits["place"], visits["start_ms"], visits["person"]))[:limit]
    shown = visits.take(order)
    people = people[: int(shown["person"][-1]) + 1 if len(shown) else 0]
    return Marked(
        shown, which[order], figures, persons[people], newest[people], len(visits), snapshot.lsn
    )


def _joined_persons(found: Sequence[Found]) -> tuple[Array, Array, Array]:
    """(persons V16 ascending, each once; newest ref of each; of each in `found` its position)."""
    keys = np.frombuffer(b"".join(one.persons.tobytes() for one in found), "V16")
    halves = np.frombuffer(keys.tobytes(), ">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    sorted_keys = halves[order]
    is_first = np.ones(len(keys), bool)
    is_first[1:] = (sorted_keys[1:] != sorted_keys[:-1]).any(axis=1)
    position = np.empty(len(keys), np.int64)
    position[order] = np.cumsum(is_first) - 1
    newest = np.frombuffer(b"".join(one.newest.tobytes() for one in found), "<u8")
    first = order[is_first]
    return keys[first], newest[first], position
