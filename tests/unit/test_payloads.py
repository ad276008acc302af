"""Payloads: every vector, the variants around them, and what is refused for which reason."""

from __future__ import annotations

import pytest

from engine import payloads
from engine.clock import date_to_day
from engine.payloads import Parsed, Refusal, VenueLink, parse, payload_to_json
from engine.payloads import __name__ as package
from engine.payloads.outcome import REVIEW_WARNINGS
from engine.scans.rows import REASONS
from tests.reference.payload_vectors import Vector, load

VECTORS = load()
CARD = "045190999001|999999001|Nguyễn Thị Hồng Ánh|05061990|Nữ|Thôn Tân Hòa, Quảng Trị|11062021"
EXT = "<2<HS4459900000001<0912345678"
OPEN = f"045190999001|NGUYEN THI HONG ANH|1990-06-05|0|162999900000000001|{EXT}"
HIDDEN = "******999001|NGUYEN THI HONG ANH|1990-**-**|0|162999900000000001|<2"


def person(text: str | bytes, today: str | None = None) -> Parsed:
    data = text if isinstance(text, bytes) else text.encode()
    parsed = parse(data, today_day=date_to_day(today) if today else None)
    assert isinstance(parsed, Parsed), parsed
    return parsed


def reason(text: str | bytes) -> str:
    refusal = parse(text if isinstance(text, bytes) else text.encode())
    assert isinstance(refusal, Refusal), refusal
    return refusal.reason


def swap(text: str, index: int, value: str) -> str:
    fields = text.split("|")
    fields[index] = value
    return "|".join(fields)


# ---- vectors ------------------------------------------------------------------------------------


def test_all_kinds_of_vectors_are_here() -> None:
    kinds = {vector.id.rpartition("-")[0] for vector in VECTORS}
    cards = {"vn.cccd", "vn.qr1405", "vn.bhyt", "dcc.vn", "shc", "vdsnc", "venue.url"}
    negative = {"neg.other", "neg.vietqr", "neg.venue_foreign"}
    ours = {kind for kind in kinds if not kind.startswith(("dcc.eu", "shc.dev"))}
    assert ours == cards | negative
    assert len(VECTORS) == 195


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.id)
def test_vector(vector: Vector) -> None:
    answer = payload_to_json(vector.payload, now_s=vector.now_s, trust=vector.trust())
    for key, value in vector.expect.items():
        if key == "warnings":
            assert set(answer[key]) == set(value)
            assert len(answer[key]) == len(set(answer[key]))
        else:
            assert answer[key] == value, key
    if vector.expect["verdict"] == "reject":
        assert answer["type"] is None
    else:
        assert answer["reason"] is None


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.is_person], ids=lambda v: v.id)
def test_nothing_of_a_person_shows_in_a_repr(vector: Vector) -> None:
    parsed = parse(vector.payload, now_s=vector.now_s, trust=vector.trust())
    shown = f"{parsed!r} {parsed} {parsed.__rich_repr__()}"
    keys = ("doc_no", "name_fold", "name_nfc", "dob", "qid", "phone", "address", "bhyt", "uvci")
    for key in keys:
        value = vector.expect.get(key)
        assert not value or value not in shown, key


def test_words_are_those_of_the_vocabulary() -> None:
    answers = [payload_to_json(vector.payload) for vector in VECTORS]
    assert {a["reason"] for a in answers} - {None} <= set(REASONS)
    for answer in answers:
        if answer["verdict"] != "reject":
            is_part = answer["type"] == "shc" and "name_nfc" not in answer
            is_review = is_part or bool(REVIEW_WARNINGS & set(answer["warnings"]))
            assert answer["verdict"] == ("review" if is_review else "accept")


