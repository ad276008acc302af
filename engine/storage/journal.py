"""The journal seam: batches in, receipts out, groups back in one order; and the bytes of a group.

A group is what one commit makes durable of one day: its runs (which sequence numbers of which
gateway it consumes), its tallies, its rows sealed under the day's key, its details sealed to the
desk. Watermarks are derived from the runs in the log and cannot disagree with it. Forgetting a day
leaves header, runs and tallies, and lets a group go altogether when nothing before it lives:
watermarks and the chain survive, the people do not.

Rules every Journal keeps (tests/contract/test_journal_contract.py):
1. A returned receipt survives kill -9 and power loss. 2. Sequences only grow, gaps are allowed.
3. What was stored before is reported as duplicate and not stored again, however late it comes.
4. Each receipt stands alone. 5. Two readers see the same order. 6. `expire` removes for good and
may be repeated. 7. Failures are StorageFull, StorageUnavailable, JournalCorrupt. 8. `append` may
wait, and never grows memory without limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec

from engine.clock import Clock, day_to_ms, ms_to_day
from engine.errors import KeyDestroyed, KeyMissing, NotFound, StorageUnavailable
from engine.identity import keys
from engine.scans.rows import ROW_SIZE
from engine.storage.group import (
    GROUP_LIMIT_BYTES,
    RUN,
    TALLY,
    Draft,
    Group,
    RawGroup,
    SealedDetails,
    bytes_to_group,
    bytes_to_raw,
    expire_bytes,
    genesis,
    pack_run,
    raw_to_details,
    seal_group,
    walk_details,
)
from native.rows import longest_details

__all__ = [  # the seam's whole vocabulary, with the values of engine.storage.group
    "RUN",
    "TALLY",
    "Amend",
    "Counters",
    "Draft",
    "Group",
    "Journal",
    "Mark",
    "Marks",
    "MemoryJournal",
    "Packer",
    "Part",
    "Receipt",
    "RecordBatch",
    "Run",
    "SealedDetails",
    "check_amended",
    "check_batch",
    "check_overlap",
    "is_day_over",
]

DETAILS_LIMIT_BYTES = 64 << 10  # details of one row
TALLIES_LIMIT_BYTES = 256 << 10  # tallies of one batch
PIECE_LIMIT_BYTES = GROUP_LIMIT_BYTES - TALLIES_LIMIT_BYTES - RUN.itemsize
MAX_U64 = (1 << 64) - 1

Mark = tuple[int, int, int]  # (gateway, epoch, class): whose watermark
Amend = Callable[[RawGroup], bytes | None]  # a group's new bytes, None to leave it as it is


class Run(msgspec.Struct, frozen=True):
    """Sequence numbers first..last of one gateway, epoch and class, all consumed."""

    gateway: int
    epoch: int
    cls: int
    first: int
    last: int


class Part(msgspec.Struct, frozen=True):
    """Rows of one civil day with their details.

    details: for each row u32le size and that many bytes, or b"" when no row has any.
    """

    day: int
    rows: bytes
    details: bytes = b""


class RecordBatch(msgspec.Struct, frozen=True):
    """One run and everything it brought; stored as a whole or not at all."""

    run: Run
    parts: list[Part]
    tallies: bytes = b""

    def size(self) -> int:
        """Bytes it keeps in memory, roughly."""
        return 64 + len(self.tallies) + sum(len(p.rows) + len(p.details) + 32 for p in self.parts)


class Receipt(msgspec.Struct, frozen=True):
    """The run is durable, in groups up to `lsn`.

    is_duplicate: it had been stored before and nothing was stored now.
    """

    run: Run
    lsn: int
    is_duplicate: bool


@dataclass(slots=True)
class Counters:
    """Plain integers, collected at scrape time."""

    commits: int = 0
    groups: int = 0
    rows: int = 0
    duplicates: int = 0
    bytes: int = 0  # group bytes written
    commit_ns_total: int = 0
    last_commit_ns: int = 0
    failures: int = 0  # commits that failed
    rows_forgotten: int = 0  # came after their day was forgotten: consumed, not stored
    groups_expired: int = 0


class Journal(Protocol):
    """The scan log. `append` and `read` are called on an event loop, the rest from any thread."""

    counters: Counters

    async def append(self, batch: RecordBatch) -> Receipt:
        """Store one run; durable when it returns.

        Raises ValueError when the batch is malformed or its run overlaps the watermark (first <=
        watermark < last): a fault of the caller. Raises StorageFull or StorageUnavailable when
        nothing was stored; the sender then starts again from the watermark. After such a failure,
        later runs of the same durable sequence are refused until the failed one came again, so
        that a watermark never passes over what was lost. Cancelling does not take a batch back.
        """

    def read(self, after: int) -> AsyncIterator[Group]:
        """Groups with lsn > after in order, then waits for more; ends when the journal closes.

        Groups of forgotten days may be gone from the front of the log, also while it is read: then
        the first one that is there comes next, and nothing of a living day is passed over.
        """

    def read_details(self, lsn: int) -> SealedDetails:
        """Sealed details of one group. Raises NotFound where it is gone or never was, KeyDestroyed
        for a forgotten day."""

    def read_days(self, days: Collection[int], last: int) -> Iterator[Group]:
        """Groups with rows of these days that are not forgotten, up to an LSN, in order.

        For who reads beside nobody that appends, before the doors open; any thread.
        """

    async def settle(self) -> None:
        """Returns when everything appended before is durable or was refused."""

    async def expire(self, before_ms: int, held: Collection[int] = ()) -> int:
        """Forget every day that ended at or before the instant; the number of groups emptied.

        held: days that are kept all the same; a later call forgets them.
        """

    async def amend(self, lsns: Iterable[int], change: Amend) -> int:
        """Put in place of groups what `change` makes of them; how many became others.

        Durable when it returns; may be repeated. Runs, counts and the link of a group stay as they
        are, or ValueError is raised. `change` runs in a thread of the journal, and what it raises
        is raised here; groups before that one are changed then.
        """

    def watermarks(self) -> dict[Mark, int]:
        """Highest durable sequence number per (gateway, epoch, class): a copy of all."""

    def watermark(self, mark: Mark) -> int:
        """That of one; 0 where nothing of it is durable."""

    def epochs(self) -> dict[int, int]:
        """How many epochs there are of each gateway."""

    def first_lsn(self) -> int:
        """LSN of the oldest group that is there; 1 in an empty journal."""

    def last_lsn(self) -> int:
        """LSN of the last durable group, 0 in an empty journal; that one is always there."""

    async def close(self) -> None:
        """Finish what was accepted, end the readers. May be repeated."""


# ---- batches to drafts --------------------------------------------------------------------------


def check_batch(batch: RecordBatch) -> None:
    """Raises ValueError for a batch that no journal takes.

    Details are walked through: one wrong size would give the names of all later rows of the group
    to the wrong people.
    """
    run = batch.run
    if not (0 < run.first <= run.last <= MAX_U64 and 0 <= run.cls <= 255):
        raise ValueError("a run needs 1 <= first <= last and a class")
    if not (0 <= run.gateway < 1 << 32 and 0 <= run.epoch <= MAX_U64):
        raise ValueError("gateway or epoch of a run is out of range")
    if len(batch.tallies) % TALLY.itemsize or len(batch.tallies) > TALLIES_LIMIT_BYTES:
        raise ValueError("tallies are not whole, or too many")
    for part in batch.parts:
        if len(part.rows) % ROW_SIZE:
            raise ValueError("rows are not whole")
        if not -(1 << 31) <= part.day < 1 << 31:
            raise ValueError("day is out of range")
        if part.details:
            count = len(part.rows) // ROW_SIZE
            if longest_details(part.details, count) > DETAILS_LIMIT_BYTES:
                raise ValueError("details of a row are too large")


class Packer:
    """Merges batches by day into drafts, none above GROUP_LIMIT_BYTES.

    Rows of a forgotten day are dropped and counted: they would have been forgotten the moment
    they were written. Their run is consumed all the same, or its sender would repeat it for ever.
    """

    def __init__(self, ring: keys.KeyRing) -> None:
        self.rows_forgotten = 0
        self.drafts: list[Draft] = []
        self._ring = ring
        self._open: dict[int, Draft] = {}

    def add(self, batch: RecordBatch, arrival_ms: int) -> None:
        """Put the batch into drafts. Raises KeyMissing when a day's key cannot be had."""
        pieces = [
            (part.day, rows, details)
            for part in batch.parts
            if part.rows and not self._is_forgotten(part)
            for rows, details in _split_part(part, PIECE_LIMIT_BYTES)
        ]
        if not pieces:
            pieces = [(ms_to_day(arrival_ms), b"", b"")]
        tallies = batch.tallies
        for n, (day, rows, details) in enumerate(pieces):
            self._put(batch.run, n, Draft(day, arrival_ms), rows, details, tallies)
            tallies = b""

    def _is_forgotten(self, part: Part) -> bool:
        try:
            self._ring.log_key(part.day)
        except KeyDestroyed:
            self.rows_forgotten += len(part.rows) // ROW_SIZE
            return True
        return False

    def _put(
        self, run: Run, piece: int, fresh: Draft, rows: bytes, details: bytes, tallies: bytes
    ) -> None:
        """Put a piece into the open draft of its day, or into `fresh` when that is full."""
        count = len(rows) // ROW_SIZE
        size = RUN.itemsize + len(rows) + (len(details) or 4 * count) + len(tallies)
        draft = self._open.get(fresh.day)
        if draft is None or draft.size + size > GROUP_LIMIT_BYTES:
            draft = self._open[fresh.day] = fresh
            self.drafts.append(draft)
        draft.runs.append(
            pack_run(run.gateway, run.cls, piece, count, run.epoch, run.first, run.last)
        )
        draft.first_arrival_ms = min(draft.first_arrival_ms, fresh.first_arrival_ms)
        draft.rows.append(rows)
        draft.details.append(details or bytes(4 * count))
        draft.has_details |= details.count(0) != len(details)
        draft.tallies.append(tallies)
        draft.size += size


