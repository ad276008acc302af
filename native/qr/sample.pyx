"""From a place in the picture to soft modules, in three ways of growing cost.

1. Grey values at the middles of modules against half way between the darkest and the lightest
   module around (soften). Enough for nearly every sharp symbol.
2. Against the mean around (soften_by_mean): glare, dirt.
3. An equalizer (equalize): a 3 x 3 filter in module space that turns the grey values of the modules
   everybody knows (finders, timing, alignment) into what they should be, by least squares, as a
   modem trains on its preamble. It undoes defocus, the smear of motion in any direction, and a
   small wrong shift of the grid, each of which mixes a module with its neighbours.

bend_to_edges moves a mesh over the symbol to where edges between unlike modules really are.
"""

from libc.math cimport ceilf, fabs, fabsf, sqrt
from libc.stdint cimport int16_t, uint8_t
from libc.string cimport memcpy, memset

from native.qr.code cimport DIM_MAX
from native.qr.fit cimport Map, map_point, probe
from native.qr.locate cimport NODES_MAX, Mesh, Place, bend
from native.qr.plane cimport Plane, grey_at, grey_near
from native.qr.symbol cimport DARK, LIGHT, function_map

cdef enum:
    TILE = 4                    # modules a side of a tile
    SOFT_ONE = 256              # soft value of half the local contrast
    SOFT_MOST = 2000
    LESSONS_MOST = 1200         # modules of the content to train on; ten unknowns need no more


cdef int sample_grid(const Plane* plane, const Place* place, Grid* grid) noexcept nogil:
    """Luma at the middle of every module; the share of modules outside the picture in percent.

    What lies outside gets the value of the picture's edge.
    """
    cdef int dim = place.dim
    cdef int i, j, outside = 0
    cdef float[DIM_MAX] us
    cdef float[DIM_MAX] vs
    cdef float[DIM_MAX] xs
    cdef float[DIM_MAX] ys
    cdef float* row = grid.grey
    grid.dim = dim
    for j in range(dim):
        row_of_modules(&place.mesh, dim, j + <float>0.5, us, vs)
        outside += map_row(plane, &place.map, dim, us, vs, xs, ys)
        for i in range(dim):
            row[i] = grey_at(plane, xs[i], ys[i])
        row += dim
    return 100 * outside // (dim * dim)


cdef int sample_near(
    const Plane* plane, const Place* place, Grid* grid, float least_contrast
) noexcept nogil:
    """Soft modules by the pixel under each, sure by grey values alone: enough to recognize a code.

    Dark and light are told as in soften. Returns whether all modules lie in the picture; where not,
    nothing is set. Written so that compilers take many modules at a time.
    """
    cdef int dim = place.dim
    cdef int stride = <int>plane.stride
    cdef int i, j
    cdef float[DIM_MAX] us
    cdef float[DIM_MAX] vs
    cdef float[DIM_MAX] xs
    cdef float[DIM_MAX] ys
    cdef int[DIM_MAX] at
    cdef uint8_t* row = grid.near
    # Offsets are 32-bit numbers here; planes of more are left to sample_grid.
    if fabs(<double>plane.stride * plane.height) > 0x7FFFFFFF:
        return 0
    grid.dim = dim
    for j in range(dim):
        row_of_modules(&place.mesh, dim, j + <float>0.5, us, vs)
        if map_row(plane, &place.map, dim, us, vs, xs, ys) > 0:
            return 0
        for i in range(dim):
            at[i] = <int>ys[i] * stride + <int>xs[i]
        for i in range(dim):
            row[i] = plane.data[at[i]]
        row += dim
    soften_near(grid, place.sign, least_contrast)
    return 1


cdef void soften_near(Grid* grid, int sign, float least_contrast) noexcept nogil:
    """grid.soft from grid.near, against the middle of the tiles around."""
    cdef int dim = grid.dim
    cdef int tiles = (dim + TILE - 1) // TILE
    cdef int tx, ty, x, y
    cdef float low, high
    cdef int16_t[DIM_MAX + TILE] doubled        # darkest plus lightest around
    cdef const uint8_t* row
    cdef int16_t* soft
    near_ranges(grid, tiles)
    for ty in range(tiles):
        for tx in range(tiles):
            widen_range(grid, tiles, tx, ty, least_contrast, &low, &high)
            for x in range(tx * TILE, tx * TILE + TILE):
                doubled[x] = <int16_t>(low + high)
        for y in range(ty * TILE, min(dim, (ty + 1) * TILE)):
            row = grid.near + y * dim
            soft = grid.soft + y * dim
            for x in range(dim):
                soft[x] = <int16_t>((doubled[x] - 2 * row[x]) * sign)


