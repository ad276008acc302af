"""Luma of a baseline JPEG: the whole frame, a part of it, or one pixel for each block.

The bytes before the wanted rows must be walked through, since their lengths are known only by
reading them; but nothing of them is transformed, chroma is leapt over everywhere, and what comes
after the last wanted row is not looked at. With restart markers the walk begins at the last one
before the wanted rows.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT32_MAX, int16_t, uint16_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcpy, memset

from native.checks cimport check_int
from native.cpu cimport level
from native.jpeg.entropy cimport (
    COEFS_SIZE,
    RUN_CUT,
    RUN_DONE,
    SLACK,
    Block,
    Leaps,
    Run,
    Table,
    bytes_left,
    make_leaps,
    make_table,
    read_run,
    skip_run,
    start_segment,
)
from native.jpeg.entropy cimport read_small as read_small_run
from native.jpeg.header cimport (
    SEGMENTS_CUT,
    SEGMENTS_SCAN,
    TABLES_MAX,
    Component,
    read_segments,
    start_head,
)

cdef extern from *:
    """
    static char jpeg_format[] = "B";
    """
    char* jpeg_format

cdef extern from "<stdlib.h>":
    void* aligned_alloc(size_t alignment, size_t size) noexcept nogil

cdef extern from "jpeg_idct.h":
    ctypedef void (*jpeg_transform)(
        int16_t* coefs, int count, const int16_t* quants, uint8_t* left, uint8_t* right,
        size_t stride,
    ) noexcept nogil
    jpeg_transform jpeg_transform_at(int level) noexcept nogil

DONE = LUMA_DONE
OTHER = LUMA_OTHER
LARGE = LUMA_LARGE
DAMAGED = LUMA_DAMAGED
UNSURE = LUMA_UNSURE

cdef enum:
    PIXELS_MAX = 1 << 24
    MARKER_NONE = 0             # the bytes end
    MARKER_ODD = 1              # fill bytes before a stuffed one: not allowed, but libjpeg reads on
    MARKER_RESTART = 0xD0
    MARKER_END = 0xD9

# What is wanted of a scan.
cdef enum:
    WANT_PIXELS = 0
    WANT_SMALL = 1
    WANT_NOTHING = 2

cdef struct Source:
    const uint8_t* data
    size_t size
    size_t at
    int marker                  # at data[at], after a segment

cdef struct Scan:
    int wanted
    int across                  # blocks of luma in an MCU
    int down
    int columns                 # MCUs a row
    int rows
    int first                   # rows of MCUs that are wanted: [first, last)
    int last
    bint is_all                 # the scan must be read to its end


# ---- memory -----------------------------------------------------------------------------------


cdef int reserve_plane(Plane* plane, int width, int height, size_t views) noexcept nogil:
    """Room for whole MCUs and eight spare rows; width and height are of whole MCUs."""
    cdef size_t stride = (<size_t> width + 63) & ~<size_t> 63
    cdef size_t room
    # Rows a power of two apart would share a few lines of the cache.
    if stride % 512 == 0:
        stride += 64
    room = stride * (<size_t> height + 8)
    if room > plane.room:
        if views:
            return LUMA_HELD
        free(plane.pixels)
        plane.width = plane.height = 0
        # Cleared: what was never decoded shows no other memory.
        plane.pixels = <uint8_t*> calloc(room, 1)
        plane.room = room if plane.pixels is not NULL else 0
        if plane.pixels is NULL:
            return LUMA_MEMORY
    plane.stride = stride
    return LUMA_DONE


cdef int reserve_work(State* state, size_t size) noexcept nogil:
    if state.segment_room < size + SLACK:
        free(state.segment)
        state.segment = <uint8_t*> calloc(size + SLACK, 1)
        state.segment_room = size + SLACK if state.segment is not NULL else 0
    if state.tables is NULL:
        state.tables = <Table*> calloc(2 * TABLES_MAX, sizeof(Table))
    if state.leaps is NULL:
        state.leaps = <Leaps*> calloc(TABLES_MAX * TABLES_MAX, sizeof(Leaps))
    if state.run.coefs is NULL:
        # Coefficients of two blocks, and the quantizers beside them.
        state.run.coefs = <int16_t*> aligned_alloc(64, (COEFS_SIZE + 128) * sizeof(int16_t))
        if state.run.coefs is not NULL:
            memset(state.run.coefs, 0, (COEFS_SIZE + 128) * sizeof(int16_t))
    if state.segment is NULL or state.tables is NULL or state.leaps is NULL:
        return LUMA_MEMORY
    if state.run.coefs is NULL:
        return LUMA_MEMORY
    return LUMA_DONE


# ---- segments between markers -----------------------------------------------------------------


cdef size_t next_segment(Source* source, uint8_t* to) noexcept nogil:
    """Bytes up to the next marker, without stuffing, to `to` unless it is NULL; how many."""
    cdef const uint8_t* at = source.data + source.at
    cdef const uint8_t* end = source.data + source.size
    cdef const uint8_t* found
    cdef size_t size, total = 0
    while True:
        found = <const uint8_t*> memchr(at, 0xFF, end - at)
        size = (end if found is NULL else found) - at
        if to is not NULL:
            memcpy(to + total, at, size)
        total += size
        if found is NULL:
            found = end
            source.marker = MARKER_NONE
            break
        if end - found >= 2 and found[1] == 0:
            if to is not NULL:
                to[total] = 0xFF
            total += 1
            at = found + 2
            continue
        at = found
        while at < end and at[0] == 0xFF:
            at += 1
        source.marker = MARKER_NONE if at == end else at[0] if at[0] else MARKER_ODD
        break
    source.at = found - source.data
    return total


cdef void pass_marker(Source* source) noexcept nogil:
    while source.data[source.at] == 0xFF:
        source.at += 1
    source.at += 1


cdef bint is_restart(const Source* source, size_t number) noexcept nogil:
    return source.marker == MARKER_RESTART + <int> (number & 7)


# ---- scans ------------------------------------------------------------------------------------


cdef int divide_up(int value, int by) noexcept nogil:
    return (value + by - 1) // by


cdef bint start_scan(State* state, Scan* scan, const Plane* plane) noexcept nogil:
    """Fill the plan of the scan's MCUs, its tables too; False if these cannot be read here."""
    cdef const Head* head = &state.head
    cdef Run* run = &state.run
    cdef const Component* component
    cdef Block* block = NULL
    cdef Table* dc
    cdef Table* ac
    cdef Leaps* leaps
    cdef int i, x, y, across, down
    cdef int size = 1 if scan.wanted == WANT_SMALL else 8
    cdef bint is_single = head.scan_count == 1
    scan.columns = divide_up(head.width, 8 * head.across_most)
    scan.rows = divide_up(head.height, 8 * head.down_most)
    scan.across = scan.down = 0
    run.block_count = 0
    for i in range(head.scan_count):
        component = &head.components[head.scan[i]]
        across, down = component.across, component.down
        if is_single:
            # One block an MCU, and no blocks of padding.
            scan.columns = divide_up(head.width * across, 8 * head.across_most)
            scan.rows = divide_up(head.height * down, 8 * head.down_most)
            across = down = 1
        if head.scan[i] == 0:
            scan.across, scan.down = across, down
        dc, ac = &state.tables[component.dc], &state.tables[TABLES_MAX + component.ac]
        leaps = &state.leaps[TABLES_MAX * component.dc + component.ac]
        make_table(dc, &head.dc[component.dc], True)
        make_table(ac, &head.ac[component.ac], False)
        make_leaps(leaps, dc, ac)
        if run.block_count + across * down > 10:
            return False
        for y in range(down):
            for x in range(across):
                block = &run.blocks[run.block_count]
                block.dc, block.ac, block.leaps = dc, ac, leaps
                block.is_luma = head.scan[i] == 0
                block.shift = size * (y * plane.stride + x) if block.is_luma else 0
                block.advance = 0
                block.next = block + 1
                run.block_count += 1
    run.step = size * scan.across
    block.advance = run.step
    block.next = &run.blocks[0]
    run.luma_count = scan.across * scan.down
    run.chroma_count = run.block_count - run.luma_count
    # The loops are made for these. Luma behind chroma has not been seen anywhere.
    return scan.wanted == WANT_NOTHING or (
        head.scan[0] == 0
        and run.luma_count != 3
        and (is_single or head.scan_count == head.component_count)
    )