def _split_part(part: Part, limit_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Rows and details of a part in pieces that fit a group."""
    count = len(part.rows) // ROW_SIZE
    if len(part.rows) + max(len(part.details), 4 * count) <= limit_bytes:
        yield part.rows, part.details
        return
    sizes = [4] * count
    if part.details:
        sizes = [4 + len(entry) for entry in walk_details(part.details, count)]
    start = start_byte = end_byte = filled = 0
    for n, size in enumerate(sizes):
        if filled + ROW_SIZE + size > limit_bytes:
            yield part.rows[start * ROW_SIZE : n * ROW_SIZE], part.details[start_byte:end_byte]
            start, start_byte, filled = n, end_byte, 0
        filled += ROW_SIZE + size
        end_byte += size
    yield part.rows[start * ROW_SIZE :], part.details[start_byte:]


# ---- watermarks ---------------------------------------------------------------------------------


class Marks:
    """Watermarks as the log gives them: the last sequence number per mark, and the last group
    that holds anything of the mark.

    Within one commit groups follow their days, not the sequence: a lower number may stand in a
    later group.
    """

    def __init__(self) -> None:
        self._last: dict[Mark, tuple[int, int]] = {}
        self._epochs: dict[int, set[int]] = {}  # by gateway

    def find(self, run: Run) -> tuple[int, int]:
        """(watermark, lsn up to which everything below it stands); zeros for an unknown mark."""
        return self._last.get((run.gateway, run.epoch, run.cls), (0, 0))

    def set(self, mark: Mark, last: int, lsn: int) -> None:
        """The watermark never goes back. Called in the order of LSNs."""
        known = self._last.get(mark)
        if known is None:
            self._epochs.setdefault(mark[0], set()).add(mark[1])
        self._last[mark] = (max(last, known[0]) if known else last, lsn)

    def add_group(self, raw: RawGroup) -> None:
        for gateway, cls, _piece, _rows, epoch, _first, last in raw.iter_runs():
            self.set((gateway, epoch, cls), last, raw.lsn)

    def values(self) -> dict[Mark, int]:
        return {mark: last for mark, (last, _) in self._last.items()}

    def value(self, mark: Mark) -> int:
        return self._last.get(mark, (0, 0))[0]

    def epochs(self) -> dict[int, int]:
        return {gateway: len(epochs) for gateway, epochs in self._epochs.items()}


def check_overlap(run: Run, watermark: int) -> bool:
    """Whether the run was stored before. Raises ValueError when only part of it was."""
    if run.last <= watermark:
        return True
    if run.first <= watermark:
        raise ValueError(f"run {run.first}..{run.last} overlaps the watermark {watermark}")
    return False


def check_amended(raw: RawGroup, data: bytes) -> bytes:
    """`data`, if it may stand in place of the group. Raises ValueError."""
    if bytes_to_raw(data).plain_head != raw.plain_head:
        raise ValueError(f"group {raw.lsn} would be another one")
    return data


def is_day_over(day: int, before_ms: int) -> bool:
    return day_to_ms(day + 1) <= before_ms


# ---- the journal without a disk -----------------------------------------------------------------


class MemoryJournal:
    """The seam kept in a list: what the contract means, and a journal for tests of other parts.

    Group bytes, keys and the chain are the real ones; only durability is missing.
    generation_groups: as many groups make a generation, and go together; 0 for a single one.
    """

    def __init__(self, ring: keys.KeyRing, clock: Clock, *, generation_groups: int = 0) -> None:
        self.counters = Counters()
        self.pending_bytes = 0
        self._ring = ring
        self._clock = clock
        self._groups: list[bytes] = []
        self._gone = 0  # groups that were forgotten altogether; their LSNs are not used again
        self._generation_groups = generation_groups
        self._chain = genesis(bytes(16))
        self._marks = Marks()
        self._lost: dict[Mark, int] = {}
        self._is_closed = False
        self._more: set[asyncio.Event] = set()

    async def append(self, batch: RecordBatch) -> Receipt:
        check_batch(batch)
        if self._is_closed:
            raise StorageUnavailable("the journal is closed")
        run = batch.run
        watermark, lsn = self._marks.find(run)
        if check_overlap(run, watermark):
            self.counters.duplicates += 1
            return Receipt(run, lsn, True)
        mark = (run.gateway, run.epoch, run.cls)
        lost = self._lost.get(mark, MAX_U64)
        if run.first > lost and run.cls == 0:
            raise StorageUnavailable(f"sequence number {lost} was not stored and must come first")
        packer = Packer(self._ring)
        chain = self._chain
        fresh: list[bytes] = []
        rows = 0
        try:
            packer.add(batch, self._clock.now_ms())
            for draft in packer.drafts:
                lsn = self.last_lsn() + len(fresh) + 1
                data, group, chain = seal_group(draft, lsn, chain, self._ring)
                fresh.append(data)
                rows += len(group.rows)
        except KeyMissing as error:
            self.counters.failures += 1
            self._lost[mark] = min(run.first, lost)
            raise StorageUnavailable("a day's key cannot be had") from error
        self._lost.pop(mark, None)
        self._groups += fresh
        self._chain = chain
        self.counters.commits += 1
        self.counters.groups += len(fresh)
        self.counters.rows += rows
        self.counters.bytes += sum(map(len, fresh))
        self.counters.rows_forgotten += packer.rows_forgotten
        self._marks.set(mark, run.last, self.last_lsn())
        self._wake()
        return Receipt(run, self.last_lsn(), False)

    async def read(self, after: int) -> AsyncIterator[Group]:
        more = asyncio.Event()
        self._more.add(more)
        try:
            while True:
                more.clear()
                while after < self.last_lsn():
                    after = max(after, self._gone) + 1
                    yield bytes_to_group(self._groups[after - self._gone - 1], self._ring)
                if self._is_closed:
                    return
                await more.wait()
        finally:
            self._more.discard(more)

    def read_details(self, lsn: int) -> SealedDetails:
        if not self.first_lsn() <= lsn <= self.last_lsn():
            raise NotFound(f"there is no group {lsn}")
        return raw_to_details(bytes_to_raw(self._groups[lsn - self._gone - 1]), self._ring)

    async def settle(self) -> None:
        return

    async def expire(self, before_ms: int, held: Collection[int] = ()) -> int:
        for day in self._ring.days():
            if is_day_over(day, before_ms) and day not in held:
                self._ring.destroy_day(day)
        count = 0
        for n, data in enumerate(self._groups):
            raw = bytes_to_raw(data)
            is_due = is_day_over(raw.day, before_ms) and raw.day not in held
            if raw.row_count and not raw.is_expired and is_due:
                self._groups[n] = expire_bytes(raw)
                count += 1
        self.counters.groups_expired += count
        size = self._generation_groups
        while size and len(self._groups) > size:
            days = {bytes_to_raw(data).day for data in self._groups[:size]}
            if not all(is_day_over(day, before_ms) and day not in held for day in days):
                break
            del self._groups[:size]
            self._gone += size
        return count

    def read_days(self, days: Collection[int], last: int) -> Iterator[Group]:
        for data in self._groups:
            raw = bytes_to_raw(data)
            if raw.day in days and raw.row_count and not raw.is_expired and raw.lsn <= last:
                yield bytes_to_group(data, self._ring)

    async def amend(self, lsns: Iterable[int], change: Amend) -> int:
        count = 0
        for lsn in lsns:
            at = lsn - self._gone - 1
            if not 0 <= at < len(self._groups):
                raise NotFound(f"there is no group {lsn}")
            raw = bytes_to_raw(self._groups[at])
            data = change(raw)
            if data is not None:
                self._groups[at] = check_amended(raw, data)
                count += 1
        return count

    def watermarks(self) -> dict[Mark, int]:
        return self._marks.values()

    def watermark(self, mark: Mark) -> int:
        return self._marks.value(mark)

    def epochs(self) -> dict[int, int]:
        return self._marks.epochs()

    def first_lsn(self) -> int:
        return self._gone + 1

    def last_lsn(self) -> int:
        return self._gone + len(self._groups)

    async def close(self) -> None:
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        for more in self._more:
            more.set()
