"""The HTTP JSON API: tokens, bodies, names by role, one shape for every failure.

It asks the engine over its Unix socket and is a process of its own, so that making Python objects
of answers never holds up a lane. It alone can open sealed details. Identifiers of persons come in
bodies only; neither they nor tokens, queries or bodies are ever logged. docs/api.md describes it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec
from aiohttp import web

from engine import questions, tracing
from engine.alert_answers import (
    AlertsBody,
    CaseBody,
    WatchAddBody,
    WatchRemoveBody,
    alarmed_refs,
    alarmed_to_answer,
    entries_to_answer,
    watched_to_answer,
)
from engine.answers import (
    ContactsBody,
    ErrorAnswer,
    ErrorInfo,
    HealthAnswer,
    IngestBody,
    PersonBody,
    TraceAnswer,
    TraceBody,
    VenueBody,
    WhoamiAnswer,
    delivered_to_answer,
    figures_to_answer,
    places_to_answer,
    traced_to_answer,
    when_to_ms,
)
from engine.clock import Clock, SystemClock, date_to_day
from engine.errors import (
    BodyInvalid,
    BodyTooLarge,
    EngineError,
    EngineUnreachable,
    InputError,
    LineInvalid,
    MethodWrong,
    QuestionInvalid,
    RequestSlow,
    RouteUnknown,
    ServiceError,
    SettingInvalid,
    TokenInvalid,
)
from engine.group import SealedDetails, split_details
from engine.keys import DeskKeys
from engine.notice_answers import NoticeBody, bodies_to_marks, noticed_to_answer
from engine.openapi import KEY_PATTERN, ROUTES, Route, document
from engine.people import Details, bytes_to_details
from engine.question_socket import QuestionClient
from engine.questions import Reply
from engine.record_lines import Line, parsed_to_record
from engine.records import encode_scans
from engine.telemetry import Log, Metrics
from engine.visits import REF_ROW_BITS

BODY_SIZE_MAX: Final = 65_536
BODY_TIMEOUT_S: Final = 10.0
ENGINE_TIMEOUT_S: Final = 30.0
_TOKEN_SIZE_MAX: Final = 256
_CACHE_SIZE_MAX: Final = 32 << 20
_CACHE_AGE_NS: Final = 300 * 1_000_000_000
_CACHE_SWEEP_S: Final = 30.0
_KEY: Final = re.compile(KEY_PATTERN)
_U64_MAX: Final = (1 << 64) - 1
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_log = Log("api")
B = TypeVar("B", bound=msgspec.Struct)
R = TypeVar("R")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Opener(Protocol):
    """Who can open sealed details; engine.keys.DeskKeys."""

    def open_details(self, day: int, sealed: bytes, aad: bytes) -> bytes: ...


class OpenedDetails:
    """Opened groups for a while, the least used first to go.

    Bounded in bytes and in age: what a forgotten day held must not live on in this process, asked
    for again or not, so its owner calls `drop_old` now and then.
    """

    def __init__(self, clock: Clock, size_max: int = _CACHE_SIZE_MAX) -> None:
        self._clock = clock
        self._size_max = size_max
        self._size = 0
        self._groups: OrderedDict[int, tuple[int, int, list[bytes]]] = OrderedDict()

    def get(self, lsn: int) -> list[bytes] | None:
        """Details by row of the group, or None."""
        self.drop_old()
        found = self._groups.get(lsn)
        if found is None:
            return None
        self._groups.move_to_end(lsn)
        return found[2]

    def put(self, lsn: int, entries: list[bytes]) -> None:
        self._drop(lsn)
        size = sum(map(len, entries)) + 64 * len(entries)
        self._groups[lsn] = (self._clock.monotonic_ns(), size, entries)
        self._size += size
        while self._size > self._size_max and len(self._groups) > 1:
            self._drop(next(iter(self._groups)))

    def drop_old(self) -> None:
        oldest_ns = self._clock.monotonic_ns() - _CACHE_AGE_NS
        for lsn in [lsn for lsn, (at_ns, _, _) in self._groups.items() if at_ns < oldest_ns]:
            self._drop(lsn)

    def _drop(self, lsn: int) -> None:
        _, size, _ = self._groups.pop(lsn, (0, 0, []))
        self._size -= size


class Api:
    """The handlers; `make_app` gives the aiohttp application that serves them."""

    def __init__(
        self,
        client: QuestionClient,
        opener: Opener,
        clock: Clock,
        metrics: Metrics | None = None,
        *,
        deliverer: QuestionClient | None = None,
    ) -> None:
        """deliverer: a connection of its own for deliveries. They wait for the disk, and the engine
        works at so many questions of one connection at once."""
        self._client = client
        self._deliverer = deliverer or client
        self._opener = opener
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._opened = OpenedDetails(clock)
        self._document = msgspec.json.encode(document())
        self._decoders: dict[type, msgspec.json.Decoder[Any]] = {
            body: msgspec.json.Decoder(body)
            for body in {route.body for route in ROUTES if route.body is not None}
        }
        self._is_engine_up = False
        self._metrics.add_source(lambda: [("chot_api_engine_up", (), self._is_engine_up)])

    def make_app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_SIZE_MAX, middlewares=[self._guard])
        app.cleanup_ctx.append(self._drop_old_details)
        for route in ROUTES:
            handler = getattr(self, route.name)
            app.router.add_route(route.method, route.path, _checked(route, handler))
        return app

    async def _drop_old_details(self, app: web.Application) -> AsyncIterator[None]:
        async def work() -> None:
            while True:
                await asyncio.sleep(_CACHE_SWEEP_S)
                self._opened.drop_old()

        task = asyncio.create_task(work())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    # ---- handlers, by the names of the routes -----------------------------------------------

    async def trace_venue(self, request: web.Request) -> web.Response:
        body = await self._body(request, VenueBody)
        question = questions.AskVenue(place=body.place, **_common(request, body))
        return await self._trace(question)

    async def trace_person(self, request: web.Request) -> web.Response:
        body = await self._body(request, PersonBody)
        persons = (body.person, *body.aliases)
        return await self._trace(questions.AskPerson(persons=persons, **_common(request, body)))

    async def trace_contacts(self, request: web.Request) -> web.Response:
        body = await self._body(request, ContactsBody)
        question = questions.AskContacts(
            persons=(body.person, *body.aliases),
            profile=body.profile,
            min_minutes=body.min_minutes,
            linger_minutes=body.linger_minutes,
            **_common(request, body),
        )
        return await self._trace(question)

    async def trace_notice(self, request: web.Request) -> web.Response:
        body = await self._body(request, NoticeBody)
        question = questions.AskNotice(
            **_why(request, body),
            marks=bodies_to_marks(body.marks),
            least=body.least,
            since=body.since,
            limit=body.limit,
            is_unmasked=body.unmasked,
        )
        return await self._trace(question, noticed_to_answer)

    async def alerts(self, request: web.Request) -> web.Response:
        body = await self._body(request, AlertsBody)
        ask = questions.AskAlerts(**_common(request, body))
        found = await self._ask(ask, questions.Alarmed)
        details = await self._details(alarmed_refs(found), found.audit, ask.token)
        is_masked = not ask.is_unmasked
        return await asyncio.to_thread(
            lambda: _answer(alarmed_to_answer(found, details, is_masked))
        )

    async def watch_add(self, request: web.Request) -> web.Response:
        body = await self._body(request, WatchAddBody)
        ask = questions.WatchAdd(
            **_why(request, body),
            kind=body.list,
            persons=(body.person, *body.aliases),
            reason=body.reason,
            from_ms=None if body.start is None else when_to_ms(body.start),
            to_ms=when_to_ms(body.end),
        )
        return _answer(watched_to_answer(await self._watched(ask)))

    async def watch_remove(self, request: web.Request) -> web.Response:
        body = await self._body(request, WatchRemoveBody)
        ask = questions.WatchRemove(**_why(request, body), number=body.number)
        return _answer(watched_to_answer(await self._watched(ask)))

    async def watch_list(self, request: web.Request) -> web.Response:
        body = await self._body(request, CaseBody)
        ask = questions.AskWatched(**_why(request, body))
        return _answer(entries_to_answer(await self._ask(ask, questions.WatchEntries)))

    async def _watched(self, ask: questions.WatchAdd | questions.WatchRemove) -> questions.Watched:
        (entry,) = (await self._ask(ask, questions.WatchEntries)).entries
        return entry

    async def ingest(self, request: web.Request) -> web.Response:
        """Nothing is taken of a body with a record that is none: mend it and send it again."""
        gateway, epoch, seq = _key(request)
        body = await self._body(request, IngestBody)
        records = await asyncio.to_thread(_lines_to_records, body.records)
        ask = questions.Deliver(
            token=_token(request), gateway=gateway, epoch=epoch, seq=seq, body=encode_scans(records)
        )
        found = _as(await self._deliverer.ask(ask), questions.Delivered)
        response = _answer(delivered_to_answer(f"{gateway}:{epoch}:{seq}", found))
        response.headers["Idempotency-Replayed"] = str(found.is_repeat).lower()
        return response

    async def figures(self, request: web.Request) -> web.Response:
        token = _token(request)
        try:
            day = date_to_day(request.query.get("day", ""))
        except ValueError:
            raise QuestionInvalid("day is a date such as 2021-07-01") from None
        if day < 0:
            raise QuestionInvalid("there are no days before 1970")
        ask = questions.AskFigures(token=token, day=day)
        return _answer(figures_to_answer(await self._ask(ask, questions.Figures)))

    async def venues(self, request: web.Request) -> web.Response:
        token = _token(request)
        text, limit = request.query.get("search", ""), request.query.get("limit", "50")
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= 1000:
            raise QuestionInvalid("limit is a number from 1 to 1000")
        if len(text) > 64:
            raise QuestionInvalid("search has at most 64 characters")
        ask = questions.AskPlaces(token=token, text=text, limit=int(limit))
        found = await self._ask(ask, questions.Places)
        return _answer(places_to_answer(found.places))

    async def whoami(self, request: web.Request) -> web.Response:
        ask = questions.Whoami(token=_token(request))
        found = await self._ask(ask, questions.Identity)
        return _answer(WhoamiAnswer(**msgspec.structs.asdict(found)))

    async def healthz(self, request: web.Request) -> web.Response:
        found = await self._ask(questions.AskHealth(), questions.Health)
        return _answer(HealthAnswer("ok", found.state))

    async def metrics(self, request: web.Request) -> web.Response:
        """The engine's metrics and our own; of an engine that is away, ours alone."""
        text = b""
        try:
            text = (await self._ask(questions.AskMetrics(), questions.MetricsText)).text
        except EngineError as error:
            _log.warning("no metrics of the engine", code=error.code)
        self._is_engine_up = bool(text)
        body = text + self._metrics.text()
        return web.Response(body=body, headers={"Content-Type": _METRICS_TYPE})

    async def openapi(self, request: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")

    # ---- answering --------------------------------------------------------------------------

    async def _trace(
        self,
        question: questions.Traceable,
        to_answer: Callable[[questions.Traced, list[Details | None], bool], TraceAnswer] = (
            traced_to_answer
        ),
    ) -> web.Response:
        traced = await self._ask(question, questions.Traced)
        refs = tracing.unpack(traced.answer.packed, "newest").tolist()
        details = await self._details(refs, traced.audit, question.token)
        is_masked = not question.is_unmasked
        # Ten thousand rows take a while to write down; other requests go on meanwhile.
        return await asyncio.to_thread(lambda: _answer(to_answer(traced, details, is_masked)))

    async def _details(self, refs: list[int], audit: int, token: str) -> list[Details | None]:
        """Those behind each ref of an answer; None where they are gone or cannot be opened."""
        groups = {lsn: self._opened.get(lsn) for lsn in {ref >> REF_ROW_BITS for ref in refs}}
        wanted = tuple(ref for ref in refs if groups[ref >> REF_ROW_BITS] is None)
        while wanted:
            ask = questions.FetchDetails(token=token, audit=audit, refs=wanted)
            reply = await self._ask(ask, questions.Details)
            if len(reply.rest) >= len(wanted):
                raise ServiceError("the engine gives no details")
            for lsn, entries in await asyncio.to_thread(self._open, reply.groups):
                groups[lsn] = entries
                self._opened.put(lsn, entries)
                self._metrics.count("chot_api_details_opened")
            wanted = reply.rest
        return [_find_details(groups[ref >> REF_ROW_BITS], ref) for ref in refs]

    def _open(self, groups: Iterable[SealedDetails]) -> list[tuple[int, list[bytes]]]:
        """(lsn, details by row) of each; of one that does not open none. Runs in a thread."""
        opened = []
        for group in groups:
            entries: list[bytes] = []
            try:
                if group.sealed:
                    plain = self._opener.open_details(group.day, group.sealed, group.aad)
                    entries = split_details(plain, group.count)
            except (InputError, ValueError) as error:
                code = getattr(error, "code", "details")
                _log.warning("details not opened", code=code, day=group.day, lsn=group.lsn)
            opened.append((group.lsn, entries))
        return opened

    async def _ask(self, question: questions.Question, kind: type[R]) -> R:
        return _as(await self._client.ask(question), kind)

    async def _body(self, request: web.Request, kind: type[B]) -> B:
        """The body as a struct. Raises BodyInvalid, BodyTooLarge, RequestSlow, TokenInvalid."""
        _token(request)  # Nobody unknown gets a body read.
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                data = await request.read()
        except TimeoutError:
            raise RequestSlow("the body did not come in time") from None
        try:
            found: B = self._decoders[kind].decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BodyInvalid(_explain(error), hint="see /openapi.json") from None
        return found

    # ---- around every request ---------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        begun_ns = self._clock.monotonic_ns()
        response: web.StreamResponse
        try:
            response = await handler(request)
        except EngineError as error:
            response = error_to_response(error)
        except web.HTTPException as error:
            response = _http_error(error)
        except (OSError, EOFError):
            # The engine went while it was asked: whoever asks may ask again.
            response = error_to_response(EngineUnreachable("the engine went away"))
        except Exception as error:
            # Its words may hold anything, so only its class is told.
            _log.error("request failed", problem=type(error).__name__)
            response = error_to_response(EngineError("the API failed to answer"))
        response.headers.update(_HEADERS)
        # Of an unknown address not even the path is kept: somebody may have put a number there.
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unknown"
        span_ns = self._clock.monotonic_ns() - begun_ns
        self._metrics.count("chot_api_requests", route, str(response.status))
        self._metrics.count("chot_api_request_seconds", route, by=span_ns / 1e9)
        ms = span_ns // 1_000_000
        _log.info("request", method=request.method[:8], route=route, status=response.status, ms=ms)
        return response


async def run_api(
    *,
    host: str,
    port: int,
    socket_path: str | Path,
    desk_path: str | Path,
    stop: asyncio.Event,
    on_ready: Callable[[int], None] = lambda port: None,
    clock: Clock | None = None,
) -> None:
    """Serves until `stop` is set. on_ready: told the TCP port once the door is open.

    desk_path: folder of the private halves (engine.keys.DeskKeys). Raises SettingInvalid for an
    address that is not this machine's own or cannot be had, KeyMissing.
    """
    if host not in _LOOPBACK:
        raise SettingInvalid(
            "api_host: plain HTTP is for loopback only", hint="let a TLS proxy stand before it"
        )
    client, deliverer = (QuestionClient(socket_path, ENGINE_TIMEOUT_S) for _ in range(2))
    api = Api(client, DeskKeys(desk_path), clock or SystemClock(), deliverer=deliverer)
    runner = web.AppRunner(api.make_app(), access_log=None)
    await runner.setup()
    server: asyncio.Server | None = None
    try:
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: _make_protocol(runner), host, port
            )
        except OSError as error:
            raise SettingInvalid(f"api_port: cannot listen on {port}: {error.strerror}") from None
        bound = server.sockets[0].getsockname()[1]
        _log.info("api open", port=bound)
        on_ready(bound)
        await stop.wait()
    finally:
        if server is not None:
            server.close()
        await runner.cleanup()
        await client.close()
        await deliverer.close()


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


