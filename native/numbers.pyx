"""Persons as dense numbers: a person key of 16 bytes in, a u32 out, and rows made scans with it.

A number is given once; who is dropped leaves a hole, and gets another number on coming back. Keys
are pseudonyms that nobody outside can choose, so their own bytes are their hash.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, INT64_MIN, UINT32_MAX
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from native.checks cimport check_int
from native.columns cimport (
    OF_SCANS, OF_WHOM, ONE_SCAN, SCAN_WORDS, Columns, open_scan_person, open_word,
)
from native.rows cimport Row
from native.scans cimport TIME_LIMIT, Scan, ScanRun, room_for
from native.stream cimport open_run

cdef extern from "machine.h":
    uint64_t load_u64(const uint8_t* at) noexcept nogil

cdef extern from *:
    """
    #define SPREAD UINT64_C(0x9E3779B97F4A7C15)
    #define FOLD UINT64_C(0xD6E8FEB86659FD93)
    #define prefetch(at) __builtin_prefetch(at)
    """
    const uint64_t SPREAD
    const uint64_t FOLD
    void prefetch(const void* at) noexcept nogil

cdef enum:
    ROOM_FIRST = 1 << 10
    KEY_SIZE = 16
    READING = 4                # engine.scans.rows.Kind
    ERASED = 5
    REF_ROW_BITS = 20          # engine.presence.visits
    AHEAD = 16                 # rows that are looked up before their turn


cdef inline uint64_t hash_key(const uint8_t* key) noexcept nogil:
    return (load_u64(key) ^ load_u64(key + 8) * FOLD) * SPREAD


cdef class PersonNumbers:
    """The number of every person met so far. One thread at a time, which the GIL sees to.

    `keys` and `newest` are arrays by number: 16 bytes of key; time (i64) and ref (u64) of the
    newest row, ref 0 where there is none. They are replaced when they grow: who holds an old one
    keeps what it held, and what is written behind the count it knew. Behind the last number they
    hold nothing, so that memory nobody needs yet is never touched.
    """

    def __cinit__(self):
        self.slots = <Slot*> room_for(2 * ROOM_FIRST, sizeof(Slot))
        self.mask = 2 * ROOM_FIRST - 1
        self.room = ROOM_FIRST
        self.keys = copied(bytearray(), 0, KEY_SIZE * ROOM_FIRST)
        self.newest = copied(bytearray(), 0, sizeof(Newest) * ROOM_FIRST)
        self.is_hole = <uint8_t*> room_for(ROOM_FIRST, 1)

    def __dealloc__(self):
        free(self.slots)
        free(self.is_hole)

    def __reduce__(self):
        raise TypeError("PersonNumbers cannot be pickled")

    def __len__(self) -> int:
        return self.count

    def columns(self) -> tuple[bytearray, bytearray]:
        """(keys, newest), see above. They must not be changed in size."""
        return self.keys, self.newest

    def find(self, bytes key not None) -> int:
        """The number of a key, -1 where it is not known or no key."""
        cdef Slot* slot
        if len(key) != KEY_SIZE:
            return -1
        slot = find_slot(self, <const uint8_t*> PyBytes_AS_STRING(key))
        return <int64_t> slot.taken - 1

    def number(self, rows, lsn) -> bytes:
        """Packed SCAN of packed ROW (a journal group); new persons get numbers.

        Readings and erased rows are left out.

        lsn: the group's number, 1 .. 2**44-1. A time beyond +-2**61 ms is taken for that. Raises
        ValueError for a broken size, an lsn out of range, more than 2**20 rows or 2**32-2 persons.
        """
        cdef uint64_t ref = <uint64_t> check_int(lsn, 1, (1 << 44) - 1, "lsn") << REF_ROW_BITS
        cdef Py_buffer view
        cdef bytes packed
        cdef size_t count, made = 0
        PyObject_GetBuffer(rows, &view, PyBUF_SIMPLE)
        try:
            count = <size_t> view.len // sizeof(Row)
            if count * sizeof(Row) != <size_t> view.len:
                raise ValueError("rows has a broken size")
            if count > 1 << REF_ROW_BITS:
                raise ValueError("rows are too many")
            grow(self, count)
            packed = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (count * sizeof(Scan)))
            made = number_rows(
                self, <const uint8_t*> view.buf, count, ref,
                <uint8_t*> PyBytes_AS_STRING(packed),
            )
        finally:
            PyBuffer_Release(&view)
        return packed if made == count else packed[:made * sizeof(Scan)]

    def note_newest(self, ScanRun run not None, first, stop) -> None:
        """Takes the scans [first, stop) of a run into `newest`, as far as there are so many.

        Of a run in columns these are its rows, then its stored scans. Raises ValueError for a
        person whose number was never given.
        """
        cdef size_t low = <size_t> check_int(first, 0, INT64_MAX, "first")
        cdef size_t high = <size_t> check_int(stop, 0, INT64_MAX, "stop")
        cdef const Scan* scan
        cdef size_t i
        if run.run.columns is not NULL:
            note_columns(self, run.run.columns, low, high)
            return
        high = min(high, run.run.count)
        if run.run.count and run.run.scans[run.run.count - 1].person >= self.count:
            raise ValueError("a person has no number")
        for i in range(low, high):
            scan = &run.run.scans[i]
            note(self, scan.person, scan.time, scan.ref)

    def forget_before(self, from_ms, kept) -> bytes:
        """Drops every person whose newest row is older; packed u32 of their numbers, ascending.

        kept: packed u32 of persons that have scans which are not noted yet. Who holds the columns
        keeps what they were. Raises ValueError for a broken size.
        """
        cdef int64_t low = check_int(from_ms, INT64_MIN, INT64_MAX, "from_ms")
        cdef bytearray newest = copied(
            self.newest, sizeof(Newest) * <size_t> self.count, sizeof(Newest) * self.room
        )
        cdef bytearray keys = copied(
            self.keys, KEY_SIZE * <size_t> self.count, KEY_SIZE * self.room
        )
        cdef Newest* known = <Newest*> PyByteArray_AS_STRING(newest)
        cdef set spared = set(memoryview(kept).cast("B").cast("I"))
        cdef bytearray dropped = bytearray()
        cdef uint32_t number
        for number in range(self.count):
            if known[number].ref and known[number].time < low and number not in spared:
                known[number] = Newest(0, 0)
                # Its slot stays, and is passed by.
                memset(PyByteArray_AS_STRING(keys) + KEY_SIZE * <size_t> number, 0, KEY_SIZE)
                self.is_hole[number] = 1
                dropped += number.to_bytes(4, "little")
        self.newest, self.keys = newest, keys
        return bytes(dropped)

    def holes(self) -> bytes:
        """A byte a number, 1 where a person was dropped."""
        return PyBytes_FromStringAndSize(<char*> self.is_hole, self.count)

    def load(self, bytes keys not None, bytes holes not None) -> None:
        """Gives the next numbers to these keys of 16 bytes, none of which is known.

        holes: a byte a key, 1 for numbers that nobody has. Raises ValueError for a broken size,
        MemoryError.
        """
        cdef size_t count = <size_t> len(holes), _i
        if count * KEY_SIZE != <size_t> len(keys):
            raise ValueError("keys has a broken size")
        grow(self, count)
        memcpy(
            PyByteArray_AS_STRING(self.keys) + KEY_SIZE * <size_t> self.count,
            PyBytes_AS_STRING(keys), count * KEY_SIZE,
        )
        memset(
            PyByteArray_AS_STRING(self.newest) + sizeof(Newest) * <size_t> self.count,
            0, sizeof(Newest) * count,
        )
        memcpy(self.is_hole + self.count, PyBytes_AS_STRING(holes), count)
        for _i in range(count):
            self.count += 1
            if not self.is_hole[self.count - 1]:
                put_slot(self, self.count - 1)


cdef bytearray copied(bytearray old, size_t used, size_t room):
    """A larger array with the first `used` bytes of an old one, and behind them anything."""
    cdef bytearray made = PyByteArray_FromStringAndSize(NULL, <Py_ssize_t> room)
    memcpy(PyByteArray_AS_STRING(made), PyByteArray_AS_STRING(old), used)
    return made


cdef void put_slot(PersonNumbers numbers, uint32_t number) noexcept:
    """Where the number's key will be found; there is a free slot and the key is not known."""
    cdef const uint8_t* key = (
        <const uint8_t*> PyByteArray_AS_STRING(numbers.keys) + KEY_SIZE * <size_t> number
    )
    cdef uint64_t hashed = hash_key(key)
    cdef size_t at = hashed >> 32 & numbers.mask
    while numbers.slots[at].taken:
        at = (at + 1) & numbers.mask
    numbers.slots[at] = Slot(number + 1, <uint32_t> hashed)


