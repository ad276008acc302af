"""Parts of the doors without sockets: turns of a WebSocket, descriptors, the box of what leaves."""

from __future__ import annotations

import asyncio
import resource
from typing import Any, cast

import pytest
from aiohttp import WSMessage, WSMsgType

from engine.ingest import doors
from engine.wire.websocket import MESSAGE_MAX, Outbox


class Flood:
    """A WebSocket with a thousand messages that are there already, then its end."""

    def __init__(self, kind: WSMsgType = WSMsgType.BINARY) -> None:
        self.left = 1000
        self.pongs = 0
        self._kind = kind

    async def receive(self) -> WSMessage:
        self.left -= 1
        kind = self._kind if self.left >= 0 else WSMsgType.CLOSED
        return cast(WSMessage, WSMessage(kind, b"x", None))

    async def pong(self, data: bytes) -> None:
        self.pongs += 1

    async def send_bytes(self, data: bytes) -> None: ...


class Counter:
    """A link and a transport that count."""

    def __init__(self) -> None:
        self.messages = 0
        self.is_closed = False

    def message_received(self, data: bytes) -> None:
        self.messages += 1

    def close(self) -> None:
        self.is_closed = True

    abort = close


def test_a_flood_of_small_messages_leaves_turns_to_others() -> None:
    async def test() -> None:
        counter = Counter()
        carrier = doors._WebSocketCarrier(cast(Any, Flood()), cast(Any, counter))
        flood = asyncio.create_task(carrier.run(cast(Any, counter)))
        turns = 0
        while not flood.done():
            before = counter.messages
            await asyncio.sleep(0)
            assert counter.messages - before <= doors.TURN_MESSAGES
            turns += 1
        assert counter.messages == 1000 and counter.is_closed
        assert turns >= 1000 // doors.TURN_MESSAGES

    asyncio.run(test())


@pytest.mark.parametrize("kind", [WSMsgType.PING, WSMsgType.PONG])
def test_a_flood_of_pings_leaves_turns_to_others(kind: WSMsgType) -> None:
    async def test() -> None:
        counter, flood = Counter(), Flood(kind)
        carrier = doors._WebSocketCarrier(cast(Any, flood), cast(Any, counter))
        run = asyncio.create_task(carrier.run(cast(Any, counter)))
        turns = 0
        while not run.done():
            before = flood.left
            await asyncio.sleep(0)
            assert before - flood.left <= doors.TURN_MESSAGES
            turns += 1
        await run
        assert flood.pongs == (1000 if kind is WSMsgType.PING else 0) and not counter.messages
        assert turns >= 1000 // doors.TURN_MESSAGES

    asyncio.run(test())


class Handler:
    """aiohttp's protocol: takes what it is handed, and pauses after so many pieces."""

    def __init__(self, pause_after: int = -1) -> None:
        self.taken: list[bytes] = []
        self.transport: Any = None
        self._pause_after = pause_after
        self.pause_writing = self.resume_writing = self.eof_received = lambda: None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None: ...

    def data_received(self, data: bytes) -> None:
        self.taken.append(data)
        if len(self.taken) == self._pause_after:
            self.transport.pause_reading()


class Socket:
    """A transport that knows whether it is read."""

    def __init__(self) -> None:
        self.is_reading = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def get_extra_info(self, name: str) -> str:
        return name


class Session(Counter):
    has_session = True

    def connection_lost(self, exc: Exception | None) -> None: ...


def upgrade(handler: Handler) -> tuple[doors._Upgrade, Socket]:
    socket_ = Socket()
    made = doors._Upgrade(cast(Any, handler), cast(Any, Session()), {})
    made.connection_made(cast(Any, socket_))
    assert handler.transport.get_extra_info("peername") == "peername"
    return made, socket_


def test_much_that_comes_at_once_is_taken_apart_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "TURN_NS", 0)
    data = bytes(range(256)) * 1024

    async def test() -> None:
        handler = Handler()
        made, socket_ = upgrade(handler)
        made.data_received(data)
        made.data_received(b"more")  # what was read before the pause
        for n in range(1, len(data) // doors.PIECE + 1):
            assert len(handler.taken) == n and not socket_.is_reading
            await asyncio.sleep(0)
        assert b"".join(handler.taken) == data + b"more" and socket_.is_reading

    asyncio.run(test())


def test_what_aiohttp_has_no_room_for_waits_and_stays_in_the_other_end() -> None:
    async def test() -> None:
        handler = Handler(pause_after=2)
        made, socket_ = upgrade(handler)
        made.data_received(bytes(5 * doors.PIECE))
        for _ in range(3):
            assert len(handler.taken) == 2 and not socket_.is_reading
            await asyncio.sleep(0)
        handler.transport.resume_reading()
        assert len(handler.taken) == 2, "not from within the one that makes room"
        while not socket_.is_reading:
            await asyncio.sleep(0)
        assert b"".join(handler.taken) == bytes(5 * doors.PIECE)
        handler.transport.pause_reading()
        made.data_received(b"late")
        handler.transport.resume_reading()
        made.connection_lost(None)
        await asyncio.sleep(0)
        assert not socket_.is_reading and handler.taken[-1] != b"late"

    asyncio.run(test())


def test_a_pause_holds_back_what_is_there() -> None:
    async def test() -> None:
        counter = Counter()
        carrier = doors._WebSocketCarrier(cast(Any, Flood()), cast(Any, counter))
        carrier.pause_reading()
        flood = asyncio.create_task(carrier.run(cast(Any, counter)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not counter.messages
        carrier.resume_reading()
        await flood
        assert counter.messages == 1000

    asyncio.run(test())


@pytest.mark.parametrize(
    ("limit", "most", "wanted", "places", "raised"),
    [
        (1024, 4096, 512, 512, 1024),
        (1024, 4096, 2000, 2000, 2064),
        (1024, 1500, 2000, 1436, 1500),
        (1024, resource.RLIM_INFINITY, 5000, 5000, 5064),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 5000, 5000, resource.RLIM_INFINITY),
        (32, 32, 512, 1, 32),
    ],
)
def test_places_leave_descriptors_to_the_store(
    monkeypatch: pytest.MonkeyPatch, limit: int, most: int, wanted: int, places: int, raised: int
) -> None:
    limits = [limit, most]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(None), new))
    assert doors.find_places(wanted) == places
    assert limits == [raised, most]


def test_what_waits_leaves_together_and_large_frames_alone() -> None:
    async def test() -> None:
        sent: list[bytes] = []
        gate = asyncio.Event()

        async def send(data: bytes) -> None:
            sent.append(data)
            await gate.wait()

        outbox = Outbox(send)
        task = asyncio.create_task(outbox.run())
        frames = [b"a" * 16, b"b" * 16, b"c" * MESSAGE_MAX * 2, b"d" * 40_000, b"e" * 40_000]
        for frame in frames:
            outbox.put(frame)
        assert outbox.size == sum(map(len, frames))
        draining = asyncio.create_task(outbox.drain(0))
        await asyncio.sleep(0.01)
        assert not draining.done()
        gate.set()
        await draining
        assert outbox.size == 0
        assert [len(data) for data in sent] == [32, MESSAGE_MAX * 2, 40_000, 40_000]
        assert b"".join(sent) == b"".join(frames)
        task.cancel()

    asyncio.run(test())
