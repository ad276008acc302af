"""`python -m bench run scale`: how cost grows, and what a country would need.

Four curves, each with its slope on a double logarithmic scale: 0 does not grow, 1 grows in
proportion. Visits in journal and index (bench.growth, a process of its own for each number);
gateways that bring the same scans side by side to a real engine; frame sizes and code versions read
by a lane's reader. The projection takes the last point of each and the population; it is a sum on
paper and no measurement.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import segno
import uvloop

from bench import clips, texts
from bench.day_world import write_tables
from bench.decoders import JPEG_BASELINE, door
from bench.decoders import measure as time_readers
from bench.engine_process import EngineProcess, count_rows
from bench.harness import ROOT, SEED, Outcome, Params, Place, Trial
from bench.links import RecordLink, connect
from bench.live import messages, ms_of
from engine.scans.records import encode_scan

SIZES: Final = ((640, 360), (960, 540), (1280, 720), (1920, 1080))
KINDS: Final = ("token", "venue", "card", "1405", "dense")
COUNTRY: Final = 98_000_000  # people of Viet Nam
CHECKINS_A_DAY: Final = 1.6  # of each, as 1 million of a province of 0.63 million
PEAK: Final = 5.0  # the busiest moment by the average of a day
KEPT_DAYS: Final = 30
EPOCH: Final = 1
TIMES: Final = (1, 10, 50, 100)  # as many visits; a hundred million need some 25 GB


def measure(params: Params, place: Place) -> Outcome:
    wrong: list[str] = []
    visits = [grow(params["visits"] * times, wrong) for times in TIMES[: params["steps"]]]
    gateways = [
        bring(count, params["scans"], place, wrong)
        for count in (4**n for n in range(params["gateway_steps"]))
    ]
    curves = [
        curve("visits in journal and index", "visits",
              ("contacts p50 µs", "contacts p99 µs", "history p50 µs", "memory MB"), visits),
        curve("gateways that bring ID cards side by side", "gateways",
              ("scans/s", "receipt p99 ms", "engine µs a scan"), gateways),
        curve("a lane's frame, JPEG to codes, by its size", "pixels",
              ("chot µs", "zxing-cpp µs"), sizes(params["frames"])),
        curve("a held code, by its version", "version",
              ("first read µs", "known again µs"), versions(params["frames"])),
    ]  # fmt: skip
    return Outcome({"curves": curves, "projection": project(visits, gateways[-1])}, wrong)


def curve(
    what: str, by: str, unit_names: Sequence[str], points: list[dict[str, Any]]
) -> dict[str, Any]:
    """slope: of the first value."""
    at = np.log([point["at"] for point in points])
    values = np.log([max(1e-9, point["values"][0]) for point in points])
    slope = float(np.polyfit(at, values, 1)[0]) if len(points) > 1 else None
    return {
        "what": what, "by": by, "unit_names": list(unit_names), "points": points,
        "slope": None if slope is None else round(slope, 2),
    }  # fmt: skip


# ---- visits -------------------------------------------------------------------------------------


def grow(visits: int, wrong: list[str]) -> dict[str, Any]:
    words = [sys.executable, "-m", "bench", "growth", "--visits", str(visits)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        raise RuntimeError(done.stderr)
    line = json.loads(done.stdout.splitlines()[-1])
    if done.returncode:
        wrong.append(f"{visits:,} visits: {line['wrong']} answers are wrong")
    values = [*line["contacts_us"], line["history_us"][0], line["rss_mb"]]
    return {"at": line["visits"], "values": values}


# ---- gateways -----------------------------------------------------------------------------------


def bring(count: int, scans: int, place: Place, wrong: list[str]) -> dict[str, Any]:
    """So many gateways bring as many scans in all as one would."""
    folder = place.scratch / f"gateways-{count}"
    folder.mkdir()
    tables = write_tables(folder / "registry", posts=(count + 2) // 3)
    names = [f"b-{n // 3}-{n % 3 + 1}" for n in range(count)]
    now_ms = time.time_ns() // 1_000_000
    with EngineProcess(folder, tables=tables) as engine:
        links = []
        for n, who in enumerate(engine.enrol(names)):
            lane, r = n % 3 + 1, random.Random(SEED + n)
            share = scans // count
            records = (
                encode_scan(now_ms - 3_600_000 + i, lane, texts.make("card", r))
                for i in range(share)
            )
            links.append(RecordLink(who, EPOCH, [lane], messages(who, EPOCH, lane, records)))

        async def drive() -> float:
            for link in links:
                await connect(link, engine.port)
            for link in links:
                await link.is_open.wait()
            begun_s = time.monotonic()
            for link in links:
                link.release(len(link.messages))
            await asyncio.gather(*(link.is_done.wait() for link in links))
            took_s = time.monotonic() - begun_s
            for link in links:
                link.close()
            await asyncio.sleep(0.1)
            return took_s

        cpu_s = engine.cpu_s()
        took_s = uvloop.run(drive())
        cpu_s = engine.cpu_s() - cpu_s
    sent = scans // count * count
    rows = count_rows(engine.data).get(EPOCH, 0)
    if rows != sent:
        wrong.append(f"{count} gateways: {sent} scans sent, {rows} stored")
    waits_ns = [ns for link in links for ns in link.waits_ns]
    values = [round(sent / took_s), ms_of(waits_ns, 99), round(cpu_s / sent * 1e6, 2)]
    return {"at": count, "values": values}


# ---- frames and codes ---------------------------------------------------------------------------


def sizes(frames: int) -> list[dict[str, Any]]:
    ours = door("JpegLaneReader")
    assert ours is not None
    found = []
    for width, height in SIZES:
        made = clips.film(SEED, frames=frames, width=width, height=height)
        readings = time_readers([ours, JPEG_BASELINE], [clips.to_jpeg(f.luma) for f in made], 3)
        values = [round(float(reading.ns.mean()) / 1e3, 1) for reading in readings]
        found.append({"at": width * height, "values": values})
    return found


def versions(frames: int) -> list[dict[str, Any]]:
    """The first frame of a hold in a reader that knows nothing, and the frames after the fourth."""
    ours = door("LaneReader")
    assert ours is not None
    found: dict[int, list[float]] = {}
    for kind in KINDS:
        made = list(clips.hold(SEED, kind, frames=max(8, frames // 3)))
        text = made[0].shown[0].text
        content: str | bytes = text.decode() if text.isascii() else text
        code = segno.make(content, error=texts.LEVELS[kind], micro=False, boost_error=False)
        planes = [frame.luma for frame in made]
        first = np.mean([time_readers([ours], [plane], 3)[0].ns[0] for plane in planes[:6]])
        held = time_readers([ours], planes, 3)[0].ns[4:].mean()
        values = [round(float(first) / 1e3, 1), round(float(held) / 1e3, 1)]
        found[int(code.version)] = values
    return [{"at": version, "values": values} for version, values in sorted(found.items())]


# ---- on paper -----------------------------------------------------------------------------------


def project(visits: list[dict[str, Any]], gateways: dict[str, Any]) -> dict[str, str]:
    checkins = COUNTRY * CHECKINS_A_DAY
    peak_s = checkins / 86_400 * PEAK
    core_us = gateways["values"][2]
    first, last = visits[0], visits[-1]
    more_mb, more = last["values"][3], last["at"]
    if last is not first:  # without what a process takes that holds nothing
        more_mb, more = more_mb - first["values"][3], more - first["at"]
    visit_bytes = more_mb * (1 << 20) / more
    memory = checkins * KEPT_DAYS * visit_bytes
    return {
        "check-ins a day": f"{checkins / 1e6:.0f} million, {CHECKINS_A_DAY} of each of"
        f" {COUNTRY / 1e6:.0f} million people",
        "at the busiest moment": f"{peak_s:,.0f} a second ({PEAK:.0f} times the average)",
        "cores for them": f"{peak_s * core_us / 1e6:.2g}, at {core_us} µs a scan of an ID card",
        "memory of an index of 30 days": f"{memory / 1e9:,.0f} GB at"
        f" {visit_bytes:.0f} bytes a visit",
    }


TRIAL: Final = Trial(
    name="scale",
    what="visits, gateways, frame sizes and code versions: slopes, and a country on paper",
    params={
        "smoke": {"visits": 4_000, "steps": 1, "scans": 640, "gateway_steps": 2, "frames": 15},
        "small": {"visits": 100_000, "steps": 2, "scans": 64_000, "gateway_steps": 4, "frames": 24},
        "large": {
            "visits": 1_000_000, "steps": 3, "scans": 512_000, "gateway_steps": 4, "frames": 60,
        },
    },
    measure=measure,
)  # fmt: skip
