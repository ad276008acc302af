"""The memory of one reader: allocated when a larger plane comes, and never for a frame."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport calloc, free

from native.qr.luma cimport LUMA_BLOCK, LUMA_EDGES_PAD
from native.qr.reader cimport Workspace
from native.qr.threshold cimport block_count


cdef Workspace* workspace_new() noexcept nogil:
    """Zeroed memory for one reader, or NULL."""
    return <Workspace*>calloc(1, sizeof(Workspace))


cdef void workspace_free(Workspace* ws) noexcept nogil:
    if ws != NULL:
        free(ws.memory)
        free(ws)


cdef int workspace_fit(Workspace* ws, int width, int height) noexcept nogil:
    """Makes room for planes of this size; 0 when there is no memory."""
    cdef size_t blocks = <size_t>block_count(width) * block_count(height)
    cdef size_t row = <size_t>block_count(width) * LUMA_BLOCK
    cdef size_t half = <size_t>(width // 2) * (height // 2)
    cdef size_t edges = (row + LUMA_EDGES_PAD + 8) * sizeof(uint16_t)
    cdef size_t size = 6 * blocks + row + 2 * edges + half + 64
    cdef uint8_t* at
    if size > ws.memory_size:
        free(ws.memory)
        ws.memory_size = 0
        # Zeroed, as finder_runs may look at entries behind the last edge.
        ws.memory = <uint8_t*>calloc(1, size)
        if ws.memory == NULL:
            return 0
        ws.memory_size = size
    at = ws.memory
    ws.rows.edges = <uint16_t*>at
    at += edges
    ws.rows.starts = <uint16_t*>at
    at += edges
    ws.thresholds.sums = <uint16_t*>at
    at += 2 * blocks
    ws.thresholds.counts = at
    at += blocks
    ws.rows.thresholds = at
    at += row
    ws.thresholds.values = at
    at += blocks
    ws.thresholds.lows = at
    at += blocks
    ws.thresholds.highs = at
    at += blocks
    ws.halved = at
    return 1
