"""The plan of retention: which day is forgotten when, how much it holds, and what keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from engine.clock import DAY_MS, day_to_date, day_to_ms, ms_to_day, ms_to_iso
from engine.storage import generation
from engine.storage.generations import KIND
from engine.storage.group import bytes_to_raw
from engine.storage.store_lmdb import Store
from engine.storage.store_lock import StoreLock


@dataclass(slots=True)
class DayFigures:
    """What the scan log holds of one civil day. bytes: of its groups."""

    groups: int = 0
    rows: int = 0
    bytes: int = 0


class HoldLike(Protocol):
    """What is read of a hold."""

    @property
    def number(self) -> int: ...
    @property
    def case(self) -> str: ...
    @property
    def until_ms(self) -> int: ...
    @property
    def persons(self) -> Sequence[bytes]: ...


class DayPlan(msgspec.Struct, frozen=True, kw_only=True):
    """state: "kept", "due" (forgotten at the next run) or "held". goes: instant from which it is
    due. holds: numbers of those that keep it beyond its time or will."""

    day: str
    state: str
    groups: int
    rows: int
    bytes: int
    goes: str
    holds: tuple[int, ...]


class HoldPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A hold in force: what it is for, until when, the days it keeps, whether it names a person."""

    number: int
    case: str
    until: str
    days: tuple[str, ...]
    is_of_person: bool


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """days: that have rows, oldest first."""

    now: str
    retention_days: int
    days: tuple[DayPlan, ...]
    holds: tuple[HoldPlan, ...]


def read_figures(path: Path) -> dict[int, DayFigures]:
    """By civil day, from the heads of the groups; beside a running engine too.

    path: folder of the scan log. Raises StorageError.
    """
    found: dict[int, DayFigures] = {}
    with StoreLock(path, is_offline=True) as lock:
        for _, folder in generation.folders(path):
            with Store(folder, kind=KIND, is_offline=True, lock=lock) as store:
                for _, value in store.scan(1):
                    raw = bytes_to_raw(value, is_head_only=True)
                    if raw.row_count and not raw.is_expired:
                        figures = found.setdefault(raw.day, DayFigures())
                        figures.groups += 1
                        figures.rows += raw.row_count - raw.erased
                        figures.bytes += len(value)
    return found


def make_plan(
    figures: Mapping[int, DayFigures],
    holds: Sequence[HoldLike],
    held: Mapping[int, Sequence[int]],
    *,
    now_ms: int,
    retention_days: int,
) -> Plan:
    """holds: those in force; held: civil day to their numbers."""
    oldest = ms_to_day(now_ms) - retention_days
    until_ms = {hold.number: hold.until_ms for hold in holds}
    days = []
    for day, found in sorted(figures.items()):
        numbers = tuple(sorted(held.get(day, ())))
        due_ms = day_to_ms(day + 1) + retention_days * DAY_MS
        goes_ms = max([due_ms, *(until_ms[number] for number in numbers if number in until_ms)])
        state = "kept" if day >= oldest else "held" if numbers else "due"
        days.append(
            DayPlan(
                day=day_to_date(day),
                state=state,
                groups=found.groups,
                rows=found.rows,
                bytes=found.bytes,
                goes=ms_to_iso(goes_ms),
                holds=numbers,
            )
        )
    return Plan(
        now=ms_to_iso(now_ms),
        retention_days=retention_days,
        days=tuple(days),
        holds=tuple(
            HoldPlan(
                number=hold.number,
                case=hold.case,
                until=ms_to_iso(hold.until_ms),
                days=tuple(day_to_date(d) for d, by in sorted(held.items()) if hold.number in by),
                is_of_person=bool(hold.persons),
            )
            for hold in holds
        ),
    )
