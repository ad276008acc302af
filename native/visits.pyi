from collections.abc import Iterable
from typing import final

from typing_extensions import Buffer

@final
class ScanRun:
    def __new__(cls, chunks: Iterable[Buffer]) -> ScanRun: ...
    def __len__(self) -> int: ...
    def between(self, from_ms: int, to_ms: int) -> bytes: ...
    def since(self, from_ms: int) -> ScanRun: ...

@final
class PlaceTable:
    def __new__(
        cls, rules: Iterable[tuple[int, bool, int]], unknown: tuple[bool, int]
    ) -> PlaceTable: ...

@final
class Changes:
    def visits(self) -> bytes: ...
    def endings(self) -> bytes: ...

def merge_runs(runs: Iterable[ScanRun]) -> ScanRun: ...
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
