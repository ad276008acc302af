"""The goals of the QR reader as rows: what was measured, what was wanted, and whether it is met."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from bench.decoders import Reading
from bench.qr_score import Score, passages_of, score
from bench.qr_sets import Shot
from bench.tables import table

ZX: Final = "zxing"
PEERS: Final = ("zxing-one", "zxing-cascade")


@dataclass(slots=True)
class Row:
    """One goal. cells: by column, "chot" or a baseline. is_met: None where nothing was measured."""

    key: str
    what: str
    goal: str
    cells: dict[str, str] = field(default_factory=dict)
    is_met: bool | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def skip(self, reason: str) -> Row:
        self.cells["chot"] = f"skipped: {reason}"
        self.facts["skipped"] = reason
        return self


@dataclass(slots=True)
class Measured:
    """The frames of one batch without their pixels, and what every reader did with them."""

    name: str
    label: str
    shots: list[Shot]
    readings: dict[str, Reading]
    scores: dict[str, Score] = field(default_factory=dict)
    dense: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scores = {name: score(self.shots, r) for name, r in self.readings.items()}
        certificates = {p.name for p in passages_of(self.shots) if p.text.is_dense}
        self.dense = [bool(certificates & set(shot.passages)) for shot in self.shots]


Chosen = Callable[[Measured, int], bool]


def everything(_: Measured, __: int) -> bool:
    return True


@dataclass(slots=True)
class Part:
    """Some frames of some batches: what the rows are summed over."""

    frames: list[tuple[Measured, int]]

    @classmethod
    def of(cls, batches: Iterable[Measured], chosen: Chosen = everything) -> Part:
        return cls([(m, n) for m in batches for n in range(len(m.shots)) if chosen(m, n)])

    def has(self, door: str) -> bool:
        return bool(self.frames) and all(door in m.readings for m, _ in self.frames)

    def ns(self, door: str) -> int:
        return int(sum(m.readings[door].ns[n] for m, n in self.frames))

    def mean_us(self, door: str) -> float:
        return self.ns(door) / 1000 / max(1, len(self.frames))

    def ratio(self, door: str, base: str = ZX) -> float:
        return self.ns(base) / max(1, self.ns(door))

    def tail(self, door: str) -> float:
        """99th percentile of the reader's time by the baseline's, frame by frame."""
        shares = [m.readings[door].ns[n] / max(1, m.readings[ZX].ns[n]) for m, n in self.frames]
        return float(np.percentile(shares, 99))

    def hits(self, door: str) -> tuple[int, int]:
        """(frames with a hit, frames with known texts)."""
        seen = [m.scores[door].hit[n] for m, n in self.frames]
        known = [is_hit for is_hit in seen if is_hit is not None]
        return sum(known), len(known)

    def share(self, door: str) -> float:
        hits, known = self.hits(door)
        return 100 * hits / max(1, known)

    def lost_won(self, door: str) -> tuple[list[str], list[str]]:
        """Names of frames only the baseline hits, and only the reader."""
        lost, won = [], []
        for m, n in self.frames:
            theirs, mine = m.scores[ZX].hit[n], m.scores[door].hit[n]
            lost += [m.shots[n].name] if theirs and not mine else []
            won += [m.shots[n].name] if mine and not theirs else []
        return lost, won

    def texts_lost_won(self, door: str) -> tuple[list[str], list[str]]:
        """The same of every text of a frame."""
        lost, won = [], []
        for m, n in self.frames:
            theirs, mine = m.scores[ZX].texts[n], m.scores[door].texts[n]
            for text, a, b in zip(m.shots[n].known or [], theirs, mine, strict=True):
                lost += [f"{m.shots[n].name}: {text.text[:60]}"] if a and not b else []
                won += [f"{m.shots[n].name}: {text.text[:60]}"] if b and not a else []
        return lost, won

    def invented(self, door: str) -> list[str]:
        """Contents that neither the truth nor the baseline gives."""
        found = []
        for m, n in self.frames:
            theirs = set(m.readings[ZX].found[n])
            strange = [c for c in m.scores[door].wrong[n] if c not in theirs]
            found += [f"{door}: {m.shots[n].name}: {c[:60]!r}" for c in strange]
        return found


# ---- lanes --------------------------------------------------------------------------------------


def passage_counts(batches: list[Measured], door: str) -> dict[str, Any]:
    """Passages known, read by the baseline and by the reader, lost, and read later than it."""
    counts: dict[str, Any] = {"known": 0, "zxing": 0, "read": 0, "lost": [], "later": []}
    for m in batches:
        for name, theirs in m.scores[ZX].first.items():
            mine = m.scores[door].first[name]
            counts["known"] += 1
            counts["zxing"] += theirs is not None
            counts["read"] += mine is not None
            if theirs is not None and mine is None:
                counts["lost"].append(f"{m.name}: passage {name}")
            if theirs is not None and mine is not None and mine > theirs:
                counts["later"].append(f"{m.name}: passage {name}, {mine - theirs} frames")
    return counts


def first_read(batches: list[Measured], door: str) -> float:
    """Median number of frames from the first whole one to the first read."""
    firsts = [v for m in batches for v in m.scores[door].first.values() if v is not None]
    return float(np.median(firsts)) if firsts else float("nan")


def errors_of(batches: list[Measured], door: str) -> dict[str, list[str]]:
    """Frames with stale contents, with wrong ones, and empty frames with any."""
    found: dict[str, list[str]] = {"stale": [], "wrong": [], "empty": []}
    for m in batches:
        marks = m.scores[door]
        for n, shot in enumerate(m.shots):
            what = f"{shot.name}: {[c[:60] for c in m.readings[door].found[n]]}"
            if marks.stale[n] and not shot.is_empty:
                found["stale"].append(what)
            elif marks.wrong[n] and not shot.is_empty:
                found["wrong"].append(what)
            if shot.is_empty and m.readings[door].found[n]:
                found["empty"].append(what)
    return found


def hit_cells(part: Part, doors: Iterable[str]) -> dict[str, str]:
    return {name: f"{part.share(name):.1f} %" for name in doors if part.has(name)}


def time_cells(part: Part) -> dict[str, str]:
    """Columns of the baselines in rows of time."""
    cells = {ZX: f"{part.mean_us(ZX):.0f} µs"}
    return cells | {name: f"{part.ratio(name):.2f}x" for name in PEERS if part.has(name)}


def time_facts(part: Part, doors: Iterable[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {"frames": len(part.frames)}
    for name in (ZX, *PEERS, *doors):
        if part.has(name):
            facts[f"{name}_us"] = round(part.mean_us(name), 1)
            facts[f"{name}_ratio"] = round(part.ratio(name), 2)
    return facts


# ---- print --------------------------------------------------------------------------------------


def to_markdown(rows: list[Row]) -> str:
    columns = ("chot", ZX, *PEERS)
    lines = [
        f"| row | what | goal | {' | '.join(columns)} | met |",
        "|---" * (4 + len(columns)) + "|",
    ]
    for row in rows:
        met = {True: "yes", False: "no", None: ""}[row.is_met]
        cells = " | ".join(row.cells.get(column, "") for column in columns)
        lines.append(f"| {row.key} | {row.what} | {row.goal} | {cells} | {met} |")
    return "\n".join(lines)


def conditions_of(batches: list[Measured], door: str) -> list[list[str]]:
    """Lane clips by condition, to see where the time goes and what is missed; cells of a table."""
    rows = []
    for label in dict.fromkeys(m.label for m in batches):
        some = [m for m in batches if m.label == label]
        part, p = Part.of(some), passage_counts(some, door)
        rows.append(
            [label, str(len(part.frames)), f"{part.mean_us(ZX):.0f} µs", f"{part.ratio(door):.2f}x",
             f"{part.share(ZX):.1f} %", f"{part.share(door):.1f} %",
             f"{p['read']}/{p['zxing']}/{p['known']}", str(len(p["lost"])), str(len(p["later"]))]
        )  # fmt: skip
    return rows


def conditions_to_markdown(rows: list[list[str]], door: str) -> str:
    columns = [
        "clips", "frames", "zxing", door, "hits zxing", f"hits {door}", "passages", "lost", "later",
    ]  # fmt: skip
    return table(columns, rows)
