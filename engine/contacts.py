"""Contacts: pairs of visits that share a place and a time, and what they add up to by person.

Pure functions of arrays of VISIT; who the visits belong to and where they come from is the index's
business. The rules, with examples, stand in docs/tracing.md; tests/reference/tracing.py is the slow
twin written from them.

K1  A visit of the case and one of another person at the same venue make a pair if they overlap, or
    if the other is there within `linger_ms` after the case has left. Touching is no overlap.
K2  Two passages at one post make a pair if they overlap and either began at the same control point
    (lane) within `queue_ms` of each other, or name the same vehicle (CP-4). Such a pair is weak
    evidence, flagged QUEUE, and its time is never part of the minutes together.
K3  A person's minutes at one place count once, even where visits of several keys of the case
    overlap; minutes at two places at once count for both, because each may be the true one.
K4  A candidate has overlap and linger of the threshold or more, cumulated within some window of
    `window_ms`, or shared a vehicle with the case. Others are listed for the queue they stood in,
    or else only counted.
"""

from __future__ import annotations

import enum

import numpy as np

from engine.visits import Array, VisitFlag, changes, latest_so_far

CONTACT = np.dtype(
    [
        ("overlap_ms", "<i8"),  # at venues, cumulated
        ("linger_ms", "<i8"),  # after the case had left, beyond the overlap
        ("best_ms", "<i8"),  # most overlap and linger within any one window
        ("queue_ms", "<i8"),  # side by side at posts
        ("first_ms", "<i8"),  # first and last instant of all evidence
        ("last_ms", "<i8"),
        ("pairs", "<u4"),
        ("places", "<u4"),  # different venues shared
        ("tier", "u1"),
        ("flags", "u1"),  # those of all pairs together
        ("spare", "V6"),
    ]
)
PAIR = np.dtype(
    [
        ("contact", "<u4"),  # row of CONTACT
        ("place", "<u4"),
        ("case_start_ms", "<i8"),
        ("case_end_ms", "<i8"),
        ("other_start_ms", "<i8"),
        ("other_end_ms", "<i8"),
        ("overlap_ms", "<i8"),
        ("linger_ms", "<i8"),  # the other's presence in [case end, case end + linger)
        ("case_ref", "<u8"),
        ("other_ref", "<u8"),
        ("case_room", "<u2"),
        ("other_room", "<u2"),
        ("case_rule", "u1"),
        ("other_rule", "u1"),
        ("flags", "u1"),
        ("spare", "V1"),
    ]
)


class Tier(enum.IntEnum):
    """What a contact is proposed as; a person decides. BELOW is counted and never listed."""

    BELOW = 0
    CANDIDATE = 1
    QUEUE = 2


class PairFlag(enum.IntFlag):
    QUEUE = 1
    SAME_VEHICLE = 2
    SAME_ROOM = 4  # or the same control point of a post
    AFTER = 8  # no overlap: the other was there after the case had left


def pair_until(case: Array, linger_ms: int) -> Array:
    """Up to when a visit at the place of each visit in `case` can make a pair with it."""
    return case["end_ms"] + np.where(_is_passage(case), 0, linger_ms)


def is_pair(case: Array, other: Array, queue_ms: int) -> Array:
    """K2 as a mask over visits, side by side, that already share place and time."""
    is_near = np.abs(case["start_ms"] - other["start_ms"]) <= queue_ms
    is_near &= case["room"] == other["room"]
    mask: Array = ~_is_passage(case) | is_near | _is_same_vehicle(case, other)
    return mask


def pair_up(case: Array, other: Array, linger_ms: int) -> Array:
    """PAIR of visits side by side; `contact` stays 0 until `rank_contacts` gives it."""
    pairs = np.zeros(len(case), PAIR)
    pairs["place"] = case["place"]
    for name in ("start_ms", "end_ms", "ref", "room", "rule"):
        pairs["case_" + name] = case[name]
        pairs["other_" + name] = other[name]
    begun = np.maximum(case["start_ms"], other["start_ms"])
    pairs["overlap_ms"] = np.maximum(np.minimum(case["end_ms"], other["end_ms"]) - begun, 0)
    until = np.minimum(pair_until(case, linger_ms), other["end_ms"])
    stayed = until - np.maximum(case["end_ms"], other["start_ms"])
    pairs["linger_ms"] = np.maximum(stayed, 0)
    is_after = pairs["overlap_ms"] == 0
    flags = np.where(_is_passage(case), PairFlag.QUEUE, 0)
    flags |= np.where(_is_same_vehicle(case, other) & ~is_after, PairFlag.SAME_VEHICLE, 0)
    flags |= np.where(case["room"] == other["room"], PairFlag.SAME_ROOM, 0)
    flags |= np.where(is_after, PairFlag.AFTER, 0)
    pairs["flags"] = flags
    return pairs


