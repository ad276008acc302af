"""The uplink: carries one epoch of the spool to the engine, link after link, until it is durable.

The sending side of CKP/1 (docs/protocol.md): HELLO and WELCOME, what the limits allow, receipts,
heartbeats, and coming back after a link has ended.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Final, Protocol

from engine import faults
from engine.clock import Clock
from engine.errors import (
    EngineError,
    EngineUnreachable,
    SettingInvalid,
    WireAuth,
    WireEpochUsed,
    WireMalformed,
    WireReplaced,
    WireTooLarge,
    WireUnknownGateway,
    WireVersion,
)
from engine.gateway.carriers import connect, make_context
from engine.gateway.config import GatewayConfig
from engine.gateway.frame_buffer import FrameFlight
from engine.gateway.link import Link
from engine.gateway.spool_epoch import Epoch
from engine.gateway.spool_lmdb import Spool
from engine.gateway.status import GatewayStats
from engine.telemetry import Log
from engine.wire import frames as wire
from engine.wire.address import Address, parse_address
from engine.wire.frames import CLASS_DURABLE, CLASS_VOLATILE, HEADER_SIZE, FrameType
from engine.wire.offsets import OffsetFilter

CONNECT_S: Final = 10.0  # for the connection, and again for WELCOME
BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 30.0
GOAWAY_S: Final = 5.0  # how long receipts are awaited after GOAWAY
LAST_WORD_S: Final = 0.5
BURST: Final = 16  # SCANS between two frames, so that a backlog does not starve a lane

LIVE_WAIT_MAX: Final = 64  # messages that may leave before a live one: a quarter of a window
RIVAL_FAILURES: Final = 4  # steps of the pause that are leapt when another process has our epoch
TURNED_AWAY_FAILURES: Final = 8  # the same for an engine that will most likely say the same again
TELL_AGAIN_S: Final = 3600.0  # a link that cannot be had is logged once, and then so often

# Somebody at the centre or at the box has to act, and until then a lane must not stand still.
_TURNED_AWAY: Final = (WireVersion, WireAuth, WireUnknownGateway)

_log = Log("gateway")


class Station(Protocol):
    """What an uplink asks of the gateway it belongs to."""

    stats: GatewayStats

    async def write(self, change: Callable[..., object], *arguments: object) -> bool:
        """One change of the spool. False after a pause when the disk refused it."""

    def is_live(self, epoch: Epoch) -> bool:
        """What comes is numbered in this epoch, and camera frames go with it."""

    def is_done(self, epoch: Epoch) -> bool:
        """Nothing will come any more in this epoch, and all that came is durable."""

    def note_receipt(self) -> None:
        """Something became durable at the engine."""

    def note_turn(self) -> None:
        """Another epoch may be the current one, or some wait again."""

    def note_loss_at_engine(self) -> None:
        """The engine lost what it had acknowledged; in other epochs too, as far as we know."""

    def note_policy(self, policy: wire.Policy) -> None: ...

    def note_turned_away(self, code: str) -> None:
        """The engine does not let this gateway in; `code` says why."""

    def note_linked(self, epoch: Epoch, is_linked: bool) -> None:
        """A session with the engine begins or ends."""

    def note_result(self, epoch: Epoch, result: wire.Result, taken_ms: int) -> None:
        """A verdict. taken_ms: of a camera frame, when it came to the box; else 0."""

    def note_nack(self, epoch: Epoch, nack: wire.Nack) -> None:
        """A record of the spool that the engine could not take."""


class Uplink:
    """Links of one epoch, one after the other. random, sleep: replaced by tests."""

    def __init__(
        self,
        config: GatewayConfig,
        spool: Spool,
        epoch: Epoch,
        frames: FrameFlight,
        station: Station,
        *,
        clock: Clock,
        random: Random,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self.acked = epoch.acked  # durable at the engine; the spool follows behind
        self.epoch = epoch
        self.stats = station.stats
        self._config = config
        self._spool = spool
        self._frames = frames
        self._station = station
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._home = parse_address(config.url)
        make_context(self._home, config)  # a wrong file is told now, not at the first link
        self._next_homes: list[Address] = []
        self._inst = secrets.token_bytes(8)
        # An earlier process may have sent these.
        self._ever_sent = max(epoch.first_own - 1, epoch.acked)
        self._failures = 0
        self._told_ns: dict[str, int] = {}  # when a failure was logged, by code, since WELCOME
        self._offset = OffsetFilter()
        self._wake = asyncio.Event()  # the sender has something to look at

    @property
    def has_frames(self) -> bool:
        """Camera frames are in flight."""
        return len(self._frames) > 0

    def wake(self) -> None:
        """There may be something to send, or nothing any more."""
        self._wake.set()

    async def run(self) -> None:
        """Until everything is durable and BYE was said."""
        while True:
            address = self._next_homes.pop(0) if self._next_homes else self._home
            pause_s = 0.0
            try:
                goaway = await self._run_link(address)
                if goaway is None:
                    return
                pause_s = goaway.retry_ms / 1000
            except (WireReplaced, WireEpochUsed) as error:
                self.stats.note_error(error.code, self._clock.now_ms())
                await self._meet_rival(error)
                if self._station.is_done(self.epoch):
                    return
            except _TURNED_AWAY as error:
                self._note_failure(_log.error, "turned_away", error.code, str(error))
                self._station.note_turned_away(error.code)
                self._failures = max(self._failures, TURNED_AWAY_FAILURES)
            except EngineError as error:
                self._note_failure(_log.warning, "link_ended", error.code, str(error))
            except OSError as error:  # TimeoutError is one too
                problem = str(error) or type(error).__name__
                self._note_failure(_log.warning, "link_failed", EngineUnreachable.code, problem)
            await self._sleep(pause_s + self._backoff_s())

    def _note_failure(self, log: Callable[..., None], event: str, code: str, problem: str) -> None:
        """Counted each time. Logged for each link that stood; of those that do not come to stand
        the first, because an outage may last for days."""
        self.stats.note_error(code, self._clock.now_ms())
        now_ns = self._clock.monotonic_ns()
        told_ns = self._told_ns.get(code)
        if told_ns is None or now_ns - told_ns >= TELL_AGAIN_S * 1e9:
            self._told_ns[code] = now_ns
            log(event, code=code, problem=problem)

    def _backoff_s(self) -> float:
        """Doubling with full jitter, so that gateways do not come back all at once (rule 9)."""
        ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 16))
        self._failures += 1
        return self._random.uniform(0, ceiling)

    async def _run_link(self, address: Address) -> wire.Goaway | None:
        """One link to its end; None when all is durable and BYE was said."""
        async with asyncio.timeout(CONNECT_S):
            link = Link(await connect(address, self._config))
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._open(link)
            self._station.note_linked(self.epoch, True)
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
            self._station.note_linked(self.epoch, False)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await link.close()

    async def _open(self, link: Link) -> None:
        """HELLO and WELCOME."""
        epoch = self.epoch
        now_ns = self._clock.now_ms() * 1_000_000
        hello = wire.Hello(
            gateway=self._config.name,
            epoch=epoch.number,
            inst=self._inst,
            lanes=self._config.lanes,
            next=(epoch.next_seq, self._frames.next_seq),
            oldest=epoch.oldest(),
            max_frame=wire.BODY_MAX,
            t0=now_ns,
            token=self._config.token or None,
        )
        link.send(hello)
        faults.reach("uplink.hello")
        message = await link.receive(CONNECT_S)
        if isinstance(message, wire.Error):
            raise wire.error_from_code(message.code, message.text)
        if isinstance(message, wire.Goaway):
            raise wire.error_from_code(message.code, "the engine does not take gateways now")
        if not isinstance(message, wire.Welcome):
            raise WireMalformed(f"{message.type.name} instead of WELCOME")
        faults.reach("uplink.welcome")
        await self._take_welcome(link, message, now_ns)

    async def _take_welcome(self, link: Link, welcome: wire.Welcome, t0_ns: int) -> None:
        if welcome.version != wire.VERSION:
            raise WireVersion(f"the engine speaks version {welcome.version}")
        self._note_stamps(t0_ns, welcome.t1, welcome.t2, self._clock.now_ms() * 1_000_000)
        self.stats.links += 1
        self.stats.turned_away = ""
        self._told_ns.clear()
        for cls in (CLASS_DURABLE, CLASS_VOLATILE):
            link.grant(cls, welcome.limit[cls], welcome.byte_limit[cls])
        link.max_frame = welcome.max_frame
        link.hb_s = welcome.hb_s
        self._frames.start_link(welcome.acked[CLASS_VOLATILE])
        await self._resume(link, welcome.acked[CLASS_DURABLE])
        _log.info("linked", gateway=self._config.name, seq=link.sent)
        if self._station.is_live(self.epoch):
            self._station.note_policy(welcome.policy)
            if self.epoch.next_seq - 1 - self.acked > LIVE_WAIT_MAX:
                # Rule 6: what waits is sent in this epoch, what comes goes another way.
                await self._station.write(self._spool.turn)
                self._station.note_turn()

    async def _resume(self, link: Link, acked: int) -> None:
        """Where class 0 goes on: behind the engine's watermark, whatever we thought of it."""
        if acked > max(self._ever_sent, self.epoch.first_own - 1):
            await self._yield_epoch(min(acked, self.epoch.next_seq - 1))
        elif acked < self.acked:
            _log.error("engine_went_back", seq=acked, count=self.acked - acked)
            self.acked = acked
            await self._surely(self._spool.go_back, self.epoch, acked)
            self._station.note_loss_at_engine()
        link.sent = acked
        self._note_receipt(min(acked, self.epoch.next_seq - 1))

    async def _meet_rival(self, error: EngineError) -> None:
        """Another process has this epoch: a copy of this spool, or this one is the copy (rule 7).

        With error 9 the engine has more of this epoch than we ever numbered. What both hold is
        the same, so it does not matter who sends it; but nothing new may be numbered here.
        """
        _log.error("epoch_shared", code=error.code, seq=self.epoch.next_seq - 1)
        if isinstance(error, WireEpochUsed):
            last = self.epoch.next_seq - 1
            await self._yield_epoch(last)
            self._note_receipt(last)
            await self._surely(self._spool.ack, self.epoch, last)
        elif not self.epoch.is_closed:
            await self._surely(self._spool.retire, self.epoch)
            self._station.note_turn()
        self._failures = max(self._failures, RIVAL_FAILURES)

    async def _yield_epoch(self, last: int) -> None:
        """The engine has numbers up to `last`, some of them from somebody else. Those we gave
        ourselves and have no receipt for may have been his: they are told as lost."""
        if self.epoch.is_closed:
            return
        doubtful = max(0, last - max(self.epoch.first_own - 1, self.acked))
        _log.error("epoch_shared", seq=last, count=doubtful)
        await self._surely(self._spool.retire, self.epoch, doubtful)
        self._station.note_turn()

    async def _surely(self, change: Callable[..., object], *arguments: object) -> None:
        """A change of the spool without which it would be wrong to go on."""
        while not await self._station.write(change, *arguments):
            pass

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
                    faults.reach("uplink.receipt")
                    self._failures = 0
                    link.grant(message.cls, message.limit, message.byte_limit)
                    self._take_receipt(link, message.cls, message.seq)
                case wire.Credit():
                    link.grant(message.cls, message.limit, message.byte_limit)
                    self._wake.set()
                case wire.Result():
                    self.stats.verdicts[message.verdict.verdict] += 1
                    taken_ms = self._frames.taken_ms(message.seq) if message.cls else 0
                    self._station.note_result(self.epoch, message, taken_ms)
                case wire.Nack():
                    self.stats.nacks += 1
                    _log.warning(
                        "refused", code=message.code, seq=message.seq, problem=message.text
                    )
                    if message.cls == CLASS_DURABLE:
                        self._station.note_nack(self.epoch, message)
                case wire.Ping():
                    now_ns = self._clock.now_ms() * 1_000_000
                    link.send(wire.Pong(t0=message.t0, t1=now_ns, t2=now_ns))
                case wire.Pong():
                    self._failures = 0
                    if link.ping is not None and message.t0 == link.ping[0]:
                        t0_ns, sent_ns = link.ping
                        t3_ns = t0_ns + self._clock.monotonic_ns() - sent_ns
                        self._note_stamps(t0_ns, message.t1, message.t2, t3_ns)
                case wire.Goaway():
                    link.goaway = message
                    self._failures = 0
                    self._next_homes = self._alternates(message)
                case wire.Error():
                    raise wire.error_from_code(message.code, message.text)
                case _:
                    raise WireMalformed(f"{message.type.name} is not for a gateway in a session")

    def _take_receipt(self, link: Link, cls: int, seq: int) -> None:
        if cls == CLASS_VOLATILE:
            self._frames.ack(min(seq, self._frames.next_seq - 1))
        elif seq > max(link.sent, self._ever_sent):
            # What has a number and was not sent is not there: a copy of this spool may have sent
            # its own under that number. The next WELCOME shows it (rule 7).
            raise WireMalformed("a receipt for what was never sent")
        else:
            self._note_receipt(seq)
        self._wake.set()

    def _note_receipt(self, seq: int) -> None:
        self.acked = max(self.acked, seq)
        self._station.note_receipt()

    async def _beat(self, link: Link) -> None:
        while True:
            await asyncio.sleep(link.hb_s)
            now_ns = self._clock.now_ms() * 1_000_000
            link.ping = now_ns, self._clock.monotonic_ns()
            link.send(wire.Ping(now_ns))

    def _note_stamps(self, t0_ns: int, t1_ns: int, t2_ns: int, t3_ns: int) -> None:
        best = self._offset.add_stamps(t0_ns / 1e6, t1_ns / 1e6, t2_ns / 1e6, t3_ns / 1e6)
        if best is not None:
            self.stats.clock_offset_ms = round(best.offset_ms, 1)

    def _alternates(self, goaway: wire.Goaway) -> list[Address]:
        """Addresses of a GOAWAY, over the carrier of our own."""
        found = []
        for host_port in goaway.alternates:
            with suppress(SettingInvalid):
                found.append(self._home.elsewhere(host_port))
        return found

    # ---- sending --------------------------------------------------------------------------------

    async def _send(self, link: Link) -> None:
        """Everything that the limits allow; BYE and the end when all is durable."""
        while True:
            self._wake.clear()
            if link.goaway is None:
                is_busy = await self._send_records(link)
                is_busy = self._send_frame(link) or is_busy
                await link.drain()
                if is_busy:
                    await asyncio.sleep(0)
                    continue
            if self._station.is_done(self.epoch):
                self._say_bye(link)
                await link.drain()
                return
            await self._wake.wait()

    async def _send_records(self, link: Link) -> bool:
        """A burst of SCANS from the spool, or LOST for a hole in it. False when none may leave."""
        epoch = self.epoch
        hole = epoch.hole_after(link.sent)
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
        for record in epoch.read(link.sent, count=BURST):
            if len(record.body) > link.max_frame:
                self.stats.note_error(WireTooLarge.code, self._clock.now_ms())
                await self._station.write(self._spool.drop, epoch, record.seq, "too_large")
                return True
            size = 0 if record.type == FrameType.EVENT else HEADER_SIZE + len(record.body)
            if not link.spend(CLASS_DURABLE, record.seq, size):
                break
            flags = record.flags
            if record.seq <= self._ever_sent:
                flags |= wire.FLAG_RESEND
                self.stats.scans_resent += 1
            if record.seq + 1 == epoch.next_seq:
                flags |= wire.FLAG_BURST_END
            kind = wire.Event if record.type == FrameType.EVENT else wire.Scans
            self.stats.bytes_sent += link.send(
                kind(seq=record.seq, channel=record.channel, flags=flags, body=record.body)
            )
            faults.reach("uplink.sent")
            self.stats.scans_sent += 1
            link.sent = record.seq
            self._ever_sent = max(self._ever_sent, record.seq)
            is_busy = True
        return is_busy

    def _send_frame(self, link: Link) -> bool:
        """One camera frame. False when none may leave."""
        found = self._frames.peek(with_new=self._station.is_live(self.epoch))
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
            self._frames.drop_new()
            return True
        if not link.spend(CLASS_VOLATILE, seq, message.size):
            return False
        self.stats.bytes_sent += link.send(message)
        self.stats.frames_sent += 1
        self.stats.frames_resent += is_resend
        self._frames.mark_sent()
        return True
