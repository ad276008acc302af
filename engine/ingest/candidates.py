"""Candidates: one record of a SCANS body to the person it names, or why it is refused.

    record -> payload -> identity -> person key

This is what a record means, whatever it holds. native.plain reads those of the common form in the
same way and much faster; a test holds both side by side.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from engine import payloads
from engine.errors import WireMalformed
from engine.identity.keys import KeyRing
from engine.ingest.card_reader import CardReader
from engine.ingest.judge import Candidate
from engine.ingest.readings import note_report, report_to_reading
from engine.registry.registry import Registry, Venue
from engine.registry.venue_codes import Posted, VenueCodes
from engine.scans import people
from engine.scans.people import Details, Identity
from engine.scans.records import (
    ENTRY,
    LOCAL_VERDICT,
    Extras,
    decode_credential,
    decode_extras,
    decode_manual,
)
from engine.scans.rows import NOBODY, Direction, Flag, Kind, Source
from engine.settings import Settings
from engine.wire.frames import FORM_BIN, FORM_ID, Report

_ENTRY = struct.Struct("<4B2Hq9I12s")
assert _ENTRY.size == ENTRY.itemsize


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from: the registry's word for the gateway, never the gateway's own."""

    gateway: int
    epoch: int
    cls: int
    seq: int
    first: int  # where the run begins; seq itself but for LOST
    post: int  # place number of the gateway's post, 0 for a back end without one
    lanes: tuple[int, ...]  # of that post that the gateway serves
    correction_ms: int = 0  # taken off event times, because the gateway's clock is off by it
    flags: int = 0  # of every row: what was done about that clock
    is_repeat: bool = False  # stored and counted before: only the verdicts are wanted


class Entry(NamedTuple):
    """One record of a SCANS body, in the order of engine.scans.records.ENTRY."""

    kind: int
    direction: int
    who_form: int
    venue_form: int
    lane: int
    n: int
    time_ms: int
    who_off: int
    who_len: int
    venue_off: int
    venue_len: int
    aux_off: int
    aux_len: int
    flags: int
    source: int
    venue_id: int
    pad: bytes

    def who(self, body: bytes) -> bytes:
        return body[self.who_off : self.who_off + self.who_len]

    def venue(self, body: bytes) -> bytes:
        return body[self.venue_off : self.venue_off + self.venue_len]

    def aux(self, body: bytes) -> bytes:
        return body[self.aux_off : self.aux_off + self.aux_len]


def entry_at(entries: bytes, position: int) -> Entry:
    """Of packed ENTRY."""
    return Entry._make(_ENTRY.unpack_from(entries, position * _ENTRY.size))


