"""The desk: every question passes here, from access check to audit record to answer.

The order is the rule: who asks (token), may they (role, area, purpose, case), which keys do they
mean, what does the tracer say, the audit record is durable, and only then the answer leaves.
Changes of the registry pass here as well, because there is one writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec
import numpy as np

from engine.clock import Clock
from engine.colocation import alerts
from engine.colocation.alerts import Alerts
from engine.colocation.figures import PASSAGE_FIGURE, PLACE_FIGURE
from engine.colocation.figures import Figures as IndexFigures
from engine.colocation.index import Snapshot
from engine.colocation.reviews import REVIEW
from engine.desk.ask_bases import AskRows
from engine.desk.asks import ask_to_kind, ask_to_question, parameters, places_of, refs_of, rows_of
from engine.desk.count_desk import HEALTH_ROLES, CountDesk
from engine.desk.merge_desk import MergeDesk
from engine.desk.question_socket import Handler, Peer
from engine.desk.questions import (
    SUPPRESSED,
    Alarmed,
    AskAlerts,
    AskContacts,
    AskFigures,
    AskHealth,
    AskKit,
    AskMerges,
    AskMetrics,
    AskNotice,
    AskPerson,
    AskPlaces,
    AskReviews,
    AskVenue,
    AskWatched,
    Deliver,
    Delivered,
    Details,
    FetchDetails,
    Figures,
    Health,
    Identity,
    Kit,
    MergeAdd,
    MergeUndo,
    MetricsText,
    PlaceInfo,
    Places,
    Question,
    Refusals,
    RegistryChange,
    RegistryEntries,
    RegistryList,
    RegistryTaken,
    Reply,
    ReviewClose,
    Reviews,
    Traceable,
    Traced,
    TracedAnswer,
    WatchAdd,
    WatchRemove,
    Whoami,
)
from engine.desk.trace_questions import AskCounts, AskPassed, AskRoll, AskTiers, AskVehicle
from engine.desk.venue_desk import VenueDesk
from engine.desk.venue_questions import VenueQuestion
from engine.desk.watch_desk import WatchDesk
from engine.errors import (
    AccessDenied,
    InputError,
    KeyDestroyed,
    NotFound,
    QuestionInvalid,
    RegistryInvalid,
)
from engine.identity.keys import KeyRing
from engine.identity.merges import Merges
from engine.identity.watch import WatchList
from engine.presence.visits import REF_ROW_BITS, Array
from engine.registry import access
from engine.registry.access import ALLOWED, AuditEntry, Grant
from engine.registry.default_stays import place_to_stay
from engine.registry.registry import TYPES, Change, Place, Post, Registry, Stamp, changes_to_record
from engine.registry.venue_codes import VenueCodes
from engine.scans.rows import NOBODY
from engine.storage.group import SealedDetails
from engine.telemetry import Metrics
from engine.tracing import tracer as tracing
from engine.tracing.tracer import KEY_SIZE

ROWS_MAX: Final = 10_000  # beyond, a second person has to agree; there is no such path yet
RECORD_SIZE_MAX: Final = 15 << 20
_DETAILS_SIZE_MAX: Final = 8 << 20  # sealed bytes of one reply, from its second group on
_DETAILS_BROUGHT: Final = 256  # refs of an answer whose details come with it
_ANSWERS_KEPT: Final = 64  # answers of one connection whose details can be fetched
_SMALL: Final = 5  # fewer persons than this do not show outside health (DF-4)
_NICENESS: Final = 10

T = TypeVar("T")


async def _nothing() -> None:
    """Nobody to tell."""


class TracerLike(Protocol):
    def ask(
        self, question: tracing.Question, places_allowed: frozenset[int] | None = None
    ) -> tracing.Answer: ...
    def snapshot(self) -> Snapshot: ...


class ControlLike(Protocol):
    def append(self, kind: str, by: str, body: bytes, at_ms: int) -> Awaitable[int]: ...


class JournalLike(Protocol):
    def read_details(self, lsn: int) -> SealedDetails: ...


class Shown(msgspec.Struct, frozen=True):
    """What a connection may fetch the details of: an answer that it got. right: that this takes."""

    token: str
    purpose: str
    case: str
    refs: frozenset[int]
    right: access.Question = access.Question.DETAILS


class Desk:
    """One instance an engine; used from its event loop. `answer` is a handler of QuestionServer."""

    def __init__(
        self,
        *,
        registry: Registry,
        tracer: TracerLike,
        figures: Callable[[int], IndexFigures],
        tallies: Callable[[int], Sequence[Mapping[str, int | str]]],
        alarms: Alerts,
        watch: WatchList,
        merges: Merges,
        reviews: Alerts,
        keyring: KeyRing,
        control: ControlLike,
        journal: JournalLike,
        clock: Clock,
        metrics: Metrics,
        health: Callable[[], dict[str, Any]],
        kit: Callable[[], Kit],
        deliver: Callable[[Deliver], Awaitable[Delivered]],
        codes: VenueCodes,
        retention_days: int = 30,
        rows_max: int = ROWS_MAX,
        on_registry: Callable[[], Awaitable[None]] | None = None,
        on_merges: Callable[[], Awaitable[None]] = _nothing,
        threads: int = 2,
        further: Mapping[type, Handler] | None = None,
    ) -> None:
        """figures, tallies: counts and refusals of a day. kit: what its owner needs of the engine.
        deliver: takes records of a gateway (engine.desk.deliveries).

        on_registry, on_merges: told after each change of the registry, of merges. further: asks
        that have a desk of their own. threads: for questions, at lower priority than the lanes'
        work.
        """
        self._registry = registry
        self._tracer = tracer
        self._figures = figures
        self._counts = CountDesk(registry, tracer.snapshot)
        self._tallies = tallies
        self._alerts = alarms
        self._watch = WatchDesk(registry, watch, keyring, control.append, clock)
        self._merges = merges
        self._merge_desk = MergeDesk(
            registry, merges, reviews, keyring, control.append, clock, on_merges
        )
        self._venues = VenueDesk(
            registry, keyring, codes, clock, figures=figures, run=self._run,
            write=self._write_made, retention_days=retention_days,
        )  # fmt: skip
        self._keyring = keyring
        self._control = control
        self._journal = journal
        self._clock = clock
        self._metrics = metrics
        self._health = health
        self._kit = kit
        self._deliver = deliver
        self._rows_max = min(rows_max, ROWS_MAX)
        self._on_registry = on_registry
        self._further = further or {}
        self._changing = asyncio.Lock()
        self._begun: set[asyncio.Task[Any]] = set()
        self._pool = ThreadPoolExecutor(threads, "question", initializer=_lower_priority)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def answer(self, question: Question, peer: Peer) -> Reply:
        """Raises whatever EngineError stands against an answer."""
        begun_ns = self._clock.monotonic_ns()
        name = str(question.__struct_config__.tag)
        try:
            reply = await self._dispatch(question, peer)
        except InputError as error:
            self._metrics.count("chot_questions_denied", error.code)
            raise
        self._metrics.count("chot_questions", name)
        span_s = (self._clock.monotonic_ns() - begun_ns) / 1e9
        self._metrics.count("chot_question_seconds", name, by=span_s)
        return reply

    async def take_changes(self, changes: Sequence[Change], by: str) -> RegistryTaken:
        """Writes changes of the registry, all of them in one control record, and takes them in.

        Raises RegistryInvalid, and what ControlLog.append raises; nothing was taken then.
        """
        return await self._write_made(lambda: changes, by)

    async def _write_made(
        self, make: Callable[[], Sequence[Change]], by: str, *, is_trial: bool = False
    ) -> RegistryTaken:
        """As take_changes, of changes that are made while no others can be taken. is_trial: they
        are judged and nothing is taken."""
        async with self._changing:
            changes = make()
            new = self._registry.prepare(changes)
            if new and not is_trial:
                kind, body = changes_to_record(new)
                if len(body) > RECORD_SIZE_MAX:
                    raise RegistryInvalid("too much for one import", hint="split the table")
                now_ms = self._clock.now_ms()
                await self._control.append(kind, by, body, now_ms)
                for change in new:
                    self._registry.take(change, Stamp(now_ms, by))
                if self._on_registry is not None:
                    await self._on_registry()
        return RegistryTaken(len(new), len(changes) - len(new))

    async def _dispatch(self, question: Question, peer: Peer) -> Reply:
        match question:
            case AskVenue() | AskPerson() | AskContacts() | AskNotice():
                return await self._trace(question, peer)
            case AskTiers() | AskPassed() | AskVehicle() | AskRoll():
                return await self._trace(question, peer)
            case AskAlerts():
                return await self._alarmed(question, peer)
            case WatchAdd() | WatchRemove() | AskWatched():
                return await self._to_its_end(self._watch.answer(question))
            case MergeAdd() | MergeUndo() | AskMerges() | ReviewClose():
                return await self._to_its_end(self._merge_desk.answer(question))
            case AskReviews():
                return await self._review(question, peer)
            case FetchDetails():
                return await self._fetch(question, peer)
            case AskFigures():
                return await self._count(question)
            case AskCounts():
                grant, area = self._check(question.token, access.Question.COUNTS)
                within = self._registry.places_within(area)
                return await self._run(self._counts.answer, question, grant, area, within)
            case AskPlaces():
                self._check(question.token, access.Question.PLACES)
                found = self._registry.find_places(question.text, question.limit)
                return Places(tuple(map(place_to_info, found)))
            case Whoami():
                grant, _ = self._check(question.token, access.Question.WHOAMI)
                may = tuple(sorted(ALLOWED[grant.role]))
                return Identity(grant.name, grant.role, grant.unit, grant.area, may)
            case Deliver():
                return await self._deliver(question)
            case AskMetrics():
                return MetricsText(await self._metrics.text_in_turns())
            case AskHealth():
                return Health(self._health())
            case RegistryChange():
                written = self._write_made(
                    lambda: self._venues.checked(question),
                    f"uid {peer.uid}",
                    is_trial=question.is_trial,
                )
                return await self._to_its_end(written)
            case RegistryList():
                if question.kind not in TYPES:
                    raise NotFound("the registry has no records of that kind")
                entries = self._registry.entries(question.kind, question.at_ms)
                return RegistryEntries(tuple(entries))
            case AskKit():
                return self._kit()
            case _:
                further = self._further.get(type(question))
                if further is not None:
                    return await further(question, peer)
                ask = cast(VenueQuestion, question)
                return await self._to_its_end(self._venues.answer(ask, f"uid {peer.uid}"))

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Whether its asker still lives or not: a change that is durable is taken in as well."""
        task = asyncio.create_task(work)
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return await asyncio.shield(task)

    # ---- persons ----------------------------------------------------------------------------

    async def _trace(self, ask: Traceable, peer: Peer) -> Traced:
        now_ms = self._clock.now_ms()
        grant = self._registry.grant_by_token(access.token_to_hash(ask.token), now_ms)
        try:
            area = access.check(
                grant,
                ask_to_kind(ask),
                purpose=ask.purpose,
                case=ask.case,
                is_unmasked=ask.is_unmasked,
                now_ms=now_ms,
            )
            limit = min(ask.limit, self._rows_max)
            question = ask_to_question(ask, limit, self._registry, self._keyring)
            allowed = self._within(area)
            assert grant is not None
            answer, entry = await self._run(self._ask, grant, ask, question, allowed)
        except AccessDenied as error:
            # Who asked for what is not theirs is the auditor's business too.
            if grant is not None:
                await self._audit(_refused(grant, ask, error.code), now_ms)
            raise
        refs = refs_of(answer)
        # Details of few are read while the record is made durable; who asked has one way to go.
        record, may = self._audit(entry, now_ms), access.Question.DETAILS in ALLOWED[grant.role]
        if may and len(refs) <= _DETAILS_BROUGHT:
            audit, details = await asyncio.gather(record, self._run(self._read_groups, refs))
        else:
            audit, details = await record, None
        remember(peer, audit, Shown(ask.token, ask.purpose, ask.case, refs))
        return Traced(
            answer=cast(TracedAnswer, answer), places=self._infos(places_of(answer)), area=area,
            audit=audit, details=details,
        )  # fmt: skip

    def _ask(
        self,
        grant: Grant,
        ask: Traceable,
        question: tracing.Question,
        allowed: frozenset[int] | None,
    ) -> tuple[tracing.Answer, AuditEntry]:
        """The answer and the record of it; runs in a thread of the pool.

        Those asked about are sealed in with those shown: both are people somebody looked at.
        """
        answer = self._tracer.ask(question, allowed)
        shown = [answer.persons[i : i + KEY_SIZE] for i in range(0, len(answer.persons), KEY_SIZE)]
        asked = getattr(question, "persons", [])  # of a question about places, nobody
        everybody = self._everybody([*asked, *shown])
        digest = answer_to_digest(answer)
        sealed = self._keyring.seal_audit(everybody, access.digest_to_aad(digest))
        entry = AuditEntry(
            who=grant.name,
            role=grant.role,
            unit=grant.unit,
            purpose=ask.purpose,
            case=ask.case,
            question=ask_to_kind(ask),
            parameters=parameters(ask, question),
            rows=len(rows_of(answer)),
            persons=len(shown),
            digest=digest,
            sealed_persons=sealed,
            is_unmasked=ask.is_unmasked,
        )
        return answer, entry

    async def _audit(self, entry: AuditEntry, now_ms: int) -> int:
        """Durable when it returns; its number in the control log."""
        body = access.entry_to_body(entry)
        return await self._control.append(access.AUDIT_KIND, entry.who, body, now_ms)

    def _infos(self, numbers: Array) -> tuple[PlaceInfo, ...]:
        return infos_of(numbers, self._registry)

    async def _alarmed(self, ask: AskAlerts, peer: Peer) -> Alarmed:
        """Rows that carry a flag of alarm, newest first, and why those on the list are there."""
        now_ms = self._clock.now_ms()
        grant = self._registry.grant_by_token(access.token_to_hash(ask.token), now_ms)
        try:
            area = access.check(
                grant, access.Question.ALERTS, purpose=ask.purpose, case=ask.case,
                is_unmasked=ask.is_unmasked, now_ms=now_ms,
            )  # fmt: skip
        except AccessDenied as error:
            if grant is not None:
                await self._audit(_refused(grant, ask, error.code), now_ms)
            raise
        assert grant is not None
        if not ask.from_ms < ask.to_ms:
            raise QuestionInvalid("the span ends before it begins")
        within = self._within(area)
        parts = self._alerts.parts()
        rows, total, entry = await self._run(self._find_alarms, grant, ask, parts, within)
        audit = await self._audit(entry, now_ms)
        refs = frozenset(rows["ref"].tolist())
        remember(peer, audit, Shown(ask.token, ask.purpose, ask.case, refs))
        return Alarmed(
            rows=rows.tobytes(), total=total, listed=self._watch.explain(grant, rows),
            places=self._infos(rows["place"]), area=area, audit=audit,
        )  # fmt: skip

    def _find_alarms(
        self, grant: Grant, ask: AskAlerts, parts: list[Array], within: frozenset[int] | None
    ) -> tuple[Array, int, AuditEntry]:
        """The rows to show, how many there are, and the record of it; in a thread of the pool."""
        found = alerts.find(parts, ask.from_ms, ask.to_ms, within)
        rows = found[: min(ask.limit, self._rows_max)]
        aliases = self._merges.aliases()
        merged = aliases.keys()
        for i, key in enumerate(rows["person"].tolist()):
            if key in merged:
                rows["person"][i] = np.void(aliases.main_of(key))
        known = dict.fromkeys(rows["person"].tolist())
        known.pop(NOBODY, None)
        persons = self._everybody(known)
        digest = hashlib.sha256(rows.tobytes()).hexdigest()
        entry = AuditEntry(
            who=grant.name, role=grant.role, unit=grant.unit, purpose=ask.purpose, case=ask.case,
            question=access.Question.ALERTS,
            parameters={"from_ms": ask.from_ms, "to_ms": ask.to_ms, "limit": ask.limit},
            rows=len(rows), persons=len(known), digest=digest,
            sealed_persons=self._keyring.seal_audit(persons, access.digest_to_aad(digest)),
            is_unmasked=ask.is_unmasked,
        )  # fmt: skip
        return rows, len(found), entry

    async def _review(self, ask: AskReviews, peer: Peer) -> Reviews:
        found, refs = await self._merge_desk.reviews(ask, self._run, self._rows_max)
        remember(peer, found.audit, Shown(ask.token, ask.purpose, ask.case, refs))
        places = self._infos(np.frombuffer(found.rows, REVIEW)["place"])
        return msgspec.structs.replace(found, places=places)

    def _everybody(self, persons: Iterable[bytes]) -> bytes:
        """All keys of these persons, each once: who saw one of them saw the person."""
        aliases = self._merges.aliases()
        return b"".join(dict.fromkeys(key for one in persons for key in aliases.all_of(one)))

    # ---- details ----------------------------------------------------------------------------

    async def _fetch(self, question: FetchDetails, peer: Peer) -> Details:
        kept: OrderedDict[int, Shown] = peer.memory.get("answers", OrderedDict())
        shown = kept.get(question.audit)
        if shown is None or shown.token != question.token:
            raise AccessDenied("details are for answers just given", hint="ask the question again")
        self._check(question.token, shown.right, purpose=shown.purpose, case=shown.case)
        if not shown.refs.issuperset(question.refs):
            raise AccessDenied("these details are of another answer")
        return await self._run(self._read_groups, question.refs)

    def _read_groups(self, refs: Iterable[int]) -> Details:
        by_group: dict[int, list[int]] = {}
        for ref in sorted(set(refs)):
            by_group.setdefault(ref >> REF_ROW_BITS, []).append(ref)
        groups: list[SealedDetails] = []
        size = 0
        lsns = iter(by_group)
        for lsn in lsns:
            # A day may be forgotten between the answer and the details.
            with contextlib.suppress(KeyDestroyed, NotFound):
                group = self._journal.read_details(lsn)
                size += len(group.sealed)
                groups.append(group)
            if size >= _DETAILS_SIZE_MAX:
                break
        rest = tuple(ref for lsn in lsns for ref in by_group[lsn])
        return Details(tuple(groups), rest)

    # ---- counts -----------------------------------------------------------------------------

    async def _count(self, question: AskFigures) -> Figures:
        grant, area = self._check(question.token, access.Question.FIGURES)
        found = await self._run(self._figures, question.day)
        places, passages = found.places.copy(), found.passages.copy()
        persons: int | None = found.persons
        within = self._registry.places_within(area, self._clock.now_ms())
        if area:
            places = places[np.isin(places["place"], list(within))]
            passages = passages[np.isin(passages["place"], list(within))]
            persons = None
        if grant.role not in HEALTH_ROLES:
            suppress(places, passages)
            persons = persons if persons is None or persons >= _SMALL else None
        refused = [msgspec.convert(tally, Refusals) for tally in self._tallies(question.day)]
        if area:
            refused = [row for row in refused if row.place in within]
        named = np.array([row.place for row in refused if row.place], "<u4")
        return Figures(
            day=question.day,
            places=places.tobytes(),
            passages=passages.tobytes(),
            persons=persons,
            refused=tuple(refused),
            complete_lsn=found.lsn,
            area=area,
            known=self._infos(np.concatenate([places["place"], passages["place"], named])),
        )

    # ---- helpers ----------------------------------------------------------------------------

    def _check(
        self, token: str, question: access.Question, *, purpose: str = "", case: str = ""
    ) -> tuple[Grant, str]:
        """The grant of a token and its area. Raises TokenInvalid and AccessDenied."""
        now_ms = self._clock.now_ms()
        grant = self._registry.grant_by_token(access.token_to_hash(token), now_ms)
        area = access.check(grant, question, purpose=purpose, case=case, now_ms=now_ms)
        assert grant is not None
        return grant, area

    def _within(self, area: str) -> frozenset[int] | None:
        """Places in an area of today, or of old; None for no bound."""
        return self._registry.places_within(area, self._clock.now_ms()) if area else None

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        """In a thread of the query pool, so that the lanes' loop never waits for a question."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)


def infos_of(numbers: Array | Sequence[int], registry: Registry) -> tuple[PlaceInfo, ...]:
    """Each place once; one that the registry does not know is named by its number."""
    found = []
    for number in np.unique(np.array(numbers, np.int64)).tolist():
        place = registry.place(number)
        found.append(place_to_info(place) if place else PlaceInfo(number, f"#{number}", ""))
    return tuple(found)


def place_to_info(place: Place) -> PlaceInfo:
    stay = place_to_stay(place)
    if isinstance(place, Post):
        return PlaceInfo(place.number, place.name, "post", place.area, place.code, *stay)
    return PlaceInfo(place.number, place.name, place.category, place.area, "", *stay)


def answer_to_digest(answer: tracing.Answer) -> str:
    """SHA-256 hex over what was shown: the keys, then each array in the order of their names."""
    digest = hashlib.sha256(answer.persons)
    for name in sorted(answer.packed):
        digest.update(b"\0" + name.encode() + b"\0" + answer.packed[name])
    return digest.hexdigest()


def suppress(places: Array, passages: Array) -> None:
    """Hides the counts of places where fewer than five persons were, and small passage counts.

    The whole line of a place goes, and its control points with it, because one scan a person would
    give a hidden number away. So does a place's sum of passages where one of its control points is
    hidden: what the others leave of the sum would be the hidden number.
    """
    assert places.dtype == PLACE_FIGURE and passages.dtype == PASSAGE_FIGURE
    few = places["persons"] < _SMALL
    hidden = np.isin(passages["place"], places["place"][few]) | (passages["count"] < _SMALL)
    passages["count"][hidden] = SUPPRESSED
    has_hidden = np.isin(places["place"], passages["place"][hidden])
    places["passages"][has_hidden] = SUPPRESSED
    for name in PLACE_FIGURE.names or ():
        if name != "place":
            places[name][few] = SUPPRESSED


def _refused(grant: Grant, ask: AskRows, outcome: str) -> AuditEntry:
    """The record of a question that was not answered.

    Purpose and case were typed by the asker and are kept only if they are what they should be.
    """
    is_case = access.is_case(ask.case)
    return AuditEntry(
        who=grant.name,
        role=grant.role,
        unit=grant.unit,
        purpose=ask.purpose if ask.purpose in frozenset(access.Purpose) else "",
        case=ask.case if is_case else "",
        question=ask_to_kind(ask),
        parameters={},
        is_unmasked=ask.is_unmasked,
        outcome=outcome,
    )


def remember(peer: Peer, audit: int, shown: Shown) -> None:
    """The connection may fetch the details of what it was shown."""
    kept: OrderedDict[int, Shown] = peer.memory.setdefault("answers", OrderedDict())
    kept[audit] = shown
    while len(kept) > _ANSWERS_KEPT:
        kept.popitem(last=False)


def _lower_priority() -> None:
    """Linux counts niceness by thread; where that is refused the questions run as they are."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
