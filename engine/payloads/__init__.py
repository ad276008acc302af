"""Payloads: what the bytes of a code say, or why they are refused.

Cheap tests come first: length, prefix, then the fields between `|`. A new issuer is a module and a
line: a module with PREFIXES in _PREFIXES, one with is_mine and parse in _FIELD_ISSUERS, before
those that are less sure of their own. docs/payloads.md has the formats and the words.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

from engine.clock import day_to_date
from engine.payloads import bhyt, cccd, dcc, links, payment, qr1405, refused, shc, vdsnc
from engine.payloads.answer import outcome_to_json
from engine.payloads.outcome import (
    Chunk,
    FieldIssuer,
    NoTrust,
    Outcome,
    Parsed,
    PrefixParser,
    Reading,
    Refusal,
    Signed,
    Trust,
    VenueCode,
    VenueLink,
)
from engine.payloads.text import bytes_to_text, fold_name, strip_outer, text_to_fields
from engine.payloads.venue import (
    VenueTag,
    is_venue_tag,
    make_venue_code,
    venue_body,
    venue_code_to_text,
)

__all__ = [
    "PAYLOAD_MAX",
    "VENUE_HOST",
    "Chunk",
    "NoTrust",
    "Outcome",
    "Parsed",
    "Refusal",
    "Signed",
    "Trust",
    "VenueCode",
    "VenueLink",
    "fold_name",
    "is_signed",
    "is_venue_tag",
    "join_chunks",
    "make_venue_code",
    "outcome_to_json",
    "parse",
    "payload_to_json",
    "venue_body",
    "venue_code_to_text",
]

PAYLOAD_MAX: Final = 2953  # bytes of the largest QR symbol, 40-L (ISO/IEC 18004)
VENUE_HOST: Final = "QR.CHOT.VN"

_PREFIXES: Final[dict[bytes, PrefixParser]] = {
    **refused.PREFIXES,
    **links.PREFIXES,
    **payment.PREFIXES,
    **dcc.PREFIXES,
    **shc.PREFIXES,
    **vdsnc.PREFIXES,
}
_SIGNED_MARKS: Final = (b"HC1:", b"hc1:", b"shc:/", b"SHC:/", b'"sigvl"')
_NO_TRUST: Final = NoTrust()
_FIELD_ISSUERS: Final[tuple[FieldIssuer, ...]] = (
    bhyt,  # before qr1405: a health-insurance card too has a birth, then a 1 for the sex
    qr1405,
    cccd,
)
# By their first byte in either case: of most codes one look tells that no prefix fits.
_BY_FIRST: Final[dict[int, list[tuple[bytes, PrefixParser]]]] = {}
for _prefix, _parser in _PREFIXES.items():
    for _first in {_prefix[0], _prefix.lower()[0]}:
        _BY_FIRST.setdefault(_first, []).append((_prefix, _parser))
_to_date = functools.lru_cache(maxsize=4)(day_to_date)


def parse(
    payload: bytes,
    *,
    venue_host: str = VENUE_HOST,
    today_day: int | None = None,
    now_s: float | None = None,
    trust: Trust = _NO_TRUST,
) -> Outcome:
    """A person (Parsed), a venue (VenueCode, VenueLink), a part of a card (Chunk) or a Refusal; of
    any bytes, never raises.

    payload: exactly the bytes in the symbol, not a reader's guess at their text. venue_host: host
    of our own venue codes. today_day: civil day (engine.clock) that no birth may lie behind. now_s:
    Unix time at which a certificate is checked. trust: whose signatures count.
    """
    if len(payload) > PAYLOAD_MAX:
        return refused.TOO_LONG
    data, warnings = strip_outer(payload)
    if not data:
        return refused.EMPTY
    today = _to_date(today_day) if today_day is not None else ""
    reading = Reading(data, warnings, venue_host.lower(), today, now_s, trust)
    for prefix, parse_prefix in _BY_FIRST.get(data[0], ()):
        if data[: len(prefix)].upper() == prefix:
            return parse_prefix(reading)
    if b"|" in data:
        text = bytes_to_text(data, warnings)
        if text is None:
            return refused.BAD_ENCODING
        reading.fields = text_to_fields(text)
        for issuer in _FIELD_ISSUERS:
            if issuer.is_mine(reading.fields):
                return issuer.parse(reading)
    return refused.explain(reading)


def join_chunks(
    chunks: Sequence[Chunk], *, now_s: float | None = None, trust: Trust = _NO_TRUST
) -> Outcome:
    """The card of all its parts, in any order; a Refusal when they are not all of one."""
    return shc.join(Reading(b"", [], "", "", now_s, trust), chunks)


def is_signed(payload: bytes) -> bool:
    """Whether it looks like a pass, whose signature costs more than the rest of its reading.

    For bodies of many payloads too. A guess: what it misses is read all the same, only later.
    """
    return any(mark in payload for mark in _SIGNED_MARKS)


def payload_to_json(
    payload: bytes,
    *,
    venue_host: str = VENUE_HOST,
    today_day: int | None = None,
    now_s: float | None = None,
    trust: Trust = _NO_TRUST,
    venue_tag: VenueTag | None = None,
) -> dict[str, Any]:
    """What `chot parse` answers for one payload: verdict, type, reason, warnings and the fields.

    venue_tag: KeyRing.venue_tag; without it a venue code of ours carries the warning unknown_key.
    """
    outcome = parse(payload, venue_host=venue_host, today_day=today_day, now_s=now_s, trust=trust)
    if not isinstance(outcome, VenueCode):
        return outcome_to_json(outcome)
    if venue_tag and not is_venue_tag(outcome, venue_tag):
        return outcome_to_json(Refusal("forged", "a venue code whose tag we did not make"))
    answer = outcome_to_json(outcome)
    return answer if venue_tag else {**answer, "warnings": ["unknown_key"]}
