from typing import final

from typing_extensions import Buffer

def split_entries(details: Buffer, count: int) -> list[bytes]: ...
def longest_details(details: Buffer, count: int) -> int: ...

@final
class RowBuffer:
    def __len__(self) -> int: ...
    def append(
        self,
        person: bytes,
        time_ms: int,
        place: int,
        lane: int,
        n: int,
        direction: int,
        kind: int,
        source: int,
        flags: int,
        temperature_cc: int,
        area: int,
        vehicle: int,
        stay_ms: int,
    ) -> None: ...
    def take(self) -> bytes: ...
