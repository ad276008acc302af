"""Faults of our own amid a session: they end loudly, and nothing waits for them or passes them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from engine.decoding.decode_pool import DecodePool
from engine.desk.deliveries import Deliveries, PastLights
from engine.desk.questions import Deliver, PersonRef, persons_to_keys
from engine.errors import WireStoreFull
from engine.identity.keys import FileKeyRing
from engine.identity.watch import WatchEntry, WatchKind
from engine.ingest.card_reader import CardReader
from engine.ingest.link import Link
from engine.ingest.server import REFUSALS_LOGGED
from engine.ingest.trust import TrustList
from engine.payloads.outcome import Signature, Signed
from engine.scans.records import encode_scan, encode_scans
from engine.storage.journal import Receipt, RecordBatch
from engine.wire import frames as wire
from tests.reference.pass_maker import HEALTH, make_certificate, make_hc1, to_der, to_kid
from tests.unit.test_privacy import CARD, NOW_MS, ODD_CARD, Door, Wire, scans


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(FileKeyRing(tmp_path / "keys", create=True), heartbeat_s=1)


def frame(seq: int, image: bytes) -> wire.FrameImage:
    return wire.FrameImage(
        seq=seq, channel=1, ts_ns=NOW_MS * 1_000_000, codec=1, frame_no=seq, image=image
    )  # fmt: skip


async def settle() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("count", "card", "stage"),
    [(1, CARD, "judge_rows"), (1, ODD_CARD, "judge"), (640, ODD_CARD, "judge")],
)
def test_a_fault_of_ours_ends_its_stream_loudly(
    door: Door,
    count: int,
    card: bytes,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Or the message would be open for ever, and no link of its epoch would come in again."""
    monkeypatch.setattr(logging.getLogger("chot"), "propagate", True)

    async def work() -> None:
        link, out = await door.open()
        link.data_received(scans(1, 1))
        await settle()
        with monkeypatch.context() as patch:

            def fail(*_: object) -> None:
                raise KeyError("045190999001")

            patch.setattr(door.server.pipeline._judge, stage, fail)
            link.data_received(scans(2, count, card) + scans(3, 1))
            await settle()
        assert out.of(wire.Error)[-1].code == WireStoreFull.wire and out.is_closing
        link.connection_lost(None)
        link, out = await door.open()
        assert out.of(wire.Welcome)[-1].acked[0] == 1
        link.data_received(scans(2, count, card) + scans(3, 1))
        await settle()
        assert out.of(wire.Ack)[-1].seq == 3
        link.connection_lost(None)

    door.next_seq = 2
    asyncio.run(work())
    assert "stream broken off gateway=vl problem=KeyError" in caplog.text
    assert "999001" not in caplog.text


