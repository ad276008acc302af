"""The gateway against a scripted server: delivery, resending, ending, configuration."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.clock import ManualClock
from engine.errors import (
    SettingInvalid,
    StorageUnavailable,
)
from engine.gateway import program as gateway_module
from engine.gateway.config import (
    FrameConfig,
    RecordConfig,
    load_config,
    make_sources,
)
from engine.gateway.lights import Light
from engine.gateway.program import DRAIN_LOOK_S, Gateway, run_gateway
from engine.gateway.sources import Picture, Records
from engine.gateway.spool_lmdb import Spool
from engine.scans.records import encode_scan, encode_scans
from engine.wire import frames as wire
from tests.reference.ckp_server import HUGE, Peer, Server
from tests.reference.gateway_rig import (
    NAME,
    PUBLIC,
    ROOT,
    Feed,
    Rig,
    go,
    opened,
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


# ---- the plain way ------------------------------------------------------------------------------


def test_all_is_sent_in_order_sealed_acknowledged_and_then_bye(rig: Rig) -> None:
    async def test() -> None:
        async with Server(welcome_all) as server:
            feed = Feed([records(n) for n in range(1, 41)] + [picture(7), picture(8)]).end()
            stats = await rig.start(server.port, feed)
            (peer,) = server.links
            await peer.until_closed()
        hello = peer.hello
        assert (hello.gateway, hello.token, hello.lanes) == (NAME, "demo-token", [1])
        assert (hello.next[1], hello.oldest) == (1, 1)
        scans = peer.of(wire.Scans)
        assert [m.seq for m in scans] == list(range(1, 41))
        assert all(m.is_sealed and m.channel == 1 for m in scans)
        assert not any(m.flags & wire.FLAG_RESEND for m in scans)
        assert scans[-1].flags & wire.FLAG_BURST_END
        assert [opened(hello.epoch, m) for m in scans] == [records(n).body for n in range(1, 41)]
        images = peer.of(wire.FrameImage)
        assert [(m.seq, m.frame_no, m.ts_ns, m.channel, m.codec) for m in images] == [
            (1, 7, 700_000_000, 1, 1),
            (2, 8, 800_000_000, 1, 1),
        ]
        assert peer.got[-1] == wire.Bye(40)
        assert stats.is_drained
        assert (stats.records_stored, stats.scans_sent, stats.scans_resent) == (40, 40, 0)
        assert (stats.frames_captured, stats.frames_sent, stats.links) == (2, 2, 1)
        assert not stats.errors
        again = rig.path / "spool"
        rig.close()
        assert Spool(again, gateway=NAME, ingest_public=PUBLIC).is_drained

    go(test())


def test_verdicts_reach_the_caller_and_refusals_are_counted(rig: Rig) -> None:
    light = wire.Verdict(verdict="accepted", lane=1, name="Nguyễn V***")

    async def script(peer: Peer) -> None:
        peer.welcome()
        await peer.until_scans(1)
        peer.send(wire.Result(cls=0, seq=1, verdict=light))
        peer.send(wire.Nack(cls=0, seq=1, code=12, index=0, text="wire.clock: ahead"))
        peer.ack(1)

    async def test() -> None:
        async with Server(scripts(script)) as server:
            stats = await rig.start(server.port, Feed([records(1)]).end())
        assert rig.lights == [Light(seq=1, verdict="accepted", lane=1, name="Nguyễn V***")]
        assert stats.verdicts == {"accepted": 1}
        assert stats.nacks == 1
        assert stats.is_drained

    go(test())


# ---- resending ----------------------------------------------------------------------------------


def test_after_a_cut_link_the_rest_comes_again_from_the_watermark(rig: Rig) -> None:
    async def first(peer: Peer) -> None:
        peer.welcome(limit=(6, 0))
        await peer.until_scans(6)
        peer.ack(3, limit=6)
        await asyncio.sleep(0.05)
        peer.abort()

    async def second(peer: Peer) -> None:
        peer.welcome(acked=(4, 0))  # 4 was durable too: its receipt was lost with the link
        await peer.until_scans(6)
        peer.ack(10)

    async def test() -> None:
        async with Server(scripts(first, second)) as server:
            feed = Feed([records(n) for n in range(1, 11)])
            task = rig.start(server.port, feed)
            while len(server.links) < 2:
                await asyncio.sleep(0.01)
            feed.end()
            stats = await task
            one, two = server.links
        assert one.seqs() == [1, 2, 3, 4, 5, 6]
        assert two.seqs() == [5, 6, 7, 8, 9, 10]
        flags = {m.seq: bool(m.flags & wire.FLAG_RESEND) for m in two.of(wire.Scans)}
        assert flags == {5: True, 6: True, 7: False, 8: False, 9: False, 10: False}
        before = {m.seq: m.body for m in one.of(wire.Scans)}
        assert all(m.body == before[m.seq] for m in two.of(wire.Scans) if m.seq in before)
        assert two.hello.epoch == one.hello.epoch
        assert two.hello.inst == one.hello.inst
        assert two.hello.next[0] == 11
        assert two.hello.oldest in (1, 4)  # the spool follows behind the receipts
        assert (stats.links, stats.scans_resent, stats.is_drained) == (2, 2, True)

    go(test())


def test_a_receipt_for_what_was_never_sent_is_not_believed(rig: Rig) -> None:
    """Numbers 3 to 5 wait behind the limit; a copy of the spool may have sent its own."""

    async def first(peer: Peer) -> None:
        peer.welcome(limit=(2, 0))
        await peer.until_scans(2)
        peer.ack(5, limit=2)
        await peer.until_closed()

    async def test() -> None:
        async with Server(scripts(first, welcome_all)) as server:
            feed = Feed([records(n) for n in range(1, 6)]).end()
            stats = await rig.start(server.port, feed)
            one, two = server.links
        assert one.seqs() == [1, 2]
        assert {3, 4, 5} <= set(two.seqs())
        assert stats.errors == {"wire.malformed": 1} and stats.is_drained

    go(test())


def test_frames_in_flight_come_again_with_their_numbers(rig: Rig) -> None:
    async def first(peer: Peer) -> None:
        peer.welcome(limit=(0, 3))
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 3)
        peer.ack(1, cls=1, limit=3)
        await asyncio.sleep(0.05)
        peer.abort()

    async def second(peer: Peer) -> None:
        peer.welcome(acked=(0, 1))
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 4)
        peer.ack(5, cls=1)

    async def test() -> None:
        async with Server(scripts(first, second)) as server:
            feed = Feed([picture(n) for n in range(1, 6)]).end()
            stats = await rig.start(server.port, feed)
            one, two = server.links
        assert [(m.seq, m.frame_no) for m in one.of(wire.FrameImage)] == [(1, 1), (2, 2), (3, 3)]
        assert [(m.seq, m.frame_no, m.flags) for m in two.of(wire.FrameImage)] == [
            (2, 2, 3),
            (3, 3, 3),
            (4, 4, 1),
            (5, 5, 1),
        ]
        assert (stats.frames_resent, stats.frames_dropped, stats.is_drained) == (2, 0, True)

    go(test())


def test_an_engine_that_forgot_empty_frames_still_gets_the_rest(rig: Rig) -> None:
    """Frames that showed nothing leave no trace in the log: after a restart the engine's watermark,
    and with it the limit, is behind ours."""

    async def first(peer: Peer) -> None:
        peer.welcome(limit=(0, 10))
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 10)
        peer.ack(8, cls=1, limit=10)
        await asyncio.sleep(0.05)
        peer.abort()

    async def second(peer: Peer) -> None:
        peer.welcome(acked=(0, 0), limit=(0, 5))
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 4)
        peer.ack(4, cls=1)

    async def test() -> None:
        async with Server(scripts(first, second)) as server:
            feed = Feed([picture(n) for n in range(1, 13)]).end()
            stats = await rig.start(server.port, feed)
            assert stats.is_drained
            two = server.links[1]
        assert [(m.seq, m.frame_no) for m in two.of(wire.FrameImage)] == [
            (1, 9),
            (2, 10),
            (3, 11),
            (4, 12),
        ]

    go(test())


CHILD = """
import asyncio, sys
from pathlib import Path
from engine.gateway.program import run_gateway
from engine.gateway.config import load_config
from engine.gateway.spool_lmdb import Spool
if sys.argv[2] == "stop-after-commit":
    commit = Spool.append
    def append(spool, drafts):
        seqs = commit(spool, drafts)
        print(seqs[-1], flush=True)
        if seqs[-1] >= 12:
            sys.stdin.read()  # killed here: committed, not sent
        return seqs
    Spool.append = append
