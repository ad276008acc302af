"""Venue codes of our own: short enough for a small print, hard to misread, impossible to invent.

    HTTPS://QR.CHOT.VN/V/ 1 NNNNNNN TTTTTTTT CC

Upper case throughout, so that a QR symbol holds it in its alphanumeric mode (5.5 bits a character
instead of 8). 1 is the version. N: 35 bits in Crockford's base 32, the issue (3 bits) above the
venue's place number (32 bits). T: a keyed tag of 40 bits over b"1", issue (1 byte) and number (4
bytes, big-endian). C: two check characters by ISO/IEC 7064, MOD 1271-36, over all before: they
catch every single wrong character and every transposition, so a misread code is told from a forged
one. A phone that is not ours opens the address, where the province's page is.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import Final

from engine.payloads.outcome import Refusal, VenueCode

VERSION: Final = b"1"
TAG_SIZE: Final = 5
ISSUE_MAX: Final = 7
NUMBER_MAX: Final = (1 << 32) - 1
PATH: Final = "/V/"

_NUMBER_SIZE: Final = 7  # characters of issue and number
_TAG_CHARS: Final = 8
_BODY_SIZE: Final = 1 + _NUMBER_SIZE + _TAG_CHARS

_BASE36: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # without I, L, O and U
_TO_BASE32: Final = str.maketrans(_CROCKFORD, _BASE36[:32])
_CODE: Final = re.compile(rf"1[{_CROCKFORD}]{{{_BODY_SIZE - 1}}}[0-9A-Z]{{2}}")

# What the alphanumeric mode of a QR symbol holds, and a host name or port can have.
_HOST: Final = re.compile(r"[A-Z0-9](?:[A-Z0-9.:-]{0,251}[A-Z0-9])?")


def check_characters(body: str) -> str:
    """Two characters that make the whole, read in base 36, equal to 1 modulo 1271.

    body: 0-9 and A-Z. ISO/IEC 7064:2003, pure system MOD 1271-36.
    """
    check = (1 - int(body, 36) * 36 * 36) % 1271
    return _BASE36[check // 36] + _BASE36[check % 36]


def venue_body(number: int, issue: int) -> bytes:
    """The 6 bytes that the tag of a code is made over."""
    return VERSION + issue.to_bytes(1, "big") + number.to_bytes(4, "big")


def make_venue_code(number: int, issue: int, tag: bytes, host: str) -> str:
    """The text of a venue's QR code. tag: KeyRing.venue_tag(venue_body(number, issue)).

    Raises ValueError when an argument does not fit the layout.
    """
    if not (0 <= number <= NUMBER_MAX and 0 <= issue <= ISSUE_MAX and len(tag) == TAG_SIZE):
        raise ValueError("number is 32 bits, issue 3 bits and tag 5 bytes")
    if _HOST.fullmatch(host.upper()) is None or not host.isascii():
        raise ValueError("host is a host name")
    serial = _to_crockford(issue << 32 | number, _NUMBER_SIZE)
    body = VERSION.decode() + serial + _to_crockford(int.from_bytes(tag, "big"), _TAG_CHARS)
    return f"HTTPS://{host.upper()}{PATH}{body}{check_characters(body)}"


def parse_path(path: str, host: str) -> VenueCode | Refusal:
    """The code in the path of an address at our own host; the case of letters does not count.

    The caller who holds the key asks is_venue_tag before believing it.
    """
    upper = path.upper()
    if not upper.startswith(PATH):
        return Refusal("unknown_url", "our host, but not a venue's address")
    code = upper[len(PATH) :]
    if not path.isascii() or _CODE.fullmatch(code) is None:
        return Refusal("malformed", "not the layout of a venue code")
    if check_characters(code[:_BODY_SIZE]) != code[_BODY_SIZE:]:
        return Refusal("malformed", "check characters of a venue code do not agree")
    serial = _from_crockford(code[1 : 1 + _NUMBER_SIZE])
    tag = _from_crockford(code[1 + _NUMBER_SIZE : _BODY_SIZE]).to_bytes(TAG_SIZE, "big")
    return VenueCode(serial & NUMBER_MAX, serial >> 32, tag, host)


def is_venue_tag(code: VenueCode, venue_tag: Callable[[bytes], bytes]) -> bool:
    """Whether we made this code. venue_tag: KeyRing.venue_tag. If not: refuse it as `forged`."""
    return hmac.compare_digest(venue_tag(venue_body(code.number, code.issue)), code.tag)


def _to_crockford(value: int, size: int) -> str:
    return "".join(_CROCKFORD[value >> 5 * i & 31] for i in reversed(range(size)))


def _from_crockford(text: str) -> int:
    return int(text.translate(_TO_BASE32), 32)
