"""What every test of the gateway needs: a spool, a source filled by hand, a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from engine import wire
from engine.gateway.config import (
    GatewayConfig,
    RecordConfig,
)
from engine.gateway.lights import Light
from engine.gateway.program import Gateway, GatewayStats
from engine.gateway.sources import Picture, Records
from engine.gateway.spool_lmdb import Spool
from engine.keys import make_pair, open_sealed
from engine.records import encode_scan, encode_scans
from engine.wire import Codec, seal_aad
from tests.reference.ckp_server import Peer

PRIVATE, PUBLIC = make_pair()
ROOT = Path(__file__).resolve().parents[2]
NAME = "VL-1A-1"


def records(n: int) -> Records:
    return Records(encode_scans([encode_scan(n, 1, b"payload %d" % n)]), 1, 1)


def picture(n: int, size: int = 100) -> Picture:
    return Picture(Codec.JPEG, bytes([n % 256]) * size, n * 100_000_000, n, 1)


class Feed:
    """A source that a test fills by hand."""

    def __init__(self, items: list[Picture | Records] = [], *, is_live: bool = True) -> None:  # noqa: B006
        self.kind, self.lane, self.problem, self.fps_max = "feed", 1, "", 0.0
        self.is_live = is_live
        self.skipped = 0
        self.taken = 0
        self._queue: asyncio.Queue[Picture | Records | None] = asyncio.Queue()
        self.put(*items)

    def put(self, *items: Picture | Records) -> None:
        for item in items:
            self._queue.put_nowait(item)

    def end(self) -> Feed:
        self._queue.put_nowait(None)
        return self

    async def items(self) -> AsyncGenerator[Picture | Records]:
        while (item := await self._queue.get()) is not None:
            self.taken += 1
            yield item


class Rig:
    """A spool, a gateway on it and what it slept, under one temporary folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lights: list[Light] = []
        self.slept: list[float] = []
        self.gateway: Gateway
        self._spools: list[Spool] = []

    def config(self, port: int, **changes: Any) -> GatewayConfig:
        config = GatewayConfig(
            name=NAME,
            token="demo-token",
            ingest_public=PUBLIC.hex(),
            spool=str(self.path / "spool"),
            sources=[RecordConfig("-")],
            url=f"tcp://127.0.0.1:{port}",
            drain_timeout_s=5,
        )
        return msgspec.structs.replace(config, **changes)

    def spool(self, **options: Any) -> Spool:
        spool = Spool(self.path / "spool", gateway=NAME, ingest_public=PUBLIC, **options)
        self._spools.append(spool)
        return spool

    def start(
        self,
        port: int,
        feed: Feed,
        spool: Spool | None = None,
        *,
        resend: bool = False,
        **changes: Any,
    ) -> asyncio.Task[GatewayStats]:
        async def sleep(span_s: float) -> None:
            self.slept.append(span_s)
            await asyncio.sleep(0.01)

        self.gateway = Gateway(
            self.config(port, **changes),
            [feed],
            spool or self.spool(),
            on_light=self.lights.append,
            resend=resend,
            random=Random(1),
            sleep=sleep,
        )
        return asyncio.create_task(self.gateway.run())

    def close(self) -> None:
        for spool in self._spools:
            spool.close()


def go(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(bounded())


def scripts(*each: Callable[[Peer], Awaitable[None]]) -> Callable[[Peer], Awaitable[None]]:
    """The first link runs the first script, and so on; more links than scripts is a failure."""
    left = list(each)

    async def run(peer: Peer) -> None:
        assert left, "a link too many"
        await left.pop(0)(peer)

    return run


async def welcome_all(peer: Peer, **options: Any) -> None:
    """Acknowledges everything at once."""
    peer.welcome(**options)
    done = 0
    while not peer.is_closed:
        await peer.until(lambda n=done: len(peer.got) > n or peer.is_closed)  # type: ignore[misc]
        for message in peer.got[done:]:
            done += 1
            if isinstance(message, wire.Scans | wire.Event | wire.Lost):
                peer.ack(message.seq)
            elif isinstance(message, wire.FrameImage):
                peer.ack(message.seq, cls=1)


def opened(spool_epoch: int, message: wire.Scans) -> bytes:
    return open_sealed(PRIVATE, message.body, seal_aad(NAME, spool_epoch, message.seq))
