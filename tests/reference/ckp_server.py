"""A scripted CKP/1 server on loopback: keeps what came and does only what its test says.

It has none of the engine's rules, so that a gateway's breach of one is seen and not repaired. The
test reads `server.links`, one Peer for each connection that said HELLO.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from engine.wire import frames as wire

HUGE = 1 << 60
M = TypeVar("M")


class Peer:
    """One connection of a gateway, as its test drives it."""

    def __init__(
        self, hello: wire.Hello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.hello = hello
        self.got: list[wire.Message] = []
        self.is_closed = False
        self.frames = wire.FrameReader()
        self._reader = reader
        self._writer = writer
        self._news = asyncio.Event()

    def welcome(
        self,
        acked: tuple[int, int] = (0, 0),
        limit: tuple[int, int] = (HUGE, HUGE),
        byte_limit: tuple[int, int] = (HUGE, HUGE),
        *,
        hb_s: float = 10,
        max_frame: int = wire.BODY_MAX,
        fps: int = 0,
        decode: Literal["engine", "gateway"] = "engine",
        version: int = 1,
    ) -> None:
        self.send(
            wire.Welcome(
                version=version, sid=bytes(16), acked=acked, limit=limit, byte_limit=byte_limit,
                max_frame=max_frame, hb_s=hb_s, t1=self.hello.t0, t2=self.hello.t0,
                policy=wire.Policy(fps=fps, decode=decode),
            )
        )  # fmt: skip

    def send(self, message: wire.Message) -> None:
        self._writer.write(wire.encode(message))

    def send_bytes(self, data: bytes) -> None:
        self._writer.write(data)

    def ack(self, seq: int, cls: int = 0, limit: int = HUGE, byte_limit: int = HUGE) -> None:
        self.send(wire.Ack(cls=cls, seq=seq, limit=limit, byte_limit=byte_limit))

    def abort(self) -> None:
        """RST instead of FIN, as a cut cable looks."""
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()

    def of(self, kind: type[M]) -> list[M]:
        """What came of one type so far."""
        return [m for m in self.got if isinstance(m, kind)]

    def seqs(self) -> list[int]:
        """Numbers of the SCANS so far."""
        return [m.seq for m in self.of(wire.Scans)]

    async def until(self, is_so: Callable[[], bool], timeout_s: float = 10) -> None:
        async with asyncio.timeout(timeout_s):
            while not is_so():
                self._news.clear()
                await self._news.wait()

    async def until_closed(self) -> None:
        await self.until(lambda: self.is_closed)

    async def until_scans(self, count: int) -> None:
        await self.until(lambda: len(self.of(wire.Scans)) >= count)

    async def until_quiet(self, span_s: float = 0.15) -> None:
        """Nothing came for a while: whatever may be sent was sent."""
        with contextlib.suppress(TimeoutError):
            while True:
                count = len(self.got)
                await self.until(lambda n=count: len(self.got) > n, span_s)

    async def read(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(65536):
                self.got += self.frames.feed(data)
                self._news.set()
        self.is_closed = True
        self._news.set()


class Server:
    """async with Server(script) as server: every connection runs `script(peer)` after HELLO.

    Its port is there, and refuses connections, from the beginning.
    """

    def __init__(self, script: Callable[[Peer], Awaitable[None]]) -> None:
        self.links: list[Peer] = []
        self.failures: list[BaseException] = []
        # Bound but not listening: until the server starts, connections to the port are refused.
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._script = script
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, sock=self._socket)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self.links:
            peer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.failures:
            raise self.failures[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        frames = wire.FrameReader()
        first: list[wire.Message] = []
        while not first:
            data = await reader.read(65536)
            if not data:
                writer.close()
                return
            first = frames.feed(data)
        (hello,) = first
        assert isinstance(hello, wire.Hello)
        peer = Peer(hello, reader, writer)
        peer.frames = frames
        self.links.append(peer)
        reading = asyncio.create_task(peer.read())
        try:
            await self._script(peer)
            await reading
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # told to the test when the server closes
            self.failures.append(error)
            peer.abort()
        finally:
            reading.cancel()
