"""`python -m bench answers`: a tracer asks a real engine over HTTP while check-ins come at a rate.

Both processes of the engine run on loopback with their store on a disk; the tracer is a process of
its own and asks who was there, where somebody was and whom they met, one question after the other,
each a connection, a role and an audit record that is durable before the answer. At the end the same
questions are asked of what has settled and compared with plain sums (bench.day_oracle); a wrong
answer, or a row too few or too many, is exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from bench import results
from bench.day_oracle import Tracer
from bench.day_world import Checkins, checkins, to_messages, write_tables
from bench.engine_process import EngineProcess, count_rows
from bench.harness import SEED, commit, machine, path_to_file_system, versions
from bench.links import RecordLink, connect
from bench.live import BODY, TICK_S, ms_of, waits
from bench.receipt import floor
from engine.clock import DAY_MS, ms_to_day

VENUES: Final = 2_000
BACK_END: Final = "venue-app"
GRANT: Final = "cdc-truy-vet"
EPOCH: Final = 1
FEW: Final = 20  # contacts of an answer
ROWS_OF_PEAK: Final = 0.58  # of bench.day_world.checkins: rows by seconds and peak


def add_parser(actions: Any) -> None:
    words = actions.add_parser("answers", help="questions over HTTP beside check-ins")
    words.add_argument("--checkins", type=int, default=20_000, help="a second")
    words.add_argument("--seconds", type=float, default=30.0)


def run_words(chosen: argparse.Namespace) -> int:
    load = [round(value, 2) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory(prefix="chot-bench-") as scratch:
        folder = Path(scratch)
        floor_ns = floor(folder / "floor")
        line, wrong = measure(chosen, folder)
        line |= {
            "floor_p50_ms": ms_of(floor_ns, 50), "floor_p99_ms": ms_of(floor_ns, 99),
            "wrong": wrong, "machine": {**machine(), "scratch": path_to_file_system(folder)},
            "versions": versions(), "commit": commit(), "load_average": load,
        }  # fmt: skip
    print(json.dumps(line, ensure_ascii=False))
    if chosen.keep and not wrong:
        results.keep(line)
    return 1 if wrong else 0


def measure(chosen: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    tables = write_tables(folder / "registry", venues=VENUES)
    yesterday = ms_to_day(time.time_ns() // 1_000_000 - DAY_MS)
    world = checkins(chosen.seconds / ROWS_OF_PEAK, chosen.checkins, VENUES, SEED, yesterday)
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other,
        EngineProcess(folder, tables=tables, with_api=True) as engine,
    ):
        token = engine.token(GRANT)
        (back_end,) = engine.enrol([BACK_END])
        link = RecordLink(back_end, EPOCH, [], to_messages(back_end, EPOCH, world.rows))
        cpu_s = engine.cpu_s()
        asked = uvloop.run(_drive(chosen, engine, link, other, token, world))
        cpu_s = engine.cpu_s() - cpu_s
        figures, wrong = other.submit(ask_at_the_end, engine.api, token, world).result()
    rows = count_rows(engine.data).get(EPOCH, 0)
    if rows != len(world.rows):
        wrong.append(f"{len(world.rows)} check-ins sent, {rows} stored")
    seconds = asked.pop("seconds")
    line = {
        "bench": "answers", "checkins_s": round(len(world.rows) / seconds),
        "seconds": round(seconds, 1), **asked, **waits("receipt", link.waits_ns),
        "engine_cores": round(cpu_s / seconds, 2), "checkins": len(world.rows), "rows": rows,
        "answers_checked": figures["answers_checked"],
    }  # fmt: skip
    return line, wrong


async def _drive(
    chosen: argparse.Namespace,
    engine: EngineProcess,
    link: RecordLink,
    other: Executor,
    token: str,
    world: Checkins,
) -> dict[str, Any]:
    """What the tracer took, and the seconds until all was durable."""
    await connect(link, engine.port)
    await link.is_open.wait()
    asking = asyncio.get_running_loop().run_in_executor(
        other, ask_beside, engine.api, token, world, len(world.rows) / chosen.checkins
    )
    begun_s = time.monotonic()
    while link.due < len(link.messages):
        await asyncio.sleep(TICK_S)
        passed_s = time.monotonic() - begun_s
        link.release(int(passed_s * chosen.checkins / BODY) - link.due)
    await link.is_done.wait()
    seconds = time.monotonic() - begun_s
    found = await asking
    link.close()
    await asyncio.sleep(0.1)
    return {**found, "seconds": seconds}


# ---- in the other process -----------------------------------------------------------------------


def ask_beside(url: str, token: str, world: Checkins, seconds: float) -> dict[str, Any]:
    """Asks for so long."""
    tracer = Tracer(url, token, world, SEED)
    threading.Timer(seconds, tracer.stop).start()
    tracer.run()
    found = tracer.figures()
    p50, p99 = np.percentile(tracer.contacts, (50, 99))
    listed = zip(tracer.took_ns["contacts"], tracer.contacts, strict=True)
    found |= waits("few_contacts_question", [took_ns for took_ns, count in listed if count <= FEW])
    return {name: value for name, value in found.items() if "_question" in name} | {
        "questions_failed": tracer.failed, "contacts_p50": float(p50), "contacts_p99": float(p99),
    }  # fmt: skip


def ask_at_the_end(url: str, token: str, world: Checkins) -> tuple[dict[str, Any], list[str]]:
    tracer = Tracer(url, token, world, SEED)
    tracer.ask_at_the_end()
    return tracer.figures(), tracer.wrong
