"""A group: what one commit makes durable of one day, and its bytes in the log.

    header 128 | runs 32 each | tallies 24 each | sealed rows | sealed details     (docs/storage.md)

The CRC covers header, runs and tallies, the hash in the header covers what is sealed, and the
header carries the hash of the group before it. Forgetting a day keeps header, runs and tallies:
watermarks and the chain survive, the people do not. Erasing a person keeps the head as well and
seals the rows anew, with an amendment before them that says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from engine.errors import JournalCorrupt, KeyDestroyed, SealBroken
from engine.identity import keys
from engine.scans.rows import ROW, ROW_SIZE, Kind
from native.rows import split_entries

RUN = np.dtype(
    [
        ("gateway", "<u4"),
        ("cls", "u1"),  # 0 durable, 1 volatile, as in CKP/1
        ("piece", "u1"),  # 0, 1 .. when one run stands in several groups; stays at 255
        ("rows", "<u2"),  # how many of the group's rows this run brought, in the runs' order
        ("epoch", "<u8"),
        ("first", "<u8"),
        ("last", "<u8"),
    ]
)
TALLY = np.dtype(
    [
        ("place", "<u4"),
        ("lane", "<u2"),
        ("reason", "<u2"),
        ("count", "<u4"),
        ("pad", "<u4"),
        ("time_ms", "<i8"),
    ]
)
assert RUN.itemsize == 32
assert TALLY.itemsize == 24

GROUP_LIMIT_BYTES = 1 << 20  # plain bytes of one group: one commit is one wait for all in it

MAGIC = b"CHJG"
VERSION = 1
EXPIRED = 1
AMENDED = 2
HEADER = struct.Struct("<4sBBHQiIIIIIq12sI32s32s")
HEADER_SIZE = HEADER.size
assert HEADER_SIZE == 128
_PREFIX_SIZE = 60  # magic .. nonce: the part that is fixed before anything is sealed
_RUN_PACK = struct.Struct("<IBBHQQQ")
_SIZE_PACK = struct.Struct("<I")
_DETAILS_AAD = struct.Struct("<QiI")
GCM_TAG_SIZE = 16
LAST_PIECE = 255
# Of an amended group, between its head and what is sealed: nonce, rows erased, sizes of sealed rows
# and details, SHA-256 of these and of what is sealed.
AMENDMENT = struct.Struct("<12sIII32s")
_AMENDED_FIELDS = struct.Struct("<12sIII")
_AMENDED_LABEL = b"chot/amended/1\0"


@dataclass(slots=True)
class Group:
    """What a reader gets: arrays over the bytes of one group, read-only.

    runs RUN[], rows ROW[], tallies TALLY[]. An expired group has no rows and no details.
    """

    lsn: int
    day: int
    runs: np.ndarray[Any, Any]
    rows: np.ndarray[Any, Any]
    tallies: np.ndarray[Any, Any]
    first_arrival_ms: int
    details_sealed: bytes
    is_expired: bool


class SealedDetails(msgspec.Struct, frozen=True):
    """The details of one group as the desk opens them: `DeskKeys.open_details(day, sealed, aad)`.

    What opens is for `split_details`: entry i belongs to row i of the group. sealed is empty when
    no row of the group has details.
    """

    lsn: int
    day: int
    count: int
    sealed: bytes
    aad: bytes


@dataclass(slots=True)
class Draft:
    """A group before it has its LSN: plain bytes of one day."""

    day: int
    first_arrival_ms: int
    runs: list[bytes] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    details: list[bytes] = field(default_factory=list)
    tallies: list[bytes] = field(default_factory=list)
    size: int = 0
    has_details: bool = False


def walk_details(details: bytes, count: int) -> Iterator[memoryview]:
    """The details of each row. Raises ValueError when they are not exactly `count` entries."""
    view = memoryview(details)
    position = 0
    for _ in range(count):
        if position + 4 > len(view):
            raise ValueError("details end before the last row")
        (size,) = _SIZE_PACK.unpack_from(view, position)
        position += 4
        if position + size > len(view):
            raise ValueError("details of a row reach beyond the end")
        yield view[position : position + size]
        position += size
    if position != len(view):
        raise ValueError("details hold more entries than there are rows")


def split_details(details: bytes, count: int) -> list[bytes]:
    """Opened details of a group, one entry for each row; b"" where a row has none.

    Raises ValueError.
    """
    if not details:
        return [b""] * count
    return split_entries(details, count)


def pack_details(entries: Iterable[bytes]) -> bytes:
    """The `details` of a Part from one entry for each row (b"" for none)."""
    return b"".join(_SIZE_PACK.pack(len(entry)) + entry for entry in entries)


@dataclass(slots=True)
class RawGroup:
    """A group taken apart but not opened. `link` is what the next group's chain must be."""

    lsn: int
    day: int
    is_expired: bool
    row_count: int
    first_arrival_ms: int
    nonce: bytes
    chain: bytes
    link: bytes
    runs: bytes
    tallies: bytes
    sealed_rows: bytes
    details_sealed: bytes
    plain_head: bytes  # header with flags and CRC zero, runs, tallies
    amended: bytes = b""  # SHA-256 in the amendment; empty where nothing was amended
    erased: int = 0  # rows that an amendment took away

    def iter_runs(self) -> Iterator[tuple[int, int, int, int, int, int, int]]:
        """(gateway, class, piece, rows, epoch, first, last) for each run."""
        return _RUN_PACK.iter_unpack(self.runs)


