"""The gateway against a scripted server: links that fail, and time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from engine.clock import ManualClock
from engine.gateway import uplink
from engine.gateway.program import Gateway, GatewayStats
from engine.gateway.spool_epoch import Draft
from engine.wire import frames as wire
from tests.reference.ckp_server import Peer, Server
from tests.reference.gateway_rig import (
    Feed,
    Rig,
    go,
    picture,
    records,
    resumes,
    scripts,
    welcome_all,
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


# ---- links that end -----------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1, 2, 8])
@pytest.mark.parametrize("when", ["instead of WELCOME", "in the session"])
def test_an_engine_that_turns_a_box_away_stops_no_lane(rig: Rig, code: int, when: str) -> None:
    """A slip at the centre must not leave a post without capture until somebody drives there."""

    async def no(peer: Peer) -> None:
        if when == "in the session":
            peer.welcome()
            await peer.until_scans(1)
        peer.send(wire.Error(code=code, text="why"))
        peer.close()

    async def test() -> None:
        async with Server(scripts(no, no, welcome_all)) as server:
            spool = rig.spool()
            feed = Feed([records(1)])
            task = rig.start(server.port, feed, spool)
            while len(rig.slept) < 1:
                await asyncio.sleep(0.001)
            assert rig.gateway.stats.turned_away == wire.error_from_code(code, "").code
            feed.put(records(2))
            while len(server.links) < 3 or spool.current.acked < 2:
                await asyncio.sleep(0.01)
            stats = await feed_ended(feed, task)
        assert server.links[2].seqs() == [1, 2]
        assert stats.is_drained and stats.turned_away == ""
        assert stats.errors == {wire.error_from_code(code, "").code: 2}

    go(test())
    assert all(span_s > 10 * uplink.BACKOFF_FIRST_S for span_s in rig.slept), "it asks slowly"


@pytest.mark.parametrize("is_recording", [False, True], ids=["sources ended", "a recording"])
def test_turned_away_with_nobody_at_a_lane_it_ends(rig: Rig, is_recording: bool) -> None:

    async def no(peer: Peer) -> None:
        peer.send(wire.Error(code=2, text="why"))
        peer.close()

    async def test() -> None:
        feed = Feed([records(1)], is_live=not is_recording)
        if not is_recording:
            feed.end()
        async with Server(no) as server:
            spool = rig.spool()
            stats = await rig.start(server.port, feed, spool, drain_timeout_s=300)
        assert stats.turned_away == "wire.auth" and not stats.is_drained
        assert (spool.current.acked, spool.current.next_seq) == (0, 2)

    go(test())


@pytest.mark.parametrize("when", ["instead of WELCOME", "in the session"])
def test_a_rival_with_our_epoch_gets_no_new_numbers(rig: Rig, when: str) -> None:
    """Rule 7: somebody else sends under our identity, so a copy of the spool is at work. What we
    hold is the same as his and is sent as it is; what comes gets a new epoch."""

    async def first(peer: Peer) -> None:
        if when == "in the session":
            peer.welcome()
            await peer.until_scans(2)
        peer.send(wire.Error(code=3, text="a newer link took over"))
        peer.close()

    async def later(peer: Peer) -> None:
        await welcome_all(peer)

    async def test() -> None:
        async with Server(scripts(first, later, later)) as server:
            spool = rig.spool()
            feed = Feed([records(1), records(2)])
            task = rig.start(server.port, feed, spool)
            while len(server.links) < 3:
                await asyncio.sleep(0.01)
            feed.put(records(3))
            stats = await feed_ended(feed, task)
        assert stats.is_drained
        assert stats.errors == {"wire.replaced": 1}
        old, new = server.links[0].hello.epoch, spool.current.number
        assert old != new
        sent = {link.hello.epoch: link.seqs() for link in server.links[1:]}
        assert sent == {old: [1, 2], new: [1]}

    go(test())
    # It comes back slowly: with copies of one identity, one of the two has to get through.
    assert rig.slept and rig.slept[0] <= uplink.BACKOFF_FIRST_S * 2**uplink.RIVAL_FAILURES


async def feed_ended(feed: Feed, task: asyncio.Task[GatewayStats]) -> GatewayStats:
    feed.end()
    return await task


@pytest.mark.parametrize("how", ["error 9", "acked"])
def test_an_epoch_of_which_the_engine_has_more_is_left_and_doubts_are_told(
    rig: Rig, how: str
) -> None:
    """A spool that was put back together with all that could have shown it: the engine is the
    only witness. The numbers we gave may have been somebody else's; the centre hears of them."""

    async def first(peer: Peer) -> None:
        if how == "acked":
            peer.welcome(acked=(9, 0))
            await peer.until_closed()
        else:
            peer.send(wire.Error(code=9, text="received before"))
            peer.close()

    async def test() -> None:
        async with Server(scripts(first, welcome_all, welcome_all)) as server:
            spool = rig.spool()
            spool.append([Draft(wire.FrameType.SCANS, 0, 1, b"x")] * 3)  # by this process
            feed = Feed()
            task = rig.start(server.port, feed, spool)
            while len(server.links) < 2 or len(spool.epochs) < 2:
                await asyncio.sleep(0.01)
            feed.put(records(4))
            while not any(peer.of(wire.Scans) for peer in server.links):
                await asyncio.sleep(0.01)
            stats = await feed_ended(feed, task)
        assert stats.is_drained
        old = server.links[0]
        assert old.of(wire.Scans) == [], "nothing goes out under numbers that are used"
        (new,) = [peer for peer in server.links if peer.hello.epoch != old.hello.epoch]
        assert new.of(wire.Lost) == [wire.Lost(seq=3, first=1, reason="copied")]
        assert new.seqs() == [4]

    go(test())


