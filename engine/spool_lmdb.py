"""The spool: what a gateway has captured and the engine has not yet made durable, on LMDB.

Rules 1 and 7 of CKP/1: a message gets its number and is committed before it is sent, and what was
captured keeps its (gateway, epoch, seq) for ever. Bodies are sealed to the engine's ingest key
before they touch the disk, bound to that identity, so that a stolen box holds nothing readable and
a sealed body cannot be replayed under another number (engine.wire.seal_aad).

Files: `data.mdb` (LMDB, three tables), `owner.lock` (flock; one process holds a spool).

    meta     state -> MessagePack map, see _State
    records  seq u64 -> type u8, flags u8, channel u16, sealed body
    lost     first u64 -> last u64, reason
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

from engine.errors import (
    SettingInvalid,
    StorageFull,
    StorageUnavailable,
    StoreLocked,
    StoreVersion,
)
from engine.keys import seal
from engine.wire import FLAG_SEALED, LossReason, seal_aad

SCHEMA: Final = 1
SIZE_MAX: Final = 512 * 1024 * 1024  # bytes of sealed bodies: weeks of a three-lane post
LIB_VERSION: Final = 0  # LMDB 0.9; the formats of 0.9 and 1.0 cannot read each other

_SEQ = struct.Struct(">Q")
_HEAD = struct.Struct(">BBH")
_MAP_EXTRA: Final = 64 * 1024 * 1024  # address space beside 4 times size_max: half-used pages
_RECORD_COST: Final = 64  # key, head and B-tree entry of a record, bytes

Seal = Callable[[bytes, bytes, bytes], bytes]  # public key, plaintext, associated data


class Draft(msgspec.Struct, frozen=True):
    """A message without a number: its frame type, flags and channel, and the plain body."""

    type: int
    flags: int
    channel: int
    body: bytes


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


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """next: first number never used. acked: durable at the engine. size: bytes of records, with
    _RECORD_COST each. lost_count: numbers ever given up."""

    schema: int = SCHEMA
    gateway: str
    epoch: int
    next: int = 1
    acked: int = 0
    size: int = 0
    lost_count: int = 0


class Spool:
    """One writer thread at a time; reading is safe beside it from another thread.

    path: a folder, made with mode 0700. gateway: the identity sent in HELLO. ingest_public: the
    engine's X25519 key, 32 bytes. size_max: bytes of sealed bodies kept; over it the oldest records
    give way and their numbers are reported as LOST, never silently.
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
        sealer: Seal = seal,
    ) -> None:
        self.gateway = gateway
        self._path = Path(path)
        self._public = ingest_public
        self._size_max = size_max
        self._seal = sealer
        self._env: lmdb.Environment | None = None
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
        try:
            self._state = self._open()
        except BaseException:
            self.close()
            raise

    # ---- what stands in it ----------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        return self._state.epoch

    @property
    def next_seq(self) -> int:
        """First number never used."""
        return self._state.next

    @property
    def acked(self) -> int:
        return self._state.acked

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
        return self._state.acked + 1 >= self._state.next

    def oldest(self) -> int:
        """Oldest number that can still be sent; next_seq when there is none."""
        with self._reading() as (records, _):
            return _SEQ.unpack(records.key())[0] if records.first() else self._state.next

    def read(self, after: int, *, count: int = 64, size: int = 1 << 20) -> list[SpoolRecord]:
        """Records from after + 1 on, in order, up to the first hole or the limits.

        The first one comes even when it is larger than `size`.
        """
        found: list[SpoolRecord] = []
        with self._reading() as (records, _):
            there = records.set_range(_SEQ.pack(after + 1))
            while there and len(found) < count and size > 0:
                seq = _SEQ.unpack(records.key())[0]
                if seq != after + 1 + len(found):
                    break
                value = bytes(records.value())
                kind, flags, channel = _HEAD.unpack_from(value)
                found.append(SpoolRecord(seq, kind, flags, channel, value[_HEAD.size :]))
                size -= len(value)
                there = records.next()
        return found

    def hole_after(self, seq: int) -> Hole | None:
        """The hole that begins at seq + 1; None when that number is here or was never used.

        A range that the spool did not give up itself was acknowledged earlier and deleted: the
        engine has gone back behind its own receipt ("forgotten").
        """
        first = seq + 1
        if first >= self._state.next:
            return None
        with self._reading() as (records, lost):
            there = records.set_range(_SEQ.pack(first))
            end = _SEQ.unpack(records.key())[0] if there else self._state.next
            if end == first:
                return None
            for start, last, reason in _ranges(lost):
                if start <= first <= last:
                    return Hole(first, min(last, end - 1), reason)
                if start > first:
                    return Hole(first, min(start, end) - 1, "forgotten")
        return Hole(first, end - 1, "forgotten")

    # ---- changing it ----------------------------------------------------------------------------

    def append(self, drafts: Sequence[Draft]) -> list[int]:
        """Number, seal and commit; durable when it returns. The numbers, in order.

        Raises StorageFull for a body that alone is larger than the spool, StorageUnavailable when
        the disk refuses; then no number was given out and the same call may be repeated.
        """
        with self._writing() as txn:
            state = self._state  # read inside: opening anew after a failure may have moved it
            for draft in drafts:
                value = self._seal_draft(state, draft)
                cost = _cost(value)
                if state.size + cost > self._size_max:
                    state = self._give_way(txn, state, cost)
                txn.put(_SEQ.pack(state.next), value, db=self._records, append=True)
                state = msgspec.structs.replace(state, next=state.next + 1, size=state.size + cost)
            self._put_state(txn, state)
        self._state = state
        return list(range(state.next - len(drafts), state.next))

    def ack(self, seq: int) -> None:
        """Everything up to seq is durable at the engine: forget it. Raises StorageUnavailable."""
        if seq <= self._state.acked:
            return
        with self._writing() as txn:
            freed = 0
            with txn.cursor(db=self._records) as records:
                records.first()
                while records.key() and _SEQ.unpack(records.key())[0] <= seq:
                    freed += _cost(records.value())
                    records.delete()
            with txn.cursor(db=self._lost) as lost:
                lost.first()
                while lost.key() and _SEQ.unpack_from(lost.value())[0] <= seq:
                    lost.delete()
            state = msgspec.structs.replace(self._state, acked=seq, size=self._state.size - freed)
            self._put_state(txn, state)
        self._state = state

    def drop(self, seq: int, reason: LossReason) -> None:
        """Give one record up; its number is reported as LOST. Raises StorageUnavailable."""
        with self._writing() as txn:
            value = txn.pop(_SEQ.pack(seq), db=self._records)
            if value is None:
                return
            state = self._lose(txn, self._state, seq, seq, reason)
            state = msgspec.structs.replace(state, size=state.size - _cost(value))
            self._put_state(txn, state)
        self._state = state

    def close(self) -> None:
        """May be repeated."""
        with self._gate:
            self._close_env()
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    # ---- inside ---------------------------------------------------------------------------------

    def _open(self) -> _State:
        """Opens the environment and reads the state, making it at first use."""
        try:
            env = lmdb.open(
                str(self._path),
                map_size=4 * self._size_max + _MAP_EXTRA,
                max_dbs=3,
                lib_version=LIB_VERSION,
                mode=0o600,
                metasync=True,
                sync=True,
            )
            self._env = env
            self._meta = env.open_db(b"meta")
            self._records = env.open_db(b"records")
            self._lost = env.open_db(b"lost")
            with env.begin(write=True) as txn:
                raw = txn.get(b"state", db=self._meta)
                state = _read_state(raw, self.gateway)
                if raw is None:
                    self._put_state(txn, state)
        except lmdb.VersionMismatchError as error:
            raise StoreVersion(f"the spool was written by another LMDB: {error}") from None
        except lmdb.Error as error:
            raise StorageUnavailable(f"the spool does not open: {error}") from None
        return state

    def _close_env(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            env.close()

    @contextmanager
    def _writing(self) -> Iterator[lmdb.Transaction]:
        """One transaction. After any error of LMDB the environment is dropped and opened anew by
        the next call: what a failed sync left in memory says nothing about the disk."""
        with self._gate:
            if self._env is None:
                self._state = self._open()
            env = self._env
        assert env is not None
        try:
            with env.begin(write=True) as txn:
                yield txn
        except lmdb.Error as error:
            with self._gate:
                self._close_env()
            raise StorageUnavailable(f"the spool cannot be written: {error}") from None

    @contextmanager
    def _reading(self) -> Iterator[tuple[lmdb.Cursor, lmdb.Cursor]]:
        """Cursors over records and lost ranges."""
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

    def _seal_draft(self, state: _State, draft: Draft) -> bytes:
        """The value of the record that gets number state.next."""
        aad = seal_aad(self.gateway, state.epoch, state.next)
        sealed = self._seal(self._public, draft.body, aad)
        if len(sealed) + _RECORD_COST > self._size_max:
            raise StorageFull(f"a body of {len(sealed)} bytes, more than the whole spool")
        return _HEAD.pack(draft.type, draft.flags | FLAG_SEALED, draft.channel) + sealed

    def _put_state(self, txn: lmdb.Transaction, state: _State) -> None:
        txn.put(b"state", msgspec.msgpack.encode(state), db=self._meta)

    def _give_way(self, txn: lmdb.Transaction, state: _State, cost: int) -> _State:
        """Deletes the oldest records until `cost` bytes fit; their numbers become a lost range."""
        first = last = freed = 0
        with txn.cursor(db=self._records) as records:
            records.first()
            while records.key() and state.size - freed + cost > self._size_max:
                last = _SEQ.unpack(records.key())[0]
                first = first or last
                freed += _cost(records.value())
                records.delete()
        state = msgspec.structs.replace(state, size=state.size - freed)
        return self._lose(txn, state, first, last, "overflow")

    def _lose(
        self, txn: lmdb.Transaction, state: _State, first: int, last: int, reason: LossReason
    ) -> _State:
        """Records a lost range, joined with the one before it when they touch."""
        count = last - first + 1
        with txn.cursor(db=self._lost) as lost:
            there = lost.set_range(_SEQ.pack(first))
            if lost.prev() if there else lost.last():
                start, before, why = _range(lost)
                if before + 1 == first and why == reason:
                    first = start
        txn.put(_SEQ.pack(first), _SEQ.pack(last) + reason.encode(), db=self._lost)
        return msgspec.structs.replace(state, lost_count=state.lost_count + count)


def _cost(value: bytes | memoryview) -> int:
    return len(value) - _HEAD.size + _RECORD_COST


def _new_epoch() -> int:
    """Random, so that a spool that was made anew cannot continue the numbers of another."""
    return secrets.randbits(64) or 1


def _read_state(raw: bytes | None, gateway: str) -> _State:
    if raw is None:
        return _State(gateway=gateway, epoch=_new_epoch())
    try:
        state = msgspec.msgpack.decode(raw, type=_State)
    except msgspec.DecodeError:
        raise StoreVersion("the spool has a state that cannot be read") from None
    if state.schema != SCHEMA:
        raise StoreVersion(f"the spool has schema {state.schema}, this is {SCHEMA}")
    if state.gateway != gateway:
        raise SettingInvalid(f"the spool belongs to gateway {state.gateway}, not to {gateway}")
    return state


def _range(lost: lmdb.Cursor) -> tuple[int, int, LossReason]:
    value = bytes(lost.value())
    reason = msgspec.convert(value[_SEQ.size :].decode(), LossReason)
    return _SEQ.unpack(lost.key())[0], _SEQ.unpack_from(value)[0], reason


def _ranges(lost: lmdb.Cursor) -> Iterator[tuple[int, int, LossReason]]:
    there = lost.first()
    while there:
        yield _range(lost)
        there = lost.next()
