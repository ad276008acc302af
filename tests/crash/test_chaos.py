"""Everything at once, against an exact oracle: nothing lost, nothing doubled, every rule exercised.

A real engine and real gateways behind a proxy that cuts, delays, silences and replays links. Both
ends are killed with -9 at every named step of engine/faults.py and at random, one gateway starts
again on a copy of its spool beside the original, one has a spool that overflows.

The oracle does not ask the programs what they believe. What was captured stands in the spools,
which keep it for a day, and on the wire; both are opened with the engine's ingest key. The store
must hold exactly that, each record once, but for what LOST named. A run in which a rule never
happened proves nothing about it, so each is counted on the wire, and one that is missing fails.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import lmdb
import msgspec
import numpy as np
import pytest

from engine import faults, wire
from engine.clock import SystemClock
from engine.gateway.spool_epoch import HEAD, KEY
from engine.keys import FileKeyRing
from engine.records import ENTRY, decode_scans
from engine.story import Person
from tests.crash.wiretap import Wiretap
from tests.e2e.rig import (
    ROOT,
    WAIT_S,
    EngineProcess,
    RawLink,
    enrolment,
    fresh_person,
    lane_name,
    read_store,
    scans,
    until,
)

SETTINGS = {"heartbeat_s": 1, "scan_credit": 16}
TINY = 65_536  # bytes of a spool that will not hold its outage
STEP_S = 5.0  # a step that was not reached by then is tried again later
CHAOS_MAX_S = 120.0  # a busy machine is no failure
PAUSE_S = 0.015  # between two lines of a gateway's feed
Number = tuple[str, int, int]  # gateway, epoch, sequence number

# What has to be seen on the wire. Counts are of messages and links, see wiretap.Session.
RULES = {
    "resume": "1: WELCOME names what is durable, sending goes on behind it",
    "resend": "1: what had no receipt came again, with the same bytes",
    "drop": "2: numbers that were received before are dropped, the receipt is repeated",
    "error_4": "2: a gap is refused",
    "ack": "3: receipts",
    "at_limit": "4: a gateway stood at its limit",
    "error_3": "5: a newer link took the place of an older one",
    "several_epochs": "6: two epochs of one gateway at once",
    "live_before_backlog": "6: a live scan went out while a backlog waited",
    "error_9": "7: a spool behind its own numbers",
    "lost_overflow": "LOST",
    "PING": "9: heartbeats",
    "PONG": "9: heartbeats",
    "GOAWAY": "draining",
    "BYE": "draining",
    "NACK": "a record that cannot be taken is named",
    "fault_cut": "links cut",
    "fault_late": "bytes that came after the link's successor",
    "fault_replay": "sessions said again",
    "fault_silence": "links that fell silent",
}

AT_THE_END = {"GOAWAY", "BYE", "error_4"}


class Feed:
    """Lines for the gateways: every record of the run has a time of its own."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._people: list[Person] = [fresh_person() for _ in range(40)]
        self._times = itertools.count(SystemClock().now_ms() - 3_600_000)

    def line(self, lane: int) -> bytes:
        if self._rng.random() < 0.002:
            at_ms = SystemClock().now_ms() + 3_600_000  # refused: from the future
        else:
            at_ms = next(self._times)
        person = self._rng.choice(self._people)
        record = {"kind": "scan", "ts_ms": at_ms, "lane": lane, "payload": person.payload}
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"


