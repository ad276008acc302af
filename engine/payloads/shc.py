"""SHC: SMART Health Cards, a signed FHIR bundle in digits.

    shc:/ dd dd dd ...        pairs of digits, each an ASCII character less 45, of a JWS
    shc:/ C/N/ dd dd ...      part C of N; deprecated since 2022, still held up

The JWS is ES256 over a raw-deflate payload: iss, nbf, perhaps exp, and vc.credentialSubject with a
patient and what was done to them. The issuer is a URL whose keys the trust list has; a reader never
fetches anything. The framework gives a card no number of its own, so its own digest stands for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine.payloads.outcome import (
    Chunk,
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

PREFIX: Final = b"SHC:/"
CHUNKS_MAX: Final = 32
BUNDLE_SIZE_MAX: Final = 65_536  # bytes after inflating
ENTRIES_MAX: Final = 200
TYPE: Final = "https://smarthealth.cards#health-card"

_OFFSET: Final = 45
_PAIR_MAX: Final = 77  # z, the last character of a JWS
_CHUNK: Final = re.compile(rb"([0-9]{1,2})/([0-9]{1,2})/")
_JWS: Final = re.compile(r"([\w-]{1,8192})\.([\w-]{1,8192})\.([\w-]{1,512})", re.ASCII)
_ISSUER: Final = re.compile(r"https?://[!-~]{1,240}")
_TEXT_SIZE_MAX: Final = 256
_DONE: Final = frozenset({"completed", "final", "amended", "corrected"})

_BAD_DIGITS: Final = Refusal("malformed", "not the digit pairs of a health card")
_BAD_CHUNK: Final = Refusal("malformed", "a part of a health card that is numbered wrongly")
_BAD_JWS: Final = Refusal("malformed", "not the signed text of a health card")
_BAD_BUNDLE: Final = Refusal("malformed", "a health card without a patient")
_OTHER_KIND: Final = Refusal("unsupported_context", "a signed credential that is no health card")


def parse(reading: Reading, /) -> Outcome:
    digits = reading.data[len(PREFIX) :]
    chunk = _CHUNK.match(digits)
    index = total = 1
    if chunk:
        index, total = int(chunk.group(1)), int(chunk.group(2))
        digits = digits[chunk.end() :]
        if not 1 <= index <= total <= CHUNKS_MAX:
            return _BAD_CHUNK
    text = _digits_to_text(digits)
    if text is None:
        return _BAD_DIGITS
    return Chunk(index, total, text) if total > 1 else _read_jws(reading, text)


def join(reading: Reading, chunks: Sequence[Chunk]) -> Outcome:
    """The card of all its parts, in any order."""
    ordered = sorted(chunks, key=lambda chunk: chunk.index)
    if [chunk.index for chunk in ordered] != list(range(1, ordered[0].total + 1)):
        return _BAD_CHUNK
    return _read_jws(reading, "".join(chunk.text for chunk in ordered))


def _digits_to_text(digits: bytes) -> str | None:
    if not digits or len(digits) % 2 or not digits.isdigit():
        return None
    pairs = [int(digits[i : i + 2]) for i in range(0, len(digits), 2)]
    return bytes(pair + _OFFSET for pair in pairs).decode() if max(pairs) <= _PAIR_MAX else None


def _read_jws(reading: Reading, text: str) -> Outcome:
    parts = _JWS.fullmatch(text)
    header = _decode_json(_decode_base64(parts.group(1))) if parts else None
    packed = _decode_base64(parts.group(2)) if parts else None
    signature = _decode_base64(parts.group(3)) if parts else None
    if header is None or packed is None or signature is None:
        return _BAD_JWS
    kid, algorithm = _text(header, "kid"), _text(header, "alg")
    claims = _decode_json(_inflate(packed)) if header.get("zip") == "DEF" else None
    if claims is None or not kid or not algorithm:
        return _BAD_JWS
    if algorithm != "ES256":
        return BAD_SIGNATURE
    credential = _map(claims, "vc")
    kinds = credential.get("type")
    if not isinstance(kinds, list) or TYPE not in kinds:
        return _OTHER_KIND
    data, _, _ = text.rpartition(".")
    issuer = _text(claims, "iss") or ""
    if _ISSUER.fullmatch(issuer) is None:
        return _BAD_JWS
    signed = Signed(algorithm, kid.encode(errors="replace"), data.encode(), signature, issuer)
    return _read(reading, claims, _map(_map(credential, "credentialSubject"), "fhirBundle"), signed)


def _read(
    reading: Reading, claims: Mapping[str, Any], bundle: Mapping[str, Any], signed: Signed
) -> Outcome:
    warnings = reading.warnings
    entries = bundle.get("entry")
    entries = entries[:ENTRIES_MAX] if isinstance(entries, list) else []
    resources = [_map(entry, "resource") for entry in entries if isinstance(entry, dict)]
    patient = next((r for r in resources if r.get("resourceType") == "Patient"), {})
    name = words_to_name(_patient_names(patient), warnings)
    birth = text_to_birth(_text(patient, "birthDate") or "")
    if name is None or birth is None:
        return _BAD_BUNDLE
    signature = check_signature(reading, signed)
    if signature == "bad":
        return BAD_SIGNATURE
    begins_s, ends_s = to_seconds(claims.get("nbf")), to_seconds(claims.get("exp"))
    has_begun, has_ended = check_times(reading, begins_s, ends_s)
    if not has_begun:
        return NOT_YET
    group, health = _health(resources)
    return Parsed(
        type="shc",
        verdict=warnings_to_verdict(warnings),
        warnings=tuple(dict.fromkeys(warnings)),
        name_nfc=name,
        name_fold=name_to_folded(name, ""),
        dob=birth.iso,
        birth_year=birth.year,
        issuer=signed.issuer,
        certificate_id="sha256:" + hashlib.sha256(signed.data).hexdigest()[:32],
        group=group,
        health=health,
        signature=signature,
        expired=has_ended,
    )


def _patient_names(patient: Mapping[str, Any]) -> list[str]:
    """Family name first, as on the other cards, then the given ones."""
    names = patient.get("name")
    first = names[0] if isinstance(names, list) and names else None
    if not isinstance(first, dict):
        return []
    given = first.get("given")
    words = [first.get("family"), *(given[:8] if isinstance(given, list) else [])]
    found = [word for word in words if isinstance(word, str) and len(word) <= _TEXT_SIZE_MAX]
    return found or [_text(first, "text") or ""]


def _health(resources: Sequence[Mapping[str, Any]]) -> tuple[Group | None, str | None]:
    """Doses and the day of the last one, else the day of the last test."""
    shots = _days(resources, "Immunization", "occurrenceDateTime")
    if shots:
        return "v", f"v {len(shots)} {max(shots)}"[:HEALTH_SIZE_MAX]
    tests = _days(resources, "Observation", "effectiveDateTime")
    return ("t", f"t {max(tests)}"[:HEALTH_SIZE_MAX]) if tests else (None, None)


def _days(resources: Sequence[Mapping[str, Any]], kind: str, key: str) -> list[str]:
    texts = [
        _text(resource, key) or ""
        for resource in resources
        if resource.get("resourceType") == kind and _text(resource, "status") in _DONE
    ]
    return [day for day in map(text_to_day, texts) if day]


def _decode_base64(text: str) -> bytes | None:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None


def _inflate(packed: bytes) -> bytes | None:
    unzip = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unzip.decompress(packed, BUNDLE_SIZE_MAX)
    except zlib.error:
        return None
    return data if unzip.eof and not unzip.unused_data else None


def _decode_json(data: bytes | None) -> dict[str, Any] | None:
    if data is None:
        return None
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _map(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = holder.get(key)
    return found if isinstance(found, dict) else {}


def _text(holder: Mapping[str, Any], key: str) -> str | None:
    found = holder.get(key)
    return found if isinstance(found, str) and len(found) <= _TEXT_SIZE_MAX else None


PREFIXES: Final[dict[bytes, PrefixParser]] = {PREFIX: parse}
