"""C face of native.qr.matrix: a grid of soft modules in, a code out; and the exact repeat rule.

A grid is dim * dim values, row by row: > 0 dark, < 0 light, 0 unknown; the magnitude says how sure
it is, on any scale. `mirrored` reads it with rows and columns exchanged. Versions, levels and masks
must be valid, and a dim one of a version: only decode_matrix checks.
"""

from libc.stdint cimport int16_t, uint8_t, uint16_t

from native.qr.bits cimport BITS_PAD, DATA_MAX
from native.qr.code cimport CODEWORDS_MAX, Code


cdef struct MatrixScratch:                     # 22 kB; one a thread
    uint8_t[CODEWORDS_MAX] raw                 # as sampled, still masked, in the symbol's order
    uint8_t[CODEWORDS_MAX] sent                # after QR_READ: what a perfect sampling had given
    uint16_t[CODEWORDS_MAX] reliability        # of raw
    uint8_t[CODEWORDS_MAX] blocks              # one after the other, its check codewords last
    uint8_t[DATA_MAX + BITS_PAD] data
    int said_version                           # by the version words; 0 if unreadable or below 7


# The format that fits both copies best: how many of their 30 bits are wrong, or -1 where no valid
# word is near enough.
cdef int read_format(
    const int16_t* soft, int dim, int mirrored, int* level, int* mask
) noexcept nogil
# The version whose word is nearest to a copy and within 3 bits of it; 0 if none, or below 7.
cdef int read_version(const int16_t* soft, int dim, int mirrored) noexcept nogil
# Hard bits of all codewords, still masked, and the least magnitude in each; dark is 1, unknown 0.
cdef void take_codewords(
    const int16_t* soft, int version, int mirrored, uint8_t* raw, uint16_t* reliability
) noexcept nogil
# A QR_ status; only QR_READ leaves a code in `out`, and raw, reliability and sent in `scratch`.
# After QR_NO_VERSION said_version of `scratch` is the version to sample for.
cdef int decode_matrix(
    const int16_t* soft, int dim, Code* out, MatrixScratch* scratch
) noexcept nogil
# 1 if raw is a sampling of the symbol `sent`: in no block are more codewords different than that
# level corrects; else 0. worst: the most differences in a block.
cdef int same_code(
    const uint8_t* raw, const uint8_t* sent, int version, int level, int* worst
) noexcept nogil
