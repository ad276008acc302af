"""The cast of the recorded lane clips: who shows what, where, when, and what must come of it.

Everybody is invented. ID numbers end in 999xxx, personal QR numbers begin with 162999, the bank
and the account of the transfer code do not exist.
"""

from __future__ import annotations

import binascii
import unicodedata
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Ticket:
    """A code somebody owns. kind and reason are words of `chot parse`."""

    payload: bytes
    kind: str
    holder: str
    verdict: str = "accept"
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Showing:
    """One code held up once: from `gap` empty frames after the one before, for `frames` frames.

    module_px: pixels per module at rest; module_px_end where it comes nearer meanwhile. angle_deg:
    clockwise. in_place: takes the place of the showing before from one frame to the next.
    readable: yes, limit (some frames at best) or no. verdict: where it differs from the ticket's.
    """

    ticket: str
    look: str
    gap: int
    frames: int
    module_px: float
    angle_deg: float = 0.0
    tilt: float = 0.2
    defocus_px: float = 0.5
    readable: str = "yes"
    verdict: str | None = None
    in_place: bool = False
    glare: bool = False
    module_px_end: float | None = None
    dim: float = 1.0


@dataclass(frozen=True, slots=True)
class Lane:
    """One camera: background image, the part of it in view (x0, y0, x1, y1), and what it sees."""

    name: str
    background: str
    view: tuple[int, int, int, int]
    has_holder: bool
    blur_px: float
    tail: int
    showings: list[Showing] = field(default_factory=list)

    @property
    def frames(self) -> int:
        return sum(s.gap + s.frames for s in self.showings) + self.tail


def transfer(bank: str, account: str, note: str) -> bytes:
    """Payload of a bank-transfer QR: EMVCo fields, closed by CRC-16/CCITT-FALSE over all before."""

    def part(tag: str, value: str) -> str:
        return f"{tag}{len(value):02d}{value}"

    payee = part("00", bank) + part("01", account)
    service = part("00", "A000000727") + part("01", payee) + part("02", "QRIBFTTA")
    body = part("00", "01") + part("01", "12") + part("38", service) + part("53", "704")
    body += part("54", "50000") + part("58", "VN") + part("62", part("08", note)) + "6304"
    return f"{body}{binascii.crc_hqx(body.encode(), 0xFFFF):04X}".encode()


def text(payload: str) -> bytes:
    return unicodedata.normalize("NFC", payload).encode()


def citizen(*fields: str) -> Ticket:
    """ID card: number, old number, name, birth, sex, address, issue; dates ddmmyyyy."""
    return Ticket(text("|".join(fields)), "vn.cccd", fields[2])


def personal(
    no: str, name: str, folded: str, year: int, qid: str, ext: str, verdict: str = "accept"
) -> Ticket:
    """Personal QR (Decision 1405) as shown by default, number and birthday masked.

    ext: from the proxy's QID, empty for oneself, to the telephone.
    """
    by_proxy = int(not ext.startswith("<"))
    payload = f"******{no}|{folded}|{year}-**-**|{by_proxy}|{qid}|{ext}"
    return Ticket(text(payload), "vn.qr1405", name, verdict)


