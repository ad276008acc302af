"""A process that appends to a journal until it is killed; run by test_journal_crash.py.

    python journal_worker.py PATH KEYS STARTS STEP AT

STARTS: the first sequence number each gateway sends, comma separated. Prints `A gateway last` for
each receipt, after the receipt. STEP `before` or `after`: kill -9 itself at the AT-th commit,
just before it or just after it, when nothing has been acknowledged yet; `-` for never.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from engine.clock import SystemClock
from engine.journal_lmdb import LmdbJournal
from engine.keys import FileKeyRing
from engine.store_lmdb import Store
from tests.reference.batches import DAY, make_batch

SEQS_PER_RUN = 3


def die_at_commit(step: str, at: int) -> None:
    real, count = Store.write, 0

    def write(self, records, **options):
        nonlocal count
        count += 1
        if count == at and step == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, records, **options)
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    Store.write = write


async def send(journal: LmdbJournal, gateway: int, seq: int) -> None:
    while True:
        last = seq + SEQS_PER_RUN - 1
        # Runs of the same numbers are the same batch after each restart, as a spool's are.
        batch = make_batch(gateway, seq, last, day=DAY + seq // 200, details=b"x" * (seq % 50))
        await journal.append(batch)
        os.write(1, f"A {gateway} {last}\n".encode())
        seq = last + 1


async def main() -> None:
    path, ring_path, starts, step, at = sys.argv[1:]
    if step != "-":
        die_at_commit(step, int(at))
    journal = LmdbJournal(path, FileKeyRing(ring_path, create=True), SystemClock(), floor_bytes=0)
    await asyncio.gather(*(send(journal, n, int(s)) for n, s in enumerate(starts.split(","), 1)))


asyncio.run(main())
