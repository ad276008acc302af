"""Recorded lane clips: camera frames of one post's three lanes, made by rule from one seed.

    python -m bench.lanes OUT --seed 1

writes OUT/laneN.mjpeg (JPEG frames one after the other, grey, 960 x 540, 10 a second),
OUT/laneN.truth.jsonl (what every frame shows) and OUT/cast.json (who shows what, and what must
come of it). The same seed gives the same files, byte for byte, with the same numpy, Pillow,
simplejpeg and segno; README.md beside the clips names the versions.

Behind the people stand photographs from tests/data/images. The code that is held up passes
through what a camera does to it: perspective, focus, motion during the exposure, light, noise.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from bench.cast import LANES, TICKETS, Lane, Showing
from bench.looks import LOOKS, Picture, holder, modules
from bench.warp import (
    Matrix,
    Noise,
    Plane,
    Points,
    blur,
    enlarge,
    outline,
    project,
    sample,
    shift,
    smear,
    tilt,
    turn,
)

WIDTH, HEIGHT = 960, 540
FRAMES_PER_S = 10
QUALITY = 55
ENTER_FRAMES, LEAVE_FRAMES = 5, 4
SHUTTER = 0.14  # share of the frame time in which the shutter is open
NOISE_SIGMA = 0.7
SCENES = Path(__file__).resolve().parent.parent / "tests" / "data" / "images"


@dataclass(slots=True)
class Frame:
    """One frame and its truth: state is empty, partial (cut by the frame edge) or whole."""

    luma: npt.NDArray[np.uint8]
    state: str
    passage: int | None = None
    corners: Points | None = None
    module_px: float = 0.0
    smear_px: float = 0.0


class Stage:
    """One showing in front of one camera: where the thing is at frame t, and how it looks."""

    def __init__(self, showing: Showing, follower: Showing | None, r: random.Random) -> None:
        """follower: the showing that takes its place without leaving, or None."""
        self.showing = showing
        self.swap = showing.frames
        self.frames = showing.frames + (follower.frames if follower else 0)
        largest = max(showing.module_px, showing.module_px_end or 0.0)
        scale = max(4, math.ceil(1.35 * largest))
        look_seed = r.getrandbits(32)
        self.pictures: list[Picture] = []
        mask = None
        for each in [showing, follower] if follower else [showing]:
            # The same mask for both, so that as few modules as can be tell the two apart.
            dark, mask = modules(TICKETS[each.ticket].payload, "m", mask)
            look = LOOKS[each.look](random.Random(look_seed), dark, scale, each.readable == "no")
            soft = 0.45 * scale / showing.module_px
            look.grey, look.alpha = blur(look.grey * look.alpha, soft), blur(look.alpha, soft)
            self.pictures.append(look)
        self.scale = scale
        self.middle = self.pictures[0].corners.mean(axis=0)
        side = self.pictures[0].size * largest
        way = r.uniform(0, 2 * math.pi)
        lean = showing.tilt * (0.18 if showing.look == "card" else 0.4) / side
        self.lean = (lean * math.cos(way), lean * math.sin(way))
        across, down = (0.60, 0.40) if showing.look == "card" else (0.50, 0.46)
        across, down = across + r.uniform(-0.07, 0.07), down + r.uniform(-0.04, 0.04)
        self.rest = (WIDTH * across, HEIGHT * down)
        self.shake = [(r.uniform(1, 4), r.uniform(0.25, 0.6), r.uniform(0, 6)) for _ in range(3)]
        self.ways = [self._way(r), self._way(r)]

    def _way(self, r: random.Random) -> tuple[float, float]:
        """From the resting place to outside the frame, along the arm."""
        angle = math.radians(90 + self.showing.angle_deg + r.uniform(-15, 15))
        ux, uy = math.cos(angle), math.sin(angle)
        spots = project(self._matrix(self.frames / 2, self.rest), outline(self.pictures[0].grey))
        low, high = spots.min(axis=0), spots.max(axis=0)
        far = 0.0
        while (
            high[0] + ux * far > 0
            and low[0] + ux * far < WIDTH
            and high[1] + uy * far > 0
            and low[1] + uy * far < HEIGHT
        ):
            far += 10
        return ux * (far + 15), uy * (far + 15)

    def _matrix(self, t: float, place: tuple[float, float]) -> Matrix:
        s = self.showing
        end = s.module_px if s.module_px_end is None else s.module_px_end
        near = s.module_px + (end - s.module_px) * min(1.0, max(0.0, t / self.frames))
        a, b, c = self.shake[2]
        angle = s.angle_deg + 0.6 * a * math.sin(b * t + c)
        pose = tilt(*self.lean) @ turn(angle, near / self.scale)
        return shift(*place) @ pose @ shift(-self.middle[0], -self.middle[1])

    def place(self, t: float) -> tuple[float, float]:
        """Centre of the code in the frame at time t (frames since the showing began)."""
        (ax, bx, cx), (ay, by, cy), _ = self.shake
        x = self.rest[0] + ax * math.sin(bx * t + cx)
        y = self.rest[1] + ay * math.sin(by * t + cy)
        left = self.frames - t
        way, part = (0.0, 0.0), 0.0
        if t < ENTER_FRAMES:
            way, part = self.ways[0], (1 - (t + 0.4) / (ENTER_FRAMES + 0.4)) ** 2
        elif left <= LEAVE_FRAMES:
            way, part = self.ways[1], (1 - (left - 0.5) / LEAVE_FRAMES) ** 2
        return x + way[0] * part, y + way[1] * part

    def draw(self, ground: Plane, t: int) -> tuple[Points, float, int]:
        """Lays the thing over the ground: (corners, smear in pixels, 0 or 1 after the swap)."""
        which = int(t >= self.swap)
        picture, place = self.pictures[which], self.place(t)
        before = self.place(t - 1) if t else self.place(0.5)
        dx, dy = (place[0] - before[0]) * SHUTTER, (place[1] - before[1]) * SHUTTER
        matrix = self._matrix(t, place)
        spots = project(matrix, outline(picture.grey))
        pad = math.ceil(math.hypot(dx, dy) / 2 + 3 * self.showing.defocus_px) + 2
        x0, y0 = (max(0, math.floor(v) - pad) for v in spots.min(axis=0))
        limit = spots.max(axis=0)
        x1, y1 = min(WIDTH, math.ceil(limit[0]) + pad), min(HEIGHT, math.ceil(limit[1]) + pad)
        if x1 - x0 > 2 and y1 - y0 > 2:
            layers = sample([picture.grey, picture.alpha], matrix, (x0, y0, x1, y1))
            grey, alpha = (smear(blur(p, self.showing.defocus_px), dx, dy) for p in layers)
            region = ground[y0:y1, x0:x1]
            region *= 1 - alpha
            region += grey
        return project(matrix, picture.corners), math.hypot(dx, dy), which


class Camera:
    """The lane's view without anything held up: background, holder, light, noise."""

    def __init__(self, lane: Lane, seed: int) -> None:
        self.lane = lane
        self.seed = seed
        with Image.open(SCENES / lane.background) as image:
            scene = np.asarray(image.convert("L").crop(lane.view), dtype=np.float32)
        self.ground = blur(enlarge(scene, WIDTH, HEIGHT), lane.blur_px)
        self.noise = Noise(seed)
        xs = (np.arange(WIDTH) / WIDTH - 0.5) * 2
        ys = ((np.arange(HEIGHT) / HEIGHT - 0.5) * 2)[:, None]
        self.vignette = (1 - 0.13 * (xs**2 + ys**2)).astype(np.float32)
        self._body: tuple[tuple[int, int], Plane, Plane] | None = None

    def view(self, passage: int, slide_px: int) -> Plane:
        """The background, with the holder of the passage standing slide_px right of the middle."""
        ground = self.ground.copy()
        if not self.lane.has_holder or abs(slide_px) >= WIDTH:
            return ground
        if self._body is None or self._body[0] != (passage, slide_px):
            grey, alpha = holder(random.Random(f"{self.seed}/holder/{passage}"), HEIGHT, WIDTH)
            room = WIDTH // 4
            at = room - slide_px // 4
            moved = [np.pad(p, ((0, 0), (room, room)))[:, at : at + room] for p in (grey, alpha)]
            whole = [enlarge(p, WIDTH, HEIGHT) for p in moved]
            self._body = ((passage, slide_px), whole[0], whole[1])
        ground *= 1 - self._body[2]
        ground += self._body[1]
        return ground

    def expose(self, ground: Plane, n: int, dim: float) -> npt.NDArray[np.uint8]:
        """Light, lens and sensor."""
        light = dim * (0.97 + 0.025 * math.sin(0.07 * n + self.seed))
        seen = ground * self.vignette * np.float32(light)
        seen += self.noise.plane(HEIGHT, WIDTH, NOISE_SIGMA)
        luma: npt.NDArray[np.uint8] = np.clip(seen + 0.5, 0, 255).astype(np.uint8)
        return luma


