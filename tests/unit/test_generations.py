"""The files of the scan log: when another is begun, what it says, and how old ones go."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import lmdb
import msgspec
import pytest

from engine.clock import DAY_MS, ManualClock, day_to_ms
from engine.errors import JournalCorrupt, NotFound, StorageFull, StorageUnavailable
from engine.identity.keys import FileKeyRing
from engine.keeping.verify import verify_store
from engine.storage import generation, generations, store_lmdb
from engine.storage.generation import bytes_to_header, folders, name_of, pack_header
from engine.storage.journal_lmdb import LmdbJournal
from engine.storage.store_lmdb import Store
from tests.reference.batches import DAY, count_identities, make_batch, read_groups
from tests.unit.test_journal_lmdb import Flaky

SIZE = 64 << 10  # small files: some 20 commits each


class Log:
    """A journal in a folder, its clock and its keys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "journal"
        self.clock = ManualClock()
        self.ring = FileKeyRing(root / "keys", create=True)

    def open(self, **options):
        options = {"floor_bytes": 0, "limit_bytes": 1 << 28, "generation_bytes": SIZE, **options}
        return LmdbJournal(self.path, self.ring, self.clock, **options)

    def use(self, scenario, **options):
        async def main():
            journal = self.open(**options)
            try:
                return await asyncio.wait_for(scenario(journal), 60)
            finally:
                await journal.close()

        return asyncio.run(main())

    def numbers(self) -> list[int]:
        """Of the generations that were begun."""
        found = []
        for number, folder in folders(self.path):
            with Store(folder, kind="journal", is_offline=True) as store:
                if number == 1 or store.meta.header:
                    found.append(number)
        return found

    def check(self) -> None:
        assert verify_store(self.root, self.ring).problems == []


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


async def is_ready(journal) -> None:
    """Waits until the next generation is made, which the next commit would ask for."""
    end = time.monotonic() + 20
    while journal._log._ready is None:
        journal._log._wake()
        assert time.monotonic() < end, "no generation came"
        await asyncio.sleep(0.002)


async def append(journal, first, last, *, day=DAY, rows=40):
    for seq in range(first, last + 1):
        await journal.append(make_batch(4, seq, rows_per_seq=rows, day=day, details=b"x"))


async def append_until(journal, count, seq=1, **options):
    """Until there are that many generations; the last sequence number."""
    while journal.file_count() < count:
        await append(journal, seq, seq, **options)
        seq += 1
        if journal._log._newest.end_bytes >= SIZE:
            await is_ready(journal)
    return seq - 1


def edit_meta(folder, change) -> None:
    env = lmdb.open(str(folder), lib_version=0, map_size=1 << 28)
    with env.begin(write=True) as txn:
        meta = msgspec.msgpack.decode(txn.get(store_lmdb.META_KEY))
        txn.put(store_lmdb.META_KEY, msgspec.msgpack.encode(change(meta)))
    env.close()


# ---- headers ------------------------------------------------------------------------------------


