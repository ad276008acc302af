"""Plain answers out of the visits of the index: keys and milliseconds, no evidence, no ranks.

For whoever wants nothing but who was there, where a person was, and how long others were with a
person. engine.presence.contacts has the rules for what counts as a contact; here every overlap
counts.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_SetItem
from cpython.set cimport PySet_Add
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from native.checks cimport check_int
from native.columns cimport Place, prefetch
from native.index cimport (
    TIME_MAX, Span, Table, find_later, find_near, find_place, is_alive, may_overlap, whole,
)
from native.near cimport Near, Nears, Stay, forget, look_around
from native.passes cimport Pass, set_out, span_on
from native.trails cimport Scope, Step, Trail, follow, is_in_scope, leave, read_scope

cdef extern from *:
    """
    #define SPREAD UINT64_C(0x9E3779B97F4A7C15)
    """
    const uint64_t SPREAD

cdef enum:
    KEY_SIZE = 16
    AHEAD = 64                 # persons whose keys are asked for before the first is read
    NOGIL_VISITS = 4096        # 0.3 ms or so; for less, getting the GIL back may take longer


cdef struct Keys:              # 16 bytes by person; who has none is not there
    const uint8_t* items
    size_t count


cdef struct Sum:               # milliseconds with a person (number + 1, 0 while free)
    int64_t time
    uint32_t taken


cdef struct Totals:
    const Keys* keys
    uint32_t person            # who has met the others
    uint32_t epoch
    Trail trail
    Stay* stays                # of the trail
    Nears nears
    Sum* sums                  # open addressing, half full at most
    size_t mask
    uint32_t* met              # slots taken, in order of meeting
    size_t met_count


cdef int read_keys(Keys* keys, const Py_buffer* view) except -1:
    keys.items = <const uint8_t*> view.buf
    keys.count = <size_t> whole(view, KEY_SIZE, "keys")
    return 0


cdef inline bytes key_of(const Keys* keys, uint32_t person):
    return PyBytes_FromStringAndSize(<char*> keys.items + KEY_SIZE * <size_t> person, KEY_SIZE)


def people_at(tables, place, from_ms, to_ms, keys, epoch) -> set[bytes]:
    """Keys of the persons with a visit at a place (u32) that overlaps [from_ms, to_ms).

    tables: at most 1024 VisitTable. keys: 16 bytes by person. epoch: see VisitTable. Raises
    ValueError for numbers and sizes out of range, TypeError for what is no VisitTable.
    """
    cdef list held = list(tables)
    cdef uint32_t number = <uint32_t> check_int(place, 0, UINT32_MAX, "place")
    cdef Py_buffer view
    cdef Scope scope
    cdef Keys known
    cdef const Table* table
    cdef const Place* here
    cdef Pass going
    cdef Span span
    cdef uint32_t some[AHEAD]
    cdef size_t t, i, low, high, count
    cdef set found = set()
    PyObject_GetBuffer(keys, &view, PyBUF_SIMPLE)
    try:
        read_scope(&scope, held, from_ms, to_ms, epoch)
        read_keys(&known, &view)
        for t in range(scope.table_count):
            table = scope.tables[t]
            if not may_overlap(table, scope.start, scope.end):
                continue
            here = find_place(table, number)
            if here is NULL:
                continue
            low = find_near(table, here, scope.start)
            high = find_later(table, low, here.stop, scope.end)
            set_out(&going, table, high)
            while low < high:
                count = 0
                for i in range(low, min(low + AHEAD, high)):
                    # Opened once; the key is on its way while others are opened.
                    span = span_on(&going, i)
                    some[count] = span.person
                    if span.person < known.count and is_in_scope(&scope, &span):
                        prefetch(known.items + KEY_SIZE * <size_t> span.person)
                        count += 1
                for i in range(count):
                    PySet_Add(found, key_of(&known, some[i]))
                low += AHEAD
    finally:
        PyBuffer_Release(&view)
    return found


def times_of(tables, person, from_ms, to_ms, epoch) -> list[tuple[int, int, int]]:
    """(start, length, place) of the visits of a person (u32) that overlap [from_ms, to_ms), in ms.

    In no order. Raises as `people_at`, MemoryError.
    """
    cdef list held = list(tables)
    cdef uint32_t number = <uint32_t> check_int(person, 0, UINT32_MAX, "person")
    cdef Scope scope
    cdef Trail trail
    cdef const Step* step
    cdef size_t i
    cdef list found = []
    memset(&trail, 0, sizeof(Trail))
    read_scope(&scope, held, from_ms, to_ms, epoch)
    try:
        if not follow(&trail, &scope, &number, 1):
            raise MemoryError
        for i in range(trail.count):
            step = &trail.steps[i]
            found.append((step.span.start, step.span.end - step.span.start, step.place))
    finally:
        leave(&trail)
    return found


def time_together(tables, person, from_ms, to_ms, keys, epoch) -> dict[bytes, int]:
    """Milliseconds that others were where a person (u32) was, by key, summed over pairs of visits.

    Whole visits of the person that overlap [from_ms, to_ms) count. Raises as `people_at`,
    MemoryError.
    """
    cdef list held = list(tables)
    cdef Py_buffer view
    cdef Scope scope
    cdef Keys known
    cdef Totals totals
    cdef size_t i
    cdef bint is_done
    cdef dict found = {}
    cdef const Sum* met
    memset(&totals, 0, sizeof(Totals))
    totals.person = <uint32_t> check_int(person, 0, UINT32_MAX, "person")
    totals.keys = &known
    PyObject_GetBuffer(keys, &view, PyBUF_SIMPLE)
    try:
        read_scope(&scope, held, from_ms, to_ms, epoch)
        read_keys(&known, &view)
        totals.epoch = scope.epoch
        if not look(&totals, &scope):
            raise MemoryError
        if totals.nears.rows >= NOGIL_VISITS:
            with nogil:
                is_done = add_up(&totals)
        else:
            is_done = add_up(&totals)
        if not is_done:
            raise MemoryError
        for i in range(totals.met_count):
            met = &totals.sums[totals.met[i]]
            PyDict_SetItem(found, key_of(&known, met.taken - 1), met.time)
    finally:
        PyBuffer_Release(&view)
        leave(&totals.trail)
        forget(&totals.nears)
        free(totals.stays)
        free(totals.sums)
        free(totals.met)
    return found


cdef bint look(Totals* totals, const Scope* scope) noexcept nogil:
    """What is near the person's visits; False if memory is short."""
    cdef const Step* step
    cdef size_t i
    if not follow(&totals.trail, scope, &totals.person, 1):
        return False
    totals.stays = <Stay*> calloc(totals.trail.count + 1, sizeof(Stay))
    if totals.stays is NULL:
        return False
    for i in range(totals.trail.count):
        step = &totals.trail.steps[i]
        totals.stays[i] = Stay(step.span.start, step.span.end, step.place)
    return look_around(
        &totals.nears, <const Table**> scope.tables, scope.table_count, totals.stays,
        totals.trail.count,
    )


