"""`chot doctor`: a fit machine and a sound folder are called so, and each thing amiss is named."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from engine import machine
from engine.cli import doctor, doctor_machine
from engine.cli.doctor_machine import CHECKS
from engine.clock import DAY_MS, ManualClock, SystemClock
from engine.errors import StoreLocked
from engine.identity.keys import FileKeyRing
from engine.registry.csv_tables import read_csv
from engine.registry.registry import changes_to_record
from engine.settings import Settings
from engine.storage.control_lmdb import ControlLog
from engine.storage.journal_lmdb import LmdbJournal
from engine.storage.store_lmdb import Store
from engine.storage.store_lock import StoreLock
from tests.reference.batches import DAY, NOON_MS, make_batch
from tests.reference.certificates import Authority
from tests.reference.command import ROOT

DISK = machine.Disk("/data", "ext4", frozenset({"rw"}), "nvme0n1", False)
KEPT = machine.ClockState(True, 20.0, 0.1)
QUICK = machine.SyncCost(100, 200_000, 900_000, 300_000)
NAME = "Nguyễn Thị Hồng 045099999123"


@pytest.fixture(autouse=True)
def fit_machine(monkeypatch):
    """What tests run on may be a container without a time service."""
    monkeypatch.setattr(machine, "disk_of", lambda path: DISK)
    monkeypatch.setattr(machine, "clock_state", lambda: KEPT)
    monkeypatch.setattr(machine, "sync_cost", lambda path: QUICK)
    monkeypatch.setattr(machine, "file_limit", lambda pid: 65_536)
    monkeypatch.setattr(machine, "memory_bytes", lambda: 16 << 30)
    monkeypatch.setattr(doctor_machine, "_refuses", lambda host, port: False)


@pytest.fixture
def data(tmp_path, made):
    """A copy of its own of a folder as an engine leaves it."""
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three days of scans, a registry, keys."""
    path = tmp_path_factory.mktemp("doctor") / "data"
    path.mkdir(mode=0o700)
    ring = FileKeyRing(path / "keys", create=True)

    async def main():
        journal = LmdbJournal(path / "journal", ring, ManualClock(), floor_bytes=0)
        for seq in range(1, 7):
            batch = make_batch(4, seq, day=DAY - seq % 3, details=NAME.encode())
            await journal.append(batch)
        await journal.close()

    asyncio.run(main())
    log = ControlLog(path / "control", floor_bytes=0)
    for table in ("areas", "posts", "venues", "gateways"):
        text = (ROOT / f"docs/examples/registry/{table}.csv").read_text(encoding="utf-8")
        kind, body = changes_to_record(read_csv(table, text))
        log.append_sync(kind, "an", body, NOON_MS)
    log.close()
    return path


def examine(data, clock=None, **changes):
    settings = Settings(data=str(data), free_space_min=32 << 20, decode_threads=1, **changes)
    return doctor.examine(settings, clock or ManualClock())


def amiss(data, clock=None, **changes):
    """(level, code) of what is not ok; nothing of a person shows."""
    findings = examine(data, clock, **changes)
    text = repr(findings)
    assert "Nguy" not in text and "999123" not in text
    assert all(f.todo for f in findings if f.level == "error")
    found = [(f.level, f.code) for f in findings if f.level != "ok"]
    status = 2 if "error" in dict(found) else int(bool(found))
    assert doctor.findings_to_status(findings) == status
    return found


def contents(path):
    return {p: (p.stat().st_mode, p.read_bytes()) for p in path.rglob("*") if p.is_file()}


def test_a_sound_folder_on_a_fit_machine(data):
    before = contents(data)
    findings = examine(data)
    assert [f for f in findings if f.level != "ok"] == []
    assert {f.code for f in findings} == set(CHECKS) - {"tls.files"}  # no door needs any
    assert [f.code for f in findings] == sorted((f.code for f in findings), key=list(CHECKS).index)
    assert contents(data) == before


def test_before_there_is_a_store(tmp_path):
    assert amiss(tmp_path / "not" / "yet") == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    assert amiss(tmp_path / "file") == [("error", "data.folder")]


# ---- the machine, as it is told -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"kind": "tmpfs"}, "error"),
        ({"kind": "nfs4"}, "error"),
        ({"kind": "9p"}, "error"),
        ({"options": frozenset({"ro"})}, "error"),
        ({"options": frozenset({"rw", "nobarrier"})}, "error"),
        ({"options": frozenset({"rw", "data=writeback"})}, "error"),
        ({"kind": "overlay"}, "warning"),
        ({"kind": "btrfs"}, "warning"),
        ({"device": "mmcblk0"}, "warning"),
    ],
)
def test_file_systems_that_do_not_keep_receipts(data, monkeypatch, changes, level):
    fields = {name: getattr(DISK, name) for name in DISK.__slots__}
    disk = machine.Disk(**{**fields, **changes})
    monkeypatch.setattr(machine, "disk_of", lambda path: disk)
    assert amiss(data) == [(level, "disk.kind")]


