"""Capture: everything between a gateway's sources and its spool.

Each source runs in a task of its own, so that a camera that stalls holds up no other lane (CP-3).
What comes out are camera frames for the buffer in memory and messages for the spool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

from engine.gateway_status import GatewayStats
from engine.sources import Picture, Records, Source

_LONG_AGO_NS: Final = -(1 << 62)


class Capture:
    """Runs sources until all have ended.

    take_frame: a frame for the engine. take_records: a body for the spool, after waiting for room
    (the argument: whether the world waits meanwhile, as a recording does).
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        take_frame: Callable[[Picture], None],
        take_records: Callable[[Records, bool], Awaitable[None]],
        stats: GatewayStats,
    ) -> None:
        self.fps = 0  # frames a second that the engine wants of a lane, 0 for all
        self._sources = sources
        self._take_frame = take_frame
        self._take_records = take_records
        self._stats = stats
        self._taken_ns: dict[int, int] = {}  # by lane, time of the last frame

    @property
    def skipped(self) -> int:
        """Lines that were no record, images that were damaged."""
        return sum(source.skipped for source in self._sources)

    async def run(self) -> None:
        """Until every source has ended. Raises what the first source that fails does."""
        tasks = [asyncio.create_task(self._run_source(source)) for source in self._sources]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_source(self, source: Source) -> None:
        async with aclosing(source.items()) as items:
            async for item in items:
                if isinstance(item, Picture):
                    self._take_picture(item, source.fps_max)
                else:
                    await self._take_records(item, source.is_live)

    def _take_picture(self, picture: Picture, fps_max: float) -> None:
        self._stats.frames_captured += 1
        fps = min((f for f in (self.fps, fps_max) if f), default=0)
        # A tenth of tolerance: a camera of just the wanted rate must not lose every second frame.
        since_ns = picture.ts_ns - self._taken_ns.get(picture.lane, _LONG_AGO_NS)
        if fps and 0 <= since_ns < 900_000_000 / fps:
            self._stats.frames_thinned += 1
            return
        self._taken_ns[picture.lane] = picture.ts_ns
        self._take_frame(picture)
