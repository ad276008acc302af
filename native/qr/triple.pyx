"""Triples of finders: which three belong together, and how many modules lie between them.

First by what costs nothing: like sizes, legs of like length in modules, an angle that a camera may
make of a right one. Then by the timing patterns (ISO/IEC 18004, 6.3.5), whose steps from light to
dark count the modules whatever the perspective: dim - 13 of them between the inner corners of two
finders. Nearly every false triple ends there.
"""

from libc.math cimport fabsf, logf, sqrtf

from native.qr.finder cimport Finder, reach_along
from native.qr.plane cimport Plane, grey_at, is_inside

cdef enum:
    NEIGHBOURS = 10             # finders looked at around each
    DIM_LEAST = 21
    DIM_MOST = 177


# Of 2,489 symbols read in corpus and clips none is above 0.59; of the triples that got as far as a
# reading without being symbols, a third are.
cdef float FAULTS_MOST = 0.6
cdef float FAULTS_FINE = 0.3    # of triples whose distances say more than smeared patterns


cdef int rank_triples(
    const Finder* finders, int count, float score_most, Triple* out, int room
) noexcept nogil:
    """The best `room` triples, best first, of finders that are not used yet; their number."""
    cdef int a, i, j, near_count, found = 0
    cdef int[NEIGHBOURS] near
    cdef Triple triple
    for a in range(count):
        if finders[a].used:
            continue
        near_count = neighbours_of(finders, count, a, near)
        for i in range(near_count):
            for j in range(i + 1, near_count):
                if score_triple(
                    finders, a, near[i], near[j], &triple
                ) and triple.score < score_most:
                    found = insert(out, found, room, &triple)
    return found


cdef int neighbours_of(const Finder* finders, int count, int a, int* near) noexcept nogil:
    """The likeliest finders of a's kind that could be corners of a symbol with it."""
    cdef float[NEIGHBOURS] costs
    cdef const Finder* here = &finders[a]
    cdef const Finder* there
    cdef float dx, dy, distance, ratio, size, cost
    cdef int i, at, found = 0
    for i in range(count):
        there = &finders[i]
        if i == a or there.used or there.sign != here.sign:
            continue
        ratio = there.size / here.size
        if ratio > 3 or ratio < <float>0.33:
            continue
        dx = there.x - here.x
        dy = there.y - here.y
        distance = sqrtf(dx * dx + dy * dy)
        size = sqrtf(there.size * here.size)
        # 14 modules between centres at least, 170 at most, and what a guessed size may be off.
        if distance < 9 * size or distance > 235 * size:
            continue
        # Near ones first, but a large symbol is full of poor finders between its good ones.
        cost = there.fault + <float>0.08 * logf(distance / size)
        if found == NEIGHBOURS and cost >= costs[NEIGHBOURS - 1]:
            continue
        at = found if found < NEIGHBOURS else NEIGHBOURS - 1
        while at > 0 and costs[at - 1] > cost:
            costs[at] = costs[at - 1]
            near[at] = near[at - 1]
            at -= 1
        costs[at] = cost
        near[at] = i
        found = min(found + 1, NEIGHBOURS)
    return found


