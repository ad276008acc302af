"""CCCD: the identity card with chip (2021-24) and what is read of the card of 2024.

    id12 | old id 9 or empty | name | ddmmyyyy | Nam or Nữ | address | ddmmyyyy of issue

Seven fields; the layout is known from many public parsers. Readers and apps in the field also
show it without the date of issue, without the old number, and with separators in the dates. The
card of 2024 adds names and numbers of relatives behind the seventh field: they are dropped unread,
because nobody at a checkpoint needs them.

The number: province of birth registration (001-096), a digit for century and sex (even male, odd
female; 0-1 19xx, 2-3 20xx, and so on), two digits of the year, six digits of a serial. There is no
check digit; that number, sex and birth agree is the only check, and only a warning.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from engine.payloads.outcome import Outcome, Parsed, Reading, Refusal, Sex, warnings_to_verdict
from engine.payloads.text import (
    Date,
    check_birth,
    check_name,
    fold_name,
    is_digits,
    text_to_date,
    text_to_sex,
    tidy_fields,
)

ID_SIZE: Final = 12
OLD_ID_SIZE: Final = 9
PROVINCE_MAX: Final = 96

_FIELDS: Final = 7

BAD_ID: Final = Refusal("malformed_id", "not twelve digits beginning with a province, 001 to 096")
_BAD_LAYOUT: Final = Refusal("malformed", "an ID card's number, but not an ID card's fields")


class _Layout(NamedTuple):
    """Where a variant has its fields; size is how many of them are read."""

    old_doc_no: int | None
    name: int
    size: int


_WITH_OLD: Final = _Layout(1, 2, _FIELDS)
_WITHOUT_OLD: Final = _Layout(None, 1, _FIELDS - 1)


def is_id_number(text: str) -> bool:
    """Twelve ASCII digits that begin with a province's number."""
    return len(text) == ID_SIZE and is_digits(text) and 1 <= int(text[:3]) <= PROVINCE_MAX


def is_old_id_number(text: str) -> bool:
    return len(text) == OLD_ID_SIZE and is_digits(text)


def is_consistent(number: str, sex: Sex | None, birth_year: int | None) -> bool:
    """Whether the fourth to sixth digits of an ID number agree with sex and birth year.

    What is not known (None) agrees.
    """
    code = int(number[3])
    if sex is not None and (code % 2 == 0) != (sex == "M"):
        return False
    return birth_year is None or birth_year == 1900 + 100 * (code // 2) + int(number[4:6])


def is_mine(fields: list[str], /) -> bool:
    """Twelve digits in front, or a date and a sex where a card has them."""
    first = fields[0].strip()
    return (len(first) == ID_SIZE and is_digits(first)) or _find_layout(fields) is not None


def parse(reading: Reading, /) -> Outcome:
    """Also of fields whose number turns out wrong: then malformed_id, not unknown."""
    warnings = reading.warnings
    layout = _find_layout(reading.fields)
    fields = tidy_fields(reading.fields[:_FIELDS], warnings)
    number = fields[0]
    if not is_id_number(number):
        return BAD_ID
    if layout is None:
        return _BAD_LAYOUT
    if len(reading.fields) > layout.size:
        warnings.append("extra_fields_dropped")
    name, birth_text, sex_text, *rest = fields[layout.name : layout.size]
    check_name(name, warnings)
    birth = check_birth(_card_date(birth_text, warnings), reading.today, warnings)
    sex = text_to_sex(sex_text)
    if sex is None or not is_consistent(number, sex, birth.year):
        warnings.append("id_sex_century_mismatch")
    issued = _card_date(rest[1], warnings).iso if len(rest) > 1 else None
    if issued is None:
        warnings.append("missing_issue_date")
    old = _old_number(fields, layout, warnings)
    return Parsed(
        type="vn.cccd",
        verdict=warnings_to_verdict(warnings),
        warnings=tuple(dict.fromkeys(warnings)),
        doc_kind="cccd",
        doc_no=number,
        old_doc_no=old,
        name_nfc=name,
        name_fold=fold_name(name),
        dob=birth.iso,
        birth_year=birth.year,
        sex=sex,
        address=(rest[0] if rest else "") or None,
        issue_date=issued,
    )


def _find_layout(fields: list[str]) -> _Layout | None:
    """By the place of the sex behind the birth, else by the place of the birth alone."""
    size = len(fields)
    if size >= 5 and text_to_sex(fields[4].strip()):
        return _WITH_OLD
    if size >= 4 and text_to_sex(fields[3].strip()) and _is_date_like(fields[2]):
        return _WITHOUT_OLD
    if size >= 6 and _is_date_like(fields[3]) and len(fields[0].strip()) == ID_SIZE:
        return _WITH_OLD
    return None


def _is_date_like(text: str) -> bool:
    return text_to_date(text.strip()).layout not in ("none", "year")


def _card_date(text: str, warnings: list[str]) -> Date:
    """A date in any layout; a card prints it without separators."""
    date = text_to_date(text)
    if date.layout not in ("compact", "none"):
        warnings.append("nonstandard_date")
    return date


def _old_number(fields: list[str], layout: _Layout, warnings: list[str]) -> str | None:
    """The nine digits of before; anything else there means a layout that we do not know."""
    if layout.old_doc_no is None or not fields[layout.old_doc_no]:
        return None
    old = fields[layout.old_doc_no]
    if is_old_id_number(old):
        return old
    warnings.append("unverified_layout")
    return None
