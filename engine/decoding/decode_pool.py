"""The threads that decode the frames of many lanes, each in its order."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from engine.clock import Clock, SystemClock
from engine.decoding.decode import Code, JpegLaneReader, LaneReader
from engine.decoding.images import BYTES_MAX, JPEG, PIXELS_MAX, image_to_luma
from engine.errors import ImageInvalid, InputError
from engine.telemetry import Log

_log = Log("decode")


class FrameReader(Protocol):
    """Reads the frames of one lane, whatever their codec; one call at a time."""

    def read(self, codec: int, width: int, height: int, stride: int, data: bytes) -> list[Code]:
        """The codes in the next frame. Raises ImageInvalid and ImageTooLarge."""


class LaneFrames:
    """The reader of a lane: JPEG as far as it is needed, other codecs whole."""

    def __init__(self, pixels_max: int = PIXELS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._limits = {"pixels_max": pixels_max, "bytes_max": bytes_max}
        self._reader = LaneReader()
        self._jpeg = JpegLaneReader(self._reader, pixels_max=pixels_max, bytes_max=bytes_max)

    def read(self, codec: int, width: int, height: int, stride: int, data: bytes) -> list[Code]:
        if codec == JPEG and min(width, height, stride) >= 0:
            return self._jpeg.read(data, width, height)
        return self._reader.read(
            image_to_luma(codec, data, width=width, height=height, stride=stride, **self._limits)
        )


@dataclass(slots=True)
class _Lane:
    """What the pool keeps of one lane: its reader, its turn, its last frame."""

    reader: FrameReader
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
        new_reader: Callable[[int, int], FrameReader] | None = None,
        prepare: Callable[[bytes, Hashable], None] | None = None,
    ) -> None:
        """prepare: called in a thread with each code that a lane's last frame did not show and the
        lane's key, and by the method of that name."""
        self.frames = 0
        self.codes = 0
        self.repeats = 0
        self.invalid = 0
        self.decode_ns = 0
        self._pixels_max = pixels_max
        self._bytes_max = bytes_max
        self._clock = clock or SystemClock()
        self._new_reader = new_reader or LaneFrames
        self._prepare = prepare
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
                    self._threads, self._read, lane, frame, lane_key
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

    async def prepare(self, payloads: Sequence[tuple[bytes, Hashable]]) -> None:
        """Has passes prepared in the threads, one at a time, so that frames get between them, each
        with the key of its lane."""
        if self._prepare is None:
            return
        loop = asyncio.get_running_loop()
        for payload, lane_key in payloads:
            await loop.run_in_executor(self._threads, self._prepare, payload, lane_key)

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
            lane = self._lanes[key] = _Lane(self._new_reader(self._pixels_max, self._bytes_max))
            if len(self._lanes) > self.LANES_MAX:
                idle = next((k for k, other in self._lanes.items() if not other.waiting), key)
                if idle != key:
                    del self._lanes[idle]
        self._lanes.move_to_end(key)
        return lane

    def _read(
        self, lane: _Lane, frame: tuple[int, int, int, int, bytes], lane_key: Hashable
    ) -> tuple[list[Code], int, bool]:
        """In a thread: (codes, nanoseconds, whether the frame was a repeat)."""
        with lane.busy:
            begun_ns = self._clock.monotonic_ns()
            is_repeat = frame == lane.last_frame
            if not is_repeat:
                codes = _read_frame(lane.reader, frame)
                if self._prepare is not None:
                    known = {code.data for code in lane.last_codes}
                    for data in {code.data for code in codes} - known:
                        self._prepare(data, lane_key)
                lane.last_codes, lane.last_frame = codes, frame
            return list(lane.last_codes), self._clock.monotonic_ns() - begun_ns, is_repeat


def _read_frame(reader: FrameReader, frame: tuple[int, int, int, int, bytes]) -> list[Code]:
    """Raises ImageInvalid, whatever a library makes of hostile bytes or of memory that is short: a
    frame without an end would hold up its gateway for ever."""
    try:
        return reader.read(*frame)
    except InputError:
        raise
    except Exception as error:
        _log.error("a frame broke its reader", problem=type(error).__name__)
        raise ImageInvalid("the frame cannot be read") from error
