"""Who can have infected whom: the meetings between persons of which tier and date are known.

The rules stand in engine.tracing.tiers (L), who is infectious and from when on as in native.tiers.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from native.checks cimport check_int
from native.columns cimport Place, longest_of
from native.index cimport TIME_MAX, Span, Table, fill_table, free_table, whole
from native.scans cimport Seat, room_for, sort_seats
from native.trails cimport (
    STEPS_AHEAD, Scope, Step, Trail, fetch_rest, follow, leave, read_scope, visit_of_step,
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
    AT_ONCE = 32               # persons: what is near their visits in memory is still in the cache
    PASSAGE = 1                # engine.presence.visits.VisitFlag
    SAME_VEHICLE = 2           # engine.presence.contacts.PairFlag
    BROKEN = 0
    FULL = 1
    DONE = 2


cdef enum Side:                # of the span asked for
    BEFORE
    WITHIN
    BEHIND


cdef struct Tiered:            # engine.tracing.tiers.TIERED
    int64_t infected
    int64_t earliest
    uint32_t person
    uint8_t tier
    uint8_t spare[3]


cdef struct Link:              # 64 bytes, engine.tracing.tiers.LINK
    int64_t first
    int64_t last
    int64_t time
    uint64_t source_ref
    uint64_t target_ref
    uint32_t source
    uint32_t target
    uint32_t place
    uint32_t meetings
    uint8_t flags
    uint8_t spare[7]


cdef struct Part:              # two visits that share time
    int64_t start
    int64_t end
    uint32_t source            # positions
    uint32_t target
    uint32_t mine              # the source's visit
    uint32_t theirs            # the target's, a row of the table of those listed


cdef struct Meeting:           # a part, with what a link tells of its visits
    int64_t start
    int64_t end
    uint64_t source_ref
    uint64_t target_ref
    uint32_t place
    uint8_t flags


cdef struct Sum:               # what decides whether a link is shown
    int64_t time
    uint32_t first             # of its parts
    uint32_t count
    uint32_t target
    bint is_back               # does not lead down from a lower tier
    bint is_first              # the best of its target
    bint is_kept


cdef struct Home:              # where a visit stands in the table of those listed
    uint32_t row
    uint32_t place


cdef struct Question:
    Scope scope                # of the sources
    int64_t linger
    int64_t latent
    size_t key_count
    const uint8_t* places      # u32, ascending: those that may be looked at
    size_t place_count
    bint is_bounded
    Tiered* rows
    size_t row_count
    uint32_t cases             # rows of tier 0, which all are position 0
    uint32_t* positions        # by person: row + 1, 0 for who is not listed
    Visit* visits              # of all rows, which they name as persons; the sources' first
    size_t visit_count
    size_t visit_room
    uint64_t* refs             # of these visits
    Home* homes                # of the sources' visits
    Table listed               # all of them, in whose refs stands which of them
    Part* parts
    size_t part_count
    size_t part_room
    size_t parts_max
    Seat* seats                # two for each part, owned
    const Seat* order          # parts by target and source
    Sum* sums                  # by target and source
    size_t sum_count
    Meeting* meetings          # of one link


cdef inline uint32_t position_of(const Question* question, size_t row) noexcept nogil:
    return 0 if row < question.cases else <uint32_t> row - question.cases + 1


cdef inline uint8_t tier_at(const Question* question, uint32_t position) noexcept nogil:
    return question.rows[position + question.cases - 1].tier if position else 0


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


cdef int add_part(Question* question, const Part* part) noexcept nogil:
    cdef Part* grown
    cdef size_t room
    if question.part_count == question.parts_max:
        return FULL
    if question.part_count == question.part_room:
        room = 2 * question.part_room + 256
        grown = <Part*> realloc(question.parts, room * sizeof(Part))
        if grown is NULL:
            return BROKEN
        question.parts = grown
        question.part_room = room
    question.parts[question.part_count] = part[0]
    question.part_count += 1
    return DONE


cdef inline bint is_together(
    const Visit* mine, const Table* listed, size_t theirs, int64_t start
) noexcept nogil:
    """Whether both went in one vehicle, from `start` on."""
    cdef const Span* span = &listed.spans[theirs]
    return (
        mine.vehicle > 0 and mine.vehicle == listed.rests[theirs].vehicle
        and min(mine.end, span.end) > max(start, span.start)
    )


cdef int meet(Question* question, size_t at) noexcept nogil:
    """Parts of one visit of the person of a row, with the visits of all of them."""
    cdef const Visit* mine = &question.visits[at]
    cdef size_t row = mine.person
    cdef const Tiered* source = &question.rows[row]
    cdef const Tiered* target
    cdef const Table* listed = &question.listed
    cdef const Place* place = &listed.places[question.homes[at].place]
    cdef const Span* span
    cdef bint is_passage = mine.flags & PASSAGE
    cdef int64_t onset = source.earliest + question.latent if source.tier else -TIME_MAX
    cdef int64_t start = max(mine.start, onset)
    cdef int64_t until = mine.end if is_passage else mine.end + question.linger
    cdef size_t i = question.homes[at].row
    cdef Part part
    cdef int status
    if start >= mine.end or (is_passage and not mine.vehicle):
        return DONE
    if not is_allowed(question, mine.place):
        return DONE
    # Whoever is near stands beside it.
    while i > place.first and start - listed.spans[i - 1].start < longest_of(place):
        i -= 1
    while i < place.stop and listed.spans[i].start < until:
        span = &listed.spans[i]
        i += 1
        if span.end <= start or span.person == row:
            continue
        target = &question.rows[span.person]
        if target.tier == 0 or (
            source.tier >= target.tier and source.earliest >= target.earliest
        ):
            continue
        if is_passage and not is_together(mine, listed, i - 1, start):
            continue
        part.start = max(start, span.start)
        part.end = min(until, span.end)
        part.source = position_of(question, row)
        part.target = position_of(question, span.person)
        part.mine = <uint32_t> at
        part.theirs = <uint32_t> (i - 1)
        status = add_part(question, &part)
        if status != DONE:
            return status
    return DONE


cdef bint list_steps(Question* question, const Trail* trail, Side side) noexcept nogil:
    """Adds the visits of a trail; False if memory is short."""
    cdef const Step* step
    cdef Visit* grown
    cdef Visit visit
    cdef size_t room, i
    for i in range(trail.count):
        fetch_rest(&trail.steps[min(i + STEPS_AHEAD, trail.count - 1)])
        step = &trail.steps[i]
        # Each once, even where the span ends before it begins.
        if side == BEFORE and step.span.end > question.scope.start:
            continue
        if side == BEHIND and (
            step.span.start < question.scope.end or step.span.end <= question.scope.start
        ):
            continue
        if question.visit_count == question.visit_room:
            room = 2 * question.visit_room + 1024
            grown = <Visit*> realloc(question.visits, room * sizeof(Visit))
            if grown is NULL:
                return False
            question.visits = grown
            question.visit_room = room
        visit = visit_of_step(step)
        visit.person = question.positions[step.span.person] - 1
        question.visits[question.visit_count] = visit
        question.visit_count += 1
    return True


cdef bint list_rows(Question* question, int64_t start, int64_t end, Side side) noexcept nogil:
    """Adds the visits of all rows in [start, end), in their order; False if memory is short."""
    cdef Scope scope = question.scope
    cdef uint32_t persons[AT_ONCE]
    cdef size_t first = 0, count, i
    cdef bint is_done = True
    cdef Trail trail
    memset(&trail, 0, sizeof(Trail))
    scope.start, scope.end = start, end
    while is_done and first < question.row_count:
        count = min(question.row_count - first, <size_t> AT_ONCE)
        for i in range(count):
            persons[i] = question.rows[first + i].person
        trail.count = 0
        is_done = follow(&trail, &scope, persons, count) and list_steps(question, &trail, side)
        first += count
    leave(&trail)
    return is_done


cdef bint list_targets(Question* question) noexcept nogil:
    """Adds what the visits listed may touch outside of the span; False if memory is short."""
    cdef int64_t low = question.scope.start, high = question.scope.end
    cdef size_t i
    for i in range(question.visit_count):
        low = min(low, question.visits[i].start)
        high = max(high, question.visits[i].end + question.linger)
    if low < question.scope.start and not list_rows(question, low, question.scope.start, BEFORE):
        return False
    return high <= question.scope.end or list_rows(question, question.scope.end, high, BEHIND)


cdef bint settle(Question* question, size_t sources) noexcept nogil:
    """Makes a table of the visits; False if memory is short.

    Those listed are few beside all who were there.
    """
    cdef Table* listed = &question.listed
    cdef size_t i, p, at
    if question.visit_count > UINT32_MAX:
        return False
    question.refs = <uint64_t*> malloc((question.visit_count + 1) * sizeof(uint64_t))
    question.homes = <Home*> malloc((sources + 1) * sizeof(Home))
    if question.refs is NULL or question.homes is NULL:
        return False
    for i in range(question.visit_count):
        question.refs[i] = question.visits[i].ref
        question.visits[i].ref = i
    if not fill_table(listed, question.visits, question.visit_count):
        return False
    for p in range(listed.place_count):
        for i in range(listed.places[p].first, listed.places[p].stop):
            at = listed.rests[i].ref
            if at < sources:
                question.homes[at] = Home(<uint32_t> i, <uint32_t> p)
    return True


cdef int collect(Question* question) noexcept nogil:
    """Parts of all rows."""
    cdef size_t sources, i
    cdef int status = DONE
    if not list_rows(question, question.scope.start, question.scope.end, WITHIN):
        return BROKEN
    sources = question.visit_count
    if not list_targets(question) or not settle(question, sources):
        return BROKEN
    for i in range(sources):
        status = meet(question, i)
        if status != DONE:
            break
    return status


# ---- adding up ----------------------------------------------------------------------------------

cdef inline int sign(int64_t a, int64_t b) noexcept nogil:
    return (a > b) - (a < b)


cdef int compare_meetings(const void* a, const void* b) noexcept nogil:
    """As they are added up; refs last, so that no two are alike."""
    cdef const Meeting* x = <const Meeting*> a
    cdef const Meeting* y = <const Meeting*> b
    cdef int found = sign(x.place, y.place)
    found = found or sign(x.start, y.start)
    found = found or sign(x.end, y.end)
    found = found or (x.target_ref > y.target_ref) - (x.target_ref < y.target_ref)
    return found or (x.source_ref > y.source_ref) - (x.source_ref < y.source_ref)


cdef inline const Part* part_at(const Question* question, size_t i) noexcept nogil:
    return &question.parts[question.order[i].at]


cdef Link add_up(Question* question, size_t first, size_t count) noexcept nogil:
    """The link of so many parts."""
    cdef const Part* part = NULL
    cdef const Visit* mine
    cdef Meeting* meetings = question.meetings
    cdef const Meeting* met
    cdef Link link
    cdef int64_t reach = 0
    cdef size_t i
    memset(&link, 0, sizeof(Link))
    for i in range(count):
        part = part_at(question, first + i)
        mine = &question.visits[part.mine]
        meetings[i].start = part.start
        meetings[i].end = part.end
        meetings[i].source_ref = question.refs[part.mine]
        meetings[i].target_ref = question.refs[question.listed.rests[part.theirs].ref]
        meetings[i].place = mine.place
        meetings[i].flags = SAME_VEHICLE if is_together(
            mine, &question.listed, part.theirs, part.start
        ) else 0
    if count > 1:
        qsort(meetings, count, sizeof(Meeting), compare_meetings)
    link.source, link.target = part.source, part.target
    link.last = -INT64_MAX
    for i in range(count):
        met = &meetings[i]
        if i == 0 or met.start < link.first:
            link.first = met.start
            link.place = met.place
            link.source_ref = met.source_ref
            link.target_ref = met.target_ref
        if i == 0 or met.place != meetings[i - 1].place:
            reach = met.start
        link.last = max(link.last, met.end)
        link.meetings += 1
        link.flags |= met.flags
        if met.end > max(reach, met.start):
            link.time += min(met.end - max(reach, met.start), TIME_MAX - link.time)
            reach = met.end
    return link


cdef bint sort_parts(Question* question) noexcept nogil:
    """By target and source; False if memory is short."""
    cdef size_t count = question.part_count, i
    question.seats = <Seat*> malloc((2 * count + 1) * sizeof(Seat))
    if question.seats is NULL:
        return False
    for i in range(count):
        question.seats[i] = Seat(question.parts[i].target, <uint32_t> i)
    # They were found source by source, so sources ascend as well.
    question.order = sort_seats(
        question.seats, question.seats + count, count, <uint32_t> question.row_count
    )
    return True


cdef bint sum_up(Question* question) noexcept nogil:
    """How much time each link has; False if memory is short."""
    cdef size_t count = question.part_count, first = 0, most = 1, stop
    cdef const Part* part
    cdef Sum* made
    if not sort_parts(question):
        return False
    question.sums = <Sum*> malloc((count + 1) * sizeof(Sum))
    if question.sums is NULL:
        return False
    while first < count:
        part = part_at(question, first)
        stop = first + 1
        while stop < count and question.order[stop].person == part.target and (
            part_at(question, stop).source == part.source
        ):
            stop += 1
        made = &question.sums[question.sum_count]
        made.time = part.end - part.start
        made.first = <uint32_t> first
        made.count = <uint32_t> (stop - first)
        made.target = part.target
        made.is_back = tier_at(question, part.source) >= tier_at(question, part.target)
        made.is_first = made.is_kept = False
        question.sum_count += 1
        most = max(most, stop - first)
        first = stop
    question.meetings = <Meeting*> malloc(most * sizeof(Meeting))
    if question.meetings is NULL:
        return False
    for first in range(question.sum_count):
        made = &question.sums[first]
        if made.count > 1:
            made.time = add_up(question, made.first, made.count).time
    return True


# ---- those shown --------------------------------------------------------------------------------

cdef int compare_sums(const void* a, const void* b) noexcept nogil:
    """Of one target: from a lower tier first, then most time, then the source."""
    cdef const Sum* x = <const Sum*> a
    cdef const Sum* y = <const Sum*> b
    return x.is_back - y.is_back or sign(y.time, x.time) or sign(x.first, y.first)


cdef inline size_t end_of_target(const Question* question, size_t first) noexcept nogil:
    cdef size_t stop = first + 1
    while stop < question.sum_count and (
        question.sums[stop].target == question.sums[first].target
    ):
        stop += 1
    return stop


cdef int64_t least_shown(const Question* question, bint is_first, size_t* left) noexcept nogil:
    """The least time of the `left` with most among those that are first, or are not.

    left: then of how many with just this time. A byte of the times a pass, so that it takes the
    same whatever they are.
    """
    cdef size_t counts[256]
    cdef uint64_t found = 0, mask = 0, greatest = 0, time
    cdef size_t i
    cdef int shift = 56, digit
    for i in range(question.sum_count):
        greatest = max(greatest, <uint64_t> question.sums[i].time)
    while shift > 0 and not greatest >> shift:
        shift -= 8
    while shift >= 0:
        memset(counts, 0, sizeof(counts))
        for i in range(question.sum_count):
            time = <uint64_t> question.sums[i].time
            if question.sums[i].is_first == is_first and not (time ^ found) & mask:
                counts[time >> shift & 0xFF] += 1
        digit = 255
        while digit > 0 and counts[digit] < left[0]:
            left[0] -= counts[digit]
            digit -= 1
        found |= <uint64_t> digit << shift
        mask |= <uint64_t> 0xFF << shift
        shift -= 8
    return <int64_t> found


cdef void keep(Question* question, bint is_first, size_t count) noexcept nogil:
    """Keeps so many of those that are first, or are not: with most time, of equal ones the first
    as they are shown."""
    cdef size_t first = 0, left = count, stop, i
    cdef int64_t least
    cdef int is_back
    cdef Sum* one
    if count == 0:
        return
    least = least_shown(question, is_first, &left)
    while first < question.sum_count:
        stop = end_of_target(question, first)
        for is_back in range(2):
            for i in range(first, stop):
                one = &question.sums[i]
                if one.is_first != is_first or one.is_back != is_back:
                    continue
                if one.time > least:
                    one.is_kept = True
                elif one.time == least and left:
                    one.is_kept = True
                    left -= 1
        first = stop


cdef void choose(Question* question, size_t most) noexcept nogil:
    """Leaves at most so many sums: the best of each target and those with most time; in the order
    in which they are shown."""
    cdef Sum* sums = question.sums
    cdef size_t first = 0, targets = 0, kept = 0, stop, best, i
    if question.sum_count > most:
        while first < question.sum_count:
            stop = end_of_target(question, first)
            best = first
            for i in range(first + 1, stop):
                if compare_sums(&sums[i], &sums[best]) < 0:
                    best = i
            sums[best].is_first = True
            targets += 1
            first = stop
        if targets > most:
            keep(question, True, most)
        else:
            keep(question, True, targets)
            keep(question, False, most - targets)
        for i in range(question.sum_count):
            if sums[i].is_kept:
                sums[kept] = sums[i]
                kept += 1
        question.sum_count = kept
    first = 0
    while first < question.sum_count:
        stop = end_of_target(question, first)
        if stop - first > 1:
            qsort(sums + first, stop - first, sizeof(Sum), compare_sums)
        first = stop


cdef int read_rows(Question* question, const Py_buffer* rows) except -1:
    cdef size_t i
    cdef uint32_t person
    question.row_count = <size_t> whole(rows, sizeof(Tiered), "rows")
    if question.row_count >= UINT32_MAX:
        raise ValueError("rows are too many")
    question.rows = <Tiered*> room_for(question.row_count, sizeof(Tiered))
    memcpy(question.rows, rows.buf, question.row_count * sizeof(Tiered))
    question.positions = <uint32_t*> room_for(question.key_count, sizeof(uint32_t))
    for i in range(question.row_count):
        person = question.rows[i].person
        if person >= question.key_count or question.positions[person]:
            raise ValueError("a person of the rows is unknown or there twice")
        if not -TIME_MAX <= question.rows[i].earliest <= TIME_MAX:
            raise ValueError("a date of the rows is out of range")
        question.positions[person] = <uint32_t> i + 1
        if question.rows[i].tier == 0:
            if i != question.cases:
                raise ValueError("rows of tier 0 come first")
            question.cases += 1
    return 0


def find_links(
    tables, rows, count, epoch, *, from_ms, to_ms, linger_ms, latent_ms, most,
    places=None, parts_max=1 << 20
) -> tuple[bytes, bool]:
    """(packed LINK, whether all are there): meetings among the persons of packed TIERED.

    Positions are rows, but that all rows of tier 0, which come first, are position 0. Links of one
    target come together: those from a lower tier first, most time first. Where there are more than
    `most`, the first of each target stay and of the others those with most time. parts_max: pairs
    of visits that are looked at. The rest as native.tiers.find_tiers. Raises ValueError, TypeError,
    MemoryError as that.
    """
    cdef list held = list(tables)
    cdef Py_buffer views[2]
    cdef int held_views = 0
    cdef Question question
    cdef int status = BROKEN
    cdef bint is_done = False
    cdef size_t limit, total = 0, i
    cdef bytes found
    cdef Link link
    cdef uint8_t* into
    memset(&question, 0, sizeof(Question))
    question.key_count = <size_t> check_int(count, 0, UINT32_MAX, "count")
    read_scope(&question.scope, held, from_ms, to_ms, epoch)
    question.linger = check_int(linger_ms, 0, 1 << 40, "linger_ms")
    question.latent = check_int(latent_ms, 0, 1 << 40, "latent_ms")
    question.parts_max = <size_t> check_int(parts_max, 1, UINT32_MAX, "parts_max")
    limit = <size_t> check_int(most, 0, UINT32_MAX, "most")
    try:
        PyObject_GetBuffer(rows, &views[0], PyBUF_SIMPLE)
        held_views = 1
        if places is not None:
            PyObject_GetBuffer(places, &views[1], PyBUF_SIMPLE)
            held_views = 2
            question.is_bounded = True
            question.places = <const uint8_t*> views[1].buf
            question.place_count = <size_t> whole(&views[1], 4, "places")
        read_rows(&question, &views[0])
        with nogil:
            status = collect(&question)
            if status != BROKEN:
                is_done = sum_up(&question)
            if is_done:
                total = question.sum_count
                choose(&question, limit)
        if not is_done:
            raise MemoryError
        found = PyBytes_FromStringAndSize(
            NULL, <Py_ssize_t> (question.sum_count * sizeof(Link))
        )
        into = <uint8_t*> PyBytes_AS_STRING(found)
        with nogil:
            for i in range(question.sum_count):
                link = add_up(&question, question.sums[i].first, question.sums[i].count)
                memcpy(into + i * sizeof(Link), &link, sizeof(Link))
        return found, status == DONE and total <= limit
    finally:
        free(question.rows)
        free(question.positions)
        free_table(&question.listed)
        free(question.visits)
        free(question.refs)
        free(question.homes)
        free(question.parts)
        free(question.seats)
        free(question.sums)
        free(question.meetings)
        while held_views > 0:
            held_views -= 1
            PyBuffer_Release(&views[held_views])
