"""The owner's side of the engine's socket: tables in and out, tokens, gateway files, venue codes.

Whoever may open the socket (mode 0600, same user) owns the engine; there is no token here. What
changes goes to the one writer, the engine, and becomes a record of the control log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.access import Grant, make_token
from engine.errors import NotFound, RegistryInvalid, ServiceError
from engine.question_socket import QuestionClient
from engine.questions import (
    AskKit,
    Kit,
    Question,
    RegistryChange,
    RegistryEntries,
    RegistryList,
    RegistryTaken,
)
from engine.registry import Change, Gateway, change_to_text
from engine.registry_csv import csv_to_lines, write_csv
from engine.registry_tables import TABLE_ORDER, TABLE_SIZE_MAX, TABLES, Line, read_lines
from engine.registry_xlsx import write_xlsx, xlsx_to_lines
from engine.venue_questions import AreaInfo, Areas, AskAreas

Owner = QuestionClient
R = TypeVar("R")
SOCKET_NAME = "engine.sock"


@contextlib.asynccontextmanager
async def connect(data: Path) -> AsyncIterator[Owner]:
    """The engine that runs on the store in `data`. Calls raise EngineUnreachable without one."""
    owner = QuestionClient(data / SOCKET_NAME)
    try:
        yield owner
    finally:
        await owner.close()


async def records(owner: Owner, kind: str, at_ms: int | None = None) -> tuple[Change, ...]:
    """Records of a kind of engine.registry.TYPES at an instant; without one, the newest."""
    return (await _ask(owner, RegistryList(kind, at_ms), RegistryEntries)).entries


async def _ask(owner: Owner, question: Question, kind: type[R]) -> R:
    reply = await owner.ask(question)
    if not isinstance(reply, kind):
        raise ServiceError("the engine answered with something else")
    return reply


async def change(owner: Owner, changes: Collection[Change]) -> RegistryTaken:
    """All of it or nothing. Raises RegistryInvalid with every fault."""
    return await _ask(owner, RegistryChange(tuple(changes)), RegistryTaken)


def read_tables(source: Path, table: str = "") -> list[Change]:
    """Changes of one CSV file or XLSX workbook, or of every CSV table in a folder.

    CSV files and the sheets of a workbook are named after tables; table: name of the only one that
    is looked for, whatever the file is called. Raises RegistryInvalid, NotFound when there is none.
    """
    return [change for _, change in _read_tables(source, table)]


async def import_tables(owner: Owner, source: Path, table: str = "") -> RegistryTaken:
    """As read_tables; all of it is taken or nothing. Faults that only the engine sees are told with
    their lines too."""
    found = await asyncio.to_thread(_read_tables, source, table)
    try:
        return await change(owner, [change for _, change in found])
    except RegistryInvalid as error:
        where = {change_to_text(change): line for line, change in reversed(found)}
        rows = []
        for row in error.rows:
            # The text of a code may itself hold a colon.
            ends = [found.start() for found in re.finditer(": ", row)]
            line = next((where[row[:end]] for end in ends if row[:end] in where), "")
            rows.append(f"{line} {row}".strip())
        raise RegistryInvalid(str(error), rows=rows, hint=error.hint) from None


def _read_tables(source: Path, table: str) -> list[tuple[str, Change]]:
    """(file and line, change) of each, in an order in which they can be taken in."""
    files = sorted(source.glob("*.csv")) if source.is_dir() else [source]
    lines: dict[str, list[tuple[str, list[Line]]]] = {}
    for file in files:
        for name, found in _read_file(file, table).items():
            lines.setdefault(name, []).append((file.name, found))
    known = [name for name in TABLE_ORDER if name in lines and table in ("", name)]
    if not known:
        names = ", ".join(f"{name}.csv" for name in TABLES)
        raise NotFound(
            f"{source} is no table and holds none",
            hint=f"names: {names}; or sheets of an .xlsx file of these names",
        )
    return [
        (f"{file} line {line}", change)
        for name in known
        for file, found in lines[name]
        for line, change in _lines_to_changes(name, file, found)
    ]


def _read_file(file: Path, table: str) -> dict[str, list[Line]]:
    """Lines by table; none of a file that is no table."""
    stem = table or file.stem
    is_book = file.suffix.lower() == ".xlsx"
    if not is_book and stem not in TABLES:
        return {}
    with file.open("rb") as stream:
        data = stream.read(TABLE_SIZE_MAX + 1)
    try:
        return xlsx_to_lines(data, stem) if is_book else {stem: csv_to_lines(data)}
    except RegistryInvalid as error:
        raise _within(file.name, error) from None


def _lines_to_changes(table: str, file: str, lines: Sequence[Line]) -> list[tuple[int, Change]]:
    try:
        return read_lines(table, lines)
    except RegistryInvalid as error:
        raise _within(file, error) from None


def _within(file: str, error: RegistryInvalid) -> RegistryInvalid:
    rows = [f"{file} {row}" for row in error.rows]
    text = str(error) if rows else f"{file}: {error}"
    return RegistryInvalid(text, rows=rows, hint=error.hint)


def write_tables(path: Path, tables: Mapping[str, Sequence[Change]]) -> None:
    """A workbook (.xlsx), or the CSV of the only table (with a byte order mark, for Excel)."""
    if path.suffix.lower() == ".xlsx":
        path.write_bytes(write_xlsx(tables))
    else:
        ((table, records),) = tables.items()
        path.write_text(write_csv(table, records), encoding="utf-8-sig", newline="")


async def issue_token(owner: Owner, name: str) -> str:
    """A new token for a grant; an older one of it stops working. Shown once, stored nowhere."""
    grants = [g for g in await records(owner, "grant") if isinstance(g, Grant) and g.name == name]
    if not grants:
        raise NotFound(f"there is no grant {name}", hint="see: chot registry list grants")
    token, digest = make_token()
    await change(owner, [msgspec.structs.replace(grants[0], token_sha256=digest)])
    return token


async def kit(owner: Owner) -> Kit:
    """What gateways and posters need of the engine."""
    return await _ask(owner, AskKit(), Kit)


async def enrol_gateway(owner: Owner, name: str, *, spool: Path) -> str:
    """A gateway's TOML file with a new token; an older token of it stops working."""
    found = [
        g for g in await records(owner, "gateway") if isinstance(g, Gateway) and g.name == name
    ]
    if not found:
        raise NotFound(f"there is no gateway {name}", hint="see: chot registry list gateways")
    token, digest = make_token()
    await change(owner, [msgspec.structs.replace(found[0], token_sha256=digest)])
    engine = await kit(owner)
    lines = {
        "name": name,
        "token": token,
        "ingest_public": engine.ingest_public.hex(),
        "spool": str(spool),
        "url": engine.ingest,
    }
    # A JSON string or number is a TOML one as well.
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
    return text + "".join(f"\n{source}" for source in _sources(found[0].lanes))


