"""Lane clips made by rule: what a camera sees while people come, show a code and go.

`film(seed, condition)` gives the frames of one clip with exact truth: which codes are in a frame,
wholly or cut, where, and the passage each belongs to (one code shown once). Same seed, same
frames, with the same numpy, Pillow and segno. At least 30 of 100 frames show no code. Unlike
bench.lanes, which draws the three recorded lanes of tests/data/lanes, nothing here is staged: the
seed decides who comes, and every seed is another day.

    python -m bench.clips OUT --condition swap --seed 5

writes JPEG frames and a manifest.csv, to look at and for `python -m bench qr --data OUT`.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import segno
import simplejpeg
from PIL import Image

from bench import texts
from bench.held_things import Held, Pose
from bench.looks import Modules, holder
from bench.warp import Noise, Plane, Points, blur, enlarge

Luma = npt.NDArray[np.uint8]

WIDTH: Final = 1280
HEIGHT: Final = 720
FRAMES: Final = 60
QUALITY: Final = 80
EMPTY_SHARE: Final = (0.33, 0.42)
IMAGES: Final = Path(__file__).resolve().parent.parent / "tests" / "data" / "images"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the world of a clip is like.

    Pairs of floats are ranges, longer tuples are choices. swap, two, night, curved, glare,
    flicker: chances, the first two and the last two of a clip, the others of a showing.
    module_px: at rest. light: share of the usual. shutter: share of the frame time in which it
    is open. readout: share of the frame time between the first and the last row.
    """

    kinds: tuple[str, ...] = texts.PLAIN_KINDS
    module_px: tuple[float, float] = (2.6, 6.0)
    light: tuple[float, float] = (0.6, 1.05)
    noise: tuple[float, float] = (1.0, 3.5)
    defocus_px: tuple[float, ...] = (0.0, 0.0, 0.5, 0.8, 1.2)
    shutter: tuple[float, ...] = (0.03, 0.06, 0.12, 0.2)
    readout: tuple[float, ...] = (0.0, 0.0, 0.4, 0.8)
    tilt: float = 0.3
    swap: float = 0.3
    two: float = 0.0
    night: float = 0.05
    curved: float = 0.15
    glare: float = 0.2
    flicker: float = 0.15


PLAIN: Final = Conditions()
CONDITIONS: Final[dict[str, Conditions]] = {
    "plain": PLAIN,
    "dim": replace(PLAIN, light=(0.2, 0.4), noise=(2.0, 4.0), flicker=0.5),
    "blur": replace(PLAIN, defocus_px=(0.9, 1.2, 1.5, 1.8), shutter=(0.2, 0.3, 0.4)),
    "small": replace(PLAIN, module_px=(1.8, 3.0), defocus_px=(0.0, 0.3, 0.5, 0.6)),
    "swap": replace(PLAIN, swap=1.0, module_px=(3.2, 6.0), defocus_px=(0.0, 0.4, 0.6)),
    "two": replace(PLAIN, two=1.0, swap=0.0),
    "dark_mode": replace(PLAIN, night=1.0),
    "curved": replace(PLAIN, curved=1.0),
    "dense": replace(
        PLAIN, kinds=("dense",), module_px=(2.3, 4.0), defocus_px=(0.0, 0.0, 0.4, 0.7)
    ),
}


@dataclass(slots=True)
class Shown:
    """A code in a frame. state: whole, or partial where the edge or another thing cuts it.

    corners: outer corners of the symbol in its own order from the top left, (4, 2) pixels.
    passage: from 1, one code held up once.
    """

    text: bytes
    kind: str
    passage: int
    state: str
    corners: Points
    module_px: float


@dataclass(slots=True)
class Frame:
    """One frame and all codes any part of which is in it."""

    luma: Luma
    shown: list[Shown] = field(default_factory=list)

    @property
    def state(self) -> str:
        """empty, partial (one of the codes at least is cut) or whole."""
        if not self.shown:
            return "empty"
        return "whole" if all(s.state == "whole" for s in self.shown) else "partial"


def scenes() -> list[Path]:
    """Photographs without a code, to stand behind the people."""
    return sorted(IMAGES.glob("neg-scene/*.jpg"))


def symbol(kind: str, payload: bytes, mask: int | None = None) -> tuple[Modules, int]:
    """Dark modules in the mode its issuer would use, and the mask."""
    content: str | bytes = payload.decode() if payload.isascii() else payload
    code = segno.make(content, error=texts.LEVELS[kind], micro=False, boost_error=False, mask=mask)
    return np.array([list(row) for row in code.matrix], dtype=np.uint8) > 0, int(code.mask)


# ---- the plan of a clip -------------------------------------------------------------------------


@dataclass(slots=True)
class Turn:
    """A thing held up from frame `first` on. passage: of its first code; 0 where it shows none."""

    first: int
    passage: int
    kind: str
    payloads: list[bytes]
    held: Held


