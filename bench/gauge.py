"""What a piece of work costs in figures that a busy machine does not change.

Instructions come from callgrind (valgrind), which simulates the processor, so that the same code
counts the same at any load; allocations from CPython's own allocators. A small library in C
(gauge.c) marks where counting begins and ends; it is built on the spot with the compiler that
built the core.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.harness import ROOT, no_collector

SOURCE: Final = Path(__file__).with_name("gauge.c")
TIMEOUT_S: Final = 600.0


class GaugeError(Exception):
    """Nothing can be counted; the text says why."""


class Gauge:
    """The library, loaded into this process."""

    def __init__(self, folder: Path) -> None:
        """folder: where the library is built. Raises GaugeError without a compiler."""
        path = folder / "gauge.so"
        words = [*(sysconfig.get_config_var("CC") or "cc").split(), "-O2", "-fPIC", "-shared"]
        words += [f"-I{sysconfig.get_path('include')}", str(SOURCE), "-o", str(path)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise GaugeError(f"no C compiler: {error}") from error
        if done.returncode:
            raise GaugeError(f"gauge.c does not build: {done.stderr.strip()[:500]}")
        # PyDLL: calls keep the GIL, which guards the count.
        self._library = ctypes.PyDLL(str(path))
        self._library.gauge_count_end.restype = ctypes.c_ulonglong

    @property
    def is_counting(self) -> bool:
        """Runs under callgrind."""
        return bool(self._library.gauge_is_counting())

    def mark(self, name: str, work: Callable[[], object]) -> None:
        """Does the work once between two marks."""
        with no_collector():
            self._library.gauge_begin()
            work()
            self._library.gauge_end(name.encode())

    def allocations(self, work: Callable[[], object]) -> int:
        """Allocations of Python objects and memory during the work."""
        with no_collector():
            self._library.gauge_count_begin()
            try:
                work()
            finally:
                count = int(self._library.gauge_count_end())
        return count


def why_no_instructions() -> str:
    """Empty where callgrind can count; else the reason, for a person to read."""
    if not sys.platform.startswith("linux"):
        return "callgrind runs on Linux alone"
    if shutil.which("valgrind") is None:
        return "valgrind is not installed (apt-get install valgrind)"
    if not Path("/usr/include/valgrind/callgrind.h").exists():
        return "valgrind's header callgrind.h is not installed"
    return ""


def count_instructions(names: Sequence[str], folder: Path) -> dict[str, float]:
    """Instructions a unit of each kernel of bench.kernels, counted in one process.

    Raises GaugeError with what the process said.
    """
    out = folder / "callgrind.out"
    words = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
    words += [sys.executable, "-m", "bench.gauge", str(folder), *names]
    # Hashes and memory that Python lays out at random would be other instructions each time.
    env = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=env, cwd=ROOT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GaugeError(f"valgrind: {error}") from error
    if done.returncode:
        raise GaugeError(f"valgrind: {done.stderr.strip()[-500:]}")
    units: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    found = {}
    for path in folder.glob("callgrind.out.*"):
        text = path.read_text(encoding="utf-8", errors="replace")
        name = re.search(r"^desc: Trigger: Client Request: (\w+)$", text, re.M)
        total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
        if name is not None and total is not None:
            found[name[1]] = int(total[1]) / units[name[1]]
    missing = set(names) - set(found)
    if missing:
        raise GaugeError(f"callgrind did not write of {', '.join(sorted(missing))}")
    return found


def main(words: list[str]) -> int:
    """Under callgrind: every kernel once to warm up, once between marks; prints their units."""
    from bench.kernels import KERNELS  # after the environment is set

    folder, *names = words
    gauge = Gauge(Path(folder))
    if not gauge.is_counting:
        print("bench.gauge: this does not run under valgrind", file=sys.stderr)
        return 1
    units = {}
    for name in names:
        work, units[name] = KERNELS[name].set_up(Path(folder))
        work()
        gauge.mark(name, work)
    print(json.dumps(units))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
