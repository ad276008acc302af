"""Offline verification: a sound store is called sound, every kind of damage is named, no one is
shown."""

from __future__ import annotations

import asyncio

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import ManualClock, day_to_ms
from engine.control_lmdb import ControlLog
from engine.errors import StorageUnavailable, StoreLocked, StoreVersion
from engine.group import Draft, bytes_to_raw, genesis, pack_run, seal_group
from engine.journal import Part, RecordBatch, Run
from engine.journal_lmdb import LmdbJournal
from engine.keys import FileKeyRing
from engine.store_lmdb import Store, lsn_to_key
from engine.verify import Ranges, verify_store
from tests.reference.batches import DAY, NOON_MS, make_batch, make_rows

NAME = "Nguyễn Thị Hồng 045099999123"


@pytest.fixture
def ring(tmp_path):
    return FileKeyRing(tmp_path / "keys", create=True)


@pytest.fixture
def store(tmp_path, ring):
    """Six groups of two days, the first day forgotten; three control records."""

    async def main():
        journal = LmdbJournal(
            tmp_path / "journal", ring, ManualClock(), floor_bytes=0, limit_bytes=1 << 28
        )
        for seq in range(1, 7):
            day = DAY if seq <= 2 else DAY + 1
            await journal.append(make_batch(4, seq, day=day, details=NAME.encode()))
        await journal.expire(day_to_ms(DAY + 1))
        await journal.close()

    asyncio.run(main())
    log = ControlLog(tmp_path / "control", floor_bytes=0, limit_bytes=1 << 28)
    for n in range(3):
        log.append_sync("audit", "an", b"%d" % n, NOON_MS)
    log.close()
    return tmp_path


def change(path, edit) -> None:
    env = lmdb.open(str(path), lib_version=0, map_size=1 << 30)
    with env.begin(write=True) as txn:
        edit(txn)
    env.close()


def flip(lsn, position):
    def edit(txn):
        value = bytearray(txn.get(lsn_to_key(lsn)))
        value[position] ^= 4
        txn.put(lsn_to_key(lsn), bytes(value))

    return edit


def test_a_sound_store(store, ring):
    before = {p: p.read_bytes() for p in store.rglob("data.mdb")}
    report = verify_store(store, ring)
    assert report.problems == []
    assert report.is_sound
    assert (report.groups, report.groups_expired, report.last_lsn) == (6, 2, 6)
    assert (report.rows, report.rows_opened, report.runs) == (12, 8, 6)
    assert report.watermarks == {(4, 7, 0): 6}
    assert report.days == {DAY: 4, DAY + 1: 8}
    assert report.control_records == 3
    with Store(store / "control", kind="control", is_offline=True) as control:
        (_, value), *_ = control.read(3, 3, 1)
    assert report.control_head in value
    assert len(report.chain_head) == 32
    assert {p: p.read_bytes() for p in store.rglob("data.mdb")} == before
    without_keys = verify_store(store)
    assert without_keys.is_sound
    assert without_keys.rows_opened == 0
    assert without_keys.chain_head == report.chain_head


def test_the_journals_own_head_is_the_reports(store, ring):
    journal = LmdbJournal(store / "journal", ring, ManualClock(), floor_bytes=0)
    head = journal.head()
    asyncio.run(journal.close())
    assert verify_store(store).chain_head == head


def test_a_running_engine_is_not_disturbed(store, ring):
    journal = LmdbJournal(store / "journal", ring, ManualClock(), floor_bytes=0)
    with pytest.raises(StoreLocked):
        verify_store(store)
    asyncio.run(journal.close())


def test_nothing_there(tmp_path):
    with pytest.raises(StorageUnavailable):
        verify_store(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_without_lock_files(store, ring):
    for path in store.rglob("*lock*"):
        path.unlink()
    assert verify_store(store, None).is_sound


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (flip(4, -1), "at 4: group 4: hash"),
        (flip(4, 130), "at 4: group 4: checksum"),
        (flip(1, 70), "at 1: group 1: checksum"),
        (lambda txn: txn.delete(lsn_to_key(4)), "group 4 is missing"),
        (lambda txn: txn.put(lsn_to_key(4), txn.get(lsn_to_key(5))), "group 4 calls itself 5"),
        (lambda txn: txn.put(b"odd", b""), "key of 3 bytes"),
    ],
)
def test_damage_in_the_journal_is_named(store, ring, edit, word):
    change(store / "journal", edit)
    report = verify_store(store, ring)
    assert not report.is_sound
    assert any(word in problem for problem in report.problems), report.problems
    assert report.last_lsn == 6 or "odd" in word or "key" in word
    assert not any("Nguy" in problem or "999123" in problem for problem in report.problems)


def test_damage_in_the_control_log_is_named(store):
    change(store / "control", flip(2, 1))
    report = verify_store(store)
    assert any("record 2" in problem for problem in report.problems)
    assert report.control_records == 3


