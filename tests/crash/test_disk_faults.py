"""Disks that are full, read-only or fail, under a real engine with a real gateway.

While the disk refuses nothing is acknowledged, and everybody who must know is told: gateways (ERROR
11), /metrics, the log, `chot doctor`. When it takes writes again, all the gateway's records are
there, once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from engine.identity.keys import FileKeyRing
from engine.wire import frames as wire
from tests.crash.powercut import build
from tests.e2e.rig import (
    BACK_END,
    EngineProcess,
    GatewayProcess,
    Job,
    RawLink,
    enrolment,
    fresh_person,
    job,
    lane_name,
    person_scan,
    read_store,
    run_chot,
    scans,
    story,
    until,
)

MIB = 1 << 20
NOT_PERMITTED = ("permission denied", "must be superuser", "not permitted")  # words of `mount`


# ---- small disks --------------------------------------------------------------------------------


def run(*command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LC_ALL": "C"}  # refusals are known by their words
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


class SmallDisk:
    """A file system of its own; `fill` leaves it without a byte."""

    def __init__(self, place: Path, kind: str, size_mib: int) -> None:
        self.place = place
        self.kind = kind
        self.image = place.with_name(place.name + ".img")
        self._size_mib = size_mib
        place.mkdir()
        tools = ("mkfs.ext4", "e2fsck", "losetup") if kind == "ext4" else ()
        for tool in ("mount", *tools):
            if shutil.which(tool) is None:
                pytest.skip(reason=f"there is no {tool} here")
        if kind == "ext4":
            if not Path("/dev/loop-control").exists():
                pytest.skip(reason="there are no loop devices here")
            with self.image.open("wb") as file:
                file.truncate(size_mib * MIB)
            made = run("mkfs.ext4", "-q", "-F", "-m", "0", str(self.image))
            assert made.returncode == 0, made.stderr

    def try_mount(self, *options: str) -> subprocess.CompletedProcess[str]:
        if self.kind == "tmpfs":
            words = ["-t", "tmpfs", "-o", f"size={self._size_mib}m", "chot-test"]
        else:
            words = ["-o", ",".join(["loop", "errors=remount-ro", *options]), str(self.image)]
        return run("mount", *words, str(self.place))

    def mount(self, *options: str) -> None:
        done = self.try_mount(*options)
        assert done.returncode == 0, done.stderr

    def unmount(self) -> None:
        done = run("umount", str(self.place))
        assert done.returncode == 0, done.stderr

    def end(self) -> None:
        run("umount", "-l", str(self.place))

    @property
    def ballast(self) -> Path:
        return self.place / "ballast"

    def fill(self) -> None:
        with self.ballast.open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def break_down(self) -> None:
        """What the kernel does by itself when it meets an error: nothing is written any more."""
        loops = json.loads(run("losetup", "--json", "-l", "-O", "NAME,BACK-FILE").stdout or "{}")
        (name,) = [
            Path(loop["name"]).name
            for loop in loops["loopdevices"]
            if loop["back-file"] == str(self.image)
        ]
        trigger = Path(f"/sys/fs/ext4/{name}/trigger_fs_error")
        if not trigger.exists():
            pytest.skip(reason="this kernel cannot make an ext4 error")
        trigger.write_text("test")


@pytest.fixture(params=["tmpfs", pytest.param("ext4", marks=pytest.mark.full)])
def any_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    yield from mounted(SmallDisk(tmp_path / "disk", request.param, 24))


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[SmallDisk]:
    yield from mounted(SmallDisk(tmp_path / "disk", "ext4", 24))


def mounted(disk: SmallDisk) -> Iterator[SmallDisk]:
    """Any other failure to mount than a missing permission is a failure of the test."""
    try:
        done = disk.try_mount()
        if any(words in done.stderr for words in NOT_PERMITTED):
            pytest.skip(reason=f"mounting is not permitted here: {done.stderr}")
        assert done.returncode == 0, done.stderr
        yield disk
    finally:
        disk.end()


def job_on(disk: SmallDisk, folder: Path, **settings: object) -> AbstractContextManager[Job]:
    """An engine whose data folder is on the disk; its log and the gateways are elsewhere."""
    data = enrolment().copy_to(disk.place)
    run("sync", "-f", str(data))  # what the engine finds there is not its own to sync
    return job(folder, data=data, settings=settings)


# ---- what must hold -----------------------------------------------------------------------------


def rows(engine: EngineProcess) -> float:
    return engine.metric("chot_journal_rows")


def stream_until_stored(made: Job) -> GatewayProcess:
    """The back end's gateway, in the middle of its records."""
    gateway = made.open(BACK_END)
    until(lambda: rows(made.engine) >= 10)
    return gateway


