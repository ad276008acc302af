"""Disks that fail under what is made beside the scans: files of the index, the log's next file.

Neither has a receipt of its own. So while the index cannot write, scans are taken and questions are
answered from memory, the log says why, and when the disk takes writes again the days are written
down without a restart. While the log's next file cannot be made, scans go into the one there is, as
far as it may grow; then nothing is acknowledged until there is room.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from engine.cli.story import Person
from engine.client import api_client as client
from engine.clock import HOUR_MS, day_to_ms
from engine.wire import frames as wire
from tests.crash.powercut import build
from tests.crash.test_disk_faults import SmallDisk, mounted
from tests.e2e.rig import (
    DAY,
    EngineProcess,
    Job,
    RawLink,
    day_text,
    enrolment,
    fresh_person,
    hello,
    job,
    lane_name,
    person_scan,
    read_store,
    run_chot,
    scans,
    until,
)

SMALL = {"index_memory_scans": 20, "free_space_min": 1}
AT_ONCE = 10

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler for the fault injector"
)


class Queue:
    """People who pass a post one after the other, some in a message."""

    def __init__(self, engine: EngineProcess, at_once: int = AT_ONCE) -> None:
        self.engine = engine
        self.sent = 0  # with a receipt
        self.at_once = at_once
        self._epoch = 0
        self._people: list[Person] = []  # where they are many, they come again

    def send(self, times: int = 1) -> None:
        """Messages that must get their receipts."""
        for _ in range(times):
            assert isinstance(self.try_one(), wire.Ack)
            self.sent += self.at_once

    def try_one(self) -> wire.Message:
        self._epoch += 1
        first_ms = day_to_ms(DAY) + 8 * HOUR_MS + 1000 * self._epoch
        if self.at_once == AT_ONCE or not self._people:
            self._people = [fresh_person() for _ in range(self.at_once)]
        records = [person_scan(p, at_ms=first_ms + n) for n, p in enumerate(self._people)]
        with RawLink(self.engine.port) as link:
            link.send(hello(lane_name(1), epoch=self._epoch, next=(2, 1)))
            found = link.next()
            if isinstance(found, wire.Welcome):
                link.send(scans(1, *records))
                while not isinstance(found, wire.Error | wire.Ack):
                    found = link.next()
            return found

    def check_answers(self) -> None:
        until(lambda: self.engine.metric("chot_index_lag_groups") == 0)
        figures = client.figures(self.engine.api, enrolment().token, day_text())
        assert sum(place["scans"] for place in figures["places"]) == self.sent

    def send_until_written(self) -> None:
        """More people come, and what they wait behind is written down."""
        for _ in range(20):
            self.send()
            memory = self.engine.metric("chot_index_memory_scans")
            if self.engine.metric("chot_index_segments") and memory < SMALL["index_memory_scans"]:
                return
        until(lambda: self.engine.metric("chot_index_memory_scans") < SMALL["index_memory_scans"])

    def check_whole(self) -> None:
        """After a kill and a clean stop: all that had a receipt, once, and a sound store."""
        engine = self.engine
        left = engine.metric("chot_index_replay_groups")
        engine.kill()
        engine.start()
        assert engine.metric("chot_index_replay_groups") <= left + 1
        self.check_answers()
        report = run_chot("verify", str(engine.data))  # beside the engine
        assert report.returncode == 0, report.stdout
        assert engine.stop() == 0
        assert "Traceback" not in engine.log_text()
        assert "made anew" not in engine.log_text()
        assert len(read_store(engine.data).rows) == self.sent


def check_waits(queue: Queue, code: str, fill: Callable[[], None] = lambda: None) -> None:
    """Scans get receipts, questions are answered, the log says why no day is written down.

    fill: the disk once more; a day that was being written when it became full has let files go.
    """
    words = f"days are not written down code={code}"

    def is_told() -> bool:
        fill()
        if words in queue.engine.log_text():
            return True
        queue.send()
        return False

    queue.send(6)
    until(is_told)
    queue.check_answers()
    assert queue.engine.metric("chot_journal_full") == 0
    assert queue.engine.metric("chot_index_memory_scans") >= SMALL["index_memory_scans"]


def faulty_job(
    folder: Path, patch: pytest.MonkeyPatch, below: str, **settings: object
) -> AbstractContextManager[Job]:
    """Faults hit what lies below a folder of the data, see diskfault.c."""
    patch.setenv("LD_PRELOAD", str(build("diskfault")))
    patch.setenv("DISKFAULT_FOLDER", str(folder / "job" / "data" / below))
    patch.setenv("DISKFAULT_SWITCH", str(folder / "fault"))
    return job(folder / "job", settings=settings)


# ---- the index ----------------------------------------------------------------------------------

SOME = {("index", "sync"), ("index/manifest", "dsync")}
KINDS = [
    pytest.param(below, kind, marks=() if (below, kind) in SOME else pytest.mark.full)
    for below in ("index", "index/manifest")
    for kind in ("sync", "dsync", "write", "full")
]


@needs_compiler
@pytest.mark.parametrize(("below", "kind"), KINDS)
def test_days_are_written_down_when_the_disk_takes_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str, kind: str
) -> None:
    """EIO on syncs, on writes, ENOSPC; on a day's file, or on the manifest alone."""
    with faulty_job(tmp_path, monkeypatch, below, **SMALL) as made:
        queue = Queue(made.engine)
        queue.send(3)
        queue.send_until_written()
        switch = tmp_path / f"fault.{kind}"
        switch.touch()
        check_waits(queue, "storage.unavailable")
        switch.unlink()
        queue.send_until_written()
        queue.check_whole()


