"""What is near: the rows of every table that may overlap a visit at its place.

Looked for in waves, as native.trails does: the doors to the place in each table, the place, the
middle of its rows are asked for many visits at once before the first of them is waited for.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from native.columns cimport Place, prefetch
from native.doors cimport door_of
from native.index cimport Table, find_later, find_near, find_place, may_overlap

cdef enum:
    NEAR_WAVE = 64
    LINES_MAX = 64             # of rows that are asked for ahead; the machine walks on by itself
    LINE = 64


cdef struct Stay:              # time at a place that others may have shared
    int64_t start
    int64_t end
    uint32_t place


cdef struct Near:              # rows [low, high) of a table may overlap a stay
    const Table* table
    size_t stay
    size_t low
    size_t high


cdef struct Nears:
    Near* items                # owned
    size_t count
    size_t room
    size_t rows                # of all of them


cdef inline void fetch_lines(const void* first, const void* stop) noexcept nogil:
    cdef const char* at = <const char*> first
    cdef const char* last = <const char*> stop
    cdef size_t lines = 0
    while at < last and lines < LINES_MAX:
        prefetch(at)
        at += LINE
        lines += 1


cdef inline void fetch_rows(const Near* near) noexcept nogil:
    """They will be loaded soon."""
    cdef const Table* table = near.table
    if table.columns is not NULL:
        fetch_lines(&table.columns.whom[near.low], &table.columns.whom[near.high])
        fetch_lines(&table.columns.ended[near.low], &table.columns.ended[near.high])
    else:
        fetch_lines(&table.spans[near.low], &table.spans[near.high])


cdef inline void fetch_start(const Table* table, size_t at) noexcept nogil:
    if table.columns is not NULL:
        prefetch(&table.columns.starts[at])
    else:
        prefetch(&table.spans[at])


cdef inline void narrow(Nears* nears, size_t first, const Stay* stays) noexcept nogil:
    """Those from `first` on get their rows; those without any go."""
    cdef Near* near
    cdef const Place* place
    cdef const uint32_t* door
    cdef size_t i, kept = first
    for i in range(first, nears.count):
        near = &nears.items[i]
        door = door_of(&near.table.numbers, stays[near.stay].place)
        if door is not NULL:
            prefetch(&near.table.places[door[0]])
    for i in range(first, nears.count):
        near = &nears.items[i]
        place = find_place(near.table, stays[near.stay].place)
        if place is not NULL:
            fetch_start(near.table, (place.first + place.stop) // 2)
            nears.items[kept] = near[0]
            # Until its rows are known.
            nears.items[kept].low = place - near.table.places
            kept += 1
    nears.count = kept
    kept = first
    for i in range(first, nears.count):
        near = &nears.items[i]
        place = &near.table.places[near.low]
        near.low = find_near(near.table, place, stays[near.stay].start)
        near.high = find_later(near.table, near.low, place.stop, stays[near.stay].end)
        if near.low < near.high:
            fetch_rows(near)
            nears.rows += near.high - near.low
            nears.items[kept] = near[0]
            kept += 1
    nears.count = kept


cdef inline bint look_around(
    Nears* nears, const Table** tables, size_t table_count, const Stay* stays, size_t count
) noexcept nogil:
    """Adds what is near each stay, stay by stay, table by table; False if memory is short.

    Begins as zeros; `forget` frees it.
    """
    cdef Near* grown
    cdef size_t first = nears.count, room, i, t
    for i in range(count):
        for t in range(table_count):
            if not may_overlap(tables[t], stays[i].start, stays[i].end):
                continue
            if nears.count == nears.room:
                room = 2 * nears.room + NEAR_WAVE
                grown = <Near*> realloc(nears.items, room * sizeof(Near))
                if grown is NULL:
                    return False
                nears.items = grown
                nears.room = room
            nears.items[nears.count] = Near(tables[t], i, 0, 0)
            nears.count += 1
            prefetch(door_of(&tables[t].numbers, stays[i].place))
            if nears.count - first == NEAR_WAVE:
                narrow(nears, first, stays)
                first = nears.count
    narrow(nears, first, stays)
    return True


cdef inline void forget(Nears* nears) noexcept nogil:
    free(nears.items)
    memset(nears, 0, sizeof(Nears))
