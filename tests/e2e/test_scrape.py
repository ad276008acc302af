"""/metrics: what waits of each gateway, and a scrape of many gateways that holds up no lane.

The engine runs in the test's own process, so that its disk and its turns can be watched.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from engine.app import Engine
from engine.desk.question_socket import Peer
from engine.desk.questions import AskMetrics, MetricsText
from engine.ingest.link import Link
from engine.ingest.streams import StreamState
from engine.registry.registry import Gateway
from engine.settings import Settings
from engine.storage.journal import Receipt, RecordBatch
from engine.wire import frames as wire
from engine.wire.session import Stream
from tests.e2e.rig import WAIT_S, RawLink, enrolment, fresh_person, person_scan, scans

GATEWAYS, EPOCHS = 500, 10  # of each
LANE = "vl-1a-1"


def with_engine(data: Path, work: Callable[[Engine], Awaitable[None]]) -> None:
    async def run() -> None:
        settings = Settings(data=str(data), ingest_port=0)
        async with asyncio.timeout(WAIT_S), Engine(settings) as engine:
            await work(engine)

    asyncio.run(run())


def crowd(engine: Engine) -> list[Link]:
    """Links of many gateways with many epochs, as far as a scrape looks at them."""
    now_ms = engine.clock.now_ms()
    links = []
    for number in range(1, GATEWAYS + 1):
        gateway = Gateway(number=1000 + number, name=f"box-{number}")
        engine.registry.take(gateway)
        for epoch in range(EPOCHS):
            stream = Stream((0, 0), scan_credit=256, frame_credit=32, credit_bytes=1 << 25)
            state = StreamState((gateway.number, epoch), stream)
            engine.ingest.streams._states[state.name] = state
        link = Link(engine.ingest)
        link.gateway, link.state = gateway, state
        links.append(link)
        engine.ingest.gateways.clock(gateway.name).note_pong(now_ms, now_ms, now_ms, now_ms + 1)
        engine.ingest.gateways.note_time(gateway.name, now_ms)
        engine.ingest.gateways.note_commit(gateway.number, 1_000_000)
    return links


def without_times(text: bytes) -> list[str]:
    """Lines of an exposition, but for those that change by themselves or by asking."""
    lines = text.decode().splitlines()
    return [line for line in lines if not re.search(r"chot_(up|gateway_behind|question)", line)]


def test_a_scrape_of_many_gateways_leaves_turns_to_the_lanes(tmp_path: Path) -> None:
    async def work(engine: Engine) -> None:
        links = crowd(engine)
        turns: list[float] = []
        is_over = False

        async def lane() -> None:
            before_s = time.thread_time()
            while not is_over:
                await asyncio.sleep(0)
                now_s = time.thread_time()
                turns.append(now_s - before_s)
                before_s = now_s

        watching = asyncio.create_task(lane())
        await asyncio.sleep(0)
        turns.clear()
        reply = await engine.desk.answer(AskMetrics(), Peer(0, 0))
        is_over = True
        await watching
        assert isinstance(reply, MetricsText)
        whole = engine.metrics.text()
        assert without_times(reply.text) == without_times(whole)
        assert whole.count(b"chot_gateway_credit_messages{") == GATEWAYS
        # Some 25 ms of CPU in all; a pause of the garbage collector may fall into a turn.
        print(f"{sum(turns) * 1000:.1f} ms, {max(turns) * 1000:.1f} ms in one turn")
        assert len(turns) > 30
        assert sorted(turns)[-3] < sum(turns) / 5
        for link in links:
            link.connection_lost(None)
        engine.ingest.streams._states.clear()

    with_engine(tmp_path / "data", work)


def test_what_waits_of_a_gateway_is_shown(tmp_path: Path) -> None:
    async def work(engine: Engine) -> None:
        disk = asyncio.Event()
        append = engine.journal.append

        async def slow(batch: RecordBatch) -> Receipt:
            await disk.wait()
            return await append(batch)

        engine.journal.append = slow  # type: ignore[method-assign]

        def figure(name: str) -> float:
            return engine.metrics.samples().get((f"chot_gateway_{name}", (LANE,)), -1)

        with RawLink(engine.addresses[0].port) as link:
            welcome = await asyncio.to_thread(link.hello, LANE)
            assert isinstance(welcome, wire.Welcome)
            assert (figure("open_messages"), figure("open_bytes")) == (0, 0)
            assert figure("credit_messages") == 256
            sent = [scans(seq, person_scan(fresh_person())) for seq in (1, 2, 3)]
            link.send(*sent)
            while figure("open_messages") < 3:
                await asyncio.sleep(0.01)
            assert figure("open_bytes") == sum(message.size for message in sent)
            assert figure("credit_messages") == 253
            assert figure("commits") == -1
            await asyncio.sleep(0.05)
            assert figure("behind_seconds") > 0.04
            disk.set()
            await asyncio.to_thread(link.settled, 0, 3)
            assert (figure("open_messages"), figure("open_bytes")) == (0, 0)
            assert figure("credit_messages") == 256
            assert figure("commits") == 3
            assert 0.15 < figure("commit_seconds") < WAIT_S

    data = enrolment().copy_to(tmp_path)
    with_engine(data, work)
