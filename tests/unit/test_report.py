"""Reports: pages say what the kept results say, and nobody writes them by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bench.__main__ as command
from bench import plots, report, results
from bench.harness import UsageError, run_case
from bench.tables import of_ns

ROOT = Path(__file__).resolve().parents[2]
PAGE = "# A page\n\n<!-- bench: {} -->\nold\n<!-- end -->\n\nBelow.\n"


@pytest.fixture(scope="module")
def lines() -> dict[str, dict[str, Any]]:
    """A real line of a case, and one of a trial."""
    case = run_case(command.CASES["records"], "smoke")
    steps = [
        {"lanes": n, "frames": 15 * n, "dropped": 0, "verdict_p50_ms": 3.0, "verdict_p99_ms": p99,
         "frame_settled_p99_ms": 9.0, "core": n / 64}
        for n, p99 in ((64, 200.0), (32, 12.5))
    ]  # fmt: skip
    lanes = {
        "lanes": 32, "frames_s": 480, "steps": steps, "verdict_p50_ms": 3.0, "verdict_p99_ms": 12.5,
    }  # fmt: skip
    rest = {key: case[key] for key in ("machine", "versions", "commit", "load_average")}
    trial = {"case": "core_lanes", "size": "large", "wrong": [], "figures": lanes, **rest}
    return {"records": case | {"size": "small"}, "core_lanes": trial}


@pytest.fixture
def folder(tmp_path: Path, lines: dict[str, dict[str, Any]]) -> Path:
    made = tmp_path / "results"
    for line in lines.values():
        results.keep(line, made)
    return made


def page_of(tmp_path: Path, block: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(block), encoding="utf-8")
    return page


# ---- results ------------------------------------------------------------------------------------


def test_a_kept_line_has_its_date_and_a_wrong_one_is_not_kept(
    tmp_path: Path, lines: dict[str, dict[str, Any]]
) -> None:
    results.keep(lines["records"], tmp_path)
    results.keep(lines["records"] | {"wrong": ["x"]}, tmp_path)
    results.keep({"bench": "growth", "visits": 1}, tmp_path)
    found = results.load(tmp_path)
    assert list(found) == ["growth", "records"] and len(found["records"]) == 1
    assert found["records"][0]["date"].count("-") == 2


def test_the_newest_line_of_the_largest_size_counts() -> None:
    small, large = {"size": "small"}, {"size": "large"}
    assert results.newest([large | {"n": 1}, large | {"n": 2}, small]) == large | {"n": 2}
    assert results.newest([small]) == small
    assert results.newest([{"size": "smoke"}]) is None
    assert results.newest([{"bench": "growth"}]) == {"bench": "growth"}


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_line_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"x\.jsonl, line 1"):
        results.load(tmp_path)


# ---- pages --------------------------------------------------------------------------------------


def test_a_block_is_written_anew_and_the_rest_is_left(folder: Path, tmp_path: Path) -> None:
    page, newest = page_of(tmp_path, "core_lanes"), report.read(folder)
    assert report.renew(page, newest, is_checked=True)
    assert "old" in page.read_text(encoding="utf-8"), "a check changes nothing"
    assert report.renew(page, newest)
    text = page.read_text(encoding="utf-8")
    assert "**32 lanes** (480 frames/s) on one core" in text and "old" not in text
    assert text.index("| 32 | 480 | 0 | 3.0 | 12.5 |") < text.index("| 64 | 960 |")
    assert text.startswith("# A page") and text.endswith("<!-- end -->\n\nBelow.\n")
    assert not report.renew(page, newest), "twice is the same"


def test_a_block_without_results_stays(folder: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path, "day")
    assert not report.renew(page, report.read(folder))
    with pytest.raises(UsageError, match="no block 'nothing'"):
        report.renew(page_of(tmp_path, "nothing"), report.read(folder))


def test_tables_hold_what_the_lines_say(folder: Path, lines: dict[str, dict[str, Any]]) -> None:
    newest = report.read(folder)
    records = lines["records"]
    ratio = f"{records['ratios']['msgspec']:.3g}"
    assert f"| msgspec | {of_ns(records['peers']['msgspec']['median_ns'])} | {ratio} |" in (
        report.cases(newest)
    )
    assert "`python -m bench run core_lanes --large`" in report.runs(newest)
    assert f"commit {records['commit']}" in report.core_lanes(newest)
    headline = report.headline(newest)
    assert "| **lanes of 15 frames/s, 720p JPEG, on one core**, verdict p99" in headline
    assert f"| msgspec {ratio} |" in headline
    for block in report.BLOCKS.values():
        assert block({}) == ""


def test_pages_are_what_the_kept_results_say() -> None:
    assert command.main(["report", "--check"]) == 0
    marks = "".join((ROOT / name).read_text(encoding="utf-8") for name in report.PAGES)
    assert all(f"<!-- bench: {name} -->" in marks for name in report.BLOCKS)


def test_the_goals_of_the_reader_are_written_as_they_are_printed(tmp_path: Path) -> None:
    row = {
        "what": "lanes",
        "goal": "12x",
        "cells": {"chot": "13x", "zxing": "1 µs"},
        "is_met": True,
    }
    rest = {"machine": {"cpu": "x", "cores": 1, "native": "avx2"}, "commit": "c"}
    conditions = [["plain", "240", "944 µs", "17x", "78 %", "79 %", "1/1/1", "0", "0"]]
    line = {"bench": "qr", "rows": {"lane": row}, "conditions": conditions, **rest}
    results.keep(line | {"load_average": [0.1]}, tmp_path)
    made = report.qr(report.read(tmp_path))
    assert "| lane | lanes | 12x | 13x | 1 µs |  |  | yes |" in made
    assert "| plain | 240 | 944 µs | 17x |" in made


def test_the_line_of_a_case_is_shown_as_json(folder: Path) -> None:
    records = report.read(folder)["records"]
    made = report.line({"commit": records})
    shown = json.loads(made.removeprefix("```json\n").removesuffix("\n```"))
    assert shown == {key: value for key, value in records.items() if key != "date"}
    assert made.count("\n") == len(shown) + 3


def test_nanoseconds_are_said_in_the_unit_that_fits() -> None:
    said = {5: "5 ns", 1234: "1.23 µs", 5.6e6: "5.6 ms", 2e9: "2 s"}
    assert {ns: of_ns(ns) for ns in said} == said


# ---- pictures -----------------------------------------------------------------------------------


def test_pictures_are_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is of the bench extra")
    newest = report.read(folder)
    for name in ("one", "two"):
        told = list(plots.draw(newest, tmp_path / name))
        assert told[:2] == ["ratios.svg: written", "core_lanes.svg: written"]
        assert told[2] == "day.svg: no run of it is kept"
    for picture in (tmp_path / "one").iterdir():
        assert picture.read_bytes() == (tmp_path / "two" / picture.name).read_bytes()
        assert picture.stat().st_size < 60_000


def test_without_matplotlib_that_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (told,) = plots.draw(report.read(folder), tmp_path / "none")
    assert "matplotlib is not installed" in told and not (tmp_path / "none").exists()


def test_a_result_can_be_read_as_json_lines(folder: Path) -> None:
    for path in folder.iterdir():
        assert [json.loads(line)["case"] for line in path.open(encoding="utf-8")] == [path.stem]
