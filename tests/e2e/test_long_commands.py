"""Commands that take long, ended midway by SIGTERM or SIGKILL: what is left is as before or whole,
says what it is, and the same command run again comes to its end.

tests/e2e/test_forgetting.py kills them at named steps; here a stopwatch chooses, and the moments
between the steps are among those it finds.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.clock import DAY_MS
from tests.e2e.rig import ROOT, fresh_person
from tests.e2e.test_forgetting import (
    NOW_MS,
    OFFICER,
    REQUEST,
    Town,
    check_gone,
    chot,
    is_there,
    token_of,
)

SIGNALS = (signal.SIGTERM, signal.SIGKILL)
# Which signal, and when, as a share of what the whole takes; the first half loads modules.
ENDS = [
    pytest.param(by, share, marks=() if (by, share) == (signal.SIGTERM, 0.8) else pytest.mark.full)
    for by in SIGNALS
    for share in (0.6, 0.7, 0.8, 0.9, 0.95)
]


def end_midway(
    *arguments: str, after_s: float, by: signal.Signals, stdin: str = "", token: str = ""
) -> int:
    """Exit status; a command that was quicker has come to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment |= {"CHOT_TOKEN": token} if token else {}
    with subprocess.Popen(
        [sys.executable, "-m", "engine", *arguments], env=environment, stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tempfile.gettempdir(),
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()
        time.sleep(after_s)
        process.send_signal(by)
        said = process.stderr.read().decode()
        assert process.wait(60) in (0, -by), said
        assert "Traceback" not in said
        return process.returncode


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begun_s = time.monotonic()
    return work(), time.monotonic() - begun_s


@pytest.fixture(scope="module")
def old_town(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A stopped store with one who is past their time, and one who is not."""
    town = Town(tmp_path_factory.mktemp("town"))
    anh, binh = fresh_person(), fresh_person()
    with town.engine:
        for days in (20, 19, 18):
            town.pass_post(anh, NOW_MS - days * DAY_MS)
        town.pass_post(binh, NOW_MS)
        assert town.engine.stop() == 0
    return town.data, anh, binh


@pytest.mark.parametrize(("by", "share"), ENDS)
def test_a_backup_ended_midway_is_none(
    old_town: tuple[Path, Any, Any], tmp_path: Path, by: signal.Signals, share: float
) -> None:
    data = ("--data", str(old_town[0]))
    made, whole_s = timed(lambda: chot("backup", str(tmp_path / "whole"), "--json", *data))
    assert made["scan"]["last"] == 4
    to, keys = tmp_path / "backup", tmp_path / "escrow"
    arguments = ("backup", str(to), "--keys", str(keys), *data)
    status = end_midway(*arguments, after_s=share * whole_s, by=by)
    into = tmp_path / "restored"
    restore = ("restore", str(to), "--keys", str(old_town[0] / "keys"), "--json")
    if status and not to.exists():
        assert "storage.backup" in chot(*restore, "--data", str(into))
        if keys.exists():  # copied whole, just before the backup got its name
            assert "is in use" in chot(*arguments)
            shutil.rmtree(keys)
        assert isinstance(chot(*arguments, "--json"), dict)
    assert chot(*restore, "--data", str(into))["erased"] == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    for folder in (to, keys, into):
        shutil.rmtree(folder)


@pytest.mark.parametrize(("by", "share"), ENDS)
def test_a_restore_ended_midway_is_none(
    old_town: tuple[Path, Any, Any], tmp_path: Path, by: signal.Signals, share: float
) -> None:
    source, anh, binh = old_town
    backup, into = tmp_path / "backup", tmp_path / "restored"
    chot("backup", str(backup), "--data", str(source), "--json")
    arguments = ("restore", str(backup), "--keys", str(source / "keys"), "--set=retention_days=10")
    done, whole_s = timed(lambda: chot(*arguments, "--json", "--data", str(tmp_path / "whole")))
    assert len(done["days"]) == 3
    status = end_midway(*arguments, "--data", str(into), after_s=share * whole_s, by=by)
    if status and not into.exists():
        assert isinstance(chot(*arguments, "--json", "--data", str(into)), dict)
    check_gone(into, anh)  # never half of it
    assert is_there(into, binh)
    shutil.rmtree(into)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("by", "share"), ENDS)
def test_forgetting_ended_midway_goes_on(
    old_town: tuple[Path, Any, Any], tmp_path: Path, by: signal.Signals, share: float
) -> None:
    source, anh, binh = old_town
    run = ("retention", "run", "--set", "retention_days=10", "--data")
    shutil.copytree(source, tmp_path / "whole")
    done, whole_s = timed(lambda: chot(*run, str(tmp_path / "whole"), "--json"))
    assert len(done["days"]) == 3
    data = tmp_path / f"{by.name}-{share}"
    shutil.copytree(source, data)
    end_midway(*run, str(data), after_s=share * whole_s, by=by)
    assert is_there(data, binh)  # opens, and tells what is due
    plan = chot("retention", "plan", "--set", "retention_days=10", "--json", "--data", str(data))
    assert {day["state"] for day in plan["days"]} <= {"due", "kept"}
    assert isinstance(chot(*run, str(data), "--json"), dict)
    check_gone(data, anh)
    assert is_there(data, binh)


def test_an_erasure_whose_command_is_ended_goes_on(tmp_path: Path) -> None:
    """The engine does it, whoever asked; asked again it answers as ever."""
    town = Town(tmp_path)
    people = [fresh_person() for _ in range(3)]
    with town.engine:
        officer = token_of(town.engine, OFFICER)
        for person in people:
            town.pass_post(person, NOW_MS)
        erase = ("person", "erase", "--yes", *REQUEST)
        where = ("--url", town.engine.api)
        kept, *others = people
        for by, after_s, person in zip(SIGNALS, (0.4, 0.7), others, strict=True):
            stdin = f"cccd {person.cccd}\n"
            end_midway(*erase, *where, after_s=after_s, by=by, stdin=stdin, token=officer)
            again = town.ask(*erase, stdin=stdin, token=officer)
            assert again["rows"] in (0, 1)
            assert town.history(person)["visits"] == []
        assert len(town.history(kept)["visits"]) == 1
        assert town.engine.stop() == 0
    check_gone(town.data, *others)
    assert is_there(town.data, kept)