cdef inline void note(PersonNumbers numbers, uint32_t person, int64_t time, uint64_t ref) noexcept:
    cdef Newest* known = <Newest*> PyByteArray_AS_STRING(numbers.newest) + person
    if known.ref == 0 or time > known.time or (time == known.time and ref > known.ref):
        known.time = time
        known.ref = ref


cdef int note_columns(
    PersonNumbers numbers, const Columns* columns, size_t low, size_t high
) except -1:
    cdef size_t rows = columns.head.count, total = rows + columns.head.scan_count, i, w
    cdef uint32_t persons[AHEAD]
    cdef uint64_t whom[AHEAD]
    cdef uint32_t words[4]
    cdef uint32_t person
    cdef int64_t time
    cdef uint64_t ref
    cdef size_t at, stop
    at = low
    high = min(high, total)
    while at < high:
        # A few at once: their persons lie scattered.
        stop = min(at + AHEAD, high)
        if at < rows:
            open_run(
                columns.key, <uint64_t> OF_WHOM << 56 | at, columns.whom + at, whom,
                min(stop, rows) - at,
            )
        for i in range(at, stop):
            person = (
                <uint32_t> whom[i - at] if i < rows else open_scan_person(columns, i - rows)
            )
            if person >= numbers.count:
                raise ValueError("a person has no number")
            persons[i - at] = person
            prefetch(<Newest*> PyByteArray_AS_STRING(numbers.newest) + person)
        for i in range(at, stop):
            if i < rows:
                if not columns.kinds[i] & ONE_SCAN:
                    continue
                time = columns.head.base + columns.starts[i]
                ref = columns.head.ref_base + (
                    <uint64_t> columns.ref_highs[i] << 32 | columns.ref_lows[i]
                )
            else:
                for w in range(<size_t> 4):
                    words[w] = open_word(
                        columns, OF_SCANS, columns.scans, (i - rows) * SCAN_WORDS + w
                    )
                memcpy(&time, &words[0], 8)
                memcpy(&ref, &words[2], 8)
            note(numbers, persons[i - at], time, ref)
        at = stop
    return 0


