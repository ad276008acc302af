"""Power cuts without cutting power: what a process did to a folder, and what a cut could leave.

A program runs under tests/crash/powercut.c, which records its writes, syncs, renames and what it
said on standard output (its receipts). `Trace.cut` then makes the folder as it may be found after a
power cut behind any record: what was synced is there; of the writes since, any subset, some torn at
512 bytes; of the names made, renamed or removed since their folder was synced, a beginning, as
file systems with a log keep them. Files that were never named durably are gone.

kill -9 shows none of this: the page cache outlives the process.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECTOR = 512
# LMDB's table of readers, written through a map; it says nothing lasting
MAPPED = "lock.mdb", ".mdb-lock"
_RECORD = struct.Struct("<IIQI")
_kept: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def build(name: str) -> Path:
    """The shared object of tests/crash/NAME.c. Raises FileNotFoundError without a compiler."""
    folder = tempfile.TemporaryDirectory(prefix="chot-native-")
    _kept.append(folder)
    made = Path(folder.name) / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    command = [os.environ.get("CC", "cc"), "-O2", "-Wall", "-shared", "-fPIC", str(source)]
    subprocess.run([*command, "-o", str(made), "-ldl"], check=True, capture_output=True)
    return made


@dataclass(frozen=True, slots=True)
class Step:
    """One record of the trace; kinds are those of powercut.c."""

    kind: str
    file: int
    offset: int
    data: bytes


def record(
    folder: Path, command: Sequence[str], *, fails: Sequence[int] = (), timeout_s: float = 60
) -> list[Step]:
    """Runs a program that works in `folder`; what it did. Raises when it fails.

    fails: numbers of syncs that give an input/output error and write nothing.
    """
    trace = folder.with_name(folder.name + ".trace")
    trace.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LD_PRELOAD": " ".join([str(build("powercut")), os.environ.get("LD_PRELOAD", "")]),
            "POWERCUT_FOLDER": str(folder.resolve()),
            "POWERCUT_TRACE": str(trace),
            "POWERCUT_FAIL": " ".join(map(str, fails)),
        },
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr
    return read_trace(trace.read_bytes())


def python(script: Path, *words: object) -> list[str]:
    return [sys.executable, str(script), *map(str, words)]


def read_trace(data: bytes) -> list[Step]:
    steps = []
    at = 0
    while at < len(data):
        kind, file, offset, size = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        steps.append(Step(chr(kind), file, offset, data[at : at + size]))
        at += size
    assert at == len(data)
    return steps


@dataclass
class _Inode:
    """durable: bytes that are on the disk; pending: what came since, in order.

    A pending (offset, bytes) is a write, (size, None) a truncation.
    """

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    syncs: dict[int, int] = field(default_factory=dict)  # number of a sync -> pending at its begin

    def settle(self, offset: int) -> None:
        """The write at that place is durable by itself; others may be under way."""
        places = [n for n, change in enumerate(self.pending) if change[0] == offset and change[1]]
        if not places:
            return  # another's sync has settled it
        at = places[-1]
        _apply(self.durable, self.pending.pop(at))
        self.syncs = {number: count - (at < count) for number, count in self.syncs.items()}


class Disk:
    """A folder as it is, and as it is known to be durable."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)
        self.inodes: dict[int, _Inode] = {}
        self.names: dict[str, int] = {}  # durable names
        self.changes: list[
            tuple[str, str, str, int]
        ] = []  # names not yet durable: kind, a, b, file
        self.said = b""
        self.mapped: set[str] = set()

    def take(self, step: Step) -> None:
        match step.kind:
            case "N":
                self.inodes.setdefault(step.file, _Inode())
                name = step.data.decode()
                if step.offset:
                    self.changes.append(("make", name, "", step.file))
                elif not self._is_known(name):
                    self.names[name] = step.file  # was there before the recording
            case "W":
                self.inodes[step.file].pending.append((step.offset, step.data))
            case "T":
                self.inodes[step.file].pending.append((step.offset, None))
            case "D":
                self.inodes[step.file].settle(step.offset)
            case "B":
                inode = self.inodes[step.file]
                inode.syncs[step.offset] = len(inode.pending)
            case "S":
                inode = self.inodes[step.file]
                count = inode.syncs.pop(step.offset)
                for change in inode.pending[:count]:
                    _apply(inode.durable, change)
                del inode.pending[:count]
                inode.syncs = {k: max(0, n - count) for k, n in inode.syncs.items()}
            case "E":
                # The system marks the pages clean all the same: what did not reach the disk by now
                # never will, however often is synced later.
                inode = self.inodes[step.file]
                count = inode.syncs.pop(step.offset)
                for change in inode.pending[:count]:
                    if self._rng.random() < 0.5:
                        _apply(inode.durable, _torn(change, self._rng))
                del inode.pending[:count]
            case "R":
                old, _, new = step.data.decode().partition("\0")
                self.changes.append(("rename", old, new, 0))
            case "U":
                self.changes.append(("unlink", step.data.decode(), "", 0))
            case "F":
                folder = os.path.normpath(step.data.decode() or ".")
                self._sync_folder("" if folder == "." else folder)
            case "A":
                self.said += step.data
            case "M":
                self.mapped.add(step.data.decode())

    def _is_known(self, name: str) -> bool:
        names = dict(self.names)
        for change in self.changes:
            _rename(names, change)
        return name in names

    def _sync_folder(self, folder: str) -> None:
        """Every change of names up to the last one of this folder is durable: a log is in order."""
        last = 0
        for at, (_, one, other, _) in enumerate(self.changes, 1):
            if folder in (os.path.dirname(one), os.path.dirname(other or one)):  # noqa: PTH120
                last = at
        for change in self.changes[:last]:
            _rename(self.names, change)
        del self.changes[:last]

    def write(self, target: Path, rng: random.Random) -> None:
        """The folder as a cut at this moment may leave it."""
        names = dict(self.names)
        for change in self.changes[: rng.randint(0, len(self.changes))]:
            _rename(names, change)
        keep = rng.choice((0.0, 0.5, 0.9, 1.0))
        for name, file in names.items():
            if name.endswith(MAPPED):
                continue  # made anew by whoever opens the store first
            path = target / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            image = bytearray(self.inodes[file].durable)
            some = [change for change in self.inodes[file].pending if rng.random() < keep]
            rng.shuffle(some)
            for change in some:
                _apply(image, _torn(change, rng))
            path.touch(mode=0o600)
            path.write_bytes(image)


