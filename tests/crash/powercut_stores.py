"""The stores under power cuts: what a program does with each, and what must then hold of any cut.

    python powercut_stores.py journal|control|spool|index FOLDER COUNT MODE

works while tests/crash/powercut.c records it. MODE: `safe`, or `nosync`, `nometasync`, `nofsync`,
`nofdatasync` and `ignorant` for stores and keys that are written so that a cut must do harm. It
says a line when a promise was made: `A gateway last` a run is durable, `E day` a day is forgotten,
`C lsn number` a control record is durable, `R number` it was refused and comes again, `S seq` a
message is in the spool, `K seq` the spool knows the engine has it, `W lsn` the index has days up to
a group in files, `N` it could not write them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from engine.clock import ManualClock, day_to_ms
from engine.colocation.index import CoLocationIndex
from engine.colocation.segmented import SegmentedIndex
from engine.colocation.segments_lmdb import LmdbSegments, check_folder
from engine.errors import EngineError, KeyMissing, StorageError, StorageUnavailable
from engine.gateway import spool_wal
from engine.gateway.spool_epoch import Draft
from engine.gateway.spool_lmdb import Spool
from engine.identity.keys import DESK_DIR, DeskKeys, FileKeyRing, private_to_public
from engine.identity.seals import open_sealed
from engine.keeping.verify import verify_store
from engine.storage import generation, generations, zero_fill
from engine.storage.control_lmdb import ControlLog
from engine.storage.journal import RecordBatch
from engine.storage.journal_lmdb import LmdbJournal
from engine.storage.store_lmdb import Store
from engine.wire.frames import FrameType, seal_aad
from tests.reference.batches import DAY, count_identities, make_batch, read_groups
from tests.unit import test_segmented as segmented
from tests.unit.test_index import Group

MODES = {"safe": {}, "nosync": {"sync": False}, "nometasync": {"metasync": False}}
GATEWAYS = 3
SEQS = 2  # sequence numbers of one run
DAYS = 3
FORGOTTEN = DAY - DAYS + 1  # the oldest day is forgotten while scans come
EPOCH = 7
GENERATION_BYTES = 48 << 10
T = TypeVar("T")


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def said(lines: list[str], kind: str) -> list[list[int]]:
    """Numbers of the lines of one kind."""
    found = [line.split() for line in lines]
    return [list(map(int, words[1:])) for words in found if words[0] == kind]


def body_of(number: int) -> bytes:
    """Bytes that say which number they belong to, some of several pages."""
    return random.Random(number).randbytes(40 + 1500 * (number % 7)) + number.to_bytes(8, "big")


# ---- the scan log, with its keys ----------------------------------------------------------------


def day_of(seq: int) -> int:
    """The first ones are of the day that is forgotten, so that files of the log go as a whole."""
    return FORGOTTEN if seq <= 4 * SEQS else DAY - seq // SEQS % DAYS


def batch_of(gateway: int, seq: int) -> RecordBatch:
    """The run that begins with seq: the same for ever, as a spool's messages are."""
    details = body_of(seq)[: seq % 50 * 20]
    return make_batch(gateway, seq, seq + SEQS - 1, day=day_of(seq), details=details)


async def patiently(step: Callable[[], Awaitable[Any]]) -> None:
    """As a gateway does: what was refused comes again."""
    while True:
        try:
            await step()
        except StorageError:
            await asyncio.sleep(0.001)
        else:
            return


def opened(make: Callable[[], T]) -> T:
    """A store, as a supervisor opens it that starts its program again."""
    while True:
        try:
            return make()
        except (StorageError, KeyMissing):
            pass


def fill_early() -> None:
    """Zeros ahead of a store of a few pages, in small steps: a cut falls among them."""
    zero_fill.FROM_BYTES = 0
    zero_fill.MIN_STEP_BYTES = zero_fill.MAX_STEP_BYTES = 48 << 10
    zero_fill.CHUNK_BYTES = 6_000


