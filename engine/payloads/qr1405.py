"""QR 1405: the national personal QR code of Decision 1405/QĐ-BTTTT (11/9/2021), version 1.1.

    SoGiayTo | HoTen | NgaySinh | LoaiDinhDanh | QID | EXT

PC-COVID, Sổ sức khỏe điện tử, Y tế HCM, Hue-S and VNeID show it. By default the first six
characters of the number and the day and month of birth are stars, so identity hangs on the QID.
LoaiDinhDanh: 0 declared by oneself, 1 by another. EXT, parted by `<`: QID of that other, sex (0
unknown, 1 male, 2 female), number of the health-insurance card, phone, and further items that
are not published.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from engine.payloads.bhyt import is_bhyt_number
from engine.payloads.cccd import BAD_ID, is_consistent, is_id_number, is_old_id_number
from engine.payloads.outcome import (
    DocKind,
    Outcome,
    Parsed,
    Reading,
    Refusal,
    Sex,
    warnings_to_verdict,
)
from engine.payloads.text import (
    check_birth,
    check_name,
    fold_name,
    is_digits,
    phone_to_e164,
    text_to_date,
    text_to_sex,
    tidy_fields,
)

_FIELDS: Final = 6
_QID: Final = re.compile(r"[0-9A-Za-z_-]{6,40}")
_PASSPORT: Final = re.compile(r"(?=.*[0-9])[0-9A-Z]{5,9}")  # ICAO 9303: at most nine characters
_MASKED: Final = re.compile(r"(\*+)([0-9A-Za-z]{0,9})")
_SEXES: Final[dict[str, Sex]] = {"1": "M", "2": "F"}
_MASKED_KINDS: Final[dict[int, DocKind]] = {6: "cccd", 3: "cmnd"}  # by how much shows

_BAD_QID: Final = Refusal("malformed", "a national personal code without a usable QID")
_BAD_KIND: Final = Refusal("malformed", "a national personal code that is neither 0 nor 1")


class Document(NamedTuple):
    kind: DocKind = ""
    number: str | None = None
    is_masked: bool = False
    suffix: str | None = None


class _Ext(NamedTuple):
    proxy_qid: str | None = None
    sex: Sex | None = None
    bhyt: str | None = None
    phone: str | None = None
    phone_raw: str | None = None


def is_qid(text: str) -> bool:
    return _QID.fullmatch(text) is not None


def is_passport_number(text: str) -> bool:
    """Upper-case ASCII; at least one digit."""
    return _PASSPORT.fullmatch(text) is not None


def is_mine(fields: list[str], /) -> bool:
    """0 or 1 in the fourth field behind something like a birth, or a birth with dashes."""
    if len(fields) < 4:
        return False
    birth, kind = fields[2].strip(), fields[3].strip()
    if kind in ("0", "1"):
        if len(birth) == 10 and birth[4] == birth[7] == "-":
            return True  # what text_to_date would say, which `parse` asks anyway
        return not birth or text_to_date(birth).layout != "none"
    return text_to_date(birth).layout == "iso" and text_to_sex(kind) is None


def parse(reading: Reading, /) -> Outcome:
    warnings = reading.warnings
    if len(reading.fields) > _FIELDS:
        warnings.append("extra_fields_dropped")
    fields = tidy_fields(reading.fields[:_FIELDS], warnings)
    if fields[3] not in ("0", "1"):
        return _BAD_KIND
    if len(fields) < 5 or not is_qid(fields[4]):
        return _BAD_QID
    document = _read_document(fields[0].upper())
    if isinstance(document, Refusal):
        return document
    name = fields[1]
    folded = fold_name(name)
    check_name(name, warnings)
    if folded != name:
        warnings.append("name_not_folded")
    birth = text_to_date(fields[2])
    if birth.layout not in ("iso", "none"):
        warnings.append("nonstandard_date")
    birth = check_birth(birth, reading.today, warnings)
    is_proxy = fields[3] == "1"
    ext = _read_ext(fields[5] if len(fields) == _FIELDS else "", is_proxy, warnings)
    number = document.number
    if document.kind == "cccd" and number and not is_consistent(number, ext.sex, birth.year):
        warnings.append("id_sex_century_mismatch")
    return Parsed(
        type="vn.qr1405",
        verdict=warnings_to_verdict(warnings),
        warnings=tuple(dict.fromkeys(warnings)),
        doc_kind=document.kind,
        doc_no=number,
        doc_masked=document.is_masked,
        doc_suffix=document.suffix,
        qid=fields[4],
        proxy=is_proxy,
        proxy_qid=ext.proxy_qid,
        bhyt=ext.bhyt,
        name_nfc=name,
        name_fold=folded,
        dob=birth.iso,
        dob_masked=birth.is_masked,
        birth_year=birth.year,
        sex=ext.sex,
        phone=ext.phone,
        phone_raw=ext.phone_raw,
    )


def _read_document(text: str) -> Document | Refusal:
    """An ID card's number, the old nine digits, a passport's, stars with a rest, or nothing.

    Nothing is allowed: children under fourteen have no card, and the QID names them.
    """
    if not text:
        return Document()
    masked = _MASKED.fullmatch(text)
    if masked:
        suffix = masked.group(2)
        kind: DocKind = _MASKED_KINDS.get(len(suffix), "") if is_digits(suffix) else ""
        return Document(kind, is_masked=True, suffix=suffix or None)
    if is_id_number(text):
        return Document("cccd", text)
    if is_old_id_number(text):
        return Document("cmnd", text)
    if is_passport_number(text):
        return Document("passport", text)
    return BAD_ID


def _read_ext(text: str, is_proxy: bool, warnings: list[str]) -> _Ext:
    """Items that are not what the decision says are dropped with a warning, one for all."""
    if not text:
        warnings.append("missing_ext")
        return _Ext()
    proxy_qid, sex, bhyt, phone, *rest = [*(i.strip() for i in text.split("<")), "", "", ""]
    bhyt = bhyt.upper()
    is_proxy_known = is_proxy and is_qid(proxy_qid)
    is_bhyt = is_bhyt_number(bhyt)
    strange = (
        (proxy_qid and not is_proxy_known)
        or (sex and sex not in ("0", "1", "2"))
        or (bhyt and not is_bhyt)
        or any(rest)
    )
    if strange:
        warnings.append("ext_unknown_fields")
    e164 = phone_to_e164(phone) if phone else None
    if phone and e164 is None:
        warnings.append("bad_phone")
    return _Ext(
        proxy_qid=proxy_qid if is_proxy_known else None,
        sex=_SEXES.get(sex),
        bhyt=bhyt if is_bhyt else None,
        phone=e164,
        phone_raw=phone or None,
    )
