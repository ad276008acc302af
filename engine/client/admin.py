"""The owner's side of the engine's socket: tables in and out, tokens, gateway files, venue codes.

Whoever may open the socket (mode 0600, same user) owns the engine; there is no token here. What
changes goes to the one writer, the engine, and becomes a record of the control log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.desk.question_socket import QuestionClient
from engine.desk.questions import (
    AskKit,
    Kit,
    Question,
    RegistryChange,
    RegistryEntries,
    RegistryList,
    RegistryTaken,
)
from engine.desk.venue_questions import AreaInfo, Areas, AskAreas
from engine.errors import NotFound, RegistryInvalid, ServiceError
from engine.registry.access import Grant, make_token
from engine.registry.files import ReadTables, read_files
from engine.registry.registry import Change, Gateway
from engine.registry.tables import TABLES, raise_faults

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
    """Records of a kind of engine.registry.registry.TYPES at an instant; without one, the
    newest."""
    return (await ask(owner, RegistryList(kind, at_ms), RegistryEntries)).entries


async def ask(owner: Owner, question: Question, kind: type[R]) -> R:
    """The engine's answer, of the kind that belongs to the question."""
    reply = await owner.ask(question)
    if not isinstance(reply, kind):
        raise ServiceError("the engine answered with something else")
    return reply


async def change(owner: Owner, changes: Collection[Change]) -> RegistryTaken:
    """All of it or nothing. Raises RegistryInvalid with every fault."""
    return await ask(owner, RegistryChange(tuple(changes)), RegistryTaken)


async def import_tables(owner: Owner, source: Path) -> RegistryTaken:
    """Tables of a file or folder, as registry_files.read_files; all of it or nothing.

    Raises RegistryInvalid with every fault and its line, NotFound.
    """
    return await take(owner, await asyncio.to_thread(read_files, source))


async def take(owner: Owner, read: ReadTables, fresh: Sequence[int] = ()) -> RegistryTaken:
    """What was read, all of it or nothing. fresh: place numbers that nothing may have by now.

    Where lines have faults in themselves, the engine is asked for what is wrong with the others, so
    that one answer tells everything. Raises RegistryInvalid.
    """
    changes = tuple(change for _, change in read.found)
    question = RegistryChange(changes, tuple(fresh), is_trial=bool(read.faults))
    faults = list(read.faults)
    try:
        taken = await ask(owner, question, RegistryTaken)
    except RegistryInvalid as error:
        if not error.rows:
            raise
        faults += read.with_lines(error.rows)
    raise_faults(faults)
    return taken


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
    return await ask(owner, AskKit(), Kit)


async def enrol_gateway(owner: Owner, name: str, *, spool: Path, old_until_ms: int = 0) -> str:
    """A gateway's TOML file with a new token; the older token works until that instant."""
    found = [
        g for g in await records(owner, "gateway") if isinstance(g, Gateway) and g.name == name
    ]
    if not found:
        raise NotFound(f"there is no gateway {name}", hint="see: chot registry list gateways")
    token, digest = make_token()
    old = found[0].token_sha256 if old_until_ms else ""
    renewed = msgspec.structs.replace(
        found[0], token_sha256=digest, old_token_sha256=old, old_token_until_ms=old_until_ms
    )
    await change(owner, [renewed])
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
    return (await ask(owner, AskAreas(text=text, limit=limit), Areas)).areas


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