def open_journal(folder: Path, ring: FileKeyRing) -> LmdbJournal:
    """In small files: another is begun every few commits."""
    return LmdbJournal(
        folder / "journal", ring, ManualClock(), floor_bytes=0, generation_bytes=GENERATION_BYTES
    )


def work_journal(folder: Path, count: int) -> None:
    fill_early()
    generations.PAUSE_S = 0.0

    async def main() -> None:
        ring = opened(lambda: FileKeyRing(folder / "keys", create=True))
        journal = opened(lambda: open_journal(folder, ring))

        async def send(gateway: int, first: int, last: int) -> None:
            for seq in range(first, last, SEQS):
                await patiently(lambda seq=seq: journal.append(batch_of(gateway, seq)))
                say("A", gateway, seq + SEQS - 1)

        end = 1 + count * SEQS
        await asyncio.gather(*(send(gateway, 1, end) for gateway in range(1, GATEWAYS + 1)))
        await patiently(lambda: journal.expire(day_to_ms(FORGOTTEN + 1)))
        say("E", FORGOTTEN)
        await asyncio.gather(*(send(gateway, end, end + 8) for gateway in (1, 2)))
        await journal.close()

    asyncio.run(main())


def check_journal(folder: Path, lines: list[str]) -> str:
    acked = dict.fromkeys(range(1, GATEWAYS + 1), 0)
    acked.update((gateway, last) for gateway, last in said(lines, "A"))
    is_new = not generation.is_there(folder / "journal")
    try:
        ring = FileKeyRing(folder / "keys", create=is_new)
        if not is_new:
            desk = DeskKeys(folder / "keys" / DESK_DIR)
            if problems := verify_store(folder, ring, desk).problems:
                return f"verify: {problems[0]}"
        return asyncio.run(_check_open_journal(folder, ring, acked, bool(said(lines, "E"))))
    except EngineError as error:
        # Before anything was promised a clear word is enough.
        return f"{error.code}: {error}" if lines else ""


async def _check_open_journal(
    folder: Path, ring: FileKeyRing, acked: dict[int, int], is_forgotten: bool
) -> str:
    journal = open_journal(folder, ring)
    groups = await read_groups(journal)
    destroyed = ring.destroyed_days()
    key = folder / "keys" / "days" / f"{FORGOTTEN}.log.key"
    if is_forgotten and (FORGOTTEN not in destroyed or key.exists()):
        return "a forgotten day has come back"
    marks = journal.watermarks()
    expected: Counter[tuple[int, int, int]] = Counter()
    for gateway, last in acked.items():
        mark = marks.get((gateway, EPOCH, 0), 0)
        if mark < last:
            return f"gateway {gateway}: {last} has a receipt, the log ends at {mark}"
        if mark % SEQS:
            return f"gateway {gateway}: half a run, up to {mark}"
        for seq in range(1, mark + 1):
            if day_of(seq - (seq - 1) % SEQS) not in destroyed:
                expected.update((gateway, seq, n) for n in range(2))
    found = count_identities(groups)
    if found != expected:
        return f"{(expected - found).total()} rows missing, {(found - expected).total()} too many"
    for gateway in acked:  # the gateway sends from its last receipt on
        mark = marks.get((gateway, EPOCH, 0), 0)
        if mark and not (await journal.append(batch_of(gateway, mark - SEQS + 1))).is_duplicate:
            return "what is there was taken again"
        if (await journal.append(batch_of(gateway, mark + 1))).is_duplicate:
            return "what is not there was dropped"
    await journal.close()
    return ""


# ---- the control log ----------------------------------------------------------------------------


def work_control(folder: Path, count: int) -> None:
    log = opened(lambda: ControlLog(folder / "control", floor_bytes=0))
    for number in range(1, count + 1):
        while True:
            try:
                lsn = log.append_sync("audit", "an", body_of(number), number)
                break
            except StorageUnavailable:
                say("R", number)
        say("C", lsn, number)
    log.close()


