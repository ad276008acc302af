"""The clerk of the desks of what is kept: who asks, may they, and the record of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from engine.clock import Clock
from engine.desk.ask_bases import AskCase
from engine.desk.audits import Append, Audits
from engine.errors import QuestionInvalid
from engine.identity.keys import KeyRing
from engine.registry import access
from engine.registry.access import Grant
from engine.registry.registry import Registry

_PERSONAL: Final = re.compile(r"[0-9][0-9 .-]{7,}[0-9]")  # a phone, a card: no reason


class Clerk:
    """Used from the engine's event loop. append: ControlLog.append."""

    def __init__(self, registry: Registry, keyring: KeyRing, append: Append, clock: Clock) -> None:
        self.append = append
        self.clock = clock
        self.keyring = keyring
        self._audits = Audits(registry, keyring, append, clock)

    async def grant(self, ask: AskCase, right: access.Question) -> Grant:
        """Raises TokenInvalid and AccessDenied."""
        grant, _ = await self._audits.grant(ask, right)
        return grant

    async def record(
        self,
        grant: Grant,
        ask: AskCase,
        right: access.Question,
        action: str,
        parameters: dict[str, str | int] | None = None,
        *,
        persons: Iterable[bytes] = (),
        rows: int = 0,
    ) -> int:
        """Durable when it returns, and before anything is done or told; its number.

        persons: keys of whoever was looked at; they are sealed.
        """
        return await self._audits.note(
            grant, ask, right, action, persons=persons, rows=rows, parameters=parameters
        )


def check_reason(reason: str) -> str:
    """Raises QuestionInvalid for one that looks like somebody's number."""
    if _PERSONAL.search(reason):
        raise QuestionInvalid("the reason holds what looks like somebody's number")
    return reason
