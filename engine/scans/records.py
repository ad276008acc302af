"""Records: what a SCANS body is made of, to bytes and back.

A body is a MessagePack array of records, each an array whose first element is its kind
(engine.scans.rows.Kind). `native.wire.read_records` reads a body in one pass; the raw slices that
it leaves (a typed credential, the extras of a check-in, an officer's entry) become structs here.
docs/protocol.md has every byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from engine.errors import WireMalformed
from engine.scans.rows import Direction, Kind
from native.wire import read_records

RECORDS_MAX: Final = 4096  # records of one body
PAYLOAD_MAX: Final = 2953  # bytes of the largest QR code (ISO/IEC 18004, version 40-L)
STAY_MAX_S: Final = 86_400  # nobody is at one place for longer (rule C of docs/tracing.md)

# Flag of a SCAN record: its lane was shown the gateway's own verdict at once, because the engine
# was silent when it was captured.
LOCAL_VERDICT: Final = 1

FORM_ABSENT: Final = 0
FORM_BIN: Final = 1  # offset and length are the content of a bin
FORM_RAW: Final = 2  # offset and length are a whole MessagePack value
FORM_ID: Final = 3  # a number, in venue_id

# One record as native.wire.read_records describes it; offsets point into the body.
ENTRY: Final = np.dtype(
    [
        ("kind", "u1"),
        ("direction", "u1"),
        ("who_form", "u1"),
        ("venue_form", "u1"),
        ("lane", "<u2"),
        ("n", "<u2"),
        ("time_ms", "<i8"),
        ("who_off", "<u4"),
        ("who_len", "<u4"),
        ("venue_off", "<u4"),
        ("venue_len", "<u4"),
        ("aux_off", "<u4"),
        ("aux_len", "<u4"),
        ("flags", "<u4"),
        ("source", "<u4"),
        ("venue_id", "<u4"),
        ("pad", "V12"),
    ]
)
assert ENTRY.itemsize == 64

T = TypeVar("T")

_pack = msgspec.msgpack.Encoder().encode


class Credential(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Somebody's number, typed by hand or sent by an app's back end instead of a code's payload."""

    kind: Literal["qid", "cccd", "passport", "bhyt"]
    value: Annotated[str, Meta(min_length=1, max_length=64)]
    country: Annotated[str, Meta(max_length=3)] | None = None


class Extras(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a check-in may carry besides who and where and when (CP-4, VE-1)."""

    room: Annotated[int, Meta(ge=0, le=0xFFFF)] = 0
    plate: Annotated[str, Meta(max_length=16)] | None = None
    trip: Annotated[str, Meta(max_length=32)] | None = None
    seat: Annotated[str, Meta(max_length=8)] | None = None
    stay_s: Annotated[int, Meta(ge=0, le=STAY_MAX_S)] = 0  # told length of the visit, 0 where none


# ---- to bytes -----------------------------------------------------------------------------------


def encode_scan(
    ts_ms: int,
    lane: int,
    payload: bytes,
    *,
    flags: int = 0,
    extras: Mapping[str, object] | None = None,
) -> bytes:
    """What a lane's reader saw."""
    record: list[object] = [int(Kind.SCAN), ts_ms, lane, payload, flags]
    return _pack([*record, extras] if extras else record)


def encode_checkin(
    ts_ms: int,
    direction: Direction,
    who: bytes | Credential,
    venue: bytes | int,
    *,
    source: int = 0,
    extras: Extras | None = None,
) -> bytes:
    """Somebody at a venue. who: payload of a personal code; venue: its code's payload or number."""
    record: list[object] = [int(Kind.CHECKIN), ts_ms, int(direction), who, venue, source]
    return _pack([*record, extras] if extras else record)


def encode_manual(
    ts_ms: int, lane: int, fields: Mapping[str, str], *, officer: str, why: str
) -> bytes:
    """An officer's entry with the fields of a card."""
    return _pack([int(Kind.MANUAL), ts_ms, lane, fields, officer, why])


def encode_scans(records: Sequence[bytes]) -> bytes:
    """A SCANS body from encoded records. Raises ValueError for more than RECORDS_MAX."""
    count = len(records)
    if count > RECORDS_MAX:
        raise ValueError(f"a SCANS body has at most {RECORDS_MAX} records")
    head = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join(records)


# ---- from bytes ---------------------------------------------------------------------------------


def decode_map(kind: type[T], body: bytes) -> T:
    """A MessagePack value as a struct. Raises WireMalformed, which never quotes the value."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        where = fault_path(error)
        raise WireMalformed(f"not a {kind.__name__.strip('_')}{where}") from None


def fault_path(error: Exception) -> str:
    """` at $.x` of a msgspec error, or nothing: its other words may hold personal data."""
    _, found, path = str(error).rpartition("- at `")
    return f" at {path.rstrip('`')}" if found else ""


def decode_scans(body: bytes) -> tuple[bytes, int]:
    """(packed ENTRY records, fault): fault is -1 or the index of the first record at fault."""
    packed, status, index = read_records(body)
    return packed, index if status else -1


def newest_ms(packed: bytes) -> int:
    """The latest event time of packed ENTRY, one at least."""
    return max(memoryview(packed).cast("q")[1::8])


def decode_credential(raw: bytes) -> Credential:
    """The who of a check-in in FORM_RAW. Raises WireMalformed."""
    return decode_map(Credential, raw)


def decode_extras(raw: bytes) -> Extras:
    """The aux of a check-in; of none, the defaults. Raises WireMalformed."""
    return decode_map(Extras, raw) if raw else Extras()


def decode_manual(who: bytes, aux: bytes) -> tuple[dict[str, str], str, str]:
    """(fields, officer, why) of a manual record. Raises WireMalformed.

    who: the map; aux: the two strings one behind the other, as they stand in the record.
    """
    officer, why = decode_map(tuple[str, str], b"\x92" + aux)
    return decode_map(dict[str, str], who), officer, why
