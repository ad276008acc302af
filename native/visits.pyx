"""Visits out of scans, person by person: the rules D to C of engine.presence.visits.

A run holds distinct scans sorted by person and time. What new scans change is found by deriving a
person twice, without and with them, and only around them: between two scans that no rule can
connect the person's time falls apart, and what lies beyond stays as it was.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX, uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from native.checks cimport check_int
from native.hours cimport next_noon
from native.places cimport (
    NOON, TRIP, PlaceRule, PlaceTable, Places, closing_after, find_rule, rule_at,
)
from native.scans cimport (
    OUT, RUNS_MAX, Run, Scan, ScanRun, absorb, compare, gather_scans, loose_count, merge_scans,
    room_for, seek, seek_time,
)

cdef extern from "stdlib.h":
    void qsort(
        void* items, size_t count, size_t size,
        int (*compare)(const void* a, const void* b) noexcept nogil,
    ) noexcept nogil

cdef extern from *:
    """
    #define SPAN_LIMIT ((int64_t) 1 << 60)
    #define NEVER ((int64_t) 1 << 62)
    """
    # Of instants within +-TIME_LIMIT and spans within SPAN_LIMIT a sum of four cannot overflow.
    const int64_t SPAN_LIMIT
    const int64_t NEVER

cdef enum:
    SHORT = 64                 # up to so many are sorted by insertion
    OBSERVED = 0               # engine.presence.visits.EndRule
    INFERRED_NEXT = 1
    CLOSING = 2
    DEFAULT = 3
    CAPPED = 4
    PASSAGE = 1                # engine.presence.visits.VisitFlag
    START_INFERRED = 2
    ROOM_FIRST = 64
    LOOSE_FIRST = 4096         # hardly anybody has more in a few days

cdef enum:                     # what became of a person
    DONE = 0
    TOO_FEW = 1                # of the older scans: a stretch may begin before the first of them
    FAILED = 2                 # memory is short


cdef struct Rules:
    int64_t window
    int64_t gap
    int64_t travel
    int64_t longest
    int64_t margin             # the longer of gap and window
    int64_t reach              # no scan matters for longer than that after its time


# ---- the rules, of one person -------------------------------------------------------------------

cdef struct Presence:
    int64_t start
    int64_t end
    uint8_t rule
    uint8_t is_inferred


cdef struct Work:              # room for the scans of one person, used again for the next
    Rules rules
    const Places* places
    size_t room
    size_t loose_room
    Scan* loose                # the person's scans out of columns
    Scan* old                  # without the new scans
    Scan* now                  # with them
    uint32_t* old_before       # of each of `now`: how many of `old` stand before it
    uint8_t* is_fresh          # of each of `now`: it is new, or a copy changed it
    int64_t* touched           # of each of `now`: the last instant anything up to it can matter
    int64_t* previous          # of each scan: the person's previous instant anywhere
    int64_t* elsewhere         # and the next one at another place
    uint64_t* order            # place << 32 | scan, ascending
    Presence* presences
    Visit* visits              # twice the room: without and with


cdef void close_work(Work* work) noexcept nogil:
    free(work.loose)
    free(work.old)
    free(work.now)
    free(work.old_before)
    free(work.is_fresh)
    free(work.touched)
    free(work.previous)
    free(work.elsewhere)
    free(work.order)
    free(work.presences)
    free(work.visits)


cdef bint make_room(Work* work, size_t count) noexcept nogil:
    """For so many scans; False if memory is short."""
    cdef size_t room = max(count, 2 * work.room)
    if count <= work.room:
        return True
    room = max(room, <size_t> ROOM_FIRST)
    if room > UINT32_MAX:
        return False
    cdef Rules rules = work.rules
    cdef const Places* places = work.places
    cdef Scan* loose = work.loose
    cdef size_t loose_room = work.loose_room
    work.loose = NULL
    close_work(work)
    memset(work, 0, sizeof(Work))
    work.rules = rules
    work.places = places
    work.loose = loose
    work.loose_room = loose_room
    work.old = <Scan*> malloc(room * sizeof(Scan))
    work.now = <Scan*> malloc(room * sizeof(Scan))
    work.old_before = <uint32_t*> malloc(room * sizeof(uint32_t))
    work.is_fresh = <uint8_t*> malloc(room)
    work.touched = <int64_t*> malloc(room * sizeof(int64_t))
    work.previous = <int64_t*> malloc(room * sizeof(int64_t))
    work.elsewhere = <int64_t*> malloc(room * sizeof(int64_t))
    work.order = <uint64_t*> malloc(room * sizeof(uint64_t))
    work.presences = <Presence*> malloc(room * sizeof(Presence))
    work.visits = <Visit*> malloc(2 * room * sizeof(Visit))
    if (
        work.old is NULL or work.now is NULL or work.old_before is NULL or work.is_fresh is NULL
        or work.touched is NULL or work.previous is NULL or work.elsewhere is NULL
        or work.order is NULL or work.presences is NULL or work.visits is NULL
    ):
        return False
    work.room = room
    return True


cdef void look_around(Work* work, const Scan* scans, size_t count) noexcept nogil:
    """The person's previous instant anywhere and next one elsewhere, of every scan."""
    cdef size_t first, stop, i
    cdef int64_t before = -NEVER
    # The nearest later scan, its place, and the nearest later one that is not at that place.
    cdef int64_t near = NEVER, other = NEVER
    cdef uint32_t place = 0
    first = 0
    while first < count:
        stop = first + 1
        while stop < count and scans[stop].time == scans[first].time:
            stop += 1
        for i in range(first, stop):
            work.previous[i] = before
        before = scans[first].time
        first = stop
    stop = count
    while stop > 0:
        first = stop - 1
        while first > 0 and scans[first - 1].time == scans[stop - 1].time:
            first -= 1
        for i in range(first, stop):
            work.elsewhere[i] = near if scans[i].place != place else other
        # Scans of one instant stand by place: two places differ at the ends if anywhere.
        if scans[first].place != scans[stop - 1].place:
            other = scans[first].time
        elif scans[first].place != place:
            other = near
        near = scans[first].time
        place = scans[first].place
        stop = first


