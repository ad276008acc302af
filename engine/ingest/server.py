"""The ingest server: who may come in through which door, how many at once, and their heartbeat.

What one connection does is engine.ingest.link's; this module holds all of them, their tasks, and
the way of batches to the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from engine import faults
from engine.clock import Clock
from engine.decoding.decode_pool import DecodePool
from engine.decoding.held import HeldCodes
from engine.errors import (
    EngineError,
    InputError,
    SettingInvalid,
    StorageError,
    WireAuth,
    WireDraining,
    WireMalformed,
    WireStoreFull,
    WireUnknownGateway,
    WireVersion,
)
from engine.identity.keys import KeyRing
from engine.ingest.doors import CLOSE_S, Door, find_places
from engine.ingest.gateways import Gateways
from engine.ingest.link import Link
from engine.ingest.pipeline import Pipeline
from engine.ingest.streams import Streams, StreamState
from engine.registry.access import token_to_hash
from engine.registry.registry import Gateway, Registry
from engine.settings import Settings
from engine.storage.journal import Journal, RecordBatch
from engine.telemetry import Log, Metrics, Sample
from engine.wire import frames as wire
from engine.wire.address import Address
from engine.wire.session import DURABLE
from engine.wire.tls import Peer

DRAIN_S = 5
REFUSALS_LOGGED = 20  # between two heartbeats: whoever knocks without end fills no disk

_log = Log("ingest")
T = TypeVar("T")


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
        self.gateways = Gateways(
            clock, settings.clock_offset_max_ms, settings.clock_ahead_max_s * 1000
        )
        self.streams = Streams(settings, journal)
        self._held: dict[tuple[int, int], HeldCodes] = {}
        self._refusals = 0  # since the last heartbeat
        self._tasks: set[asyncio.Task[Any]] = set()
        self._doors: list[Door] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._places = find_places(settings.sessions_max)
        self.is_draining = False
        for source in (self._samples, self._load_samples, self.gateways.samples):
            metrics.add_source(source)

    # ---- life -------------------------------------------------------------------------------

    async def start(self, addresses: list[Address]) -> list[Address]:
        """Opens a door at each address; as given, with the ports that were had.

        Raises SettingInvalid; no door stays open then.
        """
        try:
            for address in addresses:
                self._doors.append(Door(address, self.settings))
        except SettingInvalid:
            self._close_doors()
            raise
        for door in self._doors:
            self._accepting.append(self.spawn(door.accept(self._admit, self._drop_stranger)))
        self.spawn(self._heartbeat())
        return [door.address for door in self._doors]

    def _close_doors(self) -> None:
        for door in self._doors:
            door.close()

    async def stop(self) -> None:
        """Drains: no new work, GOAWAY, everything taken is settled, then the links close."""
        self.is_draining = True
        for task in self._accepting:
            task.cancel()
        # A socket is closed once nobody waits on it: its number may be another's a moment later.
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._close_doors()
        for link in list(self.links):
            link.send(wire.Goaway(code=WireDraining.wire, retry_ms=1000))
        waits = [state.settled.wait() for state in self.streams]
        if waits:
            await asyncio.wait([asyncio.ensure_future(w) for w in waits], timeout=DRAIN_S)
        await asyncio.sleep(0)
        for link in list(self.links):
            link.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self.links:  # the last receipts are on their way
                    await asyncio.sleep(0.01)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _admit(self, door: Door, sock: socket.socket) -> None:
        if not self._make_room():
            self.metrics.count("chot_sessions_refused", "sessions_max")
            sock.close()
            return
        link = Link(self)
        link.drop = self.spawn(self._open_door(door, sock, link)).cancel

    async def _open_door(self, door: Door, sock: socket.socket, link: Link) -> None:
        try:
            transport = await door.open(sock, link)
        except InputError as error:
            link.turn_away(error)
            link.connection_lost(None)
        except (OSError, asyncio.CancelledError):
            link.connection_lost(None)
        else:
            link.drop = transport.abort

    def _make_room(self) -> bool:
        """Whether one more link fits. Of those that have not come to a session the oldest gives
        way, so that silent connections cannot shut gateways out."""
        return len(self.links) < self._places or self._drop_stranger()

    def _drop_stranger(self) -> bool:
        """Ends the oldest connection without a session, if there is one."""
        for link in self.links:
            if link.state is None:
                del self.links[link]
                link.abort()
                self.metrics.count("chot_sessions_refused", "sessions_max")
                return True
        return False

    def note_refusal(self, event: str, **fields: object) -> None:
        """Of a connection that came to no session: a line each, up to so many."""
        self._refusals += 1
        if self._refusals <= REFUSALS_LOGGED:
            _log.warning(event, **fields)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _heartbeat(self) -> None:
        pause_s = self.settings.heartbeat_s
        while True:
            await asyncio.sleep(pause_s)
            if self._refusals > REFUSALS_LOGGED:
                _log.warning("more turned away", count=self._refusals - REFUSALS_LOGGED)
            self._refusals = 0
            now_ns, now_ms = self.clock.monotonic_ns(), self.clock.now_ms()
            for link in list(self.links):
                if now_ns - link.heard_ns > 3 * pause_s * 1_000_000_000:
                    link.abort()
                elif objection := self._objection(link, now_ms):
                    link.fail(objection)
                elif link.state is not None:
                    link.ping()

    # ---- sessions ---------------------------------------------------------------------------

    def _is_entitled(self, link: Link, gateway: Gateway, now_ms: int) -> bool:
        """Whether what the session was opened with would still open it."""
        if link.peer is None:
            return self.registry.is_enrolled(gateway, now_ms)
        is_known = self.registry.gateway(gateway.name, now_ms) is not None
        return is_known and now_ms < link.peer.expires_ms

    def registry_changed(self) -> None:
        """Links that the registry does not allow any more end now, not at the next heartbeat."""
        now_ms = self.clock.now_ms()
        for link in list(self.links):
            if objection := self._objection(link, now_ms):
                link.fail(objection)

    def _objection(self, link: Link, now_ms: int) -> EngineError | None:
        """Why a link must not go on. Who lost the right to send is turned away; whose post, lanes
        or decoder are others now comes back, for a session goes by what it was opened with."""
        old = link.gateway
        if old is None:
            return None
        new = self.registry.gateway(old.name, now_ms)
        if new is None or not self._is_entitled(link, old, now_ms):
            return WireAuth("this gateway's right to send has ended")
        if (new.post, new.lanes, new.decode) != (old.post, old.lanes, old.decode):
            return WireDraining("the registry has changed, come back")
        return None

    def check_hello(self, hello: wire.Hello, peer: Peer | None = None) -> Gateway:
        """The gateway behind a HELLO; peer: what its certificate says, if it came with one.

        Raises WireVersion, WireUnknownGateway, WireAuth, WireDraining, and WireMalformed for lanes
        that are not this gateway's: their scans would be refused one by one, and be gone.
        """
        gateway = self._known_gateway(hello, peer)
        strange = sorted(set(hello.lanes) - {0, *gateway.lanes})
        if strange:
            words = ", ".join(map(str, strange[:8]))
            raise WireMalformed(f"the registry does not give this gateway the lanes {words}")
        return gateway

    def _known_gateway(self, hello: wire.Hello, peer: Peer | None) -> Gateway:
        if self.is_draining:
            raise WireDraining("the engine is going down")
        if hello.version != wire.VERSION:
            raise WireVersion(f"this engine speaks version {wire.VERSION}")
        gateway = self.registry.gateway(hello.gateway, self.clock.now_ms())
        if gateway is None:
            raise WireUnknownGateway("this gateway is not in the registry")
        if peer is not None:
            if peer.name != hello.gateway:
                raise WireAuth("the certificate is another gateway's")
            return gateway
        if not gateway.opens(token_to_hash(hello.token or ""), self.clock.now_ms()):
            raise WireAuth("the token does not open this gateway")
        return gateway

    def held(self, gateway: int, lane: int) -> HeldCodes:
        new = HeldCodes(self.settings.held_gap_ms)
        return self._held.setdefault((gateway, lane), new)

    def states(self) -> list[tuple[str, int, bool]]:
        """(name, how long it may hold back scans in ms, whether it is connected) by gateway.

        Questions ask from threads of their own, so what changes meanwhile is copied first.
        """
        names = {self.registry.gateway_name(number) for number in self.journal.epochs()}
        open_since_ms: dict[str, int] = {}
        for link in list(self.links):
            if link.gateway is not None and link.state is not None:
                # Of several links of a gateway the one that is most behind counts.
                at_ms, name = link.state.open_since_ms, link.gateway.name
                other_ms = open_since_ms.get(name, 0)
                open_since_ms[name] = (
                    min(at_ms, other_ms) if at_ms and other_ms else at_ms or other_ms
                )
        return self.gateways.states({name for name in names if name}, open_since_ms)

    # ---- journal ----------------------------------------------------------------------------

    def append(self, state: StreamState, cls: int, seq: int, batch: RecordBatch) -> None:
        state.appending += 1
        self.spawn(self._append(state, cls, seq, batch))

    async def _append(self, state: StreamState, cls: int, seq: int, batch: RecordBatch) -> None:
        failure: Exception | None = None
        # What was taken back before its turn came must not pass over what failed before it.
        is_open = state.stream.windows[cls].is_open(seq)
        try:
            if is_open:
                began_ns = self.clock.monotonic_ns()
                await self.journal.append(batch)
                self.gateways.note_commit(state.name[0], self.clock.monotonic_ns() - began_ns)
        except Exception as error:
            failure = error
        finally:
            state.appending -= 1
        if isinstance(failure, StorageError):
            self._store_failed(failure)
            return
        if failure is not None:
            self.break_off(state, failure)
            return
        if not is_open:
            state.settle(cls, seq)
            return
        faults.reach("ingest.committed")
        if self.is_full:
            _log.info("store takes scans again")
        self.is_full = False
        state.settle(cls, seq)

    def break_off(self, state: StreamState, fault: Exception) -> None:
        """A fault of ours at a message: nothing of its stream that is open gets a receipt, and its
        gateway comes back. Left alone the stream would wait for that message for ever."""
        # Its words may hold anything, so only its class is told.
        name = self.registry.gateway_name(state.name[0])
        _log.error("stream broken off", gateway=name, problem=type(fault).__name__)
        self.streams.take_back_one(state)
        for gateway, lane in [key for key in self._held if key[0] == state.name[0]]:
            del self._held[gateway, lane]  # as when the store fails
        if state.link is not None:
            state.link.fail(WireStoreFull("the engine failed at a message"))

    def _store_failed(self, error: EngineError) -> None:
        """Nothing more is acknowledged: every link ends, every stream goes back to the log."""
        if not self.is_full:  # once, however many wait
            _log.error("store refuses scans", code=error.code)
        self.is_full = True
        self.streams.take_back()
        # A code in view is to be a scan again when its frame comes again (D-5).
        self._held.clear()
        carriers = [state.link for state in self.streams if state.link is not None]
        for link in [*self.links, *carriers]:
            link.fail(WireStoreFull("the store takes no scans now"))

    def _samples(self) -> Iterator[Sample]:
        states = self.states()
        yield "chot_sessions", (), sum(is_connected for _, _, is_connected in states)
        for name, span_ms, is_connected in states:
            yield "chot_gateway_connected", (name,), is_connected
            yield "chot_gateway_behind_seconds", (name,), span_ms / 1000
        expiries_ms = [door.certificate_expires_ms for door in self._doors]
        if found := [expires_ms for expires_ms in expiries_ms if expires_ms is not None]:
            yield "chot_tls_certificate_expires_seconds", (), min(found) / 1000

    def _load_samples(self) -> Iterator[Sample]:
        """What waits of each gateway, how much more it may send, how long the disk took."""
        credits: dict[int, int] = {}
        for link in self.links:
            if link.gateway is not None and link.state is not None:
                # Of several links of a gateway the one that may send least counts.
                window = link.state.stream.windows[DURABLE]
                number, left = link.gateway.number, window.limit - window.received
                credits[number] = min(left, credits.get(number, left))
        frames, depths = 0, {number: [0, 0] for number in credits}
        for state in self.streams:
            if not state.settled.is_set():
                frames += len(state.undecided)
                depth = depths.setdefault(state.name[0], [0, 0])
                depth[0] += state.stream.waiting
                depth[1] += state.stream.bytes_open
        yield "chot_frames_waiting", (), frames
        for number, (messages, size) in depths.items():
            name = (self.registry.gateway_name(number) or "",)
            yield "chot_gateway_open_messages", name, messages
            yield "chot_gateway_open_bytes", name, size
            if number in credits:
                yield "chot_gateway_credit_messages", name, credits[number]
        for number, wait in self.gateways.commits.items():
            name = (self.registry.gateway_name(number) or "",)
            yield "chot_gateway_commits", name, wait.count
            yield "chot_gateway_commit_seconds", name, wait.span_ns / 1e9
