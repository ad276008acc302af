"""The seen table: where was this person a moment ago? Exact keys, whole batches.

Policy (which spans, what an answer means for the light) is engine.scans.dedup's; the table's layout
and its invariants stand in src/seen.h.
"""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.pythread cimport (
    NOWAIT_LOCK,
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport INT64_MAX, INT64_MIN, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from native.checks cimport check_int
from native.cpu cimport level

cdef extern from "seen.h":
    enum:
        SEEN_GROUP
        SEEN_PERSON_MAX
        SEEN_HERE
        SEEN_LANES
        SEEN_ROAD
    ctypedef struct seen_slot:
        pass
    ctypedef struct seen_table:
        size_t group_count
        size_t live
        size_t used
        uint64_t hash_key[2]
    ctypedef struct seen_road:
        uint32_t low
        uint32_t high
        uint64_t least_ms
    ctypedef struct seen_rules:
        uint64_t window_ms
        uint64_t lanes_ms
        uint64_t road_max_ms
        const seen_road* roads
        size_t road_count
    ctypedef struct seen_batch:
        const uint8_t* persons
        const uint8_t* places
        const uint8_t* lanes
        const uint8_t* times_ms
        size_t count
        const seen_rules* rules
        uint8_t* answers
    ctypedef struct seen_kernel:
        void (*see)(seen_table* table, const seen_batch* batch) noexcept nogil
        void (*move)(seen_table* target, const seen_table* source) noexcept nogil
    const seen_kernel* seen_kernel_at(int level) noexcept nogil
    bint seen_open(seen_table* table, size_t groups, const uint64_t* key) noexcept nogil
    void seen_close(seen_table* table) noexcept nogil
    size_t seen_expire(seen_table* table, int64_t before_ms) noexcept nogil
    size_t seen_forget(seen_table* table, const uint64_t* person) noexcept nogil
    uint64_t seen_hash(const uint64_t* key, const uint64_t* person) noexcept nogil

cdef enum:
    CAPACITY_MAX = 1 << 28       # what can be asked for: 17 GB
    ROADS_MAX = 1 << 16          # 362 places, each with a road to each
    GROUP_COUNT_MAX = 1 << 25    # what it can grow to: 2**30 slots, 35 GB
    FULL_SLOTS = 28              # of the 32 of a group, on average: 7/8
    NOGIL_COUNT = 256            # some 10 us of look-ups: above that the GIL is worth releasing
    NOGIL_GROUPS = 64            # as much for walking all slots

HERE = SEEN_HERE
LANES = SEEN_LANES
ROAD = SEEN_ROAD
PERSON_MAX = SEEN_PERSON_MAX


cdef size_t groups_for(size_t entries) noexcept nogil:
    """Groups, a power of two, that hold `entries` at 7/8 full; 0 where that is too many."""
    cdef size_t groups = 1
    while groups * FULL_SLOTS < entries:
        groups *= 2
        if groups > GROUP_COUNT_MAX:
            return 0
    return groups


cdef bint rebuild(seen_table* table, size_t groups) noexcept nogil:
    """Move all entries into `groups` groups; False, and nothing changed, if memory is short."""
    cdef seen_table moved
    if not seen_open(&moved, groups, table.hash_key):
        return False
    seen_kernel_at(level()).move(&moved, table)
    seen_close(table)
    table[0] = moved
    return True


cdef bint has_room(const seen_table* table, size_t count) noexcept nogil:
    return table.used + count <= table.group_count * FULL_SLOTS


cdef bint reserve(seen_table* table, size_t count) noexcept nogil:
    """Make room for `count` more entries; False if memory is short."""
    cdef size_t groups
    if has_room(table, count):
        return True
    groups = groups_for(table.live + count)
    # Either the table has to double, or only removed entries fill it and the same size will do.
    return groups != 0 and rebuild(table, max(groups, table.group_count))


cdef void tidy(seen_table* table, size_t groups_least) noexcept nogil:
    """After an expiry: give memory back after a rush, and clear the marks of removed entries.

    Short memory is no fault here: the table is right as it stands.
    """
    cdef size_t groups = groups_for(table.live * 4)
    if groups == 0 or groups > table.group_count:
        groups = table.group_count
    groups = max(groups, groups_least)
    if groups * 2 <= table.group_count or (table.used - table.live) * 8 > table.used:
        rebuild(table, groups)


cdef class SeenRules:
    """What is near in time; checked once, immutable.

    window_ms: sightings at one place at most so far apart are HERE. lanes_ms: in two lanes of one
    place less than that apart, LANES. roads: (place, other place, least_ms): at the two less than
    least_ms apart, ROAD, whichever came first. Places without a road are never too far apart.
    Raises ValueError for spans outside 0 .. 2**63-1, a place that is no u32, a road from a place to
    itself, two roads between the same places, more than 2**16 of them.
    """

    cdef seen_rules rules
    cdef seen_road* roads

    def __cinit__(self, window_ms, lanes_ms=0, roads=()):
        cdef list found = []
        cdef Py_ssize_t i
        for place, other, least_ms in roads:
            one = check_int(place, 0, UINT32_MAX, "place")
            two = check_int(other, 0, UINT32_MAX, "place")
            least = check_int(least_ms, 0, INT64_MAX, "least_ms")
            found.append((min(one, two), max(one, two), least))
        found.sort()
        if len(found) > ROADS_MAX:
            raise ValueError("too many roads")
        for i in range(len(found)):
            if found[i][0] == found[i][1] or (i and found[i][:2] == found[i - 1][:2]):
                raise ValueError("a road leads to its own place, or two lead the same way")
        self.rules.window_ms = <uint64_t> check_int(window_ms, 0, INT64_MAX, "window_ms")
        self.rules.lanes_ms = <uint64_t> check_int(lanes_ms, 0, INT64_MAX, "lanes_ms")
        self.roads = <seen_road*> PyMem_Malloc(max(1, len(found)) * sizeof(seen_road))
        if self.roads is NULL:
            raise MemoryError
        for i in range(len(found)):
            self.roads[i].low, self.roads[i].high, self.roads[i].least_ms = found[i]
            self.rules.road_max_ms = max(self.rules.road_max_ms, self.roads[i].least_ms)
        self.rules.roads = self.roads
        self.rules.road_count = len(found)

    def __dealloc__(self):
        PyMem_Free(self.roads)

    def __reduce__(self):
        raise TypeError("SeenRules cannot be pickled")


cdef class SeenTable:
    """Who was sighted where and when: the newest PERSON_MAX sightings of each person.

    capacity: sightings it holds before it grows; it doubles then, and shrinks again in `expire`.
    hash_key: 16 bytes, for tests that need collisions; otherwise random.
    Safe to share between threads: one call at a time works, the others wait without the GIL.
    Raises ValueError for a capacity outside 1 .. 2**28, MemoryError.
    """

    cdef seen_table table
    cdef size_t groups_least
    cdef PyThread_type_lock lock

    def __cinit__(self, capacity=1 << 16, *, hash_key=None):
        cdef uint64_t key[2]
        cdef bytes secret
        cdef size_t pairs
        self.lock = PyThread_allocate_lock()
        if self.lock is NULL:
            raise MemoryError
        pairs = <size_t> check_int(capacity, 1, CAPACITY_MAX, "capacity")
        secret = os.urandom(16) if hash_key is None else bytes(hash_key)
        if len(secret) != 16:
            raise ValueError("hash_key is not 16 bytes")
        memcpy(key, PyBytes_AS_STRING(secret), 16)
        self.groups_least = groups_for(pairs)
        if not seen_open(&self.table, self.groups_least, key):
            raise MemoryError

    def __dealloc__(self):
        seen_close(&self.table)
        if self.lock is not NULL:
            PyThread_free_lock(self.lock)

    def __reduce__(self):
        raise TypeError("a SeenTable cannot be pickled")

    def __len__(self) -> int:
        return self.table.live

    def capacity(self) -> int:
        """Sightings that fit before the table grows."""
        return self.table.group_count * FULL_SLOTS

    def memory_bytes(self) -> int:
        """Bytes the table occupies."""
        cdef size_t slots = self.table.group_count * SEEN_GROUP
        return sizeof(seen_table) + slots * (sizeof(seen_slot) + 1)

    def see(self, persons, places, lanes, times_ms, SeenRules rules not None) -> bytes:
        """Compare each sighting of a batch with those before it, and enter it; a byte of bits each.

        persons: n keys of 16 bytes. places: n u32. lanes: n u16. times_ms: n i64, ms since 1970
        UTC; all packed, little-endian. A sighting is compared with every other one of its person
        that came before, earlier or later in time, but not with itself when it comes again.
        Raises ValueError when the sizes disagree, MemoryError when the table cannot grow; nothing
        is entered then.
        """
        cdef Py_buffer views[4]
        cdef int held = 0
        cdef seen_batch batch
        cdef bytes answers
        batch.rules = &rules.rules
        try:
            for column in (persons, places, lanes, times_ms):
                PyObject_GetBuffer(column, &views[held], PyBUF_SIMPLE)
                held += 1
            batch.count = views[1].len // 4
            if (
                views[1].len != <Py_ssize_t> batch.count * 4
                or views[0].len != <Py_ssize_t> batch.count * 16
                or views[2].len != <Py_ssize_t> batch.count * 2
                or views[3].len != <Py_ssize_t> batch.count * 8
            ):
                raise ValueError("persons, places, lanes and times_ms differ in length")
            answers = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> batch.count)
            batch.persons = <const uint8_t*> views[0].buf
            batch.places = <const uint8_t*> views[1].buf
            batch.lanes = <const uint8_t*> views[2].buf
            batch.times_ms = <const uint8_t*> views[3].buf
            batch.answers = <uint8_t*> PyBytes_AS_STRING(answers)
            if not self.run(&batch):
                raise MemoryError("the seen table cannot grow")
        finally:
            while held > 0:
                held -= 1
                PyBuffer_Release(&views[held])
        return answers

    def expire(self, before_ms) -> int:
        """Remove every sighting before before_ms (ms since 1970 UTC); how many.

        Walks all slots. Raises ValueError when before_ms does not fit i64.
        """
        cdef int64_t before = check_int(before_ms, INT64_MIN, INT64_MAX, "before_ms")
        cdef size_t removed
        self.acquire()
        if self.table.group_count > NOGIL_GROUPS:
            with nogil:
                removed = seen_expire(&self.table, before)
                tidy(&self.table, self.groups_least)
        else:
            removed = seen_expire(&self.table, before)
            tidy(&self.table, self.groups_least)
        PyThread_release_lock(self.lock)
        return removed

    def forget(self, bytes person not None) -> int:
        """Remove every sighting of a person (16 bytes); how many. Walks all slots.

        Raises ValueError for a key of another size.
        """
        cdef uint64_t words[2]
        cdef size_t removed
        if len(person) != 16:
            raise ValueError("person is 16 bytes")
        memcpy(words, PyBytes_AS_STRING(person), 16)
        self.acquire()
        with nogil:
            removed = seen_forget(&self.table, words)
        PyThread_release_lock(self.lock)
        return removed

    # Between acquire and release no Python code may run (not even an allocation that could start
    # the collector): it could come back to this table and wait for itself.

    cdef void acquire(self) noexcept:
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            with nogil:
                PyThread_acquire_lock(self.lock, WAIT_LOCK)

    cdef bint run(self, const seen_batch* batch) noexcept:
        """Reserve, then look up; False if memory is short, before anything is entered."""
        cdef bint is_done
        self.acquire()
        if batch.count >= NOGIL_COUNT or not has_room(&self.table, batch.count):
            with nogil:
                is_done = look_up(&self.table, batch)
        else:
            is_done = look_up(&self.table, batch)
        PyThread_release_lock(self.lock)
        return is_done


cdef bint look_up(seen_table* table, const seen_batch* batch) noexcept nogil:
    if not reserve(table, batch.count):
        return False
    seen_kernel_at(level()).see(table, batch)
    return True


def _hash(hash_key: bytes, person: bytes) -> int:
    """The table's hash of a person; for tests."""
    cdef uint64_t key[2]
    cdef uint64_t words[2]
    if len(hash_key) != 16 or len(person) != 16:
        raise ValueError("hash_key and person are 16 bytes")
    memcpy(key, <const char*> hash_key, 16)
    memcpy(words, <const char*> person, 16)
    return seen_hash(key, words)
