"""Decode: a plane of luma to the codes in it.

Our own reader (native.qr) looks first; zxing-cpp is asked where there is evidence of a code that it
could not read. Codes come as the bytes inside the symbol, never as text: character sets are the
business of engine.payloads. Everything slow here works without the GIL.
"""

from __future__ import annotations

import base64
import io
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import msgspec
import numpy as np
import zxingcpp

from engine.clock import Clock, SystemClock
from engine.decoding.images import (
    BYTES_MAX,
    JPEG,
    PIXELS_MAX,
    PNG,
    PNG_MAGIC,
    Plane,
    check_size,
    image_to_luma,
    split_mjpeg,
)
from engine.errors import ImageInvalid, ImageTooLarge, InputError
from native import cpu
from native.jpeg.luma import DAMAGED, DONE, LARGE, Luma
from native.qr.lane import Lane
from native.qr.reader import Reader

if TYPE_CHECKING:
    from native.qr.reader import _Reading

Corner: TypeAlias = tuple[int, int]
_Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom, in whole pixels

# How a code was read, by the numbers of native.qr.reader.
HOW: Final = ("", "plain", "mean", "equalized", "bent", "fused", "repeat")


class Code(msgspec.Struct, frozen=True):
    """One QR code found in a frame.

    data: the bytes inside. corners: (x, y) in pixels of the outer corners of the symbol, in its
    own order top left, top right, bottom right, bottom left. version: size of the symbol as
    the standard names it, "7" or "M4", empty where unknown. level: "L", "M", "Q", "H" or empty.
    mask: 0 to 7, -1 where unknown. how: one of HOW, or "zxing". corrected: codewords that were
    wrong, -1 where unknown. segments: (mode, ECI or -1, first byte, bytes). sequence: (index,
    count, parity) of structured append.
    """

    data: bytes
    corners: tuple[Corner, Corner, Corner, Corner]
    version: str = ""
    level: str = ""
    mask: int = -1
    how: str = ""
    corrected: int = -1
    mirrored: bool = False
    inverted: bool = False
    segments: tuple[tuple[int, int, int, int], ...] = ()
    sequence: tuple[int, int, int] | None = None


def _reading_to_code(reading: _Reading) -> Code:
    data, c, version, level, mask, mirrored, inverted, how, corrected = reading[:9]
    segments, sequence = reading[10:]
    corners = ((c[0], c[1]), (c[2], c[3]), (c[4], c[5]), (c[6], c[7]))
    return Code(
        data=data,
        corners=cast(Any, tuple((round(x), round(y)) for x, y in corners)),
        version=str(version),
        level=level,
        mask=mask,
        how=HOW[how],
        corrected=corrected,
        mirrored=mirrored,
        inverted=inverted,
        segments=segments,
        sequence=sequence,
    )


class ZxingDecoder:
    """zxing-cpp, all sizes of QR code and nothing else, upright or inverted, any angle.

    The second opinion, and the only one on Micro QR, rMQR and Model 1. For several threads at once.
    """

    def __init__(self) -> None:
        # One format, where the binding's types ask for a set: it converts.
        self._formats = cast(Any, zxingcpp.BarcodeFormat.QRCode)
        # Plain text mode: the text is not used, and HRI would rewrite GS1 contents for nothing.
        self._text_mode = zxingcpp.TextMode.Plain

    def decode(self, plane: Plane, x: int = 0, y: int = 0) -> list[Code]:
        """Every code in the plane, whose first pixel is (x, y) of the picture."""
        found = zxingcpp.read_barcodes(plane, formats=self._formats, text_mode=self._text_mode)
        return [_barcode_to_code(barcode, x, y) for barcode in found if barcode.valid]


def _barcode_to_code(barcode: Any, x: int, y: int) -> Code:
    p = barcode.position
    spots = (p.top_left, p.top_right, p.bottom_right, p.bottom_left)
    corners = cast(Any, tuple((spot.x + x, spot.y + y) for spot in spots))
    extra = getattr(barcode, "extra", None) or {}
    return Code(barcode.bytes, corners, version=str(extra.get("Version", "")), how="zxing")


# ---- stills -----------------------------------------------------------------------------------

_ZXING = ZxingDecoder()


class _Readers(threading.local):
    """One own reader a thread: each keeps memory that grows to the largest picture it saw."""

    def __init__(self) -> None:
        self.thorough = Reader()


_READERS = _Readers()


def _own(luma: Plane) -> Plane:
    """The plane as the own reader takes it: pixels of a row side by side."""
    return luma if luma.strides[1] == 1 or luma.shape[1] <= 1 else np.ascontiguousarray(luma)


