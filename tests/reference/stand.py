"""A small engine side with a real API before it: real registry, desk, index, journal and socket.

Only the control log is a stand-in, one that can be told to wait or to fail. Everything runs in an
event loop of a thread, so that tests talk to it over HTTP like anybody else.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import tempfile
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import numpy as np

from engine.api.server import run_api
from engine.client import api_client as client
from engine.clock import ManualClock, day_to_ms, iso_to_ms, ms_to_day
from engine.colocation.alerts import Alerts
from engine.colocation.index import CoLocationIndex
from engine.colocation.reviews import new_reviews
from engine.desk.desk import Desk
from engine.desk.question_socket import QuestionClient, QuestionServer
from engine.desk.questions import Deliver, Delivered, Kit
from engine.errors import EngineError, WireUnknownGateway
from engine.identity.keys import DeskKeys, FileKeyRing
from engine.identity.merges import Merges
from engine.identity.watch import WatchList
from engine.presence.visits import PlaceRules
from engine.registry.access import AUDIT_KIND, AuditEntry, Grant, body_to_entry, make_token
from engine.registry.csv_tables import TABLE_ORDER, read_csv
from engine.registry.registry import Registry
from engine.registry.venue_codes import VenueCodes
from engine.scans.people import Details, details_to_bytes, vehicle_to_canonical
from engine.scans.rows import NO_TEMPERATURE, ROW, Direction, Kind, Source
from engine.storage.group import pack_details
from engine.storage.journal import MemoryJournal, Part, RecordBatch, Run
from engine.telemetry import Metrics
from engine.tracing.tracer import Completeness, GatewayState, Tracer
from tests.reference.batches import read_groups

T = TypeVar("T")
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "registry"
DATE = "2021-07-01"
DAY = ms_to_day(iso_to_ms(DATE))
MARKET_NORTH, MARKET_SOUTH, POST_NORTH = 1013, 1015, 1  # Chợ Hồ Xá, Chợ Diên Sanh, VL-1A


@dataclass(frozen=True)
class Person:
    number: str
    name: str
    phone: str
    address: str = "Thôn Bình An, xã Vĩnh Chấp"
    birth: str = "1990-05-17"

    @property
    def ref(self) -> dict[str, str]:
        return {"kind": "cccd", "value": self.number}


BINH = Person("045090999001", "Nguyễn Văn Bình", "+84912999001")
HOA = Person("045191999002", "Trần Thị Hồng Hoa", "+84912999002")
CUONG = Person("045092999003", "=Lê Văn Cường", "+84912999003")  # a name that is a formula
EVERYBODY = (BINH, HOA, CUONG)

# (person, place, time, direction): Bình meets Hoa for 30 minutes in the north and Cường for 40 in
# the south, and is the first at the post.
SCANS = (
    (BINH, POST_NORTH, "07:30", Direction.NONE),
    (BINH, MARKET_NORTH, "08:00", Direction.IN),
    (HOA, MARKET_NORTH, "08:10", Direction.IN),
    (HOA, MARKET_NORTH, "08:40", Direction.OUT),
    (BINH, MARKET_NORTH, "08:50", Direction.OUT),
    (BINH, MARKET_SOUTH, "10:00", Direction.IN),
    (CUONG, MARKET_SOUTH, "10:05", Direction.IN),
)
# (plate, trip, seat) that scans named, by number from 1.
RIDES = {1: ("74A 999.01", "SE3", "12A"), 3: ("74A-99901", "", "15B"), 7: ("", "SE3", "2")}


@dataclass
class FakeControl:
    """gate: closed, appends wait. error: raised in place of writing. As with the real one, whoever
    stops waiting takes nothing back."""

    records: list[tuple[str, str, bytes, int]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    error: EngineError | None = None

    async def append(self, kind: str, by: str, body: bytes, at_ms: int) -> int:
        return await asyncio.shield(asyncio.ensure_future(self._write(kind, by, body, at_ms)))

    async def _write(self, kind: str, by: str, body: bytes, at_ms: int) -> int:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.records.append((kind, by, body, at_ms))
        return len(self.records)


async def _nothing(delivery: Deliver) -> Delivered:
    raise WireUnknownGateway("this stand takes no records")


class Stand:
    """`with Stand() as stand:` then `stand.url` and `stand.tokens[grant name]`."""

    def __init__(self) -> None:
        self.clock = ManualClock(iso_to_ms(f"{DATE}T20:00"))
        self.tokens: dict[str, str] = {}
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._folder = tempfile.TemporaryDirectory(prefix="chot")
        self.folder = Path(self._folder.name)
        self.socket_path = self.folder / "engine.sock"

    def __enter__(self) -> Stand:
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._folder.cleanup()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the stand's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def call(self, work: Any, *args: Any) -> None:
        self._loop.call_soon_threadsafe(work, *args)

    def audit(self) -> list[AuditEntry]:
        return [
            body_to_entry(body) for kind, _, body, _ in self.control.records if kind == AUDIT_KIND
        ]

    def key(self, person: Person) -> bytes:
        return self.keyring.person_key("cccd", "VNM", person.number)

    async def stop_engine(self) -> None:
        await self.server.close()

    async def start_engine(self) -> None:
        self.server = QuestionServer(self.socket_path, self.desk.answer, self.faults.append)
        await self.server.start()

    async def _start(self) -> None:
        self.keyring = FileKeyRing(self.folder / "keys", create=True)
        self.desk_keys = DeskKeys(self.folder / "keys" / "desk")
        self.registry = Registry()
        for table in TABLE_ORDER:
            data = (EXAMPLES / f"{table}.csv").read_bytes()
            for change in self.registry.prepare(read_csv(table, data, self.registry)):
                self.registry.take(change)
        for grant in list(self.registry.entries("grant")):
            assert isinstance(grant, Grant)
            self.tokens[grant.name], digest = make_token()
            self.registry.take(msgspec.structs.replace(grant, token_sha256=digest))
        self.journal = MemoryJournal(self.keyring, self.clock)
        self.index = CoLocationIndex(
            PlaceRules(self.registry.place_rules()), self.registry.visit_rules()
        )
        self.alerts, self.watch = Alerts(), WatchList(self.keyring)
        self.reviews, self.merges = new_reviews(), Merges(self.keyring)
        await self._fill()
        self.control = FakeControl()
        self.control.gate.set()
        self.faults: list[str] = []
        self.metrics = Metrics()
        self.desk = self._make_desk()
        await self.start_engine()
        self._stop_api = asyncio.Event()
        ready: asyncio.Future[int] = self._loop.create_future()
        self._api = asyncio.create_task(
            run_api(
                host="127.0.0.1",
                port=0,
                socket_path=self.socket_path,
                desk_path=self.folder / "keys" / "desk",
                stop=self._stop_api,
                on_ready=ready.set_result,
                clock=self.clock,
            )
        )
        done, _ = await asyncio.wait({ready, self._api}, return_when=asyncio.FIRST_COMPLETED)
        assert ready in done, self._api.exception()
        self.url = f"http://127.0.0.1:{ready.result()}"

    def _make_desk(self) -> Desk:
        states = (GatewayState("vl-1a-1", 0, True), GatewayState("hl-1a-1", 37_000, False))
        tracer = Tracer(
            self.index,
            self.clock,
            self.registry.place,
            lambda: Completeness(0, self.clock.now_ms(), states),
        )
        return Desk(
            registry=self.registry,
            tracer=tracer,
            figures=self.index.figures,
            tallies=lambda day: [{"place": 1, "lane": 2, "reason": "payment_qr", "count": 3}],
            alarms=self.alerts,
            watch=self.watch,
            merges=self.merges,
            reviews=self.reviews,
            keyring=self.keyring,
            control=self.control,
            journal=self.journal,
            clock=self.clock,
            metrics=self.metrics,
            health=lambda: {"groups": self.journal.last_lsn()},
            kit=lambda: Kit("127.0.0.1:7401", self.keyring.ingest_public(), {}),
            deliver=_nothing,
            on_merges=self._merges_changed,
            codes=VenueCodes(self.registry, self.keyring, "QR.CHOT.VN"),
        )

    async def _merges_changed(self) -> None:
        self.watch.set_aliases(self.merges.aliases())
        self.index.set_aliases(self.merges.aliases())

    async def _fill(self) -> None:
        """Each scan is a run of its own with its details."""
        for seq, (person, place, time, direction) in enumerate(SCANS, 1):
            row = np.zeros(1, ROW)
            row["person"] = np.void(self.key(person))
            row["time_ms"] = iso_to_ms(f"{DATE}T{time}")
            row["place"] = place
            row["lane"] = 1 if place == POST_NORTH else 0
            row["direction"] = direction
            row["kind"] = Kind.SCAN if place == POST_NORTH else Kind.CHECKIN
            row["source"] = Source.CCCD
            row["temperature_cc"] = NO_TEMPERATURE
            ride = RIDES.get(seq, ("", "", ""))
            if named := vehicle_to_canonical(*ride[:2]):
                row["vehicle"] = self.keyring.vehicle_number(*named)
            details = Details(
                plate=ride[0],
                trip=ride[1],
                seat=ride[2],
                name=person.name,
                doc_kind="cccd",
                doc_no=person.number,
                birth=person.birth,
                sex="M",
                phone=person.phone,
                address=person.address,
            )
            packed = pack_details([details_to_bytes(details)])
            await self.journal.append(
                RecordBatch(Run(1, 7, 0, seq, seq), [Part(DAY, row.tobytes(), packed)])
            )
        for group in await read_groups(self.journal):
            self.index.apply(group)
            self.alerts.apply(group)
            self.reviews.apply(group)

    async def forget(self) -> None:
        """Destroys the keys of the day; the index still knows who was where."""
        await self.journal.expire(day_to_ms(DAY + 1))

    def link(self) -> QuestionClient:
        return QuestionClient(self.socket_path, timeout_s=10)

    async def _stop(self) -> None:
        self.control.gate.set()
        self._stop_api.set()
        await self._api
        await self.server.close()
        self.desk.close()
        await self.journal.close()
        assert self.faults == []


# ---- asking --------------------------------------------------------------------------------------

TRACER = "cdc-truy-vet"
WHY = {"purpose": "case", "case": "BN-1234"}
SPAN = {"from": DATE, "to": "2021-07-02"}
BODIES: dict[str, dict[str, Any]] = {
    "venue": {**WHY, **SPAN, "place": MARKET_NORTH},
    "person": {**WHY, **SPAN, "person": BINH.ref},
    "contacts": {**WHY, **SPAN, "person": BINH.ref, "profile": "VN-2021-12-29"},
    "tiers": {**WHY, **SPAN, "person": BINH.ref, "profile": "VN-2021-12-29"},
    "passed": {**WHY, **SPAN, "place": POST_NORTH},
    "vehicle": {**WHY, **SPAN, "plate": "74A-999.01"},
    "roll": {**WHY, **SPAN, "rows": [{"documents": [HOA.ref]}, {"documents": [CUONG.ref]}]},
    "notice": {**WHY, "marks": [{"place": MARKET_NORTH, **SPAN}, {"place": MARKET_SOUTH, **SPAN}]},
}


def trace(stand: Stand, question: str, who: str = TRACER, **changes: Any) -> dict[str, Any]:
    return client.trace(stand.url, stand.tokens[who], question, BODIES[question] | changes)


def send(
    stand: Stand,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) as they are on the wire."""
    connection = http.client.HTTPConnection(stand.url.removeprefix("http://"), timeout=20)
    try:
        token = {"Authorization": f"Bearer {stand.tokens[TRACER]}"}
        connection.request(method, path, body, token | (headers or {}))
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def check_shape(data: bytes) -> str:
    """The code of a failure, which has one shape and no other."""
    answer = json.loads(data)
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"code", "message", "hint"}
    assert all(isinstance(text, str) for text in answer["error"].values())
    assert answer["error"]["message"]
    return str(answer["error"]["code"])
