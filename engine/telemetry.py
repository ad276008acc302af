"""Telemetry: one Metrics object with its own registry, and logs as `key=value` with declared keys.

Hot paths count in plain integers (a Counter costs 0.5 us, a label look-up 4 us); the collector
reads them when somebody scrapes. No label and no log value ever holds personal data: gateways,
posts, lanes, codes and numbers only. Keys that are not declared here cannot be logged.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

# name -> (type, help, labels). docs/metrics.md describes each one; a test compares.
CATALOGUE: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "chot_build_info": ("gauge", "1, with version and native CPU level", ("version", "cpu")),
    "chot_up_seconds": ("gauge", "seconds since the engine opened its doors", ()),
    "chot_sessions": ("gauge", "gateways connected now", ()),
    "chot_sessions_opened": ("counter", "sessions that got a WELCOME", ()),
    "chot_sessions_refused": ("counter", "connections closed with an ERROR", ("code",)),
    "chot_tls_certificate_expires_seconds": ("gauge", "when the engine's certificate expires", ()),
    "chot_messages_received": ("counter", "CKP/1 messages taken", ("type",)),
    "chot_bytes_received": ("counter", "bytes read from gateways", ()),
    "chot_resends_dropped": ("counter", "messages received before and dropped", ()),
    "chot_gateway_behind_seconds": ("gauge", "how long a gateway may hold back", ("gateway",)),
    "chot_gateway_open_messages": ("gauge", "messages taken and not yet durable", ("gateway",)),
    "chot_gateway_open_bytes": ("gauge", "bytes of them", ("gateway",)),
    "chot_gateway_credit_messages": ("gauge", "SCANS it may still send", ("gateway",)),
    "chot_gateway_commits": ("counter", "batches that became durable", ("gateway",)),
    "chot_gateway_commit_seconds": ("counter", "seconds they waited for it", ("gateway",)),
    "chot_gateway_newest_scan_seconds": ("gauge", "device time of its newest scan", ("gateway",)),
    "chot_gateway_connected": ("gauge", "1 while the gateway has a session", ("gateway",)),
    "chot_gateway_clock_offset_seconds": ("gauge", "gateway clock minus ours", ("gateway",)),
    "chot_gateway_clock_correction_seconds": ("gauge", "taken off its event times", ("gateway",)),
    "chot_times_corrected": ("counter", "rows whose time was corrected", ()),
    "chot_times_unsure": ("counter", "rows made by a clock that was set since", ()),
    "chot_frames_decoded": ("counter", "camera frames through the decoder", ()),
    "chot_frames_invalid": ("counter", "camera frames that are no image", ("code",)),
    "chot_frame_codes": ("counter", "codes found in frames, repeats included", ()),
    "chot_decode_seconds": ("counter", "seconds spent decoding frames", ()),
    "chot_frames_waiting": ("gauge", "frames queued for the decoder", ()),
    "chot_verdicts": ("counter", "verdicts given", ("verdict",)),
    "chot_alerts": ("counter", "why somebody was alarmed about", ("reason",)),
    "chot_events": ("counter", "EVENT messages taken", ("kind",)),
    "chot_refused": ("counter", "codes and records refused", ("reason",)),
    "chot_passes": ("counter", "health passes read", ("signature",)),
    "chot_lookalike_links": ("counter", "links that imitate the service's", ()),
    "chot_lost_scans": ("counter", "sequence numbers gateways reported as lost", ()),
    "chot_journal_commits": ("counter", "transactions committed", ()),
    "chot_journal_groups": ("counter", "groups written", ()),
    "chot_journal_rows": ("counter", "rows made durable", ()),
    "chot_journal_bytes": ("counter", "bytes of groups written", ()),
    "chot_journal_generations": ("gauge", "files of the scan log that were begun", ()),
    "chot_journal_disk_bytes": ("gauge", "bytes its files take, zeros ahead included", ()),
    "chot_journal_commit_seconds": ("counter", "seconds spent in commits", ()),
    "chot_journal_pending_bytes": ("gauge", "bytes waiting for the disk", ()),
    "chot_journal_duplicates": ("counter", "batches stored before", ()),
    "chot_journal_full": ("gauge", "1 while the store takes no scans", ()),
    "chot_seen_entries": ("gauge", "entries of the passage window table", ()),
    "chot_watch_entries": ("gauge", "entries of the watch list", ()),
    "chot_merges": ("gauge", "merges of persons that hold", ()),
    "chot_holds": ("gauge", "holds that keep days", ()),
    "chot_corrections": ("gauge", "corrections of stays", ()),
    "chot_persons_erased": ("gauge", "persons erased so far", ()),
    "chot_rows_erased_late": ("counter", "rows that came after their person was erased", ()),
    "chot_index_rows": ("gauge", "rows in the co-location index", ()),
    "chot_index_persons": ("gauge", "persons in the co-location index", ()),
    "chot_index_lag_groups": ("gauge", "groups durable but not yet in the index", ()),
    "chot_index_memory_scans": ("gauge", "scans of the index that are in no file", ()),
    "chot_index_segments": ("gauge", "files of the index, a day has one or a few", ()),
    "chot_index_segment_days": ("gauge", "days that have a file", ()),
    "chot_index_segment_bytes": ("gauge", "bytes of these files", ()),
    "chot_index_replay_groups": ("gauge", "groups that a restart would replay", ()),
    "chot_index_replayed_groups": ("gauge", "groups that the start replayed", ()),
    "chot_questions": ("counter", "questions answered", ("question",)),
    "chot_question_seconds": ("counter", "seconds spent answering", ("question",)),
    "chot_questions_denied": ("counter", "questions refused", ("code",)),
    "chot_api_requests": ("counter", "HTTP requests answered", ("route", "status")),
    "chot_api_request_seconds": ("counter", "seconds spent on HTTP requests", ("route",)),
    "chot_api_details_opened": ("counter", "groups of sealed details opened", ()),
    "chot_api_engine_up": ("gauge", "1 while the engine answers the API", ()),
    "chot_expired_groups": ("counter", "groups whose day was forgotten", ()),
}

Sample = tuple[str, tuple[str, ...], float]  # name, label values, value
Source = Callable[[], Iterable[Sample]]


class Metrics(Collector):
    """Plain counters of our own plus sources that are read at scrape time.

    Every name that is counted or that a source yields stands in CATALOGUE.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._sources: list[Source] = []
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Adds to a counter. Raises KeyError for a name that is not in the catalogue."""
        CATALOGUE[name]
        self._counts[name, labels] += by  # type: ignore[assignment]

    def add_source(self, source: Source) -> None:
        self._sources.append(source)

    def samples(self) -> dict[tuple[str, tuple[str, ...]], float]:
        found: dict[tuple[str, tuple[str, ...]], float] = dict(self._counts)
        for source in self._sources:
            _add(found, source)
        return found

    def collect(self) -> Iterable[Metric]:
        return _families(self.samples())

    def text(self) -> bytes:
        """The Prometheus exposition."""
        return generate_latest(self.registry)

    async def text_in_turns(self) -> bytes:
        """As `text`, in many turns of the loop: with hundreds of gateways it takes tens of ms, in
        which no lane would get its verdict."""
        found: dict[tuple[str, tuple[str, ...]], float] = dict(self._counts)
        for source in self._sources:
            _add(found, source)
            await asyncio.sleep(0)
        parts = []
        for family in _families(found):
            parts.append(generate_latest(_One(family)))
            await asyncio.sleep(0)
        return b"".join(parts)


class _One(CollectorRegistry):
    """A registry of one family that is there already."""

    def __init__(self, family: Metric) -> None:
        super().__init__()
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return [self._family]


def _add(found: dict[tuple[str, tuple[str, ...]], float], source: Source) -> None:
    for name, labels, value in source():
        key = name, labels
        found[key] = found.get(key, 0) + value


def _families(samples: dict[tuple[str, tuple[str, ...]], float]) -> Iterator[Metric]:
    """One after the other, each made when it is asked for."""
    by_name: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    for (name, labels), value in samples.items():
        by_name.setdefault(name, []).append((labels, value))
    for name, values in sorted(by_name.items()):
        kind, text, label_names = CATALOGUE[name]
        make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        family = make(name, text, labels=label_names)
        for labels, value in sorted(values):
            family.add_metric(labels, value)
        yield family


# Keys a log line may carry; anything else is a programming error that a test finds.
LOG_KEYS: Final = frozenset(
    {"address", "bytes", "code", "cpu", "count", "day", "epoch", "gateway", "groups", "kind"}
    | {"lane", "lsn", "ms", "name", "path", "pid", "port", "post", "problem", "reason", "rows"}
    | {"method", "route", "seq", "signal", "state", "status", "version"}
)


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Log:
    """`event key=value ...` lines on one logger.

    Values are numbers or short words; strings are quoted when they hold blanks, cut at 200
    characters and without control characters. Raises KeyError for a key that LOG_KEYS does not
    declare.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"chot.{name}")

    def _emit(self, level: int, event: str, fields: dict[str, object]) -> None:
        for key in fields:
            if key not in LOG_KEYS:
                raise KeyError(f"log key {key!r} is not declared")
        if self._logger.isEnabledFor(level):
            line = " ".join([event, *(f"{k}={_value(v)}" for k, v in fields.items())])
            self._logger.log(level, "%s", line)

    def info(self, event: str, **fields: object) -> None:
        self._emit(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._emit(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._emit(logging.ERROR, event, fields)


def _value(value: object) -> str:
    text = _CONTROL.sub(" ", str(value)[:200])
    return f'"{text}"' if " " in text or not text else text


def setup_logging(level: int = logging.INFO) -> None:
    """Logs of the chot tree to stderr, with UTC time stamps."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s")
    formatter.datefmt = "%Y-%m-%dT%H:%M:%S"
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger("chot")
    root.handlers[:] = [handler]
    root.setLevel(level)
    # A line of its own for each write to a peer that left would let anybody fill the disk.
    logging.getLogger("asyncio").setLevel(logging.ERROR)


def log_faults(loop: asyncio.AbstractEventLoop) -> None:
    """Exceptions that nobody took are told by class alone: their words may hold anything."""
    log = Log("loop")

    def tell(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        log.error("fault", problem=type(context.get("exception")).__name__)

    loop.set_exception_handler(tell)
