"""Geometry and optics of a made picture: perspective, sampling, blur, smear, sensor noise.

All pictures are float32 arrays (rows, columns), 0 black to 255 white; alpha planes run 0 to 1.
Points are (x, y) in pixels, the centre of the top left pixel is (0.5, 0.5), so that a picture
of w x h pixels covers 0..w and 0..h. Plain numpy: the picture is made the same way everywhere.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Points = npt.NDArray[np.float64]


def shift(x: float, y: float) -> Matrix:
    """Homography that moves points by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def turn(angle_deg: float, scale: float) -> Matrix:
    """Homography that turns clockwise on the screen and scales, about the origin."""
    a = math.radians(angle_deg)
    c, s = scale * math.cos(a), scale * math.sin(a)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def tilt(x: float, y: float) -> Matrix:
    """Homography of a sheet tilted away from the camera about the origin.

    x, y: growth of the distance per pixel; 0.0005 makes what lies 400 pixels off 20 % smaller.
    """
    return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [x, y, 1.0]])


def project(matrix: Matrix, points: Points) -> Points:
    """Points (n, 2) under a homography."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    flat: Points = homogeneous[:, :2] / homogeneous[:, 2:]
    return flat


def outline(picture: Plane) -> Points:
    """The four corners of a picture, clockwise from the top left."""
    h, w = picture.shape
    return np.array([[0, 0], [w, 0], [w, h], [0, h]], dtype=np.float64)


def sample(planes: list[Plane], matrix: Matrix, box: tuple[int, int, int, int]) -> list[Plane]:
    """Each plane seen through `matrix` in the frame box (x0, y0, x1, y1); 0 outside the plane.

    Bilinear, by the inverse map of every pixel centre. All planes have the same shape. A plane
    shown much smaller than it is must be blurred before, or fine structure aliases.
    """
    x0, y0, x1, y1 = box
    h, w = planes[0].shape
    inverse = np.linalg.inv(matrix)
    xs = np.arange(x0, x1) + 0.5
    ys = (np.arange(y0, y1) + 0.5)[:, None]
    depth = inverse[2, 0] * xs + inverse[2, 1] * ys + inverse[2, 2]
    # A margin of one pixel of zeros makes the edge fade instead of repeating the last column.
    u = (inverse[0, 0] * xs + inverse[0, 1] * ys + inverse[0, 2]) / depth + 0.5
    v = (inverse[1, 0] * xs + inverse[1, 1] * ys + inverse[1, 2]) / depth + 0.5
    u = np.clip(u, 0.0, w + 0.999)
    v = np.clip(v, 0.0, h + 0.999)
    column, row = u.astype(np.int32), v.astype(np.int32)
    return [_bilinear(plane, row, column, u - column, v - row) for plane in planes]


def _bilinear(
    plane: Plane,
    row: npt.NDArray[np.int32],
    column: npt.NDArray[np.int32],
    u: npt.NDArray[np.float64],
    v: npt.NDArray[np.float64],
) -> Plane:
    """Values between pixels. row, column: in the plane with a margin of one; u, v: beyond them."""
    wide = plane.shape[1] + 2
    fu, fv = u.astype(np.float32), v.astype(np.float32)
    at = row * wide + column
    flat = np.pad(plane, 1).ravel()
    top = flat[at] * (1 - fu) + flat[at + 1] * fu
    low = flat[at + wide] * (1 - fu) + flat[at + wide + 1] * fu
    between: Plane = top * (1 - fv) + low * fv
    return between


def blur(picture: Plane, sigma: float) -> Plane:
    """Gaussian blur, sigma in pixels; the edge repeats outwards."""
    if sigma < 0.05:
        return picture
    radius = max(1, math.ceil(3 * sigma))
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma * sigma))
    weights = (weights / weights.sum()).astype(np.float32)
    out = picture
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (radius, radius)
        wide = np.pad(out, pad, mode="edge")
        size = out.shape[axis]
        total = np.zeros_like(out)
        for k, weight in enumerate(weights):
            part = wide[k : k + size, :] if axis == 0 else wide[:, k : k + size]
            total += weight * part
        out = total
    return out


def smear(picture: Plane, dx: float, dy: float) -> Plane:
    """Motion blur: the mean of the picture moved along the way (dx, dy), centred; 0 comes in."""
    length = math.hypot(dx, dy)
    if length < 1.2:
        return picture
    count = math.ceil(length) + 1
    reach = math.ceil(length / 2) + 1
    h, w = picture.shape
    wide = np.pad(picture, reach)
    total = np.zeros_like(picture)
    for k in range(count):
        part = k / (count - 1) - 0.5
        x, y = reach + round(part * dx), reach + round(part * dy)
        total += wide[y : y + h, x : x + w]
    return total / np.float32(count)


def curl(
    planes: list[Plane], corners: Points, axis: float, arc: float
) -> tuple[list[Plane], Points]:
    """A sheet bent around a cylinder: its planes and the corners of its code as seen from above.

    axis: direction of the bend, radians. arc: angle bent over the length of the code. The middle
    of the code stays where it is; what lies on the far side of the cylinder is not seen.
    """
    h, w = planes[0].shape
    side = float(np.linalg.norm(corners[1] - corners[0]))
    radius, distance = side / arc, 6.0 * side
    cx, cy = corners.mean(axis=0)
    ax, ay = math.cos(axis), math.sin(axis)
    # Along the bend: where on the sheet (s) is what is seen at distance d from the middle.
    theta = np.linspace(-1.45, 1.45, 2001)
    depth = 1 + radius * (1 - np.cos(theta)) / distance
    seen = radius * np.sin(theta) / depth
    # Behind the horizon seen falls again; only the visible stretch is kept.
    keep = slice(int(seen.argmin()), int(seen.argmax()) + 1)
    theta, depth, seen = theta[keep], depth[keep], seen[keep]
    xs, ys = np.arange(w) + 0.5 - cx, (np.arange(h) + 0.5 - cy)[:, None]
    d, e = xs * ax + ys * ay, ys * ax - xs * ay
    s = np.interp(d, seen, theta) * radius
    across = e * np.interp(d, seen, depth)
    light = np.cos(np.interp(d, seen, theta) * 0.7).astype(np.float32)
    light *= (d >= seen[0]) & (d <= seen[-1])
    u = np.clip(cx + s * ax - across * ay + 0.5, 0.0, w + 0.999)
    v = np.clip(cy + s * ay + across * ax + 0.5, 0.0, h + 0.999)
    column, row = u.astype(np.int32), v.astype(np.int32)
    bent = [_bilinear(p, row, column, u - column, v - row) for p in planes]
    bent[0] *= light
    bent[1] *= light > 0
    x, y = corners[:, 0] - cx, corners[:, 1] - cy
    angle = (x * ax + y * ay) / radius
    away = 1 + radius * (1 - np.cos(angle)) / distance
    d, e = radius * np.sin(angle) / away, (y * ax - x * ay) / away
    return bent, np.stack([cx + d * ax - e * ay, cy + d * ay + e * ax], axis=1)


def enlarge(picture: Plane, width: int, height: int) -> Plane:
    """The picture stretched to width x height pixels, bilinear."""
    h, w = picture.shape
    matrix = np.diag([width / w, height / h, 1.0])
    edge = np.pad(picture, 2, mode="edge")
    return sample([edge], matrix @ shift(-2, -2), (0, 0, width, height))[0]


class Noise:
    """Sensor noise that is the same on every machine and numpy version.

    Only the raw 64-bit stream of PCG64 is promised to stay; four bytes summed are close to
    normal (variance 4 * (256**2 - 1) / 12).
    """

    _SPREAD = math.sqrt(4 * (256**2 - 1) / 12)

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def plane(self, height: int, width: int, sigma: float) -> Plane:
        """One plane of noise with mean 0 and standard deviation `sigma`."""
        raw = self._bits.random_raw((height * width + 1) // 2)
        grains = raw.astype("<u8").view(np.uint8)[: 4 * height * width]
        total = grains.reshape(height, width, 4).sum(axis=2, dtype=np.int32)
        plane: Plane = ((total - 510) * np.float32(sigma / self._SPREAD)).astype(np.float32)
        return plane
