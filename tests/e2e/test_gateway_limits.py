"""The gateway against a scripted server: credit, frames under pressure, holes in the spool."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.gateway import uplink
from engine.gateway.frame_buffer import FrameFlight, FrameQueue
from engine.gateway.sources import Records
from engine.gateway.spool_epoch import Draft
from engine.scans.records import encode_scan, encode_scans
from engine.wire import frames as wire
from tests.reference.ckp_server import Peer, Server
from tests.reference.gateway_rig import (
    Feed,
    Rig,
    go,
    picture,
    records,
    scripts,
    welcome_all,
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


# ---- credit -------------------------------------------------------------------------------------


def test_never_beyond_the_highest_number_and_a_lower_grant_changes_nothing(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        peer.welcome(limit=(3, 2))
        await peer.until_scans(3)
        await peer.until_quiet()
        assert peer.seqs() == [1, 2, 3]
        assert len(peer.of(wire.FrameImage)) == 2
        peer.send(wire.Credit(cls=0, seq=0, limit=5, byte_limit=0))
        await peer.until_scans(5)
        peer.send(wire.Credit(cls=0, seq=0, limit=4, byte_limit=0))  # late: limits never fall
        peer.ack(1, limit=1, byte_limit=1)
        await peer.until_quiet()
        assert peer.seqs() == [1, 2, 3, 4, 5]
        peer.send(wire.Credit(cls=1, seq=0, limit=3, byte_limit=0))
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 3)
        await peer.until_quiet()
        assert peer.seqs() == [1, 2, 3, 4, 5]
        peer.ack(5)
        await peer.until_scans(8)
        peer.ack(8)
        peer.ack(3, cls=1)
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 4)
        peer.ack(4, cls=1)

    async def test() -> None:
        async with Server(scripts(script)) as server:
            feed = Feed([records(n) for n in range(8)] + [picture(n) for n in range(4)]).end()
            stats = await rig.start(server.port, feed)
        assert stats.is_drained
        assert stats.scans_sent == 8

    go(test())


def test_never_beyond_the_bytes_of_a_class(rig: Rig) -> None:
    """Header and body count, from WELCOME on, each class for itself."""
    size = len(records(1).body) + 61 + 16  # a seal of version 2, and the header
    image_size = 16 + 24 + 100

    async def script(peer: Peer) -> None:
        peer.welcome(byte_limit=(3 * size - 1, 2 * image_size))
        await peer.until_scans(2)
        await peer.until_quiet()
        assert [m.size for m in peer.of(wire.Scans)] == [size, size]
        assert [m.size for m in peer.of(wire.FrameImage)] == [image_size] * 2
        peer.send(wire.Credit(cls=0, seq=0, limit=0, byte_limit=3 * size))
        await peer.until_scans(3)
        await peer.until_quiet()
        assert peer.seqs() == [1, 2, 3]
        peer.abort()

    async def second(peer: Peer) -> None:
        peer.welcome(byte_limit=(3 * size, 3 * image_size))  # a new link counts from zero
        await peer.until_scans(3)
        await peer.until_quiet()
        assert peer.seqs() == [1, 2, 3]
        peer.ack(3)
        await peer.until_scans(5)
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 3)
        peer.ack(5)
        peer.ack(3, cls=1)

    async def test() -> None:
        async with Server(scripts(script, second)) as server:
            feed = Feed([records(1) for _ in range(5)] + [picture(n) for n in range(3)]).end()
            stats = await rig.start(server.port, feed)
        assert stats.is_drained

    go(test())


def test_a_backlog_does_not_starve_the_lane(rig: Rig) -> None:
    async def test() -> None:
        spool = rig.spool()
        draft = Draft(wire.FrameType.SCANS, 0, 1, records(1).body)
        spool.append([draft] * uplink.LIVE_WAIT_MAX)
        async with Server(welcome_all) as server:
            feed = Feed([picture(n) for n in range(3)]).end()
            stats = await rig.start(server.port, feed, spool)
            (peer,) = server.links
        assert stats.is_drained
        at = [i for i, m in enumerate(peer.got) if isinstance(m, wire.FrameImage)]
        assert max(at) < 3 * (uplink.BURST + 1)

    go(test())


# ---- frames under pressure ----------------------------------------------------------------------


def test_under_pressure_the_oldest_frames_give_way_and_no_record_does(rig: Rig) -> None:
    opened_gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        peer.welcome(limit=(0, 0))
        await opened_gate.wait()
        peer.send(wire.Credit(cls=0, seq=0, limit=999, byte_limit=0))
        peer.send(wire.Credit(cls=1, seq=0, limit=999, byte_limit=0))
        await peer.until_scans(30)
        peer.ack(30)
        await peer.until_quiet()
        assert len(peer.of(wire.FrameImage)) == 6, "half of the room is for new frames"
        peer.ack(6, cls=1)
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 10)
        peer.ack(10, cls=1)

    async def test() -> None:
        async with Server(scripts(script)) as server:
            feed = Feed([picture(n, 10_000) for n in range(30)] + [records(n) for n in range(30)])
            task = rig.start(server.port, feed, frames_size_max=100_000)
            while feed.taken < 60:
                await asyncio.sleep(0.01)
            opened_gate.set()
            feed.end()
            stats = await task
            (peer,) = server.links
        assert [m.frame_no for m in peer.of(wire.FrameImage)] == list(range(20, 30))
        assert [m.seq for m in peer.of(wire.FrameImage)] == list(range(1, 11))
        assert (stats.frames_captured, stats.frames_dropped) == (30, 20)
        assert len(peer.of(wire.Scans)) == 30
        assert stats.is_drained

    go(test())


def test_frames_in_flight_leave_room_for_new_ones() -> None:
    queue = FrameQueue(1000)
    frames = FrameFlight(queue)
    for n in range(10):
        queue.capture(picture(n))
    sent = []
    while (found := frames.peek()) is not None:
        sent.append(found[0])
        frames.mark_sent()
    assert sent == [1, 2, 3, 4, 5, 6], "half of the room and the frame that crosses it"
    assert frames.peek() is None
    for n in range(10, 20):
        queue.capture(picture(n))
    assert queue.dropped == 10
    frames.ack(6)
    found = frames.peek()
    assert found is not None
    assert (found[0], found[1].frame_no, found[2]) == (7, 16, False)
    assert frames.peek(with_new=False) is None, "a backlog's link takes no new ones"
    assert (len(queue), len(frames)) == (4, 0)


def test_frames_older_than_ten_minutes_give_way() -> None:
    frames = FrameQueue(1_000_000)
    frames.capture(picture(0))
    frames.capture(picture(1))
    frames.capture(picture(6001))  # 600.1 s after the first, 600.0 after the second
    assert frames.dropped == 1


def test_a_camera_faster_than_wanted_is_thinned(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        peer.welcome(fps=5)
        await peer.until_scans(1)
        feed.put(*[picture(n) for n in range(20)])  # ten a second
        feed.end()
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 10)
        peer.ack(1)
        peer.ack(10, cls=1)

    feed = Feed([records(1)])

    async def test() -> None:
        async with Server(scripts(script)) as server:
            stats = await rig.start(server.port, feed)
            (peer,) = server.links
        assert [m.frame_no for m in peer.of(wire.FrameImage)] == list(range(0, 20, 2))
        assert (stats.frames_thinned, stats.is_drained) == (10, True)

    go(test())


def test_a_frame_larger_than_the_engine_takes_is_given_up(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        peer.welcome(max_frame=1000)
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 2)
        peer.ack(2, cls=1)

    async def test() -> None:
        async with Server(scripts(script)) as server:
            feed = Feed([picture(1, 976), picture(2, 977), picture(3, 10)]).end()
            stats = await rig.start(server.port, feed)
            (peer,) = server.links
        assert [m.frame_no for m in peer.of(wire.FrameImage)] == [1, 3]
        assert stats.frames_dropped == 1

    go(test())


# ---- holes --------------------------------------------------------------------------------------


def test_a_spool_that_overflowed_offline_says_lost_first(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        peer.welcome(limit=(8, 0))
        seq = 0
        while seq < 200:  # new records come and old ones give way meanwhile
            await peer.until(lambda n=seq: peer.got[-1:] and peer.got[-1].seq > n)  # type: ignore[misc, union-attr]
            seq = peer.got[-1].seq  # type: ignore[union-attr]
            peer.ack(seq, limit=seq + 8)

    async def test() -> None:
        spool = rig.spool(size_max=65_536)
        body = encode_scans([encode_scan(1, 1, bytes(1000))])
        drafts = [Draft(wire.FrameType.SCANS, 0, 1, body)] * 62
        spool.append(drafts)
        lost = spool.lost_count
        assert 0 < lost < 62
        async with Server(scripts(script)) as server:
            feed = Feed([Records(body, 1, 1)] * 138).end()
            stats = await rig.start(server.port, feed, spool)
            (peer,) = server.links
        assert stats.is_drained
        assert peer.of(wire.Lost)[0].first == 1
        # Every number came exactly once, as a scan or inside a range of LOST, and in order.
        at = 0
        for message in peer.got:
            if isinstance(message, wire.Lost):
                assert (message.first, message.reason) == (at + 1, "overflow")
                at = message.seq
            elif isinstance(message, wire.Scans):
                assert message.seq == at + 1
                at = message.seq
        assert at == 200
        assert stats.lost_sent + len(peer.of(wire.Scans)) == 200
        assert stats.lost_sent >= lost

    go(test())


def test_lost_keeps_within_the_limit_too(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        peer.welcome(limit=(2, 0))
        await peer.until(lambda: len(peer.of(wire.Lost)) == 1)
        await peer.until_quiet()
        assert peer.of(wire.Lost) == [wire.Lost(seq=2, first=1, reason="overflow")]
        peer.ack(2, limit=4)
        await peer.until(lambda: len(peer.of(wire.Lost)) == 2)
        await peer.until_quiet()
        assert peer.of(wire.Lost)[1] == wire.Lost(seq=4, first=3, reason="overflow")
        peer.ack(4, limit=100)
        await peer.until_scans(1)
        peer.ack(peer.seqs()[-1])

    async def test() -> None:
        spool = rig.spool(size_max=4 * (1000 + 64), sealer=lambda key, text, aad: text)
        spool.append([Draft(wire.FrameType.SCANS, 0, 1, bytes(1000))] * 9)
        async with Server(scripts(script)) as server:
            stats = await rig.start(server.port, Feed().end(), spool)
            (peer,) = server.links
        assert peer.of(wire.Lost)[2] == wire.Lost(seq=5, first=5, reason="overflow")
        assert peer.seqs() == [6, 7, 8, 9]
        assert stats.lost_sent == 5

    go(test())


@pytest.mark.parametrize("is_kept", [True, False])
def test_an_engine_behind_its_own_receipts_gets_what_is_kept_or_is_told(
    rig: Rig, is_kept: bool
) -> None:
    async def script(peer: Peer) -> None:
        peer.welcome(acked=(2, 0))  # it had acknowledged 5 before its disk was restored
        await peer.until_scans(5 if is_kept else 2)
        peer.ack(7)

    async def test() -> None:
        spool = rig.spool(keep_s=3600 if is_kept else 0)
        spool.append([Draft(wire.FrameType.SCANS, 0, 1, b"x")] * 7)
        bodies = [record.body for record in spool.current.read(0)]
        spool.ack(spool.current, 5)
        spool.forget()
        async with Server(scripts(script)) as server:
            stats = await rig.start(server.port, Feed().end(), spool)
            (peer,) = server.links
        if is_kept:
            assert peer.seqs() == [3, 4, 5, 6, 7]
            assert [m.body for m in peer.of(wire.Scans)] == bodies[2:]
            assert all(m.flags & wire.FLAG_RESEND for m in peer.of(wire.Scans)[:3])
        else:
            assert peer.got[0] == wire.Lost(seq=5, first=3, reason="forgotten")
            assert peer.seqs() == [6, 7]
        assert stats.is_drained

    go(test())


def test_a_record_larger_than_the_engine_takes_becomes_lost(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        peer.welcome(max_frame=500)
        await peer.until_scans(2)
        peer.ack(3)

    async def test() -> None:
        async with Server(scripts(script)) as server:
            big = Records(encode_scans([encode_scan(1, 1, bytes(1000))]), 1, 1)
            stats = await rig.start(server.port, Feed([records(1), big, records(3)]).end())
            (peer,) = server.links
        assert [type(m).__name__ for m in peer.got[:3]] == ["Scans", "Lost", "Scans"]
        assert peer.of(wire.Lost) == [wire.Lost(seq=2, first=2, reason="too_large")]
        assert stats.errors == {"wire.too_large": 1}
        assert stats.is_drained

    go(test())
