"""Passes under fire: what unpacks is bent at each of its layers, and stays within time and memory.

A layer is bent and what stands around it is made right again, so that the bytes come through to the
layers inside: base45 and zlib around COSE, digits, base64 and deflate around JSON, signatures and
all. Whatever comes is a person, a part or a refusal.
"""

from __future__ import annotations

import json
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from engine.ingest.trust import TrustList
from engine.payloads import PAYLOAD_MAX, Chunk, Parsed, Refusal, base45, cose, join_chunks, parse
from engine.payloads.passes import decode_base64
from tests.reference.pass_maker import (
    BUNDLE,
    HEALTH,
    SEAL,
    deflate,
    encode_base45,
    encode_base64,
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

KEY = ec.generate_private_key(ec.SECP256R1())
DER = to_der(make_certificate(KEY))
KID = to_kid(DER)
JWK = to_jwk(KEY)
TRUST = TrustList()
TRUST.add_certificate(DER)
TRUST.add_jwk(JWK)
# A symbol holds 2,953 bytes. Unpacked they are 64 KiB at most, of which JSON makes objects.
MEMORY_MAX = 2 << 20
SECONDS_MAX = 5.0  # of one payload; it takes a millisecond, and machines may be busy
ROUNDS = 250

# Beginnings of CBOR that promise much or nest, and of JSON likewise.
CBOR_BITS = [
    bytes([n]) for n in (0x5B, 0x7B, 0x9B, 0xBB, 0x9F, 0xBF, 0x5F, 0xC2, 0xD8, 0xF9, 0xFB, 0xFF)
]
CBOR_BITS += [b"\x9b" + b"\xff" * 8, b"\xba\x00\xff\xff\xff", b"\x81" * 200, b"\xd8\x1c" * 50]
JSON_BITS = [
    b"[" * 300,
    b'{"a":' * 200,
    b"1e999999",
    b"-0",
    b"\\ud800",
    b'"' * 5,
    b"9" * 600,
    b"NaN",
]
CBOR = [make_sign1(KEY, KID, make_cwt(HEALTH)), make_cwt(HEALTH)]


def bend(rng: random.Random, data: bytes, bits: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0:
                changed[at:at] = rng.choice(bits)
            case 1:
                del changed[at : at + rng.randint(1, 60)]
            case 2:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 3:
                changed[at:at] = changed[: rng.randint(1, 400)]
            case _:
                changed[at : at + 4] = rng.randbytes(4)
    return bytes(changed)


def hc1_message(rng: random.Random) -> bytes:
    """The message is bent; packing is right."""
    message = bend(rng, make_sign1(KEY, KID, make_cwt(HEALTH)), CBOR_BITS)
    return b"HC1:" + encode_base45(zlib.compress(message)).encode()


def hc1_packed(rng: random.Random) -> bytes:
    packed = bend(rng, zlib.compress(make_sign1(KEY, KID, make_cwt(HEALTH))), CBOR_BITS)
    return b"HC1:" + encode_base45(packed).encode()


def hc1_text(rng: random.Random) -> bytes:
    return bend(rng, make_hc1(KEY, KID), [b"::", b"A", b" ", b"\xff"])


def shc_bundle(rng: random.Random) -> bytes:
    """The content is bent before it is packed; signature and all else is of some other card."""
    head, _, tail = make_jws(KEY, JWK["kid"], BUNDLE).split(".")
    content = bend(rng, json.dumps({"iss": "https://x.example", "vc": BUNDLE}).encode(), JSON_BITS)
    return to_digits(f"{head}.{encode_base64(deflate(content))}.{tail}")


def shc_packed(rng: random.Random) -> bytes:
    head, body, tail = make_jws(KEY, JWK["kid"], BUNDLE).split(".")
    packed = bend(rng, decode_base64(body) or b"", JSON_BITS)
    return to_digits(f"{head}.{encode_base64(packed)}.{tail}")


def shc_digits(rng: random.Random) -> bytes:
    return bend(rng, to_digits(make_jws(KEY, JWK["kid"], BUNDLE)), [b"1/2/", b"99", b"/"])


def hc1_bomb(rng: random.Random) -> bytes:
    """Little that unpacks to much: up to what deflate gives, a thousand to one."""
    packed = zlib.compress(rng.choice(CBOR_BITS) * rng.randrange(1, 20_000), 9)
    return b"HC1:" + encode_base45(packed).encode()


def shc_bomb(rng: random.Random) -> bytes:
    head, _, tail = make_jws(KEY, JWK["kid"], BUNDLE).split(".")
    content = rng.choice(JSON_BITS) * rng.randrange(1, 3_000)
    return to_digits(f"{head}.{encode_base64(deflate(content))}.{tail}")


def seal_text(rng: random.Random) -> bytes:
    return bend(rng, make_seal(KEY, DER, SEAL), JSON_BITS)


TARGETS: list[Callable[[random.Random], bytes]] = [
    hc1_message, hc1_packed, hc1_text, hc1_bomb, shc_bundle, shc_packed, shc_digits, shc_bomb,
    seal_text,
]  # fmt: skip


def measured(work: Callable[[], Any]) -> tuple[Any, float, int]:
    """(what it gave, seconds, bytes it took at most)."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    begun = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - begun
    return found, seconds, tracemalloc.get_traced_memory()[1] - before


@pytest.mark.parametrize("make", TARGETS, ids=lambda make: make.__name__)
def test_whatever_is_unpacked_stays_within_bounds(make: Callable[[random.Random], bytes]) -> None:
    rng = random.Random(f"{make.__name__} 2021")
    deep = 0
    parse(make(rng), trust=TRUST)  # libraries that load with the first pass are not its memory
    tracemalloc.start()
    try:
        for n in range(ROUNDS):
            payload = make(rng)
            found, seconds, size = measured(lambda p=payload: parse(p, now_s=1.65e9, trust=TRUST))
            assert isinstance(found, Parsed | Chunk | Refusal), n
            assert seconds < SECONDS_MAX and size < MEMORY_MAX, (n, seconds, size)
            deep += len(payload) <= PAYLOAD_MAX
    finally:
        tracemalloc.stop()
    assert deep > ROUNDS // 2, "most of them fit into a symbol, so they were unpacked"


def test_parts_of_a_card_stay_within_bounds() -> None:
    rng = random.Random("parts 2021")
    jws = make_jws(KEY, JWK["kid"], BUNDLE)
    half = len(jws) // 2
    for _ in range(ROUNDS):
        texts = [to_digits(jws[:half], "1/2/"), to_digits(jws[half:], "2/2/")]
        texts[rng.randrange(2)] = bend(rng, texts[rng.randrange(2)], [b"3/2/", b"11", b"0"])
        chunks = [c for c in map(parse, texts) if isinstance(c, Chunk)]
        assert isinstance(join_chunks(chunks, trust=TRUST), Parsed | Refusal)


@pytest.mark.parametrize("seed", range(4))
def test_cbor_and_base45_alone(seed: int) -> None:
    """The two that are walked by our own code, on bytes that no envelope vouches for."""
    rng = random.Random(seed)
    cose.decode(make_cwt(HEALTH))
    tracemalloc.start()
    try:
        for _ in range(ROUNDS):
            data = bend(rng, rng.choice(CBOR), CBOR_BITS)

            def decode(data: bytes = data) -> bool:
                try:
                    cose.decode(data)
                except ValueError:
                    return False
                return True

            _, seconds, size = measured(decode)
            assert seconds < SECONDS_MAX and size < MEMORY_MAX
            text = bend(rng, encode_base45(data).encode(), [b":::", b"GGW", b"a", b"\x80"])
            found, seconds, size = measured(lambda t=text: base45.decode(t))
            assert found is None or encode_base45(found).encode() == text
            assert seconds < SECONDS_MAX and size < MEMORY_MAX
    finally:
        tracemalloc.stop()
