"""Tables of the registry: CSV in, checked line by line, and CSV out that no spreadsheet executes.

UTF-8 with or without a byte order mark, `,` or `;`, one table a kind. Columns are strict: none
missing, none unknown, none twice. An import is all or nothing, and its faults name their lines.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from engine.clock import iso_to_ms, ms_to_iso
from engine.errors import RegistryInvalid
from engine.registry import TYPES, Category, Change, Registry, fold

TABLE_SIZE_MAX: Final = 32 << 20
_FAULTS_MAX: Final = 100
# A cell that begins with one of these is a formula to a spreadsheet.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_DATES: Final = {"valid_from": "valid_from_ms", "valid_to": "valid_to_ms"}

# Table -> (kind of record, columns that must be there, columns that may be). The CSV of a kind is
# named by its plural.
TABLES: Final[Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    "areas": ("area", ("number", "code", "name", "parent"), tuple(_DATES)),
    "posts": ("post", ("number", "code", "name", "road", "kind", "lanes", "area"), tuple(_DATES)),
    "roads": ("road", ("post", "other", "least_minutes"), tuple(_DATES)),
    "venues": (
        "venue",
        ("number", "name", "category", "area"),
        ("address", "default_stay_minutes", "rooms", "issue", *_DATES),
    ),
    "gateways": (
        "gateway",
        ("number", "name", "post", "lanes"),
        ("decode", "token_sha256", *_DATES),
    ),
    "rules": ("rule", ("name", "value"), tuple(_DATES)),
    "grants": ("grant", ("name", "role", "unit", "area"), ("token_sha256", *_DATES)),
}
# Order in which tables can be taken in: each names only what stands in those before it.
TABLE_ORDER: Final = ("areas", "posts", "roads", "venues", "gateways", "rules", "grants")

# The wording of the source documents, folded, for lists that were not written for us (VE-1, VE-2).
_CATEGORY_WORDS: Final[Mapping[str, Category]] = {
    fold(word): category
    for category, words in {
        Category.OFFICE: ("công sở", "cơ quan", "đơn vị"),
        Category.SCHOOL: ("trường học",),
        Category.HOSPITAL: ("bệnh viện",),
        Category.COMPANY: ("doanh nghiệp", "công ty"),
        Category.MARKET: ("chợ",),
        Category.SUPERMARKET: ("siêu thị",),
        Category.LODGING: ("khách sạn", "cơ sở lưu trú"),
        Category.EATERY: ("nhà hàng", "quán ăn"),
        Category.CAFE: ("quán cà phê", "cà phê"),
        Category.PUBLIC_TRANSPORT: ("phương tiện vận chuyển công cộng",),
        Category.CROWD: ("khu vực tập trung đông người",),
        Category.LEISURE: ("trung tâm vui chơi", "trung tâm vui chơi, giải trí", "giải trí"),
        Category.SPORT: ("thể dục, thể thao", "thể dục", "thể thao"),
        Category.CHECKPOINT: ("điểm kiểm dịch", "chốt"),
    }.items()
    for word in words
}


def read_csv(table: str, data: str | bytes, registry: Registry | None = None) -> list[Change]:
    """Changes of one table. With a registry they are checked against it as well.

    Raises RegistryInvalid whose `rows` say which line and why; nothing is taken then.
    """
    if table not in TABLES:
        raise RegistryInvalid(f"there is no table {table!r}; known: {', '.join(TABLES)}")
    lines = _read_lines(_to_text(data))
    columns, rows = _check_columns(table, lines)
    kind = TABLES[table][0]
    faults: list[str] = []
    changes: list[Change] = []
    where: list[int] = []
    for line, cells in rows:
        if len(cells) != len(columns):
            faults.append(f"line {line}: {len(cells)} cells where {len(columns)} belong")
            continue
        found, problems = _row_to_change(kind, dict(zip(columns, cells, strict=True)))
        faults += [f"line {line}: {problem}" for problem in problems]
        if found is not None:
            changes.append(found)
            where.append(line)
    if registry is not None:
        faults += [f"line {where[i]}: {problem}" for i, problem in registry.check(changes)]
    else:
        faults += _find_repeats(changes, where)
    _raise_faults(faults)
    return changes


def write_csv(table: str, records: Iterable[Change], delimiter: str = ",") -> str:
    """One table with its header, without the byte order mark; read_csv takes it back."""
    _, required, optional = TABLES[table]
    columns = [*required, *optional]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(columns)
    for record in records:
        writer.writerow([neutralise(_cell(record, column)) for column in columns])
    return out.getvalue()


def neutralise(text: str) -> str:
    """A cell as text that a spreadsheet does not execute: an apostrophe in front of a formula."""
    return "'" + text if text.startswith(_FORMULA) else text


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


def _read_lines(text: str) -> list[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not empty."""
    head = text.partition("\n")[0]
    delimiter = ";" if head.count(";") > head.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((reader.line_num, [_clean(cell) for cell in cells]))
    except csv.Error as error:
        raise RegistryInvalid(f"line {reader.line_num}: not CSV ({error})") from None
    return found


