"""The instruction level all kernels use: detected once at import, can be named and forced.

One extension owns it. If each kernel detected for itself, forcing a level in one would leave the
others where they are.
"""

import os

cdef extern from "cpu.h":
    int cpu_best() noexcept nogil
    int cpu_has_sha() noexcept nogil

cdef int current_level = 0
cdef tuple NAMES = ("scalar", "avx2", "neon")
cdef int best_level = cpu_best()
cdef bint best_has_sha = cpu_has_sha()


cdef int level() noexcept nogil:
    return current_level


cdef bint has_sha() noexcept nogil:
    return best_has_sha and current_level != 0


def available() -> tuple[str, ...]:
    """Names of the levels this machine runs, weakest first."""
    if best_level == 0:
        return (NAMES[0],)
    return (NAMES[0], NAMES[best_level])


def active() -> str:
    """Name of the level in use."""
    return NAMES[current_level]


def use(name: str) -> None:
    """Use the level `name` from now on, in all kernels.

    Raises ValueError when this machine does not run it.
    """
    global current_level
    if name not in available():
        raise ValueError(f"no CPU level {name!r} here; there is {', '.join(available())}")
    current_level = NAMES.index(name)


def _from_environment() -> None:
    name = os.environ.get("NATIVE_CPU", "")
    try:
        use(name or NAMES[best_level])
    except ValueError as fault:
        raise ValueError(f"NATIVE_CPU={name}: {fault}") from None


_from_environment()