cdef int score_triple(const Finder* finders, int a, int b, int c, Triple* out) noexcept nogil:
    """1 if a may be the corner between b and c; the two are put into the order of the standard."""
    cdef float fault = finders[a].fault + finders[b].fault + finders[c].fault
    if fault > FAULTS_MOST:
        return 0
    cdef float bx = finders[b].x - finders[a].x
    cdef float by = finders[b].y - finders[a].y
    cdef float cx = finders[c].x - finders[a].x
    cdef float cy = finders[c].y - finders[a].y
    cdef float long_b = sqrtf(bx * bx + by * by)
    cdef float long_c = sqrtf(cx * cx + cy * cy)
    cdef float cosine = (bx * cx + by * cy) / (long_b * long_c)
    if fabsf(cosine) > <float>0.85 or long_b > 5 * long_c or long_c > 5 * long_b:
        return 0
    cdef float modules_b = long_b / sqrtf(finders[a].size * finders[b].size)
    cdef float modules_c = long_c / sqrtf(finders[a].size * finders[c].size)
    cdef float legs = fabsf(logf(modules_b / modules_c))
    if legs > <float>1.0:
        return 0
    cdef float sizes = fabsf(logf(finders[b].size / finders[c].size))
    sizes += fabsf(logf(finders[a].size / finders[b].size))
    sizes += fabsf(logf(finders[a].size / finders[c].size))
    out.a = a
    out.b = b
    out.c = c
    if bx * cy - by * cx < 0:
        out.b = c
        out.c = b
    out.dim = 0
    out.other = 0
    out.off = 0
    out.steps_b = 0
    out.steps_c = 0
    # Of nested candidates the small one is the symbol: the large one spans several symbols.
    out.score = legs + <float>0.5 * sizes + fabsf(cosine)
    out.score += <float>0.12 * logf(modules_b * modules_c * <float>(1.0 / 196.0))
    # A tilted symbol is unlike a square, and its finders are fine all the same.
    out.score += 3 * fault - <float>0.45
    return 1


cdef int insert(Triple* out, int found, int room, const Triple* triple) noexcept nogil:
    cdef int at = found
    if found == room:
        if triple.score >= out[room - 1].score:
            return found
        at = room - 1
    while at > 0 and out[at - 1].score > triple.score:
        out[at] = out[at - 1]
        at -= 1
    out[at] = triple[0]
    return min(found + 1, room)


cdef int measure_triple(const Plane* plane, const Finder* finders, Triple* triple) noexcept nogil:
    """Counts the modules: 1 if both timing patterns, or one of them and the distances, agree.

    Sets dim, other and off. 0 for three finders that are no symbol.
    """
    cdef const Finder* a = &finders[triple.a]
    cdef const Finder* b = &finders[triple.b]
    cdef const Finder* c = &finders[triple.c]
    cdef float bx = b.x - a.x
    cdef float by = b.y - a.y
    cdef float cx = c.x - a.x
    cdef float cy = c.y - a.y
    cdef float long_b = sqrtf(bx * bx + by * by)
    cdef float long_c = sqrtf(cx * cx + cy * cy)
    bx /= long_b
    by /= long_b
    cx /= long_c
    cy /= long_c
    # Pixels a module at each finder along each side.
    cdef float ab = reach_along(plane, a, bx, by)
    cdef float ba = reach_along(plane, b, -bx, -by)
    cdef float ac = reach_along(plane, a, cx, cy)
    cdef float ca = reach_along(plane, c, -cx, -cy)
    ab = ab if ab > 0 else a.size
    ac = ac if ac > 0 else a.size
    ba = ba if ba > 0 else ab * b.size / a.size
    ca = ca if ca > 0 else ac * c.size / a.size
    cdef float guess_b = long_b / sqrtf(ab * ba) + 7
    cdef float guess_c = long_c / sqrtf(ac * ca) + 7
    if guess_b > 200 or guess_c > 200 or guess_b < 16 or guess_c < 16:
        return 0
    if fabsf(guess_b - guess_c) > <float>0.3 * (guess_b + guess_c) * <float>0.5 + 3:
        return 0
    # The far finders' sides seen across: b's module along c's direction grows as the sides do.
    cdef float across_b = reach_along(plane, b, cx, cy)
    cdef float across_c = reach_along(plane, c, bx, by)
    across_b = across_b if across_b > 0 else ac * ba / ab
    across_c = across_c if across_c > 0 else ab * ca / ac
    cdef float level = (a.light + b.light + c.light - a.dark - b.dark - c.dark) / 3 * a.sign
    cdef int steps_b = count_steps(
        plane, a.x + 3 * (bx * ab + cx * ac), a.y + 3 * (by * ab + cy * ac),
        b.x - 3 * (bx * ba - cx * across_b), b.y - 3 * (by * ba - cy * across_b),
        guess_b - 13, level,
    )
    cdef int steps_c = count_steps(
        plane, a.x + 3 * (bx * ab + cx * ac), a.y + 3 * (by * ab + cy * ac),
        c.x - 3 * (cx * ca - bx * across_c), c.y - 3 * (cy * ca - by * across_c),
        guess_c - 13, level,
    )
    triple.steps_b = steps_b
    triple.steps_c = steps_c
    cdef float fault = a.fault + b.fault + c.fault
    if not settle_dim(
        triple, steps_b + 13, steps_c + 13, guess_b, guess_c, fault < <float>0.45
    ):
        return 0
    # Blur hides steps in pairs, in both patterns alike: fine finders know the distances better.
    triple.other = 0
    if fault < FAULTS_FINE and fabsf(guess_b - guess_c) < 2:
        triple.other = nearest_dim((guess_b + guess_c) * <float>0.5)
        if triple.other == triple.dim:
            triple.other = 0
    return 1


