"""Pictures of symbols: any projective map, bent paper, blur, noise; slow, and numpy alone.

Pixel (0, 0) covers [0, 1) x [0, 1), and so does module (0, 0) of a symbol; maps are 3 x 3 matrices
from modules to pixels. Every pixel is the mean of `fine` x `fine` points.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import segno

Grid = np.ndarray
QUIET = 4


def symbol(
    content: bytes | str, version: int | None = None, level: str = "M", mask: int | None = None
) -> Grid:
    """The modules of segno's symbol, 1 is dark."""
    made = segno.make(
        content, version=version, error=level, mask=mask, boost_error=False, micro=False,
        mode="byte" if isinstance(content, bytes) else None,
    )  # fmt: skip
    return np.array(made.matrix, np.uint8)


# ---- maps ---------------------------------------------------------------------------------------


def moved(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def scaled(x: float, y: float | None = None) -> np.ndarray:
    return np.diag([x, x if y is None else y, 1.0])


def turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def tilted(across: float, down: float) -> np.ndarray:
    """Perspective for a symbol of half side 1 around the origin: how much nearer its edges are."""
    return np.array([[1, 0, 0], [0, 1, 0], [across, down, 1]], float)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) mapped."""
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped[..., :2] / mapped[..., 2:]


def through(dim: int, corners: np.ndarray) -> np.ndarray:
    """The map that takes a square of dim modules to four corners."""
    rows, targets = [], []
    square = ((0, 0), (dim, 0), (dim, dim), (0, dim))
    for (u, v), (x, y) in zip(square, corners, strict=True):
        rows += [[u, v, 1, 0, 0, 0, -u * x, -v * x], [0, 0, 0, u, v, 1, -u * y, -v * y]]
        targets += [x, y]
    return np.append(np.linalg.solve(np.array(rows, float), targets), 1).reshape(3, 3)


# ---- one symbol ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """How a symbol lies before the camera, and what the camera makes of it."""

    module: float = 4  # pixels a module
    angle: float = 0  # degrees
    tilt: tuple[float, float] = (0, 0)
    squeeze: float = 1  # height over width
    shift: tuple[float, float] = (0, 0)  # pixels
    bend: float = 0  # radians of a cylinder that the symbol goes around
    mirrored: bool = False
    dark: float = 40
    light: float = 215
    ground: float = 170  # around the paper
    slope: float = 0  # share of the light that is lost from left to right
    blur: float = 0  # pixels, standard deviation
    smear: float = 0  # pixels of motion along the rows
    noise: float = 0  # grey values, standard deviation
    quiet: int = QUIET  # modules
    margin: int = 6  # pixels around the paper
    size: tuple[int, int] | None = None  # width, height of the picture; to fit where None
    fine: int = 0  # points a pixel and direction; by the module where 0
    seed: int = 0

    def but(self, **changes: object) -> Look:
        return replace(self, **changes)  # type: ignore[arg-type]


def map_of(dim: int, look: Look) -> np.ndarray:
    """Around the middle of the symbol, which comes to lie at pixel (0, 0)."""
    half = dim / 2
    flip = scaled(-1, 1) if look.mirrored else np.eye(3)
    size = scaled(look.module * half, look.module * half * look.squeeze)
    centred = scaled(1 / half) @ moved(-half, -half)
    return size @ turned(look.angle) @ tilted(*look.tilt) @ flip @ centred


@dataclass
class Photo:
    """A picture into which symbols are painted; take() is what the camera sees."""

    width: int
    height: int
    ground: float = 170
    light: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.light = np.full((self.height, self.width), float(self.ground))

    def paint(self, grid: Grid, matrix: np.ndarray, look: Look | None = None) -> np.ndarray:
        """Paints a symbol and its quiet zone; its own four corners from the upper left, pixels."""
        look = look or Look()
        dim = grid.shape[0]
        quiet = look.quiet
        paper = np.array([[x, y] for x in (-quiet, dim + quiet) for y in (-quiet, dim + quiet)])
        box = apply(matrix, paper)
        x0, y0 = np.maximum(np.floor(box.min(axis=0)).astype(int) - 1, 0)
        x1, y1 = np.ceil(box.max(axis=0)).astype(int) + 1
        x1, y1 = min(x1, self.width), min(y1, self.height)
        if x1 <= x0 or y1 <= y0:
            return self.corners(dim, matrix, look)
        fine = look.fine or (4 if look.module < 3 else 3 if look.module < 8 else 2)
        shades, covers = tables(grid, look)
        back = np.linalg.inv(matrix)
        values, share = np.zeros((y1 - y0, x1 - x0)), np.zeros((y1 - y0, x1 - x0))
        for number in range(fine * fine):
            xs = np.arange(x0, x1) + (number % fine + 0.5) / fine
            ys = np.arange(y0, y1) + (number // fine + 0.5) / fine
            at = looked_at(back, xs, ys[:, None], dim, look)
            values += shades[at]
            share += covers[at]
        part = self.light[y0:y1, x0:x1]
        part *= 1 - share / fine**2
        part += values / fine**2
        return self.corners(dim, matrix, look)

    @staticmethod
    def corners(dim: int, matrix: np.ndarray, look: Look) -> np.ndarray:
        own = np.array([[0, 0], [dim, 0], [dim, dim], [0, dim]], float)
        return apply(matrix, bent(own, dim, look.bend))

    def take(self, look: Look | None = None) -> np.ndarray:
        look = look or Look()
        plane = self.light.copy()
        if look.slope:
            plane *= 1 - look.slope * np.arange(self.width) / self.width
        if look.blur:
            plane = blurred(blurred(plane, look.blur).T, look.blur).T
        if look.smear:
            plane = smeared(plane, look.smear)
        if look.noise:
            plane += np.random.default_rng(look.seed).normal(0, look.noise, plane.shape)
        return np.ascontiguousarray(np.clip(np.rint(plane), 0, 255).astype(np.uint8))


def tables(grid: Grid, look: Look) -> tuple[np.ndarray, np.ndarray]:
    """Of modules, quiet zone and one ring around them: brightness, and whether it is paper."""
    paper = np.pad(grid, look.quiet)
    shades = np.pad(np.where(paper > 0, look.dark, look.light).astype(float), 1)
    return shades.ravel(), np.pad(np.ones(paper.shape), 1).ravel()


def looked_at(back: np.ndarray, xs: np.ndarray, ys: np.ndarray, dim: int, look: Look) -> np.ndarray:
    """Places in tables() of what is seen at pixels xs, ys; what is behind the camera is outside."""
    side = dim + 2 * look.quiet + 2
    w = back[2, 0] * xs + back[2, 1] * ys + back[2, 2]
    # Before the camera is where the middle of the symbol is.
    middle = np.linalg.inv(back) @ (dim / 2, dim / 2, 1)
    ahead = w * np.sign(middle[2]) > 1e-9
    w = np.where(ahead, w, 1)
    u = (back[0, 0] * xs + back[0, 1] * ys + back[0, 2]) / w
    v = (back[1, 0] * xs + back[1, 1] * ys + back[1, 2]) / w
    if look.bend:
        radius = dim / look.bend
        u = dim / 2 + radius * np.arcsin(np.clip((u - dim / 2) / radius, -1, 1))
    u = np.clip(u + look.quiet + 1, 0, side - 1)
    v = np.clip(v + look.quiet + 1, 0, side - 1)
    return np.where(ahead, v.astype(int) * side + u.astype(int), 0)


def bent(modules: np.ndarray, dim: int, bend: float) -> np.ndarray:
    if not bend:
        return modules
    radius = dim / bend
    out = modules.copy()
    out[..., 0] = dim / 2 + radius * np.sin((modules[..., 0] - dim / 2) / radius)
    return out


def convolved(plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Along the rows; the borders go on."""
    reach = len(kernel) // 2
    wide = np.pad(plane, ((0, 0), (reach, reach)), mode="edge")
    parts = (weight * wide[:, i : i + plane.shape[1]] for i, weight in enumerate(kernel))
    return np.sum(list(parts), axis=0)


