from typing_extensions import Buffer

def thresholds(
    luma: Buffer, width: int, height: int, stride: int, row_step: int = 4
) -> tuple[int, int, int, bytes]: ...

__pyx_capi__: dict[str, object]  # the C face, for the other extensions
