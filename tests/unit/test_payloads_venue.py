"""Venue codes: layout, check characters, keyed tag, host."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import payloads
from engine.payloads import (
    Refusal,
    VenueCode,
    is_venue_tag,
    make_venue_code,
    parse,
    venue_body,
    venue_code_to_text,
)
from engine.payloads.venue import check_characters

SEEDED = settings(derandomize=True, database=None, deadline=None, max_examples=200)
HOST = "QR.CHOT.VN"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
QR_ALPHANUMERIC = set(ALPHABET + " $%*+-./:")

numbers = st.integers(0, 2**32 - 1)
issues = st.integers(0, 7)
newer = st.builds(
    VenueCode,
    number=numbers,
    issue=st.integers(0, 63),
    tag=st.binary(min_size=5, max_size=5),
    host=st.just(HOST.lower()),
    room=st.integers(0, 0xFFFF),
    direction=st.integers(0, 2),
    key=st.integers(1, 15),
    version=st.just(2),
)
tags = st.binary(min_size=5, max_size=5)
bodies = st.text(ALPHABET, min_size=1, max_size=16)


def venue_tag(body: bytes, key: int = 1) -> bytes:
    return hmac.digest(b"a test key" + bytes((key,)), body, hashlib.sha256)[:5]


def code_of(number: int, issue: int = 1, **more: int) -> str:
    return venue_code_to_text(
        make_venue_code(VenueCode(number, issue, b"", HOST, **more), venue_tag)
    )


def check_oracle(body: str) -> str:
    """ISO/IEC 7064 as the standard computes it: Horner's scheme, digit by digit."""
    remainder = 0
    for character in body + "00":
        remainder = (remainder * 36 + ALPHABET.index(character)) % 1271
    first, second = divmod((1 - remainder) % 1271, 36)
    return ALPHABET[first] + ALPHABET[second]


def is_valid(text: str) -> bool:
    return check_oracle(text[:-2]) == text[-2:]


def read(text: str, host: str = HOST) -> VenueCode | Refusal:
    outcome = parse(text.encode(), venue_host=host)
    assert isinstance(outcome, VenueCode | Refusal)
    return outcome


def test_example_of_the_standard() -> None:
    assert check_characters("ISO79") == check_oracle("ISO79") == "3W"


@SEEDED
@given(bodies)
def test_check_characters_are_those_of_the_oracle(body: str) -> None:
    assert check_characters(body) == check_oracle(body)


def test_a_known_code() -> None:
    tag = bytes.fromhex("0123456789")
    text = venue_code_to_text(VenueCode(7, 1, tag, "qr.chot.vn"))
    assert text == "HTTPS://QR.CHOT.VN/V/1400000704HMASW9" + check_oracle("1400000704HMASW9")
    assert read(text) == VenueCode(7, 1, tag, "qr.chot.vn")
    assert venue_body(VenueCode(7, 1, tag, HOST)) == b"1\x01\x00\x00\x00\x07"


def test_a_known_code_of_version_2() -> None:
    """Key 3, issue 5, direction out (2), room 260, venue 1013: 4, 6, 2, 16 and 32 bits."""
    code = VenueCode(1013, 5, bytes.fromhex("0123456789"), "qr.chot.vn", 260, 2, 3, 2)
    serial = "0011" + "000101" + "10" + f"{260:016b}" + f"{1013:032b}"
    letters = [serial[i : i + 5] for i in range(0, 60, 5)]
    body = "2" + "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[int(five, 2)] for five in letters)
    body += "04HMASW9"
    assert venue_code_to_text(code) == f"HTTPS://QR.CHOT.VN/V/{body}{check_oracle(body)}"
    assert venue_body(code) == b"2" + int(serial, 2).to_bytes(8, "big")


@SEEDED
@given(newer)
def test_a_code_of_version_2_comes_back_in_any_case(code: VenueCode) -> None:
    text = venue_code_to_text(code)
    assert set(text) <= QR_ALPHANUMERIC and len(text) == len("HTTPS://QR.CHOT.VN/V/") + 23
    for written in (text, text.lower(), text.title(), f" {text}\r\n", "\ufeff" + text):
        assert read(written) == code


