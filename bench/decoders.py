"""QR readers side by side: doors of the engine and settings of zxing-cpp, timed frame by frame.

Every frame goes through every reader in turn, in an order that rotates, in one thread of one
process: all see the same state of the machine. The thread's CPU time counts, which stays honest
when neighbours run, and of several repetitions the smallest a frame.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import simplejpeg
import zxingcpp

from bench import peers
from bench.harness import no_collector
from engine.decoding import decode

Reader = Callable[[Any], list[bytes]]

QR: Final = cast(Any, zxingcpp.BarcodeFormat.QRCode)
PLAIN_TEXT: Final = zxingcpp.TextMode.Plain
QUICK: Final[dict[str, Any]] = {
    "binarizer": zxingcpp.Binarizer.GlobalHistogram,
    "try_downscale": False,
    "try_invert": False,
}


@dataclass(frozen=True, slots=True)
class Door:
    """One way to read. new: a reader for one lane, asked for anew for every clip."""

    name: str
    new: Callable[[], Reader]
    note: str = ""


def read_all(luma: Any) -> list[bytes]:
    """The baseline: every QR code zxing-cpp finds, its own settings."""
    found = zxingcpp.read_barcodes(luma, formats=QR, text_mode=PLAIN_TEXT)
    return list(dict.fromkeys(code.bytes for code in found if code.valid))


def read_one(luma: Any) -> list[bytes]:
    """Stops at the first code."""
    code = zxingcpp.read_barcode(luma, formats=QR, text_mode=PLAIN_TEXT)
    return [code.bytes] if code is not None and code.valid else []


def read_cascade(luma: Any) -> list[bytes]:
    """What zxing-cpp can do without help: a cheap setting first, the full one when it fails."""
    code = zxingcpp.read_barcode(luma, formats=QR, text_mode=PLAIN_TEXT, **QUICK)
    return [code.bytes] if code is not None and code.valid else read_one(luma)


def read_jpeg(data: Any) -> list[bytes]:
    """The baseline from JPEG bytes."""
    return read_all(simplejpeg.decode_jpeg(data, colorspace="GRAY")[:, :, 0])


ZXING: Final = Door("zxing", lambda: read_all, "read_barcodes(formats=QRCode)")
BASELINES: Final = (
    ZXING,
    Door("zxing-one", lambda: read_one, "read_barcode(formats=QRCode)"),
    Door(
        "zxing-cascade",
        lambda: read_cascade,
        "read_barcode: global threshold, no downscale, no invert; then its defaults",
    ),
)
JPEG_BASELINE: Final = Door("zxing", lambda: read_jpeg)


def zbar() -> Door:
    """ZBar by pyzbar. Raises Absent, also without libzbar0."""
    pyzbar = peers.load("pyzbar.pyzbar")
    only = [pyzbar.ZBarSymbol.QRCODE]

    def read(luma: Any) -> list[bytes]:
        return list(dict.fromkeys(code.data for code in pyzbar.decode(luma, symbols=only)))

    return Door("zbar", lambda: read, "pyzbar.decode(symbols=[QRCODE])")


def opencv() -> Door:
    """OpenCV's detector, in one thread as all others. Raises Absent."""
    cv2 = peers.load("cv2")
    cv2.setNumThreads(1)

    def new() -> Reader:
        detector = cv2.QRCodeDetector()

        def read(luma: Any) -> list[bytes]:
            try:
                _, texts, _, _ = detector.detectAndDecodeMulti(luma)
            except (cv2.error, UnicodeDecodeError):  # bytes that are no text: not read
                return []
            return list(dict.fromkeys(text.encode() for text in texts if text))

        return read

    return Door("opencv", new, "QRCodeDetector.detectAndDecodeMulti, setNumThreads(1)")


# What the engine offers, and whether it is made anew for every lane.
DOORS: Final = {
    "read_codes": False, "read_codes_native": False, "LaneReader": True, "JpegLaneReader": True,
}  # fmt: skip


def door(name: str) -> Door | None:
    """A door of engine.decoding.decode; None where this engine has none of that name."""
    found: Any = getattr(decode, name, None)
    if found is None:
        return None
    return Door(name, found if DOORS[name] else lambda: cast(Reader, found))


@dataclass(slots=True)
class Reading:
    """What one reader did with a row of frames: nanoseconds and contents, frame by frame."""

    door: str
    ns: npt.NDArray[np.int64]
    found: list[list[bytes]]


def measure(doors: Sequence[Door], frames: Sequence[Any], reps: int) -> list[Reading]:
    """One Reading a door over the frames of one clip; contents are those of the first time."""
    best = np.full((len(doors), len(frames)), np.iinfo(np.int64).max, np.int64)
    found: list[list[list[bytes]]] = [[] for _ in doors]
    clock = time.thread_time_ns
    with no_collector():
        for rep in range(reps):
            readers = [each.new() for each in doors]
            for n, frame in enumerate(frames):
                for turn in range(len(doors)):
                    k = (turn + n + rep) % len(doors)
                    begun = clock()
                    contents = readers[k](frame)
                    spent = clock() - begun
                    if spent < best[k, n]:
                        best[k, n] = spent
                    if not rep:
                        found[k].append(list(contents))
    return [Reading(each.name, best[k], found[k]) for k, each in enumerate(doors)]


def warm_up(doors: Sequence[Door], frame: Any) -> None:
    """First calls build tables and touch fresh pages."""
    for each in doors:
        reader = each.new()
        for _ in range(3):
            reader(frame)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keeps the process on the last of its cores, where the system lets it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cores)
