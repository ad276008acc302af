"""Readers: handheld scanners that connect over TCP and send a line a scan.

Zebra DataWedge, terminal servers and most others can do this: the payload of the code, then CR, LF
or both. There is no answer on that hop, so readers belong to the post's own network; the lane's
light shows what became of the scan.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from engine.clock import Clock
from engine.errors import SettingInvalid
from engine.gateway.sources import Codes, Item
from engine.scans.records import PAYLOAD_MAX
from engine.telemetry import Log

READERS_MAX: Final = 8  # connections of one lane; the longest silent one gives way to a new one
LINES_PER_S: Final = 100  # of one reader; what comes faster waits in its own connection
LAST_READ_S: Final = 0.1  # what a reader has sent before we stop comes within it
REST_NS: Final = 2_000_000_000  # a line that is longer on its way has no end
_WAITING_MAX: Final = 64  # bodies that wait for the gateway
_CHUNK: Final = 4096
_ENDS: Final = re.compile(rb"[\r\n]+")

_log = Log("gateway")


class LineSplitter:
    """Chunks to lines that end with CR, LF or CRLF; blank ones are left out.

    A line longer than size_max is stepped over to its end and counted in `overlong`.
    """

    def __init__(self, size_max: int = PAYLOAD_MAX) -> None:
        self.overlong = 0
        self._size_max = size_max
        self._kept = b""
        self._is_overlong = False

    @property
    def has_rest(self) -> bool:
        """A line was begun and not ended."""
        return bool(self._kept) or self._is_overlong

    def feed(self, data: bytes) -> list[bytes]:
        """Lines that are complete with this chunk."""
        *lines, rest = _ENDS.split(self._kept + data)
        if lines and self._is_overlong:
            lines[0] = b""  # its head was thrown away before
            self._is_overlong = False
        found = [line for line in lines if 0 < len(line) <= self._size_max]
        self.overlong += sum(len(line) > self._size_max for line in lines)
        if len(rest) > self._size_max:
            self.overlong += not self._is_overlong
            self._is_overlong = True
        self._kept = b"" if self._is_overlong else rest
        return found


@dataclass(slots=True)
class _Reader:
    """One connection. heard_ns: when it sent something, or came. patience: of a read under way."""

    heard_ns: int
    lines: LineSplitter = field(default_factory=LineSplitter)
    patience: asyncio.Timeout | None = None


class LineReaders:
    """Listens for the readers of one lane. Raises SettingInvalid when the port cannot be had."""

    kind = "readers"
    is_live = True
    fps_max = 0.0

    def __init__(self, host: str, port: int, *, lane: int, clock: Clock) -> None:
        self.lane = lane
        self.port = port  # the one that was bound, once it is open
        self.skipped = 0
        self._host = host
        self._clock = clock
        self._readers: dict[asyncio.StreamWriter, _Reader] = {}
        self._waiting: asyncio.Queue[Codes | None] = asyncio.Queue(_WAITING_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._is_open = False
        self._is_shut = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str:
        if not self._is_open:
            return "not open"
        if not self._readers:
            return "no reader is connected"
        # The usual mistake at the first day: nothing comes, and nothing would say why.
        before_ns = self._clock.monotonic_ns() - REST_NS
        is_endless = any(
            r.lines.has_rest and r.heard_ns < before_ns for r in self._readers.values()
        )
        return "a reader sends neither CR nor LF" if is_endless else ""

    async def items(self) -> AsyncGenerator[Item]:
        try:
            server = await asyncio.start_server(
                self._accept, self._host, self.port, limit=_CHUNK, backlog=READERS_MAX
            )
        except OSError as error:
            raise SettingInvalid(
                f"readers: cannot listen on {self._host}:{self.port}: {error.strerror}"
            ) from None
        self.port = server.sockets[0].getsockname()[1]
        self._server = server
        self._is_open = True
        _log.info("readers_open", lane=self.lane, port=self.port)
        try:
            while (codes := await self._waiting.get()) is not None:
                yield codes
        finally:
            self._is_open = False
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def shut(self) -> None:
        """Lets nobody in any more; `items` ends once the lines that came have been given out."""
        self._is_shut.set()
        if self._server is not None:
            self._server.close()
        for reader in self._readers.values():
            if reader.patience is not None:
                reader.patience.reschedule(asyncio.get_running_loop().time() + LAST_READ_S)
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._waiting.put(None)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to its end."""
        if len(self._readers) >= READERS_MAX:
            # A reader that lost its power leaves a connection that nobody will ever close.
            silent = min(self._readers, key=lambda writer: self._readers[writer].heard_ns)
            self._readers.pop(silent)
            silent.transport.abort()
        _keep_alive(writer)
        this = self._readers[writer] = _Reader(self._clock.monotonic_ns())
        try:
            with suppress(OSError):
                while data := await self._read(reader, this):
                    this.heard_ns = self._clock.monotonic_ns()
                    overlong = this.lines.overlong
                    lines = this.lines.feed(data)
                    self.skipped += this.lines.overlong - overlong
                    if lines:
                        await self._waiting.put(Codes(self.lane, self._clock.now_ms(), lines))
                        await self._rest(len(lines) / LINES_PER_S)
        finally:
            # What has no end may be half a payload, and half a number is another person's.
            self.skipped += this.lines.has_rest
            self._readers.pop(writer, None)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, this: _Reader) -> bytes:
        """What came next; b"" at the end, and when nothing comes any more and we are shut."""
        first_s = LAST_READ_S if self._is_shut.is_set() else None
        try:
            for span_s in (first_s, 0):  # again: what came in the turn of the timeout is there now
                with suppress(TimeoutError):
                    async with asyncio.timeout(span_s) as this.patience:
                        return await reader.read(_CHUNK)
        finally:
            this.patience = None
        return b""

    async def _rest(self, span_s: float) -> None:
        """What comes too fast waits in its own connection, but not when we are shut."""
        with suppress(TimeoutError):
            async with asyncio.timeout(span_s):
                await self._is_shut.wait()


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """The system asks a silent peer whether it still lives, and closes when it does not."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
