"""The desk of merges and reviews: who may say that two keys are one person, and take it back.

The order is the rule: may they, is it sound, the audit record, the control record, and only then
the index is told. One change at a time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from engine.clock import Clock
from engine.colocation.alerts import Alerts
from engine.colocation.reviews import find_reviews
from engine.desk.audits import Append, Audits
from engine.desk.questions import (
    AskMerges,
    AskReviews,
    MergeAdd,
    Merged,
    MergeEntries,
    MergeUndo,
    ReviewClose,
    Reviews,
    persons_to_keys,
)
from engine.errors import NotFound, QuestionInvalid
from engine.identity.keys import KeyRing
from engine.identity.merges import (
    ADD_KIND,
    KEYS_MAX,
    MERGES_MAX,
    REOPEN_KIND,
    REVIEW_KIND,
    UNDO_KIND,
    Merge,
    Merges,
    merge_to_body,
)
from engine.registry import access
from engine.registry.access import AREA_BOUND, Grant
from engine.registry.registry import Registry

_PERSONAL: Final = re.compile(r"[0-9][0-9 .-]{7,}[0-9]")  # a phone, a card: no reason
_MERGE, _REVIEW = access.Question.MERGE, access.Question.REVIEW


class MergeDesk:
    """One instance an engine; used from its event loop."""

    def __init__(
        self,
        registry: Registry,
        merges: Merges,
        reviews: Alerts,
        keyring: KeyRing,
        append: Append,
        clock: Clock,
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        """reviews: rows flagged for review. on_change: told after each change of the merges."""
        self._registry = registry
        self._merges = merges
        self._reviews = reviews
        self._keyring = keyring
        self._append = append
        self._clock = clock
        self._on_change = on_change
        self._audits = Audits(registry, keyring, append, clock)
        self._changing = asyncio.Lock()

    async def answer(self, ask: MergeAdd | MergeUndo | AskMerges | ReviewClose) -> MergeEntries:
        """Raises AccessDenied, TokenInvalid, QuestionInvalid, NotFound, StorageError."""
        is_review = isinstance(ask, ReviewClose)
        grant, _ = await self._audits.grant(ask, _REVIEW if is_review else _MERGE)
        match ask:
            case MergeAdd():
                return await self._add(grant, ask)
            case MergeUndo():
                return await self._undo(grant, ask)
            case AskMerges():
                found = [merge for merge in self._merges.entries() if _may_see(grant, merge)]
                persons = [key for merge in found for key in merge.persons]
                await self._audits.note(
                    grant, ask, _MERGE, "list", persons=persons, rows=len(found)
                )
                return MergeEntries(tuple(map(_merge_to_merged, found)))
            case ReviewClose():
                return await self._close(grant, ask)

    async def _add(self, grant: Grant, ask: MergeAdd) -> MergeEntries:
        merge = self._new(grant, ask, persons_to_keys(ask.persons, self._keyring))
        merge = msgspec.structs.replace(
            merge, documents=tuple(person.kind for person in ask.persons)
        )
        async with self._changing:
            self._check(merge)
            persons = list(merge.persons)
            await self._audits.note(grant, ask, _MERGE, "add", persons=persons, rows=1)
            body = merge_to_body(merge, self._keyring)
            number = await self._append(ADD_KIND, grant.name, body, merge.at_ms)
            merge = msgspec.structs.replace(merge, number=number)
            self._merges.put(merge)
            await self._on_change()
        return MergeEntries((_merge_to_merged(merge),))

    def _check(self, merge: Merge) -> None:
        """Raises QuestionInvalid for what would say nothing, or too much."""
        if len(merge.persons) < 2:
            raise QuestionInvalid("a merge needs two documents of one person at least")
        aliases = self._merges.aliases()
        members = {key for person in merge.persons for key in aliases.all_of(person)}
        if len({aliases.main_of(person) for person in merge.persons}) == 1:
            raise QuestionInvalid("these documents are one person already")
        if len(members) > KEYS_MAX:
            raise QuestionInvalid(
                f"a person has at most {KEYS_MAX} documents", hint="undo what was merged wrongly"
            )
        if len(self._merges) >= MERGES_MAX:
            raise QuestionInvalid("there are more merges than the engine keeps")

    async def _undo(self, grant: Grant, ask: MergeUndo) -> MergeEntries:
        async with self._changing:
            merge = self._merges.get(ask.number)
            if merge is None or not _may_see(grant, merge):
                raise NotFound("there is no such merge")
            undone = self._new(grant, ask, merge.persons)
            await self._audits.note(
                grant, ask, _MERGE, "undo", persons=merge.persons, rows=1,
                parameters={"number": ask.number},
            )  # fmt: skip
            body = merge_to_body(undone, self._keyring, ask.number)
            await self._append(UNDO_KIND, grant.name, body, undone.at_ms)
            self._merges.drop(ask.number)
            await self._on_change()
        return MergeEntries((_merge_to_merged(merge),))

    def _new(self, grant: Grant, ask: MergeAdd | MergeUndo | ReviewClose, persons: Any) -> Merge:
        """What somebody says about these keys now. Raises QuestionInvalid."""
        if not ask.why.strip():
            raise QuestionInvalid("say why, as in: both documents seen, same photo")
        if _PERSONAL.search(ask.why):
            raise QuestionInvalid("the reason holds what looks like somebody's number")
        return Merge(
            number=0, persons=tuple(persons), documents=(), why=ask.why, case=ask.case,
            purpose=ask.purpose, who=grant.name, role=grant.role, unit=grant.unit,
            at_ms=self._clock.now_ms(),
        )  # fmt: skip

    # ---- reviews ----------------------------------------------------------------------------

    async def _close(self, grant: Grant, ask: ReviewClose) -> MergeEntries:
        """Settles a person's flagged rows, those that are still to come too; or takes that back."""
        merge = self._new(grant, ask, persons_to_keys([ask.person], self._keyring))
        action, kind = ("reopen", REOPEN_KIND) if ask.is_reopened else ("close", REVIEW_KIND)
        async with self._changing:
            await self._audits.note(grant, ask, _REVIEW, action, persons=merge.persons, rows=1)
            body = merge_to_body(merge, self._keyring)
            number = await self._append(kind, grant.name, body, merge.at_ms)
            if ask.is_reopened:
                self._merges.settled.difference_update(merge.persons)
            else:
                self._merges.settled.update(merge.persons)
        return MergeEntries((_merge_to_merged(msgspec.structs.replace(merge, number=number)),))

    async def reviews(
        self, ask: AskReviews, run: Callable[..., Awaitable[Any]], limit_max: int
    ) -> tuple[Reviews, frozenset[int]]:
        """Persons whose rows wait for somebody to look at, and the refs of their details.

        run: does work in a thread. The places are filled in by the caller.
        """
        grant, area = await self._audits.grant(ask, _REVIEW, is_unmasked=ask.is_unmasked)
        if not ask.from_ms < ask.to_ms:
            raise QuestionInvalid("the span ends before it begins")
        within = self._registry.places_within(area) if area else None
        done = self._merges.aliases().keys() | self._merges.settled
        parts = self._reviews.parts()
        found = await run(find_reviews, parts, ask.from_ms, ask.to_ms, within, done)
        shown = found[: min(ask.limit, limit_max)]
        audit = await self._audits.note(
            grant, ask, _REVIEW, "list", persons=shown["person"].tolist(), rows=len(shown),
            parameters={"from_ms": ask.from_ms, "to_ms": ask.to_ms, "limit": ask.limit},
            is_unmasked=ask.is_unmasked,
        )  # fmt: skip
        reply = Reviews(rows=shown.tobytes(), total=len(found), places=(), area=area, audit=audit)
        return reply, frozenset(shown["ref"].tolist())


def _may_see(grant: Grant, merge: Merge) -> bool:
    """A role bound to an area has what its own unit merged."""
    return grant.role not in AREA_BOUND or grant.unit == merge.unit


def _merge_to_merged(merge: Merge) -> Merged:
    return Merged(
        number=merge.number, persons=merge.persons, documents=merge.documents, why=merge.why,
        case=merge.case, who=merge.who, unit=merge.unit, at_ms=merge.at_ms,
    )  # fmt: skip
