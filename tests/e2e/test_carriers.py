"""The same rules over each carrier: TCP, TLS 1.3, WebSocket in plain and in TLS.

One engine has a door for each. A hand-written client speaks to it, and the gateway program.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.app import Engine
from engine.errors import SettingInvalid
from engine.settings import Settings
from engine.wire import frames as wire
from engine.wire.address import parse_address
from tests.e2e.rig import (
    EngineProcess,
    GatewayProcess,
    Job,
    RawLink,
    enrolment,
    fresh_person,
    hello,
    job,
    person_scan,
    run_chot,
    scans,
    until,
)
from tests.e2e.websocket_link import PING, TEXT, HttpRefusal, WebSocketLink
from tests.reference.certificates import Authority

LANE_1, LANE_2 = "vl-1a-1", "vl-1a-2"
CARRIERS = ("tcp", "tls", "ws", "wss")
FRAME_SIZE_MAX = 1_000_000


class Stand:
    def __init__(self, made: Job, authority: Authority) -> None:
        self.job = made
        self.engine: EngineProcess = made.engine
        self.authority = authority

    def port(self, carrier: str) -> int:
        return (
            parse_address(self.engine.listen[carrier]).port
            if carrier != "tcp"
            else (self.engine.port)
        )

    def context(self, *cert: str, alpn: str = "ckp/1") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.authority.ca)
        if cert:
            context.load_cert_chain(*cert)
        if alpn:
            context.set_alpn_protocols([alpn])
        return context

    def link(self, carrier: str, *cert: str, timeout_s: float = 20) -> RawLink:
        context = self.context(*cert) if carrier in ("tls", "wss") else None
        kind = WebSocketLink if carrier in ("ws", "wss") else RawLink
        return kind(self.port(carrier), context=context, timeout_s=timeout_s)

    def session(self, carrier: str, *cert: str, name: str = LANE_1, **changes: Any) -> RawLink:
        link = self.link(carrier, *cert)
        assert isinstance(link.hello(name, **changes), wire.Welcome)
        return link

    def refused(self, code: str = "wire.tls") -> float:
        return self.engine.metric("chot_sessions_refused", code=code)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("carriers")
    authority = Authority(folder / "ca")
    changes = authority.engine_settings("tls", "ws", "wss") | {
        "tls_client_ca": authority.ca,
        "frame_size_max": FRAME_SIZE_MAX,
        "retention_days": 30,
    }
    with job(folder / "job", settings=changes) as made:
        yield Stand(made, authority)
        assert made.engine.stop() == 0
    assert "Traceback" not in made.engine.log_text()


# ---- the rules over each carrier ----------------------------------------------------------------


@pytest.mark.parametrize("carrier", CARRIERS)
def test_scans_are_settled_and_sent_again_they_are_dropped(stand: Stand, carrier: str) -> None:
    """Rules 1, 2, 3 and 5."""
    epoch = 100 + CARRIERS.index(carrier)
    dropped = stand.engine.metric("chot_resends_dropped")
    person = fresh_person()
    with stand.session(carrier, epoch=epoch) as older:
        older.send(scans(1, person_scan(person)), scans(2, person_scan(person)))
        came = older.settled(0, 2)
        assert [m.seq for m in came if isinstance(m, wire.Result)] == [1, 2]
        with stand.link(carrier) as newer:
            welcome = newer.hello(LANE_1, epoch=epoch, next=(4, 1))
            assert isinstance(welcome, wire.Welcome) and welcome.acked[0] == 2
            assert older.error_code() == 3
            newer.send(scans(2, person_scan(person), flags=wire.FLAG_RESEND))
            newer.settled(0, 2)
            newer.send(scans(3, person_scan(person)), wire.Bye(3))
            newer.rest()
            assert newer.is_closed
    assert stand.engine.metric("chot_resends_dropped") == dropped + 1
    until(lambda: stand.engine.metric("chot_gateway_connected", gateway=LANE_1) == 0)


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (wire.encode(scans(3, b"\xc0")), 4),
        (wire.encode(scans(1_000_000, b"\xc0")), 6),
        (b"\x02\x00\x00\x01\xff\xff\xff\xff" + bytes(8), 5),
        (wire.encode(wire.Ack(cls=0, seq=9, limit=9, byte_limit=9)), 7),
        (b"GET / HTTP/1.1\r\n\r\n", 7),
    ],
    ids=["gap", "credit", "size", "direction", "nonsense"],
)
def test_a_breach_ends_the_link_behind_what_was_good(
    stand: Stand, carrier: str, fault: bytes, code: int
) -> None:
    with stand.session(carrier) as link:
        epoch_scan = wire.encode(scans(1, person_scan(fresh_person())))
        link.send_bytes(epoch_scan + fault)
        came = link.rest()
        assert [m.code for m in came if isinstance(m, wire.Error)] == [code]
        assert any(isinstance(m, wire.Result) for m in came), "what was good stays"


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_large_frame_and_many_small_messages(stand: Stand, carrier: str) -> None:
    with stand.session(carrier) as link:
        image = bytes(FRAME_SIZE_MAX - 24)
        link.send(wire.FrameImage(seq=1, channel=1, codec=2, ts_ns=time.time_ns(), frame_no=0,
                                  image=image, width=999, height=1001, stride=999))  # fmt: skip
        pings = [wire.Ping(n) for n in range(3000)]
        link.send_bytes(b"".join(map(wire.encode, pings)))
        got: list[int] = []
        while len(got) < len(pings):
            message = link.next()
            got += [message.t0] if isinstance(message, wire.Pong) else []
        assert got == list(range(3000))
        if isinstance(link, WebSocketLink):
            assert max(link.sizes) <= 65_552
            assert len(link.sizes) < 3000, "what waits together leaves as one message"


# ---- who is let in ------------------------------------------------------------------------------


def ends_the_handshake(link: Callable[[], RawLink]) -> str:
    """The TLS alert, or how else the engine closed it. The handshake may seem to succeed."""
    try:
        with link() as made:
            made.send(hello(LANE_1))
            message = made.next()
    except ssl.SSLError as error:
        return error.reason or ""
    except (EOFError, ConnectionError) as error:
        return type(error).__name__
    raise AssertionError(f"{message} came")


@pytest.mark.parametrize("carrier", ["tls", "wss"])
def test_a_certificate_is_enough(stand: Stand, carrier: str) -> None:
    cert = stand.authority.make(LANE_2)
    with stand.session(carrier, *cert, name=LANE_2, token=None) as link:
        link.send(scans(1, person_scan(fresh_person(), lane=2)))
        link.settled(0, 1)


@pytest.mark.parametrize("carrier", ["tls", "wss"])
def test_the_certificate_says_who_it_is(stand: Stand, carrier: str) -> None:
    """The token of the gateway that HELLO names does not help."""
    for names in ([LANE_2], ["hl-1a-1"], ["VL-1A-1"]):
        with stand.link(carrier, *stand.authority.make(*names)) as link:
            link.send(hello(LANE_1))
            assert link.error_code() == 2
    with stand.link(carrier, *stand.authority.make("nobody")) as link:
        link.send(hello(LANE_1, gateway="nobody", token=None))
        assert link.error_code() == 8
    never_enrolled = "hl-1a-1"
    with stand.link(carrier, *stand.authority.make(never_enrolled)) as link:
        link.send(hello(LANE_1, gateway=never_enrolled, token=None))
        assert isinstance(link.next(), wire.Welcome)


@pytest.mark.parametrize("carrier", ["tls", "wss"])
@pytest.mark.parametrize("names", [(), (LANE_1, LANE_2)], ids=["no CN", "two CNs"])
def test_a_certificate_has_one_name(stand: Stand, carrier: str, names: tuple[str, ...]) -> None:
    before = stand.refused("wire.auth")
    cert = stand.authority.make(*names, file=f"odd-{len(names)}")
    ends_the_handshake(lambda: stand.link(carrier, *cert))
    until(lambda: stand.refused("wire.auth") == before + 1)


@pytest.mark.parametrize("carrier", ["tls", "wss"])
def test_a_certificate_that_does_not_hold_ends_the_handshake(
    stand: Stand, carrier: str, tmp_path: Path
) -> None:
    """Expired, not yet valid, another CA's, a server's, and one that signed itself."""
    own = stand.authority
    other = Authority(tmp_path / "other")
    certs = [
        own.make(LANE_1, file="expired", from_days=-9, days=-1),
        own.make(LANE_1, file="early", from_days=1),
        own.make(LANE_1, file="server", is_server=True),
        other.make(LANE_1),
    ]
    before = stand.refused()
    for cert in certs:
        ends_the_handshake(lambda cert=cert: stand.link(carrier, *cert))  # type: ignore[misc]
    until(lambda: stand.refused() == before + len(certs))
    assert "certificate has expired" in stand.engine.log_text()


def test_older_tls_and_other_protocols_end_the_handshake(stand: Stand) -> None:
    def link(context: ssl.SSLContext, carrier: str = "tls") -> Callable[[], RawLink]:
        return lambda: RawLink(stand.port(carrier), context=context)

    before = stand.refused()
    for carrier in ("tls", "wss"):
        old = stand.context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        ends_the_handshake(link(old, carrier))
    ends_the_handshake(link(stand.context(alpn="h2")))
    ends_the_handshake(link(stand.context(alpn="")))
    until(lambda: stand.refused() == before + 4)
    with RawLink(stand.port("tls")) as plain:
        plain.send(hello(LANE_1))
        plain.socket.settimeout(5)
        assert b"chot" not in plain.socket.recv(100)
    until(lambda: stand.refused() == before + 5)


def test_handshakes_that_fail_leave_nothing_behind(stand: Stand, tmp_path: Path) -> None:
    """Not even in a WebSocket's door, where a connection has two protocols."""
    cert = Authority(tmp_path / "other").make(LANE_1)

    def knock(count: int) -> int:
        before = stand.refused()
        for _ in range(count):
            ends_the_handshake(lambda: stand.link("wss", *cert))
        until(lambda: stand.refused() == before + count)
        return stand.engine.rss_bytes()

    settled = knock(40)
    assert knock(80) - settled < 80 * 32_768