class Box:
    """A gateway on a spool, killed and started again; a thread feeds each of its lives."""

    def __init__(self, folder: Path, lane: int, port: int, feed: Feed, *, label: str = "") -> None:
        self.name = lane_name(lane)
        self.lane = lane
        self.folder = folder / (label or self.name)
        self.folder.mkdir()
        self.config = enrolment().gateway_file(self.name, self.folder, port)
        self.spool = self.folder / f"spool-{self.name}"
        self.step = ""
        self.began_s = 0.0
        self.pause_s = PAUSE_S
        self.process: subprocess.Popen[bytes] | None = None
        self._feed = feed
        self._feeder: threading.Thread | None = None
        self._is_over = False

    def write(self, key: str, value: object) -> None:
        """Before the tables of the file, where its own keys stand."""
        self.config.write_text(f"{key} = {value}\n" + self.config.read_text())

    def start(self, step: str = "", count: int = 1) -> None:
        self.step, self.began_s = step, time.monotonic()
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        if step:
            env["CHOT_KILL_AT"] = f"{step}:{count}"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine", "gateway", "run", str(self.config),
                 "--records", "-"],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=env,
            )  # fmt: skip
        self._feeder = threading.Thread(target=self._run_feed, args=(self.process,), daemon=True)
        self._feeder.start()

    def _run_feed(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            while not self._is_over:
                process.stdin.write(self._feed.line(self.lane))
                process.stdin.flush()
                time.sleep(self.pause_s)
        with contextlib.suppress(OSError):
            process.stdin.close()

    @property
    def is_dead(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(WAIT_S)

    def finish(self) -> None:
        """No more records; until all is durable."""
        assert self.process is not None and self._feeder is not None
        self._is_over = True
        self._feeder.join(WAIT_S)
        assert self.process.wait(WAIT_S) == 0, self.log_text()

    def log_text(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")


class Chaos:
    """One run: who is killed when, until every step has happened."""

    def __init__(self, folder: Path, seed: int, steps: set[str]) -> None:
        self.rng = random.Random(seed)
        self.wanted = steps
        self.steps: Counter[str] = Counter()
        self.kills = 0
        self.folder = folder
        self.engine = EngineProcess(enrolment().copy_to(folder), settings=SETTINGS, with_api=False)
        self.tap = Wiretap(lambda: self.engine.port, seed)
        self.feed = Feed(seed)
        self.boxes: list[Box] = []
        self._left = {
            "gateway": [step for step in faults.GATEWAY_STEPS if step in steps],
            "engine": [step for step in faults.ENGINE_STEPS if step in steps],
        }
        for left in self._left.values():
            self.rng.shuffle(left)
        self._engine_step = ""
        self._engine_began_s = 0.0
        self._copied: tuple[int, int, float] | None = None  # epoch, its next number, until when

    def run(self) -> None:
        try:
            with self.tap:
                self._start_engine()
                self.boxes = [Box(self.folder, n, self.tap.port, self.feed) for n in (1, 2, 3)]
                self.boxes[1].write("spool_size_max", TINY)
                self.boxes[1].pause_s = 0.001
                # What comes while the engine is not to be reached must overflow the second.
                self.tap.refuses.add(self.boxes[1].name)
                for box in self.boxes:
                    self._start(box)
                self._disturb()
                self._calm()
        finally:
            for box in self.boxes:
                if not box.is_dead:
                    box.kill()
            if self.engine.process is not None and self.engine.process.poll() is None:
                self.engine.kill()

    def _disturb(self) -> None:
        end_s = time.monotonic() + CHAOS_MAX_S
        rules = self.tap.heard.rules
        while (
            missing := (self.wanted | RULES.keys()) - AT_THE_END - rules.keys() - self.steps.keys()
        ):
            assert time.monotonic() < end_s, missing
            time.sleep(0.03)
            self._watch_engine()
            for box in self.boxes:
                self._watch(box)
            self._watch_copy()
            if self.boxes[1].name in self.tap.refuses and self._overflowed():
                self.tap.refuses.clear()
                self.boxes[1].pause_s = PAUSE_S

    def _overflowed(self) -> bool:
        state = read_spool(self.boxes[1].spool).state
        return bool(state and state["lost_count"])

    def _copy(self, box: Box) -> None:
        """A copy of the third spool as it lies there after a kill, with something that waits."""
        if box is not self.boxes[2] or self._copied is not None:
            return
        for number, epoch in read_spool(box.spool).epochs.items():
            if epoch["acked"] + 1 < epoch["next"] and not epoch["is_closed"]:
                shutil.rmtree(self.folder / "copied", ignore_errors=True)
                shutil.copytree(
                    box.spool, self.folder / "copied", ignore=shutil.ignore_patterns("*.sock")
                )
                self._copied = number, epoch["next"], time.monotonic() + STEP_S

    def _watch_copy(self) -> None:
        """The copy starts beside the original when that has gone on in the same epoch."""
        if self._copied is None or len(self.boxes) > 3:
            return
        number, after, until_s = self._copied
        third = self.boxes[2]
        if self.tap.heard.acked.get((third.name, number), 0) >= after:
            copy = Box(self.folder, third.lane, self.tap.port, self.feed, label="copy")
            shutil.copytree(self.folder / "copied", copy.spool)
            self.boxes.append(copy)
            self._start(copy)
        elif time.monotonic() > until_s:
            self._copied = None

    # ---- gateways -------------------------------------------------------------------------------

    def _start(self, box: Box) -> None:
        left = self._left["gateway"]
        step = left.pop() if left else ""
        is_rare = step in ("uplink.hello", "uplink.welcome", "spool.turned")
        box.start(step, 1 if is_rare else self.rng.randrange(2, 12))

    def _watch(self, box: Box) -> None:
        if not box.is_dead:
            age_s = time.monotonic() - box.began_s
            if age_s < STEP_S or self.rng.random() > 0.05:
                return
            box.kill()
            if box.step:
                self._left["gateway"].insert(0, box.step)
                box.step = ""
        self._count(box)
        self._copy(box)
        self._start(box)

    def _count(self, box: Box) -> None:
        assert box.process is not None
        assert box.process.returncode == -signal.SIGKILL, box.log_text()
        self.kills += 1
        if box.step:
            self.steps[box.step] += 1

    # ---- the engine -----------------------------------------------------------------------------

    def _start_engine(self) -> None:
        left = self._left["engine"]
        self._engine_step = left.pop() if left else ""
        count = 2 if self._engine_step == "streams.opened" else self.rng.randrange(5, 60)
        self.engine.env = (
            {"CHOT_KILL_AT": f"{self._engine_step}:{count}"} if self._engine_step else {}
        )
        self.engine.start()
        self._engine_began_s = time.monotonic()

    def _watch_engine(self) -> None:
        assert self.engine.process is not None
        if self.engine.process.poll() is None:
            age_s = time.monotonic() - self._engine_began_s
            if age_s < STEP_S or self.rng.random() > 0.02:
                return
            if self._engine_step:
                self._left["engine"].insert(0, self._engine_step)
                self._engine_step = ""
        self.engine.kill()
        assert self.engine.process.returncode == -signal.SIGKILL, self.engine.log_text()
        self.kills += 1
        if self._engine_step:
            self.steps[self._engine_step] += 1
        self._start_engine()

    # ---- the end --------------------------------------------------------------------------------

    def _calm(self) -> None:
        self.tap.is_calm = True
        until(lambda: self.tap.calm_links > 0)
        assert self.engine.stop() == 0  # GOAWAY to all that are linked
        self.engine.env = {}
        self.engine.start()
        with RawLink(self.engine.port) as link:  # no gateway of ours leaves a gap
            link.hello(lane_name(1))
            link.send(scans(5))
            assert link.error_code() == 4
            self.tap.heard.rules["error_4"] += 1
        for box in self.boxes:
            if box.is_dead or box.step:
                if not box.is_dead:
                    box.kill()
                box.start()
        for box in self.boxes:
            box.finish()
        assert self.engine.stop() == 0


# ---- the oracle -----------------------------------------------------------------------------


class SpoolRead:
    """A spool's tables, read without its code. epochs: what is known of each; bodies: sealed, by
    epoch and number."""

    def __init__(self, state: dict[str, int] | None) -> None:
        self.state = state
        self.epochs: dict[int, dict[str, int]] = {}
        self.bodies: dict[tuple[int, int], bytes] = {}


def read_spool(path: Path) -> SpoolRead:
    found = SpoolRead(None)
    with contextlib.suppress(lmdb.Error):
        env = lmdb.open(
            str(path), readonly=True, lock=False, max_dbs=5, lib_version=0, create=False
        )
        try:
            tables = [env.open_db(name, create=False) for name in (b"meta", b"epochs", b"records")]
            with env.begin() as txn:
                raw = txn.get(b"state", db=tables[0])
                found.state = msgspec.msgpack.decode(raw) if raw else None
                orders = {}
                for key, value in txn.cursor(db=tables[1]):
                    epoch = msgspec.msgpack.decode(bytes(value))
                    orders[int.from_bytes(key, "big")] = epoch["epoch"]
                    found.epochs[epoch["epoch"]] = epoch
                for key, value in txn.cursor(db=tables[2]):
                    order, seq = KEY.unpack(key)
                    found.bodies[orders[order], seq] = bytes(value)[HEAD.size :]
        finally:
            env.close()
    return found


def check(chaos: Chaos) -> None:
    heard = chaos.tap.heard
    assert heard.breaches == []
    stored = read_store(chaos.engine.data)
    ring = FileKeyRing(chaos.engine.data / "keys")

    bodies: dict[Number, bytes] = dict(heard.bodies)
    captured: dict[Number, bytes] = {}
    for box in chaos.boxes:
        spool = read_spool(box.spool)
        for (epoch, seq), body in spool.bodies.items():
            number = box.name, epoch, seq
            # The copy and the original hold the same, and the wire carried the same.
            assert bodies.setdefault(number, body) == body
            captured[number] = body
        for epoch, known in spool.epochs.items():
            for seq in range(1, known["next"]):
                number = box.name, epoch, seq
                assert number in bodies or number in heard.lost, f"{number} is nowhere"
            assert heard.acked.get((box.name, epoch), 0) >= known["next"] - 1, "no receipt"

    def times(wanted: dict[Number, bytes]) -> list[int]:
        found: list[int] = []
        for (name, epoch, seq), body in wanted.items():
            plain = ring.open_ingest(body, wire.seal_aad(name, epoch, seq))
            packed, fault = decode_scans(plain)
            assert fault == -1
            found += map(int, np.frombuffer(packed, ENTRY)["time_ms"])
        return found

    now_ms = SystemClock().now_ms()
    must = [
        t for t in times({n: b for n, b in bodies.items() if n not in heard.lost}) if t < now_ms
    ]
    may = {t for t in times({n: b for n, b in bodies.items() if n in heard.lost}) if t < now_ms}
    assert len(set(must)) == len(must), "one record under two numbers"
    rows = Counter(map(int, stored.rows["time_ms"]))
    doubled = [t for t, count in rows.items() if count > 1]
    lost = [t for t in must if t not in rows]
    made_up = set(rows) - set(must) - may
    assert (len(doubled), len(lost), len(made_up)) == (0, 0, 0)
    # The numbers themselves: runs of a stream follow each other without gap or overlap.
    ends: dict[tuple[int, int], int] = {}
    seen: set[tuple[int, int, int]] = set()
    for run in (run for group in stored.groups for run in group.runs):
        key = int(run["gateway"]), int(run["epoch"])
        for seq in range(int(run["first"]), int(run["last"]) + 1):
            seen.add((*key, seq))
        ends[key] = max(ends.get(key, 0), int(run["last"]))
    assert len(seen) == sum(ends.values())
    assert len(must) > 200


STEPS = (*faults.GATEWAY_STEPS, *faults.ENGINE_STEPS)


def chaos(folder: Path, seed: int, steps: tuple[str, ...] = STEPS) -> None:
    folder.mkdir()
    made = Chaos(folder, seed, set(steps))
    made.run()
    check(made)
    assert set(made.steps) == set(steps)
    missing = [f"{rule} ({RULES[rule]})" for rule in RULES if not made.tap.heard.rules[rule]]
    assert not missing, "not exercised"
    for text in (made.engine.log_text(), *(box.log_text() for box in made.boxes)):
        assert "Traceback" not in text


@pytest.mark.parametrize("seed", [1, 2])
def test_chaos(tmp_path: Path, seed: int) -> None:
    """The two share the steps; each start of a process costs a second."""
    chaos(tmp_path / "run", seed, STEPS[seed - 1 :: 2])


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3, 13))
def test_more_chaos(tmp_path: Path, seed: int) -> None:
    chaos(tmp_path / "run", seed)
