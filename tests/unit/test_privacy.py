"""What keeps people's data from showing, and one sender from silencing the others.

Each test stands for a way in or out that was tried by hand once: sealing and its bindings,
forgetting on a full disk, small counts, words for terminals and logs, rights that ended, floods.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import logging
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from engine import app, telemetry
from engine.api.opened_details import OpenedDetails
from engine.cli import demo
from engine.client import api_client as client
from engine.clock import DAY_MS, ManualClock, day_to_ms
from engine.colocation.alerts import Alerts
from engine.colocation.figures import PASSAGE_FIGURE, PLACE_FIGURE
from engine.desk.desk import suppress
from engine.desk.questions import SUPPRESSED
from engine.errors import (
    JournalCorrupt,
    KeyDestroyed,
    SealBroken,
    StorageFull,
    WireAuth,
    WireMalformed,
    WireUnknownGateway,
)
from engine.identity import seals
from engine.identity.keys import DeskKeys, FileKeyRing
from engine.identity.watch import WatchList
from engine.ingest.judge import Judge
from engine.ingest.link import TURN_MESSAGES, Link
from engine.ingest.pipeline import STEP_PLAIN, STEP_RECORDS, Pipeline
from engine.ingest.server import IngestServer
from engine.keeping.forget_list import ForgetList
from engine.keeping.holds import Holds
from engine.keeping.retention import Retention
from engine.registry.access import is_case, make_token
from engine.registry.registry import Gateway, Post, Registry
from engine.scans.dedup import SeenWindow, Spans
from engine.scans.records import encode_scan, encode_scans
from engine.scans.rows import ROW
from engine.settings import Settings
from engine.storage import group
from engine.storage.control_lmdb import ControlLog
from engine.storage.journal import MemoryJournal, Part, RecordBatch, Run
from engine.storage.journal_lmdb import LmdbJournal
from engine.telemetry import Log, Metrics
from engine.wire import frames as wire

DAY = 18_809
NOW_MS = day_to_ms(DAY) + 12 * 3_600_000
PLAINTEXT = b"Nguyen Thi Hong Anh 045190999001"
CARD = "045190999001|123456789|Nguyễn Thị Hồng Ánh|17051990|Nữ|Thôn Bình An|01012021".encode()


@pytest.fixture
def ring(tmp_path: Path) -> FileKeyRing:
    return FileKeyRing(tmp_path / "keys", create=True)


# ---- seals --------------------------------------------------------------------------------------


def draft(day: int = DAY) -> group.Draft:
    row = np.zeros(1, ROW)
    row["person"] = np.void(b"PERSON-KEY-HERE!")
    row["time_ms"] = day_to_ms(day)
    made = group.Draft(day, NOW_MS)
    made.runs.append(group.pack_run(1, 7, 0, 1, 1, 0, 1))
    made.rows.append(row.tobytes())
    made.details.append(group.pack_details([PLAINTEXT]))
    made.has_details = True
    return made


def test_the_same_group_is_never_sealed_twice_alike(ring: FileKeyRing) -> None:
    """An LSN is used again after a failed commit, so the nonce cannot come from it."""
    made = [group.bytes_to_raw(group.seal_group(draft(), 1, bytes(32), ring)[0]) for _ in range(64)]
    assert len({raw.nonce for raw in made}) == 64
    assert len({raw.sealed_rows for raw in made}) == 64
    assert len({raw.details_sealed[33:45] for raw in made}) == 64  # nonces
    assert not {raw.nonce for raw in made} & {raw.details_sealed[33:45] for raw in made}


def test_every_bit_of_the_head_is_bound_to_the_rows(ring: FileKeyRing) -> None:
    """Whoever can write the file and its checksums still cannot move rows to another run or day."""
    data = group.seal_group(draft(), 5, bytes(32), ring)[0]
    assert len(group.bytes_to_group(data, ring).rows) == 1
    ring.log_key(DAY ^ 1)
    head_end = group.HEADER_SIZE + group.RUN.itemsize
    lsn, day, arrival, run = 8, 16, 40, group.HEADER_SIZE
    for at in (lsn, day, arrival, run, run + 8, run + 16, head_end - 1):
        forged = bytearray(data)
        forged[at] ^= 1
        plain = bytearray(forged[:head_end])
        plain[5], plain[60:64] = 0, bytes(4)
        forged[60:64] = struct.pack("<I", zlib.crc32(plain, forged[5]))
        with pytest.raises(JournalCorrupt):
            group.bytes_to_group(bytes(forged), ring)


def test_details_open_for_their_group_only(ring: FileKeyRing, tmp_path: Path) -> None:
    raw = group.bytes_to_raw(group.seal_group(draft(), 5, bytes(32), ring)[0])
    desk = DeskKeys(tmp_path / "keys" / "desk")
    assert PLAINTEXT in desk.open_details(DAY, raw.details_sealed, group.details_aad(5, DAY, 1))
    for wrong in ((6, DAY, 1), (5, DAY + 1, 1), (5, DAY, 2)):
        with pytest.raises(SealBroken):
            desk.open_details(DAY, raw.details_sealed, group.details_aad(*wrong))


@given(
    st.tuples(
        st.from_regex(r"[0-9A-Za-z._-]{1,32}", fullmatch=True),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
    ),
    st.tuples(
        st.from_regex(r"[0-9A-Za-z._-]{1,32}", fullmatch=True),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
    ),
)
def test_two_deliveries_never_share_a_binding(
    one: tuple[str, int, int], other: tuple[str, int, int]
) -> None:
    assert (wire.seal_aad(*one) == wire.seal_aad(*other)) == (one == other)


def test_a_link_in_the_desks_folder_is_not_followed(tmp_path: Path) -> None:
    """That folder may belong to the API's user, who must not write through the engine's hands."""
    ring = FileKeyRing(tmp_path / "keys", create=True)
    province = tmp_path / "keys" / "province.key"
    before = province.read_bytes()
    desk = tmp_path / "keys" / "desk"
    (desk / f".{DAY}.details.key.tmp").symlink_to(province)
    ring.details_public(DAY)
    assert province.read_bytes() == before
    assert (desk / f"{DAY}.details.key").stat().st_mode & 0o777 == 0o600


# ---- forgetting ---------------------------------------------------------------------------------


def test_a_copy_of_the_store_dies_with_the_keys(ring: FileKeyRing, tmp_path: Path) -> None:
    clock = ManualClock(NOW_MS)
    path = tmp_path / "journal"

    async def write() -> None:
        journal = LmdbJournal(path, ring, clock, floor_bytes=0)
        made = draft()
        part = Part(DAY, made.rows[0], made.details[0])
        await journal.append(RecordBatch(Run(1, 7, 0, 1, 1), [part]))
        await journal.close()

    asyncio.run(write())
    copy = (path / "000001" / "data.mdb").read_bytes()
    key, desk_key = ring.log_key(DAY), (tmp_path / "keys/desk" / f"{DAY}.details.key").read_bytes()
    assert b"PERSON-KEY-HERE!" not in copy and PLAINTEXT not in copy

    async def forget() -> None:
        journal = LmdbJournal(path, ring, clock, floor_bytes=0)
        assert await journal.expire(day_to_ms(DAY + 1)) == 1
        with pytest.raises(KeyDestroyed):
            journal.read_details(1)
        await journal.close()

    asyncio.run(forget())
    for file in (f for f in tmp_path.rglob("*") if f.is_file()):
        content = file.read_bytes()
        assert key not in content and desk_key not in content, file
    (path / "000001" / "data.mdb").write_bytes(copy)

    async def read_again() -> group.Group:
        journal = LmdbJournal(path, FileKeyRing(tmp_path / "keys"), clock, floor_bytes=0)
        found = await anext(aiter(journal.read(0)))
        await journal.close()
        return found

    found = asyncio.run(read_again())
    assert found.is_expired and not len(found.rows) and not found.details_sealed
    with pytest.raises(KeyDestroyed):
        DeskKeys(tmp_path / "keys/desk").open_details(DAY, b"", b"")


@dataclasses.dataclass
class FullJournal:
    """Destroys keys and then finds no room to empty the groups, twice."""

    calls: int = 0

    async def expire(self, before_ms: int, held: object = ()) -> int:
        self.calls += 1
        if self.calls < 3:
            raise StorageFull("no space")
        return 1


class NotedIndex:
    def __init__(self) -> None:
        self.forgot: list[int] = []

    def expire(self, before_ms: int, held: object = ()) -> int:
        self.forgot.append(before_ms)
        return 0


def retention_of(journal: FullJournal, index: NotedIndex, clock: ManualClock, path: Path) -> Any:
    return Retention(
        cast(Any, journal),
        index,
        clock,
        30,
        ring=cast(Any, SimpleNamespace(days=list)),
        holds=Holds(cast(Any, None)),
        days_of=lambda persons: (),
        forget_list=ForgetList(path / "forgotten.jsonl"),
    )


def test_on_a_full_disk_the_index_forgets_all_the_same(tmp_path: Path) -> None:
    index = NotedIndex()
    clock = ManualClock(NOW_MS)
    retention = retention_of(FullJournal(), index, clock, tmp_path)
    for _ in range(2):
        with pytest.raises(StorageFull):
            asyncio.run(retention.run())
    assert asyncio.run(retention.run()).groups == 1
    assert index.forgot == [day_to_ms(DAY - 30)]  # once a day, not at every look
    clock.advance(DAY_MS)
    asyncio.run(retention.run())
    assert index.forgot[1:] == [day_to_ms(DAY - 29)]


def test_forgetting_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(app, "FORGET_S", 0.001)
    journal = FullJournal()
    clock = ManualClock(NOW_MS)

    async def drop_records(lsns: list[int]) -> None:
        assert lsns == []

    engine = SimpleNamespace(
        retention=retention_of(journal, NotedIndex(), clock, tmp_path),
        derivation=SimpleNamespace(alerts=Alerts(), reviews=Alerts()),
        keeping=SimpleNamespace(
            erasures=SimpleNamespace(drop_before=lambda ms: None), drop_over=lambda ms, held: []
        ),
        eraser=SimpleNamespace(drop_records=drop_records),
        keyring=SimpleNamespace(retire=lambda now_ms: None),
        clock=clock,
    )

    async def work() -> None:
        task = asyncio.create_task(app.Engine._forget(cast(Any, engine)))
        for _ in range(2000):
            await asyncio.sleep(0.001)
            if journal.calls > 4:
                break
        assert not task.done()
        task.cancel()

    asyncio.run(work())
    assert journal.calls > 4


def test_opened_details_go_without_being_asked_for() -> None:
    clock = ManualClock(NOW_MS)
    opened = OpenedDetails(clock)
    opened.put(1, [PLAINTEXT])
    clock.advance(200_000)
    opened.put(2, [PLAINTEXT])
    clock.advance(101_000)
    opened.drop_old()
    assert list(opened._groups) == [2]
    assert opened.get(1) is None and opened.get(2) == [PLAINTEXT]
    clock.advance(300_000)
    opened.drop_old()
    assert not opened._groups and not opened._size


def test_a_record_of_who_asked_stays_although_the_asker_left(tmp_path: Path) -> None:
    async def work() -> int:
        control = ControlLog(tmp_path / "control", floor_bytes=0)
        task = asyncio.create_task(control.append("audit", "who", b"body", 1))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        control.close()
        control = ControlLog(tmp_path / "control", floor_bytes=0)
        last = control.last_lsn()
        control.close()
        return last

    assert asyncio.run(work()) == 1


# ---- what is shown ------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 12)), min_size=1, max_size=9
    ),
    st.lists(st.integers(0, 12), min_size=3, max_size=3),
)
def test_no_hidden_count_follows_from_those_that_show(
    lanes: list[tuple[int, int, int]], persons: list[int]
) -> None:
    lanes = list({(place, lane): (place, lane, n) for place, lane, n in lanes}.values())
    passages = np.zeros(len(lanes), PASSAGE_FIGURE)
    places = np.zeros(3, PLACE_FIGURE)
    places["place"], places["persons"] = [1, 2, 3], persons
    for slot, (place, lane, count) in zip(passages, lanes, strict=True):
        slot["place"], slot["lane"], slot["count"] = place, lane, count
        places["passages"][place - 1] += count
    suppress(places, passages)
    for row in places:
        of_place = passages["count"][passages["place"] == row["place"]]
        if row["persons"] == SUPPRESSED:
            assert row["passages"] == SUPPRESSED and (of_place == SUPPRESSED).all()
        if (of_place == SUPPRESSED).any():
            assert row["passages"] == SUPPRESSED  # else the sum gives the hidden one away
        assert ((of_place == SUPPRESSED) | (of_place >= 5)).all()


@pytest.mark.parametrize(
    "case", ["0912.999.123", "0912-999-123", "045190-999001", "04/51/90/99/90/01"]
)
def test_separators_do_not_make_a_case_of_a_persons_number(case: str) -> None:
    assert not is_case(case)


@pytest.mark.parametrize("case", ["NguyenThiHongAnh", "Tran.Van-A", "Đ/c"])
def test_a_name_is_no_case(case: str) -> None:
    assert not is_case(case)


STEERING = "\x1b\x9b\x07\u202e\u200f\u2066\x7f\u2028"


def test_names_steer_no_terminal_in_any_format() -> None:
    person = {"person": "a" * 26, "name": f"A{STEERING}=1", "phone": "", "doc": ""}
    visit = {
        "person": "a" * 26,
        "name": person["name"],
        "place": 1,
        "place_name": f"\x01={STEERING}",
        "start": "2021-07-01T08:00",
        "end": "2021-07-01T08:00",
        "minutes": 1.0,
        "end_rule": "default",
        "room": 0,
        "direction": "in",
        "scans": 1,
        "is_passage": False,
    }
    answer = {
        "persons": [person],
        "visits": [visit],
        "total": 1,
        "limit_cut": False,
        "area": "",
        "complete": {"up_to": "x", "behind": {}},
        "elapsed_us": 1,
        "audit": 1,
    }
    for form in ("table", "csv", "json"):
        text = client.render("venue", answer, form).removeprefix("\ufeff")
        assert not set(STEERING) & set(text), form
    assert msgspec.json.decode(client.render("venue", answer, "json")) == answer


def test_markup_in_a_name_is_not_obeyed_by_the_demo(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, color_system=None)
    run = demo.Demo(tmp_path, tmp_path, tmp_path, console)
    name = "[/] [red]Chợ[link=http://x]"
    visit = {
        "name": name,
        "person": "a" * 26,
        "place_name": name,
        "end_rule": "default",
        "start": "2021-07-01T08:00:00",
        "end": "2021-07-01T08:00:00",
    }
    answer = {
        "visits": [visit],
        "total": 1,
        "limit_cut": False,
        "elapsed_us": 1,
        "audit": 1,
        "complete": {"up_to": "2021-07-01T08:00:00", "behind": {}},
    }
    run._show_visits("who?", answer, most=3)
    assert name in out.getvalue()


def test_a_log_line_is_one_line_of_text(caplog: pytest.LogCaptureFixture) -> None:
    chot = logging.getLogger("chot")
    propagates, chot.propagate = chot.propagate, True
    try:
        with caplog.at_level(logging.INFO, "chot"):
            Log("x").info("event", name="a\x1b[2J\x9b\r\nb\u2028c")
    finally:
        chot.propagate = propagates
    # Another test may have left a handler on the way up, then the line is here twice.
    assert set(caplog.messages) == {'event name="a [2J   b c"'}


def test_an_exception_nobody_took_is_told_without_its_words(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    chot = logging.getLogger("chot")
    propagates, chot.propagate = chot.propagate, True

    async def work() -> None:
        loop = asyncio.get_running_loop()
        telemetry.log_faults(loop)

        def fail() -> None:
            raise ValueError(PLAINTEXT.decode())

        loop.call_soon(fail)
        await asyncio.sleep(0.01)

    try:
        asyncio.run(work())
    finally:
        chot.propagate = propagates
    assert "problem=ValueError" in caplog.text
    assert "999001" not in caplog.text + "".join(capfd.readouterr())


# ---- one sender and the others ------------------------------------------------------------------


class Wire:
    """A carrier that notes what left and whether its peer is read."""

    def __init__(self) -> None:
        self.messages: list[wire.Message] = []
        self.is_reading = True
        self.is_closing = False
        self._reader = wire.FrameReader()

    def write(self, data: bytes) -> None:
        self.messages += self._reader.feed(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.is_closing = True

    abort = close

    def of(self, kind: type[Any]) -> list[Any]:
        return [m for m in self.messages if isinstance(m, kind)]


class Door:
    """An ingest server without sockets."""

    def __init__(self, ring: FileKeyRing, **settings: Any) -> None:
        self.clock = ManualClock(NOW_MS)
        self.next_seq = 1
        self.registry = Registry()
        self.token, digest = make_token()
        self.gateway = Gateway(number=1, name="vl", post="VL", lanes=(1,), token_sha256=digest)
        for change in (Post(number=1, code="VL", name="Chốt"), self.gateway):
            self.registry.take(change)
        made = Settings(**settings)
        metrics = Metrics()
        judge = Judge(SeenWindow([Spans(0, 60_000)]), WatchList(ring), self.registry.rule)
        pipeline = Pipeline(made, self.clock, self.registry, ring, judge, metrics)
        self.server = IngestServer(
            made, self.clock, self.registry, ring, pipeline, cast(Any, None),
            MemoryJournal(ring, self.clock), metrics,
        )  # fmt: skip

    def hello(self, token: str | None = None, epoch: int = 7) -> wire.Hello:
        return wire.Hello(
            gateway="vl", epoch=epoch, inst=bytes(8), lanes=[], next=(self.next_seq, 1), oldest=1,
            max_frame=wire.BODY_MAX, t0=0, token=token or self.token,
        )  # fmt: skip

    async def open(self, epoch: int = 7) -> tuple[Link, Wire]:
        link, out = Link(self.server), Wire()
        link.enter(out, None)
        link.data_received(wire.encode(self.hello(epoch=epoch)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert out.of(wire.Welcome)
        return link, out


@pytest.fixture
def door(ring: FileKeyRing) -> Door:
    return Door(ring, heartbeat_s=1)


# Of the same person; not of the common form, so that every record of it comes to Python.
ODD_CARD = CARD.replace("Nữ".encode(), "NỮ".encode())


def scans(seq: int, count: int, card: bytes = ODD_CARD) -> bytes:
    body = encode_scans([encode_scan(NOW_MS - n, 1, card) for n in range(count)])
    return wire.encode(wire.Scans(seq=seq, body=body))


@pytest.mark.parametrize(
    ("card", "count", "step"), [(ODD_CARD, 640, STEP_RECORDS), (CARD, 4096, STEP_PLAIN)]
)
def test_a_large_body_leaves_turns_to_others(
    door: Door, card: bytes, count: int, step: int
) -> None:
    """CP-3: no lane waits for another; and what follows the body keeps its place behind it."""

    async def work() -> None:
        link, out = await door.open()
        turns = 0
        link.data_received(scans(1, count, card) + scans(2, 1) + wire.encode(wire.Ping(5)))
        while not out.of(wire.Result):
            assert not out.is_reading
            await asyncio.sleep(0)
            turns += 1
        assert turns >= count // step - 1
        for _ in range(50):
            await asyncio.sleep(0)
        assert [m.seq for m in out.of(wire.Result)] == [1] * count + [2]
        assert out.of(wire.Ack)[-1].seq == 2
        assert out.of(wire.Pong) and out.is_reading
        link.connection_lost(None)

    asyncio.run(work())


def test_a_link_that_ends_amid_a_large_body_loses_nothing(door: Door) -> None:
    async def work() -> None:
        link, _ = await door.open()
        link.data_received(scans(1, 640))
        link.connection_lost(None)
        _, out = await reopen()
        assert out.of(wire.Welcome)[-1].acked[0] == 1

    async def reopen() -> tuple[Link, Wire]:
        link, out = Link(door.server), Wire()
        link.enter(out, None)
        hello = msgspec.structs.replace(door.hello(), next=(2, 1))
        link.data_received(wire.encode(hello))
        for _ in range(200):
            await asyncio.sleep(0)
        link.connection_lost(None)
        return link, out

    asyncio.run(work())


def test_a_flood_of_small_messages_leaves_turns_to_others(door: Door) -> None:
    async def work() -> None:
        link, out = await door.open()
        link.data_received(wire.encode(wire.Ping(5)) * 10 * TURN_MESSAGES)
        assert len(out.of(wire.Pong)) == TURN_MESSAGES and not out.is_reading
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(out.of(wire.Pong)) == 10 * TURN_MESSAGES and out.is_reading
        link.connection_lost(None)

    asyncio.run(work())


class SlowClock(ManualClock):
    """Half a millisecond passes with every look at it."""

    look_ns = 500_000

    def monotonic_ns(self) -> int:
        self.looks = getattr(self, "looks", 0) + 1
        return self.looks * self.look_ns


def test_a_backlog_that_is_dear_gets_shorter_turns(door: Door) -> None:
    async def work() -> None:
        link, out = await door.open()
        door.server.clock = SlowClock(NOW_MS)
        link.data_received(wire.encode(wire.Ping(5)) * 40)
        assert 1 <= len(out.of(wire.Pong)) <= 4 and not out.is_reading
        for _ in range(60):
            await asyncio.sleep(0)
        assert len(out.of(wire.Pong)) == 40 and out.is_reading
        link.connection_lost(None)

    asyncio.run(work())


def test_a_hello_that_takes_a_whole_turn_opens_its_session(door: Door) -> None:
    """The end of a WebSocket's message waits for the next turn; it is nothing that follows."""

    async def work() -> None:
        clock = SlowClock(NOW_MS)
        clock.look_ns = 5_000_000
        door.server.clock = clock
        link, out = Link(door.server), Wire()
        link.enter(out, None)
        link.message_received(wire.encode(door.hello()))
        for _ in range(20):
            await asyncio.sleep(0)
        assert out.of(wire.Welcome) and not out.of(wire.Error)
        link.connection_lost(None)

    asyncio.run(work())


