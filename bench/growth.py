"""`python -m bench growth`: whole visits into journal and index until there are many millions.

Does the last tenth take longer than the first? What is loaded goes the way of
bench.store_adapter: groups of rows made durable, one commit each, and taken into the index, all of
it on the clock. Visits are those of bench.workload, day after day; one in ten comes up to two hours
late. At the end random persons and venues are asked about, and whatever is known of them from the
making is compared: a wrong answer is exit status 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from bench import results
from bench.harness import SEED, commit, machine, path_to_file_system, versions
from bench.store_adapter import ChotStore
from bench.workload import Province, people_for
from engine.clock import HOUR_MS, MINUTE_MS
from engine.presence.visits import Array

GAP_MS: Final = 15 * MINUTE_MS
SAMPLE: Final = 300
PARTS: Final = 10

SCAN: Final = np.dtype(
    [("t0", "<i8"), ("ph", "<u8"), ("pl", "<u8"), ("venue", "<u4"), ("dur", "<u4"),
     ("temp", "<i2"), ("lane", "u1"), ("kind", "u1")]
)  # fmt: skip


@dataclass(slots=True)
class Part:
    """What a tenth of the load took."""

    scans: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0


def add_parser(actions: Any) -> None:
    words = actions.add_parser("growth", help="visits until there are millions: first and last")
    words.add_argument("--visits", type=int, default=1_000_000)
    words.add_argument("--days", type=int, default=20)
    words.add_argument("--group", type=int, default=1000, help="visits a commit")


def run_words(chosen: argparse.Namespace) -> int:
    load = [round(value, 2) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory(prefix="chot-bench-") as scratch:
        line, is_right = measure(chosen, Path(scratch))
        line |= {
            "machine": {**machine(), "scratch": path_to_file_system(Path(scratch))},
            "versions": versions(), "commit": commit(), "load_average": load,
        }  # fmt: skip
    print(json.dumps(line, ensure_ascii=False))
    if chosen.keep and is_right:
        results.keep(line)
    return 0 if is_right else 1


def measure(chosen: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], bool]:
    """Loads, asks, compares."""
    province = Province(people_for(chosen.visits // chosen.days), SEED)
    sample = np.random.Generator(np.random.PCG64(SEED)).choice(
        province.people, min(SAMPLE, province.people), replace=False
    )
    known: list[Array] = []
    store = ChotStore(str(folder), SimpleNamespace(gap=GAP_MS))
    parts = [Part() for _ in range(PARTS)]
    done = 0
    for day in range(chosen.days):
        visits = province.day(day)
        known.append(visits[np.isin(visits["person"], sample)])
        scans = to_scans(province, visits, day)
        for at in range(0, len(scans), chosen.group):
            part = parts[min(PARTS - 1, done * PARTS // chosen.visits)]
            some = scans[at : at + chosen.group]
            cpu_s, begun_s = time.process_time(), time.perf_counter()
            store.ingest(some)
            part.seconds += time.perf_counter() - begun_s
            part.cpu_s += time.process_time() - cpu_s
            part.scans += len(some)
            done += len(some)
        print(f"day {day + 1} of {chosen.days}: {done:,} visits", flush=True)
    begun_s = time.perf_counter()
    store.finish()
    finish_s = time.perf_counter() - begun_s
    gc.collect()
    rss = current_rss_bytes()
    wrong, asked = ask(store, province, np.concatenate(known), sample)
    store.close()
    full = [part for part in parts if part.scans]
    return {
        "bench": "growth", "visits": done, "people": province.people, "group": chosen.group,
        "scans_s": [round(part.scans / part.seconds) for part in full],
        "cpu_us": [round(part.cpu_s / part.scans * 1e6, 2) for part in full],
        "last_to_first": round(rate(full[-1]) / rate(full[0]), 2),
        "last_to_first_cpu": round(cpu(full[0]) / cpu(full[-1]), 2),
        "finish_s": round(finish_s, 2), **asked, "wrong": wrong,
        "rss_mb": rss >> 20,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }, not wrong  # fmt: skip


def rate(part: Part) -> float:
    return part.scans / part.seconds


def cpu(part: Part) -> float:
    return part.cpu_s / part.scans


def to_scans(province: Province, visits: Array, day: int) -> Array:
    """In order of arrival."""
    scans = np.zeros(len(visits), SCAN)
    halves = province.keys[visits["person"]].view(">u8").reshape(-1, 2)
    scans["ph"], scans["pl"] = halves[:, 0], halves[:, 1]
    scans["t0"], scans["venue"] = visits["start_ms"], visits["place"]
    scans["dur"] = visits["end_ms"] - visits["start_ms"]
    r = np.random.Generator(np.random.PCG64([SEED, 1 << 33, day]))
    arrival_ms = scans["t0"].copy()
    late = r.random(len(scans)) < 0.1
    arrival_ms[late] += r.integers(0, 2 * HOUR_MS, int(late.sum()))
    return scans[np.argsort(arrival_ms, kind="stable")]


def ask(
    store: ChotStore, province: Province, known: Array, sample: Array
) -> tuple[int, dict[str, list[float]]]:
    """(wrong answers, p50 and p99 in us of each question). Every question once to warm up."""
    low, high = int(known["start_ms"].min()), int(known["end_ms"].max()) + 1
    spans = [known[known["person"] == person] for person in sample]
    keys = [province.keys[person].tobytes() for person in sample]
    one = known[np.linspace(0, len(known) - 1, len(sample)).astype(int)]
    wrong = 0
    took: dict[str, list[int]] = {"venue": [], "history": [], "contacts": []}
    for is_timed in (False, True):
        for at, key in enumerate(keys):
            visit = one[at]
            begun = time.perf_counter_ns()
            there = store.present(
                int(visit["place"]), int(visit["start_ms"]), int(visit["start_ms"]) + 2 * HOUR_MS
            )
            venue = time.perf_counter_ns()
            mine = store.visits(key, low, high)
            history = time.perf_counter_ns()
            store.contacts(key, high - 14 * 24 * HOUR_MS, high)
            contacts = time.perf_counter_ns()
            if is_timed:
                took["venue"].append(venue - begun)
                took["history"].append(history - venue)
                took["contacts"].append(contacts - history)
                continue
            wrong += province.keys[visit["person"]].tobytes() not in there
            truth = sorted(
                (int(v["start_ms"]), int(v["end_ms"] - v["start_ms"]), int(v["place"]))
                for v in spans[at]
            )
            wrong += sorted(mine) != truth
    shares = {
        f"{name}_us": [round(float(np.percentile(times, q)) / 1e3, 1) for q in (50, 99)]
        for name, times in took.items()
    }
    return wrong, shares


def current_rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
