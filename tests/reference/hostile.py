"""Planes that a reader of QR codes may stumble over, and what is drawn in each; seeded, numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from tests.reference.photo import Look, Photo, map_of, moved, scaled, symbol, tilted, turned

Scene = tuple[np.ndarray, frozenset[bytes]]
DRAWN = [b"0123456", b"A|NGUYEN|1", b"https://chot.vn/v/Q7", b"\xffraw\x00", b"0123457"]


@cache
def drawn(which: int) -> tuple[bytes, np.ndarray]:
    """One of a few dozen symbols, and its content."""
    content = DRAWN[which % len(DRAWN)]
    version = 1 + which // 5 % 4 if which % 7 else 7 + which // 7 % 3
    level = "LMQH"[which % 4] if version > 2 else "L"
    return content, symbol(content, max(version, 2), level, which % 8)


def ground(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    return np.full((height, width), int(rng.integers(60, 256)), np.uint8)


def noise(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Grey noise, saturated noise, or squares of noise."""
    kind, size = rng.integers(3), int(rng.integers(1, 9))
    if kind == 0:
        plane = rng.integers(0, 256, (height, width), np.uint8)
    elif kind == 1:
        plane = (rng.random((height, width)) < rng.random()).astype(np.uint8) * 255
    else:
        cells = rng.choice([0, 255], (height // size + 1, width // size + 1)).astype(np.uint8)
        plane = np.kron(cells, np.ones((size, size), np.uint8))[:height, :width]
    return np.ascontiguousarray(plane), frozenset()


def stripes(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Stripes of one to seven pixels along a row, a column or any way, or rings of them."""
    y, x = np.mgrid[:height, :width].astype(float)
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    way = x * np.cos(angle) + y * np.sin(angle)
    if rng.random() < 0.3:
        way = np.maximum(abs(x - width / 2), abs(y - height / 2))
    period = rng.integers(1, 8)
    runs = np.cumsum(np.tile(rng.choice([1, 1, 1, 2, 3], 8) if rng.random() < 0.5 else [1], 80))
    dark = np.searchsorted(runs * period, way % runs[-1]) % 2
    return np.where(dark, 30, 220).astype(np.uint8), frozenset()


def put_finder(plane: np.ndarray, x: int, y: int, module: float, inverse: bool) -> None:
    side = int(7 * module)
    at = (np.arange(side) / module).astype(int)
    far = np.maximum(abs(at[:, None] - 3), abs(at - 3))
    values = np.where((far == 2) == inverse, 20, 230).astype(np.uint8)
    part = plane[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)]
    part[...] = values[max(-y, 0) :, max(-x, 0) :][: part.shape[0], : part.shape[1]]


def finders(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Up to sixty finders, loose or in a lattice, of like or unlike sizes, clean or speckled."""
    plane = ground(rng, width, height)
    like, inverse = rng.random() < 0.6, rng.random() < 0.3
    module = rng.uniform(1, 6)
    count = int(rng.integers(3, 60))
    pitch = rng.uniform(8, 20) * module
    lattice = rng.random() < 0.4
    for i in range(count):
        size = module if like else rng.uniform(1, 6)
        x, y = rng.uniform(-10, width), rng.uniform(-10, height)
        if lattice:
            x, y = i % 8 * pitch, i // 8 * pitch
        if x < width and y < height:
            put_finder(plane, int(x), int(y), size, inverse)
    if rng.random() < 0.5:
        plane = np.where(rng.random(plane.shape) < 0.02, 255 - plane, plane)
    return plane.astype(np.uint8), frozenset()


def painted(rng: np.random.Generator, width: int, height: int, matrix: np.ndarray) -> Scene:
    content, grid = drawn(int(rng.integers(60)))
    look = Look(module=4, fine=2, dark=rng.integers(0, 90), light=rng.integers(130, 256))
    if rng.random() < 0.25:
        look = look.but(dark=look.light, light=look.dark)
    picture = Photo(width, height, rng.integers(0, 256))
    picture.paint(grid, matrix @ map_of(grid.shape[0], Look(1)), look)
    blur = rng.choice([0, 0, rng.uniform(0.3, 2)])
    return picture.take(Look(blur=blur, noise=rng.choice([0, 0, rng.uniform(0, 40)]))), frozenset(
        [content]
    )


def whole(rng: np.random.Generator, width: int, height: int) -> Scene:
    """A symbol somewhere, upright or not, that may reach out of the picture."""
    at = moved(*(rng.normal(0.5, 0.15, 2) * (width, height)))
    return painted(rng, width, height, at @ turned(rng.uniform(0, 360)) @ scaled(rng.uniform(1, 5)))


def extreme(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Tilts up to the horizon and beyond it, flattened symbols, tiny and huge ones."""
    at = moved(*(rng.normal(0.5, 0.25, 2) * (width, height)))
    size = scaled(*np.exp(rng.uniform(0, rng.choice([2, 4]), 2)).tolist())
    steep = tilted(*(rng.uniform(-1, 1, 2) * rng.choice([0.005, 0.02, 0.08])))
    return painted(rng, width, height, at @ turned(rng.uniform(0, 360)) @ size @ steep)


def destroyed(rng: np.random.Generator, width: int, height: int) -> Scene:
    """A symbol of which patches are blank, noise, moved elsewhere, or of another symbol."""
    plane, contents = whole(rng, width, height)
    other, others = whole(rng, width, height)
    for _ in range(int(rng.integers(1, 12))):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        part = plane[y : y + int(rng.integers(1, 40)), x : x + int(rng.integers(1, 40))]
        kind = rng.integers(5)
        if kind == 0:
            part[...] = rng.integers(0, 256)
        elif kind == 1:
            part[...] = rng.integers(0, 256, part.shape)
        elif kind == 2:
            part[...] = 255 - part
        elif kind == 3:
            part[...] = part[::-1].copy()
        else:
            part[...] = other[y : y + part.shape[0], x : x + part.shape[1]]
    return plane, contents | others


def pieces(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Pieces of symbols side by side, as torn paper."""
    plane = ground(rng, width, height)
    contents: frozenset[bytes] = frozenset()
    for _ in range(int(rng.integers(2, 9))):
        source, more = whole(rng, width, height)
        contents |= more
        x, y = int(rng.integers(width)), int(rng.integers(height))
        part = plane[y : y + int(rng.integers(8, 200)), x : x + int(rng.integers(8, 200))]
        part = plane[:, :] if rng.random() < 0.2 else part
        part[...] = source[: part.shape[0], : part.shape[1]]
    return plane, contents


def scrambled(rng: np.random.Generator, width: int, height: int) -> Scene:
    """Finders, timing and format of a real symbol, and modules by chance between them."""
    _, grid = drawn(int(rng.integers(60)))
    grid = grid.copy()
    chance = rng.integers(0, 2, grid.shape, np.uint8)
    keep = rng.random(grid.shape) < rng.choice([0, 0.8, 0.95, 1])
    inside = np.zeros(grid.shape, bool)
    inside[9:, 9:] = inside[9:, 9:-8] = True
    inside[9:-8, :6] = inside[:6, 9:-8] = True
    grid = np.where(inside & ~keep, chance, grid)
    module = max(1.0, 0.8 * min(width, height) / (grid.shape[0] + 4))
    picture = Photo(width, height, 150)
    look = Look(module, rng.uniform(0, 360), fine=2)
    picture.paint(grid, moved(width / 2, height / 2) @ map_of(grid.shape[0], look), look)
    # Where much was kept the content may still be read; DRAWN says what it can be.
    return picture.take(Look(noise=rng.choice([0, 10]))), frozenset(DRAWN)


SCENES: dict[str, Callable[[np.random.Generator, int, int], Scene]] = {
    scene.__name__: scene
    for scene in (
        *(noise, stripes, finders, whole, extreme),
        *(destroyed, pieces, scrambled),
    )
}


def scene(kind: str, seed: int, width: int = 200, height: int = 200) -> Scene:
    return SCENES[kind](np.random.default_rng(seed), width, height)
