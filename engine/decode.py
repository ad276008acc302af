"""Decode: image bytes to luma to the codes in it, and the threads that do it for many lanes.

A frame is `Plane`, a two-dimensional uint8 array of luma (height, width), rows any stride apart,
pixels of a row side by side. Codes come as the bytes inside the symbol, never as text: character
sets are the business of engine.payloads. Codecs have the numbers of the FRAME message.

Everything slow here (simplejpeg, Pillow's inflate, zxing-cpp) works without the GIL.
"""

from __future__ import annotations

import asyncio
import base64
import io
import mmap
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast

import msgspec
import numpy as np
import numpy.typing as npt
import simplejpeg
import zxingcpp
from PIL import Image

from engine.clock import Clock, SystemClock
from engine.errors import ImageInvalid, ImageTooLarge, InputError
from native.qr import lane, reader

Plane: TypeAlias = npt.NDArray[np.uint8]
Corner: TypeAlias = tuple[int, int]

JPEG: Final = 1
GRAY8: Final = 2
PNG: Final = 3

PIXELS_MAX = 16_777_216
BYTES_MAX = 16_777_216
# A progressive JPEG can ask for a pass over all its pixels every dozen bytes. Encoders write
# about ten scans; libjpeg itself has no limit.
SCANS_MAX = 64

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8"


class Code(msgspec.Struct, frozen=True):
    """One QR code found in a frame.

    data: the bytes inside. corners: (x, y) in pixels of the outer corners of the symbol, in its
    own order top left, top right, bottom right, bottom left. version: size of the symbol as
    the standard names it, "7" or "M4", empty where unknown.
    """

    data: bytes
    corners: tuple[Corner, Corner, Corner, Corner]
    version: str = ""


class Decoder(Protocol):
    """The seam behind which readers of QR codes stand; safe to call from several threads."""

    def decode(self, plane: Plane) -> list[Code]:
        """Every code in the plane, [] where there is none. No picture makes it raise."""


class ZxingDecoder:
    """zxing-cpp, all sizes of QR code and nothing else, upright or inverted, any angle."""

    def __init__(self) -> None:
        # One format, where the binding's types ask for a set: it converts.
        self._formats = cast(Any, zxingcpp.BarcodeFormat.QRCode)
        # Plain text mode: the text is not used, and HRI would rewrite GS1 contents for nothing.
        self._text_mode = zxingcpp.TextMode.Plain

    def decode(self, plane: Plane) -> list[Code]:
        found = zxingcpp.read_barcodes(plane, formats=self._formats, text_mode=self._text_mode)
        return [_barcode_to_code(barcode) for barcode in found if barcode.valid]


def _barcode_to_code(barcode: Any) -> Code:
    p = barcode.position
    spots = (p.top_left, p.top_right, p.bottom_right, p.bottom_left)
    corners = cast(Any, tuple((spot.x, spot.y) for spot in spots))
    extra = getattr(barcode, "extra", None) or {}
    return Code(data=barcode.bytes, corners=corners, version=str(extra.get("Version", "")))


# ---- image bytes to luma ----------------------------------------------------------------------


def image_to_luma(
    codec: int,
    data: bytes,
    *,
    width: int = 0,
    height: int = 0,
    stride: int = 0,
    pixels_max: int = PIXELS_MAX,
    bytes_max: int = BYTES_MAX,
) -> Plane:
    """Luma of a JPEG, a PNG or a raw plane; raw planes are not copied.

    codec: JPEG, GRAY8 or PNG. width, height, stride (pixels, pixels, bytes): of a raw plane,
    stride 0 is the width; for the others 0, or what the sender says and the image must agree.
    pixels_max, bytes_max: checked before anything is decompressed.

    Raises ImageTooLarge and ImageInvalid, nothing else. A JPEG cut short or with broken blocks
    is invalid as a whole: half a frame could show half a code, and the next frame is 100 ms away.
    """
    if len(data) > bytes_max:
        raise ImageTooLarge(f"the image has {len(data)} bytes, the limit is {bytes_max}")
    if min(width, height, stride) < 0:
        raise ImageInvalid("a negative size")
    if codec == JPEG:
        return _jpeg_to_luma(data, width, height, pixels_max)
    if codec == GRAY8:
        return _gray8_to_luma(data, width, height, stride, pixels_max)
    if codec == PNG:
        return _png_to_luma(data, width, height, pixels_max)
    raise ImageInvalid(f"there is no codec {codec}")


