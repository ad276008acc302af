"""Held codes: a code held in front of a lane is one scan, not one for every camera frame.

The hold is decided from what was read and when, by the frames' own times, so that it comes out
the same whether a lane streams live or sends an hour of kept frames at once.
"""

from __future__ import annotations

from collections.abc import Iterable

# zxing-cpp finds at most 255 codes in a frame, so one frame never pushes out its own codes.
SIZE_MAX = 256


class HeldCodes:
    """The codes now in front of one lane. Not for several threads at once."""

    def __init__(self, gap_ms: int = 2_000, size_max: int = SIZE_MAX) -> None:
        """gap_ms: a code unseen for longer counts as shown anew. size_max: codes remembered.

        Raises ValueError for a negative gap or no room.
        """
        if gap_ms < 0 or size_max < 1:
            raise ValueError("a gap >= 0 ms and room for at least one code are needed")
        self.gap_ms = gap_ms
        self.size_max = size_max
        self._seen_ms: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._seen_ms)

    def new(self, codes: Iterable[bytes], time_ms: int) -> list[bytes]:
        """Those of a frame's codes that begin a hold, each once, in the order given.

        The same bytes seen at most gap_ms before extend their hold; bytes that differ anywhere
        are another code. A code is forgotten once it is further than gap_ms from the frame's
        time in either direction: after a clock was set back a held code may count once more,
        but none is ever lost, and nobody's code is kept longer than its hold.
        """
        stale = [c for c, at in self._seen_ms.items() if abs(time_ms - at) > self.gap_ms]
        for code in stale:
            del self._seen_ms[code]
        begun: list[bytes] = []
        for code in codes:
            last_ms = self._seen_ms.pop(code, None)
            if last_ms is None:
                begun.append(code)
            # Taken out and put back, the dict stays in the order of last use.
            self._seen_ms[code] = time_ms if last_ms is None else max(last_ms, time_ms)
        while len(self._seen_ms) > self.size_max:
            del self._seen_ms[next(iter(self._seen_ms))]
        return begun
