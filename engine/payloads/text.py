"""Text: from bytes to tidy fields, and the small grammars that all issuers share.

Vietnamese text comes composed (NFC), decomposed (NFD) and, from older printers, in Windows-1258,
which stores tones apart. A QR reader that guesses the encoding gets the last one wrong without
notice, so everything here starts from the bytes. Only ASCII digits are digits: `str.isdigit` alone
takes Arabic and full-width ones too, hence the `isascii` beside it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NamedTuple

from engine.payloads.outcome import Sex

NAME_SIZE_MAX: Final = 100  # characters; the longest registered Vietnamese names have some 40
YEAR_MIN: Final = 1900
YEAR_MAX: Final = 2099

# Sorting the marks of a letter, as normal forms ask for, takes the square of their number.
# Unicode's Stream-Safe Text Format allows 30 (UAX #15, section 13); a shorter text cannot hold
# enough of them to matter.
MARKS_MAX: Final = 30
_LONG_TEXT: Final = 500  # characters

_BOM: Final = b"\xef\xbb\xbf"
_DAYS: Final = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

# What makes a field untidy: any control or format character, any blank but a lone inner space.
_UNTIDY: Final = re.compile(
    r"[\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]"
    r"|  |^ | \||\| | $"
)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # tab and line feed are blanks
_FORMAT: Final = re.compile(r"[\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")

# Latin letters (Vietnamese ones lie in Latin Extended Additional), then what names join them
# with. A formula for a spreadsheet, markup or a look-alike letter of another script falls out.
_NAME: Final = re.compile(
    rf"[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ][A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ '’ʼ.·-]{{0,{NAME_SIZE_MAX - 1}}}"
)

# 2018: the 11-digit mobile prefixes and the 10-digit ones that took their place.
_MOBILE_2018: Final = {
    "0120": "070", "0121": "079", "0122": "077", "0126": "076", "0128": "078",
    "0123": "083", "0124": "084", "0125": "085", "0127": "081", "0129": "082",
    "0162": "032", "0163": "033", "0164": "034", "0165": "035",
    "0166": "036", "0167": "037", "0168": "038", "0169": "039",
    "0186": "056", "0188": "058", "0199": "059",
}  # fmt: skip
_PHONE_MARKS: Final = str.maketrans("", "", " .-()")

_SEXES: Final[dict[str, Sex]] = {
    "Nam": "M", "Nữ": "F", "Nu": "F", "NAM": "M", "NỮ": "F", "NU": "F", "nam": "M", "nữ": "F",
    "nu": "F",
}  # fmt: skip


# ---- bytes to fields ----------------------------------------------------------------------------


def strip_outer(payload: bytes) -> tuple[bytes, list[str]]:
    """The payload without byte order mark, outer blanks and line ends, and what was taken off."""
    data = payload.strip()
    if len(data) == len(payload) and not data.startswith(_BOM):
        return data, []
    warnings = []
    blanks = [payload[: len(payload) - len(payload.lstrip())]]
    tail = payload[len(payload.rstrip()) :]
    if data.startswith(_BOM):
        warnings.append("bom_stripped")
        inner = data[len(_BOM) :]
        data = inner.lstrip()
        blanks.append(inner[: len(inner) - len(data)])
    if b"\n" in tail or b"\r" in tail:
        warnings.append("trailing_newline_stripped")
    if any(blanks) or tail.strip(b"\r\n"):
        warnings.append("whitespace_collapsed")
    return data, warnings


def bytes_to_text(data: bytes, warnings: list[str]) -> str | None:
    """NFC text: strict UTF-8, then Windows-1258; None when it is neither or heaps up marks.

    Any byte string is close to being Windows-1258, so a caller believes it only when the layout
    of a card comes out of it.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        try:
            text = data.decode("cp1258")
        except UnicodeDecodeError:
            return None
        warnings.append("legacy_encoding:cp1258")
        return unicodedata.normalize("NFC", text) if _is_stream_safe(text) else None
    return text_to_nfc(text, warnings)


def text_to_nfc(text: str, warnings: list[str]) -> str | None:
    """NFC text; None when it heaps up marks."""
    if text.isascii():
        return text
    if not _is_stream_safe(text):
        return None
    if not unicodedata.is_normalized("NFC", text):
        warnings.append("not_nfc")
        return unicodedata.normalize("NFC", text)
    return text


def _is_stream_safe(text: str) -> bool:
    """Without a run of marks so long that normalising it would hold up the lanes."""
    if len(text) <= _LONG_TEXT:
        return True
    run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > MARKS_MAX:
            return False
    return True


def is_legacy(warnings: list[str]) -> bool:
    return "legacy_encoding:cp1258" in warnings


def text_to_fields(text: str) -> list[str]:
    return text.split("|")


def tidy_fields(fields: list[str], warnings: list[str]) -> list[str]:
    """Fields with single blanks and without control or format characters."""
    if _UNTIDY.search("|".join(fields)) is None:
        return fields
    return [tidy(field, warnings) for field in fields]


def tidy(field: str, warnings: list[str]) -> str:
    """One field with single blanks; a control character becomes a blank, a format one nothing."""
    plain = _FORMAT.sub("", _CONTROL.sub(" ", field))
    single = " ".join(plain.split())
    if plain != field:
        _note(warnings, "control_chars")
    elif single != field:
        _note(warnings, "whitespace_collapsed")
    return single


