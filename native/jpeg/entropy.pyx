"""Huffman-coded blocks: read those whose pixels are wanted, leap over the others.

Tables are indexed by the next LOOK_BITS bits. An entry, from the low end, 8 bits each where nothing
else is said:
`look`, one symbol: how far the window moves (code and value); length of the code; zeros before
the value, or one of the STEP_ numbers; 63 minus the size of the value.
`pair`, AC: how far the window moves; length of the first code; coefficients passed, plus PAIR_END
when the block's end is behind them, or PAIR_RARE; 63 minus the size of the first value; place of
the first value, and of the second; 16 bits, the second value. Where there is one symbol only, the
second value is the 0 that is there already. The first value may reach beyond the index.
`leap`, AC, and `first`, DC and AC, as many whole symbols as the bits hold: how far the window
moves; coefficients passed, plus LEAP_END; of `first` 16 bits, the DC's value. No coefficient
passed: the first code is long, or the DC's value reaches beyond the index.

Segments come without byte stuffing and with SLACK bytes behind them, so that a refill is one load
and nothing within an MCU looks for the end. What is read beyond the end is never believed: after
each MCU the position is compared with the end.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcmp, memset

cdef extern from "machine.h":
    uint64_t load_be64(const uint8_t* at) noexcept nogil

cdef extern from "jpeg_tables.h":
    const uint8_t jpeg_order_of_pair[128]

cdef extern from *:
    """
    #define IS_RARE(x) __builtin_expect(!!(x), 0)
    #define PREFETCH_TO_WRITE(at) __builtin_prefetch((at), 1)
    static inline int jpeg_clamp(int x) { return x < 0 ? 0 : x > 255 ? 255 : x; }
    """
    bint IS_RARE(bint x) noexcept nogil
    void PREFETCH_TO_WRITE(const void* at) noexcept nogil
    int jpeg_clamp(int x) noexcept nogil

cdef enum:
    STEP_END = 64               # end of block
    STEP_LONG = 65              # the code is longer than LOOK_BITS
    STEP_ZEROS = 66             # 16 zeros; sizes are never 0 otherwise, except of DC
    LEAP_END = 128
    PAIR_END = 64
    PAIR_RARE = 192             # a long code: to be read alone
    CODE_MAX = 16               # bits


# ---- tables -----------------------------------------------------------------------------------


cdef uint32_t entry_of(int length, int symbol, bint is_dc) noexcept nogil:
    cdef int size = symbol & 15, zeros = symbol >> 4
    if not is_dc and size == 0:
        zeros = STEP_ZEROS if zeros == 15 else STEP_END
    return <uint32_t> (length + size | length << 8 | zeros << 16 | (63 - size) << 24)


cdef inline int value_in(int index, int used, int size) noexcept nogil:
    """The value of `size` bits that ends after `used` bits of an index."""
    cdef int value = index >> (LOOK_BITS - used) & ((1 << size) - 1)
    if size > 0 and value >> (size - 1) == 0:
        value -= (1 << size) - 1
    return value


cdef uint32_t leap_from(const Table* table, int index, int used, int passed) noexcept nogil:
    """Chain entries of `look` as long as the whole code is among the bits of the index."""
    cdef uint32_t entry
    cdef int step
    while used < LOOK_BITS:
        entry = table.look[index << used & (LOOK_SIZE - 1)]
        step = entry >> 16 & 0xFF
        if step == STEP_LONG or <int> (entry >> 8 & 0xFF) > LOOK_BITS - used:
            break
        if step == STEP_END:
            used += entry & 0xFF
            passed += LEAP_END
            break
        step = 16 if step == STEP_ZEROS else step + 1
        if passed + step > 63:
            break
        used += entry & 0xFF
        passed += step
    return <uint32_t> (used | passed << 8)


cdef void make_leaps(Leaps* leaps, const Table* dc, const Table* ac) noexcept nogil:
    """Fill the table of a component, unless it was made of the same codes."""
    cdef uint32_t entry
    cdef int index, used, size, value
    if (
        leaps.dc_codes.is_known
        and memcmp(&leaps.dc_codes, &dc.codes, sizeof(Codes)) == 0
        and memcmp(&leaps.ac_codes, &ac.codes, sizeof(Codes)) == 0
    ):
        return
    leaps.dc_codes = dc.codes
    leaps.ac_codes = ac.codes
    for index in range(LOOK_SIZE):
        leaps.leap[index] = leap_from(ac, index, 0, 0)
        entry = dc.look[index]
        used = entry & 0xFF
        leaps.first[index] = 0
        if entry >> 16 & 0xFF == STEP_LONG or used > LOOK_BITS:
            continue
        size = 63 - <int> (entry >> 24)
        value = value_in(index, used, size)
        leaps.first[index] = leap_from(ac, index, used, 1) | <uint32_t> <uint16_t> value << 16


cdef inline bint ends_here(const Table* table, int index, int used) noexcept nogil:
    """Whether the next code, all of it in the index, is the block's end."""
    cdef uint32_t entry
    if used >= LOOK_BITS:
        return False
    entry = table.look[index << used & (LOOK_SIZE - 1)]
    return (
        entry >> 16 & 0xFF == STEP_END and <int> (entry >> 8 & 0xFF) <= LOOK_BITS - used
    )