def test_whoever_hangs_up_in_the_handshake_is_no_fault(stand: Stand) -> None:
    before = stand.refused()
    for _ in range(20):
        with RawLink(stand.port("tls")) as link:
            link.send_bytes(b"\x16\x03\x01")
    with stand.session("tls"):
        pass
    assert "fault" not in stand.engine.log_text()
    assert stand.refused() - before <= 20


# ---- WebSocket ----------------------------------------------------------------------------------


def test_whoever_leaves_in_the_middle_of_a_talk_fills_no_log(stand: Stand) -> None:
    """uvloop has a warning of its own for each answer to a peer that has left."""
    for _ in range(3):
        with stand.session("tls") as link:
            link.send_bytes(wire.encode(wire.Ping(1)) * 4000)
    with stand.session("tls") as link:
        link.send(wire.Ping(1))
        link.wait_for(wire.Pong)
    assert "SSL connection is closed" not in stand.engine.log_text()


@pytest.mark.parametrize("carrier", ["ws", "wss"])
def test_what_is_no_websocket_of_ours(stand: Stand, carrier: str) -> None:
    context = stand.context() if carrier == "wss" else None
    before = stand.refused("wire.malformed")
    for changes, status in [
        ({"path": "/"}, 404),
        ({"path": "/ckp/../etc/passwd"}, 404),
        ({"subprotocol": ""}, 400),
        ({"subprotocol": "ckp.2, mqtt"}, 400),
    ]:
        with pytest.raises(HttpRefusal) as refusal:
            WebSocketLink(stand.port(carrier), context=context, **changes)
        assert refusal.value.status == status
    until(lambda: stand.refused("wire.malformed") == before + 4)