def test_a_fault_behind_a_large_body_does_not_overtake_it(door: Door) -> None:
    async def work() -> None:
        link, out = await door.open()
        link.data_received(scans(1, 40) + b"\xff" * 64)
        for _ in range(20):
            await asyncio.sleep(0)
        kinds = [type(m) for m in out.messages if not isinstance(m, wire.Ack | wire.Ping)]
        assert kinds == [wire.Welcome, *[wire.Result] * 40, wire.Error]
        assert out.is_closing
        link.connection_lost(None)

    asyncio.run(work())


def test_a_replaced_token_ends_the_session_too(door: Door) -> None:
    """Handing out a new token takes the right from whoever holds the old one, now and not later."""

    async def work() -> None:
        link, out = await door.open()
        beat = asyncio.create_task(door.server._heartbeat())
        door.registry.take(msgspec.structs.replace(door.gateway, token_sha256=make_token()[1]))
        while not out.of(wire.Error):
            await asyncio.sleep(0.02)
        assert out.of(wire.Error)[0].code == WireAuth.wire and out.is_closing
        beat.cancel()
        link.connection_lost(None)

    asyncio.run(asyncio.wait_for(work(), 20))


def test_a_gateway_whose_time_is_over_opens_no_session(door: Door) -> None:
    assert door.server.check_hello(door.hello()) == door.gateway
    ended = msgspec.structs.replace(door.gateway, valid_to_ms=NOW_MS)
    door.registry.take(ended)
    with pytest.raises(WireUnknownGateway):
        door.server.check_hello(door.hello())


