"""Decode: frames of the recorded lanes, from JPEG bytes to the codes that people held up.

Ours is the path of the engine: luma of the JPEG, LaneReader, which looks first where the last code
was. The peers read every whole frame, QR codes only, behind simplejpeg: zxing-cpp in three ways,
ZBar, OpenCV. Ours and zxing-cpp then pass through the rule of held codes, because what must be
equal is who was scanned, in which order; which of forty frames of a hold was readable may differ.
The oracle is the truth that was written down when the clips were made; of the other peers it is
counted what they miss. Frames of --data have no truth: there ours and zxing-cpp must agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import simplejpeg

from bench import decoders, peers
from bench.case_lanes import compare
from bench.decoders import Door
from bench.harness import ROOT, Case, Contender, Params, Place, Round, UsageError
from engine.decoding.decode import JpegLaneReader
from engine.decoding.held import HeldCodes
from engine.decoding.images import split_mjpeg

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


class Peer(Reader):
    """A door of bench.decoders behind simplejpeg, over every whole frame."""

    def __init__(self, door: Door, clips: list[Clip], truth: list[list[bytes]] | None) -> None:
        super().__init__(clips)
        self.name, self._door, self._truth = door.name, door, truth
        self.note = f"{door.note} on every frame, simplejpeg before it"
        self.may_miss = door is not decoders.ZXING

    def new_reader(self) -> Callable[[bytes], list[bytes]]:
        find = self._door.new()

        def read(frame: bytes) -> list[bytes]:
            return find(simplejpeg.decode_jpeg(frame, colorspace="GRAY")[:, :, 0])

        return read

    def shortfall(self) -> tuple[int, list[str]]:
        """Texts of own frames are nobody's business: there only frames without a code count."""
        found = [[code for codes in frames for code in codes] for frames in self._found]
        if self._truth is None:
            return sum(not codes for frames in self._found for codes in frames), []
        return compare(found, self._truth)


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
        clips, expected, truth = clips_of_folder(place.data), None, None
    else:
        clips, truth = clips_of_lanes(params["lanes"], params["first"], params["frames"])
        expected = scans_to_answer(truth)
    frames = sum(len(clip) for clip in clips)
    size = sum(len(frame) for clip in clips for frame in clip)
    came, skipped = peers.invite({"zbar": decoders.zbar, "opencv": decoders.opencv})
    contenders = [Peer(door, clips, truth) for door in (*decoders.BASELINES, *came)]
    facts: dict[str, int | str] = {"bytes_per_frame": size // frames}
    return Round([Ours(clips), *contenders], frames, expected, facts, skipped=skipped)


CASE: Final = Case(
    name="decode",
    what="JPEG frames of a lane to the codes held up, against other readers on every frame",
    unit="frame",
    params={
        "smoke": {"lanes": 1, "first": 8, "frames": 24, "repetitions": 2},
        "small": {"lanes": 1, "first": 0, "frames": 200, "repetitions": 5},
        "large": {"lanes": 3, "first": 0, "frames": 200, "repetitions": 15},
    },
    set_up=set_up,
    takes_data=True,
)
