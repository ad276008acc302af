"""Payment: EMVCo codes for bank transfers, VietQR among them. Recognised, refused, not kept.

    tag (2 digits) | length (2 digits) | value, again and again; the last is 63 04 and a CRC

A code begins with its version, 00 02 01. Of all wrong codes at a barrier this is the commonest,
because it is the one that people have at hand. It stays a payment code when its check sum is wrong:
it still is no person.
"""

from __future__ import annotations

import binascii
from typing import Final

from engine.payloads.outcome import Outcome, PrefixParser, Reading, Refusal

VIETQR: Final = b"A000000727"  # NAPAS, in tag 38

_CRC_SIZE: Final = 4
_BANK: Final = Refusal("payment_qr", "a VietQR code for a bank transfer")
_OTHER: Final = Refusal("payment_qr", "an EMVCo code for a payment")
_DAMAGED: Final = Refusal("payment_qr", "a payment code whose check sum is wrong")


def parse(reading: Reading, /) -> Outcome:
    data = reading.data
    if not _is_intact(data):
        return _DAMAGED
    return _BANK if VIETQR in data else _OTHER


def _is_intact(data: bytes) -> bool:
    """CRC-16/CCITT-FALSE over everything before it."""
    body, written = data[:-_CRC_SIZE], data[-_CRC_SIZE:]
    return body.endswith(b"6304") and written.upper() == b"%04X" % binascii.crc_hqx(body, 0xFFFF)


PREFIXES: Final[dict[bytes, PrefixParser]] = {b"000201": parse}
