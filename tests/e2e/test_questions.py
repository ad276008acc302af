"""Tiers, passages, vehicles, rolls, counts and CSV over HTTP: what they show, to whom, how long."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from engine.api import csv_stream
from engine.api.roll_answers import BODY_SIZE_MAX
from engine.client import api_client as client
from engine.errors import (
    AccessDenied,
    BodyTooLarge,
    EngineUnreachable,
    NotFound,
    QuestionInvalid,
    StorageFull,
)
from engine.registry import access
from tests.reference.stand import (
    BINH,
    BODIES,
    CUONG,
    DATE,
    HOA,
    MARKET_NORTH,
    MARKET_SOUTH,
    POST_NORTH,
    TRACER,
    Stand,
    send,
    trace,
)

NORTH = "ttyt-vinh-linh"


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with Stand() as made:
        yield made


# ---- tiers --------------------------------------------------------------------------------------


def test_whom_a_person_can_have_infected(stand: Stand) -> None:
    answer = trace(stand, "tiers")
    rows = [(p["tier"], p["name"], p["via_name"], p["minutes"]) for p in answer["people"]]
    assert rows == [
        (0, "Nguyễn Vă***", "", 0.0),
        (1, "Trần Th***", "Nguyễn Vă***", 30.0),
        (1, "=Lê Vă***", "Nguyễn Vă***", 40.0),
    ]
    assert answer["people"][1]["infected"] == f"{DATE}T08:25:00.000+07:00"
    assert (answer["counts"], answer["reached"], answer["total"]) == ([1, 2, 0], 2, 2)
    assert [link["place_name"] for link in answer["links"]] == ["Chợ Hồ Xá", "Chợ Diên Sanh"]
    assert answer["complete"]["behind"] == {"hl-1a-1": 37.0}
    entry = stand.audit()[-1]
    assert (entry.question, entry.persons, entry.rows) == ("tiers", 3, 2)
    assert entry.parameters["depth"] == 2 and entry.parameters["profile"] == "VN-2021-12-29"
    # From Hoa on, who left before Bình met Cường: only Bình, and through him Cường.
    later = trace(stand, "tiers", person=HOA.ref)
    assert [p["tier"] for p in later["people"]] == [0, 1, 2]
    assert len(trace(stand, "tiers", person=HOA.ref, depth=1)["people"]) == 2
    latent = trace(stand, "tiers", person=HOA.ref, latent_hours=24)
    assert [p["tier"] for p in latent["people"]] == [0, 1]
    area = trace(stand, "tiers", NORTH)
    assert [p["name"] for p in area["people"]] == ["Nguyễn Vă***", "Trần Th***"]


def test_the_graph_is_what_programs_for_graphs_read(stand: Stand) -> None:
    graph = json.loads(client.render("tiers", trace(stand, "tiers"), "graph"))
    assert (graph["directed"], graph["multigraph"]) == (True, False)
    nodes = {node["id"] for node in graph["nodes"]}
    assert len(nodes) == 3
    assert all(link["source"] in nodes and link["target"] in nodes for link in graph["links"])
    assert graph["graph"]["profile"]["name"] == "VN-2021-12-29"
    table = client.render("tiers", trace(stand, "tiers"), "table")
    assert "2 rows; F1 2; F2 0; profile VN-2021-12-29; 2 links" in table


def test_tiers_that_cannot_be_asked_for(stand: Stand) -> None:
    for changes, name in (({"profile": "CWA"}, "profile"), ({"to": DATE}, "from, to")):
        with pytest.raises(QuestionInvalid, match=name):
            trace(stand, "tiers", **changes)
    assert trace(stand, "contacts", profile="CWA")["profile"]["kind"] == "cwa"
    assert trace(stand, "contacts", profile="CWA", risk_level=1)["contacts"] == []


# ---- passages and vehicles ----------------------------------------------------------------------


def test_who_passed_and_came_from_where(stand: Stand) -> None:
    assert [v["name"] for v in trace(stand, "passed")["visits"]] == ["Nguyễn Vă***"]
    by_code = trace(stand, "passed", place="VL-1A")
    assert by_code["visits"] == trace(stand, "passed")["visits"]
    assert trace(stand, "passed", direction="in")["visits"] == []
    # Bình came to the post first, so nobody was anywhere before.
    assert trace(stand, "passed", came_from="QT-HL")["total"] == 0
    found = trace(stand, "passed", address="binh an, XA VINH CHAP")
    assert (len(found["visits"]), found["unknown_address"]) == (1, 0)
    found = trace(stand, "passed", address="hai chanh")
    assert (found["visits"], found["persons"], found["total"]) == ([], [], 1)
    entry = stand.audit()[-1]
    assert entry.parameters["within_days"] == 14 and "hai chanh" not in repr(entry)
    for changes, error, name in (
        ({"place": MARKET_NORTH}, QuestionInvalid, "place"),
        ({"place": "XX"}, NotFound, "post"),
        ({"came_from": "XX"}, NotFound, "came_from"),
        ({"after": "nowhere"}, QuestionInvalid, "after"),
    ):
        with pytest.raises(error, match=name):
            trace(stand, "passed", **changes)
    with pytest.raises(AccessDenied):
        trace(stand, "passed", "ttyt-hai-lang")


def test_who_was_in_a_vehicle_on_which_seat(stand: Stand) -> None:
    found = trace(stand, "vehicle", seat="hàng 13")
    rows = [(v["name"], v["place"], v["seat"], v["rows_apart"], v["trip"]) for v in found["visits"]]
    assert rows == [
        ("Nguyễn Vă***", POST_NORTH, "12A", 1, "SE3"),
        ("Trần Th***", MARKET_NORTH, "15B", 2, ""),
    ]
    assert {v["plate"] for v in found["visits"]} == {""}
    shown = trace(stand, "vehicle", unmasked=True)["visits"]
    assert [v["plate"] for v in shown] == ["74A 999.01", "74A-99901"]
    assert shown[0]["rows_apart"] is None
    by_trip = trace(stand, "vehicle", plate="", trip="se3")["visits"]
    assert [(v["name"], v["seat"]) for v in by_trip] == [("=Lê Vă***", "2")]
    both = trace(stand, "vehicle", trip="SE4")["visits"]
    assert [v["name"] for v in both] == ["Trần Th***"], "a scan without a trip may be of this one"
    assert "74A" not in repr(stand.audit())
    with pytest.raises(QuestionInvalid, match="plate"):
        trace(stand, "vehicle", plate="")
    area = trace(stand, "vehicle", "ttyt-hai-lang", plate="", trip="SE3")
    assert [v["place"] for v in area["visits"]] == [MARKET_SOUTH]


# ---- rolls --------------------------------------------------------------------------------------


def test_a_roll_is_matched_by_row(stand: Stand) -> None:
    rows = [
        {"documents": [CUONG.ref]},
        {"documents": [{"kind": "cccd", "value": "045090999777"}]},
        {"documents": [{"kind": "cccd", "value": "12"}]},
        {"name": "Nguyễn Văn Bình", "birth": BINH.birth, "country": "VNM"},
        {"documents": [BINH.ref, HOA.ref]},
        {},
    ]
    answer = trace(stand, "roll", rows=rows)
    assert [(r["row"], r["state"], r["why"], r["visits"]) for r in answer["rows"]] == [
        (1, "matched", "document", 1),
        (2, "none", "not_seen", 0),
        (3, "none", "malformed", 0),
        (4, "none", "not_seen", 0),
        (5, "unsure", "several", 3),
        (6, "none", "empty", 0),
    ]
    assert answer["rows"][0]["place_name"] == "Chợ Diên Sanh"
    assert answer["counts"] == {"none": 4, "matched": 1, "unsure": 1}
    entry = stand.audit()[-1]
    opened = stand.desk_keys.open_audit(entry.sealed_persons, access.digest_to_aad(entry.digest))
    assert stand.key(CUONG) in {opened[i : i + 16] for i in range(0, len(opened), 16)}
    elsewhen = {"from": "2021-06-01", "to": "2021-06-02"}
    assert trace(stand, "roll", **elsewhen)["rows"][0]["why"] == "elsewhen"
    north = trace(stand, "roll", NORTH)
    assert [(r["state"], r["why"]) for r in north["rows"]] == [
        ("matched", "document"),
        ("none", "not_seen"),
    ]
    table = client.render("roll", answer, "table")
    assert "6 rows; 4 none; 1 matched; 1 unsure" in table


def test_ten_thousand_rows_are_one_question(stand: Stand) -> None:
    rows: list[dict[str, Any]] = [
        {"documents": [{"kind": "cccd", "value": f"0450{50 + n // 1000}999{n % 1000:03d}"}]}
        for n in range(9_999)
    ]
    answer = trace(stand, "roll", rows=[*rows, {"documents": [HOA.ref]}])
    assert (answer["total"], answer["limit_cut"]) == (10_000, False)
    assert answer["rows"][-1]["state"] == "matched" and answer["counts"]["matched"] >= 1
    with pytest.raises(Exception, match="rows"):
        trace(stand, "roll", rows=[*rows, *rows])


def test_other_bodies_stay_small(stand: Stand) -> None:
    blank = b" " * 70_000
    body = json.dumps(BODIES["venue"]).encode()
    status, _, data = send(stand, "POST", "/v1/trace/venue", body + blank)
    assert status == BodyTooLarge.status and b"65536" in data
    status, _, data = send(
        stand, "POST", "/v1/trace/roll", json.dumps(BODIES["roll"]).encode() + blank
    )
    assert status == 200
    status, _, data = send(stand, "POST", "/v1/trace/roll", b" " * (BODY_SIZE_MAX + 1))
    assert status == BodyTooLarge.status and str(BODY_SIZE_MAX).encode() in data


# ---- counts -------------------------------------------------------------------------------------


def test_counts_by_hour_and_group(stand: Stand) -> None:
    def ask(who: str = TRACER, **more: Any) -> dict[str, Any]:
        query = {"from": DATE, "to": "2021-07-02", **more}
        return client.counts(stand.url, stand.tokens[who], query)

    rows = [(r["start"][11:16], r["name"], r["visits"], r["passages"]) for r in ask()["rows"]]
    assert rows == [
        ("07:00", "Chốt kiểm soát Vĩnh Linh", 0, 1),
        ("08:00", "Chợ Hồ Xá", 2, 0),
        ("10:00", "Chợ Diên Sanh", 2, 0),
    ]
    by_day = ask(by="day", group="kind")["rows"]
    assert [(r["name"], r["visits"], r["passages"]) for r in by_day] == [
        ("post", 0, 1),
        ("market", 4, 0),
    ]
    lane = ask(group="lane")["rows"][0]
    assert (lane["lane"], lane["direction"]) == (1, "")
    assert [r["name"] for r in ask("ttyt-hai-lang", group="area")["rows"]] == [
        next(r["name"] for r in ask(group="area")["rows"] if r["name"].startswith("QT-HL"))
    ]
    hidden = ask("ioc", by="day", group="kind")
    assert hidden["rounded"] == 5
    assert [(r["visits"], r["passages"]) for r in hidden["rows"]] == [(0, 0), (5, 0)]
    cut = ask(limit=2)
    assert cut["limit_cut"] and cut["next"].startswith(f"{DATE}T10:00") and len(cut["rows"]) == 2
    assert "the rest --from" in client.render("counts", cut, "table")
    for wrong in ({"by": "year"}, {"group": "person"}, {"from": "x"}, {"to": DATE}, {"limit": 0}):
        with pytest.raises(QuestionInvalid, match=next(iter(wrong))):
            ask(**wrong)
    with pytest.raises(AccessDenied):
        ask("ca-vinh-chap")


# ---- CSV ----------------------------------------------------------------------------------------


def stream(stand: Stand, question: str, who: str = TRACER, **changes: Any) -> tuple[dict, str]:
    out = io.BytesIO()
    body = BODIES[question] | changes
    headers = client.stream(stand.url, stand.tokens[who], question, body, out)
    return headers, out.getvalue().decode()


@pytest.mark.parametrize("question", client.STREAMED)
def test_a_stream_has_the_cells_of_the_answer(stand: Stand, question: str) -> None:
    expected = client.render(question, trace(stand, question), "csv")
    for changes in ({}, {"all_rows": True}):
        headers, text = stream(stand, question, **changes)
        assert text == expected
        assert headers["Content-Type"] == "text/csv; charset=utf-8"
        assert headers["Transfer-Encoding"] == "chunked"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Chot-Rows"] == str(len(text.splitlines()) - 1)
        assert headers["Chot-Complete-Up-To"] == f"{DATE}T20:00:00.000+07:00"
        assert headers["Chot-Behind"] == "hl-1a-1=37"
        assert headers["Chot-Audit"] == str(len(stand.control.records))
    footer = client.stream_footer(headers)
    assert "complete up to" in footer and "hl-1a-1 behind by 37 s" in footer
    refused = pytest.raises(AccessDenied)
    with refused:
        stream(stand, question, "ioc")


def test_a_stream_goes_on_page_by_page_and_says_when_it_is_cut(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand.desk, "_rows_max", 1)
    _, whole = stream(stand, "venue", all_rows=True)
    before = len(stand.audit())
    monkeypatch.undo()
    assert whole == client.render("venue", trace(stand, "venue"), "csv")
    pages = stand.audit()[before - 2 : before]
    assert [(p.rows, p.parameters["is_next_page"]) for p in pages] == [(1, 0), (1, 1)]
    headers, text = stream(stand, "venue", limit=1)
    assert (headers["Chot-Rows"], headers["Chot-Limit-Cut"]) == ("2", "true")
    assert len(text.splitlines()) == 2
    assert "2 rows, not all shown: cut by the limit" in client.stream_footer(headers)
    monkeypatch.setattr(stand.desk, "_rows_max", 1)
    monkeypatch.setattr(csv_stream, "PERSONS_MAX", 0)
    _, text = stream(stand, "venue", all_rows=True)
    assert text.splitlines()[-1] == "# 1 of 2 rows: cut by more than 0 persons"


def test_a_stream_that_breaks_off_is_no_answer(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand.desk, "_rows_max", 1)
    append, written = stand.control.append, []

    async def fail_later(*record: Any) -> int:
        written.append(record)
        if len(written) > 1:
            raise StorageFull("no space")
        return await append(*record)

    monkeypatch.setattr(stand.control, "append", fail_later)
    with pytest.raises(EngineUnreachable, match="broke off"):
        stream(stand, "venue", all_rows=True)


def test_what_has_no_csv_says_so(stand: Stand) -> None:
    with pytest.raises(QuestionInvalid, match="address"):
        stream(stand, "passed", address="x")
    headers = {"Accept": "text/csv", "Content-Type": "application/json"}
    status, _, data = send(
        stand,
        "POST",
        "/v1/trace/venue",
        json.dumps(BODIES["venue"] | {"place": 9}).encode(),
        headers,
    )
    assert status == 404 and json.loads(data)["error"]["code"]


def test_pages_over_http(stand: Stand) -> None:
    first = trace(stand, "venue", limit=1)
    assert first["limit_cut"] and first["next"]
    second = trace(stand, "venue", limit=1, after=first["next"])
    assert not second["limit_cut"] and second["next"] == "" and second["total"] == 2
    whole = trace(stand, "venue")["visits"]
    assert [*first["visits"], *second["visits"]] == whole