def _apply(image: bytearray, change: tuple[int, bytes | None]) -> None:
    offset, data = change
    if data is None:
        del image[offset:]
        image.extend(bytes(offset - len(image)))
        return
    image.extend(bytes(max(0, offset - len(image))))
    image[offset : offset + len(data)] = data


def _torn(change: tuple[int, bytes | None], rng: random.Random) -> tuple[int, bytes | None]:
    offset, data = change
    if data is None or len(data) <= SECTOR or rng.random() > 0.3:
        return change
    at = SECTOR * rng.randrange(1, (len(data) - 1) // SECTOR + 1)
    return (offset, data[:at]) if rng.random() < 0.5 else (offset + at, data[at:])


def _rename(names: dict[str, int], change: tuple[str, str, str, int]) -> None:
    kind, one, other, file = change
    if kind == "make":
        names[one] = file
    elif kind == "unlink":
        names.pop(one, None)
    else:  # of a file, or of a folder with all that is in it
        for name in [n for n in names if n == one or n.startswith(one + "/")]:
            names[other + name[len(one) :]] = names.pop(name)


@dataclass
class Outcome:
    """What came of many cuts. broken: text of each cut at which a promise was broken."""

    cuts: int = 0
    clean: int = 0  # cuts with at least one receipt behind them that were found in order
    broken: list[str] = field(default_factory=list)


def _in_memory() -> str | None:
    """Where disks are laid out to be looked at: no sync there takes time."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def cut_often(
    steps: list[Step],
    check: Callable[[Path, list[str]], str],
    *,
    seed: int,
    count: int,
) -> Outcome:
    """Cuts at `count` places of the trace, and looks at each disk with `check` in a child.

    check(folder, lines said before the cut) returns "" or what is wrong; a child that dies of a
    signal or an exception is wrong too.
    """
    rng = random.Random(seed)
    places = sorted(rng.choices(range(1, len(steps) + 1), k=count))
    disk, at = Disk(seed), 0
    outcome = Outcome()
    holder = tempfile.TemporaryDirectory(prefix="chot-cut-", dir=_in_memory())
    target = Path(holder.name) / "cut"
    for place in places:
        while at < place:
            disk.take(steps[at])
            at += 1
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700)
        disk.write(target, rng)
        lines = disk.said.decode().split("\n")[:-1]
        problem = _in_a_child(check, target, lines)
        outcome.cuts += 1
        outcome.clean += bool(lines) and not problem
        if problem:
            outcome.broken.append(f"cut behind record {place} of {len(steps)}: {problem}")
    holder.cleanup()
    others = {name for name in disk.mapped if not name.endswith(MAPPED)}
    assert not others, f"written through a map, which is not recorded: {others}"
    return outcome


CHECK_S = 20  # a check takes some hundredths of a second


def _in_a_child(check: Callable[[Path, list[str]], str], target: Path, lines: list[str]) -> str:
    """What `check` says, whatever becomes of it."""
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(out)
            faulthandler.disable()  # a crash is a finding, told below
            signal.alarm(CHECK_S)  # and so is a walk through a torn tree that never ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # LMDB's last words
            try:
                said = check(target, lines)
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(into, said.encode()[:4000])
        finally:
            os._exit(0)
    os.close(into)
    with open(out, "rb") as file:  # noqa: PTH123
        said = file.read().decode(errors="replace")
    status = os.waitpid(pid, 0)[1]
    return said or (f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "")
