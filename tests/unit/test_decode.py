"""Decode: hostile images, strides, codecs, order and isolation of lanes, files."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import segno
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.decoding.decode import (
    Code,
    JpegLaneReader,
    LaneReader,
    ZxingDecoder,
    decode_file,
    read_codes,
)
from engine.decoding.decode_pool import DecodePool, FrameReader, LaneFrames
from engine.decoding.images import GRAY8, JPEG, PNG, image_to_luma, split_mjpeg
from engine.errors import ImageInvalid, ImageTooLarge

Luma = npt.NDArray[np.uint8]


def symbol(payload: bytes, scale: int = 4, quiet: int = 4) -> Luma:
    code = segno.make(payload, error="m", micro=False, mode="byte")
    dark = np.pad(np.array([list(row) for row in code.matrix], np.uint8), quiet)
    return np.kron(np.where(dark, 20, 230), np.ones((scale, scale))).astype(np.uint8)


def scene(*payloads: bytes, width: int = 640, height: int = 480, x: int = 40, y: int = 60) -> Luma:
    """Codes side by side on grey."""
    frame = np.full((height, width), 140, np.uint8)
    for payload in payloads:
        tile = symbol(payload)
        frame[y : y + len(tile), x : x + len(tile)] = tile
        x += len(tile) + 30
    return frame


def to_jpeg(luma: Luma, quality: int = 85) -> bytes:
    grey = np.ascontiguousarray(luma[:, :, None])
    return bytes(
        simplejpeg.encode_jpeg(grey, quality=quality, colorspace="GRAY", colorsubsampling="Gray")
    )


def to_png(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def jpeg_with_size(width: int, height: int) -> bytes:
    """A real JPEG whose header claims another size."""
    data = bytearray(to_jpeg(scene(b"A")))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


JPEG_A = to_jpeg(scene(b"MOT"))
PNG_A = to_png(Image.fromarray(scene(b"MOT")))


# ---- codes ------------------------------------------------------------------------------------


def test_bytes_come_back_as_they_are_and_not_as_text() -> None:
    for payload in (
        "Nguyễn Thị Hồng Ánh".encode(),
        "Nguyễn".encode("cp1258", "replace"),
        bytes(range(256)),
        b"\x00\xff",
    ):
        assert read_codes(symbol(payload)) == [payload]


def test_corners_are_the_symbol_in_its_own_order_and_version_is_told() -> None:
    tile = symbol(b"A" * 30, scale=5)
    frame = np.full((400, 500), 140, np.uint8)
    frame[50 : 50 + len(tile), 70 : 70 + len(tile)] = tile
    (code,) = ZxingDecoder().decode(frame)
    left, top, side = 70 + 20, 50 + 20, len(tile) - 40
    wanted = [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]
    assert np.abs(np.array(code.corners) - wanted).max() <= 2
    assert code.version == str((side // 5 - 17) // 4)

    turned = np.ascontiguousarray(np.rot90(frame, -1))
    (code,) = ZxingDecoder().decode(turned)
    wanted = [(400 - y, x) for x, y in wanted]
    assert np.abs(np.array(code.corners) - wanted).max() <= 2


def test_other_symbologies_are_not_read() -> None:
    micro = np.kron(
        np.pad(np.array([list(r) for r in segno.make("1", micro=True).matrix], np.uint8), 4),
        np.ones((6, 6), np.uint8),
    )
    bars = np.repeat(np.tile(np.array([20, 230, 230, 20, 230], np.uint8), 60)[None], 200, axis=0)
    assert read_codes(bars) == []
    assert all(len(text) == 1 for text in read_codes((1 - micro) * 230))


def test_one_text_twice_in_a_picture_counts_once() -> None:
    assert read_codes(scene(b"HAI", b"HAI")) == [b"HAI"]
    assert sorted(read_codes(scene(b"HAI", b"BA"))) == [b"BA", b"HAI"]


@pytest.mark.parametrize("padding", [0, 1, 7, 64])
def test_any_row_stride_and_read_only_planes(padding: int) -> None:
    frame = scene(b"STRIDE")
    wide = np.random.default_rng(1).integers(0, 256, (480, 640 + padding), np.uint8)
    wide[:, :640] = frame
    plane = wide[:, :640]
    plane.flags.writeable = False
    assert read_codes(plane) == [b"STRIDE"]


def test_no_shift_against_the_block_grid_loses_a_plain_code() -> None:
    for offset in range(16):
        frame = scene(b"KHOI", width=400, height=300, x=40 + offset, y=60 + offset)
        assert read_codes(frame) == [b"KHOI"], offset


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 3)])
def test_odd_shapes_hold_no_code(shape: tuple[int, int]) -> None:
    assert read_codes(np.zeros(shape, np.uint8)) == []


# ---- image bytes to luma ----------------------------------------------------------------------


def test_jpeg_is_luma_near_what_was_encoded() -> None:
    frame = scene(b"MOT")
    luma = image_to_luma(JPEG, to_jpeg(frame, 95))
    assert luma.shape == frame.shape and luma.dtype == np.uint8
    assert np.abs(luma.astype(int) - frame).mean() < 2


def test_colour_jpeg_gives_its_luma() -> None:
    colour = np.zeros((64, 64, 3), np.uint8)
    colour[:, :, 1] = 255
    luma = image_to_luma(JPEG, simplejpeg.encode_jpeg(colour, quality=95))
    assert abs(int(luma[32, 32]) - 150) <= 2  # 0.587 * 255


PNG_PICTURES: list[tuple[str, Callable[[Luma], Image.Image]]] = [
    ("L", Image.fromarray),
    ("1", lambda a: Image.fromarray(a).point(lambda v: 255 * (v > 128)).convert("1")),
    ("P", lambda a: Image.fromarray(a).convert("P")),
    ("RGB", lambda a: Image.fromarray(a).convert("RGB")),
    ("LA", lambda a: Image.fromarray(a).convert("LA")),
    ("RGBA", lambda a: Image.fromarray(a).convert("RGBA")),
    ("I;16", lambda a: Image.fromarray(a.astype(np.uint16) * 257)),
]


@pytest.mark.parametrize(("mode", "make"), PNG_PICTURES, ids=[m for m, _ in PNG_PICTURES])
def test_png_of_every_mode(mode: str, make: Callable[[Luma], Image.Image]) -> None:
    frame = scene(b"PNG")
    image = make(frame)
    assert image.mode == mode
    luma = image_to_luma(PNG, to_png(image), width=640, height=480)
    assert luma.dtype == np.uint8 and luma.shape == frame.shape
    if mode != "1":
        assert np.abs(luma.astype(int) - frame).max() <= 1
    assert read_codes(luma) == [b"PNG"]


def test_transparent_png_shows_white_paper() -> None:
    frame = scene(b"TRONG")
    alpha = Image.fromarray(np.where(frame < 100, 255, 0).astype(np.uint8))
    ink = Image.new("L", alpha.size, 0)
    for mode in ("LA", "RGBA"):
        image = ink.convert(mode)
        image.putalpha(alpha)
        assert read_codes(image_to_luma(PNG, to_png(image))) == [b"TRONG"]
    keyed = Image.fromarray(np.where(frame < 100, 0, 1).astype(np.uint8), "L")
    assert read_codes(image_to_luma(PNG, to_png(keyed, transparency=1))) == [b"TRONG"]


@pytest.mark.parametrize("stride", [0, 640, 641, 1024])
def test_raw_plane_is_not_copied(stride: int) -> None:
    frame = scene(b"THO")
    step = stride or 640
    whole = np.full((480, step), 7, np.uint8)
    whole[:, :640] = frame
    for data in (whole.tobytes(), whole.tobytes()[: step * 479 + 640]):
        luma = image_to_luma(GRAY8, data, width=640, height=480, stride=stride)
        assert np.array_equal(luma, frame)
        assert not luma.flags.owndata
        assert read_codes(luma) == [b"THO"]


@pytest.mark.parametrize(
    ("width", "height", "stride", "size"),
    [
        (0, 0, 0, 0),
        (0, 480, 0, 0),
        (640, 0, 0, 0),
        (640, 480, 0, 640 * 480 - 1),
        (640, 480, 0, 640 * 480 + 1),
        (640, 480, 639, 639 * 480),
        (640, 480, 700, 640 * 480),
        (-640, -480, 0, 640 * 480),
        (1, 1, -1, 1),
        (0, 0, 0, 100),
    ],
)
def test_raw_plane_of_wrong_lengths(width: int, height: int, stride: int, size: int) -> None:
    with pytest.raises(ImageInvalid):
        image_to_luma(GRAY8, bytes(size), width=width, height=height, stride=stride)


@pytest.mark.parametrize("codec", [JPEG, PNG, GRAY8])
@pytest.mark.parametrize("side", [30_000, 65_500])
def test_giant_images_are_refused_before_decompression(codec: int, side: int) -> None:
    idat = chunk(b"IDAT", zlib.compress(bytes(1000)))
    data = {
        JPEG: jpeg_with_size(side, side),
        PNG: b"\x89PNG\r\n\x1a\n" + png_header(side, side) + idat + chunk(b"IEND", b""),
        GRAY8: bytes(100),
    }[codec]
    given_size = {"width": side, "height": side} if codec == GRAY8 else {}
    with pytest.raises(ImageTooLarge):
        image_to_luma(codec, data, **given_size)


@pytest.mark.parametrize(("codec", "data"), [(JPEG, jpeg_with_size(0, 0)), (PNG, None)])
def test_images_of_no_size(codec: int, data: bytes | None) -> None:
    idat = chunk(b"IDAT", zlib.compress(b""))
    data = data or b"\x89PNG\r\n\x1a\n" + png_header(0, 0) + idat + chunk(b"IEND", b"")
    with pytest.raises(ImageInvalid):
        image_to_luma(codec, data)


def test_limits_are_inclusive() -> None:
    assert image_to_luma(JPEG, JPEG_A, pixels_max=640 * 480, bytes_max=len(JPEG_A)).size == 307_200
    with pytest.raises(ImageTooLarge):
        image_to_luma(JPEG, JPEG_A, pixels_max=640 * 480 - 1)
    with pytest.raises(ImageTooLarge):
        image_to_luma(JPEG, JPEG_A, bytes_max=len(JPEG_A) - 1)


@pytest.mark.parametrize(("codec", "data"), [(JPEG, JPEG_A), (PNG, PNG_A)])
def test_images_cut_short_anywhere_are_invalid(codec: int, data: bytes) -> None:
    for size in [*range(64), *range(64, len(data) - 12, 97)]:
        with pytest.raises(ImageInvalid):
            image_to_luma(codec, data[:size])


@pytest.mark.parametrize(("codec", "data"), [(JPEG, JPEG_A), (PNG, PNG_A)])
def test_announced_size_must_be_the_real_one(codec: int, data: bytes) -> None:
    assert image_to_luma(codec, data, width=640, height=480).shape == (480, 640)
    for wrong in ({"width": 480}, {"height": 640}, {"width": 1280, "height": 720}):
        with pytest.raises(ImageInvalid, match="announced"):
            image_to_luma(codec, data, **wrong)


def test_png_that_changes_its_size_after_the_check() -> None:
    idat = chunk(b"IDAT", zlib.compress(bytes(65 * 64)))
    data = b"\x89PNG\r\n\x1a\n" + png_header(64, 64) + png_header(20_000, 20_000) + idat
    with pytest.raises((ImageInvalid, ImageTooLarge)):
        image_to_luma(PNG, data + chunk(b"IEND", b""))


def test_png_with_a_bomb_in_a_text_chunk() -> None:
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 9))
    data = PNG_A[:33] + bomb + PNG_A[33:]
    with pytest.raises(ImageInvalid):
        image_to_luma(PNG, data)


def test_jpeg_of_endless_scans_is_refused_quickly() -> None:
    out = io.BytesIO()
    Image.fromarray(scene(b"BOM")).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    assert read_codes(image_to_luma(JPEG, data)) == [b"BOM"]
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    with pytest.raises(ImageInvalid, match="scans"):
        image_to_luma(JPEG, data[:-2] + scan * 500 + b"\xff\xd9")


def test_unknown_codec() -> None:
    for codec in (0, 4, 255):
        with pytest.raises(ImageInvalid, match="codec"):
            image_to_luma(codec, JPEG_A)


_sizes = st.one_of(st.just(0), st.integers(-3, 70_000))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 5), st.binary(max_size=300), _sizes, _sizes, _sizes,
    st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", PNG_A[:33], JPEG_A[:180]]),
)  # fmt: skip
def test_any_bytes_give_a_plane_or_an_image_error(
    codec: int, tail: bytes, width: int, height: int, stride: int, head: bytes
) -> None:
    try:
        luma = image_to_luma(codec, head + tail, width=width, height=height, stride=stride)
    except (ImageInvalid, ImageTooLarge):
        return
    assert luma.ndim == 2 and luma.dtype == np.uint8 and luma.size


SMALL = {
    JPEG: to_jpeg(symbol(b"X", scale=2)),
    PNG: to_png(Image.fromarray(symbol(b"X", scale=2))),
}


@settings(max_examples=250, deadline=None)
@given(st.sampled_from([JPEG, PNG]), st.data())
def test_damaged_images_give_a_plane_or_an_image_error(codec: int, data: st.DataObject) -> None:
    """Also the decoder takes whatever picture comes out."""
    image = bytearray(SMALL[codec])
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    try:
        luma = image_to_luma(codec, bytes(image), pixels_max=250_000)
    except (ImageInvalid, ImageTooLarge):
        return
    assert set(read_codes(luma)) <= {b"X"}


# ---- lane readers -----------------------------------------------------------------------------


class Counting(LaneFrames):
    """A reader that counts the frames it was given."""

    def __init__(self, pixels_max: int = 1 << 24, bytes_max: int = 1 << 24) -> None:
        super().__init__(pixels_max, bytes_max)
        self.count = 0

    def read(self, codec: int, width: int, height: int, stride: int, data: bytes) -> list[Code]:
        self.count += 1
        return super().read(codec, width, height, stride, data)


def test_a_held_code_is_a_repeat() -> None:
    reader = LaneReader()
    frame = scene(b"GIU")
    hows = [code.how for _ in range(9) for code in reader.read(frame)]
    assert hows == ["plain"] + ["repeat"] * 8


def test_lane_reader_gives_corners_of_the_frame() -> None:
    reader = LaneReader()
    frame = scene(b"GOC", x=300, y=200)
    first, second = reader.read(frame), reader.read(frame)
    assert np.abs(np.subtract(first[0].corners, second[0].corners)).max() <= 2


def test_lane_reader_notices_a_swap_in_place() -> None:
    reader = LaneReader()
    elder, younger = b"162999750000000071", b"162999750000000077"
    seen = [reader(scene(text)) for text in (elder, elder, younger, younger, elder)]
    assert seen == [[elder], [elder], [younger], [younger], [elder]]


def test_lane_reader_never_repeats_what_is_gone() -> None:
    reader = LaneReader()
    assert reader(scene(b"DI")) == [b"DI"]
    assert reader(scene()) == []
    assert reader(scene(b"DI", x=300, y=250)) == [b"DI"]


def test_lane_reader_finds_a_second_code_beside_a_held_one() -> None:
    reader = LaneReader()
    reader(scene(b"A1"))
    both = scene(b"A1", width=800)
    both[300:428, 600:728] = np.pad(symbol(b"B2"), ((0, 12), (0, 12)), constant_values=140)[
        :128, :128
    ]
    seen = [set(reader(both)) for _ in range(4)]
    assert {b"A1", b"B2"} in seen


def test_lane_reader_takes_frames_of_changing_size() -> None:
    reader = LaneReader()
    for width, height in ((640, 480), (320, 240), (1280, 720), (200, 200)):
        assert reader(scene(b"CO", width=width, height=height)) == [b"CO"]


def test_jpeg_lane_reader() -> None:
    reader = JpegLaneReader()
    assert reader(JPEG_A) == [b"MOT"]
    with pytest.raises(ImageInvalid):
        reader(JPEG_A[:-300])
    assert reader(JPEG_A) == [b"MOT"]


# ---- the pool ---------------------------------------------------------------------------------


class Gated:
    """A decoder whose frames wait for a gate; notes order and how many run at once."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.order: list[int] = []
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def read(self, codec: int, width: int, height: int, stride: int, data: bytes) -> list[Code]:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.order.append(data[0])
        assert self.gate.wait(20)
        with self._lock:
            self.running -= 1
        mark = data[:1]
        return [Code(data=mark, corners=((0, 0), (1, 0), (1, 1), (0, 1)))]


