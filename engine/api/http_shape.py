"""How requests are read and answers are written: token, key, body, one shape for every failure.

What engine.api.server answers and what goes wrong before it is asked look the same to whoever
called. Neither tokens nor bodies are ever quoted in a failure.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from engine.api.answers import ErrorAnswer, ErrorInfo
from engine.api.openapi import KEY_PATTERN, Route
from engine.errors import (
    BodyInvalid,
    BodyTooLarge,
    EngineError,
    EngineUnreachable,
    MethodWrong,
    RequestSlow,
    RouteUnknown,
    TokenInvalid,
)

BODY_SIZE_MAX: Final = 65_536
BODY_TIMEOUT_S: Final = 10.0
_TOKEN_SIZE_MAX: Final = 256
_KEY: Final = re.compile(KEY_PATTERN)
_U64_MAX: Final = (1 << 64) - 1

B = TypeVar("B", bound=msgspec.Struct)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BodyReader:
    """Bodies as structs of the kinds it is given."""

    def __init__(self, kinds: Iterable[type[msgspec.Struct]]) -> None:
        self._decoders: dict[type, msgspec.json.Decoder[Any]] = {
            kind: msgspec.json.Decoder(kind) for kind in kinds
        }
        self._awaited: set[asyncio.Timeout] = set()
        self._is_closing = False

    async def read(self, request: web.Request, kind: type[B], size_max: int = BODY_SIZE_MAX) -> B:
        """Raises BodyInvalid, BodyTooLarge, RequestSlow, TokenInvalid, EngineUnreachable."""
        read_token(request)  # Nobody unknown gets a body read.
        try:
            async with asyncio.timeout(0 if self._is_closing else BODY_TIMEOUT_S) as limit:
                self._awaited.add(limit)
                try:
                    data = await _read_all(request, size_max)
                finally:
                    self._awaited.discard(limit)
        except TimeoutError:
            if self._is_closing:
                raise EngineUnreachable("the API is going down", hint="send it again") from None
            raise RequestSlow("the body did not come in time") from None
        try:
            found: B = self._decoders[kind].decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BodyInvalid(_explain(error), hint="see /openapi.json") from None
        return found

    def close(self) -> None:
        """Turns away whoever has not sent all of a body: aiohttp reads no more once it ends."""
        self._is_closing = True
        for limit in self._awaited:
            if not limit.expired():  # in this very turn; it cannot be moved any more
                limit.reschedule(asyncio.get_running_loop().time())


async def _read_all(request: web.Request, size_max: int) -> bytes:
    """Raises BodyTooLarge, as soon as it is."""
    if size_max == BODY_SIZE_MAX:
        return await request.read()
    data = bytearray()
    while chunk := await request.content.readany():
        data += chunk
        if len(data) > size_max:
            raise BodyTooLarge(f"the body has more than {size_max} bytes")
    return bytes(data)


def read_token(request: web.Request) -> str:
    """Raises TokenInvalid."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    # What is no ASCII may be bytes that are no text at all.
    is_token = token.isascii() and 0 < len(token) <= _TOKEN_SIZE_MAX
    if scheme.lower() != "bearer" or not is_token:
        raise TokenInvalid("a token is missing", hint="send Authorization: Bearer TOKEN")
    return token


def read_key(request: web.Request) -> tuple[str, int, int]:
    """(gateway, epoch, seq) of the idempotency key. Raises BodyInvalid."""
    text = request.headers.get("Idempotency-Key", "").strip()
    match = _KEY.fullmatch(text.removeprefix('"').removesuffix('"'))
    if match is None or max(int(match[2]), int(match[3])) > _U64_MAX:
        raise BodyInvalid("Idempotency-Key is missing or none", hint="gateway:epoch:seq")
    return match[1], int(match[2]), int(match[3])


def to_response(answer: msgspec.Struct, status: int = 200) -> web.Response:
    data = msgspec.json.encode(answer)
    return web.Response(body=data, status=status, content_type="application/json")


def error_to_response(error: EngineError) -> web.Response:
    """The one shape of failures."""
    info = ErrorInfo(error.code, str(error), error.hint)
    response = to_response(ErrorAnswer(info), status=error.status)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def http_to_error(error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        response = error_to_response(MethodWrong("this address takes another method"))
        response.headers["Allow"] = allowed
        return response
    if isinstance(error, web.HTTPNotFound):
        return error_to_response(RouteUnknown("there is no such address", hint="/openapi.json"))
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        text = f"the body has more than {BODY_SIZE_MAX} bytes"
        return error_to_response(BodyTooLarge(text))
    return error_to_response(BodyInvalid("the request cannot be taken"))


def refuse_unknown(route: Route, handler: Handler) -> Handler:
    """Refuses parameters the route does not have: identifiers have no place in an address."""
    known = {parameter.name for parameter in route.parameters}

    async def check(request: web.Request) -> web.StreamResponse:
        if not known.issuperset(request.query) or len(request.query) > len(set(request.query)):
            names = ", ".join(sorted(known)) or "none"
            raise BodyInvalid("the address has parameters it does not take", hint=f"known: {names}")
        return await handler(request)

    return check


def _explain(error: Exception) -> str:
    """msgspec's message with its path, without the values that it may quote."""
    if not isinstance(error, msgspec.ValidationError):
        return "the body is not JSON"
    text, _, path = str(error).partition(" - at `")
    if "unknown field" in text:
        text = "the body has a field that is not known"
    return " ".join([text.partition(" '")[0][:120], f"at {path[:80].rstrip('`')}" if path else ""])


class _Protocol(web.RequestHandler):
    """aiohttp's connection, except that a request that is no HTTP fails in our shape as well."""

    __slots__ = ()

    def handle_error(
        self,
        request: Any,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.Response:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        if status < 500:
            response = error_to_response(BodyInvalid("that is not an HTTP request"))
        else:
            response = error_to_response(EngineError("the API failed to answer"))
        response.force_close()
        return response


def make_protocol(runner: web.AppRunner) -> asyncio.Protocol:
    assert runner.server is not None
    # aiohttp's own log quotes requests, so it has none.
    silent = logging.getLogger("chot.api.http")
    silent.disabled = True
    return _Protocol(
        runner.server,
        loop=asyncio.get_running_loop(),
        access_log=silent,
        logger=silent,
        auto_decompress=False,
    )
