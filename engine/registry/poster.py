"""The poster of a venue: what stands where on it, in millimetres; no file format.

A poster is a Page of boxes and lines of text. It is drawn for A4 and scaled for A5 and A6, whose
sides are in the same proportion (ISO 216). The code is 15 cm wide on A4: a phone reads it from a
metre and a half away, and a bad print of it too. Text is measured with the fonts it is printed in,
so that nothing runs over an edge.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import segno
from PIL import ImageFont

from engine.registry.default_stays import place_to_stay
from engine.registry.records import Category, Venue

FONTS: Final = Path(__file__).parent / "fonts"
FONT_FILES: Final = {False: FONTS / "DejaVuSans.ttf", True: FONTS / "DejaVuSans-Bold.ttf"}

Size = Literal["A4", "A5", "A6"]
# Width and height in mm, as printed; the scale takes the drawing from A4.
SIZES: Final[dict[Size, tuple[float, float]]] = {
    "A4": (210.0, 297.0), "A5": (148.0, 210.0), "A6": (105.0, 148.0)
}  # fmt: skip
CODE_MM: Final = 150.0
# Four modules of the least symbol that holds a venue's code, which has 29 (ISO/IEC 18004, 6.3.8).
QUIET_MM: Final = 4 * CODE_MM / 29
MARGIN_MM: Final = 14.0
PT_MM: Final = 25.4 / 72
_MEASURE_PX: Final = 1000  # size at which text is measured

# By the direction that the code says.
TITLES: Final = {
    "": "QUÉT MÃ KHI VÀO VÀ KHI RA",
    "in": "LỐI VÀO – QUÉT MÃ KHI VÀO",
    "out": "LỐI RA – QUÉT MÃ KHI RA",
}
TITLES_VEHICLE: Final = {
    "": "QUÉT MÃ KHI LÊN XE VÀ KHI XUỐNG XE",
    "in": "CỬA LÊN – QUÉT MÃ KHI LÊN XE",
    "out": "CỬA XUỐNG – QUÉT MÃ KHI XUỐNG XE",
}


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text; y: of its base line; middle: x is the middle of the line, not its begin."""

    x: float
    y: float
    size_pt: float
    text: str
    is_bold: bool = False
    middle: bool = True


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle. grey: 0 black to 1 white."""

    x: float
    y: float
    width: float
    height: float
    grey: float = 0.0


@dataclass(frozen=True, slots=True)
class Page:
    """Everything in mm from the top left corner."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    texts: tuple[Text, ...]


def text_width(text: str, size_pt: float, *, is_bold: bool = False) -> float:
    """mm."""
    length: float = _font(is_bold).getlength(text)
    return length / _MEASURE_PX * size_pt * PT_MM


@functools.cache
def _font(is_bold: bool) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONT_FILES[is_bold], _MEASURE_PX)


def draw_poster(
    venue: Venue,
    code: str,
    *,
    room: int = 0,
    direction: str = "",
    area: str = "",
    issuer: str = "",
    keep_days: int,
    printed_on: str,
    size: Size = "A4",
) -> Page:
    """code: text of the venue's code, which says the same room (0: none) and direction ("", "in",
    "out"). area: name of its commune. printed_on: a date, as shown.

    Raises ValueError for a code that no symbol of the alphanumeric mode holds.
    """
    width, height = SIZES["A4"]
    middle, space = width / 2, width - 2 * MARGIN_MM
    texts: list[Text] = []

    def line(y: float, text: str, size_pt: float, *, is_bold: bool = False) -> None:
        texts.append(Text(middle, y, _fitted(text, size_pt, space, is_bold), text, is_bold))

    if issuer:
        line(11, issuer, 10)
    titles = TITLES_VEHICLE if _is_vehicle(venue) else TITLES
    line(22, titles[direction], 26, is_bold=True)
    y = 33.0
    part_of = room_text(venue, room)
    for part in wrap(
        f"{venue.name}{part_of and f' · {part_of}'}", 20, space, lines=2, is_bold=True
    ):
        line(y, part, 20, is_bold=True)
        y += 8.5
    for part in wrap(", ".join(filter(None, (venue.address, area))), 12, space, lines=1):
        line(y - 1.5, part, 12)
    y = 72.0
    boxes = _symbol(code, (width - CODE_MM) / 2, y)
    y += CODE_MM + QUIET_MM + 4.8
    for part in instructions(venue, keep_days, direction):
        line(y, part, 13 if part[0].isdigit() else 11.5, is_bold=part[0].isdigit())
        y += 7.2
    serial = code.rpartition("/")[2]
    way_in, way_out = _doors(venue)
    door = {"": "", "in": way_in, "out": way_out}[direction]
    foot = (
        f"Địa điểm số {venue.number}", part_of.lower(), door, f"bản in {venue.issue}",
        f"mã {serial}", f"in ngày {printed_on}",
    )  # fmt: skip
    line(290, " · ".join(filter(None, foot)), 8)
    return _scaled(Page(width, height, tuple(boxes), tuple(texts)), size)


