"""The command line of `chot`: help, mistakes in use, settings, and what docs/commands.md says."""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

import engine
from engine import settings
from engine.cli import main as cli
from engine.cli import registry as cli_registry
from engine.cli import venue as cli_venue
from engine.cli.parser import read_lines
from engine.gateway import config as gateway_config
from engine.registry import csv_tables as registry_csv
from engine.registry.registry import Category, Risk
from tests.reference.command import ROOT, SECRET, assert_mistake, assert_refused, chot

TABLES = ROOT / "docs/examples/registry"
FROM = "2021-07-01"
WHY = ("--case", "BN-1234", "--from", FROM, "--to", "2021-07-15")
PERSON = f"cccd {SECRET}\n"


# ---- help ---------------------------------------------------------------------------------------


def parsers(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from parsers(child, (*path, name))


ALL = dict(parsers(cli.build_parser()))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_reads_well(path: tuple[str, ...]) -> None:
    done = chot(*path, "--help")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"usage: {' '.join(('chot', *path))} ")
    description = ALL[path].description or ""
    assert description[0].isupper() and description.rstrip().endswith((".", "?", "person"))
    for line in done.out.splitlines():
        assert len(line) <= 90, line
    for action in ALL[path]._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert action.help, f"{action.dest} is not explained"
            assert action.metavar or action.choices or action.nargs == 0, action.dest


def test_help_lists_every_command() -> None:
    listed = re.findall(r"^    (\w+)(?: |$)", chot("--help").out, re.M)
    assert listed == [path[0] for path in ALL if len(path) == 1]


# ---- mistakes in use ----------------------------------------------------------------------------

VENUE = ("trace", "venue", "1013", *WHY)
WHO = ("trace", "person", *WHY)
TOKEN = {"CHOT_TOKEN": "chot_invented"}


