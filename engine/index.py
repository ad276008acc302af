"""The co-location index: who was where, who was there at the same time, what a day counted.

Kept in memory. The newest state is an immutable Snapshot of a few layers. A layer owns persons: it
holds all their scans and the visits derived from them. Scans that came since the last snapshot
make a small layer that takes over the persons they touch, with all scans of these persons, so that
the visit rules see the whole person; the column `owner` hides what older layers hold of them.
Neighbouring layers are merged while the older is at most MERGE_RATIO times as big as the younger,
so that there are logarithmically few. No answer depends on how the scans were spread over layers.

Overlaps are searched by native.index in visits sorted by place and start, with the longest stay of
each place as the bound on how far back to look. Answers are packed numpy arrays with the dtypes
below.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engine.clock import DAY_MS, day_to_ms
from engine.contacts import CONTACT, PAIR
from engine.rows import Kind
from engine.visits import (
    NEVER,
    REF_ROW_BITS,
    SCAN,
    VISIT,
    Array,
    PlaceRules,
    VisitFlag,
    VisitRules,
    changes,
    derive_distinct,
    distinct,
)
from native.contacts import find_contacts
from native.index import VisitTable

MERGE_RATIO = 4
NOBODY = -1

PLACE_FIGURE = np.dtype(
    [("place", "<u4")]
    + [(name, "<u4") for name in ("scans", "checkins", "manuals", "persons", "visits", "passages")]
)
PASSAGE_FIGURE = np.dtype(
    [("place", "<u4"), ("lane", "<u2"), ("direction", "u1"), ("spare", "u1"), ("count", "<u4")]
)


class GroupLike(Protocol):
    """What the index reads of a journal group: its number and its rows, an array of ROW."""

    @property
    def lsn(self) -> int: ...
    @property
    def rows(self) -> Array: ...


@dataclass(frozen=True, slots=True)
class Found:
    """Visits, complete up to `lsn`, sorted by start, end and key.

    visits: VISIT, `person` being the position in `persons`; persons: V16 keys, ascending; newest:
    ref of each person's newest row, under which the log holds sealed details; total: visits found,
    more than len(visits) where a limit cut them.
    """

    visits: Array
    persons: Array
    newest: Array
    total: int
    lsn: int


@dataclass(frozen=True, slots=True)
class Met:
    """Contacts, complete up to `lsn`, ranked.

    contacts: CONTACT, and of each the key in `persons` (V16) and the ref of the newest row in
    `newest`; pairs: PAIR, in the order of the contacts; total: contacts found, more than
    len(contacts) where a limit cut them; below: how many persons met less than the threshold.
    """

    contacts: Array
    pairs: Array
    persons: Array
    newest: Array
    total: int
    below: int
    lsn: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts of one civil day. places: PLACE_FIGURE; passages: PASSAGE_FIGURE; persons: in all."""

    day: int
    places: Array
    passages: Array
    persons: int
    lsn: int


def ref_to_position(ref: int) -> tuple[int, int]:
    """(lsn, row within the group) of a ref."""
    return ref >> REF_ROW_BITS, ref & ((1 << REF_ROW_BITS) - 1)


def _spans_to_index(low: Array, high: Array) -> tuple[Array, Array]:
    """All positions of the spans [low, high), and of each the number of its span."""
    size = np.maximum(high - low, 0)
    which = np.repeat(np.arange(len(size)), size)
    begin = np.cumsum(size) - size
    return which, np.arange(len(which)) + (low - begin)[which]


def _joined(parts: Iterable[Array], dtype: np.dtype[Any]) -> Array:
    """The rows of all parts in one array, which cannot be written to.

    Bytes are joined, and rows picked by `take` and `compress`, because np.concatenate and an index
    move structs field by field: ten times slower.
    """
    return np.frombuffer(b"".join([part.data for part in parts]), dtype)


