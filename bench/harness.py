"""The harness: contenders take turns at the same work, are timed, and must give one answer.

A case sets up contenders, ours first. Each repetition runs all of them, in an order that rotates,
so that a neighbour's load hits everybody and ratios hold where nanoseconds do not. Every contender
then shows its answer; one that differs from ours or from the oracle makes the case wrong, because
a fast wrong answer is worth nothing. What comes out is one JSON line a case (bench/README.md).
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.metadata
import os
import platform
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import engine
import native.cpu
from bench.servers import Servers

ROOT = Path(__file__).resolve().parents[1]
SEED = 20210701
SIZES = ("smoke", "small", "large")

# Ours, and those of the extra that peers come from.
PACKAGES = ("lmdb", "msgspec", "numpy", "simplejpeg", "uvloop", "zxing-cpp")
EXTRA_PACKAGES = (
    "duckdb", "opencv-python-headless", "picows", "psycopg", "pyzbar", "redis", "rocksdict",
    "websockets",
)  # fmt: skip

Params = Mapping[str, int]


class UsageError(Exception):
    """The person at the keyboard asked for what is not there; the text is one line for them."""


class Contender:
    """One way to do the work of a case.

    name: as it stands in the JSON line. note: the settings that matter for a fair reading.
    is_elsewhere: it works in another process, whose CPU is not counted. may_miss: a peer that need
    not find everything; what it misses is counted by `shortfall`, and does not make a case wrong.
    """

    name = ""
    note = ""
    is_elsewhere = False
    may_miss = False

    def work(self, repetition: int) -> None:
        """Timed. Repetition 0 warms up and is not counted."""
        raise NotImplementedError

    def answer(self) -> bytes:
        """Not timed, asked once after all repetitions: canonical bytes of what the work gave."""
        raise NotImplementedError

    def shortfall(self) -> tuple[int, list[str]]:
        """Of a peer that may miss, asked after `answer`: answers missed, and those wrong."""
        raise NotImplementedError

    def close(self) -> None:
        """Gives back what the contender holds."""


@dataclass(slots=True)
class Round:
    """A case set up for one run.

    contenders: ours first. n: units of work in one repetition. expected: the oracle's answer, None
    where the contenders only check one another. facts: what a reader needs beside the times.
    floor: name of the contender that nothing can be faster than, where there is one. skipped: peers
    that could not come, with the reason.
    """

    contenders: list[Contender]
    n: int
    expected: bytes | None = None
    facts: dict[str, int | str] = field(default_factory=dict)
    floor: str = ""
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a case may read and write.

    scratch: an empty folder that is removed afterwards. data: the folder of --data, or None.
    servers: those of --servers.
    """

    scratch: Path
    data: Path | None
    seed: int = SEED
    servers: Servers = field(default_factory=Servers)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing measured.

    params: for each of SIZES; `repetitions` must be among them. takes_data: --data is for it.
    """

    name: str
    what: str
    unit: str
    params: Mapping[str, Params]
    set_up: Callable[[Params, Place], Round]
    takes_data: bool = False


@dataclass(slots=True)
class Outcome:
    """What a trial gave. figures: for the page. wrong: sentences, empty when all is well."""

    figures: dict[str, Any]
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trial:
    """Something measured as a whole, without contenders that take turns: an engine under load.

    params: for each of SIZES; smoke within twenty seconds. measure: does it in a scratch folder.
    """

    name: str
    what: str
    params: Mapping[str, Params]
    measure: Callable[[Params, Place], Outcome]


@dataclass(slots=True)
class Times:
    """Nanoseconds of each repetition of one contender."""

    wall: list[int] = field(default_factory=list)
    thread: list[int] = field(default_factory=list)
    process: list[int] = field(default_factory=list)

    def to_units(self, n: int) -> dict[str, float]:
        """Nanoseconds a unit, as they stand in the JSON line."""
        return {
            "median_ns": round(statistics.median(self.wall) / n, 1),
            "min_ns": round(min(self.wall) / n, 1),
            "thread_cpu_ns": round(statistics.median(self.thread) / n, 1),
            "process_cpu_ns": round(statistics.median(self.process) / n, 1),
        }


def answer_to_checksum(answer: bytes) -> str:
    return hashlib.sha256(answer).hexdigest()[:16]


def run_case(
    case: Case,
    size: str,
    data: Path | None = None,
    servers: Servers | None = None,
    only: Collection[str] | None = None,
) -> dict[str, Any]:
    """The JSON line of one case; `wrong` is a list of sentences, empty when all is well.

    only: these peers alone take part.
    """
    params = case.params[size]
    load = [round(value, 2) for value in os.getloadavg()]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chot-bench-")))
        file_system = path_to_file_system(scratch)
        place = Place(scratch, data, servers=servers or Servers())
        arranged = case.set_up(params, place)
        for contender in arranged.contenders:
            stack.callback(contender.close)
        if only is not None:
            ours, *peers = arranged.contenders
            arranged.contenders = [ours, *(peer for peer in peers if peer.name in only)]
        times = _take_turns(arranged.contenders, params["repetitions"])
        checksums = [answer_to_checksum(each.answer()) for each in arranged.contenders]
        shortfalls = {each.name: each.shortfall() for each in arranged.contenders if each.may_miss}
    ours, *peers = arranged.contenders
    ours_times, *peer_times = times
    return {
        "case": case.name,
        "size": size,
        "params": dict(params),
        "seed": SEED,
        "contender": ours.name,
        "note": ours.note,
        "checksum": checksums[0],
        "wrong": _compare(arranged, checksums),
        "n": arranged.n,
        "unit": case.unit,
        **ours_times.to_units(arranged.n),
        "ratios": {
            peer.name: _ratio(ours_times.wall, theirs.wall)
            for peer, theirs in zip(peers, peer_times, strict=True)
        },
        "cpu_ratios": {
            peer.name: _ratio(ours_times.process, theirs.process)
            for peer, theirs in zip(peers, peer_times, strict=True)
            if not peer.is_elsewhere
        },
        "over_floor": {
            peer.name: _ratio(theirs.wall, ours_times.wall)
            for peer, theirs in zip(peers, peer_times, strict=True)
            if peer.name == arranged.floor
        },
        "peers": {
            peer.name: {
                "note": peer.note,
                "checksum": checksum,
                **theirs.to_units(arranged.n),
                **_to_facts(shortfalls.get(peer.name)),
            }
            for peer, theirs, checksum in zip(peers, peer_times, checksums[1:], strict=True)
        },
        "skipped": arranged.skipped,
        "facts": arranged.facts,
        "machine": {**machine(), "scratch": file_system},
        "versions": versions(),
        "commit": commit(),
        "load_average": load,
    }


def run_trial(trial: Trial, size: str, data: Path | None = None) -> dict[str, Any]:
    """The JSON line of a trial."""
    load = [round(value, 2) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory(prefix="chot-bench-") as scratch:
        file_system = path_to_file_system(Path(scratch))
        outcome = trial.measure(trial.params[size], Place(Path(scratch), data))
    return {
        "case": trial.name,
        "size": size,
        "params": dict(trial.params[size]),
        "seed": SEED,
        "wrong": outcome.wrong,
        "figures": outcome.figures,
        "machine": {**machine(), "scratch": file_system},
        "versions": versions(),
        "commit": commit(),
        "load_average": load,
    }


def _take_turns(contenders: list[Contender], repetitions: int) -> list[Times]:
    for contender in contenders:
        contender.work(0)
    times = [Times() for _ in contenders]
    for repetition in range(1, repetitions + 1):
        for turn in range(len(contenders)):
            i = (turn + repetition) % len(contenders)
            with no_collector():
                wall, thread = time.perf_counter_ns(), time.thread_time_ns()
                process = time.process_time_ns()
                contenders[i].work(repetition)
                times[i].process.append(time.process_time_ns() - process)
                times[i].thread.append(time.thread_time_ns() - thread)
                times[i].wall.append(time.perf_counter_ns() - wall)
    return times


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    # A collection would hit whoever happens to cross the threshold, not who made the garbage.
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _ratio(ours: list[int], theirs: list[int]) -> float:
    """How many times more the peer takes: the median over repetitions, each its own pair."""
    pairs = [their / max(our, 1) for our, their in zip(ours, theirs, strict=True)]
    return float(f"{statistics.median(pairs):.3g}")


def _compare(arranged: Round, checksums: list[str]) -> list[str]:
    if arranged.expected is None:
        right, whose = checksums[0], arranged.contenders[0].name
    else:
        right, whose = answer_to_checksum(arranged.expected), "the oracle"
    return [
        f"{contender.name} answers {checksum}, {whose} {right}"
        for contender, checksum in zip(arranged.contenders, checksums, strict=True)
        if checksum != right and not contender.may_miss
    ]


def _to_facts(shortfall: tuple[int, list[str]] | None) -> dict[str, Any]:
    if shortfall is None:
        return {}
    return {"missed": shortfall[0], "wrong_answers": shortfall[1]}


# ---- what the figures belong to -----------------------------------------------------------------


def machine() -> dict[str, int | str]:
    cores = len(os.sched_getaffinity(0))
    return {"cpu": cpu_model(), "cores": cores, "native": native.cpu.active()}


def cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def path_to_file_system(path: Path) -> str:
    """Type of the file system under a path; a sync is free on tmpfs, so the line must say."""
    best, kind = "", "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
            _, where, found = line.split()[:3]
            if path.is_relative_to(where) and len(where) >= len(best):
                best, kind = where, found
    return kind


def versions() -> dict[str, str]:
    """Of what figures depend on; of peers those that are installed."""
    found = {
        "chot": engine.__version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    for name in (*PACKAGES, *EXTRA_PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit() -> str:
    """Short hash, with a + when the tree differs from it; "unknown" outside a repository."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return f"{head}{'+' if _git('status', '--porcelain') else ''}" if head else "unknown"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