def test_a_copy_whose_original_went_on_is_done_when_the_engine_has_all(rig: Rig) -> None:
    async def test() -> None:
        spool = rig.spool()
        spool.append([Draft(wire.FrameType.SCANS, 0, 1, b"x")] * 3)
        old = spool.current
        spool.retire(old)

        async def of_epoch(peer: Peer) -> None:
            if peer.hello.epoch == old.number:
                assert peer.hello.next[0] == 4
                peer.send(wire.Error(code=9, text="received before"))
                peer.close()
            else:
                await welcome_all(peer)

        async with Server(of_epoch) as server:
            stats = await rig.start(server.port, Feed([records(4)]).end(), spool)
        assert stats.is_drained
        assert stats.lost_sent == 0, "it numbered nothing itself"
        (seqs,) = [peer.seqs() for peer in server.links if peer.hello.epoch != old.number]
        assert seqs == [1]
        assert len(server.links) == 2, "once is enough"

    go(test())


# ---- several epochs -----------------------------------------------------------------------------


def test_live_scans_do_not_wait_behind_a_backlog(rig: Rig) -> None:
    """Rule 6: with more than LIVE_WAIT_MAX waiting at WELCOME, what comes goes another way; the
    verdicts of the backlog are not shown to whoever stands in the lane now."""
    light = wire.Verdict(verdict="accepted", lane=1)

    async def script(peer: Peer) -> None:
        if not of_backlog:
            of_backlog.append(peer)
            peer.welcome(limit=(0, 0))
            await live_done.wait()
            peer.send(wire.Credit(cls=0, seq=0, limit=999, byte_limit=1 << 40))
            await peer.until_scans(100)
            peer.send(wire.Result(cls=0, seq=1, verdict=light))
            peer.ack(100)
            await peer.until(lambda: bool(peer.of(wire.Bye)))
            feed.end()
            return
        peer.welcome()
        await peer.until_scans(1)
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 1)
        assert of_backlog[0].seqs() == []
        peer.send(wire.Result(cls=0, seq=1, verdict=light))
        peer.ack(1, cls=1)
        peer.ack(1)
        live_done.set()

    of_backlog: list[Peer] = []
    live_done = asyncio.Event()
    feed = Feed()

    async def test() -> None:
        async with Server(script) as server:
            spool = rig.spool()
            spool.append([Draft(wire.FrameType.SCANS, 0, 1, records(1).body)] * 100)
            old = spool.current
            task = rig.start(server.port, feed, spool)
            while spool.current is old:
                await asyncio.sleep(0.01)
            feed.put(records(1), picture(1))
            stats = await task
        assert stats.is_drained
        assert len(server.links) == 2
        assert [light.seq for light in rig.lights if not light.late] == [1]
        assert len(rig.lights) == 2, "a verdict of the backlog is no lamp's any more"
        assert stats.verdicts == {"accepted": 2}

    go(test())


