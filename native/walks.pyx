"""Walks over many visits at once: of a person or a list of them, of a vehicle.

native.index answers for one place; a thousand such answers would be a thousand calls.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from native.checks cimport check_int
from native.columns cimport ODD_VEHICLE, ODD_WORDS, OF_ODDS, Columns, Place, stream
from native.index cimport (
    Span, Table, find_later, find_near, load_span, load_visit, may_overlap, whole,
)
from native.trails cimport (
    PERSONS_MAX, STEPS_AHEAD, Scope, Trail, fetch_rest, follow, is_in_scope, leave, read_scope,
    visit_of_step,
)
from native.visits cimport Visit

cdef enum:
    FEW = 16                   # persons whom it takes less to find than to get the GIL back


cdef struct Rows:              # owned
    uint8_t* items
    size_t count
    size_t room


cdef void* push(Rows* rows, size_t size) noexcept nogil:
    """Room for one more row, NULL if memory is short."""
    cdef uint8_t* grown
    cdef size_t room
    if rows.count == rows.room:
        room = 2 * rows.room + 256
        grown = <uint8_t*> realloc(rows.items, room * size)
        if grown is NULL:
            return NULL
        rows.items = grown
        rows.room = room
    rows.count += 1
    return rows.items + (rows.count - 1) * size


cdef bint take(Rows* rows, const Table* table, size_t at) noexcept nogil:
    cdef Visit visit = load_visit(table, at)
    cdef void* room = push(rows, sizeof(Visit))
    if room is NULL:
        return False
    memcpy(room, &visit, sizeof(Visit))
    return True


cdef bint take_trail(const Trail* trail, Rows* found) noexcept nogil:
    cdef Visit visit
    cdef void* room
    cdef size_t i
    for i in range(trail.count):
        fetch_rest(&trail.steps[min(i + STEPS_AHEAD, trail.count - 1)])
        visit = visit_of_step(&trail.steps[i])
        room = push(found, sizeof(Visit))
        if room is NULL:
            return False
        memcpy(room, &visit, sizeof(Visit))
    return True


cdef bint walk_persons(
    const Scope* scope, const uint8_t* persons, size_t count, Rows* found
) noexcept nogil:
    cdef uint32_t some[PERSONS_MAX]
    cdef size_t first = 0, size
    cdef Trail trail
    cdef bint is_done = True
    memset(&trail, 0, sizeof(Trail))
    while is_done and first < count:
        size = min(count - first, <size_t> PERSONS_MAX)
        memcpy(some, persons + 4 * first, 4 * size)
        trail.count = 0
        is_done = follow(&trail, scope, some, size) and take_trail(&trail, found)
        first += size
    leave(&trail)
    return is_done


def visits_of_many(tables, persons, from_ms, to_ms, epoch) -> bytes:
    """Packed VISIT of many persons (u32 each) that overlap [from_ms, to_ms).

    Person by person, table by table, of each by place and start. tables: at most 1024 VisitTable.
    epoch: see VisitTable. Raises ValueError for numbers and sizes out of range, TypeError for what
    is no VisitTable, MemoryError.
    """
    cdef list held = list(tables)
    cdef Py_buffer view
    cdef Scope scope
    cdef Rows found
    cdef size_t count
    cdef bint is_done
    memset(&found, 0, sizeof(Rows))
    read_scope(&scope, held, from_ms, to_ms, epoch)
    PyObject_GetBuffer(persons, &view, PyBUF_SIMPLE)
    try:
        count = <size_t> whole(&view, 4, "persons")
        if count > FEW:
            with nogil:
                is_done = walk_persons(&scope, <const uint8_t*> view.buf, count, &found)
        else:
            is_done = walk_persons(&scope, <const uint8_t*> view.buf, count, &found)
    finally:
        PyBuffer_Release(&view)
    return packed(&found, sizeof(Visit), is_done)


cdef bytes packed(Rows* found, size_t size, bint is_done):
    """The rows as bytes; frees them. Raises MemoryError."""
    try:
        if not is_done:
            raise MemoryError
        return PyBytes_FromStringAndSize(
            <char*> found.items, <Py_ssize_t> (found.count * size)
        )
    finally:
        free(found.items)


cdef bint walk_odds(
    const Scope* scope, const Table* table, uint32_t vehicle, Rows* found
) noexcept nogil:
    """In a segment those with a vehicle are among the odd ones, so the others need no look."""
    cdef const Columns* columns = table.columns
    cdef Span span
    cdef size_t i, k, at
    for k in range(columns.head.odd_count):
        i = k * ODD_WORDS
        at = i + ODD_VEHICLE
        if <uint32_t> (columns.odds[at] ^ stream(columns, OF_ODDS, at)) != vehicle:
            continue
        at = columns.odds[i] ^ stream(columns, OF_ODDS, i)
        if at < table.count:
            span = load_span(table, at)
            if is_in_scope(scope, &span) and not take(found, table, at):
                return False
    return True


cdef bint walk_vehicle(const Scope* scope, uint32_t vehicle, Rows* found) noexcept nogil:
    cdef const Table* table
    cdef const Place* place
    cdef Span span
    cdef size_t t, p, i, low, high
    for t in range(scope.table_count):
        table = scope.tables[t]
        if not may_overlap(table, scope.start, scope.end):
            continue
        if table.columns is not NULL:
            if not walk_odds(scope, table, vehicle, found):
                return False
            continue
        for p in range(table.place_count):
            place = &table.places[p]
            low = find_near(table, place, scope.start)
            high = find_later(table, low, place.stop, scope.end)
            for i in range(low, high):
                if table.rests[i].vehicle == vehicle:
                    span = load_span(table, i)
                    if is_in_scope(scope, &span) and not take(found, table, i):
                        return False
    return True


def visits_in(tables, vehicle, from_ms, to_ms, epoch) -> bytes:
    """Packed VISIT, in no order, that name a vehicle (u32, not 0) and overlap [from_ms, to_ms).

    Reads every visit of the span in memory, in segments the odd ones. Raises as `visits_of_many`.
    """
    cdef list held = list(tables)
    cdef uint32_t number = <uint32_t> check_int(vehicle, 1, UINT32_MAX, "vehicle")
    cdef Scope scope
    cdef Rows found
    cdef bint is_done
    memset(&found, 0, sizeof(Rows))
    read_scope(&scope, held, from_ms, to_ms, epoch)
    with nogil:
        is_done = walk_vehicle(&scope, number, &found)
    return packed(&found, sizeof(Visit), is_done)
