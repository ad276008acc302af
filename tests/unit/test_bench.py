"""The benchmarks as tests: they run, answers are right and stable, a wrong one is an error."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bench.__main__ as command
from bench import decoders, peers
from bench.case_lanes import compare
from bench.harness import SIZES, Case, Contender, Round, path_to_file_system, run_case
from bench.peers import Absent
from bench.servers import Servers
from bench.workload import FIRST_PLACE, REST_MS, VISIT, Province, busy_day, people_for
from engine.clock import DAY_MS, MINUTE_MS
from engine.presence.visits import SCAN, EndRule, PlaceRules, VisitRules, derive
from engine.scans.rows import Direction

ROOT = Path(__file__).resolve().parents[2]

# Answers to the smoke parameters. One that changes without a change of workload or clips is a bug.
CHECKSUMS = {
    "jpeg": "35439b47efb77cb7",
    "decode": "942b6b95c81fdf88",
    "lanes": "e1e550e3daf16534",
    "parse": "33fe1e19d72f71df",
    "parse_1405": "04ab8a87a15b4ca1",
    "parse_alone": "04ab8a87a15b4ca1",
    "parse_unknown": "8fb601165b5ab2dd",
    "records": "dcd36498c96921ff",
    "dedup": "691ba91dd9aa9307",
    "gateway": "204d1bd4d9b72d8d",
    "receive": "aca8a02f7e679a4a",
    "receive_1": "9307507d95e52ec7",
    "ingest": "867ae3e5e2b4e6e0",
    "ingest_cards": "9095342fd75726eb",
    "ingest_cards_1": "da7faae36ee7ca14",
    "commit": "e10364f0339e7f29",
    "commit_100": "e10364f0339e7f29",
    "commit_1": "660b53b899e15624",
    "index": "33a986caddfb05cf",
    "trace": "34c30ad0b3818dc2",
    "contacts": "f3ef1064e6d6f7ee",
}


def run_bench(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_receipts_are_all_there_in_every_setting(tmp_path: Path) -> None:
    done = run_bench("receipt", "--scans", "6400", "--seconds", "0.5", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert [setting["rows"] for setting in line["settings"].values()] == [3200] * 4
    idle, busy, bare, interpreter = line["settings"].values()
    assert idle["turns_s"] == 0 < min(each["turns_s"] for each in (busy, bare, interpreter))
    for setting in line["settings"].values():
        assert 0 < setting["p50_ms"] <= setting["p99_ms"] <= setting["p100_ms"]


def test_each_question_is_timed_and_tiers_are_the_same_both_ways(tmp_path: Path) -> None:
    done = run_bench(
        "questions", "--visits", "6000", "--days", "3", "--reps", "3", "--heavy", "2",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["wrong"] is False and line["visits"] > 3000 and line["csv_rows_s"] > 0
    asked = {name.split()[0] for name in line["us"]}
    assert asked == {"Q1", "Q2", "Q3", "Q4", "Q5", "Q6", "Q7", "Q8", "Q9", "Q12"}
    assert all(0 < p50 <= p99 for p50, p99 in line["us"].values())


def test_growth_answers_rightly_and_says_how_the_last_part_was(tmp_path: Path) -> None:
    done = run_bench("growth", "--visits", "8000", "--days", "4", "--group", "200", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["wrong"] == 0 and abs(line["visits"] - 8000) < 800
    assert len(line["scans_s"]) == len(line["cpu_us"]) >= 9
    ratio = line["scans_s"][-1] / line["scans_s"][0]
    assert line["last_to_first"] == pytest.approx(ratio, abs=0.02)
    for name in ("venue_us", "history_us", "contacts_us"):
        assert 0 < line[name][0] <= line[name][1]


def test_a_restart_answers_rightly_and_says_what_it_took(tmp_path: Path) -> None:
    few = ("--visits", "8000", "--days", "4", "--people", "3000", "--group", "500")
    few += ("--memory", "3000", "--left", "900")
    done = run_bench("restart", *few, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["wrong"] == 0 and line["segments"] >= 4
    assert "day 4 of 4: 8," in done.stderr or "day 4 of 4: 7," in done.stderr
    assert 0 < line["replayed_groups"] <= 6
    assert 26 < line["index_bytes_a_visit"] < 80  # pages of small files weigh
    for name in ("venue_us", "history_us", "contacts_us"):
        assert 0 < line[name][0] <= line[name][1]


def test_questions_over_http_are_answered_rightly_beside_checkins(tmp_path: Path) -> None:
    done = run_bench("answers", "--checkins", "600", "--seconds", "2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["rows"] == line["checkins"] > 600 and line["answers_checked"] == 63
    assert line["questions_failed"] == 0 == len(line["wrong"])
    assert 0 <= line["contacts_p50"] <= line["contacts_p99"]
    for question in ("venue", "person", "contacts"):
        assert line[f"{question}_questions"] > 0
        assert 0 < line[f"{question}_question_p50_ms"] <= line[f"{question}_question_p99_ms"]


def test_a_backlog_and_checkins_are_stored_once_beside_lanes(tmp_path: Path) -> None:
    few = ("--clip-frames", "5")
    done = run_bench("backlog", "--scans", "700", *few, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["rows"] == line["scans"] == line["verdicts_of_backlog"] == 700
    assert line["frame_settleds"] > 0 < line["took_s"]

    done = run_bench("verdicts", "--checkins", "640", "--seconds", "2", *few, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["rows"] == line["checkins"] == 1280
    assert line["receipts"] == 20 and line["frames"] == 90
    assert 0 < line["receipt_p50_ms"] <= line["receipt_p99_ms"] <= line["receipt_p100_ms"]


# ---- the cases ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What smoke prints, by case; the run must have gone well."""
    done = run_bench("smoke", folder=tmp_path_factory.mktemp("bench"))
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["case"]: line for line in found}


