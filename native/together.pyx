"""Plain answers out of the visits of the index: keys and milliseconds, no evidence, no ranks.

For whoever wants nothing but who was there, where a person was, and how long others were with a
person. engine.contacts has the rules for what counts as a contact; here every overlap counts.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_SetItem
from cpython.set cimport PySet_Add
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from native.checks cimport check_int
from native.columns cimport Place, prefetch
from native.index cimport (
    TIME_MAX, Span, Table, VisitTable, fetch_visit, find_later, find_near, find_place,
    find_seat, is_alive, load_span, may_overlap, person_at, place_at, seat_at, whole,
)
from native.scans cimport room_for

cdef extern from *:
    """
    #define SPREAD UINT64_C(0x9E3779B97F4A7C15)
    """
    const uint64_t SPREAD

cdef enum:
    TABLES_MAX = 1024
    KEY_SIZE = 16
    NOGIL_VISITS = 4096        # 0.3 ms or so; for less, getting the GIL back may take longer


cdef struct Asked:
    Table* tables[TABLES_MAX]
    size_t table_count
    const uint8_t* keys        # 16 bytes by person; who has none is not there
    size_t key_count
    int64_t start
    int64_t end
    uint32_t epoch


cdef struct Sum:               # milliseconds with a person (number + 1, 0 while free)
    int64_t time
    uint32_t taken


cdef struct Near:              # what may overlap one visit of the person in one table
    const Table* table
    size_t low
    size_t high
    int64_t start
    int64_t end


cdef struct Totals:
    const Asked* asked
    Near* near
    size_t near_count
    Sum* sums                  # open addressing, half full at most
    size_t mask
    uint32_t* met              # slots taken, in order of meeting
    size_t met_count


cdef int read_asked(
    Asked* asked, list tables, object from_ms, object to_ms, object epoch, const Py_buffer* keys
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
    asked.keys = <const uint8_t*> keys.buf
    asked.key_count = <size_t> whole(keys, KEY_SIZE, "keys")
    return 0


cdef inline bytes key_of(const Asked* asked, uint32_t person):
    return PyBytes_FromStringAndSize(<char*> asked.keys + KEY_SIZE * <size_t> person, KEY_SIZE)


cdef inline bint is_asked(const Asked* asked, const Span* span) noexcept nogil:
    return span.start < asked.end and span.end > asked.start and is_alive(span, asked.epoch)


cdef size_t find_own(const Table* table, uint32_t person, size_t* stop) noexcept nogil:
    """The first of the person's seats in a table; their visits, scattered, are on their way."""
    cdef size_t first = find_seat(table, 0, person), i = first
    while i < table.count and person_at(table, i) == person:
        fetch_visit(table, seat_at(table, i))
        i += 1
    stop[0] = i
    return first


def people_at(tables, place, from_ms, to_ms, keys, epoch) -> set[bytes]:
    """Keys of the persons with a visit at a place (u32) that overlaps [from_ms, to_ms).

    tables: at most 1024 VisitTable. keys: 16 bytes by person. epoch: see VisitTable. Raises
    ValueError for numbers and sizes out of range, TypeError for what is no VisitTable.
    """
    cdef list held = list(tables)
    cdef uint32_t number = <uint32_t> check_int(place, 0, UINT32_MAX, "place")
    cdef Py_buffer view
    cdef Asked asked
    cdef const Table* table
    cdef const Place* here
    cdef Span span
    cdef size_t t, i, low, high
    cdef set found = set()
    PyObject_GetBuffer(keys, &view, PyBUF_SIMPLE)
    try:
        read_asked(&asked, held, from_ms, to_ms, epoch, &view)
        for t in range(asked.table_count):
            table = asked.tables[t]
            if not may_overlap(table, asked.start, asked.end):
                continue
            here = find_place(table, number)
            if here is NULL:
                continue
            low = find_near(table, here, asked.start)
            high = find_later(table, low, here.stop, asked.end)
            for i in range(low, high):
                span = load_span(table, i)
                if span.person < asked.key_count:
                    prefetch(asked.keys + KEY_SIZE * <size_t> span.person)
            for i in range(low, high):
                span = load_span(table, i)
                if is_asked(&asked, &span) and span.person < asked.key_count:
                    PySet_Add(found, key_of(&asked, span.person))
    finally:
        PyBuffer_Release(&view)
    return found


