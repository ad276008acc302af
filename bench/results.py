"""Results of runs that were kept: JSON lines under bench/results, a file a case, oldest first."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

from bench.harness import ROOT, UsageError

FOLDER: Final = ROOT / "bench" / "results"


def keep(line: dict[str, Any], folder: Path = FOLDER) -> None:
    """Adds a line with its date; one whose answer was wrong is not kept."""
    if line.get("wrong"):
        return
    folder.mkdir(exist_ok=True)
    told = {"date": time.strftime("%Y-%m-%d", time.gmtime()), **line}
    with (folder / f"{name_of(line)}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(told, ensure_ascii=False) + "\n")


def name_of(line: dict[str, Any]) -> str:
    """Of the case, or of what is run alone (`python -m bench growth`)."""
    name: str = line["case"] if "case" in line else line["bench"]
    return name


def load(folder: Path = FOLDER) -> dict[str, list[dict[str, Any]]]:
    """Lines by case, oldest first. Raises UsageError for a line that is none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for n, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                line = json.loads(text)
                found.setdefault(name_of(line), []).append(line)
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{path.name}, line {n}, is no result: {error}") from error
    return found


def newest(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The last line of the largest size there is."""
    for size in ("large", "small"):
        of_size = [line for line in lines if line.get("size", "large") == size]
        if of_size:
            return of_size[-1]
    return None
