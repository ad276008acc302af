"""native.tiers, links and walks without an engine, for the sanitizers: hostile tables, odd numbers.

What the answers have to be is compared in tests/unit; here every visit is beside every other, and
the two ways, few persons at a time or all, agree.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.presence.visits import VISIT, VisitFlag
from engine.tracing.tiers import LINK, TIERED
from native.counts import count_begun
from native.index import VisitTable, end_visits
from native.links import find_links
from native.tiers import find_tiers
from native.walks import visits_in, visits_of_many

FAR = (1 << 62) - 1  # beyond what rules give, within what tables take
SPAN = {"from_ms": -100, "to_ms": 400, "linger_ms": 3, "latent_ms": 2}


def table_of(rng: random.Random, count: int, people: int) -> tuple[VisitTable, np.ndarray]:
    visits = np.zeros(count, VISIT)
    taken: set[tuple[int, int]] = set()
    for row in visits:
        start = rng.randrange(300)
        row["start_ms"], row["end_ms"] = start, start + rng.choice([0, 1, 5, 20, 90])
        row["person"], row["place"] = rng.randrange(people), rng.randrange(4)
        row["vehicle"] = rng.choice([0, 0, 7, 8])
        row["flags"] = VisitFlag.PASSAGE * (row["place"] == 0)
        row["ref"] = len(taken) + 1
        taken.add((int(row["start_ms"]), int(row["person"])))
    return VisitTable(visits), visits


@pytest.mark.parametrize("seed", range(12))
def test_every_way_is_the_same(seed: int) -> None:
    rng = random.Random(seed)
    people = 30
    made = [table_of(rng, rng.choice([0, 1, 40, 200]), people) for _ in range(rng.randrange(1, 5))]
    tables = [table for table, _ in made]
    # An ended visit counts in the epochs before its end only.
    ended = made[0][1][:3]
    endings = np.zeros(len(ended), [("start", "<i8"), ("person", "<u4"), ("place", "<u4")])
    for name in ("person", "place"):
        endings[name] = ended[name]
    endings["start"] = ended["start_ms"]
    endings = endings[np.argsort(endings["person"], kind="stable")]
    end_visits(tables, endings, 5)
    case = np.array([3, 4], "<u4").data
    places = np.array([0, 1, 3], "<u4").data
    for epoch in (0, 5):
        found = []
        for way in (0, 1, 2):
            for room in (100, 1 << 20):
                packed, rounds = find_tiers(
                    tables, case, people, epoch, **SPAN, min_ms=4, window_ms=50, depth=4, most=99,
                    places=places, way=way, exposures_max=room,
                )  # fmt: skip
                rows = np.frombuffer(packed, TIERED)
                found.append((rounds, sorted(rows.tolist())))
        assert all(one == found[0] for one in found)
        links, is_whole = find_links(
            tables, packed, people, epoch, **SPAN, most=1 << 20, places=places
        )
        assert is_whole and len(links) % LINK.itemsize == 0
        some, is_whole = find_links(
            tables, packed, people, epoch, **SPAN, most=1 << 20, places=places, parts_max=1
        )
        assert len(some) <= LINK.itemsize and is_whole == (len(links) <= len(some))
        some, is_whole = find_links(tables, packed, people, epoch, **SPAN, most=7, places=places)
        assert len(some) == min(7 * LINK.itemsize, len(links)) and is_whole == (some == links)
        visits = visits_of_many(tables, np.arange(people, dtype="<u4").data, -1, 999, epoch)
        alive = [v for _, some in made for v in some]
        if epoch == 0:
            assert len(visits) // 48 == sum(v["end_ms"] > -1 for v in alive)
            riding = visits_in(tables, 7, -1, 999, epoch)
            assert len(riding) // 48 == sum(v["vehicle"] == 7 for v in alive)
        cells = count_begun(tables, 0, 300, 7, epoch)
        assert len(cells) % 24 == 0


def test_instants_at_the_ends_of_time() -> None:
    visits = np.zeros(4, VISIT)
    visits["start_ms"] = [-FAR, -FAR, FAR - 1, 0]
    visits["end_ms"] = [FAR, FAR, FAR, FAR]
    visits["person"], visits["place"], visits["vehicle"] = [0, 1, 2, 3], 1, 9
    tables = [VisitTable(visits)]
    one = np.array([0], "<u4").data
    span = {"from_ms": -FAR, "to_ms": FAR, "linger_ms": 1 << 40, "latent_ms": 1 << 40}
    for window, least in ((1, 0), (FAR, 1 << 40), (1, 1 << 40)):
        packed, _ = find_tiers(
            tables, one, 4, 0, **span, min_ms=least, window_ms=window, depth=8, most=0
        )
        rows = np.frombuffer(packed, TIERED)
        assert rows["person"][0] == 0 and len(rows) == 4
        assert find_links(tables, packed, 4, 0, **span, most=99)[1]
    assert len(count_begun(tables, -FAR, FAR, FAR, 0)) % 24 == 0
    # Whoever has a number beyond the count is not there.
    packed, _ = find_tiers(tables, one, 1, 0, **span, min_ms=0, window_ms=1, depth=8, most=9)
    assert len(packed) == TIERED.itemsize
