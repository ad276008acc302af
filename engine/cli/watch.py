"""`chot watch` and `chot alerts`: whom lanes stop, and whom they were alarmed about."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from engine.cli.parser import Parser, add_command, instant, whole, words
from engine.cli.trace import (
    PERSON_HELP,
    add_access,
    add_case,
    options_to_url,
    read_persons,
    read_token,
)

LISTS: Final = ("watch", "quarantine")


def add_watch(commands: Any) -> None:
    """Both subcommands."""
    parser = add_command(
        commands,
        "watch",
        None,
        "whom lanes stop: the watch list and quarantine",
        "Persons about whom a lane is alarmed when they show a code. Each entry has a case and\n"
        "ends by itself; who put it there, took it off or read it is recorded.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    put = add_command(
        actions,
        "add",
        run_watch,
        "puts a person on a list until a date",
        f"Puts one person on a list until a date.\n{PERSON_HELP}",
        "example:\n  echo cccd 045190999001 | chot watch add --list quarantine --to 2021-07-15 \\\n"
        "    --case BN-1234 --token-file tracer.token",
    )
    put.set_defaults(surplus="the person is read from standard input, never from the command line")
    put.add_argument(
        "--list",
        dest="list_name",
        choices=LISTS,
        required=True,
        help="watch: looked for; quarantine: must stay at home",
    )
    put.add_argument("--from", dest="start", type=instant, metavar="TIME", help="from when (now)")
    put.add_argument(
        "--to", dest="end", required=True, type=instant, metavar="TIME", help="until when"
    )
    put.add_argument(
        "--reason", default="", type=words(0, 120), metavar="TEXT", help="for the desk; no names"
    )
    off = add_command(actions, "remove", run_watch, "takes an entry off", "Takes an entry off.")
    off.add_argument("number", type=whole(1, 1 << 62), metavar="NUMBER", help="of the entry")
    show = add_command(
        actions,
        "list",
        run_watch,
        "the entries, with who put them there",
        "The entries that you may see.",
    )
    for action in (put, off, show):
        add_case(action)
        add_access(action, has_names=False)
    alerts = add_command(
        commands,
        "alerts",
        run_alerts,
        "whom lanes were alarmed about",
        "Whom lanes were alarmed about between two times, newest first: on the watch list, with\n"
        "fever, or with a code that somebody copied.",
        "example:\n  chot alerts --from 2021-07-01 --to 2021-07-02 --case BN-1234 \\\n"
        "    --token-file tracer.token",
    )
    add_span(alerts)
    add_case(alerts)
    add_access(alerts)


def add_span(parser: Parser) -> None:
    """--from, --to and --limit of a list."""
    for name, where in (("--from", "start"), ("--to", "end")):
        parser.add_argument(
            name,
            dest=where,
            required=True,
            metavar="TIME",
            type=instant,
            help="2021-07-01 or 2021-07-01T08:30, time of Việt Nam",
        )
    parser.add_argument(
        "--limit", type=whole(1, 10_000), default=100, metavar="ROWS", help="rows at most (100)"
    )


def run_watch(options: argparse.Namespace) -> int:
    """0 when the engine did it."""
    from engine.client import api_client as client

    token = read_token(options)
    body: dict[str, Any] = {"purpose": options.purpose, "case": options.case}
    if options.action == "remove":
        body["number"] = options.number
    elif options.action == "add":
        body |= {"list": options.list_name, "reason": options.reason, "to": options.end}
        if options.start is not None:
            body["from"] = options.start
        body["person"], *aliases = read_persons()
        if aliases:
            body["aliases"] = aliases
    answer = client.ask(options_to_url(options), token, f"/v1/watch/{options.action}", body)
    sys.stdout.write(client.render_watch(answer, options.format))
    return 0


def run_alerts(options: argparse.Namespace) -> int:
    """0 with an answer, even an empty one."""
    from engine.client import api_client as client

    body = {
        "purpose": options.purpose,
        "case": options.case,
        "from": options.start,
        "to": options.end,
        "limit": options.limit,
        "unmasked": options.unmasked,
    }
    answer = client.ask(options_to_url(options), read_token(options), "/v1/alerts", body)
    sys.stdout.write(client.render_alerts(answer, options.format))
    return 0
