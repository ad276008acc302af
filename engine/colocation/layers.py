"""Layers of the co-location index: in memory what is new, in files the days that are written down.

A layer is scans and the visits that they brought about. Those of a day in a file (a segment) answer
like those in memory; only what has ended since the file was written is kept beside it. A day may
have several segments, generations of different size, as layers in memory do. What a segment of a
day holds: the scans of the day by their time, the visits that begin on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Final, Protocol

import msgspec
import numpy as np

from engine.clock import day_to_ms
from engine.presence.visits import VISIT, Array, PlaceRule
from native.columns import DayColumns
from native.days import count_days, split_days
from native.index import VisitTable, merge_tables, table_of
from native.packing import pack_day
from native.scans import ScanRun, merge_runs, run_of
from native.visits import Changes

MERGE_RATIO: Final = 2
PERSONS_STEP: Final = 1 << 15  # whose scans are in memory at a time
EVER_MS: Final = (1 << 62) - 1  # no instant lies beyond, and none before its negative

Packed = tuple[bytes, dict[str, bytearray]]


class SegmentEntry(msgspec.Struct, frozen=True):
    """A segment as a manifest names it: bytes and CRC-32 of its file, how much it holds."""

    day: int
    name: str
    size: int
    crc: int
    visits: int
    scans: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of a day, open."""

    entry: SegmentEntry
    columns: DayColumns


@dataclass(frozen=True, slots=True)
class Layer:
    """Scans that came together, and the visits that they brought about and no later ones ended."""

    scans: ScanRun
    visits: VisitTable
    segment: Segment | None = None


@dataclass(frozen=True, slots=True)
class Persons:
    """Keys by number, 16 bytes each, and a byte each that is 1 where nobody has the number."""

    keys: bytes | memoryview
    holes: bytes


@dataclass(frozen=True, slots=True)
class State:
    """What an index knows at one LSN, its layers in memory left out.

    floor_day: older days are forgotten. places: by number, and of those unknown; rules: spans in ms
    by name. aliases: numbers that are one person. segments:
    with the rows (packed u32) of the visits that have ended in each. notes: what others derived
    from the log, by name: (oldest day it speaks of, bytes). damaged: days that had segments of
    which one cannot be used; none of theirs is among `segments`.
    """

    lsn: int
    floor_day: int | None
    places: dict[int, PlaceRule]
    unknown: PlaceRule
    rules: dict[str, int]
    aliases: list[list[int]]
    segments: list[tuple[Segment, bytes]]
    notes: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    damaged: frozenset[int] = frozenset()


class SegmentStore(Protocol):
    """Where segments lie. One thread at a time."""

    def load(self) -> tuple[State, Persons] | None:
        """What was committed last. None where there is nothing, or where it cannot be used."""

    def write(self, day: int, pack: Callable[[bytes], Packed]) -> Segment:
        """A new segment, durable with the next `sync`; pack is given the key of 16 bytes that it
        is sealed with.

        Raises StorageError.
        """

    def sync(self) -> None:
        """All that was written is durable. Raises StorageError; then none of it can be used."""

    def commit(self, state: State, persons: Persons, oldest_day: int) -> None:
        """From now on `load` gives this. Raises StorageError, then it gives what it gave before.

        oldest_day: that the persons were seen on; their keys die with the key of that day.
        """

    def oldest_day(self) -> int | None:
        """With the key of this day goes a part of what was committed; None without any."""

    def drop(self, segments: Iterable[Segment]) -> None:
        """Removes files that no committed state names."""

    def clear(self) -> None:
        """Nothing is stored any more."""


def layer_of(segment: Segment) -> Layer:
    return Layer(run_of(segment.columns), table_of(segment.columns), segment)


def merge_layers(layers: tuple[Layer, ...]) -> Layer:
    """All of these in memory."""
    return Layer(
        merge_runs([layer.scans for layer in layers]),
        merge_tables([layer.visits for layer in layers]),
    )


def first_due(layers: tuple[Layer, ...], scans_max: int | None) -> int:
    """Where the youngest layers begin that are to be merged: the last one alone needs no merge.

    Segments are not merged with layers in memory; they stand before these.
    """
    first = max(len(layers) - 1, 0)
    total = sum(len(layer.scans) for layer in layers[first:])
    while first > 0:
        size = len(layers[first - 1].scans)
        if layers[first - 1].segment is not None:
            break
        if size > MERGE_RATIO * total or (scans_max is not None and total + size > scans_max):
            break
        total += size
        first -= 1
    return first


