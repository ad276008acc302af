"""For native.jpeg: the inverse DCT as libjpeg's authors wrote it down, and pictures to decode."""

from __future__ import annotations

import functools
import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

Plane = npt.NDArray[np.uint8]


# ---- inverse DCT ------------------------------------------------------------------------------


def fix(x: float) -> int:
    return round(x * 8192)


def wrap16(x: int) -> int:
    return (x + 0x8000 & 0xFFFF) - 0x8000


def saturate16(x: int) -> int:
    return max(-0x8000, min(0x7FFF, x))


def eight(values: list[int], shift: int) -> list[int]:
    """One-dimensional transform after Loeffler, Ligtenberg and Moschytz."""
    v0, v1, v2, v3, v4, v5, v6, v7 = values
    z1 = (v2 + v6) * fix(0.541196100)
    tmp2 = z1 + v6 * -fix(1.847759065)
    tmp3 = z1 + v2 * fix(0.765366865)
    tmp0 = wrap16(v0 + v4) << 13
    tmp1 = wrap16(v0 - v4) << 13
    even = [tmp0 + tmp3, tmp1 + tmp2, tmp1 - tmp2, tmp0 - tmp3]

    z3, z4 = wrap16(v7 + v3), wrap16(v5 + v1)
    z5 = (z3 + z4) * fix(1.175875602)
    z1 = (v7 + v1) * -fix(0.899976223)
    z2 = (v5 + v3) * -fix(2.562915447)
    z3 = z3 * -fix(1.961570560) + z5
    z4 = z4 * -fix(0.390180644) + z5
    odd = [
        v1 * fix(1.501321110) + z1 + z4,
        v3 * fix(3.072711026) + z2 + z3,
        v5 * fix(2.053119869) + z2 + z4,
        v7 * fix(0.298631336) + z1 + z3,
    ]
    sums = [a + b for a, b in zip(even, odd, strict=True)]
    sums += [a - b for a, b in zip(even[::-1], odd[::-1], strict=True)]
    return [saturate16((x + (1 << shift - 1)) >> shift) for x in sums]


def inverse_dct(coefs: npt.NDArray[Any], quants: npt.NDArray[Any]) -> Plane:
    """8 x 8 coefficients and quantizers of 16 bits to pixels."""
    block = [
        [wrap16(int(c) * int(q)) for c, q in zip(row, by, strict=True)]
        for row, by in zip(coefs, quants, strict=True)
    ]
    if not np.any(coefs[1:]):
        block = [[wrap16(x * 4) for x in block[0]]] * 8
    else:
        columns = [eight(list(column), 11) for column in zip(*block, strict=True)]
        block = [list(row) for row in zip(*columns, strict=True)]
    rows = [eight(row, 18) for row in block]
    return (np.clip(np.array(rows), -128, 127) + 128).astype(np.uint8)


def true_inverse_dct(coefs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The definition (A.3.3), without rounding."""
    u, x = np.arange(8)[:, None], np.arange(8)[None, :]
    basis = np.cos((2 * x + 1) * u * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    pixels: npt.NDArray[np.float64] = basis.T @ coefs.astype(np.float64) @ basis + 128
    return np.clip(pixels, 0, 255)


# ---- pictures ---------------------------------------------------------------------------------


def scene(width: int, height: int, noise: float = 6.0, seed: int = 1) -> Plane:
    """Patches, ramps and noise: blocks with few, many and no coefficients."""
    rng = np.random.default_rng([seed, width, height])
    patches = rng.integers(0, 256, (height // 24 + 1, width // 24 + 1)).repeat(24, 0).repeat(24, 1)
    ramp = np.arange(width) % 64 + np.arange(height)[:, None] % 32
    rough = rng.normal(0, noise, (height, width)) * (np.arange(width) % 160 > 60)
    return np.clip(patches[:height, :width] * 0.7 + ramp + rough, 0, 255).astype(np.uint8)


def jpeg(luma: Plane, colour: str = "grey", **options: Any) -> bytes:
    """colour: grey, or the sampling of Pillow: 4:4:4, 4:2:2, 4:2:0. options: Pillow's."""
    image = Image.fromarray(luma)
    if colour != "grey":
        image = Image.merge("RGB", [image, image.transpose(Image.Transpose.ROTATE_180), image])
        options["subsampling"] = colour
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def jpeg_by_turbo(luma: Plane, sampling: str, quality: int = 80) -> bytes:
    """sampling: also 440 and 411."""
    picture = np.stack([luma, luma[::-1], luma[:, ::-1]], -1)
    coded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture), quality, colorsubsampling=sampling
    )
    return coded


def segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, begin, end) of each segment before the first scan's data, its header included."""
    found, at = [], 2
    while True:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], at, end))
        if data[at + 1] == 0xDA:
            return found
        at = end


def entropy_coded(data: bytes) -> bytes:
    return data[segments(data)[-1][2] : data.rindex(b"\xff\xd9")]


def jpeg_in_scans(planes: list[Plane], factors: list[int], order: list[list[int]]) -> bytes:
    """Components of grey pictures, each in a scan of its own; order: components of the scans.

    planes: of the sizes that follow from factors, the bytes of sampling factors.
    """
    greys = [jpeg(plane) for plane in planes]
    head = greys[0]
    out = head[:2]
    for marker, begin, end in segments(head):
        if marker in (0xDB, 0xC4):
            out += head[begin:end]
    height, width = planes[0].shape
    frame = bytes([8, *height.to_bytes(2, "big"), *width.to_bytes(2, "big"), len(planes)])
    for i, factor in enumerate(factors):
        frame += bytes([i + 1, factor, 0])
    out += b"\xff\xc0" + (len(frame) + 2).to_bytes(2, "big") + frame
    for scan in order:
        (i,) = scan
        out += bytes([0xFF, 0xDA, 0, 8, 1, i + 1, 0, 0, 63, 0]) + entropy_coded(greys[i])
    return out + b"\xff\xd9"


def by_simplejpeg(data: bytes) -> Plane | None:
    """What the engine's other decoder makes of it; None where it refuses."""
    try:
        luma: Plane = simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=False)[:, :, 0]
    except ValueError:
        return None
    return luma


RESTARTS: Final[list[dict[str, Any]]] = [
    {},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 1},
    {"restart_marker_blocks": 5},
]


@functools.cache
def small_jpegs() -> list[bytes]:
    """Little pictures of every kind the decoder does, to be damaged."""
    made = []
    for width, height in ((48, 40), (33, 17), (7, 50)):
        for noise in (0.0, 25.0):
            luma = scene(width, height, noise)
            for colour in ("grey", "4:4:4", "4:2:2", "4:2:0"):
                made += [jpeg(luma, colour, **options) for options in RESTARTS[:3]]
                made.append(jpeg(luma, colour, optimize=True, quality=95))
                made.append(jpeg(luma, colour, quality=25))
            made += [jpeg_by_turbo(luma, sampling) for sampling in ("440", "411")]
    chroma = scene(24, 20)
    made.append(jpeg_in_scans([scene(48, 40), chroma, chroma], [0x22, 0x11, 0x11], [[0], [2], [1]]))
    return made
