"""Erasing a person from rows: who is found, what is left, what a late batch loses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from engine.clock import ManualClock, day_to_ms
from engine.errors import JournalCorrupt
from engine.identity.keys import DeskKeys, FileKeyRing
from engine.keeping.erasure import (
    Amended,
    Erased,
    Erasure,
    Erasures,
    body_to_erased,
    body_to_erasure,
    erase_rows,
    tags_of,
)
from engine.scans.rows import NO_TEMPERATURE, ROW, Kind
from engine.storage.group import Group, RawGroup, bytes_to_group, split_details
from engine.storage.journal import MemoryJournal, Part, RecordBatch, Run
from tests.reference.batches import DAY, pack_details

PEOPLE = [bytes([n + 1]) * 16 for n in range(4)]
BEGIN_MS = day_to_ms(DAY)


@pytest.fixture
def ring(tmp_path: Path) -> FileKeyRing:
    return FileKeyRing(tmp_path / "keys", create=True)


def rows_of(*whos: int) -> np.ndarray:
    """A row each of these people, a minute apart."""
    rows = np.zeros(len(whos), ROW)
    rows["person"] = np.frombuffer(b"".join(PEOPLE[who] for who in whos), "V16")
    rows["time_ms"] = BEGIN_MS + 60_000 * np.arange(1, len(whos) + 1)
    rows["n"] = np.arange(len(whos))
    rows["kind"] = Kind.SCAN
    for name in ("place", "lane", "vehicle", "stay_ms", "area", "flags", "temperature_cc"):
        rows[name] = 77
    return rows


def batch_of(rows: np.ndarray, details: bool = True) -> RecordBatch:
    packed = pack_details(b"name %d" % n for n in rows["n"]) if details else b""
    return RecordBatch(Run(4, 7, 0, 1, 1), [Part(DAY, rows.tobytes(), packed)])


def erasures_of(ring: FileKeyRing, *whos: int, until_ms: int) -> Erasures:
    erasures = Erasures(ring)
    erasures.put(Erasure(tags=tags_of([PEOPLE[who] for who in whos], ring), until_ms=until_ms))
    return erasures


def stored(batch: RecordBatch, ring: FileKeyRing) -> RawGroup:
    found: list[RawGroup] = []

    async def main() -> None:
        journal = MemoryJournal(ring, ManualClock())
        await journal.append(batch)
        await journal.amend([1], lambda raw: found.append(raw))  # type: ignore[func-returns-value]

    asyncio.run(main())
    return found[0]


def erased(raw: RawGroup, ring: FileKeyRing, erasures: Erasures) -> Group:
    data = erase_rows(raw, ring, erasures)
    assert data is not None
    return bytes_to_group(data, ring)


def test_what_is_left_of_an_erased_row_is_its_place(ring: FileKeyRing, tmp_path: Path) -> None:
    rows = rows_of(0, 1, 0, 2)
    raw = stored(batch_of(rows), ring)
    group = erased(raw, ring, erasures_of(ring, 0, until_ms=BEGIN_MS + 10**7))
    assert group.rows[[1, 3]].tobytes() == rows[[1, 3]].tobytes()
    blank = np.zeros(2, ROW)
    blank["n"], blank["kind"], blank["time_ms"] = [0, 2], Kind.ERASED, BEGIN_MS
    blank["temperature_cc"] = NO_TEMPERATURE
    assert group.rows[[0, 2]].tobytes() == blank.tobytes()
    assert PEOPLE[0] not in group.rows.tobytes()
    aad = b"chot/details/1\0" + (1).to_bytes(8, "little") + DAY.to_bytes(4, "little")
    plain = DeskKeys(tmp_path / "keys/desk").open_details(
        DAY, group.details_sealed, aad + (4).to_bytes(4, "little")
    )
    assert split_details(plain, 4) == [b"", b"name 1", b"", b"name 3"]


def test_only_rows_from_before_the_instant_go(ring: FileKeyRing) -> None:
    raw = stored(batch_of(rows_of(0, 0, 1, 0), details=False), ring)
    group = erased(raw, ring, erasures_of(ring, 0, until_ms=BEGIN_MS + 2 * 60_000))
    assert (group.rows["kind"] == Kind.ERASED).tolist() == [True, False, False, False]
    assert erase_rows(raw, ring, erasures_of(ring, 0, until_ms=BEGIN_MS + 60_000)) is None
    assert erase_rows(raw, ring, erasures_of(ring, 3, until_ms=BEGIN_MS + 10**7)) is None
    assert erase_rows(raw, ring, Erasures(ring)) is None


def test_erasing_again_changes_nothing_more(ring: FileKeyRing) -> None:
    raw = stored(batch_of(rows_of(0, 1)), ring)
    erasures = erasures_of(ring, 0, until_ms=BEGIN_MS + 10**7)
    again: list[bytes | None] = []

    async def main() -> None:
        journal = MemoryJournal(ring, ManualClock())
        await journal.append(batch_of(rows_of(0, 1)))
        await journal.amend([1], lambda raw: erase_rows(raw, ring, erasures))
        await journal.amend([1], lambda raw: again.append(erase_rows(raw, ring, erasures)))  # type: ignore[func-returns-value]

    asyncio.run(main())
    assert again == [None]
    assert raw.amended == b""


def test_names_that_nobody_can_open_go_with_the_rest(ring: FileKeyRing) -> None:
    raw = stored(batch_of(rows_of(0, 1)), ring)
    raw.details_sealed = raw.details_sealed[:-1] + b"\0"
    group = erased(raw, ring, erasures_of(ring, 0, until_ms=BEGIN_MS + 10**7))
    assert group.details_sealed == b""


def test_late_rows_of_the_erased_are_left_out(ring: FileKeyRing) -> None:
    erasures = erasures_of(ring, 0, 2, until_ms=BEGIN_MS + 10**7)
    rows = rows_of(0, 1, 2, 3)
    batch = erasures.strip(batch_of(rows))
    assert erasures.late_rows == 2
    assert batch.parts[0].rows == rows[[1, 3]].tobytes()
    assert split_details(batch.parts[0].details, 2) == [b"name 1", b"name 3"]
    assert erasures.strip(batch_of(rows_of(0, 0), details=False)).parts == []
    assert erasures.late_rows == 4
    later = rows_of(0)
    later["time_ms"] += 10**8
    assert erasures.strip(batch_of(later)) == batch_of(later)
    erasures.drop_before(BEGIN_MS + 10**7)
    assert len(erasures) == 0
    assert erasures.strip(batch_of(rows)) == batch_of(rows)
    assert erasures.late_rows == 4


def test_a_tag_names_nobody_and_is_the_rings_own(ring: FileKeyRing, tmp_path: Path) -> None:
    (tag,) = tags_of([PEOPLE[0], PEOPLE[0]], ring)
    assert tag != PEOPLE[0] and len(tag) == 16
    assert FileKeyRing(tmp_path / "keys").erasure_tag(PEOPLE[0]) == tag
    assert FileKeyRing(tmp_path / "other", create=True).erasure_tag(PEOPLE[0]) != tag


def test_a_ring_of_before_gets_the_key_of_tags(ring: FileKeyRing, tmp_path: Path) -> None:
    (tmp_path / "keys/erasure.key").unlink()
    older = FileKeyRing(tmp_path / "keys")
    assert older.erasure_tag(PEOPLE[0]) == FileKeyRing(tmp_path / "keys").erasure_tag(PEOPLE[0])


def test_records_say_what_was_left() -> None:
    import msgspec

    begun = Erasure(tags=(b"t" * 16,), until_ms=5, case="YC-1", role="auditor", unit="x")
    done = Erased(number=3, rows=2, groups={7: b"g" * 32}, records={1: b"r" * 32})
    found = Amended()
    found.apply(3, "erasure.begin", msgspec.msgpack.encode(begun))
    assert found.unfinished == {3: begun}
    assert found.strange({9: b"x"}, found.groups) == []
    found.apply(4, "audit", b"")
    found.apply(5, "erasure.done", msgspec.msgpack.encode(done))
    assert not found.unfinished
    assert found.strange({7: b"g" * 32}, found.groups) == []
    assert found.strange({7: b"h" * 32, 9: b"x"}, found.groups) == [7, 9]
    for read in (body_to_erasure, body_to_erased):
        with pytest.raises(JournalCorrupt):
            read(b"\xff")
