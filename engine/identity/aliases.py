"""Aliases: person keys that are one person, and how the index makes one person of them.

Nothing that was stored is written again. A person's visits are a function of the scans under all
keys of its alias set, and stand under the least of them, the main key; the other keys have none.
So an answer depends on the set of scans and on what is merged now, not on what came first, and a
merge that is undone leaves no trace. tests/unit/test_aliases.py compares with an index whose rows
had one key from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from typing import Final

import numpy as np

from engine.presence.visits import SCAN, SPAN_MAX_MS, VISIT, Array
from engine.scans.rows import ROW, Kind
from native.index import VisitTable
from native.numbers import PersonNumbers
from native.scans import ScanRun
from native.walks import visits_of_many

ENDING: Final = np.dtype([("start_ms", "<i8"), ("person", "<u4"), ("place", "<u4")])


class Aliases:
    """Alias sets of person keys, closed transitively over the pairs given. Immutable."""

    def __init__(self, merged: Iterable[Collection[bytes]] = ()) -> None:
        """merged: keys that are one person, each time two or more."""
        sets: dict[bytes, set[bytes]] = {}
        for keys in merged:
            joined: set[bytes] = set()
            for key in keys:
                joined |= sets.get(key, {key})
            for key in joined:
                sets[key] = joined
        self._sets: dict[bytes, tuple[bytes, ...]] = {}
        for key, members in sets.items():
            if key not in self._sets and len(members) > 1:
                self._sets.update(dict.fromkeys(members, tuple(sorted(members))))

    def __len__(self) -> int:
        return len(self._sets)

    def all_of(self, key: bytes) -> tuple[bytes, ...]:
        """Every key of that person, ascending."""
        return self._sets.get(key) or (key,)

    def main_of(self, key: bytes) -> bytes:
        """The key under which the person stands in answers."""
        return self.all_of(key)[0]

    def keys(self) -> Set[bytes]:
        """Those that have others beside them."""
        return self._sets.keys()


class AliasNumbers:
    """Alias sets by the dense numbers of an index. Immutable.

    changed: of persons that a merge, or the end of one, made anew: the log group up to which
    earlier answers may have shown them otherwise.
    """

    def __init__(
        self,
        members: Mapping[int, Sequence[int]] | None = None,
        changed: Mapping[int, int] | None = None,
    ) -> None:
        """members: of each main number all numbers of its set."""
        self._members = dict(members or {})
        self.changed = dict(changed or {})
        self._main = {n: main for main, numbers in self._members.items() for n in numbers}
        known = sorted(self._main)
        self._known = np.array(known, np.uint32)
        self._mains = np.array([self._main[n] for n in known], np.uint32)

    def __bool__(self) -> bool:
        return bool(self._main)

    @property
    def numbers(self) -> Collection[int]:
        """Those that are in a set."""
        return self._main.keys()

    @property
    def sets(self) -> Iterable[Sequence[int]]:
        """Numbers that are one person."""
        return self._members.values()

    def main(self, number: int) -> int:
        return self._main.get(number, number)

    def sources(self, number: int) -> Sequence[int]:
        """Numbers whose scans make the visits of this one; none for one that another stands for."""
        if self.main(number) != number:
            return ()
        return self._members.get(number, (number,))

    def differences(self, other: AliasNumbers) -> set[int]:
        """Numbers that have other sources there."""
        numbers = self._main.keys() | other._main.keys()
        return {n for n in numbers if tuple(self.sources(n)) != tuple(other.sources(n))}

    def mains(self, persons: Array) -> Array:
        """The main number of each."""
        if not self._main:
            return persons
        at = np.minimum(np.searchsorted(self._known, persons), len(self._known) - 1)
        return np.where(self._known[at] == persons, self._mains[at], persons).astype(np.uint32)

    def noting(self, persons: Iterable[int], lsn: int) -> AliasNumbers:
        """These, with what has just changed."""
        return AliasNumbers(self._members, {**self.changed, **dict.fromkeys(persons, lsn)})

    def part(
        self, run: ScanRun, chunks: Sequence[bytes], others: Collection[int] = ()
    ) -> tuple[ScanRun, Collection[int]]:
        """(scans of persons with one key, main numbers of those in sets and of `others`).

        run: of these chunks.
        """
        if not self._main and not others:
            return run, []
        scans = np.frombuffer(b"".join(chunks), SCAN)
        merged = np.isin(scans["person"], [*self._main, *others])
        if not merged.any():
            return run, []
        mains = np.unique(self.mains(scans["person"][merged]))
        return ScanRun([scans[~merged].data]), mains.tolist()

    def newest(self, people: Array, newest: Array) -> Array:
        """Of each of these main numbers the ref of its newest row. newest: NEWEST by number."""
        found = newest["ref"][people]
        if not self:
            return found  # looking for none among them would cost a fifth of a question
        for i in np.flatnonzero(np.isin(people, self._known)).tolist():
            rows = newest[np.array(self.sources(int(people[i])), np.int64)]
            rows = rows[rows["ref"] > 0]  # a key may have none
            order = np.lexsort((rows["ref"], rows["time_ms"]))
            found[i] = rows["ref"][order[-1]] if len(order) else 0
        return found


def number_keys(keys: Collection[bytes], numbers: PersonNumbers) -> list[tuple[int, bytes]]:
    """The number of each key; one that has none yet gets it."""
    rows = np.zeros(len(keys), ROW)
    rows["person"] = np.frombuffer(b"".join(keys), "V16")
    rows["kind"] = Kind.SCAN
    for first in range(0, len(rows), 1 << 16):
        numbers.number(rows[first : first + (1 << 16)].data, 1)
    return [(numbers.find(key), key) for key in keys]


def number_aliases(
    aliases: Aliases, numbers: PersonNumbers, changed: Mapping[int, int]
) -> AliasNumbers:
    """Keys that have no number yet get one, so that it is the same whatever comes first."""
    members: dict[int, list[int]] = {}
    for number, key in number_keys(aliases.keys(), numbers):
        members.setdefault(numbers.find(aliases.main_of(key)), []).append(number)
    return AliasNumbers({main: sorted(found) for main, found in members.items()}, changed)


def alias_changes(
    aliases: AliasNumbers,
    persons: Iterable[int],
    scans: Sequence[ScanRun],
    visits: Sequence[VisitTable],
    epoch: int,
    derive: Callable[[ScanRun], Array],
) -> tuple[bytes, bytes]:
    """(packed VISIT that begin, packed ENDING by person) that make the visits of these persons what
    their alias sets say, given all scans and the visits of an epoch."""
    born: list[bytes] = []
    ended: list[tuple[int, int, int]] = []
    for person in sorted(persons):
        found = [run.of_person(number) for number in aliases.sources(person) for run in scans]
        one = np.frombuffer(b"".join(found), SCAN).copy()
        one["person"] = person
        wanted = {visit.tobytes(): visit for visit in derive(ScanRun([one.data]))}
        span = -2 * SPAN_MAX_MS, 2 * SPAN_MAX_MS
        packed = visits_of_many(visits, person.to_bytes(4, "little"), *span, epoch)
        for visit in np.frombuffer(packed, VISIT):
            if wanted.pop(visit.tobytes(), None) is None:
                ended.append((visit["start_ms"], person, visit["place"]))
        born += wanted
    return b"".join(born), np.array(ended, ENDING).tobytes()