@pytest.mark.parametrize(
    ("words", "needles"),
    [
        ((), ["COMMAND"]),
        (("frobnicate",), ["no such COMMAND", "serve", "version"]),
        ((SECRET,), ["no such COMMAND"]),
        (("trace",), ["QUESTION"]),
        (("trace", SECRET), ["no such QUESTION", "venue, person, contacts"]),
        (("registry",), ["ACTION"]),
        (("registry", "drop"), ["no such ACTION", "import"]),
        (("registry", "list"), ["TABLE"]),
        (("registry", "list", "grant"), ["TABLE", "grants"]),
        (("registry", "import", "nowhere.csv"), ["nowhere.csv"]),
        (("registry", "enrol", "vl-1a-1"), ["--out"]),
        (("registry", "token", "x", "--out", "/"), ["--out", "folder"]),
        (("registry", "token", "x", "--out", "/dev/null/x"), ["--out", "/dev/null"]),
        (("version", "x"), ["more words"]),
        (("version", "--x=1"), ["no option --x"]),
        (("settings", f"--json={SECRET}"), ["--json", "takes no value"]),
        (("trace", "person", f"-h{SECRET}"), ["-h", "takes no value"]),
        (("settings", "--js"), ["no option --js"]),  # never abbreviated
        (("decode",), ["FILE"]),
        (("decode", "nowhere.png"), ["nowhere.png"]),
        (("decode", "/"), ["no file /"]),
        (("verify", "nowhere"), ["nowhere", "no store"]),
        (("verify", ROOT), ["no store"]),
        (("demo", "--clips", "nowhere"), ["nowhere", "--clips"]),
        (("demo", "--data", ROOT), ["--data"]),
        (("demo", "--data", __file__), ["--data"]),
        (("serve", "--part", "half"), ["--part", "all, engine, api"]),
        (("serve", "--part", "api", "--registry", TABLES), ["--registry", "--part api"]),
        (("serve", "--registry", "nowhere"), ["--registry", "nowhere"]),
        (("serve", "--registry", __file__), ["--registry"]),
        (("serve", "--set", "port"), ["NAME=VALUE"]),
        (("settings", "--set", f"port={SECRET}"), ["'port'", "chot settings"]),
        (("settings", "--set", "api_port=x"), ["api_port", "whole number"]),
        (("settings", "--set", "api_port=70000"), ["api_port", "65535"]),
        (("settings", "--settings", "nowhere.toml"), ["nowhere.toml"]),
        (("settings", "--settings", "/"), ["/"]),
        (("settings", "--settings", __file__), ["test_cli.py"]),
        (("gateway", "run"), ["CONFIG"]),
        (("gateway", "run", "nowhere.toml"), ["nowhere.toml"]),
        (("gateway", "run", "/"), ["/"]),
        (("gateway", "run", __file__), ["test_cli.py"]),
        (("gateway", "run", "x", "--frames", "a", "--records", "b"), ["--records", "--frames"]),
        (("gateway", "run", "x", "--fps", "0"), ["--fps", "above 0"]),
        (("gateway", "run", "x", "--fps", "nan"), ["--fps", "above 0"]),
        (("gateway", "run", "x", "--rate", "-1"), ["--rate"]),
        (("gateway", "run", "x", "--start-ms", "1.5"), ["--start-ms", "whole number"]),
        (VENUE[:-2], ["--to"]),
        (("trace", "venue", *WHY), ["PLACE"]),
        (("trace", "venue", SECRET, *WHY), ["PLACE"]),
        (("trace", "venue", "0", *WHY), ["PLACE"]),
        (("trace", "venue", "1013", *WHY[2:]), ["--case"]),
        ((*VENUE, "--case", ""), ["--case"]),
        ((*VENUE, "--from", SECRET), ["--from", "2021-07-01"]),
        ((*VENUE, "--from", "2021-02-30"), ["--from"]),
        ((*VENUE, "--to", "2021-07-01T25:00"), ["--to"]),
        ((*VENUE, "--to", FROM), ["--from", "earlier"]),
        ((*VENUE, "--limit", "0"), ["--limit", "10000"]),
        ((*VENUE, "--limit", "1_0"), ["--limit"]),
        ((*VENUE, "--purpose", "crime"), ["--purpose", "case, notice"]),
        ((*VENUE, "--format", "xml"), ["--format", "table, json, csv"]),
        ((*VENUE, "--url", "http://example.com"), ["https://"]),
        ((*VENUE, "--url", "nonsense"), ["http://127.0.0.1:7480"]),
        ((*VENUE, "--token-file", "nowhere"), ["--token-file", "nowhere"]),
        ((*VENUE, "--token-file", "/"), ["--token-file", "directory"]),
        ((*VENUE, "--token-file", __file__), ["--token-file", "no token"]),
        ((*WHO, "cccd", SECRET), ["standard input"]),
        ((*WHO, f"--cccd={SECRET}"), ["no option --cccd"]),
        (("trace", "contacts", *WHY, "--min-minutes", "1441"), ["--min-minutes", "1440"]),
    ],
    ids=lambda value: " ".join(map(str, value))[:60] if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line(
    words: Sequence[object], needles: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_mistake(chot(*words, **TOKEN), *needles)


@pytest.mark.parametrize(
    ("stdin", "needle"),
    [
        (b"", "no person"),
        (b"\n \n", "no person"),
        (SECRET.encode(), "kind is one of"),
        (f"{SECRET} cccd".encode(), "kind is one of"),
        (b"cccd", "kind and number"),
        (f"cccd {SECRET} VNM".encode(), "only a passport"),
        (f"qid 1\ncccd {SECRET} 1 2".encode(), "line 2"),
        (b"passport C1999123", "country"),
        (f"cccd {SECRET}\xff".encode("latin-1"), "UTF-8"),
        (PERSON.encode() * 17, "16"),
        (b"\n" * 70_000, "bytes"),
    ],
)
def test_mistakes_on_standard_input_are_one_line(stdin: bytes, needle: str) -> None:
    assert_mistake(chot(*WHO, stdin=stdin, **TOKEN), needle)


def test_mistakes_in_the_environment_are_one_line() -> None:
    assert_mistake(chot(*VENUE), "--token-file", "CHOT_TOKEN")
    assert_mistake(chot(*VENUE, CHOT_TOKEN=" "), "CHOT_TOKEN")
    assert_mistake(chot(*VENUE, CHOT_TOKEN="a\nb"), "token")
    assert_mistake(chot("settings", CHOT_PORT="1"), "CHOT_PORT")
    assert_mistake(chot("registry", "list", "posts", CHOT_API_PORT="x"), "CHOT_API_PORT")
    assert_mistake(chot("parse", CHOT_NONE="1", stdin=b"{}"), "CHOT_NONE")


def test_a_gateway_option_that_does_not_fit_the_source_is_a_mistake(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    text = f'name = "a"\ntoken = "b"\ningest_public = "{"0" * 64}"\nspool = "{tmp_path / "s"}"\n'
    config.write_text(text + '[[sources]]\nkind = "records"\npath = "-"\n')
    assert_mistake(chot("gateway", "run", config, "--fps", "3"), "--fps", "records")
    assert_mistake(chot("gateway", "run", config, "--frames", tmp_path, "--rate", "3"), "--rate")
    assert_mistake(chot("gateway", "run", config, "--records", "nowhere"), "nowhere")
    assert_mistake(chot("gateway", "run", config, "--frames", "nowhere"), "nowhere")
    config.write_text(text.replace("b", SECRET) + "token = 1\n")
    assert_mistake(chot("gateway", "run", config), "gateway.toml")
    assert not (tmp_path / "s").exists()


def test_nobody_answers(tmp_path: Path) -> None:
    assert_refused(chot(*VENUE, "--url", "http://127.0.0.1:1", **TOKEN), "engine.unreachable")
    done = chot("registry", "list", "posts", "--data", tmp_path)
    assert_refused(done, "engine.unreachable")
    assert "chot serve" in done.err


# ---- settings and version -----------------------------------------------------------------------


def test_settings_and_where_they_are_from(tmp_path: Path) -> None:
    file = tmp_path / "chot.toml"
    file.write_text('api_port = 1\ningest_port = 1\nscan_credit = 1\nvenue_host = "MÃ.VÍ.DỤ"\n')
    given = ("--settings", file, "--set", "ingest_port=3")
    env = {"CHOT_API_PORT": "2", "CHOT_INGEST_PORT": "2", "CHOT_TOKEN": "t", "CHOT_URL": "u"}
    done = chot("settings", "--json", *given, **env)
    assert (done.status, done.err) == (0, "")
    (rows,) = done.lines
    assert [row["name"] for row in rows] == list(settings.fields())
    found = {row["name"]: (row["value"], row["origin"]) for row in rows}
    assert found["ingest_port"] == (3, "command line")
    assert found["api_port"] == (2, "environment CHOT_API_PORT")
    assert found["scan_credit"] == (1, str(file))
    assert found["venue_host"] == ("MÃ.VÍ.DỤ", str(file))
    assert found["data"] == ("var/chot", "default")

    head, *lines = chot("settings", *given, **env).out.splitlines()
    assert head.split()[:3] == ["name", "value", "from"]
    assert [line.split()[:2] for line in lines] == [
        [r["name"], str(r["value"]) or "-"] for r in rows
    ]
    assert all(line.endswith(row["help"]) for line, row in zip(lines, rows, strict=True))


def test_version_is_one_line() -> None:
    done = chot("version")
    assert done.out.startswith(f"chot {engine.__version__}, native ") and "lmdb 3" in done.out
    assert (done.status, done.out.count("\n")) == (0, 1)


# ---- parts ---------------------------------------------------------------------------------------


def test_tables_are_those_of_the_registry() -> None:
    assert set(cli_registry.TABLES) == set(registry_csv.TABLES)


def test_words_of_a_venue_are_those_of_the_registry() -> None:
    assert (*cli_venue.CATEGORIES,) == (*Category,)
    assert ("", *cli_venue.RISKS) == (*Risk,)


def test_lines_of_any_length_stay_lines() -> None:
    data = b"ab\n" + b"c" * 10 + b"\n" + b"d" * 4 + b"\n\n" + b"e" * 5
    assert list(read_lines(io.BytesIO(data), 4)) == [
        b"ab\n", b"ccccc", b"dddd\n", b"\n", b"eeeee"
    ]  # fmt: skip


# ---- docs/commands.md ---------------------------------------------------------------------------

DOCS = (ROOT / "docs/commands.md").read_text(encoding="utf-8")


def test_every_option_is_described_in_its_place() -> None:
    general, *sections = re.split(r"^## chot (?=\w+$)", DOCS, flags=re.M)
    found = {section.split("\n")[0]: section for section in sections}
    assert set(found) == {path[0] for path in ALL if path}
    for path, parser in ALL.items():
        for option in {o for action in parser._actions for o in action.option_strings}:
            if path and option not in ("-h", "--help"):
                # Digits and letters behind it would make it another option.
                used = rf"{re.escape(option)}(?![\w-])"
                assert re.search(used, found[path[0]] + general), (path, option)


def test_every_field_of_a_gateways_file_is_described() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`|–) \| ", DOCS, re.M)
    fields = msgspec.structs.fields(gateway_config.GatewayConfig)
    assert rows == [(f.name, "" if f.required else str(f.default)) for f in fields]


def test_what_the_structs_say_is_what_options_take() -> None:
    """Bounds stand twice, so that mistakes are found before anything is asked."""
    from engine.api.answers import LIMIT_DEFAULT, ROWS_MAX
    from engine.cli.roll import ROWS_MAX as ROWS_OF_A_LIST
    from engine.cli.trace import KINDS, MARKS_MAX
    from engine.cli.trace import LIMIT_DEFAULT as LIMIT_OF_A_TABLE
    from engine.desk.questions import PersonRef
    from engine.tracing.notice import MARKS_MAX as MARKS_OF_A_NOTICE
    from engine.tracing.roll import ROWS_MAX as ROWS_OF_A_ROLL

    assert ROWS_OF_A_LIST == ROWS_OF_A_ROLL
    person = msgspec.inspect.type_info(PersonRef)
    assert isinstance(person, msgspec.inspect.StructType)
    kind = next(field.type for field in person.fields if field.name == "kind")
    assert isinstance(kind, msgspec.inspect.LiteralType)
    assert set(KINDS) == set(kind.values)
    assert MARKS_MAX == MARKS_OF_A_NOTICE
    limit = next(a for a in ALL["trace", "venue"]._actions if a.dest == "limit")
    assert LIMIT_DEFAULT == LIMIT_OF_A_TABLE and limit.default is None
    assert str(ROWS_MAX) in (limit.help or "") and str(LIMIT_DEFAULT) in (limit.help or "")
