"""The gateway: carries what lanes or a back end capture to the engine over CKP/1.

Records are committed to the spool before they are sent and deleted when the engine has made them
durable; camera frames wait in memory and give way, oldest first, under pressure. The rules and
their numbers: docs/protocol.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

from engine import wire
from engine.capture import Capture
from engine.clock import Clock, SystemClock
from engine.errors import StorageError
from engine.gateway_config import GatewayConfig, make_sources
from engine.gateway_status import GatewayStats
from engine.gear.officer import OfficerDesk
from engine.lights import Light, Lights, LocalJudge
from engine.link import FrameBuffer
from engine.sources import Picture, Source
from engine.spool_lmdb import Draft, Spool
from engine.telemetry import Log
from engine.uplink import Uplink

STORE_RETRY_S: Final = 1.0
BACKLOG_MAX: Final = 1024  # messages of a recording that wait in the spool
DRAFTS_MAX: Final = 64  # messages that wait for the spool's commit

_log = Log("gateway")
T = TypeVar("T")


@dataclass(slots=True)
class _Waiting:
    """A message that waits for the spool. stored: its (epoch, seq), once it is on disk."""

    draft: Draft
    count: int
    stored: asyncio.Future[tuple[int, int]]


class Gateway:
    """Carries sources to the engine until they have ended and all of it is durable.

    on_light: called for every verdict, the engine's and our own. clock, random, sleep: replaced by
    tests.
    """

    def __init__(
        self,
        config: GatewayConfig,
        sources: Sequence[Source],
        spool: Spool,
        *,
        on_light: Callable[[Light], None] | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.stats = GatewayStats()
        self._config = config
        self._spool = spool
        self._on_light = on_light
        self._displays = [source for source in sources if isinstance(source, OfficerDesk)]
        self._sleep = sleep
        self._frames = FrameBuffer(config.frames_size_max)
        self._drafts: deque[_Waiting] = deque()
        self._acked = spool.acked  # durable at the engine; the spool follows behind
        self._uplink = Uplink(
            config,
            spool,
            self._frames,
            self,
            clock=clock or SystemClock(),
            random=random or Random(),
            sleep=sleep,
        )
        self._lights = Lights(
            LocalJudge(clock or SystemClock(), config.seen_window_s * 1000),
            clock or SystemClock(),
            self.stats,
            self._show,
            {spool.epoch: spool.next_seq - 1},
        )
        self._capture = Capture(
            sources,
            take_frame=self._take_frame,
            store=self._enqueue,
            lights=self._lights,
            clock=clock or SystemClock(),
            stats=self.stats,
            decode=config.decode,
            decode_threads=config.decode_threads,
        )
        self._is_source_done = False
        self._capture_task: asyncio.Task[None] | None = None
        self._to_store = asyncio.Event()
        self._to_trim = asyncio.Event()
        self._room = asyncio.Event()
        # A write transaction of LMDB belongs to one thread.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="spool")

    async def run(self) -> GatewayStats:
        """Until everything is durable, `stop` was called, or the drain timeout has passed.

        Raises what trying again cannot mend: SettingInvalid, WireAuth, WireUnknownGateway,
        WireVersion, WireEpochUsed, WireReplaced. The spool keeps what is not durable.
        """
        loop = asyncio.get_running_loop()
        capture = self._capture_task = loop.create_task(self._capture.run())
        links = loop.create_task(self._uplink.run())
        tasks = {capture, links, *(loop.create_task(w) for w in (self._store(), self._trim()))}
        waiting = set(tasks)
        deadline: float | None = None
        try:
            while not links.done():
                left_s = None if deadline is None else max(0.0, deadline - loop.time())
                done, waiting = await asyncio.wait(
                    waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if not task.cancelled():
                        task.result()
                if capture.done() and deadline is None:
                    self._is_source_done = True
                    self._uplink.wake()
                    deadline = loop.time() + self._config.drain_timeout_s
                elif not done:
                    _log.warning("drain_timeout", seq=self._spool.acked)
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.shutdown()
        self.stats.is_drained = self.is_done()
        self.stats.frames_dropped = self._frames.dropped
        self.stats.skipped = self._capture.skipped
        return self.stats

    def stop(self) -> None:
        """Take nothing more from the sources; `run` ends when what was captured is durable."""
        if self._capture_task is not None:
            self._capture_task.cancel()

    def is_done(self) -> bool:
        """Nothing will come any more, and all that came is durable."""
        return (
            self._is_source_done
            and not self._drafts
            and self._spool.is_drained
            and not len(self._frames)
        )

    # ---- from the sources to the spool ----------------------------------------------------------

    def _take_frame(self, picture: Picture) -> None:
        self._frames.capture(picture)
        self._uplink.wake()

    async def _enqueue(
        self, draft: Draft, count: int, is_live: bool
    ) -> asyncio.Future[tuple[int, int]]:
        while self._is_crowded(is_live):
            self._room.clear()
            await self._room.wait()
        waiting = _Waiting(draft, count, asyncio.get_running_loop().create_future())
        self._drafts.append(waiting)
        self._to_store.set()
        return waiting.stored

    def _is_crowded(self, is_live: bool) -> bool:
        """Memory has a limit; and a recording can wait where it is, instead of in the spool."""
        backlog = self._spool.next_seq - 1 - self._acked
        return len(self._drafts) >= DRAFTS_MAX or (not is_live and backlog >= BACKLOG_MAX)

    async def _store(self) -> None:
        """Commits whenever the last commit has returned (rule 7): all drafts that wait."""
        while True:
            await self._to_store.wait()
            self._to_store.clear()
            while self._drafts:
                batch = list(self._drafts)
                seqs: list[int] = []
                if not await self.write(self._append, [w.draft for w in batch], seqs):
                    continue
                for waiting, seq in zip(batch, seqs, strict=True):
                    self._drafts.popleft()
                    self.stats.records_stored += waiting.count
                    if not waiting.stored.done():
                        waiting.stored.set_result((self._spool.epoch, seq))
                self._room.set()
                self._uplink.wake()

    def _append(self, drafts: list[Draft], seqs: list[int]) -> None:
        seqs += self._spool.append(drafts)

    async def _trim(self) -> None:
        """Deletes what is durable at the engine, behind the receipts and not in their way."""
        while True:
            await self._to_trim.wait()
            self._to_trim.clear()
            while self._spool.acked < self._acked:
                await self.write(self._spool.ack, self._acked)
            self._uplink.wake()

    async def write(self, change: Callable[..., T], *arguments: object) -> bool:
        """One change of the spool. False after a pause when the disk refused it."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._writer, change, *arguments)
        except StorageError as error:
            self.stats.errors[error.code] += 1
            _log.error("spool_refused", code=error.code)
            await self._sleep(STORE_RETRY_S)
            return False
        return True

    # ---- what the uplink tells ------------------------------------------------------------------

    def note_receipt(self, seq: int) -> None:
        self._acked = max(self._acked, seq)
        self._to_trim.set()
        self._room.set()

    def note_policy(self, policy: wire.Policy) -> None:
        self._capture.policy = policy

    def note_linked(self, is_linked: bool) -> None:
        self._lights.is_linked = is_linked

    def note_result(self, result: wire.Result) -> None:
        self._lights.answered(0 if result.cls else self._spool.epoch, result)

    def _show(self, light: Light) -> None:
        for display in self._displays:
            display.show(light)
        if self._on_light is not None:
            self._on_light(light)


async def run_gateway(
    config: GatewayConfig,
    *,
    on_light: Callable[[Light], None] | None = None,
    stop: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> GatewayStats:
    """One gateway from its configuration to its end. stop: set it to end early but cleanly.

    Raises as Gateway.run does, and StorageError when the spool does not open.
    """
    clock = clock or SystemClock()
    sources = make_sources(config, clock)
    spool = Spool(
        config.spool,
        gateway=config.name,
        ingest_public=bytes.fromhex(config.ingest_public),
        size_max=config.spool_size_max,
    )
    gateway = Gateway(config, sources, spool, on_light=on_light, clock=clock)
    stopper = asyncio.ensure_future(_stop_when(gateway, stop)) if stop is not None else None
    try:
        return await gateway.run()
    finally:
        if stopper is not None:
            stopper.cancel()
        spool.close()


async def _stop_when(gateway: Gateway, stop: asyncio.Event) -> None:
    await stop.wait()
    gateway.stop()
