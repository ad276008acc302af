"""The story: an invented day of venue check-ins around one case, for the demo and the tests.

Everybody here is made up; ID numbers end in 999 and three digits. The same seed and day give the
same lines, byte for byte, in the form that a gateway's record source reads (docs/commands.md).
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.clock import HOUR_MS, MINUTE_MS, day_to_ms

_FAMILY = ("Nguyễn", "Trần", "Lê", "Phạm", "Hoàng", "Võ", "Đặng", "Bùi", "Hồ", "Ngô", "Dương")
_GIVEN = {
    0: ("Văn Bình", "Đức Long", "Minh Khôi", "Quốc Việt", "Hữu Phước", "Xuân Lộc", "Thành Tâm"),
    1: ("Thị Hoa", "Thị Mỹ Lệ", "Ngọc Trâm", "Thu Hương", "Thị Kim Oanh", "Khánh Ly", "Thị Sen"),
}
_HOMES = (
    "Thôn Tân Hòa, Xã Vĩnh Chấp, Huyện Vĩnh Linh, Quảng Trị",
    "Khu phố 3, Thị trấn Hồ Xá, Huyện Vĩnh Linh, Quảng Trị",
    "Khu phố 2, Phường 5, Thành phố Đông Hà, Quảng Trị",
    "Thôn Câu Nhi, Xã Hải Chánh, Huyện Hải Lăng, Quảng Trị",
)

# Places of the example registry; hour of arrival, its spread, share of people who go, minutes until
# the check-out or None where nobody checks out.
_HABITS = (
    ((1013, 1014, 1015, 1016), 6.5, 0.8, 0.55, None),  # markets at dawn
    ((1001, 1002, 1010, 1011, 1012), 7.5, 0.3, 0.40, 510),  # offices and factories, with check-out
    ((1004, 1005), 7.0, 0.2, 0.10, 270),  # schools
    ((1007, 1008), 9.5, 1.5, 0.06, None),  # hospitals
    ((1024, 1025, 1026), 11.5, 0.5, 0.35, None),  # eateries at noon
    ((1017, 1018), 16.0, 1.5, 0.25, None),  # supermarkets
    ((1027, 1028), 19.0, 0.9, 0.20, None),  # cafés in the evening
)
COACH = 1030
MARKET = 1013
EATERY = 1024


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody invented. payload: the text of the code that they show."""

    name: str
    cccd: str
    payload: str


class _Come(Protocol):
    """Writes one check-in down."""

    def __call__(self, person: Person, venue: int, at_ms: int, direction: str = ..., /) -> None: ...


@dataclass(frozen=True, slots=True)
class Story:
    """One day. lines: check-ins as JSON lines in order of time; case: who fell ill."""

    day: int
    case: Person
    lines: list[str]

    @property
    def from_ms(self) -> int:
        return day_to_ms(self.day)

    @property
    def to_ms(self) -> int:
        return day_to_ms(self.day + 1)

    def write(self, path: Path) -> None:
        path.write_text("".join(line + "\n" for line in self.lines), encoding="utf-8")


def make_person(rng: random.Random, number: int) -> Person:
    """The number-th invented person; numbers from 0 to 9,999 give distinct ID numbers."""
    sex = rng.randrange(2)
    year = 1945 + (number // 1000) * 6 + rng.randrange(6)
    cccd = f"045{sex}{year % 100:02d}999{number % 1000:03d}"
    if year >= 2000:
        cccd = f"045{sex + 2}{year % 100:02d}999{number % 1000:03d}"
    name = unicodedata.normalize("NFC", f"{rng.choice(_FAMILY)} {rng.choice(_GIVEN[sex])}")
    born = f"{rng.randint(1, 28):02d}{rng.randint(1, 12):02d}{year}"
    fields = [cccd, "", name, born, ("Nam", "Nữ")[sex], rng.choice(_HOMES), "15082021"]
    return Person(name, cccd, "|".join(fields))


def make_story(
    day: int,
    *,
    people: int = 600,
    seed: int = 1,
    case: Person | None = None,
    codes: Mapping[int, str] | None = None,
) -> Story:
    """A day of a district: 600 people give about 1,450 check-ins.

    case: the person who falls ill; without one, an invented person. The case was at the market at
    dawn, on the coach and in the eatery at noon, so that there is somebody to find.
    codes: texts of posted venue codes by place number; a venue without one goes by its number.
    """
    rng = random.Random(f"{seed}/{day}")
    start_ms = day_to_ms(day)
    crowd = [make_person(rng, number) for number in range(people)]
    ill = case or make_person(rng, people)
    events: list[tuple[int, str]] = []

    def come(person: Person, venue: int, at_ms: int, direction: str = "in", /) -> None:
        who = {"payload": person.payload}
        where: object = {"payload": codes[venue]} if codes and venue in codes else venue
        record = {"kind": "checkin", "ts_ms": at_ms, "who": who, "venue": where}
        events.append((at_ms, json.dumps({**record, "direction": direction}, ensure_ascii=False)))

    for person in crowd:
        _live(rng, person, start_ms, come)
    dawn_ms = start_ms + round(6.6 * HOUR_MS)
    come(ill, MARKET, dawn_ms)
    come(ill, COACH, dawn_ms + 70 * MINUTE_MS)
    come(ill, COACH, dawn_ms + 145 * MINUTE_MS, "out")
    come(ill, EATERY, start_ms + round(11.6 * HOUR_MS))
    for person in crowd[:14]:  # fellow passengers, who board within two minutes
        come(person, COACH, dawn_ms + 69 * MINUTE_MS + rng.randrange(120_000))
    events.sort()
    return Story(day, ill, [line for _, line in events])


def _live(rng: random.Random, person: Person, start_ms: int, come: _Come) -> None:
    """One person's check-ins of the day; who scans at all scans at most of the places."""
    home = rng.randrange(4)
    for places, hour, spread, share, stay_minutes in _HABITS:
        if rng.random() >= share:
            continue
        # People keep to the places near their home, most of the time.
        venue = places[home % len(places)] if rng.random() < 0.8 else rng.choice(places)
        at_ms = start_ms + round(max(4.5, rng.gauss(hour, spread)) * HOUR_MS)
        come(person, venue, at_ms)
        if stay_minutes is not None and rng.random() < 0.8:
            left_ms = at_ms + round(rng.gauss(stay_minutes, 15)) * MINUTE_MS
            come(person, venue, max(at_ms + MINUTE_MS, left_ms), "out")