def stages(lane: Lane, seed: int) -> list[tuple[int, int, Stage]]:
    """(first frame, number of its first passage, stage) of every showing of a lane."""
    found: list[tuple[int, int, Stage]] = []
    at = 0
    for k, showing in enumerate(lane.showings):
        at += showing.gap
        if not showing.in_place:
            after = lane.showings[k + 1] if k + 1 < len(lane.showings) else None
            follower = after if after is not None and after.in_place else None
            r = random.Random(f"{seed}/{lane.name}/{k}")
            found.append((at, k + 1, Stage(showing, follower, r)))
        at += showing.frames
    return found


def glare(ground: Plane, x: float, y: float) -> None:
    """A lamp mirrored in a screen at (x, y), in place."""
    xs, ys = np.arange(WIDTH) - x, (np.arange(HEIGHT) - y)[:, None]
    ground += (55 * np.exp(-(xs**2 + 1.6 * ys**2) / (2 * 55.0**2))).astype(np.float32)


def is_inside(corners: Points) -> bool:
    return bool((corners >= 2).all() and (corners <= (WIDTH - 2, HEIGHT - 2)).all())


def is_outside(corners: Points) -> bool:
    """No part of the code in the frame (its box does not touch it)."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    return bool(high[0] <= 0 or high[1] <= 0 or low[0] >= WIDTH or low[1] >= HEIGHT)


def light_at(played: list[tuple[int, int, Stage]], n: int) -> float:
    """Share of the usual light at frame n: it fades around a dim showing, over eight frames."""
    light = 1.0
    for first, _, stage in played:
        away = max(first - n, n - (first + stage.frames - 1), 0)
        light = min(light, 1 - (1 - stage.showing.dim) * max(0.0, 1 - away / 8))
    return light


def slide(first: int, frames: int, n: int) -> int:
    """How far the holder is from the middle: steps up before the showing, away after it."""
    early, late = first - n, n - (first + frames)
    away = max(early, late, 0)
    far = min(WIDTH, 16 * round(math.sqrt((away / 6) ** 3) * WIDTH * 0.05))
    return -far if early > 0 else far


def film(lane: Lane, seed: int) -> Iterator[Frame]:
    """Every frame of a lane in order."""
    camera = Camera(lane, seed)
    played = stages(lane, seed)
    for n in range(lane.frames):
        first, passage, stage = min(
            played, key=lambda p: max(p[0] - n, n - (p[0] + p[2].frames - 1), 0)
        )
        ground = camera.view(passage, slide(first, stage.frames, n))
        t = n - first
        frame = None
        if 0 <= t < stage.frames:
            corners, smear_px, which = stage.draw(ground, t)
            if stage.showing.glare:
                glare(ground, stage.rest[0] + 150, stage.rest[1] - 90)
            if not is_outside(corners):
                state = "whole" if is_inside(corners) else "partial"
                sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
                module_px = float(sides.mean()) / stage.pictures[which].size
                frame = (state, passage + which, corners, module_px, smear_px)
        luma = camera.expose(ground, n, light_at(played, n))
        yield Frame(luma, *frame) if frame else Frame(luma, "empty")


def truth_line(lane: Lane, n: int, frame: Frame) -> str:
    """One line of laneN.truth.jsonl; a code cut by the edge is named by its passage only."""
    line: dict[str, object] = {"n": n, "state": frame.state, "passage": frame.passage, "codes": []}
    if frame.state == "whole" and frame.passage is not None and frame.corners is not None:
        showing = lane.showings[frame.passage - 1]
        line["codes"] = [
            {
                "text": TICKETS[showing.ticket].payload.decode(),
                "corners": [[round(float(x), 1), round(float(y), 1)] for x, y in frame.corners],
                "module_px": round(frame.module_px, 2),
                "smear_px": round(frame.smear_px, 1),
                "readable": showing.readable,
            }
        ]
    return json.dumps(line, ensure_ascii=False)


def cast(seed: int) -> dict[str, object]:
    """cast.json: codes, and showings in the order of lanes and time."""
    codes = {
        name: {
            "payload": ticket.payload.decode(),
            "kind": ticket.kind,
            "holder": ticket.holder,
            "verdict": ticket.verdict,
            "reason": ticket.reason,
        }
        for name, ticket in TICKETS.items()
    }
    showings: list[dict[str, object]] = []
    for number, lane in enumerate(LANES, 1):
        at = 0
        for passage, showing in enumerate(lane.showings, 1):
            at += showing.gap
            ticket = TICKETS[showing.ticket]
            showings.append(
                {
                    "lane": number,
                    "passage": passage,
                    "code": showing.ticket,
                    "frames": [at, at + showing.frames],
                    "look": showing.look,
                    "readable": showing.readable,
                    "in_place": showing.in_place,
                    "verdict": showing.verdict or ticket.verdict,
                    "reason": ticket.reason,
                }
            )
            at += showing.frames
    return {
        "seed": seed,
        "width": WIDTH,
        "height": HEIGHT,
        "frames_per_s": FRAMES_PER_S,
        "lanes": [
            {
                "lane": number,
                "clip": f"{lane.name}.mjpeg",
                "frames": lane.frames,
                "scene": lane.background,
            }
            for number, lane in enumerate(LANES, 1)
        ],
        "codes": codes,
        "showings": showings,
    }


def write(out: Path, seed: int, quality: int = QUALITY) -> None:
    """Makes all files in folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for number, lane in enumerate(LANES, 1):
        lines: list[str] = []
        with (out / f"{lane.name}.mjpeg").open("wb") as clip:
            for n, frame in enumerate(film(lane, seed * 1000 + number)):
                grey = np.ascontiguousarray(frame.luma[:, :, None])
                clip.write(
                    simplejpeg.encode_jpeg(
                        grey, quality=quality, colorspace="GRAY", colorsubsampling="Gray"
                    )
                )
                lines.append(truth_line(lane, n, frame))
        truth = "\n".join(lines) + "\n"
        (out / f"{lane.name}.truth.jsonl").write_text(truth, encoding="utf-8")
    text = json.dumps(cast(seed), ensure_ascii=False, indent=1) + "\n"
    (out / "cast.json").write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lanes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quality", type=int, default=QUALITY, help="JPEG quality, 1 to 100")
    options = parser.parse_args(argv)
    write(options.out, options.seed, options.quality)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
