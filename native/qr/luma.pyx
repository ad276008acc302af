"""The kernels over rows of luma, one set per instruction set, and doors to each for tests."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport calloc, free

from native cimport cpu
from native.checks cimport check_int

cdef extern from "luma.h":
    const luma_kernel* luma_kernel_at(int level) noexcept nogil


cdef const luma_kernel* kernels() noexcept nogil:
    return luma_kernel_at(cpu.level())


def block_ranges(plane: bytes, width: int, rows: int, stride: int) -> tuple[bytes, bytes]:
    """(lows, highs) of the blocks of so many rows. Raises ValueError for a plane too short."""
    cdef int w = check_int(width, 1, 65_000, "width")
    cdef int count = check_int(rows, 1, 64, "rows")
    cdef Py_ssize_t pitch = check_int(stride, w, 1 << 40, "stride")
    cdef int blocks = (w + LUMA_BLOCK - 1) // LUMA_BLOCK
    if len(plane) < pitch * (count - 1) + w:
        raise ValueError("plane is shorter than its rows")
    lows = PyBytes_FromStringAndSize(NULL, blocks)
    highs = PyBytes_FromStringAndSize(NULL, blocks)
    kernels().block_ranges(
        <const uint8_t*>PyBytes_AS_STRING(plane), pitch, count, w,
        <uint8_t*>PyBytes_AS_STRING(lows), <uint8_t*>PyBytes_AS_STRING(highs),
    )
    return lows, highs


def smooth(lows: bytes, highs: bytes, columns: int, cut: int) -> bytes:
    """Thresholds of blocks. Raises ValueError where the two do not make whole rows."""
    cdef int wide = check_int(columns, 1, 4096, "columns")
    cdef int least = check_int(cut, 1, 255, "cut")
    cdef int count = len(lows)
    if not count or count % wide or len(highs) != count:
        raise ValueError("lows and highs must be whole rows of columns")
    values = PyBytes_FromStringAndSize(NULL, count)
    cdef uint16_t* sums = <uint16_t*>calloc(count, 3)
    if sums == NULL:
        raise MemoryError
    kernels().smooth(
        <const uint8_t*>PyBytes_AS_STRING(lows), <const uint8_t*>PyBytes_AS_STRING(highs), least,
        wide, count // wide, sums, <uint8_t*>(sums + count), <uint8_t*>PyBytes_AS_STRING(values),
    )
    free(sums)
    return values


def expand(values: bytes) -> bytes:
    """Each value LUMA_BLOCK times."""
    out = PyBytes_FromStringAndSize(NULL, len(values) * LUMA_BLOCK)
    kernels().expand(
        <const uint8_t*>PyBytes_AS_STRING(values), <int>len(values),
        <uint8_t*>PyBytes_AS_STRING(out),
    )
    return out


def row_edges(row: bytes, thresholds: bytes) -> list[int]:
    """Where a row changes between light and dark. Raises ValueError for unlike lengths."""
    cdef int width = check_int(len(row), 0, 65_000, "the row's length")
    if len(thresholds) != width:
        raise ValueError("row and thresholds must be of one length")
    cdef uint16_t* edges = <uint16_t*>calloc(width + 1 + LUMA_EDGES_PAD, sizeof(uint16_t))
    if edges == NULL:
        raise MemoryError
    cdef int count = kernels().row_edges(
        <const uint8_t*>PyBytes_AS_STRING(row), <const uint8_t*>PyBytes_AS_STRING(thresholds),
        width, edges,
    )
    found = [edges[i] for i in range(count)]
    free(edges)
    return found


def finder_runs(edges: list[int]) -> list[int]:
    """Numbers of the edges that begin five runs in the proportions of a finder.

    Raises ValueError for edges that do not rise from 0 to 65,535.
    """
    cdef int count = len(edges)
    cdef uint16_t* memory = <uint16_t*>calloc(2 * (count + LUMA_EDGES_PAD), sizeof(uint16_t))
    cdef uint16_t* starts = memory + count + LUMA_EDGES_PAD
    cdef int i, last = -1
    if memory == NULL:
        raise MemoryError
    try:
        for i in range(count):
            memory[i] = <uint16_t>check_int(edges[i], last + 1, 65_535, "an edge")
            last = memory[i]
        count = kernels().finder_runs(memory, count, starts)
        return [starts[i] for i in range(count)]
    finally:
        free(memory)


def shrink(plane: bytes, width: int, height: int, stride: int, factor: int) -> bytes:
    """The plane at half (factor 2) or a quarter (4) of its size, rows without padding.

    Raises ValueError for another factor or a plane too short.
    """
    cdef int by = check_int(factor, 2, 4, "factor")
    cdef int w = check_int(width, by, 65_000, "width")
    cdef int h = check_int(height, by, 65_000, "height")
    cdef Py_ssize_t pitch = check_int(stride, w, 1 << 40, "stride")
    if by == 3 or len(plane) < pitch * (h - 1) + w:
        raise ValueError("factor must be 2 or 4, and plane as long as its rows")
    out = PyBytes_FromStringAndSize(NULL, (w // by) * (h // by))
    (kernels().halve if by == 2 else kernels().quarter)(
        <const uint8_t*>PyBytes_AS_STRING(plane), pitch, w // by, h // by,
        <uint8_t*>PyBytes_AS_STRING(out), w // by,
    )
    return out
