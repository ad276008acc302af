"""`python -m bench verdicts` and `python -m bench backlog`: a real engine under a real load.

verdicts: three lanes of 720p JPEG frames wait for their verdicts while check-ins come at a rate.
backlog: seven gateways bring what an outage left them, a million scans of ID cards, while the lanes
go on. The engine is a process with its doors on loopback and its store on a disk; what drives it
(bench.links) sends what was filmed, encoded and sealed before. Rows are counted in the store after
the engine has ended: one too few or too many is exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from bench import clips, results, texts
from bench.engine_process import EngineProcess, Pass, count_rows
from bench.harness import SEED, commit, machine, path_to_file_system, versions
from bench.links import LaneLink, Link, RecordLink, connect
from bench.receipt import floor
from engine.identity import seals
from engine.scans.records import Credential, encode_checkin, encode_scan, encode_scans
from engine.scans.rows import Direction
from engine.wire import frames as wire

LANES: Final = ("vl-1a-1", "vl-1a-2", "vl-1a-3")
POSTS: Final = (*LANES, "hl-1a-1", "hl-1a-2", "hl-1a-3", "vl-hcm-1")
LANE_OF: Final = {"vl-1a-1": 1, "vl-1a-2": 2, "vl-1a-3": 3} | {
    "hl-1a-1": 1, "hl-1a-2": 2, "hl-1a-3": 3, "vl-hcm-1": 1
}  # fmt: skip
BACK_END: Final = "venue-app"
VENUES: Final = range(1001, 1005)
FPS: Final = 15.0
CLIP_FRAMES: Final = 150  # ten seconds, then again
BODY: Final = 64  # records of a SCANS message
TICK_S: Final = 0.01
OLD, LIVE = 1, 2  # epochs: of the records whose rows are counted, of the cameras
PEOPLE: Final = 40_000


def add_parsers(actions: Any) -> None:
    words = actions.add_parser("verdicts", help="lanes beside check-ins: how long a verdict takes")
    words.add_argument("--checkins", type=int, default=20_000, help="a second")
    words.add_argument("--seconds", type=float, default=30.0)
    words.set_defaults(live=verdicts)
    words = actions.add_parser("backlog", help="what an outage left, beside live lanes")
    words.add_argument("--scans", type=int, default=1_000_000, help="of all seven gateways")
    words.set_defaults(live=backlog)
    for action in ("verdicts", "backlog"):
        words = actions.choices[action]
        words.add_argument(
            "--clip-frames", type=int, default=CLIP_FRAMES, help="of each lane, then again"
        )


# ---- what is sent -------------------------------------------------------------------------------


def film(seed: int, frames: int) -> list[bytes]:
    return [clips.to_jpeg(frame.luma) for frame in clips.film(seed, "plain", frames=frames)]


def film_all(frames: int) -> list[list[bytes]]:
    seeds = range(SEED, SEED + len(LANES))
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(film, seeds, [frames] * len(seeds)))


def messages(who: Pass, epoch: int, lane: int, records: Iterator[bytes]) -> list[bytes]:
    """SCANS as a gateway keeps them in its spool: sealed, number 1 on."""
    made: list[bytes] = []
    body: list[bytes] = []
    for record in records:
        body.append(record)
        if len(body) == BODY:
            made.append(_message(who, epoch, lane, len(made) + 1, body))
            body = []
    if body:
        made.append(_message(who, epoch, lane, len(made) + 1, body))
    return made


def _message(who: Pass, epoch: int, lane: int, seq: int, records: Sequence[bytes]) -> bytes:
    aad = wire.seal_aad(who.name, epoch, seq)
    sealed = seals.seal(who.ingest_public, encode_scans(records), aad)
    return wire.encode(wire.Scans(seq=seq, channel=lane, flags=wire.FLAG_SEALED, body=sealed))


def checkins(count: int, now_ms: int) -> Iterator[bytes]:
    """Resolved records: somebody's number and a venue's."""
    r = random.Random(SEED)
    people = [texts.card(r).partition("|")[0] for _ in range(PEOPLE)]
    for _ in range(count):
        who = Credential("cccd", r.choice(people))
        time_ms = now_ms - r.randrange(60_000)
        yield encode_checkin(time_ms, Direction.IN, who, r.choice(VENUES))


def cards(gateway: int, count: int, now_ms: int) -> Iterator[bytes]:
    """A day of one lane: ID cards as the reader gives them, in the order of the day."""
    r = random.Random(SEED + gateway)
    people = [texts.make("card", r) for _ in range(PEOPLE // len(POSTS))]
    lane = LANE_OF[POSTS[gateway]]
    for n in range(count):
        time_ms = now_ms - 86_000_000 + n * 86_000_000 // count
        yield encode_scan(time_ms, lane, r.choice(people))


# ---- the two runs -------------------------------------------------------------------------------


def run_words(chosen: argparse.Namespace) -> int:
    load = [round(value, 2) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory(prefix="chot-bench-") as scratch:
        folder = Path(scratch)
        print("filming the lanes ...", flush=True)
        lanes = film_all(chosen.clip_frames)
        floor_ns = floor(folder / "floor")
        line, is_right = chosen.live(chosen, folder, lanes)
        line |= {
            "floor_p50_ms": ms_of(floor_ns, 50), "floor_p99_ms": ms_of(floor_ns, 99),
            "machine": {**machine(), "scratch": path_to_file_system(folder)},
            "versions": versions(), "commit": commit(), "load_average": load,
        }  # fmt: skip
    print(json.dumps(line, ensure_ascii=False))
    if chosen.keep and is_right:
        results.keep(line)
    return 0 if is_right else 1


def verdicts(
    chosen: argparse.Namespace, folder: Path, lanes: list[list[bytes]]
) -> tuple[dict[str, Any], bool]:
    with EngineProcess(folder) as engine:
        *cameras, back_end = engine.enrol([*LANES, BACK_END])
        count = int(chosen.checkins * chosen.seconds)
        made = messages(back_end, OLD, 0, checkins(count, time.time_ns() // 1_000_000))
        links = [
            LaneLink(who, LIVE, LANE_OF[who.name], clip, FPS)
            for who, clip in zip(cameras, lanes, strict=True)
        ]
        records = RecordLink(back_end, OLD, [], made)

        async def drive() -> float:
            for link in (*links, records):
                await connect(link, engine.port)
            for link in (*links, records):
                await link.is_open.wait()
            begun_s = time.monotonic()
            filmed = [asyncio.create_task(link.run(chosen.seconds)) for link in links]
            while records.due < len(made):
                await asyncio.sleep(TICK_S)
                passed_s = time.monotonic() - begun_s
                records.release(int(passed_s * chosen.checkins / BODY) - records.due)
            await asyncio.gather(*filmed)
            await records.is_done.wait()
            await asyncio.sleep(1.0)  # the last frames' verdicts
            return time.monotonic() - begun_s

        seconds, cpu_s, own_s = _driven(engine, drive, (*links, records))
        peak = engine.peak_bytes()
    rows = count_rows(engine.data).get(OLD, 0)
    line = {
        "bench": "verdicts", "checkins_s": chosen.checkins, "seconds": round(seconds, 1),
        "lanes": len(links), "fps": FPS,
        **_lane_facts(links), **waits("receipt", records.waits_ns),
        "engine_cores": round(cpu_s / seconds, 2), "driver_cores": round(own_s / seconds, 2),
        "peak_mb": peak >> 20, "checkins": count, "rows": rows,
    }  # fmt: skip
    return line, rows == count


def backlog(
    chosen: argparse.Namespace, folder: Path, lanes: list[list[bytes]]
) -> tuple[dict[str, Any], bool]:
    with EngineProcess(folder) as engine:
        passes = engine.enrol(list(POSTS))
        now_ms = time.time_ns() // 1_000_000
        share = chosen.scans // len(passes)
        old = [
            RecordLink(who, OLD, [lane], messages(who, OLD, lane, cards(n, share, now_ms)))
            for n, who in enumerate(passes)
            for lane in (LANE_OF[who.name],)
        ]
        live = [
            LaneLink(who, LIVE, LANE_OF[who.name], clip, FPS)
            for who, clip in zip(passes, lanes, strict=False)
        ]
        took_s = 0.0

        async def drive() -> float:
            nonlocal took_s
            for link in (*live, *old):
                await connect(link, engine.port)
            for link in (*live, *old):
                await link.is_open.wait()
            filmed = [asyncio.create_task(link.run(600.0)) for link in live]
            await asyncio.sleep(2.0)
            begun_s = time.monotonic()
            for link in live:
                link.waits_ns.clear()
                link.settled_ns.clear()
            for link in old:
                link.release(len(link.messages))
            await asyncio.gather(*(link.is_done.wait() for link in old))
            took_s = time.monotonic() - begun_s
            for task in filmed:
                task.cancel()
            await asyncio.gather(*filmed, return_exceptions=True)
            await asyncio.sleep(1.0)
            return time.monotonic() - begun_s

        seconds, cpu_s, own_s = _driven(engine, drive, (*live, *old))
        peak = engine.peak_bytes()
    rows = count_rows(engine.data).get(OLD, 0)
    line = {
        "bench": "backlog", "scans": share * len(passes), "took_s": round(took_s, 2),
        "scans_s": round(share * len(passes) / took_s),
        **_lane_facts(live), "engine_cores": round(cpu_s / seconds, 2),
        "driver_cores": round(own_s / seconds, 2), "peak_mb": peak >> 20,
        "rows": rows, "verdicts_of_backlog": sum(link.results for link in old),
    }  # fmt: skip
    return line, rows == share * len(passes)


def _driven(engine: EngineProcess, drive: Any, links: Sequence[Link]) -> tuple[float, float, float]:
    """(seconds, CPU seconds of the engine, of the driver)."""

    async def work() -> float:
        try:
            return float(await drive())
        finally:
            for link in links:
                link.close()
            await asyncio.sleep(0.1)

    cpu_s, own_s = engine.cpu_s(), time.process_time()
    seconds = uvloop.run(work())
    return seconds, engine.cpu_s() - cpu_s, time.process_time() - own_s


def _lane_facts(links: Sequence[LaneLink]) -> dict[str, Any]:
    waits_ns = [wait for link in links for wait in link.waits_ns]
    return {
        "frames": sum(link.sent for link in links),
        "frames_dropped": sum(link.dropped for link in links),
        **waits("verdict", waits_ns),
        **waits("frame_settled", [wait for link in links for wait in link.settled_ns]),
    }


def waits(name: str, waits_ns: list[int]) -> dict[str, Any]:
    shares = {f"{name}_p{share}_ms": ms_of(waits_ns, share) for share in (50, 99, 100)}
    return {f"{name}s": len(waits_ns), **shares}


def ms_of(waits_ns: list[int], share: float) -> float:
    return round(float(np.percentile(waits_ns, share)) / 1e6, 2) if waits_ns else 0.0
