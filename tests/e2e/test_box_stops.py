"""A box that is stopped or killed: what it took is in its spool, once.

Real processes, and no engine to be reached.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import pytest

from engine.errors import GatewayNotRunning
from engine.gateway.spool_lmdb import Spool
from engine.gateway.status_socket import ask_status
from engine.identity.seals import open_sealed
from engine.wire.frames import seal_aad
from tests.reference.gateway_rig import NAME, PRIVATE, PUBLIC, ROOT, free_port

WAIT_S = 60.0
ENTRY = {"lane": 1, "fields": {"name": "Lê Thị Cúc"}, "officer": "vl-07", "why": "thẻ hỏng"}


class Box:
    """`chot gateway run` with one source, and no engine to be reached."""

    def __init__(self, folder: Path, source: dict[str, Any]) -> None:
        self.port = free_port()
        self.spool = folder / "spool"
        self.log = folder / "log"
        self.config = folder / "box.toml"
        fields = {"name": NAME, "token": "t", "ingest_public": PUBLIC.hex()}
        fields |= {"spool": str(self.spool), "url": f"tcp://127.0.0.1:{free_port()}"}
        lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
        lines.append("[[sources]]")
        if source["kind"] != "records":
            source = {**source, "port": self.port}
        lines += [f"{k} = {json.dumps(v)}" for k, v in source.items()]
        self.config.write_text("\n".join(lines))
        self.process: subprocess.Popen[bytes]

    def start_with_pipe(self) -> BinaryIO:
        """A box that reads lines from the pipe."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", "gateway", "run", str(self.config)],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, cwd=ROOT,
            )  # fmt: skip
        assert self.process.stdin is not None
        return cast(BinaryIO, self.process.stdin)

    def start(self, kill_at: str = "") -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        if kill_at:
            env["CHOT_KILL_AT"] = kill_at
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", "gateway", "run", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=env,
            )  # fmt: skip
        end_s = time.monotonic() + WAIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                assert time.monotonic() < end_s and self.process.poll() is None, self.text()
                time.sleep(0.05)

    def until_taken(self, count: int) -> None:
        """Until so many pieces came from the source."""
        end_s = time.monotonic() + WAIT_S
        while self._taken() < count:
            assert time.monotonic() < end_s and self.process.poll() is None, self.text()
            time.sleep(0.02)

    def _taken(self) -> int:
        with contextlib.suppress(GatewayNotRunning):  # its socket is there before it listens
            return ask_status(self.spool).sources[0].items
        return 0

    def stop(self) -> float:
        """SIGTERM; how long it took to end, s."""
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_S) == 1, self.text()  # not all is durable at an engine
        assert "Traceback" not in self.text()
        return time.monotonic() - began_s

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def records(self) -> list[Any]:
        """All records in the spool, in order."""
        spool = Spool(self.spool, gateway=NAME, ingest_public=PUBLIC)
        found: list[Any] = []
        for epoch in spool.epochs:
            after = 0
            while batch := epoch.read(after):
                for record in batch:
                    aad = seal_aad(NAME, epoch.number, record.seq)
                    found += msgspec.msgpack.decode(open_sealed(PRIVATE, record.body, aad))
                after = batch[-1].seq
        spool.close()
        return found

    def post(self, key: str = "", **changes: Any) -> tuple[int, Any, str | None]:
        """(status, answer, Idempotency-Replayed) of an entry. Raises OSError, HTTPException."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        headers = {"Content-Type": "application/json"}
        headers |= {"Idempotency-Key": key} if key else {}
        link.request("POST", "/v1/entries", json.dumps({**ENTRY, **changes}), headers)
        answer = link.getresponse()
        found = answer.status, json.loads(answer.read()), answer.headers["Idempotency-Replayed"]
        link.close()
        return found


def left_in(pipe: BinaryIO) -> int:
    """Bytes that nobody has read yet."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


