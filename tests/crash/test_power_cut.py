"""After any power cut nothing that had a receipt is missing, nothing is doubled, chains verify.

The same cuts find losses in a store that is opened with LMDB's weaker modes: the test can fail.
"""

from __future__ import annotations

import functools
import random
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.crash import powercut
from tests.crash.powercut import Disk, Step, cut_often, python, read_trace, record
from tests.crash.powercut_stores import MODES, STORES

WORKER = Path(__file__).with_name("powercut_stores.py")
COUNT = {"journal": 12, "control": 24, "spool": 60, "index": 5}
FIRST_SYNCS = {"journal": (13, 16), "control": (3, 6), "spool": (1, 4), "index": (13, 16)}

if shutil.which("cc") is None:
    pytest.skip(reason="there is no C compiler for the recorder", allow_module_level=True)


@functools.cache
def trace_of(store: str, mode: str, count: int, fails: tuple[int, ...] = ()) -> list[Step]:
    with tempfile.TemporaryDirectory(prefix="chot-cut-") as folder:
        target = Path(folder) / "data"
        return record(target, python(WORKER, store, target, count, mode), fails=fails)


def cut(store, mode, *, seed, cuts, count=None, fails=()):
    steps = trace_of(store, mode, count or COUNT[store], fails)
    return cut_often(steps, STORES[store][1], seed=seed, count=cuts)


@pytest.mark.parametrize("store", STORES)
def test_what_has_a_receipt_survives_any_cut(store):
    cuts = 30
    outcome = cut(store, "safe", seed=1, cuts=cuts)
    assert outcome.broken == []
    assert outcome.clean > cuts // 2  # most of them with receipts to lose


def test_cuts_fall_among_zeros_written_ahead():
    steps = trace_of("journal", "safe", COUNT["journal"])
    zeros = [n for n, step in enumerate(steps) if step.kind == "W" and not any(step.data)]
    receipts = [n for n, step in enumerate(steps) if step.kind == "A"]
    assert len(zeros) >= 4
    assert any(receipts[0] < n < receipts[-1] for n in zeros)
    first = steps[zeros[0]]
    written = [s for s in steps[zeros[0] :] if s.kind == "W" and s.file == first.file]
    assert any(s.offset >= first.offset and any(s.data) for s in written)  # commits go there


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"safe"}))
@pytest.mark.parametrize("store", STORES)
def test_the_same_cuts_find_what_weaker_modes_lose(store, mode):
    broken = cut_until_broken(store, mode)
    if mode == "nometasync":  # the last receipt is lost, the store is whole
        signs = ("has a receipt", "is missing", "is forgotten")
        assert any(sign in text for text in broken for sign in signs), broken


def cut_until_broken(store, mode, fails_of=lambda seed: ()):
    """How the trace falls out is the threads' affair; most cuts do harm, some traces less."""
    for seed in range(1, 13):
        outcome = cut(store, mode, seed=seed, cuts=12, fails=fails_of(seed))
        if outcome.broken:
            return outcome.broken
    raise AssertionError(f"{store}: no cut did harm in mode {mode}")


def test_the_same_cuts_find_keys_that_were_not_synced():
    """A receipt is worth nothing without the key of its day."""
    broken = cut_until_broken("journal", "nofsync")
    assert any("keys.missing" in text or "cannot be opened" in text for text in broken), broken


def test_the_same_cuts_find_a_log_of_the_spool_that_was_not_synced():
    broken = cut_until_broken("spool", "nofdatasync")
    assert any("is missing" in text or "is forgotten" in text for text in broken), broken


def test_the_log_of_the_spool_is_filled_and_begun_anew():
    steps = trace_of("spool", "safe", COUNT["spool"])
    (log,) = {step.file for step in steps if step.kind == "N" and step.data.endswith(b"/wal")}
    entries = [step.offset for step in steps if step.kind == "W" and step.file == log][1:]
    begun = entries.count(0)
    assert 4 < begun < len(entries) // 2


def some_syncs(seed, most=150):
    """Numbers of syncs that fail, one in six, two in a row now and then."""
    rng = random.Random(seed)
    return tuple(n for n in range(12, most) if rng.random() < 0.17)


@pytest.mark.parametrize("store", STORES)
def test_failed_syncs_before_the_cut(store):
    """A sync that failed is never believed later: its pages may be lost, whatever follows it."""
    outcome = cut(store, "safe", seed=1, cuts=25, fails=some_syncs(1))
    assert outcome.broken == []
    steps = trace_of(store, "safe", COUNT[store], some_syncs(1))
    assert sum(step.kind == "E" for step in steps) >= 3


@pytest.mark.parametrize("store", STORES)
def test_syncs_that_fail_while_a_store_is_made(store):
    """What was not durable at birth is made anew: LMDB writes the head of a file once."""
    fails = FIRST_SYNCS[store]
    outcome = cut(store, "safe", seed=3, cuts=10, count=4, fails=fails)
    assert outcome.broken == []
    assert sum(step.kind == "E" for step in trace_of(store, "safe", 4, fails))