class Refused(Exception):
    """A record that is not taken, for a reason that a lane may be shown."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CandidateReader:
    """One instance an engine; used from one thread.

    read and read_report raise Refused, and WireMalformed for what its sender can mend.
    """

    def __init__(
        self, settings: Settings, registry: Registry, keyring: KeyRing, cards: CardReader
    ) -> None:
        self._cards = cards
        self._codes = VenueCodes(registry, keyring, settings.venue_host)
        self._registry = registry
        self._keyring = keyring
        self._read = {
            Kind.SCAN: self._read_scan,
            Kind.CHECKIN: self._read_checkin,
            Kind.MANUAL: self._read_manual,
        }

    def read(self, origin: Origin, entry: Entry, body: bytes) -> Candidate:
        """A record; its time was checked."""
        return self._read[Kind(entry.kind)](origin, entry, body)

    def read_report(self, origin: Origin, lane: int, report: Report) -> Candidate:
        """A temperature, nobody's yet: the judge finds whose it is."""
        _check_lane(origin, lane)
        reading = report_to_reading(report)
        return Candidate(
            0, Kind.READING, lane, report.ts_ms, _post(origin), Direction.NONE, Source.OTHER,
            NOBODY, note_report(Details(), report), temperature_cc=reading.temperature_cc,
            reading=reading, scan=report.scan,
        )  # fmt: skip

    # ---- by kind ----------------------------------------------------------------------------

    def _read_scan(self, origin: Origin, entry: Entry, body: bytes) -> Candidate:
        _check_lane(origin, entry.lane)
        flags = Flag.LOCAL_VERDICT if entry.flags & LOCAL_VERDICT else 0
        parsed = self._parse_person(entry.who(body), (origin.gateway, entry.lane))
        head = (entry.n, entry.lane, entry.time_ms)
        made = self._candidate(Kind.SCAN, head, _post(origin), Direction.NONE, parsed, flags)
        self._note_vehicle(made, decode_extras(entry.aux(body)))
        return made

    def _read_checkin(self, origin: Origin, entry: Entry, body: bytes) -> Candidate:
        if origin.post:
            # A lane's box that somebody opened must not be able to place people at a market.
            raise Refused("unsupported_context")
        posted = self._posted(entry, body)
        extras = decode_extras(entry.aux(body))
        # What the record leaves open the code may say: its room, the door that it hangs at.
        place, room = posted.place, extras.room or posted.room
        direction = entry.direction or posted.direction
        head = (entry.n, room, entry.time_ms)
        if entry.who_form == FORM_BIN:
            parsed = self._parse_person(entry.who(body))
            made = self._candidate(Kind.CHECKIN, head, place, direction, parsed, 0)
        else:
            credential = decode_credential(entry.who(body))
            identity = people.credential_to_identity(
                [credential.kind, credential.value, credential.country]
            )
            if isinstance(identity, payloads.Refusal):
                raise Refused(identity.reason)
            made = Candidate(
                entry.n, Kind.CHECKIN, room, entry.time_ms, place, direction,
                people.identity_to_source(identity), self._key(identity),
                people.identity_to_details(identity),
            )  # fmt: skip
        made.stay_ms = extras.stay_s * 1000
        self._note_vehicle(made, extras)
        return made

    def _note_vehicle(self, made: Candidate, extras: Extras) -> None:
        """Plate, trip and seat go with the details; the row bears a number of plate or trip."""
        plate, trip, seat = extras.plate or "", extras.trip or "", extras.seat or ""
        if plate or trip or seat:
            made.details = msgspec.structs.replace(made.details, plate=plate, trip=trip, seat=seat)
        named = people.vehicle_to_canonical(plate, trip)
        if named is not None:
            made.vehicle = self._keyring.vehicle_number(*named)

    def _read_manual(self, origin: Origin, entry: Entry, body: bytes) -> Candidate:
        _check_lane(origin, entry.lane)
        fields, officer, why = decode_manual(entry.who(body), entry.aux(body))
        parsed = people.fields_to_parsed(fields)
        if isinstance(parsed, payloads.Refusal):
            raise Refused(parsed.reason)
        head = (entry.n, entry.lane, entry.time_ms)
        if people.identify(parsed) is None:
            made = self._nameless(origin, entry, parsed)
        else:
            made = self._candidate(Kind.MANUAL, head, _post(origin), Direction.NONE, parsed, 0)
        made.details = msgspec.structs.replace(made.details, officer=officer[:64], why=why[:256])
        return made

    def _nameless(self, origin: Origin, entry: Entry, parsed: payloads.Parsed) -> Candidate:
        """Somebody without papers, whom an officer wrote down (DE-5): nobody is missed.

        A name is no identity, so this entry is a person of its own until somebody merges it. The
        key comes from the delivery, which makes it the same when the entry is sent again.
        """
        canonical = f"{origin.gateway}/{origin.epoch}/{origin.seq}/{entry.n}"
        return Candidate(
            entry.n, Kind.MANUAL, entry.lane, entry.time_ms, _post(origin), Direction.NONE,
            Source.PAPER, self._keyring.person_key("entry", "", canonical),
            people.parsed_to_details(parsed), Flag.REVIEW,
        )  # fmt: skip

    # ---- who and where ----------------------------------------------------------------------

    def _parse_person(self, payload: bytes, lane: tuple[int, int] | None = None) -> payloads.Parsed:
        parsed = self._cards.read(payload, lane)
        if isinstance(parsed, payloads.Refusal):
            raise Refused(parsed.reason)
        return parsed

    def _candidate(
        self,
        kind: Kind,
        head: tuple[int, int, int],
        place: int,
        direction: int,
        parsed: payloads.Parsed,
        flags: int,
    ) -> Candidate:
        identity = people.identify(parsed)
        if identity is None:
            raise Refused("malformed_id")
        if parsed.verdict == "review" or identity.kind in people.UNSURE_KINDS:
            flags |= Flag.REVIEW
        n, lane, time_ms = head
        return Candidate(
            n, kind, lane, time_ms, place, direction, people.parsed_to_source(parsed),
            self._key(identity), people.parsed_to_details(parsed), flags,
        )  # fmt: skip

    def _posted(self, entry: Entry, body: bytes) -> Posted:
        """The venue of a check-in, by its number or by a code that hangs there."""
        if entry.venue_form != FORM_ID:
            found = self._codes.read(entry.venue(body), entry.time_ms)
            if isinstance(found, str):
                raise Refused(found)
            return found
        if not isinstance(self._registry.place(entry.venue_id), Venue):
            raise Refused("unknown_place")
        return Posted(entry.venue_id, 0, Direction.NONE)

    def _key(self, identity: Identity) -> bytes:
        return self._keyring.person_key(identity.kind, identity.issuer, identity.canonical)


def _post(origin: Origin) -> int:
    """A scan in a lane needs a post to be at; a back end has none."""
    if not origin.post:
        raise Refused("unknown_place")
    return origin.post


def _check_lane(origin: Origin, lane: int) -> None:
    """Raises WireMalformed: a gateway speaks for the lanes that the registry gave it."""
    if lane not in origin.lanes and _post(origin):
        raise WireMalformed("this gateway does not serve that lane")
