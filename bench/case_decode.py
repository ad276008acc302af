"""Decode: frames of the recorded lanes, from JPEG bytes to the codes that people held up.

Ours is the path of the engine: luma of the JPEG, LaneReader, which looks first where the last code
was. The peer is zxing-cpp over every whole frame, QR codes only, behind the same JPEG decoder. Both
then pass through the rule of held codes, because what must be equal is who was scanned, in which
order; which of forty frames of a hold was readable may differ. The oracle is the truth that was
written down when the clips were made. Frames of --data have no truth: there both must agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import simplejpeg
import zxingcpp

from bench.harness import ROOT, Case, Contender, Params, Place, Round, UsageError
from engine.decode import JpegLaneReader
from engine.held import HeldCodes
from engine.images import split_mjpeg

LANES: Final = ROOT / "tests" / "data" / "lanes"
FRAME_MS: Final = 100
FRAMES_MAX: Final = 2000

Clip = list[bytes]


class Reader(Contender):
    """Reads every frame of every clip; a clip is a lane with a reader of its own."""

    def __init__(self, clips: list[Clip]) -> None:
        self._clips = clips
        self._found: list[list[list[bytes]]] = []

    def new_reader(self) -> Callable[[bytes], list[bytes]]:
        """A fresh reader of one lane: JPEG bytes to contents."""
        raise NotImplementedError

    def work(self, repetition: int) -> None:
        self._found = []
        for clip in self._clips:
            read = self.new_reader()
            self._found.append([read(frame) for frame in clip])

    def answer(self) -> bytes:
        scans = []
        for frames in self._found:
            held = HeldCodes()
            begun = [held.new(codes, n * FRAME_MS) for n, codes in enumerate(frames)]
            scans.append([code for codes in begun for code in codes])
        return scans_to_answer(scans)

    def frames_with_code(self) -> int:
        return sum(bool(codes) for frames in self._found for codes in frames)


class Ours(Reader):
    name = "chot"
    note = "JpegLaneReader: last place first, the whole frame every third"

    def new_reader(self) -> Callable[[bytes], list[bytes]]:
        return JpegLaneReader()


class Zxing(Reader):
    name = "zxing-cpp"
    note = "read_barcodes(formats=QRCode) on every frame, simplejpeg before it"

    def new_reader(self) -> Callable[[bytes], list[bytes]]:
        formats = cast(Any, zxingcpp.BarcodeFormat.QRCode)

        def read(frame: bytes) -> list[bytes]:
            luma = simplejpeg.decode_jpeg(frame, colorspace="GRAY")[:, :, 0]
            found = zxingcpp.read_barcodes(luma, formats=formats)
            return list(dict.fromkeys(code.bytes for code in found if code.valid))

        return read


def scans_to_answer(scans: list[list[bytes]]) -> bytes:
    """Contents in order of appearance, lane by lane."""
    return json.dumps([[code.hex() for code in lane] for lane in scans]).encode()


def clips_of_lanes(lanes: int, first: int, frames: int) -> tuple[list[Clip], list[list[bytes]]]:
    """Clips of the first lanes, frames [first, first + frames), and who was scanned in them."""
    clips, truth = [], []
    for lane in range(1, lanes + 1):
        span = slice(first, first + frames)
        clips.append(list(split_mjpeg((LANES / f"lane{lane}.mjpeg").read_bytes()))[span])
        lines = (LANES / f"lane{lane}.truth.jsonl").read_text(encoding="utf-8").splitlines()[span]
        held, scans = HeldCodes(), []
        for line in map(json.loads, lines):
            codes = [c["text"].encode() for c in line["codes"] if c["readable"] != "no"]
            scans += held.new(codes, line["n"] * FRAME_MS)
        truth.append(scans)
    return clips, truth


def clips_of_folder(folder: Path) -> list[Clip]:
    """JPEG files of a folder by name, each .mjpeg file as a lane. Raises UsageError."""
    stills = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    clips = [[path.read_bytes() for path in stills[:FRAMES_MAX]]] if stills else []
    for path in sorted(folder.rglob("*.mjpeg")):
        clips.append(list(split_mjpeg(path.read_bytes()))[:FRAMES_MAX])
    if not clips:
        raise UsageError(f"--data: no .jpg, .jpeg or .mjpeg under {folder}")
    return clips


def set_up(params: Params, place: Place) -> Round:
    if place.data is not None:
        clips, expected = clips_of_folder(place.data), None
    else:
        clips, truth = clips_of_lanes(params["lanes"], params["first"], params["frames"])
        expected = scans_to_answer(truth)
    frames = sum(len(clip) for clip in clips)
    size = sum(len(frame) for clip in clips for frame in clip)
    return Round([Ours(clips), Zxing(clips)], frames, expected, {"bytes_per_frame": size // frames})


CASE: Final = Case(
    name="decode",
    what="JPEG frames of a lane to the codes held up, against zxing-cpp on every frame",
    unit="frame",
    params={
        "smoke": {"lanes": 1, "first": 8, "frames": 24, "repetitions": 2},
        "small": {"lanes": 1, "first": 0, "frames": 200, "repetitions": 5},
        "large": {"lanes": 3, "first": 0, "frames": 200, "repetitions": 15},
    },
    set_up=set_up,
    takes_data=True,
)
