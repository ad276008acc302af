"""Erasing a person from everything an engine keeps: in which order, so that no end in between
leaves half of it for good.

The forget list first, then a record that it began; whatever ends the process from there on, the
next start finishes it, from the tags alone. Then the rows in the log, what was derived from them,
the records that name the person, and a last record that says what the two logs look like now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import numpy as np

from engine import faults
from engine.clock import Clock
from engine.errors import ServiceError
from engine.identity.keys import KeyRing
from engine.keeping.erasure import (
    BEGIN_KIND,
    DONE_KIND,
    Amended,
    Erased,
    Erasure,
    Erasures,
    erase_rows,
    tags_of,
)
from engine.keeping.forget_list import ForgetList, erasure_to_entry
from engine.presence.visits import REF_ROW_BITS, Array
from engine.scans.rows import ROW
from engine.storage.control_lmdb import ControlRecord
from engine.storage.group import Group, RawGroup, bytes_to_raw
from engine.storage.journal import Journal
from engine.telemetry import Log

_log = Log("eraser")
_FOLLOW_S: Final = 60.0  # the index is never so far behind a log that it follows
_POLL_S: Final = 0.01


class ControlLike(Protocol):
    def append(self, kind: str, by: str, body: bytes, at_ms: int) -> Awaitable[int]: ...
    def amend(self, lsns: Iterable[int]) -> Awaitable[dict[int, bytes]]: ...
    def amendments(self, lsns: Iterable[int]) -> dict[int, bytes]: ...
    def read(self, after: int = 0) -> Iterator[ControlRecord]: ...


class Naming(Protocol):
    """Something derived from the control log that names persons: the watch list, holds."""

    def forget(self, is_erased: Callable[[bytes], bool]) -> None:
        """Drops what names one of them."""


@dataclass(slots=True)
class Derived:
    """What an engine derived from the scan log, to be rid of a person there too; offline nothing.

    persons: of whom it knows those that a predicate names. index, seen: given person keys. alerts:
    given what finds their rows. applied: the last group that the index has. renamed: told when
    merges and corrections have changed.
    """

    persons: Callable[[Callable[[bytes], bool]], Collection[bytes]] = lambda is_wanted: ()
    index: Callable[[Collection[bytes], int], int] = lambda persons, until_ms: 0
    seen: Callable[[Collection[bytes]], object] = lambda persons: None
    alerts: Callable[[Callable[[Array], Array]], object] = lambda find: None
    applied: Callable[[], int] | None = None
    renamed: Callable[[], Awaitable[None]] | None = None


@dataclass(slots=True)
class Sweep:
    """Rows found in a log: the groups that have them, whose they are, the newest time."""

    lsns: list[int] = field(default_factory=list)
    persons: set[bytes] = field(default_factory=set)
    newest_ms: int = -(1 << 62)
    rows: int = 0


async def sweep(journal: Journal, find: Callable[[Group], Array], after: int = 0) -> Sweep:
    """Reads the groups behind `after` that are there now; find: mask of a group's rows.

    In a thread and a loop of its own: opening a month of groups would hold up the lanes.
    """
    return await asyncio.to_thread(asyncio.run, _sweep(journal, find, after))


async def _sweep(journal: Journal, find: Callable[[Group], Array], after: int) -> Sweep:
    found, last = Sweep(), journal.last_lsn()
    if after >= last:
        return found
    async for group in journal.read(after):
        if len(group.rows):
            rows = group.rows[find(group)]
            if len(rows):
                found.lsns.append(group.lsn)
                found.persons.update(rows["person"].tolist())
                found.newest_ms = max(found.newest_ms, int(rows["time_ms"].max()))
                found.rows += len(rows)
        if group.lsn >= last:
            break
    return found


async def find_rows(journal: Journal, persons: Collection[bytes]) -> tuple[Array, Array]:
    """(ROW of these person keys in the log by time, refs of each)."""
    wanted = frozenset(persons)
    rows: list[Array] = [np.zeros(0, ROW)]
    refs: list[Array] = [np.zeros(0, "<u8")]

    def find(group: Group) -> Array:
        mask = _of(group.rows, wanted)
        if mask.any():
            rows.append(group.rows[mask])
            at = np.flatnonzero(mask).astype("<u8")
            refs.append(at | np.uint64(group.lsn << REF_ROW_BITS))
        return mask

    await sweep(journal, find)
    whole, where = np.concatenate(rows), np.concatenate(refs)
    order = np.lexsort((where, whole["time_ms"]))
    return whole[order], where[order]


class Eraser:
    """One instance an engine; used from its event loop, one erasure at a time.

    persons_named: whom a record of the control log names, but for those of the audit.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        control: ControlLike,
        keyring: KeyRing,
        erasures: Erasures,
        amended: Amended,
        forget_list: ForgetList,
        clock: Clock,
        naming: Sequence[Naming],
        persons_named: Callable[[ControlRecord], Collection[bytes]],
        derived: Derived | None = None,
    ) -> None:
        self._journal = journal
        self._control = control
        self._keyring = keyring
        self._erasures = erasures
        self._amended = amended
        self._forget_list = forget_list
        self._clock = clock
        self._naming = naming
        self._persons_named = persons_named
        self._derived = derived or Derived()
        self._running = asyncio.Lock()

    async def erase(
        self, persons: Sequence[bytes], *, who: str, case: str, role: str, unit: str
    ) -> tuple[Erased, Erasure]:
        """persons: keys of one person. Everything up to now goes. Raises StorageError, KeyMissing.

        After an error the person is erased from what comes later, and the next start, or another
        erasure of them, does the rest.
        """
        async with self._running:
            wanted = frozenset(persons)
            last = self._journal.last_lsn()
            found = await sweep(self._journal, lambda group: _of(group.rows, wanted))
            now_ms = self._clock.now_ms()
            # A clock that ran ahead has put rows into the future, and they are of the past too.
            until_ms = max(now_ms, found.newest_ms + 1)
            erasure = Erasure(
                tags=tags_of(persons, self._keyring),
                until_ms=until_ms, case=case, role=role, unit=unit,
            )  # fmt: skip
            await asyncio.to_thread(self._forget_list.add, [erasure_to_entry(erasure, now_ms)])
            faults.reach("erasure.listed")
            body = msgspec.msgpack.encode(erasure)
            number = await self._control.append(BEGIN_KIND, who, body, now_ms)
            self._amended.apply(number, BEGIN_KIND, body)
            faults.reach("erasure.begun")
            self._erasures.put(erasure)
            await self._journal.settle()
            late = await sweep(self._journal, lambda group: _of(group.rows, wanted), last)
            lsns = {*found.lsns, *late.lsns}
            (done,) = await self._finish({number: erasure}, lsns, wanted, who)
            return done, erasure

    async def catch_up(self, *, again: bool = False) -> int:
        """Does what the forget list and records begun say and the logs do not show: after an end
        in the middle of it, and on a store that was brought back from a copy. How many persons.

        Before the doors open. again: also what the records say is done, for the two logs of a
        backup are not of one instant. Raises as `erase`.
        """
        alive = set(self._keyring.days())
        for day in sorted(self._forget_list.days() & alive):
            self._keyring.destroy_day(day)
        begun = dict(self._amended.begun if again else self._amended.unfinished)
        for entry in self._forget_list.entries:
            erasure = entry.to_erasure()
            if not entry.tags or self._amended.knows(erasure):
                continue
            body = msgspec.msgpack.encode(erasure)
            number = await self._control.append(BEGIN_KIND, "engine", body, self._clock.now_ms())
            self._amended.apply(number, BEGIN_KIND, body)
            begun[number] = erasure
        return len(await self.apply(begun)) if begun else 0

    async def drop_records(self, lsns: Collection[int]) -> None:
        """Takes the bodies of control records away that are over. Raises StorageError."""
        if lsns:
            async with self._running:
                # Named first: nothing would name what a crash left without a body.
                records = await asyncio.to_thread(self._control.amendments, lsns)
                done = Erased(number=0, rows=0, groups={}, records=records)
                body = msgspec.msgpack.encode(done)
                at = await self._control.append(DONE_KIND, "engine", body, self._clock.now_ms())
                self._amended.apply(at, DONE_KIND, body)
                faults.reach("retention.records")
                await self._control.amend(lsns)

    async def apply(self, begun: Mapping[int, Erasure]) -> list[Erased]:
        """Erases from the tags alone. begun: by LSN of the record that began it."""
        async with self._running:
            for erasure in begun.values():
                self._erasures.put(erasure)
            found = await sweep(self._journal, lambda group: self._erasures.find(group.rows))
            # Groups that were amended before the end are to be named in the last record as well.
            amended, known = await self._amended_groups(), self._amended.groups
            lsns = {*found.lsns, *(lsn for lsn, was in amended.items() if known.get(lsn) != was)}
            persons = {*found.persons, *self._derived.persons(self._is_erased(begun))}
            return await self._finish(begun, lsns, persons, "engine")

    async def _amended_groups(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}

        def note(raw: RawGroup) -> None:
            if raw.amended:
                found[raw.lsn] = raw.amended

        everything = await sweep(self._journal, lambda group: np.ones(len(group.rows), bool))
        await self._journal.amend(everything.lsns, note)
        return found

    async def _finish(
        self,
        begun: Mapping[int, Erasure],
        lsns: Collection[int],
        persons: Collection[bytes],
        who: str,
    ) -> list[Erased]:
        groups, rows = await self._erase_groups(lsns)
        faults.reach("erasure.amended")
        await self._follow()
        if persons:
            until_ms = max(erasure.until_ms for erasure in begun.values())
            await asyncio.to_thread(self._derived.index, persons, until_ms)
            self._derived.seen(persons)
        self._derived.alerts(self._erasures.find)
        is_erased = self._is_erased(begun)
        numbers = await asyncio.to_thread(self._records_naming, is_erased)
        records = await self._control.amend(numbers)
        for naming in self._naming:
            naming.forget(is_erased)
        if self._derived.renamed is not None:
            await self._derived.renamed()
        faults.reach("erasure.records")
        made = []
        for number in begun:
            # Of several that were brought up together the first names what they changed.
            done = Erased(number=number, rows=rows, groups=groups, records=records)
            groups, records, rows = {}, {}, 0
            body = msgspec.msgpack.encode(done)
            at = await self._control.append(DONE_KIND, who, body, self._clock.now_ms())
            self._amended.apply(at, DONE_KIND, body)
            made.append(done)
        faults.reach("erasure.done")
        _log.info("persons erased", count=len(made), groups=len(made[0].groups))
        return made

    def _records_naming(self, is_erased: Callable[[bytes], bool]) -> list[int]:
        """LSNs of control records that name one of them. In a thread."""
        return [
            record.lsn
            for record in self._control.read()
            if any(map(is_erased, self._persons_named(record)))
        ]

    async def _erase_groups(self, lsns: Collection[int]) -> tuple[dict[int, bytes], int]:
        """(amended groups and what stands there now, rows erased)."""
        groups: dict[int, bytes] = {}
        rows = 0

        def change(raw: RawGroup) -> bytes | None:
            nonlocal rows
            data = erase_rows(raw, self._keyring, self._erasures)
            if data is None:
                if raw.amended:
                    groups[raw.lsn] = raw.amended
                return None
            after = bytes_to_raw(data, is_head_only=True)
            groups[raw.lsn] = after.amended
            rows += after.erased - raw.erased
            return data

        await self._journal.amend(lsns, change)
        return groups, rows

    async def _follow(self) -> None:
        """Waits until the index has everything: it holds opened copies of the last groups."""
        if self._derived.applied is None:
            return
        last = self._journal.last_lsn()
        for _ in range(int(_FOLLOW_S / _POLL_S)):
            if self._derived.applied() >= last:
                return
            await asyncio.sleep(_POLL_S)
        raise ServiceError("the index does not follow the log")

    def _is_erased(self, begun: Mapping[int, Erasure]) -> Callable[[bytes], bool]:
        tags = frozenset(tag for erasure in begun.values() for tag in erasure.tags)
        return lambda person: self._keyring.erasure_tag(person) in tags


def _of(rows: Array, wanted: Collection[bytes]) -> Array:
    return np.fromiter((person in wanted for person in rows["person"].tolist()), bool, len(rows))
