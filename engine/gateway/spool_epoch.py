"""An epoch of the spool: its numbers, what they stand for, and how they lie in LMDB.

engine.gateway.spool_lmdb writes; an Epoch is what a link reads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

import lmdb
import msgspec

from engine.wire.frames import LossReason

RECORD_COST: Final = 64  # key, head and B-tree entry of a record, bytes

U64 = struct.Struct(">Q")
KEY = struct.Struct(">IQ")  # order of the epoch, sequence number
HEAD = struct.Struct(">BBH")  # type, flags, channel: before the sealed body

Reading = Callable[[], AbstractContextManager[tuple[lmdb.Cursor, lmdb.Cursor]]]


class Draft(msgspec.Struct, frozen=True):
    """A message without a number: its frame type, flags and channel, and the plain body.

    key: ENTRY_KEY_SIZE bytes that are remembered with it, so that it is not taken twice; b"" none.
    """

    type: int
    flags: int
    channel: int
    body: bytes
    key: bytes = b""


class SpoolRecord(msgspec.Struct, frozen=True):
    """A message as it is sent: body sealed, FLAG_SEALED set."""

    seq: int
    type: int
    flags: int
    channel: int
    body: bytes


class Hole(msgspec.Struct, frozen=True):
    """Numbers first..last are not here and will never be sent."""

    first: int
    last: int
    reason: LossReason


class EpochState(msgspec.Struct, frozen=True, kw_only=True):
    """next: first number never used. acked: durable at the engine. turn: when it was last the
    current one. is_closed: no number is given in it any more."""

    epoch: int
    next: int = 1
    acked: int = 0
    turn: int = 0
    is_closed: bool = False


class Epoch:
    """The numbers of one epoch: a view of its spool, good as long as that is open.

    order: of the table's keys. reading: cursors over records and lost ranges. Raises
    StorageUnavailable when the disk refuses.
    """

    def __init__(self, order: int, state: EpochState, reading: Reading) -> None:
        self.order = order
        self.first_own = state.next  # from here on numbers were given while this spool was open
        self.state = state
        self.tail: list[bytes] = []  # its last records, which are in the log and not in the table
        self._reading = reading

    @property
    def number(self) -> int:
        """The random number that HELLO names."""
        return self.state.epoch

    @property
    def next_seq(self) -> int:
        """First number never used."""
        return self.state.next

    @property
    def acked(self) -> int:
        return self.state.acked

    @property
    def waiting(self) -> int:
        """Numbers given and not yet durable at the engine."""
        return self.state.next - 1 - self.state.acked

    @property
    def is_closed(self) -> bool:
        return self.state.is_closed

    @property
    def turn(self) -> int:
        """Of two epochs, what waits in the one with the lower turn is older."""
        return self.state.turn

    def oldest(self) -> int:
        """Oldest number that can still be sent; next_seq when there is none."""
        with self._reading() as (records, _):
            return self._at(records, 1) or self.state.next

    def read(self, after: int, *, count: int = 64, size: int = 1 << 20) -> list[SpoolRecord]:
        """Records from after + 1 on, in order, up to the first hole or the limits.

        The first one comes even when it is larger than `size`.
        """
        found: list[SpoolRecord] = []
        with self._reading() as (records, _):
            there = records.set_range(KEY.pack(self.order, after + 1))
            while there and len(found) < count and size > 0:
                order, seq = KEY.unpack(records.key())
                if order != self.order or seq != after + 1 + len(found):
                    break
                value = bytes(records.value())
                found.append(_record(seq, value))
                size -= len(value)
                there = records.next()
            seq = after + 1 + len(found)
            at = seq - self._tail_seq
            while 0 <= at < len(self.tail) and len(found) < count and size > 0:
                found.append(_record(seq, self.tail[at]))
                size -= len(self.tail[at])
                seq, at = seq + 1, at + 1
        return found

    def hole_after(self, seq: int) -> Hole | None:
        """The hole that begins at seq + 1; None when that number is here or was never used.

        A range that the spool did not give up itself was acknowledged and forgotten: the engine
        has gone back behind its own receipt by more than is kept ("forgotten").
        """
        first = seq + 1
        if first >= self.state.next:
            return None
        with self._reading() as (records, lost):
            end = self._at(records, first) or self.state.next
            if end == first:
                return None
            for start, last, reason in lost_ranges(lost, self.order):
                if start <= first <= last:
                    return Hole(first, min(last, end - 1), reason)
                if start > first:
                    return Hole(first, min(start, end) - 1, "forgotten")
        return Hole(first, end - 1, "forgotten")

    def _at(self, records: lmdb.Cursor, seq: int) -> int:
        """The first number from seq on that is here, 0 for none."""
        if records.set_range(KEY.pack(self.order, seq)):
            order, found = KEY.unpack(records.key())
            if order == self.order:
                return int(found)
        return max(seq, self._tail_seq) if self.tail and seq < self.state.next else 0

    @property
    def _tail_seq(self) -> int:
        """Number of the first record of the tail."""
        return self.state.next - len(self.tail)


def _record(seq: int, value: bytes) -> SpoolRecord:
    kind, flags, channel = HEAD.unpack_from(value)
    return SpoolRecord(seq, kind, flags, channel, value[HEAD.size :])


def record_cost(value: bytes | memoryview) -> int:
    return len(value) - HEAD.size + RECORD_COST


def lost_range(lost: lmdb.Cursor) -> tuple[int, int, int, LossReason]:
    """Order, first, last and reason of the range at the cursor."""
    value = bytes(lost.value())
    reason = msgspec.convert(value[U64.size :].decode(), LossReason)
    return *KEY.unpack(lost.key()), U64.unpack_from(value)[0], reason


def lost_ranges(lost: lmdb.Cursor, order: int) -> Iterator[tuple[int, int, LossReason]]:
    there = lost.set_range(KEY.pack(order, 0))
    while there:
        found, first, last, reason = lost_range(lost)
        if found != order:
            return
        yield first, last, reason
        there = lost.next()
