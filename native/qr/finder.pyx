"""Finder patterns: the 1:1:3:1:1 test on rows of edges, then a check on grey values.

Concentric squares keep 1.5 : 2.5 : 3.5 from their centre to the three edges in every direction,
whatever the rotation or tilt (ISO/IEC 18004, 6.3.3.1, seen from the centre instead of on a row).
Six of eight directions must agree, so a scratch, a glare or a missing quiet zone on one side is
forgiven. Levels come from the pattern itself and not from the block grid, so results do not depend
on where the grid lies.
"""

from libc.math cimport fabsf
from libc.stdint cimport uint8_t, uint16_t

from native.qr.luma cimport kernels, luma_kernel
from native.qr.plane cimport Plane, grey_at, is_inside, pixel_at
from native.qr.threshold cimport Thresholds, expand_row

cdef enum:
    CONTRAST_LEAST = 10         # grey values between core and ring
    LOOKS_MORE = 3              # at most, after the first

# Of finders of real symbols in the corpus 95 in 100 are below 0.27, of all else three in four are
# above 0.24.
cdef float FAULT_MOST = 0.36

# Eight directions, opposite ones four apart, and the length of a step of each.
cdef int[8] DX = [1, 1, 0, -1, -1, -1, 0, 1]
cdef int[8] DY = [0, 1, 1, 1, 0, -1, -1, -1]
cdef float[8] STEP = [
    1.0, 1.41421356, 1.0, 1.41421356, 1.0, 1.41421356, 1.0, 1.41421356
]


cdef int find_finders(
    const Plane* plane, const Thresholds* thresholds, int first_row, int row_step,
    RowScratch* scratch, Finder* out, int count, int room,
) noexcept nogil:
    """Appends finders to out[count:room], each once; returns the new count.

    Every row_step-th row from first_row on is scanned. A finder that lies on one of out[:count] is
    not added again.
    """
    cdef const luma_kernel* kernel = kernels()
    cdef int y = first_row
    cdef int block_row = -1
    cdef int i, edge_count, start_count, before
    cdef int[FINDERS_MAX] crossed       # finders that row y may cross
    cdef int crossed_count
    cdef float[2 * QUADS_MAX] spans     # of row y, which lie in known codes
    cdef const uint8_t* row
    while y < plane.height:
        if y // thresholds.block_rows != block_row:
            block_row = y // thresholds.block_rows
            expand_row(thresholds, block_row, scratch.thresholds)
        row = plane.data + y * plane.stride
        edge_count = kernel.row_edges(row, scratch.thresholds, plane.width, scratch.edges)
        start_count = kernel.finder_runs(scratch.edges, edge_count, scratch.starts)
        crossed_count = -1
        if start_count and scratch.quad_count:
            spans_of_row(scratch, y + <float>0.5, spans)
        for i in range(start_count):
            if is_in_spans(scratch, spans, scratch.edges + scratch.starts[i]):
                continue
            if crossed_count < 0:
                crossed_count = finders_crossed(out, count, y, crossed)
            before = count
            count += take_start(
                plane, y, scratch.edges + scratch.starts[i], out, count, crossed, crossed_count,
            )
            if count > before:
                if count == room:
                    count = drop_worst(out, count)
                crossed_count = -1
        y += row_step
    return count


cdef int drop_worst(Finder* out, int count) noexcept nogil:
    """Makes room for one more: the finder of the greatest fault goes. The new count."""
    cdef int i, worst = 0
    for i in range(1, count):
        if out[i].fault > out[worst].fault:
            worst = i
    out[worst] = out[count - 1]
    return count - 1


cdef int keep_best(Finder* finders, int count, int most, float fine) noexcept nogil:
    """Of more than `most` finders only those of a fault below `fine`, and the best of the others.

    The new count. Without it a picture full of stripes costs the square of what it shows.
    """
    cdef int[64] histogram
    cdef int i, bin, kept = 0, limit = 0
    if count <= most:
        return count
    for bin in range(64):
        histogram[bin] = 0
    for i in range(count):
        histogram[min(63, <int>(finders[i].fault * 128))] += 1
    for bin in range(64):
        kept += histogram[bin]
        if kept > most and bin > <int>(fine * 128):
            break
        limit = bin
    kept = 0
    for i in range(count):
        if finders[i].fault * 128 < limit + 1:
            finders[kept] = finders[i]
            kept += 1
    return kept


