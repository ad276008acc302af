"""A trail: where persons were, the rows of their visits in all tables a question looks at.

The search goes in waves. A person's rows lie scattered over every table, and each step to them (a
door, the seats behind it, the visit of a seat) misses the cache. So a step is done for many
searches at once, after the memory of each was asked for: the misses overlap.
"""

from libc.stdint cimport UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from native.checks cimport check_int
from native.columns cimport (
    LENGTH_MAX, OF_DOORS, OF_SEATS, OF_WHOM, Columns, open_seat, open_whom, open_word, prefetch,
    presence_of,
)
from native.doors cimport door_of
from native.index cimport (
    TIME_MAX, Span, Table, VisitTable, complete, ended_at, fetch_visit, is_alive, load_span,
    may_have_person, may_overlap, person_at, place_at,
)
from native.scans cimport Seat
from native.stream cimport open_each, open_run
from native.visits cimport Visit

cdef enum:
    TABLES_MAX = 1024
    PERSONS_MAX = 256          # of whom a trail is asked for at a time
    WAVE = 32                  # searches
    SEATS_MAX = 32             # that are read one by one; behind a door are some ten
    WINDOW = 8                 # sealed seats that are opened at once
    BEFORE_GUESS = 3           # so many of them
    PAIRS = 5                  # words of the stream that a window lies in at most
    STEPS_AHEAD = 16           # whose visits are on their way while one is read


cdef struct Scope:             # what a question looks at
    const Table* tables[TABLES_MAX]
    size_t table_count
    int64_t start              # visits that overlap [start, end)
    int64_t end
    uint32_t epoch             # and count in it


cdef struct Step:              # a visit on a trail
    Span span
    const Table* table
    size_t at
    uint32_t place


cdef struct Trail:
    Step* steps                # owned
    size_t count
    size_t room


cdef struct Search:            # of one person in one table
    const Table* table
    size_t low                 # seats [low, stop) are to be read
    size_t stop
    size_t first               # of these the window [first, last) in columns, whose rows are known
    size_t last
    uint32_t person
    uint32_t rows[WINDOW]


cdef inline int read_scope(
    Scope* scope, list tables, object from_ms, object to_ms, object epoch
) except -1:
    """The tables live as long as the list. Raises ValueError, TypeError."""
    scope.table_count = 0
    if len(tables) > TABLES_MAX:
        raise ValueError("tables are too many")
    for table in tables:
        scope.tables[scope.table_count] = &(<VisitTable?> table).table
        scope.table_count += 1
    scope.start = check_int(from_ms, -TIME_MAX, TIME_MAX, "from_ms")
    scope.end = check_int(to_ms, -TIME_MAX, TIME_MAX, "to_ms")
    scope.epoch = <uint32_t> check_int(epoch, 0, UINT32_MAX, "epoch")
    return 0


cdef inline bint is_in_scope(const Scope* scope, const Span* span) noexcept nogil:
    return span.start < scope.end and span.end > scope.start and is_alive(span, scope.epoch)


cdef inline void approach(const Search* search) noexcept nogil:
    """First wave: the door is on its way."""
    cdef const Columns* columns = search.table.columns
    if columns is not NULL:
        prefetch(&columns.doors[<uint64_t> search.person >> columns.head.shift])
    else:
        prefetch(door_of(&search.table.persons, search.person))


