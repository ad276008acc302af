from native.index import VisitTable
from native.scans import ScanRun

def split_days(run: ScanRun, zero_ms: int, floor_day: int | None) -> dict[int, ScanRun]: ...
def count_days(
    table: VisitTable, epoch: int, zero_ms: int, floor_day: int | None
) -> dict[int, int]: ...
