"""Where the modules lie: from three finders to a map, and from alignment patterns to its bends.

1. A first map from the centres and sizes of the finders, good near each of them.
2. Edges of all three finders into the fit of native.qr.fit: a projective map.
3. Versions 2 to 6: the edges of the alignment pattern and of the timing patterns join the fit.
4. From version 7 on alignment patterns are looked for from the corner outwards, each where the ones
   before say, and how far they are from where the map has them becomes a mesh of displacements:
   tilt seen better than by finders alone, curved paper, lenses (ISO/IEC 18004, 12: sampling by the
   grid of alignment patterns).
"""

from libc.math cimport fabsf, powf

from native.qr.finder cimport Finder
from native.qr.fit cimport (
    Map, fit_begin, fit_edge, fit_solve, map_point, probe,
)
from native.qr.plane cimport Plane, grey_at, grey_near, is_inside
from native.qr.symbol cimport alignment_centres

cdef enum:
    HALF_STEPS = 2              # samples a module when looking for an alignment pattern
    RADIUS_MAX = 5              # modules
    PATCH_MAX = 29              # (2 * RADIUS_MAX + 4) * HALF_STEPS + 1
    DIM_OF_MESH = 45            # version 7, the first with several rows of alignment patterns
    EDGES_FEW = 24              # of 48 on three finders at the first look
    EDGES_LEAST = 40            # of 108 at the second
    AGREEMENT_DOUBT = 20        # percent, by the map of the first look
    AGREEMENT_FINE = 90
    AGREEMENT_COARSE = 50       # by that of the second

# Of 1 for a perfect pattern; chance gives less than 0.3 nearly always.
cdef float QUALITY_LEAST = 0.45
cdef float QUALITY_FINE = 0.7
cdef float STRAYED_LEAST = 2    # modules; curved paper bends a row by less

# Lines of a finder that have an edge, and from where to where along them: outer side, ring, core.
cdef float[6] LINES = [0, 7, 1, 6, 2, 5]
cdef int[6] RISES = [-1, 1, 1, -1, -1, 1]
cdef int[6] PROBES = [4, 4, 3, 3, 2, 2]
cdef float[6] FIRST = [0.8, 0.8, 1.9, 1.9, 2.9, 2.9]
cdef float[6] APART = [1.8, 1.8, 1.6, 1.6, 1.2, 1.2]


cdef int locate(
    const Plane* plane, const Finder* a, const Finder* b, const Finder* c, int dim, int thorough,
    int quick, Place* out,
) noexcept nogil:
    """Fits a symbol of dim modules to three finders (corner, right, below); 0 where it cannot.

    thorough: look further around for alignment patterns. quick: be content with the first look at
    the finders where the timing patterns agree with it; out.quick says whether that was so.
    """
    cdef int agreement
    out.dim = dim
    out.sign = a.sign
    out.mesh.count = 0
    out.agreement = 0
    out.aligned = 0
    out.contrast = fabsf(a.light + b.light + c.light - a.dark - b.dark - c.dark) / 3
    first_map(a, b, c, dim, &out.map)
    # Three finders that are no symbol end after few probes and a look at the timing patterns.
    if not fit_finders(plane, out, a, b, c, 1):
        return 0
    agreement = timing_agreement(plane, out)
    if agreement < AGREEMENT_DOUBT:
        return 0
    out.quick = quick and agreement >= AGREEMENT_FINE
    if not out.quick:
        if not fit_finders(plane, out, a, b, c, 0):
            return 0
        if timing_agreement(plane, out) < AGREEMENT_COARSE:
            return 0
    out.alignment_count = 0
    if dim >= DIM_OF_MESH:
        timing_edges(plane, out)
        if not fit_solve(&out.fit, &out.map):
            return 0
        align_mesh(plane, out)
    else:
        if dim > 21:
            align_corner(plane, out, thorough)
        timing_edges(plane, out)
        if not fit_solve(&out.fit, &out.map):
            return 0
    out.agreement = timing_agreement(plane, out)
    return 1