def check_control(folder: Path, lines: list[str]) -> str:
    """What was refused may stand there all the same, once for each time; nothing else twice."""
    try:
        log = ControlLog(folder / "control", floor_bytes=0)  # checks the whole chain
    except EngineError as error:
        return f"{error.code}: {error}" if lines else ""
    receipts = dict(map(tuple, said(lines, "C")))
    refused = Counter(number for (number,) in said(lines, "R"))
    last, most = log.last_lsn(), max(receipts, default=0)
    if last < most:
        return f"record {most} has a receipt, the log ends at {last}"
    before, stands = 0, Counter[int]()
    for lsn, record in enumerate(log.read(), 1):
        number = int.from_bytes(record.body[-8:], "big")
        if record.lsn != lsn or record.body != body_of(number):
            return f"record {lsn} is another"
        if receipts.get(lsn, number) != number or number - before not in (0, 1):
            return f"record {lsn} is number {number}, behind {before}"
        stands[number] += 1
        before = number
    # The last may have been under way, and refused with the next word.
    if any(stands[number] > 1 + refused[number] for number in stands):
        return "a record stands twice, and was refused less often"
    if log.append_sync("audit", "an", body_of(last + 1), 0) != last + 1:
        return "the next record has another number"
    log.close()
    return ""


# ---- the gateway's spool ------------------------------------------------------------------------

GATEWAY = "vl-1a-1"
PRIVATE = bytes(range(1, 33))


def open_spool(folder: Path) -> Spool:
    public = private_to_public(PRIVATE)
    return Spool(folder / "spool", gateway=GATEWAY, ingest_public=public, clock=ManualClock())


def draft_of(number: int) -> Draft:
    return Draft(FrameType.SCANS, 0, 1, body_of(number))


def work_spool(folder: Path, count: int) -> None:
    spool_wal.SIZE = 48 << 10  # full after some messages
    rng = random.Random(1)
    spool = opened(lambda: open_spool(folder))
    number = 0
    while number < count:
        numbers = range(number + 1, number + 1 + rng.randrange(1, 4))
        epoch = spool.current.number
        while True:
            try:
                seqs = spool.append([draft_of(n) for n in numbers])
                break
            except StorageUnavailable:
                pass
        for number, seq in zip(numbers, seqs, strict=True):
            say("S", epoch, seq, number)
        if rng.random() < 0.4:
            epoch = rng.choice(spool.epochs)
            acked = rng.randint(epoch.acked, epoch.next_seq - 1)
            with contextlib.suppress(StorageUnavailable):
                spool.ack(epoch, acked)
                say("K", epoch.number, acked)
        if rng.random() < 0.2:
            with contextlib.suppress(StorageUnavailable):
                spool.turn()
    spool.close()


def check_spool(folder: Path, lines: list[str]) -> str:
    try:
        spool = open_spool(folder)
    except EngineError as error:
        return f"{error.code}: {error}" if lines else ""
    epochs = {epoch.number: epoch for epoch in spool.epochs}
    for number, acked in said(lines, "K"):
        if number in epochs and epochs[number].acked < acked:
            return f"the receipt for {acked} is forgotten"
    stands: Counter[int] = Counter()
    for epoch in epochs.values():
        after = epoch.acked
        while found := epoch.read(after):
            for record in found:
                aad = seal_aad(GATEWAY, epoch.number, record.seq)
                body = open_sealed(PRIVATE, record.body, aad)
                stands[int.from_bytes(body[-8:], "big")] += 1
                if body != body_of(int.from_bytes(body[-8:], "big")):
                    return f"message {record.seq} is another"
            after = found[-1].seq
        if after + 1 != epoch.next_seq:
            return f"messages from {after + 1} to {epoch.next_seq - 1} are missing"
    if stands and stands.most_common(1)[0][1] > 1:
        return "a message stands twice"
    acked = {number: epoch.acked for number, epoch in epochs.items()}
    for number, seq, content in said(lines, "S"):
        if number not in acked:
            if [number, seq] > max((k for k in said(lines, "K") if k[0] == number), default=[0, 0]):
                return f"the epoch of message {seq} is gone"
        elif seq > acked[number] and not stands[content]:
            return f"message {seq} is missing"
    seqs = spool.append([draft_of(10_000)])
    if [spool.current.number, seqs[0]] in [line[:2] for line in said(lines, "S")]:
        return f"number {seqs[0]} is given out twice"
    spool.close()
    return ""


