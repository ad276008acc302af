"""The lane reader on clips it has never seen: nothing stale, nothing invented, nobody lost.

What it returns must come from the very frame it was given. The clips are made here from seeds
(bench.clips), so that no reader can be built for them; under `full` there are many more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

from bench import clips, texts
from bench.decoders import Reading, read_all
from bench.qr_score import Score, score
from bench.qr_sets import Shot, frames_to_shots
from engine.decoding.decode import JpegLaneReader, LaneReader

# Rows are eight apart and alternate, so cores of a few pixels may be met by the next frame only;
# and motion smears one frame for one reader and another for the other: 4 passages in MANY clips.
LATE_MAX_MANY = 2

FEW = [
    ("plain", 501), ("plain", 502), ("dim", 503), ("blur", 504), ("small", 505), ("swap", 506),
    ("swap", 507), ("two", 508), ("dark_mode", 509), ("curved", 510), ("dense", 511),
]  # fmt: skip
MANY = [(name, seed) for name in clips.CONDITIONS for seed in range(600, 612)]


def made(condition: str, seed: int, frames: int, width: int, height: int) -> list[Shot]:
    film = clips.film(seed, condition, frames=frames, width=width, height=height)
    return frames_to_shots(f"{condition}-{seed}", film)


@lru_cache(maxsize=len(FEW))
def small_clip(condition: str, seed: int) -> list[Shot]:
    return made(condition, seed, 24, *((960, 540) if condition == "dense" else (640, 360)))


def read(shots: list[Shot], reader: Callable[[np.ndarray], list[bytes]]) -> Score:
    found = [reader(shot.luma) for shot in shots]
    return score(shots, Reading("", np.zeros(len(shots), np.int64), found))


def check_honest(shots: list[Shot], marks: Score) -> None:
    """Nothing stale, nothing wrong, nothing on empty frames."""
    for shot, wrong, is_stale in zip(shots, marks.wrong, marks.stale, strict=True):
        assert not wrong and not is_stale, (shot.name, wrong)


def check_complete(marks: Score, theirs: Score, late_max: int = 0) -> None:
    """Every passage that zxing-cpp reads, `late_max` frames later at most."""
    late = {}
    for passage, first in theirs.first.items():
        mine = marks.first[passage]
        if first is not None and (mine is None or mine > first + late_max):
            late[passage] = (mine, first)
    assert not late, "passage: (read after, zxing-cpp after) frames"


@pytest.mark.parametrize(("condition", "seed"), FEW)
def test_nothing_is_read_that_the_frame_does_not_show(condition: str, seed: int) -> None:
    shots = small_clip(condition, seed)
    check_honest(shots, read(shots, LaneReader()))


@pytest.mark.parametrize(("condition", "seed"), FEW)
def test_no_passage_is_lost_or_later(condition: str, seed: int) -> None:
    shots = small_clip(condition, seed)
    check_complete(read(shots, LaneReader()), read(shots, read_all))


@pytest.mark.full
@pytest.mark.parametrize(("condition", "seed"), MANY)
def test_many_clips(condition: str, seed: int) -> None:
    shots = made(condition, seed, clips.FRAMES, clips.WIDTH, clips.HEIGHT)
    marks = read(shots, LaneReader())
    check_honest(shots, marks)
    check_complete(marks, read(shots, read_all), LATE_MAX_MANY)


def test_clips_in_a_row_with_one_reader() -> None:
    """The camera is moved: all it remembers is of another place."""
    reader = LaneReader()
    for condition, seed in [("plain", 501), ("dark_mode", 509), ("swap", 506), ("plain", 502)]:
        shots = small_clip(condition, seed)
        check_honest(shots, read(shots, reader))


def test_from_jpeg_bytes() -> None:
    for condition, seed in [("swap", 507), ("plain", 502)]:
        shots, reader = small_clip(condition, seed), JpegLaneReader()
        found = [reader(shot.jpeg or b"") for shot in shots]
        check_honest(shots, score(shots, Reading("", np.zeros(len(shots), np.int64), found)))


# ---- swaps in place -----------------------------------------------------------------------------


def pair(kind: str, seed: int, frames: int) -> tuple[list[clips.Frame], list[clips.Frame]]:
    """The same frames twice, with a code and with its twin: nothing else differs."""
    size = {"width": 640, "height": 360} if kind != "dense" else {"width": 960, "height": 540}
    return (
        list(clips.hold(seed, kind, frames=frames, **size)),
        list(clips.hold(seed, kind, frames=frames, twin_from=0, **size)),
    )


def check_swaps(kind: str, seed: int, order: str) -> None:
    """order: a letter a frame, A the code, B its twin, . neither (the scene as it is)."""
    one, other = pair(kind, seed, len(order))
    assert one[0].shown[0].text != other[0].shown[0].text
    reader = LaneReader()
    for n, letter in enumerate(order):
        frame = {"A": one, "B": other, ".": one}[letter][n]
        luma = frame.luma
        if letter == ".":
            luma = np.full_like(luma, 90)
        shown = [] if letter == "." else [frame.shown[0].text]
        # Every frame can be read: zxing-cpp reads them all.
        assert read_all(luma) == shown
        assert reader(luma) == shown, f"frame {n} of {order}"


@pytest.mark.parametrize("kind", texts.KINDS)
def test_a_swap_is_seen_in_the_very_next_frame(kind: str) -> None:
    check_swaps(kind, 31, "AAABBABAABB..BAA")


@pytest.mark.full
@pytest.mark.parametrize("kind", texts.KINDS)
@pytest.mark.parametrize("seed", range(40, 52))
def test_many_swaps(kind: str, seed: int) -> None:
    check_swaps(kind, seed, "AAABBBABAB.ABBA..AB")


@pytest.mark.parametrize("kind", ["token", "card", "1405"])
def test_a_covered_code_is_not_remembered(kind: str) -> None:
    """Evidence counts, not memory: what covers most of a code takes its text away."""
    frames = list(clips.hold(33, kind, frames=8, width=640, height=360))
    reader = LaneReader()
    for n, frame in enumerate(frames):
        luma = frame.luma.copy()
        if n >= 4:
            corners = frame.shown[0].corners
            middle = corners.mean(axis=0)
            # Everything but the three finder patterns: what a tracker holds on to stays in view.
            reach = 0.5 * np.abs(corners - middle).max()
            x, y = middle
            luma[int(y - reach) : int(y + reach), int(x - reach) : int(x + reach)] = 120
        assert read_all(luma) == ([frame.shown[0].text] if n < 4 else [])
        assert reader(luma) == ([frame.shown[0].text] if n < 4 else []), n


def test_every_order_of_two_people_and_none() -> None:
    """Frames of one code, its twin and no code, in any order: each is read for what it is."""
    one, other = pair("url", 35, 3)
    nothing = np.full_like(one[0].luma, 90)
    for order in itertools.product(range(3), repeat=4):
        reader = LaneReader()
        for n, which in enumerate(order):
            frame = (one, other)[which % 2][n % 3]
            luma = nothing if which == 2 else frame.luma
            shown = [] if which == 2 else [frame.shown[0].text]
            assert reader(luma) == shown, (order, n)