async def _ask(pool: DecodePool, key: object, mark: int) -> bytes:
    codes = await pool.decode(key, GRAY8, bytes([mark] * 4), width=2, height=2)
    return codes[0].data


def test_frames_of_a_lane_keep_their_order_and_lanes_run_side_by_side() -> None:
    gated = Gated()

    async def main() -> list[bytes]:
        pool = DecodePool(4, new_reader=lambda *_: gated)
        asked = [asyncio.create_task(_ask(pool, "a", n)) for n in range(5)]
        asked += [asyncio.create_task(_ask(pool, "b", n)) for n in range(100, 105)]
        while gated.running < 2:
            await asyncio.sleep(0.001)
        assert pool.waiting == 10
        gated.gate.set()
        answers = await asyncio.gather(*asked)
        assert (pool.frames, pool.codes, pool.waiting) == (10, 10, 0)
        pool.close()
        return list(answers)

    marks = [*range(5), *range(100, 105)]
    assert asyncio.run(main()) == [bytes([n]) for n in marks]
    assert gated.most == 2
    assert [n for n in gated.order if n < 100] == list(range(5))
    assert [n for n in gated.order if n >= 100] == list(range(100, 105))


def test_a_stuck_lane_does_not_hold_up_the_others() -> None:
    gated = Gated()
    readers: list[FrameReader] = [gated, LaneFrames()]

    async def main() -> None:
        pool = DecodePool(2, new_reader=lambda *_: readers.pop(0))
        stuck = [asyncio.create_task(_ask(pool, "slow", n)) for n in range(20)]
        await asyncio.sleep(0)
        for n in range(3):
            codes = await pool.decode("quick", JPEG, to_jpeg(scene(b"NHANH%d" % n)))
            assert [c.data for c in codes] == [b"NHANH%d" % n]
        assert not any(task.done() for task in stuck)
        gated.gate.set()
        await asyncio.gather(*stuck)
        pool.close()

    asyncio.run(main())


