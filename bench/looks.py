"""Looks: what people hold up to a lane camera (phone, ID card, paper), the hand, the holder.

Everything is drawn in numpy. No letter of any real script stands on them: the lines of text are
strokes in the rhythm of words, so no picture can name anybody; only the code can be read.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import segno

from bench.warp import Plane, Points, blur

Modules = npt.NDArray[np.bool_]

ARM = 6.0  # how far the arm goes on below what is held, in sides of the code (card: half)

# Left edge, length and height of the lines on an ID card, in sides of its code: two of heading,
# then title, name and the rest.
CARD_LINES = [
    (1.3, 1.35, 0.07), (1.3, 1.5, 0.06), (1.45, 1.2, 0.1), (1.45, 2.3, 0.09), (1.45, 2.0, 0.1),
    (1.45, 1.5, 0.09), (1.45, 1.9, 0.08), (1.45, 2.5, 0.08), (1.45, 2.4, 0.08),
]  # fmt: skip


@dataclass(slots=True)
class Picture:
    """A flat thing: grey and alpha planes of one shape, and where its code is.

    corners: (4, 2) outer corners of the symbol without quiet zone, in the symbol's own order
    top left, top right, bottom right, bottom left; size: modules along one side.
    """

    grey: Plane
    alpha: Plane
    corners: Points
    size: int


def modules(payload: bytes, error: str, mask: int | None = None) -> tuple[Modules, int]:
    """Dark modules of a QR symbol in byte mode, and the mask used."""
    code = segno.make(payload, error=error, micro=False, boost_error=False, mask=mask, mode="byte")
    return np.array([list(row) for row in code.matrix], dtype=np.uint8) > 0, int(code.mask)


def rounded(shape: tuple[int, ...], box: tuple[float, float, float, float], radius: float) -> Plane:
    """Alpha of a rectangle (x0, y0, x1, y1) with round corners, edges one pixel soft."""
    h, w = shape
    x0, y0, x1, y1 = box
    xs, ys = np.arange(w) + 0.5, (np.arange(h) + 0.5)[:, None]
    dx = np.abs(xs - (x0 + x1) / 2) - (x1 - x0) / 2 + radius
    dy = np.abs(ys - (y0 + y1) / 2) - (y1 - y0) / 2 + radius
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)
    alpha: Plane = np.clip(0.5 - (outside - radius), 0, 1).astype(np.float32)
    return alpha


def capsule(
    shape: tuple[int, ...], a: tuple[float, float], b: tuple[float, float], radius: float
) -> tuple[Plane, Plane]:
    """Alpha of a thick line from a to b with round ends, and its height over the sheet, 0 to 1."""
    h, w = shape
    # Only the box around it is worked out; elsewhere both are 0.
    low, high = np.minimum(a, b) - radius - 1, np.maximum(a, b) + radius + 1
    x0, y0 = (max(0, math.floor(v)) for v in low)
    x1, y1 = max(x0, min(w, math.ceil(high[0]))), max(y0, min(h, math.ceil(high[1])))
    alpha, height = canvas(h, w)
    xs, ys = np.arange(x0, x1) + 0.5, (np.arange(y0, y1) + 0.5)[:, None]
    vx, vy = b[0] - a[0], b[1] - a[1]
    along = np.clip(((xs - a[0]) * vx + (ys - a[1]) * vy) / max(vx * vx + vy * vy, 1e-9), 0, 1)
    far = np.hypot(xs - a[0] - along * vx, ys - a[1] - along * vy)
    alpha[y0:y1, x0:x1] = np.clip(radius - far + 0.5, 0, 1)
    height[y0:y1, x0:x1] = np.sqrt(np.clip(1 - (far / radius) ** 2, 0, 1))
    return alpha, height


def paint(ground: Plane, alpha: Plane, grey: Plane | float) -> None:
    """Lays a colour over the ground, in place."""
    ground += alpha * (grey - ground)


def words(
    r: random.Random, ground: Plane, x: float, y: float, width: float, size: float, grey: float
) -> None:
    """A line of strokes that looks like text from afar; size: height of a capital in pixels."""
    t = max(1, round(size / 7))
    cell = max(3, round(size * 0.62))
    top, tall = round(y), max(3, round(size))
    left, end = round(x), round(x + width)
    letters = 0
    while left + cell < end:
        if letters >= 2 and r.random() < 0.22:
            left, letters = left + cell, 0
            continue
        h = tall if r.random() < 0.4 else round(tall * 0.72)
        y0, y1, x1 = top + tall - h, top + tall, left + cell - t - 1
        bars = [(y0, y1, left, left + t)] if r.random() < 0.8 else []
        bars += [(y0, y1, x1 - t, x1)] if r.random() < 0.55 else []
        bars += [(y0, y0 + t, left, x1)] if r.random() < 0.5 else []
        bars += [((y0 + y1) // 2, (y0 + y1) // 2 + t, left, x1)] if r.random() < 0.45 else []
        bars += [(y1 - t, y1, left, x1)] if r.random() < 0.5 else []
        for b0, b1, c0, c1 in bars:
            ground[b0:b1, c0:c1] = grey
        left, letters = left + cell, letters + 1


def tile(dark: Modules, scale: int, quiet: int, ink: float, ground: float) -> Plane:
    """The symbol with its quiet zone, `scale` pixels a module."""
    wide = np.pad(dark, quiet)
    return np.kron(np.where(wide, ink, ground), np.ones((scale, scale))).astype(np.float32)


def scratch(symbol: Plane, r: random.Random, light: float) -> None:
    """Damages a printed symbol beyond its error correction: worn patches and a crease."""
    h, w = symbol.shape
    for _ in range(7):
        a = (w * r.uniform(0.3, 0.95), h * r.uniform(0.3, 0.95))
        b = (a[0] + w * r.uniform(-0.3, 0.3), a[1] + h * r.uniform(-0.3, 0.3))
        alpha, _ = capsule(symbol.shape, a, b, w * r.uniform(0.04, 0.09))
        paint(symbol, alpha * np.float32(0.92), light - r.uniform(0, 40))


def corners_at(x: float, y: float, size: int, scale: int, quiet: int) -> Points:
    a, b = x + quiet * scale, y + quiet * scale
    side = size * scale
    return np.array([[a, b], [a + side, b], [a + side, b + side], [a, b + side]])


def hand(
    grey: Plane, alpha: Plane, grip: tuple[float, float], reach: float, skin: float, front: bool
) -> None:
    """Part of a hand at the grip point, in place; the arm leaves downwards.

    reach: pixels from knuckle to fingertip. front: the thumb, over what is held; otherwise palm,
    fingers and sleeve, drawn before it.
    """
    x, y = grip
    if front:
        limbs = [((x - 0.75 * reach, y + 0.9 * reach), (x - 0.1 * reach, y), 0.21 * reach)]
    else:
        limbs = [((x + 0.3 * reach, y + 1.6 * reach), (x + 0.9 * reach, y + 16 * reach), reach)]
        limbs += [((x, y + reach), (x + 0.2 * reach, y + 1.6 * reach), 0.85 * reach)]
        limbs += [
            ((x + 0.42 * k, y + reach), (x + 0.5 * k, y - 0.25 * reach), 0.2 * reach)
            for k in (-reach, 0.0, reach, 2 * reach)
        ]
    for k, (a, b, radius) in enumerate(limbs):
        shape, height = capsule(grey.shape, a, b, radius)
        tone = skin * (0.62 + 0.38 * height)
        if not front and k == 0:
            tone = np.float32(0.35) * tone + 25  # the sleeve
        paint(grey, shape, tone)
        np.maximum(alpha, shape, out=alpha)


def canvas(h: int, w: int) -> tuple[Plane, Plane]:
    return np.zeros((h, w), np.float32), np.zeros((h, w), np.float32)


def phone(
    r: random.Random,
    dark: Modules,
    scale: int,
    worn: bool = False,
    *,
    arm: float = ARM,
    is_night: bool = False,
) -> Picture:
    """A phone that shows the code in an app; is_night: light on dark, the code too."""
    size, quiet = len(dark), 4
    side = (size + 2 * quiet) * scale
    light, ink = r.uniform(225, 250), r.uniform(14, 34)
    if is_night:
        light, ink = ink, light - 20
    w, h = side * 1.1, side * 2.05
    margin = side * 0.55
    grey, alpha = canvas(round(h + margin + arm * side), round(w + 2 * margin))
    skin = r.uniform(120, 185)
    hand(grey, alpha, (margin + w * 0.55, margin + h * 0.82), side * 0.42, skin, front=False)
    body = rounded(grey.shape, (margin, margin, margin + w, margin + h), side * 0.09)
    paint(grey, body, r.uniform(10, 32))
    np.maximum(alpha, body, out=alpha)
    x0, y0, x1, y1 = margin + side * 0.03, margin + side * 0.12, margin + w - side * 0.03, 0.0
    y1 = margin + h - side * 0.12
    paint(grey, rounded(grey.shape, (x0, y0, x1, y1), side * 0.02), light)
    bar = rounded(grey.shape, (x0, y0, x1, y0 + side * 0.2), 1)
    paint(grey, bar, r.uniform(60, 130))
    words(r, grey, x0 + side * 0.2, y0 + side * 0.08, side * 0.62, side * 0.055, 240)
    for k, part in enumerate((0.7, 0.5)):
        y = y0 + side * (0.26 + 0.08 * k)
        words(r, grey, x0 + side * 0.1, y, side * part, side * 0.045, 60)
    cx, cy = round(margin + (w - side) / 2), round(y0 + side * 0.45)
    symbol = tile(dark, scale, quiet, ink, light)
    if worn:
        scratch(symbol, r, light)
    grey[cy : cy + side, cx : cx + side] = symbol
    below = cy + side
    for k in range(2):
        y = below + side * (0.02 + 0.08 * k)
        words(r, grey, x0 + side * 0.12, y, side * 0.8, side * 0.04, 90)
    button = (x0 + side * 0.2, y1 - side * 0.16, x1 - side * 0.2, y1 - side * 0.05)
    paint(grey, rounded(grey.shape, button, side * 0.05), r.uniform(70, 120))
    hand(grey, alpha, (margin + w * 0.05, margin + h * 0.78), side * 0.36, skin, front=True)
    return Picture(grey, alpha, corners_at(cx, cy, size, scale, quiet), size)


def card(
    r: random.Random,
    dark: Modules,
    scale: int,
    worn: bool = False,
    *,
    arm: float = ARM,
    is_night: bool = False,
) -> Picture:
    """A plastic ID card with the code in its upper right corner and a portrait of nobody."""
    size, quiet = len(dark), 3
    side = (size + 2 * quiet) * scale
    light, ink = r.uniform(205, 225), r.uniform(25, 45)
    w, h = side * 4.2, side * 2.65
    margin = side * 0.5
    grey, alpha = canvas(round(h + margin + arm / 2 * side), round(w + 2 * margin))
    skin = r.uniform(120, 185)
    hand(grey, alpha, (margin + w * 0.3, margin + h * 0.95), side * 0.62, skin, front=False)
    body = rounded(grey.shape, (margin, margin, margin + w, margin + h), side * 0.16)
    xs, ys = np.arange(grey.shape[1]), np.arange(grey.shape[0])[:, None]
    wave = np.sin(xs * 0.5 / scale + 4 * np.sin(ys * 0.12 / scale))
    shade = light - 14 + 16 * (xs / grey.shape[1]) + 3 * wave
    paint(grey, body, shade.astype(np.float32))
    np.maximum(alpha, body, out=alpha)
    px, py = margin + side * 0.22, margin + side * 0.95
    photo = (px, py, px + side * 1.05, py + side * 1.4)
    paint(grey, rounded(grey.shape, photo, 4), light + 12)
    head = (px + side * 0.52, py + side * 0.5)
    inside = rounded(grey.shape, photo, 4)
    for a, b, radius, tone in (
        ((px + side * 0.3, py + side * 1.35), (px + side * 0.75, py + side * 1.35), 0.36, 70.0),
        ((head[0], head[1] - side * 0.06), head, 0.27, 40.0),
        ((head[0], head[1] + side * 0.04), (head[0], head[1] + side * 0.12), 0.21, 150.0),
    ):
        shape, _ = capsule(grey.shape, a, b, side * radius)
        paint(grey, shape * inside, tone)
    seal = (px + side * 0.5, margin + side * 0.45)
    emblem, _ = capsule(grey.shape, seal, seal, side * 0.27)
    paint(grey, emblem, 110)
    for k, (x, part, tall) in enumerate(CARD_LINES):
        y = margin + side * (0.2 + 0.2 * k if k < 2 else 0.85 + 0.24 * (k - 2))
        words(r, grey, margin + side * x, y, side * part, side * tall, 55)
    cx, cy = round(margin + w - side * 1.14), round(margin + side * 0.1)
    symbol = tile(dark, scale, quiet, ink, light + 20)
    if worn:
        scratch(symbol, r, light)
    grey[cy : cy + side, cx : cx + side] = symbol
    hand(grey, alpha, (margin + w * 0.32, margin + h * 0.86), side * 0.6, skin, front=True)
    return Picture(grey, alpha, corners_at(cx, cy, size, scale, quiet), size)


def paper(
    r: random.Random,
    dark: Modules,
    scale: int,
    worn: bool = False,
    *,
    arm: float = ARM,
    is_night: bool = False,
) -> Picture:
    """A printed sheet folded small, with the code under a heading."""
    size, quiet = len(dark), 4
    side = (size + 2 * quiet) * scale
    light, ink = r.uniform(205, 230), r.uniform(30, 55)
    w, h = side * 1.5, side * 1.95
    margin = side * 0.45
    grey, alpha = canvas(round(h + margin + arm * side), round(w + 2 * margin))
    skin = r.uniform(120, 185)
    hand(grey, alpha, (margin + w * 0.6, margin + h * 0.92), side * 0.4, skin, front=False)
    body = rounded(grey.shape, (margin, margin, margin + w, margin + h), 3)
    ys = np.arange(grey.shape[0])[:, None] / grey.shape[0]
    fold = 10 * np.exp(-(((ys - 0.62) / 0.01) ** 2))
    paint(grey, body, (light - 12 * ys - fold + np.zeros_like(grey)).astype(np.float32))
    np.maximum(alpha, body, out=alpha)
    for k in range(4):
        y = margin + h * (0.05 + 0.045 * k)
        part, tall = (0.8, 0.05) if k else (0.55, 0.075)
        words(r, grey, margin + w * 0.1, y, w * part, side * tall, 50)
    cx, cy = round(margin + (w - side) / 2), round(margin + h * 0.24)
    symbol = tile(dark, scale, quiet, ink, light)
    if worn:
        scratch(symbol, r, light)
    grey[cy : cy + side, cx : cx + side] = symbol
    for k in range(4):
        words(r, grey, margin + w * 0.1, margin + h * (0.78 + 0.05 * k), w * 0.8, side * 0.05, 60)
    hand(grey, alpha, (margin + w * 0.08, margin + h * 0.9), side * 0.36, skin, front=True)
    return Picture(grey, alpha, corners_at(cx, cy, size, scale, quiet), size)


LOOKS = {"phone": phone, "card": card, "paper": paper}


def holder(r: random.Random, height: int, width: int) -> tuple[Plane, Plane]:
    """Grey and alpha of a masked person far out of focus, as wide and high as the frame."""
    h, w = height // 4, width // 4
    grey, alpha = canvas(h, w)
    mid, coat = w * 0.5, r.uniform(35, 120)
    skin, mask = r.uniform(110, 165), r.uniform(150, 215)
    parts = [
        ((mid - w * 0.12, h * 1.02), (mid + w * 0.12, h * 1.02), h * 0.36, coat),
        ((mid, h * 0.5), (mid, h * 0.62), h * 0.1, skin * 0.7),
        ((mid, h * 0.3), (mid, h * 0.4), h * 0.15, skin),
        ((mid - w * 0.03, h * 0.44), (mid + w * 0.03, h * 0.44), h * 0.075, mask),
        ((mid - w * 0.02, h * 0.155), (mid + w * 0.02, h * 0.155), h * 0.115, coat * 0.4 + 10),
    ]
    for a, b, radius, tone in parts:
        shape, round_ = capsule((h, w), a, b, radius)
        paint(grey, shape, tone * (0.75 + 0.25 * round_))
        np.maximum(alpha, shape, out=alpha)
    # Blurred with the alpha already multiplied in, so that no dark rim appears.
    return blur(grey * alpha, 2.6), blur(alpha, 2.6)
