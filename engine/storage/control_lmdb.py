"""The control log on LMDB: registry, dated rules, grants, merges, holds, erasures, audit.

Records never expire by themselves; when a person is erased, those that name them lose their body
(`amend`) and keep their link. Each carries a SHA-256 over itself and the hash of the record
before it, so that one who has noted the head of a day can tell whether anything up to that day was
changed. Kinds are free words; what a body means is the registry's business, and whatever names a
person in it was sealed before it came here.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from engine.errors import EngineError, JournalCorrupt, StorageFull, StorageUnavailable
from engine.storage.commit_thread import CommitThread, Job
from engine.storage.store_lmdb import Store

KIND = "control"
BODY_LIMIT_BYTES = 16 << 20
WORD_LIMIT = 256  # characters of a kind or of who did it
READ_BYTES = 1 << 20
HASH_SIZE = 32
_AMENDED_HEAD = b"\x96"  # an array of six; that of other records has five
AMENDED_PREFIX = "erased."  # of the kind of a record that lost its body


class ControlRecord(msgspec.Struct, frozen=True):
    """One record. chain: SHA-256 over the chain before it and everything else in it.

    amended: of a record that lost its body SHA-256 over what is left and the chain; else empty.
    """

    lsn: int
    kind: str
    by: str
    at_ms: int
    body: bytes
    chain: bytes
    amended: bytes = b""


class _Stored(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    kind: str
    by: str
    at_ms: int
    body: bytes
    chain: bytes


class _Amended(_Stored, frozen=True, array_like=True, forbid_unknown_fields=True):
    amended: bytes


class _Append(Job):
    __slots__ = ("at_ms", "body", "by", "kind", "lsn")

    def __init__(self, kind: str, by: str, body: bytes, at_ms: int) -> None:
        super().__init__(len(body) + 256)
        self.kind = kind
        self.by = by
        self.body = body
        self.at_ms = at_ms
        self.lsn = 0


class _Amend(Job):
    __slots__ = ("lsns",)

    def __init__(self, lsns: list[int]) -> None:
        super().__init__()
        self.lsns = lsns


def genesis(store_id: bytes) -> bytes:
    """The chain before the first record."""
    return hashlib.sha256(b"chot/control/1\0" + store_id).digest()


def next_chain(chain: bytes, lsn: int, kind: str, by: str, at_ms: int, body: bytes) -> bytes:
    """Chain of a record: SHA-256(chain before | lsn u64be | msgpack [kind, by, at_ms, body])."""
    content = msgspec.msgpack.encode([kind, by, at_ms, body])
    return hashlib.sha256(chain + lsn.to_bytes(8, "big") + content).digest()


def amended_hash(record: ControlRecord) -> bytes:
    """`amended` of a record that lost its body: as a chain, its own being the one before."""
    return next_chain(record.chain, record.lsn, record.kind, record.by, record.at_ms, record.body)


class ControlLog:
    """The control log in one directory. Opening checks the whole chain.

    Raises StoreLocked, StoreVersion, JournalCorrupt, StorageFull, StorageUnavailable.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limit_bytes: int = 1 << 36,
        floor_bytes: int = 16 << 20,
        pending_limit_bytes: int = 32 << 20,
        now_ms: int = 0,
    ) -> None:
        self._store = Store(
            path, kind=KIND, limit_bytes=limit_bytes, floor_bytes=floor_bytes, now_ms=now_ms
        )
        self._chain = genesis(self._store.meta.store_id)
        self._last_lsn = 0
        try:
            with contextlib.suppress(StorageFull, StorageUnavailable):
                self._store.prove()
            self._load()
        except BaseException:
            self._store.close()
            raise
        self._writer: CommitThread[Job] = CommitThread(
            "control",
            self._work,
            pending_limit_bytes=pending_limit_bytes,
            commit_limit_bytes=BODY_LIMIT_BYTES,
        )

    async def append(self, kind: str, by: str, body: bytes, at_ms: int) -> int:
        """LSN of the new record; it is durable when this returns.

        Raises ValueError for fields out of range, StorageFull, StorageUnavailable.
        """
        job = _make_job(kind, by, body, at_ms)
        await self._writer.run(job)
        return job.lsn

    def append_sync(self, kind: str, by: str, body: bytes, at_ms: int) -> int:
        """As `append`, for offline tools: blocks the thread that calls."""
        job = _make_job(kind, by, body, at_ms)
        self._writer.run_sync(job)
        return job.lsn

    async def amend(self, lsns: Iterable[int]) -> dict[int, bytes]:
        """Takes the bodies of records away; of each its `amended`. May be repeated.

        Raises StorageError, JournalCorrupt.
        """
        wanted = sorted(set(lsns))
        await self._writer.run(_Amend(wanted))
        return self.amendments(wanted)

    def amendments(self, lsns: Iterable[int]) -> dict[int, bytes]:
        """Of each record its `amended`, with its body as without it. Raises as `read`."""
        found: dict[int, bytes] = {}
        for lsn in sorted(set(lsns)):
            for record in self.read(lsn - 1):
                found[lsn] = record.amended or amended_hash(_without_body(record))
                break
        return found

    def read(self, after: int = 0) -> Iterator[ControlRecord]:
        """Durable records with lsn > after, in order; ends at the last one. Any thread.

        Raises JournalCorrupt, StorageUnavailable.
        """
        last = self._last_lsn
        while after < last:
            found = self._store.read(after + 1, last, READ_BYTES)
            if not found:
                raise JournalCorrupt(f"control record {after + 1} is missing")
            for lsn, value in found:
                if lsn != after + 1:
                    raise JournalCorrupt(f"control record {after + 1} is missing")
                yield bytes_to_record(lsn, value)
                after = lsn

    def head(self) -> bytes:
        """Chain of the last record: 32 bytes that stand for the whole log."""
        return self._chain

    def last_lsn(self) -> int:
        """LSN of the last durable record, 0 in an empty log."""
        return self._last_lsn

    def close(self) -> None:
        """Finish what was accepted. May be repeated."""
        self._writer.close()
        self._store.close()

    def _load(self) -> None:
        for lsn, view in self._store.scan(self._last_lsn + 1):
            record = bytes_to_record(lsn, bytes(view))
            self._chain = check_record(record, self._last_lsn, self._chain)
            self._last_lsn = lsn

    def _work(self, jobs: list[Job]) -> Sequence[Job]:
        for is_append, run in itertools.groupby(jobs, lambda job: isinstance(job, _Append)):
            if is_append:
                self._append_all([job for job in run if isinstance(job, _Append)])
                continue
            for job in run:
                if isinstance(job, _Amend):
                    self._amend_all(job)
        return ()

    def _recover(self) -> None:
        if not self._store.is_proven:
            self._store.recover()
            self._load()

    def _append_all(self, jobs: list[_Append]) -> None:
        try:
            self._recover()
            lsn, chain = self._last_lsn, self._chain
            records = []
            for job in jobs:
                lsn += 1
                chain = next_chain(chain, lsn, job.kind, job.by, job.at_ms, job.body)
                job.lsn = lsn
                stored = _Stored(job.kind, job.by, job.at_ms, job.body, chain)
                records.append((lsn, msgspec.msgpack.encode(stored)))
            self._store.write(records)
            self._last_lsn, self._chain = lsn, chain
        except EngineError as error:
            for job in jobs:
                job.error = type(error)(*error.args, hint=error.hint)

    def _amend_all(self, job: _Amend) -> None:
        try:
            self._recover()
            records = []
            for lsn in job.lsns:
                for _, value in self._store.read(lsn, lsn, 1):
                    record = bytes_to_record(lsn, value)
                    if not record.amended:
                        records.append((lsn, _amended_value(record)))
            if records:
                self._store.write(records, is_append=False)
        except EngineError as error:
            job.error = error


