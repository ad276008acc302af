"""DCC: the EU Digital COVID Certificate and the vaccine passport of Viet Nam, schema 1.

    HC1: base45( zlib( COSE_Sign1( CWT { 1 issuer, 4 exp, 6 iat, -260 { 1 certificate } } ) ) )

The certificate has a name (`fn gn`, and `fnt gnt` in the letters of a passport), a date of birth
that may be a year, and exactly one of `v` vaccinations, `t` test, `r` recovery. Viet Nam issues the
same by Decision 5772/QĐ-BYT; its codes hold twelve months and are then made anew, so an expired one
is common and no forgery.

The key is named by eight bytes in either header. ES256 and PS256 alone may sign.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

from engine.payloads import base45, cose
from engine.payloads.outcome import (
    Group,
    Outcome,
    Parsed,
    PrefixParser,
    Reading,
    Refusal,
    Signed,
    warnings_to_verdict,
)
from engine.payloads.passes import (
    BAD_SIGNATURE,
    HEALTH_SIZE_MAX,
    NOT_YET,
    check_signature,
    check_times,
    name_to_folded,
    text_to_birth,
    text_to_day,
    to_seconds,
    words_to_name,
)
from engine.payloads.text import is_digits

PREFIX: Final = b"HC1:"
MESSAGE_SIZE_MAX: Final = 16_384  # bytes; a symbol holds 2,953 that hardly shrink
ALGORITHMS: Final = {-7: "ES256", -37: "PS256"}
KID_SIZE: Final = 8
GROUPS: Final[tuple[Group, ...]] = ("v", "t", "r")
# Of each group, what schema 1 has in every entry, and which of it must be a date.
REQUIRED: Final[Mapping[Group, tuple[str, ...]]] = {
    "v": ("tg", "vp", "mp", "ma", "co", "is", "ci"),
    "t": ("tg", "tt", "tr", "co", "is", "ci"),
    "r": ("tg", "co", "is", "ci"),
}
DATES: Final[Mapping[Group, tuple[str, ...]]] = {
    "v": ("dt",),
    "t": ("sc",),
    "r": ("fr", "df", "du"),
}
DEVICE_MAX: Final = 8_999  # the EU's list of rapid tests numbers them from 1; 9999 is a filler

_ISSUER: Final = re.compile(r"[!-~]{1,80}")  # a country's two letters; some write more
_TEXT_SIZE_MAX: Final = 256
_VERSION: Final = re.compile(r"1\.[0-9]{1,4}\.[0-9]{1,4}")
_OTHER_VERSION: Final = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}")
_STANDARD: Final = re.compile(r"[A-Z<]*")
_DETECTED: Final = {"260373001": "detected", "260415000": "not detected"}

_BAD_ENVELOPE: Final = Refusal("malformed", "not base45 of compressed bytes")
_BAD_MESSAGE: Final = Refusal("malformed", "not a signed message of a health certificate")
_BAD_SCHEMA: Final = Refusal("malformed", "not a health certificate of schema 1")
_OTHER_SCHEMA: Final = Refusal("unsupported_context", "a health certificate of a later schema")


def parse(reading: Reading, /) -> Outcome:
    # A blank is a digit of base45, but never the last one: what was stripped was not the code's.
    packed = base45.decode(reading.data[len(PREFIX) :])
    unpacked = _inflate(packed) if packed else None
    if unpacked is None:
        return _BAD_ENVELOPE
    try:
        message = cose.open_sign1(unpacked)
        claims = cose.decode(message.payload)
    except ValueError:
        return _BAD_MESSAGE
    health = _get(claims, -260)
    certificate = _get(health, 1)
    if not isinstance(certificate, Mapping):
        return _BAD_MESSAGE
    group = _only_group(certificate)
    version = _text(certificate, "ver")
    if version is not None and _VERSION.fullmatch(version) is None:
        return _OTHER_SCHEMA if _OTHER_VERSION.fullmatch(version) else _BAD_SCHEMA
    if version is None or group is None:
        return _BAD_SCHEMA
    issuer = _get(claims, 1)
    if not isinstance(issuer, str) or _ISSUER.fullmatch(issuer) is None:
        issuer = ""
    signed = _to_signed(message, issuer, group)
    if signed is None:
        return BAD_SIGNATURE
    return _read(reading, claims, certificate, group, signed)


def _inflate(packed: bytes) -> bytes | None:
    unzip = zlib.decompressobj()
    try:
        data = unzip.decompress(packed, MESSAGE_SIZE_MAX)
    except zlib.error:
        return None
    return data if unzip.eof and not unzip.unused_data else None


def _to_signed(message: cose.Sign1, issuer: str, group: Group) -> Signed | None:
    """None when nobody could have signed it so: an algorithm or key name that the rules lack."""
    algorithm, kid = message.header(cose.ALG), message.header(cose.KID)
    known = ALGORITHMS.get(algorithm) if isinstance(algorithm, int) else None
    if known is None or not isinstance(kid, bytes) or len(kid) != KID_SIZE:
        return None
    return Signed(known, kid, message.signed, message.signature, issuer, group)


def _read(
    reading: Reading, claims: Any, certificate: Mapping[Any, Any], group: Group, signed: Signed
) -> Outcome:
    warnings = reading.warnings
    entries = [_entry(entry, group) for entry in certificate[group]]
    names = _names(certificate.get("nam"))
    birth_text = _text(certificate, "dob")
    birth = None if birth_text is None else text_to_birth(birth_text)
    if not all(entries) or names is None or birth is None:
        return _BAD_SCHEMA
    family, given, standard = names
    name = words_to_name([family, given] if family or given else [standard], warnings)
    issued_s, ends_s = to_seconds(_get(claims, 6)), to_seconds(_get(claims, 4))
    if name is None or (given and words_to_name([given], []) is None):
        return _BAD_SCHEMA
    if issued_s is not None and (birth.iso or "") > _day(issued_s):
        return _BAD_SCHEMA  # issued before its holder was born
    signature = check_signature(reading, signed)
    if signature == "bad":
        return BAD_SIGNATURE
    starts = [s for s in (issued_s, to_seconds(_get(claims, 5))) if s is not None]
    has_begun, has_ended = check_times(reading, max(starts, default=None), ends_s)
    if not has_begun:
        return NOT_YET
    newest = max((entry for entry in entries if entry), key=lambda entry: entry["day"])
    return Parsed(
        type="dcc",
        verdict=warnings_to_verdict(warnings),
        warnings=tuple(dict.fromkeys(warnings)),
        name_nfc=name,
        name_fold=name_to_folded(name, standard),
        dob=birth.iso,
        birth_year=birth.year,
        issuer=signed.issuer or newest["co"],
        certificate_id=newest["ci"],
        group=group,
        health=f"{group} {newest['what']} {newest['day']}"[:HEALTH_SIZE_MAX],
        signature=signature,
        expired=has_ended,
    )


def _only_group(certificate: Mapping[Any, Any]) -> Group | None:
    """The one of v, t and r that has entries."""
    found = [group for group in GROUPS if certificate.get(group)]
    return found[0] if len(found) == 1 and isinstance(certificate[found[0]], list | tuple) else None


def _entry(entry: object, group: Group) -> dict[str, str] | None:
    """ci, co, day and what of one entry; None when it is not what the schema says."""
    if not isinstance(entry, Mapping):
        return None
    texts = {key: _text(entry, key) for key in REQUIRED[group]}
    days = [text_to_day(_text(entry, key) or "") for key in DATES[group]]
    if None in texts.values() or None in days:
        return None
    number, country = texts["ci"] or "", texts["co"] or ""
    if not number or not all(text.isascii() and text.isprintable() for text in (number, country)):
        return None
    if group == "v":
        dose, doses = entry.get("dn"), entry.get("sd")
        if not _is_count(dose) or not _is_count(doses):
            return None
        what = f"{dose}/{doses}"
    else:
        device = entry.get("ma")
        if isinstance(device, str) and is_digits(device) and not 1 <= int(device) <= DEVICE_MAX:
            return None
        what = _DETECTED.get(texts.get("tr") or "", "unclear") if group == "t" else "first positive"
    return {"ci": number, "co": country, "day": days[0] or "", "what": what}


def _names(names: object) -> tuple[str, str, str] | None:
    """(family name, given name, both as in a passport). At least one family name is there."""
    if not isinstance(names, Mapping):
        return None
    found = [_text(names, key) if key in names else "" for key in ("fn", "gn", "fnt", "gnt")]
    if None in found:
        return None
    family, given, standard_family, standard_given = (text or "" for text in found)
    standard = f"{standard_family} {standard_given}".replace("<", " ")
    is_standard = all(_STANDARD.fullmatch(text) for text in (standard_family, standard_given))
    if not is_standard or not (family.strip() or standard_family.strip("<")):
        return None
    return family, given, standard.strip()


def _text(holder: Mapping[Any, Any], key: str) -> str | None:
    """A text of bounded size; a date that CBOR has a tag for is its ISO text."""
    value = holder.get(key)
    if isinstance(value, date):
        return value.isoformat()
    return value if isinstance(value, str) and len(value) <= _TEXT_SIZE_MAX else None


def _get(holder: object, key: int) -> Any:
    return holder.get(key) if isinstance(holder, Mapping) else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 100


def _day(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return ""


PREFIXES: Final[dict[bytes, PrefixParser]] = {PREFIX: parse}
