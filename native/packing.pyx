"""Writes a day's visits and scans as columns (native.columns) out of layers and older days.

Visits are merged as they stand: by place and start. A scan that its visit tells in full is not
stored beside it; which one that is, is tried and not deduced.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport (
    INT64_MAX, INT64_MIN, UINT32_MAX, int64_t, uint16_t, uint32_t, uint64_t,
)
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from native.checks cimport check_int
from native.columns cimport (
    DIRECTION_BITS, DIRECTION_SHIFT, FLAG_BITS, FLAG_SHIFT, LENGTH_MAX, NO_PERSON, ODD_WORDS,
    OF_CHECK, OF_DOORS, OF_ODDS, OF_SCAN_DOORS, OF_SCANS, OF_SEATS, OF_WHOM, ONE_SCAN, RULE_BITS,
    SCAN_KIND_BITS, SCAN_KIND_SHIFT, SCAN_WORDS, SCANS_MAX, SCANS_SHIFT, Columns, Head, Odd, Place,
    Visit, begun_minutes, open_scan_person, open_seat, open_whom, plain_visit, stream,
)
from native.index cimport (
    TIME_MAX, Table, VisitTable, ended_at, find_later, load_visit_of, may_overlap, start_at,
)
from native.scans cimport (
    RUNS_MAX, Run, Scan, ScanRun, Seat, join_copies, room_for, scan_of, scan_of_row, sort_scans,
    sort_seats, stored_scan,
)
from native.stream cimport open_run

cdef enum:
    TABLES_MAX = 256
    PAGE = 4096                # a value as long as a page stands in pages of its own, aligned


cdef struct Bounds:            # rows [low, high) of a table
    size_t low
    size_t high


cdef struct Day:               # what is being written; its arrays belong to bytearrays
    Columns columns
    uint32_t* starts
    uint64_t* whom
    uint32_t* ref_lows
    uint16_t* ref_highs
    uint16_t* rooms
    uint16_t* kinds
    Place* places
    uint32_t* seats
    Odd* odds                  # owned
    size_t odd_room
    Scan* scans                # owned
    size_t scan_room
    Seat* by_person            # owned, twice the rows
    Seat* sorted_seats
    Table* tables[TABLES_MAX]
    size_t table_count
    Bounds* bounds             # owned: of each place of each table the rows of the day
    size_t first_bounds[TABLES_MAX]
    uint32_t* row_places       # owned: the place of each row written
    const Run* runs[RUNS_MAX]
    size_t run_count
    int64_t low
    int64_t high
    uint32_t epoch
    Scan* loose                # owned: the scans of one person
    size_t loose_count
    size_t loose_room


cdef struct Walker:            # a run, gone through person by person
    const Run* run
    size_t at                  # the next scan; in columns the next one that is stored
    size_t seat                # in columns the next seat
    uint64_t person            # of these, NO_PERSON behind the last


cdef bint find_rows(Day* day) noexcept nogil:
    """Which rows of the tables begin on the day, and what the living among them count from.

    False if memory is short.
    """
    cdef size_t bounds = 0, t, p, row, low, high
    cdef const Table* table
    for t in range(day.table_count):
        bounds += day.tables[t].place_count
    day.bounds = <Bounds*> malloc((bounds + 1) * sizeof(Bounds))
    if day.bounds is NULL:
        return False
    bounds = 0
    for t in range(day.table_count):
        table = day.tables[t]
        day.first_bounds[t] = bounds
        for p in range(table.place_count):
            low = find_later(table, table.places[p].first, table.places[p].stop, day.low)
            high = find_later(table, low, table.places[p].stop, day.high)
            day.bounds[bounds] = Bounds(low, high)
            bounds += 1
            for row in range(low, high):
                if ended_at(table, row) > day.epoch:
                    measure(&day.columns.head, table, row, table.places[p].number)
    return True


cdef inline void measure(
    Head* head, const Table* table, size_t row, uint32_t number
) noexcept nogil:
    cdef Visit visit = load_visit_of(table, row, number)
    head.count += 1
    head.base = min(head.base, visit.start)
    head.ref_base = min(head.ref_base, visit.ref)
    head.least = min(head.least, visit.start)
    head.greatest = max(head.greatest, visit.end)


cdef size_t next_place(const Day* day, const size_t* at) noexcept nogil:
    """The table with the lowest place at its cursor, table_count when all are through."""
    cdef size_t t, least = day.table_count
    cdef uint32_t number = 0
    for t in range(day.table_count):
        if at[t] < day.tables[t].place_count and (
            least == day.table_count or day.tables[t].places[at[t]].number < number
        ):
            least = t
            number = day.tables[t].places[at[t]].number
    return least


cdef bint write_rows(Day* day) noexcept nogil:
    """The visits of the day by place and start; False if memory is short."""
    cdef size_t at[TABLES_MAX]
    cdef Bounds left[TABLES_MAX]
    cdef size_t made = 0, first, t, least
    cdef uint32_t number
    cdef int64_t start = 0, longest
    cdef Visit visit
    memset(at, 0, sizeof(at))
    while True:
        least = next_place(day, at)
        if least == day.table_count:
            return True
        number = day.tables[least].places[at[least]].number
        for t in range(day.table_count):
            left[t] = Bounds(0, 0)
            if (
                at[t] < day.tables[t].place_count
                and day.tables[t].places[at[t]].number == number
            ):
                left[t] = day.bounds[day.first_bounds[t] + at[t]]
                at[t] += 1
        first = made
        longest = 0
        while True:
            least = day.table_count
            for t in range(day.table_count):
                if left[t].low < left[t].high and (
                    least == day.table_count or start_at(day.tables[t], left[t].low) < start
                ):
                    least = t
                    start = start_at(day.tables[t], left[t].low)
            if least == day.table_count:
                break
            if ended_at(day.tables[least], left[least].low) > day.epoch:
                visit = load_visit_of(day.tables[least], left[least].low, number)
                longest = max(longest, visit.end - visit.start)
                day.row_places[made] = number
                if not write_visit(day, &visit, made):
                    return False
                made += 1
            left[least].low += 1
        if made > first:
            place_made(day, first, made, longest, number)


cdef void place_made(
    Day* day, size_t first, size_t stop, int64_t longest, uint32_t number
) noexcept nogil:
    day.places[day.columns.head.place_count] = Place(
        <uint32_t> first, <uint32_t> stop, begun_minutes(longest), number
    )
    day.columns.head.place_count += 1


cdef bint write_visit(Day* day, const Visit* visit, size_t row) noexcept nogil:
    """False if memory is short."""
    cdef uint64_t start = <uint64_t> (visit.start - day.columns.head.base)
    cdef uint64_t length = <uint64_t> (visit.end - visit.start)
    cdef uint64_t ref = visit.ref - day.columns.head.ref_base
    cdef uint16_t kind
    cdef bint is_odd = (
        visit.vehicle != 0 or visit.scans == 0 or visit.scans > SCANS_MAX
        or visit.rule > RULE_BITS or visit.flags > FLAG_BITS or visit.direction > DIRECTION_BITS
        or length >= LENGTH_MAX or ref >> 48 != 0
    )
    kind = (
        (visit.rule & RULE_BITS)
        | (visit.flags & FLAG_BITS) << FLAG_SHIFT
        | (visit.direction & DIRECTION_BITS) << DIRECTION_SHIFT
    )
    if not is_odd:
        kind |= visit.scans << SCANS_SHIFT
    day.starts[row] = <uint32_t> start
    day.whom[row] = min(length, <uint64_t> LENGTH_MAX) << 32 | visit.person
    day.ref_lows[row] = <uint32_t> ref
    day.ref_highs[row] = <uint16_t> (ref >> 32)
    day.rooms[row] = visit.room
    day.kinds[row] = kind
    return keep_odd(day, visit, row) if is_odd else True


cdef bint keep_odd(Day* day, const Visit* visit, size_t row) noexcept nogil:
    cdef Odd* grown
    cdef size_t room = max(2 * day.odd_room, <size_t> 64)
    if day.columns.head.odd_count == day.odd_room:
        grown = <Odd*> realloc(day.odds, room * sizeof(Odd))
        if grown is NULL:
            return False
        day.odds = grown
        day.odd_room = room
    day.odds[day.columns.head.odd_count].row = row
    day.odds[day.columns.head.odd_count].visit = visit[0]
    day.columns.head.odd_count += 1
    return True


cdef Visit written_visit(const Day* day, size_t row, uint32_t place) noexcept nogil:
    """The visit of a row that is not sealed yet."""
    cdef size_t low = 0, high = day.columns.head.odd_count, middle
    if day.kinds[row] >> SCANS_SHIFT == 0:
        while low < high:
            middle = (low + high) // 2
            if day.odds[middle].row < row:
                low = middle + 1
            else:
                high = middle
        return day.odds[low].visit
    return plain_visit(&day.columns, row, day.whom[row], place)


# ---- by person ----------------------------------------------------------------------------------

cdef bint sort_rows(Day* day) noexcept nogil:
    """Seats and their doors; False if memory is short."""
    cdef size_t count = day.columns.head.count, i
    cdef uint32_t last = 0
    day.by_person = <Seat*> malloc(2 * (count + 1) * sizeof(Seat))
    if day.by_person is NULL:
        return False
    for i in range(count):
        day.by_person[i] = Seat(<uint32_t> day.whom[i], <uint32_t> i)
        last = max(last, <uint32_t> day.whom[i])
    day.sorted_seats = sort_seats(day.by_person, day.by_person + count, count, last)
    for i in range(count):
        day.seats[i] = day.sorted_seats[i].at
    return True


cdef bint keep_scan(Day* day, const Scan* scan) noexcept nogil:
    cdef Scan* grown
    cdef size_t room = max(2 * day.scan_room, <size_t> 256)
    if day.columns.head.scan_count == day.scan_room:
        grown = <Scan*> realloc(day.scans, room * sizeof(Scan))
        if grown is NULL:
            return False
        day.scans = grown
        day.scan_room = room
    day.scans[day.columns.head.scan_count] = scan[0]
    day.columns.head.scan_count += 1
    return True


cdef bint is_told(Day* day, const Scan* scan, size_t first, size_t stop) noexcept nogil:
    """Whether a visit of the person's seats [first, stop) is this scan; if so that is noted."""
    cdef Scan told
    cdef Visit visit
    cdef size_t i, row
    for i in range(first, stop):
        row = day.sorted_seats[i].at
        if day.columns.head.base + day.starts[row] != scan.time or day.kinds[row] & ONE_SCAN:
            continue
        if day.row_places[row] != scan.place:
            continue
        visit = written_visit(day, row, scan.place)
        if visit.scans != 1:
            continue
        if scan.kind > SCAN_KIND_BITS:
            continue
        told = scan_of(&visit, scan.kind)
        if memcmp(&told, scan, sizeof(Scan)) == 0:
            day.kinds[row] |= ONE_SCAN | <uint16_t> scan.kind << SCAN_KIND_SHIFT
            return True
    return False


