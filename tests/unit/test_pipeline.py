"""The pipeline: every kind of record, every refusal, and what becomes of it.

Registry, payloads, people, window and row buffer are the real ones; the key ring is a hash and the
clock is set by hand.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import DAY_MS, MINUTE_MS, day_to_ms, iso_to_ms, ms_to_day
from engine.errors import ImageInvalid, InputError, SealBroken, WireClock, WireMalformed
from engine.identity.watch import WatchEntry, WatchKind
from engine.ingest.pipeline import STEP_RECORDS, Origin, Outcome
from engine.payloads.venue import check_characters
from engine.registry.registry import Rule, Venue
from engine.scans.people import Details, bytes_to_details
from engine.scans.records import (
    ENTRY,
    Credential,
    Extras,
    decode_scans,
    encode_checkin,
    encode_manual,
    encode_scan,
    encode_scans,
)
from engine.scans.rows import NO_TEMPERATURE, NOBODY, REASONS, ROW, Direction, Flag, Kind, Source
from engine.storage.group import TALLY, walk_details
from engine.wire import frames as wire
from tests.reference.pipeline import (
    APP,
    BACK_END,
    BANK,
    CARD,
    LANE_GATEWAY,
    MARKET,
    NOON_MS,
    POST,
    Bench,
)


@pytest.fixture(params=[True, False], ids=["native", "python"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(is_native=request.param)


def rows(outcome: Outcome) -> np.ndarray[Any, Any]:
    assert outcome.batch is not None
    return np.frombuffer(b"".join(part.rows for part in outcome.batch.parts), ROW)


def details(outcome: Outcome) -> list[Details]:
    assert outcome.batch is not None
    return [
        bytes_to_details(entry)
        for part in outcome.batch.parts
        for entry in walk_details(part.details, len(part.rows) // ROW.itemsize)
    ]


def tallies(outcome: Outcome) -> Counter[tuple[int, int, str, int]]:
    """(place, lane, reason, day) -> count."""
    assert outcome.batch is not None
    found: Counter[tuple[int, int, str, int]] = Counter()
    for t in np.frombuffer(outcome.batch.tallies, TALLY):
        key = (int(t["place"]), int(t["lane"]), REASONS[t["reason"]], ms_to_day(int(t["time_ms"])))
        found[key] += int(t["count"])
    return found


def lights(outcome: Outcome) -> list[tuple[str, str | None]]:
    return [(v.verdict, v.reason) for v in outcome.verdicts]


TODAY = ms_to_day(NOON_MS)


# ---- scans in a lane ----------------------------------------------------------------------------


def test_a_scan_becomes_one_row_with_its_details(bench: Bench) -> None:
    outcome = bench.take(encode_scan(NOON_MS, 2, CARD))
    assert lights(outcome) == [("accepted", None)]
    assert (outcome.verdicts[0].name, outcome.verdicts[0].lane) == ("Nguyễn Th***", 2)
    (row,) = rows(outcome)
    assert row["person"].tobytes() == bench.ring.person_key("cccd", "VNM", "045190999001")
    assert (row["time_ms"], row["place"], row["lane"], row["n"]) == (NOON_MS, POST, 2, 0)
    assert (row["kind"], row["source"], row["flags"]) == (Kind.SCAN, Source.CCCD, 0)
    assert (row["direction"], row["temperature_cc"]) == (Direction.NONE, NO_TEMPERATURE)
    (known,) = details(outcome)
    assert (known.name, known.doc_no) == ("Nguyễn Thị Hồng Ánh", "045190999001")
    assert not tallies(outcome) and not outcome.faults


def test_the_second_sight_is_seen_and_still_a_row(bench: Bench) -> None:
    outcome = bench.take(
        encode_scan(NOON_MS, 1, CARD),
        encode_scan(NOON_MS, 1, APP),
        encode_scan(NOON_MS + 3000, 2, CARD),  # another lane of the same post (CP-3)
    )
    assert lights(outcome) == [("accepted", None), ("accepted", None), ("seen", None)]
    assert len(rows(outcome)) == 3
    assert list(rows(outcome)["source"]) == [Source.CCCD, Source.QR1405, Source.CCCD]
    assert [v.n for v in outcome.verdicts] == list(rows(outcome)["n"]) == [0, 1, 2]
    assert outcome.batch is not None
    assert outcome.batch.run == msgspec.structs.replace(outcome.batch.run, first=1, last=1)


def test_a_code_in_two_lanes_at_once_was_copied(bench: Bench) -> None:
    outcome = bench.take(
        encode_scan(NOON_MS, 1, CARD),
        encode_scan(NOON_MS + 2000, 2, CARD),
        encode_scan(NOON_MS + 4001, 1, CARD),
    )
    assert lights(outcome) == [("accepted", None), ("alert", "two_lanes"), ("seen", None)]
    assert list(rows(outcome)["flags"]) == [0, Flag.COPIED, 0]
    assert [v.name for v in outcome.verdicts] == ["Nguyễn Th***"] * 3
    assert bench.alerts() == {"two_lanes": 1}


def test_a_code_at_two_posts_faster_than_the_road_was_copied(bench: Bench) -> None:
    """VL-1A and HL-1A are 45 minutes apart in the example registry."""
    south = Origin(gateway=4, epoch=7, cls=0, seq=1, first=1, post=2, lanes=(1,))
    bench.take(encode_scan(NOON_MS, 1, CARD), encode_scan(NOON_MS, 1, APP))
    bench.clock.advance(50 * MINUTE_MS)
    early = bench.take(encode_scan(NOON_MS + 45 * MINUTE_MS - 1, 1, CARD), origin=south)
    assert lights(early) == [("alert", "two_posts")]
    assert list(rows(early)["flags"]) == [Flag.COPIED]
    fair = bench.take(encode_scan(NOON_MS + 45 * MINUTE_MS, 1, APP), origin=south)
    assert lights(fair) == [("accepted", None)]
    # Before the road's valid_from nobody says how long it takes.
    bench = Bench(iso_to_ms("2021-06-10T20:00"))
    bench.take(encode_scan(bench.clock.now_ms(), 1, CARD))
    assert lights(bench.take(encode_scan(bench.clock.now_ms(), 1, CARD), origin=south)) == [
        ("accepted", None)
    ]


def entry(bench: Bench, number: int = 1, **changes: Any) -> WatchEntry:
    """Of the holder of CARD, today."""
    fields: dict[str, Any] = {
        "number": number, "kind": WatchKind.QUARANTINE, "reason": "", "case": "BN-1234",
        "persons": (bench.ring.person_key("cccd", "VNM", "045190999001"),), "purpose": "case",
        "who": "cdc", "role": "tracer", "unit": "CDC", "from_ms": NOON_MS - DAY_MS,
        "to_ms": NOON_MS + DAY_MS, "at_ms": NOON_MS,
    }  # fmt: skip
    return WatchEntry(**fields | changes)


@pytest.mark.parametrize("kind", WatchKind)
def test_a_lane_is_told_to_call_the_desk_and_nothing_more(bench: Bench, kind: WatchKind) -> None:
    bench.watch.put(entry(bench, kind=kind))
    outcome = bench.take(
        encode_scan(NOON_MS, 1, CARD), encode_scan(NOON_MS, 1, APP),
        encode_scan(NOON_MS + 1000, 2, CARD),
    )  # fmt: skip
    assert lights(outcome) == [
        ("alert", "call_desk"), ("accepted", None), ("alert", "call_desk")
    ]  # fmt: skip
    assert list(rows(outcome)["flags"]) == [Flag.LISTED, 0, Flag.LISTED | Flag.COPIED]
    assert bench.alerts() == {"call_desk": 2, "two_lanes": 1}
    assert msgspec.json.encode(outcome.verdicts[0]) == (
        '{"verdict":"alert","lane":1,"reason":"call_desk","name":"Nguyễn Th***"}'.encode()
    )


def test_an_entry_holds_at_the_time_of_the_scan(bench: Bench) -> None:
    bench.watch.put(entry(bench, from_ms=NOON_MS - 1000, to_ms=NOON_MS))
    times = (NOON_MS - 1001, NOON_MS - 1000, NOON_MS - 1, NOON_MS)
    found = [rows(bench.take(encode_scan(at, 1, CARD)))["flags"][0] for at in times]
    assert found == [0, Flag.LISTED, Flag.LISTED, 0]


def test_a_check_in_of_somebody_on_the_list_is_flagged_and_not_told(bench: Bench) -> None:
    """A venue's back end must not learn who is in quarantine."""
    bench.watch.put(entry(bench))
    outcome = bench.take(encode_checkin(NOON_MS, Direction.IN, CARD, MARKET), origin=BACK_END)
    assert outcome.verdicts == []
    assert list(rows(outcome)["flags"]) == [Flag.LISTED]