def blurred(plane: np.ndarray, sigma: float) -> np.ndarray:
    reach = int(3 * sigma + 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return convolved(plane, kernel / kernel.sum())


def smeared(plane: np.ndarray, length: float) -> np.ndarray:
    reach = int(length / 2 + 1)
    kernel = np.clip(length / 2 + 0.5 - np.abs(np.arange(-reach, reach + 1)), 0, 1)
    return convolved(plane, kernel / kernel.sum())


def photo(grid: Grid, look: Look | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A picture of one symbol in the middle, and the symbol's corners in it."""
    look = look or Look()
    dim = grid.shape[0]
    matrix = map_of(dim, look)
    rim = [-look.quiet, dim + look.quiet]
    box = apply(matrix, np.array([[x, y] for x in rim for y in rim], float))
    if look.size is None:
        low, high = box.min(axis=0) - look.margin, box.max(axis=0) + look.margin
        width, height = np.ceil(high - low).astype(int)
        matrix = moved(*(np.array(look.shift) - low)) @ matrix
    else:
        width, height = look.size
        matrix = moved(width / 2 + look.shift[0], height / 2 + look.shift[1]) @ matrix
    picture = Photo(int(width), int(height), look.ground)
    corners = picture.paint(grid, matrix, look)
    return picture.take(look), corners
