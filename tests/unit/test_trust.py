"""Trust: keys from files of every shape, faults said plainly, each signature checked once."""

from __future__ import annotations

import base64
import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from engine.errors import SettingInvalid
from engine.ingest import trust as trust_module
from engine.ingest.trust import TrustList, load_trust
from engine.payloads import Parsed, Signed, parse
from tests.reference.pass_maker import (
    make_certificate,
    make_hc1,
    make_jws,
    make_seal,
    to_der,
    to_digits,
    to_jwk,
    to_kid,
)

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
CERTIFICATE = make_certificate(KEY)
DER = to_der(CERTIFICATE)
PEM = CERTIFICATE.public_bytes(Encoding.PEM)
B64 = base64.b64encode(DER).decode()
JWK = to_jwk(KEY)


def signature(trust: TrustList, payload: bytes) -> str | None:
    parsed = parse(payload, trust=trust)
    assert isinstance(parsed, Parsed)
    return parsed.signature


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("se.pem", PEM),
        ("many.crt", b"text before\n" + PEM + to_der(make_certificate(OTHER)).hex().encode()),
        ("se.der", DER),
        ("SE.CER", DER),
        ("list.json", json.dumps([B64])),
        ("gateway.json", json.dumps([{"kid": "x", "country": "SE", "rawData": B64}])),
        ("national.json", json.dumps({"certificates": [{"rawData": B64}]})),
        ("vectors.json", json.dumps({"dsc": [{"cert_der_b64": B64, "trusted": True}]})),
        ("kid.jwk", json.dumps({**JWK, "kid": base64.b64encode(to_kid(DER)).decode()})),
    ],
)
def test_files_of_every_shape(tmp_path: Path, name: str, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    (tmp_path / "notes.txt").write_text("not read")
    trust = load_trust(str(tmp_path))
    assert len(trust) == 1
    assert signature(trust, make_hc1(KEY, to_kid(DER))) == "valid"


@pytest.mark.parametrize(
    ("found", "issuer"),
    [
        ({"keys": [JWK]}, "https://other.example"),
        ({"keys": [JWK], "issuer": "https://test.example/issuer"}, "https://test.example/issuer"),
        ({"shc_jwks": {"keys": [JWK]}, "shc_issuer": "https://x.example"}, "https://x.example"),
    ],
)
def test_keys_of_health_cards(tmp_path: Path, found: dict[str, object], issuer: str) -> None:
    (tmp_path / "keys.json").write_text(json.dumps(found))
    trust = load_trust(str(tmp_path))
    assert signature(trust, to_digits(make_jws(KEY, JWK["kid"], iss=issuer))) == "valid"
    stranger = to_digits(make_jws(KEY, JWK["kid"], iss="https://evil.example"))
    named = "issuer" in found or "shc_issuer" in found
    assert signature(trust, stranger) == ("unknown_key" if named else "valid")


def test_what_is_marked_as_not_trusted_is_left_out() -> None:
    trust = TrustList()
    trust.add_json({"dsc": [{"cert_der_b64": B64, "trusted": False}]})
    assert len(trust) == 0
    assert signature(trust, make_seal(KEY, DER)) == "unknown_key"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("a.der", b"SECRET WORDS"),
        ("a.der", b""),
        ("a.json", b"{"),
        ("a.json", b"[" * 100_000),
        ("a.json", b"3"),
        ("a.json", b"{}"),
        ("a.json", b'["SECRET"]'),
        ("a.json", b'{"keys": ["SECRET"]}'),
        ("a.json", b'{"keys": [], "issuer": 4}'),
        ("a.jwk", json.dumps({**JWK, "crv": "P-384"}).encode()),
        ("a.jwk", json.dumps({**JWK, "x": "AAAA"}).encode()),
        ("a.jwk", json.dumps({**JWK, "kid": 4}).encode()),
        ("a.jwk", json.dumps({"kty": "RSA", "n": "AA", "e": "AA", "kid": "x"}).encode()),
        ("a.jwk", json.dumps({"kty": "oct", "k": "AAAA", "kid": "x"}).encode()),
    ],
)
def test_a_file_that_is_no_key_stops_the_start(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingInvalid) as caught:
        load_trust(str(tmp_path))
    assert name in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_no_folder_is_an_empty_list_and_a_missing_one_is_a_fault(tmp_path: Path) -> None:
    assert len(load_trust("")) == 0
    with pytest.raises(SettingInvalid):
        load_trust(str(tmp_path / "missing"))


def test_a_key_that_signs_no_pass() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2021, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2023, 1, 1, tzinfo=UTC))
        .sign(private, None)
    )
    with pytest.raises(ValueError, match="neither"):
        TrustList().add_certificate(to_der(made))


def test_a_file_larger_than_any_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_module, "FILE_SIZE_MAX", 100)
    (tmp_path / "a.pem").write_bytes(PEM)
    with pytest.raises(SettingInvalid, match="larger"):
        load_trust(str(tmp_path))


# ---- once ---------------------------------------------------------------------------------------


def test_a_signature_is_computed_once() -> None:
    trust = TrustList()
    trust.add_certificate(DER)
    payload = make_hc1(KEY, to_kid(DER))
    for _ in range(5):
        assert signature(trust, payload) == "valid"
    assert trust.checks == 1
    assert signature(trust, make_hc1(KEY, to_kid(DER))) == "valid"  # another number each time
    assert trust.checks == 2


def test_every_part_of_what_was_asked_counts() -> None:
    """An answer that was kept must not speak for anything else."""
    trust = TrustList()
    trust.add_certificate(DER)
    good = Signed("ES256", to_kid(DER), b"data", b"s" * 64, "SE", "v")
    for other in (
        Signed("PS256", to_kid(DER), b"data", b"s" * 64, "SE", "v"),
        Signed("ES256", b"8 bytes!", b"data", b"s" * 64, "SE", "v"),
        Signed("ES256", to_kid(DER), b"datas", b"s" * 63, "SE", "v"),
        Signed("ES256", to_kid(DER), b"data", b"s" * 64, "SEv", None),
        Signed("ES256", to_kid(DER), b"data", b"s" * 64, "SE", "t"),
        Signed("ES256", to_kid(DER), b"data", b"s" * 64, "SE", "v", b"x"),
    ):
        before = trust.checks
        trust.check(good)
        trust.check(other)
        assert trust.checks - before in (1, 2), other
    assert trust.checks == 7


def test_answers_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_module, "ANSWERS_KEPT", 8)
    trust = TrustList()
    for number in range(50):
        trust.check(Signed("ES256", b"kid", b"%d" % number, b""))
    assert len(trust._answers) == 8
    trust.check(Signed("ES256", b"kid", b"49", b""))
    assert trust.checks == 50


def test_threads_may_ask_at_once() -> None:
    trust = TrustList()
    trust.add_certificate(DER)
    payloads = [make_hc1(KEY, to_kid(DER)) for _ in range(4)]
    found: list[str | None] = []

    def ask() -> None:
        found.extend(signature(trust, payload) for payload in payloads for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["valid"] * 320
    assert 4 <= trust.checks <= 16