def unique(codes: list[Code]) -> list[bytes]:
    """Contents of codes, each once, in order of appearance."""
    return list(dict.fromkeys(code.data for code in codes))


def read_codes_native(luma: Plane) -> list[bytes]:
    """Contents of the codes that the own reader finds by itself, each once."""
    return list(dict.fromkeys([found[0] for found in _READERS.thorough.read(_own(luma))]))


def read_codes(luma: Plane) -> list[bytes]:
    """Contents of all codes in a picture, each once; the thorough mode, for stills."""
    luma = _own(luma)
    codes = [found[0] for found in _READERS.thorough.read(luma)]
    codes += [code.data for code in _second_opinion(luma, bool(codes))]
    return list(dict.fromkeys(codes))


def read(luma: Plane) -> list[Code]:
    """Like read_codes, with all that is known of each code; each content once."""
    luma = _own(luma)
    codes = [_reading_to_code(found) for found in _READERS.thorough.read(luma)]
    codes += _second_opinion(luma, bool(codes))
    return list({code.data: code for code in reversed(codes)}.values())[::-1]


# Pixels of a picture in which looking twice costs less than thinking about it.
_SMALL = 160_000
# Around a finder by itself, of what the largest symbol would take: all of a Micro QR code.
_MICRO_SHARE = 0.3


def _second_opinion(luma: Plane, has_found: bool) -> list[Code]:
    """What zxing-cpp reads, where the last picture may hold a code that was not read.

    That is: a symbol whose timing patterns agree, or a fine finder that belongs to no code, as
    Micro QR has no more than one. It is asked for the part around them, and for the whole where
    that is most of the picture. Beside codes that were read, and around one finder, it is asked for
    each part by itself.
    """
    reader = _READERS.thorough
    _, _, fine, sure = reader.unread
    if not has_found and 0 < luma.size < _SMALL:
        return _ZXING.decode(luma)
    if has_found or (not sure and fine < 2):
        return _look_at_parts(luma)
    x0, y0, x1, y1 = _clip(luma, reader.region)
    part = (x1 - x0) * (y1 - y0)
    if 2 * part > luma.size or part == 0:
        return _ZXING.decode(luma)
    codes = _ZXING.decode(luma[y0:y1, x0:x1], x0, y0)
    # What it sees depends on what else is in the picture: another look, where little was looked at.
    if codes or 4 * part > luma.size:
        return codes
    return _ZXING.decode(luma)


def _look_at_parts(luma: Plane) -> list[Code]:
    """What zxing-cpp reads in what is left over beside codes that were read."""
    boxes: list[_Box] = []
    for left, top, right, bottom, is_symbol in _READERS.thorough.parts:
        inset = 0.0 if is_symbol else (right - left) / 2 * (1 - _MICRO_SHARE)
        box = _clip(luma, (left + inset, top + inset, right - inset, bottom - inset))
        # Several triples of one symbol fail together: boxes that overlap are one.
        while (other := next((b for b in boxes if _overlap(b, box)), None)) is not None:
            boxes.remove(other)
            box = (
                min(box[0], other[0]), min(box[1], other[1]),
                max(box[2], other[2]), max(box[3], other[3]),
            )  # fmt: skip
        boxes.append(box)
    return [code for x0, y0, x1, y1 in boxes for code in _ZXING.decode(luma[y0:y1, x0:x1], x0, y0)]


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _clip(luma: Plane, box: tuple[float, float, float, float]) -> _Box:
    """A box in whole pixels of the plane; an empty one where it lies outside."""
    height, width = luma.shape
    x0, y0 = max(0, int(box[0])), max(0, int(box[1]))
    return x0, y0, max(x0, min(width, int(box[2]) + 1)), max(y0, min(height, int(box[3]) + 1))


# ---- lanes ------------------------------------------------------------------------------------


