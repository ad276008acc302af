"""The map of areas: what lies in what, what was made part of what, and names that no longer hold.

Communes, districts and provinces come and go by law (districts ended on 30/6/2025, provinces were
joined), while places, grants and people's addresses still say the old ones. Their offices, the
units, go with them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from engine.registry.records import LATEST_MS, Area, Unit, fold, is_in_force

AREA_DEPTH_MAX: Final = 16

# What stands before the name of an area, folded and with its blank.
_WORDS: Final = (
    *("thanh pho truc thuoc trung uong ", "thanh pho ", "thi tran ", "thi xa ", "dac khu "),
    *("tinh ", "huyen ", "quan ", "phuong ", "xa "),
)
T = TypeVar("T", Area, Unit)


class NameMap(Generic[T]):
    """Part of a Registry, which puts in the records. Without an instant the newest records hold."""

    def __init__(self) -> None:
        self._records: dict[str, Sequence[T]] = {}

    def take(self, records: Sequence[T]) -> None:
        """All records of one code, by their beginning; of equal ones the last is what holds."""
        newest: dict[int, T] = {record.valid_from_ms: record for record in records}
        self._records[records[0].code] = list(newest.values())

    def last(self, code: str, at_ms: int) -> T | None:
        """The record of a code at the instant, be it in force or over."""
        records = self._records.get(code, ())
        end = bisect_right(records, at_ms, key=lambda record: record.valid_from_ms)
        return records[end - 1] if end else None

    def following(self, record: T) -> T | None:
        """The record that took the place of one of the same code."""
        records = self._records.get(record.code, ())
        return next((r for r in records if r.valid_from_ms > record.valid_from_ms), None)

    def now(self, code: str, at_ms: int | None = None) -> T | None:
        """What holds at the instant in place of a code: itself, or what took it over.

        Of one that ended without a successor its last record, so that no name is lost.
        """
        at_ms = LATEST_MS if at_ms is None else at_ms
        found = self.last(code, at_ms)
        for _ in range(AREA_DEPTH_MAX):
            if found is None or is_in_force(found, at_ms) or not found.successor:
                break
            found = self.last(found.successor, at_ms) or found
        return found

    def names(self) -> set[str]:
        """All codes and all names, of past ones too, folded."""
        records = [record for records in self._records.values() for record in records]
        return {fold(text) for record in records for text in (record.code, record.name)}

    def find(self, text: str, limit: int = 50) -> list[T]:
        """Records, past ones too, whose code or name the text is, accents or not.

        Where there are none, those whose name holds the text. Each name of a code once.
        """
        wanted = fold(text.strip())
        exact: dict[tuple[str, str], T] = {}
        partial: dict[tuple[str, str], T] = {}
        for records in self._records.values():
            for record in reversed(records):
                name = fold(record.name)
                if wanted in (fold(record.code), name, _bare(name)):
                    exact.setdefault((record.code, name), record)
                elif wanted in name:
                    partial.setdefault((record.code, name), record)
        return list((exact or partial).values())[:limit]


class AreaMap(NameMap[Area]):
    """Areas, which lie in one another."""

    def lies_in(self, code: str, ancestor: str, at_ms: int | None = None) -> bool:
        """Whether an area is the other one or lies in it; everything lies in "" (the province).

        An area that was made part of another lies where that lies. An ancestor that has ended is
        looked at as of its last day: what lay in a district stays findable by it.
        """
        if not ancestor:
            return True
        at_ms = LATEST_MS if at_ms is None else at_ms
        above = self.last(ancestor, at_ms)
        if above is not None and above.valid_to_ms is not None:
            at_ms = min(at_ms, above.valid_to_ms - 1)
        for _ in range(2 * AREA_DEPTH_MAX):
            if code == ancestor:
                return True
            area = self.last(code, at_ms) if code else None
            if area is None:
                return False
            is_joined = area.successor and not is_in_force(area, at_ms)
            code = area.successor if is_joined else area.parent
        return False


def _bare(name: str) -> str:
    """A folded name without the word for its kind: "huyen vinh linh" -> "vinh linh"."""
    for word in _WORDS:
        if name.startswith(word):
            return name.removeprefix(word)
    return name
