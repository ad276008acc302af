"""The engine and its API as processes: what becomes of one when the other hangs or cannot start."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop

from engine import app
from engine.errors import EngineUnreachable
from engine.settings import Settings

WAIT_S = 20.0


def stand_in(folder: Path, lines: str) -> str:
    """A program in place of the interpreter that runs the API."""
    path = folder / "api.sh"
    path.write_text(f"#!/bin/sh\necho $$ >> {folder}/pids\n{lines}\n", encoding="ascii")
    path.chmod(0o700)
    return str(path)


def pids(folder: Path) -> list[int]:
    return [int(word) for word in (folder / "pids").read_text(encoding="ascii").split()]


async def keep(folder: Path) -> tuple[asyncio.Task[None], asyncio.Future[str]]:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    keeper = asyncio.create_task(app._keep_api(Settings(data=str(folder)), ready))
    await asyncio.wait({keeper, ready}, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
    return keeper, ready


def test_an_api_that_does_not_end_does_not_hold_up_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = 'trap "" TERM\necho \'{"api": "http://127.0.0.1:1"}\'\nwhile :; do sleep 1; done'
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, lines))
    monkeypatch.setattr(app, "API_STOP_S", 0.2)

    async def work() -> None:
        keeper, ready = await keep(tmp_path)
        assert await ready == "http://127.0.0.1:1"
        async with asyncio.timeout(WAIT_S):
            await app._cancel(keeper)

    uvloop.run(work())
    (pid,) = pids(tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_api_that_cannot_be_started_again_for_a_while_is_tried_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = 'echo \'{"api": "http://127.0.0.1:1"}\'\nread line'
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, lines))
    monkeypatch.setattr(app, "API_RESTART_S", 0.01)
    start, failures = asyncio.create_subprocess_exec, [3]

    async def exec_later(*arguments: Any, **options: Any) -> Any:
        if (tmp_path / "pids").exists() and failures[0]:
            failures[0] -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await start(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", exec_later)

    async def work() -> None:
        keeper, ready = await keep(tmp_path)
        await ready
        os.kill(pids(tmp_path)[0], 9)
        until_s = time.monotonic() + WAIT_S
        while len(pids(tmp_path)) < 2:
            assert time.monotonic() < until_s and not keeper.done()
            await asyncio.sleep(0.02)
        await app._cancel(keeper)

    uvloop.run(work())
    assert not failures[0]
    assert caplog.text.count("api not started") == 3


@pytest.mark.parametrize("lines", ["exit 1", 'printf \'{"api": "http://127\''])
def test_an_api_that_does_not_start_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, lines))

    async def work() -> None:
        keeper, ready = await keep(tmp_path)
        with pytest.raises(EngineUnreachable, match="did not start"):
            await ready
        await keeper

    uvloop.run(work())