@pytest.mark.parametrize("carrier", ["ws", "wss"])
def test_messages_hold_whole_frames_in_binary(stand: Stand, carrier: str) -> None:
    good = wire.encode(scans(1, person_scan(fresh_person())))

    def ended(do: Callable[[WebSocketLink], None]) -> tuple[int, int, bool]:
        """(CKP/1 error, WebSocket's close code, whether the scan before it was judged)."""
        with stand.session(carrier) as link:
            assert isinstance(link, WebSocketLink)
            link.send_raw(PING, b"x")
            do(link)
            came = link.rest()
            assert link.pongs == 1
            codes = [m.code for m in came if isinstance(m, wire.Error)]
            is_judged = any(isinstance(m, wire.Result) for m in came)
            return codes[0] if codes else 0, link.close_code, is_judged

    def text(link: WebSocketLink) -> None:
        link.send_raw(TEXT, b"{}")

    def no_text(link: WebSocketLink) -> None:
        link.send_raw(TEXT, b"\xff")

    def cut(link: WebSocketLink) -> None:
        link.send_bytes(good + wire.encode(wire.Ping(1))[:-1])

    def too_large(link: WebSocketLink) -> None:
        link.send_bytes(bytes(FRAME_SIZE_MAX + 17))

    assert ended(text) == (7, 1000, False)
    assert ended(no_text) == (0, 1007, False)
    assert ended(cut) == (7, 1000, True)
    assert ended(too_large) == (0, 1009, False)


