"""The co-location index: who was where, who was there at the same time, what a day counted.

Kept in memory, in a few layers. A layer holds scans, sorted by person, and the visits that these
scans brought about when they came, sorted by place. A refresh makes a small layer of what is new:
native.visits tells which visits the new scans give and which older ones they put an end to. These
end with the new epoch and stay where they are, so that nothing old is written again, and a Snapshot
(layers, epoch) never changes. No answer depends on how the scans were spread over layers.

A layer is merged with those before it while they are at most MERGE_RATIO times as big, so that
there are logarithmically few. Beside an engine a thread keeps up: it refreshes soon after scans
have come and merges while others ask and refresh; a question finds little left to do. Answers are
packed numpy arrays with the dtypes below.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

import numpy as np

from engine.clock import DAY_MS, day_to_ms
from engine.colocation import forgetting
from engine.colocation.corrections import Correction, Corrections, correct
from engine.colocation.figures import Figures, count_day
from engine.colocation.found import Found, GroupLike, Met, joined, ref_to_position
from engine.colocation.layers import (
    Layer,
    first_due,
    forget_days,
    forget_scans,
    has_any,
    in_memory,
    in_segments,
    merge_layers,
)
from engine.identity.aliases import (
    ENDING,
    Aliases,
    AliasNumbers,
    alias_changes,
    number_aliases,
    number_keys,
)  # fmt: skip
from engine.presence.contacts import CONTACT, PAIR
from engine.presence.visits import (
    REF_ROW_BITS,
    SCAN,
    SPAN_MAX_MS,
    VISIT,
    Array,
    PlaceRules,
    VisitRules,
    rule_spans,
)
from engine.telemetry import Log
from native.contacts import find_contacts
from native.found import list_visits
from native.index import VisitTable, born_table, end_visits, visits_at
from native.numbers import PersonNumbers
from native.scans import ScanRun, merge_runs
from native.together import people_at, time_together, times_of
from native.visits import Changes, derive_changes
from native.walks import visits_of_many

REFRESH_S: Final = 0.05  # the keeping thread lets so much time's scans come together
FLOOD_SCANS: Final = 1 << 12  # where more come in that time, it waits on: that costs less each
FLOOD_WAITS: Final = 5
FLOOD_LAYERS: Final = 16  # and merges no fewer
INLINE_SCANS: Final = 1 << 16  # a question merges no more than that where a thread keeps up
LAYERS_MAX: Final = 32  # unless there are so many layers
NEWEST_STEP: Final = 1 << 12  # scans; then other threads have their turn

Layers = tuple[Layer, ...]
EVER: Final = (-4 * SPAN_MAX_MS, 4 * SPAN_MAX_MS)

_log = Log("index")

NEWEST = np.dtype([("time_ms", "<i8"), ("ref", "<u8")])


class Snapshot:
    """One state of the index, complete up to `lsn`. Immutable, but for newest rows."""

    def __init__(
        self,
        layers: Layers, epoch: int, numbers: PersonNumbers, rules: VisitRules, lsn: int,
        aliases: AliasNumbers | None = None,
    ) -> None:  # fmt: skip
        # Counted first: columns that grow in between have room for more than that.
        self.count = len(numbers)
        keys, newest = numbers.columns()
        self.layers = layers
        self.epoch = epoch
        self.lsn = lsn
        self.tables = [layer.visits for layer in layers]
        self.keys = np.frombuffer(keys, "V16", self.count)
        self._key_bytes = memoryview(keys)[: 16 * self.count]
        self._newest = np.frombuffer(newest, NEWEST, self.count)
        self._numbers = numbers
        self._rules = rules
        self.aliases = aliases or AliasNumbers()

    def persons_of(self, keys: Collection[bytes]) -> list[int]:
        """Numbers of the persons who are known here by the keys, ascending."""
        found = {self._numbers.find(key) for key in keys}
        if self.aliases:
            found = {self.aliases.main(number) for number in found}
        return sorted(number for number in found if 0 <= number < self.count)

    def newest_of(self, people: Array) -> Array:
        """Refs of the newest rows of persons by number."""
        return self.aliases.newest(people, self._newest)

    def changed_after(self, persons: Array, lsn: int) -> Array:
        """Mask of the keys (V16) that a merge, or its end, made others than an answer of `lsn`
        may have shown."""
        changed = self.aliases.changed
        if not changed:
            return np.zeros(len(persons), bool)
        numbers = (self._numbers.find(key.tobytes()) for key in persons)
        return np.array([changed.get(number, -1) >= lsn for number in numbers], bool)

    def venue(self, place: int, from_ms: int, to_ms: int, limit: int | None = None) -> Found:
        """Visits at a place that overlap [from_ms, to_ms)."""
        span = clamped(from_ms), clamped(to_ms)
        is_place = 0 <= place < 1 << 32
        packed = visits_at(self.tables, place, *span, self.epoch) if is_place else b""
        return self.found(packed, limit)

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
        return self.found(self._packed_of(self.persons_of(persons), from_ms, to_ms, places), limit)

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
        derive: Callable[[Array], Array] | None = None,
    ) -> Met:
        """Who met the person known by the given keys (engine.presence.contacts has the rules).

        Whole visits of the case that overlap [from_ms, to_ms) count, at `places` only if given.
        min_overlap_ms: the threshold of K4; limit: most persons listed; derive: what of it counts.
        """
        numbers = self.persons_of(persons)
        case = self._packed_of(numbers, from_ms, to_ms, places)
        if derive is not None:
            case = derive(np.frombuffer(case, VISIT)).tobytes()
        shown, contacts, pairs, total, below = find_contacts(
            self.tables,
            case,
            array("I", numbers),
            self._key_bytes,
            self.epoch,
            linger_ms=linger_ms,
            queue_ms=self._rules.queue_ms,
            min_ms=min_overlap_ms,
            window_ms=window_ms,
            limit=self.count if limit is None else limit,
        )
        people = np.frombuffer(shown, np.uint32)
        return Met(
            np.frombuffer(contacts, CONTACT),
            np.frombuffer(pairs, PAIR),
            self.keys[people],
            self.newest_of(people),
            total,
            below,
            self.lsn,
        )

    def people_at(self, place: int, from_ms: int, to_ms: int) -> set[bytes]:
        """Keys of the persons with a visit at a place that overlaps [from_ms, to_ms)."""
        span = clamped(from_ms), clamped(to_ms)
        return people_at(self.tables, place, *span, self._key_bytes, self.epoch)

    def times_of(self, person: bytes, from_ms: int, to_ms: int) -> list[tuple[int, int, int]]:
        """(start, length, place) in ms of a person's visits that overlap [from_ms, to_ms)."""
        span = clamped(from_ms), clamped(to_ms)
        for number in self.persons_of([person]):
            return times_of(self.tables, number, *span, self.epoch)
        return []

    def time_together(self, person: bytes, from_ms: int, to_ms: int) -> dict[bytes, int]:
        """Milliseconds of overlap with others by key, without the rules K1 to K4."""
        span = clamped(from_ms), clamped(to_ms)
        for number in self.persons_of([person]):
            return time_together(self.tables, number, *span, self._key_bytes, self.epoch)
        return {}

    def figures(self, day: int) -> Figures:
        """Counts of a civil day: distinct scans by their time, visits and passages by start."""
        low, high = day_to_ms(day), day_to_ms(day + 1)
        # Copies that came at different times lie in different layers: a run joins them.
        scans = ScanRun([layer.scans.between(low, high) for layer in self.layers])
        visits = [table.begun(low, high, self.epoch) for table in self.tables]
        today = np.frombuffer(scans.between(low, high), SCAN)
        if self.aliases:
            today = today.copy()
            today["person"] = self.aliases.mains(today["person"])
            today = np.frombuffer(ScanRun([today.data]).between(low, high), SCAN)
        return count_day(day, today, joined(visits, VISIT), self.lsn)

    def last_details_ref(self, person: bytes) -> tuple[int, int] | None:
        """(lsn, row) of the person's newest row, None for a person without any."""
        for number in self.persons_of([person]):
            ref = int(self.newest_of(np.array([number], np.uint32))[0])
            return ref_to_position(ref) if ref else None
        return None

    def _packed_of(
        self, numbers: list[int], from_ms: int, to_ms: int, places: Collection[int] | None
    ) -> bytes:
        span = clamped(from_ms), clamped(to_ms)
        packed = visits_of_many(self.tables, array("I", numbers), *span, self.epoch)
        if places is None:
            return packed
        visits = np.frombuffer(packed, VISIT)
        allowed = np.array(sorted(places), np.int64)
        return visits.compress(np.isin(visits["place"], allowed)).tobytes()

    def found(self, packed: bytes, limit: int | None) -> Found:
        """The first `limit` of packed VISIT, all of them for None, as an answer."""
        visits, numbers, keys = list_visits(packed, self._key_bytes, limit)
        newest = self.newest_of(np.frombuffer(numbers, "<u4"))
        total = len(packed) // VISIT.itemsize
        persons = np.frombuffer(keys, "V16")
        return Found(np.frombuffer(visits, VISIT), persons, newest, total, self.lsn)


