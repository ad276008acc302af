"""The judge: who stands at the barrier is accepted, seen or alarmed about; before the disk knows.

A candidate comes with its identity; it leaves with the flags of its row, and the lane gets a
verdict. A verdict never decides what is kept, and tells a lane no more than it needs.
docs/verdicts.md has the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine import people
from engine.dedup import HERE, LANES, ROAD, SeenWindow
from engine.people import Details
from engine.rows import NO_TEMPERATURE, Flag, Kind, Source
from engine.telemetry import Metrics
from engine.watch import WatchList
from engine.wire import Verdict

# Reasons of an alert as the lane sees them, the most urgent first.
ALERTS: Final = ("call_desk", "two_posts", "two_lanes")


@dataclass(slots=True)
class Candidate:
    """A record that names a person: everything that verdict and row need."""

    n: int
    kind: Kind
    lane: int
    time_ms: int
    place: int
    direction: int
    source: Source
    person: bytes
    details: Details
    flags: int = 0
    temperature_cc: int = NO_TEMPERATURE


class Judge:
    """One instance an engine, used from the event loop only. It never waits."""

    def __init__(self, seen: SeenWindow, watch: WatchList, metrics: Metrics) -> None:
        self._seen = seen
        self._watch = watch
        self._metrics = metrics

    def judge(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Verdicts of those who stand at a post; sets flags of all. A check-in has no light."""
        for candidate in candidates:
            if self._watch.find(candidate.person, candidate.time_ms):
                candidate.flags |= Flag.LISTED
                self._metrics.count("chot_alerts", "call_desk")
        at_post = [c for c in candidates if c.kind != Kind.CHECKIN]
        if not at_post:
            return []
        persons = b"".join([c.person for c in at_post])
        places = np.array([c.place for c in at_post], "<u4").tobytes()
        lanes = np.array([c.lane for c in at_post], "<u2").tobytes()
        times = np.array([c.time_ms for c in at_post], "<i8").tobytes()
        sightings = self._seen.see(persons, places, lanes, times)
        return [self._verdict(*pair) for pair in zip(at_post, sightings, strict=True)]

    def _verdict(self, candidate: Candidate, sighting: int) -> Verdict:
        # A lane never learns why somebody is on the list: it may be their health.
        alerts = {"call_desk"} if candidate.flags & Flag.LISTED else set()
        if sighting & (ROAD | LANES):
            candidate.flags |= Flag.COPIED
            copied = "two_posts" if sighting & ROAD else "two_lanes"
            self._metrics.count("chot_alerts", copied)
            alerts.add(copied)
        return Verdict(
            verdict="alert" if alerts else "seen" if sighting & HERE else "accepted",
            lane=candidate.lane,
            n=candidate.n,
            reason=next((reason for reason in ALERTS if reason in alerts), None),
            name=people.mask_name(candidate.details.name),
        )
