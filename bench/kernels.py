"""The hot paths that gates hold: each a small piece of work that does the same every time.

A kernel is set up once and then does its work as often as it is asked to, from the same input to
the same answer: what it costs in instructions and allocations belongs to the code alone. Peers,
disks and threads are elsewhere (the cases of the suite).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from bench import clips, texts
from bench.case_contacts import GROUP_ROWS, MIN_TOGETHER_MS, Group, make_world
from bench.case_decode import clips_of_lanes
from bench.case_ingest import NOW_MS, VENUES, card, checkin, messages
from bench.harness import SEED
from bench.workload import FIRST_PLACE
from engine import payloads
from engine.clock import DAY_MS, ManualClock, date_to_day
from engine.colocation.index import CoLocationIndex
from engine.identity.keys import FileKeyRing
from engine.identity.watch import WatchList
from engine.ingest.candidates import Origin
from engine.ingest.judge import Judge
from engine.ingest.pipeline import Pipeline
from engine.presence.visits import PlaceRules
from engine.registry.registry import Category, Post, Registry, Venue
from engine.scans import people
from engine.scans.dedup import SeenWindow
from engine.scans.records import decode_scans, encode_scans
from engine.settings import Settings
from engine.telemetry import Metrics
from engine.wire import frames as wire
from native.dedup import SeenRules, SeenTable
from native.jpeg.luma import DONE, Luma
from native.qr.lane import Lane

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Kernel:
    """set_up: gives the work and how many units it does; the folder is for what must be a file."""

    unit: str
    set_up: Callable[[Path], tuple[Work, int]]


# ---- frames -------------------------------------------------------------------------------------

FIRST_FRAME: Final = 8  # of the recorded lane: somebody comes, holds a code and leaves
FRAMES: Final = 12


def jpeg_luma(folder: Path) -> tuple[Work, int]:
    frames = clips_of_lanes(1, FIRST_FRAME, FRAMES)[0][0]
    luma = Luma()

    def work() -> None:
        for frame in frames:
            assert luma.decode(frame) == DONE

    return work, len(frames)


def lane_frames(folder: Path) -> tuple[Work, int]:
    planes = []
    for frame in clips_of_lanes(1, FIRST_FRAME, FRAMES)[0][0]:
        luma = Luma()
        assert luma.decode(frame) == DONE
        planes.append(np.array(luma))
    return lambda: read_lane(planes), len(planes)


def held_frames(folder: Path) -> tuple[Work, int]:
    """A code held still: all but the first frames know it again."""
    planes = [frame.luma for frame in clips.hold(1, "card", frames=FRAMES, width=640, height=400)]
    return lambda: read_lane(planes), len(planes)


def read_lane(planes: list[Any]) -> int:
    lane = Lane()
    found = sum(len(lane.read(plane)) for plane in planes)
    assert found, "no code was read"
    return found


# ---- records ------------------------------------------------------------------------------------

MESSAGES: Final = 16
RECORDS: Final = 64


def framing(folder: Path) -> tuple[Work, int]:
    data = b"".join(messages(checkin, MESSAGES, RECORDS))

    def work() -> None:
        assert len(wire.FrameReader().feed(data)) == MESSAGES

    return work, MESSAGES


def records(folder: Path) -> tuple[Work, int]:
    bodies = [
        encode_scans([make(i, NOW_MS + i) for i in range(m * RECORDS, (m + 1) * RECORDS)])
        for m in range(MESSAGES)
        for make in (checkin, card)
    ]

    def work() -> None:
        for body in bodies:
            decode_scans(body)

    return work, len(bodies) * RECORDS


def taken(
    make: Callable[[int, int], bytes], post: int, lanes: tuple[int, ...]
) -> Callable[[Path], tuple[Work, int]]:
    """Records through the pipeline: persons, verdicts, rows; no journal."""

    def set_up(folder: Path) -> tuple[Work, int]:
        ring, registry = key_ring(folder), Registry()
        registry.take(Post(number=1, code="VL", name="Chốt"))
        for n in range(VENUES):
            venue = Venue(number=FIRST_PLACE + n, name=f"Chợ {n}", category=Category.MARKET)
            registry.take(venue)
        found = wire.FrameReader().feed(b"".join(messages(make, MESSAGES, RECORDS)))
        bodies = cast("list[wire.Scans]", found)
        judge = Judge(SeenWindow(registry.spans()), WatchList(ring), registry.rule)
        clock = ManualClock(NOW_MS)
        pipeline = Pipeline(Settings(), clock, registry, ring, judge, Metrics())

        def work() -> None:
            for message in bodies:
                origin = Origin(1, 7, 0, message.seq, message.seq, post, lanes)
                pipeline.take_records(origin, message.packed, message.body)

        return work, MESSAGES * RECORDS

    return set_up


def key_ring(folder: Path) -> FileKeyRing:
    """One whose person keys are the same in every run."""
    keys = folder / "keys"
    if not keys.exists():
        keys.mkdir(mode=0o700)
        province = keys / "province.key"
        province.touch(0o600)
        province.write_bytes(hashlib.sha256(b"province").digest())
    return FileKeyRing(keys, create=True)


def sightings(folder: Path) -> tuple[Work, int]:
    """Persons of whom half were seen before, in a table that is made anew each time."""
    count = 4096
    r = np.random.Generator(np.random.PCG64(SEED))
    persons = r.integers(0, 256, (count // 2, 16), dtype=np.uint8)
    shown = persons[r.permutation(np.repeat(np.arange(count // 2), 2))].tobytes()
    places = r.integers(1, 4, count, dtype=np.uint32).tobytes()
    lanes = r.integers(1, 4, count, dtype=np.uint16).tobytes()
    times = (NOW_MS + np.arange(count, dtype=np.int64) * 1000).tobytes()
    rules = SeenRules(600_000, 2001, [(1, 2, 2_700_000)])

    def work() -> None:
        SeenTable(1 << 13, hash_key=bytes(16)).see(shown, places, lanes, times, rules)

    return work, count


def parse(folder: Path) -> tuple[Work, int]:
    r = random.Random(SEED)
    codes = [texts.card(r).encode() for _ in range(200)]
    today = date_to_day("2021-07-01")

    def work() -> None:
        for code in codes:
            outcome = payloads.parse(code, today_day=today)
            assert isinstance(outcome, payloads.Parsed) and people.identify(outcome)

    return work, len(codes)


# ---- the index ----------------------------------------------------------------------------------

WORLD: Final = {"visits": 6_000, "days": 3, "questions": 20}


def visits(folder: Path) -> tuple[Work, int]:
    """Rows into an empty index: visits derived, layers made and merged."""
    world, days = make_world(WORLD, SEED)
    groups = to_groups(world, days)
    return lambda: to_index(groups), sum(len(group.rows) for group in groups)


def contacts(folder: Path) -> tuple[Work, int]:
    world, days = make_world(WORLD, SEED)
    keys = world.keys()
    snapshot = to_index(to_groups(world, days)).snapshot()
    window_ms = world.to_ms - world.from_ms + DAY_MS

    def work() -> None:
        for key in keys:
            snapshot.contacts(
                [key], world.from_ms, world.to_ms,
                min_overlap_ms=MIN_TOGETHER_MS, window_ms=window_ms,
            )  # fmt: skip

    return work, len(world.asked)


def to_groups(world: Any, days: list[Any]) -> list[Group]:
    found: list[Group] = []
    for some in days:
        rows = world.province.rows(some)
        for at in range(0, len(rows), GROUP_ROWS):
            found.append(Group(len(found) + 1, rows[at : at + GROUP_ROWS]))
    return found


def to_index(groups: list[Group]) -> CoLocationIndex:
    index = CoLocationIndex(PlaceRules({}))
    for group in groups:
        index.apply(group)
        index.snapshot()
    return index


KERNELS: Final[Mapping[str, Kernel]] = {
    "jpeg_luma": Kernel("frame", jpeg_luma),
    "lane_frames": Kernel("frame", lane_frames),
    "held_frames": Kernel("frame", held_frames),
    "framing": Kernel("message", framing),
    "records": Kernel("record", records),
    "checkins": Kernel("record", taken(checkin, 0, ())),
    "cards": Kernel("record", taken(card, 1, (1, 2))),
    "sightings": Kernel("scan", sightings),
    "parse": Kernel("code", parse),
    "visits": Kernel("row", visits),
    "contacts": Kernel("question", contacts),
}
