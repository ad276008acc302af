"""Record lines: scans, check-ins and officers' entries as JSON objects, to records of a SCANS body.

What a gateway reads from a file of JSON lines, and what POST /v1/ingest takes; docs/commands.md has
the fields.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from engine.errors import LineInvalid
from engine.scans.records import (
    PAYLOAD_MAX,
    Credential,
    Extras,
    decode_scans,
    encode_checkin,
    encode_manual,
    encode_scan,
    encode_scans,
    fault_path,
)
from engine.scans.rows import Direction
from engine.scans.rows import Source as Issuer


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A payload as text or as base64."""

    payload: str | None = None
    payload_b64: str | None = None


class _Number(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A typed credential as a JSON object."""

    kind: Literal["qid", "cccd", "passport", "bhyt"]
    value: Annotated[str, Meta(min_length=1, max_length=64)]
    country: Annotated[str, Meta(max_length=3)] | None = None


_Millis = Annotated[int, Meta(ge=0, le=2**53)]
_LaneNo = Annotated[int, Meta(ge=0, le=0xFFFF)]


class ScanLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="scan"):
    """What a lane's reader saw."""

    ts_ms: _Millis
    lane: _LaneNo | None = None
    payload: str | None = None
    payload_b64: str | None = None
    flags: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 0
    plate: Annotated[str, Meta(max_length=16)] | None = None
    trip: Annotated[str, Meta(max_length=32)] | None = None
    seat: Annotated[str, Meta(max_length=8)] | None = None


class CheckinLine(Extras, frozen=True, kw_only=True, tag_field="kind", tag="checkin"):
    """Somebody at a venue. who: a payload, or kind and value of a document."""

    ts_ms: _Millis
    who: dict[str, str]
    venue: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] | Code
    direction: Literal["none", "in", "out"] = "none"
    source: Annotated[int, Meta(ge=0, le=0xFF)] | str = 0


class ManualLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="manual"):
    """An officer's entry with the fields of a card."""

    ts_ms: _Millis
    lane: _LaneNo | None = None
    fields: dict[str, str]
    officer: Annotated[str, Meta(max_length=64)]
    why: Annotated[str, Meta(max_length=512)]


Line = ScanLine | CheckinLine | ManualLine

_decode_line = msgspec.json.Decoder(Line).decode
_DIRECTIONS: Final = {"none": Direction.NONE, "in": Direction.IN, "out": Direction.OUT}


def line_to_record(line: bytes, lane: int) -> bytes:
    """One JSON line as an encoded record. lane: where the line names none.

    Raises LineInvalid; its text names fields only, for values may be personal data.
    """
    try:
        parsed = _decode_line(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise LineInvalid(f"not a record{fault_path(error)}") from None
    return parsed_to_record(parsed, lane)


def parsed_to_record(line: Line, lane: int) -> bytes:
    """As line_to_record, of what was read already."""
    try:
        if isinstance(line, ScanLine):
            payload = _code_to_bytes(Code(line.payload, line.payload_b64), "payload")
            named = {"plate": line.plate, "trip": line.trip, "seat": line.seat}
            made = encode_scan(
                line.ts_ms,
                _or(line.lane, lane),
                payload,
                flags=line.flags,
                extras={name: text for name, text in named.items() if text},
            )
        elif isinstance(line, ManualLine):
            made = encode_manual(
                line.ts_ms,
                _or(line.lane, lane),
                line.fields,
                officer=line.officer,
                why=line.why,
            )
        else:
            made = _checkin_to_record(line)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise LineInvalid(f"not a record{fault_path(error)}") from None
    if decode_scans(encode_scans([made]))[1] >= 0:
        raise LineInvalid("not a record that the engine would take")
    return made


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _checkin_to_record(line: CheckinLine) -> bytes:
    if "kind" in line.who:
        number = msgspec.convert(line.who, _Number)
        who: bytes | Credential = Credential(number.kind, number.value, number.country)
    else:
        who = _code_to_bytes(msgspec.convert(line.who, Code), "who")
    venue = line.venue if isinstance(line.venue, int) else _code_to_bytes(line.venue, "venue")
    extras = Extras(
        room=line.room, plate=line.plate, trip=line.trip, seat=line.seat, stay_s=line.stay_s
    )
    return encode_checkin(
        line.ts_ms,
        _DIRECTIONS[line.direction],
        who,
        venue,
        source=_source_to_number(line.source),
        extras=None if extras == Extras() else extras,
    )


def _source_to_number(source: int | str) -> int:
    if isinstance(source, int):
        return source
    try:
        return Issuer[source.upper()]
    except KeyError:
        known = ", ".join(issuer.name.lower() for issuer in Issuer)
        raise LineInvalid(f"source is a number or one of {known}") from None


def _code_to_bytes(code: Code, name: str) -> bytes:
    if (code.payload is None) == (code.payload_b64 is None):
        raise LineInvalid(f"{name} needs payload or payload_b64")
    try:
        data = (
            base64.b64decode(code.payload_b64, validate=True)
            if code.payload_b64 is not None
            else (code.payload or "").encode()
        )
    except (binascii.Error, ValueError):
        raise LineInvalid(f"{name} holds no base64") from None
    if len(data) > PAYLOAD_MAX:
        raise LineInvalid(f"{name} is longer than a QR code can hold")
    return data
