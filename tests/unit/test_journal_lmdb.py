"""What only the LMDB store can show: locks, versions, damage, limits, the tail, group commit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import lmdb
import msgspec
import pytest

from engine.clock import ManualClock, day_to_ms
from engine.errors import (
    JournalCorrupt,
    StorageFull,
    StorageUnavailable,
    StoreLocked,
    StoreVersion,
)
from engine.identity.keys import FileKeyRing
from engine.storage import journal_lmdb, store_lmdb
from engine.storage.journal_lmdb import LmdbJournal
from engine.storage.store_lmdb import Store, lsn_to_key
from tests.reference.batches import DAY, count_identities, make_batch, read_groups

ROOT = Path(__file__).resolve().parents[2]
FIRST = "000001"  # the only generation of a small log


@pytest.fixture
def ring(tmp_path):
    return FileKeyRing(tmp_path / "keys", create=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


def open_journal(path, ring, **options):
    options = {"floor_bytes": 0, "limit_bytes": 1 << 28, **options}
    return LmdbJournal(path, ring, ManualClock(), **options)


def use(journal, scenario):
    async def main():
        try:
            return await asyncio.wait_for(scenario(journal), 20)
        finally:
            await journal.close()

    return asyncio.run(main())


def fill(path, ring, count=3):
    async def scenario(journal):
        for seq in range(1, count + 1):
            await journal.append(make_batch(4, seq, details=b"x"))

    use(open_journal(path, ring), scenario)


def change(path, edit) -> None:
    """Edit the environment behind the journal's back: edit(txn)."""
    env = lmdb.open(str(path / FIRST), lib_version=0, map_size=1 << 30)
    with env.begin(write=True) as txn:
        edit(txn)
    env.close()


def test_one_opener_at_a_time(path, ring):
    async def scenario(_journal):
        with pytest.raises(StoreLocked):
            open_journal(path, ring)
        code = (
            "import sys; from engine.storage.store_lmdb import Store\n"
            "from engine.errors import StoreLocked\n"
            "try: Store(sys.argv[1], kind='journal')\n"
            "except StoreLocked as error: print(error.code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.stdout == "storage.locked\n", done.stderr

    use(open_journal(path, ring), scenario)
    use(open_journal(path, ring), lambda journal: journal.settle())


@pytest.mark.parametrize(
    "meta",
    [
        {"schema": 2},
        {"lib_version": 1},
        {"kind": "control"},
        None,
        b"\xc1",
    ],
)
def test_another_version_is_refused_and_left_alone(path, ring, meta):
    fill(path, ring)

    def edit(txn):
        if meta is None:
            txn.delete(store_lmdb.META_KEY)
        elif isinstance(meta, bytes):
            txn.put(store_lmdb.META_KEY, meta)
        else:
            fields = msgspec.msgpack.decode(txn.get(store_lmdb.META_KEY))
            txn.put(store_lmdb.META_KEY, msgspec.msgpack.encode({**fields, **meta}))

    change(path, edit)
    before = (path / FIRST / "data.mdb").read_bytes()
    with pytest.raises(StoreVersion):
        open_journal(path, ring)
    assert (path / FIRST / "data.mdb").read_bytes() == before


def test_the_other_lmdb_engine_is_named(path, ring):
    (path / FIRST).mkdir(parents=True)
    env = lmdb.open(str(path / FIRST), lib_version=1)
    with env.begin(write=True) as txn:
        txn.put(b"a", b"b")
    env.close()
    with pytest.raises(StoreVersion, match="another LMDB engine"):
        open_journal(path, ring)


def test_a_file_that_is_no_store(path, ring):
    (path / FIRST).mkdir(parents=True)
    (path / FIRST / "data.mdb").write_bytes(b"not a store" * 1000)
    with pytest.raises(JournalCorrupt):
        open_journal(path, ring)


def test_a_place_that_cannot_be_written(tmp_path, ring):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailable):
        open_journal(tmp_path / "file" / "journal", ring)


def _flip(lsn, position):
    def edit(txn):
        value = bytearray(txn.get(lsn_to_key(lsn)))
        value[position] ^= 1
        txn.put(lsn_to_key(lsn), bytes(value))

    return edit


