"""Holds: days that are kept beyond their time, for an open case, until a date.

A hold names a span of days, or a person; then it keeps the days on which that person was seen,
whole, because a case asks who else was there. It ends by itself, and what it kept goes then. Holds
are records of the control log; whom one names, and why, is sealed in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

import msgspec

from engine.clock import ms_to_day
from engine.control import PersonKey, Record
from engine.errors import JournalCorrupt, SealBroken
from engine.identity.keys import KeyRing
from engine.identity.seals import seal
from engine.presence.visits import Array

ADD_KIND: Final = "hold.add"
END_KIND: Final = "hold.end"
DAYS_MAX: Final = 400  # of one hold's span
HOLDS_MAX: Final = 10_000
_AAD: Final = b"chot/hold/1\0"

DaysOf = Callable[[Collection[bytes]], Iterable[int]]  # civil days on which a person was seen


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """number: LSN of its control record. case: number of the case it is for.

    It keeps first_day to last_day, both kept, or (where these are None) the days of the person with
    these keys; until until_ms. who, role, unit: of the grant that set it, at at_ms.
    """

    number: int
    case: str
    reason: str
    first_day: int | None
    last_day: int | None
    persons: tuple[bytes, ...]
    until_ms: int
    who: str
    role: str
    unit: str
    at_ms: int

    def days(self, days_of: DaysOf) -> set[int]:
        if self.first_day is not None and self.last_day is not None:
            return set(range(self.first_day, self.last_day + 1))
        return set(days_of(self.persons))


class _Added(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a "hold.add" record. sealed: [[person keys], reason], to the ingest key."""

    case: str
    role: str
    unit: str
    first_day: int | None
    last_day: int | None
    until_ms: int
    sealed: bytes


class _Ended(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a "hold.end" record. case: of the hold."""

    number: int
    case: str
    role: str
    unit: str


_encode = msgspec.msgpack.Encoder().encode
_decode_added = msgspec.msgpack.Decoder(_Added).decode
_decode_ended = msgspec.msgpack.Decoder(_Ended).decode
_decode_sealed = msgspec.msgpack.Decoder(tuple[tuple[PersonKey, ...], str]).decode


def hold_to_body(hold: Hold, keyring: KeyRing) -> bytes:
    """Of the record that adds it; number, who and at_ms are the record's own."""
    sealed = seal(keyring.ingest_public(), _encode((hold.persons, hold.reason)), _AAD)
    return _encode(
        _Added(
            case=hold.case,
            role=hold.role,
            unit=hold.unit,
            first_day=hold.first_day,
            last_day=hold.last_day,
            until_ms=hold.until_ms,
            sealed=sealed,
        )
    )


def end_to_body(number: int, *, case: str, role: str, unit: str) -> bytes:
    return _encode(_Ended(number=number, case=case, role=role, unit=unit))


def persons_named(record: Record, keyring: KeyRing) -> tuple[bytes, ...]:
    """Whom a record of the control log names; nobody in those of other kinds. Raises SealBroken."""
    if record.kind != ADD_KIND:
        return ()
    sealed = _decode_added(record.body).sealed
    return _decode_sealed(keyring.open_ingest(sealed, _AAD))[0]


class Holds:
    """Holds that were not ended; one instance an engine, changed from one thread."""

    def __init__(self, keyring: KeyRing) -> None:
        self._keyring = keyring
        self._holds: dict[int, Hold] = {}

    def __len__(self) -> int:
        return len(self._holds)

    def apply(self, record: Record) -> None:
        """Takes in one record of the control log; those of other kinds are skipped.

        Raises JournalCorrupt: an engine that does not know what to keep would forget it.
        """
        try:
            if record.kind == ADD_KIND:
                self._add(record, _decode_added(record.body))
            elif record.kind == END_KIND:
                self.drop(_decode_ended(record.body).number)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, SealBroken):
            raise JournalCorrupt(f"control record {record.lsn} of a hold does not open") from None

    def _add(self, record: Record, added: _Added) -> None:
        persons, reason = _decode_sealed(self._keyring.open_ingest(added.sealed, _AAD))
        self.put(
            Hold(
                number=record.lsn,
                case=added.case,
                reason=reason,
                first_day=added.first_day,
                last_day=added.last_day,
                persons=persons,
                until_ms=added.until_ms,
                who=record.by,
                role=added.role,
                unit=added.unit,
                at_ms=record.at_ms,
            )
        )

    def put(self, hold: Hold) -> None:
        self._holds[hold.number] = hold

    def drop(self, number: int) -> Hold | None:
        """The hold that was there."""
        return self._holds.pop(number, None)

    def get(self, number: int) -> Hold | None:
        return self._holds.get(number)

    def forget(self, is_erased: Callable[[bytes], bool]) -> None:
        """Drops holds that name the erased."""
        holds = self._holds.values()
        found = [hold.number for hold in holds if any(map(is_erased, hold.persons))]
        for number in found:
            del self._holds[number]

    def in_force(self, now_ms: int) -> list[Hold]:
        """In the order of their numbers."""
        return [self._holds[n] for n in sorted(self._holds) if now_ms < self._holds[n].until_ms]

    def ended(self, now_ms: int) -> list[Hold]:
        """Those that have come to their end by themselves."""
        return [hold for hold in self._holds.values() if hold.until_ms <= now_ms]


def days_seen(visits: Array) -> set[int]:
    """Civil days of visits (VISIT)."""
    spans = zip(visits["start_ms"].tolist(), visits["end_ms"].tolist(), strict=True)
    return {day for first, last in spans for day in range(ms_to_day(first), ms_to_day(last) + 1)}


def days_held(holds: Iterable[Hold], days_of: DaysOf) -> dict[int, list[int]]:
    """Civil day to the numbers of the holds that keep it."""
    found: dict[int, list[int]] = {}
    for hold in holds:
        for day in hold.days(days_of):
            found.setdefault(day, []).append(hold.number)
    return found
