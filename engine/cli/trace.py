"""`chot trace`: a tracer's questions, put to the HTTP API.

Persons are read from standard input, the token from a file or the environment: neither ever stands
on a command line, which every user of a machine can read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from engine.cli.parser import (
    Parser,
    UseError,
    add_command,
    instant,
    stdin,
    whole,
    words,
)
from engine.cli.roll import read_roll, read_vehicle
from engine.errors import TokenInvalid

URL: Final = "http://127.0.0.1:7480"
_PURPOSES: Final = {
    "case": "tracing a case (default)",
    "notice": "or a public notice",
    "request": "the person's own request",
}
KINDS: Final = ("cccd", "qid", "passport", "bhyt", "pass", "certificate", "handle")
PERSONS_MAX: Final = 16
MARKS_MAX: Final = 200
LIMIT_DEFAULT: Final = 1000
_STDIN_MAX: Final = 65_536
_PLACE_MAX: Final = 0xFFFF_FFFF
_PASS: Final = "a pass has an issuer, a birth and a name, as in: pass SE 1990-06-05 Öberg Anna"
_EXAMPLE: Final = "cccd 045190999001"

PERSON_HELP: Final = """
The person is read from standard input, never from the command line: a line of
kind and number. Further lines are other documents of the same person.
  cccd 045190999001       ID card
  qid 162999965430803382  national personal code
  passport C1999123 VNM   passport and its country
  bhyt TE4469915298967    health insurance
  pass SE 1990-06-05 Öberg Anna   holder of a health pass: issuer, birth, name
  certificate SE URN:UVCI:01:...  health pass without a whole birth: issuer, number
  handle 6y53yu5n...      what an answer calls a person"""

_QUESTIONS: Final = {
    "venue": (
        "who was at a place between two times",
        "Who was at this place, a venue or a post, between two times?",
        "chot trace venue 1013 --from 2021-07-01T06:00 --to 2021-07-01T09:00 \\\n"
        "    --case BN-1234 --token-file tracer.token",
    ),
    "person": (
        "where a person was",
        f"Where was this person between two times?\n{PERSON_HELP}",
        f"echo {_EXAMPLE} | chot trace person --from 2021-07-01 --to 2021-07-15 \\\n"
        "    --case BN-1234 --token-file tracer.token",
    ),
    "contacts": (
        "who met a person, for how many minutes, where",
        "Who met this person, for how many minutes, and where? These are candidates;\n"
        f"a person decides.\n{PERSON_HELP}",
        f"echo {_EXAMPLE} | chot trace contacts --from 2021-07-01 --to 2021-07-15 \\\n"
        "    --case BN-1234 --token-file tracer.token --format csv > contacts.csv",
    ),
    "notice": (
        "who was at the places of a notice",
        "Who was at these places at these times? They are read from a file, or from standard\n"
        "input: a line each of a venue's number or a post's code, begin and end.\n"
        "  1013 2021-07-01T08:00 2021-07-01T09:30\n"
        "  VL-1A 2021-07-01T07:15 2021-07-01T07:45\n"
        "Those who were at most of them come first.",
        "chot trace notice places.txt --least 2 --case 16/TB-BYT --purpose notice \\\n"
        "    --token-file tracer.token",
    ),
    "tiers": (
        "whom a person can have infected, through whom",
        "Whom can this person have infected, directly (F1) or through others (F2, F3)?\n"
        "Somebody passes it on only after it can have been infected. --format graph gives\n"
        f"nodes and links for programs. These are candidates; a person decides.\n{PERSON_HELP}",
        f"echo {_EXAMPLE} | chot trace tiers --depth 2 --from 2021-07-01 --to 2021-07-15 \\\n"
        "    --case BN-1234 --token-file tracer.token",
    ),
    "passed": (
        "who passed a post, and came from an area",
        "Who passed this post between two times? With --came-from only those who were scanned\n"
        "in that area before, with --address those who told such an address.",
        "chot trace passed VL-1A --from 2021-07-01 --to 2021-07-02 --direction in \\\n"
        "    --came-from QT-HL --case 16/TB-BYT --purpose notice --token-file tracer.token",
    ),
    "vehicle": (
        "who was in a vehicle",
        "Who was in this vehicle or on this trip? It is read from standard input, a line each:\n"
        "  plate 74A-123.45\n"
        "  trip DH-LB 7:45          of that vehicle, or where scans named no plate\n"
        "  seat 12A                 rows apart are counted from there.",
        "echo plate 74A-123.45 | chot trace vehicle --from 2021-07-01 --to 2021-07-02 \\\n"
        "    --case BN-1234 --token-file tracer.token",
    ),
    "roll": (
        "who of a list of persons was scanned",
        "Who of a list of up to 10,000 persons was scanned between two times? A table as CSV,\n"
        "from a file or standard input, with a head: cccd, qid, bhyt, passport and country,\n"
        "name, birth; Vietnamese headings too. Whose documents are known is matched; whose name\n"
        "and birth are those of a health pass is unsure, and a person decides.",
        "chot trace roll entrants.csv --from 2021-07-01 --to 2021-07-15 --case 12/CA-BC \\\n"
        "    --token-file tracer.token --format csv > matched.csv",
    ),
    "counts": (
        "how many came where and when; no persons",
        "How many visits and passages began, by hour or day, and by place, control point (lane),\n"
        "area or kind of place? No persons, so no case is needed.",
        "chot trace counts --from 2021-07-01 --to 2021-07-02 --by hour --group area \\\n"
        "    --token-file ioc.token",
    ),
}


def add_trace(commands: Any) -> None:
    """The subcommand and its questions."""
    parser = add_command(
        commands,
        "trace",
        None,
        "a tracer's questions, put to the API",
        "A tracer's questions, put to the API of a running engine. Names, phones and numbers\n"
        "are masked unless --unmasked; every question is recorded with who asked and why.",
    )
    questions = parser.add_subparsers(
        dest="question", metavar="QUESTION", required=True, title="questions"
    )
    for name, (summary, text, example) in _QUESTIONS.items():
        question = add_command(questions, name, run_trace, summary, text, f"example:\n  {example}")
        if name in ("venue", "passed"):
            question.add_argument(
                "place", metavar="PLACE", type=_place, help="number of a venue, or code of a post"
            )
        elif name == "notice":
            _add_marks(question)
            add_access(question, csv="a line a visit at one of the places")
            continue
        elif name == "counts":
            _add_counts(question)
            add_access(question, csv="a line a count", has_names=False)
            continue
        elif name == "roll":
            question.add_argument(
                "roll", metavar="FILE", nargs="?", default="-", help="CSV (none: standard input)"
            )
        else:
            what = "vehicle" if name == "vehicle" else "person"
            question.set_defaults(
                surplus=f"the {what} is read from standard input, never from the command line"
            )
        _add_span(question, has_limit=name != "roll")
        if name in _ADDITIONS:
            _ADDITIONS[name](question)
        extra = ("graph",) if name == "tiers" else ()
        lines = "every row" if name in ("venue", "person", "passed") else "a line of evidence each"
        add_access(question, csv=lines, has_names=name != "roll", extra=extra)


def _add_span(parser: Parser, *, has_limit: bool = True) -> None:
    group = parser.add_argument_group("what is asked")
    group.add_argument(
        "--from",
        dest="start",
        required=True,
        metavar="TIME",
        type=instant,
        help="2021-07-01 or 2021-07-01T08:30, time of Việt Nam",
    )
    group.add_argument(
        "--to",
        dest="end",
        required=True,
        metavar="TIME",
        type=instant,
        help="the first instant that is not asked about any more; at most 366 days later",
    )
    add_case(group)
    if has_limit:
        _add_limit(group)


def _add_passed(parser: Parser) -> None:
    group = parser.add_argument_group("of those who passed")
    group.add_argument("--direction", choices=["in", "out"], default="", help="into or out of it")
    group.add_argument(
        "--came-from",
        metavar="AREA",
        type=words(0, 32),
        default="",
        help="only who was scanned in that area (its code) not long before",
    )
    group.add_argument(
        "--within-days",
        metavar="DAYS",
        type=whole(1, 60),
        default=14,
        help="how long before (14)",
    )
    group.add_argument(
        "--address",
        metavar="TEXT",
        type=words(0, 64),
        default="",
        help="only who told an address with that in it, with or without accents; not with csv",
    )
    _add_after(parser)


def _add_after(parser: Parser) -> None:
    parser.add_argument(
        "--after",
        metavar="NEXT",
        type=words(0, 64),
        default="",
        help="the rows behind those of an earlier answer, whose last line names it",
    )


def _add_counts(parser: Parser) -> None:
    group = parser.add_argument_group("what is counted")
    for name in ("--from", "--to"):
        group.add_argument(
            name,
            dest="start" if name == "--from" else "end",
            required=True,
            metavar="TIME",
            type=instant,
            help="2021-07-01 or 2021-07-01T08:30, time of Việt Nam",
        )
    group.add_argument("--by", choices=["hour", "day"], default="hour", help="cells of time (hour)")
    group.add_argument(
        "--group",
        choices=["place", "lane", "area", "kind"],
        default="place",
        help="what is told apart (place)",
    )
    group.add_argument(
        "--limit",
        type=whole(1, 100_000),
        default=10_000,
        metavar="ROWS",
        help="rows at most, up to 100000 (10000)",
    )


def _add_tiers(parser: Parser) -> None:
    _add_rule(parser)
    group = parser.add_argument_group("chains")
    group.add_argument(
        "--depth", type=whole(1, 5), default=2, metavar="TIERS", help="2 is F1 and F2 (2)"
    )
    group.add_argument(
        "--latent-hours",
        type=whole(0, 336),
        default=0,
        metavar="HOURS",
        help="from being infected to being infectious (0)",
    )
    group.add_argument(
        "--most",
        type=whole(1, 1 << 32),
        default=50_000,
        metavar="PERSONS",
        help="no tier behind one with more persons (50000)",
    )


def _add_contacts(parser: Parser) -> None:
    _add_rule(parser)
    parser.add_argument(
        "--risk-level",
        type=whole(1, 8),
        default=5,
        metavar="LEVEL",
        help="of the case, 1 to 8, for the profile CWA (5)",
    )


def _add_marks(parser: Parser) -> None:
    parser.add_argument(
        "marks",
        metavar="FILE",
        nargs="?",
        default="-",
        help="places and spans, one each line (without it: standard input)",
    )
    group = parser.add_argument_group("what is asked")
    group.add_argument(
        "--least",
        type=whole(1, MARKS_MAX),
        default=1,
        metavar="PLACES",
        help="only who was at so many of them at least (1)",
    )
    group.add_argument(
        "--since",
        type=whole(0, 1 << 53),
        default=0,
        metavar="GROUP",
        help="only of whom something came after this group; an answer's last line names it",
    )
    add_case(group)
    _add_limit(group)


def _add_limit(group: Any) -> None:
    group.add_argument(
        "--limit",
        type=whole(1, 10_000),
        metavar="ROWS",
        help="rows at most, up to 10000 (1000; as csv, of visits, all of them)",
    )


def add_case(group: Any, purposes: Sequence[str] = ("case", "notice")) -> None:
    """Why something about persons is asked or done; the first purpose if none is given."""
    group.add_argument(
        "--case",
        required=True,
        type=words(1, 64),
        metavar="NUMBER",
        help="number of the case or notice, as in BN-1234; no number of a person",
    )
    group.add_argument(
        "--purpose",
        choices=purposes,
        default=purposes[0],
        help="why: " + ", ".join(_PURPOSES[purpose] for purpose in purposes),
    )


def _add_rule(parser: Parser) -> None:
    group = parser.add_argument_group("contact rule (docs/tracing.md)")
    minutes = whole(0, 1440)
    group.add_argument(
        "--profile",
        default="",
        type=words(0, 64),
        metavar="NAME",
        help="rule by name; if not given the national one in force at --to",
    )
    group.add_argument(
        "--min-minutes",
        type=minutes,
        metavar="MINUTES",
        help="together for at least so long, in place of the rule's",
    )
    group.add_argument(
        "--linger-minutes",
        type=minutes,
        metavar="MINUTES",
        help="how long after the person left still counts, in place of the rule's",
    )


def add_access(
    parser: Parser, *, csv: str = "", has_names: bool = True, extra: Sequence[str] = ()
) -> None:
    """csv: what a line of it is, "" where there is none. extra: further formats."""
    group = parser.add_argument_group("answer and access")
    group.add_argument(
        "--format",
        choices=["table", "json", *(["csv"] if csv else []), *extra],
        default="table",
        help="table (default); json: the API's answer" + (f"; csv: {csv}" if csv else ""),
    )
    if has_names:
        group.add_argument(
            "--unmasked", action="store_true", help="names, phones and numbers in full, if you may"
        )
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with your token (without it: the environment's CHOT_TOKEN)",
    )
    group.add_argument("--url", metavar="URL", help=f"address of the API (CHOT_URL, else {URL})")


def run_trace(options: argparse.Namespace) -> int:
    """0 with an answer, even an empty one."""
    from engine.client import api_client as client

    url = options_to_url(options)
    token, body = read_token(options), _options_to_body(options)
    try:
        if options.question == "counts":
            answer = client.counts(url, token, body)
        elif options.format == "csv" and options.question in client.STREAMED and can_stream(body):
            headers = client.stream(url, token, options.question, body, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            sys.stderr.write(client.stream_footer(headers))
            return 0
        else:
            answer = client.trace(url, token, options.question, body)
    except TokenInvalid as error:
        raise TokenInvalid(str(error), hint="a new one: chot registry token GRANT") from None
    sys.stdout.write(client.render(options.question, answer, options.format))
    return 0


def can_stream(body: dict[str, Any]) -> bool:
    """Addresses are compared in answers as JSON alone."""
    return not body.get("address")


def options_to_url(options: argparse.Namespace) -> str:
    return options.url or os.environ.get("CHOT_URL") or URL


def read_token(options: argparse.Namespace) -> str:
    if options.token_file is None:
        token = os.environ.get("CHOT_TOKEN", "").strip()
        if not token:
            raise UseError("no token: give --token-file FILE or set CHOT_TOKEN")
        return token
    try:
        with options.token_file.open("rb") as file:
            token = file.read(4096).decode().strip()
    except OSError as error:
        name = options.token_file
        raise UseError(f"--token-file: cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not token or len(token.split()) != 1:
        raise UseError(f"--token-file: {options.token_file} holds no token")
    return token


def _options_to_body(options: argparse.Namespace) -> dict[str, Any]:
    if options.question == "counts":
        _check_span(options)
        return {
            "from": options.start,
            "to": options.end,
            "by": options.by,
            "group": options.group,
            "limit": options.limit,
        }
    body: dict[str, Any] = {"purpose": options.purpose, "case": options.case}
    if options.question == "roll":
        _check_span(options)
        rows = read_roll(options.roll)
        return {**body, "from": options.start, "to": options.end, "rows": rows}
    body |= {"limit": options.limit or LIMIT_DEFAULT, "unmasked": options.unmasked}
    if options.question == "notice":
        marks = read_marks(options.marks)
        return {**body, "marks": marks, "least": options.least, "since": options.since}
    _check_span(options)
    body |= {"from": options.start, "to": options.end}
    is_streamed = options.question in ("venue", "person", "passed")
    if options.format == "csv" and options.limit is None and is_streamed:
        body["all_rows"] = True
    if options.question == "venue":
        return {**body, "place": options.place, "after": options.after}
    if options.question == "passed":
        names = ("place", "direction", "came_from", "within_days", "address", "after")
        return {**body, **{name: getattr(options, name) for name in names}}
    if options.question == "vehicle":
        return {**body, **read_vehicle(), "after": options.after}
    body["person"], *aliases = read_persons()
    if aliases:
        body["aliases"] = aliases
    if options.question == "tiers":
        body |= {name: getattr(options, name) for name in ("depth", "latent_hours", "most")}
    if options.question == "contacts":
        body["risk_level"] = options.risk_level
    if options.question in ("contacts", "tiers"):
        body["profile"] = options.profile
        for name in ("min_minutes", "linger_minutes"):
            if getattr(options, name) is not None:
                body[name] = getattr(options, name)
    return body


def _check_span(options: argparse.Namespace) -> None:
    if options.start >= options.end:
        raise UseError("--from must be earlier than --to")


_ADDITIONS: Final[dict[str, Callable[[Parser], None]]] = {
    "venue": _add_after,
    "contacts": _add_contacts,
    "tiers": _add_tiers,
    "passed": _add_passed,
    "vehicle": _add_after,
}


def read_marks(name: str) -> list[dict[str, Any]]:
    """A line each of place, begin and end; empty lines and those after # do not count.

    Raises UseError.
    """
    what = "place, begin and end, as in: 1013 2021-07-01T08:00 2021-07-01T09:30"
    try:
        data = stdin(what).read() if name == "-" else Path(name).read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UseError(f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UseError(f"{name} is not UTF-8") from None
    marks = []
    for n, line in enumerate(lines, 1):
        cells = line.partition("#")[0].split()
        if not cells:
            continue
        try:
            place, start, end = _place(cells[0]), *map(instant, cells[1:])
        except (ValueError, argparse.ArgumentTypeError):
            raise UseError(f"line {n} of the places: {what}") from None
        if start >= end:
            raise UseError(f"line {n} of the places: it ends before it begins")
        marks.append({"place": place, "from": start, "to": end})
    if not 1 <= len(marks) <= MARKS_MAX:
        raise UseError(f"a notice has 1 to {MARKS_MAX} places, not {len(marks)}")
    return marks


def _place(word: str) -> int | str:
    """A number, or a code. Raises ArgumentTypeError, which does not quote it."""
    if word.isascii() and word.isdigit():
        if len(word) <= 10 and 1 <= int(word) <= _PLACE_MAX:
            return int(word)
    elif 1 <= len(word) <= 32:
        return word
    raise argparse.ArgumentTypeError(
        f"takes the number of a venue (1 to {_PLACE_MAX}) or the code of a post such as VL-1A"
    )


def read_persons() -> list[dict[str, str]]:
    """What is wrong is said without quoting it. Raises UseError."""
    data = stdin(f"kind and number, as in: {_EXAMPLE}").read(_STDIN_MAX + 1)
    if len(data) > _STDIN_MAX:
        raise UseError(f"standard input is longer than {_STDIN_MAX} bytes")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UseError("standard input is not UTF-8") from None
    persons = [_line_to_person(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not persons:
        raise UseError(f"no person on standard input, as in: {_EXAMPLE}")
    if len(persons) > PERSONS_MAX:
        raise UseError(f"at most {PERSONS_MAX} documents, all of one person; ask for each person")
    return persons


def _line_to_person(n: int, line: str) -> dict[str, str]:
    """`kind number [country]`, `pass issuer birth name` or `certificate issuer number`."""
    kind, *rest = line.split()
    kind = kind.lower()
    if kind in ("phone", "name"):
        raise UseError(
            f"line {n} of standard input: a {kind} is no identity; several people have the same"
        )
    if kind not in KINDS:
        raise UseError(f"line {n} of standard input: kind is one of {', '.join(KINDS)}")
    if kind == "pass":
        if len(rest) < 3:
            raise UseError(f"line {n} of standard input: {_PASS}")
        return {"kind": kind, "issuer": rest[0], "birth": rest[1], "value": " ".join(rest[2:])}
    if kind == "certificate":
        if len(rest) != 2:
            raise UseError(f"line {n} of standard input: a certificate has an issuer and a number")
        return {"kind": kind, "issuer": rest[0], "value": rest[1]}
    if len(rest) not in (1, 2) or len(rest[0]) > 64:
        raise UseError(f"line {n} of standard input: kind and number, as in: {_EXAMPLE}")
    # Three letters, but a German passport prints a lone D.
    if kind == "passport" and (len(rest) != 2 or len(rest[1]) > 3):
        raise UseError(
            f"line {n} of standard input: a passport has a country of three letters,"
            " as in: passport C1999123 VNM"
        )
    if kind != "passport" and len(rest) == 2:
        raise UseError(f"line {n} of standard input: only a passport has a country")
    return {"kind": kind, "value": rest[0], **({"issuer": rest[1]} if len(rest) == 2 else {})}
