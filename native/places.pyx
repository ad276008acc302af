"""Places as the rules for visits see them: default stays, hours and trips, each from when on."""

from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memset

from native.checks cimport check_int
from native.hours cimport Week, read_week, week_longest
from native.scans cimport room_for

cdef enum:
    TRIPS_MAX = 64             # of one day
    NOON_MOST = 111_600_000    # 31 hours in ms: no noon that ends a stay is further away


cdef class PlaceTable:
    """What the rules need to know of places, to be looked up by number and instant. Immutable.

    rules: (number u32, is_post, default stay in ms, 1 or more, until, weeks, from ms); those of one
    place in the order of their beginning, and the first of them holds since ever. until: 0 for the
    default stay, 1 to noon, 2 to the end of a trip. weeks: of a place that closes the week of
    engine.presence.hours, of a vehicle one for each trip of a day. unknown: (is_post, default stay)
    of all others. Raises ValueError.
    """

    def __cinit__(self, rules, unknown):
        cdef list listed = list(rules)
        cdef dict firsts = {}
        cdef list weeks = []
        cdef size_t room = 16, older = 0
        cdef uint32_t at
        cdef PlaceRule rule
        cdef object days, week
        while room < 2 * <size_t> len(listed):
            room *= 2
        for _, _, _, _, days, _ in listed:
            if days not in firsts:
                firsts[days] = len(weeks)
                weeks.extend(days)
        self.places.slots = <PlaceRule*> room_for(room, sizeof(PlaceRule))
        self.places.older = <PlaceRule*> room_for(max(len(listed), 1), sizeof(PlaceRule))
        self.places.weeks = <Week*> room_for(max(len(weeks), 1), sizeof(Week))
        self.places.mask = <uint32_t> (room - 1)
        for position, week in enumerate(weeks):
            read_week(&self.places.weeks[<size_t> position], week)
        memset(&rule, 0, sizeof(PlaceRule))
        rule.stay = rule.most = read_stay(unknown[1])
        rule.is_used = 1
        rule.is_post = 1 if unknown[0] else 0
        self.places.unknown = rule
        self.places.longest = rule.stay
        for number, is_post, stay_ms, until, days, from_ms in listed:
            rule.begin = check_int(from_ms, -NEVER, NEVER, "a rule's beginning")
            rule.number = <uint32_t> check_int(number, 0, UINT32_MAX, "place")
            rule.stay = read_stay(stay_ms)
            rule.is_post = 1 if is_post else 0
            rule.until = <uint8_t> check_int(until, SPAN, TRIP, "until")
            rule.week = firsts[days]
            rule.week_count = <uint8_t> check_int(len(days), 0, TRIPS_MAX, "trips")
            rule.most = most_of(&self.places, &rule)
            rule.older = 0
            self.places.longest = max(self.places.longest, rule.most)
            at = slot_of(rule.number, self.places.mask)
            while self.places.slots[at].is_used and self.places.slots[at].number != rule.number:
                at = (at + 1) & self.places.mask
            if self.places.slots[at].is_used:
                self.places.older[older] = self.places.slots[at]
                older += 1
                rule.older = <uint32_t> older
            self.places.slots[at] = rule

    def __dealloc__(self):
        free(self.places.slots)
        free(self.places.older)
        free(self.places.weeks)

    def __reduce__(self):
        raise TypeError("a PlaceTable cannot be pickled")


cdef int64_t read_stay(object stay_ms) except -1:
    return check_int(min(stay_ms, NEVER), 1, NEVER, "default stay")


cdef int64_t most_of(const Places* places, const PlaceRule* rule) noexcept nogil:
    """The longest that a check-in lasts by itself under a rule."""
    cdef int64_t most = rule.stay
    cdef size_t i
    if rule.until == NOON:
        return max(most, <int64_t> NOON_MOST)
    if rule.until == TRIP:
        for i in range(rule.week_count):
            most = max(most, week_longest(&places.weeks[rule.week + i]))
    return most
