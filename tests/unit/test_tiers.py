"""Tiers against brute force: whom, in which tier, when at the earliest, and through whom."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import DAY_MS, HOUR_MS, MINUTE_MS, ManualClock
from engine.colocation.index import CoLocationIndex
from engine.errors import QuestionInvalid
from engine.presence.visits import VISIT
from engine.tracing.rows import unpack
from engine.tracing.tiers import EVER, LINK, LINKS_MAX, TIERED, TiersQuestion
from engine.tracing.tracer import Tracer
from native.index import VisitTable
from native.links import find_links
from native.tiers import find_tiers
from tests.reference.tiers import reference_links, reference_tiers
from tests.reference.visits import Scan, reference_visits
from tests.unit.test_index import (
    KEYS,
    PLACES,
    POSTS,
    RULES,
    STAYS,
    Group,
    groups_of,
    place_sets,
    scan_lists,
    scans_to_rows,
    spans,
)
from tests.unit.test_tracing import (
    AN,
    AN_PASSPORT,
    BINH,
    BUS,
    CAFE,
    CHI,
    DUNG,
    GIANG,
    IN,
    MARKET,
    NONE,
    OFFICE,
    OUT,
    POST,
    TODAY,
    at,
    persons,
    tracer_of,
)

cases = st.lists(st.sampled_from(KEYS), min_size=1, max_size=2, unique=True)


def index_of(scans, rng):
    index = CoLocationIndex(PLACES, RULES)
    for group in groups_of(scans, rng):
        index.apply(group)
        if rng.random() < 0.4:
            index.snapshot()
    return index


def bounds(places):
    return None if places is None else np.array(sorted(places), "<u4").data


@settings(max_examples=300, deadline=None)
@given(
    scan_lists, spans, cases, place_sets, st.integers(0, 4), st.integers(0, 12),
    st.integers(1, 40), st.integers(0, 5), st.integers(1, 4), st.sampled_from([0, 1, 10**9]),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_tiers_and_links_equal_the_oracle(
    scans, span, case, places, linger, least, window, latent, depth, most, rng
):
    arrived = scans + rng.choices(scans, k=len(scans) // 2) if scans else []
    rng.shuffle(arrived)
    check_tiers(
        index_of(arrived, rng).snapshot(), scans, span, case, places, linger=linger, least=least,
        window=window, latent=latent, depth=depth, most=most,
    )  # fmt: skip


def check_tiers(snapshot, scans, span, case, places, *, shift=0, **asked):
    """Tiers and links of a snapshot are the oracle's. shift: what it adds to each time."""
    visits = reference_visits(scans, POSTS, STAYS, RULES)
    expected, rounds = reference_tiers(visits, case, *span, places=places, **asked)
    numbers = np.array(snapshot.persons_of(case), "<u4")
    question = {
        "from_ms": span[0] + shift, "to_ms": span[1] + shift, "linger_ms": asked["linger"],
        "latent_ms": asked["latent"], "places": bounds(places),
    }  # fmt: skip
    # Looked up or read whole, a few persons at a time or all: one answer.
    for way in (0, 1, 2):
        for room in (1 << 20, 3):
            packed, made = find_tiers(
                snapshot.tables, numbers.data, snapshot.count, snapshot.epoch, **question,
                min_ms=asked["least"], window_ms=asked["window"], depth=asked["depth"],
                most=asked["most"], way=way,
                exposures_max=max(room, len(visits)) if room > 3 else 40,
            )  # fmt: skip
            found = np.frombuffer(packed, TIERED)
            assert made == rounds
            assert (found["tier"][: len(numbers)] == 0).all()
            assert (found["earliest_ms"][: len(numbers)] == EVER).all()
            assert (np.diff(found["tier"].astype(int)) >= 0).all()
            rows = {
                snapshot.keys[row["person"]].tobytes(): (
                    int(row["tier"]), int(row["infected_ms"]) - shift,
                    int(row["earliest_ms"]) - shift,
                )
                for row in found[len(numbers) :]
            }  # fmt: skip
            assert rows == {p: (n.tier, n.infected, n.earliest) for p, n in expected.items()}
    made, is_whole = find_links(
        snapshot.tables, packed, snapshot.count, snapshot.epoch, **question, most=LINKS_MAX
    )
    tiers = np.concatenate([found["tier"][:1], found["tier"][len(numbers) :]])
    for most in (0, 1, 2, 4, 7):
        some, is_all = find_links(
            snapshot.tables, packed, snapshot.count, snapshot.epoch, **question, most=most
        )
        expected_links = best_links(np.frombuffer(made, LINK), tiers, most)
        assert (some, is_all) == (expected_links.tobytes(), 64 * most >= len(made))
    known = [snapshot.keys[n].tobytes() for n in numbers]
    people = [min(case), *(snapshot.keys[row["person"]].tobytes() for row in found[len(known) :])]
    links = {
        (people[link["source"]], people[link["target"]]): (
            int(link["first_ms"]) - shift, int(link["last_ms"]) - shift, int(link["time_ms"]),
            int(link["meetings"]),
        )
        for link in np.frombuffer(made, LINK)
    }  # fmt: skip
    assert is_whole
    assert links == reference_links(
        visits, expected, case, *span, linger=asked["linger"], latent=asked["latent"],
        places=places,
    )  # fmt: skip
    if asked["most"] > 1 and asked["latent"] == 0:
        # Everybody in a tier came there through somebody of a lower one.
        reached = {target for (_, target) in links}
        assert reached == set(expected)


