"""The HTTP API before a real socket, desk, index and journal: who may ask what, what leaves."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from engine.api.openapi import ROUTES, document
from engine.client import api_client as client
from engine.desk import desk
from engine.desk.questions import AskHealth, AskVenue, Details, FetchDetails, Traced
from engine.errors import (
    AccessDenied,
    EngineUnreachable,
    NotFound,
    QuestionInvalid,
    StorageFull,
    TokenInvalid,
)
from engine.registry import access
from engine.registry.access import ALLOWED, Role
from engine.tracing.rows import unpack
from tests.reference import json_schema
from tests.reference.stand import (
    BINH,
    BODIES,
    CUONG,
    DATE,
    EVERYBODY,
    HOA,
    MARKET_NORTH,
    MARKET_SOUTH,
    POST_NORTH,
    SCANS,
    SPAN,
    TRACER,
    WHY,
    Stand,
    check_shape,
    send,
    trace,
)

# Grants of the example registry by role.
GRANTS = {
    "tracer": TRACER,
    "centre": "ttyt-vinh-linh",
    "station": "tram-vinh-chap",
    "police": "ca-vinh-chap",
    "volunteer": "doan-vinh-linh",
    "ioc": "ioc",
    "auditor": "thanh-tra",
    "operator": "van-hanh",
}


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with Stand() as made:
        yield made


# ---- answers ------------------------------------------------------------------------------------


def test_who_was_at_a_venue(stand: Stand) -> None:
    answer = trace(stand, "venue")
    assert [
        (v["name"], v["start"], v["end"], v["minutes"], v["end_rule"]) for v in answer["visits"]
    ] == [
        (
            *("Nguyễn Vă***", "2021-07-01T08:00:00.000+07:00", "2021-07-01T08:50:00.000+07:00"),
            *(50.0, "observed"),
        ),
        (
            *("Trần Th***", "2021-07-01T08:10:00.000+07:00", "2021-07-01T08:40:00.000+07:00"),
            *(30.0, "observed"),
        ),
    ]
    assert answer["visits"][0]["start_ms"] == 1_625_101_200_000
    assert answer["visits"][0]["place_name"] == "Chợ Hồ Xá"
    assert answer["masked"] and answer["area"] == "" and not answer["limit_cut"]
    assert answer["complete"]["up_to"] == f"{DATE}T20:00:00.000+07:00"
    assert answer["complete"]["group"] == len(SCANS)
    assert answer["complete"]["behind"] == {"hl-1a-1": 37.0}
    assert answer["audit"] == len(stand.control.records)


def test_where_a_person_was(stand: Stand) -> None:
    visits = trace(stand, "person")["visits"]
    assert [(v["place"], v["is_passage"], v["end_rule"]) for v in visits] == [
        (POST_NORTH, True, "default"),
        (MARKET_NORTH, False, "observed"),
        (MARKET_SOUTH, False, "default"),
    ]
    assert visits[0]["room"] == 1


def test_who_met_a_person(stand: Stand) -> None:
    answer = trace(stand, "contacts")
    assert [(c["name"], c["minutes"], c["tier"]) for c in answer["contacts"]] == [
        ("=Lê Vă***", 40.0, "candidate"),
        ("Trần Th***", 30.0, "candidate"),
    ]
    (meeting,) = answer["contacts"][1]["meetings"]
    assert (meeting["place_name"], meeting["minutes"]) == ("Chợ Hồ Xá", 30.0)
    assert (meeting["case_end_rule"], meeting["other_end_rule"]) == ("observed", "observed")
    assert answer["profile"]["name"] == "VN-2021-12-29"
    strict = trace(stand, "contacts", min_minutes=35)
    assert [c["name"] for c in strict["contacts"]] == ["=Lê Vă***"]
    assert (strict["below"], strict["profile"]["min_minutes"]) == (1, 35)


def test_who_was_at_the_places_of_a_notice(stand: Stand) -> None:
    answer = trace(stand, "notice")
    assert [(v["name"], v["mark"], v["marks"], v["place_name"]) for v in answer["visits"]] == [
        ("Nguyễn Vă***", 1, 2, "Chợ Hồ Xá"),
        ("Nguyễn Vă***", 2, 2, "Chợ Diên Sanh"),
        ("Trần Th***", 1, 1, "Chợ Hồ Xá"),
        ("=Lê Vă***", 2, 1, "Chợ Diên Sanh"),
    ]
    assert [(m["place"], m["persons"], m["visits"]) for m in answer["marks"]] == [
        (MARKET_NORTH, 2, 2),
        (MARKET_SOUTH, 2, 2),
    ]
    assert answer["marks"][0]["start"] == f"{DATE}T00:00:00.000+07:00"
    both = trace(stand, "notice", least=2)
    assert {v["name"] for v in both["visits"]} == {"Nguyễn Vă***"}
    assert both["marks"] == answer["marks"], "counts are of all who were there"
    # Bình's check-in in the south is the sixth group; Hoa was last seen in the fourth.
    new = trace(stand, "notice", since=4)
    assert [(v["name"], v["is_new"]) for v in new["visits"]] == [
        ("Nguyễn Vă***", False),
        ("Nguyễn Vă***", True),
        ("=Lê Vă***", True),
    ]
    assert trace(stand, "notice", since=answer["complete"]["group"])["visits"] == []
    entry = stand.audit()[-1]
    assert (entry.question, entry.parameters["since"]) == ("notice", len(SCANS))
    assert str(entry.parameters["marks"]).startswith(f"{MARKET_NORTH}:")


def test_a_centre_is_told_which_marks_lie_outside(stand: Stand) -> None:
    answer = trace(stand, "notice", GRANTS["centre"])
    assert [m["is_outside"] for m in answer["marks"]] == [False, True]
    assert answer["marks"][1]["persons"] == 0
    assert {v["mark"] for v in answer["visits"]} == {1}
    with pytest.raises(AccessDenied):
        trace(stand, "notice", GRANTS["centre"], marks=[{"place": MARKET_SOUTH, **SPAN}])


def test_a_person_may_be_named_by_a_handle_or_by_several_documents(stand: Stand) -> None:
    handle = trace(stand, "person")["persons"][0]["person"]
    by_handle = trace(stand, "person", person={"kind": "handle", "value": handle})
    assert by_handle["visits"] == trace(stand, "person")["visits"]
    both = trace(stand, "person", aliases=[HOA.ref])
    assert {v["person"] for v in both["visits"]} > {handle}
    spaced = {"kind": "cccd", "value": " ".join([BINH.number[:3], BINH.number[3:]])}
    assert trace(stand, "person", person=spaced)["visits"] == by_handle["visits"]


def test_a_post_may_be_named_by_its_code(stand: Stand) -> None:
    assert [v["name"] for v in trace(stand, "venue", place="VL-1A")["visits"]] == ["Nguyễn Vă***"]
    with pytest.raises(NotFound):
        trace(stand, "venue", place="XX-1A")
    with pytest.raises(NotFound):
        trace(stand, "venue", place=4_000_000)


def test_a_limit_is_said(stand: Stand) -> None:
    answer = trace(stand, "venue", limit=1)
    assert (len(answer["visits"]), answer["total"], answer["limit_cut"]) == (1, 2, True)


def test_names_are_masked_unless_asked_for_and_allowed(stand: Stand) -> None:
    masked = json.dumps(trace(stand, "contacts"), ensure_ascii=False)
    for person in EVERYBODY:
        assert person.name not in masked and person.number not in masked
        assert person.phone[3:] not in masked and person.address not in masked
        assert person.birth not in masked
    shown = trace(stand, "contacts", unmasked=True)
    assert not shown["masked"]
    assert [p["name"] for p in shown["persons"]] == [CUONG.name, HOA.name]
    assert shown["persons"][1]["phone"] == "0912999002"
    assert shown["persons"][1]["doc"] == f"cccd {HOA.number}"
    assert stand.audit()[-1].is_unmasked and not stand.audit()[-2].is_unmasked


def test_spans_and_numbers_that_make_no_question(stand: Stand) -> None:
    for changes in (
        {"from": "2021-07-02", "to": "2021-07-01"},
        {"from": "yesterday"},
        {"from": 1 << 60},
        {"from": "2019-01-01"},
    ):
        with pytest.raises(QuestionInvalid):
            trace(stand, "venue", **changes)
    with pytest.raises(QuestionInvalid):
        trace(stand, "contacts", profile="VN-1999")
    with pytest.raises(QuestionInvalid) as caught:
        trace(stand, "person", person={"kind": "cccd", "value": "0790999001"})
    assert "0790999001" not in str(caught.value)
    with pytest.raises(QuestionInvalid):
        trace(stand, "person", person={"kind": "handle", "value": "short"})


# ---- who may ask --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", GRANTS)
def test_the_roles_hold_over_http(stand: Stand, role: str) -> None:
    who = GRANTS[role]
    may = ALLOWED[Role(role)]
    assert client.whoami(stand.url, stand.tokens[who])["role"] == role
    for question in BODIES:
        changes = {"place": POST_NORTH} if question == "venue" else {}
        if question in may:
            trace(stand, question, who, **changes)
            continue
        before = len(stand.audit())
        with pytest.raises(AccessDenied):
            trace(stand, question, who, **changes)
        (entry,) = stand.audit()[before:]
        assert (entry.outcome, entry.who, entry.sealed_persons) == ("access.denied", who, b"")
    if "figures" in may:
        client.figures(stand.url, stand.tokens[who], DATE)
    else:
        with pytest.raises(AccessDenied):
            client.figures(stand.url, stand.tokens[who], DATE)
    assert client.venues(stand.url, stand.tokens[who], "ho xa")["places"]


def test_every_role_of_the_table_has_been_tried() -> None:
    assert set(GRANTS) == set(Role) - {Role.GATEWAY}


@pytest.mark.parametrize("question", BODIES)
def test_without_purpose_or_case_nobody_is_shown(stand: Stand, question: str) -> None:
    for changes in ({"purpose": ""}, {"case": ""}, {"purpose": "police"}, {"case": BINH.number}):
        with pytest.raises(AccessDenied):
            trace(stand, question, **changes)
    # What was typed in the place of a case number is not kept.
    assert BINH.number not in repr(stand.audit())


def test_an_unknown_token_opens_nothing_and_leaves_no_record(stand: Stand) -> None:
    before = len(stand.control.records)
    for token in ("chot_unknown", "x" * 300, access.token_to_hash(stand.tokens[TRACER])):
        with pytest.raises(TokenInvalid):
            client.trace(stand.url, token, "venue", BODIES["venue"])
    for word in ("", "Basic eDp5", b"Bearer \xed\xa0\x80", "Bearer ti\u1ebfng".encode()):
        status, sent, data = send(stand, "POST", "/v1/trace/venue", b"{}", {"Authorization": word})
        assert (status, check_shape(data)) == (401, "access.token")
        assert sent["WWW-Authenticate"] == "Bearer"
    assert len(stand.control.records) == before


def test_a_centre_sees_its_own_area_only(stand: Stand) -> None:
    north, south = "ttyt-vinh-linh", "ttyt-hai-lang"
    assert [c["name"] for c in trace(stand, "contacts", north)["contacts"]] == ["Trần Th***"]
    assert [c["name"] for c in trace(stand, "contacts", south)["contacts"]] == ["=Lê Vă***"]
    assert [v["place"] for v in trace(stand, "person", south)["visits"]] == [MARKET_SOUTH]
    assert trace(stand, "venue", north)["area"] == "QT-VL"
    with pytest.raises(AccessDenied):
        trace(stand, "venue", south)
    assert stand.audit()[-1].outcome == "access.denied"


def test_a_station_sees_passages_in_its_commune_and_no_full_names(stand: Stand) -> None:
    answer = trace(stand, "person", "tram-vinh-chap")
    assert [v["place"] for v in answer["visits"]] == [POST_NORTH]
    with pytest.raises(AccessDenied):
        trace(stand, "person", "tram-vinh-chap", unmasked=True)


# ---- the audit ----------------------------------------------------------------------------------


def test_the_record_says_who_asked_what_and_names_nobody_openly(stand: Stand) -> None:
    answer = trace(stand, "contacts")
    entry = stand.audit()[-1]
    assert (entry.who, entry.role, entry.purpose, entry.case) == (
        TRACER,
        "tracer",
        "case",
        "BN-1234",
    )
    assert (entry.question, entry.outcome, entry.persons) == ("contacts", "answered", 2)
    assert entry.parameters["profile"] == "VN-2021-12-29"
    opened = stand.desk_keys.open_audit(entry.sealed_persons, access.digest_to_aad(entry.digest))
    keys = {opened[i : i + 16] for i in range(0, len(opened), 16)}
    assert keys == {stand.key(person) for person in EVERYBODY}  # asked about, and shown
    body = stand.control.records[answer["audit"] - 1][2]
    for person in EVERYBODY:
        assert stand.key(person) not in body
        assert person.number.encode() not in body and person.name.encode() not in body


def test_no_answer_leaves_before_its_record_is_durable(stand: Stand) -> None:
    before = len(stand.control.records)
    stand.call(stand.control.gate.clear)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(trace, stand, "venue")
        time.sleep(0.3)
        assert not asked.done()
        assert len(stand.control.records) == before
        stand.call(stand.control.gate.set)
        assert asked.result(10)["audit"] == before + 1


@pytest.mark.parametrize("question", BODIES)
def test_without_a_record_there_is_no_answer(stand: Stand, question: str) -> None:
    stand.control.error = StorageFull("no space", hint="make room")
    try:
        status, _, data = send(
            stand, "POST", f"/v1/trace/{question}", json.dumps(BODIES[question]).encode()
        )
    finally:
        stand.control.error = None
    assert (status, check_shape(data)) == (507, "storage.full")
    assert b"***" not in data


def test_details_are_for_the_answer_that_named_them(stand: Stand) -> None:
    token = stand.tokens[TRACER]
    other = stand.tokens["ttyt-vinh-linh"]
    ask = AskVenue(
        token=token,
        purpose="case",
        case="BN-1",
        from_ms=0,
        to_ms=1,
        limit=5,
        place=MARKET_NORTH,
    )

    async def work() -> None:
        mine, theirs = stand.link(), stand.link()
        span = {"from_ms": 1_625_072_400_000, "to_ms": 1_625_158_800_000}
        traced = await mine.ask(
            AskVenue(**{f: getattr(ask, f) for f in ask.__struct_fields__} | span)
        )
        assert isinstance(traced, Traced)
        refs = tuple(unpack(traced.answer.packed, "newest").tolist())
        audit = traced.audit
        assert (await mine.ask(FetchDetails(token=token, audit=audit, refs=refs))).groups
        stored = access.token_to_hash(token)  # what the registry holds opens nothing
        with pytest.raises(TokenInvalid):
            await mine.ask(msgspec.structs.replace(ask, token=stored))
        for link, who, number, wanted in (
            (theirs, token, audit, refs),
            (mine, other, audit, refs),
            (mine, token, audit + 1, refs),
            (mine, token, audit, (*refs, refs[0] + 1)),
        ):
            with pytest.raises(AccessDenied):
                await link.ask(FetchDetails(token=who, audit=number, refs=wanted))
        await mine.close()
        await theirs.close()

    stand.run(work())


def test_details_of_a_short_answer_come_with_it(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same names as where they are fetched, and none for a role that may not."""
    token, day = stand.tokens[TRACER], {"from_ms": 1_625_072_400_000, "to_ms": 1_625_158_800_000}
    why = {"purpose": "case", "case": "BN-1"}
    ask = AskVenue(token=token, **why, **day, limit=5, place=MARKET_NORTH)
    body = {**why, "from": day["from_ms"], "to": day["to_ms"], "place": MARKET_NORTH}

    async def work() -> None:
        link = stand.link()

        async def brought() -> tuple[Traced, Details]:
            traced = await link.ask(ask)
            assert isinstance(traced, Traced)
            refs = tuple(unpack(traced.answer.packed, "newest").tolist())
            fetched = await link.ask(FetchDetails(token=token, audit=traced.audit, refs=refs))
            assert isinstance(fetched, Details) and fetched.groups
            return traced, fetched

        traced, fetched = await brought()
        assert traced.details == fetched
        with monkeypatch.context() as patch:
            patch.setattr(desk, "ALLOWED", {Role.TRACER: frozenset()})
            assert (await brought())[0].details is None
        monkeypatch.setattr(desk, "_DETAILS_BROUGHT", 0)
        assert (await brought())[0].details is None
        await link.close()

    shown = client.trace(stand.url, token, "venue", body)["persons"]
    assert any(person["name"] for person in shown)
    stand.run(work())
    stand.clock.advance(301_000)  # what was opened is kept no longer
    assert client.trace(stand.url, token, "venue", body)["persons"] == shown