cdef void go_on(Walker* walker) noexcept nogil:
    """Sets the person of what comes next."""
    cdef const Columns* columns = walker.run.columns
    walker.person = NO_PERSON
    if columns is NULL:
        if walker.at < walker.run.count:
            walker.person = walker.run.scans[walker.at].person
        return
    if walker.seat < columns.head.count:
        walker.person = <uint32_t> open_whom(columns, open_seat(columns, walker.seat))
    if walker.at < columns.head.scan_count:
        walker.person = min(walker.person, <uint64_t> open_scan_person(columns, walker.at))


cdef bint keep_loose(Day* day, const Scan* scan) noexcept nogil:
    """One of the scans of a person, if it lies on the day; False if memory is short."""
    cdef Scan* grown
    cdef size_t room = max(2 * day.loose_room, <size_t> 64)
    if not day.low <= scan.time < day.high:
        return True
    if day.loose_count == day.loose_room:
        grown = <Scan*> realloc(day.loose, room * sizeof(Scan))
        if grown is NULL:
            return False
        day.loose = grown
        day.loose_room = room
    day.loose[day.loose_count] = scan[0]
    day.loose_count += 1
    return True


cdef bint take_loose(Day* day, Walker* walker) noexcept nogil:
    """The scans of the person that comes next; False if memory is short."""
    cdef const Run* run = walker.run
    cdef const Columns* columns = run.columns
    cdef uint64_t person = walker.person
    cdef size_t row
    cdef Scan scan
    if columns is NULL:
        while walker.at < run.count and run.scans[walker.at].person == person:
            if not keep_loose(day, &run.scans[walker.at]):
                return False
            walker.at += 1
        go_on(walker)
        return True
    while walker.seat < columns.head.count:
        row = open_seat(columns, walker.seat)
        if <uint32_t> open_whom(columns, row) != person:
            break
        walker.seat += 1
        # Of a visit that has ended the scan is still one.
        if columns.kinds[row] & ONE_SCAN:
            scan = scan_of_row(columns, row)
            if not keep_loose(day, &scan):
                return False
    while walker.at < columns.head.scan_count and open_scan_person(columns, walker.at) == person:
        scan = stored_scan(columns, walker.at)
        if not keep_loose(day, &scan):
            return False
        walker.at += 1
    go_on(walker)
    return True


