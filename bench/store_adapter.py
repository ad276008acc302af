"""The engine as a store of whole visits, for a comparison with databases that runs elsewhere.

Such a comparison hands over arrays of scans, each with its stay told, and asks who was at a venue,
where a person was, and who was with a person for how long. From the row on the way is the engine's
own: batches of rows by day into LmdbJournal (real keys, sealed groups, durable on return), groups
read back from it into CoLocationIndex with the thread that keeps up, questions to a Snapshot.

A comparison's visits may be longer than a day, so rule C is set beyond all of them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from engine.clock import DAY_MS, SystemClock, day_to_ms
from engine.index import CoLocationIndex
from engine.journal import Part, RecordBatch, Run
from engine.journal_lmdb import LmdbJournal
from engine.keys import FileKeyRing
from engine.rows import ROW, Direction, Kind
from engine.visits import SPAN_MAX_MS, Array, PlaceRules, VisitRules

GATEWAY: Final = 1
EPOCH: Final = 1


class Options(Protocol):
    """gap: scans of a person at a venue so many ms apart, or fewer, are one visit."""

    gap: int


class ChotStore:
    """One store in a folder of its own. `ingest` and the questions belong to one thread.

    Scans are arrays with the fields t0 (ms since 1970 UTC), ph and pl (halves of the person's key,
    big-endian one after the other), venue, dur (ms), temp (0.01 degrees), lane.
    """

    note = "LmdbJournal (sealed groups, synced), CoLocationIndex in memory"
    unit = 1  # ms
    merged = True  # answers speak of visits, not of scans
    server = False

    def __init__(self, path: str, opt: Options) -> None:
        root = Path(path)
        self._loop = asyncio.new_event_loop()
        ring = FileKeyRing(root / "keys", create=True)
        self._journal = LmdbJournal(root / "journal", ring, SystemClock())
        self._groups = self._journal.read(0)
        self._index = CoLocationIndex(
            PlaceRules({}), VisitRules(gap_ms=int(opt.gap), stay_max_ms=SPAN_MAX_MS)
        )
        self._index.start()
        self._seq = 0

    def ingest(self, scans: Array) -> None:
        """Durable, and in every later answer, when it returns."""
        self._loop.run_until_complete(self._store(scans_to_parts(scans)))

    async def _store(self, parts: list[Part]) -> None:
        self._seq += 1
        run = Run(GATEWAY, EPOCH, 0, self._seq, self._seq)
        receipt = await self._journal.append(RecordBatch(run, parts))
        while self._index.applied_lsn < receipt.lsn:
            self._index.apply(await anext(self._groups))

    def finish(self) -> None:
        self._index.compact()

    def present(self, venue: int, q0: int, q1: int) -> set[bytes]:
        return self._index.snapshot().people_at(venue, q0, q1)

    def visits(self, person: bytes, q0: int, q1: int) -> list[tuple[int, int, int]]:
        """(start, length, venue) of each visit."""
        return self._index.snapshot().times_of(person, q0, q1)

    def contacts(self, person: bytes, q0: int, q1: int) -> dict[bytes, int]:
        return self._index.snapshot().time_together(person, q0, q1)

    def close(self) -> None:
        self._index.stop()
        self._loop.run_until_complete(self._journal.close())
        self._loop.run_until_complete(self._groups.aclose())  # type: ignore[attr-defined]
        self._loop.close()


def scans_to_parts(scans: Array) -> list[Part]:
    """Check-ins with a told stay, by civil day."""
    rows = np.zeros(len(scans), ROW)
    keys = np.empty((len(scans), 2), ">u8")
    keys[:, 0], keys[:, 1] = scans["ph"], scans["pl"]
    rows["person"] = keys.view("V16").ravel()
    rows["time_ms"], rows["place"] = scans["t0"], scans["venue"]
    rows["lane"], rows["temperature_cc"] = scans["lane"], scans["temp"]
    rows["stay_ms"] = scans["dur"]
    rows["direction"], rows["kind"] = Direction.IN, Kind.CHECKIN
    rows["n"] = np.arange(len(rows))
    days = (scans["t0"] - day_to_ms(0)) // DAY_MS
    return [Part(int(day), rows[days == day].tobytes()) for day in np.unique(days)]