cdef int read_part(
    State* state, const Scan* scan, const Plane* plane, size_t begin, size_t end
) noexcept nogil:
    """MCUs [begin, end) of a segment, row by row."""
    cdef size_t columns = scan.columns, stop
    cdef int row, column, status = RUN_DONE
    cdef uint8_t* pixels
    while begin < end and status == RUN_DONE:
        row = <int> (begin // columns)
        column = <int> (begin - row * columns)
        stop = min(end, (row + 1) * columns)
        if scan.wanted == WANT_SMALL:
            pixels = plane.pixels + row * scan.down * plane.stride
            status = read_small_run(&state.run, pixels, column, column + <int> (stop - begin))
        elif scan.wanted == WANT_PIXELS and scan.first <= row < scan.last:
            pixels = plane.pixels + 8 * row * scan.down * plane.stride
            status = read_run(&state.run, pixels, column, column + <int> (stop - begin))
        else:
            status = skip_run(&state.run, column, column + <int> (stop - begin))
        begin = stop
    if status == RUN_DONE:
        return LUMA_DONE
    return LUMA_DAMAGED if status == RUN_CUT else LUMA_UNSURE


cdef int read_scan(
    State* state, const Scan* scan, const Plane* plane, Source* source
) noexcept nogil:
    """The scan up to the last wanted MCU; if it is_all, source.marker is what ends it."""
    cdef size_t total = <size_t> scan.columns * scan.rows
    cdef size_t interval = state.head.interval if state.head.interval else total
    cdef size_t restarts = 0, mcu = 0, size, stop = total, end
    cdef int status
    if not scan.is_all:
        stop = <size_t> (scan.last - 1) * scan.columns + state.run.last
        while mcu + interval <= <size_t> scan.first * scan.columns + state.run.first:
            next_segment(source, NULL)
            if not is_restart(source, restarts):
                return LUMA_UNSURE if source.marker == MARKER_ODD else LUMA_DAMAGED
            pass_marker(source)
            restarts += 1
            mcu += interval
    while True:
        size = next_segment(source, state.segment)
        if source.marker == MARKER_ODD:
            return LUMA_UNSURE
        start_segment(&state.run, state.segment, size)
        end = min(mcu + interval, stop)
        status = read_part(state, scan, plane, mcu, end)
        if status != LUMA_DONE:
            return status
        mcu = end
        if mcu == stop and not scan.is_all:
            return LUMA_DONE
        # libjpeg warns of most that is too much.
        if bytes_left(&state.run) > 0:
            return LUMA_UNSURE
        if mcu == total:
            return LUMA_DONE
        if not is_restart(source, restarts):
            return LUMA_DAMAGED
        pass_marker(source)
        restarts += 1


cdef int read_end(State* state, Source* source) noexcept nogil:
    """Behind the scan with luma, when all was wanted: scans of chroma, and the end."""
    cdef int seen = 0, i, status
    cdef Scan scan
    scan.wanted = WANT_NOTHING
    scan.is_all = True
    scan.first = scan.last = 0
    while True:
        for i in range(state.head.scan_count):
            if seen >> state.head.scan[i] & 1:
                return LUMA_UNSURE
            seen |= 1 << state.head.scan[i]
        # Some encoders put a restart marker behind the last interval too.
        while MARKER_RESTART <= source.marker < MARKER_RESTART + 8:
            pass_marker(source)
            if next_segment(source, NULL) > 0:
                return LUMA_UNSURE
        if seen == (1 << state.head.component_count) - 1:
            if source.marker == MARKER_END:
                return LUMA_DONE
            return LUMA_DAMAGED if source.marker == MARKER_NONE else LUMA_UNSURE
        status = read_segments(&state.head, source.data, source.size, &source.at)
        if status != SEGMENTS_SCAN:
            return LUMA_DAMAGED if status == SEGMENTS_CUT else LUMA_UNSURE
        if not start_scan(state, &scan, &state.whole):
            return LUMA_UNSURE
        status = read_scan(state, &scan, &state.whole, source)
        if status != LUMA_DONE:
            return status


# ---- frames -----------------------------------------------------------------------------------


cdef int open_frame(Head* head, Source* source) noexcept nogil:
    """Read the header; LUMA_DONE if the frame is one for this decoder."""
    cdef int status, i
    if source.size < 2 or source.data[0] != 0xFF or source.data[1] != 0xD8:
        return LUMA_OTHER
    start_head(head)
    source.at = 2
    status = read_segments(head, source.data, source.size, &source.at)
    if status != SEGMENTS_SCAN:
        return LUMA_DAMAGED if status == SEGMENTS_CUT else LUMA_OTHER
    for i in range(head.scan_count):
        if head.scan[i] == 0:
            return LUMA_DONE
    return LUMA_OTHER


cdef void set_quants(State* state) noexcept nogil:
    cdef const uint16_t* quants = state.head.quants[state.head.components[0].quant]
    cdef int16_t* to = state.run.coefs + COEFS_SIZE
    cdef int i
    for i in range(64):
        to[(i >> 3) * 16 + (i & 7)] = to[(i >> 3) * 16 + (i & 7) + 8] = <int16_t> quants[i]
    state.run.quants = to


cdef int clip(int value, int most) noexcept nogil:
    return 0 if value < 0 else most if value > most else value


cdef int read_frame(
    State* state, Source* source, const Box* wanted, size_t pixels_max, bint is_small
) noexcept nogil:
    cdef Head* head = &state.head
    cdef Run* run = &state.run
    cdef Plane* plane = &state.small if is_small else &state.whole
    cdef Scan scan
    cdef Box box
    cdef int status, size, width, height
    status = open_frame(head, source)
    if status != LUMA_DONE:
        return status
    if <size_t> head.width * <size_t> head.height > pixels_max:
        return LUMA_LARGE
    box = Box(0, 0, head.width, head.height)
    if wanted is not NULL:
        box.x0, box.x1 = clip(wanted.x0, head.width), clip(wanted.x1, head.width)
        box.y0, box.y1 = clip(wanted.y0, head.height), clip(wanted.y1, head.height)
    size = 1 if is_small else 8
    width = divide_up(head.width, 8 * head.across_most) * head.across_most * size
    height = divide_up(head.height, 8 * head.down_most) * head.down_most * size
    status = reserve_plane(plane, width, height, 0 if is_small else state.views)
    if status == LUMA_DONE:
        status = reserve_work(state, source.size)
    if status != LUMA_DONE:
        return status
    plane.width = divide_up(head.width, 8) if is_small else head.width
    plane.height = divide_up(head.height, 8) if is_small else head.height
    scan.wanted = WANT_SMALL if is_small else WANT_PIXELS
    if not start_scan(state, &scan, plane):
        return LUMA_OTHER
    scan.is_all = box.x0 == 0 and box.y0 == 0 and box.x1 == head.width and box.y1 == head.height
    if box.x0 >= box.x1 or box.y0 >= box.y1:
        return LUMA_DONE
    scan.first = box.y0 // (8 * scan.down)
    scan.last = divide_up(box.y1, 8 * scan.down)
    run.first = box.x0 // (8 * scan.across)
    run.last = divide_up(box.x1, 8 * scan.across)
    run.stride = plane.stride
    run.spare = plane.pixels + plane.stride * height
    run.transform = jpeg_transform_at(level())
    set_quants(state)
    status = read_scan(state, &scan, plane, source)
    if status == LUMA_DONE and scan.is_all:
        status = read_end(state, source)
    if status == LUMA_DONE and not is_small:
        state.valid = Box(
            8 * scan.across * run.first,
            8 * scan.down * scan.first,
            min(head.width, 8 * scan.across * run.last),
            min(head.height, 8 * scan.down * scan.last),
        )
    return status


cdef class Luma:
    """Decoder of one lane's frames; keeps its memory from frame to frame.

    The buffer of a Luma (`numpy.asarray(luma)`) is the plane of the frame decoded last, (height,
    width); only the pixels in `valid` belong to that frame. It shows the next frame after the next
    decode, and as long as a view of it is held, the plane cannot grow.
    Not for two threads at once: the second one gets RuntimeError.
    """

    def __dealloc__(self):
        free(self.state.tables)
        free(self.state.leaps)
        free(self.state.segment)
        free(self.state.run.coefs)
        free(self.state.whole.pixels)
        free(self.state.small.pixels)

    def __reduce__(self):
        raise TypeError("a Luma cannot be pickled")

    def __getbuffer__(self, Py_buffer* view, int flags):
        cdef Plane* plane = &self.state.whole
        view.obj = None
        if plane.width == 0:
            raise BufferError("no frame has been decoded")
        if flags & PyBUF_WRITABLE:
            raise BufferError("the plane is for reading")
        if flags & PyBUF_STRIDES != PyBUF_STRIDES:
            raise BufferError("rows have padding: ask for strides")
        cdef Py_ssize_t* numbers = <Py_ssize_t*> calloc(4, sizeof(Py_ssize_t))
        if numbers is NULL:
            raise MemoryError
        numbers[0], numbers[1] = plane.height, plane.width
        numbers[2], numbers[3] = <Py_ssize_t> plane.stride, 1
        view.buf = plane.pixels
        view.len = numbers[0] * numbers[1]
        view.itemsize = 1
        view.readonly = 1
        view.ndim = 2
        view.format = jpeg_format if flags & PyBUF_FORMAT else NULL
        view.shape = numbers
        view.strides = numbers + 2
        view.suboffsets = NULL
        view.internal = numbers
        view.obj = self
        self.state.views += 1

    def __releasebuffer__(self, Py_buffer* view):
        free(view.internal)
        self.state.views -= 1

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the plane; (0, 0) before the first frame."""
        return self.state.whole.width, self.state.whole.height

    @property
    def valid(self) -> tuple[int, int, int, int]:
        """(y0, y1, x0, x1) of the pixels that the last `decode` wrote; empty if it failed."""
        cdef Box box = self.state.valid
        return box.y0, box.y1, box.x0, box.x1

    def open(self, bytes data not None) -> tuple[int, int] | None:
        """(width, height) of a frame this decoder can do, by its header; None for all others."""
        self.enter()
        cdef int status = self.look(
            <const uint8_t*> PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
        )
        self.is_busy = False
        if status != LUMA_DONE:
            return None
        return self.state.head.width, self.state.head.height

    def decode(
        self, bytes data not None, y0=0, y1=None, x0=0, x1=None, *, pixels_max=PIXELS_MAX
    ) -> int:
        """Luma of rows y0 to y1 and columns x0 to x1, clipped to the frame; a status.

        DONE; OTHER: nothing this decoder does; LARGE: more than pixels_max in the frame; DAMAGED;
        UNSURE: odd, but another decoder might see a picture in it. What is decoded is `valid`:
        whole MCUs around the wanted pixels. Only a whole frame is checked to its end.

        Raises ValueError for a negative or a reversed range, BufferError where the plane must grow
        while a view is held, MemoryError.
        """
        cdef Box box
        cdef size_t most
        box.y0 = <int> check_int(y0, 0, INT32_MAX, "y0")
        box.x0 = <int> check_int(x0, 0, INT32_MAX, "x0")
        box.y1 = INT32_MAX if y1 is None else <int> check_int(y1, box.y0, INT32_MAX, "y1")
        box.x1 = INT32_MAX if x1 is None else <int> check_int(x1, box.x0, INT32_MAX, "x1")
        most = <size_t> check_int(pixels_max, 0, PIXELS_MAX << 4, "pixels_max")
        cdef const uint8_t* at = <const uint8_t*> PyBytes_AS_STRING(data)
        cdef size_t size = PyBytes_GET_SIZE(data)
        cdef int status
        self.enter()
        with nogil:
            status = self.read(at, size, &box, most)
        return self.leave(status)

    def decode_dc(self, bytes data not None, *, pixels_max=PIXELS_MAX) -> int:
        """The mean of each block of 8 x 8; a status as of `decode`. `dc` gives the result."""
        cdef size_t most = <size_t> check_int(pixels_max, 0, PIXELS_MAX << 4, "pixels_max")
        cdef const uint8_t* at = <const uint8_t*> PyBytes_AS_STRING(data)
        cdef size_t size = PyBytes_GET_SIZE(data)
        cdef int status
        self.enter()
        with nogil:
            status = self.read_small(at, size, most)
        return self.leave(status)

    def dc(self) -> tuple[int, int, bytes]:
        """(width, height, pixels) of what decode_dc read last, an eighth of the frame, rounded up.

        (0, 0, b"") where there is nothing.
        """
        cdef Plane* plane = &self.state.small
        cdef bytes packed = PyBytes_FromStringAndSize(
            NULL, <Py_ssize_t> plane.width * plane.height
        )
        cdef char* to = PyBytes_AS_STRING(packed)
        cdef int row
        for row in range(plane.height):
            memcpy(to + <size_t> row * plane.width, plane.pixels + row * plane.stride, plane.width)
        return plane.width, plane.height, packed

    cdef int enter(self) except -1:
        if self.is_busy:
            raise RuntimeError("this Luma is at work in another thread")
        self.is_busy = True
        return 0

    cdef int leave(self, int status) except -1:
        self.is_busy = False
        if status == LUMA_MEMORY:
            raise MemoryError
        if status == LUMA_HELD:
            raise BufferError("the plane must grow, but a view of it is held")
        return status

    cdef int look(self, const uint8_t* data, size_t size) noexcept nogil:
        cdef Source source = Source(data, size, 0, MARKER_NONE)
        return open_frame(&self.state.head, &source)

    cdef int read(
        self, const uint8_t* data, size_t size, const Box* wanted, size_t pixels_max
    ) noexcept nogil:
        cdef Source source = Source(data, size, 0, MARKER_NONE)
        self.state.valid = Box(0, 0, 0, 0)
        return read_frame(&self.state, &source, wanted, pixels_max, False)

    cdef int read_small(self, const uint8_t* data, size_t size, size_t pixels_max) noexcept nogil:
        cdef Source source = Source(data, size, 0, MARKER_NONE)
        cdef int status = read_frame(&self.state, &source, NULL, pixels_max, True)
        if status != LUMA_DONE:
            self.state.small.width = self.state.small.height = 0
        return status


def _decode_exact(luma: Luma, data: bytes, y0: int, y1: int) -> int:
    """luma.decode of rows, from a block of just the size of the data; for sanitizers.

    bytes keep a zero behind theirs, which would hide a read one too far.
    """
    cdef Luma own = luma
    cdef size_t size = len(data)
    cdef uint8_t* block = <uint8_t*> malloc(size if size else 1)
    cdef Box box = Box(0, <int> check_int(y0, 0, INT32_MAX, "y0"), INT32_MAX,
                       <int> check_int(y1, 0, INT32_MAX, "y1"))
    if block is NULL:
        raise MemoryError
    memcpy(block, PyBytes_AS_STRING(data), size)
    own.enter()
    cdef int status = own.read(block, size, &box, PIXELS_MAX)
    free(block)
    return own.leave(status)


def _transform(coefs: bytes, count: int, quants: bytes) -> bytes:
    """Pixels of two blocks, one after the other, by the kernel of the level in use; for tests.

    coefs: 2 x 64 numbers, quants: 64, of 16 bits, row by row. count: as in src/jpeg_idct.h.
    """
    cdef int16_t pair[128]
    cdef int16_t factors[128]
    cdef uint8_t pixels[128]
    cdef int number = <int> check_int(count, 1, 64, "count"), i, at
    if len(coefs) != 256 or len(quants) != 128:
        raise ValueError("coefs are 2 x 64 numbers, quants 64")
    cdef const int16_t* given = <const int16_t*> PyBytes_AS_STRING(coefs)
    cdef const int16_t* by = <const int16_t*> PyBytes_AS_STRING(quants)
    for i in range(64):
        at = (i >> 3) * 16 + (i & 7)
        pair[at], pair[at + 8] = given[i], given[64 + i]
        factors[at] = factors[at + 8] = by[i]
    jpeg_transform_at(level())(pair, number, factors, pixels, pixels + 64, 8)
    return PyBytes_FromStringAndSize(<char*> pixels, 128)
