"""Counts of what began, by time and place (Q12): cells of tables, rows of cells.

A walk makes a cell where place, time, lane or direction change, so cells are in order and may come
several times. They are added up sorted by whole numbers, a pass a byte.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport (
    PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, UINT32_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from native.checks cimport check_int
from native.columns cimport (
    DIRECTION_BITS, DIRECTION_SHIFT, FLAG_BITS, FLAG_SHIFT, SCANS_SHIFT, Place,
)
from native.index cimport (
    TIME_MAX, Table, ended_at, find_later, load_visit, may_overlap, start_at, whole,
)
from native.scans cimport Seat, room_for, sort_seats
from native.trails cimport Scope, read_scope
from native.visits cimport Visit

cdef extern from "machine.h":
    uint32_t load_u32(const uint8_t* at) noexcept nogil

cdef enum:
    PASSAGE = 1                # engine.presence.visits.VisitFlag
    DIRECTION_SIZE = 8         # bits


cdef struct Cell:              # 24 bytes, engine.tracing.counts.CELL
    int64_t start
    uint32_t place
    int32_t count              # less than 0 where they are taken off
    uint16_t lane              # of a post, else 0
    uint8_t direction
    uint8_t is_passage
    uint32_t spare


cdef struct Count:             # 24 bytes, engine.tracing.counts.COUNT
    int64_t start
    uint32_t group
    uint16_t lane
    uint8_t direction
    uint8_t spare
    uint32_t visits
    uint32_t passages


cdef struct Cells:             # owned
    Cell* items
    size_t count
    size_t room


cdef Cell* push(Cells* cells) noexcept nogil:
    """Room for one more, NULL if memory is short."""
    cdef Cell* grown
    cdef size_t room
    if cells.count == cells.room:
        room = 2 * cells.room + 256
        grown = <Cell*> realloc(cells.items, room * sizeof(Cell))
        if grown is NULL:
            return NULL
        cells.items = grown
        cells.room = room
    cells.count += 1
    return &cells.items[cells.count - 1]


# ---- cells --------------------------------------------------------------------------------------

cdef inline void describe(const Table* table, size_t at, Cell* cell) noexcept nogil:
    """What sort of a visit it is."""
    cdef Visit visit
    cdef uint16_t kind
    cell.is_passage = cell.direction = 0
    cell.lane = 0
    if table.columns is NULL:
        cell.is_passage = table.rests[at].flags & PASSAGE
        if cell.is_passage:
            cell.lane = table.rests[at].room
            cell.direction = table.rests[at].direction
        return
    kind = table.columns.kinds[at]
    if kind >> SCANS_SHIFT:    # whoever it was stays sealed
        cell.is_passage = kind >> FLAG_SHIFT & FLAG_BITS & PASSAGE
        if cell.is_passage:
            cell.lane = table.columns.rooms[at]
            cell.direction = kind >> DIRECTION_SHIFT & DIRECTION_BITS
        return
    visit = load_visit(table, at)
    cell.is_passage = visit.flags & PASSAGE
    if cell.is_passage:
        cell.lane = visit.room
        cell.direction = visit.direction


cdef bint walk_place(
    const Scope* scope, const Table* table, const Place* place, int64_t width, bint is_ended,
    Cells* found,
) noexcept nogil:
    cdef size_t low = find_later(table, place.first, place.stop, scope.start), i
    cdef size_t high = find_later(table, low, place.stop, scope.end)
    cdef Cell* cell = NULL
    cdef Cell made
    cdef int64_t start, until = -INT64_MAX
    memset(&made, 0, sizeof(Cell))
    made.count = 1
    made.place = place.number
    for i in range(low, high):
        if (ended_at(table, i) <= scope.epoch) != is_ended:
            continue
        start = start_at(table, i)
        if start >= until:     # they ascend
            made.start = start - (start - scope.start) % width
            until = made.start + min(width, INT64_MAX - max(made.start, 0))
        describe(table, i, &made)
        if cell is not NULL and cell.start == made.start and cell.lane == made.lane and (
            cell.direction == made.direction and cell.is_passage == made.is_passage
        ):
            cell.count += 1
            continue
        cell = push(found)
        if cell is NULL:
            return False
        cell[0] = made
    return True


cdef bint walk_cells(
    const Scope* scope, int64_t width, bint is_ended, Cells* found
) noexcept nogil:
    cdef const Table* table
    cdef size_t t, p
    for t in range(scope.table_count):
        table = scope.tables[t]
        if not may_overlap(table, scope.start - 1, scope.end):
            continue
        for p in range(table.place_count):
            if not walk_place(scope, table, &table.places[p], width, is_ended, found):
                return False
    return True


def count_begun(tables, from_ms, to_ms, width_ms, epoch, bint is_ended=False) -> bytes:
    """Packed CELL: how many visits began at each place in each width_ms from from_ms on.

    Passages are told apart by lane and direction. In order of place and time within a table; a cell
    may come several times. tables: at most 1024 VisitTable. epoch: see VisitTable. is_ended: of
    those that are no more in the epoch, in place of those that are. Raises ValueError for numbers
    out of range, TypeError for what is no VisitTable, MemoryError.
    """
    cdef list held = list(tables)
    cdef int64_t width = check_int(width_ms, 1, TIME_MAX, "width_ms")
    cdef Scope scope
    cdef Cells found
    cdef bint is_done
    memset(&found, 0, sizeof(Cells))
    read_scope(&scope, held, from_ms, to_ms, epoch)
    try:
        with nogil:
            is_done = walk_cells(&scope, width, is_ended, &found)
        if not is_done:
            raise MemoryError
        return PyBytes_FromStringAndSize(
            <char*> found.items, <Py_ssize_t> (found.count * sizeof(Cell))
        )
    finally:
        free(found.items)


# ---- rows ---------------------------------------------------------------------------------------

cdef struct Sorting:           # of cells by whole numbers
    const uint8_t* cells       # packed Cell
    size_t count
    Seat* seats
    Seat* spare


cdef inline Cell cell_at(const Sorting* sorting, size_t i) noexcept nogil:
    cdef Cell cell
    memcpy(&cell, sorting.cells + i * sizeof(Cell), sizeof(Cell))
    return cell


cdef void sort_by_number(Sorting* sorting) noexcept nogil:
    """Seats by their numbers; those of equal ones stay as they are."""
    cdef uint32_t last = 0
    cdef size_t i
    cdef Seat* found
    cdef bint is_sorted = True
    for i in range(sorting.count):
        is_sorted = is_sorted and last <= sorting.seats[i].person
        last = max(last, sorting.seats[i].person)
    if is_sorted:
        return
    found = sort_seats(sorting.seats, sorting.spare, sorting.count, last)
    if found != sorting.seats:
        sorting.spare = sorting.seats
        sorting.seats = found


cdef int open_sorting(Sorting* sorting, const Py_buffer* cells) except -1:
    """Room for the seats, which `free(room)` gives back."""
    sorting.cells = <const uint8_t*> cells.buf
    sorting.count = <size_t> whole(cells, sizeof(Cell), "cells")
    if sorting.count > UINT32_MAX:
        raise ValueError("cells are too many")
    sorting.seats = <Seat*> room_for(sorting.count, 2 * sizeof(Seat))
    sorting.spare = sorting.seats + sorting.count
    return 0


def places_of(cells) -> bytes:
    """The places (u32) of packed CELL, ascending. Raises ValueError, MemoryError."""
    cdef Py_buffer view
    cdef Sorting sorting
    cdef Seat* room = NULL
    cdef uint32_t* into
    cdef uint32_t place
    cdef size_t count = 0, kept = 0, i
    PyObject_GetBuffer(cells, &view, PyBUF_SIMPLE)
    try:
        open_sorting(&sorting, &view)
        room = sorting.seats
        with nogil:
            for i in range(sorting.count):
                place = cell_at(&sorting, i).place
                if count == 0 or sorting.seats[count - 1].person != place:
                    sorting.seats[count] = Seat(place, 0)
                    count += 1
            sorting.count = count
            sort_by_number(&sorting)
            into = <uint32_t*> sorting.spare
            for i in range(count):
                place = sorting.seats[i].person
                if kept == 0 or into[kept - 1] != place:
                    into[kept] = place
                    kept += 1
        return PyBytes_FromStringAndSize(<char*> into, <Py_ssize_t> (4 * kept))
    finally:
        free(room)
        PyBuffer_Release(&view)


cdef struct Rows:              # what is asked of cells
    const uint8_t* places      # u32, ascending
    const uint8_t* groups      # u32, of each
    size_t place_count
    uint32_t* group_of         # of each cell
    int64_t start
    int64_t width
    bint has_lanes


cdef inline bint find_group(const Rows* rows, uint32_t place, uint32_t* group) noexcept nogil:
    cdef size_t low = 0, high = rows.place_count, middle
    while low < high:
        middle = (low + high) // 2
        if load_u32(rows.places + 4 * middle) < place:
            low = middle + 1
        else:
            high = middle
    if low == rows.place_count or load_u32(rows.places + 4 * low) != place:
        return False
    group[0] = load_u32(rows.groups + 4 * low)
    return True


cdef inline uint32_t lane_of(const Rows* rows, const Cell* cell) noexcept nogil:
    """Lane and direction as one number, 0 where they do not matter."""
    return (<uint32_t> cell.lane << DIRECTION_SIZE | cell.direction) if rows.has_lanes else 0


cdef bint sort_cells(const Rows* rows, Sorting* sorting) noexcept nogil:
    """By start, group, lane and direction; False where a cell lies outside of all.

    Those of places that are not asked for go.
    """
    cdef size_t count = 0, i
    cdef bint is_known = False
    cdef uint32_t place = 0, group = 0
    cdef Cell cell
    for i in range(sorting.count):
        cell = cell_at(sorting, i)
        if not rows.start <= cell.start <= TIME_MAX or (
            (cell.start - rows.start) // rows.width > UINT32_MAX
        ):
            return False
        if i == 0 or cell.place != place:
            place = cell.place
            is_known = find_group(rows, place, &group)
        if is_known:
            rows.group_of[i] = group
            sorting.seats[count] = Seat(lane_of(rows, &cell), <uint32_t> i)
            count += 1
    sorting.count = count
    sort_by_number(sorting)
    for i in range(count):
        sorting.seats[i].person = rows.group_of[sorting.seats[i].at]
    sort_by_number(sorting)
    for i in range(count):
        cell = cell_at(sorting, sorting.seats[i].at)
        sorting.seats[i].person = <uint32_t> ((cell.start - rows.start) // rows.width)
    sort_by_number(sorting)
    return True


cdef size_t add_up(const Rows* rows, const Sorting* sorting, uint8_t* into) noexcept nogil:
    """Writes a Count for each start, group, lane and direction that has any; how many."""
    cdef size_t first = 0, made = 0
    cdef int64_t visits, passages
    cdef uint32_t group, lane
    cdef Cell head, cell
    cdef Count row
    while first < sorting.count:
        head = cell_at(sorting, sorting.seats[first].at)
        group = rows.group_of[sorting.seats[first].at]
        lane = lane_of(rows, &head)
        visits = passages = 0
        while first < sorting.count:
            cell = cell_at(sorting, sorting.seats[first].at)
            if cell.start != head.start or lane_of(rows, &cell) != lane or (
                rows.group_of[sorting.seats[first].at] != group
            ):
                break
            if cell.is_passage:
                passages += cell.count
            else:
                visits += cell.count
            first += 1
        if visits > 0 or passages > 0:
            row = Count(
                head.start, group, <uint16_t> (lane >> DIRECTION_SIZE), <uint8_t> lane, 0,
                <uint32_t> visits, <uint32_t> passages,
            )
            memcpy(into + made * sizeof(Count), &row, sizeof(Count))
            made += 1
    return made


def add_cells(cells, places, groups, from_ms, width_ms, bint has_lanes) -> bytearray:
    """Packed COUNT of packed CELL, by start, group, and where has_lanes by lane and direction.

    places: u32 ascending, others do not count; groups: u32, the number under which each is counted.
    from_ms, width_ms: as the cells were made, of one width. Raises ValueError, MemoryError.
    """
    cdef Py_buffer views[3]
    cdef int held = 0
    cdef Rows rows
    cdef Sorting sorting
    cdef Seat* room = NULL
    cdef size_t made = 0
    cdef bint is_done
    cdef bytearray found
    cdef uint8_t* into
    rows.start = check_int(from_ms, -TIME_MAX, TIME_MAX, "from_ms")
    rows.width = check_int(width_ms, 1, TIME_MAX, "width_ms")
    rows.has_lanes = has_lanes
    rows.group_of = NULL
    try:
        for given in (cells, places, groups):
            PyObject_GetBuffer(given, &views[held], PyBUF_SIMPLE)
            held += 1
        rows.places, rows.groups = <const uint8_t*> views[1].buf, <const uint8_t*> views[2].buf
        rows.place_count = <size_t> whole(&views[1], 4, "places")
        if views[1].len != views[2].len:
            raise ValueError("places and groups are not as many")
        open_sorting(&sorting, &views[0])
        room = sorting.seats
        rows.group_of = <uint32_t*> room_for(sorting.count, sizeof(uint32_t))
        with nogil:
            is_done = sort_cells(&rows, &sorting)
        if not is_done:
            raise ValueError("a cell lies before from_ms, or too far behind it")
        found = PyByteArray_FromStringAndSize(NULL, <Py_ssize_t> (sorting.count * sizeof(Count)))
        into = <uint8_t*> PyByteArray_AS_STRING(found)
        with nogil:
            made = add_up(&rows, &sorting, into)
        PyByteArray_Resize(found, <Py_ssize_t> (made * sizeof(Count)))
        return found
    finally:
        free(room)
        free(rows.group_of)
        while held > 0:
            held -= 1
            PyBuffer_Release(&views[held])
