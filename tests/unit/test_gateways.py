"""What is known of gateways may be asked from a thread while links come and go."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from engine.clock import ManualClock
from engine.ingest.gateways import Gateways

TURNS, NAMES = 150, 20


def test_a_question_meets_links_that_end() -> None:
    """The desk's threads ask how complete an answer is."""
    gateways, done = Gateways(ManualClock(), 2_000, 300_000), Event()

    def ask() -> None:
        while not done.is_set():
            gateways.states(set(), {})

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        for turn in range(TURNS):
            for n in range(NAMES):
                gateways.note_end(f"gw-{turn}-{n}")
            time.sleep(0.0005)  # the other thread is amid its work when the next names come
        done.set()
        asked.result()
    assert len(gateways.states(set(), {})) == TURNS * NAMES


class SetClock(ManualClock):
    """Somebody sets it; its monotonic side goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_ms = 5_000

    def monotonic_ns(self) -> int:
        return self._passed_ms * 1_000_000

    def advance(self, span_ms: int) -> None:
        super().advance(span_ms)
        self._passed_ms += span_ms

    def set_back(self, span_ms: int) -> None:
        super().advance(-span_ms)


def test_absences_do_not_shrink_when_the_engines_clock_is_set_back() -> None:
    clock = SetClock()
    gateways = Gateways(clock, 2_000, 300_000)
    clock.advance(1_000)
    gateways.note_end("left")
    sent_ms = gateways.monotonic_ms()
    clock.advance(500)
    clock.set_back(3_600_000)
    assert gateways.states({"unknown"}, {"linked": sent_ms, "idle": 0}) == [
        ("idle", 0, True), ("left", 500, False), ("linked", 500, True), ("unknown", 1_500, False),
    ]  # fmt: skip
