"""The main job as a whole: three lanes and a day of check-ins through real processes, and every
answer held against what the stopped store gives when it is derived anew."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.cli.story import COACH, EATERY, MARKET
from engine.desk.questions import key_to_handle
from engine.presence.visits import EndRule
from engine.scans.rows import REASONS, Kind
from tests.e2e.rig import (
    BACK_END,
    LANES,
    Done,
    cast,
    check_no_person,
    job,
    lane_name,
    read_store,
    run_chot,
    story,
    undisturbed,
    until,
)

POST = 1
VERDICTS = {"accept": "accepted", "seen": "seen", "refuse": "refused"}


def truth(lane: int) -> list[tuple[str, str | None]]:
    """What a lane's light must show, by who made the clips."""
    return [
        (VERDICTS[showing["verdict"]], showing["reason"])
        for showing in cast()["showings"]
        if showing["lane"] == lane and showing["verdict"] != "none"
    ]


@pytest.fixture(scope="module")
def done() -> Done:
    """The run that the tests of crashes hold theirs against."""
    return undisturbed()


@pytest.mark.parametrize("lane", LANES)
def test_a_lane_shows_what_the_clip_was_made_to_show(done: Done, lane: int) -> None:
    gateway = done.gateways[lane_name(lane)]
    assert gateway.verdicts == truth(lane)
    assert gateway.stats["frames_dropped"] == 0
    names = [line["name"] for line in gateway.lines if line.get("name")]
    assert names and all(name.endswith("***") for name in names)


def test_every_check_in_is_one_row(done: Done) -> None:
    rows = done.stored.checkins()
    lines = [json.loads(line) for line in story().lines]
    assert rows.total() == len(lines) == len(rows)
    at = Counter(int(row["time_ms"]) for row in done.stored.rows if row["kind"] == Kind.CHECKIN)
    assert at == Counter(line["ts_ms"] for line in lines)
    assert done.gateways[BACK_END].stats["records_stored"] == len(lines)


def test_every_accepted_or_seen_code_is_one_row(done: Done) -> None:
    at_post = done.stored.rows[done.stored.rows["kind"] == Kind.SCAN]
    assert set(at_post["place"]) == {POST}
    shown = [v for lane in LANES for v, _ in truth(lane) if v != "refused"]
    assert len(at_post) == len(shown)
    assert Counter(map(int, at_post["lane"])) == Counter(
        lane for lane in LANES for v, _ in truth(lane) if v != "refused"
    )
    # One person passed twice within the window: that is one passage.
    passages = {visit for visit in done.stored.visits() if visit[1] == POST}
    assert len(passages) == len(shown) - shown.count("seen")


def test_what_was_refused_is_stored_and_told(done: Done) -> None:
    refused = Counter(
        (lane, reason) for lane in LANES for verdict, reason in truth(lane) if verdict == "refused"
    )
    stored = {(p, lane, REASONS[r]): n for (p, lane, r), n in done.stored.tallies.items()}
    assert stored == {(POST, lane, reason): n for (lane, reason), n in refused.items()}
    told = {(t["place"], t["lane"], t["reason"]): t["count"] for t in done.figures["refused"]}
    assert told == stored


def test_figures_are_those_of_the_rows(done: Done) -> None:
    rows = done.stored.rows
    assert done.figures["persons"] == len({row.tobytes() for row in rows["person"]})
    by_place = {place["place"]: place for place in done.figures["places"]}
    assert by_place[POST]["scans"] == int((rows["place"] == POST).sum())
    market = rows[rows["place"] == MARKET]
    assert by_place[MARKET]["checkins"] == len(market)
    assert by_place[MARKET]["persons"] == len({row.tobytes() for row in market["person"]})


# ---- questions ----------------------------------------------------------------------------------


def shown_visits(answer: dict[str, Any]) -> set[tuple[str, int, int, int, str]]:
    return {
        (v["person"], v["place"], v["start_ms"], v["end_ms"], v["end_rule"])
        for v in answer["visits"]
    }


def expected(done: Done, **wanted: object) -> set[tuple[str, int, int, int, str]]:
    """Derived visits as answers show them; wanted: place or person."""
    return {
        (key_to_handle(key), place, start, end, EndRule(rule).name.lower())
        for key, place, start, end, rule in done.stored.visits()
        if wanted.get("place", place) == place
        and wanted.get("person", key_to_handle(key)) == key_to_handle(key)
    }


