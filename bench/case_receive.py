"""Receive: check-ins over a real socket of loopback to their receipts, by who carries the bytes.

Ours is the ingest server at its own door. The peers carry the very same messages, one to a
WebSocket message or behind its length on a stream, to the same engine: session, records, journal
and receipts are equal, so that what differs is the carrier. One event loop has both ends, and the
sender's bytes are made before the time begins. `receive_1` has one check-in a message.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from bench import case_ingest, peers
from bench.case_ingest import Group, checkin, messages
from bench.harness import Case, Contender, Params, Place, Round
from engine.ingest.link import Link
from engine.wire import frames as wire
from engine.wire.address import Address
from native.wire import split_frames

_HEADS: Final = struct.Struct("<BBHIQQQ")  # what split_frames gives for each frame
MASK: Final = b"\x5a\x17\xc3\x88"
UPGRADE: Final = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Sender(asyncio.Protocol):
    """A gateway without costs: it writes what was made before and looks for receipts."""

    def __init__(self, is_websocket: bool) -> None:
        self.acked = 0
        self.more = asyncio.Event()
        self.is_welcome = False
        self._is_websocket = is_websocket
        self._is_upgraded = not is_websocket
        self._raw = b""
        self._frames = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._is_websocket:
            self._transport.write(UPGRADE)

    def data_received(self, data: bytes) -> None:
        self._raw += data
        if not self._is_upgraded:
            head, found, rest = self._raw.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._is_upgraded, self._raw = True, rest
        if self._is_websocket:
            self._frames += self._unframed()
        else:
            self._frames, self._raw = self._frames + self._raw, b""
        heads, consumed, status = split_frames(self._frames, wire.BODY_MAX)
        assert not status
        for kind, _, _, _, seq, _, _ in _HEADS.iter_unpack(heads):
            assert kind != wire.FrameType.ERROR
            self.is_welcome = self.is_welcome or kind == wire.FrameType.WELCOME
            if kind == wire.FrameType.ACK:
                self.acked = max(self.acked, seq)
        self._frames = self._frames[consumed:]
        self.more.set()

    def _unframed(self) -> bytes:
        """Payloads of the whole WebSocket messages that came."""
        found, raw = b"", self._raw
        while len(raw) >= 2:
            size, at = raw[1] & 127, 2
            if size == 126:
                size, at = int.from_bytes(raw[2:4], "big"), 4
            if len(raw) < at + size:
                break
            assert raw[0] in (0x82, 0x89), "binary or ping"
            found += raw[at : at + size] if raw[0] == 0x82 else b""
            raw = raw[at + size :]
        self._raw = raw
        return found

    @property
    def is_ready(self) -> bool:
        return self._is_upgraded

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self._transport.abort()


def as_is(message: bytes) -> bytes:
    return message


def with_length(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def masked(message: bytes) -> bytes:
    """A WebSocket message of a client."""
    size = len(message)
    head = bytes((0x82, 0x80 | size)) if size < 126 else b"\x82\xfe" + size.to_bytes(2, "big")
    if size > 0xFFFF:
        head = b"\x82\xff" + size.to_bytes(8, "big")
    mask = np.frombuffer(MASK * (size // 4 + 1), np.uint8)[:size]
    return head + MASK + (np.frombuffer(message, np.uint8) ^ mask).tobytes()


class Ours(case_ingest.Ours):
    name = "chot"
    note = "IngestServer at its own TCP door, uvloop"
    is_websocket = False
    frame = staticmethod(as_is)
    new_loop = staticmethod(uvloop.new_event_loop)

    def __init__(self, folder: Path, groups: list[list[Group]], messages: list[bytes]) -> None:
        self._writers: set[asyncio.Task[None]] = set()
        size = groups[0][0][0]
        made = [type(self).frame(message) for message in messages]
        joined = {at + size: b"".join(made[at : at + size]) for at in range(0, len(made), size)}
        framed = [[(last, joined[last]) for last, _ in some] for some in groups]
        super().__init__(folder, "", framed, {})

    async def _open(self) -> Any:
        self._server = self._make_server()
        port = await self.listen()
        sender = self._sender = Sender(self.is_websocket)
        await asyncio.get_running_loop().create_connection(lambda: sender, "127.0.0.1", port)
        await self._until(lambda: sender.is_ready)
        sender.write(type(self).frame(wire.encode(self._hello())))
        await self._until(lambda: sender.is_welcome)
        return None, None

    async def listen(self) -> int:
        """Opens the door; its port."""
        (address,) = await self._server.start([Address("tcp", "127.0.0.1", 0)])
        return address.port

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._sender.more.clear()
            await asyncio.wait_for(self._sender.more.wait(), 60)

    async def _send(self, groups: list[Group]) -> None:
        sender = self._sender
        for last, frames in groups:
            sender.write(frames)
            while sender.acked < last:
                sender.more.clear()
                await sender.more.wait()

    def answer(self) -> bytes:
        rows, details = self._loop.run_until_complete(self._read_all())
        return b"".join([*rows, *details])

    async def _shut(self) -> None:
        self._sender.close()
        await self.shut_door()
        await self._server.stop()
        await self._journal.close()

    async def shut_door(self) -> None:
        for task in list(self._writers):
            task.cancel()
        await asyncio.gather(*self._writers, return_exceptions=True)


class Answers:
    """The way back of a carrier whose own `send` is a coroutine."""

    def __init__(self, host: Ours, send: Callable[[bytes], Any]) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._send = send
        task = asyncio.get_running_loop().create_task(self._run())
        host._writers.add(task)
        task.add_done_callback(host._writers.discard)

    async def _run(self) -> None:
        while True:
            await self._send(await self._queue.get())

    def write(self, data: bytes) -> None:
        self._queue.put_nowait(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """The sender waits for receipts: never more than a group is on its way."""

    resume_reading = close = abort = pause_reading


class Streams(Ours):
    name = "asyncio streams"
    note = "start_server, readexactly of a length and a message, uvloop"
    frame = staticmethod(with_length)

    async def listen(self) -> int:
        self._door = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._door.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        link = Link(self._server)
        link.enter(Answers(self, send), None)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                link.data_received(await reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            link.connection_lost(None)
        finally:
            writer.close()

    async def shut_door(self) -> None:
        self._door.close()
        await super().shut_door()


class Websockets(Ours):
    name = "websockets"
    note = "asyncio server, compression=None, ping_interval=None, max_queue=64, uvloop"
    is_websocket = True
    frame = staticmethod(masked)

    async def listen(self) -> int:
        server = peers.load("websockets.asyncio.server")
        self._closed = peers.load("websockets.exceptions").ConnectionClosed
        self._door = await server.serve(
            self._serve, "127.0.0.1", 0, compression=None, ping_interval=None, max_queue=64,
            max_size=None,
        )  # fmt: skip
        return int(self._door.sockets[0].getsockname()[1])

    async def _serve(self, connection: Any) -> None:
        link = Link(self._server)
        link.enter(Answers(self, connection.send), None)
        try:
            async for message in connection:
                link.data_received(message)
        except self._closed:
            pass
        link.connection_lost(None)

    async def shut_door(self) -> None:
        self._door.close()
        await self._door.wait_closed()
        await super().shut_door()


class Picows(Ours):
    name = "picows"
    note = "ws_create_server, on_ws_frame, uvloop"
    is_websocket = True
    frame = staticmethod(masked)

    async def listen(self) -> int:
        picows = peers.load("picows")
        host = self

        class Listener(picows.WSListener):  # type: ignore[name-defined, misc]
            def on_ws_connected(self, transport: Any) -> None:
                self.link = Link(host._server)
                binary = picows.WSMsgType.BINARY

                class Back(Answers):
                    def __init__(self) -> None: ...

                    def write(self, data: bytes) -> None:
                        transport.send(binary, data)

                self.link.enter(Back(), None)

            def on_ws_frame(self, transport: Any, frame: Any) -> None:
                self.link.data_received(frame.get_payload_as_bytes())

            def on_ws_disconnected(self, transport: Any) -> None:
                self.link.connection_lost(None)

        self._door = await picows.ws_create_server(lambda request: Listener(), "127.0.0.1", 0)
        return int(self._door.sockets[0].getsockname()[1])

    async def shut_door(self) -> None:
        self._door.close()
        await self._door.wait_closed()


class Aiohttp(Ours):
    name = "aiohttp"
    note = "web.WebSocketResponse(compress=False, max_msg_size=0), receive_bytes, uvloop"
    is_websocket = True
    frame = staticmethod(masked)

    async def listen(self) -> int:
        from aiohttp import WSMsgType, web

        async def serve(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse(compress=False, max_msg_size=0)
            await socket.prepare(request)
            link = Link(self._server)
            link.enter(Answers(self, socket.send_bytes), None)
            async for message in socket:
                if message.type == WSMsgType.BINARY:
                    link.data_received(message.data)
            link.connection_lost(None)
            return socket

        app = web.Application()
        app.router.add_get("/", serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def shut_door(self) -> None:
        await self._runner.cleanup()
        await super().shut_door()


def set_up(params: Params, place: Place) -> Round:
    repetitions, groups = params["repetitions"] + 1, params["groups"]
    size = params["messages"]
    frames = messages(checkin, repetitions * groups * size, params["records"])
    lasts = range(size, len(frames) + 1, size)
    joined: list[Group] = [(last, b"") for last in lasts]
    by_repetition = [joined[at : at + groups] for at in range(0, len(joined), groups)]

    def make(kind: type[Ours]) -> Contender:
        for module in {"websockets": ["websockets"], "picows": ["picows"]}.get(kind.name, []):
            peers.load(module)
        return kind(place.scratch / kind.name, by_repetition, frames)

    came, skipped = peers.invite(
        {
            "asyncio streams": lambda: make(Streams),
            "aiohttp": lambda: make(Aiohttp),
            "websockets": lambda: make(Websockets),
            "picows": lambda: make(Picows),
        }
    )
    records = groups * size * params["records"]
    facts: dict[str, int | str] = {"bytes_a_message": len(frames[0])}
    return Round([make(Ours), *came], records, facts=facts, skipped=skipped)


def _case(name: str, what: str, records: int, groups: int, large: int) -> Case:
    return Case(
        name=name,
        what=what,
        unit="record",
        params={
            "smoke": {"groups": 1, "messages": 8, "records": records, "repetitions": 2},
            "small": {"groups": groups, "messages": 64, "records": records, "repetitions": 5},
            "large": {"groups": large, "messages": 64, "records": records, "repetitions": 9},
        },
        set_up=set_up,
    )


CASES: Final = (
    _case("receive", "check-ins over loopback, 64 a message, to their receipts", 64, 8, 32),
    _case("receive_1", "the same, each check-in a message by itself", 1, 32, 128),
)
