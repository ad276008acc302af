"""Keys: pseudonyms by their definition, seals, file rings that survive crashes and forget days."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import KeyDestroyed, KeyMissing, SealBroken
from engine.identity import keys, seals
from engine.identity.keys import DeskKeys, FileKeyRing, make_pair, private_to_public
from engine.identity.seals import open_sealed, seal
from engine.wire.frames import seal_aad

DAY = 18_809
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def ring(root: Path) -> FileKeyRing:
    return FileKeyRing(root, create=True)


def test_a_sealer_renews_its_key_and_a_holder_opens_all(monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = make_pair()
    sealer, holder = seals.Sealer(public), seals.holder_of(private)
    sealed = [sealer.seal(b"%d" % n, b"aad") for n in range(seals.RENEW_SEALS + 2)]
    assert len({one[:33] for one in sealed}) == 2 and len({one[33:45] for one in sealed}) == 258
    assert all(len(one) == len(b"%d" % n) + 61 for n, one in enumerate(sealed))
    for n in random.Random(1).sample(range(len(sealed)), len(sealed)):
        assert (
            holder.open(sealed[n], b"aad") == open_sealed(private, sealed[n], b"aad") == b"%d" % n
        )
    later_s = time.monotonic() + seals.RENEW_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    assert sealer.seal(b"", b"")[:33] not in {one[:33] for one in sealed}


def test_what_a_sealer_made_opens_only_whole_and_where_it_belongs() -> None:
    private, public = make_pair()
    sealed, holder = seals.Sealer(public).seal(b"body", b"aad"), seals.holder_of(private)
    assert holder.open(sealed, b"aad") == b"body"  # its key is known from now on
    broken = [sealed[:at] for at in range(len(sealed))]
    broken += [one + bytes((sealed[len(one)] ^ 1,)) + sealed[len(one) + 1 :] for one in broken]
    for one in broken:
        with pytest.raises(SealBroken):
            holder.open(one, b"aad")
    with pytest.raises(SealBroken):
        holder.open(sealed, b"another")
    with pytest.raises(SealBroken):
        seals.holder_of(make_pair()[0]).open(sealed, b"aad")


@pytest.mark.parametrize("line", (DATA / "wire/seals.jsonl").read_text().splitlines())
def test_seals_are_the_documented_bytes(line: str) -> None:
    """Made from docs/protocol.md, "Seal", and the RFCs alone, without a library."""
    told = json.loads(line)
    private, sealed = (bytes.fromhex(told[name]) for name in ("ingest_private", "sealed"))
    aad = seal_aad(told["gateway"], told["epoch"], told["seq"])
    assert (sealed[0], private_to_public(private).hex()) == (told["version"], told["ingest_public"])
    assert open_sealed(private, sealed, aad).hex() == told["body"]


def test_a_holder_remembers_few_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = make_pair()
    holder = seals.holder_of(private)
    made = [seals.Sealer(public).seal(b"x", b"") for _ in range(5)]
    monkeypatch.setattr(seals, "KNOWN_MAX", 2)
    for _ in range(2):
        assert all(holder.open(one, b"") == b"x" for one in made)
        assert len(holder._known) <= 2


def test_person_key_is_the_documented_hmac(ring, root):
    province = (root / "province.key").read_bytes()
    message = b"chot/person/1\0cccd\0VN\0" + b"045099999123"
    expected = hmac.digest(province, message, "sha256")[:16]
    assert ring.person_key("cccd", "VN", "045099999123") == expected
    assert ring.person_key("cccd", "VN", "045099999123") == expected


def test_person_key_tells_kind_issuer_and_number_apart(ring):
    names = [("cccd", "VN", "1"), ("qid", "VN", "1"), ("cccd", "LA", "1"), ("cccd", "VN", "2")]
    names += [("cccd", "", "VN1"), ("cccdV", "N", "1")]
    assert len({ring.person_key(*name) for name in names}) == len(names)
    with pytest.raises(ValueError, match="NUL"):
        ring.person_key("cccd\0VN", "", "1")


def test_venue_tag_is_the_documented_hmac(ring, root):
    secret = (root / "venue.key").read_bytes()
    expected = hmac.new(secret, b"chot/venue/1\0BODY", hashlib.sha256).digest()[:5]
    assert ring.venue_tag(b"BODY") == expected


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=40))
def test_seal_opens_with_the_private_half_only(plaintext, aad):
    private, public = make_pair()
    sealed = seal(public, plaintext, aad)
    assert len(sealed) == len(plaintext) + seals.SEAL_OVERHEAD
    assert open_sealed(private, sealed, aad) == plaintext
    for other in (
        lambda: open_sealed(make_pair()[0], sealed, aad),
        lambda: open_sealed(private, sealed, aad + b"x"),
    ):
        with pytest.raises(SealBroken):
            other()


def test_every_flipped_bit_of_a_seal_is_found():
    private, public = make_pair()
    sealed = seal(public, b"Nguyen", b"aad")
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        # X25519 ignores the top bit of a public key, but the salt does not.
        with pytest.raises(SealBroken):
            open_sealed(private, bytes(changed), b"aad")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120), st.binary(max_size=40))
def test_any_bytes_are_opened_or_seal_broken(sealed, private):
    with pytest.raises(SealBroken):
        open_sealed(private, sealed, b"")
    with pytest.raises(SealBroken):
        open_sealed(b"k" * 32, b"\x01" + sealed, b"")


def test_seal_refuses_a_public_key_of_small_order():
    for bad in (bytes(32), b"short"):
        with pytest.raises(SealBroken):
            seal(bad, b"x", b"")


def test_a_ring_is_the_same_when_opened_again(ring, root):
    again = FileKeyRing(root)
    assert again.person_key("qid", "", "Q9") == ring.person_key("qid", "", "Q9")
    assert again.log_key(DAY) == ring.log_key(DAY)
    assert again.details_public(DAY) == ring.details_public(DAY)
    assert again.ingest_public() == ring.ingest_public()
    assert again.audit_public() == ring.audit_public()
    assert FileKeyRing(root, create=True).log_key(DAY) == ring.log_key(DAY)
    assert ring.days() == [DAY]


def test_keys_differ_by_day_and_purpose(ring):
    secrets = [ring.log_key(DAY), ring.log_key(DAY + 1), ring.details_public(DAY)]
    secrets += [ring.details_public(DAY + 1), ring.audit_public(), ring.ingest_public()]
    assert len(set(secrets)) == len(secrets)


def test_opening_without_create_makes_nothing(tmp_path):
    with pytest.raises(KeyMissing):
        FileKeyRing(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_log_key_is_not_made_for_reading(ring, root):
    with pytest.raises(KeyMissing):
        ring.log_key(DAY, make=False)
    assert not list((root / "days").glob("*.key"))


def test_files_are_for_the_owner_alone(ring, root):
    ring.log_key(DAY)
    ring.details_public(DAY)
    for path in [root, *root.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize(
    ("name", "mode"),
    [(".", 0o755), ("days", 0o710), ("province.key", 0o644), ("ingest.key", 0o640)],
)
def test_unsound_permissions_are_refused(ring, root, name, mode):
    (root / name).chmod(mode)
    with pytest.raises(KeyMissing, match="mode"):
        FileKeyRing(root)


@pytest.mark.parametrize("name", ["province.key", "venue.key", "ingest.key", "audit.pub"])
def test_a_missing_or_short_key_is_named(ring, root, name):
    path = root / name
    path.write_bytes(path.read_bytes()[:31])
    with pytest.raises(KeyMissing, match=name):
        FileKeyRing(root)
    path.unlink()
    with pytest.raises(KeyMissing, match=name):
        FileKeyRing(root)


def test_a_symbolic_link_is_no_key(ring, root):
    (root / "province.key").rename(root / "elsewhere")
    (root / "province.key").symlink_to(root / "elsewhere")
    with pytest.raises(KeyMissing):
        FileKeyRing(root)


def test_the_desk_opens_details_and_audit(ring, root):
    desk = DeskKeys(root / "desk")
    sealed = seal(ring.details_public(DAY), b"details", b"aad")
    assert desk.open_details(DAY, sealed, b"aad") == b"details"
    assert desk.open_audit(seal(ring.audit_public(), b"who", b"a"), b"a") == b"who"
    with pytest.raises(SealBroken):
        desk.open_audit(sealed, b"aad")
    with pytest.raises(KeyDestroyed):
        desk.open_details(DAY + 1, sealed, b"aad")


def test_the_engine_opens_what_gateways_sealed(ring):
    assert ring.open_ingest(seal(ring.ingest_public(), b"scan", b"a"), b"a") == b"scan"


def test_a_desk_of_its_own_group(tmp_path):
    desk = tmp_path / "desk"
    desk.mkdir()
    desk.chmod(0o2770)
    ring = FileKeyRing(tmp_path / "keys", create=True, desk=desk)
    ring.details_public(DAY)
    assert (desk / f"{DAY}.details.key").stat().st_mode & 0o777 == 0o640
    assert not (tmp_path / "keys" / "desk").exists()
    assert DeskKeys(desk).open_audit(seal(ring.audit_public(), b"x", b""), b"") == b"x"
    desk.chmod(0o2775)
    with pytest.raises(KeyMissing, match="mode"):
        DeskKeys(desk)


def test_a_destroyed_day_never_comes_back(ring, root):
    ring.log_key(DAY)
    sealed = seal(ring.details_public(DAY), b"x", b"")
    ring.log_key(DAY + 1)
    ring.destroy_day(DAY)
    ring.destroy_day(DAY)
    for each in (ring, FileKeyRing(root), FileKeyRing(root, create=True)):
        for ask in (each.log_key, each.details_public):
            with pytest.raises(KeyDestroyed):
                ask(DAY)
        assert each.days() == [DAY + 1]
        assert each.destroyed_days() == [DAY]
    with pytest.raises(KeyDestroyed):
        DeskKeys(root / "desk").open_details(DAY, sealed, b"")
    left = {path.name for path in root.rglob(f"*{DAY}.*")}
    assert left == {f"{DAY}.destroyed"}


def test_a_day_without_keys_can_be_destroyed(ring):
    ring.destroy_day(DAY)
    with pytest.raises(KeyDestroyed):
        ring.log_key(DAY)


def test_destroying_writes_over_the_bytes(ring, root, tmp_path):
    secret = ring.log_key(DAY)
    ring.details_public(DAY)
    os.link(root / "days" / f"{DAY}.log.key", tmp_path / "inode")
    os.link(root / "desk" / f"{DAY}.details.key", tmp_path / "private")
    private = (tmp_path / "private").read_bytes()
    ring.destroy_day(DAY)
    assert (tmp_path / "inode").read_bytes() != secret
    assert (tmp_path / "private").read_bytes() != private


class Crash(BaseException):
    """The process ends here; nothing may catch it."""


def _crash_at(monkeypatch, step: int) -> None:
    """Die at the step-th sync, rename or unlink that engine.identity.keys makes."""
    left = [step]

    def wrap(owner, name):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    wrap(keys.os, "fsync")
    wrap(keys.Path, "rename")
    wrap(keys.Path, "unlink")


@pytest.mark.parametrize("step", range(16))
def test_a_crash_while_destroying_is_finished_or_never_happened(root, monkeypatch, step):
    ring = FileKeyRing(root, create=True)
    log_key = ring.log_key(DAY)
    ring.details_public(DAY)
    with monkeypatch.context() as patch:
        _crash_at(patch, step)
        try:
            ring.destroy_day(DAY)
            is_crashed = False
        except Crash:
            is_crashed = True
    assert is_crashed == (step < 12)  # 12 steps in all: the test would miss new ones otherwise
    again = FileKeyRing(root)
    if again.destroyed_days():
        assert {path.name for path in root.rglob(f"*{DAY}.*")} == {f"{DAY}.destroyed"}
        with pytest.raises(KeyDestroyed):
            again.log_key(DAY)
    else:
        assert step < 3
        assert again.log_key(DAY, make=False) == log_key
    assert not list(root.rglob("*.tmp"))


@pytest.mark.parametrize("step", range(9))
def test_a_crash_while_making_keys_leaves_whole_ones(root, monkeypatch, step):
    ring = FileKeyRing(root, create=True)
    with monkeypatch.context() as patch:
        _crash_at(patch, step)
        try:
            ring.details_public(DAY)
            ring.log_key(DAY)
        except Crash:
            pass
    again = FileKeyRing(root)
    assert not list(root.rglob("*.tmp"))
    sealed = seal(again.details_public(DAY), b"x", b"")
    assert DeskKeys(root / "desk").open_details(DAY, sealed, b"") == b"x"
    assert len(again.log_key(DAY)) == 32


def test_two_rings_and_many_threads_make_one_key(root):
    rings = [FileKeyRing(root, create=True), FileKeyRing(root)]
    found: list[tuple[bytes, bytes]] = []
    start = threading.Barrier(8)

    def ask(ring):
        start.wait()
        found.append((ring.log_key(DAY), ring.details_public(DAY)))

    threads = [threading.Thread(target=ask, args=(rings[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8


def test_error_texts_hold_no_secret(ring, root):
    (root / "province.key").chmod(0o644)
    with pytest.raises(KeyMissing) as caught:
        FileKeyRing(root)
    assert (root / "province.key").read_bytes().hex() not in str(caught.value)