def room_text(venue: Venue, room: int) -> str:
    """ "Phòng 2"; of a vehicle its compartment; "" for 0."""
    return f"{'Khoang' if _is_vehicle(venue) else 'Phòng'} {room}" if room else ""


def instructions(venue: Venue, keep_days: int, direction: str = "") -> list[str]:
    """What a visitor must know, in the order of doing it."""
    arrive, leave = ("lên xe", "xuống xe") if _is_vehicle(venue) else ("đến", "về")
    way_in, way_out = _doors(venue)
    first, second = {
        "": (f"quét mã này khi {arrive}", f"Quét lại một lần nữa khi {leave}"),
        "in": (f"quét mã này khi {arrive}", f"Khi {leave}, quét mã ở {way_out}"),
        "out": (f"quét mã này khi {leave}", f"Khi {arrive}, quét mã ở {way_in}"),
    }[direction]
    return [
        f"1. Mở ứng dụng khai báo y tế, {first}.",
        f"2. {second}.",
        f"Quên quét khi {leave}: thời gian có mặt được tính {_stay_text(venue)}.",
        "Không có điện thoại: nhờ người trực ở đây ghi giúp.",
        f"Chỉ dùng để truy vết khi có ca bệnh; giữ {keep_days} ngày rồi tự xóa.",
    ]


def _stay_text(venue: Venue) -> str:
    stay = place_to_stay(venue)
    if stay.until:
        return {"noon": "đến 12 giờ trưa hôm sau", "trip": "đến hết chuyến"}[stay.until]
    return f"là {span_text(stay.minutes)}"


def span_text(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    parts = [f"{hours} giờ"] * bool(hours) + [f"{rest} phút"] * bool(rest or not hours)
    return " ".join(parts)


def wrap(text: str, size_pt: float, room: float, *, lines: int, is_bold: bool = False) -> list[str]:
    """At most so many lines of so many mm; what does not fit makes the last line long, and it is
    printed smaller."""
    found: list[str] = []
    for word in text.split():
        longer = f"{found[-1]} {word}" if found else word
        if not found or (
            len(found) < lines and text_width(longer, size_pt, is_bold=is_bold) > room
        ):
            found.append(word)
        else:
            found[-1] = longer
    return found


def _doors(venue: Venue) -> tuple[str, str]:
    """What people call the way in and the way out."""
    return ("cửa lên", "cửa xuống") if _is_vehicle(venue) else ("lối vào", "lối ra")


def _is_vehicle(venue: Venue) -> bool:
    return venue.category == Category.PUBLIC_TRANSPORT


def _fitted(text: str, size_pt: float, room: float, is_bold: bool) -> float:
    """The size, or a smaller one at which the text fits."""
    return min(size_pt, size_pt * room / max(text_width(text, size_pt, is_bold=is_bold), 1e-9))


def _symbol(code: str, x: float, y: float) -> list[Box]:
    """Dark modules, joined along their rows."""
    qr = segno.make_qr(code, error="q", mode="alphanumeric", boost_error=False)
    rows = [list(row) for row in qr.matrix]
    module = CODE_MM / len(rows)
    boxes = []
    for n, row in enumerate(rows):
        begin = 0
        while begin < len(row):
            end = begin
            while end < len(row) and row[end]:
                end += 1
            if end > begin:
                # A hair into the next row, so that no printer leaves white lines between rows.
                boxes.append(
                    Box(x + begin * module, y + n * module, (end - begin) * module, module + 0.1)
                )
            begin = max(end, begin + 1)
    return boxes


def _scaled(page: Page, size: Size) -> Page:
    width, height = SIZES[size]
    k = width / page.width
    return Page(
        width,
        height,
        tuple(Box(b.x * k, b.y * k, b.width * k, b.height * k, b.grey) for b in page.boxes),
        tuple(
            Text(t.x * k, t.y * k, t.size_pt * k, t.text, t.is_bold, t.middle) for t in page.texts
        ),
    )


def sheets(posters: Sequence[Page]) -> list[Page]:
    """Four A6 posters on a sheet of A4, with marks to cut along. Raises ValueError for others."""
    width, height = SIZES["A4"]
    found = []
    for first in range(0, len(posters), 4):
        boxes: list[Box] = []
        texts: list[Text] = []
        for n, page in enumerate(posters[first : first + 4]):
            if (page.width, page.height) != SIZES["A6"]:
                raise ValueError("a sheet takes posters of A6")
            x, y = n % 2 * width / 2, n // 2 * height / 2
            boxes += [Box(b.x + x, b.y + y, b.width, b.height, b.grey) for b in page.boxes]
            texts += [
                Text(t.x + x, t.y + y, t.size_pt, t.text, t.is_bold, t.middle) for t in page.texts
            ]
        boxes.append(Box(width / 2 - 0.05, 0, 0.1, height, 0.7))
        boxes.append(Box(0, height / 2 - 0.05, width, 0.1, 0.7))
        found.append(Page(width, height, tuple(boxes), tuple(texts)))
    return found
