"""The gateway over each carrier against a scripted server: certificates, alternates, pressure."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import SettingInvalid
from engine.gateway.program import Gateway
from engine.wire import frames as wire
from tests.reference.certificates import Authority
from tests.reference.ckp_carriers import CarrierServer
from tests.reference.ckp_server import Peer
from tests.reference.gateway_rig import (
    NAME,
    Feed,
    Rig,
    go,
    picture,
    records,
    resumes,
    scripts,
    welcome_all,
)

CARRIERS = ("tcp", "tls", "ws", "wss")
TLS = ("tls", "wss")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def cert(authority: Authority) -> tuple[str, str]:
    return authority.make("engine", is_server=True)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def start(rig: Rig, server: CarrierServer, feed: Feed, authority: Authority, **changes: Any) -> Any:
    return rig.start(server.port, feed, **{"url": server.url, "ca": str(authority.ca), **changes})


@pytest.mark.parametrize("carrier", CARRIERS)
def test_everything_arrives(
    rig: Rig, authority: Authority, cert: tuple[str, str], carrier: str
) -> None:
    async def test() -> None:
        async with CarrierServer(welcome_all, carrier, cert) as server:
            feed = Feed([records(n) for n in range(50)] + [picture(n, 90_000) for n in range(9)])
            stats = await start(rig, server, feed.end(), authority)
            assert stats.is_drained and not stats.errors and stats.links == 1
            (link,) = server.links
            assert link.seqs() == list(range(1, 51))
            assert [len(m.image) for m in link.of(wire.FrameImage)] == [90_000] * 9
            assert isinstance(link.got[-1], wire.Bye)

    go(test())


@pytest.mark.parametrize("carrier", TLS)
def test_it_shows_its_certificate(
    rig: Rig, authority: Authority, cert: tuple[str, str], carrier: str
) -> None:
    own = authority.make(NAME)

    async def test() -> None:
        server = CarrierServer(welcome_all, carrier, cert)
        server.ask_for_certificates(str(authority.ca))
        async with server:
            feed = Feed([records(1)]).end()
            changes = {"cert": own[0], "key": own[1], "token": ""}
            stats = await start(rig, server, feed, authority, **changes)
        assert stats.is_drained
        assert server.peer_names == [NAME] and server.links[0].hello.token is None

    go(test())


@pytest.mark.parametrize("carrier", TLS)
@pytest.mark.parametrize("fault", ["another CA", "expired", "another host", "TLS 1.2", "our own"])
def test_a_server_that_is_not_ours_hears_nothing(
    rig: Rig, authority: Authority, carrier: str, fault: str, tmp_path: Path
) -> None:
    """The token must not go to it. It is tried again: a renewed certificate would mend it."""
    made = authority.make("engine", file="server", is_server=True)
    changes: dict[str, Any] = {"drain_timeout_s": 0.4}
    if fault == "another CA":
        made = Authority(tmp_path / "other").make("engine", is_server=True)
    elif fault == "expired":
        made = authority.make("engine", file="old", is_server=True, from_days=-9, days=-1)
    elif fault == "another host":
        made = authority.make("127.0.0.1", file="nameless")
    server = CarrierServer(scripts(), carrier, made)
    if fault == "TLS 1.2":
        assert server._context is not None
        server._context.maximum_version = ssl.TLSVersion.TLSv1_2
    elif fault == "our own":  # the server's word on our certificate comes with the first read
        server.ask_for_certificates(str(authority.ca))
        old = authority.make(NAME, file="expired", from_days=-9, days=-1)
        changes |= {"cert": old[0], "key": old[1]}

    async def test() -> None:
        async with server:
            stats = await start(rig, server, Feed([records(1)]).end(), authority, **changes)
        assert not stats.is_drained and not server.links
        # Python's servers close without TLS's alert when they refuse: then nobody knows why.
        code = "engine.unreachable" if fault in ("TLS 1.2", "our own") else "wire.tls"
        assert stats.errors.keys() == {code}

    go(test())


@pytest.mark.parametrize("alpn", ["", "h2"])
def test_a_server_of_another_protocol_hears_nothing(
    rig: Rig, authority: Authority, cert: tuple[str, str], alpn: str
) -> None:
    async def test() -> None:
        async with CarrierServer(scripts(), "tls", cert, alpn=alpn) as server:
            feed = Feed([records(1)]).end()
            stats = await start(rig, server, feed, authority, drain_timeout_s=0.3)
        assert not server.links and stats.errors.keys() == {"wire.tls"}

    go(test())


@pytest.mark.parametrize("carrier", ["ws", "wss"])
@pytest.mark.parametrize("subprotocol", ["ckp.2", ""])
def test_a_websocket_of_another_protocol_hears_nothing(
    rig: Rig, authority: Authority, cert: tuple[str, str], carrier: str, subprotocol: str
) -> None:
    async def test() -> None:
        server = CarrierServer(scripts(), carrier, cert, subprotocol=subprotocol)
        async with server:
            feed = Feed([records(1)]).end()
            stats = await start(rig, server, feed, authority, drain_timeout_s=0.3)
        assert not server.links and stats.errors.keys() == {"wire.malformed"}

    go(test())


@pytest.mark.parametrize("carrier", TLS)
def test_a_renewed_certificate_needs_no_restart(
    rig: Rig, authority: Authority, cert: tuple[str, str], carrier: str, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(Authority(tmp_path / "other").ca.read_bytes())

    async def test() -> None:
        async with CarrierServer(welcome_all, carrier, cert) as server:
            feed = Feed([records(1)])
            task = start(rig, server, feed, authority, ca=str(trusted))
            while len(rig.slept) < 2:
                await asyncio.sleep(0.01)
            trusted.write_text("half of a file")
            slept = len(rig.slept)
            while len(rig.slept) < slept + 2:
                await asyncio.sleep(0.01)
            assert not task.done()
            trusted.write_bytes(authority.ca.read_bytes())
            feed.end()
            stats = await task
        assert stats.is_drained and stats.errors.keys() == {"wire.tls"}

    go(test())


@pytest.mark.parametrize("carrier", CARRIERS)
def test_goaway_leads_to_the_alternate_over_the_same_carrier(
    rig: Rig, authority: Authority, cert: tuple[str, str], carrier: str
) -> None:
    async def test() -> None:
        async with CarrierServer(scripts(resumes(2, 4)), carrier, cert) as other:

            async def first(peer: Peer) -> None:
                peer.welcome(limit=(2, 0))
                await peer.until_scans(2)
                alternates = ["nonsense", "a..b:1", f"x@{other.host_port}", other.host_port]
                peer.send(wire.Goaway(code=10, retry_ms=10, alternates=alternates))
                peer.ack(2)
                await asyncio.sleep(0.05)
                peer.close()

            async with CarrierServer(scripts(first), carrier, cert) as server:
                feed = Feed([records(n) for n in range(4)]).end()
                stats = await start(rig, server, feed, authority)
                assert len(server.links) == 1
            assert other.links[0].seqs() == [3, 4]
        assert stats.is_drained and not stats.errors
        assert 0.01 <= rig.slept[0] <= 0.01 + 0.2

    go(test())


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_link_that_is_cut_is_resumed(
    rig: Rig, authority: Authority, cert: tuple[str, str], carrier: str
) -> None:
    async def cut(peer: Peer) -> None:
        peer.welcome()
        await peer.until_scans(3)
        peer.abort()

    async def test() -> None:
        async with CarrierServer(scripts(cut, resumes(2, 3)), carrier, cert) as server:
            feed = Feed([records(n) for n in range(3)]).end()
            stats = await start(rig, server, feed, authority)
            assert server.links[1].seqs() == [3]
        assert stats.is_drained and sum(stats.errors.values()) == 1
        assert 0 <= rig.slept[0] <= 0.2, "full jitter"

    go(test())


@pytest.mark.parametrize("carrier", ["ws", "wss"])
def test_a_text_message_ends_the_link(
    rig: Rig, authority: Authority, cert: tuple[str, str], carrier: str
) -> None:
    async def text(peer: Peer) -> None:
        peer.welcome()
        peer._writer.write_text("OK")  # type: ignore[attr-defined]
        await peer.until_closed()

    async def test() -> None:
        async with CarrierServer(scripts(text, welcome_all), carrier, cert) as server:
            stats = await start(rig, server, Feed([records(1)]).end(), authority)
        assert stats.is_drained and stats.errors == {"wire.malformed": 1}

    go(test())


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_server_that_does_not_read_holds_the_gateway_back(
    rig: Rig, authority: Authority, cert: tuple[str, str], carrier: str
) -> None:
    """What it does not take waits in the frame buffer, which is bounded, and not in the link."""
    total = 40 * 500_000

    async def slow(peer: Peer) -> None:
        peer._writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.welcome()
        sent = -1
        while sent != rig.gateway.stats.bytes_sent:
            sent = rig.gateway.stats.bytes_sent
            await asyncio.sleep(0.3)
        held.append(sent)
        peer._writer.transport.resume_reading()  # type: ignore[attr-defined]
        await peer.until(lambda: len(peer.of(wire.FrameImage)) == 40)
        peer.ack(40, cls=1)

    held: list[int] = []

    async def test() -> None:
        async with CarrierServer(scripts(slow), carrier, cert) as server:
            feed = Feed([picture(n, 500_000) for n in range(40)]).end()
            stats = await start(rig, server, feed, authority, drain_timeout_s=18)
        assert stats.is_drained and stats.bytes_sent > total
        assert 0 < held[0] < total / 2

    go(test())


def test_files_that_cannot_be_used_are_told_at_the_start(
    rig: Rig, authority: Authority, cert: tuple[str, str], tmp_path: Path
) -> None:
    open_key = tmp_path / "open.key"
    open_key.write_bytes(Path(cert[1]).read_bytes())
    open_key.chmod(0o644)
    other_key = authority.make(NAME, file="other")[1]
    spool = rig.spool()
    for changes, words in [
        ({"ca": "/nowhere/ca.pem"}, "cannot read"),
        ({"ca": cert[1]}, ".key"),
        ({"cert": cert[0]}, "together"),
        ({"cert": cert[0], "key": "/nowhere"}, "cannot read"),
        ({"cert": cert[0], "key": str(open_key)}, "everybody"),
        ({"cert": cert[0], "key": other_key}, "mismatch"),
    ]:
        with pytest.raises(SettingInvalid, match=words):
            Gateway(rig.config(1, url="tls://localhost:1", **changes), [Feed()], spool)
