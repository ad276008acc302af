from typing import TypeAlias, TypedDict, type_check_only

from typing_extensions import Buffer

# (data, corners, version, level, mask, mirrored, inverted, how, corrected, erased, segments, sequence)
#
# data: bytes in the symbol. corners: x, y of its own upper left, upper right, lower right and lower
# left outer corner, pixels. level: "L", "M", "Q" or "H". how: 1 plain, 2 by the mean around,
# 3 equalized, 4 on a bent grid, 5 frames joined, 6 a repeat. corrected, erased: codewords.
# segments: (mode, eci or -1, first byte, bytes) of each. sequence: of structured append, (index,
# count, parity), or None.
Reading: TypeAlias = tuple[
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
Finder: TypeAlias = tuple[float, float, float, int, int, float]

@type_check_only
class Placed(TypedDict):
    finders: tuple[Finder, Finder, Finder]  # corner, right, below
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

class Reader:
    def __init__(
        self,
        *,
        row_step: int = 4,
        levels: int = 3,
        finders: int = 48,
        triples: int = 64,
        attempts: int = 24,
        thorough: bool = True,
    ) -> None: ...
    def read(self, luma: Buffer) -> list[Reading]: ...
    def finders(self, luma: Buffer) -> list[Finder]: ...
    def rays(self, luma: Buffer) -> list[tuple[tuple[float, ...], ...]]: ...
    def placed(self, luma: Buffer) -> list[Placed]: ...
    @property
    def unread(self) -> tuple[int, int]: ...
    @property
    def effort_spent(self) -> tuple[int, int, int]: ...
