"""Slow oracle for visits: rules D, O, P, S and C of docs/tracing.md, one person at a time."""

from __future__ import annotations

from dataclasses import dataclass

OUT = 2
OBSERVED, INFERRED_NEXT, CLOSING, DEFAULT, CAPPED = 0, 1, 2, 3, 4
MINUTE, DAY = 60_000, 86_400_000


@dataclass(frozen=True, order=True)
class Scan:
    person: object
    time: int
    place: int
    lane: int
    direction: int
    kind: int
    vehicle: int = 0
    ref: int = 0
    stay: int = 0


@dataclass(frozen=True, order=True)
class Visit:
    person: object
    place: int
    start: int
    end: int
    rule: int
    is_passage: bool
    is_start_inferred: bool
    room: int
    direction: int
    vehicle: int
    scans: int
    ref: int


@dataclass
class Presence:
    start: int
    end: int
    rule: int
    is_inferred: bool
    scan: Scan


@dataclass
class PlaceRule:
    stay: int
    week: tuple | None = None  # seven (opening, closing) in minutes, Monday first
    is_until_noon: bool = False
    trips: tuple = ()  # such weeks


def reference_visits(scans, posts, stays, rules, hours=None, dated=None):
    """posts: set of place numbers; stays: {place: ms}; rules: object with the *_ms fields.

    hours: {place: seven (opening, closing) in minutes, Monday first}. dated: {place: {from when on:
    PlaceRule}}, of places whose stay and hours change.
    """

    def rule_of(place, time):
        known = (dated or {}).get(place)
        if known is None:
            return PlaceRule(stays[place], (hours or {}).get(place))
        return known[max((begin for begin in known if begin <= time), default=min(known))]

    kept = {}
    for scan in scans:
        key = (scan.person, scan.time, scan.place, scan.lane, scan.direction, scan.kind)
        kept.setdefault(key, []).append(scan)
    single = []
    for (person, time, place, lane, direction, kind), copies in kept.items():
        vehicle = min((c.vehicle for c in copies if c.vehicle), default=0)
        ref = min(c.ref for c in copies)
        stay = max(c.stay for c in copies)
        single.append(Scan(person, time, place, lane, direction, kind, vehicle, ref, stay))
    visits = []
    for person in {scan.person for scan in single}:
        own = [scan for scan in single if scan.person == person]
        for place in {scan.place for scan in own}:
            here = [scan for scan in own if scan.place == place]
            here.sort(key=lambda s: (s.time, s.direction != OUT, s.lane, s.direction, s.kind))
            if place in posts:
                visits += passages(here, rule_of, rules)
            else:
                visits += venue_visits(here, own, rule_of, rules)
    return sorted(visits, key=lambda v: (v.person, v.place, v.start))


def passages(here, rule_of, rules):
    chains = []
    for scan in here:
        if (
            chains
            and scan.time - chains[-1][-1].time <= rules.passage_window_ms
            and scan.time + 1 - chains[-1][0].time <= rules.stay_max_ms
        ):
            chains[-1].append(scan)
        else:
            chains.append([scan])
    found = []
    for number, chain in enumerate(chains):
        start = chain[0].time
        stay = rule_of(chain[0].place, start).stay
        observed = chain[-1].time + 1
        default = start + min(stay, rules.stay_max_ms)
        if default >= observed:
            end, rule = default, (CAPPED if stay > rules.stay_max_ms else DEFAULT)
        else:
            end, rule = observed, OBSERVED
        if number + 1 < len(chains) and end > chains[number + 1][0].time:
            end, rule = chains[number + 1][0].time, CAPPED
        found.append(visit_of(chain, start, end, rule, is_passage=True, is_inferred=False))
    return found


def venue_visits(here, own, rule_of, rules):
    presences = []
    for scan in here:
        known = rule_of(scan.place, scan.time)
        if scan.direction == OUT:
            presences.append(check_out(scan, here, own, known.stay, rules))
        else:
            presences.append(check_in(scan, here, own, known, rules))
    joined = []
    for presence in presences:
        near = [
            cluster
            for cluster in joined
            if any(are_near(presence, member, rules.gap_ms) for member in cluster)
        ]
        rest = [cluster for cluster in joined if cluster not in near]
        joined = [*rest, [*(member for cluster in near for member in cluster), presence]]
    found = []
    for cluster in joined:
        cluster.sort(key=presences.index)
        found += cut(cluster, rules.stay_max_ms)
    return found