def _swap(txn):
    one, two = txn.get(lsn_to_key(1)), txn.get(lsn_to_key(2))
    txn.put(lsn_to_key(1), two)
    txn.put(lsn_to_key(2), one)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (_flip(2, 20), "group"),
        (_flip(2, 100), "group 2: checksum"),
        (lambda txn: txn.delete(lsn_to_key(2)), "group 2 is missing"),
        (lambda txn: txn.delete(lsn_to_key(1)), "group 1 is missing"),
        (_swap, "group 1 calls itself 2"),
        (lambda txn: txn.put(b"odd", b"key"), "key of 3 bytes"),
        (lambda txn: txn.put(lsn_to_key(3), txn.get(lsn_to_key(3))[:90]), "shorter"),
    ],
)
def test_damage_in_the_log_is_an_alarm_not_its_end(path, ring, edit, word):
    fill(path, ring)
    change(path, edit)
    with pytest.raises(JournalCorrupt, match=word):
        open_journal(path, ring)


def test_a_group_of_another_store_does_not_fit(path, ring, tmp_path):
    fill(path, ring, 1)
    fill(tmp_path / "other", ring, 1)
    env = lmdb.open(str(tmp_path / "other" / FIRST), lib_version=0)
    with env.begin() as txn:
        foreign = bytes(txn.get(lsn_to_key(1)))
    env.close()
    change(path, lambda txn: txn.put(lsn_to_key(1), foreign))
    with pytest.raises(JournalCorrupt, match="does not follow"):
        open_journal(path, ring)


def test_damaged_rows_are_met_when_read(path, ring):
    """Opening reads heads only; whoever reads the rows is told, and told which group."""
    fill(path, ring)
    change(path, _flip(2, -1))

    async def scenario(journal):
        reader = journal.read(0)
        with pytest.raises(JournalCorrupt, match="group 2"):
            while True:
                await anext(reader)
        with pytest.raises(JournalCorrupt, match="group 2"):
            journal.read_details(2)

    use(open_journal(path, ring), scenario)


