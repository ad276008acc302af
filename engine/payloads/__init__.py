"""Payloads: what the bytes of a code say, or why they are refused.

Cheap tests come first: length, prefix, then the fields between `|`. A new issuer is a module and a
line: a module with PREFIXES in _PREFIXES, one with is_mine and parse in _FIELD_ISSUERS, before
those that are less sure of their own. docs/payloads.md has the formats and the words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine.clock import day_to_date
from engine.payloads import cccd, links, qr1405, refused
from engine.payloads.outcome import (
    FieldIssuer,
    Outcome,
    Parsed,
    PrefixParser,
    Reading,
    Refusal,
    VenueCode,
    VenueLink,
)
from engine.payloads.text import bytes_to_text, fold_name, strip_outer, text_to_fields
from engine.payloads.venue import is_venue_tag, make_venue_code, venue_body

__all__ = [
    "PAYLOAD_MAX",
    "VENUE_HOST",
    "Outcome",
    "Parsed",
    "Refusal",
    "VenueCode",
    "VenueLink",
    "fold_name",
    "is_venue_tag",
    "make_venue_code",
    "parse",
    "payload_to_json",
    "venue_body",
]

PAYLOAD_MAX: Final = 2953  # bytes of the largest QR symbol, 40-L (ISO/IEC 18004)
VENUE_HOST: Final = "QR.CHOT.VN"

_PREFIXES: Final[dict[bytes, PrefixParser]] = {
    **refused.PREFIXES,
    **links.PREFIXES,
}
_FIELD_ISSUERS: Final[tuple[FieldIssuer, ...]] = (
    refused,  # before qr1405: a health-insurance card too has a birth, then a 1 for the sex
    qr1405,
    cccd,
)
_HEADS: Final = tuple(_PREFIXES)
_HEAD_SIZE: Final = max(map(len, _HEADS))

_PERSON_FIELDS: Final = {
    "vn.cccd": (
        "doc_no", "old_doc_no", "name_nfc", "name_fold", "dob", "sex", "address", "issue_date",
    ),
    "vn.qr1405": (
        "doc_no", "doc_masked", "doc_suffix", "name_nfc", "name_fold", "dob", "dob_masked",
        "birth_year", "proxy", "qid", "proxy_qid", "sex", "bhyt", "phone", "phone_raw",
    ),
}  # fmt: skip


def parse(payload: bytes, *, venue_host: str = VENUE_HOST, today_day: int | None = None) -> Outcome:
    """A person (Parsed), a venue (VenueCode, VenueLink) or a Refusal; of any bytes, never raises.

    payload: exactly the bytes in the symbol, not a reader's guess at their text. venue_host: host
    of our own venue codes. today_day: civil day (engine.clock) that no birth may lie behind.
    """
    if len(payload) > PAYLOAD_MAX:
        return refused.TOO_LONG
    data, warnings = strip_outer(payload)
    if not data:
        return refused.EMPTY
    today = day_to_date(today_day) if today_day is not None else ""
    reading = Reading(data, warnings, venue_host.lower(), today)
    head = data[:_HEAD_SIZE].upper()
    if head.startswith(_HEADS):
        for prefix, parse_prefix in _PREFIXES.items():
            if head.startswith(prefix):
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


def payload_to_json(
    payload: bytes,
    *,
    venue_host: str = VENUE_HOST,
    today_day: int | None = None,
    venue_tag: Callable[[bytes], bytes] | None = None,
) -> dict[str, Any]:
    """What `chot parse` answers for one payload: verdict, type, reason, warnings and the fields.

    venue_tag: KeyRing.venue_tag; without it a venue code of ours carries the warning unknown_key.
    """
    outcome = parse(payload, venue_host=venue_host, today_day=today_day)
    if isinstance(outcome, VenueCode) and venue_tag and not is_venue_tag(outcome, venue_tag):
        outcome = Refusal("forged", "a venue code whose tag we did not make")
    if isinstance(outcome, Refusal):
        return {"verdict": "reject", "type": None, "reason": outcome.reason, "warnings": []}
    if isinstance(outcome, VenueCode):
        code = make_venue_code(outcome.number, outcome.issue, outcome.tag, outcome.host)
        fields = {"host": outcome.host, "opaque_id": code.rpartition("/")[2]}
        return _accepted("venue", [] if venue_tag else ["unknown_key"], fields)
    if isinstance(outcome, VenueLink):
        fields = {"host": outcome.host, "opaque_id": outcome.opaque_id}
        return _accepted("venue.url", ["unverified_layout"], fields)
    person = {name: getattr(outcome, name) for name in _PERSON_FIELDS[outcome.type]}
    answer = _accepted(outcome.type, list(outcome.warnings), person)
    answer["verdict"] = outcome.verdict
    return answer


def _accepted(kind: str, warnings: list[str], fields: dict[str, Any]) -> dict[str, Any]:
    return {"verdict": "accept", "type": kind, "reason": None, "warnings": warnings, **fields}
