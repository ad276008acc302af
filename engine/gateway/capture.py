"""Capture: everything between a gateway's sources and its spool.

Each source runs in a task of its own, so that a camera that stalls holds up no other lane (CP-3).
What comes out are camera frames for the buffer in memory and messages for the spool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np

from engine.clock import Clock
from engine.gateway.gear.readers import LineReaders
from engine.gateway.lane_decoder import LaneDecoder
from engine.gateway.lights import Expected, Lights
from engine.gateway.sources import Codes, Picture, Reading, Records, RecordSource, Source
from engine.gateway.spool_epoch import Draft
from engine.gateway.status import GatewayStats, SourceStatus
from engine.gateway.ties import ScanRef, Ties
from engine.scans.records import ENTRY, LOCAL_VERDICT, decode_scans, encode_scan, encode_scans
from engine.scans.rows import Kind
from engine.wire.frames import FrameType, Policy, Report, report_to_body

READINGS_MAX: Final = 64  # that wait for their scan
_LONG_AGO_NS: Final = -(1 << 62)


@dataclass(slots=True)
class Outgoing:
    """A message for the spool with the records in it. is_live: the world does not wait, a recording
    does.

    alone: sent in its place when the spool numbers it in another epoch than scan_epoch: a reading
    names its scan by a number, which means nothing elsewhere.
    """

    draft: Draft
    count: int
    is_live: bool
    scan_epoch: int = 0
    alone: Draft | None = None


# The future of a message's (epoch, seq), given after waiting for room.
Store: TypeAlias = Callable[[Outgoing], Awaitable["asyncio.Future[tuple[int, int]]"]]


class Capture:
    """Runs sources until all have ended.

    take_frame: a frame for the engine. decode: who reads the codes; "auto" is what the engine says.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        take_frame: Callable[[Picture], None],
        store: Store,
        lights: Lights,
        clock: Clock,
        stats: GatewayStats,
        decode: Literal["auto", "engine", "gateway"] = "auto",
        decode_threads: int = 2,
    ) -> None:
        self.policy = Policy()  # of the engine, from its last WELCOME
        self._decode = decode
        self._decoder = LaneDecoder(self._take_codes, stats, threads=decode_threads)
        self._lights = lights
        self._sources = sources
        self._clock = clock
        self._states = [SourceStatus(kind=source.kind, lane=source.lane) for source in sources]
        self._take_frame = take_frame
        self._store = store
        self._stats = stats
        self._ties = Ties(clock)
        # Only scans of these lanes can be asked for by a terminal.
        self._thermal_lanes = {source.lane for source in sources if source.kind == "thermal"}
        self._readings: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopped = False
        self._taken_ns: dict[int, int] = {}  # by lane, time of the last frame

    @property
    def skipped(self) -> int:
        """Lines that were no record, images that were damaged."""
        return sum(source.skipped for source in self._sources) + self._decoder.damaged

    @property
    def dropped(self) -> int:
        """Frames that a slow box did not look at."""
        return self._decoder.dropped

    @property
    def sources(self) -> list[SourceStatus]:
        """Each source at this moment."""
        for source, state in zip(self._sources, self._states, strict=True):
            state.skipped = source.skipped
            state.problem = "" if state.is_over else source.problem
        return self._states

    async def run(self) -> None:
        """Until every source has ended. Raises what the first source that fails does."""
        if self._is_stopped:
            return
        tasks = self._tasks = [
            asyncio.create_task(self._run_source(source, state))
            for source, state in zip(self._sources, self._states, strict=True)
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                if not task.cancelled():  # as `stop` does
                    task.result()
            await self._decoder.drain()
            await asyncio.gather(*self._readings)
        finally:
            self._decoder.close()
            tasks += self._readings
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Take nothing more. `run` ends soon: lines that handheld readers have sent, or a pipe has
        given, still go to the spool, for nobody will send them again. What is asked over HTTP has
        no answer yet."""
        if self._is_stopped:
            return
        self._is_stopped = True
        for source, task in zip(self._sources, self._tasks, strict=False):
            if isinstance(source, LineReaders | RecordSource) and source.is_live:
                source.shut()
            else:
                task.cancel()
        for task in self._readings:
            task.cancel()

    async def _run_source(self, source: Source, state: SourceStatus) -> None:
        async with aclosing(source.items()) as items:
            async for item in items:
                state.items += 1
                state.last_ms = self._clock.now_ms()
                match item:
                    case Picture():
                        self._take_picture(item, source.fps_max)
                    case Codes():
                        await self._take_codes(item)
                    case Records():
                        await self._take_records(item, source.is_live)
                    case Reading():
                        while len(self._readings) >= READINGS_MAX:
                            await asyncio.wait(self._readings, return_when=asyncio.FIRST_COMPLETED)
                        task = asyncio.create_task(self._take_reading(item))
                        self._readings.add(task)
                        task.add_done_callback(self._readings.discard)
        state.is_over = True

    def _take_picture(self, picture: Picture, fps_max: float) -> None:
        self._stats.frames_captured += 1
        picture.taken_ms = self._clock.now_ms()
        fps = min((f for f in (self.policy.fps, fps_max) if f), default=0)
        # A tenth of tolerance: a camera of just the wanted rate must not lose every second frame.
        since_ns = picture.ts_ns - self._taken_ns.get(picture.lane, _LONG_AGO_NS)
        if fps and 0 <= since_ns < 900_000_000 / fps:
            self._stats.frames_thinned += 1
            return
        self._taken_ns[picture.lane] = picture.ts_ns
        who = self.policy.decode if self._decode == "auto" else self._decode
        if who == "gateway":
            self._decoder.offer(picture)
        else:
            self._take_frame(picture)

    async def _take_codes(self, codes: Codes) -> asyncio.Future[tuple[int, int]]:
        # With a silent engine the lane is shown our own verdict at once, and the record says so.
        flags = LOCAL_VERDICT if self._lights.is_silent else 0
        records = [encode_scan(codes.ts_ms, codes.lane, p, flags=flags) for p in codes.payloads]
        return await self._take_records(
            Records(encode_scans(records), len(records), codes.lane), True
        )

    async def _take_records(
        self, records: Records, is_live: bool
    ) -> asyncio.Future[tuple[int, int]]:
        # The light does not wait for the disk.
        is_shown = is_live and records.lane
        expected = self._lights.expect(records) if is_shown else None
        draft = Draft(FrameType.SCANS, 0, records.lane, records.body, records.key)
        stored = await self._store(Outgoing(draft, records.count, is_live))
        if expected is not None:
            stored.add_done_callback(lambda done: self._number(expected, done))
        if records.lane in self._thermal_lanes:
            stored.add_done_callback(lambda done: self._offer_scans(records, done))
        if records.stored is not None:
            _follow(stored, records.stored)
        return stored

    def _number(self, expected: Expected, stored: asyncio.Future[tuple[int, int]]) -> None:
        if not stored.cancelled():
            self._lights.number(expected, *stored.result())

    def _measured(self, taken_ms: int, stored: asyncio.Future[tuple[int, int]]) -> None:
        if not stored.cancelled():
            self._lights.measured(*stored.result(), taken_ms)

    def _offer_scans(self, records: Records, stored: asyncio.Future[tuple[int, int]]) -> None:
        """Scans of a lane with a terminal, for readings to be tied to."""
        if stored.cancelled():
            return
        epoch, seq = stored.result()
        packed, _ = decode_scans(records.body)
        for entry in np.frombuffer(packed, ENTRY):
            if entry["kind"] in (Kind.SCAN, Kind.MANUAL):
                ref = ScanRef(epoch, seq, int(entry["n"]))
                self._ties.scanned(int(entry["lane"]), int(entry["time_ms"]), ref)

    async def _take_reading(self, reading: Reading) -> None:
        """One EVENT, tied to the scan that came with it or that is nearest."""
        taken_ms = self._clock.now_ms()
        scan: ScanRef | None
        if reading.payload:
            codes = Codes(reading.lane, reading.ts_ms, [reading.payload])
            stored = await self._take_codes(codes)
            scan = ScanRef(*await asyncio.shield(stored), 0)
        else:
            scan = await self._ties.scan_of(
                reading.lane, reading.device, reading.ts_ms, reading.tie_ms
            )
        report = Report(
            kind="thermal",
            ts_ms=reading.ts_ms,
            device=reading.device,
            value=reading.value,
            unit=reading.unit or None,
            calibration=reading.calibration or None,
            scan=(scan.seq, scan.n) if scan else None,
        )
        message = Outgoing(_event(reading.lane, report), 0, True)
        if scan is not None:
            message.scan_epoch = scan.epoch
            message.alone = _event(reading.lane, msgspec.structs.replace(report, scan=None))
        done = await self._store(message)
        done.add_done_callback(lambda done: self._measured(taken_ms, done))
        self._stats.readings_stored += 1
        self._stats.readings_tied += scan is not None
        if reading.stored is not None:
            _follow(done, reading.stored)


def _event(lane: int, report: Report) -> Draft:
    return Draft(FrameType.EVENT, 0, lane, report_to_body(report))


def _follow(stored: asyncio.Future[tuple[int, int]], told: asyncio.Future[None]) -> None:
    """`told` is done when `stored` is."""

    def tell(done: asyncio.Future[tuple[int, int]]) -> None:
        if not told.done():
            told.cancel() if done.cancelled() else told.set_result(None)

    stored.add_done_callback(tell)
