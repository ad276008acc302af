"""Corrections of stays: somebody who knows better gives a stay another end, or another begin.

A correction names a person, a venue and an instant; whatever scans come and in which order, it
holds for the stay of that person there which has that instant in it, as the scans give it (rule E
of docs/tracing.md). Of two for one stay the later one wins where they contradict. Corrections are
records of the control log, with whom they name and why sealed, and can be undone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from engine.clock import ms_to_day
from engine.control import PersonKey, Record
from engine.errors import JournalCorrupt, SealBroken
from engine.identity.keys import KeyRing
from engine.identity.seals import seal
from engine.presence.visits import Array, EndRule, VisitFlag

ADD_KIND: Final = "correction.add"
UNDO_KIND: Final = "correction.undo"
CORRECTIONS_MAX: Final = 100_000
_AAD: Final = b"chot/correction/1\0"


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """number: LSN of its control record. persons: keys of one person's documents.

    The stay at `place` with `inside_ms` in it begins at start_ms, ends at end_ms; None leaves it.
    who, role, unit: of the grant that made it, at at_ms.
    """

    number: int
    persons: tuple[bytes, ...]
    place: int
    inside_ms: int
    start_ms: int | None
    end_ms: int | None
    reason: str
    case: str
    who: str
    role: str
    unit: str
    at_ms: int


class _Added(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a "correction.add" record.

    sealed: [[person keys], place, inside_ms, start_ms, end_ms, reason], to the ingest key.
    """

    case: str
    role: str
    unit: str
    sealed: bytes


class _Undone(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a "correction.undo" record."""

    number: int
    case: str
    role: str
    unit: str


_encode = msgspec.msgpack.Encoder().encode
_decode_added = msgspec.msgpack.Decoder(_Added).decode
_decode_undone = msgspec.msgpack.Decoder(_Undone).decode
_decode_sealed = msgspec.msgpack.Decoder(
    tuple[tuple[PersonKey, ...], int, int, int | None, int | None, str]
).decode


def correction_to_body(found: Correction, keyring: KeyRing) -> bytes:
    """Of the record that adds it; number, who and at_ms are the record's own."""
    inner = (
        found.persons, found.place, found.inside_ms, found.start_ms, found.end_ms, found.reason,
    )  # fmt: skip
    sealed = seal(keyring.ingest_public(), _encode(inner), _AAD)
    return _encode(_Added(case=found.case, role=found.role, unit=found.unit, sealed=sealed))


def undo_to_body(number: int, *, case: str, role: str, unit: str) -> bytes:
    return _encode(_Undone(number=number, case=case, role=role, unit=unit))


def persons_named(record: Record, keyring: KeyRing) -> tuple[bytes, ...]:
    """Whom a record of the control log names; nobody in those of other kinds. Raises SealBroken."""
    if record.kind != ADD_KIND:
        return ()
    sealed = _decode_added(record.body).sealed
    return _decode_sealed(keyring.open_ingest(sealed, _AAD))[0]


class Corrections:
    """Those that were made and not undone. Immutable, so that the index may hold it."""

    def __init__(
        self, found: Iterable[Correction] = (), *, touched: Collection[bytes] = ()
    ) -> None:
        """touched: keys of persons who had a correction before, and perhaps have none now."""
        self._by_number = {one.number: one for one in found}
        self._by_key: dict[bytes, list[Correction]] = {key: [] for key in touched}
        for number in sorted(self._by_number):
            for key in self._by_number[number].persons:
                self._by_key.setdefault(key, []).append(self._by_number[number])

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def keys(self) -> Collection[bytes]:
        """Persons with a correction now or before."""
        return self._by_key.keys()

    def of(self, person: bytes) -> Sequence[Correction]:
        """By number, the later ones last."""
        return self._by_key.get(person, ())

    def by_number(self, keys: Iterable[tuple[int, bytes]]) -> dict[int, Sequence[Correction]]:
        """keys: each with the number of its person."""
        found: dict[int, dict[int, Correction]] = {}
        for person, key in keys:
            found.setdefault(person, {}).update((one.number, one) for one in self.of(key))
        return {person: [own[n] for n in sorted(own)] for person, own in found.items()}

    def get(self, number: int) -> Correction | None:
        return self._by_number.get(number)

    def all(self) -> list[Correction]:
        return [self._by_number[number] for number in sorted(self._by_number)]

    def having(self, one: Correction) -> Corrections:
        return Corrections([*self._by_number.values(), one], touched=self.keys)

    def without(self, numbers: Collection[int]) -> Corrections:
        kept = [one for n, one in self._by_number.items() if n not in numbers]
        return Corrections(kept, touched=self.keys)


class CorrectionBook:
    """The corrections of an engine as the control log gives them; used from one thread."""

    def __init__(self, keyring: KeyRing) -> None:
        self._keyring = keyring
        self.corrections = Corrections()

    def apply(self, record: Record) -> None:
        """Takes in one record of the control log; those of other kinds are skipped.

        Raises JournalCorrupt.
        """
        try:
            if record.kind == ADD_KIND:
                self.corrections = self.corrections.having(self._opened(record))
            elif record.kind == UNDO_KIND:
                number = _decode_undone(record.body).number
                self.corrections = self.corrections.without({number})
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, SealBroken):
            raise JournalCorrupt(
                f"control record {record.lsn} of a correction does not open"
            ) from None

    def _opened(self, record: Record) -> Correction:
        added = _decode_added(record.body)
        plain = self._keyring.open_ingest(added.sealed, _AAD)
        persons, place, inside_ms, start_ms, end_ms, reason = _decode_sealed(plain)
        return Correction(
            number=record.lsn, persons=persons, place=place, inside_ms=inside_ms,
            start_ms=start_ms, end_ms=end_ms, reason=reason, case=added.case, who=record.by,
            role=added.role, unit=added.unit, at_ms=record.at_ms,
        )  # fmt: skip

    def drop_old(self, before_ms: int, held: Collection[int]) -> list[int]:
        """Drops corrections of stays on days that are forgotten; their numbers."""
        found = [
            one.number
            for one in self.corrections.all()
            if one.inside_ms < before_ms and ms_to_day(one.inside_ms) not in held
        ]
        if found:
            self.corrections = self.corrections.without(set(found))
        return found

    def forget(self, is_erased: Callable[[bytes], bool]) -> None:
        """Drops corrections that name the erased."""
        found = [one for one in self.corrections.all() if not any(map(is_erased, one.persons))]
        left = [key for key in self.corrections.keys if not is_erased(key)]
        self.corrections = Corrections(found, touched=left)


