"""Handheld readers against real connections from other processes."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from engine.clock import SystemClock
from engine.errors import SettingInvalid
from engine.gateway.gear import readers as readers_module
from engine.gateway.gear.readers import LineReaders
from engine.gateway.sources import Codes
from tests.reference.gateway_rig import ROOT


class Taken:
    """A running listener and what came from it."""

    def __init__(self) -> None:
        self.readers = LineReaders("127.0.0.1", 0, lane=3, clock=SystemClock())
        self.payloads: list[bytes] = []

    async def run(self) -> None:
        async for codes in self.readers.items():
            assert isinstance(codes, Codes) and codes.lane == 3
            assert abs(codes.ts_ms - SystemClock().now_ms()) < 20_000
            self.payloads += codes.payloads

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.payloads) < count:
                await asyncio.sleep(0.01)


def go(test: Callable[[Taken], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        taken = Taken()
        task = asyncio.create_task(taken.run())
        async with asyncio.timeout(30):
            while taken.readers.problem == "not open":
                await asyncio.sleep(0.01)
            try:
                await test(taken)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def spawn(port: int) -> Awaitable[asyncio.subprocess.Process]:
    return asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.reference.reader_peer", str(port),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip


def test_several_readers_of_one_lane_each_with_its_own_ends() -> None:
    async def test(taken: Taken) -> None:
        assert taken.readers.problem == "no reader is connected"
        ends = [b"\r", b"\n", b"\r\n"]
        children = [await spawn(taken.readers.port) for _ in ends]
        for child in children:
            assert child.stdout is not None and await child.stdout.readline() == b"connected\n"
        for n, (child, end) in enumerate(zip(children, ends, strict=True)):
            assert child.stdin is not None
            halves = [b"reader %d " % n, b"card" + end + b"again" + end]
            child.stdin.write("".join(half.hex() + "\n" for half in halves).encode())
        await taken.until(6)
        assert taken.readers.problem == ""
        expected = [b"reader %d card" % n for n in range(3)] + [b"again"] * 3
        assert sorted(taken.payloads) == sorted(expected)
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"\n")
            await child.wait()

    go(test)


def test_a_payload_that_was_cut_is_nobodys() -> None:
    async def test(taken: Taken) -> None:
        child = await spawn(taken.readers.port)
        assert child.stdin is not None
        child.stdin.write(f"{b'whole'.hex()}0d\n{b'0451909990'.hex()}\n\n".encode())
        await child.wait()
        while not taken.readers.skipped:
            await asyncio.sleep(0.01)
        assert taken.payloads == [b"whole"]
        assert taken.readers.skipped == 1

    go(test)


def test_a_flood_costs_its_own_connection_only() -> None:
    async def test(taken: Taken) -> None:
        _, flood = await asyncio.open_connection("127.0.0.1", taken.readers.port)
        flood.write(b"f\n" * 200_000)
        _, endless = await asyncio.open_connection("127.0.0.1", taken.readers.port)
        endless.write(b"x" * 3_000_000 + b"\n")  # no payload, however long it goes on
        await taken.until(1)
        _, honest = await asyncio.open_connection("127.0.0.1", taken.readers.port)
        honest.write(b"honest\r\n")
        while b"honest" not in taken.payloads or not taken.readers.skipped:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # without a limit all of the flood would be here by now
        assert taken.readers.skipped == 1
        assert len(taken.payloads) < 10_000, "the flood was held back"

    go(test)


def test_a_new_reader_takes_the_place_of_the_longest_silent_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readers_module, "READERS_MAX", 2)

    async def test(taken: Taken) -> None:
        port = taken.readers.port
        old, old_writer = await asyncio.open_connection("127.0.0.1", port)
        _, busy = await asyncio.open_connection("127.0.0.1", port)
        old_writer.write(b"old\n")
        await taken.until(1)
        busy.write(b"busy\n")
        await taken.until(2)
        _, new = await asyncio.open_connection("127.0.0.1", port)
        new.write(b"new\n")
        await taken.until(3)
        with pytest.raises(ConnectionError):
            if await old.read() == b"":
                raise ConnectionResetError
        busy.write(b"busy again\n")
        await taken.until(4)
        assert taken.payloads == [b"old", b"busy", b"new", b"busy again"]

    go(test)


def test_a_port_that_is_taken_is_told_at_once() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        readers = LineReaders("127.0.0.1", port, lane=1, clock=SystemClock())

        async def run() -> None:
            await anext(readers.items())

        with pytest.raises(SettingInvalid, match=str(port)):
            asyncio.run(run())
