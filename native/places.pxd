"""C face of native.places: what the rules for visits need to know of a place at an instant."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from native.hours cimport Week, week_closing

cdef extern from *:
    """
    #define CHOT_OPEN ((int64_t) 1 << 62)
    #define CHOT_SPREAD UINT64_C(0x9E3779B97F4A7C15)
    """
    const int64_t NEVER "CHOT_OPEN"
    const uint64_t SPREAD "CHOT_SPREAD"

cdef enum:                     # until when somebody stays who does not check out
    SPAN = 0                   # for the default stay, or until the closing
    NOON = 1
    TRIP = 2                   # the end of what runs then, else as for a span


cdef struct PlaceRule:
    int64_t begin              # holds from then on
    int64_t stay
    int64_t most               # no check-in lasts longer by itself
    uint32_t number
    uint32_t older             # what held before: one more than its position, 0 for none
    uint32_t week              # position of the first of its weeks
    uint8_t week_count         # more than one only for trips
    uint8_t is_used
    uint8_t is_post
    uint8_t until


cdef struct Places:            # open addressing, half full at most
    PlaceRule* slots           # the newest of each place
    PlaceRule* older
    Week* weeks
    uint32_t mask
    PlaceRule unknown
    int64_t longest            # that a check-in at any place lasts by itself


cdef inline uint32_t slot_of(uint32_t number, uint32_t mask) noexcept nogil:
    return <uint32_t> (number * SPREAD >> 32) & mask


cdef inline const PlaceRule* find_rule(const Places* places, uint32_t number) noexcept nogil:
    cdef uint32_t at = slot_of(number, places.mask)
    while places.slots[at].is_used:
        if places.slots[at].number == number:
            return &places.slots[at]
        at = (at + 1) & places.mask
    return &places.unknown


cdef inline const PlaceRule* rule_at(
    const Places* places, const PlaceRule* rule, int64_t time
) noexcept nogil:
    """What held at that instant; the first of a place's rules holds since ever."""
    while time < rule.begin and rule.older:
        rule = &places.older[rule.older - 1]
    return rule


cdef inline int64_t closing_after(
    const Places* places, const PlaceRule* rule, int64_t time
) noexcept nogil:
    """When it closes, or the trip ends that runs then, of two the later one; NEVER for neither."""
    cdef int64_t found = NEVER, closing
    cdef size_t i
    for i in range(rule.week_count):
        closing = week_closing(&places.weeks[rule.week + i], time, NEVER)
        if closing != NEVER and (found == NEVER or closing > found):
            found = closing
    return found


cdef class PlaceTable:
    cdef Places places
