"""The burst day's world: who checks in where, who passes which lane, and what is true of it.

Check-ins are a day of bench.workload, in and out, at registered venues; the day's hours are pressed
into the seconds of the run, so that its busiest moment comes at the peak asked for. Lanes cannot be
pressed: a camera takes fifteen frames a second, so lanes show as many seconds as the run has. Each
lane has some clips that come round again: whoever was there holds up the same code once more.
"""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from bench import clips
from bench.case_ingest import number
from bench.engine_process import TABLES, Pass
from bench.workload import FIRST_PLACE, Array, Province, people_for
from engine import payloads
from engine.clock import MINUTE_MS, date_to_day, ms_to_day
from engine.identity import seals
from engine.scans import people
from engine.scans.people import Identity
from engine.scans.records import Credential, encode_checkin, encode_scans
from engine.scans.rows import Direction
from engine.wire import frames as wire

FPS: Final = 15
BODY: Final = 64  # records of a SCANS message
FIRST_VENUE: Final = 10_000
HELD_GAP_FRAMES: Final = 2 * FPS  # the engine's held_gap_ms
VIETNAM: Final = "VNM"
# name -> (post, number of the post, lane, what is seen there beside ordinary people)
LANES: Final = {
    "vl-1a-1": ("VL-1A", 1, 1, "two"),  # a coach: people two by two
    "vl-1a-2": ("VL-1A", 1, 2, "swap"),  # a queue: one code after the other in the same place
    "vl-1a-3": ("VL-1A", 1, 3, "dim"),
    "hl-1a-1": ("HL-1A", 2, 1, "two"),
    "hl-1a-2": ("HL-1A", 2, 2, "swap"),
    "hl-1a-3": ("HL-1A", 2, 3, "dark_mode"),
    "vl-hcm-1": ("VL-HCM", 3, 1, "plain"),
}


# ---- the registry -------------------------------------------------------------------------------


def write_tables(folder: Path, *, venues: int = 0, posts: int = 0) -> Path:
    """The example registry with so many venues more, and posts of three lanes and gateways."""
    shutil.copytree(TABLES, folder)
    _append(
        folder / "venues.csv",
        [
            {"number": FIRST_VENUE + n, "name": f"Chợ {n}", "category": "market",
             "area": "QT", "issue": 1}
            for n in range(venues)
        ],
    )  # fmt: skip
    _append(
        folder / "posts.csv",
        [
            {"number": 100 + n, "code": f"B-{n}", "name": f"Chốt {n}", "road": "Quốc lộ 1A",
             "kind": "road", "lanes": 3, "area": "QT", "valid_from": "2021-06-11"}
            for n in range(posts)
        ],
    )  # fmt: skip
    _append(
        folder / "gateways.csv",
        [
            {"number": 1000 + 3 * n + lane, "name": f"b-{n}-{lane}", "post": f"B-{n}",
             "lanes": lane}
            for n in range(posts)
            for lane in (1, 2, 3)
        ],
    )  # fmt: skip
    return folder


def _append(path: Path, rows: Sequence[dict[str, object]]) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        columns = next(csv.reader(file))
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.DictWriter(file, columns, restval="").writerows(rows)


# ---- check-ins ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Checkins:
    """A day at venues. visits: the truth, VISIT with places of the registry; rows: ROW in order of
    arrival; due_s: of each message of BODY rows, when it is due in the run."""

    visits: Array
    rows: Array
    due_s: Array
    peak_s: int


def checkins(seconds: float, peak_s: int, venues: int, seed: int, day: int) -> Checkins:
    """day: civil day of the visits. The busiest second has about peak_s."""
    # Two check-ins a visit; the day of bench.workload has a bit more than half its peak on average.
    province = Province(people_for(max(500, int(seconds * peak_s * 0.29))), seed)
    visits = province.day(0)
    shift_ms = (day - ms_to_day(int(visits["start_ms"].min()))) * 24 * 60 * MINUTE_MS
    visits["start_ms"] += shift_ms
    visits["end_ms"] += shift_ms
    visits["place"] = FIRST_VENUE + (visits["place"] - FIRST_PLACE) % venues
    rows = province.rows(visits)
    # One in ten comes late; the others say how far the day is.
    now_ms = np.maximum.accumulate(rows["time_ms"])
    begun_ms, ended_ms = int(now_ms[0]), int(now_ms[-1])
    last = np.minimum(np.arange(BODY - 1, len(rows) + BODY - 1, BODY), len(rows) - 1)
    due_s = (now_ms[last] - begun_ms) / (ended_ms - begun_ms) * seconds
    a_second = np.bincount(due_s.astype(np.int64))
    return Checkins(visits, rows, due_s, int(a_second.max()) * BODY)


