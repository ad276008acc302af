"""C face of native.jpeg.header: what the segments before a scan say."""

from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    SIDE_MAX = 65500            # what libjpeg takes
    COMPONENTS_MAX = 3
    TABLES_MAX = 2              # Huffman tables of a kind; two are enough for three components
    QUANTS_MAX = 4

# What read_segments came to.
cdef enum:
    SEGMENTS_SCAN = 0           # a scan follows
    SEGMENTS_END = 1            # the picture's end
    SEGMENTS_CUT = 2            # the bytes end first
    SEGMENTS_OTHER = 3          # broken, or nothing this decoder does

cdef struct Codes:              # a Huffman table as DHT gives it
    uint8_t is_known
    uint8_t counts[16]          # codes of 1, 2 ... 16 bits
    uint8_t symbols[256]

cdef struct Component:
    int ident
    int across                  # sampling factors
    int down
    int quant
    int dc                      # numbers of Huffman tables
    int ac

cdef struct Head:
    int width
    int height
    int component_count         # 0 before the frame header
    Component components[COMPONENTS_MAX]
    int across_most
    int down_most
    int interval                # MCUs between restart markers, 0 without
    int jfif_major              # -1 without JFIF header
    int adobe_transform         # -1 without Adobe's segment
    int scan_count              # components of the scan that follows
    int scan[COMPONENTS_MAX]
    uint8_t is_quant_known[QUANTS_MAX]
    uint16_t quants[QUANTS_MAX][64]     # row by row
    Codes dc[TABLES_MAX]
    Codes ac[TABLES_MAX]

cdef void start_head(Head* head) noexcept nogil

# Reads segments from data[at[0]] on, the marker included, to behind a scan's header.
cdef int read_segments(Head* head, const uint8_t* data, size_t size, size_t* at) noexcept nogil
