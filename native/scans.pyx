"""Scans by person: distinct ones in runs that are sorted once and merged (rules D and O).

A run is what came together, or what several such runs are together; it never changes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, INT64_MIN, UINT32_MAX
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from native.checks cimport check_int
from native.columns cimport (
    NO_PERSON, OF_SCANS, ONE_SCAN, SCAN_KIND_BITS, SCAN_KIND_SHIFT, SCAN_WORDS, find_door_scan,
    find_door_seat, open_scan_person, open_seat, open_visit, open_whom, open_word, place_of,
)

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
        if self.run.columns is NULL:
            free(self.run.scans)
            free(self.run.doors)

    def __reduce__(self):
        raise TypeError("a ScanRun cannot be pickled")

    def __len__(self) -> int:
        return self.run.count

    def first_ms(self) -> int:
        """The time of the earliest, 2**63-1 without any."""
        return self.run.first_time

    def between(self, from_ms, to_ms) -> bytes:
        """Packed SCAN of the scans within [from_ms, to_ms), in the order of the run."""
        cdef int64_t low = check_int(from_ms, INT64_MIN, INT64_MAX, "from_ms")
        cdef int64_t high = check_int(to_ms, INT64_MIN, INT64_MAX, "to_ms")
        cdef const Run* run = &self.run
        cdef size_t count
        cdef bytes found
        cdef uint8_t* packed
        if run.last_time < low or run.first_time >= high:
            return b""
        with nogil:
            count = copy_scans(run, 0, NO_PERSON, low, high, NULL)
        if count == <size_t> -1:
            raise MemoryError
        found = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (count * sizeof(Scan)))
        packed = <uint8_t*> PyBytes_AS_STRING(found)
        with nogil:
            count = copy_scans(run, 0, NO_PERSON, low, high, packed)
        if count == <size_t> -1:
            raise MemoryError
        return found

    def of_person(self, person) -> bytes:
        """Packed SCAN of one person, in the order of the run."""
        cdef uint32_t number = <uint32_t> check_int(person, 0, UINT32_MAX, "person")
        cdef const Run* run = &self.run
        cdef Scan* loose = <Scan*> room_for(loose_count(run, number), sizeof(Scan))
        cdef size_t count = gather_scans(run, number, INT64_MIN, INT64_MAX, loose)
        try:
            return PyBytes_FromStringAndSize(<char*> loose, <Py_ssize_t> (count * sizeof(Scan)))
        finally:
            free(loose)

    def of_persons(self, first, stop, from_ms, to_ms) -> ScanRun:
        """The scans of persons [first, stop) within [from_ms, to_ms)."""
        cdef uint64_t one = <uint64_t> check_int(first, 0, INT64_MAX, "first")
        cdef uint64_t other = <uint64_t> check_int(stop, 0, INT64_MAX, "stop")
        cdef int64_t low = check_int(from_ms, INT64_MIN, INT64_MAX, "from_ms")
        cdef int64_t high = check_int(to_ms, INT64_MIN, INT64_MAX, "to_ms")
        cdef const Run* run = &self.run
        cdef ScanRun kept
        cdef uint8_t* packed
        cdef size_t count
        if run.last_time < low or run.first_time >= high:
            return ScanRun(())
        with nogil:
            count = copy_scans(run, one, other, low, high, NULL)
        if count == <size_t> -1:
            raise MemoryError
        kept = empty_run(count)
        packed = <uint8_t*> kept.run.scans
        with nogil:
            count = copy_scans(run, one, other, low, high, packed)
        if count == <size_t> -1:
            raise MemoryError
        kept.run.longest_stay = self.run.longest_stay
        finish_run(&kept.run, count)
        return kept

    def since(self, from_ms) -> ScanRun:
        """The scans at `from_ms` and later."""
        return self.of_persons(0, INT64_MAX, from_ms, INT64_MAX)


cdef size_t copy_scans(
    const Run* run, uint64_t first, uint64_t stop, int64_t low, int64_t high, uint8_t* found
) noexcept nogil:
    """How many scans of persons [first, stop) lie within [low, high); copies them into `found`.

    found: NULL to count only. SIZE_MAX if memory is short.
    """
    cdef size_t made = 0, i, count, room = 0
    cdef uint64_t person = first
    cdef Scan* loose = NULL
    cdef Scan* grown
    if run.columns is NULL:
        for i in range(seek(run, first), seek(run, stop)):
            if low <= run.scans[i].time < high:
                if found is not NULL:
                    memcpy(found + made * sizeof(Scan), &run.scans[i], sizeof(Scan))
                made += 1
        return made
    while True:
        person = next_person(run, person)
        if person >= stop or person == NO_PERSON:
            free(loose)
            return made
        count = loose_count(run, person)
        if count > room:
            room = 2 * count
            grown = <Scan*> realloc(loose, room * sizeof(Scan))
            if grown is NULL:
                free(loose)
                return <size_t> -1
            loose = grown
        count = gather_scans(run, person, low, high, loose)
        if found is not NULL:
            memcpy(found + made * sizeof(Scan), loose, count * sizeof(Scan))
        made += count
        person += 1


# ---- a person at a time, of any run -------------------------------------------------------------

cdef uint64_t next_person(const Run* run, uint64_t person) noexcept nogil:
    """The first person from that one on who has a scan, or may have; NO_PERSON where none is."""
    cdef uint64_t found = NO_PERSON
    cdef size_t i
    if run.columns is NULL:
        i = seek(run, person)
        return run.scans[i].person if i < run.count else NO_PERSON
    i = find_door_seat(run.columns, person)
    if i < run.columns.head.count:
        found = <uint32_t> open_whom(run.columns, open_seat(run.columns, i))
    i = find_door_scan(run.columns, person)
    if i < run.columns.head.scan_count:
        found = min(found, <uint64_t> open_scan_person(run.columns, i))
    return found


cdef size_t loose_count(const Run* run, uint64_t person) noexcept nogil:
    """How many scans of a person `gather_scans` may find at most."""
    if run.columns is NULL:
        return seek(run, person + 1) - seek(run, person)
    return (
        find_door_seat(run.columns, person + 1) - find_door_seat(run.columns, person)
        + find_door_scan(run.columns, person + 1) - find_door_scan(run.columns, person)
    )


cdef Scan scan_of_row(const Columns* columns, size_t row) noexcept nogil:
    cdef Visit visit = open_visit(columns, row, place_of(columns, row))
    return scan_of(&visit, columns.kinds[row] >> SCAN_KIND_SHIFT & SCAN_KIND_BITS)


cdef Scan stored_scan(const Columns* columns, size_t i) noexcept nogil:
    cdef uint32_t words[SCAN_WORDS]
    cdef Scan scan
    cdef size_t w
    for w in range(<size_t> SCAN_WORDS):
        words[w] = open_word(columns, OF_SCANS, columns.scans, i * SCAN_WORDS + w)
    memcpy(&scan, words, sizeof(Scan))
    return scan


cdef size_t gather_scans(
    const Run* run, uint64_t person, int64_t low, int64_t high, Scan* into
) noexcept nogil:
    """The scans of a person within [low, high), sorted; how many. See loose_count for the room."""
    cdef size_t i, stop, row, made = 0
    if run.columns is NULL:
        for i in range(seek(run, person), seek(run, person + 1)):
            if low <= run.scans[i].time < high:
                into[made] = run.scans[i]
                made += 1
        return made
    # Of a visit that has ended the scan is still one.
    stop = find_door_seat(run.columns, person + 1)
    for i in range(find_door_seat(run.columns, person), stop):
        row = open_seat(run.columns, i)
        if run.columns.kinds[row] & ONE_SCAN:
            into[made] = scan_of_row(run.columns, row)
            made += low <= into[made].time < high
    stop = find_door_scan(run.columns, person + 1)
    for i in range(find_door_scan(run.columns, person), stop):
        into[made] = stored_scan(run.columns, i)
        made += low <= into[made].time < high
    sort_scans(into, made)
    return made


def run_of(DayColumns day not None) -> ScanRun:
    """The scans of a day that lies in a file."""
    cdef ScanRun made = ScanRun(())
    free(made.run.scans)
    free(made.run.doors)
    memset(&made.run, 0, sizeof(Run))
    made.day = day
    made.run.columns = &day.columns
    made.run.count = day.columns.head.total_scans
    made.run.first_time = day.columns.head.first_scan
    made.run.last_time = day.columns.head.last_scan
    made.run.longest_stay = day.columns.head.longest_stay
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
    run.first_time = INT64_MAX
    run.last_time = INT64_MIN
    for i in range(run.count):
        run.first_time = min(run.first_time, run.scans[i].time)
        run.last_time = max(run.last_time, run.scans[i].time)
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


cdef ScanRun loose_run(object run):
    """The same scans in memory."""
    cdef ScanRun given = <ScanRun?> run
    return given if given.run.columns is NULL else given.of_persons(
        0, INT64_MAX, INT64_MIN, INT64_MAX
    )


def merge_runs(runs) -> ScanRun:
    """All scans of at most 1024 runs in one, copies joined. Raises ValueError, MemoryError."""
    cdef list held = [loose_run(run) for run in runs]
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
