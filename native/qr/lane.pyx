"""The reader of one lane: the same code again, the same place, the whole frame, frames joined.

Every content it returns for a frame was in that frame's own pixels:

- A code of the frame before is a repeat only by the exact rule: with its modules sampled anew, in
  every Reed-Solomon block at most as many codewords differ from it as that block corrects. A full
  decode could then only give the same content. Otherwise the new samples are decoded as what they
  are, so a code swapped in place for one that differs in a character is read as the other one.
- A symbol that is placed but cannot be read leaves its soft modules behind; those of several frames
  are added up and decoded by the same rule (fusion). What comes out counts only if the check
  codewords of every block also agree with the modules of the present frame by themselves: two
  contents that differ at all differ in half of the bits of a block's check codewords.
"""

from cpython.buffer cimport PyBuffer_Release
from libc.math cimport fabsf
from libc.stdint cimport int16_t, uint8_t, uint16_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from native.checks cimport check_int
from native.qr.code cimport QR_READ, Code, copy_code
from native.qr.evidence cimport Evidence, Found, copy_found, is_in_code, weigh_marks
from native.qr.finder cimport Finder, check_finder
from native.qr.fit cimport map_point
from native.qr.locate cimport Place, copy_place, locate, locate_again
from native.qr.luma cimport LUMA_BLOCK, kernels
from native.qr.matrix cimport decode_matrix, same_code, take_codewords
from native.qr.plane cimport Plane
from native.qr.reader cimport (
    AGREEMENT_SURE, HOW_EQUALIZED, HOW_FUSED, HOW_PLAIN, HOW_REPEAT, PENDING_MAX, Effort, Workspace,
    buffer_to_plane_or_leave, decode_grid, found_to_tuple, is_readable, keep_unread, note_found,
    quarter, read_level, sharpen_grid, take_turn,
)
from native.qr.sample cimport sample_grid, sample_near, soften
from native.qr.symbol cimport Blocks, blocks_of, codeword_blocks, codewords_of, module_order
from native.qr.threshold cimport block_count
from native.qr.workspace cimport workspace_fit, workspace_free, workspace_new

cdef enum:
    ROW_STEP = 8                # a core of two-pixel modules is six rows high
    ROW_STEP_NEAR = 3           # where a code is known to be
    ROW_STEP_CLOSE = 2          # where one may be that was not read
    GIVEN_EVERY = 3             # frames of which one at least is wanted as a whole
    WHOLE_EVERY = 6             # frames: the whole is read though nothing seems to change
    SPARSE_STEP = 40            # rows between those in which changes are looked for
    CHANGES_LEAST = 3           # blocks of such a row; a code of two-pixel modules fills a dozen
    CHANGE_MOST = 20            # grey values that noise does not move a block by
    QUARTER_EVERY = 4           # whole looks in vain: large codes wait so long at most
    FUSION_AGE_MOST = 4         # frames without evidence after which it is dropped
    FUSION_FRAMES_MOST = 64
    STILL_FRAMES = 8            # unread in one place, before it is left alone for a while
    STILL_MOST = 3              # pixels from one to the next
    REST_FRAMES = 3
    BLOCKS_MAX = 81
    AGREEING = 5                # directions of eight, where a finder is expected

# Around a code that is followed: what moves there is most likely the hand that holds it.
cdef float MARGIN_SHARE = 0.25
cdef float MARGIN_LEAST = 16
cdef float HOLDER_SHARE = 1.5
cdef float FUSION_FADE = 0.85   # what evidence is worth one frame later
# Least agreement of a frame's own modules with what was fused, from -1 to 1, in the check codewords
# of each block. Another content agrees by chance, 0 +- 0.13 in the 60 modules of the smallest
# block.
cdef float OWN_AGREEMENT = 0.5


