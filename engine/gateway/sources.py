"""Sources: where a gateway's frames and records come from.

FrameSource plays a clip (concatenated JPEGs), a folder of images or standard input at a steady
rate; RecordSource reads JSON lines. Both are asynchronous iterators of what a gateway sends: a
Picture, Codes, a Reading, or Records already encoded as one SCANS body.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from engine.clock import Clock
from engine.errors import LineInvalid, SettingInvalid
from engine.scans.record_lines import line_to_record
from engine.scans.records import encode_scans
from engine.telemetry import Log
from engine.wire.frames import Codec

STDIN: Final = "-"
IMAGE_MAX: Final = 4_000_000  # bytes of one image; more is skipped as damaged
LINE_MAX: Final = 65_536  # bytes of one JSON line
RECORDS_PER_BODY: Final = 64
LINGER_S: Final = 0.2  # a slow source does not wait longer for a body to fill
_CHUNK: Final = 65_536

_log = Log("gateway")
Sleep = Callable[[float], Awaitable[object]]


@dataclass(slots=True)
class Picture:
    """A camera frame. ts_ns: its own time, of a recording the recorded one. taken_ms: when it came
    to this box; Capture sets it."""

    codec: Codec
    image: bytes
    ts_ns: int
    frame_no: int
    lane: int
    taken_ms: int = 0


# Reprs end up in logs and tracebacks, so these say nothing of what a code said.
@dataclass(slots=True, repr=False)
class Records:
    """A plain SCANS body of `count` records. lane: channel of the message, 0 of a back end.

    stored: resolved once the records are on the box's disk. key: remembered with them, see Draft.
    """

    body: bytes
    count: int
    lane: int
    stored: asyncio.Future[None] | None = None
    key: bytes = b""


@dataclass(slots=True, repr=False)
class Codes:
    """Payloads that came into view on a lane at one time; each is a scan."""

    lane: int
    ts_ms: int
    payloads: list[bytes]


@dataclass(slots=True, repr=False)
class Reading:
    """What a thermal terminal measured, as it said it (SY-4). ts_ms: when, by its clock or ours.

    tie_ms: how far its scan may be from it. payload: of the code that it read with it, empty for
    none. stored: as in Records.
    """

    lane: int
    ts_ms: int
    device: str
    value: float
    unit: str
    calibration: str
    tie_ms: int
    payload: bytes = b""
    stored: asyncio.Future[None] | None = None


Item = Picture | Codes | Records | Reading


class Source(Protocol):
    """kind, lane: as in the configuration. is_live: the world does not wait; of a recording the
    gateway reads no more than it needs. fps_max: frames a second wanted of it, 0 for all. problem:
    why nothing comes now, empty when all is well; never with personal data.

    skipped: lines that were no record, images that were damaged.
    """

    kind: str
    lane: int
    is_live: bool
    fps_max: float

    @property
    def problem(self) -> str: ...

    @property
    def skipped(self) -> int: ...

    def items(self) -> AsyncGenerator[Item]:
        """What was captured, in order; ends when the source does."""


# ---- frames -------------------------------------------------------------------------------------


class JpegSplitter:
    """Concatenated JPEGs in chunks to whole images (ITU-T T.81, annex B).

    Segments are stepped over by their length, so that a thumbnail inside an image does not end it;
    in entropy-coded data only FF D9 does. Bytes between images are skipped. `damaged` counts images
    cut short, broken or larger than `size_max`. Memory stays below size_max and one chunk.
    """

    def __init__(self, size_max: int = IMAGE_MAX) -> None:
        self.damaged = 0
        self._size_max = size_max
        self._kept = bytearray()
        self._at = 0  # how far the current image is understood; 0 while none has begun
        self._is_in_scan = False

    def feed(self, data: bytes) -> list[bytes]:
        """Images that are complete with this chunk."""
        self._kept += data
        images: list[bytes] = []
        while self._step(images):
            pass
        if len(self._kept) > self._size_max:
            self._give_up()
        return images

    def finish(self) -> None:
        """The stream has ended: what is unfinished is damaged."""
        if self._at:
            self._give_up()

    def _step(self, images: list[bytes]) -> bool:
        """One segment, or one run of entropy-coded data. False when more bytes are needed."""
        if not self._at:
            start = self._kept.find(b"\xff\xd8\xff")
            if start < 0:
                del self._kept[: max(0, len(self._kept) - 2)]
                return False
            del self._kept[:start]
            self._at = 2
        return self._scan(images) if self._is_in_scan else self._segment(images)

    def _segment(self, images: list[bytes]) -> bool:
        kept, at = self._kept, self._at
        if len(kept) < at + 4:
            return self._end_at(images) if kept[at : at + 2] == b"\xff\xd9" else False
        if kept[at] != 0xFF:
            self._give_up()
            return True
        marker = kept[at + 1]
        if marker == 0xFF:  # fill byte, B.1.1.2
            self._at += 1
        elif marker == 0xD9:
            return self._end_at(images)
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            self._at += 2
        elif marker == 0xD8 or marker == 0x00:
            self._give_up()
        else:
            self._at += 2 + max(2, int.from_bytes(kept[at + 2 : at + 4], "big"))
            self._is_in_scan = marker == 0xDA
        return True

    def _scan(self, images: list[bytes]) -> bool:
        kept = self._kept
        at = kept.find(b"\xff", self._at)
        if at < 0:
            self._at = max(self._at, len(kept))
            return False
        self._at = at
        if len(kept) < at + 2:
            return False
        marker = kept[at + 1]
        if marker == 0x00 or 0xD0 <= marker <= 0xD7:  # a stuffed FF, a restart
            self._at += 2
        elif marker == 0xFF:
            self._at += 1
        else:
            self._is_in_scan = False  # tables or the next scan of a progressive image, or the end
        return True

    def _end_at(self, images: list[bytes]) -> bool:
        end = self._at + 2
        if end <= self._size_max:
            images.append(bytes(self._kept[:end]))
        else:
            self.damaged += 1
        del self._kept[:end]
        self._at, self._is_in_scan = 0, False
        return True

    def _give_up(self) -> None:
        """The image is broken: look for the next one behind what was understood of it, so that no
        thumbnail inside passes for an image."""
        self.damaged += 1
        del self._kept[: max(2, self._at)]
        self._at, self._is_in_scan = 0, False


_SUFFIXES: Final = {".jpg": Codec.JPEG, ".jpeg": Codec.JPEG, ".png": Codec.PNG}


class FrameSource:
    """Frames at `fps`; frame n has the time start_ms + n / fps, whenever it is really sent.

    path: a clip of concatenated JPEGs, a folder whose .jpg and .png files are taken in the order of
    their names, or "-" for a clip on standard input. start_ms: None for now.
    Raises SettingInvalid for a path that is not there.
    """

    kind = "frames"
    is_live = True
    fps_max = 0.0
    problem = ""

    def __init__(
        self,
        path: str,
        *,
        fps: float,
        lane: int,
        clock: Clock,
        start_ms: int | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if path != STDIN and not (Path(path).is_file() or Path(path).is_dir()):
            # Opening a named pipe would wait for its writer, and with it all lanes.
            hint = "of a pipe or a device, use - and redirect it" if Path(path).exists() else ""
            raise SettingInvalid(f"there is no clip or folder {path}", hint=hint)
        if not 0 < fps <= 1000:
            raise SettingInvalid("fps is above 0 and at most 1000")
        self.skipped = 0
        self._path = path
        self._fps = fps
        self.lane = lane
        self._clock = clock
        self._start_ms = start_ms
        self._sleep = sleep

    async def items(self) -> AsyncGenerator[Item]:
        start_ns = (self._clock.now_ms() if self._start_ms is None else self._start_ms) * 1_000_000
        began_ns = self._clock.monotonic_ns()
        number = 0
        async for codec, image in self._images():
            offset_ns = round(number * 1_000_000_000 / self._fps)
            wait_ns = began_ns + offset_ns - self._clock.monotonic_ns()
            if wait_ns > 0:
                await self._sleep(wait_ns / 1e9)
            yield Picture(codec, image, start_ns + offset_ns, number, self.lane)
            number += 1

    async def _images(self) -> AsyncIterator[tuple[Codec, bytes]]:
        if self._path != STDIN and Path(self._path).is_dir():
            for file in sorted(Path(self._path).iterdir()):
                codec = _SUFFIXES.get(file.suffix.lower())
                if codec is None or not file.is_file():
                    continue
                try:
                    is_image = file.stat().st_size <= IMAGE_MAX
                    image = await asyncio.to_thread(file.read_bytes) if is_image else b""
                except OSError as error:  # gone meanwhile, or not ours to read
                    _log.warning("image_refused", lane=self.lane, problem=error.strerror or "")
                    is_image = False
                if is_image:
                    yield codec, image
                else:
                    self.skipped += 1
            return
        splitter = JpegSplitter()
        async for chunk in read_chunks(self._path):
            for image in splitter.feed(chunk):
                yield Codec.JPEG, image
            self.skipped = splitter.damaged
        splitter.finish()
        self.skipped = splitter.damaged


# ---- records ------------------------------------------------------------------------------------


class RecordSource:
    """JSON lines of a file or of standard input ("-") as SCANS bodies.

    rate: records a second, 0 for as fast as the gateway takes them. lane: of records that name
    none. Lines that are no record are counted in `skipped` and logged by their number. After `shut`
    what was read still comes, at once.
    Raises SettingInvalid for a path that is not there.
    """

    kind = "records"
    fps_max = 0.0
    problem = ""

    def __init__(
        self,
        path: str,
        *,
        rate: float,
        lane: int,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if path != STDIN and not Path(path).is_file():
            raise SettingInvalid(f"there is no file {path}")
        if rate < 0:
            raise SettingInvalid("rate is not negative")
        self.is_live = path == STDIN
        self.skipped = 0
        self._path = path
        self._rate = rate
        self.lane = lane
        self._clock = clock
        self._sleep = sleep
        self._shut = asyncio.Event()

    def shut(self) -> None:
        """Read nothing more."""
        self._shut.set()

    async def items(self) -> AsyncGenerator[Item]:
        room = RECORDS_PER_BODY
        if self._rate:
            room = max(1, min(room, int(self._rate * LINGER_S)))
        began_ns = self._clock.monotonic_ns()
        sent = 0
        async for records in self._records():
            # What one read brought is sent before waiting for more: a live feed must not stand.
            for start in range(0, len(records), room):
                body = records[start : start + room]
                if self._rate:
                    due_ns = began_ns + round(sent / self._rate * 1e9)
                    wait_ns = due_ns - self._clock.monotonic_ns()
                    if wait_ns > 0:
                        await self._pause(wait_ns / 1e9)
                yield Records(encode_scans(body), len(body), self.lane)
                sent += len(body)

    async def _pause(self, span_s: float) -> None:
        """Until the time has passed, or no longer once we are shut."""
        ends = [
            asyncio.ensure_future(self._sleep(span_s)),
            asyncio.ensure_future(self._shut.wait()),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    async def _records(self) -> AsyncIterator[list[bytes]]:
        """Encoded records of each chunk of the file."""
        number = 0
        async for lines in _lines(read_chunks(self._path, self._shut)):
            records = []
            for line in lines:
                number += 1
                if not line.strip():
                    continue
                try:
                    if len(line) > LINE_MAX:
                        raise LineInvalid(f"longer than {LINE_MAX} bytes")
                    records.append(line_to_record(line, self.lane))
                except LineInvalid as error:
                    self.skipped += 1
                    _log.warning("line_refused", seq=number, problem=str(error))
            if records:
                yield records


# ---- bytes --------------------------------------------------------------------------------------


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """The lines that each chunk completes. One longer than LINE_MAX comes cut to LINE_MAX + 1."""
    kept = b""
    async for chunk in chunks:
        *lines, kept = (kept + chunk).split(b"\n")
        kept = kept[: LINE_MAX + 1]
        if lines:
            yield [line[: LINE_MAX + 1] for line in lines]
    if kept:
        yield [kept]


async def read_chunks(path: str, shut: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """Bytes of a file, or of standard input when path is "-"; no more once `shut` is set, but what
    was taken out of a pipe. Raises SettingInvalid."""
    shut = shut or asyncio.Event()
    if path == STDIN and sys.stdin is None:
        raise SettingInvalid("there is no standard input")
    if path == STDIN and _can_wait(sys.stdin.fileno()):
        async for chunk in _read_pipe(sys.stdin.buffer, shut):
            yield chunk
        return
    for chunk in _file_chunks(Path("/dev/stdin") if path == STDIN else Path(path)):
        yield chunk
        await asyncio.sleep(0)
        if shut.is_set():
            return


def _can_wait(handle: int) -> bool:
    """Whether it tells when there is something to read; files and /dev/null never let one wait."""
    mode = os.fstat(handle).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(handle)


def _file_chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise SettingInvalid(f"cannot read {path}: {error.strerror}") from None


async def _read_pipe(file: BinaryIO, shut: asyncio.Event) -> AsyncIterator[bytes]:
    """A pipe or terminal without a thread: one that waits for input could not be cancelled."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    closer = asyncio.ensure_future(shut.wait())
    closer.add_done_callback(lambda _: transport.close())
    try:
        while chunk := await reader.read(_CHUNK):
            yield chunk
    finally:
        closer.cancel()
        transport.close()
