"""`python -m bench gate`: has a hot path become slower? Limits stand in gates.toml, with reasons.

Three kinds, all of which hold on a busy machine: instructions of kernels (callgrind), allocations
of kernels, and ratios of CPU time to peers that take turns with ours in one process. A ratio that
falls short is measured once more, and the better of the two counts: what became slow stays slow.
Exit status 0 when all hold, 1 when one does not, 2 for an error of use. What cannot be measured
here is skipped and said.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import native.cpu
from bench.gauge import Gauge, GaugeError, count_instructions, why_no_instructions
from bench.harness import Case, UsageError, run_case
from bench.kernels import KERNELS

LIMITS: Final = Path(__file__).with_name("gates.toml")
REPETITIONS: Final = 3  # of a ratio's case


@dataclass(slots=True)
class Gate:
    """One limit, and what was found.

    name: kind and path in gates.toml. is_ratio: less than the limit is red, not more. found: None
    until it is measured; skipped: why it cannot be.
    """

    name: str
    unit: str
    was: float
    limit: float
    reason: str
    is_ratio: bool = False
    size: str = ""
    found: float | None = None
    skipped: str = ""

    @property
    def is_red(self) -> bool:
        if self.found is None:
            return False
        return self.found < self.limit if self.is_ratio else self.found > self.limit

    def line(self) -> str:
        if self.found is None:
            return f"skip  {self.name}: {self.skipped}"
        change = (self.found / self.was - 1) * 100 if self.was else 0.0
        side = "least" if self.is_ratio else "limit"
        said = (
            f"{self.name}: was {number(self.was)}, is {number(self.found)} {self.unit}"
            f" ({change:+.1f} %), {side} {number(self.limit)}"
        )
        return f"RED   {said}\n      {self.reason}" if self.is_red else f"ok    {said}"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def add_parser(actions: Any) -> None:
    words = actions.add_parser("gate", help="has a hot path become slower? limits: gates.toml")
    words.add_argument(
        "--only", action="append", metavar="NAME", help="gates of this name; * stands for anything"
    )
    words.add_argument(
        "--print",
        action="store_true",
        help="today's figures alone; exit status 0",
    )


def run_words(chosen: argparse.Namespace, cases: dict[str, Case]) -> int:
    gates = read_gates(LIMITS, cases)
    if chosen.only:
        gates = [g for g in gates if any(fnmatch.fnmatch(g.name, only) for only in chosen.only)]
        if not gates:
            raise UsageError(f"there is no gate {' or '.join(chosen.only)}")
    with tempfile.TemporaryDirectory(prefix="chot-bench-") as scratch:
        measure_kernels(gates, Path(scratch))
    measure_ratios(gates, cases)
    for gate in gates:
        if chosen.print:
            print(f"{gate.name} = {gate.found if gate.found is not None else gate.skipped}")
        else:
            print(gate.line())
    if chosen.print:
        return 0
    red = [gate for gate in gates if gate.is_red]
    skipped = sum(gate.found is None for gate in gates)
    held = len(gates) - len(red) - skipped
    print(f"{held} of {len(gates)} gates hold, {len(red)} red, {skipped} skipped", flush=True)
    for gate in red:
        print(f"bench: gate {gate.name} is red", file=sys.stderr)
    return 1 if red else 0


# ---- limits -------------------------------------------------------------------------------------


def read_gates(path: Path, cases: dict[str, Case]) -> list[Gate]:
    """Raises UsageError for a limit of what is not there."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    level = tables["instructions"].pop("level")
    found = [*_kernel_gates(tables, "instructions"), *_kernel_gates(tables, "allocations")]
    if native.cpu.active() != level:
        for gate in found:
            if gate.name.startswith("instructions."):
                gate.skipped = f"limits are of {level}, this machine is {native.cpu.active()}"
    for case, peers in tables["ratios"].items():
        if case not in cases:
            raise UsageError(f"{path.name}: there is no case {case!r}")
        for peer, limits in peers.items():
            unit = "times our CPU time"
            found.append(Gate(f"ratios.{case}.{peer}", unit, is_ratio=True, **limits))
    return found


def _kernel_gates(tables: dict[str, Any], kind: str) -> Iterator[Gate]:
    for kernel, limits in tables[kind].items():
        if kernel not in KERNELS:
            raise UsageError(f"{LIMITS.name}: there is no kernel {kernel!r}")
        yield Gate(f"{kind}.{kernel}", f"{kind} a {KERNELS[kernel].unit}", **limits)


# ---- measuring ----------------------------------------------------------------------------------


def measure_kernels(gates: list[Gate], folder: Path) -> None:
    counted = [g for g in gates if g.name.startswith("instructions.") and not g.skipped]
    allocating = [g for g in gates if g.name.startswith("allocations.")]
    if not counted and not allocating:
        return
    try:
        gauge = Gauge(folder)
    except GaugeError as error:
        for gate in (*counted, *allocating):
            gate.skipped = str(error)
        return
    if counted and (why := why_no_instructions()):
        for gate in counted:
            gate.skipped = why
    elif counted:
        # A failing valgrind is no reason to pass: GaugeError goes up.
        names = [gate.name.partition(".")[2] for gate in counted]
        for gate, found in zip(counted, _in_order(names, folder), strict=True):
            gate.found = found
    for gate in allocating:
        work, units = KERNELS[gate.name.partition(".")[2]].set_up(folder)
        work()
        gate.found = gauge.allocations(work) / units


def _in_order(names: list[str], folder: Path) -> list[float]:
    found = count_instructions(names, folder)
    return [found[name] for name in names]


def measure_ratios(gates: list[Gate], cases: dict[str, Case]) -> None:
    wanted: dict[tuple[str, str], list[Gate]] = {}
    for gate in gates:
        if gate.is_ratio:
            wanted.setdefault((gate.name.split(".")[1], gate.size), []).append(gate)
    for (name, size), of_case in wanted.items():
        params = {**cases[name].params[size], "repetitions": REPETITIONS}
        case = dataclasses.replace(cases[name], params={size: params})
        for _ in range(2):
            line = run_case(case, size, only={peer_of(gate) for gate in of_case})
            if line["wrong"]:
                raise GaugeError(f"{name}: {'; '.join(line['wrong'])}")
            for gate in of_case:
                ratio = line["cpu_ratios"].get(peer_of(gate))
                if ratio is None:
                    gate.skipped = "the peer is not installed"
                else:
                    gate.found = max(gate.found or 0.0, ratio)
            if not any(gate.is_red for gate in of_case):
                break


def peer_of(gate: Gate) -> str:
    return gate.name.split(".", 2)[2]
