"""What a gateway knows of itself: the counters of one run, and its state at one moment."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec

AGE_STEP_MS: Final = 1_000
AGES_MAX: Final = 86_400  # of one epoch; a day of uninterrupted scans, and more of others


@dataclass(slots=True)
class GatewayStats:
    """What one run did. verdicts: by name. errors: by code, of links and of the spool.
    turned_away: the code with which the engine does not let this gateway in, until it does."""

    records_stored: int = 0
    readings_stored: int = 0  # of thermal terminals
    readings_tied: int = 0  # to a scan
    scans_sent: int = 0
    scans_resent: int = 0
    lost_sent: int = 0
    frames_captured: int = 0
    frames_decoded: int = 0  # by this gateway itself
    frames_sent: int = 0
    frames_resent: int = 0
    frames_dropped: int = 0  # gave way under pressure
    frames_thinned: int = 0  # more than the engine wants a second
    skipped: int = 0  # lines that are no record, images that are damaged
    lights_local: int = 0  # shown by this gateway's own verdict
    links: int = 0
    nacks: int = 0
    bytes_sent: int = 0
    clock_offset_ms: float = 0.0  # engine's clock minus ours
    is_drained: bool = False  # everything captured is durable at the engine
    verdicts: dict[str, int] = field(default_factory=Counter)
    errors: dict[str, int] = field(default_factory=Counter)
    turned_away: str = ""
    last_error: str = ""  # code
    last_error_ms: int = 0

    def note_error(self, code: str, at_ms: int) -> None:
        self.errors[code] += 1
        self.last_error, self.last_error_ms = code, at_ms


class SourceStatus(msgspec.Struct, kw_only=True):
    """One source. items: frames, messages and readings so far. last_ms: of the last, 0 for none.
    problem: why nothing comes now."""

    kind: str
    lane: int
    items: int = 0
    last_ms: int = 0
    skipped: int = 0
    problem: str = ""
    is_over: bool = False


class EpochStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one epoch of the spool. oldest_ms: when the oldest that waits was stored, 0 when
    none waits; of what an earlier process left, when this one began."""

    epoch: str
    is_live: bool
    is_linked: bool
    next_seq: int
    acked: int
    waiting: int
    oldest_ms: int


class GatewayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway at one moment. since_ms: when its link with the engine began or ended."""

    gateway: str
    pid: int
    url: str
    now_ms: int
    started_ms: int
    is_linked: bool
    since_ms: int
    epochs: list[EpochStatus]
    spool_size: int
    spool_size_max: int
    lost_count: int
    frames_waiting: int
    sources: list[SourceStatus]
    stats: GatewayStats


class Ages:
    """When the messages of an epoch were stored, to a second."""

    def __init__(self) -> None:
        self._seqs: dict[int, list[int]] = {}
        self._times_ms: dict[int, list[int]] = {}

    def note(self, epoch: int, seq: int, now_ms: int) -> None:
        """A message is in the spool; numbers of one epoch grow."""
        seqs = self._seqs.setdefault(epoch, [])
        times_ms = self._times_ms.setdefault(epoch, [])
        if times_ms and now_ms - times_ms[-1] < AGE_STEP_MS:
            return
        seqs.append(seq)
        times_ms.append(now_ms)
        if len(seqs) > AGES_MAX:
            # Every second one: what stays is right to two steps.
            del seqs[1::2]
            del times_ms[1::2]

    def stored_ms(self, epoch: int, seq: int) -> int:
        """When a number was stored, at the latest; 0 of an epoch without messages."""
        seqs = self._seqs.get(epoch, [])
        at = bisect_right(seqs, seq)
        return self._times_ms[epoch][max(0, at - 1)] if seqs else 0

    def forget(self, epoch: int, seq: int) -> None:
        """Nobody asks for numbers below seq any more."""
        seqs = self._seqs.get(epoch, [])
        at = bisect_right(seqs, seq) - 1
        if at > 0:
            del seqs[:at]
            del self._times_ms[epoch][:at]