@pytest.mark.parametrize(
    ("cost", "found"),
    [
        (machine.SyncCost(100, 12_000_000, 20_000_000, 1), [("warning", "disk.sync")]),
        (machine.SyncCost(100, 300_000, 80_000_000, 1), [("warning", "disk.sync")]),
        (machine.SyncCost(100, 900, 2_000, 1), [("warning", "disk.sync")]),
        (machine.SyncCost(100, 30_000, 60_000, 1), []),
    ],
)
def test_syncs_that_are_slow_or_too_fast_to_be_true(data, monkeypatch, cost, found):
    monkeypatch.setattr(machine, "sync_cost", lambda path: cost)
    assert amiss(data) == found


def test_a_disk_that_cannot_be_written(data, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(machine, "sync_cost", fail)
    assert amiss(data) == [("error", "disk.sync")]


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (None, [("warning", "clock.sync")]),
        (machine.ClockState(False, 16_000, 0), [("warning", "clock.sync")]),
        (machine.ClockState(True, 3_000, 0), [("warning", "clock.sync")]),
    ],
)
def test_clocks(data, monkeypatch, state, found):
    monkeypatch.setattr(machine, "clock_state", lambda: state)
    assert amiss(data) == found


def test_a_clock_that_went_back(data):
    found = amiss(data, ManualClock(NOON_MS - 3 * 3_600_000))
    assert found == [("error", "clock.log")]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"sessions_max": 100_000}, [("error", "limits.files")]),
        ({"generation_size": 1 << 58}, [("error", "limits.map")]),
        ({"credit_bytes": 4 << 30}, [("warning", "limits.memory")]),
        ({"credit_bytes": 1 << 20}, [("error", "settings.fit")]),
        ({"commit_pending_max": 1000}, [("warning", "settings.fit")]),
        ({"clock_ahead_max_s": 86_400}, [("warning", "settings.fit")]),
        ({"map_size": 1 << 20}, [("warning", "settings.fit")]),
        ({"map_size": 4_000}, [("warning", "settings.fit"), ("error", "log.state")]),
        ({"ingest_port": 7480}, [("error", "settings.ports")]),
        ({"retention_days": 1}, [("error", "retention.behind")]),
    ],
)
def test_settings_that_do_not_fit(data, changes, found):
    clock = ManualClock(NOON_MS + DAY_MS * (2 if "retention_days" in changes else 0))
    assert amiss(data, clock, **changes) == found


def test_decode_threads_and_free_space(data):
    settings = Settings(data=str(data), decode_threads=10_000, free_space_min=1 << 60)
    found = [(f.level, f.code) for f in doctor.examine(settings, ManualClock()) if f.level != "ok"]
    assert found == [("error", "disk.free"), ("warning", "settings.fit")]
    assert amiss(data) == []


