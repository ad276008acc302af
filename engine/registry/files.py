"""Files of tables: which table a file or sheet holds, its records with their lines, its faults."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import NotFound, RegistryInvalid
from engine.registry.csv_tables import csv_to_lines, write_csv
from engine.registry.registry import Change, change_to_text
from engine.registry.tables import (
    TABLE_ORDER,
    TABLE_SIZE_MAX,
    TABLES,
    Line,
    judge_lines,
    raise_faults,
)
from engine.registry.xlsx_tables import write_xlsx, xlsx_to_lines


@dataclass(slots=True)
class ReadTables:
    """found: (file and line, change) of each line that is good in itself; faults: of the others."""

    found: list[tuple[str, Change]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, table: str, file: str, lines: Sequence[Line]) -> None:
        """Raises RegistryInvalid for a heading that does not fit."""
        try:
            found, faults = judge_lines(table, lines)
        except RegistryInvalid as error:
            raise _within(file, error) from None
        self.found += [(f"{file} line {line}", change) for line, change in found]
        self.faults += [f"{file} {fault}" for fault in faults]

    def with_lines(self, rows: Sequence[str]) -> list[str]:
        """Faults that the registry told ("venue 7: …") with file and line before them."""
        where = {change_to_text(change): line for line, change in reversed(self.found)}
        told = []
        for row in rows:
            # The text of a code may itself hold a colon.
            names = [row[: match.start()] for match in re.finditer(": ", row)]
            line = next((where[name] for name in names if name in where), "")
            told.append(f"{line} {row}".strip())
        return told


def read_tables(source: Path) -> list[Change]:
    """As read_files, of tables without a fault. Raises RegistryInvalid, NotFound."""
    read = read_files(source)
    raise_faults(read.faults)
    return [change for _, change in read.found]


def read_files(source: Path) -> ReadTables:
    """A CSV file, an XLSX workbook or the CSV tables in a folder, in an order in which they can be
    taken in.

    CSV files and the sheets of a workbook are named after tables. Raises NotFound when there is no
    table, RegistryInvalid for what cannot be read at all.
    """
    files = sorted(source.glob("*.csv")) if source.is_dir() else [source]
    lines: dict[str, list[tuple[str, list[Line]]]] = {}
    for file in files:
        for name, found in _read_file(file, file.stem).items():
            lines.setdefault(name, []).append((file.name, found))
    if not lines:
        names = ", ".join(f"{name}.csv" for name in TABLES)
        raise NotFound(
            f"{source} is no table and holds none",
            hint=f"names: {names}; or sheets of an .xlsx file of these names",
        )
    read = ReadTables()
    for name in TABLE_ORDER:
        for file_name, found in lines.get(name, ()):
            read.add(name, file_name, found)
    return read


def read_list(source: Path, table: str, fill: Callable[[list[Line]], list[Line]]) -> ReadTables:
    """One table, whatever its file is called. fill: completes its lines.

    Raises as read_files.
    """
    lines = _read_file(source, table).get(table)
    if lines is None:
        raise NotFound(f"{source} holds no table of {table}")
    read = ReadTables()
    read.add(table, source.name, fill(lines))
    return read


def write_tables(path: Path, tables: Mapping[str, Sequence[Change]]) -> None:
    """A workbook (.xlsx), or the CSV of the only table (with a byte order mark, for Excel)."""
    if path.suffix.lower() == ".xlsx":
        path.write_bytes(write_xlsx(tables))
    else:
        ((table, records),) = tables.items()
        path.write_text(write_csv(table, records), encoding="utf-8-sig", newline="")


def _read_file(file: Path, stem: str) -> dict[str, list[Line]]:
    """Lines by table; none of a file that is no table. stem: the table of a file of one."""
    is_book = file.suffix.lower() == ".xlsx"
    if not is_book and stem not in TABLES:
        return {}
    with file.open("rb") as stream:
        data = stream.read(TABLE_SIZE_MAX + 1)
    try:
        return xlsx_to_lines(data, stem) if is_book else {stem: csv_to_lines(data)}
    except RegistryInvalid as error:
        raise _within(file.name, error) from None


def _within(file: str, error: RegistryInvalid) -> RegistryInvalid:
    rows = [f"{file} {row}" for row in error.rows]
    text = str(error) if rows else f"{file}: {error}"
    return RegistryInvalid(text, rows=rows, hint=error.hint)
