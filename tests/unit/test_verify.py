"""Offline verification: a sound store is called sound, every kind of damage is named, no one is
shown."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import ManualClock, day_to_ms
from engine.errors import StorageUnavailable, StoreLocked, StoreVersion
from engine.identity.keys import DeskKeys, FileKeyRing
from engine.identity.watch import ADD_KIND, WatchEntry, WatchKind, entry_to_body
from engine.keeping import verify
from engine.keeping.verify import Ranges, verify_apart, verify_store
from engine.storage.control_lmdb import ControlLog
from engine.storage.group import Draft, bytes_to_raw, genesis, pack_details, pack_run, seal_group
from engine.storage.journal import Part, RecordBatch, Run
from engine.storage.journal_lmdb import LmdbJournal
from engine.storage.store_lmdb import Store, lsn_to_key
from tests.reference.batches import DAY, NOON_MS, make_batch, make_rows

ROOT = Path(__file__).resolve().parents[2]
NAME = "Nguyễn Thị Hồng 045099999123"

FIRST = "000001"  # the only generation of a small log


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
    """It is read beside the engine, from another process, while groups come and days go."""
    journal = LmdbJournal(store / "journal", ring, ManualClock(), floor_bytes=0)
    with pytest.raises(StoreLocked):
        verify_store(store)

    async def main():
        loop = asyncio.get_running_loop()
        checking = loop.run_in_executor(None, verify_in_a_process, store)
        seq = 6
        while not checking.done():
            seq += 1
            await journal.append(make_batch(4, seq, day=DAY + 2, rows_per_seq=500))
            if seq == 60:
                await journal.expire(day_to_ms(DAY + 2))
            await asyncio.sleep(0)
        for _ in range(2):
            report = await loop.run_in_executor(None, verify_in_a_process, store)
            assert report["is_live"]
            assert report["faults"] == []
            assert report["groups"] == journal.last_lsn()
        assert (await checking)["faults"] == []
        assert report["head"].partition(":")[2] == journal.head().hex()
        await journal.close()

    asyncio.run(main())
    assert not verify_in_a_process(store)["is_live"]


def verify_in_a_process(path):
    done = chot_process("verify", "--json", str(path))
    assert done.stderr == ""
    assert done.returncode in (0, 1)
    return json.loads(done.stdout)


def chot_process(*words):
    return subprocess.run(
        [sys.executable, "-m", "engine", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


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
    change(store / "journal" / FIRST, edit)
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

        change(store / "journal" / FIRST, edit)

    return add


@pytest.mark.parametrize(
    ("add", "word"),
    [
        (_add_group([(4, 0, 0, 1, 7, 6, 6)], make_rows(4, 6, 1, DAY + 1)), "was stored before"),
        (_add_group([(4, 0, 0, 1, 7, 5, 8)], make_rows(4, 6, 1, DAY + 1)), "was stored before"),
        (_add_group([(4, 0, 2, 1, 7, 6, 6)], make_rows(4, 6, 1, DAY + 1)), "is not complete"),
        (_add_group([(4, 0, 1, 1, 7, 9, 9)], make_rows(4, 6, 1, DAY + 1)), "is not complete"),
        (
            _add_group([(4, 0, 0, 2, 7, 7, 7)], make_rows(4, 7, 1, DAY + 1)),
            "its runs brought 2 rows",
        ),
        (_add_group([], make_rows(4, 7, 1, DAY + 1)), "its runs brought 0 rows"),
        (_add_group([(4, 0, 0, 1, 7, 8, 7)], make_rows(4, 7, 1, DAY + 1)), "is not a range"),
        (_add_group([(4, 0, 0, 1, 7, 9, 9)], make_rows(4, 9, 1, DAY + 1)), "7..8 of gateway 4"),
        (_add_group([(4, 0, 0, 1, 7, 7, 7)], make_rows(4, 7, 1)), "1 rows are not of"),
        (_add_group([(4, 0, 0, 2, 7, 7, 7)], 2 * make_rows(4, 7, 1, DAY + 1)), "in one place"),
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
    data = store / "journal" / FIRST / "data.mdb"
    data.write_bytes(data.read_bytes()[:-4096])
    report = verify_store(store, ring)
    assert any("cut short" in problem for problem in report.problems)
    assert report.control_records == 3
    assert len(data.read_bytes()) % 4096 == 0  # it was read in a copy


def long_store(path, ring, groups=60):
    async def main():
        journal = LmdbJournal(path / "journal", ring, ManualClock(), floor_bytes=0)
        for seq in range(1, groups + 1):
            await journal.append(make_batch(4, seq, rows_per_seq=300))
        head = f"{journal.last_lsn()}:{journal.head().hex()[:16]}"
        await journal.close()
        return head

    return asyncio.run(main())


def named(report):
    """Groups that the faults name."""
    return {fault.lsn for fault in report.faults if fault.log == "scan"}


def test_what_is_left_of_a_file_cut_short_is_named(tmp_path, ring):
    long_store(tmp_path, ring)
    data = tmp_path / "journal" / FIRST / "data.mdb"
    whole = data.read_bytes()
    places = [whole.index(b"CHJG\x01\0\0\0" + lsn.to_bytes(8, "little")) for lsn in range(1, 61)]
    size = whole.rindex(b"CHJG") // 4096 * 4096
    data.write_bytes(whole[:size])
    report = verify_store(tmp_path, ring)
    lost = {lsn for lsn, at in enumerate(places, 1) if at >= size}
    assert lost
    assert {f.code for f in report.faults} <= {
        "store.damaged", "group.damaged", "group.missing", "chain.broken", "run.twice",
    }  # fmt: skip
    assert lost <= named(report) | {0}
    assert data.stat().st_size == size


def test_a_tail_that_was_taken_off_is_known_by_the_noted_head(tmp_path, ring):
    head = long_store(tmp_path, ring)
    noted = head.split(":")
    noted = {"scan": (int(noted[0]), noted[1])}
    assert verify_store(tmp_path, ring, noted=noted).faults == []
    change(tmp_path / "journal" / FIRST, lambda txn: txn.delete(lsn_to_key(60)))
    assert verify_store(tmp_path, ring).faults == []  # nothing in the log itself can tell
    (fault,) = verify_store(tmp_path, ring, noted=noted).faults
    assert (fault.code, fault.lsn) == ("chain.noted", 59)
    other = {"scan": (30, "0" * 16)}
    (fault,) = verify_store(tmp_path, ring, noted=other).faults
    assert (fault.code, fault.lsn) == ("chain.noted", 30)
    done = chot_process("verify", str(tmp_path), "--noted", head)
    assert done.returncode == 1
    assert "PROBLEM      chain.noted  the scan log ends at 59" in done.stdout
    assert chot_process("verify", str(tmp_path), "--noted", "x").returncode == 2


def test_any_bit_of_any_group_is_missed_and_named(tmp_path, ring):
    """Whatever bit of a group flips: the group is named, and no more than the one behind it."""
    long_store(tmp_path, ring, groups=8)
    rng = random.Random(4)
    for _ in range(60):
        lsn = rng.randrange(1, 9)
        before = {}

        def flip_one(txn, lsn=lsn, before=before):
            value = bytearray(txn.get(lsn_to_key(lsn)))
            before["value"] = bytes(value)
            at = rng.randrange(len(value) if rng.random() < 0.5 else 160)
            value[at] ^= 1 << rng.randrange(8)
            txn.put(lsn_to_key(lsn), bytes(value))

        change(tmp_path / "journal" / FIRST, flip_one)
        report = verify_store(tmp_path, ring)
        assert lsn in named(report)
        assert named(report) <= {lsn, lsn + 1}
        change(
            tmp_path / "journal" / FIRST,
            lambda txn, n=lsn, b=before: txn.put(lsn_to_key(n), b["value"]),
        )
    assert verify_store(tmp_path, ring).is_sound


def test_groups_that_changed_places_are_named(tmp_path, ring):
    long_store(tmp_path, ring, groups=8)

    def swap(txn):
        three, five = txn.get(lsn_to_key(3)), txn.get(lsn_to_key(5))
        txn.put(lsn_to_key(3), five)
        txn.put(lsn_to_key(5), three)

    change(tmp_path / "journal" / FIRST, swap)
    found = {(f.code, f.lsn) for f in verify_store(tmp_path, ring).faults}
    assert {("group.misplaced", 3), ("group.misplaced", 5)} <= found
    assert {("chain.broken", lsn) for lsn in (3, 4, 5, 6)} <= found


def check_bits(tmp_path, ring, seed, rounds):
    """Bits anywhere in the file, LMDB's own pages too, which may kill the reader: it is said."""
    long_store(tmp_path, ring, groups=20)
    data = tmp_path / "journal" / FIRST / "data.mdb"
    whole = data.read_bytes()
    rng = random.Random(seed)
    outcomes = Counter()
    for n in range(rounds):
        damaged = bytearray(whole)
        # Half of them in the heads of pages and the tree, where it hurts most.
        at = rng.randrange(len(whole)) if n % 2 else rng.randrange(len(whole) // 4096) * 4096 + 10
        for bit in range(1 + n % 5):
            damaged[(at + bit) % len(whole)] ^= 1 << rng.randrange(8)
        data.write_bytes(damaged)
        try:
            report = verify_apart(tmp_path)
        except (StoreVersion, StorageUnavailable) as error:
            outcomes[error.code] += 1
            continue
        if report.is_sound:  # free pages and the older meta page may be anything
            assert report.rows_opened == 20 * 300
        outcomes["sound" if report.is_sound else report.faults[0].text.split()[0]] += 1
    return outcomes


def test_bits_of_the_file_itself(tmp_path, ring):
    outcomes = check_bits(tmp_path, ring, 7, 24)
    assert outcomes.total() == 24
    assert outcomes["sound"] < 24


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
def test_more_bits_of_the_file_itself(tmp_path, ring, seed):
    assert check_bits(tmp_path, ring, seed, 300).total() == 300


def test_a_reader_that_dies_is_reported(tmp_path, ring, monkeypatch):
    """As LMDB does on some damage of its own pages."""
    long_store(tmp_path, ring, groups=8)
    real = verify.group.bytes_to_raw

    def read(value):
        raw = real(value)
        if raw.lsn == 6:
            os.kill(os.getpid(), signal.SIGSEGV)
        return raw

    monkeypatch.setattr(verify.group, "bytes_to_raw", read)
    (fault,) = verify_apart(tmp_path).faults
    assert (fault.code, fault.lsn) == ("store.damaged", 6)


def test_details_are_held_against_rows(store, ring):
    desk = DeskKeys(store / "keys" / "desk")
    report = verify_store(store, ring, desk)
    assert (report.faults, report.details_opened) == ([], 4)

    def add(details, is_sealed_right=True):
        def edit(txn):
            link = bytes_to_raw(txn.get(lsn_to_key(6))).link
            run = pack_run(4, 0, 0, 2, 7, 7, 7)
            rows = make_rows(4, 7, 2, DAY + 1)
            draft = Draft(DAY + 1, NOON_MS, [run], [rows], [details], has_details=True)
            txn.put(lsn_to_key(7), seal_group(draft, 7, link, ring)[0])

        change(store / "journal" / FIRST, edit)

    add(pack_details([b"a", b"b"]))
    assert verify_store(store, ring, desk).is_sound
    for wrong in ([b"a"], [b"a", b"b", b"c"]):
        add(pack_details(wrong))
        (fault,) = verify_store(store, ring, desk).faults
        assert (fault.code, fault.lsn) == ("details.damaged", 7)
    add(pack_details([b"a", b"b"]))
    (store / "keys" / "desk" / f"{DAY + 1}.details.key").unlink()
    (fault,) = verify_store(store, ring, desk).faults
    assert (fault.code, fault.lsn) == ("key.missing", 3)


def test_records_that_the_registry_cannot_read(store):
    log = ControlLog(store / "control", floor_bytes=0, limit_bytes=1 << 28)
    log.append_sync("registry.venue", "an", b"no venue", NOON_MS)
    log.close()
    found = [(f.code, f.log, f.lsn) for f in verify_store(store).faults]
    assert found == [("record.damaged", "control", 4)]


def test_entries_of_the_watch_list_that_do_not_open(store, ring, tmp_path):
    """An engine does not start on them, so they are no sound store."""
    entry = WatchEntry(
        number=0, kind=WatchKind.WATCH, persons=(bytes(16),), reason="", case="BN-1234",
        purpose="case", who="an", role="tracer", unit="CDC", from_ms=0, to_ms=1, at_ms=0,
    )  # fmt: skip
    log = ControlLog(store / "control", floor_bytes=0, limit_bytes=1 << 28)
    log.append_sync(ADD_KIND, "an", entry_to_body(entry, ring), NOON_MS)
    log.close()
    assert verify_store(store, ring).is_sound
    assert verify_store(store).is_sound, "without keys nothing is opened"
    other = FileKeyRing(tmp_path / "other", create=True)
    faults = [(f.code, f.log, f.lsn) for f in verify_store(store, other).faults]
    assert ("record.damaged", "control", 4) in faults


def test_a_store_of_another_version(store):
    (store / "journal" / FIRST / "data.mdb").write_bytes(
        (store / "control" / "data.mdb").read_bytes()
    )
    with pytest.raises(StoreVersion):
        verify_store(store)


def test_chains_of_different_stores_differ():
    assert genesis(b"a" * 16) != genesis(b"b" * 16)
