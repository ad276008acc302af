"""What the writer of the scan log is asked to do, and how far it has come with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.storage.commit_thread import Job
from engine.storage.journal import Amend, Mark, RecordBatch


class AppendJob(Job):
    __slots__ = ("arrival_ms", "batch", "is_duplicate", "lsn")

    def __init__(self, batch: RecordBatch, arrival_ms: int) -> None:
        super().__init__(batch.size())
        self.batch = batch
        self.arrival_ms = arrival_ms
        self.is_duplicate = False
        self.lsn = 0


class AmendJob(Job):
    __slots__ = ("change", "count", "lsns", "position")

    def __init__(self, lsns: list[int], change: Amend) -> None:
        super().__init__()
        self.lsns = lsns
        self.change = change
        self.position = 0
        self.count = 0


class ExpireJob(Job):
    __slots__ = (
        *("before_ms", "count", "days", "held", "is_begun", "is_released", "lsns", "position"),
    )

    def __init__(self, before_ms: int, held: frozenset[int]) -> None:
        super().__init__()
        self.before_ms = before_ms
        self.held = held
        self.is_begun = False
        self.is_released = False
        self.days: list[int] = []
        self.lsns: list[int] = []
        self.position = 0
        self.count = 0


@dataclass(slots=True)
class PlannedCommit:
    """What one transaction is about to make true."""

    fresh: list[AppendJob] = field(default_factory=list)
    repeats: list[AppendJob] = field(default_factory=list)  # of something in the same transaction
    marks: dict[Mark, int] = field(default_factory=dict)
