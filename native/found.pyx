"""Visits that were found, in the order of an answer: by start, end, key of the person and place.

Sorted by whole numbers first, of a start and of a key 32 bits that nearly always differ; only what
is equal in these is compared. Equal visits stay as they came.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from native.checks cimport check_int
from native.columns cimport prefetch
from native.index cimport TIME_MAX, is_in_range
from native.scans cimport Seat, room_for, sort_seats
from native.visits cimport Visit

cdef extern from "machine.h":
    uint32_t load_be32(const uint8_t* at) noexcept nogil

cdef extern from "stdlib.h":
    void qsort(
        void* items, size_t count, size_t size,
        int (*compare)(const void* a, const void* b) noexcept nogil,
    ) noexcept nogil

ctypedef int (*Compare)(const void* a, const void* b) noexcept nogil

cdef enum:
    KEY_SIZE = 16
    FEW = 24                   # sorted by stepping back: no pass over digits pays for so few
    NOGIL_VISITS = 2048        # for less, getting the GIL back may take longer


cdef struct Item:              # a visit and whose it is
    const Visit* visit
    const uint8_t* key


cdef struct Order:             # room of its own for each of the four
    Item* items                # their visits ascend in memory
    Item* equals               # those that have to be compared
    Seat* seats                # a number of each item (in place of a person), and which it is
    Seat* spare
    size_t count


cdef inline int sign(int64_t a, int64_t b) noexcept nogil:
    return (a > b) - (a < b)


cdef int compare_visits(const void* a, const void* b) noexcept nogil:
    """Of two items, as answers stand; the one that came first, if all is equal."""
    cdef const Item* x = <const Item*> a
    cdef const Item* y = <const Item*> b
    cdef int found = sign(x.visit.start, y.visit.start)
    if found == 0:
        found = sign(x.visit.end, y.visit.end)
    if found == 0:
        found = memcmp(x.key, y.key, KEY_SIZE)
    if found == 0:
        found = sign(x.visit.place, y.visit.place)
    return found if found else (x.visit > y.visit) - (x.visit < y.visit)


cdef int compare_keys(const void* a, const void* b) noexcept nogil:
    cdef const Item* x = <const Item*> a
    cdef const Item* y = <const Item*> b
    cdef int found = memcmp(x.key, y.key, KEY_SIZE)
    if found == 0:
        found = sign(x.visit.person, y.visit.person)
    return found if found else (x.visit > y.visit) - (x.visit < y.visit)


cdef inline void step_back(Seat* seats, size_t count) noexcept nogil:
    """Sorts few seats, or such that are nearly in order; stable."""
    cdef size_t i, at
    cdef Seat seat
    for i in range(1, count):
        seat = seats[i]
        at = i
        while at > 0 and seats[at - 1].person > seat.person:
            seats[at] = seats[at - 1]
            at -= 1
        seats[at] = seat


cdef void sort(Order* order, uint32_t last, Compare compare) noexcept nogil:
    """Seats by their numbers, the last of which is given, and equal ones as `compare` has it."""
    cdef size_t count = order.count, first = 0, stop, i
    cdef Seat* seats
    cdef bint is_sorted = True
    for i in range(1, count):
        if order.seats[i - 1].person > order.seats[i].person:
            is_sorted = False
            break
    if not is_sorted:
        if count <= FEW:
            step_back(order.seats, count)
        else:
            seats = sort_seats(order.seats, order.spare, count, last)
            if seats != order.seats:
                order.spare = order.seats
                order.seats = seats
    seats = order.seats
    while first < count:
        stop = first + 1
        while stop < count and seats[stop].person == seats[first].person:
            stop += 1
        if stop - first > 1:
            settle(order, first, stop, compare)
        first = stop


cdef void settle(Order* order, size_t first, size_t stop, Compare compare) noexcept nogil:
    """Puts seats of equal numbers in order."""
    cdef Seat* seats = order.seats
    cdef size_t i
    cdef bint is_sorted = True
    for i in range(first + 1, stop):
        if compare(&order.items[seats[i - 1].at], &order.items[seats[i].at]) > 0:
            is_sorted = False
            break
    if is_sorted:
        return
    for i in range(first, stop):
        order.equals[i - first] = order.items[seats[i].at]
    qsort(order.equals, stop - first, sizeof(Item), compare)
    for i in range(first, stop):
        # Items ascend as their visits do.
        seats[i].at = <uint32_t> (order.equals[i - first].visit - order.items[0].visit)


cdef bint read_items(
    Order* order, const Visit* visits, const uint8_t* keys, size_t key_count
) noexcept nogil:
    """False where a visit is out of range or its person unknown."""
    cdef size_t i
    for i in range(order.count):
        if visits[i].person >= key_count or not is_in_range(&visits[i]):
            return False
        order.items[i] = Item(&visits[i], keys + KEY_SIZE * <size_t> visits[i].person)
    return True


cdef uint32_t number_starts(Order* order) noexcept nogil:
    """Seats by start, of a span beyond 49 days coarser than ms; the last number."""
    cdef int64_t least = TIME_MAX, greatest = -TIME_MAX
    cdef size_t i
    cdef int shift = 0
    for i in range(order.count):
        least = min(least, order.items[i].visit.start)
        greatest = max(greatest, order.items[i].visit.start)
    if order.count == 0:
        return 0
    while (greatest - least) >> shift > UINT32_MAX:
        shift += 1
    for i in range(order.count):
        order.seats[i] = Seat(
            <uint32_t> ((order.items[i].visit.start - least) >> shift), <uint32_t> i
        )
    return <uint32_t> ((greatest - least) >> shift)


cdef void take_visits(Order* order, Visit* into) noexcept nogil:
    """Copies the visits of the seats; the copies become the items."""
    cdef size_t i
    for i in range(order.count):
        into[i] = order.items[order.seats[i].at].visit[0]
        order.equals[i].key = order.items[order.seats[i].at].key
        prefetch(order.equals[i].key)
    for i in range(order.count):
        order.items[i] = Item(&into[i], order.equals[i].key)


cdef size_t number_persons(Order* order) noexcept nogil:
    """How many persons there are: by key their numbers are on the seats, with an item of each.

    Visits name their positions from then on.
    """
    cdef Visit* visit
    cdef uint32_t last = 0, person = 0, number
    cdef size_t count = 0, i
    for i in range(order.count):
        number = load_be32(order.items[i].key)
        order.seats[i] = Seat(number, <uint32_t> i)
        last = max(last, number)
    sort(order, last, compare_keys)
    for i in range(order.count):
        visit = <Visit*> order.items[order.seats[i].at].visit
        if i == 0 or visit.person != person:
            person = visit.person
            order.seats[count] = Seat(person, order.seats[i].at)
            count += 1
        visit.person = <uint32_t> count - 1
    return count


cdef size_t put_in_order(Order* order, size_t most, Visit* into) noexcept nogil:
    """Writes at most so many of the visits; how many persons they name."""
    sort(order, number_starts(order), compare_visits)
    order.count = min(order.count, most)
    take_visits(order, into)
    return number_persons(order)


def list_visits(bytes packed not None, keys, limit) -> tuple[bytes, bytes, bytes]:
    """(VISIT in order, number of each person, key of each person) of the first of packed VISIT.

    `person` of the visits is a position among the persons, who ascend by key. keys: 16 bytes by
    number. limit: of the visits, None for all. Raises ValueError for sizes and numbers out of
    range, MemoryError.
    """
    cdef size_t most = UINT32_MAX
    cdef Py_buffer view
    cdef Order order
    cdef void* room = NULL
    cdef size_t persons, i
    cdef bytes visits, numbers, named
    cdef Visit* into
    if limit is not None:
        most = <size_t> check_int(limit, 0, UINT32_MAX, "limit")
    PyObject_GetBuffer(keys, &view, PyBUF_SIMPLE)
    try:
        if PyBytes_GET_SIZE(packed) % sizeof(Visit) or view.len % KEY_SIZE:
            raise ValueError("visits or keys have a broken size")
        order.count = PyBytes_GET_SIZE(packed) // sizeof(Visit)
        if order.count > UINT32_MAX:
            raise ValueError("visits are too many")
        room = room_for(order.count, 2 * (sizeof(Item) + sizeof(Seat)))
        order.items = <Item*> room
        order.equals = order.items + order.count
        order.seats = <Seat*> (order.equals + order.count)
        order.spare = order.seats + order.count
        if not read_items(
            &order, <const Visit*> PyBytes_AS_STRING(packed), <const uint8_t*> view.buf,
            view.len // KEY_SIZE,
        ):
            raise ValueError("a visit is out of range, or its person unknown")
        visits = PyBytes_FromStringAndSize(
            NULL, <Py_ssize_t> (min(order.count, most) * sizeof(Visit))
        )
        into = <Visit*> PyBytes_AS_STRING(visits)
        if order.count > NOGIL_VISITS:
            with nogil:
                persons = put_in_order(&order, most, into)
        else:
            persons = put_in_order(&order, most, into)
        numbers = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (persons * sizeof(uint32_t)))
        named = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (persons * KEY_SIZE))
        for i in range(persons):
            memcpy(PyBytes_AS_STRING(numbers) + 4 * i, &order.seats[i].person, 4)
            memcpy(
                PyBytes_AS_STRING(named) + KEY_SIZE * i, order.items[order.seats[i].at].key,
                KEY_SIZE,
            )
    finally:
        free(room)
        PyBuffer_Release(&view)
    return visits, numbers, named
