"""Any bytes: parse answers with a value of its own, says nothing aloud, and takes nothing twice."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ingest.trust import TrustList
from engine.payloads import (
    PAYLOAD_MAX,
    Chunk,
    Parsed,
    Refusal,
    VenueCode,
    VenueLink,
    base45,
    cose,
    parse,
    payload_to_json,
    venue_code_to_text,
)
from engine.payloads.outcome import Outcome
from engine.scans.people import (
    UNSURE_KINDS,
    details_to_bytes,
    identify,
    parsed_to_details,
    parsed_to_source,
)
from engine.scans.rows import REASONS
from tests.reference.pass_maker import (
    BUNDLE,
    HEALTH,
    SEAL,
    encode_base45,
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
    wrap_hc1,
)
from tests.reference.payload_vectors import load

NOW_S = 1_650_000_000.0
KEY = ec.generate_private_key(ec.SECP256R1())
DER = to_der(make_certificate(KEY))
JWK = to_jwk(KEY)
TRUST = TrustList()
TRUST.add_certificate(DER)
TRUST.add_jwk(JWK)
SEEDED = settings(derandomize=True, database=None, deadline=None, max_examples=400)
VECTORS = [v.payload for v in load()] + [
    venue_code_to_text(VenueCode(9, 1, b"abcde", "QR.CHOT.VN", 3, 2, 4, 2)).encode()
]
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


def check(payload: bytes) -> Outcome:
    """What holds of any payload."""
    outcome = parse(payload, today_day=18_800, now_s=NOW_S, trust=TRUST)
    assert isinstance(outcome, Parsed | VenueCode | VenueLink | Chunk | Refusal)
    answer = payload_to_json(payload, now_s=NOW_S, trust=TRUST)
    json.dumps(answer, ensure_ascii=False).encode()
    if isinstance(outcome, Refusal):
        assert outcome.reason in REASONS
        assert outcome.detail
    if isinstance(outcome, Parsed):
        check_person(outcome)
    assert parse(payload, today_day=18_800, now_s=NOW_S, trust=TRUST) == outcome
    return outcome


def check_person(parsed: Parsed) -> None:
    assert "\x1b" not in parsed.name_nfc + (parsed.address or "") + (parsed.certificate_id or "")
    assert parsed.verdict in ("accept", "review")
    identity = identify(parsed)
    assert identity is not None, "a card without any number would be kept under no key"
    assert identity.canonical.isascii() or identity.kind in UNSURE_KINDS
    assert details_to_bytes(parsed_to_details(parsed))
    assert parsed_to_source(parsed)
    if parsed.doc_no:
        assert parsed.doc_no.isascii()
        assert parsed.doc_no.isalnum() or parsed.type == "vdsnc"
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


@settings(SEEDED, max_examples=700)
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


# ---- passes: whatever is signed -----------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
NAMES = (
    "ver", "nam", "dob", "v", "t", "r", "fn", "gn", "fnt", "gnt", "ci", "co", "dt", "dn", "sd",
    "hdr", "msg", "pid", "n", "i", "is", "uvci", "ve", "vd", "dvc", "seq", "data", "sig", "alg",
    "resource", "resourceType", "entry", "name", "family", "given", "birthDate", "status",
)  # fmt: skip
WORDS = st.sampled_from(NAMES)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=20,
)
CBOR_VALUES = st.recursive(
    SCALARS | st.binary(max_size=20) | st.datetimes(timezones=st.just(UTC)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(WORDS | st.integers(-300, 10), inner, max_size=6)
        | st.builds(cbor2.CBORTag, st.integers(0, 300), inner)
    ),
    max_leaves=20,
)


def graft(value: Any, data: st.DataObject, strange: st.SearchStrategy[Any]) -> Any:
    """A copy in which one place holds something else."""
    copy = deepcopy(value)
    holder: Any = copy
    while True:
        places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        place = data.draw(st.sampled_from(places))
        below = holder[place]
        if isinstance(below, dict | list) and below and data.draw(st.booleans()):
            holder = below
            continue
        holder[place] = data.draw(strange)
        return copy


FEW = settings(SEEDED, max_examples=200)


@FEW
@given(st.data())
def test_any_certificate(data: st.DataObject) -> None:
    try:
        issuer = data.draw(st.just("SE") | CBOR_VALUES)
        payload = make_hc1(KEY, to_kid(DER), graft(HEALTH, data, CBOR_VALUES), iss=issuer)
    except (cbor2.CBOREncodeError, UnicodeEncodeError, OverflowError):
        return
    check(payload)


@FEW
@given(CBOR_VALUES)
def test_any_message(value: object) -> None:
    try:
        packed = cbor2.dumps(value)
    except (cbor2.CBOREncodeError, UnicodeEncodeError, OverflowError):
        return
    check(wrap_hc1(packed))
    check(wrap_hc1(make_sign1(KEY, to_kid(DER), packed)))


@SEEDED
@given(st.data())
def test_mutated_messages(data: st.DataObject) -> None:
    """Changed beneath the envelope, where a changed letter of the code would never get."""
    message = bytearray(make_sign1(KEY, to_kid(DER), make_cwt(), signature=bytes(64)))
    for _ in range(data.draw(st.integers(1, 4))):
        i = data.draw(st.integers(0, len(message) - 1))
        if data.draw(st.booleans()):
            message[i] = data.draw(st.integers(0, 255))
        else:
            del message[i : i + data.draw(st.integers(1, 8))]
    check(wrap_hc1(bytes(message)))


@SEEDED
@given(st.binary(max_size=300))
def test_cbor_is_taken_as_its_library_takes_it(data: bytes) -> None:
    """Our walk refuses more, never other values."""
    try:
        ours: object = cose.decode(data)
    except ValueError:
        return
    theirs = cbor2.loads(data)
    assert repr(ours) == repr(theirs)


@SEEDED
@given(st.binary(max_size=200))
def test_base45_is_its_own_inverse(data: bytes) -> None:
    assert base45.decode(encode_base45(data).encode()) == data


@FEW
@given(st.data())
def test_any_health_card(data: st.DataObject) -> None:
    claims = {"iss": data.draw(st.just("https://x.example") | JSON_VALUES)}
    check(to_digits(make_jws(KEY, JWK["kid"], graft(BUNDLE, data, JSON_VALUES), **claims)))


@FEW
@given(st.data())
def test_any_seal(data: st.DataObject) -> None:
    try:
        payload = make_seal(KEY, DER, graft(SEAL, data, JSON_VALUES))
    except UnicodeEncodeError:
        return
    check(payload)


@SEEDED
@given(st.text(alphabet="0123456789/", max_size=60))
def test_any_digits(digits: str) -> None:
    check(b"shc:/" + digits.encode())


@SEEDED
@given(st.text(alphabet="tokhaiyevn.pcq/:@-1", max_size=60))
def test_any_link(link: str) -> None:
    check(b"https://" + link.encode())
