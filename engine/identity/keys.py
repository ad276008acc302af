"""Keys: pseudonyms, seals, and the key ring that can forget a day.

A person key is an HMAC under the province's key; whoever holds that key can invert every pseudonym,
because ID numbers are guessable, so it never leaves the engine. A seal is one-way: the engine seals
to a public key, only the desk (the API process) holds the private half. Destroying the keys of a
day leaves nothing that ties a visit of that day to anyone, in the store or in any backup of it.

Files of a `FileKeyRing` (each 32 raw bytes, docs/storage.md):

    province.key  venue.key  ingest.key  erasure.key      days/DAY.log.key  days/DAY.details.pub
    audit.pub  desk/audit.key  desk/DAY.details.key       days/DAY.destroyed (empty tombstone)
    venue-N.key (N from 2: each rotation makes the next)
    rotations.json  province-N.key  ingest-N.key  audit-N.pub  desk/audit-N.key   (N from 2)

DAY is the civil day number of engine.clock. Keys are never part of a backup of the store.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.errors import KeyDestroyed, KeyMissing, SealBroken
from engine.identity.key_files import (
    KEY_SIZE,
    as_key_missing,
    check_directory,
    is_ours,
    load_key,
    wipe,
    write_file,
    write_key,
)
from engine.identity.rotations import (
    FILE,
    PERSON_KEY_SIZE,
    STEPS_MAX,
    Kind,
    Pseudonyms,
    Rotation,
    bytes_to_rotations,
    digest_to_vehicle,
    rotations_to_bytes,
)
from engine.identity.seals import Open, Sealer, holder_of, open_sealed, open_with, seal
from engine.presence.visits import Array
from native.hmac import Hmac

VENUE_TAG_SIZE = 5
ERASURE_TAG_SIZE = 16
DESK_DIR = "desk"

_VENUE_LABEL = b"chot/venue/1\0"
_ERASURE_LABEL = b"chot/erasure/1\0"
_DAY_FILE = re.compile(r"(-?\d{1,9})\.(log\.key|details\.pub|destroyed)")


class KeyRing(Protocol):
    """Where the engine's keys come from; a file ring here, an HSM or KMS elsewhere.

    Every method may be called from any thread.
    """

    @property
    def person_mac(self) -> Hmac | None:
        """Makes person keys where no Python runs (native.plain); None where the key is not here."""

    @property
    def vehicle_mac(self) -> Hmac | None:
        """As person_mac, of the numbers of vehicles."""

    def person_key(self, kind: str, issuer: str, canonical: str) -> bytes:
        """16 bytes. Raises ValueError when kind or issuer holds a NUL."""

    def vehicle_number(self, kind: str, canonical: str) -> int:
        """1 to 2**32 - 1, of a plate or a trip. Two of them get one number once in billions."""

    def venue_tag(self, body: bytes, key: int = 1) -> bytes:
        """5 bytes that only the province can make for a venue code, under its key of that number.

        Raises KeyMissing when there is no such key.
        """

    def make_venue_key(self, key: int) -> None:
        """Makes the key of that number, from 2 on, if it is not there. Raises KeyMissing."""

    def log_key(self, day: int, *, make: bool = True) -> bytes:
        """32 bytes for the day's log rows; made at first use unless `make` is false.

        Raises KeyDestroyed when the day was forgotten, KeyMissing when it cannot be had.
        """

    def details_public(self, day: int) -> bytes:
        """32 bytes to seal the day's details to; made at first use. Raises as log_key."""

    def seal_details(self, day: int, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Seals to details_public (engine.identity.seals.Sealer). Raises as log_key."""

    def change_details(
        self, day: int, sealed: bytes, aad: bytes, change: Callable[[bytes], bytes]
    ) -> bytes:
        """Seals anew what `change` makes of a group's details; nobody else gets to see them.

        For erasing a person. Raises as log_key, SealBroken.
        """

    def erasure_tag(self, person: bytes) -> bytes:
        """16 bytes that stand for an erased person key; only this ring can tell for which."""

    def ingest_public(self) -> bytes:
        """32 bytes that gateways seal their spools to."""

    def open_ingest(self, sealed: bytes, aad: bytes) -> bytes:
        """Plaintext of what was sealed to any of the ingest keys. Raises SealBroken."""

    def open_spool(self, sealed: bytes, aad: bytes) -> bytes:
        """As open_ingest, of what a gateway sealed: with keys whose time is not over."""

    def renew_person(self, person: bytes, control_lsn: int) -> bytes:
        """Today's key of the person of a control record, see engine.identity.rotations."""

    def spellings(self, person: bytes) -> tuple[bytes, ...]:
        """A person key as it is stored, and what it is today."""

    def renew_rows(self, rows: Array, log_lsn: int) -> Array:
        """Rows (ROW) of a group of the log with today's persons and vehicles."""

    def audit_public(self) -> bytes:
        """32 bytes that the persons of audit records are sealed to."""

    def seal_audit(self, persons: bytes, aad: bytes) -> bytes:
        """Seals to audit_public (engine.identity.seals.Sealer)."""

    def destroy_day(self, day: int) -> None:
        """Forget the day for good; may be repeated. Raises KeyMissing when it could not."""

    def days(self) -> list[int]:
        """Days that have keys, ascending; destroyed days are not among them."""


def _numbered(kind: str, number: int, suffix: str = "key") -> str:
    return f"{kind}.{suffix}" if number == 1 else f"{kind}-{number}.{suffix}"


def encrypt(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """AES-256-GCM: ciphertext and 16 bytes of tag. The caller never repeats a nonce (12 bytes)."""
    return AESGCM(key).encrypt(nonce, plaintext, aad)


def decrypt(key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
    """What `encrypt` was given. Raises SealBroken."""
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except InvalidTag as error:
        raise SealBroken("sealed bytes do not open with this key") from error


def derive_key(key: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """HKDF-SHA256: another key that only the holder of `key` can make; destroyed with it."""
    return HKDF(SHA256(), size, salt, info).derive(key)


def make_pair() -> tuple[bytes, bytes]:
    """A new X25519 pair: (private, public), 32 bytes each."""
    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def private_to_public(private: bytes) -> bytes:
    """Public half of an X25519 private key. Raises KeyMissing when it is not 32 bytes."""
    try:
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    except ValueError as error:
        raise KeyMissing("a private key has the wrong size") from error


class FileKeyRing:
    """Keys as plain files, the directories 0700 and the files 0600.

    `create` makes what is missing; without it a missing directory or key is KeyMissing. `desk`
    names another directory for the private halves, so that it can belong to the API's user: when
    that directory carries the set-group-id bit, the halves are written 0640 for its group.

    The files are the truth. What was read is kept in memory; another process that destroys a day
    is noticed by the next FileKeyRing, not by this one.
    """

    def __init__(
        self, path: str | os.PathLike[str], create: bool = False, desk: Path | None = None
    ) -> None:
        self._root = Path(path)
        self._days_dir = self._root / "days"
        self._desk = Path(desk) if desk is not None else self._root / DESK_DIR
        self._lock = threading.Lock()
        self._log_keys: dict[int, bytes] = {}
        self._details: dict[int, bytes] = {}
        self._sealers: dict[int, Sealer] = {}
        self._sealing = threading.Lock()
        if create:
            with as_key_missing(self._root):
                for directory in (self._root, self._days_dir, self._desk):
                    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_directory(self._root)
        check_directory(self._days_dir)
        if create:
            check_directory(self._desk, group=True)
            self._make_long_lived()
        self.rotations = self._load_rotations()
        ingests = self._keys("ingest")
        self._ingests = [holder_of(key) for key in ingests]
        self._spool_keys = self._ingests[::-1]  # the newest is nearly always the one
        self._ingest_public = private_to_public(ingests[-1])
        audits = 1 + len(self._rotated("audit"))
        self._audits = Sealer(load_key(self._root / _numbered("audit", audits, "pub")))
        self._names = Pseudonyms(self._keys("province"), self._rotated("province"))
        # Of an own key: tags must hold for as long as backups do, whatever becomes of the others.
        self._erasure = Hmac(self._load_erasure_key(), _ERASURE_LABEL)
        self.person_mac: Hmac | None = self._names.person
        self.vehicle_mac: Hmac | None = self._names.vehicle
        self._venue = {1: Hmac(load_key(self._root / "venue.key"), _VENUE_LABEL)}
        self._destroyed: set[int] = set()
        self._finish_destroying()

    def person_key(self, kind: str, issuer: str, canonical: str) -> bytes:
        if "\0" in kind or "\0" in issuer:
            raise ValueError("kind and issuer of an identity hold no NUL")
        message = f"{kind}\0{issuer}\0{canonical}".encode()
        return self._names.person.digest(message)[:PERSON_KEY_SIZE]

    def vehicle_number(self, kind: str, canonical: str) -> int:
        return digest_to_vehicle(self._names.vehicle.digest(f"{kind}\0{canonical}".encode()))

    def renew_person(self, person: bytes, control_lsn: int) -> bytes:
        return self._names.renew_person(person, control_lsn)

    def renew_rows(self, rows: Array, log_lsn: int) -> Array:
        return self._names.renew_rows(rows, log_lsn)

    def spellings(self, person: bytes) -> tuple[bytes, ...]:
        """As Pseudonyms.spellings."""
        return self._names.spellings(person)

    def venue_tag(self, body: bytes, key: int = 1) -> bytes:
        mac = self._venue.get(key)
        if mac is None:
            mac = Hmac(load_key(self._venue_path(key)), _VENUE_LABEL)
            self._venue[key] = mac
        return mac.digest(body)[:VENUE_TAG_SIZE]

    def make_venue_key(self, key: int) -> None:
        path = self._venue_path(key)
        with self._exclusive():
            if not path.exists():
                write_key(path, os.urandom(KEY_SIZE))

    def _venue_path(self, key: int) -> Path:
        return self._root / _numbered("venue", key)

    def log_key(self, day: int, *, make: bool = True) -> bytes:
        key = self._log_keys.get(day)
        if key is not None:
            return key
        with self._lock:
            self._check_alive(day)
            path = self._days_dir / f"{day}.log.key"
            if make and not path.exists():
                with self._exclusive():
                    self._check_alive(day)
                    if not path.exists():
                        write_key(path, os.urandom(KEY_SIZE))
            key = load_key(path)
            self._log_keys[day] = key
            return key

    def details_public(self, day: int) -> bytes:
        public = self._details.get(day)
        if public is not None:
            return public
        with self._lock:
            self._check_alive(day)
            path = self._days_dir / f"{day}.details.pub"
            if not path.exists():
                with self._exclusive():
                    self._check_alive(day)
                    if not path.exists():
                        self._make_pair(self._desk / f"{day}.details.key", path)
            public = load_key(path)
            self._details[day] = public
            return public

    def seal_details(self, day: int, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        public = self.details_public(day)
        with self._sealing:
            sealer = self._sealers.get(day)
            if sealer is None or sealer.public != public:
                sealer = self._sealers[day] = Sealer(public)
            return sealer.seal(plaintext, aad, nonce)

    def change_details(
        self, day: int, sealed: bytes, aad: bytes, change: Callable[[bytes], bytes]
    ) -> bytes:
        with self._lock:
            self._check_alive(day)
        private = load_key(self._desk / f"{day}.details.key", group=True)
        return seal(self.details_public(day), change(open_sealed(private, sealed, aad)), aad)

    def erasure_tag(self, person: bytes) -> bytes:
        return self._erasure.digest(person)[:ERASURE_TAG_SIZE]

    def ingest_public(self) -> bytes:
        return self._ingest_public

    def open_ingest(self, sealed: bytes, aad: bytes) -> bytes:
        return open_with(self._ingests[::-1], sealed, aad)

    def open_spool(self, sealed: bytes, aad: bytes) -> bytes:
        return open_with(self._spool_keys, sealed, aad)

    def retire(self, now_ms: int) -> None:
        """Keys whose time is over open no spool from now on."""
        rotated = self._rotated("ingest")
        ends = [rotation.old_until_ms for rotation in rotated]
        live = [end is None or now_ms < end for end in ends]
        old = [key for key, is_live in zip(self._ingests[:-1], live, strict=True) if is_live]
        self._spool_keys = [self._ingests[-1], *old[::-1]]

    def rotate(
        self,
        kind: Kind,
        now_ms: int,
        *,
        log_lsn: int = 0,
        control_lsn: int = 0,
        old_until_ms: int | None = None,
    ) -> Rotation:
        """Makes a new key of a kind; rings that open from now on use it. No engine may run.

        The fields are those of Rotation. Raises KeyMissing; the old key is still in use then.
        """
        with self._exclusive():
            known = self._load_rotations()
            number = 2 + sum(rotation.kind == kind for rotation in known)
            if kind == "province" and number > STEPS_MAX + 1:
                raise KeyMissing("the province key was rotated too often")
            # A key that no rotation names was left by a crash: nobody ever used it.
            path = self._root / _numbered(kind, number)
            if kind == "audit":
                private = self._desk / _numbered("audit", number)
                self._make_pair(private, self._root / _numbered("audit", number, "pub"))
            else:
                write_key(path, os.urandom(KEY_SIZE))
            made = Rotation(
                kind=kind, number=number, at_ms=now_ms, log_lsn=log_lsn, control_lsn=control_lsn,
                old_until_ms=old_until_ms,
            )  # fmt: skip
            with as_key_missing(self._root):
                write_file(self._root / FILE, rotations_to_bytes([*known, made]), 0o600)
        return made

    def _load_rotations(self) -> tuple[Rotation, ...]:
        path = self._root / FILE
        with as_key_missing(path):
            return bytes_to_rotations(path.read_bytes()) if path.exists() else ()

    def _rotated(self, kind: Kind) -> list[Rotation]:
        return [rotation for rotation in self.rotations if rotation.kind == kind]

    def _keys(self, kind: Kind) -> list[bytes]:
        """First to last."""
        numbers = range(1, len(self._rotated(kind)) + 2)
        return [load_key(self._root / _numbered(kind, number)) for number in numbers]

    def audit_public(self) -> bytes:
        return self._audits.public

    def seal_audit(self, persons: bytes, aad: bytes) -> bytes:
        with self._sealing:
            return self._audits.seal(persons, aad)

    def destroy_day(self, day: int) -> None:
        with self._lock, as_key_missing(self._days_dir), self._exclusive():
            # The tombstone comes first: after a crash anywhere below, the next opening of the
            # ring finishes the work, and no one makes a new key for a day half destroyed.
            tombstone = self._days_dir / f"{day}.destroyed"
            if not tombstone.exists():
                write_file(tombstone, b"", 0o600)
            self._destroyed.add(day)
            self._log_keys.pop(day, None)
            self._details.pop(day, None)
            self._sealers.pop(day, None)
            self._wipe_day(day)

    def days(self) -> list[int]:
        with self._lock:
            return sorted(self._listed("log.key", "details.pub") - self._destroyed)

    def destroyed_days(self) -> list[int]:
        """Days that were forgotten, ascending."""
        with self._lock:
            return sorted(self._destroyed | self._listed("destroyed"))

    def _check_alive(self, day: int) -> None:
        if day in self._destroyed or (self._days_dir / f"{day}.destroyed").exists():
            self._destroyed.add(day)
            raise KeyDestroyed(f"the keys of day {day} were destroyed")

    def _listed(self, *suffixes: str) -> set[int]:
        found = set()
        with as_key_missing(self._days_dir):
            for path in self._days_dir.iterdir():
                match = _DAY_FILE.fullmatch(path.name)
                if match and match[2] in suffixes:
                    found.add(int(match[1]))
        return found

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One process at a time makes or destroys keys, so none is ever written over."""
        with as_key_missing(self._root):
            fd = os.open(self._root / "ring.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _load_erasure_key(self) -> bytes:
        """Made where a ring of an earlier version has none yet."""
        path = self._root / "erasure.key"
        if not path.exists():
            with self._exclusive():
                if not path.exists():
                    write_key(path, os.urandom(KEY_SIZE))
        return load_key(path)

    def _make_long_lived(self) -> None:
        with self._exclusive():
            for name in ("province.key", "venue.key", "ingest.key"):
                if not (self._root / name).exists():
                    write_key(self._root / name, os.urandom(KEY_SIZE))
            if not (self._root / "audit.pub").exists():
                self._make_pair(self._desk / "audit.key", self._root / "audit.pub")

    def _make_pair(self, private_path: Path, public_path: Path) -> None:
        """Write the private half, then the public one: nothing is sealed to a lost half.

        A private half without its public one is left by a crash in between and is taken up.
        """
        mode = check_directory(self._desk, group=True)
        if not private_path.exists():
            private, _ = make_pair()
            write_key(private_path, private, 0o640 if mode & stat.S_ISGID else 0o600)
        write_key(public_path, private_to_public(load_key(private_path, group=True)))

    def _wipe_day(self, day: int) -> None:
        for path in (
            self._desk / f"{day}.details.key",
            self._days_dir / f"{day}.log.key",
            self._days_dir / f"{day}.details.pub",
        ):
            wipe(path)

    def _finish_destroying(self) -> None:
        """Complete what a crash cut short: half destroyed days, and files never renamed."""
        self._destroyed = self._listed("destroyed")
        halves = self._listed("log.key", "details.pub") & self._destroyed
        with as_key_missing(self._root):
            directories = [d for d in (self._root, self._days_dir, self._desk) if is_ours(d)]
            stale = [p for d in directories for p in d.glob(".*.tmp")]
        if halves or stale:
            with self._exclusive(), as_key_missing(self._root):
                for path in stale:
                    wipe(path)
                for day in halves:
                    self._wipe_day(day)


class DeskKeys:
    """The private halves, for the API process alone: opens names and audit records.

    `path` is the desk directory itself (`desk/` of a FileKeyRing), not its parent.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._desk = Path(path)
        check_directory(self._desk, group=True)
        self._audits = [load_key(self._desk / "audit.key", group=True)]
        while (path := self._desk / _numbered("audit", len(self._audits) + 1)).exists():
            self._audits.append(load_key(path, group=True))

    def open_details(self, day: int, sealed: bytes, aad: bytes) -> bytes:
        """Details of a group. Raises KeyDestroyed for a forgotten day, SealBroken."""
        return self.day_opener(day)(sealed, aad)

    def day_opener(self, day: int) -> Open:
        """Opens details of a day's groups, for one question. Raises KeyDestroyed.

        A key that stayed in memory here could not be destroyed by the engine: the file is read
        for each.
        """
        path = self._desk / f"{day}.details.key"
        if not path.exists():
            raise KeyDestroyed(f"no key opens the details of day {day} any more")
        return holder_of(load_key(path, group=True)).open

    def open_audit(self, sealed: bytes, aad: bytes) -> bytes:
        """The persons an audit record names. Raises SealBroken."""
        holders = [holder_of(key) for key in self._audits]
        return open_with(holders[::-1], sealed, aad)
