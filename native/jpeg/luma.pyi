from typing import Final, final

from typing_extensions import Buffer

DONE: Final = 0
OTHER: Final = 1
LARGE: Final = 2
DAMAGED: Final = 3
UNSURE: Final = 4

@final
class Luma(Buffer):
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def valid(self) -> tuple[int, int, int, int]: ...
    def open(self, data: bytes) -> tuple[int, int] | None: ...
    def decode(
        self,
        data: bytes,
        y0: int = 0,
        y1: int | None = None,
        x0: int = 0,
        x1: int | None = None,
        *,
        pixels_max: int = 16777216,
    ) -> int: ...
    def decode_dc(self, data: bytes, *, pixels_max: int = 16777216) -> int: ...
    def dc(self) -> tuple[int, int, bytes]: ...

def _transform(coefs: bytes, count: int, quants: bytes) -> bytes: ...
def _decode_exact(luma: Luma, data: bytes, y0: int, y1: int) -> int: ...
