"""What is left of an index's layers when days or persons are forgotten."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import numpy as np

from engine.clock import day_to_ms
from engine.colocation.layers import Layer, merge_layers
from engine.presence.visits import SCAN
from native.numbers import PersonNumbers
from native.scans import ScanRun

KEY_SIZE: Final = 16
_EVER_MS: Final = (-(1 << 62), 1 << 62)
_NEWEST: Final = np.dtype([("time_ms", "<i8"), ("ref", "<u8")])
_NEWEST_STEP: Final = 1 << 12  # scans that are noted at a time
# A newest row before all others, which PersonNumbers.forget_before takes for one that is over.
_OVER: Final = np.array([(-(1 << 62), 1)], _NEWEST).tobytes()
_OVER_MS: Final = -(1 << 61)


def of_days(runs: Sequence[ScanRun], before_ms: int, days: Collection[int]) -> ScanRun:
    """Scans of these civil days, as far as they lie before the instant."""
    spans = [(day_to_ms(day), min(day_to_ms(day + 1), before_ms)) for day in days]
    return ScanRun([run.between(low, high) for run in runs for low, high in spans if low < high])


def without_persons(
    layers: Sequence[Layer], persons: Collection[int]
) -> tuple[list[Layer], ScanRun]:
    """(layers without their scans, these scans). One that has none of them stays as it is; one of
    a segment that has comes into memory. The layers still have all their visits."""
    left, own = [], []
    for layer in layers:
        if any(layer.scans.of_person(number) for number in persons):
            layer = merge_layers((layer,))
            scans = np.frombuffer(layer.scans.between(*_EVER_MS), SCAN)
            is_own = np.isin(scans["person"], list(persons))
            own.append(scans[is_own].tobytes())
            layer = Layer(ScanRun([scans[~is_own].tobytes()]), layer.visits)
        left.append(layer)
    return left, ScanRun(own)


def forget_before(
    numbers: PersonNumbers, before_ms: int, kept: ScanRun, staying: Collection[int]
) -> None:
    """Nobody has a key who was not seen since, but for those who stay; whose newest row went has
    the newest of the scans that are kept."""
    _, newest = numbers.columns()
    rows = np.frombuffer(newest, _NEWEST, len(numbers))
    persons = np.unique(np.frombuffer(kept.between(*_EVER_MS), SCAN)["person"])
    rows[persons[rows["time_ms"][persons] < before_ms]] = 0
    for first in range(0, len(kept), _NEWEST_STEP):
        numbers.note_newest(kept, first, first + _NEWEST_STEP)
    numbers.forget_before(before_ms, np.array(sorted(staying), np.uint32).data)


def forget_numbers(
    numbers: PersonNumbers, persons: Collection[int], staying: Collection[int]
) -> None:
    """These persons have no newest row any more, and no key but for those who stay."""
    _, newest = numbers.columns()
    size = len(_OVER)
    for number in persons:
        newest[size * number : size * (number + 1)] = bytes(size) if number in staying else _OVER
    numbers.forget_before(_OVER_MS, np.zeros(0, np.uint32).data)


def find_persons(numbers: PersonNumbers, is_wanted: Callable[[bytes], bool]) -> list[bytes]:
    """Of the keys that have a number those that are wanted."""
    keys, _ = numbers.columns()
    found = (bytes(keys[KEY_SIZE * n : KEY_SIZE * (n + 1)]) for n in range(len(numbers)))
    return [key for key in found if is_wanted(key)]
