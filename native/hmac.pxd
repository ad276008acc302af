"""C face of native.hmac: a MAC of a key and label, or of several in turn, for short messages."""

from libc.stdint cimport uint8_t, uint32_t


cdef enum:
    LABEL_MAX = 32
    MESSAGE_MAX = 128          # bytes of one message to mac()
    STEPS_MAX = 16


cdef struct Step:              # one key and label
    uint32_t inner[8]          # the state behind the key's inner and outer block
    uint32_t outer[8]
    uint8_t label[LABEL_MAX]
    size_t label_size


cdef class Hmac:
    cdef Step steps[STEPS_MAX]
    cdef size_t count
    cdef size_t kept           # bytes of a digest that the next step takes

    # message: at most MESSAGE_MAX bytes. digest: 32 bytes, written.
    cdef void mac(self, const uint8_t* message, size_t size, uint8_t* digest) noexcept nogil
    cdef void go_on(self, uint8_t* digest) noexcept nogil
    cdef void renew_rows(self, uint8_t* at, size_t count, size_t stride) noexcept nogil
