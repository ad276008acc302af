"""The native core: Cython kernels under the engine, and the one import that proves they are built.

There is no slow twin to fall back on: without the extensions the import names the command to run.
"""

try:
    from native import cpu, dedup, rows, wire
except ImportError as fault:
    raise ImportError(
        f"the native core is not built for this Python ({fault}): "
        "run `make build` in a checkout, or install chot again"
    ) from fault

__all__ = ["cpu", "dedup", "rows", "wire"]
