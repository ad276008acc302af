"""C face of native.wire: the packed heads and entries as structs, all little-endian."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef struct FrameHead:       # 32 bytes
    uint8_t type
    uint8_t flags
    uint16_t channel
    uint32_t length          # bytes of the body
    uint64_t seq
    uint64_t offset          # of the body in the buffer, bytes
    uint64_t pad


cdef struct Entry:           # 64 bytes; engine.wire.frames.ENTRY reads it
    uint8_t kind             # 1 SCAN, 2 CHECKIN, 3 MANUAL
    uint8_t direction        # 0 none, 1 in, 2 out
    uint8_t who_form         # FORM_*
    uint8_t venue_form       # FORM_*
    uint16_t lane
    uint16_t n               # index in the array
    int64_t time_ms          # ms since 1970 UTC, never negative
    uint32_t who_off         # offsets into the body and sizes, bytes
    uint32_t who_len
    uint32_t venue_off
    uint32_t venue_len
    uint32_t aux_off
    uint32_t aux_len         # 0 where there is no aux
    uint32_t flags
    uint32_t source
    uint32_t venue_id
    uint8_t pad[12]
