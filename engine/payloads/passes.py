"""Passes: what the signed health certificates share, whatever their envelope.

A pass has a name in any script, a date of birth that may be a year, something signed, and a time
after which it says of itself that it has ended. An expired one is a warning: a printout that is
older than its year is no forgery, and its holder is somebody all the same.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from engine.payloads.outcome import Reading, Refusal, Signature, Signed
from engine.payloads.text import (
    NAME_SIZE_MAX,
    Date,
    fold_name,
    text_to_date,
    text_to_nfc,
    tidy,
)

# One of our clocks that is days behind must not turn away whoever got a pass today; what is dated
# next month was never right.
CLOCK_LEEWAY_S: Final = 7 * 86_400
HEALTH_SIZE_MAX: Final = 80  # characters

BAD_SIGNATURE: Final = Refusal("bad_signature", "a signature that is not its issuer's")
NOT_YET: Final = Refusal("malformed", "a certificate that is not valid yet")

_JOINERS: Final = frozenset(" '’ʼ.·-,")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")  # JSON can name halves of a letter
_PARTIAL: Final = re.compile(r"((?:19|20)[0-9]{2})(?:-(?:0[0-9]|1[0-2]))?(?:-00)?")
_DATE_TIME: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:T.{4,32})?", re.ASCII)


def words_to_name(parts: Sequence[str], warnings: list[str]) -> str | None:
    """NFC name of the parts that are not empty; None when they hold no letter or are no text."""
    whole = " ".join(part for part in parts if part)
    text = None if _SURROGATE.search(whole) else text_to_nfc(whole, warnings)
    if text is None:
        return None
    name = tidy(text, warnings)
    kinds = [unicodedata.category(character) for character in name]
    if not any(kind[0] == "L" for kind in kinds):
        return None
    is_name = len(name) <= NAME_SIZE_MAX and all(
        kind[0] in "LM" or character in _JOINERS
        for kind, character in zip(kinds, name, strict=True)
    )
    if not is_name:
        warnings.append("suspicious_name")
    return name


def name_to_folded(name: str, standard: str) -> str:
    """What names are compared by. standard: the issuer's own transliteration (ICAO 9303), which is
    needed for scripts that no mark comes off of."""
    folded = fold_name(name)
    return folded if folded.isascii() or not standard else fold_name(standard)


def text_to_birth(text: str) -> Date | None:
    """A date, a year, or a year and month; an empty text is nothing known. None of other texts."""
    if not text:
        return Date(None, "none")
    date = text_to_date(text[:10]) if _DATE_TIME.fullmatch(text) else None
    if date is not None and date.iso:
        return date
    partial = _PARTIAL.fullmatch(text)
    return Date(None, "year", int(partial.group(1))) if partial else None


def text_to_day(text: str) -> str | None:
    """The ISO date that a date or a time stamp begins with."""
    found = _DATE_TIME.fullmatch(text)
    return text_to_date(found.group(1)).iso if found else None


def check_times(
    reading: Reading, begins_s: float | None, ends_s: float | None
) -> tuple[bool, bool | None]:
    """(whether it has begun, whether it has ended; None when it says not or nobody knows now)."""
    now_s = reading.now_s
    if now_s is None:
        return True, None
    has_begun = begins_s is None or begins_s <= now_s + CLOCK_LEEWAY_S
    has_ended = None if ends_s is None else ends_s < now_s
    if has_ended:
        reading.warnings.append("expired")
    return has_begun, has_ended


def check_signature(reading: Reading, signed: Signed) -> Signature:
    signature = reading.trust.check(signed)
    if signature == "unknown_key":
        reading.warnings.append("unknown_key")
    return signature


def to_seconds(value: object) -> float | None:
    """A NumericDate of JWT or CWT; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -1e12 < value < 1e12 else None


def decode_base64(text: object) -> bytes | None:
    """Base64 or base64url, with its padding or without; None for anything else."""
    if not isinstance(text, str) or not text.isascii():
        return None
    plain = text.translate(str.maketrans("-_", "+/", "=\r\n "))
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