# ---- counts and places --------------------------------------------------------------------------


def test_figures_hide_small_counts_outside_health(stand: Stand) -> None:
    shown = client.figures(stand.url, stand.tokens[TRACER], DATE)
    assert shown["persons"] == 3
    counts = {p["place"]: (p["persons"], p["visits"], p["passages"]) for p in shown["places"]}
    assert counts[MARKET_NORTH] == (2, 2, 0) and counts[POST_NORTH] == (1, 0, 1)
    assert shown["refused"][0]["reason"] == "payment_qr"
    hidden = client.figures(stand.url, stand.tokens["ioc"], DATE)
    assert hidden["persons"] is None
    assert all(p["persons"] is None and p["checkins"] is None for p in hidden["places"])
    assert [p["count"] for p in hidden["passages"]] == [None]
    area = client.figures(stand.url, stand.tokens["ttyt-hai-lang"], DATE)
    assert [p["place"] for p in area["places"]] == [MARKET_SOUTH]
    assert (area["persons"], area["refused"]) == (None, [])


def test_places_are_found(stand: Stand) -> None:
    (found,) = client.venues(stand.url, stand.tokens["doan-vinh-linh"], "Chợ Hồ Xá")["places"]
    assert found == {
        "number": 1013,
        "name": "Chợ Hồ Xá",
        "kind": "market",
        "area": "QT-VL-HX",
        "code": "",
        "default_stay_minutes": 45,
        "default_stay_until": "",
    }


