"""Visits: passages and stays as a pure function of the set of scans.

Nothing here depends on the order in which scans arrive, on repeats or on lateness: the rules below
speak of the set of distinct scans of one person. Here stand the rules and the layouts;
native.visits carries the rules out. The same rules, with reasons and examples, stand in
docs/tracing.md; tests/reference/visits.py is the slow twin written from them.

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
    (inferred_next), the place's closing, if it was open then (closing), the default stay (default)
    and the next check-out there (observed); and never under 1 ms. In place of closing and default
    stay stands at a lodging the first noon that is 7 hours away or more (default), and in a vehicle
    the end of the trip that runs then, if one does (closing).
S2  A check-out that ends a check-in under S1 adds no presence of its own. Any other is a presence
    that ends with it (observed) and begins one default stay earlier, but not before the person's
    previous scan anywhere. Such a beginning is flagged START_INFERRED.
S3  Presences of one person at one venue that overlap, touch or lie at most `gap_ms` apart are one
    visit, closed transitively. Its end is the latest end among them, with the rule that gave it.
C   Nothing is longer than `stay_max_ms`: a stay, told or default, is cut to it (capped); a presence
    that would make its visit or passage longer begins the next one, which ends the earlier there at
    the latest (capped). So a cap never loses time that a scan vouches for.

H   Stays, hours and trips of a place are dated: those count that held at the scan, of a passage at
    its first one. Before the first of them that one holds.

Intervals are half open, [start, end). Visits of one person at one place never overlap.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from engine.clock import DAY_MS, MINUTE_MS
from engine.presence.hours import Week
from native.places import PlaceTable
from native.scans import ScanRun
from native.visits import derive_changes

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
SPAN_MAX_MS = 1 << 60
REF_ROW_BITS = 20


class EndRule(enum.IntEnum):
    """What gave a visit its end, best evidence first."""

    OBSERVED = 0
    INFERRED_NEXT = 1
    CLOSING = 2
    DEFAULT = 3
    CAPPED = 4
    CORRECTED = 5  # by somebody (engine.colocation.corrections)


class VisitFlag(enum.IntFlag):
    PASSAGE = 1  # at a post: weak evidence, no minutes spent together at a venue
    START_INFERRED = 2  # a check-out without a check-in
    START_CORRECTED = 4


class PlaceRule(msgspec.Struct, frozen=True):
    """What the rules need to know of one place. default_stay_ms >= 1; hours: when it is open.

    is_until_noon: a lodging's guest. trips: of a vehicle, one week for each trip of a day; either
    comes before stay and hours. from_ms: since when that holds; earlier: what held before, in the
    order of their beginning, each without earlier ones of its own.
    """

    is_post: bool
    default_stay_ms: int
    hours: Week | None = None
    is_until_noon: bool = False
    trips: tuple[Week, ...] = ()
    from_ms: int = 0
    earlier: tuple[PlaceRule, ...] = ()

    def to_row(self, number: int) -> tuple[int, bool, int, int, tuple[Week, ...], int]:
        """As native.visits.PlaceTable takes it, without the earlier ones."""
        until = 1 if self.is_until_noon else 2 if self.trips else 0
        weeks = self.trips or ((self.hours,) if self.hours else ())
        return number, self.is_post, self.default_stay_ms, until, weeks, self.from_ms


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
    """Rules by place number (u32). A table never changes; `extend` exchanges it."""

    def __init__(self, rules: Mapping[int, PlaceRule], unknown: PlaceRule = UNKNOWN_PLACE) -> None:
        """Raises ValueError on a default stay under 1 ms or a number that is no u32."""
        dated = [(n, one) for n, rule in rules.items() for one in (*rule.earlier, rule)]
        for number, rule in [*dated, (0, unknown)]:
            if rule.default_stay_ms < 1 or not 0 <= number < 1 << 32:
                raise ValueError(f"place {number}: default stay {rule.default_stay_ms} ms")
        self.rules = dict(rules)
        self.unknown = unknown
        self.table = PlaceTable(
            [rule.to_row(number) for number, rule in dated],
            (unknown.is_post, unknown.default_stay_ms),
        )

    def extend(self, rules: Mapping[int, PlaceRule]) -> None:
        """All rules again, which differ only by places where nobody was yet: what was derived under
        them still holds. May be called while others derive."""
        found = PlaceRules(rules)
        self.rules, self.table = found.rules, found.table


def changed_places(old: PlaceRules, new: PlaceRules) -> dict[int, int] | None:
    """Places for which other rules hold, and from when on; None where that may be any."""
    if old.unknown != new.unknown:
        return None
    unknown = old.unknown
    numbers = old.rules.keys() | new.rules.keys()
    pairs = {n: (old.rules.get(n, unknown), new.rules.get(n, unknown)) for n in numbers}
    return {n: _differ_from(one, other) for n, (one, other) in pairs.items() if one != other}


def _differ_from(one: PlaceRule, other: PlaceRule) -> int:
    """The first instant at which two rules may say different things."""
    before = -SPAN_MAX_MS
    firsts, seconds = (*one.earlier, one), (*other.earlier, other)
    for i, (a, b) in enumerate(zip_longest(firsts, seconds)):
        if a is None or b is None:
            return int((a or b).from_ms)
        starts = (a.from_ms, b.from_ms) if i else (before, before)
        if a.to_row(0)[:-1] != b.to_row(0)[:-1] or starts[0] != starts[1]:
            return min(starts)
    return SPAN_MAX_MS


def rule_spans(rules: VisitRules) -> dict[str, int]:
    """The rules as native.visits.derive_changes takes them; nothing lasts longer than SPAN_MAX."""
    names = ("passage_window_ms", "gap_ms", "travel_ms", "stay_max_ms")
    return {name: min(getattr(rules, name), SPAN_MAX_MS) for name in names}


def derive(scans: Array, places: PlaceRules, rules: VisitRules) -> Array:
    """Visits of an array of SCAN in any order, as VISIT sorted by person, place and start.

    Times must stay within ±2**61 ms; ingest refuses clocks far outside of that.
    """
    changes = derive_changes(ScanRun([scans.data]), [], places.table, **rule_spans(rules))
    visits = np.frombuffer(changes.visits(), VISIT)
    return visits.take(np.lexsort([visits[name] for name in ("start_ms", "place", "person")]))