def clamped(instant_ms: int) -> int:
    return max(-2 * SPAN_MAX_MS, min(instant_ms, 2 * SPAN_MAX_MS))


class CoLocationIndex:
    """The index over everything applied so far. One thread applies, any number ask."""

    def __init__(self, place_rules: PlaceRules, visit_rules: VisitRules | None = None) -> None:
        self._places = place_rules
        self._rules = visit_rules or VisitRules()
        # Taken in this order: whoever merges or derives everything anew; whoever makes a snapshot;
        # whoever applies.
        self._shaping = threading.Lock()
        self._refreshing = threading.Lock()
        self._writing = threading.Lock()
        self._numbers = PersonNumbers()
        self._fresh: list[bytes] = []
        self._fresh_size = 0  # bytes
        self._applied = 0
        self._held = 0  # layers that the keeping thread is merging
        self._ended: list[tuple[bytes, int]] = []  # and what ended meanwhile, with its epoch
        self._aliases = AliasNumbers()
        self._corrections = Corrections()
        self._corrected: dict[int, Sequence[Correction]] = {}  # by main number
        self._snapshot = Snapshot((), 0, self._numbers, self._rules, 0)
        self._keeper: threading.Thread | None = None
        self._has_come = threading.Event()
        self._stopping = threading.Event()

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
        lsn = group.lsn
        if not 0 < lsn < 1 << (64 - REF_ROW_BITS) or len(group.rows) > 1 << REF_ROW_BITS:
            raise ValueError(f"group {lsn} with {len(group.rows)} rows does not fit a ref")
        with self._writing:
            if lsn <= self._applied:
                return
            # Readings stay out: a temperature says nothing of presence that its scan does not say.
            scans = self._numbers.number(group.rows.data, lsn)
            if scans:
                self._fresh.append(scans)
                self._fresh_size += len(scans)
            self._applied = lsn
        if not self._has_come.is_set():
            self._has_come.set()

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

    def contacts(self, persons: Collection[bytes], from_ms: int, to_ms: int, **spans: Any) -> Met:
        return self.snapshot().contacts(persons, from_ms, to_ms, **spans)

    def figures(self, day: int) -> Figures:
        return self.snapshot().figures(day)

    def last_details_ref(self, person: bytes) -> tuple[int, int] | None:
        return self.snapshot().last_details_ref(person)

    def set_place_rules(
        self, place_rules: PlaceRules, visit_rules: VisitRules | None = None
    ) -> None:
        """Derives everything anew under other rules (the registry has changed)."""
        with self._shaping, self._refreshing:
            self._refresh()
            self._places = place_rules
            self._rules = visit_rules or self._rules
            self._rebuild(merge_runs([layer.scans for layer in self._snapshot.layers]))

    def set_aliases(self, aliases: Aliases, changed_keys: Iterable[bytes] = ()) -> None:
        """Makes one person of the keys of each set, and several again of those that are no set any
        more: only their histories are derived anew. Any thread but the one that applies.

        changed_keys: others that an earlier answer may have shown otherwise.
        """
        with self._refreshing:
            self._refresh()
            current = self._snapshot
            with self._writing:
                known = self._aliases
                found = number_aliases(aliases, self._numbers, known.changed)
            changed = found.differences(known)
            noted = changed | {self._numbers.find(key) for key in changed_keys}
            self._aliases = found.noting(noted, current.lsn)
            self._number_corrections()
            layers, epoch = self._settled(current.layers, changed, current.epoch)
            self._publish(layers, epoch, current.lsn)

    def set_corrections(self, corrections: Corrections) -> None:
        """Derives those anew who have one, or had. Any thread but the one that applies."""
        with self._refreshing:
            self._refresh()
            current = self._snapshot
            self._corrections = corrections
            with self._writing:
                self._number_corrections()
            self._aliases = self._aliases.noting(self._corrected, current.lsn)
            layers, epoch = self._settled(current.layers, self._corrected, current.epoch)
            self._publish(layers, epoch, current.lsn)

    def _number_corrections(self) -> None:
        known = number_keys(self._corrections.keys, self._numbers)
        self._corrected = self._corrections.by_number((self._aliases.main(n), k) for n, k in known)

    def _special(self) -> set[int]:
        # Their visits do not follow from the scans under their number alone.
        return {*self._aliases.numbers, *self._corrected}

    def expire(self, before_ms: int, held: Collection[int] = ()) -> int:
        """Forgets every scan before an instant, but of civil days that are held; returns how many.

        Snapshots held by a question keep what they hold, but know nobody of whom nothing is left.
        """
        with self._shaping, self._refreshing:
            self._refresh()
            return self._forget(before_ms, held)

    def _forget(self, before_ms: int, held: Collection[int] = ()) -> int:
        current, spared = self._snapshot, self._special()
        kept = forgetting.of_days([layer.scans for layer in current.layers], before_ms, held)
        spared.update(np.frombuffer(kept.between(*EVER), SCAN)["person"].tolist())
        mains: set[int] = set()

        def change(gone: ScanRun, runs: list[ScanRun]) -> Changes:
            alone, merged = self._aliases.part(gone, [gone.between(*EVER)], self._corrected)
            mains.update(merged)
            return derive_changes(alone, runs, self._places.table, **rule_spans(self._rules))

        people, epoch = len(self._numbers), current.epoch + 1
        layers, begin, end, count = forget_scans(current.layers, before_ms, people, change)
        if not count:
            return 0
        endings = end[["start_ms", "person", "place"]].astype(ENDING)
        end_visits([layer.visits for layer in layers], endings.data, epoch)
        layers, left = forget_days(layers, before_ms, epoch)
        layers = (*layers, Layer(ScanRun(()), VisitTable(begin.tobytes() + left)))
        if len(kept):
            epoch += 1
            layers = self._taken(layers, kept, mains, epoch)
        layers, epoch = self._settled(layers, mains, epoch)
        with self._writing:
            spared.update(np.frombuffer(b"".join(self._fresh), SCAN)["person"].tolist())
            forgetting.forget_before(self._numbers, before_ms, kept, spared)
        self._publish(tuple(filter(has_any, layers)), epoch, current.lsn)
        return count - len(kept)

    def _taken(self, layers: Layers, scans: ScanRun, mains: set[int], epoch: int) -> Layers:
        """Layers with these scans besides, of the epoch; mains: gets whom to settle afterwards."""
        alone, merged = self._aliases.part(scans, [scans.between(*EVER)], self._corrected)
        mains.update(merged)
        runs, tables = [layer.scans for layer in layers], [layer.visits for layer in layers]
        changes = derive_changes(alone, runs, self._places.table, **rule_spans(self._rules))
        end_visits(tables, changes.endings(), epoch)
        return (*layers, Layer(scans, born_table(changes)))

    def erase(self, persons: Collection[bytes], until_ms: int) -> int:
        """Forgets the scans of person keys from before an instant; how many distinct ones."""
        with self._shaping, self._refreshing:
            self._refresh()
            return self._erase(persons, until_ms)

    def _erase(self, persons: Collection[bytes], until_ms: int) -> int:
        current = self._snapshot
        numbers = {self._numbers.find(key) for key in persons} - {-1}
        left, own = forgetting.without_persons(current.layers, numbers)
        kept = own.since(until_ms)
        if len(kept):
            left.append(Layer(kept, VisitTable(b"")))
        mains = {self._aliases.main(number) for number in numbers}
        settled, epoch = self._settled(tuple(left), mains, current.epoch)
        staying = set(np.frombuffer(kept.between(*EVER), SCAN)["person"].tolist())
        with self._writing:
            forgetting.forget_numbers(self._numbers, numbers, staying | self._special())
            self._note_newest(kept)
        self._publish(settled, epoch, current.lsn)
        return len(own) - len(kept)

    def find_persons(self, is_wanted: Callable[[bytes], bool]) -> list[bytes]:
        return forgetting.find_persons(self._numbers, is_wanted)

    def compact(self) -> None:
        """Refreshes and makes one layer of all in memory: questions are quickest then."""
        with self._shaping, self._refreshing:
            self._refresh()
            current, layers = self._snapshot, in_memory(self._snapshot.layers)
            if len(layers) > 1:
                whole = (*in_segments(current.layers), merge_layers(layers))
                self._publish(whole, current.epoch, current.lsn)

    # ---- refreshing ---------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Makes a snapshot of everything applied; the caller holds `_refreshing`."""
        current = self._snapshot
        with self._writing:
            fresh, lsn = list(self._fresh), self._applied
        layers, epoch = current.layers, current.epoch
        if fresh:
            scans = ScanRun(fresh)
            alone, merged = self._aliases.part(scans, fresh, self._corrected)
            changes = derive_changes(
                alone,
                [layer.scans for layer in layers],
                self._places.table,
                **rule_spans(self._rules),
            )
            layer = Layer(scans, born_table(changes))
            endings = changes.endings()
            epoch += 1
            ended = end_visits([layer.visits for layer in layers], endings, epoch)
            if ended * ENDING.itemsize != len(endings):
                # No scan can do that. Whatever did, answers must not be short of somebody.
                _log.error("visits derived anew", count=len(endings) // ENDING.itemsize - ended)
                layers = (self._derived(merge_runs([*(old.scans for old in layers), scans])),)
                self._held = 0
                merged = self._special()
            else:
                if self._held and endings:
                    self._ended.append((endings, epoch))
                layers = self._with_layer(layers, layer)
            layers, epoch = self._settled(layers, merged, epoch)
            self._note_newest(scans)
        self._publish(layers, epoch, lsn)
        with self._writing:
            del self._fresh[: len(fresh)]
            self._fresh_size -= sum(map(len, fresh))

    def _with_layer(self, layers: Layers, layer: Layer) -> Layers:
        """The layers with a new one, of which the small ones are merged at once.

        All that are due, where no thread keeps up; it has those it holds to itself.
        """
        held, free = layers[: self._held], (*layers[self._held :], layer)
        is_bounded = self._keeper is not None and len(in_memory(free)) < LAYERS_MAX
        first = first_due(free, INLINE_SCANS if is_bounded else None)
        if len(free) - first > 1:
            free = (*free[:first], merge_layers(free[first:]))
        return held + free

    def _settled(self, layers: Layers, persons: Collection[int], epoch: int) -> tuple[Layers, int]:
        """Layers, and their epoch, in which these persons have the visits of their alias sets."""
        if not persons:
            return layers, epoch
        runs, tables = [layer.scans for layer in layers], [layer.visits for layer in layers]
        born, endings = alias_changes(
            self._aliases, persons, runs, tables, epoch, self._derive_visits
        )
        epoch += 1
        end_visits(tables, endings, epoch)
        if self._held and endings:
            self._ended.append((endings, epoch))
        return self._with_layer(layers, Layer(ScanRun(()), VisitTable(born))), epoch

    def _note_newest(self, scans: ScanRun) -> None:
        for first in range(0, len(scans), NEWEST_STEP):
            self._numbers.note_newest(scans, first, first + NEWEST_STEP)

    def _derived(self, scans: ScanRun) -> Layer:
        """Of persons with one key each."""
        changes = derive_changes(scans, [], self._places.table, **rule_spans(self._rules))
        return Layer(scans, born_table(changes))

    def _derive_visits(self, scans: ScanRun) -> Array:
        changes = derive_changes(scans, [], self._places.table, **rule_spans(self._rules))
        visits = np.frombuffer(changes.visits(), VISIT)
        found = self._corrected.get(int(visits["person"][0])) if len(visits) else None
        return correct(visits, found) if found else visits

    def _rebuild(self, scans: ScanRun) -> None:
        """A snapshot of one layer of the given scans."""
        whole = (self._derived(scans),) if len(scans) else ()
        layers, epoch = self._settled(whole, self._special(), self._snapshot.epoch)
        self._publish(layers, epoch, self._snapshot.lsn)

    def _publish(self, layers: Layers, epoch: int, lsn: int) -> None:
        self._snapshot = Snapshot(layers, epoch, self._numbers, self._rules, lsn, self._aliases)

    # ---- keeping up ---------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread that keeps up; `stop` ends it. For who asks seldom, none is needed."""
        self._keeper = threading.Thread(target=self._keep_up, name="index", daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        keeper = self._keeper
        if keeper is not None:
            self._stopping.set()
            self._has_come.set()
            keeper.join()
            self._keeper = None
            self._stopping.clear()

    def _keep_up(self) -> None:
        # Looked at before every wait: a stop that comes just before the clear must not be lost.
        while not self._stopping.is_set():
            self._has_come.wait()
            if self._wait_for_more():
                return
            self._has_come.clear()
            try:
                self.snapshot()
                self._merge_due()
            except Exception as error:
                # The next question tries again, and whoever asks is told.
                _log.error("the index is behind", problem=type(error).__name__)

    def _waiting_scans(self) -> int:
        """Applied and not yet derived."""
        return self._fresh_size // SCAN.itemsize

    def _wait_for_more(self) -> bool:
        """Lets scans come together, for longer in a flood. Whether to stop."""
        for _ in range(FLOOD_WAITS):
            if self._stopping.wait(REFRESH_S):
                return True
            if not FLOOD_SCANS <= self._waiting_scans() < INLINE_SCANS:
                break
        return False

    def _merge_due(self) -> None:
        """Merges what is due while others ask and refresh."""
        with self._shaping:
            with self._refreshing:
                layers = self._snapshot.layers
                first = first_due(layers, None)
                least = FLOOD_LAYERS if self._waiting_scans() >= FLOOD_SCANS else 2
                if len(layers) - first < least:
                    return
                self._held = len(layers)
                self._ended.clear()
            merged = None
            try:
                merged = merge_layers(layers[first:])
            finally:
                with self._refreshing:
                    held, self._held = self._held, 0
                    current = self._snapshot
                    if merged is not None and held:
                        # What ended since the merge began may or may not have come into it.
                        for endings, epoch in self._ended:
                            end_visits([merged.visits], endings, epoch)
                        layers = (*layers[:first], merged, *current.layers[held:])
                        self._publish(layers, current.epoch, current.lsn)
                    self._ended.clear()