@pytest.mark.parametrize("carrier", ["ws", "wss"])
def test_fragments_are_one_message(stand: Stand, carrier: str) -> None:
    data = wire.encode(scans(1, person_scan(fresh_person())))
    with stand.session(carrier) as link:
        assert isinstance(link, WebSocketLink)
        link.send_raw(2, data[:20], is_last=False)
        link.send_raw(0, data[20:])
        link.settled(0, 1)


@pytest.mark.parametrize("carrier", ["ws", "wss"])
def test_before_its_session_a_websocket_may_send_little(stand: Stand, carrier: str) -> None:
    """A message may be as large as a camera frame, but not from somebody unknown."""
    before = stand.refused("wire.too_large")
    with stand.link(carrier) as link:
        assert isinstance(link, WebSocketLink)
        with contextlib.suppress(OSError):
            link.send_raw(2, bytes(150_000), is_last=False)
        assert link.rest() == []
    until(lambda: stand.refused("wire.too_large") == before + 1)
    before = stand.engine.metric("chot_sessions_refused", code="wire.malformed")
    with stand.link(carrier) as link, pytest.raises(EOFError):
        link.send_bytes(b"GET /ckp HTTP/1.1\r\n" + b"x: " + bytes(9000))
        link.wait_for(wire.Welcome)
    with stand.session(carrier) as link:
        link.send(wire.Bye(0))
        link.rest()


# ---- what lasts, and what changes ---------------------------------------------------------------


@pytest.mark.parametrize(
    "carrier", ["wss", *(pytest.param(c, marks=pytest.mark.full) for c in CARRIERS[:3])]
)
def test_a_peer_that_does_not_read_its_answers_is_cut(stand: Stand, carrier: str) -> None:
    pings = b"".join(wire.encode(wire.Ping(n)) for n in range(4096))
    before = stand.engine.rss_bytes()
    with stand.session(carrier) as link:
        link.socket.settimeout(5)
        sent = 0
        with pytest.raises(OSError):
            while sent < 200_000_000:
                link.send_whole(pings)
                sent += len(pings)
    assert stand.engine.rss_bytes() - before < 60_000_000
    until(lambda: stand.engine.metric("chot_sessions") == 0)


