"""Tracing: the tracer's questions Q1 to Q3, Q5 and Q8, and what they answer.

An answer carries packed arrays and the state it is complete up to; Python objects are made of them
where people read them, by `visit_rows` and `contact_rows`. docs/tracing.md explains each number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from engine.clock import DAY_MS, HOUR_MS, MINUTE_MS, Clock, day_to_date, ms_to_day
from engine.colocation.found import Found, Met
from engine.colocation.index import Snapshot
from engine.errors import AccessDenied, NotFound, QuestionInvalid
from engine.presence.profiles import ContactProfile, ProfileKind, profile_of
from engine.presence.visits import Array
from engine.tracing.cwa import LEVEL, WEIGHTS, derive_case, weighed
from engine.tracing.notice import MARK_FIGURE, MARKS_MAX, Mark, NoticeQuestion, find_marked
from engine.tracing.pages import Page, page_of, visits_at

SPAN_MAX_MS: Final = 366 * DAY_MS
LIMIT_MAX: Final = 100_000
PERSONS_MAX: Final = 64
KEY_SIZE: Final = 16
MINUTES_MAX: Final = 24 * 60
LINGER_MINUTES_MAX: Final = 120
_INSTANT_MAX_MS: Final = 1 << 53  # what JSON readers hold exactly


# ---- questions ----------------------------------------------------------------------------------


class VenueQuestion(msgspec.Struct, frozen=True, kw_only=True, tag="venue"):
    """Q1: who was at this place at some time in [from_ms, to_ms)? after: see
    engine.tracing.pages."""

    place: int
    from_ms: int
    to_ms: int
    after: str = ""
    limit: int = 1000


class HistoryQuestion(msgspec.Struct, frozen=True, kw_only=True, tag="history"):
    """Q2: where was this person in [from_ms, to_ms)? persons: keys of one and the same person."""

    persons: list[bytes]
    from_ms: int
    to_ms: int
    limit: int = 1000


class ContactsQuestion(msgspec.Struct, frozen=True, kw_only=True, tag="contacts"):
    """Q3: who met this person during its visits that overlap [from_ms, to_ms)?

    persons: keys of one and the same person. min_minutes, linger_minutes: in place of those of the
    profile. risk_level: of the case, 1 to 8, for CWA alone. limit: most contacts; their pairs come
    along whole.
    """

    persons: list[bytes]
    from_ms: int
    to_ms: int
    profile: str
    min_minutes: int | None = None
    linger_minutes: int | None = None
    risk_level: int = LEVEL
    limit: int = 1000


class FurtherQuestion(Protocol):
    """A question of a module of its own, which answers itself from a Scene (engine.tracing.tiers
    ...)."""

    @property
    def from_ms(self) -> int: ...
    @property
    def to_ms(self) -> int: ...
    @property
    def limit(self) -> int: ...
    def check(self) -> None:
        """Raises QuestionInvalid; span and limit are checked for all questions alike."""

    def answer(self, scene: Scene) -> Answer: ...


Question = VenueQuestion | HistoryQuestion | ContactsQuestion | NoticeQuestion | FurtherQuestion


# ---- answers ------------------------------------------------------------------------------------


class GatewayState(msgspec.Struct, frozen=True):
    """behind_ms: age of the oldest scan the gateway is known to hold back, 0 for none."""

    name: str
    behind_ms: int
    is_connected: bool


class Completeness(msgspec.Struct, frozen=True):
    """What an answer can know of: the log up to applied_lsn, all that had arrived by as_of_ms.

    kept_from_ms: of days before that nothing is kept any more, but for those under a hold, if there
    are any.
    """

    applied_lsn: int
    as_of_ms: int
    gateways: tuple[GatewayState, ...] = ()
    kept_from_ms: int = 0
    has_holds: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What all answers carry.

    persons: 16-byte keys, one after the other; packed: arrays by name, see LAYOUTS; total: how many
    visits or contacts there are; limit_cut: fewer are given, because of the limit; next: where the
    rest begins, if it can be asked for (engine.tracing.pages).
    """

    persons: bytes
    packed: dict[str, bytes]
    total: int
    limit_cut: bool
    completeness: Completeness
    elapsed_us: int
    next: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a further question is answered from.

    allowed: the places a role bound to an area may see, None for all. place: what stands under a
    number, None for nothing. fields: what every answer carries, of persons (V16), packed arrays by
    name, the total and how many are shown.
    """

    snapshot: Snapshot
    allowed: Collection[int] | None
    place: Callable[[int], object | None]
    fields: Callable[[Array, dict[str, Array], int, int], dict[str, Any]]

    def page(self, page: Page) -> dict[str, Any]:
        """Fields of an answer that is a page of visits."""
        found = page.found
        packed = {"visits": found.visits, "newest": found.newest}
        shown = found.total - page.behind
        return {**self.fields(found.persons, packed, found.total, shown), "next": page.next}


class VenueAnswer(Answer, frozen=True, kw_only=True, tag="venue"):
    """packed: visits by start, newest."""


class HistoryAnswer(Answer, frozen=True, kw_only=True, tag="history"):
    """packed: visits by start, newest."""


class ContactsAnswer(Answer, frozen=True, kw_only=True, tag="contacts"):
    """packed: contacts, ranked; pairs, by contact; newest.

    profile: as applied, with the minutes the question put in place of its own. below: persons who
    met the case for less than the threshold.
    """

    profile: ContactProfile
    below: int


class NoticeAnswer(Answer, frozen=True, kw_only=True, tag="notice"):
    """packed: visits, which, figures, newest as engine.tracing.notice.Marked has them.

    marks, since: as asked. outside: positions of marks that the role may not see, with figures 0.
    """

    marks: tuple[Mark, ...]
    outside: tuple[int, ...]
    since: int


# ---- the tracer ---------------------------------------------------------------------------------


class IndexLike(Protocol):
    def snapshot(self) -> Snapshot: ...


class Tracer:
    """Answers questions from the index. Any thread may ask."""

    def __init__(
        self,
        index: IndexLike,
        clock: Clock,
        place: Callable[[int], object | None] = lambda number: number,
        completeness: Callable[[], Completeness] | None = None,
    ) -> None:
        """place: what stands under a place number, None for nothing; completeness: of the moment.

        Without them every place is known and completeness names no gateways.
        """
        self._index = index
        self._clock = clock
        self._place = place
        self._completeness = completeness or (lambda: Completeness(0, clock.now_ms()))

    def ask(self, question: Question, places_allowed: Collection[int] | None = None) -> Answer:
        """places_allowed: what roles bound to an area may see, None for everything.

        Raises QuestionInvalid, NotFound for an unknown place, and AccessDenied for a place that is
        not allowed; of a person only what happened at allowed places is looked at.
        """
        begun_ns = self._clock.monotonic_ns()
        _check_question(question)
        # Asked first: whatever arrives from now on may be in the answer, but none of what it
        # vouches for can be missing.
        completeness = self._completeness()
        _check_kept(question, completeness)
        match question:
            case VenueQuestion():
                return self._venue(question, places_allowed, completeness, begun_ns)
            case HistoryQuestion():
                return self._history(question, places_allowed, completeness, begun_ns)
            case ContactsQuestion():
                return self._contacts(question, places_allowed, completeness, begun_ns)
            case NoticeQuestion():
                return self._notice(question, places_allowed, completeness, begun_ns)
            case _:
                return question.answer(self._scene(places_allowed, completeness, begun_ns))

    def snapshot(self) -> Snapshot:
        """The newest state of the index."""
        return self._index.snapshot()

    def _scene(
        self, allowed: Collection[int] | None, completeness: Completeness, begun_ns: int
    ) -> Scene:
        snapshot = self._index.snapshot()

        def fields(
            persons: Array, packed: dict[str, Array], total: int, shown: int
        ) -> dict[str, Any]:
            return {
                "persons": persons.tobytes(),
                "packed": {name: array.tobytes() for name, array in packed.items()},
                "total": total,
                "limit_cut": total > shown,
                "completeness": _complete_to(completeness, snapshot.lsn),
                "elapsed_us": self._elapsed_us(begun_ns),
            }

        return Scene(snapshot, allowed, self._place, fields)

    def _venue(
        self,
        question: VenueQuestion,
        allowed: Collection[int] | None,
        completeness: Completeness,
        begun_ns: int,
    ) -> VenueAnswer:
        if allowed is not None and question.place not in allowed:
            raise AccessDenied("this place lies outside of the area of the role")
        if self._place(question.place) is None:
            raise NotFound(f"there is no place {question.place}")
        scene = self._scene(allowed, completeness, begun_ns)
        visits = visits_at(scene.snapshot, question.place, question.from_ms, question.to_ms)
        page = page_of(scene.snapshot, visits, question.limit, question.after)
        return VenueAnswer(**scene.page(page))

    def _history(
        self,
        question: HistoryQuestion,
        allowed: Collection[int] | None,
        completeness: Completeness,
        begun_ns: int,
    ) -> HistoryAnswer:
        found = self._index.snapshot().history(
            question.persons,
            question.from_ms,
            question.to_ms,
            places=allowed,
            limit=question.limit,
        )
        return HistoryAnswer(
            persons=found.persons.tobytes(),
            packed=_found_packed(found),
            total=found.total,
            limit_cut=found.total > len(found.visits),
            completeness=_complete_to(completeness, found.lsn),
            elapsed_us=self._elapsed_us(begun_ns),
        )

    def _contacts(
        self,
        question: ContactsQuestion,
        allowed: Collection[int] | None,
        completeness: Completeness,
        begun_ns: int,
    ) -> ContactsAnswer:
        profile = profile_of(question.profile).with_minutes(
            question.min_minutes, question.linger_minutes
        )
        met = _met(self._index.snapshot(), question, profile, allowed)
        return ContactsAnswer(
            persons=met.persons.tobytes(),
            packed={
                "contacts": met.contacts.tobytes(),
                "pairs": met.pairs.tobytes(),
                "newest": met.newest.tobytes(),
            },
            total=met.total,
            limit_cut=met.total > len(met.contacts),
            completeness=_complete_to(completeness, met.lsn),
            elapsed_us=self._elapsed_us(begun_ns),
            profile=profile,
            below=met.below,
        )

    def _notice(
        self,
        question: NoticeQuestion,
        allowed: Collection[int] | None,
        completeness: Completeness,
        begun_ns: int,
    ) -> NoticeAnswer:
        for n, mark in enumerate(question.marks, 1):
            if self._place(mark.place) is None:
                raise NotFound(f"mark {n}: there is no place {mark.place}")
        inside = [
            n for n, mark in enumerate(question.marks) if allowed is None or mark.place in allowed
        ]
        if not inside:
            raise AccessDenied("all of these places lie outside of the area of the role")
        found = find_marked(
            self._index.snapshot(),
            [question.marks[n] for n in inside],
            least=question.least,
            since=question.since,
            limit=question.limit,
        )
        figures = np.zeros(len(question.marks), MARK_FIGURE)
        figures[inside] = found.figures
        return NoticeAnswer(
            persons=found.persons.tobytes(),
            packed={
                "visits": found.visits.tobytes(),
                "which": np.array(inside, "<u4")[found.which].tobytes(),
                "figures": figures.tobytes(),
                "newest": found.newest.tobytes(),
            },
            total=found.total,
            limit_cut=found.total > len(found.visits),
            completeness=_complete_to(completeness, found.lsn),
            elapsed_us=self._elapsed_us(begun_ns),
            marks=question.marks,
            outside=tuple(sorted(set(range(len(question.marks))) - set(inside))),
            since=question.since,
        )

    def _elapsed_us(self, begun_ns: int) -> int:
        return (self._clock.monotonic_ns() - begun_ns) // 1000


def _met(
    snapshot: Snapshot,
    question: ContactsQuestion,
    profile: ContactProfile,
    allowed: Collection[int] | None,
) -> Met:
    asked = question.persons, question.from_ms, question.to_ms
    if profile.kind == ProfileKind.CWA:
        met = snapshot.contacts(
            *asked,
            min_overlap_ms=1,
            places=allowed,
            derive=lambda visits: derive_case(visits, question.to_ms),
        )
        return weighed(
            met,
            least_minutes=profile.min_minutes,
            level=question.risk_level,
            limit=question.limit,
        )
    return snapshot.contacts(
        *asked,
        linger_ms=profile.linger_minutes * MINUTE_MS,
        min_overlap_ms=profile.min_minutes * MINUTE_MS,
        window_ms=profile.cumulated_hours * HOUR_MS,
        places=allowed,
        limit=question.limit,
    )


def _found_packed(found: Found) -> dict[str, bytes]:
    return {"visits": found.visits.tobytes(), "newest": found.newest.tobytes()}


def _complete_to(completeness: Completeness, lsn: int) -> Completeness:
    """The provider knows the moment, the snapshot knows what it holds."""
    return msgspec.structs.replace(completeness, applied_lsn=lsn)


def _check_question(question: Question) -> None:
    """Raises QuestionInvalid. Its words never quote a person."""
    if isinstance(question, NoticeQuestion):
        _check_notice(question)
    from_ms, to_ms = question.from_ms, question.to_ms
    if not -_INSTANT_MAX_MS <= from_ms < to_ms <= _INSTANT_MAX_MS:
        raise QuestionInvalid("from, to: the span must begin before it ends")
    if to_ms - from_ms > SPAN_MAX_MS:
        raise QuestionInvalid("from, to: the span is longer than 366 days")
    if not 1 <= question.limit <= LIMIT_MAX:
        raise QuestionInvalid(f"limit must be 1 to {LIMIT_MAX}")
    if isinstance(question, VenueQuestion | NoticeQuestion):
        return
    if not isinstance(question, HistoryQuestion | ContactsQuestion):
        question.check()
        return
    check_persons(question.persons)
    if isinstance(question, ContactsQuestion):
        profile_of(question.profile)
        check_minutes("min_minutes", question.min_minutes, MINUTES_MAX)
        check_minutes("linger_minutes", question.linger_minutes, LINGER_MINUTES_MAX)
        if not 1 <= question.risk_level <= len(WEIGHTS):
            raise QuestionInvalid(f"risk_level must be 1 to {len(WEIGHTS)}")


def check_persons(persons: Collection[bytes]) -> None:
    """Keys of one person. Raises QuestionInvalid."""
    if not 1 <= len(persons) <= PERSONS_MAX:
        raise QuestionInvalid(f"a person has 1 to {PERSONS_MAX} keys")
    if any(len(key) != KEY_SIZE for key in persons):
        raise QuestionInvalid(f"a person key has {KEY_SIZE} bytes")


def _check_kept(question: Question, completeness: Completeness) -> None:
    """An empty answer about days that are forgotten would look like nobody was there."""
    spans = question.marks if isinstance(question, NoticeQuestion) else (question,)
    kept_from_ms = completeness.kept_from_ms
    if completeness.has_holds or kept_from_ms <= 0:
        return
    if all(span.to_ms <= kept_from_ms for span in spans):
        day = day_to_date(ms_to_day(kept_from_ms))
        raise QuestionInvalid(f"to: nothing is kept of before {day}")


def _check_notice(question: NoticeQuestion) -> None:
    if not 1 <= len(question.marks) <= MARKS_MAX:
        raise QuestionInvalid(f"a notice has 1 to {MARKS_MAX} marks")
    if not 1 <= question.least <= len(question.marks):
        raise QuestionInvalid("least must be 1 to the number of marks")
    if question.since < 0:
        raise QuestionInvalid("since is the number of a group, as an earlier answer gave it")
    for n, mark in enumerate(question.marks, 1):
        if not mark.from_ms < mark.to_ms:
            raise QuestionInvalid(f"mark {n}: its span must begin before it ends")


def check_minutes(name: str, minutes: int | None, most: int) -> None:
    if minutes is not None and not 0 <= minutes <= most:
        raise QuestionInvalid(f"{name} must be 0 to {most}")
