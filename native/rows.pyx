"""The row writer: packed rows of 48 bytes (engine.scans.rows.ROW), no Python object a scan."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT16_MAX, INT16_MIN, INT64_MAX, INT64_MIN, UINT32_MAX
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from native.checks cimport check_int

cdef extern from "machine.h":
    uint32_t load_u32(const uint8_t* at) noexcept nogil

cdef enum:
    ROOM_FIRST = 64
    ROOM_KEPT = 1 << 14       # after take(); a flood must not hold its memory for ever
    ROOM_MAX = 1 << 20        # 48 MB: who collects more has forgotten to take


cdef class RowBuffer:
    """Rows of one batch. One owner at a time: not for two threads at once.

    A value must fit its field of engine.scans.rows.ROW; what the values mean is checked above.
    """

    def __dealloc__(self):
        free(self.rows)

    def __reduce__(self):
        raise TypeError("a RowBuffer cannot be pickled")

    def __len__(self) -> int:
        return self.count

    def append(
        self,
        bytes person not None,
        time_ms,
        place,
        lane,
        n,
        direction,
        kind,
        source,
        flags,
        temperature_cc,
        area,
        vehicle,
        stay_ms,
    ) -> None:
        """Add one row. Units: time_ms ms since 1970 UTC, temperature_cc 0.01 degrees Celsius.

        Raises ValueError when a value does not fit its field, person has not 16 bytes, or the
        buffer holds 2**20 rows; nothing is added then.
        """
        cdef Row row
        if PyBytes_GET_SIZE(person) != 16:
            raise ValueError("person is not 16 bytes")
        # Every conversion may run Python code (__index__): touch the buffer only after the last.
        row.time_ms = check_int(time_ms, INT64_MIN, INT64_MAX, "time_ms")
        row.place = <uint32_t> check_int(place, 0, UINT32_MAX, "place")
        row.lane = <uint16_t> check_int(lane, 0, 0xFFFF, "lane")
        row.n = <uint16_t> check_int(n, 0, 0xFFFF, "n")
        row.direction = <uint8_t> check_int(direction, 0, 0xFF, "direction")
        row.kind = <uint8_t> check_int(kind, 0, 0xFF, "kind")
        row.source = <uint8_t> check_int(source, 0, 0xFF, "source")
        row.flags = <uint8_t> check_int(flags, 0, 0xFF, "flags")
        row.temperature_cc = <int16_t> check_int(
            temperature_cc, INT16_MIN, INT16_MAX, "temperature_cc"
        )
        row.area = <uint16_t> check_int(area, 0, 0xFFFF, "area")
        row.vehicle = <uint32_t> check_int(vehicle, 0, UINT32_MAX, "vehicle")
        row.stay_ms = <uint32_t> check_int(stay_ms, 0, UINT32_MAX, "stay_ms")
        memcpy(row.person, PyBytes_AS_STRING(person), 16)
        if self.count == self.room:
            make_room(self)
        self.rows[self.count] = row
        self.count += 1

    def take(self) -> bytes:
        """All rows as packed bytes; the buffer is empty afterwards."""
        cdef bytes packed = PyBytes_FromStringAndSize(
            <char*> self.rows, <Py_ssize_t> (self.count * sizeof(Row))
        )
        self.count = 0
        if self.room > ROOM_KEPT:
            free(self.rows)
            self.rows = NULL
            self.room = 0
        return packed


cdef int make_room(RowBuffer buffer) except -1:
    """Double the room of a full buffer; ROOM_MAX keeps the product far from overflow."""
    cdef size_t room = buffer.room * 2 if buffer.room else ROOM_FIRST
    cdef Row* rows
    if room > ROOM_MAX:
        raise ValueError("the row buffer is full: take() first")
    rows = <Row*> realloc(buffer.rows, room * sizeof(Row))
    if rows is NULL:
        raise MemoryError
    buffer.rows = rows
    buffer.room = room
    return 0


def split_entries(details, count) -> list:
    """Details of `count` rows, each u32 size and that many bytes, as a list of bytes.

    Raises ValueError when there are not exactly so many.
    """
    cdef int64_t rows = check_int(count, 0, INT64_MAX, "count")
    cdef Py_buffer view
    cdef const uint8_t* base
    cdef size_t at = 0, size, left
    cdef list found = []
    PyObject_GetBuffer(details, &view, PyBUF_SIMPLE)
    try:
        base = <const uint8_t*> view.buf
        size = view.len
        for _ in range(rows):
            left = size - at
            if left < 4 or load_u32(base + at) > left - 4:
                raise ValueError("details are not one entry for each row")
            left = load_u32(base + at)
            found.append(PyBytes_FromStringAndSize(<const char*> base + at + 4, left))
            at += 4 + left
    finally:
        PyBuffer_Release(&view)
    if at != size:
        raise ValueError("details are not one entry for each row")
    return found


def longest_details(details, count) -> int:
    """Bytes of the longest of the details of `count` rows, each u32 size and that many bytes.

    Raises ValueError when there are not exactly so many.
    """
    cdef Py_buffer view
    cdef size_t at = 0, size, left, longest = 0
    cdef int64_t rows = check_int(count, 0, INT64_MAX, "count")
    cdef bint is_whole = True
    PyObject_GetBuffer(details, &view, PyBUF_SIMPLE)
    size = view.len
    for _ in range(rows):
        left = size - at
        if left < 4 or load_u32(<const uint8_t*> view.buf + at) > left - 4:
            is_whole = False
            break
        left = load_u32(<const uint8_t*> view.buf + at)
        longest = max(longest, left)
        at += 4 + left
    PyBuffer_Release(&view)
    if not is_whole or at != size:
        raise ValueError("details are not one entry for each row")
    return longest
