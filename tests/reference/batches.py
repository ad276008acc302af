"""Batches for journal tests: rows that carry their own identity, so that a reader can tell what
was lost or doubled without believing the journal's runs.

A row's `vehicle` is the gateway, its `stay_ms` the sequence number, `n` its place within it.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from engine.clock import ManualClock, day_to_ms, ms_to_day
from engine.scans.rows import ROW
from engine.storage.group import Group, pack_details
from engine.storage.journal import TALLY, Journal, Part, RecordBatch, Run

NOON_MS = ManualClock().now_ms()
DAY = ms_to_day(NOON_MS)


def make_rows(gateway: int, seq: int, count: int, day: int = DAY) -> bytes:
    rows = np.zeros(count, ROW)
    rows["time_ms"] = day_to_ms(day) + 1000 * seq
    rows["vehicle"] = gateway
    rows["stay_ms"] = seq
    rows["n"] = np.arange(count)
    return rows.tobytes()


def make_batch(
    gateway: int,
    first: int,
    last: int | None = None,
    *,
    rows_per_seq: int = 2,
    epoch: int = 7,
    cls: int = 0,
    day: int = DAY,
    details: bytes | None = None,
    tallies: int = 0,
) -> RecordBatch:
    """One run first..last with rows_per_seq rows for each; `details` is given to every row."""
    last = first if last is None else last
    seqs = range(first, last + 1)
    rows = b"".join(make_rows(gateway, seq, rows_per_seq, day) for seq in seqs)
    packed = b"" if details is None else pack_details([details] * (rows_per_seq * len(seqs)))
    parts = [Part(day, rows, packed)] if rows else []
    return RecordBatch(
        Run(gateway, epoch, cls, first, last), parts, np.zeros(tallies, TALLY).tobytes()
    )


async def read_groups(journal: Journal) -> list[Group]:
    """All groups that are there now; a reader of its own would wait for more."""
    groups: list[Group] = []
    if journal.last_lsn():
        async for group in journal.read(0):
            groups.append(group)
            if group.lsn == journal.last_lsn():
                break
    return groups


def identities(rows: np.ndarray) -> list[tuple[int, int, int]]:
    """(gateway, seq, n) of each row."""
    return [(int(r["vehicle"]), int(r["stay_ms"]), int(r["n"])) for r in rows]


def count_identities(groups: list) -> Counter:
    """How often each row stands in the groups."""
    found: Counter = Counter()
    for group in groups:
        found.update(identities(group.rows))
    return found
