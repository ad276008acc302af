"""The watch list: from records and back, who is found when, and that records name nobody."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.errors import JournalCorrupt
from engine.identity.keys import FileKeyRing
from engine.identity.watch import (
    ADD_KIND,
    REMOVE_KIND,
    WatchEntry,
    WatchKind,
    WatchList,
    entry_to_body,
    removal_to_body,
)

ANH, CARD, BINH = b"a" * 16, b"c" * 16, b"b" * 16


@dataclass
class Record:
    lsn: int
    kind: str
    body: bytes
    by: str = "cdc-truy-vet"
    at_ms: int = 500


@pytest.fixture
def ring(tmp_path: Path) -> FileKeyRing:
    return FileKeyRing(tmp_path / "keys", create=True)


def entry(number: int = 0, **changes: Any) -> WatchEntry:
    fields: dict[str, Any] = {
        "number": number, "kind": WatchKind.QUARANTINE, "persons": (ANH, CARD),
        "reason": "cách ly tại nhà", "case": "BN-1234", "purpose": "case", "who": "cdc-truy-vet",
        "role": "tracer", "unit": "CDC", "from_ms": 1000, "to_ms": 2000, "at_ms": 500,
    }  # fmt: skip
    return WatchEntry(**fields | changes)


def removal(number: int) -> bytes:
    return removal_to_body(number, case="BN-1234", purpose="case", role="tracer", unit="CDC")


def test_records_bring_the_list_back(ring: FileKeyRing) -> None:
    watch = WatchList(ring)
    watch.apply(Record(3, ADD_KIND, entry_to_body(entry(), ring)))
    second = entry(persons=(BINH,), kind=WatchKind.WATCH)
    watch.apply(Record(5, ADD_KIND, entry_to_body(second, ring)))
    watch.apply(Record(6, "registry.venue", b"not ours"))
    assert watch.entries() == [entry(3), msgspec.structs.replace(second, number=5)]
    watch.apply(Record(7, REMOVE_KIND, removal(3)))
    watch.apply(Record(8, REMOVE_KIND, removal(3)))  # again, and of nothing
    assert [found.number for found in watch.entries()] == [5]
    assert watch.find(ANH, 1500) == [] and watch.get(3) is None


def test_each_document_finds_the_entry_while_it_holds(ring: FileKeyRing) -> None:
    watch = WatchList(ring)
    for number, span in ((1, (1000, 2000)), (2, (1500, 3000))):
        watch.put(entry(number, from_ms=span[0], to_ms=span[1]))
    for person in (ANH, CARD):
        numbers = [[e.number for e in watch.find(person, at)] for at in (999, 1000, 1999, 2000)]
        assert numbers == [[], [1], [1, 2], [2]]
    assert watch.find(BINH, 1500) == []
    assert len(watch.drop_ended(2000)) == 1
    assert [e.number for e in watch.find(ANH, 1500)] == [2]
    assert len(watch.drop_ended(3000)) == 1
    assert len(watch) == 0 and not watch._by_person


def test_a_record_names_nobody(ring: FileKeyRing) -> None:
    body = entry_to_body(entry(), ring)
    for secret in (ANH, CARD, "cách ly".encode()):
        assert secret not in body
    assert b"BN-1234" in body, "the case stands in the open, as in the audit"


def test_a_record_that_does_not_open_keeps_the_doors_shut(
    ring: FileKeyRing, tmp_path: Path
) -> None:
    other = FileKeyRing(tmp_path / "others", create=True)
    good = entry_to_body(entry(), ring)
    bad = [
        (ADD_KIND, entry_to_body(entry(), other)), (ADD_KIND, good[:-1]), (ADD_KIND, b""),
        (ADD_KIND, removal(1)), (REMOVE_KIND, good), (REMOVE_KIND, b"\xc1"),
        (ADD_KIND, entry_to_body(entry(persons=(b"short",)), ring)),
    ]  # fmt: skip
    for kind, body in bad:
        with pytest.raises(JournalCorrupt, match="control record 9"):
            WatchList(ring).apply(Record(9, kind, body))