def test_smoke_has_every_case_and_right_answers(lines: dict[str, dict]) -> None:
    assert list(lines) == list(command.CASES)
    for name, line in lines.items():
        assert line["wrong"] == []
        assert line["checksum"] == CHECKSUMS[name], "the answer to the same seed has changed"
        strict = [peer for peer in line["peers"].values() if "missed" not in peer]
        assert {peer["checksum"] for peer in strict} == {line["checksum"]}
        for peer in line["peers"].values():
            assert peer.get("missed", 0) <= line["n"] and not peer.get("wrong_answers")


def test_a_line_says_what_its_figures_belong_to(lines: dict[str, dict]) -> None:
    for line in lines.values():
        assert 0 < line["min_ns"] <= line["median_ns"]
        assert line["thread_cpu_ns"] > 0 and line["process_cpu_ns"] > 0
        assert line["n"] > 0 and line["unit"]
        assert line["ratios"].keys() == line["cpu_ratios"].keys() == line["peers"].keys() != set()
        assert not line["skipped"].keys() & line["peers"].keys()
        assert all(line["skipped"].values()), "a peer is skipped with a reason"
        for name, peer in line["peers"].items():
            assert peer["note"] and peer["min_ns"] > 0 and line["ratios"][name] > 0
        is_commit = line["case"].startswith("commit")
        assert line["facts"], "what was worked on"
        assert list(line["over_floor"]) == ["pwrite+fdatasync"] * is_commit
        assert all(ratio > 0 for ratio in line["over_floor"].values())
        assert not is_commit or min(line["facts"]["floor_ns"], line["facts"]["commit_ns"]) > 0
        assert line["machine"]["native"] in ("scalar", "avx2", "neon")
        assert line["machine"]["cores"] >= 1 and line["machine"]["cpu"]
        assert line["commit"] and len(line["load_average"]) == 3
        assert line["versions"].keys() >= {"chot", "python", "numpy", "lmdb", "zxing-cpp"}


def test_documentation_names_every_key_of_a_line(lines: dict[str, dict]) -> None:
    text = (ROOT / "bench/README.md").read_text(encoding="utf-8")
    for line in lines.values():
        for key in line:
            assert f"`{key}`" in text, key


def test_output_shown_in_the_documentation_is_of_today(lines: dict[str, dict]) -> None:
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    shown = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.M | re.S)]
    assert shown
    for line in shown:
        assert not line["wrong"]
        assert line.keys() == lines[line["case"]].keys()
        today = lines[line["case"]]
        named = today["peers"].keys() | today["skipped"].keys()
        assert line["peers"].keys() | line["skipped"].keys() == named


def test_list_names_every_case(tmp_path: Path) -> None:
    done = run_bench("list", folder=tmp_path)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        *command.CASES,
        *command.TRIALS,
    ]


def test_every_case_has_every_size() -> None:
    for case in command.CASES.values():
        assert set(case.params) == set(SIZES)
        assert all(params["repetitions"] >= 2 for params in case.params.values())


def test_one_name_stands_for_every_size_of_group() -> None:
    assert command._with_sizes(["commit", "commit_1", "lanes"]) == [
        *["commit", "commit_100", "commit_1"],
        "lanes",
    ]
    assert command._with_sizes(["commit_1"]) == ["commit_1"]


