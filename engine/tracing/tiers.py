"""Tiers: whom a case can have infected by a chain of few meetings, and who through whom (Q4, Q11).

native.tiers and native.links carry the rules out; tests/reference/tiers.py is their slow twin. The
same rules, with an example, stand in docs/tracing.md.

T1  Each person has the earliest instant at which a chain of at most k meetings can have infected
    it; the case ever was. A person is infectious from then on, later by the latent time.
T2  Infectious presence: the visits of such a person that overlap the span asked for, from then on;
    those of the case whole. At a venue it lasts linger longer than the visit.
T3  Exposure: the time of a person's visits to a venue that infectious presences of others cover
    there. Time at one place counts once however many of them are there, time at two places twice.
T4  A person can have been infected at the first instant before which, within one window, its
    exposures come to the profile's minutes; or as soon as it shares a vehicle with somebody
    infectious. Its tier is the least k for which that is so: F1 are the candidates of K4.
L   Who stands in a lower tier or can have been infected earlier is linked to whom it then met
    while it was infectious. Time at one place counts once.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from engine.clock import HOUR_MS, MINUTE_MS
from engine.colocation.index import Snapshot, clamped
from engine.errors import QuestionInvalid
from engine.presence.profiles import ContactProfile, ProfileKind, profile_of
from engine.presence.visits import Array
from engine.tracing.rows import LAYOUTS
from engine.tracing.tracer import (
    LINGER_MINUTES_MAX,
    MINUTES_MAX,
    Answer,
    Scene,
    check_minutes,
    check_persons,
)
from native.links import find_links
from native.tiers import find_tiers

DEPTH_MAX: Final = 5
LATENT_HOURS_MAX: Final = 14 * 24
MOST: Final = 50_000
LINKS_MAX: Final = 20_000
EVER: Final = -(1 << 62) + 1  # the date of the case; TIME_MAX of native.index

TIERED: Final = np.dtype(
    [
        ("infected_ms", "<i8"),  # by a chain of as many meetings as the tier
        ("earliest_ms", "<i8"),  # by a chain of at most as many as were asked for
        ("person", "<u4"),
        ("tier", "u1"),
        ("spare", "V3"),
    ]
)
LINK: Final = np.dtype(
    [
        ("first_ms", "<i8"),
        ("last_ms", "<i8"),
        ("time_ms", "<i8"),
        ("source_ref", "<u8"),  # both visits of the first meeting
        ("target_ref", "<u8"),
        ("source", "<u4"),
        ("target", "<u4"),
        ("place", "<u4"),  # of the first meeting
        ("meetings", "<u4"),  # pairs of visits
        ("flags", "u1"),  # engine.presence.contacts.PairFlag.SAME_VEHICLE
        ("spare", "V7"),
    ]
)
LAYOUTS.update(tiers=TIERED, links=LINK)


class TiersAnswer(Answer, frozen=True, kw_only=True, tag="tiers"):
    """packed: tiers, ranked, the case first; links, those through which each was reached first.

    counts: how many persons each tier has, from the case on. reached: tiers that were looked for;
    fewer than asked where one was larger than `most`. links_cut: there are more links.
    """

    profile: ContactProfile
    counts: tuple[int, ...]
    reached: int
    links_cut: bool


class TiersQuestion(msgspec.Struct, frozen=True, kw_only=True, tag="tiers"):
    """persons: keys of one and the same person. depth: how many tiers. most: go no further behind
    a tier with more persons. limit: most persons listed."""

    persons: list[bytes]
    from_ms: int
    to_ms: int
    profile: str
    min_minutes: int | None = None
    linger_minutes: int | None = None
    latent_hours: int = 0
    depth: int = 2
    most: int = MOST
    limit: int = 1000

    def check(self) -> None:
        """Raises QuestionInvalid."""
        check_persons(self.persons)
        if profile_of(self.profile).kind != ProfileKind.MINUTES:
            raise QuestionInvalid(
                f"profile: {self.profile} knows the contacts of a case and no tiers",
                hint="another profile, or ask for contacts",
            )
        check_minutes("min_minutes", self.min_minutes, MINUTES_MAX)
        check_minutes("linger_minutes", self.linger_minutes, LINGER_MINUTES_MAX)
        for name, value, least, most in (
            ("latent_hours", self.latent_hours, 0, LATENT_HOURS_MAX),
            ("depth", self.depth, 1, DEPTH_MAX),
            ("most", self.most, 1, 1 << 32),
        ):
            if not least <= value <= most:
                raise QuestionInvalid(f"{name} must be {least} to {most}")

    def answer(self, scene: Scene) -> TiersAnswer:
        snapshot = scene.snapshot
        profile = profile_of(self.profile).with_minutes(self.min_minutes, self.linger_minutes)
        span = {
            "from_ms": clamped(self.from_ms),
            "to_ms": clamped(self.to_ms),
            "linger_ms": profile.linger_minutes * MINUTE_MS,
            "latent_ms": self.latent_hours * HOUR_MS,
        }
        places = None if scene.allowed is None else np.array(sorted(scene.allowed), "<u4").data
        case = np.array(snapshot.persons_of(self.persons), "<u4")
        packed, reached = find_tiers(
            snapshot.tables, case.data, snapshot.count, snapshot.epoch, **span, places=places,
            min_ms=profile.min_minutes * MINUTE_MS, window_ms=profile.cumulated_hours * HOUR_MS,
            depth=self.depth, most=self.most,
        )  # fmt: skip
        found = np.frombuffer(packed, TIERED)
        listed = ranked(found, snapshot, self.limit)
        links, is_whole = find_links(
            snapshot.tables, listed.tobytes(), snapshot.count, snapshot.epoch, **span,
            most=LINKS_MAX, places=places,
        )  # fmt: skip
        # Whatever keys the case has, it is one person of the answer.
        tiers = np.concatenate([listed[: min(len(case), 1)], listed[len(case) :]])
        persons = tiers["person"].copy()
        tiers["person"] = np.arange(len(tiers))
        shown = {
            "tiers": tiers,
            "links": np.frombuffer(links, LINK),
            "newest": snapshot.newest_of(persons),
        }
        total = len(found) - len(case)
        return TiersAnswer(
            **scene.fields(snapshot.keys[persons], shown, total, len(listed) - len(case)),
            profile=profile,
            counts=tuple(np.bincount(found["tier"], minlength=reached + 1).tolist()[: reached + 1]),
            reached=reached,
            links_cut=not is_whole,
        )


def ranked(found: Array, snapshot: Snapshot, limit: int) -> Array:
    """The case and the first `limit` others: by tier, date and key, so that no tie is open."""
    is_case = found["tier"] == 0
    case, others = found[is_case], found[~is_case]
    if len(others) > limit:
        # Of those beside the limit only the dates of one tier have to be compared.
        tier = np.partition(others["tier"], limit - 1)[limit - 1]
        mine = others["infected_ms"][others["tier"] == tier]
        before = int((others["tier"] < tier).sum())
        date = np.partition(mine, limit - before - 1)[limit - before - 1]
        is_near = (others["tier"] < tier) | (
            (others["tier"] == tier) & (others["infected_ms"] <= date)
        )
        others = others[is_near]
    halves = np.frombuffer(snapshot.keys[others["person"]].tobytes(), ">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0], others["infected_ms"], others["tier"]))
    return np.concatenate([case, others[order[:limit]]])