@pytest.fixture(params=["tmpfs", pytest.param("ext4", marks=pytest.mark.full)])
def index_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of the index alone."""
    data = enrolment().copy_to(tmp_path)
    shutil.rmtree(data / "index", ignore_errors=True)
    yield from mounted(SmallDisk(data / "index", request.param, 24))


def test_a_full_disk_of_the_index_and_room_again(index_disk: SmallDisk, tmp_path: Path) -> None:
    data = index_disk.place.parent
    with job(tmp_path / "job", data=data, settings=SMALL) as made:
        queue = Queue(made.engine)
        queue.send(3)
        index_disk.fill()
        check_waits(queue, "storage.full", index_disk.fill)
        made.engine.kill()
        made.engine.start()  # on a full disk
        queue.check_answers()
        index_disk.ballast.unlink()
        queue.send_until_written()
        queue.check_whole()


@pytest.mark.parametrize("index_disk", ["ext4"], indirect=True)
def test_a_disk_of_the_index_that_becomes_read_only(index_disk: SmallDisk, tmp_path: Path) -> None:
    data = index_disk.place.parent
    with job(tmp_path / "job", data=data, settings=SMALL) as made:
        queue = Queue(made.engine)
        queue.send(3)
        queue.send_until_written()
        index_disk.break_down()
        check_waits(queue, "storage.unavailable")
        assert made.engine.stop() == 0
        assert "Traceback" not in made.engine.log_text()


# ---- the next file of the log -------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    "kind", ["full", *(pytest.param(kind, marks=pytest.mark.full) for kind in ("sync", "write"))]
)
def test_a_generation_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    below = "journal/000002"
    size = 1 << 20
    with faulty_job(tmp_path, monkeypatch, below, generation_size=size, free_space_min=1) as made:
        queue, engine = Queue(made.engine, 600), made.engine
        switch = tmp_path / f"fault.{kind}"
        switch.touch()
        found = fill_until_refused(queue)
        # One file is all there is, as large as it may be; nothing half made lies beside it.
        names = sorted(p.name for p in (engine.data / "journal").iterdir() if p.is_dir())
        assert names == ["000001"]
        assert found.code == 11
        stored = engine.metric("chot_journal_rows")
        assert isinstance(queue.try_one(), wire.Error)
        assert engine.metric("chot_journal_rows") == stored == queue.sent
        assert engine.metric("chot_journal_full") == 1
        queue.check_answers()
        engine.kill()  # and the next start meets the same disk
        engine.start()
        assert isinstance(queue.try_one(), wire.Error)
        switch.unlink()
        until(lambda: isinstance(queue.try_one(), wire.Ack))
        queue.sent += queue.at_once
        assert engine.metric("chot_journal_generations") == 2
        queue.send()
        queue.check_whole()


def fill_until_refused(queue: Queue) -> wire.Error:
    for _ in range(400):
        found = queue.try_one()
        if isinstance(found, wire.Error):
            return found
        queue.sent += queue.at_once
    raise AssertionError("it was never refused")