def test_a_header_comes_back_and_no_bit_of_it_may_change():
    marks = {(4, 7, 0): 12, (4, 9, 1): 1 << 63, (1, (1 << 64) - 1, 0): 3}
    data = pack_header(7, bytes(range(16)), 99, 1_700_000_000_000, bytes(32), marks)
    header = bytes_to_header(data)
    assert (header.number, header.first_lsn, header.marks) == (7, 99, marks)
    assert header.store_id == bytes(range(16)) and header.chain == bytes(32)
    for at in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[at // 8] ^= 1 << at % 8
        try:
            assert bytes_to_header(bytes(damaged)).link != header.link
        except JournalCorrupt:
            continue
    for size in range(len(data)):
        with pytest.raises(JournalCorrupt):
            bytes_to_header(data[:size])


# ---- another one is begun -----------------------------------------------------------------------


def test_another_is_begun_when_one_is_large_enough(log):
    async def scenario(journal):
        last = await append_until(journal, 4)
        for generation_ in journal._log.series[:-1]:
            assert SIZE // 2 <= generation_.used_bytes <= 2 * SIZE
        assert len(count_identities(await read_groups(journal))) == 40 * last
        assert journal.first_lsn() == 1
        return last

    last = log.use(scenario)
    assert log.numbers() == [1, 2, 3, 4]
    log.check()
    report = verify_store(log.root, log.ring)
    assert (report.generations, report.groups, report.first_lsn) == (4, last, 1)
    sizes = [(folder / "data.mdb").stat().st_size for _, folder in folders(log.path)[:3]]
    assert max(sizes) <= 2 * SIZE  # no zeros are left ahead in finished ones

    async def again(journal):
        assert journal.file_count() == 4
        assert journal.watermarks() == {(4, 7, 0): last}
        assert (await journal.append(make_batch(4, 1, rows_per_seq=40))).is_duplicate
        assert not (await journal.append(make_batch(4, last + 1))).is_duplicate
        assert all(journal.read_details(lsn).lsn == lsn for lsn in range(1, last + 1))

    log.use(again)


def test_another_is_begun_with_the_civil_day_on_which_scans_come(log):
    """By arrival: a backlog of older days stays with what came on the same day."""

    async def scenario(journal):
        await append(journal, 1, 2)
        log.clock.advance(DAY_MS)
        await append(journal, 3, 3)  # not ready yet, and not waited for
        assert journal.file_count() == 1
        await is_ready(journal)
        await append(journal, 4, 4)
        assert journal.file_count() == 2
        await append(journal, 5, 9, day=DAY - 3, rows=2)
        assert journal.file_count() == 2

    log.use(scenario)
    log.clock.advance(-DAY_MS)  # a clock that was set back begins nothing
    log.use(lambda journal: append(journal, 10, 12, rows=2))
    assert log.numbers() == [1, 2]
    log.check()


def test_no_commit_waits_for_it_before_it_must(log, monkeypatch):
    """While it is not ready the newest goes on, to twice its size; then it is made at once."""
    monkeypatch.setattr(generations.Generations, "_wake", lambda self: None)

    async def scenario(journal):
        seq = 0
        while journal.file_count() == 1:
            seq += 1
            await append(journal, seq, seq)
        assert journal._log.series[0].used_bytes > SIZE * 5 // 4
        assert (log.path / name_of(1) / "data.mdb").stat().st_size <= 2 * SIZE + (1 << 20)

    log.use(scenario)
    log.check()


def test_a_commit_larger_than_a_generation_is_stored(log):
    async def scenario(journal):
        await append(journal, 1, 1)
        await append(journal, 2, 2, rows=1500)
        with pytest.raises(StorageFull):
            await append(journal, 3, 3, rows=60_000)
        await append(journal, 3, 4)
        assert journal.watermarks() == {(4, 7, 0): 4}

    log.use(scenario)
    log.check()


def test_one_that_cannot_be_made_is_tried_again(log, monkeypatch):
    monkeypatch.setattr(generations, "PAUSE_S", 0.0)
    real, fails = generations.sync_directory, [3]

    def sync(path):
        if path == log.path and fails[0]:
            fails[0] -= 1
            raise StorageUnavailable("no sync")
        real(path)

    async def scenario(journal):
        await append(journal, 1, 5)
        monkeypatch.setattr(generations, "sync_directory", sync)
        last = await append_until(journal, 3, 6)
        assert fails == [0]
        assert len(count_identities(await read_groups(journal))) == 40 * last

    log.use(scenario)
    log.check()


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_first_commit_that_fails_doubles_and_loses_nothing(log, is_kept):
    async def scenario(journal):
        await append(journal, 1, 1)
        seq = 2
        while journal._log._newest.end_bytes < SIZE:
            await append(journal, seq, seq)
            seq += 1
        await append(journal, seq, seq)
        await is_ready(journal)
        ready = journal._log._ready
        ready._env = Flaky(ready._env, is_kept)
        with pytest.raises(StorageUnavailable):
            await append(journal, seq + 1, seq + 1)
        assert journal.file_count() == 1
        assert journal.watermarks() == {(4, 7, 0): seq}
        again = await journal.append(make_batch(4, seq + 1, rows_per_seq=40, details=b"x"))
        assert again.is_duplicate == is_kept
        assert journal.file_count() == 2
        await append(journal, seq + 2, seq + 5)
        found = count_identities(await read_groups(journal))
        assert found == {(4, s, n): 1 for s in range(1, seq + 6) for n in range(40)}

    log.use(scenario)
    log.check()
    log.use(read_groups)


def test_the_limit_holds_over_all(log):
    limit = 5 * SIZE

    async def scenario(journal):
        with pytest.raises(StorageFull):
            await append_until(journal, 99)
        assert journal._log.used_bytes() <= limit
        assert journal._log.used_bytes() > limit - 2 * SIZE
        assert journal.file_count() >= 3
        last = journal.watermark((4, 7, 0))
        assert journal.disk_bytes() > 0
        await journal.expire(day_to_ms(DAY + 1))
        await append(journal, last + 1, last + 3, day=DAY + 1)

    log.use(scenario, limit_bytes=limit)
    log.check()


def test_a_disk_at_its_floor_gets_no_further_file(log, monkeypatch):
    free = [1 << 30]
    monkeypatch.setattr(store_lmdb, "free_bytes", lambda path: free[0])

    async def scenario(journal):
        last = await append_until(journal, 2)
        while journal._log._ready is not None or journal._log._newest.end_bytes < SIZE:
            last += 1
            await append(journal, last, last)
            if journal.file_count() == 3:
                break
        free[0] = 0
        with pytest.raises(StorageFull):
            await append(journal, last + 1, last + 999)
        assert not list(log.path.glob("*.tmp"))
        free[0] = 1 << 30
        await append(journal, journal.watermark((4, 7, 0)) + 1, last + 999)

    log.use(scenario, floor_bytes=1 << 20)
    log.check()


# ---- old ones go --------------------------------------------------------------------------------


def three_days(log):
    """Generations of three days of arrival; some rows of the second day came on the third."""

    async def scenario(journal):
        for n in range(3):
            await append(journal, 10 * n + 1, 10 * n + 9, day=DAY + n)
            if n:
                await append(journal, 10 * n + 10, 10 * n + 10, day=DAY + n - 1)
            else:
                await append(journal, 10, 10, day=DAY)
            log.clock.advance(DAY_MS)
            if n < 2:
                await is_ready(journal)
        assert journal.file_count() == 3
        return await read_groups(journal)

    return log.use(scenario, generation_bytes=1 << 20)


def test_a_generation_goes_when_all_its_days_are_forgotten(log):
    three_days(log)

    async def scenario(journal):
        reader = journal.read(0)
        assert (await anext(reader)).lsn == 1
        before = journal.disk_bytes()
        assert await journal.expire(day_to_ms(DAY + 1)) == 10 + 1
        assert journal.disk_bytes() < before
        assert (journal.first_lsn(), journal.last_lsn()) == (11, 30)
        await reader.aclose()
        reader = journal.read(3)
        assert (await anext(reader)).lsn == 11  # the first there is
        await reader.aclose()
        with pytest.raises(NotFound):
            journal.read_details(3)
        assert journal.read_details(11).count == 40
        assert (await journal.append(make_batch(4, 1, rows_per_seq=40))).is_duplicate
        assert await journal.expire(day_to_ms(DAY + 1)) == 0
        return journal.watermarks(), journal.head()

    found = log.use(scenario, generation_bytes=1 << 20)
    assert log.numbers() == [2, 3]
    report = verify_store(log.root, log.ring)
    assert report.problems == []
    assert (report.first_lsn, report.groups, report.watermarks) == (11, 20, {(4, 7, 0): 30})

    log.clock.advance(-DAY_MS)  # still the third day

    async def again(journal):
        assert (journal.watermarks(), journal.head()) == found
        assert journal.epochs() == {4: 1}
        assert (await journal.append(make_batch(4, 5, rows_per_seq=40))).is_duplicate
        groups = await read_groups(journal)
        assert [g.lsn for g in groups] == list(range(11, 31))
        assert [g.lsn for g in groups if g.is_expired] == [20]
        # The newest never goes, its groups are emptied.
        assert await journal.expire(day_to_ms(DAY + 9)) == 19
        assert journal.first_lsn() == 21
        assert all(g.is_expired for g in await read_groups(journal))
        assert not (await journal.append(make_batch(4, 31, day=DAY + 9))).is_duplicate

    log.use(again, generation_bytes=1 << 20)
    assert log.numbers() == [3]
    log.check()


def test_a_living_day_keeps_its_file_and_those_behind_it(log):
    async def scenario(journal):
        await append(journal, 1, 1, day=DAY + 5)
        await append_until(journal, 3, 2)
        await journal.expire(day_to_ms(DAY + 1))
        assert journal.file_count() == 3
        assert sum(len(g.rows) for g in await read_groups(journal)) == 40
        await journal.expire(day_to_ms(DAY + 6))
        assert journal.file_count() == 1

    log.use(scenario)
    log.check()


def test_a_noted_head_is_known_by_the_header_when_its_group_is_gone(log):
    groups = three_days(log)

    async def head_of_the_first(journal):
        return bytes_to_header(journal._log._store_of(journal._log.series[1]).meta.header)

    header = log.use(head_of_the_first)
    log.use(lambda journal: journal.expire(day_to_ms(DAY + 1)))
    assert len(groups) == 30
    noted = {"scan": (10, header.chain.hex()[:16])}
    assert verify_store(log.root, log.ring, noted=noted).problems == []
    noted = {"scan": (10, "0" * 16)}
    (fault,) = verify_store(log.root, log.ring, noted=noted).faults
    assert fault.code == "chain.noted"


# ---- what a start finds -------------------------------------------------------------------------


def test_what_was_half_made_is_taken_away_and_what_was_made_is_used(log):
    async def scenario(journal):
        await append(journal, 1, 30)
        await is_ready(journal)

    log.use(scenario, generation_bytes=1 << 20)
    assert [number for number, _ in folders(log.path)] == [1, 2]
    shutil.copytree(log.path / name_of(2), log.path / "000003.tmp")
    log.check()

    async def again(journal):
        assert journal.file_count() == 1
        assert journal._log._ready is not None
        log.clock.advance(DAY_MS)
        await append(journal, 31, 31)
        assert journal.file_count() == 2

    log.use(again, generation_bytes=1 << 20)
    assert not list(log.path.glob("*.tmp"))
    log.check()


def lose(number):
    return lambda log: shutil.rmtree(log.path / name_of(number))


def other_header(**changes):
    def change(log):
        def edit(meta):
            header = bytes_to_header(meta["header"])
            fields = {**msgspec.structs.asdict(header), **changes}
            fields.pop("link")
            return {**meta, "header": pack_header(**fields)}

        edit_meta(log.path / name_of(2), edit)

    return change


def no_header(log):
    edit_meta(log.path / name_of(2), lambda meta: {**meta, "header": b""})


def old_layout_beside(log):
    shutil.copy(log.path / name_of(1) / "data.mdb", log.path / "data.mdb")


def foreign(log):
    edit_meta(log.path / name_of(2), lambda meta: {**meta, "store_id": bytes(16)})


@pytest.mark.parametrize(
    ("damage", "word", "code"),
    [
        (lose(2), "generation 2 is missing", "generation.missing"),
        (lose(1), "generation 1 is missing; 2 is the oldest", "generation.missing"),
        (other_header(marks={}), "does not follow the one before", "generation.header"),
        (other_header(marks={(4, 7, 0): 99}), "does not follow the one", "generation.header"),
        (other_header(chain=bytes(32)), "does not follow the one before", "generation.header"),
        (other_header(first_lsn=12), "group 11 is missing", "group.missing"),
        (other_header(number=3), "calls itself generation 3", "generation.header"),
        (no_header, "no whole header", "generation.header"),
        (foreign, "is of another log", "generation.header"),
    ],
)
def test_damage_to_the_series_is_told_and_nothing_is_begun(log, damage, word, code):
    three_days(log)
    damage(log)
    with pytest.raises(JournalCorrupt, match=word):
        log.open()
    assert code in {fault.code for fault in verify_store(log.root, log.ring).faults}


def test_two_layouts_in_one_folder_are_damage(log):
    three_days(log)
    old_layout_beside(log)
    for look in (log.open, lambda: verify_store(log.root)):
        with pytest.raises(JournalCorrupt, match="one file, and generations"):
            look()


def test_a_changed_watermark_is_known_when_what_was_before_is_gone(log):
    """The header is a link of the chain: a noted head tells, and so do the groups behind it."""
    three_days(log)
    log.use(lambda journal: journal.expire(day_to_ms(DAY + 1)))
    other_header(marks={(4, 7, 0): 9})(log)
    with pytest.raises(JournalCorrupt, match="does not follow"):
        log.open()
    assert {f.code for f in verify_store(log.root, log.ring).faults} >= {"chain.broken"}


# ---- a log from before there were generations ---------------------------------------------------


def old_store(log):
    """A log of one file, as it was written before: through Store, with groups of a real journal."""

    async def scenario(journal):
        await append(journal, 1, 12)
        return journal._log.read(1, 12, 1 << 30), journal.head()

    records, head = log.use(scenario, generation_bytes=1 << 30)
    with Store(log.path / name_of(1), kind="journal") as made:
        store_id = made.meta.store_id
    shutil.rmtree(log.path)
    with Store(log.path, kind="journal", store_id=store_id) as store:
        store.prove()
        store.write(records)
    assert sorted(p.name for p in log.path.iterdir()) == ["data.mdb", "lock.mdb", "store.lock"]
    return head


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_log_of_one_file_becomes_the_first_generation(log, is_begun):
    head = old_store(log)
    log.check()  # as it is
    inode = (log.path / "data.mdb").stat().st_ino
    if is_begun:  # an engine ended between its first and its second step
        (log.path / name_of(1)).mkdir(mode=0o700)

    async def scenario(journal):
        assert journal.head() == head
        assert (await journal.append(make_batch(4, 12, rows_per_seq=40))).is_duplicate
        await append_until(journal, 2, 13)
        assert len(count_identities(await read_groups(journal))) % 40 == 0

    log.use(scenario)
    assert (log.path / name_of(1) / "data.mdb").stat().st_ino == inode  # renamed, not copied
    assert not (log.path / "data.mdb").exists() and not (log.path / "lock.mdb").exists()
    log.check()


def test_a_large_log_of_one_file_is_finished_at_once(log):
    old_store(log)

    async def scenario(journal):
        await append(journal, 13, 13)
        assert [g.first_lsn for g in journal._log.series] == [1, 13]

    log.use(scenario, generation_bytes=16 << 10)
    log.check()


# ---- many of them -------------------------------------------------------------------------------


def test_few_are_open_at_a_time_and_readers_do_not_notice(log, monkeypatch):
    monkeypatch.setattr(generations, "OPEN_MAX", 2)

    async def scenario(journal):
        last = await append_until(journal, 7)
        loop = asyncio.get_running_loop()

        def look(step):
            for _ in range(10):
                for lsn in range(1, last + 1, step):
                    assert journal.read_details(lsn).lsn == lsn

        await asyncio.gather(
            *(loop.run_in_executor(None, look, step) for step in (3, 5, 7)),
            journal.expire(0),
        )
        assert len(journal._log._open) <= 2
        assert len(count_identities(await read_groups(journal))) == 40 * last
        looking = [loop.run_in_executor(None, look, step) for step in (3, 5)]
        await journal.expire(day_to_ms(DAY + 1))
        for outcome in await asyncio.gather(*looking, return_exceptions=True):
            assert outcome is None or type(outcome).__name__ in ("NotFound", "KeyDestroyed")

    log.use(scenario)
    log.check()


def test_a_verify_that_meets_a_generation_that_goes(log, monkeypatch):
    """Beside an engine: what it lists may be forgotten before it is read."""
    three_days(log)
    listed = folders(log.path)
    log.use(lambda journal: journal.expire(day_to_ms(DAY + 1)))
    monkeypatch.setattr(generation, "folders", lambda path, **options: listed)
    monkeypatch.setattr(
        "engine.keeping.verify.StoreLock",
        lambda path, is_offline: SharedLock(),
    )
    report = verify_store(log.root, log.ring)
    assert report.problems == []
    assert (report.generations, report.first_lsn) == (2, 11)


class SharedLock(SimpleNamespace):
    is_shared = True

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass
