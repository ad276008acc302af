"""Documentation held true: what exists is described, what is described exists."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import shlex
import subprocess
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine
from bench.__main__ import CASES, TRIALS
from engine import errors, settings, telemetry
from engine.cli import doctor_machine
from engine.cli.main import build_parser
from engine.keeping import verify_report
from engine.registry import registry
from engine.scans.rows import REASONS, Kind
from engine.wire.frames import FrameType

ROOT = Path(__file__).resolve().parents[2]
FIXED = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "bench/README.md"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pages() -> list[str]:
    """Every page that a test reads; one that is missing fails, it is never skipped."""
    found = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))
    inner = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("*/README.md"))
    return list(dict.fromkeys([*FIXED, *inner, *found]))


# ---- reading Markdown ---------------------------------------------------------------------------


def tables(text: str) -> Iterator[list[dict[str, str]]]:
    """Tables as rows of header -> cell."""
    block: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            block.append([cell.strip() for cell in cells])
        elif block:
            head, _, *rows = block
            assert all(len(row) == len(head) for row in rows), f"a ragged table: {head}"
            yield [dict(zip(head, row, strict=True)) for row in rows]
            block = []


def table(name: str, *columns: str) -> list[dict[str, str]]:
    """The one table of a page that has all these columns."""
    found = [t for t in tables(read(name)) if t and set(columns) <= t[0].keys()]
    assert len(found) == 1, f"{name}: {len(found)} tables with columns {columns}"
    return found[0]


def words(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def word(cell: str) -> str:
    (only,) = words(cell)
    return only


def blocks(text: str) -> list[str]:
    """Fenced and indented code."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.M | re.S)
    return fenced + re.findall(r"(?:^    \S.*\n?)+", text, re.M)


