"""The desk of the watch list: who may put persons on it, take them off and read it; all audited."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from engine.clock import Clock
from engine.desk.ask_bases import AskCase
from engine.desk.audits import Append, Audits
from engine.desk.questions import (
    AskWatched,
    Listed,
    WatchAdd,
    Watched,
    WatchEntries,
    WatchRemove,
    persons_to_keys,
)
from engine.errors import NotFound, QuestionInvalid
from engine.identity.keys import KeyRing
from engine.identity.watch import (
    ADD_KIND,
    ENTRIES_MAX,
    REMOVE_KIND,
    SPAN_MAX_MS,
    WatchEntry,
    WatchKind,
    WatchList,
    entry_to_body,
    removal_to_body,
)
from engine.registry import access
from engine.registry.access import AREA_BOUND, Grant
from engine.registry.registry import Registry
from engine.scans.rows import Flag

_PERSONAL: Final = re.compile(r"[0-9][0-9 .-]{7,}[0-9]")  # a phone, a card: no reason


class WatchDesk:
    """One instance an engine; used from its event loop. append: ControlLog.append."""

    def __init__(
        self,
        registry: Registry,
        watch: WatchList,
        keyring: KeyRing,
        append: Append,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._watch = watch
        self._keyring = keyring
        self._append = append
        self._clock = clock
        self._audits = Audits(registry, keyring, append, clock)

    async def answer(self, ask: WatchAdd | WatchRemove | AskWatched) -> WatchEntries:
        """Raises AccessDenied, TokenInvalid, QuestionInvalid, NotFound, StorageError."""
        grant, _ = await self._audits.grant(ask, access.Question.WATCH)
        match ask:
            case WatchAdd():
                return await self._add(grant, ask)
            case WatchRemove():
                return await self._remove(grant, ask)
            case AskWatched():
                found = [e for e in self._watch.entries() if _may_see(grant, e)]
                await self._audit(grant, ask, "list", found)
                return WatchEntries(tuple(map(_entry_to_watched, found)))

    def explain(self, grant: Grant, rows: np.ndarray) -> tuple[Listed, ...]:
        """Of rows of engine.colocation.alerts.ALERT: the entries that were in force then, as far as
        they are still on the list and the grant may see them."""
        at = np.flatnonzero(rows["flags"] & Flag.LISTED)
        listed = rows[at]
        persons, times_ms = listed["person"].tolist(), listed["time_ms"].tolist()
        return tuple(
            Listed(i, entry.number, entry.kind, entry.case)
            for i, person, time_ms in zip(at.tolist(), persons, times_ms, strict=True)
            for entry in self._watch.find(person, time_ms)
            if _may_see(grant, entry)
        )

    async def _add(self, grant: Grant, ask: WatchAdd) -> WatchEntries:
        now_ms = self._clock.now_ms()
        from_ms = now_ms if ask.from_ms is None else ask.from_ms
        if not max(from_ms, now_ms) < ask.to_ms <= from_ms + SPAN_MAX_MS:
            raise QuestionInvalid("an entry ends in the future, at most 366 days after it begins")
        if _PERSONAL.search(ask.reason):
            raise QuestionInvalid("the reason holds what looks like somebody's number")
        if len(self._watch) >= ENTRIES_MAX:
            raise QuestionInvalid("the watch list is full", hint="take off what is over")
        entry = WatchEntry(
            number=0,
            kind=WatchKind(ask.kind),
            persons=tuple(persons_to_keys(ask.persons, self._keyring)),
            reason=ask.reason,
            case=ask.case,
            purpose=ask.purpose,
            who=grant.name,
            role=grant.role,
            unit=grant.unit,
            from_ms=from_ms,
            to_ms=ask.to_ms,
            at_ms=now_ms,
        )
        await self._audit(grant, ask, "add", [entry])
        body = entry_to_body(entry, self._keyring)
        number = await self._append(ADD_KIND, grant.name, body, now_ms)
        entry = msgspec.structs.replace(entry, number=number)
        self._watch.put(entry)
        return WatchEntries((_entry_to_watched(entry),))

    async def _remove(self, grant: Grant, ask: WatchRemove) -> WatchEntries:
        entry = self._watch.get(ask.number)
        if entry is None or not _may_see(grant, entry):
            raise NotFound("there is no such entry on the watch list")
        await self._audit(grant, ask, "remove", [entry])
        body = removal_to_body(
            ask.number, case=ask.case, purpose=ask.purpose, role=grant.role, unit=grant.unit
        )
        await self._append(REMOVE_KIND, grant.name, body, self._clock.now_ms())
        self._watch.drop(ask.number)
        return WatchEntries((_entry_to_watched(entry),))

    async def _audit(
        self, grant: Grant, ask: AskCase, action: str, entries: Iterable[WatchEntry]
    ) -> None:
        """Durable when it returns, and before anything is done or told."""
        found = list(entries)
        persons = [key for entry in found for key in entry.persons]
        numbers = " ".join(str(entry.number) for entry in found if entry.number)
        await self._audits.note(
            grant, ask, access.Question.WATCH, action, persons=persons, rows=len(found),
            parameters={"numbers": numbers[:4096]},
        )  # fmt: skip


def _may_see(grant: Grant, entry: WatchEntry) -> bool:
    """A role bound to an area has what its own unit put there."""
    return grant.role not in AREA_BOUND or grant.unit == entry.unit


def _entry_to_watched(entry: WatchEntry) -> Watched:
    return Watched(
        number=entry.number,
        kind=entry.kind,
        persons=entry.persons,
        reason=entry.reason,
        case=entry.case,
        who=entry.who,
        unit=entry.unit,
        from_ms=entry.from_ms,
        to_ms=entry.to_ms,
        at_ms=entry.at_ms,
    )