def test_memory_is_bounded_and_the_answer_the_same():
    rng = random.Random(5)
    index = CoLocationIndex(PLACES, RULES)
    keys = [rng.randbytes(16) for _ in range(200)]
    scans = [
        Scan(person=rng.choice(keys), time=rng.randrange(4000), place=rng.choice([3, 4, 5]),
             lane=0, direction=0, kind=2, vehicle=0)
        for _ in range(3000)
    ]  # fmt: skip
    for lsn in range(1, 11):
        index.apply(Group(lsn, scans_to_rows(scans[300 * (lsn - 1) : 300 * lsn])))
        index.snapshot()
    snapshot = index.snapshot()
    case = np.array([7], "<u4")

    def ask(**more):
        packed, _ = find_tiers(
            snapshot.tables, case.data, snapshot.count, snapshot.epoch, from_ms=0, to_ms=4000,
            linger_ms=2, min_ms=8, window_ms=100, latent_ms=50, depth=4, most=10**6, **more,
        )  # fmt: skip
        return sorted(np.frombuffer(packed, TIERED).tolist())

    whole = ask(way=1)
    assert len(whole) > 100 and {row[3] for row in whole} >= {1, 2}
    for room in (60, 500, 10**6):
        assert ask(way=1, exposures_max=room) == ask(way=2, exposures_max=room) == whole


# ---- the question -------------------------------------------------------------------------------

DAY = {"from_ms": TODAY, "to_ms": TODAY + 3 * DAY_MS, "profile": "VN-2020-12"}


def ask(tracer, *keys, allowed=None, **more):
    answer = tracer.ask(TiersQuestion(persons=list(keys), **{**DAY, **more}), allowed)
    tiers, links = unpack(answer.packed, "tiers"), unpack(answer.packed, "links")
    people = persons(answer)
    return (
        answer,
        {people[row["person"]]: (int(row["tier"]), int(row["infected_ms"])) for row in tiers},
        [(people[link["source"]], people[link["target"]], int(link["time_ms"])) for link in links],
    )


def stay(person, place, begin, end, *more):
    return (person, place, begin, IN, *more), (person, place, end, OUT, *more)


def test_a_contact_passes_it_on_only_after_being_infected():
    tracer = tracer_of(
        # Chi sat with Bình in the morning, before he met An; Dũng did in the evening.
        *stay(BINH, CAFE, "07:00", "07:40"), *stay(CHI, CAFE, "07:00", "07:40"),
        *stay(AN, MARKET, "08:00", "08:40"), *stay(BINH, MARKET, "08:10", "08:40"),
        *stay(BINH, CAFE, "18:00", "19:00"), *stay(DUNG, CAFE, "18:30", "19:00"),
        *stay(GIANG, OFFICE, "18:00", "19:00"),
    )  # fmt: skip
    answer, found, links = ask(tracer, AN)
    assert found == {AN: (0, EVER), BINH: (1, at("08:25")), DUNG: (2, at("18:45"))}
    assert links == [(AN, BINH, 30 * MINUTE_MS), (BINH, DUNG, 30 * MINUTE_MS)]
    assert (answer.counts, answer.reached, answer.total) == ((1, 1, 1), 2, 2)
    assert not answer.limit_cut and not answer.links_cut
    # Two days later somebody is infectious, and so Dũng is no F2 yet.
    assert set(ask(tracer, AN, latent_hours=48)[1]) == {AN, BINH}
    # A role that sees the market alone learns nothing of the café.
    assert set(ask(tracer, AN, allowed={MARKET})[1]) == {AN, BINH}