cdef int read_frame(LaneState* lane, const Plane* plane) noexcept nogil:
    """Codes of the next frame into lane.found; their number, or -1 without memory."""
    cdef Workspace* ws = lane.ws
    cdef int i
    lane.found_count = 0
    lane.has_region = 0
    ws.unread_dim = 0
    memset(&lane.evidence, 0, sizeof(Evidence))
    if not is_readable(plane):
        lane.track_count = 0
        lane.fusion.dim = 0
        lane.calm.cells = 0
        return 0
    if not workspace_fit(ws, plane.width, plane.height):
        return -1
    if plane.width != lane.width or plane.height != lane.height:
        lane.width = plane.width
        lane.height = plane.height
        lane.track_count = 0
        lane.fusion.dim = 0
        lane.calm.cells = 0
    cdef int kept = 0
    for i in range(lane.track_count):
        if follow(lane, plane, &lane.tracks[i]):
            if kept < i:
                copy_track(&lane.tracks[kept], &lane.tracks[i])
            kept += 1
    lane.since_whole += 1
    lane.since_given = 0
    if (
        kept < lane.track_count or lane.is_evident or lane.since_whole >= WHOLE_EVERY
        or changes(lane, plane, kept) >= CHANGES_LEAST
    ):
        kept = read_whole(lane, plane, kept)
        remember_calm(lane, plane)
        # Where a symbol may be that was not read, the next frame may show it better.
        lane.is_evident = lane.has_region or lane.fusion.dim
    lane.track_count = kept
    lane.fusion.age += 1
    if lane.fusion.age > FUSION_AGE_MOST:
        lane.fusion.dim = 0
    return lane.found_count


# ---- does anything change? ----------------------------------------------------------------------


