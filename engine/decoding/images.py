"""Images: bytes of a camera frame or a file to a plane of luma, and clips to their frames.

A plane is a two-dimensional uint8 array of luma (height, width), rows any stride apart, pixels of a
row side by side. Codecs have the numbers of the FRAME message. What is hostile ends here: sizes are
checked before anything is decompressed, and what is no picture is an ImageInvalid and nothing else.

simplejpeg and Pillow's inflate work without the GIL.
"""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Iterator
from typing import Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from engine.errors import ImageInvalid, ImageTooLarge, InputError

Plane: TypeAlias = npt.NDArray[np.uint8]

JPEG: Final = 1
GRAY8: Final = 2
PNG: Final = 3

PIXELS_MAX = 16_777_216
BYTES_MAX = 16_777_216
# A progressive JPEG can ask for a pass over all its pixels every dozen bytes. Encoders write
# about ten scans; libjpeg itself has no limit.
SCANS_MAX = 64

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8"


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


def check_size(w: int, h: int, width: int, height: int, pixels_max: int) -> None:
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
    check_size(w, h, width, height, pixels_max)
    try:
        # The exact transform: with SIMD the quick one gains nothing.
        luma = simplejpeg.decode_jpeg(data, colorspace="GRAY")
    except ValueError as error:
        raise ImageInvalid("the JPEG is cut short or broken") from error
    return cast(Plane, luma[:, :, 0])


def _gray8_to_luma(data: bytes, width: int, height: int, stride: int, pixels_max: int) -> Plane:
    check_size(width, height, 0, 0, pixels_max)
    stride = stride or width
    # The last row may end with its last pixel or with the padding of the others.
    if stride < width or len(data) not in (stride * height, stride * (height - 1) + width):
        raise ImageInvalid(f"{len(data)} bytes are no {width} x {height} plane of stride {stride}")
    return np.ndarray((height, width), np.uint8, buffer=data, strides=(stride, 1))


def _png_to_luma(data: bytes, width: int, height: int, pixels_max: int) -> Plane:
    if data[:8] != PNG_MAGIC or data[12:16] != b"IHDR" or len(data) < 24:
        raise ImageInvalid("the header is not of a PNG")
    w, h = struct.unpack_from(">II", data, 16)
    check_size(w, h, width, height, pixels_max)
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


# ---- clips ------------------------------------------------------------------------------------


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
