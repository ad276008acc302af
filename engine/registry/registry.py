"""The registry: areas, posts, roads, venues, gateways, rules and grants as dated records.

Each change is a record of the control log ("registry.venue" and so on) and the registry is what
applying them in order gives. A record says from when it holds; the newest one of a key that has
begun at an instant wins there, and what held before stays readable, because law, medicine and place
names change faster than code (CP-2, CP-9). Posts and venues share one space of place numbers. A
number, once given, belongs to its key for ever: rows of the scan log refer to it.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from engine.clock import MINUTE_MS
from engine.control import Record
from engine.errors import RegistryInvalid
from engine.payloads import Chunk, Parsed, VenueCode, parse
from engine.presence.hours import text_to_week
from engine.presence.visits import PlaceRule, VisitRules
from engine.registry.access import AREA_BOUND, Grant, is_same_hash
from engine.registry.area_map import AREA_DEPTH_MAX, AreaMap, NameMap
from engine.registry.default_stays import records_to_rule
from engine.registry.records import (
    BATCH_KIND,
    DEFAULT_STAY_MINUTES,
    KIND_PREFIX,
    LATEST_MS,
    RULES,
    TYPES,
    Area,
    Category,
    Census,
    Change,
    Gateway,
    Key,
    Place,
    Post,
    PostedCode,
    PostKind,
    Risk,
    Road,
    Rule,
    Unit,
    Venue,
    VenueKey,
    change_to_key,
    change_to_text,
    changes_to_record,
    fold,
    is_in_force,
    record_to_changes,
)
from engine.scans.dedup import Spans

__all__ = [  # the registry's whole vocabulary, with the records of engine.registry.records
    "BATCH_KIND",
    "DEFAULT_STAY_MINUTES",
    "RULES",
    "TYPES",
    "Area",
    "Category",
    "Census",
    "Change",
    "Gateway",
    "Key",
    "Place",
    "Post",
    "PostKind",
    "PostedCode",
    "Record",
    "Registry",
    "Risk",
    "Road",
    "Rule",
    "Stamp",
    "Unit",
    "Venue",
    "VenueKey",
    "change_to_key",
    "change_to_text",
    "changes_to_record",
    "fold",
    "is_in_force",
    "record_to_changes",
]

_FAULTS_MAX: Final = 1000  # that are told
_ROADS_MAX: Final = 10_000  # each post to each of 140


class Stamp(NamedTuple):
    """When a record was written, and by whom; a record of a table read at hand has neither."""

    at_ms: int = 0
    by: str = ""


_NO_STAMP: Final = Stamp()


class Registry:
    """Reads are dictionary look-ups; one instance an engine, changed from one thread.

    `version` grows with each change taken, so that what is derived from the registry knows when
    it is stale. A look-up takes an instant; without one it gives the newest record that there is.
    """

    def __init__(self) -> None:
        self.version = 0
        self.venues: set[int] = set()  # place numbers; the same set all along
        # (kind, key) -> records as (valid_from_ms, order of arrival, record), ascending.
        self._history: dict[tuple[str, Key], list[tuple[int, int, Change]]] = {}
        self._by_kind: dict[str, dict[Key, None]] = {kind: {} for kind in TYPES}
        self._place_keys: dict[int, tuple[str, Key]] = {}
        self._area_codes: dict[int, str] = {}
        self._gateway_names: dict[int, str] = {}
        self._stamps: list[Stamp] = [Stamp()]  # by the version that a change brought
        self._places: dict[int, Place] = {}
        self._folded: dict[int, str] = {}
        self.areas = AreaMap()
        self.units: NameMap[Unit] = NameMap()

    # ---- changing ---------------------------------------------------------------------------

    def apply(self, record: Record) -> None:
        """Takes in one record of the control log; those of other kinds are not ours and skipped.

        Raises StoreVersion and JournalCorrupt.
        """
        if record.kind.startswith(KIND_PREFIX):
            for change in record_to_changes(record.kind, record.body):
                self.take(change, Stamp(record.at_ms, record.by))

    def take(self, change: Change, stamp: Stamp = _NO_STAMP) -> None:
        """Takes in one change. What `prepare` let through always fits."""
        kind, key = change_to_key(change)
        records = self._history.setdefault((kind, key), [])
        self.version += 1
        self._stamps.append(stamp)
        insort(records, (change.valid_from_ms, self.version, change))
        self._by_kind[kind][key] = None
        if isinstance(change, Area):
            self._area_codes[change.number] = change.code
            self.areas.take([record for _, _, record in records if isinstance(record, Area)])
        elif isinstance(change, Unit):
            self.units.take([record for _, _, record in records if isinstance(record, Unit)])
        elif isinstance(change, Gateway):
            self._gateway_names[change.number] = change.name
        elif isinstance(change, Post | Venue):
            newest = records[-1][2]
            assert isinstance(newest, Post | Venue)
            self._place_keys[change.number] = (kind, key)
            if isinstance(newest, Venue):
                self.venues.add(change.number)
            self._places[change.number] = newest
            self._folded[change.number] = fold(newest.name)

    def prepare(self, changes: Sequence[Change]) -> list[Change]:
        """The changes to write: what is new of them, each checked, in their order.

        A gateway or grant without a token keeps the one in force; a change that the registry holds
        already is left out, so that importing a table twice changes nothing.
        Raises RegistryInvalid with every fault; nothing was taken then.
        """
        problems = self.check(changes)
        if problems:
            rows = [f"{change_to_text(changes[i])}: {text}" for i, text in problems[:_FAULTS_MAX]]
            if len(problems) > len(rows):
                rows.append(f"and {len(problems) - len(rows)} more")
            raise RegistryInvalid(f"nothing was taken: {len(problems)} faults", rows=rows)
        filled = [self._keep_token(change) for change in changes]
        return [change for change in filled if not self.is_known(change)]

    def check(self, changes: Sequence[Change]) -> list[tuple[int, str]]:
        """(index, fault) of what cannot be taken, given what is here and the changes together."""
        return _Checker(self, changes).problems()

    def is_known(self, change: Change) -> bool:
        """The newest record that begins at that very instant says the same."""
        records = self._history.get(change_to_key(change), [])
        end = bisect_right(records, (change.valid_from_ms, LATEST_MS))
        return end > 0 and records[end - 1][2] == change

    def _keep_token(self, change: Change) -> Change:
        if isinstance(change, Gateway | Grant) and not change.token_sha256:
            held = self._at(change_to_key(change), LATEST_MS, is_ended=True)
            if isinstance(held, Gateway | Grant) and held.token_sha256:
                change = msgspec.structs.replace(change, token_sha256=held.token_sha256)
                if isinstance(change, Gateway) and isinstance(held, Gateway):
                    change = msgspec.structs.replace(
                        change,
                        old_token_sha256=held.old_token_sha256,
                        old_token_until_ms=held.old_token_until_ms,
                    )
        return change

    # ---- asking -----------------------------------------------------------------------------

    def place(self, number: int, at_ms: int | None = None) -> Place | None:
        """The post or venue of that number."""
        if at_ms is None:
            return self._places.get(number)
        found = self._at(self._place_keys.get(number, ("", 0)), at_ms)
        return found if isinstance(found, Post | Venue) else None

    def free_number(self, first: int) -> int:
        """A place number that was never given, above all that were."""
        return max(first, max(self._place_keys, default=0) + 1)

    def place_name(self, number: int, at_ms: int | None = None) -> str:
        """Its name at that instant, else its newest name, else "#number"."""
        place = self.place(number, at_ms) or self.place(number)
        return place.name if place else f"#{number}"

    def post(self, code: str, at_ms: int | None = None) -> Post | None:
        found = self._at(("post", code), at_ms)
        return found if isinstance(found, Post) else None

    def area(self, code: str, at_ms: int | None = None) -> Area | None:
        found = self._at(("area", code), at_ms)
        return found if isinstance(found, Area) else None

    def gateway(self, name: str, at_ms: int | None = None) -> Gateway | None:
        found = self._at(("gateway", name), at_ms)
        return found if isinstance(found, Gateway) else None

    def is_enrolled(self, gateway: Gateway, at_ms: int) -> bool:
        """Whether what a session was opened with still opens one: in force, with this token."""
        known = self.gateway(gateway.name, at_ms)
        # One without a token came with a certificate or not at all.
        return known is not None and (
            known.token_sha256 == gateway.token_sha256 or known.opens(gateway.token_sha256, at_ms)
        )

    def gateway_name(self, number: int) -> str | None:
        return self._gateway_names.get(number)

    def grant(self, name: str, at_ms: int | None = None) -> Grant | None:
        found = self._at(("grant", name), at_ms)
        return found if isinstance(found, Grant) else None

    def grant_by_token(self, token_sha256: str, at_ms: int) -> Grant | None:
        """The grant in force whose token has this hash.

        Every grant is compared and each in constant time, so that the time says nothing.
        """
        found = None
        for name in self._by_kind["grant"]:
            grant = self._at(("grant", name), at_ms)
            if isinstance(grant, Grant) and is_same_hash(grant.token_sha256, token_sha256):
                found = grant
        return found

    def rule(self, name: str, at_ms: int | None = None) -> int:
        """Raises KeyError for a name that is not in RULES."""
        found = self._at(("rule", name), at_ms)
        return found.value if isinstance(found, Rule) else RULES[name]

    def code(self, text: str, at_ms: int | None = None) -> PostedCode | None:
        """Which venue a code of another issuer stands for."""
        found = self._at(("code", text), at_ms)
        return found if isinstance(found, PostedCode) else None

    def venue_key(self, number: int) -> VenueKey | None:
        """The newest record of a key; key 1 is there without one."""
        found = self._at(("venue_key", number), None)
        return found if isinstance(found, VenueKey) else VenueKey(number=1) if number == 1 else None

    def newest_venue_key(self) -> int:
        """Number of the key that makes codes."""
        return max((key for key in self._by_kind["venue_key"] if isinstance(key, int)), default=1)

    def area_within(self, code: str, ancestor: str, at_ms: int | None = None) -> bool:
        """Whether an area is the other one or lies in it, as AreaMap.lies_in says."""
        return self.areas.lies_in(code, ancestor, at_ms)

    def places_within(self, ancestor: str, at_ms: int | None = None) -> frozenset[int]:
        """Numbers of the places that lie in an area; their own records are the newest."""
        inside = {
            area: self.area_within(area, ancestor, at_ms)
            for area in {place.area for place in self._places.values()}
        }
        return frozenset(n for n, place in self._places.items() if inside[place.area])

    def history(self, kind: str, key: Key) -> list[tuple[Change, Stamp]]:
        """All records of a thing in the order in which they were written."""
        records = sorted(self._history.get((kind, key), []), key=lambda record: record[1])
        return [(change, self._stamps[order]) for _, order, change in records]

    def written_ms(self, kind: str, key: Key) -> int:
        """When the first record of a thing was written; 0 where nobody knows."""
        records = self._history.get((kind, key), [])
        return min((self._stamps[order].at_ms for _, order, _ in records), default=0)

    def entries(self, kind: str, at_ms: int | None = None) -> Iterator[Change]:
        """Records of a kind that hold at the instant, in the order their keys came."""
        for key in tuple(self._by_kind[kind]):  # of one instant: another thread may change it
            found = self._at((kind, key), at_ms)
            if found is not None:
                yield found

    def find_places(self, text: str, limit: int = 50) -> list[Place]:
        """Places whose number, post code or folded name matches, in the order of their numbers."""
        wanted = fold(text.strip())
        found: list[Place] = []
        for number in sorted(self._places):
            place = self._places[number]
            code = fold(place.code) if isinstance(place, Post) else ""
            if wanted == str(number) or wanted in self._folded[number] or wanted in code:
                found.append(place)
                if len(found) == limit:
                    break
        return found

    def place_rules(self) -> dict[int, PlaceRule]:
        """Which places are posts, how long a visit lasts and when they close, from when on."""
        return {
            number: records_to_rule(
                [place for _, _, place in self._history[key] if isinstance(place, Post | Venue)]
            )
            for number, key in self._place_keys.items()
        }

    def visit_rules(self, at_ms: int | None = None) -> VisitRules:
        """The spans that passages and visits are made with."""
        return VisitRules(
            passage_window_ms=self.rule("passage_window_s", at_ms) * 1000,
            gap_ms=self.rule("visit_gap_s", at_ms) * 1000,
            travel_ms=self.rule("travel_s", at_ms) * 1000,
            queue_ms=self.rule("queue_window_s", at_ms) * 1000,
        )

    def spans(self) -> list[Spans]:
        """What makes a scan *seen* or a copy, from when on; ascending, the first since ever."""
        keys: list[tuple[str, Key]] = [("rule", "seen_window_s"), ("rule", "two_lanes_s")]
        keys += [("road", key) for key in self._by_kind["road"]]
        changes = [change for key in keys for _, _, change in self._history.get(key, [])]
        begins = {0, *(change.valid_from_ms for change in changes)}
        begins |= {change.valid_to_ms for change in changes if change.valid_to_ms is not None}
        return [self._spans_at(at_ms) for at_ms in sorted(begins)]

    def _spans_at(self, at_ms: int) -> Spans:
        roads = []
        for road in self.entries("road", at_ms):
            assert isinstance(road, Road)
            post, other = self.post(road.post), self.post(road.other)
            if post and other and road.least_minutes:
                roads.append((post.number, other.number, road.least_minutes * MINUTE_MS))
        lanes_s = self.rule("two_lanes_s", at_ms)
        return Spans(
            from_ms=at_ms,
            window_ms=self.rule("seen_window_s", at_ms) * 1000,
            lanes_ms=lanes_s * 1000 + 1 if lanes_s else 0,
            roads=tuple(roads),
        )

    def _at(
        self, key: tuple[str, Key], at_ms: int | None, *, is_ended: bool = False
    ) -> Change | None:
        """The record of a key at an instant; is_ended: one that has ended counts as well."""
        records = self._history.get(key)
        if not records:
            return None
        if at_ms is None:
            return records[-1][2]
        end = bisect_right(records, (at_ms, LATEST_MS))
        if not end:
            return None
        found = records[end - 1][2]
        return found if is_ended or is_in_force(found, at_ms) else None


class _Checker:
    """Judges a set of changes together: a venue may name an area that the same table brings."""

    def __init__(self, registry: Registry, changes: Sequence[Change]) -> None:
        self._registry = registry
        self._changes = changes
        self._areas = {c.code: c for c in changes if isinstance(c, Area)}
        self._units = {c.code for c in changes if isinstance(c, Unit)}
        self._unit_names: set[str] | None = None
        self._posts = {c.code: c for c in changes if isinstance(c, Post)}
        self._venues = {c.number for c in changes if isinstance(c, Venue)}
        roads = {change_to_key(c)[1] for c in changes if isinstance(c, Road)}
        self._road_count = len(roads.union(registry._by_kind["road"]))
        self._owners: dict[str, dict[int, Key]] = {
            "area": dict(registry._area_codes),
            "gateway": dict(registry._gateway_names),
            "place": {n: " ".join(map(str, k)) for n, k in registry._place_keys.items()},
        }
        self._numbers = {
            space: {owner: number for number, owner in owners.items()}
            for space, owners in self._owners.items()
        }
        self._tokens = {
            change.token_sha256: change_to_text(change)
            for kind in ("gateway", "grant")
            for change in registry.entries(kind)
            if isinstance(change, Gateway | Grant)
        }

    def problems(self) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        given: set[tuple[tuple[str, Key], int]] = set()
        for i, change in enumerate(self._changes):
            identity = (change_to_key(change), change.valid_from_ms)
            if identity in given:
                found.append((i, "is given twice"))
            given.add(identity)
            found += [(i, text) for text in self._check(change)]
        return found

    def _check(self, change: Change) -> Iterator[str]:
        if change.valid_to_ms is not None and change.valid_to_ms <= change.valid_from_ms:
            yield "ends before it begins"
        if isinstance(change, Area | Unit | Post | Venue):
            yield from _check_text(change.name)
        match change:
            case Area():
                yield from self._check_number("area", change.number, change.code)
                yield from self._check_parent(change)
                yield from self._check_area(change.successor)
            case Unit():
                yield from self._check_area(change.area)
                yield from self._check_unit(change.parent)
                yield from self._check_unit(change.successor)
            case Post() | Venue():
                yield from self._check_number("place", change.number, change_to_text(change))
                yield from self._check_area(change.area)
                yield from _check_location(change.location)
                if isinstance(change, Venue):
                    yield from self._check_unit(change.unit)
                    yield from _check_hours(change.hours)
            case PostedCode():
                yield from _check_posted(change.text)
                known = change.venue in self._venues or change.venue in self._registry.venues
                if not known:
                    yield f"venue {change.venue} is not known"
            case Census():
                yield from self._check_area(change.area)
            case VenueKey():
                if change.number > self._registry.newest_venue_key() + 1:
                    yield "keys are numbered one after the other"
            case Road():
                yield from self._check_road(change)
            case Gateway():
                yield from self._check_number("gateway", change.number, change.name)
                yield from self._check_lanes(change)
                yield from self._check_token(change)
            case Rule():
                if change.name not in RULES:
                    yield f"there is no rule {change.name!r}; known: {', '.join(RULES)}"
            case Grant():
                yield from self._check_unit_name(change.unit)
                yield from self._check_area(change.area)
                yield from self._check_token(change)
                if change.role in AREA_BOUND and not change.area:
                    yield f"role {change.role} needs an area"

    def _check_number(self, space: str, number: int, owner: Key) -> Iterator[str]:
        """Number and owner belong to each other for ever, in both directions."""
        other = self._owners[space].setdefault(number, owner)
        held = self._numbers[space].setdefault(owner, number)
        if other != owner:
            yield f"number {number} belongs to {other}"
        elif held != number:
            yield f"its number is {held} and stays so"

    def _check_area(self, code: str) -> Iterator[str]:
        if code and code not in self._areas and self._registry.area(code) is None:
            yield f"area {code!r} is not known"

    def _check_unit(self, code: str) -> Iterator[str]:
        if code and code not in self._units and code not in self._registry._by_kind["unit"]:
            yield f"unit {code!r} is not known"

    def _check_unit_name(self, text: str) -> Iterator[str]:
        """A grant says its unit as people do: by code or by any name that it has or had."""
        if self._unit_names is None:
            new = {fold(t) for c in self._changes if isinstance(c, Unit) for t in (c.code, c.name)}
            self._unit_names = self._registry.units.names() | new
        yield from _check_text(text)
        if fold(text) not in self._unit_names:
            yield f"unit {text[:60]!r} is not known; units have a table of their own"

    def _check_parent(self, area: Area) -> Iterator[str]:
        yield from self._check_area(area.parent)
        code = area.parent
        for _ in range(AREA_DEPTH_MAX):
            if not code:
                return
            above = self._areas.get(code) or self._registry.area(code)
            code = above.parent if above else ""
        yield f"lies in itself or more than {AREA_DEPTH_MAX} areas deep"

    def _check_road(self, road: Road) -> Iterator[str]:
        if self._road_count > _ROADS_MAX:
            yield f"more than {_ROADS_MAX} roads"
        if road.post == road.other:
            yield "leads to the post where it begins"
        for code in (road.post, road.other):
            if code not in self._posts and self._registry.post(code) is None:
                yield f"post {code!r} is not known"

    def _check_lanes(self, gateway: Gateway) -> Iterator[str]:
        if not gateway.post:
            if gateway.lanes:
                yield "a gateway without a post has no lanes"
            return
        post = self._posts.get(gateway.post) or self._registry.post(gateway.post)
        if post is None:
            yield f"post {gateway.post!r} is not known"
        elif not gateway.lanes:
            yield "serves no lane"
        elif max(gateway.lanes) > post.lanes or len(set(gateway.lanes)) < len(gateway.lanes):
            yield f"lanes are different numbers from 1 to {post.lanes} at post {gateway.post}"

    def _check_token(self, change: Gateway | Grant) -> Iterator[str]:
        """No shared account (SEC-3): one token, one owner."""
        if change.token_sha256:
            owner = change_to_text(change)
            if self._tokens.setdefault(change.token_sha256, owner) != owner:
                yield "its token belongs to somebody else"


def _check_text(text: str) -> Iterator[str]:
    if text != text.strip() or not unicodedata.is_normalized("NFC", text):
        yield "its name has blanks at an end or is not in Unicode form NFC"


def _check_location(location: str) -> Iterator[str]:
    north, _, east = location.partition(",")
    if location and (abs(float(north)) > 90 or abs(float(east)) > 180):
        yield "location is degrees north and degrees east"


def _check_hours(text: str) -> Iterator[str]:
    try:
        text_to_week(text)
    except ValueError as error:
        yield str(error)


def _check_posted(text: str) -> Iterator[str]:
    """The registry is kept for ever and shown to many: no person's code may come into it."""
    found = parse(text.encode())
    if isinstance(found, Parsed | Chunk):
        yield "that is the code of a person"
    elif isinstance(found, VenueCode):
        yield "a code of our own needs no entry"
