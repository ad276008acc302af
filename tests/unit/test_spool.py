"""The spool: numbers, durability, holes, and that nothing readable ever reaches the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import spool_lmdb
from engine.errors import (
    SealBroken,
    SettingInvalid,
    StorageFull,
    StorageUnavailable,
    StoreLocked,
    StoreVersion,
)
from engine.keys import make_pair, open_sealed
from engine.spool_lmdb import Draft, Hole, Spool
from engine.wire import FLAG_SEALED, FrameType, seal_aad

PRIVATE, PUBLIC = make_pair()
ROOT = Path(__file__).resolve().parents[2]


def draft(body: bytes, channel: int = 1) -> Draft:
    return Draft(FrameType.SCANS, 0, channel, body)


def plain(public: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Stands in for the seal where the size of a body must be exact."""
    return plaintext


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Spool]:
    made: list[Spool] = []

    def make_one(name: str = "spool", gateway: str = "gw-1", **options: object) -> Spool:
        spool = Spool(tmp_path / name, gateway=gateway, ingest_public=PUBLIC, **options)  # type: ignore[arg-type]
        made.append(spool)
        return spool

    yield make_one  # type: ignore[misc]
    for spool in made:
        spool.close()


def test_numbers_start_at_one_and_only_the_engine_reads_bodies(make: Callable[..., Spool]) -> None:
    spool = make()
    assert spool.append([draft(b"first"), draft(b"second", 2)]) == [1, 2]
    assert spool.append([draft(b"third")]) == [3]
    records = spool.read(0)
    assert [(r.seq, r.channel, r.flags) for r in records] == [
        (1, 1, FLAG_SEALED),
        (2, 2, FLAG_SEALED),
        (3, 1, FLAG_SEALED),
    ]
    for record, body in zip(records, [b"first", b"second", b"third"], strict=True):
        aad = seal_aad("gw-1", spool.epoch, record.seq)
        assert open_sealed(PRIVATE, record.body, aad) == body
        with pytest.raises(SealBroken):
            open_sealed(PRIVATE, record.body, seal_aad("gw-1", spool.epoch, record.seq + 1))
        with pytest.raises(SealBroken):
            open_sealed(PRIVATE, record.body, seal_aad("gw-2", spool.epoch, record.seq))


def test_no_plaintext_on_the_disk(make: Callable[..., Spool], tmp_path: Path) -> None:
    spool = make()
    secret = b"Nguy\xe1\xbb\x85n Th\xe1\xbb\x8b Gi\xe1\xba\xa3|045099999123"
    spool.append([draft(secret) for _ in range(20)])
    spool.ack(10)
    spool.close()
    for file in (tmp_path / "spool").iterdir():
        assert secret not in file.read_bytes(), file.name
        assert file.stat().st_mode & 0o077 == 0, f"{file.name} can be read by others"
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0


def test_what_was_appended_is_there_with_the_same_bytes_after_reopening(
    make: Callable[..., Spool],
) -> None:
    spool = make()
    spool.append([draft(b"%d" % i) for i in range(100)])
    spool.ack(30)
    epoch, before = spool.epoch, spool.read(30, count=1000)
    spool.close()
    again = make()
    assert (again.epoch, again.next_seq, again.acked) == (epoch, 101, 30)
    assert again.read(30, count=1000) == before
    assert len(before) == 70
    assert again.append([draft(b"x")]) == [101]


def test_ack_forgets_and_never_goes_back(make: Callable[..., Spool]) -> None:
    spool = make(sealer=plain)
    spool.append([draft(b"abc")] * 10)
    full = spool.size
    spool.ack(4)
    assert spool.oldest() == 5
    assert spool.read(3) == []
    spool.ack(2)
    assert (spool.acked, spool.oldest()) == (4, 5)
    assert spool.size == full * 6 // 10
    spool.ack(10)
    assert spool.is_drained
    assert (spool.size, spool.oldest(), spool.next_seq) == (0, 11, 11)
    assert spool.append([draft(b"later")]) == [11]
    assert not spool.is_drained


def test_reading_stops_at_limits_but_always_gives_one(make: Callable[..., Spool]) -> None:
    spool = make()
    spool.append([draft(bytes(1000)) for _ in range(10)])
    assert [r.seq for r in spool.read(0, count=3)] == [1, 2, 3]
    assert [r.seq for r in spool.read(4, size=1)] == [5]
    assert [r.seq for r in spool.read(4, size=2500)] == [5, 6, 7]