def report(at_ms: int = NOON_MS, value: float | None = 38.2, **changes: Any) -> wire.Report:
    fields: dict[str, Any] = {
        "kind": "thermal", "ts_ms": at_ms, "device": "T-1", "value": value, "unit": "C",
        "calibration": "2021-06-01",
    }  # fmt: skip
    return wire.Report(**fields | changes)


def measure(bench: Bench, *, seq: int = 2, lane: int = 1, **changes: Any) -> Outcome:
    origin = dataclasses.replace(LANE_GATEWAY, seq=seq, first=seq)
    return bench.check(bench.pipeline.take_report(origin, lane, report(**changes)))


def test_a_temperature_after_its_scan_is_a_row_of_its_own(bench: Bench) -> None:
    """Rows are immutable, so one that was written gets its temperature beside it."""
    bench.take(encode_scan(NOON_MS - 900_000, 1, APP), encode_scan(NOON_MS, 1, CARD))
    for named in ((1, 1), None):
        outcome = measure(bench, at_ms=NOON_MS + 3000, scan=named)
        assert [(v.verdict, v.reason, v.name) for v in outcome.verdicts] == [
            ("alert", "fever", "Nguyễn Th***")
        ]
        (row,) = rows(outcome)
        assert row["person"].tobytes() == bench.ring.person_key("cccd", "VNM", "045190999001")
        assert (row["kind"], row["temperature_cc"], row["flags"]) == (Kind.READING, 3820, 1)
        assert (row["place"], row["lane"], row["time_ms"]) == (POST, 1, NOON_MS + 3000)
        (known,) = details(outcome)
        assert (known.reading, known.reading_unit) == ("38.2", "C")
        assert (known.calibration, known.device, known.name) == ("2021-06-01", "T-1", "")
    # A scan that is named is found however far apart the two are.
    far = measure(bench, at_ms=NOON_MS, scan=(1, 0), device="T-2")
    assert far.verdicts[0].name == "PHAM QU***"