def test_a_lost_engine_is_asked_in_every_epoch(rig: Rig) -> None:
    """An engine that comes back without what it acknowledged in one epoch is asked about the
    others; so it is when `resend` says so. What is kept goes out under its old identity."""

    async def test() -> None:
        spool = rig.spool()
        first = spool.current
        spool.append([Draft(wire.FrameType.SCANS, 0, 1, b"x")] * 3)
        spool.turn()
        second = spool.current
        spool.append([Draft(wire.FrameType.SCANS, 0, 1, b"y")] * 2)
        spool.ack(first, 3)
        spool.ack(second, 2)
        assert spool.is_drained

        async def has_all(peer: Peer) -> None:
            peer.welcome(acked=(3 if peer.hello.epoch == first.number else 2, 0))
            await peer.until_closed()

        async with Server(has_all) as server:
            assert (await rig.start(server.port, Feed().end(), spool)).is_drained
            assert len(server.links) == 1, "as a rule a drained epoch needs no link"
            stats = await rig.start(server.port, Feed().end(), spool, resend=True)
            assert len(server.links) == 3
            assert (stats.scans_sent, stats.is_drained) == (0, True)
        async with Server(welcome_all) as server:
            stats = await rig.start(server.port, Feed().end(), spool)
            sent = {peer.hello.epoch: peer.seqs() for peer in server.links}
        assert sent == {first.number: [1, 2, 3], second.number: [1, 2]}
        assert (stats.scans_resent, stats.is_drained) == (5, True)

    go(test())


# ---- links that end -----------------------------------------------------------------------------


@pytest.mark.parametrize("code", [4, 5, 6, 7, 10, 11, 12, 999])
def test_other_errors_end_the_link_and_the_next_resumes(rig: Rig, code: int) -> None:
    """Among them a gap (4): WELCOME says where to go on."""

    async def first(peer: Peer) -> None:
        peer.welcome()
        await peer.until_scans(4)
        peer.send(wire.Error(code=code, text="no", seq=3))
        peer.close()

    async def test() -> None:
        async with Server(scripts(first, resumes(2, 4))) as server:
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
        assert spool.current.acked == 1

    go(test())


def test_a_welcome_that_cannot_be_lived_with(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        peer.welcome(version=2)
        await peer.until_closed()

    async def test() -> None:
        async with Server(script) as server:
            stats = await rig.start(server.port, Feed([records(1)]).end())
            assert all(peer.got == [] for peer in server.links)
        assert stats.turned_away == "wire.version" and not stats.is_drained

    go(test())


def test_goaway_waits_for_receipts_and_tries_the_alternate(rig: Rig) -> None:
    async def test() -> None:
        async with Server(resumes(2, 4)) as other:

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


def test_an_outage_of_hours_is_a_few_lines_of_the_log(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    exits = contextlib.AsyncExitStack()
    feed = Feed([records(1)])
    tries = 0

    async def sleep(span_s: float) -> None:
        nonlocal tries
        tries += 1
        clock.advance(round(span_s * 1000))
        if tries == 450:  # 3.7 hours
            await exits.enter_async_context(server)
        await asyncio.sleep(0)

    async def first(peer: Peer) -> None:
        peer.welcome()
        await peer.until_scans(1)
        peer.close()

    server = Server(scripts(first, welcome_all))

    async def test() -> None:
        async with exits:
            gateway = Gateway(
                rig.config(server.port),
                [feed],
                rig.spool(),
                clock=clock,
                random=Ceiling(),
                sleep=sleep,
            )
            task = asyncio.create_task(gateway.run())
            while len(server.links) < 2:
                await asyncio.sleep(0.01)
            stats = await feed_ended(feed, task)
        assert stats.is_drained
        assert stats.errors == {"engine.unreachable": 451}, "each try is counted"

    go(test())
    told = [r.message.split()[0] for r in caplog.records if r.message.startswith("link_")]
    assert told == ["link_failed"] * 4 + ["link_ended"], "each hour; and a link that stood"


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