cdef void spans_of_row(const RowScratch* scratch, float y, float* spans) noexcept nogil:
    """Where a row crosses each known code, from and to; an empty span where it does not."""
    cdef const float* quad
    cdef float left, right, x, ya, yb
    cdef int i, side, other
    for i in range(scratch.quad_count):
        quad = &scratch.quads[8 * i]
        left = 1e9
        right = -1e9
        for side in range(4):
            other = (side + 1) & 3
            ya = quad[2 * side + 1]
            yb = quad[2 * other + 1]
            if (ya <= y) != (yb <= y):
                x = quad[2 * side] + (quad[2 * other] - quad[2 * side]) * (y - ya) / (yb - ya)
                left = min(left, x)
                right = max(right, x)
        spans[2 * i] = left
        spans[2 * i + 1] = right


cdef inline int is_in_spans(
    const RowScratch* scratch, const float* spans, const uint16_t* e
) noexcept nogil:
    cdef float x = (e[2] + e[3]) * <float>0.5
    cdef int i
    for i in range(scratch.quad_count):
        if spans[2 * i] < x < spans[2 * i + 1]:
            return 1
    return 0


cdef int finders_crossed(const Finder* finders, int count, int y, int* out) noexcept nogil:
    """Numbers of the finders that reach to row y; how many."""
    cdef int i, found = 0
    for i in range(count):
        if fabsf(finders[i].y - y) < <float>2.2 * finders[i].size:
            out[found] = i
            found += 1
    return found


