"""Plots of kept results as SVG, by matplotlib; the same results give the same bytes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

Line = dict[str, Any]
Lines = Mapping[str, Line]

INK: Final = "#1f2937"
OURS: Final = "#2563eb"
THEIRS: Final = "#9ca3af"
WARN: Final = "#dc2626"
AWAY: Final = "#fde68a"

# What the first page shows of the cases: the case, in words, and the peers by name.
HEADLINES: Final = (
    ("decode", "a lane's camera frame, JPEG to codes", ("zxing", "zbar", "opencv")),
    ("jpeg", "a camera frame, JPEG to grey values", ("simplejpeg",)),
    ("commit", "a row made durable, groups of 1,000",
     ("py-lmdb rows", "sqlite", "duckdb", "rocksdb", "postgresql", "redis", "pwrite+fdatasync")),
    ("records", "a record from bytes", ("msgspec",)),
    ("ingest", "a check-in from wire to durable", ("python",)),
    ("receive_1", "a check-in by itself, on a socket", ("websockets", "aiohttp")),
    ("contacts", "who met this person in 14 days",
     ("sqlite", "numpy", "duckdb", "postgresql")),
)  # fmt: skip


def draw(newest: Lines, folder: Path) -> Iterator[str]:
    """A sentence for each picture: written, or why not."""
    if importlib.util.find_spec("matplotlib") is None:
        yield "no pictures: matplotlib is not installed (pip install .[bench])"
        return
    for name, plot in PLOTS.items():
        path = folder / f"{name}.svg"
        if plot(newest, path):
            yield f"{path.name}: written"
        else:
            yield f"{path.name}: no run of it is kept"


def figure(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    # Text as text, and identifiers that do not change from run to run.
    matplotlib.rcParams |= {
        "svg.fonttype": "none", "svg.hashsalt": "chot", "font.family": "sans-serif",
        "axes.spines.top": False, "axes.spines.right": False, "text.color": INK,
    }  # fmt: skip
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height))
    return made, made.add_subplot()


def save(made: Any, path: Path) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return True


def ratios(newest: Lines, path: Path) -> bool:
    """How many times longer the peers of the first page take."""
    bars = [
        (f"{name}: {peer}", newest[name]["ratios"][peer])
        for name, _, peers in HEADLINES
        if name in newest
        for peer in peers
        if peer in newest[name]["ratios"] and peer not in newest[name]["over_floor"]
    ]
    if not bars:
        return False
    made, axes = figure(7.5, 0.9 + 0.3 * len(bars))
    names, values = [name for name, _ in bars][::-1], [value for _, value in bars][::-1]
    axes.barh(names, values, color=[OURS if value >= 1 else THEIRS for value in values])
    axes.set_xscale("log")
    axes.axvline(1, color=INK, linewidth=0.8)
    for n, value in enumerate(values):
        axes.text(max(value, 1) * 1.04, n, f"{value:.3g}", va="center", fontsize=9)
    axes.set_xlabel("times as long as chot takes, same run (right of 1: chot is faster)")
    return save(made, path)


def core_lanes(newest: Lines, path: Path) -> bool:
    line = newest.get("core_lanes")
    if line is None:
        return False
    steps = sorted(line["figures"]["steps"], key=lambda step: step["lanes"])
    made, axes = figure(7.5, 3.6)
    lanes = [step["lanes"] for step in steps]
    for name, colour in (("verdict_p50_ms", THEIRS), ("verdict_p99_ms", OURS)):
        axes.plot(lanes, [step[name] for step in steps], "o-", color=colour, label=name[8:11])
    axes.axhline(100, color=WARN, linewidth=0.8)
    axes.axvline(line["figures"]["lanes"], color=INK, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.set_xlabel("lanes of 15 frames/s, 720p JPEG, on one core")
    axes.set_ylabel("verdict, ms")
    axes.legend(frameon=False)
    return save(made, path)


def day(newest: Lines, path: Path) -> bool:
    """Check-ins that came and that became durable, second by second."""
    line = newest.get("day")
    if line is None:
        return False
    timeline = line["figures"]["timeline"]
    made, axes = figure(7.5, 3.6)
    for begun, ended in timeline["away_s"]:
        axes.axvspan(begun, ended, color=AWAY)
    axes.plot(timeline["due"], color=THEIRS, label="check-ins that came")
    axes.plot(timeline["durable"], color=OURS, label="with a receipt")
    axes.set_xlabel("seconds; yellow: no link, or no engine")
    axes.set_ylabel("a second")
    axes.legend(frameon=False)
    return save(made, path)


def scale(newest: Lines, path: Path) -> bool:
    line = newest.get("scale")
    if line is None:
        return False
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    figure(1, 1)
    curves = line["figures"]["curves"]
    made = Figure(figsize=(7.5, 2.6 * ((len(curves) + 1) // 2)))
    for n, curve in enumerate(curves, 1):
        axes = made.add_subplot((len(curves) + 1) // 2, 2, n)
        at = [point["at"] for point in curve["points"]]
        for k, name in enumerate(curve["unit_names"]):
            axes.plot(at, [point["values"][k] for point in curve["points"]], "o-", label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(curve["by"])
        axes.set_title(curve["what"], fontsize=9)
        axes.legend(frameon=False, fontsize=8)
    made.tight_layout()
    return save(made, path)


PLOTS: Final[dict[str, Callable[[Lines, Path], bool]]] = {
    "ratios": ratios,
    "core_lanes": core_lanes,
    "day": day,
    "scale": scale,
}