def test_a_temperature_before_its_scan_goes_on_the_row_too(bench: Bench) -> None:
    first = measure(bench, at_ms=NOON_MS - 4000)
    assert [(v.verdict, v.reason, v.name) for v in first.verdicts] == [("alert", "fever", None)]
    assert rows(first)["person"].tobytes() == NOBODY
    for _ in range(2):  # sent again after a refusal of the store: the same again
        outcome = bench.take(encode_scan(NOON_MS, 1, CARD))
        assert lights(outcome) == [("alert", "fever")]
        (row,) = rows(outcome)
        assert (row["temperature_cc"], row["flags"], row["kind"]) == (3820, 1, Kind.SCAN)
        (known,) = details(outcome)
        assert (known.name, known.reading) == ("Nguyễn Thị Hồng Ánh", "38.2")
    other = bench.take(encode_scan(NOON_MS, 1, APP))
    assert rows(other)["temperature_cc"][0] == NO_TEMPERATURE, "one reading, one scan"
    # Measured a second time: named, it is still the same scan; unnamed, it is the other one.
    again = measure(bench, seq=3, at_ms=NOON_MS + 1000, scan=(1, 0), value=37.9)
    assert again.verdicts[0].name == "Nguyễn Th***"
    assert measure(bench, seq=4, at_ms=NOON_MS - 900).verdicts[0].name == "PHAM QU***"


def test_nobody_gets_the_temperature_of_another(bench: Bench) -> None:
    bench.take(encode_scan(NOON_MS, 1, CARD), encode_scan(NOON_MS + 4000, 1, APP))
    anh = bench.ring.person_key("cccd", "VNM", "045190999001")
    lone = [
        measure(bench, lane=2, at_ms=NOON_MS), measure(bench, at_ms=NOON_MS - 10_001),
        measure(bench, at_ms=NOON_MS, scan=(9, 0)),
    ]  # fmt: skip
    assert [rows(found)["person"].tobytes() for found in lone] == [NOBODY] * 3
    near = [measure(bench, at_ms=NOON_MS + 1000), measure(bench, at_ms=NOON_MS + 1500)]
    found = [rows(outcome)["person"].tobytes() for outcome in near]
    assert found[0] == anh and found[1] not in (anh, NOBODY), "each reading its own scan"
    assert rows(measure(bench, at_ms=NOON_MS + 1000))["person"].tobytes() == anh, "sent again"
    assert rows(measure(bench, at_ms=NOON_MS + 1100))["person"].tobytes() == NOBODY


@pytest.mark.parametrize(
    ("value", "unit", "temperature_cc", "is_fever"),
    [(37.49, "C", 3749, False), (37.5, "°C", 3750, True), (99.5, "F", 3750, True),
     (99.4, "°f", 3744, False), (36.6, None, 3660, False), (20.0, "celsius", 2000, False),
     (50.0, "C", 5000, True), (122.0, "Fahrenheit", 5000, True)],
)  # fmt: skip
def test_fever_begins_at_a_dated_threshold(
    bench: Bench, value: float, unit: str | None, temperature_cc: int, is_fever: bool
) -> None:
    outcome = measure(bench, value=value, unit=unit)
    (row,) = rows(outcome)
    assert (row["temperature_cc"], bool(row["flags"] & Flag.FEVER)) == (temperature_cc, is_fever)
    assert bool(outcome.verdicts) == is_fever
    rule = Rule(name="fever_threshold_cc", value=3600, valid_from_ms=NOON_MS + 1)
    bench.registry.take(rule)
    assert rows(measure(bench, value=value, unit=unit))["flags"][0] == is_fever
    later = rows(measure(bench, value=value, unit=unit, at_ms=NOON_MS + 1))["flags"][0]
    assert bool(later) == (temperature_cc >= 3600)


