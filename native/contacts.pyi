from collections.abc import Iterable

from typing_extensions import Buffer

from native.index import VisitTable

def find_contacts(
    tables: Iterable[VisitTable],
    case: Buffer,
    persons: Buffer,
    keys: Buffer,
    epoch: int,
    *,
    linger_ms: int,
    queue_ms: int,
    min_ms: int,
    window_ms: int,
    limit: int,
) -> tuple[bytes, bytes, bytes, int, int]: ...