def test_a_gateway_with_lanes_of_others_is_not_let_in(door: Door) -> None:
    """Scans of those lanes would be refused one by one and be gone; outside they wait."""
    mine = list(door.gateway.lanes)
    for lanes in ([], mine, [0, *mine]):
        door.server.check_hello(msgspec.structs.replace(door.hello(), lanes=lanes))
    with pytest.raises(WireMalformed, match=r"lanes 77, 78\Z"):
        door.server.check_hello(msgspec.structs.replace(door.hello(), lanes=[*mine, 77, 78]))


@pytest.mark.parametrize("token", ["x", "x" * 256, "é"])
def test_a_wrong_token_opens_nothing(door: Door, token: str) -> None:
    with pytest.raises(WireAuth):
        door.server.check_hello(door.hello(token))


def test_a_gateway_without_a_token_cannot_be_opened_with_none(door: Door) -> None:
    door.registry.take(msgspec.structs.replace(door.gateway, token_sha256=""))
    for token in ("", "x"):
        with pytest.raises(WireAuth):
            door.server.check_hello(msgspec.structs.replace(door.hello(), token=token))


def test_keys_have_one_purpose_each(ring: FileKeyRing) -> None:
    """What one key made opens nothing of another kind."""
    aad = wire.seal_aad("vl", 7, 1)
    sealed = seals.seal(ring.ingest_public(), PLAINTEXT, aad)
    assert ring.open_ingest(sealed, aad) == PLAINTEXT
    for wrong in (wire.seal_aad("vl", 7, 2), wire.seal_aad("vm", 7, 1), b""):
        with pytest.raises(SealBroken):
            ring.open_ingest(sealed, wrong)
    with pytest.raises(SealBroken):
        ring.open_ingest(seals.seal(ring.audit_public(), PLAINTEXT, aad), aad)
