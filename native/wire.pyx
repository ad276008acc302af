"""CKP/1 from bytes: frame headers split off a buffer, and the records of a SCANS body as entries.

Nothing is copied and no Python object is made a record: heads and entries hold offsets into the
bytes they were read from, which stay the caller's.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, UINT32_MAX
from libc.string cimport memset

from native.checks cimport check_int

cdef extern from "machine.h":
    uint64_t load_u64(const uint8_t* at) noexcept nogil
    uint16_t load_be16(const uint8_t* at) noexcept nogil
    uint32_t load_be32(const uint8_t* at) noexcept nogil
    uint64_t load_be64(const uint8_t* at) noexcept nogil

cdef enum:
    OK = 0                     # the CKP/1 error numbers
    TOO_LARGE = 5
    MALFORMED = 7

cdef enum:
    HEADER_SIZE = 16
    RECORDS_MAX = 4096
    DEPTH_MAX = 8              # arrays and maps open at once, the array of records included
    NOGIL_SIZE = 1 << 14       # some 7 us of records: above that the GIL is worth releasing

cdef uint64_t ASCII_MASK = <uint64_t> 0x80808080 << 32 | 0x80808080

cdef enum:
    FORM_ABSENT = 0
    FORM_BIN = 1               # off and len give the content of a bin
    FORM_RAW = 2               # off and len give one whole encoded value
    FORM_ID = 3                # venue_id

cdef enum Family:
    NIL
    BOOL
    UINT
    NEGATIVE
    FLOAT
    STR
    BIN
    ARRAY
    MAP


# ---- frames -------------------------------------------------------------------------------------

cdef struct Split:
    size_t count               # complete frames
    size_t consumed            # bytes they take
    int status


cdef bint is_frame_type(uint8_t value) noexcept nogil:
    """Types 01-07 go to the server, 81-88 to the gateway (docs/protocol.md)."""
    return 0x01 <= value <= 0x07 or 0x81 <= value <= 0x88


cdef Split split(
    const uint8_t* data, size_t size, uint32_t max_body, FrameHead* heads, size_t head_room
) noexcept nogil:
    """Walk the frames; write at most head_room heads. Each step takes 16 bytes or more."""
    cdef Split found
    cdef const uint8_t* at
    cdef FrameHead* head
    cdef uint32_t length
    found.count = 0
    found.consumed = 0
    found.status = OK
    while size - found.consumed >= HEADER_SIZE:
        at = data + found.consumed
        if not is_frame_type(at[0]):
            found.status = MALFORMED
            break
        length = load_be32(at + 4)
        if length > max_body:
            found.status = TOO_LARGE
            break
        if size - found.consumed - HEADER_SIZE < length:
            break
        if found.count < head_room:
            head = &heads[found.count]
            head.type = at[0]
            head.flags = at[1]
            head.channel = load_be16(at + 2)
            head.length = length
            head.seq = load_be64(at + 8)
            head.offset = found.consumed + HEADER_SIZE
            head.pad = 0
        found.count += 1
        found.consumed += HEADER_SIZE + length
    return found


def split_frames(buffer, max_body) -> tuple[bytes, int, int]:
    """Heads of all complete frames at the start of `buffer`: (heads, consumed, status).

    heads: packed FrameHead of 32 bytes each, offsets counted from the start of `buffer`.
    consumed: bytes of those frames; the rest is an unfinished frame or the one at fault.
    status: 0, 5 when a header says more than max_body bytes, 7 for an unknown type byte; judged as
    soon as the 16 bytes of a header are there. Heads before the fault are returned.
    Raises ValueError when max_body is not of 0 .. 2**32-1.
    """
    cdef Py_buffer view
    cdef Split counted
    cdef bytes heads
    cdef uint32_t limit = <uint32_t> check_int(max_body, 0, UINT32_MAX, "max_body")
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        # Two walks over the headers cost less than a buffer for the worst case. The GIL is held:
        # a header costs some ns, and nobody may change a bytearray between the walks.
        counted = split(<const uint8_t*> view.buf, view.len, limit, NULL, 0)
        heads = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (counted.count * sizeof(FrameHead)))
        split(
            <const uint8_t*> view.buf,
            view.len,
            limit,
            <FrameHead*> PyBytes_AS_STRING(heads),
            counted.count,
        )
    finally:
        PyBuffer_Release(&view)
    return heads, counted.consumed, counted.status


# ---- MessagePack --------------------------------------------------------------------------------
# Invariant of the reader: pos <= size, and a head is returned only if what it announces can still
# be there. Every step forward takes at least one byte, so all work is linear in the size.

cdef struct Cursor:
    const uint8_t* data
    size_t size
    size_t pos


cdef struct Head:
    Family family
    uint64_t value             # of a UINT; bytes of STR, BIN; elements of ARRAY; pairs of MAP
    size_t start               # of the content of STR and BIN


cdef bint is_utf8(const uint8_t* text, size_t size) noexcept nogil:
    """Unicode 15, table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF."""
    cdef size_t i = 0
    cdef size_t more, k
    cdef uint8_t lead, low, high
    while i < size:
        if size - i >= 8 and load_u64(text + i) & ASCII_MASK == 0:
            i += 8
            continue
        lead = text[i]
        if lead < 0x80:
            i += 1
            continue
        low = 0x80
        high = 0xBF
        if lead < 0xC2 or lead > 0xF4:
            return False
        if lead < 0xE0:
            more = 1
        elif lead < 0xF0:
            more = 2
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
        else:
            more = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
        if size - i <= more or text[i + 1] < low or text[i + 1] > high:
            return False
        for k in range(2, more + 1):
            if text[i + k] & 0xC0 != 0x80:
                return False
        i += more + 1
    return True


cdef bint read_be(Cursor* c, size_t width, uint64_t* value) noexcept nogil:
    """An unsigned number of `width` bytes (1, 2, 4 or 8)."""
    cdef const uint8_t* at = c.data + c.pos
    if c.size - c.pos < width:
        return False
    if width == 1:
        value[0] = at[0]
    elif width == 2:
        value[0] = load_be16(at)
    elif width == 4:
        value[0] = load_be32(at)
    else:
        value[0] = load_be64(at)
    c.pos += width
    return True


cdef bint read_scalar_head(Cursor* c, uint8_t tag, Head* head) noexcept nogil:
    """The forms c0-c3 and ca-d3; value is the number itself."""
    if tag == 0xC0:
        head.family = NIL
        return True
    if tag == 0xC2 or tag == 0xC3:
        head.family = BOOL
        return True
    if tag == 0xCA or tag == 0xCB:
        head.family = FLOAT
        return read_be(c, 4 if tag == 0xCA else 8, &head.value)
    if 0xCC <= tag <= 0xCF:
        head.family = UINT
        return read_be(c, 1 << (tag - 0xCC), &head.value)
    if 0xD0 <= tag <= 0xD3:
        if not read_be(c, 1 << (tag - 0xD0), &head.value):
            return False
        # Some encoders write small unsigned numbers in a signed form.
        head.family = NEGATIVE if head.value >> ((8 << (tag - 0xD0)) - 1) else UINT
        return True
    return False               # c1 is never used; ext (c7-c9, d4-d8) has no place in CKP/1


cdef bint read_head(Cursor* c, Head* head) noexcept nogil:
    """The head of the next value; the content of STR and BIN is stepped over as well."""
    cdef uint8_t tag
    if c.pos >= c.size:
        return False
    tag = c.data[c.pos]
    c.pos += 1
    head.value = tag
    if tag < 0x80:
        head.family = UINT
        return True
    if tag >= 0xE0:
        head.family = NEGATIVE
        return True
    if tag < 0x90:
        head.family = MAP
        head.value = tag & 0x0F
    elif tag < 0xA0:
        head.family = ARRAY
        head.value = tag & 0x0F
    elif tag < 0xC0:
        head.family = STR
        head.value = tag & 0x1F
    elif 0xC4 <= tag <= 0xC6:
        head.family = BIN
        if not read_be(c, 1 << (tag - 0xC4), &head.value):
            return False
    elif 0xD9 <= tag <= 0xDB:
        head.family = STR
        if not read_be(c, 1 << (tag - 0xD9), &head.value):
            return False
    elif tag == 0xDC or tag == 0xDD:
        head.family = ARRAY
        if not read_be(c, 2 << (tag - 0xDC), &head.value):
            return False
    elif tag == 0xDE or tag == 0xDF:
        head.family = MAP
        if not read_be(c, 2 << (tag - 0xDE), &head.value):
            return False
    else:
        return read_scalar_head(c, tag, head)
    head.start = c.pos
    # An element takes a byte or more, a pair two: a count that lies ends here, before any loop.
    if head.value * (2 if head.family == MAP else 1) > c.size - c.pos:
        return False
    if head.family == STR or head.family == BIN:
        c.pos += head.value
        return head.family == BIN or is_utf8(c.data + head.start, head.value)
    return True


cdef bint skip_elements(Cursor* c, Head* head, int depth) noexcept nogil:
    """Step over all that an ARRAY or MAP just read contains; depth counts it as open.

    Keys must be strings: then what is skipped here is decoded later without a surprise.
    """
    cdef uint64_t left[DEPTH_MAX + 1]
    cdef bint is_map[DEPTH_MAX + 1]
    cdef int floor = depth
    cdef Head inner
    if depth > DEPTH_MAX:
        return False
    is_map[depth] = head.family == MAP
    left[depth] = head.value * 2 if is_map[depth] else head.value
    while True:
        while left[depth] == 0:
            if depth == floor:
                return True
            depth -= 1
        if not read_head(c, &inner):
            return False
        if is_map[depth] and left[depth] & 1 == 0 and inner.family != STR:
            return False
        left[depth] -= 1
        if inner.family == ARRAY or inner.family == MAP:
            if depth == DEPTH_MAX:
                return False
            depth += 1
            is_map[depth] = inner.family == MAP
            left[depth] = inner.value * 2 if is_map[depth] else inner.value


cdef inline bint read_uint(Cursor* c, uint64_t max_value, uint64_t* value) noexcept nogil:
    cdef Head head
    cdef const uint8_t* at = c.data + c.pos
    # What most records hold: numbers below 128, and times.
    if c.pos < c.size and at[0] < 0x80:
        c.pos += 1
        value[0] = at[0]
        return value[0] <= max_value
    if c.size - c.pos >= 9 and at[0] == 0xCF:
        c.pos += 9
        value[0] = load_be64(at + 1)
        return value[0] <= max_value
    if not read_head(c, &head) or head.family != UINT or head.value > max_value:
        return False
    value[0] = head.value
    return True


cdef inline bint read_str(Cursor* c) noexcept nogil:
    cdef Head head
    cdef size_t size
    if c.pos < c.size and c.data[c.pos] & 0xE0 == 0xA0:
        size = c.data[c.pos] & 0x1F
        c.pos += 1
        if size > c.size - c.pos or not is_utf8(c.data + c.pos, size):
            return False
        c.pos += size
        return True
    return read_head(c, &head) and head.family == STR


# ---- records ------------------------------------------------------------------------------------

cdef enum:
    RECORD_DEPTH = 2           # the array of records and the record
    SOURCE_MAX = 0xFF          # a row keeps one byte of it


cdef bint read_aux(Cursor* c, Entry* entry) noexcept nogil:
    """nil, or a map that is left raw."""
    cdef size_t start = c.pos
    cdef Head head
    if not read_head(c, &head):
        return False
    if head.family == NIL:
        return True
    if head.family != MAP or not skip_elements(c, &head, RECORD_DEPTH + 1):
        return False
    entry.aux_off = <uint32_t> start
    entry.aux_len = <uint32_t> (c.pos - start)
    return True


cdef bint read_who(Cursor* c, Entry* entry) noexcept nogil:
    """bin, or [kind str, value str, country str or nil or absent] left raw."""
    cdef size_t start = c.pos
    cdef Head head
    cdef uint64_t count
    if not read_head(c, &head):
        return False
    if head.family == BIN:
        entry.who_form = FORM_BIN
        entry.who_off = <uint32_t> head.start
        entry.who_len = <uint32_t> head.value
        return True
    count = head.value
    if head.family != ARRAY or count < 2 or count > 3 or not read_str(c) or not read_str(c):
        return False
    if count == 3 and not (read_head(c, &head) and head.family in (STR, NIL)):
        return False
    entry.who_form = FORM_RAW
    entry.who_off = <uint32_t> start
    entry.who_len = <uint32_t> (c.pos - start)
    return True


cdef bint read_venue(Cursor* c, Entry* entry) noexcept nogil:
    """bin, or the number of a venue."""
    cdef Head head
    if not read_head(c, &head):
        return False
    if head.family == BIN:
        entry.venue_form = FORM_BIN
        entry.venue_off = <uint32_t> head.start
        entry.venue_len = <uint32_t> head.value
        return True
    if head.family != UINT or head.value > UINT32_MAX:
        return False
    entry.venue_form = FORM_ID
    entry.venue_id = <uint32_t> head.value
    return True


cdef bint read_scan(Cursor* c, uint64_t size, Entry* entry) noexcept nogil:
    """[1, ts_ms, lane, payload bin, flags, aux?], from lane on."""
    cdef uint64_t lane, flags
    cdef Head head
    if size < 5 or size > 6 or not read_uint(c, 0xFFFF, &lane):
        return False
    if not read_head(c, &head) or head.family != BIN:
        return False
    entry.who_form = FORM_BIN
    entry.who_off = <uint32_t> head.start
    entry.who_len = <uint32_t> head.value
    if not read_uint(c, UINT32_MAX, &flags):
        return False
    entry.lane = <uint16_t> lane
    entry.flags = <uint32_t> flags
    return size == 5 or read_aux(c, entry)


cdef bint read_checkin(Cursor* c, uint64_t size, Entry* entry) noexcept nogil:
    """[2, ts_ms, direction, who, venue, source, aux?], from direction on."""
    cdef uint64_t direction, source
    if size < 6 or size > 7 or not read_uint(c, 2, &direction):
        return False
    if not read_who(c, entry) or not read_venue(c, entry):
        return False
    if not read_uint(c, SOURCE_MAX, &source):
        return False
    entry.direction = <uint8_t> direction
    entry.source = <uint32_t> source
    return size == 6 or read_aux(c, entry)


cdef bint read_manual(Cursor* c, uint64_t size, Entry* entry) noexcept nogil:
    """[3, ts_ms, lane, fields map, officer str, why str], from lane on."""
    cdef uint64_t lane
    cdef size_t start
    cdef Head head
    if size != 6 or not read_uint(c, 0xFFFF, &lane):
        return False
    start = c.pos
    if not read_head(c, &head) or head.family != MAP:
        return False
    if not skip_elements(c, &head, RECORD_DEPTH + 1):
        return False
    entry.lane = <uint16_t> lane
    entry.who_form = FORM_RAW
    entry.who_off = <uint32_t> start
    entry.who_len = <uint32_t> (c.pos - start)
    start = c.pos
    if not read_str(c) or not read_str(c):
        return False
    entry.aux_off = <uint32_t> start
    entry.aux_len = <uint32_t> (c.pos - start)
    return True


cdef bint read_record(Cursor* c, Entry* entry) noexcept nogil:
    cdef uint64_t kind, time_ms
    cdef Head head
    if not read_head(c, &head) or head.family != ARRAY or head.value < 2:
        return False
    if not read_uint(c, 3, &kind) or not read_uint(c, INT64_MAX, &time_ms):
        return False
    entry.kind = <uint8_t> kind
    entry.time_ms = <int64_t> time_ms
    if kind == 1:
        return read_scan(c, head.value, entry)
    if kind == 2:
        return read_checkin(c, head.value, entry)
    return kind == 3 and read_manual(c, head.value, entry)


cdef size_t read_all(Cursor* c, Entry* entries, size_t count) noexcept nogil:
    """Read records until one is at fault; how many were good."""
    cdef size_t n
    for n in range(count):
        memset(&entries[n], 0, sizeof(Entry))
        entries[n].n = <uint16_t> n
        if not read_record(c, &entries[n]):
            return n
    return count


def read_records(body) -> tuple[bytes, int, int]:
    """Records of a SCANS body (MessagePack array of arrays): (entries, status, index).

    entries: packed Entry of 64 bytes each, offsets counted from the start of `body`.
    status: 0, or 7 when malformed; then index is the record at fault (the number of records where
    bytes follow the array) and the entries before it are returned. With status 0 index is 0.
    Raw slices are well-formed MessagePack: string keys, valid UTF-8, no ext.
    Raises ValueError for a body of 4 GiB or more.
    """
    cdef Py_buffer view
    cdef Cursor c
    cdef Head head
    cdef bytes entries
    cdef Entry* room
    cdef size_t good
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        if <size_t> view.len > UINT32_MAX:
            raise ValueError("a body has less than 4 GiB")
        c.data = <const uint8_t*> view.buf
        c.size = view.len
        c.pos = 0
        if not read_head(&c, &head) or head.family != ARRAY or head.value > RECORDS_MAX:
            return b"", MALFORMED, 0
        entries = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (head.value * sizeof(Entry)))
        room = <Entry*> PyBytes_AS_STRING(entries)
        if c.size >= NOGIL_SIZE:
            with nogil:
                good = read_all(&c, room, head.value)
        else:
            good = read_all(&c, room, head.value)
    finally:
        PyBuffer_Release(&view)
    if good < head.value:
        return entries[:<Py_ssize_t> (good * sizeof(Entry))], MALFORMED, good
    if c.pos != c.size:
        return entries, MALFORMED, good
    return entries, OK, 0
