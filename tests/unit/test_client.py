"""The API's client, its renderings, and what of a person's details is shown."""

from __future__ import annotations

import csv
import datetime
import http.server
import io
import json
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api.answers import WHEN_MAX_MS, details_to_person, when_to_ms
from engine.api.opened_details import OpenedDetails
from engine.client import api_client as client
from engine.clock import VIETNAM, ManualClock, iso_to_ms, ms_to_iso
from engine.errors import AccessDenied, EngineUnreachable, QuestionInvalid, SettingInvalid
from engine.scans.people import Details

PERSON = {"person": "a" * 26, "name": "=Lê Văn Cường", "phone": "0912999003", "doc": "cccd 1"}
VISIT = {
    "person": "a" * 26,
    "name": "=Lê Văn Cường",
    "place": 1013,
    "place_name": "Chợ Hồ Xá",
    "start": "2021-07-01T08:00:00.000+07:00",
    "end": "2021-07-01T08:45:00.000+07:00",
    "minutes": 45.0,
    "end_rule": "default",
    "room": 0,
    "direction": "in",
    "scans": 1,
    "is_passage": False,
}
MEETING = {
    "place": 1013,
    "place_name": "+Chợ",
    "minutes": 30.0,
    "linger_minutes": 0.0,
    "case_start": "a",
    "case_end": "b",
    "other_start": "c",
    "other_end": "d",
    "case_room": 0,
    "case_end_rule": "observed",
    "other_end_rule": "default",
    "other_room": 0,
    "flags": ["same_room"],
}
COMMON = {
    "persons": [PERSON],
    "total": 1,
    "limit_cut": False,
    "area": "",
    "audit": 7,
    "elapsed_us": 1500,
    "complete": {"up_to": "2021-07-01T20:00", "behind": {"hl-1a-1": 37.0}},
}
ANSWERS: dict[str, dict[str, Any]] = {
    "venue": {**COMMON, "visits": [VISIT]},
    "person": {**COMMON, "visits": [VISIT]},
    "contacts": {
        **COMMON,
        "profile": {"name": "WHO"},
        "below": 2,
        "contacts": [
            {
                "person": "a" * 26,
                "name": "=Lê Văn Cường",
                "tier": "candidate",
                "minutes": 30.0,
                "best_minutes": 30.0,
                "venues": 1,
                "last": "2021-07-01T09:00",
                "meetings": [MEETING],
            }
        ],
    },
}


FURTHER: dict[str, dict[str, Any]] = {
    "tiers": {
        **COMMON,
        "profile": {"name": "WHO"},
        "counts": [1, 1],
        "links": [],
        "links_cut": True,
        "people": [{"person": "a" * 26, "name": "=Lê Văn Cường", "tier": 1, "minutes": 3.0}],
    },
    "roll": {
        **COMMON,
        "persons": [],
        "counts": {"none": 0, "matched": 1, "unsure": 0},
        "rows": [{"row": 1, "state": "matched", "why": "document", "person": "a" * 26}],
    },
    "counts": {
        "rows": [{"start": "2021-07-01T08:00", "name": "=Chợ", "visits": 5, "passages": 0}],
        "limit_cut": True,
        "next": "2021-07-01T09:00",
        "rounded": 5,
        "area": "QT-VL",
        "log_group": 7,
    },
}


def test_answers_without_visits_are_shown_as_well() -> None:
    table = client.render("tiers", FURTHER["tiers"], "table")
    assert "F1 1; profile WHO; 0 links; not all links" in table
    assert "'=Lê Văn Cường" in client.render("tiers", FURTHER["tiers"], "csv")
    assert "0 none; 1 matched; 0 unsure" in client.render("roll", FURTHER["roll"], "table")
    assert client.render("roll", FURTHER["roll"], "csv").count("\n") == 2
    footer = client.render("counts", FURTHER["counts"], "table").splitlines()[-1]
    assert footer == (
        "1 rows; cut by the limit: the rest --from 2021-07-01T09:00; complete up to group 7;"
        " rounded to 5; area QT-VL only"
    )
    assert "'=Chợ" in client.render("counts", FURTHER["counts"], "csv")
    paged = {**ANSWERS["venue"], "next": "abc"}
    assert client.render("venue", paged, "table").endswith("the rest: --after abc\n")


