"""Addresses of carriers: which are taken, and that plain ones stay on this machine."""

from __future__ import annotations

import pytest

from engine.errors import SettingInvalid
from engine.wire.address import parse_address, parse_addresses


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("tcp://127.0.0.1:7401", "tcp://127.0.0.1:7401"),
        ("tcp://127.9.9.9:1", "tcp://127.9.9.9:1"),
        ("tcp://[::1]:7401/", "tcp://[::1]:7401"),
        ("ws://localhost:0", "ws://127.0.0.1:0/ckp"),  # not looked up
        ("tls://engine.example.vn:7402", "tls://engine.example.vn:7402"),
        ("tls://0.0.0.0:7402", "tls://0.0.0.0:7402"),
        ("wss://[::]:443", "wss://[::]:443/ckp"),
        ("wss://engine.example.vn:443/gate/ckp/", "wss://engine.example.vn:443/gate/ckp"),
    ],
)
def test_what_is_an_address(url: str, text: str) -> None:
    assert str(parse_address(url)) == text
    assert parse_address(text) == parse_address(url)


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
@pytest.mark.parametrize(
    "host", ["10.0.0.1", "0.0.0.0", "engine.example.vn", "[::]", "127.0.0", "[fe80::1]"]
)
def test_plain_is_for_loopback_only(scheme: str, host: str) -> None:
    with pytest.raises(SettingInvalid, match="loopback"):
        parse_address(f"{scheme}://{host}:7401")


@pytest.mark.parametrize(
    "url",
    [
        *["", "127.0.0.1:7401", "tcp://:7401", "tcp://127.0.0.1", "tcp://127.0.0.1:65536"],
        *["tcp://127.0.0.1:x", "http://127.0.0.1:80", "tls://[::1", "tls://a:b@host:1"],
        # Looked up they end in UnicodeError, and a gateway that was sent there ended with them.
        *["tls://a..b:1", "wss://" + "x" * 64 + ".vn:1", "tls://a\0b:1", "tls://\udcff:1"],
        *["tls://host:1/path", "wss://host:1/ckp?x=1", "wss://host:1/ckp#x"],
    ],
)
def test_what_is_none(url: str) -> None:
    with pytest.raises(SettingInvalid):
        parse_address(url)


def test_several_and_elsewhere() -> None:
    first, second = parse_addresses("tls://a.vn:1  wss://b.vn:2/x")
    assert parse_addresses("") == []
    assert str(first.elsewhere("c.vn:3")) == "tls://c.vn:3"
    assert str(second.elsewhere("[2001:db8::1]:3")) == "wss://[2001:db8::1]:3/x"
    for wrong in ("nonsense", "c.vn:3/y", "a@c.vn:3", "c..vn:3"):
        with pytest.raises(SettingInvalid):
            first.elsewhere(wrong)
    with pytest.raises(SettingInvalid, match="loopback"):
        parse_address("tcp://127.0.0.1:1").elsewhere("192.0.2.1:7401")
