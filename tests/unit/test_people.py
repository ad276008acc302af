"""People: identities, details, typed credentials, manual entries, masks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DetailsInvalid
from engine.payloads import Parsed, Refusal, parse
from engine.scans.people import (
    Details,
    Identity,
    bytes_to_details,
    credential_to_identity,
    details_to_bytes,
    fields_to_parsed,
    holder_to_identity,
    identify,
    identities,
    identity_to_details,
    identity_to_source,
    mask_doc,
    mask_name,
    mask_phone,
    parsed_to_details,
    parsed_to_source,
)
from engine.scans.rows import Source

SEEDED = settings(derandomize=True, database=None, deadline=None, max_examples=300)

CARD = "045190999001|999999001|Nguyễn Thị Hồng Ánh|05061990|Nữ|Thôn Tân Hòa, Quảng Trị|11062021"
EXT = "<2<HS4459900000001<0912345678"
OPEN = f"045190999001|NGUYEN THI HONG ANH|1990-06-05|0|162999900000000001|{EXT}"
HIDDEN = f"******999001|NGUYEN THI HONG ANH|1990-**-**|0|162999900000000001|{EXT}"
ENTRY = {
    "name": "Nguyễn Thị Hồng Ánh",
    "cccd": "045190999001",
    "birth": "05/06/1990",
    "sex": "Nữ",
    "phone": "0912 345 678",
    "address": "Thôn Tân Hòa",
}

QID = Identity("qid", "VNM", "162999900000000001")
CCCD = Identity("cccd", "VNM", "045190999001")


def person(text: str) -> Parsed:
    parsed = parse(text.encode())
    assert isinstance(parsed, Parsed)
    return parsed


def entry(**changes: str) -> Parsed:
    parsed = fields_to_parsed({**ENTRY, **changes})
    assert isinstance(parsed, Parsed), parsed
    return parsed


# ---- identity -----------------------------------------------------------------------------------


def test_masked_and_open_codes_are_one_person_by_qid() -> None:
    assert identify(person(OPEN)) == identify(person(HIDDEN)) == QID


def test_a_card_is_its_number() -> None:
    assert identify(person(CARD)) == CCCD


def test_the_ladder_names_all_numbers_surest_first() -> None:
    assert identities(person(OPEN)) == [QID, CCCD, Identity("bhyt", "VNM", "9900000001")]
    assert [i.kind for i in identities(person(HIDDEN))] == ["qid", "bhyt"]


def test_a_passport_in_a_code_has_no_country_and_names_nobody() -> None:
    assert [i.kind for i in identities(person(OPEN.replace("045190999001", "C9990001")))] == [
        "qid",
        "bhyt",
    ]


def test_neither_phone_nor_name_is_an_identity() -> None:
    parsed = fields_to_parsed({k: v for k, v in ENTRY.items() if k != "cccd"})
    assert isinstance(parsed, Parsed)
    assert parsed.phone == "+84912345678"
    assert identify(parsed) is None
    assert parsed_to_source(parsed) is Source.PAPER


@pytest.mark.parametrize(
    ("credential", "expected"),
    [
        (["qid", " 162999900000000001 "], QID),
        (["cccd", "045 190 999.001"], CCCD),
        (["cccd", "045190999001", None], CCCD),
        (["passport", "c-999 0001", "vnm"], Identity("passport", "VNM", "C9990001")),
        (["passport", "C9990001", "D"], Identity("passport", "DEU", "C9990001")),
        (["bhyt", "hs4459900000001"], Identity("bhyt", "VNM", "9900000001")),
        (["bhyt", "9900000001"], Identity("bhyt", "VNM", "9900000001")),
    ],
)
def test_typed_credentials_have_one_spelling(credential: list[object], expected: Identity) -> None:
    assert credential_to_identity(credential) == expected


@pytest.mark.parametrize(
    ("credential", "reason"),
    [
        (["cccd", "04519099900"], "malformed_id"),
        (["cccd", "097190999001"], "malformed_id"),
        (["cccd", "٠٤٥١٩٠٩٩٩٠٠١"], "malformed_id"),
        (["qid", ""], "malformed_id"),
        (["qid", "1629*9900000000001"], "malformed_id"),
        (["passport", "C9990001"], "malformed_id"),
        (["passport", "C9990001", "VN"], "malformed_id"),
        (["passport", "", "VNM"], "malformed_id"),
        (["passport", "CABCDEF", "VNM"], "malformed_id"),
        (["passport", "C999000111", "VNM"], "malformed_id"),
        (["bhyt", "12345"], "malformed_id"),
        (["phone", "0912345678"], "malformed"),
        (["cccd", 45190999001], "malformed"),
        (["cccd", "045190999001", 7], "malformed"),
        (["cccd", "045190999001", "", ""], "malformed"),
        ([None, None], "malformed"),
        (["cccd"], "malformed_id"),
        ([], "malformed"),
        (["qid", "1" * 1000], "malformed"),
    ],
)
def test_typed_credentials_that_are_none(credential: list[object], reason: str) -> None:
    refusal = credential_to_identity(credential)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason


@SEEDED
@given(
    st.lists(
        st.sampled_from(["qid", "cccd", "passport", "bhyt"]) | st.text() | st.none(), max_size=5
    )
)
def test_any_credential_is_an_identity_or_refused(credential: list[object]) -> None:
    assert isinstance(credential_to_identity(credential), Identity | Refusal)


def test_what_is_known_of_a_bare_number() -> None:
    passport = Identity("passport", "VNM", "C9990001")
    bhyt = Identity("bhyt", "VNM", "9900000001")
    assert identity_to_details(QID) == Details(qid="162999900000000001")
    assert identity_to_details(CCCD) == Details(doc_kind="cccd", doc_no="045190999001")
    assert identity_to_details(passport) == Details(
        doc_kind="passport", doc_no="C9990001", country="VNM"
    )
    assert identity_to_details(bhyt) == Details(bhyt="9900000001")
    assert [identity_to_source(i) for i in (QID, CCCD, passport, bhyt)] == [
        Source.QR1405,
        Source.CCCD,
        Source.PASSPORT,
        Source.BHYT,
    ]


# ---- details ------------------------------------------------------------------------------------


def test_details_of_a_card() -> None:
    details = parsed_to_details(person(CARD))
    assert details == Details(
        name="Nguyễn Thị Hồng Ánh",
        doc_kind="cccd",
        doc_no="045190999001",
        birth="1990-06-05",
        sex="F",
        address="Thôn Tân Hòa, Quảng Trị",
        old_doc_no="999999001",
    )
    assert len(details_to_bytes(details)) < len(CARD.encode()) + 20


def test_details_of_a_masked_code() -> None:
    details = parsed_to_details(person(HIDDEN))
    assert (details.doc_no, details.birth) == ("******999001", "1990")
    assert (details.qid, details.phone) == ("162999900000000001", "+84912345678")


def test_details_say_why_a_person_should_look() -> None:
    assert parsed_to_details(person(CARD.replace("05061990", "31061990"))).warnings == ("bad_dob",)


texts = st.text(max_size=30)


@SEEDED
@given(st.builds(Details, *[texts] * 17, st.lists(texts, max_size=3).map(tuple)))
def test_details_come_back(details: Details) -> None:
    assert bytes_to_details(details_to_bytes(details)) == details


def test_details_of_an_older_version_are_read() -> None:
    assert bytes_to_details(b"\x92\xa2An\xa4cccd") == Details(name="An", doc_kind="cccd")


@SEEDED
@given(st.binary(max_size=80))
def test_any_bytes_are_details_or_refused(data: bytes) -> None:
    try:
        details = bytes_to_details(data)
    except DetailsInvalid as error:
        assert str(error) == "not the bytes of a person's details"
        assert error.__cause__ is None
        assert error.__suppress_context__
    else:
        assert isinstance(details, Details)


def test_nothing_of_a_person_shows_in_a_repr() -> None:
    details = parsed_to_details(person(OPEN))
    for value in (details, QID, [details, QID], person(OPEN), entry()):
        shown = repr(value) + str(value)
        assert not any(word in shown for word in ("999001", "9990000", "ANH", "1990", "91234"))
    assert details.__rich_repr__() == []


# ---- manual entry -------------------------------------------------------------------------------


def test_an_entry_with_the_fields_of_a_card_is_the_card_s_person() -> None:
    typed, card = entry(), person(CARD)
    assert typed.type == "manual"
    assert (typed.verdict, typed.warnings) == ("accept", ())
    assert identify(typed) == identify(card)
    for name in ("name_nfc", "name_fold", "dob", "birth_year", "sex", "doc_no"):
        assert getattr(typed, name) == getattr(card, name), name
    assert typed.phone == "+84912345678"
    assert parsed_to_source(typed) is Source.CCCD


@pytest.mark.parametrize(
    ("change", "warnings"),
    [
        ({"birth": "1990"}, ()),
        ({"birth": "1990-06-05"}, ()),
        ({"birth": "05061990"}, ()),
        ({"birth": ""}, ()),
        ({"sex": "F"}, ()),
        ({"sex": "Khác"}, ()),
        ({"sex": ""}, ()),
        ({"phone": ""}, ()),
        ({"birth": "31/06/1990"}, ("bad_dob",)),
        ({"birth": "hôm qua"}, ("bad_dob",)),
        ({"sex": "Nam"}, ("id_sex_century_mismatch",)),
        ({"birth": "1991"}, ("id_sex_century_mismatch",)),
        ({"phone": "12345"}, ("bad_phone",)),
        ({"name": ""}, ("suspicious_name",)),
        ({"name": "=1+1"}, ("suspicious_name",)),
        ({"name": "Nguyễn  An"}, ("whitespace_collapsed",)),
        ({"address": "Thôn\x00 1"}, ("control_chars",)),
    ],
)
def test_entries_pass_the_checks_of_cards(
    change: dict[str, str], warnings: tuple[str, ...]
) -> None:
    parsed = entry(**change)
    assert parsed.warnings == warnings
    kept = {"whitespace_collapsed", "bad_phone"}
    assert parsed.verdict == ("review" if set(warnings) - kept else "accept")


def test_an_entry_with_a_passport() -> None:
    fields = {"name": "Anna Muster", "passport": "c9990001", "country": "deu", "sex": "F"}
    parsed = fields_to_parsed(fields)
    assert isinstance(parsed, Parsed)
    assert identify(parsed) == Identity("passport", "DEU", "C9990001")
    assert parsed_to_source(parsed) is Source.PASSPORT
    assert parsed_to_details(parsed).country == "DEU"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"cccd": "04519099900"}, "malformed_id"),
        ({"passport": "C9990001"}, "malformed_id"),
        ({"passport": "C9990001", "country": "Đức"}, "malformed_id"),
        ({"cccd": "045190999001", "passport": "C9990001", "country": "VNM"}, "malformed"),
        ({"bhyt": "1"}, "malformed_id"),
        ({"sex": "maybe"}, "malformed"),
        ({"nickname": "x"}, "malformed"),
        ({"name": 7}, "malformed"),
        ({7: "name"}, "malformed"),
        ({"name": "x" * 257}, "malformed"),
        ({"name": None}, "malformed"),
    ],
)
def test_entries_that_are_none(fields: dict[object, object], reason: str) -> None:
    refusal = fields_to_parsed(fields)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason


keys = st.sampled_from(["name", "cccd", "passport", "country", "birth", "sex", "phone", "bhyt"])
values = st.sampled_from([*ENTRY.values(), "C9990001", "VNM", "HS4459900000001"]) | st.text()


@SEEDED
@given(st.dictionaries(keys | st.text(), values | st.none() | st.integers() | st.binary()))
def test_any_entry_is_a_person_or_refused(fields: dict[str, object]) -> None:
    parsed = fields_to_parsed(fields)
    assert isinstance(parsed, Parsed | Refusal)
    if isinstance(parsed, Parsed):
        assert bytes_to_details(details_to_bytes(parsed_to_details(parsed))).name == parsed.name_nfc


# ---- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "masked"),
    [
        ("Nguyễn Thị Hồng Ánh", "Nguyễn Th***"),
        ("NGUYEN THI HONG ANH", "NGUYEN TH***"),
        ("Trần An", "Trần A***"),
        ("Lê Ý", "Lê ***"),
        ("Ánh", "Á***"),
        ("", "***"),
        ("   ", "***"),
        ("  Nguyễn   Thị ", "Nguyễn Th***"),
        ("A" * 80 + " B", "A" * 12 + " ***"),
    ],
)
def test_masked_names(name: str, masked: str) -> None:
    assert mask_name(name) == masked


@pytest.mark.parametrize(
    ("phone", "masked"),
    [
        ("+84912345678", "0912***"),
        ("0912345678", "0912***"),
        ("+442079460000", "+442***"),
        ("12345", "***"),
        ("", "***"),
    ],
)
def test_masked_phones(phone: str, masked: str) -> None:
    assert mask_phone(phone) == masked


def test_masked_documents() -> None:
    assert mask_doc("045190999001") == mask_doc("******999001") == "******999001"
    assert mask_doc("162999900000000001") == "************000001"
    assert mask_doc("C9990001") == "******01"
    assert mask_doc("") == "******"


@SEEDED
@given(st.text(max_size=40))
def test_a_mask_never_shows_a_whole_name(name: str) -> None:
    words, shown = name.split(), mask_name(name).removesuffix("***").split()
    if len(words) < 2:
        assert len("".join(shown)) <= 1
    else:
        assert len(shown) <= 2
        assert words[0].startswith(shown[0])
        assert words[1] not in shown[1:]


# ---- holders of passes --------------------------------------------------------------------------


def test_the_holder_of_a_pass_is_found_as_the_pass_has_them() -> None:
    shown = Parsed(
        type="dcc", verdict="accept", warnings=(), name_nfc="Öberg  Test Anna",
        name_fold="OBERG TEST ANNA", dob="1990-06-05",
        issuer="se", signature="valid",
    )  # fmt: skip
    for name, birth in (("Öberg Test Anna", "1990-06-05"), ("öberg test  ANNA", "05/06/1990")):
        assert holder_to_identity("SE", name, birth, "") == identify(shown)
    year_alone = Parsed(
        type="dcc", verdict="accept", warnings=(), name_nfc="An", name_fold="AN",
        birth_year=1990, issuer="SE",
        signature="valid", certificate_id="urn:uvci:01:se:999",
    )  # fmt: skip
    assert holder_to_identity("SE", "", "", "URN:UVCI:01:SE:999 ") == identify(year_alone)
    for bad in (("SE", "", "1990-06-05"), ("SE", "An", "1990"), ("", "An", "1990-06-05")):
        assert isinstance(holder_to_identity(*bad, ""), Refusal)