def test_an_invalid_frame_fails_alone() -> None:
    async def main() -> None:
        pool = DecodePool(2)
        answers = await asyncio.gather(
            pool.decode("a", JPEG, JPEG_A),
            pool.decode("a", JPEG, JPEG_A[:500]),
            pool.decode("a", PNG, PNG_A),
            return_exceptions=True,
        )
        assert isinstance(answers[1], ImageInvalid)
        assert [c.data for a in (answers[0], answers[2]) for c in a] == [b"MOT", b"MOT"]
        assert (pool.frames, pool.invalid, pool.codes, pool.repeats) == (3, 1, 2, 0)
        assert pool.decode_ns > 0
        pool.close()

    asyncio.run(main())


def test_a_byte_identical_frame_is_not_decoded_again() -> None:
    counting = Counting()

    async def main() -> None:
        pool = DecodePool(1, new_reader=lambda *_: counting)
        first = await pool.decode("a", JPEG, JPEG_A)
        again = await pool.decode("a", JPEG, bytes(bytearray(JPEG_A)))
        assert first == again and counting.count == 1
        again.clear()
        assert await pool.decode("a", JPEG, JPEG_A) == first
        await pool.decode("b", JPEG, JPEG_A)
        assert (pool.frames, pool.repeats, counting.count) == (4, 2, 2)
        pool.close()

    asyncio.run(main())


