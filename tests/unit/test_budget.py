"""The budget: stages of a frame and of a scan, and the symbols that bound a JPEG."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

import bench.__main__ as command
from bench import budget, report, results
from bench.floors import Floors, count_symbols
from bench.harness import run_trial


def to_jpeg(pixels: np.ndarray, quality: int = 80) -> bytes:
    return simplejpeg.encode_jpeg(
        pixels, quality=quality, colorspace="GRAY", colorsubsampling="Gray"
    )


def test_symbols_of_a_flat_plane_are_two_a_block() -> None:
    grey = np.full((48, 64, 1), 128, np.uint8)
    assert count_symbols(to_jpeg(grey)) == 2 * 6 * 8
    colours = np.full((48, 64, 3), 128, np.uint8)
    found = simplejpeg.encode_jpeg(colours, colorspace="RGB", colorsubsampling="420")
    assert count_symbols(found) == 2 * (6 * 8 + 2 * 3 * 4)


def test_symbols_of_a_wave_are_those_of_its_coefficients() -> None:
    """A wave along each row is one coefficient a block: its symbol beside those of every block."""
    wave = 60 * np.cos((2 * np.arange(8) + 1) * 3 * np.pi / 16)  # the third
    rows = np.tile(wave, (48, 8)) + 128
    plane = np.round(rows).astype(np.uint8)[:, :, None]
    assert count_symbols(to_jpeg(plane, quality=30)) == 3 * 6 * 8


def test_what_is_no_baseline_jpeg_is_an_error() -> None:
    with pytest.raises(ValueError, match="marker"):
        count_symbols(b"\xff\xd8 no image")


def test_floors_grow_with_the_work(tmp_path: Path) -> None:
    floors = Floors(tmp_path)
    assert 0 < floors.symbol_ns(1 << 16) < 1000
    assert 0 < floors.read_ns(1 << 16) < floors.read_ns(1 << 22)
    assert floors.system_call_ns(1000) > 0
    assert 0 < floors.message_ns(1 << 10) < floors.message_ns(1 << 18)


def test_stages_are_measured_and_written_to_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = run_trial(budget.TRIAL, "smoke")
    assert line["wrong"] == []
    figures = line["figures"]
    for stages in (figures["frame"], figures["scan"]):
        assert len(stages) >= 5
        for stage in stages:
            assert stage["ns"] >= 0 and stage["light"] and (stage["light_ns"] or 1) > 0
    assert figures["frame_facts"]["codes_read"] > 0 and figures["scan_facts"]["cpu_ns"] > 0
    assert min(figures["floors"].values()) > 0
    results.keep(line | {"size": "large"}, tmp_path)
    page = report.budget(report.read(tmp_path))
    assert "**A frame** of 640 × 360" in page and "| JPEG: Huffman |" in page
    assert page.count("| stage | ours | light | times | bound by |") == 2
    assert report.command_of("budget", line) == "python -m bench budget"


def test_the_command_prints_tables_and_the_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {
        "frame": [budget.stage("a stage", 10.0, 5.0, "words")],
        "scan": [budget.stage("another", 7.0, None, "arithmetic")],
        "frame_facts": dict.fromkeys(
            ("width", "height", "frames", "codes_placed", "codes_read", "bytes_a_frame",
             "jpeg_ns", "lane_ns", "held_ns"), 1,
        ),
        "scan_facts": dict.fromkeys(("cpu_ns", "wall_ns", "group", "commit_ns"), 1),
    }  # fmt: skip
    line = {"case": "budget", "wrong": [], "figures": figures}
    monkeypatch.setattr(budget, "run_trial", lambda trial, size: line)
    assert command.main(["budget", "--quick"]) == 0
    out = capsys.readouterr().out
    assert "| a stage | 10 ns | 5 ns | 2 | words |" in out
    assert "| another | 7 ns |  |  | arithmetic |" in out
    assert json.loads(out.splitlines()[-1]) == line
    monkeypatch.setattr(budget, "run_trial", lambda trial, size: line | {"wrong": ["no compiler"]})
    assert command.main(["budget"]) == 1
