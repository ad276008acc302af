"""Watch list and alerts on real processes: told in the lane, listed, taken off, audited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.cli.story import Person
from engine.client import admin
from engine.client import api_client as client
from engine.clock import DAY_MS, ms_to_iso
from engine.desk.questions import handle_to_key
from engine.errors import AccessDenied, NotFound, QuestionInvalid
from engine.identity.keys import DeskKeys, FileKeyRing
from engine.registry.access import AUDIT_KIND, body_to_entry
from engine.storage.control_lmdb import ControlLog
from engine.wire import frames as wire
from tests.e2e.rig import (
    KEPT_FOR_EVER,
    ROOT,
    EngineProcess,
    RawLink,
    enrolment,
    fresh_person,
    hello,
    person_scan,
    scans,
)

WHY = {"purpose": "case", "case": "BN-1234"}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    with EngineProcess(enrolment().copy_to(tmp_path), settings=dict(KEPT_FOR_EVER)) as started:
        yield started


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def chot(engine: EngineProcess, *arguments: str, stdin: str = "") -> Any:
    """The command with a token; its JSON, or its line of error."""
    done = subprocess.run(
        [sys.executable, "-m", "engine", *arguments, "--case", "BN-1234", "--url", engine.api,
         "--format", "json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CHOT_TOKEN": enrolment().token},
        input=stdin, capture_output=True, text=True, timeout=60, check=False,
        cwd=tempfile.gettempdir(),
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


def show(engine: EngineProcess, person: Person, seq: int, epoch: int = 1) -> wire.Verdict:
    """The light of lane 1; returns when the scan is durable."""
    name = "vl-1a-1"
    with RawLink(engine.port) as link:
        token = enrolment().gateway_token(name)
        link.send(hello(name, token=token, epoch=epoch, next=(seq + 1, 1)))
        assert isinstance(link.next(), wire.Welcome)
        link.send(scans(seq, person_scan(person)))
        verdict = link.wait_for(wire.Result).verdict
        link.settled(0, seq)
    return verdict


def test_somebody_in_quarantine_passes_a_post(engine: EngineProcess) -> None:
    anh, binh = fresh_person(), fresh_person()
    until = ms_to_iso(now_ms() + 14 * DAY_MS)
    put = chot(
        engine, "watch", "add", "--list", "quarantine", "--to", until,
        "--reason", "cách ly tại nhà", stdin=f"cccd {anh.cccd}\n",
    )  # fmt: skip
    assert (put["list"], put["case"], put["who"]) == ("quarantine", "BN-1234", "cdc-truy-vet")
    assert put["to"][:16] == until[:16]
    found = show(engine, anh, 1)
    assert (found.verdict, found.reason) == ("alert", "call_desk")
    assert show(engine, binh, 2).verdict == "accepted"

    engine.kill()
    engine.start()
    assert show(engine, anh, 3).reason == "call_desk", "kill -9 forgets nobody"
    assert [e["number"] for e in chot(engine, "watch", "list")["entries"]] == [put["number"]]

    span = ("--from", ms_to_iso(now_ms() - 600_000), "--to", ms_to_iso(now_ms() + 600_000))
    listed = chot(engine, "alerts", *span)
    assert listed["total"] == 2
    for alert in listed["alerts"]:
        assert (alert["place"], alert["lane"], alert["flags"]) == (1, 1, ["listed"])
        assert (alert["person"], alert["entries"]) == (put["persons"][0], [put["number"]])
        assert alert["name"].endswith("***") and alert["temperature"] is None
    assert listed["entries"] == [{"number": put["number"], "list": "quarantine", "case": "BN-1234"}]
    assert listed["persons"][0]["doc"].endswith(anh.cccd[-6:])

    gone = chot(engine, "watch", "remove", str(put["number"]))
    assert gone["number"] == put["number"]
    assert show(engine, anh, 4).verdict == "seen"
    assert "registry.not_found" in chot(engine, "watch", "remove", str(put["number"]))
    assert chot(engine, "watch", "list") == {"entries": []}
    assert engine.metric("chot_alerts", reason="call_desk") == 1
    assert engine.metric("chot_watch_entries") == 0
    assert engine.stop() == 0
    check_records(engine, anh, handle_to_key(put["persons"][0]))


def check_records(engine: EngineProcess, anh: Person, key: bytes) -> None:
    """Who did what stands in the control log; whom it was about only for the auditor's key."""
    assert FileKeyRing(engine.data / "keys").person_key("cccd", "VNM", anh.cccd) == key
    control = ControlLog(engine.data / "control")
    records = list(control.read())
    control.close()
    kinds = [record.kind for record in records if record.kind.startswith("watch.")]
    assert kinds == ["watch.add", "watch.remove"]
    for record in records:
        assert key not in record.body and anh.cccd.encode() not in record.body
    audits = [body_to_entry(record.body) for record in records if record.kind == AUDIT_KIND]
    done = [(entry.question, entry.parameters.get("action", "")) for entry in audits]
    assert done == [
        ("watch", "add"), ("watch", "list"), ("alerts", ""), ("watch", "remove"), ("watch", "list"),
    ]  # fmt: skip
    keys = DeskKeys(engine.data / "keys" / "desk")
    aad = b"chot/audit/1\0"
    opened = [keys.open_audit(e.sealed_persons, aad + e.digest.encode()) for e in audits[:4]]
    assert opened == [key] * 4
    log = engine.log_text()
    assert anh.cccd not in log and "cách ly" not in log


