"""Scans by person: distinct ones in runs that are sorted once and merged (rules D and O).

A run is what came together, or what several such runs are together; it never changes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, INT64_MIN, UINT32_MAX
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from native.checks cimport check_int

cdef extern from "stdlib.h":
    void qsort(
        void* items, size_t count, size_t size,
        int (*compare)(const void* a, const void* b) noexcept nogil,
    ) noexcept nogil

cdef enum:
    SHORT = 64                 # up to so many are sorted by insertion: nearly sorted they come


cdef int compare_scans(const void* a, const void* b) noexcept nogil:
    return compare(<const Scan*> a, <const Scan*> b)


cdef void sort_scans(Scan* scans, size_t count) noexcept nogil:
    """The scans of one person by `compare`."""
    cdef Scan moved
    cdef size_t i, at
    if count > SHORT:
        qsort(scans, count, sizeof(Scan), compare_scans)
        return
    for i in range(1, count):
        if compare(&scans[i - 1], &scans[i]) > 0:
            moved = scans[i]
            at = i
            while at > 0 and compare(&scans[at - 1], &moved) > 0:
                scans[at] = scans[at - 1]
                at -= 1
            scans[at] = moved


cdef size_t join_copies(Scan* scans, size_t count) noexcept nogil:
    """Rule D over sorted scans, in place; how many are left."""
    cdef size_t i, kept = 0
    for i in range(1, count):
        if compare(&scans[kept], &scans[i]) == 0:
            absorb(&scans[kept], &scans[i])
        else:
            kept += 1
            scans[kept] = scans[i]
    return kept + 1 if count else 0


cdef size_t merge_scans(
    const Scan** heads, const Scan** stops, size_t count, Scan* into
) noexcept nogil:
    """Merge sorted runs [head, stop) and join copies; how many scans. Moves the heads."""
    cdef size_t i, least, made = 0
    cdef int order
    while True:
        least = count
        for i in range(count):
            if heads[i] < stops[i] and (least == count or compare(heads[i], heads[least]) < 0):
                least = i
        if least == count:
            return made
        order = compare(&into[made - 1], heads[least]) if made else -1
        if order == 0:
            absorb(&into[made - 1], heads[least])
        else:
            into[made] = heads[least][0]
            made += 1
        heads[least] += 1


cdef class ScanRun:
    """Distinct scans sorted by person, time, place and rule O. Immutable; any thread may read it.

    chunks: buffers of packed SCAN, in any order. Raises ValueError for a broken size or a time
    beyond +-2**61 ms; MemoryError.
    """

    def __cinit__(self, chunks):
        cdef list held = [bytes(memoryview(chunk)) for chunk in chunks]
        cdef size_t count = 0, at = 0
        cdef bytes packed
        cdef Scan* raw
        cdef Scan* scans
        cdef bint is_done
        for packed in held:
            if len(packed) % sizeof(Scan):
                raise ValueError("scans has a broken size")
            count += <size_t> len(packed) // sizeof(Scan)
        if count > UINT32_MAX:
            raise ValueError("scans are too many for one run")
        raw = <Scan*> room_for(count, sizeof(Scan))
        try:
            for packed in held:
                memcpy(raw + at, PyBytes_AS_STRING(packed), <size_t> len(packed))
                at += <size_t> len(packed) // sizeof(Scan)
            for at in range(count):
                if not -TIME_LIMIT <= raw[at].time <= TIME_LIMIT:
                    raise ValueError("a scan is out of range")
                self.run.longest_stay = max(self.run.longest_stay, raw[at].stay)
            scans = self.run.scans = <Scan*> room_for(count, sizeof(Scan))
            with nogil:
                is_done = sort_run(raw, count, scans)
                if is_done:
                    count = join_copies(scans, count)
            if not is_done:
                raise MemoryError
            self.run.count = count
            open_doors(&self.run)
        finally:
            free(raw)

    def __dealloc__(self):
        free(self.run.scans)
        free(self.run.doors)

    def __reduce__(self):
        raise TypeError("a ScanRun cannot be pickled")

    def __len__(self) -> int:
        return self.run.count

    def between(self, from_ms, to_ms) -> bytes:
        """Packed SCAN of the scans within [from_ms, to_ms), in the order of the run."""
        cdef int64_t low = check_int(from_ms, INT64_MIN, INT64_MAX, "from_ms")
        cdef int64_t high = check_int(to_ms, INT64_MIN, INT64_MAX, "to_ms")
        cdef const Scan* scans = self.run.scans
        cdef size_t total = self.run.count, count
        cdef bytes found
        cdef uint8_t* packed
        with nogil:
            count = copy_between(scans, total, low, high, NULL)
        found = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (count * sizeof(Scan)))
        packed = <uint8_t*> PyBytes_AS_STRING(found)
        with nogil:
            copy_between(scans, total, low, high, packed)
        return found

    def of_person(self, person) -> bytes:
        """Packed SCAN of one person, in the order of the run."""
        cdef uint32_t number = <uint32_t> check_int(person, 0, UINT32_MAX, "person")
        cdef size_t low = seek(&self.run, number)
        cdef size_t high = seek(&self.run, <uint64_t> number + 1)
        return PyBytes_FromStringAndSize(
            <char*> (self.run.scans + low), <Py_ssize_t> ((high - low) * sizeof(Scan))
        )

    def since(self, from_ms) -> ScanRun:
        """The scans at `from_ms` and later."""
        cdef int64_t low = check_int(from_ms, INT64_MIN, INT64_MAX, "from_ms")
        cdef ScanRun kept = empty_run(self.run.count)
        cdef const Scan* scans = self.run.scans
        cdef uint8_t* packed = <uint8_t*> kept.run.scans
        cdef size_t count = self.run.count
        with nogil:
            count = copy_between(scans, count, low, INT64_MAX, packed)
        kept.run.longest_stay = self.run.longest_stay
        finish_run(&kept.run, count)
        return kept


cdef size_t copy_between(
    const Scan* scans, size_t count, int64_t low, int64_t high, uint8_t* found
) noexcept nogil:
    """How many scans lie within [low, high); they are copied unless `found` is NULL."""
    cdef size_t i, made = 0
    for i in range(count):
        if low <= scans[i].time < high:
            if found is not NULL:
                memcpy(found + made * sizeof(Scan), &scans[i], sizeof(Scan))
            made += 1
    return made


cdef bint sort_run(const Scan* raw, size_t count, Scan* into) noexcept nogil:
    """Copy by person through their seats, then sort each person; False if memory is short."""
    cdef Seat* seats = <Seat*> malloc(2 * (count + 1) * sizeof(Seat))
    cdef Seat* by_person
    cdef uint32_t last = 0
    cdef size_t i, first = 0
    if seats is NULL:
        return False
    for i in range(count):
        seats[i].person = raw[i].person
        seats[i].at = <uint32_t> i
        last = max(last, raw[i].person)
    by_person = sort_seats(seats, seats + count, count, last)
    for i in range(count):
        into[i] = raw[by_person[i].at]
    free(seats)
    for i in range(1, count + 1):
        if i == count or into[i].person != into[first].person:
            sort_scans(into + first, i - first)
            first = i
    return True


cdef int open_doors(Run* run) except -1:
    """So many that some ten scans are behind each."""
    cdef uint32_t last = run.scans[run.count - 1].person if run.count else 0
    run.shift = 0
    while last >> run.shift > run.count // 8:
        run.shift += 1
    run.door_count = (last >> run.shift) + 1
    run.doors = <uint32_t*> room_for(run.door_count, sizeof(uint32_t))
    with nogil:
        fill_doors(run)
    return 0


cdef void fill_doors(Run* run) noexcept nogil:
    cdef size_t i, door = 0
    for i in range(run.count):
        while door <= run.scans[i].person >> run.shift:
            run.doors[door] = <uint32_t> i
            door += 1
    while door <= run.door_count:
        run.doors[door] = <uint32_t> run.count
        door += 1


cdef ScanRun empty_run(size_t room):
    """A run without scans that has room for so many; `finish_run` comes next."""
    cdef ScanRun made = ScanRun(())
    free(made.run.scans)
    free(made.run.doors)
    memset(&made.run, 0, sizeof(Run))
    made.run.scans = <Scan*> room_for(room, sizeof(Scan))
    return made


cdef int finish_run(Run* run, size_t count) except -1:
    """So many scans have been written; the room of the others is given back."""
    cdef Scan* scans = <Scan*> realloc(run.scans, (count + 1) * sizeof(Scan))
    if scans is not NULL:
        run.scans = scans
    run.count = count
    return open_doors(run)


def merge_runs(runs) -> ScanRun:
    """All scans of at most 64 runs in one, copies joined. Raises ValueError, MemoryError."""
    cdef list held = list(runs)
    cdef const Scan* heads[RUNS_MAX]
    cdef const Scan* stops[RUNS_MAX]
    cdef size_t count = len(held), total = 0, i
    cdef uint32_t longest_stay = 0
    cdef ScanRun run, merged
    cdef Scan* into
    if count > RUNS_MAX:
        raise ValueError("runs are too many")
    for i in range(count):
        run = <ScanRun?> held[i]
        heads[i] = run.run.scans
        stops[i] = run.run.scans + run.run.count
        total += run.run.count
        longest_stay = max(longest_stay, run.run.longest_stay)
    if total > UINT32_MAX:
        raise ValueError("scans are too many for one run")
    merged = empty_run(total)
    merged.run.longest_stay = longest_stay
    into = merged.run.scans
    with nogil:
        total = merge_scans(heads, stops, count, into)
    finish_run(&merged.run, total)
    return merged
