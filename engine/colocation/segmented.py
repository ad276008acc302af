"""The index with its days in files: memory does not grow with history, nor does a restart.

New scans make layers in memory, as in CoLocationIndex. When these hold as many scans as they may,
all of them are written into segments, a day each (engine.colocation.layers), and what the index
then knows is committed with the log group it reaches to: what came later is all that a restart has
to replay. Visits that end later in a segment are marked in memory; the marks are part of what is
committed.

Order of steps, at each of which a process may end: files named, files durable, state committed,
layers replaced, files of no use removed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

import msgspec
import numpy as np

from engine import faults
from engine.clock import DAY_MS, day_to_ms, ms_to_day
from engine.colocation.found import GroupLike
from engine.colocation.index import EVER, NEWEST_STEP, CoLocationIndex, Snapshot
from engine.colocation.layers import (
    EVER_MS,
    Layer,
    Persons,
    SegmentStore,
    State,
    first_day,
    in_memory,
    in_segments,
    layer_of,
    write_days,
)
from engine.errors import EngineError, StorageError
from engine.identity.aliases import AliasNumbers
from engine.machine import give_back_memory
from engine.presence.visits import (
    SCAN,
    VISIT,
    PlaceRules,
    VisitRules,
    changed_places,
    rule_spans,
)
from engine.telemetry import Log
from native.index import VisitTable, end_rows, end_visits
from native.numbers import PersonNumbers
from native.scans import ScanRun, merge_runs
from native.visits import derive_changes

MEMORY_SCANS: Final = 1 << 20  # some 92 MB
STOP_SCANS: Final = 1 << 16  # fewer are replayed in a tenth of a second
WAITING_SCANS: Final = 1 << 19  # applied and not yet derived, while the log is replayed
REDERIVE_SCANS: Final = 1 << 18

Notes = Mapping[str, tuple[int, bytes]]
# Groups of the log that have rows of some days and of no other, up to an LSN, in order.
ReadDays = Callable[[Collection[int], int], Iterable[GroupLike]]

_log = Log("index")


class SegmentedIndex(CoLocationIndex):
    """A CoLocationIndex over a SegmentStore. `load` comes before anything is applied.

    notes: what else is to be committed with a state (see State); it is called from any thread.
    """

    def __init__(
        self,
        place_rules: PlaceRules,
        visit_rules: VisitRules | None,
        store: SegmentStore,
        *,
        notes: Callable[[], Notes] = dict,
        memory_scans: int = MEMORY_SCANS,
    ) -> None:
        super().__init__(place_rules, visit_rules)
        self._store = store
        self._notes = notes
        self._memory_scans = memory_scans
        self._write_at = memory_scans  # so many in memory are written down
        self._floor_day: int | None = None
        self._covered = 0  # the last log group that segments know of

    @property
    def covered_lsn(self) -> int:
        return self._covered

    @property
    def segment_count(self) -> int:
        return len(in_segments(self._snapshot.layers))

    @property
    def day_count(self) -> int:
        """Days that have a segment."""
        layers = in_segments(self._snapshot.layers)
        return len({layer.segment.entry.day for layer in layers if layer.segment is not None})

    @property
    def memory_scans(self) -> int:
        """Scans that a restart would replay, those not yet derived left out."""
        return sum(len(layer.scans) for layer in in_memory(self._snapshot.layers))

    # ---- starting -----------------------------------------------------------------------------

    def load(self, read_days: ReadDays | None = None) -> Notes:
        """Takes up what was committed last; its notes. Without it the log has to be replayed.

        read_days: reads what days had whose files are damaged; else they cost the whole log.
        """
        found = self._store.load()
        if found is None:
            return {}
        state, persons = found
        places, rules = self._places, self._rules
        try:
            if state.damaged and read_days is None:
                raise ValueError("a day is damaged")
            self._take_up(state, persons)
            if state.damaged and read_days is not None:
                self._mend(state, read_days(state.damaged, state.lsn))
        except (ValueError, EngineError) as error:
            # Checksums were right, so we wrote it like that: the log knows better.
            _log.error("the index is made anew from the log", problem=str(error))
            self._places, self._rules = places, rules
            self._aliases, self._floor_day = AliasNumbers(), None
            self._numbers = PersonNumbers()
            self._applied = self._covered = 0
            self._publish((), 0, 0)
            self._store.clear()
            return {}
        self.set_place_rules(places, rules)
        return state.notes

    def _take_up(self, state: State, persons: Persons) -> None:
        """What was loaded, under the rules of then. Raises ValueError."""
        layers = self._take(state, persons)
        self._places = PlaceRules(state.places, state.unknown)
        self._rules = VisitRules(**state.rules)
        self._aliases = AliasNumbers({min(one): one for one in state.aliases}).noting(
            [number for one in state.aliases for number in one], state.lsn
        )
        self._floor_day = state.floor_day
        self._applied = self._covered = state.lsn
        self._publish(layers, 1, state.lsn)

    def _mend(self, state: State, groups: Iterable[GroupLike]) -> None:
        """Damaged days once more, from the scans of their groups and from those of other days,
        into new files. Visits of other days are right: these scans were there when they came."""
        packed = [self._numbers.number(group.rows.data, group.lsn) for group in groups]
        scans = ScanRun([some for some in packed if some])
        layers = (*self._snapshot.layers, Layer(scans, VisitTable(b"")))
        self._publish(layers, 1, state.lsn)
        begun = self._begun_on(state.damaged)
        layers = (*layers[:-1], Layer(scans, VisitTable(begun)))
        layers, epoch = self._settled(layers, self._special(), 1)
        self._note_newest(scans)
        self._publish(layers, epoch, state.lsn)
        try:
            made = self._write_more(in_segments(layers), list(in_memory(layers)))
            self._commit(made, self._snapshot, state.notes)
        except StorageError as error:
            _log.error("days are not written down", code=error.code)  # they stay in memory
        else:
            self._publish(made, epoch, state.lsn)
        give_back_memory()

    def _begun_on(self, days: Collection[int]) -> bytes:
        """Packed VISIT that begin on these days, of persons with one key each, from all scans."""
        runs = [layer.scans for layer in self._snapshot.layers]
        # A check-out soon after midnight has made some begin the day before.
        near = [run.between(day_to_ms(day), day_to_ms(day + 2)) for run in runs for day in days]
        whom = np.unique(np.frombuffer(b"".join(near), SCAN)["person"])
        whom = whom[~np.isin(whom, list(self._special()))]
        found = []
        for some in self._by_persons(self._snapshot):
            scans = np.frombuffer(some.between(*EVER), SCAN)
            own = ScanRun([scans[np.isin(scans["person"], whom)].tobytes()])
            changes = derive_changes(own, [], self._places.table, **rule_spans(self._rules))
            visits = np.frombuffer(changes.visits(), VISIT)
            begun = (visits["start_ms"] - day_to_ms(0)) // DAY_MS
            found.append(visits[np.isin(begun, list(days))].tobytes())
        return b"".join(found)

    def _take(self, state: State, persons: Persons) -> tuple[Layer, ...]:
        """Layers of what was loaded. Raises ValueError where its parts do not agree."""
        self._numbers.load(bytes(persons.keys), persons.holes)
        layers = []
        for segment, ended in state.segments:
            layer = layer_of(segment)
            end_rows(layer.visits, ended, 1)
            for first in range(0, segment.columns.row_count(), NEWEST_STEP):
                self._numbers.note_newest(layer.scans, first, first + NEWEST_STEP)
            layers.append(layer)
        return tuple(layers)

    # ---- writing down -------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Derives what is new, and writes down what is due. For who replays the log."""
        self.snapshot()
        self._merge_due()

    @property
    def is_behind(self) -> bool:
        """Whether so much waits to be derived that who applies should `catch_up`."""
        return self._waiting_scans() > WAITING_SCANS

    def stop(self) -> None:
        """Ends the thread, and writes down what would take long to replay."""
        super().stop()
        if self.memory_scans + self._waiting_scans() >= STOP_SCANS:
            try:
                self.write_down()
            except Exception as error:
                _log.error("the index is not written down", problem=type(error).__name__)

    def write_down(self) -> None:
        """All that was applied into segments. Raises StorageError."""
        with self._shaping:
            self._write_down()

    def _merge_due(self) -> None:
        super()._merge_due()
        if self.memory_scans < self._write_at:
            return
        try:
            self.write_down()
            self._write_at = self._memory_scans
        except StorageError as error:
            # It takes seconds, and a disk that is full now is full with the next scan.
            self._write_at = self.memory_scans + max(self._memory_scans // 8, 1)
            _log.error("days are not written down", code=error.code)

    def _write_down(self) -> None:
        """The caller holds `_shaping`. Others ask, apply and refresh meanwhile."""
        with self._refreshing:
            self._refresh()
            current = self._snapshot
            self._held = len(current.layers)
            self._ended.clear()
        stored, made = in_segments(current.layers), None
        is_committed = False
        try:
            memory = in_memory(current.layers)
            made = write_days(self._store, stored, memory, current.epoch, self._floor_day)
            self._commit(made, current)
            is_committed = True
        except BaseException:
            self._drop(made or (), stored)
            raise
        finally:
            with self._refreshing:
                held, self._held = self._held, 0
                if made is not None and is_committed and held:
                    # What has ended since the files were begun.
                    fresh = [layer.visits for layer in made if layer not in stored]
                    for endings, epoch in self._ended:
                        end_visits(fresh, endings, epoch)
                    newer = self._snapshot
                    self._publish((*made, *newer.layers[held:]), newer.epoch, newer.lsn)
                self._ended.clear()
        faults.reach("segments.replaced")
        self._drop(stored, made)
        give_back_memory()  # what the layers were, and as much again to make days of them

    def _commit(
        self, layers: tuple[Layer, ...], snapshot: Snapshot, notes: Notes | None = None
    ) -> None:
        """Layers in segments as the state at a snapshot that they are all of."""
        day = first_day(layers, self._floor_day)
        if day is None:
            return
        segments = [
            (layer.segment, _ended_rows(layer, snapshot.epoch))
            for layer in layers
            if layer.segment is not None
        ]
        count = len(self._numbers)
        keys, _ = self._numbers.columns()
        persons = Persons(memoryview(keys)[: 16 * count], self._numbers.holes()[:count])
        state = State(
            snapshot.lsn,
            self._floor_day,
            self._places.rules,
            self._places.unknown,
            msgspec.structs.asdict(self._rules),
            [list(numbers) for numbers in snapshot.aliases.sets],
            segments,
            self._notes() if notes is None else notes,
        )
        self._store.commit(state, persons, day)
        self._covered = snapshot.lsn

    def _drop(self, layers: tuple[Layer, ...], kept: tuple[Layer, ...]) -> None:
        """Removes the files of layers that are not among those kept."""
        self._store.drop(
            layer.segment for layer in layers if layer.segment is not None and layer not in kept
        )

    # ---- what changes old days ----------------------------------------------------------------

    def set_place_rules(
        self, place_rules: PlaceRules, visit_rules: VisitRules | None = None
    ) -> None:
        """As CoLocationIndex, a part of the persons at a time; nothing if nobody is concerned."""
        with self._shaping, self._refreshing:
            self._refresh()
            places, spans = self._places, rule_spans(self._rules)
            self._places, self._rules = place_rules, visit_rules or self._rules
            current = self._snapshot
            changed = changed_places(places, place_rules)
            # A visit that ends before a rule begins had nothing to do with it.
            if (changed is not None and spans == rule_spans(self._rules)) and not any(
                current.venue(place, max(since_ms - 1, -EVER_MS), EVER_MS, 0).total
                for place, since_ms in changed.items()
            ):
                self._publish(current.layers, current.epoch, current.lsn)
                return
            if in_segments(current.layers):
                self._derive_anew()
            else:
                self._rebuild(merge_runs([layer.scans for layer in current.layers]))

    def _derive_anew(self) -> None:
        """All visits, into new segments; the old ones go at the end. The caller holds both."""
        current = self._snapshot
        stored: tuple[Layer, ...] = ()
        memory: list[Layer] = []
        for scans in self._by_persons(current):
            memory.append(self._derived(scans))
            if sum(len(layer.scans) for layer in memory) >= self._memory_scans:
                stored, memory = self._write_more(stored, memory), []
        layers, epoch = self._settled((*stored, *memory), self._special(), current.epoch)
        self._publish(layers, epoch, current.lsn)
        made = self._write_more(in_segments(layers), list(in_memory(layers)))
        self._publish(made, epoch, current.lsn)
        self._commit(made, self._snapshot)
        self._drop(in_segments(current.layers), made)

    def _write_more(self, stored: tuple[Layer, ...], memory: list[Layer]) -> tuple[Layer, ...]:
        """None of these is committed yet."""
        epoch = self._snapshot.epoch
        made = write_days(self._store, stored, tuple(memory), epoch, self._floor_day)
        self._drop(stored, made)
        return made

    def _by_persons(self, snapshot: Snapshot) -> Iterator[ScanRun]:
        """All scans, those of some persons at a time."""
        total = sum(len(layer.scans) for layer in snapshot.layers)
        count = len(self._numbers)
        step = max(1, count * REDERIVE_SCANS // max(total, 1))
        for first in range(0, count, step):
            span = first, first + step, -EVER_MS, EVER_MS
            scans = merge_runs([layer.scans.of_persons(*span) for layer in snapshot.layers])
            if len(scans):
                yield scans

    def erase(self, persons: Collection[bytes], until_ms: int) -> int:
        """As CoLocationIndex. No segment has them when this returns. Raises StorageError."""
        with self._shaping:
            with self._refreshing:
                self._refresh()
                old = in_segments(self._snapshot.layers)
                count = self._erase(persons, until_ms)
            if old:
                self._write_down()
                self._drop(old, self._snapshot.layers)
        return count

    def expire(self, before_ms: int, held: Collection[int] = ()) -> int:
        """As CoLocationIndex. What is left is committed when this returns. Raises StorageError."""
        with self._shaping:
            with self._refreshing:
                self._refresh()
                old = in_segments(self._snapshot.layers)
                count = self._forget(before_ms, held)
                self._floor_day = ms_to_day(before_ms)
            sealed_day = self._store.oldest_day()
            if count or (sealed_day is not None and sealed_day < self._floor_day):
                self._write_down()
                faults.reach("segments.forgotten")
                self._drop(old, self._snapshot.layers)
        return count


def _ended_rows(layer: Layer, epoch: int) -> bytes:
    """What has ended in a layer in a segment by an epoch."""
    assert layer.segment is not None
    columns = layer.segment.columns
    return columns.ended_rows(epoch) if len(layer.visits) < len(columns) else b""
