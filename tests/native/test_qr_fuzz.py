"""native.qr.reader and native.qr.lane on hostile planes: no crash, no text that was not drawn."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.qr.lane import Lane
from native.qr.reader import Reader
from tests.reference.hostile import DRAWN, SCENES, scene

if TYPE_CHECKING:
    from native.qr.reader import _Reading as Reading

REGRESSIONS = Path(__file__).resolve().parents[1] / "fuzz/regressions"
TRIPLES, ATTEMPTS, LEVELS, FINDERS = 64, 24, 3, 256
kept_scene = cache(scene)


def check_reading(code: Reading, drawn: frozenset[bytes]) -> None:
    data, corners, version, level, mask, mirrored, inverted, how, corrected, erased = code[:10]
    assert data in drawn
    assert all(math.isfinite(value) for value in corners)
    assert 1 <= version <= 40 and level in "LMQH" and 0 <= mask <= 7
    assert isinstance(mirrored, bool) and isinstance(inverted, bool)
    assert 1 <= how <= 6 and corrected >= 0 and erased >= 0
    begin = 0
    for _, eci, at, size in code[10]:
        assert (at, size >= 0, eci >= -1) == (begin, True, True)
        begin += size
    assert begin == len(data)


def check_plane(plane: np.ndarray, drawn: frozenset[bytes], reader: Reader | None = None) -> int:
    reader = reader or Reader(attempts=ATTEMPTS, triples=TRIPLES, levels=LEVELS)
    found = reader.read(plane)
    for code in found:
        check_reading(code, drawn)
        assert code[7] < 5
    # Time follows these three, whatever a plane shows; two looks at the plane, one at its parts.
    seen, measured, placed = reader.effort_spent
    assert seen <= FINDERS * (LEVELS + 1)
    assert measured <= TRIPLES * (LEVELS + 1)
    assert placed <= ATTEMPTS * (LEVELS + 1)
    return len(found)


SIZES = st.one_of(st.integers(1, 200), st.sampled_from([20, 21, 22, 63, 64, 65, 199, 200]))
KINDS = st.sampled_from(sorted(SCENES))
SEEDS = st.integers(0, 2**32 - 1)


# ---- planes -------------------------------------------------------------------------------------


@given(KINDS, SEEDS, SIZES, SIZES)
@settings(max_examples=150, deadline=None)
def test_any_scene(kind: str, seed: int, width: int, height: int) -> None:
    check_plane(*scene(kind, seed, width, height))


@given(st.binary(min_size=21 * 21, max_size=64 * 64), st.integers(21, 64))
@settings(max_examples=60, deadline=None)
def test_any_bytes(data: bytes, width: int) -> None:
    height = len(data) // width
    plane = np.frombuffer(data, np.uint8)[: width * height].reshape(height, width)
    assert Reader().read(plane) == []
    assert Reader(row_step=1, levels=1).read(np.kron(plane, np.ones((3, 3), np.uint8))) == []


def run_seeds(kind: str, seeds: range) -> int:
    reader = Reader(attempts=ATTEMPTS, triples=TRIPLES, levels=LEVELS)
    read = 0
    for seed in seeds:
        width, height = (200, 200) if seed % 3 else (21 + seed * 37 % 280, 21 + seed * 53 % 280)
        read += check_plane(*kept_scene(kind, seed, width, height), reader)
    return read


@pytest.mark.parametrize("kind", SCENES)
def test_fixed_seeds(kind: str) -> None:
    read = run_seeds(kind, range(60))
    # The fuzz is worth something only where some are read and some are not.
    assert kind in ("noise", "stripes", "finders") or read > 0


@pytest.mark.full
@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.parametrize("start", range(4))
def test_many_fixed_seeds(kind: str, start: int) -> None:
    for first in range(1000 * start, 1000 * start + 1000, 100):
        run_seeds(kind, range(first, first + 100))
        kept_scene.cache_clear()


@pytest.mark.parametrize("row_step", [1, 3, 8])
@pytest.mark.parametrize("effort", [1, 128])
def test_other_efforts(row_step: int, effort: int) -> None:
    reader = Reader(row_step=row_step, triples=effort, attempts=effort, finders=effort)
    for kind in SCENES:
        for seed in range(12):
            plane, drawn = kept_scene(kind, seed, 200, 200)
            for code in reader.read(plane):
                check_reading(code, drawn)


def test_views_whose_surroundings_must_not_matter() -> None:
    """The plane's neighbours in memory are a symbol of their own, and never read."""
    around, _ = scene("whole", 5, 400, 400)
    for kind in SCENES:
        for seed in range(8):
            plane, _ = kept_scene(kind, seed, 200, 200)
            x, y = 7 * seed + 1, 5 * seed + 3
            memory = around.copy()
            memory[y : y + 200, x : x + 200] = plane
            assert Reader().read(memory[y : y + 200, x : x + 200]) == Reader().read(plane)


# ---- lanes --------------------------------------------------------------------------------------


def run_lane(frames: list[tuple[str, int]], repeat: int, lane: Lane) -> int:
    read = 0
    for kind, seed in frames:
        plane, drawn = kept_scene(kind, seed, 200, 200)
        for number in range(repeat):
            shown = np.roll(plane, number, axis=1) if number % 2 else plane
            found = lane.read(shown)
            read += len(found)
            for code in found:
                check_reading(code, drawn)
            if lane.region is not None:
                assert all(math.isfinite(value) for value in lane.region)
            if lane.wanted is not None:
                left, top, right, bottom = lane.wanted
                again = lane.follow(shown[top:bottom, left:right], left, top)
                for code in again or []:
                    check_reading(code, drawn)
    return read


@given(st.lists(st.tuples(KINDS, st.integers(0, 59)), min_size=1, max_size=8), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_any_sequence_of_frames(frames: list[tuple[str, int]], repeat: int) -> None:
    run_lane(frames, repeat, Lane())


@pytest.mark.parametrize("kind", SCENES)
def test_lanes_of_fixed_seeds(kind: str) -> None:
    lane = Lane()
    read = run_lane([(kind, seed) for seed in range(60)], 3, lane)
    assert kind in ("noise", "stripes", "finders") or read > 0
    assert run_lane([("noise", seed) for seed in range(5)], 2, lane) == 0


@pytest.mark.full
def test_long_lanes() -> None:
    rng = np.random.default_rng(1)
    kinds = sorted(SCENES)
    for _ in range(40):
        frames = [(str(rng.choice(kinds)), int(rng.integers(60))) for _ in range(40)]
        run_lane(frames, int(rng.integers(1, 6)), Lane())


def test_every_content_of_the_scenes_is_read_somewhere() -> None:
    seen: set[bytes] = set()
    for seed in range(60):
        plane, _ = kept_scene("whole", seed, 200, 200)
        seen |= {code[0] for code in Reader().read(plane)}
    assert seen == set(DRAWN)


# ---- past findings ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("qr_*.json")), ids=lambda path: path.stem)
def test_past_findings(path: Path) -> None:
    """Shapes of flat frames one after another, [height, width], that once broke a lane."""
    lane = Lane()
    for height, width in json.loads(path.read_text()):
        plane = np.full((height, width), 90, np.uint8)
        plane[::3] += 60
        assert lane.read(plane) == []
        assert Reader().read(plane) == []