def code(text: str) -> list[str]:
    """Lines of code blocks, and spans of code in the prose."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [line for block in blocks(text) for line in block.splitlines()] + words(prose)


def test_the_reader_of_tables_reads_tables() -> None:
    text = "x\n\n| a | b |\n|---|---|\n| `1` | 2 \\| 3 |\n\n| c |\n|---|\n| 4 |\n"
    assert list(tables(text)) == [[{"a": "`1`", "b": "2 \\| 3"}], [{"c": "4"}]]


# ---- tables that mirror the code ----------------------------------------------------------------


def test_every_setting_is_described() -> None:
    rows = {word(row["name"]): row for row in table("docs/settings.md", "name", "default")}
    fields = settings.fields()
    assert list(rows) == list(fields), "same names, same order"
    for name, (kind, default, _) in fields.items():
        assert words(rows[name]["default"]) == ([str(default)] if default != "" else []), name
        takes = "text" if kind is str else "port" if name.endswith("_port") else "number"
        assert rows[name]["takes"] == takes, name
        assert len(rows[name]["what it does, and when to change it"]) > 20, name


def test_every_rule_is_described() -> None:
    rows = table("docs/settings.md", "rule", "value at first")
    found = {word(row["rule"]): int(word(row["value at first"])) for row in rows}
    assert found == dict(registry.RULES)


def test_documented_environment_exists() -> None:
    known = {settings.ENV_PREFIX + name.upper() for name in settings.fields()}
    for page in pages():
        for name in re.findall(r"\bCHOT_[A-Z_]+[A-Z]\b", read(page)):
            assert name in known | settings.ENV_OTHERS, f"{page}: {name}"


def error_classes() -> dict[str, type[errors.EngineError]]:
    for module in pkgutil.walk_packages(engine.__path__, "engine."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    # Other tests may have defined classes of their own by now.
    found = errors.leaves().items()
    return {code: cls for code, cls in found if cls.__module__.startswith("engine.")}


def test_every_error_code_is_described() -> None:
    rows = {word(row["code"]): row for row in table("docs/errors.md", "code", "fault")}
    classes = error_classes()
    assert set(rows) == set(classes)
    for name, cls in classes.items():
        row = rows[name]
        assert row["fault"] == ("caller" if issubclass(cls, errors.InputError) else "service"), name
        assert row["HTTP"] == str(cls.status), name
        assert row["wire"] == (str(cls.wire) if cls.wire else "–"), name
        assert row["when"] and row["what to do"], name


def test_every_fault_of_verify_is_described() -> None:
    rows = table("docs/operations.md", "fault", "what it means", "what to do")
    assert [word(row["fault"]) for row in rows] == list(verify_report.FAULTS)
    assert all(row["what it means"] and row["what to do"] for row in rows)


def test_every_check_of_doctor_is_described() -> None:
    rows = table("docs/operations.md", "code", "what is looked at", "warning", "error")
    assert [word(row["code"]) for row in rows] == list(doctor_machine.CHECKS)
    assert all(row["what is looked at"] for row in rows)


def test_every_reason_is_described() -> None:
    rows = table("docs/errors.md", "reason", "what was shown or sent")
    assert [word(row["reason"]) for row in rows] == list(REASONS)
    said = table("docs/payloads.md", "reason", "what was shown")
    assert {name for row in said for name in words(row["reason"])} <= set(REASONS)


def test_every_metric_is_described() -> None:
    rows = {word(row["name"]): row for row in table("docs/metrics.md", "name", "type", "labels")}
    assert list(rows) == list(telemetry.CATALOGUE), "same names, same order"
    for name, (kind, _, labels) in telemetry.CATALOGUE.items():
        assert rows[name]["type"] == kind, name
        assert words(rows[name]["labels"]) == list(labels), name
        assert rows[name]["meaning"], name


def test_documented_metrics_exist() -> None:
    counters = {n for n, (kind, _, _) in telemetry.CATALOGUE.items() if kind == "counter"}
    known = set(telemetry.CATALOGUE) | {f"{name}_total" for name in counters}
    for page in pages():
        for name in re.findall(r"\bchot_[a-z_]+[a-z]\b", read(page)):
            assert name in known, f"{page}: {name}"


def test_every_log_key_is_described() -> None:
    rows = table("docs/metrics.md", "key", "value")
    found = [name for row in rows for name in words(row["key"])]
    assert sorted(found) == sorted(telemetry.LOG_KEYS)


def test_every_frame_type_is_described() -> None:
    """docs/protocol.md has each type in a table, number before name: `01 HELLO`, `0x01 | HELLO`."""
    rows = [line for line in read("docs/protocol.md").splitlines() if line.startswith("|")]
    pair = re.compile(r"\b(?:0x)?([0-9A-Fa-f]{2})[` |]+([A-Z]{3,})\b")
    found = {(int(number, 16), name) for row in rows for number, name in pair.findall(row)}
    assert found == {(int(kind), kind.name) for kind in FrameType}


def test_every_wire_number_is_described() -> None:
    """docs/protocol.md has a table row for each: the number in one cell, the code in another."""
    found = set()
    for row in (row for t in tables(read("docs/protocol.md")) for row in t):
        numbers = [int(cell.strip("`")) for cell in row.values() if cell.strip("`").isdigit()]
        codes = re.findall(r"\bwire\.[a-z_]+", " ".join(row.values()))
        found |= {(number, codes[0]) for number in numbers if codes}
    wire = {c: cls.wire for c, cls in error_classes().items() if c.startswith("wire.")}
    assert found == {(number, name) for name, number in wire.items() if number}


def test_every_record_kind_is_described() -> None:
    for kind in Kind:
        assert re.search(rf"\b{kind.name}\b", read("docs/protocol.md")), kind.name


def test_every_bench_case_is_described() -> None:
    rows = table("docs/benchmarks.md", "case", "what is measured")
    assert [word(row["case"]) for row in rows] == [*CASES, *TRIALS]


# ---- commands -----------------------------------------------------------------------------------


def commands(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> dict[tuple[str, ...], argparse.ArgumentParser]:
    """Every subcommand by its words, those with subcommands of their own too."""
    found = {path: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                found |= commands(child, (*path, name))
    return found


COMMANDS = commands(build_parser())


def uses(page: str) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """(line, words of the subcommand, the rest) for each `chot ...` in the code of a page."""
    for line in code(read(page)):
        for used in re.findall(r"(?:^|[\s/(])chot ([a-z][^|;&#]*)", line):
            try:
                rest = shlex.split(used)
            except ValueError:
                rest = used.split()
            path: tuple[str, ...] = ()
            while rest and (*path, rest[0]) in COMMANDS:
                path = (*path, rest.pop(0))
            yield line, path, rest


def test_every_subcommand_is_described() -> None:
    said = {path[:i] for _, path, _ in uses("docs/commands.md") for i in range(len(path) + 1)}
    missing = {" ".join(path) for path in COMMANDS if path} - {" ".join(path) for path in said}
    assert not missing


@pytest.mark.parametrize("page", pages())
def test_documented_commands_exist(page: str) -> None:
    for line, path, rest in uses(page):
        assert path, f"there is no such subcommand: {line}"
        known = {o for action in COMMANDS[path]._actions for o in action.option_strings}
        for option in rest:
            if option.startswith("--"):
                assert option.partition("=")[0] in known, f"no option {option}: {line}"


@pytest.mark.parametrize("page", pages())
def test_documented_make_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    for line in code(read(page)):
        for target in re.findall(r"(?:^|[$&;|]) *make ([a-z-]+)", line):
            assert target in targets, line


# ---- files, links, letters ----------------------------------------------------------------------


@pytest.mark.parametrize("page", pages())
def test_named_files_exist(page: str) -> None:
    for name in re.findall(
        r"(?<![\w./-])(?:engine|native|bench|tests|docs|\.ci)/[\w./*+-]*[\w*/]", read(page)
    ):
        if "NAME" in name:  # a pattern for a file to be written
            continue
        if "*" in name:
            assert list(ROOT.glob(name)), name
        else:
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


def anchors(text: str) -> set[str]:
    """Of the headings, as forges make them."""
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_every_page_of_docs_is_linked_or_named_elsewhere() -> None:
    """A page that nothing leads to is not found by a newcomer."""
    for page in pages():
        if page.startswith("docs/"):
            others = [read(other) for other in pages() if other != page]
            name = page.removeprefix("docs/")
            assert any(page in text or f"({name}" in text for text in others), page


def test_architecture_names_every_room() -> None:
    rows = table("ARCHITECTURE.md", "room", "what is in it", "rule")
    found = {word(row["room"]).rstrip("/") for row in rows}
    packages = {path.parent.name for path in (ROOT / "engine").glob("*/__init__.py")}
    assert found == {*packages, "engine"}
    itself = [row["what is in it"] for row in rows if row["room"] == "`engine/` itself"]
    modules = {path.stem for path in (ROOT / "engine").glob("*.py")} - {"__init__", "__main__"}
    assert {name for cell in itself for name in words(cell)} == modules


def test_glossary_is_sorted() -> None:
    found = [row["word"] for row in table("ARCHITECTURE.md", "word", "meaning")]
    assert found == sorted(set(found), key=str.casefold)


def markdown() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split("\n")  # fmt: skip
    return sorted(name for name in listed if name and (ROOT / name).exists()) or pages()


@pytest.mark.parametrize("page", markdown())
def test_letters_are_composed(page: str) -> None:
    assert unicodedata.is_normalized("NFC", read(page))


@pytest.mark.parametrize("page", pages())
def test_lines_end_cleanly(page: str) -> None:
    text = read(page)
    assert "\r" not in text and "\t" not in text and text.endswith("\n")
    assert not re.search(r"[ ]+$", text, re.M), "blanks at the end of a line"
