"""Lanes: frames of fresh lane clips, in memory, to who was held up; clips made by bench.clips.

Ours is LaneReader, one a clip. The peers read every frame: zxing-cpp in three ways, ZBar, OpenCV.
What must be equal of ours and of zxing-cpp is who was read in each clip, in which order; the oracle
is what the clip shows. Of the others it is counted whom they miss. `python -m bench qr`
measures the same and more, frame by frame, and prints the goals.
"""

from __future__ import annotations

import json
from typing import Final

from bench import clips, decoders, peers
from bench.clips import Luma
from bench.decoders import Door
from bench.harness import Case, Contender, Params, Place, Round, UsageError

# Seeds whose clips zxing-cpp reads every passage of: an answer must exist that all can give.
SEEDS: Final = (2, 4, 5, 8)


class Reads(Contender):
    """A reader over every frame of every clip, anew for each clip."""

    def __init__(self, door: Door, lanes: list[list[Luma]], truth: list[list[bytes]]) -> None:
        self.name, self.note = door.name, door.note
        self.may_miss = door.name not in ("chot", decoders.ZXING.name)
        self._door, self._lanes, self._truth = door, lanes, truth
        self._found: list[list[bytes]] = []

    def work(self, repetition: int) -> None:
        self._found = []
        for frames in self._lanes:
            read = self._door.new()
            self._found.append([content for luma in frames for content in read(luma)])

    def answer(self) -> bytes:
        return to_answer(self._found)

    def shortfall(self) -> tuple[int, list[str]]:
        return compare(self._found, self._truth)


def compare(found: list[list[bytes]], truth: list[list[bytes]]) -> tuple[int, list[str]]:
    """Codes that were shown and not read, and texts read that were not shown, lane by lane."""
    pairs = [(set(some), set(true)) for some, true in zip(found, truth, strict=True)]
    missed = sum(len(true - some) for some, true in pairs)
    wrong = sorted(text for some, true in pairs for text in some - true)
    return missed, [text.decode(errors="backslashreplace") for text in wrong]


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
    ours = Door("chot", door.new, "LaneReader, one a clip")
    came, skipped = peers.invite({"zbar": decoders.zbar, "opencv": decoders.opencv})
    contenders: list[Contender] = [
        Reads(each, lanes, told) for each in (ours, *decoders.BASELINES, *came)
    ]
    count = sum(len(frames) for frames in lanes)
    passages = sum(len(set(contents)) for contents in told)
    facts: dict[str, int | str] = {"passages": passages}
    return Round(contenders, count, to_answer(told), facts, skipped=skipped)


CASE: Final = Case(
    name="lanes",
    what="frames of fresh lane clips to the codes held up, against other readers on every frame",
    unit="frame",
    params={
        "smoke": {"clips": 1, "frames": 16, "width": 640, "height": 360, "repetitions": 2},
        "small": {"clips": 2, "frames": 60, "width": 1280, "height": 720, "repetitions": 5},
        "large": {"clips": 4, "frames": 60, "width": 1280, "height": 720, "repetitions": 15},
    },
    set_up=set_up,
)
