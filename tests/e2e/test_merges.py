"""Merges and reviews on real processes: a visitor with a pass, a card, an entry without papers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.clock import ms_to_iso
from engine.desk.questions import handle_to_key
from engine.identity.keys import DeskKeys
from engine.registry.access import AUDIT_KIND, body_to_entry
from engine.scans.records import encode_manual, encode_scan
from engine.storage.control_lmdb import ControlLog
from engine.wire import frames as wire
from tests.e2e.rig import (
    KEPT_FOR_EVER,
    EngineProcess,
    RawLink,
    enrolment,
    fresh_person,
    hello,
    scans,
)
from tests.e2e.test_passes import VECTORS, keys_in
from tests.e2e.test_watch import chot, now_ms

PASS = VECTORS["dcc.vn-002"]
HOLDER = "pass VN 1950-02-05 Đinh Thị Kim Duyên"
QID = "162999900000000001"
MASKED = f"******999001|PHAM VAN KHOA|1980-**-**|0|{QID}|<1<<"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    settings = {**KEPT_FOR_EVER, "trust": keys_in(tmp_path / "trust")}
    with EngineProcess(enrolment().copy_to(tmp_path), settings=settings) as started:
        yield started


def show(engine: EngineProcess, *records: bytes, epoch: int) -> list[wire.Verdict]:
    """The lights of lane 1; returns when the records are durable."""
    name = "vl-1a-1"
    with RawLink(engine.port) as link:
        link.send(hello(name, token=enrolment().gateway_token(name), epoch=epoch))
        assert isinstance(link.next(), wire.Welcome)
        link.send(scans(1, *records))
        verdicts = [link.wait_for(wire.Result).verdict for _ in records]
        link.settled(0, 1)
    return verdicts


def span() -> tuple[str, ...]:
    return "--from", ms_to_iso(now_ms() - 3_600_000), "--to", ms_to_iso(now_ms() + 3_600_000)


def trace(engine: EngineProcess, *persons: str) -> Any:
    """Passages of a person by their documents, a line each."""
    return chot(engine, "trace", "person", *span(), stdin="".join(f"{p}\n" for p in persons))


def test_a_visitor_and_a_card_become_one_and_two_again(engine: EngineProcess) -> None:
    card = fresh_person()
    at_ms = now_ms() - 1_800_000
    show(
        engine, encode_scan(at_ms, 1, PASS), encode_scan(at_ms + 1_200_000, 1, PASS),
        encode_scan(at_ms + 5 * 60_000, 1, card.payload.encode()), epoch=1,
    )  # fmt: skip
    alone, own = trace(engine, HOLDER), trace(engine, f"cccd {card.cccd}")
    assert [len(found["visits"]) for found in (alone, own)] == [2, 1]
    (holder,), (owner,) = alone["persons"], own["persons"]
    assert (holder["issuer"], holder["signature"], holder["health"]) == ("VN", "valid", "")
    assert holder["name"] == "Đinh Th***" and holder["birth"] == "1950"

    # The officer finds the visitor on the list, with the card beside them, and merges.
    listed = chot(engine, "review", "list", *span())
    (review,) = listed["reviews"]
    assert (review["person"], review["rows"], review["kind"]) == (holder["person"], 2, "scan")
    assert review["name"] == "Đinh Th***" and review["warnings"] == ["expired"]
    put = chot(
        engine, "merge", "add", "--why", "cả hai giấy tờ ở bàn",
        stdin=f"cccd {card.cccd}\nhandle {holder['person']}\n",
    )  # fmt: skip
    assert sorted(put["persons"]) == sorted([holder["person"], owner["person"]])
    assert (put["documents"], put["who"]) == (["cccd", "handle"], "cdc-truy-vet")
    assert chot(engine, "review", "list", *span())["reviews"] == []

    def is_one() -> None:
        answers = [trace(engine, HOLDER), trace(engine, f"cccd {card.cccd}")]
        for found in answers:
            assert len(found["persons"]) == 1 and found["visits"] == answers[0]["visits"]
            # Rule P: three scans at one post within ten minutes of each other are one passage.
            assert [visit["scans"] for visit in found["visits"]] == [2, 1]
        venue = chot(engine, "trace", "venue", "VL-1A", *span())
        assert [person["person"] for person in venue["persons"]] == [
            answers[0]["persons"][0]["person"]
        ]

    is_one()
    # Who is looked for under one document is found under the other.
    chot(
        engine, "watch", "add", "--list", "watch", "--to", ms_to_iso(now_ms() + 86_400_000),
        stdin=f"cccd {card.cccd}\n",
    )  # fmt: skip
    (light,) = show(engine, encode_scan(now_ms(), 1, PASS), epoch=2)
    assert (light.verdict, light.reason) == ("alert", "call_desk")
    engine.kill()
    engine.start()
    assert [m["number"] for m in chot(engine, "merge", "list")["merges"]] == [put["number"]]
    assert len(trace(engine, HOLDER)["persons"]) == 1
    (light,) = show(engine, encode_scan(now_ms(), 1, PASS), epoch=3)
    assert light.reason == "call_desk"
    assert engine.metric("chot_merges") == 1

    undone = chot(engine, "merge", "undo", str(put["number"]), "--why", "ảnh khác nhau")
    assert undone["number"] == put["number"]
    assert [len(trace(engine, who)["visits"]) for who in (HOLDER, f"cccd {card.cccd}")] == [3, 1]
    assert len(chot(engine, "review", "list", *span())["reviews"]) == 1
    (light,) = show(engine, encode_scan(now_ms(), 1, PASS), epoch=4)
    assert light.verdict != "alert"
    assert "registry.not_found" in chot(
        engine, "merge", "undo", str(put["number"]), "--why", "một lần nữa"
    )
    check_records(engine, [handle_to_key(handle) for handle in put["persons"]], card.cccd)


def check_records(engine: EngineProcess, keys: list[bytes], number: str) -> None:
    """Who merged, why and of whom stands in the control log, sealed; so does who saw them."""
    assert engine.stop() == 0
    control = ControlLog(engine.data / "control")
    records = list(control.read())
    control.close()
    kinds = [record.kind for record in records if record.kind.startswith("merge.")]
    assert kinds == ["merge.add", "merge.undo"]
    for record in records:
        assert not any(key in record.body for key in keys)
        assert "bàn".encode() not in record.body and number.encode() not in record.body
    desk = DeskKeys(engine.data / "keys" / "desk")
    seen = []
    for record in records:
        if record.kind == AUDIT_KIND:
            entry = body_to_entry(record.body)
            aad = b"chot/audit/1\0" + entry.digest.encode()
            opened = desk.open_audit(entry.sealed_persons, aad)
            shown = {opened[i : i + 16] for i in range(0, len(opened), 16)}
            seen.append((entry.question, entry.parameters.get("action"), shown))
    assert ("merge", "add", set(keys)) in seen and ("merge", "undo", set(keys)) in seen
    venue = next(shown for question, _, shown in seen if question == "venue")
    assert venue == set(keys), "whoever saw the main key saw the person"
    assert number not in engine.log_text()


def test_entries_without_papers_and_masked_codes_join_nobody_by_themselves(
    engine: EngineProcess,
) -> None:
    """A masked code shows a part of a number and of a birth; only its QID says who that is."""
    at_ms = now_ms() - 1_800_000
    card = "042080999001||Phạm Văn Khoa|01011980|Nam|Thôn 1|11062021"
    entry = {"name": "Phạm Văn Khoa", "birth": "01/01/1980", "phone": "0912999001"}
    show(
        engine, encode_scan(at_ms, 1, card.encode()),
        encode_scan(at_ms + 1, 1, MASKED.encode()),
        encode_scan(at_ms + 1_200_000, 1, MASKED.encode()),
        encode_manual(at_ms + 2, 1, entry, officer="An", why="quên giấy tờ"),
        encode_manual(at_ms + 3, 1, {**entry, "birth": "1981"}, officer="An", why="quên"), epoch=1,
    )  # fmt: skip
    assert len(chot(engine, "trace", "venue", "VL-1A", *span())["persons"]) == 4
    assert len(trace(engine, "cccd 042080999001")["visits"]) == 1
    assert len(trace(engine, f"qid {QID}")["visits"]) == 2
    # One phone, two entries: two people (DE-2). Both wait for somebody to look.
    listed = chot(engine, "review", "list", *span(), "--unmasked")
    people = {r["person"]: r for r in listed["reviews"]}
    assert len(people) == 2 and {r["officer"] for r in people.values()} == {"An"}
    assert {person["phone"] for person in listed["persons"]} == {"0912999001"}
    assert all(r["alike"] == [] for r in people.values())
    nameless, other = people
    chot(
        engine, "merge", "add", "--why", "đã xem thẻ",
        stdin=f"cccd 042080999001\nqid {QID}\nhandle {nameless}\n",
    )  # fmt: skip
    merged = trace(engine, f"qid {QID}")
    assert [v["scans"] for v in merged["visits"]] == [3, 1]
    assert len(chot(engine, "trace", "venue", "VL-1A", *span())["persons"]) == 2
    # The other one stays as they are.
    chot(engine, "review", "close", "--why", "khách vãng lai", stdin=f"handle {other}\n")
    assert chot(engine, "review", "list", *span())["reviews"] == []
    engine.kill()
    engine.start()
    assert chot(engine, "review", "list", *span())["reviews"] == []
    chot(engine, "review", "reopen", "--why", "có thẻ rồi", stdin=f"handle {other}\n")
    assert [r["person"] for r in chot(engine, "review", "list", *span())["reviews"]] == [other]


def test_what_cannot_be_merged_and_who_may_not(engine: EngineProcess) -> None:
    a, b = (f"cccd {fresh_person().cccd}\n" for _ in range(2))
    assert "question.invalid" in chot(engine, "merge", "add", "--why", "một", stdin=a + a)
    assert "two documents" in chot(engine, "merge", "add", "--why", "một", stdin=a)
    assert "somebody's number" in chot(
        engine, "merge", "add", "--why", "số 0912 999 001", stdin=a + b
    )
    first = chot(engine, "merge", "add", "--why", "một", stdin=a + b)
    assert "one person already" in chot(engine, "merge", "add", "--why", "hai", stdin=b + a)
    assert "no identity" in chot(
        engine, "merge", "add", "--why", "x", stdin="phone 0912999001\n" + a
    )
    assert [m["number"] for m in chot(engine, "merge", "list")["merges"]] == [first["number"]]