cdef void end_by_itself(
    const Work* work, const PlaceRule* rule, Presence* presence
) noexcept nogil:
    """What ends a check-in of which nothing else is known: default stay, closing, noon, trip."""
    cdef int64_t time = presence.start, stay = rule.stay, closing = NEVER
    if rule.until == NOON:
        stay = next_noon(time) - time
    else:
        closing = closing_after(work.places, rule, time)
        if rule.until == TRIP and closing != NEVER:
            stay = closing - time
    presence.end = time + min(stay, work.rules.longest)
    presence.rule = CAPPED if stay > work.rules.longest else DEFAULT
    if closing <= presence.end:
        presence.end = closing
        presence.rule = CLOSING


cdef void find_presences(
    Work* work, const Scan* scans, const uint64_t* order, size_t count, const PlaceRule* place
) noexcept nogil:
    """Rules S1, S2 and the scans of P for the scans of one place. The starts never fall."""
    cdef Presence* found = work.presences
    cdef int64_t longest = work.rules.longest
    cdef int64_t next_out = NEVER, moved
    cdef const PlaceRule* rule
    cdef const Scan* scan
    cdef const Scan* near
    cdef Presence* presence
    cdef size_t i, at = 0
    if place.is_post:
        for i in range(count):
            scan = &scans[<uint32_t> order[i]]
            found[i] = Presence(scan.time, scan.time + 1, OBSERVED, 0)
        return
    # Check-outs lead their instant, so the last scan of the instant before tells whether it has a
    # check-in, and the first scan of the next instant whether that has a check-out.
    for i in range(count):
        scan = &scans[<uint32_t> order[i]]
        if i > 0 and scans[<uint32_t> order[i - 1]].time != scan.time:
            at = i
        presence = &found[i]
        presence.start = scan.time
        presence.is_inferred = 0
        if scan.direction != OUT:
            continue
        presence.end = scan.time
        presence.rule = OBSERVED
        if at > 0:
            near = &scans[<uint32_t> order[at - 1]]
            if near.direction != OUT and scan.time - near.time <= longest:
                presence.start = near.time
                continue
        rule = rule_at(work.places, place, scan.time)
        presence.start = max(
            scan.time - min(rule.stay, longest), work.previous[<uint32_t> order[i]]
        )
        presence.is_inferred = 1
    at = count
    for i in range(count, 0, -1):
        scan = &scans[<uint32_t> order[i - 1]]
        if i < count and scans[<uint32_t> order[i]].time != scan.time:
            at = i
        presence = &found[i - 1]
        if scan.direction == OUT:
            next_out = scan.time
            continue
        if scan.stay:
            presence.end = scan.time + min(<int64_t> scan.stay, longest)
            presence.rule = CAPPED if scan.stay > longest else OBSERVED
            continue
        if at < count:
            near = &scans[<uint32_t> order[at]]
            if near.direction == OUT and near.time - scan.time <= longest:
                presence.end = near.time
                presence.rule = OBSERVED
                continue
        end_by_itself(work, rule_at(work.places, place, scan.time), presence)
        if work.elsewhere[<uint32_t> order[i - 1]] != NEVER:
            moved = max(work.elsewhere[<uint32_t> order[i - 1]] - work.rules.travel, scan.time + 1)
            if moved <= presence.end:
                presence.end = moved
                presence.rule = INFERRED_NEXT
        if next_out <= presence.end:
            presence.end = next_out
            presence.rule = OBSERVED


