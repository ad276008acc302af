"""`chot venue`: what a venue hangs on its door.

It speaks to the engine through the socket in its data folder, so it is for the engine's owner.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.cli_parser import (
    Parser,
    UseError,
    add_command,
    add_settings_options,
    check_out,
    load_settings,
    whole,
    words,
)

if TYPE_CHECKING:
    from engine.poster import Page
    from engine.registry_records import Area, Venue

_DATA_HELP: Final = "data folder of the running engine (setting: data)"
_NUMBER_MAX: Final = 0xFFFF_FFFF


def add_venue(commands: Any) -> None:
    """The subcommand and its actions."""
    parser = add_command(
        commands,
        "venue",
        None,
        "posters with the codes of venues",
        "What a venue hangs on its door: for the user who runs the engine.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    poster = add_command(
        actions,
        "poster",
        run_poster,
        "posters to print, in Vietnamese",
        "Posters of venues with their codes, in Vietnamese, to print. The file's name says\n"
        "which kind: FILE.pdf holds all of them, a page each; FILE.svg and FILE.png take one\n"
        "venue, or become one file each with the venue's number in the name. They replace a\n"
        "file that is there.",
        "examples:\n  chot venue poster 1013 --out cho-ho-xa.pdf\n"
        "  chot venue poster --area QT-VL-HX --size A6 --sheet --out ho-xa.pdf",
    )
    _add_options(poster)
    add_settings_options(poster, data=_DATA_HELP)


def _add_options(parser: Parser) -> None:
    parser.add_argument(
        "numbers",
        metavar="NUMBER",
        nargs="*",
        type=whole(1, _NUMBER_MAX),
        help="a venue's number (without any: all venues)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="FILE.pdf, FILE.svg or FILE.png"
    )
    parser.add_argument(
        "--area",
        type=words(1, 32),
        metavar="CODE",
        help="only venues in this area or an area within it",
    )
    parser.add_argument(
        "--size",
        choices=["A4", "A5", "A6"],
        default="A4",
        help="of a poster (A4); its code is 15, 10.6 or 7.5 cm wide",
    )
    parser.add_argument(
        "--sheet", action="store_true", help="with --size A6: four posters on a sheet of A4"
    )
    parser.add_argument(
        "--issuer", type=words(0, 120), default="", metavar="TEXT", help="who issues it, on top"
    )


def run_poster(options: argparse.Namespace) -> int:
    """0 when the posters are written."""
    import asyncio

    kind = options.out.suffix.lower()
    if kind not in (".pdf", ".svg", ".png"):
        raise UseError("--out: the name ends with .pdf, .svg or .png")
    if options.sheet and options.size != "A6":
        raise UseError("--sheet takes four posters of --size A6")
    check_out(options.out)
    settings = load_settings(options)
    pages = asyncio.run(_pages(options, Path(settings.data), settings.retention_days))
    names = _write(options.out, kind, pages)
    print(
        f"{len(pages)} {'page' if len(pages) == 1 else 'pages'}: {', '.join(names[:4])}"
        f"{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
    )
    return 0


async def _pages(options: argparse.Namespace, data: Path, keep_days: int) -> list[tuple[str, Page]]:
    """(what tells its file from others, page) of each."""
    from engine import admin
    from engine.clock import SystemClock, day_to_date, ms_to_day
    from engine.poster import draw_poster, sheets
    from engine.registry_records import Area, Venue

    async with admin.connect(data) as owner:
        venues = [v for v in await admin.records(owner, "venue") if isinstance(v, Venue)]
        areas = [a for a in await admin.records(owner, "area") if isinstance(a, Area)]
        codes = await admin.venue_codes(owner)
    chosen = _chosen(options, venues, areas)
    names = {area.code: area.name for area in areas}
    year, month, day = day_to_date(ms_to_day(SystemClock().now_ms())).split("-")
    pages = [
        draw_poster(
            venue,
            codes[venue.number],
            area=names.get(venue.area, ""),
            issuer=options.issuer,
            keep_days=keep_days,
            printed_on=f"{day}/{month}/{year}",
            size=options.size,
        )
        for venue in chosen
    ]
    if options.sheet:
        return [(str(n), page) for n, page in enumerate(sheets(pages), 1)]
    return [(str(venue.number), page) for venue, page in zip(chosen, pages, strict=True)]


def _chosen(
    options: argparse.Namespace, venues: Sequence[Venue], areas: Sequence[Area]
) -> list[Venue]:
    """Raises UseError for a number or an area that is not there, or when nothing is left."""
    known = {venue.number for venue in venues}
    unknown = [str(number) for number in options.numbers if number not in known]
    if unknown:
        raise UseError(f"there is no venue {', '.join(unknown)}")
    within = _within(options.area, areas)
    found = [
        venue
        for venue in sorted(venues, key=lambda venue: venue.number)
        if (not options.numbers or venue.number in options.numbers)
        and (within is None or venue.area in within)
    ]
    if not found:
        raise UseError("there is no such venue")
    return found


def _within(code: str | None, areas: Sequence[Area]) -> set[str] | None:
    """Codes of an area and of all within it; None for no bound."""
    if code is None:
        return None
    if code not in {area.code for area in areas}:
        raise UseError(f"there is no area {code}")
    found, size = {code}, 0
    while len(found) > size:
        size = len(found)
        found |= {area.code for area in areas if area.parent in found}
    return found


def _write(out: Path, kind: str, pages: Sequence[tuple[str, Page]]) -> list[str]:
    """Names of the files."""
    from engine.poster_files import page_to_png, page_to_svg, pages_to_pdf

    if kind == ".pdf":
        out.write_bytes(pages_to_pdf([page for _, page in pages], out.stem))
        return [str(out)]
    files = []
    for name, page in pages:
        path = out if len(pages) == 1 else out.with_stem(f"{out.stem}-{name}")
        path.write_bytes(page_to_png(page) if kind == ".png" else page_to_svg(page).encode())
        files.append(str(path))
    return files
