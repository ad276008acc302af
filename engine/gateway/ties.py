"""Ties: which scan a thermal reading belongs to, by lane, device and time (SY-4).

People scan and are measured within seconds, in either order. A reading takes the scan of its lane
that is nearest in time and that no reading of the same device has taken; without one it waits a
moment for the next scan. What stays alone goes to the engine without a scan.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from engine.clock import Clock

SCANS_MAX: Final = 64  # remembered of a lane; far more than pass within a window


class ScanRef(NamedTuple):
    """A record in the spool."""

    epoch: int
    seq: int
    n: int


@dataclass(slots=True)
class _Scan:
    ts_ms: int
    ref: ScanRef
    devices: set[str] = field(default_factory=set)  # that have a reading for it


@dataclass(slots=True, eq=False)
class _Waiting:
    ts_ms: int
    device: str
    window_ms: int
    scan: asyncio.Future[ScanRef]


class Ties:
    """Scans and readings of all lanes of a box."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._scans: dict[int, deque[_Scan]] = {}
        self._waiting: dict[int, list[_Waiting]] = {}

    def scanned(self, lane: int, ts_ms: int, ref: ScanRef) -> None:
        """A scan of a lane is in the spool."""
        scan = _Scan(ts_ms, ref)
        self._scans.setdefault(lane, deque(maxlen=SCANS_MAX)).append(scan)
        for waiting in sorted(self._waiting.get(lane, ()), key=lambda w: abs(w.ts_ms - ts_ms)):
            is_near = abs(waiting.ts_ms - ts_ms) <= waiting.window_ms
            if is_near and waiting.device not in scan.devices and not waiting.scan.done():
                scan.devices.add(waiting.device)
                waiting.scan.set_result(ref)

    async def scan_of(self, lane: int, device: str, ts_ms: int, window_ms: int) -> ScanRef | None:
        """The scan that a reading belongs to, after waiting for one as long as one may come.

        window_ms: how far apart the two may be.
        """
        near = [
            scan
            for scan in self._scans.get(lane, ())
            if abs(scan.ts_ms - ts_ms) <= window_ms and device not in scan.devices
        ]
        if near:
            best = min(near, key=lambda scan: abs(scan.ts_ms - ts_ms))
            best.devices.add(device)
            return best.ref
        left_ms = ts_ms + window_ms - self._clock.now_ms()
        if left_ms <= 0:
            return None
        waiting = _Waiting(ts_ms, device, window_ms, asyncio.get_running_loop().create_future())
        queue = self._waiting.setdefault(lane, [])
        queue.append(waiting)
        try:
            async with asyncio.timeout(min(left_ms, window_ms) / 1000):
                return await asyncio.shield(waiting.scan)
        except TimeoutError:
            return waiting.scan.result() if waiting.scan.done() else None
        finally:
            queue.remove(waiting)
