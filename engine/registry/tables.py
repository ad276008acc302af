"""Tables of the registry, whatever the file: their columns, and rows to records and back.

Columns are strict: none missing, none unknown, none twice. A table is taken whole or not at all,
and its faults name their lines. engine.registry.csv_tables and engine.registry.xlsx_tables read and
write files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from engine.clock import iso_to_ms, ms_to_iso
from engine.errors import RegistryInvalid
from engine.registry.registry import TYPES, Category, Change, Registry, fold

TABLE_SIZE_MAX: Final = 32 << 20
ROWS_MAX: Final = 200_000
_FAULTS_MAX: Final = 100
_DATES: Final = {
    "valid_from": "valid_from_ms",
    "valid_to": "valid_to_ms",
    "old_valid_to": "old_valid_to_ms",
}
_VALIDITY: Final = ("valid_from", "valid_to")
_FIELDS: Final = {**_DATES, "revoked": "is_revoked"}  # by column, where they differ
# What an empty cell says; elsewhere it leaves the field out.
_EMPTY: Final = ("parent", "area", "post", "road", "token_sha256")

# Line of a file, from 1, and its cells.
Line = tuple[int, list[str]]

# Table -> (kind of record, columns that must be there, columns that may be). The table of a kind is
# named by its plural. In this order they can be taken in: each names only what stands before.
TABLES: Final[Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    "areas": ("area", ("number", "code", "name", "parent"), ("kind", "successor", *_VALIDITY)),
    "units": ("unit", ("code", "name"), ("area", "parent", "successor", *_VALIDITY)),
    "posts": (
        "post",
        ("number", "code", "name", "road", "kind", "lanes", "area"),
        ("location", *_VALIDITY),
    ),
    "roads": ("road", ("post", "other", "least_minutes"), _VALIDITY),
    "venues": (
        "venue",
        ("number", "name", "category", "area"),
        (
            *("address", "default_stay_minutes", "rooms", "issue", "old_valid_to", "revoked"),
            *("unit", "hours", "risk", "location", "created_by", *_VALIDITY),
        ),
    ),
    "codes": ("code", ("text", "venue"), ("issuer", "room", "direction", *_VALIDITY)),
    "census": ("census", ("area", "category", "count"), _VALIDITY),
    "gateways": (
        "gateway",
        ("number", "name", "post", "lanes"),
        ("decode", "token_sha256", *_VALIDITY),
    ),
    "rules": ("rule", ("name", "value"), _VALIDITY),
    "grants": ("grant", ("name", "role", "unit", "area"), ("token_sha256", *_VALIDITY)),
}
TABLE_ORDER: Final = tuple(TABLES)

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


_RISK_WORDS: Final = {"thap": "low", "trung binh": "medium", "cao": "high"}
_YES_WORDS: Final = {"yes": "true", "co": "true", "x": "true", "no": "false", "khong": "false"}


def read_lines(
    table: str, lines: Sequence[Line], registry: Registry | None = None
) -> list[tuple[int, Change]]:
    """The record of each line. With a registry they are checked against it as well.

    Raises RegistryInvalid whose `rows` say which line and why; nothing is taken then.
    """
    found, faults = judge_lines(table, lines, registry)
    raise_faults(faults)
    return found


def judge_lines(
    table: str, lines: Sequence[Line], registry: Registry | None = None
) -> tuple[list[tuple[int, Change]], list[str]]:
    """As read_lines: the records of lines that are good in themselves, and all faults.

    Raises RegistryInvalid for a heading that does not fit.
    """
    check_table(table)
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
    return list(zip(where, changes, strict=True)), faults


def check_table(table: str) -> None:
    """Raises RegistryInvalid for a name that no table has."""
    if table not in TABLES:
        raise RegistryInvalid(f"there is no table {table!r}; known: {', '.join(TABLES)}")


def table_columns(table: str) -> list[str]:
    _, required, optional = TABLES[table]
    return [*required, *optional]


def record_to_cells(table: str, record: Change) -> list[str]:
    """In the order of table_columns."""
    return [_cell(record, column) for column in table_columns(table)]


def _check_columns(table: str, lines: Sequence[Line]) -> tuple[list[str], Sequence[Line]]:
    """The header and what follows. Raises RegistryInvalid for an unfit header."""
    if not lines:
        raise RegistryInvalid(f"the table of {table} is empty")
    _, required, optional = TABLES[table]
    columns = [cell.lower() for cell in lines[0][1]]
    faults = [f"line 1: column {c!r} is missing" for c in required if c not in columns]
    known = (*required, *optional)
    faults += [f"line 1: there is no column {c[:40]!r}" for c in columns if c not in known]
    faults += [f"line 1: column {c!r} stands twice" for c in known if columns.count(c) > 1]
    raise_faults(faults)
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
        elif text or column in _EMPTY:
            values[_FIELDS.get(column, column)] = _READERS.get((kind, column), str)(text)
    try:
        change = msgspec.convert(values, TYPES[kind], strict=False)
    except msgspec.ValidationError as error:
        return None, [*problems, _explain(error)]
    return (None if problems else change), problems


def _read_lanes(text: str) -> list[str]:
    return text.split()


def _read_category(text: str) -> str:
    return _CATEGORY_WORDS.get(fold(text), text)


def _read_risk(text: str) -> str:
    return _RISK_WORDS.get(fold(text), text.lower())


def _read_yes(text: str) -> str:
    return _YES_WORDS.get(fold(text), text)


_READERS: Final[Mapping[tuple[str, str], Callable[[str], Any]]] = {
    ("gateway", "lanes"): _read_lanes,
    ("venue", "category"): _read_category,
    ("census", "category"): _read_category,
    ("venue", "risk"): _read_risk,
    ("venue", "revoked"): _read_yes,
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


def raise_faults(faults: Sequence[str]) -> None:
    """Raises RegistryInvalid if there are any; the first hundred are named."""
    if faults:
        rows = [*faults[:_FAULTS_MAX]]
        if len(faults) > _FAULTS_MAX:
            rows.append(f"and {len(faults) - _FAULTS_MAX} more")
        raise RegistryInvalid(f"nothing was taken: {len(faults)} faults", rows=rows)


def _cell(record: Change, column: str) -> str:
    if column in _DATES:
        instant_ms = getattr(record, _DATES[column])
        return ms_to_iso(instant_ms) if instant_ms else ""
    value = getattr(record, _FIELDS.get(column, column))
    if isinstance(value, bool):
        return "yes" if value else ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
