"""Trace: who was at this place in two hours (Q1), and where was this person in 14 days (Q2).

The same world and the same stores as of `contacts`, which is Q3. A repetition asks both questions,
in turn, for every person of the sample and for a place where that person was.
"""

from __future__ import annotations

from typing import Final, cast

from bench.case_contacts import World, invite_stores, make_world, to_index
from bench.harness import Case, Contender, Params, Place, Round
from bench.visit_stores import Visits, VisitStore
from engine.clock import HOUR_MS
from engine.colocation.index import CoLocationIndex

Question = tuple[bytes, int, int]  # person, a place of theirs, when
Answers = list[tuple[set[bytes], Visits]]


class Ours(Contender):
    name = "chot"
    note = "Snapshot.venue and Snapshot.history, as a tracer gets them: sorted, with newest rows"

    def __init__(self, index: CoLocationIndex, asked: list[Question], world: World) -> None:
        self._index, self._asked = index, asked
        self._span = world.from_ms, world.to_ms
        self._found: list[object] = []

    def work(self, repetition: int) -> None:
        snapshot = self._index.snapshot()
        self._found = [
            (snapshot.venue(place, at_ms, at_ms + 2 * HOUR_MS),
             snapshot.history([person], *self._span))
            for person, place, at_ms in self._asked
        ]  # fmt: skip

    def answer(self) -> bytes:
        snapshot = self._index.snapshot()
        answers: Answers = []
        for person, place, at_ms in self._asked:
            there = snapshot.venue(place, at_ms, at_ms + 2 * HOUR_MS)
            mine = snapshot.history([person], *self._span).visits
            columns = (mine[name].tolist() for name in ("start_ms", "end_ms", "place"))
            answers.append((set(there.persons.tolist()), list(zip(*columns, strict=True))))
        return to_answer(answers)


class KeysAlone(Ours):
    """The same index for as little as the stores give."""

    name = "chot, keys alone"
    note = "Snapshot.people_at and Snapshot.times_of: unsorted, without newest rows"

    def work(self, repetition: int) -> None:
        snapshot = self._index.snapshot()
        self._found = [
            (
                snapshot.people_at(place, at_ms, at_ms + 2 * HOUR_MS),
                snapshot.times_of(person, *self._span),
            )
            for person, place, at_ms in self._asked
        ]

    def answer(self) -> bytes:
        answers: Answers = [
            (there, [(start, start + length, place) for start, length, place in mine])
            for there, mine in cast("Answers", self._found)
        ]
        return to_answer(answers)


class Asked(Contender):
    def __init__(self, store: VisitStore, asked: list[Question], world: World) -> None:
        self.name, self.note, self.is_elsewhere = store.name, store.note, store.is_elsewhere
        self._store, self._asked = store, asked
        self._span = world.from_ms, world.to_ms
        self._found: Answers = []

    def work(self, repetition: int) -> None:
        present, history = self._store.present, self._store.history
        self._found = [
            (present(place, at_ms, at_ms + 2 * HOUR_MS), history(person, *self._span))
            for person, place, at_ms in self._asked
        ]

    def answer(self) -> bytes:
        return to_answer(self._found)

    def close(self) -> None:
        self._store.close()


def to_answer(answers: Answers) -> bytes:
    return repr([(sorted(there), sorted(mine)) for there, mine in answers]).encode()


def to_questions(world: World) -> list[Question]:
    """Of each person the first visit says which place is asked about."""
    visits = world.visits
    found: list[Question] = []
    for person, key in zip(world.asked, world.keys(), strict=True):
        first = visits[visits["person"] == person][0]
        found.append((key, int(first["place"]), int(first["start_ms"])))
    return found


def oracle(world: World, asked: list[Question]) -> bytes:
    """By masks over all visits."""
    visits, keys = world.visits, world.province.keys
    answers: Answers = []
    for (_, place, at_ms), person in zip(asked, world.asked, strict=True):
        there = visits[
            (visits["place"] == place)
            & (visits["start_ms"] < at_ms + 2 * HOUR_MS)
            & (visits["end_ms"] > at_ms)
        ]
        mine = visits[
            (visits["person"] == person)
            & (visits["start_ms"] < world.to_ms)
            & (visits["end_ms"] > world.from_ms)
        ]
        columns = (mine[name].tolist() for name in ("start_ms", "end_ms", "place"))
        persons = set(keys[there["person"]].tolist())
        answers.append((persons, list(zip(*columns, strict=True))))
    return to_answer(answers)


def set_up(params: Params, place: Place) -> Round:
    world, days = make_world(params, place.seed)
    asked = to_questions(world)
    index = to_index(world, days)
    stores, skipped = invite_stores(world, place)
    contenders: list[Contender] = [
        Ours(index, asked, world),
        KeysAlone(index, asked, world),
        *(Asked(store, asked, world) for store in stores),
    ]
    facts: dict[str, int | str] = {"visits": len(world.visits), "people": world.province.people}
    return Round(contenders, 2 * len(asked), oracle(world, asked), facts, skipped=skipped)


CASE: Final = Case(
    name="trace",
    what="who was at a place (Q1) and where was a person (Q2), against stores of whole visits",
    unit="question",
    params={
        "smoke": {"visits": 6_000, "days": 3, "questions": 10, "repetitions": 2},
        "small": {"visits": 100_000, "days": 14, "questions": 100, "repetitions": 7},
        "large": {"visits": 1_000_000, "days": 14, "questions": 200, "repetitions": 11},
    },
    set_up=set_up,
)
