"""The scripted server of tests.reference.ckp_server, over TLS and WebSocket."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import WSMsgType, web

from tests.reference.ckp_server import Peer, Server


class CarrierServer(Server):
    """carrier: tcp, tls, ws or wss. cert: paths of the server's certificate and key, for TLS."""

    def __init__(
        self,
        script: Callable[[Peer], Awaitable[None]],
        carrier: str,
        cert: tuple[str, str] | None = None,
        *,
        alpn: str = "ckp/1",
        subprotocol: str = "ckp.1",
    ) -> None:
        super().__init__(script)
        self.host_port = f"127.0.0.1:{self.port}"
        self.url = f"{carrier}://{self.host_port}"
        self.peer_names: list[str] = []  # CN of each client's certificate
        self._carrier = carrier
        self._subprotocol = subprotocol
        self._context: ssl.SSLContext | None = None
        self._runner: web.ServerRunner | None = None
        if carrier in ("tls", "wss"):
            assert cert is not None
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*cert)
            if carrier == "tls" and alpn:
                self._context.set_alpn_protocols([alpn])

    def ask_for_certificates(self, ca: str) -> None:
        assert self._context is not None
        self._context.load_verify_locations(ca)
        self._context.verify_mode = ssl.CERT_REQUIRED

    async def __aenter__(self) -> CarrierServer:
        if self._carrier in ("tcp", "tls"):
            self._server = await asyncio.start_server(
                self._serve, sock=self._socket, ssl=self._context
            )
            return self
        self._runner = web.ServerRunner(web.Server(self._serve_websocket))
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, ssl_context=self._context).start()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._runner is None:
            await super().__aexit__(*error)
            return
        for peer in self.links:
            peer.abort()
        await self._runner.cleanup()
        if self.failures:
            raise self.failures[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        subject = (writer.get_extra_info("peercert") or {}).get("subject", ())
        self.peer_names += [value for ((kind, value),) in subject if kind == "commonName"]
        await super()._serve(reader, writer)

    async def _serve_websocket(self, request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=(self._subprotocol,), max_msg_size=1 << 26)
        await socket.prepare(request)
        stream = cast(Any, _Stream(socket, request))
        await self._serve(stream, stream)
        await socket.close()
        return socket


class _Stream:
    """A WebSocket as the reader and the writer of a stream."""

    def __init__(self, socket: web.WebSocketResponse[bool], request: web.BaseRequest) -> None:
        self._socket = socket
        self._last: asyncio.Task[None] | None = None
        assert request.transport is not None
        self.transport = request.transport
        self.get_extra_info = request.transport.get_extra_info

    async def read(self, size: int) -> bytes:
        message = await self._socket.receive()
        return message.data if message.type is WSMsgType.BINARY else b""

    def write(self, data: bytes) -> None:
        self._then(lambda: self._socket.send_bytes(data))

    def write_text(self, text: str) -> None:
        self._then(lambda: self._socket.send_str(text))

    def close(self) -> None:
        self._then(self._socket.close)

    def _then(self, work: Callable[[], Awaitable[object]]) -> None:
        """In the order of the calls."""
        before = self._last

        async def run() -> None:
            if before is not None:
                await asyncio.wait({before})
            await work()

        self._last = asyncio.get_running_loop().create_task(run())
