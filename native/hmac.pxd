"""C face of native.hmac: a MAC of one key and label, ready for short messages."""

from libc.stdint cimport uint8_t, uint32_t


cdef enum:
    LABEL_MAX = 32
    MESSAGE_MAX = 128          # bytes of one message to mac()


cdef class Hmac:
    cdef uint32_t inner[8]     # the state behind the key's inner and outer block
    cdef uint32_t outer[8]
    cdef uint8_t label[LABEL_MAX]
    cdef size_t label_size

    # message: at most MESSAGE_MAX bytes. digest: 32 bytes, written.
    cdef void mac(self, const uint8_t* message, size_t size, uint8_t* digest) noexcept nogil
    cdef void finish(self, const uint8_t* text, size_t size, uint8_t* digest) noexcept nogil
