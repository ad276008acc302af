"""C face of native.index: visits that can be searched, and the searches in them."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from native.scans cimport Seat
from native.visits cimport Visit

cdef extern from *:
    """
    #define TIME_MAX (INT64_MAX / 2)
    #define ALIVE UINT32_MAX
    #define load_relaxed(at) __atomic_load_n(at, __ATOMIC_RELAXED)
    #define store_relaxed(at, value) __atomic_store_n(at, value, __ATOMIC_RELAXED)
    #define prefetch(at) __builtin_prefetch(at)
    """
    # Instants lie within +-TIME_MAX, and so do lengths that are asked for: no sum of two overflows.
    const int64_t TIME_MAX
    const uint32_t ALIVE
    uint32_t load_relaxed(const uint32_t* at) noexcept nogil
    void store_relaxed(uint32_t* at, uint32_t value) noexcept nogil
    void prefetch(const void* at) noexcept nogil


cdef struct Span:              # of a visit what is walked, apart from the rest
    int64_t start
    int64_t end
    uint32_t person
    uint32_t ended             # the first epoch without it, ALIVE while there is none


cdef struct Rest:              # of a visit all that its span leaves out
    uint64_t ref
    uint32_t place
    uint32_t vehicle
    uint16_t room
    uint16_t scans
    uint8_t rule
    uint8_t flags
    uint8_t direction
    uint8_t spare


cdef struct Place:             # visits [first, stop) of a table
    size_t first
    size_t stop
    int64_t longest
    uint32_t number


cdef struct Table:
    Span* spans                # of every visit
    Rest* rests                # of the same visits
    Place* places              # ascending by number
    Seat* seats                # of every visit, sorted by person, then as the spans are
    size_t count
    size_t place_count
    size_t ended_count
    int64_t least              # start of any visit, TIME_MAX without one
    int64_t greatest           # end of any, -TIME_MAX without one


cdef class VisitTable:
    cdef Table table           # all of it is owned


cdef inline bint is_alive(const Span* span, uint32_t epoch) noexcept nogil:
    """Whether a visit counts in that epoch. It may end meanwhile, in a later one."""
    return span.ended > epoch


# Whoever walks a table asks these, never its fields: a table need not lie in memory as spans.

cdef inline int64_t start_at(const Table* table, size_t at) noexcept nogil:
    return table.spans[at].start


cdef inline Span load_span(const Table* table, size_t at) noexcept nogil:
    cdef const Span* span = &table.spans[at]
    return Span(span.start, span.end, span.person, load_relaxed(&span.ended))


cdef inline void end_at(Table* table, size_t at, uint32_t epoch) noexcept nogil:
    """A visit ends with that epoch; one thread at a time."""
    store_relaxed(&table.spans[at].ended, epoch)
    table.ended_count += 1


cdef inline uint32_t place_at(const Table* table, size_t at) noexcept nogil:
    """Number of the place of a visit."""
    return table.rests[at].place


cdef inline size_t seat_at(const Table* table, size_t i) noexcept nogil:
    """The visit of a seat; seats are in order of persons, find_seat has the first of one."""
    return table.seats[i].at


cdef inline uint32_t person_at(const Table* table, size_t i) noexcept nogil:
    """The person of a seat."""
    return table.seats[i].person


cdef inline void fetch_visit(const Table* table, size_t at) noexcept nogil:
    """It will be loaded soon."""
    prefetch(&table.spans[at])
    prefetch(&table.rests[at])


cdef inline bint may_overlap(const Table* table, int64_t start, int64_t end) noexcept nogil:
    """Whether any visit of the table can overlap [start, end)."""
    return table.least < end and table.greatest > start


cdef inline Visit load_visit(const Table* table, size_t at) noexcept nogil:
    cdef const Span* span = &table.spans[at]
    cdef const Rest* rest = &table.rests[at]
    cdef Visit visit
    visit.start = span.start
    visit.end = span.end
    visit.ref = rest.ref
    visit.person = span.person
    visit.place = rest.place
    visit.vehicle = rest.vehicle
    visit.room = rest.room
    visit.scans = rest.scans
    visit.rule = rest.rule
    visit.flags = rest.flags
    visit.direction = rest.direction
    memset(visit.spare, 0, sizeof(visit.spare))
    return visit


cdef inline void store_visit(Table* table, size_t at, const Visit* visit) noexcept nogil:
    table.spans[at] = Span(visit.start, visit.end, visit.person, ALIVE)
    table.rests[at] = Rest(
        visit.ref, visit.place, visit.vehicle, visit.room, visit.scans, visit.rule, visit.flags,
        visit.direction, 0,
    )


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


cdef inline size_t find_near(
    const Table* table, const Place* place, int64_t start
) noexcept nogil:
    """First visit of the place that began less than its longest stay before `start`."""
    cdef size_t low = place.first, high = place.stop, middle
    while low < high:
        middle = (low + high) // 2
        if start - start_at(table, middle) >= place.longest:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline size_t find_later(
    const Table* table, size_t low, size_t high, int64_t end
) noexcept nogil:
    """First visit of [low, high) that begins at `end` or later."""
    cdef size_t middle
    while low < high:
        middle = (low + high) // 2
        if start_at(table, middle) < end:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline size_t find_seat(const Table* table, size_t low, uint64_t person) noexcept nogil:
    """The first seat from `low` on of that person or of one behind."""
    cdef size_t high = table.count, middle
    while low < high:
        middle = (low + high) // 2
        if person_at(table, middle) < person:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline bint is_in_range(const Visit* visit) noexcept nogil:
    return -TIME_MAX <= visit.start <= visit.end <= TIME_MAX


cdef inline Py_ssize_t whole(const Py_buffer* view, Py_ssize_t size, str name) except -1:
    """How many items of `size` bytes a buffer holds."""
    if view.len % size:
        raise ValueError(f"{name} has a broken size")
    return view.len // size