# ---- outer bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "warnings"),
    [
        (b"", b"\r\n", {"trailing_newline_stripped"}),
        (b"", b"\n", {"trailing_newline_stripped"}),
        (b"  ", b"", {"whitespace_collapsed"}),
        (b"", b" \n", {"trailing_newline_stripped", "whitespace_collapsed"}),
        (b"\xef\xbb\xbf", b"", {"bom_stripped"}),
        (
            b"\xef\xbb\xbf ",
            b"\n",
            {"bom_stripped", "whitespace_collapsed", "trailing_newline_stripped"},
        ),
        (b"", b"\x00", {"control_chars"}),
        (b"", b"\x1d", {"control_chars"}),
    ],
)
def test_what_readers_put_around_a_card_comes_off(
    before: bytes, after: bytes, warnings: set[str]
) -> None:
    plain, wrapped = person(CARD), person(before + CARD.encode() + after)
    assert plain.warnings == ()
    assert set(wrapped.warnings) == warnings
    names = [n for n in Parsed.__struct_fields__ if n not in ("verdict", "warnings")]
    assert [getattr(plain, n) for n in names] == [getattr(wrapped, n) for n in names]


def test_the_same_bytes_behind_a_refusal_do_not_matter() -> None:
    assert reason(b"\xef\xbb\xbf  0002010102\r\n") == "payment_qr"
    assert reason(b"\xef\xbb\xbf") == "empty"
    assert reason(b"") == "empty"


def test_length_is_the_first_test() -> None:
    assert reason(b"x" * payloads.PAYLOAD_MAX) == "unknown"
    assert reason(b"x" * (payloads.PAYLOAD_MAX + 1)) == "too_long"
    assert reason(b" " * (payloads.PAYLOAD_MAX + 1)) == "too_long"


def test_legacy_bytes_are_believed_only_as_a_card() -> None:
    assert reason("Nguyễn".encode() + b"\xff|a") == "bad_encoding"
    assert reason(b"\xd2\xfe\xec") == "bad_encoding"
    assert reason(b"a|\x81\x8d|b") == "bad_encoding"


# ---- ID card ------------------------------------------------------------------------------------


def test_card_without_date_of_issue() -> None:
    parsed = person(CARD.rpartition("|")[0])
    assert parsed.warnings == ("missing_issue_date",)
    assert parsed.verdict == "accept"
    assert parsed.issue_date is None
    assert person(CARD.rpartition("|")[0] + "|") == parsed


def test_card_without_old_number() -> None:
    fields = CARD.split("|")
    del fields[1]
    parsed = person("|".join(fields))
    assert parsed == person(swap(CARD, 1, ""))
    assert parsed.old_doc_no is None
    assert person("|".join(fields[:-1])).warnings == ("missing_issue_date",)


def test_card_with_separators_in_its_dates() -> None:
    for birth in ("05/06/1990", "05-06-1990", "1990-06-05", "05.06.1990"):
        parsed = person(swap(CARD, 3, birth))
        assert (parsed.dob, parsed.warnings) == ("1990-06-05", ("nonstandard_date",))


@pytest.mark.parametrize(
    "birth", ["30021990", "00001990", "05061890", "05062990", "5061990", "", "٠٥٠٦١٩٩٠", "0506199O"]
)
def test_card_with_a_birth_that_is_none_goes_to_a_person(birth: str) -> None:
    parsed = person(swap(CARD, 3, birth))
    assert parsed.verdict == "review"
    assert parsed.warnings == ("bad_dob",)
    assert parsed.dob is None
    assert parsed.doc_no == "045190999001"


def test_birth_later_than_today() -> None:
    assert person(CARD, today="1990-06-05").dob == "1990-06-05"
    late = person(CARD, today="1990-06-04")
    assert (late.dob, late.verdict) == (None, "review")
    assert person(HIDDEN, today="1990-01-01").birth_year == 1990
    assert person(HIDDEN, today="1989-12-31").warnings == ("bad_dob",)


def test_number_against_sex_and_birth() -> None:
    for changed in (swap(CARD, 4, "Nam"), swap(CARD, 3, "05061991"), swap(CARD, 3, "05062090")):
        parsed = person(changed)
        assert parsed.warnings == ("id_sex_century_mismatch",)
        assert parsed.verdict == "review"
    # Digits 2 and 3 are those born from 2000 on, even digits are male.
    assert person(swap(swap(swap(CARD, 0, "045205999001"), 3, "05062005"), 4, "Nam")).warnings == ()
    assert person(swap(CARD, 4, "Khác")).warnings == ("id_sex_century_mismatch",)


