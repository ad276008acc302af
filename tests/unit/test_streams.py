"""What streams share, with a journal that only knows watermarks."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import pytest

from engine.errors import EngineError, WireOverCredit
from engine.ingest.streams import CREDITS_MAX, EPOCHS_MAX, Streams
from engine.settings import Settings
from engine.storage.journal import Journal


class Marks:
    def __init__(self, marks: dict[tuple[int, int, int], int]) -> None:
        self._marks = marks
        self.copies = 0

    def watermarks(self) -> dict[tuple[int, int, int], int]:
        self.copies += 1
        return dict(self._marks)

    def watermark(self, mark: tuple[int, int, int]) -> int:
        return self._marks.get(mark, 0)

    def epochs(self) -> dict[int, int]:
        return Counter(gateway for gateway, _ in {(g, epoch) for g, epoch, _ in self._marks})


class Link:
    def __init__(self) -> None:
        self.errors: list[EngineError] = []

    def fail(self, error: EngineError) -> None:
        self.errors.append(error)

    def acknowledge(self, cls: int) -> None: ...


def streams(marks: dict[tuple[int, int, int], int]) -> Streams:
    return Streams(Settings(), cast(Journal, Marks(marks)))


def test_a_gateway_cannot_leave_watermarks_without_end() -> None:
    marks = {(1, epoch, 0): 5 for epoch in range(EPOCHS_MAX)}
    made = streams(marks)

    async def work() -> None:
        known = await made.open(Link(), 1, 7)
        assert known.stream.windows[0].acked == 5
        with pytest.raises(WireOverCredit):
            await made.open(Link(), 1, EPOCHS_MAX + 1)
        other: Any = await made.open(Link(), 2, EPOCHS_MAX + 1)
        assert other.stream.windows[0].acked == 0

    asyncio.run(work())


def test_a_newer_link_replaces_the_older_after_its_work_is_settled() -> None:
    made = streams({})

    async def work() -> None:
        older, newer = Link(), Link()
        state = await made.open(older, 1, 7)
        assert state.stream.windows[0].take(1, 10)
        state.settled.clear()
        opening = asyncio.create_task(made.open(newer, 1, 7))
        await asyncio.sleep(0.01)
        assert [error.code for error in older.errors] == ["wire.replaced"]
        assert not opening.done(), "WELCOME would tell a watermark that is still moving"
        state.settle(0, 1)
        assert (await opening).stream.windows[0].acked == 1
        assert state.link is newer

    asyncio.run(work())


def test_what_is_taken_before_a_new_link_wakes_up_is_settled_first_too() -> None:
    made = streams({})

    async def work() -> None:
        state = await made.open(Link(), 1, 7)
        assert state.stream.windows[0].take(1, 10)
        state.note_open(0, 1, 0)
        opening = asyncio.create_task(made.open(Link(), 1, 7))
        await asyncio.sleep(0.01)
        state.settle(0, 1)
        assert state.stream.windows[0].take(2, 10)
        state.note_open(0, 2, 0)
        await asyncio.sleep(0.01)
        assert not opening.done()
        state.settle(0, 2)
        assert (await opening).stream.windows[0].acked == 2

    asyncio.run(work())


def test_a_stream_that_is_never_quite_settled_is_no_older_than_its_oldest_message() -> None:
    """A gateway that sends all the time always has something on its way to the disk."""
    made = streams({})

    async def work() -> None:
        state = await made.open(Link(), 1, 7)
        for seq in (1, 2, 3):
            assert state.stream.windows[0].take(seq, 10)
            state.note_open(0, seq, 1000 * seq)
            assert state.open_since_ms == 1000 * max(1, seq - 1)
            if seq > 1:
                state.settle(0, seq - 1)
        assert state.open_since_ms == 3000
        assert state.stream.windows[1].take(1, 10)
        state.note_open(1, 1, 4000)
        state.settle(0, 3)
        assert state.open_since_ms == 4000
        state.take_back((3, 0))
        assert state.open_since_ms == 0

    asyncio.run(work())


def test_a_failed_store_reads_the_watermarks_once() -> None:
    """There may be thousands of streams and of watermarks, and lanes wait meanwhile."""
    journal = Marks({(1, epoch, 0): epoch for epoch in range(1, 50)})
    made = Streams(Settings(), cast(Journal, journal))

    async def work() -> None:
        states = [await made.open(Link(), 1, epoch) for epoch in range(1, 50)]
        assert journal.copies == 0, "links come and go; each reads its own"
        made.take_back()
        assert journal.copies == 1
        assert [state.stream.windows[0].acked for state in states] == list(range(1, 50))

    asyncio.run(work())


def test_a_gateway_with_much_that_waits_gets_no_new_stream() -> None:
    """Links that leave and come again with other epochs fill no memory while the store is slow."""
    made = streams({})
    credit = Settings().credit_bytes

    async def work() -> None:
        for epoch in range(CREDITS_MAX):
            state = await made.open(Link(), 1, epoch)
            assert state.stream.windows[0].take(1, credit)
            state.note_open(0, 1, 0)
            state.link = None
        with pytest.raises(WireOverCredit):
            await made.open(Link(), 1, 77)
        await made.open(Link(), 2, 77)
        state.settle(0, 1)
        await made.open(Link(), 1, 77)

    asyncio.run(work())
