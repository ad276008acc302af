"""What an engine must know to forget rightly: holds, erasures, corrections, and the forget list.

Derived from the control log and from the file beside the keys; the same for a running engine and
for a store that is looked after while it is stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from engine.clock import Clock
from engine.colocation import corrections
from engine.colocation.corrections import CorrectionBook
from engine.identity import merges, watch
from engine.identity.keys import FileKeyRing
from engine.identity.merges import Merges
from engine.identity.watch import WatchList
from engine.keeping import holds
from engine.keeping.eraser import Derived, Eraser, Naming
from engine.keeping.erasure import Amended, Erasures
from engine.keeping.forget_list import NAME, ForgetList
from engine.keeping.holds import DaysOf, Holds
from engine.keeping.retention import IndexLike, Retention
from engine.storage.control_lmdb import ControlLog, ControlRecord
from engine.storage.journal import Journal


class Keeping:
    """One instance an engine. keys: folder of the key ring. Raises ForgetListInvalid."""

    def __init__(self, keyring: FileKeyRing, keys: Path, clock: Clock) -> None:
        self._keyring = keyring
        self._clock = clock
        self.forget_list = ForgetList(keys / NAME)
        self.holds = Holds(keyring)
        self.book = CorrectionBook(keyring)
        self.watch = WatchList(keyring)
        self.merges = Merges(keyring)
        self.amended = Amended()
        self.erasures = Erasures(keyring)

    def apply(self, record: ControlRecord) -> None:
        """Takes in one record of the control log. Raises JournalCorrupt."""
        self.watch.apply(record)
        self.merges.apply(record)
        self.holds.apply(record)
        self.book.apply(record)
        self.amended.apply(record.lsn, record.kind, record.body)

    def load(self, control: ControlLog) -> None:
        for record in control.read():
            self.apply(record)
        self.use_erasures()

    def use_erasures(self) -> None:
        """From now on late rows of all who were erased are known."""
        for erasure in [*self.amended.begun.values(), *self.forget_list.erasures()]:
            self.erasures.put(erasure)

    def eraser(
        self, journal: Journal, control: ControlLog, derived: Derived | None = None
    ) -> Eraser:
        naming: Sequence[Naming] = (self.watch, self.merges, self.holds, self.book)
        return Eraser(
            journal=journal,
            control=control,
            keyring=self._keyring,
            erasures=self.erasures,
            amended=self.amended,
            forget_list=self.forget_list,
            clock=self._clock,
            naming=naming,
            persons_named=self._persons_named,
            derived=derived,
        )

    def _persons_named(self, record: ControlRecord) -> tuple[bytes, ...]:
        """Whom a record names; those of the audit are not looked at: who saw whom stays known."""
        sources = (watch, merges, holds, corrections)
        return tuple(key for one in sources for key in one.persons_named(record, self._keyring))

    def retention(
        self, journal: Journal, index: IndexLike | None, days_of: DaysOf, keep_days: int
    ) -> Retention:
        return Retention(
            journal,
            index,
            self._clock,
            keep_days,
            ring=self._keyring,
            holds=self.holds,
            days_of=days_of,
            forget_list=self.forget_list,
        )

    def drop_over(self, before_ms: int, held: Collection[int]) -> list[int]:
        """Drops what is over: entries of the watch list that ended before the instant, holds at
        their end, corrections of forgotten days. The numbers of their records."""
        ended = [hold.number for hold in self.holds.ended(self._clock.now_ms())]
        for number in ended:
            self.holds.drop(number)
        watched = self.watch.drop_ended(before_ms)
        return [*watched, *ended, *self.book.drop_old(before_ms, held)]