def _check_size(w: int, h: int, width: int, height: int, pixels_max: int) -> None:
    """w x h: what the image says; width x height: what the sender says, 0 where nothing."""
    if w < 1 or h < 1:
        raise ImageInvalid(f"an image of {w} x {h} pixels")
    if w * h > pixels_max:
        raise ImageTooLarge(f"{w} x {h} pixels are more than {pixels_max}")
    if (width and width != w) or (height and height != h):
        raise ImageInvalid(f"announced as {width} x {height} pixels, but it has {w} x {h}")


def _jpeg_to_luma(data: bytes, width: int, height: int, pixels_max: int) -> Plane:
    # Inside entropy-coded data FF is always followed by 00 or a restart marker, so this counts
    # the scans, and at most a few more in thumbnails and comments.
    if data.count(b"\xff\xda") > SCANS_MAX:
        raise ImageInvalid("a JPEG of too many scans")
    try:
        h, w, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ImageInvalid("the header is not of a JPEG") from error
    _check_size(w, h, width, height, pixels_max)
    try:
        # The exact transform: with SIMD the quick one gains nothing.
        luma = simplejpeg.decode_jpeg(data, colorspace="GRAY")
    except ValueError as error:
        raise ImageInvalid("the JPEG is cut short or broken") from error
    return cast(Plane, luma[:, :, 0])


def _gray8_to_luma(data: bytes, width: int, height: int, stride: int, pixels_max: int) -> Plane:
    _check_size(width, height, 0, 0, pixels_max)
    stride = stride or width
    # The last row may end with its last pixel or with the padding of the others.
    if stride < width or len(data) not in (stride * height, stride * (height - 1) + width):
        raise ImageInvalid(f"{len(data)} bytes are no {width} x {height} plane of stride {stride}")
    return np.ndarray((height, width), np.uint8, buffer=data, strides=(stride, 1))


def _png_to_luma(data: bytes, width: int, height: int, pixels_max: int) -> Plane:
    if data[:8] != _PNG_MAGIC or data[12:16] != b"IHDR" or len(data) < 24:
        raise ImageInvalid("the header is not of a PNG")
    w, h = struct.unpack_from(">II", data, 16)
    _check_size(w, h, width, height, pixels_max)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            # A second header chunk could have changed the size after the check.
            if image.size != (w, h):
                raise ImageInvalid("a PNG of two sizes")
            return _picture_to_luma(image)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # Pillow's readers have no closed list of exceptions: SyntaxError, OSError, ValueError,
        # EOFError, struct.error and zlib.error have all been seen for damaged files.
        raise ImageInvalid("the PNG is cut short or broken") from error


def _picture_to_luma(image: Image.Image) -> Plane:
    """8 bits of luma from any mode a PNG can have; what is transparent shows white paper."""
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 when it converts; the upper byte is the picture.
        return (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
    if "A" in image.mode or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, layered)
    return np.asarray(image.convert("L"))


# ---- readers ----------------------------------------------------------------------------------

_ZXING = ZxingDecoder()


class _Readers(threading.local):
    """One own reader a thread: each keeps memory that grows to the largest picture it saw."""

    def __init__(self) -> None:
        self.thorough = reader.Reader()


_READERS = _Readers()


def unique(codes: list[Code]) -> list[bytes]:
    """Contents of codes, each once, in order of appearance."""
    return list(dict.fromkeys(code.data for code in codes))


def _own(luma: Plane) -> Plane:
    """The plane as the own reader takes it: pixels of a row side by side."""
    return luma if luma.strides[1] == 1 or luma.shape[1] == 1 else np.ascontiguousarray(luma)


def read_codes_native(luma: Plane) -> list[bytes]:
    """Contents of the codes that the own reader finds by itself, each once."""
    return list(dict.fromkeys(found[0] for found in _READERS.thorough.read(_own(luma))))


def read_codes(luma: Plane) -> list[bytes]:
    """Contents of all codes in a picture, each once; the thorough mode, for stills."""
    codes = read_codes_native(luma)
    finders, placed = _READERS.thorough.unread
    if not codes or placed or finders >= 3:
        codes += [code.data for code in _ZXING.decode(luma)]
    return list(dict.fromkeys(codes))


