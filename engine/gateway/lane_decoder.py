"""The decoder of a gateway: camera frames of its lanes to the codes that came into view.

The same reader and the same hold as in the engine (engine.decoding.decode_pool,
engine.decoding.held), so that a lane gives the same scans whoever decodes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from engine.decoding.decode_pool import DecodePool
from engine.decoding.held import HeldCodes
from engine.errors import InputError
from engine.gateway.sources import Codes, Picture
from engine.gateway.status import GatewayStats

WAITING_MAX: Final = 4  # frames of a lane; a slow box looks at the newest ones


class LaneDecoder:
    """take_codes: called for every frame that shows somebody anew, in the order of the frames.

    Used from one event loop; `close` afterwards.
    """

    def __init__(
        self, take_codes: Callable[[Codes], Awaitable[object]], stats: GatewayStats, *, threads: int
    ) -> None:
        self.dropped = 0  # frames that gave way to newer ones
        self.damaged = 0  # frames that were no picture
        self._take_codes = take_codes
        self._stats = stats
        self._pool = DecodePool(threads)
        self._waiting: dict[int, deque[Picture]] = {}
        self._held: dict[int, HeldCodes] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def offer(self, picture: Picture) -> None:
        """Takes a frame; the oldest that waits of its lane gives way."""
        waiting = self._waiting.setdefault(picture.lane, deque())
        waiting.append(picture)
        if len(waiting) > WAITING_MAX:
            waiting.popleft()
            self.dropped += 1
        task = self._tasks.get(picture.lane)
        if task is None or task.done():
            if task is not None:
                task.result()  # what ended it, if it was no fault of a picture
            self._tasks[picture.lane] = asyncio.create_task(self._run(picture.lane))

    async def _run(self, lane: int) -> None:
        held = self._held.setdefault(lane, HeldCodes())
        waiting = self._waiting[lane]
        while waiting:
            picture = waiting.popleft()
            try:
                codes = await self._pool.decode(lane, picture.codec, picture.image)
            except InputError:
                self.damaged += 1
                continue
            self._stats.frames_decoded += 1
            ts_ms = picture.ts_ns // 1_000_000
            begun = held.new([code.data for code in codes], ts_ms)
            if begun:
                await self._take_codes(Codes(lane, ts_ms, begun))

    async def drain(self) -> None:
        """Until no frame waits. Raises what take_codes raised."""
        while any(not task.done() for task in self._tasks.values()):
            await asyncio.gather(*self._tasks.values())

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._pool.close()