@pytest.mark.parametrize("question", ANSWERS)
def test_csv_has_stable_columns_and_no_formula(question: str) -> None:
    text = client.render(question, ANSWERS[question], "csv")
    assert text.startswith("\ufeffperson,name,")
    head, row = csv.reader(io.StringIO(text.removeprefix("\ufeff")))
    assert len(head) == len(row) == len(set(head))
    assert row[head.index("name")] == "'=Lê Văn Cường"
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in row)
    if question == "contacts":
        assert row[head.index("place_name")] == "'+Chợ"
        assert row[head.index("total_minutes")] == "30.0"
    if question != "person":
        assert row[head.index("phone")] == "0912999003"


@pytest.mark.parametrize("question", ANSWERS)
def test_a_table_ends_with_what_one_must_know(question: str) -> None:
    text = client.render(question, ANSWERS[question], "table")
    *_, footer = text.strip().split("\n")
    assert footer.startswith("1 rows")
    assert "complete up to 2021-07-01T20:00" in footer and "hl-1a-1 behind by 37 s" in footer
    assert "audit record 7" in footer and "1.5 ms" in footer
    assert ("profile WHO" in footer) == (question == "contacts")
    cut = client.render(question, {**ANSWERS[question], "limit_cut": True, "total": 9}, "table")
    assert "1 rows of 9, cut by the limit" in cut


def test_columns_line_up_under_vietnamese_and_wide_letters() -> None:
    names = ["Nguyễn Thị Hồng Ánh", "e\u0301a", "王小明", "x"]
    visits = [{**VISIT, "name": name} for name in names]
    text = client.render("venue", {**ANSWERS["venue"], "visits": visits}, "table")
    lines = text.split("\n")[: len(names) + 1]
    at = {client._width(line[: line.index("0912") if "0912" in line else line.index("phone")])
          for line in lines}  # fmt: skip
    assert len(at) == 1


def test_a_name_cannot_steer_the_terminal() -> None:
    visits = [{**VISIT, "name": "a\x1b[2Jb\r\n\u202ec"}]
    text = client.render("venue", {**ANSWERS["venue"], "visits": visits}, "table")
    assert "\x1b" not in text and "\r" not in text and "\u202e" not in text
    assert json.loads(client.render("venue", ANSWERS["venue"], "json")) == ANSWERS["venue"]


@given(st.text(max_size=30))
def test_any_name_stays_in_its_cell(name: str) -> None:
    answer = {**ANSWERS["venue"], "visits": [{**VISIT, "name": name}]}
    assert len(client.render("venue", answer, "table").splitlines()) == 4
    rows = list(csv.reader(io.StringIO(client.render("venue", answer, "csv"), newline="")))
    assert len(rows) == 2 and len(rows[0]) == len(rows[1])


# ---- over HTTP ----------------------------------------------------------------------------------


