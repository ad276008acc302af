"""What QR readers are measured on: stills, scenes, other barcodes and lane clips, all with truth.

Either the project's own (tests/data and fresh clips of bench.clips), or a folder with a
manifest.csv of one row an image, clips frame by frame in order:

    file           path below the folder
    expected_text  JSON list of the texts in the image; [] no QR code; empty: contents unknown
    category       free label; "neg-scene…" are scenes, other rows with [] outside clips barcodes
    passage        lane clips: numbers of the passages shown, one code shown once; empty none

A folder whose rows have passages is a lane clip.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from bench import clips, texts
from bench.clips import Luma
from bench.harness import ROOT, UsageError
from engine.decoding.images import JPEG, image_to_luma, split_mjpeg

IMAGES: Final = ROOT / "tests" / "data" / "images"
LANES: Final = ROOT / "tests" / "data" / "lanes"
CHUNK: Final = 40  # stills in memory at a time
DENSE_BYTES: Final = 300  # a text of that many is a certificate
CHARSETS: Final = ("utf-8", "latin-1", "shift_jis", "gb18030", "big5", "cp437")

# Clips a condition in one round of own data; bench.qr repeats rounds with other seeds.
MIX: Final = {
    "plain": 4, "swap": 2, "dim": 1, "blur": 1, "small": 1, "two": 1, "dark_mode": 1, "curved": 1,
    "dense": 3,
}  # fmt: skip


def fold(content: bytes) -> bytes:
    """A content without what readers differ in: line ends and padding."""
    return content.replace(b"\r\n", b"\n").rstrip(b"\n\0")


class Text:
    """A text that is in a frame, and every way its bytes may be written.

    The truth of foreign sets is text as some reader guessed it from bytes: any charset may have
    been meant, or guessed wrong.
    """

    __slots__ = ("forms", "is_dense", "text")

    def __init__(self, text: str | bytes) -> None:
        if isinstance(text, bytes):
            self.text, self.forms = text.decode("utf-8", "replace"), frozenset((fold(text),))
        else:
            self.text, self.forms = text, frozenset(fold(form) for form in _encodings(text))
        self.is_dense = len(self.text) >= DENSE_BYTES

    def __contains__(self, content: bytes) -> bool:
        return fold(content) in self.forms


def _encodings(text: str) -> Iterable[bytes]:
    for charset in CHARSETS:
        try:
            yield text.encode(charset)
        except UnicodeEncodeError:
            continue


@dataclass(slots=True)
class Shot:
    """One frame or still. jpeg: as it came, where it came as one.

    known: texts that are whole in it; None where the contents are unknown. cut: texts a reader
    may find too, of codes cut by the edge. passages: of its clip, in the order of their codes.
    """

    name: str
    luma: Luma
    jpeg: bytes | None
    known: list[Text] | None
    cut: list[Text] = field(default_factory=list)
    passages: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return self.known == [] and not self.cut and not self.passages


@dataclass(slots=True)
class Batch:
    """Frames that are read in a row, loaded when they are needed. label: condition or category."""

    name: str
    label: str
    load: Callable[[], list[Shot]]


@dataclass(slots=True)
class Sets:
    """Everything measured, by what it is for."""

    lanes: list[Batch] = field(default_factory=list)
    scenes: list[Batch] = field(default_factory=list)
    barcodes: list[Batch] = field(default_factory=list)
    stills: list[Batch] = field(default_factory=list)
    held: list[Batch] = field(default_factory=list)


def file_to_shot(name: str, path: Path, known: list[Text] | None, passages: list[str]) -> Shot:
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        luma = np.ascontiguousarray(np.asarray(image.convert("L")))
    is_jpeg = data[:2] == b"\xff\xd8"
    return Shot(name, luma, data if is_jpeg else None, known, passages=passages)


# ---- a folder of one's own ----------------------------------------------------------------------


def from_folder(folder: Path, seed: int) -> Sets:
    """Sets of a manifest.csv; held codes come from bench.clips. Raises UsageError."""
    try:
        with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"--data: no manifest.csv in {folder}") from error
    if not rows or not {"file", "expected_text", "category"} <= rows[0].keys():
        raise UsageError(f"--data: {folder}/manifest.csv lacks a column")
    folders: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        folders[row["file"].rpartition("/")[0]].append(row)
    sets = Sets(held=held(seed))
    singles: dict[str, list[dict[str, str]]] = defaultdict(list)
    for name, listed in folders.items():
        if any(row.get("passage") for row in listed):
            sets.lanes.append(Batch(name, "lane", lambda rows=listed: _rows(folder, rows)))  # type: ignore[misc]
            continue
        for row in listed:
            if row["expected_text"] != "[]":
                singles["stills"].append(row)
            elif row["category"].startswith("neg-scene"):
                singles["scenes"].append(row)
            else:
                singles["barcodes"].append(row)
    for kind, listed in singles.items():
        for at in range(0, len(listed), CHUNK):
            part = listed[at : at + CHUNK]
            batch = Batch(f"{kind}-{at}", kind, lambda rows=part: _rows(folder, rows))  # type: ignore[misc]
            getattr(sets, kind).append(batch)
    return sets


def _rows(folder: Path, rows: list[dict[str, str]]) -> list[Shot]:
    shots = []
    for row in rows:
        told = row["expected_text"]
        known = [Text(text) for text in dict.fromkeys(json.loads(told))] if told else None
        passages = (row.get("passage") or "").split()
        shots.append(file_to_shot(row["file"], folder / row["file"], known, passages))
    return add_cut(shots)


def add_cut(shots: list[Shot]) -> list[Shot]:
    """Fills in the texts of frames that show a passage cut by the edge, from its whole frames."""
    told: dict[str, Text] = {}
    for shot in shots:
        if shot.known and len(shot.known) == len(shot.passages):
            told.update(zip(shot.passages, shot.known, strict=True))
    for shot in shots:
        if shot.known is None and not shot.cut:
            shot.cut = [told[passage] for passage in shot.passages if passage in told]
    return shots


# ---- the project's own --------------------------------------------------------------------------


def own(seed: int, rounds: float, frames: int, size: tuple[int, int]) -> Sets:
    """Stills of tests/data/images, the recorded lanes, and fresh clips of every condition.

    rounds: how often the mix of conditions is made; below 1 a part of everything.
    """
    kinds = texts.KINDS[: max(1, round(len(texts.KINDS) * rounds))]
    sets = Sets(held=held(seed, kinds, frames=min(24, frames), size=size))
    with (IMAGES / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    singles: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        is_scene = row["file"].startswith(("neg-scene/", "scene-"))
        if row["expected"] != "[]":
            singles["stills"].append(row)
        else:
            singles["scenes" if is_scene else "barcodes"].append(row)
    for kind, listed in singles.items():
        listed = listed[: max(4, round(len(listed) * min(1.0, rounds)))]
        for at in range(0, len(listed), CHUNK):
            part = listed[at : at + CHUNK]
            batch = Batch(f"{kind}-{at}", kind, lambda rows=part: _own_rows(rows))  # type: ignore[misc]
            getattr(sets, kind).append(batch)
    for label, count in MIX.items():
        for k in range(round(count * rounds)):
            clip_seed = seed * 1000 + k
            sets.lanes.append(clip(clip_seed, label, frames, size))
    if rounds >= 1:
        names = sorted(path.stem for path in LANES.glob("*.mjpeg"))
        sets.lanes += [Batch(n, "recorded", lambda name=n: recorded(name)) for n in names]  # type: ignore[misc]
    return sets


def _own_rows(rows: list[dict[str, str]]) -> list[Shot]:
    return [
        file_to_shot(
            row["file"], IMAGES / row["file"], [Text(t) for t in json.loads(row["expected"])], []
        )
        for row in rows
    ]


def clip(seed: int, condition: str, frames: int, size: tuple[int, int]) -> Batch:
    """A fresh clip, through JPEG as from a camera."""

    def load() -> list[Shot]:
        width, height = size
        made = clips.film(seed, condition, frames=frames, width=width, height=height)
        return frames_to_shots(f"{condition}-{seed}", made)

    return Batch(f"{condition}-{seed}", condition, load)


def held(
    seed: int,
    kinds: tuple[str, ...] = texts.KINDS,
    *,
    frames: int = 24,
    size: tuple[int, int] = (clips.WIDTH, clips.HEIGHT),
) -> list[Batch]:
    """A code of each kind held still."""
    width, height = size

    def batch(kind: str) -> Batch:
        def load() -> list[Shot]:
            made = clips.hold(seed, kind, frames=frames, width=width, height=height)
            return frames_to_shots(f"hold-{kind}", made)

        return Batch(f"hold-{kind}", kind, load)

    return [batch(kind) for kind in kinds]


def frames_to_shots(name: str, frames: Iterable[clips.Frame]) -> list[Shot]:
    shots = []
    told: dict[bytes, Text] = {}
    for n, frame in enumerate(frames):
        jpeg = clips.to_jpeg(frame.luma)
        whole = [s for s in frame.shown if s.state == "whole"]
        cut = [s for s in frame.shown if s.state != "whole"]
        for shown in frame.shown:
            told.setdefault(shown.text, Text(shown.text))
        shots.append(
            Shot(
                f"{name}/{n:03d}",
                image_to_luma(JPEG, jpeg),
                jpeg,
                None if cut and not whole else [told[s.text] for s in whole],
                [told[s.text] for s in cut],
                [str(s.passage) for s in [*whole, *cut]],
            )
        )
    return shots


def recorded(name: str) -> list[Shot]:
    """One of the recorded lanes. Who reads the code damaged beyond reading is not wrong."""
    frames = split_mjpeg((LANES / f"{name}.mjpeg").read_bytes())
    lines = (LANES / f"{name}.truth.jsonl").read_text(encoding="utf-8").splitlines()
    shots = []
    for jpeg, line in zip(frames, lines, strict=True):
        truth: dict[str, Any] = json.loads(line)
        whole = [Text(c["text"].encode()) for c in truth["codes"] if c["readable"] != "no"]
        worn = [Text(c["text"].encode()) for c in truth["codes"] if c["readable"] == "no"]
        is_unknown = truth["state"] != "empty" and not whole
        passages = [str(truth["passage"])] if truth["state"] != "empty" else []
        luma = image_to_luma(JPEG, jpeg)
        shot_name = f"{name}/{truth['n']:03d}"
        shots.append(Shot(shot_name, luma, jpeg, None if is_unknown else whole, worn, passages))
    return add_cut(shots)
