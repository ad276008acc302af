"""An engine with days in files: killed and started again it replays little and answers the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from engine.client import api_client as client
from engine.clock import iso_to_ms
from tests.e2e.rig import (
    BACK_END,
    MARKET,
    WHY,
    EngineProcess,
    Job,
    day_text,
    enrolment,
    job,
    run_chot,
    story,
    until,
)

SMALL = {"index_memory_scans": 40}


def ask(engine: EngineProcess) -> list[Any]:
    """Answers without what is of the moment: visits, contacts, figures."""
    until(lambda: engine.metric("chot_index_lag_groups") == 0)
    span = {"from": story().from_ms, "to": story().to_ms}
    person = {"kind": "cccd", "value": story().case.cccd}
    venue = {"from": iso_to_ms(f"{day_text()}T06:30"), "to": iso_to_ms(f"{day_text()}T07:00")}
    bodies = {
        "venue": {**venue, "place": MARKET},
        "person": {**span, "person": person},
        "contacts": {**span, "person": person, "profile": "WHO", "linger_minutes": 0},
    }
    found: list[Any] = []
    for question, body in bodies.items():
        answer = client.trace(engine.api, enrolment().token, question, {**WHY, **body})
        found.append({name: answer[name] for name in ("visits", "contacts") if name in answer})
    figures = client.figures(engine.api, enrolment().token, day_text())
    return [*found, {k: v for k, v in figures.items() if k in ("places", "persons", "passages")}]


def replayed(engine: EngineProcess) -> int:
    """Groups that the last start read again."""
    return int(engine.metric("chot_index_replayed_groups"))


def load(made: Job) -> list[Any]:
    made.open(BACK_END)
    made.finish()
    return ask(made.engine)


def test_a_restart_answers_the_same_and_replays_what_is_not_in_files(tmp_path: Path) -> None:
    with job(tmp_path, settings=SMALL) as made:
        engine = made.engine
        before = load(made)
        assert before[1]["visits"] and before[2]["contacts"]
        until(lambda: engine.metric("chot_index_segments") >= 1)
        until(lambda: engine.metric("chot_index_memory_scans") < 40)
        groups = engine.metric("chot_journal_groups")
        left = engine.metric("chot_index_replay_groups")
        assert left < groups
        assert engine.metric("chot_index_segment_bytes") > 0
        engine.kill()
        engine.start()
        assert ask(engine) == before
        # The last day's scans are read for the window of sightings and the past lights, no index.
        assert engine.metric("chot_index_replay_groups") == left
        assert re.search(r"segment read day=\d+", engine.log_text())
        assert replayed(engine) <= groups
        assert engine.stop() == 0
        report = run_chot("verify", str(engine.data))
        assert (report.returncode, report.stderr) == (0, "")
        # A day's file is damaged while nobody looks.
        path = next((engine.data / "index").glob("1*.mdb"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        report = run_chot("verify", str(engine.data))
        assert report.returncode != 0
        assert "index.damaged" in report.stdout
        engine.start()
        assert ask(engine) == before
        assert "the index is made anew from the log" in engine.log_text()
        assert replayed(engine) == groups


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The answers of an engine that nothing happened to and that has no file."""
    with job(tmp_path_factory.mktemp("whole")) as made:
        return load(made)


@pytest.mark.parametrize("step", ["segments.committed"])
def test_an_engine_killed_while_it_writes_answers_the_same(
    tmp_path: Path, step: str, whole: list[Any]
) -> None:
    with job(tmp_path, settings=SMALL) as made:
        engine = made.engine
        engine.kill()
        engine.env = {"CHOT_KILL_AT": step}
        engine.start()
        made.open(BACK_END)
        assert engine.process is not None
        engine.process.wait(60)
        engine.env = {}
        engine.start()
        made.finish()
        assert ask(engine) == whole