def test_a_cancelled_frame_leaves_the_lane_in_order() -> None:
    gated = Gated()

    async def main() -> None:
        pool = DecodePool(2, new_reader=lambda *_: gated)
        first = asyncio.create_task(_ask(pool, "a", 1))
        second = asyncio.create_task(_ask(pool, "a", 2))
        while not gated.running:
            await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.sleep(0.02)
        gated.gate.set()
        assert await second == b"\x02"
        assert gated.most == 1 and pool.waiting == 0
        pool.close()

    asyncio.run(main())


def test_forgotten_and_surplus_lanes_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DecodePool, "LANES_MAX", 3)

    async def main() -> None:
        counting = Counting()
        pool = DecodePool(1, new_reader=lambda *_: counting)
        for key in range(6):
            await pool.decode(key, JPEG, JPEG_A)
        await pool.decode(5, JPEG, JPEG_A)
        assert pool.repeats == 1
        await pool.decode(0, JPEG, JPEG_A)
        pool.forget(5)
        pool.forget("never seen")
        await pool.decode(5, JPEG, JPEG_A)
        assert (pool.repeats, counting.count) == (1, 8)
        pool.close()

    asyncio.run(main())


# ---- files ------------------------------------------------------------------------------------


def test_split_mjpeg_is_the_inverse_of_joining() -> None:
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(SMALL[JPEG])) + SMALL[JPEG]
    with_thumbnail = JPEG_A[:2] + thumbnail + JPEG_A[2:]
    images = [JPEG_A, with_thumbnail, SMALL[JPEG], JPEG_A]
    assert list(split_mjpeg(b"".join(images))) == images
    assert list(split_mjpeg(b"")) == []


