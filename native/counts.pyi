from collections.abc import Iterable

from typing_extensions import Buffer

from native.index import VisitTable

def count_begun(
    tables: Iterable[VisitTable],
    from_ms: int,
    to_ms: int,
    width_ms: int,
    epoch: int,
    is_ended: bool = False,
) -> bytes: ...
def places_of(cells: Buffer) -> bytes: ...
def add_cells(
    cells: Buffer, places: Buffer, groups: Buffer, from_ms: int, width_ms: int, has_lanes: bool
) -> bytearray: ...