cdef int strayed_finder(const Place* place, float* x, float* y) noexcept nogil:
    """1 for the finder to the right, 2 for that below, where the row of alignment patterns towards
    it ends elsewhere, and the pixel where it does; 0 where both are where they should be.

    Another dark square may have been taken for one that the rows missed.
    """
    cdef const Mesh* mesh = &place.mesh
    cdef int n = mesh.count
    cdef int which, step, at
    cdef float far = place.dim - <float>3.5
    cdef float near = 3.5
    cdef float du, dv
    if n < 3:
        return 0
    for which in range(1, 3):
        step = 1 if which == 1 else n
        at = (n - 2) * step
        du = 2 * mesh.du[at] - mesh.du[at - step]
        dv = 2 * mesh.dv[at] - mesh.dv[at - step]
        if fabsf(du) + fabsf(dv) > STRAYED_LEAST:
            map_point(
                &place.map, (far if which == 1 else near) + du, (near if which == 1 else far) + dv,
                x, y,
            )
            return which
    return 0


cdef int locate_again(
    const Plane* plane, const Finder* a, const Finder* b, const Finder* c, int probes,
    const Place* last, Place* out,
) noexcept nogil:
    """Places a symbol that lies much as it did in the last frame; 0 where it cannot.

    The last map, moved and sheared to the finders, and the last mesh. probes: few edges are looked
    for as well and the map is fitted to them. Good for comparing with a known code; what is to be
    read anew deserves locate.
    """
    out.dim = last.dim
    out.sign = last.sign
    out.mesh.count = 0
    out.quick = 1
    out.aligned = last.aligned
    out.alignment_count = last.alignment_count
    out.agreement = last.agreement
    out.contrast = fabsf(a.light + b.light + c.light - a.dark - b.dark - c.dark) / 3
    if not moved_map(a, b, c, last, &out.map):
        return 0
    if not probes:
        if last.mesh.count:
            out.mesh = last.mesh
        return 1
    if not fit_finders(plane, out, a, b, c, 1):
        return 0
    if last.dim >= DIM_OF_MESH:
        align_mesh(plane, out)
    elif last.dim > 21:
        align_corner(plane, out, 0)
        if not fit_solve(&out.fit, &out.map):
            return 0
    return 1


cdef int moved_map(
    const Finder* a, const Finder* b, const Finder* c, const Place* last, Map* out
) noexcept nogil:
    """The last map followed by the affine map of its finder centres to the present ones."""
    cdef float far = last.dim - <float>3.5
    cdef float ax, ay, bx, by, cx, cy, determinant, m00, m01, m10, m11, tx, ty
    cdef int i
    map_point(&last.map, <float>3.5, <float>3.5, &ax, &ay)
    map_point(&last.map, far, <float>3.5, &bx, &by)
    map_point(&last.map, <float>3.5, far, &cx, &cy)
    bx -= ax
    by -= ay
    cx -= ax
    cy -= ay
    determinant = bx * cy - by * cx
    if not fabsf(determinant) > 1:
        return 0
    m00 = ((b.x - a.x) * cy - (c.x - a.x) * by) / determinant
    m01 = ((c.x - a.x) * bx - (b.x - a.x) * cx) / determinant
    m10 = ((b.y - a.y) * cy - (c.y - a.y) * by) / determinant
    m11 = ((c.y - a.y) * bx - (b.y - a.y) * cx) / determinant
    tx = a.x - m00 * ax - m01 * ay
    ty = a.y - m10 * ax - m11 * ay
    for i in range(3):
        out.m[i] = m00 * last.map.m[i] + m01 * last.map.m[3 + i] + tx * last.map.m[6 + i]
        out.m[3 + i] = m10 * last.map.m[i] + m11 * last.map.m[3 + i] + ty * last.map.m[6 + i]
        out.m[6 + i] = last.map.m[6 + i]
    return 1


cdef int fit_finders(
    const Plane* plane, Place* out, const Finder* a, const Finder* b, const Finder* c, int few
) noexcept nogil:
    """Fits the map to the edges of the finders, looked for where it says; 0 where it cannot.

    few: a third of the probes, for a first look.
    """
    cdef int edges = 0
    fit_begin(
        &out.fit, out.dim, (b.x + c.x) * <float>0.5, (b.y + c.y) * <float>0.5,
        (fabsf(b.x - c.x) + fabsf(b.y - c.y)) * <float>0.5,
    )
    edges += finder_edges(plane, out, a, 0, 0, few)
    edges += finder_edges(plane, out, b, out.dim - 7, 0, few)
    edges += finder_edges(plane, out, c, 0, out.dim - 7, few)
    return edges >= (EDGES_FEW if few else EDGES_LEAST) and fit_solve(&out.fit, &out.map)


