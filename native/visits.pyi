from collections.abc import Iterable, Mapping
from typing import final

from native.scans import ScanRun

@final
class PlaceTable:
    def __new__(
        cls,
        rules: Iterable[tuple[int, bool, int]],
        unknown: tuple[bool, int],
        hours: Mapping[int, tuple[tuple[int, int], ...]] | None = None,
    ) -> PlaceTable: ...

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