def test_lines_that_readers_sent_before_a_stop_are_kept(tmp_path: Path) -> None:
    """At 100 lines a second most of them still wait in their connections."""
    box = Box(tmp_path, {"kind": "readers", "lane": 1})
    box.start()
    sent = [[b"reader %d code %04d of the queue" % (n, i) for i in range(400)] for n in range(3)]
    links = [socket.create_connection(("127.0.0.1", box.port)) for _ in sent]
    for link, lines in zip(links, sent, strict=True):
        link.sendall(b"\n".join(lines) + b"\nhalf a li")
    box.until_taken(len(links))  # and most lines are not in the spool
    time.sleep(0.2)
    span_s = box.stop()
    found = [payload for _, _, _, payload, *_ in box.records()]
    for lines in sent:
        assert [p for p in found if p in set(lines)] == lines
    assert len(found) == 1200
    assert span_s < 20
    for link in links:
        link.close()


@pytest.mark.parametrize("rate", [0, 20])
def test_lines_that_a_pipe_gave_before_a_stop_are_kept(tmp_path: Path, rate: int) -> None:
    """At 20 records a second most of them wait in the box; the line that is not whole is told."""
    box = Box(tmp_path, {"kind": "records", "path": "-", "lane": 1, "rate": rate})
    with box.start_with_pipe() as pipe:
        for n in range(400):
            line = {"kind": "scan", "ts_ms": 1_700_000_000_000 + n, "payload": f"code {n:04d}"}
            pipe.write(json.dumps(line).encode() + b"\n")
        pipe.write(b'{"kind":"scan","ts_')
        pipe.flush()
        while not box.spool.exists() or not (box.spool / "status.sock").exists():
            assert box.process.poll() is None, box.text()
            time.sleep(0.02)
        box.until_taken(1)
        end_s = time.monotonic() + WAIT_S
        while left_in(pipe):  # it is read in a moment, and at that rate sent in 20 s
            assert time.monotonic() < end_s
            time.sleep(0.02)
        time.sleep(0.5)
        span_s = box.stop()
    payloads = [payload for _, _, _, payload, *_ in box.records()]
    assert payloads == [b"code %04d" % n for n in range(400)]
    assert box.text().count("line_refused") == 1
    assert span_s < 15


def test_a_reader_that_never_rests_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    box = Box(tmp_path, {"kind": "readers", "lane": 1})
    box.start()
    flood = subprocess.Popen(
        [sys.executable, "-c",
         "import socket, sys\n"
         "link = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
         "print(flush=True)\n"
         "while True: link.sendall(b'one more of many\\n' * 500)", str(box.port)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert flood.stdout is not None and flood.stdout.readline()
    box.until_taken(1)
    assert box.stop() < 20
    flood.kill()
    flood.wait()
    flood.stdout.close()
    assert {payload for _, _, _, payload, *_ in box.records()} <= {b"one more of many"}


def test_an_entry_that_is_sent_again_after_the_box_was_killed_is_one(tmp_path: Path) -> None:
    box = Box(tmp_path, {"kind": "officer", "lane": 1})
    box.start("spool.committed:1")
    try:
        box.post("desk-1")
        raise AssertionError("the box lives")
    except (OSError, http.client.HTTPException):
        pass
    assert box.process.wait(WAIT_S) == -signal.SIGKILL
    box.start("spool.written:1")  # this time before the disk has it
    assert box.post("desk-1") == (201, {"taken": True, "warnings": []}, "true")
    try:
        box.post("desk-2")
        raise AssertionError("the box lives")
    except (OSError, http.client.HTTPException):
        pass
    box.process.wait(WAIT_S)
    box.start()
    assert [box.post("desk-2")[2] for _ in range(2)] == ["false", "true"]
    assert box.post("desk-1")[2] == "true"
    status, answer, _ = box.post("desk-2", why="khác")
    assert (status, answer["error"]["code"]) == (409, "ingest.key_reused")
    for key in ("x" * 129, "chốt", "a\tb"):
        status, answer, _ = box.post(key.encode().decode("latin-1"))
        assert (status, answer["error"]["code"]) == (400, "http.body"), key
    assert box.post()[2] is None
    box.stop()
    assert len(box.records()) == 3
