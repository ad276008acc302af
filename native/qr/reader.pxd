"""Reading of one plane: the order of the stages, and the memory they share."""

from libc.stdint cimport int16_t, uint8_t, uint16_t

from native.qr.code cimport CODEWORDS_MAX, MODULES_MAX, Code
from native.qr.evidence cimport Evidence, Found
from native.qr.finder cimport FINDERS_MAX, Finder, RowScratch
from native.qr.locate cimport Place
from native.qr.matrix cimport MatrixScratch
from native.qr.plane cimport Plane
from native.qr.sample cimport Grid
from native.qr.threshold cimport Thresholds
from native.qr.triple cimport Triple

cdef enum:
    # Percent of timing_agreement, to try harder than a plain reading.
    AGREEMENT_SURE = 80

cdef enum:
    TRIPLES_MAX = 128
    LEVELS_MAX = 3
    FOUND_MAX = 255
    PENDING_MAX = 4
    FAILURES_MAX = 32

# How a code was read: the least that was needed.
cdef enum:
    HOW_PLAIN = 1               # half way between dark and light around
    HOW_MEAN = 2                # against the mean around
    HOW_EQUALIZED = 3           # by the filter trained on known modules
    HOW_BENT = 4                # on a mesh moved to the edges
    HOW_FUSED = 5               # evidence of several frames joined
    HOW_REPEAT = 6              # the code of the frame before, by the exact rule

cdef struct Effort:             # how much is done for one plane
    int row_step
    int first_row               # below row_step; the row between is looked at when it may help
    int levels                  # 1 the given plane, 2 its quarter too, 3 its half where that helps
    int finders                 # kept in a plane, and all that are fine
    int triples                 # measured in a plane, and as many more for each code read
    int attempts                # in vain in a plane, and three more for each code read
    int thorough                # all ways of reading a symbol, all sizes of the plane

cdef struct Pending:            # of each code of the last level: what tracking needs
    Finder corners[3]
    uint8_t sent[CODEWORDS_MAX]
    Place place

cdef struct Failure:            # a triple of this level that was tried in vain
    float x                     # middle between b and c
    float y
    float corner_x              # a
    float corner_y

cdef struct Workspace:
    Thresholds thresholds
    RowScratch rows
    uint8_t* halved             # the half or the quarter of the plane
    uint8_t* memory             # all of the above
    size_t memory_size
    Finder finders[FINDERS_MAX]
    Triple triples[TRIPLES_MAX]
    Place place
    Grid grid
    MatrixScratch matrix
    Code code
    int how                     # of what is in code
    Finder last[3]              # the triple that was read last: corner, right, below
    int pending_count           # codes of the last level, as many as there is room for
    Pending pending[PENDING_MAX]
    int attempts                # of this size of the plane: symbols placed in vain
    int measured                # and triples measured
    int failure_count
    Failure failures[FAILURES_MAX]
    float skip_x                # triples around this point, within skip_reach, are left alone
    float skip_y
    float skip_reach
    int skip_plainly            # not left alone, but read in the plain way only
    int is_plain                # the triple at hand is
    int keep_unread             # asked for: the surest symbol that was placed and not read
    int unread_dim              # 0: none
    Finder unread[3]
    Place unread_place
    int16_t unread_soft[MODULES_MAX]

cdef bint is_readable(const Plane* plane) noexcept nogil
cdef int read_plane(
    Workspace* ws, const Plane* plane, const Effort* effort, Found* out, int room,
    Evidence* evidence,
) noexcept nogil
cdef int read_level(
    Workspace* ws, const Plane* plane, int halvings, const Effort* effort, Found* out, int found,
    int room, Evidence* evidence,
) noexcept nogil
cdef Plane quarter(Workspace* ws, const Plane* plane) noexcept nogil
cdef void keep_unread(
    Workspace* ws, const Finder* a, const Finder* b, const Finder* c
) noexcept nogil
cdef int decode_grid(Workspace* ws, int version) noexcept nogil
cdef int sharpen_grid(Workspace* ws, int version) noexcept nogil
cdef void note_found(const Workspace* ws, int halvings, Found* out) noexcept nogil
cdef int buffer_to_plane(object luma, void* view, Plane* plane) except 0
cdef int take_turn(bint* busy) except 0
cdef int buffer_to_plane_or_leave(object luma, void* view, Plane* plane, bint* busy) except 0
cdef tuple found_to_tuple(const Found* found)
