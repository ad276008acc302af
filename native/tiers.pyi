from collections.abc import Iterable

from typing_extensions import Buffer

from native.index import VisitTable

def find_tiers(
    tables: Iterable[VisitTable],
    persons: Buffer,
    count: int,
    epoch: int,
    *,
    from_ms: int,
    to_ms: int,
    linger_ms: int,
    min_ms: int,
    window_ms: int,
    latent_ms: int,
    depth: int,
    most: int,
    places: Buffer | None = None,
    way: int = 0,
    exposures_max: int = ...,
) -> tuple[bytes, int]: ...
