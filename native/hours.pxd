"""Opening hours of a place, the week of engine.presence.hours."""

from libc.stdint cimport int64_t, uint16_t

from native.checks cimport check_int

cdef enum:
    DAYS = 7                   # of a week, Monday first
    MINUTE = 60_000            # all in ms
    DAY = 86_400_000
    CIVIL_OFFSET = 25_200_000  # of Viet Nam's clock, which has no summer time
    THURSDAY = 3               # 1970-01-01
    NOON = 43_200_000
    NIGHT_LEAST = 25_200_000   # who comes less than 7 hours before noon stays for the next one

cdef struct Week:              # minutes from the day's beginning; closing 0: no closing that day
    uint16_t opening[DAYS]
    uint16_t closing[DAYS]


cdef inline int read_week(Week* found, object week) except -1:
    if len(week) != DAYS:
        raise ValueError("a week has seven days")
    for day, (opening, closing) in enumerate(week):
        found.opening[day] = <uint16_t> check_int(opening, 0, 1440, "opening")
        found.closing[day] = <uint16_t> check_int(closing, 0, 2880, "closing")
    return 0


cdef inline int64_t week_longest(const Week* week) noexcept nogil:
    """The longest of its spans."""
    cdef int64_t found = 0
    cdef int day
    for day in range(DAYS):
        found = max(found, (<int64_t> week.closing[day] - week.opening[day]) * MINUTE)
    return found


cdef inline int64_t next_noon(int64_t time) noexcept nogil:
    """The first noon that is a night away."""
    cdef int64_t least = time + NIGHT_LEAST
    cdef int64_t past = (least + CIVIL_OFFSET - NOON) % DAY
    if past < 0:
        past += DAY
    return least + (DAY - past if past else 0)


cdef inline int64_t week_closing(const Week* week, int64_t time, int64_t never) noexcept nogil:
    """When a place with these hours closes that is open at that instant; `never` where it is not.

    Of two spans that are open the one of the later day counts.
    """
    cdef int64_t into = (time + CIVIL_OFFSET) % DAY
    if into < 0:
        into += DAY
    cdef int64_t begin = time - into
    cdef int64_t weekday = ((begin + CIVIL_OFFSET) // DAY + THURSDAY) % DAYS
    if weekday < 0:
        weekday += DAYS
    cdef int _back
    for _back in range(2):
        if (
            week.opening[weekday] * <int64_t> MINUTE <= into
            and into < week.closing[weekday] * <int64_t> MINUTE
        ):
            return begin + week.closing[weekday] * <int64_t> MINUTE
        begin -= DAY
        into += DAY
        weekday = (weekday + DAYS - 1) % DAYS
    return never