def test_split_mjpeg_with_a_cut_end_and_with_garbage() -> None:
    assert list(split_mjpeg(JPEG_A + JPEG_A[:-20])) == [JPEG_A, JPEG_A[:-20]]
    parts = split_mjpeg(JPEG_A + b"garbage")
    assert next(parts) == JPEG_A
    with pytest.raises(ImageInvalid):
        next(parts)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_split_mjpeg_of_any_bytes(tail: bytes) -> None:
    data = b"\xff\xd8" + tail
    whole = b""
    try:
        for part in split_mjpeg(data):
            assert part
            whole += part
    except ImageInvalid:
        pass
    assert data.startswith(whole)


def test_decode_file_of_a_still(tmp_path: Path) -> None:
    path = tmp_path / "anh.png"
    path.write_bytes(PNG_A)
    (line,) = decode_file(path)
    assert (line["file"], line["width"], line["height"]) == (str(path), 640, 480)
    (code,) = line["codes"]  # type: ignore[misc]
    assert code["text"] == "MOT" and base64.b64decode(code["bytes_b64"]) == b"MOT"
    assert len(code["corners"]) == 4
    assert isinstance(line["decode_us"], int)


def test_decode_file_of_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(to_jpeg(scene(b"\xff\xfe\x00")))
    (line,) = decode_file(path)
    (code,) = line["codes"]  # type: ignore[misc]
    assert code["text"] is None and base64.b64decode(code["bytes_b64"]) == b"\xff\xfe\x00"


