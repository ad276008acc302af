"""What was taken goes its way and leaves nothing behind, whoever leaves meanwhile.

The engine runs in the test's own process, so that the moment in which somebody leaves is exact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest

from engine.api.server import run_api
from engine.app import Engine
from engine.client import admin
from engine.desk.deliveries import Deliveries
from engine.desk.questions import Deliver
from engine.errors import WireEpochUsed, WireMalformed
from engine.identity.keys import DESK_DIR
from engine.ingest.link import LINKS_MAX, TURN_MESSAGES, Link
from engine.ingest.pipeline import STEP_PLAIN
from engine.scans.records import Credential, encode_checkin, encode_scans
from engine.scans.rows import Direction
from engine.settings import Settings
from engine.storage.journal import Receipt, RecordBatch
from engine.wire import frames as wire
from tests.e2e.rig import BACK_END, WAIT_S, enrolment, fresh_person, hello

MARKET = 1013
PINGS = 65_536
EPOCH = 11


def with_engine(data: Path, work: Callable[[Engine], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(WAIT_S), Engine(Settings(data=str(data), ingest_port=0)) as one:
            await work(one)

    asyncio.run(run())


def delivery(engine: Engine, seq: int, count: int) -> Deliver:
    now_ms = engine.clock.now_ms()
    records = [
        encode_checkin(now_ms, Direction.IN, Credential("cccd", fresh_person().cccd), MARKET)
        for _ in range(count)
    ]
    token = enrolment().gateway_token(BACK_END)
    return Deliver(token=token, gateway=BACK_END, epoch=EPOCH, seq=seq, body=encode_scans(records))


def slow_disk(engine: Engine) -> asyncio.Event:
    """Nothing becomes durable until it is set."""
    disk = asyncio.Event()
    append = engine.journal.append

    async def slow(batch: RecordBatch) -> Receipt:
        await disk.wait()
        return await append(batch)

    engine.journal.append = slow  # type: ignore[method-assign]
    return disk


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0)


def test_a_delivery_that_nobody_waits_for_any_more_is_stored(tmp_path: Path) -> None:
    """The API died in the middle of one: its number must not stay open for ever."""

    async def work(engine: Engine) -> None:
        take = Deliveries(engine.ingest, engine.past_lights).take
        first, second = delivery(engine, 1, 4 * STEP_PLAIN), delivery(engine, 2, 1)
        asked = asyncio.create_task(take(first))
        await until(lambda: any(not s.settled.is_set() for s in engine.ingest.streams))
        (state,) = engine.ingest.streams
        assert not state.appending, "it is still being judged"
        asked.cancel()
        await asyncio.wait([asked])
        again = await take(first)
        assert (again.is_repeat, len(again.faults)) == (True, 0)
        assert not (await take(second)).is_repeat
        assert engine.journal.counters.rows == 4 * STEP_PLAIN + 1

    with_engine(enrolment().copy_to(tmp_path), work)


@pytest.mark.parametrize(
    ("changes", "tail", "error"),
    [({"next": (0, 1)}, b"", WireEpochUsed), ({}, b"C", WireMalformed)],
)
def test_a_link_that_is_refused_late_does_not_keep_its_stream(
    tmp_path: Path, changes: dict[str, tuple[int, int]], tail: bytes, error: type[WireMalformed]
) -> None:
    """Otherwise whoever has a token could fill the memory with streams that are never idle."""

    async def work(engine: Engine) -> None:
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", engine.addresses[0].port)
            writer.write(wire.encode(hello(BACK_END, **changes)) + tail)
            (answer,) = wire.FrameReader().feed(await reader.read())
            assert isinstance(answer, wire.Error) and answer.code == error.wire
            writer.close()
        await until(lambda: not engine.ingest.links)
        states = list(engine.ingest.streams)
        assert [state.link for state in states] == [None] * 5

    with_engine(enrolment().copy_to(tmp_path), work)


def test_an_engine_whose_index_stands_still_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stopped it: answers would be silently short."""

    async def work(engine: Engine) -> None:
        def broken(group: object) -> None:
            raise IndexError("a fault of the program")

        monkeypatch.setattr(engine.index, "apply", broken)
        await Deliveries(engine.ingest, engine.past_lights).take(delivery(engine, 1, 1))
        await engine.failed.wait()

    with_engine(enrolment().copy_to(tmp_path), work)


class Wire:
    """A carrier that takes everything."""

    def __init__(self) -> None:
        self.pongs = 0

    def write(self, data: bytes) -> None:
        self.pongs += data[:16] == wire.encode(wire.Pong(t0=1, t1=0, t2=0))[:16]

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


