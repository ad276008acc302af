"""Merges: who said that several keys are one person, and why; and which rows somebody looked at.

A merge is a record of the control log and so is its undoing: nothing that was stored is written
again, and what holds now is the set of merges that were not undone (engine.identity.aliases). Whom
a record names is sealed in it, with the words that say why; here the keys lie open, as the index
needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from engine.control import PersonKey, Record
from engine.errors import JournalCorrupt, SealBroken
from engine.identity.aliases import Aliases
from engine.identity.keys import KeyRing
from engine.identity.seals import seal

ADD_KIND: Final = "merge.add"
UNDO_KIND: Final = "merge.undo"
REVIEW_KIND: Final = "review.close"
REOPEN_KIND: Final = "review.reopen"
MERGES_MAX: Final = 100_000
KEYS_MAX: Final = 32  # of one person
_AAD: Final = b"chot/merge/1\0"


class Merge(msgspec.Struct, frozen=True, kw_only=True):
    """number: LSN of its control record. persons: keys of one person, two or more.

    documents: of which kinds they are. why: what was seen, in the words of who, with role and unit.
    """

    number: int
    persons: tuple[bytes, ...]
    documents: tuple[str, ...]
    why: str
    case: str
    purpose: str
    who: str
    role: str
    unit: str
    at_ms: int


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    """Of every record here. number: of the merge that is undone. sealed: [[person keys], why]."""

    case: str
    purpose: str
    role: str
    unit: str
    sealed: bytes
    documents: tuple[str, ...] = ()
    number: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode_body = msgspec.msgpack.Decoder(_Body).decode
_decode_sealed = msgspec.msgpack.Decoder(tuple[tuple[PersonKey, ...], str]).decode


def merge_to_body(merge: Merge, keyring: KeyRing, number: int = 0) -> bytes:
    """Of a record of any kind above; number: of the merge that it undoes."""
    sealed = seal(keyring.ingest_public(), _encode((merge.persons, merge.why)), _AAD)
    return _encode(
        _Body(
            case=merge.case, purpose=merge.purpose, role=merge.role, unit=merge.unit,
            sealed=sealed, documents=merge.documents, number=number,
        )
    )  # fmt: skip


def persons_named(record: Record, keyring: KeyRing) -> tuple[bytes, ...]:
    """Whom a record of the control log names; nobody in those of other kinds. Raises SealBroken."""
    if record.kind not in (ADD_KIND, UNDO_KIND, REVIEW_KIND, REOPEN_KIND):
        return ()
    return _decode_sealed(keyring.open_ingest(_decode_body(record.body).sealed, _AAD))[0]


class Merges:
    """Those that hold, and the persons whose flagged rows are settled; used from one thread."""

    def __init__(self, keyring: KeyRing) -> None:
        self._keyring = keyring
        self._entries: dict[int, Merge] = {}
        self._aliases: Aliases | None = Aliases()
        self.settled: set[bytes] = set()  # keys of persons who need not be looked at again
        self.ever: set[bytes] = set()  # keys of merges, undone or not

    def __len__(self) -> int:
        return len(self._entries)

    def apply(self, record: Record) -> None:
        """Takes in one record of the control log; those of other kinds are skipped.

        Raises JournalCorrupt: answers that make two of one person must not look whole.
        """
        if record.kind not in (ADD_KIND, UNDO_KIND, REVIEW_KIND, REOPEN_KIND):
            return
        try:
            body = _decode_body(record.body)
            stored, why = _decode_sealed(self._keyring.open_ingest(body.sealed, _AAD))
        except (msgspec.MsgspecError, UnicodeDecodeError, SealBroken):
            raise JournalCorrupt(f"control record {record.lsn} of a merge does not open") from None
        persons = tuple(self._keyring.renew_person(person, record.lsn) for person in stored)
        if record.kind == ADD_KIND:
            self.put(
                Merge(
                    number=record.lsn, persons=persons, documents=body.documents, why=why,
                    case=body.case, purpose=body.purpose, who=record.by, role=body.role,
                    unit=body.unit, at_ms=record.at_ms,
                )
            )  # fmt: skip
        elif record.kind == UNDO_KIND:
            self.drop(body.number)
        elif record.kind == REVIEW_KIND:
            self.settled.update(persons)
        else:
            self.settled.difference_update(persons)

    def put(self, merge: Merge) -> None:
        self._entries[merge.number] = merge
        self.ever.update(merge.persons)
        self._aliases = None

    def drop(self, number: int) -> Merge | None:
        """The merge that held."""
        self._aliases = None
        return self._entries.pop(number, None)

    def forget(self, is_erased: Callable[[bytes], bool]) -> None:
        """Drops merges and reviews that name the erased."""
        for merge in self.entries():
            if any(map(is_erased, merge.persons)):
                self.drop(merge.number)
        for keys in (self.settled, self.ever):
            keys.difference_update([key for key in keys if is_erased(key)])

    def get(self, number: int) -> Merge | None:
        return self._entries.get(number)

    def entries(self) -> list[Merge]:
        """In the order of their numbers."""
        return [self._entries[number] for number in sorted(self._entries)]

    def aliases(self) -> Aliases:
        """What all of them come to."""
        if self._aliases is None:
            self._aliases = Aliases(merge.persons for merge in self._entries.values())
        return self._aliases
