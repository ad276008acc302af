"""`python -m bench budget`: what each stage of a frame and of a scan costs, and what bounds it.

Each stage runs by itself over the same frames or scans, in one process; beside it stands its speed
of light on this machine, measured in the same run (bench.floors). Frames are of fresh lane clips as
a camera would send them. A stage that needs the ones before it is what is left when these are
taken off. `docs/performance.md` shows the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from bench import case_commit, case_dedup, case_ingest, clips, floors, kernels, results, row_stores
from bench.floors import best_ns
from bench.gauge import GaugeError
from bench.harness import (
    SEED,
    Outcome,
    Params,
    Place,
    Trial,
    no_collector,
    run_case,
    run_trial,
)
from bench.tables import of_ns, table
from engine.identity.keys import encrypt
from engine.scans.rows import ROW_SIZE
from engine.wire import frames as wire
from native.dedup import SeenRules, SeenTable
from native.hmac import Hmac
from native.jpeg.luma import DONE, Luma
from native.qr.lane import Lane
from native.qr.matrix import decode
from native.qr.reader import Reader
from native.qr.threshold import thresholds

ROW_STEP: Final = 8  # of the reader: rows that it looks at
MESSAGES, RECORDS = kernels.MESSAGES, kernels.RECORDS
GROUP: Final = MESSAGES * RECORDS
SYMBOL_FRAMES: Final = 2  # counted in Python, a second or so each
ACK_BYTES: Final = len(wire.encode(wire.Ack(cls=0, seq=1, limit=1, byte_limit=1)))

Stage = dict[str, Any]


def stage(name: str, ns: float, light_ns: float | None, light: str) -> Stage:
    """light: what bounds it, in words. light_ns: None where nothing but the work itself does."""
    lit = None if light_ns is None else round(light_ns, 1)
    return {"stage": name, "ns": round(max(ns, 0.0), 1), "light_ns": lit, "light": light}


def each_ns(work: Callable[[Any], object], some: list[Any], times: int) -> float:
    """CPU time of the thread for one of them; the least of some rounds."""

    def every() -> None:
        for one in some:
            work(one)

    with no_collector():
        every()
        return best_ns(every, times) / max(1, len(some))


# ---- a frame ------------------------------------------------------------------------------------


def frame_stages(params: Params, place: Place, lit: dict[str, float]) -> tuple[list[Stage], Stage]:
    """Stages in full for a frame, and facts about the frames."""
    times = params["times"]
    wide, tall, frames = params["width"], params["height"], params["frames"]
    jpegs: list[bytes] = []
    for n in range(params["clips"]):
        made = clips.film(place.seed + n, frames=frames, width=wide, height=tall)
        jpegs += [clips.to_jpeg(frame.luma) for frame in made]
    luma, planes = Luma(), []
    for jpeg in jpegs:
        assert luma.decode(jpeg) == DONE
        planes.append(np.array(luma))
    rows, columns = planes[0].shape
    symbols = statistics.mean(floors.count_symbols(jpeg) for jpeg in jpegs[:SYMBOL_FRAMES])
    symbols *= statistics.mean(map(len, jpegs)) / statistics.mean(map(len, jpegs[:SYMBOL_FRAMES]))

    huffman = each_ns(luma.decode_dc, jpegs, times)
    whole = each_ns(luma.decode, jpegs, times)
    reader = Reader()
    threshold = each_ns(lambda p: thresholds(p, columns, rows, columns, ROW_STEP), planes, times)
    finders = each_ns(reader.finders, planes, times)
    placed = each_ns(reader.placed, planes, times)
    shown = [one for plane in planes for one in reader.placed(plane)]
    read = [(one["soft"], one["dim"]) for one in shown]
    read = [one for one in read if isinstance(decode(*one), dict)]
    assert read, "no code was read"
    texts = each_ns(lambda one: decode(*one), read, times)
    of_light = lit["plane_read_ns"]
    stages = [
        stage("JPEG: Huffman", huffman, symbols * lit["symbol_ns"],
              f"{symbols:,.0f} symbols, each after the one before"),
        stage("JPEG: IDCT and luma", whole - huffman, lit["plane_write_ns"],
              f"{rows * columns / 1e6:.2f} MB written once"),
        stage("thresholds", threshold, of_light / ROW_STEP, "an eighth of the rows read once"),
        stage("finders, on all planes", finders - threshold, of_light, "the plane read once"),
        stage("placing and sampling", placed - finders, None, "arithmetic"),
        stage("format, mask, Reed–Solomon, bits, text: a code", texts, None, "arithmetic"),
    ]  # fmt: skip
    lane_ns = each_ns(lambda _: read_lane(planes), [0], times) / len(planes)
    held = [f.luma for f in clips.hold(place.seed, "card", frames=frames, width=wide, height=tall)]
    held_ns = each_ns(lambda _: read_lane(held), [0], times) / len(held)
    facts = {
        "width": columns, "height": rows, "frames": len(planes), "codes_placed": len(shown),
        "codes_read": len(read), "bytes_a_frame": sum(map(len, jpegs)) // len(jpegs),
        "jpeg_ns": round(whole, 1), "lane_ns": round(lane_ns, 1), "held_ns": round(held_ns, 1),
    }  # fmt: skip
    return stages, facts


def read_lane(planes: list[Any]) -> None:
    lane = Lane()
    for plane in planes:
        lane.read(plane)


# ---- a scan -------------------------------------------------------------------------------------


def scan_stages(params: Params, place: Place, lit: dict[str, float]) -> tuple[list[Stage], Stage]:
    """Stages of an ID card in a message of 64, committed in groups; nanoseconds a scan."""
    times, scratch = params["times"], place.scratch

    def of_kernel(name: str) -> float:
        work, count = kernels.KERNELS[name].set_up(scratch)
        return each_ns(lambda _: work(), [0], times) / count

    size = "small" if params["is_full"] else "smoke"
    cards = run_case(case_ingest.CARDS, size)
    commit = run_case(case_commit.CASES[0], size, only=(row_stores.Floor.name,))
    wrong = [*cards["wrong"], *commit["wrong"]]
    facts, group = cards["facts"], commit["params"]["group"]
    pipeline = of_kernel("cards")
    scans = case_dedup.make_day(params["scans"], SEED)
    dedup = each_ns(see_all, [scans], times) / len(scans)
    mac, message = Hmac(b"k" * 32, b"person"), b"cccd\0VN\0" + b"001199000999"
    key = each_ns(lambda _: [mac.digest(message) for _ in range(100)], [0], times) / 100
    framing = of_kernel("framing") / RECORDS
    rows = bytes(ROW_SIZE * group)
    sealing = each_ns(lambda _: encrypt(bytes(32), bytes(12), rows, b""), [0], times) / group
    verdict = facts["result_frames_ns"]
    receipt = wire.Ack(cls=0, seq=1, limit=1, byte_limit=1)
    acking = each_ns(lambda _: [wire.encode(receipt) for _ in range(100)], [0], times) / 100
    synced, committed = commit["facts"]["floor_ns"], commit["facts"]["commit_ns"]
    rest = cards["process_cpu_ns"] - pipeline - facts["framing_and_records_ns"] - verdict
    stages = [
        stage("socket: a message of 64 written and read", lit["message_ns"] / RECORDS,
              2 * lit["system_call_ns"] / RECORDS, "two system calls a message"),
        stage("wire: framing", framing, None, "a header of 24 bytes a message"),
        stage("wire: records", facts["framing_and_records_ns"] - framing, None,
              "about 120 bytes touched"),
        stage("verdict: payload, key, dedup, judge, row", pipeline, None, "arithmetic"),
        stage("of it the key", key, 2 * lit["sha256_block_ns"], "two blocks of SHA-256"),
        stage("of it dedup", dedup, None,
              f"misses, which overlap within a message; one alone takes {lit['miss_ns']:.0f} ns"),
        stage("payload in Python, where it is odd", of_kernel("parse"), None, "objects"),
        stage("RESULT frame", verdict, None, "about 40 bytes written"),
        stage("session, loop, hand-overs, details, journal's CPU", rest, None,
              "what is left of a scan's CPU"),
        stage("seal, LMDB write, two syncs (waiting)", committed / group, synced / group,
              f"pwrite and fdatasync of the same {group:,} rows, in turns with ours"),
        stage("of it the seal", sealing, ROW_SIZE * lit["seal_byte_ns"],
              f"{ROW_SIZE} bytes of AES-256-GCM"),
        stage("receipt", acking / RECORDS / MESSAGES, lit["system_call_ns"] / GROUP,
              "one system call a group"),
        stage("index: a row to visits", of_kernel("visits"), lit["miss_ns"],
              "the person's older scans: one look into memory"),
    ]  # fmt: skip
    told = {
        "cpu_ns": cards["process_cpu_ns"], "wall_ns": cards["median_ns"], "group": group,
        "commit_ns": committed, "wrong": wrong,
    }  # fmt: skip
    return stages, told


def see_all(scans: Any) -> bytes:
    columns = [np.ascontiguousarray(scans[name]).tobytes() for name in scans.dtype.names]
    persons, places, lanes, times_ms = columns
    rules = SeenRules(case_dedup.WINDOW_MS, case_dedup.LANES_MS, case_dedup.ROADS)
    return SeenTable(1 << 17, hash_key=bytes(16)).see(persons, places, lanes, times_ms, rules)


# ---- the trial ----------------------------------------------------------------------------------


def measure(params: Params, place: Place) -> Outcome:
    plane = params["width"] * params["height"]
    message = len(case_ingest.messages(case_ingest.card, 1, RECORDS)[0])
    try:
        lit = floors.gather(place.scratch, plane, message)
    except GaugeError as error:
        return Outcome({}, [str(error)])
    begun_s = time.perf_counter()
    frame, frame_facts = frame_stages(params, place, lit)
    scan, scan_facts = scan_stages(params, place, lit)
    wrong = scan_facts.pop("wrong")
    return Outcome(
        {
            "frame": frame, "frame_facts": frame_facts, "scan": scan, "scan_facts": scan_facts,
            "floors": {name: round(ns, 3) for name, ns in lit.items()},
            "took_s": round(time.perf_counter() - begun_s, 1),
        },
        wrong,
    )  # fmt: skip


def add_parser(actions: Any) -> None:
    words = actions.add_parser(
        "budget", help="stages of a frame and of a scan against their speed of light"
    )
    words.add_argument("--quick", action="store_true", help="small parameters")


def run_words(chosen: argparse.Namespace) -> int:
    line = run_trial(TRIAL, "small" if chosen.quick else "large")
    if not line["wrong"]:
        print(to_markdown(line["figures"]), end="\n\n")
    print(json.dumps(line, ensure_ascii=False))
    for sentence in line["wrong"]:
        print(f"bench: budget: WRONG: {sentence}", file=sys.stderr)
    if chosen.keep:
        results.keep(line)
    return 1 if line["wrong"] else 0


def to_markdown(figures: dict[str, Any]) -> str:
    """Two tables, and a sentence before each."""
    of_frame, of_scan = figures["frame_facts"], figures["scan_facts"]
    frame = (
        f"**A frame** of {of_frame['width']} × {of_frame['height']}, {of_frame['bytes_a_frame']:,}"
        f" bytes of JPEG, each stage in full: what a lane does of them costs"
        f" {of_ns(of_frame['lane_ns'])} a frame behind the JPEG, {of_ns(of_frame['held_ns'])} while"
        f" a code is held ({of_frame['codes_read']} of {of_frame['codes_placed']} symbols placed"
        f" were read in {of_frame['frames']} frames)."
    )
    scan = (
        f"**A scan**, an ID card in messages of {RECORDS}: {of_ns(of_scan['cpu_ns'])} of CPU from"
        f" wire to durable, groups of {of_scan['group']:,} rows a commit of"
        f" {of_ns(of_scan['commit_ns'])}."
    )
    parts = []
    for said, stages in ((frame, figures["frame"]), (scan, figures["scan"])):
        rows = [[each["stage"], of_ns(each["ns"]), *_lit(each), each["light"]] for each in stages]
        parts += [said, table(["stage", "ours", "light", "times", "bound by"], rows)]
    return "\n\n".join(parts)


def _lit(each: Stage) -> list[str]:
    light_ns = each["light_ns"]
    if not light_ns:
        return ["", ""]
    return [of_ns(light_ns), f"{each['ns'] / light_ns:.2g}"]


TRIAL: Final = Trial(
    name="budget",
    what="stages of a frame and of a scan, each against its speed of light, in one run",
    params={
        "smoke": {
            "clips": 1, "frames": 15, "width": 640, "height": 360, "times": 1, "scans": 2_000,
            "is_full": 0,
        },
        "small": {
            "clips": 1, "frames": 60, "width": 1280, "height": 720, "times": 5, "scans": 50_000,
            "is_full": 1,
        },
        "large": {
            "clips": 3, "frames": 60, "width": 1280, "height": 720, "times": 9, "scans": 200_000,
            "is_full": 1,
        },
    },
    measure=measure,
)  # fmt: skip
