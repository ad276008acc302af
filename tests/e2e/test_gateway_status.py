"""`chot gateway status`, asked of a gateway that is another process."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from engine.gateway.status import GatewayStatus
from engine.gateway.status_socket import NAME
from engine.wire import frames as wire
from tests.reference.ckp_server import Peer, Server
from tests.reference.command import chot
from tests.reference.gateway_rig import PUBLIC, ROOT, free_port, welcome_all


def write_config(folder: Path, port: int, reader_port: int, drain_s: float = 0.2) -> Path:
    path = folder / "box.toml"
    path.write_text(
        f'name = "vl-1a-1"\ntoken = "t"\ningest_public = "{PUBLIC.hex()}"\n'
        f'url = "tcp://127.0.0.1:{port}"\nspool = "{folder / "spool"}"\n'
        f"drain_timeout_s = {drain_s}\n"
        f'[[sources]]\nkind = "readers"\nlane = 2\nport = {reader_port}\n'
        '[[sources]]\nkind = "mjpeg"\nlane = 3\nurl = "http://127.0.0.1:1/video"\n'
    )
    return path


@contextmanager
def gateway(
    config: Path, stdout: int = subprocess.DEVNULL, stderr: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", "gateway", "run", str(config)],
        stdout=stdout,
        stderr=stderr,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def status_of(config: Path) -> GatewayStatus:
    done = chot("gateway", "status", config, "--json")
    assert done.status == 0, done.err
    return msgspec.json.decode(done.out, type=GatewayStatus)


def until(config: Path, is_so: Any) -> GatewayStatus:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done = chot("gateway", "status", config, "--json")
        if done.status == 0:
            found = msgspec.json.decode(done.out, type=GatewayStatus)
            if is_so(found):
                return found
        time.sleep(0.1)
    raise AssertionError("it never came to that")


def test_what_a_box_says_without_an_engine(tmp_path: Path) -> None:
    reader_port = free_port()
    config = write_config(tmp_path, 1, reader_port)
    done = chot("gateway", "status", config)
    assert done.status == 1
    assert done.err.startswith("chot gateway status: gateway.not_running: no gateway runs on")

    with gateway(config) as process:
        until(config, lambda s: s.sources[0].problem == "no reader is connected")
        with socket.create_connection(("127.0.0.1", reader_port)) as reader:
            reader.sendall(b"one\rtwo\r\nthree\n")
            found = until(
                config, lambda s: sum(e.waiting for e in s.epochs) and s.stats.lights_local
            )
            assert found.pid == process.pid and found.gateway == "vl-1a-1"
            assert not found.is_linked and found.since_ms == found.started_ms
            (epoch,) = (e for e in found.epochs if e.is_live)
            assert epoch.waiting >= 1 and not epoch.is_linked
            assert found.started_ms <= epoch.oldest_ms <= found.now_ms
            readers, camera = found.sources
            assert (readers.kind, readers.lane, readers.problem) == ("readers", 2, "")
            assert readers.items >= 1 and readers.last_ms >= found.started_ms
            assert camera.problem.startswith("no answer") and camera.items == 0
            assert found.stats.last_error == "engine.unreachable"

        done = chot("gateway", "status", tmp_path / "spool")
        assert done.status == 0
        for words in ("MẤT LIÊN LẠC", "làn 2 readers", "làn 3 mjpeg", "no answer", "vl-1a-1"):
            assert words in done.out, done.out
        path = tmp_path / "spool" / NAME
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert path.exists(), "a dead one leaves its socket"
    assert "no gateway runs" in chot("gateway", "status", config).err

    # The next one takes its place, and knows that what waits is older than itself.
    with gateway(config) as process:
        found = until(config, lambda s: s.pid == process.pid)
        old = [e for e in found.epochs if e.waiting]
        assert old and all(e.oldest_ms == found.started_ms for e in old)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert not path.exists()


def test_a_reader_that_ends_no_line_shows(tmp_path: Path) -> None:
    reader_port = free_port()
    config = write_config(tmp_path, 1, reader_port)
    with gateway(config):
        until(config, lambda s: s.sources[0].problem == "no reader is connected")
        with socket.create_connection(("127.0.0.1", reader_port)) as reader:
            reader.sendall(b"045190999013")
            until(config, lambda s: s.sources[0].problem == "a reader sends neither CR nor LF")
            done = chot("gateway", "status", config)
            assert (
                "làn 2 readers           0         –  a reader sends neither CR nor LF\n"
                in done.out
            )
            reader.sendall(b"\r")
            found = until(config, lambda s: s.sources[0].items)
            assert found.sources[0].problem == "" and found.sources[0].skipped == 0
            reader.sendall(b"half a line")
        until(config, lambda s: s.sources[0].skipped)
        done = chot("gateway", "status", config)
        assert "no reader is connected, bỏ / skipped 1\n" in done.out


def test_who_stops_reading_the_verdicts_stops_no_lane(tmp_path: Path) -> None:
    reader_port = free_port()
    config = write_config(tmp_path, 1, reader_port)
    with gateway(config, subprocess.PIPE) as process:
        assert process.stdout is not None
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        until(config, lambda s: s.sources[0].problem == "no reader is connected")
        with socket.create_connection(("127.0.0.1", reader_port)) as reader:
            reader.sendall(b"".join(b"number %d\n" % n for n in range(200)))
            until(config, lambda s: s.stats.lights_local == 200)
        # Read again, nothing is missing that there was room for, and the last line comes.
        process.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in process.stdout]
        assert len(lines) == 201 and lines[-1]["stats"]["lights_local"] == 200

    with gateway(config, subprocess.PIPE) as process:
        assert process.stdout is not None
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        until(config, lambda s: s.sources[0].problem == "no reader is connected")
        with socket.create_connection(("127.0.0.1", reader_port)) as reader:
            reader.sendall(b"".join(b"number %d\n" % n for n in range(100)))
            until(config, lambda s: s.stats.lights_local == 100)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1, "it ends though nobody reads"


def test_a_link_is_told_with_since_when(tmp_path: Path) -> None:
    config_path: list[Path] = []

    async def script(peer: Peer) -> None:
        peer.welcome()
        await peer.until_closed()

    async def test() -> None:
        async with Server(script) as server:
            config_path.append(write_config(tmp_path, server.port, free_port()))
            with gateway(config_path[0]):
                found = await asyncio.to_thread(until, config_path[0], lambda s: s.is_linked)
                assert found.started_ms <= found.since_ms <= found.now_ms
                assert [e.is_linked for e in found.epochs if e.is_live] == [True]
                done = await asyncio.to_thread(chot, "gateway", "status", config_path[0])
                assert "đã nối / linked" in done.out

    asyncio.run(asyncio.wait_for(test(), 60))


def test_a_box_that_is_turned_away_captures_and_says_so(tmp_path: Path) -> None:
    reader_port = free_port()
    is_let_in = False

    async def script(peer: Peer) -> None:
        if is_let_in:
            await welcome_all(peer)
        else:
            peer.send(wire.Error(code=2, text="the token does not open this gateway"))
            peer.close()

    async def scan(line: bytes) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", reader_port)
        writer.write(line)
        await writer.drain()
        writer.close()

    async def test() -> None:
        nonlocal is_let_in
        async with Server(script) as server:
            config = write_config(tmp_path, server.port, reader_port, drain_s=300)
            with gateway(config, stderr=subprocess.PIPE) as process:
                await asyncio.to_thread(until, config, lambda s: s.stats.turned_away)
                await scan(b"one\r")
                found = await asyncio.to_thread(
                    until, config, lambda s: sum(e.waiting for e in s.epochs)
                )
                assert found.stats.turned_away == "wire.auth" and not found.is_linked
                done = await asyncio.to_thread(chot, "gateway", "status", config)
                assert "BỊ TRUNG TÂM TỪ CHỐI / turned away (wire.auth)" in done.out
                process.send_signal(signal.SIGTERM)
                _, err = await asyncio.to_thread(process.communicate, timeout=60)
            lines = err.decode().splitlines()
            told = [line for line in lines if " turned_away " in line]
            assert len(told) == 1 and "ERROR" in told[0] and "does not open" in told[0]
            assert lines[-1].startswith("chot gateway run: wire.auth: ")
            assert str(tmp_path / "spool") in lines[-1] and process.returncode == 1

            is_let_in = True
            with gateway(config):
                await asyncio.to_thread(
                    until, config, lambda s: s.is_linked and not sum(e.waiting for e in s.epochs)
                )
            assert server.links[-1].seqs() == [1]

    asyncio.run(asyncio.wait_for(test(), 120))


def test_a_folder_with_a_long_name(tmp_path: Path) -> None:
    """A Unix socket's path has 107 bytes; a spool's folder may have more."""
    folder = tmp_path / ("chốt-" * 12) / ("làn-" * 12)
    folder.mkdir(parents=True)
    config = write_config(folder, 1, free_port())
    with gateway(config):
        assert until(config, lambda s: True).gateway == "vl-1a-1"


def test_use(tmp_path: Path) -> None:
    assert chot("gateway", "status").status == 2
    assert chot("gateway", "status", tmp_path / "none.toml").status == 2
    (tmp_path / NAME).write_text("not a socket")
    done = chot("gateway", "status", tmp_path)
    assert done.status == 1 and "gateway.not_running" in done.err
