"""Slow oracle for tiers: rules T and L of docs/tracing.md, instant by instant, every pair.

Meant for small worlds: times are small whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER = None


@dataclass(frozen=True)
class Node:
    person: bytes
    tier: int
    infected: int
    earliest: int


def presences(visits, start, end, dates, latent, places):
    """(visit, from when on it is infectious) of everybody who has a date (T1, T2)."""
    found = []
    for visit in visits:
        if visit.person not in dates or not (visit.start < end and visit.end > start):
            continue
        if places is not None and visit.place not in places:
            continue
        date = dates[visit.person]
        begun = visit.start if date is NEVER else max(visit.start, date + latent)
        if begun < visit.end:
            found.append((visit, begun))
    return found


def shared(source, begun, other, linger):
    """Instants of a stay of somebody else that an infectious presence covers (T3)."""
    if source.is_passage or source.place != other.place or source.person == other.person:
        return set()
    return set(range(begun, source.end + linger)) & set(range(other.start, other.end))


def ride(source, begun, other):
    """Instants together in one vehicle."""
    if source.place != other.place or not source.vehicle or source.vehicle != other.vehicle:
        return set()
    return set(range(begun, source.end)) & set(range(other.start, other.end))


def reference_tiers(
    visits, case, start, end, *, linger, least, window, latent, depth, most=10**9, places=None
):
    """(nodes by person without the case, rounds made)."""
    dates = dict.fromkeys(case)
    tiers, infected = {}, {}
    rounds = 0
    for tier in range(1, depth + 1):
        found = presences(visits, start, end, dates, latent, places)
        new = {}
        for person in {v.person for v in visits} - set(case):
            exposed, rides = set(), set()
            for other in visits:
                if other.person == person:
                    for source, begun in found:
                        exposed |= {(other.place, t) for t in shared(source, begun, other, linger)}
                        if source.person != person:
                            rides |= ride(source, begun, other)
            instants = [t for _, t in exposed]
            reached = [
                x
                for x in range(min(instants, default=0), max(instants, default=-1) + 2)
                if sum(x - window <= t < x for t in instants) >= max(least, 1)
            ]
            reached += [t + 1 for t in rides]
            if reached:
                new[person] = min(reached)
        rounds = tier
        count = 0
        for person, date in new.items():
            if person not in dates:
                count += 1
                tiers[person], infected[person] = tier, date
                dates[person] = date
            else:
                dates[person] = min(dates[person], date)
        if count > most:
            break
    return {
        person: Node(person, tiers[person], infected[person], dates[person]) for person in tiers
    }, rounds


def reference_links(visits, nodes, case, start, end, *, linger, latent, places=None):
    """{(source, target): (first, last, time, meetings)}, the whole case under its least key."""
    dates = {**dict.fromkeys(case), **{p: node.earliest for p, node in nodes.items()}}
    tiers = {**dict.fromkeys(case, 0), **{p: node.tier for p, node in nodes.items()}}
    parts = {}
    for source, begun in presences(visits, start, end, dates, latent, places):
        for other in visits:
            target = other.person
            if target not in nodes or source.person == target:
                continue
            is_lower = tiers[source.person] < tiers[target]
            if not is_lower and not dates[source.person] < dates[target]:
                continue
            together = ride(source, begun, other)
            met = together if source.is_passage else shared(source, begun, other, linger)
            if met:
                key = min(case) if source.person in case else source.person
                parts.setdefault((key, target), []).append((other.place, met))
    return {
        pair: (
            min(min(met) for _, met in found),
            max(max(met) for _, met in found) + 1,
            len({(place, t) for place, met in found for t in met}),
            len(found),
        )
        for pair, found in parts.items()
    }
