"""The watch list: persons about whom somebody must be told when they appear; who asked, and why.

A contact who is being looked for, or somebody who must stay at home (quarantine). Entries are
records of the control log, put there and taken off by role, with a purpose and a case, and each
ends by itself. Whom they name is sealed in the record; here they lie open, by person key, because
a lane asks before the disk is touched.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from engine.clock import DAY_MS
from engine.control import PersonKey, Record
from engine.errors import JournalCorrupt, SealBroken
from engine.identity.aliases import Aliases
from engine.identity.keys import KeyRing
from engine.identity.seals import seal

ADD_KIND: Final = "watch.add"
REMOVE_KIND: Final = "watch.remove"
SPAN_MAX_MS: Final = 366 * DAY_MS
ENTRIES_MAX: Final = 1_000_000
_AAD: Final = b"chot/watch/1\0"


class WatchKind(enum.StrEnum):
    WATCH = "watch"  # looked for: whoever meets this person calls the desk
    QUARANTINE = "quarantine"  # must stay at home


class WatchEntry(msgspec.Struct, frozen=True, kw_only=True):
    """number: LSN of its control record. persons: keys of one person's documents.

    It holds during [from_ms, to_ms). who, role, unit: of the grant that put it there.
    """

    number: int
    kind: WatchKind
    persons: tuple[bytes, ...]
    reason: str
    case: str
    purpose: str
    who: str
    role: str
    unit: str
    from_ms: int
    to_ms: int
    at_ms: int  # when it was put there

    def is_in_force(self, at_ms: int) -> bool:
        return self.from_ms <= at_ms < self.to_ms


class _Added(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a "watch.add" record. sealed: [[person keys], reason], to the ingest key."""

    kind: WatchKind
    case: str
    purpose: str
    role: str
    unit: str
    from_ms: int
    to_ms: int
    sealed: bytes


class _Removed(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a "watch.remove" record."""

    number: int
    case: str
    purpose: str
    role: str
    unit: str


_encode = msgspec.msgpack.Encoder().encode
_decode_added = msgspec.msgpack.Decoder(_Added).decode
_decode_removed = msgspec.msgpack.Decoder(_Removed).decode
_decode_sealed = msgspec.msgpack.Decoder(tuple[tuple[PersonKey, ...], str]).decode


def entry_to_body(entry: WatchEntry, keyring: KeyRing) -> bytes:
    """Of the record that adds it; number, who and at_ms are the record's own."""
    sealed = seal(keyring.ingest_public(), _encode((entry.persons, entry.reason)), _AAD)
    return _encode(
        _Added(
            kind=entry.kind,
            case=entry.case,
            purpose=entry.purpose,
            role=entry.role,
            unit=entry.unit,
            from_ms=entry.from_ms,
            to_ms=entry.to_ms,
            sealed=sealed,
        )
    )


def removal_to_body(number: int, *, case: str, purpose: str, role: str, unit: str) -> bytes:
    return _encode(_Removed(number=number, case=case, purpose=purpose, role=role, unit=unit))


def persons_named(record: Record, keyring: KeyRing) -> tuple[bytes, ...]:
    """Whom a record of the control log names; nobody in those of other kinds. Raises SealBroken."""
    if record.kind != ADD_KIND:
        return ()
    sealed = _decode_added(record.body).sealed
    return _decode_sealed(keyring.open_ingest(sealed, _AAD))[0]


class WatchList:
    """Entries that were added and not removed; one instance an engine, used from one thread."""

    def __init__(self, keyring: KeyRing) -> None:
        self._keyring = keyring
        self._entries: dict[int, WatchEntry] = {}
        self._by_person: dict[bytes, list[WatchEntry]] = {}
        self._aliases = Aliases()

    def __len__(self) -> int:
        return len(self._entries)

    def apply(self, record: Record) -> None:
        """Takes in one record of the control log; those of other kinds are skipped.

        Raises JournalCorrupt: an engine that forgot whom to stop must not open its doors.
        """
        try:
            if record.kind == ADD_KIND:
                self._add(record, _decode_added(record.body))
            elif record.kind == REMOVE_KIND:
                self.drop(_decode_removed(record.body).number)
        except (msgspec.MsgspecError, UnicodeDecodeError, SealBroken):
            raise JournalCorrupt(
                f"control record {record.lsn} of the watch list does not open"
            ) from None

    def _add(self, record: Record, added: _Added) -> None:
        plain = self._keyring.open_ingest(added.sealed, _AAD)
        stored, reason = _decode_sealed(plain)
        persons = tuple(self._keyring.renew_person(person, record.lsn) for person in stored)
        self.put(
            WatchEntry(
                number=record.lsn,
                kind=added.kind,
                persons=persons,
                reason=reason,
                case=added.case,
                purpose=added.purpose,
                who=record.by,
                role=added.role,
                unit=added.unit,
                from_ms=added.from_ms,
                to_ms=added.to_ms,
                at_ms=record.at_ms,
            )
        )

    def put(self, entry: WatchEntry) -> None:
        self._entries[entry.number] = entry
        for person in self._everybody(entry):
            self._by_person.setdefault(person, []).append(entry)

    def set_aliases(self, aliases: Aliases) -> None:
        """From now on an entry about one key of a person is found under the others too."""
        self._aliases = aliases
        self._by_person = {}
        for number in sorted(self._entries):
            self.put(self._entries[number])

    def _everybody(self, entry: WatchEntry) -> Iterable[bytes]:
        keys = (key for person in entry.persons for key in self._aliases.all_of(person))
        return dict.fromkeys(keys)

    def drop(self, number: int) -> WatchEntry | None:
        """The entry that was there."""
        entry = self._entries.pop(number, None)
        for person in self._everybody(entry) if entry else ():
            rest = [other for other in self._by_person[person] if other.number != number]
            if rest:
                self._by_person[person] = rest
            else:
                del self._by_person[person]
        return entry

    def drop_ended(self, before_ms: int) -> list[int]:
        """Forgets what ended before the instant: nobody is kept without a reason. Their numbers."""
        ended = [entry.number for entry in self._entries.values() if entry.to_ms <= before_ms]
        for number in ended:
            self.drop(number)
        return ended

    def forget(self, is_erased: Callable[[bytes], bool]) -> None:
        """Drops entries about the erased."""
        found = {
            entry.number
            for person, entries in self._by_person.items()
            if is_erased(person)
            for entry in entries
        }
        for number in found:
            self.drop(number)

    def get(self, number: int) -> WatchEntry | None:
        return self._entries.get(number)

    def may_find(self, persons: Iterable[bytes]) -> bool:
        """Whether there is an entry about any of them, in force or not."""
        return not self._by_person.keys().isdisjoint(persons)

    def find(self, person: bytes, at_ms: int) -> list[WatchEntry]:
        """Entries about this person in force at the instant."""
        found = self._by_person.get(person)
        return [entry for entry in found if entry.is_in_force(at_ms)] if found else []

    def entries(self) -> list[WatchEntry]:
        """In the order of their numbers."""
        return [self._entries[number] for number in sorted(self._entries)]
