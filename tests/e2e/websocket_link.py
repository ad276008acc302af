"""A WebSocket client of a few lines (RFC 6455), so that aiohttp is not its own judge."""

from __future__ import annotations

import os
import ssl
import struct

from tests.e2e.rig import RawLink

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class HttpRefusal(Exception):
    """The server answered the upgrade with this HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class WebSocketLink(RawLink):
    """A RawLink whose `send` makes one binary message. Raises HttpRefusal."""

    def __init__(
        self,
        port: int,
        *,
        timeout_s: float = 20,
        context: ssl.SSLContext | None = None,
        path: str = "/ckp",
        subprotocol: str = "ckp.1",
    ) -> None:
        super().__init__(port, timeout_s=timeout_s, context=context)
        self.close_code = 0
        self.pongs = 0
        self.sizes: list[int] = []  # of the messages that came
        request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )
        request += f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
        self.socket.sendall(request.encode() + b"\r\n")
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            piece = self.socket.recv(4096)
            if not piece:
                raise EOFError
            self._data += piece
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if status != 101:
            raise HttpRefusal(status)
        # The accept key of RFC 6455's own example.
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert b"Sec-WebSocket-Protocol: ckp.1" in head

    def send_whole(self, data: bytes) -> None:
        self.send_raw(BINARY, data)

    def send_raw(self, opcode: int, data: bytes, *, is_last: bool = True) -> None:
        """One WebSocket frame."""
        size = len(data)
        head = bytes([opcode | (0x80 if is_last else 0)])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 1 << 16:
            head += struct.pack(">BH", 0x80 | 126, size)
        else:
            head += struct.pack(">BQ", 0x80 | 127, size)
        mask = os.urandom(4)
        key = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
        super().send_whole(head + mask + masked)

    def receive_bytes(self) -> bytes:
        while True:
            opcode, data = self._frame()
            if opcode == CLOSE:
                self.close_code = struct.unpack_from(">H", data)[0] if data else 1005
                return b""
            if opcode == PONG:
                self.pongs += 1
                continue
            assert opcode == BINARY, opcode
            self.sizes.append(len(data))
            return data

    def _frame(self) -> tuple[int, bytes]:
        first, second = self._take(2)
        assert first & 0x80 and not first & 0x70, "fragments or compression"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._take(8))
        return first & 0x0F, self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            piece = self.socket.recv(1 << 16)
            if not piece:
                raise ConnectionResetError
            self._data += piece
        taken, self._data = self._data[:size], self._data[size:]
        return taken