class LaneReader:
    """Reads the frames of one lane in order (native.qr.lane); zxing-cpp where that is at a loss.

    Every content it returns for a frame was in that frame's own pixels.
    """

    ZXING_EVERY = 8  # frames of a symbol that is seen and cannot be read

    def __init__(self) -> None:
        self._lane = lane.Lane()
        self._rest = 0

    def __call__(self, luma: Plane) -> list[bytes]:
        """Contents of the codes seen in the frame, each once."""
        luma = _own(luma)
        found = self._lane.read(luma)
        if found:
            return list(dict.fromkeys([code[0] for code in found]))
        self._rest -= 1
        region = self._lane.region
        if region is None or self._rest > 0:
            return []
        self._rest = self.ZXING_EVERY
        height, width = luma.shape
        x0, y0 = max(0, int(region[0])), max(0, int(region[1]))
        x1, y1 = min(width, int(region[2]) + 1), min(height, int(region[3]) + 1)
        if x0 >= x1 or y0 >= y1:
            return []
        return unique(_ZXING.decode(luma[y0:y1, x0:x1]))


class JpegLaneReader:
    """LaneReader from JPEG bytes. Raises ImageInvalid and ImageTooLarge."""

    def __init__(self, decoder: Decoder | None = None) -> None:
        self._reader = LaneReader(decoder)

    def __call__(self, data: bytes) -> list[bytes]:
        return self._reader(image_to_luma(JPEG, data))


# ---- the pool ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Lane:
    """What the pool keeps of one lane: its reader, its turn, its last frame."""

    reader: LaneReader
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Guards the reader when the awaiting task was cancelled while its frame was in a thread.
    busy: threading.Lock = field(default_factory=threading.Lock)
    waiting: int = 0
    last_frame: tuple[int, int, int, int, bytes] | None = None
    last_codes: list[Code] = field(default_factory=list)


