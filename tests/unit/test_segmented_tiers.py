"""Tiers, links and walks over days in files: against brute force, around a midnight.

Part of a world lies in segments of two days, some of them in several generations, part in memory;
late scans end visits of days that are written down.
"""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import day_to_ms
from engine.colocation.index import Snapshot
from engine.colocation.segmented import SegmentedIndex
from engine.colocation.segments_lmdb import LmdbSegments
from engine.identity.keys import FileKeyRing
from engine.presence.visits import VISIT
from engine.tracing.counts import CELL
from native.counts import count_begun
from native.walks import visits_in, visits_of_many
from tests.reference.visits import Scan, reference_visits
from tests.unit.test_index import (
    PLACES,
    POSTS,
    RULES,
    STAYS,
    groups_of,
    place_sets,
    scan_lists,
    spans,
)
from tests.unit.test_tiers import cases, check_tiers

MIDNIGHT = day_to_ms(18_800)  # instant 0 of the oracle's world


def index_in(path: Path, scans: list[Scan], rng: random.Random) -> SegmentedIndex:
    store = LmdbSegments(path / "index", FileKeyRing(path / "keys", create=True))
    index = SegmentedIndex(PLACES, RULES, store)
    index.load()
    for group in groups_of(scans, rng):
        group.rows["time_ms"] += MIDNIGHT
        index.apply(group)
        if rng.random() < 0.3:
            index.snapshot()
        if rng.random() < 0.3:
            index.write_down()
    return index


@settings(max_examples=60, deadline=None)
@given(
    scan_lists, spans, cases, place_sets, st.integers(0, 4), st.integers(0, 12),
    st.integers(1, 40), st.integers(0, 5), st.integers(1, 4), st.sampled_from([0, 1, 10**9]),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_tiers_links_and_walks_over_segments_equal_the_oracle(
    scans, span, case, places, linger, least, window, latent, depth, most, rng
):
    arrived = scans + rng.choices(scans, k=len(scans) // 2) if scans else []
    rng.shuffle(arrived)
    with TemporaryDirectory() as folder:
        snapshot = index_in(Path(folder), arrived, rng).snapshot()
        check_tiers(
            snapshot, scans, span, case, places, shift=MIDNIGHT, linger=linger, least=least,
            window=window, latent=latent, depth=depth, most=most,
        )  # fmt: skip
        check_walks(snapshot, scans, span)


def check_walks(snapshot: Snapshot, scans: list[Scan], span: tuple[int, int]) -> None:
    visits = reference_visits(scans, POSTS, STAYS, RULES)
    low, high = span[0] + MIDNIGHT, span[1] + MIDNIGHT
    meant = sorted(
        (v.person, v.place, v.start, v.end, v.vehicle)
        for v in visits
        if v.start < span[1] and v.end > span[0]
    )
    everybody = np.arange(snapshot.count, dtype="<u4").data
    packed = visits_of_many(snapshot.tables, everybody, low, high, snapshot.epoch)
    assert told(snapshot, packed) == meant
    for vehicle in (7, 8):
        packed = visits_in(snapshot.tables, vehicle, low, high, snapshot.epoch)
        assert told(snapshot, packed) == [visit for visit in meant if visit[4] == vehicle]
    counts = {(place, True): 0 for place in STAYS} | {(place, False): 0 for place in STAYS}
    for visit in visits:
        counts[visit.place, visit.is_passage] += span[0] <= visit.start < span[1]
    cells = np.frombuffer(count_begun(snapshot.tables, low, high, 7, snapshot.epoch), CELL)
    for cell in cells:
        counts[int(cell["place"]), bool(cell["is_passage"])] -= int(cell["count"])
    assert not any(counts.values())


def told(snapshot: Snapshot, packed: bytes) -> list[tuple[bytes, int, int, int, int]]:
    return sorted(
        (
            snapshot.keys[v["person"]].tobytes(), int(v["place"]), int(v["start_ms"]) - MIDNIGHT,
            int(v["end_ms"]) - MIDNIGHT, int(v["vehicle"]),
        )
        for v in np.frombuffer(packed, VISIT)
    )  # fmt: skip


def test_the_worlds_have_generations_ended_rows_and_layers_in_memory() -> None:
    """What the property above is about does occur."""
    seen: set[str] = set()
    for seed in range(12):
        rng = random.Random(seed)
        scans = [
            Scan(person=bytes([rng.randrange(5)]) * 16, time=rng.randrange(-20, 60),
                 place=rng.choice([*STAYS]), lane=0, direction=rng.randrange(3), kind=2, vehicle=0)
            for _ in range(40)
        ]  # fmt: skip
        with TemporaryDirectory() as folder:
            index = index_in(Path(folder), scans, rng)
            index.snapshot()
            seen |= {"days"} if index.day_count > 1 else set()
            seen |= {"generations"} if index.segment_count > index.day_count else set()
            layers = index.snapshot().layers
            seen |= {"memory"} if any(layer.segment is None for layer in layers) else set()
            for layer in layers:
                if layer.segment is not None and len(layer.visits) < len(layer.segment.columns):
                    seen.add("ended")
    assert seen == {"days", "generations", "memory", "ended"}
