"""What a plane showed: the codes that were read, and what may belong to one that was not.

The latter is what the next stage goes by: another look, the frame after this one, or another
reader.
"""

from native.qr.finder cimport Finder
from native.qr.plane cimport Plane
from native.qr.threshold cimport is_noisy

cdef enum:
    SMALL = 90_000              # pixels of a plane in which a look at its half costs little
    SEEN_IN_NOISE = 20          # finders

# Three in four finders of the corpus' symbols are finer, one in a hundred of what are none.
cdef float FAULT_FINE = 0.12
cdef float FAULT_GOOD = 0.2


cdef int is_in_code(const Found* found, float x, float y) noexcept nogil:
    """Whether a point of the plane as given lies within a code.

    Outside is who sees one side turn the other way; a mirrored code turns all of them.
    """
    cdef float ax, ay, bx, by
    cdef int side, turn = 0
    for side in range(4):
        ax = found.corners[2 * side]
        ay = found.corners[2 * side + 1]
        bx = found.corners[2 * ((side + 1) & 3)]
        by = found.corners[2 * ((side + 1) & 3) + 1]
        turn += 1 if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0 else -1
    return turn == 4 or turn == -4


cdef void add_mark(
    Evidence* evidence, float x, float y, float reach, int halvings, const Finder* b,
    const Finder* c,
) noexcept nogil:
    """b, c: the outer finders of a symbol, NULL for a finder by itself."""
    cdef float scale = 1 << halvings
    cdef Mark* mark
    if evidence.mark_count == MARKS_MAX:
        return
    mark = &evidence.marks[evidence.mark_count]
    evidence.mark_count += 1
    mark.x = x * scale
    mark.y = y * scale
    mark.reach = reach * scale
    mark.is_symbol = b != NULL
    if mark.is_symbol:
        mark.ends[0] = b.x * scale
        mark.ends[1] = b.y * scale
        mark.ends[2] = c.x * scale
        mark.ends[3] = c.y * scale


cdef void note_unused(
    const Finder* finders, int count, int halvings, Evidence* evidence
) noexcept nogil:
    """Finders that belong to no code that was read, and where the fine ones are."""
    cdef int i, unused = 0
    for i in range(count):
        if finders[i].used:
            continue
        unused += 1
        if finders[i].fault > FAULT_FINE:
            continue
        # A symbol of version 16 reaches so far from each of its finders.
        add_mark(
            evidence, finders[i].x, finders[i].y, 81 * finders[i].size, halvings, NULL, NULL
        )
    evidence.finders = max(evidence.finders, unused)


cdef int has_good_finder(const Finder* finders, int count) noexcept nogil:
    cdef int i
    for i in range(count):
        if not finders[i].used and finders[i].fault < FAULT_GOOD:
            return 1
    return 0


cdef bint deserves_half(const Evidence* evidence, const Plane* plane) noexcept nogil:
    """Whether to look at the half of a plane on which nothing was read, nor on its quarter: what is
    too noisy for the one and too small for the other. Seldom, as it is not cheap."""
    if evidence.attempts and (
        plane.width * plane.height <= SMALL or has_sure_mark(evidence)
    ):
        return 1
    # Noise looks like finders everywhere: most planes need not be asked.
    return evidence.seen >= SEEN_IN_NOISE and is_noisy(plane)


cdef bint has_sure_mark(const Evidence* evidence) noexcept nogil:
    """Whether a symbol was placed whose timing patterns agree, or its three finders are fine."""
    cdef int i
    for i in range(evidence.mark_count):
        if evidence.marks[i].is_symbol:
            return 1
    return evidence.mark_count >= 3


cdef int is_explained(const Mark* mark, const Found* found, int count) noexcept nogil:
    """Whether a mark lies within a code that was read, or its finders within such codes.

    A symbol may have been read on another level than where it first was not; finders of three codes
    that lie side by side may look like those of one.
    """
    cdef int k, ends = 0
    for k in range(count):
        if is_in_code(&found[k], mark.x, mark.y):
            return 1
        if mark.is_symbol:
            ends += is_in_code(&found[k], mark.ends[0], mark.ends[1])
            ends += is_in_code(&found[k], mark.ends[2], mark.ends[3])
    return ends >= 2


cdef void weigh_marks(Evidence* evidence, const Found* found, int count) noexcept nogil:
    """Counts what no code that was read explains, and the box around it."""
    cdef Mark* mark
    cdef int i
    evidence.sure = 0
    evidence.fine = 0
    evidence.box[0] = evidence.box[1] = 1e6
    evidence.box[2] = evidence.box[3] = 0
    for i in range(evidence.mark_count):
        mark = &evidence.marks[i]
        mark.is_explained = is_explained(mark, found, count)
        if mark.is_explained:
            continue
        evidence.sure += mark.is_symbol
        evidence.fine += not mark.is_symbol
        evidence.box[0] = min(evidence.box[0], mark.x - mark.reach)
        evidence.box[1] = min(evidence.box[1], mark.y - mark.reach)
        evidence.box[2] = max(evidence.box[2], mark.x + mark.reach)
        evidence.box[3] = max(evidence.box[3], mark.y + mark.reach)
