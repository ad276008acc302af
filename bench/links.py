"""Gateways as a bench needs them: links of CKP/1 that cost next to nothing themselves.

What they send was encoded and sealed before the clock runs, and they never send beyond their
credit. A link of frames keeps to its rate and drops a frame that has no credit, as a gateway does.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from typing import Any, Final

from bench.engine_process import Pass
from engine.wire import frames as wire
from native.wire import split_frames

DURABLE: Final = 0
VOLATILE: Final = 1
_HEADS: Final = struct.Struct("<BBHIQQQ")  # what split_frames gives for each frame
AGAIN_S: Final = 0.1
BURST_BYTES: Final = 1 << 18  # written at once, so that the loop of the driver is not late itself


class Link(asyncio.Protocol):
    """One session from HELLO on. A subclass says what an ACK and a RESULT mean to it."""

    cls = DURABLE

    def __init__(self, who: Pass, epoch: int, lanes: list[int], next_seq: int = 1) -> None:
        self.who = who
        self.epoch = epoch
        self.limit = 0
        self.byte_limit = 0
        self.acked = 0
        self.sent = 0
        self.sent_bytes = 0
        self.results = 0
        self.is_open = asyncio.Event()
        self.is_done = asyncio.Event()
        self._lanes = lanes
        self._next_seq = next_seq
        self._kept = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        now_ns = time.time_ns()
        hello = wire.Hello(
            gateway=self.who.name, epoch=self.epoch, inst=os.urandom(8), lanes=self._lanes,
            next=(self._next_seq, 1), oldest=self.acked + 1, max_frame=wire.BODY_MAX, t0=now_ns,
            token=self.who.token,
        )  # fmt: skip
        self._transport.write(wire.encode(hello))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_done.is_set():
            raise RuntimeError(f"the engine ended the link of {self.who.name}: {exc}")

    def data_received(self, data: bytes) -> None:
        data = self._kept + data if self._kept else data
        heads, consumed, status = split_frames(data, wire.BODY_MAX)
        assert not status
        for kind, flags, channel, length, seq, start, _ in _HEADS.iter_unpack(heads):
            if kind == wire.FrameType.RESULT:
                self.results += 1
                self.on_result(seq)
                continue
            body = data[start : start + length]
            message = wire.decode(kind, flags, channel, seq, body)
            if isinstance(message, wire.Welcome):
                self.on_welcome(message)
                self.limit = message.limit[self.cls]
                self.byte_limit = message.byte_limit[self.cls]
                self.is_open.set()
                self.on_credit()
            elif isinstance(message, wire.Ack | wire.Credit):
                if message.cls == self.cls:
                    self.acked = max(self.acked, message.seq)
                    self.limit, self.byte_limit = message.limit, message.byte_limit
                    self.on_ack(message.seq)
                    self.on_credit()
            elif isinstance(message, wire.Ping):
                now_ns = time.time_ns()
                pong = wire.Pong(t0=message.t0, t1=now_ns, t2=now_ns)
                self._transport.write(wire.encode(pong))
            elif isinstance(message, wire.Error | wire.Nack):
                raise RuntimeError(f"the engine says {message.code}: {message.text}")
        self._kept = data[consumed:]

    def on_welcome(self, message: wire.Welcome) -> None: ...
    def on_result(self, seq: int) -> None: ...
    def on_ack(self, seq: int) -> None: ...
    def on_credit(self) -> None: ...

    def close(self) -> None:
        self.is_done.set()
        self._transport.close()


class RecordLink(Link):
    """Sends encoded SCANS messages, number 1 on, as far as credit and `due` allow."""

    def __init__(self, who: Pass, epoch: int, lanes: list[int], messages: list[bytes]) -> None:
        super().__init__(who, epoch, lanes, len(messages) + 1)
        self.messages = messages
        self.due = 0  # messages that may leave by now
        self.due_ns: list[int] = []  # when each message was due
        self.waits_ns: list[int] = []  # of each message: from due to its receipt

    def release(self, count: int) -> None:
        """The next messages are due now."""
        count = min(count, len(self.messages) - self.due)
        self.due += count
        self.due_ns += [time.perf_counter_ns()] * count
        self.on_credit()

    def on_credit(self) -> None:
        if not self.is_open.is_set():
            return
        parts, size = [], 0
        while self.sent < min(self.due, self.limit) and size < BURST_BYTES:
            data = self.messages[self.sent]
            if self.sent_bytes + len(data) > self.byte_limit:
                break
            self.sent += 1
            self.sent_bytes += len(data)
            size += len(data)
            parts.append(data)
        if parts:
            self._transport.write(b"".join(parts))
            asyncio.get_running_loop().call_soon(self.on_credit)

    def on_ack(self, seq: int) -> None:
        now_ns = time.perf_counter_ns()
        while len(self.waits_ns) < seq:
            self.waits_ns.append(now_ns - self.due_ns[len(self.waits_ns)])
        if self.acked == len(self.messages):
            self.is_done.set()


class ComingLink(RecordLink):
    """A RecordLink that comes back when its link is cut, and goes on behind what is durable."""

    def __init__(
        self, who: Pass, epoch: int, lanes: list[int], messages: list[bytes], port: int
    ) -> None:
        super().__init__(who, epoch, lanes, messages)
        self.resent = 0
        self.links = 0
        self.is_late = bytearray()  # of each message: 1 if no link stood or a backlog was before it
        self.is_shut = False  # true: does not come back until it is opened again
        self._port = port
        self._behind = 0  # messages that were due when the link came back

    async def open(self) -> None:
        """Comes back by itself from now on."""
        self.is_shut = False
        while not self.is_shut and not self.is_done.is_set():
            try:
                await connect(self, self._port)
                return
            except OSError:
                await asyncio.sleep(AGAIN_S)

    def release(self, count: int) -> None:
        is_late = not self.is_open.is_set() or self.acked < self._behind
        super().release(count)
        self.is_late += bytes((is_late,)) * (self.due - len(self.is_late))

    def waits_by_late(self) -> tuple[list[int], list[int]]:
        """Waits for a receipt: of what came on a standing link, and of backlogs."""
        pairs = list(zip(self.waits_ns, self.is_late, strict=True))
        return [ns for ns, late in pairs if not late], [ns for ns, late in pairs if late]

    def cut(self) -> None:
        """An outage: until `open`."""
        self.is_shut = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._kept = b""
        self.sent_bytes = 0
        self.limit = self.byte_limit = 0
        super().connection_made(transport)

    def on_welcome(self, message: wire.Welcome) -> None:
        self.links += 1
        self._behind = self.due
        again = range(message.acked[DURABLE], self.sent)
        for n in again:
            kind, flags = self.messages[n][:2]
            self.messages[n] = bytes((kind, flags | wire.FLAG_RESEND)) + self.messages[n][2:]
        self.resent += len(again)
        self.sent = message.acked[DURABLE]
        self.acked = max(self.acked, self.sent)
        self.on_ack(self.sent)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open.clear()
        for n in range(self.acked, self.due):
            self.is_late[n] = 1
        if not self.is_done.is_set() and not self.is_shut:
            self._coming = asyncio.get_running_loop().create_task(self.open())


class LaneLink(Link):
    """A camera: a frame each 1/fps, from a clip that begins anew at its end."""

    cls = VOLATILE

    def __init__(self, who: Pass, epoch: int, lane: int, clip: list[bytes], fps: float) -> None:
        super().__init__(who, epoch, [lane])
        self.waits_ns: list[int] = []  # from a frame's leaving to its verdict
        self.settled_ns: list[int] = []  # from each frame's leaving until it is settled
        self.dropped = 0
        self._lane = lane
        self._clip = clip
        self._fps = fps
        self._left_ns: dict[int, int] = {}

    async def run(self, seconds: float) -> None:
        await self.is_open.wait()
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        for n in range(int(seconds * self._fps)):
            await asyncio.sleep(max(0.0, begun_s + n / self._fps - loop.time()))
            image = self._clip[n % len(self._clip)]
            size = wire.HEADER_SIZE + wire.FRAME_HEAD_SIZE + len(image)
            if self.sent + 1 > self.limit or self.sent_bytes + size > self.byte_limit:
                self.dropped += 1
                continue
            self.sent += 1
            self.sent_bytes += size
            message = wire.FrameImage(
                seq=self.sent, channel=self._lane, codec=wire.Codec.JPEG, ts_ns=time.time_ns(),
                frame_no=n, image=image,
            )  # fmt: skip
            self._left_ns[self.sent] = time.perf_counter_ns()
            self._transport.write(wire.encode(message))

    def on_result(self, seq: int) -> None:
        self.waits_ns.append(time.perf_counter_ns() - self._left_ns[seq])

    def on_ack(self, seq: int) -> None:
        now_ns = time.perf_counter_ns()
        for settled in [n for n in self._left_ns if n <= seq]:
            self.settled_ns.append(now_ns - self._left_ns.pop(settled))


async def connect(link: Link, port: int) -> None:
    await asyncio.get_running_loop().create_connection(lambda: link, "127.0.0.1", port)
