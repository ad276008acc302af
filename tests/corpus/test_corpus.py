"""The image corpus: how much is read, and that nothing is read that is not there.

Hits may only rise: when a decoder reads more, raise the floor. The ceiling for contents that an
image does not hold is zero, for ever.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest

from engine.decode import JPEG, PNG, LaneReader, image_to_luma, read_codes

IMAGES = Path(__file__).resolve().parent.parent / "data" / "images"

# Images with a code of which at least one expected text is read, by folder.
FLOORS = {"jsqr": 25, "kolabit": 18, "scene": 1, "zxing": 44, "zxing-cpp": 13}

Row = tuple[str, set[bytes]]


def rows() -> list[Row]:
    with (IMAGES / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return [
            (row["file"], {text.encode() for text in json.loads(row["expected"])})
            for row in csv.DictReader(file)
        ]


def group(name: str) -> str:
    return name.split("/")[0] if "/" in name else name.split("-")[0]


@pytest.fixture(scope="module")
def readings() -> dict[str, list[bytes]]:
    """Contents read from every image of the corpus."""
    found = {}
    for name, _ in rows():
        codec = PNG if name.endswith(".png") else JPEG
        found[name] = read_codes(image_to_luma(codec, (IMAGES / name).read_bytes()))
    return found


def test_manifest_and_folder_agree() -> None:
    listed = [name for name, _ in rows()]
    on_disk = {
        path.relative_to(IMAGES).as_posix()
        for path in IMAGES.rglob("*")
        if path.suffix in (".png", ".jpg")
    }
    assert len(listed) == len(set(listed))
    assert set(listed) == on_disk


def test_every_image_names_its_origin_and_a_clear_licence() -> None:
    notes = (IMAGES / "LICENSES.md").read_text(encoding="utf-8")
    with (IMAGES / "manifest.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            repository, _, rest = row["origin"].partition("@")
            assert repository in notes, row["file"]
            assert rest[:12] in notes and ":" in rest, row["file"]
            assert row["licence"] == "Apache-2.0", row["file"]


def test_nothing_is_read_that_is_not_there(readings: dict[str, list[bytes]]) -> None:
    wrong = {name: set(readings[name]) - expected for name, expected in rows()}
    assert {name: texts for name, texts in wrong.items() if texts} == {}


def test_hits_only_rise(readings: dict[str, list[bytes]]) -> None:
    hits: dict[str, int] = defaultdict(int)
    missed = []
    for name, expected in rows():
        if expected:
            is_hit = bool(expected & set(readings[name]))
            hits[group(name)] += is_hit
            missed += [] if is_hit else [name]
    assert {g: hits[g] for g in FLOORS if hits[g] < FLOORS[g]} == {}, missed
    assert set(hits) == set(FLOORS)


def test_lane_reader_reads_stills_as_well(readings: dict[str, list[bytes]]) -> None:
    """Shown as a clip of unrelated frames, the reader's memory changes nothing."""
    reader = LaneReader()
    for name, _ in rows():
        if name.endswith(".jpg"):
            assert reader(image_to_luma(JPEG, (IMAGES / name).read_bytes())) == readings[name], name
