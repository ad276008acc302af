"""Codes at venues: which venue a scanned one stands for, and what to print.

Ours carry a tag of a key that only the engine has. A code is judged by the time of its scan, since
scans come late: one that was good then stays good, whatever was revoked since. What the newest
record allows is good at any time, so that a slow clock refuses nobody in front of a new poster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from engine.errors import KeyMissing
from engine.identity.keys import KeyRing
from engine.payloads import (
    Refusal,
    VenueCode,
    is_venue_tag,
    make_venue_code,
    parse,
    venue_code_to_text,
)
from engine.registry.records import issuers_text
from engine.registry.registry import Registry, Venue
from engine.scans.rows import Direction

VERSION: Final = 2  # of the codes that are made
_DIRECTIONS: Final = {"": Direction.NONE, "in": Direction.IN, "out": Direction.OUT}


class Posted(NamedTuple):
    """What a posted code says. room: 0 and direction: NONE where it leaves them open."""

    place: int
    room: int
    direction: Direction


class VenueCodes:
    """One instance an engine; used from one thread. host: of our own codes."""

    def __init__(self, registry: Registry, keyring: KeyRing, host: str) -> None:
        self._registry = registry
        self._keyring = keyring
        self._host = host

    def read(self, payload: bytes, at_ms: int) -> Posted | str:
        """The venue, or the reason to refuse it (engine.scans.rows.REASONS).

        payload: what the symbol held; at_ms: when it was scanned.
        """
        code = parse(payload, venue_host=self._host)
        if isinstance(code, VenueCode):
            return self._read_ours(code, at_ms)
        text = issuers_text(payload, code)
        linked = self._registry.code(text, at_ms)
        if linked is not None:
            return Posted(linked.venue, linked.room, _DIRECTIONS[linked.direction])
        if self._registry.code(text) is not None:
            return "revoked"
        return code.reason if isinstance(code, Refusal) else "unsupported_context"

    def make(self, venue: Venue, room: int = 0, direction: Direction = Direction.NONE) -> str:
        """The text of the venue's posted code under the newest key; made again, it is the same.

        Raises KeyMissing.
        """
        code = VenueCode(
            venue.number, venue.issue, b"", self._host, room, direction,
            self._registry.newest_venue_key(), VERSION,
        )  # fmt: skip
        return venue_code_to_text(make_venue_code(code, self._keyring.venue_tag))

    def _read_ours(self, code: VenueCode, at_ms: int) -> Posted | str:
        key = self._registry.venue_key(code.key)
        try:
            if key is None or not is_venue_tag(code, self._keyring.venue_tag):
                return "forged"
        except KeyMissing:  # its file was taken away: nobody can tell any more
            return "revoked"
        newest = self._registry.place(code.number)
        if not isinstance(newest, Venue):
            return "unknown_place"
        if key.valid_to_ms is not None and at_ms >= key.valid_to_ms:
            return "revoked"
        then = self._registry.place(code.number, at_ms)
        records = [newest] if not isinstance(then, Venue) else [newest, then]
        if not any(_is_good(code.issue, record, at_ms) for record in records):
            return "revoked"
        return Posted(code.number, code.room, Direction(code.direction))


def _is_good(issue: int, venue: Venue, at_ms: int) -> bool:
    if venue.is_revoked:
        return False
    return issue == venue.issue or (issue == venue.issue - 1 and at_ms < venue.old_valid_to_ms)


def posted_doors(venue: Venue, *, with_rooms: bool, with_doors: bool) -> Iterator[tuple[int, str]]:
    """(room, direction) of each poster of a venue: one for the whole of it, or one a room, and of
    each one for coming in and one for going out."""
    rooms = range(1, venue.rooms + 1) if with_rooms and venue.rooms else (0,)
    for room in rooms:
        for direction in ("in", "out") if with_doors else ("",):
            yield room, direction
