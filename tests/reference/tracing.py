"""Slow oracle for the three questions: rules K of docs/tracing.md over the oracle's visits.

Time together is counted instant by instant, as sets of whole numbers: meant for small worlds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Contact:
    person: bytes
    tier: str
    overlap: int
    linger: int
    best: int
    queue: int
    first: int
    last: int
    places: int
    is_same_vehicle: bool
    pairs: tuple


def overlaps(visit, start, end):
    return visit.start < end and visit.end > start


def reference_venue(visits, place, start, end):
    return in_order(v for v in visits if v.place == place and overlaps(v, start, end))


def reference_history(visits, persons, start, end, places=None):
    return in_order(
        v
        for v in visits
        if v.person in persons and overlaps(v, start, end) and (places is None or v.place in places)
    )


def in_order(visits):
    """Without the refs, which depend on the order of arrival and are no part of an answer."""
    bare = [replace(visit, ref=0) for visit in visits]
    return sorted(bare, key=lambda v: (v.start, v.end, v.person, v.place))


def reference_contacts(
    visits, persons, start, end, *, linger=0, least=0, window, queue, places=None
):
    """Contacts, ranked, and how many persons are below the threshold."""
    case = [
        v
        for v in visits
        if v.person in persons and overlaps(v, start, end) and (places is None or v.place in places)
    ]
    listed, below = [], 0
    for person in {v.person for v in visits} - set(persons):
        pairs = []
        for mine in case:
            for other in visits:
                if other.person == person and other.place == mine.place:
                    pair = meeting(mine, other, linger, queue)
                    if pair:
                        pairs.append(pair)
        if pairs:
            contact = add_up(person, pairs, least, window)
            if contact.tier == "below":
                below += 1
            else:
                listed.append(contact)
    listed.sort(
        key=lambda c: (
            c.tier != "candidate",
            not c.is_same_vehicle,
            -(c.overlap + c.linger),
            -c.places,
            -c.queue,
            c.person,
        )
    )
    return listed, below


def meeting(mine, other, linger, queue):
    """(case visit, other visit, instants together, instants after, is one vehicle) or None."""
    together = set(range(mine.start, mine.end)) & set(range(other.start, other.end))
    after = set(range(mine.end, mine.end + linger)) & set(range(other.start, other.end))
    is_vehicle = bool(together) and mine.vehicle > 0 and mine.vehicle == other.vehicle
    if mine.is_passage:
        after = set()
        is_near = mine.room == other.room and abs(mine.start - other.start) <= queue
        if not is_near and not is_vehicle:
            return None
    if not together and not after:
        return None
    return mine, other, together, after, is_vehicle


def add_up(person, pairs, least, window):
    together, exposed, queued = set(), set(), set()
    places, instants = set(), set()
    for mine, _, met, after, _ in pairs:
        instants |= met | after
        if mine.is_passage:
            queued |= {(mine.place, t) for t in met}
        else:
            together |= {(mine.place, t) for t in met}
            exposed |= {(mine.place, t) for t in met | after}
            places.add(mine.place)
    best = 0
    for begin in range(min(instants) - window, max(instants) + 1):
        inside = [t for _, t in exposed if begin <= t < begin + window]
        best = max(best, len(inside))
    is_vehicle = any(pair[4] for pair in pairs)
    if is_vehicle or (best > 0 and best >= least):
        tier = "candidate"
    else:
        tier = "queue" if any(pair[0].is_passage for pair in pairs) else "below"
    rows = sorted(
        (mine.start, mine.end, other.start, other.end, mine.place, len(met), len(after))
        for mine, other, met, after, _ in pairs
    )
    return Contact(
        person, tier, len(together), len(exposed - together), best, len(queued),
        min(instants), max(instants) + 1, len(places), is_vehicle, tuple(rows),
    )  # fmt: skip
