"""Three finders that may be the corners of one symbol."""

from native.qr.finder cimport Finder
from native.qr.plane cimport Plane

cdef enum:
    OFF_UNKNOWN = 99            # of a triple whose timing patterns cannot be counted

cdef struct Triple:
    int a                       # index of the finder in the corner between the two others
    int b                       # at the end of the upper side, seen upright and not mirrored
    int c                       # at the end of the left side
    int dim                     # modules a side, 21 ... 177
    int other                   # the side by the distances, where they are sure of another; or 0
    int off                     # steps of the timing patterns that were not as they should be
    int steps_b                 # changes counted along the timing pattern towards b, and c
    int steps_c
    float score                 # the less, the more alike a square; orders the triples

cdef int rank_triples(
    const Finder* finders, int count, float score_most, Triple* out, int room
) noexcept nogil
cdef int measure_triple(const Plane* plane, const Finder* finders, Triple* triple) noexcept nogil
