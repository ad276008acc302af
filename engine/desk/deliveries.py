"""Deliveries: records that come one message at a time over HTTP, on the streams of CKP/1.

For back ends and gear that speak no CKP/1. A delivery is one SCANS message: it has its place in a
(gateway, epoch), is taken in order and once, and is answered when it is durable: the answer is the
receipt. The same number again gets the same answer and is stored once. docs/api.md has the rules.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from engine.desk.questions import Deliver, Delivered, DeliveryFault
from engine.errors import (
    EngineError,
    KeyReused,
    WireAuth,
    WireDraining,
    WireMalformed,
    WireReplaced,
    WireStoreFull,
    WireUnknownGateway,
)
from engine.ingest.judge import light
from engine.ingest.pipeline import Origin, Outcome
from engine.ingest.server import IngestServer
from engine.ingest.streams import StreamState
from engine.registry.access import token_to_hash
from engine.registry.registry import Gateway
from engine.scans.records import decode_scans, newest_ms
from engine.storage.group import Group
from engine.wire.frames import Verdict
from engine.wire.session import DURABLE

ANSWERS_KEPT: Final = 4096  # so that a repeat gets the very same; later it is judged anew
RECORDS_KEPT: Final = 65_536  # of those answers, refused ones and those with a light
GROUPS_KEPT: Final = 256  # of the log, from which answers are told anew after a restart

_Key = tuple[int, int, int]  # gateway, epoch, seq


class PastLights:
    """What lanes were shown before a restart, told anew from the last groups of the log."""

    def __init__(self) -> None:
        # (n, flags, sighting) of the rows of each, as it came: after a backlog they are millions,
        # of which hardly any is ever asked for.
        self._shown: OrderedDict[_Key, list[np.ndarray]] = OrderedDict()

    def note(self, group: Group, sightings: np.ndarray) -> None:
        """sightings: what engine.scans.dedup answered for each row of the group."""
        rows_shown = np.stack([group.rows["n"], group.rows["flags"], sightings], 1).astype("<u2")
        at = 0
        for run in group.runs:
            rows = slice(at, at := at + int(run["rows"]))
            if run["cls"] != DURABLE:
                continue
            key = (int(run["gateway"]), int(run["epoch"]), int(run["last"]))
            self._shown.setdefault(key, []).append(rows_shown[rows].copy())
            if len(self._shown) > ANSWERS_KEPT:
                self._shown.popitem(last=False)

    def put_back(self, key: _Key, verdicts: Iterable[Verdict]) -> list[Verdict]:
        """Verdicts that were judged anew, as they were the first time where that is known."""
        known = {
            n: light(flags, sighting)
            for part in self._shown.get(key, [])
            for n, flags, sighting in part.tolist()
        }
        return [
            msgspec.structs.replace(v, verdict=known[v.n][0], reason=known[v.n][1])
            if v.verdict != "refused" and v.n in known
            else v
            for v in verdicts
        ]


class Door:
    """What carries a stream while deliveries of it are under way; the link of
    engine.ingest.streams."""

    def __init__(self) -> None:
        self.state: StreamState | None = None
        self.order = asyncio.Lock()  # taken and handed to the journal one after the other
        self.guests = 0
        self._waiting: dict[asyncio.Future[None], int] = {}

    def fail(self, error: EngineError) -> None:
        """The store refused, or a link took the stream over: nobody gets a receipt."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    def acknowledge(self, cls: int) -> None:
        assert self.state is not None
        acked = self.state.stream.windows[DURABLE].acked
        for future, seq in list(self._waiting.items()):
            if seq <= acked:
                del self._waiting[future]
                if not future.done():
                    future.set_result(None)

    async def durable(self, seq: int) -> None:
        """Returns when the number is durable. Raises what stands against that."""
        assert self.state is not None
        if self.state.link is not self:
            raise WireReplaced("a link of this gateway and epoch took over")
        if self.state.stream.windows[DURABLE].acked >= seq:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = seq
        try:
            await future
        finally:
            self._waiting.pop(future, None)


