from typing_extensions import Buffer

def correct(block: Buffer, ecc: int, erased: bytes = b"") -> tuple[bytes, int] | None: ...

__pyx_capi__: dict[str, object]  # the C face, for the other extensions
