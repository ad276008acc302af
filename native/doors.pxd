"""Doors into a column of ascending numbers: of each 2**shift of them the first item.

A search steps through a door and has few items left, where a bisection of the whole would miss the
cache at each of its steps.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport malloc


cdef struct Doors:
    uint32_t* first            # behind each door, and the count of items at the end; owned
    size_t count
    uint32_t base              # the least number
    uint32_t shift


cdef inline bint make_doors(
    Doors* doors, uint32_t base, uint32_t last, size_t items, size_t behind
) noexcept nogil:
    """For numbers base .. last, some `behind` items a door; False if memory is short."""
    cdef uint64_t span = last - base
    doors.base = base
    doors.shift = 0
    while span >> doors.shift > items // behind:
        doors.shift += 1
    doors.count = (span >> doors.shift) + 1
    doors.first = <uint32_t*> malloc((doors.count + 1) * sizeof(uint32_t))
    return doors.first is not NULL


cdef inline size_t open_doors(
    Doors* doors, size_t opened, uint32_t number, size_t item
) noexcept nogil:
    """The item is the next one: so many doors are filled with it and those before it."""
    while opened <= <uint64_t> (number - doors.base) >> doors.shift:
        doors.first[opened] = <uint32_t> item
        opened += 1
    return opened


cdef inline void close_doors(Doors* doors, size_t opened, size_t items) noexcept nogil:
    """All items are behind the doors opened."""
    while opened <= doors.count:
        doors.first[opened] = <uint32_t> items
        opened += 1


cdef inline const uint32_t* door_of(const Doors* doors, uint64_t number) noexcept nogil:
    """The door of a number: [door[0], door[1]) are the items. NULL where there can be none."""
    cdef uint64_t door = number - doors.base
    if number < doors.base or door >> doors.shift >= doors.count:
        return NULL
    return doors.first + (door >> doors.shift)
