"""`python -m bench restart`: a store is loaded, and a process of its own then starts on it.

Visits of bench.workload go through journal and index as in `growth`; the index writes its days into
files. The second process opens them (checksums, persons, newest rows), replays what is not yet in
files, and asks about random persons and venues at once and again; whatever is known of them from
the making is compared: a wrong answer is exit status 1. Bytes are those of du.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from bench import results
from bench.growth import GAP_MS, SAMPLE, ask, current_rss_bytes, to_scans
from bench.harness import SEED, commit, machine, path_to_file_system, versions
from bench.store_adapter import ChotStore
from bench.workload import Province, people_for
from engine.presence.visits import Array

KNOWN: Final = "known.npy"  # true visits of whom is asked about


def add_parser(actions: Any) -> None:
    words = actions.add_parser("restart", help="a store is loaded, then opened: time, memory, disk")
    words.add_argument("--visits", type=int, default=1_000_000)
    words.add_argument("--days", type=int, default=20)
    words.add_argument("--people", type=int, help="default: as many as the visits of a day need")
    words.add_argument("--group", type=int, default=10_000, help="visits a commit")
    words.add_argument("--memory", type=int, default=1 << 20, help="scans kept in memory")
    words.add_argument("--left", type=int, default=0, help="visits that come after the last file")
    words.add_argument("--folder", help="keep the store there, and load only if it is empty")
    words.add_argument("--second", action="store_true", help=argparse.SUPPRESS)


def run_words(chosen: argparse.Namespace) -> int:
    if chosen.second:
        line, is_right = open_again(chosen, Path(chosen.folder))
        print(json.dumps(line))
        return 0 if is_right else 1
    load = [round(value, 2) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory(prefix="chot-bench-") as scratch:
        folder = Path(chosen.folder or scratch)
        line = {"bench": "restart", "visits": chosen.visits, "people": people_of(chosen)}
        if not (folder / "journal").exists():
            line |= load_store(chosen, folder)
        line |= {f"{name}_bytes": du(folder / name) for name in ("index", "journal")}
        line["index_bytes_a_visit"] = round(du(folder / "index") / chosen.visits, 2)
        words = [sys.executable, "-m", "bench", *sys.argv[1:], "--second"]
        if not chosen.folder:
            words += ["--folder", scratch]
        second = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        line |= json.loads(second.stdout or "{}")
        line |= {
            "machine": {**machine(), "scratch": path_to_file_system(folder)},
            "versions": versions(), "commit": commit(), "load_average": load,
        }  # fmt: skip
    print(json.dumps(line, ensure_ascii=False))
    if chosen.keep and not second.returncode:
        results.keep(line)
    return second.returncode


def people_of(chosen: argparse.Namespace) -> int:
    return int(chosen.people or people_for(chosen.visits // chosen.days))


def visits_of_day(chosen: argparse.Namespace, province: Province, day: int) -> Array:
    """With more people than the visits of a day need, others stay at home each day."""
    visits = province.day(day)
    share = people_for(chosen.visits // chosen.days) / province.people
    if share >= 1:
        return visits
    is_out = np.random.Generator(np.random.PCG64((SEED, day))).random(province.people) < share
    return visits.compress(is_out[visits["person"]])


def open_store(chosen: argparse.Namespace, folder: Path) -> ChotStore:
    return ChotStore(str(folder), SimpleNamespace(gap=GAP_MS, memory_scans=chosen.memory))


def load_store(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Days are made in a process of their own, so that memory of this one is that of the store."""
    store = open_store(chosen, folder)
    done, taken_s, peak = 0, 0.0, 0
    known: list[Array] = []
    with (
        tempfile.TemporaryDirectory(prefix="chot-days-") as made,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as maker,
    ):
        for day in range(chosen.days):
            path, some = maker.submit(write_day, chosen, day, made).result()
            known.append(some)
            scans = np.load(path, mmap_mode="r")
            begun_s = time.perf_counter()
            for at in range(0, len(scans), chosen.group):
                left = chosen.visits - done - chosen.left
                if 0 < left <= chosen.group:
                    store.write_down()
                store.ingest(scans[at : at + chosen.group])
                done += len(scans[at : at + chosen.group])
                peak = max(peak, anonymous_bytes())
            taken_s += time.perf_counter() - begun_s
            Path(path).unlink()
            print(f"day {day + 1} of {chosen.days}: {done:,} visits", file=sys.stderr, flush=True)
    begun_s = time.perf_counter()
    if not chosen.left:
        store.write_down()
    taken_s += time.perf_counter() - begun_s
    gc.collect()
    line = {
        "scans_s": round(done / taken_s), "load_rss_mb": current_rss_bytes() >> 20,
        "load_anonymous_mb": anonymous_bytes() >> 20, "load_anonymous_peak_mb": peak >> 20,
    }  # fmt: skip
    store.kill()
    np.save(folder / KNOWN, np.concatenate(known))
    return line


@functools.cache
def province_of_words(people: int) -> Province:
    return Province(people, SEED)


def write_day(chosen: argparse.Namespace, day: int, folder: str) -> tuple[str, Array]:
    """Scans of a day as a file, and what is true of whom is asked about.

    In the process that makes them; its province stays there.
    """
    province = province_of_words(people_of(chosen))
    visits = visits_of_day(chosen, province, day)
    known = visits[np.isin(visits["person"], sample_of(province))]
    path = f"{folder}/{day}.npy"
    np.save(path, to_scans(province, visits, day))
    return path, known


def sample_of(province: Province) -> Array:
    """Who will be asked about."""
    r = np.random.Generator(np.random.PCG64(SEED))
    return r.choice(province.people, min(SAMPLE, province.people), replace=False)


def open_again(chosen: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], bool]:
    begun_s = time.perf_counter()
    store = open_store(chosen, folder)
    opened_s = time.perf_counter()
    replayed = store.replay()
    replayed_s = time.perf_counter()
    anonymous = anonymous_bytes()
    province = Province(people_of(chosen), SEED)
    sample, part = sample_of(province), np.load(folder / KNOWN)
    first_s = time.perf_counter()
    store.contacts(province.keys[part["person"][0]].tobytes(), 0, 1 << 60)
    first_ms = (time.perf_counter() - first_s) * 1e3
    wrong, asked = ask(store, province, part, sample)
    line = {
        "open_s": round(opened_s - begun_s, 2), "replay_s": round(replayed_s - opened_s, 2),
        "replayed_groups": replayed, "first_question_ms": round(first_ms, 2), **asked,
        "segments": store.segment_count, "anonymous_mb": anonymous >> 20, "wrong": wrong,
    }  # fmt: skip
    store.close()
    return line, not wrong


def anonymous_bytes() -> int:
    """Memory of this process that the page cache does not hold."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def du(folder: Path) -> int:
    """Bytes on the disk of all files below a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