cdef bint take_scans(Day* day) noexcept nogil:
    """The scans of the day, person by person; False if memory is short."""
    cdef Walker walkers[RUNS_MAX]
    cdef uint64_t person
    cdef size_t r, i, count, seat = 0, stop
    cdef Columns* columns = &day.columns
    columns.head.first_scan = INT64_MAX
    columns.head.last_scan = INT64_MIN
    for r in range(day.run_count):
        walkers[r] = Walker(day.runs[r], 0, 0, NO_PERSON)
        go_on(&walkers[r])
    while True:
        person = NO_PERSON
        for r in range(day.run_count):
            person = min(person, walkers[r].person)
        if person == NO_PERSON:
            return True
        day.loose_count = 0
        for r in range(day.run_count):
            if walkers[r].person == person and not take_loose(day, &walkers[r]):
                return False
        sort_scans(day.loose, day.loose_count)
        count = join_copies(day.loose, day.loose_count)
        while seat < columns.head.count and day.sorted_seats[seat].person < person:
            seat += 1
        stop = seat
        while stop < columns.head.count and day.sorted_seats[stop].person == person:
            stop += 1
        for i in range(count):
            columns.head.longest_stay = max(columns.head.longest_stay, day.loose[i].stay)
            columns.head.first_scan = min(columns.head.first_scan, day.loose[i].time)
            columns.head.last_scan = max(columns.head.last_scan, day.loose[i].time)
            if not is_told(day, &day.loose[i], seat, stop) and not keep_scan(day, &day.loose[i]):
                return False
        columns.head.total_scans += count


