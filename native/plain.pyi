from collections.abc import Sequence
from typing import final

from typing_extensions import Buffer

from native.hmac import Hmac

@final
class PlainRules:
    def __new__(
        cls,
        post: int,
        lanes: Sequence[int],
        oldest_ms: int,
        newest_ms: int,
        correction_ms: int,
        flags: int,
        today: int,
    ) -> PlainRules: ...

@final
class PlainReader:
    def __new__(cls, person: Hmac, vehicle: Hmac, venues: set[int]) -> PlainReader: ...
    def take(
        self, entries: Buffer, body: Buffer, first: int, last: int, rules: PlainRules
    ) -> tuple[int, int, bytearray, bytes, list[str]]: ...
