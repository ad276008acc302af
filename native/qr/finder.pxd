"""Finder patterns: found on sampled rows, checked on grey values in eight directions."""

from libc.stdint cimport uint8_t, uint16_t

from native.qr.plane cimport Plane
from native.qr.threshold cimport Thresholds

cdef enum:
    FINDERS_MAX = 256
    QUADS_MAX = 64
    AGREEING_FIRST = 4          # directions, before the centre is known
    AGREEING_LEAST = 6

cdef struct Finder:
    float x                     # centre, pixels
    float y
    float size                  # pixels a module, mean over all directions
    float dark                  # grey value of the core
    float light                 # of the ring around it; below dark for light-on-dark codes
    int sign                    # 1 dark on light, -1 light on dark
    int agreeing                # of eight directions, those in proportion
    float fault                 # how far edges are from where they should be, modules, mean
    int used                    # by the reader: belongs to a code that was read

cdef struct RowScratch:         # for one row; room as luma.h asks for it
    uint8_t* thresholds
    uint16_t* edges
    uint16_t* starts
    int quad_count              # areas of codes that are known, where no finder is looked for
    float quads[8 * QUADS_MAX]  # x, y of the corners of each, in turn

cdef int find_finders(
    const Plane* plane, const Thresholds* thresholds, int first_row, int row_step,
    RowScratch* scratch, Finder* out, int count, int room,
) noexcept nogil
cdef int check_finder(
    const Plane* plane, int x, int y, float span, int dark, int light, int first_look, int needed,
    Finder* out,
) noexcept nogil
cdef void finder_rays(
    const Plane* plane, const Finder* finder, float[3]* radii, int* found
) noexcept nogil
cdef float reach_along(
    const Plane* plane, const Finder* finder, float dx, float dy
) noexcept nogil
cdef int keep_best(Finder* finders, int count, int most, float fine) noexcept nogil
