"""Kill -9 in the middle of appending, and full disks: nothing acknowledged lost, nothing doubled.

A kill proves atomicity and idempotence, not durability: the page cache outlives the process.
Durability rests on LMDB's synchronous commits (docs/storage.md).
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from engine.clock import SystemClock, day_to_ms
from engine.errors import StorageFull
from engine.faults import ENGINE_STEPS
from engine.identity.keys import FileKeyRing
from engine.keeping.verify import verify_store
from engine.storage import generation
from engine.storage.journal_lmdb import LmdbJournal
from tests.crash.journal_worker import day_of
from tests.reference.batches import DAY, count_identities, make_batch, read_groups

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("journal_worker.py")
GATEWAYS = 4


class Killed:
    """A store, what its workers acknowledged, and what must therefore be in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.acked = dict.fromkeys(range(1, GATEWAYS + 1), 0)
        self.kills = 0

    def run(self, *, life_s: float = 30, step: str = "-", at: int = 0) -> None:
        """One worker that starts from the first unacknowledged number and dies."""
        starts = ",".join(str(last + 1) for last in self.acked.values())
        command = [sys.executable, str(WORKER), str(self.path / "journal"), str(self.path / "keys")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if "." in step:
            environment["CHOT_KILL_AT"] = f"{step}:{at}"
        with subprocess.Popen(
            [*command, starts, step, str(at)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        ) as worker:
            if step == "-":
                first = worker.stdout.readline()  # the clock runs from the first receipt
                time.sleep(life_s)
                worker.kill()
            else:
                first = b""
            out, err = worker.communicate(timeout=30)
        assert worker.returncode == -9, err.decode()
        self.kills += 1
        whole_lines = (first + out).decode().split("\n")[:-1]
        for line in whole_lines:
            _, gateway, last = line.split()
            assert int(last) > self.acked[int(gateway)]
            self.acked[int(gateway)] = int(last)

    def check(self, *, is_forgetting: bool = False) -> int:
        """Every acknowledged row once, every other row at most once; the number of rows."""
        ring = FileKeyRing(self.path / "keys")
        report = verify_store(self.path, ring)
        assert report.problems == []
        assert is_forgetting or report.rows_opened == report.rows

        async def read():
            journal = LmdbJournal(self.path / "journal", ring, SystemClock(), floor_bytes=0)
            groups = await read_groups(journal)
            marks = journal.watermarks()
            await journal.close()
            return groups, marks

        groups, marks = asyncio.run(read())
        expected: Counter = Counter()
        for gateway, acked in self.acked.items():
            mark = marks.get((gateway, 7, 0), 0)
            assert mark >= acked
            assert mark % 3 == 0  # whole runs only
            expected.update(
                (gateway, seq, n)
                for seq in range(1, mark + 1)
                for n in (0, 1)
                if day_of(seq, is_forgetting) not in ring.destroyed_days()
            )
        assert count_identities(groups) == expected
        return expected.total()


@pytest.mark.parametrize("step", ["before", "after"])
def test_killed_at_the_commit_itself(tmp_path, step):
    killed = Killed(tmp_path)
    for at in (1, 2, 5):
        killed.run(step=step, at=at)
        rows = killed.check()
        assert rows >= 2 * sum(killed.acked.values())
        if step == "after":
            # The last commit was never acknowledged, yet it is there: the next worker's first
            # runs must be recognised.
            assert rows > 2 * sum(killed.acked.values())
    assert sum(killed.acked.values()) > 0


GENERATION_STEPS = [step for step in ENGINE_STEPS if step.startswith("generation.")]


@pytest.mark.parametrize("step", GENERATION_STEPS)
def test_killed_at_each_step_of_a_generation(tmp_path, step):
    """Whatever is half made is taken away, or goes on; what is half removed goes."""
    killed = Killed(tmp_path)
    for at in (1, 3):
        killed.run(step=step, at=at)
        if not generation.is_there(tmp_path / "journal"):
            assert not any(killed.acked.values())  # the first one was not yet made
            continue
        killed.check(is_forgetting=True)
        names = sorted(p.name for p in (tmp_path / "journal").iterdir() if p.is_dir())
        assert not any(name.endswith(".tmp") for name in names)
        numbers = [int(name) for name in names]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    if step in ("generation.released", "generation.unlinked"):
        assert numbers[0] > 1
    assert sum(killed.acked.values()) > 0


def kill_many(killed: Killed, seed: int, span_s: float, least: int) -> None:
    rng = random.Random(seed)
    end = time.monotonic() + span_s
    while killed.kills < least or time.monotonic() < end:
        killed.run(life_s=rng.choice((0, 0.003, 0.02, 0.08)) * rng.random())
    assert killed.check() > 0
    assert all(killed.acked.values())


def test_killed_at_random_moments(tmp_path):
    kill_many(Killed(tmp_path), seed=1, span_s=4, least=4)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 6))