def send_one(engine: EngineProcess) -> list[wire.Message]:
    """A scan of a well-behaved lane, and what came of it."""
    with RawLink(engine.port) as link:
        found = [link.hello(lane_name(2))]
        if isinstance(found[0], wire.Welcome):  # else another's scans were refused just now
            link.send(scans(1, person_scan(fresh_person(), lane=2)))
        while not isinstance(found[-1], wire.Error | wire.Ack):
            found.append(link.next())
        return found


def check_refuses(made: Job) -> None:
    """Nothing is acknowledged, and everybody hears why."""
    engine = made.engine
    assert [m.code for m in send_one(engine) if isinstance(m, wire.Error)] == [11]
    assert engine.metric("chot_journal_full") == 1
    stored = rows(engine)
    assert [m.code for m in send_one(engine) if isinstance(m, wire.Error)] == [11]
    assert rows(engine) == stored
    assert engine.metric("chot_sessions_refused", code="wire.store_full") >= 1
    assert "store refuses scans" in engine.log_text()


def check_gateway_waits(gateway: GatewayProcess) -> None:
    """It hears why as well, keeps what it has, and goes on trying."""
    until(lambda: "wire.store_full" in gateway.log.read_text(encoding="utf-8"))
    assert gateway.process.poll() is None


def check_recovered(made: Job, gateway: GatewayProcess) -> None:
    """All of the gateway's records are there, once, and the store is sound."""
    engine = made.engine
    assert gateway.wait() == 0, gateway.log.read_text(encoding="utf-8")
    assert gateway.stats["is_drained"]
    until(lambda: engine.metric("chot_journal_full") == 0)
    assert run_chot("verify", str(engine.data)).returncode == 0  # beside the engine
    assert engine.stop() == 0
    assert "Traceback" not in engine.log_text()
    assert read_store(engine.data).checkins().total() == len(story().lines)


def doctor(data: Path, *settings: str) -> dict[str, dict[str, str]]:
    done = run_chot("doctor", "--json", "--data", str(data), *(f"--set={s}" for s in settings))
    found: dict[str, dict[str, str]] = {line["code"]: line for line in json.loads(done.stdout)}
    return found


# ---- full ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "floor", [pytest.param(2 * MIB, id="floor", marks=pytest.mark.full), pytest.param(1, id="wall")]
)
def test_a_full_disk_and_room_again(any_disk: SmallDisk, tmp_path: Path, floor: int) -> None:
    """At the floor appends are refused before LMDB meets the wall, at 1 byte LMDB meets it."""
    with job_on(any_disk, tmp_path / "job", free_space_min=floor) as made:
        gateway = stream_until_stored(made)
        any_disk.fill()
        check_refuses(made)
        check_gateway_waits(gateway)
        found = doctor(made.engine.data, f"free_space_min={max(floor, 4096)}")
        assert found["disk.free"]["level"] == "error"
        assert found["log.state"]["level"] == "ok"
        any_disk.ballast.unlink()
        check_recovered(made, gateway)  # without a restart


