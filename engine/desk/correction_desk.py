"""The desk of corrections: who may give stays another end or begin, and take it back; audited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from engine.clock import DAY_MS
from engine.colocation.corrections import (
    ADD_KIND,
    CORRECTIONS_MAX,
    UNDO_KIND,
    Correction,
    CorrectionBook,
    Corrections,
    correction_to_body,
    undo_to_body,
)
from engine.colocation.index import Snapshot
from engine.desk.ask_parts import PlaceInfo
from engine.desk.asks import place_number
from engine.desk.clerk import Clerk, check_reason
from engine.desk.keeping_questions import (
    AskCorrections,
    CorrectionEntries,
    CorrectionInfo,
    CorrectStay,
    UndoCorrection,
)
from engine.desk.question_socket import Handler, Peer
from engine.desk.questions import persons_to_keys
from engine.errors import NotFound, QuestionInvalid
from engine.presence.visits import VisitFlag
from engine.registry.access import Question
from engine.registry.registry import Registry

_RIGHT: Final = Question.CORRECT
_NEAR_MS: Final = 3 * DAY_MS  # a stay that has an instant in it begins and ends nearer


class CorrectionDesk:
    """One instance an engine; used from its event loop.

    use: makes the index take corrections in. infos: places by number, as answers name them.
    """

    def __init__(
        self,
        clerk: Clerk,
        book: CorrectionBook,
        registry: Registry,
        snapshot: Callable[[], Snapshot],
        use: Callable[[Corrections], Awaitable[None]],
        infos: Callable[[Sequence[int]], tuple[PlaceInfo, ...]],
    ) -> None:
        self._clerk = clerk
        self._book = book
        self._registry = registry
        self._snapshot = snapshot
        self._use = use
        self._infos = infos

    def handlers(self) -> dict[type, Handler]:
        return {CorrectStay: self._add, UndoCorrection: self._undo, AskCorrections: self._list}

    async def _add(self, ask: Any, _peer: Peer) -> CorrectionEntries:
        assert isinstance(ask, CorrectStay)
        grant = await self._clerk.grant(ask, _RIGHT)
        now_ms = self._clerk.clock.now_ms()
        one = Correction(
            number=0,
            persons=tuple(persons_to_keys(ask.persons, self._clerk.keyring)),
            place=place_number(ask.place, self._registry),
            inside_ms=ask.inside_ms,
            start_ms=ask.start_ms,
            end_ms=ask.end_ms,
            reason=check_reason(ask.reason),
            case=ask.case,
            who=grant.name,
            role=grant.role,
            unit=grant.unit,
            at_ms=now_ms,
        )
        if len(self._book.corrections) >= CORRECTIONS_MAX:
            raise QuestionInvalid("there are too many corrections", hint="undo what is over")
        one = await asyncio.to_thread(self._placed, one)
        _check(one)
        said: dict[str, str | int] = {"place": one.place}
        await self._clerk.record(grant, ask, _RIGHT, "add", said, persons=one.persons, rows=1)
        body = correction_to_body(one, self._clerk.keyring)
        number = await self._clerk.append(ADD_KIND, grant.name, body, now_ms)
        one = msgspec.structs.replace(one, number=number)
        await self._put(self._book.corrections.having(one))
        return self._entries([one])

    def _placed(self, one: Correction) -> Correction:
        """With an instant that lies in the stay as the scans give it: one that was corrected before
        is named by the instant of then. Raises NotFound. In a thread."""
        span = one.inside_ms - _NEAR_MS, one.inside_ms + _NEAR_MS
        for visit in self._snapshot().history(one.persons, *span, places=[one.place]).visits:
            start_ms, end_ms = int(visit["start_ms"]), int(visit["end_ms"])
            if not start_ms <= one.inside_ms < end_ms or visit["flags"] & VisitFlag.PASSAGE:
                continue
            for other in (c for key in one.persons for c in self._book.corrections.of(key)):
                if other.place == one.place and start_ms <= other.inside_ms < end_ms:
                    return msgspec.structs.replace(one, inside_ms=other.inside_ms)
            return one
        raise NotFound(
            "this person has no stay at this place then",
            hint="give an instant inside of the stay, as `chot trace person` shows it",
        )

    async def _undo(self, ask: Any, _peer: Peer) -> CorrectionEntries:
        assert isinstance(ask, UndoCorrection)
        grant = await self._clerk.grant(ask, _RIGHT)
        one = self._book.corrections.get(ask.number)
        if one is None:
            raise NotFound("there is no such correction")
        said: dict[str, str | int] = {"number": ask.number}
        await self._clerk.record(grant, ask, _RIGHT, "undo", said, persons=one.persons, rows=1)
        body = undo_to_body(ask.number, case=one.case, role=grant.role, unit=grant.unit)
        await self._clerk.append(UNDO_KIND, grant.name, body, self._clerk.clock.now_ms())
        await self._put(self._book.corrections.without({ask.number}))
        return self._entries([one])

    async def _list(self, ask: Any, _peer: Peer) -> CorrectionEntries:
        assert isinstance(ask, AskCorrections)
        grant = await self._clerk.grant(ask, _RIGHT)
        found = self._book.corrections.all()
        persons = [key for one in found for key in one.persons]
        await self._clerk.record(grant, ask, _RIGHT, "list", persons=persons, rows=len(found))
        return self._entries(found)

    async def _put(self, corrections: Corrections) -> None:
        self._book.corrections = corrections
        await self._use(corrections)

    def _entries(self, found: list[Correction]) -> CorrectionEntries:
        infos = tuple(map(correction_to_info, found))
        return CorrectionEntries(infos, self._infos([one.place for one in found]))


def correction_to_info(one: Correction) -> CorrectionInfo:
    return CorrectionInfo(
        number=one.number,
        persons=one.persons,
        place=one.place,
        inside_ms=one.inside_ms,
        start_ms=one.start_ms,
        end_ms=one.end_ms,
        reason=one.reason,
        case=one.case,
        who=one.who,
        unit=one.unit,
        at_ms=one.at_ms,
    )


def _check(one: Correction) -> None:
    """Raises QuestionInvalid."""
    if one.start_ms is None and one.end_ms is None:
        raise QuestionInvalid("a correction gives a stay another end, or another begin")
    start_ms = one.inside_ms if one.start_ms is None else one.start_ms
    end_ms = one.inside_ms + 1 if one.end_ms is None else one.end_ms
    if not start_ms <= one.inside_ms < end_ms:
        raise QuestionInvalid("the stay would no longer have the instant in it that names it")
    if end_ms - start_ms > DAY_MS:
        raise QuestionInvalid("nobody stays longer than 24 hours in one stay")
