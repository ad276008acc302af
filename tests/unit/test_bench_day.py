"""The burst day ends with everything there once, and its oracle would say if it were not."""

from __future__ import annotations

import itertools
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from bench import report
from bench.case_ingest import number
from bench.day_oracle import Tracer, Truth, compare_checkins
from bench.day_world import FIRST_VENUE, HELD_GAP_FRAMES, Loop, checkins, person_of
from bench.lane_ramp import search
from bench.relay import Heard, Session, Walker
from bench.workload import VISIT
from engine.clock import MINUTE_MS, date_to_day, day_to_ms
from engine.identity.keys import FileKeyRing
from engine.scans.people import VIETNAM
from engine.wire import frames as wire
from tests.unit.test_bench import run_bench

DAY = date_to_day("2021-07-01")


# ---- real runs ----------------------------------------------------------------------------------


def test_a_day_with_outages_and_a_kill_loses_and_doubles_nothing(tmp_path: Path) -> None:
    done = run_bench("smoke", "day", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    figures = line["figures"]
    assert line["wrong"] == [] and figures["lost"] == figures["doubled"] == 0
    assert figures["frames"] == 3 * 15 * line["params"]["seconds"]
    assert figures["links"] > 3 + 1, "those that were cut came back"
    assert figures["rows"] > figures["checkins"] * 0.9 > 0
    assert 0 < figures["passages_read"] <= figures["passages_shown"]
    assert 0 < figures["holds_read"] <= figures["holds_shown"]
    assert figures["answers_checked"] == 63 and figures["questions_failed"] == 0
    assert figures["venue_questions"] > 0 < figures["notice_questions"]
    assert figures["engine_down_s"] > 0 and figures["receipt_of_backlogs"] > 0
    for name in ("verdict_of_backlog", "receipt", "venue_question", "frame_settled"):
        assert 0 < figures[f"{name}_p50_ms"] <= figures[f"{name}_p99_ms"]
    for process in ("engine", "api", "gateways", "driver"):
        assert figures["cpu_s"][process] > 0
    assert sum(figures["timeline"]["due"]) > 0 and len(figures["timeline"]["away_s"]) == 3
    assert "**0, 0** of" in report.day({"day": {"date": "2021-07-01", **line}})


@pytest.mark.full
def test_lanes_of_one_core_are_stepped_up(tmp_path: Path) -> None:
    done = run_bench("smoke", "core_lanes", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)["figures"]["steps"]
    assert steps[0]["frames"] == 30
    assert report.core_lanes({"core_lanes": {"date": "2021-07-01", **json.loads(done.stdout)}})
    assert steps[0]["core"] > 0 and not steps[0]["unsettled"]


@pytest.mark.full
def test_curves_have_slopes_and_a_country(tmp_path: Path) -> None:
    done = run_bench("smoke", "scale", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["wrong"] == [] and len(line["figures"]["curves"]) == 4
    said = report.scale({"scale": {"date": "2021-07-01", **line}})
    assert "98 million people" in said and said.count("Slope") == 3


# ---- the oracle ---------------------------------------------------------------------------------


def test_a_day_keeps_its_peak_and_its_visits() -> None:
    world = checkins(20.0, 2_000, 50, 3, DAY)
    assert len(world.rows) == 2 * len(world.visits)
    assert 0.6 < world.peak_s / 2_000 < 1.4
    assert (np.diff(world.due_s) >= 0).all() and world.due_s[-1] == 20.0
    assert set(world.rows["place"].tolist()) <= set(range(FIRST_VENUE, FIRST_VENUE + 50))
    assert day_to_ms(DAY) <= world.rows["time_ms"].min()
    assert world.rows["time_ms"].max() < day_to_ms(DAY + 1)


def test_a_row_that_is_missing_changed_or_twice_is_found(tmp_path: Path) -> None:
    ring = FileKeyRing(tmp_path, create=True)
    sent = checkins(5.0, 200, 10, 3, DAY).rows
    stored = sent.copy()
    stored["person"] = [
        ring.person_key("cccd", VIETNAM, number(person_of(key))) for key in sent["person"].tolist()
    ]
    r = np.random.Generator(np.random.PCG64(1))
    assert compare_checkins(sent, r.permutation(stored), ring) == (0, 0)
    assert compare_checkins(sent, stored[1:], ring) == (1, 0)
    assert compare_checkins(sent, np.concatenate([stored, stored[:2]]), ring) == (0, 2)
    for name in ("time_ms", "place", "direction", "person"):
        changed = stored.copy()
        changed[name][7] = changed[name][8] if name == "person" else changed[name][7] + 1
        assert compare_checkins(sent, changed, ring) == (1, 1), name


def visit(person: int, place: int, start: int, end: int) -> tuple[int, int, int, int]:
    return (start * MINUTE_MS, end * MINUTE_MS, person, place)


def test_answers_are_compared_with_plain_sums() -> None:
    truth = Truth(
        np.array(
            [
                visit(1, 5, 0, 60), visit(2, 5, 30, 50), visit(3, 5, 50, 59), visit(3, 6, 90, 99),
                visit(1, 6, 80, 96), visit(4, 5, 60, 70),
            ],
            VISIT,
        )
    )  # fmt: skip
    assert truth.at(5, 50 * MINUTE_MS, 60 * MINUTE_MS) == [
        (0, 60 * MINUTE_MS), (50 * MINUTE_MS, 59 * MINUTE_MS),
    ]  # fmt: skip
    assert truth.persons_at(5, 0, 100 * MINUTE_MS) == 4
    assert [place for _, _, place in truth.of(3)] == [5, 6]
    assert truth.met(1) == [15.0, 20.0]  # person 3 at two places, person 2 at one
    tracer = Tracer("http://127.0.0.1:1", "token", checkins(5.0, 200, 10, 3, DAY), 1)
    tracer._compare("venue", [1], [1])
    assert not tracer.wrong
    tracer._compare("venue", [1], [2])
    assert tracer.wrong == ["venue: 1 found, 1 true, not the same"]


def test_a_code_held_up_again_is_another_hold() -> None:
    loop = Loop("vl-1a-1", Path(), 100, {b"a": [10, 11, 12], b"b": [5, 5 + HELD_GAP_FRAMES, 99]})
    assert loop.holds(100) == {b"a": 1, b"b": 2}
    assert loop.holds(111) == {b"a": 2, b"b": 2}, "b at 99 goes on at 105"
    assert loop.holds(300) == {b"a": 3, b"b": 4}


# ---- the relay ----------------------------------------------------------------------------------


def test_a_relay_finds_frames_however_they_are_cut() -> None:
    pictures = [
        wire.FrameImage(
            seq=n, channel=1, codec=wire.Codec.JPEG, ts_ns=n, frame_no=n, image=bytes(size)
        )
        for n, size in ((1, 0), (2, 5), (3, 3000))
    ]
    ack = wire.Ack(cls=1, seq=9, limit=1, byte_limit=1)
    messages = [wire.encode(message) for message in (*pictures, ack, wire.Scans(seq=4, body=b""))]
    data = b"".join(messages)
    r = random.Random(4)
    for _ in range(50):
        found: list[tuple[int, int, bytes]] = []
        walker = Walker(lambda kind, flags, seq, head, to=found: to.append((kind, seq, head)))  # type: ignore[misc]
        cuts = sorted(r.sample(range(1, len(data)), 12))
        for a, b in itertools.pairwise([0, *cuts, len(data)]):
            walker.feed(data[a:b])
        assert [kind for kind, _, _ in found] == [m[0] for m in messages]
        assert [seq for _, seq, _ in found] == [1, 2, 3, 9, 4]
        assert all(m.startswith(head) for m, (_, _, head) in zip(messages, found, strict=True))


def test_waits_of_a_backlog_are_told_apart() -> None:
    heard = Heard()
    session = Session(heard)
    now_ns = time.time_ns()
    for seq, taken_ns in ((1, now_ns), (2, now_ns - 5_000_000_000)):
        image = wire.FrameImage(
            seq=seq, channel=1, codec=wire.Codec.JPEG, ts_ns=taken_ns, frame_no=1, image=b""
        )
        session.on_sent(wire.FrameType.FRAME, 1, seq, wire.encode(image))
        session.on_answered(wire.FrameType.RESULT, 1, seq, b"")
    session.on_answered(wire.FrameType.ACK, 1, 2, b"")
    assert len(heard.waits_ns) == len(heard.late_ns) == len(heard.settled_ns) == 1
    assert heard.waits_ns[0] < 1_000_000_000 < 5_000_000_000 <= heard.late_ns[0]


@pytest.mark.parametrize("limit", [*range(1, 40), 63, 64, 65, 99, 100, 200])
def test_the_number_of_lanes_is_found_to_a_tenth(limit: int) -> None:
    found = search(4, 100, lambda count: count <= limit)
    if limit < 4:
        assert found == 0
    else:
        assert min(limit, 100) * 0.9 - 1 <= found <= min(limit, 100)