cdef int remember_calm(LaneState* lane, const Plane* plane) noexcept nogil:
    """Keeps how the sparse rows look, to compare later frames with; 0 without memory."""
    cdef Calm* calm = &lane.calm
    cdef int columns = block_count(plane.width)
    cdef int cells = columns * ((plane.height + SPARSE_STEP - 1) // SPARSE_STEP)
    cdef int needed = 2 * (cells + columns)
    cdef int y, at = 0
    calm.cells = 0
    if needed > calm.room:
        free(calm.lows)
        calm.room = 0
        calm.lows = <uint8_t*>malloc(needed)
        if calm.lows == NULL:
            return 0
        calm.room = needed
    calm.highs = calm.lows + cells
    calm.row = calm.highs + cells
    y = 0
    while y < plane.height:
        kernels().block_ranges(
            plane.data + y * plane.stride, plane.stride, 1, plane.width, calm.lows + at,
            calm.highs + at,
        )
        at += columns
        y += SPARSE_STEP
    calm.cells = cells
    return 1


cdef int changes(const LaneState* lane, const Plane* plane, int kept) noexcept nogil:
    """Blocks of sparse rows, outside the codes that are followed, that look unlike they did when
    the whole frame was read last: a new code in view changes many.

    Compared with then and not with the frame before, so what comes slowly is seen as well.
    """
    cdef const Calm* calm = &lane.calm
    cdef int columns = block_count(plane.width)
    cdef int y = 0, at = 0, step = SPARSE_STEP, changed = 0
    cdef int x0 = columns, x1 = columns, y0 = plane.height, y1 = -1
    cdef float[4] box
    if calm.cells == 0:
        return CHANGES_LEAST
    if kept:
        # Beside a held code every second of these rows, in turns: a person is larger than two.
        step = 2 * SPARSE_STEP
        if lane.since_whole & 1:
            y = SPARSE_STEP
            at = columns
        # Phones and cards are larger than the codes on them, and move with them.
        tracks_box(lane, kept, HOLDER_SHARE, box)
        x0 = <int>box[0] // LUMA_BLOCK
        x1 = min(columns, <int>box[2] // LUMA_BLOCK + 1)
        y0 = <int>box[1]
        y1 = <int>box[3]
    while y < plane.height and changed < CHANGES_LEAST:
        kernels().block_ranges(
            plane.data + y * plane.stride, plane.stride, 1, plane.width, calm.row,
            calm.row + columns,
        )
        changed += cells_changed(calm, at, columns, 0, columns)
        if y0 <= y <= y1:
            changed -= cells_changed(calm, at, columns, x0, x1)
        at += columns * (step // SPARSE_STEP)
        y += step
    return changed


cdef inline int cells_changed(
    const Calm* calm, int at, int columns, int begin, int end
) noexcept nogil:
    """Blocks [begin, end) of calm.row whose lowest or highest value is new."""
    cdef const uint8_t* row = calm.row
    cdef const uint8_t* lows = calm.lows + at
    cdef const uint8_t* highs = calm.highs + at
    cdef int cut = calm.cut
    cdef int x, low, high, changed = 0
    for x in range(begin, end):
        low = row[x] - lows[x]
        high = row[columns + x] - highs[x]
        changed += (low > cut) | (-low > cut) | (high > cut) | (-high > cut)
    return changed


cdef void tracks_box(
    const LaneState* lane, int count, float share, float* box
) noexcept nogil:
    """Left, top, right, bottom of the codes of the first `count` tracks, with a share around."""
    cdef int i, corner
    cdef const float* c
    cdef float margin
    box[0] = box[1] = 1e6
    box[2] = box[3] = -1e6
    for i in range(count):
        c = &lane.tracks[i].found.corners[0]
        for corner in range(4):
            box[0] = min(box[0], c[2 * corner])
            box[1] = min(box[1], c[2 * corner + 1])
            box[2] = max(box[2], c[2 * corner])
            box[3] = max(box[3], c[2 * corner + 1])
    margin = share * max(box[2] - box[0], box[3] - box[1]) + MARGIN_LEAST
    # Corners of a code near the frame's edge may lie far outside it.
    box[0] = max(box[0] - margin, <float>0)
    box[1] = max(box[1] - margin, <float>0)
    box[2] = min(box[2] + margin, <float>lane.width)
    box[3] = min(box[3] + margin, <float>lane.height)


# ---- where the last one was ---------------------------------------------------------------------


cdef int follow(LaneState* lane, const Plane* plane, Track* track) noexcept nogil:
    """1 if a code was read where the track says; it is in lane.found, and the track up to date."""
    cdef Finder[3] corners
    cdef int i
    for i in range(3):
        if not expect_finder(plane, &track.corners[i], track.dx, track.dy, &corners[i]):
            return read_region(lane, plane, track)
    if not read_in_place(lane.ws, plane, corners, track):
        # Placed well and unreadable: looking for it again would not help.
        return not lane.ws.unread_dim and read_region(lane, plane, track)
    for i in range(3):
        corners[i].used = 0
    update_track(lane, track, corners, 0)
    return 1


cdef int expect_finder(
    const Plane* plane, const Finder* last, float dx, float dy, Finder* out
) noexcept nogil:
    """A finder where the last one was, or where its movement takes it; 0 if there is none."""
    cdef float x = last.x + dx
    cdef float y = last.y + dy
    if not (x >= 1 and y >= 1 and x < plane.width - 1 and y < plane.height - 1):
        return 0
    return check_finder(
        plane, <int>x, <int>y, last.size * 8, <int>last.dark, <int>last.light, AGREEING - 1,
        AGREEING, out,
    )


cdef int read_in_place(
    Workspace* ws, const Plane* plane, const Finder* corners, const Track* track
) noexcept nogil:
    """Reads the symbol between three finders that should be the track's; ws.how says how."""
    cdef int dim = track.place.dim
    cdef int version = (dim - 17) // 4
    cdef int probes
    # The map of the frame before, moved, is mostly good enough to recognize what is still there.
    for probes in range(2):
        if (
            locate_again(
                plane, &corners[0], &corners[1], &corners[2], probes, &track.place, &ws.place
            )
            and sample_near(plane, &ws.place, &ws.grid, ws.place.contrast * <float>0.25)
            and is_repeat(ws, track, version)
        ):
            return 1
    if not locate(plane, &corners[0], &corners[1], &corners[2], dim, 0, 0, &ws.place):
        return 0
    if sample_grid(plane, &ws.place, &ws.grid) > 0:
        return 0
    soften(&ws.grid, ws.place.sign, ws.place.contrast * <float>0.25)
    if is_repeat(ws, track, version):
        return 1
    ws.how = HOW_PLAIN
    if decode_grid(ws, version):
        return 1
    ws.how = HOW_EQUALIZED
    if sharpen_grid(ws, version):
        return 1
    if ws.place.agreement >= AGREEMENT_SURE:
        keep_unread(ws, &corners[0], &corners[1], &corners[2])
    return 0


cdef int is_repeat(Workspace* ws, const Track* track, int version) noexcept nogil:
    """Whether ws.grid shows the track's code by the exact rule; it is then in ws.code."""
    cdef const Code* code = &track.found.code
    cdef int worst
    take_codewords(
        ws.grid.soft, version, code.mirrored, ws.matrix.raw, ws.matrix.reliability
    )
    if not same_code(ws.matrix.raw, track.sent, version, code.level, &worst):
        return 0
    ws.how = HOW_REPEAT
    copy_code(&ws.code, code)
    memcpy(ws.matrix.sent, track.sent, codewords_of(version))
    return 1


cdef void update_track(
    LaneState* lane, Track* track, const Finder* corners, int halvings
) noexcept nogil:
    """Takes over what the workspace has just read, and notes it as found in this frame."""
    cdef float dx = corners[0].x - track.corners[0].x
    cdef float dy = corners[0].y - track.corners[0].y
    cdef int i
    note_found(lane.ws, halvings, &track.found)
    for i in range(3):
        track.corners[i] = corners[i]
    track.dx = dx
    track.dy = dy
    copy_place(&track.place, &lane.ws.place)
    memcpy(track.sent, lane.ws.matrix.sent, codewords_of(lane.ws.code.version))
    add_found(lane, &track.found)


cdef void copy_track(Track* target, const Track* source) noexcept nogil:
    cdef int i
    copy_found(&target.found, &source.found)
    copy_place(&target.place, &source.place)
    for i in range(3):
        target.corners[i] = source.corners[i]
    target.dx = source.dx
    target.dy = source.dy
    memcpy(target.sent, source.sent, codewords_of(source.found.code.version))


cdef void add_found(LaneState* lane, const Found* found) noexcept nogil:
    if lane.found_count < CODES_MAX:
        copy_found(&lane.found[lane.found_count], found)
        lane.found_count += 1


cdef int read_region(LaneState* lane, const Plane* plane, Track* track) noexcept nogil:
    """Reads the part of the frame around where the track's code was; 1 if one was read there."""
    cdef const float* c = &track.found.corners[0]
    cdef float left = min(min(c[0], c[2]), min(c[4], c[6]))
    cdef float right = max(max(c[0], c[2]), max(c[4], c[6]))
    cdef float top = min(min(c[1], c[3]), min(c[5], c[7]))
    cdef float bottom = max(max(c[1], c[3]), max(c[5], c[7]))
    cdef float margin = MARGIN_SHARE * max(right - left, bottom - top) + MARGIN_LEAST
    cdef int x0 = max(0, <int>(left + min(track.dx, <float>0) - margin))
    cdef int y0 = max(0, <int>(top + min(track.dy, <float>0) - margin))
    cdef int x1 = min(plane.width, <int>(right + max(track.dx, <float>0) + margin))
    cdef int y1 = min(plane.height, <int>(bottom + max(track.dy, <float>0) + margin))
    cdef Finder[3] corners
    if not read_part(lane, plane, x0, y0, x1, y1, ROW_STEP_NEAR, corners):
        return 0
    update_track(lane, track, corners, 0)
    return 1


cdef int read_part(
    LaneState* lane, const Plane* plane, int x0, int y0, int x1, int y1, int row_step,
    Finder* corners,
) noexcept nogil:
    """Reads one code in [x0, x1) x [y0, y1) of the frame; 1 if there is one that is not found yet.

    It is then in the workspace and its finders in corners[:3], both in pixels of the frame.
    """
    cdef Plane part
    cdef Effort effort = lane.effort
    cdef Evidence evidence
    cdef Found found
    cdef float x, y, half
    cdef int i
    if x1 - x0 < 21 or y1 - y0 < 21:
        return 0
    part = Plane(plane.data + y0 * plane.stride + x0, plane.stride, x1 - x0, y1 - y0)
    memset(&evidence, 0, sizeof(evidence))
    effort.row_step = row_step
    effort.attempts = 2
    if read_level(lane.ws, &part, 0, &effort, &found, 0, 1, &evidence) != 1:
        return 0
    move_place(&lane.ws.place, x0, y0)
    half = lane.ws.place.dim * <float>0.5
    map_point(&lane.ws.place.map, half, half, &x, &y)
    for i in range(lane.found_count):
        if is_in_code(&lane.found[i], x, y):
            return 0            # the code of another track
    for i in range(3):
        corners[i] = lane.ws.last[i]
        corners[i].x += x0
        corners[i].y += y0
    return 1


cdef int follow_part(LaneState* lane, const Plane* part, int x, int y) noexcept nogil:
    """Codes of all tracks in a part of the next frame: how many, or 0 if one was not read there.

    (x, y): the part's first pixel in the frame.
    """
    cdef int i, found
    lane.found_count = 0
    lane.has_region = 0
    lane.ws.unread_dim = 0
    if lane.track_count == 0 or not is_readable(part):
        return 0
    if not workspace_fit(lane.ws, part.width, part.height):
        return 0
    for i in range(lane.track_count):
        move_track(&lane.tracks[i], -x, -y)
        found = follow(lane, part, &lane.tracks[i])
        move_track(&lane.tracks[i], x, y)
        if not found:
            return 0
        copy_found(&lane.found[i], &lane.tracks[i].found)
    lane.since_whole += 1
    lane.since_given += 1
    return lane.track_count


cdef void move_track(Track* track, float x, float y) noexcept nogil:
    cdef int i
    move_place(&track.place, x, y)
    for i in range(3):
        track.corners[i].x += x
        track.corners[i].y += y
    for i in range(4):
        track.found.corners[2 * i] += x
        track.found.corners[2 * i + 1] += y


cdef void move_place(Place* place, float x, float y) noexcept nogil:
    """Between pixels of a part of the frame and pixels of the frame."""
    cdef int i
    for i in range(3):
        place.map.m[i] += x * place.map.m[6 + i]
        place.map.m[3 + i] += y * place.map.m[6 + i]


cdef void scale_place(Place* place, float scale) noexcept nogil:
    """From pixels of a smaller plane to those of the frame."""
    cdef int i
    for i in range(6):
        place.map.m[i] *= scale


# ---- the whole frame ----------------------------------------------------------------------------


cdef int read_whole(LaneState* lane, const Plane* plane, int kept) noexcept nogil:
    """Codes of the frame that are not found yet, and tracks for them; the new number of tracks."""
    cdef Workspace* ws = lane.ws
    cdef int before = lane.found_count
    cdef Plane level = plane[0]
    lane.since_whole = 0
    # Another set of rows each time: a small core that fell between them is met by the next frame.
    lane.effort.first_row = (lane.effort.first_row + ROW_STEP // 2) % ROW_STEP
    ws.skip_plainly = 0
    if lane.rest > 0:
        lane.rest -= 1
        ws.skip_plainly = 1
        ws.skip_x = lane.fusion.x
        ws.skip_y = lane.fusion.y
        ws.skip_reach = lane.fusion.reach * <float>0.3
    if ws.unread_dim:
        middle_of_unread(ws, &ws.skip_x, &ws.skip_y, &ws.skip_reach)
        ws.skip_reach *= <float>0.3
        ws.skip_plainly = 0
    ws.keep_unread = 1
    kept = read_and_track(lane, &level, 0, kept)
    ws.keep_unread = 0
    ws.skip_reach = 0
    lane.calm.cut = min(ws.thresholds.cut, CHANGE_MOST)
    if lane.found_count > before:
        lane.fusion.dim = 0
        return kept
    weigh_marks(&lane.evidence, lane.found, lane.found_count)
    if ws.unread_dim:
        kept = fuse(lane, kept)
    elif lane.evidence.fine > 0:
        # A corner of a symbol whose others are smeared: not for this reader.
        lane.has_region = 1
        memcpy(lane.region, lane.evidence.box, sizeof(lane.region))
    if lane.has_region and lane.found_count == before and lane.rest == 0:
        kept = look_closer(lane, plane, kept)
    lane.since_quarter += 1
    if lane.found_count == 0 and lane.since_quarter >= QUARTER_EVERY:
        lane.since_quarter = 0
        level = quarter(ws, plane)
        if level.width >= 21 and level.height >= 21:
            kept = read_and_track(lane, &level, 2, kept)
    return kept


cdef int look_closer(LaneState* lane, const Plane* plane, int kept) noexcept nogil:
    """Reads the part that may show a code, every second row; the number of tracks.

    A finder smeared by movement is met by some of its rows only.
    """
    cdef Finder[3] corners
    if not read_part(
        lane, plane, max(0, <int>lane.region[0]), max(0, <int>lane.region[1]),
        min(plane.width, <int>lane.region[2] + 1), min(plane.height, <int>lane.region[3] + 1),
        ROW_STEP_CLOSE, corners,
    ):
        return kept
    lane.fusion.dim = 0
    return begin_track(lane, kept, corners)


cdef int begin_track(LaneState* lane, int kept, const Finder* corners) noexcept nogil:
    """A track for what the workspace has just read, if need be in place of the last one; the number
    of tracks."""
    if kept == TRACKS_MAX:
        kept -= 1
    update_track(lane, &lane.tracks[kept], corners, 0)
    lane.tracks[kept].dx = 0
    lane.tracks[kept].dy = 0
    return kept + 1


cdef int read_and_track(LaneState* lane, const Plane* level, int halvings, int kept) noexcept nogil:
    cdef Workspace* ws = lane.ws
    cdef int before = lane.found_count
    cdef int after, i, j
    cdef Track* track
    after = read_level(
        ws, level, halvings, &lane.effort, lane.found, before, CODES_MAX, &lane.evidence
    )
    for i in range(before, after):
        if kept < TRACKS_MAX and i - before < min(ws.pending_count, PENDING_MAX):
            track = &lane.tracks[kept]
            copy_found(&track.found, &lane.found[i])
            for j in range(3):
                track.corners[j] = ws.pending[i - before].corners[j]
                track.corners[j].x *= 1 << halvings
                track.corners[j].y *= 1 << halvings
                track.corners[j].size *= 1 << halvings
            copy_place(&track.place, &ws.pending[i - before].place)
            scale_place(&track.place, 1 << halvings)
            track.dx = 0
            track.dy = 0
            memcpy(
                track.sent, ws.pending[i - before].sent, codewords_of(track.found.code.version)
            )
            kept += 1
    lane.found_count = after
    return kept


# ---- several frames joined ----------------------------------------------------------------------


cdef int fuse(LaneState* lane, int kept) noexcept nogil:
    """Adds the unread symbol of this frame to the evidence, and reads that; the number of tracks.
    """
    cdef Workspace* ws = lane.ws
    cdef Fusion* fusion = &lane.fusion
    cdef int dim = ws.unread_dim
    cdef int count = dim * dim
    cdef int i, value
    cdef float x, y, reach
    middle_of_unread(ws, &x, &y, &reach)
    lane.has_region = 1
    lane.region[0] = x - reach
    lane.region[1] = y - reach
    lane.region[2] = x + reach
    lane.region[3] = y + reach
    if (
        fusion.dim != dim or fusion.sign != ws.unread_place.sign
        or fabsf(fusion.x - x) > fusion.reach or fabsf(fusion.y - y) > fusion.reach
        or not alike(fusion, ws.unread_soft)
    ):
        fusion.dim = dim
        fusion.sign = ws.unread_place.sign
        fusion.frames = 0
        fusion.still = 0
        memset(fusion.sums, 0, count * sizeof(float))
    # A symbol that has lain still for long and cannot be read is a poster too far away: all that
    # can be tried is tried again every few frames, the plain way in each.
    if fabsf(fusion.x - x) + fabsf(fusion.y - y) > STILL_MOST:
        fusion.still = 0
    fusion.still += 1
    if fusion.still >= STILL_FRAMES:
        lane.rest = REST_FRAMES
    fusion.x = x
    fusion.y = y
    fusion.reach = reach
    fusion.age = 0
    fusion.frames = min(fusion.frames + 1, FUSION_FRAMES_MOST)
    for i in range(count):
        value = min(max(ws.unread_soft[i], -384), 384)
        fusion.sums[i] = fusion.sums[i] * FUSION_FADE + value
        ws.grid.soft[i] = <int16_t>min(max(fusion.sums[i], <float>-30000), <float>30000)
    if fusion.frames < 2:
        return kept
    if decode_matrix(ws.grid.soft, dim, &ws.code, &ws.matrix) != QR_READ:
        return kept
    if not agrees_by_itself(ws, ws.unread_soft):
        fusion.dim = 0
        return kept
    ws.how = HOW_FUSED
    copy_place(&ws.place, &ws.unread_place)
    return begin_track(lane, kept, ws.unread)


cdef void middle_of_unread(const Workspace* ws, float* x, float* y, float* reach) noexcept nogil:
    """The middle of the symbol that was placed and not read, and about its diagonal."""
    cdef float half = ws.unread_dim * <float>0.5
    map_point(&ws.unread_place.map, half, half, x, y)
    reach[0] = fabsf(ws.unread[1].x - ws.unread[2].x) + fabsf(ws.unread[1].y - ws.unread[2].y)


cdef int alike(const Fusion* fusion, const int16_t* soft) noexcept nogil:
    """Whether a frame's modules go with the evidence so far; another code would not."""
    cdef int i
    cdef float total = 0, weight = 1
    for i in range(fusion.dim * fusion.dim):
        weight += fabsf(fusion.sums[i]) * min(abs(<int>soft[i]), 384)
        total += fusion.sums[i] * min(max(<int>soft[i], -384), 384)
    return total > <float>0.4 * weight


cdef int agrees_by_itself(const Workspace* ws, const int16_t* soft) noexcept nogil:
    """Whether the check codewords of each block agree with one frame's modules, see OWN_AGREEMENT.

    ws.code and ws.matrix.sent hold what was fused.
    """
    cdef int version = ws.code.version
    cdef int dim = 17 + 4 * version
    cdef const Blocks* blocks = blocks_of(version, ws.code.level)
    cdef const uint8_t* block_numbers = codeword_blocks(version, ws.code.level)
    cdef const uint16_t* order = module_order(version)
    cdef float[BLOCKS_MAX] agreed
    cdef float[BLOCKS_MAX] total
    cdef int i, bit, at, value, block
    for block in range(blocks.count):
        agreed[block] = 0
        total[block] = 1
    for i in range(blocks.data, codewords_of(version)):
        block = block_numbers[i]
        for bit in range(8):
            at = order[8 * i + bit]
            if ws.code.mirrored:
                at = at % dim * dim + at // dim
            value = min(max(<int>soft[at], -384), 384)
            total[block] += abs(value)
            agreed[block] += value if ws.matrix.sent[i] >> (7 - bit) & 1 else -value
    for block in range(blocks.count):
        if agreed[block] < OWN_AGREEMENT * total[block]:
            return 0
    return 1


# ---- doors --------------------------------------------------------------------------------------


cdef class Lane:
    """Reads the frames of one lane in their order. Not for two threads at once."""

    cdef LaneState* state
    cdef bint busy

    def __cinit__(self):
        self.state = <LaneState*>calloc(1, sizeof(LaneState))
        if self.state == NULL:
            raise MemoryError
        self.state.ws = workspace_new()
        if self.state.ws == NULL:
            raise MemoryError
        self.state.effort = Effort(ROW_STEP, 0, 2, 40, 64, 8, 0)

    def __dealloc__(self):
        if self.state != NULL:
            workspace_free(self.state.ws)
            free(self.state.calm.lows)
            free(self.state)

    def __reduce__(self):
        raise TypeError("a Lane cannot be pickled")

    def read(self, luma: object) -> list:
        """Codes seen in the next frame, as tuples like those of reader.Reader.

        Raises ValueError for what is no plane.
        """
        cdef Py_buffer view
        cdef Plane plane
        cdef int count, i
        take_turn(&self.busy)
        buffer_to_plane_or_leave(luma, &view, &plane, &self.busy)
        with nogil:
            count = read_frame(self.state, &plane)
        PyBuffer_Release(&view)
        self.busy = False
        if count < 0:
            raise MemoryError
        return [found_to_tuple(&self.state.found[i]) for i in range(count)]

    def follow(self, luma: object, x: int, y: int) -> list | None:
        """Codes held since the frame before, from a part of the next frame; None where not all of
        them are read in it, and the whole frame must be given to `read`.

        luma: the part, as a plane of its own, whose first pixel is (x, y) of the frame. Raises
        ValueError for what is no plane.
        """
        cdef int left = check_int(x, 0, 1 << 24, "x")
        cdef int top = check_int(y, 0, 1 << 24, "y")
        cdef Py_buffer view
        cdef Plane plane
        cdef int count, i
        take_turn(&self.busy)
        buffer_to_plane_or_leave(luma, &view, &plane, &self.busy)
        with nogil:
            count = follow_part(self.state, &plane, left, top)
        PyBuffer_Release(&view)
        self.busy = False
        return [found_to_tuple(&self.state.found[i]) for i in range(count)] if count else None

    @property
    def wanted(self) -> tuple | None:
        """(left, top, right, bottom): the part of the next frame that is enough for `follow`.

        None where the whole frame is wanted: nothing is held, or it is time to look at all of it.
        """
        cdef float[4] box
        if self.state.track_count == 0 or self.state.since_given + 1 >= GIVEN_EVERY:
            return None
        tracks_box(self.state, self.state.track_count, MARGIN_SHARE, box)
        if box[0] >= box[2] or box[1] >= box[3]:
            return None
        return int(box[0]), int(box[1]), int(box[2]) + 1, int(box[3]) + 1

    @property
    def region(self) -> tuple | None:
        """(left, top, right, bottom) of where the last frame may show a code that was not read."""
        cdef float* r = &self.state.region[0]
        return (r[0], r[1], r[2], r[3]) if self.state.has_region else None
