"""The card reader: parts of cards in a lane, what is counted, and what a pass becomes in a row."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from engine.clock import ManualClock, iso_to_ms
from engine.decoding.decode import Code
from engine.decoding.decode_pool import DecodePool
from engine.identity.watch import WatchList
from engine.ingest.card_reader import CHUNK_WAIT_MS, LANES_MAX, CardReader
from engine.ingest.judge import Judge
from engine.ingest.pipeline import Origin, Outcome, Pipeline
from engine.ingest.trust import TrustList
from engine.payloads import Parsed, Refusal
from engine.registry.csv_tables import TABLE_ORDER, read_csv
from engine.registry.registry import Registry
from engine.scans.dedup import SeenWindow
from engine.scans.people import Details, bytes_to_details
from engine.scans.rows import ROW, Flag, Source
from engine.settings import Settings
from engine.storage.group import walk_details
from engine.telemetry import Metrics
from tests.reference.pass_maker import (
    BUNDLE,
    HEALTH,
    SHOT,
    make_certificate,
    make_hc1,
    make_jws,
    make_seal,
    to_der,
    to_digits,
    to_jwk,
    to_kid,
)

TABLES = Path(__file__).parents[2] / "docs" / "examples" / "registry"
NOON_MS = iso_to_ms("2021-07-20T12:00")
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
DER = to_der(make_certificate(KEY))
KID = to_kid(DER)
JWK = to_jwk(KEY)
LANE, NEXT_LANE = (1, 1), (1, 2)


def make_trust() -> TrustList:
    trust = TrustList()
    trust.add_certificate(DER)
    trust.add_jwk(JWK)
    return trust


class Bench:
    """A reader at noon, and a pipeline that uses it."""

    person_mac = vehicle_mac = None  # no native path: a pass never takes it

    def __init__(self) -> None:
        self.clock = ManualClock(NOON_MS)
        self.metrics = Metrics()
        self.trust = make_trust()
        self.cards = CardReader(Settings(), self.clock, self.metrics, self.trust)

    def person_key(self, kind: str, issuer: str, canonical: str) -> bytes:
        return hashlib.sha256(f"{kind}/{issuer}/{canonical}".encode()).digest()[:16]

    def pipeline(self) -> Pipeline:
        registry = Registry()
        for table in TABLE_ORDER:
            for change in read_csv(table, (TABLES / f"{table}.csv").read_bytes()):
                registry.take(change)
        watch = WatchList(self)  # type: ignore[arg-type]
        judge = Judge(SeenWindow(registry.spans()), watch, registry.rule)
        return Pipeline(
            Settings(), self.clock, registry, self, judge, self.metrics, self.cards,  # type: ignore[arg-type]
        )  # fmt: skip

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        return {
            labels: value
            for (metric, labels), value in self.metrics.samples().items()
            if metric == name and value
        }


@pytest.fixture
def bench() -> Bench:
    return Bench()


def parts(total: int = 2, given: str = "Anna") -> list[bytes]:
    patient = {"family": "Öberg", "given": [given]}
    bundle: Any = {**BUNDLE, "entry": [{"resource": dict(BUNDLE["entry"][0]["resource"])}]}
    bundle["entry"][0]["resource"]["name"] = [patient]
    jws = make_jws(KEY, JWK["kid"], bundle)
    size = -(-len(jws) // total)
    return [to_digits(jws[i * size :][:size], f"{i + 1}/{total}/") for i in range(total)]


def name(outcome: Parsed | Refusal) -> str:
    return outcome.name_nfc if isinstance(outcome, Parsed) else outcome.reason


# ---- parts --------------------------------------------------------------------------------------


def test_parts_shown_one_after_the_other_are_a_person(bench: Bench) -> None:
    one, two, three = parts(3)
    shown = [name(bench.cards.read(part, LANE)) for part in (three, one, one, two)]
    assert shown == ["incomplete", "incomplete", "incomplete", "Öberg Anna"]
    assert name(bench.cards.read(two, LANE)) == "Öberg Anna"  # its frame came again


def test_parts_wait_in_their_own_lane_and_not_for_ever(bench: Bench) -> None:
    one, two = parts()
    assert name(bench.cards.read(one, LANE)) == "incomplete"
    assert name(bench.cards.read(two, NEXT_LANE)) == "incomplete"
    bench.clock.advance(CHUNK_WAIT_MS + 1)
    assert name(bench.cards.read(two, LANE)) == "incomplete"
    assert name(bench.cards.read(one, LANE)) == "Öberg Anna"
    assert name(bench.cards.read(one)) == "incomplete"  # a back end has no lane
    assert name(bench.cards.read(two)) == "incomplete"


def test_two_people_are_not_made_into_one(bench: Bench) -> None:
    left_behind, _ = parts(given="Left")
    one, two = parts(given="Anna")
    assert name(bench.cards.read(left_behind, LANE)) == "incomplete"
    assert name(bench.cards.read(two, LANE)) in ("incomplete", "bad_signature")
    assert name(bench.cards.read(one, LANE)) == "Öberg Anna"
    for part in parts(3):
        bench.cards.read(part, LANE)
    assert name(bench.cards.read(two, LANE)) == "incomplete"  # of another count


def test_lanes_that_hold_parts_are_bounded(bench: Bench) -> None:
    one, _ = parts()
    for lane in range(LANES_MAX + 50):
        bench.cards.read(one, lane)
    assert len(bench.cards._parts) == LANES_MAX
    for lane in range(LANES_MAX + 50):
        bench.cards.prepare(one, lane)
    assert len(bench.cards._seen) == LANES_MAX


# ---- counted ------------------------------------------------------------------------------------


def test_what_is_counted(bench: Bench) -> None:
    bench.cards.read(make_hc1(KEY, KID))
    bench.cards.read(make_hc1(OTHER, b"8 bytes!"))
    bench.cards.read(b"https://tokhaiyte.vn.example.com/x")
    bench.cards.read(b"https://example.com/x")
    assert bench.counted("chot_passes") == {("valid",): 1, ("unknown_key",): 1}
    assert bench.counted("chot_lookalike_links") == {(): 1}


def test_the_clock_of_the_engine_decides_what_has_expired(bench: Bench) -> None:
    payload = make_hc1(KEY, KID)
    first = bench.cards.read(payload)
    bench.clock.advance(400 * 86_400_000)
    later = bench.cards.read(payload)
    assert isinstance(first, Parsed) and isinstance(later, Parsed)
    assert (first.expired, later.expired) == (False, True)
    assert bench.trust.checks == 1


def test_signatures_are_checked_in_the_thread_that_read_the_frame(bench: Bench) -> None:
    payload = make_hc1(KEY, KID)
    frames: list[list[bytes]] = [[payload, b"https://example.com"], [payload], [], [payload]]

    class Reader:
        def read(self, *frame: object) -> list[Code]:
            corners = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
            return [Code(data, corners) for data in frames.pop(0)]

    async def show() -> None:
        pool = DecodePool(1, new_reader=lambda *_: Reader(), prepare=bench.cards.prepare)
        for number in range(4):
            await pool.decode(LANE, 1, b"%d" % number)
            assert bench.trust.checks == 1
        pool.close()

    asyncio.run(show())
    assert name(bench.cards.read(payload, LANE)) == "Öberg Test Anna"
    assert bench.trust.checks == 1


def test_a_card_in_parts_is_checked_in_the_threads_too(bench: Bench) -> None:
    """In one frame, in frames after one another, and what somebody left behind in between."""
    left_behind, _ = parts(given="Left")
    one, two = parts()
    frames: list[list[bytes]] = [[left_behind], [two], [one, two], [one]]

    class Reader:
        def read(self, *frame: object) -> list[Code]:
            corners = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
            return [Code(data, corners) for data in frames.pop(0)]

    async def show() -> None:
        pool = DecodePool(1, new_reader=lambda *_: Reader(), prepare=bench.cards.prepare)
        for number in range(4):
            await pool.decode(LANE, 1, b"%d" % number)
        await pool.prepare([(one, NEXT_LANE), (two, NEXT_LANE)])
        pool.close()

    asyncio.run(show())
    # A part that was left and one of another card are no card, so there was one to check.
    assert bench.trust.checks == 1
    for lane in (LANE, NEXT_LANE):
        assert name(bench.cards.read(one, lane)) == "incomplete"
        assert name(bench.cards.read(two, lane)) == "Öberg Anna"
    assert bench.trust.checks == 1


# ---- rows ---------------------------------------------------------------------------------------


def frame(seq: int) -> Origin:
    return Origin(gateway=1, epoch=7, cls=1, seq=seq, first=seq, post=1, lanes=(1, 2))


def rows(outcome: Outcome) -> np.ndarray[Any, Any]:
    assert outcome.batch is not None
    return np.frombuffer(b"".join(part.rows for part in outcome.batch.parts), ROW)


def details(outcome: Outcome) -> list[Details]:
    assert outcome.batch is not None
    (part,) = outcome.batch.parts
    found = walk_details(part.details, len(part.rows) // ROW.itemsize)
    return [bytes_to_details(entry) for entry in found]


def test_a_visitor_from_abroad_is_taken_and_marked_for_review(bench: Bench) -> None:
    """Nobody is missed for having no number of ours (DE-5); a person looks at who it is."""
    pipeline = bench.pipeline()
    outcome = pipeline.take_codes(frame(1), 1, NOON_MS, [make_hc1(KEY, KID)])
    (verdict,) = outcome.verdicts
    assert (verdict.verdict, verdict.name) == ("accepted", "Öberg Te***")
    (row,) = rows(outcome)
    assert row["flags"] & Flag.REVIEW
    assert row["source"] == Source.DCC
    (kept,) = details(outcome)
    assert (kept.name, kept.birth, kept.issuer) == ("Öberg Test Anna", "1990-06-05", "SE")
    assert (kept.health, kept.signature) == ("v 2/2 2021-06-11", "valid")
    third = {**SHOT, "dn": 3, "sd": 3, "ci": "URN:UVCI:01:SE:TEST999009"}
    again = pipeline.take_codes(
        frame(2), 2, NOON_MS + 60_000, [make_hc1(KEY, KID, {**HEALTH, "v": [third]})]
    )
    assert [v.verdict for v in again.verdicts] == ["seen"]
    assert rows(again)["person"].tobytes() == row["person"].tobytes()


def test_a_passport_is_the_same_person_whoever_read_it(bench: Bench) -> None:
    outcome = bench.pipeline().take_codes(frame(1), 1, NOON_MS, [make_seal(KEY, DER)])
    (row,) = rows(outcome)
    assert not row["flags"] & Flag.REVIEW
    assert row["person"].tobytes() == bench.person_key("passport", "VNM", "C9999001")


def test_parts_in_one_frame_are_one_row(bench: Bench) -> None:
    outcome = bench.pipeline().take_codes(frame(1), 1, NOON_MS, parts())
    assert [(v.verdict, v.reason) for v in outcome.verdicts] == [
        ("refused", "incomplete"),
        ("accepted", None),
    ]
    assert len(rows(outcome)) == 1


def test_a_forged_pass_is_refused(bench: Bench) -> None:
    outcome = bench.pipeline().take_codes(frame(1), 1, NOON_MS, [make_hc1(OTHER, KID)])
    assert [(v.verdict, v.reason) for v in outcome.verdicts] == [("refused", "bad_signature")]
    assert outcome.batch is not None and not outcome.batch.parts
