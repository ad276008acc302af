"""A store that no engine runs on, opened to be looked after: retention, and what a restore does.

The same parts as in an engine, but for the index: who was seen when is read from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from pathlib import Path

from engine.clock import Clock, ms_to_day
from engine.identity.keys import FileKeyRing
from engine.keeping.eraser import Eraser, find_rows
from engine.keeping.holds import DaysOf
from engine.keeping.knowledge import Keeping
from engine.keeping.retention import Retention
from engine.keeping.verify import CONTROL_DIR, JOURNAL_DIR
from engine.settings import Settings
from engine.storage.control_lmdb import ControlLog
from engine.storage.journal_lmdb import LmdbJournal

KEYS_DIR = "keys"


@dataclass(frozen=True, slots=True)
class Stopped:
    keyring: FileKeyRing
    control: ControlLog
    journal: LmdbJournal
    keeping: Keeping
    eraser: Eraser
    retention: Retention
    days_of: DaysOf


@contextlib.asynccontextmanager
async def opened(data: Path, settings: Settings, clock: Clock) -> AsyncIterator[Stopped]:
    """Raises StoreLocked beside a running engine, KeyMissing, StorageError."""
    keyring = FileKeyRing(data / KEYS_DIR)
    keeping = Keeping(keyring, data / KEYS_DIR, clock)
    control = ControlLog(data / CONTROL_DIR, now_ms=clock.now_ms())
    try:
        keeping.load(control)
        journal = LmdbJournal(
            data / JOURNAL_DIR,
            keyring,
            clock,
            limit_bytes=settings.map_size,
            floor_bytes=settings.free_space_min,
            strip=keeping.erasures.strip,
        )
        try:
            days_of = _days_of(journal)
            yield Stopped(
                keyring,
                control,
                journal,
                keeping,
                keeping.eraser(journal, control),
                keeping.retention(journal, None, days_of, settings.retention_days),
                days_of,
            )
        finally:
            await journal.close()
    finally:
        control.close()


def _days_of(journal: LmdbJournal) -> DaysOf:
    def days_of(persons: Collection[bytes]) -> set[int]:
        rows, _ = asyncio.run(find_rows(journal, persons))
        return {ms_to_day(time_ms) for time_ms in rows["time_ms"].tolist()}

    return days_of