cdef inline Slot* find_slot(PersonNumbers numbers, const uint8_t* key) noexcept:
    """The slot of a key, or the free one where it belongs."""
    cdef uint64_t hashed = hash_key(key)
    cdef size_t at = hashed >> 32 & numbers.mask
    cdef const uint8_t* keys = <const uint8_t*> PyByteArray_AS_STRING(numbers.keys)
    cdef Slot* slot = &numbers.slots[at]
    while slot.taken:
        if slot.tag == <uint32_t> hashed:
            if (
                memcmp(keys + KEY_SIZE * <size_t> (slot.taken - 1), key, KEY_SIZE) == 0
                and not numbers.is_hole[slot.taken - 1]
            ):
                break
        at = (at + 1) & numbers.mask
        slot = &numbers.slots[at]
    return slot


cdef size_t number_rows(
    PersonNumbers numbers, const uint8_t* rows, size_t count, uint64_t ref, uint8_t* packed
) noexcept:
    """Write the scans; how many. There must be room for `count` new persons."""
    cdef uint8_t* keys = <uint8_t*> PyByteArray_AS_STRING(numbers.keys)
    cdef Newest* newest = <Newest*> PyByteArray_AS_STRING(numbers.newest)
    cdef Row row
    cdef Scan scan
    cdef Slot* slot
    cdef size_t i, made = 0
    for i in range(count):
        if i + AHEAD < count:
            prefetch(
                &numbers.slots[hash_key(rows + sizeof(Row) * (i + AHEAD)) >> 32 & numbers.mask]
            )
        memcpy(&row, rows + sizeof(Row) * i, sizeof(Row))
        if row.kind == READING or row.kind == ERASED:
            continue
        slot = find_slot(numbers, row.person)
        if not slot.taken:
            memcpy(keys + KEY_SIZE * <size_t> numbers.count, row.person, KEY_SIZE)
            newest[numbers.count] = Newest(0, 0)
            numbers.count += 1
            slot.taken = numbers.count
            slot.tag = <uint32_t> hash_key(row.person)
        scan.time = max(-TIME_LIMIT, min(row.time_ms, TIME_LIMIT))
        scan.ref = ref + i
        scan.person = slot.taken - 1
        scan.place = row.place
        scan.vehicle = row.vehicle
        scan.stay = row.stay_ms
        scan.lane = row.lane
        scan.direction = row.direction
        scan.kind = row.kind
        memcpy(packed + sizeof(Scan) * made, &scan, sizeof(Scan))
        made += 1
    return made


cdef int grow(PersonNumbers numbers, size_t more) except -1:
    """Make room for so many new persons."""
    cdef size_t needed = numbers.count + more, room = numbers.room
    cdef size_t slots = numbers.mask + 1, i, at, mask
    cdef bytearray keys, newest
    cdef uint8_t* is_hole
    cdef Slot* grown
    cdef const uint8_t* key
    cdef uint64_t hashed
    if needed >= UINT32_MAX:
        raise ValueError("persons are too many")
    if needed > room:
        while room < needed:
            room *= 2
        keys = copied(numbers.keys, KEY_SIZE * <size_t> numbers.count, KEY_SIZE * room)
        newest = copied(
            numbers.newest, sizeof(Newest) * <size_t> numbers.count, sizeof(Newest) * room
        )
        is_hole = <uint8_t*> room_for(room, 1)
        memcpy(is_hole, numbers.is_hole, numbers.count)
        free(numbers.is_hole)
        numbers.is_hole = is_hole
        numbers.keys, numbers.newest, numbers.room = keys, newest, room
    if 3 * needed > 2 * slots:
        while 3 * needed > 2 * slots:
            slots *= 2
        grown = <Slot*> room_for(slots, sizeof(Slot))
        mask = slots - 1
        for i in range(numbers.count):
            if numbers.is_hole[i]:
                continue
            key = <const uint8_t*> PyByteArray_AS_STRING(numbers.keys) + KEY_SIZE * i
            hashed = hash_key(key)
            at = hashed >> 32 & mask
            while grown[at].taken:
                at = (at + 1) & mask
            grown[at].taken = <uint32_t> (i + 1)
            grown[at].tag = <uint32_t> hashed
        free(numbers.slots)
        numbers.slots = grown
        numbers.mask = mask
    return 0