cdef size_t join_presences(
    Work* work, const Scan* scans, const uint64_t* order, size_t count, const PlaceRule* place,
    Visit* visits,
) noexcept nogil:
    """Rules S3, P and C: the visits of one place out of its presences; how many."""
    cdef const Rules* rules = &work.rules
    # A post chains on scan times: [t, t + 1) at most window - 1 apart is t' - t <= window.
    cdef int64_t gap = rules.window - 1 if place.is_post else rules.gap
    cdef int64_t reach = 0
    cdef const Presence* presence
    cdef const Scan* scan
    cdef Visit* visit = NULL
    cdef size_t i, made = 0
    for i in range(count):
        presence = &work.presences[i]
        scan = &scans[<uint32_t> order[i]]
        if (
            i == 0
            or presence.start - reach > gap
            or presence.end - visit.start > rules.longest
        ):
            if visit is not NULL:
                end_visit(work, visit, place, presence.start)
            visit = &visits[made]
            made += 1
            memset(visit, 0, sizeof(Visit))
            visit.start = presence.start
            visit.end = presence.end
            visit.rule = presence.rule
            visit.ref = scan.ref
            visit.person = scan.person
            visit.place = scan.place
            visit.room = scan.lane
            visit.direction = scan.direction
            visit.flags = PASSAGE if place.is_post else 0
            if presence.is_inferred:
                visit.flags |= START_INFERRED
        elif presence.end > visit.end:
            visit.end = presence.end
            visit.rule = presence.rule
        elif presence.end == visit.end:
            visit.rule = min(visit.rule, presence.rule)
        reach = max(reach, presence.end) if i else presence.end
        visit.scans += visit.scans < 0xFFFF
        if not visit.vehicle:
            visit.vehicle = scan.vehicle
    end_visit(work, visit, place, NEVER)
    return made


cdef void end_visit(
    const Work* work, Visit* visit, const PlaceRule* place, int64_t following
) noexcept nogil:
    """following: start of the next visit there, NEVER where there is none."""
    cdef int64_t stay
    if place.is_post:
        stay = rule_at(work.places, place, visit.start).stay
        if visit.start + min(stay, work.rules.longest) >= visit.end:
            visit.end = visit.start + min(stay, work.rules.longest)
            visit.rule = CAPPED if stay > work.rules.longest else DEFAULT
    if visit.end > following:
        visit.end = following
        visit.rule = CAPPED


cdef int compare_places(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t*> a)[0], y = (<const uint64_t*> b)[0]
    return (x > y) - (x < y)


cdef size_t derive(Work* work, const Scan* scans, size_t count, Visit* visits) noexcept nogil:
    """All visits of scans of one person, sorted by time; by place and start; how many."""
    cdef uint64_t* order = work.order
    cdef uint64_t moved
    cdef const PlaceRule* place
    cdef size_t i, at, first = 0, made = 0
    if count == 0:
        return 0
    look_around(work, scans, count)
    for i in range(count):
        order[i] = <uint64_t> scans[i].place << 32 | i
    if count > SHORT:
        qsort(order, count, sizeof(uint64_t), compare_places)
    else:
        for i in range(1, count):
            moved = order[i]
            at = i
            while at > 0 and order[at - 1] > moved:
                order[at] = order[at - 1]
                at -= 1
            order[at] = moved
    for i in range(1, count + 1):
        if i == count or order[i] >> 32 != order[first] >> 32:
            place = find_rule(work.places, <uint32_t> (order[first] >> 32))
            find_presences(work, scans, order + first, i - first, place)
            made += join_presences(
                work, scans, order + first, i - first, place, visits + made
            )
            first = i
    return made


