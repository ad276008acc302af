"""`chot venue poster`: what a venue hangs on its doors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from engine.cli.parser import (
    Parser,
    UseError,
    add_command,
    check_out,
    load_settings,
    whole,
    words,
)

if TYPE_CHECKING:
    from engine.client.admin import Owner
    from engine.registry.poster import Page
    from engine.registry.records import Venue

_NUMBER_MAX: Final = 0xFFFF_FFFF


def add_poster(actions: Any) -> None:
    """The action of `chot venue`."""
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
        "  chot venue poster 1007 --rooms --doors --out benh-vien.pdf\n"
        "  chot venue poster --area QT-VL-HX --size A6 --sheet --out ho-xa.pdf",
    )
    _add_options(poster)


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
        type=words(1, 64),
        metavar="AREA",
        help="only venues in this area or within it: a code or name, of old too",
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
        "--rooms", action="store_true", help="a poster for each room, of venues that have rooms"
    )
    parser.add_argument(
        "--doors", action="store_true", help="one for coming in and one for going out"
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
    from engine.client import admin, venue_admin
    from engine.clock import SystemClock, day_to_date, ms_to_day
    from engine.registry.poster import draw_poster, sheets
    from engine.registry.records import Area
    from engine.registry.venue_codes import posted_doors

    async with admin.connect(data) as owner:
        venues = await _chosen(options, owner)
        names = {
            area.code: area.name
            for area in await admin.records(owner, "area")
            if isinstance(area, Area)
        }
        doors = [
            (venue, room, direction)
            for venue in venues
            for room, direction in posted_doors(
                venue, with_rooms=options.rooms, with_doors=options.doors
            )
        ]
        texts = await venue_admin.codes(owner, [(v.number, room, way) for v, room, way in doors])
    year, month, day = day_to_date(ms_to_day(SystemClock().now_ms())).split("-")
    pages = [
        draw_poster(
            venue,
            text,
            room=room,
            direction=direction,
            area=names.get(venue.area, ""),
            issuer=options.issuer,
            keep_days=keep_days,
            printed_on=f"{day}/{month}/{year}",
            size=options.size,
        )
        for (venue, room, direction), text in zip(doors, texts, strict=True)
    ]
    if options.sheet:
        return [(str(n), page) for n, page in enumerate(sheets(pages), 1)]
    return [(_file_part(*door), page) for door, page in zip(doors, pages, strict=True)]


def _file_part(venue: Venue, room: int, direction: str) -> str:
    """What tells its file from others: "1013", "1007-p2-in"."""
    return "-".join(filter(None, (str(venue.number), f"p{room}" if room else "", direction)))


async def _chosen(options: argparse.Namespace, owner: Owner) -> list[Venue]:
    """Raises UseError for a number that is not there, or when nothing is left."""
    from engine.client import admin, venue_admin
    from engine.registry.records import Venue

    venues = {v.number: v for v in await admin.records(owner, "venue") if isinstance(v, Venue)}
    unknown = [str(number) for number in options.numbers if number not in venues]
    if unknown:
        raise UseError(f"there is no venue {', '.join(unknown)}")
    wanted = set(options.numbers or venues)
    if options.area is not None:
        area = await venue_admin.resolve_area(owner, options.area)
        rows = await venue_admin.listed_numbers(owner, area)
        wanted &= rows
    revoked = [str(number) for number in options.numbers if venues[number].is_revoked]
    if revoked:
        raise UseError(f"revoked: {', '.join(revoked)}; chot venue rotate gives a new issue")
    found = [venues[number] for number in sorted(wanted) if not venues[number].is_revoked]
    if not found:
        raise UseError("there is no such venue")
    return found


def _write(out: Path, kind: str, pages: Sequence[tuple[str, Page]]) -> list[str]:
    """Names of the files."""
    from engine.registry.poster_files import page_to_png, page_to_svg, pages_to_pdf

    if kind == ".pdf":
        out.write_bytes(pages_to_pdf([page for _, page in pages], out.stem))
        return [str(out)]
    files = []
    for name, page in pages:
        path = out if len(pages) == 1 else out.with_stem(f"{out.stem}-{name}")
        path.write_bytes(page_to_png(page) if kind == ".png" else page_to_svg(page).encode())
        files.append(str(path))
    return files
