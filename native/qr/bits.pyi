from typing_extensions import Buffer

def read_bits(data: Buffer, version: int) -> dict[str, object] | None: ...

__pyx_capi__: dict[str, object]  # the C face, for the other extensions