@SEEDED
@given(newer, st.data())
def test_every_field_is_under_the_tag(code: VenueCode, data: st.DataObject) -> None:
    made = make_venue_code(code, venue_tag)
    assert is_venue_tag(made, venue_tag)
    other = data.draw(newer)
    stolen = msgspec.structs.replace(other, tag=made.tag)
    if venue_body(other) != venue_body(code):
        assert not is_venue_tag(stolen, venue_tag)


def test_a_direction_or_key_that_is_none_is_malformed() -> None:
    for bits in (3 << 48 | 1 << 56, 1 << 50):
        letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
        body = "2" + "".join(letters[bits >> 5 * i & 31] for i in reversed(range(12))) + "0" * 8
        outcome = read(f"HTTPS://{HOST}/V/{body}{check_oracle(body)}")
        assert isinstance(outcome, Refusal) and outcome.reason == "malformed"


@SEEDED
@given(numbers, issues, tags)
def test_a_code_comes_back_in_any_case(number: int, issue: int, tag: bytes) -> None:
    text = venue_code_to_text(VenueCode(number, issue, tag, HOST))
    assert set(text) <= QR_ALPHANUMERIC
    assert len(text) == len("HTTPS://QR.CHOT.VN/V/") + 18
    expected = VenueCode(number, issue, tag, HOST.lower())
    for written in (text, text.lower(), text.title(), f" {text}\r\n", "\ufeff" + text):
        assert read(written) == expected


@SEEDED
@given(numbers, issues, numbers, issues)
def test_different_venues_have_different_codes(a: int, i: int, b: int, j: int) -> None:
    assert (code_of(a, i) == code_of(b, j)) == ((a, i) == (b, j))


@pytest.mark.parametrize("number", [0, 1, 4711, 2**31, 2**32 - 1])
@pytest.mark.parametrize("version", [1, 2])
def test_every_wrong_character_is_caught(number: int, version: int) -> None:
    head, _, code = code_of(number, version=version).rpartition("/")
    head += "/"
    details = set()
    for i, right in enumerate(code):
        for wrong in set(ALPHABET) - {right}:
            changed = code[:i] + wrong + code[i + 1 :]
            assert not is_valid(changed)
            outcome = read(head + changed)
            assert isinstance(outcome, Refusal)
            assert outcome.reason == "malformed"
            details.add(outcome.detail)
    assert "check characters of a venue code do not agree" in details


@pytest.mark.parametrize("number", [0, 1, 4711, 123456789, 2**32 - 1])
@pytest.mark.parametrize("version", [1, 2])
def test_every_transposition_of_neighbours_is_caught(number: int, version: int) -> None:
    head, _, code = code_of(number, version=version).rpartition("/")
    head += "/"
    for i in range(len(code) - 1):
        changed = code[:i] + code[i + 1] + code[i] + code[i + 2 :]
        if changed != code:
            assert not is_valid(changed)
            assert isinstance(read(head + changed), Refusal)


@SEEDED
@given(bodies.filter(lambda body: len(body) > 1), st.data())
def test_check_characters_catch_what_they_promise(body: str, data: st.DataObject) -> None:
    # Over all letters, not only those that the layout would refuse by itself.
    whole = body + check_characters(body)
    i = data.draw(st.integers(0, len(whole) - 1))
    wrong = data.draw(st.sampled_from(ALPHABET))
    assert is_valid(whole[:i] + wrong + whole[i + 1 :]) == (wrong == whole[i])
    j = data.draw(st.integers(0, len(whole) - 2))
    swapped = whole[:j] + whole[j + 1] + whole[j] + whole[j + 2 :]
    assert is_valid(swapped) == (swapped == whole)


