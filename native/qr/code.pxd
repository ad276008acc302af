"""The flat structs that join the stages behind sampling: a grid of soft modules in, a code out."""

from libc.string cimport memcpy
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t

cdef enum:
    VERSION_MAX = 40
    DIM_MAX = 177               # modules a side of version 40
    MODULES_MAX = 31329         # DIM_MAX squared
    CODEWORDS_MAX = 3706        # of version 40
    BYTES_MAX = 7168            # 7089 digits of version 40-L are the longest content
    SEGMENTS_MAX = 64           # further segments are read, but share the last entry's kind

# Levels by the order of strength, not by their two bits in the format information.
cdef enum:
    LEVEL_L = 0
    LEVEL_M = 1
    LEVEL_Q = 2
    LEVEL_H = 3

# What became of a grid of modules. Everything but QR_READ leaves the code's content undefined.
cdef enum:
    QR_READ = 0
    QR_NO_SIZE = 1              # the side is none of 21, 25 ... 177
    QR_NO_VERSION = 2           # version 7 up: version words too far from the side's version
    QR_NO_FORMAT = 3            # neither format word is near a valid one
    QR_DAMAGED = 4              # a block has more damage than its check codewords can mend
    QR_NONSENSE = 5             # blocks are right, the bit stream in them is not

cdef struct Segment:
    int mode                    # 1 numeric, 2 alphanumeric, 4 byte, 8 kanji, 13 hanzi
    int eci                     # assignment number in force, -1 before any
    int begin                   # first byte in Code.data
    int size                    # bytes

cdef struct Code:
    int version
    int level                   # LEVEL_L ... LEVEL_H
    int mask                    # 0-7
    int mirrored                # rows and columns exchanged
    int corrected               # codewords that were mended, erased ones that were wrong included
    int erased                  # codewords that were declared unreliable, over all blocks
    int fnc1                    # 0 none, 1 first position, 2 second position
    int application             # FNC1 in second position: application indicator, else 0
    int sequence_index          # structured append: 0-15, -1 where there is none
    int sequence_count          # 1-16, 0 where there is none
    int sequence_parity         # 0-255, 0 where there is none
    int segment_count
    int size                    # bytes of content
    Segment segments[SEGMENTS_MAX]
    uint8_t data[BYTES_MAX]


cdef inline void copy_code(Code* target, const Code* source) noexcept nogil:
    """Copies what is in use: the content, which comes last, is mostly a few dozen bytes long."""
    memcpy(target, source, sizeof(Code) - BYTES_MAX + source.size)
