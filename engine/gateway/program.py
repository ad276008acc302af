"""The gateway: carries what lanes or a back end capture to the engine over CKP/1.

Records are committed to the spool before they are sent; camera frames wait in memory and give way,
oldest first, under pressure. What comes is sent in the current epoch of the spool, what waited
through an outage in the epoch it was numbered in, each on a link of its own, so that live scans
never wait behind a backlog. The rules and their numbers: docs/protocol.md.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

from engine.clock import Clock, SystemClock
from engine.errors import StorageError
from engine.gateway.capture import Capture, Outgoing
from engine.gateway.config import GatewayConfig, make_sources
from engine.gateway.frame_buffer import FrameFlight, FrameQueue
from engine.gateway.gear.officer import OfficerDesk
from engine.gateway.lights import Light, Lights, LocalJudge
from engine.gateway.sources import Picture, Source
from engine.gateway.spool_epoch import Epoch
from engine.gateway.spool_lmdb import Spool
from engine.gateway.status import Ages, EpochStatus, GatewayStats, GatewayStatus
from engine.gateway.status_socket import StatusSocket
from engine.gateway.uplink import Uplink
from engine.telemetry import Log
from engine.wire import frames as wire

STORE_RETRY_S: Final = 1.0
STOP_S: Final = 2.0  # for what came in before we were stopped
DRAIN_LOOK_S: Final = 1.0  # how often it is asked whether waiting for receipts has a point
FORGET_S: Final = 10.0
BACKLOG_LINKS_MAX: Final = 2  # beside the live one
BACKLOG_MAX: Final = 1024  # messages of a recording that wait in the spool
DRAFTS_MAX: Final = 64  # messages that wait for the spool's commit

_log = Log("gateway")
T = TypeVar("T")


@dataclass(slots=True)
class _Waiting:
    """A message that waits for the spool. stored: its (epoch, seq), once it is on disk."""

    message: Outgoing
    stored: asyncio.Future[tuple[int, int]]


class Gateway:
    """Carries sources to the engine until they have ended and all of it is durable.

    on_light: called for every verdict, the engine's and our own. resend: ask the engine in every
    epoch of which acknowledged records are kept whether it still has them. clock, random, sleep:
    replaced by tests.
    """

    def __init__(
        self,
        config: GatewayConfig,
        sources: Sequence[Source],
        spool: Spool,
        *,
        on_light: Callable[[Light], None] | None = None,
        resend: bool = False,
        clock: Clock | None = None,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.stats = GatewayStats()
        self._config = config
        self._spool = spool
        self._on_light = on_light
        self._displays = [source for source in sources if isinstance(source, OfficerDesk)]
        for desk in self._displays:
            desk.recall(spool.keys())
        self._sleep = sleep
        self._frames = FrameQueue(config.frames_size_max)
        self._drafts: deque[_Waiting] = deque()
        self._clock = clock or SystemClock()
        self._random = random or Random()
        self._uplinks: dict[Epoch, Uplink] = {}
        self._running: dict[asyncio.Task[None], Epoch] = {}
        self._linked: set[Epoch] = set()  # in a session with the engine
        self._started_ms = self._since_ms = self._clock.now_ms()
        self._ages = Ages()
        for epoch in spool.epochs:
            if epoch.waiting:
                self._ages.note(epoch.number, epoch.acked + 1, self._started_ms)
        self._to_ask: set[Epoch] = set()  # whether the engine still has what it acknowledged
        self._changed = asyncio.Event()  # what there is to carry
        self._lights = Lights(
            LocalJudge(self._clock, config.seen_window_s * 1000),
            self._clock,
            self.stats,
            self._show,
            {epoch.number: epoch.next_seq - 1 for epoch in spool.epochs},
        )
        self._has_live = any(source.is_live for source in sources)
        self._capture = Capture(
            sources,
            take_frame=self._take_frame,
            store=self._enqueue,
            lights=self._lights,
            clock=self._clock,
            stats=self.stats,
            decode=config.decode,
            decode_threads=config.decode_threads,
        )
        self._is_source_done = self._is_stopped = False
        self._capture_task: asyncio.Task[None] | None = None
        self._to_store = asyncio.Event()
        self._to_trim = asyncio.Event()
        self._room = asyncio.Event()
        # A write transaction of LMDB belongs to one thread.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._uplink_of(spool.current)  # a wrong address is told now, not at the first link
        if resend:
            self.note_loss_at_engine()

    async def run(self) -> GatewayStats:
        """Until the sources have ended and everything is durable, or no receipt is worth waiting
        for: the drain timeout has passed, the engine turns us away, or we were told to stop while
        no link stands. The spool keeps what is not durable. Raises SettingInvalid of a source.
        """
        if self._spool.break_reason is not None:
            _log.warning("spool_not_continued", problem=self._spool.break_reason)
        loop = asyncio.get_running_loop()
        capture = self._capture_task = loop.create_task(self._capture.run())
        links = loop.create_task(self._run_uplinks())
        works = (self._store(), self._trim(), self._forget())
        tasks = {capture, links, *map(loop.create_task, works)}
        waiting = set(tasks)
        deadline: float | None = None
        try:
            while not links.done():
                look_s = None
                if deadline is not None:
                    look_s = max(0.0, min(DRAIN_LOOK_S, deadline - loop.time()))
                done, waiting = await asyncio.wait(
                    waiting, timeout=look_s, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if not task.cancelled():
                        task.result()
                if deadline is None:
                    if not capture.done():
                        continue
                    self._is_source_done = True
                    self._wake()
                    deadline = loop.time() + self._config.drain_timeout_s
                    if self._is_stopped and self._is_drained() and not self._linked:
                        break  # nobody to say goodbye to: a restart must not cost a lane a minute
                elif loop.time() >= deadline:
                    _log.warning("drain_timeout", count=self._waiting())
                    break
                elif self._is_hopeless():
                    if waits := self._waiting():
                        _log.warning("not_drained", count=waits)
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.shutdown()
        self.stats.is_drained = self._is_drained()
        return self.status().stats

    def stop(self) -> None:
        """Take nothing more from the sources; `run` ends when what was captured is durable."""
        self._is_stopped = True
        self._capture.stop()
        if self._capture_task is not None:
            asyncio.get_running_loop().call_later(STOP_S, self._capture_task.cancel)

    def status(self) -> GatewayStatus:
        """How it is at this moment."""
        self.stats.frames_dropped = self._frames.dropped + self._capture.dropped
        self.stats.skipped = self._capture.skipped
        return GatewayStatus(
            gateway=self._config.name,
            pid=os.getpid(),
            url=self._config.url,
            now_ms=self._clock.now_ms(),
            started_ms=self._started_ms,
            is_linked=self._lights.is_linked,
            since_ms=self._since_ms,
            epochs=[self._epoch_status(epoch) for epoch in self._spool.epochs],
            spool_size=self._spool.size,
            spool_size_max=self._config.spool_size_max,
            lost_count=self._spool.lost_count,
            frames_waiting=len(self._frames),
            sources=self._capture.sources,
            stats=self.stats,
        )

    def _epoch_status(self, epoch: Epoch) -> EpochStatus:
        oldest_ms = self._ages.stored_ms(epoch.number, epoch.acked + 1) if epoch.waiting else 0
        return EpochStatus(
            epoch=f"{epoch.number:016x}",
            is_live=self.is_live(epoch),
            is_linked=epoch in self._linked,
            next_seq=epoch.next_seq,
            acked=epoch.acked,
            waiting=epoch.waiting,
            oldest_ms=oldest_ms,
        )

    def _is_drained(self) -> bool:
        return self._is_source_done and not (
            self._drafts or self._waiting() or self._frames.size or len(self._frames)
        )

    def _is_hopeless(self) -> bool:
        """No receipt will come soon, and a restart must not cost a lane a minute. Frames are in
        memory only, so for an engine that lets us in they are worth the wait."""
        if self._drafts or self._linked:
            return False
        has_frames = self._frames.size or len(self._frames)
        return bool(self.stats.turned_away) or (self._is_stopped and not has_frames)

    def _waiting(self) -> int:
        """Messages in the spool that are not known to be durable at the engine."""
        return sum(epoch.waiting for epoch in self._spool.epochs)

    # ---- uplinks --------------------------------------------------------------------------------

    async def _run_uplinks(self) -> None:
        """One for the current epoch, and some for what waits longest; until nothing is left."""
        try:
            while True:
                self._changed.clear()
                self._start_uplinks()
                if not self._running:
                    return
                change = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait({*self._running, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                for task in [task for task in self._running if task.done()]:
                    self._to_ask.discard(self._running.pop(task))
                    task.result()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _start_uplinks(self) -> None:
        running = set(self._running.values())
        current = self._spool.current
        spare = BACKLOG_LINKS_MAX - len(running - {current})
        for epoch in self._spool.epochs:
            if epoch in running or (self.is_done(epoch) and epoch not in self._to_ask):
                continue
            if epoch is not current:
                if spare <= 0:
                    continue
                spare -= 1
            task = asyncio.get_running_loop().create_task(self._uplink_of(epoch).run())
            self._running[task] = epoch

    def _uplink_of(self, epoch: Epoch) -> Uplink:
        if epoch not in self._uplinks:
            self._uplinks[epoch] = Uplink(
                self._config,
                self._spool,
                epoch,
                FrameFlight(self._frames),
                self,
                clock=self._clock,
                random=self._random,
                sleep=self._sleep,
            )
        return self._uplinks[epoch]

    def _wake(self) -> None:
        for epoch in self._running.values():
            self._uplinks[epoch].wake()

    # ---- what an uplink asks and tells ----------------------------------------------------------

    def is_live(self, epoch: Epoch) -> bool:
        return epoch is self._spool.current

    def is_done(self, epoch: Epoch) -> bool:
        """Nothing will come any more in this epoch, and all that came is durable."""
        uplink = self._uplinks.get(epoch)
        if epoch.waiting or (uplink is not None and uplink.has_frames):
            return False
        is_over = self._is_source_done and not self._drafts and not len(self._frames)
        return is_over or not self.is_live(epoch)

    def note_receipt(self) -> None:
        self._to_trim.set()

    def note_turn(self) -> None:
        self._note_live_link()
        self._changed.set()
        self._wake()

    def note_loss_at_engine(self) -> None:
        self._to_ask |= {epoch for epoch in self._spool.epochs if epoch.acked}
        self._changed.set()

    def note_policy(self, policy: wire.Policy) -> None:
        self._capture.policy = policy

    def note_turned_away(self, code: str) -> None:
        self.stats.turned_away = code
        if not self._has_live:
            self.stop()  # a recording loses nothing by it, and somebody waits for the end

    def note_linked(self, epoch: Epoch, is_linked: bool) -> None:
        (self._linked.add if is_linked else self._linked.discard)(epoch)
        self._note_live_link()

    def _note_live_link(self) -> None:
        is_linked = self._spool.current in self._linked
        if is_linked != self._lights.is_linked:
            self._since_ms = self._clock.now_ms()
        self._lights.is_linked = is_linked

    def note_result(self, epoch: Epoch, result: wire.Result, taken_ms: int) -> None:
        self._lights.answered(0 if result.cls else epoch.number, result, taken_ms)

    def note_nack(self, epoch: Epoch, nack: wire.Nack) -> None:
        self._lights.not_taken(epoch.number, nack)

    def _show(self, light: Light) -> None:
        for display in self._displays:
            display.show(light)
        if self._on_light is not None:
            self._on_light(light)

    # ---- from the sources to the spool ----------------------------------------------------------

    def _take_frame(self, picture: Picture) -> None:
        self._frames.capture(picture)
        self._wake()

    async def _enqueue(self, message: Outgoing) -> asyncio.Future[tuple[int, int]]:
        while self._is_crowded(message.is_live):
            self._room.clear()
            await self._room.wait()
        waiting = _Waiting(message, asyncio.get_running_loop().create_future())
        self._drafts.append(waiting)
        self._to_store.set()
        return waiting.stored

    def _is_crowded(self, is_live: bool) -> bool:
        """Memory has a limit; and a recording can wait where it is, instead of in the spool."""
        return len(self._drafts) >= DRAFTS_MAX or (not is_live and self._waiting() >= BACKLOG_MAX)

    async def _store(self) -> None:
        """Commits whenever the last commit has returned (rule 7): all drafts that wait."""
        while True:
            await self._to_store.wait()
            self._to_store.clear()
            while self._drafts:
                batch = list(self._drafts)
                places: list[tuple[int, int]] = []
                if not await self.write(self._append, [w.message for w in batch], places):
                    continue
                for waiting, place in zip(batch, places, strict=True):
                    self._drafts.popleft()
                    self.stats.records_stored += waiting.message.count
                    self._ages.note(*place, self._clock.now_ms())
                    if not waiting.stored.done():
                        waiting.stored.set_result(place)
                self._room.set()
                self._wake()

    def _append(self, messages: list[Outgoing], places: list[tuple[int, int]]) -> None:
        """In the writer's thread, where no turn can come between: epoch and number of each."""
        epoch = self._spool.current.number
        drafts = [
            m.draft if m.alone is None or m.scan_epoch == epoch else m.alone for m in messages
        ]
        places += [(epoch, seq) for seq in self._spool.append(drafts)]

    async def _trim(self) -> None:
        """Notes what is durable at the engine, behind the receipts and not in their way."""
        while True:
            await self._to_trim.wait()
            self._to_trim.clear()
            for uplink in list(self._uplinks.values()):
                while uplink.epoch.acked < uplink.acked:
                    await self.write(self._spool.ack, uplink.epoch, uplink.acked)
                self._ages.forget(uplink.epoch.number, uplink.epoch.acked + 1)
            self._room.set()
            self._wake()

    async def _forget(self) -> None:
        """Deletes acknowledged records when their time is over, in small steps."""
        while True:
            await asyncio.sleep(0 if self._spool.has_expired else FORGET_S)
            await self.write(self._spool.forget)

    async def write(self, change: Callable[..., T], *arguments: object) -> bool:
        """One change of the spool. False after a pause when the disk refused it."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._writer, change, *arguments)
        except StorageError as error:
            self.stats.note_error(error.code, self._clock.now_ms())
            _log.error("spool_refused", code=error.code)
            await self._sleep(STORE_RETRY_S)
            return False
        return True


async def run_gateway(
    config: GatewayConfig,
    *,
    on_light: Callable[[Light], None] | None = None,
    stop: asyncio.Event | None = None,
    resend: bool = False,
    clock: Clock | None = None,
) -> GatewayStats:
    """One gateway from its configuration to its end. stop: set it to end early but cleanly.
    resend: as for Gateway.

    Raises as Gateway.run does, and StorageError when the spool does not open.
    """
    clock = clock or SystemClock()
    sources = make_sources(config, clock)
    spool = Spool(
        config.spool,
        gateway=config.name,
        ingest_public=bytes.fromhex(config.ingest_public),
        size_max=config.spool_size_max,
        keep_s=config.spool_keep_s,
        clock=clock,
    )
    gateway = Gateway(config, sources, spool, on_light=on_light, resend=resend, clock=clock)
    stopper = asyncio.ensure_future(_stop_when(gateway, stop)) if stop is not None else None
    try:
        async with StatusSocket(config.spool, gateway.status):
            return await gateway.run()
    finally:
        if stopper is not None:
            stopper.cancel()
        spool.close()


async def _stop_when(gateway: Gateway, stop: asyncio.Event) -> None:
    await stop.wait()
    gateway.stop()