cdef void first_map(
    const Finder* a, const Finder* b, const Finder* c, int dim, Map* out
) noexcept nogil:
    """The map that has the three centres right, and at each of them the size of a module.

    A projective map scales areas by w to the power -3, where w is its denominator, so the sizes
    give w at three points, between which it is linear, as are x w and y w.
    """
    cdef float wb = powf(a.size / b.size, <float>(2.0 / 3.0))
    cdef float wc = powf(a.size / c.size, <float>(2.0 / 3.0))
    cdef float side = 1 / <float>(dim - 7)
    cdef float middle = <float>3.5
    out.m[0] = (b.x * wb - a.x) * side
    out.m[1] = (c.x * wc - a.x) * side
    out.m[2] = a.x - middle * (out.m[0] + out.m[1])
    out.m[3] = (b.y * wb - a.y) * side
    out.m[4] = (c.y * wc - a.y) * side
    out.m[5] = a.y - middle * (out.m[3] + out.m[4])
    out.m[6] = (wb - 1) * side
    out.m[7] = (wc - 1) * side
    out.m[8] = 1 - middle * (out.m[6] + out.m[7])


cdef int finder_edges(
    const Plane* plane, Place* place, const Finder* finder, float left, float top, int few
) noexcept nogil:
    """Adds the edges of one finder whose corner is module (left, top); how many were found."""
    cdef float threshold = (finder.dark + finder.light) * <float>0.5
    cdef float x, y, off, along
    cdef int line, i, found = 0
    for line in range(6):
        # At the first look two probes on each outer and each core line: far apart, and thick.
        if few and (line == 2 or line == 3):
            continue
        for i in range(2 if few else PROBES[line]):
            along = FIRST[line] + i * APART[line] * (3 if few and line < 2 else 1)
            if probe(
                plane, &place.map, 0, left + LINES[line], top + along,
                RISES[line] * place.sign, threshold, <float>0.9, &x, &y, &off,
            ):
                fit_edge(&place.fit, 0, left + LINES[line], x, y, 1)
                found += 1
            if probe(
                plane, &place.map, 1, left + along, top + LINES[line],
                RISES[line] * place.sign, threshold, <float>0.9, &x, &y, &off,
            ):
                fit_edge(&place.fit, 1, top + LINES[line], x, y, 1)
                found += 1
    return found


cdef void timing_edges(const Plane* plane, Place* place) noexcept nogil:
    """Adds the edges of both timing patterns, which alternate between the finders."""
    cdef int dim = place.dim
    cdef int step = 1 if dim <= 57 else 2 + (dim - 57) // 40 * 2
    cdef int k = 8
    cdef int rises
    cdef float x, y, off, threshold
    while k <= dim - 8:
        # Even modules are dark: an even line is where a dark module begins.
        rises = (-1 if k % 2 == 0 else 1) * place.sign
        threshold = level_between(plane, &place.map, k, <float>6.5, 0)
        if threshold >= 0 and probe(
            plane, &place.map, 0, k, <float>6.5, rises, threshold, <float>0.7, &x, &y, &off
        ):
            fit_edge(&place.fit, 0, k, x, y, <float>0.6)
        threshold = level_between(plane, &place.map, <float>6.5, k, 1)
        if threshold >= 0 and probe(
            plane, &place.map, 1, <float>6.5, k, rises, threshold, <float>0.7, &x, &y, &off
        ):
            fit_edge(&place.fit, 1, k, x, y, <float>0.6)
        k += step


cdef float level_between(
    const Plane* plane, const Map* map, float u, float v, int axis
) noexcept nogil:
    """Grey value between the two modules beside an edge at (u, v); -1 outside the picture."""
    cdef float x0, y0, x1, y1
    cdef float half_u = 0 if axis else <float>0.5
    cdef float half_v = <float>0.5 if axis else 0
    map_point(map, u - half_u, v - half_v, &x0, &y0)
    map_point(map, u + half_u, v + half_v, &x1, &y1)
    if not is_inside(plane, x0, y0) or not is_inside(plane, x1, y1):
        return -1
    return (grey_at(plane, x0, y0) + grey_at(plane, x1, y1)) * <float>0.5


