"""Venues at the desk and over HTTP: who may register them, coverage as of a day, areas, the key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from engine.api.openapi import document
from engine.api.venue_answers import coverage_to_answer
from engine.client.venue_admin import NumberGiver
from engine.clock import DAY_MS, day_to_date
from engine.desk.questions import RegistryChange
from engine.desk.venue_questions import (
    AddVenue,
    AskCodes,
    AskCoverage,
    AskHistory,
    AskVenueList,
    Coverage,
    RotateKey,
)
from engine.errors import AccessDenied, KeyMissing, NotFound, QuestionInvalid, RegistryInvalid
from engine.registry.coverage import cover, registered_venues
from engine.registry.registry import (
    Area,
    Category,
    Census,
    Registry,
    Stamp,
    Venue,
    VenueKey,
    record_to_changes,
)
from tests.reference import json_schema
from tests.reference.stand import DAY, Stand, check_shape, send

VOLUNTEER, STATION, POLICE, IOC = "doan-vinh-linh", "tram-vinh-chap", "ca-vinh-chap", "ioc"


@pytest.fixture(scope="module")
def shared() -> Iterator[Stand]:
    with Stand() as made:
        yield made


@pytest.fixture
def stand() -> Iterator[Stand]:
    with Stand() as made:
        yield made


def ask(stand: Stand, question: Any) -> Any:
    async def work() -> Any:
        link = stand.link()
        try:
            return await link.ask(question)
        finally:
            await link.close()

    return stand.run(work())


# ---- registering --------------------------------------------------------------------------------


def test_a_volunteer_registers_venues_of_the_own_area(stand: Stand) -> None:
    add = AddVenue(
        token=stand.tokens[VOLUNTEER], name="Chợ Cầu", category="market", area="QT-VL-HX", rooms=2,
        hours="05:00-11:00",
    )  # fmt: skip
    first, second = ask(stand, add), ask(stand, msgspec.structs.replace(add, name="Chợ Hôm"))
    assert (first.number, second.number) == (1042, 1043)
    venue = stand.registry.place(1042)
    assert isinstance(venue, Venue) and venue.created_by == VOLUNTEER and venue.rooms == 2
    assert ask(stand, AskCodes(wanted=((1042, 0, ""),))).texts == (first.code,)
    kind, by, body, _ = stand.control.records[0]
    assert (kind, by) == ("registry.venue", VOLUNTEER)
    assert record_to_changes(kind, body) == [venue]
    (entry,) = ask(stand, AskHistory(kind="venue", key=1042)).entries
    assert (entry.change, entry.by) == (venue, VOLUNTEER) and entry.at_ms > 0
    with pytest.raises(AccessDenied):
        ask(stand, msgspec.structs.replace(add, area="QT-HL-DS"))
    for name in (POLICE, IOC):
        with pytest.raises(AccessDenied):
            ask(stand, msgspec.structs.replace(add, token=stand.tokens[name]))
    with pytest.raises(QuestionInvalid):
        ask(stand, msgspec.structs.replace(add, area="QT-XX"))
    with pytest.raises(QuestionInvalid):
        ask(stand, msgspec.structs.replace(add, category="pub"))
    with pytest.raises(RegistryInvalid):
        ask(stand, msgspec.structs.replace(add, hours="morning"))
    assert len(stand.control.records) == 2


def test_numbers_that_were_given_meanwhile_are_refused(stand: Stand) -> None:
    venue = Venue(number=1042, name="A", category=Category.CAFE)
    assert ask(stand, RegistryChange((venue,), fresh=(1042,))).written == 1
    other = msgspec.structs.replace(venue, name="B")
    with pytest.raises(RegistryInvalid, match="given meanwhile"):
        ask(stand, RegistryChange((other,), fresh=(1042,)))
    assert stand.registry.place(1042) == venue


# ---- the key ------------------------------------------------------------------------------------


def test_the_key_is_rotated_and_old_posters_have_time(stand: Stand) -> None:
    (old,) = ask(stand, AskCodes(wanted=((1013, 0, ""),))).texts
    until = stand.clock.now_ms() + DAY_MS
    with pytest.raises(QuestionInvalid):
        ask(stand, RotateKey(old_to_ms=stand.clock.now_ms()))
    with pytest.raises(KeyMissing):
        stand.keyring.venue_tag(b"x", 2)
    assert ask(stand, RotateKey(old_to_ms=until)).number == 2
    (new,) = ask(stand, AskCodes(wanted=((1013, 0, ""),))).texts
    codes = stand.desk._venues._codes
    assert new != old
    assert [codes.read(text.encode(), until - 1) for text in (old, new)] == [(1013, 0, 0)] * 2
    assert [codes.read(text.encode(), until) for text in (old, new)] == ["revoked", (1013, 0, 0)]
    for number in range(3, 16):
        assert ask(stand, RotateKey(old_to_ms=until + number)).number == number
        before = stand.registry.venue_key(number - 1)
        assert before is not None and before.valid_to_ms == until + number
    with pytest.raises(QuestionInvalid, match="fifteen"):
        ask(stand, RotateKey(old_to_ms=until * 2))
    with pytest.raises(NotFound):
        ask(stand, AskCodes(wanted=((7777, 0, ""),)))


def test_a_key_that_no_record_names_is_made_once(stand: Stand) -> None:
    """A crash between the file and the record: the next rotation takes the file that is there."""
    stand.keyring.make_venue_key(2)
    tag = stand.keyring.venue_tag(b"x", 2)
    assert ask(stand, RotateKey(old_to_ms=stand.clock.now_ms() + 1000)).number == 2
    assert stand.keyring.venue_tag(b"x", 2) == tag
    assert stand.registry.venue_key(2) == VenueKey(number=2, valid_from_ms=stand.clock.now_ms())


# ---- coverage -----------------------------------------------------------------------------------


def test_coverage_counts_by_what_holds_then() -> None:
    registry = Registry()
    records: list[tuple[Any, int]] = [
        (Area(number=1, code="OLD", name="Huyện cũ", successor="NEW", valid_to_ms=500), 1),
        (Area(number=2, code="NEW", name="Xã mới", valid_from_ms=500), 1),
        (Census(area="OLD", category=Category.CAFE, count=4), 1),
        (Census(area="NEW", category=Category.CAFE, count=6, valid_from_ms=500), 1),
        (Census(area="NEW", category=Category.MARKET, count=3, valid_from_ms=500), 1),
        (Venue(number=10, name="A", category=Category.CAFE, area="OLD"), 100),
        (Venue(number=11, name="B", category=Category.CAFE, area="OLD"), 200),
        (Venue(number=12, name="C", category=Category.CAFE, area="OLD", valid_to_ms=300), 200),
        (Venue(number=13, name="D", category=Category.CAFE, area="NEW", valid_from_ms=600), 200),
        (Venue(number=14, name="E", category=Category.CAFE, is_revoked=True), 200),
        (Venue(number=15, name="F", category=Category.CROWD), 200),
    ]
    for change, at_ms in records:
        registry.take(change, Stamp(at_ms, "x"))

    def rows(at_ms: int, active: set[int] | None, within: str = "") -> list[tuple[Any, ...]]:
        return [tuple(row) for row in cover(registry, at_ms, active, within)]

    assert [v.number for v in registered_venues(registry, 150)] == [10], "written by then"
    assert rows(250, {10, 12}) == [
        ("", "", "crowd", None, 1, 0),
        ("OLD", "Huyện cũ", "cafe", 4, 3, 2),
    ]
    assert rows(700, {10, 99}, "NEW") == [
        ("NEW", "Xã mới", "cafe", 10, 3, 1),
        ("NEW", "Xã mới", "market", 3, 0, 0),
    ]
    assert rows(700, None, "NEW")[0][-1] is None
    # What lay there on its last day, named as it is now.
    assert rows(700, set(), "OLD") == [("NEW", "Xã mới", "cafe", 4, 2, 0)]
    answer = coverage_to_answer(Coverage(3, 700, "", tuple(cover(registry, 700, {10}))))
    assert (answer.all.known, answer.all.registered, answer.all.active) == (13, 4, 1)
    assert answer.all.registered_share == 23.0 and answer.all.active_share == 25.0
    assert answer.categories["crowd"].registered_share is None
    assert answer.areas["NEW"].registered_share == 23.0


def test_coverage_by_role_and_day(shared: Stand) -> None:
    def rows(name: str, **fields: Any) -> dict[tuple[str, str], tuple[Any, ...]]:
        question = AskCoverage(token=shared.tokens[name], **{"day": DAY, **fields})
        found = ask(shared, question)
        return {(r[0], r[2]): tuple(r[3:]) for r in map(tuple, found.rows)}

    whole = rows(IOC)
    assert whole["QT-VL-HX", "market"] == (1, 1, 1), "Chợ Hồ Xá is scanned that day"
    assert whole["QT-VL-HX", "eatery"] == (40, 1, 0)
    assert rows(IOC, day=DAY - 1)["QT-VL-HX", "market"] == (1, 1, 0), "nobody was scanned before"
    assert rows(IOC, day=DAY + 6)["QT-VL-HX", "market"][2] == 1
    assert rows(IOC, day=DAY - 40)["QT-VL-HX", "market"] == (1, 1, None), "that is forgotten"
    assert set(rows(VOLUNTEER)) == {key for key in whole if key[0].startswith("QT-VL")}
    assert set(rows(VOLUNTEER, area="QT-VL-HX")) == {key for key in whole if key[0] == "QT-VL-HX"}
    with pytest.raises(AccessDenied):
        rows(VOLUNTEER, area="QT-HL")
    with pytest.raises(AccessDenied):
        rows(POLICE)
    with pytest.raises(QuestionInvalid):
        rows(IOC, area="QT-XX")
    listed = ask(shared, AskVenueList(day=DAY, area="QT-VL-HX")).venues
    assert {v.venue.area for v in listed} == {"QT-VL-HX"} and all(v.area_name for v in listed)
    assert sum(row[1] for key, row in whole.items() if key[0] == "QT-VL-HX") == len(listed)


# ---- over HTTP ----------------------------------------------------------------------------------


def call(
    stand: Stand, method: str, path: str, name: str = IOC, body: dict[str, Any] | None = None
) -> tuple[int, Any]:
    """(status, answer), which looks as /openapi.json says."""
    headers = {"Authorization": f"Bearer {stand.tokens[name]}"}
    data = None if body is None else json.dumps(body).encode()
    status, _, answer = send(stand, method, path, data, headers)
    if status != 200:
        return status, check_shape(answer)
    root = document()
    operation = root["paths"][path.partition("?")[0]][method.lower()]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert json_schema.faults(root, schema, json.loads(answer)) == []
    return status, json.loads(answer)


def test_coverage_over_http(shared: Stand) -> None:
    status, answer = call(shared, "GET", f"/v1/coverage?day={day_to_date(DAY)}&area=QT-VL")
    assert status == 200 and answer["area"] == "QT-VL"
    (row,) = [r for r in answer["rows"] if (r["area"], r["category"]) == ("QT-VL-HX", "market")]
    assert (row["known"], row["registered"], row["active"]) == (1, 1, 1)
    assert row["registered_share"] == row["active_share"] == 100.0
    assert answer["categories"]["market"]["registered"] == 2
    assert sum(r["registered"] for r in answer["rows"]) == answer["all"]["registered"]
    for query, code in (
        ("", "question.invalid"), ("?day=heute", "question.invalid"), ("?day=2021-07-01&x=1",
        "http.body"), (f"?day=2021-07-01&area={'x' * 33}", "question.invalid"),
        ("?day=2021-07-01&area=no%20code", "question.invalid"),
    ):  # fmt: skip
        assert call(shared, "GET", f"/v1/coverage{query}")[1] == code, query
    assert call(shared, "GET", "/v1/coverage?day=2021-07-01", POLICE) == (403, "access.denied")


def test_areas_over_http(shared: Stand) -> None:
    status, answer = call(shared, "GET", "/v1/areas?search=vinh%20linh", POLICE)
    assert status == 200
    assert answer["areas"] == [
        {"code": "QT-VL", "name": "Huyện Vĩnh Linh", "kind": "district", "parent": "QT",
         "until": None, "now": "QT-VL", "now_name": "Huyện Vĩnh Linh"}
    ]  # fmt: skip
    assert len(call(shared, "GET", "/v1/areas?limit=3")[1]["areas"]) == 3


def test_venues_are_registered_over_http(stand: Stand) -> None:
    body = {"name": "Chợ Cầu", "category": "market", "area": "QT-VL-HX", "risk": "high"}
    status, answer = call(stand, "POST", "/v1/venues/add", VOLUNTEER, body)
    assert (status, answer["number"]) == (200, 1042)
    assert answer["code"].startswith("HTTPS://QR.CHOT.VN/V/2")
    for name, changes, code in (
        (IOC, {}, "access.denied"),
        (VOLUNTEER, {"area": "QT-HL"}, "access.denied"),
        (VOLUNTEER, {"category": "pub"}, "http.body"),
        (VOLUNTEER, {"issue": 5}, "http.body"),
        (VOLUNTEER, {"created_by": "somebody else"}, "http.body"),
        (VOLUNTEER, {"unit": "NOBODY"}, "registry.invalid"),
    ):
        assert call(stand, "POST", "/v1/venues/add", name, body | changes)[1] == code, changes
    assert len(stand.control.records) == 1


# ---- lists without numbers ----------------------------------------------------------------------


def test_lines_without_a_number_get_one() -> None:
    there = Venue(number=2000, name="Chợ Cầu", category=Category.MARKET, area="A")
    giver = NumberGiver([there], [1, 2000])
    head = ["Name", "category", "area"]
    lines = [(1, head), (3, ["CHỢ CẦU", "market", "A"]), (4, ["Chợ Cau", "market", "A"]),
             (5, ["Chợ Cầu", "market", "B"]), (6, ["short"])]  # fmt: skip
    assert giver.fill(lines) == [
        (1, ["number", "name", "category", "area"]),
        (4, ["2001", "Chợ Cau", "market", "A"]),
        (5, ["2002", "Chợ Cầu", "market", "B"]),
        (6, ["", "short"]),
    ]
    assert (giver.fresh, giver.known_lines) == ([2001, 2002], 1)
    giver = NumberGiver([], [])
    some = [(1, ["number", "name", "area"]), (2, ["5000", "A", ""]), (3, ["", "B", ""]),
            (4, ["9" * 30, "C", ""])]  # fmt: skip
    assert [cells[0] for _, cells in giver.fill(some)[1:]] == ["5000", "5001", "9" * 30]
    assert NumberGiver([], []).fill([]) == []
    assert NumberGiver([], []).fill([(1, ["x"])]) == [(1, ["number", "x"])]