@pytest.mark.full
@pytest.mark.parametrize("first", range(16))
@pytest.mark.parametrize("store", STORES)
def test_each_sync_that_fails_while_a_store_is_made(store, first):
    outcome = cut(store, "safe", seed=first, cuts=20, count=4, fails=(first, first + 3))
    assert outcome.broken == []


@pytest.mark.parametrize("store", ["journal", "control"])
def test_the_same_failures_find_a_store_that_believes_them(store):
    broken = cut_until_broken(store, "ignorant", lambda seed: some_syncs((seed + 3) // 4))
    signs = ("has a receipt", "too many", "is there", "is missing", "are missing", "not follow")
    assert any(sign in text for text in broken for sign in signs), broken


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 8))
@pytest.mark.parametrize("store", STORES)
def test_many_failed_syncs_before_the_cut(store, seed):
    outcome = cut(store, "safe", seed=seed, cuts=100, fails=some_syncs(seed))
    assert outcome.broken == []


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10, 18))
@pytest.mark.parametrize("store", STORES)
def test_what_has_a_receipt_survives_many_cuts(store, seed):
    count = COUNT[store] + 5 * (seed % 3)
    outcome = cut(store, "safe", seed=seed, cuts=200, count=count)
    assert outcome.broken == []
    assert outcome.clean > 140


# ---- the simulator itself -----------------------------------------------------------------------

PROGRAM = """
import os, sys, threading
os.chdir(sys.argv[1])
def put(name, data, sync):
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(fd, data, 0)
    if sync: os.fsync(fd)
    os.close(fd)
def sync_folder(name):
    fd = os.open(name, os.O_RDONLY); os.fsync(fd); os.close(fd)
put("named", b"a" * 2000, True)
put("lost", b"b" * 2000, False)
sync_folder(".")
put("unnamed", b"c" * 2000, True)
os.write(1, b"R 1\\n")
os.mkdir("folder")
put("folder/.x.tmp", b"d" * 10, True)
os.rename("folder/.x.tmp", "folder/x")
sync_folder("folder")
os.unlink("named")
fd = os.open("named2", os.O_RDWR | os.O_CREAT | os.O_DSYNC, 0o600)
os.pwrite(fd, b"e" * 600, 100)
os.pwritev(fd, [b"f" * 100, b"g" * 50], 900)
os.ftruncate(fd, 5000)
os.posix_fallocate(fd, 0, 6000)
sync_folder(".")
os.write(1, b"R 2\\n")
with open("append", "ab", buffering=0) as file:
    file.write(b"1"); file.write(b"2"); os.fdatasync(file.fileno()); file.write(b"3")
"""


def images(steps, place, seeds=60):
    """The folders a cut behind that record may leave, as {name: bytes}."""
    disk = Disk()
    for step in steps[:place]:
        disk.take(step)
    found = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            disk.write(Path(folder), random.Random(seed))
            files = [p for p in Path(folder).rglob("*") if p.is_file()]
            found.append({str(p.relative_to(folder)): p.read_bytes() for p in files})
    return found


def test_the_recorder_sees_what_a_program_does(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    steps = record(tmp_path / "data", python(program, tmp_path / "data"))
    receipts = [n for n, step in enumerate(steps) if step.kind == "A"]
    assert [steps[n].data for n in receipts] == [b"R 1\n", b"R 2\n"]

    first = images(steps, receipts[0])
    # Synced and named: always whole. Named and not synced: anything, torn at sectors.
    assert {len(image["named"]) for image in first} == {2000}
    lost = {image["lost"].replace(b"\0", b"") for image in first}
    assert {0, 2000} <= {len(data) for data in lost}
    assert {len(data) % 512 for data in lost} <= {0, 2000 % 512}
    assert {"unnamed" in image for image in first} == {True, False}

    second = images(steps, receipts[1])
    for image in second:
        assert "named" not in image
        assert image["unnamed"] == b"c" * 2000
        assert image["folder/x"] == b"d" * 10  # its rename was synced
        wanted = bytes(100) + b"e" * 600 + bytes(200) + b"f" * 100 + b"g" * 50
        assert image["named2"][: len(wanted)] == wanted  # O_DSYNC needs no sync
        assert len(image["named2"]) in (1050, 5000, 6000)
    last = images(steps, len(steps))
    assert {image.get("append") for image in last} == {None, b"12", b"123"}
    assert not any("append" in image and not image["append"].startswith(b"12") for image in last)


def test_traces_are_whole():
    assert read_trace(b"") == []
    with pytest.raises(Exception, match="buffer"):
        read_trace(b"W")
    assert powercut.build("powercut") == powercut.build("powercut")
