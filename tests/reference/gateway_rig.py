"""What every test of the gateway needs: a spool, a source filled by hand, a scripted server."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from engine.clock import SystemClock
from engine.gateway.config import AnySource, GatewayConfig, RecordConfig, make_sources
from engine.gateway.lights import Light
from engine.gateway.program import Gateway, GatewayStats
from engine.gateway.sources import Picture, Records
from engine.gateway.spool_lmdb import Spool
from engine.identity.keys import make_pair
from engine.identity.seals import open_sealed
from engine.scans.records import encode_scan, encode_scans
from engine.wire import frames as wire
from engine.wire.frames import Codec, seal_aad
from tests.reference.ckp_server import Peer, Server

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


def resumes(acked: int, last: int) -> Callable[[Peer], Awaitable[None]]:
    """Knows numbers up to `acked`, and acknowledges `last` when it has those behind them."""

    async def run(peer: Peer) -> None:
        peer.welcome(acked=(acked, 0))
        await peer.until_scans(last - acked)
        peer.ack(last)

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


# ---- a box with gear ----------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class HttpPeer:
    """A device or browser that asks a box over HTTP, as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, body: bytes, **request: Any) -> tuple[int, str]:
        """(status, text). request: `headers`, `method`, `path` of tests.reference.http_peer."""
        line = {"body_b64": base64.b64encode(body).decode(), **request}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        status, text = json.loads(await self._process.stdout.readline())
        return status, text


@asynccontextmanager
async def open_box(
    rig: Rig, script: Callable[[Peer], Awaitable[None]], sources: Sequence[AnySource], port: int
) -> AsyncIterator[tuple[Peer, HttpPeer]]:
    """A linked gateway with this gear, its engine's end of the link, and who asks it on `port`.

    At the end everything that came is durable.
    """
    async with Server(script) as server:
        config = rig.config(server.port, sources=list(sources))
        gateway = Gateway(config, make_sources(config, SystemClock()), rig.spool())
        task = asyncio.create_task(gateway.run())
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.reference.http_peer", str(port),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        while not server.links:
            await asyncio.sleep(0.01)
        try:
            yield server.links[0], HttpPeer(process)
        finally:
            process.kill()
            await process.wait()
            gateway.stop()
            assert (await task).is_drained


def opened(spool_epoch: int, message: wire.Scans | wire.Event) -> bytes:
    return open_sealed(PRIVATE, message.body, seal_aad(NAME, spool_epoch, message.seq))
