"""C face of native.scans: the scan as a struct, how scans are ordered and joined, runs of them."""

from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memset

from native.columns cimport Columns, DayColumns, Visit

cdef extern from *:
    """
    #define TIME_LIMIT ((int64_t) 1 << 61)
    """
    # Instants of scans lie within +-TIME_LIMIT.
    const int64_t TIME_LIMIT

cdef enum:
    RUNS_MAX = 1024
    OUT = 2                    # engine.scans.rows.Direction
    OBSERVED = 0               # engine.presence.visits.EndRule


cdef packed struct Scan:       # 36 bytes, engine.presence.visits.SCAN
    int64_t time
    uint64_t ref
    uint32_t person
    uint32_t place
    uint32_t vehicle
    uint32_t stay
    uint16_t lane
    uint8_t direction
    uint8_t kind


cdef struct Seat:              # where something of a person is
    uint32_t person
    uint32_t at


cdef struct Run:               # either columns, or scans and doors
    const Columns* columns     # of a DayColumns
    int64_t first_time         # of any of them; the last one is before the first without any
    int64_t last_time
    Scan* scans                # distinct, by person, time, place and rule O
    size_t count
    uint32_t* doors            # of each 2**shift persons the first scan, and behind all the count
    size_t door_count
    int shift
    uint32_t longest_stay      # told with any of them, or more


cdef class ScanRun:
    cdef Run run               # all of it is owned where there are no columns
    cdef DayColumns day


cdef size_t merge_scans(
    const Scan** heads, const Scan** stops, size_t count, Scan* into
) noexcept nogil

cdef void sort_scans(Scan* scans, size_t count) noexcept nogil
cdef size_t join_copies(Scan* scans, size_t count) noexcept nogil

# A run without scans and with room for so many, that is then told how many were written.
cdef ScanRun empty_run(size_t room)
cdef int finish_run(Run* run, size_t count) except -1

# Of columns: the scan that a row is (of one that is ONE_SCAN), and one that is stored.
cdef Scan scan_of_row(const Columns* columns, size_t row) noexcept nogil
cdef Scan stored_scan(const Columns* columns, size_t i) noexcept nogil

# Of any run; for a person at a time, in order of persons.
cdef uint64_t next_person(const Run* run, uint64_t person) noexcept nogil
cdef size_t loose_count(const Run* run, uint64_t person) noexcept nogil
cdef size_t gather_scans(
    const Run* run, uint64_t person, int64_t low, int64_t high, Scan* into
) noexcept nogil


cdef inline Scan scan_of(const Visit* visit, uint8_t kind) noexcept nogil:
    """The scan of a visit that has no other, if the visit tells all of it."""
    cdef Scan scan
    cdef int64_t length = visit.end - visit.start
    memset(&scan, 0, sizeof(Scan))
    scan.time = visit.start
    scan.ref = visit.ref
    scan.person = visit.person
    scan.place = visit.place
    scan.vehicle = visit.vehicle
    if visit.rule == OBSERVED and visit.direction != OUT and length <= UINT32_MAX:
        scan.stay = <uint32_t> length
    scan.lane = visit.room
    scan.direction = visit.direction
    scan.kind = kind
    return scan


cdef inline uint64_t minor(const Scan* scan) noexcept nogil:
    """Rule O: at one instant at one place check-outs first, then lane, direction and kind."""
    return (
        <uint64_t> (scan.direction != OUT) << 32
        | <uint64_t> scan.lane << 16
        | <uint64_t> scan.direction << 8
        | scan.kind
    )


cdef inline int compare(const Scan* a, const Scan* b) noexcept nogil:
    """By person, time, place and rule O; 0 for copies."""
    if a.person != b.person:
        return -1 if a.person < b.person else 1
    if a.time != b.time:
        return -1 if a.time < b.time else 1
    if a.place != b.place:
        return -1 if a.place < b.place else 1
    cdef uint64_t x = minor(a), y = minor(b)
    return (x > y) - (x < y)


cdef inline bint absorb(Scan* kept, const Scan* copy) noexcept nogil:
    """Rule D: what two copies are together; whether that changed the first."""
    cdef bint is_changed = False
    if copy.vehicle and (not kept.vehicle or copy.vehicle < kept.vehicle):
        kept.vehicle = copy.vehicle
        is_changed = True
    if copy.stay > kept.stay:
        kept.stay = copy.stay
        is_changed = True
    if copy.ref < kept.ref:
        kept.ref = copy.ref
        is_changed = True
    return is_changed


cdef inline size_t seek(const Run* run, uint64_t person) noexcept nogil:
    """The first scan of that person or of one behind: through a door, then among some ten scans."""
    cdef uint64_t door = person >> run.shift
    cdef size_t low, high, middle
    if door >= run.door_count:
        return run.count
    low, high = run.doors[door], run.doors[door + 1]
    while low < high:
        middle = (low + high) // 2
        if run.scans[middle].person < person:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline size_t seek_time(
    const Scan* scans, size_t low, size_t high, int64_t time
) noexcept nogil:
    """Of one person's scans [low, high) the first at that time or later."""
    cdef size_t middle
    while low < high:
        middle = (low + high) // 2
        if scans[middle].time < time:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline void* room_for(size_t count, size_t size) except NULL:
    cdef void* room = calloc(count + 1, size)
    if room is NULL:
        raise MemoryError
    return room


cdef inline Seat* sort_seats(Seat* seats, Seat* spare, size_t count, uint32_t last) noexcept nogil:
    """Sort by person, none above `last`; the answer is the one of both that holds the result.

    Radix sort, a byte a pass: comparing would take most of the time of a question.
    """
    cdef size_t stop[256]
    cdef size_t i, total
    cdef int digit, shift = 0
    while shift < 32 and last >> shift:
        memset(stop, 0, sizeof(stop))
        for i in range(count):
            stop[seats[i].person >> shift & 0xFF] += 1
        total = 0
        for digit in range(256):
            total += stop[digit]
            stop[digit] = total
        for i in range(count, 0, -1):
            digit = seats[i - 1].person >> shift & 0xFF
            stop[digit] -= 1
            spare[stop[digit]] = seats[i - 1]
        seats, spare = spare, seats
        shift += 8
    return seats
