"""Thermal terminals and readers of one lane, through a gateway, to events that name their scan."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from engine.clock import SystemClock, ms_to_iso
from engine.gateway.config import AnySource, ReaderConfig, ThermalConfig
from engine.gateway.gear.http_door import CONNECTIONS_MAX, HttpDoor
from engine.gateway.gear.thermal import Fields, _unit
from engine.wire import frames as wire
from tests.reference.ckp_server import Peer
from tests.reference.gateway_rig import HttpPeer, Rig, free_port, open_box, opened, welcome_all

HIKVISION_LIKE = Fields(
    value="EventNotificationAlert.AccessControllerEvent.currTemperature",
    device="EventNotificationAlert.macAddress",
    time="EventNotificationAlert.dateTime",
    unit="EventNotificationAlert.AccessControllerEvent.thermometryUnit",
)
ALERT = """<?xml version="1.0" encoding="UTF-8"?>
<EventNotificationAlert version="2.0" xmlns="http://www.example.vn/ver20/XMLSchema">
<macAddress>aa:bb</macAddress><dateTime>{time}</dateTime>
<AccessControllerEvent><currTemperature>38,4</currTemperature>
<thermometryUnit>celsius</thermometryUnit></AccessControllerEvent></EventNotificationAlert>"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


class Post:
    """A box with a reader and a terminal on lane 2, and what its engine got."""

    def __init__(self, peer: Peer, terminal: HttpPeer, ports: tuple[int, int]) -> None:
        self.peer = peer
        self._terminal = terminal
        self._reader_port, self.terminal_port = ports

    async def scan(self, payload: bytes) -> None:
        count = len(self.peer.of(wire.Scans))
        _, writer = await asyncio.open_connection("127.0.0.1", self._reader_port)
        writer.write(payload + b"\r\n")
        await self.peer.until_scans(count + 1)
        writer.close()

    async def post(
        self, body: bytes, kind: str = "application/json", **request: Any
    ) -> tuple[int, str]:
        return await self._terminal.ask(body, headers={"Content-Type": kind}, **request)

    def events(self) -> list[wire.Report]:
        return [
            msgspec.msgpack.decode(opened(self.peer.hello.epoch, m), type=wire.Report)
            for m in self.peer.of(wire.Event)
            if m.is_sealed and m.channel == 2
        ]

    async def event(self, count: int) -> wire.Report:
        await self.peer.until(lambda: len(self.peer.of(wire.Event)) >= count)
        return self.events()[count - 1]


@asynccontextmanager
async def open_post(rig: Rig, fields: Fields | None = None) -> AsyncIterator[Post]:
    ports = free_port(), free_port()
    sources: list[AnySource] = [
        ReaderConfig(lane=2, port=ports[0]),
        ThermalConfig(
            lane=2,
            port=ports[1],
            fields=fields or Fields(),
            device="cổng 2",
            calibration="K-7",
            tie_s=1,
        ),
    ]
    async with open_box(rig, welcome_all, sources, ports[1]) as (peer, terminal):
        yield Post(peer, terminal, ports)


def go(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 40))


def test_a_reading_names_the_scan_it_belongs_to(rig: Rig) -> None:
    async def test() -> None:
        async with open_post(rig) as post:
            await post.scan(b"card of one")
            seq = post.peer.seqs()[-1]
            status, text = await post.post(b'{"temperature": 36.75, "unit": "C"}')
            assert (status, json.loads(text)) == (200, {"taken": True})
            event = await post.event(1)
            assert event.scan == (seq, 0)
            assert (event.value, event.unit, event.device, event.calibration) == (
                36.75, "C", "cổng 2", "K-7",
            )  # fmt: skip

            # Measured first, then scanned.
            asked = asyncio.create_task(post.post(b'{"temperature": "99.1", "unit": "F"}'))
            await asyncio.sleep(0.2)
            await post.scan(b"card of two")
            assert (await asked)[0] == 200
            event = await post.event(2)
            assert event.scan == (post.peer.seqs()[-1], 0)
            assert (event.value, event.unit) == (99.1, "F"), "as the device said it"

    go(test)


def test_a_terminal_that_reads_codes_ties_by_itself(rig: Rig) -> None:
    async def test() -> None:
        async with open_post(rig) as post:
            await post.scan(b"somebody else")
            body = {"temperature": 37.2, "payload": "045190999001|x", "device": "t9"}
            assert (await post.post(json.dumps(body).encode()))[0] == 200
            event = await post.event(1)
            assert event.scan is not None and event.device == "t9"
            scans = {m.seq: m for m in post.peer.of(wire.Scans)}
            body = opened(post.peer.hello.epoch, scans[event.scan[0]])
            assert b"045190999001|x" in body

    go(test)


