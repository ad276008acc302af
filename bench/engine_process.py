"""A real engine for benches: `chot serve` on a scratch folder, its gateways enrolled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.harness import ROOT
from engine.client import admin
from engine.clock import SystemClock
from engine.identity.keys import FileKeyRing
from engine.storage.journal_lmdb import LmdbJournal

TABLES: Final = ROOT / "docs" / "examples" / "registry"
WAIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Pass:
    """What a gateway shows of itself, from the file that enrolling it wrote."""

    name: str
    token: str
    ingest_public: bytes


class EngineProcess:
    """with EngineProcess(folder) as engine: its port is open; ends with SIGTERM.

    tables: of the registry. with_api: both processes, and `api` is the address of the second.
    settings: as for --set. core: the only one it may run on. It may be killed and started again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tables: Path = TABLES,
        with_api: bool = False,
        settings: Mapping[str, object] | None = None,
        core: int | None = None,
    ) -> None:
        self.data = folder / "data"
        self.port = 0
        self.api = ""
        self._log = folder / "engine.log"
        self._tables = tables
        self._with_api = with_api
        self._settings = settings or {}
        self._core = core
        self._api_port = 0

    def __enter__(self) -> EngineProcess:
        self.start()
        return self

    def start(self) -> None:
        """Until its doors are open; the same ones as before, if it was killed."""
        words = ["serve", "--json", "--data", str(self.data), "--registry", str(self._tables)]
        words += ["--set", f"ingest_port={self.port}", "--set", f"api_port={self._api_port}"]
        words += [f"--set={name}={value}" for name, value in self._settings.items()]
        if not self._with_api:
            words += ["--part", "engine"]
        with self._log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        if self._core is not None:
            os.sched_setaffinity(self.process.pid, {self._core})  # threads that come inherit it
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self._log.read_text(encoding="utf-8"))
        doors = json.loads(line)
        self.port = int(doors["ingest"].rpartition(":")[2])
        self.api = doors.get("api", "")
        self._api_port = int(self.api.rpartition(":")[2]) if self.api else 0

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def kill(self) -> None:
        """kill -9: no last word, no flush."""
        self.process.kill()
        self.process.wait(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def token(self, grant: str) -> str:
        async def work() -> str:
            async with admin.connect(self.data) as owner:
                return await admin.issue_token(owner, grant)

        return asyncio.run(work())

    def gateway_files(self, names: list[str], folder: Path) -> dict[str, str]:
        """Texts of the gateways' TOML files, each with a spool of its own in the folder."""

        async def work() -> dict[str, str]:
            async with admin.connect(self.data) as owner:
                return {
                    name: await admin.enrol_gateway(owner, name, spool=folder / f"spool-{name}")
                    for name in names
                }

        return asyncio.run(work())

    def enrol(self, names: list[str]) -> list[Pass]:
        found = map(tomllib.loads, self.gateway_files(names, self.data).values())
        return [Pass(f["name"], f["token"], bytes.fromhex(f["ingest_public"])) for f in found]

    def cpu_s(self) -> float:
        """CPU that the engine has taken so far, all threads."""
        return cpu_s(self.process.pid)

    def peak_bytes(self) -> int:
        return peak_bytes(self.process.pid)

    def api_pid(self) -> int:
        """The process of the API; 0 without one."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = path.read_text(encoding="ascii").split()
        return int(pids[0]) if pids else 0


def cpu_s(pid: int) -> float:
    """CPU of a process, all threads; 0 when it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def peak_bytes(pid: int) -> int:
    """The most memory a process ever had; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def count_rows(data: Path) -> dict[int, int]:
    """Rows in the store of a stopped engine, by the epoch that brought them."""

    async def work() -> dict[int, int]:
        journal = LmdbJournal(data / "journal", FileKeyRing(data / "keys"), SystemClock())
        found: dict[int, int] = {}
        try:
            last = journal.last_lsn()
            async for group in journal.read(0):
                for epoch, rows in zip(
                    *(group.runs[c].tolist() for c in ("epoch", "rows")), strict=True
                ):
                    found[epoch] = found.get(epoch, 0) + rows
                if group.lsn == last:
                    break
        finally:
            await journal.close()
        return found

    return asyncio.run(work())