class DecodePool:
    """Threads that decode the frames of many lanes.

    Frames of one lane go one after the other in the order asked for; lanes go side by side, and
    none has more than one frame in the threads, so that a slow or flooding lane delays another
    by one frame at most (CP-3). Frames that wait are held by their callers, whose credit is
    the limit. To be used from one event loop; `close` afterwards.

    Counters, whole numbers that only grow: frames (decoded, invalid and repeated ones included),
    codes, repeats, invalid; decode_ns in the threads.
    """

    LANES_MAX = 4_096

    def __init__(
        self,
        threads: int = 2,
        *,
        pixels_max: int = PIXELS_MAX,
        bytes_max: int = BYTES_MAX,
        clock: Clock | None = None,
        new_decoder: Callable[[], Decoder] = ZxingDecoder,
    ) -> None:
        self.frames = 0
        self.codes = 0
        self.repeats = 0
        self.invalid = 0
        self.decode_ns = 0
        self._pixels_max = pixels_max
        self._bytes_max = bytes_max
        self._clock = clock or SystemClock()
        self._new_decoder = new_decoder
        self._lanes: OrderedDict[Hashable, _Lane] = OrderedDict()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    @property
    def waiting(self) -> int:
        """Frames asked for and not yet answered."""
        return sum(lane.waiting for lane in self._lanes.values())

    async def decode(
        self,
        lane_key: Hashable,
        codec: int,
        data: bytes,
        *,
        width: int = 0,
        height: int = 0,
        stride: int = 0,
    ) -> list[Code]:
        """The codes in one frame of a lane.

        A frame equal to the lane's last one byte for byte is not decoded again. Raises
        ImageInvalid or ImageTooLarge for this frame only; the lane goes on.
        """
        lane = self._lane(lane_key)
        lane.waiting += 1
        try:
            async with lane.turn:
                frame = (codec, width, height, stride, data)
                loop = asyncio.get_running_loop()
                codes, spent_ns, is_repeat = await loop.run_in_executor(
                    self._threads, self._read, lane, frame
                )
        except InputError:
            self.frames += 1
            self.invalid += 1
            raise
        finally:
            lane.waiting -= 1
        self.frames += 1
        self.codes += len(codes)
        self.repeats += is_repeat
        self.decode_ns += spent_ns
        return codes

    def forget(self, lane_key: Hashable) -> None:
        """Drops what is kept of a lane, its last frame too, unless frames of it still wait."""
        lane = self._lanes.get(lane_key)
        if lane is not None and not lane.waiting:
            del self._lanes[lane_key]

    def close(self) -> None:
        """Ends the threads; frames in them are finished first."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._lanes.clear()

    def _lane(self, key: Hashable) -> _Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(LaneReader(self._new_decoder()))
            if len(self._lanes) > self.LANES_MAX:
                idle = next((k for k, other in self._lanes.items() if not other.waiting), key)
                if idle != key:
                    del self._lanes[idle]
        self._lanes.move_to_end(key)
        return lane

    def _read(
        self, lane: _Lane, frame: tuple[int, int, int, int, bytes]
    ) -> tuple[list[Code], int, bool]:
        """In a thread: (codes, nanoseconds, whether the frame was a repeat)."""
        with lane.busy:
            begun_ns = self._clock.monotonic_ns()
            is_repeat = frame == lane.last_frame
            if not is_repeat:
                codec, width, height, stride, data = frame
                luma = image_to_luma(
                    codec, data, width=width, height=height, stride=stride,
                    pixels_max=self._pixels_max, bytes_max=self._bytes_max,
                )  # fmt: skip
                lane.last_codes = lane.reader.read(luma)
                lane.last_frame = frame
            return list(lane.last_codes), self._clock.monotonic_ns() - begun_ns, is_repeat


# ---- files ------------------------------------------------------------------------------------


def split_mjpeg(data: bytes | mmap.mmap) -> Iterator[bytes]:
    """The JPEG images in a file of images one after the other (Motion JPEG).

    Walks the marker segments, so that a thumbnail inside one does not end its image. Raises
    ImageInvalid at what is not a JPEG; a last image cut short is given as it is.
    """
    at, size = 0, len(data)
    while at < size:
        if data[at : at + 2] != _JPEG_MAGIC:
            raise ImageInvalid(f"no JPEG begins at byte {at}")
        end = _jpeg_end(data, at + 2)
        yield bytes(data[at:end])
        at = end


def _jpeg_end(data: bytes | mmap.mmap, at: int) -> int:
    """Position after the end-of-image marker; `at` is behind the start-of-image marker."""
    size = len(data)
    while at + 4 <= size:
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)  # entropy-coded data, or garbage the decoder will refuse
            if at < 0:
                return size
            continue
        marker = data[at + 1]
        if marker == 0xD9:
            return at + 2
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2  # stuffed byte, restart: no segment
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return size


def decode_file(
    path: Path, *, clock: Clock | None = None, bytes_max: int = BYTES_MAX
) -> Iterator[dict[str, object]]:
    """What `chot decode` prints of a file: one dict, or one a frame for .mjpeg and .mjpg.

    {"file", "width", "height", "codes": [{"text" or null, "bytes_b64", "corners"}], "decode_us"}
    or {"file", "error": {"code", "message"}}; lines of clips also have "frame", from 0. text is
    null where the bytes are not UTF-8. bytes_max: of one image.
    """
    watch = clock or SystemClock()
    try:
        if path.suffix.lower() in (".mjpeg", ".mjpg"):
            yield from _decode_clip(path, watch, bytes_max)
        else:
            with path.open("rb") as file:
                data = file.read(bytes_max + 1)
            yield {"file": str(path)} | _image_to_line(data, watch, bytes_max)
    except (InputError, OSError) as error:
        yield {"file": str(path)} | _error_to_line(error)


def _decode_clip(path: Path, watch: Clock, bytes_max: int) -> Iterator[dict[str, object]]:
    with path.open("rb") as file:
        if not file.seek(0, io.SEEK_END):
            raise ImageInvalid("an empty file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for n, image in enumerate(split_mjpeg(data)):
                head: dict[str, object] = {"file": str(path), "frame": n}
                try:
                    yield head | _image_to_line(image, watch, bytes_max)
                except InputError as error:
                    yield head | _error_to_line(error)


def _image_to_line(data: bytes, watch: Clock, bytes_max: int) -> dict[str, object]:
    begun_ns = watch.monotonic_ns()
    codec = PNG if data[:8] == _PNG_MAGIC else JPEG
    luma = image_to_luma(codec, data, bytes_max=bytes_max)
    codes = _ZXING.decode(luma)
    spent_us = (watch.monotonic_ns() - begun_ns) // 1_000
    height, width = luma.shape
    return {
        "width": width,
        "height": height,
        "codes": [
            {
                "text": _bytes_to_text(code.data),
                "bytes_b64": base64.b64encode(code.data).decode(),
                "corners": [list(corner) for corner in code.corners],
            }
            for code in codes
        ],
        "decode_us": spent_us,
    }


def _error_to_line(error: InputError | OSError) -> dict[str, object]:
    if isinstance(error, InputError):
        return {"error": {"code": error.code, "message": str(error)}}
    return {"error": {"code": ImageInvalid.code, "message": f"cannot be read: {error.strerror}"}}


def _bytes_to_text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
