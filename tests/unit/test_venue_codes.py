"""Which venue a scanned code stands for: ours by issue, key and date, others by the registry."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.errors import KeyMissing
from engine.identity.keys import FileKeyRing
from engine.payloads import VenueCode, make_venue_code, venue_code_to_text
from engine.registry.registry import Category, PostedCode, Registry, Venue, VenueKey
from engine.registry.venue_codes import Posted, VenueCodes, posted_doors
from engine.scans.rows import Direction

HOST = "QR.CHOT.VN"
MARKET = Venue(number=1013, name="Chợ Hồ Xá", category=Category.MARKET, rooms=2)
HERE = Posted(1013, 0, Direction.NONE)


class Codes:
    def __init__(self, path: Path) -> None:
        self.registry = Registry()
        self.ring = FileKeyRing(path, create=True)
        self.codes = VenueCodes(self.registry, self.ring, HOST)
        self.registry.take(MARKET)

    def change(self, **fields: object) -> Venue:
        place = self.registry.place(1013)
        assert isinstance(place, Venue)
        changed = msgspec.structs.replace(place, **fields)
        self.registry.take(changed)
        return changed

    def made(self) -> bytes:
        place = self.registry.place(1013)
        assert isinstance(place, Venue)
        return self.codes.make(place).encode()

    def read(self, payload: bytes, at_ms: int = 1000) -> Posted | str:
        return self.codes.read(payload, at_ms)


@pytest.fixture
def codes(tmp_path: Path) -> Codes:
    return Codes(tmp_path / "keys")


def test_room_and_direction_come_with_the_code(codes: Codes) -> None:
    assert codes.read(codes.made()) == HERE
    text = codes.codes.make(MARKET, 2, Direction.OUT)
    assert codes.read(text.encode()) == Posted(1013, 2, Direction.OUT)
    assert text == codes.codes.make(MARKET, 2, Direction.OUT), "made again it is the same"


def test_a_poster_of_version_1_still_counts(codes: Codes) -> None:
    old = make_venue_code(VenueCode(1013, 1, b"", HOST), codes.ring.venue_tag)
    assert codes.read(venue_code_to_text(old).encode()) == HERE
    codes.change(issue=2)
    assert codes.read(venue_code_to_text(old).encode()) == "revoked"


def test_a_code_that_was_good_at_its_scan_stays_good(codes: Codes) -> None:
    """Scans come late, after an outage by a day: what is revoked since takes no visit away."""
    first = codes.made()
    codes.change(issue=2, valid_from_ms=5000)
    second = codes.made()
    assert (codes.read(first, 4999), codes.read(first, 5000)) == (HERE, "revoked")
    assert codes.read(second, 4000) == HERE, "a slow clock in front of the new poster"
    codes.change(issue=3, valid_from_ms=7000, old_valid_to_ms=9000)
    assert (codes.read(second, 8999), codes.read(second, 9000)) == (HERE, "revoked")
    assert codes.read(first, 8000) == "revoked", "of the issue before the last nothing counts"
    third = codes.made()
    codes.change(is_revoked=True, valid_from_ms=20_000)
    assert (codes.read(third, 19_999), codes.read(third, 20_000)) == (HERE, "revoked")
    codes.change(is_revoked=False, issue=4, valid_from_ms=30_000, old_valid_to_ms=0)
    assert codes.read(third, 30_000) == "revoked" and codes.read(codes.made(), 30_000) == HERE


def test_a_raised_issue_without_a_date_revokes_since_ever(codes: Codes) -> None:
    first = codes.made()
    codes.change(issue=2)
    assert codes.read(first, 0) == codes.read(first, 10**12) == "revoked"


def test_the_old_key_counts_until_its_date(codes: Codes) -> None:
    old = codes.made()
    with pytest.raises(KeyMissing):
        codes.ring.venue_tag(b"x", 2)
    codes.ring.make_venue_key(2)
    tag = codes.ring.venue_tag(b"x", 2)
    codes.ring.make_venue_key(2)
    assert codes.ring.venue_tag(b"x", 2) == tag != codes.ring.venue_tag(b"x", 1)
    assert codes.made() == old, "a key that no record names makes nothing"
    for change in codes.registry.prepare(
        [VenueKey(number=1, valid_to_ms=9000), VenueKey(number=2, valid_from_ms=5000)]
    ):
        codes.registry.take(change)
    new = codes.made()
    assert new != old and codes.read(new) == HERE
    assert (codes.read(old, 8999), codes.read(old, 9000)) == (HERE, "revoked")
    again = FileKeyRing(codes.ring._root, create=False)
    assert again.venue_tag(b"x", 2) == tag


def test_a_tag_of_another_key_is_forged(codes: Codes) -> None:
    codes.ring.make_venue_key(2)
    code = VenueCode(1013, 1, b"", HOST, key=2, version=2)
    stolen = make_venue_code(code, codes.ring.venue_tag)
    assert codes.read(venue_code_to_text(stolen).encode()) == "forged", "no record names key 2"
    wrong = msgspec.structs.replace(stolen, key=1)
    assert codes.read(venue_code_to_text(wrong).encode()) == "forged"
    codes.registry.take(VenueKey(number=2))
    assert codes.read(venue_code_to_text(stolen).encode()) == HERE
    (codes.ring._root / "venue-2.key").unlink()
    lost = VenueCodes(codes.registry, FileKeyRing(codes.ring._root, create=False), HOST)
    assert lost.read(venue_code_to_text(stolen).encode(), 0) == "revoked"


def test_codes_of_other_issuers_stand_for_a_venue(codes: Codes) -> None:
    link = "https://qr.tokhaiyte.vn/Zm9vYmFyMDAx"
    assert codes.read(link.encode()) == "unsupported_context"
    assert codes.read(b"UKC19TRACING:1:abc") == "foreign_venue"
    for change in codes.registry.prepare(
        [
            PostedCode(text="HTTP://QR.TOKHAIYTE.VN/Zm9vYmFyMDAx", venue=1013, direction="in"),
            PostedCode(text="UKC19TRACING:1:abc", venue=1013, room=3, valid_to_ms=5000),
        ]
    ):
        codes.registry.take(change)
    assert codes.read(link.encode()) == Posted(1013, 0, Direction.IN)
    assert codes.read(b" UKC19TRACING:1:abc\r\n", 4999) == Posted(1013, 3, Direction.NONE)
    assert codes.read(b"UKC19TRACING:1:abc", 5000) == "revoked"
    assert codes.read(b"\xff\xfe") == "unknown" or codes.read(b"\xff\xfe") == "bad_encoding"


def test_doors_of_a_venue() -> None:
    def doors(rooms: bool, doors: bool) -> list[tuple[int, str]]:
        return list(posted_doors(MARKET, with_rooms=rooms, with_doors=doors))

    assert doors(False, False) == [(0, "")]
    assert doors(False, True) == [(0, "in"), (0, "out")]
    assert doors(True, True) == [(1, "in"), (1, "out"), (2, "in"), (2, "out")]
    none = msgspec.structs.replace(MARKET, rooms=0)
    assert list(posted_doors(none, with_rooms=True, with_doors=False)) == [(0, "")]