cdef uint64_t pair_of(const Table* table, int index) noexcept nogil:
    cdef uint32_t entry = table.look[index], after
    cdef int step = entry >> 16 & 0xFF, used = entry & 0xFF
    cdef int run, second, passed, value = 0
    if step == STEP_LONG:
        return PAIR_RARE << 16 | <uint64_t> 63 << 24
    run = second = passed = 0
    if step != STEP_END:
        run = 15 if step == STEP_ZEROS else step
        second = passed = run + 1
        if used < LOOK_BITS:
            after = table.look[index << used & (LOOK_SIZE - 1)]
            step = after >> 16 & 0xFF
            if step < STEP_END and <int> (after & 0xFF) <= LOOK_BITS - used:
                second = passed + step
                passed = second + 1
                used += after & 0xFF
                value = value_in(index, used, 63 - <int> (after >> 24))
        if ends_here(table, index, used):
            used += table.look[index << used & (LOOK_SIZE - 1)] & 0xFF
            passed += PAIR_END
    else:
        passed = PAIR_END
    return (
        <uint64_t> used
        | <uint64_t> (entry >> 8 & 0xFF) << 8
        | <uint64_t> passed << 16
        | <uint64_t> (entry >> 24) << 24
        | <uint64_t> run << 32
        | <uint64_t> second << 40
        | <uint64_t> <uint16_t> value << 48
    )


cdef void make_table(Table* table, const Codes* codes, bint is_dc) noexcept nogil:
    """Fill a table, unless it was made of the same codes: cameras send them with each frame."""
    cdef int length, _i, index, place = 0
    cdef uint32_t code = 0, entry
    if table.codes.is_known and memcmp(&table.codes, codes, sizeof(Codes)) == 0:
        return
    table.codes = codes[0]
    for index in range(LOOK_SIZE):
        table.look[index] = STEP_LONG << 16
    for length in range(1, 17):
        table.offsets[length - 1] = place - <int32_t> code
        for _i in range(codes.counts[length - 1]):
            if length <= LOOK_BITS:
                entry = entry_of(length, codes.symbols[place], is_dc)
                for index in range(1 << (LOOK_BITS - length)):
                    table.look[(code << (LOOK_BITS - length)) + index] = entry
            code += 1
            place += 1
        table.limits[length - 1] = code << (16 - length)
        code <<= 1
    table.limits[16] = 0x10000
    if not is_dc:
        for index in range(LOOK_SIZE):
            table.pair[index] = pair_of(table, index)


# ---- bits -------------------------------------------------------------------------------------


