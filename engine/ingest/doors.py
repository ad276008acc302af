"""Doors: the engine's listening sockets, and the way from an accepted socket to a link's carrier.

A door accepts by itself instead of through a server of the event loop, so that a handshake that
never ends has a link to be counted and cut by, like any other connection without a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import msgspec
from aiohttp import WSMsgType, web

from engine.errors import EngineError, SettingInvalid, WireMalformed, WireTls, WireTooLarge
from engine.settings import Settings
from engine.telemetry import Log
from engine.wire import tls
from engine.wire.address import WEBSOCKET_PATH, Address
from engine.wire.frames import CONTROL_MAX, HEADER_SIZE
from engine.wire.websocket import SUBPROTOCOL, Outbox

BACKLOG: Final = 128
ACCEPT_RETRY_S: Final = 0.1  # after running out of descriptors or memory
DESCRIPTORS_KEPT: Final = 64  # for files, sockets of questions and the API
# Of one WebSocket in one turn of the loop (CP-3): messages to its link, and time to take bytes
# apart, a piece after the other, for 64 KB can hold ten thousand frames without content.
TURN_MESSAGES: Final = 16
TURN_NS: Final = 2_000_000
PIECE: Final = 4096
CLOSE_S: Final = 2.0  # for the other end of a WebSocket or of TLS to say goodbye
# Of a WebSocket before its session: the request's head, and a HELLO in its frame.
HEAD_MAX: Final = 32_768
UPGRADE_MAX: Final = HEAD_MAX + HEADER_SIZE + CONTROL_MAX

_log = Log("doors")
# aiohttp's own log quotes requests, so it has none.
_silent = logging.getLogger("chot.doors.http")
_silent.disabled = True


def find_places(wanted: int) -> int:
    """How many connections may be open at once, `wanted` at most.

    Raises this process's limit of descriptors where it may. Some are left for the store, or a crowd
    at the door could stop receipts.
    """
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + DESCRIPTORS_KEPT
    if limit != resource.RLIM_INFINITY and limit < needed:
        limit = needed if most == resource.RLIM_INFINITY else min(needed, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return wanted
    places = max(limit - DESCRIPTORS_KEPT, 1)
    _log.warning("descriptors for fewer connections than sessions_max", count=places)
    return places


class Carrier(Protocol):
    """What a link writes to: an asyncio.Transport, or a WebSocket that looks like one."""

    def write(self, data: bytes, /) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Guest(Protocol):
    """What a door needs of a link, which is an asyncio.Protocol as well."""

    @property
    def has_session(self) -> bool: ...
    def enter(self, carrier: Carrier, peer: tls.Peer | None) -> None: ...
    def turn_away(self, error: EngineError) -> None: ...
    def fail(self, error: EngineError) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def message_received(self, data: bytes) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


class Door:
    """One listening socket; each accepted one goes to `admit`.

    Raises SettingInvalid for an address that cannot be had or certificates that cannot be used.
    """

    def __init__(self, address: Address, settings: Settings) -> None:
        self._tls: tls.ServerTls | None = None
        if address.is_tls:
            self._tls = tls.ServerTls(
                settings.tls_cert,
                settings.tls_key,
                settings.tls_client_ca,
                alpn=tls.ALPN_WEBSOCKET if address.is_websocket else tls.ALPN,
            )
        self._site = _Site(settings.frame_size_max) if address.is_websocket else None
        try:
            self._listener = socket.create_server(
                (address.host, address.port),
                family=socket.AF_INET6 if ":" in address.host else socket.AF_INET,
                backlog=BACKLOG,
            )
        except OSError as error:
            problem = os.strerror(error.errno) if error.errno else str(error)
            raise SettingInvalid(f"cannot listen on {address}: {problem}") from None
        self._listener.setblocking(False)
        port: int = self._listener.getsockname()[1]
        self.address = msgspec.structs.replace(address, port=port)

    async def accept(
        self, admit: Callable[[Door, socket.socket], None], make_way: Callable[[], object]
    ) -> None:
        """Until it is cancelled. make_way: drops a connection, for descriptors have run out."""
        loop = asyncio.get_running_loop()
        problem = ""
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # no descriptors, no memory, or a peer that left already
                if problem != str(error.strerror):
                    problem = str(error.strerror)
                    _log.error("cannot accept", problem=problem)
                make_way()
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            problem = ""
            admit(self, sock)
            await asyncio.sleep(0)  # a flood at the door must not hold up those inside

    async def open(self, sock: socket.socket, link: Guest) -> asyncio.Transport:
        """TCP and TLS of one socket; a WebSocket's own handshake follows.

        Raises WireTls, and OSError when the other end left.
        """
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        guest: asyncio.Protocol = _Stream(link, self._tls is not None)
        if self._site is not None:
            guest = self._site.protocol(link)
        options: dict[str, Any] = {}
        if self._tls is not None:
            # The link's own timer comes before the one for the handshake.
            options = {"ssl_handshake_timeout": 3600, "ssl_shutdown_timeout": CLOSE_S}
            options["ssl"] = self._tls.context()
        connect = asyncio.get_running_loop().connect_accepted_socket
        try:
            transport, _ = await connect(lambda: guest, sock, **options)
        except ssl.SSLError as error:
            raise WireTls(tls.tls_problem(error)) from None
        return transport

    @property
    def certificate_expires_ms(self) -> int | None:
        """None for a door in plain."""
        return self._tls.expires_ms if self._tls is not None else None

    def close(self) -> None:
        self._listener.close()


class _Stream(asyncio.Protocol):
    """TCP, with or without TLS: the transport is the carrier, and bytes go straight to the link."""

    def __init__(self, link: Guest, is_tls: bool) -> None:
        self._link = link
        self._is_tls = is_tls
        # One call less for each read: asyncio looks the method up on the instance.
        self.data_received = link.data_received  # type: ignore[method-assign]
        self.connection_lost = link.connection_lost  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by behaviour, not by class.
        carrier = cast(asyncio.Transport, transport)
        _enter(self._link, carrier, carrier, tls.ALPN if self._is_tls else "")


def _enter(link: Guest, carrier: Carrier, transport: asyncio.Transport, alpn: str) -> None:
    """The link gets its carrier, and who TLS says is at its other end."""
    connection = transport.get_extra_info("ssl_object")
    peer: tls.Peer | None = None
    fault: EngineError | None = None
    if connection is not None:
        try:
            if alpn:
                tls.check_alpn(connection, alpn)
            peer = tls.peer_of(connection)
        except EngineError as error:
            fault = error
    link.enter(carrier, peer)
    if fault is not None:
        link.turn_away(fault)


# ---- WebSocket ----------------------------------------------------------------------------------


class _Site:
    """The one address of a WebSocket door. Any other request gets an HTTP error and the end."""

    def __init__(self, frame_size_max: int) -> None:
        self._message_max = frame_size_max + HEADER_SIZE + 1  # aiohttp refuses the limit itself
        self._links: dict[object, Guest] = {}  # by aiohttp's protocol
        self._server = web.Server(
            self._serve, handler_cancellation=True, access_log=_silent, logger=_silent,
            lingering_time=0, auto_decompress=False,
        )  # fmt: skip

    def protocol(self, link: Guest) -> asyncio.Protocol:
        return _Upgrade(self._server(), link, self._links)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        link = self._links.get(request.protocol)
        transport = request.transport
        if link is None or transport is None:
            raise ConnectionResetError
        socket_ = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,),
            max_msg_size=self._message_max,
            compress=False,
            autoping=False,  # they are counted like messages
            timeout=CLOSE_S,
        )
        if request.path != WEBSOCKET_PATH:
            return _refusal(link, 404, f"CKP/1 is at {WEBSOCKET_PATH}")
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        if SUBPROTOCOL not in [name.strip() for name in offered]:
            return _refusal(link, 400, f"only a WebSocket of subprotocol {SUBPROTOCOL} is taken")
        if not socket_.can_prepare(request):
            return _refusal(link, 400, "that is no WebSocket")
        await socket_.prepare(request)
        carrier = _WebSocketCarrier(socket_, transport)
        _enter(link, carrier, transport, "")
        await carrier.run(link)
        return socket_


def _refusal(link: Guest, status: int, text: str) -> web.Response:
    link.turn_away(WireMalformed(text))
    response = web.Response(status=status, text=text + "\n")
    response.force_close()
    return response


class _Upgrade(asyncio.Protocol):
    """Bytes to aiohttp's protocol, counted until there is a session, and a few in each turn.

    A WebSocket takes messages of the largest frame, and before HELLO nobody may send so much.
    """

    def __init__(
        self, handler: web.RequestHandler, link: Guest, links: dict[object, Guest]
    ) -> None:
        self._handler = handler
        self._link = link
        self._links = links
        self._size = 0
        self._transport: asyncio.Transport | None = None
        self._unread: deque[bytes] = deque()
        self._is_paused = False  # by aiohttp, whose queue is full
        self._is_due = False  # the next turn is arranged
        self.pause_writing = handler.pause_writing  # type: ignore[method-assign]
        self.resume_writing = handler.resume_writing  # type: ignore[method-assign]
        self.eof_received = handler.eof_received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._links[self._handler] = self._link
        seen = _SeenTransport(self._transport, self._pause, self._resume)
        self._handler.connection_made(cast(asyncio.Transport, seen))

    def data_received(self, data: bytes) -> None:
        if not self._link.has_session:
            self._size += len(data)
            if self._size > UPGRADE_MAX:
                self._link.turn_away(WireTooLarge("more bytes than a HELLO needs"))
                assert self._transport is not None
                self._transport.abort()
                return
        self._unread.extend(data[at : at + PIECE] for at in range(0, len(data), PIECE))
        if not self._is_due:
            self._hand_on()

    def _hand_on(self) -> None:
        """What came, for a while; the rest has its turn when others had theirs."""
        self._is_due = False
        until_ns = time.monotonic_ns() + TURN_NS
        while self._unread and not self._is_paused:
            self._handler.data_received(self._unread.popleft())
            if time.monotonic_ns() >= until_ns:
                break
        if self._transport is None:
            return
        if self._unread:
            self._transport.pause_reading()
            if not self._is_paused:
                self._arrange_turn()
        elif not self._is_paused:
            self._transport.resume_reading()

    def _arrange_turn(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._hand_on)

    def _pause(self) -> None:
        self._is_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume(self) -> None:
        self._is_paused = False
        self._arrange_turn()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._unread.clear()
        self._links.pop(self._handler, None)
        self._link.connection_lost(exc)
        self._handler.connection_lost(exc)


class _SeenTransport:
    """A transport as aiohttp sees it: what it pauses is what it is handed."""

    def __init__(
        self,
        transport: asyncio.Transport,
        pause_reading: Callable[[], None],
        resume_reading: Callable[[], None],
    ) -> None:
        self._transport = transport
        self.pause_reading = pause_reading
        self.resume_reading = resume_reading

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _WebSocketCarrier:
    """A WebSocket as a link's carrier."""

    def __init__(self, socket_: web.WebSocketResponse[bool], transport: asyncio.Transport) -> None:
        self._socket = socket_
        self._transport = transport
        self._outbox = Outbox(socket_.send_bytes)
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._closing: asyncio.Task[None] | None = None
        self.write = self._outbox.put
        # What is not taken from aiohttp's queue, which is bounded, stays in the other end.
        self.pause_reading = self._may_read.clear
        self.resume_reading = self._may_read.set
        self.abort = transport.abort

    def get_write_buffer_size(self) -> int:
        return self._outbox.size + self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Once what waits has left; not for long."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_S):
                await self._outbox.drain(0)
                await self._socket.close()
        self._transport.close()

    async def run(self, link: Guest) -> None:
        """Messages to the link until the WebSocket ends."""
        sender = asyncio.get_running_loop().create_task(self._send())
        taken = 0
        try:
            while True:
                taken += 1
                if not taken % TURN_MESSAGES:
                    await asyncio.sleep(0)  # neither wait below waits while there is something
                await self._may_read.wait()
                message = await self._socket.receive()
                if message.type is WSMsgType.BINARY:
                    link.message_received(message.data)
                elif message.type is WSMsgType.PING:
                    await self._socket.pong(message.data)
                elif message.type is WSMsgType.PONG:
                    pass
                elif message.type is WSMsgType.TEXT:
                    link.fail(WireMalformed("a text message"))
                elif message.type is WSMsgType.ERROR:
                    link.fail(WireMalformed("no WebSocket, or a message too large"))
                    return
                else:
                    return
        finally:
            sender.cancel()
            if self._closing is None:
                self._transport.close()

    async def _send(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._outbox.run()