def test_own_frames_can_be_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = (ROOT / "tests/data/lanes/lane1.mjpeg").read_bytes()
    (tmp_path / "one.jpg").write_bytes(clip[: clip.index(b"\xff\xd9") + 2])
    assert command.main(["run", "decode", "--data", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 1


# ---- errors of use ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "list|run|smoke"),
        (["walk"], "walk"),
        (["run"], "NAME"),
        (["run", "nothing"], ", ".join(command.CASES)),
        (["run", "decode", "--data", "/nowhere/at/all"], "no folder"),
        (["run", "decode", "--data", str(ROOT / "bench")], "no .jpg"),
        (["run", "commit", "--data", "."], "takes no --data"),
        (["smoke", "--large"], "--large"),
    ],
)
def test_an_error_of_use_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(words)
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert not captured.out
    assert captured.err.count("\n") == 1 and said in captured.err


# ---- the harness --------------------------------------------------------------------------------


class Fake(Contender):
    def __init__(self, name: str, answer: bytes, log: list[tuple[str, int]]) -> None:
        self.name = name
        self._answer = answer
        self.log = log

    def work(self, repetition: int) -> None:
        self.log.append((self.name, repetition))

    def answer(self) -> bytes:
        return self._answer

    def close(self) -> None:
        self.log.append((self.name, -1))


def fake_case(
    answers: list[bytes], expected: bytes | None, log: list[tuple[str, int]] | None = None
) -> Case:
    shared = [] if log is None else log
    contenders: list[Contender] = [Fake(f"c{i}", a, shared) for i, a in enumerate(answers)]
    params = {size: {"repetitions": 3} for size in SIZES}
    return Case("fake", "nothing", "turn", params, lambda p, d: Round(contenders, 1, expected))


@pytest.mark.parametrize(
    ("answers", "expected", "wrong"),
    [
        ([b"a", b"a"], None, []),
        ([b"a", b"a"], b"a", []),
        ([b"a", b"b"], None, ["c1"]),
        ([b"b", b"a"], b"a", ["c0"]),
        ([b"b", b"b"], b"a", ["c0", "c1"]),
    ],
)
def test_a_wrong_answer_is_named_and_fails_the_run(
    answers: list[bytes],
    expected: bytes | None,
    wrong: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "CASES", {"fake": fake_case(answers, expected)})
    assert command.main(["run", "fake"]) == (1 if wrong else 0)
    captured = capsys.readouterr()
    line = json.loads(captured.out)
    assert [sentence.split()[0] for sentence in line["wrong"]] == wrong
    assert captured.err.count("WRONG") == len(wrong)


def test_contenders_take_turns_and_are_closed() -> None:
    log: list[tuple[str, int]] = []
    run_case(fake_case([b"a", b"a"], None, log), "smoke")
    assert log[:2] == [("c0", 0), ("c1", 0)], "one turn to warm up"
    assert log[2:8] == [("c1", 1), ("c0", 1), ("c0", 2), ("c1", 2), ("c1", 3), ("c0", 3)]
    assert sorted(log[8:]) == [("c0", -1), ("c1", -1)]


def test_file_system_of_a_path() -> None:
    assert path_to_file_system(Path("/proc/self")) == "proc"


# ---- peers --------------------------------------------------------------------------------------


class Missing(Fake):
    may_miss = True

    def shortfall(self) -> tuple[int, list[str]]:
        return 2, ["a text of nobody"]


def test_what_a_peer_misses_is_counted_and_not_wrong() -> None:
    contenders = [Fake("ours", b"a", []), Missing("peer", b"b", [])]
    params = {size: {"repetitions": 2} for size in SIZES}
    case = Case("fake", "nothing", "turn", params, lambda p, d: Round(contenders, 1, b"a"))
    line = run_case(case, "smoke")
    assert line["wrong"] == []
    assert line["peers"]["peer"]["missed"] == 2
    assert line["peers"]["peer"]["wrong_answers"] == ["a text of nobody"]


def test_codes_are_missed_and_invented_lane_by_lane() -> None:
    truth = [[b"a", b"b"], [b"c"]]
    assert compare([[b"a", b"b", b"a"], [b"c"]], truth) == (0, [])
    assert compare([[b"a"], [b"b", b"c"]], truth) == (1, ["b"])


