"""A slow, obvious CKP/1 encoder: what docs/protocol.md says, written without the engine.

tests/data/wire/golden.jsonl was made with it. Tests build records and malformed frames with it, so
that the engine's codec is never its own judge.
"""

from __future__ import annotations

import struct

TYPES = {
    "HELLO": 0x01, "SCANS": 0x02, "FRAME": 0x03, "EVENT": 0x04, "PING": 0x05, "BYE": 0x06,
    "LOST": 0x07, "WELCOME": 0x81, "ACK": 0x82, "CREDIT": 0x83, "NACK": 0x84, "RESULT": 0x85,
    "PONG": 0x86, "GOAWAY": 0x87, "ERROR": 0x88,
}  # fmt: skip


def frame(kind: str, body: bytes = b"", *, seq: int = 0, flags: int = 0, channel: int = 0) -> bytes:
    """16 bytes of header, big-endian, then the body."""
    head = bytes([TYPES[kind], flags]) + channel.to_bytes(2, "big")
    return head + len(body).to_bytes(4, "big") + seq.to_bytes(8, "big") + body


def pack(value: object) -> bytes:
    """MessagePack in its shortest forms (the specification's table of formats)."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return _pack_int(value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        if len(data) < 32:
            return bytes([0xA0 | len(data)]) + data
        return _sized(len(data), (0xD9, 0xDA, 0xDB)) + data
    if isinstance(value, bytes):
        return _sized(len(value), (0xC4, 0xC5, 0xC6)) + value
    if isinstance(value, list | tuple):
        head = bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + _be(len(value), 2)
        return head + b"".join(map(pack, value))
    assert isinstance(value, dict)
    head = bytes([0x80 | len(value)]) if len(value) < 16 else b"\xde" + _be(len(value), 2)
    return head + b"".join(pack(k) + pack(v) for k, v in value.items())


def _pack_int(value: int) -> bytes:
    if value >= 0:
        if value < 128:
            return bytes([value])
        for tag, width in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
            if value < 1 << 8 * width:
                return bytes([tag]) + _be(value, width)
    elif value >= -32:
        return bytes([256 + value])
    for tag, width in ((0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8)):
        if value >= -(1 << 8 * width - 1):
            return bytes([tag]) + value.to_bytes(width, "big", signed=True)
    raise ValueError("no MessagePack integer")


def _sized(size: int, tags: tuple[int, int, int]) -> bytes:
    for tag, width in zip(tags, (1, 2, 4), strict=True):
        if size < 1 << 8 * width:
            return bytes([tag]) + _be(size, width)
    raise ValueError("too long")


def _be(value: int, width: int) -> bytes:
    return value.to_bytes(width, "big")
