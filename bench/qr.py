"""`python -m bench qr`: the goals of the QR reader, measured, as a table and one JSON line.

Without --data it measures on tests/data and on fresh lane clips of --seed; with it, on a folder
that has a manifest.csv (bench/qr_sets.py names the columns). Exit status 1 when a text was read
that is not there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench import clips, decoders, harness, qr_sets, results
from bench.decoders import BASELINES, JPEG_BASELINE, ZXING, Door, door, measure
from bench.harness import UsageError
from bench.qr_sets import Batch
from bench.qr_table import (
    PEERS,
    ZX,
    Measured,
    Part,
    Row,
    conditions_of,
    conditions_to_markdown,
    errors_of,
    first_read,
    hit_cells,
    passage_counts,
    time_cells,
    time_facts,
    to_markdown,
)

LISTED_MAX: Final = 12  # names of frames in the JSON line
STILL_DOORS: Final = ("read_codes", "read_codes_native")
SCENE_DOORS: Final = ("read_codes", "LaneReader", "read_codes_native")
SPIN_LEAST: Final = 1.7  # gain of two spins below which neighbours, not we, are measured
PRIMED: Final = 4  # frames of a held code before it counts as held


@dataclass(frozen=True, slots=True)
class Options:
    """data: a folder, or None for the project's own. rounds: how much of own data, 1 all."""

    data: Path | None = None
    seed: int = 1
    reps: int = 3
    only: tuple[str, ...] = ()
    rounds: float = 1.0
    frames: int = clips.FRAMES
    size: tuple[int, int] = (clips.WIDTH, clips.HEIGHT)