def test_nothing_passes_over_what_the_journal_would_not_have(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        link, out = await door.open()
        append = door.server.journal.append

        async def refuse(batch: RecordBatch) -> Receipt:
            if batch.run.last == 1:
                raise ValueError("malformed")
            return await append(batch)

        monkeypatch.setattr(door.server.journal, "append", refuse)
        link.data_received(scans(1, 1) + scans(2, 1) + scans(3, 1))
        await settle()
        assert out.of(wire.Error) and not out.of(wire.Ack)
        assert door.server.journal.watermarks() == {}
        link.connection_lost(None)
        (state,) = door.server.streams
        assert state.settled.is_set(), "the next link waits for nothing"

    asyncio.run(work())


def test_a_delivery_that_fails_is_given_back(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number was taken, and the same key comes again."""
    body = encode_scans([encode_scan(NOW_MS, 1, CARD)])
    delivery = Deliver(token=door.token, gateway="vl", epoch=9, seq=1, body=body)
    taken = Deliveries(door.server, PastLights())

    def fail(*_: object) -> None:
        raise KeyError

    async def work() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(door.server.pipeline._judge, "judge_rows", fail)
            with pytest.raises(KeyError):
                await taken.take(delivery)
        found = await asyncio.wait_for(taken.take(delivery), 10)
        assert not found.is_repeat and [v.verdict for v in found.verdicts] == ["accepted"]

    asyncio.run(work())


def test_a_delivery_that_was_stored_before_counts_once(door: Door) -> None:
    """After a restart it is judged anew, for its answer alone."""
    codes = [CARD, b"WIFI:S:x;T:WPA;P:y;;"]
    body = encode_scans([encode_scan(NOW_MS, 1, code) for code in codes])
    delivery = Deliver(token=door.token, gateway="vl", epoch=9, seq=1, body=body)

    async def work() -> None:
        server = door.server
        persons = persons_to_keys([PersonRef("cccd", "045190999001")], server.keyring)
        entry = WatchEntry(
            number=1, kind=WatchKind.WATCH, persons=tuple(persons), reason="", case="BN-1",
            unit="CDC", purpose="case", who="an", role="tracer", from_ms=0, to_ms=2 * NOW_MS,
            at_ms=0,
        )  # fmt: skip
        server.pipeline._judge._watch.put(entry)
        first = await Deliveries(server, PastLights()).take(delivery)
        counted = server.metrics.samples()
        assert counted["chot_verdicts", ("alert",)] == counted["chot_verdicts", ("refused",)] == 1
        assert counted["chot_refused", ("wifi",)] == counted["chot_alerts", ("call_desk",)] == 1
        again = await Deliveries(server, PastLights()).take(delivery)
        assert again.is_repeat and again.verdicts == first.verdicts
        dropped = ("chot_resends_dropped", ())
        assert server.metrics.samples() == counted | {dropped: 1}
        assert server.journal.counters.rows == 1

    asyncio.run(work())


def test_a_frame_that_fails_is_one_frame(door: Door) -> None:
    """Frames behind it wait for its turn."""

    class Pool:
        async def decode(self, _: object, codec: int, image: bytes, **__: int) -> list[object]:
            if image == b"bad":
                raise RuntimeError("a fault of ours")
            return []

    async def work() -> None:
        door.server.pool = cast(Any, Pool())
        link, out = await door.open()
        for seq, image in ((1, b"bad"), (2, b"good")):
            link.data_received(wire.encode(frame(seq, image)))
        await settle()
        assert out.of(wire.Nack)[-1].seq == 1
        assert out.of(wire.Ack)[-1].seq == 2 and out.of(wire.Ack)[-1].cls == 1
        link.connection_lost(None)

    asyncio.run(work())


def test_whoever_knocks_without_end_fills_no_log(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("chot"), "propagate", True)

    async def work() -> None:
        await door.server.start([])
        for _ in range(100):
            link = Link(door.server)
            link.enter(Wire(), None)
            link.data_received(wire.encode(door.hello("chot_wrong")))
            link.connection_lost(None)
        assert caplog.text.count("link ended code=wire.auth") == REFUSALS_LOGGED
        async with asyncio.timeout(30):
            while "more turned away" not in caplog.text:
                await asyncio.sleep(0.05)
        link, _ = await door.open()
        link.fail(WireStoreFull("a session is told of at any time"))
        link.connection_lost(None)
        await door.server.stop()

    asyncio.run(work())
    assert f"more turned away count={100 - REFUSALS_LOGGED}" in caplog.text
    assert "link ended code=wire.store_full gateway=vl" in caplog.text
    samples = door.server.metrics.samples()
    assert samples["chot_sessions_refused", ("wire.auth",)] == 100


# ---- passes -------------------------------------------------------------------------------------

KEY = ec.generate_private_key(ec.SECP256R1())
CERTIFICATE = to_der(make_certificate(KEY))
PASS = make_hc1(KEY, to_kid(CERTIFICATE))


class HeldTrust:
    """A trust list whose checks wait until they may go on."""

    def __init__(self) -> None:
        self.list = TrustList()
        self.list.add_certificate(CERTIFICATE)
        self.may_go_on = threading.Event()
        self.threads: set[int] = set()

    def check(self, signed: Signed, /) -> Signature:
        self.threads.add(threading.get_ident())
        assert self.may_go_on.wait(30)
        return self.list.check(signed)


@pytest.fixture
def held(door: Door) -> Iterator[HeldTrust]:
    """The door's server with a card reader of that trust, and one thread in its pool."""
    trust, server = HeldTrust(), door.server
    cards = CardReader(server.settings, server.clock, server.metrics, trust)
    server.pipeline._reader._cards = cards
    server.pool = DecodePool(1, prepare=cards.prepare)
    yield trust
    trust.may_go_on.set()
    server.pool.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def shown(seq: int, *payloads: bytes) -> bytes:
    body = encode_scans([encode_scan(NOW_MS - n, 1, p) for n, p in enumerate(payloads)])
    return wire.encode(wire.Scans(seq=seq, body=body))


def test_while_a_pass_is_verified_other_links_have_their_verdicts(
    door: Door, held: HeldTrust
) -> None:
    """And what comes behind it on its own link waits, so that the order of a stream is kept."""

    async def work() -> None:
        link, out = await door.open()
        other, other_out = await door.open(epoch=8)
        link.data_received(shown(1, CARD, PASS, PASS, ODD_CARD) + shown(2, ODD_CARD))
        await until(lambda: held.threads)
        assert held.threads.isdisjoint({threading.get_ident()}), "not the event loop"
        for seq in range(1, 4):
            other.data_received(shown(seq, ODD_CARD))
            await until(lambda seq=seq: [a for a in other_out.of(wire.Ack) if a.seq == seq])
        assert len(other_out.of(wire.Result)) == 3
        assert not out.of(wire.Result) and not out.of(wire.Ack) and not out.is_reading
        held.may_go_on.set()
        await until(lambda: [a for a in out.of(wire.Ack) if a.seq == 2])
        told = [(r.seq, r.verdict.n) for r in out.of(wire.Result)]
        assert told == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
        assert out.is_reading
        # Shown again it is known by its digest.
        link.data_received(shown(3, PASS))
        await until(lambda: [a for a in out.of(wire.Ack) if a.seq == 3])
        assert held.list.checks == 1
        link.connection_lost(None)
        other.connection_lost(None)

    asyncio.run(work())


def test_many_passes_are_verified_a_few_at_a_time(door: Door, held: HeldTrust) -> None:
    """More than a trust list remembers would be forgotten again before they were read."""
    passes = [
        make_hc1(KEY, to_kid(CERTIFICATE), {**HEALTH, "dob": f"19{n:02}-01-01"}) for n in range(40)
    ]
    asked: list[int] = []
    held.may_go_on.set()

    async def work() -> None:
        prepare = door.server.pool.prepare

        async def count(payloads: Sequence[bytes]) -> None:
            asked.append(len(payloads))
            await prepare(payloads)

        door.server.pool.prepare = count  # type: ignore[method-assign]
        link, out = await door.open()
        link.data_received(shown(1, *passes))
        await until(lambda: out.of(wire.Ack))
        assert len(out.of(wire.Result)) == len(passes)
        link.connection_lost(None)

    asyncio.run(work())
    assert asked == [16, 16, 8]
    assert held.list.checks == len(passes)


def test_a_delivery_with_a_pass_holds_nobody_up(door: Door, held: HeldTrust) -> None:
    taken = Deliveries(door.server, PastLights())

    def delivery(epoch: int, seq: int, payload: bytes) -> Deliver:
        body = encode_scans([encode_scan(NOW_MS - seq, 1, payload)])
        return Deliver(token=door.token, gateway="vl", epoch=epoch, seq=seq, body=body)

    async def work() -> None:
        slow = asyncio.ensure_future(taken.take(delivery(9, 1, PASS)))
        behind = asyncio.ensure_future(taken.take(delivery(9, 2, ODD_CARD)))
        await until(lambda: held.threads)
        found = await asyncio.wait_for(taken.take(delivery(10, 1, ODD_CARD)), 30)
        assert [v.verdict for v in found.verdicts] == ["accepted"]
        assert not slow.done() and not behind.done()
        held.may_go_on.set()
        assert [v.verdict for v in (await slow).verdicts] == ["accepted"]
        assert [v.verdict for v in (await behind).verdicts] == ["seen"]

    asyncio.run(work())
    assert held.list.checks == 1