cdef int timing_agreement(const Plane* plane, const Place* place) noexcept nogil:
    """agreement_on by the map alone or on the mesh, whichever is the better: alignment patterns may
    tell of a bend, or be misled by noise.
    """
    cdef int plain = agreement_on(plane, place, 0)
    if place.mesh.count < 2:
        return plain
    return max(plain, agreement_on(plane, place, 1))


cdef int agreement_on(const Plane* plane, const Place* place, int on_mesh) noexcept nogil:
    """How well the timing patterns alternate, in percent of the differences between their modules.

    100 where every module is darker or lighter than its neighbours' mean as it should be, about 0
    by chance, and little changed by one that is not.
    """
    cdef int dim = place.dim
    cdef int k, axis
    cdef float u, v, du, dv, x, y, before, here, after, step
    cdef float right = 0
    cdef float total = 1
    for axis in range(2):
        before = 0
        here = 0
        for k in range(7, dim - 6):
            u = <float>6.5 if axis else k + <float>0.5
            v = k + <float>0.5 if axis else <float>6.5
            du = 0
            dv = 0
            if on_mesh:
                bend(&place.mesh, u, v, &du, &dv)
            map_point(&place.map, u + du, v + dv, &x, &y)
            after = grey_near(plane, x, y)
            if k >= 9:
                step = before + after - here - here
                total += fabsf(step)
                right += step if (k - 1) % 2 == 0 else -step
            before = here
            here = after
    return <int>(100 * right * place.sign / total)


# ---- alignment patterns -------------------------------------------------------------------------


cdef void align_corner(const Plane* plane, Place* place, int thorough) noexcept nogil:
    """The one alignment pattern of versions 2 to 6: its edges join the fit."""
    cdef float centre = place.dim - <float>6.5
    cdef float u, v
    cdef float quality = match_alignment(plane, place, centre, centre, 1, &u, &v)
    place.alignment_count = 1
    if quality < QUALITY_FINE:
        quality = match_alignment(plane, place, centre, centre, 2, &u, &v)
    if quality < QUALITY_LEAST:
        quality = match_alignment(
            plane, place, centre, centre, RADIUS_MAX if thorough else 4, &u, &v
        )
    if quality < QUALITY_LEAST:
        return
    place.aligned = 1
    u -= centre
    v -= centre
    alignment_edges(plane, place, centre, centre, &u, &v, 1)


