"""Lanes: frames of fresh lane clips, in memory, to who was held up; clips made by bench.clips.

Ours is LaneReader, one a clip. The peers are zxing-cpp on every frame. What must be equal is who
was read in each clip, in which order; the oracle is what the clip shows. `python -m bench qr`
measures the same and more, frame by frame, and prints the goals.
"""

from __future__ import annotations

import json
from typing import Final

from bench import clips, decoders
from bench.clips import Luma
from bench.decoders import BASELINES, Door
from bench.harness import Case, Contender, Params, Place, Round, UsageError

# Seeds whose clips zxing-cpp reads every passage of: an answer must exist that all can give.
SEEDS: Final = (2, 4, 5, 8)

NOTES: Final = {
    "zxing": "read_barcodes(formats=QRCode) on every frame",
    "zxing-one": "read_barcode(formats=QRCode) on every frame",
    "zxing-cascade": "read_barcode: global threshold, no downscale, no invert; then its defaults",
}


class Reads(Contender):
    """A reader over every frame of every clip, anew for each clip."""

    def __init__(self, door: Door, note: str, lanes: list[list[Luma]], name: str = "") -> None:
        self.name = name or door.name
        self.note = note
        self._door, self._lanes = door, lanes
        self._found: list[list[bytes]] = []

    def work(self, repetition: int) -> None:
        self._found = []
        for frames in self._lanes:
            read = self._door.new()
            self._found.append([content for luma in frames for content in read(luma)])

    def answer(self) -> bytes:
        return to_answer(self._found)


def to_answer(lanes: list[list[bytes]]) -> bytes:
    """Contents by clip, each once, in order of appearance."""
    return json.dumps([[c.hex() for c in dict.fromkeys(found)] for found in lanes]).encode()


def set_up(params: Params, place: Place) -> Round:
    lanes: list[list[Luma]] = []
    told: list[list[bytes]] = []
    for seed in SEEDS[: params["clips"]]:
        made = clips.film(
            seed, frames=params["frames"], width=params["width"], height=params["height"]
        )
        frames = list(made)
        lanes.append([frame.luma for frame in frames])
        told.append([shown.text for frame in frames for shown in frame.shown])
    door = decoders.door("LaneReader")
    if door is None:
        raise UsageError("this engine has no LaneReader")
    contenders = [Reads(door, "LaneReader, one a clip", lanes, "chot")]
    contenders += [Reads(each, NOTES[each.name], lanes) for each in BASELINES]
    count = sum(len(frames) for frames in lanes)
    passages = sum(len(set(contents)) for contents in told)
    return Round(list(contenders), count, to_answer(told), {"passages": passages})


CASE: Final = Case(
    name="lanes",
    what="frames of fresh lane clips to the codes held up, against zxing-cpp on every frame",
    unit="frame",
    params={
        "smoke": {"clips": 1, "frames": 16, "width": 640, "height": 360, "repetitions": 2},
        "small": {"clips": 2, "frames": 60, "width": 1280, "height": 720, "repetitions": 5},
        "large": {"clips": 4, "frames": 60, "width": 1280, "height": 720, "repetitions": 15},
    },
    set_up=set_up,
)