cdef inline void enter(Search* search) noexcept nogil:
    """Second wave: the seats behind the door are known, and on their way."""
    cdef const Columns* columns = search.table.columns
    cdef const uint32_t* doors
    cdef size_t door, high, middle
    search.low = search.stop = search.first = search.last = 0
    if columns is not NULL:
        door = <uint64_t> search.person >> columns.head.shift
        if door >= columns.head.door_count:
            return
        search.low = open_word(columns, OF_DOORS, columns.doors, door)
        search.stop = open_word(columns, OF_DOORS, columns.doors, door + 1)
    else:
        doors = door_of(&search.table.persons, search.person)
        if doors is NULL:
            return
        search.low, search.stop = doors[0], doors[1]
    high = search.stop
    while high - search.low > SEATS_MAX:
        # Seldom: somebody was scanned a hundred times a day.
        middle = (search.low + high) // 2
        if person_at(search.table, middle) < search.person:
            search.low = middle + 1
        else:
            high = middle
    if columns is not NULL:
        set_window(search, high)
    elif search.low < search.stop:
        prefetch(&search.table.seats[search.low])
        prefetch(&search.table.seats[(search.low + high) // 2])
        prefetch(&search.table.seats[high - 1])


cdef inline void set_window(Search* search, size_t high) noexcept nogil:
    """Where the person's seats begin is guessed: persons behind a door have some as many each."""
    cdef const Columns* columns = search.table.columns
    cdef uint64_t behind = <uint64_t> 1 << columns.head.shift
    cdef size_t width = high - search.low, before = 0
    if width > WINDOW:
        before = (search.person & (behind - 1)) * width >> columns.head.shift
        before = min(before - min(before, <size_t> BEFORE_GUESS), width - WINDOW)
    search.first = search.low + before
    search.last = min(search.first + WINDOW, search.stop)
    if search.first < search.last:
        prefetch(&columns.seats[search.first])
        prefetch(&columns.seats[search.last - 1])


cdef inline void look_ahead(Search* search) noexcept nogil:
    """Third wave: the rows of the window are known, and who they are of is on its way."""
    cdef const Columns* columns = search.table.columns
    cdef uint64_t masks[PAIRS]
    cdef size_t pair = search.first // 2, i
    cdef uint32_t row
    if search.first == search.last:
        return
    memset(masks, 0, sizeof(masks))
    open_run(
        columns.key, <uint64_t> OF_SEATS << 56 | pair, masks, masks,
        (search.last - 1) // 2 + 1 - pair,
    )
    for i in range(search.first, search.last):
        row = columns.seats[i] ^ <uint32_t> (masks[i // 2 - pair] >> (32 * (i & 1)))
        search.rows[i - search.first] = row
        prefetch(&columns.whom[row])


cdef inline bint add_step(
    Trail* trail, const Table* table, size_t at, const Span* span
) noexcept nogil:
    """False if memory is short."""
    cdef Step* step
    cdef Step* grown
    cdef size_t room
    if trail.count == trail.room:
        room = 2 * trail.room + 64
        grown = <Step*> realloc(trail.steps, room * sizeof(Step))
        if grown is NULL:
            return False
        trail.steps = grown
        trail.room = room
    step = &trail.steps[trail.count]
    step.span = span[0]
    step.table = table
    step.at = at
    trail.count += 1
    return True


cdef inline bint read_seats(const Search* search, Trail* trail) noexcept nogil:
    """Fourth wave: the person's seats are steps, their visits on their way.

    False if memory is short.
    """
    cdef const Table* table = search.table
    cdef const Seat* seat
    cdef Span span = Span(0, 0, search.person, 0)
    cdef size_t i
    if table.columns is not NULL:
        return read_window(search, trail)
    for i in range(search.low, search.stop):
        seat = &table.seats[i]
        if seat.person > search.person:
            break
        if seat.person == search.person:
            fetch_visit(table, seat.at)
            if not add_step(trail, table, seat.at, &span):
                return False
    return True


cdef inline bint read_window(const Search* search, Trail* trail) noexcept nogil:
    """As read_seats in columns; where the window ends too soon, seats beside it are opened."""
    cdef const Table* table = search.table
    cdef const Columns* columns = table.columns
    cdef uint64_t numbers[WINDOW]
    cdef uint64_t words[WINDOW]
    cdef Span span = Span(0, 0, search.person, 0)
    cdef size_t count = search.last - search.first, first = search.first, at, i
    cdef uint64_t whom
    if count == 0:
        return True
    for i in range(count):
        numbers[i] = <uint64_t> OF_WHOM << 56 | search.rows[i]
        words[i] = columns.whom[search.rows[i]]
    open_each(columns.key, numbers, words, count)
    if <uint32_t> words[0] >= search.person:
        while first > search.low and person_at(table, first - 1) >= search.person:
            first -= 1
    for i in range(first, search.stop):
        if search.first <= i < search.last:
            at = search.rows[i - search.first]
            whom = words[i - search.first]
        else:
            at = open_seat(columns, i)
            whom = open_whom(columns, at)
        if <uint32_t> whom > search.person:
            break
        if <uint32_t> whom == search.person:
            prefetch(&columns.starts[at])
            prefetch(&columns.ended[at])
            prefetch(door_of(&table.rows, at))
            # Its length, until the start is there.
            span.end = <int64_t> (whom >> 32)
            if not add_step(trail, table, at, &span):
                return False
    return True


cdef inline void take_steps(Trail* trail, size_t first, const Scope* scope) noexcept nogil:
    """Last wave: steps from `first` on get their times, and those out of scope go."""
    cdef Step* step
    cdef const Table* table
    cdef size_t i, kept = first
    for i in range(first, trail.count):
        step = &trail.steps[i]
        table = step.table
        if table.columns is NULL or step.span.end == LENGTH_MAX:
            step.span = load_span(table, step.at)
        else:
            step.span.start = table.columns.head.base + table.columns.starts[step.at]
            step.span.end += step.span.start
            step.span.ended = ended_at(table, step.at)
        if is_in_scope(scope, &step.span):
            if table.columns is not NULL:
                prefetch(&table.places[door_of(&table.rows, step.at)[0]])
            trail.steps[kept] = step[0]
            kept += 1
    trail.count = kept
    for i in range(first, kept):
        trail.steps[i].place = place_at(trail.steps[i].table, trail.steps[i].at)


cdef inline bint search_all(
    Trail* trail, Search* searches, size_t count, const Scope* scope
) noexcept nogil:
    cdef size_t first = trail.count, i
    for i in range(count):
        enter(&searches[i])
    for i in range(count):
        look_ahead(&searches[i])
    for i in range(count):
        if not read_seats(&searches[i], trail):
            return False
    take_steps(trail, first, scope)
    return True


cdef inline void fetch_presence(const Scope* scope, uint32_t person) noexcept nogil:
    cdef size_t t
    for t in range(scope.table_count):
        if scope.tables[t].columns is not NULL:
            prefetch(presence_of(scope.tables[t].columns, person))


cdef inline bint follow(
    Trail* trail, const Scope* scope, const uint32_t* persons, size_t count
) noexcept nogil:
    """Adds the visits of persons; person by person, table by table, by place and start.

    False if memory is short. A trail begins as zeros; `leave` frees it.
    """
    cdef Search searches[WAVE]
    cdef size_t made = 0, i, t
    if count:
        fetch_presence(scope, persons[0])
    for i in range(count):
        if i + 1 < count:
            fetch_presence(scope, persons[i + 1])
        for t in range(scope.table_count):
            if not may_overlap(scope.tables[t], scope.start, scope.end):
                continue
            if not may_have_person(scope.tables[t], persons[i]):
                continue
            searches[made].table = scope.tables[t]
            searches[made].person = persons[i]
            approach(&searches[made])
            made += 1
            if made == WAVE:
                if not search_all(trail, searches, made, scope):
                    return False
                made = 0
    return search_all(trail, searches, made, scope)


cdef inline void fetch_rest(const Step* step) noexcept nogil:
    """What its span does not tell will be loaded soon."""
    cdef const Columns* columns = step.table.columns
    if columns is NULL:
        prefetch(&step.table.rests[step.at])
        return
    prefetch(&columns.kinds[step.at])
    prefetch(&columns.rooms[step.at])
    prefetch(&columns.ref_lows[step.at])
    prefetch(&columns.ref_highs[step.at])


cdef inline Visit visit_of_step(const Step* step) noexcept nogil:
    """The visit of a step; who it was and how long is not opened again."""
    return complete(step.table, step.at, step.place, &step.span)


cdef inline void leave(Trail* trail) noexcept nogil:
    free(trail.steps)
    memset(trail, 0, sizeof(Trail))
