"""The spool's write-ahead log: one write and one sync a capture, and what becomes of a bad disk."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import ManualClock
from engine.errors import StorageUnavailable
from engine.gateway import imprint, spool_wal
from engine.gateway.spool_change import Change
from engine.gateway.spool_epoch import Draft, Hole
from engine.gateway.spool_lmdb import Spool
from engine.gateway.spool_wal import _entries_of
from engine.wire.frames import FrameType
from tests.reference.spools import PUBLIC, MakeSpool, draft, fail, fill, plain, put_back, spools_in


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeSpool]:
    with spools_in(tmp_path) as make_one:
        yield make_one


def _refuse(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_capture_costs_one_write_and_one_sync(
    make: MakeSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make()
    files = tmp_path / "spool/data.mdb", tmp_path / "spool/wal"
    before, size = files[0].stat().st_mtime_ns, files[1].stat().st_size
    calls: list[str] = []
    for name in ("pwrite", "fdatasync", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *words, real=real, name=name: calls.append(name) or real(*words)
        )
    for seq in range(1, 101):
        assert spool.append([draft(b"x" * 100)]) == [seq]
        spool.ack(spool.current, seq)
    assert calls == ["pwrite", "fdatasync"] * 200
    assert (files[0].stat().st_mtime_ns, files[1].stat().st_size) == (before, size)


def test_a_log_that_does_not_sync_is_replaced_by_the_tables(
    make: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make()
    spool.append([draft(b"in the log")])
    monkeypatch.setattr(os, "fdatasync", _refuse)
    assert spool.append([draft(b"in the tables")]) == [2]
    monkeypatch.setattr(Change, "put_states", fail)
    with pytest.raises(StorageUnavailable):
        spool.append([draft(b"nowhere")])
    spool.close()
    monkeypatch.undo()
    again = make()
    assert again.current.next_seq in (3, 4), "what was refused may stand there"
    assert [r.seq for r in again.current.read(0)][:2] == [1, 2]


def test_what_a_failed_sync_left_in_the_log_does_not_come_twice(
    make: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _refuse)
        patch.setattr(Change, "put_states", fail)
        with pytest.raises(StorageUnavailable):
            spool.append([draft(b"message")])
    assert spool.append([draft(b"message")]) == [1]
    spool.close()
    again = make()
    assert (again.break_reason, again.current.next_seq) == (None, 2)


def test_an_old_log_put_back_is_not_continued(
    make: MakeSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a copy with `rsync` does, which leaves out the tables when they have not changed."""
    monkeypatch.setattr(imprint, "WRITE_MAX_MS", 50)
    spool = make()
    fill(spool)
    spool = make()
    spool.turn()
    spool.close()
    spool = make()
    spool.append([draft(b"a")])
    spool.append([draft(b"b")])
    number = spool.current.number
    old = (tmp_path / "spool/wal").read_bytes()
    spool.append([draft(b"sent and gone")])
    spool.close()
    put_back(tmp_path / "spool/wal", old)
    again = make()
    assert again.break_reason is not None and "after its last commit" in again.break_reason
    assert again.current.number != number


def test_without_its_log_a_spool_is_not_continued(make: MakeSpool, tmp_path: Path) -> None:
    spool = make()
    fill(spool)
    (tmp_path / "spool/wal").unlink()
    again = make()
    assert again.break_reason == "its log is gone"
    assert again.current.number != spool.current.number
    assert again.append([draft(b"new")]) == [1]


def damage(log: Path, *words: bytes) -> None:
    data = log.read_bytes()
    with log.open("r+b") as file:
        for word in words:
            file.seek(data.index(word))
            file.write(b"!")


def test_a_damaged_entry_of_the_log_is_told_as_lost(make: MakeSpool, tmp_path: Path) -> None:
    spool = make(sealer=plain)
    for body in (b"first", b"second", b"third", b"fourth", b"fifth"):
        spool.append([draft(body)])
    spool.close()
    damage(tmp_path / "spool/wal", b"second", b"third", b"fifth")
    again = make(sealer=plain)
    assert again.break_reason is not None and "damaged" in again.break_reason
    old, new = again.epochs
    assert (old.number, old.is_closed) == (spool.current.number, True)
    assert [[(r.seq, r.body) for r in old.read(n)] for n in (0, 3)] == [
        [(1, b"first")],
        [(4, b"fourth")],
    ]
    assert (old.hole_after(1), again.lost_count) == (Hole(2, 3, "damaged"), 2)
    assert new.next_seq == 1  # what the last one was, nobody knows: its number is not given again
    again.close()
    once_more = make(sealer=plain)
    assert (once_more.break_reason, once_more.lost_count) == (None, 2)


