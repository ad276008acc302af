"""Tables as XLSX: there and back, faults by line, and workbooks that mean harm."""

from __future__ import annotations

import datetime
import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import Workbook, load_workbook

from engine.clock import iso_to_ms
from engine.errors import NotFound, RegistryInvalid
from engine.registry import xlsx_tables as registry_xlsx
from engine.registry.csv_tables import read_csv
from engine.registry.files import read_files, read_list, read_tables
from engine.registry.registry import Category, Change, Registry, Risk, Venue
from engine.registry.tables import TABLE_ORDER, TABLES, read_lines
from engine.registry.xlsx_tables import rows_to_xlsx, write_xlsx, xlsx_to_lines

EXAMPLES = Path(__file__).parents[2] / "docs/examples/registry"
HEAD = ["number", "name", "category", "area"]


def example() -> dict[str, list[Change]]:
    return {
        table: read_csv(table, (EXAMPLES / f"{table}.csv").read_bytes()) for table in TABLE_ORDER
    }


def book(*rows: list[Any], title: str = "venues") -> bytes:
    made = Workbook()
    made.active.title = title
    for row in rows:
        made.active.append(row)
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def venues(data: bytes, stem: str = "") -> list[Change]:
    return [change for _, change in read_lines("venues", xlsx_to_lines(data, stem)["venues"])]


def refused(data: bytes) -> str:
    with pytest.raises(RegistryInvalid) as caught:
        venues(data)
    return "\n".join([str(caught.value), *caught.value.rows])


def test_all_tables_there_and_back() -> None:
    tables = example()
    lines = xlsx_to_lines(write_xlsx(tables), "")
    assert list(lines) == list(TABLES)
    registry = Registry()
    for table, records in tables.items():
        found = [change for _, change in read_lines(table, lines[table], registry)]
        assert found == records
        for change in found:
            registry.take(change)


def test_every_cell_is_text_and_none_a_formula() -> None:
    evil = ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", "\u00a0=2", "0912000031"]
    changes = [
        Venue(number=n, name=name, category=Category.CAFE, address=name)
        for n, name in enumerate(evil[:5], 1)
    ]
    data = write_xlsx({"venues": changes})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert all(b"<f>" not in archive.read(n) for n in archive.namelist() if "sheet" in n)
    for row in load_workbook(io.BytesIO(data))["venues"].iter_rows(min_row=2):
        for cell in row:
            assert cell.data_type in ("s", "n") and (cell.data_type == "s" or cell.value is None)
            if cell.value and cell.value[0] in "=+-@":
                assert cell.quotePrefix, "stays text when somebody edits it"
    assert venues(data) == changes
    plain = load_workbook(io.BytesIO(rows_to_xlsx({"x": [evil]})))["x"]
    assert [cell.value for cell in plain[1]] == evil


def test_numbers_dates_and_words_of_a_hand_made_sheet() -> None:
    head = [*HEAD, "revoked", "risk", "valid_from", "valid_to", "rooms", None]
    begin, end = datetime.date(2021, 6, 11), datetime.datetime(2021, 12, 31, 8, 30)
    row = [1013.0, "  Chợ Hồ Xá ", "Chợ", None, True, "Cao", begin, end, 3]
    (venue,) = venues(book(head, [None], row))
    assert venue == Venue(
        number=1013, name="Chợ Hồ Xá", category=Category.MARKET, is_revoked=True, risk=Risk.HIGH,
        valid_from_ms=iso_to_ms("2021-06-11"), valid_to_ms=iso_to_ms("2021-12-31T08:30"), rooms=3,
    )  # fmt: skip


def test_every_fault_has_its_line() -> None:
    text = refused(
        book(HEAD, [1, "A", "market", ""], [2, "=A1", "market", ""], [3, "C", "#N/A", ""])
    )
    assert "line 3: a formula" in text and "line 4" in text and "line 2" not in text
    text = refused(book(HEAD, [1, "A", "pub", ""], [], [2, "B", "market", "", "more"]))
    assert "line 2: category" in text and "line 4: 5 cells where 4 belong" in text
    assert "column 'area' is missing" in refused(book(HEAD[:3], [1, "A", "market"]))


