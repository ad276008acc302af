"""Layers in memory by civil day: which scans belong to each, and how many visits.

A layer is gone through once for all of its days; looking for a day's own in the whole of it, a day
after the other, would cost a search for each person and day.
"""

from libc.stdint cimport INT64_MAX, INT64_MIN, UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from native.checks cimport check_int
from native.index cimport Table, VisitTable, ended_at, start_at
from native.scans cimport Scan, ScanRun, empty_run, finish_run, room_for

cdef extern from *:
    """
    #define DAY_MS INT64_C(86400000)
    #define DAY_SPREAD UINT64_C(0x9E3779B97F4A7C15)
    #define NO_MEMORY UINT32_MAX
    """
    const int64_t DAY_MS
    const uint64_t DAY_SPREAD
    const uint32_t NO_MEMORY

cdef enum:
    ROOM_FIRST = 256


cdef struct Days:              # in the order in which they were met
    int64_t* days              # owned
    size_t* counts             # owned
    uint32_t* slots            # owned: of a hash table of twice the room, 0 or 1 + where it stands
    size_t count
    size_t room
    int64_t zero               # the first instant of day 0
    int64_t floor              # earlier days count as this one


cdef inline int64_t day_at(const Days* found, int64_t time) noexcept nogil:
    cdef int64_t since = time - found.zero, day = since // DAY_MS
    day -= since % DAY_MS < 0  # in C it is cut towards zero
    return max(day, found.floor)


cdef inline size_t slot_of(const Days* found, int64_t day) noexcept nogil:
    """Where the day stands in the hash table, or would."""
    cdef size_t mask = 2 * found.room - 1
    cdef size_t slot = (<uint64_t> day * DAY_SPREAD) >> 32 & mask
    while found.slots[slot] and found.days[found.slots[slot] - 1] != day:
        slot = (slot + 1) & mask
    return slot


cdef bint grow(Days* found) noexcept nogil:
    """Room for twice as many days; False if memory is short."""
    cdef size_t room = max(2 * found.room, <size_t> ROOM_FIRST), i
    cdef int64_t* days = <int64_t*> realloc(found.days, room * sizeof(int64_t))
    cdef size_t* counts
    cdef uint32_t* slots
    if days is NULL:
        return False
    found.days = days
    counts = <size_t*> realloc(found.counts, room * sizeof(size_t))
    if counts is NULL:
        return False
    found.counts = counts
    slots = <uint32_t*> calloc(2 * room, sizeof(uint32_t))
    if slots is NULL:
        return False
    free(found.slots)
    found.slots = slots
    found.room = room
    for i in range(found.count):
        slots[slot_of(found, days[i])] = <uint32_t> i + 1
    return True


cdef uint32_t note_day(Days* found, int64_t time) noexcept nogil:
    """Counts one more on the day of an instant; which of the days it is, or NO_MEMORY."""
    cdef int64_t day = day_at(found, time)
    cdef size_t slot
    if found.count == found.room and not grow(found):
        return NO_MEMORY
    slot = slot_of(found, day)
    if not found.slots[slot]:
        found.days[found.count] = day
        found.counts[found.count] = 0
        found.count += 1
        found.slots[slot] = <uint32_t> found.count
    found.counts[found.slots[slot] - 1] += 1
    return found.slots[slot] - 1


cdef int begin(Days* found, zero_ms, floor_day) except -1:
    memset(found, 0, sizeof(Days))
    found.zero = check_int(zero_ms, -DAY_MS, DAY_MS, "zero_ms")
    found.floor = (
        INT64_MIN if floor_day is None else check_int(floor_day, INT64_MIN, INT64_MAX, "floor_day")
    )
    return 0


cdef void free_days(Days* found) noexcept:
    free(found.days)
    free(found.counts)
    free(found.slots)


def split_days(ScanRun run not None, zero_ms, floor_day) -> dict[int, ScanRun]:
    """The scans of each civil day of a run in memory, days ascending.

    zero_ms: the first instant of day 0, not further than a day from 1970 UTC. floor_day: what is
    earlier counts as this one, None for no such day. Raises ValueError, MemoryError.
    """
    cdef Days found
    cdef dict made = {}
    cdef list parts = []
    cdef uint32_t* which = NULL
    cdef Scan** into = NULL
    cdef const Scan* scans = run.run.scans
    cdef size_t count = run.run.count, i
    cdef uint32_t one
    cdef bint is_done = True
    if run.run.columns is not NULL:
        raise ValueError("the run lies in a file")
    begin(&found, zero_ms, floor_day)
    try:
        which = <uint32_t*> room_for(count, sizeof(uint32_t))
        with nogil:
            for i in range(count):
                which[i] = note_day(&found, scans[i].time)
                if which[i] == NO_MEMORY:
                    is_done = False
                    break
        if not is_done:
            raise MemoryError
        into = <Scan**> room_for(found.count, sizeof(Scan*))
        for i in range(found.count):
            part = empty_run(found.counts[i])
            into[i] = (<ScanRun> part).run.scans
            parts.append(part)
        with nogil:
            for i in range(count):
                one = which[i]
                into[one][0] = scans[i]
                into[one] += 1
        for i in range(found.count):
            part = parts[i]
            (<ScanRun> part).run.longest_stay = run.run.longest_stay
            finish_run(&(<ScanRun> part).run, found.counts[i])
            made[found.days[i]] = part
        return dict(sorted(made.items()))
    finally:
        free_days(&found)
        free(which)
        free(into)


def count_days(VisitTable table not None, epoch, zero_ms, floor_day) -> dict[int, int]:
    """How many visits that count in an epoch begin on each civil day, see `split_days`."""
    cdef uint32_t when = <uint32_t> check_int(epoch, 0, UINT32_MAX, "epoch")
    cdef const Table* visits = &table.table
    cdef Days found
    cdef size_t i
    cdef bint is_done = True
    begin(&found, zero_ms, floor_day)
    try:
        with nogil:
            for i in range(visits.count):
                if ended_at(visits, i) > when and (
                    note_day(&found, start_at(visits, i)) == NO_MEMORY
                ):
                    is_done = False
                    break
        if not is_done:
            raise MemoryError
        return {found.days[i]: found.counts[i] for i in range(found.count)}
    finally:
        free_days(&found)
