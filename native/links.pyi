from collections.abc import Iterable

from typing_extensions import Buffer

from native.index import VisitTable

def find_links(
    tables: Iterable[VisitTable],
    rows: Buffer,
    count: int,
    epoch: int,
    *,
    from_ms: int,
    to_ms: int,
    linger_ms: int,
    latent_ms: int,
    most: int,
    places: Buffer | None = None,
    parts_max: int = ...,
) -> tuple[bytes, bool]: ...
