"""The spool: numbers, durability, holes, and that nothing readable ever reaches the disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import ManualClock
from engine.errors import (
    SealBroken,
    SettingInvalid,
    StorageFull,
    StorageUnavailable,
    StoreLocked,
    StoreVersion,
)
from engine.gateway import imprint, spool_change, spool_lmdb
from engine.gateway.spool_change import Change
from engine.gateway.spool_epoch import Hole
from engine.gateway.spool_lmdb import Spool
from engine.gateway.spool_wal import Wal
from engine.identity.seals import open_sealed
from engine.wire.frames import FLAG_SEALED, seal_aad
from tests.reference.spools import (
    PRIVATE,
    PUBLIC,
    MakeSpool,
    draft,
    fail,
    fill,
    plain,
    put_back,
    spools_in,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeSpool]:
    with spools_in(tmp_path) as make_one:
        yield make_one


def test_numbers_start_at_one_and_only_the_engine_reads_bodies(make: MakeSpool) -> None:
    spool = make()
    assert spool.append([draft(b"first"), draft(b"second", 2)]) == [1, 2]
    assert spool.append([draft(b"third")]) == [3]
    records = spool.current.read(0)
    assert [(r.seq, r.channel, r.flags) for r in records] == [
        (1, 1, FLAG_SEALED),
        (2, 2, FLAG_SEALED),
        (3, 1, FLAG_SEALED),
    ]
    for record, body in zip(records, [b"first", b"second", b"third"], strict=True):
        aad = seal_aad("gw-1", spool.current.number, record.seq)
        assert open_sealed(PRIVATE, record.body, aad) == body
        with pytest.raises(SealBroken):
            open_sealed(
                PRIVATE, record.body, seal_aad("gw-1", spool.current.number, record.seq + 1)
            )
        with pytest.raises(SealBroken):
            open_sealed(PRIVATE, record.body, seal_aad("gw-2", spool.current.number, record.seq))


def test_no_plaintext_on_the_disk(make: MakeSpool, tmp_path: Path) -> None:
    spool = make()
    secret = b"Nguy\xe1\xbb\x85n Th\xe1\xbb\x8b Gi\xe1\xba\xa3|045099999123"
    spool.append([draft(secret) for _ in range(20)])
    spool.ack(spool.current, 10)
    spool.close()
    for file in (tmp_path / "spool").iterdir():
        assert secret not in file.read_bytes(), file.name
        assert file.stat().st_mode & 0o077 == 0, f"{file.name} can be read by others"
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0


def test_what_was_appended_is_there_with_the_same_bytes_after_reopening(
    make: MakeSpool,
) -> None:
    spool = make()
    spool.append([draft(b"%d" % i) for i in range(100)])
    spool.ack(spool.current, 30)
    epoch, before = spool.current.number, spool.current.read(30, count=1000)
    spool.close()
    again = make()
    assert (again.current.number, again.current.next_seq, again.current.acked) == (epoch, 101, 30)
    assert again.current.read(30, count=1000) == before
    assert len(before) == 70
    assert again.append([draft(b"x")]) == [101]


def test_ack_never_goes_back_and_what_was_kept_is_forgotten(make: MakeSpool) -> None:
    spool = make(sealer=plain, keep_s=0)
    spool.append([draft(b"abc")] * 10)
    full = spool.size
    spool.ack(spool.current, 4)
    assert (spool.current.oldest(), spool.size) == (1, full)
    spool.forget()
    assert spool.current.oldest() == 5
    assert spool.current.read(3) == []
    spool.ack(spool.current, 2)
    assert (spool.current.acked, spool.current.oldest()) == (4, 5)
    assert spool.size == full * 6 // 10
    spool.ack(spool.current, 10)
    assert spool.is_drained
    spool.forget()
    assert (spool.size, spool.current.oldest(), spool.current.next_seq) == (0, 11, 11)
    assert spool.append([draft(b"later")]) == [11]
    assert not spool.is_drained


def test_acknowledged_records_stay_their_time_and_not_longer(make: MakeSpool) -> None:
    clock = ManualClock()
    spool = make(sealer=plain, keep_s=100, clock=clock)
    spool.append([draft(b"abc")] * 30)
    for seq in (10, 20):
        spool.ack(spool.current, seq)
        clock.advance(60_000)
    spool.forget()
    assert spool.current.oldest() == 11
    clock.advance(30_000)
    assert not spool.has_expired
    clock.advance(10_000)
    assert spool.has_expired
    spool.forget()
    assert (spool.current.oldest(), spool.has_expired) == (21, False)
    clock.advance(10**9)
    spool.forget()
    assert spool.current.oldest() == 21, "what has no receipt stays"


def test_forgetting_goes_in_steps(make: MakeSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_lmdb, "_FORGET_STEP", 4)
    spool = make(sealer=plain, keep_s=0)
    spool.append([draft(b"abc")] * 10)
    spool.ack(spool.current, 10)
    left = []
    while spool.has_expired:
        spool.forget()
        left.append(spool.current.oldest())
    assert left == [5, 9, 11]


def test_what_an_engine_lost_waits_again(make: MakeSpool) -> None:
    spool = make(keep_s=0)
    spool.append([draft(b"%d" % n) for n in range(9)])
    before = spool.current.read(0)
    spool.ack(spool.current, 7)
    spool.go_back(spool.current, 3)
    assert (spool.current.acked, spool.current.waiting) == (3, 6)
    spool.forget()
    assert spool.current.read(3) == before[3:], "an old receipt does not take it away"
    assert spool.current.oldest() == 4


def test_kept_records_give_way_first_and_silently(make: MakeSpool) -> None:
    spool = make(size_max=10 * 164, sealer=plain)
    spool.append([draft(bytes(100))] * 6)
    spool.ack(spool.current, 4)
    spool.append([draft(bytes(100))] * 6)
    assert (spool.current.oldest(), spool.lost_count) == (3, 0)
    spool.append([draft(bytes(100))] * 2)
    assert (spool.current.oldest(), spool.lost_count) == (5, 0)
    spool.append([draft(bytes(100))])
    assert (spool.lost_count, spool.current.hole_after(4)) == (1, Hole(5, 5, "overflow"))


# ---- several epochs -----------------------------------------------------------------------------


def test_after_a_turn_what_comes_is_numbered_elsewhere(make: MakeSpool) -> None:
    spool = make()
    spool.append([draft(b"%d" % n) for n in range(5)])
    old = spool.current
    spool.turn()
    new = spool.current
    assert new is not old and new.number != old.number
    assert spool.append([draft(b"live")]) == [1]
    assert [r.seq for r in old.read(0)] == [1, 2, 3, 4, 5]
    assert [r.seq for r in new.read(0)] == [1]
    assert open_sealed(PRIVATE, new.read(0)[0].body, seal_aad("gw-1", new.number, 1)) == b"live"
    assert spool.epochs == [old, new]
    spool.ack(old, 5)
    assert (old.waiting, new.waiting, spool.is_drained) == (0, 1, False)
    spool.close()
    again = make()
    assert [(e.number, e.waiting) for e in again.epochs] == [(old.number, 0), (new.number, 1)]
    assert again.current.number == new.number


def test_a_drained_epoch_comes_into_use_again_so_that_few_are_made(
    make: MakeSpool,
) -> None:
    spool = make()
    numbers = set()
    for n in range(50):
        epoch = spool.current
        numbers.add(epoch.number)
        spool.append([draft(b"%d" % n)])
        spool.turn()
        spool.ack(epoch, epoch.next_seq - 1)
    assert len(numbers) == 2
    assert sorted(e.next_seq for e in spool.epochs) == [26, 26]


def test_when_all_wait_no_more_are_opened(make: MakeSpool) -> None:
    spool = make()
    for _ in range(10):
        spool.append([draft(b"x")])
        spool.turn()
    assert len(spool.epochs) == spool_change.EPOCHS_OPEN_MAX
    assert sum(epoch.waiting for epoch in spool.epochs) == 10
    assert [e.turn for e in spool.epochs] == sorted(e.turn for e in spool.epochs)


def test_a_full_spool_gives_up_what_waits_longest(make: MakeSpool) -> None:
    spool = make(size_max=10 * 164, sealer=plain)
    first = spool.current
    spool.append([draft(bytes(100))] * 2)
    spool.turn()
    second = spool.current
    spool.append([draft(bytes(100))] * 4)
    spool.ack(first, 2)
    spool.turn()
    assert spool.current is first, "drained, so it is used again"
    spool.append([draft(bytes(100))] * 6)
    assert spool.lost_count == 0
    spool.append([draft(bytes(100))] * 2)
    assert (first.hole_after(2), second.hole_after(0)) == (None, Hole(1, 2, "overflow"))


def test_a_shared_epoch_takes_no_numbers_and_doubts_are_told(make: MakeSpool) -> None:
    spool = make(keep_s=0)
    spool.append([draft(b"x")] * 5)
    old = spool.current
    spool.retire(old, 3)
    new = spool.current
    assert new is not old and old.is_closed
    assert (spool.lost_count, new.hole_after(0)) == (3, Hole(1, 3, "copied"))
    assert spool.append([draft(b"y")]) == [4]
    spool.turn()
    assert spool.current not in (old, new)
    spool.ack(old, 5)
    spool.turn()
    assert spool.current is not old
    spool.forget()
    assert old not in spool.epochs, "closed and empty: forgotten"
    spool.close()
    assert old.number not in {epoch.number for epoch in make().epochs}


# ---- copies -------------------------------------------------------------------------------------


def check_not_continued(spool: Spool, number: int, why: str) -> None:
    assert spool.break_reason is not None and why in spool.break_reason
    old, new = spool.epochs
    assert (old.number, old.waiting, old.is_closed) == (number, 3, True)
    assert [r.seq for r in old.read(0)] == [1, 2, 3, 4, 5], "what it holds keeps its identity"
    assert new is spool.current and new.number != number
    assert spool.append([draft(b"new")]) == [1]


def test_the_same_spool_is_continued(make: MakeSpool) -> None:
    for n in range(3):
        spool = make()
        assert spool.break_reason is None
        assert spool.current.first_own == n + 1
        spool.append([draft(b"%d" % n)])
        spool.close()
    assert (len(spool.epochs), spool.current.next_seq) == (1, 4)


def test_a_copy_of_the_folder_is_not_continued(make: MakeSpool, tmp_path: Path) -> None:
    spool = make()
    fill(spool)
    shutil.copytree(tmp_path / "spool", tmp_path / "copy")
    check_not_continued(make("copy"), spool.current.number, "another file")
    assert make().break_reason is None, "the original goes on"


def test_an_old_copy_put_back_over_the_same_file(
    make: MakeSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cp over the file itself keeps its inode; the kernel's time of the last write tells."""
    monkeypatch.setattr(imprint, "WRITE_MAX_MS", 50)
    spool = make()
    fill(spool)
    old = (tmp_path / "spool/data.mdb").read_bytes()
    later = make()
    later.append([draft(b"sent and gone")])
    later.close()
    put_back(tmp_path / "spool/data.mdb", old)
    check_not_continued(make(), spool.current.number, "after its last commit")


