"""Pictures of the reader's stages: small, all on the page, and the page says what they show."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from bench import clips, pictures
from native.qr.reader import Reader

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return pictures.draw(tmp_path_factory.mktemp("pictures"))


def test_pictures_are_small_and_whole(drawn: list[Path]) -> None:
    assert len(drawn) == 5
    for path in drawn:
        assert ET.parse(path).getroot().tag == f"{SVG}svg"
        assert path.stat().st_size < 120_000, path.name
    assert sum(path.stat().st_size for path in drawn) < 500_000


def test_the_page_shows_each_picture_that_is_kept(drawn: list[Path]) -> None:
    page = (DOCS / "decoder.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\(pictures/([\w.-]+)\)", page))
    assert shown == {path.name for path in (DOCS / "pictures").glob("*.svg")}
    assert shown == {path.name for path in drawn}


def test_numbers_of_the_page_are_those_of_the_pictures() -> None:
    page = " ".join((DOCS / "decoder.md").read_text(encoding="utf-8").split())
    story = pictures.tell(pictures.frame_of("blur", 27, 26, 18))
    grid = story.grid
    steps = grid.placed["steps"]
    assert f"{steps[0]} + 13 = {grid.dim} modules" in page
    assert f"gives {steps[1] + 13}" in page
    assert "have " + pictures._known(grid, grid.soft) + " known modules wrong" in page
    assert pictures._known(grid, grid.equalized).startswith("0 ")


def test_placed_symbols_lie_where_they_were_drawn() -> None:
    for frame in clips.hold(1, "card", frames=2, width=640, height=400):
        (truth,) = frame.shown
        reader = Reader(row_step=2)
        placed = reader.placed(frame.luma)[0]
        assert len(reader.rays(frame.luma)) == len(reader.finders(frame.luma))
        assert placed["steps"] == (placed["dim"] - 13, placed["dim"] - 13)
        assert placed["off"] == 0 and placed["known_wrong"] == (0, 0) and placed["outside"] == 0
        grid, dim = pictures.Grid(placed), placed["dim"]
        corners = grid.at([(0, 0), (dim, 0), (dim, dim), (0, dim)])
        assert np.abs(corners - truth.corners).max() < 1.5


def test_planes_that_are_none_are_refused() -> None:
    for ask in (Reader().placed, Reader().rays, Reader().finders):
        with pytest.raises(ValueError, match="two-dimensional"):
            ask(np.zeros(64, np.uint8))
        assert ask(np.zeros((40, 40), np.uint8)) == []
        assert ask(np.zeros((3, 3), np.uint8)) == []