def test_decode_file_of_a_clip_goes_on_after_a_bad_frame(tmp_path: Path) -> None:
    broken = bytearray(JPEG_A)
    broken[broken.index(b"\xff\xc0") + 5 : broken.index(b"\xff\xc0") + 9] = bytes(4)
    path = tmp_path / "a.mjpeg"
    path.write_bytes(JPEG_A + bytes(broken) + JPEG_A)
    lines = list(decode_file(path))
    assert [line["frame"] for line in lines] == [0, 1, 2]
    assert [("codes" in line, "error" in line) for line in lines] == [
        (True, False),
        (False, True),
        (True, False),
    ]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.jpg", b"", "image.invalid"),
        ("a.jpg", b"no image at all", "image.invalid"),
        ("a.png", PNG_A[:100], "image.invalid"),
        ("a.jpg", jpeg_with_size(30_000, 30_000), "image.too_large"),
        ("a.mjpeg", b"", "image.invalid"),
        ("a.mjpeg", b"garbage", "image.invalid"),
        ("missing.jpg", None, "image.invalid"),
        ("missing.mjpeg", None, "image.invalid"),
    ],
)
def test_decode_file_of_a_bad_file(
    tmp_path: Path, name: str, content: bytes | None, code: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    (line,) = decode_file(path)
    assert line["file"] == str(path)
    assert line["error"]["code"] == code  # type: ignore[index]


def test_decode_file_of_a_folder_and_of_a_large_file(tmp_path: Path) -> None:
    (line,) = decode_file(tmp_path)
    assert line["error"]["code"] == "image.invalid"  # type: ignore[index]
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG_A)
    (line,) = decode_file(path, bytes_max=len(JPEG_A) - 1)
    assert line["error"]["code"] == "image.too_large"  # type: ignore[index]


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError("a library's words")])
def test_whatever_breaks_a_reader_is_a_fault_of_one_frame(fault: Exception) -> None:
    """A frame without an answer would stay open for ever, and its gateway with it."""

    class Breaking:
        def read(self, codec: int, width: int, height: int, stride: int, data: bytes) -> list[Code]:
            if data[0] == 7:
                raise fault
            return []

    async def test() -> None:
        pool = DecodePool(1, new_reader=lambda *_: Breaking())
        with pytest.raises(ImageInvalid, match="cannot be read"):
            await pool.decode("a", GRAY8, bytes([7] * 4), width=2, height=2)
        assert await pool.decode("a", GRAY8, bytes(4), width=2, height=2) == []
        assert (pool.frames, pool.invalid, pool.waiting) == (2, 1, 0)
        pool.close()

    asyncio.run(test())
