"""Answers as a stream of CSV: page after page of the engine, in constant memory.

Each page is a question with its own audit record. What is known of the whole stands in the headers,
which come first; where every row was asked for and some are missing, the last line says so; and a
stream that breaks is not ended, so that whoever reads it is told by HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from engine.api.answers import ROWS_MAX, complete
from engine.api.csv_rows import head, page_to_csv
from engine.desk import questions
from engine.errors import EngineError
from engine.scans.people import Details
from engine.telemetry import Log
from engine.tracing.rows import unpack
from engine.tracing.tracer import KEY_SIZE

PERSONS_MAX: Final = 10_000  # of one stream; beyond, a second person has to agree
TYPE: Final = "text/csv; charset=utf-8"

_log = Log("csv")
_Ask = Callable[[questions.Question, type[questions.Traced]], Awaitable[questions.Traced]]
_Open = Callable[[list[int], int, str, questions.Details | None], Awaitable[list[Details | None]]]


def wants_csv(request: web.Request) -> bool:
    return request.headers.get("Accept", "").partition(";")[0].strip() == "text/csv"


class CsvStream:
    """One answer. ask: of the engine; open_details: of the refs of an answer; headers: of all."""

    def __init__(self, ask: _Ask, open_details: _Open, headers: Mapping[str, str]) -> None:
        self._ask = ask
        self._open = open_details
        self._headers = headers

    async def send(
        self, request: web.Request, question: questions.Pageable, has_all: bool
    ) -> web.StreamResponse:
        """has_all: every row, in place of the question's limit. Raises what the first page does."""
        if has_all:
            question = msgspec.structs.replace(question, limit=ROWS_MAX)
        traced = await self._ask(question, questions.Traced)
        body = head(_name(question)) + await self._write(traced, question)
        known = {**self._headers, **_headers(traced)}
        if not has_all:
            known["Chot-Limit-Cut"] = str(traced.answer.limit_cut).lower()
        response = web.StreamResponse(headers=known)
        await response.prepare(request)
        await response.write(body)
        persons = _persons(traced)
        rows = _rows(traced)
        while has_all and traced.answer.next and len(persons) <= PERSONS_MAX:
            question = msgspec.structs.replace(question, after=traced.answer.next)
            try:
                traced = await self._ask(question, questions.Traced)
                body = await self._write(traced, question)
            except EngineError as error:
                _log.warning("an answer broke off", code=error.code)
                if request.transport is not None:
                    request.transport.abort()
                return response
            persons |= _persons(traced)
            rows += _rows(traced)
            await response.write(body)
        if has_all and traced.answer.limit_cut:
            total = traced.answer.total
            cut = f"# {rows} of {total} rows: cut by more than {PERSONS_MAX} persons\r\n"
            await response.write(cut.encode())
        await response.write_eof()
        return response

    async def _write(self, traced: questions.Traced, question: questions.Pageable) -> bytes:
        refs = unpack(traced.answer.packed, "newest").tolist()
        details = await self._open(refs, traced.audit, question.token, traced.details)
        # Ten thousand rows take a while to write down; other requests go on meanwhile.
        return await asyncio.to_thread(
            page_to_csv, _name(question), traced, details, not question.is_unmasked
        )


def _name(question: questions.Pageable) -> str:
    return str(question.__struct_config__.tag)


def _persons(traced: questions.Traced) -> set[bytes]:
    keys, size = traced.answer.persons, KEY_SIZE
    return {keys[i : i + size] for i in range(0, len(keys), size)}


def _rows(traced: questions.Traced) -> int:
    return len(unpack(traced.answer.packed, "visits"))


def _headers(traced: questions.Traced) -> dict[str, Any]:
    known = complete(traced.answer.completeness)
    behind = "; ".join(f"{name}={seconds:g}" for name, seconds in known.behind.items())
    return {
        "Content-Type": TYPE,
        "Chot-Rows": str(traced.answer.total),
        "Chot-Complete-Up-To": known.up_to,
        "Chot-Complete-Group": str(known.group),
        "Chot-Behind": behind,
        "Chot-Area": traced.area,
        "Chot-Audit": str(traced.audit),
    }