def test_what_was_acknowledged_before_it_was_damaged_is_not_lost(
    make: MakeSpool, tmp_path: Path
) -> None:
    spool = make(sealer=plain)
    for body in (b"first", b"second", b"third"):
        spool.append([draft(body)])
    spool.ack(spool.current, 2)
    spool.close()
    damage(tmp_path / "spool/wal", b"second")
    again = make(sealer=plain)
    old, _ = again.epochs
    assert (old.acked, again.lost_count) == (2, 0)
    assert [(r.seq, r.body) for r in old.read(2)] == [(3, b"third")]


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=8), st.integers(0, 500), st.binary())
@settings(max_examples=200)
def test_any_damage_leaves_the_other_entries(bodies: list[bytes], where: int, other: bytes) -> None:
    run = bytes(range(8))
    data, spans = bytearray(), []
    for body in bodies:
        entry = bytearray(struct.pack(">II8sQ", len(body), 0, run, 5) + body)
        entry[4:8] = zlib.crc32(entry[8:]).to_bytes(4, "big")
        spans.append((len(data), len(data) + len(entry)))
        data += entry
    end = len(data)
    data += bytes(600)
    before = bytes(data)
    data[where : where + len(other)] = other
    data = data[:600]
    changed = [n for n, (low, high) in enumerate(spans) if data[low:high] != before[low:high]]
    whole = [low for n, (low, high) in enumerate(spans) if n not in changed and high <= 600]
    assert [at for at in _entries_of(bytes(data), run) if at < end] == whole


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5), st.integers(0, 60)),
        st.tuples(
            st.sampled_from(["ack", "go_back", "drop"]), st.integers(0, 3), st.integers(0, 30)
        ),
        st.tuples(st.sampled_from(["turn", "forget", "reopen"]), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(steps=CHANGES)
def test_a_spool_with_its_log_is_as_one_without(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    """The log is small, so that it is full now and then."""
    folder = tmp_path_factory.mktemp("spool")
    clock = ManualClock()

    def work(spool: Spool, step: str, one: int, other: int) -> None:
        epoch = spool.epochs[one % len(spool.epochs)]
        if step == "append":
            key = bytes([other]) * 32 if other % 3 == 0 else b""
            drafts = [Draft(FrameType.SCANS, 0, n, bytes(other), key) for n in range(one)]
            spool.append(drafts)
        elif step == "ack":
            spool.ack(epoch, min(other, epoch.next_seq - 1))
        elif step == "go_back":
            spool.go_back(epoch, other)
        elif step == "drop":
            spool.drop(epoch, other, "too_large")
        elif step == "turn":
            spool.turn()
        elif step == "forget":
            spool.forget()

    def seen(spool: Spool) -> list[object]:
        found: list[object] = [spool.size, spool.lost_count, spool.keys(), spool.has_expired]
        for epoch in spool.epochs:
            state = (epoch.order, epoch.next_seq, epoch.acked, epoch.turn, epoch.oldest())
            rows = [(r.seq, r.channel, r.body) for r in epoch.read(epoch.oldest() - 1)]
            holes = [epoch.hole_after(at) for at in range(epoch.acked, epoch.next_seq)]
            found += [state, rows, epoch.read(epoch.acked, count=2, size=50), holes]
        return found

    def make_one(name: str) -> Spool:
        return Spool(
            folder / name,
            gateway="g",
            ingest_public=PUBLIC,
            size_max=12 * 100,
            keep_s=20,
            sealer=plain,
            clock=clock,
        )

    def never(*_: object) -> bool:
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_wal, "SIZE", 700)
        logged, plainly = make_one("logged"), make_one("plainly")
        plainly._wal.write = never  # type: ignore[method-assign]
        for step, one, other in steps:
            clock.advance(7_000)
            if step == "reopen":
                logged.close()
                logged = make_one("logged")
                assert logged.break_reason is None
                continue
            work(logged, step, one, other)
            work(plainly, step, one, other)
            assert seen(logged) == seen(plainly)
    logged.close()
    plainly.close()
