"""The desk of venues: who may register them and see coverage; codes, history, the key's rotation.

Nothing here is about persons, so there is no audit record; what changes is a record of the registry
with the name of who changed it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from engine.clock import Clock, day_to_ms, ms_to_day
from engine.colocation.figures import Figures
from engine.desk.questions import RegistryChange
from engine.desk.venue_questions import (
    AddVenue,
    AreaInfo,
    Areas,
    AskAreas,
    AskCodes,
    AskCoverage,
    AskHistory,
    AskVenueList,
    Codes,
    Coverage,
    History,
    KeyRotated,
    ListedVenue,
    RotateKey,
    VenueAdded,
    VenueList,
    VenueQuestion,
    VenueReply,
    Written,
)
from engine.errors import AccessDenied, NotFound, QuestionInvalid, RegistryInvalid
from engine.identity.keys import KeyRing
from engine.payloads.venue import KEY_MAX
from engine.registry import access
from engine.registry.access import Grant
from engine.registry.coverage import ACTIVE_DAYS, CoverageRow, cover, registered_venues
from engine.registry.registry import Area, Category, Change, Registry, Venue, VenueKey
from engine.registry.venue_codes import VenueCodes
from engine.scans.rows import Direction

# A province has tens of thousands; a volunteer's token must not fill the memory.
VENUES_MAX: Final = 1_000_000
_FIRST_NUMBER: Final = 1001  # smaller numbers are easily mistyped posts

_DIRECTIONS: Final = {"": Direction.NONE, "in": Direction.IN, "out": Direction.OUT}


class VenueDesk:
    """One instance an engine; used from its event loop.

    figures: counts of a civil day. run: works in a thread of the query pool. write: as
    Desk.write_changes, for one that holds the desk's lock already.
    """

    def __init__(
        self,
        registry: Registry,
        keyring: KeyRing,
        codes: VenueCodes,
        clock: Clock,
        *,
        figures: Callable[[int], Figures],
        run: Callable[..., Awaitable[Any]],
        write: Callable[[Callable[[], Sequence[Change]], str], Awaitable[object]],
        retention_days: int,
    ) -> None:
        self._registry = registry
        self._keyring = keyring
        self._codes = codes
        self._clock = clock
        self._figures = figures
        self._run = run
        self._write = write
        self._retention_days = retention_days

    async def answer(self, ask: VenueQuestion, by: str) -> VenueReply:
        """by: the owner of the socket, where there is no token.

        Raises AccessDenied, TokenInvalid, QuestionInvalid, RegistryInvalid, NotFound, StorageError.
        """
        match ask:
            case AskAreas():
                self._check(ask.token, access.Question.PLACES)
                return self._areas(ask)
            case AskCoverage():
                return await self._coverage(ask)
            case AskVenueList():
                return await self._venue_list(ask)
            case AddVenue():
                return await self._add(ask, by)
            case AskCodes():
                return Codes(await self._run(self._make_codes, ask.wanted))
            case AskHistory():
                found = self._registry.history(ask.kind, ask.key)
                return History(tuple(Written(c, stamp.at_ms, stamp.by) for c, stamp in found))
            case RotateKey():
                return await self._rotate_key(ask, by)

    def checked(self, question: RegistryChange) -> Sequence[Change]:
        """The changes, where no number that they give is taken by now. Raises RegistryInvalid."""
        taken = [number for number in question.fresh if self._registry.place(number) is not None]
        if taken:
            raise RegistryInvalid(
                f"number {taken[0]} was given meanwhile", hint="import the list again"
            )
        return question.changes

    def _check(self, token: str, question: access.Question) -> Grant | None:
        """The grant of a token; None for the owner of the socket."""
        if not token:
            return None
        now_ms = self._clock.now_ms()
        grant = self._registry.grant_by_token(access.token_to_hash(token), now_ms)
        access.check(grant, question, now_ms=now_ms)
        return grant

    def _check_within(self, code: str, grant: Grant | None) -> None:
        """Raises QuestionInvalid for an unknown area, AccessDenied outside of the grant's."""
        now_ms = self._clock.now_ms()
        if code and self._registry.areas.last(code, now_ms) is None:
            raise QuestionInvalid("there is no area of that code", hint="chot registry find NAME")
        if grant is not None and not self._registry.area_within(code, grant.area, now_ms):
            raise AccessDenied("that area lies outside of yours")

    # ---- what is asked ----------------------------------------------------------------------

    def _areas(self, ask: AskAreas) -> Areas:
        now_ms = self._clock.now_ms()
        found = self._registry.areas.find(ask.text, ask.limit)
        return Areas(tuple(self._area_info(area, now_ms) for area in found))

    def _area_info(self, area: Area, now_ms: int) -> AreaInfo:
        now = self._registry.areas.now(area.code, now_ms)
        is_over = now is None or (now.valid_to_ms is not None and now.valid_to_ms <= now_ms)
        # A record that a later one of the same area replaced ended when that began.
        following = self._registry.areas.following(area)
        return AreaInfo(
            code=area.code,
            name=area.name,
            kind=area.kind,
            parent=area.parent,
            valid_from_ms=area.valid_from_ms,
            valid_to_ms=area.valid_to_ms if following is None else following.valid_from_ms,
            now="" if is_over or now is None else now.code,
            now_name="" if is_over or now is None else now.name,
        )

    async def _coverage(self, ask: AskCoverage) -> Coverage:
        grant = self._check(ask.token, access.Question.COVERAGE)
        area = ask.area or (grant.area if grant is not None else "")
        self._check_within(area, grant)
        at_ms = self._end_of(ask.day)
        rows = await self._run(self._cover, ask.day, at_ms, area)
        return Coverage(ask.day, at_ms, area, rows)

    def _end_of(self, day: int) -> int:
        """Its last instant, or now."""
        return min(day_to_ms(day + 1) - 1, self._clock.now_ms())

    def _cover(self, day: int, at_ms: int, area: str) -> tuple[CoverageRow, ...]:
        """In a thread of the pool: a province has tens of thousands of venues."""
        first = day - ACTIVE_DAYS + 1
        active: set[int] | None = None
        if first > ms_to_day(self._clock.now_ms()) - self._retention_days:
            active = set()
            for each in range(first, day + 1):
                active.update(self._figures(each).places["place"].tolist())
        return tuple(cover(self._registry, at_ms, active, area))

    async def _venue_list(self, ask: AskVenueList) -> VenueList:
        self._check_within(ask.area, None)
        at_ms = self._end_of(ask.day)
        return VenueList(await self._run(self._listed, at_ms, ask.area))

    def _listed(self, at_ms: int, within: str) -> tuple[ListedVenue, ...]:
        """In a thread of the pool."""
        found = []
        for venue in registered_venues(self._registry, at_ms, within):
            area = self._registry.areas.now(venue.area, at_ms)
            unit = self._registry.units.now(venue.unit, at_ms)
            found.append(
                ListedVenue(
                    venue=venue,
                    written_ms=self._registry.written_ms("venue", venue.number),
                    area=area.code if area else venue.area,
                    area_name=area.name if area else "",
                    unit_name=unit.name if unit else "",
                )
            )
        return tuple(found)

    def _make_codes(self, wanted: Sequence[tuple[int, int, str]]) -> tuple[str, ...]:
        """In a thread of the pool: a tag takes some microseconds."""
        return tuple(self._code(*each) for each in wanted)

    def _code(self, number: int, room: int, direction: str) -> str:
        venue = self._registry.place(number)
        if not isinstance(venue, Venue):
            raise NotFound(f"there is no venue {number}")
        return self._codes.make(venue, room, _DIRECTIONS[direction])

    # ---- what is changed --------------------------------------------------------------------

    async def _add(self, ask: AddVenue, by: str) -> VenueAdded:
        grant = self._check(ask.token, access.Question.REGISTER)
        self._check_within(ask.area, grant)
        if ask.category not in frozenset(Category):
            raise QuestionInvalid(f"category is one of {', '.join(Category)}")
        who = grant.name if grant is not None else by
        numbers: list[int] = []

        def make() -> list[Change]:
            """The number is given where nobody else can give it meanwhile."""
            if len(self._registry.venues) >= VENUES_MAX:
                raise RegistryInvalid("the registry holds as many venues as it can")
            numbers.append(self._registry.free_number(_FIRST_NUMBER))
            return [
                Venue(
                    number=numbers[0],
                    name=ask.name,
                    category=Category(ask.category),
                    area=ask.area,
                    address=ask.address,
                    default_stay_minutes=ask.default_stay_minutes,
                    rooms=ask.rooms,
                    unit=ask.unit,
                    hours=ask.hours,
                    risk=ask.risk,
                    location=ask.location,
                    created_by=ask.created_by or who,
                    valid_from_ms=self._clock.now_ms(),
                )
            ]

        await self._write(make, who)
        return VenueAdded(numbers[0], self._code(numbers[0], 0, ""))

    async def _rotate_key(self, ask: RotateKey, by: str) -> KeyRotated:
        numbers: list[int] = []

        def make() -> list[Change]:
            """The file first: a record must never name a key that is not there."""
            old, now_ms = self._registry.newest_venue_key(), self._clock.now_ms()
            if old == KEY_MAX:
                raise QuestionInvalid("there were fifteen keys; a code has no room for another")
            if ask.old_to_ms <= now_ms:
                raise QuestionInvalid("the old key ends in the past", hint="give posters time")
            self._keyring.make_venue_key(old + 1)
            numbers.append(old + 1)
            held = self._registry.venue_key(old)
            assert held is not None, "the newest key has a record, or is the first"
            return [
                msgspec.structs.replace(held, valid_to_ms=ask.old_to_ms),
                VenueKey(number=old + 1, valid_from_ms=now_ms),
            ]

        await self._write(make, by)
        return KeyRotated(numbers[0])
