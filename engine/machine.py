"""The machine under the engine: its disk, what a sync costs there, its clock, its limits.

Looks, writes one small file of its own to measure syncs, and gives memory back. What cannot be
known here (another system, a container that hides it) is None, never a guess.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import resource
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.clock import SystemClock

SYNC_SIZE: Final = 4096  # bytes of one write of the measurement, as a small group's page
_STA_UNSYNC: Final = 0x40  # of adjtimex(2)
_STA_NANO: Final = 0x2000
_TIME_ERROR: Final = 5
_CLOCK: Final = SystemClock()
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it


def give_back_memory() -> None:
    """What was freed and malloc keeps, to the system: some milliseconds, and faults later on."""
    if _trim is not None:
        _trim(ctypes.c_size_t(0))


@dataclass(frozen=True, slots=True)
class Disk:
    """What a folder lies on. kind: of the file system; device: e.g. "nvme0n1", "" where unknown."""

    mount: str
    kind: str
    options: frozenset[str]
    device: str
    is_rotational: bool


def disk_of(path: Path) -> Disk | None:
    """The mount that holds `path`, by device number; None where /proc does not tell."""
    try:
        number = os.stat(path).st_dev  # noqa: PTH116
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(number)}:{os.minor(number)}"
    resolved = path.resolve()
    best: tuple[int, Disk] | None = None
    for line in lines:
        # 36 35 98:0 /root /mount rw,noatime shared:1 - ext4 /dev/sda1 rw,data=ordered
        left, _, right = line.partition(" - ")
        fields, source = left.split(), right.split()
        mount = _ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields[4])
        if not resolved.is_relative_to(mount):
            continue
        options = frozenset(",".join([fields[5], *source[2:3]]).split(","))
        device, is_rotational = _block_device(fields[2])
        disk = Disk(mount, source[0], options, device, is_rotational)
        # Some file systems (btrfs, overlay) show another number here than stat does.
        rank = len(mount) + (10_000 if fields[2] == wanted else 0)
        if best is None or rank >= best[0]:
            best = rank, disk
    return best[1] if best else None


def _block_device(number: str) -> tuple[str, bool]:
    """(name of the whole device, whether it turns) of MAJOR:MINOR."""
    try:
        place = Path("/sys/dev/block", number).resolve(strict=True)
        whole = place if (place / "queue").is_dir() else place.parent
        turns = (whole / "queue" / "rotational").read_text(encoding="ascii").strip() == "1"
    except OSError:
        return "", False
    return whole.name, turns


@dataclass(frozen=True, slots=True)
class SyncCost:
    """Nanoseconds of one write of SYNC_SIZE bytes and its sync, over `count` of them."""

    count: int
    data_median_ns: int  # fdatasync in a file that does not grow, as LMDB does at a commit
    data_p99_ns: int
    full_median_ns: int  # fsync in a file that grows


def sync_cost(folder: Path, *, count: int = 100, span_s: float = 2.0) -> SyncCost:
    """Measures in a nameless file in `folder`, for at most span_s. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        block = os.urandom(SYNC_SIZE)
        file.write(bytes(16 * SYNC_SIZE))
        os.fsync(file.fileno())

        def overwrite(n: int) -> None:
            os.pwrite(file.fileno(), block, n % 16 * SYNC_SIZE)
            os.fdatasync(file.fileno())

        def grow(n: int) -> None:
            os.pwrite(file.fileno(), block, (16 + n) * SYNC_SIZE)
            os.fsync(file.fileno())

        data = _times(overwrite, count, span_s / 2)
        full = _times(grow, max(count // 4, 1), span_s / 2)
    p99 = data[min(len(data) - 1, len(data) * 99 // 100)]
    return SyncCost(len(data), data[len(data) // 2], p99, full[len(full) // 2])


def _times(step: Callable[[int], None], count: int, span_s: float) -> list[int]:
    """Sorted ns of at most `count` steps, at least one."""
    found: list[int] = []
    end_ns = _CLOCK.monotonic_ns() + int(span_s * 1e9)
    while len(found) < count and (not found or _CLOCK.monotonic_ns() < end_ns):
        begun_ns = _CLOCK.monotonic_ns()
        step(len(found))
        found.append(_CLOCK.monotonic_ns() - begun_ns)
    return sorted(found)


@dataclass(frozen=True, slots=True)
class ClockState:
    """What the kernel knows of its clock. error_ms: the most it can be off, as its keeper says."""

    is_synchronised: bool
    error_ms: float
    offset_ms: float


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2) up to what is read; the kernel writes all 208 bytes or fewer."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )


def clock_state() -> ClockState | None:
    """Asks the kernel, which every time service (chrony, ntpd, timesyncd) reports to; None where it
    cannot be asked."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    timex = _Timex()  # modes 0: only asks, needs no right
    state = adjtimex(ctypes.byref(timex))
    if state < 0:
        return None
    is_synchronised = state != _TIME_ERROR and not timex.status & _STA_UNSYNC
    unit = 1e-6 if timex.status & _STA_NANO else 1e-3
    return ClockState(is_synchronised, timex.maxerror / 1000, timex.offset * unit)


def file_limit(pid: int | None = None) -> int | None:
    """Open files a process may have at most, this one or another; None without limit or answer.

    The hard limit: the engine raises its own as far as it needs.
    """
    if pid is None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        return None if most == resource.RLIM_INFINITY else most
    try:
        text = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^Max open files\s+\w+\s+(\d+)", text, re.M)
    return int(found[1]) if found else None


def file_size_limit() -> int | None:
    """Bytes a file of this process may grow to; None without a limit."""
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def can_map(size: int) -> bool:
    """Whether so many bytes of address space can be had; no memory is taken."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        mmap.mmap(-1, size, flags=flags, prot=mmap.PROT_READ).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def memory_bytes() -> int:
    """What this process may use: the machine's, or less inside a limited group of processes."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").rpartition("::")[2].strip()
        for folder in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup") / group.lstrip("/")):
            word = (folder / "memory.max").read_text(encoding="ascii").strip()
            total = min(total, int(word)) if word.isdigit() else total
    except OSError:
        pass
    return total


def lock_holder(path: Path) -> int | None:
    """Process that holds a flock on the file; None when nobody does or it cannot be known."""
    try:
        status = path.stat()
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return None
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in locks.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == place:
            return int(fields[4])
    return None
