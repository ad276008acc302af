"""Who can have been infected by a chain of few meetings: rules T of engine.tracing.tiers over the
visits.

A round finds who met those that an earlier round found, and when at the earliest. It goes by place.
What the infectious cover of a place's time is joined first, so that a round reads each visit there
once, however many of them met: its work grows with the visits and not with the pairs of them.

The infectious are looked up one by one while they are few (their visits lie scattered). When that
costs more, the tables are read once from end to end, with a date a person beside them.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from native.checks cimport check_int
from native.columns cimport Place, longest_of
from native.index cimport (
    TIME_MAX, Span, Table, complete, find_later, find_near, find_place, is_alive, may_overlap,
    vehicle_at, whole,
)
from native.passes cimport Pass, set_out, span_on
from native.scans cimport Seat, room_for, sort_seats
from native.trails cimport (
    PERSONS_MAX, STEPS_AHEAD, TABLES_MAX, Scope, Step, Trail, fetch_rest, follow, leave,
    read_scope,
)
from native.visits cimport Visit

cdef extern from "machine.h":
    uint32_t load_u32(const uint8_t* at) noexcept nogil

cdef extern from "stdlib.h":
    void qsort(
        void* items, size_t count, size_t size,
        int (*compare)(const void* a, const void* b) noexcept nogil,
    ) noexcept nogil

cdef enum:
    DEPTH_MAX = 8
    ROW_NS = 4                 # to read a row where it lies in memory, and in a file
    SEALED_ROW_NS = 10
    LOOK_UP_NS = 300           # to look a person up in a table, and for each visit found
    PASSAGE = 1                # engine.presence.visits.VisitFlag
    BROKEN = 0                 # of a round: no memory, no room, done
    FULL = 1
    DONE = 2
    AUTO = 0                   # how the infectious are found
    SEARCH = 1
    SWEEP = 2


cdef struct Presence:          # of somebody infectious, or what several cover together
    int64_t start
    int64_t end
    uint32_t place
    uint32_t vehicle


cdef struct Exposure:          # time of a person among the infectious
    int64_t start
    int64_t end
    uint32_t person


cdef struct Hit:               # a person can have been infected at `date`
    int64_t date
    uint32_t person


cdef struct Tiered:            # 24 bytes, engine.tracing.tiers.TIERED
    int64_t infected
    int64_t earliest
    uint32_t person
    uint8_t tier
    uint8_t spare[3]


cdef struct List:              # of items of one size, owned
    void* items
    size_t count
    size_t room


cdef struct Question:
    Scope scope                # of the infectious
    int64_t linger
    int64_t least
    int64_t window
    int64_t latent
    size_t key_count
    const uint8_t* places      # u32, ascending: those that may be looked at
    size_t place_count
    bint is_bounded            # by places
    size_t exposures_max
    uint64_t* dates            # by person: INT64_MAX less the date, 0 while not infected
    uint64_t* dated            # a bit a person; most have none, and the bits stay in the cache
    List stays                 # Presence
    List rides                 # Presence of those in a vehicle, at venues and posts
    List exposures             # Exposure
    List hits                  # Hit
    List known                 # Tiered, in order of tiers
    double look_up_ns          # one person
    double sweep_ns            # all rows
    uint32_t low               # persons [low, high) are looked at in this pass
    uint32_t high


cdef bint push(List* items, size_t size) noexcept nogil:
    """Makes room for one more item and counts it; False if memory is short."""
    cdef size_t room
    cdef void* grown
    if items.count == items.room:
        room = 2 * items.room + 256
        grown = realloc(items.items, room * size)
        if grown is NULL:
            return False
        items.items = grown
        items.room = room
    items.count += 1
    return True


cdef inline int sign(int64_t a, int64_t b) noexcept nogil:
    return (a > b) - (a < b)


cdef inline bint is_dated(const Question* question, uint32_t person) noexcept nogil:
    return question.dated[person >> 6] >> (person & 63) & 1


cdef inline void set_date(Question* question, uint32_t person, int64_t date) noexcept nogil:
    question.dates[person] = <uint64_t> INT64_MAX - <uint64_t> date
    question.dated[person >> 6] |= <uint64_t> 1 << (person & 63)


cdef inline int64_t date_of(const Question* question, uint32_t person) noexcept nogil:
    """INT64_MAX for whom nobody infected."""
    if not is_dated(question, person):
        return INT64_MAX
    return <int64_t> (<uint64_t> INT64_MAX - question.dates[person])


cdef inline int64_t onset_of(const Question* question, uint32_t person) noexcept nogil:
    """T1: from when on a person is infectious; the case ever was."""
    cdef int64_t date = date_of(question, person)
    if date == -TIME_MAX:
        return date
    return INT64_MAX if date > TIME_MAX else date + question.latent


cdef bint is_allowed(const Question* question, uint32_t place) noexcept nogil:
    cdef size_t low = 0, high = question.place_count, middle
    if not question.is_bounded:
        return True
    while low < high:
        middle = (low + high) // 2
        if load_u32(question.places + 4 * middle) < place:
            low = middle + 1
        else:
            high = middle
    return low < question.place_count and load_u32(question.places + 4 * low) == place


# ---- the infectious (T1, T2) --------------------------------------------------------------------

cdef bint note_presence(
    Question* question, const Table* table, size_t at, uint32_t place, const Span* span,
    int64_t onset, size_t joined,
) noexcept nogil:
    """Takes in a visit of somebody infectious; False if memory is short.

    A stay that follows one which it touches is joined with it, from stay `joined` on.
    """
    cdef Visit visit = complete(table, at, place, span)
    cdef int64_t start = max(visit.start, onset), end = visit.end
    cdef Presence* last
    if start >= end:
        return True
    if visit.vehicle:
        if not push(&question.rides, sizeof(Presence)):
            return False
        (<Presence*> question.rides.items)[question.rides.count - 1] = Presence(
            start, end, place, visit.vehicle
        )
    if visit.flags & PASSAGE:
        return True
    end += question.linger
    if question.stays.count > joined:
        last = &(<Presence*> question.stays.items)[question.stays.count - 1]
        if last.place == place and last.start <= start <= last.end:
            last.end = max(last.end, end)
            return True
    if not push(&question.stays, sizeof(Presence)):
        return False
    (<Presence*> question.stays.items)[question.stays.count - 1] = Presence(start, end, place, 0)
    return True


cdef bint look_up(Question* question) noexcept nogil:
    """The presences of all who are infectious, some persons after the other."""
    cdef const Tiered* known = <const Tiered*> question.known.items
    cdef uint32_t persons[PERSONS_MAX]
    cdef size_t first = 0, count, i
    cdef Trail trail
    cdef bint is_done = True
    memset(&trail, 0, sizeof(Trail))
    while is_done and first < question.known.count:
        count = min(question.known.count - first, <size_t> PERSONS_MAX)
        for i in range(count):
            persons[i] = known[first + i].person
        trail.count = 0
        is_done = follow(&trail, &question.scope, persons, count)
        i = 0
        while is_done and i < trail.count:
            fetch_rest(&trail.steps[min(i + STEPS_AHEAD, trail.count - 1)])
            is_done = note_step(question, &trail.steps[i])
            i += 1
        first += count
    leave(&trail)
    return is_done


cdef bint note_step(Question* question, const Step* step) noexcept nogil:
    cdef int64_t onset = onset_of(question, step.span.person)
    if onset >= step.span.end or not is_allowed(question, step.place):
        return True
    return note_presence(
        question, step.table, step.at, step.place, &step.span, onset, question.stays.count
    )


cdef bint read_place(Question* question, const Table* table, const Place* place) noexcept nogil:
    """The presences at a place of a table of all who are infectious, read in order of time."""
    cdef size_t low = find_near(table, place, question.scope.start)
    cdef size_t high = find_later(table, low, place.stop, question.scope.end)
    cdef size_t i, joined = question.stays.count
    cdef Pass going
    cdef Span span
    cdef int64_t onset
    set_out(&going, table, high)
    for i in range(low, high):
        span = span_on(&going, i)
        if span.person >= question.key_count or not is_dated(question, span.person):
            continue
        if span.end <= question.scope.start or not is_alive(&span, question.scope.epoch):
            continue
        onset = onset_of(question, span.person)
        if onset < span.end and not note_presence(
            question, table, i, place.number, &span, onset, joined
        ):
            return False
    return True


cdef int compare_stays(const void* a, const void* b) noexcept nogil:
    cdef const Presence* x = <const Presence*> a
    cdef const Presence* y = <const Presence*> b
    return sign(x.place, y.place) or sign(x.start, y.start)


cdef int compare_rides(const void* a, const void* b) noexcept nogil:
    cdef const Presence* x = <const Presence*> a
    cdef const Presence* y = <const Presence*> b
    return sign(x.place, y.place) or sign(x.vehicle, y.vehicle) or sign(x.start, y.start)


cdef void sort(Question* question) noexcept nogil:
    """Stays by place and start, joined where they touch; rides by place, vehicle and start."""
    cdef Presence* stays = <Presence*> question.stays.items
    cdef size_t i, kept = 0
    if question.rides.count > 1:
        qsort(question.rides.items, question.rides.count, sizeof(Presence), compare_rides)
    for i in range(1, question.stays.count):
        if compare_stays(&stays[i - 1], &stays[i]) > 0:
            qsort(stays, question.stays.count, sizeof(Presence), compare_stays)
            break
    for i in range(question.stays.count):
        if kept and stays[kept - 1].place == stays[i].place and (
            stays[i].start <= stays[kept - 1].end
        ):
            stays[kept - 1].end = max(stays[kept - 1].end, stays[i].end)
        else:
            stays[kept] = stays[i]
            kept += 1
    question.stays.count = kept


# ---- those who met them (T3) --------------------------------------------------------------------

cdef inline bint is_looked_at(const Question* question, const Span* span) noexcept nogil:
    return (
        question.low <= span.person < question.high
        and is_alive(span, question.scope.epoch)
        and date_of(question, span.person) > span.start
    )


cdef int expose(
    Question* question, const Table* table, const Presence* stays, size_t count
) noexcept nogil:
    """Notes the time that visits at one place share with the stays there."""
    cdef const Place* place
    cdef Pass going
    cdef Span span
    cdef Exposure* made
    cdef size_t first = 0, last, low, high, i, at, n
    cdef int64_t until
    # Those of other days are left out before anything of this one is read.
    while first < count and stays[first].end <= table.least:
        first += 1
    if first == count or stays[first].start >= table.greatest:
        return DONE
    place = find_place(table, stays[0].place)
    if place is NULL:
        return DONE
    while first < count and stays[first].start < table.greatest:
        # Stays so near to each other that a visit may share time with two are walked along once.
        last = first
        while last + 1 < count and stays[last + 1].start - stays[last].end < longest_of(place):
            last += 1
        low = find_near(table, place, stays[first].start)
        high = find_later(table, low, place.stop, stays[last].end)
        at = first
        set_out(&going, table, high)
        for i in range(low, high):
            span = span_on(&going, i)
            while at <= last and stays[at].end <= span.start:
                at += 1
            if at > last:
                break
            if span.end <= stays[at].start or not is_looked_at(question, &span):
                continue
            until = min(span.end, date_of(question, span.person))
            n = at
            while n <= last and stays[n].start < until:
                if question.exposures.count == question.exposures_max:
                    return FULL
                if not push(&question.exposures, sizeof(Exposure)):
                    return BROKEN
                made = &(<Exposure*> question.exposures.items)[question.exposures.count - 1]
                made.start = max(span.start, stays[n].start)
                made.end = min(until, stays[n].end)
                made.person = span.person
                n += 1
        first = last + 1
    return DONE


cdef int ride_along(
    Question* question, const Table* table, const Presence* rides, size_t count
) noexcept nogil:
    """Notes whom a vehicle took along with somebody infectious, at one place."""
    cdef const Place* place
    cdef Pass going
    cdef Span span
    cdef size_t i, low, high, middle, stop
    cdef int64_t start = INT64_MAX, end = -INT64_MAX, date
    cdef uint32_t vehicle
    for i in range(count):
        # Those of other days would have all of this one read.
        if may_overlap(table, rides[i].start, rides[i].end):
            start = min(start, rides[i].start)
            end = max(end, rides[i].end)
    if start >= end:
        return DONE
    place = find_place(table, rides[0].place)
    if place is NULL:
        return DONE
    stop = find_later(table, place.first, place.stop, end)
    set_out(&going, table, stop)
    for i in range(find_near(table, place, start), stop):
        span = span_on(&going, i)
        if span.end <= start or not is_looked_at(question, &span):
            continue
        vehicle = vehicle_at(table, i)
        if not vehicle:
            continue
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            if rides[middle].vehicle < vehicle:
                low = middle + 1
            else:
                high = middle
        while low < count and rides[low].vehicle == vehicle and rides[low].start < span.end:
            if rides[low].end > span.start:
                date = max(rides[low].start, span.start) + 1
                if date < date_of(question, span.person) and not add_hit(
                    question, span.person, date
                ):
                    return BROKEN
                break
            low += 1
    return DONE


cdef bint add_hit(Question* question, uint32_t person, int64_t date) noexcept nogil:
    if not push(&question.hits, sizeof(Hit)):
        return False
    (<Hit*> question.hits.items)[question.hits.count - 1] = Hit(date, person)
    return True


cdef int meet(Question* question) noexcept nogil:
    """Exposures and rides beside all presences, which are sorted."""
    cdef const Presence* found
    cdef size_t first = 0, stop, t
    cdef int status
    found = <const Presence*> question.stays.items
    while first < question.stays.count:
        stop = first + 1
        while stop < question.stays.count and found[stop].place == found[first].place:
            stop += 1
        for t in range(question.scope.table_count):
            status = expose(question, question.scope.tables[t], found + first, stop - first)
            if status != DONE:
                return status
        first = stop
    found = <const Presence*> question.rides.items
    first = 0
    while first < question.rides.count:
        stop = first + 1
        while stop < question.rides.count and found[stop].place == found[first].place:
            stop += 1
        for t in range(question.scope.table_count):
            status = ride_along(question, question.scope.tables[t], found + first, stop - first)
            if status != DONE:
                return status
        first = stop
    return DONE


cdef int sweep(Question* question) noexcept nogil:
    """As `look_up` and `meet`, a place after the other."""
    cdef size_t at[TABLES_MAX]
    cdef size_t t
    cdef uint32_t number
    cdef bint is_any
    cdef const Table* table
    cdef int status
    memset(at, 0, sizeof(at))
    while True:
        number, is_any = UINT32_MAX, False
        for t in range(question.scope.table_count):
            if at[t] < question.scope.tables[t].place_count:
                is_any = True
                number = min(number, question.scope.tables[t].places[at[t]].number)
        if not is_any:
            return DONE
        question.stays.count = question.rides.count = 0
        for t in range(question.scope.table_count):
            table = question.scope.tables[t]
            if at[t] < table.place_count and table.places[at[t]].number == number:
                if is_allowed(question, number) and not read_place(
                    question, table, &table.places[at[t]]
                ):
                    return BROKEN
                at[t] += 1
        sort(question)
        status = meet(question)
        if status != DONE:
            return status


# ---- dates (T4) ---------------------------------------------------------------------------------

cdef int compare_starts(const void* a, const void* b) noexcept nogil:
    return sign((<const Exposure*> a).start, (<const Exposure*> b).start)


cdef int compare_times(const void* a, const void* b) noexcept nogil:
    return sign((<const int64_t*> a)[0], (<const int64_t*> b)[0])


cdef int64_t reached(
    const int64_t* starts, const int64_t* ends, size_t count, int64_t least, int64_t window
) noexcept nogil:
    """First x with `least` of the spans' time in [x - window, x), INT64_MAX if there is none.

    That time grows by one for each span at x and falls by one for each at x - window, so between
    two of these four kinds of instant it is a straight line. starts and ends: each sorted.
    """
    cdef size_t started = 0, ended = 0, begun_out = 0, gone = 0
    cdef int64_t x = starts[0], next, step, time = 0, slope = 0
    while ended < count:
        while started < count and starts[started] == x:
            started += 1
        while ended < count and ends[ended] == x:
            ended += 1
        while begun_out < count and starts[begun_out] + window == x:
            begun_out += 1
        while gone < count and ends[gone] + window == x:
            gone += 1
        if ended == count:
            break
        slope = <int64_t> (started - ended) - <int64_t> (begun_out - gone)
        next = ends[ended]
        if started < count:
            next = min(next, starts[started])
        if begun_out < count:
            next = min(next, starts[begun_out] + window)
        if gone < count:
            next = min(next, ends[gone] + window)
        step = next - x
        if slope > 0 and (step >= least - time or slope * step >= least - time):
            return x + (least - time + slope - 1) // slope
        time += slope * step
        x = next
    return INT64_MAX


cdef int64_t first_date(
    Exposure* met, size_t count, int64_t* times, int64_t least, int64_t window
) noexcept nogil:
    """When a person's exposures come to `least` within a window; they are sorted here.

    times: room for twice as many.
    """
    cdef int64_t total = 0, bound = INT64_MAX
    cdef size_t i, near = 0
    for i in range(count):
        total = min(total + (met[i].end - met[i].start), TIME_MAX)
    if total < least:
        return INT64_MAX
    if count > 1:
        qsort(met, count, sizeof(Exposure), compare_starts)
    for i in range(count):
        # Behind the first that is long enough by itself nothing matters any more.
        if met[i].start >= bound:
            break
        if met[i].end - met[i].start >= least and least <= window:
            bound = min(bound, met[i].start + least)
        near += 1
    if near == 1:
        return bound
    for i in range(near):
        times[i] = met[i].start
        times[near + i] = met[i].end
    qsort(times + near, near, sizeof(int64_t), compare_times)
    return reached(times, times + near, near, least, window)


cdef bint date_all(Question* question) noexcept nogil:
    """Hits from exposures; False if memory is short."""
    cdef size_t count = question.exposures.count, first = 0, stop, i
    cdef Exposure* met = <Exposure*> question.exposures.items
    cdef Seat* seats = <Seat*> calloc(2 * count + 1, sizeof(Seat))
    cdef Exposure* mine = NULL
    cdef int64_t* times = NULL
    cdef Seat* order
    cdef void* grown
    cdef size_t room = 0
    cdef uint32_t last = 0
    cdef int64_t date
    cdef bint is_done = seats is not NULL
    if is_done:
        for i in range(count):
            seats[i] = Seat(met[i].person, <uint32_t> i)
            last = max(last, met[i].person)
        order = sort_seats(seats, seats + count, count, last)
    while is_done and first < count:
        stop = first + 1
        while stop < count and order[stop].person == order[first].person:
            stop += 1
        if stop - first > room:
            room = 2 * (stop - first)
            grown = realloc(mine, room * sizeof(Exposure))
            is_done = grown is not NULL
            if is_done:
                mine = <Exposure*> grown
                grown = realloc(times, 2 * room * sizeof(int64_t))
                is_done = grown is not NULL
            if not is_done:
                break
            times = <int64_t*> grown
        for i in range(first, stop):
            mine[i - first] = met[order[i].at]
        date = first_date(mine, stop - first, times, question.least, question.window)
        if date < date_of(question, order[first].person):
            is_done = add_hit(question, order[first].person, date)
        first = stop
    free(seats)
    free(mine)
    free(times)
    return is_done


# ---- rounds -------------------------------------------------------------------------------------

cdef int find_met(Question* question, bint is_sweep) noexcept nogil:
    """Exposures and rides of the persons [low, high)."""
    cdef size_t hits = question.hits.count
    cdef int status
    question.exposures.count = 0
    status = sweep(question) if is_sweep else meet(question)
    if status == FULL:
        question.hits.count = hits
    return status


cdef bint run_round(Question* question, bint is_sweep) noexcept nogil:
    """Hits of one round; False if memory is short."""
    cdef uint64_t width = question.key_count + 1
    cdef uint64_t low = 0
    cdef int status
    question.hits.count = question.stays.count = question.rides.count = 0
    if not is_sweep:
        if not look_up(question):
            return False
        sort(question)
    while low < question.key_count:
        question.low = <uint32_t> low
        question.high = <uint32_t> min(low + width, question.key_count)
        status = find_met(question, is_sweep)
        if status == FULL and width > 1:
            # Fewer persons at a time: memory is bounded, whatever is asked.
            width = (width + 1) // 2
            continue
        if status != DONE or not date_all(question):
            return False
        low += width
    return True


cdef bint take_hits(Question* question, uint8_t tier) noexcept nogil:
    """Dates from the hits of a round, and who is new; False if memory is short."""
    cdef const Hit* hit
    cdef Tiered* made
    cdef size_t i, first = question.known.count
    for i in range(question.hits.count):
        hit = &(<const Hit*> question.hits.items)[i]
        if not is_dated(question, hit.person):
            if not push(&question.known, sizeof(Tiered)):
                return False
            made = &(<Tiered*> question.known.items)[question.known.count - 1]
            memset(made, 0, sizeof(Tiered))
            made.person = hit.person
            made.tier = tier
        if hit.date < date_of(question, hit.person):
            set_date(question, hit.person, hit.date)
    for i in range(first, question.known.count):
        made = &(<Tiered*> question.known.items)[i]
        made.infected = date_of(question, made.person)
    return True


cdef double rows_in_span(const Question* question, const Table* table) noexcept nogil:
    """About how many rows of a table the span covers, of the places that may be looked at."""
    cdef double length = <double> (table.greatest - table.least) + 1
    cdef int64_t start = max(question.scope.start, table.least)
    cdef int64_t end = min(question.scope.end, table.greatest)
    cdef const Place* place
    cdef size_t rows = table.count, i
    if question.is_bounded:
        rows = 0
        for i in range(question.place_count):
            place = find_place(table, load_u32(question.places + 4 * i))
            if place is not NULL:
                rows += place.stop - place.first
    return rows * min((<double> end - <double> start + 1) / length, 1.0)


cdef void weigh(Question* question) noexcept nogil:
    """What it costs to look one person up, and to read everything."""
    cdef const Table* table
    cdef double visits = 0, rows
    cdef size_t t, tables = 0
    question.sweep_ns = 0
    for t in range(question.scope.table_count):
        table = question.scope.tables[t]
        if not may_overlap(table, question.scope.start, question.scope.end):
            continue
        rows = rows_in_span(question, table)
        question.sweep_ns += rows * (ROW_NS if table.columns is NULL else SEALED_ROW_NS)
        visits += table.count
        tables += 1
    question.look_up_ns = LOOK_UP_NS * (tables + visits / max(question.key_count, <size_t> 1))


cdef int run(Question* question, int depth, size_t most, int way) noexcept nogil:
    """How many rounds were made, -1 if memory is short."""
    cdef size_t before
    cdef int tier
    cdef bint is_sweep
    weigh(question)
    for tier in range(1, depth + 1):
        before = question.known.count
        is_sweep = way == SWEEP or (
            way == AUTO and before * question.look_up_ns > question.sweep_ns
        )
        if not run_round(question, is_sweep) or not take_hits(question, <uint8_t> tier):
            return -1
        if question.known.count - before > most:
            return tier
    return depth


cdef int read_persons(Question* question, const Py_buffer* persons) except -1:
    cdef const uint8_t* at = <const uint8_t*> persons.buf
    cdef size_t i, count = <size_t> whole(persons, 4, "persons")
    cdef uint32_t person
    cdef Tiered* made
    question.dates = <uint64_t*> room_for(question.key_count, sizeof(uint64_t))
    question.dated = <uint64_t*> room_for(question.key_count // 64 + 1, sizeof(uint64_t))
    for i in range(count):
        person = load_u32(at + 4 * i)
        if person >= question.key_count or is_dated(question, person):
            raise ValueError("persons are unknown or named twice")
        set_date(question, person, -TIME_MAX)
        if not push(&question.known, sizeof(Tiered)):
            raise MemoryError
        made = &(<Tiered*> question.known.items)[question.known.count - 1]
        memset(made, 0, sizeof(Tiered))
        made.person = person
        made.infected = made.earliest = -TIME_MAX
    return 0


def find_tiers(
    tables, persons, count, epoch, *, from_ms, to_ms, linger_ms, min_ms, window_ms, latent_ms,
    depth, most, places=None, way=0, exposures_max=1 << 23
) -> tuple[bytes, int]:
    """(packed TIERED, rounds made): whom a chain of at most `depth` meetings can have infected.

    tables: at most 1024 VisitTable. persons: numbers of the case (u32, each once, below `count`);
    the first rows, in tier 0. count: of persons; who has a number beyond is not there. epoch: see
    VisitTable. from_ms, to_ms: visits of the infectious overlap this span. linger_ms, window_ms,
    min_ms, latent_ms: see engine.tracing.tiers; min_ms at most 2**40. depth: 1 .. 8. most: no
    further round after one that found more than that. places: u32 ascending, only these. way: 1
    looks the infectious up, 2 reads everything, 0 decides by itself; the answer is the same.
    exposures_max: held in memory at once. Rows of one tier come in no order.
    Raises ValueError for numbers and sizes out of range, TypeError, MemoryError.
    """
    cdef list held = list(tables)
    cdef Py_buffer views[2]
    cdef int held_views = 0
    cdef Question question
    cdef size_t limit, i
    cdef int rounds = 0, deepest, how
    cdef Tiered* row
    memset(&question, 0, sizeof(Question))
    question.key_count = <size_t> check_int(count, 0, UINT32_MAX, "count")
    read_scope(&question.scope, held, from_ms, to_ms, epoch)
    question.linger = check_int(linger_ms, 0, 1 << 40, "linger_ms")
    question.least = max(check_int(min_ms, 0, 1 << 40, "min_ms"), 1)
    question.window = check_int(window_ms, 1, TIME_MAX, "window_ms")
    question.latent = check_int(latent_ms, 0, 1 << 40, "latent_ms")
    question.exposures_max = <size_t> check_int(exposures_max, 1, UINT32_MAX, "exposures_max")
    limit = <size_t> check_int(most, 0, INT64_MAX, "most")
    deepest = <int> check_int(depth, 1, DEPTH_MAX, "depth")
    how = <int> check_int(way, AUTO, SWEEP, "way")
    try:
        PyObject_GetBuffer(persons, &views[0], PyBUF_SIMPLE)
        held_views = 1
        if places is not None:
            PyObject_GetBuffer(places, &views[1], PyBUF_SIMPLE)
            held_views = 2
            question.is_bounded = True
            question.places = <const uint8_t*> views[1].buf
            question.place_count = <size_t> whole(&views[1], 4, "places")
        read_persons(&question, &views[0])
        with nogil:
            rounds = run(&question, deepest, limit, how)
        if rounds < 0:
            raise MemoryError
        row = <Tiered*> question.known.items
        for i in range(question.known.count):
            row[i].earliest = date_of(&question, row[i].person)
        return PyBytes_FromStringAndSize(
            <char*> question.known.items, <Py_ssize_t> (question.known.count * sizeof(Tiered))
        ), rounds
    finally:
        close(&question)
        while held_views > 0:
            held_views -= 1
            PyBuffer_Release(&views[held_views])


cdef void close(Question* question) noexcept:
    free(question.dates)
    free(question.dated)
    free(question.stays.items)
    free(question.rides.items)
    free(question.exposures.items)
    free(question.hits.items)
    free(question.known.items)
