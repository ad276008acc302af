"""BHYT: the code on the health-insurance card.

    number | name | birth | sex | address | clinic | valid from | valid to | ... | $

Name and address are UTF-8 in hex digits. The birth is dd/mm/yyyy or a year, the sex 1 male or 2
female. Fields 0-7 are known from public code; what follows (where and when it was issued, a check)
is not published and is dropped unread.

The number: 15 characters since 2009 (two letters of a group, a digit of a level, two of a province,
ten digits), since 2021 the ten digits alone, which stay when the group changes.
"""

from __future__ import annotations

import re
from typing import Final

from engine.payloads.outcome import Outcome, Parsed, Reading, Refusal, Sex, warnings_to_verdict
from engine.payloads.text import (
    bytes_to_text,
    check_birth,
    check_name,
    fold_name,
    is_legacy,
    text_to_date,
    tidy,
)

_NUMBER: Final = re.compile(r"[A-Z]{2}[0-9]{13}|[0-9]{10}")
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_SEXES: Final[dict[str, Sex]] = {"1": "M", "2": "F"}
_FIELDS_MIN: Final = 6  # through the clinic
_VALID_TO: Final = 7

_BAD_LAYOUT: Final = Refusal("malformed", "an insurance card's number, but not its fields")
_BAD_TEXT: Final = Refusal("malformed", "an insurance card whose name or address is not hex UTF-8")


def is_bhyt_number(text: str) -> bool:
    """15 characters, or the ten digits that cards bear since 2021."""
    return _NUMBER.fullmatch(text) is not None


def is_mine(fields: list[str], /) -> bool:
    """Its number, then a name as hex digits, then a birth.

    A name in hex has no blank, which tells it from a misread number on another card.
    """
    number = fields[0].strip()
    if len(number) not in (15, 10) or len(fields) < 3 or " " in fields[1]:
        return False
    return is_bhyt_number(number.upper())


def parse(reading: Reading, /) -> Outcome:
    warnings, fields = reading.warnings, [field.strip() for field in reading.fields]
    if len(fields) < _FIELDS_MIN:
        return _BAD_LAYOUT
    name = _hex_to_text(fields[1], warnings)
    address = _hex_to_text(fields[4], warnings) if fields[4] not in ("", "-") else ""
    if not name or address is None:
        return _BAD_TEXT
    check_name(name, warnings)
    birth = text_to_date(fields[2])
    if birth.layout not in ("dmy", "year", "none"):
        warnings.append("nonstandard_date")
    birth = check_birth(birth, reading.today, warnings)
    until = text_to_date(fields[_VALID_TO]).iso if len(fields) > _VALID_TO else None
    has_ended = until is not None and until < reading.today
    if has_ended:
        warnings.append("expired")
    return Parsed(
        type="vn.bhyt",
        verdict=warnings_to_verdict(warnings),
        warnings=tuple(dict.fromkeys(warnings)),
        bhyt=fields[0].upper(),
        name_nfc=name,
        name_fold=fold_name(name),
        dob=birth.iso,
        birth_year=birth.year,
        sex=_SEXES.get(fields[3]),
        address=address or None,
        expired=has_ended if until and reading.today else None,
    )


def _hex_to_text(field: str, warnings: list[str]) -> str | None:
    """NFC text of hex digits, None when they are none or their bytes are not UTF-8."""
    if _HEX.fullmatch(field) is None:
        return None
    noticed: list[str] = []
    text = bytes_to_text(bytes.fromhex(field), noticed)
    if text is None or is_legacy(noticed):
        return None
    warnings += noticed
    return tidy(text, warnings)
