"""Lights: the engine's verdict, or our own when it is silent (rule 10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from engine.clock import ManualClock
from engine.gateway import lights as lights_module
from engine.gateway.lights import LATE_MS, Light, Lights, LocalJudge
from engine.gateway.sources import Records
from engine.gateway.status import GatewayStats
from engine.scans.records import encode_checkin, encode_manual, encode_scan, encode_scans
from engine.scans.rows import Direction
from engine.wire import frames as wire

NOW = 1_625_097_600_000
CARD = "045190999001||Nguyễn Thị Hồng Ánh|15071990|Nữ|Khóm 4, Vĩnh Linh|01052021".encode()
OTHER = "045190999002||Trần Văn Bình|15071988|Nam|Khóm 4, Vĩnh Linh|01052021".encode()
BANK = b"00020101021138"


def scans(*payloads: bytes, ts_ms: int = NOW, lane: int = 1) -> Records:
    records = [encode_scan(ts_ms, lane, p) for p in payloads]
    return Records(encode_scans(records), len(records), lane)


class Desk:
    """Lights with what they showed."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.shown: list[Light] = []
        self.stats = GatewayStats()
        judge = LocalJudge(self.clock, 600_000)
        self.lights = Lights(judge, self.clock, self.stats, self.shown.append, {5: 3})
        self.lights.is_linked = True

    def store(self, records: Records, seq: int) -> None:
        expected = self.lights.expect(records)
        assert expected is not None
        self.lights.number(expected, 5, seq)

    def answer(self, seq: int, n: int = 0, verdict: Any = "accepted", cls: int = 0) -> None:
        found = wire.Verdict(verdict=verdict, lane=1, n=n, name="x")
        self.lights.answered(0 if cls else 5, wire.Result(cls=cls, seq=seq, verdict=found))


def go(test: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(Desk()), 20))


async def overdue() -> None:
    await asyncio.sleep(lights_module.SILENCE_S * 2)


def test_the_engines_verdict_in_time_is_the_only_one() -> None:
    async def test(desk: Desk) -> None:
        desk.store(scans(CARD, OTHER), 4)
        desk.answer(4, 0)
        desk.answer(4, 1, "alert")
        await overdue()
        assert [(light.n, light.verdict, light.local) for light in desk.shown] == [
            (0, "accepted", False),
            (1, "alert", False),
        ]
        assert desk.stats.lights_local == 0
        assert not desk.lights.is_silent

    go(test)


def test_after_80_ms_of_silence_our_own_is_shown_and_the_engines_when_it_comes() -> None:
    async def test(desk: Desk) -> None:
        desk.store(scans(CARD, BANK), 4)
        assert desk.shown == []
        desk.answer(4, 1, "refused")
        await overdue()
        local = Light(seq=4, verdict="accepted", lane=1, name="Nguyễn Th***", local=True)
        assert desk.shown[1:] == [local], "only what the engine had not answered"
        assert desk.lights.is_silent
        # While it is silent nobody waits 80 ms any more.
        desk.store(scans(OTHER), 5)
        assert desk.shown[2] == Light(verdict="accepted", lane=1, name="Trần Vă***", local=True)
        desk.answer(4, 0, "seen")
        assert desk.shown[3] == Light(seq=4, verdict="seen", lane=1, name="x")
        assert not desk.lights.is_silent
        assert desk.stats.lights_local == 2

    go(test)


def test_without_a_link_it_is_shown_at_once_and_the_late_answer_is_marked() -> None:
    async def test(desk: Desk) -> None:
        desk.lights.is_linked = False
        desk.store(scans(CARD), 4)
        desk.store(scans(CARD, lane=2), 5)
        assert [light.verdict for light in desk.shown] == ["accepted", "seen"]
        desk.clock.advance(LATE_MS + 1)
        desk.lights.is_linked = True
        desk.answer(4)
        assert desk.shown[-1].late and not desk.shown[-1].local
        desk.answer(3)
        assert desk.shown[-1].late, "an earlier process captured it"
        desk.answer(3, cls=1)
        assert not desk.shown[-1].late
        frame = wire.Result(cls=1, seq=3, verdict=wire.Verdict(verdict="accepted", lane=1))
        for ago_ms, is_late in ((LATE_MS, False), (LATE_MS + 1, True)):
            desk.lights.answered(0, frame, desk.clock.now_ms() - ago_ms)
            assert desk.shown[-1].late == is_late, "a frame that waited while there was no link"

    go(test)


