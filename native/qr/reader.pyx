"""Reading of one plane: thresholds, finders, triples, place, modules, content; then smaller planes.

The stages are joined by flat structs in a Workspace, which is allocated when a larger plane comes
and never for a frame. Nothing here holds the GIL but the doors at the end.
"""

from cpython.buffer cimport (
    PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.math cimport fabsf
from libc.stddef cimport size_t
from libc.stdint cimport int16_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from native.qr.code cimport QR_READ, Code, copy_code
from native.qr.evidence cimport (
    FAULT_FINE, Evidence, Found, Mark, add_mark, deserves_half, has_good_finder, is_in_code,
    note_unused, weigh_marks,
)
from native.qr.finder cimport (
    AGREEING_FIRST, AGREEING_LEAST, FINDERS_MAX, QUADS_MAX, Finder, check_finder, find_finders,
    finder_rays, keep_best,
)
from native.qr.fit cimport map_point
from native.qr.locate cimport Mesh, copy_place, locate, strayed_finder
from native.qr.matrix cimport decode_matrix
from native.qr.luma cimport kernels
from native.qr.plane cimport Plane, is_inside
from native.qr.sample cimport (
    bend_to_edges, equalize, known_errors, sample_grid, soften, soften_by_mean, swing_corner,
)
from native.qr.symbol cimport codewords_of
from native.qr.threshold cimport ROW_STEP_MAX, find_thresholds
from native.qr.triple cimport OFF_UNKNOWN, Triple, measure_triple, rank_triples
from native.qr.workspace cimport workspace_fit, workspace_free, workspace_new

cdef enum:
    SIDE_LEAST = 21             # pixels; a symbol of one pixel a module
    SIDE_MOST = 65_000          # edges are 16-bit numbers
    AGREEMENT_LEAST = 65        # percent of timing modules, to sample at all
    OUTSIDE_MOST = 25           # percent of modules
    # Per mille of the modules everybody knows: no symbol of 2,361 was read with more on the wrong
    # side than 190 before the equalizer and 65 after it.
    KNOWN_WRONG_MOST = 200
    KNOWN_WRONG_SHARP = 90
    KNOWN_WRONG_BENT = 120
    TRIPLES_FIRST = 16          # measured of the first rows of a still, and so many more for each
    ATTEMPTS_FIRST = 2          # code that is read; and placed in vain
    AGREEMENT_BENT = 88


# Of the triples: no symbol of corpus and clips is above 1.75, but for strong tilts.
cdef float SCORE_QUICK = 1.8
cdef float SCORE_THOROUGH = 2.6


# ---- the way of a plane -------------------------------------------------------------------------


cdef int read_plane(
    Workspace* ws, const Plane* plane, const Effort* effort, Found* out, int room,
    Evidence* evidence,
) noexcept nogil:
    """Codes of a plane into `out`, at most `room`; their number, or -1 without memory."""
    cdef int found
    memset(evidence, 0, sizeof(Evidence))
    if not is_readable(plane):
        return 0
    if not workspace_fit(ws, plane.width, plane.height):
        return -1
    found = read_levels(ws, plane, effort, out, room, evidence)
    weigh_marks(evidence, out, found)
    return found


cdef int read_levels(
    Workspace* ws, const Plane* plane, const Effort* effort, Found* out, int room,
    Evidence* evidence,
) noexcept nogil:
    cdef Plane level
    cdef int found = read_level(ws, plane, 0, effort, out, 0, room, evidence)
    if effort.levels == 1 or (found and not effort.thorough):
        return found
    level = quarter(ws, plane)
    if is_readable(&level):
        found = read_level(ws, &level, 2, effort, out, found, room, evidence)
    if effort.levels == 2 or found or not deserves_half(evidence, plane):
        return found
    level = halve(ws, plane)
    if is_readable(&level):
        found = read_level(ws, &level, 1, effort, out, found, room, evidence)
    return found


cdef bint is_readable(const Plane* plane) noexcept nogil:
    """Whether a plane is neither smaller than any symbol nor larger than edges can be numbered."""
    return (
        SIDE_LEAST <= plane.width <= SIDE_MOST and SIDE_LEAST <= plane.height <= SIDE_MOST
    )


cdef Plane halve(Workspace* ws, const Plane* plane) noexcept nogil:
    cdef Plane half = Plane(ws.halved, plane.width // 2, plane.width // 2, plane.height // 2)
    kernels().halve(
        plane.data, plane.stride, half.width, half.height, ws.halved, half.stride
    )
    return half


cdef Plane quarter(Workspace* ws, const Plane* plane) noexcept nogil:
    cdef Plane part = Plane(ws.halved, plane.width // 4, plane.width // 4, plane.height // 4)
    kernels().quarter(
        plane.data, plane.stride, part.width, part.height, ws.halved, part.stride
    )
    return part


cdef inline int step_for(const Plane* plane, int thorough) noexcept nogil:
    """Row steps that a plane allows: modules of a small one may be single pixels."""
    cdef int side = min(plane.width, plane.height)
    if side < 400:
        return 1 if side < 200 else 2
    if thorough:
        return 4
    return 6 if side < 640 else ROW_STEP_MAX


cdef int read_level(
    Workspace* ws, const Plane* plane, int halvings, const Effort* effort, Found* out, int found,
    int room, Evidence* evidence,
) noexcept nogil:
    """Codes of one size of the plane that are not among out[:found]; the new number.

    A lane scans rows once. Stills begin with few rows, since where a code was read no more need be
    looked for; the rows between follow.
    """
    # Half planes are small, and their modules may be of two pixels only.
    cdef int finest = 2
    cdef int row_step, first_row, count = 0, before = found
    cdef Effort first = effort[0]
    if halvings == 0:
        finest = min(effort.row_step, step_for(plane, effort.thorough))
    # In the smallest every row tells something else of the same finder.
    row_step = ROW_STEP_MAX if effort.thorough and finest > 1 else finest
    first_row = effort.first_row % row_step
    ws.pending_count = 0
    ws.failure_count = 0
    ws.attempts = 0
    ws.measured = 0
    find_thresholds(plane, finest, &ws.thresholds)
    if row_step > finest:
        first.triples = min(effort.triples, TRIPLES_FIRST)
        first.attempts = min(effort.attempts, ATTEMPTS_FIRST)
    found = read_rows(
        ws, plane, first_row, row_step, row_step, &count, halvings, &first, out, found, room,
        evidence,
    )
    if (
        row_step == finest and row_step > 4 and found == before
        and has_good_finder(ws.finders, count)
    ):
        # A good finder without its companions asks for more.
        finest = row_step // 2
    if row_step > finest:
        found = read_rows(
            ws, plane, first_row, row_step, finest, &count, halvings, effort, out, found, room,
            evidence,
        )
    note_unused(ws.finders, count, halvings, evidence)
    return found


cdef int read_rows(
    Workspace* ws, const Plane* plane, int first_row, int row_step, int finest, int* count,
    int halvings, const Effort* effort, Found* out, int found, int room, Evidence* evidence,
) noexcept nogil:
    """Codes with a finder in these rows, added to ws.finders[:count], that were not known; the new
    number of codes. Areas of codes that were read are passed over.

    The rows are first_row and every row_step-th from it; where finest is smaller, those that lie
    between these and finest apart from them and one another.
    """
    cdef int before = found, known = count[0]
    know_codes(ws, out, found, halvings)
    if row_step == finest:
        count[0] = find_finders(
            plane, &ws.thresholds, first_row, row_step, &ws.rows, ws.finders, known, FINDERS_MAX
        )
    while row_step > finest:
        count[0] = find_finders(
            plane, &ws.thresholds, (first_row + row_step // 2) % row_step, row_step, &ws.rows,
            ws.finders, count[0], FINDERS_MAX,
        )
        row_step //= 2
        first_row %= row_step
    evidence.seen += count[0] - known
    if count[0] == known:
        return found
    found = read_triples(ws, plane, count, halvings, effort, out, found, room, evidence)
    while effort.thorough and found > before + 8:
        # A sheet of codes: more triples than there was room for.
        before = found
        found = read_triples(ws, plane, count, halvings, effort, out, found, room, evidence)
    return found


cdef void know_codes(Workspace* ws, const Found* found, int count, int halvings) noexcept nogil:
    """Areas of codes that were read, in which no finder need be looked for."""
    cdef float scale = 1 / <float>(1 << halvings)
    cdef int i, k
    ws.rows.quad_count = min(count, QUADS_MAX)
    for i in range(ws.rows.quad_count):
        for k in range(8):
            ws.rows.quads[8 * i + k] = found[count - 1 - i].corners[k] * scale


cdef inline int is_skipped(Workspace* ws, const Triple* triple) noexcept nogil:
    """Whether the middle of a triple lies around the point that is to be left alone, or the triple
    was tried before. Sets is_plain."""
    cdef float x = (ws.finders[triple.b].x + ws.finders[triple.c].x) * <float>0.5
    cdef float y = (ws.finders[triple.b].y + ws.finders[triple.c].y) * <float>0.5
    cdef int i
    ws.is_plain = 0
    if fabsf(x - ws.skip_x) < ws.skip_reach and fabsf(y - ws.skip_y) < ws.skip_reach:
        ws.is_plain = ws.skip_plainly
        if not ws.is_plain:
            return 1
    for i in range(ws.failure_count):
        if (
            fabsf(x - ws.failures[i].x) < 1 and fabsf(y - ws.failures[i].y) < 1
            and fabsf(ws.finders[triple.a].x - ws.failures[i].corner_x) < 1
            and fabsf(ws.finders[triple.a].y - ws.failures[i].corner_y) < 1
        ):
            return 1
    return 0


cdef void note_failure(
    Workspace* ws, const Triple* triple, int halvings, Evidence* evidence
) noexcept nogil:
    """A symbol was placed and not read: it is not tried again on this level."""
    cdef const Finder* b = &ws.finders[triple.b]
    cdef const Finder* c = &ws.finders[triple.c]
    cdef float x = (b.x + c.x) * <float>0.5
    cdef float y = (b.y + c.y) * <float>0.5
    cdef float reach = fabsf(b.x - c.x) + fabsf(b.y - c.y)
    evidence.triples += 1
    if ws.failure_count < FAILURES_MAX:
        ws.failures[ws.failure_count] = Failure(
            x, y, ws.finders[triple.a].x, ws.finders[triple.a].y
        )
        ws.failure_count += 1
    if ws.place.agreement >= AGREEMENT_SURE:
        add_mark(evidence, x, y, reach, halvings, b, c)


cdef int read_triples(
    Workspace* ws, const Plane* plane, int* count, int halvings, const Effort* effort, Found* out,
    int found, int room, Evidence* evidence,
) noexcept nogil:
    """Reads the symbols between ws.finders[:count], which may lose its worst; the new number."""
    cdef int triple_count, t
    cdef Triple* triple
    count[0] = keep_best(ws.finders, count[0], effort.finders, FAULT_FINE)
    triple_count = rank_triples(
        ws.finders, count[0], SCORE_THOROUGH if effort.thorough else SCORE_QUICK, ws.triples,
        min(effort.triples, TRIPLES_MAX),
    )
    for t in range(triple_count):
        triple = &ws.triples[t]
        if (
            ws.finders[triple.a].used or ws.finders[triple.b].used or ws.finders[triple.c].used
            or found == room or ws.attempts >= effort.attempts + 3 * found
            or ws.measured >= effort.triples * (1 + found)
        ):
            continue
        if is_skipped(ws, triple):
            continue
        evidence.measured += 1
        ws.measured += 1
        if not measure_triple(plane, ws.finders, triple):
            continue
        if read_symbol(
            ws, plane, ws.finders, triple, effort.thorough, effort.thorough and found == 0
        ):
            note_found(ws, halvings, &out[found])
            remember(ws, triple)
            ws.finders[triple.a].used = 1
            ws.finders[triple.b].used = 1
            ws.finders[triple.c].used = 1
            use_finders_in(ws.finders, count[0], &out[found], halvings)
            found += 1
        else:
            note_failure(ws, triple, halvings, evidence)
            evidence.attempts += 1
            ws.attempts += 1
    return found


cdef void remember(Workspace* ws, const Triple* triple) noexcept nogil:
    """Keeps what tracking needs of the symbol just read."""
    cdef Pending* pending
    ws.last[0] = ws.finders[triple.a]
    ws.last[1] = ws.finders[triple.b]
    ws.last[2] = ws.finders[triple.c]
    if ws.pending_count < PENDING_MAX:
        pending = &ws.pending[ws.pending_count]
        pending.corners[0] = ws.last[0]
        pending.corners[1] = ws.last[1]
        pending.corners[2] = ws.last[2]
        copy_place(&pending.place, &ws.place)
        memcpy(pending.sent, ws.matrix.sent, codewords_of(ws.code.version))
    ws.pending_count += 1


cdef void keep_unread(
    Workspace* ws, const Finder* a, const Finder* b, const Finder* c
) noexcept nogil:
    """Keeps the placed symbol whose timing patterns agree best, for fusion."""
    cdef int dim = ws.place.dim
    if ws.unread_dim and ws.unread_place.agreement >= ws.place.agreement:
        return
    ws.unread_dim = dim
    ws.unread[0] = a[0]
    ws.unread[1] = b[0]
    ws.unread[2] = c[0]
    copy_place(&ws.unread_place, &ws.place)
    memcpy(ws.unread_soft, ws.grid.soft, dim * dim * sizeof(int16_t))


cdef void use_finders_in(
    Finder* finders, int count, const Found* found, int halvings
) noexcept nogil:
    """Marks the finders that lie within a code."""
    cdef float scale = 1 << halvings
    cdef int i
    for i in range(count):
        if is_in_code(found, finders[i].x * scale, finders[i].y * scale):
            finders[i].used = 1


cdef void note_found(const Workspace* ws, int halvings, Found* out) noexcept nogil:
    """What the workspace has just read, with corners in pixels of the plane as it was given."""
    cdef float scale = 1 << halvings
    cdef float dim = ws.place.dim
    cdef float x, y
    cdef int i
    copy_code(&out.code, &ws.code)
    out.how = ws.how
    out.halvings = halvings
    out.inverted = ws.place.sign < 0
    for i in range(4):
        map_point(
            &ws.place.map, dim if i == 1 or i == 2 else 0, dim if i >= 2 else 0, &x, &y
        )
        out.corners[2 * i] = x * scale
        out.corners[2 * i + 1] = y * scale
    if ws.code.mirrored:
        x = out.corners[2]
        y = out.corners[3]
        out.corners[2] = out.corners[6]
        out.corners[3] = out.corners[7]
        out.corners[6] = x
        out.corners[7] = y


cdef int read_symbol(
    Workspace* ws, const Plane* plane, const Finder* finders, const Triple* triple, int thorough,
    int insists,
) noexcept nogil:
    """1 when the symbol of a measured triple was read into ws.code, placed by ws.place.

    insists: try other versions, too, where the count of modules was in doubt.
    """
    cdef int dim = triple.dim
    ws.matrix.said_version = 0
    if read_at(ws, plane, finders, triple, dim, thorough):
        return 1
    cdef int said = 17 + 4 * ws.matrix.said_version
    if said > 17 and said != dim and abs(said - dim) <= 8:
        return read_at(ws, plane, finders, triple, said, 0)
    if triple.other and read_at(ws, plane, finders, triple, triple.other, 0):
        return 1
    # A smeared timing pattern may have hidden a pair of steps, or dirt have added one.
    # In a lane that costs too much, unless the patterns could not be counted at all.
    if (insists and triple.off > 0) or triple.off == OFF_UNKNOWN:
        if dim > 21 and read_at(ws, plane, finders, triple, dim - 4, 0):
            return 1
        if dim < 177 and read_at(ws, plane, finders, triple, dim + 4, 0):
            return 1
    return 0


cdef int read_at(
    Workspace* ws, const Plane* plane, const Finder* finders, const Triple* triple, int dim,
    int thorough,
) noexcept nogil:
    cdef const Finder* a = &finders[triple.a]
    cdef const Finder* b = &finders[triple.b]
    cdef const Finder* c = &finders[triple.c]
    cdef int agreement, version = (dim - 17) // 4
    if not locate(plane, a, b, c, dim, thorough, 1, &ws.place):
        return 0
    if replace_strayed(ws, plane, triple) and not locate(
        plane, a, b, c, dim, thorough, 1, &ws.place
    ):
        return 0
    if read_placed(ws, plane, version):
        return 1
    if ws.is_plain:
        return 0
    if ws.place.quick:
        if not locate(plane, a, b, c, dim, thorough, 0, &ws.place):
            return 0
        if read_placed(ws, plane, version):
            return 1
    agreement = ws.place.agreement
    # Without samples of this place the grid holds those of another, maybe of another picture.
    if agreement < AGREEMENT_SURE or ws.grid.dim == 0:
        return 0
    ws.how = HOW_EQUALIZED
    if sharpen_grid(ws, version):
        return 1
    if ws.keep_unread:
        keep_unread(ws, a, b, c)
    if not thorough or agreement < AGREEMENT_BENT:
        return 0
    return known_errors(&ws.grid, version) <= KNOWN_WRONG_BENT and read_bent(ws, plane, version)


cdef int replace_strayed(Workspace* ws, const Plane* plane, const Triple* triple) noexcept nogil:
    """1 where alignment patterns lead to another finder than the triple's, which takes its place
    in ws.finders; ws.place is still of the former."""
    cdef float x, y
    cdef Finder better
    cdef int which = strayed_finder(&ws.place, &x, &y)
    cdef Finder* former = &ws.finders[triple.b if which == 1 else triple.c]
    if (
        which == 0 or not is_inside(plane, x, y)
        or not check_finder(
            plane, <int>x, <int>y, former.size * 8, <int>former.dark, <int>former.light,
            AGREEING_FIRST, AGREEING_LEAST, &better,
        )
        or fabsf(better.x - former.x) + fabsf(better.y - former.y) < former.size
        or better.fault > former.fault
    ):
        return 0
    former[0] = better
    return 1


cdef int read_placed(Workspace* ws, const Plane* plane, int version) noexcept nogil:
    """1 when the symbol at ws.place could be read without more ado.

    Where it could not even be sampled ws.grid.dim is 0.
    """
    ws.grid.dim = 0
    if ws.place.agreement < AGREEMENT_LEAST:
        return 0
    if sample_grid(plane, &ws.place, &ws.grid) > OUTSIDE_MOST:
        ws.grid.dim = 0
        return 0
    soften(&ws.grid, ws.place.sign, ws.place.contrast * <float>0.25)
    ws.how = HOW_PLAIN
    return decode_grid(ws, version)


cdef int decode_grid(Workspace* ws, int version) noexcept nogil:
    """1 when ws.grid.soft could be read; not tried when even known modules are wrong."""
    if known_errors(&ws.grid, version) > KNOWN_WRONG_MOST:
        return 0
    return decode_matrix(ws.grid.soft, ws.grid.dim, &ws.code, &ws.matrix) == QR_READ


cdef int sharpen_grid(Workspace* ws, int version) noexcept nogil:
    """1 when ws.grid could be read after the equalizer."""
    if known_errors(&ws.grid, version) > KNOWN_WRONG_MOST:
        return 0
    if not equalize(&ws.grid, version, ws.place.sign, 2):
        return 0
    if known_errors(&ws.grid, version) > KNOWN_WRONG_SHARP:
        return 0
    return decode_matrix(ws.grid.soft, ws.grid.dim, &ws.code, &ws.matrix) == QR_READ


cdef int read_bent(Workspace* ws, const Plane* plane, int version) noexcept nogil:
    """The dear ways: the grid moved to the edges, the mean around, the fourth corner moved."""
    if follow_edges(ws, plane, version):
        return 1
    ws.how = HOW_MEAN
    soften_by_mean(&ws.grid, ws.place.sign)
    if decode_grid(ws, version):
        return 1
    # With several alignment patterns the far corner is where they say.
    if ws.place.alignment_count > 1 or not swing_corner(plane, &ws.place, &ws.grid):
        return 0
    return try_bent(ws, plane, version) or follow_edges(ws, plane, version)


cdef int follow_edges(Workspace* ws, const Plane* plane, int version) noexcept nogil:
    cdef int _turn
    for _turn in range(2):
        if not bend_to_edges(plane, &ws.place, &ws.grid):
            return 0
        if try_bent(ws, plane, version):
            return 1
    return 0


cdef int try_bent(Workspace* ws, const Plane* plane, int version) noexcept nogil:
    if sample_grid(plane, &ws.place, &ws.grid) > OUTSIDE_MOST:
        return 0
    soften(&ws.grid, ws.place.sign, ws.place.contrast * <float>0.25)
    ws.how = HOW_BENT
    return decode_grid(ws, version) or sharpen_grid(ws, version)


# ---- doors --------------------------------------------------------------------------------------


cdef int buffer_to_plane(object luma, void* view, Plane* plane) except 0:
    """Takes the buffer of a 2-D uint8 array of any row stride; PyBuffer_Release afterwards.

    Raises ValueError for another shape or type.
    """
    cdef Py_buffer* taken = <Py_buffer*>view
    PyObject_GetBuffer(luma, taken, PyBUF_STRIDES)
    if taken.ndim != 2 or taken.itemsize != 1 or (
        taken.strides[1] != 1 and taken.shape[1] > 1
    ):
        PyBuffer_Release(taken)
        raise ValueError("luma must be two-dimensional uint8 with its pixels side by side")
    if taken.shape[0] > 1 << 24 or taken.shape[1] > 1 << 24:
        PyBuffer_Release(taken)
        raise ValueError("luma is too large")
    plane.data = <const uint8_t*>taken.buf
    plane.stride = taken.strides[0]
    plane.height = <int>taken.shape[0]
    plane.width = <int>taken.shape[1]
    return 1


cdef int take_turn(bint* busy) except 0:
    """Raises RuntimeError while another thread is inside: memory is shared by all calls."""
    if busy[0]:
        raise RuntimeError("a reader is for one thread at a time")
    busy[0] = True
    return 1


cdef int buffer_to_plane_or_leave(object luma, void* view, Plane* plane, bint* busy) except 0:
    try:
        return buffer_to_plane(luma, view, plane)
    except BaseException:
        busy[0] = False
        raise


cdef tuple found_to_tuple(const Found* found):
    """See _Reading in reader.pyi."""
    cdef const Code* code = &found.code
    cdef int i
    segments = []
    for i in range(code.segment_count):
        segments.append((
            code.segments[i].mode, code.segments[i].eci, code.segments[i].begin,
            code.segments[i].size,
        ))
    sequence = (
        (code.sequence_index, code.sequence_count, code.sequence_parity)
        if code.sequence_count else None
    )
    return (
        PyBytes_FromStringAndSize(<const char*>code.data, code.size),
        tuple([found.corners[i] for i in range(8)]),
        code.version, "LMQH"[code.level], code.mask, bool(code.mirrored), bool(found.inverted),
        found.how, code.corrected, code.erased, tuple(segments), sequence,
    )


cdef int find_in_plane(Workspace* ws, const Plane* plane, const Effort* effort) noexcept nogil:
    """Finders of the plane alone into ws.finders; their number, 0 for what cannot be read."""
    if not is_readable(plane) or not workspace_fit(ws, plane.width, plane.height):
        return 0
    find_thresholds(plane, effort.row_step, &ws.thresholds)
    know_codes(ws, NULL, 0, 0)
    return find_finders(
        plane, &ws.thresholds, effort.row_step // 2, effort.row_step, &ws.rows, ws.finders, 0,
        FINDERS_MAX,
    )


cdef tuple finder_to_tuple(const Finder* finder):
    return (finder.x, finder.y, finder.size, finder.sign, finder.agreeing, finder.fault)


cdef class Reader:
    """Reads planes that have nothing to do with one another. Not for two threads at once.

    row_step: every so many rows are scanned. levels: 1 the plane alone, 2 its quarter as well, 3
    its half too, where there is evidence. triples: combinations of finders measured in a plane, and
    as many more for each code read; attempts: of them placed in vain, and three more for each code
    read. thorough: all ways of reading, and all levels although one gave a code.
    """

    cdef Workspace* ws
    cdef Found* found
    cdef Effort effort
    cdef Evidence evidence
    cdef bint busy

    def __cinit__(
        self, *, int row_step=8, int levels=3, int finders=48, int triples=128, int attempts=12,
        bint thorough=True
    ):
        if not 1 <= row_step <= ROW_STEP_MAX or not 1 <= levels <= LEVELS_MAX:
            raise ValueError("row_step or levels is out of range")
        if not 1 <= triples <= TRIPLES_MAX or not 1 <= attempts <= TRIPLES_MAX:
            raise ValueError("triples or attempts is out of range")
        self.effort = Effort(
            row_step, row_step // 2, levels, finders, triples, attempts, thorough
        )
        self.ws = workspace_new()
        self.found = <Found*>malloc(FOUND_MAX * sizeof(Found))
        if self.ws == NULL or self.found == NULL:
            raise MemoryError

    def __dealloc__(self):
        workspace_free(self.ws)
        free(self.found)

    def __reduce__(self):
        raise TypeError("a Reader cannot be pickled")

    def read(self, luma: object) -> list:
        """Every code that is found, as tuples; [] where there is none.

        Raises ValueError for what is no plane.
        """
        cdef Py_buffer view
        cdef Plane plane
        cdef int count, i
        take_turn(&self.busy)
        buffer_to_plane_or_leave(luma, &view, &plane, &self.busy)
        with nogil:
            count = read_plane(
                self.ws, &plane, &self.effort, self.found, FOUND_MAX, &self.evidence
            )
        PyBuffer_Release(&view)
        self.busy = False
        if count < 0:
            raise MemoryError
        return [found_to_tuple(&self.found[i]) for i in range(count)]

    def finders(self, luma: object) -> list:
        """(x, y, pixels a module, sign, directions that agree, fault) of the finders in a plane.

        The plane alone, not its smaller ones; for tests and pictures. Raises ValueError.
        """
        cdef Py_buffer view
        cdef Plane plane
        cdef int count
        take_turn(&self.busy)
        buffer_to_plane_or_leave(luma, &view, &plane, &self.busy)
        with nogil:
            count = find_in_plane(self.ws, &plane, &self.effort)
        PyBuffer_Release(&view)
        self.busy = False
        return [finder_to_tuple(&self.ws.finders[i]) for i in range(count)]

    def rays(self, luma: object) -> list:
        """Of each of finders(luma): distances of the edges along eight directions, pixels.

        To the right first, then clockwise; up to three a direction. Raises ValueError.
        """
        cdef Py_buffer view
        cdef Plane plane
        cdef int count, i, way, edge
        cdef float[8][3] radii
        cdef int[8] found
        cdef list out = []
        take_turn(&self.busy)
        buffer_to_plane_or_leave(luma, &view, &plane, &self.busy)
        count = find_in_plane(self.ws, &plane, &self.effort)
        for i in range(count):
            finder_rays(&plane, &self.ws.finders[i], radii, found)
            out.append(tuple([
                tuple([radii[way][edge] for edge in range(found[way])]) for way in range(8)
            ]))
        PyBuffer_Release(&view)
        self.busy = False
        return out

    def placed(self, luma: object) -> list:
        """Every triple of finders(luma) that could be placed, read or not: _Placed in reader.pyi.

        Best triples first. For tests and pictures of the stages. Raises ValueError.
        """
        cdef Py_buffer view
        cdef Plane plane
        cdef int count, t
        cdef Triple* triple
        cdef list out = []
        take_turn(&self.busy)
        buffer_to_plane_or_leave(luma, &view, &plane, &self.busy)
        count = find_in_plane(self.ws, &plane, &self.effort)
        count = keep_best(self.ws.finders, count, self.effort.finders, FAULT_FINE)
        count = rank_triples(
            self.ws.finders, count, SCORE_THOROUGH, self.ws.triples, self.effort.triples
        )
        for t in range(count):
            triple = &self.ws.triples[t]
            if measure_triple(&plane, self.ws.finders, triple) and locate(
                &plane, &self.ws.finders[triple.a], &self.ws.finders[triple.b],
                &self.ws.finders[triple.c], triple.dim, self.effort.thorough, 0, &self.ws.place,
            ):
                out.append(self.sampled(&plane, triple))
        PyBuffer_Release(&view)
        self.busy = False
        return out

    cdef dict sampled(self, const Plane* plane, const Triple* triple):
        """Samples what ws.place says, in both ways, and tells everything about it."""
        cdef Workspace* ws = self.ws
        cdef int dim = ws.place.dim, version = (dim - 17) // 4
        cdef size_t modules = <size_t>dim * dim
        cdef const Mesh* mesh = &ws.place.mesh
        cdef int i, outside, plain_wrong, sharp_wrong = -1
        cdef bytes plain, sharp = b""
        outside = sample_grid(plane, &ws.place, &ws.grid)
        soften(&ws.grid, ws.place.sign, ws.place.contrast * <float>0.25)
        plain = PyBytes_FromStringAndSize(<const char*>ws.grid.soft, 2 * modules)
        plain_wrong = known_errors(&ws.grid, version)
        if equalize(&ws.grid, version, ws.place.sign, 2):
            sharp = PyBytes_FromStringAndSize(<const char*>ws.grid.soft, 2 * modules)
            sharp_wrong = known_errors(&ws.grid, version)
        return {
            "finders": tuple([
                finder_to_tuple(&ws.finders[i]) for i in (triple.a, triple.b, triple.c)
            ]),
            "dim": dim,
            "sign": ws.place.sign,
            "steps": (triple.steps_b, triple.steps_c),
            "off": triple.off,
            "map": tuple([ws.place.map.m[i] for i in range(9)]),
            "lines": tuple([mesh.lines[i] for i in range(mesh.count)]),
            "du": tuple([mesh.du[i] for i in range(mesh.count * mesh.count)]),
            "dv": tuple([mesh.dv[i] for i in range(mesh.count * mesh.count)]),
            "aligned": (ws.place.aligned, ws.place.alignment_count),
            "agreement": ws.place.agreement,
            "contrast": ws.place.contrast,
            "outside": outside,
            "grey": PyBytes_FromStringAndSize(<const char*>ws.grid.grey, 4 * modules),
            "soft": plain,
            "equalized": sharp,
            "known_wrong": (plain_wrong, sharp_wrong),
        }

    @property
    def unread(self) -> tuple:
        """Of the last plane: (finders that belong to no code, symbols placed and not read, of the
        finders the fine ones, of the symbols the sure ones)."""
        return self.evidence.finders, self.evidence.triples, self.evidence.fine, self.evidence.sure

    @property
    def region(self) -> tuple:
        """(left, top, right, bottom) of what `unread` tells of; empty where it tells nothing."""
        cdef float* box = &self.evidence.box[0]
        return box[0], box[1], box[2], box[3]

    @property
    def parts(self) -> list:
        """(left, top, right, bottom, whether a symbol was placed there) of each thing `unread`
        tells of; around a finder by itself as far as from one of the largest symbols to its end."""
        cdef const Mark* mark
        cdef int i
        cdef list out = []
        for i in range(self.evidence.mark_count):
            mark = &self.evidence.marks[i]
            if not mark.is_explained:
                out.append((
                    mark.x - mark.reach, mark.y - mark.reach, mark.x + mark.reach,
                    mark.y + mark.reach, bool(mark.is_symbol),
                ))
        return out

    @property
    def effort_spent(self) -> tuple:
        """Of the last plane: (finders seen, triples measured, symbols placed)."""
        return self.evidence.seen, self.evidence.measured, self.evidence.attempts
