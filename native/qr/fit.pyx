"""The projective map between modules and pixels.

An edge between two modules lies on a line u = k or v = k of the symbol, so a measured edge at pixel
p gives one linear equation for the inverse map: with rows a, b, c of that 3 x 3 matrix,

    a.p - k (c.p) = 0      for an edge on u = k
    b.p - k (c.p) = 0      for an edge on v = k           (c has 1 as its last entry)

Edges of finders, timing and alignment patterns all enter the same least squares; no corner has to
be found, and no pattern is needed that this symbol may not have.
"""

from libc.math cimport fabs, fabsf, sqrt
from libc.string cimport memset

from native.qr.plane cimport Plane, grey_at, is_inside


cdef void fit_begin(Fit* fit, float dim, float x, float y, float scale) noexcept nogil:
    """An empty fit for a symbol of dim modules around pixel (x, y); scale: about its half side."""
    memset(fit, 0, sizeof(Fit))
    fit.centre_x = x
    fit.centre_y = y
    fit.scale = 1 / scale
    fit.half = dim * 0.5


cdef void fit_edge(Fit* fit, int axis, float line, float x, float y, float weight) noexcept nogil:
    """Adds an edge at pixel (x, y) on the line u = line (axis 0) or v = line (axis 1)."""
    cdef double px = (x - fit.centre_x) * fit.scale
    cdef double py = (y - fit.centre_y) * fit.scale
    cdef double k = line / fit.half - 1
    cdef int first = 3 * axis
    cdef double r0 = px * weight
    cdef double r1 = py * weight
    cdef double r2 = weight
    cdef double r6 = -k * px * weight
    cdef double r7 = -k * py * weight
    cdef double target = k * weight
    # Only the lower triangle is kept; rows 6 and 7 come last in it.
    fit.a[first][first] += r0 * r0
    fit.a[first + 1][first] += r1 * r0
    fit.a[first + 1][first + 1] += r1 * r1
    fit.a[first + 2][first] += r2 * r0
    fit.a[first + 2][first + 1] += r2 * r1
    fit.a[first + 2][first + 2] += r2 * r2
    fit.a[6][first] += r6 * r0
    fit.a[6][first + 1] += r6 * r1
    fit.a[6][first + 2] += r6 * r2
    fit.a[6][6] += r6 * r6
    fit.a[7][first] += r7 * r0
    fit.a[7][first + 1] += r7 * r1
    fit.a[7][first + 2] += r7 * r2
    fit.a[7][6] += r7 * r6
    fit.a[7][7] += r7 * r7
    fit.b[first] += r0 * target
    fit.b[first + 1] += r1 * target
    fit.b[first + 2] += r2 * target
    fit.b[6] += r6 * target
    fit.b[7] += r7 * target
    fit.count += 1


cdef int fit_solve(Fit* fit, Map* out) noexcept nogil:
    """Least squares by Cholesky's method; 0 where the edges do not determine a map."""
    cdef double[8][8] low
    cdef double[8] z
    cdef int i, j, k
    cdef double total
    if fit.count < 12:
        return 0
    for i in range(8):
        for j in range(i + 1):
            total = fit.a[i][j]
            for k in range(j):
                total -= low[i][k] * low[j][k]
            if i == j:
                if total < 1e-7:
                    return 0
                low[i][i] = sqrt(total)
            else:
                low[i][j] = total / low[j][j]
    for i in range(8):
        total = fit.b[i]
        for k in range(i):
            total -= low[i][k] * z[k]
        z[i] = total / low[i][i]
    for i in range(7, -1, -1):
        total = z[i]
        for k in range(i + 1, 8):
            total -= low[k][i] * z[k]
        z[i] = total / low[i][i]
    return inverse_to_map(fit, z, out)


cdef int inverse_to_map(const Fit* fit, const double* z, Map* out) noexcept nogil:
    """Turns the solved inverse around and takes centring and scaling out of it."""
    cdef double[9] g
    cdef double[9] h
    cdef double h2, half = fit.half
    cdef int i
    # g maps centred, scaled pixels to modules: from [-1, 1] back to [0, dim] first.
    g[6] = z[6]
    g[7] = z[7]
    g[8] = 1
    for i in range(2):
        g[i] = half * (z[i] + g[6 + i])
        g[3 + i] = half * (z[3 + i] + g[6 + i])
    g[2] = half * (z[2] + 1)
    g[5] = half * (z[5] + 1)
    if not invert(g, h):
        return 0
    for i in range(3):
        h2 = h[6 + i]
        out.m[i] = <float>(h[i] / fit.scale + fit.centre_x * h2)
        out.m[3 + i] = <float>(h[3 + i] / fit.scale + fit.centre_y * h2)
        out.m[6 + i] = <float>h2
    # The whole symbol must lie before the camera.
    cdef double dim = 2 * half
    cdef double w = h[8]
    if w < 0:
        for i in range(9):
            out.m[i] = -out.m[i]
            h[i] = -h[i]
        w = h[8]
    cdef double least = min(min(w, w + dim * h[6]), min(w + dim * h[7], w + dim * (h[6] + h[7])))
    cdef double most = max(max(w, w + dim * h[6]), max(w + dim * h[7], w + dim * (h[6] + h[7])))
    return least > 0 and most < 8 * least


