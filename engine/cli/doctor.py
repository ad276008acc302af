"""`chot doctor`: is this machine, this data folder and are these settings fit to keep receipts?

Each check gives findings: ok, a warning, or an error, with a code, a sentence and what to do. It
may run before an engine is started and beside one; it opens the stores as a reader, reads heads
and never rows, writes one nameless file to measure syncs, and shows no persons.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine import machine
from engine.cli.doctor_machine import (
    CHECKS,
    Finding,
    Known,
    Level,
    MachineDoctor,
    nearest,
    size_text,
)
from engine.client import admin
from engine.clock import Clock, day_to_date, ms_to_day
from engine.errors import EngineError, StorageUnavailable
from engine.identity.key_files import KEY_SIZE
from engine.identity.keys import DESK_DIR
from engine.keeping.verify import CONTROL_DIR, JOURNAL_DIR
from engine.registry.registry import Registry
from engine.settings import Settings
from engine.storage import control_lmdb, generation, generations
from engine.storage.generation import DATA_NAME
from engine.storage.group import HEADER, HEADER_SIZE
from engine.storage.store_lmdb import Store
from engine.storage.store_lock import LOCK_NAME, StoreLock

_STATUS: Final = {"ok": 0, "warning": 1, "error": 2}
MAP_SHARE_WARN: Final = 0.9
FORGET_LATE_DAYS: Final = 1  # the engine looks four times an hour


class Doctor:
    """One examination of one data folder."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._data = Path(settings.data)
        self._known = Known()

    def examine(self) -> list[Finding]:
        """Every finding, in the order of CHECKS."""
        found: list[Finding] = []
        # The log first: other checks are held against it.
        for check in (
            self._engine, self._scan_log, self._control_log, self._folder, self._modes, self._keys,
            self._key_days, self._retention,
        ):  # fmt: skip
            found += check()
        found += MachineDoctor(self._settings, self._clock, self._known).findings()
        order = list(CHECKS)
        return sorted(found, key=lambda finding: order.index(finding.code))

    # ---- data folder ----------------------------------------------------------------------------

    def _folder(self) -> Iterator[Finding]:
        code = "data.folder"
        place = nearest(self._data)
        if place == self._data.absolute():
            yield Finding("ok", code, f"{self._data}")
        elif self._data.exists() or self._data.is_symlink():
            yield Finding("error", code, f"{self._data} is no folder", "name another, or move it")
        elif os.access(place, os.W_OK | os.X_OK):
            yield Finding("ok", code, f"{self._data} is not there yet; chot serve makes it")
        else:
            yield Finding(
                "error",
                code,
                f"{self._data} is not there and cannot be made in {place}",
                "make it and give it to the engine's user",
            )

    def _modes(self) -> Iterator[Finding]:
        code = "data.mode"
        faults: list[Finding] = []
        owners: set[int] = set()
        for path, mode in self._owned():
            try:
                status = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                faults.append(
                    Finding(
                        "error", code, f"{path}: {error.strerror}", "run it as the engine's user"
                    )
                )
                continue
            owners.add(status.st_uid)
            if stat.S_IMODE(status.st_mode) & ~mode:
                shown = stat.S_IMODE(status.st_mode)
                faults.append(
                    Finding(
                        "error",
                        code,
                        f"{path} has mode {shown:04o}: others may reach it",
                        f"chmod {mode:o} {path}",
                    )
                )
        if len(owners) > 1:
            faults.append(
                Finding(
                    "error",
                    code,
                    f"{self._data} belongs to several users",
                    f"chown -R USER {self._data}, the engine's user",
                )
            )
        elif owners and os.geteuid() not in {0, *owners}:
            faults.append(
                Finding(
                    "error",
                    code,
                    f"{self._data} belongs to another user",
                    "run engine and doctor as its owner",
                )
            )
        yield from faults or ([Finding("ok", code, "nobody else may reach it")] if owners else [])

    def _owned(self) -> Iterator[tuple[Path, int]]:
        """Paths with the most that their mode may be. Keys have a check of their own."""
        yield self._data / admin.SOCKET_NAME, 0o600
        journal, control = self._data / JOURNAL_DIR, self._data / CONTROL_DIR
        parts = [folder for _, folder in generation.numbered_folders(journal)]
        for path in (journal, control, *parts):
            yield path, 0o700
            for file in ("data.mdb", "lock.mdb", LOCK_NAME):
                yield path / file, 0o600

    def _engine(self) -> Iterator[Finding]:
        code = "engine.state"
        lock = self._data / JOURNAL_DIR / LOCK_NAME
        self._known.holder = machine.lock_holder(lock)
        path = self._data / admin.SOCKET_NAME
        is_answered = False
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as end:
            end.settimeout(5)
            end.connect(os.fspath(path))
            is_answered = True
        self._known.is_running = is_answered or self._known.holder is not None
        if is_answered:
            yield Finding("ok", code, f"an engine runs here{self._pid()} and its socket answers")
        elif self._known.holder is not None:
            yield Finding(
                "warning",
                code,
                f"the store is held{self._pid()}, but nothing answers at {path.name}",
                "it is starting or stopping, or chot verify runs; "
                "if it stays so, look at the engine's log",
            )
        else:
            yield Finding("ok", code, "no engine runs here")

    def _pid(self) -> str:
        return f" (process {self._known.holder})" if self._known.holder else ""

    # ---- logs -----------------------------------------------------------------------------------

    def _scan_log(self) -> Iterator[Finding]:
        code, log = "log.state", self._known
        path = self._data / JOURNAL_DIR
        if not generation.is_there(path):
            yield Finding("ok", code, "no scan log yet")
            return
        try:
            with StoreLock(path, is_offline=True) as lock:
                for number, folder in generation.folders(path):
                    self._take_generation(number, folder, lock)
        except EngineError as error:
            yield _log_fault(code, error)
            return
        limit = self._settings.map_size
        text = (
            f"{log.groups} groups, files: {log.generations}, {size_text(log.used_bytes)} "
            f"({size_text(log.disk_bytes)} on the disk), days with rows: {len(log.days)}"
        )
        if log.used_bytes > MAP_SHARE_WARN * limit:
            level: Level = "error" if log.used_bytes > 0.99 * limit else "warning"
            yield Finding(
                level,
                code,
                f"{text}; map_size is {size_text(limit)}: beyond it no scan is taken",
                "raise map_size, or keep fewer days",
            )
        else:
            yield Finding("ok", code, text)

    def _take_generation(self, number: int, folder: Path, lock: StoreLock) -> None:
        try:
            with Store(folder, kind=generations.KIND, is_offline=True, lock=lock) as store:
                self._known.used_bytes += store.used_bytes()
                self._known.disk_bytes += (folder / DATA_NAME).stat().st_blocks * 512
                if number > 1:
                    if not store.meta.header:
                        return  # made ahead
                    header = generation.bytes_to_header(store.meta.header)
                    store.before_lsn = header.first_lsn - 1
                self._known.generations += 1
                for lsn, view in store.scan(store.before_lsn + 1):
                    self._take_head(lsn, view)
        except StorageUnavailable:
            if not lock.is_shared or folder.exists():
                raise  # else it was forgotten while we looked

    def _take_head(self, lsn: int, view: memoryview) -> None:
        """Of a head what doctor needs; whether it is sound is for `chot verify`."""
        if len(view) < HEADER_SIZE:
            return
        fields = HEADER.unpack_from(view)
        is_expired, day, rows, details, arrival_ms = (
            bool(fields[2] & 1), fields[5], fields[8], fields[10], fields[11],
        )  # fmt: skip
        log = self._known
        log.groups += 1
        log.newest_ms = max(log.newest_ms, arrival_ms)
        if rows and not is_expired:
            log.days[day] = lsn
            if details:
                log.days_with_details.add(day)

    def _control_log(self) -> Iterator[Finding]:
        code = "control.state"
        path = self._data / CONTROL_DIR
        if not (path / "data.mdb").exists():
            yield Finding("ok", code, "no control log yet")
            return
        registry, count = Registry(), 0
        try:
            with Store(path, kind=control_lmdb.KIND, is_offline=True) as store:
                for lsn, view in store.scan(1):
                    registry.apply(control_lmdb.bytes_to_record(lsn, bytes(view)))
                    count += 1
        except EngineError as error:
            yield _log_fault(code, error)
            return
        self._known.gateways = len(list(registry.entries("gateway")))
        places = len(list(registry.entries("post"))) + len(list(registry.entries("venue")))
        text = f"{count} records; {self._known.gateways} gateways, {places} places"
        if not self._known.gateways or not places:
            yield Finding("warning", code, text, "import a registry: no scan can be taken")
        else:
            yield Finding("ok", code, text)

    # ---- keys -----------------------------------------------------------------------------------

    def _keys(self) -> Iterator[Finding]:
        code, root = "keys.files", self._data / "keys"
        has_log = self._known.groups > 0
        if not root.is_dir():
            if has_log:
                yield Finding(
                    "error",
                    code,
                    f"{root} is missing and the log has scans",
                    "bring the keys back from escrow; never start without",
                )
            return
        faults = [f for name in ("province.key", "venue.key", "ingest.key", "audit.pub")
                  for f in self._key(root / name)]  # fmt: skip
        for folder in (root, root / "days"):
            faults += _folder_faults(folder, 0o700)
        desk = root / DESK_DIR
        if os.access(desk, os.X_OK):
            faults += _folder_faults(desk, 0o2770)
            faults += self._key(desk / "audit.key", 0o640)
        yield from faults or [Finding("ok", code, "all there, and closed to others")]

    def _key(self, path: Path, mode: int = 0o600) -> list[Finding]:
        code = "keys.files"
        try:
            status = path.lstat()
        except OSError as error:
            todo = "bring it back from escrow; never make a new province key over old scans"
            return [Finding("error", code, f"{path}: {error.strerror}", todo)]
        if not stat.S_ISREG(status.st_mode) or status.st_size != KEY_SIZE:
            return [
                Finding(
                    "error",
                    code,
                    f"{path} does not hold {KEY_SIZE} bytes",
                    "bring it back from escrow",
                )
            ]
        if stat.S_IMODE(status.st_mode) & ~mode:
            return [Finding("error", code, f"{path}: others may read it", f"chmod {mode:o} {path}")]
        return []

    def _key_days(self) -> Iterator[Finding]:
        code, folder = "keys.days", self._data / "keys" / "days"
        if not self._known.days:
            return
        desk = self._data / "keys" / DESK_DIR

        def missing(days: set[int], place: Path, suffix: str) -> list[str]:
            return [
                day_to_date(day)
                for day in sorted(days)
                if not (folder / f"{day}.destroyed").exists()
                and not (place / f"{day}.{suffix}").exists()
            ]

        lost = missing(set(self._known.days), folder, "log.key")
        nameless = missing(self._known.days_with_details, folder, "details.pub")
        if os.access(desk, os.X_OK):
            nameless += missing(self._known.days_with_details, desk, "details.key")
        if lost:
            yield Finding(
                "error",
                code,
                f"no key for the rows of {_some(lost)}: they are lost without it",
                "bring the day's key back from escrow",
            )
        if nameless:
            yield Finding(
                "error",
                code,
                f"no key for the names of {_some(sorted(set(nameless)))}",
                "bring the day's details key back from escrow",
            )
        if not lost and not nameless:
            yield Finding("ok", code, f"a key for each of {len(self._known.days)} days")

    def _retention(self) -> Iterator[Finding]:
        today = ms_to_day(self._clock.now_ms())
        keep = self._settings.retention_days
        first_kept = today - keep - FORGET_LATE_DAYS
        late = [day for day in sorted(self._known.days) if day < first_kept]
        if not self._known.days:
            return
        oldest = day_to_date(min(self._known.days))
        if late:
            since = today - late[0] - keep
            yield Finding(
                "error",
                "retention.behind",
                f"{len(late)} days should be forgotten, the "
                f"oldest {day_to_date(late[0])} is {since} days late",
                "an engine forgets by itself while it runs: start it; if it runs, look in "
                "its log for 'days not forgotten'",
            )
        else:
            yield Finding("ok", "retention.behind", f"oldest day with rows {oldest}, kept {keep}")


def examine(settings: Settings, clock: Clock) -> list[Finding]:
    """Everything doctor knows to look at."""
    return Doctor(settings, clock).examine()


def findings_to_status(findings: list[Finding]) -> int:
    """0 all ok, 1 warnings, 2 errors."""
    return max((_STATUS[finding.level] for finding in findings), default=0)


def _log_fault(code: str, error: EngineError) -> Finding:
    if isinstance(error, StorageUnavailable):
        return Finding("error", code, f"cannot be read: {error}", "run it as the engine's user")
    return Finding("error", code, f"{error.code}: {error}", "chot verify says what is damaged")


def _folder_faults(path: Path, mode: int) -> list[Finding]:
    try:
        shown = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return [
            Finding("error", "keys.files", f"{path}: {error.strerror}", "bring it back from escrow")
        ]
    if shown & ~mode & 0o777:
        return [
            Finding(
                "error",
                "keys.files",
                f"{path} has mode {shown:04o}: others may enter",
                f"chmod {mode & 0o777:o} {path}",
            )
        ]
    return []


def _some(words: list[str]) -> str:
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
