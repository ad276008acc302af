from typing import TypeAlias, TypedDict, final, type_check_only

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

# x, y, pixels a module, 1 dark on light or -1, directions that agree, fault.
_Finder: TypeAlias = tuple[float, float, float, int, int, float]

@type_check_only
class _Placed(TypedDict):
    finders: tuple[_Finder, _Finder, _Finder]  # corner, right, below
    dim: int
    sign: int
    steps: tuple[int, int]  # counted along the timing patterns, to the right and below: dim - 13
    off: int
    map: tuple[float, ...]  # 3 x 3: module (u, v) to pixel, homogeneous
    lines: tuple[float, ...]  # of the mesh, u and v alike; () for none
    du: tuple[float, ...]  # displacements of its nodes in modules, row by row
    dv: tuple[float, ...]
    aligned: tuple[int, int]  # alignment patterns found, and how many there are
    agreement: int  # of the timing patterns, percent
    contrast: float
    outside: int  # of the modules, percent
    grey: bytes  # dim * dim float32
    soft: bytes  # dim * dim int16, > 0 dark; as native.qr.matrix.decode takes them
    equalized: bytes  # the same; b"" where the equations have no solution
    known_wrong: tuple[int, int]  # of soft and of equalized, per mille; -1 where there is none

@final
class Reader:
    def __new__(
        cls,
        *,
        row_step: int = 8,
        levels: int = 3,
        finders: int = 48,
        triples: int = 128,
        attempts: int = 12,
        thorough: bool = True,
    ) -> Reader: ...
    def read(self, luma: Buffer | NDArray[np.uint8]) -> list[_Reading]: ...
    def finders(self, luma: Buffer | NDArray[np.uint8]) -> list[_Finder]: ...
    def rays(self, luma: Buffer | NDArray[np.uint8]) -> list[tuple[tuple[float, ...], ...]]: ...
    def placed(self, luma: Buffer | NDArray[np.uint8]) -> list[_Placed]: ...
    @property
    def unread(self) -> tuple[int, int, int, int]: ...
    @property
    def region(self) -> tuple[float, float, float, float]: ...
    @property
    def parts(self) -> list[tuple[float, float, float, float, bool]]: ...
    @property
    def effort_spent(self) -> tuple[int, int, int]: ...

__pyx_capi__: dict[str, object]  # the C face, for the other extensions
