"""C face of native.index: visits that can be searched, and the searches in them."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from native.columns cimport (
    ALIVE, LENGTH_MAX, Columns, DayColumns, Place, find_door_seat, find_odd, find_vehicle, is_odd,
    load_relaxed, longest_of, may_have, open_seat, open_visit, open_whom, plain_visit, prefetch,
    store_relaxed,
)
from native.doors cimport Doors, door_of
from native.scans cimport Seat
from native.visits cimport Visit

cdef extern from *:
    """
    #define TIME_MAX (INT64_MAX / 2)
    """
    # Instants lie within +-TIME_MAX, and so do lengths that are asked for: no sum of two overflows.
    const int64_t TIME_MAX


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


cdef struct Table:             # either columns, or spans, rests and seats
    const Columns* columns     # of a DayColumns
    Span* spans                # of every visit
    Rest* rests                # of the same visits
    Seat* seats                # of every visit, sorted by person, then as the spans are
    const Place* places        # ascending by number
    Doors persons              # of the seats; columns have their own, sealed
    Doors numbers              # of the places by their numbers
    Doors rows                 # of the places by their last rows; only where there are columns
    size_t count
    size_t place_count
    size_t ended_count
    int64_t least              # start of any visit, TIME_MAX without one
    int64_t greatest           # end of any, -TIME_MAX without one


cdef class VisitTable:
    cdef Table table           # all of it is owned where there are no columns
    cdef DayColumns day


# A table begins as zeros, and is freed by free_table whatever came of it.
cdef bint fill_table(Table* table, const Visit* visits, size_t count) noexcept nogil
cdef void free_table(Table* table) noexcept nogil


cdef inline bint is_alive(const Span* span, uint32_t epoch) noexcept nogil:
    """Whether a visit counts in that epoch. It may end meanwhile, in a later one."""
    return span.ended > epoch


# Whoever walks a table asks these, never its fields.

cdef inline int64_t start_at(const Table* table, size_t at) noexcept nogil:
    if table.columns is not NULL:
        return table.columns.head.base + table.columns.starts[at]
    return table.spans[at].start


cdef inline uint32_t ended_at(const Table* table, size_t at) noexcept nogil:
    """The first epoch without that visit, ALIVE while there is none."""
    cdef uint32_t ended
    if table.columns is not NULL:
        ended = load_relaxed(&table.columns.ended[at])
        return ended if ended else ALIVE
    return load_relaxed(&table.spans[at].ended)


cdef inline Span span_of(const Table* table, size_t at, uint64_t whom) noexcept nogil:
    """The span of a row of columns. whom: its opened word."""
    cdef int64_t start = table.columns.head.base + table.columns.starts[at]
    cdef int64_t length = <int64_t> (whom >> 32)
    cdef Visit visit
    if length == LENGTH_MAX and find_odd(table.columns, at, &visit):
        length = visit.end - visit.start
    return Span(start, start + length, <uint32_t> whom, ended_at(table, at))


cdef inline Span load_span(const Table* table, size_t at) noexcept nogil:
    cdef const Span* span
    if table.columns is not NULL:
        return span_of(table, at, open_whom(table.columns, at))
    span = &table.spans[at]
    return Span(span.start, span.end, span.person, load_relaxed(&span.ended))


cdef inline void end_at(Table* table, size_t at, uint32_t epoch) noexcept nogil:
    """A visit ends with that epoch; one thread at a time."""
    if table.columns is not NULL:
        store_relaxed(&table.columns.ended[at], epoch)
    else:
        store_relaxed(&table.spans[at].ended, epoch)
    table.ended_count += 1


cdef inline uint32_t place_at(const Table* table, size_t at) noexcept nogil:
    """Number of the place of a visit."""
    cdef const uint32_t* door
    cdef size_t low, high, middle
    if table.columns is NULL:
        return table.rests[at].place
    door = door_of(&table.rows, at)
    low, high = door[0], door[1]
    while low < high:
        middle = (low + high) // 2
        if table.places[middle].stop <= at:
            low = middle + 1
        else:
            high = middle
    return table.places[low].number


cdef inline size_t seat_at(const Table* table, size_t i) noexcept nogil:
    """The visit of a seat; seats are in order of persons, find_seat has the first of one."""
    if table.columns is not NULL:
        return open_seat(table.columns, i)
    return table.seats[i].at


cdef inline uint32_t person_at(const Table* table, size_t i) noexcept nogil:
    """The person of a seat."""
    if table.columns is not NULL:
        return <uint32_t> open_whom(table.columns, open_seat(table.columns, i))
    return table.seats[i].person


cdef inline void fetch_visit(const Table* table, size_t at) noexcept nogil:
    """It will be loaded soon."""
    if table.columns is not NULL:
        prefetch(&table.columns.whom[at])
        prefetch(&table.columns.starts[at])
        return
    prefetch(&table.spans[at])
    prefetch(&table.rests[at])


cdef inline bint may_overlap(const Table* table, int64_t start, int64_t end) noexcept nogil:
    """Whether any visit of the table can overlap [start, end)."""
    return table.least < end and table.greatest > start


cdef inline bint may_have_person(const Table* table, uint32_t person) noexcept nogil:
    """Whether it is worth a search."""
    return table.columns is NULL or may_have(table.columns, person)


cdef inline Visit load_visit(const Table* table, size_t at) noexcept nogil:
    cdef const Span* span
    cdef const Rest* rest
    cdef Visit visit
    if table.columns is not NULL:
        return open_visit(table.columns, at, place_at(table, at))
    span = &table.spans[at]
    rest = &table.rests[at]
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


cdef inline Visit load_visit_of(const Table* table, size_t at, uint32_t place) noexcept nogil:
    """As load_visit, sooner where the number of its place is known."""
    if table.columns is not NULL:
        return open_visit(table.columns, at, place)
    return load_visit(table, at)


cdef inline Visit complete(
    const Table* table, size_t at, uint32_t place, const Span* span
) noexcept nogil:
    """As load_visit, soonest where its span is known as well: nothing is opened again."""
    cdef uint64_t whom
    if table.columns is NULL or is_odd(table.columns, at):
        return load_visit_of(table, at, place)
    whom = <uint64_t> (span.end - span.start) << 32 | span.person
    return plain_visit(table.columns, at, whom, place)


cdef inline uint32_t vehicle_at(const Table* table, size_t at) noexcept nogil:
    if table.columns is not NULL:
        return find_vehicle(table.columns, at)
    return table.rests[at].vehicle


cdef inline void store_visit(Table* table, size_t at, const Visit* visit) noexcept nogil:
    table.spans[at] = Span(visit.start, visit.end, visit.person, ALIVE)
    table.rests[at] = Rest(
        visit.ref, visit.place, visit.vehicle, visit.room, visit.scans, visit.rule, visit.flags,
        visit.direction, 0,
    )


cdef inline const Place* find_place(const Table* table, uint32_t number) noexcept nogil:
    """The place of that number, NULL where the table has none."""
    cdef const uint32_t* door = door_of(&table.numbers, number)
    cdef size_t low, high, middle
    if door is NULL:
        return NULL
    low, high = door[0], door[1]
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
        if start - start_at(table, middle) >= longest_of(place):
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
    cdef const uint32_t* door
    cdef size_t high, middle
    if table.columns is not NULL:
        return max(low, find_door_seat(table.columns, person))
    door = door_of(&table.persons, person)
    if door is NULL:
        # Behind all, or before them.
        return table.count if person > table.persons.base else low
    low, high = max(low, <size_t> door[0]), door[1]
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
