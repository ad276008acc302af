"""`chot registry`: tables, tokens, gateway files and venue codes of a running engine.

It speaks to the engine through the socket in its data folder, so it is for the engine's owner.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.cli.parser import (
    Parser,
    UseError,
    add_command,
    add_settings_options,
    check_out,
    instant,
    load_settings,
    whole,
    words,
)

if TYPE_CHECKING:
    from engine.desk.venue_questions import AreaInfo

# Those of engine.registry.tables, which takes long to import; a test compares.
TABLES: Final = (
    *("areas", "units", "posts", "roads", "venues", "codes", "census"),
    *("gateways", "rules", "grants"),
)
_DATA_HELP: Final = "data folder of the running engine (setting: data)"


def add_registry(commands: Any) -> None:
    """The subcommand and its actions."""
    parser = add_command(
        commands,
        "registry",
        None,
        "posts, venues, gateways, rules and grants of a running engine",
        "Changes and shows the registry of a running engine, through the socket in its data\n"
        "folder: for the user who runs the engine. Tables: docs/examples/registry.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")

    def add(name: str, summary: str, text: str = "", example: str = "") -> Parser:
        shown = f"example:\n  {example}" if example else ""
        return add_command(actions, name, run_registry, summary, text, shown)

    _add_tables(add)
    token = add(
        "token",
        "a new token for a grant, shown once",
        "A new token for a grant (a person's role, unit and area). It is shown once and kept\n"
        "nowhere; the grant's older token stops working.",
        "chot registry token cdc-truy-vet --out tracer.token",
    )
    token.add_argument("grant", type=words(1, 64), metavar="GRANT", help="its name")
    token.add_argument(
        "--out", type=Path, metavar="FILE", help="file of mode 0600 (without it: stdout)"
    )
    enrol = add(
        "enrol",
        "a gateway's TOML file, with a new token",
        "Writes the TOML file with which a gateway runs: name, new token, the engine's address\n"
        "and key. The gateway's older token stops working, at once or after --keep-old hours.",
        "chot registry enrol vl-1a-1 --out lane1.toml",
    )
    enrol.add_argument("gateway", type=words(1, 64), metavar="GATEWAY", help="its name")
    enrol.add_argument("--out", type=Path, required=True, metavar="FILE", help="file of mode 0600")
    enrol.add_argument(
        "--spool", type=Path, metavar="DIR", help="folder of its spool (FILE's name with .spool)"
    )
    enrol.add_argument(
        "--keep-old",
        type=whole(0, 720),
        default=0,
        metavar="HOURS",
        help="how long the older token still works (0)",
    )
    add(
        "codes",
        "text of every venue's code, for posters",
        "A line for each venue: its number, a tab, and the text to print as a QR code. All\n"
        "characters are of the QR alphanumeric mode.",
    )
    for action in actions.choices.values():
        add_settings_options(action, data=_DATA_HELP)


def _add_tables(add: Callable[..., Parser]) -> None:
    """What reads and writes tables, and finds areas."""
    take = add(
        "import",
        "tables in, CSV or XLSX, all or nothing",
        "Takes tables in. With a single fault nothing is taken; each fault is a line on stderr.\n"
        "Importing the same again changes nothing. Nothing is ever deleted: give an end with\n"
        "valid_to.",
        "chot registry import docs/examples/registry",
    )
    take.add_argument(
        "source",
        type=Path,
        metavar="PATH",
        help="a table such as venues.csv, a folder of them, or a workbook with sheets named so",
    )
    export = add(
        "export",
        "tables out, CSV or XLSX",
        "Writes tables as they hold today or at an instant, which chot registry import takes\n"
        "again. FILE.xlsx holds all tables, a sheet each; FILE.csv the one that is named.",
        "chot registry export --out registry.xlsx",
    )
    export.add_argument(
        "table", nargs="?", choices=TABLES, metavar="TABLE", help="only this one (all of them)"
    )
    export.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="FILE.xlsx or FILE.csv"
    )
    export.add_argument(
        "--at", type=instant, metavar="TIME", help="as they held then (the newest records)"
    )
    find = add(
        "find",
        "areas by a name of today or of old",
        "Areas whose code or name this is, with or without accents; names that hold no longer\n"
        "too, with what took the area over.",
        "chot registry find 'huyện Vĩnh Linh'",
    )
    find.add_argument("name", type=words(1, 64), metavar="NAME", help="a code, or (part of) a name")
    show = add(
        "list",
        "the newest records of a table, as CSV",
        "The newest records of a table as CSV, which chot registry import takes again.",
        "chot registry list venues > venues.csv",
    )
    show.add_argument("table", choices=TABLES, metavar="TABLE", help=", ".join(TABLES))


def run_registry(options: argparse.Namespace) -> int:
    """0 when the engine did it."""
    import asyncio

    data = Path(load_settings(options).data)
    if options.action == "import" and not options.source.exists():
        raise UseError(f"there is no file or folder {options.source}")
    if options.action == "export":
        kind = options.out.suffix.lower()
        if kind not in (".xlsx", ".csv") or (kind == ".csv" and not options.table):
            raise UseError("--out: FILE.xlsx, or FILE.csv for one table")
    if getattr(options, "out", None) is not None:
        # Before the token changes: the old one would be lost together with the new one.
        check_out(options.out)
    return asyncio.run(_registry(options, data))


def _area_line(area: AreaInfo) -> str:
    """Tab-separated: code, name, until when, and what holds in its place now."""
    from engine.clock import day_to_date, ms_to_day

    until, now = "", ""
    if area.valid_to_ms is not None:
        until = f"until {day_to_date(ms_to_day(area.valid_to_ms - 1))}"
        now = f"now {area.now} {area.now_name}" if area.now else "ended"
    return "\t".join(filter(None, (area.code, area.name, until, now)))


async def _registry(options: argparse.Namespace, data: Path) -> int:
    from engine.client import admin
    from engine.clock import HOUR_MS, SystemClock
    from engine.errors import NotFound
    from engine.registry import csv_tables as registry_csv
    from engine.registry.files import write_tables

    async with admin.connect(data) as owner:
        match options.action:
            case "import":
                taken = await admin.import_tables(owner, options.source)
                print(f"{taken.written} records written, {taken.known} were there already")
            case "list":
                records = await admin.records(owner, admin.table_to_kind(options.table))
                sys.stdout.write(registry_csv.write_csv(options.table, records))
            case "export":
                tables = [options.table] if options.table else list(TABLES)
                found = {
                    name: await admin.records(owner, admin.table_to_kind(name), options.at)
                    for name in tables
                }
                write_tables(options.out, found)
                print(f"{options.out}: {sum(map(len, found.values()))} records")
            case "find":
                found_areas = await admin.areas(owner, options.name)
                if not found_areas:
                    raise NotFound("there is no area of that name", hint="try a part of it")
                for area in found_areas:
                    print(_area_line(area))
            case "token":
                token = await admin.issue_token(owner, options.grant)
                if options.out is None:
                    print(token)
                else:
                    admin.write_secret(options.out, token + "\n")
                    print(f"{options.out} holds the token of {options.grant}")
            case "enrol":
                # The gateway may be started from another folder.
                spool = (options.spool or options.out.with_suffix(".spool")).absolute()
                kept_ms = options.keep_old * HOUR_MS
                until_ms = SystemClock().now_ms() + kept_ms if kept_ms else 0
                text = await admin.enrol_gateway(
                    owner, options.gateway, spool=spool, old_until_ms=until_ms
                )
                admin.write_secret(options.out, text)
                print(f"{options.out} is written; run it with: chot gateway run {options.out}")
            case "codes":
                for place, code in sorted((await admin.venue_codes(owner)).items()):
                    print(f"{place}\t{code}")
    return 0