def _make_protocol(runner: web.AppRunner) -> asyncio.Protocol:
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


def _as(reply: Reply, kind: type[R]) -> R:
    """Raises EngineUnreachable."""
    if not isinstance(reply, kind):
        raise EngineUnreachable("the engine gave another kind of answer")
    return reply


def error_to_response(error: EngineError) -> web.Response:
    """The one shape of failures."""
    info = ErrorInfo(error.code, str(error), error.hint)
    response = _answer(ErrorAnswer(info), status=error.status)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _http_error(error: web.HTTPException) -> web.Response:
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


def _checked(route: Route, handler: Handler) -> Handler:
    """Refuses parameters the route does not have: identifiers have no place in an address."""
    known = {parameter.name for parameter in route.parameters}

    async def check(request: web.Request) -> web.StreamResponse:
        if not known.issuperset(request.query) or len(request.query) > len(set(request.query)):
            names = ", ".join(sorted(known)) or "none"
            raise BodyInvalid("the address has parameters it does not take", hint=f"known: {names}")
        return await handler(request)

    return check


def _find_details(entries: list[bytes] | None, ref: int) -> Details | None:
    row = ref & ((1 << REF_ROW_BITS) - 1)
    if not entries or row >= len(entries) or not entries[row]:
        return None
    try:
        return bytes_to_details(entries[row])
    except InputError as error:
        _log.warning("details unreadable", code=error.code, lsn=ref >> REF_ROW_BITS)
        return None