cdef uint32_t find_shift(uint32_t last, size_t count) noexcept nogil:
    """So that some ten rows are behind each door."""
    cdef uint32_t shift = 0
    while <uint64_t> last >> shift > count // 8:
        shift += 1
    return shift


# ---- sealing ------------------------------------------------------------------------------------

cdef void seal_words(
    const Columns* columns, uint64_t column, uint32_t* words, size_t count
) noexcept nogil:
    """Two words share one of the stream. words: aligned to 8."""
    cdef uint64_t* pairs = <uint64_t*> words
    open_run(columns.key, column << 56, pairs, pairs, count // 2)
    if count & 1:
        words[count - 1] ^= <uint32_t> stream(columns, column, count >> 1)


cdef void seal_longs(
    const Columns* columns, uint64_t column, uint64_t* words, size_t count
) noexcept nogil:
    open_run(columns.key, column << 56, words, words, count)


# ---- the door -----------------------------------------------------------------------------------

cdef bytearray room(size_t count, size_t size):
    """A column that begins as zeros."""
    return bytearray(max(count * size, <size_t> PAGE))


cdef bytearray fitted(bytearray column, size_t count, size_t size):
    """Without the room that was not needed."""
    PyByteArray_Resize(column, <Py_ssize_t> max(count * size, <size_t> PAGE))
    return column


cdef dict columns_of(Day* day):
    """Room for as many visits as were counted, and the addresses of it in `day`."""
    cdef size_t count = day.columns.head.count, places = 0, t
    cdef dict made = {}
    for t in range(day.table_count):
        places += day.tables[t].place_count
    for name, size in (
        ("starts", 4), ("whom", 8), ("ref_lows", 4), ("ref_highs", 2), ("rooms", 2), ("kinds", 2),
        ("seats", 4),
    ):
        made[name] = room(count, size)
    made["places"] = room(min(places, count), sizeof(Place))
    day.starts = <uint32_t*> address(made, "starts")
    day.whom = <uint64_t*> address(made, "whom")
    day.ref_lows = <uint32_t*> address(made, "ref_lows")
    day.ref_highs = <uint16_t*> address(made, "ref_highs")
    day.rooms = <uint16_t*> address(made, "rooms")
    day.kinds = <uint16_t*> address(made, "kinds")
    day.seats = <uint32_t*> address(made, "seats")
    day.places = <Place*> address(made, "places")
    # For `plain_visit`, which reads them while they are open.
    day.columns.starts = day.starts
    day.columns.ref_lows = day.ref_lows
    day.columns.ref_highs = day.ref_highs
    day.columns.rooms = day.rooms
    day.columns.kinds = day.kinds
    return made


cdef char* address(dict made, str name) except NULL:
    return PyByteArray_AS_STRING(<bytearray> made[name])


cdef int make_doors(Day* day, dict made) except -1:
    """Of each so many persons the first seat and the first scan."""
    cdef size_t count = day.columns.head.count, scans = day.columns.head.scan_count, i, door = 0
    cdef uint32_t last = day.sorted_seats[count - 1].person if count else 0
    cdef uint32_t* doors
    day.columns.head.shift = find_shift(last, count)
    day.columns.head.door_count = (<uint64_t> last >> day.columns.head.shift) + 1
    made["doors"] = room(day.columns.head.door_count + 1, 4)
    doors = <uint32_t*> address(made, "doors")
    for i in range(count):
        while door <= day.sorted_seats[i].person >> day.columns.head.shift:
            doors[door] = <uint32_t> i
            door += 1
    while door <= day.columns.head.door_count:
        doors[door] = <uint32_t> count
        door += 1
    seal_words(&day.columns, OF_DOORS, doors, day.columns.head.door_count + 1)
    last = day.scans[scans - 1].person if scans else 0
    day.columns.head.scan_shift = find_shift(last, scans)
    day.columns.head.scan_door_count = (<uint64_t> last >> day.columns.head.scan_shift) + 1
    made["scan_doors"] = room(day.columns.head.scan_door_count + 1, 4)
    doors = <uint32_t*> address(made, "scan_doors")
    door = 0
    for i in range(scans):
        while door <= day.scans[i].person >> day.columns.head.scan_shift:
            doors[door] = <uint32_t> i
            door += 1
    while door <= day.columns.head.scan_door_count:
        doors[door] = <uint32_t> scans
        door += 1
    seal_words(&day.columns, OF_SCAN_DOORS, doors, day.columns.head.scan_door_count + 1)
    return 0


cdef int seal_rows(Day* day, dict made) except -1:
    cdef size_t scans = day.columns.head.scan_count, odds = day.columns.head.odd_count
    made["scans"] = room(scans, sizeof(Scan))
    if scans:
        memcpy(address(made, "scans"), day.scans, scans * sizeof(Scan))
    made["odds"] = room(odds, sizeof(Odd))
    if odds:
        memcpy(address(made, "odds"), day.odds, odds * sizeof(Odd))
    cdef uint32_t* scan_words = <uint32_t*> address(made, "scans")
    cdef uint64_t* odd_words = <uint64_t*> address(made, "odds")
    with nogil:
        seal_words(&day.columns, OF_SCANS, scan_words, scans * SCAN_WORDS)
        seal_longs(&day.columns, OF_ODDS, odd_words, odds * ODD_WORDS)
        seal_longs(&day.columns, OF_WHOM, day.whom, day.columns.head.count)
        seal_words(&day.columns, OF_SEATS, day.seats, day.columns.head.count)
    return 0


def pack_day(tables, runs, epoch, from_ms, to_ms, bytes key not None):
    """(head, columns) of the visits that begin and the scans that lie within [from_ms, to_ms).

    tables: at most 256 VisitTable; the visits that count in `epoch`. runs: at most 1024 ScanRun.
    key: 16 bytes, never used for two days. columns: name to bytearray, as DayColumns takes them.
    Raises ValueError for a number out of range or visits that begin more than 49 days apart,
    TypeError, MemoryError.
    """
    cdef list held_tables = list(tables), held_runs = list(runs)
    cdef Day day
    cdef dict made
    cdef size_t count
    cdef bint is_done = True
    memset(&day, 0, sizeof(Day))
    if len(held_tables) > TABLES_MAX or len(held_runs) > RUNS_MAX:
        raise ValueError("layers are too many")
    if len(key) != 16:
        raise ValueError("key has a broken size")
    memcpy(day.columns.key, PyBytes_AS_STRING(key), 16)
    day.epoch = <uint32_t> check_int(epoch, 0, UINT32_MAX - 1, "epoch")
    day.low = check_int(from_ms, -TIME_MAX, TIME_MAX, "from_ms")
    day.high = check_int(to_ms, -TIME_MAX, TIME_MAX, "to_ms")
    for table in held_tables:
        day.tables[day.table_count] = &(<VisitTable?> table).table
        if may_overlap(day.tables[day.table_count], day.low - 1, day.high):
            day.table_count += 1
    for run in held_runs:
        day.runs[day.run_count] = &(<ScanRun?> run).run
        day.run_count += 1
    try:
        day.columns.head.base = day.columns.head.least = INT64_MAX
        day.columns.head.greatest = INT64_MIN
        day.columns.head.ref_base = <uint64_t> -1
        with nogil:
            is_done = find_rows(&day)
        if not is_done:
            raise MemoryError
        count = day.columns.head.count
        if count > UINT32_MAX:
            raise ValueError("visits are too many for one day")
        if count and day.columns.head.greatest - day.columns.head.base > TIME_MAX:
            raise ValueError("visits are too long")
        if count and last_start(&day) - day.columns.head.base > UINT32_MAX:
            raise ValueError("visits begin too far apart for one day")
        made = columns_of(&day)
        day.row_places = <uint32_t*> room_for(count, sizeof(uint32_t))
        with nogil:
            is_done = write_rows(&day) and sort_rows(&day) and take_scans(&day)
        if not is_done:
            raise MemoryError
        make_doors(&day, made)
        seal_rows(&day, made)
        fitted(made["places"], day.columns.head.place_count, sizeof(Place))
        day.columns.head.check = stream(&day.columns, OF_CHECK, 0)
        head = PyBytes_FromStringAndSize(<char*> &day.columns.head, sizeof(day.columns.head))
        return head, made
    finally:
        free(day.bounds)
        free(day.row_places)
        free(day.odds)
        free(day.scans)
        free(day.by_person)
        free(day.loose)


cdef int64_t last_start(const Day* day) noexcept nogil:
    """No visit of the day begins later than that."""
    cdef int64_t last = INT64_MIN
    cdef size_t t, p
    cdef const Table* table
    for t in range(day.table_count):
        table = day.tables[t]
        for p in range(table.place_count):
            if table.places[p].stop > table.places[p].first:
                last = max(last, start_at(table, table.places[p].stop - 1))
    return min(last, day.high - 1)
