"""Merges and reviews: records back and forth, who is one person, who is listed, who may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.colocation.reviews import find_reviews, new_reviews
from engine.errors import JournalCorrupt
from engine.identity.keys import FileKeyRing
from engine.identity.merges import (
    ADD_KIND,
    REOPEN_KIND,
    REVIEW_KIND,
    UNDO_KIND,
    Merge,
    Merges,
    merge_to_body,
)
from engine.identity.watch import WatchList
from engine.scans.rows import ROW, Flag, Kind
from tests.unit.test_index import Group
from tests.unit.test_watch import Record, entry

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))


@pytest.fixture
def ring(tmp_path: Path) -> FileKeyRing:
    return FileKeyRing(tmp_path / "keys", create=True)


def merge(*persons: bytes, number: int = 0) -> Merge:
    return Merge(
        number=number, persons=persons, documents=("cccd", "pass"), why="cùng một người",
        case="BN-1", purpose="case", who="cdc-truy-vet", role="tracer", unit="CDC", at_ms=500,
    )  # fmt: skip


def test_records_bring_merges_back(ring: FileKeyRing) -> None:
    merges = Merges(ring)
    merges.apply(Record(3, ADD_KIND, merge_to_body(merge(A, B), ring)))
    merges.apply(Record(4, ADD_KIND, merge_to_body(merge(C, B), ring)))
    merges.apply(Record(5, "watch.add", b"not ours"))
    assert merges.entries() == [merge(A, B, number=3), merge(C, B, number=4)]
    assert merges.aliases().all_of(A) == (A, B, C)
    merges.apply(Record(6, UNDO_KIND, merge_to_body(merge(A, B), ring, 3)))
    merges.apply(Record(7, UNDO_KIND, merge_to_body(merge(A, B), ring, 3)))  # again
    assert merges.aliases().all_of(A) == (A,) and merges.aliases().all_of(C) == (B, C)
    assert merges.ever == {A, B, C}, "an earlier answer may have shown A otherwise"


def test_reviews_are_settled_and_opened_again(ring: FileKeyRing) -> None:
    merges = Merges(ring)
    merges.apply(Record(3, REVIEW_KIND, merge_to_body(merge(A), ring)))
    assert merges.settled == {A} and not len(merges)
    merges.apply(Record(4, REOPEN_KIND, merge_to_body(merge(A), ring)))
    assert merges.settled == set()


def test_a_record_names_nobody_and_one_that_does_not_open_stops_the_start(
    ring: FileKeyRing, tmp_path: Path
) -> None:
    body = merge_to_body(merge(A, B), ring)
    assert A not in body and B not in body and "người".encode() not in body
    other = FileKeyRing(tmp_path / "others", create=True)
    for kind in (ADD_KIND, UNDO_KIND, REVIEW_KIND, REOPEN_KIND):
        for bad in (body[:-1], b"", merge_to_body(merge(A, B), other)):
            with pytest.raises(JournalCorrupt, match="control record 9"):
                Merges(ring).apply(Record(9, kind, bad))


def test_the_watch_list_knows_every_key_of_a_person(ring: FileKeyRing) -> None:
    watch, merges = WatchList(ring), Merges(ring)
    watch.put(entry(1, persons=(A,), from_ms=0, to_ms=100))
    merges.put(merge(A, B, number=2))
    watch.set_aliases(merges.aliases())
    watch.put(entry(3, persons=(B, C), from_ms=0, to_ms=100))
    for key in (A, B):
        assert [found.number for found in watch.find(key, 50)] == [1, 3]
    assert [found.number for found in watch.find(C, 50)] == [3]
    assert watch.may_find([B]) and not watch.may_find([b"d" * 16])
    assert watch.drop(1) is not None
    assert [found.number for found in watch.find(B, 50)] == [3]
    merges.drop(2)
    watch.set_aliases(merges.aliases())
    assert watch.find(A, 50) == [] and [e.number for e in watch.find(B, 50)] == [3]


def test_those_who_wait_are_listed_once_newest_first() -> None:
    rows = np.zeros(6, ROW)
    people = [A, B, A, C, A, bytes(15) + b"\1"]
    for row, key, at in zip(rows, people, (10, 20, 30, 40, 50, 25), strict=True):
        row["person"], row["time_ms"] = np.void(key), at
        row["kind"], row["place"], row["flags"] = Kind.SCAN, at, Flag.REVIEW
    rows["flags"][3] = Flag.COPIED
    rows["kind"][4], rows["place"][1] = Kind.MANUAL, 7
    reviews = new_reviews()
    reviews.apply(Group(5, rows))
    parts = reviews.parts()

    def listed(**why: object) -> list[tuple[object, ...]]:
        options = {"from_ms": 0, "to_ms": 100, "places": None, "done": set()} | why
        return find_reviews(parts, **options)[  # type: ignore[arg-type]
            ["person", "first_ms", "last_ms", "ref", "place", "rows", "kind"]
        ].tolist()

    last = bytes(15) + b"\1"
    assert listed() == [
        (A, 10, 50, 5 << 20 | 4, 50, 3, Kind.MANUAL),
        (last, 25, 25, 5 << 20 | 5, 25, 1, Kind.SCAN),
        (B, 20, 20, 5 << 20 | 1, 7, 1, Kind.SCAN),
    ]
    assert [row[0] for row in listed(done={A, last})] == [B]
    assert [row[0] for row in listed(places=frozenset({7, 10}))] == [B, A]
    assert listed(to_ms=20)[0][:3] == (A, 10, 10)
    assert listed(from_ms=90) == []