# ---- what new scans change ----------------------------------------------------------------------

cdef int64_t last_touch(const Work* work, const Scan* scan) noexcept nogil:
    """No scan after that instant has to do with the presence of this scan."""
    cdef const PlaceRule* place = find_rule(work.places, scan.place)
    cdef int64_t span = min(rule_at(work.places, place, scan.time).most, work.rules.longest)
    if not place.is_post:
        if scan.direction == OUT:
            span = 0
        elif scan.stay:
            span = min(<int64_t> scan.stay, work.rules.longest)
        else:
            span += work.rules.travel
    return scan.time + span + work.rules.margin


cdef inline int64_t first_touch(const Work* work, const Scan* scan) noexcept nogil:
    """No presence that ends before that instant has to do with this scan."""
    return scan.time - (work.rules.longest if scan.direction == OUT else 0)


cdef size_t add_fresh(
    Work* work, const Scan* old, size_t old_count, const Scan* fresh, size_t fresh_count
) noexcept nogil:
    """Fill `now` with both, and mark what is new in it; how many."""
    cdef size_t o = 0, f = 0, made = 0
    cdef int found
    while o < old_count or f < fresh_count:
        if f == fresh_count:
            found = -1
        elif o == old_count:
            found = 1
        else:
            found = compare(&old[o], &fresh[f])
        work.old_before[made] = <uint32_t> o
        work.is_fresh[made] = found > 0
        work.now[made] = fresh[f] if found > 0 else old[o]
        if found == 0:
            work.is_fresh[made] = absorb(&work.now[made], &fresh[f])
        o += found <= 0
        f += found >= 0
        made += 1
    return made


cdef bint keep_born(Changed* changes, const Visit* visit) noexcept nogil:
    cdef Visit* grown
    if changes.born_count == changes.born_room:
        grown = <Visit*> realloc(changes.born, 2 * changes.born_room * sizeof(Visit))
        if grown is NULL:
            return False
        changes.born = grown
        changes.born_room *= 2
    changes.born[changes.born_count] = visit[0]
    changes.born_count += 1
    return True


cdef bint keep_ended(Changed* changes, const Visit* visit) noexcept nogil:
    cdef Visit* grown
    if changes.ended_count == changes.ended_room:
        grown = <Visit*> realloc(changes.ended, 2 * changes.ended_room * sizeof(Visit))
        if grown is NULL:
            return False
        changes.ended = grown
        changes.ended_room *= 2
    changes.ended[changes.ended_count] = visit[0]
    changes.ended_count += 1
    return True


cdef bint compare_visits(
    Changed* changes, const Visit* old, size_t old_count, const Visit* now, size_t now_count
) noexcept nogil:
    """Note what differs between two lists by place and start; False if memory is short."""
    cdef size_t o = 0, n = 0
    cdef int found
    while o < old_count or n < now_count:
        if n == now_count:
            found = -1
        elif o == old_count:
            found = 1
        elif old[o].place != now[n].place:
            found = -1 if old[o].place < now[n].place else 1
        else:
            found = (old[o].start > now[n].start) - (old[o].start < now[n].start)
        if found != 0 or memcmp(&old[o], &now[n], sizeof(Visit)) != 0:
            if found <= 0 and not keep_ended(changes, &old[o]):
                return False
            if found >= 0 and not keep_born(changes, &now[n]):
                return False
        o += found <= 0
        n += found >= 0
    return True