def test_our_own_verdicts() -> None:
    async def test(desk: Desk) -> None:
        desk.lights.is_linked = False
        entries: list[dict[str, str]] = [
            {"name": "Lê Thị Cúc", "cccd": "045190999001"},
            {"name": "Không Giấy"},
            {"cccd": "1"},
            {"colour": "red"},
        ]
        manual = [encode_manual(NOW + 1, 1, e, officer="o", why="w") for e in entries]
        desk.store(scans(CARD, BANK, b"hello", b"HTTPS://QR.CHOT.VN/V/140000Z94E9DPY1P7K"), 1)
        desk.store(Records(encode_scans(manual), 4, 1), 2)
        desk.clock.advance(700_000)
        desk.store(scans(CARD, ts_ms=NOW + 700_000), 3)
        assert [(light.verdict, light.reason) for light in desk.shown] == [
            ("accepted", None),
            ("refused", "payment_qr"),
            ("refused", "unknown"),
            ("refused", "unsupported_context"),
            ("seen", None),
            ("accepted", None),
            ("refused", "malformed_id"),
            ("refused", "malformed"),
            ("accepted", None),
        ]
        assert all(light.local for light in desk.shown)

    go(test)


@pytest.mark.parametrize("ts_ms", [NOW - LATE_MS - 1, NOW + LATE_MS + 1])
def test_what_was_recorded_lights_no_lamp(ts_ms: int) -> None:
    async def test(desk: Desk) -> None:
        assert desk.lights.expect(scans(CARD, ts_ms=ts_ms)) is None
        venue = encode_checkin(NOW, Direction.IN, CARD, 1013)
        assert desk.lights.expect(Records(encode_scans([venue]), 1, 1)) is None
        assert desk.shown == []

    go(test)


def test_what_the_engine_cannot_take_is_refused_at_the_lane() -> None:
    """Of whom nothing is kept, nobody is shown as accepted."""

    async def test(desk: Desk) -> None:
        desk.store(scans(CARD, OTHER), 4)
        desk.lights.not_taken(5, wire.Nack(cls=0, seq=4, code=12, index=0, text=""))
        desk.answer(4, n=1)
        await overdue()
        assert [(x.verdict, x.reason, x.lane, x.n, x.local) for x in desk.shown] == [
            ("refused", "clock", 1, 0, False), ("accepted", None, 1, 1, False),
        ]  # fmt: skip
        desk.store(scans(CARD), 5)  # after the engine's silence it is shown all the same
        await overdue()
        assert desk.shown[-1].local and desk.lights.is_silent
        desk.lights.not_taken(5, wire.Nack(cls=0, seq=5, code=1, index=0, text=""))
        assert (desk.shown[-1].verdict, desk.shown[-1].reason) == ("refused", "malformed")
        assert not desk.lights.is_silent
        shown = len(desk.shown)
        desk.lights.not_taken(5, wire.Nack(cls=0, seq=5, code=1, index=0, text=""))
        desk.lights.not_taken(5, wire.Nack(cls=0, seq=77, code=1, index=0, text=""))
        assert len(desk.shown) == shown, "of nobody at a lane"

    go(test)


def test_an_answer_before_the_number_is_known() -> None:
    """The uplink may send what the spool's thread has committed before the loop is told."""

    async def test(desk: Desk) -> None:
        expected = desk.lights.expect(scans(CARD))
        assert expected is not None
        desk.answer(4)
        desk.lights.number(expected, 5, 4)
        await overdue()
        assert [light.local for light in desk.shown] == [False]
        assert not desk.lights.is_silent

    go(test)


def test_a_fever_of_an_outage_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(desk: Desk) -> None:
        for seq, ago_ms, is_late in ((50, 100, False), (51, LATE_MS + 1, True), (52, 0, False)):
            if ago_ms:
                desk.lights.measured(5, seq, NOW - ago_ms)
            desk.answer(seq, verdict="alert")
            assert desk.shown[-1].late == is_late
        monkeypatch.setattr(lights_module, "EXPECTED_MAX", 10)
        for seq in range(60, 80):
            desk.lights.measured(5, seq, NOW)
        desk.answer(61)
        assert desk.shown[-1].late, "given up, so nobody waits for it"
        assert len(desk.lights._readings) == 10

    go(test)


def test_memory_is_bounded_and_what_was_given_up_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lights_module, "EXPECTED_MAX", 10)
    monkeypatch.setattr(lights_module, "EARLY_MAX", 10)

    async def test(desk: Desk) -> None:
        desk.lights.is_linked = False
        for seq in range(4, 34):
            desk.store(scans(CARD), seq)
        for seq in range(100, 140):
            desk.answer(seq)
        assert len(desk.lights._expected) == 10 and len(desk.lights._early) == 10
        desk.answer(10)
        assert desk.shown[-1].late
        desk.answer(30)
        assert not desk.shown[-1].late

    go(test)