def are_near(one, other, gap):
    """Overlapping, touching or at most `gap` apart."""
    return max(one.start, other.start) - min(one.end, other.end) <= gap


def check_in(scan, here, own, known, rules):
    if scan.stay:
        told = min(scan.stay, rules.stay_max_ms)
        rule = OBSERVED if told == scan.stay else CAPPED
        return Presence(scan.time, scan.time + told, rule, False, scan)
    later_here = [other for other in here if other.time > scan.time]
    if later_here:
        soonest = min(other.time for other in later_here)
        is_checked_out = any(o.time == soonest and o.direction == OUT for o in later_here)
        if is_checked_out and soonest - scan.time <= rules.stay_max_ms:
            return Presence(scan.time, soonest, OBSERVED, False, scan)
    end, rule = scan.time + known.stay, DEFAULT
    closings = [closing_of(scan.time, week) for week in known.trips or [known.week]]
    closing = max((c for c in closings if c is not None), default=None)
    if known.is_until_noon:
        closing = None
        noons = [
            day * DAY + 5 * 60 * MINUTE for day in range(scan.time // DAY, scan.time // DAY + 3)
        ]
        end = min(noon for noon in noons if noon - scan.time >= 7 * 60 * MINUTE)
    elif known.trips and closing is not None:
        end = closing
    if end > scan.time + rules.stay_max_ms:
        end, rule = scan.time + rules.stay_max_ms, CAPPED
    ends = [(end, rule)]
    if closing is not None:
        ends.append((closing, CLOSING))
    later = [o.time for o in own if o.place != scan.place and o.time > scan.time]
    if later:
        ends.append((max(min(later) - rules.travel_ms, scan.time + 1), INFERRED_NEXT))
    outs = [other.time for other in later_here if other.direction == OUT]
    if outs:
        ends.append((min(outs), OBSERVED))
    end, rule = min(ends)
    return Presence(scan.time, end, rule, False, scan)


def closing_of(time, week):
    """Of the later of the days whose hours hold this instant: a day's may reach into the next."""
    today = (time + 7 * 60 * MINUTE) // DAY
    for day in (today, today - 1):
        begin = day * DAY - 7 * 60 * MINUTE
        opening, closing = week[(day + 3) % 7] if week else (0, 0)
        if begin + opening * MINUTE <= time < begin + closing * MINUTE:
            return begin + closing * MINUTE
    return None


def check_out(scan, here, own, stay, rules):
    earlier_here = [other for other in here if other.time < scan.time]
    if earlier_here:
        newest = max(other.time for other in earlier_here)
        had_check_in = any(o.time == newest and o.direction != OUT for o in earlier_here)
        if had_check_in and scan.time - newest <= rules.stay_max_ms:
            return Presence(newest, scan.time, OBSERVED, False, scan)
    start = scan.time - min(stay, rules.stay_max_ms)
    for other in own:
        if other.time < scan.time:
            start = max(start, other.time)
    return Presence(start, scan.time, OBSERVED, True, scan)


def cut(cluster, stay_max):
    pieces = [[cluster[0]]]
    for presence in cluster[1:]:
        if presence.end - pieces[-1][0].start > stay_max:
            pieces.append([presence])
        else:
            pieces[-1].append(presence)
    found = []
    for number, piece in enumerate(pieces):
        end = max(p.end for p in piece)
        rule = min(p.rule for p in piece if p.end == end)
        if number + 1 < len(pieces) and end > pieces[number + 1][0].start:
            end, rule = pieces[number + 1][0].start, CAPPED
        scans = [p.scan for p in piece]
        inferred = piece[0].is_inferred
        found.append(
            visit_of(scans, piece[0].start, end, rule, is_passage=False, is_inferred=inferred)
        )
    return found


def visit_of(scans, start, end, rule, *, is_passage, is_inferred):
    first = scans[0]
    vehicle = next((scan.vehicle for scan in scans if scan.vehicle), 0)
    return Visit(
        first.person, first.place, start, end, rule, is_passage, is_inferred,
        first.lane, first.direction, vehicle, len(scans), first.ref,
    )  # fmt: skip