def forget_scans(
    layers: tuple[Layer, ...],
    before_ms: int,
    person_count: int,
    change: Callable[[ScanRun, list[ScanRun]], Changes],
) -> tuple[tuple[Layer, ...], Array, Array, int]:
    """Layers without the scans before an instant: (layers, begin, end, how many scans went).

    begin, end: VISIT that come and that go by that, `end` in order of persons; change: what scans
    change in the visits of others. The layers still have all their visits. Days in segments may be
    left out, see `forget_days`.
    """
    old = [layer for layer in layers if layer.scans.first_ms() < before_ms]
    kept = tuple(_since(layer, before_ms) for layer in layers)
    runs = [layer.scans for layer in kept]
    begin, end, count = [], [], 0
    for first in range(0, person_count if old else 0, PERSONS_STEP):
        span = first, first + PERSONS_STEP, -EVER_MS, before_ms
        gone = merge_runs([layer.scans.of_persons(*span) for layer in old])
        if len(gone):
            count += len(gone)
            # What the scans that go would change, were they new, is what their going undoes.
            changes = change(gone, runs)
            begin.append(changes.gone())
            end.append(changes.visits())
    return kept, np.frombuffer(b"".join(begin), VISIT), np.frombuffer(b"".join(end), VISIT), count


def forget_days(
    layers: tuple[Layer, ...], before_ms: int, epoch: int
) -> tuple[tuple[Layer, ...], bytes]:
    """Without segments of days before an instant: (layers, what visits these have in an epoch).

    A check-out soon after midnight has made some begin the day before.
    """
    gone = [layer for layer in layers if layer.segment is not None
            and day_to_ms(day_of(layer) + 1) <= before_ms]  # fmt: skip
    left = b"".join(layer.visits.begun(-EVER_MS, EVER_MS, epoch) for layer in gone)
    return tuple(layer for layer in layers if layer not in gone), left


def _since(layer: Layer, before_ms: int) -> Layer:
    """The layer without older scans, all its visits still in it."""
    if layer.scans.first_ms() >= before_ms:
        return layer
    if layer.segment is not None and day_to_ms(day_of(layer) + 1) <= before_ms:
        return Layer(ScanRun(()), layer.visits, layer.segment)
    return Layer(layer.scans.since(before_ms), layer.visits)


def has_any(layer: Layer) -> bool:
    return len(layer.scans) > 0 or len(layer.visits) > 0


def in_memory(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    return tuple(layer for layer in layers if layer.segment is None)


def in_segments(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    return tuple(layer for layer in layers if layer.segment is not None)


def day_of(layer: Layer) -> int:
    """Of a layer in a segment."""
    assert layer.segment is not None
    return layer.segment.entry.day


def write_days(
    store: SegmentStore,
    stored: tuple[Layer, ...],
    memory: tuple[Layer, ...],
    epoch: int,
    floor_day: int | None,
) -> tuple[Layer, ...]:
    """What lies in memory into segments, as it is in an epoch; all layers in segments then.

    Segments of a day that are no more than MERGE_RATIO times as big go into the new one, so there
    are logarithmically few. Raises StorageError; then nothing is left of what was written.
    """
    kept = list(stored)
    made: list[Layer] = []
    zero_ms = day_to_ms(0)
    scans = [split_days(layer.scans, zero_ms, floor_day) for layer in memory]
    visits = [count_days(layer.visits, epoch, zero_ms, floor_day) for layer in memory]
    try:
        for day in sorted({*chain.from_iterable(scans), *chain.from_iterable(visits)}):
            fresh = sum(
                max(len(some.get(day, ())), some_visits.get(day, 0))
                for some, some_visits in zip(scans, visits, strict=True)
            )
            older = _due(kept, day, fresh)
            kept = [layer for layer in kept if layer not in older]
            tables = [layer.visits for layer in (*older, *memory)]
            runs = [layer.scans for layer in older]
            runs += [some.pop(day) for some in scans if day in some]
            low = -EVER_MS if day == floor_day else day_to_ms(day)
            pack = partial(pack_day, tables, runs, epoch, low, day_to_ms(day + 1))
            made.append(layer_of(store.write(day, pack)))
        store.sync()
    except BaseException:
        store.drop(layer.segment for layer in made if layer.segment is not None)
        raise
    return (*kept, *made)


def _due(layers: list[Layer], day: int, fresh: int) -> list[Layer]:
    """Segments of the day to be merged with so many new rows."""
    found: list[Layer] = []
    for layer in sorted((one for one in layers if day_of(one) == day), key=_size):
        if _size(layer) > MERGE_RATIO * fresh:
            break
        fresh += _size(layer)
        found.append(layer)
    return found


def _size(layer: Layer) -> int:
    assert layer.segment is not None
    return max(layer.segment.entry.visits, layer.segment.entry.scans)


def first_day(layers: tuple[Layer, ...], floor_day: int | None) -> int | None:
    """The first day that something is known of; None without any."""
    days = [day_of(layer) for layer in layers]
    if floor_day is None:
        return min(days, default=None)
    return max(min(days, default=floor_day), floor_day)
