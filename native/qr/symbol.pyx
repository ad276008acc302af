"""The geometry of QR codes of all versions, and what is fixed in them, by ISO/IEC 18004:2015.

Only table 9 (check codewords and blocks) is a table here; the rest follows from the text. 2.4 MB
for 40 versions are filled in some milliseconds at import.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from native.checks cimport check_int
from native.qr.code cimport LEVEL_L, VERSION_MAX

cdef enum:
    MAPS_SIZE = 477320          # sum of the squares of all sides
    ORDER_SIZE = 441456         # sum of codewords * 8
    CODEWORDS_SIZE = 55182      # sum of codewords
    FORMAT_GENERATOR = 0x537    # 7.9.1
    FORMAT_MASK = 0x5412
    VERSION_GENERATOR = 0x1F25  # 7.10

# Table 9, for level L, M, Q, H: check codewords of a block.
cdef uint8_t[4][40] CHECK = [
    [7, 10, 15, 20, 26, 18, 20, 24, 30, 18, 20, 24, 26, 30, 22, 24, 28, 30, 28, 28,
     28, 28, 30, 30, 26, 28, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30],
    [10, 16, 26, 18, 24, 16, 18, 22, 22, 26, 30, 22, 22, 24, 24, 28, 28, 26, 26, 26,
     26, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28],
    [13, 22, 18, 26, 18, 24, 18, 22, 20, 24, 28, 26, 24, 20, 30, 24, 28, 28, 26, 30,
     28, 30, 30, 30, 30, 28, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30],
    [17, 28, 22, 16, 22, 28, 26, 26, 24, 28, 24, 28, 22, 24, 24, 30, 28, 28, 26, 28,
     30, 24, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30],
]
# Table 9, for level L, M, Q, H: blocks.
cdef uint8_t[4][40] BLOCKS = [
    [1, 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 4, 6, 6, 6, 6, 7, 8,
     8, 9, 9, 10, 12, 12, 12, 13, 14, 15, 16, 17, 18, 19, 19, 20, 21, 22, 24, 25],
    [1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10, 10, 11, 13, 14, 16,
     17, 17, 18, 20, 21, 23, 25, 26, 28, 29, 31, 33, 35, 37, 38, 40, 43, 45, 47, 49],
    [1, 1, 2, 2, 4, 4, 6, 6, 8, 8, 8, 10, 12, 16, 12, 17, 16, 18, 21, 20,
     23, 23, 25, 27, 29, 34, 34, 35, 38, 40, 43, 45, 48, 51, 53, 56, 59, 62, 65, 68],
    [1, 1, 2, 4, 4, 4, 5, 6, 8, 8, 11, 11, 16, 16, 18, 16, 19, 21, 25, 25,
     25, 34, 30, 32, 35, 37, 40, 42, 45, 48, 51, 54, 57, 60, 63, 66, 70, 74, 77, 81],
]

cdef uint8_t[MAPS_SIZE] maps
cdef uint16_t[ORDER_SIZE] orders
cdef uint8_t[8][CODEWORDS_SIZE] masks
cdef uint8_t[4][CODEWORDS_SIZE] owners
cdef int[VERSION_MAX + 2] map_start          # index of a version's first entry, by version
cdef int[VERSION_MAX + 2] codeword_start
cdef Blocks[4][VERSION_MAX + 1] block_table
cdef uint64_t[144] flips                     # by row and column: a byte, 0 or 1, for each mask
cdef uint32_t[32] format_words
cdef uint32_t[VERSION_MAX + 1] version_words


# ---- access -------------------------------------------------------------------------------------

cdef int version_at(int dim) noexcept nogil:
    if dim < 21 or dim > 177 or (dim - 17) % 4 != 0:
        return 0
    return (dim - 17) // 4


cdef int codewords_of(int version) noexcept nogil:
    return codeword_start[version + 1] - codeword_start[version]


cdef const uint8_t* function_map(int version) noexcept nogil:
    return maps + map_start[version]


cdef const uint16_t* module_order(int version) noexcept nogil:
    return orders + 8 * codeword_start[version]


cdef const uint8_t* mask_bytes(int version, int mask) noexcept nogil:
    return masks[mask] + codeword_start[version]


cdef const Blocks* blocks_of(int version, int level) noexcept nogil:
    return &block_table[level][version]


cdef const uint8_t* codeword_blocks(int version, int level) noexcept nogil:
    return owners[level] + codeword_start[version]


cdef uint32_t format_word(int level, int mask) noexcept nogil:
    return format_words[level << 3 | mask]


cdef uint32_t version_word(int version) noexcept nogil:
    return version_words[version]


cdef int alignment_centres(int version, int* out) noexcept nogil:
    """6.3.6, annex E: from the last one (7 from the end) back in equal even steps, then 6."""
    cdef int count, step, i
    if version == 1:
        return 0
    count = version // 7 + 2
    # The step that annex E has: the even number next to the exact one, the exact halves upwards.
    step = (version * 8 + count * 3 + 5) // (count * 4 - 4) * 2
    out[0] = 6
    for i in range(1, count):
        out[i] = 4 * version + 10 - (count - 1 - i) * step
    return count


# ---- building -----------------------------------------------------------------------------------

cdef uint32_t remainder(uint32_t value, int bits, uint32_t generator, int degree) noexcept nogil:
    """Of value * x**degree by the generator, over GF(2); value has `bits` bits."""
    cdef uint32_t rest = value << degree
    cdef int i
    for i in range(bits - 1, -1, -1):
        if rest >> (i + degree) & 1:
            rest ^= generator << i
    return rest


cdef void build_words() noexcept nogil:
    """Annexes C and D: the format words by level and mask, the version words."""
    cdef int level, mask, version
    cdef uint32_t value
    for level in range(4):
        for mask in range(8):
            # Table 12: L 01, M 00, Q 11, H 10.
            value = <uint32_t> ((level ^ 1) << 3 | mask)
            value = value << 10 | remainder(value, 5, FORMAT_GENERATOR, 10)
            format_words[level << 3 | mask] = value ^ FORMAT_MASK
    for version in range(7, VERSION_MAX + 1):
        value = <uint32_t> version
        version_words[version] = value << 12 | remainder(value, 6, VERSION_GENERATOR, 12)


cdef void fill(
    uint8_t* at, int dim, int x, int y, int width, int height, uint8_t kind
) noexcept nogil:
    cdef int row
    for row in range(y, y + height):
        memset(at + row * dim + x, kind, width)


cdef void draw_finder(uint8_t* at, int dim, int x, int y) noexcept nogil:
    """6.3.3: 7 x 7 dark, 5 x 5 light, 3 x 3 dark."""
    fill(at, dim, x, y, 7, 7, DARK)
    fill(at, dim, x + 1, y + 1, 5, 5, LIGHT)
    fill(at, dim, x + 2, y + 2, 3, 3, DARK)


cdef void draw_alignment(uint8_t* at, int dim, int version) noexcept nogil:
    """6.3.6: at every crossing of the centres but where the finders are."""
    cdef int[7] centres
    cdef int count = alignment_centres(version, centres)
    cdef int i, k, x, y, last = count - 1
    for i in range(count):
        for k in range(count):
            if (i == 0 and (k == 0 or k == last)) or (i == last and k == 0):
                continue
            x = centres[k]
            y = centres[i]
            fill(at, dim, x - 2, y - 2, 5, 5, DARK)
            fill(at, dim, x - 1, y - 1, 3, 3, LIGHT)
            at[y * dim + x] = DARK


cdef void draw_functions(uint8_t* at, int dim, int version) noexcept nogil:
    """6.3.3 to 6.3.6, 7.9 and 7.10. Later parts lie over earlier ones."""
    cdef int i
    memset(at, DATA, dim * dim)
    for i in range(dim):
        at[6 * dim + i] = DARK if i % 2 == 0 else LIGHT
        at[i * dim + 6] = DARK if i % 2 == 0 else LIGHT
    draw_alignment(at, dim, version)
    fill(at, dim, 0, 0, 9, 9, WORDS)
    fill(at, dim, dim - 8, 0, 8, 9, WORDS)
    fill(at, dim, 0, dim - 8, 9, 8, WORDS)
    fill(at, dim, 0, 0, 8, 8, LIGHT)
    fill(at, dim, dim - 8, 0, 8, 8, LIGHT)
    fill(at, dim, 0, dim - 8, 8, 8, LIGHT)
    draw_finder(at, dim, 0, 0)
    draw_finder(at, dim, dim - 7, 0)
    draw_finder(at, dim, 0, dim - 7)
    at[8 * dim + 6] = DARK                  # timing goes on between the words and the finder
    at[6 * dim + 8] = DARK
    at[(dim - 8) * dim + 8] = DARK          # the dark module
    if version >= 7:
        fill(at, dim, dim - 11, 0, 3, 6, WORDS)
        fill(at, dim, 0, dim - 11, 6, 3, WORDS)


cdef int lay_bits(const uint8_t* kinds, int dim, uint16_t* order) noexcept nogil:
    """7.7.3: two columns at a time from the right, up and down in turn; how many bits.

    The timing column is passed over. order is NULL to count only.
    """
    cdef int right = dim - 1, upward = 1, count = 0
    cdef int i, at
    while right > 0:
        if right == 6:
            right = 5
        for i in range(2 * dim):
            at = (dim - 1 - i // 2 if upward else i // 2) * dim + right - i % 2
            if kinds[at] == DATA:
                if order is not NULL:
                    order[count] = <uint16_t> at
                count += 1
        upward ^= 1
        right -= 2
    return count


cdef bint is_flipped(int mask, int i, int j) noexcept nogil:
    """Table 10; i is the row, j the column."""
    if mask == 0:
        return (i + j) % 2 == 0
    if mask == 1:
        return i % 2 == 0
    if mask == 2:
        return j % 3 == 0
    if mask == 3:
        return (i + j) % 3 == 0
    if mask == 4:
        return (i // 2 + j // 3) % 2 == 0
    if mask == 5:
        return i * j % 2 + i * j % 3 == 0
    if mask == 6:
        return (i * j % 2 + i * j % 3) % 2 == 0
    return ((i + j) % 2 + i * j % 3) % 2 == 0


cdef void build_flips() noexcept nogil:
    """Masks repeat every 12 rows and columns: their conditions are worked out once."""
    cdef int i, j, mask
    for i in range(12):
        for j in range(12):
            for mask in range(8):
                flips[i * 12 + j] |= <uint64_t> is_flipped(mask, i, j) << (8 * mask)


cdef void build_masks(int version, int dim) noexcept nogil:
    cdef const uint16_t* order = module_order(version)
    cdef int i, k, at, mask
    cdef uint64_t bits                   # a byte for each mask
    for k in range(codewords_of(version)):
        bits = 0
        for i in range(8):
            at = order[8 * k + i]
            bits = bits << 1 | flips[at // dim % 12 * 12 + at % dim % 12]
        for mask in range(8):
            masks[mask][codeword_start[version] + k] = <uint8_t> (bits >> (8 * mask))


cdef int protection(int version, int level) noexcept nogil:
    """p of table 9: check codewords that only detect."""
    if version == 1:
        return max(1, 3 - level)
    if version == 2 and level == LEVEL_L:
        return 2
    return 1 if version == 3 and level == LEVEL_L else 0


cdef void build_blocks(int version, int level) noexcept nogil:
    """7.5.1 and 7.6: sizes of the blocks, and the order in which their codewords are sent."""
    cdef Blocks* found = &block_table[level][version]
    cdef uint8_t* owner = owners[level] + codeword_start[version]
    cdef int total = codewords_of(version)
    cdef int i
    found.count = BLOCKS[level][version - 1]
    found.check = CHECK[level][version - 1]
    found.data = total - found.count * found.check
    found.short_size = found.data // found.count
    found.short_count = found.count - found.data % found.count
    found.limit = (found.check - protection(version, level)) // 2
    for i in range(found.short_size * found.count):
        owner[i] = <uint8_t> (i % found.count)
    for i in range(found.short_size * found.count, found.data):
        owner[i] = <uint8_t> (found.short_count + i - found.short_size * found.count)
    for i in range(found.data, total):
        owner[i] = <uint8_t> ((i - found.data) % found.count)


cdef void build() noexcept nogil:
    cdef int version, dim, level
    build_words()
    build_flips()
    for version in range(1, VERSION_MAX + 1):
        dim = 17 + 4 * version
        map_start[version + 1] = map_start[version] + dim * dim
        draw_functions(maps + map_start[version], dim, version)
        codeword_start[version + 1] = codeword_start[version] + lay_bits(
            maps + map_start[version], dim, NULL
        ) // 8
        lay_bits(maps + map_start[version], dim, orders + 8 * codeword_start[version])
        build_masks(version, dim)
        for level in range(4):
            build_blocks(version, level)


build()


# ---- for tests ----------------------------------------------------------------------------------

cdef int version_of(object version) except 0:
    """A version that certainly is an index of the tables: the C compiler wants to see that too."""
    cdef int found = <int> check_int(version, 1, VERSION_MAX, "version")
    return found if found > 0 else 0


def layout(version) -> dict:
    """Geometry of a version: dim, centres, kinds (a byte a module), order, masks (8 x bytes).

    Raises ValueError when there is no such version.
    """
    cdef int which = version_of(version)
    cdef int dim = 17 + 4 * which
    cdef int count = codewords_of(which)
    cdef int[7] centres
    cdef int centre_count = alignment_centres(which, centres)
    cdef const uint16_t* order = module_order(which)
    cdef int i
    return {
        "dim": dim,
        "centres": [centres[i] for i in range(centre_count)],
        "kinds": PyBytes_FromStringAndSize(<const char*> function_map(which), dim * dim),
        "order": [order[i] for i in range(8 * count)],
        "masks": [
            PyBytes_FromStringAndSize(<const char*> mask_bytes(which, i), count) for i in range(8)
        ],
    }


def blocks(version, level) -> dict:
    """Blocks of a version and level (0-3 for L, M, Q, H): the fields of Blocks, and owners.

    owners: the number of the block of each codeword, a byte each.
    Raises ValueError when there is no such version or level.
    """
    cdef int which = version_of(version)
    cdef int strength = <int> check_int(level, 0, 3, "level") & 3
    cdef const uint8_t* owner = codeword_blocks(which, strength)
    return {
        **blocks_of(which, strength)[0],
        "owners": PyBytes_FromStringAndSize(<const char*> owner, codewords_of(which)),
    }


def words() -> tuple[list[int], list[int]]:
    """The 32 format words by level * 8 + mask, and the version words from version 7 up."""
    cdef int i
    return (
        [format_word(i >> 3, i & 7) for i in range(32)],
        [version_word(i) for i in range(7, VERSION_MAX + 1)],
    )