class _Layer:
    """Scans and visits of the persons a layer owns; never changed after it is built."""

    __slots__ = ("ident", "newest", "persons", "scan_first", "scans", "table", "visits")

    def __init__(self, ident: int, scans: Array, visits: Array) -> None:
        """scans: SCAN as `distinct` sorts them; visits: VISIT of the same persons, any order."""
        self.ident = ident
        self.scans = scans
        first = np.flatnonzero(changes(scans["person"]))
        self.persons = scans["person"][first]
        self.scan_first = np.append(first, len(scans))
        self.newest = _newest_refs(scans, first)

        columns = [visits[name] for name in ("person", "end_ms", "start_ms", "place")]
        # The table reads these bytes for as long as it lives; `visits` shares them, unwritable.
        packed = visits.take(np.lexsort(columns)).tobytes()
        self.visits = np.frombuffer(packed, VISIT)
        self.table = VisitTable(ident, packed)

    def scans_of(self, persons: Array) -> Array:
        """All scans of some of the layer's persons."""
        rank = np.searchsorted(self.persons, persons)
        _, at = _spans_to_index(self.scan_first[rank], self.scan_first[rank + 1])
        return self.scans.take(at)

    def newest_of(self, persons: Array) -> Array:
        newest: Array = self.newest[np.searchsorted(self.persons, persons)]
        return newest


def _newest_refs(scans: Array, first: Array) -> Array:
    """Ref of each person's newest scan; of those at one instant the largest."""
    newest = np.maximum.reduceat(scans["time_ms"], first)
    size = np.diff(first, append=len(scans))
    is_newest = scans["time_ms"] == np.repeat(newest, size)
    return np.maximum.reduceat(np.where(is_newest, scans["ref"], 0), first)


