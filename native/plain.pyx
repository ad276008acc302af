"""Plain records: the entries of a SCANS body that nothing is odd about, to rows and details.

For a record of the common form the bytes of its row, its details and the name that a lane shows
come out without a Python object in between. engine.ingest.candidates is the definition: whatever is
not plainly right is left to it, and a test holds both side by side.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport (
    PyByteArray_AS_STRING,
    PyByteArray_FromStringAndSize,
    PyByteArray_Resize,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport (
    INT64_MAX,
    INT64_MIN,
    UINT32_MAX,
    int64_t,
    uint8_t,
    uint16_t,
    uint32_t,
)
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset, strlen

from native.cards cimport read_person
from native.checks cimport check_int
from native.hmac cimport Hmac
from native.people cimport (
    BHYT,
    COUNTRY,
    DOC_KIND,
    DOC_NO,
    MASK_MAX,
    PLATE,
    QID,
    SEAT,
    SOURCE_BHYT,
    SOURCE_CCCD,
    SOURCE_PASSPORT,
    SOURCE_QR1405,
    TRIP,
    Person,
    Slice,
    begin,
    details_room,
    identify,
    is_bhyt_number,
    is_id_number,
    is_passport_number,
    is_qid,
    mask_name,
    put,
    write_details,
)
from native.rows cimport Row
from native.wire cimport Entry

cdef extern from "machine.h":
    uint32_t load_be32(const uint8_t* at) noexcept nogil

cdef enum:
    SCAN = 1                   # kinds of a record
    CHECKIN = 2
    FORM_BIN = 1               # of native.wire
    FORM_RAW = 2
    FORM_ID = 3
    LOCAL_VERDICT_RECORD = 1   # flag of a SCAN record
    LOCAL_VERDICT = 4          # flags of a row
    CLOCK_UNSURE = 32
    NO_TEMPERATURE = -32768
    STAY_MAX_S = 86_400
    LANES_MAX = 64
    ROOM_FIRST = 1 << 14
    ROOM_KEPT = 1 << 20        # after a batch; a flood must not hold its memory for ever
    DIGEST = 32
    VEHICLE_MAX = 40           # kind, NUL and a trip of 32 bytes

cdef int64_t DAY_MS = 86_400_000
cdef int64_t TZ_OFFSET_MS = 25_200_000  # Việt Nam is seven hours ahead, all year


# ---- MessagePack of plain forms -----------------------------------------------------------------
# native.wire has walked these slices: what a head announces is there, and text is UTF-8.

cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end


cdef bint read_str(Cursor* c, Slice* text) noexcept nogil:
    """A string of up to 255 bytes."""
    cdef size_t size, head
    if c.at >= c.end:
        return False
    if c.at[0] & 0xE0 == 0xA0:
        size, head = c.at[0] & 0x1F, 1
    elif c.at[0] == 0xD9 and c.end - c.at >= 2:
        size, head = c.at[1], 2
    else:
        return False
    if <size_t> (c.end - c.at) < head + size:
        return False
    text.at = c.at + head
    text.size = size
    c.at += head + size
    return True


cdef bint read_uint(Cursor* c, uint32_t most, uint32_t* value) noexcept nogil:
    cdef size_t left, width, i
    if c.at >= c.end:
        return False
    left = c.end - c.at
    width = 0
    value[0] = c.at[0]
    if c.at[0] >= 0x80:
        if not 0xCC <= c.at[0] <= 0xCE:
            return False
        width = <size_t> 1 << (c.at[0] - 0xCC)
        if left < 1 + width:
            return False
        value[0] = 0
        for i in range(1, 1 + width):
            value[0] = value[0] << 8 | c.at[i]
    c.at += 1 + width
    return value[0] <= most


cdef bint is_word(const Slice* text, const char* word) noexcept nogil:
    return text.size == strlen(word) and memcmp(text.at, word, text.size) == 0


cdef bint read_credential(const uint8_t* at, size_t size, Person* person) noexcept nogil:
    """[kind, value] or [kind, value, country or nil], spelled as it is kept."""
    cdef Cursor c
    cdef Slice kind, value, country
    cdef char issuer[4]
    c.at, c.end = at + 1, at + size
    country.at, country.size = NULL, 0
    begin(person)
    if at[0] != 0x92 and at[0] != 0x93 or not read_str(&c, &kind) or not read_str(&c, &value):
        return False
    if at[0] == 0x93:
        if c.at >= c.end or c.at[0] != 0xC0 and not read_str(&c, &country):
            return False
    if is_word(&kind, b"passport"):
        if country.size != 3 or not is_passport_number(value.at, value.size):
            return False
        memcpy(issuer, country.at, 3)
        issuer[3] = 0
        if not (65 <= issuer[0] <= 90 and 65 <= issuer[1] <= 90 and 65 <= issuer[2] <= 90):
            return False
        put(person, DOC_KIND, kind.at, kind.size)
        put(person, DOC_NO, value.at, value.size)
        put(person, COUNTRY, country.at, country.size)
        person.source = SOURCE_PASSPORT
        return identify(person, b"passport", issuer, value.at, value.size)
    if country.size:
        return False
    if is_word(&kind, b"cccd"):
        if not is_id_number(value.at, value.size):
            return False
        put(person, DOC_KIND, kind.at, kind.size)
        put(person, DOC_NO, value.at, value.size)
        person.source = SOURCE_CCCD
        return identify(person, b"cccd", b"VNM", value.at, value.size)
    if is_word(&kind, b"qid"):
        if not is_qid(value.at, value.size):
            return False
        put(person, QID, value.at, value.size)
        person.source = SOURCE_QR1405
        return identify(person, b"qid", b"VNM", value.at, value.size)
    if not is_word(&kind, b"bhyt") or not is_bhyt_number(value.at, value.size):
        return False
    # The digits that stay when the class of the card changes.
    value.at += value.size - 10
    put(person, BHYT, value.at, 10)
    person.source = SOURCE_BHYT
    return identify(person, b"bhyt", b"VNM", value.at, 10)


cdef bint read_extras(const uint8_t* at, size_t size, Row* row, Person* person) noexcept nogil:
    """{room, plate, trip, seat, stay_s}: any of them, once or more; the last one counts."""
    cdef Cursor c
    cdef Slice key, value
    cdef int count, field
    cdef size_t most
    cdef uint32_t number
    if at[0] & 0xF0 != 0x80:
        return False
    count = at[0] & 0x0F
    c.at, c.end = at + 1, at + size
    for _ in range(count):
        if not read_str(&c, &key):
            return False
        if is_word(&key, b"room"):
            if not read_uint(&c, 0xFFFF, &number):
                return False
            row.lane = <uint16_t> number
            continue
        if is_word(&key, b"stay_s"):
            if not read_uint(&c, STAY_MAX_S, &number):
                return False
            row.stay_ms = number * 1000
            continue
        if is_word(&key, b"plate"):
            field, most = PLATE, 16
        elif is_word(&key, b"trip"):
            field, most = TRIP, 32
        elif is_word(&key, b"seat"):
            field, most = SEAT, 8
        else:
            return False
        # The limits count characters, of which there are no more than bytes.
        if not read_str(&c, &value) or value.size > most:
            return False
        put(person, field, value.at, value.size)
    return True


# ---- the batch ----------------------------------------------------------------------------------


cdef class PlainRules:
    """What holds for the records of one message, for some turn of the event loop.

    post: place number, 0 for a back end, whose records are check-ins. lanes: of that post, whose
    scans may be taken (at most 64). oldest_ms, newest_ms: event times that are taken, the first
    after and the last before it is corrected by correction_ms. flags: of every row but those whose
    time stays as it is. today: yyyymmdd. Raises ValueError for what does not fit.
    """

    cdef uint32_t post
    cdef uint16_t lanes[LANES_MAX]
    cdef int lane_count
    cdef int64_t oldest_ms
    cdef int64_t newest_ms
    cdef int64_t correction_ms
    cdef uint8_t flags
    cdef uint32_t today

    def __cinit__(self, post, lanes, oldest_ms, newest_ms, correction_ms, flags, today):
        self.post = <uint32_t> check_int(post, 0, UINT32_MAX, "post")
        for lane in lanes[:LANES_MAX]:
            self.lanes[self.lane_count] = <uint16_t> check_int(lane, 0, 0xFFFF, "lane")
            self.lane_count += 1
        # No sum of two of them overflows.
        self.oldest_ms = check_int(oldest_ms, INT64_MIN // 4, INT64_MAX // 4, "oldest_ms")
        self.newest_ms = check_int(newest_ms, INT64_MIN // 4, INT64_MAX // 4, "newest_ms")
        self.correction_ms = check_int(
            correction_ms, INT64_MIN // 4, INT64_MAX // 4, "correction_ms"
        )
        self.flags = <uint8_t> check_int(flags, 0, 0xFF, "flags")
        self.today = <uint32_t> check_int(today, 0, UINT32_MAX, "today")

    def __reduce__(self):
        raise TypeError("PlainRules cannot be pickled")

    cdef bint has_lane(self, uint16_t lane) noexcept nogil:
        cdef int i
        for i in range(self.lane_count):
            if self.lanes[i] == lane:
                return True
        return False

    cdef bint set_time(self, const Entry* entry, Row* row) noexcept nogil:
        """The event time and what is said of it; False for one that is not taken."""
        cdef int64_t corrected_ms
        if entry.time_ms > INT64_MAX // 4:
            return False
        corrected_ms = entry.time_ms - self.correction_ms
        row.time_ms = corrected_ms
        row.flags = self.flags
        if self.correction_ms and corrected_ms > self.newest_ms >= entry.time_ms:
            row.time_ms = entry.time_ms
            row.flags = CLOCK_UNSURE
        return self.oldest_ms <= row.time_ms <= self.newest_ms


cdef inline int64_t to_day(int64_t time_ms) noexcept nogil:
    cdef int64_t local_ms = time_ms + TZ_OFFSET_MS
    return local_ms // DAY_MS if local_ms >= 0 else -((DAY_MS - 1 - local_ms) // DAY_MS)


cdef class PlainReader:
    """Reads plain records. Used from one thread.

    person, vehicle: make person keys and the numbers of vehicles, each with its label in front.
    venues: place numbers of all venues, kept by its owner.
    """

    cdef Hmac person_mac
    cdef Hmac vehicle_mac
    cdef set venues
    cdef uint8_t* details      # owned; NULL while room is 0
    cdef size_t room
    cdef size_t used

    def __cinit__(self, Hmac person not None, Hmac vehicle not None, set venues not None):
        self.person_mac = person
        self.vehicle_mac = vehicle
        self.venues = venues

    def __dealloc__(self):
        free(self.details)

    def __reduce__(self):
        raise TypeError("a PlainReader cannot be pickled")

    def take(
        self, entries, body, first, last, PlainRules rules not None
    ) -> tuple[int, int, bytearray, bytes, list[str]]:
        """Records [first, last) until one is not plain or lies in another day than the first.

        entries: packed records of native.wire.read_records, which point into body.
        (count, day, rows, details, names): how many were taken, their day, their rows of 48 bytes,
        for each u32 size and that many bytes of details, and of scans the masked names. Where the
        first of them is not plain the count is 0. Raises ValueError for entries that are not whole
        or point beyond the body, IndexError for a range they do not have, MemoryError.
        """
        cdef Py_buffer views[2]
        cdef int held = 0
        cdef size_t start, stop, size
        cdef bytearray rows
        cdef bytes details
        cdef list names = []
        cdef size_t count
        cdef int64_t day = 0
        try:
            for source in (entries, body):
                PyObject_GetBuffer(source, &views[held], PyBUF_SIMPLE)
                held += 1
            if views[0].len % sizeof(Entry):
                raise ValueError("entries are not whole")
            size = views[0].len // sizeof(Entry)
            start = check_int(first, 0, INT64_MAX, "first")
            stop = check_int(last, 0, INT64_MAX, "last")
            if not start <= stop <= size:
                raise IndexError("there are no such entries")
            rows = PyByteArray_FromStringAndSize(NULL, (stop - start) * sizeof(Row))
            self.used = 0
            count = self.read(
                <const uint8_t*> views[0].buf + start * sizeof(Entry), stop - start,
                <const uint8_t*> views[1].buf, views[1].len, rules,
                <uint8_t*> PyByteArray_AS_STRING(rows), names, &day,
            )  # fmt: skip
            if count < stop - start:
                PyByteArray_Resize(rows, count * sizeof(Row))
            details = PyBytes_FromStringAndSize(<char*> self.details, self.used)
        finally:
            while held > 0:
                held -= 1
                PyBuffer_Release(&views[held])
            if self.room > ROOM_KEPT:
                free(self.details)
                self.details = NULL
                self.room = 0
        return count, day, rows, details, names

    cdef size_t read(
        self, const uint8_t* entries, size_t count, const uint8_t* body, size_t size,
        PlainRules rules, uint8_t* rows, list names, int64_t* day,
    ) except? 0:
        cdef Entry entry
        cdef Row row
        cdef Person person
        cdef uint8_t digest[DIGEST]
        cdef uint8_t mask[MASK_MAX]
        cdef size_t i
        for i in range(count):
            memcpy(&entry, entries + i * sizeof(Entry), sizeof(Entry))
            if not is_within(&entry, size):
                raise ValueError("an entry points beyond the body")
            memset(&row, 0, sizeof(Row))
            if not rules.set_time(&entry, &row):
                return i
            if i == 0:
                day[0] = to_day(row.time_ms)
            elif to_day(row.time_ms) != day[0]:
                return i
            if entry.kind == SCAN:
                if not read_scan(&entry, body, rules, &row, &person):
                    return i
            elif entry.kind != CHECKIN or rules.post or entry.venue_form != FORM_ID:
                return i
            elif not read_checkin(&entry, body, rules, &row, &person):
                return i
            elif entry.venue_id not in self.venues:
                return i
            if not self.set_vehicle(&person, &row):
                return i
            self.person_mac.mac(person.identity, person.identity_size, digest)
            memcpy(row.person, digest, 16)
            self.put_details(&person)
            memcpy(rows + i * sizeof(Row), &row, sizeof(Row))
            if entry.kind == SCAN:
                names.append(
                    PyUnicode_DecodeUTF8(<char*> mask, mask_name(&person, mask), NULL)
                )
        return count

    cdef bint set_vehicle(self, const Person* person, Row* row) noexcept nogil:
        """The number of the plate, or else of the trip; False for one that is not ASCII.

        engine.scans.people.vehicle_to_canonical: without blanks, dots and hyphens, in upper case.
        """
        cdef uint8_t text[VEHICLE_MAX]
        cdef uint8_t digest[DIGEST]
        cdef const Slice* field = &person.fields[PLATE]
        cdef size_t i, first, size
        cdef uint8_t byte
        for _ in range(2):
            first = 6 if field == &person.fields[PLATE] else 5
            memcpy(text, b"plate" if first == 6 else b"trip", first)
            size = first
            for i in range(field.size):
                byte = field.at[i]
                if byte >= 0x80:
                    return False
                if byte == 32 or byte == 45 or byte == 46:
                    continue
                text[size] = byte - 32 if 97 <= byte <= 122 else byte
                size += 1
            if size > first:
                self.vehicle_mac.mac(text, size, digest)
                row.vehicle = max(<uint32_t> 1, load_be32(digest))
                return True
            field = &person.fields[TRIP]
        return True

    cdef int put_details(self, const Person* person) except -1:
        cdef size_t most = 4 + details_room(person)
        cdef size_t room = self.room
        cdef uint8_t* moved
        cdef uint32_t size
        if self.used + most > room:
            room = max(<size_t> ROOM_FIRST, max(2 * room, self.used + most))
            moved = <uint8_t*> realloc(self.details, room)
            if moved is NULL:
                raise MemoryError
            self.details = moved
            self.room = room
        size = <uint32_t> write_details(person, self.details + self.used + 4)
        memcpy(self.details + self.used, &size, 4)
        self.used += 4 + size
        return 0


cdef bint is_within(const Entry* entry, size_t size) noexcept nogil:
    return (
        <size_t> entry.who_off + entry.who_len <= size
        and <size_t> entry.aux_off + entry.aux_len <= size
    )


cdef bint read_scan(
    const Entry* entry, const uint8_t* body, PlainRules rules, Row* row, Person* person
) noexcept nogil:
    if rules.post == 0 or not rules.has_lane(entry.lane):
        return False
    if not read_person(body + entry.who_off, entry.who_len, rules.today, person):
        return False
    if entry.aux_len and not read_extras(body + entry.aux_off, entry.aux_len, row, person):
        return False
    row.stay_ms = 0            # said of a check-in only, as a room is
    row.place = rules.post
    row.lane = entry.lane
    if entry.flags & LOCAL_VERDICT_RECORD:
        row.flags |= LOCAL_VERDICT
    fill(entry, person, row)
    return True


cdef bint read_checkin(
    const Entry* entry, const uint8_t* body, PlainRules rules, Row* row, Person* person
) noexcept nogil:
    """Of somebody at a venue that is named by its number."""
    if entry.who_form == FORM_BIN:
        if not read_person(body + entry.who_off, entry.who_len, rules.today, person):
            return False
    elif entry.who_len == 0 or not read_credential(body + entry.who_off, entry.who_len, person):
        return False
    if entry.aux_len and not read_extras(body + entry.aux_off, entry.aux_len, row, person):
        return False
    row.place = entry.venue_id
    row.direction = entry.direction
    fill(entry, person, row)
    return True


cdef void fill(const Entry* entry, const Person* person, Row* row) noexcept nogil:
    row.n = entry.n
    row.kind = entry.kind
    row.source = person.source
    row.temperature_cc = NO_TEMPERATURE