cdef void near_ranges(Grid* grid, int tiles) noexcept nogil:
    """As tile_ranges, of grid.near."""
    cdef int dim = grid.dim
    cdef uint8_t[DIM_MAX] lows
    cdef uint8_t[DIM_MAX] highs
    cdef int tx, ty, x, y
    cdef uint8_t low, high
    cdef const uint8_t* row
    for ty in range(tiles):
        row = grid.near + ty * TILE * dim
        for x in range(dim):
            lows[x] = row[x]
            highs[x] = row[x]
        for y in range(ty * TILE + 1, min(dim, (ty + 1) * TILE)):
            row = grid.near + y * dim
            for x in range(dim):
                lows[x] = row[x] if row[x] < lows[x] else lows[x]
                highs[x] = row[x] if row[x] > highs[x] else highs[x]
        for tx in range(tiles):
            low = 255
            high = 0
            for x in range(tx * TILE, min(dim, (tx + 1) * TILE)):
                low = min(low, lows[x])
                high = max(high, highs[x])
            grid.low[ty * tiles + tx] = low
            grid.high[ty * tiles + tx] = high


cdef inline int map_row(
    const Plane* plane, const Map* map, int count, const float* us, const float* vs, float* xs,
    float* ys,
) noexcept nogil:
    """map_point of many points, each then moved into the picture; how many had to be.

    Written so that compilers take several points at a time. NaN goes to the corner.
    """
    cdef float m0 = map.m[0], m1 = map.m[1], m2 = map.m[2], m3 = map.m[3], m4 = map.m[4]
    cdef float m5 = map.m[5], m6 = map.m[6], m7 = map.m[7], m8 = map.m[8]
    cdef float right = plane.width - <float>0.51
    cdef float bottom = plane.height - <float>0.51
    cdef float w, x, y, inside_x, inside_y
    cdef int i, moved = 0
    for i in range(count):
        w = 1 / (m6 * us[i] + m7 * vs[i] + m8)
        x = (m0 * us[i] + m1 * vs[i] + m2) * w
        y = (m3 * us[i] + m4 * vs[i] + m5) * w
        inside_x = x if x > <float>0.5 else <float>0.5
        inside_y = y if y > <float>0.5 else <float>0.5
        inside_x = inside_x if inside_x < right else right
        inside_y = inside_y if inside_y < bottom else bottom
        moved += (inside_x != x) | (inside_y != y)
        xs[i] = inside_x
        ys[i] = inside_y
    return moved


cdef void row_of_modules(
    const Mesh* mesh, int dim, float v, float* us, float* vs
) noexcept nogil:
    """The middles of one row of modules, with native.qr.locate.bend for all of them."""
    cdef int n = mesh.count
    cdef int i, j = 0, column, begin = 0, end
    cdef float[NODES_MAX] du
    cdef float[NODES_MAX] dv
    cdef float fv, fu, scale, line, du0, du1, dv0, dv1
    cdef const float* upper
    if n < 2:
        for column in range(dim):
            us[column] = column + <float>0.5
            vs[column] = v
        return
    while j < n - 2 and v >= mesh.lines[j + 1]:
        j += 1
    fv = (v - mesh.lines[j]) / (mesh.lines[j + 1] - mesh.lines[j])
    for column in range(n):
        upper = &mesh.du[j * n + column]
        du[column] = upper[0] + fv * (upper[n] - upper[0])
        upper = &mesh.dv[j * n + column]
        dv[column] = upper[0] + fv * (upper[n] - upper[0])
    for i in range(n - 1):
        end = dim
        if i < n - 2:
            end = min(dim, <int>ceilf(mesh.lines[i + 1] - <float>0.5))
        line = mesh.lines[i]
        scale = 1 / (mesh.lines[i + 1] - line)
        du0 = du[i]
        du1 = du[i + 1] - du0
        dv0 = dv[i]
        dv1 = dv[i + 1] - dv0
        for column in range(begin, end):
            fu = (column + <float>0.5 - line) * scale
            us[column] = column + <float>0.5 + (du0 + fu * du1)
            vs[column] = v + (dv0 + fu * dv1)
        begin = max(begin, end)