cdef int change_person(
    Work* work, Changed* changes, const Scan* old, size_t old_count, size_t count, int64_t touched
) noexcept nogil:
    """Derive anew each stretch of the person's time that has something new in it.

    touched: the last instant at which a scan that was left out may matter, -NEVER if none was.
    """
    cdef size_t first, stop, low, high, i, old_made, now_made
    cdef int64_t touching, left_out = touched
    cdef Visit* before = work.visits
    cdef Visit* after = work.visits + work.room
    cdef bint is_fresh
    for i in range(count):
        touched = max(touched, last_touch(work, &work.now[i]))
        work.touched[i] = touched
    touching = NEVER
    stop = count
    is_fresh = False
    for first in range(count, 0, -1):
        # Is there a seam before scan first - 1?
        i = first - 1
        touching = min(touching, first_touch(work, &work.now[i]))
        is_fresh |= work.is_fresh[i]
        if i > 0 and work.touched[i - 1] >= touching:
            continue
        if i == 0 and is_fresh and left_out >= touching:
            return TOO_FEW
        if is_fresh:
            low = work.old_before[i]
            high = work.old_before[stop] if stop < count else old_count
            old_made = derive(work, old + low, high - low, before)
            now_made = derive(work, work.now + i, stop - i, after)
            if not compare_visits(changes, before, old_made, after, now_made):
                return FAILED
        stop = i
        is_fresh = False
    return DONE


cdef struct History:
    const Run* runs[RUNS_MAX]
    size_t run_count


def derive_changes(ScanRun fresh not None, runs, PlaceTable places not None, *,
                   passage_window_ms, gap_ms, travel_ms, stay_max_ms) -> Changes:
    """What the scans of `fresh` change in the visits of those in `runs`, see Changes.

    runs: at most 1024. Raises ValueError for a span that is negative or beyond 2**60 ms;
    MemoryError.
    """
    cdef list held = list(runs)
    cdef History history
    cdef size_t i
    cdef Changes changes = Changes()
    cdef Changed* changed
    cdef const Scan* fresh_scans
    cdef size_t fresh_count
    cdef int64_t longest
    cdef ScanRun run
    cdef Work work
    cdef bint is_done
    memset(&work, 0, sizeof(Work))
    work.places = &places.places
    work.rules.window = check_int(passage_window_ms, 0, SPAN_LIMIT, "passage_window_ms")
    work.rules.gap = check_int(gap_ms, 0, SPAN_LIMIT, "gap_ms")
    work.rules.travel = check_int(travel_ms, 0, SPAN_LIMIT, "travel_ms")
    work.rules.longest = check_int(stay_max_ms, 1, SPAN_LIMIT, "stay_max_ms")
    work.rules.margin = max(work.rules.gap, work.rules.window)
    longest = fresh.run.longest_stay
    memset(&history, 0, sizeof(History))
    if len(held) > RUNS_MAX:
        raise ValueError("runs are too many")
    history.run_count = len(held)
    for i in range(history.run_count):
        run = <ScanRun?> held[i]
        history.runs[i] = &run.run
        longest = max(longest, run.run.longest_stay)
    longest = max(longest, places.places.longest + work.rules.travel)
    work.rules.reach = min(longest, work.rules.longest + work.rules.travel) + work.rules.margin
    # No object is touched without the GIL, not even to ask whether it is None.
    changed = &changes.changed
    fresh_scans, fresh_count = fresh.run.scans, fresh.run.count
    with nogil:
        is_done = change_persons(changed, &work, fresh_scans, fresh_count, &history)
        close_work(&work)
    if not is_done:
        raise MemoryError
    return changes


cdef bint make_loose_room(Work* work, const History* history, uint64_t person) noexcept nogil:
    """For all of a person's scans that lie in columns; False if memory is short."""
    cdef size_t count = LOOSE_FIRST, i
    cdef Scan* grown
    for i in range(history.run_count):
        if history.runs[i].columns is not NULL:
            count += loose_count(history.runs[i], person)
    if count > work.loose_room:
        grown = <Scan*> realloc(work.loose, 2 * count * sizeof(Scan))
        if grown is NULL:
            return False
        work.loose = grown
        work.loose_room = 2 * count
    return True


