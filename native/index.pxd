"""C face of native.index: a layer's visits as structs, and the searches in them."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset

cdef extern from "machine.h":
    uint32_t load_u32(const uint8_t* at) noexcept nogil

cdef extern from *:
    """
    #define TIME_MAX (INT64_MAX / 2)
    """
    # Instants lie within +-TIME_MAX, and so do lengths that are asked for: no sum of two overflows.
    const int64_t TIME_MAX


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


cdef struct Span:
    int64_t start
    int64_t end


cdef struct Place:             # visits [first, stop) of a table
    size_t first
    size_t stop
    int64_t longest
    uint32_t number


cdef struct Seat:              # where something of a person is
    uint32_t person
    uint32_t at


cdef struct Table:
    Span* spans                # of every visit, apart from the rest: they are what is walked
    Place* places              # ascending by number
    Seat* seats                # of every visit, sorted by person
    const uint8_t* rows        # Visit, in no alignment
    size_t count
    size_t place_count
    int32_t ident


cdef struct Owners:            # i32 by person: ident of the table whose visits are valid
    const uint8_t* idents
    size_t count


cdef class VisitTable:
    cdef Table table           # spans, places and seats are owned
    cdef Py_buffer view        # of the rows
    cdef bint is_held          # the view is there to be released


cdef inline Visit load_visit(const uint8_t* rows, size_t at) noexcept nogil:
    cdef Visit visit
    memcpy(&visit, rows + at * sizeof(Visit), sizeof(Visit))
    return visit


cdef inline bint is_owned(const Owners* owners, uint32_t person, int32_t ident) noexcept nogil:
    if person >= owners.count:
        return False
    return <int32_t> load_u32(owners.idents + 4 * <size_t> person) == ident


cdef inline const Place* find_place(const Table* table, uint32_t number) noexcept nogil:
    """The place of that number, NULL where the table has none."""
    cdef size_t low = 0, high = table.place_count, middle
    while low < high:
        middle = (low + high) // 2
        if table.places[middle].number < number:
            low = middle + 1
        else:
            high = middle
    if low == table.place_count or table.places[low].number != number:
        return NULL
    return &table.places[low]


cdef inline size_t find_near(const Span* spans, const Place* place, int64_t start) noexcept nogil:
    """First visit of the place that began less than its longest stay before `start`."""
    cdef size_t low = place.first, high = place.stop, middle
    while low < high:
        middle = (low + high) // 2
        if start - spans[middle].start >= place.longest:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline size_t find_later(
    const Span* spans, size_t low, size_t high, int64_t end
) noexcept nogil:
    """First visit of [low, high) that begins at `end` or later."""
    cdef size_t middle
    while low < high:
        middle = (low + high) // 2
        if spans[middle].start < end:
            low = middle + 1
        else:
            high = middle
    return low


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


cdef inline bint is_in_range(const Visit* visit) noexcept nogil:
    return -TIME_MAX <= visit.start <= visit.end <= TIME_MAX


cdef inline Py_ssize_t whole(const Py_buffer* view, Py_ssize_t size, str name) except -1:
    """How many items of `size` bytes a buffer holds."""
    if view.len % size:
        raise ValueError(f"{name} has a broken size")
    return view.len // size


cdef inline void* room_for(size_t count, size_t size) except NULL:
    cdef void* room = calloc(count + 1, size)
    if room is NULL:
        raise MemoryError
    return room
