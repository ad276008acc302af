"""Slow twins of native.index and native.contacts: every visit beside every other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from engine.presence.contacts import CONTACT, PAIR, PairFlag, Tier
from engine.presence.visits import VISIT, VisitFlag

Spans = list[tuple[int, int]]
NEVER = 2**32 - 1


class Table:
    """Of VisitTable: `visits` is an array of VISIT. ended: by row, NEVER for those that are."""

    def __init__(self, visits: np.ndarray) -> None:
        self.rows = visits[np.lexsort((visits["start_ms"], visits["place"]))]
        self.visits = [
            dict(zip(VISIT.names or (), visit, strict=True)) for visit in self.rows.tolist()
        ]
        self.ended = [NEVER] * len(visits)

    def at_place(self, place: int, from_ms: int, to_ms: int, epoch: int) -> bytes:
        return self._packed(from_ms, to_ms, epoch, place=place)

    def of_person(self, person: int, from_ms: int, to_ms: int, epoch: int) -> bytes:
        return self._packed(from_ms, to_ms, epoch, person=person)

    def begun(self, from_ms: int, to_ms: int, epoch: int) -> bytes:
        return b"".join(
            row.tobytes()
            for row, visit in self.alive(epoch)
            if from_ms <= visit["start_ms"] < to_ms
        )

    def alive(self, epoch: int) -> list[tuple[np.void, dict[str, Any]]]:
        found = zip(self.rows, self.visits, self.ended, strict=True)
        return [(row, visit) for row, visit, ended in found if ended > epoch]

    def _packed(self, from_ms: int, to_ms: int, epoch: int, **asked: int) -> bytes:
        return b"".join(
            row.tobytes()
            for row, visit in self.alive(epoch)
            if all(visit[name] == value for name, value in asked.items())
            and visit["start_ms"] < to_ms
            and visit["end_ms"] > from_ms
        )


def end_visits(tables: list[Table], endings: list[tuple[int, int, int]], epoch: int) -> int:
    """endings: (start, person, place). Each ends one visit, of the last table that has it."""
    count = 0
    for ending in endings:
        for table in reversed(tables):
            for at, visit in enumerate(table.visits):
                is_it = (visit["start_ms"], visit["person"], visit["place"]) == ending
                if is_it and table.ended[at] == NEVER:
                    table.ended[at] = epoch
                    count += 1
                    break
            else:
                continue
            break
    return count


def find_contacts(
    tables: Iterable[Table],
    case: np.ndarray,
    persons: list[int],
    keys: list[bytes],
    epoch: int,
    *,
    linger_ms: int,
    queue_ms: int,
    min_ms: int,
    window_ms: int,
    limit: int,
) -> tuple[bytes, bytes, bytes, int, int]:
    met = defaultdict(list)
    for table in tables:
        for _, other in table.alive(epoch):
            if other["person"] < len(keys) and other["person"] not in persons:
                for mine in Table(case).visits:
                    pair = pair_up(mine, other, linger_ms, queue_ms)
                    if pair:
                        met[other["person"]].append(pair)
    contacts = {who: add_up(pairs, min_ms, window_ms) for who, pairs in met.items()}
    ranked = sorted(
        (who for who, contact in contacts.items() if contact["tier"] != Tier.BELOW),
        key=lambda who: (*rank(contacts[who]), keys[who]),
    )
    shown = ranked[:limit]
    pairs = [
        {**pair, "contact": row} for row, who in enumerate(shown) for pair in sorted_pairs(met[who])
    ]
    return (
        np.array(shown, np.uint32).tobytes(),
        packed([contacts[who] for who in shown], CONTACT),
        packed(pairs, PAIR),
        len(ranked),
        len(contacts) - len(ranked),
    )


def packed(rows: list[dict[str, Any]], dtype: np.dtype) -> bytes:
    array = np.zeros(len(rows), dtype)
    for at, row in enumerate(rows):
        for name, value in row.items():
            array[name][at] = value
    return array.tobytes()


def pair_up(
    mine: dict[str, Any], other: dict[str, Any], linger_ms: int, queue_ms: int
) -> dict[str, Any] | None:
    """PAIR by field, None where K1 and K2 make none."""
    is_passage = bool(mine["flags"] & VisitFlag.PASSAGE)
    until = mine["end_ms"] + (0 if is_passage else linger_ms)
    if mine["place"] != other["place"]:
        return None
    if other["start_ms"] >= until or other["end_ms"] <= mine["start_ms"]:
        return None
    is_vehicle = 0 < mine["vehicle"] == other["vehicle"]
    is_room = mine["room"] == other["room"]
    is_near = is_room and abs(mine["start_ms"] - other["start_ms"]) <= queue_ms
    if is_passage and not is_near and not is_vehicle:
        return None
    overlap = common((mine["start_ms"], mine["end_ms"]), (other["start_ms"], other["end_ms"]))
    pair = {
        "place": mine["place"],
        "overlap_ms": overlap,
        "linger_ms": common((mine["end_ms"], until), (other["start_ms"], other["end_ms"])),
        "flags": PairFlag.QUEUE * is_passage
        | PairFlag.SAME_VEHICLE * (is_vehicle and overlap > 0)
        | PairFlag.SAME_ROOM * is_room
        | PairFlag.AFTER * (overlap == 0),
    }
    for name in ("start_ms", "end_ms", "ref", "room", "rule"):
        pair["case_" + name], pair["other_" + name] = mine[name], other[name]
    return pair


def common(a: tuple[int, int], b: tuple[int, int]) -> int:
    return max(0, min(a[1], b[1]) - max(a[0], b[0]))


def add_up(pairs: list[dict[str, Any]], min_ms: int, window_ms: int) -> dict[str, Any]:
    """CONTACT by field."""
    met, exposed, queued = defaultdict(list), defaultdict(list), defaultdict(list)
    instants, flags = [], 0
    for pair in pairs:
        begun = max(pair["case_start_ms"], pair["other_start_ms"])
        over = begun + pair["overlap_ms"]
        instants += [begun, over + pair["linger_ms"]]
        flags |= pair["flags"]
        if pair["flags"] & PairFlag.QUEUE:
            queued[pair["place"]].append((begun, over))
        else:
            met[pair["place"]].append((begun, over))
            exposed[pair["place"]].append((begun, over + pair["linger_ms"]))
    overlap, queue = length(union(met)), length(union(queued))
    best = most_in_window(union(exposed), window_ms)
    if flags & PairFlag.SAME_VEHICLE or (best > 0 and best >= min_ms):
        tier = Tier.CANDIDATE
    else:
        tier = Tier.QUEUE if flags & PairFlag.QUEUE else Tier.BELOW
    return {
        "overlap_ms": overlap,
        "linger_ms": length(union(exposed)) - overlap,
        "best_ms": best,
        "queue_ms": queue,
        "first_ms": min(instants),
        "last_ms": max(instants),
        "pairs": len(pairs),
        "places": len(met),
        "tier": tier,
        "flags": flags,
    }


def union(by_place: dict[int, Spans]) -> Spans:
    """Spans that are disjoint within a place."""
    found: Spans = []
    for spans in by_place.values():
        reach = min(start for start, _ in spans)
        for start, end in sorted(spans):
            if end > max(start, reach):
                found.append((max(start, reach), end))
                reach = end
    return found


def length(spans: Spans) -> int:
    return sum(end - start for start, end in spans)


def most_in_window(spans: Spans, window_ms: int) -> int:
    begins = [start for start, _ in spans] + [end - window_ms for _, end in spans]
    return max(
        (sum(common(span, (at, at + window_ms)) for span in spans) for at in begins), default=0
    )


def rank(contact: dict[str, Any]) -> tuple[int, ...]:
    return (
        contact["tier"],
        not contact["flags"] & PairFlag.SAME_VEHICLE,
        -contact["overlap_ms"] - contact["linger_ms"],
        -contact["places"],
        -contact["queue_ms"],
    )


def sorted_pairs(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("case_start_ms", "place", "case_end_ms", "other_start_ms", "other_end_ms")
    return sorted(pairs, key=lambda p: [p[name] for name in (*names, "case_ref", "other_ref")])