def _why(request: web.Request, body: TraceBody | CaseBody) -> dict[str, Any]:
    return {"token": _token(request), "purpose": body.purpose, "case": body.case}


def _common(request: web.Request, body: TraceBody | AlertsBody) -> dict[str, Any]:
    return {
        **_why(request, body),
        "from_ms": when_to_ms(body.start),
        "to_ms": when_to_ms(body.end),
        "limit": body.limit,
        "is_unmasked": body.unmasked,
    }


def _key(request: web.Request) -> tuple[str, int, int]:
    """(gateway, epoch, seq) of the idempotency key. Raises BodyInvalid."""
    text = request.headers.get("Idempotency-Key", "").strip()
    match = _KEY.fullmatch(text.removeprefix('"').removesuffix('"'))
    if match is None or max(int(match[2]), int(match[3])) > _U64_MAX:
        raise BodyInvalid("Idempotency-Key is missing or none", hint="gateway:epoch:seq")
    return match[1], int(match[2]), int(match[3])


def _lines_to_records(lines: Iterable[Line]) -> list[bytes]:
    """Raises LineInvalid, which names the record by its position."""
    records = []
    for n, line in enumerate(lines):
        try:
            records.append(parsed_to_record(line, lane=0))
        except LineInvalid as error:
            raise LineInvalid(f"record {n}: {error}") from None
    return records


def _token(request: web.Request) -> str:
    """Raises TokenInvalid."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > _TOKEN_SIZE_MAX:
        raise TokenInvalid("a token is missing", hint="send Authorization: Bearer TOKEN")
    return token


def _explain(error: Exception) -> str:
    """msgspec's message with its path, without the values that it may quote."""
    if not isinstance(error, msgspec.ValidationError):
        return "the body is not JSON"
    text, _, path = str(error).partition(" - at `")
    if "unknown field" in text:
        text = "the body has a field that is not known"
    return " ".join([text.partition(" '")[0][:120], f"at {path[:80].rstrip('`')}" if path else ""])


def _answer(answer: msgspec.Struct, status: int = 200) -> web.Response:
    data = msgspec.json.encode(answer)
    return web.Response(body=data, status=status, content_type="application/json")
