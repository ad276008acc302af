"""Trust: whose signatures on health passes count, and what was found out about each once.

Keys come from the files of a folder (setting `trust`): certificates as PEM or DER, and JSON with
JWKs, with certificates in base64, or the list that a national gateway hands out. A key counts as
long as its file lies there; the dates of its certificate are not looked at, because printouts
outlive them, and a key that must not count any more is taken out.

A check costs 0.1 ms, more than everything else of a pass, so each is made once: the answer is kept
by a digest of what was signed, by whom. Frames and messages have their passes checked in a thread
before the pipeline asks (`TrustList.check` may be called from any).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from engine.errors import SettingInvalid
from engine.payloads.outcome import Group, Signature, Signed
from engine.payloads.passes import decode_base64

FILES_MAX: Final = 4_096
FILE_SIZE_MAX: Final = 16_777_216  # bytes; the EU's whole list has under 1 MB
ANSWERS_KEPT: Final = 4_096
SUFFIXES: Final = frozenset({".pem", ".crt", ".cer", ".der", ".json", ".jwk", ".jwks"})

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

# Extended key usages of certificates that may sign one kind of pass only; both roots are in use.
_USAGE_ROOTS: Final = ("1.3.6.1.4.1.1847.2021.1", "1.3.6.1.4.1.0.1847.2021.1")
_GROUPS: Final[tuple[Group, ...]] = ("t", "v", "r")
_USAGES: Final[Mapping[str, Group]] = {
    f"{root}.{number}": group for root in _USAGE_ROOTS for number, group in enumerate(_GROUPS, 1)
}
_CURVES: Final[Mapping[str, tuple[type[ec.EllipticCurve], HashAlgorithm]]] = {
    "ES256": (ec.SECP256R1, SHA256()),
    "ES384": (ec.SECP384R1, SHA384()),
    "ES512": (ec.SECP521R1, SHA512()),
}
_PSS: Final = padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size)


@dataclass(frozen=True, slots=True)
class Key:
    """A key that counts. groups: what it may sign, empty for all. issuer: whose alone it is."""

    public: PublicKey
    groups: frozenset[Group] = frozenset()
    issuer: str = ""
    certificate: x509.Certificate | None = None

    def fits(self, signed: Signed) -> bool:
        is_group = not self.groups or signed.group is None or signed.group in self.groups
        return is_group and self.issuer in ("", signed.issuer)


class TrustList:
    """Implements engine.payloads.outcome.Trust."""

    def __init__(self) -> None:
        self._keys: dict[bytes, list[Key]] = {}
        self._certificates: dict[bytes, Key] = {}  # by SHA-256 of their DER
        self._answers: OrderedDict[bytes, Signature] = OrderedDict()
        self._lock = threading.Lock()
        self.checks = 0  # signatures that were computed, not remembered

    def __len__(self) -> int:
        return len({id(key) for keys in self._keys.values() for key in keys})

    # ---- adding ---------------------------------------------------------------------------------

    def add_certificate(self, der: bytes) -> None:
        """Its key is named by the first 8 bytes of the SHA-256 of the certificate.

        Raises ValueError for what is no certificate or has a key that signs no pass.
        """
        certificate = _load_certificate(der)
        public = certificate.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise ValueError("a key that is neither RSA nor on a curve")
        key = Key(public, _groups(certificate), certificate=certificate)
        digest = hashlib.sha256(der).digest()
        self._certificates[digest] = key
        self._add(digest[:8], key)

    def add_jwk(self, jwk: Mapping[str, Any], issuer: str = "") -> None:
        """issuer: the only one whose cards it signs. Raises ValueError for no public key."""
        public = _jwk_to_public(jwk)
        kid = jwk.get("kid")
        if not isinstance(kid, str) or not kid:
            raise ValueError("a JWK without a kid")
        key = Key(public, issuer=issuer)
        self._add(kid.encode(), key)
        raw = decode_base64(kid)  # lists for HC1 write the eight bytes as base64
        if raw is not None and len(raw) == 8:
            self._add(raw, key)

    def add_json(self, found: object) -> None:
        """Certificates and keys of one JSON value, in any of the shapes of docs/payloads.md.

        Raises ValueError.
        """
        if isinstance(found, str):
            self.add_certificate(_text_to_der(found))
        elif isinstance(found, list):
            for item in found:
                self.add_json(item)
        elif isinstance(found, dict):
            self._add_object(found)
        else:
            raise ValueError("neither a certificate nor a key")

    def _add_object(self, found: dict[str, Any]) -> None:
        if "kty" in found:
            self.add_jwk(found)
        elif "rawData" in found or "cert_der_b64" in found:
            if found.get("trusted") is not False:
                self.add_json(found.get("rawData", found.get("cert_der_b64")))
        else:
            lists = [found[name] for name in ("certificates", "dsc") if name in found]
            keys = found.get("shc_jwks", found)
            issuer = found.get("shc_issuer", found.get("issuer", ""))
            jwks = keys.get("keys") if isinstance(keys, dict) else None
            if not (lists or isinstance(jwks, list)) or not isinstance(issuer, str):
                raise ValueError("JSON without certificates or keys")
            self.add_json(lists)
            for jwk in jwks or []:
                if not isinstance(jwk, dict):
                    raise ValueError("a JWK is an object")
                self.add_jwk(jwk, issuer)

    def _add(self, kid: bytes, key: Key) -> None:
        self._keys.setdefault(kid, []).append(key)  # eight bytes are few: several may share them

    # ---- asking ---------------------------------------------------------------------------------

    def check(self, signed: Signed, /) -> Signature:
        digest = _digest(signed)
        with self._lock:
            known = self._answers.get(digest)
            if known is not None:
                self._answers.move_to_end(digest)
                return known
        answer = self._compute(signed)
        with self._lock:
            self.checks += 1
            self._answers[digest] = answer
            if len(self._answers) > ANSWERS_KEPT:
                self._answers.popitem(last=False)
        return answer

    def _compute(self, signed: Signed) -> Signature:
        if signed.certificate:
            return self._check_seal(signed)
        keys = [key for key in self._keys.get(signed.kid, []) if key.issuer in ("", signed.issuer)]
        if not keys:
            return "unknown_key"
        is_good = any(key.fits(signed) and _is_signed(key.public, signed) for key in keys)
        return "valid" if is_good else "bad"

    def _check_seal(self, signed: Signed) -> Signature:
        """Of a code that brings its signer's certificate: that one, or its CA's, must be here."""
        try:
            certificate = _load_certificate(signed.certificate)
            public = certificate.public_key()
        except ValueError:
            return "bad"
        if not isinstance(public, ec.EllipticCurvePublicKey) or not _is_signed(public, signed):
            return "bad"
        if hashlib.sha256(signed.certificate).digest() in self._certificates:
            return "valid"
        is_ours = any(
            key.certificate is not None and _is_issued_by(certificate, key.certificate)
            for key in self._certificates.values()
        )
        return "valid" if is_ours else "unknown_key"


def load_trust(folder: str) -> TrustList:
    """The keys in the files of a folder; an empty list for no folder.

    Raises SettingInvalid for a folder or file that cannot be read: a list that is only half there
    would turn good passes into unknown ones without anybody noticing.
    """
    trust = TrustList()
    if not folder:
        return trust
    try:
        paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise SettingInvalid(f"trust: cannot read {folder}: {error.strerror}") from None
    if len(paths) > FILES_MAX:
        raise SettingInvalid(f"trust: more than {FILES_MAX} files in {folder}")
    for path in paths:
        add_file(trust, path)
    return trust


def add_file(trust: TrustList, path: Path) -> None:
    """Raises SettingInvalid."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_SIZE_MAX + 1)
    except OSError as error:
        raise SettingInvalid(f"trust: cannot read {path}: {error.strerror}") from None
    try:
        if len(data) > FILE_SIZE_MAX:
            raise ValueError("larger than any list of keys")
        for item in _file_to_items(path, data):
            if isinstance(item, bytes):
                trust.add_certificate(item)
            else:
                trust.add_json(item)
    except (ValueError, RecursionError, UnsupportedAlgorithm) as error:
        # Words of ours only; a library's may quote the file.
        why = str(error) if type(error) is ValueError else "not a certificate or a list of keys"
        raise SettingInvalid(f"trust: {path.name}: {why}") from None


