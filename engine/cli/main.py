"""The command `chot`: one parser, thin shells over functions that others can call.

A mistake in use is one line on stderr and exit status 2; an engine that says no is one line with
its stable code and exit status 1. Identifiers of persons are read from standard input, never from
the command line. docs/commands.md describes all of it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

import engine
from engine.cli.gateway import add_gateway
from engine.cli.keep import add_keep
from engine.cli.keys import add_keys
from engine.cli.merge import add_merge
from engine.cli.parser import (
    EXIT_FAILED,
    EXIT_USE,
    Parser,
    UseError,
    add_command,
    add_settings_options,
    drop_output,
    flush,
    load_origins,
    load_settings,
    open_streams,
    parse,
    print_json,
    words,
)
from engine.cli.person import add_person
from engine.cli.registry import add_registry
from engine.cli.trace import add_trace
from engine.cli.venue import add_venue
from engine.cli.watch import add_watch
from engine.errors import EngineError, RegistryInvalid, SettingInvalid

EXIT_INTERRUPTED: Final = 130

_DESCRIPTION: Final = """\
Scans of health checkpoints and venues: takes them from cameras, readers and apps,
keeps them safely, and answers who was where, when, and who met whom."""

_EPILOG: Final = """\
first time:    chot demo
one command:   chot COMMAND --help
everything:    docs/commands.md

exit status:   0 done; 1 the engine or a file said no, with a code of docs/errors.md;
               2 a mistake in use; 130 interrupted"""


def build_parser() -> Parser:
    """The whole command line; docs/commands.md is held against it by a test."""
    parser = Parser(prog="chot", description=_DESCRIPTION, epilog=_EPILOG)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands"
    )
    _add_demo(commands)
    _add_serve(commands)
    add_gateway(commands)
    add_trace(commands)
    add_watch(commands)
    add_merge(commands)
    add_person(commands)
    add_registry(commands)
    add_venue(commands)
    _add_decode(commands)
    _add_parse(commands)
    _add_verify(commands)
    add_keys(commands)
    add_keep(commands)
    _add_doctor(commands)
    _add_settings(commands)
    add_command(
        commands,
        "version",
        run_version,
        "version of chot and of what it is built on",
        "One line: version of chot, level of the native core (scalar, avx2, neon), libraries.",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status of one command. SystemExit for --help and for mistakes that the parser finds."""
    open_streams()
    prog = "chot"
    try:
        try:
            options = parse(build_parser(), arguments)
            prog = options.prog
            status: int = options.run(options)
        finally:
            flush()
        return status
    except BrokenPipeError:
        drop_output()
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except UseError as error:
        return _say(prog, EXIT_USE, str(error))
    except SettingInvalid as error:
        return _say(prog, EXIT_USE, f"{error}{_hint(error)}")
    except EngineError as error:
        for row in error.rows if isinstance(error, RegistryInvalid) else ():
            print(row, file=sys.stderr)
        return _say(prog, EXIT_FAILED, f"{error.code}: {error}{_hint(error)}")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _say(prog, EXIT_FAILED, f"{error.strerror or error}{where}")


def _say(prog: str, status: int, text: str) -> int:
    """One line, whatever the text holds."""
    print(f"{prog}: {' '.join(text.split())}", file=sys.stderr)
    return status


def _hint(error: EngineError) -> str:
    return f" ({error.hint})" if error.hint else ""


# ---- demo -------------------------------------------------------------------------------------

SOURCE_TREE = Path(__file__).resolve().parents[2]


def _add_demo(commands: Any) -> None:
    parser = add_command(
        commands,
        "demo",
        run_demo,
        "the main job on recorded frames, in a minute",
        "Starts an engine, plays recorded camera clips of three lanes and a day of check-ins\n"
        "into it, shows verdicts and figures, and asks a tracer's questions. All persons are\n"
        "invented. Ends by itself within a minute; exit status 1 when a step fails.",
    )
    parser.add_argument(
        "--clips",
        type=Path,
        metavar="DIR",
        default=SOURCE_TREE / "tests/data/lanes",
        help="lane clips (of the source tree)",
    )
    parser.add_argument(
        "--registry",
        type=Path,
        metavar="DIR",
        default=SOURCE_TREE / "docs/examples/registry",
        help="CSV tables of posts, venues, ... (of the source tree)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="new folder for the store (a temporary one)"
    )


def run_demo(options: argparse.Namespace) -> int:
    from engine.cli import demo

    for name in ("clips", "registry"):
        folder = getattr(options, name)
        if not folder.is_dir():
            raise UseError(f"there is no folder {folder}; the source tree has one, see --{name}")
    data = options.data
    if data is not None and data.exists() and not (data.is_dir() and not any(data.iterdir())):
        raise UseError(f"--data: {data} is not a new or empty folder")
    return demo.run_demo(options.clips, options.registry, data)


# ---- serve ------------------------------------------------------------------------------------