@pytest.mark.parametrize("word", ["Nữ", "Nu", "NỮ", "nữ", "NU", "nu"])
def test_sex_in_any_writing(word: str) -> None:
    assert person(swap(CARD, 4, word)).sex == "F"


@pytest.mark.parametrize(
    "number",
    [
        "000190999001", "097190999001", "999190999001", "04519099900", "0451909990011", "",
        "O45190999001", "04519099900１", "٠٤٥١٩٠٩٩٩٠٠١", "0451 90999001", "+45190999001",
        "045_90999001", "²45190999001",
    ],
)  # fmt: skip
def test_number_that_is_none_is_refused(number: str) -> None:
    assert reason(swap(CARD, 0, number)) == "malformed_id"


def test_provinces_begin_at_1_and_end_at_96() -> None:
    assert person(swap(CARD, 0, "001190999001")).doc_no == "001190999001"
    assert person(swap(CARD, 0, "096190999001")).doc_no == "096190999001"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "=1+1",
        "+84",
        "-x",
        "@x",
        "<b>An</b>",
        "Nguyễn 2",
        "Nguyеn An",
        "An\ufffd",
        "A" * 101,
        "王",
    ],
)
def test_suspicious_names_go_to_a_person(name: str) -> None:
    parsed = person(swap(CARD, 2, name))
    assert (parsed.verdict, parsed.warnings) == ("review", ("suspicious_name",))


@pytest.mark.parametrize("name", ["H’Hen Niê", "Y-Blô Êban", "Đỗ Đức Kỷ", "Ông Thị Ý", "K'Brối"])
def test_names_of_all_peoples_of_the_country_pass(name: str) -> None:
    assert person(swap(CARD, 2, name)).warnings == ()


def test_blanks_and_controls_inside() -> None:
    spaced = person(swap(CARD, 2, " Nguyễn  Thị\u00a0Hồng Ánh"))
    assert (spaced.name_nfc, spaced.warnings) == ("Nguyễn Thị Hồng Ánh", ("whitespace_collapsed",))
    ruined = person(swap(CARD, 2, "Nguyễn\x07Thị Hồng\u202e Ánh\u200b"))
    assert (ruined.name_nfc, ruined.warnings) == ("Nguyễn Thị Hồng Ánh", ("control_chars",))
    assert ruined.verdict == "review"


def test_old_number_that_is_none() -> None:
    parsed = person(swap(CARD, 1, "12345"))
    assert (parsed.old_doc_no, parsed.warnings) == (None, ("unverified_layout",))


def test_relatives_on_the_card_of_2024_are_nowhere() -> None:
    parsed = person(CARD + "|Trần Văn Bình|045065999777|")
    assert parsed.warnings == ("extra_fields_dropped",)
    kept = " ".join(str(getattr(parsed, name)) for name in Parsed.__struct_fields__)
    assert "Bình" not in kept
    assert "999777" not in kept


def test_number_with_other_fields_is_malformed() -> None:
    assert reason("045190999001|x") == "malformed"
    assert reason("045190999001|a|b|c|d|e|f") == "malformed"


# ---- national personal code ---------------------------------------------------------------------


def test_masked_code() -> None:
    parsed = person(HIDDEN)
    assert (parsed.doc_no, parsed.doc_masked, parsed.doc_suffix) == (None, True, "999001")
    kinds = {"******999001": "cccd", "******123": "cmnd", "******01": "", "*" * 12: ""}
    for number, kind in kinds.items():
        assert person(swap(HIDDEN, 0, number)).doc_kind == kind
    assert (parsed.dob, parsed.dob_masked, parsed.birth_year) == (None, True, 1990)
    assert person(swap(HIDDEN, 0, "******01")).doc_suffix == "01"
    assert person(swap(HIDDEN, 2, "****-**-**")).birth_year is None
    other = person(swap(HIDDEN, 2, "**/**/1990"))
    assert (other.birth_year, other.dob_masked) == (1990, True)
    assert other.warnings == ("nonstandard_date",)