def test_a_tag_is_the_province_s() -> None:
    code = read(code_of(4711))
    assert isinstance(code, VenueCode)
    assert is_venue_tag(code, venue_tag)
    assert not is_venue_tag(code, lambda body, key: bytes(5))
    for number, issue in ((4712, 1), (4711, 2)):
        forged = read(venue_code_to_text(VenueCode(number, issue, code.tag, HOST)))
        assert isinstance(forged, VenueCode)
        assert not is_venue_tag(forged, venue_tag)


def test_json_of_a_venue_code() -> None:
    payload = code_of(4711).encode()
    blind = payloads.payload_to_json(payload)
    assert blind["type"] == "venue"
    assert (blind["verdict"], blind["warnings"]) == ("accept", ["unknown_key"])
    assert blind["host"] == "qr.chot.vn"
    assert payload.decode().endswith(blind["opaque_id"])
    assert payloads.payload_to_json(payload, venue_tag=venue_tag)["warnings"] == []
    forged = payloads.payload_to_json(payload, venue_tag=lambda body, key: bytes(5))
    assert (forged["verdict"], forged["reason"]) == ("reject", "forged")
    door = payloads.payload_to_json(code_of(4711, room=12, direction=2, version=2).encode())
    assert (door["room"], door["direction"]) == (12, "out")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("HTTPS://QR.CHOT.VN/V/", "malformed"),
        (code_of(1) + "0", "malformed"),
        (code_of(1)[:-1], "malformed"),
        (code_of(1) + "/", "malformed"),
        (code_of(1) + "?X=1", "malformed"),
        (code_of(1).replace("/V/1", "/V/2"), "malformed"),
        (code_of(1).replace("/V/", "/V/\u0131"), "unknown_url"),
        ("HTTPS://QR.CHOT.VN/", "unknown_url"),
        ("HTTPS://QR.CHOT.VN", "unknown_url"),
        (code_of(1).replace("HTTPS", "HTTP"), "unknown_url"),
        (code_of(1).replace("QR.CHOT.VN", "QR.CHOT.VN.EXAMPLE.COM"), "unknown_url"),
        (code_of(1).replace("QR.CHOT.VN", "QR.CHOT.VN:443"), "unknown_url"),
        (code_of(1).replace("QR.CHOT.VN", "A@QR.CHOT.VN"), "unknown_url"),
        (code_of(1).replace("QR.CHOT.VN", "CHOT.VN"), "unknown_url"),
    ],
)
def test_what_is_no_code_of_ours(text: str, reason: str) -> None:
    outcome = read(text)
    assert isinstance(outcome, Refusal)
    assert outcome.reason == reason


def test_the_host_is_a_setting() -> None:
    text = venue_code_to_text(VenueCode(1, 1, bytes(5), "localhost:8443"))
    assert isinstance(read(text, host="LOCALHOST:8443"), VenueCode)
    assert isinstance(read(text), Refusal)


GOOD = VenueCode(1, 1, bytes(5), HOST, version=2)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "wrong",
    [
        {"number": -1}, {"number": 2**32}, {"issue": 64}, {"issue": -1}, {"tag": bytes(4)},
        {"host": ""}, {"host": "a/b"}, {"host": "ă.vn"}, {"host": "a" * 300}, {"room": 1 << 16},
        {"room": -1}, {"direction": 3}, {"key": 0}, {"key": 16}, {"version": 3},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_a_code_is_not_made(wrong: dict[str, Any], version: int) -> None:
    with pytest.raises(ValueError):
        venue_code_to_text(msgspec.structs.replace(GOOD, **{"version": version, **wrong}))


@pytest.mark.parametrize("more", [{"room": 1}, {"direction": 1}, {"key": 2}, {"issue": 8}], ids=str)
def test_version_1_has_no_room_for_more(more: dict[str, int]) -> None:
    assert venue_code_to_text(msgspec.structs.replace(GOOD, **more))
    with pytest.raises(ValueError):
        venue_code_to_text(msgspec.structs.replace(GOOD, version=1, **more))
