"""The steps at which a test can kill a process: they kill at the count asked for and never else."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine import faults
from tests.crash import test_chaos, test_journal_crash
from tests.e2e import test_forgetting
from tests.unit import test_segmented

ROOT = Path(__file__).resolve().parents[2]
CHILD = "from engine import faults\nfor n in range(9):\n print(n, flush=True)\n faults.reach({!r})"


def run(step: str, **env: str) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(step)], env=env, cwd=ROOT, capture_output=True,
        check=False,
    )  # fmt: skip
    return done.returncode, len(done.stdout.split())


def test_it_kills_at_the_count_and_at_no_other_step() -> None:
    assert run("uplink.sent", CHOT_KILL_AT="uplink.sent:3") == (-signal.SIGKILL, 3)
    assert run("uplink.hello", CHOT_KILL_AT="uplink.sent:3") == (0, 9)
    assert run("uplink.sent") == (0, 9)


@pytest.mark.parametrize("text", ["uplink.sentt", "uplink.sent:0", ":1", "uplink.sent:x"])
def test_a_step_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        faults.killer(text)


def test_every_step_is_somewhere_in_the_code_and_no_other() -> None:
    reached: list[str] = []
    for path in (ROOT / "engine").rglob("*.py"):
        reached += re.findall(r'faults\.reach\("([a-z.]+)"\)', path.read_text(encoding="utf-8"))
    assert sorted(reached) == sorted(faults.GATEWAY_STEPS + faults.ENGINE_STEPS)


def test_every_step_is_one_at_which_some_test_ends_a_process() -> None:
    """Each of these tests fails when the process does not come to the step, or does not end."""
    killed_at = [
        *test_chaos.STEPS,
        *test_segmented.STEPS,
        *test_journal_crash.GENERATION_STEPS,
        *test_forgetting.BACKUP_STEPS,
        *test_forgetting.RESTORE_STEPS,
        *test_forgetting.RETENTION_STEPS,
        *test_forgetting.RECORD_STEPS,
        *test_forgetting.ERASURE_STEPS,
    ]
    assert sorted(killed_at) == sorted(faults.GATEWAY_STEPS + faults.ENGINE_STEPS)