cdef inline void refill(Bits* bits) noexcept nogil:
    """At least 56 valid bits; more than those may be in the window, and come again."""
    bits.window |= load_be64(bits.at) >> bits.count
    bits.at += (63 - bits.count) >> 3
    bits.count |= 56


cdef inline void drop(Bits* bits, uint32_t count) noexcept nogil:
    bits.window <<= count & 63
    bits.count -= count & 63


cdef inline int value_of(const Bits* bits, uint32_t entry) noexcept nogil:
    """The value behind the code at the window's top (F.2.2.1); 0 for size 0."""
    cdef uint64_t rest = bits.window << (entry >> 8 & 31)
    cdef uint64_t minus = <uint64_t> (<int64_t> rest >> 63) ^ <uint64_t> -1
    cdef uint64_t size = <uint64_t> ((rest ^ minus) >> 1 >> (entry >> 24))
    return <int> ((size ^ minus) - minus)


cdef uint32_t long_entry(const Bits* bits, const Table* table, bint is_dc) noexcept nogil:
    """Entry of a code of more than LOOK_BITS bits; STEP_LONG where there is no such code."""
    cdef uint32_t head = <uint32_t> (bits.window >> 48)
    cdef int length = LOOK_BITS + 1
    while head >= table.limits[length - 1]:
        length += 1
    if length > 16:
        return STEP_LONG << 16
    head = table.offsets[length - 1] + (head >> (16 - length))
    return entry_of(length, table.codes.symbols[head & 0xFF], is_dc)


# ---- blocks -----------------------------------------------------------------------------------
# Each of these gives False, or -1, for what RUN_ODD stands for, and has moved past all bits that
# told so: if that is past the segment's end, the end came too early, and nothing else is known.


cdef inline bint read_dc(Bits* bits, const Table* table, int* dc) noexcept nogil:
    cdef uint32_t entry
    refill(bits)
    entry = table.look[bits.window >> (64 - LOOK_BITS)]
    if IS_RARE(entry >> 16 == STEP_LONG):
        entry = long_entry(bits, table, True)
        if entry >> 16 == STEP_LONG:
            drop(bits, CODE_MAX)
            return False
    dc[0] += value_of(bits, entry)
    drop(bits, entry)
    # libjpeg keeps it in 16 bits.
    return -0x8000 <= dc[0] <= 0x7FFF


cdef int pass_rare(Bits* bits, const Table* table, int k) noexcept nogil:
    """Pass one symbol of any kind: the next k, 64 at the block's end, -1 for what is odd."""
    cdef uint32_t entry
    cdef int step
    refill(bits)
    entry = table.look[bits.window >> (64 - LOOK_BITS)]
    if entry >> 16 & 0xFF == STEP_LONG:
        entry = long_entry(bits, table, False)
    step = entry >> 16 & 0xFF
    if step == STEP_LONG:
        drop(bits, CODE_MAX)
        return -1
    drop(bits, entry)
    if step == STEP_END:
        return 64
    if step == STEP_ZEROS:
        return k + 16 if k < 48 else -1
    return k + step + 1 if k + step < 64 else -1


cdef int read_rare(Bits* bits, const Table* table, int16_t* coefs, int k) noexcept nogil:
    """The same, and store the coefficient."""
    cdef Bits before
    cdef uint32_t entry
    cdef int after
    refill(bits)
    before = bits[0]
    after = pass_rare(bits, table, k)
    if after > k:
        entry = table.look[before.window >> (64 - LOOK_BITS)]
        if entry >> 16 & 0xFF == STEP_LONG:
            entry = long_entry(&before, table, False)
        if entry >> 16 & 0xFF < STEP_END:
            coefs[jpeg_order_of_pair[after - 1]] = <int16_t> value_of(&before, entry)
    return after


