"""Local thresholds: what counts as dark in each block of 16 columns and some sampled rows."""

from libc.stdint cimport uint8_t, uint16_t

from native.qr.plane cimport Plane

cdef enum:
    ROW_STEP_MAX = 8            # rows; further apart, cores of three modules fall between them

cdef struct Thresholds:
    int columns                 # blocks
    int rows
    int block_rows              # pixels a block is high
    int cut                     # least range of a block that counts as contrast
    uint8_t* values             # rows x columns, 0 where a block and all around it is flat
    uint8_t* lows               # scratch of the same size
    uint8_t* highs
    uint8_t* counts
    uint16_t* sums

cdef int block_count(int pixels) noexcept nogil
cdef bint is_noisy(const Plane* plane) noexcept nogil
cdef void find_thresholds(const Plane* plane, int row_step, Thresholds* out) noexcept nogil
cdef void expand_row(const Thresholds* thresholds, int row, uint8_t* out) noexcept nogil