def test_a_message_full_of_small_frames_is_taken_apart_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A WebSocket's message may hold a quarter of a million of them, and lanes wait (CP-3)."""
    most = 0
    feed = wire.FrameReader.feed

    def counting(reader: wire.FrameReader, data: bytes) -> list[wire.Message]:
        nonlocal most
        found = feed(reader, data)
        most = max(most, len(found))
        return found

    async def work(engine: Engine) -> None:
        link, carrier = Link(engine.ingest), Wire()
        link.enter(carrier, None)
        link.message_received(wire.encode(hello(BACK_END)))
        await until(lambda: link.has_session)
        monkeypatch.setattr(wire.FrameReader, "feed", counting)
        link.message_received(wire.encode(wire.Ping(1)) * PINGS)
        assert carrier.pongs <= TURN_MESSAGES
        await until(lambda: carrier.pongs == PINGS)
        assert 0 < most <= 1024
        link.message_received(wire.encode(wire.Ping(1))[:-1])  # ends within a frame
        link.message_received(wire.encode(wire.Ping(1)))
        assert carrier.pongs == PINGS, "a link at fault takes no more"
        link.connection_lost(None)

    with_engine(enrolment().copy_to(tmp_path), work)


def test_a_time_from_the_future_does_not_hide_a_dead_camera(tmp_path: Path) -> None:
    async def work(engine: Engine) -> None:
        take = Deliveries(engine.ingest, engine.past_lights).take
        honest = delivery(engine, 1, 1)
        await take(honest)
        far = encode_checkin(1 << 62, Direction.IN, Credential("cccd", fresh_person().cccd), MARKET)
        await take(msgspec.structs.replace(honest, seq=2, body=encode_scans([far])))
        (newest_s,) = [
            value
            for name, labels, value in engine.ingest.gateways.samples()
            if (name, labels) == ("chot_gateway_newest_scan_seconds", (BACK_END,))
        ]
        assert newest_s * 1000 <= engine.clock.now_ms()

    with_engine(enrolment().copy_to(tmp_path), work)


def test_deliveries_that_wait_for_the_disk_do_not_hold_up_questions(tmp_path: Path) -> None:
    """A back end may have a worker an epoch; a tracer is answered from memory all the same."""
    workers = 70  # more than the engine answers at once on one connection

    async def work(engine: Engine) -> None:
        disk = slow_disk(engine)
        data, stop = Path(engine.settings.data), asyncio.Event()
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        api = asyncio.create_task(
            run_api(
                host="127.0.0.1", port=0, socket_path=data / admin.SOCKET_NAME,
                desk_path=data / "keys" / DESK_DIR, stop=stop, on_ready=ready.set_result,
            )
        )  # fmt: skip
        url = f"http://127.0.0.1:{await ready}"
        token = enrolment().gateway_token(BACK_END)

        async def deliver(session: aiohttp.ClientSession, epoch: int) -> int:
            head = {"Authorization": f"Bearer {token}", "Idempotency-Key": f"{BACK_END}:{epoch}:1"}
            async with session.post(url + "/v1/ingest", headers=head, data=b'{"records":[]}') as r:
                return r.status

        async with aiohttp.ClientSession() as session:
            asked = [asyncio.create_task(deliver(session, epoch)) for epoch in range(workers)]
            await until(lambda: sum(s.appending for s in engine.ingest.streams) >= 64)
            async with asyncio.timeout(10), session.get(url + "/healthz") as health:
                assert health.status == 200
            disk.set()
            assert await asyncio.gather(*asked) == [200] * workers
        stop.set()
        await api

    with_engine(enrolment().copy_to(tmp_path), work)


def test_links_that_wait_for_a_slow_store_count_too(tmp_path: Path) -> None:
    """Streams that are not settled let their next links wait, and then all come at once."""
    epochs = range(100, 100 + 2 * LINKS_MAX)

    async def work(engine: Engine) -> None:
        disk = slow_disk(engine)
        port = engine.addresses[0].port
        for epoch in epochs:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(wire.encode(hello(BACK_END, epoch=epoch)))
            await until(lambda: any(link.has_session for link in engine.ingest.links))
            writer.write(wire.encode(wire.Scans(seq=1, body=delivery(engine, 1, 1).body)))
            await until(lambda: sum(s.appending for s in engine.ingest.streams) > epoch - 100)  # noqa: B023
            writer.transport.abort()
            await until(lambda: not engine.ingest.links)
        ends = [await asyncio.open_connection("127.0.0.1", port) for _ in epochs]
        for epoch, (_, writer) in zip(epochs, ends, strict=True):
            writer.write(wire.encode(hello(BACK_END, epoch=epoch, next=(2, 1))))
        await until(lambda: all(s.opening.locked() for s in engine.ingest.streams))
        disk.set()
        answers = [wire.FrameReader().feed(await reader.read(1 << 16)) for reader, _ in ends]
        welcomed = [isinstance(first, wire.Welcome) for first, *_ in answers]
        assert sum(welcomed) == LINKS_MAX
        for _, writer in ends:
            writer.close()

    with_engine(enrolment().copy_to(tmp_path), work)