cdef inline int put_pair(Bits* bits, uint64_t entry, int16_t* coefs, int k) noexcept nogil:
    """Store the values of a `pair` for coefficient k on; the next k if all is well."""
    cdef int16_t value = <int16_t> value_of(bits, <uint32_t> entry)
    # What does not fit the block goes to a place beside it, before the entry is found out.
    coefs[jpeg_order_of_pair[k + (entry >> 32 & 0xFF)]] = value
    coefs[jpeg_order_of_pair[k + (entry >> 40 & 0xFF)]] = <int16_t> (entry >> 48)
    return k + <int> (entry >> 16 & 0xFF)


cdef inline int read_ac(Bits* bits_kept, const Table* table, int16_t* coefs) noexcept nogil:
    """Coefficients 1 to 63; how many before the block's end, -1 for what is odd."""
    cdef Bits bits = bits_kept[0]
    cdef uint64_t entry
    cdef int k = 1, after
    while True:
        # Two entries of at most 26 bits: 11 of a code and 15 of its value.
        refill(&bits)
        entry = table.pair[bits.window >> (64 - LOOK_BITS)]
        after = put_pair(&bits, entry, coefs, k)
        if after < 64:
            drop(&bits, <uint32_t> entry)
            k = after
            entry = table.pair[bits.window >> (64 - LOOK_BITS)]
            after = put_pair(&bits, entry, coefs, k)
            if after < 64:
                drop(&bits, <uint32_t> entry)
                k = after
                continue
        if entry >> 16 & PAIR_RARE == PAIR_END and after < 128:
            drop(&bits, <uint32_t> entry)
            k = after - 64
            break
        k = read_rare(&bits, table, coefs, k)
        if k < 0 or k >= 64:
            break
    bits_kept[0] = bits
    return k


cdef inline bint skip_block(Bits* bits_kept, const Block* block, int* dc) noexcept nogil:
    """Pass a block, keep count of its DC only."""
    cdef Bits bits = bits_kept[0]
    cdef const Leaps* leaps = block.leaps
    cdef uint32_t entry
    cdef int k, after
    refill(&bits)
    entry = leaps.first[bits.window >> (64 - LOOK_BITS)]
    if entry >> 8 & 0xFF > 0:
        dc[0] += <int16_t> (entry >> 16)
        drop(&bits, entry)
        k = entry >> 8 & 0xFF
        if k >= LEAP_END:
            bits_kept[0] = bits
            return -0x8000 <= dc[0] <= 0x7FFF
    else:
        if IS_RARE(not read_dc(&bits, block.dc, dc)):
            bits_kept[0] = bits
            return False
        k = 1
    while True:
        refill(&bits)
        entry = leaps.leap[bits.window >> (64 - LOOK_BITS)]
        after = k + <int> (entry >> 8)
        if after < 64 and entry != 0:
            drop(&bits, entry)
            k = after
            continue
        if entry >= LEAP_END << 8 and after - LEAP_END < 64:
            drop(&bits, entry)
            break
        # Near the last coefficient, where the next symbol may be another block's, or a long code.
        k = pass_rare(&bits, block.ac, k)
        if k < 0 or k >= 64:
            break
    bits_kept[0] = bits
    return k >= 0 and -0x8000 <= dc[0] <= 0x7FFF


# ---- runs of MCUs -----------------------------------------------------------------------------


cdef void start_segment(Run* run, const uint8_t* data, size_t size) noexcept nogil:
    run.bits = Bits(0, 0, data)
    run.stop = data + size
    run.dc = 0


cdef size_t bytes_left(const Run* run) noexcept nogil:
    """Whole bytes of the segment that were not needed."""
    return <size_t> (run.stop - run.bits.at) + (run.bits.count >> 3)


cdef inline bint is_past(const Bits* bits, const uint8_t* stop) noexcept nogil:
    return bits.at - (bits.count >> 3) > stop


cdef inline int small_of(int dc, int quant) noexcept nogil:
    """The mean of a block, with the overflows of the whole transform in 16 bits."""
    cdef int16_t mean = <int16_t> (dc * quant)
    mean = <int16_t> (mean * 4)
    return jpeg_clamp(((mean + 16) >> 5) + 128)