def pack_run(
    gateway: int, cls: int, piece: int, rows: int, epoch: int, first: int, last: int
) -> bytes:
    """One RUN."""
    return _RUN_PACK.pack(gateway, cls, min(piece, LAST_PIECE), rows, epoch, first, last)


def genesis(store_id: bytes) -> bytes:
    """The chain of the first group: groups cannot be carried from one store to another."""
    return hashlib.sha256(b"chot/journal/1\0" + store_id).digest()


def details_aad(lsn: int, day: int, count: int) -> bytes:
    """What the sealed details of a group are bound to."""
    return b"chot/details/1\0" + _DETAILS_AAD.pack(lsn, day, count)


def seal_group(
    draft: Draft, lsn: int, chain: bytes, ring: keys.KeyRing
) -> tuple[bytes, Group, bytes]:
    """Bytes of a group, the group as a reader would get it, and its link.

    Rows: AES-256-GCM under the day's key with a random nonce, because an LSN is used again after
    a failed commit. Raises KeyDestroyed, KeyMissing.
    """
    runs, tallies = b"".join(draft.runs), b"".join(draft.tallies)
    rows = b"".join(draft.rows)
    row_count = len(rows) // ROW_SIZE
    nonce = _draw_nonce()
    details_sealed = b""
    if draft.has_details:
        aad = details_aad(lsn, draft.day, row_count)
        details = b"".join(draft.details)
        details_sealed = ring.seal_details(draft.day, _draw_nonce(), details, aad)
    fields = (
        MAGIC, VERSION, 0, 0, lsn, draft.day, len(runs) // RUN.itemsize,
        len(tallies) // TALLY.itemsize, row_count, _rows_size(row_count), len(details_sealed),
        draft.first_arrival_ms, nonce, 0,
    )  # fmt: skip
    sealed_rows = b""
    if rows:
        aad = HEADER.pack(*fields, b"", b"")[:_PREFIX_SIZE] + runs + tallies
        sealed_rows = keys.encrypt(ring.log_key(draft.day), nonce, rows, aad)
    plain_head = HEADER.pack(*fields, _digest(sealed_rows + details_sealed), chain) + runs + tallies
    group = Group(
        lsn, draft.day, np.frombuffer(runs, RUN), np.frombuffer(rows, ROW),
        np.frombuffer(tallies, TALLY), draft.first_arrival_ms, details_sealed, False,
    )  # fmt: skip
    data = _stored_head(plain_head, 0) + sealed_rows + details_sealed
    return data, group, _digest(plain_head)


