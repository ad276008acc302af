"""C face of native.jpeg.entropy: tables, the state of a scan, and runs of MCUs."""

from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from native.jpeg.header cimport Codes

cdef enum:
    LOOK_BITS = 11              # codes up to this length are found in one look
    LOOK_SIZE = 2048
    BLOCKS_MAX = 10             # of an MCU, by the standard
    # Bytes behind a segment that may be read: an MCU whose every symbol is as long as can be, of 31
    # bits, has 2480; the position is checked after each MCU.
    SLACK = 4096

cdef enum:
    COEFS_SIZE = 192            # of two blocks, and a place for what has none

# What a run of MCUs came to.
cdef enum:
    RUN_DONE = 0
    RUN_CUT = 1                 # the segment ends before its MCUs
    RUN_ODD = 2                 # no such code, a block of more than 64, a DC out of range

cdef struct Table:
    uint32_t look[LOOK_SIZE]    # one symbol: see entropy.pyx
    uint64_t pair[LOOK_SIZE]    # AC only: one or two symbols, and the block's end behind them
    uint32_t limits[17]         # for codes of n + 1 bits: 16 bits that are less begin such a code
    int32_t offsets[16]         # symbol of a code of n + 1 bits: symbols[offset + code]
    Codes codes                 # what the table was made of

cdef struct Leaps:              # of a component: as many whole symbols as the next bits hold
    uint32_t first[LOOK_SIZE]   # from the DC on
    uint32_t leap[LOOK_SIZE]    # further on in a block
    Codes dc_codes
    Codes ac_codes

cdef struct Bits:
    uint64_t window             # the next bits, from the top
    int count                   # of them valid
    const uint8_t* at           # what is loaded next

cdef struct Block:              # a block of an MCU
    const Table* dc
    const Table* ac
    const Leaps* leaps
    size_t shift                # from the MCU's first pixel to the block's; 0 of chroma
    size_t advance              # behind the MCU's last block: pixels to the next MCU; else 0
    const Block* next           # of the MCU, and from its last to the first
    uint8_t is_luma

cdef struct Run:                # a scan while it is read
    Bits bits
    const uint8_t* stop         # end of the segment
    int dc                      # luma's last
    int block_count             # of an MCU
    int luma_count              # of them; 1, 2 or 4 and first, where luma is read
    int chroma_count            # 0, 2 or 4 then
    Block blocks[BLOCKS_MAX]
    int first                   # MCUs of a row whose pixels are wanted: [first, last)
    int last
    size_t step                 # pixels from an MCU to the next
    size_t stride
    int16_t* coefs              # COEFS_SIZE: two blocks, rows alternating; all zero between blocks
    uint8_t* spare              # eight rows for a block that is not there
    const int16_t* quants       # 128, as in coefs
    void (*transform)(
        int16_t* coefs, int count, const int16_t* quants, uint8_t* left, uint8_t* right,
        size_t stride,
    ) noexcept nogil

cdef void make_table(Table* table, const Codes* codes, bint is_dc) noexcept nogil
cdef void make_leaps(Leaps* leaps, const Table* dc, const Table* ac) noexcept nogil
cdef void start_segment(Run* run, const uint8_t* data, size_t size) noexcept nogil
cdef size_t bytes_left(const Run* run) noexcept nogil

# MCUs [begin, end) of a row; pixels: of the row's first MCU.
cdef int read_run(Run* run, uint8_t* pixels, int begin, int end) noexcept nogil
# The same, one pixel a block.
cdef int read_small(Run* run, uint8_t* pixels, int begin, int end) noexcept nogil
cdef int skip_run(Run* run, int begin, int end) noexcept nogil