def _clean(cell: str) -> str:
    """Without blanks around it, in form NFC, and without the apostrophe that `neutralise` put."""
    text = unicodedata.normalize("NFC", cell.strip(" \u00a0"))
    if text.startswith("'") and text[1:].startswith(_FORMULA):
        return text[1:]
    return text


def _check_columns(
    table: str, lines: list[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and what follows. Raises RegistryInvalid for an unfit header."""
    if not lines:
        raise RegistryInvalid(f"the table of {table} is empty")
    _, required, optional = TABLES[table]
    columns = [cell.lower() for cell in lines[0][1]]
    faults = [f"line 1: column {c!r} is missing" for c in required if c not in columns]
    known = (*required, *optional)
    faults += [f"line 1: there is no column {c[:40]!r}" for c in columns if c not in known]
    faults += [f"line 1: column {c!r} stands twice" for c in known if columns.count(c) > 1]
    _raise_faults(faults)
    return columns, lines[1:]


def _row_to_change(kind: str, cells: Mapping[str, str]) -> tuple[Change | None, list[str]]:
    """The change of a line, or its faults."""
    values: dict[str, Any] = {"record": kind}
    problems: list[str] = []
    for column, text in cells.items():
        if column in _DATES:
            try:
                if text:
                    values[_DATES[column]] = iso_to_ms(text)
            except ValueError:
                problems.append(f"{column} is not a date such as 2021-06-11")
        elif text or column in ("parent", "area", "post", "road", "token_sha256"):
            values[column] = _READERS.get((kind, column), str)(text)
    try:
        change = msgspec.convert(values, TYPES[kind], strict=False)
    except msgspec.ValidationError as error:
        return None, [*problems, _explain(error)]
    return (None if problems else change), problems


def _read_lanes(text: str) -> list[str]:
    return text.split()


def _read_category(text: str) -> str:
    return _CATEGORY_WORDS.get(fold(text), text)


_READERS: Final[Mapping[tuple[str, str], Callable[[str], Any]]] = {
    ("gateway", "lanes"): _read_lanes,
    ("venue", "category"): _read_category,
}


def _explain(error: msgspec.ValidationError) -> str:
    """`category: Invalid enum value 'pub'` out of msgspec's message."""
    text, _, path = str(error).rpartition(" - at `$.")
    if not text:
        return str(error).replace("Object missing required field", "there is no")
    return f"{path.rstrip('`')}: {text}"


def _find_repeats(changes: list[Change], where: list[int]) -> list[str]:
    """Lines that give the same thing twice; without a registry nothing else can be said."""
    return [
        f"line {where[i]}: {text}"
        for i, text in Registry().check(changes)
        if text == "is given twice" or text.startswith(("number ", "its number "))
    ]


def _raise_faults(faults: list[str]) -> None:
    if faults:
        rows = faults[:_FAULTS_MAX]
        if len(faults) > _FAULTS_MAX:
            rows.append(f"and {len(faults) - _FAULTS_MAX} more")
        raise RegistryInvalid(f"nothing was taken: {len(faults)} faults", rows=rows)


def _cell(record: Change, column: str) -> str:
    if column in _DATES:
        instant_ms = getattr(record, _DATES[column])
        return ms_to_iso(instant_ms) if instant_ms else ""
    value = getattr(record, column)
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
