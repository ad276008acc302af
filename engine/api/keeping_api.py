"""The HTTP API of what is kept: holds, corrections, a person's own data; handlers by route name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from aiohttp import web

from engine.api.alert_answers import CaseBody
from engine.api.answers import when_to_ms
from engine.api.http_shape import read_token, to_response
from engine.api.keeping_answers import (
    AskedAnswer,
    CorrectionBody,
    HoldAddBody,
    NumberBody,
    RequestBody,
    corrections_to_answer,
    data_to_answer,
    entry_to_asked,
    erased_to_answer,
    hold_to_answer,
    holds_to_answer,
    text_to_day,
)
from engine.api.opened_details import DetailsOpener, Opener
from engine.clock import Clock
from engine.desk import keeping_questions as asks
from engine.desk.questions import Question, Reply
from engine.errors import EngineUnreachable, InputError
from engine.registry import access
from engine.telemetry import Log

_log = Log("api")
_KEY_SIZE = 16
B = TypeVar("B", bound=msgspec.Struct)
R = TypeVar("R")


class ReadBody(Protocol):
    def __call__(self, request: web.Request, kind: type[B]) -> Awaitable[B]: ...


class KeepingApi:
    """ask: asks the engine. body: reads what was sent, for its type."""

    def __init__(
        self,
        ask: Callable[[Question], Awaitable[Reply]],
        body: ReadBody,
        details: DetailsOpener,
        opener: Opener,
        clock: Clock,
    ) -> None:
        self._send = ask
        self._body = body
        self._details = details
        self._opener = opener
        self._clock = clock

    async def hold_add(self, request: web.Request) -> web.Response:
        body = await self._body(request, HoldAddBody)
        ask = asks.HoldAdd(
            **_why(request, body),
            first_day=text_to_day(body.first_day),
            last_day=text_to_day(body.last_day),
            persons=() if body.person is None else (body.person, *body.aliases),
            until_ms=when_to_ms(body.until),
            reason=body.reason,
        )
        (hold,) = (await self._ask(ask, asks.HoldEntries)).holds
        return to_response(hold_to_answer(hold))

    async def hold_end(self, request: web.Request) -> web.Response:
        body = await self._body(request, NumberBody)
        ask = asks.HoldEnd(**_why(request, body), number=body.number)
        (hold,) = (await self._ask(ask, asks.HoldEntries)).holds
        return to_response(hold_to_answer(hold))

    async def hold_list(self, request: web.Request) -> web.Response:
        ask = asks.AskHolds(**_why(request, await self._body(request, CaseBody)))
        return to_response(holds_to_answer(await self._ask(ask, asks.HoldEntries)))

    async def correction_add(self, request: web.Request) -> web.Response:
        body = await self._body(request, CorrectionBody)
        ask = asks.CorrectStay(
            **_why(request, body),
            persons=(body.person, *body.aliases),
            place=body.place,
            inside_ms=when_to_ms(body.at),
            start_ms=None if body.start is None else when_to_ms(body.start),
            end_ms=None if body.end is None else when_to_ms(body.end),
            reason=body.reason,
        )
        found = corrections_to_answer(await self._ask(ask, asks.CorrectionEntries))
        return to_response(found.corrections[0])

    async def correction_undo(self, request: web.Request) -> web.Response:
        body = await self._body(request, NumberBody)
        ask = asks.UndoCorrection(**_why(request, body), number=body.number)
        found = corrections_to_answer(await self._ask(ask, asks.CorrectionEntries))
        return to_response(found.corrections[0])

    async def correction_list(self, request: web.Request) -> web.Response:
        ask = asks.AskCorrections(**_why(request, await self._body(request, CaseBody)))
        return to_response(corrections_to_answer(await self._ask(ask, asks.CorrectionEntries)))

    async def person_export(self, request: web.Request) -> web.Response:
        body = await self._body(request, RequestBody)
        ask = asks.ExportPerson(**_why(request, body), persons=(body.person, *body.aliases))
        found = await self._ask(ask, asks.PersonData)
        refs: list[int] = np.frombuffer(found.refs, "<u8").tolist()
        details = await self._details.open(refs, found.audit, ask.token)
        asked = await self._asked(found, ask.token)
        now_ms = self._clock.now_ms()
        return await asyncio.to_thread(
            lambda: to_response(data_to_answer(found, details, asked, now_ms))
        )

    async def person_erase(self, request: web.Request) -> web.Response:
        body = await self._body(request, RequestBody)
        ask = asks.ErasePerson(**_why(request, body), persons=(body.person, *body.aliases))
        found = await self._ask(ask, asks.PersonErased)
        self._details.forget()
        return to_response(erased_to_answer(found))

    async def _asked(self, found: asks.PersonData, token: str) -> list[AskedAnswer]:
        """Who looked at this person, from the audit; the export itself is not among them."""
        asked: list[AskedAnswer] = []
        after, keys = 0, frozenset(found.persons)
        while True:
            ask = asks.FetchAsked(token=token, audit=found.audit, after=after)
            page = await self._ask(ask, asks.AuditPage)
            asked += await asyncio.to_thread(self._of, page, keys, found.audit)
            if not page.next:
                return asked
            after = page.next

    def _of(self, page: asks.AuditPage, keys: Collection[bytes], export: int) -> list[AskedAnswer]:
        """The records of a page that are about one of the keys. In a thread."""
        found = []
        for lsn, at_ms, body in page.records:
            entry = access.body_to_entry(body)
            if lsn == export or not entry.sealed_persons:
                continue
            try:
                aad = access.digest_to_aad(entry.digest)
                plain = self._opener.open_audit(entry.sealed_persons, aad)
            except InputError as error:
                _log.warning("audit record not opened", code=error.code, lsn=lsn)
                continue
            persons = {plain[i : i + _KEY_SIZE] for i in range(0, len(plain), _KEY_SIZE)}
            if not persons.isdisjoint(keys):
                found.append(entry_to_asked(lsn, at_ms, entry))
        return found

    async def _ask(self, question: Question, kind: type[R]) -> R:
        reply = await self._send(question)
        if not isinstance(reply, kind):
            raise EngineUnreachable("the engine gave another kind of answer")
        return reply


def _why(request: web.Request, body: CaseBody) -> dict[str, Any]:
    return {"token": read_token(request), "purpose": body.purpose, "case": body.case}
