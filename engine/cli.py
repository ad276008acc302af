"""The command `chot`: one parser, thin shells over functions that others can call.

Errors of use are one line on stderr and exit status 2; an engine that says no is exit status 1.
Identifiers of persons are read from standard input, never from the command line.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

import engine
from engine import settings as settings_module
from engine.clock import date_to_day, day_to_ms, iso_to_ms
from engine.errors import EngineError, RegistryInvalid, SettingInvalid
from engine.settings import Settings

EXIT_FAILED = 1
EXIT_USE = 2


class UseError(Exception):
    """A mistake in the command line, said in one line."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse prints the usage too; one line that says what is wrong is enough.
        self.exit(EXIT_USE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> Parser:
    """The whole command line; docs/commands.md is held against it by a test."""
    parser = Parser(
        prog="chot",
        description="Scans of health checkpoints: decode, settle, trace.",
        epilog="First time: chot demo. Each command has its own --help.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_gateway(commands)
    _add_demo(commands)
    _add_decode(commands)
    _add_parse(commands)
    _add_trace(commands)
    _add_registry(commands)
    _add_verify(commands)
    _add_settings(commands)
    commands.add_parser("version", help="version, native CPU level, libraries").set_defaults(
        run=run_version
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status of one command."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except UseError as error:
        print(f"chot {options.command}: {error}", file=sys.stderr)
        return EXIT_USE
    except SettingInvalid as error:
        print(f"chot {options.command}: {error}{_hint(error)}", file=sys.stderr)
        return EXIT_USE
    except RegistryInvalid as error:
        for row in error.rows:
            print(row, file=sys.stderr)
        print(f"chot {options.command}: {error.code}: {error}{_hint(error)}", file=sys.stderr)
        return EXIT_FAILED
    except EngineError as error:
        print(f"chot {options.command}: {error.code}: {error}{_hint(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output left; Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _hint(error: EngineError) -> str:
    return f" ({error.hint})" if error.hint else ""


def _load_settings(options: argparse.Namespace) -> Settings:
    return _load_origins(options)[0]


def _load_origins(
    options: argparse.Namespace,
) -> tuple[Settings, list[settings_module.Origin]]:
    overrides: dict[str, Any] = {}
    for assignment in options.set or []:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UseError(f"--set takes NAME=VALUE, not {assignment!r}")
        overrides[name] = value
    if getattr(options, "data", None):
        overrides["data"] = str(options.data)
    return settings_module.load(file=options.settings, overrides=overrides)


def _add_settings_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", type=Path, metavar="FILE", help="settings as TOML")
    parser.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="one setting; may be repeated"
    )


# ---- serve ------------------------------------------------------------------------------------


def _add_serve(commands: Any) -> None:
    parser = commands.add_parser("serve", help="run the engine and its HTTP API")
    parser.add_argument("--data", type=Path, help="folder of the store (setting: data)")
    parser.add_argument(
        "--registry", type=Path, metavar="DIR", help="CSV tables to import before the doors open"
    )
    parser.add_argument(
        "--part", choices=["all", "engine", "api"], default="all", help="which process to run"
    )
    parser.add_argument(
        "--json", action="store_true", help="say where the doors are as one JSON line"
    )
    _add_settings_options(parser)
    parser.set_defaults(run=run_serve)


def run_serve(options: argparse.Namespace) -> int:
    from engine import app

    settings = _load_settings(options)
    if options.registry is not None and not options.registry.is_dir():
        raise UseError(f"--registry: {options.registry} is no folder")
    if options.part == "api":
        return app.serve_api(settings)
    return app.serve(
        settings,
        registry_dir=options.registry,
        with_api=options.part == "all",
        is_json=options.json,
    )


# ---- decode and parse -------------------------------------------------------------------------


def _add_decode(commands: Any) -> None:
    parser = commands.add_parser("decode", help="codes in image files, as JSON lines")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JPEG, PNG or .mjpeg")
    parser.set_defaults(run=run_decode)


def run_decode(options: argparse.Namespace) -> int:
    """0 when every file was an image, 1 when one was not."""
    from engine import decode

    status = 0
    for path in options.files:
        for line in decode.decode_file(path):
            print(json.dumps(line, ensure_ascii=False))
            status = max(status, EXIT_FAILED if "error" in line else 0)
    return status


def _add_parse(commands: Any) -> None:
    parser = commands.add_parser("parse", help="payloads of codes, JSON lines in and out")
    parser.add_argument(
        "--venue-host", default=Settings().venue_host, help="host in our own venue codes"
    )
    parser.set_defaults(run=run_parse)


def run_parse(options: argparse.Namespace) -> int:
    """One line out for each line in, in order; 1 when a line was no question."""
    from engine import payloads

    status = 0
    for line in sys.stdin.buffer:
        try:
            question = msgspec.json.decode(line, type=dict[str, Any])
            payload = base64.b64decode(question["payload_b64"], validate=True)
        except (msgspec.DecodeError, KeyError, TypeError, binascii.Error, ValueError):
            answer: dict[str, Any] = {
                "error": {"code": "input", "message": "a line is JSON with payload_b64"}
            }
            status = EXIT_FAILED
        else:
            answer = payloads.payload_to_json(payload, venue_host=options.venue_host)
            if "id" in question:
                answer = {"id": question["id"], **answer}
        print(json.dumps(answer, ensure_ascii=False))
    return status


# ---- settings and version ---------------------------------------------------------------------


def _add_settings(commands: Any) -> None:
    parser = commands.add_parser("settings", help="every setting, its value and where it is from")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    _add_settings_options(parser)
    parser.set_defaults(run=run_settings)


def run_settings(options: argparse.Namespace) -> int:
    _, origins = _load_origins(options)
    if options.json:
        print(json.dumps([msgspec.to_builtins(origin) for origin in origins]))
        return 0
    for origin in origins:
        print(f"{origin.name:20} {origin.value!s:>20}  {origin.origin:12}  {origin.help}")
    return 0


def run_version(options: argparse.Namespace) -> int:
    import native.cpu

    print(f"chot {engine.__version__}, native {native.cpu.active()}", end="")
    from importlib.metadata import version

    for name in ("numpy", "lmdb", "zxing-cpp", "msgspec", "aiohttp"):
        print(f", {name} {version(name)}", end="")
    print()
    return 0


# ---- gateway ----------------------------------------------------------------------------------


def _add_gateway(commands: Any) -> None:
    parser = commands.add_parser(
        "gateway",
        help="carry a camera's frames or a file of records to the engine",
        description="Carries a source to the engine until it ends and all of it is durable."
        " Verdicts are JSON lines on stdout; the last line is what the run did.",
    )
    parser.add_argument("config", type=Path, help="TOML file; chot registry enrol writes one")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--frames", metavar="PATH", help="clip, folder of images or - (stdin)")
    source.add_argument("--records", metavar="PATH", help="file of JSON lines or - (stdin)")
    parser.add_argument("--fps", type=float, default=10, help="frames a second (10)")
    parser.add_argument("--start-ms", type=int, help="time of the first frame, ms since 1970")
    parser.add_argument("--rate", type=float, default=0, help="records a second, 0 for no pause")
    parser.add_argument("--spool", metavar="DIR", help="folder of the spool, instead of the file's")
    parser.set_defaults(run=run_gateway)


def run_gateway(options: argparse.Namespace) -> int:
    """0 when everything captured is durable at the engine."""
    from engine import gateway, gateway_config, wire
    from engine.telemetry import setup_logging

    setup_logging()
    changes: dict[str, Any] = {}
    if options.frames:
        changes["source"] = gateway_config.FrameConfig(
            path=options.frames, fps=options.fps, start_ms=options.start_ms
        )
    if options.records:
        changes["source"] = gateway_config.RecordConfig(path=options.records, rate=options.rate)
    if options.spool:
        changes["spool"] = options.spool
    config = msgspec.structs.replace(gateway_config.load_config(options.config), **changes)

    def show(result: wire.Result) -> None:
        line = {"seq": result.seq, **msgspec.to_builtins(result.verdict)}
        print(json.dumps(line, ensure_ascii=False), flush=True)

    async def work() -> gateway.GatewayStats:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        return await gateway.run_gateway(config, on_result=show, stop=stop)

    stats = asyncio.run(work())
    print(json.dumps({"stats": msgspec.to_builtins(stats)}), flush=True)
    return 0 if stats.is_drained else EXIT_FAILED


# ---- demo -------------------------------------------------------------------------------------

SOURCE_TREE = Path(__file__).resolve().parents[1]


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="the main job on recorded frames, in a minute")
    parser.add_argument(
        "--clips", type=Path, default=SOURCE_TREE / "tests/data/lanes", help="folder of lane clips"
    )
    parser.add_argument(
        "--registry",
        type=Path,
        default=SOURCE_TREE / "docs/examples/registry",
        help="folder of CSV tables",
    )
    parser.add_argument("--data", type=Path, help="new folder for the store (a temporary one)")
    parser.set_defaults(run=run_demo)


def run_demo(options: argparse.Namespace) -> int:
    from engine import demo

    for name in ("clips", "registry"):
        folder = getattr(options, name)
        if not folder.is_dir():
            raise UseError(f"there is no folder {folder}: the source tree has one, see --{name}")
    if options.data is not None and options.data.exists() and any(options.data.iterdir()):
        raise UseError(f"--data: {options.data} is not empty")
    return demo.run_demo(options.clips, options.registry, options.data)


# ---- trace ------------------------------------------------------------------------------------


def _add_trace(commands: Any) -> None:
    parser = commands.add_parser(
        "trace",
        help="a tracer's questions, put to the API",
        description="The token is read from --token-file or CHOT_TOKEN. Persons are read from"
        " standard input, a line each: kind and number, as in: cccd 045190999001",
    )
    questions = parser.add_subparsers(dest="question", metavar="QUESTION", required=True)
    for name, text in (
        ("venue", "who was at a place between two times"),
        ("person", "where a person was"),
        ("contacts", "who met a person, how long, where"),
    ):
        question = questions.add_parser(name, help=text)
        if name == "venue":
            question.add_argument("place", help="number of a venue, or code of a post")
        question.add_argument("--from", dest="start", required=True, metavar="TIME")
        question.add_argument("--to", dest="end", required=True, metavar="TIME")
        question.add_argument("--case", required=True, help="number of the case or notice")
        question.add_argument("--purpose", choices=["case", "notice"], default="case")
        question.add_argument("--limit", type=int, default=1000, help="rows at most")
        question.add_argument("--unmasked", action="store_true", help="full names, if allowed")
        if name == "contacts":
            question.add_argument("--profile", default="", help="contact profile")
            question.add_argument("--min-minutes", type=int, help="in place of the profile's")
            question.add_argument("--linger-minutes", type=int, help="in place of the profile's")
        question.add_argument("--format", choices=["table", "json", "csv"], default="table")
        question.add_argument("--url", help="the API (CHOT_URL, else http://127.0.0.1:7480)")
        question.add_argument("--token-file", type=Path, metavar="FILE")
        question.set_defaults(run=run_trace)


def run_trace(options: argparse.Namespace) -> int:
    from engine import client

    url = options.url or os.environ.get("CHOT_URL") or "http://127.0.0.1:7480"
    answer = client.trace(url, _read_token(options), options.question, _trace_body(options))
    sys.stdout.write(client.render(options.question, answer, options.format))
    return 0


def _read_token(options: argparse.Namespace) -> str:
    if options.token_file is not None:
        try:
            return str(options.token_file.read_text(encoding="utf-8")).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UseError(f"--token-file: cannot read {options.token_file}: {error}") from None
    token = os.environ.get("CHOT_TOKEN", "")
    if not token:
        raise UseError("no token: give --token-file FILE or set CHOT_TOKEN")
    return token


def _trace_body(options: argparse.Namespace) -> dict[str, Any]:
    body: dict[str, Any] = {
        "purpose": options.purpose,
        "case": options.case,
        "from": _time(options.start),
        "to": _time(options.end),
        "limit": options.limit,
        "unmasked": options.unmasked,
    }
    if options.question == "venue":
        body["place"] = int(options.place) if options.place.isdigit() else options.place
        return body
    persons = [_person(line) for line in sys.stdin if line.strip()]
    if not persons:
        raise UseError("no person on standard input, as in: cccd 045190999001")
    body["person"], *aliases = persons
    if aliases:
        body["aliases"] = aliases
    if options.question == "contacts":
        body["profile"] = options.profile
        for name in ("min_minutes", "linger_minutes"):
            if getattr(options, name) is not None:
                body[name] = getattr(options, name)
    return body


def _time(text: str) -> int:
    """ms of an ISO time or date; dates and times without an offset are those of Việt Nam."""
    with contextlib.suppress(ValueError):
        return day_to_ms(date_to_day(text))
    try:
        return iso_to_ms(text)
    except ValueError:
        raise UseError(f"{text!r} is no time; as in 2021-07-01 or 2021-07-01T08:30") from None


def _person(line: str) -> dict[str, str]:
    """`kind number [issuer]`; what is wrong is said without quoting the number."""
    words = line.split()
    if len(words) not in (2, 3):
        raise UseError("a person is a line of kind and number, as in: cccd 045190999001")
    person = {"kind": words[0], "value": words[1]}
    return {**person, "issuer": words[2]} if len(words) == 3 else person


# ---- registry ---------------------------------------------------------------------------------


def _add_registry(commands: Any) -> None:
    parser = commands.add_parser(
        "registry",
        help="posts, gateways, venues, areas, rules and grants of a running engine",
        description="Speaks to the engine through the socket in its data folder: for its owner.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    take = actions.add_parser("import", help="CSV tables in, all of it or nothing")
    take.add_argument("source", type=Path, help="a table such as venues.csv, or a folder of them")
    show = actions.add_parser("list", help="the newest records of a table, as CSV")
    show.add_argument("table", help="areas, posts, gateways, venues, rules or grants")
    token = actions.add_parser("token", help="a new token for a grant, shown once")
    token.add_argument("grant", help="its name")
    token.add_argument("--out", type=Path, help="file of mode 0600 instead of stdout")
    enrol = actions.add_parser("enrol", help="the TOML file of a gateway, with a new token")
    enrol.add_argument("gateway", help="its name")
    enrol.add_argument("--out", type=Path, required=True, help="file of mode 0600")
    enrol.add_argument("--spool", type=Path, help="folder of its spool (beside the file)")
    actions.add_parser("codes", help="text of every venue's posted code")
    for action in actions.choices.values():
        action.add_argument("--data", type=Path, help="the engine's data folder")
        _add_settings_options(action)
        action.set_defaults(run=run_registry)


def run_registry(options: argparse.Namespace) -> int:
    data = Path(_load_settings(options).data)
    return asyncio.run(_registry(options, data))


async def _registry(options: argparse.Namespace, data: Path) -> int:
    from engine import admin, registry_csv

    async with admin.connect(data) as owner:
        match options.action:
            case "import":
                taken = await admin.change(owner, admin.read_tables(options.source))
                print(f"{taken.written} records written, {taken.known} were there already")
            case "list":
                kind = admin.table_to_kind(options.table)
                records = await admin.records(owner, kind)
                sys.stdout.write(registry_csv.write_csv(options.table, records))
            case "token":
                token = await admin.issue_token(owner, options.grant)
                _give_secret(token + "\n", options.out)
            case "enrol":
                spool = options.spool or options.out.with_suffix(".spool")
                text = await admin.enrol_gateway(owner, options.gateway, spool=spool)
                admin.write_secret(options.out, text)
            case "codes":
                for number, code in sorted((await admin.venue_codes(owner)).items()):
                    print(f"{number}\t{code}")
    return 0


def _give_secret(text: str, out: Path | None) -> None:
    from engine import admin

    if out is None:
        sys.stdout.write(text)
    else:
        admin.write_secret(out, text)


# ---- verify -----------------------------------------------------------------------------------


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser("verify", help="check a store offline: CRCs, chains, keys")
    parser.add_argument("data", type=Path, help="data folder of an engine that does not run")
    parser.add_argument(
        "--without-keys", action="store_true", help="do not try whether the groups open"
    )
    parser.set_defaults(run=run_verify)


def run_verify(options: argparse.Namespace) -> int:
    """0 for a sound store, 1 for one with problems; shows no persons."""
    from engine.keys import FileKeyRing
    from engine.verify import verify_store

    if not options.data.is_dir():
        raise UseError(f"there is no folder {options.data}")
    ring = None if options.without_keys else FileKeyRing(options.data / "keys")
    report = verify_store(options.data, ring)
    opened = f", {report.rows_opened} opened with the keys" if ring else ""
    print(f"scan log     {report.groups} groups, {report.rows} rows{opened}")
    print(f"             {report.groups_expired} forgotten, head {report.chain_head.hex()[:16]}")
    print(f"control log  {report.control_records} records, head {report.control_head.hex()[:16]}")
    for (gateway, epoch, cls), last in sorted(report.watermarks.items()):
        print(f"watermark    gateway {gateway} epoch {epoch:016x} class {cls}: {last}")
    for problem in report.problems:
        print(f"PROBLEM      {problem}")
    print("sound" if report.is_sound else f"{len(report.problems)} problems")
    return 0 if report.is_sound else EXIT_FAILED
