"""Tracing: a day of invented people, the profiles, and each question against the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import DAY_MS, HOUR_MS, MINUTE_MS, ManualClock, iso_to_ms
from engine.colocation.found import ref_to_position
from engine.colocation.index import CoLocationIndex
from engine.errors import AccessDenied, InputError, NotFound, QuestionInvalid, ServiceError
from engine.presence.contacts import CONTACT, PAIR
from engine.presence.profiles import PROFILES, case_window, profile_at
from engine.presence.visits import PlaceRule, PlaceRules, VisitRules
from engine.scans.rows import ROW
from engine.tracing.rows import LAYOUTS, contact_rows, visit_rows
from engine.tracing.tracer import (
    Completeness,
    ContactsAnswer,
    ContactsQuestion,
    GatewayState,
    HistoryAnswer,
    HistoryQuestion,
    Tracer,
    VenueAnswer,
    VenueQuestion,
)
from tests.reference.tracing import reference_contacts, reference_history, reference_venue
from tests.reference.visits import Scan, reference_visits

POST, MARKET, OFFICE, CAFE, BUS = 1, 10, 11, 12, 13
STAYS_MINUTES = {POST: 10, MARKET: 45, OFFICE: 480, CAFE: 60, BUS: 120}
PLACES = PlaceRules(
    {n: PlaceRule(n == POST, minutes * MINUTE_MS) for n, minutes in STAYS_MINUTES.items()}
)
AN, BINH, CHI, DUNG, GIANG = (name * 16 for name in (b"a", b"b", b"c", b"d", b"g"))
AN_PASSPORT = b"A" * 16
NONE, IN, OUT = 0, 1, 2
TODAY = iso_to_ms("2021-07-01T00:00")


@dataclass
class Group:
    lsn: int
    rows: np.ndarray


def at(text):
    """Instant of "08:30", or "+1 08:30" a day later."""
    days, _, hours = text.rpartition(" ")
    hour, minute = hours.split(":")
    return TODAY + int(days or 0) * DAY_MS + int(hour) * HOUR_MS + int(minute) * MINUTE_MS


def index_of(*events):
    """events: (person, place, "08:30", direction[, lane[, vehicle]]), one group each."""
    index = CoLocationIndex(PLACES)
    for lsn, (person, place, time, direction, *more) in enumerate(events, 1):
        rows = np.zeros(1, ROW)
        rows["person"] = np.frombuffer(person, "V16")
        rows["time_ms"] = at(time) if isinstance(time, str) else time
        rows["place"], rows["direction"], rows["kind"] = place, direction, 2
        rows["lane"], rows["vehicle"] = [*more, 0, 0][:2]
        index.apply(Group(lsn, rows))
    return index


def tracer_of(*events):
    return Tracer(index_of(*events), ManualClock(at("20:00")))


def persons(answer):
    keys = answer.persons
    return [keys[i : i + 16] for i in range(0, len(keys), 16)]


DAY = {"from_ms": TODAY, "to_ms": TODAY + DAY_MS}


def test_who_was_at_the_venue():
    tracer = tracer_of(
        (AN, MARKET, "08:00", IN), (AN, MARKET, "08:30", OUT),
        (BINH, MARKET, "08:30", IN, 4), (CHI, MARKET, "07:00", IN), (DUNG, CAFE, "08:10", IN),
    )  # fmt: skip
    answer = tracer.ask(VenueQuestion(place=MARKET, from_ms=at("07:45"), to_ms=at("08:30")))
    assert isinstance(answer, VenueAnswer)
    # Chi's 45 minutes ended at 07:45 and Bình came at 08:30: half-open spans leave both out.
    assert persons(answer) == [AN]
    (row,) = visit_rows(answer.packed)
    assert (row.start_ms, row.end_ms, row.end_rule) == (at("08:00"), at("08:30"), "observed")
    assert ref_to_position(row.evidence) == (1, 0)
    answer = tracer.ask(VenueQuestion(place=MARKET, **DAY))
    rows = visit_rows(answer.packed)
    assert [persons(answer)[row.person] for row in rows] == [CHI, AN, BINH]
    assert (rows[2].room, rows[2].direction, rows[2].end_rule) == (4, "in", "default")
    assert not answer.limit_cut


def test_where_was_the_person_under_both_keys():
    tracer = tracer_of(
        (AN, POST, "07:00", IN, 2, 81), (AN_PASSPORT, OFFICE, "08:00", IN),
        (AN, CAFE, "12:00", NONE), (BINH, CAFE, "12:00", NONE),
    )  # fmt: skip
    answer = tracer.ask(HistoryQuestion(persons=[AN, AN_PASSPORT], **DAY))
    assert isinstance(answer, HistoryAnswer)
    rows = visit_rows(answer.packed)
    assert [(row.place, row.is_passage, row.vehicle) for row in rows] == [
        (POST, True, 81),
        (OFFICE, False, 0),
        (CAFE, False, 0),
    ]
    assert [persons(answer)[row.person] for row in rows] == [AN, AN_PASSPORT, AN]
    newest = np.frombuffer(answer.packed["newest"], LAYOUTS["newest"])
    found = dict(zip(persons(answer), map(ref_to_position, newest.tolist()), strict=True))
    assert found == {AN: (3, 0), AN_PASSPORT: (2, 0)}


def contacts(tracer, *keys, profile="VN-2020-12", **more):
    question = ContactsQuestion(persons=list(keys), profile=profile, **{**DAY, **more})
    answer = tracer.ask(question)
    assert isinstance(answer, ContactsAnswer)
    return answer, dict(zip(persons(answer), contact_rows(answer.packed), strict=True))


def test_contacts_with_minutes_and_evidence():
    tracer = tracer_of(
        (AN, MARKET, "08:00", IN), (AN, MARKET, "08:30", OUT),
        (BINH, MARKET, "08:10", IN), (CHI, MARKET, "08:20", IN), (DUNG, MARKET, "08:30", IN),
        (AN, CAFE, "09:00", IN), (BINH, CAFE, "09:20", IN),
    )  # fmt: skip
    answer, found = contacts(tracer, AN)
    # Chi's ten minutes are under the fifteen; Dũng came when An left.
    assert (list(found), answer.below) == ([BINH], 1)
    binh = found[BINH]
    assert (binh.tier, binh.places, binh.overlap_ms) == ("candidate", 2, 60 * MINUTE_MS)
    assert [(pair.place, pair.overlap_ms // MINUTE_MS) for pair in binh.pairs] == [
        (MARKET, 20),
        (CAFE, 40),
    ]
    assert binh.pairs[0].case_end_rule == "observed"
    assert binh.pairs[0].other_end_rule == "default"
    assert ref_to_position(binh.pairs[0].case_evidence) == (1, 0)
    assert ref_to_position(binh.pairs[0].other_evidence) == (3, 0)
    _, found = contacts(tracer, AN, min_minutes=10)
    assert list(found) == [BINH, CHI]
    _, found = contacts(tracer, AN, profile="VN-2021-07")
    assert list(found) == [BINH, CHI]
    answer, found = contacts(tracer, AN, linger_minutes=30)
    assert found[DUNG].linger_ms == 30 * MINUTE_MS
    assert (found[DUNG].overlap_ms, found[DUNG].flags) == (0, ("same_room", "after"))
    assert (answer.profile.name, answer.profile.linger_minutes) == ("VN-2020-12", 30)


def test_minutes_are_cumulated_within_24_hours_and_not_beyond():
    def days(second):
        return tracer_of(
            (AN, MARKET, "08:00", IN), (AN, MARKET, "08:10", OUT),
            (BINH, MARKET, "08:00", IN), (BINH, MARKET, "08:10", OUT),
            (AN, MARKET, f"{second}:00", IN), (AN, MARKET, f"{second}:10", OUT),
            (BINH, MARKET, f"{second}:00", IN), (BINH, MARKET, f"{second}:10", OUT),
        )  # fmt: skip

    week = {"to_ms": TODAY + 7 * DAY_MS}
    _, found = contacts(days("18"), AN, **week)
    assert found[BINH].best_ms == 20 * MINUTE_MS
    # The second meeting begins with the 25th hour: no window of 24 hours holds both.
    answer, found = contacts(days("+1 09"), AN, **week)
    assert (found, answer.below) == ({}, 1)
    _, found = contacts(days("+1 09"), AN, min_minutes=5, **week)
    assert found[BINH].best_ms == 10 * MINUTE_MS
    assert found[BINH].overlap_ms == 20 * MINUTE_MS


def test_the_queue_of_a_post_is_weak_and_a_vehicle_strong():
    tracer = tracer_of(
        (AN, POST, "08:00", IN, 1, 81), (BINH, POST, "08:04", IN, 1), (CHI, POST, "08:06", IN, 1),
        (DUNG, POST, "08:01", IN, 2), (GIANG, POST, "08:07", IN, 3, 81),
    )  # fmt: skip
    _, found = contacts(tracer, AN)
    assert list(found) == [GIANG, BINH]
    assert (found[GIANG].tier, found[GIANG].flags) == ("candidate", ("queue", "same_vehicle"))
    assert (found[BINH].tier, found[BINH].overlap_ms) == ("queue", 0)
    assert found[BINH].queue_ms == 6 * MINUTE_MS
    assert found[BINH].places == 0


def test_aliases_are_one_person_and_count_no_minute_twice():
    tracer = tracer_of(
        (AN, CAFE, "08:00", IN), (AN, CAFE, "09:00", OUT),
        (AN_PASSPORT, CAFE, "08:30", IN), (AN_PASSPORT, CAFE, "09:30", OUT),
        (BINH, CAFE, "08:00", IN), (BINH, CAFE, "10:00", OUT),
    )  # fmt: skip
    _, found = contacts(tracer, AN, AN_PASSPORT)
    assert list(found) == [BINH]
    assert found[BINH].overlap_ms == 90 * MINUTE_MS
    assert len(found[BINH].pairs) == 2
    _, found = contacts(tracer, AN)
    assert set(found) == {BINH, AN_PASSPORT}


def test_a_limit_is_never_silent():
    tracer = tracer_of(*((bytes([n]) * 16, CAFE, "08:00", IN) for n in range(5)))
    answer = tracer.ask(VenueQuestion(place=CAFE, limit=4, **DAY))
    assert (answer.limit_cut, answer.total, len(persons(answer))) == (True, 5, 4)
    answer, found = contacts(tracer, bytes(16), limit=3)
    assert (answer.limit_cut, answer.total, len(found)) == (True, 4, 3)
    assert all(len(contact.pairs) == 1 for contact in found.values())
    answer, _ = contacts(tracer, bytes(16), limit=4)
    assert not answer.limit_cut


def test_areas_bound_what_is_seen():
    tracer = tracer_of(
        (AN, CAFE, "08:00", IN), (BINH, CAFE, "08:00", IN),
        (AN, MARKET, "10:00", IN), (CHI, MARKET, "10:00", IN),
    )  # fmt: skip
    allowed = {CAFE}
    with pytest.raises(AccessDenied):
        tracer.ask(VenueQuestion(place=MARKET, **DAY), allowed)
    assert len(visit_rows(tracer.ask(VenueQuestion(place=CAFE, **DAY), allowed).packed)) == 2
    history = tracer.ask(HistoryQuestion(persons=[AN], **DAY), allowed)
    assert [row.place for row in visit_rows(history.packed)] == [CAFE]
    met = tracer.ask(ContactsQuestion(persons=[AN], profile="WHO", **DAY), allowed)
    assert persons(met) == [BINH]
    assert visit_rows(tracer.ask(HistoryQuestion(persons=[AN], **DAY), set()).packed) == []


def test_an_answer_says_what_it_is_complete_to():
    clock = ManualClock(at("20:00"))
    index = index_of((AN, CAFE, "08:00", IN), (BINH, CAFE, "08:00", IN))
    states = (GatewayState("HL-1A/1", 37_000, True), GatewayState("VL-HCM/1", 0, False))

    def completeness():
        clock.advance(2)
        return Completeness(99, at("19:59"), states)

    tracer = Tracer(index, clock, {CAFE: "café"}.get, completeness)
    answer = tracer.ask(VenueQuestion(place=CAFE, **DAY))
    assert answer.completeness == Completeness(2, at("19:59"), states)
    assert answer.elapsed_us == 2000
    with pytest.raises(NotFound):
        tracer.ask(VenueQuestion(place=MARKET, **DAY))
    bare = Tracer(index, clock).ask(HistoryQuestion(persons=[AN], **DAY))
    assert bare.completeness == Completeness(2, clock.now_ms())


def test_days_that_are_forgotten_are_not_asked_about():
    index = index_of((AN, CAFE, "08:00", IN))
    ask = VenueQuestion(place=CAFE, **DAY)
    kept_from, held = at("00:00"), False
    tracer = Tracer(
        index, ManualClock(at("20:00")), {CAFE: "café"}.get,
        lambda: Completeness(2, at("20:00"), (), kept_from, held),
    )  # fmt: skip
    assert len(visit_rows(tracer.ask(ask).packed)) == 1
    kept_from = ask.to_ms
    with pytest.raises(QuestionInvalid, match=r"^to: nothing is kept of before "):
        tracer.ask(ask)
    held = True
    assert tracer.ask(ask).completeness.kept_from_ms == kept_from


def test_questions_and_answers_travel():
    tracer = tracer_of((AN, CAFE, "08:00", IN), (BINH, CAFE, "08:00", IN))
    questions = [
        VenueQuestion(place=CAFE, **DAY),
        HistoryQuestion(persons=[AN], **DAY),
        ContactsQuestion(persons=[AN], profile="WHO", **DAY),
    ]
    kinds = VenueAnswer | HistoryAnswer | ContactsAnswer
    for codec in (msgspec.msgpack, msgspec.json):
        for question in questions:
            sent = codec.encode(question)
            assert (
                codec.decode(sent, type=VenueQuestion | HistoryQuestion | ContactsQuestion)
                == question
            )
            answer = tracer.ask(question)
            assert codec.decode(codec.encode(answer), type=kinds) == answer


def test_broken_arrays_are_told():
    for packed in ({}, {"visits": b"x"}):
        with pytest.raises(ServiceError):
            visit_rows(packed)


BASE = {"persons": [AN], "from_ms": 0, "to_ms": 1, "profile": "WHO"}


@pytest.mark.parametrize(
    "change",
    [
        {"from_ms": 1}, {"from_ms": 2}, {"to_ms": 366 * DAY_MS + 1}, {"limit": 0},
        {"limit": 100_001}, {"persons": []}, {"persons": [AN] * 65}, {"persons": [b"short"]},
        {"profile": "CDC"}, {"min_minutes": -1}, {"min_minutes": 1441}, {"linger_minutes": 121},
        {"from_ms": 1 << 70, "to_ms": (1 << 70) + 1},
    ],
)  # fmt: skip
def test_bad_questions(change):
    with pytest.raises(QuestionInvalid):
        tracer_of().ask(ContactsQuestion(**{**BASE, **change}))


wild = st.integers() | st.integers(-5, 5)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.binary(min_size=16, max_size=16) | st.binary(max_size=20), max_size=3),
    wild, wild, wild, wild, st.sampled_from([*PROFILES]) | st.text(), st.none() | wild,
)  # fmt: skip
def test_any_question_is_answered_or_refused(keys, place, from_ms, to_ms, limit, profile, minutes):
    tracer = tracer_of((AN, CAFE, 2, IN))
    span = {"from_ms": from_ms, "to_ms": to_ms, "limit": limit}
    for question in (
        VenueQuestion(place=place, **span),
        HistoryQuestion(persons=keys, **span),
        ContactsQuestion(
            persons=keys, profile=profile, min_minutes=minutes, linger_minutes=minutes, **span
        ),
    ):
        try:
            answer = tracer.ask(question)
        except InputError:
            continue
        assert answer.completeness.applied_lsn == 1


# Whole minutes, so that the oracle, which counts instants, can work on minutes.
minute_scans = st.lists(
    st.builds(
        Scan,
        person=st.sampled_from([AN, AN_PASSPORT, BINH, CHI]),
        time=st.integers(0, 300),
        place=st.sampled_from([*STAYS_MINUTES]),
        lane=st.integers(0, 1),
        direction=st.integers(0, 2),
        kind=st.just(2),
        vehicle=st.sampled_from([0, 0, 5]),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(minute_scans, st.integers(0, 30), st.integers(0, 60), st.randoms(use_true_random=False))
def test_all_three_questions_equal_the_oracle_in_minutes(scans, linger, least, rng):
    rules = VisitRules(passage_window_ms=10, gap_ms=15, stay_max_ms=1440, queue_ms=5)
    visits = reference_visits(scans, {POST}, STAYS_MINUTES, rules)
    listed, below = reference_contacts(
        visits, [AN, AN_PASSPORT], 0, 400, linger=linger, least=least, window=1440, queue=5
    )
    arrived = scans + scans[:5]
    rng.shuffle(arrived)
    rows = [
        (s.person, s.place, s.time * MINUTE_MS, s.direction, s.lane, s.vehicle) for s in arrived
    ]
    tracer = tracer_of(*rows)
    span = {"from_ms": 0, "to_ms": 400 * MINUTE_MS}
    answer, _ = contacts(tracer, AN, AN_PASSPORT, min_minutes=least, linger_minutes=linger, **span)
    table = np.frombuffer(answer.packed["contacts"], CONTACT)
    pairs = np.frombuffer(answer.packed["pairs"], PAIR)
    # A long hold ends 1 ms after its last scan; in the oracle's world that is a whole minute.
    exact = not any(v.is_passage and v.rule == 0 for v in visits)
    assert (persons(answer), answer.below) == ([c.person for c in listed], below)
    for contact, row in zip(listed, table, strict=True):
        for name, value in (
            ("overlap_ms", contact.overlap), ("linger_ms", contact.linger),
            ("best_ms", contact.best), ("queue_ms", contact.queue if exact else None),
        ):  # fmt: skip
            assert value is None or row[name] == value * MINUTE_MS
        assert row["pairs"] == len(contact.pairs)
    assert len(pairs) == sum(len(contact.pairs) for contact in listed)
    for place in STAYS_MINUTES:
        answer = tracer.ask(VenueQuestion(place=place, **span))
        found = [persons(answer)[row.person] for row in visit_rows(answer.packed)]
        assert found == [v.person for v in reference_venue(visits, place, 0, 400)]
    answer = tracer.ask(HistoryQuestion(persons=[AN], **span))
    starts = [row.start_ms // MINUTE_MS for row in visit_rows(answer.packed)]
    assert starts == [v.start for v in reference_history(visits, [AN], 0, 400)]


@pytest.mark.parametrize(
    ("name", "days", "sampled_days"),
    [
        ("VN-2020-12", 3, 14), ("VN-2021-07", 3, 14), ("VN-2021-12-29", 2, 2),
        ("VN-2022-04-15", 2, 2), ("WHO", 2, 2),
    ],
)  # fmt: skip
def test_windows_count_civil_days(name, days, sampled_days):
    profile = PROFILES[name]
    isolated = iso_to_ms("2021-07-12T09:00")
    # 01:00 local is the evening before in UTC: the civil day must not slip.
    for hour in ("01:00", "23:59"):
        onset = iso_to_ms(f"2021-07-10T{hour}")
        begin = iso_to_ms(f"2021-07-{10 - days:02}T00:00")
        assert case_window(profile, onset_ms=onset, isolated_ms=isolated) == (begin, isolated)
        sampled = iso_to_ms("2021-07-10T00:00") - sampled_days * DAY_MS
        assert case_window(profile, sample_ms=onset, isolated_ms=isolated) == (sampled, isolated)


def test_window_ends():
    onset, late = iso_to_ms("2021-07-10T15:00"), iso_to_ms("2021-08-30T00:00")
    who = PROFILES["WHO"]
    begin = iso_to_ms("2021-07-08T00:00")
    for isolated in (None, late):
        window = case_window(who, onset_ms=onset, isolated_ms=isolated)
        assert window == (begin, iso_to_ms("2021-07-24T00:00"))
        window = case_window(who, sample_ms=onset, isolated_ms=isolated)
        assert window == (begin, iso_to_ms("2021-07-21T00:00"))
    for wrong in (
        {}, {"onset_ms": onset, "sample_ms": onset}, {"onset_ms": onset},
        {"onset_ms": onset, "isolated_ms": onset - 9 * DAY_MS},
    ):  # fmt: skip
        with pytest.raises(QuestionInvalid):
            case_window(PROFILES["VN-2021-07"], **wrong)


def test_profile_in_force():
    for date, name in (
        ("2020-03-01", "VN-2020-12"), ("2021-07-29", "VN-2020-12"), ("2021-07-30", "VN-2021-07"),
        ("2021-12-29", "VN-2021-12-29"), ("2026-01-01", "VN-2022-04-15"),
    ):  # fmt: skip
        assert profile_at(iso_to_ms(f"{date}T00:00")).name == name


def test_the_page_names_every_profile_with_its_numbers():
    page = (Path(__file__).parents[2] / "docs/tracing.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    table = {row[0]: row for row in rows if len(row) == 7}
    for profile in PROFILES.values():
        _, since, source, minutes, onset, sample, ends = table[profile.name]
        assert (since, int(minutes)) == (profile.since, profile.min_minutes)
        assert profile.source.startswith(source)
        assert (int(onset), int(sample)) == (profile.days_before_onset, profile.days_before_sample)
        for days in (profile.days_after_onset, profile.days_after_sample):
            assert days is None or str(days) in ends
