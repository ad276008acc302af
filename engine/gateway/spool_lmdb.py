"""The spool: what a gateway has captured and the engine has not yet made durable, on LMDB.

Rules 1, 6 and 7 of CKP/1: a message gets its number and is committed before it is sent, and what
was captured keeps its (gateway, epoch, seq) for ever. Bodies are sealed to the engine's ingest key
before they touch the disk, bound to that identity, so that a stolen box holds nothing readable and
a sealed body cannot be replayed under another number (engine.wire.frames.seal_aad).

A spool holds several epochs and numbers what comes in one of them, the current one. It continues
its epochs only while its file is surely the one it wrote last (the imprint); else all that it holds
keeps its identity, is sent, and what comes gets a new epoch. Acknowledged records stay for a while,
for an engine that comes back without them, and are the first to give way.

What is captured and acknowledged goes to a write-ahead log (engine.gateway.spool_wal), one sync
each. Any other change, and a log that is full, brings it to the tables first, in one transaction.

Files: `data.mdb` (LMDB, six tables), `wal`, `owner.lock` (flock; one process holds a spool).

    meta     state -> MessagePack map, see engine.gateway.spool_change
    epochs   order u32 -> MessagePack map, see engine.gateway.spool_epoch
    records  order u32, seq u64 -> type u8, flags u8, channel u16, sealed body
    lost     order u32, first u64 -> last u64, reason
    kept     acknowledged at, s u64, order u32 -> seq u64
    keys     count u64 -> key of an entry by hand, the newest KEYS_MAX
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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
from engine.gateway.imprint import take_imprint
from engine.gateway.spool_change import KEPT, KEYS_MAX, SCHEMA, U32, Change, SpoolState, Tables
from engine.gateway.spool_epoch import (
    HEAD,
    RECORD_COST,
    Draft,
    Epoch,
    EpochState,
    record_cost,
)
from engine.gateway.spool_wal import Acked, Appended, Entry, Wal, new_run
from engine.identity.seals import Sealer
from engine.wire.frames import FLAG_SEALED, LossReason, seal_aad

SIZE_MAX: Final = 512 * 1024 * 1024  # bytes of sealed bodies: weeks of a three-lane post
KEEP_S: Final = 24 * 3600  # acknowledged records stay, for a disaster at the centre
LIB_VERSION: Final = 0  # LMDB 0.9; the formats of 0.9 and 1.0 cannot read each other

_MAP_EXTRA: Final = 64 * 1024 * 1024  # address space beside 4 times size_max: half-used pages
_FORGET_STEP: Final = 4096  # records in one transaction

Seal = Callable[[bytes, bytes, bytes], bytes]  # public key, plaintext, associated data


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
        sealer: Seal | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.gateway = gateway
        self.break_reason: str | None = None
        self._path = Path(path)
        self._size_max = size_max
        self._keep_s = keep_s
        self._seal = partial(sealer, ingest_public) if sealer else Sealer(ingest_public).seal
        self._clock = clock or SystemClock()
        self._env: lmdb.Environment | None = None
        self._epochs: dict[int, Epoch] = {}
        self._written: dict[int, EpochState] = {}  # what the table holds, by order
        self._wal = Wal(self._path / "wal")
        self._damaged: list[tuple[int, int, int]] = []  # order, first and last number, of the log
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
        files = self._path / "data.mdb", self._path / "wal"
        made = [file for file in files if not file.exists()]
        try:
            self._begin()
        except BaseException:
            self.close()
            # LMDB writes a file's head once: one that a sync did not bring to the disk never gets
            # there. The next process makes the files anew.
            for file in made:
                file.unlink(missing_ok=True)
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
            acked = (entry.at_s for entry in self._wal.entries if isinstance(entry, Acked))
            with self._env.begin() as txn, txn.cursor(db=self._tables.kept) as kept:
                first_s = KEPT.unpack(kept.key())[0] if kept.first() else next(acked, None)
            return first_s is not None and first_s <= self._expired_s()

    def keys(self) -> list[bytes]:
        """Keys of the newest entries, in order. Raises StorageUnavailable."""
        with self._gate:
            if self._env is None:
                raise StorageUnavailable("the spool is closed until it can be written again")
            with self._env.begin() as txn, txn.cursor(db=self._tables.keys) as table:
                keys = [bytes(key) for key in table.iternext(keys=False)]
            for entry in self._wal.entries:
                if isinstance(entry, Appended):
                    keys += entry.keys
            return keys[-KEYS_MAX:]

    # ---- changing it ----------------------------------------------------------------------------

    def append(self, drafts: Sequence[Draft]) -> list[int]:
        """Number, seal and commit; durable when it returns. The numbers, in order.

        Raises StorageFull for a body that alone is larger than the spool, StorageUnavailable when
        the disk refuses; then no number was given out and the same call may be repeated.
        """
        self._reopen()
        epoch = self.current
        first = epoch.next_seq
        values = [self._seal_draft(epoch, seq, draft) for seq, draft in enumerate(drafts, first)]
        keys = [draft.key for draft in drafts if draft.key]
        entry = Appended(epoch.order, first, values, keys)
        faults.reach("spool.written")
        is_full = self._state.size + sum(map(record_cost, values)) > self._size_max
        if is_full or not self._log(entry):
            with self._writing() as change:
                change.append(entry)
        faults.reach("spool.committed")
        return list(range(first, first + len(values)))

    def ack(self, epoch: Epoch, seq: int) -> None:
        """Everything up to seq is durable at the engine. Raises StorageUnavailable."""
        if seq <= epoch.acked:
            return
        self._reopen()
        entry = Acked(epoch.order, seq, self._clock.now_ms() // 1000)
        if not self._log(entry):
            with self._writing() as change:
                change.set_epoch(epoch, acked=seq)
                change.put_receipt(entry)
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
            change.drop(epoch, seq, reason)

    def turn(self) -> None:
        """What comes is numbered in an epoch in which nothing waits (rule 6).

        One that is drained comes into use again, so that their number is bounded; when
        EPOCHS_OPEN_MAX are open and something waits in each, all stays as it is.
        """
        with self._writing() as change:
            change.turn()
        faults.reach("spool.turned")

    def retire(self, epoch: Epoch, doubtful: int = 0) -> None:
        """Somebody else numbers in this epoch too, so nothing more is numbered here (rule 7).

        doubtful: how many of its numbers the engine may have had from the other one; so many are
        reported as LOST in the epoch that comes ("copied"), so that the centre knows of them.
        """
        with self._writing() as change:
            change.set_epoch(epoch, is_closed=True)
            if change.current is epoch:
                change.turn()
            if doubtful:
                first = change.of(change.current).next
                change.set_epoch(change.current, next=first + doubtful)
                last = first + doubtful - 1
                change.lose(change.current, first, last, "copied", doubtful)

    def forget(self) -> None:
        """Deletes acknowledged records that were kept long enough, some thousand at a time, and
        epochs that are over. Raises StorageUnavailable."""
        if not self.has_expired:
            return
        with self._writing() as change:
            change.forget(self._expired_s(), _FORGET_STEP)

    def close(self) -> None:
        """May be repeated."""
        with self._gate:
            self._close_env()
            self._wal.close()
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    # ---- inside ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Opens the spool for this process. What may be a copy is not continued."""
        data, log = self._path / "data.mdb", self._path / "wal"
        found, found_log = (take_imprint(file) if file.exists() else None for file in (data, log))
        self._wal.open()
        problem = self._open()
        for epoch in self._epochs.values():
            epoch.first_own = epoch.next_seq
        if found is None or found_log is None:
            # A file that is on the disk can lose its name, and with it all that has a number.
            _sync_names(self._path)
        if found is not None:
            self.break_reason = self._state.imprint.difference(found)
            if self.break_reason is None and found_log is None:
                self.break_reason = "its log is gone"
            elif self.break_reason is None and found_log is not None:
                self.break_reason = self._state.wal.difference(found_log) or problem
        if self._epochs and self.break_reason is None:
            return
        with self._writing() as change:
            for order, first, last in self._damaged:
                epoch = change.epochs[order]
                if (first := max(first, change.of(epoch).acked + 1)) <= last:
                    change.lose(epoch, first, last, "damaged", last - first + 1)
            for epoch in self._epochs.values():
                change.set_epoch(epoch, is_closed=True)
            change.turn()
            change.end_epochs()

    def _reopen(self) -> None:
        """After an error the environment was dropped, and the states are those of the disk."""
        with self._gate:
            if self._env is None:
                self._open()

    def _open(self) -> str | None:
        """Opens the environment and reads the states, making them at first use, then the entries
        of the log; what Wal.resume says of its end."""
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
            names = (b"meta", b"epochs", b"records", b"lost", b"kept", b"keys")
            self._tables = Tables(*map(env.open_db, names))
            with env.begin() as txn, txn.cursor(db=self._tables.epochs) as table:
                raw = txn.get(b"state", db=self._tables.meta)
                self._state = _read_state(raw, self.gateway, self._path, self._wal)
                for key, value in table:
                    order = U32.unpack(key)[0]
                    state = msgspec.msgpack.decode(value, type=EpochState)
                    epoch = self._epochs.setdefault(order, Epoch(order, state, self._reading))
                    epoch.state = self._written[order] = state
                    epoch.tail = []
        except lmdb.VersionMismatchError as error:
            raise StoreVersion(f"the spool was written by another LMDB: {error}") from None
        except (lmdb.Error, OSError) as error:
            raise StorageUnavailable(f"the spool does not open: {error}") from None
        last_ms, problem = self._wal.resume(self._state.run)
        if last_ms:
            wal = msgspec.structs.replace(self._state.wal, written_ms=last_ms)
            self._state = msgspec.structs.replace(self._state, wal=wal)
        for entry in self._wal.entries:
            self._take(entry)
        return problem

    def _log(self, entry: Entry) -> bool:
        """Into the log and what is known; False when only the tables can take it."""
        if not self._wal.write(entry):
            return False
        with self._gate:
            self._take(entry)
        return True

    def _take(self, entry: Entry) -> None:
        """What an entry of the log changes, for who reads. The gate is held."""
        epoch = self._epochs[entry.order]
        if isinstance(entry, Acked):
            epoch.state = msgspec.structs.replace(epoch.state, acked=entry.seq)
            return
        if entry.first > epoch.state.next:
            self._damaged.append((entry.order, epoch.state.next, entry.first - 1))
            epoch.tail = []  # `_begin` writes all of it into the tables before anybody reads
        epoch.state = msgspec.structs.replace(epoch.state, next=entry.first + len(entry.values))
        epoch.tail += entry.values
        size = self._state.size + sum(map(record_cost, entry.values))
        self._state = msgspec.structs.replace(self._state, size=size)

    def _close_env(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            env.close()

    @contextmanager
    def _writing(self) -> Iterator[Change]:
        """One transaction, which takes what is in the log along. After any error of LMDB the
        environment is dropped and opened anew by the next call: what a failed sync left in memory
        says nothing about the disk."""
        self._reopen()
        env = self._env
        assert env is not None
        try:
            with env.begin(write=True) as txn:
                change = Change(
                    txn, self._tables, self._state, self._epochs, self._size_max, self._reading
                )
                change.put_entries(self._wal.entries)
                yield change
                change.put_states(self._wal.imprint, new_run(), self._written)
        except lmdb.Error as error:
            with self._gate:
                self._close_env()
                self._wal.doubt()
            raise StorageUnavailable(f"the spool cannot be written: {error}") from None
        with self._gate:
            self._state = change.state
            for order, state in change.states.items():
                change.epochs[order].state = state
                change.epochs[order].tail = []
            self._epochs, self._written = change.epochs, change.states
            self._wal.begin(change.state.run)

    @contextmanager
    def _reading(self) -> Iterator[tuple[lmdb.Cursor, lmdb.Cursor]]:
        """Cursors over records and lost ranges, for Epoch."""
        with self._gate:
            if self._env is None:
                raise StorageUnavailable("the spool is closed until it can be written again")
            try:
                with (
                    self._env.begin() as txn,
                    txn.cursor(db=self._tables.records) as records,
                    txn.cursor(db=self._tables.lost) as lost,
                ):
                    yield records, lost
            except lmdb.Error as error:
                raise StorageUnavailable(f"the spool cannot be read: {error}") from None

    def _seal_draft(self, epoch: Epoch, seq: int, draft: Draft) -> bytes:
        """The value of a record."""
        sealed = self._seal(draft.body, seal_aad(self.gateway, epoch.number, seq))
        if len(sealed) + RECORD_COST > self._size_max:
            raise StorageFull(f"a body of {len(sealed)} bytes, more than the whole spool")
        return HEAD.pack(draft.type, draft.flags | FLAG_SEALED, draft.channel) + sealed

    def _expired_s(self) -> float:
        """What was acknowledged then or before need not stay."""
        return self._clock.now_ms() // 1000 - self._keep_s


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


class _Schema(msgspec.Struct, frozen=True):
    schema: int


def _read_state(raw: bytes | None, gateway: str, path: Path, wal: Wal) -> SpoolState:
    if raw is None:
        return SpoolState(gateway=gateway, imprint=take_imprint(path / "data.mdb"), wal=wal.imprint)
    try:
        schema = msgspec.msgpack.decode(raw, type=_Schema).schema
        if schema != SCHEMA:
            raise StoreVersion(f"the spool has schema {schema}, this is {SCHEMA}")
        state = msgspec.msgpack.decode(raw, type=SpoolState)
    except msgspec.DecodeError:
        raise StoreVersion("the spool has a state that cannot be read") from None
    if state.gateway != gateway:
        raise SettingInvalid(f"the spool belongs to gateway {state.gateway}, not to {gateway}")
    return state
