"""C face of native.qr.luma: kernels over rows of luma; what each does stands in src/luma.h."""

from libc.stdint cimport uint8_t, uint16_t

cdef extern from "luma.h":
    enum:
        LUMA_BLOCK
        LUMA_EDGES_PAD
    ctypedef struct luma_kernel:
        void (*block_ranges)(
            const uint8_t* row, Py_ssize_t stride, int row_count, int width, uint8_t* lows,
            uint8_t* highs,
        ) noexcept nogil
        void (*smooth)(
            const uint8_t* lows, const uint8_t* highs, int cut, int columns, int rows,
            uint16_t* sums, uint8_t* counts, uint8_t* values,
        ) noexcept nogil
        void (*expand)(const uint8_t* values, int columns, uint8_t* out) noexcept nogil
        int (*row_edges)(
            const uint8_t* row, const uint8_t* thresholds, int width, uint16_t* edges
        ) noexcept nogil
        int (*finder_runs)(const uint16_t* edges, int edge_count, uint16_t* starts) noexcept nogil
        void (*halve)(
            const uint8_t* source, Py_ssize_t source_stride, int width, int height,
            uint8_t* target, Py_ssize_t target_stride,
        ) noexcept nogil
        void (*quarter)(
            const uint8_t* source, Py_ssize_t source_stride, int width, int height,
            uint8_t* target, Py_ssize_t target_stride,
        ) noexcept nogil

# The kernels of the level in use; ask once a stage.
cdef const luma_kernel* kernels() noexcept nogil
