"""C face of native.columns: visits and scans of a day as columns, and what one of them says.

What tells who was where is sealed: word i of a column is the plain word, exclusive or'ed with word
i of a stream that the day's key and the column give. So any row can be opened where it lies, and
without the key rows tell that somebody came at a time, not who, not until when, and not which rows
are one person's.
"""

from libc.stdint cimport INT64_MAX, UINT32_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "siphash.h":
    uint64_t siphash24_8(const uint64_t* key, uint64_t data) noexcept nogil

cdef extern from *:
    """
    #define ALIVE UINT32_MAX
    #define LENGTH_MAX UINT32_MAX
    #define MINUTE_MS INT64_C(60000)
    #define NO_PERSON UINT64_MAX
    #define load_relaxed(at) __atomic_load_n(at, __ATOMIC_RELAXED)
    #define store_relaxed(at, value) __atomic_store_n(at, value, __ATOMIC_RELAXED)
    #define prefetch(at) __builtin_prefetch(at)
    """
    const uint32_t ALIVE
    const uint32_t LENGTH_MAX
    const int64_t MINUTE_MS
    const uint64_t NO_PERSON
    uint32_t load_relaxed(const uint32_t* at) noexcept nogil
    void store_relaxed(uint32_t* at, uint32_t value) noexcept nogil
    void prefetch(const void* at) noexcept nogil

cdef enum:                     # columns that are sealed: the top byte of what a stream hashes
    OF_CHECK = 1
    OF_WHOM = 2
    OF_SEATS = 3
    OF_DOORS = 4
    OF_SCANS = 5
    OF_SCAN_DOORS = 6
    OF_ODDS = 7

cdef enum:
    SCAN_WORDS = 9             # u32 words of a Scan
    ODD_WORDS = 7              # u64 words of an Odd
    ODD_VEHICLE = 5            # the one of them that has the vehicle in its low half
    RANKED = 64                # rows: two lines of kinds

cdef enum:                     # bits of a kind
    RULE_BITS = 0x7
    FLAG_SHIFT = 3
    FLAG_BITS = 0x3
    DIRECTION_SHIFT = 5
    DIRECTION_BITS = 0x3
    ONE_SCAN = 0x80            # the visit is its only scan, which is not stored again
    SCAN_KIND_SHIFT = 8
    SCAN_KIND_BITS = 0x7
    SCANS_SHIFT = 11           # how many scans, 0 for a visit that stands among the odd ones
    SCANS_MAX = 31


cdef struct Visit:             # 48 bytes, engine.presence.visits.VISIT
    int64_t start
    int64_t end
    uint64_t ref
    uint32_t person
    uint32_t place
    uint32_t vehicle
    uint16_t room
    uint16_t scans
    uint8_t rule
    uint8_t flags
    uint8_t direction
    uint8_t spare[5]


cdef struct Place:             # visits [first, stop) of a table
    uint32_t first
    uint32_t stop
    uint32_t minutes           # begun ones of the longest visit, see `longest_of`
    uint32_t number


