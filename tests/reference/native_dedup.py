"""Slow twin of native.dedup: every sighting against every other one of its person."""

from __future__ import annotations

from collections.abc import Sequence

HERE, LANES, ROAD = 1, 2, 4
PERSON_MAX = 32

Scan = tuple[bytes, int, int, int]  # person, place, lane, time_ms
Roads = Sequence[tuple[int, int, int]]


class SeenList:
    """person -> its sightings as (time_ms, place, lane)."""

    def __init__(self) -> None:
        self.known: dict[bytes, set[tuple[int, int, int]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.known.values()))

    def see(self, scans: list[Scan], window_ms: int, lanes_ms: int = 0, roads: Roads = ()) -> bytes:
        least = {frozenset((one, two)): least_ms for one, two, least_ms in roads}
        answers = bytearray()
        for person, place, lane, time_ms in scans:
            sightings = self.known.setdefault(person, set())
            answer = 0
            for other_ms, other, other_lane in sightings - {(time_ms, place, lane)}:
                apart_ms = abs(time_ms - other_ms)
                if other != place:
                    answer |= ROAD * (apart_ms < least.get(frozenset((place, other)), 0))
                    continue
                answer |= HERE * (apart_ms <= window_ms)
                answer |= LANES * (lane != other_lane and apart_ms < lanes_ms)
            answers.append(answer)
            sightings.add((time_ms, place, lane))
            if len(sightings) > PERSON_MAX:
                sightings.remove(min(sightings))
        return bytes(answers)

    def expire(self, before_ms: int) -> int:
        before = len(self)
        for person, sightings in list(self.known.items()):
            kept = {s for s in sightings if s[0] >= before_ms}
            if kept:
                self.known[person] = kept
            else:
                del self.known[person]
        return before - len(self)
