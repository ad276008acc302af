"""The spool: what a gateway has captured and the engine has not yet made durable, on LMDB.

Rules 1, 6 and 7 of CKP/1: a message gets its number and is committed before it is sent, and what
was captured keeps its (gateway, epoch, seq) for ever. Bodies are sealed to the engine's ingest key
before they touch the disk, bound to that identity, so that a stolen box holds nothing readable and
a sealed body cannot be replayed under another number (engine.wire.frames.seal_aad).

A spool holds several epochs and numbers what comes in one of them, the current one. It continues
its epochs only while its file is surely the one it wrote last (the imprint); else all that it holds
keeps its identity, is sent, and what comes gets a new epoch. Acknowledged records stay for a while,
for an engine that comes back without them, and are the first to give way.

Files: `data.mdb` (LMDB, six tables), `owner.lock` (flock; one process holds a spool).

    meta     state -> MessagePack map, see _State
    epochs   order u32 -> MessagePack map, see engine.gateway.spool_epoch
    records  order u32, seq u64 -> type u8, flags u8, channel u16, sealed body
    lost     order u32, first u64 -> last u64, reason
    kept     acknowledged at, s u64, order u32 -> seq u64
    keys     count u64 -> key of an entry by hand, the newest KEYS_MAX
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from engine import faults
from engine.clock import Clock, SystemClock
from engine.errors import (
    SettingInvalid,
    StorageFull,
    StorageUnavailable,
    StoreLocked,
    StoreVersion,
)
from engine.gateway.imprint import Imprint, take_imprint
from engine.gateway.spool_epoch import (
    HEAD,
    KEY,
    RECORD_COST,
    U64,
    Draft,
    Epoch,
    EpochState,
    lost_range,
    record_cost,
)
from engine.identity.keys import seal
from engine.wire.frames import FLAG_SEALED, LossReason, seal_aad

SCHEMA: Final = 2
SIZE_MAX: Final = 512 * 1024 * 1024  # bytes of sealed bodies: weeks of a three-lane post
KEEP_S: Final = 24 * 3600  # acknowledged records stay, for a disaster at the centre
EPOCHS_OPEN_MAX: Final = 4  # that numbers may be given in: each leaves a watermark at the engine
KEYS_MAX: Final = 256  # of entries whose second sending is known
LIB_VERSION: Final = 0  # LMDB 0.9; the formats of 0.9 and 1.0 cannot read each other

_U32 = struct.Struct(">I")
_KEPT = struct.Struct(">QI")
_MAP_EXTRA: Final = 64 * 1024 * 1024  # address space beside 4 times size_max: half-used pages
_FORGET_STEP: Final = 4096  # records in one transaction

Seal = Callable[[bytes, bytes, bytes], bytes]  # public key, plaintext, associated data


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """current: order of the epoch in use. turns: how often that changed. size: bytes of records,
    with RECORD_COST each. lost_count: numbers ever given up."""

    schema: int = SCHEMA
    gateway: str
    imprint: Imprint
    current: int = 0
    turns: int = 0
    size: int = 0
    lost_count: int = 0


class _Change:
    """What one transaction makes of the states; nobody sees it before the commit."""

    def __init__(self, txn: lmdb.Transaction, state: _State, epochs: dict[int, Epoch]) -> None:
        self.txn = txn
        self.state = state
        self.epochs = dict(epochs)
        self.states = {order: epoch.state for order, epoch in epochs.items()}

    @property
    def current(self) -> Epoch:
        return self.epochs[self.state.current]

    def of(self, epoch: Epoch) -> EpochState:
        return self.states[epoch.order]

    def set(self, **fields: object) -> None:
        self.state = msgspec.structs.replace(self.state, **fields)

    def set_epoch(self, epoch: Epoch, **fields: object) -> None:
        self.states[epoch.order] = msgspec.structs.replace(self.of(epoch), **fields)


class Spool:
    """One writer thread at a time; reading is safe beside it from another thread.

    path: a folder, made with mode 0700. gateway: the identity sent in HELLO. ingest_public: the
    engine's X25519 key, 32 bytes. size_max: bytes of sealed bodies kept; over it acknowledged
    records give way, then the oldest of the others, whose numbers are reported as LOST, never
    silently. keep_s: how long acknowledged records stay. break_reason: why the epochs of the last
    process are not continued, None when they are.
    Raises StoreLocked, StoreVersion, StorageUnavailable, and SettingInvalid for a spool of another
    gateway.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        gateway: str,
        ingest_public: bytes,
        size_max: int = SIZE_MAX,
        keep_s: float = KEEP_S,
        sealer: Seal = seal,
        clock: Clock | None = None,
    ) -> None:
        self.gateway = gateway
        self.break_reason: str | None = None
        self._path = Path(path)
        self._public = ingest_public
        self._size_max = size_max
        self._keep_s = keep_s
        self._seal = sealer
        self._clock = clock or SystemClock()
        self._env: lmdb.Environment | None = None
        self._epochs: dict[int, Epoch] = {}
        self._gate = threading.Lock()  # held while reading and while the environment changes
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._owner = os.open(
                self._path / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise StorageUnavailable(f"cannot make the spool: {error.strerror}") from None
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._owner)
            raise StoreLocked("another process holds this spool") from None
        data = self._path / "data.mdb"
        is_new = not data.exists()
        try:
            self._begin()
        except BaseException:
            self.close()
            if is_new:
                # LMDB writes a file's head once: one that a sync did not bring to the disk never
                # gets there. The next process makes the file anew.
                data.unlink(missing_ok=True)
            raise

    # ---- what stands in it ----------------------------------------------------------------------

    @property
    def current(self) -> Epoch:
        """The epoch in which what comes is numbered."""
        return self._epochs[self._state.current]

    @property
    def epochs(self) -> list[Epoch]:
        """All that are known, what waits longest first; the current one is the last."""
        return sorted(self._epochs.values(), key=lambda epoch: epoch.turn)

    @property
    def size(self) -> int:
        """Bytes that count against size_max."""
        return self._state.size

    @property
    def lost_count(self) -> int:
        """Numbers given up since the spool was made."""
        return self._state.lost_count

    @property
    def is_drained(self) -> bool:
        """Everything that was captured is durable at the engine."""
        return not any(epoch.waiting for epoch in self.epochs)

    @property
    def has_expired(self) -> bool:
        """There are acknowledged records that were kept long enough."""
        with self._gate:
            if self._env is None:
                return False
            with self._env.begin() as txn, txn.cursor(db=self._kept) as kept:
                return bool(kept.first()) and _KEPT.unpack(kept.key())[0] <= self._expired_s()

    def keys(self) -> list[bytes]:
        """Keys of the newest entries, in order. Raises StorageUnavailable."""
        with self._gate:
            if self._env is None:
                raise StorageUnavailable("the spool is closed until it can be written again")
            with self._env.begin() as txn, txn.cursor(db=self._keys) as keys:
                return [bytes(key) for key in keys.iternext(keys=False)]

    # ---- changing it ----------------------------------------------------------------------------

    def append(self, drafts: Sequence[Draft]) -> list[int]:
        """Number, seal and commit; durable when it returns. The numbers, in order.

        Raises StorageFull for a body that alone is larger than the spool, StorageUnavailable when
        the disk refuses; then no number was given out and the same call may be repeated.
        """
        with self._writing() as change:
            epoch = change.current
            first = seq = change.of(epoch).next
            is_last = epoch.order == max(change.epochs)  # its keys are: no half-filled pages
            for draft in drafts:
                value = self._seal_draft(epoch, seq, draft)
                key = KEY.pack(epoch.order, seq)
                change.txn.put(key, value, db=self._records, append=is_last)
                seq += 1
                change.set_epoch(epoch, next=seq)
                change.set(size=change.state.size + record_cost(value))
                if change.state.size > self._size_max:
                    self._give_way(change)
                if draft.key:
                    self._remember(change, draft.key)
            faults.reach("spool.written")
        faults.reach("spool.committed")
        return list(range(first, seq))

    def ack(self, epoch: Epoch, seq: int) -> None:
        """Everything up to seq is durable at the engine. Raises StorageUnavailable."""
        if seq <= epoch.acked:
            return
        with self._writing() as change:
            change.set_epoch(epoch, acked=seq)
            mark = _KEPT.pack(self._clock.now_ms() // 1000, epoch.order)
            change.txn.put(mark, U64.pack(seq), db=self._kept)
            with change.txn.cursor(db=self._lost) as lost:
                there = lost.set_range(KEY.pack(epoch.order, 0))
                while there and KEY.unpack(lost.key())[0] == epoch.order:
                    if U64.unpack_from(lost.value())[0] > seq:
                        break
                    lost.delete()
                    there = bool(lost.key())
        faults.reach("spool.acked")

    def go_back(self, epoch: Epoch, seq: int) -> None:
        """The engine has lost what it acknowledged after seq: that waits again."""
        if seq >= epoch.acked:
            return
        with self._writing() as change:
            change.set_epoch(epoch, acked=seq)

    def drop(self, epoch: Epoch, seq: int, reason: LossReason) -> None:
        """Give one record up; its number is reported as LOST. Raises StorageUnavailable."""
        with self._writing() as change:
            value = change.txn.pop(KEY.pack(epoch.order, seq), db=self._records)
            if value is None:
                return
            change.set(size=change.state.size - record_cost(value))
            self._lose(change, epoch, seq, seq, reason, 1)

    def turn(self) -> None:
        """What comes is numbered in an epoch in which nothing waits (rule 6).

        One that is drained comes into use again, so that their number is bounded; when
        EPOCHS_OPEN_MAX are open and something waits in each, all stays as it is.
        """
        with self._writing() as change:
            self._turn(change)
        faults.reach("spool.turned")

    def retire(self, epoch: Epoch, doubtful: int = 0) -> None:
        """Somebody else numbers in this epoch too, so nothing more is numbered here (rule 7).

        doubtful: how many of its numbers the engine may have had from the other one; so many are
        reported as LOST in the epoch that comes ("copied"), so that the centre knows of them.
        """
        with self._writing() as change:
            change.set_epoch(epoch, is_closed=True)
            if change.current is epoch:
                self._turn(change)
            if doubtful:
                first = change.of(change.current).next
                change.set_epoch(change.current, next=first + doubtful)
                last = first + doubtful - 1
                self._lose(change, change.current, first, last, "copied", doubtful)

    def forget(self) -> None:
        """Deletes acknowledged records that were kept long enough, some thousand at a time, and
        epochs that are over. Raises StorageUnavailable."""
        if not self.has_expired:
            return
        until_s = self._expired_s()
        left = _FORGET_STEP
        with self._writing() as change, change.txn.cursor(db=self._kept) as kept:
            kept.first()
            while left > 0 and kept.key():
                at_s, order = _KEPT.unpack(kept.key())
                if at_s > until_s:
                    break
                if order in change.epochs:
                    epoch = change.epochs[order]
                    last = min(U64.unpack(kept.value())[0], change.of(epoch).acked)
                    left -= self._delete(change, epoch, last, count=left)[2]
                if left > 0:
                    kept.delete()
            if left > 0:
                self._end_epochs(change)

    def close(self) -> None:
        """May be repeated."""
        with self._gate:
            self._close_env()
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    # ---- inside ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Opens the spool for this process. What may be a copy is not continued."""
        data = self._path / "data.mdb"
        found = take_imprint(data) if data.exists() else None
        self._open()
        if found is None:
            # A file that is on the disk can lose its name, and with it all that has a number.
            _sync_names(self._path)
        if found is not None:
            self.break_reason = self._state.imprint.difference(found)
        if self._epochs and self.break_reason is None:
            return
        with self._writing() as change:
            for epoch in self._epochs.values():
                change.set_epoch(epoch, is_closed=True)
            self._turn(change)
            self._end_epochs(change)

    def _open(self) -> None:
        """Opens the environment and reads the states, making them at first use."""
        try:
            env = lmdb.open(
                str(self._path),
                map_size=4 * self._size_max + _MAP_EXTRA,
                max_dbs=6,
                lib_version=LIB_VERSION,
                mode=0o600,
                metasync=True,
                sync=True,
            )
            self._env = env
            self._meta = env.open_db(b"meta")
            self._table = env.open_db(b"epochs")
            self._records = env.open_db(b"records")
            self._lost = env.open_db(b"lost")
            self._kept = env.open_db(b"kept")
            self._keys = env.open_db(b"keys")
            with env.begin() as txn, txn.cursor(db=self._table) as table:
                raw = txn.get(b"state", db=self._meta)
                self._state = _read_state(raw, self.gateway, self._path)
                for key, value in table:
                    order = _U32.unpack(key)[0]
                    state = msgspec.msgpack.decode(value, type=EpochState)
                    epoch = self._epochs.setdefault(order, Epoch(order, state, self._reading))
                    epoch.state = state
        except lmdb.VersionMismatchError as error:
            raise StoreVersion(f"the spool was written by another LMDB: {error}") from None
        except (lmdb.Error, OSError) as error:
            raise StorageUnavailable(f"the spool does not open: {error}") from None

    def _close_env(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            env.close()

    @contextmanager
    def _writing(self) -> Iterator[_Change]:
        """One transaction. After any error of LMDB the environment is dropped and opened anew by
        the next call: what a failed sync left in memory says nothing about the disk."""
        with self._gate:
            if self._env is None:
                self._open()
            env = self._env
        assert env is not None
        try:
            with env.begin(write=True) as txn:
                change = _Change(txn, self._state, self._epochs)
                yield change
                self._put_states(change)
        except lmdb.Error as error:
            with self._gate:
                self._close_env()
            raise StorageUnavailable(f"the spool cannot be written: {error}") from None
        self._state = change.state
        for order, state in change.states.items():
            change.epochs[order].state = state
        self._epochs = change.epochs

    @contextmanager
    def _reading(self) -> Iterator[tuple[lmdb.Cursor, lmdb.Cursor]]:
        """Cursors over records and lost ranges, for Epoch."""
        with self._gate:
            if self._env is None:
                raise StorageUnavailable("the spool is closed until it can be written again")
            try:
                with (
                    self._env.begin() as txn,
                    txn.cursor(db=self._records) as records,
                    txn.cursor(db=self._lost) as lost,
                ):
                    yield records, lost
            except lmdb.Error as error:
                raise StorageUnavailable(f"the spool cannot be read: {error}") from None

    def _put_states(self, change: _Change) -> None:
        change.set(imprint=change.state.imprint.renewed())
        encode = msgspec.msgpack.encode
        change.txn.put(b"state", encode(change.state), db=self._meta)
        for order, state in change.states.items():
            old = self._epochs.get(order)
            if old is None or old.state is not state:
                change.txn.put(_U32.pack(order), encode(state), db=self._table)

    def _seal_draft(self, epoch: Epoch, seq: int, draft: Draft) -> bytes:
        """The value of a record."""
        sealed = self._seal(self._public, draft.body, seal_aad(self.gateway, epoch.number, seq))
        if len(sealed) + RECORD_COST > self._size_max:
            raise StorageFull(f"a body of {len(sealed)} bytes, more than the whole spool")
        return HEAD.pack(draft.type, draft.flags | FLAG_SEALED, draft.channel) + sealed

    def _remember(self, change: _Change, key: bytes) -> None:
        with change.txn.cursor(db=self._keys) as keys:
            last = U64.unpack(keys.key())[0] if keys.last() else 0
            keys.put(U64.pack(last + 1), key, append=True)
            while change.txn.stat(self._keys)["entries"] > KEYS_MAX and keys.first():
                keys.delete()

    def _turn(self, change: _Change) -> None:
        """Chooses another current epoch, or makes one; none when too many are open."""
        turns = change.state.turns + 1
        is_open = {o: not s.is_closed for o, s in change.states.items()}
        drained = [
            order
            for order, state in sorted(change.states.items())
            if is_open[order] and order != change.state.current and state.acked + 1 == state.next
        ]
        if drained:
            change.set_epoch(change.epochs[drained[0]], turn=turns)
        elif sum(is_open.values()) < EPOCHS_OPEN_MAX:
            state = EpochState(epoch=_new_epoch(), turn=turns)
            change.epochs[turns] = Epoch(turns, state, self._reading)
            change.states[turns] = state
        else:
            return
        change.set(current=drained[0] if drained else turns, turns=turns)

    def _give_way(self, change: _Change) -> None:
        """Deletes until all fits: acknowledged records, then the oldest of the others."""
        epochs = sorted(change.epochs.values(), key=lambda epoch: change.of(epoch).turn)
        for epoch in epochs:
            self._delete(change, epoch, change.of(epoch).acked, size=self._size_max)
        for epoch in epochs:
            first, last, count = self._delete(change, epoch, None, size=self._size_max)
            if count:
                self._lose(change, epoch, first, last, "overflow", count)

    def _delete(
        self,
        change: _Change,
        epoch: Epoch,
        until: int | None,
        *,
        count: int = 1 << 62,
        size: int = -1,
    ) -> tuple[int, int, int]:
        """Deletes the oldest records of an epoch, up to number `until`, at most `count`, and as
        long as the spool has more than `size` bytes; the first number, the last, and how many."""
        first = last = deleted = 0
        left = change.state.size
        with change.txn.cursor(db=self._records) as records:
            records.set_range(KEY.pack(epoch.order, 0))
            while deleted < count and left > size and records.key():
                order, seq = KEY.unpack(records.key())
                if order != epoch.order or (until is not None and seq > until):
                    break
                first, last = first or seq, seq
                left -= record_cost(records.value())
                records.delete()
                deleted += 1
        change.set(size=left)
        return first, last, deleted

    def _lose(
        self,
        change: _Change,
        epoch: Epoch,
        first: int,
        last: int,
        reason: LossReason,
        count: int,
    ) -> None:
        """Records a lost range, joined with the one before it when they touch. count: of its
        numbers, those that are lost only now."""
        with change.txn.cursor(db=self._lost) as lost:
            there = lost.set_range(KEY.pack(epoch.order, first))
            if lost.prev() if there else lost.last():
                order, start, before, why = lost_range(lost)
                if (order, before + 1, why) == (epoch.order, first, reason):
                    first = start
        value = U64.pack(last) + reason.encode()
        change.txn.put(KEY.pack(epoch.order, first), value, db=self._lost)
        change.set(lost_count=change.state.lost_count + count)

    def _expired_s(self) -> float:
        """What was acknowledged then or before need not stay."""
        return self._clock.now_ms() // 1000 - self._keep_s

    def _end_epochs(self, change: _Change) -> None:
        """Forgets closed epochs of which nothing is here any more."""
        with change.txn.cursor(db=self._records) as records:
            for epoch in list(change.epochs.values()):
                state = change.of(epoch)
                if not state.is_closed or state.acked + 1 < state.next:
                    continue
                there = records.set_range(KEY.pack(epoch.order, 0))
                if not there or KEY.unpack(records.key())[0] != epoch.order:
                    change.txn.delete(_U32.pack(epoch.order), db=self._table)
                    del change.epochs[epoch.order], change.states[epoch.order]


def _sync_names(path: Path) -> None:
    """The folder's entries and its own name last. Raises StorageUnavailable."""
    try:
        for folder in (path, path.parent):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        raise StorageUnavailable(f"the spool cannot be synced: {error.strerror}") from None


def _new_epoch() -> int:
    """Random, so that a spool that was made anew cannot continue the numbers of another."""
    return secrets.randbits(64) or 1


class _Schema(msgspec.Struct, frozen=True):
    schema: int


def _read_state(raw: bytes | None, gateway: str, path: Path) -> _State:
    if raw is None:
        return _State(gateway=gateway, imprint=take_imprint(path / "data.mdb"))
    try:
        schema = msgspec.msgpack.decode(raw, type=_Schema).schema
        if schema != SCHEMA:
            raise StoreVersion(f"the spool has schema {schema}, this is {SCHEMA}")
        state = msgspec.msgpack.decode(raw, type=_State)
    except msgspec.DecodeError:
        raise StoreVersion("the spool has a state that cannot be read") from None
    if state.gateway != gateway:
        raise SettingInvalid(f"the spool belongs to gateway {state.gateway}, not to {gateway}")
    return state