def test_keys_of_another_ring_do_not_open_it(store, tmp_path):
    other = FileKeyRing(tmp_path / "other", create=True)
    report = verify_store(store, other)
    assert report.rows_opened == 0
    assert report.problems == [p for p in report.problems if f"day {DAY + 1}" in p]
    assert len(report.problems) == 1
    other.log_key(DAY + 1)
    assert sum("does not open" in p for p in verify_store(store, other).problems) == 4


def _add_group(runs, rows):
    """A group with sound checksums whose content contradicts the log before it."""

    def add(store, ring):
        def edit(txn):
            link = bytes_to_raw(txn.get(lsn_to_key(6))).link
            draft = Draft(DAY + 1, NOON_MS, [pack_run(*run) for run in runs], [rows])
            txn.put(lsn_to_key(7), seal_group(draft, 7, link, ring)[0])

        change(store / "journal", edit)

    return add


@pytest.mark.parametrize(
    ("add", "word"),
    [
        (_add_group([(4, 0, 0, 1, 7, 6, 6)], make_rows(4, 6, 1)), "was stored before"),
        (_add_group([(4, 0, 0, 1, 7, 5, 8)], make_rows(4, 6, 1)), "was stored before"),
        (_add_group([(4, 0, 2, 1, 7, 6, 6)], make_rows(4, 6, 1)), "is not complete"),
        (_add_group([(4, 0, 1, 1, 7, 9, 9)], make_rows(4, 6, 1)), "is not complete"),
        (_add_group([(4, 0, 0, 2, 7, 7, 7)], make_rows(4, 7, 1)), "its runs brought 2 rows"),
        (_add_group([], make_rows(4, 7, 1)), "its runs brought 0 rows"),
        (_add_group([(4, 0, 0, 1, 7, 8, 7)], make_rows(4, 7, 1)), "is not a range"),
    ],
)
def test_runs_are_checked_against_the_content(store, ring, add, word):
    add(store, ring)
    problems = verify_store(store, ring).problems
    assert len(problems) == 1
    assert word in problems[0]


def test_a_split_run_is_not_stored_twice(tmp_path, ring):
    async def main():
        journal = LmdbJournal(tmp_path / "journal", ring, ManualClock(), floor_bytes=0)
        await journal.append(make_batch(4, 1, 30, rows_per_seq=1000))
        assert journal.last_lsn() > 1
        await journal.close()

    asyncio.run(main())
    report = verify_store(tmp_path, ring)
    assert report.problems == []
    assert report.rows == 30_000


def test_days_mixed_in_one_commit(tmp_path, ring):
    """Groups follow their days, so sequence numbers are out of order between them."""

    async def main():
        journal = LmdbJournal(tmp_path / "journal", ring, ManualClock(), floor_bytes=0)
        batches = [make_batch(4, seq, day=DAY + seq % 2) for seq in range(1, 40)]
        for seq in range(40, 80):
            parts = [Part(DAY + n, make_rows(4, seq, 2, DAY + n)) for n in (seq % 2, 1 - seq % 2)]
            batches.append(RecordBatch(Run(4, 7, 0, seq, seq), parts))
        receipts = await asyncio.gather(*map(journal.append, batches))
        assert max(receipt.lsn for receipt in receipts) == journal.last_lsn()
        assert journal.counters.commits < 20
        assert journal.watermarks() == {(4, 7, 0): 79}
        await journal.close()
        journal = LmdbJournal(tmp_path / "journal", ring, ManualClock(), floor_bytes=0)
        assert journal.watermarks() == {(4, 7, 0): 79}
        for batch, receipt in zip(batches, receipts, strict=True):
            again = await journal.append(batch)
            assert again.is_duplicate
            assert again.lsn >= receipt.lsn
        await journal.close()

    asyncio.run(main())
    report = verify_store(tmp_path, ring)
    assert report.problems == []
    assert report.rows == 39 * 2 + 40 * 4


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6)), max_size=30))
def test_ranges_are_a_set(steps):
    ranges, model = Ranges(), set()
    for first, more in steps:
        numbers = set(range(first, first + more + 1))
        assert ranges.covers(first, first + more) == (numbers <= model)
        assert ranges.add(first, first + more) == (not numbers & model)
        if not numbers & model:
            model |= numbers
    assert sum(b - a + 1 for a, b in zip(ranges._first, ranges._last, strict=True)) == len(model)
    assert all(b + 1 < a for a, b in zip(ranges._first[1:], ranges._last[:-1], strict=True))


def test_a_file_cut_short(store, ring):
    data = store / "journal" / "data.mdb"
    data.write_bytes(data.read_bytes()[:-4096])
    report = verify_store(store, ring)
    assert any("cut short" in problem for problem in report.problems)
    assert report.control_records == 3


def test_a_store_of_another_version(store):
    (store / "journal" / "data.mdb").write_bytes((store / "control" / "data.mdb").read_bytes())
    with pytest.raises(StoreVersion):
        verify_store(store)


def test_chains_of_different_stores_differ():
    assert genesis(b"a" * 16) != genesis(b"b" * 16)
