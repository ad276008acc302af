"""`python -m bench run core_lanes`: how many 15-frame/s lanes does one core carry?

An engine that may run on one core alone, with one decoding thread, gets 720p JPEG frames of so many
lanes at once; the driver has the other cores. A number of lanes is carried when 99 of 100 verdicts
come within 100 ms, no frame is left out, and the last frame is settled when the clip ends. The
number is doubled until it is not carried, then halved in between. Each step fills and drains by
itself, so that none pays for the one before.
"""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

import numpy as np
import uvloop

from bench import clips
from bench.day_world import write_tables
from bench.engine_process import EngineProcess, Pass
from bench.harness import Outcome, Params, Place, Trial
from bench.links import LaneLink, connect
from bench.live import ms_of

FPS: Final = 15.0
VERDICT_MS: Final = 100.0
CONDITIONS: Final = ("plain", "two", "swap", "dim")


def film(n: int, seed: int, frames: int, width: int, height: int) -> list[bytes]:
    condition = CONDITIONS[n % len(CONDITIONS)]
    made = clips.film(seed + n, condition, frames=frames, width=width, height=height)
    return [clips.to_jpeg(frame.luma) for frame in made]


def measure(params: Params, place: Place) -> Outcome:
    most = params["lanes_max"]
    names = [f"b-{n // 3}-{n % 3 + 1}" for n in range(most)]
    films = [film_of(n, params, place.seed) for n in range(params["clips"])]
    with ProcessPoolExecutor(2) as pool:
        kept = list(pool.map(film, *zip(*films, strict=True)))
    tables = write_tables(place.scratch / "registry", posts=(most + 2) // 3)
    cores = sorted(os.sched_getaffinity(0))
    settings = {"decode_threads": 1}
    steps: list[dict[str, Any]] = []
    with EngineProcess(place.scratch, tables=tables, settings=settings, core=cores[-1]) as engine:
        passes = engine.enrol(names)
        if len(cores) > 1:
            os.sched_setaffinity(0, set(cores[:-1]))
        try:
            lanes = search(
                params["lanes"], most,
                lambda count: is_carried(step(engine, passes[:count], kept, params, steps)),
            )  # fmt: skip
        finally:
            os.sched_setaffinity(0, set(cores))
    best = next((s for s in steps if s["lanes"] == lanes), None)
    wrong = [] if best else [f"not even {params['lanes']} lanes are carried"]
    if lanes == most:
        wrong.append(f"all {most} lanes are carried: the limit was not found")
    figures = {"lanes": lanes, "frames_s": round(lanes * FPS), "steps": steps}
    if best:
        figures |= {name: best[name] for name in ("verdict_p50_ms", "verdict_p99_ms", "core")}
    return Outcome(figures, wrong if params["must_find"] else [])


def film_of(n: int, params: Params, seed: int) -> tuple[int, int, int, int, int]:
    return n, seed, params["clip_frames"], params["width"], params["height"]


def search(first: int, most: int, is_good: Any) -> int:
    """The largest number up to `most` that is good, to a tenth of it; 0 when the first is not.

    is_good: int -> bool; what is good for a number is so for smaller ones.
    """
    good, bad, count = 0, 0, first
    while not bad and good < most:
        if is_good(count):
            good, count = count, min(most, 2 * count)
        else:
            bad = count
    while bad and good and bad - good > max(1, good // 10):
        middle = (good + bad) // 2
        if is_good(middle):
            good = middle
        else:
            bad = middle
    return good


def step(
    engine: EngineProcess,
    passes: list[Pass],
    kept: list[list[bytes]],
    params: Params,
    steps: list[dict[str, Any]],
) -> dict[str, Any]:
    """So many lanes for some seconds. Clips are shared; each lane begins in its own place."""
    r = np.random.Generator(np.random.PCG64(len(passes)))
    links = []
    for n, who in enumerate(passes):
        clip = kept[n % len(kept)]
        at = int(r.integers(len(clip)))
        lane = int(who.name.rpartition("-")[2])
        links.append(LaneLink(who, len(steps) + 1, lane, clip[at:] + clip[:at], FPS))

    async def drive() -> None:
        for link in links:
            await connect(link, engine.port)
        for link in links:
            await link.is_open.wait()
        # Cameras are not in step: each begins at its own moment within a frame's time.
        await asyncio.gather(
            *(run(link, n / len(links) / FPS, params["seconds"]) for n, link in enumerate(links))
        )
        await asyncio.sleep(params["settle_s"])  # for frames still on their way
        for link in links:
            link.close()
        await asyncio.sleep(0.1)

    cpu_s, own_s = engine.cpu_s(), time.process_time()
    uvloop.run(drive())
    cpu_s, own_s = engine.cpu_s() - cpu_s, time.process_time() - own_s
    waits_ns = [ns for link in links for ns in link.waits_ns]
    settled_ns = [ns for link in links for ns in link.settled_ns]
    found = {
        "lanes": len(links),
        "frames": sum(link.sent for link in links),
        "dropped": sum(link.dropped for link in links),
        "unsettled": sum(link.sent for link in links) - len(settled_ns),
        "verdicts": len(waits_ns),
        "verdict_p50_ms": ms_of(waits_ns, 50),
        "verdict_p99_ms": ms_of(waits_ns, 99),
        "frame_settled_p99_ms": ms_of(settled_ns, 99),
        "core": round(cpu_s / params["seconds"], 2),
        "driver_core": round(own_s / params["seconds"], 2),
    }
    steps.append(found)
    return found


def is_carried(found: dict[str, Any]) -> bool:
    return (
        found["verdicts"] > 0
        and found["verdict_p99_ms"] <= VERDICT_MS
        and not found["dropped"]
        and not found["unsettled"]
    )


async def run(link: LaneLink, delay_s: float, seconds: float) -> None:
    await asyncio.sleep(delay_s)
    await link.run(seconds)


TRIAL: Final = Trial(
    name="core_lanes",
    what="how many 15-frame/s lanes of 720p JPEG one core carries at verdict p99 <= 100 ms",
    params={
        "smoke": {
            "lanes": 1, "lanes_max": 2, "seconds": 2, "settle_s": 1, "clips": 1, "clip_frames": 20,
            "width": 640, "height": 360, "must_find": 0,
        },
        "small": {
            "lanes": 8, "lanes_max": 256, "seconds": 6, "settle_s": 3, "clips": 2,
            "clip_frames": 90, "width": 1280, "height": 720, "must_find": 1,
        },
        "large": {
            "lanes": 16, "lanes_max": 512, "seconds": 15, "settle_s": 3, "clips": 6,
            "clip_frames": 120, "width": 1280, "height": 720, "must_find": 1,
        },
    },
    measure=measure,
)  # fmt: skip