# ---- the engine away ----------------------------------------------------------------------------


def test_health_and_metrics_with_and_without_an_engine(stand: Stand) -> None:
    assert json.loads(client.get_text(stand.url + "/healthz"))["status"] == "ok"
    text = client.get_text(stand.url + "/metrics")
    assert "chot_questions_total" in text and "chot_api_engine_up 1.0" in text
    assert "chot_api_requests_total" in text
    stand.run(stand.stop_engine())
    try:
        status, _, data = send(stand, "GET", "/healthz")
        assert (status, check_shape(data)) == (503, "engine.unreachable")
        with pytest.raises(EngineUnreachable):
            trace(stand, "venue")
        text = client.get_text(stand.url + "/metrics")
        assert "chot_questions_total" not in text and "chot_api_engine_up 0.0" in text
    finally:
        stand.run(stand.start_engine())
    assert trace(stand, "venue")["visits"]


# ---- the description ----------------------------------------------------------------------------


def test_the_description_is_openapi_and_every_reference_resolves() -> None:
    root = document()
    assert root["openapi"].startswith("3.1.")
    assert {"title", "version"} <= set(root["info"])
    for ref in re.findall(r'"\$ref": "([^"]+)"', json.dumps(root)):
        assert json_schema.resolve(root, ref)
    names = [route.name for route in ROUTES]
    assert len(set(names)) == len(names)
    for route in ROUTES:
        operation = root["paths"][route.path][route.method.lower()]
        assert operation["operationId"] == route.name and operation["summary"]
        assert {"200", "default"} <= set(operation["responses"])
        assert ("requestBody" in operation) == (route.method == "POST")
        assert operation["security"] == ([] if route.is_open else [{"token": []}])