@pytest.mark.parametrize(
    "changes",
    [{"value": None}, {"value": float("nan")}, {"value": float("inf")}, {"value": 1e300},
     {"value": 19.99}, {"value": 50.01}, {"value": 310.0, "unit": "K"}, {"value": 37.0, "unit": ""},
     {"lane": 3}, {"at_ms": NOON_MS + 10**9}],
)  # fmt: skip
def test_what_is_no_temperature_is_answered_and_counted(
    bench: Bench, changes: dict[str, Any]
) -> None:
    outcome = measure(bench, **changes)
    if changes.get("unit") == "":
        assert len(rows(outcome)) == 1  # no unit is Celsius
        return
    assert len(outcome.faults) == 1 and len(rows(outcome)) == 0
    assert sum(tallies(outcome).values()) == 1


def test_health_and_notes_are_consumed_and_counted(bench: Bench) -> None:
    for kind in ("health", "note", "note"):
        outcome = measure(bench, kind=kind, text="ắc quy yếu")
        assert outcome.batch is not None and not outcome.batch.parts and not outcome.faults
    counted = {
        labels: value
        for (name, labels), value in bench.metrics.samples().items()
        if name == "chot_events"
    }
    assert counted == {("health",): 1, ("note",): 2}


def test_the_clock_of_a_gateway_is_taken_off_its_readings(bench: Bench) -> None:
    bench.take(encode_scan(NOON_MS, 1, CARD))
    origin = dataclasses.replace(LANE_GATEWAY, seq=2, first=2, correction_ms=5000)
    outcome = bench.pipeline.take_report(origin, 1, report(NOON_MS + 6000))
    assert rows(outcome)["time_ms"][0] == NOON_MS + 1000
    assert outcome.verdicts[0].name == "Nguyễn Th***"


def test_a_scan_sent_again_alarms_nobody(bench: Bench) -> None:
    """After a refusal of the store the same message comes again and gets the same answer."""
    records = [encode_scan(NOON_MS, 1, CARD), encode_scan(NOON_MS + 90_000, 2, APP)]
    assert lights(bench.take(*records)) == lights(bench.take(*records)) == [("accepted", None)] * 2
    assert bench.alerts() == {}


def test_a_light_that_the_gateway_showed_is_marked(bench: Bench) -> None:
    assert rows(bench.take(encode_scan(NOON_MS, 1, CARD, flags=1)))["flags"] == Flag.LOCAL_VERDICT


def test_a_card_with_a_doubt_is_taken_for_review(bench: Bench) -> None:
    doubtful = CARD.replace("|Nữ|".encode(), b"|Nam|")  # the number says otherwise
    outcome = bench.take(encode_scan(NOON_MS, 1, doubtful))
    assert lights(outcome) == [("accepted", None)]
    assert rows(outcome)["flags"] == Flag.REVIEW


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"", "empty"), (BANK, "payment_qr"), (b"045190999001", "bare_number"),
     (b"WIFI:S:x;T:WPA;P:y;;", "wifi"), (b"tel:0912000031", "phone_link"),
     (bytes(2953), "bad_encoding"), (b"\xff\xfe\x00x", "bad_encoding")],
)  # fmt: skip
def test_what_is_no_person_is_refused_and_only_counted(
    bench: Bench, payload: bytes, reason: str
) -> None:
    outcome = bench.take(encode_scan(NOON_MS, 1, payload))
    assert lights(outcome) == [("refused", reason)]
    assert outcome.batch is not None and outcome.batch.parts == []
    assert tallies(outcome) == {(POST, 1, reason, TODAY): 1}
    assert bench.refused() == {reason: 1}


def test_refusals_of_one_kind_add_up(bench: Bench) -> None:
    outcome = bench.take(*[encode_scan(NOON_MS, 1, BANK)] * 3, encode_scan(NOON_MS, 2, BANK))
    told = {(lane, reason): count for (_, lane, reason, _), count in tallies(outcome).items()}
    assert told == {(1, "payment_qr"): 3, (2, "payment_qr"): 1}
    assert len(outcome.verdicts) == 4


def test_a_gateway_speaks_for_its_own_lanes_only(bench: Bench) -> None:
    outcome = bench.take(
        encode_scan(NOON_MS, 3, CARD),
        encode_manual(NOON_MS, 0, {"name": "Võ A"}, officer="7", why="-"),
        encode_scan(NOON_MS, 1, CARD),
    )
    assert [f.n for f in outcome.faults] == [0, 1]
    assert {type(f.error) for f in outcome.faults} == {WireMalformed}
    assert lights(outcome) == [("accepted", None)]
    assert list(rows(outcome)["n"]) == [2]


def test_a_back_end_has_no_lane_to_scan_in(bench: Bench) -> None:
    outcome = bench.take(
        encode_scan(NOON_MS, 0, CARD),
        encode_manual(NOON_MS, 0, {"name": "Võ A"}, officer="7", why="-"),
        origin=BACK_END,
    )
    assert lights(outcome) == [("refused", "unknown_place")] * 2
    assert tallies(outcome) == {(0, 0, "unknown_place", TODAY): 2}


