"""Erasing a person: what is remembered of it, and what it leaves of rows.

A person is erased up to an instant, and so is every row of theirs from before it that comes later
or comes back; what they do afterwards is kept as of anybody. What says so names nobody: a tag per
person key, which only the key ring can compute (KeyRing.erasure_tag).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import numpy as np

from engine.clock import day_to_ms
from engine.errors import JournalCorrupt, SealBroken
from engine.identity.keys import KeyRing
from engine.presence.visits import Array
from engine.scans.rows import NO_TEMPERATURE, ROW, Kind
from engine.storage.group import (
    RawGroup,
    amend_bytes,
    details_aad,
    open_group,
    pack_details,
    split_details,
)
from engine.storage.journal import Part, RecordBatch

BEGIN_KIND: Final = "erasure.begin"
DONE_KIND: Final = "erasure.done"
_CLEAN_MAX: Final = 1 << 20  # person keys that are known to be nobody erased


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """tags: of the keys of one person, 16 bytes each. until_ms: rows from before it are erased.

    Body of an "erasure.begin" record; case, role and unit are of whoever asked for it.
    """

    tags: tuple[bytes, ...]
    until_ms: int
    case: str = ""
    role: str = ""
    unit: str = ""


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """Body of an "erasure.done" record.

    number: LSN of the record that began it. groups, records: of the scan log and the control log,
    as they stand now: LSN to SHA-256, so that a check can tell an erasure from tampering.
    """

    number: int
    rows: int
    groups: dict[int, bytes]
    records: dict[int, bytes]


_decode_begun = msgspec.msgpack.Decoder(Erasure).decode
_decode_done = msgspec.msgpack.Decoder(Erased).decode


def body_to_erasure(body: bytes) -> Erasure:
    """Raises JournalCorrupt."""
    try:
        return _decode_begun(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise JournalCorrupt("a record of an erasure is not readable") from None


def body_to_erased(body: bytes) -> Erased:
    """Raises JournalCorrupt."""
    try:
        return _decode_done(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise JournalCorrupt("a record of an erasure is not readable") from None


class Erasures:
    """Who was erased and up to when; used from one thread at a time."""

    def __init__(self, keyring: KeyRing) -> None:
        self._keyring = keyring
        self._until_ms: dict[bytes, int] = {}  # by tag
        self._newest_ms = -(1 << 62)
        self._clean: set[bytes] = set()
        self.late_rows = 0  # that came after their person was erased, and were not stored

    def __len__(self) -> int:
        return len(self._until_ms)

    def put(self, erasure: Erasure) -> None:
        for tag in erasure.tags:
            self._until_ms[tag] = max(erasure.until_ms, self._until_ms.get(tag, -(1 << 62)))
        self._newest_ms = max(self._newest_ms, erasure.until_ms)
        self._clean.clear()

    def drop_before(self, before_ms: int) -> None:
        """Forgets erasures of rows that would be refused as too old in any case."""
        self._until_ms = {t: ms for t, ms in self._until_ms.items() if ms > before_ms}
        self._newest_ms = max(self._until_ms.values(), default=-(1 << 62))

    def find(self, rows: Array) -> Array:
        """Mask of the rows (ROW) that are erased."""
        found = np.zeros(len(rows), bool)
        for at in np.flatnonzero(rows["time_ms"] < self._newest_ms).tolist():
            found[at] = self._is_erased(rows["person"][at].tobytes(), int(rows["time_ms"][at]))
        return found

    def _is_erased(self, person: bytes, time_ms: int) -> bool:
        if person in self._clean:
            return False
        tags = map(self._keyring.erasure_tag, self._keyring.spellings(person))
        until_ms = next((self._until_ms[tag] for tag in tags if tag in self._until_ms), None)
        if until_ms is None:
            if len(self._clean) >= _CLEAN_MAX:
                self._clean.clear()
            self._clean.add(person)
            return False
        return time_ms < until_ms

    def strip(self, batch: RecordBatch) -> RecordBatch:
        """The batch without rows of the erased; these are counted in `late_rows`."""
        if not self._until_ms:
            return batch
        count, parts = 0, []
        for part in batch.parts:
            rows = np.frombuffer(part.rows, ROW)
            gone = self.find(rows)
            if gone.any():
                count += int(gone.sum())
                part = _without(part, rows, gone)
            parts.append(part)
        if count:
            self.late_rows += count
            batch = msgspec.structs.replace(batch, parts=[part for part in parts if part.rows])
        return batch


def _without(part: Part, rows: Array, gone: Array) -> Part:
    details = part.details
    if details:
        entries = split_details(details, len(rows))
        details = pack_details(entries[at] for at in np.flatnonzero(~gone).tolist())
    return Part(part.day, rows[~gone].tobytes(), details)


def tags_of(persons: Iterable[bytes], keyring: KeyRing) -> tuple[bytes, ...]:
    return tuple(sorted({keyring.erasure_tag(person) for person in persons}))


def erase_rows(raw: RawGroup, keyring: KeyRing, erasures: Erasures) -> bytes | None:
    """The group without those rows and what was told with them, None where it has none of them.

    A row's place in the group stays, and n, its place in its message: other rows keep theirs.
    Raises JournalCorrupt, KeyMissing.
    """
    if not raw.row_count or raw.is_expired:
        return None
    opened = open_group(raw, keyring)
    gone = erasures.find(opened.rows)
    if not gone.any():
        return None
    rows = opened.rows.copy()
    blank = np.zeros(int(gone.sum()), ROW)
    blank["n"] = rows["n"][gone]
    blank["kind"] = Kind.ERASED
    blank["time_ms"] = day_to_ms(raw.day)
    blank["temperature_cc"] = NO_TEMPERATURE
    rows[gone] = blank
    details = raw.details_sealed
    if details:
        aad = details_aad(raw.lsn, raw.day, raw.row_count)
        try:
            details = keyring.change_details(
                raw.day, details, aad, lambda plain: _blanked(plain, raw.row_count, gone)
            )
        except (SealBroken, ValueError):
            details = b""  # nobody can read them any more, so nobody loses them
    return amend_bytes(raw, rows.tobytes(), details, keyring)


def _blanked(details: bytes, count: int, gone: Array) -> bytes:
    entries = split_details(details, count)
    for at in np.flatnonzero(gone).tolist():
        entries[at] = b""
    return pack_details(entries)


class Amended:
    """What erasures left in the two logs, as their records say it; for checks."""

    def __init__(self) -> None:
        self.groups: dict[int, bytes] = {}
        self.records: dict[int, bytes] = {}
        self.begun: dict[int, Erasure] = {}  # by LSN
        self.unfinished: dict[int, Erasure] = {}  # by LSN

    def apply(self, lsn: int, kind: str, body: bytes) -> None:
        """One record of the control log. Raises JournalCorrupt."""
        if kind == BEGIN_KIND:
            self.unfinished[lsn] = body_to_erasure(body)
            self.begun[lsn] = self.unfinished[lsn]
        elif kind == DONE_KIND:
            done = body_to_erased(body)
            self.unfinished.pop(done.number, None)
            self.groups.update(done.groups)
            self.records.update(done.records)

    def knows(self, erasure: Erasure) -> bool:
        """Whether a record began the erasure of these tags up to this instant or later."""
        return any(
            set(erasure.tags) <= set(begun.tags) and erasure.until_ms <= begun.until_ms
            for begun in self.begun.values()
        )

    def strange(self, found: Mapping[int, bytes], known: Mapping[int, bytes]) -> list[int]:
        """Of amended groups or records (LSN to SHA-256) those that no erasure left like that.

        While an erasure is under way nobody can tell.
        """
        if self.unfinished:
            return []
        return sorted(lsn for lsn, digest in found.items() if known.get(lsn) != digest)