class Snapshot:
    """One state of the index, complete up to `lsn`. Immutable; any thread may ask it."""

    def __init__(
        self,
        layers: tuple[_Layer, ...],
        live: dict[int, int],
        owner: Array,
        keys: Array,
        numbers: dict[bytes, int],
        rules: VisitRules,
        lsn: int,
    ) -> None:
        """live: scans still owned, by layer; owner: layer by person; keys: V16 by person."""
        self.layers = layers
        self.live = live
        self.owner = owner
        self.keys = keys
        self.lsn = lsn
        self._numbers = numbers
        self._rules = rules

    def is_owned(self, layer: _Layer, persons: Array) -> Array:
        """Mask of the persons whose scans and visits in a layer are the valid ones."""
        mask: Array = self.owner[persons] == layer.ident
        return mask

    def persons_of(self, keys: Collection[bytes]) -> list[int]:
        """Numbers of the keys that are known here, ascending."""
        found = {self._numbers.get(key, NOBODY) for key in keys}
        return sorted(number for number in found if 0 <= number < len(self.owner))

    def venue(self, place: int, from_ms: int, to_ms: int, limit: int | None = None) -> Found:
        """Visits at a place that overlap [from_ms, to_ms)."""
        packed = []
        if 0 <= place < 1 << 32:
            span = _clamped(from_ms), _clamped(to_ms)
            owner = self.owner.data
            packed = [layer.table.at_place(place, *span, owner) for layer in self.layers]
        return self._found(np.frombuffer(b"".join(packed), VISIT), limit)

    def history(
        self,
        persons: Collection[bytes],
        from_ms: int,
        to_ms: int,
        *,
        places: Collection[int] | None = None,
        limit: int | None = None,
    ) -> Found:
        """Visits and passages overlapping [from_ms, to_ms) of one person known by some keys.

        places: only what happened there.
        """
        return self._found(self._visits_of(self.persons_of(persons), from_ms, to_ms, places), limit)

    def contacts(
        self,
        persons: Collection[bytes],
        from_ms: int,
        to_ms: int,
        *,
        linger_ms: int = 0,
        min_overlap_ms: int = 0,
        window_ms: int = DAY_MS,
        places: Collection[int] | None = None,
        limit: int | None = None,
    ) -> Met:
        """Who met the person known by the given keys (engine.contacts has the rules).

        Whole visits of the case that overlap [from_ms, to_ms) count, at `places` only if given.
        min_overlap_ms: the threshold of K4; limit: most persons listed.
        """
        numbers = self.persons_of(persons)
        case = self._visits_of(numbers, from_ms, to_ms, places)
        shown, contacts, pairs, total, below = find_contacts(
            [layer.table for layer in self.layers],
            case.tobytes(),
            np.array(numbers, np.uint32).data,
            self.owner.data,
            self.keys.data,
            linger_ms=linger_ms,
            queue_ms=self._rules.queue_ms,
            min_ms=min_overlap_ms,
            window_ms=window_ms,
            limit=len(self.keys) if limit is None else limit,
        )
        people = np.frombuffer(shown, np.uint32)
        return Met(
            np.frombuffer(contacts, CONTACT),
            np.frombuffer(pairs, PAIR),
            self.keys[people],
            self._newest(people),
            total,
            below,
            self.lsn,
        )

    def figures(self, day: int) -> Figures:
        """Counts of a civil day: distinct scans by their time, visits and passages by start."""
        low, high = day_to_ms(day), day_to_ms(day + 1)
        scans: list[Array] = []
        visits: list[Array] = []
        for layer in self.layers:
            for parts, rows, name in (
                (scans, layer.scans, "time_ms"),
                (visits, layer.visits, "start_ms"),
            ):
                rows = rows.compress((rows[name] >= low) & (rows[name] < high))
                parts.append(rows.compress(self.is_owned(layer, rows["person"])))
        return _figures(day, _joined(scans, SCAN), _joined(visits, VISIT), self.lsn)

    def last_details_ref(self, person: bytes) -> tuple[int, int] | None:
        """(lsn, row) of the person's newest row, None for a person without any."""
        numbers = [n for n in self.persons_of([person]) if self.owner[n] != NOBODY]
        return ref_to_position(int(self._newest(np.array(numbers))[0])) if numbers else None

    def _visits_of(
        self, numbers: list[int], from_ms: int, to_ms: int, places: Collection[int] | None
    ) -> Array:
        span = _clamped(from_ms), _clamped(to_ms)
        by_ident = {layer.ident: layer for layer in self.layers}
        packed = []
        for number in numbers:
            layer = by_ident.get(int(self.owner[number]))
            if layer is not None:
                packed.append(layer.table.of_person(number, *span))
        visits = np.frombuffer(b"".join(packed), VISIT)
        if places is not None:
            allowed = np.array(sorted(places), np.int64)
            visits = visits.compress(np.isin(visits["place"], allowed))
        return visits

    def _by_key(self, persons: Array) -> tuple[Array, Array]:
        """The different numbers in `persons` by ascending key, and of each person its position."""
        numbers, inverse = np.unique(persons, return_inverse=True)
        halves = np.frombuffer(self.keys[numbers].tobytes(), ">u8").reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))
        position = np.empty(len(order), np.int64)
        position[order] = np.arange(len(order))
        return numbers[order], position[inverse]

    def _newest(self, persons: Array) -> Array:
        """Ref of the newest row of each person that has rows."""
        newest = np.zeros(len(persons), np.uint64)
        owner = self.owner[persons]
        for layer in self.layers:
            at = np.flatnonzero(owner == layer.ident)
            newest[at] = layer.newest_of(persons[at])
        return newest

    def _found(self, visits: Array, limit: int | None) -> Found:
        _, position = self._by_key(visits["person"])
        order = np.lexsort((visits["place"], position, visits["end_ms"], visits["start_ms"]))
        shown = visits.take(order[:limit])
        people, shown["person"] = self._by_key(shown["person"])
        return Found(shown, self.keys[people], self._newest(people), len(visits), self.lsn)


