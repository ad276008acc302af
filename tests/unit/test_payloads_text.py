"""Text: dates, phones, names and encodings against slow oracles and tables."""

from __future__ import annotations

import datetime
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.payloads.text import (
    bytes_to_text,
    check_name,
    fold_name,
    is_digits,
    phone_to_e164,
    text_to_date,
    tidy,
)

SEEDED = settings(derandomize=True, database=None, deadline=None, max_examples=300)

LETTERS = (
    "aàáảãạăằắẳẵặâầấẩẫậbcdđeèéẻẽẹêềếểễệghiìíỉĩịklmnoòóỏõọôồốổỗộơờớởỡợpqrstuùúủũụưừứửữựvxyỳýỷỹỵ"
)
VIETNAMESE = st.text(LETTERS + LETTERS.upper() + " ", max_size=40)


# ---- names --------------------------------------------------------------------------------------


def fold_oracle(name: str) -> str:
    """By definition: NFD, without marks, Đ as D, upper case, single blanks."""
    spread = unicodedata.normalize("NFD", name)
    plain = "".join(c for c in spread if unicodedata.category(c) != "Mn")
    return " ".join(plain.replace("đ", "d").replace("Đ", "D").upper().split())


@SEEDED
@given(VIETNAMESE)
def test_fold_is_its_definition_in_every_normal_form(name: str) -> None:
    expected = fold_oracle(name)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert fold_name(unicodedata.normalize(form, name)) == expected
    assert expected.isascii()


@SEEDED
@given(st.text(max_size=40))
def test_folding_twice_is_folding_once(name: str) -> None:
    assert fold_name(fold_name(name)) == fold_name(name)


def test_places_of_the_tone_fold_alike() -> None:
    assert fold_name("Hòa") == fold_name("Hoà") == "HOA"
    assert fold_name("Ðặng") == fold_name("Đặng") == "DANG"  # eth, then D with stroke
    assert fold_name("  Trần\tThị  ") == "TRAN THI"


@SEEDED
@given(VIETNAMESE.filter(lambda name: name[:1].isalpha()))
def test_vietnamese_names_are_not_suspicious(name: str) -> None:
    warnings: list[str] = []
    check_name(unicodedata.normalize("NFC", name), warnings)
    assert warnings == []


# ---- bytes --------------------------------------------------------------------------------------


@SEEDED
@given(VIETNAMESE)
def test_windows_1258_comes_back_as_it_was(name: str) -> None:
    # The code page has the letters with their shape and the five tones as marks of their own, and
    # a few letters with tone as one byte; an encoder takes whatever exists.
    tones = dict.fromkeys("\u0300\u0301\u0303\u0309\u0323")
    data = b""
    for letter in unicodedata.normalize("NFC", name + "đ"):
        spread = unicodedata.normalize("NFD", letter)
        tone = "".join(c for c in spread if c in tones)
        shape = unicodedata.normalize("NFC", "".join(c for c in spread if c not in tones))
        data += (shape + tone).encode("cp1258")
    warnings: list[str] = []
    text = bytes_to_text(data, warnings)
    assert text == unicodedata.normalize("NFC", name + "đ")
    assert warnings == ["legacy_encoding:cp1258"]


@SEEDED
@given(st.text(max_size=60))
def test_utf8_comes_back_in_nfc(text: str) -> None:
    warnings: list[str] = []
    found = bytes_to_text(text.encode(), warnings)
    assert found == unicodedata.normalize("NFC", text)
    assert warnings == ([] if found == text else ["not_nfc"])


def test_bytes_that_are_neither() -> None:
    assert bytes_to_text(b"\xff\x81", []) is None
    assert bytes_to_text(b"\xed\xa0\x80\x8d", []) is None


def test_heaps_of_marks_are_not_sorted() -> None:
    heap = "\u0301\u0323" * 16
    plain = "a" * 500
    assert bytes_to_text((plain + heap).encode(), []) is None
    assert bytes_to_text((plain + heap[:30]).encode(), []) is not None
    assert bytes_to_text((plain + "\xff").encode("cp1258") + b"\xcc\xf2" * 16, []) is None


@SEEDED
@given(st.text(max_size=60))
def test_tidy_text_stays_as_it_is(text: str) -> None:
    once = tidy(text, [])
    warnings: list[str] = []
    assert tidy(once, warnings) == once
    assert warnings == []
    assert not any(unicodedata.category(c) == "Cc" for c in once)