def test_another_boot_or_machine(
    make: MakeSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make()
    fill(spool)
    boot = tmp_path / "boot"
    boot.write_text("another run")
    monkeypatch.setattr(imprint, "_BOOT", boot)
    check_not_continued(make(), spool.current.number, "started anew")


def test_without_a_name_of_the_boot_nothing_is_continued(
    make: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imprint, "_BOOT", ROOT / "absent")
    spool = make()
    fill(spool)
    check_not_continued(make(), spool.current.number, "started anew")


def test_restarts_without_scans_leave_no_epochs(
    make: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imprint, "_BOOT", ROOT / "absent")
    for _ in range(5):
        spool = make()
        spool.close()
    assert len(spool.epochs) == 1


def test_days_of_outage_cost_no_more_by_record_than_minutes(make: MakeSpool) -> None:
    """200,000 records in fast batches, read, acknowledged and forgotten: each tenth costs the same
    processor time as the first, to a factor that a busy machine cannot reach."""
    count, batch = 200_000, 500
    spool = make(sealer=plain, keep_s=0)

    def tenths(work: Iterator[None]) -> list[float]:
        spent: list[float] = []
        begun_s = time.process_time()
        for _ in work:
            spent.append(time.process_time() - begun_s)
            begun_s = time.process_time()
        size = len(spent) // 10
        return [sum(spent[i * size : (i + 1) * size]) for i in range(10)]

    def append() -> Iterator[None]:
        for _ in range(count // batch):
            spool.append([draft(bytes(120))] * batch)
            yield

    def send() -> Iterator[None]:
        at = 0
        while at < count:
            assert spool.current.hole_after(at) is None
            at = spool.current.read(at, count=16)[-1].seq
            if not at % batch:
                spool.ack(spool.current, at)
            yield

    def forget() -> Iterator[None]:
        while spool.has_expired:
            spool.forget()
            yield

    for name, work in (("append", append()), ("send", send()), ("forget", forget())):
        costs = tenths(work)
        assert max(costs[1:]) < 4 * costs[0] + 0.05, (name, costs)
    assert (spool.size, spool.is_drained) == (0, True)


# ---- limits -------------------------------------------------------------------------------------


def test_reading_stops_at_limits_but_always_gives_one(make: MakeSpool) -> None:
    spool = make()
    spool.append([draft(bytes(1000)) for _ in range(10)])
    assert [r.seq for r in spool.current.read(0, count=3)] == [1, 2, 3]
    assert [r.seq for r in spool.current.read(4, size=1)] == [5]
    assert [r.seq for r in spool.current.read(4, size=2500)] == [5, 6, 7]


def test_a_full_spool_gives_the_oldest_up_and_says_which(make: MakeSpool) -> None:
    record = 100 + 64  # body and the cost of a record
    spool = make(size_max=10 * record, sealer=plain)
    spool.append([draft(bytes(100)) for _ in range(10)])
    assert spool.lost_count == 0
    spool.append([draft(bytes(100)), draft(bytes(100))])
    spool.append([draft(bytes(100))])
    assert spool.lost_count == 3
    assert spool.current.oldest() == 4
    assert spool.current.hole_after(0) == Hole(1, 3, "overflow")
    assert spool.current.hole_after(1) == Hole(2, 3, "overflow")
    assert spool.current.hole_after(3) is None
    assert spool.size <= 10 * record
    spool.ack(spool.current, 3)
    assert spool.lost_count == 3, "the count is of what was ever lost"
    spool.close()
    again = make(size_max=10 * record, sealer=plain)
    assert (again.lost_count, again.current.oldest(), again.current.next_seq) == (3, 4, 14)


def test_one_batch_larger_than_the_spool_loses_its_own_head(make: MakeSpool) -> None:
    spool = make(size_max=4 * 164, sealer=plain)
    assert spool.append([draft(bytes(100)) for _ in range(10)]) == list(range(1, 11))
    assert spool.current.hole_after(0) == Hole(1, 6, "overflow")
    assert [r.seq for r in spool.current.read(6)] == [7, 8, 9, 10]
    with pytest.raises(StorageFull):
        spool.append([draft(bytes(1000))])
    assert spool.current.next_seq == 11, "a refused body takes no number"


def test_a_hole_in_the_middle(make: MakeSpool) -> None:
    spool = make()
    spool.append([draft(b"x") for _ in range(6)])
    spool.drop(spool.current, 3, "too_large")
    spool.drop(spool.current, 3, "too_large")
    assert spool.lost_count == 1
    assert [r.seq for r in spool.current.read(0)] == [1, 2]
    assert spool.current.hole_after(2) == Hole(3, 3, "too_large")
    assert [r.seq for r in spool.current.read(3)] == [4, 5, 6]


def test_an_engine_behind_its_own_receipt_is_told_forgotten(make: MakeSpool) -> None:
    spool = make(keep_s=0)
    spool.append([draft(b"x") for _ in range(8)])
    spool.ack(spool.current, 4)
    spool.forget()
    spool.drop(spool.current, 6, "too_large")
    assert spool.current.hole_after(1) == Hole(2, 4, "forgotten")
    spool.drop(spool.current, 5, "too_large")
    assert spool.current.hole_after(1) == Hole(2, 4, "forgotten")
    assert spool.current.hole_after(4) == Hole(5, 5, "too_large")
    spool.ack(spool.current, 8)
    spool.forget()
    assert spool.current.hole_after(2) == Hole(3, 8, "forgotten")
    assert spool.current.hole_after(8) is None


def test_two_spools_have_two_epochs(make: MakeSpool) -> None:
    assert make("a").current.number != make("b").current.number


def test_one_process_and_one_gateway_hold_a_spool(make: MakeSpool) -> None:
    spool = make()
    with pytest.raises(StoreLocked):
        make()
    spool.close()
    with pytest.raises(SettingInvalid, match="gw-1"):
        make(gateway="gw-2")
    make()


def test_a_spool_of_another_schema_is_left_alone(
    make: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().close()
    monkeypatch.setattr(spool_lmdb, "SCHEMA", 4)
    with pytest.raises(StoreVersion, match="schema 3"):
        make()


def test_after_a_failed_commit_nothing_is_taken_and_the_next_call_works(
    make: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make()
    spool.append([draft(b"kept")])
    monkeypatch.setattr(Wal, "write", lambda *_: False)
    monkeypatch.setattr(Change, "put_states", fail)
    with pytest.raises(StorageUnavailable):
        spool.append([draft(b"refused by the disk")])
    with pytest.raises(StorageUnavailable):
        spool.current.read(0)
    with pytest.raises(StorageUnavailable):
        spool.ack(spool.current, 1)
    monkeypatch.undo()
    assert spool.append([draft(b"again")]) == [2]
    assert [r.seq for r in spool.current.read(0)] == [1, 2]
    assert spool.current.acked == 0


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailable):
        Spool(tmp_path / "file" / "spool", gateway="g", ingest_public=PUBLIC)


CHILD = """
import sys
from engine.gateway.spool_epoch import Draft
from engine.gateway.spool_lmdb import Spool
spool = Spool(sys.argv[1], gateway="gw-1", ingest_public=bytes.fromhex(sys.argv[2]))
n = spool.current.next_seq
while True:
    spool.append([Draft(2, 0, 1, b"%d" % (n + i)) for i in range(3)])
    n += 3
    print(n - 1, flush=True)
"""


def test_what_was_promised_survives_kill_9(tmp_path: Path) -> None:
    promised = 0
    for round_no in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "spool"), PUBLIC.hex()],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert child.stdout is not None
        for _ in range(5 + round_no):
            promised = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        promised = int((child.stdout.read().split() or [b"%d" % promised])[-1])
        child.wait()
        child.stdout.close()
    spool = Spool(tmp_path / "spool", gateway="gw-1", ingest_public=PUBLIC)
    held = spool.current.read(0, count=100_000)
    assert promised > 15
    assert len(held) >= promised
    for record in held:
        aad = seal_aad("gw-1", spool.current.number, record.seq)
        assert open_sealed(PRIVATE, record.body, aad) == b"%d" % record.seq
    spool.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5)),
        st.tuples(st.just("ack"), st.integers(0, 40)),
        st.tuples(st.just("drop"), st.integers(1, 40)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_every_number_is_held_acked_or_a_hole(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """The invariant of a resumed link: from any watermark on, no number is silently missing."""
    path = tmp_path_factory.mktemp("spool")

    def open_spool() -> Spool:
        return Spool(path, gateway="g", ingest_public=PUBLIC, size_max=8 * 74, sealer=plain)

    spool = open_spool()
    for step, number in steps:
        if step == "append":
            spool.append([draft(bytes(10)) for _ in range(number)])
        elif step == "ack":
            spool.ack(spool.current, min(number, spool.current.next_seq - 1))
        elif step == "drop":
            spool.drop(spool.current, number, "too_large")
        else:
            spool.close()
            spool = open_spool()
        assert 0 <= spool.size <= 8 * 74
        at = spool.current.acked
        while at + 1 < spool.current.next_seq:
            hole = spool.current.hole_after(at)
            records = spool.current.read(at)
            assert (hole is None) == bool(records)
            if hole is not None:
                assert hole.first == at + 1 <= hole.last < spool.current.next_seq
                assert hole.reason != "forgotten"
                at = hole.last
            else:
                assert records[0].seq == at + 1
                at = records[-1].seq
    spool.close()
