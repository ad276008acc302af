"""CKP/1 in WebSockets: subprotocol ckp.1, one binary message is one or more whole frames.

What both ends share: aiohttp sends by coroutine, a link by call, and between them lies an Outbox.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

SUBPROTOCOL: Final = "ckp.1"
MESSAGE_MAX: Final = 65_552  # bytes: the largest control frame; a larger frame goes alone
LOW_WATER: Final = 65_536  # bytes that may wait before a sender that drains does


class Outbox:
    """Frames on their way into a WebSocket. What waits together leaves as one message.

    send: the coroutine that sends one binary message and returns when more may come.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self.size = 0  # bytes that wait
        self._send = send
        self._waiting: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    def put(self, frame: bytes) -> None:
        self._waiting.append(frame)
        self.size += len(frame)
        self._news.set()

    async def run(self) -> None:
        """Sends until it is cancelled. Raises what `send` raises."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                message = self._next_message()
                await self._send(message)
                self.size -= len(message)
                self._room.set()

    def _next_message(self) -> bytes:
        frames = [self._waiting.popleft()]
        size = len(frames[0])
        while self._waiting and size + len(self._waiting[0]) <= MESSAGE_MAX:
            frames.append(self._waiting.popleft())
            size += len(frames[-1])
        return frames[0] if len(frames) == 1 else b"".join(frames)

    async def drain(self, size: int = LOW_WATER) -> None:
        """Until at most `size` bytes wait."""
        while self.size > size:
            self._room.clear()
            await self._room.wait()
