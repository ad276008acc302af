"""A roll: a list of persons, such as entrants by the police, against what was scanned (Q9, LI-1).

A row is matched by its documents; by name and date of birth, as a health pass has them, it is
unsure, and so it is where its documents belong to different persons. A person decides.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from engine.colocation.index import clamped
from engine.errors import QuestionInvalid
from engine.presence.visits import VISIT, Array
from engine.tracing.rows import LAYOUTS
from engine.tracing.tracer import Answer, Scene
from native.walks import visits_of_many

ROWS_MAX: Final = 10_000
NOBODY: Final = 0xFFFF_FFFF

MATCH: Final = np.dtype(
    [
        ("first_ms", "<i8"),
        ("last_ms", "<i8"),  # start of the last visit
        ("visits", "<u4"),
        ("person", "<u4"),  # position in the answer's persons, NOBODY for none
        ("place", "<u4"),  # of the last visit
        ("state", "u1"),
        ("why", "u1"),
        ("spare", "V2"),
    ]
)
LAYOUTS.update(matches=MATCH)


class State(enum.IntEnum):
    NONE = 0
    MATCHED = 1
    UNSURE = 2


class Why(enum.IntEnum):
    """Why a row is in its state."""

    DOCUMENT = 0  # matched: seen with a document of the row
    SEVERAL = 1  # unsure: its documents are of different persons, who both were seen
    NAME = 2  # unsure: somebody of that name and birth was seen with a health pass
    NOT_SEEN = 3  # none
    ELSEWHEN = 4  # none: scanned, but not in the span
    MALFORMED = 5  # none: a number is none of its kind, and nothing else was found
    EMPTY = 6  # none: neither a number nor name, birth and country


class Entry(msgspec.Struct, frozen=True):
    """Keys of one row: of its documents, and of a health pass of that name and birth."""

    sure: tuple[bytes, ...] = ()
    unsure: tuple[bytes, ...] = ()
    is_malformed: bool = False


class RollAnswer(Answer, frozen=True, kw_only=True, tag="roll"):
    """packed: matches, a row each in the order of the list; newest. total: rows of the list."""


@dataclass
class RollQuestion:
    """Who of these was seen at some time in [from_ms, to_ms)?

    read: makes the entries of the rows, which takes a while, so whoever answers calls it.
    """

    read: Callable[[], Sequence[Entry]]
    from_ms: int
    to_ms: int
    limit: int = 1000

    @functools.cached_property
    def entries(self) -> Sequence[Entry]:
        return self.read()

    @property
    def persons(self) -> list[bytes]:
        """Everybody asked about."""
        return list(
            dict.fromkeys(key for entry in self.entries for key in entry.sure + entry.unsure)
        )

    def check(self) -> None:
        """Raises QuestionInvalid."""
        if not 1 <= len(self.entries) <= ROWS_MAX:
            raise QuestionInvalid(f"rows must be 1 to {ROWS_MAX}")

    def answer(self, scene: Scene) -> RollAnswer:
        snapshot = scene.snapshot
        known = {key: snapshot.persons_of([key]) for key in self.persons}
        numbers = {key: found[0] for key, found in known.items() if found}
        people = np.unique(np.array(list(numbers.values()), "<u4"))
        packed = visits_of_many(
            snapshot.tables, people.data, clamped(self.from_ms), clamped(self.to_ms),
            snapshot.epoch,
        )  # fmt: skip
        visits = np.frombuffer(packed, VISIT)
        if scene.allowed is not None:
            allowed = np.array(sorted(scene.allowed), np.int64)
            visits = visits.compress(np.isin(visits["place"], allowed))
        seen = _sums(visits)
        # Of a person outside of its area a role learns nothing, not even that there is one.
        is_whole = scene.allowed is None
        rows = [_match(entry, numbers, seen, is_whole=is_whole) for entry in self.entries]
        matches = np.array(rows, MATCH)
        is_found = matches["person"] != NOBODY
        shown, position = np.unique(matches["person"][is_found], return_inverse=True)
        matches["person"][is_found] = position
        answer = {"matches": matches, "newest": snapshot.newest_of(shown)}
        return RollAnswer(**scene.fields(snapshot.keys[shown], answer, len(matches), len(matches)))


def _sums(visits: Array) -> dict[int, tuple[int, int, int, int]]:
    """(first start, last start, visits, last place) by person."""
    visits = visits.take(np.lexsort((visits["place"], visits["start_ms"], visits["person"])))
    is_first = np.ones(len(visits), bool)
    is_first[1:] = visits["person"][1:] != visits["person"][:-1]
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(visits)) - 1 if len(first) else first
    columns = (
        visits["person"][first], visits["start_ms"][first], visits["start_ms"][last],
        last - first + 1, visits["place"][last],
    )  # fmt: skip
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {person: (begun, ended, count, place) for person, begun, ended, count, place in rows}


def _match(
    entry: Entry,
    numbers: dict[bytes, int],
    seen: dict[int, tuple[int, int, int, int]],
    *,
    is_whole: bool,
) -> tuple[int, int, int, int, int, int, int, bytes]:
    """A row of MATCH."""
    sure = {numbers[key] for key in entry.sure if key in numbers}
    unsure = {numbers[key] for key in entry.unsure if key in numbers} - sure
    here = sorted(number for number in sure if number in seen)
    maybe = sorted(number for number in unsure if number in seen)
    if here:
        state, why = (State.UNSURE, Why.SEVERAL) if len(here) > 1 else (State.MATCHED, Why.DOCUMENT)
    elif maybe:
        state, why = State.UNSURE, Why.NAME
    elif (sure or unsure) and is_whole:
        state, why = State.NONE, Why.ELSEWHEN
    elif entry.is_malformed:
        state, why = State.NONE, Why.MALFORMED
    else:
        has_any = entry.sure or entry.unsure
        state, why = State.NONE, Why.NOT_SEEN if has_any else Why.EMPTY
    found = here or maybe
    if not found:
        return 0, 0, 0, NOBODY, 0, state, why, b""
    number = max(found, key=lambda n: (seen[n][1], -n))
    first_ms, last_ms, visits, place = seen[number]
    return first_ms, last_ms, visits, number, place, state, why, b""
