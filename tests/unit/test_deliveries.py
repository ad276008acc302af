"""What is remembered of deliveries: the same answers, in bounded memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from engine.desk import deliveries
from engine.desk.deliveries import Deliveries, PastLights
from engine.desk.questions import Delivered, DeliveryFault
from engine.ingest.server import IngestServer
from engine.scans.dedup import HERE
from engine.scans.rows import ROW, Flag
from engine.storage.group import RUN, Group
from engine.wire.frames import Verdict


@dataclass
class Logged:
    rows: np.ndarray[Any, Any]
    runs: np.ndarray[Any, Any]


def logged(seq: int, count: int) -> Group:
    """One run of class 0 with so many rows, n from 0."""
    rows, runs = np.zeros(count, ROW), np.zeros(1, RUN)
    rows["n"] = np.arange(count)
    runs[0] = (1, 0, 0, count, 7, seq, seq)
    return cast(Group, Logged(rows, runs))


def test_lights_of_the_log_are_put_back_over_what_is_judged_anew() -> None:
    past = PastLights()
    group = logged(5, 3)
    group.rows["flags"][2] = Flag.FEVER
    past.note(group, np.array([0, HERE, 0], np.uint8))
    anew = [Verdict(verdict="seen", lane=0, n=n, name="A***") for n in range(3)]
    refused = Verdict(verdict="refused", reason="unknown", lane=0, n=3)
    lights = past.put_back((1, 7, 5), [*anew, refused])
    assert [(v.n, v.verdict, v.reason, v.name) for v in lights] == [
        (0, "accepted", None, "A***"),
        (1, "seen", None, "A***"),
        (2, "alert", "fever", "A***"),
        (3, "refused", "unknown", None),
    ]
    assert past.put_back((1, 7, 6), anew) == anew


def test_a_backlog_in_the_log_takes_little_memory() -> None:
    """The last groups of the log may hold millions of rows."""
    past, count = PastLights(), 4096
    none = np.zeros(count, np.uint8)
    tracemalloc.start()
    for seq in range(1, 51):
        past.note(logged(seq, count), none)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 16 * 50 * count


def test_answers_that_are_kept_name_a_bounded_number_of_records() -> None:
    kept = Deliveries(cast(IngestServer, None), PastLights())
    verdicts = tuple(Verdict(verdict="refused", reason="unknown", lane=0, n=n) for n in range(500))
    answer = Delivered(verdicts, (DeliveryFault(500, "wire.clock", "ahead"),))
    for seq in range(1, 400):
        kept._keep((1, 7, seq), b"", answer)
    assert len(kept._answers) == deliveries.RECORDS_KEPT // 501
    assert next(reversed(kept._answers)) == (1, 7, 399)
    for seq in range(400, 400 + 2 * deliveries.ANSWERS_KEPT):
        kept._keep((1, 7, seq), b"", Delivered((), ()))
    assert len(kept._answers) == deliveries.ANSWERS_KEPT


def test_an_answer_that_is_judged_twice_is_counted_once() -> None:
    """After a store that refused the same key comes again, perhaps many times."""
    kept = Deliveries(cast(IngestServer, None), PastLights())
    verdicts = tuple(Verdict(verdict="refused", reason="unknown", lane=0, n=n) for n in range(256))
    for _ in range(2 * deliveries.RECORDS_KEPT // 256):
        kept._keep((1, 7, 1), b"", Delivered(verdicts, ()))
    assert kept._records == 256
    kept._keep((1, 7, 2), b"", Delivered(verdicts, ()))
    assert list(kept._answers) == [(1, 7, 1), (1, 7, 2)]
