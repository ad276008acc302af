"""Made lane clips show what their truth says; scores of QR readers count what they claim."""

from __future__ import annotations

import csv
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import segno
import zxingcpp

import bench.__main__ as command
from bench import clips, texts
from bench.decoders import Door, Reading, door, measure
from bench.qr import ROWS
from bench.qr_score import passages_of, score
from bench.qr_sets import Shot, Text, add_cut, from_folder
from bench.qr_table import Measured, Part, errors_of, passage_counts
from engine import payloads
from engine.clock import date_to_day

SMALL = {"frames": 24, "width": 640, "height": 360}


# ---- texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", texts.KINDS)
def test_a_twin_differs_in_one_character(kind: str) -> None:
    r = random.Random(kind)
    for _ in range(50):
        one = texts.make(kind, r)
        other = texts.twin(kind, one, r)
        assert len(one) == len(other)
        assert sum(a != b for a, b in zip(one, other, strict=True)) == 1


@pytest.mark.parametrize(("kind", "name"), [("card", "vn.cccd"), ("1405", "vn.qr1405")])
def test_made_persons_are_payloads_of_their_kind(kind: str, name: str) -> None:
    r = random.Random(kind)
    for _ in range(50):
        payload = texts.make(kind, r)
        assert b"999" in payload
        outcome = payloads.parse(payload, today_day=date_to_day("2021-07-01"))
        assert isinstance(outcome, payloads.Parsed) and outcome.type == name


def test_certificates_are_dense() -> None:
    r = random.Random(5)
    versions = set()
    for _ in range(15):
        content = texts.make("dense", r).decode()
        code = segno.make(content, error="q", micro=False, boost_error=False)
        assert code.mode == "alphanumeric"
        versions.add(code.version)
    assert versions == {16, 17, 18}


# ---- clips --------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", clips.CONDITIONS)
def test_a_clip_is_as_its_condition_says(condition: str) -> None:
    frames = list(clips.film(11, condition, **SMALL))
    assert len(frames) == SMALL["frames"]
    assert {frame.luma.shape for frame in frames} == {(360, 640)}
    assert sum(frame.state == "empty" for frame in frames) >= 0.3 * len(frames)
    shown = [s for frame in frames for s in frame.shown]
    assert shown and {s.kind for s in shown} <= set(clips.CONDITIONS[condition].kinds)
    told = {s.passage: s.text for s in shown}
    assert len(set(told.values())) == len(told), "one text a passage"
    for s in shown:
        inside = (s.corners >= 2).all() and (s.corners <= (638, 358)).all()
        assert inside or s.state == "partial"
    if condition == "two":
        assert max(len(frame.shown) for frame in frames) == 2
    if condition == "small":
        assert all(s.module_px < 3.3 for s in shown)


def test_the_seed_decides_the_clip() -> None:
    def pixels(seed: int) -> bytes:
        return b"".join(
            f.luma.tobytes() for f in clips.film(seed, frames=15, width=320, height=180)
        )

    assert pixels(3) == pixels(3)
    assert pixels(3) != pixels(4)


def test_a_swap_in_place_changes_one_character() -> None:
    frames = list(clips.film(21, "swap", **SMALL))
    swaps = [
        (a.shown[0], b.shown[0])
        for a, b in itertools.pairwise(frames)
        if a.shown and b.shown and a.shown[0].passage != b.shown[0].passage
    ]
    assert len(swaps) == 1
    before, after = swaps[0]
    assert sum(a != b for a, b in zip(before.text, after.text, strict=True)) == 1
    assert np.abs(before.corners - after.corners).max() < 25


@pytest.mark.parametrize("kind", ["token", "card", "dense"])
def test_a_held_code_moves_by_one_to_three_pixels_and_can_be_read(kind: str) -> None:
    frames = list(clips.hold(4, kind, frames=5))
    middles = [frame.shown[0].corners.mean(axis=0) for frame in frames]
    steps = [np.linalg.norm(b - a) for a, b in itertools.pairwise(middles)]
    assert min(steps) > 0.5 and max(steps) < 5
    for frame in frames:
        (code,) = zxingcpp.read_barcodes(frame.luma, formats=zxingcpp.BarcodeFormat.QRCode)
        assert code.bytes == frame.shown[0].text
        # The truth of corners and orientation is the symbol's own.
        p = code.position
        spots = [(q.x, q.y) for q in (p.top_left, p.top_right, p.bottom_right, p.bottom_left)]
        assert np.abs(np.array(spots) - frame.shown[0].corners).max() < 6


