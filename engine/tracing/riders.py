"""Who was in a vehicle: visits and passages that name its plate or trip (Q7, CP-4, VE-1).

Rows bear a keyed number of the plate, or else of the trip; plate, trip and seat themselves lie in
the sealed details of each scan, so the answer names the rows of its visits beside the newest ones.
"""

from __future__ import annotations

import msgspec
import numpy as np

from engine.colocation.index import clamped
from engine.errors import QuestionInvalid
from engine.presence.visits import VISIT
from engine.tracing.pages import page_of
from engine.tracing.tracer import Answer, Scene
from native.walks import visits_in


class VehicleAnswer(Answer, frozen=True, kw_only=True, tag="vehicle"):
    """packed: visits by start, newest."""


class VehicleQuestion(msgspec.Struct, frozen=True, kw_only=True, tag="vehicle"):
    """vehicle: KeyRing.vehicle_number of the plate or trip. after: see engine.tracing.pages."""

    vehicle: int
    from_ms: int
    to_ms: int
    after: str = ""
    limit: int = 1000

    def check(self) -> None:
        """Raises QuestionInvalid."""
        if not 1 <= self.vehicle < 1 << 32:
            raise QuestionInvalid("plate, trip: that is none")

    def answer(self, scene: Scene) -> VehicleAnswer:
        snapshot = scene.snapshot
        packed = visits_in(
            snapshot.tables, self.vehicle, clamped(self.from_ms), clamped(self.to_ms),
            snapshot.epoch,
        )  # fmt: skip
        visits = np.frombuffer(packed, VISIT)
        if scene.allowed is not None:
            allowed = np.array(sorted(scene.allowed), np.int64)
            visits = visits.compress(np.isin(visits["place"], allowed))
        return VehicleAnswer(**scene.page(page_of(snapshot, visits, self.limit, self.after)))
