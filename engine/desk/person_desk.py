"""The desk of persons' own requests: what is held about somebody, and its erasure; audited."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final, Protocol

import numpy as np

from engine.colocation.corrections import CorrectionBook
from engine.colocation.index import Snapshot
from engine.desk.ask_parts import PlaceInfo
from engine.desk.clerk import Clerk
from engine.desk.correction_desk import correction_to_info
from engine.desk.desk import Shown, remember
from engine.desk.keeping_questions import (
    AuditPage,
    ErasePerson,
    ExportPerson,
    FetchAsked,
    PersonData,
    PersonErased,
)
from engine.desk.question_socket import Handler, Peer
from engine.desk.questions import persons_to_keys
from engine.errors import AccessDenied, QuestionInvalid
from engine.keeping.eraser import Eraser, find_rows
from engine.presence.visits import SPAN_MAX_MS
from engine.registry import access
from engine.registry.access import Question
from engine.storage.journal import Journal

ROWS_MAX: Final = 100_000  # of one person; nobody is scanned so often in a month
_PAGE_SIZE: Final = 8 << 20
_PAGE_LOOKED: Final = 10_000  # records


class RecordLike(Protocol):
    @property
    def lsn(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def at_ms(self) -> int: ...
    @property
    def body(self) -> bytes: ...


class PersonDesk:
    """One instance an engine; used from its event loop.

    all_of: every key of the person with this one. records: those of the control log behind an LSN.
    infos: places by number, as answers name them.
    """

    def __init__(
        self,
        clerk: Clerk,
        journal: Journal,
        eraser: Eraser,
        book: CorrectionBook,
        snapshot: Callable[[], Snapshot],
        all_of: Callable[[bytes], Collection[bytes]],
        records: Callable[[int], Iterator[RecordLike]],
        infos: Callable[[Sequence[int]], tuple[PlaceInfo, ...]],
    ) -> None:
        self._clerk = clerk
        self._journal = journal
        self._eraser = eraser
        self._book = book
        self._snapshot = snapshot
        self._all_of = all_of
        self._records = records
        self._infos = infos

    def handlers(self) -> dict[type, Handler]:
        return {ExportPerson: self._export, FetchAsked: self._asked, ErasePerson: self._erase}

    async def _export(self, ask: Any, peer: Peer) -> PersonData:
        assert isinstance(ask, ExportPerson)
        grant = await self._clerk.grant(ask, Question.EXPORT)
        keys = self._keys(ask)
        rows, refs = await find_rows(self._journal, keys)
        if len(rows) > ROWS_MAX:
            raise QuestionInvalid("there is too much about this person for one export")
        visits = self._snapshot().history(keys, -SPAN_MAX_MS, SPAN_MAX_MS).visits
        found = {c.number: c for key in keys for c in self._book.corrections.of(key)}
        said: dict[str, str | int] = {"kinds": " ".join(person.kind for person in ask.persons)}
        audit = await self._clerk.record(
            grant, ask, Question.EXPORT, "export", said, persons=keys, rows=len(rows)
        )
        shown = Shown(ask.token, ask.purpose, ask.case, frozenset(refs.tolist()), Question.EXPORT)
        remember(peer, audit, shown)
        places = np.unique(np.concatenate([rows["place"], visits["place"]])).tolist()
        return PersonData(
            persons=tuple(keys),
            rows=rows.tobytes(),
            refs=refs.tobytes(),
            visits=visits.tobytes(),
            corrections=tuple(map(correction_to_info, found.values())),
            places=self._infos(places),
            audit=audit,
        )

    async def _asked(self, ask: Any, peer: Peer) -> AuditPage:
        """Who is in a record only the API can see: it has the key."""
        assert isinstance(ask, FetchAsked)
        shown = peer.memory.get("answers", {}).get(ask.audit)
        if shown is None or shown.token != ask.token or shown.right != Question.EXPORT:
            raise AccessDenied("that is for an export just given", hint="ask for it again")
        found: list[tuple[int, int, bytes]] = []
        size, looked, last = 0, 0, ask.after
        for record in self._records(ask.after):
            looked, last = looked + 1, record.lsn
            if record.kind == access.AUDIT_KIND:
                found.append((record.lsn, record.at_ms, record.body))
                size += len(record.body)
            if size >= _PAGE_SIZE or looked >= _PAGE_LOOKED:
                return AuditPage(tuple(found), last)
        return AuditPage(tuple(found), 0)

    async def _erase(self, ask: Any, _peer: Peer) -> PersonErased:
        """The record of it names nobody: what it is about is gone afterwards."""
        assert isinstance(ask, ErasePerson)
        grant = await self._clerk.grant(ask, Question.ERASE)
        keys = self._keys(ask)
        said: dict[str, str | int] = {"kinds": " ".join(person.kind for person in ask.persons)}
        await self._clerk.record(grant, ask, Question.ERASE, "erase", said)
        done, erasure = await self._eraser.erase(
            keys, who=grant.name, case=ask.case, role=grant.role, unit=grant.unit
        )
        return PersonErased(
            number=done.number,
            rows=done.rows,
            groups=len(done.groups),
            records=len(done.records),
            until_ms=erasure.until_ms,
        )

    def _keys(self, ask: ExportPerson | ErasePerson) -> list[bytes]:
        """Of all documents of the person, those that were merged with the ones named too."""
        named = persons_to_keys(ask.persons, self._clerk.keyring)
        return list(dict.fromkeys(key for one in named for key in (one, *self._all_of(one))))
