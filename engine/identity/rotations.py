"""Rotations: which long-lived keys took the place of others, when, and how persons stay the same.

A new province key does not replace the old one in a pseudonym, it is laid over it:

    person key of version n = HMAC(province key n, person key of version n - 1)

So what was stored under an earlier version becomes what is made today without anybody knowing the
number behind it, and nothing that is stored is written again. Whoever holds the old key alone can
invert what was stored before the rotation, until its day is forgotten, and nothing that came after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import numpy as np

from engine.errors import KeyMissing
from engine.presence.visits import Array
from engine.scans.rows import ROW, ROW_SIZE
from native.hmac import Hmac

FILE: Final = "rotations.json"
PERSON_KEY_SIZE: Final = 16
STEPS_MAX: Final = 15  # of the province key; each costs a MAC a scan
_VEHICLE_SIZE: Final = 4
_PERSON_LABELS: Final = (b"chot/person/1\0", b"chot/person/2\0")
_VEHICLE_LABELS: Final = (b"chot/vehicle/1\0", b"chot/vehicle/2\0")

Kind = Literal["province", "ingest", "audit"]


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """A key that came into use. number: of the new key, 2 for the first rotation.

    log_lsn, control_lsn: the last records of both logs that were made under the key before it.
    old_until_ms: to when that one still opens what gateways sealed to it; None for always.
    """

    kind: Kind
    number: int
    at_ms: int
    log_lsn: int = 0
    control_lsn: int = 0
    old_until_ms: int | None = None


def bytes_to_rotations(data: bytes) -> tuple[Rotation, ...]:
    """Raises KeyMissing."""
    try:
        found = msgspec.json.decode(data, type=tuple[Rotation, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise KeyMissing(f"{FILE} cannot be read", hint="restore it from escrow") from None
    for kind in ("province", "ingest", "audit"):
        numbers = [rotation.number for rotation in found if rotation.kind == kind]
        if numbers != list(range(2, len(numbers) + 2)):
            raise KeyMissing(f"{FILE} leaves out a key", hint="restore it from escrow")
    return found


def rotations_to_bytes(rotations: Sequence[Rotation]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(rotations)) + b"\n"


class Pseudonyms:
    """What makes keys of persons and numbers of vehicles, and renews those that were stored."""

    def __init__(self, provinces: Sequence[bytes], rotations: Sequence[Rotation] = ()) -> None:
        """provinces: the province's keys, first to last; rotations: those between them."""
        self.person = _chain(provinces, _PERSON_LABELS, PERSON_KEY_SIZE)
        self.vehicle = _chain(provinces, _VEHICLE_LABELS, _VEHICLE_SIZE)
        self._rotations = tuple(rotations)
        # Of each rotation what the keys from there on make of older pseudonyms.
        self._renewals = [
            (
                _chain(provinces[i:], _PERSON_LABELS[1:] * 2, PERSON_KEY_SIZE),
                _chain(provinces[i:], _VEHICLE_LABELS[1:] * 2, _VEHICLE_SIZE),
            )
            for i in range(1, len(provinces))
        ]

    def renew_person(self, person: bytes, control_lsn: int) -> bytes:
        """Today's key of one that stands in a record of the control log."""
        for rotation, (renewal, _) in zip(self._rotations, self._renewals, strict=True):
            if control_lsn <= rotation.control_lsn:
                return renewal.digest(person)[:PERSON_KEY_SIZE]
        return person

    def spellings(self, person: bytes) -> tuple[bytes, ...]:
        """The key, and what it is today if it is one of before; the last of all is certain."""
        renewed = (renewal.digest(person)[:PERSON_KEY_SIZE] for renewal, _ in self._renewals)
        return (person, *renewed)

    def renew_rows(self, rows: Array, log_lsn: int) -> Array:
        """Rows (ROW) of a group of the log with today's persons and vehicles."""
        for rotation, (person, vehicle) in zip(self._rotations, self._renewals, strict=True):
            if log_lsn <= rotation.log_lsn:
                renewed = bytearray(rows.tobytes())
                person.renew(renewed, ROW_SIZE)
                found = np.frombuffer(renewed, ROW)
                _renew_vehicles(found, vehicle)
                return found
        return rows


def digest_to_vehicle(digest: bytes) -> int:
    """1 to 2**32 - 1."""
    return int.from_bytes(digest[:_VEHICLE_SIZE], "big") or 1


def _renew_vehicles(rows: Array, vehicle: Hmac) -> None:
    numbers, inverse = np.unique(rows["vehicle"], return_inverse=True)
    renewed = [
        digest_to_vehicle(vehicle.digest(number.to_bytes(_VEHICLE_SIZE, "big"))) if number else 0
        for number in numbers.tolist()
    ]
    rows["vehicle"] = np.array(renewed, "<u4")[inverse.reshape(-1)]


def _chain(provinces: Sequence[bytes], labels: Sequence[bytes], kept: int) -> Hmac:
    made = Hmac(provinces[0], labels[0])
    for province in provinces[1:]:
        made = made.then(Hmac(province, labels[1]), kept)
    return made
