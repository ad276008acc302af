"""native.hmac against Python's own hmac, with and without the CPU's instructions."""

from __future__ import annotations

import hmac
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.hmac import Hmac

SEEDED = settings(derandomize=True, database=None, deadline=None, max_examples=150)


@SEEDED
@given(st.binary(min_size=1, max_size=64), st.binary(max_size=32), st.binary(max_size=300))
def test_digests_are_those_of_python(key: bytes, label: bytes, message: bytes) -> None:
    expected = hmac.new(key, label + message, "sha256").digest()
    assert Hmac(key, label).digest(message) == expected


@pytest.mark.parametrize("size", [*range(50, 70), *range(110, 135), 4096, 100_000])
def test_every_place_where_a_block_ends(size: int) -> None:
    message = bytes(i % 251 for i in range(size))
    assert Hmac(b"key").digest(message) == hmac.new(b"key", message, "sha256").digest()


def test_a_vector_of_rfc_4231() -> None:
    digest = Hmac(b"Jefe").digest(b"what do ya want for nothing?")
    assert digest.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_what_is_no_key_or_label() -> None:
    for key, label in ((b"", b""), (bytes(65), b""), (b"key", bytes(33))):
        with pytest.raises(ValueError, match="bytes"):
            Hmac(key, label)
    with pytest.raises(TypeError):
        Hmac("key")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pickle.dumps(Hmac(b"key"))