cdef int take_start(
    const Plane* plane, int y, const uint16_t* e, Finder* out, int count, const int* crossed,
    int crossed_count,
) noexcept nogil:
    """1 if the five runs from e[0] on are a new finder, which is then out[count].

    crossed: finders of this row; what lies on one of them is no new one.
    """
    cdef const uint8_t* row = plane.data + y * plane.stride
    cdef int x = (e[2] + e[3]) // 2
    cdef int core = row[x]
    cdef int left = row[(e[1] + e[2]) // 2]
    cdef int right = row[(e[3] + e[4]) // 2]
    cdef int sign, dark, i
    # Both sides of the ring must differ from the core the same way.
    if left > core and right > core:
        if min(left, right) - core < CONTRAST_LEAST:
            return 0
    elif core - max(left, right) < CONTRAST_LEAST:
        return 0
    # What looks like one of the other sign, lying across this one, is none.
    sign = 1 if left > core else -1
    for i in range(crossed_count):
        if (
            fabsf(out[crossed[i]].x - x) < <float>2.2 * out[crossed[i]].size
            and out[crossed[i]].sign == sign
        ):
            return 0
    # What is dark outside the ring is blurred as much as the ring is; and where a row meets the
    # core's end, the core is lighter still.
    dark = (2 * core + row[(e[0] + e[1]) // 2] + row[(e[4] + e[5]) // 2]) // 4
    dark = max(dark, core) if sign > 0 else min(dark, core)
    return check_finder(
        plane, x, y, e[5] - e[0], dark, (left + right) // 2, AGREEING_FIRST, AGREEING_LEAST,
        &out[count],
    )


cdef inline int ray(
    const Plane* plane, int x, int y, int dx, int dy, int threshold, int sign, int steps,
    int stride, float* radii,
) noexcept nogil:
    """Edges met from pixel (x, y) on along a direction: how many of three, and how far, in pixels
    of the axis.

    steps: how many pixels to look at, every stride-th. An edge lies where the line between two of
    them crosses the threshold.
    """
    cdef const uint8_t* at = plane.data + y * plane.stride + x
    cdef Py_ssize_t move = (dy * plane.stride + dx) * stride
    cdef int room = steps * stride
    cdef int found = 0
    cdef int i, value, before = at[0]
    if dx > 0:
        room = min(room, plane.width - 1 - x)
    elif dx < 0:
        room = min(room, x)
    if dy > 0:
        room = min(room, plane.height - 1 - y)
    elif dy < 0:
        room = min(room, y)
    cdef int last = room // stride
    cdef int side = sign        # times (threshold - value): negative behind the next edge
    # A core ends before the last third of the way, or it is a stroke or a bar.
    cdef int core_most = min(last, steps * 2 // 3)
    for i in range(1, core_most + 1):
        at += move
        value = at[0]
        if (threshold - value) * side < 0:
            radii[0] = (i - 1 + <float>(threshold - before) / <float>(value - before)) * stride
            found = 1
            side = -side
            before = value
            break
        before = value
    if found == 0:
        return 0
    for i in range(i + 1, last + 1):
        at += move
        value = at[0]
        if (threshold - value) * side < 0:
            radii[found] = (i - 1 + <float>(threshold - before) / <float>(value - before)) * stride
            found += 1
            side = -side
            if found == 3:
                return 3
        before = value
    # A symbol cut out to its very edge has no quiet zone: the picture's edge is its own.
    if found == 2 and last < steps:
        radii[2] = room + <float>0.5
        found = 3
    return found


cdef int check_finder(
    const Plane* plane, int x, int y, float span, int dark, int light, int first_look, int needed,
    Finder* out,
) noexcept nogil:
    """1 if a finder is centred near pixel (x, y); it is written to out.

    span: its chord along the row, pixels. dark, light: levels of core and ring, dark above light
    for light-on-dark codes. first_look, needed: directions of eight that must agree at the first
    look, from off the centre, and at last.
    """
    cdef int sign = 1 if dark < light else -1
    cdef int threshold = (dark + light + 1) // 2
    # Of large finders every second or third pixel says enough.
    cdef int stride = max(1, <int>span // 24)
    cdef int steps = (<int>(span * <float>0.85) + 4 + stride - 1) // stride
    cdef float[3] up
    cdef float[3] down
    cdef float[3] left
    cdef float[3] right
    cdef float core_wide, core_high, ring_high
    if (threshold - pixel_at(plane, x, y)) * sign < 0:
        return 0
    if ray(plane, x, y, 0, -1, threshold, sign, steps, stride, up) < 2:
        return 0
    if ray(plane, x, y, 0, 1, threshold, sign, steps, stride, down) < 2:
        return 0
    core_high = up[0] + down[0]
    core_wide = span * <float>(3.0 / 7.0)
    if core_high > 2.2 * core_wide + 2 or core_wide > 2.2 * core_high + 2:
        return 0
    # Ring to ring is five modules where the core is three.
    ring_high = up[1] + down[1]
    if ring_high < <float>1.1 * core_high or ring_high > <float>3.2 * core_high + 3:
        return 0
    y += <int>((down[0] - up[0]) * 0.5 + 1000.5) - 1000
    if (threshold - pixel_at(plane, x, y)) * sign < 0:
        return 0
    if ray(plane, x, y, -1, 0, threshold, sign, steps, stride, left) < 1:
        return 0
    if ray(plane, x, y, 1, 0, threshold, sign, steps, stride, right) < 1:
        return 0
    x += <int>((right[0] - left[0]) * 0.5 + 1000.5) - 1000
    if (threshold - pixel_at(plane, x, y)) * sign < 0:
        return 0
    steps += steps // 2
    # A first look from off the centre may see some directions wrong, and says where the centre is.
    cdef int agreeing = eight_ways(
        plane, x, y, threshold, sign, steps, stride, dark, light, first_look, out
    )
    cdef Finder again
    cdef int _turn
    if agreeing == 0:
        return 0
    # It has also seen the levels of core and ring in many places, where the row saw them in three.
    # From far off the next look may be short of the middle as well.
    for _turn in range(LOOKS_MORE):
        if not is_inside(plane, out.x, out.y):
            return 0
        x = <int>out.x
        y = <int>out.y
        threshold = <int>((out.dark + out.light) * <float>0.5 + <float>0.5)
        if (threshold - pixel_at(plane, x, y)) * sign <= 0 or not eight_ways(
            plane, x, y, threshold, sign, steps, stride, dark, light, needed, &again
        ):
            break
        if again.fault >= out.fault and out.agreeing >= needed:
            break
        out[0] = again
        if fabsf(out.x - x) + fabsf(out.y - y) < out.size:
            break
    return out.agreeing >= needed and out.fault <= FAULT_MOST


cdef inline int ring_level(const Plane* plane, int x, int y, int way, float radius) noexcept nogil:
    cdef int steps = <int>(radius + <float>0.5)
    return pixel_at(plane, x + DX[way] * steps, y + DY[way] * steps)


cdef int eight_ways(
    const Plane* plane, int x, int y, int threshold, int sign, int steps, int stride, int dark,
    int light, int needed, Finder* out,
) noexcept nogil:
    """Rays from (x, y) in eight directions; 1 if enough of them are in proportion."""
    cdef float[8][3] radii
    cdef int[8] found
    cdef int way, edge, agreeing = 0
    cdef float module, total = 0, fault = 0, lights = 0, darks = 0, slack, off_x = 0, off_y = 0, off
    cdef int pairs
    for way in range(8):
        found[way] = ray(
            plane, x, y, DX[way], DY[way], threshold, sign, steps, stride, &radii[way][0]
        )
        # Two disagreeing directions and the one still needed are told early.
        if way - agreeing > 8 - needed:
            return 0
        if found[way] < 3:
            continue
        # The third edge may be blurred into what lies around; the first two say the module.
        module = (radii[way][0] + radii[way][1] + radii[way][2]) * <float>(1.0 / 7.5)
        slack = <float>0.4 * module + <float>0.6
        if (
            fabsf(radii[way][0] - <float>1.5 * module) < slack
            and fabsf(radii[way][1] - <float>2.5 * module) < slack
            and fabsf(radii[way][2] - <float>3.5 * module) < slack
        ):
            agreeing += 1
            total += module * STEP[way]
            lights += ring_level(plane, x, y, way, (radii[way][0] + radii[way][1]) * <float>0.5)
            darks += ring_level(plane, x, y, way, (radii[way][1] + radii[way][2]) * <float>0.5)
            fault += (
                fabsf(radii[way][0] - <float>1.5 * module)
                + fabsf(radii[way][1] - <float>2.5 * module)
                + fabsf(radii[way][2] - <float>3.5 * module)
            ) / module
    if agreeing < needed:
        return 0
    for way in range(4):
        pairs = min(found[way], found[way + 4])
        if pairs == 0:
            continue
        off = 0
        for edge in range(pairs):
            off += radii[way][edge] - radii[way + 4][edge]
        off *= STEP[way] / (2 * pairs)
        # The directions are unit vectors; the squares of four of them add up to twice the identity.
        off_x += off * DX[way] / STEP[way] * <float>0.5
        off_y += off * DY[way] / STEP[way] * <float>0.5
    # The mean over directions of a square's radius is 1.12 times the radius to its side.
    out.size = total / agreeing * <float>(1.0 / 1.12)
    off = out.size * 2
    if fabsf(off_x) > off or fabsf(off_y) > off:
        return 0
    out.x = x + <float>0.5 + off_x
    out.y = y + <float>0.5 + off_y
    # The core is darkest where it is widest; the ring around it is as wide as the square outside.
    out.dark = (dark + darks) / (1 + agreeing)
    out.light = lights / agreeing
    if (out.light - out.dark) * sign < CONTRAST_LEAST:
        return 0
    out.sign = sign
    out.agreeing = agreeing
    # A direction that disagrees counts as if all its edges were off by half a module.
    out.fault = (fault / 3 + <float>0.5 * (8 - agreeing)) / 8
    out.used = 0
    return 1


cdef void finder_rays(
    const Plane* plane, const Finder* finder, float[3]* radii, int* found
) noexcept nogil:
    """The rays of eight_ways from the middle of a finder, for pictures and tests: pixels.

    radii: eight; how many of each are found stands in `found`.
    """
    cdef int threshold = <int>((finder.dark + finder.light) * <float>0.5 + <float>0.5)
    cdef float span = 7 * finder.size
    cdef int stride = max(1, <int>span // 24)
    cdef int steps = (<int>(span * <float>0.85) + 4 + stride - 1) // stride
    cdef int way, edge
    for way in range(8):
        found[way] = ray(
            plane, <int>finder.x, <int>finder.y, DX[way], DY[way], threshold, finder.sign,
            steps + steps // 2, stride, &radii[way][0],
        )
        for edge in range(found[way]):
            radii[way][edge] *= STEP[way]


cdef float reach_along(
    const Plane* plane, const Finder* finder, float dx, float dy
) noexcept nogil:
    """Pixels a module from a finder's centre along the unit vector (dx, dy), 0 where unclear.

    From the outer edges of ring and square, where they are found in proportion.
    """
    cdef float threshold = (finder.dark + finder.light) * <float>0.5
    cdef float step = max(<float>0.34, finder.size * <float>0.25)
    cdef float most = finder.size * 7
    cdef float at = 0, value, before = 0
    cdef float[3] radii
    cdef int found = 0
    cdef int side = finder.sign
    while at < most:
        at += step
        if not is_inside(plane, finder.x + dx * at, finder.y + dy * at):
            break
        value = grey_at(plane, finder.x + dx * at, finder.y + dy * at) - threshold
        if value * side > 0:
            if found == 0 and at <= step:
                return 0
            radii[found] = at - step * value / (value - before) if value != before else at
            found += 1
            side = -side
            if found == 3:
                break
        before = value
    if found < 2:
        return 0
    cdef float module = radii[1] * <float>0.4
    if fabsf(radii[0] - <float>1.5 * module) > module:
        return 0
    if found == 3 and fabsf(radii[2] - <float>3.5 * module) < <float>0.8 * module:
        module = (radii[0] + radii[1] + radii[2]) * <float>(1.0 / 7.5)
    return module
