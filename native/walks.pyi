from collections.abc import Iterable

from typing_extensions import Buffer

from native.index import VisitTable

def visits_of_many(
    tables: Iterable[VisitTable], persons: Buffer, from_ms: int, to_ms: int, epoch: int
) -> bytes: ...
def visits_in(
    tables: Iterable[VisitTable], vehicle: int, from_ms: int, to_ms: int, epoch: int
) -> bytes: ...