def test_a_full_spool_gives_the_oldest_up_and_says_which(make: Callable[..., Spool]) -> None:
    record = 100 + 64  # body and the cost of a record
    spool = make(size_max=10 * record, sealer=plain)
    spool.append([draft(bytes(100)) for _ in range(10)])
    assert spool.lost_count == 0
    spool.append([draft(bytes(100)), draft(bytes(100))])
    spool.append([draft(bytes(100))])
    assert spool.lost_count == 3
    assert spool.oldest() == 4
    assert spool.hole_after(0) == Hole(1, 3, "overflow")
    assert spool.hole_after(1) == Hole(2, 3, "overflow")
    assert spool.hole_after(3) is None
    assert spool.size <= 10 * record
    spool.ack(3)
    assert spool.lost_count == 3, "the count is of what was ever lost"
    spool.close()
    again = make(size_max=10 * record, sealer=plain)
    assert (again.lost_count, again.oldest(), again.next_seq) == (3, 4, 14)


def test_one_batch_larger_than_the_spool_loses_its_own_head(make: Callable[..., Spool]) -> None:
    spool = make(size_max=4 * 164, sealer=plain)
    assert spool.append([draft(bytes(100)) for _ in range(10)]) == list(range(1, 11))
    assert spool.hole_after(0) == Hole(1, 6, "overflow")
    assert [r.seq for r in spool.read(6)] == [7, 8, 9, 10]
    with pytest.raises(StorageFull):
        spool.append([draft(bytes(1000))])
    assert spool.next_seq == 11, "a refused body takes no number"


def test_a_hole_in_the_middle(make: Callable[..., Spool]) -> None:
    spool = make()
    spool.append([draft(b"x") for _ in range(6)])
    spool.drop(3, "too_large")
    spool.drop(3, "too_large")
    assert spool.lost_count == 1
    assert [r.seq for r in spool.read(0)] == [1, 2]
    assert spool.hole_after(2) == Hole(3, 3, "too_large")
    assert [r.seq for r in spool.read(3)] == [4, 5, 6]


def test_an_engine_behind_its_own_receipt_is_told_forgotten(make: Callable[..., Spool]) -> None:
    spool = make()
    spool.append([draft(b"x") for _ in range(8)])
    spool.ack(4)
    spool.drop(6, "too_large")
    assert spool.hole_after(1) == Hole(2, 4, "forgotten")
    spool.drop(5, "too_large")
    assert spool.hole_after(1) == Hole(2, 4, "forgotten")
    assert spool.hole_after(4) == Hole(5, 5, "too_large")
    spool.ack(8)
    assert spool.hole_after(2) == Hole(3, 8, "forgotten")
    assert spool.hole_after(8) is None


def test_two_spools_have_two_epochs(make: Callable[..., Spool]) -> None:
    assert make("a").epoch != make("b").epoch


def test_one_process_and_one_gateway_hold_a_spool(make: Callable[..., Spool]) -> None:
    spool = make()
    with pytest.raises(StoreLocked):
        make()
    spool.close()
    with pytest.raises(SettingInvalid, match="gw-1"):
        make(gateway="gw-2")
    make()


def test_a_spool_of_another_schema_is_left_alone(
    make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    make().close()
    monkeypatch.setattr(spool_lmdb, "SCHEMA", 2)
    with pytest.raises(StoreVersion, match="schema 1"):
        make()


def test_after_a_failed_commit_nothing_is_taken_and_the_next_call_works(
    make: Callable[..., Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make()
    spool.append([draft(b"kept")])
    monkeypatch.setattr(Spool, "_put_state", _fail)
    with pytest.raises(StorageUnavailable):
        spool.append([draft(b"refused by the disk")])
    with pytest.raises(StorageUnavailable):
        spool.read(0)
    monkeypatch.undo()
    assert spool.append([draft(b"again")]) == [2]
    assert [r.seq for r in spool.read(0)] == [1, 2]


def _fail(*_: object) -> None:
    raise lmdb.DiskError("Input/output error")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailable):
        Spool(tmp_path / "file" / "spool", gateway="g", ingest_public=PUBLIC)


CHILD = """
import sys
from engine.spool_lmdb import Draft, Spool
spool = Spool(sys.argv[1], gateway="gw-1", ingest_public=bytes.fromhex(sys.argv[2]))
n = spool.next_seq
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
    held = spool.read(0, count=100_000)
    assert promised > 15
    assert len(held) >= promised
    for record in held:
        aad = seal_aad("gw-1", spool.epoch, record.seq)
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
            spool.ack(min(number, spool.next_seq - 1))
        elif step == "drop":
            spool.drop(number, "too_large")
        else:
            spool.close()
            spool = open_spool()
        assert 0 <= spool.size <= 8 * 74
        at = spool.acked
        while at + 1 < spool.next_seq:
            hole = spool.hole_after(at)
            records = spool.read(at)
            assert (hole is None) == bool(records)
            if hole is not None:
                assert hole.first == at + 1 <= hole.last < spool.next_seq
                assert hole.reason != "forgotten"
                at = hole.last
            else:
                assert records[0].seq == at + 1
                at = records[-1].seq
    spool.close()
