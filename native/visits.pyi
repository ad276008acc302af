from collections.abc import Iterable
from typing import final

from native.places import PlaceTable
from native.scans import ScanRun

@final
class Changes:
    def visits(self) -> bytes: ...
    def gone(self) -> bytes: ...
    def endings(self) -> bytes: ...

def derive_changes(
    fresh: ScanRun,
    runs: Iterable[ScanRun],
    places: PlaceTable,
    *,
    passage_window_ms: int,
    gap_ms: int,
    travel_ms: int,
    stay_max_ms: int,
) -> Changes: ...
