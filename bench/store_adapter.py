"""The engine as a store of whole visits, for a comparison with databases that runs elsewhere.

Such a comparison hands over arrays of scans, each with its stay told, and asks who was at a venue,
where a person was, and who was with a person for how long. From the row on the way is the engine's
own: batches of rows by day into LmdbJournal (real keys, sealed groups, durable on return), groups
read back from it into SegmentedIndex with the thread that keeps up, questions to a Snapshot.

A comparison's visits may be longer than a day, so rule C is set beyond all of them.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from engine.clock import DAY_MS, SystemClock, day_to_ms, ms_to_day
from engine.colocation.index import CoLocationIndex
from engine.colocation.segmented import MEMORY_SCANS, SegmentedIndex
from engine.colocation.segments_lmdb import LmdbSegments
from engine.identity.keys import FileKeyRing
from engine.presence.visits import SPAN_MAX_MS, Array, PlaceRules, VisitRules
from engine.scans.rows import ROW, Direction, Kind
from engine.storage.journal import Part, RecordBatch, Run
from engine.storage.journal_lmdb import LmdbJournal

# A row's person as two numbers.
HALVES: Final = np.dtype(
    {"names": ["ph", "pl"], "formats": [">u8", ">u8"], "offsets": [0, 8], "itemsize": ROW.itemsize}
)
assert ROW.fields is not None and ROW.fields["person"][1] == 0

GATEWAY: Final = 1
EPOCH: Final = 1


class Options(Protocol):
    """gap: scans of a person at a venue so many ms apart, or fewer, are one visit.

    memory_scans: how many the index keeps in memory, where that is said.
    """

    gap: int


class ChotStore:
    """One store in a folder of its own. `ingest` and the questions belong to one thread.

    Scans are arrays with the fields t0 (ms since 1970 UTC), ph and pl (halves of the person's key,
    big-endian one after the other), venue, dur (ms), temp (0.01 degrees), lane.
    """

    note = "LmdbJournal (sealed groups, synced), SegmentedIndex: days in files"
    unit = 1  # ms
    merged = True  # answers speak of visits, not of scans
    server = False

    def __init__(self, path: str, opt: Options) -> None:
        root = Path(path)
        self._loop = asyncio.new_event_loop()
        ring = FileKeyRing(root / "keys", create=True)
        self._journal = LmdbJournal(root / "journal", ring, SystemClock())
        self._segments = LmdbSegments(root / "index", ring)
        self._index = SegmentedIndex(
            PlaceRules({}),
            VisitRules(gap_ms=int(opt.gap), stay_max_ms=SPAN_MAX_MS),
            self._segments,
            memory_scans=int(getattr(opt, "memory_scans", MEMORY_SCANS)),
        )
        self._index.load()
        self._groups = self._journal.read(self._index.applied_lsn)
        self._index.start()
        self._seq = self._journal.last_lsn()

    @property
    def segment_count(self) -> int:
        return self._index.segment_count

    def replay(self) -> int:
        """What the log has and no file: how many groups. For a store that was opened again."""
        return self._loop.run_until_complete(self._replay())

    async def _replay(self) -> int:
        before, last = self._index.applied_lsn, self._journal.last_lsn()
        while self._index.applied_lsn < last:
            self._index.apply(await anext(self._groups))
            if self._index.is_behind:
                self._index.catch_up()
        self._index.catch_up()
        return last - before

    def ingest(self, scans: Array) -> None:
        """Durable, and in every later answer, when it returns."""
        self._loop.run_until_complete(self._store(scans_to_parts(scans)))

    async def _store(self, parts: list[Part]) -> None:
        self._seq += 1
        run = Run(GATEWAY, EPOCH, 0, self._seq, self._seq)
        receipt = await self._journal.append(RecordBatch(run, parts))
        while self._index.applied_lsn < receipt.lsn:
            self._index.apply(await anext(self._groups))
        if self._index.is_behind:
            self._index.catch_up()

    def finish(self) -> None:
        self.write_down()

    def write_down(self) -> None:
        """All of it into files."""
        self._index.write_down()

    def present(self, venue: int, q0: int, q1: int) -> set[bytes]:
        return self._index.snapshot().people_at(venue, q0, q1)

    def visits(self, person: bytes, q0: int, q1: int) -> list[tuple[int, int, int]]:
        """(start, length, venue) of each visit."""
        return self._index.snapshot().times_of(person, q0, q1)

    def contacts(self, person: bytes, q0: int, q1: int) -> dict[bytes, int]:
        return self._index.snapshot().time_together(person, q0, q1)

    def close(self) -> None:
        self._index.stop()
        self._close()

    def kill(self) -> None:
        """As `close`, but what is in memory only stays out of the files."""
        CoLocationIndex.stop(self._index)
        self._close()

    def _close(self) -> None:
        self._loop.run_until_complete(self._journal.close())
        self._loop.run_until_complete(self._groups.aclose())  # type: ignore[attr-defined]
        self._loop.close()
        self._segments.close()


@lru_cache(4)
def check_ins(count: int) -> bytes:
    """So many rows that say nothing but that; n is their position."""
    rows = np.zeros(count, ROW)
    rows["direction"], rows["kind"], rows["n"] = Direction.IN, Kind.CHECKIN, np.arange(count)
    return rows.tobytes()


def scans_to_parts(scans: Array) -> list[Part]:
    """Check-ins with a told stay, by civil day."""
    rows = np.frombuffer(bytearray(check_ins(len(scans))), ROW)
    halves, times = rows.view(HALVES), scans["t0"]
    halves["ph"], halves["pl"] = scans["ph"], scans["pl"]
    rows["time_ms"], rows["place"] = times, scans["venue"]
    rows["lane"], rows["temperature_cc"] = scans["lane"], scans["temp"]
    rows["stay_ms"] = scans["dur"]
    if not len(times):
        return []
    first, last = (ms_to_day(int(instant)) for instant in (times.min(), times.max()))
    if first == last:
        return [Part(first, rows.tobytes())]
    days = (times - day_to_ms(0)) // DAY_MS
    return [Part(int(day), rows[days == day].tobytes()) for day in np.unique(days)]
