from collections.abc import Iterable

from typing_extensions import Buffer

from native.index import VisitTable

def people_at(
    tables: Iterable[VisitTable], place: int, from_ms: int, to_ms: int, keys: Buffer, epoch: int
) -> set[bytes]: ...
def times_of(
    tables: Iterable[VisitTable], person: int, from_ms: int, to_ms: int, epoch: int
) -> list[tuple[int, int, int]]: ...
def time_together(
    tables: Iterable[VisitTable], person: int, from_ms: int, to_ms: int, keys: Buffer, epoch: int
) -> dict[bytes, int]: ...
