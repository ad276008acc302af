"""Certificates for tests, made as an operator makes them with openssl (docs/protocol.md)."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """A CA whose files lie in `folder`. `ca` is the path of its own certificate."""

    def __init__(self, folder: Path, name: str = "chot test CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key, -1, 3650)
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        usage = dict.fromkeys(
            [
                *["digital_signature", "content_commitment", "key_encipherment"],
                *["data_encipherment", "key_agreement", "encipher_only", "decipher_only"],
            ],
            False,
        )
        builder = builder.add_extension(
            x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True
        )
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = builder.add_extension(self._identifier, critical=False)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def make(
        self,
        *names: str,
        file: str = "",
        is_server: bool = False,
        from_days: float = -1,
        days: float = 30,
    ) -> tuple[str, str]:
        """Paths of a certificate with these CNs and of its key.

        A server's is for 127.0.0.1 and localhost. Valid from `from_days` to `days` from now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
        builder = _builder(subject, self._name, key, from_days, days)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier),
            critical=False,
        )
        if is_server:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(
                x509.SubjectAlternativeName([address, x509.DNSName("localhost")]), critical=False
            )
        path = self.folder / (file or "-".join(names) or "nameless")
        cert, private = path.with_suffix(".pem"), path.with_suffix(".key")
        cert.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        private.touch(mode=0o600)
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(cert), str(private)

    def engine_settings(self, *schemes: str) -> dict[str, object]:
        """Settings of an engine with a certificate of ours and a door for each scheme."""
        cert, key = self.make("engine", is_server=True)
        listen = " ".join(f"{scheme}://127.0.0.1:0" for scheme in schemes)
        return {"ingest_listen": listen, "tls_cert": cert, "tls_key": key}


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    from_days: float,
    days: float,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + from_days * DAY)
        .not_valid_after(now + days * DAY)
    )
