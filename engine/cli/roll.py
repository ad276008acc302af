"""Lists that `chot trace` reads: a roll of persons as CSV, a vehicle as lines.

Nothing that stands in them is quoted in a message.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from pathlib import Path
from typing import Any, Final

from engine.cli.parser import UseError, stdin

ROWS_MAX: Final = 10_000
_SIZE_MAX: Final = 16 << 20
_DATE: Final = re.compile(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})")
_DOCUMENTS: Final = ("cccd", "qid", "bhyt", "passport")
# Headings as lists have them, folded; those of the entrants' list (LI-1) are among them.
_HEADINGS: Final = {
    "cccd": ("cccd", "so cccd", "can cuoc cong dan", "so can cuoc"),
    "qid": ("qid", "ma dinh danh"),
    "bhyt": ("bhyt", "the bhyt", "so the bhyt"),
    "passport": ("passport", "ho chieu", "so ho chieu"),
    "country": ("country", "quoc tich"),
    "name": ("name", "ho ten", "ho va ten"),
    "birth": ("birth", "ngay sinh", "ngay thang nam sinh"),
}
_ROLL_WORDS: Final = (
    "a table with a head, columns " + ", ".join(_HEADINGS) + "; a line a person, others are ignored"
)
VEHICLE_WORDS: Final = "plate, trip or seat and what it is, as in: plate 74A-123.45"


def read_roll(name: str) -> list[dict[str, Any]]:
    """Rows of POST /v1/trace/roll of a CSV file, "-" for standard input. Raises UseError."""
    try:
        data = stdin(_ROLL_WORDS).read(_SIZE_MAX + 1) if name == "-" else _read_file(name)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UseError("the list is not UTF-8") from None
    if len(data) > _SIZE_MAX:
        raise UseError(f"the list is longer than {_SIZE_MAX >> 20} MB")
    head = text.partition("\n")[0]
    rows = csv.reader(
        io.StringIO(text), delimiter=";" if head.count(";") > head.count(",") else ","
    )
    try:
        columns = _read_head(next(rows, []))
        found = [_to_row(columns, cells) for cells in rows if any(cell.strip() for cell in cells)]
    except csv.Error:
        raise UseError(f"line {rows.line_num} of the list is no CSV") from None
    if not 1 <= len(found) <= ROWS_MAX:
        raise UseError(f"a list has 1 to {ROWS_MAX} persons, not {len(found)}; split it")
    return found


def read_vehicle() -> dict[str, str]:
    """plate, trip, seat as standard input names them, a line each. Raises UseError."""
    try:
        lines = stdin(VEHICLE_WORDS).read(4096).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UseError("standard input is not UTF-8") from None
    found: dict[str, str] = {}
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        kind, _, value = line.strip().partition(" ")
        if kind not in ("plate", "trip", "seat") or not value.strip() or kind in found:
            raise UseError(f"line {n} of standard input: {VEHICLE_WORDS}")
        found[kind] = value.strip()
    if not found.keys() & {"plate", "trip"}:
        raise UseError(f"no vehicle on standard input: {VEHICLE_WORDS}")
    return found


def _read_file(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(_SIZE_MAX + 1)
    except OSError as error:
        raise UseError(f"cannot read {name}: {error.strerror}") from None


def _read_head(cells: list[str]) -> dict[str, int]:
    """Positions of the columns that we know."""
    known = {heading: field for field, names in _HEADINGS.items() for heading in names}
    columns: dict[str, int] = {}
    for at, cell in enumerate(cells):
        field = known.get(_fold(cell))
        if field is not None:
            columns.setdefault(field, at)
    if not columns.keys() & {*_DOCUMENTS, "name"}:
        raise UseError(f"the list has no column of numbers or names; it is {_ROLL_WORDS}")
    return columns


def _to_row(columns: dict[str, int], cells: list[str]) -> dict[str, Any]:
    def cell(field: str) -> str:
        at = columns.get(field, len(cells))
        # Spreadsheets mark text that looks like a number with an apostrophe.
        return cells[at].strip().removeprefix("'")[:120] if at < len(cells) else ""

    country = cell("country")
    is_code = len(country) <= 3
    documents: list[dict[str, str]] = []
    for kind in _DOCUMENTS:
        if value := cell(kind)[:64]:
            issuer = {"issuer": country.upper()} if kind == "passport" and is_code else {}
            documents.append({"kind": kind, "value": value, **issuer})
    birth = cell("birth")
    if match := _DATE.fullmatch(birth):
        birth = f"{match[3]}-{int(match[2]):02d}-{int(match[1]):02d}"
    return {
        "documents": documents,
        "name": cell("name"),
        "birth": birth if len(birth) == 10 else "",
        "country": country.upper() if is_code else "",
    }


def _fold(text: str) -> str:
    plain = unicodedata.normalize("NFD", text.casefold().replace("đ", "d"))
    return " ".join("".join(c for c in plain if not unicodedata.combining(c)).split())