cdef void align_mesh(const Plane* plane, Place* place) noexcept nogil:
    """Alignment patterns from version 7 on: how far each is from where the map has it.

    Row by row from the corner of finder a, so that the ones left and above tell where to look.
    """
    cdef int[8] centres
    cdef int[64] known
    cdef int n = alignment_centres((place.dim - 17) // 4, centres)
    cdef int i, j, at
    cdef float u, v, centre_u, centre_v, quality
    cdef Mesh* mesh = &place.mesh
    place.alignment_count = n * n - 3
    for at in range(n * n):
        known[at] = 0
        mesh.du[at] = 0
        mesh.dv[at] = 0
    for j in range(n):
        mesh.lines[j] = centres[j] + <float>0.5
        for i in range(n):
            at = j * n + i
            if (i == 0 and j == 0) or (i == n - 1 and j == 0) or (i == 0 and j == n - 1):
                known[at] = 1
                continue
            guess_displacement(n, i, j, mesh.du, mesh.dv, known)
            centre_u = centres[i] + <float>0.5
            centre_v = centres[j] + <float>0.5
            quality = match_alignment(
                plane, place, centre_u + mesh.du[at], centre_v + mesh.dv[at], 1, &u, &v
            )
            if quality < QUALITY_FINE:
                quality = match_alignment(
                    plane, place, centre_u + mesh.du[at], centre_v + mesh.dv[at], 2, &u, &v
                )
            if quality < QUALITY_LEAST:
                continue
            mesh.du[at] = u - centre_u
            mesh.dv[at] = v - centre_v
            alignment_edges(plane, place, centre_u, centre_v, &mesh.du[at], &mesh.dv[at], 0)
            known[at] = 1
            place.aligned += 1
    fill_gaps(mesh, n, known)
    mesh.count = n


cdef void guess_displacement(
    int n, int i, int j, float* du, float* dv, const int* known
) noexcept nogil:
    """Displacement of node (i, j) by the nodes left of and above it, as a plane or a mean."""
    cdef int at = j * n + i
    cdef float best_u = 0, best_v = 0
    cdef int left = i > 0 and known[at - 1]
    cdef int above = j > 0 and known[at - n]
    cdef int corner = i > 0 and j > 0 and known[at - n - 1]
    if left and above and corner:
        best_u = du[at - 1] + du[at - n] - du[at - n - 1]
        best_v = dv[at - 1] + dv[at - n] - dv[at - n - 1]
    elif left:
        best_u = du[at - 1]
        best_v = dv[at - 1]
        if i > 1 and known[at - 2]:
            best_u += best_u - du[at - 2]
            best_v += best_v - dv[at - 2]
    elif above:
        best_u = du[at - n]
        best_v = dv[at - n]
        if j > 1 and known[at - 2 * n]:
            best_u += best_u - du[at - 2 * n]
            best_v += best_v - dv[at - 2 * n]
    elif i > 0 and j > 0:
        best_u = (du[at - 1] + du[at - n]) * <float>0.5
        best_v = (dv[at - 1] + dv[at - n]) * <float>0.5
    du[at] = best_u
    dv[at] = best_v


cdef float match_alignment(
    const Plane* plane, const Place* place, float u, float v, int radius, float* best_u,
    float* best_v,
) noexcept nogil:
    """Best place of a 5 x 5 pattern within `radius` modules of (u, v), and how well it fits.

    The mean of the light ring less that of centre and dark ring, over the contrast of the finders;
    1 is a perfect pattern, and what lies far from the expected place counts less.
    """
    cdef float[PATCH_MAX * PATCH_MAX] patch
    cdef int side = (2 * radius + 4) * HALF_STEPS + 1
    cdef float reach = radius + 2
    cdef float fit, best = -10
    cdef int i, j, best_at = 0
    take_patch(plane, &place.map, u - reach, v - reach, 2 * reach, side, patch)
    cdef float scale = place.sign / place.contrast
    cdef float centre = radius * HALF_STEPS
    for j in range(2 * radius * HALF_STEPS + 1):
        for i in range(2 * radius * HALF_STEPS + 1):
            fit = pattern_fit(patch + j * side + i, side) * scale
            fit -= <float>0.02 * (fabsf(i - centre) + fabsf(j - centre)) / radius
            if fit > best:
                best = fit
                best_at = j * side + i
    i = best_at % side
    j = best_at // side
    best_u[0] = u - radius + i * <float>0.5
    best_v[0] = v - radius + j * <float>0.5
    return best


cdef void take_patch(
    const Plane* plane, const Map* map, float u, float v, float span, int side, float* out
) noexcept nogil:
    """side x side samples of the square from (u, v) on, span modules wide.

    Its corners are mapped; between them the few modules are taken as flat.
    """
    cdef float[4] xs
    cdef float[4] ys
    cdef int i, j, corner, whole = 1
    cdef float x, y, ax, ay, bx, by, step = 1 / <float>(side - 1)
    for corner in range(4):
        map_point(
            map, u + span * (corner & 1), v + span * (corner >> 1), &xs[corner], &ys[corner]
        )
        if not is_inside(plane, xs[corner], ys[corner]):
            whole = 0
    for j in range(side):
        ax = xs[0] + (xs[2] - xs[0]) * j * step
        ay = ys[0] + (ys[2] - ys[0]) * j * step
        bx = (xs[1] + (xs[3] - xs[1]) * j * step - ax) * step
        by = (ys[1] + (ys[3] - ys[1]) * j * step - ay) * step
        for i in range(side):
            x = ax + bx * i
            y = ay + by * i
            # Rounding may carry a point of the border out by a hair.
            if whole and is_inside(plane, x, y):
                out[j * side + i] = grey_at(plane, x, y)
            else:
                out[j * side + i] = grey_near(plane, x, y)


cdef inline float pattern_fit(const float* at, int side) noexcept nogil:
    """Light ring less dark modules of the pattern whose corner sample is at[0]."""
    cdef const float* row1 = at + 2 * side
    cdef const float* row2 = at + 4 * side
    cdef const float* row3 = at + 6 * side
    cdef const float* row4 = at + 8 * side
    cdef float ring = (
        row1[2] + row1[4] + row1[6] + row2[2] + row2[6] + row3[2] + row3[4] + row3[6]
    )
    cdef float dark = (
        at[0] + at[2] + at[4] + at[6] + at[8] + row4[0] + row4[2] + row4[4] + row4[6] + row4[8]
        + row1[0] + row1[8] + row2[0] + row2[8] + row3[0] + row3[8]
    )
    # The centre weighs as much as four modules of the ring around: it tells the pattern's middle.
    return ring * <float>0.125 - (dark + 4 * row2[4]) * <float>0.05


cdef void alignment_edges(
    const Plane* plane, Place* place, float u, float v, float* du, float* dv, int join
) noexcept nogil:
    """Moves du, dv to the middle of the edges of the pattern at (u + du, v + dv).

    join: the edges are added to the fit.
    """
    cdef float threshold
    cdef float x, y, off, shift
    cdef int axis, line, i, rises, count
    cdef float total, at_u, at_v
    cdef float[2] moved
    for axis in range(2):
        total = 0
        count = 0
        for line in range(4):
            # Edges at -1.5, -0.5, 0.5, 1.5: into the ring, into the centre, and out again.
            shift = line - <float>1.5
            rises = place.sign if line % 2 == 0 else -place.sign
            for i in range(-1, 2):
                if i != 0 and (line == 1 or line == 2):
                    continue
                at_u = u + du[0] + (i if axis else shift)
                at_v = v + dv[0] + (shift if axis else i)
                threshold = level_between(plane, &place.map, at_u, at_v, axis)
                if threshold < 0 or not probe(
                    plane, &place.map, axis, at_u, at_v, rises, threshold, <float>0.7, &x, &y,
                    &off,
                ):
                    continue
                if join:
                    fit_edge(&place.fit, axis, (v if axis else u) + shift, x, y, 1)
                total += off
                count += 1
        moved[axis] = total / count if count else 0
    du[0] += moved[0]
    dv[0] += moved[1]


# ---- the mesh -----------------------------------------------------------------------------------


cdef void fill_gaps(Mesh* mesh, int n, const int* have) noexcept nogil:
    """Nodes without a pattern get the mean of their known neighbours, weighed by nearness."""
    cdef int i, j, k, row, at
    cdef float weight, total, du, dv
    for j in range(n):
        for i in range(n):
            at = j * n + i
            if have[at]:
                continue
            total = 0
            du = 0
            dv = 0
            for row in range(n):
                for k in range(n):
                    if have[row * n + k]:
                        weight = 1 / <float>((k - i) * (k - i) + (row - j) * (row - j))
                        weight *= weight
                        total += weight
                        du += weight * mesh.du[row * n + k]
                        dv += weight * mesh.dv[row * n + k]
            if total > 0:
                mesh.du[at] = du / total
                mesh.dv[at] = dv / total


cdef inline int line_before(const Mesh* mesh, float u) noexcept nogil:
    cdef int i = 0
    while i < mesh.count - 2 and u >= mesh.lines[i + 1]:
        i += 1
    return i


cdef void bend(const Mesh* mesh, float u, float v, float* du, float* dv) noexcept nogil:
    """Displacement at (u, v), bilinear between nodes; outside them the outermost cell goes on, but
    no further than its own size."""
    cdef int n = mesh.count
    if n < 2:
        du[0] = 0
        dv[0] = 0
        return
    cdef int i = line_before(mesh, u)
    cdef int j = line_before(mesh, v)
    cdef float fu = (u - mesh.lines[i]) / (mesh.lines[i + 1] - mesh.lines[i])
    cdef float fv = (v - mesh.lines[j]) / (mesh.lines[j + 1] - mesh.lines[j])
    cdef int at = j * n + i
    cdef float upper = mesh.du[at] + fu * (mesh.du[at + 1] - mesh.du[at])
    cdef float lower = mesh.du[at + n] + fu * (mesh.du[at + n + 1] - mesh.du[at + n])
    du[0] = upper + fv * (lower - upper)
    upper = mesh.dv[at] + fu * (mesh.dv[at + 1] - mesh.dv[at])
    lower = mesh.dv[at + n] + fu * (mesh.dv[at + n + 1] - mesh.dv[at + n])
    dv[0] = upper + fv * (lower - upper)
