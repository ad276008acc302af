"""Visits: passages and stays as a pure function of the set of scans.

Nothing here depends on the order in which scans arrive, on repeats or on lateness: the rules below
speak of the set of distinct scans of one person, and the functions sort before they look. The same
rules, with reasons and examples, stand in docs/tracing.md; tests/reference/visits.py is the slow
twin written from them.

D   Scans that agree in person, time, place, lane, direction and kind are one scan. It keeps the
    smallest vehicle number above 0, the longest told stay and the smallest ref of its copies.
O   At one instant at one place check-outs stand before the others, then lane, direction and kind
    decide. "Next" and "previous" below mean strictly later and strictly earlier.
P   A place that is a post gives passages (CP-3): scans at one post, whichever lanes, each at most
    `passage_window_ms` after the one before, are one passage. It starts with its first scan, whose
    lane is its room and whose direction is its direction, and ends at the later of start + default
    stay of the post and last scan + 1 ms, but not after the start of the next passage there.
S   Any other place gives stays. A scan with direction OUT is a check-out, any other a check-in.
S1  A check-in is a presence from its time for as long as it was told, if it was (observed); else to
    the check-out, if the person's next scan there is one and comes within `stay_max_ms` (observed);
    else to the earliest of the person's next scan elsewhere, posts included, less `travel_ms`
    (inferred_next), the default stay (default) and the next check-out there (observed); and never
    under 1 ms.
S2  A check-out that ends a check-in under S1 adds no presence of its own. Any other is a presence
    that ends with it (observed) and begins one default stay earlier, but not before the person's
    previous scan anywhere. Such a beginning is flagged START_INFERRED.
S3  Presences of one person at one venue that overlap, touch or lie at most `gap_ms` apart are one
    visit, closed transitively. Its end is the latest end among them, with the rule that gave it.
C   Nothing is longer than `stay_max_ms`: a stay, told or default, is cut to it (capped); a presence
    that would make its visit or passage longer begins the next one, which ends the earlier there at
    the latest (capped). So a cap never loses time that a scan vouches for.

Intervals are half open, [start, end). Visits of one person at one place never overlap.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from engine.clock import DAY_MS, MINUTE_MS
from engine.rows import Direction

Array: TypeAlias = npt.NDArray[Any]

SCAN = np.dtype(
    [
        ("time_ms", "<i8"),
        ("ref", "<u8"),  # evidence: number of the log group << 20 | row within it
        ("person", "<u4"),  # dense number, not the key
        ("place", "<u4"),
        ("vehicle", "<u4"),
        ("stay_ms", "<u4"),  # told with a check-in, 0 where not
        ("lane", "<u2"),
        ("direction", "u1"),
        ("kind", "u1"),
    ]
)
VISIT = np.dtype(
    [
        ("start_ms", "<i8"),
        ("end_ms", "<i8"),
        ("ref", "<u8"),  # first evidence
        ("person", "<u4"),
        ("place", "<u4"),
        ("vehicle", "<u4"),  # of the first scan that names one, 0 where none does
        ("room", "<u2"),  # lane or room of the first scan
        ("scans", "<u2"),  # distinct scans, at most 65535
        ("rule", "u1"),
        ("flags", "u1"),
        ("direction", "u1"),  # of the first scan
        ("spare", "V5"),  # keeps the 8-byte fields aligned
    ]
)
NEVER = 1 << 62
REF_ROW_BITS = 20


class EndRule(enum.IntEnum):
    """What gave a visit its end, best evidence first."""

    OBSERVED = 0
    INFERRED_NEXT = 1
    DEFAULT = 2
    CAPPED = 3


class VisitFlag(enum.IntFlag):
    PASSAGE = 1  # at a post: weak evidence, no minutes spent together at a venue
    START_INFERRED = 2  # a check-out without a check-in


class PlaceRule(msgspec.Struct, frozen=True):
    """What the rules need to know of one place. default_stay_ms >= 1."""

    is_post: bool
    default_stay_ms: int


class VisitRules(msgspec.Struct, frozen=True):
    """The numbers in the rules, all in milliseconds; the passage window is the one of CP-3."""

    passage_window_ms: int = 10 * MINUTE_MS
    gap_ms: int = 15 * MINUTE_MS
    travel_ms: int = 0
    stay_max_ms: int = DAY_MS
    queue_ms: int = 5 * MINUTE_MS  # two passages that start so close at one lane queued together

    def __post_init__(self) -> None:
        """Raises ValueError on a negative span or a longest stay of nothing."""
        spans = (self.passage_window_ms, self.gap_ms, self.travel_ms, self.queue_ms)
        if min(spans) < 0 or self.stay_max_ms < 1:
            raise ValueError("visit rules: spans are not negative, stay_max_ms is at least 1")


# A place the registry does not know must not lose its visitors: recall before precision.
UNKNOWN_PLACE = PlaceRule(is_post=False, default_stay_ms=60 * MINUTE_MS)


class PlaceRules:
    """Rules by place number (u32), as sorted columns. Immutable."""

    def __init__(self, rules: Mapping[int, PlaceRule], unknown: PlaceRule = UNKNOWN_PLACE) -> None:
        """Raises ValueError on a default stay under 1 ms or a number that is no u32."""
        for number, rule in [*rules.items(), (0, unknown)]:
            if rule.default_stay_ms < 1 or not 0 <= number < 1 << 32:
                raise ValueError(f"place {number}: default stay {rule.default_stay_ms} ms")
        numbers = sorted(rules)
        # The unknown stands last, where a search past the end or a miss is sent.
        self._numbers = np.array(numbers, np.uint32)
        ordered = [rules[number] for number in numbers] + [unknown]
        self._is_post = np.array([rule.is_post for rule in ordered], bool)
        self._stay_ms = np.array([min(rule.default_stay_ms, NEVER) for rule in ordered], np.int64)

    def lookup(self, places: Array) -> tuple[Array, Array]:
        """(is_post bool, default_stay_ms i64), one of each for every place number."""
        at = np.searchsorted(self._numbers, places)
        if len(self._numbers):
            near = np.minimum(at, len(self._numbers) - 1)
            at = np.where(self._numbers[near] == places, near, len(self._numbers))
        return self._is_post[at], self._stay_ms[at]


def derive(scans: Array, places: PlaceRules, rules: VisitRules) -> Array:
    """Visits of an array of SCAN in any order, as VISIT sorted by person, place and start.

    Times must stay within ±2**61 ms; ingest refuses clocks far outside of that.
    """
    return derive_distinct(distinct(scans), places, rules)


def distinct(scans: Array) -> Array:
    """Rule D: SCAN without copies, sorted by person, place, time and then rule O."""
    if not len(scans):
        return scans.copy()
    pair = scans["person"].astype(np.uint64) << np.uint64(32) | scans["place"]
    time = np.ascontiguousarray(scans["time_ms"])
    minor = (scans["direction"] != Direction.OUT).astype(np.uint64) << np.uint64(32)
    minor |= scans["lane"].astype(np.uint64) << np.uint64(16)
    minor |= scans["direction"].astype(np.uint64) << np.uint64(8)
    minor |= scans["kind"]
    order = np.lexsort((scans["ref"], minor, time, pair))
    first = np.flatnonzero(changes(pair[order], time[order], minor[order]))
    kept = scans.take(order[first])  # not by index: numpy would move structs field by field
    vehicle = scans["vehicle"][order].astype(np.int64)
    vehicle[vehicle == 0] = NEVER
    vehicle = np.minimum.reduceat(vehicle, first)
    vehicle[vehicle == NEVER] = 0
    kept["vehicle"] = vehicle
    kept["stay_ms"] = np.maximum.reduceat(scans["stay_ms"][order], first)
    return kept


def changes(*columns: Array) -> Array:
    """Mask of the rows in which any column differs from the row before; the first row does."""
    mask = np.ones(len(columns[0]), bool)
    mask[1:] = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        mask[1:] |= column[1:] != column[:-1]
    return mask


def latest_so_far(ends: Array, group_first: Array) -> Array:
    """Running maximum of `ends`, begun anew wherever the mask `group_first` is set.

    Doubling steps: after step k every row has seen the 2**k rows up to it. No offsets are added to
    the values, so that one wild clock cannot overflow them.
    """
    index = np.arange(len(ends))
    position = index - np.maximum.accumulate(np.where(group_first, index, 0))
    reach = ends.copy()
    longest = int(position.max(initial=0))
    step = 1
    while step <= longest:
        seen = np.where(position[step:] >= step, reach[:-step], reach[step:])
        reach[step:] = np.maximum(reach[step:], seen)
        step *= 2
    return reach


def derive_distinct(scans: Array, places: PlaceRules, rules: VisitRules) -> Array:
    """The same as `derive` for what `distinct` returned."""
    if not len(scans):
        return np.zeros(0, VISIT)
    is_post, stay = places.lookup(scans["place"])
    group = changes(scans["person"], scans["place"])
    start, end, rule, inferred = _presences(scans, group, is_post, stay, rules)
    reach = latest_so_far(end, group)
    # A post chains on scan times: [t, t + 1) at most window - 1 apart is t' - t <= window.
    gap = np.where(is_post, rules.passage_window_ms - 1, rules.gap_ms)
    is_first = group.copy()
    is_first[1:] |= start[1:] - reach[:-1] > gap[1:]
    _split_long(is_first, start, end, rules.stay_max_ms)

    first = np.flatnonzero(is_first)
    visit_of = np.cumsum(is_first) - 1
    latest = np.maximum.reduceat(end, first)
    gave = np.where(end == latest[visit_of], rule, EndRule.CAPPED)
    gave = np.minimum.reduceat(gave, first)

    default_end = start[first] + np.minimum(stay[first], rules.stay_max_ms)
    by_default = is_post[first] & (default_end >= latest)
    latest = np.where(by_default, default_end, latest)
    is_capped = stay[first] > rules.stay_max_ms
    gave[by_default] = np.where(is_capped, EndRule.CAPPED, EndRule.DEFAULT)[by_default]

    next_start = np.full(len(first), NEVER)
    next_start[:-1] = np.where(group[first[1:]], NEVER, start[first[1:]])
    gave[latest > next_start] = EndRule.CAPPED

    visits = np.zeros(len(first), VISIT)
    for name in ("person", "place", "ref", "direction"):
        visits[name] = scans[name][first]
    visits["room"] = scans["lane"][first]
    visits["start_ms"] = start[first]
    visits["end_ms"] = np.minimum(latest, next_start)
    visits["rule"] = gave
    visits["flags"] = np.where(is_post[first], VisitFlag.PASSAGE, 0)
    visits["flags"] |= np.where(inferred[first], VisitFlag.START_INFERRED, 0).astype(np.uint8)
    visits["scans"] = np.minimum(np.diff(first, append=len(scans)), 65535)
    visits["vehicle"] = _first_vehicle(scans["vehicle"], first)
    return visits


def _presences(
    scans: Array, group: Array, is_post: Array, stay: Array, rules: VisitRules
) -> tuple[Array, Array, Array, Array]:
    """Rules S1, S2 and the scans of P: start, end, EndRule and START_INFERRED of every scan.

    Within a group (one person, one place) the starts never fall: a check-out begins no earlier
    than the scan before it, so that the visits can be read off without another sort.
    """
    time = np.ascontiguousarray(scans["time_ms"])
    is_out = (scans["direction"] == Direction.OUT) & ~is_post
    before, after = _neighbours_here(time, group)
    previous, elsewhere = _neighbours_anywhere(scans)
    is_capped = stay > rules.stay_max_ms
    stay = np.minimum(stay, rules.stay_max_ms)

    default_end = time + stay
    moved = np.where(elsewhere == NEVER, NEVER, np.maximum(elsewhere - rules.travel_ms, time + 1))
    checked_out = _next_check_out(time, is_out, group)
    end = np.minimum(np.minimum(default_end, moved), checked_out)
    rule = np.where(is_capped, EndRule.CAPPED, EndRule.DEFAULT).astype(np.uint8)
    rule[end == moved] = EndRule.INFERRED_NEXT
    rule[end == checked_out] = EndRule.OBSERVED

    # Check-outs lead their instant, so the first scan of the next instant tells whether it has one
    # and the last scan of the instant before whether that has a check-in.
    within = (after >= 0) & (time[after] - time <= rules.stay_max_ms)
    closed = within & is_out[after]
    end[closed] = time[after[closed]]
    rule[closed] = EndRule.OBSERVED

    told = scans["stay_ms"].astype(np.int64)
    is_told = told > 0
    end[is_told] = (time + np.minimum(told, rules.stay_max_ms))[is_told]
    rule[is_told] = np.where(told > rules.stay_max_ms, EndRule.CAPPED, EndRule.OBSERVED)[is_told]

    within = (before >= 0) & (time - time[before] <= rules.stay_max_ms)
    closes = is_out & within & ~is_out[before]
    start = np.where(is_out, np.maximum(time - stay, previous), time)
    start[closes] = time[before[closes]]
    end[is_out] = time[is_out]
    end[is_post] = time[is_post] + 1
    rule[is_out | is_post] = EndRule.OBSERVED
    return start, end, rule, is_out & ~closes


def _neighbours_here(time: Array, group: Array) -> tuple[Array, Array]:
    """Index of the last scan of the previous and of the first of the next instant in the group.

    -1 where there is none.
    """
    instant = group | changes(time)
    first = np.flatnonzero(instant)
    which = np.cumsum(instant) - 1
    before = np.where(group[first], -1, first - 1)[which]
    following = np.append(first[1:], -1)
    following[:-1][group[first[1:]]] = -1
    return before, following[which]


def _neighbours_anywhere(scans: Array) -> tuple[Array, Array]:
    """Time of the person's previous scan anywhere and of the next one at another place.

    -NEVER and NEVER where there is none.
    """
    size = len(scans)
    order = np.lexsort((scans["place"], scans["time_ms"], scans["person"]))
    person, place = scans["person"][order], scans["place"][order]
    time = scans["time_ms"][order]
    new_person = changes(person)
    instant = new_person | changes(time)
    first = np.flatnonzero(instant)
    which = np.cumsum(instant) - 1
    previous = np.where(new_person[first], -NEVER, time[first - 1])[which]

    # The first scan of the next instant is elsewhere, or it begins a run at the same place and the
    # scan after that run is elsewhere. Position `size` stands for none.
    run = new_person | changes(place)
    run_first = np.flatnonzero(run)
    run_end = np.append(run_first[1:], size)[np.cumsum(run) - 1]
    following = np.append(first[1:], size)[which]
    inside = np.minimum(following, size - 1)
    found = np.where(place[inside] == place, run_end[inside], following)
    found[following == size] = size
    person_end = np.append(np.flatnonzero(new_person)[1:], size)[np.cumsum(new_person) - 1]
    found[found >= person_end] = size
    elsewhere = np.append(time, NEVER)[found]

    back = np.empty((2, size), np.int64)
    back[0, order] = previous
    back[1, order] = elsewhere
    return back[0], back[1]


def _next_check_out(time: Array, is_out: Array, group: Array) -> Array:
    """Time of the next check-out of the same group, NEVER where there is none."""
    outs = np.append(np.flatnonzero(is_out), -1)
    found = outs[np.cumsum(is_out)]
    which = np.cumsum(group)
    return np.where((found >= 0) & (which[found] == which), time[found], NEVER)


def _split_long(is_first: Array, start: Array, end: Array, stay_max_ms: int) -> None:
    """Rule C: sets `is_first` where a presence would make its visit longer than allowed.

    Each split depends on the one before, hence the loop; it runs over the few long visits only.
    """
    first = np.flatnonzero(is_first)
    too_long = np.maximum.reduceat(end, first) - start[first] > stay_max_ms
    stop = np.append(first[1:], len(start))
    for low, high in zip(first[too_long].tolist(), stop[too_long].tolist(), strict=True):
        begun = int(start[low])
        for at, (starts, ends) in enumerate(
            zip(start[low:high].tolist(), end[low:high].tolist(), strict=True), low
        ):
            if ends - begun > stay_max_ms:
                is_first[at] = True
                begun = starts


def _first_vehicle(vehicle: Array, first: Array) -> Array:
    """Of each visit the first vehicle number that is not 0."""
    size = len(vehicle)
    named = np.where(vehicle > 0, np.arange(size), size)
    return np.append(vehicle, 0)[np.minimum.reduceat(named, first)]
