"""A proxy between gateways and the engine that disturbs links and writes down what they said.

It reads CKP/1 in both directions, so that a test knows from the wire which rules were exercised and
what stands behind every number, whatever either end believes. TCP itself neither loses, repeats nor
reorders bytes; what a network can do to it is cut, delay, fall silent, deliver what was sent before
a cut while the sender has long come back, and (whoever wrote it down) say a session again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from engine import wire
from engine.errors import InputError

FAULTS = ("none", "delay", "cut", "cut", "late", "replay", "replay", "silence")


@dataclass
class Heard:
    """What went over the wire. bodies: (gateway, epoch, seq) -> sealed body, lost: numbers that
    LOST named, acked: highest receipt of each (gateway, epoch)."""

    rules: Counter[str] = field(default_factory=Counter)
    bodies: dict[tuple[str, int, int], bytes] = field(default_factory=dict)
    lost: set[tuple[str, int, int]] = field(default_factory=set)
    acked: dict[tuple[str, int], int] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)


class Session:
    """One connection as the wire shows it: checks the rules that both ends have to keep."""

    def __init__(self, heard: Heard, open_sessions: set[Session], is_ghost: bool) -> None:
        self.heard = heard
        self.gateway = ""
        self.epoch = 0
        self.is_open = False
        self.is_calm = False  # nothing will disturb it
        self.acked = 0
        self._others = open_sessions
        self._readers = (wire.FrameReader(), wire.FrameReader())
        self._is_ghost = is_ghost
        self._next = self._sent = 0
        self._limit = self._byte_limit = self._bytes = 0
        self._is_first = True

    def feed(self, side: int, data: bytes) -> None:
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
                self.gateway, self.epoch, self._next = (
                    message.gateway, message.epoch, message.next[0],
                )  # fmt: skip
            case wire.Welcome():
                self._on_welcome(message)
            case wire.Scans() if not self._is_ghost:
                self._on_scans(message)
            case wire.Lost() if not self._is_ghost:
                self._count("lost_" + message.reason)
                numbers = range(message.first, message.seq + 1)
                self.heard.lost |= {(self.gateway, self.epoch, seq) for seq in numbers}
                self._on_number(message.first, message.seq)
            case wire.Ack(cls=0):
                self._on_ack(message)
            case wire.Error():
                self._count(f"error_{message.code}")
            case wire.Nack() | wire.Ping() | wire.Pong() | wire.Goaway() | wire.Bye():
                self._count(message.type.name)
            case _:
                pass

    def _on_welcome(self, message: wire.Welcome) -> None:
        self.is_open = True
        self.acked = self._sent = message.acked[0]
        self._limit, self._byte_limit = message.limit[0], message.byte_limit[0]
        key = self.gateway, self.epoch
        if self.acked < self.heard.acked.get(key, 0):
            self._breach(f"WELCOME says {self.acked} behind a receipt for {self.heard.acked[key]}")
        self.heard.acked[key] = max(self.acked, self.heard.acked.get(key, 0))
        self._count("welcome")
        if self.acked:
            self._count("resume")
        if any(o.is_open and o.gateway == self.gateway and o is not self for o in self._others):
            others = {o.epoch for o in self._others if o.is_open and o.gateway == self.gateway}
            self._count("several_epochs" if others - {self.epoch} else "replacement")

    def _on_number(self, first: int, last: int) -> None:
        if first != self._sent + 1:
            self._breach(f"{first} after {self._sent}")
        if last > self._limit:
            self._breach(f"{last} is beyond the limit {self._limit}")
        if last == self._limit:
            self._count("at_limit")
        self._sent = last

    def _on_scans(self, message: wire.Scans) -> None:
        key = self.gateway, self.epoch, message.seq
        self._on_number(message.seq, message.seq)
        self._bytes += message.size
        if self._bytes > self._byte_limit:
            self._breach(f"byte {self._bytes} is beyond {self._byte_limit}")
        before = self.heard.bodies.setdefault(key, message.body)
        if before != message.body:
            self._breach(f"another body under number {message.seq}")
        if message.flags & wire.FLAG_RESEND:
            self._count("resend")
        backlog = {
            o for o in self._others
            if o.is_open and o is not self and o.gateway == self.gateway and o.acked < o._next - 1
        }  # fmt: skip
        if backlog and not message.flags & wire.FLAG_RESEND:
            self._count("live_before_backlog")

    def _on_ack(self, message: wire.Ack) -> None:
        key = self.gateway, self.epoch
        if message.limit < self._limit or message.byte_limit < self._byte_limit:
            self._breach("a limit fell")
        self._limit = max(self._limit, message.limit)
        self._byte_limit = max(self._byte_limit, message.byte_limit)
        self._count("ack" if message.seq > self.acked else "ack_again")
        if self._is_ghost and message.seq >= self.acked:
            self._count("drop")  # all that a ghost says was received before
        self.acked = max(self.acked, message.seq)
        self.heard.acked[key] = max(self.acked, self.heard.acked.get(key, 0))


class Wiretap:
    """A port whose connections go on to `target()`. seed: of the faults. Runs in a thread."""

    def __init__(self, target: Callable[[], int], seed: int) -> None:
        self.heard = Heard()
        self.is_calm = False  # no more faults
        self.refuses: set[str] = set()  # gateways that get no further than HELLO
        self._target = target
        self._rng = random.Random(seed)
        self._deck: list[str] = []  # faults still to come before one comes again
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Wiretap:
        self._thread.start()
        serving = asyncio.start_server(self._serve, sock=self._socket)
        asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._socket.close()

    @property
    def calm_links(self) -> int:
        """Sessions that stand now and that nothing will disturb."""
        return sum(s.is_open and s.is_calm for s in list(self._sessions))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._link(reader, writer)
        writer.transport.abort()

    def _next_fault(self) -> str:
        if not self._deck:
            self._deck = self._rng.sample(FAULTS, len(FAULTS))
        return self._deck.pop()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = "none" if self.is_calm else self._next_fault()
        hello = await reader.read(65536)
        session = Session(self.heard, self._sessions, is_ghost=False)
        session.feed(0, hello)
        if session.gateway in self.refuses or not hello:
            return
        inner, outer = await asyncio.open_connection("127.0.0.1", self._target())
        self._sessions.add(session)
        session.is_calm = fault == "none"
        said = [hello]
        outer.write(hello)
        ways = [
            asyncio.create_task(self._carry(reader, outer, session, 0, fault, said)),
            asyncio.create_task(self._carry(inner, writer, session, 1, fault, [])),
        ]
        try:
            longest_s = {"replay": 0.2, "silence": 0.2, "cut": 0.6, "late": 0.6}.get(fault)
            after_s = longest_s and self._rng.uniform(0.02, longest_s)
            await asyncio.wait(ways, timeout=after_s, return_when=asyncio.FIRST_COMPLETED)
            if self.is_calm or fault in ("none", "delay"):
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0.05)
                return
            self.heard.rules["fault_" + fault] += 1
            if fault == "silence":
                # Nothing goes either way, and nobody is told: heartbeats have to find out.
                for way in ways:
                    way.cancel()
                await asyncio.sleep(4)
            if fault == "late":
                # The gateway is told at once and comes back; what it said arrives after that.
                writer.transport.abort()
                await asyncio.sleep(self._rng.uniform(0.1, 0.5))
        finally:
            session.is_open = False
            self._sessions.discard(session)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            if fault == "cut":
                outer.transport.abort()
            outer.close()
        if fault == "replay":
            writer.transport.abort()
            await self._replay(said)

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
                said.append(data)
                if fault == "delay":
                    await asyncio.sleep(self._rng.uniform(0, 0.03))
                elif fault == "late" and side == 0:
                    await asyncio.sleep(0.05)
                sink.write(data)
                await sink.drain()

    async def _replay(self, said: list[bytes]) -> None:
        """Everything that a session said, once more, on a link of its own."""
        inner, outer = await asyncio.open_connection("127.0.0.1", self._target())
        ghost = Session(self.heard, self._sessions, is_ghost=True)
        try:
            ghost.feed(0, said[0])
            outer.write(said[0])
            async with asyncio.timeout(2):
                while not ghost.is_open:
                    data = await inner.read(65536)
                    if not data:
                        return
                    ghost.feed(1, data)
                self.heard.rules["replayed"] += 1
                outer.write(b"".join(said[1:]))
                while data := await inner.read(65536):
                    ghost.feed(1, data)
        except (OSError, TimeoutError):
            pass
        finally:
            outer.transport.abort()
