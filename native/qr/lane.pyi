from typing import final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from native.qr.reader import _Reading

@final
class Lane:
    def __new__(cls) -> Lane: ...
    def read(self, luma: Buffer | NDArray[np.uint8]) -> list[_Reading]: ...
    def follow(self, luma: Buffer | NDArray[np.uint8], x: int, y: int) -> list[_Reading] | None: ...
    @property
    def wanted(self) -> tuple[int, int, int, int] | None: ...
    @property
    def region(self) -> tuple[float, float, float, float] | None: ...
