"""One link of a gateway: bytes in and out, the limits that hold, the frames in flight.

`FrameBuffer` outlives links; a `Link` ends with its connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from engine import wire
from engine.carriers import Carrier
from engine.errors import EngineUnreachable
from engine.sources import Picture

FRAME_AGE_MAX_NS: Final = 600 * 1_000_000_000


class FrameBuffer:
    """Camera frames that wait, and those sent and not yet acknowledged. In memory only.

    A frame gets its number when it is first sent, so the numbers in flight have no gaps; only what
    was never sent gives way. At most `size_max` bytes; half of it may be in flight.
    """

    def __init__(self, size_max: int) -> None:
        self.dropped = 0
        self.next_seq = 1
        self.acked = 0
        self._size_max = size_max
        self._size = 0
        self._flight_size = 0
        self._waiting: deque[Picture] = deque()
        self._flight: deque[Picture] = deque()  # numbers next_seq - len .. next_seq - 1
        self._resent = 0  # of those in flight, sent on this link

    def __len__(self) -> int:
        return len(self._waiting) + len(self._flight)

    def capture(self, picture: Picture) -> None:
        """Takes a frame; the oldest that were never sent give way."""
        self._waiting.append(picture)
        self._size += len(picture.image)
        oldest_ns = picture.ts_ns - FRAME_AGE_MAX_NS
        while self._waiting and (self._size > self._size_max or self._waiting[0].ts_ns < oldest_ns):
            self._size -= len(self._waiting.popleft().image)
            self.dropped += 1

    def start_link(self, acked: int) -> None:
        """A new link: what is in flight is sent again."""
        if acked < self.acked:
            # The engine started anew and does not remember frames that showed nothing. None of
            # ours is on its way there, so they are numbered anew from its watermark on; with the
            # old numbers we could stand beyond its limit for ever.
            self._waiting.extendleft(reversed(self._flight))
            self._flight.clear()
            self._flight_size = 0
            self.acked, self.next_seq = acked, acked + 1
        self.ack(acked)
        self._resent = 0

    def peek(self) -> tuple[int, Picture, bool] | None:
        """(seq, frame, was sent before) of the next frame to send."""
        if self._resent < len(self._flight):
            seq = self.next_seq - len(self._flight) + self._resent
            return seq, self._flight[self._resent], True
        if self._waiting and self._flight_size <= self._size_max // 2:
            return self.next_seq, self._waiting[0], False
        return None

    def mark_sent(self) -> None:
        """The frame that peek gave has left."""
        if self._resent == len(self._flight):
            picture = self._waiting.popleft()
            self._flight.append(picture)
            self._flight_size += len(picture.image)
            self.next_seq += 1
        self._resent += 1

    def drop_next(self) -> None:
        """Give up a frame that was never sent."""
        self._size -= len(self._waiting.popleft().image)
        self.dropped += 1

    def ack(self, seq: int) -> None:
        """Numbers up to seq are settled at the engine."""
        while self._flight and self.next_seq - len(self._flight) <= seq:
            size = len(self._flight.popleft().image)
            self._size -= size
            self._flight_size -= size
            self._resent = max(0, self._resent - 1)
        self.acked = max(self.acked, seq)
        self.next_seq = max(self.next_seq, seq + 1)


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
