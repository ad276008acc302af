"""Temperatures on real processes: EVENT before and after its scan; told, stored, listed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.client import api_client as client
from engine.scans.rows import NO_TEMPERATURE, NOBODY, Flag, Kind
from engine.wire import frames as wire
from tests.e2e.rig import (
    KEPT_FOR_EVER,
    EngineProcess,
    RawLink,
    enrolment,
    fresh_person,
    hello,
    person_scan,
    read_store,
    run_chot,
    scans,
    until,
)

LANE = "vl-1a-1"


def event(seq: int, at_ms: int, value: float, **changes: Any) -> wire.Event:
    fields: dict[str, Any] = {
        "kind": "thermal", "ts_ms": at_ms, "device": "T-1", "value": value, "unit": "C",
        "calibration": "2021-06-01",
    }  # fmt: skip
    return wire.Event(seq=seq, channel=1, report=wire.Report(**fields | changes))


def test_fever_before_and_after_the_scan(tmp_path: Path) -> None:
    anh, binh, cuong = fresh_person(), fresh_person(), fresh_person()
    data = enrolment().copy_to(tmp_path)
    with EngineProcess(data, settings=dict(KEPT_FOR_EVER)) as engine:
        at_ms = time.time_ns() // 1_000_000 - 60_000
        epoch = 11
        with RawLink(engine.port) as link:
            assert isinstance(link.hello(LANE, epoch=epoch), wire.Welcome)
            link.send(scans(1, person_scan(anh, at_ms=at_ms), person_scan(cuong, at_ms=at_ms + 5)))
            link.settled(0, 1)  # committed: its row can be changed no more
            link.send(event(2, at_ms + 2000, 38.4, scan=(1, 0)))
            after = link.wait_for(wire.Result)
            link.settled(0, 2)
            link.send(event(3, at_ms + 30_000, 36.6))  # well, and before the scan
            link.send(scans(4, person_scan(binh, at_ms=at_ms + 31_000)))
            well = link.wait_for(wire.Result)
            link.send(event(5, at_ms + 40_000, 39.0))  # whose nobody knows
            alone = link.wait_for(wire.Result)
            link.send(event(6, at_ms, 36.6, kind="health"), event(7, at_ms, 1e9))
            refused = link.wait_for(wire.Nack)
            link.settled(0, 7)
        assert (after.seq, after.verdict.verdict, after.verdict.reason) == (2, "alert", "fever")
        assert after.verdict.name and after.verdict.name.endswith("***")
        assert (well.seq, well.verdict.verdict) == (4, "accepted")
        assert (alone.seq, alone.verdict.reason, alone.verdict.name) == (5, "fever", None)
        assert (refused.seq, refused.code) == (7, wire.WireMalformed.wire)

        engine.kill()
        engine.start()
        with RawLink(engine.port) as link:  # what got a receipt is not taken again
            token = enrolment().gateway_token(LANE)
            link.send(hello(LANE, epoch=epoch, token=token, next=(8, 1)))
            welcome = link.next()
            assert isinstance(welcome, wire.Welcome) and welcome.acked[0] == 7
        until(lambda: engine.metric("chot_index_lag_groups") == 0)
        span = {"from": at_ms - 60_000, "to": at_ms + 120_000}
        body = {"purpose": "case", "case": "BN-1234", **span}
        found = client.ask(engine.api, enrolment().token, "/v1/alerts", body)
        told = [(a["temperature"], a["flags"], a["kind"], bool(a["person"]), a["reading"])
                for a in found["alerts"]]  # fmt: skip
        assert told == [
            (39.0, ["fever"], "reading", False, "39.0 C, device T-1, calibration 2021-06-01"),
            (38.4, ["fever"], "reading", True, "38.4 C, device T-1, calibration 2021-06-01"),
        ]
        where = client.trace(
            engine.api, enrolment().token, "person",
            body | {"person": {"kind": "cccd", "value": anh.cccd}},
        )  # fmt: skip
        assert [(v["is_passage"], v["scans"]) for v in where["visits"]] == [(True, 1)]
        assert where["persons"][0]["person"] == found["alerts"][1]["person"]
        assert where["persons"][0]["name"], "a reading does not hide the name of its scan"
        assert engine.stop() == 0

    rows = read_store(data).rows
    heat = [(int(r["kind"]), int(r["temperature_cc"]), int(r["flags"])) for r in rows]
    assert heat == [
        (Kind.SCAN, NO_TEMPERATURE, 0), (Kind.SCAN, NO_TEMPERATURE, 0),
        (Kind.READING, 3840, Flag.FEVER), (Kind.READING, 3660, 0), (Kind.SCAN, 3660, 0),
        (Kind.READING, 3900, Flag.FEVER),
    ]  # fmt: skip
    assert rows[2]["person"] == rows[0]["person"]
    assert np.all(rows["person"][[3, 5]] == np.void(NOBODY))
    assert run_chot("verify", str(data)).returncode == 0
