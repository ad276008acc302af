"""`python -m bench.pictures docs/pictures`: the stages of the QR reader, drawn on one frame.

What is drawn is what the stages of native.qr answer when they are asked one by one through their
doors; nothing is drawn by hand. The frame is of a made clip (bench.clips): a code out of focus on a
tilted screen, whose hard bits cannot be read. Same versions of numpy, Pillow and segno, same files.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from bench import clips
from bench.svg import BLUE, DIM, GREEN, INK, ORANGE, RED, Drawing, Pixels
from native.qr import luma as kernels
from native.qr import matrix, symbol
from native.qr.lane import Lane
from native.qr.reader import Reader
from native.qr.threshold import thresholds

if TYPE_CHECKING:
    from native.qr.reader import _Finder, _Placed

Reals = npt.NDArray[np.float64]
Softs = npt.NDArray[np.int16]

SIZE: Final = (960, 540)
SCENE: Final = clips.IMAGES / "scene-brick.jpg"
ROW_STEP: Final = 4  # what native.qr.reader takes for frames of 400 to 639 rows
FUSED: Final = 5  # Reading's `how` of frames joined
FADE: Final = 0.85  # native/qr/lane.pyx: FUSION_FADE
CLIP: Final = 384  # and what one module of one frame may say at most
# Of a symbol's sides, where the lamp is mirrored in the three frames that are joined.
LAMPS: Final = ((0.46, 0.68), (0.72, 0.5), (0.5, 0.4))
LAMP_SIZE: Final = 0.2
WAYS: Final = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
TOLD_OF_RAYS: Final = (
    "Dots: edges along the rays.",
    "Green rays keep 1.5 : 2.5 : 3.5.",
    "Upper row, left: the corners",
    "of the symbol. The others are",
    "chance: they agreed when they",
    "were seen first, and fewer agree",
    "from the middle that was found.",
)
# Blocks of codewords: for dark and for light modules.
HUES: Final = (
    ((30, 64, 175), (191, 219, 254)), ((6, 95, 70), (167, 243, 208)),
    ((146, 64, 14), (253, 230, 138)), ((107, 33, 168), (233, 213, 255)),
)  # fmt: skip


def frame_of(condition: str, seed: int, frames: int, number: int) -> Pixels:
    film = clips.film(
        seed, condition, frames=frames, width=SIZE[0], height=SIZE[1], backgrounds=[SCENE]
    )
    return next(itertools.islice(film, number, None)).luma


def bright(luma: Pixels, gain: float = 1.5) -> Pixels:
    """For the eye: the clips are as dim as lanes are."""
    out: Pixels = np.minimum(luma * gain, 255).astype(np.uint8)
    return out


# ---- what a placed symbol says ------------------------------------------------------------------


class Grid:
    """A symbol that was placed: points of its modules in pixels, and its values."""

    def __init__(self, placed: _Placed) -> None:
        self.placed = placed
        self.dim = placed["dim"]
        self.map: Reals = np.array(placed["map"], np.float64).reshape(3, 3)
        shape = (self.dim, self.dim)
        self.grey = np.frombuffer(placed["grey"], np.float32).reshape(shape)
        self.soft = np.frombuffer(placed["soft"], np.int16).reshape(shape)
        self.equalized = np.frombuffer(placed["equalized"], np.int16).reshape(shape)
        self.layout: dict[str, Any] = symbol.layout((self.dim - 17) // 4)

    def at(self, spots: Any, is_bent: bool = True) -> Reals:
        """Pixels of points (u, v) in modules, by the map and the mesh."""
        uv: Reals = np.asarray(spots, np.float64)
        if is_bent:
            uv = uv + np.array([self.displacement(u, v) for u, v in uv])
        out = np.column_stack([uv, np.ones(len(uv))]) @ self.map.T
        found: Reals = out[:, :2] / out[:, 2:]
        return found

    def displacement(self, u: float, v: float) -> tuple[float, float]:
        """native.qr.locate.bend: bilinear between the nodes of the mesh, and on beyond them."""
        lines = self.placed["lines"]
        n = len(lines)
        if n < 2:
            return 0.0, 0.0
        i = min(max(int(np.searchsorted(lines, u, "right")) - 1, 0), n - 2)
        j = min(max(int(np.searchsorted(lines, v, "right")) - 1, 0), n - 2)
        fu = (u - lines[i]) / (lines[i + 1] - lines[i])
        fv = (v - lines[j]) / (lines[j + 1] - lines[j])
        both = []
        for values in (self.placed["du"], self.placed["dv"]):
            d = np.array(values).reshape(n, n)[j : j + 2, i : i + 2]
            row = d[:, 0] + fu * (d[:, 1] - d[:, 0])
            both.append(float(row[0] + fv * (row[1] - row[0])))
        return both[0], both[1]

    def box(self, margin: float) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a square around the symbol, pixels."""
        ends = self.at([(0, 0), (self.dim, 0), (self.dim, self.dim), (0, self.dim)])
        middle = (ends.min(axis=0) + ends.max(axis=0)) / 2
        half = (ends.max(axis=0) - ends.min(axis=0)).max() / 2 + margin
        x0, y0 = (int(value) for value in middle - half)
        return x0, y0, x0 + int(2 * half), y0 + int(2 * half)


