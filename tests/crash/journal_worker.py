"""A process that appends to a journal until it is killed; run by test_journal_crash.py.

    python journal_worker.py PATH KEYS STARTS STEP AT

STARTS: the first sequence number each gateway sends, comma separated. Prints `A gateway last` for
each receipt, after the receipt. STEP `before` or `after`: kill -9 itself at the AT-th commit,
just before it or just after it, when nothing has been acknowledged yet; `-` for never. With a
step of engine/faults.py, where the environment says when, a day has few scans and is forgotten as
soon as a gateway has come to the next one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from engine.clock import ManualClock, SystemClock, day_to_ms
from engine.identity.keys import FileKeyRing
from engine.storage.journal_lmdb import LmdbJournal
from engine.storage.store_lmdb import Store
from tests.reference.batches import DAY, make_batch

SEQS_PER_RUN = 3
SEQS_PER_DAY = 60  # where days are forgotten


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


def day_of(seq: int, is_forgetting: bool) -> int:
    return DAY + ((seq - 1) // SEQS_PER_DAY if is_forgetting else seq // 200)


async def send(journal: LmdbJournal, gateway: int, seq: int, is_forgetting: bool) -> None:
    while True:
        last = seq + SEQS_PER_RUN - 1
        # Runs of the same numbers are the same batch after each restart, as a spool's are.
        day = day_of(seq, is_forgetting)
        await journal.append(make_batch(gateway, seq, last, day=day, details=b"x" * (seq % 50)))
        os.write(1, f"A {gateway} {last}\n".encode())
        seq = last + 1
        if is_forgetting and day_of(seq, True) > day:
            await journal.expire(day_to_ms(day + 1))


async def main() -> None:
    path, ring_path, starts, step, at = sys.argv[1:]
    is_forgetting = "." in step
    if step != "-" and not is_forgetting:
        die_at_commit(step, int(at))
    ring = FileKeyRing(ring_path, create=True)
    clock = ManualClock() if is_forgetting else SystemClock()
    journal = LmdbJournal(path, ring, clock, floor_bytes=0, generation_bytes=48 << 10)
    firsts = enumerate(map(int, starts.split(",")), 1)
    await asyncio.gather(*(send(journal, n, first, is_forgetting) for n, first in firsts))


if __name__ == "__main__":
    asyncio.run(main())
