"""Gates: green on what is there, red on a kernel that was made slower, and never in silence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bench.__main__ as command
from bench import gates
from bench.gates import LIMITS, Gate, read_gates
from bench.gauge import Gauge, GaugeError, why_no_instructions
from bench.harness import SIZES, Case, Contender, Round
from bench.kernels import KERNELS

ROOT = Path(__file__).resolve().parents[2]


def run_gate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", "gate", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


# ---- a slowdown is caught -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def slower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree whose table of sightings hashes every key three times."""
    folder = tmp_path_factory.mktemp("slower")
    leave = shutil.ignore_patterns("__pycache__", "*.pyx")
    for name in ("bench", "engine", "native"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave)
    shutil.copy(ROOT / "native/dedup.pyx", folder / "native/dedup.pyx")
    shutil.copy(ROOT / "setup.py", folder / "setup.py")
    kernel = folder / "native/src/seen_kernel.h"
    text = kernel.read_text(encoding="utf-8")
    line = "key.hash = siphash_16(table->hash_key, key.sighting.person);"
    assert text.count(line) == 1
    kernel.write_text(
        text.replace(line, f"for (volatile int again = 0; again < 3; again++) {line}"),
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--force"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.skipif(bool(why_no_instructions()), reason=why_no_instructions() or "-")
def test_a_kernel_made_slower_is_red_and_the_others_are_not(slower: Path) -> None:
    done = run_gate(slower, "--only", "*.sightings", "--only", "instructions.records")
    assert done.returncode == 1, done.stdout + done.stderr
    (red,) = [line for line in done.stdout.splitlines() if line.startswith("RED")]
    limits = tomllib.loads(LIMITS.read_text(encoding="utf-8"))["instructions"]["sightings"]
    assert red.startswith(f"RED   instructions.sightings: was {limits['was']}, is ")
    assert f"limit {limits['limit']}" in red and limits["reason"] in done.stdout
    assert "2 of 3 gates hold, 1 red, 0 skipped" in done.stdout
    assert done.stderr == "bench: gate instructions.sightings is red\n"


# ---- what is counted ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gauge(tmp_path_factory: pytest.TempPathFactory) -> Gauge:
    return Gauge(tmp_path_factory.mktemp("gauge"))


def test_allocations_are_counted_one_by_one(gauge: Gauge) -> None:
    none = gauge.allocations(lambda: None)
    kept: list[bytes] = []

    def allocate() -> None:
        for _ in range(100):
            kept.append(bytes(300))  # a hundred objects, and a list that grows a few times

    assert 100 <= gauge.allocations(allocate) - none <= 120
    assert gauge.allocations(lambda: None) == none, "what was counted before counts no more"
    assert not gauge.is_counting


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_costs_the_same_every_time(name: str, gauge: Gauge, tmp_path: Path) -> None:
    work, units = KERNELS[name].set_up(tmp_path)
    work()
    first, second = gauge.allocations(work), gauge.allocations(work)
    assert units > 0 and abs(first - second) <= 0.01 * units + 2


def test_limits_are_of_what_is_there_and_have_a_reason() -> None:
    found = read_gates(LIMITS, command.CASES)
    assert {gate.name for gate in found} >= {f"instructions.{name}" for name in KERNELS}
    for gate in found:
        assert len(gate.reason) > 10
        assert gate.limit < gate.was if gate.is_ratio else gate.limit > gate.was, gate.name
        assert not gate.is_ratio or gate.size in SIZES


# ---- what is said -------------------------------------------------------------------------------


def test_a_gate_says_what_changed() -> None:
    gate = Gate("instructions.x", "instructions a row", 100, 115, "because of x", found=130)
    assert gate.is_red
    assert gate.line() == (
        "RED   instructions.x: was 100, is 130 instructions a row (+30.0 %), limit 115\n"
        "      because of x"
    )
    ratio = Gate("ratios.a.b", "times", 8, 5, "a goal", is_ratio=True, found=4.5)
    assert ratio.is_red and "(-43.8 %), least 5" in ratio.line()
    ratio.found = 20
    assert not ratio.is_red, "faster is never red"


def test_what_cannot_be_counted_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(gates.native.cpu, "active", lambda: "avx2")
    monkeypatch.setattr(gates, "Gauge", lambda folder: None)
    assert command.main(["gate", "--only", "instructions.records"]) == 0
    out = capsys.readouterr().out
    assert "skip  instructions.records: valgrind is not installed" in out
    assert "0 of 1 gates hold, 0 red, 1 skipped" in out


def test_limits_of_another_level_are_no_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gates.native.cpu, "active", lambda: "scalar")
    assert command.main(["gate", "--only", "instructions.records"]) == 0
    assert "limits are of avx2, this machine is scalar" in capsys.readouterr().out


def test_a_kernel_that_fails_under_callgrind_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise GaugeError("valgrind: it broke")

    monkeypatch.setattr(gates, "count_instructions", fail)
    monkeypatch.setattr(gates, "why_no_instructions", lambda: "")
    monkeypatch.setattr(gates.native.cpu, "active", lambda: "avx2")
    assert command.main(["gate", "--only", "instructions.records"]) == 1
    assert capsys.readouterr().err == "bench: valgrind: it broke\n"


def test_a_gate_that_is_not_there_is_an_error_of_use() -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["gate", "--only", "instructions.nothing"])
    assert stopped.value.code == 2


# ---- ratios -------------------------------------------------------------------------------------


class Sized(Contender):
    """Takes so many turns."""

    note = ""

    def __init__(self, name: str, turns: int, answer: bytes = b"") -> None:
        self.name, self._turns, self._answer = name, turns, answer

    def work(self, repetition: int) -> None:
        sum(range(self._turns))

    def answer(self) -> bytes:
        return self._answer


def case_of(*turns: int, answer: bytes = b"") -> dict[str, Case]:
    def set_up(params: object, place: object) -> Round:
        ours, theirs = turns
        return Round([Sized("ours", ours), Sized("peer", theirs, answer)], 1)

    params = {size: {"repetitions": 2} for size in SIZES}
    return {"sum": Case("sum", "sums", "sum", params, set_up)}


def ratio_gate(limit: float, peer: str = "peer") -> Gate:
    unit = "times our CPU time"
    return Gate(f"ratios.sum.{peer}", unit, 8, limit, "why", is_ratio=True, size="smoke")


def test_a_peer_that_takes_longer_holds_and_one_that_does_not_is_red() -> None:
    slow, fast = ratio_gate(2.0), ratio_gate(2.0)
    gates.measure_ratios([slow], case_of(100_000, 2_000_000))
    gates.measure_ratios([fast], case_of(2_000_000, 2_000_000))
    assert not slow.is_red and fast.is_red
    gone = ratio_gate(2.0, peer="nobody")
    gates.measure_ratios([gone], case_of(1000, 1000))
    assert not gone.is_red and gone.line() == "skip  ratios.sum.nobody: the peer is not installed"


def test_a_wrong_answer_is_no_ratio() -> None:
    with pytest.raises(GaugeError, match="peer answers"):
        gates.measure_ratios([ratio_gate(2.0)], case_of(1000, 1000, answer=b"other"))