cdef inline int16_t to_soft(float value) noexcept nogil:
    if value > SOFT_MOST:
        return SOFT_MOST
    if value < -SOFT_MOST:
        return -SOFT_MOST
    return <int16_t>value


cdef void soften(Grid* grid, int sign, float least_contrast) noexcept nogil:
    """Against half way between the darkest and the lightest module within one tile around.

    least_contrast: where all modules around are nearer together than this, a wider neighbourhood is
    taken.
    """
    cdef int dim = grid.dim
    cdef int tiles = (dim + TILE - 1) // TILE
    cdef int tx, ty, x, y, x1
    cdef float low, high, level, scale
    tile_ranges(grid, tiles)
    for ty in range(tiles):
        for tx in range(tiles):
            x1 = min(dim, (tx + 1) * TILE)
            widen_range(grid, tiles, tx, ty, least_contrast, &low, &high)
            level = (low + high) * <float>0.5
            scale = 2 / max(high - low, <float>1) * sign
            grid.level[ty * tiles + tx] = level
            for y in range(ty * TILE, min(dim, (ty + 1) * TILE)):
                for x in range(y * dim + tx * TILE, y * dim + x1):
                    # Within -1 to 1, as the module itself is among those around.
                    low = (level - grid.grey[x]) * scale
                    grid.even[x] = low
                    grid.soft[x] = <int16_t>(low * SOFT_ONE)


cdef void tile_ranges(Grid* grid, int tiles) noexcept nogil:
    """Darkest and lightest module of each tile."""
    cdef int dim = grid.dim
    cdef int tx, ty, x, y
    cdef float low, high, value
    cdef const float* row
    for ty in range(tiles):
        for tx in range(tiles):
            low = 255
            high = 0
            for y in range(ty * TILE, min(dim, (ty + 1) * TILE)):
                row = grid.grey + y * dim
                for x in range(tx * TILE, min(dim, (tx + 1) * TILE)):
                    value = row[x]
                    low = value if value < low else low
                    high = value if value > high else high
            grid.low[ty * tiles + tx] = low
            grid.high[ty * tiles + tx] = high


cdef inline void widen_range(
    const Grid* grid, int tiles, int tx, int ty, float least_contrast, float* low, float* high
) noexcept nogil:
    """Darkest and lightest of the tiles around, of more where these are too much alike."""
    cdef int reach = 1
    range_around(grid, tiles, tx, ty, reach, low, high)
    while high[0] - low[0] < least_contrast and reach < 4:
        reach += 1
        range_around(grid, tiles, tx, ty, reach, low, high)


cdef inline void range_around(
    const Grid* grid, int tiles, int tx, int ty, int reach, float* low, float* high
) noexcept nogil:
    cdef int x, y
    cdef float least = 255, most = 0
    for y in range(max(0, ty - reach), min(tiles, ty + reach + 1)):
        for x in range(max(0, tx - reach), min(tiles, tx + reach + 1)):
            if grid.low[y * tiles + x] < least:
                least = grid.low[y * tiles + x]
            if grid.high[y * tiles + x] > most:
                most = grid.high[y * tiles + x]
    low[0] = least
    high[0] = most


cdef void soften_by_mean(Grid* grid, int sign) noexcept nogil:
    """Against the mean of the 9 x 9 modules around, by sums of columns."""
    cdef int dim = grid.dim
    cdef float[177] sums
    cdef float total
    cdef int x, y, rows, columns
    for x in range(dim):
        sums[x] = 0
        for y in range(4):
            sums[x] += grid.grey[y * dim + x]
    for y in range(dim):
        rows = min(y + 4, dim - 1) - max(y - 4, 0) + 1
        for x in range(dim):
            if y + 4 < dim:
                sums[x] += grid.grey[(y + 4) * dim + x]
            if y - 5 >= 0:
                sums[x] -= grid.grey[(y - 5) * dim + x]
        total = sums[0] + sums[1] + sums[2] + sums[3]
        for x in range(dim):
            if x + 4 < dim:
                total += sums[x + 4]
            if x - 5 >= 0:
                total -= sums[x - 5]
            columns = min(x + 4, dim - 1) - max(x - 4, 0) + 1
            grid.soft[y * dim + x] = to_soft(
                (total / (rows * columns) - grid.grey[y * dim + x]) * sign * 8
            )