def person_of(province_key: bytes) -> int:
    """The dense number that Province has put into its keys."""
    return int.from_bytes(province_key[:4], "little")


def to_messages(who: Pass, epoch: int, rows: Array) -> list[bytes]:
    """SCANS as a back end keeps them: sealed, number 1 on; made on two cores."""
    starts = list(range(0, len(rows), BODY * 512))
    with ProcessPoolExecutor(2) as pool:
        made = pool.map(
            _some_messages,
            [who] * len(starts),
            [epoch] * len(starts),
            [start // BODY + 1 for start in starts],
            [rows[start : start + BODY * 512] for start in starts],
        )
        return [message for some in made for message in some]


def _some_messages(who: Pass, epoch: int, first: int, rows: Array) -> list[bytes]:
    found = []
    persons = rows["person"].tolist()
    columns = [rows[name].tolist() for name in ("time_ms", "place", "direction")]
    for at in range(0, len(rows), BODY):
        body = [
            encode_checkin(
                time_ms, Direction(direction), Credential("cccd", number(person_of(key))), place
            )
            for key, time_ms, place, direction in zip(
                persons[at : at + BODY], *(c[at : at + BODY] for c in columns), strict=True
            )
        ]
        seq = first + at // BODY
        sealed = seals.seal(
            who.ingest_public, encode_scans(body), wire.seal_aad(who.name, epoch, seq)
        )
        message = wire.Scans(seq=seq, channel=0, flags=wire.FLAG_SEALED, body=sealed)
        found.append(wire.encode(message))
    return found


# ---- lanes --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Loop:
    """What one lane's camera films, again and again.

    whole: text -> frames of the loop in which it is wholly to be seen.
    """

    name: str
    path: Path
    frames: int
    whole: dict[bytes, list[int]] = field(default_factory=dict)

    def holds(self, frames: int) -> Counter[bytes]:
        """How often each code is held up in so many frames."""
        found: Counter[bytes] = Counter()
        for text, at in self.whole.items():
            last = -HELD_GAP_FRAMES - 1
            for begun in range(0, frames, self.frames):
                for n in (begun + k for k in at if begun + k < frames):
                    found[text] += n - last > HELD_GAP_FRAMES
                    last = n
        return found


def film(name: str, path: Path, seed: int, frames: int, width: int, height: int) -> Loop:
    """Two clips, one of ordinary people and one of what the lane has of its own."""
    loop = Loop(name, path, 2 * frames)
    with path.open("wb") as file:
        for part, condition in enumerate(("plain", LANES[name][3])):
            made = clips.film(
                seed + 100 * part, condition, frames=frames, width=width, height=height
            )
            for n, frame in enumerate(made):
                file.write(clips.to_jpeg(frame.luma))
                for shown in frame.shown:
                    if shown.state == "whole":
                        loop.whole.setdefault(shown.text, []).append(part * frames + n)
    return loop


def film_all(
    folder: Path, names: list[str], seed: int, frames: int, width: int, height: int
) -> list[Loop]:
    with ProcessPoolExecutor(2) as pool:
        return list(
            pool.map(
                film, names, [folder / f"{name}.mjpeg" for name in names],
                range(seed, seed + len(names)), *([value] * len(names)
                for value in (frames, width, height)),
            )
        )  # fmt: skip


def identity_of(text: bytes) -> Identity | None:
    """Whose code it is; None for one that is nobody's and is refused."""
    outcome = payloads.parse(text, today_day=date_to_day("2021-07-01"))
    if not isinstance(outcome, payloads.Parsed):
        return None
    found = people.identify(outcome)
    return found if isinstance(found, Identity) else None