# ---- times --------------------------------------------------------------------------------------


def test_a_clock_ahead_is_a_fault_under_our_own_time(bench: Bench) -> None:
    ahead_ms = NOON_MS + 300_000
    outcome = bench.take(
        encode_scan(ahead_ms, 1, CARD),
        encode_scan(ahead_ms + 1, 1, CARD),
        encode_scan((1 << 63) - 1, 1, CARD),
    )
    assert [(f.n, type(f.error)) for f in outcome.faults] == [(1, WireClock), (2, WireClock)]
    assert lights(outcome) == [("accepted", None)]
    assert tallies(outcome) == {(POST, 1, "clock", TODAY): 2}


def test_what_is_older_than_what_is_kept_is_refused_under_today() -> None:
    bench = Bench(retention_days=30)
    oldest_ms = day_to_ms(TODAY - 30)
    outcome = bench.take(
        encode_scan(oldest_ms, 1, CARD),
        encode_scan(oldest_ms - 1, 1, CARD),
        encode_scan(0, 1, CARD),
    )
    assert lights(outcome) == [("accepted", None)] + [("refused", "too_old")] * 2
    assert tallies(outcome) == {(POST, 1, "too_old", TODAY): 2}
    assert [part.day for part in outcome.batch.parts] == [TODAY - 30]  # type: ignore[union-attr]


def test_days_are_parted_at_midnight_in_viet_nam() -> None:
    midnight_ms = iso_to_ms("2021-07-02T00:00:00+07:00")
    bench = Bench(midnight_ms + 60_000)
    outcome = bench.take(
        encode_scan(midnight_ms, 1, CARD),
        encode_scan(midnight_ms - 1, 1, APP),
        encode_scan(midnight_ms - 1, 1, BANK),
        encode_scan(midnight_ms, 1, BANK),
    )
    assert outcome.batch is not None
    days = {part.day: np.frombuffer(part.rows, ROW)["n"].tolist() for part in outcome.batch.parts}
    assert days == {TODAY + 1: [0], TODAY: [1]}
    assert set(tallies(outcome)) == {
        (POST, 1, "payment_qr", TODAY), (POST, 1, "payment_qr", TODAY + 1)
    }  # fmt: skip
    names = [known.name for known in details(outcome)]
    assert names == ["Nguyễn Thị Hồng Ánh", "PHAM QUOC HUNG"]  # each beside its own row


def test_an_old_backlog_is_taken_under_its_own_day(bench: Bench) -> None:
    outcome = bench.take(encode_scan(NOON_MS - DAY_MS, 1, CARD), encode_scan(NOON_MS, 1, CARD))
    assert lights(outcome) == [("accepted", None), ("accepted", None)]
    assert len(outcome.batch.parts) == 2  # type: ignore[union-attr]


# ---- check-ins ----------------------------------------------------------------------------------


def test_a_check_in_has_a_row_and_no_light(bench: Bench) -> None:
    extras = Extras(room=4, plate="74A-99901", trip="VL-DH 06:30", seat="12")
    record = encode_checkin(NOON_MS, Direction.IN, CARD, bench.code(), extras=extras)
    outcome = bench.take(record, origin=BACK_END)
    assert lights(outcome) == []
    (row,) = rows(outcome)
    assert (row["place"], row["lane"], row["kind"]) == (MARKET, 4, Kind.CHECKIN)
    assert row["direction"] == Direction.IN
    (known,) = details(outcome)
    assert (known.plate, known.trip, known.seat) == ("74A-99901", "VL-DH 06:30", "12")
    assert known.name == "Nguyễn Thị Hồng Ánh"


def test_who_came_in_one_vehicle_has_one_number_of_it(bench: Bench) -> None:
    """CP-4: a plate links those who passed in it, however it is written; a trip where none is."""

    def vehicle(**extras: str) -> int:
        record = encode_scan(NOON_MS, 1, CARD, extras=extras)
        (row,) = rows(bench.take(record))
        return int(row["vehicle"])

    bus = vehicle(plate="74A-999.01", seat="12")
    assert bus and bus == vehicle(plate="74a 99901") == vehicle(plate="74A99901", trip="VL-DH")
    assert len({bus, vehicle(plate="74A-999.02"), vehicle(trip="74A99901"), vehicle()}) == 4
    assert vehicle() == vehicle(seat="3") == vehicle(plate="-.") == 0
    record = encode_checkin(NOON_MS, Direction.IN, CARD, MARKET, extras=Extras(plate="74A 99901"))
    (row,) = rows(bench.take(record, origin=BACK_END))
    assert row["vehicle"] == bus
    (known,) = details(bench.take(encode_scan(NOON_MS, 2, CARD, extras={"plate": "74A-999.01"})))
    assert (known.plate, known.trip, known.seat) == ("74A-999.01", "", "")
    outcome = bench.take(encode_scan(NOON_MS, 1, CARD, extras={"plate": 7}))
    assert [type(fault.error) for fault in outcome.faults] == [WireMalformed]