def test_who_may_not_and_what_cannot_be(engine: EngineProcess) -> None:
    import asyncio

    async def tokens(*names: str) -> list[str]:
        async with admin.connect(engine.data) as owner:
            return [await admin.issue_token(owner, name) for name in names]

    police, centre, ioc = asyncio.run(tokens("ca-vinh-chap", "ttyt-vinh-linh", "ioc"))
    tracer, anh = enrolment().token, fresh_person()
    body = {
        **WHY, "list": "watch", "person": {"kind": "cccd", "value": anh.cccd},
        "to": now_ms() + DAY_MS,
    }  # fmt: skip

    def ask(token: str, action: str, **changes: Any) -> dict[str, Any]:
        base = body if action == "watch/add" else WHY
        return client.ask(engine.api, token, f"/v1/{action}", base | changes)

    span = {"from": 0, "to": now_ms()}
    for token in (police, ioc):
        for action, extra in (("watch/add", {}), ("watch/list", {}), ("alerts", span),
                              ("watch/remove", {"number": 1})):  # fmt: skip
            with pytest.raises(AccessDenied):
                ask(token, action, **extra)
    for wrong in ({"case": ""}, {"purpose": "crime"}, {"case": "Nguyễn Văn Anh"}):
        with pytest.raises(AccessDenied):
            ask(tracer, "watch/add", **wrong)
    for wrong in (
        {"to": now_ms() - 1}, {"to": now_ms() + 367 * DAY_MS}, {"from": now_ms() + 2 * DAY_MS},
        {"reason": "gọi 0912 000 031"}, {"person": {"kind": "cccd", "value": "12"}},
    ):  # fmt: skip
        with pytest.raises(QuestionInvalid) as caught:
            ask(tracer, "watch/add", **wrong)
        assert anh.cccd not in str(caught.value)
    assert ask(tracer, "watch/list")["entries"] == []

    # A centre has what its own unit put there; the tracer has all.
    theirs = ask(tracer, "watch/add")["number"]
    own = ask(centre, "watch/add", aliases=[{"kind": "qid", "value": "162999310000000031"}])
    assert [e["number"] for e in ask(centre, "watch/list")["entries"]] == [own["number"]]
    assert [e["number"] for e in ask(tracer, "watch/list")["entries"]] == [theirs, own["number"]]
    assert len(own["persons"]) == 2
    with pytest.raises(NotFound):
        ask(centre, "watch/remove", number=theirs)
    assert ask(tracer, "watch/remove", number=own["number"])["number"] == own["number"]

    # Who was turned away stands in the audit as well.
    assert engine.stop() == 0
    control = ControlLog(engine.data / "control")
    audits = [body_to_entry(r.body) for r in control.read() if r.kind == AUDIT_KIND]
    control.close()
    refused = Counter((e.who, e.question) for e in audits if e.outcome == "access.denied")
    assert refused == {
        ("ca-vinh-chap", "watch"): 3, ("ca-vinh-chap", "alerts"): 1, ("ioc", "watch"): 3,
        ("ioc", "alerts"): 1, ("cdc-truy-vet", "watch"): 3,
    }  # fmt: skip
