"""A small HTTP door for a post's gear and officers: few connections, small bodies, short lives."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import msgspec
from aiohttp import web

from engine.errors import (
    BodyInvalid,
    BodyTooLarge,
    EngineError,
    MethodWrong,
    RouteUnknown,
    SettingInvalid,
)
from engine.telemetry import Log

CONNECTIONS_MAX: Final = 32  # the oldest gives way to a new one
LIFE_S: Final = 60.0  # of a connection, so that none can be held open by saying nothing

_log = Log("gateway")


class HttpDoor:
    """Serves an application on one address. `async with` opens and closes it.

    life_s: None where answers stream for as long as somebody listens. Raises SettingInvalid when
    the address cannot be had.
    """

    def __init__(
        self, app: web.Application, host: str, port: int, *, life_s: float | None = LIFE_S
    ) -> None:
        self.port = port  # the one that was bound, once it is open
        self._host = host
        self._life_s = life_s
        # Its log would quote requests.
        self._silent = logging.getLogger("chot.gateway.http")
        self._silent.disabled = True
        app.middlewares.insert(0, _in_our_shape)  # the outermost
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        # The end of each one's life, taken back when it closes before: it would keep the transport.
        self._open: dict[asyncio.Transport, asyncio.TimerHandle | None] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> HttpDoor:
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._make_protocol, self._host, self.port
            )
        except OSError as error:
            await self._runner.cleanup()
            where = f"{self._host}:{self.port}"
            raise SettingInvalid(f"cannot listen on {where}: {error.strerror}") from None
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for transport in list(self._open):
            transport.abort()
        await self._runner.cleanup()

    def _make_protocol(self) -> asyncio.Protocol:
        assert self._runner.server is not None
        return _Connection(
            self,
            self._runner.server,
            loop=asyncio.get_running_loop(),
            access_log=self._silent,
            logger=self._silent,
            auto_decompress=False,
        )

    def note_open(self, transport: asyncio.Transport) -> None:
        end = None
        if self._life_s is not None:
            end = asyncio.get_running_loop().call_later(self._life_s, transport.abort)
        self._open[transport] = end
        if len(self._open) > CONNECTIONS_MAX:
            oldest = next(iter(self._open))
            self.note_closed(oldest)
            oldest.abort()

    def note_closed(self, transport: asyncio.Transport) -> None:
        end = self._open.pop(transport, None)
        if end is not None:
            end.cancel()


class _Connection(web.RequestHandler):
    """aiohttp's connection, counted, and with our own words for what is no HTTP."""

    __slots__ = ("_door", "_own_transport")

    def __init__(self, door: HttpDoor, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._door = door
        self._own_transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        self._own_transport = transport
        self._door.note_open(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._own_transport is not None:
            self._door.note_closed(self._own_transport)

    def handle_error(
        self,
        request: Any,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        is_theirs = status < 500
        response = error_to_response(
            BodyInvalid("that is not an HTTP request") if is_theirs else EngineError("failed")
        )
        response.force_close()
        return response


def error_to_response(error: EngineError) -> web.Response:
    """{"error": {"code", "message"}} with the status of the error."""
    info = {"error": {"code": error.code, "message": str(error)}}
    return json_response(info, status=error.status)


def json_response(answer: object, status: int = 200) -> web.Response:
    data = msgspec.json.encode(answer)
    return web.Response(body=data, status=status, content_type="application/json")


@web.middleware
async def _in_our_shape(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except EngineError as error:
        return error_to_response(error)
    except web.HTTPRequestEntityTooLarge:
        return error_to_response(BodyTooLarge("the body is too large"))
    except web.HTTPMethodNotAllowed:
        return error_to_response(MethodWrong("this address takes another method"))
    except web.HTTPNotFound:
        return error_to_response(RouteUnknown("there is no such address"))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_to_response(BodyInvalid("the request cannot be taken"))
    except Exception as error:
        # Its words may hold anything, so only its class is told.
        _log.error("request_failed", problem=type(error).__name__)
        return error_to_response(EngineError("the gateway failed to answer"))
    return response
