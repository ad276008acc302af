"""The bit stream of a QR code: ISO/IEC 18004:2015, 7.4, read into bytes and segments.

The bytes are those that were encoded: text of digits and of alphanumeric mode in ASCII, kanji in
Shift JIS, hanzi (GB/T 18284) in GB 2312. Where FNC1 is in force, % of alphanumeric mode becomes GS
and %% becomes % (7.4.8.2); the application indicator stands before the content, as text.
A stream may end without a terminator wherever a mode indicator could begin. One without content is
nonsense: it says nothing, and blocks of zeros, which pass every check, would be such a code.

The bytes are those of zxing-cpp 3.1 for every stream it reads, but ECI assignments above 999999 are
refused here (AIM ITS/04-023 has none), where it takes all that fit 21 bits.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from native.checks cimport check_int
from native.qr.code cimport (
    QR_NONSENSE, QR_READ, SEGMENTS_MAX, VERSION_MAX, Code, Segment,
)

cdef extern from "machine.h":
    uint64_t load_be64(const uint8_t* at) noexcept nogil
    void store_be64(uint8_t* at, uint64_t value) noexcept nogil

# Table 2: mode indicators.
cdef enum:
    TERMINATOR = 0
    NUMERIC = 1
    ALPHANUMERIC = 2
    APPEND = 3
    BYTE = 4
    FNC1_FIRST = 5
    ECI = 7
    KANJI = 8
    FNC1_SECOND = 9
    HANZI = 13

cdef enum:
    ECI_MAX = 999999
    GS = 0x1D
    PERCENT = 0x25

cdef bytes ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"     # table 5
cdef uint8_t[1000][4] digits                 # of 10 bits; the fourth is of no use
cdef uint8_t[2025][2] letters                # of 11 bits


cdef struct Bits:
    const uint8_t* data
    int pos                     # bits
    int size


# ---- bits ---------------------------------------------------------------------------------------

cdef inline int left(const Bits* bits) noexcept nogil:
    return bits.size - bits.pos


cdef inline uint32_t take(Bits* bits, int count) noexcept nogil:
    """The next 1-32 bits; the caller has seen that they are there."""
    cdef uint64_t word = load_be64(bits.data + (bits.pos >> 3)) << (bits.pos & 7)
    bits.pos += count
    return <uint32_t> (word >> (64 - count))


cdef bint take_checked(Bits* bits, int count, int* value) noexcept nogil:
    """The next 1-24 bits; False where the stream ends before."""
    if left(bits) < count:
        return False
    value[0] = <int> take(bits, count)
    return True


# ---- segments -----------------------------------------------------------------------------------

cdef bint read_numeric(Bits* bits, int count, uint8_t* out) noexcept nogil:
    """7.4.3: three digits in 10 bits, two in 7, one in 4. `out` has room for three more."""
    cdef uint32_t value
    if left(bits) < count // 3 * 10 + (count % 3 * 3 + 1 if count % 3 else 0):
        return False
    while count >= 3:
        value = take(bits, 10)
        if value >= 1000:
            return False
        memcpy(out, digits[value], 4)
        out += 3
        count -= 3
    if count == 2:
        value = take(bits, 7)
        if value >= 100:
            return False
        memcpy(out, &digits[value][1], 2)
    elif count == 1:
        value = take(bits, 4)
        if value >= 10:
            return False
        out[0] = digits[value][2]
    return True


cdef bint read_alphanumeric(Bits* bits, int count, uint8_t* out) noexcept nogil:
    """7.4.4: two characters in 11 bits, one in 6."""
    cdef uint32_t value
    if left(bits) < count // 2 * 11 + count % 2 * 6:
        return False
    while count >= 2:
        value = take(bits, 11)
        if value >= 2025:
            return False
        memcpy(out, letters[value], 2)
        out += 2
        count -= 2
    if count == 1:
        value = take(bits, 6)
        if value >= 45:
            return False
        out[0] = letters[value][1]
    return True


cdef bint read_bytes(Bits* bits, int count, uint8_t* out) noexcept nogil:
    """7.4.5, eight at a time."""
    cdef const uint8_t* at
    cdef int shift = bits.pos & 7
    cdef uint64_t word
    if left(bits) < 8 * count:
        return False
    at = bits.data + (bits.pos >> 3)
    bits.pos += 8 * count
    while count >= 8:
        word = load_be64(at) << shift | at[8] >> (8 - shift)
        store_be64(out, word)
        at += 8
        out += 8
        count -= 8
    while count > 0:
        out[0] = <uint8_t> (at[0] << shift | at[1] >> (8 - shift))
        at += 1
        out += 1
        count -= 1
    return True


cdef bint read_pairs(
    Bits* bits, int count, int row, uint32_t gap, uint32_t low, uint32_t high, uint8_t* out
) noexcept nogil:
    """7.4.6, and GB/T 18284 for hanzi: 13 bits are first * row + second, less where they begin.

    Up to `gap` the characters begin at `low`, then at `high`.
    """
    cdef uint32_t value
    cdef int i
    if left(bits) < 13 * count:
        return False
    for i in range(count):
        value = take(bits, 13)
        value = value // row << 8 | value % row
        value += low if value < gap else high
        out[2 * i] = <uint8_t> (value >> 8)
        out[2 * i + 1] = <uint8_t> value
    return True


cdef int undo_percents(uint8_t* text, int size) noexcept nogil:
    """7.4.8.2: %% is %, % alone is GS; the size after it."""
    cdef int i = 0, kept = 0
    while i < size:
        text[kept] = text[i]
        if text[i] == PERCENT:
            if i + 1 < size and text[i + 1] == PERCENT:
                i += 1
            else:
                text[kept] = GS
        kept += 1
        i += 1
    return kept


cdef int count_bits(int mode, int version) noexcept nogil:
    """Table 3: bits of the character count; hanzi as kanji."""
    cdef int span = 0 if version < 10 else 1 if version < 27 else 2
    if mode == NUMERIC:
        return 10 + 2 * span
    if mode == ALPHANUMERIC:
        return 9 + 2 * span
    if mode == BYTE:
        return 8 if span == 0 else 16
    return 8 + 2 * span


cdef bint read_characters(Bits* bits, int mode, int count, int* size, uint8_t* out) noexcept nogil:
    """Characters of one segment; size: its bytes."""
    size[0] = count
    if mode == NUMERIC:
        return read_numeric(bits, count, out)
    if mode == ALPHANUMERIC:
        return read_alphanumeric(bits, count, out)
    if mode == BYTE:
        return read_bytes(bits, count, out)
    size[0] = 2 * count
    if mode == KANJI:
        return read_pairs(bits, count, 0xC0, 0x1F00, 0x8140, 0xC140, out)
    return read_pairs(bits, count, 0x60, 0x0A00, 0xA1A1, 0xA6A1, out)


cdef void note_segment(Code* out, int mode, int eci, int size) noexcept nogil:
    """Enter `size` bytes that were written; past the last entry they join it."""
    cdef Segment* segment
    if out.segment_count == SEGMENTS_MAX:
        out.segments[SEGMENTS_MAX - 1].size += size
    else:
        segment = &out.segments[out.segment_count]
        segment.mode = mode
        segment.eci = eci
        segment.begin = out.size
        segment.size = size
        out.segment_count += 1
    out.size += size


cdef bint read_segment(Bits* bits, int mode, int version, int eci, Code* out) noexcept nogil:
    cdef int count, size, subset
    if mode == HANZI and not (take_checked(bits, 4, &subset) and subset == 1):
        return False
    if not take_checked(bits, count_bits(mode, version), &count):
        return False
    # Nothing can overrun out.data: bits are there before they are read, no mode makes more than 3
    # bytes of 10 bits, and DATA_MAX codewords are 7094 bytes then.
    if not read_characters(bits, mode, count, &size, out.data + out.size):
        return False
    if mode == ALPHANUMERIC and out.fnc1:
        size = undo_percents(out.data + out.size, size)
    note_segment(out, mode, eci, size)
    return True


# ---- what stands between segments ---------------------------------------------------------------

cdef bint read_eci(Bits* bits, int* eci) noexcept nogil:
    """7.4.2, table 4: 8, 16 or 24 bits after the leading ones 0, 10, 110."""
    cdef int first, more
    if not take_checked(bits, 8, &first):
        return False
    if first < 0x80:
        eci[0] = first
        return True
    if first < 0xC0:
        if not take_checked(bits, 8, &more):
            return False
        eci[0] = (first & 0x3F) << 8 | more
        return True
    if first >= 0xE0 or not take_checked(bits, 16, &more):
        return False
    eci[0] = (first & 0x1F) << 16 | more
    return eci[0] <= ECI_MAX


cdef bint read_application(Bits* bits, Code* out) noexcept nogil:
    """7.4.8.3: 0-99, or a letter and 100; before any content, and it is part of the text."""
    cdef int value
    if out.size or not take_checked(bits, 8, &value):
        return False
    out.fnc1 = 2
    out.application = value
    if value < 100:
        memcpy(out.data, &digits[value][1], 2)
        out.size = 2
        return True
    value -= 100
    out.data[0] = <uint8_t> value
    out.size = 1
    return 65 <= value <= 90 or 97 <= value <= 122


cdef bint read_append(Bits* bits, Code* out) noexcept nogil:
    """8: index, count - 1, parity."""
    if left(bits) < 16:
        return False
    out.sequence_index = <int> take(bits, 4)
    out.sequence_count = <int> take(bits, 4) + 1
    out.sequence_parity = <int> take(bits, 8)
    return True


cdef bint read_part(Bits* bits, int mode, int version, int* eci, Code* out) noexcept nogil:
    """What one mode indicator announces; False for what no QR code may have."""
    if mode in (NUMERIC, ALPHANUMERIC, BYTE, KANJI, HANZI):
        return read_segment(bits, mode, version, eci[0], out)
    if mode == ECI:
        return read_eci(bits, eci)
    if mode == APPEND:
        return read_append(bits, out)
    if mode == FNC1_SECOND:
        return read_application(bits, out)
    if mode == FNC1_FIRST:
        out.fnc1 = 1
        return True
    return False


cdef int read_stream(const uint8_t* data, int size, int version, Code* out) noexcept nogil:
    cdef Bits bits
    cdef int eci = -1
    cdef int mode
    bits.data = data
    bits.pos = 0
    bits.size = 8 * size
    out.fnc1 = out.application = 0
    out.sequence_index = -1
    out.sequence_count = out.sequence_parity = 0
    out.segment_count = out.size = 0
    while left(&bits) >= 4:
        mode = <int> take(&bits, 4)
        if mode == TERMINATOR:
            return QR_READ if out.size else QR_NONSENSE
        if not read_part(&bits, mode, version, &eci, out):
            return QR_NONSENSE
    # A terminator that is cut short by the end is still one (7.4.9): anything else is not.
    if left(&bits) > 0 and take(&bits, left(&bits)) != 0:
        return QR_NONSENSE
    return QR_READ if out.size else QR_NONSENSE


# ---- tables, and the door -----------------------------------------------------------------------

cdef void build_tables():
    cdef int i
    for i in range(1000):
        digits[i][0] = <uint8_t> (48 + i // 100)
        digits[i][1] = <uint8_t> (48 + i // 10 % 10)
        digits[i][2] = <uint8_t> (48 + i % 10)
    for i in range(2025):
        letters[i][0] = ALPHABET[i // 45]
        letters[i][1] = ALPHABET[i % 45]


build_tables()


cdef dict code_fields(const Code* code):
    """What read_stream writes, by the names of Code; data are bytes, segments tuples."""
    cdef int i
    return {
        "fnc1": code.fnc1,
        "application": code.application,
        "sequence": (code.sequence_index, code.sequence_count, code.sequence_parity),
        "segments": [
            (
                code.segments[i].mode,
                code.segments[i].eci,
                code.segments[i].begin,
                code.segments[i].size,
            )
            for i in range(code.segment_count)
        ],
        "data": PyBytes_FromStringAndSize(<const char*> code.data, code.size),
    }


def read_bits(data, version) -> dict | None:
    """The data codewords of a symbol of this version as a dict of native.qr.code.Code's fields.

    None for a stream that no encoder may write. `sequence` is (index, count, parity), a segment
    (mode, eci, begin, size).
    Raises ValueError for a version that is not of 1 .. 40, and for no data or more than 2956 bytes.
    """
    cdef int which = <int> check_int(version, 1, VERSION_MAX, "version")
    cdef Py_buffer view
    cdef uint8_t[DATA_MAX + BITS_PAD] padded
    cdef Code* code
    cdef int size, status
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len < 1 or view.len > DATA_MAX:
            raise ValueError("a symbol has 1 to 2956 data codewords")
        size = <int> view.len
        memcpy(padded, view.buf, size)
    finally:
        PyBuffer_Release(&view)
    memset(padded + size, 0xFF, BITS_PAD)
    code = <Code*> malloc(sizeof(Code))
    if code is NULL:
        raise MemoryError
    try:
        with nogil:
            status = read_stream(padded, size, which, code)
        return code_fields(code) if status == QR_READ else None
    finally:
        free(code)
