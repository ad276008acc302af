"""Who passed a post between two times, and who of them came from an area (Q6, LI-4).

Where somebody came from is what scans show: a visit to a place of the area that began before the
passage and was over for `within_ms` at most. Where somebody lives is no part of a row; the API
compares the addresses that were told (engine.passed_answers).
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from engine.clock import DAY_MS
from engine.colocation.index import Snapshot, clamped
from engine.errors import AccessDenied, NotFound, QuestionInvalid
from engine.presence.visits import VISIT, Array, VisitFlag
from engine.scans.rows import Direction
from engine.tracing.pages import Page, page_of, visits_at
from engine.tracing.tracer import Answer, Scene
from native.walks import visits_of_many

WITHIN_MAX_DAYS: Final = 60


class PassedAnswer(Answer, frozen=True, kw_only=True, tag="passed"):
    """packed: visits (passages) by start, newest."""


class PassedQuestion(msgspec.Struct, frozen=True, kw_only=True, tag="passed"):
    """direction: engine.scans.rows.Direction, NONE for both. came_from: numbers of the places of
    the area, None for from wherever. within_ms: how long ago that may be. after: see
    engine.tracing.pages."""

    place: int
    from_ms: int
    to_ms: int
    direction: int = 0
    came_from: frozenset[int] | None = None
    within_ms: int = 14 * DAY_MS
    after: str = ""
    limit: int = 1000

    def check(self) -> None:
        """Raises QuestionInvalid."""
        if self.direction not in tuple(Direction):
            raise QuestionInvalid("direction must be in, out or none")
        if not 1 <= self.within_ms <= WITHIN_MAX_DAYS * DAY_MS:
            raise QuestionInvalid(f"within_days must be 1 to {WITHIN_MAX_DAYS}")

    def answer(self, scene: Scene) -> PassedAnswer:
        """Raises AccessDenied, NotFound."""
        if scene.allowed is not None and self.place not in scene.allowed:
            raise AccessDenied("place: it lies outside of the area of the role")
        if scene.place(self.place) is None:
            raise NotFound(f"place: there is no place {self.place}")
        came_from = self.came_from
        if came_from is not None and scene.allowed is not None:
            came_from = came_from.intersection(scene.allowed)
            if not came_from:
                raise AccessDenied("came_from: it lies outside of the area of the role")
        return PassedAnswer(**scene.page(find_passed(scene.snapshot, self, came_from)))


def find_passed(
    snapshot: Snapshot, asked: PassedQuestion, came_from: frozenset[int] | None
) -> Page:
    """Passages that overlap the span. came_from: as in the question, within the role's area."""
    visits = visits_at(snapshot, asked.place, asked.from_ms, asked.to_ms)
    kept = (visits["flags"] & VisitFlag.PASSAGE) > 0
    if asked.direction != Direction.NONE:
        kept &= visits["direction"] == asked.direction
    visits = visits.compress(kept)
    if came_from is not None:
        visits = visits.compress(has_come(snapshot, visits, came_from, asked.within_ms))
    return page_of(snapshot, visits, asked.limit, asked.after)


def has_come(snapshot: Snapshot, passages: Array, places: frozenset[int], within_ms: int) -> Array:
    """Mask of the passages whose person was at one of the places not long before."""
    if not len(passages):
        return np.zeros(0, bool)
    people, rank = np.unique(passages["person"], return_inverse=True)
    low_ms = int(passages["start_ms"].min()) - within_ms
    high_ms = int(passages["start_ms"].max()) + 1
    packed = visits_of_many(snapshot.tables, people.data, clamped(low_ms), high_ms, snapshot.epoch)
    stays = np.frombuffer(packed, VISIT)
    stays = stays.compress(np.isin(stays["place"], np.array(sorted(places), np.int64)))
    # Both together by person and time, a stay behind a passage that begins at the same instant.
    person = np.concatenate([rank, np.searchsorted(people, stays["person"])])
    start = np.concatenate([passages["start_ms"], stays["start_ms"]])
    is_stay = np.arange(len(person)) >= len(passages)
    ends = np.concatenate([np.full(len(passages), low_ms), np.maximum(stays["end_ms"], low_ms)])
    order = np.lexsort((is_stay, start, person))
    # The latest end of a person's stays so far: ends as ranks, so that persons stay apart.
    levels, level = np.unique(ends[order], return_inverse=True)
    reach = np.maximum.accumulate(person[order].astype(np.int64) * len(levels) + level)
    latest = np.empty(len(order), np.int64)
    latest[order] = levels[reach - person[order].astype(np.int64) * len(levels)]
    mine = latest[: len(passages)]
    came: Array = mine > passages["start_ms"] - within_ms
    return came
