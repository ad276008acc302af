"""Passes: envelopes, signatures, times and what they say; bombs and lies of every layer."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from engine.ingest.trust import TrustList
from engine.payloads import Chunk, Parsed, Refusal, base45, cose, join_chunks, parse, vdsnc
from engine.payloads.outcome import Outcome
from engine.scans.people import identify, parsed_to_details, parsed_to_source
from engine.scans.rows import Source
from tests.reference.pass_maker import (
    BUNDLE,
    ENDS_S,
    HEALTH,
    ISSUED_S,
    SEAL,
    SHOT,
    deflate,
    encode_base45,
    encode_base64,
    make_certificate,
    make_cwt,
    make_hc1,
    make_jws,
    make_seal,
    make_sign1,
    raw_signature,
    to_der,
    to_digits,
    to_jwk,
    to_kid,
    wrap_hc1,
)

NOW_S = ISSUED_S + 30 * 86_400
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
DER = to_der(make_certificate(KEY))
KID = to_kid(DER)
JWK = to_jwk(KEY)
TRUST = TrustList()
TRUST.add_certificate(DER)
TRUST.add_jwk(JWK, "https://test.example/issuer")


def read(payload: bytes, now_s: float | None = NOW_S, trust: TrustList = TRUST) -> Outcome:
    return parse(payload, now_s=now_s, trust=trust)


def person(payload: bytes, now_s: float | None = NOW_S, trust: TrustList = TRUST) -> Parsed:
    parsed = read(payload, now_s, trust)
    assert isinstance(parsed, Parsed), parsed
    return parsed


def reason(payload: bytes, now_s: float | None = NOW_S, trust: TrustList = TRUST) -> str:
    refusal = read(payload, now_s, trust)
    assert isinstance(refusal, Refusal), refusal
    return refusal.reason


def changed(value: dict[str, Any], path: str, new: object = None) -> dict[str, Any]:
    """A copy with another value at `a.0.b`; None takes it out."""
    copy: Any = deepcopy(value)
    *way, last = path.split(".")
    holder = copy
    for step in way:
        holder = holder[int(step) if isinstance(holder, list) else step]
    if new is None:
        del holder[last]
    else:
        holder[int(last) if isinstance(holder, list) else last] = new
    return copy


# ---- HC1: what it says --------------------------------------------------------------------------


def test_a_certificate_of_abroad_is_somebody() -> None:
    parsed = person(make_hc1(KEY, KID))
    assert (parsed.type, parsed.verdict, parsed.warnings) == ("dcc", "accept", ())
    assert (parsed.name_nfc, parsed.name_fold) == ("Öberg Test Anna", "OBERG TEST ANNA")
    assert (parsed.dob, parsed.birth_year, parsed.issuer) == ("1990-06-05", 1990, "SE")
    assert (parsed.group, parsed.health) == ("v", "v 2/2 2021-06-11")
    assert (parsed.certificate_id, parsed.signature) == ("URN:UVCI:01:SE:TEST999001", "valid")
    assert parsed.expired is False
    assert parsed_to_source(parsed) == Source.DCC
    details = parsed_to_details(parsed)
    assert (details.health, details.signature) == ("v 2/2 2021-06-11", "valid")
    assert details.certificate_id == "URN:UVCI:01:SE:TEST999001"


def test_two_certificates_of_one_person_are_one_person() -> None:
    """The number names the certificate, not its holder."""
    third = {**SHOT, "dn": 3, "sd": 3, "dt": "2021-12-01", "ci": "URN:UVCI:01:SE:TEST999002"}
    one, other = (person(make_hc1(KEY, KID, {**HEALTH, "v": [shot]})) for shot in (SHOT, third))
    assert one.certificate_id != other.certificate_id
    known = identify(one)
    assert known is not None and known == identify(other)
    assert known.kind == "pass"
    namesake = person(make_hc1(KEY, KID, changed(HEALTH, "dob", "1991-06-05")))
    assert identify(namesake) != known
    abroad = person(make_hc1(KEY, KID, iss="DK"))
    assert identify(abroad) != known


def test_without_a_whole_birth_the_certificate_stands_for_its_holder() -> None:
    for dob, year in (("1990", 1990), ("1990-06", 1990), ("1990-00", 1990), ("", None)):
        parsed = person(make_hc1(KEY, KID, changed(HEALTH, "dob", dob)))
        assert (parsed.dob, parsed.birth_year, parsed.verdict) == (None, year, "accept")
        known = identify(parsed)
        assert known is not None
        assert (known.kind, known.canonical) == ("certificate", "URN:UVCI:01:SE:TEST999001")


def test_names_of_other_scripts_are_folded_by_the_issuers_own_letters() -> None:
    names = {"fn": "Επώνυμο", "gn": "Όνομα", "fnt": "EPONYMO", "gnt": "ONOMA"}
    parsed = person(make_hc1(KEY, KID, {**HEALTH, "nam": names}))
    assert (parsed.name_nfc, parsed.name_fold) == ("Επώνυμο Όνομα", "EPONYMO ONOMA")
    assert parsed.warnings == ()
    only = person(make_hc1(KEY, KID, {**HEALTH, "nam": {"fnt": "OEBERG<TEST"}}))
    assert only.name_nfc == "OEBERG TEST"


def test_test_and_recovery() -> None:
    base = {name: value for name, value in HEALTH.items() if name != "v"}
    shared = {"tg": "840539006", "co": "SE", "is": "Test", "ci": "URN:UVCI:01:SE:TEST999003"}
    test = {**shared, "tt": "LP6464-4", "sc": "2021-06-20T08:00:00Z", "tr": "260373001", "tc": "x"}
    parsed = person(make_hc1(KEY, KID, {**base, "t": [test]}))
    assert (parsed.group, parsed.health) == ("t", "t detected 2021-06-20")
    recovery = {**shared, "fr": "2021-03-01", "df": "2021-03-12", "du": "2021-09-01"}
    parsed = person(make_hc1(KEY, KID, {**base, "r": [recovery], "v": [], "t": None}))
    assert (parsed.group, parsed.health) == ("r", "r first positive 2021-03-01")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ver", None), ("nam", None), ("nam", []), ("nam", {}), ("dob", None), ("dob", "5/6/1990"),
        ("dob", "1815-08-24"), ("dob", "2023-01-01"), ("dob", 1990), ("v", None), ("v", []),
        ("v", {"0": SHOT}), ("v", ["x"]), ("v.0.ci", None), ("v.0.ci", 7), ("v.0.dn", "2"),
        ("v.0.dn", 0), ("v.0.sd", True), ("v.0.dt", "11/06/2021"), ("v.0.dt", "2021-02-30"),
        ("v.0.mp", None), ("v.0.ci", "\x1b[2J"), ("nam.fnt", "öberg"), ("nam.fn", "x" * 300),
        ("nam.gn", "😀"), ("r", [SHOT]), ("ver", "1.x"),
    ],
)  # fmt: skip
def test_what_is_not_schema_1_is_malformed(path: str, value: object) -> None:
    assert reason(make_hc1(KEY, KID, changed(HEALTH, path, value))) == "malformed"


def test_a_later_schema_is_not_guessed() -> None:
    assert reason(make_hc1(KEY, KID, changed(HEALTH, "ver", "2.0.0"))) == "unsupported_context"


# ---- HC1: signatures ----------------------------------------------------------------------------


def test_ps256() -> None:
    private = rsa.generate_private_key(65_537, 2_048)
    der = to_der(make_certificate(private))
    trust = TrustList()
    trust.add_certificate(der)
    assert person(make_hc1(private, to_kid(der)), trust=trust).signature == "valid"
    crossed = make_sign1(private, to_kid(der), make_cwt(), algorithm=-7)
    assert reason(wrap_hc1(crossed), trust=trust) == "bad_signature"


def test_signatures_that_are_not_the_issuers() -> None:
    cwt = make_cwt()
    good = raw_signature(KEY, b"something else")
    for signature in (b"", good, good[:-1], good + b"\0", bytes(64), b"\xff" * 64, b"\xff" * 900):
        message = make_sign1(KEY, KID, cwt, signature=signature)
        assert reason(wrap_hc1(message)) == "bad_signature", len(signature)
    assert reason(make_hc1(OTHER, KID)) == "bad_signature"
    for algorithm in (-8, -35, -257, 5, "ES256"):
        message = make_sign1(KEY, KID, cwt, protected={1: algorithm, 4: KID})
        assert reason(wrap_hc1(message)) == "bad_signature", algorithm


def test_a_key_nobody_told_us_of_is_a_warning() -> None:
    parsed = person(make_hc1(OTHER, b"8 bytes!"))
    assert (parsed.signature, parsed.warnings) == ("unknown_key", ("unknown_key",))
    assert parsed.verdict == "accept"
    assert person(make_hc1(KEY, KID), trust=TrustList()).signature == "unknown_key"


def test_where_the_key_is_named() -> None:
    cwt = make_cwt()
    for protected, unprotected, expected in (
        ({1: -7}, {4: KID}, "valid"),
        ({}, {1: -7, 4: KID}, "valid"),
        ({1: -7, 4: KID}, {4: b"foo"}, "valid"),
        ({1: -7, 4: b"foo"}, {4: KID}, "bad_signature"),
        ({1: -7}, {4: b"foo"}, "bad_signature"),
        ({1: -7}, {}, "bad_signature"),
        ({1: -7, 4: "text"}, {}, "bad_signature"),
    ):
        made = make_sign1(KEY, KID, cwt, protected=protected, unprotected=unprotected)
        outcome = read(wrap_hc1(made))
        got = outcome.signature if isinstance(outcome, Parsed) else outcome.reason  # type: ignore[union-attr]
        assert got == expected, (protected, unprotected)


def test_several_keys_may_share_a_name() -> None:
    trust = TrustList()
    for private in (OTHER, KEY):
        jwk = to_jwk(private, encode_base64(KID))
        trust.add_jwk(jwk)
    assert person(make_hc1(KEY, KID), trust=trust).signature == "valid"
    assert person(make_hc1(OTHER, KID), trust=trust).signature == "valid"
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert reason(make_hc1(stranger, KID), trust=trust) == "bad_signature"


@pytest.mark.parametrize("root", ["1.3.6.1.4.1.1847.2021.1", "1.3.6.1.4.1.0.1847.2021.1"])
def test_a_key_for_tests_signs_no_vaccination(root: str) -> None:
    for usages, expected in (
        ((f"{root}.2",), "valid"),
        ((f"{root}.1", f"{root}.2"), "valid"),
        (("1.3.6.1.5.5.7.3.1",), "valid"),
        ((f"{root}.1",), "bad_signature"),
        ((f"{root}.3",), "bad_signature"),
    ):
        der = to_der(make_certificate(KEY, usages=usages))
        trust = TrustList()
        trust.add_certificate(der)
        outcome = read(make_hc1(KEY, to_kid(der)), trust=trust)
        got = outcome.signature if isinstance(outcome, Parsed) else outcome.reason  # type: ignore[union-attr]
        assert got == expected, usages


# ---- HC1: envelopes -----------------------------------------------------------------------------


def test_tags_around_the_message() -> None:
    message = cbor2.loads(make_sign1(KEY, KID, make_cwt()))
    for wrapped in (message.value, message, cbor2.CBORTag(61, message)):
        assert person(wrap_hc1(cbor2.dumps(wrapped))).signature == "valid"
    for wrong in (cbor2.CBORTag(98, message.value), cbor2.CBORTag(28, message), [message]):
        assert reason(wrap_hc1(cbor2.dumps(wrong))) == "malformed"


def test_blanks_around_a_code() -> None:
    """A blank is a digit of base45, but its groups never end with one."""
    payload = make_hc1(KEY, KID)
    for number in range(1 << 16):
        assert encode_base45(number.to_bytes(2, "big"))[-1] != " "
    assert person(payload + b" ").warnings == ("whitespace_collapsed",)
    assert person(b"  " + payload).warnings == ("whitespace_collapsed",)
    assert person(payload + b"\r\n").warnings == ("trailing_newline_stripped",)
    assert person(b"\xef\xbb\xbf" + payload).warnings == ("bom_stripped",)


def test_what_is_not_an_envelope() -> None:
    good = make_hc1(KEY, KID)
    message = make_sign1(KEY, KID, make_cwt())
    for payload in (
        b"HC1:",
        good[:-3],
        good[:-1],
        good + b"0",
        good.replace(b"HC1:", b"HC1:a"),
        wrap_hc1(b""),
        wrap_hc1(message[:-1]),
        wrap_hc1(message + b"\0"),
        wrap_hc1(cbor2.dumps({"a": 1})),
        wrap_hc1(make_sign1(KEY, KID, b"")),
        wrap_hc1(make_sign1(KEY, KID, cbor2.dumps({-260: {1: "x"}}))),
        wrap_hc1(make_sign1(KEY, KID, make_cwt(), protected={1: -7, 4: KID, 2: [4]})),
        b"HC1:" + b"6BF" * 300,
    ):
        assert reason(payload) == "malformed", payload[:20]
    assert reason(b"HC2:" + good[4:]) == "unknown"
    assert reason(good[4:]) == "unknown"


def test_times() -> None:
    assert person(make_hc1(KEY, KID), ENDS_S).warnings == ()
    late = person(make_hc1(KEY, KID), ENDS_S + 1)
    assert (late.verdict, late.warnings, late.expired) == ("accept", ("expired",), True)
    assert person(make_hc1(KEY, KID), None).expired is None
    assert person(make_hc1(KEY, KID, exp=None)).expired is None
    assert person(make_hc1(KEY, KID), ISSUED_S - 86_400).warnings == ()  # a clock that is behind
    assert reason(make_hc1(KEY, KID), ISSUED_S - 30 * 86_400) == "malformed"
    assert reason(make_hc1(KEY, KID, nbf=NOW_S + 30 * 86_400)) == "malformed"
    for odd in ("soon", 1e300, float("nan"), [1], True):
        assert person(make_hc1(KEY, KID, exp=odd)).expired is None, odd


# ---- base45 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "data"),
    [(b"BB8", b"AB"), (b"%69 VD92EX0", b"Hello!!"), (b"UJCLQE7W581", b"base-45"),
     (b"QED8WEX0", b"ietf!"), (b"", b""), (b"FGW", b"\xff\xff"), (b"U5", b"\xff")],
)  # fmt: skip
def test_base45_of_the_standard(text: bytes, data: bytes) -> None:
    assert base45.decode(text) == data


@pytest.mark.parametrize("text", [b"GGW", b":::", b"::", b"V5", b"0", b"BB8A", b"bb8", b"BB\x80"])
def test_base45_is_strict(text: bytes) -> None:
    assert base45.decode(text) is None


# ---- CBOR ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x81" * 2_000 + b"\0",
        b"\x9f" * 2_000,
        b"\xc1" * 2_000 + b"\0",
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x9a\x7f\xff\xff\xff" + b"\0" * 4_000,
        b"\xc2\x58\xff" + b"\xff" * 255,  # a number of 2,040 bits
        b"\xc5\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01",  # 2 to the power of 2^63
        b"\xd8\x1c\x81\xd8\x1d\x00",  # a list that holds itself
        b"\xd8\x23\x61\x61",  # a regular expression
        b"\xa2\x01\x01\x01\x02",  # a name that comes twice
        b"\xff", b"\x1f", b"\x3f", b"\xdf\0", b"\x1c", b"\x61\xff", b"\x18", b"\0\0", b"",
    ],
)  # fmt: skip
def test_cbor_that_means_harm_or_nothing(data: bytes) -> None:
    with pytest.raises(ValueError):
        cose.decode(data)


def test_shared_values_cannot_multiply() -> None:
    """Two tags name one value in many places; as the key of a map it would be hashed for ever."""
    items = [cbor2.CBORTag(28, [])]
    for i in range(60):
        items.append(cbor2.CBORTag(28, [cbor2.CBORTag(29, i), cbor2.CBORTag(29, i)]))
    with pytest.raises(ValueError):
        cose.decode(cbor2.dumps([items, {"x": cbor2.CBORTag(29, 60)}]))


# ---- bombs --------------------------------------------------------------------------------------


def test_what_unpacks_to_too_much_is_not_unpacked() -> None:
    # What fits into a code at deflate's best, a thousand to one.
    packed = zlib.compress(bytes(1_000_000), 9)
    assert len(packed) < 1_900
    assert reason(b"HC1:" + wrap_hc1(b"")[4:]) == "malformed"
    assert reason(wrap_hc1(bytes(1_000_000))) == "malformed"
    header = encode_base64(b'{"zip":"DEF","alg":"ES256","kid":"x"}')
    bomb = f"{header}.{encode_base64(deflate(bytes(900_000)))}.{encode_base64(bytes(64))}"
    payload = to_digits(bomb)
    assert len(payload) <= 2_953
    assert reason(payload) == "malformed"


@pytest.mark.parametrize("opening", ['{"data":', '{"data":[', "[[", '{"a":'])
def test_json_may_nest_as_deep_as_it_likes(opening: str) -> None:
    text = (opening * 2_953)[:2_953]
    assert isinstance(parse(text.encode(), trust=TRUST), Refusal)
    inner = "[" * 30_000 + "]" * 30_000
    header = encode_base64(b'{"zip":"DEF","alg":"ES256","kid":"x"}')
    jws = f"{header}.{encode_base64(deflate(inner.encode()))}.{encode_base64(bytes(64))}"
    assert reason(to_digits(jws)) == "malformed"


# ---- SMART Health Cards -------------------------------------------------------------------------


def test_a_health_card() -> None:
    parsed = person(to_digits(make_jws(KEY, JWK["kid"])))
    assert (parsed.type, parsed.verdict, parsed.warnings) == ("shc", "accept", ())
    assert (parsed.name_nfc, parsed.dob) == ("Öberg Test Anna", "1990-06-05")
    assert (parsed.group, parsed.health) == ("v", "v 1 2021-06-11")
    assert (parsed.issuer, parsed.signature) == ("https://test.example/issuer", "valid")
    known = identify(parsed)
    assert known is not None and known.kind == "pass"
    assert parsed_to_source(parsed) == Source.SHC


def test_parts_of_a_card_are_nobody_until_they_are_joined() -> None:
    jws = make_jws(KEY, JWK["kid"])
    cuts = [0, len(jws) // 3, 2 * len(jws) // 3, len(jws)]
    texts = [jws[a:b] for a, b in itertools.pairwise(cuts)]
    chunks = [read(to_digits(text, f"{i}/3/")) for i, text in enumerate(texts, 1)]
    assert all(isinstance(chunk, Chunk) and chunk.text not in repr(chunk) for chunk in chunks)
    for order in itertools.permutations(chunks):
        joined = join_chunks(list(order), now_s=NOW_S, trust=TRUST)  # type: ignore[arg-type]
        assert joined == person(to_digits(jws))
    for wrong in (chunks[:2], [*chunks[:2], chunks[1]]):
        outcome = join_chunks(wrong, trust=TRUST)  # type: ignore[arg-type]
        assert isinstance(outcome, Refusal) and outcome.reason == "malformed"
    assert isinstance(read(to_digits(jws, "1/1/")), Parsed)
    for numbers in ("0/2/", "3/2/", "1/99/", "0/0/", "1/2", "/", "1//", "-1/2/"):
        assert reason(to_digits(jws, numbers)) == "malformed", numbers


def test_cards_that_are_not_signed_as_they_say() -> None:
    jws = make_jws(KEY, JWK["kid"])
    assert reason(to_digits(make_jws(OTHER, JWK["kid"]))) == "bad_signature"
    assert person(to_digits(make_jws(OTHER, "other"))).signature == "unknown_key"
    strange = make_jws(KEY, JWK["kid"], iss="https://evil.example")
    assert person(to_digits(strange)).signature == "unknown_key", "another issuer's key"
    head, body, signature = jws.split(".")
    for part in (signature[:-4], signature + "AAAA", encode_base64(bytes(64)), "A"):
        assert reason(to_digits(f"{head}.{body}.{part}")) in ("bad_signature", "malformed")
    none = encode_base64(b'{"zip":"DEF","alg":"none","kid":"x"}')
    assert reason(to_digits(f"{none}.{body}.{signature}")) == "bad_signature"
    for header in (b'{"alg":"ES256","kid":"x"}', b'{"zip":"DEF","alg":"ES256"}', b"[]", b"\xff"):
        assert reason(to_digits(f"{encode_base64(header)}.{body}.{signature}")) == "malformed"
    for text in (f"{head}.{body}", f"{jws}.x", f".{body}.{signature}", "x", jws[:-1] + "/"):
        assert reason(to_digits(text)) == "malformed"


@pytest.mark.parametrize(
    ("path", "value"),
    [("entry", []), ("entry", {}), ("entry", None), ("entry.0.resource", "x"),
     ("entry.0.resource.name", []), ("entry.0.resource.name", ["x"]),
     ("entry.0.resource.birthDate", "5.6.1990")],
)  # fmt: skip
def test_a_card_without_a_patient(path: str, value: object) -> None:
    assert reason(to_digits(make_jws(KEY, JWK["kid"], changed(BUNDLE, path, value)))) == "malformed"


def test_times_of_a_card() -> None:
    assert reason(to_digits(make_jws(KEY, JWK["kid"])), ISSUED_S - 30 * 86_400) == "malformed"
    late = person(to_digits(make_jws(KEY, JWK["kid"], exp=ISSUED_S + 10)))
    assert (late.warnings, late.expired) == (("expired",), True)
    other = make_jws(KEY, JWK["kid"], vc={"type": ["https://example.com/diploma"]})
    assert reason(to_digits(other)) == "unsupported_context"


def test_an_issuer_is_an_address_or_a_country() -> None:
    for issuer in ("\ud800", "https://\x1b[2J", "", "ftp://x", 5, None, "https://" + "x" * 300):
        assert reason(to_digits(make_jws(KEY, JWK["kid"], iss=issuer))) == "malformed", issuer
    for issuer in ("\x1b[2J", "x" * 100, "", 5, None):
        assert person(make_hc1(KEY, KID, iss=issuer)).issuer == "SE", issuer  # where it was given
    sick = changed(SEAL, "msg.uvci", "T\x1b[2J")
    assert reason(make_seal(KEY, DER, sick)) == "malformed"


def test_half_letters_of_json_are_no_name() -> None:
    half = changed(BUNDLE, "entry.0.resource.name", [{"family": "\ud800"}])
    assert reason(to_digits(make_jws(KEY, JWK["kid"], half))) == "malformed"


# ---- VDS-NC -------------------------------------------------------------------------------------


def test_a_seal_names_its_holder_by_the_passport() -> None:
    for is_der in (False, True):
        parsed = person(make_seal(KEY, DER, is_der=is_der))
        assert (parsed.type, parsed.verdict, parsed.signature) == ("vdsnc", "accept", "valid")
    assert (parsed.doc_no, parsed.country, parsed.doc_kind) == ("C9999001", "VNM", "passport")
    assert (parsed.name_fold, parsed.sex, parsed.health) == ("TRAN VAN TEST", "M", "v 2 2021-06-11")
    known = identify(parsed)
    assert known is not None
    assert (known.kind, known.issuer, known.canonical) == ("passport", "VNM", "C9999001")
    nameless = person(make_seal(KEY, DER, changed(SEAL, "msg.pid.i")))
    known = identify(nameless)
    assert known is not None and known.kind == "pass"
    german = person(make_seal(KEY, DER, changed(SEAL, "hdr.is", "D")))
    assert german.country == "DEU"


def test_a_seal_of_a_test() -> None:
    message = {
        "utci": "U99900001",
        "pid": {"n": "TRAN VAN TEST", "dob": "1990-06-05", "dt": "P", "dn": "C9999001"},
        "dat": {"sc": "2021-06-20T08:00:00+07:00", "ri": "2021-06-20T12:00:00+07:00"},
        "tr": {"tc": "molecular(PCR)", "r": "negative"},
    }
    parsed = person(make_seal(KEY, DER, {**changed(SEAL, "hdr.t", "icao.test"), "msg": message}))
    assert (parsed.certificate_id, parsed.doc_no) == ("U99900001", "C9999001")
    assert (parsed.group, parsed.health) == ("t", "t negative 2021-06-20")


def test_whose_seal_it_is() -> None:
    data = SEAL
    assert person(make_seal(OTHER, to_der(make_certificate(OTHER)))).signature == "unknown_key"
    assert reason(make_seal(OTHER, DER)) == "bad_signature"
    root = ec.generate_private_key(ec.SECP256R1())
    authority = make_certificate(root, is_ca=True, name="TEST CSCA")
    trust = TrustList()
    trust.add_certificate(to_der(authority))
    signer = to_der(make_certificate(OTHER, ca=(authority, root)))
    assert person(make_seal(OTHER, signer, data), trust=trust).signature == "valid"
    # A signer that is no authority makes no further signers.
    leaf = make_certificate(KEY, name="TEST LEAF")
    plain = TrustList()
    plain.add_certificate(to_der(leaf))
    below = to_der(make_certificate(OTHER, ca=(leaf, KEY)))
    assert person(make_seal(OTHER, below, data), trust=plain).signature == "unknown_key"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"1990-06-05"', '"1991-06-05"', "bad_signature"),
        ('"seq": 2', '"seq": 3', "bad_signature"),
        ('"v": 1', '"v": 2', "unsupported_context"),
        ("icao.vacc", "icao.visa", "unsupported_context"),
        ("ES256", "RS256", "malformed"),
        ('"VNM", "t"', '"vnm", "t"', "malformed"),
        ('"seq": 2', '"seq": 2.5', "malformed"),
        ('"seq": 2', '"seq": 1e400', "malformed"),
        ('"seq": 2', '"seq": 2, "seq": 2', "malformed"),
        ('"C9999001"', '"C99\\u00e9"', "malformed_id"),
        ('"sex": "M"', '"sex": "\\ud800"', "malformed"),
        ('"cer"', '"cert"', "malformed"),
    ],
)
def test_seals_that_were_changed(old: str, new: str, expected: str) -> None:
    text = make_seal(KEY, DER).decode()
    assert text.count(old) == 1
    assert reason(text.replace(old, new).encode()) == expected


def test_the_canonical_form() -> None:
    value = {
        "\u20ac": "\u20ac",
        "\r": "\x0f\n",
        "\ufb33": 1,
        "1": {"b": [True, None], "a": 'q"\\/'},
        "\U0001f600": -5,
    }
    expected = (
        '{"\\r":"\\u000f\\n","1":{"a":"q\\"\\\\/","b":[true,null]},'
        '"\u20ac":"\u20ac","\U0001f600":-5,"\ufb33":1}'
    )
    assert vdsnc.canonical(value).decode() == expected  # in the order of UTF-16, as RFC 8785 asks
    for number in (0.5, 2**60, float("inf")):
        with pytest.raises(ValueError):
            vdsnc.canonical([number])


def test_blanks_and_order_of_a_seal_do_not_count() -> None:
    seal = json.loads(make_seal(KEY, DER))
    shuffled = {"sig": seal["sig"], "data": dict(reversed(seal["data"].items()))}
    assert person(json.dumps(shuffled, indent=1).encode()).signature == "valid"


# ---- none of it shows ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_hc1(KEY, KID),
        lambda: to_digits(make_jws(KEY, JWK["kid"])),
        lambda: make_seal(KEY, DER),
    ],
)
def test_a_pass_shows_nothing_in_a_repr(make: Callable[[], bytes]) -> None:
    shown = repr(person(make()))
    assert not any(word in shown for word in ("berg", "TRAN", "1990", "999", "2021-06-11"))
