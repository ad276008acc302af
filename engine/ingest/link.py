"""A link of the ingest server: one connection, whatever carries it, from first byte to last.

Bytes come from engine.ingest.doors and go to engine.wire.frames, rules to engine.wire.session, work
to the pipeline; answers go back. A verdict is sent as soon as it is known; an ACK only after the
commit, one for all that a commit settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

import msgspec

from engine import faults
from engine.clock import Clock
from engine.decoding.decode_pool import DecodePool
from engine.decoding.held import HeldCodes
from engine.errors import (
    EngineError,
    ImageInvalid,
    InputError,
    SealBroken,
    WireEpochUsed,
    WireMalformed,
    WireOverCredit,
)
from engine.identity.keys import KeyRing
from engine.ingest.doors import Carrier
from engine.ingest.gateways import Gateways
from engine.ingest.pipeline import Origin, Outcome, Passes, Pipeline
from engine.ingest.streams import Streams, StreamState
from engine.registry.registry import Gateway, Registry
from engine.scans.records import newest_ms
from engine.scans.rows import Flag
from engine.settings import Settings
from engine.storage.journal import RecordBatch
from engine.telemetry import Log, Metrics
from engine.wire import frames as wire
from engine.wire.session import DURABLE, VOLATILE
from engine.wire.tls import Peer

HELLO_TIMEOUT_S = 10  # from the connection on, handshakes included
WRITE_MAX = 4_194_304  # bytes a link may leave unread before it is cut
LINKS_MAX = 8  # of one gateway: no box can take the places of others
# Of one link in one turn of the loop, whichever comes first: no flood and no backlog holds up other
# lanes (CP-3). A body costs some 0.05 ms to open and more to read, so that messages alone would not
# bound the turn.
TURN_MESSAGES = 64
TURN_NS = 2_000_000
RESULTS_WRITTEN = 64  # at once; of less than 1 KB each, a WebSocket's message takes 64 KB
PIECE = 16_384  # bytes taken apart at once: a thousand messages of the smallest size, some 3 ms

_log = Log("ingest")
Sealable = TypeVar("Sealable", wire.Scans, wire.Event)


class Host(Protocol):
    """What the links of a server share; engine.ingest.server has it."""

    settings: Settings
    clock: Clock
    registry: Registry
    keyring: KeyRing
    pipeline: Pipeline
    pool: DecodePool
    metrics: Metrics
    streams: Streams
    gateways: Gateways
    links: dict[Link, None]

    def check_hello(self, hello: wire.Hello, peer: Peer | None = None) -> Gateway: ...
    def held(self, gateway: int, lane: int) -> HeldCodes: ...
    def note_refusal(self, event: str, **fields: object) -> None: ...
    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...
    def append(self, state: StreamState, cls: int, seq: int, batch: RecordBatch) -> None: ...
    def break_off(self, state: StreamState, fault: Exception) -> None: ...


class Link:
    """One connection. `state` is None until WELCOME left.

    The carrier comes when the handshakes of its door are over. drop: ends a connection that has
    none yet. peer: what the client's certificate says.
    """

    def __init__(self, server: Host) -> None:
        self.server = server
        self.gateway: Gateway | None = None
        self.state: StreamState | None = None
        self.peer: Peer | None = None
        self.drop: Callable[[], object] = _nothing
        self.heard_ns = server.clock.monotonic_ns()
        self._epoch = 0
        self._next = (1, 1)  # numbers from here on are of what is made under this link's eyes
        self._then_ms: int | None = None  # what was taken off the times of what is older
        self._ping: tuple[int, int] | None = None  # (t0, monotonic ns) of the one in flight
        self._carrier: Carrier | None = None
        self._reader = wire.FrameReader(wire.CONTROL_MAX)
        self._unread: deque[bytes | memoryview | None] = deque()  # None: a carrier's message ends
        self._inbox: deque[wire.Message] = deque()
        self._is_busy = False  # with a large body; what came after it waits
        self._is_opening = False
        self._is_closed = False
        self._to_acknowledge: set[int] = set()
        self._timer = asyncio.get_running_loop().call_later(HELLO_TIMEOUT_S, self._on_hello_timeout)
        server.links[self] = None

    # ---- carrier ----------------------------------------------------------------------------

    @property
    def has_session(self) -> bool:
        return self.state is not None

    def enter(self, carrier: Carrier, peer: Peer | None) -> None:
        """The handshakes are over."""
        self._carrier = carrier
        self.peer = peer
        if self._is_closed:
            carrier.abort()

    def turn_away(self, error: EngineError) -> None:
        """Somebody at the door who speaks no CKP/1: counted, and no ERROR is sent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.server.metrics.count("chot_sessions_refused", error.code)
        self.server.note_refusal("turned away", code=error.code, problem=str(error))
        if self._carrier is not None:
            self._carrier.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
        self.server.links.pop(self, None)
        self._timer.cancel()
        if self.state is not None and self.state.link is self:
            self.state.link = None
            assert self.gateway is not None
            self.server.gateways.note_end(self.gateway.name)

    def data_received(self, data: bytes) -> None:
        """A piece of the stream, cut anywhere."""
        self._feed(data)
        self._work_off()

    def message_received(self, data: bytes) -> None:
        """A message of a carrier that has them: whole frames."""
        self._feed(data)
        self._unread.append(None)
        self._work_off()

    def _feed(self, data: bytes) -> None:
        if self._is_closed:
            return  # a WebSocket brings more until it is closed, and nobody takes it
        self.heard_ns = self.server.clock.monotonic_ns()
        self.server.metrics.count("chot_bytes_received", by=len(data))
        if len(data) <= PIECE:
            self._unread.append(data)
            return
        view = memoryview(data)
        self._unread.extend(view[at : at + PIECE] for at in range(0, len(data), PIECE))

    def _next_message(self) -> wire.Message | None:
        """The next message, None when all that came was taken."""
        while not self._inbox and self._unread:
            piece = self._unread.popleft()
            if piece is not None:
                with contextlib.suppress(InputError):  # met behind what came before the fault
                    self._inbox.extend(self._reader.feed(piece))
            elif len(self._reader):
                self._reader.error = WireMalformed("a message ends within a frame")
        return self._inbox.popleft() if self._inbox else None

    def _work_off(self) -> None:
        """What came, in order. Reading goes on once all of it was taken."""
        clock = self.server.clock
        until_ns = clock.monotonic_ns() + TURN_NS
        try:
            for n in range(TURN_MESSAGES):
                if n and clock.monotonic_ns() >= until_ns:
                    break
                if self._is_busy or self._is_closed:
                    break
                message = self._next_message()
                if message is None:
                    break
                self.server.metrics.count("chot_messages_received", message.type.name)
                self._on_message(message)
            if not self._has_more and not self._is_busy and not self._is_closed:
                self._reader.check()
        except InputError as error:
            self.fail(error)
        except Exception as error:
            if self.state is None:
                raise
            self.server.break_off(self.state, error)
        if self._is_closed or self._carrier is None:
            return
        if not self._has_more and not self._is_busy:
            self._carrier.resume_reading()
            return
        self._carrier.pause_reading()
        if not self._is_busy:
            asyncio.get_running_loop().call_soon(self._work_off)

    @property
    def _has_more(self) -> bool:
        return bool(self._inbox or self._unread)

    def send(self, message: wire.Message) -> None:
        self._write(wire.encode(message))

    def _write(self, data: bytes) -> None:
        """Whole frames."""
        if self._is_closed or self._carrier is None:
            return
        self._carrier.write(data)
        if self._carrier.get_write_buffer_size() > WRITE_MAX:
            self.abort()  # a peer that does not read its answers

    def fail(self, error: EngineError, seq: int = 0) -> None:
        """ERROR, then the end of the link."""
        if self._is_closed:
            return
        self.server.metrics.count("chot_sessions_refused", error.code)
        log = _log.warning if self.state is not None else self.server.note_refusal
        log("link ended", code=error.code, gateway=self._name())
        self.send(wire.Error(code=error.wire or WireMalformed.wire, text=str(error), seq=seq))
        self.close()

    def close(self) -> None:
        self._is_closed = True
        if self._carrier is not None:
            self._carrier.close()
        else:
            self.drop()

    def abort(self) -> None:
        self._is_closed = True
        if self._carrier is not None:
            self._carrier.abort()
        else:
            self.drop()

    def _name(self) -> str:
        return self.gateway.name if self.gateway else ""

    def _on_hello_timeout(self) -> None:
        if self.state is None:
            self.fail(WireMalformed("no HELLO came in time"))
        if self._carrier is None:
            self.drop()  # one that was turned away and does not go

    # ---- opening ----------------------------------------------------------------------------

    def _on_message(self, message: wire.Message) -> None:
        if self.state is not None:
            self._on_session_message(message)
        elif isinstance(message, wire.Hello) and not self._is_opening:
            self._is_opening = True
            self.gateway = self.server.check_hello(message, self.peer)
            t1_ns = self.server.clock.now_ms() * 1_000_000
            clock = self.server.gateways.clock(self.gateway.name)
            clock.note_hello(message.t0 / 1e6, t1_ns / 1e6)
            self.server.spawn(self._open(message, t1_ns))
        else:
            raise WireMalformed("HELLO comes first, and nothing more before WELCOME")

    async def _open(self, hello: wire.Hello, t1_ns: int) -> None:
        assert self.gateway is not None
        server = self.server
        try:
            self._check_others(hello.epoch)
            state = await server.streams.open(self, self.gateway.number, hello.epoch)
        except InputError as error:
            self.fail(error)
            return
        windows = state.stream.windows
        try:
            self._check_others(hello.epoch)  # others may have come in meanwhile
            if hello.next[DURABLE] <= windows[DURABLE].acked:
                # Its next numbers are used up: what it sends would be dropped as received before.
                raise WireEpochUsed("the next numbers of this spool were received before")
            # The end of HELLO's own message, which may wait for its turn, is nothing that follows.
            if len(self._reader) or self._inbox or any(self._unread):
                raise WireMalformed("nothing may follow HELLO before WELCOME")
        except InputError as error:
            self.fail(error)
        if self._is_closed:
            # A stream that somebody carries is never dropped, so it must not be one who left.
            state.link = None if state.link is self else state.link
            return
        faults.reach("streams.opened")
        self.state = state
        self._epoch = hello.epoch
        self._next = hello.next
        self._then_ms = state.correction_ms
        self._reader = wire.FrameReader(server.settings.frame_size_max)
        server.metrics.count("chot_sessions_opened")
        self.send(
            wire.Welcome(
                sid=secrets.token_bytes(16),
                acked=(windows[DURABLE].acked, windows[VOLATILE].acked),
                limit=(windows[DURABLE].limit, windows[VOLATILE].limit),
                byte_limit=(windows[DURABLE].byte_limit, windows[VOLATILE].byte_limit),
                max_frame=server.settings.frame_size_max,
                hb_s=server.settings.heartbeat_s,
                policy=wire.Policy(decode=self.gateway.decode),
                t1=t1_ns,
                t2=server.clock.now_ms() * 1_000_000,
            )
        )
        self.ping()

    def _check_others(self, epoch: int) -> None:
        """Raises WireOverCredit. A session in the same epoch does not count: it is replaced."""
        assert self.gateway is not None
        others = sum(
            link.gateway.number == self.gateway.number and link._epoch != epoch
            for link in self.server.links
            if link.gateway is not None and link.state is not None
        )
        if others >= LINKS_MAX:
            raise WireOverCredit(f"{LINKS_MAX} links of this gateway are open")

    # ---- session ----------------------------------------------------------------------------

    def _on_session_message(self, message: wire.Message) -> None:
        match message:
            case wire.Scans():
                self._on_scans(message)
            case wire.FrameImage():
                self._on_frame(message)
            case wire.Lost():
                self._on_lost(message)
            case wire.Event():
                self._on_event(message)
            case wire.Ping():
                now_ns = self.server.clock.now_ms() * 1_000_000
                self.send(wire.Pong(t0=message.t0, t1=now_ns, t2=now_ns))
            case wire.Pong():
                self._on_pong(message)
            case wire.Bye():
                self.close()
            case _:
                raise WireMalformed(f"{message.type.name} is not for a server in a session")

    def _take(self, cls: int, seq: int, size: int, *, first: int | None = None) -> bool:
        assert self.state is not None
        if not self.state.stream.windows[cls].take(seq, size, first=first):
            self.server.metrics.count("chot_resends_dropped")
            self.acknowledge(cls)  # its sender may have missed the receipt
            return False
        self.state.note_open(cls, seq, self.server.gateways.monotonic_ms())
        return True

    def _origin(self, cls: int, seq: int, first: int) -> Origin:
        assert self.gateway is not None
        post = self.server.registry.post(self.gateway.post) if self.gateway.post else None
        place = post.number if post else 0
        return Origin(
            self.gateway.number, self._epoch, cls, seq, first, place, tuple(self.gateway.lanes),
            *self._correction(cls, seq),
        )  # fmt: skip

    def _consume(
        self, seq: int, work: Callable[[Origin], Outcome], *, first: int | None = None
    ) -> None:
        """Class 0: the outcome's answers leave now, its batch goes to the journal."""
        self._keep(seq, work(self._origin(DURABLE, seq, first or seq)))

    def _keep(self, seq: int, outcome: Outcome) -> None:
        self._answer(DURABLE, seq, outcome)
        faults.reach("ingest.judged")
        assert self.state is not None and outcome.batch is not None
        self.server.append(self.state, DURABLE, seq, outcome.batch)

    def _answer(self, cls: int, seq: int, outcome: Outcome) -> None:
        results = [wire.encode_result(cls, seq, verdict) for verdict in outcome.verdicts]
        for at in range(0, len(results), RESULTS_WRITTEN):
            self._write(b"".join(results[at : at + RESULTS_WRITTEN]))
        for fault in outcome.faults:
            code = fault.error.wire or WireMalformed.wire
            text = f"{fault.error.code}: {fault.error}"
            self.send(wire.Nack(cls=cls, seq=seq, code=code, index=fault.n, text=text))

    def _opened(self, message: Sealable) -> Sealable:
        """The message unsealed. Raises SealBroken; of an EVENT, WireMalformed too."""
        if not message.is_sealed:
            return message
        aad = wire.seal_aad(self._name(), self._epoch, message.seq)
        return message.opened(self.server.keyring.open_spool(message.body, aad))

    def _on_event(self, message: wire.Event) -> None:
        if not self._take(DURABLE, message.seq, 0):
            return
        pipeline = self.server.pipeline
        try:
            message = self._opened(message)
        except (SealBroken, WireMalformed) as error:
            fault = error
            self._consume(message.seq, lambda o: pipeline.take_fault(o, fault))
            return
        report, lane = message.report, message.channel
        assert report is not None
        self._consume(message.seq, lambda o: pipeline.take_report(o, lane, report))

    def _on_scans(self, message: wire.Scans) -> None:
        if not self._take(DURABLE, message.seq, message.size):
            return
        pipeline = self.server.pipeline
        try:
            message = self._opened(message)
        except SealBroken as error:
            broken = error
            self._consume(message.seq, lambda o: pipeline.take_fault(o, broken))
            return
        assert self.gateway is not None
        if message.packed:
            self._note_time(DURABLE, message.seq, newest_ms(message.packed))
        origin = self._origin(DURABLE, message.seq, message.seq)
        steps = pipeline.record_steps(origin, message.packed, message.body, message.fault)
        step = next(steps)
        if isinstance(step, Outcome):
            self._keep(message.seq, step)
        else:
            self._is_busy = True
            self.server.spawn(self._consume_slowly(message.seq, steps, step))

    async def _consume_slowly(
        self, seq: int, steps: Iterator[Outcome | Passes], passes: Passes
    ) -> None:
        """The rest of a body that is large or has passes in it: other links get their turn between
        steps, and while signatures are checked (CP-3). What comes behind it waits."""
        assert self.state is not None
        try:
            await self._give_way(passes)
            for step in steps:
                if not isinstance(step, Outcome):
                    await self._give_way(step)
                elif self.state.stream.windows[DURABLE].is_open(seq):  # else taken back
                    self._keep(seq, step)
        except Exception as error:
            self.server.break_off(self.state, error)
        self._is_busy = False
        self._work_off()

    async def _give_way(self, passes: Passes) -> None:
        if passes:
            await self.server.pool.prepare(passes)
        await asyncio.sleep(0)

    def _on_lost(self, message: wire.Lost) -> None:
        assert self.state is not None
        received = self.state.stream.windows[DURABLE].received
        first = max(message.first, received + 1)
        if not self._take(DURABLE, message.seq, 0, first=first):
            return
        count = message.seq - first + 1
        self.server.metrics.count("chot_lost_scans", by=count)
        _log.error("scans lost at the gateway", gateway=self._name(), count=count)
        self._consume(message.seq, lambda o: self.server.pipeline.take_lost(o, count), first=first)

    # ---- clock ------------------------------------------------------------------------------

    def ping(self) -> None:
        now_ns = self.server.clock.now_ms() * 1_000_000
        self._ping = now_ns, self.server.clock.monotonic_ns()
        self.send(wire.Ping(now_ns))

    def _on_pong(self, pong: wire.Pong) -> None:
        """Four stamps of the gateway's clock; one that answers no PING of ours says nothing."""
        assert self.gateway is not None
        if self._ping is None or pong.t0 != self._ping[0]:
            return
        t0_ns, sent_ns = self._ping
        self._ping = None
        # Our own clock may be set between question and answer, the monotonic one is not.
        t3_ns = t0_ns + self.server.clock.monotonic_ns() - sent_ns
        clock = self.server.gateways.clock(self.gateway.name)
        clock.note_pong(t0_ns / 1e6, pong.t1 / 1e6, pong.t2 / 1e6, t3_ns / 1e6)

    def _correction(self, cls: int, seq: int) -> tuple[int, int]:
        """(ms to take off the times of this message, flags of its rows). docs/protocol.md says why.

        What was numbered before this link is older than the offset that was measured on it.
        """
        assert self.gateway is not None and self.state is not None
        rule = self.server.gateways.clock(self.gateway.name).rule
        if seq >= self._next[cls]:
            self.state.correction_ms = rule.correction_ms
            found: int | None = rule.correction_ms
        else:
            found = rule.of_earlier(self._then_ms)
        if found is None:
            return 0, Flag.CLOCK_UNSURE
        return found, Flag.CLOCK_CORRECTED if found else 0

    def _note_time(self, cls: int, seq: int, time_ms: int) -> None:
        assert self.gateway is not None
        time_ms -= self._correction(cls, seq)[0]
        self.server.gateways.note_time(self.gateway.name, time_ms)

    # ---- camera frames ----------------------------------------------------------------------

    def _on_frame(self, message: wire.FrameImage) -> None:
        assert self.state is not None
        if not self._take(VOLATILE, message.seq, message.size):
            return
        self.state.undecided.append(message.seq)
        self.server.spawn(self._frame(self.state, self.state.undecided, message))

    async def _frame(
        self, state: StreamState, undecided: list[int], message: wire.FrameImage
    ) -> None:
        """Decode, judge, answer; then release what is decided up to here, in order."""
        server, gateway = self.server, self.gateway
        assert gateway is not None
        time_ms = message.ts_ns // 1_000_000
        origin = self._origin(VOLATILE, message.seq, message.seq)
        try:
            if message.channel not in gateway.lanes:
                raise WireMalformed("this gateway does not serve that lane")
            codes = await server.pool.decode(
                (gateway.number, message.channel), message.codec, message.image,
                width=message.width, height=message.height, stride=message.stride,
            )  # fmt: skip
            if undecided is not state.undecided:
                return  # the store failed meanwhile; this frame comes again
            new = server.held(gateway.number, message.channel).new(
                [code.data for code in codes], time_ms
            )
            outcome = server.pipeline.take_codes(origin, message.channel, time_ms, new)
            self._note_time(VOLATILE, message.seq, time_ms)
        except Exception as error:
            fault = error if isinstance(error, InputError) else self._frame_failed(error)
            server.metrics.count("chot_frames_invalid", fault.code)
            outcome = server.pipeline.take_fault(origin, fault)
        self._answer(VOLATILE, message.seq, outcome)
        if undecided is state.undecided:
            state.ready[message.seq] = outcome.batch
            self._release(state)

    def _frame_failed(self, error: Exception) -> InputError:
        """A fault of ours: one frame is given up, and those behind it do not wait for it."""
        _log.error("frame failed", gateway=self._name(), problem=type(error).__name__)
        return ImageInvalid("the engine failed at this frame")

    def _release(self, state: StreamState) -> None:
        while state.undecided and state.undecided[0] in state.ready:
            seq = state.undecided.pop(0)
            batch = state.ready.pop(seq)
            if batch is None:
                state.settle(VOLATILE, seq)
                continue
            # Frames that showed nothing since the last batch are consumed with this one.
            run = msgspec.structs.replace(batch.run, first=state.released + 1)
            state.released = seq
            batch = msgspec.structs.replace(batch, run=run)
            self.server.append(state, VOLATILE, seq, batch)

    # ---- receipts ---------------------------------------------------------------------------

    def acknowledge(self, cls: int) -> None:
        """One ACK a class for everything that settles in this turn of the loop."""
        if not self._to_acknowledge:
            asyncio.get_running_loop().call_soon(self._send_acks)
        self._to_acknowledge.add(cls)

    def _send_acks(self) -> None:
        classes, self._to_acknowledge = self._to_acknowledge, set()
        if self.state is None or self.state.link is not self:
            return
        for cls in sorted(classes):
            window = self.state.stream.windows[cls]
            ack = wire.Ack(
                cls=cls, seq=window.acked, limit=window.limit, byte_limit=window.byte_limit
            )
            self.send(ack)
        faults.reach("ingest.acked")


def _nothing() -> None:
    """Nothing to drop yet."""