def test_which_sheets_are_tables(tmp_path: Path) -> None:
    data = book(HEAD, [1, "A", "market", ""], title="Danh sách")
    assert len(xlsx_to_lines(data, "venues")["venues"]) == 2, "the only sheet, by the file's name"
    assert xlsx_to_lines(data, "") == {}
    path = tmp_path / "chợ.xlsx"
    path.write_bytes(data)
    with pytest.raises(NotFound):
        read_tables(path)
    assert len(read_list(path, "venues", lambda lines: lines).found) == 1
    path.write_bytes(book(HEAD, [1, "A", "market", ""], [2, "B", "pub", ""], title="VENUES"))
    read = read_files(path)
    assert [where for where, _ in read.found] == ["chợ.xlsx line 2"]
    assert [fault[:28] for fault in read.faults] == ["chợ.xlsx line 3: category: I"]
    told = read.with_lines(["venue 1: area 'X' is not known", "and 3 more"])
    assert told == ["chợ.xlsx line 2 venue 1: area 'X' is not known", "and 3 more"]


def archive(parts: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        for name, data in parts.items():
            made.writestr(name, data)
    return out.getvalue()


def parts_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


GOOD = book(HEAD, [1, "A", "market", ""])
SHEET = "xl/worksheets/sheet1.xml"


def with_sheet(xml: bytes) -> bytes:
    return archive({**parts_of(GOOD), SHEET: xml})


def test_a_bomb_is_not_unpacked() -> None:
    bomb = archive({**parts_of(GOOD), "xl/media/zeros": bytes(200 << 20)})
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        assert "unpacks to too much" in refused(bomb)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert "unpacks to too much" in refused(archive({f"{n}": b"" for n in range(600)}))
    assert "larger than" in refused(bytes(registry_xlsx.TABLE_SIZE_MAX + 1))


def test_a_part_that_lies_about_its_size_is_no_workbook() -> None:
    data = bytearray(archive({**parts_of(GOOD), SHEET: bytes(1 << 20)}))
    at = data.rindex(SHEET.encode()) - 46  # its entry in the central directory
    assert data[at : at + 4] == b"PK\x01\x02"
    data[at + 24 : at + 28] = (100).to_bytes(4, "little")
    assert "no XLSX workbook" in refused(bytes(data))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_not_expanded(encoding: str) -> None:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 9))
    xml = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY l0 "lol">{lol}]>'
    xml += "<x>&l8;</x>"
    assert "XML that no table needs" in refused(with_sheet(xml.encode(encoding)))


def test_cells_far_away_are_bounded() -> None:
    start = (
        '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
    )
    far = '<row r="1048576"><c r="A1048576"><v>1</v></c></row>'
    assert "too many cells" in refused(with_sheet(f"{start}{far}</sheetData></worksheet>".encode()))
    wide = '<row r="{0}"><c r="XFD{0}"><v>1</v></c></row>'
    xml = start + wide.format(1) + "</sheetData></worksheet>"
    assert "more than 64 columns" in refused(with_sheet(xml.encode()))
    empty = '<row r="{0}"><c r="XFD{0}"/></row>'
    xml = start + "".join(empty.format(n) for n in range(1, 700)) + "</sheetData></worksheet>"
    assert "too many cells" in refused(with_sheet(xml.encode()))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_any_damage_is_refused_or_harmless(at: int, change: int) -> None:
    data = bytearray(GOOD)
    data[at] ^= change
    try:
        lines = xlsx_to_lines(bytes(data), "venues")
    except RegistryInvalid as error:
        assert str(error)
    else:
        assert set(lines) <= {"venues"}


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_xml_is_refused_or_harmless(xml: bytes) -> None:
    for part in (SHEET, "xl/workbook.xml", "xl/styles.xml"):
        try:
            xlsx_to_lines(archive({**parts_of(GOOD), part: xml}), "venues")
        except RegistryInvalid as error:
            assert str(error)


def test_what_is_no_workbook_at_all() -> None:
    for data in (b"", b"PK", b"number,name\n", archive({"a": b"b"})):
        assert "workbook" in refused(data)