def test_a_file_cut_short_is_damage_and_no_crash(path, ring):
    async def scenario(journal):
        for seq in range(1, 30):
            await journal.append(make_batch(4, seq, rows_per_seq=200))

    use(open_journal(path, ring), scenario)
    with lmdb.open(str(path / FIRST), lib_version=0, readonly=True) as env:
        used = (env.info()["last_pgno"] + 1) * 4096
    whole = (path / FIRST / "data.mdb").read_bytes()[:used]  # behind it there may be zeros
    for size in (len(whole) // 2, len(whole) - 4096):
        (path / FIRST / "data.mdb").write_bytes(whole[:size])
        code = (
            "import sys, asyncio; from engine.storage.journal_lmdb import LmdbJournal\n"
            "from engine.identity.keys import FileKeyRing; from engine.clock import ManualClock\n"
            "from engine.errors import JournalCorrupt\n"
            "async def main():\n"
            "    journal = LmdbJournal(sys.argv[1], FileKeyRing(sys.argv[2]), ManualClock())\n"
            "    async for group in journal.read(0): pass\n"
            "try: asyncio.run(main())\n"
            "except JournalCorrupt: print('corrupt')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), str(path.parent / "keys")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (done.returncode, done.stdout) == (0, "corrupt\n"), done.stderr


def test_groups_that_the_tree_does_not_lead_to_are_missed(path, ring):
    """A bit in a page of LMDB's own can hide the end of the log: it must not be written over."""
    fill(path, ring)
    data = bytearray((path / FIRST / "data.mdb").read_bytes())
    for meta in (0, 4096):
        entries = meta + 120  # MDB_meta.mm_dbs[1].md_entries
        assert int.from_bytes(data[entries : entries + 8], "little") in (3, 4)
        data[entries] += 1
    (path / FIRST / "data.mdb").write_bytes(data)
    with pytest.raises(JournalCorrupt, match="can be reached"):
        open_journal(path, ring)


def test_the_limit_is_met_and_room_made_by_forgetting(path, ring):
    limit = 600_000

    async def scenario(journal):
        stored = 0
        with pytest.raises(StorageFull):
            for seq in range(1, 100):
                await journal.append(make_batch(4, seq, rows_per_seq=1000))
                stored = seq
        assert 5 < stored < 13
        with pytest.raises(StorageFull):
            await journal.append(make_batch(4, stored + 1, rows_per_seq=1000))
        with pytest.raises(StorageUnavailable):
            await journal.append(make_batch(4, stored + 2))
        assert (await journal.append(make_batch(4, 1, rows_per_seq=1000))).is_duplicate
        assert sum(len(g.rows) for g in await read_groups(journal)) == stored * 1000
        # Forgetting works out of the reserve.
        assert await journal.expire(day_to_ms(DAY + 1)) == stored
        receipt = await journal.append(make_batch(4, stored + 1, rows_per_seq=1000, day=DAY + 1))
        assert not receipt.is_duplicate
        assert journal.watermarks() == {(4, 7, 0): stored + 1}
        assert (path / FIRST / "data.mdb").stat().st_size < limit + (2 << 20)

    use(open_journal(path, ring, limit_bytes=limit), scenario)


def test_the_floor_of_free_space_is_kept(path, ring, monkeypatch):
    free = [1 << 30]
    monkeypatch.setattr(store_lmdb, "free_bytes", lambda path: free[0])

    async def scenario(journal):
        await journal.append(make_batch(4, 1))
        free[0] = 99 << 20
        with pytest.raises(StorageFull, match="free"):
            await journal.append(make_batch(4, 2))
        assert count_identities(await read_groups(journal)) == {(4, 1, 0): 1, (4, 1, 1): 1}
        assert await journal.expire(0) == 0
        free[0] = 1 << 30
        assert not (await journal.append(make_batch(4, 2))).is_duplicate

    use(open_journal(path, ring, floor_bytes=100 << 20), scenario)


class Flaky:
    """Stands for an LMDB environment whose commits fail, before or after they count."""

    def __init__(self, env, is_kept):
        self._env = env
        self._is_kept = is_kept

    def __getattr__(self, name):
        return getattr(self._env, name)

    def begin(self, **options):
        txn = self._env.begin(**options)
        if not options.get("write"):
            return txn
        return FlakyTxn(txn, self._is_kept)


class FlakyTxn:
    def __init__(self, txn, is_kept):
        self._txn = txn
        self._is_kept = is_kept

    def __enter__(self):
        return self._txn

    def __exit__(self, *args):
        assert args == (None, None, None)
        if self._is_kept:
            self._txn.commit()
        else:
            self._txn.abort()
        raise lmdb.Error("mdb_txn_commit: Input/output error")


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_failed_commit_acknowledges_nothing_and_doubles_nothing(path, ring, is_kept):
    """Kept: the meta page was written, its sync failed. The repeat must find it in the store."""

    async def scenario(journal):
        await journal.append(make_batch(4, 1))
        journal._log._newest._env = Flaky(journal._log._newest._env, is_kept)
        outcomes = await asyncio.gather(
            *(journal.append(make_batch(4, seq)) for seq in (2, 3)), return_exceptions=True
        )
        assert [type(each) for each in outcomes] == [StorageUnavailable] * 2
        assert journal.watermarks() == {(4, 7, 0): 1}
        assert len(await read_groups(journal)) == 1
        receipt = await journal.append(make_batch(4, 2))
        assert receipt.is_duplicate == is_kept
        if is_kept:
            assert journal.watermarks()[4, 7, 0] >= 2
        for seq in (3, 4):
            await journal.append(make_batch(4, seq))
        found = count_identities(await read_groups(journal))
        assert found == {(4, seq, n): 1 for seq in (1, 2, 3, 4) for n in (0, 1)}

    use(open_journal(path, ring), scenario)
    use(open_journal(path, ring), read_groups)  # chain and heads are in order


def test_opened_on_a_full_disk_questions_go_on(path, ring, monkeypatch):
    fill(path, ring)
    real = Store.prove

    def refuse(self):
        raise StorageFull("no room for the proving commit")

    monkeypatch.setattr(Store, "prove", refuse)
    monkeypatch.setattr(Store, "recover", refuse)

    async def scenario(journal):
        assert len(await read_groups(journal)) == 3
        for seq in (1, 4):  # a repeat too: what it would acknowledge has not been proven durable
            with pytest.raises(StorageFull):
                await journal.append(make_batch(4, seq))
        monkeypatch.setattr(Store, "recover", real)
        assert not (await journal.append(make_batch(4, 4))).is_duplicate
        assert (await journal.append(make_batch(4, 1))).is_duplicate

    use(open_journal(path, ring), scenario)


def test_a_fault_of_the_writer_reaches_whoever_waits(path, ring, monkeypatch):
    async def scenario(journal):
        with monkeypatch.context() as patch:
            patch.setattr(journal_lmdb, "seal_group", lambda *a: 1 / 0)
            with pytest.raises(StorageUnavailable, match="ZeroDivisionError"):
                await journal.append(make_batch(4, 1))
        assert not (await journal.append(make_batch(4, 1))).is_duplicate

    use(open_journal(path, ring), scenario)


def test_what_waits_goes_into_one_commit(path, ring):
    async def scenario(journal):
        await asyncio.gather(*(journal.append(make_batch(g, 1)) for g in range(1, 101)))
        assert journal.counters.rows == 200
        assert journal.counters.commits <= 10  # one for the first, few for the rest
        assert journal.counters.groups == journal.counters.commits
        assert journal.counters.commit_ns_total >= journal.counters.last_commit_ns

    use(open_journal(path, ring), scenario)


def test_readers_close_behind_need_no_store(path, ring, monkeypatch):
    async def scenario(journal):
        for seq in range(1, 6):
            await journal.append(make_batch(4, seq))
        with monkeypatch.context() as patch:
            patch.setattr(journal._log, "read", None)
            assert len(await read_groups(journal)) == 5
        for seq in range(6, 30):  # beyond the tail's limit
            await journal.append(make_batch(4, seq, rows_per_seq=50))
        assert journal._tail_size <= 20_000
        assert len(journal._tail) < 29
        found = count_identities(await read_groups(journal))
        assert sum(found.values()) == 5 * 2 + 24 * 50

    use(open_journal(path, ring, tail_bytes=20_000), scenario)


def test_forgetting_goes_in_steps_between_appends(path, ring, monkeypatch):
    monkeypatch.setattr(journal_lmdb, "EXPIRE_GROUPS", 2)

    async def scenario(journal):
        for seq in range(1, 12):
            await journal.append(make_batch(4, seq))
        expiring = asyncio.create_task(journal.expire(day_to_ms(DAY + 1)))
        receipts = [await journal.append(make_batch(5, seq, day=DAY + 1)) for seq in (1, 2, 3)]
        assert await expiring == 11
        assert not any(receipt.is_duplicate for receipt in receipts)
        assert [len(g.rows) for g in await read_groups(journal)] == [0] * 11 + [2] * 3

    use(open_journal(path, ring), scenario)


def test_forgetting_cut_short_is_taken_up_again(path, ring, monkeypatch):
    monkeypatch.setattr(journal_lmdb, "EXPIRE_GROUPS", 2)

    async def scenario(journal):
        for seq in range(1, 6):
            await journal.append(make_batch(4, seq))
        real, calls = journal._log.replace, []

        def replace(records):
            calls.append(records)
            if len(calls) == 2:
                raise StorageFull("no room")
            return real(records)

        monkeypatch.setattr(journal._log, "replace", replace)
        with pytest.raises(StorageFull):
            await journal.expire(day_to_ms(DAY + 1))
        groups = await read_groups(journal)
        assert all(g.is_expired and not len(g.rows) for g in groups)  # the key went first
        assert await journal.expire(day_to_ms(DAY + 1)) == 3
        assert await journal.expire(day_to_ms(DAY + 1)) == 0

    use(open_journal(path, ring), scenario)


def test_two_loops_in_turn_use_one_journal(path, ring):
    journal = open_journal(path, ring)
    for seq in (1, 2):
        assert not asyncio.run(journal.append(make_batch(4, seq))).is_duplicate
    asyncio.run(journal.close())
