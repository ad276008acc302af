"""Addresses of CKP/1 as URLs: which carrier, which host, which port.

    tcp://127.0.0.1:7401   TCP, loopback only     ws://127.0.0.1:7403   WebSocket, loopback only
    tls://HOST:7402        TCP with TLS 1.3       wss://HOST:443/ckp    WebSocket with TLS 1.3

Tokens and scans never cross a network in plain, and this is the one place that says so.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

import msgspec

from engine.errors import SettingInvalid

SCHEMES: Final = ("tcp", "tls", "ws", "wss")
WEBSOCKET_PATH: Final = "/ckp"


class Address(msgspec.Struct, frozen=True):
    """One end of a carrier. host: a name, or an address without brackets."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def is_tls(self) -> bool:
        return self.scheme in ("tls", "wss")

    @property
    def is_websocket(self) -> bool:
        return self.scheme in ("ws", "wss")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def elsewhere(self, host_port: str) -> Address:
        """HOST:PORT over the same carrier, never a weaker one. Raises SettingInvalid."""
        return parse_address(f"{self.scheme}://{host_port}{self.path}")


def parse_address(url: str) -> Address:
    """The address that a URL names.

    Raises SettingInvalid, for a plain carrier with any but a loopback address too.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if "\0" in host or not host.encode("idna"):  # what no system can look up
            raise ValueError
    except ValueError:  # UnicodeError is one
        host, port = "", None
    if not host or port is None or parts.scheme not in SCHEMES:
        raise SettingInvalid(
            f"{url!r} is no address", hint="like tls://HOST:PORT, with tcp, tls, ws or wss"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingInvalid(f"{url!r}: an address ends with its path and names no user")
    is_websocket = parts.scheme in ("ws", "wss")
    if not is_websocket and parts.path not in ("", "/"):
        raise SettingInvalid(f"{url!r}: only ws and wss take a path")
    path = (parts.path.rstrip("/") or WEBSOCKET_PATH) if is_websocket else ""
    address = Address(parts.scheme, host, port, path)
    return address if address.is_tls else _on_loopback(address)


def parse_addresses(text: str) -> list[Address]:
    """URLs with blanks between them. Raises SettingInvalid."""
    return [parse_address(url) for url in text.split()]


def _on_loopback(address: Address) -> Address:
    if address.host == "localhost":  # not looked up: a name may lead anywhere
        return msgspec.structs.replace(address, host="127.0.0.1")
    with suppress(ValueError):
        if ipaddress.ip_address(address.host).is_loopback:
            return address
    raise SettingInvalid(
        f"{address.scheme}: plain carriers are for loopback addresses only, not {address.host}",
        hint="use tls or wss; docs/protocol.md says how to make certificates",
    )
