"""Connections that say nothing: what each costs, and that they stop nobody.

The memory stands in docs/protocol.md, measured by this test with 1,000 connections.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.ingest.link import LINKS_MAX
from engine.registry.access import token_to_hash
from engine.wire import frames as wire
from engine.wire.address import parse_address
from tests.e2e.rig import (
    ROOT,
    EngineProcess,
    RawLink,
    fresh_person,
    hello,
    job,
    person_scan,
    run_chot,
    scans,
    until,
)
from tests.e2e.websocket_link import WebSocketLink
from tests.reference.certificates import Authority

CARRIERS = ("tcp", "tls", "ws", "wss")
LANE = "vl-1a-1"
HELLO_S = 10  # how long a connection may stay without a session
# KiB in docs/protocol.md, of an idle session and of a connection that stopped before HELLO; half as
# much again is a fault.
SESSION_KIB = {"tcp": 6, "tls": 48, "ws": 25, "wss": 62}
STRANGER_KIB = {"tcp": 3, "tls": 44, "ws": 22, "wss": 62}
STRANGERS = 500  # that come in at most within the time they have


@contextlib.contextmanager
def started(folder: Path, **settings: object) -> Iterator[tuple[EngineProcess, Authority]]:
    """An engine with a door for each carrier."""
    authority = Authority(folder / "ca")
    changes = authority.engine_settings("tls", "ws", "wss") | {"retention_days": 30} | settings
    with job(folder / "job", settings=changes) as made:
        yield made.engine, authority
        assert made.engine.stop() == 0
    assert "Traceback" not in made.engine.log_text()


def context_of(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca)
    context.set_alpn_protocols(["ckp/1"])
    return context


def port_of(engine: EngineProcess, carrier: str) -> int:
    return engine.port if carrier == "tcp" else parse_address(engine.listen[carrier]).port


def link_to(engine: EngineProcess, carrier: str, context: ssl.SSLContext) -> RawLink:
    kind = WebSocketLink if carrier in ("ws", "wss") else RawLink
    tls = context if carrier in ("tls", "wss") else None
    return kind(port_of(engine, carrier), context=tls)


def enrol_boxes(engine: EngineProcess, folder: Path, count: int) -> list[str]:
    """Names, and tokens, of further gateways: one alone has few links."""
    names = [f"box-{n}" for n in range(count)]
    lines = [f"{n},{name},,,{token_to_hash(name)}" for n, name in enumerate(names, 100)]
    table = folder / "gateways.csv"
    table.write_text("\n".join(["number,name,post,lanes,token_sha256", *lines]))
    done = run_chot("registry", "import", str(table), "--data", str(engine.data))
    assert done.returncode == 0, done.stdout + done.stderr
    return names


def idle_kib(
    engine: EngineProcess, carrier: str, context: ssl.SSLContext, boxes: list[str]
) -> float:
    """KiB of the engine's memory for one session that says nothing after HELLO."""

    def idle(box: str, epoch: int) -> RawLink:
        link = link_to(engine, carrier, context)
        welcome = link.hello(LANE, gateway=box, token=box, epoch=epoch)
        assert isinstance(welcome, wire.Welcome)
        return link

    # What the first one loads is no cost of a link.
    links = [idle(boxes[0], 1)]
    before = engine.rss_bytes()
    links += [idle(box, epoch) for box in boxes[1:] for epoch in range(LINKS_MAX)]
    count = len(links) - 1
    cost = (engine.rss_bytes() - before) / count / 1024
    for link in links:
        link.socket.close()
    until(lambda: engine.metric("chot_sessions") == 0)
    return cost


def stranger_kib(engine: EngineProcess, carrier: str, context: ssl.SSLContext) -> float:
    """KiB of the engine's memory for one connection that did everything but say HELLO."""
    links = [link_to(engine, carrier, context)]
    began_s, before = time.monotonic(), engine.rss_bytes()
    while len(links) <= STRANGERS and time.monotonic() < began_s + HELLO_S / 2:
        links.append(link_to(engine, carrier, context))
    count = len(links) - 1
    cost = (engine.rss_bytes() - before) / count / 1024
    assert count >= 100 and time.monotonic() < began_s + HELLO_S, "too slow to be measured"
    assert engine.metric("chot_sessions_refused", code="wire.malformed") == 0, "some were cut"
    for link in links:
        link.socket.close()
    return cost


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))


@pytest.mark.full
@pytest.mark.parametrize("carrier", CARRIERS)
def test_what_a_connection_costs_that_stopped_before_hello(tmp_path: Path, carrier: str) -> None:
    with many_descriptors(), started(tmp_path, sessions_max=1100) as (engine, authority):
        cost = stranger_kib(engine, carrier, context_of(authority))
    print(f"{carrier}: {cost:.1f} KiB a connection before HELLO")
    assert cost < 1.5 * STRANGER_KIB[carrier]


