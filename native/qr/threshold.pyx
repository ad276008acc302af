"""Local thresholds from sampled rows; the first stage of the reader.

A block whose values hardly differ has no edges worth finding: it gets the threshold of the blocks
around it, or 0, below which nothing is dark. What counts as a difference follows the picture: one
and a half times the range that the quieter quarter of its blocks shows, which is its noise.
"""

from libc.string cimport memset

from native cimport cpu
from native.checks cimport check_int
from native.qr.plane cimport Plane

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport free, malloc

cdef extern from "luma.h":
    ctypedef struct luma_kernel:
        void (*block_ranges)(const uint8_t*, Py_ssize_t, int, int, uint8_t*, uint8_t*) noexcept nogil
    const luma_kernel* luma_kernel_at(int) noexcept nogil

# 65536 / (2 * n), rounded down.
cdef int[10] RECIPROCALS = [0, 32768, 16384, 10922, 8192, 6553, 5461, 4681, 4096, 3640]

cdef enum:
    CUT_LEAST = 12              # grey values; a dim lane shows codes of about 30
    CUT_MOST = 48


cdef int block_count(int pixels) noexcept nogil:
    """Blocks that cover so many pixels."""
    return (pixels + LUMA_BLOCK - 1) // LUMA_BLOCK


cdef void find_thresholds(const Plane* plane, int row_step, Thresholds* out) noexcept nogil:
    """Thresholds of all blocks, from every row_step-th row (1 ... ROW_STEP_MAX).

    A block has LUMA_BLOCK columns, and as many rows or, with wide steps, four sampled ones. All arrays
    of `out` have room for block_count(width) x block_count(height). Smoothed over 3 x 3 blocks that
    have contrast.
    """
    cdef const luma_kernel* kernel = luma_kernel_at(cpu.level())
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
    smooth(out)


cdef int contrast_cut(const Thresholds* ranges) noexcept nogil:
    """The least range that counts: 1.5 times the 25th percentile of all ranges, within bounds."""
    cdef int histogram[256]
    cdef int count = ranges.rows * ranges.columns
    cdef int i, below = 0
    memset(histogram, 0, sizeof(histogram))
    for i in range(count):
        histogram[ranges.highs[i] - ranges.lows[i]] += 1
    i = 0
    while i < 255:
        below += histogram[i]
        if below * 4 > count:
            break
        i += 1
    return min(max(i * 3 // 2, CUT_LEAST), CUT_MOST)


cdef void smooth(Thresholds* grid) noexcept nogil:
    """Mean of (low + high) / 2 over the blocks with contrast among a block and its neighbours.

    Columns first: the sums of three blocks replace lows and highs, eight bits being too few, in two
    16-bit arrays.
    """
    cdef int columns = grid.columns
    cdef int x, y, at, above, below, total, count, low, high
    cdef uint16_t* sums = grid.sums
    cdef uint16_t* counts = grid.counts
    for y in range(grid.rows):
        at = y * columns
        for x in range(columns):
            low = grid.lows[at + x]
            high = grid.highs[at + x]
            count = high - low >= grid.cut
            counts[at + x] = <uint16_t>count
            sums[at + x] = <uint16_t>((low + high) & -count)
    for y in range(grid.rows):
        at = y * columns
        above = at - columns if y > 0 else at
        below = at + columns if y + 1 < grid.rows else at
        # At the upper and lower border the row itself counts twice, which is as good.
        smooth_columns(
            sums + above, sums + at, sums + below, counts + above, counts + at, counts + below,
            columns, grid.values + at,
        )


cdef inline void smooth_columns(
    const uint16_t* s0, const uint16_t* s1, const uint16_t* s2, const uint16_t* c0,
    const uint16_t* c1, const uint16_t* c2, int columns, uint8_t* out,
) noexcept nogil:
    cdef int x, total, count
    cdef int left = 0, left_count = 0
    cdef int here = s0[0] + s1[0] + s2[0]
    cdef int here_count = c0[0] + c1[0] + c2[0]
    cdef int right, right_count
    for x in range(columns):
        right = 0
        right_count = 0
        if x + 1 < columns:
            right = s0[x + 1] + s1[x + 1] + s2[x + 1]
            right_count = c0[x + 1] + c1[x + 1] + c2[x + 1]
        total = left + here + right
        count = left_count + here_count + right_count
        # total / (2 * count), by the reciprocal; 0 where nothing has contrast.
        out[x] = <uint8_t>((total * RECIPROCALS[count] >> 16) + (1 if count else 0))
        left = here
        left_count = here_count
        here = right
        here_count = right_count


cdef void expand_row(const Thresholds* thresholds, int row, uint8_t* out) noexcept nogil:
    """The thresholds of one row of blocks, one a pixel; out has room for whole blocks."""
    cdef const uint8_t* values = thresholds.values + row * thresholds.columns
    cdef int column
    for column in range(thresholds.columns):
        memset(out + column * 16, values[column], 16)


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
        grid.sums = <uint16_t*>malloc(6 * count)
        if grid.sums == NULL:
            raise MemoryError
        grid.counts = grid.sums + count
        grid.lows = <uint8_t*>(grid.counts + count)
        grid.highs = grid.lows + count
        plane = Plane(<const uint8_t*>view.buf, pitch, w, h)
        find_thresholds(&plane, step, &grid)
        free(grid.sums)
    finally:
        PyBuffer_Release(&view)
    return grid.columns, grid.rows, grid.cut, values
