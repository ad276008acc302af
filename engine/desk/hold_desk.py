"""The desk of holds: who may keep days beyond their time, for which case, until when; audited."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from engine.clock import DAY_MS, ms_to_day
from engine.desk.clerk import Clerk, check_reason
from engine.desk.keeping_questions import (
    AskHolds,
    AskRetention,
    HoldAdd,
    HoldEnd,
    HoldEntries,
    HoldInfo,
    RetentionDone,
    RetentionState,
    RunRetention,
)
from engine.desk.question_socket import Handler, Peer
from engine.desk.questions import persons_to_keys
from engine.errors import NotFound, QuestionInvalid
from engine.keeping.holds import (
    ADD_KIND,
    DAYS_MAX,
    END_KIND,
    HOLDS_MAX,
    DaysOf,
    Hold,
    Holds,
    end_to_body,
    hold_to_body,
)
from engine.keeping.retention import Retention
from engine.registry.access import Question

_RIGHT: Final = Question.HOLD


class HoldDesk:
    """One instance an engine; used from its event loop. days_max: how long a hold may last."""

    def __init__(
        self,
        clerk: Clerk,
        holds: Holds,
        retention: Retention,
        days_of: DaysOf,
        *,
        retention_days: int,
        days_max: int,
    ) -> None:
        self._clerk = clerk
        self._holds = holds
        self._retention = retention
        self._days_of = days_of
        self._retention_days = retention_days
        self._days_max = days_max

    def handlers(self) -> dict[type, Handler]:
        return {
            HoldAdd: self._add,
            HoldEnd: self._end,
            AskHolds: self._list,
            AskRetention: self._state,
            RunRetention: self._run,
        }

    async def _add(self, ask: Any, _peer: Peer) -> HoldEntries:
        assert isinstance(ask, HoldAdd)
        grant = await self._clerk.grant(ask, _RIGHT)
        now_ms = self._clerk.clock.now_ms()
        self._check(ask, now_ms)
        hold = Hold(
            number=0,
            case=ask.case,
            reason=check_reason(ask.reason),
            first_day=ask.first_day,
            last_day=ask.last_day,
            persons=tuple(persons_to_keys(ask.persons, self._clerk.keyring)),
            until_ms=ask.until_ms,
            who=grant.name,
            role=grant.role,
            unit=grant.unit,
            at_ms=now_ms,
        )
        said: dict[str, str | int] = {"until_ms": ask.until_ms}
        if ask.first_day is not None and ask.last_day is not None:
            said |= {"first_day": ask.first_day, "last_day": ask.last_day}
        await self._clerk.record(grant, ask, _RIGHT, "add", said, persons=hold.persons, rows=1)
        body = hold_to_body(hold, self._clerk.keyring)
        number = await self._clerk.append(ADD_KIND, grant.name, body, now_ms)
        hold = msgspec.structs.replace(hold, number=number)
        self._holds.put(hold)
        return await self._entries([hold])

    def _check(self, ask: HoldAdd, now_ms: int) -> None:
        """Raises QuestionInvalid."""
        if not now_ms < ask.until_ms <= now_ms + self._days_max * DAY_MS:
            raise QuestionInvalid(
                f"a hold ends in the future, in {self._days_max} days at most",
                hint="when it is nearly over, set another one",
            )
        has_days = ask.first_day is not None and ask.last_day is not None
        if has_days == bool(ask.persons) or (ask.first_day is None) != (ask.last_day is None):
            raise QuestionInvalid("a hold names days, first and last, or a person")
        if ask.first_day is not None and ask.last_day is not None:
            if not 0 <= ask.last_day - ask.first_day < DAYS_MAX:
                raise QuestionInvalid(f"a hold keeps 1 to {DAYS_MAX} days, first and last")
            if ask.last_day < ms_to_day(now_ms) - self._retention_days:
                raise QuestionInvalid("these days are forgotten already")
        if len(self._holds) >= HOLDS_MAX:
            raise QuestionInvalid("there are too many holds", hint="end what is over")

    async def _end(self, ask: Any, _peer: Peer) -> HoldEntries:
        assert isinstance(ask, HoldEnd)
        grant = await self._clerk.grant(ask, _RIGHT)
        hold = self._holds.get(ask.number)
        if hold is None:
            raise NotFound("there is no such hold")
        said: dict[str, str | int] = {"number": ask.number}
        await self._clerk.record(grant, ask, _RIGHT, "end", said, persons=hold.persons, rows=1)
        body = end_to_body(ask.number, case=hold.case, role=grant.role, unit=grant.unit)
        await self._clerk.append(END_KIND, grant.name, body, self._clerk.clock.now_ms())
        entries = await self._entries([hold])
        self._holds.drop(ask.number)
        return entries

    async def _list(self, ask: Any, _peer: Peer) -> HoldEntries:
        assert isinstance(ask, AskHolds)
        grant = await self._clerk.grant(ask, _RIGHT)
        found = self._holds.in_force(self._clerk.clock.now_ms())
        persons = [key for hold in found for key in hold.persons]
        await self._clerk.record(grant, ask, _RIGHT, "list", persons=persons, rows=len(found))
        return await self._entries(found)

    async def _state(self, _ask: Any, _peer: Peer) -> RetentionState:
        now_ms = self._clerk.clock.now_ms()
        entries = await self._entries(self._holds.in_force(now_ms))
        return RetentionState(
            now_ms=now_ms,
            retention_days=self._retention_days,
            holds=entries.holds,
            held=await self._retention.held(),
        )

    async def _run(self, _ask: Any, _peer: Peer) -> RetentionDone:
        done = await self._retention.run()
        return RetentionDone(groups=done.groups, days=list(done.days), held=list(done.held))

    async def _entries(self, holds: list[Hold]) -> HoldEntries:
        return HoldEntries(await asyncio.to_thread(holds_to_infos, holds, self._days_of))


def holds_to_infos(holds: list[Hold], days_of: DaysOf) -> tuple[HoldInfo, ...]:
    """Any thread."""
    return tuple(
        HoldInfo(
            number=hold.number,
            case=hold.case,
            reason=hold.reason,
            first_day=hold.first_day,
            last_day=hold.last_day,
            persons=hold.persons,
            until_ms=hold.until_ms,
            who=hold.who,
            unit=hold.unit,
            at_ms=hold.at_ms,
            days=tuple(sorted(hold.days(days_of))),
        )
        for hold in holds
    )
