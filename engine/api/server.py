"""The HTTP JSON API: tokens, bodies, names by role, one shape for every failure.

It asks the engine over its Unix socket and is a process of its own, so that making Python objects
of answers never holds up a lane. It alone can open sealed details. Identifiers of persons come in
bodies only; neither they nor tokens, queries or bodies are ever logged. docs/api.md describes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from engine.api.alert_answers import (
    AlertsBody,
    CaseBody,
    WatchAddBody,
    WatchRemoveBody,
    alarmed_refs,
    alarmed_to_answer,
    entries_to_answer,
    watched_to_answer,
)
from engine.api.answers import (
    ContactsBody,
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
from engine.api.count_answers import counted_to_answer, query_to_ask
from engine.api.csv_stream import CsvStream, wants_csv
from engine.api.http_shape import (
    BODY_SIZE_MAX,
    BodyReader,
    Handler,
    error_to_response,
    http_to_error,
    make_protocol,
    read_key,
    read_token,
    refuse_unknown,
    to_response,
)
from engine.api.keeping_api import KeepingApi
from engine.api.merge_answers import (
    MergeAddBody,
    MergeUndoBody,
    ReviewCloseBody,
    ReviewListBody,
    merged_to_answer,
    merges_to_answer,
    review_refs,
    reviews_to_answer,
)
from engine.api.notice_answers import NoticeBody, bodies_to_marks, noticed_to_answer
from engine.api.openapi import ROUTES, document
from engine.api.opened_details import DetailsOpener, Opener
from engine.api.passage_answers import (
    PassedBody,
    VehicleBody,
    passed_to_answer,
    ridden_to_answer,
)
from engine.api.roll_answers import BODY_SIZE_MAX as ROLL_SIZE_MAX
from engine.api.roll_answers import RollBody, rolled_to_answer, rows_to_packed
from engine.api.tier_answers import TiersBody, tiers_to_answer
from engine.api.venue_answers import (
    VenueAddAnswer,
    VenueAddBody,
    areas_to_answer,
    coverage_to_answer,
)
from engine.clock import Clock, SystemClock, date_to_day
from engine.desk import questions, trace_questions, venue_questions
from engine.desk.question_socket import QuestionClient
from engine.desk.questions import Reply
from engine.errors import (
    EngineError,
    EngineUnreachable,
    LineInvalid,
    QuestionInvalid,
    SettingInvalid,
)
from engine.identity.keys import DeskKeys
from engine.scans.people import Details
from engine.scans.record_lines import Line, parsed_to_record
from engine.scans.records import encode_scans
from engine.telemetry import Log, Metrics
from engine.tracing.rows import unpack

ENGINE_TIMEOUT_S: Final = 30.0
STOP_S: Final = 5.0  # for answers under way when the API ends; who reads none is left
_CACHE_SWEEP_S: Final = 30.0
_AT_ONCE: Final = 64  # persons of an answer that is written down in the event loop
_SIZE_AT_ONCE: Final = 1 << 14  # bytes of its packed arrays, some hundred rows
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_log = Log("api")
B = TypeVar("B", bound=msgspec.Struct)
R = TypeVar("R")


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
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._details = DetailsOpener(self._fetch, opener, clock, self._metrics)
        self._keeping = KeepingApi(client.ask, self._body, self._details, opener, clock)
        self._document = msgspec.json.encode(document())
        self._bodies = BodyReader({route.body for route in ROUTES if route.body is not None})
        self._is_engine_up = False
        self._metrics.add_source(lambda: [("chot_api_engine_up", (), self._is_engine_up)])

    def close(self) -> None:
        self._bodies.close()

    def make_app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_SIZE_MAX, middlewares=[self._guard])
        app.cleanup_ctx.append(self._drop_old_details)
        for route in ROUTES:
            handler = getattr(self, route.name, None) or getattr(self._keeping, route.name)
            app.router.add_route(route.method, route.path, refuse_unknown(route, handler))
        return app

    async def _drop_old_details(self, app: web.Application) -> AsyncIterator[None]:
        async def work() -> None:
            while True:
                await asyncio.sleep(_CACHE_SWEEP_S)
                self._details.drop_old()

        task = asyncio.create_task(work())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    # ---- handlers, by the names of the routes -----------------------------------------------

    async def trace_venue(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, VenueBody)
        question = questions.AskVenue(place=body.place, after=body.after, **_common(request, body))
        if wants_csv(request):
            return await self._stream(request, question, body.all_rows)
        return await self._trace(question)

    async def trace_person(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, PersonBody)
        question = questions.AskPerson(
            persons=(body.person, *body.aliases), **_common(request, body)
        )
        if wants_csv(request):
            return await self._stream(request, question, body.all_rows)
        return await self._trace(question)

    async def trace_contacts(self, request: web.Request) -> web.Response:
        body = await self._body(request, ContactsBody)
        question = questions.AskContacts(
            persons=(body.person, *body.aliases),
            profile=body.profile,
            min_minutes=body.min_minutes,
            linger_minutes=body.linger_minutes,
            risk_level=body.risk_level,
            **_common(request, body),
        )
        return await self._trace(question)

    async def trace_tiers(self, request: web.Request) -> web.Response:
        body = await self._body(request, TiersBody)
        question = trace_questions.AskTiers(
            persons=(body.person, *body.aliases),
            profile=body.profile,
            min_minutes=body.min_minutes,
            linger_minutes=body.linger_minutes,
            latent_hours=body.latent_hours,
            depth=body.depth,
            most=body.most,
            **_common(request, body),
        )
        return await self._trace(question, tiers_to_answer)

    async def trace_passed(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request, PassedBody)
        question = trace_questions.AskPassed(
            place=body.place,
            direction=body.direction,
            came_from=body.came_from,
            within_days=body.within_days,
            after=body.after,
            **_common(request, body),
        )
        if not wants_csv(request):
            return await self._trace(question, partial(passed_to_answer, address=body.address))
        if body.address:
            raise QuestionInvalid("address: it is compared in answers as JSON alone")
        return await self._stream(request, question, body.all_rows)

    async def trace_vehicle(self, request: web.Request) -> web.Response:
        body = await self._body(request, VehicleBody)
        question = trace_questions.AskVehicle(
            plate=body.plate, trip=body.trip, after=body.after, **_common(request, body)
        )
        traced = await self._ask(question, questions.Traced)
        newest = unpack(traced.answer.packed, "newest").tolist()
        rides = unpack(traced.answer.packed, "visits")["ref"].tolist()
        refs = [*newest, *rides]
        found = await self._details.open(refs, traced.audit, question.token, traced.details)
        persons, ridden = found[: len(newest)], found[len(newest) :]
        is_masked = not question.is_unmasked
        return await asyncio.to_thread(
            lambda: to_response(
                ridden_to_answer(traced, persons, is_masked, ridden, body.seat, body.trip)
            )
        )

    async def trace_roll(self, request: web.Request) -> web.Response:
        body = await self._bodies.read(request, RollBody, ROLL_SIZE_MAX)
        question = trace_questions.AskRoll(
            **_why(request, body),
            from_ms=when_to_ms(body.start),
            to_ms=when_to_ms(body.end),
            limit=len(body.rows),
            rows=await asyncio.to_thread(rows_to_packed, body.rows),
        )
        traced = await self._ask(question, questions.Traced)
        return await asyncio.to_thread(lambda: to_response(rolled_to_answer(traced)))

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
        details = await self._details.open(alarmed_refs(found), found.audit, ask.token)
        is_masked = not ask.is_unmasked
        return await asyncio.to_thread(
            lambda: to_response(alarmed_to_answer(found, details, is_masked))
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
        return to_response(watched_to_answer(await self._watched(ask)))

    async def watch_remove(self, request: web.Request) -> web.Response:
        body = await self._body(request, WatchRemoveBody)
        ask = questions.WatchRemove(**_why(request, body), number=body.number)
        return to_response(watched_to_answer(await self._watched(ask)))

    async def watch_list(self, request: web.Request) -> web.Response:
        body = await self._body(request, CaseBody)
        ask = questions.AskWatched(**_why(request, body))
        return to_response(entries_to_answer(await self._ask(ask, questions.WatchEntries)))

    async def _watched(self, ask: questions.WatchAdd | questions.WatchRemove) -> questions.Watched:
        (entry,) = (await self._ask(ask, questions.WatchEntries)).entries
        return entry

    async def merge_add(self, request: web.Request) -> web.Response:
        body = await self._body(request, MergeAddBody)
        persons = (body.person, *body.others)
        ask = questions.MergeAdd(**_why(request, body), persons=persons, why=body.why)
        return await self._merged(ask)

    async def merge_undo(self, request: web.Request) -> web.Response:
        body = await self._body(request, MergeUndoBody)
        ask = questions.MergeUndo(**_why(request, body), number=body.number, why=body.why)
        return await self._merged(ask)

    async def merge_list(self, request: web.Request) -> web.Response:
        ask = questions.AskMerges(**_why(request, await self._body(request, CaseBody)))
        return to_response(merges_to_answer(await self._ask(ask, questions.MergeEntries)))

    async def review_list(self, request: web.Request) -> web.Response:
        body = await self._body(request, ReviewListBody)
        ask = questions.AskReviews(**_common(request, body))
        found = await self._ask(ask, questions.Reviews)
        details = await self._details.open(review_refs(found), found.audit, ask.token)
        is_masked = not ask.is_unmasked
        return await asyncio.to_thread(
            lambda: to_response(reviews_to_answer(found, details, is_masked))
        )

    async def review_close(self, request: web.Request) -> web.Response:
        return await self._close_review(request, is_reopened=False)

    async def review_reopen(self, request: web.Request) -> web.Response:
        return await self._close_review(request, is_reopened=True)

    async def _close_review(self, request: web.Request, *, is_reopened: bool) -> web.Response:
        body = await self._body(request, ReviewCloseBody)
        ask = questions.ReviewClose(
            **_why(request, body), person=body.person, why=body.why, is_reopened=is_reopened
        )
        return await self._merged(ask)

    async def _merged(
        self, ask: questions.MergeAdd | questions.MergeUndo | questions.ReviewClose
    ) -> web.Response:
        (entry,) = (await self._ask(ask, questions.MergeEntries)).entries
        return to_response(merged_to_answer(entry))

    async def ingest(self, request: web.Request) -> web.Response:
        """Nothing is taken of a body with a record that is none: mend it and send it again."""
        gateway, epoch, seq = read_key(request)
        body = await self._body(request, IngestBody)
        records = await asyncio.to_thread(_lines_to_records, body.records)
        ask = questions.Deliver(
            token=read_token(request),
            gateway=gateway,
            epoch=epoch,
            seq=seq,
            body=encode_scans(records),
        )
        found = _as(await self._deliverer.ask(ask), questions.Delivered)
        response = to_response(delivered_to_answer(f"{gateway}:{epoch}:{seq}", found))
        response.headers["Idempotency-Replayed"] = str(found.is_repeat).lower()
        return response

    async def figures(self, request: web.Request) -> web.Response:
        token = read_token(request)
        ask = questions.AskFigures(token=token, day=_day(request))
        return to_response(figures_to_answer(await self._ask(ask, questions.Figures)))

    async def counts(self, request: web.Request) -> web.Response:
        ask = query_to_ask(read_token(request), request.query)
        found = await self._ask(ask, trace_questions.CountRows)
        return await asyncio.to_thread(lambda: to_response(counted_to_answer(found)))

    async def venues(self, request: web.Request) -> web.Response:
        ask = questions.AskPlaces(token=read_token(request), **_search(request))
        found = await self._ask(ask, questions.Places)
        return to_response(places_to_answer(found.places))

    async def areas(self, request: web.Request) -> web.Response:
        ask = venue_questions.AskAreas(token=read_token(request), **_search(request))
        found = await self._ask(ask, venue_questions.Areas)
        return to_response(areas_to_answer(found.areas))

    async def coverage(self, request: web.Request) -> web.Response:
        token, area = read_token(request), request.query.get("area", "")
        if len(area) > 32:
            raise QuestionInvalid("area is a code of at most 32 characters")
        ask = venue_questions.AskCoverage(token=token, day=_day(request), area=area)
        found = await self._ask(ask, venue_questions.Coverage)
        return await asyncio.to_thread(lambda: to_response(coverage_to_answer(found)))

    async def venue_add(self, request: web.Request) -> web.Response:
        body = await self._body(request, VenueAddBody)
        fields = msgspec.structs.asdict(body)
        ask = venue_questions.AddVenue(token=read_token(request), **fields)
        found = await self._ask(ask, venue_questions.VenueAdded)
        return to_response(VenueAddAnswer(found.number, found.code))

    async def whoami(self, request: web.Request) -> web.Response:
        ask = questions.Whoami(token=read_token(request))
        found = await self._ask(ask, questions.Identity)
        return to_response(WhoamiAnswer(**msgspec.structs.asdict(found)))

    async def healthz(self, request: web.Request) -> web.Response:
        found = await self._ask(questions.AskHealth(), questions.Health)
        return to_response(HealthAnswer("ok", found.state))

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
        refs = unpack(traced.answer.packed, "newest").tolist()
        details = await self._details.open(refs, traced.audit, question.token, traced.details)
        is_masked = not question.is_unmasked
        if len(refs) <= _AT_ONCE and sum(map(len, traced.answer.packed.values())) <= _SIZE_AT_ONCE:
            return to_response(to_answer(traced, details, is_masked))
        # Ten thousand rows take a while to write down; other requests go on meanwhile.
        return await asyncio.to_thread(lambda: to_response(to_answer(traced, details, is_masked)))

    async def _stream(
        self, request: web.Request, question: questions.Pageable, has_all: bool
    ) -> web.StreamResponse:
        return await CsvStream(self._ask, self._details.open, _HEADERS).send(
            request, question, has_all
        )

    async def _fetch(self, ask: questions.FetchDetails) -> questions.Details:
        return await self._ask(ask, questions.Details)

    async def _ask(self, question: questions.Question, kind: type[R]) -> R:
        return _as(await self._client.ask(question), kind)

    async def _body(self, request: web.Request, kind: type[B]) -> B:
        return await self._bodies.read(request, kind)

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
            response = http_to_error(error)
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

    desk_path: folder of the private halves (engine.identity.keys.DeskKeys). Raises SettingInvalid
    for an address that is not this machine's own or cannot be had, KeyMissing.
    """
    if host not in _LOOPBACK:
        raise SettingInvalid(
            "api_host: plain HTTP is for loopback only", hint="let a TLS proxy stand before it"
        )
    client, deliverer = (QuestionClient(socket_path, ENGINE_TIMEOUT_S) for _ in range(2))
    api = Api(client, DeskKeys(desk_path), clock or SystemClock(), deliverer=deliverer)
    runner = web.AppRunner(api.make_app(), access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    server: asyncio.Server | None = None
    try:
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: make_protocol(runner), host, port
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
        api.close()
        await runner.cleanup()
        await client.close()
        await deliverer.close()


def _as(reply: Reply, kind: type[R]) -> R:
    """Raises EngineUnreachable."""
    if not isinstance(reply, kind):
        raise EngineUnreachable("the engine gave another kind of answer")
    return reply


def _day(request: web.Request) -> int:
    """Raises QuestionInvalid."""
    try:
        day = date_to_day(request.query.get("day", ""))
    except ValueError:
        raise QuestionInvalid("day is a date such as 2021-07-01") from None
    if day < 0:
        raise QuestionInvalid("there are no days before 1970")
    return day


def _search(request: web.Request) -> dict[str, Any]:
    """Raises QuestionInvalid."""
    text, limit = request.query.get("search", ""), request.query.get("limit", "50")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= 1000:
        raise QuestionInvalid("limit is a number from 1 to 1000")
    if len(text) > 64:
        raise QuestionInvalid("search has at most 64 characters")
    return {"text": text, "limit": int(limit)}


def _why(request: web.Request, body: TraceBody | CaseBody) -> dict[str, Any]:
    return {"token": read_token(request), "purpose": body.purpose, "case": body.case}


def _common(request: web.Request, body: TraceBody | AlertsBody) -> dict[str, Any]:
    return {
        **_why(request, body),
        "from_ms": when_to_ms(body.start),
        "to_ms": when_to_ms(body.end),
        "limit": body.limit,
        "is_unmasked": body.unmasked,
    }


def _lines_to_records(lines: Iterable[Line]) -> list[bytes]:
    """Raises LineInvalid, which names the record by its position."""
    records = []
    for n, line in enumerate(lines):
        try:
            records.append(parsed_to_record(line, lane=0))
        except LineInvalid as error:
            raise LineInvalid(f"record {n}: {error}") from None
    return records
