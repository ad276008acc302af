"""The gateway against a scripted server: links that fail, and time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine import wire
from engine.clock import ManualClock
from engine.errors import (
    WireAuth,
    WireEpochUsed,
    WireReplaced,
    WireUnknownGateway,
    WireVersion,
)
from engine.gateway import Gateway
from tests.reference.ckp_server import Peer, Server
from tests.reference.gateway_rig import (
    Feed,
    Rig,
    go,
    records,
    scripts,
    welcome_all,
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


# ---- links that end -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, WireVersion),
        (2, WireAuth),
        (3, WireReplaced),
        (8, WireUnknownGateway),
        (9, WireEpochUsed),
    ],
)
@pytest.mark.parametrize("when", ["instead of WELCOME", "in the session"])
def test_what_trying_again_cannot_mend_ends_the_gateway(
    rig: Rig, code: int, kind: type[Exception], when: str
) -> None:
    async def script(peer: Peer) -> None:
        if when == "in the session":
            peer.welcome()
            await peer.until_scans(1)
        peer.send(wire.Error(code=code, text="why"))
        peer.close()

    async def test() -> None:
        async with Server(scripts(script)) as server:
            spool = rig.spool()
            with pytest.raises(kind, match="why"):
                await rig.start(server.port, Feed([records(1)]), spool)
        assert spool.acked == 0

    go(test())
    assert rig.slept == []


def test_replaced_by_a_newer_link_it_does_not_fight(rig: Rig) -> None:
    """Two gateways with copies of one identity: the older one ends instead of coming back."""

    async def older(peer: Peer) -> None:
        peer.welcome(limit=(0, 0))
        while len(peers) < 2:
            await asyncio.sleep(0.01)
        peer.send(wire.Error(code=3, text="a newer link took over"))
        peer.close()

    async def newer(peer: Peer) -> None:
        await welcome_all(peer)

    async def test() -> None:
        async with Server(scripts(older, newer)) as server:
            peers_list = server.links
            first = rig.start(server.port, Feed([records(1)]))
            while not peers_list:
                await asyncio.sleep(0.01)
            peers.append(peers_list[0])
            other = Rig(rig.path / "other")
            second = other.start(server.port, Feed([records(1)]).end())
            assert (await second).is_drained
            peers.append(peers_list[1])
            with pytest.raises(WireReplaced):
                await first
            other.close()
            assert len(server.links) == 2

    peers: list[Peer] = []
    go(test())


@pytest.mark.parametrize("code", [4, 5, 6, 7, 10, 11, 12, 999])
def test_other_errors_end_the_link_and_the_next_resumes(rig: Rig, code: int) -> None:
    """Among them a gap (4): WELCOME says where to go on."""

    async def first(peer: Peer) -> None:
        peer.welcome()
        await peer.until_scans(4)
        peer.send(wire.Error(code=code, text="no", seq=3))
        peer.close()

    async def second(peer: Peer) -> None:
        peer.welcome(acked=(2, 0))
        await peer.until_scans(2)
        peer.ack(4)

    async def test() -> None:
        async with Server(scripts(first, second)) as server:
            stats = await rig.start(server.port, Feed([records(n) for n in range(4)]).end())
            assert server.links[1].seqs() == [3, 4]
        assert stats.is_drained
        assert sum(stats.errors.values()) == 1

    go(test())


def half_a_frame(peer: Peer) -> None:
    peer.send_bytes(wire.encode(wire.Ack(cls=0, seq=1, limit=9, byte_limit=9))[:20])
    peer.close()


def garbage(peer: Peer) -> None:
    peer.send_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def a_lie_about_length(peer: Peer) -> None:
    peer.send_bytes(b"\x88\x00\x00\x00\xff\xff\xff\xff" + bytes(8))


def a_receipt_for_the_future(peer: Peer) -> None:
    peer.ack(2)


def the_wrong_direction(peer: Peer) -> None:
    peer.send(wire.Bye(1))


def a_second_welcome(peer: Peer) -> None:
    peer.welcome()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (half_a_frame, "engine.unreachable"),
        (garbage, "wire.malformed"),
        (a_lie_about_length, "wire.too_large"),
        (a_receipt_for_the_future, "wire.malformed"),
        (the_wrong_direction, "wire.malformed"),
        (a_second_welcome, "wire.malformed"),
    ],
)
@pytest.mark.parametrize("is_welcomed", [True, False])
def test_a_server_that_talks_nonsense_costs_a_link_and_no_record(
    rig: Rig, fault: Callable[[Peer], None], code: str, is_welcomed: bool
) -> None:
    if fault is a_second_welcome and not is_welcomed:
        return

    async def first(peer: Peer) -> None:
        if is_welcomed:
            peer.welcome()
            await peer.until_scans(1)
        fault(peer)

    async def test() -> None:
        async with Server(scripts(first, welcome_all)) as server:
            spool = rig.spool()
            stats = await rig.start(server.port, Feed([records(1)]).end(), spool)
            assert server.links[1].seqs() == [1]
        code_seen = "wire.malformed" if fault is a_receipt_for_the_future else code
        assert stats.errors == {code_seen: 1}
        assert stats.is_drained
        assert spool.acked == 1

    go(test())


@pytest.mark.parametrize(
    ("change", "error"),
    [({"version": 2}, WireVersion), ({"acked": (1, 0)}, WireEpochUsed)],
    ids=["version", "spool older than the engine"],
)
def test_a_welcome_that_cannot_be_lived_with(
    rig: Rig, change: dict[str, Any], error: type[Exception]
) -> None:
    """An old copy of a spool: its next numbers are used up at the engine, so nothing may go out
    under them. The spool keeps what it holds."""

    async def script(peer: Peer) -> None:
        peer.welcome(**change)
        await peer.until_closed()

    async def test() -> None:
        async with Server(scripts(script)) as server:
            with pytest.raises(error):
                await rig.start(server.port, Feed())
            assert server.links[0].got == []

    go(test())


def test_goaway_waits_for_receipts_and_tries_the_alternate(rig: Rig) -> None:
    async def test() -> None:
        async with Server(welcome_all) as other:

            async def first(peer: Peer) -> None:
                peer.welcome(limit=(2, 0))
                await peer.until_scans(2)
                alternates = ["192.0.2.1:7401", f"127.0.0.1:{other.port}", "nonsense"]
                peer.send(wire.Goaway(code=10, retry_ms=700, alternates=alternates))
                peer.send(wire.Credit(cls=0, seq=0, limit=99, byte_limit=0))
                await peer.until_quiet()
                assert peer.seqs() == [1, 2], "nothing new after GOAWAY"
                peer.ack(2)
                await asyncio.sleep(0.05)
                peer.close()

            async with Server(scripts(first)) as server:
                feed = Feed([records(n) for n in range(4)]).end()
                stats = await rig.start(server.port, feed)
                assert len(server.links) == 1
            assert other.links[0].seqs() == [3, 4], "1 and 2 were durable before the close"
        assert stats.is_drained
        assert 0.7 <= rig.slept[0] <= 0.7 + 0.2
        assert not stats.errors

    go(test())


# ---- time ---------------------------------------------------------------------------------------


class Ceiling(Random):
    """The highest that jitter can give."""

    def uniform(self, a: float, b: float) -> float:
        assert a == 0, "full jitter begins at nothing"
        return b


def test_reconnecting_doubles_up_to_thirty_seconds_and_begins_anew_after_progress(
    rig: Rig,
) -> None:
    slept: list[float] = []

    async def sleep(span_s: float) -> None:
        slept.append(round(span_s, 3))
        if len(slept) == 11:
            await exits.enter_async_context(server)
        await asyncio.sleep(0)

    async def first(peer: Peer) -> None:
        peer.welcome()
        await peer.until_scans(1)
        peer.ack(1)
        await asyncio.sleep(0.05)
        peer.close()

    async def second(peer: Peer) -> None:
        peer.welcome(acked=(1, 0))
        feed.end()

    feed = Feed([records(1)])
    exits = contextlib.AsyncExitStack()
    server = Server(scripts(first, second))

    async def test() -> None:
        async with exits:
            gateway = Gateway(
                rig.config(server.port), [feed], rig.spool(), random=Ceiling(), sleep=sleep
            )
            stats = await gateway.run()
        assert slept == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30, 0.2]
        assert stats.errors == {"engine.unreachable": 12}
        assert stats.is_drained

    go(test())


def test_heartbeats_both_ways_and_a_silent_engine_is_dead(rig: Rig) -> None:
    async def silent(peer: Peer) -> None:
        peer.welcome(hb_s=0.2)
        peer.send(wire.Ping(1234))
        await peer.until_closed()

    async def alive(peer: Peer) -> None:
        peer.welcome(hb_s=0.2)
        seen = 0
        while seen < 5:  # longer than it takes to be declared dead
            await peer.until(lambda n=seen: len(peer.of(wire.Ping)) > n)
            seen += 1
            peer.send(wire.Pong(t0=peer.of(wire.Ping)[-1].t0, t1=1, t2=1))
        feed.end()

    feed = Feed()

    async def test() -> None:
        async with Server(scripts(silent, alive)) as server:
            stats = await rig.start(server.port, feed)
            one = server.links[0]
        assert 1 <= len(one.of(wire.Ping)) <= 4
        (pong,) = one.of(wire.Pong)
        assert pong.t0 == 1234
        assert pong.t1 <= pong.t2
        assert stats.links == 2
        assert stats.errors == {"engine.unreachable": 1}

    go(test())


def test_the_clocks_of_both_are_compared(rig: Rig) -> None:
    clock = ManualClock(1_625_097_600_000)

    async def script(peer: Peer) -> None:
        clock.advance(40)  # the way takes 40 ms, and the engine is 5 s ahead
        t1 = (clock.now_ms() - 20 + 5000) * 1_000_000
        peer.send(
            wire.Welcome(
                sid=bytes(16), acked=(0, 0), limit=(9, 9), byte_limit=(9, 9), max_frame=99,
                t1=t1, t2=t1,
            )
        )  # fmt: skip

    async def test() -> None:
        async with Server(scripts(script)) as server:
            gateway = Gateway(rig.config(server.port), [Feed().end()], rig.spool(), clock=clock)
            stats = await gateway.run()
            assert server.links[0].hello.t0 == 1_625_097_600_000 * 1_000_000
        assert stats.clock_offset_ms == pytest.approx(5000)

    go(test())
