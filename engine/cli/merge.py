"""`chot merge` and `chot review`: keys that are one person, and rows that wait to be looked at."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any, Final

from engine.cli.parser import Parser, UseError, add_command, whole, words
from engine.cli.trace import (
    PERSON_HELP,
    add_access,
    add_case,
    options_to_url,
    read_persons,
    read_token,
)
from engine.cli.watch import add_span

_SURPLUS: Final = "persons are read from standard input, never from the command line"


def add_merge(commands: Any) -> None:
    """Both subcommands."""
    for parser in (*_add_merges(commands), *_add_reviews(commands)):
        add_case(parser)
        add_access(parser, has_names=parser.get_default("run") is run_list)


def _add_merges(commands: Any) -> Iterator[Parser]:
    merge = add_command(
        commands,
        "merge",
        None,
        "documents that are one person's",
        "Says that several documents are one person's, and takes it back. Nothing that was\n"
        "stored is written again; every question treats them as one from then on.",
    )
    actions = merge.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    put = add_command(
        actions,
        "add",
        run_merge,
        "says that documents are one person's",
        f"Says that the documents on standard input are one person's.\n{PERSON_HELP}",
        "example:\n  printf 'cccd 045190999001\\nhandle 6y53yu5nzzsgleemczdursoaj4\\n' | \\\n"
        "    chot merge add --why 'both seen at the desk' --case BN-1234 "
        "--token-file tracer.token",
    )
    put.set_defaults(surplus=_SURPLUS)
    off = add_command(actions, "undo", run_merge, "takes a merge back", "Takes a merge back.")
    off.add_argument("number", type=whole(1, 1 << 62), metavar="NUMBER", help="of the merge")
    for parser in (put, off):
        _add_why(parser)
        yield parser
    yield add_command(
        actions, "list", run_merge, "the merges that hold", "The merges that you may see."
    )


def _add_reviews(commands: Any) -> Iterator[Parser]:
    review = add_command(
        commands,
        "review",
        None,
        "rows that somebody should look at",
        "Whose rows were flagged: an entry without papers, the holder of a health pass, a code\n"
        "with something unclear. Merge them with a card, or close them.",
    )
    steps = review.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    wait = add_command(
        steps,
        "list",
        run_list,
        "whom somebody should look at",
        "Whose flagged rows between two times nobody has looked at yet, newest first.",
        "example:\n  chot review list --from 2021-07-01 --to 2021-07-02 --case BN-1234 \\\n"
        "    --token-file tracer.token",
    )
    add_span(wait)
    yield wait
    for name, summary, text in (
        ("close", "this person stays as they are", "off the list, with rows to come"),
        ("reopen", "puts a person back on the list", "back on the list"),
    ):
        parser = add_command(
            steps,
            name,
            run_review,
            summary,
            f"Takes the person on standard input {text}.\n{PERSON_HELP}",
        )
        parser.set_defaults(surplus=_SURPLUS)
        _add_why(parser)
        yield parser


def _add_why(parser: Parser) -> None:
    parser.add_argument(
        "--why",
        required=True,
        type=words(1, 120),
        metavar="TEXT",
        help="what was seen; no names and numbers",
    )


def run_merge(options: argparse.Namespace) -> int:
    """0 when the engine did it."""
    from engine.client import api_client as client

    token = read_token(options)
    body: dict[str, Any] = {"purpose": options.purpose, "case": options.case}
    if options.action != "list":
        body["why"] = options.why
    if options.action == "undo":
        body["number"] = options.number
    elif options.action == "add":
        body["person"], *body["others"] = read_persons()
        if not body["others"]:
            raise UseError("a merge needs two documents on standard input at least, a line each")
    answer = client.ask(options_to_url(options), token, f"/v1/merge/{options.action}", body)
    sys.stdout.write(client.render_merges(answer, options.format))
    return 0


def run_list(options: argparse.Namespace) -> int:
    """0 with a list, even an empty one."""
    from engine.client import api_client as client

    body = {
        "purpose": options.purpose,
        "case": options.case,
        "from": options.start,
        "to": options.end,
        "limit": options.limit,
        "unmasked": options.unmasked,
    }
    answer = client.ask(options_to_url(options), read_token(options), "/v1/review/list", body)
    sys.stdout.write(client.render_reviews(answer, options.format))
    return 0


def run_review(options: argparse.Namespace) -> int:
    """0 when the engine did it."""
    from engine.client import api_client as client

    token = read_token(options)
    body: dict[str, Any] = {"purpose": options.purpose, "case": options.case, "why": options.why}
    body["person"], *rest = read_persons()
    if rest:
        raise UseError("one person at a time")
    answer = client.ask(options_to_url(options), token, f"/v1/review/{options.action}", body)
    sys.stdout.write(client.render_merges(answer, options.format))
    return 0
