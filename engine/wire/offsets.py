"""Offsets of clocks: how far another clock is from ours, and what is taken off its event times.

Four stamps give a sample, as in NTP: t0 a question leaves here, t1 it comes there, t2 the answer
leaves there, t3 it comes here. The other clock minus ours is ((t1 - t0) + (t2 - t3)) / 2, wrong by
half of the round trip at most. No clock is read here; all times are milliseconds.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

SAMPLES: Final = 8
STEP_SLACK_MS: Final = 100  # stamps are whole milliseconds, and crystals drift between samples
# Round trip assumed for a stamp that no answer came back for: HELLO may take 10 s, and a sample is
# wrong by half of its round trip at most.
ONE_WAY_MS: Final = 20_000
CORRECTION_STEP_MS: Final = 1000


class Sample(NamedTuple):
    offset_ms: float
    round_trip_ms: float


class OffsetFilter:
    """The sample with the least round trip of the last few.

    A sample says that the offset lies within half of its round trip. Two that cannot both be true
    mean that a clock was set in between: what is older is dropped.
    """

    def __init__(self) -> None:
        self.best: Sample | None = None
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def add(self, offset_ms: float, round_trip_ms: float) -> Sample:
        """The estimate with this sample in it."""
        sample = Sample(offset_ms, max(round_trip_ms, 0.0))
        if self.best is not None:
            error_ms = (self.best.round_trip_ms + sample.round_trip_ms) / 2 + STEP_SLACK_MS
            if abs(self.best.offset_ms - sample.offset_ms) > error_ms:
                self._samples.clear()
        self._samples.append(sample)
        self.best = min(reversed(self._samples), key=lambda s: s.round_trip_ms)
        return self.best

    def add_stamps(self, t0_ms: float, t1_ms: float, t2_ms: float, t3_ms: float) -> Sample | None:
        """The estimate with these four stamps; None, and nothing taken, when they cannot be."""
        there_ms, here_ms = t2_ms - t1_ms, t3_ms - t0_ms
        if there_ms < 0 or there_ms > here_ms + STEP_SLACK_MS:
            return None
        offset_ms = ((t1_ms - t0_ms) + (t2_ms - t3_ms)) / 2
        return self.add(offset_ms, here_ms - there_ms)


class ClockRule:
    """What is taken off the event times of one gateway: `correction_ms`, whole seconds or 0.

    A clock that is off by no more than `limit_ms` is believed as it is. One that is off by more,
    for certain, is corrected by its offset. The correction stays the same while it leaves less
    than half of the limit, so that records made alike get times that are alike.
    """

    def __init__(self, limit_ms: int) -> None:
        self.limit_ms = limit_ms
        self.correction_ms = 0

    def judge(self, sample: Sample) -> bool:
        """True when the correction changed."""
        before_ms, error_ms = self.correction_ms, sample.round_trip_ms / 2
        kept_ms = self.limit_ms / 2 if before_ms else self.limit_ms
        if abs(sample.offset_ms - before_ms) <= kept_ms + error_ms:
            return False
        is_off = abs(sample.offset_ms) > self.limit_ms + error_ms
        steps = round(sample.offset_ms / CORRECTION_STEP_MS) if is_off else 0
        self.correction_ms = steps * CORRECTION_STEP_MS
        return self.correction_ms != before_ms

    def of_earlier(self, then_ms: int | None) -> int | None:
        """The correction of what was made before this link, None when nobody can say.

        then_ms: the correction in force when records of that stream were last made under our eyes,
        None when we do not remember. A clock that is off by the same before and after a break was
        off by it in between; one that is not was set at a time that nobody saw.
        """
        if then_ms is None or abs(then_ms - self.correction_ms) <= self.limit_ms:
            return self.correction_ms
        return None
