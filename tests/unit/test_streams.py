"""What streams share, with a journal that only knows watermarks."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from engine.errors import EngineError, WireOverCredit
from engine.journal import Journal
from engine.settings import Settings
from engine.streams import EPOCHS_MAX, Streams


class Marks:
    def __init__(self, marks: dict[tuple[int, int, int], int]) -> None:
        self._marks = marks

    def watermarks(self) -> dict[tuple[int, int, int], int]:
        return dict(self._marks)


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
