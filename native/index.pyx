"""The search behind the co-location index: tables of visits, and who was at a place.

Visits of a table stand sorted by place and start; with the longest stay of each place as the bound
on how far back to look, an overlap is two binary searches and a short walk, at every CPU level
alike: it waits for memory, and the machine walks ahead by itself. native.trails finds where a
person was.

A visit that later scans have changed ends with an epoch and stays where it is: who asks names an
epoch and sees the visits of that one, whatever happens meanwhile. Merging leaves the ended out.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from native.checks cimport check_int
from native.columns cimport ALIVE, DayColumns, Place, begun_minutes
from native.doors cimport close_doors, make_doors, open_doors
from native.passes cimport Pass, set_out, span_on
from native.scans cimport room_for, sort_seats
from native.visits cimport Changes, Ending

cdef enum:
    TABLES_MAX = 1024
    SEATS_BEHIND = 8           # a door
    PLACES_BEHIND = 4          # a door of a day in a file: these are in memory, and days are many


# ---- building -----------------------------------------------------------------------------------

cdef struct Key:               # what visits are sorted by
    int64_t start
    uint32_t place
    uint32_t at


cdef inline uint8_t digit_of(const Key* key, int digit) noexcept nogil:
    """Byte of a key: 0-7 of the start, 8-11 of the place."""
    if digit < 8:
        # Negative starts come first.
        return <uint8_t> ((<uint64_t> key.start ^ <uint64_t> 1 << 63) >> 8 * digit & 0xFF)
    return <uint8_t> (key.place >> 8 * (digit - 8) & 0xFF)


cdef Key* sort_keys(Key* keys, Key* spare, size_t count) noexcept nogil:
    """By place and start, stable; the answer is the one of both that holds the result.

    Radix sort over the bytes in which keys differ: five of twelve for a month of visits.
    """
    cdef size_t stop[256]
    cdef size_t i, total
    cdef int64_t varied = 0
    cdef uint32_t varied_place = 0
    cdef int digit, value
    for i in range(1, count):
        varied |= keys[i].start ^ keys[0].start
        varied_place |= keys[i].place ^ keys[0].place
    for digit in range(12):
        if digit < 8 and not varied >> 8 * digit & 0xFF:
            continue
        if digit >= 8 and not varied_place >> 8 * (digit - 8) & 0xFF:
            continue
        memset(stop, 0, sizeof(stop))
        for i in range(count):
            stop[digit_of(&keys[i], digit)] += 1
        total = 0
        for value in range(256):
            total += stop[value]
            stop[value] = total
        for i in range(count, 0, -1):
            value = digit_of(&keys[i - 1], digit)
            stop[value] -= 1
            spare[stop[value]] = keys[i - 1]
        keys, spare = spare, keys
    return keys


cdef bint make_rows(Table* table, size_t room) noexcept nogil:
    """Room for so many visits; False if memory is short."""
    table.spans = <Span*> malloc((room + 1) * sizeof(Span))
    table.rests = <Rest*> malloc((room + 1) * sizeof(Rest))
    return table.spans is not NULL and table.rests is not NULL


cdef bint fill_table(Table* table, const Visit* visits, size_t count) noexcept nogil:
    """Make an empty table one of these visits, in any order; False if memory is short."""
    cdef Key* keys = <Key*> malloc(2 * (count + 1) * sizeof(Key))
    cdef Key* by_place
    cdef size_t i
    if keys is NULL or not make_rows(table, count):
        free(keys)
        return False
    for i in range(count):
        keys[i] = Key(visits[i].start, visits[i].place, <uint32_t> i)
    by_place = sort_keys(keys, keys + count, count)
    for i in range(count):
        store_visit(table, i, &visits[by_place[i].at])
    free(keys)
    table.count = count
    return index_rows(table)


cdef bint index_rows(Table* table) noexcept nogil:
    """Fill places and seats from the sorted visits; False if memory is short."""
    cdef size_t count = table.count, i
    cdef uint32_t last = 0
    cdef const Span* span
    cdef Place* places
    cdef Place* place = NULL
    cdef Seat* spare
    cdef Seat* seats
    table.least = TIME_MAX
    table.greatest = -TIME_MAX
    for i in range(count):
        if i == 0 or table.rests[i].place != table.rests[i - 1].place:
            table.place_count += 1
    table.places = places = <Place*> malloc((table.place_count + 1) * sizeof(Place))
    table.seats = <Seat*> malloc((count + 1) * sizeof(Seat))
    spare = <Seat*> malloc((count + 1) * sizeof(Seat))
    if table.places is NULL or table.seats is NULL or spare is NULL:
        free(spare)
        return False
    for i in range(count):
        span = &table.spans[i]
        if i == 0 or table.rests[i].place != place.number:
            place = places if i == 0 else place + 1
            place[0] = Place(<uint32_t> i, <uint32_t> i, 0, table.rests[i].place)
        place.stop = <uint32_t> i + 1
        place.minutes = max(place.minutes, begun_minutes(span.end - span.start))
        table.least = min(table.least, span.start)
        table.greatest = max(table.greatest, span.end)
        table.seats[i] = Seat(span.person, <uint32_t> i)
        last = max(last, span.person)
    seats = sort_seats(table.seats, spare, count, last)
    if seats == spare:
        spare = table.seats
        table.seats = seats
    free(spare)
    return number_seats(table) and number_places(table)


cdef bint number_seats(Table* table) noexcept nogil:
    """Doors into the seats; False if memory is short."""
    cdef const Seat* seats = table.seats
    cdef size_t count = table.count, opened = 0, i
    cdef uint32_t base = seats[0].person if count else 0
    cdef uint32_t last = seats[count - 1].person if count else 0
    if not make_doors(&table.persons, base, last, count, SEATS_BEHIND):
        return False
    for i in range(count):
        opened = open_doors(&table.persons, opened, seats[i].person, i)
    close_doors(&table.persons, opened, count)
    return True


cdef bint number_places(Table* table) noexcept nogil:
    """Doors into the places; False if memory is short."""
    cdef const Place* places = table.places
    cdef size_t behind = 1 if table.columns is NULL else PLACES_BEHIND
    cdef size_t count = table.place_count, opened = 0, i
    cdef uint32_t base = places[0].number if count else 0
    cdef uint32_t last = places[count - 1].number if count else 0
    if not make_doors(&table.numbers, base, last, count, behind):
        return False
    for i in range(count):
        opened = open_doors(&table.numbers, opened, places[i].number, i)
    close_doors(&table.numbers, opened, count)
    if table.columns is NULL:
        return True
    last = <uint32_t> (places[count - 1].stop - 1) if count else 0
    if not make_doors(&table.rows, 0, last, count, behind):
        return False
    opened = 0
    for i in range(count):
        opened = open_doors(&table.rows, opened, <uint32_t> (places[i].stop - 1), i)
    close_doors(&table.rows, opened, count)
    return True


cdef VisitTable make_table(const Visit* visits, size_t count):
    """A table of visits in any order, all of them in range. Raises MemoryError."""
    cdef VisitTable made = VisitTable(b"")
    cdef Table* table = &made.table
    cdef bint is_done
    free_table(table)
    if count > UINT32_MAX:
        raise ValueError("visits are too many for one table")
    with nogil:
        is_done = fill_table(table, visits, count)
    if not is_done:
        raise MemoryError
    return made


cdef void free_table(Table* table) noexcept nogil:
    if table.columns is NULL:
        free(table.spans)
        free(table.rests)
        free(<void*> table.places)
        free(table.seats)
    free(table.persons.first)
    free(table.numbers.first)
    free(table.rows.first)
    memset(table, 0, sizeof(Table))


cdef class VisitTable:
    """Visits sorted by place and start, ready to be searched. Any thread may ask.

    visits: packed VISIT in any order. Raises ValueError when they are no whole number of visits,
    end before they start, or leave the range of +-2**62; MemoryError.
    """

    def __cinit__(self, visits):
        cdef Py_buffer view
        cdef Visit* copied
        cdef size_t count, i
        cdef bint is_done
        PyObject_GetBuffer(visits, &view, PyBUF_SIMPLE)
        try:
            count = <size_t> whole(&view, sizeof(Visit), "visits")
            copied = <Visit*> room_for(count, sizeof(Visit))
            memcpy(copied, view.buf, count * sizeof(Visit))
        finally:
            PyBuffer_Release(&view)
        try:
            for i in range(count):
                if not is_in_range(&copied[i]):
                    raise ValueError("a visit is out of range")
            is_done = fill_table(&self.table, copied, count)
        finally:
            free(copied)
        if not is_done:
            raise MemoryError

    def __dealloc__(self):
        free_table(&self.table)

    def __reduce__(self):
        raise TypeError("a VisitTable cannot be pickled")

    def __len__(self) -> int:
        """Visits that have not ended."""
        return self.table.count - self.table.ended_count

    def at_place(self, place, from_ms, to_ms, epoch) -> bytes:
        """As `visits_at` of this table alone."""
        return visits_at((self,), place, from_ms, to_ms, epoch)

    def begun(self, from_ms, to_ms, epoch) -> bytes:
        """Packed VISIT of all visits that begin within [from_ms, to_ms). Raises ValueError."""
        cdef int64_t start = check_int(from_ms, -TIME_MAX, TIME_MAX, "from_ms")
        cdef int64_t end = check_int(to_ms, -TIME_MAX, TIME_MAX, "to_ms")
        cdef uint32_t when = <uint32_t> check_int(epoch, 0, UINT32_MAX, "epoch")
        cdef const Table* table = &self.table
        cdef size_t count
        cdef bytes found
        cdef uint8_t* packed
        with nogil:
            count = copy_begun(table, start, end, when, NULL)
        found = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (count * sizeof(Visit)))
        packed = <uint8_t*> PyBytes_AS_STRING(found)
        with nogil:
            count = copy_begun(table, start, end, when, packed)
        return found[:count * sizeof(Visit)]


def visits_at(tables, place, from_ms, to_ms, epoch) -> bytes:
    """Packed VISIT of the visits at a place (u32) that overlap [from_ms, to_ms).

    Table by table, of each in order of start. epoch: u32, see above. Raises ValueError for a number
    out of range (instants are within +-2**62), TypeError for what is no VisitTable.
    """
    cdef uint32_t number = <uint32_t> check_int(place, 0, UINT32_MAX, "place")
    cdef int64_t start = check_int(from_ms, -TIME_MAX, TIME_MAX, "from_ms")
    cdef int64_t end = check_int(to_ms, -TIME_MAX, TIME_MAX, "to_ms")
    cdef uint32_t when = <uint32_t> check_int(epoch, 0, UINT32_MAX, "epoch")
    cdef list parts = []
    cdef const Table* table
    cdef const Place* here
    for one in tables:
        table = &(<VisitTable?> one).table
        if may_overlap(table, start, end):
            here = find_place(table, number)
            if here is not NULL:
                parts.append(visits_here(table, here, start, end, when))
    return parts[0] if len(parts) == 1 else b"".join(parts)


cdef bytes visits_here(
    const Table* table, const Place* here, int64_t start, int64_t end, uint32_t epoch
):
    cdef size_t low = find_near(table, here, start), count = 0, i
    cdef size_t high = find_later(table, low, here.stop, end)
    # Room for all that are near, cut afterwards to those that count.
    cdef bytes found = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> ((high - low) * sizeof(Visit)))
    cdef uint8_t* packed = <uint8_t*> PyBytes_AS_STRING(found)
    cdef Pass going
    cdef Span span
    cdef Visit visit
    set_out(&going, table, high)
    for i in range(low, high):
        span = span_on(&going, i)
        if span.end > start and is_alive(&span, epoch):
            visit = complete(table, i, here.number, &span)
            memcpy(packed + count * sizeof(Visit), &visit, sizeof(Visit))
            count += 1
    return found if count == high - low else found[:count * sizeof(Visit)]


cdef size_t copy_begun(
    const Table* table, int64_t start, int64_t end, uint32_t epoch, uint8_t* found
) noexcept nogil:
    """How many visits begin within [start, end); they are copied unless `found` is NULL."""
    cdef size_t p, low, high, i, count = 0
    cdef Pass going
    cdef Span span
    cdef Visit visit
    if not may_overlap(table, start - 1, end):
        return 0
    for p in range(table.place_count):
        low = find_later(table, table.places[p].first, table.places[p].stop, start)
        high = find_later(table, low, table.places[p].stop, end)
        set_out(&going, table, high)
        for i in range(low, high):
            if ended_at(table, i) > epoch:
                if found is not NULL:
                    span = span_on(&going, i)
                    visit = complete(table, i, table.places[p].number, &span)
                    memcpy(found + count * sizeof(Visit), &visit, sizeof(Visit))
                count += 1
    return count


def born_table(Changes changes not None) -> VisitTable:
    """The visits that came with some changes, as a table. Raises ValueError, MemoryError."""
    return make_table(changes.changed.born, changes.changed.born_count)


def table_of(DayColumns day not None) -> VisitTable:
    """The visits of a day that lies in a file. One table of each day: it counts what ends.

    Raises MemoryError.
    """
    cdef VisitTable made = VisitTable(b"")
    cdef Table* table = &made.table
    free_table(table)
    made.day = day
    table.columns = &day.columns
    table.places = day.columns.places
    table.count = day.columns.head.count
    table.place_count = day.columns.head.place_count
    table.least = day.columns.head.least if table.count else TIME_MAX
    table.greatest = day.columns.head.greatest if table.count else -TIME_MAX
    if not number_places(table):
        raise MemoryError
    return made


def end_rows(VisitTable table not None, rows, epoch) -> None:
    """Ends visits of a day by their rows (u32, as DayColumns.ended_rows). Raises ValueError."""
    cdef uint32_t when = <uint32_t> check_int(epoch, 1, UINT32_MAX - 1, "epoch"), row
    cdef Py_buffer view
    cdef Py_ssize_t i, count
    PyObject_GetBuffer(rows, &view, PyBUF_SIMPLE)
    try:
        count = whole(&view, 4, "rows")
        for i in range(count):
            memcpy(&row, <const uint8_t*> view.buf + 4 * i, 4)
            if row >= table.table.count:
                raise ValueError("a row is out of range")
            end_at(&table.table, row, when)
    finally:
        PyBuffer_Release(&view)


# ---- ending and merging -------------------------------------------------------------------------

cdef size_t read_tables(object tables, Table** found) except? 0:
    """Pointers to at most TABLES_MAX tables; they live as long as the list that was given."""
    cdef size_t count = 0
    for table in tables:
        if count == TABLES_MAX:
            raise ValueError("tables are too many")
        found[count] = &(<VisitTable?> table).table
        count += 1
    return count


cdef size_t seek_seat(const Table* table, size_t low, uint32_t person) noexcept nogil:
    """As find_seat, sooner where the seat is near."""
    cdef size_t step = 1
    while step < table.count - low and person_at(table, low + step) < person:
        low += step
        step *= 2
    return find_seat(table, low, person)


cdef bint find_visit(
    const Table* table, size_t* cursor, const Ending* ending, size_t* found
) noexcept nogil:
    """Whether the table has that visit and it has not ended, and where. Moves the cursor."""
    cdef size_t i = seek_seat(table, cursor[0], ending.person)
    cdef const Place* place
    cdef Span span
    cdef size_t at
    cursor[0] = i
    if i == table.count or person_at(table, i) != ending.person:
        return False
    place = find_place(table, ending.place)
    if place is NULL:
        return False
    while i < table.count and person_at(table, i) == ending.person:
        at = seat_at(table, i)
        if place.first <= at < place.stop:
            span = load_span(table, at)
            if span.start == ending.start and span.ended == ALIVE:
                found[0] = at
                return True
        i += 1
    return False


cdef size_t end_all(
    Table** tables, size_t count, const Ending* endings, size_t ending_count, uint32_t epoch
) noexcept nogil:
    cdef size_t cursors[TABLES_MAX]
    cdef size_t ended = 0, at = 0, i, t
    memset(cursors, 0, sizeof(cursors))
    for i in range(ending_count):
        # The youngest table first: what changes was mostly written not long ago.
        for t in range(count, 0, -1):
            if not may_overlap(tables[t - 1], endings[i].start - 1, endings[i].start + 1):
                continue
            if find_visit(tables[t - 1], &cursors[t - 1], &endings[i], &at):
                end_at(tables[t - 1], at, epoch)
                ended += 1
                break
    return ended


def end_visits(tables, endings, epoch) -> int:
    """Ends visits with an epoch (1 .. 2**32-2); how many of them were there and had not ended.

    tables: at most 1024. endings: as Changes gives them, by person. One thread at a time. Raises
    ValueError for sizes and numbers out of range, TypeError for what is no VisitTable.
    """
    cdef list held = list(tables)
    cdef Table* found[TABLES_MAX]
    cdef size_t count = read_tables(held, found)
    cdef uint32_t when = <uint32_t> check_int(epoch, 1, UINT32_MAX - 1, "epoch")
    cdef Py_buffer view
    cdef Ending* copied
    cdef size_t ending_count, ended
    PyObject_GetBuffer(endings, &view, PyBUF_SIMPLE)
    try:
        ending_count = <size_t> whole(&view, sizeof(Ending), "endings")
        copied = <Ending*> room_for(ending_count, sizeof(Ending))
        memcpy(copied, view.buf, ending_count * sizeof(Ending))
    finally:
        PyBuffer_Release(&view)
    with nogil:
        ended = end_all(found, count, copied, ending_count, when)
    free(copied)
    return ended


cdef inline bint is_before(const Table* a, size_t i, const Table* b, size_t j) noexcept nogil:
    cdef uint32_t x = place_at(a, i), y = place_at(b, j)
    if x != y:
        return x < y
    return start_at(a, i) < start_at(b, j)


cdef void merge_rows(Table** tables, size_t count, Table* into) noexcept nogil:
    """The visits of all tables that have not ended, by place and start."""
    cdef size_t at[TABLES_MAX]
    cdef size_t i, least
    cdef Visit visit
    memset(at, 0, sizeof(at))
    while True:
        least = count
        for i in range(count):
            while at[i] < tables[i].count and ended_at(tables[i], at[i]) != ALIVE:
                at[i] += 1
            if at[i] < tables[i].count and (
                least == count or is_before(tables[i], at[i], tables[least], at[least])
            ):
                least = i
        if least == count:
            return
        # Alive for now: one that ends just then is found again by whoever ended it.
        visit = load_visit(tables[least], at[least])
        store_visit(into, into.count, &visit)
        into.count += 1
        at[least] += 1


cdef void fit_rows(Table* table) noexcept nogil:
    """Give back the room that was not needed."""
    cdef Span* spans = <Span*> realloc(table.spans, (table.count + 1) * sizeof(Span))
    cdef Rest* rests = <Rest*> realloc(table.rests, (table.count + 1) * sizeof(Rest))
    if spans is not NULL:
        table.spans = spans
    if rests is not NULL:
        table.rests = rests


def merge_tables(tables) -> VisitTable:
    """All visits of at most 1024 tables that have not ended, in one.

    Other threads may end visits meanwhile: of these each may still be there or not. Raises
    ValueError, MemoryError.
    """
    cdef list held = list(tables)
    cdef Table* found[TABLES_MAX]
    cdef size_t count = read_tables(held, found), total = 0, i
    cdef VisitTable made = VisitTable(b"")
    cdef Table* table = &made.table
    cdef bint is_done
    for i in range(count):
        total += found[i].count
    if total > UINT32_MAX:
        raise ValueError("visits are too many for one table")
    free_table(table)
    with nogil:
        is_done = make_rows(table, total)
        if is_done:
            merge_rows(found, count, table)
            fit_rows(table)
            is_done = index_rows(table)
    if not is_done:
        raise MemoryError
    return made
