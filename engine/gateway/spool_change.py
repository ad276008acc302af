"""A change of the spool: what one transaction does to its tables and to what is known of them."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import lmdb
import msgspec

from engine.gateway.imprint import Imprint
from engine.gateway.spool_epoch import (
    KEY,
    U64,
    Epoch,
    EpochState,
    Reading,
    lost_range,
    record_cost,
)
from engine.gateway.spool_wal import Acked, Appended, Entry
from engine.wire.frames import LossReason

SCHEMA: Final = 3
EPOCHS_OPEN_MAX: Final = 4  # that numbers may be given in: each leaves a watermark at the engine
KEYS_MAX: Final = 256  # of entries whose second sending is known
U32 = struct.Struct(">I")
KEPT = struct.Struct(">QI")  # key of `kept`


class SpoolState(msgspec.Struct, frozen=True, kw_only=True):
    """current: order of the epoch in use. turns: how often that changed. size: bytes of records,
    with RECORD_COST each. lost_count: numbers ever given up. run: of the write-ahead log, whose
    entries came after this; wal: its imprint before the first of them."""

    schema: int = SCHEMA
    gateway: str
    imprint: Imprint
    wal: Imprint
    run: bytes = b""
    current: int = 0
    turns: int = 0
    size: int = 0
    lost_count: int = 0


class Tables(NamedTuple):
    """Handles of LMDB; the keys and values are those of engine.gateway.spool_lmdb."""

    meta: Any
    epochs: Any
    records: Any
    lost: Any
    kept: Any
    keys: Any


class Change:
    """state, epochs, states: as they will be; nobody sees it before the commit.

    size_max: bytes of records kept. reading: for an epoch that it makes.
    """

    def __init__(
        self,
        txn: lmdb.Transaction,
        tables: Tables,
        state: SpoolState,
        epochs: dict[int, Epoch],
        size_max: int,
        reading: Reading,
    ) -> None:
        self.txn = txn
        self.state = state
        self.epochs = dict(epochs)
        self.states = {order: epoch.state for order, epoch in epochs.items()}
        self._tables = tables
        self._size_max = size_max
        self._reading = reading

    @property
    def current(self) -> Epoch:
        return self.epochs[self.state.current]

    def of(self, epoch: Epoch) -> EpochState:
        return self.states[epoch.order]

    def set(self, **fields: object) -> None:
        self.state = msgspec.structs.replace(self.state, **fields)

    def set_epoch(self, epoch: Epoch, **fields: object) -> None:
        self.states[epoch.order] = msgspec.structs.replace(self.of(epoch), **fields)

    # ---- records and receipts -------------------------------------------------------------------

    def put_entries(self, entries: Iterable[Entry]) -> None:
        """What stands in the log; the states have it already."""
        for entry in entries:
            if isinstance(entry, Acked):
                self.put_receipt(entry)
            else:
                for seq, value in enumerate(entry.values, entry.first):
                    self._put_record(entry.order, seq, value)
                self._remember(entry.keys)

    def append(self, entry: Appended) -> None:
        """What does not stand in the log. Where there is no room the oldest records give way."""
        epoch = self.epochs[entry.order]
        for seq, value in enumerate(entry.values, entry.first):
            self._put_record(entry.order, seq, value)
            self.set_epoch(epoch, next=seq + 1)
            self.set(size=self.state.size + record_cost(value))
            if self.state.size > self._size_max:
                self._give_way()
        self._remember(entry.keys)

    def put_receipt(self, entry: Acked) -> None:
        """When it came, and that what was lost before it is told."""
        mark = KEPT.pack(entry.at_s, entry.order)
        self.txn.put(mark, U64.pack(entry.seq), db=self._tables.kept)
        with self.txn.cursor(db=self._tables.lost) as lost:
            there = lost.set_range(KEY.pack(entry.order, 0))
            while there and KEY.unpack(lost.key())[0] == entry.order:
                if U64.unpack_from(lost.value())[0] > entry.seq:
                    break
                lost.delete()
                there = bool(lost.key())

    def drop(self, epoch: Epoch, seq: int, reason: LossReason) -> None:
        value = self.txn.pop(KEY.pack(epoch.order, seq), db=self._tables.records)
        if value is not None:
            self.set(size=self.state.size - record_cost(value))
            self.lose(epoch, seq, seq, reason, 1)

    def lose(self, epoch: Epoch, first: int, last: int, reason: LossReason, count: int) -> None:
        """Records a lost range, joined with the one before it when they touch. count: of its
        numbers, those that are lost only now."""
        with self.txn.cursor(db=self._tables.lost) as lost:
            there = lost.set_range(KEY.pack(epoch.order, first))
            if lost.prev() if there else lost.last():
                order, start, before, why = lost_range(lost)
                if (order, before + 1, why) == (epoch.order, first, reason):
                    first = start
        value = U64.pack(last) + reason.encode()
        self.txn.put(KEY.pack(epoch.order, first), value, db=self._tables.lost)
        self.set(lost_count=self.state.lost_count + count)

    def forget(self, until_s: float, count: int) -> None:
        """Deletes what was acknowledged until then, at most `count` records."""
        with self.txn.cursor(db=self._tables.kept) as kept:
            kept.first()
            while count > 0 and kept.key():
                at_s, order = KEPT.unpack(kept.key())
                if at_s > until_s:
                    break
                if order in self.epochs:
                    epoch = self.epochs[order]
                    last = min(U64.unpack(kept.value())[0], self.of(epoch).acked)
                    count -= self._delete(epoch, last, count=count)[2]
                if count > 0:
                    kept.delete()
        if count > 0:
            self.end_epochs()

    # ---- epochs ---------------------------------------------------------------------------------

    def turn(self) -> None:
        """Chooses another current epoch, or makes one; none when too many are open."""
        turns = self.state.turns + 1
        is_open = {o: not s.is_closed for o, s in self.states.items()}
        drained = [
            order
            for order, state in sorted(self.states.items())
            if is_open[order] and order != self.state.current and state.acked + 1 == state.next
        ]
        if drained:
            self.set_epoch(self.epochs[drained[0]], turn=turns)
        elif sum(is_open.values()) < EPOCHS_OPEN_MAX:
            state = EpochState(epoch=_new_epoch(), turn=turns)
            self.epochs[turns] = Epoch(turns, state, self._reading)
            self.states[turns] = state
        else:
            return
        self.set(current=drained[0] if drained else turns, turns=turns)

    def end_epochs(self) -> None:
        """Forgets closed epochs of which nothing is here any more."""
        with self.txn.cursor(db=self._tables.records) as records:
            for epoch in list(self.epochs.values()):
                state = self.of(epoch)
                if not state.is_closed or state.acked + 1 < state.next:
                    continue
                there = records.set_range(KEY.pack(epoch.order, 0))
                if not there or KEY.unpack(records.key())[0] != epoch.order:
                    self.txn.delete(U32.pack(epoch.order), db=self._tables.epochs)
                    del self.epochs[epoch.order], self.states[epoch.order]

    def put_states(self, wal: Imprint, run: bytes, written: dict[int, EpochState]) -> None:
        """The last of it. run: of the log from now on. written: what the table of epochs holds."""
        self.set(imprint=self.state.imprint.renewed(), wal=wal, run=run)
        encode = msgspec.msgpack.encode
        self.txn.put(b"state", encode(self.state), db=self._tables.meta)
        for order, state in self.states.items():
            if written.get(order) is not state:
                self.txn.put(U32.pack(order), encode(state), db=self._tables.epochs)

    # ---- inside ---------------------------------------------------------------------------------

    def _put_record(self, order: int, seq: int, value: bytes) -> None:
        is_last = order == max(self.epochs)  # its keys are: no half-filled pages
        key = KEY.pack(order, seq)
        self.txn.put(key, value, db=self._tables.records, append=is_last)

    def _remember(self, keys: list[bytes]) -> None:
        with self.txn.cursor(db=self._tables.keys) as table:
            for key in keys:
                last = U64.unpack(table.key())[0] if table.last() else 0
                table.put(U64.pack(last + 1), key, append=True)
            while self.txn.stat(self._tables.keys)["entries"] > KEYS_MAX and table.first():
                table.delete()

    def _give_way(self) -> None:
        """Deletes until all fits: acknowledged records, then the oldest of the others."""
        epochs = sorted(self.epochs.values(), key=lambda epoch: self.of(epoch).turn)
        for epoch in epochs:
            self._delete(epoch, self.of(epoch).acked, size=self._size_max)
        for epoch in epochs:
            first, last, count = self._delete(epoch, None, size=self._size_max)
            if count:
                self.lose(epoch, first, last, "overflow", count)

    def _delete(
        self, epoch: Epoch, until: int | None, *, count: int = 1 << 62, size: int = -1
    ) -> tuple[int, int, int]:
        """Deletes the oldest records of an epoch, up to number `until`, at most `count`, and as
        long as the spool has more than `size` bytes; the first number, the last, and how many."""
        first = last = deleted = 0
        left = self.state.size
        with self.txn.cursor(db=self._tables.records) as records:
            records.set_range(KEY.pack(epoch.order, 0))
            while deleted < count and left > size and records.key():
                order, seq = KEY.unpack(records.key())
                if order != epoch.order or (until is not None and seq > until):
                    break
                first, last = first or seq, seq
                left -= record_cost(records.value())
                records.delete()
                deleted += 1
        self.set(size=left)
        return first, last, deleted


def _new_epoch() -> int:
    """Random, so that a spool that was made anew cannot continue the numbers of another."""
    return secrets.randbits(64) or 1