def test_a_native_level_that_was_forced_down(data):
    code = (
        "import sys; from engine.cli import doctor_machine as d\n"
        "from engine.settings import Settings\n"
        "from engine.clock import SystemClock\n"
        "found = d.MachineDoctor(Settings(data=sys.argv[1]), SystemClock(), d.Known())\n"
        "print([f.level for f in found._native()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(data)],
        cwd=ROOT,
        env={**os.environ, "NATIVE_CPU": "scalar"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "['warning']\n", done.stderr


# ---- the data folder ----------------------------------------------------------------------------


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("hurt", "found"),
    [
        (lambda d: (d / "journal").chmod(0o755), ["data.mode"]),
        (lambda d: (d / "control" / "data.mdb").chmod(0o644), ["data.mode"]),
        (lambda d: (d / "keys" / "province.key").chmod(0o640), ["keys.files"]),
        (lambda d: (d / "keys" / "province.key").unlink(), ["keys.files"]),
        (lambda d: (d / "keys" / "ingest.key").write_bytes(b"short"), ["keys.files"]),
        (lambda d: (d / "keys" / "desk" / "audit.key").unlink(), ["keys.files"]),
        (lambda d: (d / "keys" / "days").chmod(0o755), ["keys.files"]),
        (lambda d: (d / "keys" / "days" / f"{DAY}.log.key").unlink(), ["keys.days"]),
        (lambda d: (d / "keys" / "days" / f"{DAY}.details.pub").unlink(), ["keys.days"]),
        (lambda d: (d / "keys" / "desk" / f"{DAY}.details.key").unlink(), ["keys.days"]),
        (lambda d: (d / "keys").rename(d / "lost"), ["keys.files", "keys.days"]),
        (lambda d: (d / "journal" / "000001" / "data.mdb").write_bytes(b"x" * 9000), ["log.state"]),
        (lambda d: os.truncate(d / "journal" / "000001" / "data.mdb", 8192), ["log.state"]),
        (lambda d: (d / "control" / "data.mdb").write_bytes(b"x" * 9000), ["control.state"]),
    ],
)
def test_what_is_wrong_in_the_folder(data, hurt, found):
    hurt(data)
    assert list(dict.fromkeys(code for _, code in amiss(data))) == found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_files_of_several_users(data):
    os.chown(data / "journal" / "000001" / "data.mdb", 12_345, 12_345)
    assert amiss(data) == [("error", "data.mode")]


def test_a_destroyed_day_needs_no_key(data):
    FileKeyRing(data / "keys").destroy_day(DAY)
    assert amiss(data) == []


def test_a_registry_without_gateways(data):
    for file in (data / "control").iterdir():
        file.unlink()
    ControlLog(data / "control", floor_bytes=0).close()
    assert amiss(data) == [("warning", "control.state")]


def test_beside_a_running_engine(data):
    """In a process of its own, since LMDB is opened once in each; the store is held by this one."""
    first = data / "journal" / "000001"
    with StoreLock(data / "journal") as lock, Store(first, kind="journal", lock=lock):
        with StoreLock(data / "journal", is_offline=True) as other:
            assert other.is_shared
            with pytest.raises(StoreLocked):
                Store(first, kind="journal", is_offline=True, lock=other)
        code = (
            "import sys, json, msgspec; from engine.cli import doctor\n"
            "from engine.settings import Settings; from engine.clock import ManualClock\n"
            "found = doctor.examine(Settings(data=sys.argv[1]), ManualClock())\n"
            "print(json.dumps([msgspec.to_builtins(f) for f in found]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(data)], cwd=ROOT, capture_output=True, text=True
        )
    found = {f["code"]: f for f in msgspec.json.decode(done.stdout)}
    assert found["log.state"]["text"].startswith("6 groups, files: 1, ")
    assert found["engine.state"]["level"] == "warning"  # held, and no socket
    assert f"process {os.getpid()}" in found["engine.state"]["text"]
    assert found["limits.files"]["text"].startswith("open files of the engine")
    assert found["settings.ports"]["text"].startswith("not tried")


# ---- the machine, asked for real ----------------------------------------------------------------


@pytest.fixture
def real_machine(monkeypatch):
    monkeypatch.undo()


@pytest.mark.usefixtures("real_machine")
def test_the_machine_itself(tmp_path):
    disk = machine.disk_of(tmp_path)
    assert disk is not None and tmp_path.is_relative_to(disk.mount) and "rw" in disk.options
    assert machine.disk_of(Path("/proc")).kind == "proc"
    assert machine.disk_of(tmp_path / "nowhere") is None
    cost = machine.sync_cost(tmp_path, count=10, span_s=1)
    assert 1 <= cost.count <= 10
    assert 0 < cost.data_median_ns <= cost.data_p99_ns
    assert list(tmp_path.iterdir()) == []
    state = machine.clock_state()
    assert state is None or 0 <= state.error_ms < 1e6
    assert machine.can_map(1 << 30)
    assert not machine.can_map(1 << 60)
    assert 1 << 26 < machine.memory_bytes() < 1 << 50
    assert machine.file_limit() == machine.file_limit(os.getpid())
    assert machine.file_limit(1 << 30) is None
    assert machine.file_size_limit() is None


@pytest.mark.usefixtures("real_machine")
def test_a_port_that_is_taken(data):
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        found = examine(data, ingest_port=0, api_port=port)
    assert [f.level for f in found if f.code == "settings.ports"] == ["error"]
    found = examine(data, ingest_port=0, api_port=port)
    assert [f.level for f in found if f.code == "settings.ports"] == ["ok"]


def test_doors_with_certificates(data, tmp_path):
    doors = {"ingest_listen": "tls://127.0.0.1:7402"}
    assert amiss(data, **doors) == [("error", "tls.files")]  # no files are named
    assert amiss(data, ingest_listen="gopher://x") == [("error", "settings.ports")]
    assert amiss(data, ingest_listen="tls://127.0.0.1:7401") == [
        ("error", "settings.ports"),
        ("error", "tls.files"),
    ]
    cert, key = Authority(tmp_path / "ca").make("chot", is_server=True, days=100)
    files = {**doors, "tls_cert": cert, "tls_key": key}
    now_ms = SystemClock().now_ms()

    def level(days):
        clock = ManualClock(now_ms + days * DAY_MS)
        return [f.level for f in examine(data, clock, **files) if f.code == "tls.files"]

    assert (level(0), level(80), level(101)) == (["ok"], ["warning"], ["error"])
    Path(key).chmod(0o644)
    assert level(0) == ["error"]


@pytest.mark.usefixtures("real_machine")
def test_limits_of_the_process(data):
    code = (
        "import resource, sys; from engine.cli import doctor\n"
        "from engine.settings import Settings; from engine.clock import ManualClock\n"
        "resource.setrlimit(resource.{0}, ({1}, {1}))\n"
        "found = doctor.examine(Settings(data=sys.argv[1]), ManualClock())\n"
        "print([f.code for f in found if f.level == 'error' and f.code.startswith('limits')])"
    )
    for name, value in (("RLIMIT_NOFILE", 200), ("RLIMIT_AS", 8 << 30), ("RLIMIT_FSIZE", 1 << 30)):
        assert hasattr(resource, name)
        done = subprocess.run(
            [sys.executable, "-c", code.format(name, value), str(data)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        wanted = "limits.files" if name == "RLIMIT_NOFILE" else "limits.map"
        assert done.stdout == f"['{wanted}']\n", (name, done.stderr)
