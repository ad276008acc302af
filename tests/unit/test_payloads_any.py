"""Any bytes: parse answers with a value of its own, says nothing aloud, and takes nothing twice."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.payloads import (
    PAYLOAD_MAX,
    Parsed,
    Refusal,
    VenueCode,
    VenueLink,
    make_venue_code,
    parse,
    payload_to_json,
)
from engine.people import details_to_bytes, identify, parsed_to_details, parsed_to_source
from engine.rows import REASONS
from tests.reference.payload_vectors import load

SEEDED = settings(derandomize=True, database=None, deadline=None, max_examples=400)
VECTORS = [v.payload for v in load()] + [make_venue_code(9, 1, b"abcde", "QR.CHOT.VN").encode()]
BITS = [b"|", b"*", b"<", b"\x00", b"\xcc\x81", b"\xff", b"\xef\xbb\xbf", b"  ", "Đ".encode(), b"0"]
FIELDS = ["045190999001", "TE4459900000001", "NGUYEN AN", "Nữ", "1990-06-05", "05061990", "0", "1"]
FIELDS += [
    "",
    "<2",
    "162999900000000001",
    "4e67",
    "******999001",
    "05/06/1990",
    "**/**/1990",
    "\x85",
]


def check(payload: bytes) -> None:
    """What holds of any payload."""
    outcome = parse(payload, today_day=18_800)
    assert isinstance(outcome, Parsed | VenueCode | VenueLink | Refusal)
    answer = payload_to_json(payload)
    json.dumps(answer)
    if isinstance(outcome, Refusal):
        assert outcome.reason in REASONS
        assert outcome.detail
    if isinstance(outcome, Parsed):
        check_person(outcome)
    assert parse(payload, today_day=18_800) == outcome


def check_person(parsed: Parsed) -> None:
    assert parsed.verdict in ("accept", "review")
    identity = identify(parsed)
    assert identity is not None, "a card without any number would be kept under no key"
    assert identity.canonical.isascii()
    assert details_to_bytes(parsed_to_details(parsed))
    assert parsed_to_source(parsed)
    if parsed.doc_no:
        assert parsed.doc_no.isascii()
        assert parsed.doc_no.isalnum()
    if parsed.dob:
        assert parsed.birth_year == int(parsed.dob[:4])


@SEEDED
@given(st.binary(max_size=PAYLOAD_MAX + 1))
def test_any_bytes(payload: bytes) -> None:
    check(payload)


@SEEDED
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    check(text.encode())


@SEEDED
@given(st.lists(st.sampled_from(FIELDS) | st.text(max_size=12), max_size=12))
def test_any_fields(fields: list[str]) -> None:
    check("|".join(fields).encode())
    check("|".join(fields).encode("cp1258", "replace"))


@settings(SEEDED, max_examples=1500)
@given(st.sampled_from(VECTORS), st.data())
def test_mutated_vectors(payload: bytes, data: st.DataObject) -> None:
    changed = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 4))):
        i = data.draw(st.integers(0, len(changed)))
        kind = data.draw(st.sampled_from(("put", "cut", "set", "copy")))
        if kind == "put":
            changed[i:i] = data.draw(st.sampled_from(BITS))
        elif kind == "cut":
            del changed[i : i + data.draw(st.integers(1, 8))]
        elif kind == "set":
            changed[i : i + 1] = data.draw(st.binary(min_size=1, max_size=1))
        else:
            changed[i:i] = changed[: data.draw(st.integers(1, 20))]
    check(bytes(changed))


@pytest.mark.parametrize(
    "unit",
    [
        b"|",
        b"*",
        b" |",
        b"a ",
        b"\xcc\x81\xcc\xa3",
        b"0",
        b"<",
        b"1|1990-06-05|",
        "Ệ".encode(),
        b"://",
    ],
)
@pytest.mark.parametrize(
    "head", [b"", b"045190999001||", b"******999001|A|1990-**-**|0|162999|", b"1"]
)
def test_as_much_as_a_symbol_holds(head: bytes, unit: bytes) -> None:
    # Repeats are what makes a careless pattern slow; the suite would stand still here.
    size = PAYLOAD_MAX - len(head)
    check(head + (unit * (size // len(unit)))[:size])
