"""C face of native.qr.correct: Reed-Solomon blocks of QR codes, errors and erasures."""

from libc.stdint cimport uint8_t

cdef enum:
    CHECK_MIN = 2               # check codewords a block may have
    CHECK_MAX = 30
    BLOCK_MAX = 255


# Mends a block of `size` codewords in place, the last `ecc` of them check codewords; how many were
# wrong, or -1 with the block as it was. `erased` are indices into the block, each once, of
# codewords that may be anything. Refused is what takes 2 * errors + erased_count > 2 * limit.
# CHECK_MIN <= ecc <= CHECK_MAX, ecc < size <= BLOCK_MAX, 0 <= 2 * limit <= ecc.
cdef int correct_block(
    uint8_t* block, int size, int ecc, const uint8_t* erased, int erased_count, int limit
) noexcept nogil
