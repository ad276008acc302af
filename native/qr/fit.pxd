"""The projective map between modules of a symbol and pixels, fitted to edges."""

from native.qr.plane cimport Plane

cdef struct Map:                # module (u, v) -> pixel (x, y), homogeneous
    float m[9]

cdef struct Fit:                # normal equations of its inverse
    double a[8][8]
    double b[8]
    double centre_x             # pixels are centred and scaled, for the numbers' sake
    double centre_y
    double scale
    double half                 # half the symbol's side, modules
    int count

cdef inline void map_point(const Map* map, float u, float v, float* x, float* y) noexcept nogil:
    """Pixel coordinates of the point (u, v), whole numbers being the edges of modules."""
    cdef float w = 1 / (map.m[6] * u + map.m[7] * v + map.m[8])
    x[0] = (map.m[0] * u + map.m[1] * v + map.m[2]) * w
    y[0] = (map.m[3] * u + map.m[4] * v + map.m[5]) * w

cdef int map_of_square(
    float dim, const float* xs, const float* ys, Map* out
) noexcept nogil
cdef int map_to_square(const Map* map, double* inverse) noexcept nogil
cdef void fit_begin(Fit* fit, float dim, float x, float y, float scale) noexcept nogil
cdef void fit_edge(Fit* fit, int axis, float line, float x, float y, float weight) noexcept nogil
cdef int fit_solve(Fit* fit, Map* out) noexcept nogil
cdef int probe(
    const Plane* plane, const Map* map, int axis, float u, float v, int rises, float threshold,
    float reach, float* x, float* y, float* off,
) noexcept nogil
