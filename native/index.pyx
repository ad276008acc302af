"""The search behind the co-location index: who was at a place, and where a person was.

Visits of a layer stand sorted by place and start; with the longest stay of each place as the bound
on how far back to look, an overlap is two binary searches and a short walk, at every CPU level
alike: it waits for memory, and the machine walks ahead by itself.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT32_MAX, INT32_MIN, UINT32_MAX
from libc.stdlib cimport free, realloc

from native.checks cimport check_int


cdef bint is_in_order(const Visit* before, const Visit* visit) noexcept nogil:
    if before.place != visit.place:
        return before.place < visit.place
    return before.start <= visit.start


cdef bint read_visits(Table* table) noexcept nogil:
    """Fill spans and places from the rows; False where these are out of order or of range."""
    cdef Visit before, visit
    cdef Place* place = NULL
    cdef size_t i
    for i in range(table.count):
        visit = load_visit(table.rows, i)
        if not is_in_range(&visit) or (i > 0 and not is_in_order(&before, &visit)):
            return False
        if i == 0 or visit.place != before.place:
            place = &table.places[table.place_count]
            place[0] = Place(i, i, 0, visit.place)
            table.place_count += 1
        place.stop = i + 1
        place.longest = max(place.longest, visit.end - visit.start)
        table.spans[i] = Span(visit.start, visit.end)
        before = visit
    return True


cdef int seat_visits(Table* table) except -1:
    """Fill the seats, sorted by person."""
    cdef Seat* spare = <Seat*> room_for(table.count, sizeof(Seat))
    cdef Seat* sorted_seats
    cdef uint32_t last = 0
    cdef size_t i
    for i in range(table.count):
        table.seats[i] = Seat(load_visit(table.rows, i).person, <uint32_t> i)
        last = max(last, table.seats[i].person)
    sorted_seats = sort_seats(table.seats, spare, table.count, last)
    if sorted_seats == spare:
        spare = table.seats
        table.seats = sorted_seats
    free(spare)
    return 0


cdef size_t find_seat(const Table* table, uint64_t person) noexcept nogil:
    """The first seat of that person or of one behind."""
    cdef size_t low = 0, high = table.count, middle
    while low < high:
        middle = (low + high) // 2
        if table.seats[middle].person < person:
            low = middle + 1
        else:
            high = middle
    return low


cdef size_t copy_owned(
    const Table* table, const Owners* owners, size_t low, size_t high, int64_t start, uint8_t* found
) noexcept nogil:
    """Copy the visits of [low, high) that end after `start` and are valid; how many."""
    cdef size_t i, count = 0
    cdef Visit visit
    for i in range(low, high):
        if table.spans[i].end > start:
            visit = load_visit(table.rows, i)
            if is_owned(owners, visit.person, table.ident):
                memcpy(found + count * sizeof(Visit), &visit, sizeof(Visit))
                count += 1
    return count


cdef class VisitTable:
    """Visits sorted by place and start, ready to be searched. Immutable; any thread may ask.

    ident: what `owner` says of the persons whose visits here are the valid ones, i32. visits:
    packed VISIT; held, not copied, so nobody may change them. Raises ValueError when they are no
    whole number of visits, are not sorted, end before they start, or leave the range of +-2**62.
    """

    def __cinit__(self, ident, visits):
        cdef Table* table = &self.table
        cdef Place* places
        table.ident = <int32_t> check_int(ident, INT32_MIN, INT32_MAX, "ident")
        PyObject_GetBuffer(visits, &self.view, PyBUF_SIMPLE)
        self.is_held = True
        table.rows = <const uint8_t*> self.view.buf
        table.count = <size_t> whole(&self.view, sizeof(Visit), "visits")
        if table.count > UINT32_MAX:
            raise ValueError("visits are too many for one table")
        table.spans = <Span*> room_for(table.count, sizeof(Span))
        # Room for as many places as visits, which costs nothing until it is written to.
        table.places = <Place*> room_for(table.count, sizeof(Place))
        if not read_visits(table):
            raise ValueError("visits are not sorted by place and start, or out of range")
        places = <Place*> realloc(table.places, (table.place_count + 1) * sizeof(Place))
        if places is not NULL:
            table.places = places
        table.seats = <Seat*> room_for(table.count, sizeof(Seat))
        seat_visits(table)

    def __dealloc__(self):
        free(self.table.spans)
        free(self.table.places)
        free(self.table.seats)
        if self.is_held:
            PyBuffer_Release(&self.view)

    def __reduce__(self):
        raise TypeError("a VisitTable cannot be pickled")

    def __len__(self) -> int:
        return self.table.count

    def at_place(self, place, from_ms, to_ms, owner) -> bytes:
        """Packed VISIT of the owned visits at a place (u32) that overlap [from_ms, to_ms).

        In order of start. owner: i32 by person, see `ident`. Raises ValueError for a number out of
        range (instants are within +-2**62).
        """
        cdef uint32_t number = <uint32_t> check_int(place, 0, UINT32_MAX, "place")
        cdef int64_t start = check_int(from_ms, -TIME_MAX, TIME_MAX, "from_ms")
        cdef int64_t end = check_int(to_ms, -TIME_MAX, TIME_MAX, "to_ms")
        cdef const Place* here = find_place(&self.table, number)
        cdef Py_buffer owners_view
        cdef Owners owners
        cdef size_t low, high, count
        cdef bytes found
        if here is NULL:
            return b""
        low = find_near(self.table.spans, here, start)
        high = find_later(self.table.spans, low, here.stop, end)
        PyObject_GetBuffer(owner, &owners_view, PyBUF_SIMPLE)
        try:
            owners.count = <size_t> whole(&owners_view, 4, "owner")
            owners.idents = <const uint8_t*> owners_view.buf
            # Room for all that are near, cut afterwards to those that count.
            found = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> ((high - low) * sizeof(Visit)))
            count = copy_owned(
                &self.table, &owners, low, high, start, <uint8_t*> PyBytes_AS_STRING(found)
            )
        finally:
            PyBuffer_Release(&owners_view)
        return found if count == high - low else found[:count * sizeof(Visit)]

    def of_person(self, person, from_ms, to_ms) -> bytes:
        """Packed VISIT of a person (u32) that overlap [from_ms, to_ms), by place and start.

        Whether the person's visits here are the valid ones is for the caller to know. Raises
        ValueError as `at_place`.
        """
        cdef uint32_t number = <uint32_t> check_int(person, 0, UINT32_MAX, "person")
        cdef int64_t start = check_int(from_ms, -TIME_MAX, TIME_MAX, "from_ms")
        cdef int64_t end = check_int(to_ms, -TIME_MAX, TIME_MAX, "to_ms")
        cdef size_t low = find_seat(&self.table, number)
        cdef size_t high = find_seat(&self.table, <uint64_t> number + 1)
        cdef size_t i, at, count = 0
        cdef bytes found = PyBytes_FromStringAndSize(
            NULL, <Py_ssize_t> ((high - low) * sizeof(Visit))
        )
        cdef uint8_t* packed = <uint8_t*> PyBytes_AS_STRING(found)
        for i in range(low, high):
            at = self.table.seats[i].at
            if self.table.spans[at].start < end and self.table.spans[at].end > start:
                memcpy(
                    packed + count * sizeof(Visit),
                    self.table.rows + at * sizeof(Visit),
                    sizeof(Visit),
                )
                count += 1
        return found if count == high - low else found[:count * sizeof(Visit)]
