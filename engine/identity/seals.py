"""Seals: bytes for the holder of an X25519 key, bound to what they belong to.

As RFC 9180's base mode: an ephemeral key, HKDF-SHA256 of the shared secret with both public keys
as salt, ChaCha20-Poly1305.

    version 1 u8 | ephemeral public key 32 | ciphertext and tag
    version 2 u8 | ephemeral public key 32 | nonce 12 | ciphertext and tag

In version 1 the ephemeral key is new for each seal, so the nonce is derived like the key. In
version 2 a few seals share it, and each has a random nonce: a count would be used twice where a
running machine is copied.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.errors import SealBroken
from engine.identity.key_files import KEY_SIZE

SEAL_OVERHEAD: Final = 1 + KEY_SIZE + 16  # of version 1: version, ephemeral public key, tag
# Who reads this process's memory can open what is sealed with the ephemeral key at hand: little,
# and nothing that is older than that.
RENEW_SEALS: Final = 256
RENEW_S: Final = 10.0

_ONE: Final = 1
_MANY: Final = 2
_INFO: Final = {_ONE: b"chot/seal/1", _MANY: b"chot/seal/2"}
_NONCE_SIZE: Final = 12
KNOWN_MAX: Final = 1024  # ephemeral keys that a holder remembers

Open = Callable[[bytes, bytes], bytes]  # sealed, associated data


def seal(public: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Seal to an X25519 public key (32 bytes): 49 bytes longer than the plaintext (version 1).

    Raises SealBroken when `public` is not a usable key.
    """
    ephemeral = X25519PrivateKey.generate()
    ephemeral_public = ephemeral.public_key().public_bytes_raw()
    key, nonce = _secrets(_ONE, ephemeral, public, ephemeral_public + public)
    body = ChaCha20Poly1305(key).encrypt(nonce, plaintext, aad)
    return bytes((_ONE,)) + ephemeral_public + body


class Sealer:
    """Seals many things to one public key: 61 bytes longer (version 2). One thread at a time.

    To make an ephemeral key and a shared secret takes longer than all else; so RENEW_SEALS seals
    have the same, if they come within RENEW_S.
    """

    def __init__(self, public: bytes) -> None:
        self.public = public
        self._count = RENEW_SEALS
        self._until_s = 0.0

    def seal(self, plaintext: bytes, aad: bytes, nonce: bytes = b"") -> bytes:
        """nonce: 12 random bytes, for who draws them ahead. Raises SealBroken when `public` is not
        a usable key."""
        if self._count >= RENEW_SEALS or time.monotonic() >= self._until_s:
            self._renew()
        self._count += 1
        nonce = nonce or os.urandom(_NONCE_SIZE)
        return self._head + nonce + self._cipher.encrypt(nonce, plaintext, aad)

    def _renew(self) -> None:
        ephemeral = X25519PrivateKey.generate()
        ephemeral_public = ephemeral.public_key().public_bytes_raw()
        key, _ = _secrets(_MANY, ephemeral, self.public, ephemeral_public + self.public)
        self._cipher = ChaCha20Poly1305(key)
        self._head = bytes((_MANY,)) + ephemeral_public
        self._count = 0
        self._until_s = time.monotonic() + RENEW_S


class Holder:
    """A private key, to open many seals. To make one of its bytes takes as long as a seal."""

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self._public = private.public_key().public_bytes_raw()
        self._known: dict[bytes, tuple[ChaCha20Poly1305, bytes]] = {}  # by the head of version 2

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Raises SealBroken."""
        version, at = (sealed[0] if sealed else 0), 1 + KEY_SIZE
        if len(sealed) < SEAL_OVERHEAD or version not in _INFO:
            raise SealBroken("not sealed bytes of a known version")
        head = bytes(sealed[:at])
        cipher, nonce = self._known.get(head) or self._ciphers_of(head)
        if version == _MANY:
            if len(sealed) < SEAL_OVERHEAD + _NONCE_SIZE:
                raise SealBroken("not sealed bytes of a known version")
            nonce = bytes(sealed[at : at + _NONCE_SIZE])
            at += _NONCE_SIZE
        try:
            plaintext = cipher.decrypt(nonce, sealed[at:], aad)
        except InvalidTag as error:
            raise SealBroken("sealed bytes do not open with this key") from error
        if version == _MANY and head not in self._known:
            # Only what opened is remembered. Somebody who has the key may still bring many.
            if len(self._known) >= KNOWN_MAX:
                self._known = {}
            self._known[head] = cipher, nonce
        return plaintext

    def _ciphers_of(self, head: bytes) -> tuple[ChaCha20Poly1305, bytes]:
        ephemeral_public = head[1:]
        salt = ephemeral_public + self._public
        key, nonce = _secrets(head[0], self._private, ephemeral_public, salt)
        return ChaCha20Poly1305(key), nonce


def holder_of(private: bytes) -> Holder:
    """Of 32 bytes. Raises SealBroken."""
    try:
        return Holder(X25519PrivateKey.from_private_bytes(private))
    except ValueError as error:
        raise SealBroken("the private key has the wrong size") from error


def open_sealed(private: bytes, sealed: bytes, aad: bytes) -> bytes:
    """Open what was sealed to the public half of `private`. Raises SealBroken."""
    return holder_of(private).open(sealed, aad)


def open_with(holders: Sequence[Holder], sealed: bytes, aad: bytes) -> bytes:
    """By whichever opens it. Raises SealBroken."""
    for holder in holders[:-1]:
        with contextlib.suppress(SealBroken):
            return holder.open(sealed, aad)
    return holders[-1].open(sealed, aad)


def _secrets(
    version: int, mine: X25519PrivateKey, theirs: bytes, salt: bytes
) -> tuple[bytes, bytes]:
    try:
        shared = mine.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:  # wrong size, or a point of small order
        raise SealBroken("the public key cannot be used") from error
    okm = HKDF(SHA256(), KEY_SIZE + 12, salt, _INFO[version]).derive(shared)
    return okm[:KEY_SIZE], okm[KEY_SIZE:]
