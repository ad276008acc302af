"""Zeros ahead of a file: how far, when not, and never over what the file's owner writes."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.clock import ManualClock
from engine.errors import StorageFull
from engine.identity.keys import DESK_DIR, DeskKeys, FileKeyRing
from engine.keeping.verify import verify_store
from engine.storage import store_lmdb, zero_fill
from engine.storage.journal_lmdb import LmdbJournal
from engine.storage.store_lmdb import Store
from engine.storage.zero_fill import FROM_BYTES, MAX_STEP_BYTES, MIN_STEP_BYTES, ZeroFill
from tests.reference.batches import make_batch, read_groups

MIB = 1 << 20


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * FROM_BYTES)
    return path


@pytest.fixture
def fill(path):
    fill = ZeroFill(path, 1 << 30, 0)
    yield fill
    fill.close()


def has_room(monkeypatch, free_bytes):
    status = SimpleNamespace(f_bavail=free_bytes // 4096, f_frsize=4096)
    monkeypatch.setattr(zero_fill.os, "statvfs", lambda path: status)


def test_a_small_file_is_let_alone(path, fill):
    fill.note(FROM_BYTES - 1)
    assert fill._thread is None
    assert path.stat().st_size == FROM_BYTES


def test_what_is_filled_grows_with_the_file(path, fill):
    for end in (FROM_BYTES, 3 * MIB, 100 * MIB):
        with path.open("r+b") as file:
            file.truncate(max(end, path.stat().st_size))
        step = min(max(end, MIN_STEP_BYTES), MAX_STEP_BYTES)
        until(lambda end=end, step=step: fill.note(end) or fill.size >= end + step)
        assert path.stat().st_size == fill.size == end + step
    assert path.read_bytes()[:FROM_BYTES] == b"x" * FROM_BYTES
    # Until half of it is used there is nothing to do.
    fill.note(end + step // 2 - 1)
    assert not fill._more.is_set()


def test_the_limit_is_kept(path):
    fill = ZeroFill(path, FROM_BYTES + 300_000, 0)
    until(lambda: fill.note(FROM_BYTES) or fill.size == FROM_BYTES + 300_000)
    fill.close()
    assert path.stat().st_size == FROM_BYTES + 300_000


@pytest.mark.parametrize("free", [0, 5 * MIB, 8 * MIB])
def test_little_room_is_left_to_others(path, monkeypatch, free):
    """Above the floor of 5 MiB the zeros take an eighth of what is free, never less than a step."""
    has_room(monkeypatch, free)
    fill = ZeroFill(path, 1 << 30, 5 * MIB)
    fill.note(FROM_BYTES)
    until(lambda: fill._idle_until_s)  # it looked, and looks no more for a while
    until(lambda: not fill._more.is_set())
    assert path.stat().st_size == FROM_BYTES
    fill.note(FROM_BYTES)
    assert not fill._more.is_set()
    fill._idle_until_s = 0.0
    has_room(monkeypatch, 10 * MIB)
    until(lambda: fill.note(FROM_BYTES) or fill.size >= FROM_BYTES + MIN_STEP_BYTES)
    fill.close()


def test_a_file_that_cannot_be_written_is_tried_again_later(path, fill):
    kept = path.rename(path.with_name("elsewhere"))
    fill.note(FROM_BYTES)
    until(lambda: fill._idle_until_s)
    kept.rename(path)
    until(lambda: not fill._more.is_set())
    fill._idle_until_s = 0.0
    until(lambda: fill.note(FROM_BYTES) or fill.size > FROM_BYTES)


def test_zeros_never_fall_on_what_the_owner_writes(path, monkeypatch):
    """The owner is often ahead of the zeros, as when a commit is larger than what was filled."""
    for name, value in (("MIN_STEP_BYTES", 4096), ("MAX_STEP_BYTES", 4096), ("CHUNK_BYTES", 4096)):
        monkeypatch.setattr(zero_fill, name, value)
    fill = ZeroFill(path, 1 << 30, 0)
    end, step, ahead = FROM_BYTES, 3 * 4096, 0
    with path.open("r+b", buffering=0) as file:
        for n in range(1, 1500):
            ahead += path.stat().st_size > end
            os.pwrite(file.fileno(), n.to_bytes(2, "big") * (step // 2), end)
            end += step
            fill.note(end)
            if n % 20 == 0:
                until(lambda end=end: fill.note(end) or path.stat().st_size > end)
    fill.close()
    data = path.read_bytes()
    for n in range(1, 1500):
        start = FROM_BYTES + (n - 1) * step
        assert data[start : start + step] == n.to_bytes(2, "big") * (step // 2), n
    assert not any(data[end:])
    assert ahead  # some of it was written into zeros


def test_zeros_fall_behind_what_is_written_in_the_moment_before(path, monkeypatch):
    """The owner makes the file longer after its length was looked at and before the zeros come."""
    real, end = os.statvfs, [FROM_BYTES]

    def statvfs(place):
        with path.open("r+b") as file:
            file.seek(end[0])
            file.write(b"y" * 5_000)
        end[0] += 5_000
        return real(place)

    with monkeypatch.context() as patch:
        patch.setattr(zero_fill.os, "statvfs", statvfs)
        fill = ZeroFill(path, 1 << 30, 0)
        until(lambda: fill.note(FROM_BYTES) or fill.size > FROM_BYTES + MIN_STEP_BYTES // 2)
        fill.close()
    assert end[0] >= FROM_BYTES + 5_000
    data = path.read_bytes()
    assert data[FROM_BYTES : end[0]] == b"y" * (end[0] - FROM_BYTES)
    assert not any(data[end[0] :])
    assert len(data) >= end[0] + MIN_STEP_BYTES // 2


def test_closing_waits_for_a_write_at_most(path, fill):
    fill.note(FROM_BYTES)
    fill.close()
    fill.close()
    assert fill._thread is None or not fill._thread.is_alive()
    size = path.stat().st_size
    fill.note(path.stat().st_size + 40 * MIB)
    time.sleep(0.02)
    assert path.stat().st_size == size


# ---- under the journal --------------------------------------------------------------------------


def use(tmp_path: Path, scenario, **options):
    async def main():
        ring = FileKeyRing(tmp_path / "keys", create=not (tmp_path / "keys").exists())
        options.setdefault("floor_bytes", 0)
        journal = LmdbJournal(tmp_path / "journal", ring, ManualClock(), **options)
        try:
            return await asyncio.wait_for(scenario(journal), 60)
        finally:
            await journal.close()

    return asyncio.run(main())


def test_commits_of_a_journal_do_not_make_its_file_grow(tmp_path):
    data = tmp_path / "journal" / "000001" / "data.mdb"

    async def scenario(journal):
        store = journal._log._newest
        for seq in range(1, 80):
            before = data.stat().st_size
            await journal.append(make_batch(4, seq, rows_per_seq=500, details=b"x"))
            if seq > 20:
                assert (store._env.info()["last_pgno"] + 1) * 4096 <= before
            if seq >= 20:
                until(lambda: store._fill._is_far_enough())

    use(tmp_path, scenario)
    ring, desk = FileKeyRing(tmp_path / "keys"), DeskKeys(tmp_path / "keys" / DESK_DIR)
    report = verify_store(tmp_path, ring, desk)
    assert report.problems == []
    assert report.rows_opened == 79 * 500

    async def again(journal):
        assert sum(len(group.rows) for group in await read_groups(journal)) == 79 * 500
        assert (await journal.append(make_batch(4, 79, rows_per_seq=500))).is_duplicate
        assert not (await journal.append(make_batch(4, 80))).is_duplicate

    use(tmp_path, again)


def test_zeros_are_no_reason_to_refuse(tmp_path):
    """As many rows go below the limit with zeros as without."""
    stored = []
    for is_filled in (True, False):
        folder = tmp_path / str(is_filled)
        folder.mkdir()

        async def scenario(journal, is_filled=is_filled):
            fill, seq = journal._log._newest._fill, 0
            if not is_filled:
                journal._log._newest._fill = None
            with pytest.raises(StorageFull):
                while True:
                    await journal.append(make_batch(4, seq + 1, rows_per_seq=1000))
                    seq += 1
            stored.append(seq)
            journal._log._newest._fill = fill

        use(folder, scenario, limit_bytes=3 * MIB)
        assert (folder / "journal" / "000001" / "data.mdb").stat().st_size < 5 * MIB
    assert stored[0] == stored[1] > 50


def test_zeros_are_used_when_the_disk_has_no_room(tmp_path, monkeypatch):
    """What goes into them takes nothing from the disk; behind them appends are refused."""
    free = [1 << 30]
    monkeypatch.setattr(store_lmdb, "free_bytes", lambda path: free[0])

    async def scenario(journal):
        store, seq = journal._log._newest, 0
        while store._fill.size < FROM_BYTES + MIN_STEP_BYTES:
            seq += 1
            await journal.append(make_batch(4, seq, rows_per_seq=200))
        until(lambda: store._fill._is_far_enough())
        store._fill.close()
        end = (tmp_path / "journal" / "000001" / "data.mdb").stat().st_size
        free[0], first = 0, seq
        with pytest.raises(StorageFull, match="free"):
            while True:
                await journal.append(make_batch(4, seq + 1, rows_per_seq=200))
                seq += 1
        assert seq >= first + 10
        assert (tmp_path / "journal" / "000001" / "data.mdb").stat().st_size == end
        free[0] = 1 << 30
        assert not (await journal.append(make_batch(4, seq + 1, rows_per_seq=200))).is_duplicate
        assert journal.watermarks() == {(4, 7, 0): seq + 1}

    use(tmp_path, scenario, floor_bytes=MIB)


def test_one_look_at_the_room_serves_several_commits(tmp_path, monkeypatch):
    looks = []
    real = Store._find_room

    def find_room(self, *words):
        looks.append(words)
        return real(self, *words)

    monkeypatch.setattr(Store, "_find_room", find_room)

    async def scenario(journal):
        for seq in range(1, 121):
            await journal.append(make_batch(4, seq, rows_per_seq=100))
            if seq == 20:
                until(lambda: journal._log._newest._fill._is_far_enough())
                looks.clear()
        assert 1 <= len(looks) <= 40
        await journal.expire(0)

    use(tmp_path, scenario)
