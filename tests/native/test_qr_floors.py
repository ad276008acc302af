"""How many of the pictures of each condition the reader reads: floors that only go up.

Each condition is a cloud of looks around one difficulty, at any angle, version and mask. The first
floor is that of the first 8 pictures, which are always looked at, the second that of all.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
import pytest

from native.qr.reader import Reader
from tests.reference.photo import Look, photo, symbol

FEW = 8
SMALL, MIDDLE, LARGE = (1, 6), (7, 20), (21, 40)
COUNTS = {SMALL: 40, MIDDLE: 24, LARGE: 10}
MORE = {"module 1.2": 100}  # where two of three are read, a few of 40 more or less are chance

# Versions, floors, and the look; tilt is the size of one of any direction, blur and smear are in
# modules.
CONDITIONS: dict[str, tuple[tuple[int, int], tuple[int, int], dict[str, Any]]] = {
    "module 1.2": (SMALL, (4, 68), {"module": 1.2}),
    "module 1.4": (SMALL, (8, 40), {"module": 1.4}),
    "module 1.6": (SMALL, (8, 40), {"module": 1.6}),
    "module 2.0": (SMALL, (8, 40), {"module": 2.0}),
    "module 1.6, middle": (MIDDLE, (8, 24), {"module": 1.6}),
    "module 1.6, large": (LARGE, (8, 10), {"module": 1.6}),
    "tilt 0.3": (SMALL, (8, 40), {"tilt": 0.3}),
    "tilt 0.35": (SMALL, (8, 40), {"tilt": 0.35}),
    "tilt 0.4": (SMALL, (7, 36), {"tilt": 0.4}),
    "tilt 0.2, middle": (MIDDLE, (8, 24), {"tilt": 0.2}),
    "tilt 0.3, middle": (MIDDLE, (8, 24), {"tilt": 0.3}),
    "tilt 0.2, large": (LARGE, (8, 10), {"module": 2.6, "tilt": 0.2}),
    "tilt 0.3, large": (LARGE, (8, 9), {"module": 2.6, "tilt": 0.3}),
    "squeeze 0.5": (SMALL, (8, 40), {"module": 6.0, "squeeze": 0.5}),
    "squeeze 0.4": (SMALL, (6, 22), {"module": 6.0, "squeeze": 0.4}),
    "blur 0.5": (SMALL, (8, 40), {"blur": 0.5}),
    "blur 0.6": (SMALL, (6, 27), {"blur": 0.6}),
    "blur 0.5, middle": (MIDDLE, (8, 23), {"module": 3.0, "blur": 0.5}),
    "noise 45": (SMALL, (8, 39), {"module": 3.0, "noise": 45}),
    "noise 60": (SMALL, (7, 36), {"module": 3.0, "noise": 60}),
    "noise 45, middle": (MIDDLE, (8, 24), {"module": 3.5, "noise": 45}),
    "bend 1.4": (SMALL, (8, 40), {"bend": 1.4}),
    "bend 1.8": (SMALL, (4, 14), {"bend": 1.8}),
    "bend 1.2, middle": (MIDDLE, (4, 12), {"bend": 1.2}),
    "bend 0.8, large": (LARGE, (8, 10), {"module": 2.6, "bend": 0.8}),
    "slope 0.95": (SMALL, (8, 40), {"slope": 0.95}),
    "contrast 14": (SMALL, (8, 40), {"dark": 100, "light": 114, "ground": 107}),
    "contrast 20 and noise": (
        SMALL,
        (8, 38),
        {"dark": 100, "light": 120, "ground": 110, "noise": 4},
    ),
    # Where the ground is no lighter than half way from dark to light (127), a finder has no outer
    # edge: of 400 at 120 eight were read once, by where a row met the ring.
    "no quiet zone": (SMALL, (8, 38), {"quiet": 0, "ground": 130}),
    "quiet zone of one": (SMALL, (8, 40), {"quiet": 1, "ground": 40}),
    "inverse, noise, tilt": (
        SMALL,
        (8, 40),
        {"dark": 215, "light": 40, "ground": 90, "noise": 30, "tilt": 0.2},
    ),
    "mirrored, bent": (SMALL, (8, 40), {"mirrored": True, "bend": 1.2}),
    "smear 1.5": (SMALL, (8, 40), {"smear": 1.5}),
    "smear 2.0": (SMALL, (4, 13), {"smear": 2.0}),
    "blur, noise, tilt": (SMALL, (8, 40), {"module": 3.0, "blur": 0.4, "noise": 12, "tilt": 0.15}),
    "blur, noise, tilt, middle": (
        MIDDLE,
        (8, 22),
        {"module": 3.0, "blur": 0.4, "noise": 12, "tilt": 0.15},
    ),
    "blur, bend, tilt": (SMALL, (7, 35), {"blur": 0.4, "bend": 0.8, "tilt": 0.2}),
}


@cache
def sample(name: str, number: int) -> tuple[bytes, np.ndarray]:
    """One picture of a condition."""
    versions, _, changes = CONDITIONS[name]
    rng = random.Random(f"{name} {number}")
    changes = {"module": 4.0, "tilt": 0.0, "blur": 0.0, "smear": 0.0} | changes
    module, version = changes["module"], rng.randint(*versions)
    toward = rng.uniform(0, 2 * np.pi)
    changes["tilt"] = (changes["tilt"] * np.cos(toward), changes["tilt"] * np.sin(toward))
    changes["blur"] *= module
    changes["smear"] *= module
    look = Look(angle=rng.uniform(0, 360), shift=(rng.random(), rng.random()), seed=number)
    content = b"T%06d" % rng.randrange(10**6)
    level = rng.choice("LMQH") if version > 2 else "L"
    plane, _ = photo(symbol(content, version, level, rng.randrange(8)), look.but(**changes))
    return content, plane


def count_read(name: str, numbers: range) -> int:
    """How many were read; nothing else may be."""
    reader, read = Reader(), 0
    for number in numbers:
        content, plane = sample(name, number)
        found = [code[0] for code in reader.read(plane)]
        assert found in ([], [content]), (name, number)
        read += len(found)
    return read


@pytest.mark.parametrize("name", CONDITIONS)
def test_few_of_each_condition(name: str) -> None:
    assert count_read(name, range(FEW)) >= CONDITIONS[name][1][0]


def test_what_was_read_before_does_not_matter() -> None:
    """A still is read alike by a new reader and by one that has seen others."""
    used = Reader()
    for name in CONDITIONS:
        for number in range(FEW):
            plane = sample(name, number)[1]
            assert used.read(plane) == Reader().read(plane), (name, number)


@pytest.mark.full
@pytest.mark.parametrize("name", CONDITIONS)
def test_all_of_each_condition(name: str) -> None:
    versions, floors, _ = CONDITIONS[name]
    assert count_read(name, range(MORE.get(name, COUNTS[versions]))) >= floors[1]
