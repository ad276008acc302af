"""A thing with a code held into the picture: its way through the frame, and how it is drawn."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bench.looks import LOOKS, Modules, Picture
from bench.warp import (
    Matrix,
    Plane,
    Points,
    blur,
    curl,
    outline,
    project,
    sample,
    shift,
    smear,
    tilt,
    turn,
)

MARGIN_PX = 14  # between a code at rest and the edge of the frame
SIDE_MAX = 0.62  # of the frame's height


class Lens(Protocol):
    """What of the camera matters for a thing in front of it."""

    defocus_px: float
    shutter: float
    readout: float


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a thing rests and for how many frames it is there, coming and going included.

    module_px: at rest; less where the code would not fit. across, down: shares of the frame.
    tilt: growth of the distance over the length of the code.
    """

    frames: int
    module_px: float
    angle_deg: float
    tilt: float
    across: float
    down: float


@dataclass(slots=True)
class Drawn:
    """What was laid over the frame. which: number of the code shown, 1 after a swap in place.

    box, alpha: the part of the frame it covers, alpha None where it is out of the frame.
    """

    corners: Points
    which: int
    module_px: float
    box: tuple[int, int, int, int]
    alpha: Plane | None


class Held:
    """One thing, with one code or with a second that takes the place of the first."""

    def __init__(
        self,
        r: random.Random,
        look: str,
        codes: list[Modules],
        pose: Pose,
        size: tuple[int, int],
        *,
        is_night: bool = False,
        is_still: bool = False,
        curl: float = 0.0,
    ) -> None:
        """size: (width, height) of the frame. curl: angle of the arc a sheet is bent to, radians
        over the length of its code. is_still: neither comes nor goes, and jumps by 1 to 3 pixels.
        """
        self.frames = pose.frames
        self.pose = pose
        self.width, self.height = size
        count = len(codes[0])
        px = min(pose.module_px, SIDE_MAX * self.height / count)
        px = max(px, 3.0) if len(codes) > 1 else px
        self.scale = max(3, math.ceil(px))
        self.pictures = self._draw_pictures(r, look, codes, px, is_night, curl)
        self.zoom = px / self.scale
        self.middle = self.pictures[0].corners.mean(axis=0)
        way = r.uniform(0, 2 * math.pi)
        # Per pixel of the frame; far ends of a long arm must not come behind the camera.
        far = self.zoom * np.abs(outline(self.pictures[0].grey) - self.middle).sum(axis=1).max()
        lean = min(pose.tilt / (count * px), 0.6 / far)
        self.lean = (lean * math.cos(way), lean * math.sin(way))
        self.shake = [(r.uniform(1, 5), r.uniform(0.25, 0.6), r.uniform(0, 6)) for _ in range(2)]
        self.swing = (r.uniform(0.2, 2.0), r.uniform(0.1, 0.3), r.uniform(0, 6))
        self.rest = self._rest()
        span = max(2, self.frames // (3 + len(codes)))
        self.enter = 0 if is_still else r.randint(2, max(2, min(8, span)))
        self.leave = 0 if is_still else r.randint(2, max(2, min(7, span)))
        stay = self.frames - self.enter - self.leave
        self.swap = self.frames
        if len(codes) > 1:
            self.swap = self.enter + round(stay * r.uniform(0.4, 0.6))
        self.ways = [self._way(r), self._way(r)]
        self.steps = self._steps(r) if is_still else None

    def _draw_pictures(
        self, r: random.Random, look: str, codes: list[Modules], px: float, is_night: bool,
        arc: float,
    ) -> list[Picture]:  # fmt: skip
        made = []
        seed = r.getrandbits(64)  # the same look for both codes
        count = len(codes[0])
        arm = min(6.0, max(1.5, 0.75 * self.height / (count * px)))
        soft = 0.45 * self.scale / px
        for dark in codes:
            picture = LOOKS[look](random.Random(seed), dark, self.scale, arm=arm, is_night=is_night)
            picture.grey = blur(picture.grey * picture.alpha, soft)
            picture.alpha = blur(picture.alpha, soft)
            if arc and look == "paper":
                bent = random.Random(seed)
                planes, corners = curl(
                    [picture.grey, picture.alpha], picture.corners, bent.uniform(0, math.pi), arc
                )
                picture = Picture(planes[0], planes[1], corners, picture.size)
            made.append(picture)
        return made

    def _rest(self) -> tuple[float, float]:
        """The resting place, moved so that the whole code is well inside."""
        aim = np.array([self.width * self.pose.across, self.height * self.pose.down])
        spots = project(self._matrix(0.0, (0.0, 0.0)), self.pictures[0].corners)
        sway = max(a for a, _, _ in self.shake) + MARGIN_PX
        low, high = spots.min(axis=0) - sway, spots.max(axis=0) + sway
        size = np.array([self.width, self.height])
        x, y = np.maximum(np.minimum(aim, size - high), -low)
        return float(x), float(y)

    def _way(self, r: random.Random) -> tuple[float, float, float]:
        """(x, y, ease): from the resting place to where nothing of the code is in the frame."""
        angle = r.choice((0.5, 0.5, 0.5, -0.5, 0.0, 1.0)) * math.pi + r.uniform(-0.4, 0.4)
        ux, uy = math.cos(angle), math.sin(angle)
        spots = project(self._matrix(0.0, self.rest), self.pictures[0].corners)
        low, high = spots.min(axis=0), spots.max(axis=0)
        far = 0.0
        while (
            high[0] + ux * far > 0
            and low[0] + ux * far < self.width
            and high[1] + uy * far > 0
            and low[1] + uy * far < self.height
        ):
            far += 10
        far += 15
        return ux * far, uy * far, r.uniform(1.6, 3.0)

    def _steps(self, r: random.Random) -> list[tuple[float, float]]:
        """Offsets of a hand that holds still: 1 to 3 pixels apart, never far from the middle."""
        x = y = 0.0
        steps = []
        for _ in range(self.frames):
            home = math.atan2(-y, -x) if math.hypot(x, y) > 4 else r.uniform(0, 2 * math.pi)
            angle, length = home + r.uniform(-0.8, 0.8), r.uniform(1, 3)
            x, y = x + length * math.cos(angle), y + length * math.sin(angle)
            steps.append((x, y))
        return steps

    def _matrix(self, t: float, place: tuple[float, float]) -> Matrix:
        a, b, c = self.swing
        angle = self.pose.angle_deg + a * math.sin(b * t + c)
        near = self.zoom * (1 + 0.02 * math.sin(0.11 * t + c))
        pose = tilt(*self.lean) @ turn(angle, near)
        return shift(*place) @ pose @ shift(-self.middle[0], -self.middle[1])

    def place(self, t: float) -> tuple[float, float]:
        """Centre of the code at time t, in frames."""
        if self.steps is not None:
            x, y = self.steps[min(max(int(t), 0), self.frames - 1)]
            return self.rest[0] + x, self.rest[1] + y
        (ax, bx, cx), (ay, by, cy) = self.shake
        x = self.rest[0] + ax * math.sin(bx * t + cx)
        y = self.rest[1] + ay * math.sin(by * t + cy)
        left = self.frames - t
        if t < self.enter:
            wx, wy, ease = self.ways[0]
            part = (1 - (max(t, -0.4) + 0.4) / (self.enter + 0.4)) ** ease
        elif left <= self.leave:
            wx, wy, ease = self.ways[1]
            part = (1 - (left - 0.5) / self.leave) ** ease
        else:
            return x, y
        return x + wx * part, y + wy * part

    def draw(self, ground: Plane, t: int, lens: Lens) -> Drawn:
        """Lays the thing as it is at frame t over the ground, in place."""
        which = int(t >= self.swap)
        picture, place = self.pictures[which], self.place(t)
        vx, vy = (a - b for a, b in zip(place, self.place(t - 1), strict=True))
        if self.steps is not None:
            vx = vy = 0.0
        matrix = _rolling(vx * lens.readout, vy * lens.readout, self.height)
        matrix = matrix @ self._matrix(t, place)
        corners = project(matrix, picture.corners)
        sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
        module_px = float(sides.mean()) / picture.size
        dx, dy = vx * lens.shutter, vy * lens.shutter
        spots = project(matrix, outline(picture.grey))
        pad = math.ceil(math.hypot(dx, dy) / 2 + 3 * lens.defocus_px) + 2
        low, high = spots.min(axis=0), spots.max(axis=0)
        x0, y0 = max(0, math.floor(low[0]) - pad), max(0, math.floor(low[1]) - pad)
        x1 = min(self.width, math.ceil(high[0]) + pad)
        y1 = min(self.height, math.ceil(high[1]) + pad)
        box, alpha = (x0, y0, x1, y1), None
        if x1 - x0 > 2 and y1 - y0 > 2:
            layers = sample([picture.grey, picture.alpha], matrix, box)
            grey, alpha = (smear(blur(p, lens.defocus_px), dx, dy) for p in layers)
            region = ground[y0:y1, x0:x1]
            region *= 1 - alpha
            region += grey
        return Drawn(corners, which, module_px, box, alpha)


def _rolling(vx: float, vy: float, height: int) -> Matrix:
    """Homography of a shutter that reads row by row: what moves (vx, vy) meanwhile is sheared."""
    # A point at y is seen at y' = y + vy * (y' / height - 1/2), and its x moves in proportion.
    k = 1 / (1 - vy / height) if abs(vy) < 0.9 * height else 1.0
    down = np.array([[1.0, 0.0, 0.0], [0.0, k, -0.5 * vy * k], [0.0, 0.0, 1.0]])
    side = np.array([[1.0, vx / height, -0.5 * vx], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    matrix: Matrix = side @ down
    return matrix
