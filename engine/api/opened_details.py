"""Details of persons, opened for an answer: fetched from the engine, opened here, kept a while.

The one place that holds opened names, numbers and phones; engine.identity.keys.DeskKeys opens them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from engine.clock import Clock
from engine.desk import questions
from engine.errors import InputError, ServiceError
from engine.identity.seals import Open
from engine.presence.visits import REF_ROW_BITS
from engine.scans.people import Details, bytes_to_details
from engine.storage.group import SealedDetails, split_details
from engine.telemetry import Log, Metrics

_CACHE_SIZE_MAX: Final = 32 << 20
_CACHE_AGE_NS: Final = 300 * 1_000_000_000
_AT_ONCE: Final = 8  # groups that are opened in the event loop
_SIZE_AT_ONCE: Final = 1 << 18  # bytes of these

_log = Log("api")
Fetch = Callable[[questions.FetchDetails], Awaitable[questions.Details]]


class Opener(Protocol):
    """Who can open sealed details, and the persons of an audit record;
    engine.identity.keys.DeskKeys."""

    def day_opener(self, day: int) -> Open: ...
    def open_audit(self, sealed: bytes, aad: bytes) -> bytes: ...


class OpenedDetails:
    """Opened groups for a while, the least used first to go.

    Bounded in bytes and in age: what a forgotten day held must not live on in this process, asked
    for again or not, so its owner calls `drop_old` now and then.
    """

    def __init__(self, clock: Clock, size_max: int = _CACHE_SIZE_MAX) -> None:
        self._clock = clock
        self._size_max = size_max
        self._size = 0
        self._groups: OrderedDict[int, tuple[int, int, list[bytes]]] = OrderedDict()

    def get(self, lsn: int) -> list[bytes] | None:
        """Details by row of the group, or None."""
        found = self._groups.get(lsn)
        if found is None:
            return None
        at_ns, _, entries = found
        if at_ns < self._oldest_ns():
            self._drop(lsn)
            return None
        self._groups.move_to_end(lsn)
        return entries

    def put(self, lsn: int, entries: list[bytes]) -> None:
        self._drop(lsn)
        size = sum(map(len, entries)) + 64 * len(entries)
        self._groups[lsn] = (self._clock.monotonic_ns(), size, entries)
        self._size += size
        while self._size > self._size_max and len(self._groups) > 1:
            self._drop(next(iter(self._groups)))

    def drop_old(self) -> None:
        oldest_ns = self._oldest_ns()
        for lsn in [lsn for lsn, (at_ns, _, _) in self._groups.items() if at_ns < oldest_ns]:
            self._drop(lsn)

    def clear(self) -> None:
        self._groups.clear()
        self._size = 0

    def _oldest_ns(self) -> int:
        return self._clock.monotonic_ns() - _CACHE_AGE_NS

    def _drop(self, lsn: int) -> None:
        _, size, _ = self._groups.pop(lsn, (0, 0, []))
        self._size -= size


class DetailsOpener:
    """Details behind the refs of an answer.

    fetch: asks the engine for sealed groups; it gives those of an answer that was audited.
    """

    def __init__(self, fetch: Fetch, opener: Opener, clock: Clock, metrics: Metrics) -> None:
        self._fetch = fetch
        self._opener = opener
        self._metrics = metrics
        self._opened = OpenedDetails(clock)

    def drop_old(self) -> None:
        self._opened.drop_old()

    def forget(self) -> None:
        """Nothing that was opened is kept: somebody in it was erased."""
        self._opened.clear()

    async def open(
        self, refs: list[int], audit: int, token: str, brought: questions.Details | None = None
    ) -> list[Details | None]:
        """Those behind each ref of an answer; None where they are gone or cannot be opened.

        brought: details that came with the answer, so that they need not be fetched.
        """
        groups = {lsn: self._opened.get(lsn) for lsn in {ref >> REF_ROW_BITS for ref in refs}}
        wanted = tuple(ref for ref in refs if groups[ref >> REF_ROW_BITS] is None)
        while wanted:
            reply = brought or await self._fetch(
                questions.FetchDetails(token=token, audit=audit, refs=wanted)
            )
            if not reply.groups and reply.rest:
                raise ServiceError("the engine gives no details")
            fresh = [group for group in reply.groups if groups.get(group.lsn) is None]
            for lsn, entries in await self._open_all(fresh):
                groups[lsn] = entries
                self._opened.put(lsn, entries)
                self._metrics.count("chot_api_details_opened")
            wanted = tuple(ref for ref in reply.rest if groups[ref >> REF_ROW_BITS] is None)
            brought = None
        return [_find_details(groups[ref >> REF_ROW_BITS], ref) for ref in refs]

    async def _open_all(self, groups: list[SealedDetails]) -> list[tuple[int, list[bytes]]]:
        """In a thread, where it takes longer than to get there."""
        if sum(len(group.sealed) for group in groups) <= _SIZE_AT_ONCE and len(groups) <= _AT_ONCE:
            return self._open_some(groups)
        return await asyncio.to_thread(self._open_some, groups)

    def _open_some(self, groups: Iterable[SealedDetails]) -> list[tuple[int, list[bytes]]]:
        """(lsn, details by row) of each; of one that does not open none."""
        opened = []
        openers: dict[int, Open] = {}  # a key is read once for all of its day
        for group in groups:
            entries: list[bytes] = []
            try:
                if group.sealed:
                    if group.day not in openers:
                        openers[group.day] = self._opener.day_opener(group.day)
                    plain = openers[group.day](group.sealed, group.aad)
                    entries = split_details(plain, group.count)
            except (InputError, ValueError) as error:
                code = getattr(error, "code", "details")
                _log.warning("details not opened", code=code, day=group.day, lsn=group.lsn)
            opened.append((group.lsn, entries))
        return opened


def _find_details(entries: list[bytes] | None, ref: int) -> Details | None:
    row = ref & ((1 << REF_ROW_BITS) - 1)
    if not entries or row >= len(entries) or not entries[row]:
        return None
    try:
        return bytes_to_details(entries[row])
    except InputError as error:
        _log.warning("details unreadable", code=error.code, lsn=ref >> REF_ROW_BITS)
        return None
