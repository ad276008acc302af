"""What a plane showed, read and unread."""

from libc.string cimport memcpy

from native.qr.code cimport BYTES_MAX, Code
from native.qr.finder cimport Finder
from native.qr.plane cimport Plane

cdef enum:
    MARKS_MAX = 256

cdef float FAULT_FINE

cdef struct Found:
    int how
    int halvings                # of the plane it was read on
    int inverted                # light on dark
    # x, y of the outer corners: the symbol's own upper left, upper right, lower right, lower left.
    float corners[8]
    Code code                   # last: see copy_found


cdef inline void copy_found(Found* target, const Found* source) noexcept nogil:
    memcpy(target, source, sizeof(Found) - BYTES_MAX + source.code.size)


cdef struct Mark:               # something that may belong to a code that was not read
    float x                     # pixels of the plane as given
    float y
    float reach
    int is_symbol               # a sure one, else a fine finder
    int is_explained            # by a code that was read
    float ends[4]               # x, y of the two outer finders of a symbol

cdef struct Evidence:
    int finders                 # most on one level that belong to no code that was read
    int triples                 # timing patterns fit, and yet the code could not be read
    int attempts                # symbols placed
    int sure                    # of triples, those whose timing patterns agree well
    int mark_count
    Mark marks[MARKS_MAX]
    int measured                # triples whose timing was looked at
    int seen                    # finders on all levels
    int fine                    # finders that are fine and belong to no code
    # Left, top, right, bottom of those and of sure symbols not read, with what may lie around them;
    # pixels of the plane as given.
    float box[4]

cdef int is_in_code(const Found* found, float x, float y) noexcept nogil
cdef void add_mark(
    Evidence* evidence, float x, float y, float reach, int halvings, const Finder* b,
    const Finder* c,
) noexcept nogil
cdef void note_unused(
    const Finder* finders, int count, int halvings, Evidence* evidence
) noexcept nogil
cdef int has_good_finder(const Finder* finders, int count) noexcept nogil
cdef bint deserves_half(const Evidence* evidence, const Plane* plane) noexcept nogil
cdef void weigh_marks(Evidence* evidence, const Found* found, int count) noexcept nogil