def test_a_longer_chain_may_be_the_earlier_one():
    tracer = tracer_of(
        *stay(AN, MARKET, "06:00", "06:30"), *stay(BINH, MARKET, "06:00", "06:30"),
        *stay(BINH, CAFE, "07:00", "07:30"), *stay(CHI, CAFE, "07:00", "07:30"),
        # Dũng meets Chi when only the chain through Bình has reached her.
        *stay(CHI, OFFICE, "09:00", "09:30"), *stay(DUNG, OFFICE, "09:00", "09:30"),
        *stay(AN, BUS, "12:00", "12:30"), *stay(CHI, BUS, "12:00", "12:30"),
    )  # fmt: skip
    answer, found, _ = ask(tracer, AN, depth=3)
    assert found[CHI] == (1, at("12:15")) and found[DUNG] == (3, at("09:15"))
    row = unpack(answer.packed, "tiers")[persons(answer).index(CHI)]
    assert row["earliest_ms"] == at("07:15")


def test_the_first_tier_are_the_candidates_of_contacts():
    tracer = tracer_of(
        *stay(AN, MARKET, "08:00", "08:40"), *stay(AN_PASSPORT, CAFE, "10:00", "10:10"),
        *stay(BINH, MARKET, "08:30", "08:50"), *stay(BINH, CAFE, "10:00", "10:05"),
        *stay(CHI, MARKET, "08:30", "08:50"), (AN, POST, "12:00", NONE, 1, 77),
        (DUNG, POST, "12:03", NONE, 3, 77), (GIANG, POST, "12:01", NONE, 1),
    )  # fmt: skip
    _, found, _ = ask(tracer, AN, AN_PASSPORT, depth=1)
    # Ten minutes and five; Chi's ten alone are too few; Giang only stood behind in the queue.
    assert found == {AN: (0, EVER), BINH: (1, at("10:05")), DUNG: (1, at("12:03") + 1)}


def test_limits_are_said():
    crowd = [bytes([n]) * 16 for n in range(1, 9)]
    tracer = tracer_of(
        *stay(AN, MARKET, "08:00", "09:00"),
        *(scan for key in crowd for scan in stay(key, MARKET, "08:00", "09:00")),
        *(scan for key in [*crowd, BINH] for scan in stay(key, CAFE, "10:00", "11:00")),
    )  # fmt: skip
    answer, found, _ = ask(tracer, AN, limit=3)
    assert list(found) == [AN, *crowd[:3]] and answer.limit_cut and answer.total == 9
    assert answer.counts == (1, 8, 1)
    answer, found, _ = ask(tracer, AN, most=5)
    assert answer.reached == 1 and BINH not in found and answer.counts == (1, 8)
    answer, found, links = ask(tracer, b"nobody".ljust(16))
    assert (found, links, answer.total) == ({}, [], 0)


def best_links(links, tiers, most):
    """The twin of what find_links leaves: the first of each target, then those with most time."""
    targets = set(links["target"].tolist())
    order = sorted(range(len(links)), key=lambda at: (
        links["target"][at], tiers[links["source"][at]] >= tiers[links["target"][at]],
        -links["time_ms"][at], links["source"][at],
    ))  # fmt: skip
    firsts = {min(at for at in range(len(order)) if links["target"][order[at]] == target)
              for target in targets}  # fmt: skip
    ranked = sorted(
        range(len(order)), key=lambda at: (at not in firsts, -links["time_ms"][order[at]], at)
    )
    return links[[order[at] for at in sorted(ranked[:most])]]