def test_who_is_absent_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr("shutil.which", lambda tool: None)
    contenders, skipped = peers.invite({"one": lambda: 1, "opencv": decoders.opencv})
    assert contenders == [1]
    assert skipped == {"opencv": "cv2 is not installed (pip install .[bench])"}
    with Servers() as servers, pytest.raises(Absent, match="--servers"):
        servers.postgres()
    with Servers(is_wanted=True) as servers, pytest.raises(Absent, match=r"not installed|no Redis"):
        servers.redis()


def test_servers_are_started_asked_and_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where Debian's servers and the clients of the extra are."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with Servers(is_wanted=True) as servers:
        try:
            servers.redis(), servers.postgres()
        except Absent as reason:
            pytest.skip(reason=str(reason))
        for name in ("commit_1", "contacts"):
            line = run_case(command.CASES[name], "smoke", servers=servers)
            assert line["wrong"] == [] and not line["skipped"].keys() & {"postgresql", "redis"}
            assert line["peers"]["redis"]["checksum"] == CHECKSUMS[name]
            assert line["peers"]["postgresql"]["checksum"] == CHECKSUMS[name]
            assert "redis" not in line["cpu_ratios"], "its work is not in this process"
        running, folder = [process for process, _ in servers._running], servers._folder
    assert len(running) == 2 and all(process.poll() is not None for process in running)
    assert folder is not None and not folder.exists()


# ---- the workload -------------------------------------------------------------------------------


@pytest.mark.parametrize(("people", "seed"), [(10, 1), (500, 2), (6000, 3)])
def test_a_day_keeps_its_promises(people: int, seed: int) -> None:
    province = Province(people, seed)
    days = [province.day(index) for index in range(3)]
    assert all((np.diff(day["start_ms"]) >= 0).all() for day in days)
    visits = np.concatenate(days)
    assert visits["person"].max() < people
    assert visits["place"].min() >= FIRST_PLACE
    assert visits["place"].max() < FIRST_PLACE + province.venues
    assert len(np.unique(province.keys)) == people
    stay_ms = visits["end_ms"] - visits["start_ms"]
    assert stay_ms.min() >= MINUTE_MS and stay_ms.max() < DAY_MS
    visits = visits[np.lexsort((visits["start_ms"], visits["person"]))]
    rest_ms = visits["start_ms"][1:] - visits["end_ms"][:-1]
    assert rest_ms[visits["person"][1:] == visits["person"][:-1]].min() >= REST_MS


def test_the_seed_decides_everything() -> None:
    def digest(seed: int) -> str:
        province, visits = busy_day(2000, seed)
        return hashlib.sha256(visits.tobytes() + province.rows(visits).tobytes()).hexdigest()[:16]

    assert digest(5) == digest(5)
    assert digest(5) != digest(6)
    assert digest(20210701) == "4d4e0c16fa53d28c"


@pytest.mark.parametrize("visits", [2_000, 20_000])
def test_a_day_is_about_as_large_as_asked_for(visits: int) -> None:
    assert 0.85 < len(Province(people_for(visits), 4).day(0)) / visits < 1.15


def test_venues_are_unequal_and_families_go_together() -> None:
    _, visits = busy_day(20_000, 7)
    busy = np.sort(np.bincount(visits["place"] - FIRST_PLACE))[::-1]
    assert busy[: len(busy) // 100].sum() > 5 * len(visits) / 100
    order = np.lexsort((visits["start_ms"], visits["place"]))
    near = visits[order]
    same = near["place"][1:] == near["place"][:-1]
    assert (np.diff(near["start_ms"])[same] < 20_000).mean() > 0.25


def test_rows_give_back_the_true_visits() -> None:
    province, visits = busy_day(3000, 8)
    rows = province.rows(visits)
    assert len(rows) == 2 * len(visits)
    assert (np.diff(rows["time_ms"]) < 0).any(), "some arrive late"
    assert (rows["direction"] == Direction.IN).sum() == len(visits)
    numbers = {key: n for n, key in enumerate(province.keys.tolist())}
    scans = np.zeros(len(rows), SCAN)
    for name in ("time_ms", "place", "lane", "direction", "kind"):
        scans[name] = rows[name]
    scans["person"] = [numbers[key] for key in rows["person"].tolist()]
    scans["ref"] = np.arange(len(rows))
    derived = derive(scans, PlaceRules({}), VisitRules())
    assert set(derived["rule"].tolist()) == {EndRule.OBSERVED}
    found = np.zeros(len(derived), VISIT)
    for name in VISIT.names or ():
        found[name] = derived[name]
    assert sorted(found.tolist()) == sorted(visits.tolist())