class Deliveries:
    """One instance an engine; used from its event loop."""

    def __init__(self, server: IngestServer, past: PastLights) -> None:
        self._server = server
        self._past = past
        self._doors: dict[tuple[int, int], Door] = {}
        # (digest of the body, answer) of what was taken lately.
        self._answers: OrderedDict[_Key, tuple[bytes, Delivered]] = OrderedDict()
        self._records = 0  # in those answers

    async def take(self, delivery: Deliver) -> Delivered:
        """The answer, once everything in it is durable.

        Raises WireUnknownGateway, WireAuth, WireDraining, WireGap, WireOverCredit, WireReplaced,
        KeyReused, and StorageError or WireStoreFull when nothing was stored.
        """
        gateway = self._enrolled(delivery)
        # What is begun is ended, whether its API still lives or not: a number that was taken and
        # never reached the journal would hold up all that come after it.
        return await asyncio.shield(self._server.spawn(self._carry(gateway, delivery)))

    async def _carry(self, gateway: Gateway, delivery: Deliver) -> Delivered:
        name = (gateway.number, delivery.epoch)
        door = self._doors.setdefault(name, Door())
        door.guests += 1
        try:
            async with door.order:
                if door.state is None or door.state.link is not door:
                    streams = self._server.streams
                    door.state = await streams.open(door, gateway.number, delivery.epoch)
                answer = await self._take(door.state, gateway, delivery)
            await door.durable(delivery.seq)
        finally:
            door.guests -= 1
            if not door.guests:
                del self._doors[name]
                if door.state is not None and door.state.link is door:
                    door.state.link = None
            self._server.gateways.note_end(gateway.name)
        return answer

    def _enrolled(self, delivery: Deliver) -> Gateway:
        server = self._server
        if server.is_draining:
            raise WireDraining("the engine is going down")
        gateway = server.registry.gateway(delivery.gateway, server.clock.now_ms())
        if gateway is None:
            raise WireUnknownGateway("this gateway is not in the registry")
        if not gateway.opens(token_to_hash(delivery.token), server.clock.now_ms()):
            raise WireAuth("the token does not open this gateway")
        return gateway

    async def _take(self, state: StreamState, gateway: Gateway, delivery: Deliver) -> Delivered:
        """Judges it and hands it to the journal, or finds the answer it had."""
        key = (gateway.number, delivery.epoch, delivery.seq)
        digest = hashlib.sha256(delivery.body).digest()
        window = state.stream.windows[DURABLE]
        is_new = window.take(delivery.seq, len(delivery.body))
        if not is_new:
            self._server.metrics.count("chot_resends_dropped")
            known, answer = self._answers.get(key, (digest, None))
            if known != digest:
                raise KeyReused("another body was taken under this key")
            if answer is not None:
                return msgspec.structs.replace(answer, is_repeat=True)
        else:
            state.note_open(DURABLE, delivery.seq, self._server.gateways.monotonic_ms())
        try:
            outcome = await self._judge(gateway, delivery, is_repeat=not is_new)
        except Exception as error:
            if is_new:
                self._server.break_off(state, error)
            raise
        if not is_new:
            outcome.verdicts = self._past.put_back(key, outcome.verdicts)
        answer = _outcome_to_answer(outcome, not is_new)
        if is_new:
            if not window.is_open(delivery.seq):
                raise WireStoreFull("the store takes no scans now")
            assert outcome.batch is not None
            self._server.append(state, DURABLE, delivery.seq, outcome.batch)
        self._keep(key, digest, answer)
        return answer

    def _keep(self, key: _Key, digest: bytes, answer: Delivered) -> None:
        if key in self._answers:  # what the store refused comes again
            self._records -= _size(self._answers.pop(key)[1])
        self._answers[key] = digest, answer
        self._records += _size(answer)
        while len(self._answers) > ANSWERS_KEPT or self._records > RECORDS_KEPT:
            _, (_, oldest) = self._answers.popitem(last=False)
            self._records -= _size(oldest)

    async def _judge(self, gateway: Gateway, delivery: Deliver, *, is_repeat: bool) -> Outcome:
        """In steps, so that lanes get their turn between them (CP-3)."""
        server = self._server
        packed, fault = decode_scans(delivery.body)
        if packed:
            server.gateways.note_time(gateway.name, newest_ms(packed))
        post = server.registry.post(gateway.post) if gateway.post else None
        origin = Origin(
            gateway.number, delivery.epoch, DURABLE, delivery.seq, delivery.seq,
            post.number if post else 0, tuple(gateway.lanes), is_repeat=is_repeat,
        )  # fmt: skip
        for step in server.pipeline.record_steps(origin, packed, delivery.body, fault):
            if isinstance(step, Outcome):
                return step
            if step:
                await server.pool.prepare(step)
            await asyncio.sleep(0)
        raise WireMalformed("the message has no end")


def _outcome_to_answer(outcome: Outcome, is_repeat: bool) -> Delivered:
    faults = [DeliveryFault(f.n, f.error.code, str(f.error)) for f in outcome.faults]
    return Delivered(tuple(outcome.verdicts), tuple(faults), is_repeat)


def _size(answer: Delivered) -> int:
    """Records that it speaks of."""
    return len(answer.verdicts) + len(answer.faults)