def test_killed_at_random_moments_for_longer(tmp_path, seed):
    kill_many(Killed(tmp_path), seed, span_s=60, least=60)


async def fill_until_full(journal, rows_per_seq: int) -> int:
    """The last sequence number that was stored."""
    for seq in range(1, 10_000):
        try:
            await journal.append(make_batch(4, seq, rows_per_seq=rows_per_seq))
        except StorageFull:
            return seq - 1
    raise AssertionError("the disk never filled")


async def check_readable(journal, last: int, rows_per_seq: int) -> None:
    found = count_identities(await read_groups(journal))
    assert found == {(4, s, n): 1 for s in range(1, last + 1) for n in range(rows_per_seq)}


FILE_LIMIT = """
import asyncio, resource, sys
from engine.storage import generation
from engine.clock import SystemClock
from engine.storage.journal_lmdb import LmdbJournal
from engine.identity.keys import FileKeyRing
from tests.crash.test_journal_crash import check_readable, fill_until_full, refused
from tests.crash.journal_worker import day_of
from tests.reference.batches import make_batch

async def main():
    path = sys.argv[1]
    ring = FileKeyRing(path + "/keys", create=True)
    journal = LmdbJournal(path + "/journal", ring, SystemClock(), floor_bytes=0)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    last = await fill_until_full(journal, 100)
    assert last > 20, last
    await check_readable(journal, last, 100)
    await refused(journal, last + 1, 100)
    await check_readable(journal, last, 100)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    receipt = await journal.append(make_batch(4, last + 1, rows_per_seq=100))
    assert not receipt.is_duplicate
    await check_readable(journal, last + 1, 100)
    await journal.close()
    print("done")

asyncio.run(main())
"""


async def refused(journal, seq: int, rows_per_seq: int) -> None:
    for _ in range(3):
        with pytest.raises(StorageFull):
            await journal.append(make_batch(4, seq, rows_per_seq=rows_per_seq))


def test_a_file_that_may_not_grow(tmp_path):
    """RLIMIT_FSIZE makes LMDB's writes short, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", FILE_LIMIT, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "done\n", done.stderr
    assert verify_store(tmp_path, FileKeyRing(tmp_path / "keys")).problems == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "chot-test", str(mount)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(reason="there is no mount command")
    if done.returncode:
        pytest.skip(reason=f"mounting needs root: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.mark.parametrize("floor_bytes", [0, 1 << 20])
def test_a_full_disk_loses_nothing_and_comes_back(tmp_path, small_disk, floor_bytes):
    async def main():
        ring = FileKeyRing(tmp_path / "keys", create=True)
        path = small_disk / "journal"
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(500_000))
        journal = LmdbJournal(path, ring, SystemClock(), floor_bytes=floor_bytes)
        try:
            last = await fill_until_full(journal, 200)
            await check_readable(journal, last, 200)
            await refused(journal, last + 1, 200)
            ballast.unlink()
            await journal.append(make_batch(4, last + 1, rows_per_seq=200))
            await check_readable(journal, last + 1, 200)

            # Full again, and forgetting is what makes the room.
            for seq in range(last + 2, 10_000):
                try:
                    await journal.append(make_batch(4, seq, rows_per_seq=200))
                except StorageFull:
                    break
            if not floor_bytes:
                return  # without a floor there is no room left to forget in
            assert await journal.expire(day_to_ms(DAY + 1)) == seq - 1
            receipt = await journal.append(make_batch(4, seq, rows_per_seq=200, day=DAY + 1))
            assert not receipt.is_duplicate
        finally:
            await journal.close()

    asyncio.run(main())
    assert verify_store(small_disk, FileKeyRing(tmp_path / "keys")).problems == []


def test_opened_on_a_full_disk_it_answers(tmp_path, small_disk):
    async def main():
        ring = FileKeyRing(tmp_path / "keys", create=True)
        path, ballast = small_disk / "journal", small_disk / "ballast"
        journal = LmdbJournal(path, ring, SystemClock(), floor_bytes=0)
        await journal.append(make_batch(4, 1, rows_per_seq=200))
        await journal.close()
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
            while True:
                file.write(bytes(4096))
        journal = LmdbJournal(path, ring, SystemClock(), floor_bytes=0)
        try:
            await check_readable(journal, 1, 200)
            await refused(journal, 2, 200)
            ballast.unlink()
            assert (await journal.append(make_batch(4, 1, rows_per_seq=200))).is_duplicate
            await journal.append(make_batch(4, 2, rows_per_seq=200))
            await check_readable(journal, 2, 200)
        finally:
            await journal.close()

    asyncio.run(main())
