"""Multipart: the stream of an MJPEG camera in chunks to its images (RFC 2046, 5.1.1).

Cameras differ: a boundary with or without its two hyphens, LF instead of CRLF, a Content-Length
that is missing or wrong. All of that is read; what is no whole JPEG is counted and stepped over.
"""

from __future__ import annotations

from typing import Final

from engine.gateway.sources import IMAGE_MAX

BOUNDARY_MAX: Final = 200  # RFC 2046 allows 70
HEAD_MAX: Final = 4096  # bytes of the header lines of one part
_SOI: Final = b"\xff\xd8"
_EOI: Final = b"\xff\xd9"


class MultipartSplitter:
    """Chunks to whole JPEGs. Memory stays below size_max and one chunk.

    boundary: as in the Content-Type. damaged: parts that were no whole JPEG, or too large.
    Raises ValueError for a boundary that cannot be one.
    """

    def __init__(self, boundary: bytes, size_max: int = IMAGE_MAX) -> None:
        if not 0 < len(boundary) <= BOUNDARY_MAX or not boundary.strip(b"-"):
            raise ValueError("a boundary has 1 to 200 bytes")
        self.damaged = 0
        self._delimiter = boundary if boundary.startswith(b"--") else b"--" + boundary
        self._size_max = size_max
        self._kept = bytearray()
        self._is_in_part = False
        self._is_image = True  # by the Content-Type of the part
        self._length: int | None = None
        self._looked = 0  # bytes of the part in which there is no delimiter

    def feed(self, data: bytes) -> list[bytes]:
        """Images that are complete with this chunk."""
        self._kept += data
        images: list[bytes] = []
        while self._body(images) if self._is_in_part else self._head():
            pass
        return images

    def _head(self) -> bool:
        """Delimiter and header lines of a part. False when more bytes are needed."""
        kept, delimiter = self._kept, self._delimiter
        at = kept.find(delimiter)
        if at < 0:
            del kept[: max(0, len(kept) - len(delimiter) + 1)]
            return False
        del kept[:at]
        start = len(delimiter)
        ends = [(kept.find(mark, start, start + HEAD_MAX), len(mark)) for mark in _BLANK_LINES]
        end, size = min((e for e in ends if e[0] >= 0), default=(-1, 0))
        if end < 0:
            if len(kept) < start + HEAD_MAX:
                return False
            self.damaged += 1
            del kept[:start]
            return True
        self._read_head(bytes(kept[start:end]))
        del kept[: end + size]
        self._is_in_part, self._looked = True, 0
        return True

    def _read_head(self, lines: bytes) -> None:
        self._length, self._is_image = None, True
        for line in lines.split(b"\n"):
            name, _, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip()
            if name == b"content-length" and value.isdigit() and len(value) < 10:
                length = int(value)
                self._length = length if length <= self._size_max else None
            elif name == b"content-type":
                self._is_image = value.lower().startswith(b"image/")

    def _body(self, images: list[bytes]) -> bool:
        """The bytes of a part. False when more are needed."""
        kept, length = self._kept, self._length
        end = kept.find(self._delimiter, max(0, self._looked - len(self._delimiter)))
        self._looked = len(kept)
        if end >= 0 and (length is None or end < length):
            self._take(images, end)
        elif length is not None:
            if len(kept) < length:
                return False
            self._take(images, length)
        elif end < 0 and kept.endswith(_IMAGE_ENDS):
            self._take(images, len(kept))  # do not wait for the next part: that is a frame later
        elif len(kept) > self._size_max:
            self._take(images, len(kept))
        else:
            return False
        return True

    def _take(self, images: list[bytes], size: int) -> None:
        """The first `size` bytes are the part."""
        body = bytes(self._kept[:size]).rstrip(b"\r\n")
        del self._kept[:size]
        self._is_in_part = False
        if body.startswith(_SOI) and body.endswith(_EOI) and size <= self._size_max:
            images.append(body)
        elif self._is_image:
            self.damaged += 1


_BLANK_LINES: Final = (b"\r\n\r\n", b"\n\n", b"\n\r\n")
_IMAGE_ENDS: Final = (_EOI, _EOI + b"\r\n")
