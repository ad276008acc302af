"""Venue codes of our own: short enough for a small print, hard to misread, impossible to invent.

    HTTPS://QR.CHOT.VN/V/ 2 NNNNNNNNNNNN TTTTTTTT CC
    HTTPS://QR.CHOT.VN/V/ 1 NNNNNNN TTTTTTTT CC

Upper case throughout, so that a QR symbol holds it in its alphanumeric mode (5.5 bits a character
instead of 8). The first character is the version; 2 is made, 1 is what older posters bear. N, in
Crockford's base 32, big-endian: of version 2 the number of the key (4 bits), issue (6), direction
(2), room (16) and the venue's place number (32); of version 1 issue (3) and place number (32). T: a
keyed tag of 40 bits over the version's character and N as bytes (`venue_body`). C: two check
characters by ISO/IEC 7064, MOD 1271-36, over all before: they catch every single wrong character
and every transposition, so a misread code is told from a forged one. A phone that is not ours opens
the address, where the province's page is.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import Final

import msgspec

from engine.payloads.outcome import Refusal, VenueCode

TAG_SIZE: Final = 5
ISSUE_MAX: Final = 63
KEY_MAX: Final = 15
ROOM_MAX: Final = 0xFFFF
NUMBER_MAX: Final = (1 << 32) - 1
PATH: Final = "/V/"

_OUT: Final = 2  # engine.scans.rows.Direction: 0 none, 1 in, 2 out
_ISSUE_MAX_V1: Final = 7
_NUMBER_SIZES: Final = {1: 7, 2: 12}  # characters of N by version
_TAG_CHARS: Final = 8

_BASE36: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # without I, L, O and U
_TO_BASE32: Final = str.maketrans(_CROCKFORD, _BASE36[:32])
_CODE: Final = re.compile(rf"(?:1[{_CROCKFORD}]{{15}}|2[{_CROCKFORD}]{{20}})[0-9A-Z]{{2}}")

# What the alphanumeric mode of a QR symbol holds, and a host name or port can have.
_HOST: Final = re.compile(r"[A-Z0-9](?:[A-Z0-9.:-]{0,251}[A-Z0-9])?")

# KeyRing.venue_tag: 5 bytes over a body under the key of that number.
VenueTag = Callable[[bytes, int], bytes]


def check_characters(body: str) -> str:
    """Two characters that make the whole, read in base 36, equal to 1 modulo 1271.

    body: 0-9 and A-Z. ISO/IEC 7064:2003, pure system MOD 1271-36.
    """
    check = (1 - int(body, 36) * 36 * 36) % 1271
    return _BASE36[check // 36] + _BASE36[check % 36]


def venue_body(code: VenueCode) -> bytes:
    """The bytes that the tag of a code is made over: 6 of version 1, 9 of version 2."""
    if code.version == 1:
        return b"1" + code.issue.to_bytes(1, "big") + code.number.to_bytes(4, "big")
    return b"2" + _serial(code).to_bytes(8, "big")


def make_venue_code(code: VenueCode, venue_tag: VenueTag) -> VenueCode:
    """The code with its tag. Raises ValueError when a field does not fit the layout."""
    _check(code)
    return msgspec.structs.replace(code, tag=venue_tag(venue_body(code), code.key))


def venue_code_to_text(code: VenueCode) -> str:
    """The text of the QR code. Raises ValueError when a field does not fit the layout."""
    _check(code)
    host = code.host.upper()
    if len(code.tag) != TAG_SIZE:
        raise ValueError("a tag has 5 bytes")
    if _HOST.fullmatch(host) is None or not code.host.isascii():
        raise ValueError("host is a host name")
    serial = _to_crockford(_serial(code), _NUMBER_SIZES[code.version])
    body = f"{code.version}{serial}{_to_crockford(int.from_bytes(code.tag, 'big'), _TAG_CHARS)}"
    return f"HTTPS://{host}{PATH}{body}{check_characters(body)}"


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
    if check_characters(code[:-2]) != code[-2:]:
        return Refusal("malformed", "check characters of a venue code do not agree")
    serial = _from_crockford(code[1 : -2 - _TAG_CHARS])
    tag = _from_crockford(code[-2 - _TAG_CHARS : -2]).to_bytes(TAG_SIZE, "big")
    number = serial & NUMBER_MAX
    if code[0] == "1":
        return VenueCode(number, serial >> 32, tag, host)
    room, direction = serial >> 32 & ROOM_MAX, serial >> 48 & 3
    issue, key = serial >> 50 & ISSUE_MAX, serial >> 56
    if direction > _OUT or not key:
        return Refusal("malformed", "not the layout of a venue code")
    return VenueCode(number, issue, tag, host, room, direction, key, version=2)


def is_venue_tag(code: VenueCode, venue_tag: VenueTag) -> bool:
    """Whether we made this code. If not: refuse it as `forged`. Raises KeyMissing where the ring
    has no key of that number."""
    return hmac.compare_digest(venue_tag(venue_body(code), code.key), code.tag)


def _check(code: VenueCode) -> None:
    is_plain = not code.room and not code.direction and code.key == 1
    fits = (
        code.version in _NUMBER_SIZES
        and 0 <= code.number <= NUMBER_MAX
        and 0 <= code.issue <= (ISSUE_MAX if code.version > 1 else _ISSUE_MAX_V1)
        and 0 <= code.room <= ROOM_MAX
        and 0 <= code.direction <= _OUT
        and 1 <= code.key <= KEY_MAX
    )
    if not fits or (code.version == 1 and not is_plain):
        raise ValueError("a field of the code does not fit its layout")


def _serial(code: VenueCode) -> int:
    if code.version == 1:
        return code.issue << 32 | code.number
    head = (code.key << 6 | code.issue) << 2 | code.direction
    return (head << 16 | code.room) << 32 | code.number


def _to_crockford(value: int, size: int) -> str:
    return "".join(_CROCKFORD[value >> 5 * i & 31] for i in reversed(range(size)))


def _from_crockford(text: str) -> int:
    return int(text.translate(_TO_BASE32), 32)
