from collections.abc import Iterable
from typing import final

@final
class PlaceTable:
    def __new__(
        cls,
        rules: Iterable[
            tuple[int, bool, int, int, tuple[tuple[tuple[int, int], ...], ...], int]
        ],
        unknown: tuple[bool, int],
    ) -> PlaceTable: ...