def test_links_that_lead_down_stay_when_some_have_to_go():
    links = np.zeros(6, LINK)
    links["source"], links["target"] = [2, 0, 0, 1, 2, 1], [1, 1, 2, 2, 3, 3]
    links["time_ms"] = [90, 5, 9, 4, 8, 2]
    tiers = np.array([0, 1, 1, 2], np.uint8)
    assert best_links(links, tiers, LINKS_MAX)["time_ms"].tolist() == [5, 90, 9, 4, 8, 2]
    assert best_links(links, tiers, 3)["time_ms"].tolist() == [5, 9, 8]


@pytest.mark.parametrize("latent", [0, 40])
def test_of_many_links_the_best_are_left(latent):
    """Many of the same time, and times of one byte and of three."""
    rng = random.Random(latent)
    people = 60
    visits = np.zeros(900, VISIT)
    visits["start_ms"] = [rng.choice([0, 100, 100_000]) + rng.randrange(200) for _ in visits]
    visits["end_ms"] = visits["start_ms"] + [rng.choice([5, 60, 90_000]) for _ in visits]
    visits["person"] = [rng.randrange(people) for _ in visits]
    visits["place"] = [rng.randrange(6) for _ in visits]
    visits["vehicle"] = [rng.choice([0, 0, 9]) for _ in visits]
    visits["flags"] = [rng.choice([0, 0, 1]) for _ in visits]
    tables = [VisitTable(visits[:400]), VisitTable(visits[400:])]
    rows = np.zeros(people, TIERED)
    rows["person"] = rng.sample(range(people), people)
    rows["tier"] = sorted([0, *(rng.randrange(1, 4) for _ in range(people - 1))])
    rows["earliest_ms"] = [rng.randrange(100_000) for _ in rows]
    rows["earliest_ms"][0] = EVER
    span = {"from_ms": 0, "to_ms": 200_000, "linger_ms": 3, "latent_ms": latent}
    made, is_all = find_links(tables, rows.tobytes(), people, 0, **span, most=1 << 30)
    links = np.frombuffer(made, LINK)
    assert is_all and len(links) > 1000
    for most in (1, 30, people - 2, people + 1, 500, len(links) - 1, len(links)):
        some, is_all = find_links(tables, rows.tobytes(), people, 0, **span, most=most)
        assert is_all == (most == len(links))
        assert some == best_links(links, rows["tier"], most).tobytes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"persons": []}, {"persons": [b"short"]}, {"depth": 0}, {"depth": 9}, {"latent_hours": -1},
        {"most": 0}, {"profile": "VN-1"}, {"profile": "CWA"}, {"min_minutes": 9999},
        {"linger_minutes": 999}, {"limit": 0}, {"to_ms": TODAY},
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_asked(wrong):
    tracer = Tracer(CoLocationIndex(PLACES), ManualClock(0))
    with pytest.raises(QuestionInvalid) as caught:
        tracer.ask(TiersQuestion(**{"persons": [AN], **DAY, **wrong}))
    assert any(name.split("_")[0] in str(caught.value) for name in wrong) or "person" in str(
        caught.value
    )


def test_kernels_refuse_what_is_no_question():
    span = {"from_ms": 0, "to_ms": HOUR_MS, "linger_ms": 0, "latent_ms": 0}
    more = {"min_ms": 0, "window_ms": 1, "depth": 1, "most": 1}
    one = np.array([0], "<u4").data
    for persons_, count, changes in (
        (one, 0, {}), (np.array([0, 0], "<u4").data, 2, {}), (b"123", 2, {}),
        (one, 2, {"depth": 0}), (one, 2, {"window_ms": 0}), (one, 2, {"way": 3}),
        (one, 2, {"places": b"12345"}), (one, 2, {"exposures_max": 0}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r".+"):
            find_tiers([], persons_, count, 0, **{**span, **more, **changes})
    with pytest.raises(TypeError):
        find_tiers([object()], one, 1, 0, **span, **more)
    row = np.zeros(2, TIERED)
    for rows, count in ((row, 1), (row[:1], 0), (row.tobytes()[:-1], 5)):
        with pytest.raises(ValueError, match=r".+"):
            find_links([], rows, count, 0, **span, most=9)
