"""C face of native.visits: what new scans changed."""

from libc.stdint cimport int64_t, uint32_t

from native.columns cimport Visit


cdef struct Ending:            # a visit that is no more: what tells it from all others
    int64_t start
    uint32_t person
    uint32_t place


cdef struct Changed:
    Visit* born                # owned: by person, of one person in no order
    size_t born_count
    size_t born_room
    Visit* ended               # owned: likewise
    size_t ended_count
    size_t ended_room


cdef class Changes:
    cdef Changed changed
