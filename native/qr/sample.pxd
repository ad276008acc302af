"""From a place in the picture to soft modules: how dark each one is, and how surely."""

from libc.stdint cimport int16_t, uint8_t

from native.qr.code cimport DIM_MAX, MODULES_MAX
from native.qr.locate cimport Place
from native.qr.plane cimport Plane

cdef enum:
    TILES_MAX = 45              # a side: tiles of 4 x 4 modules of version 40
    TAPS = 10                   # 3 x 3 modules and a constant

cdef struct Grid:
    int dim
    float grey[MODULES_MAX]     # luma at the middle of each module
    float even[MODULES_MAX]     # (level - grey) in units of the local half contrast, + is dark
    int16_t soft[MODULES_MAX]
    uint8_t near[MODULES_MAX]   # luma of the pixel under each, where that was asked for
    float padded[(DIM_MAX + 2) * (DIM_MAX + 2)]     # even, for the equalizer
    float level[TILES_MAX * TILES_MAX]      # of each tile: what is between dark and light
    float low[TILES_MAX * TILES_MAX]
    float high[TILES_MAX * TILES_MAX]

cdef int sample_grid(const Plane* plane, const Place* place, Grid* grid) noexcept nogil
cdef int sample_near(
    const Plane* plane, const Place* place, Grid* grid, float least_contrast
) noexcept nogil
cdef void soften(Grid* grid, int sign, float least_contrast) noexcept nogil
cdef void soften_by_mean(Grid* grid, int sign) noexcept nogil
cdef int equalize(Grid* grid, int version, int sign, int rounds) noexcept nogil
cdef int bend_to_edges(const Plane* plane, Place* place, const Grid* grid) noexcept nogil
cdef int swing_corner(const Plane* plane, Place* place, const Grid* grid) noexcept nogil
cdef int known_errors(const Grid* grid, int version) noexcept nogil
