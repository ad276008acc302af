"""Merged persons: answers are those of an index whose rows had one key from the start."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import DAY_MS, HOUR_MS, MINUTE_MS, day_to_ms
from engine.colocation.index import CoLocationIndex
from engine.identity.aliases import Aliases
from engine.presence.visits import PlaceRule, PlaceRules
from engine.scans.rows import Kind
from engine.tracing.notice import Mark, find_marked
from tests.reference.tracing import (
    in_order,
    reference_contacts,
    reference_history,
    reference_venue,
)
from tests.reference.visits import Scan, reference_visits
from tests.unit.test_index import (
    KEYS,
    PLACES,
    POSTS,
    RULES,
    STAYS,
    Group,
    found_visits,
    groups_of,
    key_sets,
    met_contacts,
    place_sets,
    scan_lists,
    scans_to_rows,
    spans,
)

STRANGER = b"u" * 16  # nobody has been seen under it
pairs = st.tuples(*[st.sampled_from([*KEYS, STRANGER])] * 2)
# What happens one after the other: some scans come, or other keys are merged.
merge_lists = st.lists(st.lists(pairs, max_size=4), max_size=4)


def rekeyed(scans, aliases):
    return [replace(scan, person=aliases.main_of(scan.person)) for scan in scans]


def everything(index):
    return found_visits(index.history([*KEYS, STRANGER], -1000, 1000))


def test_sets_close_over_their_pairs() -> None:
    a, b, c, d, e = (bytes([n]) * 16 for n in range(5))
    aliases = Aliases([(d, c), (a, b), (b, d), (e, e)])
    assert aliases.all_of(d) == (a, b, c, d) and aliases.main_of(c) == a
    assert aliases.all_of(e) == (e,) and len(aliases) == 4
    assert Aliases().main_of(a) == a


@settings(max_examples=150, deadline=None)
@given(
    scan_lists, merge_lists, spans, key_sets, place_sets, st.integers(0, 6), st.integers(0, 20),
    st.integers(1, 40), st.randoms(use_true_random=False),
)  # fmt: skip
def test_answers_equal_those_of_rows_with_one_key(
    scans, merges, span, keys, places, linger, least, window, rng
):
    """Whatever was merged before, in whatever order scans and merges came."""
    index = CoLocationIndex(PLACES, RULES)
    steps = [*groups_of(scans, rng), *(Aliases(pairs) for pairs in merges)]
    rng.shuffle(steps)
    lsn = 0
    for step in steps:
        if isinstance(step, Aliases):
            index.set_aliases(step)
        else:
            lsn += 1
            index.apply(Group(lsn, step.rows))
            if rng.random() < 0.3:
                index.snapshot()
    final = Aliases(merges[-1] if merges else ())
    index.set_aliases(final)
    visits = reference_visits(rekeyed(scans, final), POSTS, STAYS, RULES)
    mains = [final.main_of(key) for key in keys]
    for place in STAYS:
        assert found_visits(index.venue(place, *span)) == reference_venue(visits, place, *span)
    asked = index.snapshot().history(keys, *span, places=places)
    assert found_visits(asked) == reference_history(visits, mains, *span, places)
    met = index.snapshot().contacts(
        keys, *span, linger_ms=linger, min_overlap_ms=least, window_ms=window, places=places
    )
    listed, below = reference_contacts(
        visits, mains, *span, linger=linger, least=least, window=window,
        queue=RULES.queue_ms, places=places,
    )  # fmt: skip
    assert met_contacts(met) == listed and met.below == below
    # And what is kept beside them: newest rows, counts, forgetting, other rules.
    once = CoLocationIndex(PLACES, RULES)
    once.apply(Group(1, scans_to_rows(rekeyed(scans, final))))
    for key in mains:
        newest = [index.last_details_ref(k) for k in final.all_of(key)]
        assert len(set(newest)) == 1 and (newest[0] is None) == (once.last_details_ref(key) is None)
    ours, theirs = index.figures(-1), once.figures(-1)
    assert ours.persons == theirs.persons
    assert np.array_equal(ours.places, theirs.places)
    for one in (index, once):
        one.expire(20)
        one.set_place_rules(PlaceRules({n: PlaceRule(False, 7) for n in STAYS}))
        one.compact()
    assert everything(index) == everything(once)


@settings(max_examples=60, deadline=None)
@given(scan_lists, pairs, st.randoms(use_true_random=False))
def test_a_merge_that_is_undone_leaves_no_trace(scans, pair, rng):
    index, never = (CoLocationIndex(PLACES, RULES) for _ in range(2))
    half = len(scans) // 2
    for lsn, part in enumerate((scans[:half], scans[half:]), 1):
        index.apply(Group(lsn, scans_to_rows(part)))
        never.apply(Group(lsn, scans_to_rows(part)))
        index.set_aliases(Aliases([pair]) if lsn == 1 else Aliases())
    expected = in_order(reference_visits(scans, POSTS, STAYS, RULES))
    assert everything(index) == everything(never) == expected
    place = rng.choice([*STAYS])
    assert found_visits(index.venue(place, -50, 50)) == found_visits(never.venue(place, -50, 50))


def test_only_the_histories_of_the_two_are_derived(monkeypatch) -> None:
    rng = random.Random(7)
    index = CoLocationIndex(PLACES, RULES)
    scans = [
        Scan(rng.randbytes(16), rng.randrange(50), rng.choice([*STAYS]), 0, 0, 1)
        for _ in range(20_000)
    ]
    index.apply(Group(1, scans_to_rows(scans)))
    index.snapshot()
    derived = []
    derive = index._derive_visits
    monkeypatch.setattr(
        index, "_derive_visits", lambda run: (derived.append(len(run)), derive(run))[1]
    )
    index.set_aliases(Aliases([(scans[5].person, scans[900].person)]))
    assert sum(derived) == 2
    assert sum(len(layer.visits) for layer in index.snapshot().layers) < 20_010


def test_a_question_sees_a_merge_whole_or_not_at_all() -> None:
    index = CoLocationIndex(PLACES, RULES)
    index.apply(Group(1, scans_to_rows([Scan(key, 5, 3, 0, 0, 1) for key in KEYS])))
    before = index.snapshot()
    index.set_aliases(Aliases([KEYS[:2], KEYS[2:4]]))
    after = index.snapshot()
    assert len(before.venue(3, 0, 20).persons) == 5
    assert before.persons_of(KEYS[:2]) != after.persons_of(KEYS[:2])
    assert [key.tobytes() for key in after.venue(3, 0, 20).persons] == [
        KEYS[0], KEYS[2], KEYS[4],
    ]  # fmt: skip


def test_a_notice_lists_again_whom_a_merge_changed() -> None:
    """Somebody at two places under two keys was at one place each, and is at both now."""
    places = PlaceRules({3: PlaceRule(False, HOUR_MS), 4: PlaceRule(False, HOUR_MS)})
    index = CoLocationIndex(places)
    day_ms = day_to_ms(18_800)
    a, b = b"a" * 16, b"b" * 16
    rows = scans_to_rows([Scan(a, day_ms, 3, 0, 0, 2), Scan(b, day_ms + 2 * HOUR_MS, 4, 0, 0, 2)])
    index.apply(Group(9, rows))
    marks = [Mark(place, day_ms, day_ms + DAY_MS) for place in (3, 4)]

    def listed(since: int = 0) -> list[bytes]:
        found = find_marked(index.snapshot(), marks, least=2, since=since, limit=10)
        return [key.tobytes() for key in found.persons]

    assert listed() == []
    index.set_aliases(Aliases([(a, b)]))
    assert listed() == listed(since=9) == [a]
    index.apply(Group(10, scans_to_rows([Scan(b"c" * 16, day_ms, 3, 0, 0, 2)])))
    assert listed(since=10) == []


def test_a_day_counts_a_merged_person_once() -> None:
    index = CoLocationIndex(PlaceRules({3: PlaceRule(False, 45 * MINUTE_MS)}))
    day_ms = day_to_ms(18_800)
    a, b, c = (name * 16 for name in (b"a", b"b", b"c"))
    rows = scans_to_rows([Scan(key, day_ms, 3, 0, 0, int(Kind.CHECKIN)) for key in (a, b, c)])
    index.apply(Group(1, rows))
    index.set_aliases(Aliases([(b, a)]))
    found = index.figures(18_800)
    (place,) = found.places
    assert found.persons == 2
    # Two copies of one scan are one scan, as they would be under one key (rule D).
    assert (place["persons"], place["checkins"], place["visits"]) == (2, 2, 2)