@pytest.mark.parametrize("stay_s", [0, 1, 86_400])
def test_a_told_stay_stands_in_the_row(bench: Bench, stay_s: int) -> None:
    record = encode_checkin(NOON_MS, Direction.IN, CARD, MARKET, extras=Extras(stay_s=stay_s))
    (row,) = rows(bench.take(record, origin=BACK_END))
    assert row["stay_ms"] == 1000 * stay_s


@pytest.mark.parametrize("stay_s", [-1, 86_401, 1.5, "60"])
def test_a_stay_that_cannot_be_is_a_fault_of_its_record(bench: Bench, stay_s: Any) -> None:
    record = encode_checkin(NOON_MS, Direction.IN, CARD, MARKET, extras=Extras(stay_s=stay_s))
    outcome = bench.take(record, origin=BACK_END)
    assert len(rows(outcome)) == 0
    assert [(f.n, type(f.error)) for f in outcome.faults] == [(0, WireMalformed)]


def test_a_check_in_at_a_venue_never_makes_a_passage_seen(bench: Bench) -> None:
    bench.take(encode_checkin(NOON_MS, Direction.IN, CARD, MARKET), origin=BACK_END)
    assert lights(bench.take(encode_scan(NOON_MS, 1, CARD))) == [("accepted", None)]


@pytest.mark.parametrize(
    ("who", "identity", "source"),
    [
        (Credential("cccd", "045190999001"), ("cccd", "VNM", "045190999001"), Source.CCCD),
        (Credential("passport", "p999001", "LAO"), ("passport", "LAO", "P999001"),
         Source.PASSPORT),
    ],
)  # fmt: skip
def test_a_typed_number_is_the_person_of_the_card(
    bench: Bench, who: Credential, identity: tuple[str, str, str], source: Source
) -> None:
    outcome = bench.take(encode_checkin(NOON_MS, Direction.OUT, who, MARKET), origin=BACK_END)
    (row,) = rows(outcome)
    assert row["person"].tobytes() == bench.ring.person_key(*identity)
    assert (row["source"], row["direction"]) == (source, Direction.OUT)


@pytest.mark.parametrize(
    ("who", "reason"),
    [(Credential("cccd", "12"), "malformed_id"), (Credential("passport", "P1"), "malformed_id"),
     (BANK, "payment_qr"), (b"", "empty")],
)  # fmt: skip
def test_a_check_in_of_nobody(bench: Bench, who: Credential | bytes, reason: str) -> None:
    outcome = bench.take(encode_checkin(NOON_MS, Direction.IN, who, MARKET), origin=BACK_END)
    assert lights(outcome) == [("refused", reason)]
    assert len(rows(outcome)) == 0
    assert tallies(outcome) == {(0, 0, reason, TODAY): 1}


def test_venue_codes_that_open_no_venue(bench: Bench) -> None:
    good = bench.code().decode()
    head, _, body = good.rpartition("/")
    tag_at = len(body) - 3
    other = body[:tag_at] + ("0" if body[tag_at] != "0" else "1")
    forged = f"{head}/{other}{check_characters(other)}"
    misread = good[:-1] + ("0" if good[-1] != "0" else "1")
    tries: list[tuple[bytes | int, str]] = [
        (forged.encode(), "forged"),
        (misread.encode(), "malformed"),
        (bench.code(issue=2), "revoked"),  # made by us, but not the issue that hangs there
        (bench.code(number=4_000_000_000), "unknown_place"),
        (4_000_000_000, "unknown_place"),
        (POST, "unknown_place"),  # a post is no venue
        (CARD, "unsupported_context"),
        (BANK, "payment_qr"),
        (b"", "empty"),
    ]
    for venue, reason in tries:
        outcome = bench.take(encode_checkin(NOON_MS, Direction.IN, CARD, venue), origin=BACK_END)
        assert lights(outcome) == [("refused", reason)], venue
        assert len(rows(outcome)) == 0


def test_a_reprint_makes_the_old_poster_worthless(bench: Bench) -> None:
    """VE-7: from the registry's next issue on, the old code is revoked and the new one holds."""
    old, new = bench.code(issue=1), bench.code(issue=2)
    venue = bench.registry.place(MARKET)
    assert isinstance(venue, Venue)
    bench.registry.take(msgspec.structs.replace(venue, issue=2))
    said = [
        lights(bench.take(encode_checkin(NOON_MS, Direction.IN, CARD, code), origin=BACK_END))
        for code in (old, new)
    ]
    assert said == [[("refused", "revoked")], []]


