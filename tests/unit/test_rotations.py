"""Rotated keys: what was stored becomes what is made today, old seals open, no crash harms."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from engine.errors import KeyMissing, SealBroken
from engine.identity.keys import DeskKeys, FileKeyRing
from engine.identity.rotations import STEPS_MAX, Kind, Pseudonyms, Rotation
from engine.identity.seals import seal
from engine.scans.rows import NOBODY, ROW
from native.hmac import Hmac
from tests.unit.test_keys import Crash, _crash_at

KINDS = cast(list[Kind], ["province", "ingest", "audit"])
NOW_MS = 1_625_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    FileKeyRing(tmp_path / "keys", create=True)
    return tmp_path / "keys"


def mac(key: bytes, label: bytes, message: bytes) -> bytes:
    return hmac.new(key, label + message, "sha256").digest()


def test_a_key_laid_over_another_is_the_hmac_of_its_pseudonym() -> None:
    first, second, third = (bytes([n]) * 32 for n in (1, 2, 3))
    names = Pseudonyms([first, second, third], [rotation(2), rotation(3)])
    old = mac(first, b"chot/person/1\0", b"cccd\0VNM\0045190999001")[:16]
    middle = mac(second, b"chot/person/2\0", old)[:16]
    today = mac(third, b"chot/person/2\0", middle)[:16]
    assert names.person.digest(b"cccd\0VNM\0045190999001")[:16] == today
    assert names.spellings(old)[1:] == (today, mac(third, b"chot/person/2\0", old)[:16])
    assert today in names.spellings(middle) and names.spellings(today)[0] == today


def rotation(number: int, lsn: int = 0) -> Rotation:
    return Rotation(kind="province", number=number, at_ms=0, log_lsn=lsn, control_lsn=lsn)


def test_rows_of_each_time_bear_todays_pseudonyms() -> None:
    keys = [bytes([n]) * 32 for n in (1, 2, 3)]
    steps = [rotation(2, 10), rotation(3, 20)]
    today = Pseudonyms(keys, steps)
    for lsn, version in ((1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (99, 3)):
        then = Pseudonyms(keys[:version], steps[: version - 1])
        rows = np.zeros(4, ROW)
        for row, number in zip(rows, (b"a", b"b", b"a"), strict=False):
            row["person"] = np.void(then.person.digest(number)[:16])
            row["vehicle"] = int.from_bytes(then.vehicle.digest(number)[:4], "big")
        rows["time_ms"], rows["vehicle"][1], rows["vehicle"][3] = [5, 6, 7, 8], 0, 0
        found = today.renew_rows(rows, lsn)
        expected = [today.person.digest(number)[:16] for number in (b"a", b"b", b"a")]
        assert found["person"].tolist() == [*expected, NOBODY], lsn
        vehicle = int.from_bytes(today.vehicle.digest(b"a")[:4], "big")
        assert found["vehicle"].tolist() == [vehicle, 0, vehicle, 0]
        assert found["time_ms"].tolist() == [5, 6, 7, 8]
        person = then.person.digest(b"a")[:16]
        assert today.renew_person(person, lsn) == expected[0]


def test_a_chain_of_macs_is_bounded_and_alike() -> None:
    one = Hmac(b"a", b"label")
    chain = one.then(Hmac(b"b"), 16)
    assert chain.digest(b"x") == mac(b"b", b"", mac(b"a", b"label", b"x")[:16])
    with pytest.raises(ValueError, match="as many"):
        chain.then(Hmac(b"c"), 4)
    for bad in (0, 33):
        with pytest.raises(ValueError):
            one.then(Hmac(b"b"), bad)
    for _ in range(14):
        chain = chain.then(Hmac(b"c"), 16)
    with pytest.raises(ValueError, match="16 steps"):
        chain.then(Hmac(b"d"), 16)
    with pytest.raises(ValueError, match="broken size"):
        one.renew(bytearray(47), 48)
    with pytest.raises(BufferError):
        one.renew(bytes(48), 48)


def test_old_seals_open_and_new_ones_go_to_the_new_key(root: Path) -> None:
    ring = FileKeyRing(root)
    old = [seal(ring.ingest_public(), b"scan", b"a"), seal(ring.audit_public(), b"who", b"a")]
    for kind in KINDS[1:]:
        ring.rotate(kind, NOW_MS, old_until_ms=NOW_MS + 1000)
    again = FileKeyRing(root)
    assert again.ingest_public() != ring.ingest_public()
    assert again.audit_public() != ring.audit_public()
    new = [seal(again.ingest_public(), b"scan", b"a"), seal(again.audit_public(), b"who", b"a")]
    desk = DeskKeys(root / "desk")
    for sealed, person in zip(old, new, strict=True):
        assert sealed != person
    for made in (old, new):
        assert again.open_ingest(made[0], b"a") == b"scan" == again.open_spool(made[0], b"a")
        assert desk.open_audit(made[1], b"a") == b"who"
    with pytest.raises(SealBroken):
        ring.open_ingest(new[0], b"a")
    again.retire(NOW_MS + 999)
    assert again.open_spool(old[0], b"a") == b"scan"
    again.retire(NOW_MS + 1000)
    with pytest.raises(SealBroken):
        again.open_spool(old[0], b"a")
    assert again.open_spool(new[0], b"a") == b"scan"
    assert again.open_ingest(old[0], b"a") == b"scan", "records of the control log stay readable"


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_while_rotating_leaves_the_old_key_or_the_new(
    root: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(ring: FileKeyRing) -> tuple[bytes, bytes, bytes]:
        return ring.person_key("cccd", "VNM", "1"), ring.ingest_public(), ring.audit_public()

    for step in range(40):
        before = FileKeyRing(root)
        with monkeypatch.context() as patch:
            _crash_at(patch, step)
            try:
                before.rotate(kind, NOW_MS)
                is_done = True
            except Crash:
                is_done = False
        after = FileKeyRing(root)
        if len(after.rotations) == len(before.rotations):
            assert not is_done and names(after) == names(before)
        else:
            assert names(after) != names(before)
        sealed = seal(after.audit_public(), b"who", b"a")
        assert DeskKeys(root / "desk").open_audit(sealed, b"a") == b"who"
        if is_done:
            assert step > 4
            return
    raise AssertionError("it never came to its end")


def test_a_list_that_leaves_out_a_key_opens_no_ring(root: Path) -> None:
    path = root / "rotations.json"
    FileKeyRing(root).rotate("province", NOW_MS)
    good = path.read_bytes()
    for bad in (b"", b"[", b"{}", good.replace(b": 2", b": 3"), good.replace(b"province", b"desk")):
        path.write_bytes(bad)
        with pytest.raises(KeyMissing):
            FileKeyRing(root)
    path.write_bytes(good)
    (root / "province-2.key").unlink()
    with pytest.raises(KeyMissing):
        FileKeyRing(root)


def test_the_province_key_is_not_rotated_without_end(root: Path) -> None:
    for _ in range(STEPS_MAX):
        FileKeyRing(root).rotate("province", NOW_MS)
    FileKeyRing(root).person_key("cccd", "VNM", "1")
    with pytest.raises(KeyMissing, match="too often"):
        FileKeyRing(root).rotate("province", NOW_MS)