@SEEDED
@given(st.text(max_size=12))
def test_only_ascii_digits_are_digits(text: str) -> None:
    assert is_digits(text) == (bool(text) and set(text) <= set("0123456789"))


# ---- dates --------------------------------------------------------------------------------------


def test_every_day_of_two_centuries_and_no_other() -> None:
    for year in (1900, 1904, 1999, 2000, 2001, 2024, 2099):
        for month in range(14):
            for day in range(33):
                try:
                    expected = datetime.date(year, month, day).isoformat()
                except ValueError:
                    expected = None
                assert text_to_date(f"{day:02}{month:02}{year}").iso == expected
                assert text_to_date(f"{day:02}/{month:02}/{year}").iso == expected
                assert text_to_date(f"{year}-{month:02}-{day:02}").iso == expected


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("11062021", "compact"), ("11/06/2021", "dmy"), ("11.06.2021", "dmy"),
        ("2021-06-11", "iso"), ("2021", "year"), ("1106202", "none"), ("11/06-2021", "none"),
        ("2021/06/11", "none"), ("1/6/2021", "none"), ("", "none"), ("+1062021", "none"),
    ],
)  # fmt: skip
def test_layouts_of_dates(text: str, layout: str) -> None:
    assert text_to_date(text).layout == layout


def test_centuries_that_no_card_has() -> None:
    for text in ("01011899", "01012100", "1899-12-31", "01/01/0001"):
        assert text_to_date(text).iso is None
    assert text_to_date("2100").year is None


def test_masked_dates_keep_their_year() -> None:
    assert text_to_date("1990-**-**")[1:] == ("iso", 1990, True)
    assert text_to_date("**/**/1990")[1:] == ("dmy", 1990, True)
    assert text_to_date("19**-**-**")[1:] == ("iso", None, True)
    assert text_to_date("a990-**-**")[1:] == ("iso", None, False)


@SEEDED
@given(st.text("0123456789*-/.٣a", max_size=11))
def test_dates_that_are_read_exist(text: str) -> None:
    iso = text_to_date(text).iso
    if iso is not None:
        assert datetime.date.fromisoformat(iso).isoformat() == iso


# ---- phones -------------------------------------------------------------------------------------

CHANGED_2018 = {
    "0120": "070", "0121": "079", "0122": "077", "0126": "076", "0128": "078", "0123": "083",
    "0124": "084", "0125": "085", "0127": "081", "0129": "082", "0162": "032", "0163": "033",
    "0164": "034", "0165": "035", "0166": "036", "0167": "037", "0168": "038", "0169": "039",
    "0186": "056", "0188": "058", "0199": "059",
}  # fmt: skip


@pytest.mark.parametrize("old", sorted(CHANGED_2018))
def test_prefixes_of_2018(old: str) -> None:
    expected = f"+84{CHANGED_2018[old][1:]}4567890"
    for text in (f"{old}4567890", f"{old}.456.7890", f"84{old[1:]}4567890", f"+84{old[1:]}4567890"):
        assert phone_to_e164(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0912345678", "+84912345678"),
        ("84912345678", "+84912345678"),
        ("+84912345678", "+84912345678"),
        ("0084912345678", "+84912345678"),
        ("+84 (0) 912 345 678", None),  # with the 0 inside it could be a misread digit
        ("912345678", "+84912345678"),
        ("0912-345-678", "+84912345678"),
        ("02333852000", "+842333852000"),
        ("+442079460000", "+442079460000"),
        ("442079460000", None),
        ("01114567890", None),
        ("0112345678", None),
        ("0612345678", None),
        ("091234567", None),
        ("09123456789", None),
        ("0912***678", None),
        ("", None),
        ("+", None),
        ("+0912345678", None),
        ("++84912345678", None),
        ("٠٩١٢٣٤٥٦٧٨", None),
        ("0912345678\n", None),
    ],
)
def test_phones(text: str, expected: str | None) -> None:
    assert phone_to_e164(text) == expected


@SEEDED
@given(st.text("0123456789+ .-()x", max_size=20))
def test_a_phone_is_e164_and_stays_what_it_is(text: str) -> None:
    phone = phone_to_e164(text)
    if phone is not None:
        assert phone[0] == "+"
        assert phone[1] != "0"
        assert 7 <= len(phone[1:]) <= 15
        assert is_digits(phone[1:])
        assert phone_to_e164(phone) == phone
