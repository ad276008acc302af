"""`python -m bench run day`: a working day of the province, pressed into minutes.

Seven gateways, each a process of its own, stream 720p JPEG lanes to a real engine: three a post on
Highway 1A, one on the Hồ Chí Minh road, whose box decodes itself. Venues check in at up to 20,000 a
second. A tracer asks who was there, where somebody was and whom they met all the while, and runs a
notice. One post loses its link and then the back end of the venues does; later the engine is killed
with -9. At the end everything must be there once: bench.day_oracle decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.day_oracle import Ended, Tracer, check
from bench.day_world import BODY, FPS, LANES, Loop, checkins, film_all, to_messages, write_tables
from bench.engine_process import EngineProcess, cpu_s, peak_bytes
from bench.harness import ROOT, Outcome, Params, Place, Trial
from bench.links import ComingLink
from bench.live import waits
from bench.relay import Heard, Relay
from engine.client import api_client as client
from engine.clock import DAY_MS, ms_to_day
from engine.decoding.images import split_mjpeg

BACK_END: Final = "venue-app"
BACK_END_EPOCH: Final = 1
AT_THE_BOX: Final = "vl-hcm-1"  # decodes itself
GRANT: Final = "cdc-truy-vet"
TICK_S: Final = 0.01
DRAIN_S: Final = 240.0
STAGES: Final = {
    "decode": ("chot_decode_seconds_total", "chot_frames_decoded_total"),
    "commit": ("chot_journal_commit_seconds_total", "chot_journal_commits_total"),
}

# When things happen, as shares of the run. The engine is killed on the way down from the peak.
POST_AWAY: Final = (0.20, 0.30)
VENUES_AWAY: Final = (0.40, 0.45)
KILLED_AT: Final = 0.65


@dataclass(slots=True)
class Box:
    """A gateway process, its camera, and the relay between it and the engine."""

    name: str
    relay: Relay
    camera: subprocess.Popen[bytes]
    process: subprocess.Popen[bytes]
    cpu_s: float = 0.0

    def stats(self) -> dict[str, Any]:
        """What it says when it has ended. Raises RuntimeError when it did not end well."""
        out, _ = self.process.communicate(timeout=DRAIN_S)
        if self.process.returncode:
            raise RuntimeError(f"gateway {self.name} ended with {self.process.returncode}")
        found: dict[str, Any] = json.loads(out.splitlines()[-1])["stats"]
        return found


@dataclass(slots=True)
class Used:
    """What processes took, over an engine that was killed and its successor."""

    engine_s: float = 0.0
    api_s: float = 0.0
    engine_peak: int = 0
    api_peak: int = 0
    metrics: Counter[str] = field(default_factory=Counter)

    def read(self, engine: EngineProcess) -> None:
        """Before the engine ends, or is ended."""
        api = engine.api_pid()
        self.engine_s += engine.cpu_s()
        self.api_s += cpu_s(api)
        self.engine_peak = max(self.engine_peak, engine.peak_bytes())
        self.api_peak = max(self.api_peak, peak_bytes(api))
        for line in client.get_text(engine.api + "/metrics").splitlines():
            name, _, value = line.rpartition(" ")
            if not line.startswith("#"):
                with contextlib.suppress(ValueError):
                    self.metrics[name.partition("{")[0]] += float(value)  # type: ignore[assignment]

    def stages(self) -> dict[str, dict[str, float]]:
        """Seconds of each stage, and microseconds of one."""
        found = {}
        for stage, (spent, count) in STAGES.items():
            seconds = self.metrics[spent]
            each_us = seconds / max(1, self.metrics[count]) * 1e6
            found[stage] = {"seconds": round(seconds, 2), "each_us": round(each_us, 1)}
        return found


def measure(params: Params, place: Place) -> Outcome:
    folder = place.scratch
    seconds = float(params["seconds"])
    tables = write_tables(folder / "registry", venues=params["venues"])
    yesterday = ms_to_day(time.time_ns() // 1_000_000 - DAY_MS)
    world = checkins(seconds, params["peak_s"], params["venues"], place.seed, yesterday)
    names = list(LANES)[:: params["lane_step"]]
    loops = film_all(
        folder, names, place.seed, params["clip_frames"], params["width"], params["height"]
    )
    with EngineProcess(folder, tables=tables, with_api=True) as engine:
        token = engine.token(GRANT)
        files = engine.gateway_files(names, folder)
        (back_end,) = engine.enrol([BACK_END])
        messages = to_messages(back_end, BACK_END_EPOCH, world.rows)
        link = ComingLink(back_end, BACK_END_EPOCH, [], messages, engine.port)
        tracer = Tracer(engine.api, token, world, place.seed)
        run = Day(engine, folder, loops, files, link, world.due_s.tolist(), tracer, seconds)
        took_s = uvloop.run(run.drive())
        tracer.ask_at_the_end()
        tracer.ask_of_passages(loops, run.frames)
        run.used.read(engine)
    truth, wrong = check(Ended(engine.data, world, loops, run.frames, run.stats, AT_THE_BOX))
    figures = {"peak_checkins_s": world.peak_s, **run.figures(took_s), **tracer.figures(), **truth}
    return Outcome(figures, tracer.wrong + wrong)


class Day:
    """The run: who comes when, and what was heard of it."""

    def __init__(
        self,
        engine: EngineProcess,
        folder: Path,
        loops: list[Loop],
        files: Mapping[str, str],
        link: ComingLink,
        due_s: list[float],
        tracer: Tracer,
        seconds: float,
    ) -> None:
        self.used = Used()
        self.frames = int(seconds * FPS)
        self.stats: dict[str, dict[str, Any]] = {}
        self.down_s = 0.0
        self.backlogs_s: dict[str, float] = {}
        self.due: list[int] = []  # check-ins that came, and had a receipt, by the end of a second
        self.durable: list[int] = []
        self.away_s: list[tuple[float, float]] = []  # when somebody had no link, or no engine
        self._engine, self._folder = engine, folder
        self._loops = {loop.name: loop for loop in loops}
        self._files = files
        self._link, self._due_s = link, due_s
        self._tracer, self._seconds = tracer, seconds
        self._boxes: dict[str, Box] = {}
        self._heard: dict[str, Heard] = {}
        self._own_s = 0.0
        self._load: list[float] = []

    async def drive(self) -> float:
        """Seconds until all was durable."""
        own_s = time.process_time()
        for name in self._loops:
            relay = Relay(self._engine.port)
            await relay.start()
            self._boxes[name] = self._start(name, relay)
        await self._link.open()
        await self._link.is_open.wait()
        while not all(box.relay.heard.links for box in self._boxes.values()):
            await asyncio.sleep(TICK_S)
        begun_s = time.monotonic()
        counting = asyncio.create_task(self._count(begun_s))
        asking = threading.Thread(target=self._tracer.run)
        asking.start()
        try:
            events = asyncio.gather(
                self._post_away(begun_s), self._venues_away(begun_s), self._killed(begun_s)
            )
            while self._link.due < len(self._due_s):
                await asyncio.sleep(TICK_S)
                passed_s = time.monotonic() - begun_s
                count = 0
                while (
                    self._link.due + count < len(self._due_s)
                    and self._due_s[self._link.due + count] <= passed_s
                ):
                    count += 1
                if count:
                    self._link.release(count)
            await events
            await asyncio.wait_for(self._link.is_done.wait(), DRAIN_S)
            await self._end_of_boxes()
            took_s = time.monotonic() - begun_s
        finally:
            counting.cancel()
            self._tracer.stop()
            await asyncio.to_thread(asking.join)
            self._link.close()
            for box in self._boxes.values():
                for process in (box.camera, box.process):
                    if process.poll() is None:
                        process.kill()
        self._own_s = time.process_time() - own_s
        return took_s

    def _start(self, name: str, relay: Relay) -> Box:
        """The camera is `cat`, which the gateway reads as fast as its frames are due."""
        loop = self._loops[name]
        text = re.sub(r"^(url = .*:)\d+", rf"\g<1>{relay.port}", self._files[name], flags=re.M)
        if name == AT_THE_BOX:
            text = 'decode = "gateway"\n' + text
        path = self._folder / f"{name}.toml"
        path.touch(0o600)
        path.write_text(text, encoding="utf-8")
        times, rest = divmod(self.frames, loop.frames)
        parts = [str(loop.path)] * times
        if rest:
            parts.append(str(_head(loop.path, rest)))
        with (self._folder / f"{name}.log").open("wb") as errors:
            camera = subprocess.Popen(["cat", *parts], stdout=subprocess.PIPE)
            process = subprocess.Popen(
                [sys.executable, "-m", "engine", "gateway", "run", str(path),
                 "--frames", "-", "--fps", str(FPS)],
                stdin=camera.stdout, stdout=subprocess.PIPE, stderr=errors,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        assert camera.stdout is not None
        camera.stdout.close()
        return Box(name, relay, camera, process)

    async def _count(self, begun_s: float) -> None:
        while True:
            self.due.append(self._link.due * BODY)
            self.durable.append(self._link.acked * BODY)
            await asyncio.sleep(begun_s + len(self.due) - time.monotonic())

    # ---- what goes wrong ------------------------------------------------------------------------

    async def _until(self, begun_s: float, share: float) -> None:
        await asyncio.sleep(max(0.0, begun_s + share * self._seconds - time.monotonic()))

    async def _post_away(self, begun_s: float) -> None:
        away = [box.relay for name, box in self._boxes.items() if LANES[name][0] == "VL-1A"]
        await self._until(begun_s, POST_AWAY[0])
        for relay in away:
            relay.cut()
        await self._until(begun_s, POST_AWAY[1])
        for relay in away:
            relay.mend()
        self.away_s.append((POST_AWAY[0] * self._seconds, POST_AWAY[1] * self._seconds))

    async def _venues_away(self, begun_s: float) -> None:
        await self._until(begun_s, VENUES_AWAY[0])
        self._link.cut()
        await self._until(begun_s, VENUES_AWAY[1])
        self.away_s.append((VENUES_AWAY[0] * self._seconds, VENUES_AWAY[1] * self._seconds))
        behind, back_s = self._link.due, time.monotonic()
        await self._link.open()
        while self._link.acked < behind:
            await asyncio.sleep(TICK_S)
        self.backlogs_s["venues"] = round(time.monotonic() - back_s, 2)

    async def _killed(self, begun_s: float) -> None:
        await self._until(begun_s, KILLED_AT)
        await asyncio.to_thread(self.used.read, self._engine)
        killed_s = time.monotonic()
        self._engine.kill()
        await asyncio.to_thread(self._engine.start)
        self.down_s = time.monotonic() - killed_s
        self.away_s.append((killed_s - begun_s, killed_s - begun_s + self.down_s))

    async def _end_of_boxes(self) -> None:
        """Each ends by itself when all its frames are durable."""
        boxes = self._boxes.values()
        are_running = True
        while are_running:
            for box in boxes:
                # Of one that has ended the system tells until poll() has asked for its status.
                box.cpu_s = max(box.cpu_s, cpu_s(box.process.pid))
            are_running = any(box.process.poll() is None for box in boxes)
            await asyncio.sleep(0.05)
        for name, box in self._boxes.items():
            self.stats[name] = await asyncio.to_thread(box.stats)
            box.camera.wait()
            self._heard[name] = box.relay.heard
            await box.relay.stop()

    # ---- what came of it ------------------------------------------------------------------------

    def figures(self, took_s: float) -> dict[str, Any]:
        heard = list(self._heard.values())
        decoded = self.used.metrics["chot_frames_decoded_total"]
        receipts_ns, late_ns = self._link.waits_by_late()
        boxes_s = sum(box.cpu_s for box in self._boxes.values())
        disk = sum(p.stat().st_blocks * 512 for p in self._engine.data.rglob("*") if p.is_file())
        return {
            "took_s": round(took_s, 1),
            "lanes": len(self._boxes),
            "fps": FPS,
            "frames": self.frames * len(self._boxes),
            "frames_decoded_s": round(decoded / took_s, 1),
            "frames_dropped": sum(stats["frames_dropped"] for stats in self.stats.values()),
            "checkins": len(self._due_s) * BODY,
            "links": sum(each.links for each in heard) + self._link.links,
            "resent": self._link.resent
            + sum(s["scans_resent"] + s["frames_resent"] for s in self.stats.values()),
            **waits("verdict", [ns for each in heard for ns in each.waits_ns]),
            **waits("verdict_of_backlog", [ns for each in heard for ns in each.late_ns]),
            **waits("frame_settled", [ns for each in heard for ns in each.settled_ns]),
            **waits("receipt", receipts_ns),
            **waits("receipt_of_backlog", late_ns),
            "venues_backlog_s": self.backlogs_s["venues"],
            "engine_down_s": round(self.down_s, 2),
            "cpu_s": {
                "engine": round(self.used.engine_s, 1), "api": round(self.used.api_s, 1),
                "gateways": round(boxes_s, 1), "driver": round(self._own_s, 1),
            },
            "engine_cores": round(self.used.engine_s / took_s, 2),
            "stages": self.used.stages(),
            "peak_mb": {
                "engine": self.used.engine_peak >> 20, "api": self.used.api_peak >> 20,
            },
            "disk_mb": round(disk / 1e6, 1),
            "timeline": {
                "due": [b - a for a, b in pairwise(self.due)],
                "durable": [b - a for a, b in pairwise(self.durable)],
                "away_s": [[round(s, 1) for s in away] for away in self.away_s],
            },
            "journal_bytes_a_row": round(
                self.used.metrics["chot_journal_bytes_total"]
                / max(1, self.used.metrics["chot_journal_rows_total"]), 1
            ),
        }  # fmt: skip


def _head(path: Path, frames: int) -> Path:
    """The first frames of a clip, as a clip."""
    some = path.with_suffix(".head.mjpeg")
    images = list(split_mjpeg(path.read_bytes()))[:frames]
    some.write_bytes(b"".join(images))
    return some


TRIAL: Final = Trial(
    name="day",
    what="a working day of the posts and the venues, with outages and a kill, to the last receipt",
    params={
        "smoke": {
            "seconds": 6, "peak_s": 1_000, "venues": 40, "lane_step": 3, "clip_frames": 15,
            "width": 640, "height": 360,
        },
        "small": {
            "seconds": 40, "peak_s": 5_000, "venues": 500, "lane_step": 1, "clip_frames": 45,
            "width": 1280, "height": 720,
        },
        "large": {
            "seconds": 200, "peak_s": 20_000, "venues": 3_000, "lane_step": 1, "clip_frames": 90,
            "width": 1280, "height": 720,
        },
    },
    measure=measure,
)  # fmt: skip