def _file_to_items(path: Path, data: bytes) -> Iterator[object]:
    if path.suffix.lower().startswith(".j"):
        yield json.loads(data)
    elif b"-----BEGIN CERTIFICATE-----" in data:
        for certificate in x509.load_pem_x509_certificates(data):
            yield certificate.public_bytes(serialization.Encoding.DER)
    else:
        yield data


def _digest(signed: Signed) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    parts = (
        signed.alg.encode(), signed.kid, signed.issuer.encode(errors="replace"),
        (signed.group or "").encode(), signed.certificate, signed.signature, signed.data,
    )  # fmt: skip
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def _is_signed(public: PublicKey, signed: Signed) -> bool:
    try:
        if signed.alg == "PS256":
            if not isinstance(public, rsa.RSAPublicKey):
                return False
            public.verify(signed.signature, signed.data, _PSS, SHA256())
            return True
        curve, hashed = _CURVES[signed.alg]
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, curve):
            return False
        signature = _to_der(signed, (public.curve.key_size + 7) // 8)
        public.verify(signature, signed.data, ec.ECDSA(hashed))
        return True
    except (InvalidSignature, ValueError, KeyError, UnsupportedAlgorithm):
        return False


def _to_der(signed: Signed, size: int) -> bytes:
    """COSE and JWS have r and s side by side and nothing else; seals also come in DER.

    Raises ValueError.
    """
    raw = signed.signature
    if len(raw) == 2 * size:
        return encode_dss_signature(int.from_bytes(raw[:size]), int.from_bytes(raw[size:]))
    if not signed.certificate:
        raise ValueError("not the size of a signature")
    return raw


def _is_issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca:
            return False
        certificate.verify_directly_issued_by(ca)
        return True
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return False


def _load_certificate(der: bytes) -> x509.Certificate:
    """Raises ValueError, also for what only shows when the key is asked for."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("not a certificate whose key can be used") from None
    return certificate


def _groups(certificate: x509.Certificate) -> frozenset[Group]:
    """What it may sign; empty when it does not say."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    found = {_USAGES.get(usage.dotted_string) for usage in usages}
    return frozenset(group for group in found if group is not None)


def _jwk_to_public(jwk: Mapping[str, Any]) -> PublicKey:
    """Raises ValueError."""
    kind, curve = jwk.get("kty"), jwk.get("crv")
    names = ("n", "e") if kind == "RSA" else ("x", "y")
    first, second = (decode_base64(jwk.get(name)) for name in names)
    if not first or not second:
        raise ValueError("a JWK without its numbers")
    one, other = int.from_bytes(first), int.from_bytes(second)
    if kind == "RSA":
        return rsa.RSAPublicNumbers(other, one).public_key()
    if kind != "EC" or curve != "P-256":
        raise ValueError("a JWK that is neither RSA nor on P-256")
    return ec.EllipticCurvePublicNumbers(one, other, ec.SECP256R1()).public_key()


def _text_to_der(text: str) -> bytes:
    """Raises ValueError."""
    der = decode_base64(text)
    if der is None:
        raise ValueError("not base64 of a certificate")
    return der
