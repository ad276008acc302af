"""Posters: all text stands within the page, in glyphs the fonts have, and the code reads back."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import re
import unicodedata
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from engine.decoding.decode import read_codes
from engine.registry.poster import (
    CODE_MM,
    FONT_FILES,
    MARGIN_MM,
    QUIET_MM,
    SIZES,
    TITLES,
    TITLES_VEHICLE,
    draw_poster,
    instructions,
    sheets,
    span_text,
    text_width,
)
from engine.registry.poster_files import page_to_png, page_to_svg, pages_to_pdf
from engine.registry.records import Category, Venue

CODE = "HTTPS://QR.CHOT.VN/V/22100000000Z9CETXKG4NXW"
LONG = "Xe khách Vĩnh Linh – Đông Hà – Huế – Đà Nẵng chất lượng cao của Hợp tác xã vận tải số 01"


def venue(name="Chợ Hồ Xá", category=Category.MARKET, **more):
    return Venue(number=1013, name=name, category=category, address="Khu phố 2", **more)


def poster(of=None, code=CODE, **more):
    given = {"area": "Thị trấn Hồ Xá", "keep_days": 30, "printed_on": "26/11/2026", **more}
    return draw_poster(of or venue(), code, **given)


def read(image):
    return read_codes(np.asarray(image.convert("L")))


DOORS = [(0, ""), (0, "in"), (12, "out"), (65535, "")]
POSTERS = [
    *(venue(category=category) for category in Category),
    venue(LONG, Category.PUBLIC_TRANSPORT),
    venue("Ư" * 120),
    venue("Ệ", default_stay_minutes=1),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("of", POSTERS, ids=lambda v: f"{v.category}-{len(v.name)}")
@pytest.mark.parametrize(("room", "direction"), DOORS)
def test_all_text_is_within_the_page_and_nothing_lies_on_another(of, size, room, direction):
    page = poster(
        of, size=size, room=room, direction=direction,
        issuer="BAN CHỈ ĐẠO PHÒNG, CHỐNG DỊCH COVID-19",
    )  # fmt: skip
    k = page.width / SIZES["A4"][0]
    margin = MARGIN_MM * k * 0.999
    code_top = min(box.y for box in page.boxes)
    code_foot = max(box.y + box.height for box in page.boxes)
    lines = sorted(page.texts, key=lambda line: line.y)
    for line in lines:
        width = text_width(line.text, line.size_pt, is_bold=line.is_bold)
        assert margin <= line.x - width / 2 and line.x + width / 2 <= page.width - margin
        ascent, descent = line.size_pt * 0.353 * 0.95, line.size_pt * 0.353 * 0.25
        assert line.y - ascent > 0 and line.y + descent < page.height
        quiet = QUIET_MM * k
        assert line.y + descent < code_top - quiet or line.y - ascent > code_foot + quiet - 0.2
        assert unicodedata.is_normalized("NFC", line.text)
    for one, other in itertools.pairwise(lines):
        assert one.y + one.size_pt * 0.353 * 0.25 < other.y - other.size_pt * 0.353 * 0.72


def test_the_fonts_have_every_letter_of_vietnamese():
    bare = "aăâeêioôơuưy"
    marks = ["", "\u0300", "\u0301", "\u0303", "\u0309", "\u0323"]
    letters = [unicodedata.normalize("NFC", v + m) for v in bare for m in marks] + ["đ"]
    assert all(len(letter) == 1 for letter in letters)
    text = "".join(letters) + "".join(letters).upper() + "–·…“”0123456789.,:;()/-&"
    for path in FONT_FILES.values():
        font = ImageFont.truetype(path, 40)
        missing = bytes(font.getmask("\u4e2d"))
        assert not [letter for letter in text if bytes(font.getmask(letter)) == missing]


def test_the_words_fit_the_place():
    assert "45 phút" in " ".join(instructions(venue(), 30))
    bus = instructions(venue(category=Category.PUBLIC_TRANSPORT), 21)
    assert "xuống xe" in bus[1] and "4 giờ" in bus[2] and "21 ngày" in bus[4]
    assert poster(venue(category=Category.PUBLIC_TRANSPORT)).texts[0].text == TITLES_VEHICLE[""]
    assert [span_text(m) for m in (1, 60, 90, 1440)] == [
        "1 phút", "1 giờ", "1 giờ 30 phút", "24 giờ"
    ]  # fmt: skip
    texts = [line.text for line in poster(venue(default_stay_minutes=75)).texts]
    assert any("1 giờ 15 phút" in text for text in texts)
    assert any(text == "Khu phố 2, Thị trấn Hồ Xá" for text in texts)
    assert CODE.rpartition("/")[2] in texts[-1]


@pytest.mark.parametrize(("room", "direction"), DOORS)
def test_room_and_door_show(room, direction):
    hall = venue("Bệnh viện", Category.HOSPITAL)
    bus = venue("Xe 07", Category.PUBLIC_TRANSPORT)
    texts = [line.text for line in poster(hall, room=room, direction=direction).texts]
    assert texts[0] == TITLES[direction]
    assert texts[1] == ("Bệnh viện" if not room else f"Bệnh viện · Phòng {room}")
    assert (f"phòng {room}" in texts[-1]) == (room > 0)
    assert ("lối ra" in texts[-1]) == (direction == "out")
    told = " ".join(instructions(hall, 30, direction))
    assert ("lối ra" in told, "lối vào" in told) == (direction == "in", direction == "out")
    texts = [line.text for line in poster(bus, room=room, direction=direction).texts]
    assert texts[0] == TITLES_VEHICLE[direction]
    assert not room or texts[1] == f"Xe 07 · Khoang {room}"


@pytest.mark.parametrize("size", SIZES)
def test_the_code_reads_back_from_two_pixels_a_module(size):
    page = poster(size=size)
    code_mm = CODE_MM * page.width / SIZES["A4"][0]
    small = Image.open(io.BytesIO(page_to_png(page, dpi=round(2 * 29 / code_mm * 25.4) + 1)))
    assert read(small) == [CODE.encode()]


@pytest.mark.parametrize("size", SIZES)
def test_the_code_reads_back_blurred_and_at_a_slant(size):
    page = poster(size=size)
    image = Image.open(io.BytesIO(page_to_png(page, dpi=72 * SIZES["A4"][0] / page.width)))
    w, h = image.size
    # What a phone sees that is held low and to the left.
    corners = (-0.12 * w, -0.10 * h, 0.05 * w, 1.06 * h, 1.15 * w, 1.02 * h, 0.92 * w, -0.05 * h)
    slanted = image.transform(
        image.size, Image.Transform.QUAD, corners, Image.Resampling.BICUBIC, fillcolor=255
    )
    assert read(slanted.filter(ImageFilter.GaussianBlur(2.5))) == [CODE.encode()]
    stained = slanted.copy()
    # A thumb on the code: level Q stands a quarter of it.
    ImageDraw.Draw(stained).ellipse((0.44 * w, 0.42 * h, 0.58 * w, 0.50 * h), fill=120)
    assert read(stained) == [CODE.encode()]


def test_svg_holds_the_code_the_words_and_the_fonts():
    page = poster(venue("Quán <Bà & Cô>"))
    root = ET.fromstring(page_to_svg(page))
    ns = "{http://www.w3.org/2000/svg}"
    assert (root.get("width"), root.get("height")) == ("210.0mm", "297.0mm")
    assert [t.text for t in root.iter(f"{ns}text")] == [line.text for line in page.texts]
    style = root.find(f"{ns}style").text
    for data in re.findall(r"base64,([^)]+)\)", style):
        assert base64.b64decode(data)[:4] == b"\0\1\0\0"
    image = Image.new("L", (840, 1188), 255)
    draw = ImageDraw.Draw(image)
    for rect in list(root.iter(f"{ns}rect"))[1:]:
        x, y, width, height = (4 * float(rect.get(k)) for k in ("x", "y", "width", "height"))
        draw.rectangle((x, y, x + width - 1, y + height - 1), 0)
    assert read(image) == [CODE.encode()]


def test_pdf_has_a_page_each_and_all_boxes():
    pages = [poster(), poster(size="A5"), *sheets([poster(size="A6")] * 5)]
    data = pages_to_pdf(pages, "Áp phích")
    assert data.startswith(b"%PDF-") and data == pages_to_pdf(pages, "Áp phích")
    assert len(re.findall(rb"/Type /Page\b", data)) == len(pages) == 4
    boxes = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", data, re.S):
        with contextlib.suppress(ValueError, zlib.error):  # the fonts
            text = zlib.decompress(base64.a85decode(b"<~" + stream.strip(), adobe=True))
            boxes += [len(re.findall(rb" re\b", text))] if b" re f" in text else []
    assert boxes == [len(page.boxes) for page in pages]


def test_a_sheet_has_four_that_all_read_back():
    codes = [CODE[:-1] + letter for letter in "ABCDE"]
    pages = sheets([poster(size="A6", code=code) for code in codes])
    assert [(page.width, page.height) for page in pages] == [SIZES["A4"]] * 2
    found = [read(Image.open(io.BytesIO(page_to_png(page, dpi=100)))) for page in pages]
    assert [sorted(texts) for texts in found] == [
        [code.encode() for code in codes[:4]],
        [codes[4].encode()],
    ]
    with pytest.raises(ValueError, match="A6"):
        sheets([poster()])


def test_a_code_that_is_none_of_ours_is_refused():
    with pytest.raises(ValueError):
        draw_poster(venue(), "https://lower.case/v", keep_days=30, printed_on="x")
