"""C face of native.stream: words of sealed columns, opened or sealed several at a time.

native.columns.stream is the stream's word of one number.
"""

from libc.stdint cimport uint64_t


# opened[i] = words[i] ^ the stream's word `first + i`; opened may be words.
cdef void open_run(
    const uint64_t* key, uint64_t first, const uint64_t* words, uint64_t* opened, size_t count
) noexcept nogil

# words[i] ^= the stream's word at[i].
cdef void open_each(
    const uint64_t* key, const uint64_t* at, uint64_t* words, size_t count
) noexcept nogil