def rank_contacts(
    pairs: Array, who: Array, count: int, min_ms: int, window_ms: int
) -> tuple[Array, Array, Array]:
    """What is listed, best first: numbers of the persons, their CONTACT rows, and their PAIRs.

    who: number of each pair's person, below `count`, ascending with the key, so that a tie is
    broken the same way whatever came first. Vehicle before all, then time together, shared venues
    and time in the queue; candidates before those who only queued.
    """
    table = _add_up(pairs, who, count, window_ms)
    is_vehicle = (table["flags"] & PairFlag.SAME_VEHICLE) > 0
    is_candidate = is_vehicle | ((table["best_ms"] > 0) & (table["best_ms"] >= min_ms))
    is_queue = (table["flags"] & PairFlag.QUEUE) > 0
    tier = np.where(is_candidate, Tier.CANDIDATE, np.where(is_queue, Tier.QUEUE, Tier.BELOW))
    table["tier"] = tier
    together = table["overlap_ms"] + table["linger_ms"]
    places = table["places"].astype(np.int64)
    order = np.lexsort((-table["queue_ms"], -places, -together, ~is_vehicle, tier))
    order = order[tier[order] != Tier.BELOW]
    row = np.full(count, count)
    row[order] = np.arange(len(order))
    is_listed = row[who] < count
    pairs = pairs[is_listed]
    pairs["contact"] = row[who[is_listed]]
    fields = ("other_end_ms", "other_start_ms", "case_end_ms", "place", "case_start_ms", "contact")
    return order, table[order], pairs[np.lexsort([pairs[name] for name in fields])]


def _is_passage(visits: Array) -> Array:
    mask: Array = (visits["flags"] & VisitFlag.PASSAGE) > 0
    return mask


def _is_same_vehicle(case: Array, other: Array) -> Array:
    mask: Array = (case["vehicle"] > 0) & (case["vehicle"] == other["vehicle"])
    return mask


def _add_up(pairs: Array, who: Array, count: int, window_ms: int) -> Array:
    """CONTACT for each of `count` persons, without the tier. Every person has a pair."""
    table = np.zeros(count, CONTACT)
    if not count:
        return table
    begun = np.maximum(pairs["case_start_ms"], pairs["other_start_ms"])
    met = begun + pairs["overlap_ms"]
    # Linger follows the overlap without a gap; without an overlap `begun` is where it begins.
    ended = met + pairs["linger_ms"]
    is_queue = (pairs["flags"] & PairFlag.QUEUE) > 0
    place = pairs["place"]
    for name, part, until in (
        ("overlap_ms", ~is_queue, met),
        ("linger_ms", ~is_queue, ended),
        ("queue_ms", is_queue, met),
    ):
        spans = _counted_once(who[part], place[part], begun[part], until[part])
        np.add.at(table[name], spans[0], spans[2] - spans[1])
        if name == "linger_ms":
            table["best_ms"] = _most_in_window(*spans, count, window_ms)
    table["linger_ms"] -= table["overlap_ms"]
    order = np.argsort(who, kind="stable")
    first = np.flatnonzero(changes(who[order]))
    table["first_ms"] = np.minimum.reduceat(begun[order], first)
    table["last_ms"] = np.maximum.reduceat(ended[order], first)
    table["flags"] = np.bitwise_or.reduceat(pairs["flags"][order], first)
    table["pairs"] = np.diff(first, append=len(who))
    shared = np.unique(np.stack([who, place])[:, ~is_queue], axis=1)[0]
    table["places"] = np.bincount(shared, minlength=count)
    return table


def _counted_once(
    person: Array, place: Array, start: Array, end: Array
) -> tuple[Array, Array, Array]:
    """K3: the union of the spans of each person and place, as disjoint spans of the persons."""
    order = np.lexsort((start, place, person))
    person, place, start, end = person[order], place[order], start[order], end[order]
    if len(order):
        group = changes(person, place)
        reach = latest_so_far(end, group)
        start = np.where(group, start, np.maximum(start, np.append(0, reach[:-1])))
    keep = end > start
    return person[keep], start[keep], end[keep]


def _most_in_window(person: Array, start: Array, end: Array, count: int, window_ms: int) -> Array:
    """Of each person the most time its spans cover within any window of window_ms.

    With F(x) = sum of max(0, min(x, end) - start), the time before x, a window from w covers
    F(w + window) - F(w). That is piecewise linear in w and has its maxima where the window begins
    with a span or ends with one, so only these windows are looked at.
    """
    best = np.zeros(count, np.int64)
    if not len(person):
        return best
    origin = start.min()
    start, end = start - origin, end - origin
    begin = np.concatenate([start, end - window_ms])
    # Ranks in place of times keep (person, time) in one integer, whatever the clocks say.
    values, ranks = np.unique(
        np.concatenate([begin, begin + window_ms, start, end]), return_inverse=True
    )
    size = len(person)
    key = np.concatenate([person] * 6) * len(values) + ranks
    asked, time = key[: 4 * size], values[ranks]
    base = np.concatenate([person] * 4) * len(values)
    before = np.zeros(4 * size, np.int64)
    for part, sign in ((slice(4 * size, 5 * size), 1), (slice(5 * size, None), -1)):
        order = np.argsort(key[part])
        edge, summed = key[part][order], np.append(0, np.cumsum(time[part][order]))
        low, high = np.searchsorted(edge, base), np.searchsorted(edge, asked)
        before += sign * ((high - low) * time[: 4 * size] - (summed[high] - summed[low]))
    np.maximum.at(best, np.concatenate([person, person]), before[2 * size :] - before[: 2 * size])
    return best