# ---- days of the index ---------------------------------------------------------------------------

INDEX_SEED = 4
INDEX_FIRST = segmented.DAY  # of the days that its scans are of; it is forgotten


def scans_of(count: int) -> list[Group]:
    """Groups of a log; the same for ever."""
    return segmented.make_groups(random.Random(INDEX_SEED), 20 * count)


def forget(index: CoLocationIndex) -> None:
    index.expire(day_to_ms(INDEX_FIRST + 1))


def work_index(folder: Path, count: int) -> None:
    ring = opened(lambda: FileKeyRing(folder / "keys", create=True))
    store = opened(lambda: LmdbSegments(folder / "index", ring))
    index = SegmentedIndex(segmented.PLACES, segmented.RULES, store)
    groups = scans_of(count)
    say("G", count)
    for at, group in enumerate(groups):
        index.apply(group)
        if at % 3 == 2:
            write_patiently(index.write_down)
            say("W", index.covered_lsn)
        if at == len(groups) // 2:
            write_patiently(lambda: forget(index))
            write_patiently(lambda: ring.destroy_day(INDEX_FIRST))
            say("W", index.covered_lsn)
    store.close()


def write_patiently(step: Callable[[], None]) -> None:
    while True:
        try:
            return step()
        except (StorageError, KeyMissing):
            say("N")


def check_index(folder: Path, lines: list[str]) -> str:
    """Whatever the cut left, with the log it gives what an index in memory gives; what was written
    down need not be derived again, but where the disk failed before."""
    if not said(lines, "W"):
        return ""
    ring = FileKeyRing(folder / "keys")
    store = LmdbSegments(folder / "index", ring)
    index = SegmentedIndex(segmented.PLACES, segmented.RULES, store)
    index.load()
    covered = max((lsn for (lsn,) in said(lines, "W")), default=0)
    if index.applied_lsn < covered and "N" not in lines:
        return f"group {covered} has a receipt, files reach {index.applied_lsn}: {store.problem}"
    plain = CoLocationIndex(segmented.PLACES, segmented.RULES)
    for group in scans_of(said(lines, "G")[0][0]):
        index.apply(group)  # again, as far as files have it
        plain.apply(group)
    for one in (index, plain):
        forget(one)
    if segmented.answers(index) != segmented.answers(plain):
        return "answers are others"
    index.write_down()
    store.close()
    return "; ".join(check_folder(folder / "index"))


Work = Callable[[Path, int], None]
Check = Callable[[Path, list[str]], str]
STORES: dict[str, tuple[Work, Check]] = {
    "journal": (work_journal, check_journal),
    "control": (work_control, check_control),
    "spool": (work_spool, check_spool),
    "index": (work_index, check_index),
}


def ignorant(write: Callable[..., None]) -> Callable[..., None]:
    def pretend(store: Store, *words: Any, **options: Any) -> None:
        with contextlib.suppress(StorageUnavailable):
            write(store, *words, **options)
        store.is_proven = True

    return pretend


def main() -> None:
    what, folder, count, mode = sys.argv[1:]
    if mode == "nofsync":  # of keys and names; LMDB's own syncs stay
        os.fsync = lambda fd: None
    if mode == "nofdatasync":  # of the spool's log
        os.fdatasync = lambda fd: None
    if mode == "ignorant":  # a commit that failed is taken for one that did not
        Store.write = ignorant(Store.write)
    real, changes = lmdb.open, MODES.get(mode, {})
    lmdb.open = lambda *words, **options: real(*words, **{**options, **changes})
    STORES[what][0](Path(folder), int(count))


if __name__ == "__main__":
    main()
