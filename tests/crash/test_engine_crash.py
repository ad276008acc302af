"""An engine killed with -9 in the middle of the stream ends with what an undisturbed one has.

Nothing more, nothing fewer: the same visits (their first moment to a frame or two, see
FIRST_READ_MS), every check-in as exactly one row, a sound store. The same holds for links that are
cut, gateways that are killed, and records in any order.

As for the store, a kill proves atomicity and that nothing is doubled or forgotten; durability rests
on LMDB's synchronous commits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.cli.story import COACH, MARKET
from engine.client import api_client as client
from engine.clock import SystemClock
from engine.scans.record_lines import line_to_record
from engine.wire import frames as wire
from tests.e2e.rig import (
    BACK_END,
    WHY,
    EngineProcess,
    Job,
    Proxy,
    RawLink,
    Visit,
    enrolment,
    fresh_person,
    job,
    lane_name,
    person_scan,
    read_store,
    run_chot,
    scans,
    story,
    undisturbed,
    until,
)

START_MAX_MS = 2_000  # the engine's own part of a start
PROCESS_START_S = 20.0  # an interpreter and its imports on a busy machine
# The reader of a lane learns from frame to frame, and a new one begins without what the killed one
# knew: a code may be read two frames of 50 ms earlier or later than it was without the kill.
FIRST_READ_MS = 100
POST = 1


def check_same_visits(stored: set[Visit], wanted: set[Visit]) -> None:
    """The same visits; those that cameras of the post saw from the same moment to FIRST_READ_MS."""

    def order(visit: Visit) -> tuple[bytes, int, int]:
        return visit[0], visit[4], visit[2]

    assert {v for v in stored if v[1] != POST} == {v for v in wanted if v[1] != POST}
    ours = sorted((v for v in stored if v[1] == POST), key=order)
    others = sorted((v for v in wanted if v[1] == POST), key=order)
    for one, other in zip(ours, others, strict=True):
        assert (one[0], one[4]) == (other[0], other[4])
        assert abs(one[2] - other[2]) <= FIRST_READ_MS
        assert one[3] - one[2] == other[3] - other[2]


def check_same_as_undisturbed(made: Job, *, starts: int) -> None:
    """The closing criterion."""
    assert made.engine.stop() == 0
    stored, wanted = read_store(made.engine.data), undisturbed().stored
    check_same_visits(stored.visits(), wanted.visits())
    assert stored.checkins() == wanted.checkins()
    opened_ms = made.engine.opened_ms()
    assert len(opened_ms) == starts
    assert max(opened_ms) < START_MAX_MS
    report = run_chot("verify", str(made.engine.data))
    assert report.returncode == 0, report.stdout
    assert "Traceback" not in made.engine.log_text()


def kill_and_start(made: Job) -> None:
    made.engine.kill()
    assert made.engine.start() < PROCESS_START_S


def test_engine_killed_twice_in_the_middle_of_the_stream(tmp_path: Path) -> None:
    """The first time while lanes and check-ins stream, the second right after they came back."""
    with job(tmp_path / "job", with_api=False) as made:
        made.open_all()
        late = [made.gateways[lane_name(lane)] for lane in (2, 3)]

        def have_linked(times: int) -> bool:
            """Each of the late lanes so often, or it is done."""
            return all(
                lane.log.read_text().count("linked") >= times or lane.process.poll() is not None
                for lane in late
            )

        # Lane 3 may start so late that it has not linked when lane 2 has its first verdict.
        until(lambda: len(late[0].verdicts) >= 1 and have_linked(1))
        kill_and_start(made)
        until(lambda: have_linked(2))
        kill_and_start(made)
        made.finish()
        # One of the late lanes at least was cut twice; who was done before a kill was not.
        assert max(lane.stats["links"] for lane in late) >= 3
        check_same_as_undisturbed(made, starts=3)


def crowd(tmp_path: Path, seed: int, kills: int, *, with_cuts: bool) -> None:
    """Kills at moments drawn from the seed, of the engine and of whatever else is asked for."""
    rng = random.Random(seed)
    with job(tmp_path / "job", with_api=False) as made, Proxy(lambda: made.engine.port) as proxy:
        made.port = proxy.port
        made.open_all()
        for _ in range(kills):
            if with_cuts:
                for _ in range(rng.randrange(1, 4)):
                    time.sleep(rng.uniform(0.05, 0.4))
                    proxy.cut()
            time.sleep(rng.uniform(0.0, 1.2))
            kill_and_start(made)
        made.finish()
        assert not with_cuts or proxy.cuts > 0
        check_same_as_undisturbed(made, starts=kills + 1)


def test_cut_links_and_a_killed_engine_together(tmp_path: Path) -> None:
    crowd(tmp_path, seed=1, kills=1, with_cuts=True)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 10))
def test_engine_killed_at_random_moments(tmp_path: Path, seed: int) -> None:
    crowd(tmp_path, seed, kills=1 + seed % 4, with_cuts=seed % 2 == 0)


def test_gateways_killed_and_started_again(tmp_path: Path) -> None:
    """A source that plays from its beginning again gives more rows and the same visits; an engine
    killed in between changes nothing in that."""
    with job(tmp_path / "job", with_api=False) as made:
        made.open_all()
        until(lambda: len(made.gateways[lane_name(3)].verdicts) >= 1)
        for name in (lane_name(2), BACK_END):
            made.gateways[name].kill()
            made.open(name)
        time.sleep(0.5)
        made.engine.kill()
        made.gateways[lane_name(3)].kill()
        made.engine.start()
        made.open(lane_name(3))
        made.finish()
        assert made.engine.stop() == 0
    stored = read_store(made.engine.data)
    check_same_visits(stored.visits(), undisturbed().stored.visits())
    assert set(stored.checkins()) == set(undisturbed().stored.checkins())


def test_killed_the_moment_a_receipt_comes(tmp_path: Path) -> None:
    """What has a receipt is there, once; what has none may be sent again without doubling it.

    A receipt that left before its commit would be found out here: the kill follows it by less
    than a commit takes.
    """
    size, rounds = 100, 4
    person = fresh_person()
    begun_ms = SystemClock().now_ms() - 3_600_000

    def message(seq: int) -> wire.Scans:
        first_ms = begun_ms + seq * size
        return scans(seq, *(person_scan(person, at_ms=first_ms + n) for n in range(size)))

    with job(tmp_path / "job", with_api=False) as made:
        acked = 0
        for _ in range(rounds):
            with RawLink(made.engine.port) as link:
                welcome = link.hello(lane_name(1), epoch=5, next=(10_000, 1))
                assert isinstance(welcome, wire.Welcome)
                assert welcome.acked[0] >= acked  # the receipt was true
                first = acked + 1  # some of it again, on purpose
                link.send(*map(message, range(first, first + 40)))
                acked = link.wait_for(wire.Ack).seq
                while acked <= welcome.acked[0]:
                    acked = link.wait_for(wire.Ack).seq
                made.engine.kill()
            made.engine.start()
        assert made.engine.stop() == 0
    stored = read_store(made.engine.data)
    times = sorted(map(int, stored.rows["time_ms"]))
    assert len(times) % size == 0 and len(times) >= acked * size
    assert times == [begun_ms + size + n for n in range(len(times))]


# ---- order of arrival ---------------------------------------------------------------------------


def answers(engine: EngineProcess) -> list[dict[str, Any]]:
    """The three questions without what differs between any two runs."""
    span = {**WHY, "from": story().from_ms, "to": story().to_ms}
    person = {"kind": "cccd", "value": story().case.cccd}
    found = [
        client.trace(engine.api, enrolment().token, "venue", {**span, "place": MARKET}),
        client.trace(engine.api, enrolment().token, "venue", {**span, "place": COACH}),
        client.trace(engine.api, enrolment().token, "person", {**span, "person": person}),
        client.trace(engine.api, enrolment().token, "contacts", {**span, "person": person}),
    ]
    for answer in found:
        for name in ("audit", "elapsed_us", "complete"):
            del answer[name]
    return found


def arrive(folder: Path, spread: Callable[[list[bytes]], list[list[bytes]]]) -> Any:
    """Sends the story's records over as many epochs as `spread` parts them into."""
    records = [line_to_record(line.encode(), 0) for line in story().lines]
    with job(folder) as made:
        for part in spread(records):
            bodies = [part[i : i + 7] for i in range(0, len(part), 7)]
            with RawLink(made.engine.port) as link:
                link.hello(BACK_END)
                link.send(*(scans(seq, *body) for seq, body in enumerate(bodies, 1)))
                link.settled(0, len(bodies))
        until(lambda: made.engine.metric("chot_index_rows") >= len(records))
        found = answers(made.engine)
        assert made.engine.stop() == 0
    stored = read_store(made.engine.data)
    return found, stored.visits(), stored.checkins()


def test_shuffled_arrival_gives_equal_answers(tmp_path: Path) -> None:
    def shuffled(records: list[bytes]) -> list[list[bytes]]:
        mixed = random.Random(1).sample(records, len(records))
        return [mixed[::2], mixed[1::2]]

    in_order = arrive(tmp_path / "ordered", lambda records: [records])
    assert in_order[0][0]["visits"] and in_order[0][3]["contacts"]
    assert arrive(tmp_path / "shuffled", shuffled) == in_order
