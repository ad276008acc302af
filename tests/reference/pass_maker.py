"""Health passes made for tests: signed with throw-away keys, of invented people.

Written from the specifications and apart from engine.payloads, so that the two check each other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from datetime import UTC, datetime
from typing import Any, Final

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"
SHOT: Final[dict[str, Any]] = {
    "tg": "840539006", "vp": "1119349007", "mp": "EU/1/20/1528", "ma": "ORG-100030215", "dn": 2,
    "sd": 2, "dt": "2021-06-11", "co": "SE", "is": "Test", "ci": "URN:UVCI:01:SE:TEST999001",
}  # fmt: skip
HEALTH: Final[dict[str, Any]] = {
    "ver": "1.3.0",
    "nam": {"fn": "Öberg", "fnt": "OEBERG", "gn": "Test Anna", "gnt": "TEST<ANNA"},
    "dob": "1990-06-05",
    "v": [SHOT],
}
BUNDLE: Final[dict[str, Any]] = {
    "resourceType": "Bundle",
    "entry": [
        {
            "resource": {
                "resourceType": "Patient",
                "name": [{"family": "Öberg", "given": ["Test", "Anna"]}],
                "birthDate": "1990-06-05",
            }
        },
        {
            "resource": {
                "resourceType": "Immunization",
                "status": "completed",
                "occurrenceDateTime": "2021-06-11",
            }
        },
    ],
}
SEAL: Final[dict[str, Any]] = {
    "hdr": {"is": "VNM", "t": "icao.vacc", "v": 1},
    "msg": {
        "uvci": "T99900001",
        "pid": {"n": "TRAN VAN TEST", "dob": "1990-06-05", "sex": "M", "i": "C9999001"},
        "ve": [{"des": "XM68M6", "vd": [{"dvc": "2021-06-11", "seq": 2, "ctr": "VNM"}]}],
    },
}
ISSUED_S: Final = 1_625_000_000  # 29/6/2021
ENDS_S: Final = ISSUED_S + 365 * 86_400


def encode_base45(data: bytes) -> str:
    """RFC 9285, section 4, one pair at a time."""
    text = ""
    for i in range(0, len(data), 2):
        pair = data[i : i + 2]
        number, digits = int.from_bytes(pair, "big"), 3 if len(pair) == 2 else 2
        for _ in range(digits):
            number, digit = divmod(number, 45)
            text += ALPHABET[digit]
    return text


def encode_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def raw_signature(private: Private, data: bytes) -> bytes:
    """r and s side by side, or of RSA the PSS number."""
    if isinstance(private, rsa.RSAPrivateKey):
        return private.sign(data, padding.PSS(padding.MGF1(SHA256()), 32), SHA256())
    size = (private.curve.key_size + 7) // 8
    numbers = decode_dss_signature(private.sign(data, ec.ECDSA(SHA256())))
    return b"".join(number.to_bytes(size, "big") for number in numbers)


def make_certificate(
    private: Private,
    *,
    usages: tuple[str, ...] = (),
    ca: tuple[x509.Certificate, Private] | None = None,
    is_ca: bool = False,
    name: str = "TEST ONLY",
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca[0].subject if ca else subject)
        .public_key(private.public_key())
        .serial_number(999_001)
        .not_valid_before(datetime(2021, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2023, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    )
    if usages:
        found = [x509.ObjectIdentifier(usage) for usage in usages]
        builder = builder.add_extension(x509.ExtendedKeyUsage(found), critical=False)
    return builder.sign(ca[1] if ca else private, SHA256())


def to_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def to_kid(der: bytes) -> bytes:
    return hashlib.sha256(der).digest()[:8]


def to_jwk(private: ec.EllipticCurvePrivateKey, kid: str = "") -> dict[str, str]:
    numbers = private.public_key().public_numbers()
    x, y = (encode_base64(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
    thumb = json.dumps({"crv": "P-256", "kty": "EC", "x": x, "y": y}, separators=(",", ":"))
    kid = kid or encode_base64(hashlib.sha256(thumb.encode()).digest())
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid}


def make_cwt(health: object = HEALTH, **claims: Any) -> bytes:
    """claims: by name, as iss, exp, iat, nbf; None leaves one out."""
    values = {"iss": "SE", "exp": ENDS_S, "iat": ISSUED_S, **claims}
    numbers = {"iss": 1, "exp": 4, "nbf": 5, "iat": 6}
    found = {numbers[name]: value for name, value in values.items() if value is not None}
    return cbor2.dumps({**found, -260: {1: health}})


def make_sign1(
    private: Private,
    kid: bytes,
    payload: bytes,
    *,
    algorithm: int | None = None,
    protected: dict[int, Any] | None = None,
    unprotected: dict[int, Any] | None = None,
    signature: bytes | None = None,
) -> bytes:
    """A tagged COSE_Sign1."""
    known = -37 if isinstance(private, rsa.RSAPrivateKey) else -7
    headers = {1: algorithm or known, 4: kid} if protected is None else protected
    packed = cbor2.dumps(headers)
    data = cbor2.dumps(["Signature1", packed, b"", payload])
    made = raw_signature(private, data) if signature is None else signature
    return cbor2.dumps(cbor2.CBORTag(18, [packed, unprotected or {}, payload, made]))


def wrap_hc1(message: bytes) -> bytes:
    return b"HC1:" + encode_base45(zlib.compress(message, 9)).encode()


def make_hc1(private: Private, kid: bytes, health: object = HEALTH, **claims: Any) -> bytes:
    return wrap_hc1(make_sign1(private, kid, make_cwt(health, **claims)))


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def make_jws(
    private: ec.EllipticCurvePrivateKey, kid: str, bundle: object = BUNDLE, **claims: Any
) -> str:
    header = {"zip": "DEF", "alg": "ES256", "kid": kid}
    body = {
        "iss": "https://test.example/issuer",
        "nbf": ISSUED_S,
        "vc": {
            "type": ["https://smarthealth.cards#health-card"],
            "credentialSubject": {"fhirVersion": "4.0.1", "fhirBundle": bundle},
        },
        **claims,
    }
    parts = (json.dumps(header).encode(), deflate(json.dumps(body).encode()))
    text = ".".join(map(encode_base64, parts))
    return f"{text}.{encode_base64(raw_signature(private, text.encode()))}"


def to_digits(text: str, chunk: str = "") -> bytes:
    return f"shc:/{chunk}".encode() + b"".join(b"%02d" % (byte - 45) for byte in text.encode())


def make_seal(
    private: ec.EllipticCurvePrivateKey,
    der: bytes,
    data: object = SEAL,
    *,
    is_der: bool = False,
) -> bytes:
    """Its data has ASCII names and whole numbers, so sorting by code point is canonical."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    signed = raw_signature(private, canonical)
    value = private.sign(canonical, ec.ECDSA(SHA256())) if is_der else signed
    signature = {"alg": "ES256", "cer": encode_base64(der), "sigvl": encode_base64(value)}
    return json.dumps({"data": data, "sig": signature}, ensure_ascii=False).encode()
