"""The passage window: was this person at this post a moment ago? It decides the lane's light only.

What is kept is never decided here: passages and visits are a pure function of the journaled scans
(engine.visits). The table itself is native.dedup; this module holds the policy.
"""

from __future__ import annotations

import numpy as np

from engine.rows import ROW
from native.dedup import SeenTable


class SeenWindow:
    """The same person at the same post, whichever lane, within the window is *seen* (CP-3)."""

    def __init__(self, window_ms: int, capacity: int = 1 << 16) -> None:
        self.window_ms = window_ms
        self._table = SeenTable(capacity)
        self._newest_ms = 0
        self._swept_ms = 0

    def see(self, persons: bytes, places: bytes, times_ms: bytes) -> bytes:
        """One byte a scan, 0 new and 1 seen; n*16, n*4 (u32) and n*8 (i64) bytes, little-endian."""
        flags = self._table.see(persons, places, times_ms, self.window_ms)
        if times_ms:
            self._newest_ms = max(self._newest_ms, int(np.frombuffer(times_ms, "<i8").max()))
            self._sweep()
        return flags

    def rebuild(self, rows: np.ndarray) -> None:
        """Takes rows of the log in at start, so that a restart forgets nobody at the barrier."""
        assert rows.dtype == ROW
        self.see(rows["person"].tobytes(), rows["place"].tobytes(), rows["time_ms"].tobytes())

    def _sweep(self) -> None:
        # One sweep a window keeps the table as small as two windows of scans.
        if self._newest_ms - self._swept_ms > self.window_ms:
            self._table.expire(self._newest_ms - self.window_ms)
            self._swept_ms = self._newest_ms

    def __len__(self) -> int:
        return len(self._table)
