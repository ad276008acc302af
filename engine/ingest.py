"""The ingest server: CKP/1 over TCP, one asyncio protocol a gateway link.

Bytes go to engine.wire, rules to engine.session, work to the pipeline; this module holds sockets,
tasks and the order in which batches reach the journal. A verdict is sent as soon as it is known;
an ACK only after the commit, one for all that a commit settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar, cast

import msgspec

from engine import wire
from engine.access import is_same_hash, token_to_hash
from engine.clock import Clock
from engine.decode_pool import DecodePool
from engine.errors import (
    EngineError,
    InputError,
    SealBroken,
    StorageError,
    WireAuth,
    WireDraining,
    WireEpochUsed,
    WireMalformed,
    WireStoreFull,
    WireUnknownGateway,
    WireVersion,
)
from engine.held import HeldCodes
from engine.journal import Journal, RecordBatch
from engine.keys import KeyRing
from engine.pipeline import STEP_RECORDS, Origin, Outcome, Pipeline
from engine.registry import Gateway, Registry
from engine.session import DURABLE, VOLATILE
from engine.settings import Settings
from engine.streams import Streams, StreamState
from engine.telemetry import Log, Metrics, Sample

HELLO_TIMEOUT_S = 10
DRAIN_S = 5
WRITE_MAX = 4_194_304  # bytes a link may leave unread before it is cut
TURN_MESSAGES = 64  # of one link in one turn of the loop: no flood holds up other lanes (CP-3)

_log = Log("ingest")
Sealable = TypeVar("Sealable", wire.Scans, wire.Event)


class IngestServer:
    """Listens for gateways. Used from one event loop."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        registry: Registry,
        keyring: KeyRing,
        pipeline: Pipeline,
        pool: DecodePool,
        journal: Journal,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.registry = registry
        self.keyring = keyring
        self.pipeline = pipeline
        self.pool = pool
        self.journal = journal
        self.metrics = metrics
        self.links: dict[Link, None] = {}  # in order of arrival
        self.is_full = False  # the store refused the last batch
        self._newest_ms: dict[str, int] = {}
        self._heard_ms: dict[str, int] = {}
        self.streams = Streams(settings, journal)
        self._held: dict[tuple[int, int], HeldCodes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.is_draining = False
        self._opened_ms = clock.now_ms()
        self._offsets_ms: dict[str, int] = {}
        metrics.add_source(self._samples)

    # ---- life -------------------------------------------------------------------------------

    async def start(self) -> int:
        """Opens the port and returns its number. Raises OSError."""
        loop = asyncio.get_running_loop()
        settings = self.settings
        self._server = await loop.create_server(
            lambda: Link(self), settings.ingest_host, settings.ingest_port
        )
        self.spawn(self._heartbeat())
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Drains: no new work, GOAWAY, everything taken is settled, then the links close."""
        self.is_draining = True
        if self._server is not None:
            self._server.close()
        for link in list(self.links):
            link.send(wire.Goaway(code=WireDraining.wire, retry_ms=1000))
        waits = [state.settled.wait() for state in self.streams]
        if waits:
            await asyncio.wait([asyncio.ensure_future(w) for w in waits], timeout=DRAIN_S)
        await asyncio.sleep(0)
        for link in list(self.links):
            link.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def make_room(self) -> bool:
        """Whether one more link fits. Of those that have not come to a session the oldest gives
        way, so that silent connections cannot shut gateways out."""
        if len(self.links) < self.settings.sessions_max:
            return True
        for link in self.links:
            if link.state is None:
                del self.links[link]
                link.abort()
                self.metrics.count("chot_sessions_refused", "sessions_max")
                return True
        return False

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _heartbeat(self) -> None:
        pause_s = self.settings.heartbeat_s
        while True:
            await asyncio.sleep(pause_s)
            now_ns, now_ms = self.clock.monotonic_ns(), self.clock.now_ms()
            for link in list(self.links):
                if now_ns - link.heard_ns > 3 * pause_s * 1_000_000_000:
                    link.abort()
                elif link.gateway and not self.registry.is_enrolled(link.gateway, now_ms):
                    link.fail(WireAuth("this gateway's right to send has ended"))
                elif link.state is not None:
                    link.send(wire.Ping(self.clock.now_ms() * 1_000_000))

    # ---- sessions ---------------------------------------------------------------------------

    def check_hello(self, hello: wire.Hello) -> Gateway:
        """The gateway behind a HELLO. Raises WireVersion, WireUnknownGateway, WireAuth."""
        if self.is_draining:
            raise WireDraining("the engine is going down")
        if hello.version != wire.VERSION:
            raise WireVersion(f"this engine speaks version {wire.VERSION}")
        gateway = self.registry.gateway(hello.gateway, self.clock.now_ms())
        if gateway is None:
            raise WireUnknownGateway("this gateway is not in the registry")
        if not is_same_hash(gateway.token_sha256, token_to_hash(hello.token or "")):
            raise WireAuth("the token does not open this gateway")
        return gateway

    def held(self, gateway: int, lane: int) -> HeldCodes:
        new = HeldCodes(self.settings.held_gap_ms)
        return self._held.setdefault((gateway, lane), new)

    def note_time(self, gateway: Gateway, time_ms: int) -> None:
        if time_ms > self._newest_ms.get(gateway.name, 0):
            self._newest_ms[gateway.name] = time_ms

    def note_offset(self, gateway: Gateway, offset_ms: int) -> None:
        self._offsets_ms[gateway.name] = offset_ms

    def note_end(self, gateway: Gateway) -> None:
        self._heard_ms[gateway.name] = self.clock.now_ms()

    def states(self) -> list[tuple[str, int, bool]]:
        """(name, how long it may hold back scans in ms, whether it is connected) by gateway.

        One that is connected is behind by the age of the oldest message that is not yet durable;
        one that left, by the time since. What a gateway keeps that has not come since the engine
        opened nobody knows: it is behind by all that time.
        """
        now_ms = self.clock.now_ms()
        behind = {
            name: now_ms - self._opened_ms
            for gateway, _, _ in self.journal.watermarks()
            if (name := self.registry.gateway_name(gateway)) is not None
        }
        for name, heard_ms in self._heard_ms.items():
            behind[name] = now_ms - heard_ms
        connected = set()
        for link in self.links:
            if link.gateway is not None and link.state is not None:
                connected.add(link.gateway.name)
                behind[link.gateway.name] = now_ms - (link.state.open_since_ms or now_ms)
        return [(name, span_ms, name in connected) for name, span_ms in sorted(behind.items())]

    # ---- journal ----------------------------------------------------------------------------

    def append(self, state: StreamState, cls: int, seq: int, batch: RecordBatch) -> None:
        state.appending += 1
        self.spawn(self._append(state, cls, seq, batch))

    async def _append(self, state: StreamState, cls: int, seq: int, batch: RecordBatch) -> None:
        failure: StorageError | None = None
        try:
            await self.journal.append(batch)
        except StorageError as error:
            failure = error
        finally:
            state.appending -= 1
        if failure is not None:
            self._store_failed(failure)
            return
        self.is_full = False
        state.settle(cls, seq)

    def _store_failed(self, error: EngineError) -> None:
        """Nothing more is acknowledged: every link ends, every stream goes back to the log."""
        _log.error("store refuses scans", code=error.code)
        self.is_full = True
        self.streams.take_back()
        # A code in view is to be a scan again when its frame comes again (D-5).
        self._held.clear()
        carriers = [state.link for state in self.streams if state.link is not None]
        for link in [*self.links, *carriers]:
            link.fail(WireStoreFull("the store takes no scans now"))

    def _samples(self) -> Iterator[Sample]:
        waiting = sum(len(state.undecided) for state in self.streams)
        yield "chot_frames_waiting", (), waiting
        states = self.states()
        yield "chot_sessions", (), sum(is_connected for _, _, is_connected in states)
        for name, span_ms, is_connected in states:
            yield "chot_gateway_connected", (name,), is_connected
            yield "chot_gateway_behind_seconds", (name,), span_ms / 1000
        for name, time_ms in self._newest_ms.items():
            yield "chot_gateway_newest_scan_seconds", (name,), time_ms / 1000
        for name, offset_ms in self._offsets_ms.items():
            yield "chot_gateway_clock_offset_seconds", (name,), offset_ms / 1000


class Link(asyncio.Protocol):
    """One connection. `state` is None until WELCOME left."""

    def __init__(self, server: IngestServer) -> None:
        self.server = server
        self.gateway: Gateway | None = None
        self.state: StreamState | None = None
        self.heard_ns = server.clock.monotonic_ns()
        self._epoch = 0
        self._transport: asyncio.Transport | None = None
        self._reader = wire.FrameReader(wire.CONTROL_MAX)
        self._inbox: deque[wire.Message] = deque()
        self._is_busy = False  # with a large body; what came after it waits
        self._is_opening = False
        self._is_closed = False
        self._to_acknowledge: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    # ---- transport --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by behaviour, not by class.
        self._transport = transport = cast(asyncio.Transport, transport)
        if not self.server.make_room():
            self.server.metrics.count("chot_sessions_refused", "sessions_max")
            transport.abort()
            return
        self.server.links[self] = None
        self._timer = asyncio.get_running_loop().call_later(HELLO_TIMEOUT_S, self._on_hello_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
        self.server.links.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        if self.state is not None and self.state.link is self:
            self.state.link = None
            assert self.gateway is not None
            self.server.note_end(self.gateway)

    def data_received(self, data: bytes) -> None:
        self.heard_ns = self.server.clock.monotonic_ns()
        self.server.metrics.count("chot_bytes_received", by=len(data))
        with contextlib.suppress(InputError):  # met below, behind what came before the fault
            self._inbox.extend(self._reader.feed(data))
        self._work_off()

    def _work_off(self) -> None:
        """What came, in order. Reading goes on once all of it was taken."""
        try:
            for _ in range(TURN_MESSAGES):
                if not self._inbox or self._is_busy or self._is_closed:
                    break
                message = self._inbox.popleft()
                self.server.metrics.count("chot_messages_received", message.type.name)
                self._on_message(message)
            if not self._inbox and not self._is_busy and not self._is_closed:
                self._reader.check()
        except InputError as error:
            self.fail(error)
        if self._is_closed or self._transport is None:
            return
        if not self._inbox and not self._is_busy:
            self._transport.resume_reading()
            return
        self._transport.pause_reading()
        if not self._is_busy:
            asyncio.get_running_loop().call_soon(self._work_off)

    def send(self, message: wire.Message) -> None:
        if self._is_closed or self._transport is None:
            return
        self._transport.write(wire.encode(message))
        if self._transport.get_write_buffer_size() > WRITE_MAX:
            self.abort()  # a peer that does not read its answers

    def fail(self, error: EngineError, seq: int = 0) -> None:
        """ERROR, then the end of the link."""
        if self._is_closed:
            return
        self.server.metrics.count("chot_sessions_refused", error.code)
        _log.warning("link ended", code=error.code, gateway=self._name())
        self.send(wire.Error(code=error.wire or WireMalformed.wire, text=str(error), seq=seq))
        self.close()

    def close(self) -> None:
        self._is_closed = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self._is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def _name(self) -> str:
        return self.gateway.name if self.gateway else ""

    def _on_hello_timeout(self) -> None:
        if self.state is None:
            self.fail(WireMalformed("no HELLO came in time"))

    # ---- opening ----------------------------------------------------------------------------

    def _on_message(self, message: wire.Message) -> None:
        if self.state is not None:
            self._on_session_message(message)
        elif isinstance(message, wire.Hello) and not self._is_opening:
            self._is_opening = True
            self.gateway = self.server.check_hello(message)
            t1_ns = self.server.clock.now_ms() * 1_000_000
            self.server.note_offset(self.gateway, (message.t0 - t1_ns) // 1_000_000)
            self.server.spawn(self._open(message, t1_ns))
        else:
            raise WireMalformed("HELLO comes first, and nothing more before WELCOME")

    async def _open(self, hello: wire.Hello, t1_ns: int) -> None:
        assert self.gateway is not None
        server = self.server
        try:
            state = await server.streams.open(self, self.gateway.number, hello.epoch)
        except InputError as error:
            self.fail(error)
            return
        if self._is_closed:
            state.link = None if state.link is self else state.link
            return
        windows = state.stream.windows
        if hello.next[DURABLE] <= windows[DURABLE].acked:
            # Its next numbers are used up: what it sends would be dropped as received before.
            self.fail(WireEpochUsed("the next numbers of this spool were received before"))
            return
        if len(self._reader):
            self.fail(WireMalformed("nothing may follow HELLO before WELCOME"))
            return
        self.state = state
        self._epoch = hello.epoch
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
                t1=t1_ns,
                t2=server.clock.now_ms() * 1_000_000,
            )
        )

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
                pass
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
        self.state.note_open(self.server.clock.now_ms())
        return True

    def _origin(self, cls: int, seq: int, first: int) -> Origin:
        assert self.gateway is not None
        post = self.server.registry.post(self.gateway.post) if self.gateway.post else None
        place = post.number if post else 0
        return Origin(
            self.gateway.number, self._epoch, cls, seq, first, place, tuple(self.gateway.lanes)
        )

    def _consume(
        self, seq: int, work: Callable[[Origin], Outcome], *, first: int | None = None
    ) -> None:
        """Class 0: the outcome's answers leave now, its batch goes to the journal."""
        self._keep(seq, work(self._origin(DURABLE, seq, first or seq)))

    def _keep(self, seq: int, outcome: Outcome) -> None:
        self._answer(DURABLE, seq, outcome)
        assert self.state is not None and outcome.batch is not None
        self.server.append(self.state, DURABLE, seq, outcome.batch)

    def _answer(self, cls: int, seq: int, outcome: Outcome) -> None:
        for verdict in outcome.verdicts:
            self.send(wire.Result(cls=cls, seq=seq, verdict=verdict))
        for fault in outcome.faults:
            code = fault.error.wire or WireMalformed.wire
            text = f"{fault.error.code}: {fault.error}"
            self.send(wire.Nack(cls=cls, seq=seq, code=code, index=fault.n, text=text))

    def _opened(self, message: Sealable) -> Sealable:
        """The message unsealed. Raises SealBroken; of an EVENT, WireMalformed too."""
        if not message.is_sealed:
            return message
        aad = wire.seal_aad(self._name(), self._epoch, message.seq)
        return message.opened(self.server.keyring.open_ingest(message.body, aad))

    def _on_event(self, message: wire.Event) -> None:
        if not self._take(DURABLE, message.seq, 0):
            return
        fault: InputError = WireMalformed("this engine takes no events yet")
        try:
            message = self._opened(message)
        except (SealBroken, WireMalformed) as error:
            fault = error
        self._consume(message.seq, lambda o: self.server.pipeline.take_fault(o, fault))

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
        entries, body, fault = message.entries, message.body, message.fault
        assert self.gateway is not None
        if len(entries):
            self.server.note_time(self.gateway, int(entries["time_ms"].max()))
        if len(entries) > STEP_RECORDS:
            self._is_busy = True
            self.server.spawn(self._consume_slowly(message))
        else:
            self._consume(message.seq, lambda o: pipeline.take_records(o, entries, body, fault))

    async def _consume_slowly(self, scans: wire.Scans) -> None:
        """A large body in steps, so that other links get their turn between them (CP-3)."""
        assert self.state is not None
        origin = self._origin(DURABLE, scans.seq, scans.seq)
        steps = self.server.pipeline.record_steps(origin, scans.entries, scans.body, scans.fault)
        for outcome in steps:
            if outcome is None:
                await asyncio.sleep(0)
            elif self.state.stream.windows[DURABLE].is_open(scans.seq):  # else the store failed
                self._keep(scans.seq, outcome)
        self._is_busy = False
        self._work_off()

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
            server.note_time(gateway, time_ms)
        except InputError as error:
            server.metrics.count("chot_frames_invalid", error.code)
            outcome = server.pipeline.take_fault(origin, error)
        self._answer(VOLATILE, message.seq, outcome)
        if undecided is state.undecided:
            state.ready[message.seq] = outcome.batch
            self._release(state)

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
