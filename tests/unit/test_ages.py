"""Ages: when the messages of a spool were stored, to a second, in bounded memory."""

from __future__ import annotations

import pytest

from engine.gateway import status as gateway_status
from engine.gateway.status import Ages


def test_to_a_second_and_by_epoch() -> None:
    ages = Ages()
    for seq, at_ms in [(1, 0), (2, 300), (3, 1_200), (4, 1_300), (9, 5_000)]:
        ages.note(7, seq, at_ms)
    found = [ages.stored_ms(7, seq) for seq in (1, 2, 3, 4, 8, 9, 20)]
    assert found == [0, 0, 1_200, 1_200, 1_200, 5_000, 5_000]
    assert ages.stored_ms(8, 1) == 0
    ages.forget(7, 4)
    assert [ages.stored_ms(7, seq) for seq in (4, 9)] == [1_200, 5_000]
    ages.forget(7, 100)
    assert ages.stored_ms(7, 100) == 5_000


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_status, "AGES_MAX", 100)
    ages = Ages()
    for seq in range(10_000):
        ages.note(1, seq, seq * 1_000)
    assert len(ages._seqs[1]) <= 100
    assert ages.stored_ms(1, 0) == 0, "the oldest is never made younger"
    found = [ages.stored_ms(1, seq) for seq in range(10_000)]
    assert all(at_ms <= seq * 1_000 for seq, at_ms in enumerate(found))
    assert found == sorted(found) and found[9_999] == 9_999_000, "the newest are right"
    assert len(set(found)) > 50, "and so are half of what is kept"
