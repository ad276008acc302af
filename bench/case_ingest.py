"""Ingest: the CPU of a scan from the bytes of its message to durable, on a link of a real server.

Everything is there but sockets and the co-location index: framing, session rules, records, person
keys, verdicts and their frames, the journal on disk and the receipts. Messages go in by groups, and
the next group when all before it has its receipt. `facts` has what the stages take by themselves;
the rest is session, journal and event loop. The peer reads every record in Python, one by one: what
the engine does with all that is not of the common form, and the definition of what comes out.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import numpy as np

from bench.harness import Case, Contender, Params, Place, Round
from bench.workload import FIRST_DAY, FIRST_PLACE
from engine.clock import HOUR_MS, ManualClock, day_to_ms
from engine.identity.keys import DeskKeys, FileKeyRing
from engine.identity.seals import seal
from engine.identity.watch import WatchList
from engine.ingest.candidates import Origin
from engine.ingest.judge import Judge
from engine.ingest.link import Link
from engine.ingest.pipeline import Pipeline
from engine.ingest.server import IngestServer
from engine.registry.access import make_token
from engine.registry.registry import Category, Gateway, Post, Registry, Venue
from engine.scans.dedup import SeenWindow
from engine.scans.records import Credential, encode_checkin, encode_scan, encode_scans
from engine.scans.rows import Direction
from engine.settings import Settings
from engine.storage.group import split_details
from engine.storage.journal_lmdb import LmdbJournal
from engine.telemetry import Metrics
from engine.wire import frames as wire

Group = tuple[int, bytes]  # last sequence number, frames

NOW_MS: Final = day_to_ms(FIRST_DAY) + 12 * HOUR_MS
VENUES: Final = 64
FAMILIES: Final = ("Nguyễn", "Trần", "Lê", "Phạm", "Hồ", "Võ", "Đặng", "Bùi")
MIDDLES: Final = ("Thị", "Văn", "Thị Hồng", "Đức", "Quốc", "Ngọc")
GIVEN: Final = ("Ánh", "Hùng", "Lan", "Quỳnh", "Tuấn", "Ước", "Yến")
ADDRESS: Final = "Thôn Tân Hòa, Xã Vĩnh Chấp, Huyện Vĩnh Linh, Quảng Trị"


def number(i: int) -> str:
    """ID number of the i-th invented person, a woman of some year of the last century."""
    return f"{1 + i // 1000 % 96:03d}1{i // 96_000 % 100:02d}999{i % 1000:03d}"


def checkin(i: int, time_ms: int) -> bytes:
    who = Credential("cccd", number(i))
    return encode_checkin(time_ms, Direction.IN, who, FIRST_PLACE + i * 7 % VENUES)


def card(i: int, time_ms: int) -> bytes:
    """What a lane sees: the payload of an ID card."""
    words = (FAMILIES[i % 8], MIDDLES[i // 8 % 6], GIVEN[i // 48 % 7])
    of_number = number(i)
    birth = f"05{1 + i % 12:02d}19{of_number[4:6]}"
    fields = (of_number, f"{i:09d}", " ".join(words), birth, "Nữ", ADDRESS, "11062021")
    return encode_scan(time_ms, 1 + i % 2, "|".join(fields).encode())


def messages(record: Callable[[int, int], bytes], count: int, records: int) -> list[bytes]:
    """SCANS frames, numbered from 1 on."""
    frames = []
    for m in range(count):
        made = [record(i, NOW_MS + i) for i in range(m * records, (m + 1) * records)]
        frames.append(wire.encode(wire.Scans(seq=m + 1, body=encode_scans(made))))
    return frames


class Carrier:
    """Takes what the link sends: verdicts are kept, a receipt wakes whoever waits for it."""

    def __init__(self) -> None:
        self.verdicts: list[bytes] = []
        self.acked = 0
        self.more = asyncio.Event()

    def write(self, data: bytes) -> None:
        if data[0] == wire.FrameType.ACK:
            self.acked = int.from_bytes(data[8:16], "big")
            self.more.set()
        elif data[0] == wire.FrameType.RESULT:
            self.verdicts.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """What was fed is fed already."""

    resume_reading = close = abort = pause_reading


class Ours(Contender):
    name = "chot"
    note = "native.plain for records of the common form"
    is_native = True
    new_loop: ClassVar[Callable[[], asyncio.AbstractEventLoop]] = asyncio.new_event_loop

    def __init__(
        self, folder: Path, post: str, groups: list[list[Group]], facts: dict[str, int | str]
    ) -> None:
        """post: of the gateway, empty for a back end. groups: by repetition."""
        self._groups = groups
        self._facts = facts
        self._keys = folder / "keys"
        self._keys.mkdir(parents=True, mode=0o700)
        # Person keys that are the same in every run, so that the answer is.
        province = self._keys / "province.key"
        province.touch(0o600)
        province.write_bytes(hashlib.sha256(b"province").digest())
        self._ring = FileKeyRing(self._keys, create=True)
        if not self.is_native:
            self._ring.person_mac = self._ring.vehicle_mac = None
        self._clock = ManualClock(NOW_MS)
        self._registry = Registry()
        self._registry.take(Post(number=1, code="VL", name="Chốt"))
        for n in range(VENUES):
            venue = Venue(number=FIRST_PLACE + n, name=f"Chợ {n}", category=Category.MARKET)
            self._registry.take(venue)
        self._token, digest = make_token()
        self._gateway = Gateway(
            number=1, name="bench", post=post, lanes=(1, 2) if post else (), token_sha256=digest
        )
        self._registry.take(self._gateway)
        self._loop = type(self).new_loop()
        self._journal = LmdbJournal(
            folder / "journal", self._ring, self._clock, floor_bytes=0, limit_bytes=1 << 36
        )
        self._link, self._carrier = self._loop.run_until_complete(self._open())

    def _pipeline(self) -> Pipeline:
        seen = SeenWindow(self._registry.spans())
        judge = Judge(seen, WatchList(self._ring), self._registry.rule)
        settings = Settings()
        return Pipeline(settings, self._clock, self._registry, self._ring, judge, Metrics())

    def _make_server(self) -> IngestServer:
        pool = cast(Any, None)  # no frames here
        return IngestServer(
            Settings(), self._clock, self._registry, self._ring, self._pipeline(), pool,
            self._journal, Metrics(),
        )  # fmt: skip

    def _hello(self) -> wire.Hello:
        return wire.Hello(
            gateway="bench", epoch=7, inst=bytes(8), lanes=list(self._gateway.lanes), next=(1, 1),
            oldest=1, max_frame=wire.BODY_MAX, t0=NOW_MS * 1_000_000, token=self._token,
        )  # fmt: skip

    async def _open(self) -> tuple[Link, Carrier]:
        self._server = self._make_server()
        link, carrier = Link(self._server), Carrier()
        link.enter(carrier, None)
        link.data_received(wire.encode(self._hello()))
        while not link.has_session:
            await asyncio.sleep(0)
        return link, carrier

    def work(self, repetition: int) -> None:
        self._loop.run_until_complete(self._send(self._groups[repetition]))

    async def _send(self, groups: list[Group]) -> None:
        link, carrier = self._link, self._carrier
        for last, frames in groups:
            link.data_received(frames)
            while carrier.acked < last:
                carrier.more.clear()
                await carrier.more.wait()

    def answer(self) -> bytes:
        """Rows and details as they are read back from the journal, and every RESULT frame."""
        if self.is_native:
            self._facts |= self._stages()
        rows, details = self._loop.run_until_complete(self._read_all())
        return b"".join([*rows, *details, *self._carrier.verdicts])

    async def _read_all(self) -> tuple[list[bytes], list[bytes]]:
        desk = DeskKeys(self._keys / "desk")
        rows, details = [], []
        async for group in self._journal.read(0):
            rows.append(group.rows.tobytes())
            sealed = self._journal.read_details(group.lsn)
            plain = desk.open_details(sealed.day, sealed.sealed, sealed.aad)
            details += split_details(plain, sealed.count)
            if group.lsn == self._journal.last_lsn():
                break
        return rows, details

    def _stages(self) -> dict[str, int | str]:
        """CPU of stages alone, nanoseconds a record, each over the messages of one repetition."""
        data = b"".join(frames for _, frames in self._groups[1])
        reader, pipeline = wire.FrameReader(), self._pipeline()
        post = 1 if self._gateway.post else 0
        spent = [time.thread_time_ns()]
        found = cast("list[wire.Scans]", reader.feed(data))
        spent.append(time.thread_time_ns())
        outcomes = []
        for message in found:
            origin = Origin(1, 7, 0, message.seq, message.seq, post, self._gateway.lanes)
            outcomes.append(pipeline.take_records(origin, message.packed, message.body))
        spent.append(time.thread_time_ns())
        for message, outcome in zip(found, outcomes, strict=True):
            for verdict in outcome.verdicts:
                wire.encode_result(0, message.seq, verdict)
        spent.append(time.thread_time_ns())
        count = sum(len(message.entries) for message in found)
        sealed = [seal(self._ring.ingest_public(), message.body, b"") for message in found]
        spent_ns = time.thread_time_ns()
        for body in sealed:
            self._ring.open_ingest(body, b"")
        opening_ns = (time.thread_time_ns() - spent_ns) // count
        names = ("framing_and_records_ns", "pipeline_ns", "result_frames_ns")
        stages = {name: int(ns) // count for name, ns in zip(names, np.diff(spent), strict=True)}
        return {**stages, "opening_if_sealed_ns": opening_ns}

    def close(self) -> None:
        self._loop.run_until_complete(self._shut())
        self._loop.close()

    async def _shut(self) -> None:
        self._link.connection_lost(None)
        await self._server.stop()
        await self._journal.close()


class InPython(Ours):
    name = "python"
    note = "the same engine with every record read by engine.ingest.candidates"
    is_native = False


def set_up(params: Params, place: Place, record: Callable[[int, int], bytes], post: str) -> Round:
    repetitions, groups = params["repetitions"] + 1, params["groups"]
    size = params["messages"]
    frames = messages(record, repetitions * groups * size, params["records"])
    joined = [(at + size, b"".join(frames[at : at + size])) for at in range(0, len(frames), size)]
    by_repetition = [joined[at : at + groups] for at in range(0, len(joined), groups)]
    records = groups * size * params["records"]
    facts: dict[str, int | str] = {"bytes_a_record": len(frames[0]) // params["records"]}
    contenders: list[Contender] = [
        kind(place.scratch / kind.name, post, by_repetition, facts) for kind in (Ours, InPython)
    ]
    return Round(contenders, records, facts=facts)


PARAMS: Final = {
    "smoke": {"groups": 1, "messages": 4, "records": 64, "repetitions": 2},
    "small": {"groups": 16, "messages": 16, "records": 64, "repetitions": 5},
    "large": {"groups": 64, "messages": 16, "records": 64, "repetitions": 9},
}
CHECKINS: Final = Case(
    name="ingest",
    what="check-ins that name a person and a venue by number, from wire to durable, CPU a record",
    unit="record",
    params=PARAMS,
    set_up=lambda params, place: set_up(params, place, checkin, ""),
)
CARDS: Final = Case(
    name="ingest_cards",
    what="ID cards held up in lanes, from wire to durable with their verdicts, CPU a record",
    unit="record",
    params=PARAMS,
    set_up=lambda params, place: set_up(params, place, card, "VL"),
)
SINGLE: Final = Case(
    name="ingest_cards_1",
    what="the same, each card a message by itself, as a lane sends them",
    unit="record",
    params={
        "smoke": {"groups": 1, "messages": 64, "records": 1, "repetitions": 2},
        "small": {"groups": 16, "messages": 64, "records": 1, "repetitions": 5},
        "large": {"groups": 256, "messages": 64, "records": 1, "repetitions": 9},
    },
    set_up=lambda params, place: set_up(params, place, card, "VL"),
)
CASES: Final = (CHECKINS, CARDS, SINGLE)
