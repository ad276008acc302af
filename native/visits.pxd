"""C face of native.visits: the visit as a struct, and what new scans changed."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef struct Visit:             # 48 bytes, engine.visits.VISIT
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


cdef struct Ending:            # a visit that is no more: what tells it from all others
    int64_t start
    uint32_t person
    uint32_t place


cdef struct Changed:
    Visit* born                # owned: by person, of one person in no order
    size_t born_count
    size_t born_room
    Ending* ended              # owned: likewise
    size_t ended_count
    size_t ended_room


cdef class Changes:
    cdef Changed changed
