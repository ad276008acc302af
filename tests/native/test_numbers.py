"""native.numbers: persons by key, rows made scans, the newest row of each."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from engine.colocation.index import NEWEST
from engine.presence.visits import SCAN
from engine.scans.rows import ROW, Kind
from native.numbers import PersonNumbers
from native.scans import ScanRun


def rows_of(keys: list[bytes], rng: random.Random) -> np.ndarray:
    rows = np.zeros(len(keys), ROW)
    rows["person"] = np.frombuffer(b"".join(keys), "V16")
    for name in ("place", "vehicle", "stay_ms", "area"):
        rows[name] = [rng.randrange(2**16) for _ in keys]
    rows["time_ms"] = [rng.randrange(-(2**40), 2**40) for _ in keys]
    rows["lane"] = [rng.randrange(2**16) for _ in keys]
    rows["direction"] = [rng.randrange(3) for _ in keys]
    rows["kind"] = [rng.randrange(1, 6) for _ in keys]
    return rows


def test_rows_become_scans_with_numbers() -> None:
    rng = random.Random(1)
    people = [rng.randbytes(16) for _ in range(5000)]
    # Keys that share all but one byte, whichever it is.
    people += [bytes(n) + b"\1" + bytes(15 - n) for n in range(16)] + [bytes(16), b"\xff" * 16]
    numbers, known = PersonNumbers(), {}
    newest: dict[int, tuple[int, int]] = {}
    for lsn in (1, 2, 5, 2**44 - 1):
        rows = rows_of(rng.choices(people, k=6000), rng)
        found = np.frombuffer(numbers.number(rows.data, lsn), SCAN)
        at = np.flatnonzero(~np.isin(rows["kind"], [Kind.READING, Kind.ERASED]))
        for key in rows["person"][at].tolist():
            known.setdefault(key, len(known))
        assert found["person"].tolist() == [known[key] for key in rows["person"][at].tolist()]
        assert found["ref"].tolist() == [(lsn << 20) + int(n) for n in at]
        for name in ("time_ms", "place", "vehicle", "stay_ms", "lane", "direction", "kind"):
            assert (found[name] == rows[name][at]).all()
        run = ScanRun([found.tobytes()])
        for first in range(0, len(run), 100):
            numbers.note_newest(run, first, first + 100)
        for scan in found:
            who = int(scan["person"])
            newest[who] = max(newest.get(who, (-(2**62), 0)), (scan["time_ms"], scan["ref"]))
    assert len(numbers) == len(known)
    keys, rows_newest = numbers.columns()
    assert [bytes(keys[16 * n : 16 * n + 16]) for n in range(len(known))] == [*known]
    assert np.frombuffer(rows_newest, NEWEST, len(known)).tolist() == [
        newest[n] for n in range(len(known))
    ]
    assert all(numbers.find(key) == number for key, number in known.items())
    for nobody in (rng.randbytes(16), b"", bytes(15), bytes(17)):
        assert numbers.find(nobody) == -1


def test_who_holds_the_columns_keeps_what_they_held() -> None:
    rng = random.Random(2)
    numbers = PersonNumbers()
    first = rows_of([rng.randbytes(16) for _ in range(10)], rng)
    first["kind"] = Kind.SCAN
    run = ScanRun([numbers.number(first.data, 1)])
    numbers.note_newest(run, 0, 10)
    keys, newest = numbers.columns()
    kept = bytes(keys[:160]), bytes(newest[:160])
    numbers.number(rows_of([rng.randbytes(16) for _ in range(9000)], rng).data, 2)
    grown = numbers.columns()
    assert grown[0] is not keys
    assert len(numbers.forget_before(2**62, b"")) == 4 * 10
    assert (bytes(keys[:160]), bytes(newest[:160])) == kept
    assert bytes(grown[0][:160]) == kept[0]
    assert not any(numbers.columns()[1][: 16 * len(numbers)])
    assert not any(numbers.columns()[0][:160])


def test_who_is_dropped_leaves_a_hole() -> None:
    rng = random.Random(4)
    numbers = PersonNumbers()
    # Sixteen zeros are a key like others, and look like a hole.
    known = [bytes(16), *(rng.randbytes(16) for _ in range(1500))]
    rows = rows_of(known, rng)
    rows["kind"] = Kind.SCAN
    rows["time_ms"] = np.arange(len(rows))
    run = ScanRun([numbers.number(rows.data, 1)])
    numbers.note_newest(run, 0, len(run))
    spared = np.array([3], "<u4")
    gone = np.frombuffer(numbers.forget_before(700, spared.tobytes()), "<u4").tolist()
    assert gone == [0, 1, 2, *range(4, 700)]
    assert [numbers.find(known[n]) for n in (3, 700, 1500)] == [3, 700, 1500]
    assert {numbers.find(known[n]) for n in gone} == {-1}
    assert np.flatnonzero(np.frombuffer(numbers.holes(), "u1")).tolist() == gone
    again = np.frombuffer(numbers.number(rows[:6].data, 2), SCAN)["person"]
    assert again.tolist() == [1501, 1502, 1503, 3, 1504, 1505]
    keys = bytes(numbers.columns()[0][: 16 * len(numbers)])
    other = PersonNumbers()
    other.load(keys[:1600], numbers.holes()[:100])
    other.load(keys[1600:], numbers.holes()[100:])
    assert len(other) == len(numbers) == 1506
    for n in (3, 700, 1500):
        assert other.find(known[n]) == n
    assert (other.find(known[0]), other.find(known[1])) == (1501, 1502)
    more = rows_of([rng.randbytes(16) for _ in range(9000)], rng)
    other.number(more.data, 3)
    assert (other.find(known[0]), other.find(known[5])) == (1501, 1505)
    with pytest.raises(ValueError, match=r"^keys has a broken size$"):
        other.load(bytes(15), b"\0")


def test_a_wild_clock_is_taken_for_the_end_of_time() -> None:
    rows = np.zeros(2, ROW)
    rows["time_ms"], rows["kind"] = [2**63 - 1, -(2**63)], Kind.SCAN
    found = np.frombuffer(PersonNumbers().number(rows.data, 1), SCAN)
    assert found["time_ms"].tolist() == [2**61, -(2**61)]
    ScanRun([found.tobytes()])


def test_bad_input_is_refused() -> None:
    numbers = PersonNumbers()
    for size in (1, 47, 49):
        with pytest.raises(ValueError, match=r"^rows has a broken size$"):
            numbers.number(bytes(size), 1)
    for lsn in (0, -1, 2**44, 2**64):
        with pytest.raises(ValueError, match=r"^lsn is out of range$"):
            numbers.number(b"", lsn)
    with pytest.raises(ValueError, match=r"^rows are too many$"):
        numbers.number(bytes(48 * (2**20 + 1)), 1)
    stranger = np.zeros(1, SCAN)
    with pytest.raises(ValueError, match=r"^a person has no number$"):
        numbers.note_newest(ScanRun([stranger.tobytes()]), 0, 1)
    wrongs: list[Any] = [None, 1, "rows"]
    for wrong in wrongs:
        with pytest.raises(TypeError):
            numbers.number(wrong, 1)
        with pytest.raises(TypeError):
            numbers.find(wrong)
        with pytest.raises(TypeError):
            numbers.note_newest(wrong, 0, 1)
    with pytest.raises(TypeError, match=r"pickled"):
        numbers.__reduce__()
    assert len(numbers) == 0
