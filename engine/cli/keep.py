"""`chot retention`, `chot backup`, `chot restore`: what a store keeps, and copies of it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

import msgspec

from engine.cli.parser import (
    UseError,
    add_command,
    add_settings_options,
    day_word,
    instant,
    load_settings,
    print_json,
    whole,
    words,
)
from engine.cli.trace import (
    PERSON_HELP,
    add_access,
    add_case,
    options_to_url,
    read_persons,
    read_token,
)


def add_keep(commands: Any) -> None:
    """All three subcommands."""
    parser = add_command(
        commands,
        "retention",
        None,
        "what is forgotten when, and what is held",
        "Days are forgotten on schedule (setting: retention_days). Holds keep days beyond their\n"
        "time for an open case, until a date.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    plan = add_command(
        actions,
        "plan",
        run_plan,
        "says what would be forgotten when",
        "Each day that has rows: how much it holds, when it goes, which holds keep it. Changes\n"
        "nothing; works beside a running engine and on a stopped store.",
        "example:\n  chot retention plan --data var/chot",
    )
    now = add_command(
        actions,
        "run",
        run_now,
        "forgets now what is due",
        "Forgets what is due, by the running engine or, where none runs, on the store itself.\n"
        "An engine does it by itself every quarter of an hour.",
    )
    for action in (plan, now):
        action.add_argument("--json", action="store_true", help="as one JSON object")
        add_settings_options(action, data="data folder of the engine (setting: data)")
    _add_holds(actions)
    _add_backup(commands)
    _add_restore(commands)


def _add_holds(actions: Any) -> None:
    parser = add_command(
        actions,
        "hold",
        None,
        "keeps days for an open case",
        "Holds keep days beyond their time, for an open case, until a date; the setting\n"
        "hold_days_max bounds it. Who sets, ends or lists one is recorded.",
    )
    holds = parser.add_subparsers(dest="hold", metavar="ACTION", required=True, title="actions")
    put = add_command(
        holds,
        "add",
        run_hold,
        "sets a hold",
        "Keeps the days from --first-day to --last-day, both of them; or with --person the days\n"
        f"on which that person was seen, whole: a case asks who else was there.\n{PERSON_HELP}",
        "example:\n  chot retention hold add --first-day 2021-07-01 --last-day 2021-07-03 \\\n"
        "    --until 2021-09-01 --case BN-1234 --token-file tracer.token",
    )
    put.add_argument("--first-day", type=day_word, metavar="DAY", help="first day that is kept")
    put.add_argument("--last-day", type=day_word, metavar="DAY", help="last day that is kept")
    put.add_argument("--person", action="store_true", help="read a person from standard input")
    put.add_argument(
        "--until", required=True, type=instant, metavar="TIME", help="when the hold ends by itself"
    )
    put.add_argument(
        "--reason", default="", type=words(0, 120), metavar="TEXT", help="for the record; no names"
    )
    end = add_command(holds, "end", run_hold, "ends a hold", "Ends a hold before its time.")
    end.add_argument("number", type=whole(1, 1 << 62), metavar="NUMBER", help="of the hold")
    show = add_command(holds, "list", run_hold, "the holds in force", "The holds in force.")
    for action in (put, end, show):
        add_case(action)
        add_access(action, has_names=False)


def _add_backup(commands: Any) -> None:
    parser = add_command(
        commands,
        "backup",
        run_backup,
        "copies a store, beside a running engine too",
        "Copies the scan log and the control log, each as it is at one instant, with a manifest\n"
        "of hashes. Keys are left out: without them the copy shows nobody anything. With --keys\n"
        "they are copied to a place of their own, which must not be kept beside the backup.",
        "example:\n  chot backup /mnt/backup/2021-07-01 --data var/chot",
    )
    parser.add_argument("to", type=Path, metavar="DIR", help="new folder for the backup")
    parser.add_argument("--keys", type=Path, metavar="DIR", help="new folder for the keys")
    parser.add_argument("--json", action="store_true", help="the manifest, as JSON")
    add_settings_options(parser, data="data folder of the engine (setting: data)")


def _add_restore(commands: Any) -> None:
    parser = add_command(
        commands,
        "restore",
        run_restore,
        "brings a store back from a backup",
        "Checks the hashes of a backup, makes a data folder of it and of the keys, and takes\n"
        "out again who was erased and which days were forgotten since, as the forget list says\n"
        "that lies with the keys. The folder has its name only when all of that is done.",
        "example:\n  chot restore /mnt/backup/2021-07-01 --keys /mnt/escrow/keys --data var/chot",
    )
    parser.add_argument("backup", type=Path, metavar="DIR", help="folder of the backup")
    parser.add_argument(
        "--keys", type=Path, required=True, metavar="DIR", help="folder of the keys"
    )
    parser.add_argument(
        "--forgotten",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a further forget list (forgotten.jsonl of newer keys); may be given again",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    add_settings_options(parser, data="new data folder (setting: data)")


def run_plan(options: argparse.Namespace) -> int:
    """0, whatever is due."""
    from engine.errors import EngineUnreachable
    from engine.keeping import retention_plan
    from engine.keeping.verify import JOURNAL_DIR

    settings = load_settings(options)
    data = Path(settings.data)
    if not (data / JOURNAL_DIR).is_dir():
        raise UseError(f"{data} holds no store (no folder {JOURNAL_DIR})")
    figures = retention_plan.read_figures(data / JOURNAL_DIR)
    try:
        state = asyncio.run(_ask_state(data))
    except EngineUnreachable:
        state = asyncio.run(_stopped_state(data, settings))
    plan = retention_plan.make_plan(
        figures,
        state.holds,
        state.held,
        now_ms=state.now_ms,
        retention_days=state.retention_days,
    )
    if options.json:
        print_json(msgspec.to_builtins(plan))
        return 0
    print(f"{'day':10}  {'state':5}  {'groups':>8}  {'rows':>10}  {'bytes':>14}  goes at, holds")
    for day in plan.days:
        held = f"  hold {' '.join(map(str, day.holds))}" if day.holds else ""
        goes = "now" if day.state == "due" else day.goes[:16].replace("T", " ")
        print(
            f"{day.day}  {day.state:5}  {day.groups:8}  {day.rows:10}  {day.bytes:14}  {goes}{held}"
        )
    for hold in plan.holds:
        what = "a person" if hold.is_of_person else "days"
        spans = " ".join(hold.days) or "none now"
        print(f"hold {hold.number}  {hold.case}  until {hold.until[:16]}  {what}: {spans}")
    due = [day for day in plan.days if day.state == "due"]
    rows, size = sum(day.rows for day in due), sum(day.bytes for day in due)
    kept = f"days are kept for {plan.retention_days} besides today"
    print(f"due: {len(due)} days, {rows} rows, {size} bytes; {kept}")
    return 0


async def _ask_state(data: Path) -> Any:
    from engine.client import admin
    from engine.desk.keeping_questions import AskRetention, RetentionState

    async with admin.connect(data) as owner:
        state = await owner.ask(AskRetention())
        assert isinstance(state, RetentionState)
        return state


async def _stopped_state(data: Path, settings: Any) -> Any:
    from engine.clock import SystemClock
    from engine.desk.hold_desk import holds_to_infos
    from engine.desk.keeping_questions import RetentionState
    from engine.keeping.stopped import opened

    clock = SystemClock()
    async with opened(data, settings, clock) as stopped:
        now_ms = clock.now_ms()
        holds = stopped.keeping.holds.in_force(now_ms)
        infos = await asyncio.to_thread(holds_to_infos, holds, stopped.days_of)
        return RetentionState(
            now_ms=now_ms,
            retention_days=settings.retention_days,
            holds=infos,
            held=await stopped.retention.held(),
        )


def run_now(options: argparse.Namespace) -> int:
    """0 when it is done."""
    from engine.clock import day_to_date
    from engine.errors import EngineUnreachable

    settings = load_settings(options)
    data = Path(settings.data)
    try:
        done = asyncio.run(_ask_run(data))
    except EngineUnreachable:
        done = asyncio.run(_stopped_run(data, settings))
    days, held = list(map(day_to_date, done.days)), list(map(day_to_date, done.held))
    if options.json:
        print_json({"groups": done.groups, "days": days, "held": held})
        return 0
    print(f"forgotten  {' '.join(days) or 'nothing was due'}")
    print(f"groups     {done.groups} emptied")
    if held:
        print(f"held       {' '.join(held)}")
    return 0


async def _ask_run(data: Path) -> Any:
    from engine.client import admin
    from engine.desk.keeping_questions import RetentionDone, RunRetention

    async with admin.connect(data) as owner:
        done = await owner.ask(RunRetention())
        assert isinstance(done, RetentionDone)
        return done


async def _stopped_run(data: Path, settings: Any) -> Any:
    from engine.clock import SystemClock
    from engine.keeping.stopped import opened
    from engine.keeping.verify import JOURNAL_DIR

    if not (data / JOURNAL_DIR).is_dir():
        raise UseError(f"{data} holds no store (no folder {JOURNAL_DIR})")
    async with opened(data, settings, SystemClock()) as stopped:
        await stopped.eraser.catch_up()
        return await stopped.retention.run()


def run_hold(options: argparse.Namespace) -> int:
    """0 when the engine did it."""
    from engine.client import api_client as client
    from engine.client import keeping_client

    body: dict[str, Any] = {"purpose": options.purpose, "case": options.case}
    if options.hold == "end":
        body["number"] = options.number
    elif options.hold == "add":
        body |= {"until": options.until, "reason": options.reason}
        if options.person:
            body["person"], *aliases = read_persons()
            body |= {"aliases": aliases} if aliases else {}
        for name in ("first_day", "last_day"):
            if getattr(options, name) is not None:
                body[name] = getattr(options, name)
    token = read_token(options)
    answer = client.ask(options_to_url(options), token, f"/v1/holds/{options.hold}", body)
    sys.stdout.write(keeping_client.render_holds(answer, options.format))
    return 0


def run_backup(options: argparse.Namespace) -> int:
    """0 when the backup is whole."""
    from engine.clock import SystemClock
    from engine.keeping import backup
    from engine.keeping.verify import JOURNAL_DIR

    data = Path(load_settings(options).data)
    if not (data / JOURNAL_DIR).is_dir():
        raise UseError(f"{data} holds no store (no folder {JOURNAL_DIR})")
    manifest = backup.make_backup(data, options.to, SystemClock(), keys=options.keys)
    if options.json:
        print_json(msgspec.to_builtins(manifest))
        return 0
    size = sum(file.bytes for file in manifest.files)
    print(f"backup       {options.to}, {len(manifest.files)} files, {size} bytes")
    print(f"scan log     head {manifest.scan.last}:{manifest.scan.link[:16]}")
    print(f"control log  head {manifest.control.last}:{manifest.control.link[:16]}")
    where = f"copied to {options.keys}; keep them apart" if options.keys else "left out"
    print(f"keys         {where}")
    return 0


def run_restore(options: argparse.Namespace) -> int:
    """0 when the store may serve."""
    from engine.clock import SystemClock, day_to_date
    from engine.keeping import backup

    settings = load_settings(options)
    for path in options.forgotten:
        if not path.is_file():
            raise UseError(f"--forgotten: there is no file {path}")
    done = asyncio.run(
        backup.restore(
            options.backup,
            Path(settings.data),
            options.keys,
            settings,
            SystemClock(),
            forgotten=options.forgotten,
        )
    )
    days, held = list(map(day_to_date, done.days)), list(map(day_to_date, done.held))
    if options.json:
        print_json({"made": done.manifest.made, "erased": done.erased, "days": days, "held": held})
        return 0
    print(f"restored   {settings.data}, from a backup made {done.manifest.made[:19]}")
    print(f"erased     {done.erased} persons taken out again")
    print(f"forgotten  {' '.join(days) or 'no day'}")
    with contextlib.suppress(IndexError):
        print(f"held       {' '.join([held[0], *held[1:]])}")
    return 0
