"""Tables of the registry as an XLSX workbook, one sheet a table, in and out.

Every cell that goes out is text, so that no number loses a zero and nothing is a formula. What
comes in may be hostile: a workbook is a ZIP archive of XML, whose sizes, entities and dimensions
are bounded here before openpyxl reads it.
"""

from __future__ import annotations

import datetime
import io
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from engine.errors import RegistryInvalid
from engine.registry.csv_tables import FORMULA
from engine.registry.registry import Change
from engine.registry.tables import (
    ROWS_MAX,
    TABLE_SIZE_MAX,
    TABLES,
    Line,
    raise_faults,
    record_to_cells,
    table_columns,
)

PARTS_MAX: Final = 500
UNPACKED_SIZE_MAX: Final = 128 << 20
CELLS_MAX: Final = 8_000_000
COLUMNS_MAX: Final = 64
_WIDTH_MAX: Final = 48  # characters of a column
_DECLARATION: Final = "<!DOCTYPE"
_HINT: Final = "save it as an Excel workbook (.xlsx) without macros or a password"


def xlsx_to_lines(data: bytes, stem: str) -> dict[str, list[Line]]:
    """Lines by table. Sheets are named after tables; if none is, the only sheet is the table that
    the file is named after (stem), else the workbook holds none: {}.

    Raises RegistryInvalid, whose rows name sheets and lines.
    """
    from openpyxl import load_workbook  # takes long, and few need it

    _check_archive(data)
    try:
        book = load_workbook(io.BytesIO(data), read_only=True, keep_links=False)
        sheets = {sheet.title.strip().lower(): sheet for sheet in book.worksheets}
        named = {name: sheets[name] for name in TABLES if name in sheets}
        if not named and len(sheets) == 1 and stem in TABLES:
            named = {stem: next(iter(sheets.values()))}
        faults: list[str] = []
        found = {name: _sheet_to_lines(name, sheet, faults) for name, sheet in named.items()}
    except RegistryInvalid:
        raise
    except Exception:
        # Whatever is wrong inside, openpyxl tells it by any exception there is.
        raise RegistryInvalid("this is no workbook that can be read", hint=_HINT) from None
    raise_faults(faults)
    return found


def write_xlsx(tables: Mapping[str, Iterable[Change]]) -> bytes:
    """A workbook with a sheet for each table; xlsx_to_lines takes it back."""
    return rows_to_xlsx(
        {
            table: [table_columns(table), *(record_to_cells(table, r) for r in records)]
            for table, records in tables.items()
        }
    )


def rows_to_xlsx(sheets: Mapping[str, Sequence[Sequence[str]]]) -> bytes:
    """Any rows of text by the name of their sheet; the first row is the heading."""
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font
    from openpyxl.utils import get_column_letter

    book = Workbook(write_only=True)
    bold = Font(bold=True)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        sheet.freeze_panes = "A2"
        for i in range(max(map(len, rows), default=0)):
            width = max(len(row[i]) for row in rows[:1000] if i < len(row))
            sheet.column_dimensions[get_column_letter(i + 1)].width = min(width + 2, _WIDTH_MAX)
        for n, row in enumerate(rows):
            cells: list[Any] = []
            for text in row:
                cell = WriteOnlyCell(sheet)
                if text:
                    cell.value = text
                    cell.data_type = "s"  # openpyxl takes "=1" for a formula
                    cell.number_format = "@"
                    if text.startswith(FORMULA):
                        cell.quotePrefix = True  # so it stays text when somebody edits it
                    if n == 0:
                        cell.font = bold
                cells.append(cell if text else None)
            sheet.append(cells)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _check_archive(data: bytes) -> None:
    """Raises RegistryInvalid for what is too much to unpack, and for XML that defines anything."""
    if len(data) > TABLE_SIZE_MAX:
        raise RegistryInvalid(f"the workbook is larger than {TABLE_SIZE_MAX} bytes")
    marks = [_DECLARATION.encode(name) for name in ("utf-8", "utf-16-le", "utf-16-be")]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
            unpacked = sum(part.file_size for part in parts)
            if len(parts) > PARTS_MAX or unpacked > UNPACKED_SIZE_MAX:
                raise RegistryInvalid("the workbook unpacks to too much", hint=_HINT)
            for part in parts:
                # Unpacks no more than the size that was looked at, and compares the sum.
                text = archive.read(part)
                if any(mark in text for mark in marks):
                    raise RegistryInvalid("the workbook holds XML that no table needs", hint=_HINT)
    except RegistryInvalid:
        raise
    except Exception:
        # BadZipFile, an encrypted part, an unknown method, a bad header: zipfile has many words.
        raise RegistryInvalid("this is no XLSX workbook", hint=_HINT) from None


def _sheet_to_lines(name: str, sheet: Any, faults: list[str]) -> list[Line]:
    found: list[Line] = []
    count = width = 0
    for line, row in enumerate(sheet.iter_rows(), 1):
        count += len(row) + 1
        if line > ROWS_MAX or count > CELLS_MAX:
            raise RegistryInvalid(f"sheet {name} has too many cells or more than {ROWS_MAX} lines")
        cells = []
        for cell in row:
            text, problem = _cell_to_text(cell)
            if problem:
                faults.append(f"sheet {name} line {line}: {problem}")
            cells.append(text)
        while cells and not cells[-1]:
            cells.pop()
        if not cells:
            continue
        if len(cells) > COLUMNS_MAX:
            raise RegistryInvalid(f"sheet {name} line {line}: more than {COLUMNS_MAX} columns")
        # A sheet has no line ends: what is empty behind the last cell is missing.
        width = width or len(cells)
        found.append((line, cells + [""] * (width - len(cells))))
    return found


def _cell_to_text(cell: Any) -> tuple[str, str]:
    """(text, what is wrong with it)."""
    value = cell.value
    if value is None:
        return "", ""
    if cell.data_type == "f":
        return "", "a formula; paste its value"
    if cell.data_type == "e":
        return "", "a value that could not be computed"
    if isinstance(value, bool):
        return "yes" if value else "no", ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return str(int(value)), ""
    if isinstance(value, datetime.datetime):
        is_date = value.time() == datetime.time()
        return (value.date() if is_date else value).isoformat(), ""
    return unicodedata.normalize("NFC", str(value).strip(" \u00a0")), ""
