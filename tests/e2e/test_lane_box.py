"""A box that decodes by itself and lights its lanes when the engine is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.clock import SystemClock
from engine.decoding.decode_pool import DecodePool
from engine.decoding.held import HeldCodes
from engine.decoding.images import split_mjpeg
from engine.gateway.config import FrameConfig, ReaderConfig, make_sources
from engine.gateway.program import Gateway
from engine.scans.records import ENTRY, LOCAL_VERDICT, decode_scans
from engine.wire import frames as wire
from tests.reference.ckp_server import Peer, Server
from tests.reference.gateway_rig import ROOT, Rig, free_port, go, opened, welcome_all

CLIP = ROOT / "tests/data/lanes/lane1.mjpeg"
CARD = "045190999001||Nguyễn Thị Hồng Ánh|15071990|Nữ|Khóm 4, Vĩnh Linh|01052021".encode()
START_MS = 1_625_097_600_000


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def scans_of(peer: Peer) -> list[tuple[int, int, int, bytes]]:
    """(lane, ts_ms, flags, payload) of every scan that the server got."""
    found = []
    for message in peer.of(wire.Scans):
        body = opened(peer.hello.epoch, message)
        packed, fault = decode_scans(body)
        assert fault == -1
        for e in np.frombuffer(packed, ENTRY):
            payload = body[e["who_off"] :][: e["who_len"]]
            found.append((int(e["lane"]), int(e["time_ms"]), int(e["flags"]), payload))
    return found


def expected_scans(fps: float) -> list[tuple[int, bytes]]:
    """What the engine would make of the clip: its own pool and its own holds."""

    async def run() -> list[tuple[int, bytes]]:
        pool, held = DecodePool(1), HeldCodes()
        found = []
        for n, image in enumerate(split_mjpeg(CLIP.read_bytes())):
            ts_ms = START_MS + round(n * 1_000_000_000 / fps) // 1_000_000
            codes = [code.data for code in await pool.decode(0, 1, image)]
            found += [(ts_ms, payload) for payload in held.new(codes, ts_ms)]
        pool.close()
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("who", ["gateway", "auto"])
def test_a_box_that_decodes_sends_the_same_scans_as_the_engine_would_make(
    rig: Rig, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A loaded machine may decode slower than the clip plays; nothing may give way in this test.
    monkeypatch.setattr("engine.gateway.lane_decoder.WAITING_MAX", 10_000)
    fps = 100.0
    expected = expected_scans(fps)
    assert len(expected) >= 5

    async def script(peer: Peer) -> None:
        await welcome_all(peer, decode="gateway" if who == "auto" else "engine")

    async def test() -> None:
        async with Server(script) as server:
            source = FrameConfig(str(CLIP), fps, START_MS, lane=2)
            config = rig.config(server.port, sources=[source], decode=who)
            gateway = Gateway(config, make_sources(config, SystemClock()), rig.spool())
            stats = await gateway.run()
            (peer,) = server.links
        assert stats.is_drained
        scans = scans_of(peer)
        if who == "gateway":
            assert [(ts, payload) for _, ts, _, payload in scans] == expected
            assert not peer.of(wire.FrameImage)
            assert stats.frames_decoded == stats.frames_captured
        else:  # what was captured before WELCOME went as frames
            assert {(ts, payload) for _, ts, _, payload in scans} <= set(expected)
            assert scans and stats.frames_decoded
        assert {lane for lane, *_ in scans} == {2}

    asyncio.run(asyncio.wait_for(test(), 60))


def test_with_a_silent_engine_the_lane_is_lit_all_the_same(rig: Rig) -> None:
    async def silent(peer: Peer) -> None:
        peer.welcome()
        await peer.until_scans(3)
        verdict = wire.Verdict(verdict="alert", lane=1)
        peer.send(wire.Result(cls=0, seq=1, verdict=verdict))
        peer.send(wire.Nack(cls=0, seq=3, code=12, index=0, text="ahead"))
        peer.ack(3)

    async def test() -> None:
        server = Server(silent)
        port = free_port()
        config = rig.config(server.port, sources=[ReaderConfig(lane=1, port=port)])
        sources = make_sources(config, SystemClock())
        gateway = Gateway(config, sources, rig.spool(), on_light=rig.lights.append)
        task = asyncio.create_task(gateway.run())
        while sources[0].problem == "not open":
            await asyncio.sleep(0.01)
        _, reader = await asyncio.open_connection("127.0.0.1", port)

        async def shown(count: int) -> None:
            while len(rig.lights) < count:
                await asyncio.sleep(0.01)

        reader.write(CARD + b"\r")  # no engine at all: at once, and the record says so
        await shown(1)
        async with server:
            while not server.links or not server.links[0].seqs():
                await asyncio.sleep(0.01)
            (peer,) = server.links
            reader.write(b"hello\r")  # linked and silent: after 80 ms
            await shown(2)
            reader.write(CARD + b"\n")  # silent since: at once
            await shown(5)
            gateway.stop()
            assert (await task).is_drained
        assert [(x.verdict, x.local) for x in rig.lights] == [
            ("accepted", True), ("refused", True), ("seen", True), ("alert", False),
            ("refused", False),
        ]  # fmt: skip
        assert rig.lights[-1].reason == "clock", "what the engine cannot take, it does not keep"
        flags = [flags for _, _, flags, _ in scans_of(peer)]
        assert flags == [LOCAL_VERDICT, 0, LOCAL_VERDICT]

    go(test())


def test_pictures_that_are_none_are_counted(rig: Rig) -> None:
    (rig.path / "lane.mjpeg").write_bytes(b"\xff\xd8\xff\xda\x00\x02\x01\x02\xff\xd9" * 3)

    async def test() -> None:
        async with Server(welcome_all) as server:
            source = FrameConfig(str(rig.path / "lane.mjpeg"), 100)
            config = rig.config(server.port, sources=[source], decode="gateway")
            gateway = Gateway(config, make_sources(config, SystemClock()), rig.spool())
            stats = await gateway.run()
        assert (stats.skipped, stats.frames_decoded, stats.is_drained) == (3, 0, True)

    go(test())


def test_an_error_of_the_decoder_ends_the_gateway(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no fault of a picture is not swallowed."""

    async def broken(*_: Any, **__: Any) -> list[Any]:
        raise MemoryError

    monkeypatch.setattr(DecodePool, "decode", broken)
    (rig.path / "lane.mjpeg").write_bytes(b"\xff\xd8\xff\xda\x00\x02\x01\x02\xff\xd9" * 3)

    async def test() -> None:
        async with Server(welcome_all) as server:
            source = FrameConfig(str(rig.path / "lane.mjpeg"), 100)
            config = rig.config(server.port, sources=[source], decode="gateway")
            gateway = Gateway(config, make_sources(config, SystemClock()), rig.spool())
            with pytest.raises(MemoryError):
                await gateway.run()

    go(test())