def _sources(lanes: Sequence[int]) -> Iterator[str]:
    """What a gateway captures, a table of TOML each. Only one can read standard input, and what
    stands in the other lanes the box's owner has to say."""
    if not lanes:
        yield '[[sources]]\nkind = "records"\nlane = 0\npath = "-"\n'
        return
    yield (
        "# Frames from standard input; in place of it what stands in the lane: a camera, readers,\n"
        "# a thermal terminal, or several of them (docs/gateway.md).\n"
        f'[[sources]]\nkind = "frames"\nlane = {lanes[0]}\npath = "-"\n'
    )
    for lane in lanes[1:]:
        yield (
            f"# Lane {lane} too is this gateway's. Take the signs away once its camera is known.\n"
            f'#[[sources]]\n#kind = "mjpeg"\n#lane = {lane}\n'
            f'#url = "http://192.0.2.{lane % 256}/video.mjpg"\n'
        )


async def areas(owner: Owner, text: str, limit: int = 50) -> tuple[AreaInfo, ...]:
    """Areas whose code or name this is, of today or of old."""
    return (await _ask(owner, AskAreas(text=text, limit=limit), Areas)).areas


async def venue_codes(owner: Owner) -> dict[int, str]:
    """Text of the posted code of every venue by its place number."""
    return (await kit(owner)).venue_codes


def write_secret(path: Path, text: str) -> None:
    """A file that only its owner reads, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)  # mkstemp gives mode 0600
    temporary = Path(name)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def table_to_kind(table: str) -> str:
    """ "venue" for "venues". Raises NotFound."""
    if table not in TABLES:
        names = ", ".join(TABLES)
        raise NotFound(f"there is no table {table}", hint=f"one of: {names}")
    return TABLES[table][0]