cdef int change_since(
    Work* work, Changed* changes, const History* history, const Scan* fresh, size_t fresh_count,
    int64_t since,
) noexcept nogil:
    """What new scans of a person change, seen beside the older ones from an instant on."""
    cdef const Scan* heads[RUNS_MAX]
    cdef const Scan* stops[RUNS_MAX]
    cdef const Scan* old
    cdef const Scan* scans
    cdef const Run* run
    cdef uint64_t person = fresh.person
    cdef size_t i, low, high, first, loose = 0, found = 0, old_count = 0, count
    cdef int64_t touched = -NEVER
    if (since == -NEVER or not work.loose_room) and not make_loose_room(work, history, person):
        return FAILED
    for i in range(history.run_count):
        run = history.runs[i]
        if run.last_time < since:
            # Not looked at: as if its last scan were the person's.
            if run.count:
                touched = max(touched, run.last_time + work.rules.reach)
            continue
        if run.columns is NULL:
            scans = run.scans
            first, high = seek(run, person), seek(run, person + 1)
        else:
            count = loose_count(run, person)
            if loose + count > work.loose_room:
                return TOO_FEW  # of room; the whole history makes it
            scans = work.loose + loose
            first, high = 0, gather_scans(run, person, -NEVER, NEVER, work.loose + loose)
            loose += high
        low = seek_time(scans, first, high, since)
        if low > first:
            touched = max(touched, scans[low - 1].time + work.rules.reach)
        if high > low:
            heads[found] = scans + low
            stops[found] = scans + high
            old_count += high - low
            found += 1
    if not make_room(work, old_count + fresh_count):
        return FAILED
    old = work.old
    if found == 1:
        old = heads[0]
    elif found > 1:
        old_count = merge_scans(heads, stops, found, work.old)
    count = add_fresh(work, old, old_count, fresh, fresh_count)
    return change_person(work, changes, old, old_count, count, touched)


cdef bint change_persons(
    Changed* changes, Work* work, const Scan* fresh, size_t fresh_count, History* history
) noexcept nogil:
    """Person by person of the fresh scans; False if memory is short."""
    cdef size_t first = 0, stop, born, ended
    cdef int64_t since
    cdef int found
    while first < fresh_count:
        stop = first
        since = NEVER
        while stop < fresh_count and fresh[stop].person == fresh[first].person:
            since = min(since, first_touch(work, &fresh[stop]))
            stop += 1
        born, ended = changes.born_count, changes.ended_count
        # Twice the reach back a seam is nearly always found; the whole history is sure to do.
        found = TOO_FEW
        if work.rules.reach <= SPAN_LIMIT // 2:
            found = change_since(
                work, changes, history, fresh + first, stop - first, since - 2 * work.rules.reach
            )
        if found == TOO_FEW:
            changes.born_count, changes.ended_count = born, ended
            found = change_since(work, changes, history, fresh + first, stop - first, -NEVER)
        if found != DONE:
            return False
        first = stop
    return True


cdef class Changes:
    """What new scans made of the visits: those that came, and those that are no more.

    A visit that only looks different is one of each.
    """

    def __cinit__(self):
        self.changed.born_room = ROOM_FIRST
        self.changed.ended_room = ROOM_FIRST
        self.changed.born = <Visit*> room_for(self.changed.born_room, sizeof(Visit))
        self.changed.ended = <Visit*> room_for(self.changed.ended_room, sizeof(Visit))

    def __dealloc__(self):
        free(self.changed.born)
        free(self.changed.ended)

    def __reduce__(self):
        raise TypeError("Changes cannot be pickled")

    def visits(self) -> bytes:
        """Packed VISIT of those that came, by person; of one person in no order."""
        return PyBytes_FromStringAndSize(
            <char*> self.changed.born, <Py_ssize_t> (self.changed.born_count * sizeof(Visit))
        )

    def gone(self) -> bytes:
        """Packed VISIT of those that are no more, by person."""
        return PyBytes_FromStringAndSize(
            <char*> self.changed.ended, <Py_ssize_t> (self.changed.ended_count * sizeof(Visit))
        )

    def endings(self) -> bytes:
        """Of those that are no more start (i64), person and place (u32 each), by person."""
        cdef size_t count = self.changed.ended_count, i
        cdef bytes found = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> (count * sizeof(Ending)))
        cdef uint8_t* packed = <uint8_t*> PyBytes_AS_STRING(found)
        cdef const Visit* visit
        cdef Ending ending
        for i in range(count):
            visit = &self.changed.ended[i]
            ending = Ending(visit.start, visit.person, visit.place)
            memcpy(packed + i * sizeof(Ending), &ending, sizeof(Ending))
        return found