stats = asyncio.run(run_gateway(load_config(Path(sys.argv[1]))))
print("drained", stats.is_drained, stats.scans_resent, flush=True)
"""


def test_killed_between_commit_and_send_the_next_process_sends_it(rig: Rig) -> None:
    """Rule 7: what was committed keeps (gateway, epoch, seq) and its sealed bytes for ever."""
    lines = [{"kind": "scan", "ts_ms": n, "payload": f"p{n}"} for n in range(12 * 64)]
    records_file = rig.path / "records.jsonl"
    records_file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    async def spawn(port: int, mode: str) -> asyncio.subprocess.Process:
        (rig.path / "gateway.toml").write_text(
            f'name = "{NAME}"\ntoken = "t"\ningest_public = "{PUBLIC.hex()}"\n'
            f'url = "tcp://127.0.0.1:{port}"\n'
            f'spool = "{rig.path / "spool"}"\n'
            f'[[sources]]\nkind = "records"\npath = "{records_file}"\n'
        )
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, str(rig.path / "gateway.toml"), mode,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip

    async def first(peer: Peer) -> None:
        # The link sends what is committed, whoever committed it: the last one is beyond its credit.
        peer.welcome(limit=(11, HUGE))
        await peer.until_closed()  # no receipt at all

    async def second(peer: Peer) -> None:
        peer.welcome()
        await peer.until_closed()

    async def test() -> None:
        async with Server(scripts(first, second)) as server:
            child = await spawn(server.port, "stop-after-commit")
            assert child.stdout is not None
            while int(await child.stdout.readline()) < 12:
                pass
            os.kill(child.pid, signal.SIGKILL)
            await child.wait()
            seen = {m.seq: m.body for peer in server.links for m in peer.of(wire.Scans)}
            assert 12 not in seen

            records_file.write_text("")  # nothing new: the rest can only come from the spool
            child = await spawn(server.port, "plain")
            peer = None
            while peer is None or len(peer.of(wire.Scans)) < 12:
                await asyncio.sleep(0.02)
                peer = server.links[-1] if len(server.links) > 1 else None
            os.kill(child.pid, signal.SIGKILL)
            await child.wait()
            await peer.until_closed()
        assert peer.seqs() == list(range(1, 13))
        assert all(m.flags & wire.FLAG_RESEND for m in peer.of(wire.Scans))
        assert peer.hello.epoch == server.links[0].hello.epoch
        assert peer.hello.inst != server.links[0].hello.inst
        assert peer.hello.next[0] == 13
        bodies = {m.seq: m.body for m in peer.of(wire.Scans)}
        assert {seq: bodies[seq] for seq in seen} == seen

        async with Server(welcome_all) as server:
            child = await spawn(server.port, "plain")
            out, _ = await child.communicate()
            last = server.links[0]
        assert out.split() == [b"drained", b"True", b"12"]
        assert {m.seq: m.body for m in last.of(wire.Scans)} == bodies
        found = [opened(last.hello.epoch, m) for m in last.of(wire.Scans)]
        expected = [encode_scan(n, 1, b"p%d" % n) for n in range(12 * 64)]
        assert found == [encode_scans(expected[i : i + 64]) for i in range(0, 12 * 64, 64)]

    go(test())


# ---- ending -------------------------------------------------------------------------------------


def test_without_receipts_it_ends_after_the_drain_timeout_and_says_bye(rig: Rig) -> None:
    async def script(peer: Peer) -> None:
        peer.welcome()
        await peer.until_closed()

    async def test() -> None:
        async with Server(scripts(script)) as server:
            spool = rig.spool()
            feed = Feed([records(1), records(2)]).end()
            stats = await rig.start(server.port, feed, spool, drain_timeout_s=0.3)
            await server.links[0].until_closed()
        assert server.links[0].got[-1] == wire.Bye(2)
        assert not stats.is_drained
        assert (spool.current.acked, spool.current.next_seq) == (0, 3)

    go(test())


def test_without_an_engine_it_ends_after_the_drain_timeout(rig: Rig) -> None:
    async def test() -> None:
        spool = rig.spool()
        feed = Feed([records(1)]).end()
        with socket.socket() as bound:  # not listening: connections are refused
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            stats = await rig.start(port, feed, spool, drain_timeout_s=0.2)
        assert not stats.is_drained
        assert stats.records_stored == 1
        assert spool.current.next_seq == 2

    go(test())


def test_stopped_it_takes_nothing_more_and_drains(rig: Rig) -> None:
    async def test() -> None:
        async with Server(welcome_all) as server:
            feed = Feed([records(n) for n in range(5)])  # never ends by itself
            task = rig.start(server.port, feed)
            while not server.links or len(server.links[0].of(wire.Scans)) < 5:
                await asyncio.sleep(0.01)
            rig.gateway.stop()
            feed.put(records(6))
            stats = await task
            assert server.links[0].got[-1] == wire.Bye(5)
        assert stats.is_drained
        assert stats.records_stored == 5

    go(test())


def test_stopped_without_an_engine_and_with_nothing_to_send_it_ends_at_once(rig: Rig) -> None:
    async def test() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            task = rig.start(unused.getsockname()[1], Feed(), drain_timeout_s=300)
            while not rig.slept:
                await asyncio.sleep(0.01)
            rig.gateway.stop()
            assert (await task).is_drained

    go(test())


def test_stopped_without_an_engine_what_waits_is_on_disk_and_is_not_waited_for(rig: Rig) -> None:
    """A restart in an outage must not cost a lane the whole drain timeout."""

    async def test() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            spool = rig.spool()
            task = rig.start(
                unused.getsockname()[1], Feed([records(1)]), spool, drain_timeout_s=300
            )
            while not rig.slept:
                await asyncio.sleep(0.01)
            rig.gateway.stop()
            stats = await task
        assert not stats.is_drained and stats.records_stored == 1
        assert spool.current.waiting == 1

    go(test())


def test_stopped_without_an_engine_frames_in_memory_are_waited_for(rig: Rig) -> None:
    async def test() -> None:
        async with contextlib.AsyncExitStack() as exits:
            server = Server(welcome_all)
            task = rig.start(server.port, Feed([picture(1)]), drain_timeout_s=300)
            while not rig.gateway.status().frames_waiting:
                await asyncio.sleep(0.01)
            rig.gateway.stop()
            await asyncio.sleep(2 * DRAIN_LOOK_S)
            assert not task.done()
            await exits.enter_async_context(server)
            assert (await task).is_drained

    go(test())


def test_a_source_that_fails_ends_the_gateway_with_its_error(rig: Rig) -> None:
    class Broken(Feed):
        async def items(self) -> AsyncIterator[Picture | Records]:
            yield records(1)
            raise SettingInvalid("cannot read clip")

    async def test() -> None:
        async with Server(welcome_all) as server:
            with pytest.raises(SettingInvalid, match="cannot read clip"):
                await rig.start(server.port, Broken())

    go(test())


def test_a_source_that_stalls_holds_up_no_other_lane(rig: Rig) -> None:
    """CP-3: three lanes are one box, and each has its own task and its own rate."""
    stalled, busy = Feed(), Feed()
    for n in range(20):
        busy.put(replace(picture(n), lane=2), replace(records(n), lane=3))
    busy.end()

    async def test() -> None:
        async with Server(welcome_all) as server:
            spool = rig.spool()
            gateway = Gateway(rig.config(server.port), [stalled, busy], spool)
            task = asyncio.create_task(gateway.run())
            (peer,) = await until_linked(server)
            await peer.until(lambda: len(peer.of(wire.FrameImage)) == 20)
            await peer.until_scans(20)
            assert {m.channel for m in peer.of(wire.FrameImage)} == {2}
            assert {m.channel for m in peer.of(wire.Scans)} == {3}
            stalled.put(picture(1))
            await peer.until(lambda: peer.of(wire.FrameImage)[-1].channel == 1)
            assert not task.done()
            stalled.end()
            assert (await task).is_drained

    go(test())


async def until_linked(server: Server) -> list[Peer]:
    while not server.links:
        await asyncio.sleep(0.01)
    return server.links


def test_a_disk_that_refuses_for_a_while_loses_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = {"append": 2, "ack": 2}

    def flaky(name: str) -> Callable[..., Any]:
        real = getattr(Spool, name)

        def change(spool: Spool, *arguments: Any) -> Any:
            if failures[name]:
                failures[name] -= 1
                raise StorageUnavailable("the disk is full")
            return real(spool, *arguments)

        return change

    monkeypatch.setattr(Spool, "append", flaky("append"))
    monkeypatch.setattr(Spool, "ack", flaky("ack"))

    async def test() -> None:
        async with Server(welcome_all) as server:
            stats = await rig.start(server.port, Feed([records(n) for n in range(9)]).end())
            assert server.links[0].seqs() == list(range(1, 10))
        assert stats.errors == {"storage.unavailable": 4}
        assert rig.slept == [gateway_module.STORE_RETRY_S] * 4
        assert stats.is_drained

    go(test())


def test_of_a_recording_no_more_is_read_than_the_engine_takes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "BACKLOG_MAX", 10)
    feed = Feed([records(n) for n in range(200)], is_live=False).end()

    async def script(peer: Peer) -> None:
        peer.welcome()
        await peer.until_scans(10)
        await peer.until_quiet()
        assert feed.taken <= 10 + gateway_module.DRAFTS_MAX + 1
        seq = peer.seqs()[-1]
        while seq < 200:
            peer.ack(seq)
            await peer.until(lambda n=seq: peer.seqs()[-1] > n)
            seq = peer.seqs()[-1]
        peer.ack(200)

    async def test() -> None:
        async with Server(scripts(script)) as server:
            stats = await rig.start(server.port, feed)
        assert stats.is_drained
        assert stats.records_stored == 200

    go(test())


# ---- configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["10.0.0.1", "0.0.0.0", "engine.example.vn"])
@pytest.mark.parametrize("scheme", ["tcp", "ws"])
def test_a_plain_carrier_goes_nowhere_else(rig: Rig, scheme: str, host: str) -> None:
    with pytest.raises(SettingInvalid, match="loopback"):
        Gateway(rig.config(7401, url=f"{scheme}://{host}:7401"), [Feed()], rig.spool())


def test_a_whole_run_from_a_file(rig: Rig) -> None:
    image = b"\xff\xd8\xff\xda\x00\x02\x01\x02\xff\xd9"
    (rig.path / "lane.mjpeg").write_bytes(image * 3)

    async def test() -> None:
        async with Server(welcome_all) as server:
            (rig.path / "gateway.toml").write_text(
                f'name = "{NAME}"\ntoken = "t"\ningest_public = "{PUBLIC.hex()}"\n'
                f'url = "tcp://127.0.0.1:{server.port}"\n'
                f'spool = "{rig.path / "spool"}"\n[[sources]]\n'
                f'kind = "frames"\nlane = 3\npath = "{rig.path / "lane.mjpeg"}"\n'
                "fps = 50\nstart_ms = 1000\n"
            )
            config = load_config(rig.path / "gateway.toml")
            assert config.sources == [FrameConfig(str(rig.path / "lane.mjpeg"), 50, 1000, lane=3)]
            stats = await run_gateway(config)
            (peer,) = server.links
        assert stats.is_drained
        assert [(m.ts_ns, m.channel, m.image) for m in peer.of(wire.FrameImage)] == [
            (1000_000_000 + n * 20_000_000, 3, image) for n in range(3)
        ]
        assert peer.hello.lanes == [3]

    go(test())


def test_lanes_are_those_of_the_sources_and_standard_input_is_one(rig: Rig) -> None:
    sources = [FrameConfig("-", lane=n) for n in (3, 1)] + [RecordConfig("x", lane=0)]
    config = rig.config(7401, sources=sources)
    assert config.lanes == [1, 3]
    with pytest.raises(SettingInvalid, match="standard input"):
        make_sources(config, ManualClock())


def test_stop_event_of_a_whole_run(rig: Rig) -> None:
    (rig.path / "lane.mjpeg").write_bytes(b"\xff\xd8\xff\xda\x00\x02\x01\x02\xff\xd9" * 1000)

    async def test() -> None:
        stop = asyncio.Event()
        async with Server(welcome_all) as server:
            source = FrameConfig(str(rig.path / "lane.mjpeg"), 20)
            config = rig.config(server.port, sources=[source])
            task = asyncio.create_task(run_gateway(config, stop=stop))
            while not server.links or not server.links[0].of(wire.FrameImage):
                await asyncio.sleep(0.01)
            stop.set()
            stats = await task
        assert stats.is_drained
        assert 1 <= stats.frames_captured < 100
        Spool(config.spool, gateway=NAME, ingest_public=PUBLIC).close()

    go(test())


GOOD = 'name="g"\ntoken="t"\nspool="s"\n[[sources]]\nkind="records"\npath="-"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD, "ingest_public"),
        (f'ingest_public="{"zz" * 32}"\n' + GOOD, "ingest_public"),
        (f'ingest_public="{"00" * 32}"\nurl=0\n' + GOOD, "url"),
        (f'ingest_public="{"00" * 32}"\nprot=7401\n' + GOOD, "prot"),
        (f'ingest_public="{"00" * 32}"\n' + GOOD.replace("records", "radio"), "radio"),
        ("name = ", "gateway.toml"),
        ("\udcff", "gateway.toml"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingInvalid, match=problem):
        load_config(path)
    with pytest.raises(SettingInvalid, match="cannot read"):
        load_config(tmp_path / "absent.toml")
