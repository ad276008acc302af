"""`chot keys`: which long-lived keys a store has, and new ones in their place; for its owner."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
from pathlib import Path
from typing import Any, Final

from engine.cli.parser import (
    add_command,
    add_settings_options,
    instant,
    load_settings,
)

KINDS: Final = ("province", "ingest", "audit")
_DAY_MS: Final = 86_400_000
_OLD_DAYS: Final = 30


def add_keys(commands: Any) -> None:
    """The subcommand and its actions."""
    parser = add_command(
        commands,
        "keys",
        None,
        "long-lived keys of a store, and their rotation",
        "The long-lived keys of a store. Keys of days are made and destroyed by themselves.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, title="actions")
    show = add_command(
        actions,
        "list",
        run_keys,
        "which key took the place of another, and when",
        "Which key took the place of another, and when.",
    )
    turn = add_command(
        actions,
        "rotate",
        run_keys,
        "a new key in the place of the present one",
        "Makes a new key. The engine must not run. What was stored stays readable, and persons\n"
        "stay the same; copy the new files to where the old ones are kept in escrow.",
        "example:\n  chot keys rotate province --data var/chot",
    )
    turn.add_argument(
        "kind",
        choices=KINDS,
        metavar="KEY",
        help="province: pseudonyms; ingest: what gateways seal to; audit: who saw whom",
    )
    turn.add_argument(
        "--old-until",
        type=instant,
        metavar="TIME",
        help=f"to when the old ingest key opens what gateways seal ({_OLD_DAYS} days from now)",
    )
    for action in (show, turn):
        add_settings_options(action, data="data folder of the store (setting: data)")


def run_keys(options: argparse.Namespace) -> int:
    """0 when it is done."""
    data = Path(load_settings(options).data)
    if options.action == "list":
        return _list(data)
    return asyncio.run(_rotate(options, data))


def _list(data: Path) -> int:
    from engine.clock import ms_to_iso
    from engine.identity.keys import FileKeyRing

    ring = FileKeyRing(data / "keys")
    print("key       number  since                          old one opens until")
    for kind in KINDS:
        found = [rotation for rotation in ring.rotations if rotation.kind == kind]
        if not found:
            print(f"{kind:8}  {1:6}  -")
        for one in found:
            until = ms_to_iso(one.old_until_ms) if one.old_until_ms is not None else "-"
            print(f"{kind:8}  {one.number:6}  {ms_to_iso(one.at_ms):29}  {until}")
    return 0


async def _rotate(options: argparse.Namespace, data: Path) -> int:
    from engine.clock import SystemClock
    from engine.identity.keys import FileKeyRing
    from engine.keeping.verify import CONTROL_DIR, JOURNAL_DIR
    from engine.storage.control_lmdb import ControlLog
    from engine.storage.journal_lmdb import LmdbJournal

    clock = SystemClock()
    now_ms = clock.now_ms()
    ring = FileKeyRing(data / "keys")
    # Both logs are held meanwhile, so that no engine writes under either key.
    control = ControlLog(data / CONTROL_DIR, now_ms=now_ms)
    try:
        journal = LmdbJournal(data / JOURNAL_DIR, ring, clock)
        try:
            until_ms = options.old_until
            if options.kind == "ingest" and until_ms is None:
                until_ms = now_ms + _OLD_DAYS * _DAY_MS
            if options.kind == "province" and (data / "index").exists():
                # What is derived there bears the old pseudonyms; the log gives it again.
                shutil.rmtree(data / "index")
            made = ring.rotate(
                options.kind, now_ms, log_lsn=journal.last_lsn(), control_lsn=control.last_lsn(),
                old_until_ms=until_ms if options.kind == "ingest" else None,
            )  # fmt: skip
            body = f"{made.kind} {made.number}".encode()
            control.append_sync("keys.rotate", f"uid {os.getuid()}", body, now_ms)
        finally:
            await journal.close()
    finally:
        control.close()
    print(f"{made.kind} key {made.number} is made; copy it to where the others are kept")
    return 0
