"""The gateway: carries what lanes or a back end capture to the engine over CKP/1.

Records are committed to the spool before they are sent and deleted when the engine has made them
durable; camera frames wait in memory and give way, oldest first, under pressure. The rules and
their numbers: docs/protocol.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from typing import Final, TypeVar

from engine import wire
from engine.capture import Capture
from engine.clock import Clock, SystemClock
from engine.errors import (
    EngineError,
    EngineUnreachable,
    SettingInvalid,
    StorageError,
    WireAuth,
    WireEpochUsed,
    WireMalformed,
    WireReplaced,
    WireTooLarge,
    WireUnknownGateway,
    WireVersion,
)
from engine.gateway_config import GatewayConfig, check_loopback, make_sources
from engine.gateway_status import GatewayStats
from engine.link import FrameBuffer, Link
from engine.sources import Picture, Records, Source
from engine.spool_lmdb import Draft, Spool
from engine.telemetry import Log
from engine.wire import CLASS_DURABLE, CLASS_VOLATILE, HEADER_SIZE

CONNECT_S: Final = 10.0  # for the connection, and again for WELCOME
BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
GOAWAY_S: Final = 5.0  # how long receipts are awaited after GOAWAY
LAST_WORD_S: Final = 0.5
STORE_RETRY_S: Final = 1.0
BACKLOG_MAX: Final = 1024  # messages of a recording that wait in the spool
DRAFTS_MAX: Final = 64  # messages that wait for the spool's commit
BURST: Final = 16  # SCANS between two frames, so that a backlog does not starve a lane

# The engine will say the same again: whoever runs the gateway has to act.
_FATAL: Final = (
    WireVersion,
    WireAuth,
    WireReplaced,
    WireUnknownGateway,
    WireEpochUsed,
    SettingInvalid,
)

_log = Log("gateway")
T = TypeVar("T")


# ---- the gateway --------------------------------------------------------------------------------


class Gateway:
    """Carries sources to the engine until they have ended and all of it is durable.

    on_result: called for every verdict. clock, random, sleep: replaced by tests.
    """

    def __init__(
        self,
        config: GatewayConfig,
        sources: Sequence[Source],
        spool: Spool,
        *,
        on_result: Callable[[wire.Result], None] | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.stats = GatewayStats()
        self._config = config
        self._spool = spool
        self._on_result = on_result
        self._clock = clock or SystemClock()
        self._random = random or Random()
        self._sleep = sleep
        self._home = (check_loopback(config.host), config.port)
        self._next_homes: list[tuple[str, int]] = []
        self._inst = secrets.token_bytes(8)
        self._frames = FrameBuffer(config.frames_size_max)
        self._drafts: deque[tuple[Draft, int]] = deque()
        self._acked = spool.acked  # durable at the engine; the spool follows behind
        self._ever_sent = spool.next_seq - 1  # an earlier process may have sent these
        self._failures = 0
        self._capture = Capture(
            sources,
            take_frame=self._take_frame,
            take_records=self._take_records,
            stats=self.stats,
        )
        self._is_source_done = False
        self._capture_task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()  # the sender has something to look at
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
        links = loop.create_task(self._run_links())
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
                    self._wake.set()
                    deadline = loop.time() + self._config.drain_timeout_s
                elif not done:
                    _log.warning("drain_timeout", seq=self._spool.acked)
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.shutdown()
        self.stats.is_drained = self._is_done()
        self.stats.frames_dropped = self._frames.dropped
        self.stats.skipped = self._capture.skipped
        return self.stats

    def stop(self) -> None:
        """Take nothing more from the sources; `run` ends when what was captured is durable."""
        if self._capture_task is not None:
            self._capture_task.cancel()

    def _is_done(self) -> bool:
        return (
            self._is_source_done
            and not self._drafts
            and self._spool.is_drained
            and not len(self._frames)
        )

    # ---- from the sources to the spool ----------------------------------------------------------

    def _take_frame(self, picture: Picture) -> None:
        self._frames.capture(picture)
        self._wake.set()

    async def _take_records(self, records: Records, is_live: bool) -> None:
        while self._is_crowded(is_live):
            self._room.clear()
            await self._room.wait()
        draft = Draft(wire.FrameType.SCANS, 0, records.lane, records.body)
        self._drafts.append((draft, records.count))
        self._to_store.set()

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
                if not await self._write(self._spool.append, [draft for draft, _ in batch]):
                    continue
                for _, count in batch:
                    self._drafts.popleft()
                    self.stats.records_stored += count
                self._room.set()
                self._wake.set()

    async def _trim(self) -> None:
        """Deletes what is durable at the engine, behind the receipts and not in their way."""
        while True:
            await self._to_trim.wait()
            self._to_trim.clear()
            while self._spool.acked < self._acked:
                await self._write(self._spool.ack, self._acked)
            self._wake.set()

    async def _write(self, change: Callable[..., T], *arguments: object) -> bool:
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

    # ---- links ----------------------------------------------------------------------------------

    async def _run_links(self) -> None:
        """One link after the other, until everything is durable."""
        while True:
            host, port = self._next_homes.pop(0) if self._next_homes else self._home
            pause_s = 0.0
            try:
                goaway = await self._run_link(host, port)
                if goaway is None:
                    return
                pause_s = goaway.retry_ms / 1000
            except _FATAL:
                raise
            except EngineError as error:
                self.stats.errors[error.code] += 1
                _log.warning("link_ended", code=error.code, problem=str(error))
            except OSError as error:  # TimeoutError is one too
                self.stats.errors[EngineUnreachable.code] += 1
                _log.warning("link_failed", code=EngineUnreachable.code, problem=str(error))
            await self._sleep(pause_s + self._backoff_s())

    def _backoff_s(self) -> float:
        """Doubling with full jitter, so that gateways do not come back all at once (rule 9)."""
        ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 16))
        self._failures += 1
        return self._random.uniform(0, ceiling)

    async def _run_link(self, host: str, port: int) -> wire.Goaway | None:
        """One link to its end; None when all is durable and BYE was said."""
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(host, port)
        link = Link(reader, writer)
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._open(link)
            create = asyncio.get_running_loop().create_task
            tasks = [create(w) for w in (self._receive(link), self._send(link), self._beat(link))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            receiver, sender, beater = tasks
            if sender.done() and sender.exception() is None:
                return None
            # A write that fails first must not hide the ERROR that says why.
            await asyncio.wait({receiver}, timeout=LAST_WORD_S)
            for task in (receiver, sender, beater):
                if task.done():
                    task.result()
            return link.goaway
        except asyncio.CancelledError:
            if tasks:
                self._say_bye(link)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()

    async def _open(self, link: Link) -> None:
        """HELLO and WELCOME."""
        spool = self._spool
        now_ns = self._clock.now_ms() * 1_000_000
        hello = wire.Hello(
            gateway=self._config.name,
            epoch=spool.epoch,
            inst=self._inst,
            lanes=self._config.lanes,
            next=(spool.next_seq, self._frames.next_seq),
            oldest=spool.oldest(),
            max_frame=wire.BODY_MAX,
            t0=now_ns,
            token=self._config.token,
        )
        link.send(hello)
        message = await link.receive(CONNECT_S)
        if isinstance(message, wire.Error):
            raise wire.error_from_code(message.code, message.text)
        if isinstance(message, wire.Goaway):
            raise wire.error_from_code(message.code, "the engine does not take gateways now")
        if not isinstance(message, wire.Welcome):
            raise WireMalformed(f"{message.type.name} instead of WELCOME")
        self._take_welcome(link, message, now_ns)

    def _take_welcome(self, link: Link, welcome: wire.Welcome, t0_ns: int) -> None:
        if welcome.version != wire.VERSION:
            raise WireVersion(f"the engine speaks version {welcome.version}")
        acked = welcome.acked
        if acked[CLASS_DURABLE] >= self._spool.next_seq:
            raise WireEpochUsed(
                "the engine has received more than this spool ever held",
                hint="the spool is an old copy: give the gateway a new spool folder",
            )
        t3_ns = self._clock.now_ms() * 1_000_000
        offset_ns = ((welcome.t1 - t0_ns) + (welcome.t2 - t3_ns)) / 2
        self.stats.clock_offset_ms = offset_ns / 1e6
        self.stats.links += 1
        for cls in (CLASS_DURABLE, CLASS_VOLATILE):
            link.grant(cls, welcome.limit[cls], welcome.byte_limit[cls])
        link.sent = acked[CLASS_DURABLE]
        link.max_frame = welcome.max_frame
        link.hb_s = welcome.hb_s
        self._capture.fps = welcome.policy.fps
        self._frames.start_link(acked[CLASS_VOLATILE])
        self._take_receipt(link, CLASS_DURABLE, acked[CLASS_DURABLE])
        _log.info("linked", gateway=self._config.name, seq=link.sent)

    def _say_bye(self, link: Link) -> None:
        with suppress(OSError):
            link.send(wire.Bye(link.sent))

    # ---- receiving ------------------------------------------------------------------------------

    async def _receive(self, link: Link) -> None:
        """Until the link ends; returns when it ends after GOAWAY."""
        while True:
            try:
                message = await link.receive(GOAWAY_S if link.goaway else 3 * link.hb_s)
            except (TimeoutError, EngineUnreachable):
                if link.goaway:
                    return
                raise
            match message:
                case wire.Ack():
                    self._failures = 0
                    link.grant(message.cls, message.limit, message.byte_limit)
                    self._take_receipt(link, message.cls, message.seq)
                case wire.Credit():
                    link.grant(message.cls, message.limit, message.byte_limit)
                    self._wake.set()
                case wire.Result():
                    self.stats.verdicts[message.verdict.verdict] += 1
                    if self._on_result is not None:
                        self._on_result(message)
                case wire.Nack():
                    self.stats.nacks += 1
                    _log.warning("refused", code=message.code, seq=message.seq)
                case wire.Ping():
                    now_ns = self._clock.now_ms() * 1_000_000
                    link.send(wire.Pong(t0=message.t0, t1=now_ns, t2=now_ns))
                case wire.Pong():
                    self._failures = 0
                case wire.Goaway():
                    link.goaway = message
                    self._failures = 0
                    self._next_homes = _alternates(message)
                case wire.Error():
                    raise wire.error_from_code(message.code, message.text)
                case _:
                    raise WireMalformed(f"{message.type.name} is not for a gateway in a session")

    def _take_receipt(self, link: Link, cls: int, seq: int) -> None:
        if cls == CLASS_VOLATILE:
            self._frames.ack(min(seq, self._frames.next_seq - 1))
        elif seq > link.sent and seq >= self._spool.next_seq:
            # The spool's thread counts a record a moment after it is committed, and by then it may
            # have been read, sent and acknowledged: what this link sent is believed first.
            raise WireMalformed("a receipt for what was never sent")
        else:
            self._acked = max(self._acked, seq)
            self._to_trim.set()
            self._room.set()
        self._wake.set()

    async def _beat(self, link: Link) -> None:
        while True:
            await asyncio.sleep(link.hb_s)
            link.send(wire.Ping(self._clock.now_ms() * 1_000_000))

    # ---- sending --------------------------------------------------------------------------------

    async def _send(self, link: Link) -> None:
        """Everything that the limits allow; BYE and the end when all is durable."""
        while True:
            self._wake.clear()
            if link.goaway is None:
                is_busy = await self._send_records(link)
                is_busy = self._send_frame(link) or is_busy
                await link.writer.drain()
                if is_busy:
                    await asyncio.sleep(0)
                    continue
            if self._is_done():
                self._say_bye(link)
                await link.writer.drain()
                return
            await self._wake.wait()

    async def _send_records(self, link: Link) -> bool:
        """A burst of SCANS from the spool, or LOST for a hole in it. False when none may leave."""
        spool = self._spool
        hole = spool.hole_after(link.sent)
        if hole is not None:
            last = min(hole.last, link.limit(CLASS_DURABLE))
            if last < hole.first:
                return False
            self.stats.bytes_sent += link.send(
                wire.Lost(seq=last, first=hole.first, reason=hole.reason)
            )
            self.stats.lost_sent += last - hole.first + 1
            link.sent = last
            return True
        is_busy = False
        for record in spool.read(link.sent, count=BURST):
            if len(record.body) > link.max_frame:
                self.stats.errors[WireTooLarge.code] += 1
                await self._write(spool.drop, record.seq, "too_large")
                return True
            size = HEADER_SIZE + len(record.body)
            if not link.spend(CLASS_DURABLE, record.seq, size):
                break
            flags = record.flags
            if record.seq <= self._ever_sent:
                flags |= wire.FLAG_RESEND
                self.stats.scans_resent += 1
            if record.seq + 1 == spool.next_seq:
                flags |= wire.FLAG_BURST_END
            self.stats.bytes_sent += link.send(
                wire.Scans(seq=record.seq, channel=record.channel, flags=flags, body=record.body)
            )
            self.stats.scans_sent += 1
            link.sent = record.seq
            self._ever_sent = max(self._ever_sent, record.seq)
            is_busy = True
        return is_busy

    def _send_frame(self, link: Link) -> bool:
        """One camera frame. False when none may leave."""
        found = self._frames.peek()
        if found is None:
            return False
        seq, picture, is_resend = found
        message = wire.FrameImage(
            seq=seq,
            channel=picture.lane,
            flags=wire.FLAG_VOLATILE | (wire.FLAG_RESEND if is_resend else 0),
            codec=picture.codec,
            ts_ns=picture.ts_ns,
            frame_no=picture.frame_no,
            image=picture.image,
        )
        if not is_resend and message.size - HEADER_SIZE > link.max_frame:
            self._frames.drop_next()
            return True
        if not link.spend(CLASS_VOLATILE, seq, message.size):
            return False
        self.stats.bytes_sent += link.send(message)
        self.stats.frames_sent += 1
        self.stats.frames_resent += is_resend
        self._frames.mark_sent()
        return True


def _alternates(goaway: wire.Goaway) -> list[tuple[str, int]]:
    """Addresses of a GOAWAY that plain TCP may go to."""
    found = []
    for address in goaway.alternates:
        host, _, port = address.rpartition(":")
        with suppress(SettingInvalid, ValueError):
            found.append((check_loopback(host.strip("[]")), int(port)))
    return found


async def run_gateway(
    config: GatewayConfig,
    *,
    on_result: Callable[[wire.Result], None] | None = None,
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
    gateway = Gateway(config, sources, spool, on_result=on_result, clock=clock)
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