def _add_serve(commands: Any) -> None:
    parser = add_command(
        commands,
        "serve",
        run_serve,
        "run the engine and its HTTP API",
        "Runs the engine, and the HTTP API as a process of its own, until Ctrl-C or SIGTERM.\n"
        "Prints where gateways (ingest), tracers (api) and Prometheus (metrics) find it; log\n"
        "lines go to stderr. Creates the store when the data folder has none.",
        "example:\n  chot serve --data var/chot --registry docs/examples/registry",
    )
    parser.add_argument(
        "--registry",
        type=Path,
        metavar="DIR",
        help="CSV tables to import before the doors open; again changes nothing",
    )
    parser.add_argument(
        "--part",
        choices=["all", "engine", "api"],
        default="all",
        help="engine and API (all, default), or one of them alone",
    )
    parser.add_argument(
        "--json", action="store_true", help="say where it is found as one JSON line"
    )
    add_settings_options(parser, data="folder of the store (setting: data)")


def run_serve(options: argparse.Namespace) -> int:
    """0 after SIGTERM or SIGINT."""
    from engine import app

    settings = load_settings(options)
    if options.registry is not None:
        if options.part == "api":
            raise UseError("--registry is for the engine; --part api has none")
        if not options.registry.is_dir():
            raise UseError(f"--registry: there is no folder {options.registry}")
    if options.part == "api":
        return app.serve_api(settings)
    return app.serve(
        settings,
        registry_dir=options.registry,
        with_api=options.part == "all",
        is_json=options.json,
    )


# ---- decode ----------------------------------------------------------------------------------


def _add_decode(commands: Any) -> None:
    parser = add_command(
        commands,
        "decode",
        run_decode,
        "QR codes in image files, as JSON lines",
        "Reads the QR codes in images: a JSON line a file, and a line a frame of a clip, with\n"
        "text, bytes (base64), corners (pixels) and time (decode_us, microseconds). Exit status\n"
        "1 when a file was no image; an image without a code is fine.",
        "example:\n  chot decode tests/data/images/zxing/*.png",
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="JPEG, PNG, or a clip (.mjpeg, .mjpg)"
    )
    _add_masks(parser)


def run_decode(options: argparse.Namespace) -> int:
    """0 when every file was an image, 1 when one was not."""
    from engine.cli import parse as cli_parse
    from engine.decoding import decode

    is_masked = cli_parse.is_masked(options)
    for path in options.files:
        if not path.exists() or path.is_dir():
            raise UseError(f"there is no file {path}")
    status = 0
    for path in options.files:
        for line in decode.decode_file(path):
            print_json(cli_parse.hide_persons(line) if is_masked else line)
            status = max(status, EXIT_FAILED if "error" in line else 0)
    return status


def _add_masks(parser: Parser) -> None:
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--masked", action="store_true", help="as on a terminal, also elsewhere")
    shown.add_argument("--unmasked", action="store_true", help="in full, also on a terminal")


# ---- parse ------------------------------------------------------------------------------------


def _add_parse(commands: Any) -> None:
    parser = add_command(
        commands,
        "parse",
        run_parse,
        "what payloads of codes mean, JSON lines in and out",
        "Says of each payload whether it is accepted, must be looked at (review) or is refused,\n"
        "with its fields: docs/payloads.md. A line in: an object with payload_b64 and perhaps\n"
        "id, validation_clock and trust. A line out for each line in, in order. Exit status 1\n"
        "when a line was no such object; a refused payload is fine.",
        'example:\n  echo \'{"payload_b64": "MDAwMjAxMDEwMjEx"}\' | chot parse\n'
        "  printf 'HTTPS://EXAMPLE.COM' | chot parse --raw",
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="read these in place of standard input"
    )
    parser.add_argument(
        "--raw", action="store_true", help="each file, or the input, is the bytes of one code"
    )
    parser.add_argument(
        "--trust",
        type=Path,
        metavar="PATH",
        help="file or folder of keys that sign health passes (setting: trust)",
    )
    parser.add_argument(
        "--venue-host",
        metavar="HOST",
        type=words(1, 253),
        help="host name in our own venue codes (setting: venue_host)",
    )
    _add_masks(parser)


def run_parse(options: argparse.Namespace) -> int:
    """One line out for each line in, in order; 1 when a line was no question."""
    from engine.cli import parse as cli_parse

    return cli_parse.run(options)


# ---- verify -----------------------------------------------------------------------------------


