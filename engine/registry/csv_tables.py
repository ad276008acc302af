"""Tables of the registry as CSV that no spreadsheet executes.

UTF-8 with or without a byte order mark, `,` or `;`, one table a file.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable
from typing import Final

from engine.errors import RegistryInvalid
from engine.registry.registry import Change, Registry
from engine.registry.tables import (
    ROWS_MAX,
    TABLE_ORDER,
    TABLE_SIZE_MAX,
    TABLES,
    Line,
    check_table,
    read_lines,
    record_to_cells,
    table_columns,
)

__all__ = ["TABLES", "TABLE_ORDER", "csv_to_lines", "neutralise", "read_csv", "write_csv"]

# A cell that begins with one of these is a formula to a spreadsheet.
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def read_csv(table: str, data: str | bytes, registry: Registry | None = None) -> list[Change]:
    """Changes of one table, as registry_tables.read_lines. Raises RegistryInvalid."""
    check_table(table)
    return [change for _, change in read_lines(table, csv_to_lines(data), registry)]


def csv_to_lines(data: str | bytes) -> list[Line]:
    """Every line that is not empty. Raises RegistryInvalid."""
    return _read_lines(_to_text(data))


def write_csv(table: str, records: Iterable[Change], delimiter: str = ",") -> str:
    """One table with its header, without the byte order mark; read_csv takes it back."""
    rows = (record_to_cells(table, record) for record in records)
    return rows_to_csv([table_columns(table), *rows], delimiter)


def rows_to_csv(rows: Iterable[Iterable[str]], delimiter: str = ",") -> str:
    """Any rows of text; cells that a spreadsheet would execute are neutralised."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    for row in rows:
        writer.writerow([neutralise(cell) for cell in row])
    return out.getvalue()


def neutralise(text: str) -> str:
    """A cell as text that a spreadsheet does not execute: an apostrophe in front of a formula."""
    return "'" + text if text.startswith(FORMULA) else text


def _to_text(data: str | bytes) -> str:
    if len(data) > TABLE_SIZE_MAX:
        raise RegistryInvalid(f"the table is larger than {TABLE_SIZE_MAX} bytes")
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RegistryInvalid(f"line {line}: not UTF-8", hint="save the table as UTF-8") from None


def _read_lines(text: str) -> list[Line]:
    """(line number, cells) of every line that is not empty."""
    head = text.partition("\n")[0]
    delimiter = ";" if head.count(";") > head.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[Line] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(found) > ROWS_MAX:
                    raise RegistryInvalid(f"the table has more than {ROWS_MAX} lines")
                found.append((reader.line_num, [_clean(cell) for cell in cells]))
    except csv.Error as error:
        raise RegistryInvalid(f"line {reader.line_num}: not CSV ({error})") from None
    return found


def _clean(cell: str) -> str:
    """Without blanks around it, in form NFC, and without the apostrophe that `neutralise` put."""
    text = unicodedata.normalize("NFC", cell.strip(" \u00a0"))
    if text.startswith("'") and text[1:].startswith(FORMULA):
        return text[1:]
    return text
