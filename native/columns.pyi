from collections.abc import Mapping
from typing import final

from typing_extensions import Buffer

COLUMNS: tuple[str, ...]

__pyx_capi__: dict[str, object]  # find_odd() and find_vehicle(), for the other extensions

@final
class DayColumns:
    def __new__(
        cls, head: bytes, columns: Mapping[str, Buffer], key: bytes, owner: object
    ) -> DayColumns: ...
    def __len__(self) -> int: ...
    def scan_count(self) -> int: ...
    def row_count(self) -> int: ...
    def ended_rows(self, epoch: int) -> bytes: ...
