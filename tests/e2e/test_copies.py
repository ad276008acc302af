"""A copied code on real processes: two gateways of a post, a restart in between, late scans."""

from __future__ import annotations

import time
from pathlib import Path

from engine.cli.story import Person
from engine.client import api_client as client
from engine.scans.rows import Flag
from engine.wire import frames as wire
from tests.e2e.rig import (
    KEPT_FOR_EVER,
    EngineProcess,
    RawLink,
    enrolment,
    fresh_person,
    person_scan,
    read_store,
    scans,
    until,
)


def show(engine: EngineProcess, lane: int, *shown: tuple[Person, int]) -> list[wire.Verdict]:
    """Lights of one message of a lane's gateway, in an epoch of its own; all of it is durable."""
    with RawLink(engine.port) as link:
        assert isinstance(link.hello(f"vl-1a-{lane}"), wire.Welcome)
        link.send(scans(1, *(person_scan(person, lane, at_ms) for person, at_ms in shown)))
        found = link.settled(0, 1)
    return [message.verdict for message in found if isinstance(message, wire.Result)]


def test_two_lanes_at_once_whatever_comes_first(tmp_path: Path) -> None:
    anh, binh, at_ms = fresh_person(), fresh_person(), time.time_ns() // 1_000_000 - 7_200_000
    data = enrolment().copy_to(tmp_path)
    with EngineProcess(data, settings=dict(KEPT_FOR_EVER)) as engine:
        first = show(engine, 1, (anh, at_ms), (anh, at_ms + 3_600_000), (binh, at_ms))
        assert [v.verdict for v in first] == ["accepted"] * 3
        engine.kill()
        engine.start()
        # Lane 2 was away for two hours: its scan meets the one of its own time, from the log.
        late = show(engine, 2, (anh, at_ms - 1500), (binh, at_ms + 2500))
        assert [(v.verdict, v.reason) for v in late] == [("alert", "two_lanes"), ("seen", None)]
        again = show(engine, 1, (anh, at_ms), (binh, at_ms))
        assert [v.verdict for v in again] == ["alert", "seen"], "now it has something beside it"
        until(lambda: engine.metric("chot_index_lag_groups") == 0)
        body = {"purpose": "case", "case": "BN-1234", "from": at_ms - 60_000, "to": at_ms + 60_000}
        told = client.ask(engine.api, enrolment().token, "/v1/alerts", body)["alerts"]
        assert [(a["lane"], a["flags"], a["time_ms"] - at_ms) for a in told] == [
            (1, ["copied"], 0), (2, ["copied"], -1500)
        ]  # fmt: skip
        assert engine.metric("chot_alerts", reason="two_lanes") == 2
        assert engine.stop() == 0
    rows = read_store(data).rows
    flags = [(int(r["lane"]), int(r["time_ms"]) - at_ms, int(r["flags"])) for r in rows]
    assert sorted(flags) == sorted([
        (1, 0, 0), (1, 3_600_000, 0), (1, 0, 0), (2, -1500, Flag.COPIED), (2, 2500, 0),
        (1, 0, Flag.COPIED), (1, 0, 0),
    ])  # fmt: skip
