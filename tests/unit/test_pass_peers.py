"""Passes against other code: base45, CBOR and signatures as independent libraries see them.

The libraries are those of the `test` extra, imported as any other: without them nothing is proven.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import base45 as peer_base45
import cbor
import ecdsa
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from engine.ingest.trust import TrustList
from engine.payloads import Parsed, Refusal, base45, cose, parse
from engine.payloads.outcome import Signature, Signed
from tests.reference.pass_maker import (
    BUNDLE,
    make_certificate,
    make_cwt,
    make_hc1,
    make_jws,
    make_seal,
    make_sign1,
    to_der,
    to_digits,
    to_jwk,
    to_kid,
)
from tests.reference.payload_vectors import load

VECTORS = {vector.id: vector.payload for vector in load()}
ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"


def test_base45_is_that_of_another_library() -> None:
    rng = random.Random(45)
    for _ in range(3000):
        data = rng.randbytes(rng.randrange(40))
        text = peer_base45.b45encode(data)
        assert base45.decode(bytes(text)) == data
        bent = bytes(rng.choice(ALPHABET) for _ in range(rng.randrange(12)))
        try:
            theirs = peer_base45.b45decode(bent)
        except ValueError:
            theirs = None
        ours = base45.decode(bent)
        # Ours is stricter only where two texts would stand for the same bytes.
        assert ours == theirs or (ours is None and peer_base45.b45encode(theirs) != bent), bent


def test_cbor_is_that_of_another_library() -> None:
    """Of messages as passes have them, and of random values."""
    rng = random.Random(49)

    def value(depth: int) -> Any:
        kinds: list[Any] = [
            rng.randrange(-(1 << 40), 1 << 40), rng.randbytes(rng.randrange(20)), "Ánh" * 3,
            rng.random(), True, False, None,
        ]  # fmt: skip
        if depth:
            kinds += [
                [value(depth - 1) for _ in range(rng.randrange(5))],
                {rng.choice((n, str(n))): value(depth - 1) for n in range(rng.randrange(5))},
            ] * 3
        return rng.choice(kinds)

    for _ in range(600):
        wanted = value(5)
        assert cose.decode(cbor.dumps(wanted)) == wanted
    key = ec.generate_private_key(ec.SECP256R1())
    message = make_sign1(key, b"12345678", make_cwt())
    ours, theirs = cose.open_sign1(message), cbor.loads(message).value
    assert (ours.payload, ours.signature) == (theirs[2], theirs[3])
    assert ours.protected == cbor.loads(theirs[0])
    assert ours.signed == cbor.dumps(["Signature1", theirs[0], b"", theirs[2]])
    assert cose.decode(make_cwt()) == cbor.loads(make_cwt())


class PeerTrust:
    """Checks every ES256 signature with the pure-Python ECDSA library, beside our own list."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.key = ecdsa.VerifyingKey.from_string(
            point, curve=ecdsa.NIST256p, hashfunc=hashlib.sha256
        )
        self.list = TrustList()
        self.list.add_certificate(to_der(make_certificate(key)))
        self.list.add_jwk(to_jwk(key, "peer"))
        self.told: list[tuple[Signature, bool]] = []

    def check(self, signed: Signed, /) -> Signature:
        answer = self.list.check(signed)
        decode = ecdsa.util.sigdecode_string
        if len(signed.signature) != 64:
            decode = ecdsa.util.sigdecode_der
        try:
            is_good = self.key.verify(signed.signature, signed.data, sigdecode=decode)
        except (ecdsa.BadSignatureError, ecdsa.der.UnexpectedDER, ValueError):
            is_good = False
        self.told.append((answer, is_good))
        return answer


def test_signatures_are_those_of_another_library() -> None:
    """What was signed is what the peer verifies, and one bit of difference is bad for both."""
    key = ec.generate_private_key(ec.SECP256R1())
    trust = PeerTrust(key)
    der = to_der(make_certificate(key))
    # A certificate of the same key differs each time it is made, and so does the name of the key.
    trust.list.add_certificate(der)
    good = [
        make_hc1(key, to_kid(der)),
        to_digits(make_jws(key, "peer", BUNDLE, iss="https://x.example")),
        make_seal(key, der),
    ]
    for payload in good:
        assert isinstance(parse(payload, trust=trust), Parsed)
    assert trust.told == [("valid", True)] * 3
    other = ec.generate_private_key(ec.SECP256R1())
    trust.told.clear()
    bad = [
        make_hc1(other, to_kid(der)),
        to_digits(make_jws(other, "peer", BUNDLE, iss="https://x.example")),
    ]
    for payload in bad:
        found = parse(payload, trust=trust)
        assert isinstance(found, Refusal) and found.reason == "bad_signature"
    assert trust.told == [("bad", False)] * 2