class Bench:
    """Measures each set once, when the first row asks for it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        if options.data is not None:
            self.sets = qr_sets.from_folder(options.data, options.seed)
        else:
            self.sets = qr_sets.own(options.seed, options.rounds, options.frames, options.size)
        self._done: dict[str, list[Measured]] = {}
        self.jpeg: list[Measured] = []

    def get(self, kind: str) -> list[Measured]:
        """kind: a field of Sets."""
        if kind not in self._done:
            batches: list[Batch] = getattr(self.sets, kind)
            names = {"lanes": ("LaneReader",), "held": ("LaneReader",), "stills": STILL_DOORS}
            ours = [door(name) for name in names.get(kind, SCENE_DOORS)]
            doors = [*BASELINES, *(each for each in ours if each is not None)]
            self._done[kind] = [self._batch(batch, doors, kind == "lanes") for batch in batches]
        return self._done[kind]

    def _batch(self, batch: Batch, doors: list[Door], has_jpeg: bool) -> Measured:
        shots, reps = batch.load(), self.options.reps
        lumas = [shot.luma for shot in shots]
        decoders.warm_up(doors, lumas[0])
        readings = measure(doors, lumas, reps)
        jpegs = [shot.jpeg for shot in shots]
        ours = door("JpegLaneReader")
        wanted = has_jpeg and (not self.options.only or "jpeg" in self.options.only)
        jpeg_readings = []
        if wanted and ours is not None and all(jpegs):
            jpeg_readings = measure([JPEG_BASELINE, ours], jpegs, reps)
        for shot in shots:
            shot.luma, shot.jpeg = shot.luma[:0], None
        if jpeg_readings:
            by_name = {reading.door: reading for reading in jpeg_readings}
            self.jpeg.append(Measured(batch.name, batch.label, shots, by_name))
        return Measured(batch.name, batch.label, shots, {r.door: r for r in readings})


# ---- rows ---------------------------------------------------------------------------------------


def is_plain(m: Measured, n: int) -> bool:
    return not m.dense[n]


def is_dense(m: Measured, n: int) -> bool:
    return m.dense[n]


def lane(bench: Bench) -> Row:
    row = Row(
        "lane", "lane clips (token, url, venue, card, 1405), total time", "≥ 12x, stretch 16x"
    )
    part = Part.of(bench.get("lanes"), is_plain)
    if not part.has("LaneReader"):
        return row.skip("no lane clips, or no LaneReader in this engine")
    row.cells = {"chot": f"{part.ratio('LaneReader'):.2f}x", **time_cells(part)}
    row.is_met = part.ratio("LaneReader") >= 12
    row.facts = time_facts(part, ["LaneReader"])
    return row


def hits(bench: Bench) -> Row:
    goal = "≥ zxing + 3 points; none lost, none later"
    row = Row("hits", "… hits by frame; passages read, lost, read later", goal)
    batches = bench.get("lanes")
    part = Part.of(batches, is_plain)
    if not part.has("LaneReader"):
        return row.skip("no lane clips, or no LaneReader in this engine")
    ahead = part.share("LaneReader") - part.share(ZX)
    row.cells = hit_cells(part, [ZX, *PEERS])
    for name in (ZX, *PEERS):
        counts = passage_counts(batches, name)
        row.cells[name] += f"; {counts['read']} of {counts['known']} passages"
    counts = passage_counts(batches, "LaneReader")
    lost, later = counts["lost"], counts["later"]
    row.cells["chot"] = (
        f"{part.share('LaneReader'):.1f} % ({ahead:+.1f}); {counts['read']} of {counts['known']} "
        f"passages, {len(lost)} lost, {len(later)} later"
    )
    row.is_met = ahead >= 3 and not lost and not later
    gone, won = part.lost_won("LaneReader")
    row.facts = {
        "points": round(ahead, 2), "known": part.hits(ZX)[1], "frames_lost": len(gone),
        "frames_won": len(won), **counts, "first_median": first_read(batches, "LaneReader"),
        "zxing_first_median": first_read(batches, ZX),
    }  # fmt: skip
    return row


def wrong(bench: Bench) -> Row:
    row = Row("wrong", "… stale or wrong texts, texts on empty frames", "0")
    batches = bench.get("lanes")
    if not Part.of(batches).has("LaneReader"):
        return row.skip("no lane clips, or no LaneReader in this engine")
    for column, name in (("chot", "LaneReader"), *((name, name) for name in (ZX, *PEERS))):
        errors = errors_of(batches, name)
        counts = [len(errors[kind]) for kind in ("stale", "wrong", "empty")]
        row.cells[column] = "{} stale, {} wrong, {} on empty".format(*counts)
        if column == "chot":
            row.is_met, row.facts = sum(counts) == 0, dict(errors)
    return row


def dense(bench: Bench) -> Row:
    row = Row("dense", "dense certificates (versions 16–18) in lanes", "≥ 6x, hits ≥ zxing")
    part = Part.of(bench.get("lanes"), is_dense)
    if not part.has("LaneReader"):
        return row.skip("no certificates in lanes, or no LaneReader in this engine")
    row.cells = time_cells(part)
    for name, share in hit_cells(part, [ZX, *PEERS]).items():
        row.cells[name] += f", {share}"
    ratio, mine, theirs = part.ratio("LaneReader"), part.share("LaneReader"), part.share(ZX)
    row.cells["chot"] = f"{ratio:.2f}x, {mine:.1f} %"
    row.is_met = ratio >= 6 and mine >= theirs
    # With the empty frames of the clips that hold them.
    around = Part.of([m for m in bench.get("lanes") if any(m.dense)])
    row.facts = time_facts(part, ["LaneReader"]) | {
        "hits": part.hits("LaneReader"), "zxing_hits": part.hits(ZX),
        "whole_clips_ratio": round(around.ratio("LaneReader"), 2),
    }  # fmt: skip
    return row


def without(bench: Bench, kind: str, row: Row, least: float) -> Row:
    part = Part.of(bench.get(kind))
    if not part.frames:
        return row.skip("no such images")
    ratios = {name: part.ratio(name) for name in ("read_codes", "LaneReader") if part.has(name)}
    row.cells = time_cells(part)
    row.cells["chot"] = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
    row.is_met = all(ratio >= least for ratio in ratios.values()) and len(ratios) == 2
    row.facts = time_facts(part, SCENE_DOORS)
    return row


def scenes(bench: Bench) -> Row:
    row = Row("scenes", "scenes without a code, fallback included", "≥ 6x, stretch 8x")
    return without(bench, "scenes", row, 6)


def barcodes(bench: Bench) -> Row:
    row = Row("barcodes", "other barcodes and text without a QR", "≥ 3x")
    return without(bench, "barcodes", row, 3)


def held(bench: Bench) -> Row:
    row = Row("held", "next frame of a held code (pixels differ)", "≥ 30x")
    batches = bench.get("held")
    part = Part.of(batches, lambda _, n: n >= PRIMED)
    if not part.has("LaneReader"):
        return row.skip("no LaneReader in this engine")
    row.cells = time_cells(part)
    row.cells["chot"] = f"{part.ratio('LaneReader'):.2f}x, {part.share('LaneReader'):.1f} % read"
    row.is_met = part.ratio("LaneReader") >= 30
    row.facts = time_facts(part, ["LaneReader"])
    row.facts["by_kind"] = {
        m.label: round(Part.of([m], lambda _, n: n >= PRIMED).ratio("LaneReader"), 2)
        for m in batches
    }
    return row


def is_known(m: Measured, n: int) -> bool:
    return bool(m.shots[n].known)


def stills(bench: Bench) -> Row:
    row = Row("stills", "stills with a known code, full mode, total time", "≥ 2.5x, stretch 3x")
    part = Part.of(bench.get("stills"), is_known)
    if not part.has("read_codes"):
        return row.skip("no stills")
    row.cells = {**time_cells(part), "chot": f"{part.ratio('read_codes'):.2f}x"}
    row.is_met = part.ratio("read_codes") >= 2.5
    row.facts = time_facts(part, STILL_DOORS)
    return row


def texts(bench: Bench) -> Row:
    goal = "≥ zxing + 5 points, stretch + 7; 0 lost"
    row = Row("texts", "stills: hits of the full mode; texts lost, won", goal)
    part = Part.of(bench.get("stills"), is_known)
    if not part.has("read_codes"):
        return row.skip("no stills")
    ahead = part.share("read_codes") - part.share(ZX)
    lost, won = part.texts_lost_won("read_codes")
    row.cells = hit_cells(part, [ZX, *PEERS])
    row.cells["chot"] = (
        f"{part.share('read_codes'):.1f} % ({ahead:+.1f}); {len(lost)} lost, {len(won)} won"
    )
    row.is_met = ahead >= 5 and not lost
    row.facts = {
        "points": round(ahead, 2), "hits": part.hits("read_codes"), "zxing_hits": part.hits(ZX),
        "lost": lost, "won": won,
    }  # fmt: skip
    return row


def native(bench: Bench) -> Row:
    row = Row("native", "own reader alone: of zxing's hits; time where it reads", "≥ 100 %; ≥ 6x")
    name = "read_codes_native"
    part = Part.of(bench.get("stills"), is_known)
    if not part.has(name):
        return row.skip(f"no {name} in this engine")
    mine, theirs = part.hits(name)[0], part.hits(ZX)[0]
    reads = Part.of(bench.get("stills"), lambda m, n: bool(m.scores[name].hit[n]))
    share, ratio = 100 * mine / max(1, theirs), reads.ratio(name)
    row.cells = {"chot": f"{share:.1f} % ({mine} of {theirs}); {ratio:.2f}x", **time_cells(reads)}
    row.is_met = share >= 100 and ratio >= 6
    lost, won = part.lost_won(name)
    row.facts = {**time_facts(reads, [name]), "hits": mine, "zxing_hits": theirs}
    row.facts |= {"lost": lost, "won": won}
    return row


def invented(bench: Bench) -> Row:
    row = Row(
        "invented", "texts that neither zxing nor the truth gives", "0 (truth checked by eye)"
    )
    found: list[str] = []
    asked = {"lanes": ("LaneReader",), "held": ("LaneReader",), "stills": STILL_DOORS}
    for kind in ("lanes", "held", "stills", "scenes", "barcodes"):
        part = Part.of(bench.get(kind))
        for name in asked.get(kind, SCENE_DOORS):
            found += part.invented(name) if part.has(name) else []
    jpeg = Part.of(bench.jpeg)
    found += jpeg.invented("JpegLaneReader") if jpeg.has("JpegLaneReader") else []
    row.cells = {"chot": str(len(found))}
    row.is_met = not found
    row.facts = {"found": found}
    return row


def jpeg(bench: Bench) -> Row:
    row = Row("jpeg", "from JPEG bytes, lane clips", "≥ 2.5x simplejpeg + zxing, stretch 3.5x")
    bench.get("lanes")
    part = Part.of(bench.jpeg)
    if not part.has("JpegLaneReader"):
        return row.skip("no JPEG lane clips, or no JpegLaneReader in this engine")
    plain = Part.of(bench.jpeg, is_plain)
    row.cells = {ZX: f"{plain.mean_us(ZX):.0f} µs", "chot": f"{plain.ratio('JpegLaneReader'):.2f}x"}
    row.is_met = plain.ratio("JpegLaneReader") >= 2.5
    row.facts = time_facts(plain, ["JpegLaneReader"])
    row.facts["with_dense_ratio"] = round(part.ratio("JpegLaneReader"), 2)
    return row


def tail(bench: Bench) -> Row:
    row = Row("tail", "time by zxing's, frame by frame, worst 1 %", "≤ 1.5")
    asked = [("lanes", "LaneReader"), ("stills", "read_codes")]
    asked += [(kind, name) for kind in ("scenes", "barcodes") for name in SCENE_DOORS[:2]]
    worst = {}
    for kind, name in asked:
        part = Part.of(bench.get(kind))
        if part.has(name):
            worst[f"{kind} {name}"] = round(part.tail(name), 2)
    if not worst:
        return row.skip("nothing to measure")
    row.cells = {"chot": ", ".join(f"{what} {value:.2f}" for what, value in worst.items())}
    row.is_met = max(worst.values()) <= 1.5
    row.facts = dict(worst)
    return row


# ---- two lanes on two cores ---------------------------------------------------------------------


def race(work: Callable[[int], None], threads: int) -> float:
    """Seconds until each of the threads has done its work once, begun together, a core each."""
    spans = [0.0] * threads
    gate = threading.Barrier(threads)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []

    def run(k: int) -> None:
        if cores:
            os.sched_setaffinity(0, {cores[k % len(cores)]})  # of this thread only
        gate.wait()
        begun = time.perf_counter()
        work(k)
        spans[k] = time.perf_counter() - begun

    workers = [threading.Thread(target=run, args=(k,)) for k in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(spans)


def two(bench: Bench) -> Row:
    """Twice the work on two threads in the time of one: 1 is perfect, 0.5 no gain at all."""
    row = Row("two", "two lanes on two cores, of what two GIL-free spins reach", "≥ 0.95")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if (cores or 1) < 2:
        return row.skip("only one core")
    ours = door("LaneReader")
    if ours is None or not bench.sets.lanes:
        return row.skip("no lane clips, or no LaneReader in this engine")
    shots = bench.sets.lanes[0].load()
    frames = [[shot.luma.copy() for shot in shots] for _ in range(2)]

    def lane_of(each: Door, passes: int) -> Callable[[int], None]:
        def work(k: int) -> None:
            for _ in range(passes):
                reader = each.new()
                for luma in frames[k]:
                    reader(luma)

        return work

    def spin_of(rounds: int) -> Callable[[int], None]:
        def work(_: int) -> None:
            for _ in range(20):
                hashlib.pbkdf2_hmac("sha256", b"spin", b"spin", rounds)

        return work

    once = race(lane_of(ours, 1), 1)
    passes = max(1, round(0.08 * min(1.0, bench.options.rounds) / once))
    rounds = max(1, round(2000 * once * passes / 20 / race_of_spin(spin_of)))
    works = {
        "LaneReader": lane_of(ours, passes),
        "spin": spin_of(rounds),
        ZX: lane_of(ZXING, 1),
    }
    found = {(name, threads): math.inf for name in works for threads in (1, 2)}
    for _ in range(8 * bench.options.reps):
        for name, threads in found:
            # The best of many short runs: the moments in which no neighbour was on either core.
            seconds = race(works[name], threads)
            found[name, threads] = min(found[name, threads], seconds)
    gains = {name: found[name, 1] / found[name, 2] for name in works}
    share = gains["LaneReader"] / gains["spin"]
    row.cells = {"chot": f"{share:.3f}", ZX: f"{gains[ZX] / gains['spin']:.3f}"}
    if 2 * gains["spin"] < SPIN_LEAST:
        row.cells["chot"] += f"; a busy machine, even spins gain only {2 * gains['spin']:.2f}"
    else:
        row.is_met = share >= 0.95
    row.facts = {f"{name}_gain": round(2 * gain, 3) for name, gain in gains.items()}
    return row


def race_of_spin(spin_of: Callable[[int], Callable[[int], None]]) -> float:
    """Seconds of a call of 2,000 rounds."""
    return race(spin_of(2000), 1) / 20


ROWS: Final[dict[str, Callable[[Bench], Row]]] = {
    "lane": lane, "hits": hits, "wrong": wrong, "dense": dense, "scenes": scenes,
    "barcodes": barcodes, "held": held, "stills": stills, "texts": texts, "native": native,
    "invented": invented, "jpeg": jpeg, "two": two, "tail": tail,
}  # fmt: skip


# ---- the command --------------------------------------------------------------------------------


def shorten(value: Any) -> Any:
    """Long lists of names as their number and the first few."""
    if isinstance(value, dict):
        return {key: shorten(each) for key, each in value.items()}
    if isinstance(value, list) and len(value) > LISTED_MAX:
        return {"count": len(value), "first": value[:LISTED_MAX]}
    return value


def run(options: Options, is_kept: bool = False) -> int:
    """Prints the table and the JSON line. Raises UsageError."""
    for name in options.only:
        if name not in ROWS:
            raise UsageError(f"there is no row {name!r}; there are: {', '.join(ROWS)}")
    wanted = options.only or tuple(ROWS)
    load = [round(value, 2) for value in os.getloadavg()]
    bench = Bench(options)
    made: dict[str, Row] = {}
    with decoders.one_core():
        for name in wanted:
            if name != "two":
                made[name] = ROWS[name](bench)
    # The one row that needs a second core.
    if "two" in wanted:
        made["two"] = two(bench)
    rows = [made[name] for name in wanted]
    print(to_markdown(rows))
    lanes = bench.get("lanes") if {"lane", "hits", "dense"} & set(wanted) else []
    conditions = []
    if lanes and Part.of(lanes).has("LaneReader"):
        conditions = conditions_of(lanes, "LaneReader")
        print("\nPassages: read / read by zxing / known.\n")
        print(conditions_to_markdown(conditions, "LaneReader"))
    line = {
        "bench": "qr",
        "seed": options.seed,
        "reps": options.reps,
        "data": options.data.name if options.data is not None else "own",
        "rows": {
            row.key: {
                "what": row.what,
                "goal": row.goal,
                "is_met": row.is_met,
                "cells": row.cells,
                **shorten(row.facts),
            }
            for row in rows
        },
        "conditions": conditions,
        "machine": harness.machine(),
        "versions": harness.versions(),
        "commit": harness.commit(),
        "load_average": load,
    }
    text = json.dumps(line, ensure_ascii=False, default=_to_plain)
    print(f"\n{text}")
    is_wrong = complain(made)
    if is_kept and not is_wrong:
        results.keep(json.loads(text))
    return 1 if is_wrong else 0


def complain(made: dict[str, Row]) -> bool:
    """Says on standard error what was read that is not there."""
    lines = []
    if "wrong" in made:
        facts = made["wrong"].facts
        lines += [
            f"{kind}: {what}"
            for kind in ("stale", "wrong", "empty")
            for what in facts.get(kind, [])
        ]
    if "invented" in made:
        lines += made["invented"].facts["found"]
    for text in lines[:40]:
        print(f"bench: qr: WRONG: {text}", file=sys.stderr)
    return bool(lines)


def _to_plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def add_parser(actions: Any) -> None:
    parser = actions.add_parser("qr", help="the goals of the QR reader, as a table")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder with a manifest.csv")
    parser.add_argument("--seed", type=int, default=1, help="of the clips that are made")
    parser.add_argument("--reps", type=int, default=3, help="the smallest time a frame counts")
    parser.add_argument("--only", action="append", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=float, default=1.0, help="how much of own data; 1: all")
    parser.add_argument("--frames", type=int, default=clips.FRAMES, help="of a clip that is made")
    parser.add_argument("--size", default="1280x720", help="of frames that are made")


def run_words(chosen: argparse.Namespace) -> int:
    """The words of add_parser's command. Raises UsageError."""
    width, _, height = chosen.size.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size: {chosen.size!r} is not like 1280x720")
    if min(chosen.reps, chosen.frames - 14) < 1 or chosen.rounds <= 0:
        raise UsageError("--reps, --rounds: above 0; --frames: 15 or more")
    if chosen.data is not None and not chosen.data.is_dir():
        raise UsageError(f"--data: {chosen.data} is no folder")
    size = (int(width), int(height))
    only = tuple(chosen.only or ())
    if chosen.keep and (only or chosen.data is not None):
        raise UsageError("--keep: a page shows every row of own clips, so without --only, --data")
    return run(
        Options(chosen.data, chosen.seed, chosen.reps, only, chosen.rounds, chosen.frames, size),
        chosen.keep,
    )
