"""TLS 1.3 for both ends of a carrier: certificates from files, and who the other end is.

A gateway's certificate bears its name as CN and is signed by a CA that the engine was given. Files
that change are read again at the next connection, so that a renewed certificate needs no restart.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509

from engine.errors import SettingInvalid, WireAuth, WireTls
from engine.telemetry import Log

ALPN: Final = "ckp/1"
ALPN_WEBSOCKET: Final = "http/1.1"

_log = Log("tls")


class Peer(msgspec.Struct, frozen=True):
    """What a client certificate says. expires_ms: ms since 1970."""

    name: str
    expires_ms: int


class ServerTls:
    """The server's context of one ALPN protocol, made anew when a file has changed.

    ca: certificates that sign gateways; "" when gateways have tokens only. A gateway may come
    without a certificate and show its token instead; one that does not verify ends the handshake.
    Raises SettingInvalid when the files cannot be used at first; a later fault keeps what was.
    """

    def __init__(self, cert: str, key: str, ca: str, *, alpn: str) -> None:
        self._files = (cert, key, ca)
        self._alpn = alpn
        self.expires_ms = 0  # of the certificate that is used, ms since 1970
        self._stamps = self._look()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        stamps = self._look()
        if stamps != self._stamps:
            try:
                self._context = self._load()
                self._stamps = stamps
                _log.info("certificates read again")
            except SettingInvalid as error:
                # A certificate without its new key yet: the next connection looks again.
                _log.error("certificates not read", code=error.code, problem=str(error))
        return self._context

    def _look(self) -> list[tuple[int, int, int]]:
        """What changes when a file is written or replaced."""
        found = []
        for name in filter(None, self._files):
            try:
                status = Path(name).stat()
            except OSError:
                found.append((0, 0, 0))
                continue
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def _load(self) -> ssl.SSLContext:
        cert, key, ca = self._files
        if not cert or not key:
            raise SettingInvalid(
                "tls and wss need a certificate", hint="set tls_cert and tls_key, see docs/protocol"
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _load_chain(context, cert, key)
        if ca:
            _load_ca(context, ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        context.num_tickets = 0  # every link proves anew who it is
        self.expires_ms = _expires_ms(cert)
        return _finish(context, self._alpn)


def client_context(ca: str, cert: str, key: str, *, alpn: str) -> ssl.SSLContext:
    """A gateway's context. ca: "" for the CAs of the system; cert and key: "" for none.

    Raises SettingInvalid.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the server's name too
    if ca:
        _load_ca(context, ca)
    else:
        context.load_default_certs()
    if cert or key:
        _load_chain(context, cert, key)
    return _finish(context, alpn)


def check_alpn(connection: ssl.SSLObject | ssl.SSLSocket, alpn: str) -> None:
    """Raises WireTls when the other end did not agree on the protocol."""
    if connection.selected_alpn_protocol() != alpn:
        raise WireTls(f"the other end does not speak {alpn} (ALPN)")


def peer_of(connection: ssl.SSLObject | ssl.SSLSocket) -> Peer | None:
    """Who a verified certificate names, None without one. Raises WireAuth for one without a CN."""
    certificate: dict[str, Any] | None = connection.getpeercert()
    if not certificate:
        return None
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    names = [value for kind, value in pairs if kind == "commonName"]
    if len(names) != 1:
        raise WireAuth("a gateway's certificate has one CN, its name")
    return Peer(names[0], int(ssl.cert_time_to_seconds(certificate["notAfter"]) * 1000))


def tls_problem(error: Exception) -> str:
    """Why a handshake failed, in the words of the library alone."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return type(error).__name__


def _finish(context: ssl.SSLContext, alpn: str) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([alpn])
    return context


def _load_chain(context: ssl.SSLContext, cert: str, key: str) -> None:
    if not cert or not key:
        raise SettingInvalid("a certificate and its key go together")
    try:
        if Path(key).stat().st_mode & 0o007:
            raise SettingInvalid(f"{key}: everybody may read this key", hint=f"chmod 600 {key}")
        # Without a password a locked key would ask for one at the terminal.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        raise SettingInvalid(f"{cert}, {key}: {tls_problem(error)}") from None
    except OSError as error:
        raise SettingInvalid(f"cannot read {cert} and {key}: {error.strerror}") from None


def _expires_ms(cert: str) -> int:
    """When the first certificate of a PEM file does. Raises SettingInvalid."""
    try:
        found = x509.load_pem_x509_certificate(Path(cert).read_bytes())
    except (OSError, ValueError):
        raise SettingInvalid(f"cannot read {cert}") from None
    return int(found.not_valid_after_utc.timestamp() * 1000)


def _load_ca(context: ssl.SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise SettingInvalid(f"{ca}: {tls_problem(error)}") from None
    except OSError as error:
        raise SettingInvalid(f"cannot read {ca}: {error.strerror}") from None
