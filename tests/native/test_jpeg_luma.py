"""native.jpeg.luma on sound pictures: the same bytes as libjpeg, whole and in part."""

from __future__ import annotations

import io
import itertools
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from engine.decoding.images import split_mjpeg
from native.jpeg import luma as door
from native.jpeg.luma import DONE, LARGE, OTHER, Luma
from tests.reference.native_jpeg import (
    RESTARTS,
    by_simplejpeg,
    jpeg,
    jpeg_by_turbo,
    jpeg_in_scans,
    scene,
    segments,
    small_jpegs,
)

DATA = Path(__file__).resolve().parents[1] / "data"
COLOURS = ["grey", "4:4:4", "4:2:2", "4:2:0"]


def check_whole(data: bytes, own: Luma | None = None) -> None:
    own = own or Luma()
    expected = by_simplejpeg(data)
    assert expected is not None
    height, width = expected.shape
    assert own.open(data) == (width, height)
    assert own.decode(data) == DONE
    assert own.size == (width, height)
    assert own.valid == (0, height, 0, width)
    assert np.array_equal(np.asarray(own), expected)


def check_part(data: bytes, y0: int, y1: int, x0: int, x1: int) -> None:
    expected = by_simplejpeg(data)
    assert expected is not None
    own = Luma()
    assert own.decode(data, y0, y1, x0, x1) == DONE
    top, bottom, first, last = own.valid
    assert (top, first) <= (y0, x0)
    assert bottom >= min(y1, expected.shape[0])
    assert last >= min(x1, expected.shape[1])
    seen = np.asarray(own)
    assert np.array_equal(seen[top:bottom, first:last], expected[top:bottom, first:last])
    seen = seen.copy()
    seen[top:bottom, first:last] = 0
    assert not seen.any(), "nothing else was written"


# ---- whole pictures ---------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
def test_every_size_up_to_33(colour: str) -> None:
    own = Luma()
    for width, height in itertools.product((*range(1, 10), 15, 16, 17, 24, 31, 32, 33), (1, 8, 33)):
        check_whole(jpeg(scene(width, height), colour), own)
        check_whole(jpeg(scene(height, width), colour), own)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("quality", [1, 10, 50, 80, 95, 100])
def test_every_quality(colour: str, quality: int) -> None:
    check_whole(jpeg(scene(150, 90, 20.0), colour, quality=quality))
    check_whole(jpeg(scene(150, 90), colour, quality=quality, optimize=True))


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("restart", [*RESTARTS, {"restart_marker_blocks": 7}], ids=str)
def test_restart_markers(colour: str, restart: dict[str, int]) -> None:
    check_whole(jpeg(scene(150, 90, 20.0), colour, **restart))


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411"])
def test_the_encoder_of_libjpeg_turbo(sampling: str) -> None:
    check_whole(jpeg_by_turbo(scene(131, 77), sampling))


def test_pictures_without_detail_and_pictures_of_nothing_else() -> None:
    rng = np.random.default_rng(3)
    for luma in (
        np.zeros((40, 56), np.uint8),
        np.full((40, 56), 255, np.uint8),
        rng.integers(0, 2, (40, 56), np.uint8) * np.uint8(255),
        rng.integers(0, 256, (40, 56), np.uint8),
    ):
        for quality in (5, 75, 100):
            check_whole(jpeg(luma, quality=quality))
            check_whole(jpeg(luma, "4:2:0", quality=quality, optimize=True))


def test_frames_of_the_lanes() -> None:
    own = Luma()
    for clip in sorted((DATA / "lanes").glob("*.mjpeg")):
        for frame in list(split_mjpeg(clip.read_bytes()))[::29]:
            check_whole(frame, own)


def test_photographs() -> None:
    done = 0
    for path in sorted((DATA / "images").rglob("*.jpg")):
        data = path.read_bytes()
        own = Luma()
        if own.open(data) is not None and len(data) < 400_000:
            check_whole(data, own)
            done += 1
    assert done >= 20


def test_a_scan_for_each_component() -> None:
    luma, half = scene(46, 37), scene(23, 19)
    for order in ([[0], [1], [2]], [[0], [2], [1]]):
        data = jpeg_in_scans([luma, half, half], [0x22, 0x11, 0x11], order)
        check_whole(data)
        check_part(data, 8, 16, 8, 24)
    # Luma that does not come first is left to others.
    data = jpeg_in_scans([luma, half, half], [0x22, 0x11, 0x11], [[1], [0], [2]])
    assert by_simplejpeg(data) is not None
    assert Luma().open(data) is None


def test_motion_jpeg_without_huffman_tables() -> None:
    for colour in ("grey", "4:2:0"):
        data = jpeg(scene(50, 50), colour)
        for marker, begin, end in reversed(segments(data)):
            if marker == 0xC4:
                data = data[:begin] + data[end:]
        assert b"\xff\xc4" not in data
        check_whole(data)


def test_restart_marker_behind_the_last_interval() -> None:
    data = jpeg(scene(40, 40), restart_marker_rows=1)
    check_whole(data[:-2] + b"\xff\xd4" + data[-2:])


def test_bytes_behind_the_end_and_fill_bytes_before_a_marker() -> None:
    data = jpeg(scene(40, 40))
    check_whole(data + b"\0\xff\xd8 anything")
    check_whole(data[:-2] + b"\xff\xff" + data[-2:])
    check_whole(data[:2] + b"\xff\xff" + data[2:])


