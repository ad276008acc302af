"""A real engine for benches: `chot serve` on a scratch folder, its gateways enrolled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.harness import ROOT
from engine import admin
from engine.clock import SystemClock
from engine.journal_lmdb import LmdbJournal
from engine.keys import FileKeyRing

TABLES: Final = ROOT / "docs" / "examples" / "registry"
WAIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Pass:
    """What a gateway shows of itself, from the file that enrolling it wrote."""

    name: str
    token: str
    ingest_public: bytes


class EngineProcess:
    """with EngineProcess(folder) as engine: its port is open; ends with SIGTERM."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.port = 0
        self._log = folder / "engine.log"

    def __enter__(self) -> EngineProcess:
        words = ["serve", "--json", "--part", "engine", "--data", str(self.data)]
        words += ["--registry", str(TABLES), "--set", "ingest_port=0"]
        with self._log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self._log.read_text(encoding="utf-8"))
        self.port = int(json.loads(line)["ingest"].rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def enrol(self, names: list[str]) -> list[Pass]:
        async def work() -> list[Pass]:
            async with admin.connect(self.data) as owner:
                texts = [await admin.enrol_gateway(owner, n, spool=self.data) for n in names]
            found = map(tomllib.loads, texts)
            return [Pass(f["name"], f["token"], bytes.fromhex(f["ingest_public"])) for f in found]

        return asyncio.run(work())

    def cpu_s(self) -> float:
        """CPU that the engine has taken so far, all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
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
