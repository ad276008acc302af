from collections.abc import Iterable
from typing import Final, final

from typing_extensions import Buffer

HERE: Final[int]
LANES: Final[int]
ROAD: Final[int]
PERSON_MAX: Final[int]

@final
class SeenRules:
    def __new__(
        cls, window_ms: int, lanes_ms: int = 0, roads: Iterable[tuple[int, int, int]] = ()
    ) -> SeenRules: ...

@final
class SeenTable:
    def __new__(cls, capacity: int = 65536, *, hash_key: Buffer | None = None) -> SeenTable: ...
    def __len__(self) -> int: ...
    def capacity(self) -> int: ...
    def memory_bytes(self) -> int: ...
    def see(
        self, persons: Buffer, places: Buffer, lanes: Buffer, times_ms: Buffer, rules: SeenRules
    ) -> bytes: ...
    def expire(self, before_ms: int) -> int: ...
    def forget(self, person: bytes) -> int: ...