cdef inline uint32_t begun_minutes(int64_t longest) noexcept nogil:
    """Whole minutes: a bound is enough, and the very length of somebody's stay would tell more."""
    return <uint32_t> min(longest // MINUTE_MS + 1, <int64_t> UINT32_MAX)


cdef inline int64_t longest_of(const Place* place) noexcept nogil:
    """No visit at the place is as long, in ms."""
    return place.minutes * MINUTE_MS if place.minutes < UINT32_MAX else INT64_MAX


cdef struct Odd:               # a visit that does not fit the columns
    uint64_t row
    Visit visit


cdef struct Head:              # of a file: what its columns count from, and how long they are
    uint64_t check             # opens to 0 with the right key
    int64_t base               # ms that starts count from
    uint64_t ref_base
    int64_t least              # start of any visit
    int64_t greatest           # end of any
    int64_t first_scan
    int64_t last_scan
    uint64_t count
    uint64_t place_count
    uint64_t door_count
    uint64_t scan_count
    uint64_t scan_door_count
    uint64_t odd_count
    uint64_t total_scans       # those that are visits included
    uint32_t shift
    uint32_t scan_shift
    uint32_t longest_stay
    uint32_t spare


cdef struct Columns:
    uint64_t key[2]
    Head head
    # Of each visit, by place and start:
    const uint32_t* starts     # ms after the base
    const uint64_t* whom       # sealed: length in ms << 32 | person
    const uint32_t* ref_lows   # after the base
    const uint16_t* ref_highs
    const uint16_t* rooms
    const uint16_t* kinds
    uint32_t* ended            # the first epoch without it, 0 while there is none; owned
    uint64_t* present          # a bit for each person with a visit, see `may_have`; owned
    uint64_t present_mask
    uint64_t present_bits
    uint32_t* odd_ranks        # of each RANKED rows how many odd ones stand before them; owned
    const Place* places        # ascending by number
    # By person:
    const uint32_t* seats      # sealed: rows of visits
    const uint32_t* doors      # sealed: of each 2**shift persons the first seat, and the count
    const uint32_t* scans      # sealed: Scan that no visit is, by person, time, place, rule O
    const uint32_t* scan_doors  # sealed, likewise
    const uint64_t* odds       # sealed: Odd, ascending by row


cdef class DayColumns:
    cdef Columns columns
    cdef list views            # memoryview, of each column; they go before what keeps their memory
    cdef object owner

    cdef const uint8_t* view(self, columns, str name, size_t size) except NULL


cdef inline uint64_t stream(const Columns* columns, uint64_t column, uint64_t at) noexcept nogil:
    return siphash24_8(columns.key, column << 56 | at)


cdef inline uint32_t open_word(
    const Columns* columns, uint64_t column, const uint32_t* words, size_t at
) noexcept nogil:
    """A u32 of a sealed column; two of them share a word of the stream."""
    return words[at] ^ <uint32_t> (stream(columns, column, at >> 1) >> (32 * (at & 1)))


cdef inline uint64_t open_whom(const Columns* columns, size_t row) noexcept nogil:
    return columns.whom[row] ^ stream(columns, OF_WHOM, row)


cdef inline uint32_t open_seat(const Columns* columns, size_t i) noexcept nogil:
    return open_word(columns, OF_SEATS, columns.seats, i)


cdef inline bint is_odd(const Columns* columns, size_t row) noexcept nogil:
    return columns.kinds[row] >> SCANS_SHIFT == 0


# The odd visit of a row; False where it has none.
cdef bint find_odd(const Columns* columns, size_t row, Visit* visit) noexcept nogil

# As find_odd the vehicle alone, which no other visit has: 0 for a row without.
cdef uint32_t find_vehicle(const Columns* columns, size_t row) noexcept nogil


cdef inline uint32_t place_of(const Columns* columns, size_t row) noexcept nogil:
    """Number of the place that a row belongs to."""
    cdef size_t low = 0, high = columns.head.place_count, middle
    while low < high:
        middle = (low + high) // 2
        if columns.places[middle].stop <= row:
            low = middle + 1
        else:
            high = middle
    return columns.places[low].number


cdef inline Visit plain_visit(
    const Columns* columns, size_t row, uint64_t whom, uint32_t place
) noexcept nogil:
    """A visit that is not odd. whom: its opened word."""
    cdef uint16_t kind = columns.kinds[row]
    cdef Visit visit
    memset(&visit, 0, sizeof(Visit))
    visit.start = columns.head.base + columns.starts[row]
    visit.end = visit.start + <int64_t> (whom >> 32)
    visit.ref = columns.head.ref_base + (
        <uint64_t> columns.ref_highs[row] << 32 | columns.ref_lows[row]
    )
    visit.person = <uint32_t> whom
    visit.place = place
    visit.room = columns.rooms[row]
    visit.scans = kind >> SCANS_SHIFT
    visit.rule = kind & RULE_BITS
    visit.flags = kind >> FLAG_SHIFT & FLAG_BITS
    visit.direction = kind >> DIRECTION_SHIFT & DIRECTION_BITS
    return visit


cdef inline Visit open_visit(const Columns* columns, size_t row, uint32_t place) noexcept nogil:
    cdef Visit visit
    if is_odd(columns, row) and find_odd(columns, row, &visit):
        return visit
    return plain_visit(columns, row, open_whom(columns, row), place)


cdef inline const uint64_t* presence_of(const Columns* columns, uint64_t person) noexcept nogil:
    """Where the bit is that `may_have` reads."""
    return columns.present + min(person & columns.present_mask, columns.present_bits) // 64


cdef inline bint may_have(const Columns* columns, uint64_t person) noexcept nogil:
    """False for nearby all who have no visit: a day is looked through in vain for most persons."""
    return presence_of(columns, person)[0] >> (person & 63) & 1


cdef inline size_t find_door_seat(const Columns* columns, uint64_t person) noexcept nogil:
    """The first seat of that person or of one behind."""
    cdef uint64_t door = person >> columns.head.shift
    cdef size_t low, high, middle
    if door >= columns.head.door_count:
        return columns.head.count
    low = open_word(columns, OF_DOORS, columns.doors, door)
    high = open_word(columns, OF_DOORS, columns.doors, door + 1)
    while low < high:
        middle = (low + high) // 2
        if <uint32_t> open_whom(columns, open_seat(columns, middle)) < person:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline uint32_t open_scan_person(const Columns* columns, size_t i) noexcept nogil:
    return open_word(columns, OF_SCANS, columns.scans, i * SCAN_WORDS + 4)


cdef inline size_t find_door_scan(const Columns* columns, uint64_t person) noexcept nogil:
    """The first stored scan of that person or of one behind."""
    cdef uint64_t door = person >> columns.head.scan_shift
    cdef size_t low, high, middle
    if door >= columns.head.scan_door_count:
        return columns.head.scan_count
    low = open_word(columns, OF_SCAN_DOORS, columns.scan_doors, door)
    high = open_word(columns, OF_SCAN_DOORS, columns.scan_doors, door + 1)
    while low < high:
        middle = (low + high) // 2
        if open_scan_person(columns, middle) < person:
            low = middle + 1
        else:
            high = middle
    return low
