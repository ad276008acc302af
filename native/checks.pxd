"""Checks of arguments that all `def` wrappers share; inlined, so there is no module behind it."""

from cpython.number cimport PyNumber_Index
from libc.stdint cimport int64_t


cdef inline int64_t check_int(object value, int64_t low, int64_t high, str name) except? -1:
    """`value` as an integer of [low, high].

    Raises ValueError, which names the argument and never the value; TypeError for what is no
    integer (a bare conversion would cut 1.9 to 1).
    """
    cdef int64_t found
    cdef object index = PyNumber_Index(value)
    try:
        found = index
    except OverflowError:
        raise ValueError(f"{name} is out of range") from None
    if found < low or found > high:
        raise ValueError(f"{name} is out of range")
    return found