@dataclass(frozen=True, slots=True)
class Story:
    """The frame of pictures 1 to 4, and what the stages say about it."""

    luma: Pixels
    finders: list[_Finder]
    rays: list[tuple[tuple[float, ...], ...]]
    grid: Grid


def tell(luma: Pixels) -> Story:
    reader = Reader(row_step=ROW_STEP, levels=1, thorough=False)
    finders, rays = reader.finders(luma), reader.rays(luma)
    return Story(luma, finders, rays, Grid(reader.placed(luma)[0]))


# ---- 1: rows ------------------------------------------------------------------------------------


def draw_rows(story: Story) -> Drawing:
    luma = story.luma
    height, width = luma.shape
    columns, rows, cut, values = thresholds(luma.tobytes(), width, height, width, ROW_STEP)
    tall = ROW_STEP * max(4, (16 + ROW_STEP - 1) // ROW_STEP)
    out = Drawing(width, 850, "Thresholds of blocks, scanned rows, edges, runs like a finder's")
    out.photograph(bright(luma), 0, 0, width, height)
    flat = [divmod(k, columns) for k in range(rows * columns) if not values[k]]
    squares = "".join(f"M{x * 16} {y * tall}h16v{tall}h-16z" for y, x in flat)
    out.add("path", d=squares, fill="#ffffff", fill_opacity=0.55)
    scanned = range(ROW_STEP // 2, height, ROW_STEP)
    out.lines((((0, y), (width, y)) for y in scanned), BLUE, 0.5, stroke_opacity=0.45)
    passing: list[tuple[int, list[int]]] = []
    for y in scanned:
        row = y // tall * columns
        over = kernels.expand(values[row : row + columns])[:width]
        edges = kernels.row_edges(luma[y].tobytes(), over)
        passing += [(y, edges[k : k + 6]) for k in kernels.finder_runs(edges)]
    out.lines((((e[0], y), (e[5], y)) for y, e in passing), ORANGE, 3.0)
    corner = story.grid.placed["finders"][0]
    y, edges_of_one = min(
        passing, key=lambda one: abs(one[0] - corner[1]) + abs(sum(one[1][2:4]) / 2 - corner[0])
    )
    out.lines([((edges_of_one[0] - 80, y), (edges_of_one[5] + 80, y))], RED, 1.5)
    said = f"Blue: every {ROW_STEP}th row is scanned. White: blocks of 16 x {tall} pixels are flat"
    out.text(8, height + 22, f"{said}, less than {cut} grey values apart.", 14)
    said = "Orange: the runs of a row lie as a finder's would,"
    out.text(8, height + 42, f"{said} {len(passing)} times. Red: the row below.", 14)
    out.begin(0, height + 54)
    _draw_profile(out, luma, y, edges_of_one, (values, columns, tall))
    out.end()
    return out


def _draw_profile(
    out: Drawing, luma: Pixels, y: int, five: list[int], blocks: tuple[bytes, int, int]
) -> None:
    values, columns, tall = blocks
    x0, x1 = five[0] - 44, five[5] + 44
    row = y // tall * columns
    over = kernels.expand(values[row : row + columns])
    wide = 900 / (x1 - x0)

    def spot(x: float, grey: float) -> tuple[float, float]:
        return 40 + (x - x0) * wide, 200 - grey * 1.1

    out.text(
        40, 26, f"row {y}: grey values, threshold, dark and light runs", 15, font_weight="bold"
    )
    steps = [spot(x + side, luma[y, x]) for x in range(x0, x1) for side in (0, 1)]
    limit = [spot(x + side, over[x]) for x in range(x0, x1) for side in (0, 1)]
    left, right = spot(five[0], 0)[0], spot(five[5], 0)[0]
    out.rect(left, 36, right - left, 174, fill=ORANGE, fill_opacity=0.09)
    out.line(steps, INK, 1.4)
    out.line(limit, BLUE, 1.4, stroke_dasharray="5 3")
    edges = kernels.row_edges(luma[y].tobytes(), over[: luma.shape[1]])
    for k, (a, b) in enumerate(itertools.pairwise([*edges, luma.shape[1]])):
        a, b = max(a, x0), min(b, x1)
        if a < b:
            colour = INK if k % 2 == 0 else "#e5e7eb"
            out.rect(spot(a, 0)[0], 212, (b - a) * wide, 12, fill=colour)
    for a, b in itertools.pairwise(five):
        middle = spot((a + b) / 2, 0)[0]
        out.text(middle, 242, str(b - a), 14, fill=ORANGE, text_anchor="middle", font_weight="bold")
    said = f"pixels of {five[5] - five[0]}; wanted 1 : 1 : 3 : 1 : 1"
    out.text(right + 10, 242, said, 13, fill=ORANGE)
    x, level = spot(x1, float(over[x1 - 1]))
    out.text(x, level - 6, "threshold", 13, fill=BLUE, text_anchor="end")


# ---- 2: finders ---------------------------------------------------------------------------------


def draw_finders(story: Story) -> Drawing:
    side, gap = 232, 8
    out = Drawing(4 * side + 3 * gap, 2 * side + 96, "Finders, eight rays each, and their faults")
    real = story.grid.placed["finders"]
    order = sorted(range(len(story.finders)), key=lambda k: story.finders[k][5])
    tiles = [k for k in order if story.finders[k] in real]
    tiles += [k for k in order if story.finders[k] not in real]
    for place, k in enumerate(tiles[:7]):
        x, y = place % 4 * (side + gap), place // 4 * (side + 50)
        finder = story.finders[k]
        is_real = finder in real
        out.begin(x, y, side, side)
        fitting = _draw_rays(out, story.luma, finder, story.rays[k], side)
        out.end()
        colour = GREEN if is_real else RED
        said = f"fault {finder[5]:.2f}, {finder[4]} of 8 agree"
        out.text(x + 2, y + side + 17, said, 14, fill=colour, font_weight="bold")
        kind = "dark" if finder[3] > 0 else "light"
        what = f"{finder[2]:.1f} pixels a module" if is_real else f"{kind}; now {fitting} of 8"
        out.text(x + 2, y + side + 35, what, 13, fill=DIM)
    x = len(tiles[:7]) % 4 * (side + gap) + 8
    y = side + 50
    for k, said in enumerate(TOLD_OF_RAYS):
        out.text(x, y + 30 + 20 * k, said, 13)
    return out


def _draw_rays(
    out: Drawing, luma: Pixels, finder: _Finder, rays: tuple[tuple[float, ...], ...], side: int
) -> int:
    """How many rays are in proportion, as native.qr.finder.eight_ways has it."""
    reach = int(finder[2] * 6.2)
    x0, y0 = int(finder[0]) - reach, int(finder[1]) - reach
    part = luma[max(y0, 0) : y0 + 2 * reach + 1, max(x0, 0) : x0 + 2 * reach + 1]
    low, high = int(part.min()), int(part.max())
    part = ((part.astype(np.float32) - low) * (255 / max(1, high - low))).astype(np.uint8)
    zoom = side / (2 * reach + 1)
    out.picture(
        part, max(-x0, 0) * zoom, max(-y0, 0) * zoom, part.shape[1] * zoom, part.shape[0] * zoom
    )
    fitting = 0
    cx, cy = (int(finder[0]) + 0.5 - x0) * zoom, (int(finder[1]) + 0.5 - y0) * zoom
    for (dx, dy), radii in zip(WAYS, rays, strict=True):
        unit = 1 if dx == 0 or dy == 0 else 2**-0.5
        spots = [(cx + dx * unit * r * zoom, cy + dy * unit * r * zoom) for r in radii]
        module = sum(radii) / 7.5 if len(radii) == 3 else 0
        step = 1 if dx == 0 or dy == 0 else 2**0.5
        slack = 0.4 * module + 0.6 * step
        fits = len(radii) == 3 and all(
            abs(r - want * module) < slack for r, want in zip(radii, (1.5, 2.5, 3.5), strict=True)
        )
        fitting += fits
        colour = GREEN if fits else RED
        if spots:
            out.line([(cx, cy), spots[-1]], colour, 2)
            out.dots(spots, 4.0, colour, stroke="white", stroke_width=1.2)
    out.dots([(cx, cy)], 3.5, BLUE, stroke="white", stroke_width=1.2)
    return fitting


# ---- 3: place -----------------------------------------------------------------------------------


def draw_place(story: Story, bent: tuple[Pixels, Grid]) -> Drawing:
    side, gap = 474, 12
    out = Drawing(2 * side + gap, 2 * side + gap + 66, "A triple, its timing patterns, the grid")
    grid = story.grid
    for k, (luma, shown, draw) in enumerate(
        [(story.luma, grid, _draw_triple), (story.luma, grid, _draw_grid),
         (bent[0], bent[1], _draw_mesh), (bent[0], bent[1], _draw_grid)]
    ):  # fmt: skip
        x, y = k % 2 * (side + gap), k // 2 * (side + gap + 36)
        x0, y0, x1, y1 = shown.box(9)
        zoom = side / (x1 - x0)
        out.begin(x, y, side, side)
        part = bright(luma[max(y0, 0) : y1, max(x0, 0) : x1], 240 / luma[y0:y1, x0:x1].max())
        out.photograph(part, 0, 0, side, side, 80)
        said = draw(out, shown, np.array([x0, y0]), zoom)
        out.end()
        out.text(x + 2, y + side + 20, said, 14)
    return out


def _zoomed(spots: Reals, origin: Any, zoom: float) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (spots - origin) * zoom]


def _draw_triple(out: Drawing, grid: Grid, origin: Any, zoom: float) -> str:
    dim, finders = grid.dim, grid.placed["finders"]
    centres = [((f[0] - origin[0]) * zoom, (f[1] - origin[1]) * zoom) for f in finders]
    a, b, c = centres
    out.line([b, a, c], BLUE, 2.5)
    out.dots(centres, 6.0, BLUE, stroke="white", stroke_width=1.5)
    for name, (x, y) in zip("abc", centres, strict=True):
        out.label(x + 9, y - 9, name, BLUE, 17)
    for axis, steps in enumerate(grid.placed["steps"]):
        run = [(k + 0.5, 6.5) if axis == 0 else (6.5, k + 0.5) for k in range(6, dim - 6)]
        spots = _zoomed(grid.at(run), origin, zoom)
        out.line([spots[0], spots[-1]], ORANGE, 2)
        out.dots(spots[::2], 2.6, ORANGE)
        out.dots(spots[1::2], 2.6, "white", stroke=ORANGE, stroke_width=1)
        x, y = spots[len(spots) // 2]
        out.label(x - 30 - 70 * axis, y - 14 * (1 - axis), f"{steps} steps", ORANGE, 15)
    counted = " and ".join(str(steps + 13) for steps in grid.placed["steps"])
    return f"a triple: steps and 13 make {counted}; {dim} is taken"


def _draw_grid(out: Drawing, grid: Grid, origin: Any, zoom: float) -> str:
    dim = grid.dim
    many = []
    for k in range(dim + 1):
        along = np.linspace(0, dim, 13)
        many.append(_zoomed(grid.at([(k, t) for t in along]), origin, zoom))
        many.append(_zoomed(grid.at([(t, k) for t in along]), origin, zoom))
    out.lines(many, GREEN, 0.7, stroke_opacity=0.9)
    for u, v in _patterns(grid):
        ring = [(u - 2.5, v - 2.5), (u + 2.5, v - 2.5), (u + 2.5, v + 2.5), (u - 2.5, v + 2.5)]
        out.line([*_zoomed(grid.at(ring), origin, zoom), _zoomed(grid.at(ring), origin, zoom)[0]],
                 ORANGE, 2)  # fmt: skip
    found, count = grid.placed["aligned"]
    return f"{dim} x {dim} modules; {found} of {count} alignment patterns found"


def _patterns(grid: Grid) -> list[tuple[float, float]]:
    """Middles of the alignment patterns, modules."""
    lines = [centre + 0.5 for centre in grid.layout["centres"]]
    ends = (lines[0], lines[-1])
    corners = {(ends[0], ends[0]), (ends[1], ends[0]), (ends[0], ends[1])}
    return [(u, v) for v in lines for u in lines if (u, v) not in corners]


def _draw_mesh(out: Drawing, grid: Grid, origin: Any, zoom: float) -> str:
    dim = grid.dim
    flat = []
    for k in (0, dim):
        ends = np.linspace(0, dim, 13)
        flat.append(_zoomed(grid.at([(k, t) for t in ends], False), origin, zoom))
        flat.append(_zoomed(grid.at([(t, k) for t in ends], False), origin, zoom))
    out.lines(flat, RED, 1.5, stroke_dasharray="6 4")
    ring = np.array([(-2.5, -2.5), (2.5, -2.5), (2.5, 2.5), (-2.5, 2.5), (-2.5, -2.5)])
    for u, v in _patterns(grid):
        here = ring + np.array([u, v])
        moved = here + np.array(grid.displacement(u, v))
        out.line(_zoomed(grid.at(here, False), origin, zoom), RED, 1.8)
        out.line(_zoomed(grid.at(moved, False), origin, zoom), BLUE, 2.2)
    most = max(abs(d) for d in (*grid.placed["du"], *grid.placed["dv"]))
    return f"bent paper: red by the map, blue found; up to {most:.1f} modules off"


# ---- 4: modules ---------------------------------------------------------------------------------


def draw_modules(story: Story) -> Drawing:
    grid, side, gap = story.grid, 300, 18
    out = Drawing(3 * side + 2 * gap, 2 * side + 96, "Grey values, soft modules, bits, codewords")
    read = matrix.decode(grid.placed["equalized"], grid.dim)
    assert isinstance(read, dict), "the frame of the pictures must be read after the equalizer"
    level: Any = read["level"]
    blocks: dict[str, Any] = symbol.blocks((grid.dim - 17) // 4, level)
    known = _known(grid, grid.soft), _known(grid, grid.equalized)
    all_wrong = [_wrong(soft, grid.dim, read["sent"]) for soft in (grid.soft, grid.equalized)]
    tiles = [
        (_grey(grid.grey), "grey values at the middles of modules"),
        (_diverging(grid.soft), f"soft modules: {known[0]} known ones wrong"),
        (_diverging(grid.equalized), f"equalized: {known[1]} known ones wrong"),
    ]
    for k, (pixels, said) in enumerate(tiles):
        out.picture(pixels, k * (side + gap), 0, side, side)
        out.text(k * (side + gap) + 2, side + 20, said, 14)
    for k, soft in enumerate((grid.soft, grid.equalized), 1):
        wrong, x, y = all_wrong[k - 1], k * (side + gap), side + 40
        out.picture(_codewords(grid, soft, blocks), x, y, side, side)
        _mark_codewords(out, grid, wrong, (x, y, side))
        answer = matrix.decode(soft.tobytes(), grid.dim)
        verdict = "damaged" if answer == "QR_DAMAGED" else "read"
        out.text(x + 2, y + side + 20, f"{'soft' if k == 1 else 'equalized'}: {verdict}", 14)
        _draw_counts(out, x, y + side + 28, wrong, blocks)
    _draw_legend(out, 2, side + 60, blocks, all_wrong)
    return out


def _grey(grey: npt.NDArray[np.float32]) -> Pixels:
    low, high = float(grey.min()), float(grey.max())
    out: Pixels = ((grey - low) * (255 / (high - low))).astype(np.uint8)
    return out


def _diverging(soft: Softs) -> Pixels:
    """Blue for dark, orange for light, white for what is not known."""
    share = np.clip(soft / 256, -1, 1)[:, :, None]
    dark, light = np.array([30, 64, 175]), np.array([234, 88, 12])
    colour = np.where(share > 0, dark, light)
    out: Pixels = (255 + np.abs(share) * (colour - 255)).astype(np.uint8)
    return out


def _known(grid: Grid, soft: Softs) -> str:
    """Of the modules every symbol of the version has alike, those on the wrong side."""
    kinds = np.frombuffer(grid.layout["kinds"], np.uint8).reshape(soft.shape)
    wrong = ((kinds == 2) & (soft < 0)) | ((kinds == 1) & (soft > 0))
    return f"{int(wrong.sum())} of {int(((kinds == 1) | (kinds == 2)).sum())}"


def _wrong(soft: Softs, dim: int, sent: Any) -> list[int]:
    """Numbers of the codewords whose hard bits are not those that were sent."""
    raw, _ = matrix.take(soft.tobytes(), dim)
    return [k for k, (one, other) in enumerate(zip(raw, sent, strict=True)) if one != other]


def _codewords(grid: Grid, soft: Softs, blocks: dict[str, Any]) -> Pixels:
    """Bits in the colour of the block of their codeword; the rest grey."""
    out = np.where(soft[:, :, None] > 0, (75, 85, 99), (243, 244, 246)).astype(np.uint8)
    flat, bits = out.reshape(-1, 3), soft.ravel() > 0
    for k, owner in enumerate(blocks["owners"]):
        for at in grid.layout["order"][8 * k : 8 * k + 8]:
            flat[at] = HUES[owner % len(HUES)][0 if bits[at] else 1]
    return out


def _mark_codewords(
    out: Drawing, grid: Grid, wrong: list[int], box: tuple[float, float, float]
) -> None:
    """Outlines of the modules of wrong codewords."""
    x, y, side = box
    zoom = side / grid.dim
    outlines = []
    for k in wrong:
        inside = set(grid.layout["order"][8 * k : 8 * k + 8])
        for at in inside:
            u, v = at % grid.dim, at // grid.dim
            for du, dv, ends in (
                (0, -1, ((0, 0), (1, 0))), (1, 0, ((1, 0), (1, 1))),
                (0, 1, ((0, 1), (1, 1))), (-1, 0, ((0, 0), (0, 1))),
            ):  # fmt: skip
                if (v + dv) * grid.dim + u + du not in inside:
                    outlines.append([(x + (u + p) * zoom, y + (v + q) * zoom) for p, q in ends])
    if outlines:
        out.lines(outlines, RED, 1.6)


def _draw_counts(
    out: Drawing, x: float, y: float, wrong: list[int], blocks: dict[str, Any]
) -> None:
    for block, count in enumerate(_counts(wrong, blocks)):
        dark = "#{:02x}{:02x}{:02x}".format(*HUES[block % len(HUES)][0])
        said = f"{count} of {blocks['limit']}"
        out.rect(x + 2 + block * 75, y + 4, 11, 11, fill=dark)
        colour = RED if count > blocks["limit"] else INK
        out.text(x + 17 + block * 75, y + 15, said, 12, fill=colour, font_weight="bold")


def _draw_legend(
    out: Drawing, x: float, y: float, blocks: dict[str, Any], wrong: list[list[int]]
) -> None:
    out.text(x, y, "blue is dark, orange light;", 14)
    out.text(x, y + 20, "the paler, the less sure", 14)
    out.text(x, y + 60, f"{blocks['count']} Reed–Solomon blocks, a colour each", 14)
    for block in range(blocks["count"]):
        for k in range(2):
            colour = "#{:02x}{:02x}{:02x}".format(*HUES[block % len(HUES)][k])
            out.rect(x + block * 62 + k * 22, y + 70, 22, 22, fill=colour)
    out.rect(x + 1, y + 114, 20, 20, fill="none", stroke=RED, stroke_width=2)
    out.text(x + 30, y + 129, "codewords that are wrong", 14)
    over = sum(count > blocks["limit"] for count in _counts(wrong[0], blocks))
    out.text(x, y + 170, f"Up to {blocks['limit']} a block can be mended.", 14)
    out.text(x, y + 190, f"Before the equalizer {over} blocks have more;", 14)
    out.text(x, y + 210, f"after it {len(wrong[1])} codewords are wrong in all.", 14)


def _counts(wrong: list[int], blocks: dict[str, Any]) -> list[int]:
    """Wrong codewords of each block."""
    return [sum(blocks["owners"][k] == block for k in wrong) for block in range(blocks["count"])]


# ---- 5: fusion ----------------------------------------------------------------------------------


def lamp_lit(frame: clips.Frame, lamp: tuple[float, float]) -> Pixels:
    """The frame with a lamp mirrored in the symbol at a share of its sides."""
    c = frame.shown[0].corners
    x, y = c[0] + lamp[0] * (c[1] - c[0]) + lamp[1] * (c[3] - c[0])
    reach = LAMP_SIZE * float(np.linalg.norm(c[1] - c[0]))
    ys, xs = np.mgrid[0 : frame.luma.shape[0], 0 : frame.luma.shape[1]]
    light = 260 * np.exp(-((((xs - x) ** 2 + (ys - y) ** 2) / (2 * reach * reach)) ** 2))
    out: Pixels = np.clip(frame.luma + light + 0.5, 0, 255).astype(np.uint8)
    return out


def draw_fusion() -> Drawing:
    film = clips.hold(4, "card", frames=len(LAMPS), width=SIZE[0], height=SIZE[1])
    lumas = [lamp_lit(frame, lamp) for frame, lamp in zip(film, LAMPS, strict=True)]
    reader, lane = Reader(row_step=ROW_STEP, levels=1, thorough=False), Lane()
    side, gap = 300, 18
    out = Drawing(3 * side + 2 * gap, 3 * side + 116, "Three frames that cannot be read, joined")
    sums: npt.NDArray[np.float64] = np.zeros((0, 0))
    readings: Any = []
    for k, luma in enumerate(lumas):
        readings = lane.read(luma)
        grid = Grid(reader.placed(luma)[0])
        x, (x0, y0, x1, y1) = k * (side + gap), grid.box(9)
        out.photograph(luma[y0:y1, x0:x1], x, 0, side, side, 40)
        said = ", ".join(str(reading[0]) for reading in reader.read(luma)) or "cannot be read"
        out.text(x + 2, side + 19, f"frame {k + 1}: {said} alone", 14, font_weight="bold")
        out.picture(_diverging(grid.equalized), x, side + 30, side, side)
        out.text(x + 2, 2 * side + 49, "its soft modules", 14, fill=DIM)
        here = np.clip(grid.equalized, -CLIP, CLIP).astype(np.float64)
        sums = sums * FADE + here if k else here
    assert [reading[7] for reading in readings] == [FUSED], "the frames must be read only as one"
    joined = np.clip(sums, -30000, 30000).astype(np.int16)
    y = 2 * side + 62
    out.picture(_diverging((joined / 2.57).astype(np.int16)), 0, y, side, side)
    out.text(2, y + side + 19, "their sum, older frames weigh less", 14, font_weight="bold")
    read = matrix.decode(joined.tobytes(), joined.shape[0])
    assert isinstance(read, dict)
    version, level, sent = read["version"], read["level"], read["sent"]
    blocks: dict[str, Any] = symbol.blocks(int(str(version)), int(str(level)))
    x = side + gap
    out.picture(_codewords(grid, joined, blocks), x, y, side, side)
    wrong = _wrong(joined, grid.dim, sent)
    _mark_codewords(out, grid, wrong, (x, y, side))
    said = f"read: {read['corrected']} codewords corrected"
    out.text(x + 2, y + side + 19, said, 14, font_weight="bold")
    _draw_counts(out, x, y + side + 26, wrong, blocks)
    _draw_agreement(out, 2 * (side + gap), y, (grid, sent, blocks))
    return out


def _draw_agreement(
    out: Drawing, x: float, y: float, code: tuple[Grid, Any, dict[str, Any]]
) -> None:
    """How the check codewords of each block agree with the last frame's own modules."""
    grid, sent, blocks = code
    soft = np.clip(grid.equalized.ravel(), -CLIP, CLIP).astype(np.float64)
    agreed, total = np.zeros(blocks["count"]), np.ones(blocks["count"])
    for k in range(blocks["data"], len(sent)):
        block = blocks["owners"][k]
        for bit in range(8):
            value = soft[grid.layout["order"][8 * k + bit]]
            total[block] += abs(value)
            agreed[block] += value if sent[k] >> (7 - bit) & 1 else -value
    out.text(x + 2, y + 20, "does frame 3 alone agree?", 14, font_weight="bold")
    out.text(x + 2, y + 40, "its modules with the check codewords:", 14)
    for block, share in enumerate(agreed / total):
        dark = "#{:02x}{:02x}{:02x}".format(*HUES[block % len(HUES)][0])
        at = y + 62 + 30 * block
        out.rect(x + 2, at, 240, 18, fill="#f3f4f6")
        out.rect(x + 2, at, 240 * max(0.0, float(share)), 18, fill=dark)
        out.text(x + 250, at + 14, f"{share:.2f}", 14)
    foot = y + 62 + 30 * blocks["count"]
    out.line([(x + 122, y + 54), (x + 122, foot)], RED, 1.5, stroke_dasharray="4 3")
    out.text(x + 2, foot + 16, "0.5 is asked of every block;", 14, fill=RED)
    out.text(x + 2, foot + 36, "another content has about 0.", 14, fill=RED)


# ---- the command --------------------------------------------------------------------------------


def draw(folder: Path) -> list[Path]:
    """Writes the five pictures; raises AssertionError when they no longer show what they say."""
    folder.mkdir(parents=True, exist_ok=True)
    story = tell(frame_of("blur", 27, 26, 18))
    bent_luma = frame_of("curved", 29, 24, 12)
    bent = Grid(Reader(row_step=ROW_STEP, levels=1, thorough=False).placed(bent_luma)[0])
    pictures = {
        "1-rows": draw_rows(story),
        "2-finders": draw_finders(story),
        "3-place": draw_place(story, (bent_luma, bent)),
        "4-modules": draw_modules(story),
        "5-fusion": draw_fusion(),
    }
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.svg")
    return [folder / f"{name}.svg" for name in pictures]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, help="folder to write to")
    for path in draw(parser.parse_args(words).out):
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
