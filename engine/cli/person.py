"""`chot person` and `chot correction`: a person's own requests, and stays to be corrected."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from engine.cli.parser import UseError, add_command, instant, whole, words
from engine.cli.trace import (
    PERSON_HELP,
    add_access,
    add_case,
    options_to_url,
    read_persons,
    read_token,
)

_SURPLUS = "the person is read from standard input, never from the command line"


def add_person(commands: Any) -> None:
    """Both subcommands."""
    parser = add_command(
        commands,
        "person",
        None,
        "a person's own requests: export, erasure",
        "What a person may ask for by law, carried out by the data protection officer (role\n"
        "auditor); the case is the number of the request. Each is recorded.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    export = add_command(
        actions,
        "export",
        run_person,
        "what is held about a person",
        "Scans with everything that was kept of them, stays, corrections, and who asked about\n"
        f"this person. Not whether they are looked for.\n{PERSON_HELP}",
        "example:\n  echo cccd 045190999001 | chot person export --case YC-17/2026 \\\n"
        "    --token-file officer.token --format json > export.json",
    )
    erase = add_command(
        actions,
        "erase",
        run_person,
        "erases a person up to now",
        "Takes everything up to now about a person out of the store: scans, details, what was\n"
        "derived from them, entries of the watch list, holds and corrections that name them. What\n"
        f"they do afterwards is kept as of anybody. Cannot be undone.\n{PERSON_HELP}",
        "example:\n  echo cccd 045190999001 | chot person erase --yes --case YC-17/2026 \\\n"
        "    --token-file officer.token",
    )
    erase.add_argument("--yes", action="store_true", help="it is meant; nothing is done without")
    for action in (export, erase):
        action.set_defaults(surplus=_SURPLUS)
        add_case(action, purposes=("request",))
    add_access(export, csv="a line each scan, stay and question", has_names=False)
    add_access(erase, has_names=False)
    _add_correction(commands)


def _add_correction(commands: Any) -> None:
    parser = add_command(
        commands,
        "correction",
        None,
        "stays whose end or begin somebody corrects",
        "A tracer who knows better gives a stay another end or begin, with a reason. It is shown\n"
        "as corrected, holds whatever scans still come, and can be taken back.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    put = add_command(
        actions,
        "add",
        run_correction,
        "corrects a stay",
        "Corrects the stay of a person at a venue that has the instant --at in it, as `chot trace\n"
        f"person` shows it.\n{PERSON_HELP}",
        "example:\n  echo cccd 045190999001 | chot correction add 1013 --at 2021-07-01T08:10 \\\n"
        "    --to 2021-07-01T10:00 --reason 'told by telephone' --case BN-1234 \\\n"
        "    --token-file tracer.token",
    )
    put.set_defaults(surplus=_SURPLUS)
    put.add_argument(
        "place", metavar="PLACE", type=whole(1, 0xFFFF_FFFF), help="number of the venue"
    )
    put.add_argument(
        "--at", required=True, type=instant, metavar="TIME", help="an instant inside of the stay"
    )
    put.add_argument("--from", dest="start", type=instant, metavar="TIME", help="its begin")
    put.add_argument("--to", dest="end", type=instant, metavar="TIME", help="its end")
    put.add_argument(
        "--reason", required=True, type=words(1, 120), metavar="TEXT", help="how that is known"
    )
    back = add_command(actions, "undo", run_correction, "takes one back", "Takes one back.")
    back.add_argument("number", type=whole(1, 1 << 62), metavar="NUMBER", help="of the correction")
    show = add_command(
        actions, "list", run_correction, "those made and not taken back", "All corrections."
    )
    for action in (put, back, show):
        add_case(action)
        add_access(action, has_names=False)


def run_person(options: argparse.Namespace) -> int:
    """0 when the engine did it."""
    from engine.client import api_client as client
    from engine.client import keeping_client

    if options.action == "erase" and not options.yes:
        raise UseError("that cannot be undone; say --yes if it is meant")
    body: dict[str, Any] = {"purpose": options.purpose, "case": options.case}
    body["person"], *aliases = read_persons()
    if aliases:
        body["aliases"] = aliases
    token = read_token(options)
    answer = client.ask(options_to_url(options), token, f"/v1/person/{options.action}", body)
    render = keeping_client.render_export
    if options.action == "erase":
        render = keeping_client.render_erased
    sys.stdout.write(render(answer, options.format))
    return 0


def run_correction(options: argparse.Namespace) -> int:
    """0 when the engine did it."""
    from engine.client import api_client as client
    from engine.client import keeping_client

    body: dict[str, Any] = {"purpose": options.purpose, "case": options.case}
    if options.action == "undo":
        body["number"] = options.number
    elif options.action == "add":
        if options.start is None and options.end is None:
            raise UseError("give --from, --to, or both")
        body |= {"place": options.place, "at": options.at, "reason": options.reason}
        body |= {} if options.start is None else {"from": options.start}
        body |= {} if options.end is None else {"to": options.end}
        body["person"], *aliases = read_persons()
        if aliases:
            body["aliases"] = aliases
    token = read_token(options)
    answer = client.ask(options_to_url(options), token, f"/v1/corrections/{options.action}", body)
    sys.stdout.write(keeping_client.render_corrections(answer, options.format))
    return 0