def shares(total: int, weights: list[float], least: int) -> list[int]:
    """Whole numbers near the weights that add up to total; `least` each where total allows."""
    least = min(least, total // len(weights))
    spare = total - least * len(weights)
    marks = [0.0]
    for weight in weights:
        marks.append(marks[-1] + weight)
    cuts = [round(spare * mark / marks[-1]) for mark in marks]
    return [least + b - a for a, b in itertools.pairwise(cuts)]


class Script:
    """Who comes when: the turns of one clip."""

    def __init__(
        self, r: random.Random, conditions: Conditions, frames: int, width: int, height: int
    ) -> None:
        self._r, self._c, self._size = r, conditions, (width, height)
        self._told: set[bytes] = set()
        self._passages = 0
        self._kinds = list(conditions.kinds)
        r.shuffle(self._kinds)
        self.turns: list[Turn] = []
        has_swap, has_two = r.random() < conditions.swap, r.random() < conditions.two
        count = max(1, min(r.choice((2, 3, 3, 4)), frames // 15))
        special = r.randrange(count) if has_swap or has_two else -1
        empty = math.ceil(frames * r.uniform(*EMPTY_SHARE))
        gaps = shares(empty, [0.7, *[1.0] * (count - 1), 0.7], 2)
        weights = [(1.7 if n == special else 1.0) * r.uniform(0.8, 1.2) for n in range(count)]
        at = 0
        for n, length in enumerate(shares(frames - empty, weights, 6)):
            if gaps[n] >= 8 and r.random() < 0.25:
                self._blank(at + 1, gaps[n] - 2)
            at += gaps[n]
            if n == special and has_two:
                late = max(1, length // 6)
                self._turn(at, length - late, (0.24, 0.34))
                self._turn(at + late, length - late, (0.66, 0.76))
            else:
                self._turn(at, length, (0.36, 0.64), has_swap and n == special)
            at += length

    def _payload(self, kind: str) -> bytes:
        while True:
            payload = texts.make(kind, self._r)
            if payload not in self._told:
                self._told.add(payload)
                return payload

    def _pose(self, frames: int, across: tuple[float, float]) -> Pose:
        r, c = self._r, self._c
        return Pose(
            frames=frames,
            module_px=r.uniform(*c.module_px),
            angle_deg=r.choice((0, 0, 0, 90, 180, 270)) + r.uniform(-35, 35),
            tilt=r.uniform(0, c.tilt),
            across=r.uniform(*across),
            down=r.uniform(0.42, 0.58),
        )

    def _turn(
        self, first: int, frames: int, across: tuple[float, float], is_swapped: bool = False
    ) -> None:
        r, c = self._r, self._c
        # Each kind once before any comes again.
        kind = self._kinds[self._passages % len(self._kinds)]
        payloads = [self._payload(kind)]
        if is_swapped:
            payloads.append(texts.twin(kind, payloads[0], r))
            self._told.add(payloads[1])
        codes, mask = [], None
        for payload in payloads:
            dark, used = symbol(kind, payload, mask)
            codes.append(dark)
            # Under the same mask the fewest modules change.
            mask = used if r.random() < 0.7 else None
        look = "card" if kind == "card" and r.random() < 0.55 else r.choice(("phone", "paper"))
        pose = self._pose(frames, across)
        is_night = r.random() < c.night
        held = Held(
            r, "phone" if is_night else look, codes, pose, self._size, is_night=is_night,
            curl=r.uniform(0.5, 1.1) if r.random() < c.curved else 0.0,
        )  # fmt: skip
        self.turns.append(Turn(first, self._passages + 1, kind, payloads, held))
        self._passages += len(payloads)

    def _blank(self, first: int, frames: int) -> None:
        """A phone or sheet without a code: text only."""
        nothing = np.zeros((33, 33), np.bool_)
        look = self._r.choice(("phone", "paper"))
        held = Held(self._r, look, [nothing], self._pose(frames, (0.3, 0.7)), self._size)
        self.turns.append(Turn(first, 0, "", [], held))


# ---- the camera ---------------------------------------------------------------------------------


class Camera:
    """One lane's view: scene, light and sensor."""

    def __init__(
        self, r: random.Random, conditions: Conditions, frames: int, size: tuple[int, int],
        backgrounds: list[Path],
    ) -> None:  # fmt: skip
        self.width, self.height = size
        self.ground = self._scene(r, r.choice(backgrounds))
        self.defocus_px = r.choice(conditions.defocus_px)
        self.shutter = r.choice(conditions.shutter)
        self.readout = r.choice(conditions.readout)
        self.sigma = r.uniform(*conditions.noise)
        self.gain = np.full(frames, r.uniform(*conditions.light))
        if r.random() < conditions.flicker:
            start = r.randrange(frames)
            self.gain[start : start + max(3, frames // 4)] *= r.uniform(0.3, 0.55)
        self.glare: tuple[float, float, float] | None = None
        if r.random() < conditions.glare:
            spot = (r.uniform(-60, 60), r.uniform(-60, 60))
            self.glare = (*spot, r.uniform(60, 110))
        # Two planes, each shifted and turned anew for every frame: as good as fresh ones.
        noise = Noise(r.getrandbits(32))
        self._noise = [noise.plane(self.height + 64, self.width + 64, 1.0) for _ in range(2)]
        xs = (np.arange(self.width) / self.width - 0.5) * 2
        ys = ((np.arange(self.height) / self.height - 0.5) * 2)[:, None]
        self._vignette = (1 - 0.1 * (xs**2 + ys**2)).astype(np.float32)
        self._has_holder = r.random() < 0.6
        self._body: tuple[int, Plane, Plane] | None = None
        self._r = random.Random(r.getrandbits(64))

    def _scene(self, r: random.Random, path: Path) -> Plane:
        with Image.open(path) as image:
            scene = np.asarray(image.convert("L"), dtype=np.float32)
        h, w = scene.shape
        zoom = max(self.width / w, self.height / h) * r.uniform(1.0, 1.3)
        if r.random() < 0.5:
            scene = scene[:, ::-1]
        cut_w, cut_h = min(w, round(self.width / zoom)), min(h, round(self.height / zoom))
        x, y = r.randint(0, w - cut_w), r.randint(0, h - cut_h)
        cut = np.ascontiguousarray(scene[y : y + cut_h, x : x + cut_w])
        return blur(enlarge(cut, self.width, self.height), r.choice((0.5, 1.0, 1.8, 3.0)))

    def view(self, turn: int, is_shown: bool) -> Plane:
        """A fresh ground, behind turn number `turn` with its holder."""
        ground = self.ground.copy()
        if self._has_holder and is_shown:
            if self._body is None or self._body[0] != turn:
                seed = f"{self._r.getrandbits(32)}/{turn}"
                grey, alpha = holder(random.Random(seed), self.height, self.width)
                whole = [enlarge(plane, self.width, self.height) for plane in (grey, alpha)]
                self._body = (turn, whole[0], whole[1])
            ground *= 1 - self._body[2]
            ground += self._body[1]
        return ground

    def expose(self, ground: Plane, n: int, spot: tuple[float, float] | None) -> Luma:
        """The picture the sensor gives of frame n. spot: where a lamp is mirrored from."""
        if spot is not None and self.glare is not None:
            x, y = spot[0] + self.glare[0], spot[1] + self.glare[1]
            xs, ys = np.arange(self.width) - x, (np.arange(self.height) - y)[:, None]
            lobe = np.exp(-(xs**2) / 7200).astype(np.float32)
            ground += np.float32(self.glare[2]) * np.exp(-(ys**2) / 5400).astype(np.float32) * lobe
        ground *= self._vignette * np.float32(self.gain[n])
        r = self._r
        plane, x0, y0 = r.choice(self._noise), r.randrange(64), r.randrange(64)
        grain = plane[y0 : y0 + self.height, x0 : x0 + self.width][:: r.choice((1, -1))]
        ground += grain[:, :: r.choice((1, -1))] * np.float32(r.choice((1, -1)) * self.sigma)
        ground += 0.5
        luma: Luma = np.clip(ground, 0, 255).astype(np.uint8)
        return luma


def _state(corners: Points, width: int, height: int) -> str:
    """whole, partial or outside."""
    if (corners >= 2).all() and (corners <= (width - 2, height - 2)).all():
        return "whole"
    low, high = corners.min(axis=0), corners.max(axis=0)
    is_outside = high[0] <= 0 or high[1] <= 0 or low[0] >= width or low[1] >= height
    return "outside" if is_outside else "partial"


def _is_covered(corners: Points, box: tuple[int, int, int, int], alpha: Plane) -> bool:
    """Whether a thing drawn later, with `alpha` in the frame box, lies over a code."""
    x0, y0, x1, y1 = box
    low, high = np.floor(corners.min(axis=0)) - 2, np.ceil(corners.max(axis=0)) + 2
    left, top = max(0, int(low[0]) - x0), max(0, int(low[1]) - y0)
    right, foot = int(high[0]) - x0, int(high[1]) - y0
    if right <= left or foot <= top or left >= x1 - x0 or top >= y1 - y0:
        return False
    return bool((alpha[top:foot, left:right] > 0.03).any())


def film(
    seed: int,
    condition: str = "plain",
    *,
    frames: int = FRAMES,
    width: int = WIDTH,
    height: int = HEIGHT,
    backgrounds: list[Path] | None = None,
) -> Iterator[Frame]:
    """Every frame of a clip in order, as the sensor gives it (no JPEG in between)."""
    c = CONDITIONS[condition]
    r = random.Random(f"{seed}/{condition}/{width}x{height}")
    camera = Camera(r, c, frames, (width, height), backgrounds or scenes())
    turns = Script(r, c, frames, width, height).turns
    for n in range(frames):
        now = [turn for turn in turns if turn.first <= n < turn.first + turn.held.frames]
        ground = camera.view(now[0].first if now else 0, bool(now))
        shown: list[Shown] = []
        spot = None
        for turn in now:
            drawn = turn.held.draw(ground, n - turn.first, camera)
            spot = tuple(drawn.corners.mean(axis=0))
            for other in shown:
                if drawn.alpha is not None and _is_covered(other.corners, drawn.box, drawn.alpha):
                    other.state = "partial"
            state = _state(drawn.corners, width, height)
            if turn.passage and state != "outside":
                payload = turn.payloads[drawn.which]
                passage = turn.passage + drawn.which
                px = drawn.module_px
                shown.append(Shown(payload, turn.kind, passage, state, drawn.corners, px))
        yield Frame(camera.expose(ground, n, spot), shown)


def hold(
    seed: int,
    kind: str,
    *,
    frames: int = 24,
    width: int = WIDTH,
    height: int = HEIGHT,
    twin_from: int | None = None,
) -> Iterator[Frame]:
    """One code held still by a hand: from frame to frame it moves by 1 to 3 pixels.

    No blur to speak of and good light: every frame can be read; all pixels differ by noise. From
    frame `twin_from` on its twin is there, under the same mask: all else stays as it would be.
    """
    c = replace(
        PLAIN, kinds=(kind,), module_px=(3.4, 5.0), defocus_px=(0.0, 0.4), shutter=(0.0,),
        readout=(0.0,), noise=(1.0, 2.5), light=(0.8, 1.0), curved=0.0, glare=0.0, night=0.0,
        flicker=0.0, tilt=0.15,
    )  # fmt: skip
    r = random.Random(f"{seed}/hold/{kind}/{width}x{height}")
    camera = Camera(r, c, frames, (width, height), scenes())
    payloads = [texts.make(kind, r)]
    payloads.append(texts.twin(kind, payloads[0], r))
    dark, mask = symbol(kind, payloads[0])
    codes = [dark, symbol(kind, payloads[1], mask)[0]]
    pose = Pose(frames, r.uniform(*c.module_px), r.uniform(-40, 40), r.uniform(0, c.tilt), 0.5, 0.5)
    held = Held(r, r.choice(("phone", "paper")), codes, pose, (width, height), is_still=True)
    held.swap = frames if twin_from is None else twin_from
    for n in range(frames):
        ground = camera.view(0, True)
        drawn = held.draw(ground, n, camera)
        text = payloads[drawn.which]
        shown = Shown(text, kind, drawn.which + 1, "whole", drawn.corners, drawn.module_px)
        yield Frame(camera.expose(ground, n, None), [shown])


def to_jpeg(luma: Luma, quality: int = QUALITY) -> bytes:
    """A grey baseline JPEG, as a camera would send it."""
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(luma[:, :, None]),
        quality=quality, colorspace="GRAY", colorsubsampling="Gray",
    )  # fmt: skip
    return data


# ---- files, to look at --------------------------------------------------------------------------

COLUMNS: Final = ("file", "expected_text", "category", "set", "frame_state", "module_px", "passage")


def write(out: Path, condition: str, seed: int, clips: int, frames: int) -> None:
    """Clips seed, seed + 1 … as folders of JPEG frames with one manifest.csv, as `--data` reads."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for k in range(seed, seed + clips):
            folder = f"{condition}-{k}"
            (out / folder).mkdir(exist_ok=True)
            for n, frame in enumerate(film(k, condition, frames=frames)):
                name = f"{folder}/{n:03d}.jpg"
                (out / name).write_bytes(to_jpeg(frame.luma))
                told = [shown.text.decode() for shown in frame.shown]
                known = json.dumps(told, ensure_ascii=False) if frame.state != "partial" else ""
                kind = frame.shown[0].kind if frame.state == "whole" else frame.state
                px = f"{frame.shown[0].module_px:.2f}" if frame.shown else ""
                numbers = " ".join(str(shown.passage) for shown in frame.shown)
                table.writerow([name, known, f"lane-{kind}", "lane", frame.state, px, numbers])


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.clips", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--condition", choices=CONDITIONS, default="plain")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--frames", type=int, default=FRAMES)
    chosen = parser.parse_args(words)
    write(chosen.out, chosen.condition, chosen.seed, chosen.clips, chosen.frames)
    return 0


if __name__ == "__main__":
    sys.exit(main())