def test_every_route_is_described_and_every_description_served(stand: Stand) -> None:
    served = json.loads(client.get_text(stand.url + "/openapi.json"))
    assert served == json.loads(json.dumps(document()))
    for path, operations in served["paths"].items():
        for method in operations:
            status, _, data = send(stand, method.upper(), path, b"" if method == "post" else None)
            assert status not in (404, 405, 500), data
    # An address that is not described is not there.
    described = set(served["paths"])
    for path in ("/v1", "/v1/trace", "/v1/audit", "/docs", "/v1/figures/"):
        assert path not in described and send(stand, "GET", path)[0] == 404


def test_bodies_and_answers_are_what_the_description_says(stand: Stand) -> None:
    root = document()

    def check(name: str, value: Any) -> None:
        assert json_schema.faults(root, root["components"]["schemas"][name], value) == []

    for question, body in BODIES.items():
        check(f"{question.title()}Body", body)
        answers = {
            "contacts": "ContactsAnswer",
            "notice": "NoticeAnswer",
            "tiers": "TiersTraceAnswer",
            "passed": "PassedAnswer",
            "vehicle": "VehicleAnswer",
            "roll": "RollTraceAnswer",
        }
        check(answers.get(question, "VisitsAnswer"), trace(stand, question))
    token = stand.tokens[TRACER]
    check("FiguresAnswer", client.figures(stand.url, token, DATE))
    check("FiguresAnswer", client.figures(stand.url, stand.tokens["ioc"], DATE))
    check("PlacesAnswer", client.venues(stand.url, token, "ho xa"))
    check("WhoamiAnswer", client.whoami(stand.url, token))
    check("HealthAnswer", json.loads(client.get_text(stand.url + "/healthz")))
    check("ErrorAnswer", json.loads(send(stand, "GET", "/nowhere")[2]))
    schema = root["components"]["schemas"]["VenueBody"]
    assert json_schema.faults(root, schema, {**BODIES["venue"], "x": 1})
    assert json_schema.faults(root, schema, {**WHY, **SPAN})