def test_a_venues_code_is_nobodys(bench: Bench) -> None:
    outcome = bench.take(encode_scan(NOON_MS, 1, bench.code()))
    assert lights(outcome) == [("refused", "unsupported_context")]


# ---- an officer's entry -------------------------------------------------------------------------


def manual(fields: dict[str, str], **changes: Any) -> bytes:
    words = {"officer": "CA-7", "why": "thẻ hỏng", **changes}
    return encode_manual(NOON_MS, 1, fields, **words)


def test_an_entry_with_a_number_is_the_person_of_the_card(bench: Bench) -> None:
    bench.take(encode_scan(NOON_MS - 60_000, 1, CARD))
    outcome = bench.take(manual({"cccd": "045190999001", "name": "Nguyễn Thị Hồng Ánh"}))
    assert lights(outcome) == [("seen", None)]
    (row,) = rows(outcome)
    assert (row["kind"], row["place"], row["lane"]) == (Kind.MANUAL, POST, 1)
    assert row["person"].tobytes() == bench.ring.person_key("cccd", "VNM", "045190999001")
    (known,) = details(outcome)
    assert (known.officer, known.why) == ("CA-7", "thẻ hỏng")


def test_somebody_without_papers_is_not_missed(bench: Bench) -> None:
    """DE-5: each such entry is a person of its own, the same one when it is sent again."""
    fields = {"name": "Hồ Văn Lai", "phone": "0912000031"}
    both = rows(bench.take(manual(fields), manual(fields)))
    assert list(both["flags"]) == [Flag.REVIEW, Flag.REVIEW]
    assert list(both["source"]) == [Source.PAPER, Source.PAPER]
    assert len({row.tobytes() for row in both["person"]}) == 2  # one name, two people
    again = rows(Bench().take(manual(fields), manual(fields)))
    assert again.tobytes() == both.tobytes()
    phone_key = bench.ring.person_key("phone", "VNM", "+84912000031")
    assert phone_key not in {row.tobytes() for row in both["person"]}  # DE-2
    seq_2 = Origin(1, 7, 0, 2, 2, POST, (1, 2))
    other = rows(bench.take(manual(fields), origin=seq_2))
    assert other["person"][0].tobytes() not in {row.tobytes() for row in both["person"]}


def test_an_entry_with_a_wrong_number_is_refused_not_renamed(bench: Bench) -> None:
    outcome = bench.take(manual({"cccd": "123", "name": "Hồ Văn Lai"}))
    ((verdict, reason),) = lights(outcome)
    assert verdict == "refused" and reason in ("malformed", "malformed_id")
    assert len(rows(outcome)) == 0


@pytest.mark.parametrize(
    "fields", [{"nickname": "x"}, {"name": "Võ " * 20_000}, {"name": "x", "sex": "?"}]
)
def test_entries_that_are_no_card(bench: Bench, fields: dict[str, str]) -> None:
    outcome = bench.take(manual(fields))
    assert [verdict for verdict, _ in lights(outcome)] == ["refused"]
    assert len(rows(outcome)) == 0


def test_long_words_of_an_officer_are_cut(bench: Bench) -> None:
    outcome = bench.take(manual({"name": "Hồ Văn Lai"}, officer="o" * 500, why="w" * 5000))
    (known,) = details(outcome)
    assert (len(known.officer), len(known.why)) == (64, 256)


# ---- messages -----------------------------------------------------------------------------------


def test_class_0_always_has_a_batch_and_an_empty_frame_has_none(bench: Bench) -> None:
    assert bench.take().batch is not None
    volatile = Origin(1, 7, 1, 5, 5, POST, (1,))
    assert bench.pipeline.take_codes(volatile, 1, NOON_MS, []).batch is None
    assert bench.pipeline.take_codes(volatile, 1, NOON_MS, [BANK]).batch is not None
    taken = bench.check(bench.pipeline.take_codes(volatile, 1, NOON_MS, [CARD, APP]))
    assert lights(taken) == [("accepted", None), ("accepted", None)]
    assert taken.batch is not None and taken.batch.run.cls == 1
    assert list(rows(taken)["n"]) == [0, 1]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(WireMalformed("x"), "malformed"), (SealBroken("x"), "seal_broken"),
     (ImageInvalid("x"), "frame"), (WireClock("x"), "clock")],
)  # fmt: skip
def test_a_message_of_which_nothing_can_be_read_is_consumed(
    bench: Bench, error: InputError, reason: str
) -> None:
    outcome = bench.check(bench.pipeline.take_fault(LANE_GATEWAY, error))
    assert [fault.error for fault in outcome.faults] == [error]
    assert tallies(outcome) == {(POST, 0, reason, TODAY): 1}
    assert not outcome.verdicts


def test_a_record_that_cannot_be_read_ends_the_body_there(bench: Bench) -> None:
    outcome = bench.take(encode_scan(NOON_MS, 1, CARD), b"\xc0", encode_scan(NOON_MS, 1, APP))
    assert [fault.n for fault in outcome.faults] == [1]
    assert list(rows(outcome)["n"]) == [0]
    assert tallies(outcome) == {(POST, 0, "malformed", TODAY): 1}