def _add_verify(commands: Any) -> None:
    parser = add_command(
        commands,
        "verify",
        run_verify,
        "check a whole store",
        "Reads a whole store and checks checksums, hash chains, sequence numbers, runs against\n"
        "rows and details, and whether the keys open it. Changes nothing and shows no persons.\n"
        "Works beside a running engine and on a copy. Exit status 1 with a line PROBLEM for\n"
        "each fault; docs/operations.md says what each means.",
        "example:\n  chot verify var/chot",
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="data folder of the engine")
    parser.add_argument(
        "--without-keys", action="store_true", help="do not open anything: checksums and chains"
    )
    parser.add_argument(
        "--noted", type=_noted, metavar="LSN:HEAD", help="head of the scan log noted earlier"
    )
    parser.add_argument(
        "--noted-control", type=_noted, metavar="LSN:HEAD", help="the same of the control log"
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def _noted(word: str) -> tuple[int, str]:
    found = re.fullmatch(r"([0-9]{1,20}):([0-9a-f]{16,64})", word)
    if found is None:
        raise argparse.ArgumentTypeError("takes a number and a head, as in 6:7a4158c3525ada81")
    return int(found[1]), found[2]


def run_verify(options: argparse.Namespace) -> int:
    """0 for a sound store, 1 for one with problems; shows no persons."""
    from engine.keeping.verify import JOURNAL_DIR, verify_apart
    from engine.keeping.verify_report import report_to_json

    if not (options.data / JOURNAL_DIR).is_dir():
        raise UseError(f"{options.data} holds no store (no folder {JOURNAL_DIR})")
    heads = {"scan": options.noted, "control": options.noted_control}
    noted = {log: head for log, head in heads.items() if head is not None}
    report = verify_apart(options.data, with_keys=not options.without_keys, noted=noted)
    status = 0 if report.is_sound else EXIT_FAILED
    if options.json:
        print_json(report_to_json(report))
        return status
    opened = "" if options.without_keys else f", {report.rows_opened} opened with the keys"
    beside = ", beside a running engine" if report.is_live else ""
    scan, control = report.chain_head.hex()[:16], report.control_head.hex()[:16]
    files = f" in {report.generations} generations" if report.generations > 1 else ""
    print(f"scan log     {report.groups} groups{files}, {report.rows} rows{opened}{beside}")
    print(f"             {report.groups_expired} forgotten, head {report.last_lsn}:{scan}")
    print(f"control log  {report.control_records} records, head {report.control_last}:{control}")
    for (gateway, epoch, cls), last in sorted(report.watermarks.items()):
        print(f"watermark    gateway {gateway} epoch {epoch:016x} class {cls}: {last}")
    for fault in report.faults:
        print(f"PROBLEM      {fault.code}  {fault.text}")
    print("sound" if report.is_sound else f"not sound, problems: {len(report.faults)}")
    return status


# ---- doctor ------------------------------------------------------------------------------------


def _add_doctor(commands: Any) -> None:
    parser = add_command(
        commands,
        "doctor",
        run_doctor,
        "is this machine fit to keep receipts?",
        "Checks disk and what a sync costs, clock, limits, versions, settings, owners and modes,\n"
        "keys, the logs' heads, and whether days are forgotten in time. Before an engine is\n"
        "started and while it runs. Shows no persons. Exit status 0 when all is well, 1 with\n"
        "warnings, 2 with errors; docs/operations.md has every code.",
        "example:\n  chot doctor --data var/chot",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON array")
    add_settings_options(parser, data="data folder of the engine (setting: data)")


def run_doctor(options: argparse.Namespace) -> int:
    """0 all is well, 1 warnings, 2 errors."""
    from engine.cli import doctor
    from engine.clock import SystemClock

    findings = doctor.examine(load_settings(options), SystemClock())
    if options.json:
        print_json([msgspec.to_builtins(finding) for finding in findings])
        return doctor.findings_to_status(findings)
    width = max(len(finding.code) for finding in findings)
    for finding in findings:
        print(f"{finding.level:7}  {finding.code:{width}}  {finding.text}")
        if finding.todo:
            print(f"{'':7}  {'':{width}}  -> {finding.todo}")
    return doctor.findings_to_status(findings)


# ---- settings and version ---------------------------------------------------------------------


def _add_settings(commands: Any) -> None:
    parser = add_command(
        commands,
        "settings",
        run_settings,
        "every setting, its value and where it is from",
        "Every setting with its value and where that is from, strongest first: command line,\n"
        "environment (CHOT_ and the name in capitals), file, default. docs/settings.md says more.",
        "example:\n  chot settings --settings chot.toml --set api_port=8080",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON array")
    add_settings_options(parser)


def run_settings(options: argparse.Namespace) -> int:
    _, origins = load_origins(options)
    if options.json:
        print_json([msgspec.to_builtins(line) for line in origins])
        return 0
    rows = [(line.name, str(line.value) or "-", line.origin, line.help) for line in origins]
    rows.insert(0, ("name", "value", "from", "what it is"))
    name_width, value_width, origin_width = (max(len(row[i]) for row in rows) for i in range(3))
    for name, value, origin, text in rows:
        print(f"{name:{name_width}}  {value:>{value_width}}  {origin:{origin_width}}  {text}")
    return 0


def run_version(options: argparse.Namespace) -> int:
    import platform
    from importlib.metadata import version

    import native.cpu

    libraries = ("numpy", "lmdb", "zxing-cpp", "simplejpeg", "msgspec", "aiohttp")
    parts = [f"chot {engine.__version__}", f"native {native.cpu.active()}"]
    parts.append(f"Python {platform.python_version()}")
    print(", ".join([*parts, *(f"{name} {version(name)}" for name in libraries)]))
    return 0
