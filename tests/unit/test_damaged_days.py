"""A damaged day of the index costs the groups of the log that have its rows, and no answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.clock import ManualClock, day_to_ms
from engine.colocation.index import CoLocationIndex
from engine.colocation.segmented import SegmentedIndex
from engine.colocation.segments_lmdb import MANIFEST, LmdbSegments, check_folder
from engine.derivation import Derivation
from engine.errors import JournalCorrupt, StorageFull
from engine.identity.aliases import Aliases
from engine.identity.keys import FileKeyRing
from engine.scans.dedup import SeenWindow, Spans
from engine.scans.rows import Kind
from engine.storage.journal import Journal, Part, RecordBatch, Run
from engine.storage.journal_lmdb import LmdbJournal
from tests.reference.batches import read_groups
from tests.unit.test_index import Group
from tests.unit.test_segmented import (
    DAY,
    OTHER_PLACES,
    PLACES,
    RULES,
    Stand,
    answers,
    key_of,
    make_groups,
)

DAMAGE = ["flip", "cut", "grown", "missing", "foreign"]


def damage(stand: Stand, path: Path, what: str, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if what == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif what == "cut":
        path.write_bytes(data[:-4096])
    elif what == "grown":
        path.write_bytes(data + bytes(4096))
    elif what == "missing":
        path.unlink()
    elif what == "foreign":  # whole, and another day's
        path.write_bytes(next(p for p in stand.files() if p != path).read_bytes())


def without_a_day(folder: Path) -> tuple[Stand, CoLocationIndex]:
    """A closed store that lacks the file of its last day, and an index of all that it had."""
    stand = Stand(folder, memory_scans=50)
    plain = CoLocationIndex(PLACES, RULES)
    for group in make_groups(random.Random(1), 200):
        plain.apply(group)
        stand.apply(group)
        stand.index.catch_up()
    stand.store.close()
    stand.files()[-1].unlink()
    return stand, plain


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_day_costs_its_own_groups(tmp_path: Path, what: str) -> None:
    for seed in range(6):
        rng = random.Random(seed)
        stand = Stand(tmp_path / str(seed), memory_scans=rng.choice([50, 1 << 20]))
        plain = CoLocationIndex(PLACES, RULES)
        # Persons who are several keys, and forgotten days, in some.
        aliases = Aliases([[key_of(0), key_of(1)], [key_of(2), key_of(3)]] if seed % 2 else [])
        groups = make_groups(rng, 250, days=6)
        for group in groups:
            plain.apply(group)
            stand.apply(group)
            stand.index.catch_up()
        for index in (stand.index, plain):
            index.set_aliases(aliases)
            if seed % 3 == 0:
                index.expire(day_to_ms(DAY + 1))
        stand.index.write_down()
        stand.store.close()
        path = rng.choice([p for p in stand.files() if int(p.name[:5]) > DAY + 1])
        damage(stand, path, what, rng)
        if seed == 4:
            stand.places = OTHER_PLACES  # while it was down
            plain.set_place_rules(OTHER_PLACES)
        stand.open()
        stand.index.set_aliases(aliases)
        assert (stand.read, stand.replayed) == ({int(path.name[:5])}, 0)
        assert answers(stand.index) == answers(plain), seed
        assert stand.index.memory_scans == 0
        more = make_groups(rng, 60, days=6)
        for group in more:
            group = Group(group.lsn + groups[-1].lsn, group.rows)
            rows = group.rows
            rows["kind"][rows["time_ms"] < day_to_ms(DAY + 1)] = Kind.READING
            plain.apply(group)
            stand.apply(group)
        assert answers(stand.index) == answers(plain), seed
        stand.index.write_down()
        stand.restart()
        stand.index.set_aliases(aliases)
        assert (stand.read, stand.replayed, stand.store.problem) == (set(), 0, "")
        assert answers(stand.index) == answers(plain), seed
        stand.store.close()
        assert check_folder(tmp_path / str(seed) / "index") == []


def test_a_damaged_day_whose_groups_cannot_be_read_costs_the_whole_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand, plain = without_a_day(tmp_path)

    def broken(*_: object) -> Iterator[Group]:
        yield stand.log[0]
        raise JournalCorrupt("group 7 is missing")

    monkeypatch.setattr(stand, "_read_days", broken)
    stand.open()
    assert stand.replayed == len(stand.log)
    assert answers(stand.index) == answers(plain)


def test_a_mended_day_that_cannot_be_written_is_mended_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand, plain = without_a_day(tmp_path)
    left = sum(group.lsn > stand.index.covered_lsn for group in stand.log)
    for method in ("write", "commit"):
        with monkeypatch.context() as patch:
            patch.setattr(LmdbSegments, method, _full)
            stand.open()
            assert (len(stand.read), stand.replayed) == (1, left)
            assert answers(stand.index) == answers(plain)
        stand.store.close()
    stand.open()
    assert len(stand.read) == 1
    assert answers(stand.index) == answers(plain)
    stand.restart()
    assert stand.read == set()
    assert answers(stand.index) == answers(plain)


def _full(*_: object) -> None:
    raise StorageFull("no room")


@pytest.mark.parametrize("what", ["manifest", "manifest cut", *DAMAGE])
def test_damage_is_found_and_the_log_is_replayed(tmp_path: Path, what: str) -> None:
    rng = random.Random(6)
    stand = Stand(tmp_path, memory_scans=50)
    stand.mends = False
    plain = CoLocationIndex(PLACES, RULES)
    for group in make_groups(rng, 200):
        plain.apply(group)
        stand.apply(group)
        stand.index.catch_up()
    stand.store.close()
    path = rng.choice(stand.files())
    damage(stand, path, what, rng)
    if what.startswith("manifest"):
        manifest = tmp_path / "index" / MANIFEST
        data = bytearray(manifest.read_bytes())
        if what == "manifest":
            at = data.rindex(b"schema") if b"schema" in data else data.rindex(path.name.encode())
            data[at] ^= 1
            manifest.write_bytes(data)
        else:
            manifest.write_bytes(data[:8192])
    assert len(check_folder(tmp_path / "index")) == 1
    stand.open()
    assert stand.store.problem
    assert stand.replayed == len(stand.log)
    assert answers(stand.index) == answers(plain)
    stand.index.write_down()
    stand.restart()
    assert (stand.replayed, stand.store.problem) == (0, "")
    assert answers(stand.index) == answers(plain)


class NoLights:
    def note(self, group: object, sightings: object) -> None:
        pass


@pytest.mark.parametrize("seed", range(3))
def test_the_groups_of_a_real_log(tmp_path: Path, seed: int) -> None:
    """As the engine starts: keys, log, index and what else is derived, a day's file gone."""
    rng = random.Random(seed)
    ring = FileKeyRing(tmp_path / "keys", create=True)
    clock = ManualClock(day_to_ms(DAY + 7))
    plain = CoLocationIndex(PLACES, RULES)
    read: list[int] = []  # days, a group each

    def read_days(journal: Journal, days: object, last: int) -> Iterator[Group]:
        for group in journal.read_days(days, last):  # type: ignore[arg-type]
            read.append(group.day)
            yield group

    async def start() -> tuple[LmdbJournal, LmdbSegments, SegmentedIndex, Derivation]:
        journal = LmdbJournal(tmp_path / "journal", ring, clock, floor_bytes=0)
        store = LmdbSegments(tmp_path / "index", ring)
        derivation = Derivation(journal, clock)
        index = SegmentedIndex(PLACES, RULES, store, notes=derivation.notes, memory_scans=40)
        derivation.take(index.load(lambda days, last: read_days(journal, days, last)))
        await derivation.replay(index, SeenWindow([Spans(0, 60_000)]), NoLights(), 0)
        return journal, store, index, derivation

    async def main() -> None:
        journal, store, index, derivation = await start()
        for seq, group in enumerate(make_groups(rng, 200, days=5), 1):
            days = (group.rows["time_ms"] - day_to_ms(0)) // (day_to_ms(1) - day_to_ms(0))
            parts = [
                Part(int(day), group.rows[days == day].tobytes(), b"") for day in np.unique(days)
            ]
            await journal.append(RecordBatch(Run(1, 7, 0, seq, seq), parts))
        last = journal.last_lsn()
        async for group in journal.read(0):
            derivation.derive(group, index)
            index.catch_up()
            plain.apply(group)
            if group.lsn == last:
                break
        index.write_down()
        before = derivation.tallies.dump()
        store.close()
        await journal.close()
        del index  # a file that is open cannot be opened
        path = rng.choice(sorted(p for p in (tmp_path / "index").glob("1*.mdb")))
        path.unlink()
        for times in range(2):
            journal, store, index, derivation = await start()
            wanted = [] if times else await read_groups(journal)
            day = int(path.name[:5])
            assert read == [day] * sum(group.day == day and group.rows.size > 0 for group in wanted)
            assert derivation.replayed_groups == 0
            assert derivation.tallies.dump() == before
            assert answers(index) == answers(plain)
            store.close()
            await journal.close()
            del index
            read.clear()
        assert check_folder(tmp_path / "index") == []

    asyncio.run(main())
