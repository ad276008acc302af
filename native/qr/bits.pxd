"""C face of native.qr.bits: the bit stream of a QR code as bytes and segments."""

from libc.stdint cimport uint8_t

from native.qr.code cimport Code

cdef enum:
    DATA_MAX = 2956             # data codewords of version 40-L
    BITS_PAD = 9                # bytes behind the data that must be readable, whatever they are


# Reads the data codewords of a symbol into data, size, segments, fnc1, application and sequence_*
# of `out`: QR_READ or QR_NONSENSE. 1 <= size <= DATA_MAX, and BITS_PAD bytes follow data[size - 1].
cdef int read_stream(const uint8_t* data, int size, int version, Code* out) noexcept nogil
# The same as a dict, for doors to Python.
cdef dict code_fields(const Code* code)