class LaneReader:
    """Reads the frames of one lane in order (native.qr.lane); zxing-cpp where that is at a loss.

    Every content it returns for a frame was in that frame's own pixels. Not for several threads.
    """

    # Calls of zxing-cpp that a lane may save up, and frames after which it earns another one.
    ZXING_CALLS = 2
    ZXING_EVERY = 24

    def __init__(self) -> None:
        self._lane = Lane()
        self._calls: float = self.ZXING_CALLS

    def __call__(self, luma: Plane) -> list[bytes]:
        """Contents of the codes seen in the frame, each once."""
        luma = _own(luma)
        found = self._lane.read(luma)
        if found:
            return list(dict.fromkeys([code[0] for code in found]))
        return unique(self._ask_zxing(luma))

    def read(self, luma: Plane) -> list[Code]:
        """The codes seen in the frame, corners in pixels of the frame."""
        luma = _own(luma)
        found = self._lane.read(luma)
        if found:
            return [_reading_to_code(code) for code in found]
        return self._ask_zxing(luma)

    @property
    def wanted(self) -> tuple[int, int, int, int] | None:
        """(left, top, right, bottom) of the part of the next frame that `follow` needs, or None."""
        return self._lane.wanted

    def follow(self, part: Plane, x: int, y: int) -> list[Code] | None:
        """The codes held since the last frame, from a part of the next one that begins at (x, y).

        None where the part is not enough: give the whole frame to `read`.
        """
        found = self._lane.follow(part, x, y)
        return None if found is None else [_reading_to_code(code) for code in found]

    def _ask_zxing(self, luma: Plane) -> list[Code]:
        """The second opinion on the part of the frame that may show a code, within its budget."""
        self._calls = min(self._calls + 1 / self.ZXING_EVERY, self.ZXING_CALLS)
        region = self._lane.region
        if region is None or self._calls < 1:
            return []
        left, top, right, bottom = region
        height, width = luma.shape
        x0, y0 = max(0, int(left)), max(0, int(top))
        x1, y1 = min(width, int(right) + 1), min(height, int(bottom) + 1)
        if x0 >= x1 or y0 >= y1:
            return []
        # M1 can detect errors and not correct them: corners of smeared codes pass for one.
        codes = [c for c in _ZXING.decode(luma[y0:y1, x0:x1], x0, y0) if c.version != "M1"]
        self._calls -= 0 if codes else 1
        return codes


class JpegLaneReader:
    """LaneReader from JPEG bytes, of which it decodes no more than it needs (native.jpeg).

    A frame equal to the last one byte for byte is not decoded again. While a code is held, most
    frames are decoded down to its last row only, and then judged as far as that. pixels_max,
    bytes_max: limits of a frame.
    """

    def __init__(
        self,
        reader: LaneReader | None = None,
        *,
        pixels_max: int = PIXELS_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self._reader = reader or LaneReader()
        self._pixels_max = pixels_max
        self._bytes_max = bytes_max
        self._luma = Luma()
        self._last: bytes | None = None
        self._last_codes: list[Code] = []

    def __call__(self, data: bytes) -> list[bytes]:
        """Contents of the codes seen in the frame. Raises ImageInvalid and ImageTooLarge."""
        return unique(self.read(data))

    def read(self, data: bytes, width: int = 0, height: int = 0) -> list[Code]:
        """The codes seen in the frame. Raises ImageInvalid and ImageTooLarge.

        width, height: what the sender says of the frame, 0 where nothing.
        """
        if data == self._last:
            return list(self._last_codes)
        self._last = None
        self._last_codes = self._read(data, width, height)
        self._last = data
        return list(self._last_codes)

    def _read(self, data: bytes, width: int, height: int) -> list[Code]:
        size = None
        if len(data) <= self._bytes_max and cpu.active() != "scalar":
            # Without vectors libjpeg-turbo is the faster one.
            size = self._luma.open(data)
        if size is None:
            return self._reader.read(self._by_library(data, width, height))
        check_size(size[0], size[1], width, height, self._pixels_max)
        codes = self._read_part(data, size)
        if codes is not None:
            return codes
        status = self._luma.decode(data, pixels_max=self._pixels_max)
        if status == DONE:
            return self._reader.read(np.asarray(self._luma))
        if status == LARGE:
            raise ImageTooLarge(f"more than {self._pixels_max} pixels")
        if status == DAMAGED:
            raise ImageInvalid("the JPEG is cut short or broken")
        return self._reader.read(self._by_library(data, width, height))

    def _read_part(self, data: bytes, size: tuple[int, int]) -> list[Code] | None:
        """The codes held since the last frame, or None where the whole frame is needed."""
        wanted = self._reader.wanted
        if wanted is None or not data.endswith(b"\xff\xd9"):
            return None
        left, top, right, bottom = wanted
        if right > size[0] or bottom > size[1]:
            return None
        if self._luma.decode(data, top, bottom, left, right, pixels_max=self._pixels_max) != DONE:
            return None
        y0, y1, x0, x1 = self._luma.valid
        return self._reader.follow(np.asarray(self._luma)[y0:y1, x0:x1], x0, y0)

    def _by_library(self, data: bytes, width: int, height: int) -> Plane:
        return image_to_luma(
            JPEG, data, width=width, height=height,
            pixels_max=self._pixels_max, bytes_max=self._bytes_max,
        )  # fmt: skip


# ---- files ------------------------------------------------------------------------------------


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
    codec = PNG if data[:8] == PNG_MAGIC else JPEG
    luma = image_to_luma(codec, data, bytes_max=bytes_max)
    codes = read(luma)
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