@pytest.mark.full
def test_an_engine_that_starts_on_a_full_disk(ext4: SmallDisk, tmp_path: Path) -> None:
    with job_on(ext4, tmp_path / "job", free_space_min=1) as made:
        gateway = stream_until_stored(made)
        ext4.fill()
        until(lambda: made.engine.metric("chot_journal_full") == 1)
        stored = rows(made.engine)
        made.engine.kill()
        made.engine.start()
        assert made.engine.metric("chot_index_rows") >= stored  # questions are answered
        check_refuses(made)
        ext4.ballast.unlink()
        check_recovered(made, gateway)


# ---- read-only ----------------------------------------------------------------------------------


def test_a_disk_that_becomes_read_only(ext4: SmallDisk, tmp_path: Path) -> None:
    """As ext4 does when it meets an error. The engine says so, stops cleanly, and goes on when the
    disk was repaired."""
    with job_on(ext4, tmp_path / "job", free_space_min=1) as made:
        gateway = stream_until_stored(made)
        ext4.break_down()
        check_refuses(made)
        check_gateway_waits(gateway)
        assert doctor(made.engine.data)["disk.kind"]["level"] == "error"
        assert doctor(made.engine.data)["disk.sync"]["level"] == "error"
        assert made.engine.stop() == 0
        assert "Traceback" not in made.engine.log_text()

        ext4.unmount()
        run("e2fsck", "-y", "-f", str(ext4.image))
        ext4.mount("ro")
        command = ("serve", "--json", "--data", str(made.engine.data), "--part", "engine")
        refused = run_chot(*command, "--set=ingest_port=0")
        assert refused.returncode == 1
        assert "Traceback" not in refused.stderr
        assert "Read-only file system" in refused.stderr.splitlines()[-1]
        # A sound store can be looked at even so.
        verified = run_chot("verify", str(made.engine.data))
        assert "sound" in verified.stdout, verified.stdout

        ext4.unmount()
        ext4.mount()
        made.engine.start()
        check_recovered(made, gateway)


# ---- failing ------------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler for the fault injector"
)


@needs_compiler
@pytest.mark.parametrize(
    "kind",
    [
        "sync",
        pytest.param("dsync", marks=pytest.mark.full),
        pytest.param("write", marks=pytest.mark.full),
    ],
)
def test_syncs_and_writes_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """EIO on every sync, on the last write of a commit though it was made, on every write."""
    switch = tmp_path / "fault"
    on = switch.with_name(f"fault.{kind}")
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(build("diskfault")))
        patch.setenv("DISKFAULT_FOLDER", str(tmp_path / "job" / "data" / "journal"))
        patch.setenv("DISKFAULT_SWITCH", str(switch))
        with job(tmp_path / "job") as made:
            gateway = stream_until_stored(made)
            for _ in range(3):
                on.touch()
                check_refuses(made)
                on.unlink()
                assert isinstance(send_one(made.engine)[-1], wire.Ack)  # at once, no restart
            check_recovered(made, gateway)


@needs_compiler
@pytest.mark.full
def test_killed_while_syncs_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written and not synced may be in the page cache: it is not believed at the start."""
    switch = tmp_path / "fault"
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(build("diskfault")))
        patch.setenv("DISKFAULT_FOLDER", str(tmp_path / "job" / "data" / "journal"))
        patch.setenv("DISKFAULT_SWITCH", str(switch))
        with job(tmp_path / "job") as made:
            gateway = stream_until_stored(made)
            switch.with_name("fault.sync").touch()
            until(lambda: made.engine.metric("chot_journal_full") == 1)
            made.engine.kill()
            command = ("serve", "--json", "--data", str(made.engine.data), "--part", "engine")
            refused = run_chot(*command, "--set=ingest_port=0")
            assert refused.returncode == 1
            assert refused.stderr.splitlines()[-1].startswith("chot serve: storage.unavailable: ")
            switch.with_name("fault.sync").unlink()
            made.engine.start()
            check_recovered(made, gateway)
    assert FileKeyRing(made.engine.data / "keys").days()