def bytes_to_raw(data: bytes | memoryview, *, is_head_only: bool = False) -> RawGroup:
    """Take a group apart and check it: layout, CRC of the head, hash of the sealed content.

    is_head_only: leave the sealed content unread and unchecked (opening a store reads heads).
    Raises JournalCorrupt.
    """
    if len(data) < HEADER_SIZE:
        raise JournalCorrupt("a group is shorter than its header")
    (
        magic, version, flags, reserved, lsn, day, run_count, tally_count, row_count, rows_size,
        details_size, first_arrival_ms, nonce, crc, content, chain,
    ) = HEADER.unpack_from(data)  # fmt: skip
    if magic != MAGIC or version != VERSION or flags not in (0, EXPIRED, AMENDED) or reserved:
        raise JournalCorrupt("a group has no header of this version")
    is_expired = flags == EXPIRED
    runs_end = HEADER_SIZE + run_count * RUN.itemsize
    head_end = runs_end + tally_count * TALLY.itemsize
    begin, amended, amended_fields, erased = head_end, b"", b"", 0
    if flags == AMENDED:
        if len(data) < head_end + AMENDMENT.size:
            raise JournalCorrupt(f"group {lsn}: its amendment is cut short")
        nonce, erased, rows_size, details_size, content = AMENDMENT.unpack_from(data, head_end)
        begin, amended = head_end + AMENDMENT.size, content
        amended_fields = bytes(data[head_end : head_end + _AMENDED_FIELDS.size])
    rows_end = begin + rows_size
    end = head_end if is_expired else rows_end + details_size
    if len(data) != end or rows_size != _rows_size(row_count):
        raise JournalCorrupt(f"group {lsn}: its size does not agree with its counts")
    head = bytes(data[:head_end])
    plain_head = b"".join((head[:5], b"\0", head[6:_PREFIX_SIZE], bytes(4), head[64:]))
    if _crc(plain_head, flags) != crc:
        raise JournalCorrupt(f"group {lsn}: checksum of the head is wrong")
    sealed_rows = details_sealed = b""
    if not is_head_only and not is_expired:
        sealed_rows, details_sealed = bytes(data[begin:rows_end]), bytes(data[rows_end:end])
        if _digest(amended_fields + sealed_rows + details_sealed) != content:
            raise JournalCorrupt(f"group {lsn}: hash of the sealed content is wrong")
    return RawGroup(
        lsn, day, is_expired, row_count, first_arrival_ms, nonce, chain,
        hashlib.sha256(plain_head).digest(), head[HEADER_SIZE:runs_end], head[runs_end:head_end],
        sealed_rows, details_sealed, plain_head, amended, erased,
    )  # fmt: skip


def open_group(raw: RawGroup, ring: keys.KeyRing) -> Group:
    """Open the rows. A group whose key was destroyed is expired, whatever its flag says yet.

    Raises JournalCorrupt when the rows do not open, KeyMissing when the day's key is lost.
    """
    rows, details_sealed, is_expired = b"", raw.details_sealed, raw.is_expired
    if raw.row_count and not is_expired:
        try:
            key = ring.log_key(raw.day, make=False)
            rows = keys.decrypt(key, raw.nonce, raw.sealed_rows, _rows_aad(raw, bool(raw.amended)))
        except KeyDestroyed:
            details_sealed, is_expired = b"", True
        except SealBroken as error:
            raise JournalCorrupt(f"group {raw.lsn}: the day's key does not open it") from error
    return Group(
        raw.lsn, raw.day, np.frombuffer(raw.runs, RUN), np.frombuffer(rows, ROW),
        np.frombuffer(raw.tallies, TALLY), raw.first_arrival_ms, details_sealed, is_expired,
    )  # fmt: skip


def bytes_to_group(data: bytes, ring: keys.KeyRing) -> Group:
    """Any bytes give a group or JournalCorrupt (KeyMissing where the day never had a key)."""
    return open_group(bytes_to_raw(data), ring)


def open_renewed(raw: RawGroup, ring: keys.KeyRing) -> Group:
    """As open_group, with persons and vehicles as the province's keys make them today."""
    found = open_group(raw, ring)
    return replace(found, rows=ring.renew_rows(found.rows, raw.lsn))


