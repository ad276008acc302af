"""A pipeline with all its parts, at an instant that is set by hand."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from engine.clock import ManualClock, iso_to_ms
from engine.identity.watch import WatchList
from engine.ingest.judge import Judge
from engine.ingest.pipeline import Origin, Outcome, Pipeline
from engine.payloads import VenueCode, make_venue_code, venue_code_to_text
from engine.registry.csv_tables import TABLE_ORDER, read_csv
from engine.registry.registry import Change, Registry
from engine.scans.dedup import SeenWindow
from engine.scans.records import decode_scans, encode_scans
from engine.settings import Settings
from engine.storage.journal import check_batch
from engine.telemetry import Metrics
from native.hmac import Hmac

TABLES = Path(__file__).parents[2] / "docs" / "examples" / "registry"
NOON_MS = iso_to_ms("2021-07-01T12:00")
POST, MARKET = 1, 1013
LANE_GATEWAY = Origin(gateway=1, epoch=7, cls=0, seq=1, first=1, post=POST, lanes=(1, 2))
BACK_END = Origin(gateway=8, epoch=7, cls=0, seq=1, first=1, post=0, lanes=())
CARD = "045190999001|201999001|Nguyễn Thị Hồng Ánh|05061990|Nữ|Thôn Tân Hòa|11062021".encode()
APP = b"******999031|PHAM QUOC HUNG|1984-**-**|0|162999310000000031|<1<DN4459990000031<0912000031"
BANK = b"00020101021238570010A00000072701270006970999011399900000004210208QRIBFTTA5303704"


@cache
def example_changes() -> list[Change]:
    """The example registry."""
    tables = ((table, (TABLES / f"{table}.csv").read_bytes()) for table in TABLE_ORDER)
    return [change for table, data in tables for change in read_csv(table, data)]


class HashRing:
    """Of a KeyRing what the pipeline uses. is_here: whether native.plain may make person keys."""

    def __init__(self, is_here: bool = True) -> None:
        self._person, self._vehicle = Hmac(b"province", b"person"), Hmac(b"province", b"vehicle")
        self.person_mac, self.vehicle_mac = (
            (self._person, self._vehicle) if is_here else (None, None)
        )

    def person_key(self, kind: str, issuer: str, canonical: str) -> bytes:
        return self._person.digest(f"{kind}\0{issuer}\0{canonical}".encode())[:16]

    def vehicle_number(self, kind: str, canonical: str) -> int:
        digest = self._vehicle.digest(f"{kind}\0{canonical}".encode())
        return int.from_bytes(digest[:4], "big") or 1

    def venue_tag(self, body: bytes, key: int = 1) -> bytes:
        return hashlib.sha256(b"venue" + bytes((key,)) + body).digest()[:5]


class Bench:
    """A pipeline with all its parts at noon of an ordinary day."""

    def __init__(self, now_ms: int = NOON_MS, *, is_native: bool = True, **settings: Any) -> None:
        self.clock = ManualClock(now_ms)
        self.ring = HashRing(is_native)
        self.registry = Registry()
        for change in example_changes():
            self.registry.take(change)
        self.metrics = Metrics()
        self.watch = WatchList(self.ring)  # type: ignore[arg-type]
        judge = Judge(SeenWindow(self.registry.spans()), self.watch, self.registry.rule)
        self.pipeline = Pipeline(
            Settings(**settings), self.clock, self.registry, self.ring,  # type: ignore[arg-type]
            judge, self.metrics,
        )  # fmt: skip

    def take(self, *records: bytes, origin: Origin = LANE_GATEWAY) -> Outcome:
        body = encode_scans(records)
        packed, fault = decode_scans(body)
        return self.check(self.pipeline.take_records(origin, packed, body, fault))

    @staticmethod
    def check(outcome: Outcome) -> Outcome:
        """Whatever comes out is what a journal takes."""
        if outcome.batch is not None:
            check_batch(outcome.batch)
        return outcome

    def code(self, number: int = MARKET, issue: int = 1, **more: int) -> bytes:
        code = VenueCode(number, issue, b"", "QR.CHOT.VN", **more)
        return venue_code_to_text(make_venue_code(code, self.ring.venue_tag)).encode()

    def refused(self) -> dict[str, float]:
        return self._by_reason("chot_refused")

    def alerts(self) -> dict[str, float]:
        return self._by_reason("chot_alerts")

    def _by_reason(self, metric: str) -> dict[str, float]:
        return {
            labels[0]: value
            for (name, labels), value in self.metrics.samples().items()
            if name == metric
        }