def test_a_record_at_fault_lets_the_others_through(bench: Bench) -> None:
    elsewhere = encode_scan(NOON_MS, 9, CARD)
    outcome = bench.take(encode_scan(NOON_MS, 1, CARD), elsewhere, encode_scan(NOON_MS, 1, APP))
    assert list(rows(outcome)["n"]) == [0, 2]
    assert [(fault.n, type(fault.error)) for fault in outcome.faults] == [(1, WireMalformed)]


def test_a_fault_quotes_nobody(bench: Bench) -> None:
    phone = Credential("phone", "0912000031")  # type: ignore[arg-type]
    bad = encode_checkin(NOON_MS, Direction.IN, phone, MARKET)
    outcome = bench.take(bad, origin=BACK_END)
    assert [(fault.n, type(fault.error)) for fault in outcome.faults] == [(0, WireMalformed)]
    assert "0912" not in str(outcome.faults[0].error)


def test_a_lane_places_nobody_at_a_venue(bench: Bench) -> None:
    outcome = bench.take(encode_checkin(NOON_MS, Direction.IN, CARD, MARKET))
    assert lights(outcome) and not len(rows(outcome))
    assert tallies(outcome) == {(POST, 0, "unsupported_context", TODAY): 1}


def test_lost_numbers_are_a_run_with_its_hole(bench: Bench) -> None:
    origin = Origin(1, 7, 0, 90, 11, POST, (1,))
    outcome = bench.check(bench.pipeline.take_lost(origin, 80))
    assert outcome.batch is not None
    assert (outcome.batch.run.first, outcome.batch.run.last) == (11, 90)
    assert tallies(outcome) == {(POST, 0, "lost", TODAY): 80}
    assert bench.refused() == {"lost": 80}
    huge = bench.check(bench.pipeline.take_lost(origin, 1 << 63))
    assert tallies(huge) == {(POST, 0, "lost", TODAY): 0xFFFF_FFFF}


def test_a_large_body_gives_way_between_its_steps(bench: Bench) -> None:
    body = encode_scans([encode_scan(NOON_MS, 1, BANK)] * (3 * STEP_RECORDS))
    packed, fault = decode_scans(body)
    steps = list(bench.pipeline.record_steps(LANE_GATEWAY, packed, body, fault))
    assert steps[:-1] == [(), ()]
    assert isinstance(steps[-1], Outcome) and len(steps[-1].verdicts) == 3 * STEP_RECORDS


def test_4096_records_of_4096_times_are_a_batch(bench: Bench) -> None:
    """The most that a body may hold, each refused at another instant."""
    outcome = bench.take(*(encode_scan(NOON_MS - n, 1, BANK) for n in range(4096)))
    assert tallies(outcome) == {(POST, 1, "payment_qr", TODAY): 4096}


_TEXT = st.text(max_size=40)
_WHO = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([CARD, APP, BANK]),
    st.builds(Credential, st.sampled_from(["qid", "cccd", "passport", "bhyt"]),
              st.text(min_size=1, max_size=20), st.text(max_size=3)),
)  # fmt: skip
_TIME = st.one_of(st.just(NOON_MS), st.integers(0, (1 << 63) - 1))
_FIELDS = st.dictionaries(
    st.sampled_from(["name", "cccd", "passport", "country", "bhyt", "birth", "sex", "phone"]), _TEXT
)
_RECORD = st.one_of(
    st.builds(encode_scan, _TIME, st.integers(0, 3), st.binary(max_size=80)),
    st.builds(encode_checkin, _TIME, st.sampled_from(Direction), _WHO,
              st.one_of(st.binary(max_size=60), st.integers(0, (1 << 32) - 1), st.just(MARKET))),
    st.builds(encode_manual, _TIME, st.integers(0, 3), _FIELDS, officer=_TEXT, why=_TEXT),
    st.binary(min_size=1, max_size=30),
)  # fmt: skip


@given(st.lists(_RECORD, max_size=6), st.sampled_from([LANE_GATEWAY, BACK_END]))
def test_any_records_come_to_something(records: list[bytes], origin: Origin) -> None:
    """Each record that was read is a row, a refusal or a fault, and the journal takes the batch."""
    bench = Bench()
    body = encode_scans(records)
    packed, fault = decode_scans(body)
    count = len(packed) // ENTRY.itemsize
    outcome = bench.check(bench.pipeline.take_records(origin, packed, body, fault))
    refusals = [v for v in outcome.verdicts if v.verdict == "refused"]
    assert len(rows(outcome)) + len(refusals) + len(outcome.faults) == count + (fault >= 0)
    assert sum(tallies(outcome).values()) == len(refusals) + len(outcome.faults)
    for verdict in refusals:
        assert verdict.reason in REASONS
