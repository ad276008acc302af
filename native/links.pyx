"""Who can have infected whom: the meetings between persons of which tier and date are known.

The rules stand in engine.tiers (L), who is infectious and from when on as in native.tiers.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from native.checks cimport check_int
from native.columns cimport Place
from native.index cimport (
    TIME_MAX, Span, Table, find_later, find_near, find_place, is_alive, load_span, load_visit_of,
    may_overlap, whole,
)
from native.scans cimport room_for
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
    PASSAGE = 1                # engine.visits.VisitFlag
    SAME_VEHICLE = 2           # engine.contacts.PairFlag
    BROKEN = 0
    FULL = 1
    DONE = 2


cdef struct Tiered:            # engine.tiers.TIERED
    int64_t infected
    int64_t earliest
    uint32_t person
    uint8_t tier
    uint8_t spare[3]


cdef struct Link:              # 64 bytes, engine.tiers.LINK
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


cdef int meet(Question* question, const Step* step) noexcept nogil:
    """Parts of one visit of the person of a row, in all tables."""
    cdef size_t row = question.positions[step.span.person] - 1
    cdef const Tiered* source = &question.rows[row]
    cdef const Tiered* target
    cdef int64_t onset = source.earliest + question.latent if source.tier else -TIME_MAX
    cdef Visit mine
    cdef Visit theirs
    cdef Span span
    cdef const Place* place
    cdef const Table* other
    cdef bint is_passage
    cdef uint32_t found
    cdef int64_t start = max(step.span.start, onset), until
    cdef size_t t, i, low, high
    cdef bint is_together
    cdef Part part
    cdef int status
    if start >= step.span.end or not is_allowed(question, step.place):
        return DONE
    mine = load_visit_of(step.table, step.at, step.place)
    is_passage = mine.flags & PASSAGE
    if is_passage and not mine.vehicle:
        return DONE
    until = mine.end if is_passage else mine.end + question.linger
    for t in range(question.scope.table_count):
        other = question.scope.tables[t]
        if not may_overlap(other, start, until):
            continue
        place = find_place(other, mine.place)
        if place is NULL:
            continue
        low = find_near(other, place, start)
        high = find_later(other, low, place.stop, until)
        for i in range(low, high):
            span = load_span(other, i)
            if span.person >= question.key_count or not question.positions[span.person]:
                continue
            if span.end <= start or not is_alive(&span, question.scope.epoch):
                continue
            found = question.positions[span.person] - 1
            target = &question.rows[found]
            if found == row or target.tier == 0:
                continue
            if source.tier >= target.tier and source.earliest >= target.earliest:
                continue
            theirs = load_visit_of(other, i, mine.place)
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


cdef int collect(Question* question) noexcept nogil:
    """Parts of all rows."""
    cdef uint32_t persons[PERSONS_MAX]
    cdef size_t first = 0, count, i
    cdef Trail trail
    cdef int status = DONE
    memset(&trail, 0, sizeof(Trail))
    while status == DONE and first < question.row_count:
        count = min(question.row_count - first, <size_t> PERSONS_MAX)
        for i in range(count):
            persons[i] = question.rows[first + i].person
        trail.count = 0
        if not follow(&trail, &question.scope, persons, count):
            status = BROKEN
        i = 0
        while status == DONE and i < trail.count:
            status = meet(question, &trail.steps[i])
            i += 1
        first += count
    leave(&trail)
    return status


# ---- adding up ----------------------------------------------------------------------------------

cdef inline int sign(int64_t a, int64_t b) noexcept nogil:
    return (a > b) - (a < b)


cdef int compare_parts(const void* a, const void* b) noexcept nogil:
    """By target and source, then as they are added up; refs last, so that no two are alike."""
    cdef const Part* x = (<const Part**> a)[0]
    cdef const Part* y = (<const Part**> b)[0]
    cdef int found = sign(x.target, y.target)
    found = found or sign(x.source, y.source)
    found = found or sign(x.place, y.place)
    found = found or sign(x.start, y.start)
    found = found or sign(x.end, y.end)
    found = found or (x.target_ref > y.target_ref) - (x.target_ref < y.target_ref)
    return found or (x.source_ref > y.source_ref) - (x.source_ref < y.source_ref)


cdef int compare_links(const void* a, const void* b) noexcept nogil:
    """By target, most time first."""
    cdef const Link* x = <const Link*> a
    cdef const Link* y = <const Link*> b
    return sign(x.target, y.target) or sign(y.time, x.time) or sign(x.source, y.source)


cdef bint add_up(Question* question) noexcept nogil:
    """Links from parts; False if memory is short."""
    cdef size_t count = question.part_count, i
    cdef const Part* part
    cdef Link* link = NULL
    cdef int64_t reach = 0
    question.order = <const Part**> realloc(NULL, (count + 1) * sizeof(Part*))
    question.links = <Link*> realloc(NULL, (count + 1) * sizeof(Link))
    if question.order is NULL or question.links is NULL:
        return False
    for i in range(count):
        question.order[i] = &question.parts[i]
    if count > 1:
        qsort(question.order, count, sizeof(Part*), compare_parts)
    for i in range(count):
        part = question.order[i]
        if link is NULL or link.target != part.target or link.source != part.source:
            link = &question.links[question.link_count]
            question.link_count += 1
            memset(link, 0, sizeof(Link))
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
    if question.link_count > 1:
        qsort(question.links, question.link_count, sizeof(Link), compare_links)
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
        free(question.parts)
        free(question.order)
        free(question.links)
        while held_views > 0:
            held_views -= 1
            PyBuffer_Release(&views[held_views])