def test_xml_of_a_vendor_by_its_mapping_and_with_a_picture(rig: Rig) -> None:
    async def test() -> None:
        async with open_post(rig, HIKVISION_LIKE) as post:
            old_ms = SystemClock().now_ms() - 3_600_000
            xml = ALERT.format(time=ms_to_iso(old_ms)).encode()
            assert (await post.post(xml, "application/xml"))[0] == 200
            event = await post.event(1)
            assert (event.value, event.unit, event.device) == (38.4, "C", "aa:bb")
            assert event.ts_ms == old_ms and event.scan is None, "kept by the terminal for an hour"

            ahead = ALERT.format(time=ms_to_iso(old_ms + 90_000_000)).encode()
            head = b"--x\r\nContent-Disposition: form-data; name="
            picture = b"\xff\xd8" + bytes(300_000)
            parts = head + b'"p"\r\nContent-Type: image/jpeg\r\n\r\n' + picture + b"\r\n"
            parts += head + b'"e"\r\n\r\n' + ahead + b"\r\n--x--\r\n"
            status, _ = await post.post(parts, "multipart/form-data; boundary=x")
            assert status == 200
            event = await post.event(2)
            assert abs(event.ts_ms - SystemClock().now_ms()) < 20_000, "its clock is ahead of ours"

    go(test)


@pytest.mark.parametrize(
    ("word", "unit"),
    [("C", "C"), ("°C", "C"), ("º C", "C"), ("℃", "C"), ("Celsius", "C"), ("deg C", "C"),
     ("degC", "C"), ("F", "F"), ("°f", "F"), ("FAHRENHEIT", "F"), ("℉", "F")],
)  # fmt: skip
def test_a_unit_however_it_is_spelt(word: str, unit: str) -> None:
    assert _unit(word) == unit


BAD = [
    (b"", "text/plain"),
    (b'{"temperature": "warm"}', "application/json"),
    (b'{"temperature": NaN}', "application/json"),
    (b'{"temperature": "inf"}', "application/json"),
    (b'{"temperature": 36.5, "time": "yesterday"}', "application/json"),
    (b'{"temperature": 310, "unit": "K"}', "application/json"),
    (b'{"temperature": 36.5, "time": -1}', "application/json"),
    (b'{"temperature": 36.5, "device": "' + b"d" * 65 + b'"}', "application/json"),
    (b'{"temperature": 36.5, "payload": "' + b"p" * 3000 + b'"}', "application/json"),
    (b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "application/xml"),
    (b"x" * 100_000, "application/json"),
    (b"--x\r\n\r\nhello\r\n--x--\r\n", "multipart/form-data; boundary=x"),
    (b"no boundary", "multipart/form-data"),
    (b"--x\r\nno header\r\n\r\n{}\r\n--x--", "multipart/form-data; boundary=x"),
    (b"--x\r\nA: " + b"b" * 20_000 + b"\r\n\r\n{}\r\n--x--", "multipart/form-data; boundary=x"),
    (b"--x\r\n" + b"A: b\r\n" * 3000 + b"\r\n{}\r\n--x--", "multipart/form-data; boundary=x"),
]


def test_bad_documents_are_answered_and_cost_nothing(rig: Rig) -> None:
    async def test() -> None:
        async with open_post(rig) as post:
            for body, kind in BAD:
                status, text = await post.post(body, kind)
                assert status == 400, (body[:60], text)
                assert json.loads(text)["error"]["code"] == "http.body"
            status, text = await post.post(bytes(3_000_000))
            assert status in (400, 413, 0), text
            assert (await post.post(b"", method="GET"))[0] == 405
            # A heartbeat holds no temperature, and a terminal that is told no says it for ever.
            assert await post.post(b'{"alive": 1}') == (200, '{"taken":false}')
            assert not post.events()
            assert (await post.post(b'{"temperature": 36.5}', path="/any/path"))[0] == 200
            assert (await post.event(1)).value == 36.5

    go(test)


def test_connections_that_say_nothing_give_way(rig: Rig) -> None:
    async def test() -> None:
        async with open_post(rig) as post:
            idle = [
                await asyncio.open_connection("127.0.0.1", post.terminal_port)
                for _ in range(CONNECTIONS_MAX + 3)
            ]
            for reader, _ in idle[:3]:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
            idle[-1][1].write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Le")  # and never more
            assert (await post.post(b'{"temperature": 36.5}'))[0] == 200
            for _, writer in idle:
                writer.close()

    go(test)


def test_a_door_keeps_nothing_of_connections_that_are_over() -> None:
    """Else whoever comes and goes quickly fills the memory of a box within a connection's life."""

    async def test() -> None:
        async with HttpDoor(web.Application(), "127.0.0.1", 0) as door:
            seen: list[weakref.ref[asyncio.BaseTransport]] = []
            note_open = door.note_open

            def note(transport: asyncio.Transport) -> None:
                seen.append(weakref.ref(transport))
                note_open(transport)

            door.note_open = note  # type: ignore[method-assign]
            for _ in range(2 * CONNECTIONS_MAX):
                _, writer = await asyncio.open_connection("127.0.0.1", door.port)
                writer.close()
                await writer.wait_closed()
            async with asyncio.timeout(20):
                while len(seen) < 2 * CONNECTIONS_MAX or any(ref() for ref in seen):
                    # Timers that were taken back leave the loop's heap in bulk.
                    for _ in range(128):
                        asyncio.get_running_loop().call_later(60, print).cancel()
                    await asyncio.sleep(0.02)
                    gc.collect()

    asyncio.run(test())
