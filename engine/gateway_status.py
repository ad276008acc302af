"""What a gateway knows of itself: the counters of one run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class GatewayStats:
    """What one run did. verdicts: by name. errors: by code, of links and of the spool."""

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
    verdicts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
