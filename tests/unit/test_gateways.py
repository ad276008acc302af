"""What is known of gateways may be asked from a thread while links come and go."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from engine.clock import ManualClock
from engine.gateways import Gateways

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