cdef int known_errors(const Grid* grid, int version) noexcept nogil:
    """Share of the modules everybody knows that grid.soft has on the wrong side, in per mille."""
    cdef const uint8_t* kinds = function_map(version)
    cdef int at, known = 0, wrong = 0
    for at in range(grid.dim * grid.dim):
        known += kinds[at] == DARK or kinds[at] == LIGHT
        wrong += (kinds[at] == DARK and grid.soft[at] < 0) or (
            kinds[at] == LIGHT and grid.soft[at] > 0
        )
    return 1000 * wrong // known


# ---- the equalizer ------------------------------------------------------------------------------


cdef int equalize(Grid* grid, int version, int sign, int rounds) noexcept nogil:
    """Trains the filter on known modules, then `rounds - 1` times on what it reads; sets soft.

    Starts from grid.even, so soften comes first. 0 where the equations have no solution.
    """
    cdef double[TAPS][TAPS] a
    cdef double[TAPS] b
    cdef double[TAPS] w
    cdef const uint8_t* kinds = function_map(version)
    cdef float[DIM_MAX] row
    cdef int dim = grid.dim
    cdef int round, i, x, y, at
    cdef int step = max(1, dim * dim // LESSONS_MOST)
    for i in range(TAPS):
        w[i] = 0
    pad(grid)
    for round in range(rounds):
        memset(a, 0, sizeof(a))
        memset(b, 0, sizeof(b))
        for y in range(dim):
            if round > 0:
                filter_row(grid, y, w, row)
            for x in range(dim):
                at = y * dim + x
                if kinds[at] == DARK:
                    add_equation(grid, at, 1, 1, a, b)
                elif kinds[at] == LIGHT:
                    add_equation(grid, at, -1, 1, a, b)
                elif round > 0 and at % step == 0 and fabsf(row[x]) > <float>0.35:
                    add_equation(grid, at, 1 if row[x] > 0 else -1, <float>0.7, a, b)
        # A pull towards leaving things as they are, worth a few modules.
        for i in range(TAPS):
            a[i][i] += 2 if i != 4 else 1
        b[4] += 1
        if not solve(a, b, w):
            return 0
    for y in range(dim):
        filter_row(grid, y, w, row)
        for x in range(dim):
            grid.soft[y * dim + x] = to_soft(row[x] * SOFT_ONE)
    return 1


cdef void pad(Grid* grid) noexcept nogil:
    """grid.even with a border of light around, the quiet zone's."""
    cdef int dim = grid.dim
    cdef int wide = dim + 2
    cdef int x, y
    for x in range(wide):
        grid.padded[x] = -1
        grid.padded[(dim + 1) * wide + x] = -1
    for y in range(dim):
        grid.padded[(y + 1) * wide] = -1
        grid.padded[(y + 1) * wide + dim + 1] = -1
        memcpy(&grid.padded[(y + 1) * wide + 1], &grid.even[y * dim], dim * sizeof(float))


cdef inline void add_equation(
    const Grid* grid, int at, float target, float weight, double[TAPS]* a, double* b
) noexcept nogil:
    cdef float[TAPS] taps
    cdef const float* corner = &grid.padded[at + 2 * (at // grid.dim)]
    cdef int wide = grid.dim + 2
    cdef int i, j
    cdef float scaled
    for i in range(3):
        taps[i] = corner[i]
        taps[3 + i] = corner[wide + i]
        taps[6 + i] = corner[2 * wide + i]
    taps[9] = 1
    for i in range(TAPS):
        scaled = taps[i] * weight
        for j in range(i + 1):
            a[i][j] += scaled * taps[j]
        b[i] += scaled * target


cdef void filter_row(const Grid* grid, int y, const double* w, float* out) noexcept nogil:
    """The filter over one row of modules; written so that compilers take several at a time."""
    cdef const float* upper = &grid.padded[y * (grid.dim + 2)]
    cdef const float* middle = upper + grid.dim + 2
    cdef const float* lower = middle + grid.dim + 2
    cdef float w0 = <float>w[0], w1 = <float>w[1], w2 = <float>w[2], w3 = <float>w[3]
    cdef float w4 = <float>w[4], w5 = <float>w[5], w6 = <float>w[6], w7 = <float>w[7]
    cdef float w8 = <float>w[8], w9 = <float>w[9]
    cdef int x
    for x in range(grid.dim):
        out[x] = (
            w0 * upper[x] + w1 * upper[x + 1] + w2 * upper[x + 2] + w3 * middle[x]
            + w4 * middle[x + 1] + w5 * middle[x + 2] + w6 * lower[x] + w7 * lower[x + 1]
            + w8 * lower[x + 2] + w9
        )


cdef int solve(double[TAPS]* a, const double* b, double* w) noexcept nogil:
    """Cholesky's method on the lower triangle of a; 0 for a matrix that is not positive."""
    cdef int i, j, k
    cdef double total
    for i in range(TAPS):
        for j in range(i + 1):
            total = a[i][j]
            for k in range(j):
                total -= a[i][k] * a[j][k]
            if i == j:
                if not total > 1e-9:
                    return 0
                a[i][i] = sqrt(total)
            else:
                a[i][j] = total / a[j][j]
    for i in range(TAPS):
        total = b[i]
        for k in range(i):
            total -= a[i][k] * w[k]
        w[i] = total / a[i][i]
    for i in range(TAPS - 1, -1, -1):
        total = w[i]
        for k in range(i + 1, TAPS):
            total -= a[k][i] * w[k]
        w[i] = total / a[i][i]
    return 1


# ---- the fourth corner --------------------------------------------------------------------------


cdef int swing_corner(const Plane* plane, Place* place, const Grid* grid) noexcept nogil:
    """Moves the corner without a finder to where the modules around it look sharpest.

    At the right place samples lie in the middles of modules, and far from the level between dark
    and light; elsewhere many lie on edges. Tried are corners up to two modules off;
    place.mesh is then of four nodes. 0, and nothing moved, when no place is better than the present
    one.
    """
    cdef Mesh* mesh = &place.mesh
    cdef int dim = place.dim
    cdef int i, j, middle_i, middle_j, best_i = 0, best_j = 0
    cdef float best
    mesh.count = 2
    mesh.lines[0] = 3
    mesh.lines[1] = dim - 3
    for i in range(4):
        mesh.du[i] = 0
        mesh.dv[i] = 0
    best = corner_sharpness(plane, place, grid) * <float>1.02
    # Whole modules first, then halves around the best.
    for j in range(-4, 5, 2):
        for i in range(-4, 5, 2):
            try_corner(plane, place, grid, i, j, &best, &best_i, &best_j)
    middle_i = best_i
    middle_j = best_j
    for j in range(middle_j - 1, middle_j + 2):
        for i in range(middle_i - 1, middle_i + 2):
            try_corner(plane, place, grid, i, j, &best, &best_i, &best_j)
    mesh.du[3] = best_i * <float>0.5
    mesh.dv[3] = best_j * <float>0.5
    if best_i == 0 and best_j == 0:
        mesh.count = 0
        return 0
    return 1


cdef void try_corner(
    const Plane* plane, Place* place, const Grid* grid, int i, int j, float* best, int* best_i,
    int* best_j,
) noexcept nogil:
    cdef float score
    place.mesh.du[3] = i * <float>0.5
    place.mesh.dv[3] = j * <float>0.5
    score = corner_sharpness(plane, place, grid)
    if score > best[0]:
        best[0] = score
        best_i[0] = i
        best_j[0] = j


cdef float corner_sharpness(
    const Plane* plane, const Place* place, const Grid* grid
) noexcept nogil:
    """Mean distance from the level of the modules in the lower right part, every other one."""
    cdef int dim = place.dim
    cdef int tiles = (dim + TILE - 1) // TILE
    cdef int i, j, count = 0
    cdef float u, v, x, y, du, dv, total = 0
    for j in range(dim // 3, dim):
        for i in range(dim // 3 + (j & 1), dim, 2):
            if i + j < dim:
                continue
            u = i + <float>0.5
            v = j + <float>0.5
            bend(&place.mesh, u, v, &du, &dv)
            map_point(&place.map, u + du, v + dv, &x, &y)
            total += fabsf(grey_near(plane, x, y) - grid.level[j // TILE * tiles + i // TILE])
            count += 1
    return total / count


# ---- the mesh follows the edges -----------------------------------------------------------------

cdef float EDGES_LEAST = 4      # edges that a node needs around it

cdef struct Pull:               # what the edges say of each node
    int nodes                   # a side
    float per_module            # cells
    float du[NODES_MAX * NODES_MAX]
    float dv[NODES_MAX * NODES_MAX]
    float weight_u[NODES_MAX * NODES_MAX]
    float weight_v[NODES_MAX * NODES_MAX]


cdef int bend_to_edges(const Plane* plane, Place* place, const Grid* grid) noexcept nogil:
    """Makes a mesh of cells of about six modules whose nodes are moved to where edges are.

    Between two neighbours of unlike colour there is an edge on a whole line of the symbol; how far
    the picture has it from there is how far the grid is off. Each edge moves the four nodes around
    it by its nearness. Needs grid.soft of a first sampling that is less than half a module off. The
    number of edges used.
    """
    cdef Mesh mesh
    cdef Pull pull
    cdef int dim = place.dim
    cdef int cells = max(2, min(NODES_MAX - 1, (dim + 3) // 6))
    cdef int n = cells + 1
    cdef int i, x, y, at, used = 0
    cdef float u, v, off
    memset(&pull, 0, sizeof(pull))
    pull.nodes = n
    pull.per_module = cells / <float>dim
    for y in range(1, dim - 1):
        # Every other module of a chessboard: edges repeat from row to row.
        for x in range(1 + (y & 1), dim - 1, 2):
            at = y * dim + x
            if edge_offset(plane, place, grid, at, at - 1, 0, x, y + <float>0.5, &off):
                pull_nodes(&pull, pull.du, pull.weight_u, x, y + <float>0.5, off)
                used += 1
            if edge_offset(plane, place, grid, at, at - dim, 1, x + <float>0.5, y, &off):
                pull_nodes(&pull, pull.dv, pull.weight_v, x + <float>0.5, y, off)
                used += 1
    mesh.count = n
    for i in range(n):
        mesh.lines[i] = i * dim / <float>cells
    for i in range(n * n):
        bend(&place.mesh, mesh.lines[i % n], mesh.lines[i // n], &u, &v)
        mesh.du[i] = u + mean_around(pull.du, pull.weight_u, n, i)
        mesh.dv[i] = v + mean_around(pull.dv, pull.weight_v, n, i)
    place.mesh = mesh
    return used


cdef float mean_around(const float* offsets, const float* weights, int n, int node) noexcept nogil:
    """Mean offset at a node and the eight around it; 0 where too few edges say anything."""
    cdef int x, y
    cdef float total = 0, weight = 0
    for y in range(max(0, node // n - 1), min(n, node // n + 2)):
        for x in range(max(0, node % n - 1), min(n, node % n + 2)):
            total += offsets[y * n + x]
            weight += weights[y * n + x]
    return total / weight if weight > EDGES_LEAST else 0


cdef inline int edge_offset(
    const Plane* plane, const Place* place, const Grid* grid, int at, int before, int axis, float u,
    float v, float* off,
) noexcept nogil:
    """1 and how far the edge between two modules is from (u, v), along the axis; 0 for none."""
    cdef float bu, bv, level, x, y
    if (grid.soft[at] > 0) == (grid.soft[before] > 0):
        return 0
    bend(&place.mesh, u, v, &bu, &bv)
    level = (grid.grey[at] + grid.grey[before]) * <float>0.5
    return probe(
        plane, &place.map, axis, u + bu, v + bv,
        place.sign if grid.soft[before] > 0 else -place.sign, level, <float>0.6, &x, &y, off,
    )


cdef inline void pull_nodes(
    const Pull* pull, float* offsets, float* weights, float u, float v, float off
) noexcept nogil:
    """Adds an offset to the four nodes around (u, v)."""
    cdef float fu = u * pull.per_module
    cdef float fv = v * pull.per_module
    cdef int i = min(<int>fu, pull.nodes - 2)
    cdef int j = min(<int>fv, pull.nodes - 2)
    cdef int corner, node
    cdef float weight
    fu -= i
    fv -= j
    for corner in range(4):
        node = (j + (corner >> 1)) * pull.nodes + i + (corner & 1)
        weight = (fu if corner & 1 else 1 - fu) * (fv if corner >> 1 else 1 - fv)
        offsets[node] += weight * off
        weights[node] += weight