def expire_bytes(raw: RawGroup) -> bytes:
    """The group without its people: header, runs and tallies, marked. The link stays the same."""
    return _stored_head(raw.plain_head, EXPIRED)


def amend_bytes(raw: RawGroup, rows: bytes, details_sealed: bytes, ring: keys.KeyRing) -> bytes:
    """The group with these rows, as many as it had, and these details, under the key of its day.

    Head and link stay: they still name what the group was made with. Raises ValueError for another
    number of rows, KeyDestroyed, KeyMissing.
    """
    if len(rows) != raw.row_count * ROW_SIZE or raw.is_expired:
        raise ValueError("an amended group has as many rows as before")
    nonce = _draw_nonce()
    key = ring.log_key(raw.day, make=False)
    sealed_rows = keys.encrypt(key, nonce, rows, _rows_aad(raw, is_amended=True))
    erased = int((np.frombuffer(rows, ROW)["kind"] == Kind.ERASED).sum())
    fields = _AMENDED_FIELDS.pack(nonce, erased, len(sealed_rows), len(details_sealed))
    digest = _digest(fields + sealed_rows + details_sealed)
    head = _stored_head(raw.plain_head, AMENDED)
    return b"".join((head, fields, digest, sealed_rows, details_sealed))


def _rows_aad(raw: RawGroup, is_amended: bool) -> bytes:
    """What the sealed rows are bound to."""
    head = raw.plain_head[:_PREFIX_SIZE] + raw.plain_head[HEADER_SIZE:]
    return _AMENDED_LABEL + head if is_amended else head


def raw_to_details(raw: RawGroup, ring: keys.KeyRing) -> SealedDetails:
    """Raises KeyDestroyed for a forgotten group."""
    if raw.is_expired:
        raise KeyDestroyed(f"the details of group {raw.lsn} were forgotten")
    if raw.details_sealed:
        ring.log_key(raw.day, make=False)  # raises when the day is being forgotten just now
    aad = details_aad(raw.lsn, raw.day, raw.row_count)
    return SealedDetails(raw.lsn, raw.day, raw.row_count, raw.details_sealed, aad)


# A call that gives the GIL up waits for it afterwards, beside a busy event loop for longer than the
# call itself takes. So nonces are drawn many at once, and small groups are hashed in pieces for
# which hashlib keeps it.
_NONCE_SIZE = 12
_NONCES = 512
_KEPT_BYTES = 2047  # hashlib gives the GIL up for more
_PIECES_LIMIT_BYTES = 64 << 10
_nonces: list[bytes] = []
os.register_at_fork(after_in_child=_nonces.clear)  # a nonce is used by one process only


def _draw_nonce() -> bytes:
    while True:
        with contextlib.suppress(IndexError):  # empty, or another thread took the last one
            return _nonces.pop()
        drawn = os.urandom(_NONCES * _NONCE_SIZE)
        _nonces.extend(drawn[at : at + _NONCE_SIZE] for at in range(0, len(drawn), _NONCE_SIZE))


def _digest(data: bytes) -> bytes:
    """SHA-256."""
    if len(data) > _PIECES_LIMIT_BYTES:
        return hashlib.sha256(data).digest()
    made, view = hashlib.sha256(), memoryview(data)
    for at in range(0, len(data), _KEPT_BYTES):
        made.update(view[at : at + _KEPT_BYTES])
    return made.digest()


def _rows_size(row_count: int) -> int:
    return row_count * ROW_SIZE + GCM_TAG_SIZE if row_count else 0


def _crc(plain_head: bytes, flags: int) -> int:
    return zlib.crc32(plain_head, flags)


def _stored_head(plain_head: bytes, flags: int) -> bytes:
    crc = _SIZE_PACK.pack(_crc(plain_head, flags))
    parts = (plain_head[:5], bytes((flags,)), plain_head[6:_PREFIX_SIZE], crc, plain_head[64:])
    return b"".join(parts)