def times_of(tables, person, from_ms, to_ms, epoch) -> list[tuple[int, int, int]]:
    """(start, length, place) of the visits of a person (u32) that overlap [from_ms, to_ms), in ms.

    In no order. Raises as `people_at`.
    """
    cdef list held = list(tables)
    cdef uint32_t number = <uint32_t> check_int(person, 0, UINT32_MAX, "person")
    cdef Py_buffer view
    cdef Asked asked
    cdef const Table* table
    cdef Span span
    cdef size_t t, i, at, first, stop = 0
    cdef list found = []
    memset(&view, 0, sizeof(Py_buffer))
    read_asked(&asked, held, from_ms, to_ms, epoch, &view)
    for t in range(asked.table_count):
        table = asked.tables[t]
        if not may_overlap(table, asked.start, asked.end):
            continue
        first = find_own(table, number, &stop)
        for i in range(first, stop):
            at = seat_at(table, i)
            span = load_span(table, at)
            if is_asked(&asked, &span):
                found.append((span.start, span.end - span.start, place_at(table, at)))
    return found


def time_together(tables, person, from_ms, to_ms, keys, epoch) -> dict[bytes, int]:
    """Milliseconds that others were where a person (u32) was, by key, summed over pairs of visits.

    Whole visits of the person that overlap [from_ms, to_ms) count. Raises as `people_at`,
    MemoryError.
    """
    cdef list held = list(tables)
    cdef uint32_t number = <uint32_t> check_int(person, 0, UINT32_MAX, "person")
    cdef Py_buffer view
    cdef Asked asked
    cdef Totals totals
    cdef size_t visits = 0, near = 0, room = 16, t, i
    cdef dict found = {}
    cdef const Sum* met
    memset(&totals, 0, sizeof(Totals))
    PyObject_GetBuffer(keys, &view, PyBUF_SIMPLE)
    try:
        read_asked(&asked, held, from_ms, to_ms, epoch, &view)
        totals.asked = &asked
        for t in range(asked.table_count):
            i = find_seat(asked.tables[t], 0, number)
            visits += find_seat(asked.tables[t], i, <uint64_t> number + 1) - i
        totals.near = <Near*> room_for(visits * asked.table_count, sizeof(Near))
        near = look_around(&totals, number)
        while room < 2 * near:
            room *= 2
        totals.mask = room - 1
        totals.sums = <Sum*> room_for(room, sizeof(Sum))
        totals.met = <uint32_t*> room_for(near, sizeof(uint32_t))
        if near >= NOGIL_VISITS:
            with nogil:
                add_up(&totals, number)
        else:
            add_up(&totals, number)
        for i in range(totals.met_count):
            met = &totals.sums[totals.met[i]]
            PyDict_SetItem(found, key_of(&asked, met.taken - 1), met.time)
    finally:
        PyBuffer_Release(&view)
        free(totals.near)
        free(totals.sums)
        free(totals.met)
    return found


cdef size_t look_around(Totals* totals, uint32_t person) noexcept nogil:
    """Note what is near each visit of the person in each table; how many visits in all."""
    cdef const Asked* asked = totals.asked
    cdef const Table* table
    cdef const Table* other
    cdef const Place* place
    cdef Span mine
    cdef Near* near
    cdef size_t t, o, i, first, stop = 0, total = 0
    cdef uint32_t number
    for t in range(asked.table_count):
        table = asked.tables[t]
        if not may_overlap(table, asked.start, asked.end):
            continue
        first = find_own(table, person, &stop)
        for i in range(first, stop):
            mine = load_span(table, seat_at(table, i))
            if is_asked(asked, &mine):
                number = place_at(table, seat_at(table, i))
                for o in range(asked.table_count):
                    other = asked.tables[o]
                    if not may_overlap(other, mine.start, mine.end):
                        continue
                    place = find_place(other, number)
                    if place is not NULL:
                        near = &totals.near[totals.near_count]
                        near.table = other
                        near.start = mine.start
                        near.end = mine.end
                        near.low = find_near(other, place, mine.start)
                        near.high = find_later(other, near.low, place.stop, mine.end)
                        total += near.high - near.low
                        totals.near_count += near.high > near.low
    return total


cdef void add_up(Totals* totals, uint32_t person) noexcept nogil:
    cdef const Asked* asked = totals.asked
    cdef const Near* near
    cdef Span span
    cdef Sum* total
    cdef int64_t overlap
    cdef size_t n, i, at
    for n in range(totals.near_count):
        near = &totals.near[n]
        for i in range(near.low, near.high):
            span = load_span(near.table, i)
            if span.end <= near.start or not is_alive(&span, asked.epoch):
                continue
            if span.person == person or span.person >= asked.key_count:
                continue
            at = span.person * SPREAD >> 32 & totals.mask
            while totals.sums[at].taken and totals.sums[at].taken != span.person + 1:
                at = (at + 1) & totals.mask
            total = &totals.sums[at]
            if not total.taken:
                total.taken = span.person + 1
                totals.met[totals.met_count] = <uint32_t> at
                totals.met_count += 1
                prefetch(asked.keys + KEY_SIZE * <size_t> span.person)
            overlap = min(span.end, near.end) - max(span.start, near.start)
            total.time += min(overlap, TIME_MAX - total.time)
