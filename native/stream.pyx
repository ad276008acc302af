"""Streams that seal the columns of a day, by the kernel of the level in use.

One extension owns the kernels, the others call it: whoever walks sealed rows opens them by the
dozen, and a call for each dozen is nothing.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, uint64_t
from libc.string cimport memcpy

from native.checks cimport check_int
from native.cpu cimport level

cdef extern from "stream.h":
    ctypedef struct stream_kernel:
        void (*run)(
            const uint64_t* key, uint64_t first, const uint64_t* words, uint64_t* opened,
            size_t count,
        ) noexcept nogil
        void (*each)(
            const uint64_t* key, const uint64_t* at, uint64_t* words, size_t count
        ) noexcept nogil
    const stream_kernel* stream_kernel_at(int level) noexcept nogil


cdef void open_run(
    const uint64_t* key, uint64_t first, const uint64_t* words, uint64_t* opened, size_t count
) noexcept nogil:
    stream_kernel_at(level()).run(key, first, words, opened, count)


cdef void open_each(
    const uint64_t* key, const uint64_t* at, uint64_t* words, size_t count
) noexcept nogil:
    stream_kernel_at(level()).each(key, at, words, count)


def opened(bytes key not None, first, bytes words not None) -> bytes:
    """`open_run` of packed u64, from number `first` (below 2**63) on; for tests. ValueError."""
    cdef uint64_t number = <uint64_t> check_int(first, 0, INT64_MAX, "first")
    cdef bytes found = room_of(key, words)
    open_run(
        <const uint64_t*> PyBytes_AS_STRING(key), number,
        <const uint64_t*> PyBytes_AS_STRING(words), <uint64_t*> PyBytes_AS_STRING(found),
        <size_t> len(words) // sizeof(uint64_t),
    )
    return found


def opened_each(bytes key not None, bytes numbers not None, bytes words not None) -> bytes:
    """`open_each` of packed u64 and as many numbers; for tests. Raises ValueError."""
    cdef bytes found = room_of(key, words)
    if len(numbers) != len(words):
        raise ValueError("numbers and words are not as many")
    memcpy(PyBytes_AS_STRING(found), PyBytes_AS_STRING(words), <size_t> len(words))
    open_each(
        <const uint64_t*> PyBytes_AS_STRING(key), <const uint64_t*> PyBytes_AS_STRING(numbers),
        <uint64_t*> PyBytes_AS_STRING(found), <size_t> len(words) // sizeof(uint64_t),
    )
    return found


cdef bytes room_of(bytes key, bytes words):
    """For the words opened. Raises ValueError, MemoryError."""
    if len(key) != 16 or len(words) % sizeof(uint64_t):
        raise ValueError("a key or words have a broken size")
    return PyBytes_FromStringAndSize(NULL, len(words))
