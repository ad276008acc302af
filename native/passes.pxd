"""A pass along rows of a table, upwards. Sealed ones are opened some at a time: opening is most of
what a row costs, and the kernels of native.stream open eight in the time of three.
"""

from libc.stdint cimport uint32_t, uint64_t

from native.columns cimport OF_WHOM, Columns
from native.index cimport Span, Table, load_span, span_of
from native.stream cimport open_run

cdef enum:
    OPENED_MAX = 64


cdef struct Pass:
    const Table* table
    size_t stop                # rows from here on are not asked for
    size_t first               # rows [first, opened) stand in `whom`
    size_t opened
    uint64_t whom[OPENED_MAX]


cdef inline void set_out(Pass* going, const Table* table, size_t stop) noexcept nogil:
    """`whom` is left as it is."""
    going.table = table
    going.stop = stop
    going.first = going.opened = 0


cdef inline void open_next(Pass* going, size_t at) noexcept nogil:
    cdef const Columns* columns = going.table.columns
    cdef size_t count = min(going.stop - at, <size_t> OPENED_MAX)
    open_run(
        columns.key, <uint64_t> OF_WHOM << 56 | at, columns.whom + at, going.whom, count
    )
    going.first = at
    going.opened = at + count


cdef inline Span span_on(Pass* going, size_t at) noexcept nogil:
    """As load_span. at: below `stop`, and never less than before."""
    if going.table.columns is NULL:
        return load_span(going.table, at)
    if at >= going.opened:
        open_next(going, at)
    return span_of(going.table, at, going.whom[at - going.first])
