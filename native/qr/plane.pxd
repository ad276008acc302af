"""A plane of luma and how its values are taken: the nearest pixel, or between pixels.

Pixel centres lie at whole coordinates plus a half: pixel (0, 0) covers [0, 1) x [0, 1).
"""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t

cdef struct Plane:
    const uint8_t* data
    ptrdiff_t stride            # bytes from a row to the next, at least width
    int width
    int height


cdef inline int pixel_at(const Plane* plane, int x, int y) noexcept nogil:
    """The pixel in column x of row y; both must lie inside."""
    return plane.data[y * plane.stride + x]


cdef inline bint is_inside(const Plane* plane, float x, float y) noexcept nogil:
    """Whether four pixels around the point (x, y) are inside, so that grey_at may be asked.

    False for NaN.
    """
    return x >= 0.5 and y >= 0.5 and x < plane.width - 0.5 and y < plane.height - 0.5


cdef inline float grey_at(const Plane* plane, float x, float y) noexcept nogil:
    """Luma at a point, bilinear; only for points that is_inside."""
    cdef float px = x - <float>0.5
    cdef float py = y - <float>0.5
    cdef int ix = <int>px
    cdef int iy = <int>py
    cdef float fx = px - ix
    cdef float fy = py - iy
    cdef const uint8_t* at = plane.data + iy * plane.stride + ix
    # The point may lie on the centre of the last row or column: nothing behind it is read.
    cdef int right = ix + 1 < plane.width
    cdef ptrdiff_t below = plane.stride if iy + 1 < plane.height else 0
    cdef float upper = at[0] + fx * (<int>at[right] - <int>at[0])
    cdef float lower = at[below] + fx * (<int>at[below + right] - <int>at[below])
    return upper + fy * (lower - upper)


cdef inline float grey_near(const Plane* plane, float x, float y) noexcept nogil:
    """Luma at a point, which is moved to the edge when it lies outside; NaN becomes the corner."""
    cdef float right = plane.width - <float>0.51
    cdef float bottom = plane.height - <float>0.51
    if not x >= 0.5:
        x = 0.5
    elif x > right:
        x = right
    if not y >= 0.5:
        y = 0.5
    elif y > bottom:
        y = bottom
    return grey_at(plane, x, y)
