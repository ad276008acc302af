"""Answers about holds, corrections and persons' own requests as tables and CSV."""

from __future__ import annotations

from typing import Any, Final

from engine.client.api_client import to_cell, to_csv, to_json, to_lines

_EXPORT_COLUMNS: Final = (
    *("record", "time", "end", "end_rule", "place", "place_name", "lane", "kind", "direction"),
    *("source", "flags", "temperature", "details", "unit", "role", "purpose", "question"),
)


def render_holds(answer: dict[str, Any], form: str) -> str:
    """Holds, or one that was set or ended. form: "table" or "json"."""
    if form == "json":
        return to_json(answer)
    lines: list[tuple[str, ...]] = [("number", "case", "until", "days", "unit", "who", "reason")]
    for hold in answer.get("holds", [answer]):
        days = hold["days"]
        spans = f"{days[0]} .. {days[-1]} ({len(days)})" if len(days) > 1 else " ".join(days)
        lines.append(
            (
                str(hold["number"]),
                to_cell("", hold["case"]),
                to_cell("end", hold["until"]),
                spans or "none now",
                *(to_cell("", hold[name]) for name in ("unit", "who", "reason")),
            )
        )
    return to_lines(lines)


def render_corrections(answer: dict[str, Any], form: str) -> str:
    """Corrections, or one that was made or taken back. form: "table" or "json"."""
    if form == "json":
        return to_json(answer)
    columns = ("number", "place_name", "at", "from", "to", "case", "unit", "reason")
    lines: list[tuple[str, ...]] = [(*(name.replace("_", " ") for name in columns), "person")]
    for one in answer.get("corrections", [answer]):
        times = {"at": "start", "from": "start", "to": "end"}
        shown = tuple(to_cell(times.get(name, name), one[name]) for name in columns)
        lines.append((*shown, " ".join(one["persons"])))
    return to_lines(lines)


def render_erased(answer: dict[str, Any], form: str) -> str:
    """form: "table" or "json"."""
    if form == "json":
        return to_json(answer)
    return (
        f"erased: {answer['rows']} rows in {answer['groups']} groups, {answer['records']} records"
        f" of the control log\nrefused from now on: scans from before {answer['until']}\n"
        f"erasure {answer['number']}\n"
    )


def render_export(answer: dict[str, Any], form: str) -> str:
    """form: "table", "json" or "csv"."""
    if form == "json":
        return to_json(answer)
    rows = [
        *({"record": "scan", **scan, "details": _details(scan)} for scan in answer["scans"]),
        *({"record": "stay", "time": stay["start"], **stay} for stay in answer["stays"]),
        *({"record": "asked", **asked} for asked in answer["asked"]),
    ]
    if form == "csv":
        return to_csv(_EXPORT_COLUMNS, rows)
    columns = ("record", "time", "end", "place_name", "direction", "unit", "question", "details")
    times = {"time": "start", "end": "end"}
    lines: list[tuple[str, ...]] = [tuple(name.replace("_", " ") for name in columns)]
    lines += [
        tuple(to_cell(times.get(name, ""), row.get(name)) for name in columns) for row in rows
    ]
    counts = [f"{len(answer[name])} {name}" for name in ("scans", "stays", "asked")]
    return f"{to_lines(lines)}\n{', '.join(counts)}; audit record {answer['audit']}\n"


def _details(scan: dict[str, Any]) -> str:
    return "; ".join(f"{name} {value}" for name, value in scan["details"].items())