def bytes_to_record(lsn: int, value: bytes) -> ControlRecord:
    """Raises JournalCorrupt."""
    try:
        is_amended = value[:1] == _AMENDED_HEAD
        stored = msgspec.msgpack.decode(value, type=_Amended if is_amended else _Stored)
    except msgspec.MsgspecError as error:
        raise JournalCorrupt(f"control record {lsn} cannot be read") from error
    amended = stored.amended if isinstance(stored, _Amended) else b""
    return ControlRecord(
        lsn, stored.kind, stored.by, stored.at_ms, stored.body, stored.chain, amended
    )


def _without_body(record: ControlRecord) -> ControlRecord:
    return msgspec.structs.replace(record, kind=AMENDED_PREFIX + record.kind, body=b"")


def _amended_value(record: ControlRecord) -> bytes:
    left = _without_body(record)
    stored = _Amended(left.kind, left.by, left.at_ms, b"", left.chain, amended_hash(left))
    return msgspec.msgpack.encode(stored)


def check_record(record: ControlRecord, lsn_before: int, chain_before: bytes) -> bytes:
    """The record's chain, if it follows what came before. Raises JournalCorrupt."""
    if record.lsn != lsn_before + 1:
        raise JournalCorrupt(f"control record {lsn_before + 1} is missing")
    if record.amended:
        # What its link was made of is gone; the link itself is held by the record behind it.
        if amended_hash(record) != record.amended:
            raise JournalCorrupt(f"control record {record.lsn} lost its body in another way")
        return record.chain
    chain = next_chain(chain_before, record.lsn, record.kind, record.by, record.at_ms, record.body)
    if chain != record.chain:
        raise JournalCorrupt(f"control record {record.lsn} does not follow the record before it")
    return chain


def _make_job(kind: str, by: str, body: bytes, at_ms: int) -> _Append:
    if not 0 < len(kind) <= WORD_LIMIT or len(by) > WORD_LIMIT:
        raise ValueError("kind or author of a control record is empty or too long")
    if len(body) > BODY_LIMIT_BYTES:
        raise ValueError("the body of a control record is too large")
    if not -(1 << 63) <= at_ms < 1 << 63:
        raise ValueError("the time of a control record is out of range")
    return _Append(kind, by, bytes(body), at_ms)
