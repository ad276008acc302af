"""C face of native.jpeg.luma: decode without the GIL, look at the pixels where they are."""

from libc.stdint cimport uint8_t

from native.jpeg.entropy cimport Leaps, Run, Table
from native.jpeg.header cimport Head

# What became of a frame.
cdef enum:
    LUMA_DONE = 0
    LUMA_OTHER = 1              # no JPEG, or one this decoder does not do: ask another one
    LUMA_LARGE = 2              # more pixels than allowed
    LUMA_DAMAGED = 3            # another decoder would refuse or warn as well
    LUMA_UNSURE = 4             # odd, but others may see a picture in it: ask another one
    LUMA_MEMORY = 5             # memory is short
    LUMA_HELD = 6               # the plane must grow, and somebody holds a view of it

cdef struct Box:                # pixels [x0, x1) of rows [y0, y1)
    int x0
    int y0
    int x1
    int y1

cdef struct Plane:
    uint8_t* pixels             # owned; NULL before the first frame
    size_t stride               # bytes from a row to the next
    size_t room                 # bytes allocated
    int width
    int height

cdef struct State:
    Head head
    Run run
    Table* tables               # owned: DC 0 and 1, AC 0 and 1
    Leaps* leaps                # owned: of each pair of DC and AC table
    uint8_t* segment            # owned: entropy-coded bytes without stuffing
    size_t segment_room
    Plane whole                 # width and height of the frame
    Plane small                 # a pixel for each block
    Box valid                   # what of `whole` belongs to the frame read last
    size_t views                # of `whole` that Python code holds


cdef class Luma:
    cdef State state
    cdef bint is_busy

    cdef int enter(self) except -1
    cdef int leave(self, int status) except -1

    # Size of a frame, by its header alone: LUMA_DONE, then state.head is filled, or another status.
    cdef int look(self, const uint8_t* data, size_t size) noexcept nogil

    # Pixels of `wanted`, or NULL for all, into state.whole; state.valid says which there are.
    cdef int read(
        self, const uint8_t* data, size_t size, const Box* wanted, size_t pixels_max
    ) noexcept nogil

    # The mean of each block into state.small; state.valid and state.whole stay as they are.
    cdef int read_small(self, const uint8_t* data, size_t size, size_t pixels_max) noexcept nogil
