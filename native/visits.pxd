"""C face of native.visits: scans and visits as structs, runs of scans, and what a run changed."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memset

cdef enum:
    OUT = 2                    # engine.rows.Direction


cdef packed struct Scan:       # 36 bytes, engine.visits.SCAN
    int64_t time
    uint64_t ref
    uint32_t person
    uint32_t place
    uint32_t vehicle
    uint32_t stay
    uint16_t lane
    uint8_t direction
    uint8_t kind


cdef struct Visit:             # 48 bytes, engine.visits.VISIT
    int64_t start
    int64_t end
    uint64_t ref
    uint32_t person
    uint32_t place
    uint32_t vehicle
    uint16_t room
    uint16_t scans
    uint8_t rule
    uint8_t flags
    uint8_t direction
    uint8_t spare[5]


cdef struct Ending:            # a visit that is no more: what tells it from all others
    int64_t start
    uint32_t person
    uint32_t place


cdef struct Seat:              # where something of a person is
    uint32_t person
    uint32_t at


cdef class ScanRun:
    cdef Scan* scans           # owned: distinct, by person, time, place and rule O
    cdef size_t count


cdef class Changes:
    cdef Visit* born           # owned: by person, place and start
    cdef size_t born_count
    cdef size_t born_room
    cdef Ending* ended         # owned: in the same order
    cdef size_t ended_count
    cdef size_t ended_room


cdef inline void* room_for(size_t count, size_t size) except NULL:
    cdef void* room = calloc(count + 1, size)
    if room is NULL:
        raise MemoryError
    return room


cdef inline Seat* sort_seats(Seat* seats, Seat* spare, size_t count, uint32_t last) noexcept nogil:
    """Sort by person, none above `last`; the answer is the one of both that holds the result.

    Radix sort, a byte a pass: comparing would take most of the time of a question.
    """
    cdef size_t stop[256]
    cdef size_t i, total
    cdef int digit, shift = 0
    while shift < 32 and last >> shift:
        memset(stop, 0, sizeof(stop))
        for i in range(count):
            stop[seats[i].person >> shift & 0xFF] += 1
        total = 0
        for digit in range(256):
            total += stop[digit]
            stop[digit] = total
        for i in range(count, 0, -1):
            digit = seats[i - 1].person >> shift & 0xFF
            stop[digit] -= 1
            spare[stop[digit]] = seats[i - 1]
        seats, spare = spare, seats
        shift += 8
    return seats
