"""A day's visits and scans as columns that lie in a file; native.packing writes them.

The memory belongs to whoever gives it and stays where it is for as long as a DayColumns lives.
Only which visits have ended since is kept here.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from native.checks cimport check_int
from native.stream cimport open_run

cdef enum:
    PRESENT_BITS = 4           # for each visit at least
    OPENED_AT_ONCE = 256

COLUMNS = (
    "starts", "whom", "ref_lows", "ref_highs", "rooms", "kinds", "places", "seats", "doors",
    "scans", "scan_doors", "odds",
)


# ---- persons ------------------------------------------------------------------------------------

cdef bint make_presence(Columns* columns) noexcept nogil:
    """A bit a person, or one for several where persons are many beside the visits.

    False if memory is short.
    """
    cdef uint64_t bits = 64
    while bits < PRESENT_BITS * columns.head.count:
        bits *= 2
    columns.present_mask = bits - 1
    columns.present_bits = min(bits, columns.head.door_count << columns.head.shift)
    # Persons behind all read the word behind the last.
    columns.present = <uint64_t*> calloc(columns.present_bits // 64 + 2, sizeof(uint64_t))
    return columns.present is not NULL


cdef void note_presence(Columns* columns) noexcept nogil:
    cdef uint64_t whom[OPENED_AT_ONCE]
    cdef size_t count = columns.head.count, first = 0, some, i
    cdef uint64_t bit
    while first < count:
        some = min(count - first, <size_t> OPENED_AT_ONCE)
        open_run(columns.key, <uint64_t> OF_WHOM << 56 | first, columns.whom + first, whom, some)
        for i in range(some):
            bit = whom[i] & UINT32_MAX & columns.present_mask
            if bit < columns.present_bits:
                columns.present[bit // 64] |= <uint64_t> 1 << (bit & 63)
        first += some


# ---- odd visits ---------------------------------------------------------------------------------

cdef uint64_t rank_odds(Columns* columns) noexcept nogil:
    """Fills the ranks; how many odd visits there are."""
    cdef const uint16_t* kinds = columns.kinds
    cdef size_t count = columns.head.count, first = 0, block = 0, i
    cdef uint64_t ranked = 0
    cdef uint32_t found
    while True:
        columns.odd_ranks[block] = <uint32_t> ranked
        if first + RANKED > count:
            break
        found = 0
        for i in range(<size_t> RANKED):
            found += kinds[first + i] >> SCANS_SHIFT == 0
        ranked += found
        first += RANKED
        block += 1
    for i in range(first, count):
        ranked += kinds[i] >> SCANS_SHIFT == 0
    return ranked


cdef inline size_t rank_of(const Columns* columns, size_t row) noexcept nogil:
    """How many odd visits stand before a row: which of them its own is."""
    cdef size_t first = row // RANKED * RANKED, i
    cdef uint32_t found = columns.odd_ranks[row // RANKED]
    for i in range(first, row):
        found += is_odd(columns, i)
    return found


cdef bint find_odd(const Columns* columns, size_t row, Visit* visit) noexcept nogil:
    cdef size_t at = rank_of(columns, row)
    cdef uint64_t words[ODD_WORDS]
    if not is_odd(columns, row) or at >= columns.head.odd_count:
        return False
    at *= ODD_WORDS
    open_run(columns.key, <uint64_t> OF_ODDS << 56 | at, columns.odds + at, words, ODD_WORDS)
    memcpy(visit, &words[1], sizeof(Visit))
    return words[0] == row


cdef uint32_t find_vehicle(const Columns* columns, size_t row) noexcept nogil:
    cdef size_t at
    if not is_odd(columns, row):
        return 0
    at = rank_of(columns, row) * ODD_WORDS + ODD_VEHICLE
    return <uint32_t> (columns.odds[at] ^ stream(columns, OF_ODDS, at))


cdef class DayColumns:
    """Visits and scans of one day, as `native.packing.pack_day` gave them.

    head: bytes. columns: a buffer for each of COLUMNS, at least as long as the head says. key: the
    16 bytes they are sealed with. owner: keeps the memory of the buffers where it is. Raises
    ValueError for what is too short or sealed with another key, MemoryError.
    """

    def __cinit__(self, bytes head not None, columns, bytes key not None, owner):
        cdef Columns* own = &self.columns
        cdef Head* counts = &own.head
        cdef uint64_t row = 0
        cdef size_t i
        self.owner = owner
        self.views = []
        if len(head) != sizeof(Head) or len(key) != 16:
            raise ValueError("the head of a day has a broken size")
        memcpy(counts, PyBytes_AS_STRING(head), sizeof(Head))
        memcpy(own.key, PyBytes_AS_STRING(key), 16)
        if stream(own, OF_CHECK, 0) != counts.check:
            raise ValueError("a day is sealed with another key")
        if counts.count > UINT32_MAX or counts.scan_count > UINT32_MAX // SCAN_WORDS:
            raise ValueError("a day has too many rows")
        own.starts = <const uint32_t*> self.view(columns, "starts", counts.count * 4)
        own.whom = <const uint64_t*> self.view(columns, "whom", counts.count * 8)
        own.ref_lows = <const uint32_t*> self.view(columns, "ref_lows", counts.count * 4)
        own.ref_highs = <const uint16_t*> self.view(columns, "ref_highs", counts.count * 2)
        own.rooms = <const uint16_t*> self.view(columns, "rooms", counts.count * 2)
        own.kinds = <const uint16_t*> self.view(columns, "kinds", counts.count * 2)
        own.places = <const Place*> self.view(
            columns, "places", counts.place_count * sizeof(Place)
        )
        own.seats = <const uint32_t*> self.view(columns, "seats", counts.count * 4)
        own.doors = <const uint32_t*> self.view(columns, "doors", (counts.door_count + 1) * 4)
        own.scans = <const uint32_t*> self.view(
            columns, "scans", counts.scan_count * SCAN_WORDS * 4
        )
        own.scan_doors = <const uint32_t*> self.view(
            columns, "scan_doors", (counts.scan_door_count + 1) * 4
        )
        own.odds = <const uint64_t*> self.view(columns, "odds", counts.odd_count * ODD_WORDS * 8)
        for i in range(counts.place_count):
            if own.places[i].first != row or own.places[i].stop <= row:
                raise ValueError("places of a day are no ranges")
            if i and own.places[i].number <= own.places[i - 1].number:
                raise ValueError("places of a day do not ascend")
            row = own.places[i].stop
        if row != counts.count or counts.shift > 32 or counts.scan_shift > 32:
            raise ValueError("places of a day do not cover its rows")
        own.odd_ranks = <uint32_t*> malloc((counts.count // RANKED + 1) * sizeof(uint32_t))
        if own.odd_ranks is NULL:
            raise MemoryError
        if rank_odds(own) != counts.odd_count:
            raise ValueError("odd visits of a day are not as many as its rows say")
        if not make_presence(own):
            raise MemoryError
        with nogil:
            note_presence(own)
        # Zeros that nobody has written to take no memory.
        own.ended = <uint32_t*> calloc(counts.count + 1, sizeof(uint32_t))
        if own.ended is NULL:
            raise MemoryError

    cdef const uint8_t* view(self, columns, str name, size_t size) except NULL:
        cdef Py_buffer buffer
        held = memoryview(columns[name])
        PyObject_GetBuffer(held, &buffer, PyBUF_SIMPLE)
        PyBuffer_Release(&buffer)  # the view holds it on
        if <size_t> buffer.len < size:
            raise ValueError(f"a day's {name} are cut short")
        if <size_t> buffer.buf % 8:
            raise ValueError(f"a day's {name} are not aligned")
        self.views.append(held)
        return <const uint8_t*> buffer.buf

    def __dealloc__(self):
        free(self.columns.ended)
        free(self.columns.odd_ranks)
        free(self.columns.present)

    def __reduce__(self):
        raise TypeError("a DayColumns cannot be pickled")

    def __len__(self) -> int:
        """Visits, those that have ended included."""
        return self.columns.head.count

    def scan_count(self) -> int:
        return self.columns.head.total_scans

    def row_count(self) -> int:
        """Visits and stored scans, which PersonNumbers.note_newest counts."""
        return self.columns.head.count + self.columns.head.scan_count

    def ended_rows(self, epoch) -> bytes:
        """Rows (u32, ascending) of the visits that have ended by that epoch."""
        cdef uint32_t last = <uint32_t> check_int(epoch, 0, UINT32_MAX - 1, "epoch"), ended
        cdef size_t count = self.columns.head.count, made = 0, i
        cdef const uint32_t* marks = self.columns.ended
        cdef bytes found
        cdef uint8_t* packed
        cdef uint32_t row
        with nogil:
            for i in range(count):
                ended = load_relaxed(&marks[i])
                made += 0 < ended <= last
        found = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (made * 4))
        packed = <uint8_t*> PyBytes_AS_STRING(found)
        made = 0
        for i in range(count):
            ended = load_relaxed(&marks[i])
            if 0 < ended <= last and made < <size_t> len(found) // 4:
                row = <uint32_t> i
                memcpy(packed + 4 * made, &row, 4)
                made += 1
        return found
