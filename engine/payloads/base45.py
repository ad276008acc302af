"""Base45 (RFC 9285): two bytes as three characters of the QR alphanumeric mode."""

from __future__ import annotations

import struct
from typing import Final

_ALPHABET: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"
_VALUES: Final = bytes(max(0, _ALPHABET.find(byte)) for byte in range(256))


def decode(text: bytes) -> bytes | None:
    """The bytes behind `text`, None when it is not base45.

    Strict: a character of another alphabet, one left over, and a group that stands for more than
    it has bytes for are all refused, so that no two texts give the same bytes.
    """
    whole, rest = divmod(len(text), 3)
    if rest == 1 or text.translate(None, _ALPHABET):
        return None
    values = text.translate(_VALUES)
    end = 3 * whole
    words = [
        low + 45 * middle + 2025 * high
        for low, middle, high in zip(values[0:end:3], values[1:end:3], values[2:end:3], strict=True)
    ]
    try:
        data = struct.pack(f">{whole}H", *words)
        return data + bytes((values[-2] + 45 * values[-1],)) if rest else data
    except (struct.error, ValueError):
        return None
