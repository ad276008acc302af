"""What all subcommands share: the parser, mistakes in use, readers of words and of standard input.

Nothing here quotes what was typed: a number put in the wrong place may be somebody's, and messages
end up in logs and screenshots.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from engine import settings as settings_module
from engine.clock import date_to_day, day_to_ms, iso_to_ms
from engine.settings import Settings

EXIT_FAILED: Final = 1
EXIT_USE: Final = 2
_OPTION: Final = re.compile(r"--[a-z][a-z-]*")
# What JSON may hold as it is and a terminal obeys: C1 controls, marks of direction.
_STEERING: Final = re.compile(r"[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


class UseError(Exception):
    """A mistake in the command line or on standard input, said in one line."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line; its options are never abbreviated."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options, allow_abbrev=False)
        # The parser of the innermost subcommand has the last word.
        self.set_defaults(prog=self.prog)

    def error(self, message: str) -> NoReturn:
        # argparse prints the usage too; one line that says what is wrong is enough. The only other
        # words of argparse that quote a value are those of an option that takes none.
        message = re.sub(r"ignored explicit argument .*", "takes no value", message, flags=re.S)
        self.exit(EXIT_USE, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse's own words quote the value.
        if action.choices is None or value in action.choices:
            return
        known = ", ".join(map(str, action.choices))
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"there is no such {action.metavar}; known: {known}")
        raise argparse.ArgumentError(action, f"one of {known}")


def parse(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; ends the process like argparse does, with a line that quotes no value."""
    options, rest = parser.parse_known_args(arguments)
    if rest:
        names = [found[0] for found in map(_OPTION.match, rest) if found]
        surplus = getattr(options, "surplus", "more words than it takes")
        problem = f"there is no option {names[0]}" if names else surplus
        parser.exit(EXIT_USE, f"{options.prog}: {problem} (see {options.prog} --help)\n")
    return options


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int] | None,
    summary: str,
    text: str = "",
    example: str = "",
) -> Parser:
    """A subcommand. summary: its line in the list; text: what its own help says more."""
    parser: Parser = commands.add_parser(
        name, help=summary, description=text or f"{summary}.", epilog=example or None
    )
    if run is not None:
        parser.set_defaults(run=run)
    return parser


# ---- words to values ----------------------------------------------------------------------------


def whole(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers from low to high."""

    def read(word: str) -> int:
        # int() takes blanks, underscores and the digits of every script.
        if re.fullmatch(r"-?[0-9]{1,20}", word) and low <= int(word) <= high:
            return int(word)
        raise argparse.ArgumentTypeError(f"takes a whole number from {low} to {high}")

    return read


def number(text: str, is_fit: Callable[[float], bool]) -> Callable[[str], float]:
    """A reader of decimal numbers; text says which are fit."""

    def read(word: str) -> float:
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", word) and is_fit(float(word)):
            return float(word)
        raise argparse.ArgumentTypeError(f"takes {text}")

    return read


def words(low: int, high: int) -> Callable[[str], str]:
    """A reader of text of low to high characters."""

    def read(word: str) -> str:
        if low <= len(word) <= high:
            return word
        raise argparse.ArgumentTypeError(f"takes {low} to {high} characters")

    return read


def instant(word: str) -> int:
    """ms of an ISO time or date; dates and times without an offset are those of Việt Nam."""
    try:
        return day_to_ms(date_to_day(word)) if len(word) == 10 else iso_to_ms(word)
    except (ValueError, OverflowError):
        text = "takes a time such as 2021-07-01 or 2021-07-01T08:30"
        raise argparse.ArgumentTypeError(text) from None


def day_word(word: str) -> str:
    """A civil day, as it was given."""
    try:
        date_to_day(word)
    except ValueError:
        raise argparse.ArgumentTypeError("takes a day such as 2021-07-01") from None
    return word


# ---- settings -----------------------------------------------------------------------------------


def add_settings_options(parser: argparse.ArgumentParser, *, data: str = "") -> None:
    """--settings and --set, and --data where the help text for it is given."""
    group = parser.add_argument_group("settings (all of them: chot settings)")
    if data:
        group.add_argument("--data", type=Path, metavar="DIR", help=data)
    group.add_argument("--settings", type=Path, metavar="FILE", help="TOML file of settings")
    group.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="one setting; may be repeated"
    )


def load_origins(
    options: argparse.Namespace,
) -> tuple[Settings, list[settings_module.Origin]]:
    """Raises UseError, SettingInvalid."""
    overrides: dict[str, Any] = {}
    for assignment in options.set or []:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise UseError("--set takes NAME=VALUE, as in --set api_port=8080")
        overrides[name] = value
    if getattr(options, "data", None):
        overrides["data"] = str(options.data)
    return settings_module.load(file=options.settings, overrides=overrides)


def load_settings(options: argparse.Namespace) -> Settings:
    """Raises UseError, SettingInvalid."""
    return load_origins(options)[0]


# ---- files and standard streams -----------------------------------------------------------------


def open_streams() -> None:
    """JSON lines are UTF-8 whatever the locale; a file name that is none must not end the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def print_json(line: object) -> None:
    """One line, at once: a program that asks line by line waits for it. Codes hold anything."""
    text = json.dumps(line, ensure_ascii=False)
    print(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


def flush() -> None:
    """Standard output, which may be closed. Raises BrokenPipeError, OSError."""
    if sys.stdout is not None:
        sys.stdout.flush()


def drop_output() -> None:
    """The reader of our output left; Python must not complain about it at exit."""
    with open(os.devnull, "wb") as null:  # noqa: PTH123
        os.dup2(null.fileno(), sys.stdout.fileno())


def stdin(what: str) -> BinaryIO:
    """Standard input; says on a terminal what is awaited. Raises UseError when it is closed."""
    if sys.stdin is None:
        raise UseError(f"standard input is closed; it takes {what}")
    if sys.stdin.isatty():
        print(f"type {what}; Ctrl-D on an empty line ends", file=sys.stderr)
    return sys.stdin.buffer


def read_lines(stream: BinaryIO, size_max: int) -> Iterator[bytes]:
    """Lines as they come. One longer than size_max bytes comes as size_max + 1 of them."""
    while line := stream.readline(size_max + 1):
        yield line
        while not line.endswith(b"\n") and (line := stream.readline(size_max)):
            pass


def check_out(path: Path) -> Path:
    """A file that can be written, said before what it will hold is made. Raises UseError."""
    if path.is_dir():
        raise UseError(f"--out: {path} is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UseError(f"--out: cannot make the folder {path.parent}: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK):
        raise UseError(f"--out: the folder {path.parent} cannot be written")
    return path
