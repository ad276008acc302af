"""Carriers of a gateway: connections to the engine over TCP or WebSocket, in plain or TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final, Protocol

import aiohttp

from engine.errors import EngineUnreachable, SettingInvalid, WireMalformed, WireTls
from engine.gateway.config import GatewayConfig
from engine.wire import tls
from engine.wire.address import Address
from engine.wire.frames import BODY_MAX, HEADER_SIZE
from engine.wire.websocket import LOW_WATER, SUBPROTOCOL, Outbox

READ_SIZE: Final = 65_536
CLOSE_S: Final = 1.0


class Carrier(Protocol):
    """Bytes both ways, in order."""

    async def read(self) -> bytes:
        """What came, b"" at the end. Raises OSError, WireTls, WireMalformed."""

    def write(self, data: bytes) -> None:
        """Whole frames."""

    async def drain(self) -> None:
        """Until not too much waits to be sent. Raises OSError."""

    async def close(self) -> None:
        """What was written still leaves, if it can in a second."""


def make_context(address: Address, config: GatewayConfig) -> ssl.SSLContext | None:
    """None for a carrier in plain. Raises SettingInvalid for files that cannot be used."""
    if not address.is_tls:
        return None
    alpn = tls.ALPN_WEBSOCKET if address.is_websocket else tls.ALPN
    return tls.client_context(config.ca, config.cert, config.key, alpn=alpn)


async def connect(address: Address, config: GatewayConfig) -> Carrier:
    """A connection to the engine. Raises OSError, EngineUnreachable, WireTls, WireMalformed."""
    try:
        # Made for each connection, so that a renewed certificate is used from the next one on.
        context = make_context(address, config)
    except SettingInvalid as error:  # half of a renewal; the whole was checked at the start
        raise WireTls(str(error)) from None
    if address.is_websocket:
        return await _connect_websocket(address, context)
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    except ssl.SSLError as error:
        raise WireTls(tls.tls_problem(error)) from None
    if context is not None:
        try:
            tls.check_alpn(writer.get_extra_info("ssl_object"), tls.ALPN)
        except WireTls:
            writer.transport.abort()
            raise
    return _StreamCarrier(reader, writer)


class _StreamCarrier:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.write = writer.write

    async def read(self) -> bytes:
        try:
            return await self._reader.read(READ_SIZE)
        except ssl.SSLError as error:
            # In TLS 1.3 the server judges our certificate after we think that all is well.
            raise WireTls(tls.tls_problem(error)) from None

    async def drain(self) -> None:
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._writer.wait_closed()
        self._writer.transport.abort()


async def _connect_websocket(address: Address, context: ssl.SSLContext | None) -> Carrier:
    session = aiohttp.ClientSession()
    try:
        socket = await session.ws_connect(
            str(address),
            protocols=(SUBPROTOCOL,),
            ssl=context if context is not None else True,
            max_msg_size=BODY_MAX + HEADER_SIZE + 1,  # aiohttp refuses the limit itself
        )
        if socket.protocol != SUBPROTOCOL:
            await socket.close()
            raise WireMalformed(f"the server does not speak {SUBPROTOCOL}")
        if context is not None and socket.get_extra_info("ssl_object") is None:
            await socket.close()
            raise WireTls("a redirection led out of TLS")
    except BaseException as error:
        await session.close()
        if isinstance(error, aiohttp.ClientSSLError):
            cause = (
                error.certificate_error
                if isinstance(error, aiohttp.ClientConnectorCertificateError)
                else error.os_error
            )
            raise WireTls(tls.tls_problem(cause)) from None
        if isinstance(error, aiohttp.WSServerHandshakeError):
            raise EngineUnreachable(f"no WebSocket: HTTP status {error.status}") from None
        if isinstance(error, aiohttp.ClientError) and not isinstance(error, OSError):
            raise EngineUnreachable(f"no WebSocket: {type(error).__name__}") from None
        raise
    return _WebSocketCarrier(session, socket)


class _WebSocketCarrier:
    def __init__(
        self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse[bool]
    ) -> None:
        self._session = session
        self._socket = socket
        self._outbox = Outbox(socket.send_bytes)
        self._sender = asyncio.get_running_loop().create_task(self._outbox.run())
        self.write = self._outbox.put

    async def read(self) -> bytes:
        message = await self._socket.receive()
        while message.type is aiohttp.WSMsgType.BINARY and not message.data:
            message = await self._socket.receive()  # empty, which is not the end
        match message.type:
            case aiohttp.WSMsgType.BINARY:
                data: bytes = message.data
                return data
            case aiohttp.WSMsgType.TEXT:
                raise WireMalformed("a text message")
            case aiohttp.WSMsgType.ERROR:
                if isinstance(message.data, ssl.SSLError):
                    raise WireTls(tls.tls_problem(message.data))
                raise WireMalformed("no WebSocket, or a message too large")
        return b""

    async def drain(self) -> None:
        if self._outbox.size > LOW_WATER:
            waiting = asyncio.ensure_future(self._outbox.drain())
            try:
                # The sender ends only by failing, and then nothing will drain.
                await asyncio.wait({waiting, self._sender}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
        if self._sender.done():
            self._sender.result()

    async def close(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                if not self._sender.done():
                    await self._outbox.drain(0)
                await self._socket.close()
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        await self._session.close()
