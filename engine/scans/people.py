"""People: who somebody is to the engine, what is kept of them, and what is shown.

Three things of one person, for three readers. An Identity becomes the person key and is then
forgotten. Details are sealed away and opened by role; they hold parsed fields, never a raw
payload. A mask is what lanes, venues and demos may show.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from engine.errors import DetailsInvalid
from engine.payloads.bhyt import is_bhyt_number
from engine.payloads.cccd import BAD_ID, is_consistent, is_id_number
from engine.payloads.outcome import Parsed, Refusal, Sex, Type, warnings_to_verdict
from engine.payloads.qr1405 import is_passport_number, is_qid
from engine.payloads.text import (
    check_birth,
    check_name,
    fold_name,
    phone_to_e164,
    text_to_date,
    text_to_sex,
    tidy,
)
from engine.scans.rows import Source

__all__ = [
    "Details",
    "Identity",
    "bytes_to_details",
    "credential_to_identity",
    "details_to_bytes",
    "fields_to_parsed",
    "fold_name",
    "holder_to_identity",
    "identify",
    "identities",
    "identity_to_details",
    "identity_to_source",
    "mask_doc",
    "mask_name",
    "mask_phone",
    "parsed_to_details",
    "parsed_to_source",
    "vehicle_to_canonical",
]

IdentityKind = Literal["qid", "cccd", "passport", "bhyt", "pass", "certificate"]

VIETNAM: Final = "VNM"
FIELD_SIZE_MAX: Final = 256  # characters of one typed field
BHYT_KEY_SIZE: Final = 10  # the digits of an insurance number that stay when its class changes

_COUNTRY: Final = re.compile(r"[A-Z]{3}")  # ISO 3166-1 alpha-3, as in the passport's zone
_SEPARATORS: Final = str.maketrans("", "", " .-")
_SEXES: Final[dict[str, Sex | None]] = {"M": "M", "F": "F", "": None, "Khác": None}
_FIELDS: Final = frozenset(
    {"name", "cccd", "passport", "country", "bhyt", "birth", "sex", "phone", "address"}
)
_SOURCES: Final = {
    "pass": Source.OTHER,
    "certificate": Source.OTHER,
    "qid": Source.QR1405,
    "cccd": Source.CCCD,
    "passport": Source.PASSPORT,
    "bhyt": Source.BHYT,
}

# These say who somebody probably is; the row is flagged, and a person decides.
UNSURE_KINDS: Final[frozenset[IdentityKind]] = frozenset({"pass", "certificate"})
_TYPE_SOURCES: Final[Mapping[Type, Source]] = {
    "vn.cccd": Source.CCCD,
    "vn.qr1405": Source.QR1405,
    "vn.bhyt": Source.BHYT,
    "dcc": Source.DCC,
    "shc": Source.SHC,
    "vdsnc": Source.VDSNC,
}

_BAD_SHAPE: Final = Refusal("malformed", "not the fields of a credential or a card")
_BAD_PASSPORT: Final = Refusal("malformed_id", "a passport is a number and a three-letter country")
_BAD_NUMBER: Final = Refusal("malformed_id", "not a number of its kind")


class _Private(msgspec.Struct, frozen=True):
    """Base of what must not show itself in a log or a traceback."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Identity(_Private, frozen=True):
    """A number that names one person, and who gave it. Input of KeyRing.person_key.

    issuer: the country. canonical: the one spelling of the number. Changing any spelling here
    changes person keys: old scans would no longer meet new ones.
    """

    kind: IdentityKind
    issuer: str
    canonical: str