# ---- forgetting ---------------------------------------------------------------------------------


def test_of_a_forgotten_day_no_name_is_left() -> None:
    with Stand() as stand:
        assert trace(stand, "venue")["visits"][0]["name"]
        stand.run(stand.forget())
        # What was opened before is forgotten here as well, after a while.
        stand.clock.advance(301_000)
        answer = trace(stand, "venue")
        assert [v["name"] for v in answer["visits"]] == ["", ""]
        assert all(set(p.values()) == {p["person"], ""} for p in answer["persons"])


def test_the_api_serves_this_machine_only() -> None:
    from engine.api.server import run_api
    from engine.errors import SettingInvalid

    with pytest.raises(SettingInvalid):
        asyncio.run(
            run_api(host="0.0.0.0", port=0, socket_path="x", desk_path="x", stop=asyncio.Event())
        )


def test_many_ask_at_once(stand: Stand) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        questions = list(BODIES) * 8
        answers = list(pool.map(lambda question: trace(stand, question), questions))
    assert len({answer["audit"] for answer in answers}) == len(answers)
    for question, answer in zip(questions, answers, strict=True):
        rows = client._rows(question, answer)
        assert rows and all(row.get("name", "a row of a list has none") for row in rows)


def test_the_socket_answers_its_owner(stand: Stand) -> None:
    async def work() -> None:
        link = stand.link()
        await link.ask(AskHealth())
        await link.close()

    stand.run(work())