cdef bint add_up(Totals* totals) noexcept nogil:
    """Time with each who was near; False if memory is short."""
    cdef const Keys* keys = totals.keys
    cdef const Near* near
    cdef const Stay* stay
    cdef Pass going
    cdef Span span
    cdef Sum* total
    cdef int64_t overlap
    cdef size_t room = 16, n, i, at
    while room < 2 * totals.nears.rows:
        room *= 2
    totals.mask = room - 1
    totals.sums = <Sum*> calloc(room, sizeof(Sum))
    totals.met = <uint32_t*> calloc(totals.nears.rows + 1, sizeof(uint32_t))
    if totals.sums is NULL or totals.met is NULL:
        return False
    for n in range(totals.nears.count):
        near = &totals.nears.items[n]
        stay = &totals.stays[near.stay]
        set_out(&going, near.table, near.high)
        for i in range(near.low, near.high):
            span = span_on(&going, i)
            if span.end <= stay.start or not is_alive(&span, totals.epoch):
                continue
            if span.person == totals.person or span.person >= keys.count:
                continue
            at = span.person * SPREAD >> 32 & totals.mask
            while totals.sums[at].taken and totals.sums[at].taken != span.person + 1:
                at = (at + 1) & totals.mask
            total = &totals.sums[at]
            if not total.taken:
                total.taken = span.person + 1
                totals.met[totals.met_count] = <uint32_t> at
                totals.met_count += 1
                prefetch(keys.items + KEY_SIZE * <size_t> span.person)
            overlap = min(span.end, stay.end) - max(span.start, stay.start)
            total.time += min(overlap, TIME_MAX - total.time)
    return True