def test_q1_who_was_there(done: Done) -> None:
    low, high = done.market_hours
    answer = done.answers["venue"]
    assert shown_visits(answer) == {
        visit for visit in expected(done, place=MARKET) if visit[2] < high and visit[3] > low
    }
    assert len(answer["visits"]) > 3
    assert all(person["name"].endswith("***") for person in answer["persons"])


def test_q2_where_was_this_person(done: Done) -> None:
    answer = done.answers["person"]
    (person,) = {visit["person"] for visit in answer["visits"]}
    assert shown_visits(answer) == expected(done, person=person)
    assert [visit["place"] for visit in answer["visits"]] == [MARKET, COACH, EATERY, POST]


def test_q3_who_met_this_person(done: Done) -> None:
    (case,) = {visit["person"] for visit in done.answers["person"]["visits"]}
    visits = [visit for visit in expected(done) if visit[1] != POST]
    minutes: Counter[str] = Counter()
    for _, place, start, end, _ in [v for v in visits if v[0] == case]:
        for other, at, begun, ended, _ in visits:
            if other != case and at == place:
                minutes[other] += max(0, min(end, ended) - max(start, begun))
    wanted = {other: ms / 60_000 for other, ms in minutes.items() if ms >= 15 * 60_000}
    answer = done.answers["contacts"]
    candidates = {
        contact["person"]: contact["minutes"]
        for contact in answer["contacts"]
        if contact["tier"] == "candidate"
    }
    assert candidates == pytest.approx(wanted, abs=0.1)  # shown in whole tenths
    assert len(candidates) >= 14  # the fellow passengers at least


def test_every_question_is_audited_and_complete(done: Done) -> None:
    audits = [answer["audit"] for answer in done.answers.values()]
    assert sorted(set(audits)) == audits
    for answer in done.answers.values():
        assert answer["complete"]["group"] == done.stored.groups[-1].lsn
        assert not answer["limit_cut"]
    report = run_chot("verify", str(done.data))
    assert report.returncode == 0, report.stdout
    assert report.stdout.rstrip().endswith("sound")


# ---- metrics, the end, and what must not show ---------------------------------------------------


def test_metrics_count_what_happened(done: Done) -> None:
    rows = len(done.stored.rows)
    frames = sum(done.gateways[lane_name(lane)].stats["frames_sent"] for lane in LANES)
    verdicts = Counter(verdict for lane in LANES for verdict, _ in truth(lane))
    metric = done.metric
    assert metric["chot_journal_rows_total"] == metric["chot_index_rows"] == rows
    assert metric["chot_frames_decoded_total"] == frames
    assert metric["chot_sessions_opened_total"] == len(LANES) + 1
    assert metric["chot_journal_full"] == metric["chot_index_lag_groups"] == 0
    for verdict, count in verdicts.items():
        assert metric[f'chot_verdicts_total{{verdict="{verdict}"}}'] == count
    for question in ("venue", "person", "contacts", "figures"):
        assert metric[f'chot_questions_total{{question="{question}"}}'] == 1


def test_it_ends_cleanly_when_asked(done: Done) -> None:
    assert done.status == 0
    assert "Traceback" not in done.engine_log
    assert "ERROR" not in done.engine_log
    assert not (done.data / "engine.sock").exists()


def test_no_person_shows_in_logs_or_metrics(done: Done) -> None:
    check_no_person(done.engine_log)
    check_no_person(done.metrics)
    for gateway in done.gateways.values():
        check_no_person(gateway.log.read_text(encoding="utf-8"))


def test_no_person_shows_in_the_files_of_store_and_spool(done: Done) -> None:
    """Names and numbers are on the disk sealed only; the story's own file is the exception."""
    for path in (p for folder in (done.data, *done.data.parent.glob("spool-*")) for p in
                 folder.rglob("*") if p.is_file() and "keys" not in p.parts):  # fmt: skip
        check_no_person(path.read_bytes().decode("latin-1"))
        raw = path.read_bytes()
        assert story().case.name.encode() not in raw, path
        assert story().case.cccd.encode() not in raw, path


def test_a_gateway_that_is_told_to_stop_drains_first(tmp_path: Path) -> None:
    with job(tmp_path / "job", with_api=False) as made:
        gateway = made.open(lane_name(1))
        until(lambda: len(gateway.verdicts) >= 1)
        gateway.process.terminate()
        assert gateway.wait() == 0
        assert gateway.stats["is_drained"]
        assert made.engine.stop() == 0
    stored = read_store(made.engine.data)
    assert len(stored.rows) == len([v for v, _ in gateway.verdicts if v != "refused"])
