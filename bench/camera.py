"""`python -m bench.camera`: what a camera's JPEG settings cost; the table in docs/decoding.md.

Frames of the recorded lanes, enlarged, with noise as sensors have it, are encoded with each setting
and decoded by native.jpeg and by simplejpeg in turns. Figures are CPU time of the thread, the least
of the repetitions of each frame, added up and divided by the frames; so a busy neighbour hardly
shows. Every decoded pixel is compared before anything is measured.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from bench.harness import ROOT
from engine.decoding.images import split_mjpeg
from native.jpeg.luma import DONE, Luma

Picture = npt.NDArray[np.uint8]

CLIP: Final = ROOT / "tests" / "data" / "lanes" / "lane1.mjpeg"
FRAMES: Final = range(20, 180, 20)
REPETITIONS: Final = 12
NOISE: Final = 2.0  # standard deviation, of 255
PART: Final = (0.3, 0.7)  # rows around a held code
ROWS: Final = {"restart_marker_rows": 1}

# Name, width, whether grey, options of the encoder.
SETTINGS: Final[list[tuple[str, int, bool, dict[str, Any]]]] = [
    *[(f"1280 × 720 grey, quality {q}", 1280, True, {"quality": q}) for q in (50, 60, 70, 80, 90)],
    *[(f"1280 × 720 4:2:0, quality {q}", 1280, False, {"quality": q}) for q in (50, 70, 80, 90)],
    ("1280 × 720 grey, 80, restarts", 1280, True, {"quality": 80, **ROWS}),
    ("1280 × 720 4:2:0, 80, restarts", 1280, False, {"quality": 80, **ROWS}),
    *[
        (f"{w} × {w * 9 // 16} grey, quality 80", w, True, {"quality": 80})
        for w in (640, 960, 1920)
    ],
]


def scenes(width: int) -> list[Picture]:
    """Colour frames of that width."""
    clip = list(split_mjpeg(CLIP.read_bytes()))
    rng = np.random.default_rng(1)
    found = []
    for n in FRAMES:
        image = Image.open(io.BytesIO(clip[n])).convert("RGB")
        image = image.resize((width, width * 9 // 16), Image.Resampling.BICUBIC)
        pixels = np.asarray(image) + rng.normal(0, NOISE, (image.height, width, 1))
        found.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return found


def encode(picture: Picture, is_grey: bool, options: dict[str, Any]) -> bytes:
    image = Image.fromarray(picture)
    if is_grey:
        image = image.convert("L")
    else:
        options = {**options, "subsampling": "4:2:0"}
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def measure(frames: list[bytes]) -> tuple[float, ...]:
    """µs a frame: simplejpeg, ours, ours of the middle rows, ours of one pixel a block."""
    whole, part, small = Luma(), Luma(), Luma()
    height = simplejpeg.decode_jpeg_header(frames[0])[0]
    y0, y1 = (round(share * height) for share in PART)

    def peer(frame: bytes) -> Any:
        return simplejpeg.decode_jpeg(frame, colorspace="GRAY")[:, :, 0]

    for frame in frames:
        luma = peer(frame)
        if whole.decode(frame) != DONE or part.decode(frame, y0, y1) != DONE:
            sys.exit("bench: a sound frame was refused")
        if not np.array_equal(np.asarray(whole), luma):
            sys.exit("bench: WRONG: other pixels than simplejpeg")
        if not np.array_equal(np.asarray(part)[y0:y1], luma[y0:y1]):
            sys.exit("bench: WRONG: other pixels in a part")
    jobs: list[Callable[[bytes], Any]] = [
        peer,
        whole.decode,
        lambda frame: part.decode(frame, y0, y1),
        small.decode_dc,
    ]
    least = np.full((len(jobs), len(frames)), np.inf)
    for _ in range(REPETITIONS):
        for n, frame in enumerate(frames):
            for i, job in enumerate(jobs):
                begun_ns = time.thread_time_ns()
                job(frame)
                least[i, n] = min(least[i, n], time.thread_time_ns() - begun_ns)
    return tuple(float(x) / 1000 for x in least.mean(axis=1))


def main() -> None:
    print("| setting | kB | simplejpeg | ours | ratio | middle 40 % of rows | a pixel a block |")
    print("|---|---|---|---|---|---|---|")
    for name, width, is_grey, options in SETTINGS:
        frames = [encode(picture, is_grey, options) for picture in scenes(width)]
        size = sum(map(len, frames)) / len(frames) / 1000
        peer, whole, part, small = measure(frames)
        cells = (f"{size:.0f}", f"{peer:.0f}", f"{whole:.0f}", f"{peer / whole:.2f}")
        print(f"| {name} | {' | '.join(cells)} | {part:.0f} | {small:.0f} |", flush=True)


if __name__ == "__main__":
    main()