class Details(_Private, frozen=True, array_like=True):
    """What is kept of a person, sealed, for one scan. Empty where unknown.

    doc_no: as on the card, with stars where it was masked. birth: a date, or a year alone. phone:
    E.164; of a family, never an identity (DE-2). proxy_qid: who declared for this person. officer,
    why: of a manual entry. warnings: why somebody should look at it. reading, reading_unit,
    calibration, device: of a temperature, as the terminal gave them (SY-4). issuer, certificate_id,
    signature, health: of a health pass; health is one line, `v 2/2 2021-11-20`.

    Bytes are a MessagePack array in this order: append only, with a default.
    """

    name: str = ""
    doc_kind: str = ""
    doc_no: str = ""
    country: str = ""
    qid: str = ""
    birth: str = ""
    sex: str = ""
    phone: str = ""
    address: str = ""
    bhyt: str = ""
    plate: str = ""
    trip: str = ""
    seat: str = ""
    old_doc_no: str = ""
    proxy_qid: str = ""
    officer: str = ""
    why: str = ""
    warnings: tuple[str, ...] = ()
    reading: str = ""
    reading_unit: str = ""
    calibration: str = ""
    device: str = ""
    issuer: str = ""
    certificate_id: str = ""
    signature: str = ""
    health: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Details).decode


def details_to_bytes(details: Details) -> bytes:
    return _encode(details)


