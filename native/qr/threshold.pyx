"""Local thresholds from sampled rows; the first stage of the reader.

A block whose values hardly differ has no edges worth finding: it gets the threshold of the blocks
around it, or 0, below which nothing is dark. What counts as a difference follows the picture: one
and a half times the range that the quieter quarter of its blocks shows, which is its noise.
"""

from libc.string cimport memset

from native.checks cimport check_int
from native.qr.luma cimport LUMA_BLOCK, kernels, luma_kernel
from native.qr.plane cimport Plane

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport free, malloc

cdef enum:
    CUT_LEAST = 12              # grey values; a dim lane shows codes of about 30
    CUT_MOST = 48
    NOISE_SIDE = 16             # pixels looked at across, and down
    NOISE_LEAST = 10            # grey values


cdef int block_count(int pixels) noexcept nogil:
    """Blocks that cover so many pixels."""
    return (pixels + LUMA_BLOCK - 1) // LUMA_BLOCK


cdef void find_thresholds(const Plane* plane, int row_step, Thresholds* out) noexcept nogil:
    """Thresholds of all blocks, from every row_step-th row (1 ... ROW_STEP_MAX).

    A block has LUMA_BLOCK columns, and as many rows or, with wide steps, four sampled ones. All
    arrays of `out` have room for block_count(width) x block_count(height). Smoothed over 3 x 3
    blocks that have contrast.
    """
    cdef const luma_kernel* kernel = kernels()
    cdef int row, y, sampled
    out.block_rows = row_step * max(4, (LUMA_BLOCK + row_step - 1) // row_step)
    out.columns = block_count(plane.width)
    out.rows = (plane.height + out.block_rows - 1) // out.block_rows
    for row in range(out.rows):
        # The rows that will be scanned for finders, and so are in the cache then.
        y = row * out.block_rows + row_step // 2
        if y >= plane.height:
            y = plane.height - 1
        sampled = min((row + 1) * out.block_rows, plane.height) - y
        sampled = (sampled + row_step - 1) // row_step
        kernel.block_ranges(
            plane.data + y * plane.stride, plane.stride * row_step, sampled, plane.width,
            out.lows + row * out.columns, out.highs + row * out.columns,
        )
    out.cut = contrast_cut(out)
    kernel.smooth(
        out.lows, out.highs, out.cut, out.columns, out.rows, out.sums, out.counts, out.values
    )


cdef int contrast_cut(const Thresholds* ranges) noexcept nogil:
    """The least range that counts: 1.5 times the 25th percentile of all ranges, within bounds."""
    cdef int histogram[256]
    cdef int count = ranges.rows * ranges.columns
    cdef int i, below = 0
    memset(histogram, 0, sizeof(histogram))
    # Every third block is enough to know the noise by.
    for i in range(0, count, 3):
        histogram[ranges.highs[i] - ranges.lows[i]] += 1
    i = 0
    while i < 255:
        below += histogram[i]
        if below * 12 > count:
            break
        i += 1
    return min(max(i * 3 // 2, CUT_LEAST), CUT_MOST)


cdef bint is_noisy(const Plane* plane) noexcept nogil:
    """Whether most pixels are unlike the ones beside and below them, of a plane of 2 x 2 at least.

    Of print and stripes no two fifths are, of a plane whose noise is 45 grey values three quarters.
    """
    cdef const uint8_t* at
    cdef int i, j, unlike = 0
    for j in range(NOISE_SIDE):
        at = plane.data + (plane.height - 1) * j // NOISE_SIDE * plane.stride
        for i in range(NOISE_SIDE):
            unlike += is_unlike(at + (plane.width - 1) * i // NOISE_SIDE, plane.stride)
    return 2 * unlike > NOISE_SIDE * NOISE_SIDE


cdef inline bint is_unlike(const uint8_t* pixel, Py_ssize_t stride) noexcept nogil:
    return (
        abs(<int>pixel[1] - <int>pixel[0]) >= NOISE_LEAST
        and abs(<int>pixel[stride] - <int>pixel[0]) >= NOISE_LEAST
    )


cdef void expand_row(const Thresholds* thresholds, int row, uint8_t* out) noexcept nogil:
    """The thresholds of one row of blocks, one a pixel; out has room for whole blocks."""
    kernels().expand(
        thresholds.values + row * thresholds.columns, thresholds.columns, out
    )


def thresholds(luma: object, width: int, height: int, stride: int, row_step: int = 4) -> tuple:
    """(columns, rows, cut, values) of a plane; for tests. Raises ValueError for a wrong size."""
    cdef int w = check_int(width, 1, 65_000, "width")
    cdef int h = check_int(height, 1, 65_000, "height")
    cdef Py_ssize_t pitch = check_int(stride, w, 1 << 40, "stride")
    cdef int step = check_int(row_step, 1, ROW_STEP_MAX, "row_step")
    cdef Py_buffer view
    cdef Plane plane
    cdef Thresholds grid
    cdef int count = block_count(w) * block_count(h)
    PyObject_GetBuffer(luma, &view, PyBUF_SIMPLE)
    try:
        if view.len < pitch * (h - 1) + w:
            raise ValueError("luma is shorter than its rows")
        values = PyBytes_FromStringAndSize(NULL, count)
        grid.values = <uint8_t*>PyBytes_AS_STRING(values)
        grid.sums = <uint16_t*>malloc(5 * count)
        if grid.sums == NULL:
            raise MemoryError
        grid.counts = <uint8_t*>(grid.sums + count)
        grid.lows = grid.counts + count
        grid.highs = grid.lows + count
        plane = Plane(<const uint8_t*>view.buf, pitch, w, h)
        find_thresholds(&plane, step, &grid)
        free(grid.sums)
    finally:
        PyBuffer_Release(&view)
    return grid.columns, grid.rows, grid.cut, values
