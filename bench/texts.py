"""What the codes of made clips say: the kinds of payload met at a lane, invented by rule.

Everybody is invented. ID numbers carry 999 before their last three digits, personal QR numbers
begin with 162999, hosts are under example.org or are nobody's. `twin` gives the same payload with
one character changed: the next person of a family, the next token of a service.
"""

from __future__ import annotations

import random
import string
import unicodedata
from collections.abc import Callable
from datetime import date, timedelta
from typing import Final

PLAIN_KINDS: Final = ("token", "url", "venue", "card", "1405")
KINDS: Final = (*PLAIN_KINDS, "dense")

# Level of error correction the issuers of each kind use.
LEVELS: Final = {"token": "m", "url": "m", "venue": "m", "card": "m", "1405": "m", "dense": "q"}

SURNAMES = ("Nguyễn", "Trần", "Lê", "Phạm", "Hoàng", "Phan", "Vũ", "Võ", "Đặng", "Bùi", "Đỗ", "Hồ")
WOMEN = ("Thị Mai", "Thị Hồng Nhung", "Thanh Thủy", "Ngọc Diệp", "Thị Ánh Tuyết", "Bảo Châu")
MEN = ("Văn Hải", "Quang Huy", "Đình Lộc", "Hữu Phước", "Minh Tuấn", "Trọng Nghĩa")
HAMLETS = ("Thôn 3", "Xóm Chùa", "Tổ 12", "Khu phố 5", "Thôn Thượng Lâm", "Ấp Bình Hòa")
COMMUNES = {
    "042": "Xã Kỳ Phong, Huyện Kỳ Anh, Hà Tĩnh",
    "044": "Xã Quảng Đông, Huyện Quảng Trạch, Quảng Bình",
    "045": "Thị trấn Cam Lộ, Huyện Cam Lộ, Quảng Trị",
    "046": "Phường Vỹ Dạ, Thành phố Huế, Thừa Thiên Huế",
    "048": "Phường Hòa Hiệp Bắc, Quận Liên Chiểu, Đà Nẵng",
}
PLACE_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CERT_ALPHABET = string.digits + string.ascii_uppercase + " $%*+-./:"


def person(r: random.Random) -> tuple[str, bool, date]:
    """(name, whether a woman, day of birth)."""
    is_woman = r.random() < 0.5
    name = f"{r.choice(SURNAMES)} {r.choice(WOMEN if is_woman else MEN)}"
    return name, is_woman, date(1938, 3, 1) + timedelta(days=r.randrange(66 * 365))


def folded(name: str) -> str:
    """Capitals without marks, as the personal QR writes names."""
    split = unicodedata.normalize("NFD", name.upper().replace("Đ", "D"))
    return "".join(letter for letter in split if not unicodedata.combining(letter))


def card(r: random.Random) -> str:
    """ID card: number, old number, name, birth, sex, address, issue."""
    name, is_woman, born = person(r)
    province = r.choice(sorted(COMMUNES))
    digit = 2 * (born.year >= 2000) + is_woman
    number = f"{province}{digit}{born:%y}999{r.randrange(1000):03d}"
    old = f"19{r.randrange(10)}999{r.randrange(1000):03d}" if r.random() < 0.6 else ""
    issued = date(2021, 2, 1) + timedelta(days=r.randrange(140))
    address = f"{r.choice(HAMLETS)}, {COMMUNES[province]}"
    sex = "Nữ" if is_woman else "Nam"
    return f"{number}|{old}|{name}|{born:%d%m%Y}|{sex}|{address}|{issued:%d%m%Y}"


def personal(r: random.Random) -> str:
    """Personal QR of Decision 1405, number and birthday masked."""
    name, is_woman, born = person(r)
    document = f"{r.choice(('HS', 'DN', 'HT', 'SV'))}4459{r.randrange(10**9):09d}"
    return (
        f"******999{r.randrange(1000):03d}|{folded(name)}|{born.year}-**-**|0"
        f"|162999{r.randrange(10**12):012d}|<{1 + is_woman}<{document}<0900{r.randrange(10**6):06d}"
    )


def venue(r: random.Random) -> str:
    return "HTTPS://QR.EXAMPLE.ORG/V/1" + "".join(r.choices(PLACE_ALPHABET, k=17))


def token(r: random.Random) -> str:
    return f"PASS.{r.getrandbits(96):024x}"


def url(r: random.Random) -> str:
    return f"https://entry.example.org/p/{r.getrandbits(40):010x}?gate={r.randint(1, 9)}&v=2"


def dense(r: random.Random) -> str:
    """A certificate: 430 to 560 characters, at level Q versions 16 to 18."""
    return "HC1:" + "".join(r.choices(CERT_ALPHABET, k=r.randint(428, 556)))


BUILDERS: Final[dict[str, Callable[[random.Random], str]]] = {
    "token": token, "url": url, "venue": venue, "card": card, "1405": personal, "dense": dense,
}  # fmt: skip


def make(kind: str, r: random.Random) -> bytes:
    """A payload of the kind, UTF-8, NFC."""
    return unicodedata.normalize("NFC", BUILDERS[kind](r)).encode()


def twin(kind: str, payload: bytes, r: random.Random) -> bytes:
    """The payload with one character changed for another of its sort, where its issuer counts."""
    places = {"card": payload.find(b"|") - 1, "1405": payload.find(b"|162999") + 18}
    at = places.get(kind, len(payload) - 1)
    old = payload[at : at + 1]
    pools = {"card": string.digits, "1405": string.digits, "token": "0123456789abcdef"}
    pools |= {"url": string.digits, "venue": PLACE_ALPHABET, "dense": CERT_ALPHABET}
    new = r.choice([c for c in pools[kind] if c.encode() != old])
    return payload[:at] + new.encode() + payload[at + 1 :]