@pytest.mark.parametrize(
    "qid",
    ["", "12345", "1629999*****000001", "1 62999900000000001", "١٦٢٩٩٩", "1" * 41, "<1>29999"],
)
def test_a_qid_must_be_whole(qid: str) -> None:
    assert reason(swap(OPEN, 4, qid)) == "malformed"
    assert reason(swap(HIDDEN, 4, qid)) == "malformed"


@pytest.mark.parametrize("kind", ["2", "", "x", "00", "٠"])
def test_kind_of_declaration_is_0_or_1(kind: str) -> None:
    assert reason(swap(OPEN, 3, kind)) == "malformed"


@pytest.mark.parametrize(
    ("text", "kind"),
    [("045190999001", "cccd"), ("999000123", "cmnd"), ("C9990001", "passport"), ("", "")],
)
def test_documents_of_a_code(text: str, kind: str) -> None:
    parsed = person(swap(OPEN, 0, text))
    assert (parsed.doc_kind, parsed.doc_no) == (kind, text or None)


@pytest.mark.parametrize("text", ["04519O999001", "04519099900", "097190999001", "**a**999", "é"])
def test_bad_documents_of_a_code(text: str) -> None:
    assert reason(swap(OPEN, 0, text)) == "malformed_id"


def test_items_of_ext() -> None:
    proxy = person(swap(swap(OPEN, 3, "1"), 5, "162999900000000002<1<4599000123<0912345678"))
    assert (proxy.proxy, proxy.proxy_qid) == (True, "162999900000000002")
    assert proxy.bhyt == "4599000123"
    assert person(swap(OPEN, 5, "")).warnings == ("missing_ext",)
    for odd in ("162999900000000002<2", "<3", "<2<XX1", "<2<<<SIG", "<2" + "<" * 20 + "x"):
        assert person(swap(OPEN, 5, odd)).warnings == ("ext_unknown_fields",), odd
    assert person(swap(OPEN, 5, "<2<<<<<<<<<<<")).warnings == ()


def test_sex_of_a_code_against_its_number() -> None:
    assert person(swap(OPEN, 5, "<1")).warnings == ("id_sex_century_mismatch",)
    assert person(swap(OPEN, 5, "<0")).warnings == ()


def test_a_misread_birth_stays_a_national_code() -> None:
    parsed = person(swap(OPEN, 2, "199O-06-05"))
    assert (parsed.verdict, parsed.warnings) == ("review", ("bad_dob",))
    assert person(swap(OPEN, 2, "")).warnings == ("bad_dob",)


def test_further_fields_of_a_code() -> None:
    assert person(OPEN + "|x").warnings == ("extra_fields_dropped",)


# ---- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("000201", "payment_qr"),
        ("00020101021138|x|y", "payment_qr"),
        ("WIFI:T:WPA;S:x;P:y;;", "wifi"),
        ("wifi:S:x;;", "wifi"),
        ("begin:vcard\r\nFN:x", "contact_card"),
        ("BIZCARD:N:x;;", "contact_card"),
        ("SMSTO:0900000000:x", "phone_link"),
        ("sms:0900000000", "phone_link"),
        ("TEL:0900000000", "phone_link"),
        ("NZCOVIDTRACER:eyJ9", "foreign_venue"),
        ("https://visit.example/CWA1/x", "foreign_venue"),
        ("NZCP:/1/x", "foreign_health"),
        ("CRED:x", "foreign_health"),
        ("PK\x03\x04|\x00", "foreign_health"),
        ("HC1:6BF", "malformed"),
        ("shc:/5676", "malformed"),
        ('{"data":{"hdr":{"t":"icao.vacc","v":2}}}', "unsupported_context"),
        ('{"data":{"hdr":{"t":"icao.vacc","v":1}}}', "malformed"),
        ('{"data":{"hdr":', "malformed"),
        ('{"a":1}', "unknown"),
        ("TE4459900000001|48c3b|22/03/1952|1|54|45 - 001|01/01/2021|-|$", "malformed"),
        ("4599000123|48c3b96e67|05/02/1983|1|5|45 - 001|01/01/2021|-|$", "malformed"),
        ("4599000123|48c3b96e67|05/02/1983|1", "malformed"),
        ("LT1:6BF", "foreign_health"),
        ("NL2:6BF", "foreign_health"),
        ("DC04FR0000011E6B1E6BB1", "foreign_health"),
        ("https://www.service.nsw.gov.au/x?data=1", "foreign_venue"),
        ("045190999001", "bare_number"),
        ("+84 912.345-678", "bare_number"),
        ("(0233) 3000 000", "bare_number"),
        ("---", "unknown"),
        ("٠٩١٢٣٤٥٦٧٨", "unknown"),
        ("ftp://example.com", "unknown_url"),
        ("javascript:alert(1)", "unknown"),
        ("||", "malformed"),
        ("| |", "malformed"),
        ("a|b", "unknown"),
        ("abc\x00", "bad_encoding"),
        ("abc\x1b[2J", "bad_encoding"),
        ("line one\nline two", "unknown"),
    ],
)
def test_refused(text: str, expected: str) -> None:
    assert reason(text) == expected


