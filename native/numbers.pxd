"""C face of native.numbers: persons by key and by number, and the newest row of each."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef struct Slot:              # number + 1, 0 while free
    uint32_t taken
    uint32_t tag


cdef struct Newest:            # 16 bytes
    int64_t time
    uint64_t ref               # 0 while nobody


cdef class PersonNumbers:
    cdef Slot* slots           # owned; open addressing, two thirds full at most
    cdef size_t mask
    cdef uint32_t count
    cdef size_t room           # persons that keys and newest have room for
    cdef bytearray keys        # 16 bytes by number
    cdef bytearray newest      # Newest by number
    cdef uint8_t* is_hole      # owned: by number, 1 for the dropped