TICKETS = {
    "anh": citizen(
        "045190999001", "201999001", "Nguyễn Thị Hồng Ánh", "05061990", "Nữ",
        "Thôn Tân Hòa, Xã Vĩnh Chấp, Huyện Vĩnh Linh, Quảng Trị", "11062021",
    ),
    "hung": personal(
        "999031", "Phạm Quốc Hưng", "PHAM QUOC HUNG", 1984, "162999310000000031",
        "<1<DN4459990000031<0912000031",
    ),
    "duc-bank": Ticket(
        transfer("970999", "9990000000421", "tra tien xang"),
        "neg.vietqr", "Trần Minh Đức", "refuse", "payment_qr",
    ),
    "duc": personal(
        "999042", "Trần Minh Đức", "TRAN MINH DUC", 1996, "162999420000000042",
        "<1<HN4449990000042<0912000042",
    ),
    "thoa": personal(
        "999053", "Lê Thị Thỏa", "LE THI THOA", 1941, "162999530000000053",
        "162999420000000042<2<HT2459990000053<0912000042",
    ),
    "son": citizen(
        "044078999064", "194999064", "Hoàng Đình Sơn", "19111978", "Nam",
        "Tiểu khu 5, Thị trấn Quán Hàu, Huyện Quảng Ninh, Quảng Bình", "22042021",
    ),
    # Two cousins of one name and year of birth: masking hides the provinces in which their
    # numbers differ, the family shares a telephone, and one digit of the personal number is all
    # that tells them apart.
    "long-elder": personal(
        "999075", "Nguyễn Văn Long", "NGUYEN VAN LONG", 1990, "162999750000000071",
        "<1<<0912000075",
    ),
    "long-younger": personal(
        "999075", "Nguyễn Văn Long", "NGUYEN VAN LONG", 1990, "162999750000000077",
        "<1<<0912000075",
    ),
    "worn": personal(
        "999086", "Võ Thị Nga", "VO THI NGA", 1967, "162999860000000086",
        "<2<HN2459990000086<0912000086", "none",
    ),
    "lan": personal(
        "999097", "Đặng Thị Lan", "DANG THI LAN", 2001, "162999970000000097",
        "<2<SV4459990000097<0912000097",
    ),
    "binh": citizen(
        "042062999108", "", "Bùi Thanh Bình", "30081962", "Nam",
        "Thôn Thượng Phú, Xã Kỳ Đồng, Huyện Kỳ Anh, Hà Tĩnh", "05032021",
    ),
    "parcel": Ticket(
        text("KIENHANG:7F3A-0021-VL;KG=12.5;DEN=DONGHA"),
        "neg.other", "một tài xế", "refuse", "unknown",
    ),
    "far": personal(
        "999119", "Ngô Văn Khánh", "NGO VAN KHANH", 1973, "162999190000000119",
        "<1<HN4459990000119<0912000119",
    ),
    "huong": citizen(
        "045301999120", "", "Đỗ Thùy Hương", "17022001", "Nữ",
        "Khu phố 3, Thị trấn Hồ Xá, Huyện Vĩnh Linh, Quảng Trị", "28052021",
    ),
    "form-link": Ticket(
        text("https://tokhaiyte.vn/?page=Project.TKYT.destinationRegister"),
        "neg.other", "một hành khách", "refuse", "service_link",
    ),
    "phuc": personal(
        "999131", "Hồ Sỹ Phúc", "HO SY PHUC", 1988, "162999310000000131",
        "<1<DN4459990000131<0912000131",
    ),
}  # fmt: skip

LANES = [
    Lane(
        "lane1",
        "scene-brick.jpg",
        (0, 205, 480, 475),
        True,
        6.0,
        10,
        [
            Showing("anh", "card", 12, 26, 2.85, angle_deg=-6),
            Showing("hung", "phone", 12, 46, 4.1, angle_deg=4, glare=True),
            Showing("duc-bank", "phone", 12, 20, 4.3, angle_deg=-9, tilt=0.28),
            Showing("duc", "phone", 8, 22, 4.2, angle_deg=-5),
            Showing("thoa", "paper", 12, 20, 3.5, angle_deg=11, tilt=0.3),
        ],
    ),
    Lane(
        "lane2",
        "scene-wall.jpg",
        (378, 40, 748, 248),
        True,
        5.0,
        12,
        [
            Showing("son", "card", 12, 20, 2.8, angle_deg=8),
            Showing("long-elder", "phone", 12, 24, 4.3, angle_deg=-4),
            Showing("long-younger", "phone", 0, 24, 4.3, angle_deg=-4, in_place=True),
            Showing("anh", "card", 12, 22, 2.8, angle_deg=5, verdict="seen"),
            Showing("worn", "paper", 12, 16, 3.7, angle_deg=-14, readable="no"),
            Showing("lan", "phone", 12, 22, 3.8, angle_deg=14, tilt=0.34),
        ],
    ),
    Lane(
        "lane3",
        "scene-floor.jpg",
        (0, 130, 480, 400),
        False,
        3.2,
        10,
        [
            Showing("binh", "card", 12, 24, 2.8, angle_deg=-24),
            Showing("parcel", "paper", 11, 17, 3.9, angle_deg=100),
            Showing(
                "far",
                "phone",
                11,
                26,
                1.75,
                angle_deg=12,
                defocus_px=0.75,
                readable="limit",
                module_px_end=2.35,
            ),
            Showing("huong", "card", 12, 22, 2.9, angle_deg=28, dim=0.42),
            Showing("form-link", "paper", 11, 17, 3.8, angle_deg=-38, tilt=0.3),
            Showing("phuc", "phone", 11, 20, 3.9, angle_deg=33, tilt=0.3),
        ],
    ),
]