def bytes_to_details(data: bytes) -> Details:
    """Raises DetailsInvalid, which never quotes the bytes."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DetailsInvalid("not the bytes of a person's details") from None


def parsed_to_details(parsed: Parsed) -> Details:
    doc_no = parsed.doc_no or ""
    if parsed.doc_masked:
        doc_no = "******" + (parsed.doc_suffix or "")
    return Details(
        name=parsed.name_nfc,
        doc_kind=parsed.doc_kind,
        doc_no=doc_no,
        country=parsed.country or "",
        qid=parsed.qid or "",
        birth=parsed.dob or str(parsed.birth_year or ""),
        sex=parsed.sex or "",
        phone=parsed.phone or "",
        address=parsed.address or "",
        bhyt=parsed.bhyt or "",
        old_doc_no=parsed.old_doc_no or "",
        proxy_qid=parsed.proxy_qid or "",
        warnings=parsed.warnings,
        issuer=(parsed.issuer or "")[:FIELD_SIZE_MAX],
        certificate_id=(parsed.certificate_id or "")[:FIELD_SIZE_MAX],
        signature=parsed.signature or "",
        health=parsed.health or "",
    )


def parsed_to_source(parsed: Parsed) -> Source:
    """The card, app or issuer that the person showed (SY-2)."""
    if parsed.type in _TYPE_SOURCES:
        return _TYPE_SOURCES[parsed.type]
    known = identify(parsed)
    return identity_to_source(known) if known else Source.PAPER


# ---- identity -----------------------------------------------------------------------------------


def identities(parsed: Parsed) -> list[Identity]:
    """All that names this person, surest first: QID, ID card, passport, insurance, pass.

    A name with a birth only proposes a merge, and a phone belongs to a family: neither is here. But
    a health pass often has nothing else, and its holder must not be missed: then issuer, name and
    birth stand for the person, or the certificate where it has no whole birth (UNSURE_KINDS, D-20).
    """
    found = []
    if parsed.qid:
        found.append(Identity("qid", VIETNAM, parsed.qid))
    if parsed.doc_no and parsed.doc_kind == "cccd":
        found.append(Identity("cccd", VIETNAM, parsed.doc_no))
    if parsed.doc_no and parsed.doc_kind == "passport" and parsed.country:
        found.append(Identity("passport", parsed.country, parsed.doc_no))
    if parsed.bhyt:
        found.append(Identity("bhyt", VIETNAM, parsed.bhyt[-BHYT_KEY_SIZE:]))
    if not found and parsed.signature:
        found.append(_pass_to_identity(parsed))
    return found


def _pass_to_identity(parsed: Parsed) -> Identity:
    """Spelled alike for all certificates of one issuer about one person, where that can be."""
    if parsed.dob and parsed.name_fold:
        return _holder(parsed.issuer, parsed.name_fold, parsed.dob)
    named = parsed.certificate_id or f"{parsed.name_fold}|{parsed.birth_year or ''}"
    return _certificate(parsed.issuer, named)


def _holder(issuer: str | None, name_fold: str, dob: str) -> Identity:
    return Identity("pass", _issuer(issuer), f"{name_fold}|{dob}")


def _certificate(issuer: str | None, number: str) -> Identity:
    return Identity("certificate", _issuer(issuer), number.upper())


def _issuer(issuer: str | None) -> str:
    return (issuer or "").upper()[:FIELD_SIZE_MAX].replace("\0", "")


def holder_to_identity(
    issuer: str, name: str, birth: str, certificate_id: str
) -> Identity | Refusal:
    """Of a health pass that somebody has before them: name and whole birth, or, where the pass has
    no whole birth, its number. issuer: as the pass names it."""
    if not issuer.strip():
        return Refusal("malformed_id", "its issuer is missing")
    if certificate_id:
        return _certificate(issuer.strip(), certificate_id.strip())
    date, folded = text_to_date(birth), fold_name(name)
    if date.iso is None or not folded:
        return Refusal("malformed_id", "it takes a name and a whole date of birth")
    return _holder(issuer.strip(), folded, date.iso)


def identify(parsed: Parsed) -> Identity | None:
    """The surest number, None when the person has none: then there is no key to keep a scan by."""
    found = identities(parsed)
    return found[0] if found else None


def credential_to_identity(credential: Sequence[object]) -> Identity | Refusal:
    """Of the [kind, value, country?] that a check-in holds instead of a code's payload.

    Blanks, dots and hyphens inside a number do not count, nor does the case of letters (a QID's
    does: its alphabet is not published).
    """
    kind, value, country = (*credential, "", "", "")[:3]
    if not isinstance(kind, str) or not isinstance(value, str) or len(credential) > 3:
        return _BAD_SHAPE
    if not (country is None or isinstance(country, str)) or len(value) > FIELD_SIZE_MAX:
        return _BAD_SHAPE
    if kind == "qid":
        qid = value.strip()
        return Identity("qid", VIETNAM, qid) if is_qid(qid) else _BAD_NUMBER
    number = value.translate(_SEPARATORS).upper()
    if kind == "cccd":
        return Identity("cccd", VIETNAM, number) if is_id_number(number) else BAD_ID
    if kind == "passport":
        issuer = _country(country or "")
        is_passport = issuer and is_passport_number(number)
        return Identity("passport", issuer, number) if is_passport else _BAD_PASSPORT
    if kind == "bhyt":
        is_bhyt = is_bhyt_number(number)
        return Identity("bhyt", VIETNAM, number[-BHYT_KEY_SIZE:]) if is_bhyt else _BAD_NUMBER
    return _BAD_SHAPE


def identity_to_details(identity: Identity) -> Details:
    """All that is known of somebody of whom only a number came."""
    if identity.kind == "qid":
        return Details(qid=identity.canonical)
    if identity.kind == "bhyt":
        return Details(bhyt=identity.canonical)
    country = identity.issuer if identity.kind == "passport" else ""
    return Details(doc_kind=identity.kind, doc_no=identity.canonical, country=country)


def identity_to_source(identity: Identity) -> Source:
    return _SOURCES[identity.kind]


def _country(text: str) -> str:
    """Three letters, or nothing. German passports print a lone D for DEU (ICAO 9303)."""
    country = text.strip().upper()
    if country == "D":
        return "DEU"
    return country if _COUNTRY.fullmatch(country) else ""


def vehicle_to_canonical(plate: str, trip: str) -> tuple[str, str] | None:
    """(kind, canonical) of the plate, or else of the trip; None without either (CP-4, VE-1).

    74A-123.45 and `74a 12345` are one plate. Changing this changes vehicle numbers.
    """
    for kind, text in (("plate", plate), ("trip", trip)):
        canonical = unicodedata.normalize("NFC", text).translate(_SEPARATORS).upper()
        if canonical:
            return kind, canonical
    return None


# ---- manual entry -------------------------------------------------------------------------------


def fields_to_parsed(fields: Mapping[Any, object]) -> Parsed | Refusal:
    """An officer's entry, under the same checks as a card.

    Keys: name, cccd or passport with country, bhyt, birth (any layout of a card, or a year), sex
    (Nam, Nữ, Khác, M, F), phone, address; none is required (DE-5), others are refused. An entry
    without a number parses, and identify() gives None for it.
    """
    warnings: list[str] = []
    typed = _tidy_typed(fields, warnings)
    if typed is None:
        return _BAD_SHAPE
    document = _typed_document(typed)
    if isinstance(document, Refusal):
        return document
    kind, number, country = document
    bhyt = typed.get("bhyt", "").translate(_SEPARATORS).upper()
    if bhyt and not is_bhyt_number(bhyt):
        return _BAD_NUMBER
    sex_word = typed.get("sex", "")
    sex = _SEXES.get(sex_word) or text_to_sex(sex_word)
    if sex is None and sex_word not in _SEXES:
        return _BAD_SHAPE
    name = typed.get("name", "")
    check_name(name, warnings)
    birth_text = typed.get("birth", "")
    birth = text_to_date(birth_text)
    if birth_text:
        birth = check_birth(birth, "", warnings)
    phone = typed.get("phone", "")
    e164 = phone_to_e164(phone) if phone else None
    if phone and e164 is None:
        warnings.append("bad_phone")
    if kind == "cccd" and not is_consistent(number, sex, birth.year):
        warnings.append("id_sex_century_mismatch")
    return Parsed(
        type="manual",
        verdict=warnings_to_verdict(warnings),
        warnings=tuple(dict.fromkeys(warnings)),
        doc_kind=kind,
        doc_no=number or None,
        country=country or None,
        bhyt=bhyt or None,
        name_nfc=name,
        name_fold=fold_name(name),
        dob=birth.iso,
        birth_year=birth.year,
        sex=sex,
        phone=e164,
        phone_raw=phone or None,
        address=typed.get("address") or None,
    )


def _tidy_typed(fields: Mapping[Any, object], warnings: list[str]) -> dict[str, str] | None:
    """NFC text with single blanks; None for a foreign key, an overlong text or no text."""
    typed: dict[str, str] = {}
    for key, value in fields.items():
        if key not in _FIELDS or not isinstance(value, str) or len(value) > FIELD_SIZE_MAX:
            return None
        typed[key] = tidy(unicodedata.normalize("NFC", value), warnings)
    return typed


def _typed_document(
    typed: Mapping[str, str],
) -> tuple[Literal["", "cccd", "passport"], str, str] | Refusal:
    """Kind, number and country of the one document that was typed, if any."""
    cccd, passport, country = (typed.get(key, "") for key in ("cccd", "passport", "country"))
    if cccd and passport:
        return _BAD_SHAPE
    issuer = _country(country)
    if country and not issuer:
        return _BAD_PASSPORT
    if not cccd and not passport:
        return "", "", issuer
    known = credential_to_identity(["cccd", cccd] if cccd else ["passport", passport, issuer])
    if isinstance(known, Refusal):
        return known
    return ("cccd" if cccd else "passport"), known.canonical, issuer


# ---- masks --------------------------------------------------------------------------------------

_WORD_SHOWN_MAX: Final = 12  # characters; no Vietnamese family name has more than seven


def mask_name(name: str) -> str:
    """`Nguyễn Th***` of Nguyễn Thị Hồng Ánh: family name, then two letters, never a whole word."""
    words = name.split()
    if len(words) < 2:
        return f"{name.strip()[:1]}***"
    return f"{words[0][:_WORD_SHOWN_MAX]} {words[1][: min(2, len(words[1]) - 1)]}***"


def mask_phone(phone: str) -> str:
    """`0912***` of +84912345678 or 0912345678; of a foreign number its first four characters."""
    national = "0" + phone[3:] if phone.startswith("+84") else phone
    return f"{national[:4]}***" if len(national) >= 8 else "***"


def mask_doc(number: str) -> str:
    """`******999001` of 045190999001: six stars or more, as 1405 codes do it, then six at most."""
    hidden = max(6, len(number) - 6)
    return "*" * hidden + number[hidden:]
