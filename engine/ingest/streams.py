"""Streams: what the engine remembers of each (gateway, epoch) while links come and go.

engine.wire.session holds the rules of one stream; this module adds what links share: who carries it
now, what is on its way to the journal, and in which order camera frames are released.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from engine.errors import EngineError, WireOverCredit, WireReplaced
from engine.settings import Settings
from engine.storage.journal import Journal, Mark, RecordBatch
from engine.wire.session import DURABLE, VOLATILE, Stream

EPOCHS_MAX = 16_384  # of one gateway: four starts of its box a day for eleven years
CREDITS_MAX = 8  # times credit_bytes that one gateway may have open in all of its streams
STREAMS_MAX = 4096  # kept in memory; older epochs come back from the log


class LinkLike(Protocol):
    """The connection that carries a stream now."""

    def fail(self, error: EngineError) -> None: ...
    def acknowledge(self, cls: int) -> None: ...


class StreamState:
    """A stream, its link, and whether anything of it is open or on its way to the journal."""

    def __init__(self, name: tuple[int, int], stream: Stream) -> None:
        """name: gateway number and epoch."""
        self.name = name
        self.stream = stream
        self.link: LinkLike | None = None
        self.opening = asyncio.Lock()
        self.settled = asyncio.Event()
        self.settled.set()
        # What was taken off the times of the newest records that were made under our eyes.
        self.correction_ms: int | None = None
        self.appending = 0  # batches on their way to the journal
        self.open_since_ms = 0  # when the oldest open message came, monotonic; 0 for none
        self._came_ms: dict[tuple[int, int], int] = {}  # all of them, by class and number
        # Frames decode side by side; their batches wait here until all before them are decoded.
        self.ready: dict[int, RecordBatch | None] = {}
        self.undecided: list[int] = []
        self.released = 0  # newest number in a batch that is durable or on its way

    def note_open(self, cls: int, seq: int, now_ms: int) -> None:
        """A message was taken. now_ms: monotonic."""
        self._came_ms[cls, seq] = now_ms
        self._note_oldest()
        self.settled.clear()

    def settle(self, cls: int, seq: int) -> None:
        """The message is durable, or had nothing to keep."""
        self._came_ms.pop((cls, seq), None)
        self._note_oldest()
        moved = self.stream.windows[cls].settle(seq)
        self._note_settled()
        if moved and self.link is not None:
            self.link.acknowledge(cls)

    def take_back(self, durable: tuple[int, int]) -> None:
        """The store refused what was open: back to what is durable."""
        for window, seq in zip(self.stream.windows, durable, strict=True):
            window.forget(seq)
        self.ready.clear()
        self._came_ms.clear()
        self._note_oldest()
        # A new list: frames still in the decoder see that their turn was taken from them.
        self.undecided = []
        self.released = durable[VOLATILE]
        self._note_settled()

    def catch_up(self, durable: tuple[int, int]) -> None:
        """After a failure the log may hold more than the stream remembers. Only while settled."""
        for window, seq in zip(self.stream.windows, durable, strict=True):
            window.catch_up(seq)
        self.released = max(self.released, durable[VOLATILE])

    def _note_oldest(self) -> None:
        # Kept, not looked up when asked for: questions ask from other threads.
        self.open_since_ms = next(iter(self._came_ms.values()), 0)

    def _note_settled(self) -> None:
        if self.stream.is_settled and not self.appending:
            self.settled.set()


class Streams:
    """All streams that are in memory, by gateway number and epoch. Used from one event loop."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._states: dict[tuple[int, int], StreamState] = {}

    def __iter__(self) -> Iterator[StreamState]:
        return iter(self._states.values())

    async def open(self, link: LinkLike, gateway: int, epoch: int) -> StreamState:
        """The stream for a new link. An older link of the same stream is replaced, and what it
        had taken is settled first, so that WELCOME tells the durable watermark."""
        name = (gateway, epoch)
        state = self._states.get(name)
        if state is None:
            self._drop_idle()
            self._check_epochs(gateway, epoch)
            self._check_open(gateway)
            stream = Stream(
                (0, 0),
                scan_credit=self._settings.scan_credit,
                frame_credit=self._settings.frame_credit,
                credit_bytes=self._settings.credit_bytes,
            )
            state = self._states[name] = StreamState(name, stream)
        async with state.opening:
            if state.link is not None:
                state.link.fail(WireReplaced("a newer link of this gateway took over"))
            while not state.settled.is_set():  # more may have been taken before we woke up
                await state.settled.wait()
            state.catch_up(_durable(self._journal.watermark, gateway, epoch))
            state.link = link
            state.stream.open_link()
        return state

    def _check_epochs(self, gateway: int, epoch: int) -> None:
        """Raises WireOverCredit for one epoch too many: each leaves a watermark for ever."""
        is_known = any(_durable(self._journal.watermark, gateway, epoch))
        if not is_known and self._journal.epochs().get(gateway, 0) >= EPOCHS_MAX:
            raise WireOverCredit(
                f"this gateway has had {EPOCHS_MAX} epochs", hint="register it under a new name"
            )

    def _check_open(self, gateway: int) -> None:
        """Raises WireOverCredit. While the store is slow, each new epoch would bring a credit."""
        open_bytes = sum(
            state.stream.bytes_open
            for (number, _), state in self._states.items()
            if number == gateway
        )
        if open_bytes >= CREDITS_MAX * self._settings.credit_bytes:
            raise WireOverCredit("too much of this gateway waits for the store")

    def take_back(self) -> None:
        """The store failed: nothing that is open will be acknowledged."""
        marks = self._journal.watermarks()  # a copy, and there may be as many streams as marks
        for name, state in self._states.items():
            state.take_back(_durable(lambda mark: marks.get(mark, 0), *name))

    def take_back_one(self, state: StreamState) -> None:
        """As `take_back`, but for a fault at this stream alone."""
        state.take_back(_durable(self._journal.watermark, *state.name))

    def _drop_idle(self) -> None:
        if len(self._states) < STREAMS_MAX:
            return
        for key, state in list(self._states.items()):
            if state.link is None and state.settled.is_set() and not state.opening.locked():
                del self._states[key]


def _durable(watermark: Callable[[Mark], int], gateway: int, epoch: int) -> tuple[int, int]:
    return watermark((gateway, epoch, DURABLE)), watermark((gateway, epoch, VOLATILE))