def _clamped(instant_ms: int) -> int:
    return max(-NEVER // 2, min(instant_ms, NEVER // 2))


def _figures(day: int, scans: Array, visits: Array, lsn: int) -> Figures:
    is_passage = (visits["flags"] & VisitFlag.PASSAGE) > 0
    numbers = np.unique(np.concatenate([scans["place"], visits["place"]]))
    places = np.zeros(len(numbers), PLACE_FIGURE)
    places["place"] = numbers
    pair = scans["place"].astype(np.uint64) << np.uint64(32) | scans["person"]
    for name, column in (
        ("scans", scans["place"][scans["kind"] == Kind.SCAN]),
        ("checkins", scans["place"][scans["kind"] == Kind.CHECKIN]),
        ("manuals", scans["place"][scans["kind"] == Kind.MANUAL]),
        ("persons", np.unique(pair) >> np.uint64(32)),
        ("visits", visits["place"][~is_passage]),
        ("passages", visits["place"][is_passage]),
    ):
        places[name] = np.bincount(np.searchsorted(numbers, column), minlength=len(numbers))
    lanes = np.zeros(int(is_passage.sum()), PASSAGE_FIGURE)
    for name, field in (("place", "place"), ("lane", "room"), ("direction", "direction")):
        lanes[name] = visits[field][is_passage]
    if len(lanes):
        lanes = lanes[np.lexsort((lanes["direction"], lanes["lane"], lanes["place"]))]
        first = np.flatnonzero(changes(lanes["place"], lanes["lane"], lanes["direction"]))
        size = np.diff(first, append=len(lanes))
        lanes = lanes[first]
        lanes["count"] = size
    return Figures(day, places, lanes, len(np.unique(scans["person"])), lsn)


class CoLocationIndex:
    """The index over everything applied so far. One thread applies, any number ask."""

    def __init__(self, place_rules: PlaceRules, visit_rules: VisitRules | None = None) -> None:
        self._places = place_rules
        self._rules = visit_rules or VisitRules()
        self._refreshing = threading.Lock()  # taken before _writing, never after it
        self._writing = threading.Lock()
        self._fresh: list[Array] = []
        self._numbers: dict[bytes, int] = {}
        self._new_keys: list[bytes] = []
        self._key_room = np.zeros(1024, "V16")
        self._key_count = 0
        self._applied = 0
        self._next_ident = 0
        empty = np.zeros(0, np.int32)
        self._snapshot = Snapshot((), {}, empty, self._key_room[:0], self._numbers, self._rules, 0)

    @property
    def applied_lsn(self) -> int:
        return self._applied

    @property
    def person_count(self) -> int:
        return len(self._numbers)

    def apply(self, group: GroupLike) -> None:
        """Takes in the rows of a journal group; a group applied before changes nothing.

        Raises ValueError for a group whose number or size no ref can hold.
        """
        rows, lsn = group.rows, group.lsn
        if not 0 < lsn < 1 << (64 - REF_ROW_BITS) or len(rows) > 1 << REF_ROW_BITS:
            raise ValueError(f"group {lsn} with {len(rows)} rows does not fit a ref")
        scans = np.zeros(len(rows), SCAN)
        for name in SCAN.names or ():
            if name not in ("ref", "person"):
                scans[name] = rows[name]
        scans["ref"] = np.arange(len(rows), dtype=np.uint64) + np.uint64(lsn << REF_ROW_BITS)
        # A temperature says nothing of presence that its scan does not say.
        is_scan = rows["kind"] != Kind.READING
        rows, scans = rows[is_scan], scans[is_scan]
        keys = rows["person"].tolist()
        with self._writing:
            if lsn <= self._applied:
                return
            numbers = self._numbers
            for key in keys:
                if key not in numbers:
                    numbers[key] = len(numbers)
                    self._new_keys.append(key)
            scans["person"] = [numbers[key] for key in keys]
            if len(scans):
                self._fresh.append(scans)
            self._applied = lsn

    def snapshot(self) -> Snapshot:
        """The state with everything applied so far; derives what is new, at most once."""
        current = self._snapshot
        if current.lsn == self._applied:
            return current
        with self._refreshing:
            if self._snapshot.lsn != self._applied:
                self._refresh()
            return self._snapshot

    def venue(self, place: int, from_ms: int, to_ms: int) -> Found:
        """As Snapshot.venue, of the newest state; so are the other questions."""
        return self.snapshot().venue(place, from_ms, to_ms)

    def history(self, persons: Collection[bytes], from_ms: int, to_ms: int) -> Found:
        return self.snapshot().history(persons, from_ms, to_ms)

    def contacts(
        self,
        persons: Collection[bytes],
        from_ms: int,
        to_ms: int,
        *,
        linger_ms: int = 0,
        min_overlap_ms: int = 0,
    ) -> Met:
        return self.snapshot().contacts(
            persons, from_ms, to_ms, linger_ms=linger_ms, min_overlap_ms=min_overlap_ms
        )

    def figures(self, day: int) -> Figures:
        return self.snapshot().figures(day)

    def last_details_ref(self, person: bytes) -> tuple[int, int] | None:
        return self.snapshot().last_details_ref(person)

    def set_place_rules(
        self, place_rules: PlaceRules, visit_rules: VisitRules | None = None
    ) -> None:
        """Derives everything anew under other rules (the registry has changed)."""
        with self._refreshing:
            self._places = place_rules
            self._rules = visit_rules or self._rules
            self._refresh()
            self._rebuild(self._all_scans())

    def expire(self, before_ms: int) -> int:
        """Forgets every scan before an instant; returns how many distinct ones.

        Snapshots still held by a question keep what they hold until the question is answered.
        """
        with self._refreshing:
            self._refresh()
            scans = self._all_scans()
            kept = scans.compress(scans["time_ms"] >= before_ms)
            if len(kept) < len(scans):
                self._rebuild(kept)
            return len(scans) - len(kept)

    def _all_scans(self) -> Array:
        current = self._snapshot
        return _joined(
            [
                layer.scans.compress(current.is_owned(layer, layer.scans["person"]))
                for layer in current.layers
            ],
            SCAN,
        )

    def _rebuild(self, scans: Array) -> None:
        """A snapshot with one layer of all the given scans, which are those of the current one."""
        current = self._snapshot
        owner = np.full(len(current.owner), NOBODY, np.int32)
        layers: tuple[_Layer, ...] = ()
        live = {}
        if len(scans):
            layers = (self._layer(distinct(scans), owner),)
            live = {layers[0].ident: len(scans)}
        self._snapshot = self._with(layers, live, owner, current.keys, current.lsn)

    def _refresh(self) -> None:
        """Makes a snapshot of everything applied; the caller holds `_refreshing`."""
        current = self._snapshot
        with self._writing:
            fresh, lsn = list(self._fresh), self._applied
            keys = self._keys()
        owner = np.full(len(keys), NOBODY, np.int32)
        owner[: len(current.owner)] = current.owner
        layers, live = list(current.layers), dict(current.live)
        if fresh:
            scans = _joined(fresh, SCAN)
            touched = np.unique(scans["person"])
            parts = [scans]
            for layer in layers:
                moved = layer.scans_of(touched[owner[touched] == layer.ident])
                live[layer.ident] -= len(moved)
                parts.append(moved)
            layers = [layer for layer in layers if live[layer.ident]]
            scans = distinct(_joined(parts, SCAN))
            layers.append(self._layer(scans, owner))
            live[layers[-1].ident] = len(scans)
            while len(layers) > 1 and (
                live[layers[-2].ident] <= MERGE_RATIO * live[layers[-1].ident]
            ):
                younger, older = layers.pop(), layers.pop()
                layers.append(self._merged(older, younger, owner))
                live[layers[-1].ident] = live[older.ident] + live[younger.ident]
        live = {layer.ident: live[layer.ident] for layer in layers}
        self._snapshot = self._with(tuple(layers), live, owner, keys, lsn)
        with self._writing:
            del self._fresh[: len(fresh)]

    def _with(
        self,
        layers: tuple[_Layer, ...],
        live: dict[int, int],
        owner: Array,
        keys: Array,
        lsn: int,
    ) -> Snapshot:
        return Snapshot(layers, live, owner, keys, self._numbers, self._rules, lsn)

    def _keys(self) -> Array:
        """V16 of every person so far. Grows in place behind what older snapshots can see."""
        known, total = self._key_count, len(self._numbers)
        if total > len(self._key_room):
            room = np.zeros(2 * total, "V16")
            room[:known] = self._key_room[:known]
            self._key_room = room
        self._key_room[known:total] = np.frombuffer(b"".join(self._new_keys), "V16")
        self._new_keys.clear()
        self._key_count = total
        return self._key_room[:total]

    def _layer(self, scans: Array, owner: Array) -> _Layer:
        """A new layer of distinct scans; it becomes the owner of their persons."""
        visits = derive_distinct(scans, self._places, self._rules)
        return self._owning(scans, visits, owner)

    def _merged(self, older: _Layer, younger: _Layer, owner: Array) -> _Layer:
        """Both layers in one. No visit is derived again: no person has scans in both."""
        scans, visits = [], []
        for layer in (older, younger):
            scans.append(layer.scans.compress(owner[layer.scans["person"]] == layer.ident))
            visits.append(layer.visits.compress(owner[layer.visits["person"]] == layer.ident))
        both = _joined(scans, SCAN)
        both = both.take(np.argsort(both["person"], kind="stable"))
        return self._owning(both, _joined(visits, VISIT), owner)

    def _owning(self, scans: Array, visits: Array, owner: Array) -> _Layer:
        layer = _Layer(self._next_ident, scans, visits)
        self._next_ident += 1
        owner[layer.persons] = layer.ident
        return layer