@pytest.mark.parametrize(("carrier", "name"), [("tls", LANE_1), ("wss", LANE_1), ("ws", LANE_2)])
def test_the_gateway_program(stand: Stand, tmp_path: Path, carrier: str, name: str) -> None:
    """As an operator sets it up: a certificate and no token, or a token behind a proxy."""
    text = enrolment().gateway_file(name, tmp_path, stand.port(carrier)).read_text()
    text = re.sub(r"^url = .*$", f'url = "{stand.engine.listen[carrier]}"', text, flags=re.M)
    if carrier != "ws":
        cert, key = stand.authority.make(name, file=f"{carrier}-{name}")
        files = f'ca = "{stand.authority.ca}"\ncert = "{cert}"\nkey = "{key}"'
        text = re.sub(r"^token = .*$", files, text, flags=re.M)
    config = tmp_path / "gateway.toml"
    config.write_text(text)
    source = tmp_path / "records.jsonl"
    line = {"kind": "scan", "lane": int(name[-1])}
    with source.open("w") as out:
        for _ in range(100):
            line |= {"ts_ms": time.time_ns() // 1_000_000, "payload": fresh_person().payload}
            out.write(json.dumps(line) + "\n")
    gateway = GatewayProcess(config, "--records", str(source))
    assert gateway.wait() == 0, gateway.log.read_text()
    assert gateway.stats["is_drained"] and not gateway.stats["errors"]
    assert len(gateway.verdicts) == 100


@pytest.fixture
def brief(tmp_path: Path) -> Iterator[Stand]:
    """An engine of its own, with quick heartbeats and certificate files to change."""
    authority = Authority(tmp_path / "ca")
    changes = authority.engine_settings("tls") | {
        "tls_client_ca": authority.ca,
        "heartbeat_s": 1,
        "retention_days": 30,
    }
    with job(tmp_path / "job", settings=changes) as made:
        yield Stand(made, authority)
        assert made.engine.stop() == 0


def test_certificates_that_expire_and_files_that_change(brief: Stand) -> None:
    # A session ends when the certificate does that opened it.
    cert = brief.authority.make(LANE_1, days=5 / 86400)
    with brief.session("tls", *cert, token=None) as link:
        message = link.next()
        while not isinstance(message, wire.Error):
            time.sleep(0.05)
            link.send(wire.Ping(1))
            message = link.next()
        assert message.code == 2
    # Half of a renewal keeps what was: the certificate changed, its key not yet.
    old_cert, old_key = (brief.authority.folder / f"engine.{end}" for end in ("pem", "key"))
    new = Authority(brief.authority.folder / "new")
    new_cert, new_key = map(Path, new.make("engine", is_server=True))
    old_cert.write_bytes(new_cert.read_bytes())
    with brief.session("tls"):
        pass
    until(lambda: "certificates not read" in brief.engine.log_text())
    old_key.write_bytes(new_key.read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        brief.link("tls")
    brief.authority.ca = new.ca
    with brief.session("tls"):
        pass
    assert "certificates read again" in brief.engine.log_text()
    left_s = brief.engine.metric("chot_tls_certificate_expires_seconds") - time.time()
    assert 29 < left_s / 86400 < 31


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ingest_host": "0.0.0.0"}, "loopback"),
        ({"ingest_host": "::"}, "loopback"),
        ({"ingest_host": "192.0.2.1"}, "loopback"),
        ({"ingest_listen": "ws://0.0.0.0:0"}, "loopback"),
        ({"ingest_listen": "tcp://[::]:0"}, "loopback"),
        ({"ingest_listen": "tls://127.0.0.1:0"}, "certificate"),
        ({"ingest_listen": "tls://127.0.0.1:0", "tls_cert": "/x", "tls_key": "/x"}, "cannot read"),
        ({"ingest_listen": "http://127.0.0.1:0"}, "no address"),
        ({"ingest_listen": "127.0.0.1:7402"}, "no address"),
    ],
)
def test_doors_that_must_not_open(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    async def test() -> None:
        async with Engine(Settings(data=str(tmp_path), ingest_port=0, **settings)):
            raise AssertionError("it opened")

    with pytest.raises(SettingInvalid, match=words):
        asyncio.run(test())


def test_the_command_says_why_a_door_does_not_open(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path), "--part", "engine")
    done = run_chot("serve", *data, "--set", "ingest_host=0.0.0.0")
    assert done.returncode == 2 and done.stdout == ""
    assert "loopback" in done.stderr and "Traceback" not in done.stderr
