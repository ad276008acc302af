"""Camera frames that wait to be sent, and those in flight. In memory only.

One FrameQueue a gateway; a FrameFlight for each epoch, which outlives its links.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from engine.gateway.sources import Picture

FRAME_AGE_MAX_NS: Final = 600 * 1_000_000_000


class FrameQueue:
    """Frames that were never sent: at most `size_max` bytes with those in flight, the oldest give
    way. Half of it may be in flight."""

    def __init__(self, size_max: int) -> None:
        self.dropped = 0
        self.size = 0  # bytes, with those in flight
        self.flight_size = 0
        self.waiting: deque[Picture] = deque()
        self._size_max = size_max

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def may_fly(self) -> bool:
        return bool(self.waiting) and self.flight_size <= self._size_max // 2

    def capture(self, picture: Picture) -> None:
        """Takes a frame; the oldest that were never sent give way."""
        self.waiting.append(picture)
        self.size += len(picture.image)
        oldest_ns = picture.ts_ns - FRAME_AGE_MAX_NS
        while self.waiting and (self.size > self._size_max or self.waiting[0].ts_ns < oldest_ns):
            self.drop()

    def drop(self) -> None:
        """Gives up the oldest."""
        self.size -= len(self.waiting.popleft().image)
        self.dropped += 1


class FrameFlight:
    """Frames of one epoch, sent and not yet acknowledged.

    A frame gets its number when it is first sent, so the numbers in flight have no gaps.
    """

    def __init__(self, queue: FrameQueue) -> None:
        self.next_seq = 1
        self.acked = 0
        self._queue = queue
        self._flight: deque[Picture] = deque()  # numbers next_seq - len .. next_seq - 1
        self._resent = 0  # of those in flight, sent on this link

    def __len__(self) -> int:
        return len(self._flight)

    def start_link(self, acked: int) -> None:
        """A new link: what is in flight is sent again."""
        if acked < self.acked:
            # The engine started anew and does not remember frames that showed nothing. None of
            # ours is on its way there, so they are numbered anew from its watermark on; with the
            # old numbers we could stand beyond its limit for ever.
            self._queue.waiting.extendleft(reversed(self._flight))
            self._queue.flight_size -= sum(len(picture.image) for picture in self._flight)
            self._flight.clear()
            self.acked, self.next_seq = acked, acked + 1
        self.ack(acked)
        self._resent = 0

    def peek(self, *, with_new: bool = True) -> tuple[int, Picture, bool] | None:
        """(seq, frame, was sent before) of the next frame to send."""
        if self._resent < len(self._flight):
            seq = self.next_seq - len(self._flight) + self._resent
            return seq, self._flight[self._resent], True
        if with_new and self._queue.may_fly:
            return self.next_seq, self._queue.waiting[0], False
        return None

    def mark_sent(self) -> None:
        """The frame that peek gave has left."""
        if self._resent == len(self._flight):
            picture = self._queue.waiting.popleft()
            self._flight.append(picture)
            self._queue.flight_size += len(picture.image)
            self.next_seq += 1
        self._resent += 1

    def taken_ms(self, seq: int) -> int:
        """When a frame in flight came to the box, 0 when it is not in flight."""
        at = seq - (self.next_seq - len(self._flight))
        return self._flight[at].taken_ms if 0 <= at < len(self._flight) else 0

    def drop_new(self) -> None:
        """Gives up the frame that peek gave, which was never sent."""
        self._queue.drop()

    def ack(self, seq: int) -> None:
        """Numbers up to seq are settled at the engine."""
        while self._flight and self.next_seq - len(self._flight) <= seq:
            size = len(self._flight.popleft().image)
            self._queue.size -= size
            self._queue.flight_size -= size
            self._resent = max(0, self._resent - 1)
        self.acked = max(self.acked, seq)
        self.next_seq = max(self.next_seq, seq + 1)
