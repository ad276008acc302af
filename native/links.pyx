"""Who can have infected whom: the meetings between persons of which tier and date are known.

The rules stand in engine.tracing.tiers (L), who is infectious and from when on as in native.tiers.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from native.checks cimport check_int
from native.columns cimport Place
from native.index cimport (
    TIME_MAX, Span, Table, fetch_visit, fill_table, find_later, find_near, find_place, free_table,
    load_span, load_visit, load_visit_of, whole,
)
from native.scans cimport Seat, room_for, sort_seats
from native.trails cimport PERSONS_MAX, Scope, Step, Trail, follow, leave, read_scope
from native.visits cimport Visit

cdef extern from "machine.h":
    uint32_t load_u32(const uint8_t* at) noexcept nogil

cdef extern from "stdlib.h":
    void qsort(
        void* items, size_t count, size_t size,
        int (*compare)(const void* a, const void* b) noexcept nogil,
    ) noexcept nogil

cdef enum:
    AHEAD = 16                 # visits that are on their way while one is read
    PASSAGE = 1                # engine.presence.visits.VisitFlag
    SAME_VEHICLE = 2           # engine.presence.contacts.PairFlag
    BROKEN = 0
    FULL = 1
    DONE = 2


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
    uint64_t source_ref
    uint64_t target_ref
    uint32_t source
    uint32_t target
    uint32_t place
    uint8_t flags


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
    Table listed               # the visits of all rows
    Part* parts
    size_t part_count
    size_t part_room
    size_t parts_max
    const Part** order
    Link* links
    size_t link_count


cdef inline uint32_t position_of(const Question* question, size_t row) noexcept nogil:
    return 0 if row < question.cases else <uint32_t> row - question.cases + 1


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


cdef int meet(Question* question, const Visit* mine) noexcept nogil:
    """Parts of one visit of the person of a row, with the visits of all of them."""
    cdef size_t row = question.positions[mine.person] - 1
    cdef const Tiered* source = &question.rows[row]
    cdef const Tiered* target
    cdef const Table* listed = &question.listed
    cdef int64_t onset = source.earliest + question.latent if source.tier else -TIME_MAX
    cdef Visit theirs
    cdef Span span
    cdef const Place* place
    cdef bint is_passage = mine.flags & PASSAGE
    cdef uint32_t found
    cdef int64_t start = max(mine.start, onset)
    cdef int64_t until = mine.end if is_passage else mine.end + question.linger
    cdef size_t i, low, high
    cdef bint is_together
    cdef Part part
    cdef int status
    if start >= mine.end or (is_passage and not mine.vehicle):
        return DONE
    if not is_allowed(question, mine.place):
        return DONE
    place = find_place(listed, mine.place)
    if place is NULL:
        return DONE
    low = find_near(listed, place, start)
    high = find_later(listed, low, place.stop, until)
    for i in range(low, high):
        span = load_span(listed, i)
        if span.end <= start:
            continue
        found = question.positions[span.person] - 1
        target = &question.rows[found]
        if found == row or target.tier == 0:
            continue
        if source.tier >= target.tier and source.earliest >= target.earliest:
            continue
        theirs = load_visit(listed, i)
        is_together = (
            mine.vehicle > 0 and mine.vehicle == theirs.vehicle
            and min(mine.end, span.end) > max(start, span.start)
        )
        if is_passage and not is_together:
            continue
        part.start = max(start, span.start)
        part.end = min(until, span.end)
        part.source_ref = mine.ref
        part.target_ref = theirs.ref
        part.source = position_of(question, row)
        part.target = position_of(question, found)
        part.place = mine.place
        part.flags = SAME_VEHICLE if is_together else 0
        status = add_part(question, &part)
        if status != DONE:
            return status
    return DONE


cdef bint follow_rows(const Question* question, const Scope* scope, Trail* trail) noexcept nogil:
    """Adds the trail of all rows, in their order; False if memory is short."""
    cdef uint32_t persons[PERSONS_MAX]
    cdef size_t first = 0, count, i
    cdef bint is_done = True
    while is_done and first < question.row_count:
        count = min(question.row_count - first, <size_t> PERSONS_MAX)
        for i in range(count):
            persons[i] = question.rows[first + i].person
        is_done = follow(trail, scope, persons, count)
        first += count
    return is_done


cdef bint follow_targets(const Question* question, Trail* trail) noexcept nogil:
    """Adds what visits of the trail may touch outside of the span; False if memory is short."""
    cdef const Step* step
    cdef Scope edge = question.scope
    cdef int64_t low = question.scope.start, high = question.scope.end
    cdef size_t sources = trail.count, kept = sources, early, i
    for i in range(sources):
        step = &trail.steps[i]
        low = min(low, step.span.start)
        high = max(high, step.span.end + question.linger)
    edge.start, edge.end = low, question.scope.start
    if low < edge.end and not follow_rows(question, &edge, trail):
        return False
    early = trail.count
    edge.start, edge.end = question.scope.end, high
    if edge.start < high and not follow_rows(question, &edge, trail):
        return False
    for i in range(sources, trail.count):
        step = &trail.steps[i]
        # Each once, even where the span ends before it begins.
        if step.span.end <= question.scope.start if i < early else (
            step.span.start >= question.scope.end and step.span.end > question.scope.start
        ):
            trail.steps[kept] = step[0]
            kept += 1
    trail.count = kept
    return True


cdef Visit* list_visits(const Trail* trail) noexcept nogil:
    """The visits of a trail, NULL if memory is short."""
    cdef Visit* visits = NULL
    cdef const Step* step
    cdef size_t i
    if trail.count <= UINT32_MAX:
        visits = <Visit*> calloc(trail.count + 1, sizeof(Visit))
    if visits is not NULL:
        for i in range(trail.count):
            step = &trail.steps[min(i + AHEAD, trail.count - 1)]
            fetch_visit(step.table, step.at)
            step = &trail.steps[i]
            visits[i] = load_visit_of(step.table, step.at, step.place)
    return visits


cdef int collect(Question* question) noexcept nogil:
    """Parts of all rows.

    Those listed are few beside all who were there, so their visits become a table of their own.
    """
    cdef Trail trail
    cdef Visit* visits = NULL
    cdef size_t sources, i
    cdef int status = BROKEN
    memset(&trail, 0, sizeof(Trail))
    if follow_rows(question, &question.scope, &trail):
        sources = trail.count
        if follow_targets(question, &trail):
            visits = list_visits(&trail)
        if visits is not NULL and fill_table(&question.listed, visits, trail.count):
            status = DONE
            for i in range(sources):
                status = meet(question, &visits[i])
                if status != DONE:
                    break
    free(visits)
    leave(&trail)
    return status


# ---- adding up ----------------------------------------------------------------------------------

cdef inline int sign(int64_t a, int64_t b) noexcept nogil:
    return (a > b) - (a < b)


cdef int compare_parts(const void* a, const void* b) noexcept nogil:
    """Of one source and target as they are added up; refs last, so that no two are alike."""
    cdef const Part* x = (<const Part**> a)[0]
    cdef const Part* y = (<const Part**> b)[0]
    cdef int found = sign(x.place, y.place)
    found = found or sign(x.start, y.start)
    found = found or sign(x.end, y.end)
    found = found or (x.target_ref > y.target_ref) - (x.target_ref < y.target_ref)
    return found or (x.source_ref > y.source_ref) - (x.source_ref < y.source_ref)


cdef int compare_links(const void* a, const void* b) noexcept nogil:
    """Of one target, most time first."""
    cdef const Link* x = <const Link*> a
    cdef const Link* y = <const Link*> b
    return sign(y.time, x.time) or sign(x.source, y.source)


cdef bint sort_parts(Question* question) noexcept nogil:
    """By target, source, and as they are added up; False if memory is short."""
    cdef size_t count = question.part_count, first = 0, stop, i
    cdef const Part** order
    cdef Seat* seats = <Seat*> calloc(2 * count + 1, sizeof(Seat))
    cdef const Seat* sorted_seats
    question.order = order = <const Part**> calloc(count + 1, sizeof(Part*))
    if seats is NULL or order is NULL:
        free(seats)
        return False
    for i in range(count):
        seats[i] = Seat(question.parts[i].target, <uint32_t> i)
    # They were found source by source, so sources ascend as well.
    sorted_seats = sort_seats(seats, seats + count, count, <uint32_t> question.row_count)
    for i in range(count):
        order[i] = &question.parts[sorted_seats[i].at]
    free(seats)
    while first < count:
        stop = first + 1
        while stop < count and order[stop].target == order[first].target and (
            order[stop].source == order[first].source
        ):
            stop += 1
        if stop - first > 1:
            qsort(order + first, stop - first, sizeof(Part*), compare_parts)
        first = stop
    return True


cdef void sort_links(Question* question) noexcept nogil:
    """They are in order of targets; of each the most time first."""
    cdef Link* links = question.links
    cdef size_t first = 0, stop
    while first < question.link_count:
        stop = first + 1
        while stop < question.link_count and links[stop].target == links[first].target:
            stop += 1
        if stop - first > 1:
            qsort(links + first, stop - first, sizeof(Link), compare_links)
        first = stop


cdef bint add_up(Question* question) noexcept nogil:
    """Links from parts; False if memory is short."""
    cdef size_t count = question.part_count, i
    cdef const Part* part
    cdef Link* link = NULL
    cdef int64_t reach = 0
    question.links = <Link*> calloc(count + 1, sizeof(Link))
    if question.links is NULL or not sort_parts(question):
        return False
    for i in range(count):
        part = question.order[i]
        if link is NULL or link.target != part.target or link.source != part.source:
            link = &question.links[question.link_count]
            question.link_count += 1
            link.source = part.source
            link.target = part.target
            link.first = part.start
            link.last = part.end
            link.place = part.place
            link.source_ref = part.source_ref
            link.target_ref = part.target_ref
            reach = part.start
        elif part.place != question.order[i - 1].place:
            reach = part.start
        if part.start < link.first:
            link.first = part.start
            link.place = part.place
            link.source_ref = part.source_ref
            link.target_ref = part.target_ref
        link.last = max(link.last, part.end)
        link.meetings += 1
        link.flags |= part.flags
        if part.end > max(reach, part.start):
            link.time += min(part.end - max(reach, part.start), TIME_MAX - link.time)
            reach = part.end
    sort_links(question)
    return True


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
    tables, rows, count, epoch, *, from_ms, to_ms, linger_ms, latent_ms, places=None,
    parts_max=1 << 20
) -> tuple[bytes, bool]:
    """(packed LINK, whether all are there): meetings among the persons of packed TIERED.

    Positions are rows, but that all rows of tier 0, which come first, are position 0. Links of one
    target come together, most time first. parts_max: pairs of visits that are looked at. The rest
    as native.tiers.find_tiers. Raises ValueError, TypeError, MemoryError as that.
    """
    cdef list held = list(tables)
    cdef Py_buffer views[2]
    cdef int held_views = 0
    cdef Question question
    cdef int status = BROKEN
    cdef bint is_done = False
    cdef bytes found
    memset(&question, 0, sizeof(Question))
    question.key_count = <size_t> check_int(count, 0, UINT32_MAX, "count")
    read_scope(&question.scope, held, from_ms, to_ms, epoch)
    question.linger = check_int(linger_ms, 0, 1 << 40, "linger_ms")
    question.latent = check_int(latent_ms, 0, 1 << 40, "latent_ms")
    question.parts_max = <size_t> check_int(parts_max, 1, UINT32_MAX, "parts_max")
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
                is_done = add_up(&question)
        if not is_done:
            raise MemoryError
        found = PyBytes_FromStringAndSize(
            NULL, <Py_ssize_t> (question.link_count * sizeof(Link))
        )
        memcpy(PyBytes_AS_STRING(found), question.links, question.link_count * sizeof(Link))
        return found, status == DONE
    finally:
        free(question.rows)
        free(question.positions)
        free_table(&question.listed)
        free(question.parts)
        free(question.order)
        free(question.links)
        while held_views > 0:
            held_views -= 1
            PyBuffer_Release(&views[held_views])