cdef int invert(const double* g, double* h) noexcept nogil:
    """h = g to the power -1, up to scale; 0 for a singular matrix."""
    h[0] = g[4] * g[8] - g[5] * g[7]
    h[1] = g[2] * g[7] - g[1] * g[8]
    h[2] = g[1] * g[5] - g[2] * g[4]
    h[3] = g[5] * g[6] - g[3] * g[8]
    h[4] = g[0] * g[8] - g[2] * g[6]
    h[5] = g[2] * g[3] - g[0] * g[5]
    h[6] = g[3] * g[7] - g[4] * g[6]
    h[7] = g[1] * g[6] - g[0] * g[7]
    h[8] = g[0] * g[4] - g[1] * g[3]
    cdef double determinant = g[0] * h[0] + g[1] * h[3] + g[2] * h[6]
    cdef double most = 0
    cdef int i
    for i in range(9):
        most = max(most, fabs(h[i]))
    # Not "determinant < limit": NaN must not pass.
    if not (fabs(determinant) > 1e-12 and most < 1e12 and most > 0):
        return 0
    for i in range(9):
        h[i] /= most
    return 1


cdef int map_to_square(const Map* map, double* inverse) noexcept nogil:
    """The inverse matrix, pixel -> module, up to scale; 0 where there is none."""
    cdef double[9] g
    cdef int i
    for i in range(9):
        g[i] = map.m[i]
    return invert(g, inverse)


cdef int map_of_square(float dim, const float* xs, const float* ys, Map* out) noexcept nogil:
    """The map that takes (0, 0), (dim, 0), (dim, dim), (0, dim) to four points, by Heckbert's
    closed form; 0 where three of them lie on a line."""
    cdef double dx1 = xs[1] - xs[2]
    cdef double dx2 = xs[3] - xs[2]
    cdef double dx3 = xs[0] - xs[1] + xs[2] - xs[3]
    cdef double dy1 = ys[1] - ys[2]
    cdef double dy2 = ys[3] - ys[2]
    cdef double dy3 = ys[0] - ys[1] + ys[2] - ys[3]
    cdef double determinant = dx1 * dy2 - dx2 * dy1
    if not fabs(determinant) > 1e-9:
        return 0
    cdef double g = (dx3 * dy2 - dx2 * dy3) / determinant
    cdef double h = (dx1 * dy3 - dx3 * dy1) / determinant
    cdef double side = 1 / dim
    out.m[0] = <float>((xs[1] - xs[0] + g * xs[1]) * side)
    out.m[1] = <float>((xs[3] - xs[0] + h * xs[3]) * side)
    out.m[2] = xs[0]
    out.m[3] = <float>((ys[1] - ys[0] + g * ys[1]) * side)
    out.m[4] = <float>((ys[3] - ys[0] + h * ys[3]) * side)
    out.m[5] = ys[0]
    out.m[6] = <float>(g * side)
    out.m[7] = <float>(h * side)
    out.m[8] = 1
    return g > -0.9 and h > -0.9 and g + h > -0.9


cdef int probe(
    const Plane* plane, const Map* map, int axis, float u, float v, int rises, float threshold,
    float reach, float* x, float* y, float* off,
) noexcept nogil:
    """Looks for an edge near the point (u, v) of the symbol, along u (axis 0) or v (axis 1).

    rises: 1 for an edge from dark to light in the direction of the axis, -1 for one from light to
    dark. reach: how far to look to both sides, modules. Returns 1, the edge's pixel coordinates and
    its distance from (u, v) in modules, the nearest such edge; 0 where there is none or where the
    way leaves the picture.
    """
    cdef float x0, y0, x1, y1
    if axis == 0:
        map_point(map, u - reach, v, &x0, &y0)
        map_point(map, u + reach, v, &x1, &y1)
    else:
        map_point(map, u, v - reach, &x0, &y0)
        map_point(map, u, v + reach, &x1, &y1)
    if not is_inside(plane, x0, y0) or not is_inside(plane, x1, y1):
        return 0
    # Steps of a quarter of a module; finer ones in large modules, where edges are sharp.
    cdef float length = fabsf(x1 - x0) + fabsf(y1 - y0)
    cdef int steps = max(<int>(reach * 8), min(16, <int>(length * <float>0.5)))
    cdef float step = 1 / <float>steps
    cdef float dx = (x1 - x0) * step
    cdef float dy = (y1 - y0) * step
    cdef float before = (grey_at(plane, x0, y0) - threshold) * rises
    cdef float here, at, best = 2
    cdef int i
    for i in range(1, steps + 1):
        here = (grey_at(plane, x0 + dx * i, y0 + dy * i) - threshold) * rises
        if before <= 0 and here > 0:
            at = (i - here / (here - before)) * step * 2 - 1
            if fabsf(at) < fabsf(best):
                best = at
            elif at > 0:
                break
        before = here
    if best > 1:
        return 0
    x[0] = x0 + (x1 - x0) * (best + 1) * <float>0.5
    y[0] = y0 + (y1 - y0) * (best + 1) * <float>0.5
    off[0] = best * reach
    return 1
