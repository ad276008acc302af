"""Slow twin of native.dedup: a dict, one pair after the other."""

from __future__ import annotations


class SeenDict:
    """(person, place) -> last time in ms."""

    def __init__(self) -> None:
        self.last: dict[tuple[bytes, int], int] = {}

    def __len__(self) -> int:
        return len(self.last)

    def see(self, scans: list[tuple[bytes, int, int]], window_ms: int) -> bytes:
        """scans: (person, place, time_ms). One byte each: 0 new, 1 seen."""
        answers = bytearray()
        for person, place, time_ms in scans:
            last = self.last.get((person, place))
            answers.append(last is not None and abs(time_ms - last) <= window_ms)
            self.last[person, place] = time_ms if last is None else max(last, time_ms)
        return bytes(answers)

    def expire(self, before_ms: int) -> int:
        old = [pair for pair, last in self.last.items() if last < before_ms]
        for pair in old:
            del self.last[pair]
        return len(old)
