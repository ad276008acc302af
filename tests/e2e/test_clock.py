"""Gateways whose clock is off: what becomes of the times of their scans."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.scans.rows import Flag
from engine.wire import frames as wire
from tests.e2e.rig import (
    EngineProcess,
    RawLink,
    Stored,
    fresh_person,
    hello,
    job,
    person_scan,
    read_store,
    scans,
    until,
)

HOUR_S = 3600
LANE = "vl-1a-1"


class Box(RawLink):
    """A gateway whose clock is `off_s` seconds ahead."""

    def __init__(self, engine: EngineProcess, off_s: float, **changes: Any) -> None:
        super().__init__(engine.port)
        self.off_ns = round(off_s * 1e9)
        self.send(hello(LANE, **{"t0": self.now_ns(), **changes}))
        assert isinstance(self.next(), wire.Welcome)
        self.answer_ping()

    def now_ns(self) -> int:
        return time.time_ns() + self.off_ns

    def answer_ping(self) -> None:
        ping = self.wait_for(wire.Ping)
        now_ns = self.now_ns()
        self.send(wire.Pong(t0=ping.t0, t1=now_ns, t2=now_ns))

    def scan(self, seq: int, ago_s: float = 0) -> None:
        at_ms = self.now_ns() // 1_000_000 - round(ago_s * 1000)
        self.send(scans(seq, person_scan(fresh_person(), at_ms=at_ms)))
        self.settled(0, seq)


@contextlib.contextmanager
def stored_after(
    folder: Path, *, with_api: bool = False
) -> Iterator[tuple[EngineProcess, list[Stored]]]:
    """The engine, and after it what it stored."""
    found: list[Stored] = []
    with job(folder / "job", settings={"retention_days": 30}, with_api=with_api) as made:
        yield made.engine, found
        assert made.engine.stop() == 0
        found.append(read_store(made.engine.data))


@pytest.mark.parametrize("off_s", [HOUR_S, -9 * HOUR_S], ids=["ahead", "behind"])
def test_a_clock_that_is_off_is_corrected(tmp_path: Path, off_s: int) -> None:
    """Ahead by more than clock_ahead_max_s it was refused; now nobody is missed."""
    with stored_after(tmp_path, with_api=True) as (engine, found):
        with Box(engine, off_s, epoch=1) as box:
            box.scan(1)
            until(lambda: engine.metric("chot_gateway_clock_offset_seconds", gateway=LANE) != 0)
            offset_s = engine.metric("chot_gateway_clock_offset_seconds", gateway=LANE)
            assert abs(offset_s - off_s) < 5
            correction_s = engine.metric("chot_gateway_clock_correction_seconds", gateway=LANE)
            assert correction_s % 1 == 0 and abs(correction_s - offset_s) <= 5
            newest_s = engine.metric("chot_gateway_newest_scan_seconds", gateway=LANE)
            assert abs(newest_s - time.time()) < 60
        assert engine.metric("chot_times_corrected") == 1
    (row,) = found[0].rows
    assert abs(row["time_ms"] / 1000 - time.time()) < 60
    assert row["flags"] & Flag.CLOCK_CORRECTED


def test_a_clock_within_the_limit_is_believed_to_the_millisecond(tmp_path: Path) -> None:
    with stored_after(tmp_path) as (engine, found), Box(engine, 1.0) as box:
        at_ms = box.now_ns() // 1_000_000
        box.send(scans(1, person_scan(fresh_person(), at_ms=at_ms)))
        box.settled(0, 1)
    (row,) = found[0].rows
    assert row["time_ms"] == at_ms and not row["flags"]


def test_older_records_follow_the_clock_that_made_them(tmp_path: Path) -> None:
    """Off by an hour all along; then the clock is set while the link is down."""
    with stored_after(tmp_path, with_api=True) as (engine, found):
        with Box(engine, HOUR_S, epoch=1, next=(3, 1)) as box:
            box.scan(1, ago_s=600)  # nobody remembers another offset: the present one
            box.scan(2, ago_s=300)
            box.scan(3)
        with Box(engine, HOUR_S, epoch=1, next=(5, 1)) as box:
            box.scan(4, ago_s=200)  # the same before and after the break
            box.scan(5)
        with Box(engine, 0, epoch=1, next=(7, 1)) as box:
            box.scan(6, ago_s=60)  # made somewhere in between
            box.scan(7)
            assert engine.metric("chot_times_unsure") == 1
    rows = found[0].rows
    flags = [int(Flag.CLOCK_CORRECTED)] * 5 + [int(Flag.CLOCK_UNSURE), 0]
    assert sorted(rows["flags"].tolist()) == sorted(flags)
    now_ms = time.time() * 1000
    assert all(now_ms - 700_000 < row["time_ms"] < now_ms + 5000 for row in rows)


def test_a_copy_of_a_record_is_one_row_whatever_the_clock_did(tmp_path: Path) -> None:
    """The receipt was lost and the engine killed: the copy comes under another offset."""
    with stored_after(tmp_path) as (engine, found):
        with Box(engine, HOUR_S, epoch=1) as box:
            box.scan(1)
        engine.kill()
        engine.start()
        with Box(engine, 0, epoch=1, next=(2, 1)) as box:
            at_ms = box.now_ns() // 1_000_000
            box.send(scans(1, person_scan(fresh_person(), at_ms=at_ms), flags=wire.FLAG_RESEND))
            box.settled(0, 1)
    assert len(found[0].rows) == 1


def test_a_client_without_a_clock_is_not_corrected(tmp_path: Path) -> None:
    """t0 and t1 of 0, answers to no question and answers that cannot be."""
    with stored_after(tmp_path) as (engine, found), RawLink(engine.port) as link:
        link.send(hello(LANE, t0=0))
        ping = link.wait_for(wire.Ping)
        far_ns = time.time_ns() + HOUR_S * 1_000_000_000
        link.send(wire.Pong(t0=ping.t0 + 1, t1=far_ns, t2=far_ns))
        link.send(wire.Pong(t0=ping.t0, t1=far_ns, t2=far_ns - 5_000_000))
        link.send(wire.Pong(t0=ping.t0, t1=far_ns, t2=far_ns))
        at_ms = time.time_ns() // 1_000_000
        link.send(scans(1, person_scan(fresh_person(), at_ms=at_ms)))
        link.settled(0, 1)
    (row,) = found[0].rows
    assert row["time_ms"] == at_ms and not row["flags"]


def test_a_clock_that_is_set_between_two_pings_refuses_nobody(tmp_path: Path) -> None:
    """A box without a battery comes with an old time, and finds its time server a moment later."""
    with stored_after(tmp_path, with_api=True) as (engine, found):
        with Box(engine, -9 * HOUR_S, epoch=1) as box:
            box.scan(1)
            box.off_ns = 0
            box.scan(2)  # the engine does not know yet
            box.answer_ping()
            box.scan(3)
        assert engine.metric("chot_times_corrected") == 1
        assert engine.metric("chot_times_unsure") == 1
        assert engine.metric("chot_refused", reason="clock") == 0
    now_ms = time.time() * 1000
    assert all(abs(row["time_ms"] - now_ms) < 60_000 for row in found[0].rows)
    flags = [int(Flag.CLOCK_CORRECTED), int(Flag.CLOCK_UNSURE), 0]
    assert sorted(found[0].rows["flags"].tolist()) == sorted(flags)