def test_written_clips_can_be_measured(tmp_path: Path) -> None:
    assert clips.main([str(tmp_path), "--seed", "2", "--frames", "15"]) == 0
    with (tmp_path / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    (lane,) = from_folder(tmp_path, 1).lanes
    shots = lane.load()
    assert [shot.name for shot in shots] == [row["file"] for row in rows]
    assert sum(shot.is_empty for shot in shots) == sum(r["frame_state"] == "empty" for r in rows)


# ---- scores -------------------------------------------------------------------------------------

BLANK = np.zeros((1, 1), np.uint8)
A, B = b"one", b"two"


def shot(known: list[bytes] | None, *passages: str) -> Shot:
    told = None if known is None else [Text(content) for content in known]
    return Shot("frame", BLANK, None, told, [], list(passages))


# Empty, A cut by the edge, A, A, B in its place, B, empty.
CLIP = [
    shot([]), shot(None, "1"), shot([A], "1"), shot([A], "1"),
    shot([B], "2"), shot([B], "2"), shot([]),
]  # fmt: skip


def reading(*found: list[bytes], name: str = "reader") -> Reading:
    return Reading(name, np.full(len(found), 1000), list(found))


def test_passages_begin_with_their_first_whole_frame() -> None:
    found = passages_of(add_cut(list(CLIP)))
    assert [(p.name, p.frames, p.whole_from) for p in found] == [
        ("1", [1, 2, 3], 2),
        ("2", [4, 5], 4),
    ]


def test_a_good_reader() -> None:
    made = score(add_cut(list(CLIP)), reading([], [A], [], [A], [], [B], []))
    assert made.hit == [None, None, False, True, False, True, None]
    assert not any(made.stale) and not any(made.wrong)
    assert made.first == {"1": 0, "2": 1}


def test_a_reader_that_repeats_the_last_text_is_found_out() -> None:
    made = score(add_cut(list(CLIP)), reading([], [], [A], [A], [A], [B], [B]))
    assert made.stale == [False, False, False, False, True, False, True]
    assert [bool(contents) for contents in made.wrong] == made.stale
    measured = Measured(
        "clip", "lane", add_cut(list(CLIP)), {"zxing": reading([], [], [A], [A], [A], [B], [B])}
    )
    assert {k: len(v) for k, v in errors_of([measured], "zxing").items()} == {
        "stale": 1, "wrong": 0, "empty": 1,
    }  # fmt: skip


def test_what_is_nobodys_text_is_wrong_but_not_stale() -> None:
    made = score(add_cut(list(CLIP)), reading([], [b"x"], [A, b"y"], [A], [B], [B], []))
    assert made.wrong == [[], [b"x"], [b"y"], [], [], [], []]
    assert not any(made.stale)
    assert made.hit[2] is True


def test_unknown_contents_are_neither_hit_nor_wrong() -> None:
    made = score([shot(None)], reading([b"anything"]))
    assert made.hit == [None] and made.wrong == [[]] and made.stale == [False]


def test_lost_later_and_invented() -> None:
    theirs = reading([], [], [A], [A], [B], [B], [], name="zxing")
    mine = reading([], [], [], [A], [], [b"z"], [], name="mine")
    m = Measured("clip", "lane", add_cut(list(CLIP)), {"zxing": theirs, "mine": mine})
    counts = passage_counts([m], "mine")
    assert (counts["known"], counts["zxing"], counts["read"]) == (2, 2, 1)
    assert counts["lost"] == ["clip: passage 2"] and counts["later"] == [
        "clip: passage 1, 1 frames"
    ]
    part = Part.of([m])
    assert part.hits("mine") == (1, 4) and part.hits("zxing") == (4, 4)
    assert [len(each) for each in part.texts_lost_won("mine")] == [3, 0]
    assert len(part.invented("mine")) == 1 and part.invented("zxing") == []


def test_texts_match_in_any_charset_and_line_end() -> None:
    text = Text("Xin chào\r\nVũ")
    assert "Xin chào\nVũ".encode() in text
    assert "Xin chào\r\nVũ\n".encode() in text
    assert b"Xin chao\nVu" not in text
    assert "テスト".encode("shift_jis") in Text("テスト")


def test_readers_take_turns_and_lanes_begin_anew() -> None:
    log: list[str] = []

    def new(name: str) -> Door:
        def begin():
            log.append(f"new {name}")
            return lambda frame: log.append(f"{name}{frame}") or [b"x"]

        return Door(name, begin)

    readings = measure([new("a"), new("b")], [0, 1], 2)
    assert log[:6] == ["new a", "new b", "a0", "b0", "b1", "a1"]
    assert log[6:] == ["new a", "new b", "b0", "a0", "a1", "b1"]
    assert [r.found for r in readings] == [[[b"x"], [b"x"]]] * 2
    assert all((r.ns > 0).all() for r in readings)


# ---- the table ----------------------------------------------------------------------------------

TINY = ["--rounds", "0.2", "--frames", "15", "--reps", "1", "--size", "640x360"]


def test_the_table_has_every_goal(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["qr", *TINY]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    table = [line.split("|")[1].strip() for line in lines[2 : 2 + len(ROWS)]]
    assert table == list(ROWS)
    line = json.loads(lines[-1])
    assert list(line["rows"]) == list(ROWS)
    for name, row in line["rows"].items():
        assert row["goal"] and row["cells"]["chot"], name
        is_measured = "skipped" not in row and "busy machine" not in row["cells"]["chot"]
        assert (row["is_met"] is not None) == is_measured
    assert line["rows"]["wrong"]["is_met"] and line["rows"]["invented"]["is_met"]
    assert not captured.err


def test_a_missing_door_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.qr.door", lambda name: None if name == "LaneReader" else door(name))
    assert command.main(["qr", *TINY, "--only", "lane", "--only", "two", "--only", "stills"]) == 0
    out = capsys.readouterr().out
    assert out.count("no LaneReader in this engine |") == 2
    assert "x |" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "nothing"], "lane, hits"),
        (["--data", "/nowhere/at/all"], "no folder"),
        (["--data", str(Path(clips.__file__).parent)], "manifest.csv"),
        (["--size", "large"], "1280x720"),
        (["--frames", "3"], "15 or more"),
        (["--keep", "--only", "lane"], "every row"),
    ],
)
def test_an_error_of_use_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["qr", *words])
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.err.count("\n") == 1 and said in captured.err