def correct(visits: Array, corrections: Sequence[Correction]) -> Array:
    """Visits (VISIT) of one person, corrected (rule E). corrections: the later ones last."""
    found = visits.copy()
    for one in corrections:
        at = np.flatnonzero(
            (visits["place"] == one.place)
            & (visits["start_ms"] <= one.inside_ms)
            & (one.inside_ms < visits["end_ms"])
            & (visits["flags"] & VisitFlag.PASSAGE == 0)
        )
        for row in at.tolist():
            _correct_one(found[row : row + 1], visits[row : row + 1], one)
    # Of stays that now begin at one instant at one place the longest is all of them.
    order = np.lexsort((-found["end_ms"], found["start_ms"], found["place"]))
    found = found[order]
    is_first = np.ones(len(found), bool)
    same_place = found["place"][1:] == found["place"][:-1]
    is_first[1:] = ~(same_place & (found["start_ms"][1:] == found["start_ms"][:-1]))
    return found[is_first]


def _correct_one(found: Array, visit: Array, one: Correction) -> None:
    """found: the stay as earlier corrections left it; visit: as the scans give it."""
    if one.start_ms is not None:
        found["start_ms"] = one.start_ms
        flags = int(found["flags"][0]) & ~int(VisitFlag.START_INFERRED)
        found["flags"] = flags | int(VisitFlag.START_CORRECTED)
    if one.end_ms is not None:
        found["end_ms"], found["rule"] = one.end_ms, EndRule.CORRECTED
    if found["start_ms"] >= found["end_ms"]:
        # An earlier correction contradicts this one, which stands alone then.
        if one.start_ms is None:
            found["start_ms"], found["flags"] = visit["start_ms"], visit["flags"]
        else:
            found["end_ms"], found["rule"] = visit["end_ms"], visit["rule"]
