"""One link of a gateway: bytes in and out, and the limits that hold on it."""

from __future__ import annotations

import asyncio
from collections import deque

from engine.errors import EngineUnreachable
from engine.gateway.carriers import Carrier
from engine.wire import frames as wire


class Link:
    """One connection: bytes in and out, and the limits that hold on it."""

    def __init__(self, carrier: Carrier) -> None:
        self.sent = 0  # last class 0 number sent on this link
        self.hb_s = 10.0
        self.max_frame = 0
        self.goaway: wire.Goaway | None = None
        self.ping: tuple[int, int] | None = None  # (t0, monotonic ns) of the newest
        self._limit = [0, 0]
        self._byte_limit = [0, 0]
        self._bytes = [0, 0]
        self._carrier = carrier
        self._frames = wire.FrameReader()
        self._inbox: deque[wire.Message] = deque()

    async def receive(self, timeout_s: float) -> wire.Message:
        """The next message. Raises TimeoutError, EngineUnreachable, and what FrameReader and the
        carrier do."""
        while not self._inbox:
            self._frames.check()
            async with asyncio.timeout(timeout_s):
                data = await self._carrier.read()
            if not data:
                raise EngineUnreachable("the engine closed the link")
            self._inbox.extend(self._frames.feed(data))
        return self._inbox.popleft()

    def send(self, message: wire.Message) -> int:
        """Writes one message; its bytes."""
        data = wire.encode(message)
        self._carrier.write(data)
        return len(data)

    async def drain(self) -> None:
        await self._carrier.drain()

    async def close(self) -> None:
        await self._carrier.close()

    def grant(self, cls: int, limit: int, byte_limit: int) -> None:
        """Limits are absolute and never fall: a late or repeated grant is harmless."""
        self._limit[cls] = max(self._limit[cls], limit)
        self._byte_limit[cls] = max(self._byte_limit[cls], byte_limit)

    def limit(self, cls: int) -> int:
        return self._limit[cls]

    def spend(self, cls: int, seq: int, size: int) -> bool:
        """False when a message is beyond a limit; else it counts as sent."""
        if seq > self._limit[cls] or self._bytes[cls] + size > self._byte_limit[cls]:
            return False
        self._bytes[cls] += size
        return True
