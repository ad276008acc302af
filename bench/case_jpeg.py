"""JPEG: camera frames to grey values, against the decoders that others use.

Ours decodes the luma blocks and leaves colour alone. The peers are asked for grey, too, by the
options that they document for it. Every grey value must be the same: all do the IDCT of the
standard that libjpeg calls `islow`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import simplejpeg
from PIL import Image

from bench import peers
from bench.case_decode import clips_of_lanes
from bench.harness import Case, Contender, Params, Place, Round
from native.jpeg.luma import DONE, Luma

Plane = Any  # (rows, columns) of uint8


class Decoder(Contender):
    """Decodes every frame; the answer is a digest of every plane."""

    def __init__(
        self, name: str, note: str, decode: Callable[[bytes], Plane], frames: list[bytes]
    ) -> None:
        self.name, self.note = name, note
        self._decode, self._frames = decode, frames

    def work(self, repetition: int) -> None:
        for frame in self._frames:
            self._decode(frame)

    def answer(self) -> bytes:
        planes = (np.ascontiguousarray(self._decode(frame)) for frame in self._frames)
        return b"".join(hashlib.sha256(plane.tobytes()).digest() for plane in planes)


def by_native() -> Callable[[bytes], Plane]:
    luma = Luma()

    def decode(frame: bytes) -> Plane:
        assert luma.decode(frame) == DONE
        return np.asarray(luma)

    return decode


def by_simplejpeg(frame: bytes) -> Plane:
    return simplejpeg.decode_jpeg(frame, colorspace="GRAY")[:, :, 0]


def by_pillow(frame: bytes) -> Plane:
    image = Image.open(io.BytesIO(frame))
    image.draft("L", image.size)
    return np.asarray(image)


def by_opencv() -> Callable[[bytes], Plane]:
    """Raises Absent."""
    cv2 = peers.load("cv2")
    cv2.setNumThreads(1)
    return lambda frame: cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_GRAYSCALE)


def set_up(params: Params, place: Place) -> Round:
    clips, _ = clips_of_lanes(params["lanes"], 0, params["frames"])
    frames = [frame for clip in clips for frame in clip]
    came, skipped = peers.invite(
        {
            "opencv": lambda: Decoder(
                "opencv", "imdecode(IMREAD_GRAYSCALE), setNumThreads(1)", by_opencv(), frames
            )
        }
    )
    contenders: list[Contender] = [
        Decoder("chot", "native.jpeg.luma, luma blocks alone", by_native(), frames),
        Decoder("simplejpeg", 'libjpeg-turbo, colorspace="GRAY"', by_simplejpeg, frames),
        Decoder("pillow", 'libjpeg-turbo, draft("L")', by_pillow, frames),
        *came,
    ]
    size = sum(map(len, frames)) // len(frames)
    return Round(contenders, len(frames), facts={"bytes_per_frame": size}, skipped=skipped)


CASE: Final = Case(
    name="jpeg",
    what="JPEG frames of a lane to grey values, against libjpeg-turbo as others wrap it",
    unit="frame",
    params={
        "smoke": {"lanes": 1, "frames": 12, "repetitions": 2},
        "small": {"lanes": 1, "frames": 100, "repetitions": 9},
        "large": {"lanes": 3, "frames": 200, "repetitions": 15},
    },
    set_up=set_up,
)
