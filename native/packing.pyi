from collections.abc import Iterable

from native.index import VisitTable
from native.scans import ScanRun

def pack_day(
    tables: Iterable[VisitTable],
    runs: Iterable[ScanRun],
    epoch: int,
    from_ms: int,
    to_ms: int,
    key: bytes,
) -> tuple[bytes, dict[str, bytearray]]: ...
