"""VDS-NC: ICAO's visible digital seal for non-constrained environments.

    {"data": {"hdr": {"is", "t", "v"}, "msg": {...}}, "sig": {"alg", "cer", "sigvl"}}

t is icao.vacc (proof of vaccination: uvci, pid, ve) or icao.test (proof of test: utci, pid, sp,
dat, tr). The signature is over `data` in the canonical form of RFC 8785 and comes with its signer's
certificate. Samples in the field carry it as r and s side by side and as DER; both are taken.

pid names the person: n name, dob, sex, i travel document number; of a test dn and dt, the number
and kind of document. The issuer's three letters are taken for the document's country.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from engine.payloads.outcome import (
    DocKind,
    Group,
    Outcome,
    Parsed,
    PrefixParser,
    Reading,
    Refusal,
    Sex,
    Signed,
    warnings_to_verdict,
)
from engine.payloads.passes import (
    BAD_SIGNATURE,
    HEALTH_SIZE_MAX,
    check_signature,
    decode_base64,
    name_to_folded,
    text_to_birth,
    text_to_day,
    words_to_name,
)
from engine.payloads.qr1405 import is_passport_number
from engine.payloads.refused import explain

VERSION: Final = 1
ALGORITHMS: Final = frozenset({"ES256", "ES384", "ES512"})
WHOLE_MAX: Final = 2**53  # beyond it JSON numbers lose digits (RFC 8785)

_HEAD: Final = b'{"DATA":'
_COUNTRY: Final = re.compile(r"[A-Z]{3}|D")
_NUMBER: Final = re.compile(r"[0-9A-Za-z<./-]{1,24}")
_SEXES: Final[dict[str, Sex]] = {"M": "M", "F": "F"}
_DOC_KINDS: Final[dict[str, DocKind]] = {"": "passport", "P": "passport"}
_TEXT_SIZE_MAX: Final = 256

_BAD_JSON: Final = Refusal("malformed", "not the JSON of a digital seal")
_BAD_SEAL: Final = Refusal("malformed", "a digital seal without a person or a signature")
_OTHER_KIND: Final = Refusal("unsupported_context", "a digital seal for something else")


def parse(reading: Reading, /) -> Outcome:
    seal = _decode(reading.data)
    if seal is None:
        return _BAD_JSON if reading.data.upper().startswith(_HEAD) else explain(reading)
    data, signature = _map(seal, "data"), _map(seal, "sig")
    header, message = _map(data, "hdr"), _map(data, "msg")
    if not header:
        return _BAD_SEAL if data and signature else explain(reading)
    kind, version = _text(header, "t"), header.get("v")
    if kind not in ("icao.vacc", "icao.test") or version != VERSION:
        return _OTHER_KIND
    issuer = _text(header, "is") or ""
    signed = _to_signed(data, signature, issuer)
    if signed is None or _COUNTRY.fullmatch(issuer) is None:
        return _BAD_SEAL
    return _read(reading, message, signed, "v" if kind == "icao.vacc" else "t")


def canonical(value: object) -> bytes:
    """RFC 8785 for what seals hold: texts, whole numbers, truth values, lists, maps.

    Raises ValueError for other numbers, whose spelling would depend on who writes them.
    """
    text = json.dumps(_sorted(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _read(reading: Reading, message: Mapping[str, Any], signed: Signed, group: Group) -> Outcome:
    warnings = reading.warnings
    person = _map(message, "pid")
    name = words_to_name([_text(person, "n") or ""], warnings)
    birth = text_to_birth(_text(person, "dob") or "")
    number = (_text(person, "i" if group == "v" else "dn") or "").strip().upper()
    certificate_id = (_text(message, "uvci" if group == "v" else "utci") or "").strip()
    is_plain = certificate_id.isascii() and certificate_id.isprintable()
    if name is None or birth is None or not is_plain:
        return _BAD_SEAL
    if number and _NUMBER.fullmatch(number) is None:
        return Refusal("malformed_id", "a digital seal whose document number cannot be one")
    if not number and not birth.iso and not certificate_id:
        return _BAD_SEAL
    signature = check_signature(reading, signed)
    if signature == "bad":
        return BAD_SIGNATURE
    kind: DocKind = _DOC_KINDS.get(_text(person, "dt") or "", "") if number else ""
    return Parsed(
        type="vdsnc",
        verdict=warnings_to_verdict(warnings),
        warnings=tuple(dict.fromkeys(warnings)),
        doc_kind=kind if is_passport_number(number) else "",
        doc_no=number or None,
        country="DEU" if signed.issuer == "D" else signed.issuer,
        name_nfc=name,
        name_fold=name_to_folded(name, ""),
        dob=birth.iso,
        birth_year=birth.year,
        sex=_SEXES.get(_text(person, "sex") or ""),
        issuer=signed.issuer,
        certificate_id=certificate_id or None,
        group=group,
        health=_shots(message) if group == "v" else _test(message),
        signature=signature,
    )


def _shots(message: Mapping[str, Any]) -> str | None:
    """The highest dose number and the day of the last dose."""
    events = message.get("ve")
    doses = [
        dose
        for event in (events if isinstance(events, list) else [])
        if isinstance(event, dict) and isinstance(event.get("vd"), list)
        for dose in event["vd"]
        if isinstance(dose, dict)
    ]
    days = [day for dose in doses if (day := text_to_day(_text(dose, "dvc") or ""))]
    steps = [int(step) for dose in doses if (step := str(dose.get("seq"))) in _DOSES]
    return f"v {max(steps, default=len(days))} {max(days)}"[:HEALTH_SIZE_MAX] if days else None


def _test(message: Mapping[str, Any]) -> str | None:
    day = text_to_day(_text(_map(message, "dat"), "sc") or "")
    found = (_text(_map(message, "tr"), "r") or "").lower()
    result = found if found in ("normal", "abnormal", "positive", "negative") else "unclear"
    return f"t {result} {day}" if day else None


_DOSES: Final = frozenset(map(str, range(1, 100)))


def _to_signed(data: Mapping[str, Any], signature: Mapping[str, Any], issuer: str) -> Signed | None:
    algorithm = _text(signature, "alg")
    value, certificate = (
        decode_base64(signature.get("sigvl")),
        decode_base64(signature.get("cer")),
    )
    if algorithm is None or algorithm not in ALGORITHMS or not value or not certificate:
        return None
    try:
        signed = canonical(data)
    except (ValueError, RecursionError):
        return None
    return Signed(algorithm, b"", signed, value, issuer, certificate=certificate)


def _decode(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A name that comes twice would mean one thing to us and another to the signer."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _sorted(value: object) -> object:
    """Names in the order of their UTF-16 units."""
    if isinstance(value, Mapping):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return {name: _sorted(value[name]) for name in names}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    if isinstance(value, float) or (isinstance(value, int) and abs(value) > WHOLE_MAX):
        raise ValueError("a number without one spelling")
    return value


def _map(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = holder.get(key)
    return found if isinstance(found, dict) else {}


def _text(holder: Mapping[str, Any], key: str) -> str | None:
    found = holder.get(key)
    return found if isinstance(found, str) and len(found) <= _TEXT_SIZE_MAX else None


PREFIXES: Final[dict[bytes, PrefixParser]] = {b"{": parse}
