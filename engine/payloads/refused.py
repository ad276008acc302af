"""Refused: what is recognised and not taken, each with its own reason.

The lane must tell a driver who shows a bank code from one whose card cannot be read, so the common
wrong codes are named. The tests are prefixes and shapes only: nothing of a wrong code is read
further or kept.
"""

from __future__ import annotations

import re
from typing import Final

from engine.payloads.outcome import Outcome, PrefixParser, Reading, Reason, Refusal
from engine.payloads.text import bytes_to_text, is_legacy, is_text, text_to_fields

TOO_LONG: Final = Refusal("too_long", "longer than the largest QR code")
EMPTY: Final = Refusal("empty", "nothing but blanks")
BAD_ENCODING: Final = Refusal("bad_encoding", "neither UTF-8 text nor a card in Windows-1258")

_BARE_NUMBER: Final = b"0123456789+-. ()"
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]{0,31}://")


def _always(reason: Reason, detail: str) -> PrefixParser:
    refusal = Refusal(reason, detail)

    def refuse(reading: Reading, /) -> Outcome:
        return refusal

    return refuse


_CONTACT: Final = _always("contact_card", "a contact card")
_PHONE: Final = _always("phone_link", "a link to call or to write to")
_POSTER: Final = _always("foreign_venue", "a venue poster of another country")
_FOREIGN: Final = _always("foreign_health", "a health pass of another country's own layout")

# Upper case; compared without regard to case, because readers and printers change it.
PREFIXES: Final[dict[bytes, PrefixParser]] = {
    b"WIFI:": _always("wifi", "the access data of a wireless network"),
    b"BEGIN:VCARD": _CONTACT,
    b"MECARD:": _CONTACT,
    b"BIZCARD:": _CONTACT,
    b"TEL:": _PHONE,
    b"SMS:": _PHONE,
    b"SMSTO:": _PHONE,
    b"MMS:": _PHONE,
    b"MMSTO:": _PHONE,
    b"UKC19TRACING:": _POSTER,
    b"NZCOVIDTRACER:": _POSTER,
    b"NZCP:/": _FOREIGN,
    b"HKSARG|": _FOREIGN,
    b"CRED:": _FOREIGN,
    b"LT1:": _FOREIGN,  # Switzerland's light certificate
    b"NL2:": _FOREIGN,  # the Netherlands' CoronaCheck
    b"DC03": _FOREIGN,  # France's 2D-Doc, of which tests and vaccinations use versions 3 and 4
    b"DC04": _FOREIGN,
    b"PK\x03\x04": _FOREIGN,  # India's DIVOC, a zip
}


def explain(reading: Reading) -> Refusal:
    """Why a payload is refused that no issuer took for its own."""
    data = reading.data
    if not data.translate(None, _BARE_NUMBER) and any(48 <= byte <= 57 for byte in data):
        return Refusal("bare_number", "digits without a card around them")
    text = bytes_to_text(data, reading.warnings)
    if text is None or is_legacy(reading.warnings) or not is_text(text):
        return BAD_ENCODING
    if "|" in text and not any(field.strip() for field in text_to_fields(text)):
        return Refusal("malformed", "separators without fields")
    if b"://" in data and _SCHEME.match(data):
        return Refusal("unknown_url", "a link to somewhere else")
    return Refusal("unknown", "no layout that this engine knows")