# ---- parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("restart", RESTARTS, ids=str)
def test_parts_are_parts_of_the_whole(colour: str, restart: dict[str, int]) -> None:
    data = jpeg(scene(101, 83, 20.0), colour, **restart)
    rng = np.random.default_rng(5)
    for _ in range(12):
        y0, y1 = sorted(int(y) for y in rng.integers(0, 84, 2))
        x0, x1 = sorted(int(x) for x in rng.integers(0, 102, 2))
        if y0 < y1 and x0 < x1:
            check_part(data, y0, y1, x0, x1)
    check_part(data, 0, 1, 0, 1)
    check_part(data, 82, 500, 100, 500)


def test_a_part_looks_at_nothing_behind_it() -> None:
    data = jpeg(scene(160, 160, 20.0))
    own = Luma()
    assert own.decode(data[: len(data) // 2], 0, 64) == DONE
    expected = by_simplejpeg(data)
    assert expected is not None
    assert np.array_equal(np.asarray(own)[:64], expected[:64])


def test_a_part_without_pixels_is_done_and_empty() -> None:
    own = Luma()
    for rows in ((5, 5), (99, 200)):
        assert own.decode(jpeg(scene(40, 40)), *rows) == DONE
        assert own.valid == (0, 0, 0, 0)


# ---- one pixel a block ------------------------------------------------------------------------


def test_means_of_blocks_are_those_of_libjpeg_at_an_eighth() -> None:
    own = Luma()
    for data in small_jpegs():
        assert own.decode_dc(data) == DONE
        width, height, pixels = own.dc()
        smallest = simplejpeg.decode_jpeg(data, colorspace="GRAY", min_height=1, min_width=1)
        assert (height, width, 1) == smallest.shape
        assert pixels == smallest.tobytes()


def test_means_that_failed_are_empty() -> None:
    own = Luma()
    data = jpeg(scene(40, 40))
    assert own.dc() == (0, 0, b"")
    assert own.decode_dc(data) == DONE
    assert own.decode_dc(data[:-20]) != DONE
    assert own.dc() == (0, 0, b"")


# ---- what is left to others -------------------------------------------------------------------


def left_to_others() -> dict[str, bytes]:
    luma = scene(40, 40)
    grey = jpeg(luma)
    frame = grey.index(b"\xff\xc0")
    file = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(file, "JPEG")
    rgb = io.BytesIO()
    Image.new("RGB", (16, 16)).save(rgb, "JPEG", keep_rgb=True)
    return {
        "progressive": jpeg(luma, "4:2:0", progressive=True),
        "arithmetic": grey[: frame + 1] + b"\xc9" + grey[frame + 2 :],
        "lossless": grey[: frame + 1] + b"\xc3" + grey[frame + 2 :],
        "12 bit": grey[: frame + 4] + b"\x0c" + grey[frame + 5 :],
        "cmyk": file.getvalue(),
        "rgb": rgb.getvalue(),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(40),
        "nothing": b"",
        "start only": b"\xff\xd8",
        "jfif 2": grey.replace(b"JFIF\0\x01", b"JFIF\0\x02"),
    }


@pytest.mark.parametrize("kind", sorted(left_to_others()))
def test_others_are_not_opened(kind: str) -> None:
    data = left_to_others()[kind]
    own = Luma()
    assert own.open(data) is None
    assert own.decode(data) in (OTHER, door.DAMAGED)
    assert own.valid == (0, 0, 0, 0)
    check_whole(jpeg(scene(20, 20)), own)


def test_extended_sequential_is_the_same_with_eight_bits() -> None:
    data = jpeg(scene(40, 40), "4:2:0")
    frame = data.index(b"\xff\xc0")
    check_whole(data[: frame + 1] + b"\xc1" + data[frame + 2 :])


# ---- the door ---------------------------------------------------------------------------------


def test_too_many_pixels_are_not_decoded() -> None:
    own = Luma()
    data = jpeg(scene(40, 30))
    assert own.decode(data, pixels_max=1199) == LARGE
    assert own.decode_dc(data, pixels_max=1199) == LARGE
    assert own.size == (0, 0)
    assert own.decode(data, pixels_max=1200) == DONE


@pytest.mark.parametrize("rows", [(-1, 5), (6, 5), (0, 2**31)])
def test_a_range_that_is_none_is_refused(rows: tuple[int, int]) -> None:
    own = Luma()
    with pytest.raises(ValueError, match="out of range"):
        own.decode(jpeg(scene(40, 40)), *rows)
    with pytest.raises(ValueError, match="out of range"):
        own.decode(jpeg(scene(40, 40)), 0, 8, *rows)


def test_only_bytes_are_taken() -> None:
    for wrong in (None, "x", bytearray(b"\xff\xd8")):
        with pytest.raises(TypeError):
            Luma().decode(wrong)  # type: ignore[arg-type]


def test_a_view_is_read_only_and_keeps_the_plane_from_growing() -> None:
    own = Luma()
    with pytest.raises(BufferError, match="no frame"):
        memoryview(own)
    assert own.decode(jpeg(scene(40, 40))) == DONE
    view = np.asarray(own)
    assert not view.flags.writeable
    with pytest.raises(BufferError, match="strides"):
        zlib.crc32(own)
    with pytest.raises(BufferError, match="a view of it is held"):
        own.decode(jpeg(scene(400, 400)))
    check_whole(jpeg(scene(24, 40)), own)
    del view
    check_whole(jpeg(scene(400, 400)), own)


def test_each_lane_has_its_own() -> None:
    wrong: list[str] = []

    def work(seed: int) -> None:
        own = Luma()
        for n in range(30):
            data = jpeg(scene(64, 64, seed=seed + n), "4:2:0")
            own.decode(data)
            if not np.array_equal(np.asarray(own), by_simplejpeg(data)):
                wrong.append(f"{seed} {n}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
