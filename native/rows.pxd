"""C face of native.rows: the row of 48 bytes as a struct, and the buffer that collects rows."""

from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t


cdef struct Row:
    uint8_t person[16]       # person key
    int64_t time_ms          # device time, ms since 1970 UTC
    uint32_t place           # number of a post or venue in the registry
    uint16_t lane            # lane of a post, room of a venue
    uint16_t n               # row within its sequence number
    uint8_t direction        # 0 none, 1 in, 2 out
    uint8_t kind             # 1 scan, 2 check-in, 3 manual
    uint8_t source           # card, app or issuer
    uint8_t flags
    int16_t temperature_cc   # 0.01 degrees Celsius, -32768 where none
    uint16_t area            # residence area, 0 where unknown
    uint32_t vehicle         # vehicle or trip, 0 where none
    uint32_t stay_ms         # told length of a check-in's visit, 0 where none


cdef class RowBuffer:
    cdef Row* rows           # owned; NULL while room is 0
    cdef size_t count        # rows written
    cdef size_t room         # rows allocated