cdef inline void fill(uint8_t* to, size_t stride, int grey) noexcept nogil:
    cdef int _row
    for _row in range(8):
        memset(to, grey, 8)
        to += stride


cdef inline int read_luma(
    Run* run, Bits* bits, const Block* block, int* dc, int at
) noexcept nogil:
    """Coefficients of a block to run.coefs + at; how many with the DC, -1 for what is odd."""
    if IS_RARE(not read_dc(bits, block.dc, dc)):
        return -1
    run.coefs[at] = <int16_t> dc[0]
    return read_ac(bits, block.ac, run.coefs + at)


cdef inline void finish_pair(
    Run* run, uint8_t* left, uint8_t* right, int of_left, int of_right
) noexcept nogil:
    """Pixels of two blocks with so many coefficients."""
    cdef int16_t* coefs = run.coefs
    # Eight or sixteen rows far apart are written side by side, too many for the machine to foresee:
    # with each pair two of the eight lines that come after the next one.
    cdef uint8_t* ahead = left + 128 + (<size_t> left >> 3 & 6) * run.stride
    PREFETCH_TO_WRITE(ahead)
    PREFETCH_TO_WRITE(ahead + run.stride)
    if of_left <= 1 and of_right <= 1:
        fill(left, run.stride, small_of(coefs[0], run.quants[0]))
        fill(right, run.stride, small_of(coefs[8], run.quants[0]))
        coefs[0] = coefs[8] = 0
    else:
        run.transform(coefs, max(of_left, of_right), run.quants, left, right, run.stride)


cdef inline bint skip_two(Bits* bits, const Block* blocks) noexcept nogil:
    """Pass two blocks of chroma, mostly so short that one look each is enough."""
    cdef uint32_t entry, entry_after
    cdef int ignored = 0
    refill(bits)
    entry = blocks[0].leaps.first[bits.window >> (64 - LOOK_BITS)]
    entry_after = blocks[1].leaps.first[bits.window << (entry & 63) >> (64 - LOOK_BITS)]
    if entry & entry_after & LEAP_END << 8:
        # 26 bits each at most, with the value of a coefficient that reaches beyond the index.
        drop(bits, (entry & 63) + (entry_after & 63))
        return True
    if not skip_block(bits, &blocks[0], &ignored):
        return False
    ignored = 0
    return skip_block(bits, &blocks[1], &ignored)


cdef inline bint skip_chroma(Run* run, Bits* bits) noexcept nogil:
    cdef const Block* blocks = &run.blocks[run.luma_count]
    if run.chroma_count == 0:
        return True
    if run.chroma_count == 2:
        return skip_two(bits, blocks)
    return skip_two(bits, blocks) and skip_two(bits, blocks + 2)


cdef int end_run(Run* run, const Bits* bits, int dc, bint is_good) noexcept nogil:
    if is_good and not is_past(bits, run.stop):
        run.bits = bits[0]
        run.dc = dc
        return RUN_DONE
    memset(run.coefs, 0, COEFS_SIZE * sizeof(int16_t))
    return RUN_CUT if is_past(bits, run.stop) else RUN_ODD


# In the loops below nothing that differs from block to block decides what comes next, but what is
# in the blocks themselves: branches that hang on the place in an MCU would be guessed wrong, since
# those that hang on the data drown what the machine remembers of them.


cdef int read_singles(Run* run, uint8_t* pixels, int begin, int end) noexcept nogil:
    """MCUs of one block of luma, two at a time."""
    cdef Bits bits = run.bits
    cdef const Block* block = &run.blocks[0]
    cdef int mcu = begin, dc = run.dc, of_left, of_right
    cdef bint is_good = True
    pixels += begin * run.step
    while mcu < end:
        of_left = read_luma(run, &bits, block, &dc, 0)
        is_good = of_left >= 0 and skip_chroma(run, &bits)
        if IS_RARE(not is_good or is_past(&bits, run.stop)):
            break
        if mcu + 1 == end:
            run.transform(run.coefs, of_left, run.quants, pixels, run.spare, run.stride)
            break
        of_right = read_luma(run, &bits, block, &dc, 8)
        is_good = of_right >= 0 and skip_chroma(run, &bits)
        if IS_RARE(not is_good or is_past(&bits, run.stop)):
            break
        finish_pair(run, pixels, pixels + run.step, of_left, of_right)
        pixels += 2 * run.step
        mcu += 2
    return end_run(run, &bits, dc, is_good)