@pytest.mark.full
@pytest.mark.parametrize("carrier", CARRIERS)
def test_what_an_idle_session_costs(tmp_path: Path, carrier: str) -> None:
    with (
        many_descriptors(),
        started(tmp_path, sessions_max=1100, heartbeat_s=600) as (engine, authority),
    ):
        boxes = enrol_boxes(engine, tmp_path, 1 + 1000 // LINKS_MAX)
        cost = idle_kib(engine, carrier, context_of(authority), boxes)
    print(f"{carrier}: {cost:.1f} KiB a session")
    assert cost < 1.5 * SESSION_KIB[carrier]


@pytest.mark.parametrize(
    ("words", "kib"),
    [
        ("a session that says nothing", SESSION_KIB),
        ("a connection that stopped before HELLO, 10 s at most", STRANGER_KIB),
    ],
)
def test_the_page_says_what_a_silent_connection_costs(words: str, kib: dict[str, int]) -> None:
    page = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
    _, _, row = page.partition(f"| {words} |")
    assert [int(cell) for cell in row.split("\n")[0].split("|")[:4]] == list(kib.values())


# ---- two hundred that say nothing ---------------------------------------------------------------


class Silent:
    """Sockets that stop at each step of coming in, and an engine that has fewer places."""

    def __init__(self, engine: EngineProcess, authority: Authority) -> None:
        self.engine = engine
        self.authority = authority
        self.context = context_of(authority)
        self.since_s = time.monotonic()
        greeting = self._client_hello()
        steps = [
            ("tcp", b""),
            ("tcp", wire.encode(hello(LANE))[:-1]),
            ("tls", b""),
            ("tls", greeting[:-1]),
            ("tls", greeting),
            ("ws", b"GET /ckp HTTP/1.1\r\nHost: x\r\n"),
            ("wss", greeting),
        ]
        self.sockets = [self._open(*steps[n % len(steps)]) for n in range(200)]

    def _client_hello(self) -> bytes:
        there, here = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            self.context.wrap_bio(there, here, server_hostname="127.0.0.1").do_handshake()
        return here.read()

    def _open(self, carrier: str, data: bytes) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", port_of(self.engine, carrier)), timeout=30)
        made.sendall(data)
        return made

    def is_closed(self, made: socket.socket) -> bool:
        """What the engine said first (an alert, an ERROR) is read over."""
        made.setblocking(False)
        with contextlib.suppress(ConnectionError):
            try:
                while made.recv(65536):
                    pass
            except BlockingIOError:
                return False
        return True


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Silent]:
    with started(tmp_path_factory.mktemp("silent"), sessions_max=120) as (engine, authority):
        made = Silent(engine, authority)
        yield made
        for sock in made.sockets:
            sock.close()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_silent_connections_stop_no_gateway(silent: Silent, carrier: str) -> None:
    """More of them than there are places, and the oldest give way."""
    with link_to(silent.engine, carrier, silent.context) as link:
        assert isinstance(link.hello(LANE), wire.Welcome)
        for seq in range(1, 4):
            link.send(scans(seq, person_scan(fresh_person())))
            link.settled(0, seq)
    # 120 places; whoever waited at another door still comes in.
    until(lambda: silent.engine.metric("chot_sessions_refused", code="sessions_max") >= 80)


def test_silent_connections_are_cut(silent: Silent) -> None:
    until(lambda: all(map(silent.is_closed, silent.sockets)), timeout_s=60, pause_s=0.2)
    assert time.monotonic() - silent.since_s >= HELLO_S - 1, "not before their time"
    refused = {
        code: silent.engine.metric("chot_sessions_refused", code=code)
        for code in ("sessions_max", "wire.malformed", "wire.tls")
    }
    assert sum(refused.values()) == 200 and refused["sessions_max"] >= 80, refused


def test_a_crowd_at_the_door_leaves_descriptors_to_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "job"

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

    with job(folder, settings={"retention_days": 30}, preexec=few, with_api=False) as made:
        silent = [socket.create_connection(("127.0.0.1", made.engine.port)) for _ in range(150)]
        with RawLink(made.engine.port) as link:
            assert isinstance(link.hello(LANE), wire.Welcome)
            link.send(scans(1, person_scan(fresh_person())))
            link.settled(0, 1)
        assert "fewer connections than sessions_max count=36" in made.engine.log_text()
        for sock in silent:
            sock.close()
        assert made.engine.stop() == 0
