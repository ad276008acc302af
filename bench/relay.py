"""Between gateways and an engine: passes bytes on, cuts links, times verdicts.

A wait is from the moment the last byte of a frame was passed on until its RESULT came by, so it
holds everything but the gateway's own work: the way to the engine, decoding, judging, the way back.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from engine.wire import frames as wire

LIVE_NS: Final = 500_000_000  # a frame older than that when it passes is of a backlog
_HEADER: Final = struct.Struct(">BBHIQ")
_HEAD_SIZE: Final = wire.HEADER_SIZE + wire.FRAME_HEAD_SIZE
_TAKEN_AT: Final = wire.HEADER_SIZE + 8  # of a FRAME's time within its bytes
_U64: Final = struct.Struct(">Q")


@dataclass(slots=True)
class Heard:
    """What came by of one gateway. waits_ns: of verdicts on live frames; late_ns: on frames of a
    backlog, from when they were taken; settled_ns: of every live frame until its receipt."""

    frames: int = 0
    results: int = 0
    links: int = 0
    waits_ns: list[int] = field(default_factory=list)
    late_ns: list[int] = field(default_factory=list)
    settled_ns: list[int] = field(default_factory=list)


class Walker:
    """Steps through a stream of CKP frames and keeps of each no more than its first bytes."""

    def __init__(self, on_frame: Callable[[int, int, int, bytes], None]) -> None:
        """on_frame: kind, flags, number, first bytes; when the last byte has come."""
        self._on_frame = on_frame
        self._head = b""
        self._left = 0  # bytes of the frame that are to come

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                if len(self._head) < _HEAD_SIZE:
                    self._head += data[at : at + min(step, _HEAD_SIZE - len(self._head))]
                self._left -= step
            else:
                step = min(wire.HEADER_SIZE - len(self._head), len(data) - at)
                self._head += data[at : at + step]
                if len(self._head) < wire.HEADER_SIZE:
                    return
                self._left = _HEADER.unpack(self._head)[3]
            at += step
            if not self._left:
                self._end()

    def _end(self) -> None:
        head, self._head = self._head, b""
        kind, flags, _, _, seq = _HEADER.unpack_from(head)
        self._on_frame(kind, flags, seq, head)


class Way(asyncio.Protocol):
    """One direction of a relayed connection."""

    def __init__(self, relay: Relay, walker: Walker) -> None:
        self._relay, self._walker = relay, walker
        self.other: Way | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        self._walker.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Downward(Way):
    """The gateway's end; opens the engine's end when it comes."""

    def __init__(self, relay: Relay) -> None:
        self.session = Session(relay.heard)
        super().__init__(relay, Walker(self.session.on_sent))
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._relay.is_cut:
            transport.close()
            return
        self._relay.ways.add(self)
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        up = Way(self._relay, Walker(self.session.on_answered))
        up.other = self
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: up, "127.0.0.1", self._relay.target
            )
        except OSError:  # the engine is dead just now
            if self.transport is not None:
                self.transport.close()
            return
        self.other = up
        if self.transport is None and up.transport is not None:
            up.transport.close()
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.ways.discard(self)
        super().connection_lost(exc)


class Session:
    """Times of one link."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._left_ns: dict[int, tuple[int, int]] = {}  # number -> (passed on at, taken at)

    def on_sent(self, kind: int, flags: int, seq: int, head: bytes) -> None:
        if kind == wire.FrameType.HELLO:
            self._heard.links += 1
        elif kind == wire.FrameType.FRAME:
            self._heard.frames += 1
            taken_ns = _U64.unpack_from(head, _TAKEN_AT)[0]
            self._left_ns[seq] = (time.time_ns(), taken_ns)

    def on_answered(self, kind: int, flags: int, seq: int, head: bytes) -> None:
        if kind == wire.FrameType.RESULT:
            self._heard.results += 1
            left_ns, taken_ns = self._left_ns.get(seq, (0, 0))
            if flags & wire.FLAG_VOLATILE and left_ns:
                now_ns = time.time_ns()
                if left_ns - taken_ns < LIVE_NS:
                    self._heard.waits_ns.append(now_ns - left_ns)
                else:
                    self._heard.late_ns.append(now_ns - taken_ns)
        elif kind == wire.FrameType.ACK and flags & wire.FLAG_VOLATILE:
            now_ns = time.time_ns()
            for settled in [n for n in self._left_ns if n <= seq]:
                left_ns, taken_ns = self._left_ns.pop(settled)
                if left_ns - taken_ns < LIVE_NS:
                    self._heard.settled_ns.append(now_ns - left_ns)


class Relay:
    """Where one gateway connects; `target` is the engine's port."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.is_cut = False
        self.heard = Heard()
        self.ways: set[Downward] = set()
        self._server: Any = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Downward(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """An outage: links are torn, and new ones ended at once, until `mend`."""
        self.is_cut = True
        for way in list(self.ways):
            if way.transport is not None:
                way.transport.abort()

    def mend(self) -> None:
        self.is_cut = False

    async def stop(self) -> None:
        self.cut()
        self._server.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._server.wait_closed(), 5)