cdef int read_pairs(Run* run, uint8_t* pixels, int begin, int end) noexcept nogil:
    """MCUs of two or four blocks of luma."""
    cdef Bits bits = run.bits
    cdef const Block* blocks = &run.blocks[0]
    cdef int _mcu, dc = run.dc, of_left, of_right
    cdef bint has_four = run.luma_count == 4, is_good = True
    pixels += begin * run.step
    for _mcu in range(begin, end):
        is_good = False
        of_left = read_luma(run, &bits, &blocks[0], &dc, 0)
        if IS_RARE(of_left < 0):
            break
        of_right = read_luma(run, &bits, &blocks[1], &dc, 8)
        if IS_RARE(of_right < 0):
            break
        finish_pair(run, pixels, pixels + blocks[1].shift, of_left, of_right)
        if has_four:
            of_left = read_luma(run, &bits, &blocks[2], &dc, 0)
            if IS_RARE(of_left < 0):
                break
            of_right = read_luma(run, &bits, &blocks[3], &dc, 8)
            if IS_RARE(of_right < 0):
                break
            finish_pair(
                run, pixels + blocks[2].shift, pixels + blocks[3].shift, of_left, of_right
            )
        is_good = skip_chroma(run, &bits)
        if IS_RARE(not is_good or is_past(&bits, run.stop)):
            break
        pixels += run.step
    return end_run(run, &bits, dc, is_good)


cdef int skip_run(Run* run, int begin, int end) noexcept nogil:
    cdef Bits bits = run.bits
    cdef const Block* block = &run.blocks[0]
    cdef int dcs[2]
    cdef int _i
    cdef bint is_good = True
    dcs[1] = run.dc
    for _i in range((end - begin) * run.block_count):
        dcs[0] = 0
        is_good = skip_block(&bits, block, &dcs[block.is_luma])
        if IS_RARE(not is_good or is_past(&bits, run.stop)):
            break
        block = block.next
    return end_run(run, &bits, dcs[1], is_good)


cdef int read_small(Run* run, uint8_t* pixels, int begin, int end) noexcept nogil:
    cdef Bits bits = run.bits
    cdef const Block* block = &run.blocks[0]
    cdef uint8_t* places[2]
    cdef int dcs[2]
    cdef int _i
    cdef bint is_good = True
    dcs[1] = run.dc
    places[0] = run.spare
    places[1] = pixels + begin * run.step
    for _i in range((end - begin) * run.block_count):
        dcs[0] = 0
        is_good = skip_block(&bits, block, &dcs[block.is_luma])
        if IS_RARE(not is_good or is_past(&bits, run.stop)):
            break
        places[block.is_luma][block.shift] = (
            <uint8_t> small_of(dcs[block.is_luma], run.quants[0])
        )
        places[1] += block.advance
        block = block.next
    return end_run(run, &bits, dcs[1], is_good)


cdef int read_run(Run* run, uint8_t* pixels, int begin, int end) noexcept nogil:
    cdef int first = max(begin, min(end, run.first)), last = max(first, min(end, run.last))
    cdef int status = RUN_DONE
    if begin < first:
        status = skip_run(run, begin, first)
    if first < last and status == RUN_DONE:
        if run.luma_count == 1:
            status = read_singles(run, pixels, first, last)
        else:
            status = read_pairs(run, pixels, first, last)
    if last < end and status == RUN_DONE:
        status = skip_run(run, last, end)
    return status
