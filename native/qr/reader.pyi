from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

# (data, corners, version, level, mask, mirrored, inverted, how, corrected, erased, segments,
# sequence)
#
# data: bytes in the symbol. corners: x, y of its own upper left, upper right, lower right and lower
# left outer corner, pixels. level: "L", "M", "Q" or "H". how: 1 plain, 2 by the mean around,
# 3 equalized, 4 on a bent grid, 5 frames joined, 6 a repeat. corrected, erased: codewords.
# segments: (mode, eci or -1, first byte, bytes) of each. sequence: of structured append, (index,
# count, parity), or None.
_Reading: TypeAlias = tuple[
    bytes,
    tuple[float, float, float, float, float, float, float, float],
    int,
    str,
    int,
    bool,
    bool,
    int,
    int,
    int,
    tuple[tuple[int, int, int, int], ...],
    tuple[int, int, int] | None,
]

class Reader:
    def __init__(
        self,
        *,
        row_step: int = 8,
        levels: int = 3,
        finders: int = 48,
        triples: int = 64,
        attempts: int = 24,
        thorough: bool = True,
    ) -> None: ...
    def read(self, luma: Buffer | NDArray[np.uint8]) -> list[_Reading]: ...
    def finders(
        self, luma: Buffer | NDArray[np.uint8]
    ) -> list[tuple[float, float, float, int, int, float]]: ...
    @property
    def unread(self) -> tuple[int, int]: ...
    @property
    def effort_spent(self) -> tuple[int, int, int]: ...
