"""Doctor's checks of the machine and the settings: programs, disk, clock, limits, ports.

What was found in the data folder before comes in as `Known`; engine/cli/doctor.py looks there.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import msgspec

import engine
import native.cpu
from engine import machine
from engine.clock import DAY_MS, Clock, ms_to_iso
from engine.errors import SettingInvalid
from engine.ingest.doors import DESCRIPTORS_KEPT
from engine.settings import Settings
from engine.storage import store_lmdb
from engine.storage.generations import OPEN_MAX
from engine.wire import tls
from engine.wire.address import parse_addresses

Level = Literal["ok", "warning", "error"]

# Code -> what is looked at. docs/operations.md has each; a test compares.
CHECKS: Final = {
    "version.programs": "Python, LMDB, OpenSSL and the other libraries",
    "version.native": "level of the native core",
    "disk.kind": "file system of the data folder",
    "disk.free": "room for scans",
    "disk.sync": "what a sync costs: the price of a receipt",
    "clock.sync": "whether the clock is kept by a time service",
    "clock.log": "the clock against the newest group",
    "limits.files": "open files against sessions",
    "limits.map": "address space and file size against map_size",
    "limits.memory": "memory against what gateways may have on their way",
    "settings.fit": "settings against each other and the machine",
    "settings.ports": "ports that are to be opened",
    "tls.files": "certificate and key of the doors that need them",
    "data.folder": "the data folder itself",
    "data.mode": "owner and mode of folders, stores and socket",
    "engine.state": "whether an engine runs on it and can be reached",
    "keys.files": "key files that never change",
    "keys.days": "a key for each day that has rows",
    "log.state": "heads and size of the scan log",
    "control.state": "the control log",
    "retention.behind": "days that should have been forgotten",
}

SYNC_SLOW_MS: Final = 10.0  # a receipt waits for two
SYNC_TAIL_MS: Final = 50.0
SYNC_UNTRUE_MS: Final = 0.005  # faster than any way to a disk and back
CLOCK_ERROR_MS: Final = 1000.0
EXPIRY_WARN_DAYS: Final = 30
# Each file of the log may grow to twice its size while the next one is not ready.
MAPPED_AT_ONCE: Final = 2 * (OPEN_MAX + 2)
# File systems whose syncs or locks do not hold what LMDB needs.
NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs", "fuse.sshfs"}
)
MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
COPYING: Final = frozenset({"btrfs", "zfs", "bcachefs", "f2fs"})  # old bytes stay below the file
LAYERED: Final = frozenset({"overlay", "aufs", "squashfs"})


class Finding(msgspec.Struct, frozen=True):
    """What a check found. code: of CHECKS. todo: empty when there is nothing to do."""

    level: Level
    code: str
    text: str
    todo: str = ""


@dataclass(slots=True)
class Known:
    """What the data folder told. days: day to newest LSN, of days that still have rows.

    gateways: in the registry, None without one. holder: process that holds the store.
    """

    groups: int = 0
    generations: int = 0
    used_bytes: int = 0
    disk_bytes: int = 0
    newest_ms: int = 0
    days: dict[int, int] = field(default_factory=dict)
    days_with_details: set[int] = field(default_factory=set)
    gateways: int | None = None
    holder: int | None = None
    is_running: bool = False


class MachineDoctor:
    """The machine under one data folder, and the settings."""

    def __init__(self, settings: Settings, clock: Clock, known: Known) -> None:
        self._settings = settings
        self._clock = clock
        self._known = known
        self._place = nearest(Path(settings.data))

    def findings(self) -> Iterator[Finding]:
        for check in (
            self._programs, self._native, self._disk_kind, self._disk_free, self._disk_sync,
            self._clock_sync, self._clock_log, self._files, self._map, self._memory, self._fit,
            self._ports, self._tls,
        ):  # fmt: skip
            yield from check()

    # ---- programs -------------------------------------------------------------------------------

    def _programs(self) -> Iterator[Finding]:
        lmdb = store_lmdb.library_version()
        parts = [
            f"chot {engine.__version__}",
            f"Python {platform.python_version()}",
            f"LMDB {lmdb}",
        ]
        parts.append(ssl.OPENSSL_VERSION)
        for name in ("lmdb", "cryptography", "zxing-cpp", "simplejpeg", "msgspec", "aiohttp"):
            with contextlib.suppress(PackageNotFoundError):
                parts.append(f"{name} {version(name)}")
        text = ", ".join(parts)
        if not ssl.HAS_TLSv1_3:
            yield Finding(
                "warning",
                "version.programs",
                f"OpenSSL without TLS 1.3: {text}",
                "a Python built with OpenSSL 1.1.1 or newer",
            )
        else:
            yield Finding("ok", "version.programs", text)

    def _native(self) -> Iterator[Finding]:
        level, best = native.cpu.active(), native.cpu.available()[-1]
        text = f"the native core runs at level {level}"
        if level != best:
            todo = "unset NATIVE_CPU"
            yield Finding("warning", "version.native", f"{text}; this machine has {best}", todo)
        elif level == "scalar":
            todo = "a processor with AVX2 or NEON reads frames several times as fast"
            yield Finding("warning", "version.native", text, todo)
        else:
            yield Finding("ok", "version.native", text)

    # ---- disk -----------------------------------------------------------------------------------

    def _disk_kind(self) -> Iterator[Finding]:
        code = "disk.kind"
        disk = machine.disk_of(self._place)
        if disk is None:
            yield Finding("warning", code, "this system does not tell what the folder lies on")
            return
        text = f"{disk.kind} at {disk.mount}" + (f" on {disk.device}" if disk.device else "")
        bad = {"nobarrier", "barrier=0", "data=writeback"} & disk.options
        if disk.kind in MEMORY:
            yield Finding(
                "error",
                code,
                f"{text}: memory, nothing survives a power cut",
                "put the data folder on a disk",
            )
        elif disk.kind in NETWORK:
            yield Finding(
                "error",
                code,
                f"{text}: a network file system, LMDB's locks and maps do not hold there",
                "put the data folder on a local disk",
            )
        elif {"ro", "emergency_ro"} & disk.options:
            yield Finding(
                "error",
                code,
                f"{text} is read-only: no scan is taken",
                "look at the system's log for why, then mount it for writing",
            )
        elif bad:
            yield Finding(
                "error",
                code,
                f"{text} with {', '.join(sorted(bad))}: a sync that returned may be lost",
                "mount it without these options",
            )
        elif disk.kind in LAYERED:
            yield Finding(
                "warning",
                code,
                f"{text}: the layer of a container, it goes with it",
                "put the data folder on a volume",
            )
        elif disk.device.startswith("mmcblk"):
            yield Finding(
                "warning",
                code,
                f"{text}: cards wear out and often do not keep syncs",
                "an SSD, best with power-loss protection",
            )
        elif disk.kind in COPYING:
            yield Finding(
                "warning",
                code,
                f"{text} writes elsewhere than over: destroyed keys may survive below",
                "keep keys/ on an encrypted volume",
            )
        else:
            yield Finding("ok", code, text)

    def _disk_free(self) -> Iterator[Finding]:
        status = os.statvfs(self._place)
        free = status.f_bavail * status.f_frsize
        floor = self._settings.free_space_min
        text = f"{size_text(free)} free; below {size_text(floor)} no scan is taken"
        if self._known.groups and len(self._known.days) > 1:
            # Today is not over yet, so it does not count as a day.
            a_day = self._known.used_bytes // (len(self._known.days) - 1)
            text += f"; the log holds about {size_text(a_day)} a day"
            floor_days = (free - floor) / max(a_day, 1)
        else:
            floor_days = float("inf")
        todo = "make room, or keep fewer days (retention_days)"
        if free < floor:
            yield Finding("error", "disk.free", text, todo)
        elif free < 4 * floor or floor_days < 3:
            yield Finding("warning", "disk.free", text, todo)
        else:
            yield Finding("ok", "disk.free", text)

    def _disk_sync(self) -> Iterator[Finding]:
        code = "disk.sync"
        place = self._place
        if not os.access(place, os.W_OK | os.X_OK):
            yield Finding(
                "warning",
                code,
                "not measured: this user cannot write there",
                "run it as the engine's user",
            )
            return
        try:
            cost = machine.sync_cost(place)
        except OSError as error:
            yield Finding(
                "error",
                code,
                f"a file in the data folder cannot be written and synced: {error.strerror}",
                "no receipt can be given; look at the disk",
            )
            return
        median, p99 = cost.data_median_ns / 1e6, cost.data_p99_ns / 1e6
        text = (
            f"fdatasync {median:.2f} ms (p99 {p99:.2f}), fsync {cost.full_median_ns / 1e6:.2f} ms: "
            f"a receipt waits about {2 * median:.1f} ms for the disk, a slow one {2 * p99:.1f}"
        )
        if median < SYNC_UNTRUE_MS:
            yield Finding(
                "warning",
                code,
                f"{text}; too fast to have reached any disk",
                "find what swallows syncs: a host's cache, eatmydata, a RAM disk",
            )
        elif median > SYNC_SLOW_MS or p99 > SYNC_TAIL_MS:
            yield Finding(
                "warning",
                code,
                text,
                "another disk (SSD with power-loss protection), or "
                "less beside it; nothing is lost, receipts come later",
            )
        else:
            yield Finding("ok", code, text)

    # ---- clock ----------------------------------------------------------------------------------

    def _clock_sync(self) -> Iterator[Finding]:
        code = "clock.sync"
        state = machine.clock_state()
        if state is None:
            yield Finding(
                "warning",
                code,
                "the kernel does not tell whether its clock is kept",
                "see to it that a time service runs on the host",
            )
        elif not state.is_synchronised:
            yield Finding(
                "warning",
                code,
                "no time service keeps the clock: scans may get wrong times and be refused",
                "run chrony or systemd-timesyncd",
            )
        elif state.error_ms > CLOCK_ERROR_MS:
            yield Finding(
                "warning",
                code,
                f"the clock may be off by {state.error_ms:.0f} ms",
                "look at the time service's sources",
            )
        else:
            text = f"kept by a time service, off by at most {state.error_ms:.0f} ms"
            yield Finding("ok", code, text)

    def _clock_log(self) -> Iterator[Finding]:
        newest, now = self._known.newest_ms, self._clock.now_ms()
        if not newest:
            return
        text = f"the newest group came at {ms_to_iso(newest)}"
        if newest > now + 1000:
            yield Finding(
                "error",
                "clock.log",
                f"{text}, later than now: the clock went back",
                "set the clock before scans are taken",
            )
        else:
            yield Finding("ok", "clock.log", text)

    # ---- limits ---------------------------------------------------------------------------------

    def _files(self) -> Iterator[Finding]:
        code = "limits.files"
        limit = machine.file_limit(self._known.holder)
        need = self._settings.sessions_max + DESCRIPTORS_KEPT
        whose = f"of the engine ({self._known.holder})" if self._known.holder else "here"
        if limit is None or limit >= need:
            yield Finding("ok", code, f"open files {whose}: {limit or 'no limit'}, need {need}")
        else:
            yield Finding(
                "error",
                code,
                f"open files {whose}: {limit}, need {need} for "
                f"sessions_max {self._settings.sessions_max}: gateways are turned away",
                "raise it (LimitNOFILE= of the service), or lower sessions_max",
            )

    def _map(self) -> Iterator[Finding]:
        code = "limits.map"
        size = self._settings.generation_size
        limit = machine.file_size_limit()
        if limit is not None:
            yield Finding(
                "error",
                code,
                f"files of this user may not grow beyond {size_text(limit)}",
                "ulimit -f unlimited (LimitFSIZE= of the service)",
            )
        elif not machine.can_map(MAPPED_AT_ONCE * size):
            yield Finding(
                "error",
                code,
                f"no address space for files of generation_size {size_text(size)}",
                "lower generation_size, or lift the limit (ulimit -v, LimitAS=)",
            )
        else:
            text = f"address space for files of generation_size {size_text(size)} can be had"
            yield Finding("ok", code, text)

    def _memory(self) -> Iterator[Finding]:
        settings, total = self._settings, machine.memory_bytes()
        if self._known.gateways is None:
            text = f"memory {size_text(total)}; not judged before there is a registry"
            yield Finding("ok", "limits.memory", text)
            return
        links = min(settings.sessions_max, self._known.gateways)
        # Both classes of a gateway have this credit each.
        need = links * 2 * settings.credit_bytes + settings.commit_pending_max
        text = (
            f"{links} gateways may have {size_text(need)} on their way; memory {size_text(total)}"
        )
        if need > total // 2:
            yield Finding("warning", "limits.memory", text, "lower credit_bytes or sessions_max")
        else:
            yield Finding("ok", "limits.memory", text)

    # ---- settings -------------------------------------------------------------------------------

    def _fit(self) -> Iterator[Finding]:
        code, settings = "settings.fit", self._settings
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        faults: list[tuple[bool, Level, str, str]] = [
            (settings.credit_bytes < settings.frame_size_max + 64, "error",
             "credit_bytes is less than one message of frame_size_max: it could never be sent",
             "raise credit_bytes"),
            (settings.commit_pending_max < settings.frame_size_max, "warning",
             "commit_pending_max is less than one message", "raise commit_pending_max"),
            (settings.free_space_min < 32 << 20, "warning",
             "free_space_min is so small that the disk may be full before scans are refused",
             "at least 33554432, better the default"),
            (settings.map_size < 64 << 20, "warning",
             "map_size is less than some days of one post", "the default costs address space only"),
            (settings.decode_threads > (cores or 1), "warning",
             f"decode_threads is more than the {cores} cores here", "as many as there are cores"),
            (settings.clock_ahead_max_s > 3600, "warning",
             "clock_ahead_max_s lets scans of wrong clocks in, an hour and more ahead",
             "set the gateways' clocks instead"),
        ]  # fmt: skip
        found = [Finding(level, code, text, todo) for is_so, level, text, todo in faults if is_so]
        yield from found or [Finding("ok", code, "the settings fit together")]

    def _ports(self) -> Iterator[Finding]:
        code, settings = "settings.ports", self._settings
        try:
            further = parse_addresses(settings.ingest_listen)
        except SettingInvalid as error:
            yield Finding("error", code, str(error), "mend ingest_listen")
            return
        doors = [
            ("ingest", settings.ingest_host, settings.ingest_port),
            ("api", settings.api_host, settings.api_port),
            *(("ingest_listen", address.host, address.port) for address in further),
        ]
        places = [(host, port) for _, host, port in doors if port]
        if len(set(places)) < len(places):
            todo = "give each door a port of its own"
            yield Finding("error", code, "two doors have the same port", todo)
            return
        if self._known.is_running:
            yield Finding("ok", code, "not tried: an engine runs here")
            return
        taken = [(name, host, port) for name, host, port in doors if port and _refuses(host, port)]
        for name, host, port in taken:
            yield Finding(
                "error",
                code,
                f"{name}: {host}:{port} cannot be opened",
                "another program has it, or the address is not of this machine",
            )
        if not taken:
            yield Finding("ok", code, "all can be opened")

    def _tls(self) -> Iterator[Finding]:
        code, settings = "tls.files", self._settings
        try:
            doors = parse_addresses(settings.ingest_listen)
        except SettingInvalid:
            return  # said among the ports
        if not any(door.is_tls for door in doors):
            return
        try:
            files = (settings.tls_cert, settings.tls_key, settings.tls_client_ca)
            found = tls.ServerTls(*files, alpn=tls.ALPN)
        except SettingInvalid as error:
            todo = error.hint or "docs/protocol.md says how certificates are made"
            yield Finding("error", code, str(error), todo)
            return
        days = (found.expires_ms - self._clock.now_ms()) / DAY_MS
        text = f"the certificate is good until {ms_to_iso(found.expires_ms)}"
        todo = "renew it; the engine reads it again by itself"
        if days < 0:
            yield Finding("error", code, f"{text}: it has expired", todo)
        elif days < EXPIRY_WARN_DAYS:
            yield Finding("warning", code, text, todo)
        else:
            yield Finding("ok", code, text)


def nearest(path: Path) -> Path:
    """The folder, or the one in which it would be made."""
    place = path.absolute()
    while not place.is_dir():
        place = place.parent
    return place


def _refuses(host: str, port: int) -> bool:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
    except OSError:
        return True
    return False


def size_text(count: int) -> str:
    """Bytes for people."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