def test_no_prefix_hides_another() -> None:
    prefixes = tuple(payloads._PREFIXES)
    for one in prefixes:
        assert one == one.upper()
        assert [other for other in prefixes if other.startswith(one)] == [one]


def test_details_of_refusals_are_fixed_sentences() -> None:
    refusals = [r for v in VECTORS if isinstance(r := parse(v.payload), Refusal)]
    assert all(r.detail for r in refusals)
    assert len({r.detail for r in refusals}) <= 30


# ---- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "link",
    [
        "https://qr.tokhaiyte.vn/f879ccaa0c",
        "HTTPS://QR.TOKHAIYTE.VN/F879CCAA0C",
        "http://tokhaiyte.vn/f879ccaa0c",
    ],
)
def test_posters_of_the_national_service(link: str) -> None:
    found = parse(link.encode())
    assert isinstance(found, VenueLink)
    assert found.host.islower()
    assert found.opaque_id.lower() == "f879ccaa0c"


@pytest.mark.parametrize(
    "link",
    [
        "https://qr.tokhaiyte.vn",
        "https://qr.tokhaiyte.vn/",
        "https://qr.tokhaiyte.vn/dkdd",
        "https://qr.tokhaiyte.vn/KSVRBM",
        "https://qr.tokhaiyte.vn/api/QRScanHistory/ScanQR",
        "https://qr.tokhaiyte.vn/f879ccaa0c?x=1",
        "https://qr.tokhaiyte.vn/f879ccaa0c/",
        "https://qr.tokhaiyte.vn?f879ccaa0c",
        "https://qr.tokhaiyte.vn#f879ccaa0c",
        "https://moh.ncovi.vn/f879ccaa0c",
    ],
)
def test_pages_of_the_national_service(link: str) -> None:
    assert reason(link) == "service_link"


@pytest.mark.parametrize(
    "link",
    [
        "https://qr.tokhaiyte.vn.example.com/f879ccaa0c",
        "https://qr.tokhaiyte.vn@example.com/f879ccaa0c",
        "https://example.com@qr.tokhaiyte.vn/f879ccaa0c",
        "https://qr.tokhaiyte.vn:8443/f879ccaa0c",
        "https://qr.tokhaiyte.vn\\@example.com/f879ccaa0c",
        "https://qr.tokhaiyte.vn./f879ccaa0c",
        "https://xtokhaiyte.vn/f879ccaa0c",
        "https://sub.qr.tokhaiyte.vn/f879ccaa0c",
        "https:///qr.tokhaiyte.vn/f879ccaa0c",
        "https:// qr.tokhaiyte.vn/f879ccaa0c",
        "https://qr.tokhaiyte.vn\t/f879ccaa0c",
        "https://ｑｒ.tokhaiyte.vn/f879ccaa0c",
        "https://qr.toKhaiyte.vn/f879ccaa0c".replace("K", "\u212a"),
        "https://",
    ],
)
def test_hosts_that_only_look_alike(link: str) -> None:
    assert reason(link) == "unknown_url"


def test_the_package_names_what_it_exports() -> None:
    assert package == "engine.payloads"
    assert all(hasattr(payloads, name) for name in payloads.__all__)
