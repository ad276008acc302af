"""C face of native.qr.symbol: where everything is in a QR code of each version (ISO/IEC 18004).

All tables are built at import and never change, so any thread reads them without a lock. A version
must be of 1 .. 40, a level of LEVEL_L .. LEVEL_H and a mask of 0 .. 7: callers check.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    DATA = 0                    # kinds of a module in function_map
    LIGHT = 1                   # finders, separators, timing, alignment: always light
    DARK = 2                    # the same and the dark module: always dark
    WORDS = 3                   # format and version words


cdef struct Blocks:             # the Reed-Solomon blocks of one version and level
    int count
    int short_count             # the first blocks; the others have one data codeword more
    int short_size              # data codewords of a short block
    int check                   # check codewords of every block
    int limit                   # codewords of a block that may be wrong: (check - p) / 2, p table 9
    int data                    # data codewords of the symbol; the rest are check codewords


# The version with this many modules a side; 0 where there is none.
cdef int version_at(int dim) noexcept nogil
# Codewords of the symbol, data and check.
cdef int codewords_of(int version) noexcept nogil
# Writes the row and column numbers (the same list) of alignment centres; how many, 0-7.
cdef int alignment_centres(int version, int* out) noexcept nogil
# One byte a module, row by row: DATA, LIGHT, DARK or WORDS.
cdef const uint8_t* function_map(int version) noexcept nogil
# y * dim + x of each bit of the codewords, 8 a codeword, most significant first.
cdef const uint16_t* module_order(int version) noexcept nogil
# What masking XORs to each codeword.
cdef const uint8_t* mask_bytes(int version, int mask) noexcept nogil
cdef const Blocks* blocks_of(int version, int level) noexcept nogil
# Number of the block of each codeword in the order of the symbol. Data codewords come first:
# index >= blocks_of(version, level).data is a check codeword.
cdef const uint8_t* codeword_blocks(int version, int level) noexcept nogil
# 15 bits, the mask pattern for format information included.
cdef uint32_t format_word(int level, int mask) noexcept nogil
# 18 bits; version 7 up.
cdef uint32_t version_word(int version) noexcept nogil
