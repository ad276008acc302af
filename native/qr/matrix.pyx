"""A grid of soft modules as a QR code: format, version, codewords, blocks, bit stream.

ISO/IEC 18004:2015, 12 has the order of the steps. A block is taken by its hard bits first, with the
limit of table 9; only where that fails, its least reliable codewords are erased, some more each
time (generalized minimum distance decoding, Forney 1966).

How often a block that is nothing but noise passes, which is what makes a false text:

- Hard bits: sum over e <= t of C(n, e) * 255**e / 256**ecc, which the p of table 9 keeps small:
  5e-10 at most (2-L).
- s erased, 2e + s = ecc - RESERVE: C(n - s, e) * 255**e / 256**(ecc - s), which is less than
  256**-RESERVE, because C(n, e) < 256**e. With RESERVE of 5, or a quarter of ecc if that is more,
  all steps on a block together are 1.2e-12 at most; 4 would make it 2e-10 for each.

Erasing reads symbols with a patch that is covered, bleached or creased, up to 1.5 times what hard
bits allow. Against noise that is the same everywhere it is worth next to nothing.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT16_MIN, int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from native.checks cimport check_int
from native.qr.bits cimport BITS_PAD, code_fields, read_stream
from native.qr.code cimport (
    CODEWORDS_MAX, DIM_MAX, QR_DAMAGED, QR_NO_FORMAT, QR_NO_SIZE, QR_NO_VERSION, QR_NONSENSE,
    QR_READ, VERSION_MAX, Code,
)
from native.qr.correct cimport CHECK_MAX, correct_block
from native.qr.symbol cimport (
    Blocks, blocks_of, codeword_blocks, codewords_of, format_word, mask_bytes, module_order,
    version_at, version_word,
)

cdef extern from "machine.h":
    uint64_t load_u64(const uint8_t* at) noexcept nogil

cdef enum:
    FORMAT_BITS = 15
    VERSION_BITS = 18
    NEAR = 3                    # wrong bits of one copy that its code mends
    NEAR_BOTH = 8               # of both copies; 6 is what their distance of 14 promises
    SURE = 2                    # a mirrored symbol has 6 or more, read as one that is not
    ERASING_MAX = 2             # formats whose blocks are worth more than a look at their hard bits
    CLEAR = 1
    GUESSES_MAX = 4
    RESERVE = 5                 # check codewords that only detect, once codewords are erased
    PLANE = 64


cdef struct Guess:              # a format and an orientation that the format words allow
    int level
    int mask
    int mirrored
    int distance                # wrong bits of both copies
    int32_t score               # soft modules that agree, less those that do not


# ---- format and version words -------------------------------------------------------------------

cdef inline int32_t module(const int16_t* soft, int dim, int mirrored, int x, int y) noexcept nogil:
    return soft[x * dim + y] if mirrored else soft[y * dim + x]


cdef void take_format(
    const int16_t* soft, int dim, int mirrored, int32_t[2][FORMAT_BITS] copies
) noexcept nogil:
    """7.9.1, figure 25: both copies, least significant bit first."""
    cdef int i, x, y
    for i in range(FORMAT_BITS):
        # Around the finder at the top left, past the timing pattern.
        x = 8 if i < 8 else 7 if i == 8 else 14 - i
        y = i if i < 6 else i + 1 if i < 8 else 8
        copies[0][i] = module(soft, dim, mirrored, x, y)
        # Below the finder at the top right, then beside the one at the bottom left.
        x = dim - 1 - i if i < 8 else 8
        y = 8 if i < 8 else dim - FORMAT_BITS + i
        copies[1][i] = module(soft, dim, mirrored, x, y)


cdef void take_version(
    const int16_t* soft, int dim, int mirrored, int32_t[2][VERSION_BITS] copies
) noexcept nogil:
    """7.10, figures 27 and 28: top right and bottom left, least significant bit first."""
    cdef int i
    for i in range(VERSION_BITS):
        copies[0][i] = module(soft, dim, mirrored, dim - 11 + i % 3, i // 3)
        copies[1][i] = module(soft, dim, mirrored, i // 3, dim - 11 + i % 3)


cdef uint32_t hard_word(const int32_t* values, int count) noexcept nogil:
    cdef uint32_t word = 0
    cdef int i
    for i in range(count):
        word |= <uint32_t> (values[i] > 0) << i
    return word


cdef inline int count_bits(uint32_t word) noexcept nogil:
    word -= word >> 1 & 0x55555555
    word = (word & 0x33333333) + (word >> 2 & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return <int> (word * 0x01010101 >> 24)


cdef void enter(Guess* guesses, int* count, const Guess* guess) noexcept nogil:
    """Keep the best GUESSES_MAX, best first; of equals the one that came first."""
    cdef int at = count[0]
    if at == GUESSES_MAX:
        at -= 1
        if guesses[at].score >= guess.score:
            return
    else:
        count[0] += 1
    while at > 0 and guesses[at - 1].score < guess.score:
        guesses[at] = guesses[at - 1]
        at -= 1
    guesses[at] = guess[0]


cdef void guess_format(
    const int16_t* soft, int dim, int mirrored, Guess* guesses, int* count
) noexcept nogil:
    """Formats that one orientation allows.

    A word is taken if one of its copies has no more wrong bits than the code mends, so one copy may
    be gone altogether, or if both are a little worse than that. Which one is right the soft modules
    say, and the blocks in the end: a wrong mask makes noise of them.
    """
    cdef int32_t[2][FORMAT_BITS] copies
    cdef uint32_t first, second, word
    cdef int i, k, one, two
    cdef Guess guess
    take_format(soft, dim, mirrored, copies)
    first = hard_word(copies[0], FORMAT_BITS)
    second = hard_word(copies[1], FORMAT_BITS)
    guess.mirrored = mirrored
    for i in range(32):
        word = format_word(i >> 3, i & 7)
        one = count_bits(first ^ word)
        two = count_bits(second ^ word)
        if one > NEAR and two > NEAR and one + two > NEAR_BOTH:
            continue
        guess.level = i >> 3
        guess.mask = i & 7
        guess.distance = one + two
        guess.score = 0
        for k in range(FORMAT_BITS):
            if word >> k & 1:
                guess.score += copies[0][k] + copies[1][k]
            else:
                guess.score -= copies[0][k] + copies[1][k]
        enter(guesses, count, &guess)


cdef int read_format(
    const int16_t* soft, int dim, int mirrored, int* level, int* mask
) noexcept nogil:
    cdef Guess[GUESSES_MAX] guesses
    cdef int count = 0
    guess_format(soft, dim, mirrored, guesses, &count)
    if count == 0:
        return -1
    level[0] = guesses[0].level
    mask[0] = guesses[0].mask
    return guesses[0].distance


cdef void take_version_words(
    const int16_t* soft, int dim, int mirrored, uint32_t* first, uint32_t* second
) noexcept nogil:
    cdef int32_t[2][VERSION_BITS] copies
    take_version(soft, dim, mirrored, copies)
    first[0] = hard_word(copies[0], VERSION_BITS)
    second[0] = hard_word(copies[1], VERSION_BITS)


cdef int nearest_version(uint32_t word, int* distance) noexcept nogil:
    """The version whose word has the fewest other bits (annex D: one at most is within 3)."""
    cdef int best = 0, version, bits
    distance[0] = VERSION_BITS
    for version in range(7, VERSION_MAX + 1):
        bits = count_bits(word ^ version_word(version))
        if bits < distance[0]:
            distance[0] = bits
            best = version
    return best


cdef int say_version(uint32_t first, uint32_t second, bint* is_clear) noexcept nogil:
    """The version that two words say, or 0; is_clear: it is no accident.

    Noise is within 3 bits of some word one time in 8, within 1 bit one time in 400; two copies of
    noise agree one time in 60,000.
    """
    cdef int[2] distances
    cdef int one = nearest_version(first, &distances[0])
    cdef int two = nearest_version(second, &distances[1])
    is_clear[0] = False
    if distances[0] > NEAR and distances[1] > NEAR:
        return 0
    if one == two or distances[0] < distances[1]:
        is_clear[0] = one == two and max(distances[0], distances[1]) <= NEAR
        is_clear[0] |= distances[0] <= CLEAR and distances[1] > NEAR
        return one
    is_clear[0] = distances[1] <= CLEAR and distances[0] > NEAR
    return two


cdef int read_version(const int16_t* soft, int dim, int mirrored) noexcept nogil:
    cdef uint32_t first, second
    cdef bint is_clear
    if version_at(dim) < 7:
        return 0
    take_version_words(soft, dim, mirrored, &first, &second)
    return say_version(first, second, &is_clear)


cdef bint is_other_version(const int16_t* soft, int dim, MatrixScratch* scratch) noexcept nogil:
    """Whether the version words clearly say that the grid has the wrong size.

    Words that cannot be read leave the size its word: a wrong one cannot pass the blocks.
    """
    cdef int version = version_at(dim)
    cdef uint32_t first, second
    cdef bint is_clear
    scratch.said_version = 0
    if version < 7:
        return False
    # The copies are each other's mirror images, so the orientation does not matter here.
    take_version_words(soft, dim, 0, &first, &second)
    if first == version_word(version) or second == version_word(version):
        scratch.said_version = version
        return False
    scratch.said_version = say_version(first, second, &is_clear)
    return is_clear and scratch.said_version != version


# ---- codewords ----------------------------------------------------------------------------------

cdef void pick_modules(
    const int16_t* soft, const uint16_t* order, int width, int dim, int mirrored,
    int16_t[8][PLANE] planes,
) noexcept nogil:
    """The modules of `width` codewords, a plane for each bit of them."""
    cdef int i, k, at
    for i in range(width):
        if mirrored:
            for k in range(8):
                at = order[8 * i + k]
                planes[k][i] = soft[at % dim * dim + at // dim]
        else:
            for k in range(8):
                planes[k][i] = soft[order[8 * i + k]]


cdef void take_codewords(
    const int16_t* soft, int version, int mirrored, uint8_t* raw, uint16_t* reliability
) noexcept nogil:
    """In planes, because the compiler makes vector code of all but the picking then."""
    cdef const uint16_t* order = module_order(version)
    cdef int dim = 17 + 4 * version
    cdef int left = codewords_of(version)
    cdef int width, i, k
    cdef int16_t[8][PLANE] planes
    cdef int16_t[PLANE] least            # the magnitude below 0, where -32768 has one too
    cdef uint16_t[PLANE] bits
    cdef int16_t value
    while left > 0:
        width = min(left, PLANE)
        pick_modules(soft, order, width, dim, mirrored, planes)
        for i in range(width):
            least[i] = INT16_MIN
            bits[i] = 0
        for k in range(8):
            for i in range(width):
                value = planes[k][i]
                bits[i] = <uint16_t> (bits[i] << 1 | (value > 0))
                value = -value if value > 0 else value
                least[i] = value if value > least[i] else least[i]
        for i in range(width):
            raw[i] = <uint8_t> bits[i]
            reliability[i] = <uint16_t> -least[i]
        order += 8 * width
        raw += width
        reliability += width
        left -= width


cdef void split_blocks(
    const uint8_t* raw, const uint8_t* mask, const Blocks* found, uint8_t* out
) noexcept nogil:
    """7.6 backwards: codewords unmasked, block after block."""
    cdef int at = 0, block = 0, k, width
    for block in range(found.count):
        width = found.short_size + (block >= found.short_count)
        for k in range(found.short_size):
            at = k * found.count + block
            out[k] = raw[at] ^ mask[at]
        if width > found.short_size:
            at = found.data - found.count + block
            out[width - 1] = raw[at] ^ mask[at]
        for k in range(found.check):
            at = found.data + k * found.count + block
            out[width + k] = raw[at] ^ mask[at]
        out += width + found.check


cdef inline int sent_index(const Blocks* found, int block, int k) noexcept nogil:
    """Where in the symbol codeword k of a block stands."""
    cdef int width = found.short_size + (block >= found.short_count)
    if k < found.short_size:
        return k * found.count + block
    if k < width:
        return found.data - found.count + block
    return found.data + (k - width) * found.count + block


cdef void join_data(const Blocks* found, MatrixScratch* scratch) noexcept nogil:
    """Data codewords in reading order."""
    cdef const uint8_t* at = scratch.blocks
    cdef uint8_t* data = scratch.data
    cdef int block, width
    for block in range(found.count):
        width = found.short_size + (block >= found.short_count)
        memcpy(data, at, width)
        data += width
        at += width + found.check
    memset(data, 0, BITS_PAD)


cdef void join_sent(
    const Blocks* found, const uint8_t* mask, MatrixScratch* scratch
) noexcept nogil:
    """Mended blocks as the masked codewords that were sent."""
    cdef const uint8_t* at = scratch.blocks
    cdef int block, k, size, index
    for block in range(found.count):
        size = found.short_size + (block >= found.short_count) + found.check
        for k in range(size):
            index = sent_index(found, block, k)
            scratch.sent[index] = at[k] ^ mask[index]
        at += size


# ---- mending ------------------------------------------------------------------------------------

cdef void find_weakest(
    const Blocks* found, const uint16_t* reliability, int block, int count, uint8_t* weakest
) noexcept nogil:
    """The `count` least reliable codewords of a block, least first; of equals the earlier."""
    cdef uint32_t[CHECK_MAX] keys             # reliability and place, ascending
    cdef int size = found.short_size + (block >= found.short_count) + found.check
    cdef int k, at, kept = 0
    cdef uint32_t key
    for k in range(size):
        key = <uint32_t> reliability[sent_index(found, block, k)] << 8 | <uint32_t> k
        if kept < count:
            kept += 1
        elif key > keys[kept - 1]:
            continue
        at = kept - 1
        while at > 0 and keys[at - 1] > key:
            keys[at] = keys[at - 1]
            at -= 1
        keys[at] = key
    for k in range(count):
        weakest[k] = <uint8_t> (keys[k] & 0xFF)


cdef int correct_weak(
    const Blocks* found, const uint16_t* reliability, int block, uint8_t* codewords, int* erased
) noexcept nogil:
    """Mend a block with its weakest codewords erased, two more each time; -1 if nothing helps."""
    cdef uint8_t[CHECK_MAX] weakest
    cdef int size = found.short_size + (block >= found.short_count) + found.check
    cdef int spare = found.check - max(RESERVE, found.check // 4)
    cdef int limit = spare // 2
    cdef int count, wrong
    if limit < 1:
        return -1
    find_weakest(found, reliability, block, 2 * limit, weakest)
    for count in range(2, 2 * limit + 1, 2):
        wrong = correct_block(codewords, size, found.check, weakest, count, limit)
        if wrong >= 0:
            erased[0] += count
            return wrong
    return -1


cdef bint correct_all(
    const Blocks* found, bint may_erase, Code* out, MatrixScratch* scratch
) noexcept nogil:
    cdef uint8_t* at = scratch.blocks
    cdef int block, size, wrong
    out.corrected = out.erased = 0
    for block in range(found.count):
        size = found.short_size + (block >= found.short_count) + found.check
        wrong = correct_block(at, size, found.check, NULL, 0, found.limit)
        if wrong < 0 and may_erase:
            wrong = correct_weak(found, scratch.reliability, block, at, &out.erased)
        if wrong < 0:
            return False
        out.corrected += wrong
        at += size
    return True


cdef int try_format(
    const int16_t* soft, int version, const Guess* guess, bint may_erase, Code* out,
    MatrixScratch* scratch,
) noexcept nogil:
    """Read the grid by one format; a QR_ status."""
    cdef const Blocks* found = blocks_of(version, guess.level)
    cdef const uint8_t* mask = mask_bytes(version, guess.mask)
    take_codewords(soft, version, guess.mirrored, scratch.raw, scratch.reliability)
    split_blocks(scratch.raw, mask, found, scratch.blocks)
    if not correct_all(found, may_erase, out, scratch):
        return QR_DAMAGED
    join_data(found, scratch)
    if out.corrected == 0:
        memcpy(scratch.sent, scratch.raw, codewords_of(version))
    else:
        join_sent(found, mask, scratch)
    out.version = version
    out.level = guess.level
    out.mask = guess.mask
    out.mirrored = guess.mirrored
    return read_stream(scratch.data, found.data, version, out)


cdef int try_formats(
    const int16_t* soft, int version, const Guess* guesses, int count, Code* out,
    MatrixScratch* scratch,
) noexcept nogil:
    """Read the grid by the formats in turn, by hard bits first; a QR_ status."""
    cdef int status, i
    cdef int best = QR_DAMAGED
    for i in range(count + min(count, ERASING_MAX)):
        if i < count:
            status = try_format(soft, version, &guesses[i], False, out, scratch)
        else:
            status = try_format(soft, version, &guesses[i - count], True, out, scratch)
        if status == QR_READ:
            return QR_READ
        if status == QR_NONSENSE:
            best = QR_NONSENSE
    return best


cdef int decode_matrix(
    const int16_t* soft, int dim, Code* out, MatrixScratch* scratch
) noexcept nogil:
    cdef int version = version_at(dim)
    cdef Guess[GUESSES_MAX] guesses
    cdef int count = 0
    cdef int status
    if version == 0:
        return QR_NO_SIZE
    if is_other_version(soft, dim, scratch):
        return QR_NO_VERSION
    guess_format(soft, dim, 0, guesses, &count)
    if count > 0 and guesses[0].distance <= SURE:
        # A format that both copies agree on is the right one: no other is worth its price.
        status = try_format(soft, version, &guesses[0], False, out, scratch)
        if status == QR_READ:
            return QR_READ
        return try_format(soft, version, &guesses[0], True, out, scratch)
    guess_format(soft, dim, 1, guesses, &count)
    if count == 0:
        return QR_NO_FORMAT
    return try_formats(soft, version, guesses, count, out, scratch)


# ---- the exact repeat rule ----------------------------------------------------------------------

cdef int same_code(
    const uint8_t* raw, const uint8_t* sent, int version, int level, int* worst
) noexcept nogil:
    """Two codes of this level differ in more than twice the limit of some block, so what is within
    the limit everywhere is the same code: its decoding would end at the same codewords."""
    cdef const uint8_t* owners = codeword_blocks(version, level)
    cdef uint8_t[256] differences
    cdef int total = codewords_of(version)
    cdef int i = 0, k, most = 0
    memset(differences, 0, sizeof(differences))
    while i + 8 <= total:
        if load_u64(raw + i) != load_u64(sent + i):
            for k in range(i, i + 8):
                differences[owners[k]] += raw[k] != sent[k]
        i += 8
    for k in range(i, total):
        differences[owners[k]] += raw[k] != sent[k]
    for k in range(blocks_of(version, level).count):
        most = max(most, <int> differences[k])
    worst[0] = most
    return most <= blocks_of(version, level).limit


# ---- doors for tests ----------------------------------------------------------------------------

cdef tuple STATUSES = (
    "QR_READ", "QR_NO_SIZE", "QR_NO_VERSION", "QR_NO_FORMAT", "QR_DAMAGED", "QR_NONSENSE",
)


cdef int16_t* load_grid(object grid, int dim) except NULL:
    """A grid of dim * dim as int16, to be freed: bytes of 0 and 1, or soft values of two bytes."""
    cdef Py_buffer view
    cdef int16_t* soft
    cdef const uint8_t* hard
    cdef size_t count = <size_t> dim * dim
    cdef size_t i
    PyObject_GetBuffer(grid, &view, PyBUF_SIMPLE)
    try:
        if <size_t> view.len != count and <size_t> view.len != 2 * count:
            raise ValueError("grid is not of dim * dim modules")
        soft = <int16_t*> malloc(count * sizeof(int16_t) + 1)
        if soft is NULL:
            raise MemoryError
        if <size_t> view.len == count:
            hard = <const uint8_t*> view.buf
            for i in range(count):
                soft[i] = 100 if hard[i] else -100
        else:
            memcpy(soft, view.buf, 2 * count)
    finally:
        PyBuffer_Release(&view)
    return soft


def decode(grid, dim) -> dict | str:
    """The code in a grid as a dict of native.qr.code.Code's fields, or why there is none.

    grid: dim * dim bytes, 0 light and anything else dark, or as many int16: > 0 dark, < 0 light.
    `sent` and `raw` of the answer are the codewords, still masked. Other answers are QR_NO_SIZE ...
    QR_NONSENSE; QR_NO_VERSION says the version behind a space.
    Raises ValueError when dim is not of 1 .. 177 or grid has another size.
    """
    cdef int side = <int> check_int(dim, 1, DIM_MAX, "dim")
    cdef int16_t* soft = load_grid(grid, side)
    cdef Code* code = <Code*> malloc(sizeof(Code))
    cdef MatrixScratch* scratch = <MatrixScratch*> malloc(sizeof(MatrixScratch))
    cdef int status
    try:
        if code is NULL or scratch is NULL:
            raise MemoryError
        with nogil:
            status = decode_matrix(soft, side, code, scratch)
        if status == QR_NO_VERSION:
            return f"{STATUSES[status]} {scratch.said_version}"
        if status != QR_READ:
            return STATUSES[status]
        return {
            "version": code.version,
            "level": code.level,
            "mask": code.mask,
            "mirrored": code.mirrored,
            "corrected": code.corrected,
            "erased": code.erased,
            **code_fields(code),
            "raw": PyBytes_FromStringAndSize(<char*> scratch.raw, codewords_of(code.version)),
            "sent": PyBytes_FromStringAndSize(<char*> scratch.sent, codewords_of(code.version)),
        }
    finally:
        free(soft)
        free(code)
        free(scratch)


cdef int check_dim(object dim) except 0:
    """A side that is one of a version."""
    cdef int side = <int> check_int(dim, 21, DIM_MAX, "dim")
    if version_at(side) == 0:
        raise ValueError("dim is not the side of a version")
    return side


def take(grid, dim, mirrored=False) -> tuple[bytes, list[int]]:
    """Codewords of a grid (see decode), still masked, and how reliable each is.

    Raises ValueError when dim is the side of no version or grid has another size.
    """
    cdef int side = check_dim(dim)
    cdef int is_mirrored = 1 if mirrored else 0
    cdef int version = version_at(side)
    cdef uint8_t[CODEWORDS_MAX] raw
    cdef uint16_t[CODEWORDS_MAX] reliability
    cdef int i
    cdef int16_t* soft = load_grid(grid, side)
    with nogil:
        take_codewords(soft, version, is_mirrored, raw, reliability)
    free(soft)
    return (
        PyBytes_FromStringAndSize(<char*> raw, codewords_of(version)),
        [reliability[i] for i in range(codewords_of(version))],
    )


def look(grid, dim, mirrored=False) -> tuple[int, int, int, int]:
    """(level, mask, distance, version) by the format and version words; distance -1: no format.

    Raises ValueError when dim is the side of no version or grid has another size.
    """
    cdef int side = check_dim(dim)
    cdef int is_mirrored = 1 if mirrored else 0
    cdef int level = -1, mask = -1, distance, version
    cdef int16_t* soft = load_grid(grid, side)
    with nogil:
        distance = read_format(soft, side, is_mirrored, &level, &mask)
        version = read_version(soft, side, is_mirrored)
    free(soft)
    return level, mask, distance, version


def same(bytes raw not None, bytes sent not None, version, level) -> tuple[bool, int]:
    """Whether raw is a sampling of the symbol sent, and the most differences in a block.

    Raises ValueError when there is no such version or level, or the sizes are not its codewords.
    """
    cdef int which = <int> check_int(version, 1, VERSION_MAX, "version")
    cdef int strength = <int> check_int(level, 0, 3, "level")
    cdef const uint8_t* one = <const uint8_t*> PyBytes_AS_STRING(raw)
    cdef const uint8_t* other = <const uint8_t*> PyBytes_AS_STRING(sent)
    cdef int worst = 0
    cdef bint is_same
    if len(raw) != codewords_of(which) or len(sent) != codewords_of(which):
        raise ValueError("raw and sent have as many codewords as the version")
    is_same = same_code(one, other, which, strength, &worst) != 0
    return is_same, worst
