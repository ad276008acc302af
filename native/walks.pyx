"""Walks over many visits at once, without the GIL: of a list of persons, of a vehicle, by hour.

native.index answers for one place or one person; a thousand such answers would be a thousand calls.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from native.checks cimport check_int
from native.columns cimport (
    DIRECTION_BITS, DIRECTION_SHIFT, FLAG_BITS, FLAG_SHIFT, ODD_WORDS, OF_ODDS, SCANS_SHIFT,
    Columns, Place, stream,
)
from native.index cimport (
    TIME_MAX, Span, Table, VisitTable, ended_at, find_later, find_near, find_seat, is_alive,
    load_span, load_visit, may_overlap, person_at, seat_at, start_at, whole,
)
from native.visits cimport Visit

cdef extern from "machine.h":
    uint32_t load_u32(const uint8_t* at) noexcept nogil

cdef enum:
    TABLES_MAX = 1024
    PASSAGE = 1                # engine.visits.VisitFlag
    ODD_VEHICLE = 5            # the word of an Odd that has the vehicle in its low half


cdef struct Cell:              # 24 bytes, engine.counts.CELL
    int64_t start
    uint32_t place
    uint32_t count
    uint16_t lane              # of a post, else 0
    uint8_t direction
    uint8_t is_passage
    uint32_t spare


cdef struct Asked:
    const Table* tables[TABLES_MAX]
    size_t table_count
    int64_t start
    int64_t end
    uint32_t epoch


cdef struct Rows:              # owned
    uint8_t* items
    size_t count
    size_t room


cdef int read_asked(
    Asked* asked, list tables, object from_ms, object to_ms, object epoch
) except -1:
    memset(asked, 0, sizeof(Asked))
    if len(tables) > TABLES_MAX:
        raise ValueError("tables are too many")
    for table in tables:
        asked.tables[asked.table_count] = &(<VisitTable?> table).table
        asked.table_count += 1
    asked.start = check_int(from_ms, -TIME_MAX, TIME_MAX, "from_ms")
    asked.end = check_int(to_ms, -TIME_MAX, TIME_MAX, "to_ms")
    asked.epoch = <uint32_t> check_int(epoch, 0, UINT32_MAX, "epoch")
    return 0


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


cdef inline bint is_asked(const Asked* asked, const Span* span) noexcept nogil:
    return span.start < asked.end and span.end > asked.start and is_alive(span, asked.epoch)


cdef bint walk_persons(
    const Asked* asked, const uint8_t* persons, size_t count, Rows* found
) noexcept nogil:
    cdef const Table* table
    cdef Span span
    cdef size_t t, i, seat
    cdef uint32_t person
    for t in range(asked.table_count):
        table = asked.tables[t]
        if not may_overlap(table, asked.start, asked.end):
            continue
        for i in range(count):
            person = load_u32(persons + 4 * i)
            seat = find_seat(table, 0, person)
            while seat < table.count and person_at(table, seat) == person:
                span = load_span(table, seat_at(table, seat))
                if is_asked(asked, &span) and not take(found, table, seat_at(table, seat)):
                    return False
                seat += 1
    return True


def visits_of_many(tables, persons, from_ms, to_ms, epoch) -> bytes:
    """Packed VISIT, in no order, of many persons (u32 each) that overlap [from_ms, to_ms).

    tables: at most 1024 VisitTable. epoch: see VisitTable. Raises ValueError for numbers and sizes
    out of range, TypeError for what is no VisitTable, MemoryError.
    """
    cdef list held = list(tables)
    cdef Py_buffer view
    cdef Asked asked
    cdef Rows found
    cdef size_t count
    cdef bint is_done
    memset(&found, 0, sizeof(Rows))
    read_asked(&asked, held, from_ms, to_ms, epoch)
    PyObject_GetBuffer(persons, &view, PyBUF_SIMPLE)
    try:
        count = <size_t> whole(&view, 4, "persons")
        with nogil:
            is_done = walk_persons(&asked, <const uint8_t*> view.buf, count, &found)
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
    const Asked* asked, const Table* table, uint32_t vehicle, Rows* found
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
            if is_asked(asked, &span) and not take(found, table, at):
                return False
    return True


cdef bint walk_vehicle(const Asked* asked, uint32_t vehicle, Rows* found) noexcept nogil:
    cdef const Table* table
    cdef const Place* place
    cdef Span span
    cdef size_t t, p, i, low, high
    for t in range(asked.table_count):
        table = asked.tables[t]
        if not may_overlap(table, asked.start, asked.end):
            continue
        if table.columns is not NULL:
            if not walk_odds(asked, table, vehicle, found):
                return False
            continue
        for p in range(table.place_count):
            place = &table.places[p]
            low = find_near(table, place, asked.start)
            high = find_later(table, low, place.stop, asked.end)
            for i in range(low, high):
                if table.rests[i].vehicle == vehicle:
                    span = load_span(table, i)
                    if is_asked(asked, &span) and not take(found, table, i):
                        return False
    return True


def visits_in(tables, vehicle, from_ms, to_ms, epoch) -> bytes:
    """Packed VISIT, in no order, that name a vehicle (u32, not 0) and overlap [from_ms, to_ms).

    Reads every visit of the span in memory, in segments the odd ones. Raises as `visits_of_many`.
    """
    cdef list held = list(tables)
    cdef uint32_t number = <uint32_t> check_int(vehicle, 1, UINT32_MAX, "vehicle")
    cdef Asked asked
    cdef Rows found
    cdef bint is_done
    memset(&found, 0, sizeof(Rows))
    read_asked(&asked, held, from_ms, to_ms, epoch)
    with nogil:
        is_done = walk_vehicle(&asked, number, &found)
    return packed(&found, sizeof(Visit), is_done)


cdef inline Cell cell_of(const Table* table, size_t at, int64_t low, int64_t width) noexcept nogil:
    """The cell of one visit, its place left out."""
    cdef Cell made
    cdef Visit visit
    cdef uint16_t kind
    cdef int64_t start = start_at(table, at)
    memset(&made, 0, sizeof(Cell))
    made.start = start - (start - low) % width
    made.count = 1
    if table.columns is NULL:
        made.is_passage = table.rests[at].flags & PASSAGE
        if made.is_passage:
            made.lane = table.rests[at].room
            made.direction = table.rests[at].direction
        return made
    kind = table.columns.kinds[at]
    if kind >> SCANS_SHIFT:    # whoever it was stays sealed
        made.is_passage = kind >> FLAG_SHIFT & FLAG_BITS & PASSAGE
        if made.is_passage:
            made.lane = table.columns.rooms[at]
            made.direction = kind >> DIRECTION_SHIFT & DIRECTION_BITS
        return made
    visit = load_visit(table, at)
    made.is_passage = visit.flags & PASSAGE
    if made.is_passage:
        made.lane = visit.room
        made.direction = visit.direction
    return made


cdef bint walk_cells(
    const Asked* asked, int64_t width, bint is_ended, Rows* found
) noexcept nogil:
    cdef const Table* table
    cdef const Place* place
    cdef Cell* cell
    cdef Cell made
    cdef size_t t, p, i, low, high
    for t in range(asked.table_count):
        table = asked.tables[t]
        if not may_overlap(table, asked.start, asked.end):
            continue
        for p in range(table.place_count):
            place = &table.places[p]
            low = find_later(table, place.first, place.stop, asked.start)
            high = find_later(table, low, place.stop, asked.end)
            cell = NULL
            for i in range(low, high):
                if (ended_at(table, i) <= asked.epoch) != is_ended:
                    continue
                made = cell_of(table, i, asked.start, width)
                if cell is not NULL and cell.start == made.start and cell.lane == made.lane and (
                    cell.direction == made.direction and cell.is_passage == made.is_passage
                ):
                    cell.count += 1
                    continue
                cell = <Cell*> push(found, sizeof(Cell))
                if cell is NULL:
                    return False
                cell[0] = made
                cell.place = place.number
    return True


def count_begun(tables, from_ms, to_ms, width_ms, epoch, bint is_ended=False) -> bytes:
    """Packed CELL: how many visits began at each place in each width_ms from from_ms on.

    Passages are told apart by lane and direction. In order of place and time within a table; a cell
    may come several times. is_ended: of those that are no more in the epoch, in place of those that
    are. Raises as `visits_of_many`.
    """
    cdef list held = list(tables)
    cdef int64_t width = check_int(width_ms, 1, TIME_MAX, "width_ms")
    cdef Asked asked
    cdef Rows found
    cdef bint is_done
    memset(&found, 0, sizeof(Rows))
    read_asked(&asked, held, from_ms, to_ms, epoch)
    with nogil:
        is_done = walk_cells(&asked, width, is_ended, &found)
    return packed(&found, sizeof(Cell), is_done)