class Fake(http.server.BaseHTTPRequestHandler):
    """Answers with what the test put into `replies`, by path."""

    replies: ClassVar[dict[str, tuple[int, bytes]]] = {}
    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"]))
        status, body = self.replies.get(self.path.partition("?")[0], (200, b"{}"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing: the test's output is its own."""


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Fake)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    Fake.replies, Fake.seen = {}, []
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_token_goes_to_the_api_and_nowhere_else(url: str) -> None:
    client.venues(url + "/prefix/", "chot_x", "Chợ & Hồ")
    assert Fake.seen == [
        ("/prefix/v1/venues?search=Ch%E1%BB%A3%20%26%20H%E1%BB%93", "Bearer chot_x")
    ]
    Fake.replies["/v1/whoami"] = (302, b"")
    with pytest.raises(EngineUnreachable):
        client.whoami(url, "chot_x")
    assert ("/elsewhere", "Bearer chot_x") not in Fake.seen


def test_failures_are_the_apis_own(url: str) -> None:
    failure = {"error": {"code": "access.denied", "message": "no", "hint": "ask"}}
    Fake.replies["/v1/whoami"] = (403, json.dumps(failure).encode())
    with pytest.raises(AccessDenied) as caught:
        client.whoami(url, "t")
    assert (str(caught.value), caught.value.hint) == ("no", "ask")
    for status, body in ((500, b"<html>"), (200, b"[]"), (200, b"\xff")):
        Fake.replies["/v1/whoami"] = (status, body)
        with pytest.raises(EngineUnreachable):
            client.whoami(url, "t")


def test_addresses_and_tokens_that_are_none() -> None:
    for bad in ("", "127.0.0.1:7480", "ftp://x", "http://[", "http://a:b@127.0.0.1", "http://x:y"):
        with pytest.raises(SettingInvalid):
            client.whoami(bad, "t")
    with pytest.raises(SettingInvalid, match="this machine"):
        client.whoami("http://203.0.113.7:7480", "t")
    with pytest.raises(SettingInvalid):
        client.whoami("http://127.0.0.1:9", "a\r\nX: y")
    with pytest.raises(EngineUnreachable):
        client.whoami("http://127.0.0.1:9", "t")
    with pytest.raises(QuestionInvalid):
        client.trace("http://127.0.0.1:9", "t", "everything", {})


# ---- what is shown of a person ------------------------------------------------------------------

BINH = Details(
    name="Nguyễn Văn Bình",
    doc_kind="cccd",
    doc_no="045090999001",
    birth="1990-05-17",
    sex="M",
    phone="+84912999001",
    address="Thôn Bình An",
)


def test_masked_and_full() -> None:
    masked = details_to_person("h", BINH, True)
    assert (masked.name, masked.phone, masked.doc) == (
        "Nguyễn Vă***",
        "0912***",
        "cccd ******999001",
    )
    assert (masked.birth, masked.address, masked.sex) == ("1990", "", "M")
    full = details_to_person("h", BINH, False)
    assert (full.name, full.phone, full.doc) == (BINH.name, "0912999001", "cccd 045090999001")
    assert (full.birth, full.address) == (BINH.birth, BINH.address)


def test_somebody_of_whom_only_a_number_or_nothing_is_known() -> None:
    assert details_to_person("h", None, True).name == ""
    only = details_to_person("h", Details(qid="790123456789999001"), True)
    assert (only.name, only.phone, only.doc) == ("", "", "qid ************999001")
    assert details_to_person("h", Details(), True) == details_to_person("h", None, True)
    visitor = Details(name="Öberg Anna", certificate_id="URN:UVCI:01:SE:TEST999001", issuer="SE")
    assert details_to_person("h", visitor, False).doc == "certificate URN:UVCI:01:SE:TEST999001"
    masked = details_to_person("h", visitor, True).doc
    assert masked.endswith("999001") and "UVCI" not in masked
    seal = Details(doc_no="X999001", certificate_id="T1")
    assert details_to_person("h", seal, False).doc == "document X999001"


def test_times() -> None:
    assert when_to_ms("2021-07-01") == when_to_ms("2021-07-01T00:00+07:00") == 1_625_072_400_000
    assert when_to_ms(5) == 5
    for bad in ("", "x", "2021-13-01", 1 << 60, "0001-01-01T00:00+14:00", WHEN_MAX_MS):
        with pytest.raises(QuestionInvalid):
            when_to_ms(bad)
    for far_ms in (1 - WHEN_MAX_MS, WHEN_MAX_MS - 1):  # whatever is asked can be told
        assert iso_to_ms(ms_to_iso(when_to_ms(far_ms))) == far_ms


@given(st.integers(1 - WHEN_MAX_MS, WHEN_MAX_MS - 1))
def test_an_instant_is_told_as_the_library_tells_it(instant_ms: int) -> None:
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    moment += datetime.timedelta(milliseconds=instant_ms)
    assert ms_to_iso(instant_ms) == moment.astimezone(VIETNAM).isoformat(timespec="milliseconds")


def test_opened_details_are_bounded_in_bytes_and_in_age() -> None:
    clock = ManualClock()
    opened = OpenedDetails(clock, size_max=10_000)
    for lsn in range(1, 30):
        opened.put(lsn, [b"x" * 936])
    assert sum(opened.get(lsn) is not None for lsn in range(1, 30)) == 10
    assert opened.get(29) == [b"x" * 936] and opened.get(19) is None
    opened.get(20)
    opened.put(30, [b"x" * 936])
    assert opened.get(20) is not None and opened.get(21) is None
    opened.put(30, [])
    assert opened.get(30) == []
    clock.advance(301_000)
    assert opened.get(29) is None
