"""One lane: what was seen in its last frames, and where."""

from libc.stdint cimport uint8_t

from native.qr.code cimport CODEWORDS_MAX, MODULES_MAX, Code
from native.qr.finder cimport Finder
from native.qr.locate cimport Place
from native.qr.evidence cimport Evidence, Found
from native.qr.reader cimport Effort, Workspace

cdef enum:
    TRACKS_MAX = 4
    CODES_MAX = 64              # of one frame

cdef struct Track:              # a code that was read in the frame before
    Found found
    Finder corners[3]           # as the triple that was read: corner, right, below
    Place place
    float dx                    # pixels it moved from the frame before to the last one
    float dy
    uint8_t sent[CODEWORDS_MAX]  # its codewords, still masked

# Evidence of frames in which a symbol was placed and not read.
cdef struct Fusion:
    int dim                     # 0: none
    int sign
    int frames
    int still                   # frames in which it did not move
    int age                     # frames since the last evidence
    float x                     # its middle, and half its side, pixels
    float y
    float reach
    float sums[MODULES_MAX]     # of soft modules, older frames weigh less

# What every SPARSE_STEP-th row looked like when the whole frame was read last.
cdef struct Calm:
    int cells                   # blocks of 16 pixels in all its rows
    int room                    # bytes from lows on
    int cut                     # least change that is none of noise
    uint8_t* lows
    uint8_t* highs
    uint8_t* row                # lows and highs of one row

cdef struct LaneState:
    Workspace* ws
    Effort effort
    Evidence evidence
    int width
    int height
    int since_whole             # frames since the whole frame was looked at
    int since_given             # frames since a whole one was given, and not a part
    int is_evident              # the last look at the whole frame left something unread
    int rest                    # frames for which the place of the evidence is left alone
    int since_quarter           # frames since its quarter was
    int has_region              # a symbol was placed and not read: region says where
    int track_count
    int found_count
    float region[4]             # left, top, right, bottom
    Track tracks[TRACKS_MAX]
    Fusion fusion
    Calm calm
    Found found[CODES_MAX]
