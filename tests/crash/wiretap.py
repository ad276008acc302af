"""A proxy between gateways and the engine that disturbs links and writes down what they said.

It reads CKP/1 in both directions, so that a test knows from the wire which rules were exercised and
what stands behind every number, whatever either end believes. To read TLS it ends it on both sides,
with a certificate of the tests' CA; a WebSocket's bytes go on as they are. TCP itself neither
loses, repeats nor reorders bytes; what a network can do to it is cut, delay, fall silent, deliver
what was sent before a cut while the sender has long come back, and (whoever wrote it down) say a
session again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.errors import InputError
from engine.wire import frames as wire

FAULTS = ("none", "delay", "cut", "cut", "late", "replay", "replay", "silence")


@dataclass
class Heard:
    """What went over the wire. bodies: (gateway, epoch, seq) -> sealed body, events: those of them
    that are EVENTs, lost: numbers that LOST named, acked: highest receipt of each (gateway, epoch).

    Frames have no lasting numbers, so they go by their time in ms. frames: image of each that was
    sent, settled: those with a receipt.
    """

    rules: Counter[str] = field(default_factory=Counter)
    bodies: dict[tuple[str, int, int], bytes] = field(default_factory=dict)
    events: set[tuple[str, int, int]] = field(default_factory=set)
    lost: set[tuple[str, int, int]] = field(default_factory=set)
    acked: dict[tuple[str, int], int] = field(default_factory=dict)
    frames: dict[int, bytes] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    flights: dict[tuple[str, int], Flight] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)


@dataclass
class Flight:
    """Frames of one process in one epoch without a receipt: number -> time in ms."""

    inst: bytes
    times: dict[int, int] = field(default_factory=dict)
    acked: int = 0


@dataclass(frozen=True)
class Way:
    """One carrier through the tap: its URL's scheme, where it goes on, and for TLS who the tap is
    to the gateway and to the engine."""

    scheme: str
    target: Callable[[], int]
    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None

    @property
    def is_websocket(self) -> bool:
        return self.scheme in ("ws", "wss")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name = "127.0.0.1"
        host = {"ssl": self.client, "server_hostname": name} if self.client else {}
        return await asyncio.open_connection(name, self.target(), **host)


class Unwrapped:
    """One direction of a WebSocket (RFC 6455) to the bytes in its messages."""

    def __init__(self) -> None:
        self._data = b""
        self._is_open = False

    def feed(self, data: bytes) -> bytes:
        self._data += data
        if not self._is_open:  # the head of HTTP
            _, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return b""
            self._data, self._is_open = rest, True
        found = b""
        while (message := self._take()) is not None:
            found += message
        return found

    def _take(self) -> bytes | None:
        data = self._data
        if len(data) < 2:
            return None
        size, at = data[1] & 0x7F, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(data[2:at], "big")
        mask = data[at : at + 4] if data[1] & 0x80 else b""
        at += 4 if data[1] & 0x80 else 0
        if len(data) < at + size:
            return None
        self._data, body = data[at + size :], data[at : at + size]
        if data[0] & 0x0F != 2:  # no binary message: ping, pong, close
            return b""
        if mask:
            key = (mask * (size // 4 + 1))[:size]
            number = int.from_bytes(body, "big") ^ int.from_bytes(key, "big")
            body = number.to_bytes(size, "big")
        return body


class Session:
    """One connection as the wire shows it: checks the rules that both ends have to keep."""

    def __init__(self, heard: Heard, way: Way, open_sessions: set[Session], is_ghost: bool) -> None:
        self.heard = heard
        self.way = way
        self.gateway = ""
        self.epoch = 0
        self.is_open = False
        self.is_calm = False  # nothing will disturb it
        self.acked = 0
        self.frame_heard = asyncio.Event()
        self._others = open_sessions
        self._readers = (wire.FrameReader(), wire.FrameReader())
        self._unwrapped = (Unwrapped(), Unwrapped()) if way.is_websocket else None
        self._is_ghost = is_ghost
        self._next = self._sent = 0
        self._limit, self._byte_limit, self._bytes = [0, 0], [0, 0], [0, 0]  # by class

    def feed(self, side: int, data: bytes) -> None:
        if self._unwrapped is not None:
            data = self._unwrapped[side].feed(data)
        with contextlib.suppress(InputError):
            for message in self._readers[side].feed(data):
                self._hear(message)

    def _count(self, rule: str) -> None:
        self.heard.rules[rule] += 1

    def _breach(self, text: str) -> None:
        self.heard.breaches.append(f"{self.gateway} {self.epoch:x}: {text}")

    def _hear(self, message: wire.Message) -> None:
        match message:
            case wire.Hello():
                self._on_hello(message)
            case wire.Welcome():
                self._on_welcome(message)
            case wire.Scans() | wire.Event() if not self._is_ghost:
                self._on_record(message)
            case wire.FrameImage() if not self._is_ghost:
                self._on_frame(message)
            case wire.Lost() if not self._is_ghost:
                self._count("lost_" + message.reason)
                numbers = range(message.first, message.seq + 1)
                self.heard.lost |= {(self.gateway, self.epoch, seq) for seq in numbers}
                self._on_number(message.first, message.seq)
            case wire.Ack():
                self._on_ack(message)
            case wire.Error():
                self._count(f"error_{message.code}")
            case wire.Result():
                self._count(f"result_{message.cls}")
            case wire.Nack() | wire.Ping() | wire.Pong() | wire.Goaway() | wire.Bye():
                self._count(message.type.name)
            case _:
                pass

    def _on_hello(self, hello: wire.Hello) -> None:
        self.gateway, self.epoch, self._next = hello.gateway, hello.epoch, hello.next[0]
        flight = self.heard.flights.get((self.gateway, self.epoch))
        if not self._is_ghost and (flight is None or flight.inst != hello.inst):
            # Another process: what the last one had in memory nobody has any more.
            self.heard.flights[self.gateway, self.epoch] = Flight(hello.inst)

    def _on_welcome(self, message: wire.Welcome) -> None:
        self.is_open = True
        self.acked = self._sent = message.acked[0]
        self._limit, self._byte_limit = list(message.limit), list(message.byte_limit)
        key = self.gateway, self.epoch
        if self.acked < self.heard.acked.get(key, 0):
            self._breach(f"WELCOME says {self.acked} behind a receipt for {self.heard.acked[key]}")
        self.heard.acked[key] = max(self.acked, self.heard.acked.get(key, 0))
        self._count("welcome")
        if self.acked:
            self._count("resume")
            self._count(f"resume_{self.way.scheme}")
        if not self._is_ghost:
            flight = self.heard.flights[key]
            if message.acked[1] < flight.acked:
                self._count("frames_anew")
                flight.acked = message.acked[1]
            self._settle_frames(message.acked[1])
        if any(o.is_open and o.gateway == self.gateway and o is not self for o in self._others):
            others = {o.epoch for o in self._others if o.is_open and o.gateway == self.gateway}
            self._count("several_epochs" if others - {self.epoch} else "replacement")

    def _on_number(self, first: int, last: int) -> None:
        if first != self._sent + 1:
            self._breach(f"{first} after {self._sent}")
        if last > self._limit[0]:
            self._breach(f"{last} is beyond the limit {self._limit[0]}")
        if last == self._limit[0]:
            self._count("at_limit")
        self._sent = last

    def _on_bytes(self, cls: int, size: int) -> None:
        self._bytes[cls] += size
        if self._bytes[cls] > self._byte_limit[cls]:
            self._breach(f"class {cls}: byte {self._bytes[cls]} is beyond {self._byte_limit[cls]}")

    def _on_record(self, message: wire.Scans | wire.Event) -> None:
        key = self.gateway, self.epoch, message.seq
        self._on_number(message.seq, message.seq)
        if isinstance(message, wire.Event):
            self._count("EVENT")
            self.heard.events.add(key)
        else:
            self._on_bytes(0, message.size)
        before = self.heard.bodies.setdefault(key, message.body)
        if before != message.body:
            self._breach(f"another body under number {message.seq}")
        if message.flags & wire.FLAG_RESEND:
            self._count("resend")
            self._count(f"resend_{self.way.scheme}")
            if isinstance(message, wire.Event):
                self._count("resend_event")
        backlog = {
            o for o in self._others
            if o.is_open and o is not self and o.gateway == self.gateway and o.acked < o._next - 1
        }  # fmt: skip
        if backlog and not message.flags & wire.FLAG_RESEND:
            self._count("live_before_backlog")

    def _on_frame(self, message: wire.FrameImage) -> None:
        self._on_bytes(1, message.size)
        if message.seq > self._limit[1]:
            self._breach(f"frame {message.seq} is beyond the limit {self._limit[1]}")
        if message.flags & wire.FLAG_RESEND:
            self._count("resend_frame")
        self.frame_heard.set()
        time_ms = message.ts_ns // 1_000_000
        self.heard.frames[time_ms] = bytes(message.image)
        times = self.heard.flights[self.gateway, self.epoch].times
        if not message.flags & wire.FLAG_RESEND and time_ms in times.values():
            self._count("frame_renumbered")
        for seq in [seq for seq, at_ms in times.items() if at_ms == time_ms]:
            del times[seq]
        times[message.seq] = time_ms

    def _settle_frames(self, acked: int) -> None:
        flight = self.heard.flights[self.gateway, self.epoch]
        flight.acked = max(flight.acked, acked)
        for seq in [seq for seq in flight.times if seq <= acked]:
            self.heard.settled.add(flight.times.pop(seq))

    def _on_ack(self, message: wire.Ack) -> None:
        cls = message.cls
        if message.limit < self._limit[cls] or message.byte_limit < self._byte_limit[cls]:
            self._breach(f"a limit of class {cls} fell")
        self._limit[cls] = max(self._limit[cls], message.limit)
        self._byte_limit[cls] = max(self._byte_limit[cls], message.byte_limit)
        if cls:
            self._count("ack_frame")
            if not self._is_ghost:
                self._settle_frames(message.seq)
            return
        key = self.gateway, self.epoch
        self._count("ack" if message.seq > self.acked else "ack_again")
        if self._is_ghost and message.seq >= self.acked:
            self._count("drop")  # all that a ghost says was received before
        self.acked = max(self.acked, message.seq)
        self.heard.acked[key] = max(self.acked, self.heard.acked.get(key, 0))


class Wiretap:
    """Ports whose connections go on to an engine. seed: of the faults. Runs in a thread."""

    def __init__(self, seed: int) -> None:
        self.heard = Heard()
        self.is_calm = False  # no more faults
        self.refuses: set[str] = set()  # gateways that get no further than HELLO
        self._rng = random.Random(seed)
        self._deck: list[str] = []  # faults still to come before one comes again
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Wiretap:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def open(self, way: Way) -> int:
        """The port of one more way."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(way, reader, writer)

        listener = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.start_server(serve, sock=listener, ssl=way.server)
        self._servers.append(asyncio.run_coroutine_threadsafe(serving, self._loop).result(10))
        port: int = listener.getsockname()[1]
        return port

    @property
    def calm_links(self) -> int:
        """Sessions that stand now and that nothing will disturb."""
        return sum(s.is_open and s.is_calm for s in list(self._sessions))

    async def _serve(
        self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._link(way, reader, writer)
        writer.transport.abort()

    def _next_fault(self) -> str:
        if not self._deck:
            self._deck = self._rng.sample(FAULTS, len(FAULTS))
        return self._deck.pop()

    async def _link(
        self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        fault = "none" if self.is_calm else self._next_fault()
        session = Session(self.heard, way, self._sessions, is_ghost=False)
        inner, outer = await way.connect()
        self._sessions.add(session)
        session.is_calm = fault == "none"
        said: list[bytes] = []
        ways = [
            asyncio.create_task(self._carry(reader, outer, session, 0, fault, said)),
            asyncio.create_task(self._carry(inner, writer, session, 1, fault, [])),
        ]
        try:
            longest_s = {"replay": 0.2, "silence": 0.2, "cut": 0.6, "late": 0.6}.get(fault)
            after_s = longest_s and self._rng.uniform(0.02, longest_s)
            await asyncio.wait(ways, timeout=after_s, return_when=asyncio.FIRST_COMPLETED)
            if session.gateway in self.refuses:
                return
            if self.is_calm or fault in ("none", "delay"):
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0.05)
                return
            self.heard.rules["fault_" + fault] += 1
            if fault == "cut":
                # Behind a frame, if there are any: it has no receipt yet.
                session.frame_heard.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(session.frame_heard.wait(), 0.1)
            if fault == "silence":
                # Nothing goes either way, and nobody is told: heartbeats have to find out.
                for way_task in ways:
                    way_task.cancel()
                await asyncio.sleep(4)
            if fault == "late":
                # The gateway is told at once and comes back; what it said arrives after that.
                writer.transport.abort()
                await asyncio.sleep(self._rng.uniform(0.1, 0.5))
        finally:
            session.is_open = False
            self._sessions.discard(session)
            for way_task in ways:
                way_task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            if fault == "cut":
                outer.transport.abort()
            outer.close()
        if fault == "replay":
            writer.transport.abort()
            await self._replay(way, said)

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        session: Session,
        side: int,
        fault: str,
        said: list[bytes],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                session.feed(side, data)
                if session.gateway in self.refuses:
                    return
                said.append(data)
                if fault == "delay":
                    await asyncio.sleep(self._rng.uniform(0, 0.03))
                elif fault == "late" and side == 0:
                    await asyncio.sleep(0.05)
                sink.write(data)
                await sink.drain()

    async def _replay(self, way: Way, said: list[bytes]) -> None:
        """Everything that a session said, once more, on a link of its own."""
        inner, outer = await way.connect()
        ghost = Session(self.heard, way, self._sessions, is_ghost=True)
        left = iter(said)
        try:
            async with asyncio.timeout(2):
                while not ghost.is_open:
                    if not ghost.gateway:  # HELLO, and what a WebSocket says before it
                        piece = next(left, b"")
                        ghost.feed(0, piece)
                        outer.write(piece)
                    data = await inner.read(65536)
                    if not data:
                        return
                    ghost.feed(1, data)
                self.heard.rules["replayed"] += 1
                outer.write(b"".join(left))
                while data := await inner.read(65536):
                    ghost.feed(1, data)
        except (OSError, TimeoutError):
            pass
        finally:
            outer.transport.abort()
