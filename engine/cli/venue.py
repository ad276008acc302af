"""`chot venue`: the life of a venue and its codes: registered, posted, revoked, counted.

It speaks to the engine through the socket in its data folder, so it is for the engine's owner.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
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
from engine.cli.poster import add_poster

if TYPE_CHECKING:
    from engine.api.venue_answers import CoverageAnswer, CoverageCounts

_DATA_HELP: Final = "data folder of the running engine (setting: data)"
_NUMBER_MAX: Final = 0xFFFF_FFFF
# Those of engine.registry.records, which takes long to import; a test compares.
CATEGORIES: Final = (
    *("office", "school", "hospital", "company", "market", "supermarket", "lodging", "eatery"),
    *("cafe", "public_transport", "crowd", "leisure", "sport", "checkpoint"),
)
RISKS: Final = ("low", "medium", "high")

_Add = Callable[..., Parser]


def add_venue(commands: Any) -> None:
    """The subcommand and its actions."""
    parser = add_command(
        commands,
        "venue",
        None,
        "venues: register, print, revoke, rotate, count",
        "Registers venues, prints their posters, revokes and rotates their codes, and tells how\n"
        "many places have one: for the user who runs the engine.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")

    def add(name: str, summary: str, text: str, example: str) -> Parser:
        shown = f"example:\n  {example}"
        return add_command(actions, name, run_venue, summary, text, shown)

    _add_registering(add)
    _add_codes(add)
    _add_counting(add)
    add_poster(actions)
    for action in actions.choices.values():
        add_settings_options(action, data=_DATA_HELP)


def _add_registering(add: _Add) -> None:
    one = add(
        "add",
        "registers a venue and prints its number and code",
        "Registers one venue. Prints its new number, a tab, and the text of its code.",
        "chot venue add --name 'Chợ Cầu' --category market --area QT-VL-HX",
    )
    one.add_argument("--name", type=words(1, 120), required=True, metavar="TEXT", help="its name")
    one.add_argument(
        "--category", choices=CATEGORIES, required=True, metavar="WORD", help=", ".join(CATEGORIES)
    )
    one.add_argument(
        "--area", type=words(1, 64), required=True, metavar="AREA", help="its commune: code or name"
    )
    one.add_argument(
        "--address", type=words(0, 200), default="", metavar="TEXT", help="where it is"
    )
    one.add_argument(
        "--stay", type=whole(1, 1440), default=0, metavar="MINUTES", help="usual stay (category's)"
    )
    one.add_argument("--rooms", type=whole(0, 65535), default=0, metavar="N", help="how many")
    one.add_argument("--unit", type=words(0, 32), default="", metavar="CODE", help="who answers")
    one.add_argument(
        "--hours", type=words(0, 200), default="", metavar="TEXT", help="'Mo-Fr 07:00-17:00'"
    )
    one.add_argument("--risk", choices=RISKS, default="", metavar="WORD", help=", ".join(RISKS))
    one.add_argument(
        "--location", type=words(0, 32), default="", metavar="N,E", help="16.8163,107.1003"
    )
    one.add_argument(
        "--by", type=words(0, 120), default="", metavar="TEXT", help="who registers it"
    )
    take = add(
        "import",
        "registers venues of a list, CSV or XLSX",
        "As chot registry import, of one list of venues, whatever the file is called. Lines\n"
        "without a number get a new one; those whose name and area a venue has change nothing,\n"
        "so that the same list may come again.",
        "chot venue import danh-sach-ho-xa.xlsx",
    )
    take.add_argument("source", type=Path, metavar="FILE", help="FILE.csv or FILE.xlsx")
    out = add(
        "export",
        "the list of venues that have a code, as of a date",
        "The venues registered at the end of a day, with their unit, commune and code (VE-6).",
        "chot venue export --day 2021-06-15 --out danh-sach.xlsx",
    )
    _add_scope(out)
    out.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="FILE.csv or FILE.xlsx"
    )
    show = add(
        "show",
        "what a venue's records said, when, and by whom",
        "All records of a venue in the order in which they were written, as JSON lines.",
        "chot venue show 1013",
    )
    show.add_argument("number", type=whole(1, _NUMBER_MAX), metavar="NUMBER", help="a venue's")


def _add_codes(add: _Add) -> None:
    revoke = add(
        "revoke",
        "a venue's posted codes count no more",
        "From now on every poster of these venues is refused as revoked, until chot venue rotate\n"
        "gives them a new issue.",
        "chot venue revoke 1013",
    )
    rotate = add(
        "rotate",
        "a new issue of a venue's code, or a new key of the province",
        "Gives venues a new issue of their code: print it, hang it up. Without --until the old\n"
        "print is refused at once. With --key the province's key is made anew for all venues;\n"
        "posters of the key before it count until the date that --until gives.",
        "chot venue rotate 1013 --until 2026-12-31",
    )
    for parser, count in ((revoke, "+"), (rotate, "*")):
        parser.add_argument(
            "numbers",
            nargs=count,
            metavar="NUMBER",
            type=whole(1, _NUMBER_MAX),
            help="a venue's number",
        )
    rotate.add_argument(
        "--until", type=instant, metavar="TIME", help="from then on old prints are refused"
    )
    rotate.add_argument("--key", action="store_true", help="the province's key, for all venues")


def _add_scope(parser: Parser) -> None:
    parser.add_argument(
        "--day", type=_day, metavar="DATE", help="as of the end of that day (today: now)"
    )
    parser.add_argument(
        "--area", type=words(1, 64), metavar="AREA", help="only there: code or name, of old too"
    )


def _add_counting(add: _Add) -> None:
    coverage = add(
        "coverage",
        "how many places have a code, and how many are scanned",
        "Registered and active venues by commune and category, with the share of the places that\n"
        "the census knows. Active: scanned within the last seven days.",
        "chot venue coverage --area QT-VL",
    )
    _add_scope(coverage)
    coverage.add_argument(
        "--out", type=Path, metavar="FILE", help="FILE.csv, FILE.xlsx or FILE.json (a table)"
    )


def _day(word: str) -> int:
    """Its number."""
    from engine.clock import ms_to_day

    if len(word) != 10:
        raise argparse.ArgumentTypeError("takes a date such as 2021-06-15")
    return ms_to_day(instant(word))


def run_venue(options: argparse.Namespace) -> int:
    """0 when the engine did it."""
    import asyncio

    data = Path(load_settings(options).data)
    kinds = {"export": (".csv", ".xlsx"), "coverage": (".csv", ".xlsx", ".json")}
    if getattr(options, "out", None) is not None:
        if options.out.suffix.lower() not in kinds[options.action]:
            raise UseError(f"--out: the name ends with {' or '.join(kinds[options.action])}")
        check_out(options.out)
    if options.action == "import" and not options.source.is_file():
        raise UseError(f"there is no file {options.source}")
    if options.action == "rotate" and options.key == bool(options.numbers):
        raise UseError("rotate takes numbers of venues, or --key for all of them")
    if options.action == "rotate" and options.key and options.until is None:
        raise UseError("--key needs --until: when every poster of the old key is replaced")
    return asyncio.run(_venue(options, data))


async def _venue(options: argparse.Namespace, data: Path) -> int:
    from engine.client import admin, venue_admin

    async with admin.connect(data) as owner:
        match options.action:
            case "add":
                area = await venue_admin.resolve_area(owner, options.area)
                added = await venue_admin.add_venue(
                    owner, name=options.name, category=options.category, area=area,
                    address=options.address, default_stay_minutes=options.stay,
                    rooms=options.rooms, unit=options.unit, hours=options.hours,
                    risk=options.risk, location=options.location, created_by=options.by,
                )  # fmt: skip
                print(f"{added.number}\t{added.code}")
            case "import":
                taken = await venue_admin.import_venues(owner, options.source)
                print(f"{taken.written} records written, {taken.known} were there already")
            case "export":
                area = await venue_admin.resolve_area(owner, options.area) if options.area else ""
                rows = await venue_admin.venue_rows(owner, options.day, area)
                _write_rows(options.out, "venues", rows)
                print(f"{options.out}: {len(rows) - 1} venues")
            case "show":
                for line in await venue_admin.venue_history(owner, options.number):
                    print(json.dumps(line, ensure_ascii=False))
            case "revoke":
                taken = await venue_admin.revoke_venues(owner, options.numbers)
                print(f"{taken.written} revoked, {taken.known} were already")
            case "rotate" if options.key:
                key = await venue_admin.rotate_key(owner, options.until)
                print(f"key {key} makes codes now; print all posters: chot venue poster")
            case "rotate":
                for venue in await venue_admin.rotate_venues(owner, options.numbers, options.until):
                    print(f"{venue.number}\tissue {venue.issue}\t{venue.name}")
            case "coverage":
                area = await venue_admin.resolve_area(owner, options.area) if options.area else ""
                _show_coverage(options.out, await venue_admin.coverage(owner, options.day, area))
    return 0


# ---- coverage and lists to files ----------------------------------------------------------------

_HEAD: Final = ("area", "area_name", "category", "known", "registered", "registered_share",
                "active", "active_share")  # fmt: skip


def _show_coverage(out: Path | None, found: CoverageAnswer) -> None:
    import msgspec

    if out is not None and out.suffix.lower() == ".json":
        out.write_bytes(msgspec.json.encode(found))
        return
    names = {row.area: row.area_name for row in found.rows}
    rows = [_HEAD, *((r.area, r.area_name, r.category, *_cells(r)) for r in found.rows)]
    if out is not None:
        _write_rows(out, "coverage", rows)
        return
    # For people: sums first, since a province has thousands of rows.
    shown: list[tuple[str, ...]] = [("", *_HEAD[3:])]
    shown += [(f"{a} {names[a]}".strip(), *_cells(sums)) for a, sums in found.areas.items()]
    shown += [(category, *_cells(sums)) for category, sums in found.categories.items()]
    shown.append(("all", *_cells(found.all)))
    widths = [max(len(row[i]) for row in shown) for i in range(len(shown[0]))]
    for row in shown:
        first = row[0].ljust(widths[0])
        rest = "  ".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print(f"{first}  {rest}".rstrip())
    print(f"as of {found.at}; active: scanned within seven days", file=sys.stderr)


def _cells(counts: CoverageCounts) -> tuple[str, ...]:
    shares = (counts.registered_share, counts.active_share)
    registered, active = ("" if share is None else f"{share:.1f}%" for share in shares)
    known = "" if counts.known is None else str(counts.known)
    return (
        known, str(counts.registered), registered,
        "" if counts.active is None else str(counts.active), active,
    )  # fmt: skip


def _write_rows(out: Path, title: str, rows: Iterable[Sequence[str]]) -> None:
    from engine.registry.csv_tables import rows_to_csv
    from engine.registry.xlsx_tables import rows_to_xlsx

    if out.suffix.lower() == ".xlsx":
        out.write_bytes(rows_to_xlsx({title: list(rows)}))
    else:
        out.write_text(rows_to_csv(rows), encoding="utf-8-sig", newline="")
