"""Who met whom and for how long: rules K1 to K4 of engine.presence.contacts over the visits of the
index.

The layouts are those of engine.presence.visits and engine.presence.contacts. A question has some
hundred pairs, which lie scattered over memory: plain loops do, at every CPU level alike.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport (
    INT64_MAX, INT64_MIN, UINT32_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from native.checks cimport check_int
from native.index cimport (
    TIME_MAX, Span, Table, VisitTable, complete, is_alive, is_in_range, whole,
)
from native.near cimport Near, Nears, Stay, forget, look_around
from native.passes cimport Pass, set_out, span_on
from native.scans cimport Seat, room_for, sort_seats
from native.visits cimport Visit

cdef extern from "machine.h":
    uint32_t load_u32(const uint8_t* at) noexcept nogil

cdef extern from "stdlib.h":
    void qsort(
        void* items, size_t count, size_t size,
        int (*compare)(const void* a, const void* b) noexcept nogil,
    ) noexcept nogil

cdef enum:
    NOGIL_VISITS = 4096        # 0.3 ms or so; for less, getting the GIL back may take longer
    ROOM_FIRST = 256
    PASSAGE = 1                # engine.presence.visits.VisitFlag
    QUEUE = 1                  # engine.presence.contacts.PairFlag
    SAME_VEHICLE = 2
    SAME_ROOM = 4
    AFTER = 8
    BELOW = 0                  # engine.presence.contacts.Tier
    CANDIDATE = 1
    QUEUED = 2


cdef struct Pair:              # 80 bytes, engine.presence.contacts.PAIR
    uint32_t contact           # the person's number until the contacts are ranked
    uint32_t place
    int64_t case_start
    int64_t case_end
    int64_t other_start
    int64_t other_end
    int64_t overlap
    int64_t linger
    uint64_t case_ref
    uint64_t other_ref
    uint16_t case_room
    uint16_t other_room
    uint8_t case_rule
    uint8_t other_rule
    uint8_t flags
    uint8_t spare


cdef struct Contact:           # 64 bytes, engine.presence.contacts.CONTACT
    int64_t overlap
    int64_t linger
    int64_t best
    int64_t queue
    int64_t first
    int64_t last
    uint32_t pairs
    uint32_t places
    uint8_t tier
    uint8_t flags
    uint8_t spare[6]


cdef struct Person:
    Contact sums
    uint8_t key[16]
    uint32_t number
    size_t first               # order[first:first + sums.pairs] are the person's


cdef struct Question:
    int64_t linger
    int64_t queue
    int64_t least              # candidates: best of this or more
    int64_t window
    uint32_t epoch
    const uint8_t* keys        # 16 bytes by person
    size_t key_count
    const uint8_t* aliases     # u32, ascending: the case itself
    size_t alias_count
    Visit* case
    size_t case_count
    Stay* stays                # of the case, as long as others may meet it there
    Nears nears
    Pair* pairs
    size_t pair_count
    size_t pair_room
    Seat* seats                # of every pair, twice as many as there are
    const Pair** order         # sorts move pointers: libc is slow with anything wider
    Person* persons
    const Person** ranked
    size_t listed
    int64_t* times             # two columns as long as the pairs: starts and ends of one person
    size_t below


# ---- pairs (K1, K2) -----------------------------------------------------------------------------

cdef bint look(Question* question, const Table** tables, size_t table_count) noexcept nogil:
    """What is near the visits of the case; False if memory is short.

    K1: a visit at the same venue that begins before the case has left for longer than linger.
    """
    cdef const Visit* mine
    cdef size_t i
    for i in range(question.case_count):
        mine = &question.case[i]
        question.stays[i] = Stay(
            mine.start, mine.end if mine.flags & PASSAGE else mine.end + question.linger, mine.place
        )
    return look_around(&question.nears, tables, table_count, question.stays, question.case_count)


cdef bint is_alias(const Question* question, uint32_t person) noexcept nogil:
    cdef size_t low = 0, high = question.alias_count, middle
    while low < high:
        middle = (low + high) // 2
        if load_u32(question.aliases + 4 * middle) < person:
            low = middle + 1
        else:
            high = middle
    return low < question.alias_count and load_u32(question.aliases + 4 * low) == person


cdef bint collect(Question* question) noexcept nogil:
    """All pairs; False if memory is short."""
    cdef const Near* near
    cdef const Visit* mine
    cdef Pass going
    cdef Span span
    cdef Visit other
    cdef Pair* grown
    cdef size_t n, i
    for n in range(question.nears.count):
        near = &question.nears.items[n]
        mine = &question.case[near.stay]
        set_out(&going, near.table, near.high)
        for i in range(near.low, near.high):
            span = span_on(&going, i)
            if span.end <= mine.start or not is_alive(&span, question.epoch):
                continue
            if span.person >= question.key_count or is_alias(question, span.person):
                continue
            if question.pair_count == question.pair_room:
                if question.pair_room > UINT32_MAX // 2:
                    return False
                grown = <Pair*> realloc(question.pairs, 2 * question.pair_room * sizeof(Pair))
                if grown is NULL:
                    return False
                question.pairs = grown
                question.pair_room *= 2
            other = complete(near.table, i, mine.place, &span)
            question.pair_count += pair_up(
                mine, &other, question.linger, question.queue, &question.pairs[question.pair_count]
            )
    return True


cdef bint pair_up(
    const Visit* mine, const Visit* other, int64_t linger, int64_t queue, Pair* pair
) noexcept nogil:
    """The pair of two visits that K1 makes one; False where K2 does not."""
    cdef bint is_passage = mine.flags & PASSAGE
    cdef bint is_same_room = mine.room == other.room
    cdef bint is_same_vehicle = mine.vehicle > 0 and mine.vehicle == other.vehicle
    cdef int64_t apart = mine.start - other.start
    cdef int64_t until
    if is_passage and not is_same_vehicle and not (is_same_room and -queue <= apart <= queue):
        return False
    pair.contact = other.person
    pair.place = mine.place
    pair.case_start = mine.start
    pair.case_end = mine.end
    pair.other_start = other.start
    pair.other_end = other.end
    pair.overlap = max(min(mine.end, other.end) - max(mine.start, other.start), 0)
    until = min(mine.end if is_passage else mine.end + linger, other.end)
    pair.linger = max(until - max(mine.end, other.start), 0)
    pair.case_ref = mine.ref
    pair.other_ref = other.ref
    pair.case_room = mine.room
    pair.other_room = other.room
    pair.case_rule = mine.rule
    pair.other_rule = other.rule
    pair.flags = QUEUE if is_passage else 0
    if is_same_vehicle and pair.overlap > 0:
        pair.flags |= SAME_VEHICLE
    if is_same_room:
        pair.flags |= SAME_ROOM
    if pair.overlap == 0:
        pair.flags |= AFTER
    pair.spare = 0
    return True


# ---- adding up (K3, K4) -------------------------------------------------------------------------

cdef int sign(int64_t a, int64_t b) noexcept nogil:
    return (a > b) - (a < b)


cdef inline int64_t begun(const Pair* pair) noexcept nogil:
    """When both were there, or without an overlap when the other came."""
    return max(pair.case_start, pair.other_start)


cdef int compare_met(const void* a, const void* b) noexcept nogil:
    """Pairs of one person by place and begin, as they are added up."""
    cdef const Pair* x = (<const Pair**> a)[0]
    cdef const Pair* y = (<const Pair**> b)[0]
    return sign(x.place, y.place) or sign(begun(x), begun(y))


cdef int compare_times(const void* a, const void* b) noexcept nogil:
    return sign((<const int64_t*> a)[0], (<const int64_t*> b)[0])


cdef int compare_shown(const void* a, const void* b) noexcept nogil:
    """Pairs of one contact, as they are listed; refs last, so that no two are alike by chance."""
    cdef const Pair* x = (<const Pair**> a)[0]
    cdef const Pair* y = (<const Pair**> b)[0]
    cdef int found = sign(x.case_start, y.case_start)
    found = found or sign(x.place, y.place)
    found = found or sign(x.case_end, y.case_end)
    found = found or sign(x.other_start, y.other_start)
    found = found or sign(x.other_end, y.other_end)
    found = found or (x.case_ref > y.case_ref) - (x.case_ref < y.case_ref)
    return found or (x.other_ref > y.other_ref) - (x.other_ref < y.other_ref)


cdef int compare_persons(const void* a, const void* b) noexcept nogil:
    """Best first: tier, vehicle, time together, venues, time in the queue, and the key."""
    cdef const Person* x = (<const Person**> a)[0]
    cdef const Person* y = (<const Person**> b)[0]
    cdef int found = sign(x.sums.tier, y.sums.tier)
    found = found or sign(y.sums.flags & SAME_VEHICLE, x.sums.flags & SAME_VEHICLE)
    found = found or sign(y.sums.overlap + y.sums.linger, x.sums.overlap + x.sums.linger)
    found = found or sign(y.sums.places, x.sums.places)
    found = found or sign(y.sums.queue, x.sums.queue)
    return found or memcmp(x.key, y.key, sizeof(x.key))


cdef struct Cursor:            # starts and ends passed so far, and what they add to time_before
    size_t starts
    size_t ends
    uint64_t constant


cdef uint64_t time_before(
    Cursor* cursor, const int64_t* starts, const int64_t* ends, size_t count, int64_t x
) noexcept nogil:
    """F(x) = sum over spans of max(0, min(x, end) - start); x never falls from call to call."""
    while cursor.starts < count and starts[cursor.starts] < x:
        cursor.constant -= <uint64_t> starts[cursor.starts]
        cursor.starts += 1
    while cursor.ends < count and ends[cursor.ends] < x:
        cursor.constant += <uint64_t> ends[cursor.ends]
        cursor.ends += 1
    return cursor.constant + <uint64_t> (cursor.starts - cursor.ends) * <uint64_t> x


cdef int64_t most_in_window(
    int64_t* starts, int64_t* ends, size_t count, int64_t window
) noexcept nogil:
    """The most time that spans cover within any window, TIME_MAX if it is more.

    A window from w covers F(w + window) - F(w). That is piecewise linear in w and has its maxima
    where the window begins with a span or ends with one, so only these windows are looked at. F
    needs no spans, only their starts and their ends, each sorted for itself.
    """
    cdef Cursor low, high
    cdef uint64_t before, best = 0
    cdef size_t i
    if count > 1:
        qsort(starts, count, sizeof(int64_t), compare_times)
        qsort(ends, count, sizeof(int64_t), compare_times)
    memset(&low, 0, sizeof(Cursor))
    memset(&high, 0, sizeof(Cursor))
    for i in range(count):
        before = time_before(&low, starts, ends, count, starts[i])
        best = max(best, time_before(&high, starts, ends, count, starts[i] + window) - before)
    memset(&low, 0, sizeof(Cursor))
    memset(&high, 0, sizeof(Cursor))
    for i in range(count):
        before = time_before(&low, starts, ends, count, ends[i] - window)
        best = max(best, time_before(&high, starts, ends, count, ends[i]) - before)
    return <int64_t> min(best, <uint64_t> TIME_MAX)


cdef void add(int64_t* sum, int64_t* reach, int64_t start, int64_t end) noexcept nogil:
    """K3: add what [start, end) covers beyond `reach`, up to TIME_MAX in all."""
    start = max(start, reach[0])
    if end > start:
        sum[0] += min(end - start, TIME_MAX - sum[0])
        reach[0] = end


cdef void add_up(
    const Question* question, const Pair** pairs, size_t count, Contact* sums
) noexcept nogil:
    """The contact that the pairs of one person, sorted, add up to. K4 gives the tier."""
    cdef int64_t* starts = question.times
    cdef int64_t* ends = question.times + question.pair_count
    cdef const Pair* pair
    cdef int64_t start, met, ended, exposed = 0
    cdef int64_t met_reach = 0, ended_reach = 0, queue_reach = 0
    cdef bint is_venue = False
    cdef size_t i, spans = 0
    memset(sums, 0, sizeof(Contact))
    sums.first = begun(pairs[0])
    sums.last = sums.first
    sums.pairs = <uint32_t> count
    for i in range(count):
        pair = pairs[i]
        start = begun(pair)
        # Linger follows the overlap without a gap; without one it begins where the pair does.
        met = start + pair.overlap
        ended = met + pair.linger
        if i == 0 or pair.place != pairs[i - 1].place:
            met_reach = ended_reach = queue_reach = start
            is_venue = False
        sums.first = min(sums.first, start)
        sums.last = max(sums.last, ended)
        sums.flags |= pair.flags
        if pair.flags & QUEUE:
            add(&sums.queue, &queue_reach, start, met)
            continue
        if not is_venue:
            is_venue = True
            sums.places += 1
        add(&sums.overlap, &met_reach, start, met)
        if ended > ended_reach:
            starts[spans] = max(start, ended_reach)
            ends[spans] = ended
            spans += 1
        add(&exposed, &ended_reach, start, ended)
    sums.linger = exposed - sums.overlap
    sums.best = most_in_window(starts, ends, spans, question.window)
    if sums.flags & SAME_VEHICLE or (sums.best > 0 and sums.best >= question.least):
        sums.tier = CANDIDATE
    else:
        sums.tier = QUEUED if sums.flags & QUEUE else BELOW


cdef bint make_room(Question* question) noexcept nogil:
    """For as many persons as there are pairs; False if memory is short."""
    cdef size_t count = question.pair_count + 1
    question.seats = <Seat*> malloc(2 * count * sizeof(Seat))
    question.order = <const Pair**> malloc(count * sizeof(Pair*))
    question.persons = <Person*> malloc(count * sizeof(Person))
    question.ranked = <const Person**> malloc(count * sizeof(Person*))
    question.times = <int64_t*> malloc(2 * count * sizeof(int64_t))
    if question.seats is NULL or question.order is NULL or question.persons is NULL:
        return False
    return question.ranked is not NULL and question.times is not NULL


cdef void sort_by_person(Question* question) noexcept nogil:
    cdef Seat* seats = question.seats
    cdef size_t i
    cdef uint32_t last = 0
    for i in range(question.pair_count):
        seats[i] = Seat(question.pairs[i].contact, <uint32_t> i)
        last = max(last, seats[i].person)
    seats = sort_seats(seats, seats + question.pair_count, question.pair_count, last)
    for i in range(question.pair_count):
        question.order[i] = &question.pairs[seats[i].at]


cdef void rank(Question* question) noexcept nogil:
    """Persons from pairs, best first, the pairs of each as they are listed."""
    cdef size_t first = 0, stop
    cdef Person* person
    cdef const Pair** order = question.order
    sort_by_person(question)
    while first < question.pair_count:
        stop = first + 1
        while stop < question.pair_count and order[stop].contact == order[first].contact:
            stop += 1
        if stop - first > 1:
            qsort(order + first, stop - first, sizeof(Pair*), compare_met)
        person = &question.persons[question.listed]
        add_up(question, order + first, stop - first, &person.sums)
        if person.sums.tier == BELOW:
            question.below += 1
        else:
            person.number = order[first].contact
            memcpy(person.key, question.keys + 16 * <size_t> person.number, 16)
            person.first = first
            if stop - first > 1:
                qsort(order + first, stop - first, sizeof(Pair*), compare_shown)
            question.ranked[question.listed] = person
            question.listed += 1
        first = stop
    qsort(question.ranked, question.listed, sizeof(Person*), compare_persons)


cdef bint answer(Question* question) noexcept nogil:
    if not collect(question) or not make_room(question):
        return False
    rank(question)
    return True


# ---- the question -------------------------------------------------------------------------------

cdef int read_case(Question* question, const Py_buffer* view) except -1:
    cdef size_t i
    question.case_count = <size_t> whole(view, sizeof(Visit), "case")
    question.case = <Visit*> room_for(question.case_count, sizeof(Visit))
    question.stays = <Stay*> room_for(question.case_count, sizeof(Stay))
    for i in range(question.case_count):
        memcpy(
            &question.case[i], <const uint8_t*> view.buf + i * sizeof(Visit), sizeof(Visit)
        )
        if not is_in_range(&question.case[i]):
            raise ValueError("a visit of the case is out of range")
    return 0


cdef int read_people(
    Question* question, const Py_buffer* persons, const Py_buffer* keys
) except -1:
    cdef size_t i
    question.aliases = <const uint8_t*> persons.buf
    question.alias_count = <size_t> whole(persons, 4, "persons")
    for i in range(1, question.alias_count):
        if load_u32(question.aliases + 4 * (i - 1)) >= load_u32(question.aliases + 4 * i):
            raise ValueError("persons do not ascend")
    question.keys = <const uint8_t*> keys.buf
    question.key_count = <size_t> whole(keys, 16, "keys")
    return 0


cdef tuple listed(const Question* question, size_t limit):
    """(numbers, contacts, pairs) of the first `limit` contacts."""
    cdef size_t shown = min(question.listed, limit), pair_count = 0, i, j
    cdef bytes numbers, contacts, pairs
    cdef uint8_t* number_at
    cdef uint8_t* contact_at
    cdef uint8_t* pair_at
    cdef const Person* person
    cdef Pair pair
    for i in range(shown):
        pair_count += question.ranked[i].sums.pairs
    numbers = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (4 * shown))
    contacts = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (sizeof(Contact) * shown))
    pairs = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (sizeof(Pair) * pair_count))
    number_at = <uint8_t*> PyBytes_AS_STRING(numbers)
    contact_at = <uint8_t*> PyBytes_AS_STRING(contacts)
    pair_at = <uint8_t*> PyBytes_AS_STRING(pairs)
    for i in range(shown):
        person = question.ranked[i]
        memcpy(number_at + 4 * i, &person.number, 4)
        memcpy(contact_at + sizeof(Contact) * i, &person.sums, sizeof(Contact))
        for j in range(person.first, person.first + person.sums.pairs):
            pair = question.order[j][0]
            pair.contact = <uint32_t> i
            memcpy(pair_at, &pair, sizeof(Pair))
            pair_at += sizeof(Pair)
    return numbers, contacts, pairs


def find_contacts(
    tables, case, persons, keys, epoch, *, linger_ms, queue_ms, min_ms, window_ms, limit
) -> tuple[bytes, bytes, bytes, int, int]:
    """Who met the case, ranked: (numbers, contacts, pairs, total, below).

    tables: VisitTable, all there are. case: packed VISIT of the case. persons: its numbers (u32,
    ascending), never contacts themselves. keys: 16 bytes by person; who has none is not there.
    epoch: see VisitTable. linger_ms, queue_ms, window_ms: of 0 .. 2**62-1. min_ms: the threshold
    of K4. limit: most contacts given. numbers: u32 of each contact; contacts: CONTACT; pairs: PAIR,
    in the order of the contacts; total: contacts without the limit; below: persons under the
    threshold.
    Raises ValueError for a buffer of a broken size, for visits out of range, for numbers out of
    theirs; TypeError for what is no VisitTable; MemoryError.
    """
    cdef list held_tables = list(tables)
    cdef Py_buffer views[3]
    cdef int held = 0
    cdef Question question
    cdef const Table** found_tables = NULL
    cdef size_t shown, i
    cdef bint is_done
    memset(&question, 0, sizeof(Question))
    question.epoch = <uint32_t> check_int(epoch, 0, UINT32_MAX, "epoch")
    question.linger = check_int(linger_ms, 0, TIME_MAX, "linger_ms")
    question.queue = check_int(queue_ms, 0, TIME_MAX, "queue_ms")
    question.least = check_int(min_ms, INT64_MIN, INT64_MAX, "min_ms")
    question.window = check_int(window_ms, 0, TIME_MAX, "window_ms")
    shown = <size_t> check_int(limit, 0, INT64_MAX, "limit")
    try:
        for column in (case, persons, keys):
            PyObject_GetBuffer(column, &views[held], PyBUF_SIMPLE)
            held += 1
        read_case(&question, &views[0])
        read_people(&question, &views[1], &views[2])
        found_tables = <const Table**> room_for(<size_t> len(held_tables), sizeof(Table*))
        for i in range(<size_t> len(held_tables)):
            found_tables[i] = &(<VisitTable?> held_tables[i]).table
        question.pairs = <Pair*> room_for(ROOM_FIRST, sizeof(Pair))
        question.pair_room = ROOM_FIRST
        if not look(&question, found_tables, <size_t> len(held_tables)):
            raise MemoryError
        if question.nears.rows >= NOGIL_VISITS:
            with nogil:
                is_done = answer(&question)
        else:
            is_done = answer(&question)
        if not is_done:
            raise MemoryError
        return *listed(&question, shown), question.listed, question.below
    finally:
        close(&question)
        free(<void*> found_tables)
        while held > 0:
            held -= 1
            PyBuffer_Release(&views[held])


cdef void close(Question* question) noexcept:
    free(question.case)
    free(question.stays)
    forget(&question.nears)
    free(question.pairs)
    free(question.seats)
    free(question.order)
    free(question.persons)
    free(question.ranked)
    free(question.times)