cdef int settle_dim(
    Triple* triple, int by_b, int by_c, float guess_b, float guess_c, int may_hide
) noexcept nogil:
    """The side from two counts and two guesses; 0 where nothing fits.

    may_hide: one of the timing patterns may be covered, since the finders are fine.
    """
    cdef float guess = (guess_b + guess_c) * <float>0.5
    cdef int legs_differ = fabsf(guess_b - guess_c) > <float>0.06 * guess + 1
    cdef int best = 0
    cdef int dim, off, best_off = 1000
    cdef float room = <float>0.22 * guess + 3
    for dim in range(DIM_LEAST, DIM_MOST + 1, 4):
        if fabsf(dim - guess) > room:
            continue
        off = abs(by_b - dim) + abs(by_c - dim)
        if off > 0 and fabsf(dim - guess) > <float>0.13 * dim + 1:
            continue
        if may_hide and fabsf(dim - guess) < <float>0.08 * guess + 1:
            off = min(off, 3 + 4 * min(abs(by_b - dim), abs(by_c - dim)))
        if off < best_off or (off == best_off and fabsf(dim - guess) < fabsf(best - guess)):
            best_off = off
            best = dim
    triple.dim = best
    triple.off = best_off
    if best != 0 and best_off <= 3 + best // 24:
        return 1
    if not may_hide or legs_differ:
        return 0
    # Fine finders, smeared timing patterns: the distances are all there is to go by.
    triple.dim = nearest_dim(guess)
    triple.off = OFF_UNKNOWN
    return 1


cdef int nearest_dim(float guess) noexcept nogil:
    cdef int dim = 17 + 4 * <int>((guess - 17) * <float>0.25 + <float>0.5)
    return min(max(dim, DIM_LEAST), DIM_MOST)


cdef int count_steps(
    const Plane* plane, float x0, float y0, float x1, float y1, float modules, float contrast
) noexcept nogil:
    """Changes between light and dark on the way from one point to another; -100 outside.

    A change counts when the value has come back from its last extreme by a fifth of the contrast,
    so that a slope of light along the way does not matter.
    """
    if not is_inside(plane, x0, y0) or not is_inside(plane, x1, y1):
        return -100
    cdef int samples = max(8, <int>(modules * 5))
    cdef float step = 1 / <float>samples
    cdef float dx = (x1 - x0) * step
    cdef float dy = (y1 - y0) * step
    cdef float swing = fabsf(contrast) * <float>0.2
    cdef float value = grey_at(plane, x0, y0)
    cdef float low = value
    cdef float high = value
    cdef int changes = -1
    cdef int rising = 0
    cdef int i
    for i in range(1, samples + 1):
        value = grey_at(plane, x0 + dx * i, y0 + dy * i)
        if rising >= 0 and value > high:
            high = value
        if rising <= 0 and value < low:
            low = value
        if rising >= 0 and high - value > swing:
            changes += 1
            rising = -1
            low = value
        elif rising <= 0 and value - low > swing:
            changes += 1
            rising = 1
            high = value
    return changes + 1