def is_text(text: str) -> bool:
    """Without control characters other than blanks and line ends."""
    return text.isprintable() or _CONTROL.search(text.replace("\r", "\n")) is None


def is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _note(warnings: list[str], warning: str) -> None:
    if warning not in warnings:
        warnings.append(warning)


# ---- names --------------------------------------------------------------------------------------


def _fold_table() -> dict[int, str]:
    """Upper-case base letter of every Latin letter; Đ and the eth that stands in for it are D."""
    table = {}
    for code in (*range(0x61, 0x7B), *range(0xC0, 0x250), *range(0x1E00, 0x1F00)):
        table[code] = _fold_slowly(chr(code))
    return table


def _fold_slowly(name: str) -> str:
    spread = unicodedata.normalize("NFD", name.upper())
    base = "".join(c for c in spread if not unicodedata.combining(c))
    return base.replace("Đ", "D").replace("Ð", "D")


_FOLD: Final = _fold_table()


def fold_name(name: str) -> str:
    """Upper case without marks, Đ as D, single blanks: what names are compared by.

    Hòa and Hoà fold alike, and a folded ID-card name equals the name in a 1405 code.
    """
    folded = name.translate(_FOLD)
    if not folded.isascii():
        folded = _fold_slowly(folded)
    return " ".join(folded.split())


def check_name(name: str, warnings: list[str]) -> None:
    """Warns of a name that no register would hold: empty, overlong, digits, markup, formulas."""
    if _NAME.fullmatch(name) is None:
        warnings.append("suspicious_name")


def text_to_sex(text: str) -> Sex | None:
    """Of the words Nam and Nữ, with or without marks, in any case."""
    sex = _SEXES.get(text)
    if sex is None and 2 <= len(text) <= 4:
        return _SEXES.get(fold_name(text))
    return sex


# ---- dates --------------------------------------------------------------------------------------


class Date(NamedTuple):
    """iso: 2021-06-11, or None when impossible. layout: iso, compact (11062021), dmy, year, none.

    year: of the date, also where day and month are masked. is_masked: has stars for digits.
    """

    iso: str | None
    layout: str
    year: int | None = None
    is_masked: bool = False


_NO_DATE: Final = Date(None, "none")


def text_to_date(text: str) -> Date:
    """Strict: two-digit days and months, four-digit years of 1900-2099, days that exist.

    Between separators anything has the layout of a date, so that a date that was misread is still
    seen to be meant as one.
    """
    size = len(text)
    if size == 10:
        if text[4] == text[7] == "-":
            return _make_date(text[:4], text[5:7], text[8:], "iso")
        if text[2] == text[5] and text[2] in "/-.":
            return _make_date(text[6:], text[3:5], text[:2], "dmy")
    elif size == 8 and is_digits(text):
        return _make_date(text[4:], text[2:4], text[:2], "compact")
    elif size == 4 and is_digits(text):
        return Date(None, "year", _year(text))
    return _NO_DATE


def _make_date(year: str, month: str, day: str, layout: str) -> Date:
    digits = year + month + day
    if is_digits(digits):
        y, m, d = int(year), int(month), int(day)
        is_day = 1 <= m <= 12 and 1 <= d <= _DAYS[m] and (m != 2 or d < 29 or _is_leap(y))
        if is_day and YEAR_MIN <= y <= YEAR_MAX:
            return Date(f"{year}-{month}-{day}", layout, y)
    elif "*" in digits and is_digits(digits.replace("*", "0")):
        return Date(None, layout, _year(year), is_masked=True)
    return Date(None, layout)


def _year(text: str) -> int | None:
    year = int(text) if is_digits(text) else 0
    return year if YEAR_MIN <= year <= YEAR_MAX else None


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def check_birth(date: Date, today: str, warnings: list[str]) -> Date:
    """The date without what cannot be a birth: not a date, or later than today ('' = unknown)."""
    start = date.iso or (str(date.year) if date.year else "")
    if (start or date.is_masked) and (not today or start <= today):
        return date
    warnings.append("bad_dob")
    return Date(None, date.layout)


# ---- phones -------------------------------------------------------------------------------------


def phone_to_e164(text: str) -> str | None:
    """+84912345678 of a number as people write it, or None.

    Takes 0…, 84…, +84…, 0084…, nine digits without the 0, and 11-digit mobile numbers of before
    2018. Landlines are 02 and eight or nine digits. Other countries need their +.
    """
    number = text.translate(_PHONE_MARKS)
    is_international = number.startswith("+")
    digits = number[1:] if is_international else number
    if not is_digits(digits) or len(digits) > 15:
        return None
    if digits.startswith("0084"):
        digits = digits[2:]
    if digits.startswith("84") and len(digits) in (11, 12):
        digits = "0" + digits[2:]
    elif is_international:
        is_foreign = len(digits) >= 7 and digits[0] != "0" and not digits.startswith("84")
        return "+" + digits if is_foreign else None
    elif len(digits) == 9 and digits[0] in "35789":
        digits = "0" + digits
    return _national_to_e164(digits)


def _national_to_e164(digits: str) -> str | None:
    if len(digits) == 11 and digits[:4] in _MOBILE_2018:
        digits = _MOBILE_2018[digits[:4]] + digits[4:]
    if len(digits) == 10 and digits[0] == "0" and digits[1] in "235789":
        return "+84" + digits[1:]
    if len(digits) == 11 and digits.startswith("02"):
        return "+84" + digits[1:]
    return None
