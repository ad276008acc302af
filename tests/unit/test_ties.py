"""Ties: which scan a thermal reading belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from engine.clock import ManualClock
from engine.gateway.ties import ScanRef, Ties

NOW = 1_625_097_600_000


def ref(n: int) -> ScanRef:
    return ScanRef(7, n, 0)


def go(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def test_the_nearest_scan_of_the_lane_that_is_free() -> None:
    async def test() -> None:
        ties = Ties(ManualClock(NOW + 2_500))
        for n, (lane, at) in enumerate([(1, 0), (1, 1_000), (2, 1_400), (1, 1_900)]):
            ties.scanned(lane, NOW + at, ref(n))
        assert await ties.scan_of(1, "a", NOW + 1_350, 2_000) == ref(1)
        assert await ties.scan_of(1, "a", NOW + 1_350, 2_000) == ref(3), (
            "one reading of a device each"
        )
        assert await ties.scan_of(1, "b", NOW + 1_350, 2_000) == ref(1), "of another device too"
        assert await ties.scan_of(1, "a", NOW + 1_350, 2_000) == ref(0)
        assert await ties.scan_of(2, "a", NOW - 5_000, 2_000) is None
        assert await ties.scan_of(3, "a", NOW - 5_000, 2_000) is None

    go(test())


def test_a_reading_waits_for_the_scan_that_follows_it() -> None:
    async def test() -> None:
        ties = Ties(ManualClock(NOW))
        first = asyncio.create_task(ties.scan_of(1, "a", NOW, 5_000))
        second = asyncio.create_task(ties.scan_of(1, "a", NOW - 800, 5_000))
        other = asyncio.create_task(ties.scan_of(2, "a", NOW, 5_000))
        await asyncio.sleep(0.01)
        ties.scanned(1, NOW - 600, ref(1))
        assert await second == ref(1), "nearer in time"
        await asyncio.sleep(0.01)
        assert not first.done() and not other.done()
        ties.scanned(1, NOW + 100, ref(2))
        assert await first == ref(2)
        other.cancel()

    go(test())


def test_without_a_scan_it_is_alone_after_the_window() -> None:
    async def test() -> None:
        ties = Ties(ManualClock(NOW))
        assert await ties.scan_of(1, "a", NOW, 50) is None
        ties.scanned(1, NOW, ref(1))
        assert await ties.scan_of(1, "a", NOW, 50) == ref(1), "the one that gave up took nothing"
        assert await ties.scan_of(1, "a", NOW - 1_000, 50) is None, "nothing can come for the past"

    go(test())
